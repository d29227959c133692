//! Taking clusters down, and whatever a killed kprov has left.

use futures_util::future::try_join_all;

use crate::adapters::engine::{Engine, Network};
use crate::adapters::states::States;
use crate::documents::names::ClusterName;

use super::owner::is_own;
use super::{ClusterError, Context, LABEL_CLUSTER, LABEL_OWNER, LABEL_PROCESS, NETWORK};

/// How old a passing container can be, in seconds, while whoever made it is still at work on it.
const PASSING: i64 = 60;

/// What was there to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Containers.
    pub containers: usize,
    /// Whether kprov had a record of the cluster.
    pub record: bool,
    /// kubeconfig files that named it.
    pub kubeconfigs: usize,
}

impl Removed {
    /// Whether there was nothing at all.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Whose containers are removed with a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Those that kprov made.
    Own,
    /// All: the user has named the cluster.
    Any,
}

/// Removes a cluster: its containers with their volumes, its kubeconfig entry, kprov's record of it,
/// and the network if kprov made it and nobody else uses it. Whatever state it is in.
///
/// The caller holds the cluster's lock.
///
/// # Errors
/// [`ClusterError`]; what could be removed is gone then, too.
pub async fn delete(context: &Context, cluster: &ClusterName, whose: Whose) -> Result<Removed, ClusterError> {
    let containers = remove_containers(&context.engine, cluster, whose).await?;
    let removed = forget(context, cluster)?;
    remove_network(context).await?;
    Ok(Removed { containers, ..removed })
}

/// Forgets a cluster: its kubeconfig entry, kprov's record of it and its keys. Its engine is not asked.
///
/// # Errors
/// [`ClusterError`]; what could be removed is gone then, too.
pub(super) fn forget(context: &Context, cluster: &ClusterName) -> Result<Removed, ClusterError> {
    let kubeconfigs = context.kubeconfig.remove(cluster)?.len();
    let store = context.store();
    let record = store.names().iter().any(|name| name == cluster);
    // Last: as long as something is left, the next command has to know of it.
    States::at(&context.paths).forget_golden(cluster)?;
    store.forget(cluster)?;
    Ok(Removed { containers: 0, record, kubeconfigs })
}

/// Removes a cluster's containers, all at once, and says how many there were.
pub(super) async fn remove_containers(
    engine: &Engine,
    cluster: &ClusterName,
    whose: Whose,
) -> Result<usize, ClusterError> {
    let mut containers = engine.containers(LABEL_CLUSTER, Some(cluster)).await?;
    containers.retain(|container| whose == Whose::Any || is_own(container));
    try_join_all(containers.iter().map(|container| engine.remove_container(&container.id))).await?;
    Ok(containers.len())
}

/// Removes what a kprov has made outside any cluster and was killed before it could clean up.
///
/// # Errors
/// [`ClusterError::Engine`] if the engine does not answer, or a container could not be removed.
pub async fn delete_leftovers(context: &Context) -> Result<usize, ClusterError> {
    let engine = &context.engine;
    let mut removed = 0;
    let passing = engine.containers(LABEL_OWNER, Some("kprov")).await?;
    let now = if passing.is_empty() { 0 } else { engine.now().await?.as_second() };
    for container in passing {
        // Passing things live for seconds, and longer than their maker only if it was killed. An engine elsewhere may
        // be used by processes that are not on this host.
        let maker = container.labels.get(LABEL_PROCESS).and_then(|id| id.parse().ok());
        let is_stale = now - container.created > PASSING || engine.is_local() && !maker.is_some_and(is_alive);
        if !container.labels.contains_key(LABEL_CLUSTER) && is_stale {
            engine.remove_container(&container.id).await?;
            removed += 1;
        }
    }
    remove_network(context).await?;
    Ok(removed)
}

fn is_alive(process: i32) -> bool {
    let test = |id| !matches!(rustix::process::test_kill_process(id), Err(rustix::io::Errno::SRCH));
    rustix::process::Pid::from_raw(process).is_some_and(test)
}

/// Removes the clusters' network if kprov made it and no container belongs to it, not even a stopped one.
pub(super) async fn remove_network(context: &Context) -> Result<(), ClusterError> {
    let engine = &context.engine;
    if left_over_network(engine).await?.is_none() {
        return Ok(());
    }
    // Whoever makes nodes holds it from looking for the network until they belong to it.
    let _lock = context.store().network_lock().await?;
    let Some(network) = left_over_network(engine).await? else { return Ok(()) };
    match engine.remove_network(&network.id).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        // Somebody has begun to use it this very moment: then it is not left over.
        Err(_) if engine.network_is_used(NETWORK).await? => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The clusters' network, if kprov made it and nobody uses it.
async fn left_over_network(engine: &Engine) -> Result<Option<Network>, ClusterError> {
    let Some(network) = engine.network(NETWORK).await? else { return Ok(None) };
    let is_ours = network.labels.get(LABEL_OWNER).is_some_and(|owner| owner == "kprov");
    Ok(if is_ours && !engine.network_is_used(NETWORK).await? { Some(network) } else { None })
}
