//! Containers that end in any order, as when a laptop is closed or an engine is updated: the cluster comes back by itself.

use std::time::{Duration, Instant};

use test_support::{Sandbox, in_full};

use super::{KPROV, random};

/// Ends all containers of a cluster, or some of them, and starts them in another order; then everything has to be as it was.
fn restart_at_random(sandbox: &Sandbox, rounds: u64) {
    let secret = ["kubectl", "get", "secret", "kept", "--output=jsonpath={.data.password}"];
    let node = sandbox.node("control-plane");
    let literal = "--from-literal=password=mypassword";
    let create = ["exec", &node, "--", "kubectl", "create", "secret", "generic", "kept", literal];
    sandbox.kprov(&create).done();
    for round in 1..=rounds {
        let mut containers = sandbox.engine().containers(&sandbox.cluster);
        shuffle(&mut containers);
        // Now and then, one has run all along.
        containers.truncate(containers.len() - usize::try_from(random(2)).unwrap());
        let how = random(3);
        eprintln!(
            "round {round} of {rounds}: {} of {containers:?}",
            ["kill", "restart", "stop"][usize::try_from(how).unwrap()]
        );
        let docker = |arguments: &[&str]| sandbox.engine().docker(arguments).done();
        if how == 1 {
            for container in &containers {
                docker(&["restart", "--time", "1", container]);
            }
        } else {
            for container in &containers {
                match how {
                    0 => docker(&["kill", container]),
                    _ => docker(&["stop", "--time", "2", container]),
                }
            }
            shuffle(&mut containers);
            for container in &containers {
                std::thread::sleep(Duration::from_millis(random(3000)));
                docker(&["start", container]);
            }
        }
        let begin = Instant::now();
        sandbox.kprov(&["start", &sandbox.cluster]).done();
        eprintln!("  ready {:.1} s later", begin.elapsed().as_secs_f64());
        sandbox.kprov(&["verify", &sandbox.cluster]).done();
        sandbox.kprov(&[&["exec", &node, "--"], &secret[..]].concat()).ok().says("bXlwYXNzd29yZA==");
    }
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

fn shuffle(all: &mut [String]) {
    for last in (1..all.len()).rev() {
        all.swap(last, usize::try_from(random(last as u64 + 1)).unwrap());
    }
}

/// How often: as often as promised, or a few times.
fn rounds(few: u64) -> u64 {
    if in_full() { 20 } else { few }
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn containers_that_end_in_any_order_come_back() {
    let sandbox = Sandbox::on_engine(KPROV, "restarts");
    let nodes = r#"nodes=[{"role": "control-plane"}, {"role": "worker"}]"#;
    sandbox.up(&["--profile", "hardened", "--set", nodes]).done();
    restart_at_random(&sandbox, rounds(2));
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn in_full_several_control_planes_that_end_in_any_order_come_back() {
    let sandbox = Sandbox::on_engine(KPROV, "ha-restarts");
    sandbox.up(&["--profile", "ha"]).done();
    restart_at_random(&sandbox, rounds(3));
}
