//! Putting a kept state into new containers.
//!
//! Everything that can be wrong with a state is found out before anything is taken away, and the new
//! containers are made and filled while the old ones still run. Then they change places.

use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use zeroize::Zeroizing;

use crate::adapters::engine::{Container, EngineError, Image};
use crate::adapters::kubeconfig;
use crate::adapters::kubernetes::{self, ApiError, ready};
use crate::adapters::node::{Node, NodeError};
use crate::adapters::records::RecordError;
use crate::adapters::states::{SnapshotError, States};
use crate::documents::files::{FileEntry, Tarball};
use crate::documents::keys::{KeyRing, StoredKeys};
use crate::documents::profile::Role;
use crate::documents::record::{NodeRecord, Record, RecordStatus};
use crate::documents::render::{self, KubernetesVersion, NodePlan};
use crate::documents::snapshot::{Edit, StateManifest, edit, file, unpack};
use crate::operations::verify;

use super::containers::{Fixed, Frame, proxies};
use super::create::{What, or_clean_up, server_url};
use super::interim_network::{connect_pods, lay, slower, stand_ins};
use super::interrupt::interrupted;
use super::owner::this_engine;
use super::prove::{Proof, READY, record_ready};
use super::{ClusterError, Context, LABEL_CLUSTER, LABEL_OWNER, NETWORK, Outcome, resolve_image};

/// What follows the name of a container that is to become a node, and is none yet.
pub(super) const NEXT: &str = ".kprov-next";

/// What follows the name of a container that was a node, and is about to be removed.
pub(super) const OLD: &str = ".kprov-old";

/// How long an API server may take to answer.
const API: Duration = Duration::from_secs(120);

/// How often it is asked.
const ASK: Duration = Duration::from_millis(50);

/// What a kubelet does not start without. One that starts before containerd ends, and sits out a second; a worker's has
/// nothing to do before the API server answers, and sits in ever longer pauses if it starts earlier.
const KUBELET_CONFIG: &str = "/var/lib/kubelet/config.yaml";

/// What makes the API server slower as long as it is starting, and has nothing to do before it answers.
const LATE_PODS: [&str; 2] =
    ["/etc/kubernetes/manifests/kube-controller-manager.yaml", "/etc/kubernetes/manifests/kube-scheduler.yaml"];

/// How long a kubelet that was there before the API server may take to notice it.
const NOTICE: Duration = Duration::from_secs(2);

/// How long addresses and ports of a container that has just been killed may stay taken.
const RELEASE: Duration = Duration::from_secs(15);

/// Who decides on the nodes' addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addresses {
    /// They are those of the state.
    Fixed,
    /// The engine, which takes no wishes on a network whose subnet it chose itself, such as one made by kind.
    Chosen,
}

/// A state that has been read and checked as a whole.
pub(super) struct Prepared {
    pub(super) record: Record,
    keys: Option<KeyRing>,
    image: Image,
    version: KubernetesVersion,
    has_kindnet: bool,
    nodes: Vec<(NodePlan, Tarball)>,
    /// Images to be loaded into nodes again, packed.
    images: Vec<(String, Zeroizing<Vec<u8>>)>,
}

/// Reads a state and checks all that can be checked without touching a cluster.
///
/// # Errors
/// [`SnapshotError`] in a [`ClusterError`]; nothing has been changed.
pub(super) async fn prepare(context: &Context, manifest: StateManifest) -> Result<Prepared, ClusterError> {
    let states = States::at(&context.paths);
    let record = manifest.record;
    let reference = &record.image;
    let missing = || SnapshotError::Image { reference: reference.clone(), image_id: record.image_id.clone() };
    if context.engine.image(&record.image_id).await?.is_none() {
        return Err(missing().into());
    }
    // By its id: the name may mean another image by now.
    let (image, facts) = resolve_image(context, &record.image_id).await?;
    if facts.version != record.version {
        let (snapshot, image) = (record.version.clone(), facts.version);
        return Err(SnapshotError::Version { snapshot, image, reference: reference.clone() }.into());
    }
    let keys = match &manifest.keys {
        None => None,
        Some(blob) => {
            let bytes = states.read(blob)?;
            let stored: StoredKeys = serde_json::from_slice(&bytes).map_err(|error| RecordError::Unreadable {
                name: record.name.to_string(),
                reason: error.to_string(),
            })?;
            Some(KeyRing::try_from(stored)?)
        }
    };
    let (mut nodes, mut images) = (Vec::new(), Vec::new());
    for plan in render::plan_nodes(&record.profile, &record.name) {
        let fail = |reason: String| SnapshotError::Archive { node: plan.name.clone(), reason };
        let node = manifest
            .nodes
            .iter()
            .find(|node| node.name == plan.name)
            .ok_or_else(|| fail("it is not in the snapshot".to_owned()))?;
        let archive = unpack(&states.read(&node.archive)?).map_err(fail)?;
        if let Some(blob) = &node.images {
            images.push((plan.name.clone(), states.read(blob)?));
        }
        nodes.push((plan, archive));
    }
    let version = record.version.parse()?;
    Ok(Prepared { record, keys, image, version, has_kindnet: facts.has_kindnet(), nodes, images })
}

/// Makes the cluster of a state, in place of whatever there is of that name. Done when every node and every
/// system pod is Ready on evidence younger than `since`, and the proof holds.
///
/// # Errors
/// [`ClusterError`]. As long as the new nodes are only being made, everything is left as it was. From then on, the
/// record says that the cluster is being made, and cleaning up leaves no nodes.
pub(super) async fn restore(
    context: &Context,
    state: &Prepared,
    since: Timestamp,
    retain: bool,
) -> Result<Outcome, ClusterError> {
    let engine = &context.engine;
    let name = &state.record.name;
    let existing = engine.containers(LABEL_CLUSTER, Some(name)).await?;
    let (leftovers, old): (Vec<_>, Vec<_>) =
        existing.into_iter().partition(|container| container.name.ends_with(NEXT) || container.name.ends_with(OLD));
    try_join_all(leftovers.iter().map(|container| engine.remove_container(&container.id))).await?;

    let step = context.reporter.stage("Making new nodes beside the old ones");
    let made = tokio::select! {
        made = make_nodes(context, state) => made,
        () = interrupted() => Err(ClusterError::Interrupted),
    };
    let addresses = match made {
        Ok(addresses) => addresses,
        Err(error) => {
            // The old ones have not been touched.
            for (plan, _) in &state.nodes {
                engine.remove_container(&format!("{}{NEXT}", plan.name)).await?;
            }
            return Err(error);
        }
    };
    step.done();
    let known = context.store().load(name)?.is_some();
    let what = What { name, profile: &state.record.profile, retain, known };
    or_clean_up(context, &what, replace(context, state, addresses, &old, since)).await
}

async fn replace(
    context: &Context,
    state: &Prepared,
    addresses: Addresses,
    old: &[Container],
    since: Timestamp,
) -> Result<Outcome, ClusterError> {
    let engine = this_engine(context).await?;
    let mut record = Record { status: RecordStatus::Creating, engine, ..state.record.clone() };
    let store = context.store();
    store.save(&record)?;
    if let Some(keys) = &state.keys {
        store.save_keys(&record.name, keys)?;
    }
    let step = context.reporter.stage("Changing places");
    record.nodes = change_places(context, state, addresses, old).await?;
    step.done();
    if record.nodes != state.record.nodes {
        context.reporter.info(
            "The network, which kprov did not make, takes no fixed addresses: the nodes have others than before.",
        );
    }
    let (report, kubeconfig) = bring_back(context, state, &record.nodes, old, since).await?;
    let kubeconfig = record_ready(context, &mut record, &kubeconfig)?;
    Ok(Outcome { record, report, kubeconfig, warnings: Vec::new() })
}

/// Makes the containers and puts the state in. None runs yet.
async fn make_nodes(context: &Context, state: &Prepared) -> Result<Addresses, ClusterError> {
    let record = &state.record;
    let info = context.engine.info().await?;
    // Held until the containers are there: an empty network is one that `down` removes.
    let _network_lock = context.store().network_lock().await?;
    let network = super::create::ensure_network(&context.engine, &record.name, &record.profile).await?;
    let addresses = match network.labels.get(LABEL_OWNER) {
        Some(owner) if owner == "kprov" => Addresses::Fixed,
        _ => Addresses::Chosen,
    };
    let plans: Vec<NodePlan> = state.nodes.iter().map(|(plan, _)| plan.clone()).collect();
    let proxies = proxies(|name| std::env::var(name).ok(), &record.profile, &plans, &network.subnets);
    let frame = Frame {
        cluster: &record.name,
        profile: &record.profile,
        base: &record.base,
        digest: &record.digest,
        image: &state.image.id,
        api_server_port: record.api_server_port,
        load_balancer: render::needs_load_balancer(&plans),
        storage_driver: &info.storage_driver,
        proxies: &proxies,
    };
    try_join_all(state.nodes.iter().map(|(plan, archive)| async {
        let fixed = match (addresses, address_of(record, plan)) {
            (Addresses::Fixed, Some(node)) => Fixed { ipv4: node.ipv4, ipv6: node.ipv6 },
            _ => Fixed::default(),
        };
        let mut spec = frame.node(plan, fixed);
        spec.hostname = Some(spec.name.clone());
        spec.name.push_str(NEXT);
        let id = context.engine.create_container(spec).await?;
        let early = early_part(archive).map_err(|reason| SnapshotError::Archive { node: plan.name.clone(), reason })?;
        context.engine.put_archive(&id, early).await?;
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
async fn start_kubelet(node: &Node, archive: &Tarball) -> Result<(), NodeError> {
    put(node, archive, &[KUBELET_CONFIG], 0o644).await?;
    node.run(&["systemctl", "restart", "--no-block", "kubelet"]).await.map(|_| ())
}

/// Gives a node what had to wait for the API server.
async fn late_part(node: &Node, archive: &Tarball) -> Result<(), NodeError> {
    match node.role {
        Role::ControlPlane => put(node, archive, &LATE_PODS, 0o600).await,
        Role::Worker => start_kubelet(node, archive).await,
    }
}

async fn put(node: &Node, archive: &Tarball, paths: &[&str], mode: u32) -> Result<(), NodeError> {
    let entry = |&path: &&str| Some(FileEntry { path: path.to_owned(), mode, content: file(archive, path)? });
    node.put_files(&paths.iter().filter_map(entry).collect::<Vec<_>>()).await
}

fn address_of<'a>(record: &'a Record, plan: &NodePlan) -> Option<&'a NodeRecord> {
    record.nodes.iter().find(|node| node.name == plan.name)
}

/// Ends the old containers and starts the new ones in their places.
///
/// Gives the addresses of the nodes, in their order: where the engine chooses them, they may be others than
/// before. Nodes take care of that themselves when they start, as kind's do after a restart of the engine.
async fn change_places(
    context: &Context,
    state: &Prepared,
    addresses: Addresses,
    old: &[Container],
) -> Result<Vec<NodeRecord>, ClusterError> {
    let engine = &context.engine;
    try_join_all(old.iter().map(|container| async {
        match engine.kill_container(&container.id, "KILL").await {
            // It did not run.
            Err(EngineError::Conflict { .. } | EngineError::NotFound { .. }) | Ok(()) => {}
            Err(error) => return Err(error),
        }
        engine.rename_container(&container.id, &format!("{}{OLD}", container.name)).await
    }))
    .await?;
    let start = async |plan: &NodePlan| {
        engine.rename_container(&format!("{}{NEXT}", plan.name), &plan.name).await?;
        let deadline = tokio::time::Instant::now() + RELEASE;
        loop {
            match engine.start_container(&plan.name).await {
                Err(EngineError::PortTaken { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                other => return other,
            }
        }
    };
    let mut plans: Vec<&NodePlan> = state.nodes.iter().map(|(plan, _)| plan).collect();
    match addresses {
        Addresses::Fixed => {
            try_join_all(plans.iter().map(|plan| start(plan))).await?;
        }
        Addresses::Chosen => {
            // The engine gives out the lowest that is free: in this order, most often the same ones again.
            plans.sort_by_key(|plan| address_of(&state.record, plan).map(|node| node.ipv4));
            for plan in plans {
                start(plan).await?;
            }
        }
    }
    Ok(try_join_all(state.nodes.iter().map(|(plan, _)| async {
        let (ipv4, ipv6) = engine.addresses(&plan.name, NETWORK).await?;
        Ok::<_, EngineError>(NodeRecord { name: plan.name.clone(), ipv4, ipv6 })
    }))
    .await?)
}

/// Waits until everything is there again, and removes the old containers meanwhile.
async fn bring_back(
    context: &Context,
    state: &Prepared,
    addresses: &[NodeRecord],
    old: &[Container],
    since: Timestamp,
) -> Result<(verify::Report, Zeroizing<String>), ClusterError> {
    let record = &state.record;
    let nodes: Vec<Node> =
        state.nodes.iter().map(|(plan, _)| Node::new(context.engine.clone(), &plan.name, plan.role)).collect();
    let (first, archive) = state.nodes.first().ok_or(ClusterError::None)?;
    let admin = file(archive, "/etc/kubernetes/admin.conf").ok_or_else(|| SnapshotError::Archive {
        node: first.name.clone(),
        reason: "it has no /etc/kubernetes/admin.conf".to_owned(),
    })?;
    let kubeconfig = kubeconfig::for_cluster(
        &String::from_utf8_lossy(&admin),
        &record.name,
        &server_url(&record.profile, record.api_server_port),
    )?;
    let client = kubernetes::client(&kubeconfig).await?;

    let step = context.reporter.stage("Waiting until the API server answers");
    let archives = || nodes.iter().zip(state.nodes.iter().map(|(_, archive)| archive));
    try_join_all(archives().map(async |(node, archive)| {
        node.wait_booted().await?;
        if node.role == Role::ControlPlane {
            start_kubelet(node, archive).await?;
        }
        Ok::<_, NodeError>(())
    }))
    .await?;
    slower(context, &lay(&stand_ins(&record.profile, addresses.first()), &nodes).await);
    let import = async {
        try_join_all(nodes.iter().map(|node| async {
            match state.images.iter().find(|(name, _)| *name == node.name) {
                Some((_, images)) => import_images(node, images).await,
                None => Ok(()),
            }
        }))
        .await
    };
    let answers = async {
        while !kubernetes::has_roles(&client).await {
            tokio::time::sleep(ASK).await;
        }
        try_join_all(archives().map(|(node, archive)| late_part(node, archive))).await?;
        while !kubernetes::is_ready(&client).await {
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    };
    let answers = async {
        tokio::time::timeout(API, answers).await.map_err(|_| {
            ClusterError::from(ApiError::NotReady {
                seconds: API.as_secs(),
                pending: vec!["the API server has not answered".to_owned()],
            })
        })?
    };
    tokio::try_join!(answers, import)?;
    step.done();

    // Only now, and beside all else: taking away a node's files takes time that the new ones need.
    let (engine, ids): (_, Vec<String>) =
        (context.engine.clone(), old.iter().map(|container| container.id.clone()).collect());
    let removal = tokio::spawn(async move { try_join_all(ids.iter().map(|id| engine.remove_container(id))).await });
    let info = context.engine.info().await?;
    let inputs = record.inputs(&state.version, state.keys.as_ref(), &context.templates, info.cgroup_version == "1");
    let proof = Proof {
        context,
        client: &client,
        nodes: &nodes,
        addresses,
        inputs: &inputs,
        since: Some(since),
        patience: READY,
    };
    if !record.profile.spec.networking.disable_default_cni {
        let nodes_only = ready::Expectation { pods: false, ..proof.expectation() };
        let step = context.reporter.stage("Waiting until every node is Ready again");
        let show = |pending: &[String]| step.detail(pending.first().map_or("", String::as_str));
        if ready::wait(&client, &nodes_only, NOTICE, show).await.is_err() {
            // One that started before the API server may sit in a long pause; a new one does not.
            try_join_all(
                nodes
                    .iter()
                    .filter(|node| node.role == Role::ControlPlane)
                    .map(|node| node.run(&["systemctl", "restart", "kubelet"])),
            )
            .await?;
            ready::wait(&client, &nodes_only, READY, show).await?;
        }
        step.done();
    }
    let connect = async {
        if state.has_kindnet && !record.profile.spec.networking.disable_default_cni {
            slower(context, &connect_pods(&client, &context.templates, &nodes, addresses).await);
        }
        Ok(())
    };
    tokio::try_join!(proof.await_ready(), connect)?;
    let report = proof.prove().await?;
    removal.await.expect("removing containers does not panic")?;
    Ok((report, kubeconfig))
}

/// Puts images that were loaded into nodes into them again.
async fn import_images(node: &Node, archive: &[u8]) -> Result<(), ClusterError> {
    let tar = unpack(archive).map_err(|reason| SnapshotError::Archive { node: node.name.clone(), reason })?;
    let node = node.patient(super::capture::LONG);
    node.output(&["ctr", "--namespace", "k8s.io", "images", "import", "-"], Some(tar)).await?;
    Ok(())
}
