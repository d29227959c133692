//! Making the containers of a state, with what they need before they start.

use std::collections::BTreeSet;
use std::net::IpAddr;

use futures_util::future::try_join_all;

use crate::adapters::engine::Network;
use crate::adapters::node::{Node, NodeError};
use crate::adapters::states::SnapshotError;
use crate::documents::files::{FileEntry, Tarball};
use crate::documents::profile::Role;
use crate::documents::record::{NodeRecord, Record};
use crate::documents::render::{self, NodePlan};
use crate::documents::snapshot::{Edit, edit, file};

use super::super::containers::{Fixed, Frame};
use super::super::create::{ensure_network, free_addresses, takes_addresses};
use super::super::succession::next_name;
use super::super::{ClusterError, Context, LABEL_CLUSTER, kms, machine, registry};
use super::Prepared;

/// What a kubelet does not start without. One that starts before containerd ends, and sits out a second; a worker's has
/// nothing to do before the API server answers, and sits in ever longer pauses if it starts earlier.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// What makes the API server slower as long as it is starting, and has nothing to do before it answers.
const LATE_PODS: [&str; 2] =
    ["/etc/kubernetes/manifests/kube-controller-manager.yaml", "/etc/kubernetes/manifests/kube-scheduler.yaml"];

/// The addresses that the nodes of a state are to have, in their order: their own, or new ones if any of those is somebody
/// else's by now, or the network is another one. None, if the engine has to choose.
async fn addresses_for(context: &Context, record: &Record, network: &Network) -> Result<Vec<Fixed>, ClusterError> {
    let own: BTreeSet<String> =
        context.engine.containers(LABEL_CLUSTER, Some(&record.name)).await?.into_iter().map(|own| own.id).collect();
    let mut taken = context.engine.addresses_in_use(&network.name).await?;
    taken.retain(|_, id| !own.contains(id));
    let is_taken = |node: &NodeRecord| {
        let addresses = [node.ipv4.map(IpAddr::from), node.ipv6.map(IpAddr::from)];
        addresses.into_iter().flatten().any(|address| taken.contains_key(&address) || !network.holds(address))
    };
    if !takes_addresses(network) {
        return Ok(Vec::new());
    }
    if record.nodes.iter().any(is_taken) {
        let free = free_addresses(network, |address| taken.contains_key(&address), record.nodes.len());
        return Ok(free.unwrap_or_default());
    }
    Ok(record.nodes.iter().map(|node| Fixed { ipv4: node.ipv4, ipv6: node.ipv6 }).collect())
}

/// Who decides on the nodes' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Addresses {
    /// They are those of the state.
    Fixed,
    /// The engine, which takes no wishes on a network whose subnet it chose itself, such as one made by kind.
    Chosen,
}

/// Makes the containers and puts the state in. None runs yet.
///
/// # Errors
/// [`ClusterError::Engine`] if the engine refuses one, [`ClusterError::Snapshot`] if an archive makes no sense.
pub(super) async fn make(context: &Context, state: &Prepared, generation: u64) -> Result<Addresses, ClusterError> {
    let record = &state.record;
    let info = &context.engine.info().await?;
    let authorities = &machine::authorities(&record.profile, &record.base)?;
    let registries = registry::prepare(context, &record.profile, &record.base).await?;
    // Held until the containers are there: an empty network is one that `down` removes.
    let _network_lock = context.store().network_lock().await?;
    let network = ensure_network(&context.engine, &record.name, &record.profile).await?;
    let fixed = &addresses_for(context, record, &network).await?;
    let addresses = if fixed.is_empty() { Addresses::Chosen } else { Addresses::Fixed };
    let plans: Vec<NodePlan> = state.nodes.iter().map(|(plan, _)| plan.clone()).collect();
    let proxies = machine::proxies_of(record, &plans, &network.subnets);
    let registry_files = &match registries {
        Some(registries) => registries.ensure(context, &network.name, &proxies).await?,
        None => Vec::new(),
    };
    let frame = &Frame {
        cluster: &record.name,
        profile: &record.profile,
        base: &record.base,
        digest: &record.digest,
        generation,
        image: &state.image.id,
        api_server_port: record.api_server_port,
        load_balancer: render::needs_load_balancer(&plans),
        storage_driver: &info.storage_driver,
        proxies: &proxies,
    };
    kms::wake(context, record).await?;
    let inputs = record.inputs(&state.version, state.keys.as_ref(), &context.templates, info.cgroup_version == "1");
    let plugin = &kms::plugin_files(context, &inputs).await?;
    try_join_all(state.nodes.iter().map(|(plan, archive)| async move {
        let place = record.nodes.iter().position(|node| node.name == plan.name);
        let fixed = place.and_then(|place| fixed.get(place).copied()).unwrap_or_default();
        let mut spec = frame.node(plan, fixed);
        spec.hostname = Some(spec.name.clone());
        spec.name = next_name(&spec.name);
        let id = context.engine.create_container(spec).await?;
        let early = early_part(archive).map_err(|reason| SnapshotError::Archive { node: plan.name.clone(), reason })?;
        context.engine.put_archive(&id, early).await?;
        let node = Node::new(context.engine.clone(), next_name(&plan.name), plan.role);
        node.put_files(registry_files).await?;
        node.put_files(&machine::files(info, &node, authorities, &plan.limits).await?).await?;
        if plan.role == Role::ControlPlane {
            node.put_files(plugin).await?;
        }
        Ok::<_, ClusterError>(())
    }))
    .await?;
    Ok(addresses)
}

/// What a node gets before it starts: all but what something waits for.
fn early_part(archive: &Tarball) -> Result<Tarball, String> {
    let is_late = |path: &str| path == KUBELET_CONFIG || LATE_PODS.contains(&path);
    edit(archive, |path, _| Ok(if is_late(&format!("/{path}")) { Edit::Drop } else { Edit::Keep }))
}

/// Gives a kubelet its configuration, and starts it.
pub(super) async fn start_kubelet(node: &Node, archive: &Tarball) -> Result<(), NodeError> {
    put(node, archive, &[KUBELET_CONFIG], 0o644).await?;
    node.run(&["systemctl", "restart", "--no-block", "kubelet"]).await.map(|_| ())
}

/// Gives a node what had to wait for the API server.
pub(super) async fn late_part(node: &Node, archive: &Tarball) -> Result<(), NodeError> {
    match node.role {
        Role::ControlPlane => put(node, archive, &LATE_PODS, 0o600).await,
        Role::Worker => start_kubelet(node, archive).await,
    }
}

async fn put(node: &Node, archive: &Tarball, paths: &[&str], mode: u32) -> Result<(), NodeError> {
    let entry = |&path: &&str| Some(FileEntry::sealed(path, mode, file(archive, path)?));
    node.put_files(&paths.iter().filter_map(entry).collect::<Vec<_>>()).await
}
