//! The key leaves the host: clusters under a KMS, its outages, and what somebody has who has stolen all but its server.

use std::time::{Duration, Instant};

use test_support::{Run, Sandbox};

use super::{KPROV, make_secret, stored};

/// The server beside the sandbox's cluster.
fn server(sandbox: &Sandbox) -> String {
    format!("{}-openbao", sandbox.cluster)
}

/// Runs a command on the control plane.
fn on_node(sandbox: &Sandbox, command: &[&str]) -> Run {
    let node = sandbox.node("control-plane");
    sandbox.kprov(&[&["exec", &node, "--"], command].concat())
}

fn kubectl(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    on_node(sandbox, &[&["kubectl", "--request-timeout=10s"], arguments].concat())
}

/// Waits until `holds`, for as long as an API server may take to come up.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(180), "not within 3 minutes: {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Ends the API server; the kubelet starts another one, which has unwrapped nothing yet.
fn restart_api_server(sandbox: &Sandbox) {
    let id = || on_node(sandbox, &["pgrep", "-x", "kube-apiserver"]).stdout;
    let before = id();
    on_node(sandbox, &["pkill", "-KILL", "-x", "kube-apiserver"]).done();
    until("another API server runs", || {
        let now = id();
        !now.is_empty() && now != before
    });
}

fn reads(sandbox: &Sandbox, name: &str) -> bool {
    let read = kubectl(sandbox, &["get", "secret", name, "--output=jsonpath={.data.password}"]);
    // The base64 of `mypassword`.
    read.code == Some(0) && read.stdout.contains("bXlwYXNzd29yZA==")
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_key_in_a_kms_is_not_on_the_host() {
    let sandbox = Sandbox::on_engine(KPROV, "kms");
    let one = ["--set", "nodes=[{role: control-plane}]"];
    sandbox.up(&[&["--profile", "kms-vault"][..], &one].concat()).says("KMS plugin: vault works").done();
    let key = make_secret(&sandbox, "before");
    stored(&sandbox, &key, &[]).says("kms.key").says("vault-v1-").never_says("mypassword");
    let verify = || sandbox.kprov(&["verify", &sandbox.cluster]);
    until("the new Secret is among what is verified", || verify().code == Some(0));
    sandbox.kprov(&["status", &sandbox.cluster]).ok().says("vault, well, wraps by vault-v1-").done();

    // What the plugin logs in by is where it has to be, and nowhere else.
    let secret = on_node(&sandbox, &["cat", "/kind/kprov/kms/secret-id"]).ok().stdout.trim().to_owned();
    assert!(secret.len() > 30, "{secret}");
    on_node(&sandbox, &["stat", "-c", "%a %U", "/kind/kprov/kms/secret-id"]).ok().says("600 root").done();
    let engine = sandbox.engine();
    for container in [sandbox.node("control-plane"), server(&sandbox)] {
        engine.docker(&["inspect", &container]).ok().never_says(&secret).done();
        engine.docker(&["logs", &container]).never_says(&secret).done();
    }
    on_node(&sandbox, &["ps", "axww"]).never_says(&secret);
    on_node(&sandbox, &["journalctl", "-u", "kprov-kms", "--no-pager"]).ok().never_says(&secret).done();
    let record = std::fs::read_to_string(sandbox.data().join("clusters").join(&sandbox.cluster).join("cluster.json"));
    assert!(!record.unwrap().contains(&secret));

    // Stolen: all of the host but the server. The API server itself, with every file that it has, reads nothing.
    engine.docker(&["stop", &server(&sandbox)]).done();
    restart_api_server(&sandbox);
    until("the API server answers", || kubectl(&sandbox, &["get", "--raw=/version"]).code == Some(0));
    assert!(!reads(&sandbox, "before"));
    let refused =
        kubectl(&sandbox, &["create", "secret", "generic", "meanwhile", "--from-literal=password=mypassword"]);
    assert_ne!(refused.code, Some(0), "{refused}");
    assert_eq!(sandbox.kprov(&["etcd", "keys", "secrets/default/meanwhile", "--cluster", &sandbox.cluster]).stdout, "");
    sandbox.kprov(&["status", &sandbox.cluster]).ok().says("ILL").done();
    verify().fails();
    // No file of the node's and none of kprov's holds a Secret's text.
    let files = "grep -rlaF mypassword /etc /kind /var/lib/etcd /var/lib/kubelet /run/kprov-kms || true";
    let found = on_node(&sandbox, &["sh", "-c", files]).ok().stdout;
    assert_eq!(found, "", "in the clear");

    // It comes back by itself, and nothing is lost.
    engine.docker(&["start", &server(&sandbox)]).done();
    until("the Secret can be read again", || reads(&sandbox, "before"));
    until("everything is well", || verify().code == Some(0));

    // Rotated there, rewritten here, and back to the first day, whose values an older version has wrapped.
    sandbox.kprov(&["encryption", "rotate", &sandbox.cluster]).ok().says("rotate in the KMS").says("vault-v2-").done();
    stored(&sandbox, &key, &[]).says("vault-v2-").done();
    assert!(reads(&sandbox, "before"));
    sandbox.kprov(&["reset", &sandbox.cluster]).done();
    assert!(!reads(&sandbox, "before"), "it was not there on the first day");

    // A plugin that is killed comes back, and a stale socket is no hindrance.
    let main = ["systemctl", "show", "-p", "MainPID", "--value", "kprov-kms"];
    let process = on_node(&sandbox, &main).ok().stdout.trim().to_owned();
    on_node(&sandbox, &["kill", "-KILL", &process]).done();
    until("another plugin runs", || {
        let now = on_node(&sandbox, &main).stdout.trim().to_owned();
        now != process && now != "0" && !now.is_empty()
    });
    make_secret(&sandbox, "after");
    assert!(reads(&sandbox, "after"));

    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_cluster_goes_to_a_kms_and_back() {
    let sandbox = Sandbox::on_engine(KPROV, "kmsmove");
    sandbox.up(&[]).done();
    let key = make_secret(&sandbox, "e2e");
    let encryption = |arguments: &[&str]| sandbox.kprov(&[&["encryption"], arguments, &[&sandbox.cluster]].concat());
    encryption(&["enable", "--provider", "kms", "--kms", "kms-local"]).ok().says("from identity to kms local").done();
    stored(&sandbox, &key, &[]).says("local-").never_says("mypassword").done();
    encryption(&["rotate"]).ok().says("rotate in the KMS from local-").done();
    assert!(reads(&sandbox, "e2e"));
    encryption(&["migrate", "--to", "secretbox"]).ok().says("k8s:enc:secretbox:v1:key1:").done();
    encryption(&["migrate", "--to", "kms", "--kms", "kms-local"]).ok().says("k8s:enc:kms:").done();
    assert!(reads(&sandbox, "e2e"));
    encryption(&["disable"]).done();
    stored(&sandbox, &key, &[]).says("mypassword").done();
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}
