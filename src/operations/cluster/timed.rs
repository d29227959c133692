//! How long the steps take by which a cluster is made, kept beside its record.

use k8s_openapi::jiff::Timestamp;

use crate::documents::timings::Timings;
use crate::progress::Timeline;

use super::{Context, Outcome};

/// A command whose steps are timed.
pub(super) struct Timed {
    /// What it has to work with, so that its steps are seen.
    pub(super) context: Context,
    command: &'static str,
    began: Timestamp,
    timeline: Timeline,
}

impl Timed {
    /// Begins to time a command.
    pub(super) fn begin(context: &Context, command: &'static str) -> Self {
        let (reporter, timeline) = context.reporter.timed();
        Self { context: Context { reporter, ..context.clone() }, command, began: Timestamp::now(), timeline }
    }

    /// The outcome with its timings, which are kept, too. A cluster is good without them.
    pub(super) fn end(self, outcome: Outcome) -> Outcome {
        let began = self.began.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let name = &outcome.record.name;
        let timings = Timings::of(self.command, name, &began, &self.timeline);
        if let Err(error) = self.context.store().save_timings(name, &timings) {
            self.context.reporter.warn(&format!("how long the steps took could not be kept: {error}"));
        }
        Outcome { timings, ..outcome }
    }
}
