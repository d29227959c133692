//! kprov killed in the middle of changes of the encryption, at every boundary and at random moments.

use std::time::{Duration, Instant};

use test_support::{Job, Sandbox, in_full};

use super::load::Load;
use super::{KPROV, encryption, random, stored_alike};

/// Starts `kprov encryption VERB CLUSTER ... -o json`.
fn start(sandbox: &Sandbox, verb: &[&str]) -> Job {
    let arguments = [&["encryption", verb[0], &sandbox.cluster], &verb[1..], &["--restart", "-o", "json"]].concat();
    Job::start(&mut sandbox.kprov_command(&arguments))
}

/// Resumes or turns back until nothing is unfinished.
fn settle(sandbox: &Sandbox, undo: bool) {
    if undo {
        let back = encryption(sandbox, &["undo", "--restart"]);
        if back.code == Some(0) || back.all().contains("no change of the encryption is under way") {
            return;
        }
        back.fails().says("cannot be undone any more");
    }
    let forth = encryption(sandbox, &["resume", "--restart"]);
    if forth.code != Some(0) {
        forth.fails().says("no change of the encryption is under way");
    }
}

/// The next change to be made, whatever the last one has come to.
fn next(sandbox: &Sandbox) -> Vec<&'static str> {
    match stored_alike(sandbox).as_str() {
        "plain text" => vec!["enable", "--provider", "aescbc"],
        stored if stored.contains("aescbc") && random(2) == 0 => vec!["migrate", "--to", "secretbox"],
        stored if stored.contains("secretbox") && random(3) == 0 => vec!["migrate", "--to", "aesgcm"],
        _ if random(4) == 0 => vec!["disable"],
        _ => vec!["rotate"],
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn whenever_kprov_is_killed_every_secret_keeps_its_value() {
    let sandbox = Sandbox::on_engine(KPROV, "kills");
    sandbox.up(&[]).done();
    let load = Load::start(&sandbox.kubeconfig());

    // Most leave etcd's log as it is, since renewing it takes longer than all the rest.
    let scrub = || if random(4) == 0 { &[][..] } else { &["--no-scrub"] };

    // At every boundary: behind the first event, the second, and so on, until a walk gets to its end.
    let mut boundaries = 0;
    let step = if in_full() { 1 } else { 4 };
    for events in (1..).step_by(step) {
        let verb = [next(&sandbox), scrub().to_vec()].concat();
        let job = start(&sandbox, &verb);
        // What a step is at right now is no boundary.
        let boundary = || std::iter::from_fn(|| job.next_event()).find(|event| event["state"] != "running");
        let reached = (0..events).map_while(|_| boundary()).last();
        let complete = reached.as_ref().is_some_and(|event| event["name"] == "Recording" && event["state"] == "done");
        let ended = job.kill().code == Some(0);
        load.assert_unharmed();
        boundaries += 1;
        eprintln!("kill {boundaries}: {} behind {}", verb.join(" "), reached.unwrap_or_default());
        settle(&sandbox, boundaries % 3 == 0);
        stored_alike(&sandbox);
        load.assert_unharmed();
        if ended || complete {
            break;
        }
    }

    // At random moments, often again before the one before has been settled.
    let wanted: u64 = if in_full() { 100 } else { 8 };
    let mut kills = 0;
    while kills < wanted {
        let scrub = scrub();
        let verb = [next(&sandbox), scrub.to_vec()].concat();
        let mut job = start(&sandbox, &verb);
        loop {
            let moment = Duration::from_millis(random(if scrub.is_empty() { 30_000 } else { 14_000 }));
            let ended = job.ends_within(moment);
            let run = job.kill();
            load.assert_unharmed();
            if ended {
                // It came to its end, or there was nothing to take up, or no way back any more.
                let said = ["no change of the encryption", "cannot be undone any more"];
                assert!(run.code == Some(0) || said.iter().any(|text| run.all().contains(text)), "{run}");
                break;
            }
            kills += 1;
            eprintln!("random kill {kills}: {} after {} ms", verb.join(" "), moment.as_millis());
            if kills >= wanted || random(4) == 0 {
                break;
            }
            job = start(&sandbox, &[["resume", "undo", "resume"][usize::try_from(random(3)).unwrap()]]);
        }
        settle(&sandbox, random(3) == 0);
        stored_alike(&sandbox);
        load.assert_unharmed();
    }

    let begun = Instant::now();
    load.forget_outage();
    encryption(&sandbox, &["rotate", "--restart"]).pass_or_enable(&sandbox);
    let seen = load.end();
    eprintln!(
        "{boundaries} kills at boundaries and {kills} at random moments: {seen}; a last walk took {:?}",
        begun.elapsed()
    );
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

trait PassOrEnable {
    fn pass_or_enable(self, sandbox: &Sandbox);
}

impl PassOrEnable for test_support::Run {
    /// Rotates, or turns encryption on where the last walk has turned it off.
    fn pass_or_enable(self, sandbox: &Sandbox) {
        if self.code != Some(0) {
            self.says("nothing is encrypted");
            encryption(sandbox, &["enable"]).done();
        }
    }
}
