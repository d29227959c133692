//! The node image of the test cluster: a real Kubernetes, made of Debian packages alone.
//!
//! The image is named by the hash of all that it is made from, so that it is built once and never out of date. What does
//! not change from one image to the next (the compiled Kubernetes, the system) is kept in the cache folder.
//!
//! What lies in the image, and how it is made inside, is in `tests/node-image`; this module makes the parts and puts them
//! together.

mod check;
mod oci;
mod packaged;
mod parts;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow};
use clap::Args;

use crate::{
    apt,
    cache::{self, Key},
    engine::{self, Engine},
    sh::{self, cmd},
    tools,
};
use packaged::{BALANCER, REGISTRY};

/// Changes whenever this code would make another image from the same files.
const BUILDER_VERSION: &str = "1";
/// The state of the Debian archive to build from: raised to pick up newer packages.
const SNAPSHOT: &str = "2026-11";
/// The version that Debian's source package has.
const KUBERNETES_VERSION: &str = "v1.20.2";

/// Options of `node-image`.
#[derive(Args)]
pub(crate) struct Options {
    /// Print the tag without building anything.
    #[arg(long)]
    tag_only: bool,
    /// Build, and print, the load balancer's image instead of the node image.
    #[arg(long)]
    load_balancer: bool,
    /// Build, and print, the image of registries instead of the node image.
    #[arg(long, conflicts_with = "load_balancer")]
    registry: bool,
    /// Then let the real kind make a cluster of the node image, and check that it works.
    #[arg(long, conflicts_with_all = ["tag_only", "load_balancer", "registry"])]
    check: bool,
    /// Build the image even if the engine has it.
    #[arg(long)]
    force: bool,
}

/// The task: makes sure that the engine has an image; returns its tag.
pub(crate) fn run(options: &Options) -> Result<String> {
    let packaged = match (options.load_balancer, options.registry) {
        (true, _) => Some(BALANCER),
        (_, true) => Some(REGISTRY),
        _ => None,
    };
    if options.tag_only {
        return packaged.map_or_else(|| tag(&sources()), |packaged| packaged.tag(&sources()));
    }
    let engine = engine::ensure()?;
    if let Some(packaged) = packaged {
        return packaged.ensure(&engine, &sources(), options.force);
    }
    let tag = ensure(&engine, options.force)?;
    if options.check {
        check::check(&engine, &sources(), &tag)?;
    }
    Ok(tag)
}

/// Makes sure that the engine has the load balancer's image; returns its tag.
pub(crate) fn load_balancer(engine: &Engine) -> Result<String> {
    BALANCER.ensure(engine, &sources(), false)
}

/// Makes sure that the engine has the image of registries; returns its tag.
pub(crate) fn registry(engine: &Engine) -> Result<String> {
    REGISTRY.ensure(engine, &sources(), false)
}

/// Makes sure that the engine has the node image; returns its tag. With `force`, it is built even if it is there.
pub(crate) fn ensure(engine: &Engine, force: bool) -> Result<String> {
    let sources = sources();
    let tag = tag(&sources)?;
    if !force && engine.has_image(&tag) {
        return Ok(tag);
    }

    let begin = Instant::now();
    // All at once, since each installation takes its seconds.
    apt::need(&[&apt::SOURCE_TOOLS[..], &tools::MMDEBSTRAP_NEEDS, &[("zstd", "zstd")]].concat())?;
    // The compiler has the processors for minutes; the system is mostly downloading.
    let (kubernetes, root, own) = thread::scope(|scope| {
        let root = scope.spawn(|| parts::system(&sources));
        let own = scope.spawn(|| parts::programs(&sources));
        (parts::kubernetes(&sources), root.join(), own.join())
    });
    let panicked = |_| anyhow!("a thread that made a part of the image has panicked");
    let (kubernetes, root, own) = (kubernetes?, root.map_err(panicked)??, own.map_err(panicked)??);
    let images = parts::component_images(&sources, &kubernetes, &own, &root)?;
    let work = tempfile::tempdir_in(cache::root()?)?;
    let overlay = work.path().join("overlay");
    parts::overlay(&sources, &kubernetes, &overlay)?;
    assemble(engine, &root, &overlay, &images, &sources, &tag)?;
    eprintln!("xtask: {tag} is built, in {} s", begin.elapsed().as_secs());
    Ok(tag)
}

/// The tag of the node image, from the hash of all that it is made from.
fn tag(sources: &Path) -> Result<String> {
    let mut key = base_key().with(KUBERNETES_VERSION);
    key.add(&fs::read(sources.join("packages/node"))?);
    for folder in ["build", "images/net", "programs", "rootfs"] {
        key = key.with_tree(&sources.join(folder))?;
    }
    Ok(format!("kprov/node:{KUBERNETES_VERSION}-{}", key.short()))
}

/// The folder with the image's files.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("node-image")
}

/// What every part of the image depends on.
fn base_key() -> Key {
    Key::new(BUILDER_VERSION).with(SNAPSHOT).with(apt::NODE_SUITE).with(apt::architecture())
}

/// Makes an image of the system, lets a container of it take the other parts in, and keeps that as the node image.
fn assemble(engine: &Engine, root: &Path, overlay: &Path, images: &Path, sources: &Path, tag: &str) -> Result<()> {
    let base = sh::pipe(
        cmd("tar", ["--create", "--numeric-owner", "--directory"]).arg(root).arg("."),
        &mut engine.docker(["import", "-"]),
    )?;
    let container = sh::output(&mut engine.docker([
        "create",
        "--privileged",
        "--network=none",
        "--entrypoint=/build/assemble.sh",
        &base,
        "run",
    ]))?;
    let result = (|| {
        let build = overlay.join("build");
        fs::create_dir_all(&build)?;
        fs::copy(sources.join("build/assemble.sh"), build.join("assemble.sh"))?;
        fs::hard_link(images, build.join("images.tar")).context("cannot link the images")?;
        sh::pipe(
            cmd("tar", ["--create", "--owner=0", "--group=0", "--directory"]).arg(overlay).arg("."),
            &mut engine.docker(["cp", "-", &format!("{container}:/")]),
        )?;
        sh::run(&mut engine.docker(["start", "--attach", &container]))?;
        let changes = [
            r#"ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]"#,
            "CMD []",
            "ENV container=docker",
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "STOPSIGNAL SIGRTMIN+3",
        ];
        let mut commit = engine.docker(["commit"]);
        for change in changes {
            commit.args(["--change", change]);
        }
        sh::output(commit.args([container.as_str(), tag])).map(drop)
    })();
    // The container has served its purpose, whether it succeeded or not.
    let _ = sh::output(&mut engine.docker(["rm", "--force", &container]));
    result
}
