//! A hardened cluster, made and shown step by step.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    cache,
    engine::{self, Engine},
    ground::{Build, workspace},
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
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = cmd(&self.program, arguments);
        command.env("DOCKER_HOST", &self.engine.host).env("PATH", self.engine.search_path());
        command
    }

    /// Whether a command succeeds, which is not shown.
    fn succeeds(&self, arguments: &[&str]) -> bool {
        sh::output(&mut self.command(arguments)).is_ok()
    }

    /// Shows a command and what comes of it.
    fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("\n$ kprov {}", arguments.join(" "));
        let status = self.command(arguments).status()?;
        if !status.success() {
            bail!("`kprov {}` failed, as shown above: {status}", arguments.join(" "));
        }
        Ok(())
    }
}

/// Makes the cluster and shows it.
pub(crate) fn run(options: &Options) -> Result<()> {
    // The compiler works while an engine and an image are fetched or made.
    let build = Build::start("demo")?;
    let engine = engine::ensure()?;
    let name = options.name.as_str();
    let image = match &options.image {
        Some(image) => image.clone(),
        None => image(&engine, name)?,
    };
    let kprov = Kprov { program: build.finish()?, engine };
    if kprov.succeeds(&["status", name]) {
        println!("The cluster {name} is there already; `kprov down {name}` removes it.");
    } else {
        kprov.show(&["up", "--profile", "hardened", "--name", name, "--image", &image])?;
    }
    kprov.show(&["status", name])?;

    println!("\nA Secret, written through the API, and what etcd has of it:");
    let node = format!("{name}-control-plane");
    let secret = ["exec", node.as_str(), "--", "kubectl", "create", "secret", "generic", "my-secret"];
    let value = "--from-literal=password=mypassword";
    if !kprov.succeeds(&["etcd", "get", "secrets/default/my-secret", "--cluster", name]) {
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

/// The image for the cluster `name`: the default one if it can be had, or else the one built from Debian packages.
fn image(engine: &Engine, name: &str) -> Result<String> {
    let default = default_image(&workspace().join("src"))?;
    if engine.has_image(&default) {
        return Ok(default);
    }
    // A cluster that is there already needs no image.
    if sh::output(&mut engine.docker(["container", "inspect", &format!("{name}-control-plane")])).is_ok() {
        return Ok(default);
    }
    eprintln!("xtask: pulling {default}");
    match sh::output(&mut engine.docker(["pull", "--quiet", &default])) {
        Ok(_) => Ok(default),
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("xtask: {}; building one instead", text.lines().last().unwrap_or_default());
            node_image::ensure(engine, false)
        }
    }
}

/// kprov's default image, from its source: asking the program would mean to wait until it is built.
fn default_image(source: &Path) -> Result<String> {
    for file in cache::files(source)?.iter().filter(|file| file.ends_with("defaults.rs")) {
        let text = fs::read_to_string(file)?;
        if let Some(image) = text.split('"').find(|text| text.starts_with("kindest/node:")) {
            return Ok(image.to_owned());
        }
    }
    bail!("no defaults.rs in {} names a default image", source.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_image_is_found_in_the_source() {
        let image = default_image(&workspace().join("src")).unwrap();
        assert!(image.starts_with("kindest/node:v1.") && image.contains("@sha256:"), "{image}");
    }
}
