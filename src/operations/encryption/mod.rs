//! Encryption at rest on clusters that run: turning it on and off, changing keys and providers, under load.
//!
//! Owns the order of things and what is kept of it, so that it can be taken up by the next command, from any host.
//! `documents::encryption` decides, purely; `walk` goes from phase to phase; `nodes` reads and writes on control planes;
//! `rewrite` has everything stored anew; `world` is the seam to what is real, which is `live`.
//! Leaves restarts of the API server to `api_server`, and evidence to `verify`.

mod kms;
mod live;
mod nodes;
mod reload;
mod rewrite;
mod status;
#[cfg(test)]
mod tests;
mod walk;
mod world;

use std::cell::Cell;
use std::path::PathBuf;

use kube::Client;
use serde::Serialize;

use crate::adapters::etcd::Etcd;
use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::{Node, NodeError};
use crate::documents::encryption::{Journal, KeyId, Phase, PlanError, Verb};
use crate::documents::keys::KeyError;
use crate::documents::keys::ProviderKind;
use crate::documents::names::ClusterName;
use crate::documents::profile::Kms;
use crate::operations::api_server::{ApiServer, Readiness};
use crate::operations::cluster::{ClusterError, Context, ControlPlanes, tell_balancer};
pub use status::{EncryptionStatus, ResourceStatus, StoredCount};

use live::{Record, Stores};
use walk::Walker;

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
            "every API server has to know a key before it is used: `kprov start` starts the nodes that do not run; then try again"
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
    /// An API server did not come back.
    #[error("{node}: the API server does not come back after etcd has been restarted")]
    #[diagnostic(
        code(kprov::encryption::away),
        help(
            "its log and that of etcd say why: `docker exec {node} sh -c 'tail /var/log/pods/kube-system_*/*/*.log'`"
        )
    )]
    Away {
        /// The node.
        node: String,
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
    /// The API knows no such resource.
    #[error("the API knows no resource {resource:?}")]
    #[diagnostic(code(kprov::encryption::unknown_resource), help("{}; nothing has been changed", meant.as_ref().map_or_else(|| "`kubectl api-resources` lists all: the plural name, then a dot and the group, unless that is the core group".to_owned(), |meant| format!("did you mean {meant}?"))))]
    UnknownResource {
        /// The resource.
        resource: String,
        /// What may have been meant.
        meant: Option<String>,
    },
    /// The resource is stored under another name.
    #[error("{resource} are stored as {kept_as}, and an EncryptionConfiguration has to name them so")]
    #[diagnostic(code(kprov::encryption::kept_as), help("name {kept_as} instead; nothing has been changed"))]
    KeptAs {
        /// The resource.
        resource: String,
        /// The name that counts.
        kept_as: String,
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
    /// The version knows no second protocol for KMS plugins.
    #[error("this Kubernetes has no second protocol for KMS plugins: it came in 1.27")]
    #[diagnostic(code(kprov::encryption::no_kms_v2), help("leave `protocol: v2` out of the profile"))]
    NoSecondProtocol,
    /// The KMS does not do its part.
    #[error("{node}: the KMS plugin does not work: {reason}")]
    #[diagnostic(code(kprov::encryption::kms), help("`kprov status` tells how it is; what is stored stays as it is"))]
    Plugin {
        /// The control plane.
        node: String,
        /// What it says.
        reason: String,
    },
    /// An API server still wraps by the key of before.
    #[error("{node}: the API server has not taken up the new key {key} of the KMS")]
    #[diagnostic(
        code(kprov::encryption::lagging),
        help(
            "everything in etcd is wrapped by the new one, and the older versions stay, since that API server may still write by them: does `kprov kms status` say that its plugin works? Then `kprov encryption rotate --retire` again"
        )
    )]
    Lagging {
        /// The control plane.
        node: String,
        /// The key.
        key: String,
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

/// Whether API servers are restarted where nobody has said so: an only one is, since some seconds without it cost less than a
/// minute for each phase. Of several, none has to be missed.
#[must_use]
pub fn restarts(control_planes: &ControlPlanes, asked: bool, no_outage: bool) -> bool {
    asked || (control_planes.len() == 1 && !no_outage)
}

/// A running cluster whose encryption is looked at or changed.
pub struct Subject<'a> {
    /// What every operation needs.
    pub context: &'a Context,
    /// The cluster's name. Its lock is the caller's.
    pub cluster: &'a ClusterName,
    /// Its control planes, the first one first.
    pub control_planes: &'a ControlPlanes,
    /// All its nodes.
    pub nodes: &'a [Node],
    /// A client for it.
    pub client: &'a Client,
    /// Whether API servers are restarted even where they could read a new configuration by themselves, which
    /// takes up to a minute each time.
    pub restart: bool,
    /// Whether etcd is made to forget, in the end, how things were stored before: old revisions, free pages and, where it
    /// still holds any of that, its write-ahead log.
    pub scrub: bool,
    /// Whether logs may be renewed for that: a member is away meanwhile, and its API server with it.
    pub renew_logs: bool,
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
    /// The KMS, for the provider `kms`.
    pub kms: Option<Box<Plugin>>,
    /// Whether a KMS whose key is rotated gives up the older versions, once nothing in etcd needs them.
    pub retire: bool,
}

/// A KMS, and where relative paths of what it logs in by start.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The KMS.
    pub kms: Kms,
    /// Where its relative paths start.
    pub base: PathBuf,
}

/// A key that was rotated in its KMS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated {
    /// The key that wrapped before.
    pub from: String,
    /// The key that wraps now.
    pub to: String,
    /// How many values were found to be wrapped by it, all of them.
    pub values: usize,
    /// What can be done next.
    pub note: String,
}

/// What has been done.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The walk that was completed; `None` if all was as asked for already.
    pub walk: Option<Journal>,
    /// How many objects were rewritten.
    pub rewritten: usize,
    /// What was looked through before the old keys went.
    pub proof: Option<Proof>,
    /// The key that was rotated in its KMS, if that was it.
    pub rotated: Option<Rotated>,
    /// What etcd's files held of the time before, member by member; empty if that was not to be looked for.
    pub scrubbed: Vec<Scrubbed>,
}

/// A member of etcd that was made to forget. Paths are below its data folder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scrubbed {
    /// Its node.
    pub node: String,
    /// The files that held anything of the time before.
    pub before: Vec<String>,
    /// Those that still do.
    pub after: Vec<String>,
    /// Why its write-ahead log could not be renewed, if it should have been.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

/// What was looked through in etcd, all of it, before the old keys went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Proof {
    /// How many values there were, of whatever resource.
    pub values: usize,
    /// How many of them are of the resources that were asked for; none of them, and nothing is proven for these.
    pub concerned: usize,
}

/// Does what is asked for. A walk that an earlier command has left unfinished is completed first, and if it
/// is what is asked for, that was it.
///
/// # Errors
/// [`EncryptionError::Plan`], [`EncryptionError::UnknownResource`] and their like before anything is changed;
/// [`EncryptionError::Failed`] says what has become of a walk that was begun.
pub async fn run(subject: &Subject<'_>, request: &Request) -> Result<Outcome, EncryptionError> {
    if request.verb == Verb::Rotate
        && let Some(outcome) = kms::rotate(subject, request.retire).await?
    {
        return Ok(outcome);
    }
    if let Some(plugin) = &request.kms {
        kms::install(subject, plugin).await?;
    }
    subject.walker(async |walker| walker.run(request).await).await
}

/// Completes an unfinished walk.
///
/// # Errors
/// [`EncryptionError::NothingUnderWay`]; [`EncryptionError::Failed`] if it cannot be completed now.
pub async fn resume(subject: &Subject<'_>) -> Result<Outcome, EncryptionError> {
    subject.walker(async |walker| walker.resume().await).await
}

/// Turns an unfinished walk back.
///
/// # Errors
/// [`EncryptionError::NothingUnderWay`]; [`EncryptionError::TooLate`] once old keys are being removed;
/// [`EncryptionError::Failed`] if the way back cannot be completed now.
pub async fn undo(subject: &Subject<'_>) -> Result<Outcome, EncryptionError> {
    subject.walker(async |walker| walker.undo().await).await
}

/// The change that is under way, if there is one.
///
/// # Errors
/// [`EncryptionError::Node`] if a control plane cannot be asked, [`EncryptionError::Unusable`] if its journal cannot be read.
pub async fn unfinished(control_planes: &ControlPlanes) -> Result<Option<Journal>, EncryptionError> {
    let mut journals = Vec::new();
    for node in control_planes.iter() {
        journals.extend(nodes::read_journal(&ApiServer::on(node.clone())).await?);
    }
    Ok(Journal::furthest(journals))
}

/// How everything is stored.
///
/// # Errors
/// [`EncryptionError::NotRunning`] if a control plane does not run; [`EncryptionError::Node`] or
/// [`EncryptionError::Api`] if it cannot be asked.
pub async fn status(control_planes: &ControlPlanes, client: &Client) -> Result<EncryptionStatus, EncryptionError> {
    status::read(control_planes, client).await
}

impl Subject<'_> {
    /// Has the load balancer, if there is one, ask API servers as it has to by now. What was asked for is done: that this is not is
    /// told, and no error.
    async fn tell_balancer(&self) {
        if self.control_planes.iter().count() < 2 {
            return;
        }
        let told = async {
            let plane = nodes::ControlPlane::read(&ApiServer::on(self.control_planes.first().clone())).await?;
            let asks = plane.config.is_some_and(|config| !config.kms_protocols().is_empty());
            tell_balancer(self.context, self.cluster, asks).await.map_err(Box::new)?;
            Ok::<(), EncryptionError>(())
        };
        if let Err(error) = told.await {
            self.context
                .reporter
                .warn(&format!("The load balancer could not be told how API servers are asked now: {error}"));
        }
    }

    /// Has something done by a walker on the real world.
    async fn walker<T>(
        &self,
        work: impl AsyncFnOnce(&Walker<'_, ApiServer, Stores<'_>, Record<'_>>) -> Result<T, EncryptionError>,
    ) -> Result<T, EncryptionError> {
        let machines = ApiServer::all(self.control_planes);
        let members = self.control_planes.iter().map(|node| (node.name.clone(), Etcd::on(node.clone()))).collect();
        let etcd = Etcd::on(self.control_planes.first().clone());
        let storage = Stores { etcd, members, client: self.client };
        let books = Record { store: self.context.store(), cluster: self.cluster };
        let walker = Walker {
            reporter: &self.context.reporter,
            cluster: self.cluster,
            machines: &machines,
            storage: &storage,
            books: &books,
            restart: self.restart,
            scrub: self.scrub,
            renew_logs: self.renew_logs,
            keep_plugin: Cell::new(false),
        };
        let readiness = Readiness::before(self.client, self.control_planes, self.nodes).await;
        let outcome = work(&walker).await;
        if outcome.is_ok() {
            self.tell_balancer().await;
            readiness.again(&self.context.reporter).await;
        }
        outcome
    }
}
