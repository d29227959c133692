//! What a profile asks of each component, as flags, volumes and fields.
//!
//! Owns the translation of encryption, audit log and hardening into flags for a
//! version. The documents that carry them (kubeadm's, kind's, the patch) are its siblings'.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::documents::keys::KmsProtocol;
use crate::documents::profile::{Bootstrap, Component, IpFamily, KubeProxyMode, Profile, Role};

use super::version::SeccompDefault;
use super::{Inputs, RenderError};

/// The folder on control planes that holds the EncryptionConfiguration. The folder is
/// mounted, not the file: a file that is replaced atomically would not be seen.
pub const ENCRYPTION_FOLDER: &str = "/etc/kubernetes/encryption";
/// The EncryptionConfiguration on control planes.
pub const ENCRYPTION_FILE: &str = "/etc/kubernetes/encryption/encryption-config.yaml";
/// The folder on control planes that holds the audit policy.
pub const AUDIT_FOLDER: &str = "/etc/kubernetes/audit";
/// Where the configurations of admission plugins lie on control planes.
pub const ADMISSION_FOLDER: &str = "/etc/kubernetes/admission";
/// The configurations of admission plugins.
pub const ADMISSION_FILE: &str = "/etc/kubernetes/admission/config.yaml";
/// Where the rules lie on control planes by which requests are authenticated.
pub const AUTHENTICATION_FOLDER: &str = "/etc/kubernetes/authentication";
/// The rules by which requests are authenticated.
pub const AUTHENTICATION_FILE: &str = "/etc/kubernetes/authentication/config.yaml";
/// The audit policy on control planes.
pub const AUDIT_POLICY_FILE: &str = "/etc/kubernetes/audit/policy.yaml";
/// The folder on control planes that the audit log is written to.
pub const AUDIT_LOG_FOLDER: &str = "/var/log/kubernetes/audit";
/// The audit log on control planes.
pub const AUDIT_LOG_FILE: &str = "/var/log/kubernetes/audit/audit.log";

/// A path of the node that a static pod sees, in kubeadm's `extraVolumes` form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostVolume {
    /// The volume's name.
    pub name: &'static str,
    /// The path on the node.
    pub host_path: Cow<'static, str>,
    /// The path in the pod.
    pub mount_path: Cow<'static, str>,
    /// Whether the pod may not write.
    pub read_only: bool,
    /// The `type` of the hostPath volume.
    pub path_type: &'static str,
}

impl HostVolume {
    /// A folder that is there, to be read under the path that it has on the node.
    fn folder(name: &'static str, path: &'static str) -> Self {
        Self { name, host_path: path.into(), mount_path: path.into(), read_only: true, path_type: "Directory" }
    }
}

/// What a static pod is started with, beyond what kubeadm decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StaticPod {
    /// Flags without leading dashes.
    pub args: BTreeMap<String, String>,
    /// Further volumes.
    pub volumes: Vec<HostVolume>,
}

/// The API server with everything that the profile asks for.
///
/// The profile's own flags win over those that follow from its other fields.
///
/// # Errors
/// [`RenderError::Unsupported`] if the version cannot do what is asked.
pub fn api_server(inputs: &Inputs<'_>) -> Result<StaticPod, RenderError> {
    let spec = &inputs.profile.spec;
    let mut pod = StaticPod::default();
    let mut set = |name: &str, value: String| {
        pod.args.insert(name.to_owned(), value);
    };
    if !spec.runtime_config.is_empty() {
        set("runtime-config", joined(&spec.runtime_config));
    }
    let mut gates = spec.feature_gates.clone();
    if let Some(kms) = inputs.profile.kms()
        && super::kms::kms_protocol(inputs, kms)? == KmsProtocol::V1
        && inputs.version.gates_kms_v1()
    {
        gates.insert("KMSv1".to_owned(), true);
    }
    if !gates.is_empty() {
        set("feature-gates", joined(&gates));
    }
    if let Some(encryption) = &spec.encryption {
        check_resources(inputs, &encryption.resources)?;
        set("encryption-provider-config", ENCRYPTION_FILE.to_owned());
        if inputs.version.reloads_encryption_config() {
            set("encryption-provider-config-automatic-reload", "true".to_owned());
        }
        pod.volumes.push(HostVolume::folder("kprov-encryption", ENCRYPTION_FOLDER));
        if let Some(kms) = encryption.kms() {
            let folder = super::kms::socket_folder(kms);
            pod.volumes.push(HostVolume {
                name: "kprov-kms",
                host_path: folder.clone().into(),
                mount_path: folder.into(),
                read_only: true,
                // A foreign plugin may make it later.
                path_type: if kms.is_own() { "Directory" } else { "DirectoryOrCreate" },
            });
        }
    }
    if let Some(audit) = &spec.audit {
        for (name, value) in [
            ("audit-policy-file", AUDIT_POLICY_FILE.to_owned()),
            ("audit-log-path", AUDIT_LOG_FILE.to_owned()),
            ("audit-log-maxage", audit.max_age_days.to_string()),
            ("audit-log-maxbackup", audit.max_backups.to_string()),
            ("audit-log-maxsize", audit.max_size_mi_b.to_string()),
        ] {
            pod.args.insert(name.to_owned(), value);
        }
        pod.volumes.push(HostVolume::folder("kprov-audit-policy", AUDIT_FOLDER));
        pod.volumes.push(HostVolume {
            name: "kprov-audit-log",
            host_path: AUDIT_LOG_FOLDER.into(),
            mount_path: AUDIT_LOG_FOLDER.into(),
            read_only: false,
            path_type: "DirectoryOrCreate",
        });
    }
    if !admission_plugins(inputs).is_empty() {
        pod.args.insert("admission-control-config-file".to_owned(), ADMISSION_FILE.to_owned());
        pod.volumes.push(HostVolume::folder("kprov-admission", ADMISSION_FOLDER));
    }
    if anonymous_paths(inputs).is_some() {
        pod.args.insert("authentication-config".to_owned(), AUTHENTICATION_FILE.to_owned());
        pod.volumes.push(HostVolume::folder("kprov-authentication", AUTHENTICATION_FOLDER));
    }
    if spec.hardening.kubelet_serving_certificates {
        pod.args.insert("kubelet-certificate-authority".to_owned(), "/etc/kubernetes/pki/ca.crt".to_owned());
    }
    pod.args.extend(spec.api_server.extra_args.clone());
    if let Some(plugins) = pod.args.get_mut("enable-admission-plugins") {
        let known = |plugin: &&str| !inputs.version.lacks_admission_plugin(plugin.trim());
        *plugins = plugins.split(',').filter(known).collect::<Vec<_>>().join(",");
    }
    Ok(pod)
}

/// The admission plugins that are configured and that this version has, with their configurations.
pub(super) fn admission_plugins<'a>(inputs: &Inputs<'a>) -> Vec<(&'a String, &'a serde_json::Value)> {
    let configured = inputs.profile.spec.api_server.admission.iter();
    configured.filter(|(plugin, _)| !inputs.version.lacks_admission_plugin(plugin)).collect()
}

/// What `kubeadm join` reads without a name, to know which cluster it joins; it holds the cluster's CA and address.
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// The paths that can be asked for without a name; `None` where all can, be it that the profile does not say or that this
/// version has no such rule. Where nodes may come to join by kubeadm, what that needs is among them.
pub(super) fn anonymous_paths<'a>(inputs: &Inputs<'a>) -> Option<Vec<&'a str>> {
    let spec = &inputs.profile.spec;
    let paths = spec.api_server.anonymous_paths.as_ref().filter(|_| inputs.version.limits_anonymous_paths())?;
    let mut paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let nodes = spec.count(Role::ControlPlane).saturating_add(spec.count(Role::Worker));
    if nodes > 1 && spec.bootstrap != Bootstrap::Phased && !paths.contains(&CLUSTER_INFO) {
        paths.push(CLUSTER_INFO);
    }
    Some(paths)
}

/// Names in the API server's certificate besides kubeadm's own: what the published port is reached by.
#[must_use]
pub fn cert_sans(profile: &Profile) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), profile.spec.networking.api_server_address().to_string()];
    for name in &profile.spec.api_server.cert_sans {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// The flags of the controller manager.
pub(super) fn controller_manager(profile: &Profile) -> BTreeMap<String, String> {
    let mut args = component(profile, &profile.spec.controller_manager, "::");
    args.entry("enable-hostpath-provisioner".to_owned()).or_insert_with(|| "true".to_owned());
    args
}

/// The flags of the scheduler.
pub(super) fn scheduler(profile: &Profile) -> BTreeMap<String, String> {
    component(profile, &profile.spec.scheduler, "::1")
}

/// Feature gates, the IPv6 address to serve on (both defaults are IPv4's), and the profile's own flags.
fn component(profile: &Profile, settings: &Component, ipv6_address: &str) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    if !profile.spec.feature_gates.is_empty() {
        args.insert("feature-gates".to_owned(), joined(&profile.spec.feature_gates));
    }
    if profile.spec.networking.ip_family == IpFamily::Ipv6 {
        args.insert("bind-address".to_owned(), ipv6_address.to_owned());
    }
    args.extend(settings.extra_args.clone());
    args
}

/// kubelet's fields that follow from the profile; what is so in every kind cluster is the template's.
pub(super) fn kubelet(inputs: &Inputs<'_>) -> Value {
    let spec = &inputs.profile.spec;
    let mut settings = Map::new();
    let mut gates: BTreeMap<&str, bool> = spec.feature_gates.iter().map(|(name, on)| (name.as_str(), *on)).collect();
    if spec.hardening.seccomp_default {
        let support = inputs.version.seccomp_default();
        if support == SeccompDefault::Gated {
            gates.insert("SeccompDefault", true);
        }
        if support != SeccompDefault::Absent {
            settings.insert("seccompDefault".to_owned(), true.into());
        }
    }
    if spec.hardening.kubelet_serving_certificates {
        settings.insert("serverTLSBootstrap".to_owned(), true.into());
    }
    if inputs.cgroup_v1 && inputs.version.fails_on_cgroup_v1() {
        settings.insert("failCgroupV1".to_owned(), false.into());
    }
    if inputs.version.reports_first_readiness_late() {
        settings.insert("nodeStatusUpdateFrequency".to_owned(), "1s".into());
        // How often it reports when nothing has changed: by default as often as the other, where that one is set.
        settings.insert("nodeStatusReportFrequency".to_owned(), "5m".into());
    }
    if inputs.version.delays_readiness_to_resync() {
        settings.insert("syncFrequency".to_owned(), "2s".into());
    }
    if !gates.is_empty() {
        settings.insert("featureGates".to_owned(), json!(gates));
    }
    let mut settings = Value::Object(settings);
    super::templates::merge(&mut settings, Value::Object(spec.kubelet.config.clone()));
    settings
}

/// kube-proxy's mode, or nothing if there is to be none.
pub(super) fn kube_proxy_mode(inputs: &Inputs<'_>) -> Result<Option<KubeProxyMode>, RenderError> {
    match inputs.profile.spec.networking.kube_proxy_mode {
        KubeProxyMode::None => Ok(None),
        KubeProxyMode::Nftables if !inputs.version.has_nftables_proxy() => {
            Err(RenderError::unsupported(inputs, "kube-proxy's nftables mode", "1.31"))
        }
        mode => Ok(Some(mode)),
    }
}

/// What the profile asks for that this version leaves out, a line each; and whether the version is newer than known.
pub(super) fn warnings(inputs: &Inputs<'_>) -> Vec<String> {
    let version = inputs.version;
    let mut warnings = Vec::new();
    if version.is_untested() {
        warnings.push(format!(
            "Kubernetes {version} is newer than this kprov knows; it is treated like the newest known one"
        ));
    }
    if inputs.profile.spec.hardening.seccomp_default && version.seccomp_default() == SeccompDefault::Absent {
        warnings.push(format!("Kubernetes {version} has no default seccomp profile (it came in 1.22): left out"));
    }
    let spec = &inputs.profile.spec.api_server;
    if spec.anonymous_paths.is_some() && !version.limits_anonymous_paths() {
        warnings.push(format!(
            "Kubernetes {version} cannot limit requests without a name to some paths (that came in 1.32): left out"
        ));
    }
    let enabled = spec.extra_args.get("enable-admission-plugins").into_iter().flat_map(|plugins| plugins.split(','));
    let mut lacking: Vec<&str> = enabled.map(str::trim).chain(spec.admission.keys().map(String::as_str)).collect();
    lacking.retain(|plugin| version.lacks_admission_plugin(plugin));
    lacking.sort_unstable();
    lacking.dedup();
    for plugin in lacking {
        warnings.push(format!("Kubernetes {version} has no admission plugin {plugin}: left out"));
    }
    warnings
}

fn check_resources(inputs: &Inputs<'_>, resources: &[String]) -> Result<(), RenderError> {
    for resource in resources {
        let group = resource.split_once('.').map_or("", |(_, group)| group);
        if resource.starts_with('*') && !inputs.version.encrypts_by_wildcard() {
            return Err(RenderError::unsupported(inputs, &format!("encryption of {resource:?}"), "1.27"));
        }
        // Kubernetes' own groups are single words or end in .k8s.io.
        let custom = group.contains('.') && !group.ends_with(".k8s.io");
        if custom && !inputs.version.encrypts_custom_resources() {
            return Err(RenderError::unsupported(
                inputs,
                &format!("encryption of the custom resource {resource:?}"),
                "1.26",
            ));
        }
    }
    Ok(())
}

/// `a=1,b=2`, in the order of the names.
pub(super) fn joined(map: &BTreeMap<String, impl std::fmt::Display>) -> String {
    map.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}
