//! Generations on a real engine, by the record on this host.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::adapters::engine::{Container, EngineError};
use crate::adapters::kubernetes::ready;
use crate::adapters::node::Node;
use crate::adapters::records::{Lock, Succession};
use crate::documents::keys::KeyRing;
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;
use crate::documents::record::{Record, RecordStatus};
use crate::documents::render;

use super::super::delete::remove_networks;
use super::super::error::{LogFolder, Now};
use super::super::interrupt::interrupted;
use super::super::owner::is_own;
use super::super::reach::client_of;
use super::super::{
    ClusterError, Context, Found, LABEL_CLUSTER, LABEL_GENERATION, Outcome, Whose, delete, kubelets, logs, thaw,
};
use super::{After, Failure, Member, Settled, Successor, World, raze, settle, succeed};

/// How long addresses and ports of a container that has just been killed may stay taken.
const RELEASE: Duration = Duration::from_secs(15);

/// How often it is tried again until then.
const AGAIN: Duration = Duration::from_millis(50);

/// How often an API server is asked.
const ASK: Duration = Duration::from_millis(200);

/// How long nodes that have been put back may take to answer: a cluster that was broken before is so again.
const ANSWER: Duration = Duration::from_secs(90);

impl Member {
    /// What a container's name and label say of it.
    pub(in super::super) fn of(container: &Container) -> Self {
        let label = container.labels.get(LABEL_GENERATION);
        Self {
            id: container.id.clone(),
            name: container.name.clone(),
            // Those of kprov's first versions say nothing.
            generation: label.and_then(|label| label.parse().ok()).unwrap_or_default(),
        }
    }
}

/// A cluster on the engine. The caller holds its lock.
pub(in super::super) struct Live<'a> {
    context: &'a Context,
    name: &'a ClusterName,
    logs: Mutex<Option<LogFolder>>,
}

impl<'a> Live<'a> {
    pub(in super::super) fn new(context: &'a Context, name: &'a ClusterName) -> Self {
        Self { context, name, logs: Mutex::new(None) }
    }

    /// Starts a container; waits until what it needs has been released by the one before.
    pub(in super::super) async fn start_one(&self, member: &Member) -> Result<(), ClusterError> {
        Ok(once_released(|| self.context.engine.start_container(&member.id)).await?)
    }

    /// Starts containers whose addresses the engine chooses, so that it most likely chooses those that the record knows:
    /// one after the other, and not before all are free. One that has just been killed may have its own for a moment more.
    pub(in super::super) async fn start_in_order(&self, members: &[Member]) -> Result<(), ClusterError> {
        self.start_in_turn(&self.by_address(members)?).await
    }

    /// Starts containers one after the other, and not before the addresses of those before them are free.
    pub(in super::super) async fn start_in_turn(&self, members: &[Member]) -> Result<(), ClusterError> {
        self.await_addresses(members).await?;
        for member in members {
            self.start_one(member).await?;
        }
        Ok(())
    }

    /// Waits until the addresses of those before `members` are free, but not for long.
    pub(in super::super) async fn await_addresses(&self, members: &[Member]) -> Result<(), ClusterError> {
        let own: BTreeSet<String> = self.members().await?.into_iter().map(|member| member.id).collect();
        let starting: BTreeSet<&str> = members.iter().map(|member| member.id.as_str()).collect();
        let deadline = tokio::time::Instant::now() + RELEASE;
        let record = self.context.store().load(self.name)?;
        while let Some(record) = &record {
            let used = self.context.engine.addresses_in_use(record.network()).await?;
            let lingers = |id: &String| own.contains(id) && !starting.contains(id.as_str());
            if !used.values().any(lingers) || tokio::time::Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// The members in the order of the addresses that the record knows. An engine gives out the lowest that is free: in
    /// this order, most often the same ones again.
    pub(in super::super) fn by_address(&self, members: &[Member]) -> Result<Vec<Member>, ClusterError> {
        let record = self.context.store().load(self.name)?;
        let address = |member: &Member| {
            let mut nodes = record.iter().flat_map(|record| &record.nodes);
            nodes.find(|node| node.name == member.place()).and_then(|node| node.ipv4)
        };
        let mut members = members.to_vec();
        members.sort_by_key(address);
        Ok(members)
    }
}

impl World for Live<'_> {
    type Error = ClusterError;

    async fn members(&self) -> Result<Vec<Member>, ClusterError> {
        let containers = self.context.engine.containers(LABEL_CLUSTER, Some(self.name)).await?;
        let own = containers.into_iter().filter(is_own);
        Ok(own.map(|container| Member::of(&container)).collect())
    }

    fn proven(&self) -> Result<Option<u64>, ClusterError> {
        let record = self.context.store().load(self.name)?;
        Ok(record.filter(|record| record.status == RecordStatus::Ready).map(|record| record.generation))
    }

    async fn rename(&self, member: &Member, name: &str) -> Result<(), ClusterError> {
        Ok(self.context.engine.rename_container(&member.id, name).await?)
    }

    async fn kill(&self, member: &Member) -> Result<(), ClusterError> {
        match thaw::end(self.context, &member.id, || self.context.engine.kill_container(&member.id, "KILL")).await {
            // It did not run.
            Err(EngineError::Conflict { .. } | EngineError::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn start(&self, members: &[Member]) -> Result<(), ClusterError> {
        self.start_in_order(members).await
    }

    async fn remove(&self, member: &Member) -> Result<(), ClusterError> {
        Ok(thaw::end(self.context, &member.id, || self.context.engine.remove_container(&member.id)).await?)
    }

    fn tidy(&self) -> Result<(), ClusterError> {
        tidy(self.context, self.name)
    }

    async fn examine(&self, error: &ClusterError) {
        if matches!(error, ClusterError::Interrupted) {
            return;
        }
        let members = self.members().await.unwrap_or_default();
        let nodes: Vec<Node> = members
            .iter()
            .filter(|member| !super::is_beside(&member.name))
            .map(|member| Node::new(self.context.engine.clone(), &member.name, Role::Worker))
            .collect();
        let kept = logs::keep(&self.context.paths, self.name, &nodes).await;
        if let Ok(mut logs) = self.logs.lock() {
            *logs = kept;
        }
    }
}

/// Tries what needs a port that a container which has just been killed may still have, until it has let go of it.
///
/// # Errors
/// Whatever fails but for that; [`EngineError::PortTaken`] if the port is not free in good time.
pub(in super::super) async fn once_released<T, F: Future<Output = Result<T, EngineError>>>(
    mut attempt: impl FnMut() -> F,
) -> Result<T, EngineError> {
    let deadline = tokio::time::Instant::now() + RELEASE;
    loop {
        match attempt().await {
            Err(EngineError::PortTaken { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

/// Writes down that a generation is proven: `record`, which says which one, with its keys, and the user's kubeconfig.
/// From the moment that the record is written it holds, whatever else may fail.
/// Gives the file that the user's kubeconfig is in.
///
/// # Errors
/// [`ClusterError::Records`] or [`ClusterError::Kubeconfig`] if a file cannot be written.
pub(in super::super) fn commit(
    context: &Context,
    record: &mut Record,
    keys: Option<&KeyRing>,
    kubeconfig: &str,
) -> Result<PathBuf, ClusterError> {
    let store = context.store();
    let succession = Succession::new(record.generation, keys, kubeconfig);
    store.stage(&record.name, &succession)?;
    record.status = RecordStatus::Ready;
    store.save(record)?;
    complete(context, &record.name, succession)
}

/// Does what is still to be done when a record has been written.
fn complete(context: &Context, name: &ClusterName, succession: Succession) -> Result<PathBuf, ClusterError> {
    let store = context.store();
    let (keys, kubeconfig) = succession.open()?;
    match keys {
        Some(keys) => store.save_keys(name, &keys)?,
        None => store.forget_keys(name)?,
    }
    let path = context.kubeconfig.merge(&kubeconfig)?;
    store.forget_staged(name)?;
    Ok(path)
}

/// Ends what [`commit`] has begun, or takes it back if it was not completed.
fn tidy(context: &Context, name: &ClusterName) -> Result<(), ClusterError> {
    let store = context.store();
    let Some(succession) = store.staged(name)? else { return Ok(()) };
    let record = store.load(name)?;
    if record.is_some_and(|record| record.status == RecordStatus::Ready && record.generation == succession.generation) {
        complete(context, name, succession)?;
    }
    Ok(store.forget_staged(name)?)
}

/// Lets a new generation follow, and says in an error what there is now if it does not come about.
///
/// # Errors
/// What failed if nothing has been touched; otherwise [`ClusterError::Replace`], or [`ClusterError::Create`] if there was
/// nothing before.
pub(in super::super) async fn follow<'a, S: Successor<Live<'a>, Outcome = Outcome>>(
    context: &'a Context,
    name: &'a ClusterName,
    retain: bool,
    successor: &S,
) -> Result<Outcome, ClusterError> {
    let world = Live::new(context, name);
    let known = context.store().load(name)?.is_some();
    let stop = async {
        interrupted().await;
        if !retain {
            context.reporter.info("Cleaning up; Ctrl-C again ends at once, and the next command cleans up then.");
        }
        ClusterError::Interrupted
    };
    let Failure { error, after } = match succeed(&world, successor, &context.reporter, retain, stop).await {
        Ok((outcome, Ok(_))) => return Ok(outcome),
        Ok((outcome, Err(error))) => {
            let warning = format!("the nodes from before could not be removed: {error}; `kprov verify {name}` does it");
            context.reporter.warn(&warning);
            return Ok(outcome);
        }
        Err(failure) => failure,
    };
    let logs = world.logs.lock().map_or(None, |mut logs| logs.take());
    let now = match after {
        After::Untouched => return Err(error),
        After::Nothing => {
            let left = clean_up(context, name, known).await.err();
            let left = left.map(|failed| format!("cleaning up failed, too: {failed}; `kprov down {name}` tries again"));
            return Err(ClusterError::Create { name: name.to_string(), left, source: Box::new(error), logs });
        }
        After::Retained => Now::Retained { name: name.to_string() },
        After::PutBack => Now::PutBack,
        After::Proven => Now::Proven { name: name.to_string() },
        After::Unsettled(failed) => Now::Unsettled { name: name.to_string(), failed: failed.to_string() },
    };
    Err(ClusterError::Replace { name: name.to_string(), now, source: Box::new(error), logs })
}

/// Removes what there is of a cluster whose nodes have not come about; what was known of it before stays.
async fn clean_up(context: &Context, name: &ClusterName, known: bool) -> Result<(), ClusterError> {
    if known { remove_networks(context).await } else { delete(context, name, Whose::Own).await.map(|_| ()) }
}

/// Puts right what a kprov has left that was killed while one generation followed another. The caller holds the
/// cluster's lock. Without a record, nothing is known of the cluster, and nothing is done.
///
/// # Errors
/// [`ClusterError`]; it can be called again, and goes on from there.
pub(in super::super) async fn recover(context: &Context, name: &ClusterName) -> Result<Settled, ClusterError> {
    let Some(record) = super::super::record_here(context, name).await? else { return Ok(Settled::Nothing) };
    let world = Live::new(context, name);
    let begun = world.members().await?.iter().any(|member| super::is_beside(&member.name));
    let step = begun.then(|| context.reporter.stage("Putting right what a killed command left"));
    let since = context.engine.now().await?;
    let settled = settle(&world).await?;
    if let Some(step) = step {
        step.done();
    }
    match settled {
        Settled::PutBack => {
            context
                .reporter
                .warn("a reset or restore was killed midway: the nodes from before are back in their places");
            answer(context, &record, since).await;
        }
        Settled::Removed => {
            context.reporter.info("A reset or restore was killed midway: what it left beside the cluster is gone.");
        }
        Settled::Nothing => {}
    }
    Ok(settled)
}

/// Takes the lock of a cluster that is about to be changed, and puts right what a killed kprov has left beside it. What is
/// looked at afterwards stays as it is.
///
/// # Errors
/// [`ClusterError::Records`] if another kprov is at work on the cluster; [`ClusterError`] if what is beside it could not be put right.
pub async fn lock(context: &Context, name: &ClusterName) -> Result<Lock, ClusterError> {
    let lock = context.store().lock(name)?;
    match recover(context, name).await {
        // A record of a cluster of that name on another engine says nothing of this one.
        Ok(_) | Err(ClusterError::Elsewhere { .. }) => Ok(lock),
        Err(error) => Err(error),
    }
}

/// The same as [`recover`], for whoever only looks at a cluster: it is done if there is something to be done.
///
/// # Errors
/// [`ClusterError::Records`] if another kprov is at work on the cluster, such as the one that changes its generation.
pub async fn recover_unless_whole(context: &Context, found: &Found) -> Result<bool, ClusterError> {
    let staged = || context.store().staged(&found.name).is_ok_and(|staged| staged.is_some());
    if found.beside.is_empty() && !staged() {
        return Ok(false);
    }
    if context.store().load(&found.name)?.is_none() {
        return Ok(false);
    }
    let _lock = context.store().lock(&found.name)?;
    Ok(recover(context, &found.name).await? != Settled::Nothing)
}

/// Waits until nodes that have just been put back are what they were, but not for ever: they may have been broken before.
async fn answer(context: &Context, record: &Record, since: Timestamp) {
    let name = &record.name;
    let step = context.reporter.stage("Waiting until they are what they were");
    let answers = async {
        let plan = render::plan_nodes(&record.profile, name);
        let client = client_of(context, record).await.ok()?;
        let control_planes = plan.iter().filter(|plan| plan.role == Role::ControlPlane);
        let mut expected = ready::Expectation {
            nodes: plan.iter().map(|node| node.name.clone()).collect(),
            control_planes: control_planes.map(|node| node.name.clone()).collect(),
            pods: !record.profile.spec.networking.disable_default_cni,
            since: ready::Since::Ever,
            ..ready::Expectation::default()
        };
        // What the API server says first is from before: what was not ready then is not waited for.
        expected.except = loop {
            match ready::observe(&client).await {
                Ok(before) => break ready::not_ready(&expected, &before),
                Err(_) => tokio::time::sleep(ASK).await,
            }
        };
        expected.since = ready::Since::Then(since);
        // They have run since before there was an API server.
        let nodes: Vec<Node> =
            plan.iter().map(|plan| Node::new(context.engine.clone(), &plan.name, plan.role)).collect();
        kubelets::start_anew(&nodes).await.ok()?;
        let ready = ready::wait(&client, &expected, ANSWER, |pending| {
            step.detail(pending.first().map_or("", String::as_str));
        });
        tokio::select! {
            ready = ready => ready.ok(),
            never = kubelets::rouse(&client, &nodes) => match never {},
        }
    };
    match tokio::time::timeout(ANSWER, answers).await {
        Ok(Some(())) => step.done(),
        _ => step.fail(format!("not within {} s; `kprov status {name}` shows them", ANSWER.as_secs())),
    }
}

/// Removes the containers of one generation, whatever else there is.
///
/// # Errors
/// [`ClusterError::Engine`] if they cannot be listed, or one of them not be removed; others may be gone then.
pub(in super::super) async fn remove_generation(
    context: &Context,
    name: &ClusterName,
    generation: u64,
) -> Result<(), ClusterError> {
    raze(&Live::new(context, name), generation).await
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tokio::time::Instant;

    use super::*;

    fn taken() -> EngineError {
        EngineError::PortTaken { container: "c".to_owned(), reason: "another has it".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_is_waited_for_but_not_for_ever() {
        let mut tries = 0;
        let port = once_released(|| {
            tries += 1;
            ready(if tries < 4 { Err(taken()) } else { Ok(6443) })
        });
        assert_eq!(port.await.unwrap(), 6443);
        assert_eq!(tries, 4);
        let begun = Instant::now();
        let error = once_released(|| ready(Err::<u16, _>(taken()))).await.unwrap_err();
        assert!(matches!(error, EngineError::PortTaken { .. }));
        assert_eq!(begun.elapsed().as_secs(), RELEASE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn what_time_does_not_mend_is_told_at_once() {
        let full = || EngineError::DiskFull { doing: "starting".to_owned(), reason: "full".to_owned() };
        let begun = Instant::now();
        assert!(matches!(once_released(|| ready(Err::<(), _>(full()))).await, Err(EngineError::DiskFull { .. })));
        assert!(begun.elapsed() < AGAIN);
    }
}
