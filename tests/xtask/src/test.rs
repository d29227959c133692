//! All tests, those on a real engine among them.

use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    apt,
    ground::{Ground, cargo},
    node_image, tools,
};

/// Options of `test`.
#[derive(Args)]
pub(crate) struct Options {
    /// Kills, damages and interrupts clusters as often as promised, instead of a few times; takes long.
    #[arg(long)]
    faults: bool,
    /// The node image to test with, instead of the one built from Debian packages.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Arguments of the test programs, such as a part of the names of the tests to run.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the tests; an error unless all of them pass.
pub(crate) fn run(options: &Options) -> Result<()> {
    // An engine behind ssh is this machine's, behind a server of the test's own.
    apt::need(&[("sshd", "openssh-server"), ("ssh", "openssh-client"), ("ssh-keygen", "openssh-client")])?;
    // Clusters whose key is in a token.
    apt::need(&[("softhsm2-util", "softhsm2")])?;
    let ground = Ground::ensure(options.image.as_deref())?;
    let begin = Instant::now();
    let mut command = cargo(["test", "--workspace", "--no-fail-fast", "--", "--include-ignored"]);
    command.args(&options.arguments);
    // Clusters whose key stays in a KMS: no registry is needed for its server.
    command.env("KPROV_OPENBAO", tools::openbao()?);
    // Clusters of several control planes: nor for what stands in front of them.
    command.env("KPROV_LOAD_BALANCER_IMAGE", node_image::load_balancer(&ground.engine)?);
    // Clusters with registries beside them.
    command.env("KPROV_REGISTRY_IMAGE", node_image::registry(&ground.engine)?);
    if options.faults {
        command.env("KPROV_TEST_FAULTS", "1");
    } else {
        // Tests that have no short form say so in their names.
        command.args(["--skip", "in_full"]);
    }
    let status = ground.tell(&mut command).status()?;
    eprintln!("xtask: the tests took {} s, on {}", begin.elapsed().as_secs(), ground.image);
    if !status.success() {
        bail!("not all tests passed");
    }
    Ok(())
}
