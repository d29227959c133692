//! What a cluster should look like: from the profile if there is one, and from the nodes' own configuration.

use std::collections::BTreeMap;

use serde_json::Value;
use zeroize::Zeroizing;

use crate::adapters::etcd::ROOT;
use crate::adapters::node::Node;
use crate::documents::encryption::{Config, GroupResource, KeyId, PLUGIN_SOCKET};
use crate::documents::keys::ProviderKind;
use crate::documents::profile::{FileModes, Role, is_kubelet_field};
use crate::documents::render::{self, Inputs, SeccompDefault};
use crate::documents::static_pod::flag_of;

use super::{Target, VerifyError};

/// A rule of an EncryptionConfiguration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it names, such as `secrets`, `widgets.example.com` or `*.apps`.
    pub rule: GroupResource,
    /// The first bytes that new values have, or "plain text".
    pub writes: String,
}

/// What a cluster should look like.
#[derive(Debug, Clone, Default)]
pub struct Expected {
    /// Flags of each static pod's process that kprov set.
    pub flags: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Encrypted resources, as the API server's own file says.
    pub resources: Vec<Resource>,
    /// Resources that kprov was asked to encrypt, as far as the file does not.
    pub left_out: Vec<GroupResource>,
    /// What the API server puts in front of every key in etcd.
    pub root: String,
    /// Where the EncryptionConfiguration lies on control planes.
    pub encryption_file: Option<String>,
    /// Whether kprov's own KMS plugin encrypts.
    pub kms_plugin: bool,
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
            None => Self { pods: true, root: ROOT.to_owned(), ..Self::default() },
        };
        // The file that the running API server reads is the one that counts, whoever wrote it.
        for node in target.nodes.iter().filter(|node| node.role == Role::ControlPlane).take(1) {
            let flags = node.command_line("kube-apiserver").await?.unwrap_or_default();
            if let Some(file) = flag_of(&flags, "encryption-provider-config") {
                let config = read_config(node, &file).await?;
                expected.resources = resources(&config);
                expected.left_out = left_out(target.inputs, &expected.resources);
                expected.kms_plugin = config.asks(PLUGIN_SOCKET);
                expected.encryption_file = Some(file);
            }
            if let Some(root) = flag_of(&flags, "etcd-prefix") {
                expected.root = root;
            }
        }
        Ok(expected)
    }

    fn from_inputs(inputs: &Inputs<'_>) -> Result<Self, VerifyError> {
        let spec = &inputs.profile.spec;
        let mut flags: BTreeMap<&'static str, BTreeMap<String, String>> = [
            ("kube-apiserver", render::api_server(inputs)?.args),
            ("kube-controller-manager", spec.controller_manager.extra_args.clone()),
            ("kube-scheduler", spec.scheduler.extra_args.clone()),
            ("etcd", spec.etcd.extra_args.clone()),
        ]
        .into();
        let mut kubelet = kubelet_fields(inputs);
        // Patches come last, and so does what they ask for. Encryption is what the profile says, whatever they do.
        let patched = render::patched_settings(inputs)?;
        for (component, changes) in patched.flags {
            let flags = flags.entry(component).or_default();
            for (flag, value) in changes.into_iter().filter(|(flag, _)| !flag.starts_with("encryption-provider-config"))
            {
                match value {
                    Some(value) => flags.insert(flag, value),
                    None => flags.remove(&flag),
                };
            }
        }
        // kubeadm leaves out what no kubelet knows.
        for (field, value) in patched.kubelet.into_iter().filter(|(field, _)| is_kubelet_field(field)) {
            match value {
                Some(value) => kubelet.insert(field, value),
                None => kubelet.remove(&field),
            };
        }
        let resources = match (&spec.encryption, inputs.keys.and_then(|keys| keys.writer())) {
            (Some(encryption), Some((provider, key))) => {
                let writes = KeyId::local(provider, key).stored();
                let resource = |name: &String| Resource { rule: GroupResource::parse(name), writes: writes.clone() };
                encryption.resources.iter().map(resource).collect()
            }
            _ => Vec::new(),
        };
        Ok(Self {
            flags,
            resources,
            left_out: Vec::new(),
            root: ROOT.to_owned(),
            encryption_file: None,
            kms_plugin: false,
            audit: spec.audit.is_some(),
            restrictive_modes: spec.hardening.file_modes == FileModes::Restrictive,
            kubelet_serving_certificates: spec.hardening.kubelet_serving_certificates,
            kubelet,
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

/// The EncryptionConfiguration in a node's file.
async fn read_config(node: &Node, file: &str) -> Result<Config, VerifyError> {
    let text: Zeroizing<String> = node.read_text(file).await?;
    Config::parse(&text).map_err(|reason| VerifyError::Configuration { node: node.name.clone(), reason })
}

/// The rules of an EncryptionConfiguration.
fn resources(config: &Config) -> Vec<Resource> {
    let rules = config.resources().into_iter();
    rules.map(|(name, group)| Resource { rule: GroupResource::parse(name), writes: group.writes() }).collect()
}

/// What is to be encrypted, but has no rule in the file, or one by which it is written as plain text. By which provider and
/// key it is encrypted is the file's to say: not all that it can say has a place in a profile.
fn left_out(inputs: Option<&Inputs<'_>>, rules: &[Resource]) -> Vec<GroupResource> {
    let Some(encryption) = inputs.and_then(|inputs| inputs.profile.spec.encryption.as_ref()) else { return Vec::new() };
    if encryption.providers.first().is_none_or(|provider| provider.kind == ProviderKind::Identity) {
        return Vec::new();
    }
    let plain = KeyId::identity().stored();
    let encrypts = |wanted: &GroupResource| rules.iter().any(|rule| rule.rule == *wanted && rule.writes != plain);
    let asked = encryption.resources.iter().map(|name| GroupResource::parse(name));
    asked.filter(|wanted| !encrypts(wanted)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_encrypts_less_than_was_asked_for_is_seen() {
        let profile = serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {"nodes": [{"role": "control-plane"}], "encryption": {
                "resources": ["secrets", "configmaps"],
                "providers": [{"type": "secretbox"}, {"type": "identity"}],
            }},
        }))
        .unwrap();
        let (version, templates) = ("v1.36.2".parse().unwrap(), render::Templates::built_in());
        let inputs = Inputs {
            profile: &profile,
            cluster: "c",
            image: "i",
            version: &version,
            keys: None,
            templates: &templates,
            cgroup_v1: false,
        };
        let rule = |name: &str, writes: &str| Resource { rule: GroupResource::parse(name), writes: writes.to_owned() };
        let missing = |rules: &[Resource]| {
            left_out(Some(&inputs), rules).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let plain = KeyId::identity().stored();
        let (secrets, configmaps) =
            (rule("secrets", "k8s:enc:secretbox:v1:a:"), rule("configmaps", "k8s:enc:aescbc:v1:b:"));
        assert_eq!(missing(&[]), "secrets configmaps");
        assert_eq!(missing(&[secrets]), "configmaps");
        assert_eq!(missing(&[configmaps, rule("secrets", &plain)]), "secrets");
        assert!(left_out(None, &[]).is_empty());
    }

    #[test]
    fn the_first_group_and_the_first_provider_decide() {
        const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let text = format!(
            "\
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {{keys: [{{name: new, secret: {KEY}}}, {{name: old, secret: {KEY}}}]}}
  - identity: {{}}
- resources: [secrets, configmaps]
  providers:
  - kms: {{apiVersion: v2, name: vault, endpoint: 'unix:///x'}}
- resources: [widgets.example.com]
  providers: [{{identity: {{}}}}]
"
        );
        let config = Config::parse(&text).unwrap();
        let resources = resources(&config);
        assert!(config.asks("/x") && !config.asks(PLUGIN_SOCKET));
        let written: Vec<_> = resources.iter().map(|r| (r.rule.to_string(), r.writes.as_str())).collect();
        let expected = [
            ("secrets", "k8s:enc:secretbox:v1:new:"),
            ("configmaps", "k8s:enc:kms:v2:vault:"),
            ("widgets.example.com", "plain text"),
        ];
        assert_eq!(written, expected.map(|(name, writes)| (name.to_owned(), writes)));
    }
}
