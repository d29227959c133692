//! What tests, demo and benchmark stand on: an engine, a node image, the real kind, and cargo.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

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
    pub(crate) fn tell<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("DOCKER_HOST", &self.engine.host)
            .env("PATH", self.engine.search_path())
            .env("KPROV_KIND", &self.kind)
            .env("KPROV_TEST_IMAGE", &self.image)
    }
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
    Build::start("release")?.finish()
}

/// kprov being built. The compiler is stopped if nobody waits for the end.
pub(crate) struct Build {
    profile: &'static str,
    compiler: Child,
}

impl Build {
    /// Begins to build kprov by a profile of cargo.
    pub(crate) fn start(profile: &'static str) -> Result<Self> {
        let compiler = Self::command(profile)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start cargo; is Rust installed as https://rustup.rs says?")?;
        Ok(Self { profile, compiler })
    }

    /// Waits until it is built, and says where it is.
    pub(crate) fn finish(mut self) -> Result<PathBuf> {
        let status = self.compiler.wait()?;
        if !status.success() {
            bail!("kprov cannot be built; the compiler says why above ({status})");
        }
        // By now there is nothing left to do but to answer.
        let messages = sh::output(Self::command(self.profile).args(["--quiet", "--message-format=json"]))?;
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
            .next_back()
            .context("cargo built no program")
    }

    fn command(profile: &str) -> Command {
        cargo(["build", "--package", "kprov", "--bin", "kprov", "--profile", profile])
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.compiler.kill();
        let _ = self.compiler.wait();
    }
}

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
