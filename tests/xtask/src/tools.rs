//! Programs that tests drive: the docker command line and the real kind, from Debian's packages where the machine lacks
//! them. They are unpacked into the cache folder, not installed.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    apt::{self, Apt},
    cache::{self, Key},
    sh,
};

/// The docker command line: the machine's, or Debian's.
pub(crate) fn docker() -> Result<PathBuf> {
    if let Some(docker) = sh::find("docker") {
        return Ok(docker);
    }
    let key = Key::new("docker-cli").with(apt::ENGINE_SUITE).with(apt::architecture());
    let folder =
        cache::stage("docker-cli", &key, |folder| Apt::open(apt::ENGINE_SUITE)?.unpack(&["docker-cli"], folder))?;
    Ok(folder.join("usr/bin/docker"))
}

/// The real kind, to compare with: what `KPROV_KIND` names, or Debian's.
pub(crate) fn kind() -> Result<PathBuf> {
    if let Some(kind) = std::env::var_os("KPROV_KIND") {
        return Ok(kind.into());
    }
    let key = Key::new("kind").with(apt::KIND_SUITE).with(apt::architecture());
    let folder = cache::stage("kind", &key, |folder| Apt::open(apt::KIND_SUITE)?.unpack(&["kind"], folder))?;
    Ok(folder.join("usr/bin/kind"))
}
