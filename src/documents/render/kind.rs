//! The configuration for the real kind, and the bundle of documents around it.
//!
//! Owns what `kprov render` puts out. `kind create cluster --config DIR/cluster.yaml`
//! makes a cluster of it that is encrypted, audited and hardened alike (but for
//! what kind cannot do: file modes on the nodes, approving kubelets' certificates).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::documents::encryption::PLUGIN_SOCKET;
use crate::documents::patches;
use crate::documents::profile::{FileModes, PatchJson6902, Role};

use super::balancer::{LoadBalancer, load_balancer_config};
use super::kubeadm::{Common, PLACEHOLDER_TOKEN, kubeadm_config, taints};
use super::nodes::{NodeAddresses, NodePlan, control_plane_endpoint, plan_nodes, role_name};
use super::settings::{self, ADMISSION_FOLDER, AUDIT_FOLDER, AUTHENTICATION_FOLDER, ENCRYPTION_FOLDER};
use super::{
    Inputs, RenderError, admission_configuration, audit_policy, authentication_configuration, kms, secrets,
    static_pod_patches, templates,
};

/// Addresses from the ranges set aside for documentation (RFC 5737, RFC 3849): real ones are known once nodes run.
pub(super) const PLACEHOLDER: NodeAddresses =
    NodeAddresses { v4: Some(Ipv4Addr::new(192, 0, 2, 1)), v6: Some(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)) };

/// A document of a bundle.
#[derive(Clone, PartialEq, Eq)]
pub struct Document {
    /// Its path within the bundle, with slashes.
    pub name: String,
    /// Its text.
    pub content: Zeroizing<String>,
    /// Whether it holds keys: to be written with mode 0600 and shown to nobody.
    pub secret: bool,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document").field("name", &self.name).field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// Everything that a profile renders to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// The documents; kind's configuration is the first one.
    pub documents: Vec<Document>,
}

#[derive(Serialize)]
struct KindValues<'a> {
    #[serde(flatten)]
    common: Common<'a>,
    dir: &'a str,
    restrictive: bool,
    /// Where kprov's own KMS plugin listens, if the profile has one that is not in the bundle.
    kms_plugin: Option<&'static str>,
    networking: Value,
    feature_gates: &'a BTreeMap<String, bool>,
    runtime_config: &'a BTreeMap<String, String>,
    containerd_config_patches: &'a [String],
    containerd_config_patches_json6902: &'a [String],
    kubeadm_config_patches: &'a [String],
    kubeadm_config_patches_json6902: &'a [PatchJson6902],
    /// kprov's volumes of the API server, besides those that a patch would put in their stead.
    volumes_after_patches: Option<Value>,
    nodes: Vec<KindNode<'a>>,
}

#[derive(Serialize)]
struct KindNode<'a> {
    role: &'static str,
    image: &'a str,
    labels: &'a BTreeMap<String, String>,
    mounts: Vec<Value>,
    ports: Value,
    taints: Option<Vec<Value>>,
    kubeadm_config_patches: &'a [String],
    kubeadm_config_patches_json6902: &'a [PatchJson6902],
}

/// The documents of `kprov render`, for a bundle that is to lie in the folder `dir` (an absolute path).
///
/// Without keys in `inputs` the EncryptionConfiguration says where each key would come from instead.
/// The nodes' kubeadm configurations carry placeholder addresses.
///
/// # Errors
/// [`RenderError::Colon`] or [`RenderError::NotUnicode`] if kind cannot use `dir`, [`RenderError::Unsupported`] if the version
/// lacks what is asked for, [`RenderError::Template`] if a template fails.
pub fn bundle(inputs: &Inputs<'_>, dir: &Path) -> Result<Bundle, RenderError> {
    let spec = &inputs.profile.spec;
    let mounted = spec.encryption.is_some()
        || spec.audit.is_some()
        || !settings::admission_plugins(inputs).is_empty()
        || settings::anonymous_paths(inputs).is_some();
    let dir = dir.to_str().ok_or_else(|| RenderError::NotUnicode { path: dir.to_owned() })?;
    if mounted && dir.contains(':') {
        return Err(RenderError::Colon { path: dir.to_owned() });
    }
    let plan = plan_nodes(inputs.profile, inputs.cluster);
    let mut documents = vec![document("cluster.yaml", kind_config(inputs, &plan, dir)?)];
    if let Some(encryption) = &spec.encryption {
        let (content, secret) = match inputs.keys {
            Some(ring) => (secrets::encryption_config(inputs, encryption, ring)?, true),
            None => (secrets::redacted(inputs, encryption)?.into(), false),
        };
        documents.push(Document { name: "encryption/encryption-config.yaml".to_owned(), content, secret });
    }
    let plugin = kms::bundle_files(inputs).into_iter();
    documents.extend(plugin.map(|(name, content, secret)| Document { name, content, secret }));
    if let Some(policy) = audit_policy(inputs)? {
        documents.push(document("audit/policy.yaml", policy));
    }
    if let Some(configuration) = admission_configuration(inputs)? {
        documents.push(document("admission/config.yaml", configuration));
    }
    if let Some(configuration) = authentication_configuration(inputs)? {
        documents.push(document("authentication/config.yaml", configuration));
    }
    if let Some(patch) = api_server_patch(inputs)? {
        documents.push(document("patches/kube-apiserver0+json.yaml", patch));
    }
    let endpoint = control_plane_endpoint(&plan, inputs.cluster);
    for node in &plan {
        let config = kubeadm_config(inputs, node, node.start(), &PLACEHOLDER, &endpoint, PLACEHOLDER_TOKEN)?;
        documents.push(document(&format!("kubeadm/{}.yaml", node.name), config.to_string()));
    }
    for (path, patch) in static_pod_patches(inputs)? {
        documents.push(document(&format!("kubeadm{}", path.trim_start_matches("/kind")), patch));
    }
    for (name, program) in
        [("load-balancer/haproxy.cfg", LoadBalancer::Haproxy), ("load-balancer/envoy.yaml", LoadBalancer::Envoy)]
    {
        if let Some(config) = load_balancer_config(inputs, program)? {
            documents.push(document(name, config));
        }
    }
    Ok(Bundle { documents })
}

fn document(name: &str, content: String) -> Document {
    Document { name: name.to_owned(), content: content.into(), secret: false }
}

fn kind_config(inputs: &Inputs<'_>, plan: &[NodePlan], dir: &str) -> Result<String, RenderError> {
    let spec = &inputs.profile.spec;
    let net = &spec.networking;
    // kind falls back to iptables in silence where nftables is not to be had.
    settings::kube_proxy_mode(inputs)?;
    let mut networking = json!({
        "ipFamily": net.ip_family,
        "apiServerAddress": net.api_server_address(),
        "apiServerPort": net.api_server_port,
        "podSubnet": net.pod_subnet(),
        "serviceSubnet": net.service_subnet(),
        "disableDefaultCNI": net.disable_default_cni,
        "kubeProxyMode": net.kube_proxy_mode,
    });
    if let Some(search) = &net.dns_search {
        networking["dnsSearch"] = json!(search);
    }
    let values = KindValues {
        common: Common::new(inputs)?,
        dir,
        restrictive: spec.hardening.file_modes == FileModes::Restrictive,
        kms_plugin: inputs
            .profile
            .kms()
            .filter(|kms| kms.is_own() && !kms::is_in_bundle(inputs) && kms.host.is_none())
            .map(|_| PLUGIN_SOCKET),
        networking,
        feature_gates: &spec.feature_gates,
        runtime_config: &spec.runtime_config,
        containerd_config_patches: &spec.containerd_config_patches,
        containerd_config_patches_json6902: &spec.containerd_config_patches_json6902,
        kubeadm_config_patches: &spec.kubeadm_config_patches,
        kubeadm_config_patches_json6902: &spec.kubeadm_config_patches_json6902,
        volumes_after_patches: volumes_after_patches(inputs, plan)?,
        nodes: plan
            .iter()
            .map(|node| KindNode {
                role: role_name(node.role),
                image: node.image.as_deref().unwrap_or(inputs.image),
                labels: &node.labels,
                mounts: mounts(inputs, node, dir),
                ports: json!(node.ports),
                // kind removes the default taint of a single node, and fails if it is not there.
                taints: taints(inputs.version, node, true),
                kubeadm_config_patches: &node.kubeadm_config_patches,
                kubeadm_config_patches_json6902: &node.kubeadm_config_patches_json6902,
            })
            .collect(),
    };
    Ok(inputs.templates.render(templates::KIND_CLUSTER, values)?)
}

/// The API server's volumes once the cluster's patches are applied, if these would take away kprov's own: a merge patch
/// replaces lists.
fn volumes_after_patches(inputs: &Inputs<'_>, plan: &[NodePlan]) -> Result<Option<Value>, RenderError> {
    let spec = &inputs.profile.spec;
    let own = settings::api_server(inputs)?.volumes;
    let Some(first) = plan.first().filter(|_| !own.is_empty() && spec.patches_kubeadm()) else { return Ok(None) };
    let endpoint = control_plane_endpoint(plan, inputs.cluster);
    let config = kubeadm_config(inputs, first, first.start(), &PLACEHOLDER, &endpoint, PLACEHOLDER_TOKEN)?;
    let documents = patches::documents(&config).unwrap_or_default();
    let cluster = documents.iter().find(|document| document["kind"] == "ClusterConfiguration");
    let volumes = cluster.and_then(|document| document["apiServer"].get("extraVolumes")).cloned();
    Ok(volumes.filter(|volumes| *volumes != json!(own)))
}

/// A node's mounts: the profile's, and on control planes the bundle's own folders.
fn mounts(inputs: &Inputs<'_>, node: &NodePlan, dir: &str) -> Vec<Value> {
    let spec = &inputs.profile.spec;
    let mut mounts: Vec<Value> = node.mounts.iter().map(|mount| json!(mount)).collect();
    if node.role == Role::ControlPlane {
        if spec.encryption.is_some() {
            // Writable: keys can be rotated later, from within the node.
            mounts.push(json!({"hostPath": format!("{dir}/encryption"), "containerPath": ENCRYPTION_FOLDER}));
        }
        if kms::is_in_bundle(inputs) {
            mounts.extend(kms::bundle_mounts(dir));
        }
        if spec.audit.is_some() {
            mounts.push(json!({
                "hostPath": format!("{dir}/audit"), "containerPath": AUDIT_FOLDER, "readOnly": true,
            }));
        }
        if !settings::admission_plugins(inputs).is_empty() {
            mounts.push(json!({
                "hostPath": format!("{dir}/admission"), "containerPath": ADMISSION_FOLDER, "readOnly": true,
            }));
        }
        if settings::anonymous_paths(inputs).is_some() {
            mounts.push(json!({
                "hostPath": format!("{dir}/authentication"), "containerPath": AUTHENTICATION_FOLDER, "readOnly": true,
            }));
        }
    }
    mounts
}

/// The API server's patch, for a control plane that was made without the profile; `None` if there is nothing to patch.
///
/// # Errors
/// [`RenderError::Unsupported`] if the version lacks what is asked for, [`RenderError::Template`] if the template fails.
pub fn api_server_patch(inputs: &Inputs<'_>) -> Result<Option<String>, RenderError> {
    let pod = settings::api_server(inputs)?;
    if pod.args.is_empty() {
        return Ok(None);
    }
    Ok(Some(inputs.templates.render(templates::API_SERVER_PATCH, pod)?))
}
