//! Programs that tasks drive: the docker command line, the real kind and mmdebstrap, from Debian's packages where the
//! machine lacks them. They are unpacked into the cache folder, not installed, and called by their paths.

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

/// What mmdebstrap needs of the machine: it is written in Perl, with modules that an essential Perl lacks; pod2usage comes
/// with them.
pub(crate) const MMDEBSTRAP_NEEDS: [(&str, &str); 1] = [("pod2usage", "perl")];

/// mmdebstrap, which makes Debian systems. It lies alone: options that let it call its helpers by name do not work.
pub(crate) fn mmdebstrap() -> Result<PathBuf> {
    apt::need(&MMDEBSTRAP_NEEDS)?;
    let key = Key::new("mmdebstrap").with(apt::NODE_SUITE);
    let folder =
        cache::stage("mmdebstrap", &key, |folder| Apt::open(apt::NODE_SUITE)?.unpack(&["mmdebstrap"], folder))?;
    Ok(folder.join("usr/bin/mmdebstrap"))
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
