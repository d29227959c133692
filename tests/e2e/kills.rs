//! `up` ended before its end, by a kill or a signal, at whatever step: the next command puts it right.

use std::time::{Duration, Instant};

use test_support::{Job, Sandbox, in_full};

use super::{KPROV, make_secret, stored};

/// When each event of a whole `up` came, and how long it took.
struct Course {
    events: Vec<Duration>,
    end: Duration,
}

impl Course {
    /// Goes through a whole `up`.
    fn of(sandbox: &Sandbox) -> Self {
        let begin = Instant::now();
        let job = sandbox.start_up(&[]);
        let events = std::iter::from_fn(|| job.next_event()).map(|_| begin.elapsed()).collect();
        let end = begin.elapsed();
        job.wait().done();
        Self { events, end }
    }

    /// Lets another `up` go on to a random moment of this one: behind so many events, by so much. Says when it was.
    fn random_moment(&self, job: &mut Job) -> String {
        let moment = self.end.mul_f64(random(1000) as f64 / 1000.0);
        let before = self.events.iter().filter(|event| **event <= moment).count();
        let pause = moment - before.checked_sub(1).map_or(Duration::ZERO, |last| self.events[last]);
        // A machine that is busier now has fewer to say in the same time, and is waited for; one that has ended, is not.
        let last = (0..before).map_while(|_| job.next_event()).last().unwrap_or_default();
        job.ends_within(pause);
        format!("{} ms after {last}", pause.as_millis())
    }
}

/// A random number below `bound`.
fn random(bound: usize) -> usize {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's only source of randomness; good enough to choose a moment.
    usize::try_from(RandomState::new().hash_one(0)).unwrap_or_default() % bound
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn every_down_leaves_the_engine_as_it_was_whether_up_was_killed_or_not() {
    let sandbox = Sandbox::on_engine(KPROV, "kill");
    let rounds = if in_full() { 20 } else { 6 };
    let course = Course::of(&sandbox);
    for round in 0..rounds {
        // In the short form, further whole ones are left to the other tests.
        if round == 0 || in_full() && round % 2 == 0 {
            if round > 0 {
                sandbox.up(&[]).done();
            }
            eprintln!("round {round}: a whole up");
            let key = make_secret(&sandbox, "e2e");
            stored(&sandbox, &key, &[]).says("Stored plain text").says("mypassword");
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        } else {
            let mut job = sandbox.start_up(&[]);
            let moment = course.random_moment(&mut job);
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
        let pause = Duration::from_millis(random(15_000) as u64);
        job.ends_within(pause);
        eprintln!("killed ({:?}) after {pause:?}", job.kill().code);
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
    job.ends_within(Duration::from_millis(random(3000) as u64));
    job.terminate().fails().says("interrupted");
    sandbox.assert_clean();
}
