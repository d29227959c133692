//! Making a cluster, from a profile to the proof, and cleaning up if it fails.

use std::collections::BTreeSet;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::jiff::Timestamp;

use crate::adapters::engine::{Engine, EngineError, Image, Network, Subnet};
use crate::adapters::kubernetes::{self, ready};
use crate::adapters::node::{Node, NodeError};
use crate::adapters::records::{Lock, RecordError};
use crate::adapters::states::States;
use crate::documents::files::{FileEntry, pack};
use crate::documents::keys::KeyRing;
use crate::documents::names::ClusterName;
use crate::documents::profile::{DEFAULT_IMAGE, FileModes, IpFamily, Profile, Role};
use crate::documents::record::{Record, RecordStatus};
use crate::documents::render::{self, Inputs, NodePlan};
use crate::operations::verify;

use super::balancer::{self, Balancer};
use super::bootstrap::{self, Build, Member, Up};
use super::containers::{Fixed, Frame, proxies};
use super::interrupt::interrupted;
use super::network::ServiceRoute;
use super::owner::{record_here, require_own, this_engine};
use super::{
    ClusterError, Context, LABEL_CLUSTER, LABEL_OWNER, NETWORK, capture,
    delete::{Whose, delete},
    logs, preflight, resolve_image,
};

/// How long nodes and pods may take to be ready once all have joined.
pub(super) const READY: Duration = Duration::from_secs(300);

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
}

/// Makes a cluster. One that a killed kprov left half made under the same name is removed first.
///
/// # Errors
/// [`ClusterError::Exists`] and whatever goes wrong; then nothing is left, unless `retain` says otherwise.
pub async fn create(context: &Context, request: &Request) -> Result<Outcome, ClusterError> {
    let lock = context.store().lock(&request.name)?;
    make_way(context, &request.name).await?;
    make(context, request, None, &lock).await
}

/// Makes sure that a name is free. What a killed kprov left half made under it is removed.
pub(super) async fn make_way(context: &Context, name: &ClusterName) -> Result<(), ClusterError> {
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
pub(super) async fn make(
    context: &Context,
    request: &Request,
    before: Option<&Before>,
    _lock: &Lock,
) -> Result<Outcome, ClusterError> {
    let what = What { name: &request.name, profile: &request.profile, retain: request.retain, known: before.is_some() };
    or_clean_up(context, &what, attempt(context, request, before)).await
}

/// What is being made.
#[derive(Debug, Clone, Copy)]
pub(super) struct What<'a> {
    pub(super) name: &'a ClusterName,
    pub(super) profile: &'a Profile,
    pub(super) retain: bool,
    /// Whether there was such a cluster before, so that what is known of it has to stay.
    pub(super) known: bool,
}

/// Makes a cluster; if that fails, or the user has enough, keeps the logs and cleans up.
pub(super) async fn or_clean_up(
    context: &Context,
    what: &What<'_>,
    making: impl Future<Output = Result<Outcome, ClusterError>>,
) -> Result<Outcome, ClusterError> {
    let result = tokio::select! {
        result = making => result,
        () = interrupted() => Err(ClusterError::Interrupted),
    };
    let error = match result {
        Ok(outcome) => return Ok(outcome),
        Err(error) => error,
    };
    if matches!(error, ClusterError::Interrupted) && !what.retain {
        context.reporter.info("Cleaning up; Ctrl-C again ends at once, and `kprov down` cleans up later.");
    }
    let name = what.name;
    let plan = render::plan_nodes(what.profile, name);
    let nodes: Vec<Node> = plan.iter().map(|plan| Node::new(context.engine.clone(), &plan.name, plan.role)).collect();
    let exists = !context.engine.containers(LABEL_CLUSTER, Some(name)).await.unwrap_or_default().is_empty();
    let logs = match &error {
        _ if !exists => None,
        ClusterError::Interrupted => None,
        _ => logs::keep(&context.paths, name, &nodes).await,
    };
    let left = if what.retain && exists {
        Some(format!("its containers are kept; `kprov down {name}` removes them"))
    } else {
        clean_up(context, name, what.known)
            .await
            .err()
            .map(|failed| format!("cleaning up failed, too: {failed}; `kprov down {name}` tries again"))
    };
    if !exists && left.is_none() {
        // Nothing had been made: the error itself says all.
        return Err(error);
    }
    Err(ClusterError::Create { name: name.to_string(), left, source: Box::new(error), logs })
}

async fn clean_up(context: &Context, cluster: &ClusterName, keep_record: bool) -> Result<(), ClusterError> {
    if keep_record {
        // A reset that failed can be tried again: profile and keys stay.
        super::delete::remove_containers(&context.engine, cluster, Whose::Own).await?;
        super::delete::remove_network(context).await
    } else {
        delete(context, cluster, Whose::Own).await.map(|_| ())
    }
}

async fn attempt(context: &Context, request: &Request, before: Option<&Before>) -> Result<Outcome, ClusterError> {
    let profile = &request.profile;
    let reference = request.image();
    // What costs nothing to find out comes before an image is pulled.
    let keys = match (&profile.spec.encryption, before.and_then(|before| before.keys.clone())) {
        (Some(_), Some(keys)) => Some(keys),
        (Some(encryption), None) => Some(KeyRing::resolve(encryption, &request.base)?),
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
    let inputs = Inputs {
        profile,
        cluster: &request.name,
        image: reference,
        version: &version,
        keys: keys.as_ref(),
        templates: &context.templates,
        cgroup_v1: info.cgroup_version == "1",
    };
    let warnings = render::warnings(&inputs);
    for warning in &warnings {
        context.reporter.warn(warning);
    }
    // Everything is rendered before anything is made: a template's error costs nothing.
    let digest = render::cluster_digest(&render::documents_digest(&inputs)?, &image.id);
    let files = early_files(&inputs)?;
    let balancer = balancer::prepare(context, &inputs, request.load_balancer_image.as_deref()).await?;
    let api_server_port = api_server_port(context, profile, before)?;
    let mut record = Record {
        name: request.name.clone(),
        engine: this_engine(context).await?,
        status: RecordStatus::Creating,
        profile: profile.clone(),
        base: request.base.clone(),
        image: reference.to_owned(),
        image_id: image.id.clone(),
        load_balancer_image: balancer.as_ref().map(|balancer| balancer.reference.clone()),
        version: version.to_string(),
        digest: digest.to_string(),
        api_server_port,
        nodes: Vec::new(),
    };
    let store = context.store();
    store.save(&record)?;
    if let Some(keys) = &keys {
        store.save_keys(&request.name, keys)?;
    }

    let nodes =
        make_containers(context, &record, &image, &plan, &info.storage_driver, &files, balancer.as_ref()).await?;
    let build = Build {
        context,
        inputs,
        facts: &facts,
        nodes,
        endpoint: render::control_plane_endpoint(&plan, &request.name),
        server: server_url(profile, api_server_port),
    };
    let up = bootstrap::bring_up(&build).await?;
    record.nodes = build.addresses().await?;
    let report = finish(&build, &up, &record).await?;
    let kubeconfig = context.kubeconfig.merge(&up.kubeconfig)?;
    // Last: whoever is killed before has not finished, and the next command knows it.
    record.status = RecordStatus::Ready;
    store.save(&record)?;
    keep_golden_state(&build, &record, keys.as_ref()).await;
    Ok(Outcome { record, report, kubeconfig, warnings })
}

/// Keeps the state that `reset` goes back to. The cluster is good without one: then `reset` makes it again.
async fn keep_golden_state(build: &Build<'_>, record: &Record, keys: Option<&KeyRing>) {
    let context = build.context;
    // A load balancer and nodes of other images are not in a state yet.
    if render::needs_load_balancer(&render::plan_nodes(&record.profile, &record.name))
        || build.nodes.iter().any(|member| member.plan.image.is_some())
    {
        return;
    }
    let step = context.reporter.stage("Keeping the golden state");
    let nodes: Vec<Node> = build.nodes.iter().map(|member| member.node.clone()).collect();
    let kept = async {
        let draft = capture::capture(context, record, keys, &nodes).await?;
        step.detail(&format!("{} KiB", draft.manifest.size() / 1024));
        States::at(&context.paths).keep_golden(&draft)?;
        Ok::<_, ClusterError>(())
    };
    match kept.await {
        Ok(()) => step.done(),
        Err(error) => {
            step.fail(&error);
            context.reporter.warn("`kprov reset` will make this cluster again from its profile, which takes longer");
        }
    }
}

/// Waits until the cluster is all there, then proves that it is what was asked for.
async fn finish(build: &Build<'_>, up: &Up, record: &Record) -> Result<verify::Report, ClusterError> {
    let context = build.context;
    let spec = &build.inputs.profile.spec;
    let names: Vec<String> = build.nodes.iter().map(|member| member.plan.name.clone()).collect();
    let step = context.reporter.stage("Waiting until every node and system pod is Ready");
    let nodes: Vec<Node> = build.nodes.iter().map(|member| member.node.clone()).collect();
    let expected = expectation(build.inputs.profile, &nodes, None);
    let route = ServiceRoute::of(build.inputs.profile, record.nodes.first());
    let wait = async {
        if spec.networking.disable_default_cni {
            return Ok(());
        }
        let ready = ready::wait(&up.client, &expected, READY, |pending| {
            if let Some(first) = pending.first() {
                step.detail(&format!("{first} ({} in all)", pending.len()));
            }
        });
        tokio::select! {
            ready = ready => ready,
            () = kubernetes::hasten_probes(&up.client) => Ok(()),
        }
    };
    let approve = async {
        if spec.hardening.kubelet_serving_certificates {
            kubernetes::approve_serving_certificates(&up.client, &names, READY).await?;
        }
        Ok(())
    };
    tokio::try_join!(wait, approve)?;
    try_join_all(nodes.iter().map(|node| route.lift(node))).await?;
    if let [only] = names.as_slice() {
        kubernetes::remove_label(&up.client, only, render::EXCLUDE_FROM_LOAD_BALANCERS).await?;
    }
    step.done();
    if spec.hardening.file_modes == FileModes::Restrictive {
        try_join_all(build.nodes.iter().map(|member| verify::restrict_file_modes(&member.node))).await?;
    }
    for manifest in &spec.manifests {
        let step = context.reporter.stage(&format!("Applying {}", manifest.name));
        let text = match (&manifest.inline, &manifest.file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => {
                let path = record.base.join(file);
                std::fs::read_to_string(&path).map_err(|error| kubernetes::ApiError::Manifest {
                    name: manifest.name.clone(),
                    reason: format!("{}: {error}", path.display()),
                })?
            }
            (None, None) => String::new(),
        };
        kubernetes::apply(&up.client, &manifest.name, &text).await?;
        step.done();
    }
    let step = context.reporter.stage("Verifying");
    let target = verify::Target { client: &up.client, nodes: &nodes, inputs: Some(&build.inputs), since: None };
    let report = verify::verify(&target).await?;
    report.require()?;
    step.done();
    Ok(report)
}

/// What a cluster of this profile has to show to be ready.
pub(super) fn expectation(profile: &Profile, nodes: &[Node], since: Option<Timestamp>) -> ready::Expectation {
    let control_planes = nodes.iter().filter(|node| node.role == Role::ControlPlane);
    ready::Expectation {
        nodes: nodes.iter().map(|node| node.name.clone()).collect(),
        control_planes: control_planes.map(|node| node.name.clone()).collect(),
        // Without a CNI neither nodes nor most pods can be ready: the user brings their own.
        pods: !profile.spec.networking.disable_default_cni,
        since,
    }
}

/// The files that have to be on control planes before the API server's first start.
fn early_files(inputs: &Inputs<'_>) -> Result<Vec<FileEntry>, ClusterError> {
    let files = render::control_plane_files(inputs)?;
    Ok(files.into_iter().map(|file| FileEntry::new(file.path, file.mode, file.content.as_bytes())).collect())
}

/// Makes all containers, side by side, with the files that they need from the start. No node runs yet.
async fn make_containers(
    context: &Context,
    record: &Record,
    image: &Image,
    plan: &[NodePlan],
    storage_driver: &str,
    files: &[FileEntry],
    balancer: Option<&Balancer>,
) -> Result<Vec<Member>, ClusterError> {
    let engine = &context.engine;
    let step = context.reporter.stage("Making the nodes");
    // Held until the containers are there: an empty network is one that `down` removes.
    let _network_lock = context.store().network_lock().await?;
    let network = ensure_network(engine, &record.name, &record.profile).await?;
    let proxies = proxies(|name| std::env::var(name).ok(), &record.profile, plan, &network.subnets);
    let frame = Frame {
        cluster: &record.name,
        profile: &record.profile,
        base: &record.base,
        digest: &record.digest,
        image: &image.id,
        api_server_port: record.api_server_port,
        load_balancer: balancer.is_some(),
        storage_driver,
        proxies: &proxies,
    };
    if let Some(balancer) = balancer {
        let made = engine.create_container(frame.load_balancer(&balancer.image, Fixed::default())).await?;
        engine.put_archive(&made, pack(std::slice::from_ref(&balancer.config))).await?;
        // It finds the control planes as they come.
        engine.start_container(&made).await?;
    }
    let members = try_join_all(plan.iter().map(|plan| async {
        let spec = frame.node(plan, Fixed::default());
        engine.create_container(spec).await?;
        let node = Node::new(engine.clone(), &plan.name, plan.role);
        if plan.role == Role::ControlPlane {
            node.put_files(files).await?;
        }
        patch_containerd(&node, &record.profile.spec.containerd_config_patches).await?;
        Ok::<_, ClusterError>(Member { plan: plan.clone(), node })
    }))
    .await?;
    step.done();
    Ok(members)
}

/// The clusters' network; made if it is not there yet.
pub(super) async fn ensure_network(engine: &Engine, cluster: &str, profile: &Profile) -> Result<Network, ClusterError> {
    if let Some(network) = engine.network(NETWORK).await? {
        return Ok(network);
    }
    let label = (LABEL_OWNER, "kprov");
    match engine.create_network(NETWORK, Some(unique_local_subnet(cluster)?), label).await {
        // A host without IPv6 does for clusters that do not ask for it.
        Err(EngineError::Failed { .. }) if profile.spec.networking.ip_family == IpFamily::Ipv4 => {
            Ok(engine.create_network(NETWORK, None, label).await?)
        }
        // Another tool was faster.
        Err(EngineError::Conflict { doing, reason }) => {
            Ok(engine.network(NETWORK).await?.ok_or(EngineError::Conflict { doing, reason })?)
        }
        other => Ok(other?),
    }
}

/// A random /64 of the addresses for private use (RFC 4193), since engines do not choose IPv6 subnets themselves.
fn unique_local_subnet(cluster: &str) -> Result<Subnet, ClusterError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes[1..8])
        .map_err(|error| RecordError::Unreadable { name: cluster.to_owned(), reason: error.to_string() })?;
    bytes[0] = 0xfd;
    Ok(Subnet { base: IpAddr::from(bytes), prefix: 64 })
}

/// Ports that this process has chosen: one that nothing listens on yet may be chosen again by a neighbour.
static CHOSEN_PORTS: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The host port of the API server: the one before, the profile's, or one that is free now.
fn api_server_port(context: &Context, profile: &Profile, before: Option<&Before>) -> Result<u16, ClusterError> {
    let networking = &profile.spec.networking;
    let wanted = before.map_or(networking.api_server_port, |before| before.record.api_server_port);
    if !context.engine.is_local() && wanted != 0 {
        return Ok(wanted);
    }
    // Fixed by us, not by the engine: it would choose another one whenever the container starts.
    let address = networking.api_server_address();
    loop {
        let listener = TcpListener::bind((address, wanted)).and_then(|listener| listener.local_addr());
        let port = listener.map(|address| address.port()).map_err(|error| {
            let container = "the API server".to_owned();
            EngineError::PortTaken { container, reason: format!("{address}:{wanted}: {error}") }
        })?;
        let new = CHOSEN_PORTS.lock().is_ok_and(|mut chosen| chosen.insert(port));
        if new || wanted != 0 {
            return Ok(port);
        }
    }
}

pub(super) fn server_url(profile: &Profile, port: u16) -> String {
    let address = match profile.spec.networking.api_server_address() {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        address => address,
    };
    format!("https://{}", std::net::SocketAddr::new(address, port))
}

/// Lays the profile's patches over containerd's configuration, before containerd has started.
async fn patch_containerd(node: &Node, patches: &[String]) -> Result<(), ClusterError> {
    const CONFIG: &str = "/etc/containerd/config.toml";
    if patches.is_empty() {
        return Ok(());
    }
    let fail = |reason: String| NodeError::File { node: node.name.clone(), path: CONFIG.to_owned(), reason };
    let mut config: toml::Table =
        node.read_text(CONFIG).await?.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
    for patch in patches {
        let patch: toml::Table = patch.parse().map_err(|error: toml::de::Error| fail(format!("the patch: {error}")))?;
        overlay(&mut config, patch);
    }
    let text = toml::to_string(&config).map_err(|error| fail(error.to_string()))?;
    Ok(node.put_files(&[FileEntry::new(CONFIG, 0o644, text)]).await?)
}

fn overlay(base: &mut toml::Table, patch: toml::Table) {
    for (key, value) in patch {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_merged_table_by_table() {
        let mut config: toml::Table = "a = 1\n[plugins.x]\nb = 2\nc = 3\n".parse().unwrap();
        overlay(&mut config, "[plugins.x]\nb = 4\n[plugins.y]\nd = 5\n".parse().unwrap());
        assert_eq!(config, "a = 1\n[plugins.x]\nb = 4\nc = 3\n[plugins.y]\nd = 5\n".parse().unwrap());
    }

    #[test]
    fn the_network_is_for_private_use() {
        let subnet = unique_local_subnet("c").unwrap().to_string();
        assert!(subnet.starts_with("fd") && subnet.ends_with("::/64"), "{subnet}");
    }
}
