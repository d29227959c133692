//! The images of what stands beside nodes: one program from Debian each, and a shell.

use std::{fs, os::unix::fs::symlink, path::Path};

use anyhow::Result;

use super::{base_key, parts};
use crate::{
    apt::{self, Apt},
    cache,
    engine::Engine,
    sh::{self, cmd},
};

/// An image of a program that Debian has.
pub(super) struct Packaged {
    /// What the image, its list of packages and the folder of its own files are called.
    name: &'static str,
    /// The programs that are used by whoever works in it from within.
    tools: &'static [&'static str],
    /// Folders that it needs.
    folders: &'static [&'static str],
    /// Other names of its programs.
    links: &'static [(&'static str, &'static str)],
    /// What the image says of itself.
    changes: &'static [&'static str],
}

/// The load balancer, for clusters with several control planes: haproxy, configured as in kind's own image of it.
pub(super) const BALANCER: Packaged = Packaged {
    name: "haproxy",
    // By whoever writes the configuration.
    tools: &["sh", "cat", "chmod", "cp", "kill", "ls", "mkdir", "mv"],
    folders: &["var/lib/haproxy"],
    links: &[],
    changes: &[
        r#"ENTRYPOINT ["/usr/sbin/haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]"#,
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        // haproxy ends at once on SIGTERM in this mode, which is what is wanted of a balancer that is taken down.
        "STOPSIGNAL SIGTERM",
    ],
};

/// A registry of images. The program is called as in the image of that name.
pub(super) const REGISTRY: Packaged = Packaged {
    name: "registry",
    tools: &["sh", "cat", "grep", "ls", "mkdir", "rm", "sleep", "timeout"],
    folders: &["var/lib/registry"],
    links: &[("docker-registry", "usr/bin/registry")],
    changes: &[
        r#"ENTRYPOINT ["/usr/bin/registry"]"#,
        r#"CMD ["serve", "/kprov/registry/config.yml"]"#,
        "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ],
};

impl Packaged {
    /// The tag of the image.
    pub(super) fn tag(&self, sources: &Path) -> Result<String> {
        let Self { name, .. } = self;
        let mut key = base_key().with(name).with(&fs::read_to_string(sources.join(format!("packages/{name}")))?);
        let files = sources.join(format!("images/{name}"));
        if files.exists() {
            key = key.with_tree(&files)?;
        }
        Ok(format!("kprov/{name}:{}", key.short()))
    }

    /// Makes sure that the engine has the image; returns its tag.
    pub(super) fn ensure(&self, engine: &Engine, sources: &Path, force: bool) -> Result<String> {
        let tag = self.tag(sources)?;
        if force || !engine.has_image(&tag) {
            self.build(engine, sources, &tag)?;
        }
        // The name by which kprov finds it where the usual one cannot be pulled.
        sh::run(&mut engine.docker(["tag", &tag, &format!("kprov/{}:latest", self.name)]))?;
        Ok(tag)
    }

    fn build(&self, engine: &Engine, sources: &Path, tag: &str) -> Result<()> {
        let list = fs::read_to_string(sources.join(format!("packages/{}", self.name)))?;
        let root = tempfile::tempdir_in(cache::root()?)?;
        Apt::open(apt::NODE_SUITE)?.unpack(&parts::names(&list), root.path())?;
        for folder in ["usr/share", "usr/lib/systemd", "lib/systemd", "etc", "var"] {
            let folder = root.path().join(folder);
            if folder.exists() {
                fs::remove_dir_all(folder)?;
            }
        }
        for folder in [&["etc", "tmp"], self.folders].concat() {
            fs::create_dir_all(root.path().join(folder))?;
        }
        fs::write(root.path().join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        for tool in self.tools {
            symlink("busybox", root.path().join("bin").join(tool))?;
        }
        for (program, name) in self.links {
            symlink(program, root.path().join(name))?;
        }
        let files = sources.join(format!("images/{}", self.name));
        if files.exists() {
            for file in cache::files(&files)? {
                parts::install(&file, &root.path().join(file.strip_prefix(&files)?))?;
            }
        }
        let mut import = engine.docker(["import"]);
        for change in self.changes {
            import.args(["--change", change]);
        }
        sh::pipe(
            cmd("tar", ["--create", "--owner=0", "--group=0", "--directory"]).arg(root.path()).arg("."),
            import.args(["-", tag]),
        )?;
        Ok(())
    }
}
