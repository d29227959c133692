//! Snapshots of clusters: taking one, going back to one, starting from one.

use futures_util::future::try_join_all;

use crate::adapters::states::{SnapshotError, States};
use crate::documents::names::{ClusterName, SnapshotName};
use crate::documents::snapshot::{Blob, StateManifest};

use super::owner::{record_here, require_own};
use super::{ClusterError, Context, LABEL_CLUSTER, Outcome, capture, find, image, restore};

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
    let found = find(&context.engine, Some(cluster)).await?;
    let Some(record) = record_here(context, cluster).await? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    if record.load_balancer_image.is_some() {
        return Err(SnapshotError::LoadBalancer { cluster: cluster.to_string() }.into());
    }
    let keys = store.load_keys(cluster)?;
    let nodes = found.nodes(&context.engine);
    let step = context.reporter.stage("Reading the state of every node");
    let mut draft = capture::capture(context, &record, keys.as_ref(), &nodes).await?;
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
    let step = context.reporter.stage("Keeping it");
    states.keep_named(&draft, name)?;
    step.done();
    Ok(draft.manifest)
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
    Ok(outcome)
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
    let since = context.engine.now().await?;
    let states = States::at(&context.paths);
    let (id, mut manifest) = open(&states, name, cluster)?;
    let found = manifest.record.name.clone();
    let store = context.store();
    let _lock = store.lock(&found)?;
    super::create::make_way(context, &found).await?;
    super::create::keep_or_choose_port(context, &mut manifest.record);
    let state = restore::prepare(context, manifest).await?;
    let outcome = restore::restore(context, &state, since, retain).await?;
    states.set_golden(&found, &id)?;
    Ok(outcome)
}
