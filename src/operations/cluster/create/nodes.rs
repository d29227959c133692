//! Making the nodes' containers, with the files that they need before they start.

use futures_util::future::try_join_all;

use crate::adapters::engine::{EngineInfo, Image};
use crate::adapters::node::Node;
use crate::documents::files::{FileEntry, pack};
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::render::{self, Inputs, NodePlan};

use super::super::balancer::Balancer;
use super::super::bootstrap::Member;
use super::super::containers::Frame;
use super::super::kms::Server;
use super::super::registry::Registries;
use super::super::{ClusterError, Context, machine};
use super::containerd::patch_containerd;
use super::network::{ensure_network, free_addresses};

/// The files that have to be on control planes before the API server's first start.
pub(super) fn early_files(inputs: &Inputs<'_>) -> Result<Vec<FileEntry>, ClusterError> {
    let files = render::control_plane_files(inputs)?;
    Ok(files.into_iter().map(|file| FileEntry::new(file.path, file.mode, file.content.as_bytes())).collect())
}

/// What the containers of a cluster are made from.
pub(super) struct Parts<'a> {
    pub(super) record: &'a Record,
    pub(super) image: &'a Image,
    /// The image that the nodes are made of: the same one, or the one in which that one's images are unpacked.
    pub(super) base: &'a str,
    pub(super) plan: &'a [NodePlan],
    pub(super) info: &'a EngineInfo,
    /// What control planes need from the start.
    pub(super) files: &'a [FileEntry],
    pub(super) balancer: Option<&'a Balancer>,
    /// The certificates that its nodes are to trust.
    pub(super) authorities: &'a [String],
    /// The server that its KMS plugin asks.
    pub(super) server: Option<&'a Server>,
    /// The registries that its nodes get images from.
    pub(super) registries: Option<&'a Registries<'a>>,
}

/// Makes all containers, side by side, with the files that they need from the start. No node runs yet.
///
/// # Errors
/// [`ClusterError::Engine`] if the engine refuses one, [`ClusterError::Node`] if a patch does not fit.
pub(super) async fn make(context: &Context, parts: &Parts<'_>) -> Result<Vec<Member>, ClusterError> {
    let &Parts { record, image: _, base, plan, info, files, balancer, authorities, server: _, registries } = parts;
    let engine = &context.engine;
    let step = context.reporter.stage("Making the nodes");
    // Held until the containers are there: an empty network is one that `down` removes.
    let _network_lock = context.store().network_lock().await?;
    let network = ensure_network(engine, &record.name, &record.profile).await?;
    let taken = engine.addresses_in_use(&network.name).await?;
    let free = free_addresses(&network, |address| taken.contains_key(&address), plan.len() + 1).unwrap_or_default();
    let mut free = free.into_iter();
    let proxies = machine::proxies_of(record, plan, &network.subnets);
    let registry_files = match registries {
        Some(registries) => registries.ensure(context, &network.name, &proxies).await?,
        None => Vec::new(),
    };
    let frame = Frame {
        cluster: &record.name,
        profile: &record.profile,
        base: &record.base,
        digest: &record.digest,
        generation: record.generation,
        image: base,
        api_server_port: record.api_server_port,
        load_balancer: balancer.is_some(),
        storage_driver: &info.storage_driver,
        proxies: &proxies,
    };
    if let Some(balancer) = balancer {
        let made =
            engine.create_container(frame.load_balancer(&balancer.image, free.next().unwrap_or_default())).await?;
        engine.put_archive(&made, pack(std::slice::from_ref(&balancer.config))).await?;
        // It finds the control planes as they come.
        engine.start_container(&made).await?;
    }
    let specs = plan.iter().map(|plan| (plan, frame.node(plan, free.next().unwrap_or_default())));
    let members = try_join_all(specs.map(|(plan, spec)| async {
        engine.create_container(spec).await?;
        let node = Node::new(engine.clone(), &plan.name, plan.role);
        if plan.role == Role::ControlPlane {
            node.put_files(files).await?;
        }
        node.put_files(&registry_files).await?;
        node.put_files(&machine::files(info, &node, authorities, &plan.limits).await?).await?;
        patch_containerd(&node, &record.profile.spec).await?;
        Ok::<_, ClusterError>(Member { plan: plan.clone(), node })
    }))
    .await?;
    if let Some(registries) = registries {
        registries.ensure_still(context, &network.name, &proxies).await?;
    }
    step.done();
    Ok(members)
}
