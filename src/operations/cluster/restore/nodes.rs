//! Making the containers of a state, with what they need before they start.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures_util::future::try_join_all;
use ipnet::IpNet;

use crate::adapters::engine::{ContainerSpec, Network};
use crate::adapters::node::{Node, NodeError};
use crate::adapters::states::SnapshotError;
use crate::documents::files::{FileEntry, Tarball, pack};
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::render::{API_SERVER_PORT, NodePlan, NodeStart};
use crate::documents::snapshot::{Edit, edit, file};

use super::super::containers::{Fixed, Frame};
use super::super::create::{ensure_network, free_addresses, takes_addresses};
use super::super::image::passing_spec;
use super::super::succession::next_name;
use super::super::{ClusterError, Context, LABEL_CLUSTER, kms, machine, registry, warm};
use super::Prepared;

/// What a kubelet does not start without. One that starts before containerd ends, and sits out a second; a worker's has
/// nothing to do before the API server answers, and sits in ever longer pauses if it starts earlier.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// What makes the API server slower as long as it is starting, and has nothing to do before it answers.
const LATE_PODS: [&str; 2] =
    ["/etc/kubernetes/manifests/kube-controller-manager.yaml", "/etc/kubernetes/manifests/kube-scheduler.yaml"];

/// The same of further control planes: the first one's API server starts alone.
const LATE_PODS_FURTHER: [&str; 3] = [
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-scheduler.yaml",
];

/// Starts a further control plane's kubelet anew once its own API server listens.
const AWAIT_OWN_API_SERVER: &str = include_str!("../scripts/await_own_api_server.sh");

/// How long that may take, in seconds.
const OWN_API_SERVER: u64 = 120;

/// The static pods of a node that wait for the first API server.
fn late_pods(start: NodeStart) -> &'static [&'static str] {
    match start {
        NodeStart::Init => &LATE_PODS,
        NodeStart::JoinControlPlane => &LATE_PODS_FURTHER,
        NodeStart::JoinWorker => &[],
    }
}

/// The addresses on a network that containers of others than this cluster have.
async fn taken_by_others(
    context: &Context,
    record: &Record,
    network: &Network,
) -> Result<BTreeSet<IpAddr>, ClusterError> {
    let own: BTreeSet<String> =
        context.engine.containers(LABEL_CLUSTER, Some(&record.name)).await?.into_iter().map(|own| own.id).collect();
    let in_use = context.engine.addresses_in_use(&network.name).await?;
    Ok(in_use.into_iter().filter(|(_, id)| !own.contains(id)).map(|(address, _)| address).collect())
}

/// The addresses that a state's nodes have, in their order.
fn recorded(record: &Record) -> Vec<Fixed> {
    record.nodes.iter().map(|node| Fixed { ipv4: node.ipv4, ipv6: node.ipv6 }).collect()
}

/// Why these are not to be had on a network; `None` if they are.
fn out_of_reach(wanted: &[Fixed], network: &Network, taken: &BTreeSet<IpAddr>) -> Option<String> {
    if !takes_addresses(network) {
        return Some(format!("the engine chooses the addresses on the network {:?}", network.name));
    }
    if wanted.iter().any(|fixed| fixed.ipv4.is_none() && fixed.ipv6.is_none()) {
        return Some("not all of them are known".to_owned());
    }
    wanted.iter().flat_map(Fixed::addresses).find_map(|address| {
        if taken.contains(&address) {
            Some(format!("{address} is another container's by now"))
        } else {
            (!network.holds(address)).then(|| format!("{address} is not of the network {:?}", network.name))
        }
    })
}

/// The most addresses that are held while nodes start.
const MOST_HELD: usize = 32;

/// Whose turn it is to get the next address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// A node's.
    Node(String),
    /// Who stands in front of the nodes.
    InFront,
    /// Nobody's: it is held until all nodes have theirs.
    Nobody,
}

/// Holds an address while nodes start.
pub(super) fn hold(record: &Record) -> ContainerSpec {
    ContainerSpec {
        entrypoint: Some(vec!["sleep".to_owned(), "600".to_owned()]),
        network: record.network().to_owned(),
        ..passing_spec("hold", &record.image_id)
    }
}

/// The order in which addresses are to be taken by several control planes so that an engine that chooses them itself, the lowest
/// that is free, chooses for each node the one that it has in the state. Why there is no such order, if there is none.
fn dealt_order(record: &Record, network: &Network, taken: &BTreeSet<IpAddr>) -> Result<Vec<Turn>, String> {
    let subnet =
        network.subnets.iter().find_map(|subnet| if let IpNet::V4(subnet) = subnet { Some(subnet) } else { None });
    let mut waiting: Vec<(Ipv4Addr, &str)> =
        record.nodes.iter().filter_map(|node| Some((node.ipv4?, node.name.as_str()))).collect();
    waiting.sort_unstable();
    let (Some(subnet), true) = (subnet, waiting.len() == record.nodes.len()) else {
        return Err(format!("the engine chooses the addresses on the network {:?}", network.name));
    };
    // The first one is the engine's own.
    let mut free = subnet.hosts().skip(1).filter(|host| !taken.contains(&IpAddr::V4(*host)));
    let (mut order, mut in_front) = (Vec::new(), false);
    for (address, node) in waiting {
        loop {
            match free.next() {
                Some(next) if next == address => break,
                Some(next) if next < address && !in_front => {
                    in_front = true;
                    order.push(Turn::InFront);
                }
                Some(next) if next < address && order.len() < record.nodes.len() + MOST_HELD => {
                    order.push(Turn::Nobody);
                }
                _ => {
                    let network = &network.name;
                    return Err(format!("on the network {network:?} the engine would not choose {address} for {node}"));
                }
            }
        }
        order.push(Turn::Node(node.to_owned()));
    }
    if !in_front {
        order.push(Turn::InFront);
    }
    Ok(order)
}

/// The order in which the containers of several control planes are to start, as [`dealt_order`] has it; none where each has been
/// given its address. Either way the nodes have the addresses that they have in the state: etcd's members know each other by them.
///
/// # Errors
/// [`SnapshotError::Addresses`] if they cannot have them, [`ClusterError::Engine`] if the engine does not answer.
pub(super) async fn require_addresses(context: &Context, record: &Record) -> Result<Vec<Turn>, ClusterError> {
    let fail = |reason| ClusterError::from(SnapshotError::Addresses { cluster: record.name.to_string(), reason });
    let Some(network) = context.engine.network(record.network()).await? else {
        return Err(fail(format!("the network {:?} is gone", record.network())));
    };
    let taken = taken_by_others(context, record, &network).await?;
    if !takes_addresses(&network) {
        return dealt_order(record, &network, &taken).map_err(fail);
    }
    out_of_reach(&recorded(record), &network, &taken).map_or(Ok(Vec::new()), |reason| Err(fail(reason)))
}

/// The addresses that the nodes of a state are to have, in their order: their own, or new ones if those are out of reach;
/// none, if the engine has to choose. And another one, for who stands in front of them.
fn addresses_for(record: &Record, network: &Network, taken: &BTreeSet<IpAddr>) -> (Vec<Fixed>, Fixed) {
    if !takes_addresses(network) {
        return (Vec::new(), Fixed::default());
    }
    let own = recorded(record);
    let nodes = match out_of_reach(&own, network, taken) {
        None => own,
        Some(_) => free_addresses(network, |address| taken.contains(&address), own.len()).unwrap_or_default(),
    };
    let theirs: BTreeSet<IpAddr> = nodes.iter().flat_map(Fixed::addresses).collect();
    let free = free_addresses(network, |address| taken.contains(&address) || theirs.contains(&address), 1);
    let in_front = free.and_then(|free| free.first().copied()).unwrap_or_default();
    (nodes, in_front)
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
    let taken = taken_by_others(context, record, &network).await?;
    let (fixed, in_front) = &addresses_for(record, &network, &taken);
    if state.balancer.is_some() {
        // Somebody may have been faster.
        require_addresses(context, record).await?;
    }
    let addresses = if fixed.is_empty() { Addresses::Chosen } else { Addresses::Fixed };
    let plans: Vec<NodePlan> = state.nodes.iter().map(|(plan, _)| plan.clone()).collect();
    let proxies = machine::proxies_of(record, &plans, &network.subnets);
    let registry_files = &match &registries {
        Some(registries) => registries.ensure(context, &network.name, &proxies).await?,
        None => Vec::new(),
    };
    let base = &warm::base(context, &state.image.id).await;
    let frame = &Frame {
        cluster: &record.name,
        profile: &record.profile,
        base: &record.base,
        digest: &record.digest,
        generation,
        image: base,
        api_server_port: record.api_server_port,
        load_balancer: state.balancer.is_some(),
        storage_driver: &info.storage_driver,
        proxies: &proxies,
    };
    if let Some(balancer) = &state.balancer {
        let mut spec = frame.load_balancer(&balancer.image, *in_front);
        spec.name = next_name(&spec.name);
        let id = context.engine.create_container(spec).await?;
        context.engine.put_archive(&id, pack(std::slice::from_ref(&balancer.config))).await?;
    }
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
        let early =
            early_part(plan, archive).map_err(|reason| SnapshotError::Archive { node: plan.name.clone(), reason })?;
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
    if let Some(registries) = &registries {
        registries.ensure_still(context, &network.name, &proxies).await?;
    }
    Ok(addresses)
}

/// What a node gets before it starts: all but what something waits for.
fn early_part(plan: &NodePlan, archive: &Tarball) -> Result<Tarball, String> {
    let late_pods = late_pods(plan.start());
    let is_late = |path: &str| path == KUBELET_CONFIG || late_pods.contains(&path);
    edit(archive, |path, _| Ok(if is_late(&format!("/{path}")) { Edit::Drop } else { Edit::Keep }))
}

/// Gives a kubelet its configuration, and starts it.
pub(super) async fn start_kubelet(node: &Node, archive: &Tarball) -> Result<(), NodeError> {
    put(node, archive, &[KUBELET_CONFIG], 0o644).await?;
    node.run(&["systemctl", "restart", "--no-block", "kubelet"]).await.map(|_| ())
}

/// Gives a node what had to wait for the first API server.
pub(super) async fn late_part(node: &Node, plan: &NodePlan, archive: &Tarball) -> Result<(), NodeError> {
    match plan.start() {
        NodeStart::JoinWorker => start_kubelet(node, archive).await,
        start => put(node, archive, late_pods(start), 0o600).await,
    }
}

/// Waits until a further control plane's own API server listens, which its kubelet asks; then starts that anew: since it
/// was started, for etcd, it has asked in vain, and waits ever longer between tries. So it is where the API server does not come.
pub(super) async fn complete(node: &Node) -> Result<(), NodeError> {
    let script = format!("patience={OWN_API_SERVER} port={API_SERVER_PORT:04X}\n{AWAIT_OWN_API_SERVER}");
    let node = node.patient(Duration::from_secs(2 * OWN_API_SERVER));
    node.script("waiting for its own API server", &script).await.map(|_| ())
}

async fn put(node: &Node, archive: &Tarball, paths: &[&str], mode: u32) -> Result<(), NodeError> {
    let entry = |&path: &&str| Some(FileEntry::sealed(path, mode, file(archive, path)?));
    node.put_files(&paths.iter().filter_map(entry).collect::<Vec<_>>()).await
}

#[cfg(test)]
mod tests {
    use crate::documents::record::NodeRecord;
    use crate::documents::snapshot::tests::draft;
    use crate::operations::cluster::LABEL_OWNER;

    use super::*;

    fn network(owner: &str) -> Network {
        Network {
            id: String::new(),
            name: "kind".to_owned(),
            subnets: vec!["172.18.0.0/16".parse().unwrap()],
            labels: [(LABEL_OWNER.to_owned(), owner.to_owned())].into(),
        }
    }

    fn record(addresses: &[Option<&str>]) -> Record {
        let node = |ipv4: &Option<&str>| NodeRecord {
            name: ipv4.unwrap_or_default().to_owned(),
            ipv4: ipv4.map(|ipv4| ipv4.parse().unwrap()),
            ipv6: None,
        };
        Record { nodes: addresses.iter().map(node).collect(), ..draft("c", b"", 0).manifest.record }
    }

    #[test]
    fn nodes_have_their_own_addresses_again_or_new_ones_and_nobody_elses() {
        let own = record(&[Some("172.18.128.1"), Some("172.18.128.2")]);
        let taken = |addresses: &[&str]| addresses.iter().map(|address| address.parse().unwrap()).collect();
        let (nodes, in_front) = addresses_for(&own, &network("kprov"), &taken(&[]));
        assert_eq!(nodes, recorded(&own));
        // They are free at that moment, but not for another.
        assert_eq!(in_front.ipv4, Some("172.18.128.3".parse().unwrap()));
        let (nodes, in_front) = addresses_for(&own, &network("kprov"), &taken(&["172.18.128.2"]));
        let ipv4: Vec<String> = nodes.iter().filter_map(|fixed| Some(fixed.ipv4?.to_string())).collect();
        assert_eq!(ipv4, ["172.18.128.1", "172.18.128.3"]);
        assert_eq!(in_front.ipv4, Some("172.18.128.4".parse().unwrap()));
        assert_eq!(addresses_for(&own, &network("kind"), &taken(&[])), (Vec::new(), Fixed::default()));
    }

    #[test]
    fn an_engine_that_deals_addresses_deals_the_same_ones_in_the_right_order() {
        let order_of = |own: &Record, taken: &[&str]| {
            let taken = taken.iter().map(|address| address.parse().unwrap()).collect();
            let order = dealt_order(own, &network("kind"), &taken)?;
            let shown = order.into_iter().map(|turn| match turn {
                Turn::Node(name) => name,
                Turn::InFront => "front".to_owned(),
                Turn::Nobody => "nobody".to_owned(),
            });
            Ok::<_, String>(shown.collect::<Vec<_>>().join(" "))
        };
        let own = record(&[Some("172.18.0.5"), Some("172.18.0.3"), Some("172.18.0.4")]);
        // Who stands in front of them takes what is left before, or after.
        assert_eq!(order_of(&own, &[]).unwrap(), "front 172.18.0.3 172.18.0.4 172.18.0.5");
        assert_eq!(order_of(&own, &["172.18.0.2"]).unwrap(), "172.18.0.3 172.18.0.4 172.18.0.5 front");
        assert!(order_of(&own, &["172.18.0.4"]).unwrap_err().contains("would not choose 172.18.0.4"));
        let gaps = record(&[Some("172.18.0.4"), Some("172.18.0.6")]);
        assert_eq!(order_of(&gaps, &[]).unwrap(), "front nobody 172.18.0.4 nobody 172.18.0.6");
        let within = record(&[Some("172.18.0.2"), Some("172.18.0.4")]);
        assert_eq!(order_of(&within, &[]).unwrap(), "172.18.0.2 front 172.18.0.4");
        let far = record(&[Some("172.18.1.4")]);
        assert!(order_of(&far, &[]).is_err(), "so many are not held");
        assert!(order_of(&record(&[None]), &[]).is_err());
    }

    #[test]
    fn it_is_told_why_addresses_are_out_of_reach() {
        let why = |addresses: &[Option<&str>], network: &Network, taken: &[&str]| {
            let taken = taken.iter().map(|address| address.parse().unwrap()).collect();
            out_of_reach(&recorded(&record(addresses)), network, &taken)
        };
        let own = [Some("172.18.128.1"), Some("172.18.128.2")];
        assert_eq!(why(&own, &network("kprov"), &["172.18.128.3"]), None);
        for (addresses, network, taken, says) in [
            (&own, network("kprov"), &["172.18.128.2"][..], "172.18.128.2 is another container's"),
            (&own, network("kind"), &[], "the engine chooses"),
            (&[own[0], Some("10.0.0.1")], network("kprov"), &[], "10.0.0.1 is not of the network"),
            (&[own[0], None], network("kprov"), &[], "not all of them are known"),
        ] {
            let reason = why(addresses, &network, taken).unwrap();
            assert!(reason.contains(says), "{reason}");
        }
    }

    #[test]
    fn only_the_first_control_planes_api_server_starts_at_once() {
        let files: Vec<FileEntry> = LATE_PODS_FURTHER.iter().map(|path| FileEntry::new(*path, 0o600, "x")).collect();
        let archive = Tarball::from(pack(&files));
        let profile = serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {"nodes": [{"role": "control-plane", "count": 2}]}
        }));
        let plans = crate::documents::render::plan_nodes(&profile.unwrap(), "c");
        let early = |plan: &NodePlan| {
            let early = early_part(plan, &archive).unwrap();
            LATE_PODS_FURTHER.map(|path| file(&early, path).is_some())
        };
        assert_eq!(early(&plans[0]), [true, false, false]);
        assert_eq!(early(&plans[1]), [false; 3]);
    }
}
