//! What a user asks for: the `Profile` document and its parts.
//!
//! Owns the types, as they are written in YAML. Finding, layering and checking
//! profiles is in the submodules. Nothing here knows of Docker, of a Kubernetes
//! version or of files inside a node: that is `render`'s part.

mod defaults;
mod error;
mod kind_file;
mod kms;
mod kubelet;
mod load;
mod machine;
mod names;
mod read;
mod registry;
mod ring;
pub mod schema;
mod secret;
mod semantic;
mod set;
mod shape;
mod source;
#[cfg(test)]
mod tests;
mod tree;
mod variables;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::cis;
use crate::documents::keys::ProviderKind;

pub use defaults::DEFAULT_IMAGE;
pub use error::{Problem, ProblemEntry, ProfileError, Warning};
pub use kms::{AppRole, ClientCertificate, Kms, KmsHolder, KmsServer, LocalKms, SecretSource, VaultAuth, VaultKms};
pub use kubelet::is_kubelet_field;
pub use load::{Loaded, check, load, load_layers, to_yaml};
pub use machine::{Limits, Proxy};
pub use names::{check_cluster_name, check_docker_network, check_image};
pub use registry::{Cache, LocalRegistry, Mirror, Registry, user_and_password};
pub use schema::json_schema;
pub use source::{Listed, Origin, SearchPath, list};
pub use variables::Variables;

/// The only `apiVersion` that this kprov reads.
pub const API_VERSION: &str = "kprov.dev/v1alpha1";

/// A declarative description of one kind cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// Always `kprov.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// Always `Profile`.
    pub kind: Kind,
    /// Name and description of the profile itself.
    pub metadata: Metadata,
    /// Another profile (name or file) that this one is laid over. Mappings are
    /// merged key by key; lists and scalars replace the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<String>,
    /// The cluster.
    #[serde(default)]
    pub spec: Spec,
}

/// The version of the document's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// `kprov.dev/v1alpha1`
    #[serde(rename = "kprov.dev/v1alpha1")]
    V1Alpha1,
}

/// The kind of the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Kind {
    /// A cluster profile.
    Profile,
}

/// Name and description of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// The profile's name; the cluster is called so too unless `spec.clusterName` or `--name` says otherwise.
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub name: String,
    /// One line for `kprov profiles`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Everything that makes a cluster what it is. Each field has a default, so that
/// an empty `spec` is the cluster that kind makes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Spec {
    /// The cluster's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))]
    pub cluster_name: Option<String>,
    /// The node image, best pinned by digest. Default: see `DEFAULT_IMAGE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// How Kubernetes is brought up on the nodes.
    pub bootstrap: Bootstrap,
    /// Groups of like nodes. Default: one control plane.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeGroup>,
    /// Addresses and proxies.
    pub networking: Networking,
    /// Kubernetes feature gates, for every component.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub feature_gates: BTreeMap<String, bool>,
    /// The API server's `--runtime-config`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub runtime_config: BTreeMap<String, String>,
    /// Encryption at rest; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The audit log; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// kube-apiserver.
    pub api_server: ApiServer,
    /// kube-controller-manager.
    pub controller_manager: Component,
    /// kube-scheduler.
    pub scheduler: Component,
    /// etcd.
    pub etcd: Component,
    /// kubelet, on every node.
    pub kubelet: Kubelet,
    /// What hardening needs beyond flags.
    pub hardening: Hardening,
    /// What is said of the CIS benchmark.
    #[serde(skip_serializing_if = "Cis::is_empty")]
    pub cis: Cis,
    /// Patches of `/etc/containerd/config.toml` (TOML, merged), as in kind.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub containerd_config_patches: Vec<String>,
    /// JSON 6902 patches of `/etc/containerd/config.toml`, as in kind.
    #[serde(rename = "containerdConfigPatchesJSON6902", skip_serializing_if = "Vec::is_empty")]
    pub containerd_config_patches_json6902: Vec<String>,
    /// Merge patches of kubeadm's configuration on every node, as in kind: each is for the documents of its `kind`, and of its
    /// `apiVersion` if it has one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubeadm_config_patches: Vec<String>,
    /// JSON 6902 patches of kubeadm's configuration on every node, as in kind.
    #[serde(rename = "kubeadmConfigPatchesJSON6902", skip_serializing_if = "Vec::is_empty")]
    pub kubeadm_config_patches_json6902: Vec<PatchJson6902>,
    /// Images of the engine that are brought into all nodes once the cluster is up; pulled first if the engine lacks them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preload: Vec<String>,
    /// Files with certificates, in PEM, that nodes trust besides those of their image; relative paths start at the profile's folder.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_certificates: Vec<String>,
    /// Registries, caches and mirrors that nodes get images from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    /// Manifests that are applied once the cluster is up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Manifest>,
}

/// How Kubernetes is brought up on the nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Bootstrap {
    /// As `phased` where kubeadm's configuration is not patched. Where that meets something in the image that it does not know,
    /// once more from clean nodes as `kubeadm`.
    #[default]
    Auto,
    /// kubeadm's phases, ordered and awaited by kprov.
    Phased,
    /// `kubeadm init` and `kubeadm join`, as kind does.
    Kubeadm,
}

/// A node's part in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs etcd and the API server.
    ControlPlane,
    /// Runs workloads.
    Worker,
}

/// Like nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NodeGroup {
    /// Their role.
    pub role: Role,
    /// How many there are.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub count: u32,
    /// Another image than the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Node labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Node taints.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Ports published on the host. Only for a group of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMapping>,
    /// Host folders and files mounted into the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// How much of the host each of them may use; the kubelet promises pods no more.
    #[serde(default, skip_serializing_if = "Limits::is_none")]
    pub limits: Limits,
    /// Merge patches of kubeadm's configuration on these nodes, after those of the whole cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubeadm_config_patches: Vec<String>,
    /// JSON 6902 patches of kubeadm's configuration on these nodes, after those of the whole cluster.
    #[serde(default, rename = "kubeadmConfigPatchesJSON6902", skip_serializing_if = "Vec::is_empty")]
    pub kubeadm_config_patches_json6902: Vec<PatchJson6902>,
}

/// A JSON 6902 patch of a document of kubeadm's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PatchJson6902 {
    /// The document's group, such as `kubeadm.k8s.io`.
    #[serde(default)]
    pub group: String,
    /// The document's version, such as `v1beta4`. Without group and version, the kind alone decides.
    #[serde(default)]
    pub version: String,
    /// The document's kind, such as `ClusterConfiguration`.
    pub kind: String,
    /// The list of operations, as JSON or YAML.
    pub patch: String,
}

fn one() -> u32 {
    1
}

/// A node taint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Taint {
    /// The taint's key.
    pub key: String,
    /// The taint's value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// New pods stay away.
    NoSchedule,
    /// New pods stay away if they can.
    PreferNoSchedule,
    /// All pods leave.
    NoExecute,
}

/// A port of a node that is published on the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMapping {
    /// The port inside the node.
    #[schemars(range(min = 1))]
    pub container_port: u16,
    /// The port on the host; 0 is a free one.
    #[serde(default)]
    pub host_port: u16,
    /// The address on the host. Default: 0.0.0.0, and `::` in an IPv6 cluster, as in kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_address: Option<std::net::IpAddr>,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP
    #[default]
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// A host path that is mounted into a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mount {
    /// The path on the host; a relative one starts at the profile's folder.
    pub host_path: String,
    /// The path inside the node.
    pub container_path: String,
    /// Whether the node may not write.
    #[serde(default)]
    pub read_only: bool,
    /// Whether it gets a label of SELinux that only this node may use.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub selinux_relabel: bool,
    /// Whether mounts below it are seen on the other side.
    #[serde(default, skip_serializing_if = "Propagation::is_none")]
    pub propagation: Propagation,
}

/// Whether what is mounted below a mount is seen on its other side.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Propagation {
    /// Neither way.
    #[default]
    None,
    /// The node sees what the host mounts.
    HostToContainer,
    /// Each sees what the other mounts.
    Bidirectional,
}

impl Propagation {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// Addresses and proxies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Networking {
    /// Address families.
    pub ip_family: IpFamily,
    /// The host address that the API server's port is published on. Default: 127.0.0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server_address: Option<std::net::IpAddr>,
    /// The host port of the API server; 0 is a free one.
    pub api_server_port: u16,
    /// The pods' addresses. Default: 10.244.0.0/16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_subnet: Option<String>,
    /// The services' addresses. Default: 10.96.0.0/16.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_subnet: Option<String>,
    /// Leaves the CNI out; nodes stay NotReady until you install one.
    #[serde(rename = "disableDefaultCNI")]
    pub disable_default_cni: bool,
    /// kube-proxy's mode.
    pub kube_proxy_mode: KubeProxyMode,
    /// Where nodes look for names without a domain; the host's own domains unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_search: Option<Vec<String>>,
    /// The engine's network that the nodes are on; made if it is not there. Default: kind, as with kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub docker_network: Option<String>,
    /// Proxies of nodes, instead of those that kprov finds in its environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Proxy>,
    /// Names that nodes know by themselves, with their addresses: those of registries, say. Pods do not.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, std::net::IpAddr>,
}

/// Address families of a cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IpFamily {
    /// IPv4 only
    #[default]
    Ipv4,
    /// IPv6 only
    Ipv6,
    /// Both
    Dual,
}

/// How kube-proxy forwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KubeProxyMode {
    /// iptables
    #[default]
    Iptables,
    /// IPVS
    Ipvs,
    /// nftables, from Kubernetes 1.31
    Nftables,
    /// No kube-proxy at all
    None,
}

/// Encryption at rest of API resources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// Providers in the order of the EncryptionConfiguration: the first one
    /// writes, all of them read. `identity` may only come last.
    #[schemars(length(min = 1))]
    pub providers: Vec<EncryptionProvider>,
    /// Resources, as in the EncryptionConfiguration. Default: `secrets`.
    #[serde(default = "secrets")]
    #[schemars(length(min = 1))]
    pub resources: Vec<String>,
}

fn secrets() -> Vec<String> {
    vec!["secrets".to_owned()]
}

/// A provider and its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EncryptionProvider {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: ProviderKind,
    /// Its keys; the first one writes. Default: one generated key, `key1`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key>,
    /// The plugin, for `kms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms: Option<Kms>,
}

/// A key's name and where its bytes come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Key {
    /// The key's name, stored with every value that it encrypts.
    pub name: String,
    /// Where the key comes from. Default: generated for this cluster.
    #[serde(default)]
    pub source: KeySource,
}

/// Where a key's bytes come from. Never printed; `Debug` of a literal is redacted.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum KeySource {
    /// The operating system's random source, once per cluster.
    #[default]
    Generate,
    /// An environment variable that holds the base64 of the key.
    Env(String),
    /// A file that holds the base64 of the key.
    File(String),
    /// The base64 of the key, in the profile itself. For exercises only: kprov warns.
    Literal(String),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Generate => f.write_str("Generate"),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Literal(_) => f.write_str("Literal(<redacted>)"),
        }
    }
}

/// The API server's audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Audit {
    /// The `rules` of an `audit.k8s.io/v1` Policy.
    #[schemars(length(min = 1), with = "Vec<schema::AuditRule>")]
    pub rules: Vec<serde_json::Value>,
    /// Stages that are left out everywhere (`omitStages`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<schema::AuditStage>")]
    pub omit_stages: Vec<String>,
    /// Days to keep old log files.
    #[serde(default = "audit_days")]
    pub max_age_days: u32,
    /// How many old log files to keep.
    #[serde(default = "audit_backups")]
    pub max_backups: u32,
    /// Size of a log file at rotation, in MiB.
    #[serde(default = "audit_size")]
    pub max_size_mi_b: u32,
}

// The CIS benchmark's values (1.2.17 to 1.2.19 of version 1.12).
fn audit_days() -> u32 {
    30
}
fn audit_backups() -> u32 {
    10
}
fn audit_size() -> u32 {
    100
}

/// A static pod's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Component {
    /// Flags, without leading dashes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_args: BTreeMap<String, String>,
}

/// kube-apiserver's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ApiServer {
    /// Flags, without leading dashes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_args: BTreeMap<String, String>,
    /// Configurations of admission plugins, by the plugins' names. They configure only: `enable-admission-plugins` is what
    /// puts a plugin in force that is not by default.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, serde_json::Map<String, serde_json::Value>>")]
    pub admission: BTreeMap<String, serde_json::Value>,
    /// The only paths that requests without a name get to, such as `/livez`; left out, they get wherever their rights lead.
    /// From Kubernetes 1.32. `/livez` and `/readyz` have to be among them: kubeadm's probes have no name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous_paths: Option<Vec<String>>,
    /// Further names and addresses in its serving certificate.
    #[serde(rename = "certSANs", skip_serializing_if = "Vec::is_empty")]
    pub cert_sans: Vec<String>,
}

/// kubelet's settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Kubelet {
    /// Fields of `kubelet.config.k8s.io/v1beta1` KubeletConfiguration.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub config: serde_json::Map<String, serde_json::Value>,
    /// Flags, without leading dashes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_args: BTreeMap<String, String>,
}

/// What hardening needs beyond flags.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Hardening {
    /// Files of kubelet, CNI and control plane get the modes that the CIS benchmark asks for.
    pub file_modes: FileModes,
    /// kubelet serves with a certificate signed by the cluster's CA, and the API server verifies it.
    pub kubelet_serving_certificates: bool,
    /// Every container gets the runtime's default seccomp profile (from Kubernetes 1.22).
    pub seccomp_default: bool,
}

/// What is said of the CIS benchmark. It changes nothing in the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Cis {
    /// Controls that need not hold; `kprov cis` shows them with their reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exceptions: Vec<CisException>,
}

/// A control that need not hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CisException {
    /// Its number, such as `1.2.9`.
    pub id: String,
    /// The version of the benchmark that the number is of, such as `cis-1.20`. Default: the newest one. The control is
    /// excepted under whichever number another version gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub benchmark: Option<String>,
    /// The newest version of the benchmark that it holds for. Default: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Why.
    pub reason: String,
}

impl Cis {
    fn is_empty(&self) -> bool {
        self.exceptions.is_empty()
    }

    /// The exceptions; those of versions that are not known are none, and have been refused before.
    #[must_use]
    pub fn exceptions(&self) -> Vec<cis::Exception> {
        let known = self.exceptions.iter().filter_map(|exception| {
            let benchmark = exception.benchmark.as_deref().map_or(Ok(cis::Benchmark::NEWEST), str::parse).ok()?;
            let until = exception.until.as_deref().map(str::parse).transpose().ok()?;
            Some(cis::Exception { benchmark, until, id: exception.id.clone(), reason: exception.reason.clone() })
        });
        known.collect()
    }
}

/// Who may read the nodes' configuration files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FileModes {
    /// As kubeadm and the image leave them.
    #[default]
    AsIs,
    /// root only.
    Restrictive,
}

/// A manifest that is applied once the cluster is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// A name for messages.
    pub name: String,
    /// A file of YAML documents; a relative path starts at the profile's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The YAML documents themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<String>,
}
