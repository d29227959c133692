//! Clusters that are stopped, by kprov or by others, and go on as they were.

use std::time::{Duration, Instant};

use test_support::Sandbox;

use super::{KPROV, make_secret, stored};

const TWO_NODES: &str = r#"nodes=[{"role": "control-plane"}, {"role": "worker"}]"#;

/// The nodes' addresses, as the engine has them.
fn addresses(sandbox: &Sandbox) -> String {
    let nodes = ["control-plane", "worker"].map(|role| sandbox.node(role));
    let format = "{{.NetworkSettings.Networks.kind.IPAddress}}";
    sandbox.engine().docker(&["inspect", "--format", format, &nodes[0], &nodes[1]]).ok().stdout.clone()
}

/// Whether kprov gives the nodes their addresses: not on a network that the real kind has left.
fn takes_addresses(sandbox: &Sandbox) -> bool {
    let owner = r#"{{index .Labels "dev.kprov.owner"}}"#;
    sandbox.engine().docker(&["network", "inspect", "--format", owner, "kind"]).ok().stdout.trim() == "kprov"
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_stopped_cluster_goes_on_as_it_was() {
    let sandbox = Sandbox::on_engine(KPROV, "power");
    let cluster = sandbox.cluster.as_str();
    let (control_plane, worker) = (sandbox.node("control-plane"), sandbox.node("worker"));
    sandbox.up(&["--profile", "hardened", "--set", TWO_NODES]).done();
    let key = make_secret(&sandbox, "kept");
    let before = addresses(&sandbox);
    let script = "kubectl -n kube-system run broken --image=nowhere.invalid/none && sleep 3";
    sandbox.kprov(&["exec", &control_plane, "--", "sh", "-euc", script]).done();

    sandbox.kprov(&["stop", cluster]).ok().says("2 containers");
    sandbox.kprov(&["stop", cluster]).ok().says("did not run");
    sandbox.kprov(&["verify", cluster]).fails().says("does not run").says(&format!("kprov start {cluster}"));
    // As it goes on a year later: every certificate is another one, and all goes on with them.
    let certificates = || {
        let nodes = [
            (&control_plane, "etc/kubernetes/pki/apiserver.crt"),
            (&control_plane, "etc/kubernetes/pki/etcd/peer.crt"),
        ];
        let kubelets = [&control_plane, &worker].map(|node| (node, "var/lib/kubelet/pki/kubelet-client-current.pem"));
        let read = |(node, file): (&String, &str)| {
            let to = sandbox.path().join("certificate");
            sandbox
                .engine()
                .docker(&["cp", "--follow-link", &format!("{node}:/{file}"), &to.display().to_string()])
                .done();
            std::fs::read_to_string(to).unwrap()
        };
        nodes.into_iter().chain(kubelets).map(read).collect::<Vec<_>>()
    };
    let old = certificates();
    let renewed = sandbox.kprov(&["start", cluster, "--renew"]).ok();
    renewed.says("pod broken is not ready, as before").says("Its certificates are new");
    assert!(certificates().iter().zip(&old).all(|(new, old)| new != old));
    sandbox.kprov(&["start", cluster, "--renew"]).fails().says("kprov stop");
    if takes_addresses(&sandbox) {
        assert_eq!(addresses(&sandbox), before);
    }
    stored(&sandbox, &key, &[]).says("k8s:enc:secretbox:v1:");
    let secret = ["exec", &control_plane, "--", "kubectl", "get", "secret", "kept", "--output=jsonpath={.data}"];
    sandbox.kprov(&secret).ok().says("bXlwYXNzd29yZA==");
    sandbox.kprov(&["verify", cluster]).fails().says("pod broken is not Ready");
    sandbox.kprov(&["exec", &control_plane, "--", "kubectl", "-n", "kube-system", "delete", "pod", "broken"]).done();
    sandbox.kprov(&["verify", cluster]).done();
    // One that runs is only looked at.
    sandbox.kprov(&["start", cluster]).done();

    // By hands that know nothing of kprov; the other node has run all along.
    sandbox.engine().docker(&["kill", &worker]).done();
    sandbox.kprov(&["start", cluster]).done();
    sandbox.engine().docker(&["restart", "--time", "1", &control_plane]).done();
    sandbox.kprov(&["start", cluster]).done();
    // A node that ends by itself is started by the engine.
    let started =
        || sandbox.engine().docker(&["inspect", "--format", "{{.State.StartedAt}}", &worker]).ok().stdout.clone();
    let (before_it, deadline) = (started(), Instant::now() + Duration::from_secs(180));
    sandbox.kprov(&["exec", &worker, "--", "systemctl", "--no-block", "poweroff"]).done();
    while started() == before_it {
        assert!(Instant::now() < deadline, "{worker} is not started by the engine");
        std::thread::sleep(Duration::from_millis(200));
    }
    sandbox.kprov(&["start", cluster]).done();
    sandbox.kprov(&["verify", cluster]).done();
    if takes_addresses(&sandbox) {
        assert_eq!(addresses(&sandbox), before);
    }

    sandbox.engine().docker(&["rm", "--force", "--volumes", &worker]).done();
    sandbox.kprov(&["start", cluster]).fails().says("is not whole").says(&format!("kprov reset {cluster}"));
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
