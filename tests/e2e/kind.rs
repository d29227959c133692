//! The real kind: what it makes of our documents, and what we make of its clusters.

use test_support::Sandbox;

use super::{KPROV, make_secret, stored};

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn kind_makes_an_encrypted_cluster_of_a_bundle_and_every_verb_works_on_it() {
    let sandbox = Sandbox::on_engine(KPROV, "kind");
    let (cluster, node) = (sandbox.cluster.as_str(), sandbox.node("control-plane"));
    let image = Sandbox::image();
    let arguments = ["render", "--profile", "secure-two-node", "--set", "nodes=[{role: control-plane}]"];
    let target = ["--name", cluster, "--image", &image, "--out", "bundle"];
    sandbox.kprov(&[&arguments[..], &target].concat()).ok().says("kind create cluster --config");
    sandbox.kind(&["create", "cluster", "--config", "bundle/cluster.yaml"]).done();
    let left_alone = sandbox.engine().containers(cluster);
    assert_eq!(left_alone, [node.as_str()]);

    let key = make_secret(&sandbox, "e2e");
    let shown = stored(&sandbox, &key, &["-o", "json"]).json();
    assert_eq!(shown["prefix"], "k8s:enc:aescbc:v1:key1:");
    stored(&sandbox, &key, &[]).says("|k8s:enc:aescbc:v|").never_says("mypassword");
    let keys = sandbox.kprov(&["etcd", "keys", "secrets/default", "--cluster", cluster]).ok();
    assert!(keys.stdout.lines().any(|line| line == key), "{keys}");

    sandbox.kprov(&["ls"]).ok().says(&format!("{cluster} - (made by kind) 1/1 running"));
    let status = sandbox.kprov(&["status", cluster, "-o", "json"]).ok().json();
    assert_eq!((&status["profile"], &status["nodes"][0]["container"]), (&serde_json::Value::Null, &"running".into()));
    // Unlike kprov, kind does not wait for it.
    sandbox.kprov(&["wait", cluster, "--nodes"]).ok().says("is ready");
    sandbox.kprov(&["wait", cluster]).done();
    sandbox
        .kprov(&["verify", cluster])
        .ok()
        .says("values are stored as k8s:enc:aescbc:v1:key1:")
        .says("its plain text is absent");

    let ours = sandbox.kprov(&["kubeconfig", cluster]).ok().stdout;
    let kinds = sandbox.kind(&["get", "kubeconfig", "--name", cluster]).ok().stdout;
    let server = |text: &str| text.lines().find(|line| line.contains("server:")).map(|line| line.trim().to_owned());
    assert_eq!(server(&ours), server(&kinds));
    sandbox.kprov(&["exec", &node, "--", "test", "-f", "/kind/version"]).done();

    sandbox.up(&[]).fails().says("exists already (1 containers)");
    sandbox.kprov(&["reset", cluster]).fails().says("kprov has no record of how the cluster").says("kprov up");
    assert_eq!(sandbox.engine().containers(cluster), left_alone);
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
