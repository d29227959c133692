//! Clusters that cannot come up: the reason is told in Kubernetes' own last words, and soon.

use std::path::Path;

use test_support::Sandbox;

use super::KPROV;

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_api_server_that_rejects_its_configuration_is_quoted() {
    let sandbox = Sandbox::on_engine(KPROV, "api");
    let run = sandbox.up(&["--retain", "--set", "apiServer.extraArgs.bogus-flag=1"]).fails();
    run.says("the API server did not come up. Its last lines:")
        .says("unknown flag: --bogus-flag")
        .says(&format!("its containers are kept; `kprov down {}` removes them", sandbox.cluster))
        .says("the nodes' logs are in");
    let node = sandbox.node("control-plane");
    assert_eq!(sandbox.engine().containers(&sandbox.cluster), [node.as_str()]);
    let logs = kept_logs(&sandbox);
    assert!(logs.iter().any(|path| path.ends_with(&format!("{node}/kubelet.log"))), "{logs:?}");
    assert!(logs.iter().any(|path| path.contains("/containers/kube-apiserver")), "{logs:?}");
    // Half made, and known to be: it can be thrown away.
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_kubeadm_that_fails_is_quoted() {
    let sandbox = Sandbox::on_engine(KPROV, "adm");
    // A user's own template is the way to tell kubeadm what it will not take.
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/kubeadm.yaml.j2");
    let template = std::fs::read_to_string(built_in).unwrap();
    let broken = template.replacen("networking:", "networking:\n  dnsDomain: Not-A-Domain", 1);
    assert_ne!(broken, template);
    sandbox.write("templates/kubeadm.yaml.j2", broken);
    sandbox
        .up(&["--templates", "templates"])
        .fails()
        .says(&format!("{}: `kubeadm", sandbox.node("control-plane")))
        .says("Not-A-Domain")
        .says("the nodes' logs are in");
    assert!(!kept_logs(&sandbox).is_empty());
    sandbox.assert_clean();
}

/// All log files that were kept.
fn kept_logs(sandbox: &Sandbox) -> Vec<String> {
    let (mut found, mut folders) = (Vec::new(), vec![sandbox.data().join("logs")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}
