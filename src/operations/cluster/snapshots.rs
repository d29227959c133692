//! Snapshots of clusters: taking one, going back to one, starting from one.

use std::time::Duration;

use futures_util::future::try_join_all;

use crate::adapters::kubeconfig;
use crate::adapters::kubernetes::{self, ready};
use crate::adapters::node::Node;
use crate::adapters::states::{SnapshotError, States};
use crate::documents::encryption::Journal;
use crate::documents::keys::KeyRing;
use crate::documents::names::{ClusterName, SnapshotName};
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::render;
use crate::documents::snapshot::{Blob, Draft, Held, LARGEST, StateManifest, packed_file, unfolded};
use crate::operations::verify;

use super::owner::{record_here, require_own};
use super::prove::Proof;
use super::reach::client_of;
use super::succession::recover;
use super::timed::Timed;
use super::{ClusterError, Context, LABEL_CLUSTER, Outcome, capture, find, image, restore};

/// How long an API server may take to answer before a cluster is saved as one whose API server does not.
const ANSWER: Duration = Duration::from_secs(10);

/// How often it is asked.
const ASK: Duration = Duration::from_millis(200);

/// Takes a snapshot of a running cluster under a new name.
///
/// # Errors
/// [`SnapshotError::Exists`] if the name is taken, [`ClusterError::NoRecord`] if kprov did not make the cluster,
/// others as they come. The cluster and all other snapshots are as before.
pub async fn save(
    context: &Context,
    cluster: &ClusterName,
    name: &SnapshotName,
    with_images: bool,
) -> Result<StateManifest, ClusterError> {
    let states = States::at(&context.paths);
    states.check_free(name)?;
    let store = context.store();
    let _lock = store.lock(cluster)?;
    recover(context, cluster).await?;
    let found = find(&context.engine, Some(cluster)).await?;
    let Some(record) = record_here(context, cluster).await? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    let keys = store.load_keys(cluster)?;
    let nodes = found.nodes(&context.engine);
    whole(&record, &nodes)?;
    refuse_change(cluster, &nodes).await?;
    let step = context.reporter.stage("Looking at what holds");
    let held = what_holds(context, &record, keys.as_ref(), &nodes).await?;
    step.done();
    for warning in held.warnings() {
        context.reporter.warn(&warning.replace("when this was saved", "as it is saved"));
    }
    let step = context.reporter.stage("Reading the state of every node");
    let mut draft = capture::capture(context, &record, keys.as_ref(), &nodes).await?;
    draft.manifest.held = Some(held);
    step.done();
    if with_images {
        let step = context.reporter.stage("Reading the images that were loaded");
        let built_in = image::containerd_metadata(context, &record.image_id).await?;
        let images = try_join_all(nodes.iter().map(|node| capture::loaded_images(node, &built_in))).await?;
        for (state, bytes) in draft.manifest.nodes.iter_mut().zip(images) {
            if let Some(bytes) = bytes {
                let blob = Blob::of(&bytes);
                state.images = Some(blob.clone());
                draft.blobs.push((blob, bytes));
            }
        }
        step.done();
    }
    usable(&draft)?;
    let step = context.reporter.stage("Keeping it");
    states.keep_named(&draft, name)?;
    step.done();
    Ok(draft.manifest)
}

/// Nothing, if every node that the profile plans is there: one that is not kept cannot come back.
fn whole(record: &Record, nodes: &[Node]) -> Result<(), SnapshotError> {
    let planned = render::plan_nodes(&record.profile, &record.name).into_iter().map(|plan| plan.name);
    let gone: Vec<String> = planned.filter(|name| nodes.iter().all(|node| node.name != *name)).collect();
    if gone.is_empty() { Ok(()) } else { Err(SnapshotError::Incomplete { cluster: record.name.to_string(), gone }) }
}

/// Nothing, if what was read can be restored, as far as that can be told before: this host finds its way to it, and all of
/// it together is no larger than an import takes.
fn usable(draft: &Draft) -> Result<(), SnapshotError> {
    let fail = |node: &str, reason: String| SnapshotError::Archive { node: node.to_owned(), reason };
    let bytes = |blob: &Blob| draft.blobs.iter().find(|(known, _)| known == blob).map(|(_, bytes)| bytes.as_slice());
    let record = &draft.manifest.record;
    let first = render::plan_nodes(&record.profile, &record.name).into_iter().next();
    let mut size = 0;
    for node in &draft.manifest.nodes {
        let archive = bytes(&node.archive).unwrap_or_default();
        if first.as_ref().is_some_and(|first| first.name == node.name) {
            let admin = packed_file(archive, kubeconfig::ADMIN, LARGEST).map_err(|reason| fail(&node.name, reason))?;
            restore::access(record, &node.name, admin.as_deref().map(Vec::as_slice))?;
        }
        for packed in [Some(archive), node.images.as_ref().and_then(bytes)].into_iter().flatten() {
            size += unfolded(packed).map_err(|reason| fail(&node.name, reason))?;
        }
    }
    if size > LARGEST {
        return Err(SnapshotError::Large { cluster: record.name.to_string(), size });
    }
    Ok(())
}

/// Nothing, if no change of encryption is under way: its journals are no part of a state.
async fn refuse_change(cluster: &ClusterName, nodes: &[Node]) -> Result<(), ClusterError> {
    for node in nodes.iter().filter(|node| node.role == Role::ControlPlane) {
        if node.read_file(Journal::FILE).await?.is_some() {
            return Err(SnapshotError::UnderWay { cluster: cluster.to_string(), node: node.name.clone() }.into());
        }
    }
    Ok(())
}

/// What holds of a cluster now, so that no more is asked of it when it comes back.
async fn what_holds(
    context: &Context,
    record: &Record,
    keys: Option<&KeyRing>,
    nodes: &[Node],
) -> Result<Held, ClusterError> {
    let silent = Held { api_server: false, ..Held::default() };
    let Ok(client) = client_of(context, record).await else { return Ok(silent) };
    let answers = async {
        while !(kubernetes::has_roles(&client).await && kubernetes::is_ready(&client).await) {
            tokio::time::sleep(ASK).await;
        }
    };
    if tokio::time::timeout(ANSWER, answers).await.is_err() {
        return Ok(silent);
    }
    let version = record.version.parse()?;
    let cgroup_v1 = context.engine.info().await?.cgroup_version == "1";
    let inputs = record.inputs(&version, keys, &context.templates, cgroup_v1);
    let proof = Proof {
        context,
        client: &client,
        nodes,
        addresses: &record.nodes,
        inputs: &inputs,
        since: ready::Since::Ever,
        patience: context.patience,
        held: Held::default(),
    };
    let not_ready = ready::not_ready(&proof.expectation(), &ready::observe(&client).await?);
    let target = verify::Target { client: &client, nodes, inputs: Some(&inputs), since: ready::Since::Ever };
    let (failed, unseen) = match verify::verify(&target).await {
        Ok(report) => (report.failed(), None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    Ok(Held { api_server: true, not_ready, failed, unseen })
}

/// A snapshot's identity and manifest. With `cluster`, it has to be of that cluster.
fn open(
    states: &States,
    name: &SnapshotName,
    cluster: Option<&ClusterName>,
) -> Result<(String, StateManifest), SnapshotError> {
    let (id, manifest) = states.named(name)?;
    match cluster.filter(|wanted| **wanted != manifest.record.name) {
        Some(wanted) => {
            Err(SnapshotError::Cluster { found: manifest.record.name.to_string(), wanted: wanted.to_string() })
        }
        None => Ok((id, manifest)),
    }
}

/// Brings the cluster of a snapshot back to it, whatever it is now, or makes it if it is no more.
///
/// # Errors
/// [`ClusterError`]; nothing has been changed if the snapshot cannot be used.
pub async fn restore_snapshot(
    context: &Context,
    name: &SnapshotName,
    cluster: Option<&ClusterName>,
    retain: bool,
) -> Result<Outcome, ClusterError> {
    let timed = Timed::begin(context, "snapshot restore");
    let context = &timed.context;
    let since = context.engine.now().await?;
    let states = States::at(&context.paths);
    let (id, mut manifest) = open(&states, name, cluster)?;
    let found = manifest.record.name.clone();
    let store = context.store();
    let _lock = store.lock(&found)?;
    let record = record_here(context, &found).await?;
    let existing = context.engine.containers(LABEL_CLUSTER, Some(&found)).await?;
    if !existing.is_empty() && record.is_none() {
        // Somebody else's.
        return Err(ClusterError::Exists { name: found.to_string(), nodes: existing.len() });
    }
    require_own(&found, &existing)?;
    recover(context, &found).await?;
    match record {
        // What its user's kubeconfig says goes on holding.
        Some(record) => manifest.record.api_server_port = record.api_server_port,
        None => super::create::keep_or_choose_port(context, &mut manifest.record),
    }
    let state = restore::prepare(context, manifest).await?;
    let outcome = restore::restore(context, &state, since, retain).await?;
    if !matches!(states.golden(&found), Ok(Some(_))) {
        states.set_golden(&found, &id)?;
    }
    Ok(timed.end(outcome))
}

/// Makes the cluster of a snapshot, which must not be there. A later `reset` goes back to the snapshot.
///
/// # Errors
/// [`ClusterError::Exists`] if it is there; others as they come.
pub async fn create_from(
    context: &Context,
    name: &SnapshotName,
    cluster: Option<&ClusterName>,
    retain: bool,
) -> Result<Outcome, ClusterError> {
    let timed = Timed::begin(context, "up --from");
    let context = &timed.context;
    let since = context.engine.now().await?;
    let states = States::at(&context.paths);
    let (id, mut manifest) = open(&states, name, cluster)?;
    let found = manifest.record.name.clone();
    let store = context.store();
    let _lock = store.lock(&found)?;
    super::create::make_way(context, &found).await?;
    super::create::keep_or_choose_port(context, &mut manifest.record);
    let state = restore::prepare(context, manifest).await?;
    // Before there is a cluster: one that comes about has what `reset` goes back to, one that does not takes it along.
    states.set_golden(&found, &id)?;
    let outcome = restore::restore(context, &state, since, retain).await?;
    Ok(timed.end(outcome))
}

#[cfg(test)]
mod tests {
    use crate::adapters::engine::Engine;
    use crate::documents::files::{FileEntry, pack};
    use crate::documents::snapshot;
    use crate::documents::snapshot::tests::draft;

    use super::*;

    #[test]
    fn a_cluster_with_a_node_that_is_gone_is_not_kept() {
        let (_folder, engine) = Engine::silent();
        let record = draft("c", b"", 0).manifest.record;
        whole(&record, &[Node::new(engine, "c-control-plane", Role::ControlPlane)]).unwrap();
        let error = whole(&record, &[]).unwrap_err();
        assert!(matches!(&error, SnapshotError::Incomplete { gone, .. } if gone == &["c-control-plane"]), "{error}");
    }

    #[test]
    fn what_no_restore_would_take_is_not_kept() {
        let of = |files: &[FileEntry]| draft("c", &snapshot::pack(&pack(files)).unwrap(), 0);
        let error = usable(&of(&[])).unwrap_err().to_string();
        assert!(error.contains("admin.conf"), "{error}");
        let odd = FileEntry::new(kubeconfig::ADMIN, 0o600, "kind: Config\nusers: []\n");
        assert!(usable(&of(&[odd])).is_err());
        // No archive at all.
        assert!(usable(&draft("c", b"x", 0)).is_err());
    }
}
