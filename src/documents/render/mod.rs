//! Rendering: a profile in, documents out.
//!
//! Owns every document that a cluster is made from, and every decision that depends on the
//! Kubernetes version. It is pure: it knows no engine and writes nothing; only
//! [`Templates::with_overrides`] reads files. Leaves finding and checking profiles to
//! `profile`, making keys to `keys`, and putting documents where they belong to its callers.

mod balancer;
mod cni;
mod controllers;
mod digest;
mod effects;
mod joining;
mod kind;
mod kindnet;
mod kms;
mod kubeadm;
mod nodes;
mod patching;
mod probes;
mod registry;
mod secrets;
mod settings;
mod templates;
#[cfg(test)]
mod tests;
mod version;

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::documents::keys::KeyRing;
use crate::documents::patches::PatchError;
use crate::documents::profile::Profile;

pub use balancer::{LoadBalancer, load_balancer_config};
pub use cni::cni_manifest;
pub use digest::{Digest, NotADigest, cluster_digest, documents_digest};
pub use effects::{PatchedSettings, patched_settings, warnings};
pub use joining::joining_manifest;
pub use kind::{Bundle, Document, api_server_patch, bundle};
pub use kindnet::{KINDNET_FILE, kindnet_config};
pub use kms::{
    KMS_SERVER_PORT, PLUGIN_FOLDER, PLUGIN_IN_BUNDLE, PLUGIN_KEYS, PLUGIN_SOCKET_FOLDER, PLUGIN_START, kms_files,
    kms_key_file, kms_protocol, kms_server_config, kms_server_name,
};
pub use kubeadm::{
    PLACEHOLDER_TOKEN, control_plane_taints, founding_config, initial_cluster, kubeadm_config, patches_flag,
    skip_phases,
};
pub use nodes::{
    API_SERVER_PORT, NodeAddresses, NodePlan, NodeStart, control_plane_endpoint, load_balancer_name,
    needs_load_balancer, plan_nodes, role_name,
};
pub use registry::{
    Access, REGISTRY_ALONE, REGISTRY_CA, REGISTRY_CONFIG, REGISTRY_DATA, REGISTRY_FILES, REGISTRY_FOLDER,
    REGISTRY_PORT, REGISTRY_START, REGISTRY_TRUST, RegistryPlan, added_authority, authority_file, registries,
    registry_alone, registry_config, registry_files, registry_hosting, registry_hosts, registry_start,
};
pub use settings::{
    ADMISSION_FILE, ADMISSION_FOLDER, AUDIT_FOLDER, AUDIT_LOG_FILE, AUDIT_LOG_FOLDER, AUDIT_POLICY_FILE,
    AUTHENTICATION_FILE, AUTHENTICATION_FOLDER, ENCRYPTION_FILE, ENCRYPTION_FOLDER, HostVolume, StaticPod, api_server,
    cert_sans,
};
pub use templates::{OverridesError, TemplateError, Templates};
pub use version::{EXCLUDE_FROM_LOAD_BALANCERS, KubeadmApi, KubernetesVersion, SeccompDefault, VersionError};

/// All that documents depend on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// What is asked for.
    pub profile: &'a Profile,
    /// The cluster's name.
    pub cluster: &'a str,
    /// The image of nodes that name none.
    pub image: &'a str,
    /// The Kubernetes version in that image.
    pub version: &'a KubernetesVersion,
    /// The encryption keys, where there are any and they are to be shown.
    pub keys: Option<&'a KeyRing>,
    /// The templates.
    pub templates: &'a Templates,
    /// Whether the host has the first version of control groups.
    pub cgroup_v1: bool,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RenderError {
    /// A template is wrong.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Template(#[from] Box<TemplateError>),
    /// The Kubernetes version cannot do what the profile asks for.
    #[error("Kubernetes {version} has no {what}: it came in {since}")]
    #[diagnostic(help("use a newer node image, or leave it out of the profile"))]
    Unsupported {
        /// What is missing.
        what: String,
        /// The minor version that brought it.
        since: &'static str,
        /// The version at hand.
        version: KubernetesVersion,
    },
    /// A node has no address of the family that the cluster uses.
    #[error("node {node} has no {family} address")]
    #[diagnostic(help("does the engine's network support {family}?"))]
    NoAddress {
        /// The node.
        node: String,
        /// The family.
        family: &'static str,
    },
    /// The profile asks for encryption, and there are no keys.
    #[error("the profile asks for encryption, but there are no keys")]
    NoKeys,
    /// A patch of a node's kubeadm configuration cannot be applied.
    #[error("node {node}: {which} cannot be applied to its kubeadm configuration: {error}")]
    #[diagnostic(
        code(kprov::render::patch),
        help("`kprov render` without the patch shows the configuration that it is applied to, below `kubeadm/`")
    )]
    Patch {
        /// The node.
        node: String,
        /// Which patch, by its place in the profile.
        which: String,
        /// Why.
        error: PatchError,
    },
    /// A folder that kind cannot mount.
    #[error("kind cannot mount what is in {path}: it has a colon in it")]
    #[diagnostic(code(kprov::render::colon), help("choose a folder without a colon for `--out`"))]
    Colon {
        /// The folder.
        path: String,
    },
    /// A path that YAML cannot hold.
    #[error("the path {path} is not valid Unicode", path = path.display())]
    NotUnicode {
        /// The path.
        path: PathBuf,
    },
}

impl RenderError {
    fn unsupported(inputs: &Inputs<'_>, what: &str, since: &'static str) -> Self {
        Self::Unsupported { what: what.to_owned(), since, version: inputs.version.clone() }
    }
}

/// A file that a node needs before Kubernetes starts.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeFile {
    /// Its absolute path on the node.
    pub path: &'static str,
    /// Its permissions; owner and group are root.
    pub mode: u32,
    /// Its text. Wiped when dropped, since it may hold keys.
    pub content: Zeroizing<String>,
}

impl fmt::Debug for NodeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The files that every control plane needs before its API server's first start.
///
/// # Errors
/// [`RenderError`]; [`RenderError::NoKeys`] if `inputs` has none and the profile asks for encryption.
pub fn control_plane_files(inputs: &Inputs<'_>) -> Result<Vec<NodeFile>, RenderError> {
    let patches = static_pod_patches(inputs)?;
    let patch = |(path, content): (&'static str, String)| NodeFile { path, mode: 0o600, content: content.into() };
    let mut files: Vec<NodeFile> = patches.into_iter().map(patch).collect();
    if let Some(encryption) = &inputs.profile.spec.encryption {
        let ring = inputs.keys.ok_or(RenderError::NoKeys)?;
        let content = secrets::encryption_config(inputs, encryption, ring)?;
        files.push(NodeFile { path: ENCRYPTION_FILE, mode: 0o600, content });
    }
    if let Some(policy) = audit_policy(inputs)? {
        files.push(NodeFile { path: AUDIT_POLICY_FILE, mode: 0o600, content: policy.into() });
    }
    if let Some(configuration) = admission_configuration(inputs)? {
        files.push(NodeFile { path: ADMISSION_FILE, mode: 0o600, content: configuration.into() });
    }
    if let Some(configuration) = authentication_configuration(inputs)? {
        files.push(NodeFile { path: AUTHENTICATION_FILE, mode: 0o600, content: configuration.into() });
    }
    Ok(files)
}

/// What kubeadm lays over the manifests of a control plane, by the paths on it.
fn static_pod_patches(inputs: &Inputs<'_>) -> Result<Vec<(&'static str, String)>, RenderError> {
    let mut patches = probes::startup_probe_patches(inputs)?;
    patches.extend(controllers::rate_patch(inputs)?);
    Ok(patches)
}

/// The configurations of admission plugins; `None` if the profile has none that this version knows. One that does not
/// say of which version it is gets the one that fits.
///
/// # Errors
/// [`RenderError::Template`] if the template fails.
pub fn admission_configuration(inputs: &Inputs<'_>) -> Result<Option<String>, RenderError> {
    let plugins: Vec<Value> = settings::admission_plugins(inputs)
        .into_iter()
        .map(|(name, configuration)| {
            let (version, kind) = match name.as_str() {
                "PodSecurity" => (inputs.version.pod_security_api(), "PodSecurityConfiguration"),
                "EventRateLimit" => ("eventratelimit.admission.k8s.io/v1alpha1", "Configuration"),
                _ => ("", ""),
            };
            let mut whole = serde_json::Map::new();
            for (field, value) in
                [("apiVersion", version), ("kind", kind)].into_iter().filter(|(_, value)| !value.is_empty())
            {
                whole.insert(field.to_owned(), value.into());
            }
            whole.extend(configuration.as_object().cloned().unwrap_or_default());
            serde_json::json!({"name": name, "configuration": whole})
        })
        .collect();
    if plugins.is_empty() {
        return Ok(None);
    }
    Ok(Some(inputs.templates.render(templates::ADMISSION, serde_json::json!({"plugins": plugins}))?))
}

/// What can be asked for without a name; `None` if the profile does not say, or the version has no such rule.
///
/// # Errors
/// [`RenderError::Template`] if the template fails.
pub fn authentication_configuration(inputs: &Inputs<'_>) -> Result<Option<String>, RenderError> {
    let Some(paths) = settings::anonymous_paths(inputs) else { return Ok(None) };
    let conditions: Vec<Value> = paths.iter().map(|path| serde_json::json!({"path": path})).collect();
    let values = serde_json::json!({"api_version": inputs.version.authentication_api(), "conditions": conditions});
    Ok(Some(inputs.templates.render(templates::AUTHENTICATION, values)?))
}

#[derive(Serialize)]
struct AuditValues<'a> {
    omit_stages: &'a [String],
    rules: &'a [Value],
}

/// The audit policy; `None` if the profile has none.
///
/// # Errors
/// [`RenderError::Template`] if the template fails.
pub fn audit_policy(inputs: &Inputs<'_>) -> Result<Option<String>, RenderError> {
    let Some(audit) = &inputs.profile.spec.audit else { return Ok(None) };
    let values = AuditValues { omit_stages: &audit.omit_stages, rules: &audit.rules };
    Ok(Some(inputs.templates.render(templates::AUDIT_POLICY, values)?))
}
