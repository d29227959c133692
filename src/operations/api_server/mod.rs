//! Changing the API server of a cluster that runs.
//!
//! Owns the static pod's manifest on a control plane: the edit, the fast restart, the watch over what comes of it,
//! and the way back. Leaves to its callers what is to be changed, and in which order on several control planes.

mod readiness;
mod restart;

use std::time::Duration;

use kube::Client;
use tokio::time::Instant;

use crate::adapters::etcd::Etcd;
use crate::adapters::node::{Node, NodeError};
use crate::documents::static_pod::{Change, StaticPod, named_paths};
use crate::operations::cluster::ControlPlanes;
use crate::progress::Reporter;

pub use readiness::Readiness;
use restart::{BACKUP, BEFORE, Failure, LOOK, MANIFEST, READY};

const KEEP_BACKUP: &str = include_str!("scripts/keep_backup.sh");
const START_KUBELET: &str = include_str!("scripts/start_kubelet.sh");

/// Why the API server is not as it was meant to be.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ApiServerError {
    /// The new one did not come up.
    #[error("{node}: the API server did not come up with {change}: {reason}{}", quoted(last_lines))]
    #[diagnostic(code(kprov::api_server::rejected))]
    Rejected {
        /// The node.
        node: String,
        /// What was changed.
        change: String,
        /// What was seen.
        reason: String,
        /// The API server's own last lines.
        last_lines: String,
        /// What has been done about it.
        #[help]
        restored: String,
    },
    /// A file that a flag needs is not there.
    #[error("{node}: --{flag} names {path}, and there is no such file")]
    #[diagnostic(
        code(kprov::api_server::no_file),
        help("put it there first (`docker cp FILE {node}:{path}`); nothing has been changed")
    )]
    NoFile {
        /// The node.
        node: String,
        /// The flag.
        flag: String,
        /// The path.
        path: String,
    },
    /// A flag that is none.
    #[error("{text:?} is no flag: {reason}")]
    #[diagnostic(
        code(kprov::api_server::flag),
        help(
            "`set` takes FLAG=VALUE, `unset` takes FLAG; before them may be the name of a cluster that `kprov ls` shows"
        )
    )]
    Flag {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A flag that values depend on.
    #[error(
        "--{flag} is changed by `kprov encryption` alone: without the keys that it names, what is stored cannot be read"
    )]
    #[diagnostic(
        code(kprov::api_server::encryption_flag),
        help(
            "`kprov encryption enable`, `rotate`, `migrate` and `disable` change it and rewrite what is stored; nothing has been changed"
        )
    )]
    OfEncryption {
        /// The flag.
        flag: String,
    },
    /// Something failed on the node.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
}

/// Flags that `operations::encryption` alone may change, in step with what is stored.
const OF_ENCRYPTION: [&str; 2] = ["encryption-provider-config", "encryption-provider-config-automatic-reload"];

fn quoted(lines: &str) -> String {
    if lines.is_empty() { String::new() } else { format!(". Its last lines:\n{lines}") }
}

/// An API server that did not come up with a changed manifest.
#[derive(Debug)]
pub struct Rejected {
    /// What was seen.
    pub reason: String,
    /// The API server's own last lines.
    pub last_lines: String,
}

/// The API server on one control plane.
#[derive(Debug, Clone)]
pub struct ApiServer {
    node: Node,
    /// Whether it is the cluster's only one.
    alone: bool,
}

impl ApiServer {
    /// The API server on `node`, which must be a control plane.
    #[must_use]
    pub fn on(node: Node) -> Self {
        Self { node, alone: false }
    }

    /// The API servers of all of a cluster's control planes, in their order.
    #[must_use]
    pub fn all(control_planes: &[Node]) -> Vec<Self> {
        let alone = control_planes.len() == 1;
        control_planes.iter().map(|node| Self { node: node.clone(), alone }).collect()
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its manifest.
    ///
    /// # Errors
    /// [`NodeError::File`] if there is none or it cannot be read.
    pub async fn manifest(&self) -> Result<StaticPod, NodeError> {
        self.read(MANIFEST).await
    }

    async fn read(&self, path: &str) -> Result<StaticPod, NodeError> {
        let text = self.node.read_text(path).await?;
        StaticPod::parse(&text).map_err(|reason| NodeError::File {
            node: self.node.name.clone(),
            path: path.to_owned(),
            reason,
        })
    }

    /// Whether the files that the change's flags name are there.
    ///
    /// # Errors
    /// [`ApiServerError::NoFile`] names the first one that is not on the control plane; [`ApiServerError`] of the node if nobody could look.
    pub async fn check_files(&self, change: &Change) -> Result<(), ApiServerError> {
        for named in named_paths(change).into_iter().filter(|named| named.read) {
            if self.node.try_output(&["test", "-f", &named.path], None).await?.code != 0 {
                let node = self.node.name.clone();
                return Err(ApiServerError::NoFile { node, flag: named.flag, path: named.path });
            }
        }
        Ok(())
    }

    /// Restarts it with another manifest, or with the same one to make it read its files again, and waits until it is
    /// ready. The manifest before is kept on the node until [`Self::commit`] or [`Self::put_back`].
    ///
    /// # Errors
    /// [`NodeError`] if the node could not be changed; the inner error if the new API server does not come up.
    pub async fn replace(
        &self,
        manifest: &StaticPod,
        detail: impl FnMut(&str),
    ) -> Result<Result<(), Rejected>, NodeError> {
        // The sooner the kubelet asks, the sooner it says that the pod is Ready.
        self.exchange(&manifest.asked_at_once(), true, detail).await
    }

    /// Restarts it with `manifest` after another one was rejected, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub async fn put_back(
        &self,
        manifest: &StaticPod,
        detail: impl FnMut(&str),
    ) -> Result<Result<(), Rejected>, NodeError> {
        let outcome = self.exchange(manifest, false, detail).await?;
        if outcome.is_ok() {
            self.node.run(&["rm", "-f", BEFORE]).await?;
        }
        Ok(outcome)
    }

    async fn exchange(
        &self,
        manifest: &StaticPod,
        keep_before: bool,
        detail: impl FnMut(&str),
    ) -> Result<Result<(), Rejected>, NodeError> {
        let before = restart::observe(&self.node, &manifest.port()).await?;
        restart::exchange(&self.node, manifest, keep_before, self.alone).await?;
        let outcome = restart::watch(&self.node, manifest, &before, detail).await?;
        Ok(outcome.map_err(|Failure { reason, last_lines }| Rejected { reason, last_lines }))
    }

    /// Keeps the manifest before the last change as a backup: the change is made.
    ///
    /// # Errors
    /// [`NodeError`] if the backup could not be written; the change stays made.
    pub async fn commit(&self) -> Result<(), NodeError> {
        let script = format!("before='{BEFORE}' backup='{BACKUP}'\n{KEEP_BACKUP}");
        self.node.script("keeping the manifest's backup", &script).await.map(|_| ())
    }

    /// Makes a change, and takes it back if the API server does not come up with it. Says whether there was anything
    /// to change.
    ///
    /// # Errors
    /// [`ApiServerError::Rejected`] once the old one is back; [`ApiServerError::NoFile`] before anything is touched.
    pub async fn change(&self, change: &Change, mut detail: impl FnMut(&str)) -> Result<bool, ApiServerError> {
        self.check_files(change).await?;
        let before = self.manifest().await?;
        let mut manifest = before.clone();
        manifest.apply(change);
        if manifest == before && self.runs(&before).await? {
            return Ok(false);
        }
        let Err(rejected) = self.replace(&manifest, &mut detail).await? else {
            self.commit().await?;
            return Ok(true);
        };
        detail("it did not come up: putting the old manifest back");
        let restored = match self.put_back(&before, &mut detail).await {
            Ok(Ok(())) => "the manifest before is back, and the API server answers again".to_owned(),
            Ok(Err(again)) => format!(
                "the manifest before is back, but the API server does not come up with it either: {}\n{}",
                again.reason, again.last_lines
            ),
            Err(error) => format!("putting the manifest before back failed, too: {error}; it is in {BEFORE}"),
        };
        let Rejected { reason, last_lines } = rejected;
        let node = self.node.name.clone();
        Err(ApiServerError::Rejected { node, change: change.to_string(), reason, last_lines, restored })
    }

    /// Whether it runs as the manifest says, and is ready.
    ///
    /// # Errors
    /// [`NodeError`] if the node cannot be asked; an API server that does not answer is `false`, no error.
    pub async fn runs(&self, manifest: &StaticPod) -> Result<bool, NodeError> {
        let now = restart::observe(&self.node, &manifest.port()).await?;
        Ok(now.ready && now.process.is_some_and(|process| process.command == manifest.command()))
    }

    /// Waits until it runs as its manifest says, and is ready. Says whether it is.
    ///
    /// # Errors
    /// [`NodeError`] if the node cannot be asked, or the manifest not be read.
    pub async fn comes_back(&self) -> Result<bool, NodeError> {
        let manifest = self.manifest().await?;
        let begun = Instant::now();
        while !self.runs(&manifest).await? {
            if begun.elapsed() > READY {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    }

    /// Makes sure that the kubelet runs. It is stopped for the shortest of times only; one that is stopped now was left so,
    /// or by a change of etcd's log, which comes to its end by itself and is waited for.
    ///
    /// # Errors
    /// [`NodeError`] if the node does not run, or systemd cannot start the kubelet.
    pub async fn wake(&self) -> Result<(), NodeError> {
        if Etcd::on(self.node.clone()).log_is_renewed().await? {
            self.comes_back().await?;
        }
        self.node.script("starting the kubelet", START_KUBELET).await.map(|_| ())
    }

    /// Finishes or takes back what a kprov that was killed has left half done. Says what it did, if anything.
    ///
    /// # Errors
    /// [`NodeError`] if the node does not run, or a manifest could not be read or put back; nothing is half done by it.
    pub async fn recover(&self, mut detail: impl FnMut(&str)) -> Result<Option<&'static str>, NodeError> {
        self.wake().await?;
        if self.node.try_output(&["test", "-e", BEFORE], None).await?.code != 0 {
            return Ok(None);
        }
        let current = self.manifest().await?;
        let before = self.read(BEFORE).await?;
        if self.runs(&current).await? {
            self.commit().await?;
            return Ok(Some("finished"));
        }
        // What it has logged until now says nothing about what it will do.
        let mut now = restart::observe(&self.node, &current.port()).await?;
        now.process = None;
        if let Ok(()) = restart::watch(&self.node, &current, &now, &mut detail).await? {
            self.commit().await?;
            return Ok(Some("finished"));
        }
        let outcome = self.put_back(&before, detail).await?;
        match outcome {
            Ok(()) => Ok(Some("taken back")),
            Err(rejected) => Err(NodeError::File {
                node: self.node.name.clone(),
                path: MANIFEST.to_owned(),
                reason: format!(
                    "the API server comes up neither with it nor with the one before, which is back: {}\n{}",
                    rejected.reason, rejected.last_lines
                ),
            }),
        }
    }
}

/// How long a load balancer may take to send requests to an API server again: kind's own looks every two to three seconds.
pub const SETTLE: Duration = Duration::from_millis(3500);

/// Makes a change on every control plane, one after the other, so that behind a load balancer one always answers. If
/// one does not come up with it, all have the manifest of before again. Gives the names of those that were changed. Either way,
/// what was ready before is so again on all of `nodes`, or a warning tells of what is not.
///
/// # Errors
/// [`ApiServerError`] if a manifest cannot be changed so, or an API server did not come up; it tells on which control plane, and whether the
/// way back was gone to its end.
pub async fn change_all(
    reporter: &Reporter,
    client: &Client,
    control_planes: &ControlPlanes,
    nodes: &[Node],
    change: &Change,
) -> Result<Vec<String>, ApiServerError> {
    let readiness = Readiness::before(client, control_planes, nodes).await;
    let outcome = change_each(reporter, control_planes, change).await;
    if matches!(outcome, Ok(_) | Err(ApiServerError::Rejected { .. })) {
        readiness.again(reporter).await;
    }
    outcome
}

async fn change_each(
    reporter: &Reporter,
    control_planes: &ControlPlanes,
    change: &Change,
) -> Result<Vec<String>, ApiServerError> {
    let servers = ApiServer::all(control_planes);
    for server in &servers {
        let step = reporter.step(&server.node.name, "Looking for an unfinished change");
        if let Some(what) = server.recover(|detail| step.detail(detail)).await? {
            reporter.info(&format!("{}: an earlier change of the API server was {what}", server.node.name));
        }
        step.done();
        server.check_files(change).await?;
    }
    let mut changed: Vec<(&ApiServer, StaticPod)> = Vec::new();
    for server in &servers {
        if !changed.is_empty() {
            tokio::time::sleep(SETTLE).await;
        }
        let before = server.manifest().await?;
        let step = reporter.step(&server.node.name, "Restarting the API server");
        match server.change(change, |detail| step.detail(detail)).await {
            Ok(true) => {
                step.done();
                changed.push((server, before));
            }
            Ok(false) => step.done(),
            Err(error) => {
                step.fail(&error);
                take_back(reporter, &changed, change).await;
                return Err(error);
            }
        }
    }
    Ok(changed.into_iter().map(|(server, _)| server.node.name.clone()).collect())
}

/// Gives the manifests of before back to control planes whose change came about. One that does not get its own back is told: the
/// caller has another error to give, and the others are seen to all the same.
async fn take_back(reporter: &Reporter, changed: &[(&ApiServer, StaticPod)], change: &Change) {
    for (server, before) in changed {
        let node = &server.node.name;
        let step = reporter.step(node, "Putting the old manifest back");
        let mut outcome = server.replace(before, |detail| step.detail(detail)).await;
        if matches!(outcome, Ok(Ok(()))) {
            outcome = server.commit().await.map(Ok);
        }
        match not_back(node, change, &outcome) {
            None => step.done(),
            Some(warning) => {
                step.fail("it is not back as it was");
                reporter.warn(&warning);
            }
        }
    }
}

/// What is to be told of a control plane whose manifest of before was to be put back.
fn not_back(node: &str, change: &Change, outcome: &Result<Result<(), Rejected>, NodeError>) -> Option<String> {
    let reason = match outcome {
        Ok(Ok(())) => return None,
        Ok(Err(Rejected { reason, last_lines })) => format!("{reason}{}", quoted(last_lines)),
        Err(error) => error.to_string(),
    };
    Some(format!(
        "{node}: going back to the manifest before {change} did not come to its end: {reason}\nThe next `kprov apiserver` command finishes or takes back what is half done there; `kprov verify` tells what holds"
    ))
}

/// A change from what was typed: `FLAG=VALUE` each.
///
/// # Errors
/// [`ApiServerError::Flag`]; [`ApiServerError::OfEncryption`] for a flag that `kprov encryption` alone changes.
pub fn parse_set(words: &[String]) -> Result<Change, ApiServerError> {
    words.iter().try_fold(Change::default(), |change, word| {
        let fail = |reason: &str| ApiServerError::Flag { text: word.clone(), reason: reason.to_owned() };
        let (flag, value) = word.split_once('=').ok_or_else(|| fail("it has no value"))?;
        Ok(change.set(name(flag, word)?, value))
    })
}

/// A change from what was typed: `FLAG` each.
///
/// # Errors
/// As [`parse_set`].
pub fn parse_unset(words: &[String]) -> Result<Change, ApiServerError> {
    words.iter().try_fold(Change::default(), |change, word| Ok(change.unset(name(word, word)?)))
}

fn name<'a>(flag: &'a str, word: &str) -> Result<&'a str, ApiServerError> {
    let flag = flag.strip_prefix("--").unwrap_or(flag);
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if flag.is_empty() || flag.starts_with('-') || !flag.chars().all(good) {
        let reason = "a flag's name is made of small letters, digits and dashes".to_owned();
        return Err(ApiServerError::Flag { text: word.to_owned(), reason });
    }
    if OF_ENCRYPTION.contains(&flag) {
        return Err(ApiServerError::OfEncryption { flag: flag.to_owned() });
    }
    Ok(flag)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn flags_may_come_with_dashes() {
        let change = parse_set(&words(&["profiling=false", "--v=4", "admission-control-config-file=/a=b"])).unwrap();
        assert_eq!(change.to_string(), "--admission-control-config-file=/a=b --profiling=false --v=4");
        assert_eq!(parse_unset(&words(&["--v"])).unwrap().to_string(), "no --v");
    }

    #[test]
    fn what_values_depend_on_is_left_to_encryption() {
        use miette::Diagnostic as _;
        for flag in ["encryption-provider-config", "--encryption-provider-config-automatic-reload"] {
            for change in [parse_unset(&words(&[flag])), parse_set(&words(&["v=4", &format!("{flag}=/x")]))] {
                let error = change.unwrap_err();
                assert!(matches!(error, ApiServerError::OfEncryption { .. }), "{error}");
                assert!(error.help().unwrap().to_string().contains("kprov encryption enable"));
            }
        }
    }

    #[test]
    fn a_control_plane_that_does_not_get_its_manifest_back_is_told() {
        let change = parse_set(&words(&["profiling=false"])).unwrap();
        assert_eq!(not_back("c-control-plane2", &change, &Ok(Ok(()))), None);
        let rejected = Rejected { reason: "it ended".to_owned(), last_lines: "  | bad flag".to_owned() };
        let gone = NodeError::TimedOut { node: "n".to_owned(), command: "cp".to_owned(), seconds: 7 };
        for (outcome, reason) in [(Ok(Err(rejected)), "it ended. Its last lines:\n  | bad flag"), (Err(gone), "7 s")] {
            let warning = not_back("c-control-plane2", &change, &outcome).unwrap();
            for part in ["c-control-plane2", "--profiling=false", reason] {
                assert!(warning.contains(part), "{warning}");
            }
        }
    }

    #[test]
    fn what_is_no_flag_is_refused() {
        for word in ["profiling", "=false", "Profiling=x", "a b=c", "---v=1"] {
            assert!(parse_set(&words(&[word])).is_err(), "{word}");
        }
        assert!(parse_unset(&words(&["v=4"])).is_err());
    }
}
