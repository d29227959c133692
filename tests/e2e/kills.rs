//! `up` ended before its end, by a kill or a signal, at whatever step: the next command puts it right.

use std::time::Duration;

use test_support::{Job, Sandbox, in_full};

use super::{KPROV, make_secret, stored};

/// Lets an `up` go on to a random moment: some events on its way, of as many as a whole one has, and some time more.
fn to_a_random_moment(job: &mut Job, events: usize) -> String {
    let count = random(events);
    let pause = Duration::from_millis(random(1500) as u64);
    let mut last = "nothing".to_owned();
    for _ in 0..count {
        match job.next_event() {
            Some(event) => last = event.to_string(),
            None => break,
        }
    }
    job.ends_within(pause);
    format!("{} ms after {last}", pause.as_millis())
}

/// A random number below `bound`.
fn random(bound: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's only source of randomness; good enough to choose a moment.
    usize::try_from(RandomState::new().hash_one(0)).unwrap_or_default() % bound.max(1)
}

/// Goes through a whole `up`, and says how many events that takes.
fn whole(sandbox: &Sandbox) -> usize {
    let job = sandbox.start_up(&[]);
    let events = std::iter::from_fn(|| job.next_event()).count();
    job.wait().done();
    events
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn every_down_leaves_the_engine_as_it_was_whether_up_was_killed_or_not() {
    let sandbox = Sandbox::on_engine(KPROV, "kill");
    let rounds = if in_full() { 20 } else { 6 };
    let mut events = 0;
    for round in 0..rounds {
        // In the short form, whole ones are left to the other tests.
        if round == 0 || in_full() && round % 2 == 0 {
            events = whole(&sandbox);
            eprintln!("round {round}: a whole up, of {events} events");
            let key = make_secret(&sandbox, "e2e");
            stored(&sandbox, &key, &[]).says("Stored plain text").says("mypassword");
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        } else {
            let mut job = sandbox.start_up(&[]);
            let moment = to_a_random_moment(&mut job, events);
            let killed = job.kill();
            eprintln!("round {round}: killed ({:?}) {moment}", killed.code);
            let down = sandbox.kprov(&["down", &sandbox.cluster]);
            if down.code != Some(0) {
                // Killed before anything was made.
                down.fails().says("there is no cluster called");
            }
        }
        sandbox.assert_clean();
    }
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_killed_up_is_recovered_by_up_and_by_reset() {
    let sandbox = Sandbox::on_engine(KPROV, "again");
    let kill = || {
        let mut job = sandbox.start_up(&[]);
        // From here on there is a record of it.
        assert!(job.wait_for(|event| event["name"] == "Making the nodes"));
        let moment = to_a_random_moment(&mut job, 12);
        eprintln!("killed ({:?}) {moment}", job.kill().code);
    };
    kill();
    let made = sandbox.up(&["-o", "json"]);
    if made.code == Some(0) {
        assert_eq!(made.json()["cluster"], *sandbox.cluster);
    } else {
        made.fails().says("exists already");
    }
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
    kill();
    sandbox.kprov(&["reset", &sandbox.cluster]).done();
    sandbox.kprov(&["verify", &sandbox.cluster]).done();
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_up_that_is_asked_to_stop_leaves_nothing() {
    let sandbox = Sandbox::on_engine(KPROV, "stop");
    let job = sandbox.start_up(&[]);
    assert!(job.wait_for(|event| event["name"] == "Booting"));
    job.interrupt().fails().says("interrupted");
    sandbox.assert_clean();
    let mut job = sandbox.start_up(&[]);
    assert!(job.wait_for(|event| event["name"] == "Booting" && event["state"] == "done"));
    to_a_random_moment(&mut job, 3);
    job.terminate().fails().says("interrupted");
    sandbox.assert_clean();
}
