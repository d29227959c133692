//! The whole walk on a cluster that the real kind made, and that kprov has no record of.

use test_support::Sandbox;

use super::{KPROV, encryption, stored_alike};

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_cluster_that_kind_made_is_encrypted_and_back() {
    let sandbox = Sandbox::on_engine(KPROV, "kindenc");
    let cluster = sandbox.cluster.as_str();
    sandbox.kind(&["create", "cluster", "--name", cluster, "--image", &Sandbox::image()]).done();
    let node = sandbox.node("control-plane");
    let literal = "--from-literal=password=mypassword";
    sandbox.kprov(&["exec", &node, "--", "kubectl", "create", "secret", "generic", "e2e", literal]).done();
    assert_eq!(stored_alike(&sandbox), "plain text");

    let key = "secrets/default/e2e";
    encryption(&sandbox, &["enable", "--provider", "aescbc", "--show", key])
        .ok()
        .says("BEFORE AFTER")
        .says("plain text k8s:enc:aescbc:v1:key1:");
    encryption(&sandbox, &["enable", "--provider", "aescbc"]).ok().says("as asked for already");
    encryption(&sandbox, &["enable", "--provider", "secretbox"]).fails().says("encryption migrate --to secretbox");
    encryption(&sandbox, &["rotate", "--key", "winter", "--restart"]).done();
    assert_eq!(stored_alike(&sandbox), "k8s:enc:aescbc:v1:winter:");
    encryption(&sandbox, &["rotate", "--key", "winter"]).fails().says("there is a key called \"winter\" already");
    encryption(&sandbox, &["migrate", "--to", "secretbox", "--restart"]).done();
    encryption(&sandbox, &["enable", "--resources", "secrets,configmaps", "--restart"]).done();
    let status = sandbox.kprov(&["encryption", "status", cluster, "-o", "json"]).ok().json();
    let resources: Vec<_> =
        status["encryption"]["resources"].as_array().unwrap().iter().map(|r| &r["resource"]).collect();
    assert_eq!(resources, ["secrets", "configmaps"]);
    sandbox.kprov(&["wait", cluster]).done();
    sandbox.kprov(&["verify", cluster]).ok().says("secrets in etcd").says("configmaps in etcd");

    sandbox.kprov(&["apiserver", "set", cluster, "profiling=false"]).ok().says("is ready");
    sandbox.kprov(&["apiserver", "unset", cluster, "profiling"]).ok().says("is ready");
    encryption(&sandbox, &["disable", "--restart", "--show", key]).ok().says("k8s:enc:secretbox:v1:key");
    assert_eq!(stored_alike(&sandbox), "plain text");
    sandbox
        .kprov(&["exec", &node, "--", "test", "!", "-e", "/etc/kubernetes/encryption/encryption-config.yaml"])
        .done();
    encryption(&sandbox, &["resume"]).fails().says("no change of the encryption is under way");
    encryption(&sandbox, &["rotate"]).fails().says("nothing is encrypted in this cluster");
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
