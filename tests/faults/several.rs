//! Three control planes behind a load balancer: changes that clients hardly notice, and a node that stops in the middle.

use std::time::{Duration, Instant};

use test_support::{Job, Sandbox};

use super::load::Load;
use super::{KPROV, encryption, stored_alike};

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_three_control_planes_change_while_clients_work() {
    let sandbox = Sandbox::on_engine(KPROV, "ha");
    sandbox.up(&["--profile", "ha"]).done();
    let load = Load::start(&sandbox.kubeconfig());

    // The value of what was encrypted at last is in no file of any member that has forgotten how it was stored before.
    let holders = |text: &str| {
        let script = format!("cd /var/lib/etcd; [ -d member/wal ]; grep -rlaF -e '{text}' member || [ $? -eq 1 ]");
        ["control-plane", "control-plane2", "control-plane3"]
            .map(|role| sandbox.kprov(&["exec", &sandbox.node(role), "--", "sh", "-euc", &script]).ok().stdout)
    };
    for verb in [&["rotate"][..], &["migrate", "--to", "aescbc"], &["disable"], &["enable", "--provider", "secretbox"]]
    {
        load.forget_outage();
        let before = load.seen();
        encryption(&sandbox, verb).done();
        let seen = load.seen();
        load.assert_unharmed();
        stored_alike(&sandbox);
        eprintln!("{}: {seen}", verb.join(" "));
        match verb[0] {
            "disable" => {
                let literal = "--from-literal=password=mypassword";
                let create = ["kubectl", "create", "secret", "generic", "traces", literal];
                let node = sandbox.node("control-plane");
                sandbox.kprov(&[&["exec", &node, "--"][..], &create].concat()).done();
                assert!(holders("mypassword").iter().all(|files| files.contains("member/wal/")));
            }
            "enable" => assert_eq!(holders("mypassword"), [""; 3]),
            _ => {}
        }
        sandbox.kprov(&["verify", &sandbox.cluster]).done();
        assert_eq!(seen.failed, before.failed, "requests failed that one retry should have saved: {seen}");
    }

    // A node stops between two restarts.
    let third = sandbox.node("control-plane3");
    let mut command = sandbox.kprov_command(&["encryption", "rotate", &sandbox.cluster, "-o", "json"]);
    let job = Job::start(&mut command);
    assert!(job.wait_for(|event| event["name"] == "Restarting the API server" && event["state"] == "done"));
    sandbox.engine().docker(&["stop", "--time", "1", &third]).done();
    let run = job.wait();
    load.assert_unharmed();
    assert_ne!(run.code, Some(0), "{run}");
    encryption(&sandbox, &["resume"]).fails().says("does not run");
    sandbox.engine().docker(&["start", &third]).done();
    let mut resumed = encryption(&sandbox, &["resume"]);
    for _ in 0..10 {
        if resumed.code == Some(0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(5));
        resumed = encryption(&sandbox, &["resume"]);
    }
    resumed.done();
    stored_alike(&sandbox);
    let seen = load.end();
    eprintln!("a node stopped in the middle: {seen}");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_three_control_planes_under_a_kms_rotate_and_leave_it() {
    let sandbox = Sandbox::on_engine(KPROV, "hakms");
    let profile = "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {name: ha-kms}\nextends: ha\nspec:\n  encryption:\n    \
                   resources: [secrets]\n    providers:\n    - {type: kms, kms: {local: {}}}\n    - {type: identity}\n";
    let profile = sandbox.write("ha-kms.yaml", profile).display().to_string();
    sandbox.up(&["--profile", &profile]).done();
    let load = Load::start(&sandbox.kubeconfig());
    let stored = stored_alike(&sandbox);
    assert!(stored.contains(":kms:"), "{stored}");
    let keys = || {
        let status = sandbox.kprov(&["kms", "status", &sandbox.cluster, "-o", "json"]).ok().json();
        let plugins = status["plugins"].as_array().expect("a list").clone();
        assert_eq!(plugins.len(), 3, "{status}");
        plugins.iter().map(|plugin| plugin["report"]["keyId"].to_string()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = keys();
    for verb in [&["rotate"][..], &["rotate", "--retire"]] {
        encryption(&sandbox, verb).done();
        load.assert_unharmed();
        let seen = load.seen();
        eprintln!("{}: {seen}", verb.join(" "));
        sandbox.kprov(&["verify", &sandbox.cluster]).done();
    }
    let after = keys();
    assert!(before.len() == 1 && after.len() == 1 && before != after, "{before:?} {after:?}");

    // Without its plugin, one of three goes on with what it has; the others serve.
    let third = sandbox.node("control-plane3");
    let on_third = |command: &[&str]| sandbox.kprov(&[&["exec", &third, "--"], command].concat());
    on_third(&["systemctl", "stop", "kprov-kms"]).done();
    sandbox.kprov(&["kms", "status", &sandbox.cluster]).fails().says(&third);
    encryption(&sandbox, &["rotate"]).fails().says(&third);
    load.assert_right();
    on_third(&["systemctl", "start", "kprov-kms"]).done();
    encryption(&sandbox, &["rotate"]).done();
    sandbox.kprov(&["verify", &sandbox.cluster]).done();

    encryption(&sandbox, &["migrate", "--to", "secretbox", "--no-scrub"]).done();
    assert!(stored_alike(&sandbox).contains("secretbox"));
    for role in ["control-plane", "control-plane2", "control-plane3"] {
        let gone = ["exec", &sandbox.node(role), "--", "test", "!", "-e", "/kind/kprov/kms"];
        sandbox.kprov(&gone).done();
    }
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    let seen = load.end_right();
    eprintln!("under a KMS and away from it: {seen}");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// From a cluster that knew of no KMS when it was made: its load balancer has to be told, since an outage is one for all at once.
#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_three_control_planes_outlive_an_outage_of_their_vault() {
    let sandbox = Sandbox::on_engine(KPROV, "havault");
    sandbox.up(&["--profile", "ha"]).done();
    let load = Load::start(&sandbox.kubeconfig());
    encryption(&sandbox, &["migrate", "--to", "kms", "--kms", "kms-vault", "--no-scrub"]).done();
    assert!(stored_alike(&sandbox).contains(":kms:"));
    encryption(&sandbox, &["rotate"]).done();
    load.assert_unharmed();
    eprintln!("under a vault: {}", load.seen());
    sandbox.kprov(&["verify", &sandbox.cluster]).done();

    let server = format!("{}-openbao", sandbox.cluster);
    let on = |role: &str, command: &[&str]| sandbox.kprov(&[&["exec", &sandbox.node(role), "--"], command].concat());
    // Whose kubeconfig names the load balancer.
    let by_the_balancer = || on("control-plane", &["kubectl", "--request-timeout=5s", "get", "nodes"]);
    sandbox.engine().docker(&["stop", "--time", "1", &server]).done();
    sandbox.kprov(&["status", &sandbox.cluster]).ok().says("ILL").done();
    encryption(&sandbox, &["rotate"]).fails().says("-openbao:8200");
    let begun = Instant::now();
    let mut asked = 0;
    // Longer than API servers and balancers take to see it.
    while begun.elapsed() < Duration::from_secs(45) {
        by_the_balancer().done();
        asked += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    // One that starts meanwhile serves all but Secrets.
    on("control-plane3", &["pkill", "-KILL", "-x", "kube-apiserver"]).done();
    while begun.elapsed() < Duration::from_secs(120) {
        by_the_balancer().done();
        asked += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    load.assert_right();
    eprintln!("its server away for two minutes, {asked} questions answered: {}", load.seen());
    sandbox.engine().docker(&["start", &server]).done();
    let begun = Instant::now();
    while sandbox.kprov(&["verify", &sandbox.cluster]).code != Some(0) {
        assert!(begun.elapsed() < Duration::from_secs(180), "not well within 3 minutes");
        std::thread::sleep(Duration::from_secs(1));
    }
    eprintln!("well again {:.0} s after the server's start", begun.elapsed().as_secs_f64());
    encryption(&sandbox, &["rotate"]).done();
    encryption(&sandbox, &["migrate", "--to", "secretbox", "--no-scrub"]).done();
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    let seen = load.end_right();
    eprintln!("and away from it: {seen}");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}
