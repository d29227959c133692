//! Making a cluster, from a profile to the proof: the order of the steps. Each step has a file of its own.

mod clean_up;
mod containerd;
mod golden;
mod manifests;
mod network;
mod nodes;
mod port;

use std::path::PathBuf;
use std::time::Duration;

use crate::adapters::kubernetes;
use crate::adapters::node::Node;
use crate::adapters::records::Lock;
use crate::documents::keys::KeyRing;
use crate::documents::names::ClusterName;
use crate::documents::profile::{DEFAULT_IMAGE, Profile};
use crate::documents::record::{NodeRecord, Record, RecordStatus};
use crate::documents::render::{self, Inputs, NodePlan};
use crate::documents::snapshot::Held;
use crate::documents::timings::Timings;
use crate::operations::verify;

use super::bootstrap::{self, Build, Way};
use super::delete::{Whose, delete};
use super::image::{CNI_FILE, ImageFacts};
use super::owner::{record_here, require_own, this_engine};
use super::prove::Proof;
use super::reach::server_url;
use super::succession::{Live, Successor, commit, follow, recover, remove_generation};
use super::timed::Timed;
use super::{
    ClusterError, Context, LABEL_CLUSTER, balancer, kms, logs, machine, preflight, registry, resolve_image, warm,
};

pub(super) use clean_up::{What, or_clean_up};
pub(super) use network::{ensure_network, free_addresses, takes_addresses};
pub(super) use port::keep_or_choose as keep_or_choose_port;

/// How long nodes may take to be Ready where there is another way, should they not.
const GOOD_TIME: Duration = Duration::from_secs(150);

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Request {
    /// The cluster's name.
    pub name: ClusterName,
    /// The resolved profile.
    pub profile: Profile,
    /// Where its relative paths start.
    pub base: PathBuf,
    /// Another image than the profile's.
    pub image: Option<String>,
    /// Another image for the load balancer than kind's.
    pub load_balancer_image: Option<String>,
    /// Whether to leave everything as it is when something fails.
    pub retain: bool,
}

impl Request {
    /// The reference of the image.
    pub(super) fn image(&self) -> &str {
        self.image.as_deref().or(self.profile.spec.image.as_deref()).unwrap_or(DEFAULT_IMAGE)
    }
}

/// What a cluster that is made again has in common with the one before.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub(super) record: Record,
    pub(super) keys: Option<KeyRing>,
}

/// A cluster that has been made and proven.
#[derive(Debug)]
pub struct Outcome {
    /// How it was made.
    pub record: Record,
    /// The evidence.
    pub report: verify::Report,
    /// The kubeconfig file that names it.
    pub kubeconfig: PathBuf,
    /// What the Kubernetes version could not do of what the profile asks for.
    pub warnings: Vec<String>,
    /// What its steps took.
    pub timings: Timings,
}

/// Makes a cluster. One that a killed kprov left half made under the same name is removed first.
///
/// # Errors
/// [`ClusterError::Exists`] and whatever goes wrong; then nothing is left, unless `retain` says otherwise.
pub async fn create(context: &Context, request: &Request) -> Result<Outcome, ClusterError> {
    let timed = Timed::begin(context, "up");
    let lock = context.store().lock(&request.name)?;
    make_way(&timed.context, &request.name).await?;
    let outcome = make(&timed.context, request, &lock).await?;
    Ok(timed.end(outcome))
}

/// Makes sure that a name is free. What a killed kprov left half made under it is removed.
pub(super) async fn make_way(context: &Context, name: &ClusterName) -> Result<(), ClusterError> {
    recover(context, name).await?;
    let existing = context.engine.containers(LABEL_CLUSTER, Some(name)).await?;
    let exists = || ClusterError::Exists { name: name.to_string(), nodes: existing.len() };
    match record_here(context, name).await? {
        Some(record) if !existing.is_empty() && record.status == RecordStatus::Ready => Err(exists()),
        None if !existing.is_empty() => Err(exists()),
        None => Ok(()),
        // Half made, or gone by another tool's hand.
        Some(_) => {
            require_own(name, &existing)?;
            let step = context.reporter.stage("Removing what is left of an earlier try");
            delete(context, name, Whose::Own).await?;
            step.done();
            Ok(())
        }
    }
}

/// Makes a cluster whose name is free, and cleans up if that fails.
async fn make(context: &Context, request: &Request, _lock: &Lock) -> Result<Outcome, ClusterError> {
    let what = What { name: &request.name, profile: &request.profile, retain: request.retain };
    or_clean_up(context, &what, attempt(context, request, None, 0)).await
}

/// Makes a cluster again, in place of what there is of it.
///
/// # Errors
/// [`ClusterError::Replace`] if that fails; what was there before is then back in its place.
pub(super) async fn make_again(
    context: &Context,
    request: &Request,
    before: &Before,
    _lock: &Lock,
) -> Result<Outcome, ClusterError> {
    follow(context, &request.name, request.retain, &Again { context, request, before }).await
}

/// A generation of nodes that is made as the one before was.
struct Again<'a> {
    context: &'a Context,
    request: &'a Request,
    before: &'a Before,
}

impl<'a> Successor<Live<'a>> for Again<'a> {
    type Outcome = Outcome;

    /// Nodes that are new altogether are made when the others are out of their places.
    async fn make(&self, _generation: u64) -> Result<(), ClusterError> {
        Ok(())
    }

    async fn take_over(&self, generation: u64) -> Result<Outcome, ClusterError> {
        attempt(self.context, self.request, Some(self.before), generation).await
    }
}

/// A cluster whose nodes have joined and are Ready.
struct Raised<'a> {
    build: Build<'a>,
    up: bootstrap::Up,
    addresses: Vec<NodeRecord>,
}

/// Makes the nodes, brings Kubernetes up on them in one of the ways, and waits until all is Ready.
async fn raise<'a>(
    context: &'a Context,
    parts: &nodes::Parts<'_>,
    inputs: Inputs<'a>,
    facts: &'a ImageFacts,
    way: Way,
) -> Result<Raised<'a>, ClusterError> {
    let record = parts.record;
    let build = Build {
        context,
        inputs,
        facts,
        way,
        nodes: nodes::make(context, parts).await?,
        endpoint: render::control_plane_endpoint(parts.plan, &record.name),
        server: server_url(&record.profile, record.api_server_port),
        token: bootstrap::new_token()?,
    };
    // By now its network is there. Nothing asks for it before the API server is about to be ready, which waits for it.
    let server = async {
        match parts.server {
            Some(server) => kms::ensure(context, &record.name, record.network(), &parts.image.id, server).await,
            None => Ok(()),
        }
    };
    let registries = async {
        match parts.registries {
            Some(registries) => registries.await_serving(context).await,
            None => Ok(()),
        }
    };
    let (up, (), ()) = tokio::try_join!(bootstrap::bring_up(&build), server, registries)?;
    let addresses = build.addresses().await?;
    let nodes: Vec<Node> = build.nodes.iter().map(|member| member.node.clone()).collect();
    proof_of(&build, &up, &nodes, &addresses).await_ready().await?;
    Ok(Raised { build, up, addresses })
}

fn proof_of<'a>(
    build: &'a Build<'_>,
    up: &'a bootstrap::Up,
    nodes: &'a [Node],
    addresses: &'a [NodeRecord],
) -> Proof<'a> {
    let patience = if build.way == Way::Phased && build.way.can_fall_back(build.inputs.profile) {
        GOOD_TIME
    } else {
        build.context.patience
    };
    Proof {
        context: build.context,
        client: &up.client,
        nodes,
        addresses,
        inputs: &build.inputs,
        since: kubernetes::ready::Since::Ever,
        patience,
        held: Held::default(),
    }
}

/// Says that the fast start did not work out, keeps the logs, and takes its nodes away.
async fn fall_back(
    context: &Context,
    plan: &[NodePlan],
    record: &Record,
    error: &ClusterError,
) -> Result<(), ClusterError> {
    let name = &record.name;
    let nodes: Vec<Node> = plan.iter().map(|plan| Node::new(context.engine.clone(), &plan.name, plan.role)).collect();
    let logs = logs::keep(&context.paths, name, &nodes).await;
    let why = error.to_string();
    context.reporter.warn(&format!(
        "the fast start does not get on with this image ({}), so it is kubeadm's own way now, from clean nodes{}",
        why.lines().next().unwrap_or_default().trim_end_matches(':'),
        logs.map(|logs| format!("; {logs}")).unwrap_or_default(),
    ));
    let step = context.reporter.stage("Removing the nodes of the first try");
    // Only those: what was there before stands beside them.
    remove_generation(context, name, record.generation).await?;
    step.done();
    Ok(())
}

/// Makes everything that a cluster is made from, then the cluster.
async fn attempt(
    context: &Context,
    request: &Request,
    before: Option<&Before>,
    generation: u64,
) -> Result<Outcome, ClusterError> {
    let profile = &request.profile;
    let reference = request.image();
    // What costs nothing to find out comes before an image is pulled.
    let mut keys = match (&profile.spec.encryption, before.and_then(|before| before.keys.clone())) {
        (Some(_), Some(keys)) => Some(keys),
        (Some(encryption), None) => Some(encryption.resolve(&request.base)?),
        (None, _) => None,
    };
    let plan = render::plan_nodes(profile, &request.name);
    let info = context.engine.info().await?;
    // One that is made again has been carried before.
    if before.is_none() {
        preflight::require(context, &info, u32::try_from(plan.len()).unwrap_or(u32::MAX))?;
    }
    let (image, facts) = resolve_image(context, reference).await?;
    let version = facts.kubernetes()?;
    if facts.cni.is_none() && !profile.spec.networking.disable_default_cni {
        return Err(ClusterError::NoCni { image: reference.to_owned(), path: CNI_FILE });
    }
    if facts.storage.is_none() {
        context.reporter.warn(&format!("the image {reference} has no storage class of its own: the cluster has none"));
    }
    let draft = Record {
        name: request.name.clone(),
        engine: this_engine(context).await?,
        status: RecordStatus::Creating,
        generation,
        profile: profile.clone(),
        base: request.base.clone(),
        image: reference.to_owned(),
        image_id: image.id.clone(),
        load_balancer_image: None,
        version: version.to_string(),
        digest: String::new(),
        api_server_port: 0,
        nodes: Vec::new(),
    };
    let authorities = machine::authorities(profile, &request.base)?;
    let registries = registry::prepare(context, profile, &request.base).await?;
    let server = kms::prepare(context, &request.name, profile, &mut keys).await?;
    let inputs = draft.inputs(&version, keys.as_ref(), &context.templates, info.cgroup_version == "1");
    let warnings = render::warnings(&inputs);
    for warning in &warnings {
        context.reporter.warn(warning);
    }
    // Everything is rendered before anything is made: a template's error costs nothing.
    let digest = render::cluster_digest(&render::documents_digest(&inputs)?, &image.id);
    let mut files = nodes::early_files(&inputs)?;
    files.extend(kms::plugin_files(context, &inputs).await?);
    let balancer = balancer::prepare(context, &inputs, request.load_balancer_image.as_deref()).await?;
    let api_server_port = match before {
        None => port::choose(context, profile, profile.spec.networking.api_server_port)?,
        Some(before) => port::choose_again(context, profile, before.record.api_server_port).await?,
    };
    let mut record = Record {
        load_balancer_image: balancer.as_ref().map(|balancer| balancer.reference.clone()),
        digest: digest.to_string(),
        api_server_port,
        ..draft.clone()
    };
    if before.is_none() {
        // Otherwise the record is that of what was there before, until the new nodes are proven.
        let store = context.store();
        store.save(&record)?;
        if let Some(keys) = &keys {
            store.save_keys(&request.name, keys)?;
        }
    }

    let base = warm::base(context, &image.id).await;
    let parts = nodes::Parts {
        record: &record,
        image: &image,
        base: &base,
        plan: &plan,
        info: &info,
        files: &files,
        balancer: balancer.as_ref(),
        authorities: &authorities,
        server: server.as_ref(),
        registries: registries.as_ref(),
    };
    let way = Way::of(profile);
    let raised = match raise(context, &parts, inputs, &facts, way).await {
        Err(error) if way.can_fall_back(profile) && way.may_be_why(&error) => {
            // What is wrong with the host now would be as wrong the other way.
            let info = context.engine.info().await?;
            if preflight::require(context, &info, u32::try_from(plan.len()).unwrap_or(u32::MAX)).is_err() {
                return Err(error);
            }
            fall_back(context, &plan, &record, &error).await?;
            let parts = nodes::Parts { base: &image.id, ..parts };
            raise(context, &parts, inputs, &facts, Way::Plain).await?
        }
        raised => raised?,
    };
    let Raised { build, up, addresses } = raised;
    record.nodes = addresses;
    let nodes: Vec<Node> = build.nodes.iter().map(|member| member.node.clone()).collect();
    let proof = proof_of(&build, &up, &nodes, &record.nodes);
    if let [only] = nodes.as_slice() {
        kubernetes::remove_label(&up.client, &only.name, render::EXCLUDE_FROM_LOAD_BALANCERS).await?;
    }
    if let Some(registries) = &registries {
        registries.announce(&up.client).await?;
    }
    manifests::apply(context, &up, &record).await?;
    let report = proof.prove().await?;
    let kubeconfig = commit(context, &mut record, keys.as_ref(), &up.kubeconfig)?;
    golden::keep(&build, &record, keys.as_ref()).await;
    Ok(Outcome { record, report, kubeconfig, warnings, timings: Timings::default() })
}
