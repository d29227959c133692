//! The kubeadm configuration of each node.
//!
//! Owns what the documents of one node are filled with. Their layout for each of
//! kubeadm's API versions is in the templates; flags and fields come from `settings`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::documents::profile::{IpFamily, KubeProxyMode, Role, Taint, TaintEffect};

use super::nodes::{API_SERVER_PORT, NodeAddresses, NodePlan, NodeStart};
use super::probes::PATCHES_FOLDER;
use super::version::KubernetesVersion;
use super::{Inputs, RenderError, patching, settings, templates};

/// Stands for a bootstrap token where documents are shown or compared: each cluster has a random one. kind's own.
pub const PLACEHOLDER_TOKEN: &str = "abcdef.0123456789abcdef";

/// How long a bootstrap token is good for, should whoever made it be killed before deleting it.
const TOKEN_TTL: &str = "15m0s";

/// Where etcd's members find each other (cmd/kubeadm/app/constants/constants.go, `EtcdListenPeerPort`).
const PEER_PORT: u16 = 2380;

/// What the kubeadm and the kind templates both get.
#[derive(Serialize)]
pub(super) struct Common<'a> {
    pub(super) cluster: &'a str,
    pub(super) ipv6: bool,
    pub(super) api_server: ApiServerValues,
    pub(super) controller_manager: Args,
    pub(super) scheduler: Args,
    pub(super) etcd: Args,
    pub(super) kubelet: KubeletValues<'a>,
}

#[derive(Serialize)]
pub(super) struct Args {
    pub(super) args: BTreeMap<String, String>,
}

#[derive(Serialize)]
pub(super) struct ApiServerValues {
    pub(super) cert_sans: Vec<String>,
    #[serde(flatten)]
    pub(super) pod: settings::StaticPod,
}

#[derive(Serialize)]
pub(super) struct KubeletValues<'a> {
    pub(super) cgroup_driver: &'static str,
    pub(super) serving_certificates: bool,
    pub(super) settings: Value,
    pub(super) args: &'a BTreeMap<String, String>,
}

impl<'a> Common<'a> {
    pub(super) fn new(inputs: &Inputs<'a>) -> Result<Self, RenderError> {
        let spec = &inputs.profile.spec;
        let mut pod = settings::api_server(inputs)?;
        // kind always sets it, if only to nothing.
        pod.args.entry("runtime-config".to_owned()).or_default();
        Ok(Self {
            cluster: inputs.cluster,
            ipv6: spec.networking.ip_family == IpFamily::Ipv6,
            api_server: ApiServerValues { cert_sans: settings::cert_sans(inputs.profile), pod },
            controller_manager: Args { args: settings::controller_manager(inputs.profile) },
            scheduler: Args { args: settings::scheduler(inputs.profile) },
            etcd: Args { args: spec.etcd.extra_args.clone() },
            kubelet: KubeletValues {
                cgroup_driver: inputs.version.cgroup_driver(),
                serving_certificates: spec.hardening.kubelet_serving_certificates,
                settings: settings::kubelet(inputs),
                args: &spec.kubelet.extra_args,
            },
        })
    }
}

#[derive(Serialize)]
struct KubeadmValues<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    api: &'static str,
    as_lists: bool,
    kubernetes_version: String,
    kubeadm_feature_gates: BTreeMap<&'static str, bool>,
    endpoint: &'a str,
    token: &'a str,
    token_ttl: &'static str,
    api_port: u16,
    pod_subnet: &'a str,
    service_subnet: &'a str,
    start: NodeStart,
    skip_phases: Vec<&'static str>,
    patches: Option<&'static str>,
    node: NodeValues,
    kube_proxy: Option<KubeProxyValues<'a>>,
}

#[derive(Serialize)]
struct NodeValues {
    advertise_address: String,
    kubelet_args: BTreeMap<String, String>,
    taints: Option<Vec<Value>>,
}

#[derive(Serialize)]
struct KubeProxyValues<'a> {
    mode: KubeProxyMode,
    feature_gates: &'a BTreeMap<String, bool>,
}

/// The phases of `kubeadm init` or `kubeadm join` that are left out. From 1.23
/// on the configuration says so itself; before, they are the value of `--skip-phases`
/// (see [`KubeadmApi::skips_phases`](super::KubeadmApi::skips_phases)).
#[must_use]
pub fn skip_phases(proxy: KubeProxyMode, start: NodeStart) -> Vec<&'static str> {
    let mut phases = vec!["preflight"];
    if proxy == KubeProxyMode::None && start == NodeStart::Init {
        phases.push("addon/kube-proxy");
    }
    phases
}

/// The flag by which kubeadm finds the patches of the static pods, as it is to be given to `kubeadm init`, its phases
/// and `kubeadm join`; `None` where its configuration names them.
#[must_use]
pub fn patches_flag(version: &KubernetesVersion) -> Option<String> {
    let flag = version.kubeadm_patches_flag()?;
    Some(format!("{flag}={PATCHES_FOLDER}"))
}

/// The taints that the node registers with: `None` leaves kubeadm's default, an empty list means none.
///
/// A profile's taints replace kubeadm's default, so a control plane gets that one again, except in a
/// cluster of one node, which has to run everything itself.
pub(super) fn taints(version: &KubernetesVersion, node: &NodePlan, keep_default: bool) -> Option<Vec<Value>> {
    let own = node.taints.iter().map(taint_value);
    match (node.role, keep_default) {
        (Role::ControlPlane, false) => Some(own.collect()),
        _ if node.taints.is_empty() => None,
        (Role::ControlPlane, true) => Some(control_plane_taints(version, node).iter().map(taint_value).collect()),
        (Role::Worker, _) => Some(own.collect()),
    }
}

/// The taints of a control plane of a cluster of several nodes: kubeadm's, and the profile's.
#[must_use]
pub fn control_plane_taints(version: &KubernetesVersion, node: &NodePlan) -> Vec<Taint> {
    let default = version.control_plane_taints().iter().map(|key| Taint {
        key: (*key).to_owned(),
        value: String::new(),
        effect: TaintEffect::NoSchedule,
    });
    default.chain(node.taints.iter().cloned()).collect()
}

fn taint_value(taint: &Taint) -> Value {
    // A Taint is plain data; its JSON cannot fail.
    serde_json::to_value(taint).unwrap_or_default()
}

/// The members of a new etcd cluster, by name and address, as etcd's flag `--initial-cluster` has them.
#[must_use]
pub fn initial_cluster(members: &[(String, IpAddr)]) -> String {
    let member =
        |(name, address): &(String, IpAddr)| format!("{name}=https://{}", SocketAddr::new(*address, PEER_PORT));
    members.iter().map(member).collect::<Vec<_>>().join(",")
}

/// The configuration by which a control plane's etcd founds its cluster together with others, whose names and addresses are
/// `members`, as [`initial_cluster`] has them. All else is as in [`kubeadm_config`] of a first control plane. It is not the
/// cluster's own configuration, which knows nothing of single nodes.
///
/// # Errors
/// Those of [`kubeadm_config`].
pub fn founding_config(
    inputs: &Inputs<'_>,
    node: &NodePlan,
    addresses: &NodeAddresses,
    endpoint: &str,
    token: &str,
    members: &str,
) -> Result<Zeroizing<String>, RenderError> {
    let mut profile = inputs.profile.clone();
    profile.spec.etcd.extra_args.entry("initial-cluster".to_owned()).or_insert_with(|| members.to_owned());
    kubeadm_config(&Inputs { profile: &profile, ..*inputs }, node, NodeStart::Init, addresses, endpoint, token)
}

/// The kubeadm configuration of `node`: ClusterConfiguration, InitConfiguration or
/// JoinConfiguration, KubeletConfiguration, and KubeProxyConfiguration unless there is to be no kube-proxy; patched
/// as the profile asks.
///
/// `endpoint` is where every node finds the API server, as `host:port`
/// (see [`control_plane_endpoint`](super::control_plane_endpoint)). `token` is what they join by; whoever
/// brings the cluster up deletes it afterwards.
///
/// # Errors
/// [`RenderError::Template`] if the template fails, [`RenderError::Unsupported`] if the version lacks what is asked for,
/// [`RenderError::NoAddress`] if the node has none of the cluster's family, [`RenderError::Patch`] if a patch does not fit.
pub fn kubeadm_config(
    inputs: &Inputs<'_>,
    node: &NodePlan,
    start: NodeStart,
    addresses: &NodeAddresses,
    endpoint: &str,
    token: &str,
) -> Result<Zeroizing<String>, RenderError> {
    let spec = &inputs.profile.spec;
    let addresses = addresses.ordered(&node.name, &spec.networking)?;
    let join = |separator: &str| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator);
    let mut kubelet_args = BTreeMap::from([
        ("node-ip".to_owned(), join(",")),
        ("node-labels".to_owned(), settings::joined(&node.labels)),
        ("provider-id".to_owned(), format!("kind://docker/{}/{}", inputs.cluster, node.name)),
    ]);
    kubelet_args.extend(spec.kubelet.extra_args.clone());
    let single = spec.count(Role::ControlPlane) + spec.count(Role::Worker) == 1;
    let proxy = settings::kube_proxy_mode(inputs)?;
    let api = inputs.version.kubeadm_api();
    let values = KubeadmValues {
        common: Common::new(inputs)?,
        api: api.name(),
        as_lists: api.lists_arguments(),
        kubernetes_version: inputs.version.to_string(),
        kubeadm_feature_gates: inputs.version.kubeadm_feature_gates().iter().map(|gate| (*gate, true)).collect(),
        endpoint,
        token,
        token_ttl: TOKEN_TTL,
        api_port: API_SERVER_PORT,
        pod_subnet: spec.networking.pod_subnet(),
        service_subnet: spec.networking.service_subnet(),
        start,
        skip_phases: if api.skips_phases() { skip_phases(spec.networking.kube_proxy_mode, start) } else { Vec::new() },
        // A worker has no static pods.
        patches: (node.role == Role::ControlPlane && api.names_patches()).then_some(PATCHES_FOLDER),
        node: NodeValues {
            advertise_address: addresses.first().map(ToString::to_string).unwrap_or_default(),
            kubelet_args,
            taints: taints(inputs.version, node, !single),
        },
        kube_proxy: proxy.map(|mode| KubeProxyValues { mode, feature_gates: &spec.feature_gates }),
    };
    let volumes = values.common.api_server.pod.volumes.clone();
    let config = Zeroizing::new(inputs.templates.render(templates::KUBEADM, values)?);
    patching::patched(spec, node, config, &volumes)
}
