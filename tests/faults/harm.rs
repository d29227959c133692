//! Files that are wrong, disks that are full, processes that stand still: a clear error, and nothing is lost.

use test_support::Sandbox;

use super::load::Load;
use super::{KPROV, encryption, stored_alike};

const FILE: &str = "/etc/kubernetes/encryption/encryption-config.yaml";

/// Runs a shell script on the control plane.
#[track_caller]
fn on_node(sandbox: &Sandbox, script: &str) -> String {
    sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-euc", script]).ok().stdout
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn harm_is_told_and_undone() {
    let sandbox = Sandbox::on_engine(KPROV, "harm");
    sandbox.up(&[]).done();
    let load = Load::start(&sandbox.kubeconfig());
    encryption(&sandbox, &["enable", "--provider", "aescbc"]).done();
    let before = stored_alike(&sandbox);

    // A file that was changed under a running API server, which it would not come up with again.
    on_node(&sandbox, &format!("cp -p {FILE} /root/right"));
    for (what, script, said) in [
        (
            "another key",
            format!("sed -i 's/secret: .*/secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=/' {FILE}"),
            "is not the one that kprov made",
        ),
        ("a key cut short", format!("sed -i 's/secret: ....../secret: /' {FILE}"), "key \"key1\""),
        ("a truncated file", format!("head -c 60 /root/right > {FILE}"), "no valid EncryptionConfiguration"),
        ("an unknown provider", format!("sed -i 's/aescbc/rot13/' {FILE}"), "there is no provider \"rot13\""),
        ("a lost key", format!("sed -i 's/key1/key7/' {FILE}"), "cannot read"),
        ("no file", format!("rm {FILE}"), "there is no such file"),
    ] {
        on_node(&sandbox, &script);
        encryption(&sandbox, &["rotate", "--restart"]).fails().says(said).never_says("AAEC");
        on_node(&sandbox, &format!("cp -p /root/right {FILE}"));
        assert_eq!(stored_alike(&sandbox), before, "{what}");
        load.assert_unharmed();
        eprintln!("{what}: refused");
    }

    // A full disk, first for what is written down, then for the configuration itself.
    for folder in ["/kind/kprov", "/etc/kubernetes/encryption"] {
        on_node(
            &sandbox,
            &format!(
                "cp -a {folder} /root/kept; mount -t tmpfs -o size=4k,mode=700 tmpfs {folder}; cp -a /root/kept/. {folder}/ 2>/dev/null || true; dd if=/dev/zero of={folder}/fill 2>/dev/null || true"
            ),
        );
        if folder.ends_with("encryption") {
            // The file itself has to be whole.
            on_node(&sandbox, &format!("rm {folder}/fill; cp -p /root/right {FILE}"));
        }
        encryption(&sandbox, &["rotate", "--restart"]).fails().says("No space left on device");
        on_node(&sandbox, &format!("umount {folder}; rm -r /root/kept"));
        // What could not be turned back for want of room is, once there is some.
        let status = sandbox.kprov(&["encryption", "status", &sandbox.cluster, "-o", "json"]).ok().json();
        if !status["encryption"]["underWay"].is_null() {
            encryption(&sandbox, &["undo", "--restart"]).done();
        }
        assert_eq!(stored_alike(&sandbox), before, "{folder}");
        load.assert_unharmed();
        eprintln!("{folder} full: refused");
    }

    // A flag that the API server does not take, and one whose file is missing.
    let set = |flag: &str| sandbox.kprov(&["apiserver", "set", &sandbox.cluster, flag]);
    set("nonsense=1").fails().says("unknown flag: --nonsense").says("the manifest before is back");
    set("audit-policy-file=/nowhere.yaml").fails().says("there is no such file");
    stored_alike(&sandbox);

    // etcd stands still for a while in the middle.
    let job = test_support::Job::start(&mut sandbox.kprov_command(&[
        "encryption",
        "rotate",
        &sandbox.cluster,
        "--restart",
        "-o",
        "json",
    ]));
    assert!(job.wait_for(|event| event["name"] == "Making the new key the writer" && event["state"] == "done"));
    on_node(&sandbox, "pkill -STOP -x etcd; sleep 6; pkill -CONT -x etcd");
    let run = job.wait();
    if run.code != Some(0) {
        run.fails().says("kprov encryption resume");
        encryption(&sandbox, &["resume", "--restart"]).done();
    }
    assert_ne!(stored_alike(&sandbox), before);
    eprintln!("etcd stood still: completed");

    let seen = load.end();
    eprintln!("{seen}");
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// Killed in the wrong moment, a node is left with a frozen pod, as runc leaves it; with cgroup v1 it cannot end then.
#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_nodes_with_frozen_pods_can_be_replaced_and_removed() {
    let sandbox = Sandbox::on_engine(KPROV, "frozen");
    sandbox.up(&[]).done();
    let freeze = || {
        let script = "find /sys/fs/cgroup/freezer -name freezer.state -path '*pod*' | head -n 2 | while read -r state; do echo FROZEN >$state; cat $state; done";
        on_node(&sandbox, script).contains("FROZEN")
    };
    if !freeze() {
        eprintln!("there is no freezer of cgroup v1 here: nothing is proven");
        return;
    }
    sandbox.kprov(&["reset", &sandbox.cluster]).ok().says("it has been let go on");
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    assert!(freeze());
    sandbox.kprov(&["down", &sandbox.cluster]).ok().says("it has been let go on");
    sandbox.assert_clean();
}
