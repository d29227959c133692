//! Taking clusters down, and whatever a killed kprov has left.

use futures_util::future::try_join_all;

use crate::adapters::engine::{Engine, Network};
use crate::adapters::states::States;
use crate::documents::names::ClusterName;

use super::owner::is_own;
use super::registry::{Unused, remove_unused_registries};
use super::{ClusterError, Context, LABEL_CLUSTER, LABEL_OWNER, LABEL_PROCESS, LABEL_SERVER, thaw};

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

/// All that there is of a cluster, to be removed.
trait Estate {
    /// What goes wrong.
    type Error;

    /// Its containers, of every generation.
    async fn containers(&self) -> Result<Vec<String>, Self::Error>;
    /// Removes a container with its volumes. One that is gone is no error.
    async fn remove(&self, container: &str) -> Result<(), Self::Error>;
    /// Takes it out of the user's kubeconfig, and says out of how many files.
    fn forget_kubeconfig(&self) -> Result<usize, Self::Error>;
    /// Forgets what `reset` goes back to.
    fn forget_golden(&self) -> Result<(), Self::Error>;
    /// Forgets its record and its keys, and says whether there was one.
    fn forget_record(&self) -> Result<bool, Self::Error>;
}

/// Removes all of it. The record goes last: as long as something is left, the next command has to know of it.
async fn dissolve<E: Estate>(estate: &E) -> Result<Removed, E::Error> {
    let containers = estate.containers().await?;
    try_join_all(containers.iter().map(|container| estate.remove(container))).await?;
    let removed = forget_all(estate)?;
    Ok(Removed { containers: containers.len(), ..removed })
}

fn forget_all<E: Estate>(estate: &E) -> Result<Removed, E::Error> {
    let kubeconfigs = estate.forget_kubeconfig()?;
    estate.forget_golden()?;
    Ok(Removed { containers: 0, record: estate.forget_record()?, kubeconfigs })
}

/// A cluster on the engine, with what is known of it on this host.
struct Live<'a> {
    context: &'a Context,
    cluster: &'a ClusterName,
    whose: Whose,
}

impl Estate for Live<'_> {
    type Error = ClusterError;

    async fn containers(&self) -> Result<Vec<String>, ClusterError> {
        let engine = &self.context.engine;
        let found = engine.containers(LABEL_CLUSTER, Some(self.cluster)).await?;
        // Nobody else makes those.
        let servers = engine.containers(LABEL_SERVER, Some(self.cluster)).await?;
        let meant = found.into_iter().filter(|container| self.whose == Whose::Any || is_own(container));
        Ok(meant.chain(servers).map(|container| container.id).collect())
    }

    async fn remove(&self, container: &str) -> Result<(), ClusterError> {
        Ok(thaw::end(self.context, container, || self.context.engine.remove_container(container)).await?)
    }

    fn forget_kubeconfig(&self) -> Result<usize, ClusterError> {
        Ok(self.context.kubeconfig.remove(self.cluster)?.len())
    }

    fn forget_golden(&self) -> Result<(), ClusterError> {
        Ok(States::at(&self.context.paths).forget_golden(self.cluster)?)
    }

    fn forget_record(&self) -> Result<bool, ClusterError> {
        let store = self.context.store();
        let known = store.names().iter().any(|name| name == self.cluster);
        store.forget(self.cluster)?;
        Ok(known)
    }
}

/// Removes a cluster: its containers with their volumes, also those that stand beside it; its kubeconfig entry, kprov's
/// record of it, and the network if kprov made it and nobody else uses it. Whatever state it is in.
///
/// The caller holds the cluster's lock.
///
/// # Errors
/// [`ClusterError::Engine`], [`ClusterError::Kubeconfig`], [`ClusterError::Snapshot`] or [`ClusterError::Records`] if a
/// part of it cannot be removed; what is left is known, so that the next try removes it.
pub async fn delete(context: &Context, cluster: &ClusterName, whose: Whose) -> Result<Removed, ClusterError> {
    let removed = dissolve(&Live { context, cluster, whose }).await?;
    remove_unused_registries(context, Unused::Passing).await?;
    remove_networks(context).await?;
    Ok(removed)
}

/// Forgets a cluster: its kubeconfig entry, kprov's record of it and its keys. Its engine is not asked.
///
/// # Errors
/// As [`delete`], but for the engine.
pub(super) fn forget(context: &Context, cluster: &ClusterName) -> Result<Removed, ClusterError> {
    forget_all(&Live { context, cluster, whose: Whose::Own })
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
    removed += remove_unused_registries(context, Unused::Passing).await?.len();
    remove_networks(context).await?;
    Ok(removed)
}

fn is_alive(process: i32) -> bool {
    let test = |id| !matches!(rustix::process::test_kill_process(id), Err(rustix::io::Errno::SRCH));
    rustix::process::Pid::from_raw(process).is_some_and(test)
}

/// Removes the networks that kprov made and no container belongs to, not even a stopped one.
pub(super) async fn remove_networks(context: &Context) -> Result<(), ClusterError> {
    let engine = &context.engine;
    if left_over_networks(engine).await?.is_empty() {
        return Ok(());
    }
    // Whoever makes nodes holds it from looking for the network until they belong to it.
    let _lock = context.store().network_lock().await?;
    for network in left_over_networks(engine).await? {
        match engine.remove_network(&network.id).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            // Somebody has begun to use it this very moment: then it is not left over.
            Err(_) if engine.network_is_used(&network.name).await? => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The networks that kprov made and nobody uses.
async fn left_over_networks(engine: &Engine) -> Result<Vec<Network>, ClusterError> {
    let mut networks = Vec::new();
    for network in engine.networks(LABEL_OWNER, "kprov").await? {
        if !engine.network_is_used(&network.name).await? {
            networks.push(network);
        }
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    /// What is left of a cluster.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    struct State {
        containers: Vec<String>,
        kubeconfig: bool,
        golden: bool,
        record: bool,
    }

    /// A cluster in memory, whose kprov is killed after so many steps.
    struct Memory {
        state: RefCell<State>,
        left: Cell<usize>,
    }

    #[derive(Debug, PartialEq, Eq)]
    struct Dead;

    impl Memory {
        fn step<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T, Dead> {
            self.left.set(self.left.get().checked_sub(1).ok_or(Dead)?);
            let mut state = self.state.borrow_mut();
            let done = act(&mut state);
            let known = state.record;
            assert!(known || *state == State::default(), "nobody knows of what is left: {state:?}");
            Ok(done)
        }
    }

    impl Estate for Memory {
        type Error = Dead;

        async fn containers(&self) -> Result<Vec<String>, Dead> {
            self.step(|state| state.containers.clone())
        }

        async fn remove(&self, container: &str) -> Result<(), Dead> {
            self.step(|state| state.containers.retain(|one| one != container))
        }

        fn forget_kubeconfig(&self) -> Result<usize, Dead> {
            self.step(|state| usize::from(std::mem::take(&mut state.kubeconfig)))
        }

        fn forget_golden(&self) -> Result<(), Dead> {
            self.step(|state| state.golden = false)
        }

        fn forget_record(&self) -> Result<bool, Dead> {
            self.step(|state| std::mem::take(&mut state.record))
        }
    }

    #[tokio::test]
    async fn a_killed_removal_is_completed_by_the_next_one_at_every_step() {
        let names = ["c-control-plane", "c-worker", "c-control-plane.kprov-old", "c-worker.kprov-next"];
        let containers = names.map(str::to_owned).to_vec();
        let whole = State { containers, kubeconfig: true, golden: true, record: true };
        for death in 0.. {
            let memory = Memory { state: RefCell::new(whole.clone()), left: Cell::new(death) };
            let Err(Dead) = dissolve(&memory).await else {
                assert_eq!(death, 8);
                break;
            };
            memory.left.set(usize::MAX);
            dissolve(&memory).await.unwrap();
            assert_eq!(memory.state.into_inner(), State::default());
        }
    }
}
