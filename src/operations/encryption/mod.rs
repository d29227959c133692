//! Encryption at rest on clusters that run: turning it on and off, changing keys and providers, under load.
//!
//! Owns the order of things and what is kept of it, so that it can be taken up by the next command, from any host.
//! `plan` decides, purely; `nodes` reads and writes on control planes; `rewrite` goes through the API.
//! Leaves restarts of the API server to `api_server`, and evidence to `verify`.

mod nodes;
mod reload;
mod rewrite;
mod status;

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use kube::Client;

use crate::adapters::etcd::Etcd;
use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::{Node, NodeError};
use crate::adapters::records::Store;
use crate::documents::encryption::{Config, Journal, KeyId, Move, NewKeys, Phase, PlanError, Verb, moves};
use crate::documents::keys::{KeyError, KeyMaterial};
use crate::documents::names::ClusterName;
use crate::documents::profile::{Encryption, EncryptionProvider, Key, KeySource, ProviderKind};
use crate::operations::api_server::SETTLE;
use crate::operations::cluster::{ClusterError, Context};
pub use status::{EncryptionStatus, ResourceStatus, StoredCount};

use nodes::{ControlPlane, Wanted};

/// Why encryption is not as it was meant to be.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum EncryptionError {
    /// There is no way to what was asked for.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Plan(#[from] PlanError),
    /// A control plane does not run, so that no phase can be complete on all of them.
    #[error("the control plane {node} does not run")]
    #[diagnostic(
        code(kprov::encryption::not_running),
        help(
            "every API server has to know a key before it is used: start the node (`docker start {node}`), then try again"
        )
    )]
    NotRunning {
        /// The node.
        node: String,
    },
    /// Control planes have different configurations, and no walk is under way that would explain it.
    #[error("the EncryptionConfiguration of {node} is not that of {other}")]
    #[diagnostic(
        code(kprov::encryption::different),
        help("somebody has changed it by hand: make them the same on every control plane, then try again")
    )]
    Different {
        /// A control plane.
        node: String,
        /// Another one.
        other: String,
    },
    /// A file on a node cannot be used.
    #[error("{node}: {file}: {reason}")]
    #[diagnostic(code(kprov::encryption::file), help("nothing has been changed"))]
    Unusable {
        /// The node.
        node: String,
        /// The file.
        file: String,
        /// What is wrong with it, without any of its text.
        reason: String,
    },
    /// An API server did not come up with a new configuration.
    #[error("{node}: the API server did not take the new configuration: {reason}{}", quoted(last_lines))]
    #[diagnostic(code(kprov::encryption::rejected))]
    Rejected {
        /// The node.
        node: String,
        /// What was seen.
        reason: String,
        /// The API server's own last lines.
        last_lines: String,
        /// What has been done about it.
        #[help]
        restored: String,
    },
    /// A phase failed; says what has become of the walk.
    #[error("{verb} failed while {}", lower(.phase.title()))]
    #[diagnostic(code(kprov::encryption::failed))]
    Failed {
        /// What was asked for.
        verb: Verb,
        /// Where it failed.
        phase: Phase,
        /// What has been done about it, and what to do next.
        #[help]
        next: String,
        /// What failed.
        #[diagnostic_source]
        source: Box<dyn miette::Diagnostic + Send + Sync>,
    },
    /// Objects stay under another key.
    #[error("{count} {resource} stay under another key, {key} among them")]
    #[diagnostic(
        code(kprov::encryption::left),
        help("the old key is kept, so everything can be read; `kprov etcd get {key}` shows the value")
    )]
    Left {
        /// The resource.
        resource: String,
        /// How many.
        count: usize,
        /// The first of them.
        key: String,
    },
    /// There are values of a resource that the API does not serve.
    #[error("etcd holds {resource}, but the API serves no such resource")]
    #[diagnostic(
        code(kprov::encryption::not_served),
        help(
            "is its CustomResourceDefinition gone? Without it its values cannot be rewritten, and the old key has to stay"
        )
    )]
    NotServed {
        /// The resource.
        resource: String,
    },
    /// The version cannot encrypt a resource.
    #[error("{resource} cannot be encrypted by Kubernetes {version}: {reason}")]
    #[diagnostic(code(kprov::encryption::unsupported))]
    Unsupported {
        /// The resource.
        resource: String,
        /// The version.
        version: String,
        /// Why not.
        reason: &'static str,
    },
    /// A configuration holds another key under a known name.
    #[error("{node}: the key {key} in the EncryptionConfiguration is not the one that kprov made for this cluster")]
    #[diagnostic(
        code(kprov::encryption::wrong_key),
        help(
            "the API server still works with the right one, and would not come up again with this one: put the right file back. Nothing has been changed"
        )
    )]
    WrongKey {
        /// The node.
        node: String,
        /// The key's provider and name.
        key: KeyId,
    },
    /// A configuration lacks a key that values are stored under.
    #[error("{count} {resource} are stored as {stored}, which the EncryptionConfiguration on {node} cannot read")]
    #[diagnostic(
        code(kprov::encryption::unreadable),
        help(
            "the API server would not come up again with this file, or could not read them: put the right file back. Nothing has been changed"
        )
    )]
    Unreadable {
        /// The node.
        node: String,
        /// The resource.
        resource: String,
        /// How they are stored.
        stored: String,
        /// How many.
        count: usize,
    },
    /// A key is used, and is nowhere to be found.
    #[error("{} values are stored under {key}, which is in no control plane's configuration", resources.join(", "))]
    #[diagnostic(code(kprov::encryption::lost), help("put the EncryptionConfiguration with that key back first"))]
    Lost {
        /// The resources.
        resources: Vec<String>,
        /// The key.
        key: KeyId,
    },
    /// Something else has to wait until a change is complete.
    #[error("a change of the encryption is unfinished: {0}")]
    #[diagnostic(
        code(kprov::encryption::unfinished),
        help("`kprov encryption resume` completes it, `kprov encryption undo` turns it back")
    )]
    Unfinished(Box<Journal>),
    /// There is nothing to be resumed or undone.
    #[error("no change of the encryption is under way")]
    #[diagnostic(code(kprov::encryption::nothing), help("`kprov encryption status` shows how things are stored"))]
    NothingUnderWay,
    /// It is too late to turn back.
    #[error(
        "the {0} cannot be undone any more: everything is stored under the new key, and the old one is being removed"
    )]
    #[diagnostic(code(kprov::encryption::too_late), help("`kprov encryption resume` completes it"))]
    TooLate(Verb),
    /// The operating system gave no random bytes.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
    /// Something failed on a node.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
    /// The API server refused.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Api(#[from] ApiError),
    /// What kprov keeps could not be changed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cluster(#[from] Box<ClusterError>),
}

fn quoted(lines: &str) -> String {
    if lines.is_empty() { String::new() } else { format!(". Its last lines:\n{lines}") }
}

fn lower(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// A running cluster whose encryption is looked at or changed.
pub struct Subject<'a> {
    /// What every operation needs.
    pub context: &'a Context,
    /// The cluster's name. Its lock is the caller's.
    pub cluster: &'a ClusterName,
    /// Its control planes, the first one first.
    pub control_planes: &'a [Node],
    /// A client for it.
    pub client: &'a Client,
    /// Whether API servers are restarted even where they could read a new configuration by themselves, which
    /// takes up to a minute each time.
    pub restart: bool,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The verb.
    pub verb: Verb,
    /// The provider, for `enable` and `migrate`.
    pub provider: Option<ProviderKind>,
    /// The resources, for `enable`.
    pub resources: Vec<String>,
    /// A name for the new key.
    pub key: Option<String>,
}

/// What has been done.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The walk that was completed; `None` if all was as asked for already.
    pub walk: Option<Journal>,
    /// How many objects were rewritten.
    pub rewritten: usize,
}

/// Does what is asked for. A walk that an earlier command has left unfinished is completed first, and if it
/// is what is asked for, that was it.
///
/// # Errors
/// [`EncryptionError`].
pub async fn run(subject: &Subject<'_>, request: &Request) -> Result<Outcome, EncryptionError> {
    let mut planes = subject.read().await?;
    if let Some(journal) = under_way(&planes) {
        subject.context.reporter.info(&format!("Going on with an unfinished {journal}"));
        let same = !journal.undoing && journal.verb == request.verb && fits(&journal, request);
        let outcome = subject.walk(&mut planes, journal, NewKeys::default()).await?;
        if same {
            return Ok(outcome);
        }
        planes = subject.read().await?;
    }
    let config = same_config(&planes)?.unwrap_or_default();
    subject.check_keys(&config).await?;
    subject.check_resources(&request.resources).await?;
    let moves = moves(request.verb, &config, request.provider, &request.resources, request.key.as_deref())?;
    if moves.is_empty() {
        subject.record(&planes)?;
        return Ok(Outcome { walk: None, rewritten: 0 });
    }
    let restarts = planes.iter().any(|plane| !plane.reloads()) || subject.restart;
    let journal = Journal {
        id: format!("{:016x}", getrandom::u64().unwrap_or_default()),
        began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        verb: request.verb,
        undoing: false,
        // A single API server need not be able to read what no other one writes (kubernetes.io, "Rotate a
        // decryption key"), and each phase costs it a restart or a minute.
        phase: if planes.len() > 1 { Phase::Add } else { Phase::Promote },
        moves,
    };
    let new = subject.new_keys(&journal, &planes).await?;
    let step = subject.context.reporter.stage("Writing down what is to be done");
    for (index, plane) in planes.iter().enumerate() {
        if let Err(error) = plane.write_journal(&journal).await {
            for written in &planes[..index] {
                // What cannot be removed is found by the next command.
                let _ = written.remove_journal().await;
            }
            return Err(error.into());
        }
    }
    step.done();
    if restarts {
        subject.context.reporter.info("API servers are restarted, one at a time");
    }
    subject.walk(&mut planes, journal, new).await
}

fn fits(journal: &Journal, request: &Request) -> bool {
    let every = |holds: &dyn Fn(&KeyId) -> bool| journal.moves.iter().all(|way| holds(&way.to));
    request.provider.is_none_or(|provider| every(&|to| to.provider == provider))
        && request.key.as_ref().is_none_or(|key| every(&|to| to.key == *key))
}

/// Completes an unfinished walk.
///
/// # Errors
/// [`EncryptionError::NothingUnderWay`], others as they come.
pub async fn resume(subject: &Subject<'_>) -> Result<Outcome, EncryptionError> {
    let mut planes = subject.read().await?;
    let journal = under_way(&planes).ok_or(EncryptionError::NothingUnderWay)?;
    subject.walk(&mut planes, journal, NewKeys::default()).await
}

/// Turns an unfinished walk back.
///
/// # Errors
/// [`EncryptionError::NothingUnderWay`], [`EncryptionError::TooLate`], others as they come.
pub async fn undo(subject: &Subject<'_>) -> Result<Outcome, EncryptionError> {
    let mut planes = subject.read().await?;
    let journal = under_way(&planes).ok_or(EncryptionError::NothingUnderWay)?;
    let back = if journal.undoing { Some(journal.clone()) } else { subject.way_back(&planes, &journal).await? };
    let back = back.ok_or(EncryptionError::TooLate(journal.verb))?;
    subject.write_journals(&planes, &back).await?;
    subject.walk(&mut planes, back, NewKeys::default()).await
}

/// The change that is under way, if there is one.
///
/// # Errors
/// [`EncryptionError`].
pub async fn unfinished(control_planes: &[Node]) -> Result<Option<Journal>, EncryptionError> {
    let journals = try_join_all(control_planes.iter().map(nodes::read_journal)).await?;
    Ok(Journal::furthest(journals.into_iter().flatten().collect()))
}

/// How everything is stored.
///
/// # Errors
/// [`EncryptionError`].
pub async fn status(control_planes: &[Node]) -> Result<EncryptionStatus, EncryptionError> {
    status::read(control_planes).await
}

fn under_way(planes: &[ControlPlane]) -> Option<Journal> {
    Journal::furthest(planes.iter().filter_map(|plane| plane.journal.clone()).collect())
}

/// The configuration that all control planes have.
fn same_config(planes: &[ControlPlane]) -> Result<Option<Config>, EncryptionError> {
    let Some((first, others)) = planes.split_first() else { return Ok(None) };
    for other in others {
        if other.config != first.config {
            let name = |plane: &ControlPlane| plane.node().name.clone();
            return Err(EncryptionError::Different { node: name(other), other: name(first) });
        }
    }
    Ok(first.config.clone())
}

impl Subject<'_> {
    /// Reads all control planes, after finishing whatever a killed kprov has left of an API server's restart.
    async fn read(&self) -> Result<Vec<ControlPlane>, EncryptionError> {
        for node in self.control_planes {
            if !node.is_running().await? {
                return Err(EncryptionError::NotRunning { node: node.name.clone() });
            }
        }
        let step = self.context.reporter.stage("Looking at the control planes");
        let mut planes = try_join_all(self.control_planes.iter().map(ControlPlane::read)).await?;
        let under_way = under_way(&planes).is_some();
        for plane in &mut planes {
            if under_way {
                // The walk itself knows best which way to go: back to a manifest that reads no key may be too far.
                plane.server.wake().await?;
                plane.server.commit().await?;
                continue;
            }
            if let Some(what) = plane.server.recover(|detail| step.detail(detail)).await? {
                let name = plane.node().name.clone();
                self.context.reporter.info(&format!("{name}: an earlier restart of the API server was {what}"));
                *plane = ControlPlane::read(plane.node()).await?;
            }
        }
        step.done();
        Ok(planes)
    }

    fn etcd(&self) -> Etcd {
        // A cluster without control plane does not get this far.
        Etcd::on(self.control_planes[0].clone())
    }

    /// Whether the configuration is one that an API server could be started with: its file may have been changed since
    /// the one that runs has read it.
    async fn check_keys(&self, config: &Config) -> Result<(), EncryptionError> {
        let node = &self.control_planes[0].name;
        let known = self
            .context
            .store()
            .load_keys(self.cluster)
            .map_err(ClusterError::from)
            .map_err(Box::new)?
            .unwrap_or_default();
        for provider in &known.providers {
            for (name, material) in &provider.keys {
                let key = KeyId { provider: provider.kind, key: name.clone() };
                if config.groups.iter().filter_map(|group| group.material(&key)).any(|found| found != material) {
                    return Err(EncryptionError::WrongKey { node: node.clone(), key });
                }
            }
        }
        for (resource, group) in config.resources() {
            let readable: Vec<String> = group.keys().iter().map(|(key, _)| key.stored()).collect();
            for (stored, count) in self.etcd().census(&crate::operations::verify::etcd_prefix(resource)).await? {
                let stored = stored.to_string();
                if !readable.contains(&stored) && !stored.starts_with("k8s:enc:kms:") {
                    let (node, resource) = (node.clone(), resource.to_owned());
                    return Err(EncryptionError::Unreadable { node, resource, stored, count });
                }
            }
        }
        Ok(())
    }

    async fn check_resources(&self, resources: &[String]) -> Result<(), EncryptionError> {
        let version = self.control_planes[0].read_text("/kind/version").await?.trim().to_owned();
        let Ok(known) = version.parse::<crate::documents::render::KubernetesVersion>() else { return Ok(()) };
        for resource in resources {
            let group = resource.split_once('.').map_or("", |(_, group)| group);
            let custom = group.contains('.') && !group.ends_with(".k8s.io");
            let reason = if resource.starts_with('*') && !known.encrypts_by_wildcard() {
                Some("wildcards came in 1.27")
            } else if custom && !known.encrypts_custom_resources() {
                Some("custom resources came in 1.26")
            } else {
                None
            };
            if let Some(reason) = reason {
                return Err(EncryptionError::Unsupported { resource: resource.clone(), version, reason });
            }
        }
        Ok(())
    }

    /// Makes the keys that a walk needs and that are nowhere yet.
    async fn new_keys(&self, journal: &Journal, planes: &[ControlPlane]) -> Result<NewKeys, EncryptionError> {
        let mut keys = Vec::new();
        for way in &journal.moves {
            if way.to.provider == ProviderKind::Identity {
                keys.push(None);
                continue;
            }
            // Resources that join others share their key, which lies in another group.
            let groups = planes.iter().filter_map(|plane| plane.config.as_ref()).flat_map(|config| &config.groups);
            let found = groups
                .filter(|group| group.resources == way.resources)
                .chain(planes.iter().filter_map(|plane| plane.config.as_ref()).flat_map(|config| &config.groups))
                .find_map(|group| group.material(&way.to));
            if let Some(material) = found {
                keys.push(Some(material.clone()));
                continue;
            }
            // A key that has been used and is gone is not one to be made anew under the same name.
            for resource in &way.resources {
                let prefix = crate::operations::verify::etcd_prefix(resource);
                let census = self.etcd().census(&prefix).await?;
                if census.keys().any(|stored| stored.to_string() == way.to.stored()) {
                    return Err(EncryptionError::Lost { resources: way.resources.clone(), key: way.to.clone() });
                }
            }
            keys.push(Some(KeyMaterial::generate()?));
        }
        Ok(NewKeys(keys))
    }

    async fn write_journals(&self, planes: &[ControlPlane], journal: &Journal) -> Result<(), EncryptionError> {
        try_join_all(planes.iter().map(|plane| plane.write_journal(journal))).await?;
        Ok(())
    }

    /// The journal of the way back, as short as what has been written allows.
    async fn way_back(&self, planes: &[ControlPlane], journal: &Journal) -> Result<Option<Journal>, EncryptionError> {
        let Some(mut back) = journal.turned_back() else { return Ok(None) };
        let promoted = journal.moves.iter().any(|way| {
            let groups = planes.iter().filter_map(|plane| plane.config.as_ref()?.group(&way.resources));
            groups.into_iter().any(|group| group.writer().as_ref() == Some(&way.to))
        });
        if !promoted && self.is_unwritten(&journal.moves).await? {
            back.phase = Phase::Remove;
        }
        Ok(Some(back))
    }

    /// Whether nothing is stored under the moves' new keys.
    async fn is_unwritten(&self, moves: &[Move]) -> Result<bool, EncryptionError> {
        for way in moves {
            for resource in &way.resources {
                let census = self.etcd().census(&crate::operations::verify::etcd_prefix(resource)).await?;
                if census.keys().any(|stored| stored.to_string() == way.to.stored()) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Walks from the journal's phase to the end. If a control plane does not come along, the way that was
    /// already made is gone back.
    async fn walk(
        &self,
        planes: &mut [ControlPlane],
        journal: Journal,
        new: NewKeys,
    ) -> Result<Outcome, EncryptionError> {
        let mut reached = journal.clone();
        let (phase, error) = match self.go(planes, journal, new).await {
            Ok(outcome) => return Ok(outcome),
            Err(failed) => failed,
        };
        reached.phase = phase;
        let turns_back = turns_back(&error);
        let failed =
            |next: String| EncryptionError::Failed { verb: reached.verb, phase, next, source: Box::new(error) };
        if phase > Phase::Promote || reached.undoing || !turns_back {
            let or_undo = match reached.turned_back() {
                Some(_) if !reached.undoing => format!(", `kprov encryption undo {}` turns back", self.cluster),
                _ => String::new(),
            };
            return Err(failed(format!(
                "everything can be read. Once the cause is gone, `kprov encryption resume {}` goes on{or_undo}",
                self.cluster
            )));
        }
        self.context.reporter.warn("Turning back");
        let restored = async {
            let Some(back) = self.way_back(planes, &reached).await? else { return Ok(()) };
            self.write_journals(planes, &back).await?;
            self.go(planes, back, NewKeys::default()).await.map(|_| ()).map_err(|(_, error)| error)
        };
        Err(failed(match restored.await {
            Ok(()) => "everything is as it was before".to_owned(),
            Err(second) => format!(
                "turning back failed, too: {second}. Everything can be read; `kprov encryption undo {}` tries again",
                self.cluster
            ),
        }))
    }

    async fn go(
        &self,
        planes: &mut [ControlPlane],
        mut journal: Journal,
        new: NewKeys,
    ) -> Result<Outcome, (Phase, EncryptionError)> {
        let mut rewritten = 0;
        loop {
            let phase = journal.phase;
            let failed = |error| (phase, error);
            let title =
                if journal.undoing { format!("Undoing: {}", lower(phase.title())) } else { phase.title().to_owned() };
            let step = self.context.reporter.stage(&title);
            match phase {
                Phase::Add | Phase::Promote | Phase::Remove => {
                    self.configure(planes, &journal, &new).await.map_err(failed)?;
                }
                Phase::Rewrite => {
                    // Whoever resumes has not seen the phase before: an API server may have been changed since.
                    self.configure(planes, &journal, &new).await.map_err(failed)?;
                    rewritten =
                        rewrite::rewrite(self.client, &self.etcd(), &journal.moves, |detail| step.detail(detail))
                            .await
                            .map_err(failed)?;
                }
                Phase::Record => {
                    self.record(planes).map_err(failed)?;
                    for plane in planes.iter() {
                        plane.remove_journal().await.map_err(|error| failed(error.into()))?;
                    }
                    step.done();
                    return Ok(Outcome { walk: Some(journal), rewritten });
                }
            }
            step.done();
            let Some(next) = phase.next() else { return Ok(Outcome { walk: Some(journal), rewritten }) };
            journal.phase = next;
            self.write_journals(planes, &journal).await.map_err(failed)?;
        }
    }

    /// Gives every control plane the configuration of the journal's phase, and waits until all have it.
    async fn configure(
        &self,
        planes: &mut [ControlPlane],
        journal: &Journal,
        new: &NewKeys,
    ) -> Result<(), EncryptionError> {
        let base = journal.base(planes.iter().map(|plane| plane.config.clone()).collect());
        let made;
        let new = if new.0.is_empty() {
            made = self.new_keys(journal, planes).await?;
            &made
        } else {
            new
        };
        let phase = journal.phase;
        if phase == Phase::Remove
            && let Some(key) = rewrite::unproven(&self.etcd(), self.client, &journal.moves).await?
        {
            return Err(EncryptionError::Left { resource: "values".to_owned(), count: 1, key });
        }
        let target = journal.target(phase, &base, new);
        let fallback = journal.fallback(phase, &base, new);
        let wanted = Wanted { target: target.as_ref(), fallback: fallback.as_ref(), restart: self.restart };
        let unwritten = async || self.is_unwritten(&journal.moves).await;
        let mut waiting = Vec::new();
        for plane in planes.iter_mut() {
            if !plane.has(wanted.target).await? {
                waiting.push(plane);
            }
        }
        let (restarts, reloads): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|plane| plane.needs_restart(&wanted));
        let reporter = &self.context.reporter;
        let reloads = reloads.into_iter().map(|plane| async {
            let step =
                reporter.step(&plane.node().name.clone(), "Waiting for the API server to read its new configuration");
            plane.apply(&wanted, &unwritten, |detail| step.detail(detail)).await?;
            step.done();
            Ok::<_, EncryptionError>(())
        });
        try_join_all(reloads).await?;
        for (index, plane) in restarts.into_iter().enumerate() {
            if index > 0 {
                // Until the load balancer sends requests to the one before again.
                tokio::time::sleep(SETTLE).await;
            }
            let step = reporter.step(&plane.node().name.clone(), "Restarting the API server");
            plane.apply(&wanted, &unwritten, |detail| step.detail(detail)).await?;
            step.done();
        }
        Ok(())
    }

    /// Brings kprov's own record of the cluster up to date, if it has one: what `verify` expects, and what `reset` makes again.
    fn record(&self, planes: &[ControlPlane]) -> Result<(), EncryptionError> {
        let Some(first) = planes.first() else { return Ok(()) };
        record(&self.context.store(), self.cluster, first.config.as_ref()).map_err(|error| Box::new(error).into())
    }
}

/// Whether the cause is one that going back gets rid of: not a node or an engine that is gone.
fn turns_back(error: &EncryptionError) -> bool {
    matches!(error, EncryptionError::Rejected { .. } | EncryptionError::Node(NodeError::Command { .. }))
}

fn record(store: &Store, cluster: &ClusterName, config: Option<&Config>) -> Result<(), ClusterError> {
    let Some(mut record) = store.load(cluster)? else { return Ok(()) };
    let simple = config.map(Config::simple);
    let (encryption, ring) = match simple {
        None => (None, None),
        Some(Some((resources, ring))) => {
            let key = |name: &String| Key { name: name.clone(), source: KeySource::Generate };
            let providers = ring.providers.iter().map(|provider| EncryptionProvider {
                kind: provider.kind,
                keys: provider.keys.iter().map(|(name, _)| key(name)).collect(),
            });
            (Some(Encryption { providers: providers.collect(), resources: resources.to_vec() }), Some(ring))
        }
        // More than a profile can say: the nodes' own configuration is all that there is.
        Some(None) => return Ok(()),
    };
    // Keys that are no longer in the profile are of no use, but of no harm either; the other way round would be.
    if let Some(ring) = &ring
        && store.load_keys(cluster)?.as_ref() != Some(ring)
    {
        store.save_keys(cluster, ring)?;
    }
    if record.profile.spec.encryption != encryption {
        record.profile.spec.encryption = encryption;
        store.save(&record)?;
    }
    if ring.is_none() {
        store.forget_keys(cluster)?;
    }
    Ok(())
}
