//! A hardened cluster, made and shown step by step.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    engine::{self, Engine},
    ground::{path_with, release, workspace},
    node_image,
    sh::{self, cmd},
};

/// Options of `demo`.
#[derive(Args)]
pub(crate) struct Options {
    /// The node image; otherwise the default one is pulled, or else one is built from Debian packages.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The cluster's name.
    #[arg(long, value_name = "CLUSTER", default_value = "demo")]
    name: String,
}

/// kprov, on the engine of the demonstration.
struct Kprov {
    program: PathBuf,
    engine: Engine,
}

impl Kprov {
    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = cmd(&self.program, arguments);
        command.env("DOCKER_HOST", &self.engine.host).env("PATH", path_with(&self.engine.cli)?);
        Ok(command)
    }

    /// Shows a command and what comes of it.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ kprov {}", arguments.join(" "));
        let status = self.command(arguments)?.status()?;
        if !status.success() {
            bail!("`kprov {}` failed: {status}", arguments.join(" "));
        }
        Ok(())
    }
}

/// Makes the cluster and shows it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let engine = engine::ensure()?;
    let kprov = Kprov { program: release()?, engine };
    let name = options.name.as_str();
    if sh::output(&mut kprov.command(&["status", name])?).is_ok() {
        println!("The cluster {name} is there already; `kprov down {name}` removes it.");
    } else {
        let image = match &options.image {
            Some(image) => image.clone(),
            None => image(&kprov)?,
        };
        kprov.show(&["up", "--profile", "hardened", "--name", name, "--image", &image])?;
    }
    kprov.show(&["status", name])?;

    println!("\nA Secret, written through the API, and what etcd has of it:");
    let node = format!("{name}-control-plane");
    let secret = ["exec", node.as_str(), "--", "kubectl", "create", "secret", "generic", "my-secret"];
    let value = "--from-literal=password=mypassword";
    if sh::output(&mut kprov.command(&["etcd", "get", "secrets/default/my-secret", "--cluster", name])?).is_err() {
        kprov.show(&[&secret[..], &[value]].concat())?;
    }
    kprov.show(&["etcd", "get", "secrets/default/my-secret", "--cluster", name])?;

    println!("\nAll the evidence:");
    kprov.show(&["verify", name])?;

    println!("\nTo go on:");
    let found = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    if found != kprov.engine.host || sh::find("docker").is_none() {
        println!("  eval \"$(cargo xtask env)\"      # the engine, docker and the real kind");
    }
    let shown = kprov.program.strip_prefix(workspace().canonicalize()?).unwrap_or(&kprov.program).display();
    println!("  {shown} --help");
    println!("  {shown} reset {name}");
    println!("  {shown} down {name}");
    Ok(())
}

/// The default image if it can be had, or else the one built from Debian packages.
fn image(kprov: &Kprov) -> Result<String> {
    let rendered = sh::output(&mut kprov.command(&["render", "--profile", "default"])?)?;
    let default = rendered
        .lines()
        .find_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("image: "))
        .map(|image| image.trim_matches('"').to_owned())
        .context("the default profile names no image")?;
    if kprov.engine.has_image(&default) {
        return Ok(default);
    }
    eprintln!("xtask: pulling {default}");
    match sh::output(&mut kprov.engine.docker(["pull", "--quiet", &default])) {
        Ok(_) => Ok(default),
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("xtask: {}; building one instead", text.lines().last().unwrap_or_default());
            node_image::ensure(&kprov.engine, false)
        }
    }
}
