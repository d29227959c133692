//! Resets of a cluster that each time was damaged at random: every one has to end in a cluster that is proven.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use test_support::{Job, Sandbox, in_full};

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

/// The control planes of the profile `ha`.
const CONTROL_PLANES: [&str; 3] = ["control-plane", "control-plane2", "control-plane3"];

/// How many resets, by how many there are in the short form.
fn rounds(few: usize, many: usize) -> usize {
    let given = std::env::var("KPROV_ROUNDS").ok().and_then(|text| text.parse().ok());
    given.unwrap_or(if in_full() { many } else { few })
}

/// Dice by the clock; KPROV_SEED repeats the damage of an earlier run.
fn dice(rounds: usize) -> Dice {
    let given = std::env::var("KPROV_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).max(1);
    eprintln!("{rounds} resets, seed {seed}");
    Dice(seed)
}

/// Damages one to three things at random, on one of these control planes or on the worker; says which.
fn damage(sandbox: &Sandbox, dice: &mut Dice, control_planes: &[&str]) -> String {
    let mut names = Vec::new();
    for _ in 0..=dice.below(3) {
        let (name, on_control_plane, script) = DAMAGE[dice.below(DAMAGE.len())];
        let role = if on_control_plane { control_planes[dice.below(control_planes.len())] } else { "worker" };
        harm(sandbox, role, script);
        names.push(format!("{name} ({role})"));
    }
    names.join(", ")
}

/// How long a reset took, that has to be one to the golden state.
fn timed_reset(sandbox: &Sandbox) -> Duration {
    let start = Instant::now();
    let reset = sandbox.kprov(&["reset", &sandbox.cluster]);
    let took = start.elapsed();
    reset.ok().never_says("from its profile");
    took
}

/// Tells how long all took, and by how much the slowest differs from the one in the middle.
fn tell(mut times: Vec<Duration>) {
    times.sort();
    let (median, longest) = (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64());
    let count = times.len();
    eprintln!("{count} resets verified; median {median:.1} s, longest {longest:.1} s, {:.2} of it", longest / median);
}

/// Runs a command on a node, whatever comes of it: it may be the last that the node does.
fn harm(sandbox: &Sandbox, role: &str, script: &str) {
    let script = format!("export KUBECONFIG=/etc/kubernetes/admin.conf; {script}");
    let node = sandbox.node(role);
    let _ = sandbox.kprov(&["exec", &node, "--", "timeout", "20", "sh", "-c", &script]);
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_damaged_cluster_is_whole_after_a_reset() {
    let sandbox = Sandbox::on_engine(env!("CARGO_BIN_EXE_kprov"), "reset");
    let rounds = rounds(3, 50);
    let mut dice = dice(rounds);
    let cluster = sandbox.cluster.as_str();
    sandbox.up(&["--profile", PROFILE]).done();
    let kubeconfig = std::fs::read(sandbox.kubeconfig()).unwrap();

    let mut times: Vec<Duration> = Vec::new();
    for round in 1..=rounds {
        let student = "kubectl create namespace student && kubectl -n student create configmap left --from-literal=a=b";
        harm(&sandbox, "control-plane", student);
        let damage = damage(&sandbox, &mut dice, &["control-plane"]);
        let took = timed_reset(&sandbox);
        times.push(took);
        eprintln!("{round}: {:.1} s after {damage}", took.as_secs_f64());
        sandbox.kprov(&["verify", cluster]).done();
        assert_eq!(std::fs::read(sandbox.kubeconfig()).unwrap(), kubeconfig, "the user's kubeconfig goes on working");
        let left = sandbox.kprov(&["etcd", "keys", "namespaces/", "--cluster", cluster]).ok().never_says("student");
        left.says("kube-system");
    }
    tell(times);
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_three_control_planes_are_whole_after_a_reset() {
    let sandbox = Sandbox::on_engine(env!("CARGO_BIN_EXE_kprov"), "hareset");
    let rounds = rounds(3, 10);
    let mut dice = dice(rounds);
    let cluster = sandbox.cluster.as_str();
    sandbox.up(&["--profile", "ha"]).done();
    let whole = || {
        sandbox.kprov(&["verify", cluster]).done();
        let left = sandbox.kprov(&["etcd", "keys", "namespaces/", "--cluster", cluster]).ok().never_says("student");
        left.says("kube-system");
        sandbox.assert_secrets_are_read(&CONTROL_PLANES);
    };
    let mut times = Vec::new();
    for round in 1..=rounds {
        harm(&sandbox, CONTROL_PLANES[dice.below(3)], "kubectl create namespace student");
        let damage = damage(&sandbox, &mut dice, &CONTROL_PLANES);
        let took = timed_reset(&sandbox);
        times.push(took);
        eprintln!("{round}: {:.1} s after {damage}", took.as_secs_f64());
        whole();
    }
    tell(times);

    // A reset that is killed in whichever step: the next one does it.
    for stage in [
        "Making new nodes beside the old ones",
        "Changing places",
        "Booting",
        "Waiting until the API server answers",
        "Waiting for the other API servers",
        "Waiting until every node and system pod is Ready",
        "Verifying",
    ] {
        harm(&sandbox, "control-plane2", "kubectl create namespace student; rm -rf /var/lib/etcd/*");
        let mut job = Job::start(&mut sandbox.kprov_command(&["reset", cluster, "-o", "json"]));
        assert!(job.wait_for(|event| event["name"] == *stage), "{stage}");
        job.ends_within(Duration::from_millis(200));
        eprintln!("killed ({:?}) while {stage}", job.kill().code);
        timed_reset(&sandbox);
        whole();
    }

    // A snapshot of them is one of all members, too.
    sandbox.own_kubectl("control-plane", &["create", "namespace", "kept"]).done();
    sandbox.kprov(&["snapshot", "save", "kept", "--cluster", cluster]).done();
    sandbox.kprov(&["snapshot", "export", "kept", "kept.kprov", "--plain"]).fails().says("several control planes");
    sandbox.own_kubectl("control-plane3", &["delete", "namespace", "kept"]).done();
    sandbox.kprov(&["snapshot", "restore", "kept"]).done();
    sandbox.kprov(&["verify", cluster]).done();
    for role in CONTROL_PLANES {
        sandbox.own_kubectl(role, &["get", "namespace", "kept"]).done();
    }
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
