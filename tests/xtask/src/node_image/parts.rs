//! The parts that the node image is put together from. Each is kept in the cache under the hash of its own inputs.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{
    KUBERNETES_VERSION, base_key,
    oci::{Archive, Image},
};
use crate::{
    apt::{self, Apt},
    cache,
    sh::{self, cmd},
    tools,
};

/// Where kubeadm looks for the images of this version.
const REGISTRY: &str = "k8s.gcr.io";

/// Go, of the version that this Kubernetes compiles with, and the packages that replace vendored ones.
fn go() -> Result<PathBuf> {
    cache::stage("go", &base_key(), |folder| {
        Apt::open(apt::NODE_SUITE)?.unpack(
            &[
                "golang-1.19-go",
                "golang-1.19-src",
                "golang-github-modern-go-reflect2-dev",
                "golang-github-modern-go-concurrent-dev",
            ],
            folder,
        )
    })
}

/// Kubernetes' programs, compiled from Debian's source package, but for kubectl, which Debian has compiled.
pub(super) fn kubernetes(sources: &Path) -> Result<PathBuf> {
    let script = sources.join("build/kubernetes.sh");
    let key = base_key().with(KUBERNETES_VERSION).with(&fs::read_to_string(&script)?);
    cache::stage("kubernetes", &key, |folder| {
        let go = go()?;
        let work = tempfile::tempdir_in(cache::root()?)?;
        let tree = work.path().join("tree");
        let apt = Apt::open(apt::NODE_SUITE)?;
        apt.unpack_source("kubernetes", &tree)?;
        let client = work.path().join("client");
        apt.unpack(&["kubernetes-client"], &client)?;
        install(&client.join("usr/bin/kubectl"), &folder.join("kubectl"))?;
        sh::run(
            cmd("sh", [&script])
                .arg(&tree)
                .arg(go.join("usr/lib/go-1.19"))
                .arg(go.join("usr/share/gocode/src"))
                .arg(folder)
                .arg(KUBERNETES_VERSION),
        )
    })
}

/// The programs that are written for this image: the network agent and the pause process.
pub(super) fn programs(sources: &Path) -> Result<PathBuf> {
    let programs = sources.join("programs");
    let key = base_key().with_tree(&programs)?;
    cache::stage("programs", &key, |folder| {
        let root = go()?.join("usr/lib/go-1.19");
        let work = tempfile::tempdir_in(cache::root()?)?;
        for program in ["cni", "pause"] {
            sh::run(
                cmd(root.join("bin/go"), ["build", "-trimpath", "-ldflags", "-s -w", "-o"])
                    .arg(folder.join(program))
                    .arg(".")
                    .current_dir(programs.join(program))
                    .env("GOROOT", &root)
                    .env("GOPATH", work.path())
                    .env("GOCACHE", work.path().join("cache"))
                    .env("GO111MODULE", "off")
                    .env("GOFLAGS", "")
                    .env("CGO_ENABLED", "0"),
            )?;
        }
        Ok(())
    })
}

/// The node's system, a folder as root would see it.
pub(super) fn system(sources: &Path) -> Result<PathBuf> {
    let script = sources.join("build/rootfs.sh");
    let list = fs::read_to_string(sources.join("packages/node"))?;
    let key = base_key().with(&fs::read_to_string(&script)?).with(&list);
    cache::stage("system", &key, |folder| {
        if !sh::is_root() {
            bail!("a Debian system can only be made by root");
        }
        sh::run(
            cmd("sh", [&script])
                .arg(tools::mmdebstrap()?)
                .args([apt::NODE_SUITE, &apt::mirror(), apt::KEYRING])
                .arg(names(&list).join(","))
                .arg(folder.join("root")),
        )?;
        // Plugins are unpacked alone: the package would bring more than a node uses.
        let unpacked = tempfile::tempdir_in(cache::root()?)?;
        Apt::open(apt::NODE_SUITE)?.unpack(&["containernetworking-plugins"], unpacked.path())?;
        for plugin in ["host-local", "loopback", "ptp", "portmap", "bridge"] {
            install(&unpacked.path().join("usr/lib/cni").join(plugin), &folder.join("root/opt/cni/bin").join(plugin))?;
        }
        Ok(())
    })
    .map(|folder| folder.join("root"))
}

/// What lies over the system: Kubernetes' programs for the node, and the files from `rootfs`.
pub(super) fn overlay(sources: &Path, kubernetes: &Path, overlay: &Path) -> Result<()> {
    let files = sources.join("rootfs");
    for file in cache::files(&files)? {
        install(&file, &overlay.join(file.strip_prefix(&files)?))?;
    }
    for (program, place) in
        [("kubelet", "usr/bin/kubelet"), ("kubectl", "usr/bin/kubectl"), ("kubeadm", "usr/libexec/kubernetes/kubeadm")]
    {
        install(&kubernetes.join(program), &overlay.join(place))?;
    }
    fs::write(overlay.join("kind/version"), KUBERNETES_VERSION)?;
    Ok(())
}

/// The images of Kubernetes' components, in one archive.
pub(super) fn component_images(sources: &Path, kubernetes: &Path, own: &Path, root: &Path) -> Result<PathBuf> {
    // The parts' folders are named by the hashes of what is in them.
    let mut key = base_key().with_tree(&sources.join("images/net"))?;
    for part in [kubernetes, own, root] {
        key.add(part.to_string_lossy().as_bytes());
    }
    key.add(&fs::read(sources.join("build/layer.sh"))?);
    cache::stage("images", &key, |folder| {
        let work = tempfile::tempdir_in(cache::root()?)?;
        let archive = folder.join("images.tar");
        write_images(sources, kubernetes, own, root, work.path(), &archive)
    })
    .map(|folder| folder.join("images.tar"))
}

fn write_images(sources: &Path, kubernetes: &Path, own: &Path, root: &Path, work: &Path, archive: &Path) -> Result<()> {
    let layer_script = sources.join("build/layer.sh");
    let layer = |name: &str, programs: &[&str]| -> Result<PathBuf> {
        let folder = work.join(name);
        sh::run(cmd("sh", [&layer_script]).arg(root).arg(&folder).args(programs))?;
        Ok(folder)
    };
    let single = |name: &str, program: &Path, place: &str| -> Result<PathBuf> {
        let folder = work.join(name);
        install(program, &folder.join(place))?;
        Ok(folder)
    };

    let mut images = Archive::create(archive)?;
    let certificates = images.layer(&layer("certificates", &[])?)?;
    for component in ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] {
        let place = format!("usr/local/bin/{component}");
        let program = images.layer(&single(component, &kubernetes.join(component), &place)?)?;
        images.image(&Image {
            name: format!("{REGISTRY}/{component}:{KUBERNETES_VERSION}"),
            entrypoint: vec![],
            layers: vec![certificates.clone(), program],
        })?;
    }

    let etcd = images.layer(&layer("etcd", &["/usr/bin/etcd", "/usr/bin/etcdctl", "/bin/dash"])?)?;
    images.image(&Image { name: format!("{REGISTRY}/etcd:3.4.13-0"), entrypoint: vec![], layers: vec![etcd] })?;

    let pause = images.layer(&single("pause", &own.join("pause"), "pause")?)?;
    images.image(&Image {
        name: format!("{REGISTRY}/pause:3.2"),
        entrypoint: vec!["/pause".into()],
        layers: vec![pause],
    })?;

    // kube-proxy and the network agent share their tools.
    // iptables loads its plugins at run time.
    let plugins = plugins(root)?;
    let mut programs = vec![
        "/bin/dash",
        "/bin/ln",
        "/bin/grep",
        "/usr/sbin/ip",
        "/usr/sbin/conntrack",
        "/usr/sbin/xtables-nft-multi",
        "/usr/sbin/xtables-legacy-multi",
    ];
    programs.extend(plugins.iter().map(String::as_str));
    let tools = layer("net", &programs)?;
    extend_tools(sources, root, &tools)?;
    let tools = images.layer(&tools)?;
    for (program, name) in [
        (kubernetes.join("kube-proxy"), format!("{REGISTRY}/kube-proxy:{KUBERNETES_VERSION}")),
        (own.join("cni"), "docker.io/kprov/net:1".to_owned()),
    ] {
        let file = program.file_name().context("a program has a name")?;
        let place = Path::new("usr/local/bin").join(file);
        let folder = work.join(file);
        install(&program, &folder.join(&place))?;
        let layer = images.layer(&folder)?;
        images.image(&Image {
            name,
            entrypoint: vec![format!("/{}", place.display())],
            layers: vec![tools.clone(), layer],
        })?;
    }
    images.finish()
}

/// The plugins of iptables in the node's system, as paths within it.
fn plugins(root: &Path) -> Result<Vec<String>> {
    let mut plugins = Vec::new();
    for file in cache::files(&root.join("usr/lib"))? {
        let inside = Path::new("/").join(file.strip_prefix(root)?);
        if inside.parent().is_some_and(|folder| folder.ends_with("xtables")) {
            plugins.push(inside.to_string_lossy().into_owned());
        }
    }
    Ok(plugins)
}

/// Adds the names under which iptables is called, and what it looks names up in.
fn extend_tools(sources: &Path, root: &Path, tools: &Path) -> Result<()> {
    let files = sources.join("images/net");
    for file in cache::files(&files)? {
        install(&file, &tools.join(file.strip_prefix(&files)?))?;
    }
    std::os::unix::fs::symlink("dash", tools.join("bin/sh"))?;
    for family in ["iptables", "ip6tables"] {
        for tool in ["", "-save", "-restore"] {
            let name = tools.join(format!("usr/sbin/{family}{tool}"));
            std::os::unix::fs::symlink("iptables-wrapper", name)?;
        }
    }
    for file in ["etc/protocols", "etc/services", "etc/ethertypes"] {
        match fs::copy(root.join(file), tools.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(file);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The packages that a list names.
pub(super) fn names(list: &str) -> Vec<&str> {
    list.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace).collect()
}

/// Copies a file to a place whose folder may not exist yet: 0755 if it may be executed, 0644 otherwise.
pub(super) fn install(from: &Path, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    let mode = if cache::is_executable(from)? { 0o755 } else { 0o644 };
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}
