//! What is left in etcd's files of the time before a change of the encryption: nothing, also if kprov was killed meanwhile.

use test_support::{Job, Sandbox};

use super::{KPROV, make_secret};

/// The files of etcd that hold a text, one a line.
#[track_caller]
fn holders(sandbox: &Sandbox, text: &str) -> String {
    // grep ends with 1 where there is none, and with 2 where it could not look.
    let script = format!("cd /var/lib/etcd; [ -d member/wal ]; grep -rlaF -e '{text}' member || [ $? -eq 1 ]");
    sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-euc", &script]).ok().stdout
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn nothing_of_before_is_left_in_any_file_of_etcd() {
    let sandbox = Sandbox::on_engine(KPROV, "traces");
    let cluster = sandbox.cluster.as_str();
    sandbox.up(&[]).done();
    make_secret(&sandbox, "e2e");
    let before = holders(&sandbox, "mypassword");
    assert!(before.contains("member/wal/") && before.contains("member/snap/db"), "{before}");

    let enable = ["encryption", "enable", cluster, "--provider", "aescbc"];
    sandbox.kprov(&enable).ok().says("Still do: none.").never_says("could not");
    assert_eq!(holders(&sandbox, "mypassword"), "");
    // Right behind it, everything holds, and a state that is kept says so.
    sandbox.kprov(&["verify", cluster]).done();
    sandbox.kprov(&["apiserver", "set", cluster, "v=3"]).done();
    let snapshot = format!("{cluster}-after");
    sandbox.kprov(&["snapshot", "save", &snapshot, "--cluster", cluster]).ok().never_says("! ");

    // Killed while etcd is on its way: it comes back by itself, and the next command completes the rest.
    let old = "k8s:enc:aescbc:v1:key1:";
    assert_ne!(holders(&sandbox, old), "");
    let job = Job::start(&mut sandbox.kprov_command(&["encryption", "rotate", cluster, "-o", "json"]));
    let renewing = |detail: &str| detail.contains("begins a new write-ahead log");
    assert!(job.wait_for(|event| event["detail"].as_str().is_some_and(renewing)));
    assert_ne!(job.kill().code, Some(0));
    sandbox.kprov(&["encryption", "resume", cluster]).ok().says("Still do: none.");
    assert_eq!(holders(&sandbox, old), "");
    sandbox.kprov(&["verify", cluster]).done();

    // What is to stay, stays.
    sandbox.kprov(&["encryption", "rotate", cluster, "--no-scrub"]).ok().never_says("Still do");
    assert_ne!(holders(&sandbox, "k8s:enc:aescbc:v1:key2:"), "");
    sandbox.kprov(&["snapshot", "rm", &snapshot]).done();
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}
