//! The fast restart of the API server's static pod, and watching what comes of it.
//!
//! Left to itself, the kubelet takes half a minute to notice a changed manifest's old pod is to go, end it and start
//! the new one. Here the kubelet is stopped, the manifest exchanged, the old processes ended, and the kubelet
//! started again: it finds a pod that is to run and does not.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::adapters::node::{END_STATIC_POD, Node, NodeError, STATIC_POD, last_lines};
use crate::documents::static_pod::StaticPod;

/// kubeadm's manifest of the API server.
pub(super) const MANIFEST: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";

/// The manifest before a change that is under way. Not in the manifests folder: the kubelet runs whatever is there.
pub(super) const BEFORE: &str = "/kind/kprov/kube-apiserver.before.yaml";

/// The manifest before the last change that was made.
pub(super) const BACKUP: &str = "/kind/kprov/kube-apiserver.backup.yaml";

/// How long a new API server may take to be ready.
pub(super) const READY: Duration = Duration::from_secs(90);

/// How long the kubelet may leave an API server that has ended without another one.
const GONE: Duration = Duration::from_secs(5);

/// The pause between two looks at a node; a look itself takes about as long.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Prints what is to be known of the API server; `port` is where it listens.
const OBSERVE: &str = include_str!("scripts/observe.sh");

/// Exchanges the manifest and restarts the API server.
const EXCHANGE: &str = include_str!("scripts/exchange.sh");

/// Prints what the API server has logged since its restart.
const LAST_WORDS: &str = include_str!("scripts/last_words.sh");

/// A running API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    /// Process id and start time in the kernel's ticks: together, never used twice.
    pub(super) identity: String,
    pub(super) command: Vec<String>,
}

/// What is seen of the API server on its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Observation {
    pub(super) process: Option<Process>,
    /// Whether it says that it is ready.
    pub(super) ready: bool,
    /// The logs of its containers; each start makes a new one.
    pub(super) logs: BTreeSet<String>,
}

/// What to make of an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It runs as it should, and is ready.
    Ready,
    /// It is too early to tell.
    Wait(&'static str),
    /// It will not come up.
    Failed(String),
}

/// An API server that did not come up.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    pub(super) last_lines: String,
}

/// Judges the new API server. Pure, so that it can be tested without one.
#[derive(Debug)]
pub(super) struct Judge {
    wanted: Vec<String>,
    old: Option<String>,
    old_logs: BTreeSet<String>,
    seen: BTreeSet<String>,
}

impl Judge {
    /// `before` is what was seen before the restart; nothing of it counts.
    pub(super) fn new(wanted: Vec<String>, before: &Observation) -> Self {
        Self {
            wanted,
            old: before.process.as_ref().map(|process| process.identity.clone()),
            old_logs: before.logs.clone(),
            seen: BTreeSet::new(),
        }
    }

    /// `gone` is how long no new API server has been running since one was seen or left a log.
    pub(super) fn look(&mut self, now: &Observation, gone: Duration) -> Verdict {
        let starts = now.logs.difference(&self.old_logs).count();
        let new = now.process.as_ref().filter(|process| Some(&process.identity) != self.old.as_ref());
        if let Some(process) = new {
            self.seen.insert(process.identity.clone());
        }
        let starts = starts.max(self.seen.len());
        if starts > 1 {
            return Verdict::Failed("it ended right after its start, and again when it was restarted".to_owned());
        }
        match new {
            None if starts > 0 && gone >= GONE => Verdict::Failed("it ended right after its start".to_owned()),
            None => Verdict::Wait("waiting for the kubelet to start it"),
            Some(process) if process.command != self.wanted => Verdict::Wait("waiting for the one with the new flags"),
            Some(_) if now.ready => Verdict::Ready,
            Some(_) => Verdict::Wait("it runs, and is not ready yet"),
        }
    }
}

/// Looks at the API server on its node. Readiness is asked for on the node itself, past any load balancer.
pub(super) async fn observe(node: &Node, port: &str) -> Result<Observation, NodeError> {
    let script = format!("port={port}\n{STATIC_POD}\n{OBSERVE}");
    Ok(parse(&node.script("looking at the API server", &script).await?))
}

fn parse(text: &str) -> Observation {
    let mut seen = Observation::default();
    for line in text.lines() {
        if let Some(identity) = line.strip_prefix("process ") {
            seen.process = Some(Process { identity: identity.to_owned(), command: Vec::new() });
        } else if let (Some(word), Some(process)) = (line.strip_prefix("word "), seen.process.as_mut()) {
            process.command.push(word.to_owned());
        } else if let Some(log) = line.strip_prefix("log ") {
            seen.logs.insert(log.to_owned());
        } else if line == "ready" {
            seen.ready = true;
        }
    }
    seen
}

/// Exchanges the manifest and restarts the API server the fast way. The script runs to its end on the node,
/// whatever becomes of this process. One that is `alone` gets no time to end what is under way.
///
/// # Errors
/// [`NodeError::Command`] if the new manifest could not be written, or the kubelet not be stopped.
pub(super) async fn exchange(
    node: &Node,
    manifest: &StaticPod,
    keep_before: bool,
    alone: bool,
) -> Result<(), NodeError> {
    // One that ends politely first takes itself out of its service. Where that leaves nobody, kube-proxy refuses the
    // service's address until it has noticed, up to a minute later, that somebody is back.
    let looks = if alone { 0 } else { 8 };
    let before = if keep_before { BEFORE } else { "" };
    let content = Zeroizing::new(manifest.to_yaml().into_bytes());
    let script = format!(
        "manifest='{MANIFEST}' before='{before}' looks={looks} size={size}\n{STATIC_POD}\n{END_STATIC_POD}\n{EXCHANGE}",
        size = content.len(),
    );
    node.feed("restarting the API server", &script, content).await.map(|_| ())
}

/// Watches until the API server runs with the manifest's flags and is ready, or will not come up.
pub(super) async fn watch(
    node: &Node,
    manifest: &StaticPod,
    before: &Observation,
    mut detail: impl FnMut(&str),
) -> Result<Result<(), Failure>, NodeError> {
    let mut judge = Judge::new(manifest.command(), before);
    let port = manifest.port();
    let (begun, mut last_seen) = (Instant::now(), Instant::now());
    loop {
        let now = observe(node, &port).await?;
        if now.process.is_some() || now.logs.is_subset(&before.logs) {
            last_seen = Instant::now();
        }
        let reason = match judge.look(&now, last_seen.elapsed()) {
            Verdict::Ready => return Ok(Ok(())),
            Verdict::Failed(reason) => reason,
            Verdict::Wait(what) if begun.elapsed() > READY => format!("not ready after {} s: {what}", READY.as_secs()),
            Verdict::Wait(what) => {
                detail(what);
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        return Ok(Err(Failure { reason, last_lines: last_words(node, &before.logs).await }));
    }
}

/// The last lines that the API server has logged since its restart, however often it has been started since then.
async fn last_words(node: &Node, old: &BTreeSet<String>) -> String {
    let known: String = old.iter().map(|log| format!("{log}\n")).collect();
    let script = format!("known='{known}'\n{LAST_WORDS}");
    let text = node.script("reading the API server's log", &script).await.unwrap_or_default();
    last_lines(&telling(&text), 10)
}

/// The lines of a CRI log that tell why: without time and stream, and without the usage that follows a bad flag.
fn telling(log: &str) -> String {
    let bare = log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line));
    let lines: Vec<&str> = bare.filter(|line| !line.starts_with("  ") && !line.trim().is_empty()).collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with(['E', 'F']) || line.to_lowercase().contains("error") || line.contains("panic"))
        .collect();
    if errors.is_empty() { lines.join("\n") } else { errors.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(identity: Option<&str>, ready: bool, logs: &[&str]) -> Observation {
        let command = vec!["kube-apiserver".to_owned(), "--v=4".to_owned()];
        Observation {
            process: identity.map(|identity| Process { identity: identity.to_owned(), command }),
            ready,
            logs: logs.iter().map(|&log| log.to_owned()).collect(),
        }
    }

    fn judge() -> Judge {
        Judge::new(vec!["kube-apiserver".to_owned(), "--v=4".to_owned()], &seen(Some("10/1"), true, &["a/0.log"]))
    }

    #[test]
    fn the_old_one_does_not_count() {
        let mut judge = judge();
        assert!(matches!(judge.look(&seen(Some("10/1"), true, &["a/0.log"]), Duration::ZERO), Verdict::Wait(_)));
        assert!(matches!(judge.look(&seen(None, false, &["a/0.log"]), Duration::ZERO), Verdict::Wait(_)));
        let new = seen(Some("99/7"), false, &["a/0.log", "b/0.log"]);
        assert!(matches!(judge.look(&new, Duration::ZERO), Verdict::Wait(_)));
        assert_eq!(judge.look(&seen(Some("99/7"), true, &["a/0.log", "b/0.log"]), Duration::ZERO), Verdict::Ready);
    }

    #[test]
    fn ready_with_other_flags_is_not_ready() {
        let mut judge = judge();
        let mut new = seen(Some("99/7"), true, &["b/0.log"]);
        new.process.as_mut().unwrap().command.push("--profiling=true".to_owned());
        assert!(matches!(judge.look(&new, Duration::ZERO), Verdict::Wait(_)));
    }

    #[test]
    fn ending_twice_or_for_long_is_failing() {
        let mut first = judge();
        assert!(matches!(first.look(&seen(None, false, &["b/0.log"]), Duration::from_secs(1)), Verdict::Wait(_)));
        assert!(matches!(first.look(&seen(None, false, &["b/0.log"]), GONE), Verdict::Failed(_)));
        assert!(matches!(
            judge().look(&seen(None, false, &["b/0.log", "b/1.log"]), Duration::ZERO),
            Verdict::Failed(_)
        ));
        let mut unlogged = judge();
        unlogged.look(&seen(Some("20/2"), false, &[]), Duration::ZERO);
        assert!(matches!(unlogged.look(&seen(Some("21/3"), true, &[]), Duration::ZERO), Verdict::Failed(_)));
    }

    #[test]
    fn a_look_is_read() {
        let seen = parse("process 12/3456\nword kube-apiserver\nword --v=4\nready\nlog /var/log/pods/x/0.log\n");
        assert_eq!(seen.process.unwrap().command, ["kube-apiserver", "--v=4"]);
        assert!(seen.ready && seen.logs.len() == 1);
    }

    #[test]
    fn usage_is_not_telling() {
        let log = "2026-01-01T00:00:00Z stderr F Error: unknown flag: --nonsense\n\
                   2026-01-01T00:00:00Z stderr F   --v int   verbosity\n";
        assert_eq!(telling(log), "Error: unknown flag: --nonsense");
        assert_eq!(telling("2026-01-01T00:00:00Z stderr F I0101 fine\n"), "I0101 fine");
    }
}
