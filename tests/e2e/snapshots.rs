//! Snapshots, and restores that fail or are killed: nobody ever has less than before.

use std::time::Duration;

use test_support::{Job, Run, Sandbox, in_full};

use super::KPROV;

/// Runs a command on the control plane, with the cluster's own kubectl.
fn shell(sandbox: &Sandbox, script: &str) {
    let script = format!("export KUBECONFIG=/etc/kubernetes/admin.conf; {script}");
    sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-euc", &script]).done();
}

/// Whether there is such a namespace.
fn has_namespace(sandbox: &Sandbox, name: &str) -> bool {
    let keys = sandbox.kprov(&["etcd", "keys", "namespaces/", "--cluster", &sandbox.cluster]).ok();
    keys.stdout.lines().any(|line| line.ends_with(&format!("/{name}")))
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_exercise_that_is_broken_on_purpose_comes_back_as_it_was_saved() {
    let sandbox = Sandbox::on_engine(KPROV, "exercise");
    let cluster = sandbox.cluster.as_str();
    sandbox.up(&["--profile", "hardened"]).done();
    sandbox.kprov(&["snapshot", "save", "whole", "--cluster", cluster]).done();
    shell(
        &sandbox,
        "kubectl -n kube-system run broken --image=nowhere.invalid/none; kubectl create namespace exercise",
    );
    // Not what the profile says.
    sandbox.kprov(&["apiserver", "set", cluster, "--profiling=true"]).done();
    let saved = sandbox.kprov(&["snapshot", "save", "exercise", "--cluster", cluster]).ok();
    // The API server's pod is Ready again by then, and not among them.
    saved.says("not ready as it is saved, and not waited for: pod broken");
    sandbox.kprov(&["snapshot", "restore", "whole"]).done();
    sandbox.kprov(&["verify", cluster]).done();
    assert!(!has_namespace(&sandbox, "exercise"));
    let restored = sandbox.kprov(&["snapshot", "restore", "exercise"]).ok();
    restored.says("not waited for: ").says("pod broken").says("not as its profile says when this was saved");
    assert!(has_namespace(&sandbox, "exercise"));
    sandbox.kprov(&["verify", cluster]).fails().says("pod broken is not Ready").says("--profiling=false is not set");
    sandbox.kprov(&["snapshot", "rm", "whole"]).done();
    // To a colleague, who has none of it.
    sandbox.write("passphrase", "as it were on a stick");
    let phrase = ["--passphrase-file", "passphrase"];
    sandbox.kprov(&[&["snapshot", "export", "exercise", "exercise.kprov"][..], &phrase].concat()).done();
    sandbox.kprov(&["down", cluster]).done();
    let colleague = |arguments: &[&str]| {
        Run::of(sandbox.kprov_command(arguments).env("XDG_DATA_HOME", sandbox.path().join("colleague")))
    };
    colleague(&[&["snapshot", "import", "exercise.kprov"][..], &phrase].concat()).ok().says(cluster).done();
    colleague(&["up", "--from", "exercise"]).ok().says("not waited for: ").done();
    assert_eq!(sandbox.engine().containers(cluster).len(), 2);
    let keys = colleague(&["etcd", "keys", "namespaces/", "--cluster", cluster]).ok();
    assert!(keys.stdout.contains("/exercise"), "{keys}");
    shell(&sandbox, "kubectl delete namespace exercise");
    colleague(&["reset", cluster]).done();
    colleague(&["verify", cluster]).fails().says("pod broken is not Ready");
    colleague(&["down", cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_restore_that_is_killed_or_fails_leaves_the_cluster_there() {
    let sandbox = Sandbox::on_engine(KPROV, "gone");
    let cluster = sandbox.cluster.as_str();
    sandbox.up(&[]).done();
    // A change of encryption that somebody has begun and not ended.
    shell(&sandbox, "mkdir -p /kind/kprov; echo '{}' > /kind/kprov/encryption.json");
    sandbox.kprov(&["snapshot", "save", "before", "--cluster", cluster]).fails().says("under way");
    shell(&sandbox, "rm /kind/kprov/encryption.json");
    sandbox.kprov(&["snapshot", "save", "before", "--cluster", cluster]).done();
    shell(&sandbox, "kubectl create namespace kept");
    let stages = ["Making new nodes beside the old ones", "Changing places", "Booting", "Verifying"];
    let stages = if in_full() { &stages[..] } else { &stages[1..3] };
    for stage in stages {
        let mut job = Job::start(sandbox.kprov_command(&["snapshot", "restore", "before"]).args(["-o", "json"]));
        assert!(job.wait_for(|event| event["name"] == *stage), "{stage}");
        job.ends_within(Duration::from_millis(300));
        eprintln!("killed ({:?}) while {stage}", job.kill().code);
        sandbox.kprov(&["verify", cluster]).done();
        assert!(has_namespace(&sandbox, "kept"), "{stage}");
        assert_eq!(sandbox.engine().containers(cluster), [sandbox.node("control-plane")]);
    }
    // The new nodes come up, and are not what they should be: somebody breaks them.
    let job = Job::start(sandbox.kprov_command(&["snapshot", "restore", "before"]).args(["-o", "json"]));
    assert!(job.wait_for(|event| event["name"] == "Waiting until the API server answers"));
    let _ = sandbox.engine().docker(&["kill", &sandbox.node("control-plane")]);
    job.wait().fails().says("its nodes from before are back in their places");
    sandbox.kprov(&["wait", cluster]).done();
    assert!(has_namespace(&sandbox, "kept"));
    // Asked to stop.
    let job = Job::start(sandbox.kprov_command(&["snapshot", "restore", "before"]).args(["-o", "json"]));
    assert!(job.wait_for(|event| event["name"] == "Waiting until the API server answers"));
    job.interrupt().fails().says("interrupted");
    sandbox.kprov(&["wait", cluster]).done();
    assert!(has_namespace(&sandbox, "kept"));
    sandbox.kprov(&["snapshot", "restore", "before"]).done();
    assert!(!has_namespace(&sandbox, "kept"));
    sandbox.kprov(&["verify", cluster]).done();
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
