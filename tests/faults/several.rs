//! Three control planes behind a load balancer: changes that clients hardly notice, and a node that stops in the middle.

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
