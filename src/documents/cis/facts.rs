//! What is known of a cluster when it is judged: processes, files and configurations of its nodes, and its objects.
//!
//! Owns reading what the nodes' script prints and what the API answers; asks neither. Nothing here is secret: of keys
//! there are only the names of those who made them.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::documents::bounds::check_stream;

use super::benchmark::Benchmark;
use super::flags;

/// All that is known.
#[derive(Debug, Default)]
pub struct Facts {
    /// The cluster's name.
    pub cluster: String,
    /// The version of Kubernetes, such as `v1.36.2`.
    pub version: String,
    /// The nodes.
    pub nodes: Vec<NodeFacts>,
    /// The objects.
    pub objects: Objects,
}

impl Facts {
    /// The version of the benchmark that is meant for this Kubernetes.
    #[must_use]
    pub fn benchmark(&self) -> Benchmark {
        let minor = self.version.trim_start_matches('v').split('.').nth(1);
        minor.and_then(|minor| minor.parse().ok()).map_or(Benchmark::NEWEST, Benchmark::for_kubernetes)
    }

    /// What there is to be told of how this was looked at: nodes that were not, and kubelets that are judged by their files alone.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        self.gaps_of(None)
    }

    /// The same of one node alone, or of all.
    #[must_use]
    pub fn gaps_of(&self, only: Option<&str>) -> Vec<String> {
        let mut gaps = Vec::new();
        let unseen = self.unseen();
        if !unseen.is_empty() && only.is_none() {
            gaps.push(format!("not looked at, since no container here is called so: {}", unseen.join(", ")));
        }
        for node in self.nodes.iter().filter(|node| only.is_none_or(|only| node.name == only)) {
            if let Some(Err(reason)) = node.kubelet_running.as_ref().filter(|_| node.processes.contains_key("kubelet"))
            {
                gaps.push(format!(
                    "{}: the kubelet does not tell what it runs with, and is judged by its command line and its file: {reason}",
                    node.name
                ));
            }
        }
        gaps
    }

    /// The nodes that the API server knows and that were not looked at.
    #[must_use]
    pub fn unseen(&self) -> Vec<&str> {
        let known = self.objects.nodes.iter().map(|node| node.metadata.name.as_str());
        known.filter(|known| !self.nodes.iter().any(|node| node.name == *known)).collect()
    }
}

/// A node.
#[derive(Debug, Default, Clone)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Whether it is a control plane.
    pub control_plane: bool,
    /// The command line of kubelet and of each static pod that runs, by the program's name.
    pub processes: BTreeMap<String, Vec<String>>,
    /// etcd's own part of its environment.
    pub etcd_environment: BTreeMap<String, String>,
    /// Files and folders.
    pub files: Vec<FileFact>,
    /// The kubelet's configuration file.
    pub kubelet_file: Option<Value>,
    /// The configuration that the kubelet runs with, as it tells the API server; or why that is not known.
    pub kubelet_running: Option<Result<Value, String>>,
    /// The audit policy that the API server reads.
    pub audit_policy: Option<Value>,
    /// The rules of the encryption configuration that the API server reads, in order; or why they are not known.
    pub encryption: Option<Result<Vec<EncryptionRule>, String>>,
    /// The plugins' configurations of the file of admission that the API server reads.
    pub admission: Option<Value>,
    /// The configuration by which the API server authenticates requests.
    pub authentication: Option<Value>,
    /// Checksums of files, by a name.
    pub digests: BTreeMap<String, String>,
    /// Properties of the kubelet's unit.
    pub unit: BTreeMap<String, String>,
}

/// A file or a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFact {
    /// Where it is.
    pub path: String,
    /// Its permissions.
    pub mode: u32,
    /// `USER:GROUP`, by the node's own names.
    pub owner: String,
    /// Whether it is a folder.
    pub folder: bool,
}

/// Who encrypts which resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionRule {
    /// The resources, as the configuration names them.
    pub resources: Vec<String>,
    /// The kinds of the providers, the one that writes first.
    pub providers: Vec<String>,
}

impl NodeFacts {
    /// Reads what the node's script has printed: records that each end in a zero byte, and a last one that says `end`.
    ///
    /// # Errors
    /// What is wrong: text that is cut short proves nothing.
    pub fn parse(name: &str, control_plane: bool, text: &[u8]) -> Result<Self, String> {
        let mut facts = Self { name: name.to_owned(), control_plane, ..Self::default() };
        let mut ended = false;
        for record in text.split(|&byte| byte == 0) {
            let record = String::from_utf8_lossy(record);
            let (kind, rest) = record.split_once(' ').unwrap_or((&record, ""));
            match kind {
                "process" => {
                    let (program, words) = rest.split_once(' ').unwrap_or((rest, ""));
                    let words = strings(&decoded(words)?);
                    if !words.is_empty() {
                        facts.processes.insert(program.to_owned(), words);
                    }
                }
                "environment" => {
                    for variable in strings(&decoded(rest)?) {
                        if let Some((name, value)) =
                            variable.split_once('=').filter(|(name, _)| name.starts_with("ETCD_"))
                        {
                            facts.etcd_environment.insert(name.to_owned(), value.to_owned());
                        }
                    }
                }
                "file" => facts.files.push(file(rest).ok_or_else(|| format!("no file: {record}"))?),
                "content" => {
                    let (what, bytes) = rest.split_once(' ').unwrap_or((rest, ""));
                    let bytes = decoded(bytes)?;
                    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{what} is no text"))?;
                    check_stream(text).map_err(|error| format!("{what} cannot be read: {error}"))?;
                    let value = serde_yaml::from_str(text).map_err(|error| format!("{what} is no YAML: {error}"))?;
                    match what {
                        "kubelet" => facts.kubelet_file = Some(value),
                        "audit-policy" => facts.audit_policy = Some(value),
                        "admission" => facts.admission = Some(value),
                        "authentication" => facts.authentication = Some(value),
                        _ => return Err(format!("unknown content: {what}")),
                    }
                }
                "digest" => {
                    if let Some((what, sum)) = rest.split_once(' ') {
                        facts.digests.insert(what.to_owned(), sum.trim().to_owned());
                    }
                }
                "unit" => {
                    if let Some((property, value)) = rest.split_once('=') {
                        facts.unit.insert(property.to_owned(), value.trim().to_owned());
                    }
                }
                "end" => ended = true,
                "" => {}
                _ => return Err(format!("unknown record: {kind}")),
            }
        }
        if ended { Ok(facts) } else { Err("what it printed is cut short".to_owned()) }
    }

    /// The command line of a program, without its name; `None` if it does not run under that name: of what starts it, such as a
    /// shell, the words prove nothing.
    #[must_use]
    pub fn arguments(&self, program: &str) -> Option<&[String]> {
        let (own, arguments) = self.processes.get(program)?.split_first()?;
        (own.rsplit('/').next() == Some(program)).then_some(arguments)
    }

    /// Why a program has no command line.
    #[must_use]
    pub fn absence(&self, program: &str) -> String {
        match self.processes.get(program).and_then(|words| words.first()) {
            Some(other) => format!("in the place of {program} runs {other}, which proves nothing"),
            None => format!("{program} does not run"),
        }
    }

    /// A flag of the API server, as that reads it; `None` if it is not set, or no API server runs.
    #[must_use]
    pub fn api_server_flag(&self, name: &str) -> Option<String> {
        flags::value(self.arguments("kube-apiserver")?, name, false)
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, String> {
    base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| "what it printed is no base64".to_owned())
}

fn strings(bytes: &[u8]) -> Vec<String> {
    let words = bytes.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// A file from `MODE OWNER:GROUP RAW-MODE PATH`.
fn file(text: &str) -> Option<FileFact> {
    let mut parts = text.splitn(4, ' ');
    let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
    let owner = parts.next()?.to_owned();
    let folder = u32::from_str_radix(parts.next()?, 16).ok()? & 0o170_000 == 0o040_000;
    Some(FileFact { mode, owner, folder, path: parts.next()?.to_owned() })
}

/// The objects of a cluster that rules are about. Of each only what is judged.
#[derive(Debug, Default)]
pub struct Objects {
    /// Namespaces.
    pub namespaces: Vec<Object>,
    /// ServiceAccounts.
    pub service_accounts: Vec<ServiceAccount>,
    /// Pods.
    pub pods: Vec<Pod>,
    /// ClusterRoles and Roles.
    pub roles: Vec<Role>,
    /// ClusterRoleBindings and RoleBindings.
    pub bindings: Vec<Binding>,
    /// NetworkPolicies.
    pub network_policies: Vec<Object>,
    /// What is in the namespace `default`: kind and name.
    pub in_default: Vec<String>,
    /// Names of bootstrap tokens.
    pub bootstrap_tokens: Vec<String>,
    /// Names of webhooks that judge pods.
    pub pod_webhooks: Vec<String>,
    /// Names of PodSecurityPolicies.
    pub pod_security_policies: Vec<String>,
    /// kube-proxy's configuration.
    pub kube_proxy: Option<Value>,
    /// The groups of the certificate in the administrator's kubeconfig.
    pub admin_groups: Vec<String>,
    /// The nodes that the API server knows.
    pub nodes: Vec<Object>,
}

/// What every object has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Object {
    /// Its name and more.
    pub metadata: Metadata,
}

/// An object's metadata.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its name.
    pub name: String,
    /// Its namespace, if it is in one.
    pub namespace: Option<String>,
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

/// A service account.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceAccount {
    /// Its name and more.
    pub metadata: Metadata,
    /// Whether pods get its token.
    pub automount_service_account_token: Option<bool>,
}

/// A role, be it of the cluster or of a namespace.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Role {
    /// Its name and more.
    pub metadata: Metadata,
    /// What it allows.
    #[serde(deserialize_with = "or_default")]
    pub rules: Vec<Rule>,
}

/// What a role allows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// In which groups.
    #[serde(deserialize_with = "or_default")]
    pub api_groups: Vec<String>,
    /// On which resources.
    #[serde(deserialize_with = "or_default")]
    pub resources: Vec<String>,
    /// On which objects; all, if none are named.
    #[serde(deserialize_with = "or_default")]
    pub resource_names: Vec<String>,
    /// To do what.
    #[serde(deserialize_with = "or_default")]
    pub verbs: Vec<String>,
}

/// Who has a role.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Binding {
    /// Its name and more.
    pub metadata: Metadata,
    /// Which role.
    pub role_ref: RoleRef,
    /// Who.
    #[serde(deserialize_with = "or_default")]
    pub subjects: Vec<Subject>,
}

/// A role by its name.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RoleRef {
    /// `ClusterRole` or `Role`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// Who.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subject {
    /// `User`, `Group` or `ServiceAccount`.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The namespace of a service account.
    pub namespace: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pod {
    /// Its name and more.
    pub metadata: Metadata,
    /// What it is.
    pub spec: PodSpec,
}

/// What a pod is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(clippy::struct_excessive_bools, reason = "they are the API's own fields")]
pub struct PodSpec {
    /// Its node.
    pub node_name: String,
    /// Its service account.
    pub service_account_name: String,
    /// Whether it gets that one's token.
    pub automount_service_account_token: Option<bool>,
    /// Whether it sees the node's processes.
    #[serde(rename = "hostPID")]
    pub host_pid: bool,
    /// Whether it shares the node's memory.
    #[serde(rename = "hostIPC")]
    pub host_ipc: bool,
    /// Whether it uses the node's network.
    pub host_network: bool,
    /// What holds for all its containers.
    pub security_context: Option<SecurityContext>,
    /// Its containers.
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<Container>,
    /// Those that run before.
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<Container>,
    /// Those that were added.
    #[serde(deserialize_with = "or_default")]
    pub ephemeral_containers: Vec<Container>,
    /// Its volumes.
    #[serde(deserialize_with = "or_default")]
    pub volumes: Vec<Volume>,
}

/// A container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Its program.
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(deserialize_with = "or_default")]
    pub args: Vec<String>,
    /// Its variables.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<Variable>,
    /// Where further variables come from.
    #[serde(deserialize_with = "or_default")]
    pub env_from: Vec<VariableSource>,
    /// Its ports.
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    /// What it may do.
    pub security_context: Option<SecurityContext>,
}

/// A variable.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Variable {
    /// Where its value comes from.
    pub value_from: Option<ValueSource>,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ValueSource {
    /// A Secret.
    pub secret_key_ref: Option<Value>,
}

/// Where variables come from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VariableSource {
    /// A Secret.
    pub secret_ref: Option<Value>,
}

/// A port.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Port {
    /// The node's port that leads to it.
    pub host_port: Option<u32>,
}

/// A volume.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Volume {
    /// A path of the node.
    pub host_path: Option<HostPath>,
}

/// A path of the node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HostPath {
    /// Which one.
    pub path: String,
}

/// What a pod or a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecurityContext {
    /// Whether it may do everything.
    pub privileged: Option<bool>,
    /// Whether it may get further rights.
    pub allow_privilege_escalation: Option<bool>,
    /// Whether it may not be root.
    pub run_as_non_root: Option<bool>,
    /// Its user.
    pub run_as_user: Option<i64>,
    /// Its capabilities.
    pub capabilities: Option<Capabilities>,
    /// Its seccomp profile.
    pub seccomp_profile: Option<Seccomp>,
    /// What it is on Windows.
    pub windows_options: Option<Windows>,
}

/// Capabilities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Capabilities {
    /// Beyond the runtime's.
    #[serde(deserialize_with = "or_default")]
    pub add: Vec<String>,
    /// Taken away.
    #[serde(deserialize_with = "or_default")]
    pub drop: Vec<String>,
}

/// A seccomp profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Seccomp {
    /// `RuntimeDefault`, `Localhost` or `Unconfined`.
    #[serde(rename = "type")]
    pub kind: String,
}

/// What a container is on Windows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Windows {
    /// Whether it runs as the node.
    pub host_process: Option<bool>,
}

/// The items of a list, as the API answers them.
#[derive(Debug, Deserialize)]
#[serde(bound = "T: Deserialize<'de>")]
pub struct List<T> {
    /// The items.
    #[serde(deserialize_with = "or_default", default = "Vec::new")]
    pub items: Vec<T>,
}

/// The API writes null where there is nothing.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    #[test]
    fn a_nodes_records_are_read() {
        let text = format!(
            "process kubelet {}\0file 600 root:root 8180 /etc/kubernetes/admin.conf\0file 755 UNKNOWN:root 41ed /a b\nc\0\
             content kubelet {}\0environment {}\0digest ca abc\0unit IPAddressDeny=any\0end\0",
            base64("/usr/bin/kubelet\0--config=/x\0"),
            base64("readOnlyPort: 0\n"),
            base64("PATH=/bin\0ETCD_CERT_FILE=/c\0"),
        );
        let facts = NodeFacts::parse("n", true, text.as_bytes()).unwrap();
        assert_eq!(facts.arguments("kubelet").unwrap(), ["--config=/x"]);
        assert_eq!(facts.files[0].mode, 0o600);
        assert!(!facts.files[0].folder && facts.files[1].folder);
        assert_eq!(facts.files[1].path, "/a b\nc");
        assert_eq!(facts.etcd_environment.len(), 1);
        assert_eq!(facts.kubelet_file.unwrap()["readOnlyPort"], 0);
        assert_eq!(facts.unit["IPAddressDeny"], "any");
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        for text in
            ["", "file 600 root:root 8180 /x\0", "process kubelet !\0end\0", "nonsense x\0end\0", "file x\0end\0"]
        {
            assert!(NodeFacts::parse("n", true, text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(NodeFacts::parse("n", true, b"process etcd \0end\0").unwrap().processes.is_empty());
    }

    #[test]
    fn nulls_of_the_api_are_nothing() {
        let role: Role = serde_json::from_str(r#"{"metadata": {"name": "a", "labels": null}, "rules": null}"#).unwrap();
        assert!(role.rules.is_empty() && role.metadata.labels.is_empty());
        let list: List<Binding> =
            serde_json::from_str(r#"{"items": [{"roleRef": {"kind": "ClusterRole", "name": "x"}}]}"#).unwrap();
        assert_eq!(list.items[0].role_ref.name, "x");
        assert!(serde_json::from_str::<List<Pod>>(r#"{"items": null}"#).unwrap().items.is_empty());
    }
}
