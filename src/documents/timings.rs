//! How long the steps took by which a cluster was made, and when each began: what a waterfall is drawn from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::progress::{self, Timeline};

/// The steps of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Timings {
    /// The command, such as `up` or `reset`.
    pub command: String,
    /// When it began, by this host's clock.
    pub began: String,
    /// How long it took, in milliseconds.
    pub total_ms: u64,
    /// Its steps, in the order in which they began. Several may have been under way at a time, and some within others.
    pub steps: Vec<Step>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// The node that it was about; none if it was about the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its name.
    pub name: String,
    /// When it began, in milliseconds from the command's beginning.
    pub start_ms: u64,
    /// How long it took, in milliseconds.
    pub length_ms: u64,
    /// How it ended.
    pub ended: Ended,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Ended {
    /// It succeeded.
    Done,
    /// It failed, and something else was tried.
    Failed,
    /// It was given up.
    Aborted,
}

impl Timings {
    /// What a timeline has seen of a command on `cluster`, which began at `began`.
    #[must_use]
    pub fn of(command: &str, cluster: &str, began: &str, timeline: &Timeline) -> Self {
        let steps = timeline.steps().into_iter().map(|step| Step {
            // Where several clusters are made at a time, their steps are told apart by their names.
            node: step.node.filter(|node| node != cluster),
            name: step.name,
            start_ms: milliseconds(step.start),
            length_ms: milliseconds(step.length),
            ended: match step.ended {
                progress::Ended::Done => Ended::Done,
                progress::Ended::Failed => Ended::Failed,
                progress::Ended::Aborted => Ended::Aborted,
            },
        });
        Self {
            command: command.to_owned(),
            began: began.to_owned(),
            steps: steps.collect(),
            total_ms: milliseconds(timeline.elapsed()),
        }
    }
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Reporter;

    #[test]
    fn what_is_about_the_cluster_is_about_no_node() {
        let (reporter, _recorder) = Reporter::recording();
        let (timed, timeline) = reporter.scoped("class-1").timed();
        timed.stage("Verifying").done();
        timed.step("class-1-worker", "Joining").fail("no");
        let timings = Timings::of("up", "class-1", "2026-01-01T00:00:00Z", &timeline);
        let seen: Vec<(Option<&str>, &str, Ended)> =
            timings.steps.iter().map(|step| (step.node.as_deref(), step.name.as_str(), step.ended)).collect();
        assert_eq!(seen, [(None, "Verifying", Ended::Done), (Some("class-1-worker"), "Joining", Ended::Failed)]);
        let text = serde_json::to_string(&timings).unwrap();
        assert!(text.contains(r#""startMs""#) && text.contains(r#""ended":"failed""#), "{text}");
        assert_eq!(serde_json::from_str::<Timings>(&text).unwrap(), timings);
    }
}
