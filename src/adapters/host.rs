//! Whether this host can carry a cluster, for `kprov doctor` and before `kprov up`; and what it may keep of this process.
//!
//! Owns what the kernel and the file systems tell without an engine: inotify
//! limits, memory, cgroups, modules, free disk. Only meaningful where the engine
//! runs on this host; whoever calls knows. What the engine itself can do is
//! `engine`'s part.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::progress::counted;

// Observed on a cluster of Kubernetes 1.20 without workload: 11 instances and 200 watches on a node, 514 MiB of
// memory and 570 MB of disk on its control plane. A current Kubernetes takes about twice the memory.
const INSTANCES_PER_NODE: u64 = 16;
const WATCHES_PER_NODE: u64 = 1024;
const MEMORY_PER_NODE: u64 = 512 * MIB;
const DISK_PER_NODE: u64 = 768 * MIB;
/// A node image, unpacked.
const DISK_FOR_IMAGE: u64 = 1024 * MIB;

// Below these, clusters start, but workloads or further clusters soon run out of them. The limits are what kind's
// known issues advise ("too many open files").
const INSTANCES_ADVISED: u64 = 512;
const WATCHES_ADVISED: u64 = 524_288;
/// Newer kernels set the watches by the memory, to good effect; only the old default of 8192 is short.
const WATCHES_SHORT: u64 = 65_536;

const MIB: u64 = 1024 * 1024;

/// Keeps this process's memory, which may hold keys, out of core dumps, and away from debuggers of the same user. Called
/// once, before there are any keys. On Linux this also gives the files of `/proc/PID` to root, so that other processes
/// of the user cannot read the environment, which may hold keys as well; nothing of kprov needs those files.
///
/// A system that refuses is no reason to refuse to work.
pub fn keep_memory_private() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// Who works on which host, for others to read; whatever cannot be told is left out.
#[must_use]
pub fn user_at_host() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let user = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_default();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| variable("HOSTNAME"));
    format!("{user}@{}", host.unwrap_or_default().trim())
}

/// How a check came out, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// It may do.
    Warn,
    /// It will not do.
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostCheck {
    /// What was looked at.
    pub name: String,
    /// How it came out.
    pub status: Verdict,
    /// What was found.
    pub message: String,
    /// What to do about it; only if something is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl HostCheck {
    /// A check without advice.
    #[must_use]
    pub fn new(name: &str, status: Verdict, message: impl Into<String>) -> Self {
        Self { name: name.to_owned(), status, message: message.into(), help: None }
    }

    /// The same check with advice.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

impl std::fmt::Display for HostCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.message)?;
        self.help.as_ref().map_or(Ok(()), |help| write!(f, " ({help})"))
    }
}

/// What the host has to carry.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// How many nodes are to be made.
    pub nodes: u32,
    /// The engine's data folder, if it is known and on this host.
    pub engine_data: Option<&'a Path>,
}

/// The host, seen through the files in which its kernel describes itself.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This host.
    #[must_use]
    pub fn this() -> Self {
        Self::at("/".into())
    }

    /// A host whose `/proc`, `/sys` and `/lib/modules` lie in `root`.
    #[must_use]
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// All checks. What a host does not tell (one without `/proc`, say) is left out.
    #[must_use]
    pub fn checks(&self, load: Load<'_>) -> Vec<HostCheck> {
        let nodes = u64::from(load.nodes.max(1));
        let mut checks = Vec::new();
        checks.extend(self.inotify_instances(nodes));
        checks.extend(self.inotify_watches(nodes));
        checks.extend(self.memory(nodes));
        checks.extend(load.engine_data.and_then(free_disk).map(|(path, free)| disk(&path, free, nodes)));
        checks.extend(self.cgroups());
        checks.extend(self.modules());
        checks
    }

    fn inotify_instances(&self, nodes: u64) -> Option<HostCheck> {
        const KEY: &str = "fs.inotify.max_user_instances";
        let limit = self.number("proc/sys/fs/inotify/max_user_instances")?;
        let status = grade(limit, nodes * INSTANCES_PER_NODE, INSTANCES_ADVISED);
        Some(limit_check("inotify instances", KEY, limit, status, INSTANCES_ADVISED))
    }

    fn inotify_watches(&self, nodes: u64) -> Option<HostCheck> {
        const KEY: &str = "fs.inotify.max_user_watches";
        let limit = self.number("proc/sys/fs/inotify/max_user_watches")?;
        let status = grade(limit, nodes * WATCHES_PER_NODE, WATCHES_SHORT);
        Some(limit_check("inotify watches", KEY, limit, status, WATCHES_ADVISED))
    }

    fn memory(&self, nodes: u64) -> Option<HostCheck> {
        let text = self.text("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        let available = line.trim().trim_end_matches("kB").trim_end().parse::<u64>().ok()? * 1024;
        let status = grade(available, nodes * MEMORY_PER_NODE, 2 * nodes * MEMORY_PER_NODE);
        let check = HostCheck::new("memory", status, format!("{} available", size(available)));
        Some(match status {
            Verdict::Ok => check,
            Verdict::Warn | Verdict::Fail => {
                check.with_help(format!("{} should have {}", counted(nodes, "node"), size(2 * nodes * MEMORY_PER_NODE)))
            }
        })
    }

    fn cgroups(&self) -> Option<HostCheck> {
        const NEEDED: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];
        let (version, there): (u8, Vec<String>) = match self.text("sys/fs/cgroup/cgroup.controllers") {
            Some(controllers) => (2, controllers.split_whitespace().map(str::to_owned).collect()),
            None => {
                let entries = fs::read_dir(self.root.join("sys/fs/cgroup")).ok()?;
                (1, entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
            }
        };
        let missing: Vec<_> = NEEDED.into_iter().filter(|name| !there.iter().any(|found| found == name)).collect();
        if !missing.is_empty() {
            let message = format!("version {version}, without {}", missing.join(", "));
            return Some(HostCheck::new("cgroups", Verdict::Fail, message).with_help(
                "kubelet needs these controllers; the kernel's command line may have turned them off (cgroup_enable=memory)",
            ));
        }
        Some(if version == 2 {
            HostCheck::new("cgroups", Verdict::Ok, "version 2")
        } else {
            HostCheck::new("cgroups", Verdict::Warn, "version 1").with_help(
                "images with systemd 258 or later do not start, and kubelet from 1.35 on needs failCgroupV1: false",
            )
        })
    }

    fn modules(&self) -> Vec<HostCheck> {
        let mut checks = Vec::new();
        for (name, evidence, need) in [
            ("overlay", None, "containers inside the nodes are stacked with it"),
            ("nf_conntrack", Some("proc/sys/net/netfilter/nf_conntrack_max"), "services are forwarded with it"),
        ] {
            let loaded = self.root.join("sys/module").join(name).exists()
                || evidence.is_some_and(|path| self.root.join(path).exists())
                || self.has_filesystem(name);
            let check = |status, message: &str| HostCheck::new(&format!("module {name}"), status, message);
            checks.extend(match (loaded, self.can_load(name)) {
                (true, _) => Some(check(Verdict::Ok, "in the kernel")),
                (false, Some(true)) => Some(check(Verdict::Ok, "loaded when needed")),
                (false, Some(false)) => Some(
                    check(Verdict::Fail, "not in this kernel").with_help(format!("{need}; a kernel with it is needed")),
                ),
                // No module folder: perhaps it is in the kernel and leaves no trace. Starting a node will tell.
                (false, None) => None,
            });
        }
        // kind's CNI does without; some that users install instead do not.
        if self.root.join("proc/sys/net").exists() {
            let loaded = self.root.join("proc/sys/net/bridge/bridge-nf-call-iptables").exists();
            let message = if loaded { "in the kernel" } else { "not loaded; only some CNIs need it" };
            checks.push(HostCheck::new("module br_netfilter", Verdict::Ok, message));
        }
        checks
    }

    fn has_filesystem(&self, name: &str) -> bool {
        self.text("proc/filesystems")
            .is_some_and(|text| text.lines().any(|line| line.split('\t').next_back() == Some(name)))
    }

    /// Whether the kernel has `name` built in or could load it; `None` if it does not tell.
    fn can_load(&self, name: &str) -> Option<bool> {
        let release = self.text("proc/sys/kernel/osrelease")?;
        let folder = self.root.join("lib/modules").join(release.trim());
        let lists = ["modules.builtin", "modules.dep"].map(|list| fs::read_to_string(folder.join(list)).ok());
        if lists.iter().all(Option::is_none) {
            return None;
        }
        let file = format!("/{name}.ko");
        // Lines are `kernel/fs/overlayfs/overlay.ko.zst: ...`.
        let is_it = |line: &str| {
            let path = line.split(':').next().unwrap_or_default();
            path.find(&file).is_some_and(|at| !path[at + file.len()..].contains('/'))
        };
        Some(lists.iter().flatten().any(|list| list.lines().any(is_it)))
    }

    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }
}

/// The file system that `path` is or will be on: the nearest folder that exists, and its free bytes.
fn free_disk(path: &Path) -> Option<(PathBuf, u64)> {
    path.ancestors().find_map(|folder| {
        let stat = rustix::fs::statvfs(folder).ok()?;
        Some((folder.to_owned(), stat.f_bavail.saturating_mul(stat.f_frsize)))
    })
}

fn disk(path: &Path, free: u64, nodes: u64) -> HostCheck {
    let needed = DISK_FOR_IMAGE + nodes * DISK_PER_NODE;
    let status = grade(free, needed, 3 * needed);
    let check = HostCheck::new("disk", status, format!("{} free in {}", size(free), path.display()));
    match status {
        Verdict::Ok => check,
        Verdict::Warn | Verdict::Fail => check.with_help(format!(
            "{} should have {}; `docker system prune` may free some",
            counted(nodes, "node"),
            size(3 * needed)
        )),
    }
}

fn limit_check(name: &str, key: &str, limit: u64, status: Verdict, advised: u64) -> HostCheck {
    let check = HostCheck::new(name, status, format!("{key} is {limit}"));
    match status {
        Verdict::Ok => check,
        Verdict::Warn | Verdict::Fail => check.with_help(format!(
            "run `sudo sysctl {key}={advised}`; to keep it, write `{key}={advised}` to /etc/sysctl.d/99-kind.conf"
        )),
    }
}

/// Fails below `needed`, warns below `advised`.
fn grade(value: u64, needed: u64, advised: u64) -> Verdict {
    if value < needed {
        Verdict::Fail
    } else if value < advised {
        Verdict::Warn
    } else {
        Verdict::Ok
    }
}

/// Bytes in the unit that suits them, to a tenth.
fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1024 * MIB { (MIB, "MiB") } else { (1024 * MIB, "GiB") };
    let tenths = bytes.saturating_mul(10) / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Load<'static> = Load { nodes: 2, engine_data: None };

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::at(root.path().to_owned());
        (root, host)
    }

    fn find<'a>(checks: &'a [HostCheck], name: &str) -> &'a HostCheck {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_can_be_kept_private() {
        keep_memory_private();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        let dumpable = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
    }

    #[test]
    fn a_good_host_is_good() {
        let (_root, host) = host(&[
            ("proc/sys/fs/inotify/max_user_instances", "512\n"),
            ("proc/sys/fs/inotify/max_user_watches", "524288\n"),
            ("proc/meminfo", "MemTotal:       24684084 kB\nMemAvailable:   23458344 kB\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
            ("proc/filesystems", "nodev\tproc\nnodev\toverlay\n\text4\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
        ]);
        let checks = host.checks(NONE);
        assert!(checks.iter().all(|check| check.status == Verdict::Ok && check.help.is_none()), "{checks:#?}");
        assert_eq!(checks.len(), 7);
        assert_eq!(find(&checks, "memory").message, "22.3 GiB available");
    }

    #[test]
    fn a_host_that_tells_nothing_yields_nothing() {
        let (_root, host) = host(&[]);
        assert!(host.checks(NONE).is_empty());
    }

    #[test]
    fn short_inotify_limits_come_with_the_line_that_mends_them() {
        let limits = |instances: &str, watches: &str, nodes| {
            let (_root, host) = host(&[
                ("proc/sys/fs/inotify/max_user_instances", instances),
                ("proc/sys/fs/inotify/max_user_watches", watches),
            ]);
            host.checks(Load { nodes, engine_data: None })
        };
        let checks = limits("128", "8192", 2);
        let instances = find(&checks, "inotify instances");
        assert_eq!(instances.status, Verdict::Warn);
        assert_eq!(instances.message, "fs.inotify.max_user_instances is 128");
        assert!(instances.help.as_ref().unwrap().contains("`sudo sysctl fs.inotify.max_user_instances=512`"));
        assert_eq!(find(&checks, "inotify watches").status, Verdict::Warn);

        let checks = limits("128", "8192", 9);
        assert!(checks.iter().all(|check| check.status == Verdict::Fail), "{checks:#?}");
    }

    #[test]
    fn cgroups_need_their_controllers() {
        let check = |files: &[(&str, &str)]| {
            let (_root, host) = host(files);
            find(&host.checks(NONE), "cgroups").clone()
        };
        let found = check(&[("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids\n")]);
        assert_eq!((found.status, found.message.as_str()), (Verdict::Fail, "version 2, without memory"));
        let found = check(
            &["cpu", "cpuset", "memory", "pids"]
                .map(|name| (Box::leak(format!("sys/fs/cgroup/{name}/tasks").into_boxed_str()) as &str, "")),
        );
        assert_eq!((found.status, found.message.as_str()), (Verdict::Warn, "version 1"));
    }

    #[test]
    fn modules_count_if_the_kernel_could_load_them() {
        let (_root, host) = host(&[
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("lib/modules/6.1.0/modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/x/my_nf_conntrack.ko\n"),
            (
                "lib/modules/6.1.0/modules.dep",
                "kernel/fs/overlayfs/overlay.ko.xz: kernel/a.ko\nkernel/b.ko: kernel/nf_conntrack.ko\n",
            ),
        ]);
        let checks = host.checks(NONE);
        assert_eq!(find(&checks, "module overlay").message, "loaded when needed");
        assert_eq!(find(&checks, "module nf_conntrack").status, Verdict::Fail);
    }

    #[test]
    fn too_little_disk_or_memory_fails() {
        let grade = |free| disk(Path::new("/d"), free, 2).status;
        assert_eq!(
            [grade(2000 * MIB), grade(3000 * MIB), grade(9000 * MIB)],
            [Verdict::Fail, Verdict::Warn, Verdict::Ok]
        );
        assert_eq!(disk(Path::new("/d"), 2000 * MIB, 2).message, "1.9 GiB free in /d");

        let (_root, host) = host(&[("proc/meminfo", "MemAvailable: 900000 kB\n")]);
        let checks = host.checks(NONE);
        let memory = find(&checks, "memory");
        assert_eq!((memory.status, memory.help.as_deref()), (Verdict::Fail, Some("2 nodes should have 2.0 GiB")));
    }

    #[test]
    fn free_disk_is_that_of_the_nearest_folder() {
        let root = tempfile::tempdir().unwrap();
        let (path, free) = free_disk(&root.path().join("not/yet/there")).unwrap();
        assert_eq!(path, root.path());
        assert!(free > 0);
    }
}
