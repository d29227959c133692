//! Containers that end in any order, and engines that are updated or crash, as when a laptop is closed: the cluster comes back
//! by itself.
//!
//! An engine is restarted only if it is the test's own: KPROV_TEST_ENGINE names the folder of one that `engine.sh` beside this
//! file has started, by which the test is run, too.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{Run, Sandbox, in_full};

use super::{KPROV, random};

/// How long a restarted engine may take to start what has run before.
const STARTED: Duration = Duration::from_secs(60);

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Kill,
    Restart,
    Stop,
    EngineRestart,
    EngineKill,
    Reboot,
}

impl How {
    /// One of those that there are: the engine is none where others use it, too.
    fn any() -> Self {
        const ALL: [How; 6] = [How::Kill, How::Restart, How::Stop, How::EngineRestart, How::EngineKill, How::Reboot];
        let count = if own_engine().is_some() { ALL.len() } else { 3 };
        ALL[usize::try_from(random(count as u64)).unwrap()]
    }
}

fn own_engine() -> Option<PathBuf> {
    std::env::var_os("KPROV_TEST_ENGINE").map(PathBuf::from)
}

/// Restarts the test's own engine.
fn restart_engine(how: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/engine.sh");
    Run::of(Command::new(script).arg(how).arg(own_engine().unwrap())).done();
}

/// Waits until a restarted engine has started what has run before: nobody else does.
fn await_started(sandbox: &Sandbox) {
    let begin = Instant::now();
    loop {
        let filter = format!("label=io.x-k8s.kind.cluster={}", sandbox.cluster);
        let ended = sandbox.engine().docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}} {{.State}}"]);
        let ended: Vec<_> =
            ended.ok().stdout.lines().filter(|line| !line.ends_with(" running")).map(str::to_owned).collect();
        if ended.is_empty() {
            return;
        }
        assert!(begin.elapsed() < STARTED, "the engine has not started {ended:?}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

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
        let how = How::any();
        eprintln!("round {round} of {rounds}: {how:?} of {containers:?}");
        let docker = |arguments: &[&str]| sandbox.engine().docker(arguments).done();
        match how {
            How::EngineRestart => {
                restart_engine("restart");
                await_started(sandbox);
            }
            How::Reboot => {
                restart_engine("reboot");
                await_started(sandbox);
            }
            // It ends what has run on without it, and leaves it so.
            How::EngineKill => restart_engine("kill"),
            How::Restart => {
                for container in &containers {
                    docker(&["restart", "--time", "1", container]);
                }
            }
            How::Kill | How::Stop => {
                for container in &containers {
                    if how == How::Kill {
                        docker(&["kill", container]);
                    } else {
                        docker(&["stop", "--time", "2", container]);
                    }
                }
                shuffle(&mut containers);
                for container in &containers {
                    std::thread::sleep(Duration::from_millis(random(3000)));
                    docker(&["start", container]);
                }
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
