//! Putting a kept state into new containers.
//!
//! Everything that can be wrong with a state is found out before anything is touched. The new containers are made and
//! filled while the old ones still run, and those are there until the new ones are proven: see `succession`.

mod bring_back;
mod nodes;

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use futures_util::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use zeroize::Zeroizing;

use crate::adapters::engine::Image;
use crate::adapters::states::{SnapshotError, States};
use crate::documents::certificates::renewal::ends;
use crate::documents::files::Tarball;
use crate::documents::keys::{KeyRing, StoredKeys};
use crate::documents::profile::Role;
use crate::documents::record::{NodeRecord, Record, RecordStatus};
use crate::documents::render::{self, KubernetesVersion, NodePlan, VersionError};
use crate::documents::snapshot::{Held, StateManifest, file, unpack};
use crate::documents::timings::Timings;

use super::balancer::{self, Balancer};
use super::error::Now;
use super::owner::this_engine;
use super::succession::{Live, Member, Successor, commit, follow};
use super::{ClusterError, Context, Outcome, kms, resolve_image};

pub(super) use bring_back::access;
use nodes::{Addresses, Turn};

/// A state that has been read and checked as a whole.
pub(super) struct Prepared {
    pub(super) record: Record,
    keys: Option<KeyRing>,
    image: Image,
    version: KubernetesVersion,
    has_kindnet: bool,
    /// What stands in front of several control planes. It has no state: another one is made, by the profile.
    balancer: Option<Balancer>,
    /// What held when it was read; all of it unless it says otherwise.
    held: Option<Held>,
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
    let (record, held) = (manifest.record, manifest.held);
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
    kms::require(context, &record).await?;
    let damaged = |what: &str, reason| SnapshotError::Damaged { path: what.into(), reason };
    let keys = match &manifest.keys {
        None => None,
        Some(blob) => {
            let bytes = states.read(blob)?;
            // Not what the parser says: it may quote a key.
            let stored: StoredKeys =
                serde_json::from_slice(&bytes).map_err(|_| damaged("its keys", "they cannot be read".to_owned()))?;
            Some(KeyRing::try_from(stored).map_err(|error| damaged("its keys", error.to_string()))?)
        }
    };
    let version: KubernetesVersion =
        record.version.parse().map_err(|error: VersionError| damaged("its version", error.to_string()))?;
    let plans = render::plan_nodes(&record.profile, &record.name);
    let mut balancer = None;
    if render::needs_load_balancer(&plans) {
        nodes::require_addresses(context, &record).await?;
        let cgroup_v1 = context.engine.info().await?.cgroup_version == "1";
        let inputs = record.inputs(&version, keys.as_ref(), &context.templates, cgroup_v1);
        balancer = balancer::prepare(context, &inputs, record.load_balancer_image.as_deref()).await?;
    }
    let now = context.engine.now().await?.as_second();
    let (mut nodes, mut images) = (Vec::new(), Vec::new());
    for plan in plans {
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
        if plan.role == Role::ControlPlane {
            still_valid(&plan.name, &archive, now)?;
        }
        nodes.push((plan, archive));
    }
    let has_kindnet = facts.has_kindnet();
    let prepared = Prepared { record, keys, image, version, has_kindnet, balancer, held, nodes, images };
    bring_back::kubeconfig_of(&prepared)?;
    Ok(prepared)
}

/// Nothing, if a control plane's certificates have not ended by `now`, in seconds since 1970: nothing would come up with them.
fn still_valid(node: &str, archive: &Tarball, now: i64) -> Result<(), SnapshotError> {
    let certificate = file(archive, "/etc/kubernetes/pki/apiserver.crt");
    let end = certificate.and_then(|pem| ends(&String::from_utf8_lossy(&pem)));
    if end.is_none_or(|end| end > now) {
        return Ok(());
    }
    Err(SnapshotError::Damaged {
        path: node.into(),
        reason: "its certificates have ended since it was taken".to_owned(),
    })
}

/// Makes the cluster of a state, in place of whatever there is of that name. Done when every node and every
/// system pod is Ready on evidence younger than `since`, and the proof holds.
///
/// # Errors
/// [`ClusterError::Replace`] if the new nodes fail; those from before are then back in their places. Whatever else fails
/// does so before those are touched.
pub(super) async fn restore(
    context: &Context,
    state: &Prepared,
    since: Timestamp,
    retain: bool,
) -> Result<Outcome, ClusterError> {
    kms::warn_if_ill(context, &state.record).await;
    let restored = Restored { context, state, since, addresses: OnceLock::new(), misplaced: OnceLock::new() };
    let followed = follow(context, &state.record.name, retain, &restored).await;
    match (followed, restored.misplaced.into_inner()) {
        // The nodes from before are back in their places.
        (
            Err(ClusterError::Replace { now: Now::PutBack, .. } | ClusterError::Create { left: None, .. }),
            Some(reason),
        ) => Err(SnapshotError::Addresses { cluster: state.record.name.to_string(), reason }.into()),
        (followed, _) => followed,
    }
}

/// A generation of nodes that comes out of a state.
struct Restored<'a> {
    context: &'a Context,
    state: &'a Prepared,
    since: Timestamp,
    /// Who decides on the nodes' addresses; known once they are made.
    addresses: OnceLock<Addresses>,
    /// Which node has another address than it has to have.
    misplaced: OnceLock<String>,
}

impl Restored<'_> {
    /// Starts the containers of several control planes where the engine chooses the addresses, so that it chooses those of the
    /// state.
    async fn start_dealt(&self, world: &Live<'_>, members: &[Member]) -> Result<(), ClusterError> {
        let record = &self.state.record;
        match start_dealt(self.context, record, world, members).await? {
            None => Ok(()),
            Some(reason) => {
                let _ = self.misplaced.set(reason.clone());
                Err(SnapshotError::Addresses { cluster: record.name.to_string(), reason }.into())
            }
        }
    }
}

/// Starts the containers of several control planes where the engine chooses the addresses, so that it chooses those of the record.
/// Says which one it has not chosen.
///
/// # Errors
/// [`SnapshotError::Addresses`] if it would not, before anything is started; [`ClusterError::Engine`].
pub(super) async fn start_dealt(
    context: &Context,
    record: &Record,
    world: &Live<'_>,
    members: &[Member],
) -> Result<Option<String>, ClusterError> {
    let order = nodes::require_addresses(context, record).await?;
    if order.is_empty() {
        world.start_in_turn(members).await?;
        return Ok(None);
    }
    world.await_addresses(members).await?;
    let mut held = Vec::new();
    let started = async {
        for turn in &order {
            let is_next = |member: &&Member| match turn {
                Turn::Node(name) => *name == member.name,
                Turn::InFront => !record.nodes.iter().any(|node| node.name == member.name),
                Turn::Nobody => false,
            };
            if *turn == Turn::Nobody {
                held.push(context.engine.create_container(nodes::hold(record)).await?);
                context.engine.start_container(&held[held.len() - 1]).await?;
            }
            for member in members.iter().filter(is_next) {
                world.start_one(member).await?;
            }
        }
        Ok::<_, ClusterError>(())
    };
    let started = started.await;
    for container in &held {
        context.engine.remove_container(container).await?;
    }
    started?;
    for node in &record.nodes {
        let (ipv4, _) = context.engine.addresses(&node.name, record.network()).await?;
        if ipv4 != node.ipv4 {
            let shown = |ipv4: Option<Ipv4Addr>| ipv4.map_or_else(|| "none".to_owned(), |ipv4| ipv4.to_string());
            return Ok(Some(format!("the engine chose {} for {}, not {}", shown(ipv4), node.name, shown(node.ipv4))));
        }
    }
    Ok(None)
}

impl<'a> Successor<Live<'a>> for Restored<'a> {
    type Outcome = Outcome;

    async fn make(&self, generation: u64) -> Result<(), ClusterError> {
        let store = self.context.store();
        let step = self.context.reporter.stage("Making new nodes beside the old ones");
        if store.load(&self.state.record.name)?.is_none() {
            // Before the first container: whoever is killed leaves a name that kprov knows.
            let engine = this_engine(self.context).await?;
            store.save(&Record { status: RecordStatus::Creating, engine, generation, ..self.state.record.clone() })?;
        }
        let addresses = nodes::make(self.context, self.state, generation).await?;
        let _ = self.addresses.set(addresses);
        step.done();
        Ok(())
    }

    async fn start(&self, world: &Live<'a>, members: &[Member]) -> Result<(), ClusterError> {
        if self.addresses.get() == Some(&Addresses::Fixed) {
            try_join_all(members.iter().map(|member| world.start_one(member))).await?;
            return Ok(());
        }
        if self.state.balancer.is_some() {
            return self.start_dealt(world, members).await;
        }
        world.start_in_order(members).await
    }

    async fn take_over(&self, generation: u64) -> Result<Outcome, ClusterError> {
        let Self { context, state, since, .. } = *self;
        let engine = this_engine(context).await?;
        let mut record = Record { engine, generation, ..state.record.clone() };
        record.nodes = try_join_all(state.nodes.iter().map(|(plan, _)| async {
            let (ipv4, ipv6) = context.engine.addresses(&plan.name, state.record.network()).await?;
            Ok::<_, ClusterError>(NodeRecord { name: plan.name.clone(), ipv4, ipv6 })
        }))
        .await?;
        if record.nodes != state.record.nodes {
            context.reporter.info("The nodes could not have the addresses that they had, and have others now.");
        }
        let back = bring_back::bring_back(context, state, &record.nodes, since).await?;
        let kubeconfig = commit(context, &mut record, state.keys.as_ref(), &back.kubeconfig)?;
        let (report, warnings) = (back.report, back.warnings);
        Ok(Outcome { record, report, kubeconfig, warnings, timings: Timings::default() })
    }
}

#[cfg(test)]
mod tests {
    use crate::documents::certificates::{ControlPlaneNames, Pki};
    use crate::documents::files::pack;

    use super::*;

    #[test]
    fn a_state_is_of_use_as_long_as_its_certificates() {
        let pki = Pki::generate(&"v1.36.2".parse().unwrap()).unwrap();
        let names =
            ControlPlaneNames { node: "c".to_owned(), addresses: vec![], service_addresses: vec![], others: vec![] };
        let archive = pack(&pki.control_plane_files(&names).unwrap());
        let now = Timestamp::now().as_second();
        still_valid("c", &archive, now).unwrap();
        let error = ClusterError::from(still_valid("c", &archive, now + 367 * 24 * 3600).unwrap_err());
        assert!(error.is_unfit_state() && error.to_string().contains("have ended"), "{error}");
        // What has none, such as one of the user's own making, is not judged by it.
        still_valid("c", &pack(&[]), now).unwrap();
    }
}
