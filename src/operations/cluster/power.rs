//! Stopping a cluster, and starting it again as it was.
//!
//! Owns the order: servers that others ask come up first and go down last. Nodes that kprov has given addresses keep them; where
//! the engine chose them, nodes are started in the order in which it most likely chooses the same ones.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::engine::{Container, ContainerState};
use crate::adapters::kubeconfig;
use crate::adapters::kubernetes::{self, ready, ready::Since};
use crate::adapters::node::{Node, NodeError};
use crate::adapters::records::Lock;
use crate::adapters::states::SnapshotError;
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;
use crate::documents::record::{NodeRecord, Record};
use crate::documents::render;
use crate::documents::snapshot::Held;

use super::again::Again;
use super::discover::find;
use super::owner::record_if_here;
use super::restore::start_dealt;
use super::succession::{Live, Member, World, recover};
use super::{ClusterError, Context, Found, LABEL_ROLE, LABEL_SERVER, kms, registry, renew, resolve_image, thaw};

/// How long a container may take to end by itself, in seconds: systemd ends pods that do not heed it after ten.
const GRACE: i32 = 30;

/// How long the addresses of containers that have just been killed may stay taken, and how often it is looked.
const RELEASE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(50);

/// What was stopped, or started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// The cluster.
    pub name: ClusterName,
    /// Its containers that were in the other state before.
    pub changed: Vec<String>,
    /// What was not ready before, either, and has not become so.
    pub not_ready: Vec<String>,
    /// Whether its certificates were made anew.
    pub renewed: bool,
}

/// Finds a cluster that nobody else works on, with both generations of its nodes put in order.
async fn take(context: &Context, name: &ClusterName) -> Result<(Found, Lock), ClusterError> {
    let lock = context.store().lock(name)?;
    // Nothing is known, and nothing can be half done, of a cluster of that name elsewhere.
    match recover(context, name).await {
        Err(ClusterError::Elsewhere { .. }) => {}
        other => other.map(|_| ())?,
    }
    Ok((find(&context.engine, Some(name)).await?, lock))
}

/// A cluster's containers, the ones first that others do without: workers, control planes, what is in front of them or beside
/// them.
async fn in_order(context: &Context, found: &Found) -> Result<[Vec<Container>; 3], ClusterError> {
    let role = |container: &Container| container.labels.get(LABEL_ROLE).cloned().unwrap_or_default();
    let of = |wanted: &str| found.containers.iter().filter(|container| role(container) == wanted).cloned().collect();
    let mut others = context.engine.containers(LABEL_SERVER, Some(&found.name)).await?;
    let rest = found.containers.iter().filter(|other| !["worker", "control-plane"].contains(&role(other).as_str()));
    others.extend(rest.cloned());
    Ok([of("worker"), of("control-plane"), others])
}

/// Stops a cluster, whoever made it. All of it stays on the engine, and stays stopped until it is started.
///
/// # Errors
/// [`ClusterError::Unknown`], [`ClusterError::Records`] if another command works on it, [`ClusterError::Engine`]. What runs
/// still then is stopped by the next try.
pub async fn stop(context: &Context, name: &ClusterName) -> Result<Switched, ClusterError> {
    let (found, _lock) = take(context, name).await?;
    let step = context.reporter.stage("Stopping");
    let mut changed = Vec::new();
    for containers in in_order(context, &found).await? {
        let running: Vec<&Container> = containers.iter().filter(|container| runs(container)).collect();
        try_join_all(running.iter().map(|container| {
            thaw::end(context, &container.id, || context.engine.stop_container(&container.id, GRACE))
        }))
        .await?;
        changed.extend(running.into_iter().map(|container| container.name.clone()));
    }
    step.done();
    Ok(Switched { name: found.name, changed, not_ready: Vec::new(), renewed: false })
}

/// Whether there is something to stop: a container that the engine is about to start anew is stopped, too.
fn runs(container: &Container) -> bool {
    matches!(container.state, ContainerState::Running | ContainerState::Paused | ContainerState::Restarting)
}

/// Whether a cluster's certificates are made anew as it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// If they end soon.
    Due,
    /// In any case.
    Anyway,
}

/// Starts a cluster, whoever made it, with certificates that do not end soon, and waits until every node and every system pod
/// is Ready again, on evidence younger than the command.
///
/// # Errors
/// [`ClusterError::Incomplete`] if a node is gone, [`ClusterError::Snapshot`] if several control planes cannot have the addresses by
/// which they know each other, [`ClusterError::Api`] with what does not become ready. The cluster goes on running.
pub async fn start(context: &Context, name: &ClusterName, renewal: Renewal) -> Result<Switched, ClusterError> {
    let (found, _lock) = take(context, name).await?;
    let record = record_if_here(context, name).await?;
    if let Some(record) = &record {
        require_all(&found, record)?;
    }
    let step = context.reporter.stage("Starting");
    let [workers, control_planes, others] = in_order(context, &found).await?;
    if let Some(record) = &record {
        kms::wake(context, record).await?;
        registry::wake(context, record).await?;
    }
    let renewed = renew_if_stopped(context, name, &control_planes, &workers, renewal).await?;
    let all: Vec<Container> = [others, control_planes, workers].concat();
    let mut changed: Vec<String> =
        all.iter().filter(|container| !runs(container)).map(|container| container.name.clone()).collect();
    let live = Live::new(context, name);
    // Those in front and beside have no address in the record, and so come first.
    let members: Vec<Member> = all.iter().map(Member::of).collect();
    for member in live.by_address(&members)? {
        if all.iter().any(|container| container.id == member.id && container.state == ContainerState::Paused) {
            context.engine.unpause_container(&member.id).await?;
        }
        live.start_one(&member).await?;
    }
    if let Some(record) = &record
        && put_in_places(context, record, &live).await?
    {
        changed = all.iter().map(|container| container.name.clone()).collect();
    }
    step.done();

    let found = find(&context.engine, Some(name)).await?;
    let nodes = found.nodes(&context.engine);
    let step = context.reporter.stage("Booting");
    try_join_all(nodes.iter().map(Node::wait_booted)).await?;
    step.done();
    let client = client(context, &found).await?;
    // Of what has run all along, evidence need not be new.
    let starts = try_join_all(nodes.iter().map(async |node| {
        Ok::<_, ClusterError>(context.engine.started_at(&node.name).await?.map(|at| (node.name.clone(), at)))
    }));
    let since = Since::Starts(starts.await?.into_iter().flatten().collect());
    let not_ready = match record {
        Some(record) => {
            let woken = Woken { context, record, nodes: &nodes, client: &client, changed: &changed, since };
            woken.come_back().await?
        }
        None => {
            let step = context.reporter.stage("Waiting until every node and system pod is Ready");
            let show = |pending: &[String]| step.detail(pending.first().map_or("", String::as_str));
            ready::wait(&client, &expectation(&nodes, since), context.patience, show).await?;
            step.done();
            Vec::new()
        }
    };
    if renewed {
        // The one that its user has ends, too.
        context.kubeconfig.merge(&kubeconfig(context, &found).await?)?;
    }
    Ok(Switched { name: found.name, changed, not_ready, renewed })
}

/// Where the engine chooses addresses, nodes that somebody else has started have others than before. Of several control planes, etcd's
/// members know each other by them; so all end, and start once more in the order in which the engine chooses the same ones again.
/// Says whether that was so.
async fn put_in_places(context: &Context, record: &Record, live: &Live<'_>) -> Result<bool, ClusterError> {
    if record.profile.spec.count(Role::ControlPlane) < 2 {
        return Ok(false);
    }
    let addresses = record.nodes.iter().map(|node| context.engine.addresses(&node.name, record.network()));
    let addresses = try_join_all(addresses).await?;
    if addresses.iter().zip(&record.nodes).all(|((ipv4, _), node)| *ipv4 == node.ipv4) {
        return Ok(false);
    }
    context.reporter.warn(
        "the engine, which chose the nodes' addresses, has given them others than before, by which the control planes do not find each \
         other: all nodes are started once more, in their order",
    );
    // A node writes its address into its files as it boots: one that is ended in the middle of that keeps a wrong one for ever.
    let nodes = record.nodes.iter().map(|node| Node::new(context.engine.clone(), &node.name, Role::ControlPlane));
    join_all(nodes.map(async |node| node.wait_booted().await)).await;
    let members = live.members().await?;
    try_join_all(members.iter().map(|member| live.kill(member))).await?;
    let released = async {
        while context
            .engine
            .addresses_in_use(record.network())
            .await?
            .values()
            .any(|id| members.iter().any(|one| one.id == *id))
        {
            tokio::time::sleep(AGAIN).await;
        }
        Ok::<_, ClusterError>(())
    };
    // What is not free by then is told by who gets another one.
    if let Ok(failed) = tokio::time::timeout(RELEASE, released).await {
        failed?;
    }
    match start_dealt(context, record, live, &members).await? {
        None => Ok(true),
        Some(reason) => Err(SnapshotError::Addresses { cluster: record.name.to_string(), reason }.into()),
    }
}

/// Makes certificates anew where no node runs; processes that run would not notice.
async fn renew_if_stopped(
    context: &Context,
    name: &ClusterName,
    control_planes: &[Container],
    workers: &[Container],
    renewal: Renewal,
) -> Result<bool, ClusterError> {
    if control_planes.iter().chain(workers).any(runs) {
        if renewal == Renewal::Anyway {
            let name = name.to_string();
            return Err(ClusterError::Runs { name });
        }
        return Ok(false);
    }
    let nodes = |of: &[Container], role| -> Vec<Node> {
        of.iter().map(|container| Node::new(context.engine.clone(), &container.name, role)).collect()
    };
    let (control_planes, workers) = (nodes(control_planes, Role::ControlPlane), nodes(workers, Role::Worker));
    match renew::renew(context, name, &control_planes, &workers, renewal == Renewal::Anyway).await {
        // One that kubeadm made has authorities whose keys are in another form.
        Err(ClusterError::Pki(error)) if renewal == Renewal::Due => {
            context.reporter.warn(&format!(
                "certificates of {name} end soon or have ended, and cannot be made anew here ({error}); `kubeadm certs renew all` on each control plane can"
            ));
            Ok(false)
        }
        other => other,
    }
}

/// What every node and system pod of a cluster has to show.
fn expectation(nodes: &[Node], since: Since) -> ready::Expectation {
    let control_planes = nodes.iter().filter(|node| node.role == Role::ControlPlane);
    ready::Expectation {
        nodes: nodes.iter().map(|node| node.name.clone()).collect(),
        control_planes: control_planes.map(|node| node.name.clone()).collect(),
        pods: true,
        since,
        ..ready::Expectation::default()
    }
}

/// Nothing, if every node that a cluster was made with is there.
fn require_all(found: &Found, record: &Record) -> Result<(), ClusterError> {
    let is_there = |name: &String| found.containers.iter().any(|container| container.name == *name);
    let plan = render::plan_nodes(&record.profile, &record.name);
    match plan.into_iter().map(|node| node.name).find(|name| !is_there(name)) {
        Some(node) => Err(ClusterError::Incomplete { name: found.name.to_string(), node }),
        None => Ok(()),
    }
}

/// A client for a cluster whose control planes have booted.
async fn client(context: &Context, found: &Found) -> Result<Client, ClusterError> {
    Ok(kubernetes::client(&kubeconfig(context, found).await?).await?)
}

/// The kubeconfig by which this host reaches such a cluster.
async fn kubeconfig(context: &Context, found: &Found) -> Result<Zeroizing<String>, ClusterError> {
    let control_planes = found.control_planes(&context.engine)?;
    let admin = control_planes.first().read_text(kubeconfig::ADMIN).await?;
    let (address, port) =
        found.api_server().ok_or_else(|| ClusterError::NotRunning { name: found.name.to_string() })?;
    let server = format!("https://{}", SocketAddr::new(address, port));
    Ok(kubeconfig::for_cluster(&admin, &found.name, &server)?)
}

/// A cluster of ours whose nodes have booted.
struct Woken<'a> {
    context: &'a Context,
    record: Record,
    nodes: &'a [Node],
    client: &'a Client,
    /// The names of the containers that did not run.
    changed: &'a [String],
    since: Since,
}

impl Woken<'_> {
    /// Waits until it is what it was. What was not ready before it was stopped is not waited for: gives that.
    async fn come_back(mut self) -> Result<Vec<String>, ClusterError> {
        let Self { context, nodes, client, .. } = self;
        let network = self.record.network().to_owned();
        let addresses = try_join_all(nodes.iter().map(async |node| {
            let (ipv4, ipv6) = node.addresses(&network).await?;
            Ok::<_, NodeError>(NodeRecord { name: node.name.clone(), ipv4, ipv6 })
        }))
        .await?;
        if addresses != self.record.nodes {
            context.reporter.warn("the engine, which chose the nodes' addresses, has given them others than before");
            self.record.nodes.clone_from(&addresses);
            context.store().save(&self.record)?;
        }
        let (_, facts) = resolve_image(context, &self.record.image_id).await?;
        let keys = context.store().load_keys(&self.record.name)?;
        let version = self.record.version.parse()?;
        let all = Held::default();
        let again = Again {
            context,
            record: &self.record,
            version: &version,
            keys: keys.as_ref(),
            has_kindnet: facts.has_kindnet(),
            nodes,
            addresses: &addresses,
            client,
            held: &all,
        };
        // Kubelets that have asked in vain for a while sit in a long pause; new ones do not.
        let workers = nodes.iter().filter(|node| node.role == Role::Worker && self.changed.contains(&node.name));
        let late = async {
            try_join_all(workers.map(|node| node.run(&["systemctl", "restart", "--no-block", "kubelet"]))).await?;
            Ok(())
        };
        again.answer(late).await?;
        let not_ready = ready::not_ready_before(&self.since, &ready::observe(client).await?);
        let held = Held { not_ready, ..Held::default() };
        Again { held: &held, ..again }.await_ready(self.since.clone()).await?;
        Ok(held.not_ready)
    }
}
