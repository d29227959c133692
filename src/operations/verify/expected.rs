//! What a cluster should look like: from the profile if there is one, and from the nodes' own configuration.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::adapters::node::Node;
use crate::documents::profile::{FileModes, Role};
use crate::documents::render::{self, Inputs, SeccompDefault};

use super::{Target, VerifyError};

/// How new values of a resource are to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WritesWith {
    /// `aescbc`, `aesgcm`, `secretbox`, `kms` or `identity`.
    pub provider: String,
    /// The key's name; the plugin's for KMS.
    pub key: String,
}

impl WritesWith {
    /// The first bytes that such a value has.
    #[must_use]
    pub fn prefix(&self) -> String {
        match self.provider.as_str() {
            "identity" => String::new(),
            "kms" => format!("k8s:enc:kms:v2:{}:", self.key),
            provider => format!("k8s:enc:{provider}:v1:{}:", self.key),
        }
    }
}

/// A resource of an EncryptionConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name, such as `secrets` or `widgets.example.com`.
    pub name: String,
    /// How new values are to be stored.
    pub writes: WritesWith,
}

/// What a cluster should look like.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Flags of each static pod's process that kprov set.
    pub flags: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Encrypted resources.
    pub resources: Vec<Resource>,
    /// Where the EncryptionConfiguration lies on control planes.
    pub encryption_file: Option<String>,
    /// Whether there is an audit log.
    pub audit: bool,
    /// Whether file modes are restricted.
    pub restrictive_modes: bool,
    /// Whether the API server verifies the kubelets' certificates.
    pub kubelet_serving_certificates: bool,
    /// Fields of the kubelets' running configuration.
    pub kubelet: serde_json::Map<String, Value>,
    /// Whether pods are expected to be ready.
    pub pods: bool,
}

impl Expected {
    pub(super) async fn of(target: &Target<'_>) -> Result<Self, VerifyError> {
        let mut expected = match target.inputs {
            Some(inputs) => Self::from_inputs(inputs)?,
            None => Self { pods: true, ..Self::default() },
        };
        // The file that the running API server reads is the one that counts, whoever wrote it.
        for node in target.nodes.iter().filter(|node| node.role == Role::ControlPlane).take(1) {
            let flags = node.command_line("kube-apiserver").await?.unwrap_or_default();
            let file = flags.iter().find_map(|word| word.strip_prefix("--encryption-provider-config="));
            if let Some(file) = file {
                expected.resources = read_resources(node, file).await?;
                expected.encryption_file = Some(file.to_owned());
            }
        }
        Ok(expected)
    }

    fn from_inputs(inputs: &Inputs<'_>) -> Result<Self, VerifyError> {
        let spec = &inputs.profile.spec;
        let components = [
            ("kube-apiserver", render::api_server(inputs)?.args),
            ("kube-controller-manager", spec.controller_manager.extra_args.clone()),
            ("kube-scheduler", spec.scheduler.extra_args.clone()),
            ("etcd", spec.etcd.extra_args.clone()),
        ];
        let resources = match (&spec.encryption, inputs.keys.and_then(|keys| keys.writer())) {
            (Some(encryption), Some((provider, key))) => {
                let writes = WritesWith { provider: provider.name().to_owned(), key: key.to_owned() };
                let resource = |name: &String| Resource { name: name.clone(), writes: writes.clone() };
                encryption.resources.iter().map(resource).collect()
            }
            _ => Vec::new(),
        };
        Ok(Self {
            flags: components.into(),
            resources,
            encryption_file: None,
            audit: spec.audit.is_some(),
            restrictive_modes: spec.hardening.file_modes == FileModes::Restrictive,
            kubelet_serving_certificates: spec.hardening.kubelet_serving_certificates,
            kubelet: kubelet_fields(inputs),
            pods: !spec.networking.disable_default_cni,
        })
    }
}

/// The fields of the kubelet's configuration that the profile asks for, by whichever of its own fields.
fn kubelet_fields(inputs: &Inputs<'_>) -> serde_json::Map<String, Value> {
    let spec = &inputs.profile.spec;
    let mut fields = spec.kubelet.config.clone();
    if spec.hardening.seccomp_default && inputs.version.seccomp_default() != SeccompDefault::Absent {
        fields.insert("seccompDefault".to_owned(), true.into());
    }
    if spec.hardening.kubelet_serving_certificates {
        fields.insert("serverTLSBootstrap".to_owned(), true.into());
    }
    fields
}

#[derive(Deserialize)]
struct Configuration {
    #[serde(default)]
    resources: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<BTreeMap<String, Provider>>,
}

#[derive(Deserialize, Default)]
struct Provider {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    keys: Vec<NamedKey>,
}

/// A key's name; its secret is never read.
#[derive(Deserialize)]
struct NamedKey {
    name: String,
}

/// The resources of the EncryptionConfiguration in a node's file.
async fn read_resources(node: &Node, file: &str) -> Result<Vec<Resource>, VerifyError> {
    let text: Zeroizing<String> = node.read_text(file).await?;
    parse_resources(&text)
        .map_err(|reason| VerifyError::Configuration { node: node.name.clone(), reason: reason.to_owned() })
}

/// The first group that names a resource decides, and its first provider writes
/// (kubernetes.io/docs/tasks/administer-cluster/encrypt-data).
fn parse_resources(text: &str) -> Result<Vec<Resource>, &'static str> {
    // serde's errors may quote the text, and the text holds keys.
    let configuration: Configuration =
        serde_yaml::from_str(text).map_err(|_| "it is not a valid EncryptionConfiguration")?;
    let mut resources: Vec<Resource> = Vec::new();
    for group in configuration.resources {
        let (kind, provider) = group
            .providers
            .first()
            .and_then(|provider| provider.first_key_value())
            .ok_or("a group of resources has no provider")?;
        let key = provider.keys.first().map(|key| key.name.clone()).or_else(|| provider.name.clone());
        let writes = WritesWith { provider: kind.clone(), key: key.unwrap_or_default() };
        for name in group.resources {
            if !resources.iter().any(|known| known.name == name) {
                resources.push(Resource { name, writes: writes.clone() });
            }
        }
    }
    Ok(resources)
}

/// Where the API server keeps a resource in etcd.
///
/// Built-in resources lie under their plural name, with a few exceptions from the time before API groups
/// (pkg/registry/core and pkg/kubeapiserver/default_storage_factory_builder.go, `SpecialDefaultResourcePrefixes`);
/// custom ones under their group and plural name.
#[must_use]
pub fn etcd_prefix(resource: &str) -> String {
    let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
    let path = match (name, group) {
        ("replicationcontrollers", "") => "controllers".to_owned(),
        ("endpoints", "") => "services/endpoints".to_owned(),
        ("services", "") => "services/specs".to_owned(),
        ("nodes", "") => "minions".to_owned(),
        ("podsecuritypolicies", "policy") => "podsecuritypolicy".to_owned(),
        ("ingresses", "networking.k8s.io" | "extensions") => "ingress".to_owned(),
        ("*", _) => String::new(),
        (name, group) if is_custom(group) => format!("{group}/{name}"),
        (name, _) => name.to_owned(),
    };
    if path.is_empty() {
        crate::adapters::etcd::ROOT.to_owned()
    } else {
        format!("{}{path}/", crate::adapters::etcd::ROOT)
    }
}

/// Whether a group is none of Kubernetes' own.
fn is_custom(group: &str) -> bool {
    group.contains('.') && !group.ends_with(".k8s.io") || group.ends_with(".x-k8s.io")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_group_and_the_first_provider_decide() {
        let text = "\
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: new, secret: AAAA}, {name: old, secret: BBBB}]}
  - identity: {}
- resources: [secrets, configmaps]
  providers:
  - kms: {apiVersion: v2, name: vault, endpoint: 'unix:///x'}
- resources: [widgets.example.com]
  providers: [{identity: {}}]
";
        let resources = parse_resources(text).unwrap();
        let written: Vec<_> = resources.iter().map(|r| (r.name.as_str(), r.writes.prefix())).collect();
        assert_eq!(
            written,
            [
                ("secrets", "k8s:enc:secretbox:v1:new:".to_owned()),
                ("configmaps", "k8s:enc:kms:v2:vault:".to_owned()),
                ("widgets.example.com", String::new()),
            ]
        );
    }

    #[test]
    fn an_unreadable_configuration_is_not_quoted() {
        assert!(!parse_resources("resources: [{secret: hunter2").unwrap_err().contains("hunter2"));
    }

    #[test]
    fn resources_lie_where_the_api_server_puts_them() {
        assert_eq!(etcd_prefix("secrets"), "/registry/secrets/");
        assert_eq!(etcd_prefix("deployments.apps"), "/registry/deployments/");
        assert_eq!(etcd_prefix("services"), "/registry/services/specs/");
        assert_eq!(etcd_prefix("leases.coordination.k8s.io"), "/registry/leases/");
        assert_eq!(etcd_prefix("widgets.example.com"), "/registry/example.com/widgets/");
        assert_eq!(
            etcd_prefix("gateways.gateway.networking.x-k8s.io"),
            "/registry/gateway.networking.x-k8s.io/gateways/"
        );
    }
}
