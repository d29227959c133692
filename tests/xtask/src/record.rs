//! The picture in the README: a real run, recorded.

use anyhow::{Result, bail};
use clap::Args;

use crate::ground::{Ground, cargo, release, workspace};

/// Where the picture lies, below the workspace.
const PICTURE: &str = "tests/record/hardened.svg";

/// The commands that it shows.
const COMMANDS: [&str; 5] = [
    "kprov up --profile hardened",
    "kprov exec hardened-control-plane -- kubectl create secret generic my-secret --from-literal=password=mypassword",
    "kprov etcd get secrets/default/my-secret --cluster hardened",
    "kprov reset hardened",
    "kprov down hardened",
];

/// Options of `record`.
#[derive(Args)]
pub(crate) struct Options {
    /// The node image, instead of the one built from Debian packages.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
}

/// Records it anew.
pub(crate) fn run(options: &Options) -> Result<()> {
    let ground = Ground::ensure(options.image.as_deref())?;
    let program = release()?;
    let folder = tempfile::tempdir()?;
    let mut command = cargo(["run", "--quiet", "--package", "record", "--", "--out"]);
    command
        .arg(workspace().join(PICTURE))
        .arg("--program")
        .arg(program)
        .arg("--home")
        .arg(folder.path())
        .args(COMMANDS);
    command.env("KPROV_IMAGE", &ground.image);
    if !ground.tell(&mut command).status()?.success() {
        bail!("the run was not recorded to its end");
    }
    Ok(())
}
