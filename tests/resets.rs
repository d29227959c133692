//! Resets of a cluster that each time was damaged at random: every one has to end in a cluster that is proven.
//!
//! Needs an engine and a node image, named by `KPROV_IMAGE`; without it, nothing is tested. `KPROV_RESETS` says how
//! many times (default 3), `KPROV_SEED` which damage.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A cluster of two nodes that is encrypted at rest.
const PROFILE: &str = "secure-two-node";

/// What is done to a node: a name, whether to the control plane, and a shell command.
///
/// `/var` is the engine's disk, which others need as well, so that filling it stops at a size.
const DAMAGE: &[(&str, bool, &str)] = &[
    (
        "namespaces deleted",
        true,
        "kubectl delete namespace local-path-storage kube-public kube-node-lease --wait=false",
    ),
    ("system pods deleted", true, "kubectl -n kube-system delete daemonsets,deployments,services --all --wait=false"),
    ("nodes deleted", true, "kubectl delete nodes --all --wait=false"),
    ("roles deleted", true, "kubectl delete clusterrolebindings,clusterroles --all --wait=false"),
    ("API server's manifest broken", true, "echo 'nonsense: [' > /etc/kubernetes/manifests/kube-apiserver.yaml"),
    ("manifests removed", true, "rm -f /etc/kubernetes/manifests/*"),
    ("a flag misspelt", true, "sed -i 's/--etcd-servers/--etcd-sever/' /etc/kubernetes/manifests/kube-apiserver.yaml"),
    ("etcd's data removed", true, "rm -rf /var/lib/etcd/*"),
    ("etcd's data overwritten", true, "head -c 100000 /dev/urandom > /var/lib/etcd/member/snap/db"),
    ("certificates removed", true, "rm -rf /etc/kubernetes/pki"),
    ("certificate authority replaced", true, "openssl version; head -c 500 /dev/urandom > /etc/kubernetes/pki/ca.key"),
    ("encryption configuration removed", true, "rm -rf /etc/kubernetes/encryption"),
    ("kubelet removed", true, "rm -f /usr/bin/kubelet; systemctl stop kubelet"),
    ("kubelet removed", false, "rm -f /usr/bin/kubelet; systemctl stop kubelet"),
    (
        "kubelet's configuration broken",
        false,
        "echo x > /var/lib/kubelet/config.yaml; systemctl restart kubelet --no-block",
    ),
    ("containerd removed", false, "rm -f /usr/bin/containerd /usr/local/bin/containerd; pkill -9 -x containerd"),
    ("containerd's data removed", true, "systemctl stop containerd --no-block; rm -rf /var/lib/containerd/*"),
    ("CNI removed", false, "rm -rf /etc/cni /opt/cni"),
    ("/var filled", true, "fallocate -l 300M /var/filled || head -c 300000000 /dev/zero > /var/filled"),
    ("/var filled", false, "fallocate -l 300M /var/filled || head -c 300000000 /dev/zero > /var/filled"),
    ("network cut", false, "ip link set eth0 down"),
    ("packets dropped", true, "iptables -I INPUT -p tcp --dport 6443 -j DROP"),
    ("node shut down", false, "kill -s RTMIN+4 1"),
    ("node shut down", true, "kill -s RTMIN+4 1"),
    ("shell removed", true, "rm -f /bin/sh /usr/bin/sh /bin/bash /usr/bin/tar"),
];

/// A generator of numbers that repeats itself for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

/// kprov with files of its own, so that the user's are left alone. Takes the cluster down in the end.
struct Kprov {
    folder: tempfile::TempDir,
    cluster: String,
}

impl Kprov {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kprov"));
        command
            .env("XDG_DATA_HOME", self.folder.path().join("data"))
            .env("XDG_CONFIG_HOME", self.folder.path().join("config"))
            .env("KUBECONFIG", self.kubeconfig())
            .current_dir(self.folder.path());
        command
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    fn must(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "kprov {}: {}\n{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn node(&self, control_plane: bool) -> String {
        format!("{}-{}", self.cluster, if control_plane { "control-plane" } else { "worker" })
    }

    /// Runs a command on a node, whatever comes of it: it may be the last that the node does.
    fn harm(&self, control_plane: bool, script: &str) {
        let node = self.node(control_plane);
        let script = format!("export KUBECONFIG=/etc/kubernetes/admin.conf; {script}");
        let limited = ["exec", node.as_str(), "--", "timeout", "20", "sh", "-c", script.as_str()];
        let _ = self.run(&limited);
    }
}

impl Drop for Kprov {
    fn drop(&mut self) {
        let _ = self.run(&["down", &self.cluster]);
    }
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

#[test]
fn a_damaged_cluster_is_whole_after_a_reset() {
    if std::env::var_os("KPROV_IMAGE").is_none() {
        println!("skipped: KPROV_IMAGE names no node image");
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (rounds, seed) = (number("KPROV_RESETS", 3), number("KPROV_SEED", now));
    println!("{rounds} resets, seed {seed}");
    let mut dice = Dice(seed.max(1));
    let cluster = format!("snap-reset-{}", std::process::id());
    let kprov = Kprov { folder: tempfile::tempdir().unwrap(), cluster };
    kprov.must(&["up", "--profile", PROFILE, "--name", &kprov.cluster]);
    let kubeconfig = read(&kprov.kubeconfig());

    let mut times: Vec<Duration> = Vec::new();
    for round in 1..=rounds {
        kprov.harm(
            true,
            "kubectl create namespace student && kubectl -n student create configmap left --from-literal=a=b",
        );
        let mut names = Vec::new();
        for _ in 0..=dice.below(3) {
            let (name, control_plane, script) = DAMAGE[dice.below(DAMAGE.len())];
            kprov.harm(control_plane, script);
            names.push(format!("{name} ({})", if control_plane { "control plane" } else { "worker" }));
        }
        let start = Instant::now();
        let output = kprov.run(&["reset", &kprov.cluster]);
        times.push(start.elapsed());
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        println!("{round}: {:.1} s after {}", start.elapsed().as_secs_f64(), names.join(", "));
        assert!(output.status.success(), "{talk}");
        assert!(!talk.contains("from its profile"), "not from the golden state: {talk}");
        kprov.must(&["verify", &kprov.cluster]);
        assert_eq!(read(&kprov.kubeconfig()), kubeconfig, "the user's kubeconfig goes on working as it is");
        let left = kprov.must(&["etcd", "keys", "namespaces/", "--cluster", &kprov.cluster]);
        assert!(!left.contains("student") && left.contains("kube-system"), "{left}");
    }
    times.sort();
    println!(
        "{rounds} of {rounds} resets verified; median {:.1} s, longest {:.1} s",
        times[times.len() / 2].as_secs_f64(),
        times[times.len() - 1].as_secs_f64()
    );
}
