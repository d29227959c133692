//! What tests, demo and benchmark stand on: an engine, a node image, the real kind, and cargo.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    engine::{self, Engine},
    node_image,
    sh::{self, cmd},
    tools,
};

/// An engine, a node image on it, and the real kind.
pub(crate) struct Ground {
    pub(crate) engine: Engine,
    pub(crate) image: String,
    kind: PathBuf,
}

impl Ground {
    /// Makes sure of all three. Without an `image`, the one of Debian packages is built, once.
    pub(crate) fn ensure(image: Option<&str>) -> Result<Self> {
        let engine = engine::ensure()?;
        let image = match image {
            Some(image) => image.to_owned(),
            None => node_image::ensure(&engine, false)?,
        };
        Ok(Self { engine, image, kind: tools::kind()? })
    }

    /// The same command, told where everything is.
    pub(crate) fn tell<'a>(&self, command: &'a mut Command) -> Result<&'a mut Command> {
        Ok(command
            .env("DOCKER_HOST", &self.engine.host)
            .env("PATH", path_with(&self.engine.cli)?)
            .env("KPROV_KIND", &self.kind)
            .env("KPROV_TEST_IMAGE", &self.image))
    }
}

/// A search path in which `program` is found; the real kind, for one, calls docker by its name.
pub(crate) fn path_with(program: &Path) -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = program.parent().map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("a folder in PATH has a colon in its name")
}

/// The cargo that runs this task.
pub(crate) fn cargo<A: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = cmd(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), arguments);
    command.current_dir(workspace());
    // What cargo told this task of itself: to build scripts that look at it, everything would have changed.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds kprov as users get it, and says where it is.
pub(crate) fn release() -> Result<PathBuf> {
    let build = ["build", "--release", "--package", "kprov", "--message-format=json-render-diagnostics"];
    let messages = sh::output(cargo(build).stderr(std::process::Stdio::inherit()))?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .context("cargo built no program")
}

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
