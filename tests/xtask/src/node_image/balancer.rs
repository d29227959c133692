//! The load balancer's image, for clusters with several control planes: haproxy from Debian, configured as in kind's own
//! image of it.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;

use super::{base_key, parts};
use crate::{
    apt::{self, Apt},
    cache,
    engine::Engine,
    sh::{self, cmd},
};

/// The programs that are used by whoever writes the configuration from within.
const TOOLS: [&str; 8] = ["sh", "cat", "chmod", "cp", "kill", "ls", "mkdir", "mv"];

/// The name of the newest one.
const LATEST: &str = "kprov/haproxy:latest";

/// The tag of the image.
pub(super) fn tag(sources: &Path) -> Result<String> {
    let key = base_key()
        .with("haproxy")
        .with(&fs::read_to_string(sources.join("packages/haproxy"))?)
        .with_tree(&sources.join("images/haproxy"))?;
    Ok(format!("kprov/haproxy:{}", key.short()))
}

/// Makes sure that the engine has the image; returns its tag.
pub(super) fn ensure(engine: &Engine, sources: &Path, force: bool) -> Result<String> {
    let tag = tag(sources)?;
    if force || !engine.has_image(&tag) {
        build(engine, sources, &tag)?;
    }
    // The name by which kprov finds it where kind's cannot be pulled.
    sh::run(&mut engine.docker(["tag", &tag, LATEST]))?;
    Ok(tag)
}

fn build(engine: &Engine, sources: &Path, tag: &str) -> Result<()> {
    let list = fs::read_to_string(sources.join("packages/haproxy"))?;
    let root = tempfile::tempdir_in(cache::root()?)?;
    Apt::open(apt::NODE_SUITE)?.unpack(&parts::names(&list), root.path())?;
    for folder in ["usr/share", "usr/lib/systemd", "lib/systemd", "etc", "var"] {
        let folder = root.path().join(folder);
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
    }
    for folder in ["etc", "tmp", "var/lib/haproxy"] {
        fs::create_dir_all(root.path().join(folder))?;
    }
    fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    for tool in TOOLS {
        symlink("busybox", root.path().join("bin").join(tool))?;
    }
    let files = sources.join("images/haproxy");
    for file in cache::files(&files)? {
        parts::install(&file, &root.path().join(file.strip_prefix(&files)?))?;
    }
    let mut import = engine.docker(["import"]);
    for change in [
        r#"ENTRYPOINT ["/usr/sbin/haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]"#,
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        // haproxy ends at once on SIGTERM in this mode, which is what is wanted of a balancer that is taken down.
        "STOPSIGNAL SIGTERM",
    ] {
        import.args(["--change", change]);
    }
    sh::pipe(
        cmd("tar", ["--create", "--owner=0", "--group=0", "--directory"]).arg(root.path()).arg("."),
        import.args(["-", tag]),
    )?;
    Ok(())
}
