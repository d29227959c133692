//! When steps began and how long they took, for whoever asks afterwards.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{State, Subject};

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It succeeded.
    Done,
    /// It failed.
    Failed,
    /// It was given up.
    Aborted,
}

/// A step that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// The node that it was about; none if it was about the whole cluster.
    pub node: Option<String>,
    /// The step's name.
    pub name: String,
    /// When it began, counted from the timeline's own beginning.
    pub start: Duration,
    /// How long it took.
    pub length: Duration,
    /// How it ended.
    pub ended: Ended,
}

/// The steps that end while it is kept, whoever reports them.
#[derive(Debug, Clone)]
pub struct Timeline {
    began: Instant,
    steps: Arc<Mutex<Vec<Timed>>>,
}

impl Timeline {
    pub(super) fn begin() -> Self {
        Self { began: Instant::now(), steps: Arc::default() }
    }

    /// Notes a step if that is its end.
    pub(super) fn note(&self, step: &Subject, began: Instant, state: &State) {
        let (length, ended) = match state {
            State::Done(after) => (*after, Ended::Done),
            State::Failed { after, .. } => (*after, Ended::Failed),
            State::Aborted(after) => (*after, Ended::Aborted),
            State::Started | State::Detail(_) => return,
        };
        let start = began.saturating_duration_since(self.began);
        let timed = Timed { node: step.node.clone(), name: step.name.clone(), start, length, ended };
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push(timed);
    }

    /// The steps that have ended by now, in the order in which they began.
    #[must_use]
    pub fn steps(&self) -> Vec<Timed> {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner).clone();
        steps.sort_by_key(|step| step.start);
        steps
    }

    /// How long it has been kept.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reporter;
    use super::*;

    #[test]
    fn steps_are_in_the_order_of_their_beginnings_and_say_how_they_ended() {
        let (reporter, _recorder) = Reporter::recording();
        reporter.stage("before").done();
        let (timed, timeline) = reporter.timed();
        let outer = timed.stage("outer");
        timed.step("n", "inner").fail("why");
        // Another clone of the same reporter, and one that is scoped, report to the same timeline.
        timed.clone().scoped("c").stage("scoped").done();
        outer.done();
        drop(timed.stage("given up"));
        reporter.stage("elsewhere").done();
        let steps = timeline.steps();
        let seen: Vec<(&str, Option<&str>, Ended)> =
            steps.iter().map(|step| (step.name.as_str(), step.node.as_deref(), step.ended)).collect();
        assert_eq!(
            seen,
            [
                ("outer", None, Ended::Done),
                ("inner", Some("n"), Ended::Failed),
                ("scoped", Some("c"), Ended::Done),
                ("given up", None, Ended::Aborted),
            ]
        );
        let end = |step: &Timed| step.start + step.length;
        assert!(steps[0].start <= steps[1].start && end(&steps[1]) <= end(&steps[0]));
        assert!(steps.iter().all(|step| end(step) <= timeline.elapsed()));
    }
}
