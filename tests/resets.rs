//! Resets of a cluster that each time was damaged at random: every one has to end in a cluster that is proven.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use test_support::{Sandbox, in_full};

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

fn role(control_plane: bool) -> &'static str {
    if control_plane { "control-plane" } else { "worker" }
}

/// Runs a command on a node, whatever comes of it: it may be the last that the node does.
fn harm(sandbox: &Sandbox, control_plane: bool, script: &str) {
    let script = format!("export KUBECONFIG=/etc/kubernetes/admin.conf; {script}");
    let node = sandbox.node(role(control_plane));
    let _ = sandbox.kprov(&["exec", &node, "--", "timeout", "20", "sh", "-c", &script]);
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_damaged_cluster_is_whole_after_a_reset() {
    let sandbox = Sandbox::on_engine(env!("CARGO_BIN_EXE_kprov"), "reset");
    let rounds = if in_full() { 50 } else { 3 };
    // KPROV_SEED repeats the damage of an earlier run.
    let given = std::env::var("KPROV_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).max(1);
    eprintln!("{rounds} resets, seed {seed}");
    let mut dice = Dice(seed);
    let cluster = sandbox.cluster.as_str();
    sandbox.up(&["--profile", PROFILE]).done();
    let kubeconfig = std::fs::read(sandbox.kubeconfig()).unwrap();

    let mut times: Vec<Duration> = Vec::new();
    for round in 1..=rounds {
        let student = "kubectl create namespace student && kubectl -n student create configmap left --from-literal=a=b";
        harm(&sandbox, true, student);
        let mut names = Vec::new();
        for _ in 0..=dice.below(3) {
            let (name, control_plane, script) = DAMAGE[dice.below(DAMAGE.len())];
            harm(&sandbox, control_plane, script);
            names.push(format!("{name} ({})", role(control_plane)));
        }
        let start = Instant::now();
        let reset = sandbox.kprov(&["reset", cluster]);
        times.push(start.elapsed());
        eprintln!("{round}: {:.1} s after {}", start.elapsed().as_secs_f64(), names.join(", "));
        // That would not be the golden state.
        reset.ok().never_says("from its profile");
        sandbox.kprov(&["verify", cluster]).done();
        assert_eq!(std::fs::read(sandbox.kubeconfig()).unwrap(), kubeconfig, "the user's kubeconfig goes on working");
        let left = sandbox.kprov(&["etcd", "keys", "namespaces/", "--cluster", cluster]).ok().never_says("student");
        left.says("kube-system");
    }
    times.sort();
    eprintln!(
        "{rounds} of {rounds} resets verified; median {:.1} s, longest {:.1} s",
        times[times.len() / 2].as_secs_f64(),
        times[times.len() - 1].as_secs_f64()
    );
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
