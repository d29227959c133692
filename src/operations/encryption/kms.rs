//! A KMS on a cluster that runs: its plugin brought to every control plane, and its key rotated.
//!
//! A rotation needs no walk: the configuration stays as it is, and every plugin goes on unwrapping by the old key. It is done
//! when etcd shows nothing that the old key has wrapped; a rotation that is interrupted is simply done again. Only then, if that is
//! asked for, the KMS gives the old key up.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};

use crate::adapters::etcd::Etcd;
use crate::adapters::kms_plugin;
use crate::adapters::kubernetes;
use crate::documents::encryption::{Config, GroupResource, Layout, Located, PLUGIN_SOCKET, PlanError};
use crate::documents::keys::{KmsProtocol, ProviderKind};
use crate::documents::stored::envelope;
use crate::operations::api_server::ApiServer;
use crate::operations::cluster::{ControlPlanes, KmsRotation, install_kms, retire_kms, rotate_kms};

use super::nodes::ControlPlane;
use super::walk::{PLUGIN, under_way};
use super::{EncryptionError, Outcome, Plugin, Rotated, Subject, reload};

/// How long a plugin that was just brought, or whose key was just rotated, may take until its KMS answers it.
const WORKS: Duration = Duration::from_secs(60);

/// How long API servers may take until they use a new key: they ask once a minute, and some.
const TAKEN_UP: Duration = Duration::from_secs(180);

/// How often etcd is looked at meanwhile.
const LOOK: Duration = Duration::from_secs(3);

/// What can be done next.
const KEPT: &str = "Older versions of the key can still unwrap, which states of before need; `kprov encryption rotate --retire` has the KMS give them up.";
const NOT_OURS: &str = "The KMS is not kprov's: its own tools rotate the key, and raise its min_decryption_version once nothing needs older ones. This rewrites what an older version has wrapped.";

/// The metric of an API server that tells by which key the plugin that it has asked wraps, and when it has asked.
const TAKEN_UP_METRIC: &str = "apiserver_envelope_encryption_key_id_hash_status_last_timestamp_seconds";

/// How many objects are rewritten at a time.
const PARALLEL: usize = 16;

/// Brings a plugin, its login and, where the KMS is one of kprov's own, its server; waits until all plugins work.
pub(super) async fn install(subject: &Subject<'_>, plugin: &Plugin) -> Result<(), EncryptionError> {
    if !plugin.kms.is_own() {
        return Ok(());
    }
    let nodes = subject.control_planes;
    install_kms(subject.context, subject.cluster, &plugin.kms, &plugin.base, nodes).await.map_err(Box::new)?;
    let step = subject.context.reporter.stage("Waiting until every KMS plugin works");
    await_key(nodes, WORKS, |_| true).await?;
    step.done();
    Ok(())
}

/// Waits until every plugin works and all wrap by the same key, one that `fits`.
async fn await_key(
    nodes: &ControlPlanes,
    patience: Duration,
    fits: impl Fn(&str) -> bool,
) -> Result<String, EncryptionError> {
    let begun = Instant::now();
    loop {
        let (mut ids, mut problem) = (Vec::new(), None);
        for node in nodes.iter() {
            let ill = match kms_plugin::report(node).await? {
                Ok(report) => {
                    ids.push(report.key_id);
                    report.problem
                }
                Err(silent) => Some(silent),
            };
            problem = problem.or(ill.map(|reason| (node.name.clone(), reason)));
        }
        ids.dedup();
        let problem = match (problem, &ids[..]) {
            (None, [id]) if fits(id) => return Ok(id.clone()),
            (Some(problem), _) => problem,
            (None, ids) => (nodes.first().name.clone(), format!("it still wraps by {}", ids.join(", "))),
        };
        if begun.elapsed() > patience {
            let (node, reason) = problem;
            return Err(EncryptionError::Plugin { node, reason });
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Rotates the key in the KMS, or takes up that somebody else has, and rewrites all that the old one has wrapped. `None` if no
/// KMS encrypts, or if a walk has to be completed first.
pub(super) async fn rotate(subject: &Subject<'_>, retire: bool) -> Result<Option<Outcome>, EncryptionError> {
    let mut planes = Vec::new();
    for node in subject.control_planes.iter() {
        planes.push(ControlPlane::read(&ApiServer::on(node.clone())).await?);
    }
    let config = planes.first().and_then(|plane| plane.config.clone()).unwrap_or_default();
    let (rules, protocol) = wrapped(&config);
    let Some(protocol) = protocol.filter(|_| under_way(&planes).is_none()) else { return Ok(None) };
    if !config.asks(PLUGIN_SOCKET) {
        return Err(PlanError::Kms(rules.iter().map(ToString::to_string).collect()).into());
    }
    let nodes = subject.control_planes;
    let root = planes.first().map_or_else(|| crate::adapters::etcd::ROOT.to_owned(), ControlPlane::root);
    let layout = kubernetes::layout(subject.client, &root).await?;
    let work = Work { subject, layout, rules, protocol };

    let step = subject.context.reporter.stage("Asking every KMS plugin which key it wraps by");
    let from = await_key(nodes, PLUGIN, |_| true).await?;
    step.done();
    let step = subject.context.reporter.stage("Rotating the key in the KMS");
    let (to, mut note) = match rotate_kms(subject.context, subject.cluster, nodes).await.map_err(Box::new)? {
        KmsRotation::Rotated => (await_key(nodes, WORKS, |id| id != from).await?, KEPT),
        KmsRotation::NotOurs => (from.clone(), NOT_OURS),
    };
    step.done();
    let step = subject.context.reporter.stage("Waiting until every API server uses the new key");
    let lagging = work.await_taken_up(&planes, &to, |detail| step.detail(detail)).await?;
    step.done();
    let step = subject.context.reporter.stage("Rewriting");
    let (rewritten, values) = work.rewrite(&to, |detail| step.detail(detail)).await?;
    step.done();
    let retired;
    if retire {
        if let Some(node) = lagging {
            return Err(EncryptionError::Lagging { node, key: to });
        }
        let step = subject.context.reporter.stage("Having the KMS give up the older versions of the key");
        retired = retire_kms(subject.context, subject.cluster, nodes, &to).await.map_err(Box::new)?;
        // A plugin that no longer works would be one that needs what is gone.
        await_key(nodes, WORKS, |id| id == to).await?;
        step.done();
        note = retired.as_deref().unwrap_or(NOT_OURS);
    }
    let note = note.to_owned();
    Ok(Some(Outcome { rewritten, rotated: Some(Rotated { from, to, values, note }), ..Outcome::default() }))
}

/// What a KMS writes, and by which protocol.
fn wrapped(config: &Config) -> (Vec<GroupResource>, Option<KmsProtocol>) {
    let (mut rules, mut protocol) = (Vec::new(), None);
    for (name, group) in config.resources() {
        if let Some(writer) = group.writer().filter(|writer| writer.provider == ProviderKind::Kms) {
            rules.push(GroupResource::parse(name));
            protocol = writer.protocol;
        }
    }
    (rules, protocol)
}

struct Work<'a> {
    subject: &'a Subject<'a>,
    layout: Layout,
    rules: Vec<GroupResource>,
    protocol: KmsProtocol,
}

impl Work<'_> {
    /// Waits until each API server has heard from its plugin of the key `id`, and writes by it; gives the first that has not in
    /// time. By the first protocol, it asks at each write.
    async fn await_taken_up(
        &self,
        planes: &[ControlPlane<ApiServer>],
        id: &str,
        detail: impl Fn(&str),
    ) -> Result<Option<String>, EncryptionError> {
        if self.protocol == KmsProtocol::V1 {
            return Ok(None);
        }
        let hash = format!("key_id_hash=\"sha256:{}\"", hex::encode(Sha256::digest(id)));
        let begun = Instant::now();
        for plane in planes {
            loop {
                let metrics = reload::metrics(plane.server.node(), &plane.manifest.port(), TAKEN_UP_METRIC).await?;
                if metrics.lines().any(|line| line.contains(&hash)) {
                    break;
                }
                if begun.elapsed() > TAKEN_UP {
                    return Ok(Some(plane.name().to_owned()));
                }
                let seconds = begun.elapsed().as_secs();
                detail(&format!("{}: it asks its plugin once a minute ({seconds} s)", plane.name()));
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(None)
    }

    /// Rewrites until etcd holds nothing that another key than `id` has wrapped; gives how many objects were rewritten, and
    /// how many there are.
    async fn rewrite(&self, id: &str, detail: impl Fn(&str)) -> Result<(usize, usize), EncryptionError> {
        let begun = Instant::now();
        let mut rewritten = BTreeSet::new();
        loop {
            let (stale, values) = self.stale(id).await?;
            let Some((first, key)) = stale.first() else { return Ok((rewritten.len(), values)) };
            if begun.elapsed() > TAKEN_UP {
                let (resource, key) = (first.name.to_string(), key.clone());
                return Err(EncryptionError::Left { resource, count: stale.len(), key });
            }
            for (done, chunk) in stale.chunks(PARALLEL).enumerate() {
                detail(&format!("{} of {}", done * PARALLEL, stale.len()));
                let touches = chunk.iter().map(|(located, key)| self.touch(located, key));
                try_join_all(touches).await?;
                rewritten.extend(chunk.iter().map(|(_, key)| key.clone()));
            }
            if self.protocol == KmsProtocol::V2 && !self.stale(id).await?.0.is_empty() {
                // API servers keep their data keys until they have asked the plugin which key it wraps by.
                detail("waiting until the API servers have taken up the new key, once a minute");
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    async fn touch(&self, located: &Located, key: &str) -> Result<(), EncryptionError> {
        let Some(served) = &located.served else {
            return Err(EncryptionError::NotServed { resource: located.name.to_string() });
        };
        match self.protocol {
            KmsProtocol::V2 => kubernetes::touch(self.subject.client, located, served, key).await?,
            // By the first protocol, an API server does not notice that a value is an old key's: it has to change.
            KmsProtocol::V1 => kubernetes::change(self.subject.client, located, served, key).await?,
        }
        Ok(())
    }

    /// The values that another key has wrapped, and how many there are in all.
    async fn stale(&self, id: &str) -> Result<(Vec<(&Located, String)>, usize), EncryptionError> {
        let etcd = Etcd::on(self.subject.control_planes.first().clone());
        let (mut stale, mut values) = (Vec::new(), 0);
        let named = |located: &&Located| self.rules.iter().any(|rule| rule.names(&located.name).is_some());
        for located in self.layout.resources().iter().filter(named) {
            let visit = |entry: &crate::adapters::etcd::EtcdEntry| {
                values += 1;
                if envelope(&entry.value).and_then(|envelope| envelope.is_by(id)) != Some(true) {
                    stale.push((located, entry.key.clone()));
                }
            };
            etcd.scan(&located.prefix, visit).await?;
        }
        Ok((stale, values))
    }
}
