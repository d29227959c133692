//! kind's own configuration (`kind.x-k8s.io/v1alpha4`), read as a profile.
//!
//! Owns what such a file may hold, and what each of its fields is called here. Every part keeps its place, so that whatever
//! is found wrong later points into the file. What kind takes for granted is what a profile does, too.

use std::collections::BTreeMap;

use schemars::JsonSchema;

use super::error::Finding;
use super::shape::{Required, Shape};
use super::tree::{Entry, Node, Span, Value};
use super::{API_VERSION, IpFamily, KubeProxyMode, PatchJson6902, Propagation, Protocol, Role, schema};

/// The name of a cluster whose file has none.
const DEFAULT_NAME: &str = "kind";

/// A cluster, in kind's words.
#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Cluster {
    api_version: ApiVersion,
    kind: Kind,
    name: Option<String>,
    nodes: Option<Vec<KindNode>>,
    networking: Option<KindNetworking>,
    feature_gates: Option<BTreeMap<String, bool>>,
    runtime_config: Option<BTreeMap<String, String>>,
    kubeadm_config_patches: Option<Vec<String>>,
    #[schemars(rename = "kubeadmConfigPatchesJSON6902")]
    kubeadm_config_patches_json6902: Option<Vec<PatchJson6902>>,
    containerd_config_patches: Option<Vec<String>>,
    #[schemars(rename = "containerdConfigPatchesJSON6902")]
    containerd_config_patches_json6902: Option<Vec<String>>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum ApiVersion {
    #[schemars(rename = "kind.x-k8s.io/v1alpha4")]
    V1Alpha4,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
enum Kind {
    Cluster,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct KindNode {
    role: Option<Role>,
    image: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    extra_mounts: Option<Vec<KindMount>>,
    extra_port_mappings: Option<Vec<KindPort>>,
    kubeadm_config_patches: Option<Vec<String>>,
    #[schemars(rename = "kubeadmConfigPatchesJSON6902")]
    kubeadm_config_patches_json6902: Option<Vec<PatchJson6902>>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct KindMount {
    container_path: String,
    host_path: Option<String>,
    read_only: Option<bool>,
    selinux_relabel: Option<bool>,
    propagation: Option<Propagation>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct KindPort {
    #[schemars(range(min = 1, max = 65535))]
    container_port: i32,
    #[schemars(range(min = -1, max = 65535))]
    host_port: Option<i32>,
    listen_address: Option<std::net::IpAddr>,
    protocol: Option<Protocol>,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "only its schema is used")]
struct KindNetworking {
    ip_family: Option<IpFamily>,
    #[schemars(range(min = -1, max = 65535))]
    api_server_port: Option<i32>,
    api_server_address: Option<std::net::IpAddr>,
    pod_subnet: Option<String>,
    service_subnet: Option<String>,
    #[schemars(rename = "disableDefaultCNI")]
    disable_default_cni: Option<bool>,
    kube_proxy_mode: Option<KubeProxyMode>,
    dns_search: Option<Vec<String>>,
}

/// The profile that a file of kind's stands for; `None` if something is wrong with it, which `findings` then tells.
/// `text` is what `tree` was read from.
pub(super) fn translate(tree: Node, text: &str, findings: &mut Vec<Finding>) -> Option<Node> {
    let mut tree = tree.without_nulls();
    without_empty_items(&mut tree);
    Reading { text }.cluster(&mut tree);
    let before = findings.len();
    Shape::of(schema::of::<Cluster>()).check(&tree, Required::Everything, findings);
    if findings.len() > before {
        return None;
    }
    let span = tree.span;
    let Value::Map(entries) = tree.value else { return None };
    let mut spec = Vec::new();
    let mut name = text_node(DEFAULT_NAME, span);
    for mut entry in entries {
        match entry.key.as_str() {
            "apiVersion" | "kind" => continue,
            "name" => {
                name = entry.node.clone();
                "clusterName".clone_into(&mut entry.key);
            }
            "nodes" => each(&mut entry.node, node),
            "networking" => each_entry(&mut entry.node, |entry| {
                if entry.key == "apiServerPort" {
                    port(&mut entry.node);
                }
            }),
            _ => {}
        }
        spec.push(entry);
    }
    let metadata = map(vec![new("name", name, span)], span);
    Some(map(
        vec![
            new("apiVersion", text_node(API_VERSION, span), span),
            new("kind", text_node("Profile", span), span),
            new("metadata", metadata, span),
            new("spec", map(spec, span), span),
        ],
        span,
    ))
}

/// A node of kind's as a group of one.
fn node(node: &mut Node) {
    let span = node.span;
    let Value::Map(entries) = &mut node.value else { return };
    for entry in entries.iter_mut() {
        match entry.key.as_str() {
            "extraMounts" => {
                "mounts".clone_into(&mut entry.key);
                each(&mut entry.node, here_if_nowhere);
            }
            "extraPortMappings" => {
                "ports".clone_into(&mut entry.key);
                each(&mut entry.node, |mapping| {
                    each_entry(mapping, |entry| {
                        if entry.key == "hostPort" {
                            port(&mut entry.node);
                        }
                    });
                });
            }
            _ => {}
        }
    }
    if !entries.iter().any(|entry| entry.key == "role") {
        entries.push(new("role", text_node("control-plane", span), span));
    }
}

/// A mount of no path is one of the folder in which kind is called, as every relative path begins there.
fn here_if_nowhere(mount: &mut Node) {
    let span = mount.span;
    if let Value::Map(entries) = &mut mount.value
        && !entries.iter().any(|entry| entry.key == "hostPath")
    {
        entries.push(new("hostPath", text_node(".", span), span));
    }
}

/// A port of the host: -1 leaves the choice to Docker and 0 to kind, which is the same to whoever asks for it.
fn port(node: &mut Node) {
    if matches!(&node.value, Value::Number(number) if number.as_i64() == Some(-1)) {
        node.value = Value::Number(0.into());
    }
}

/// Takes values for what kind's reader takes them for, where it knows which type they have to be.
struct Reading<'a> {
    text: &'a str,
}

impl Reading<'_> {
    fn cluster(&self, cluster: &mut Node) {
        self.fields(cluster, &["name"], &[]);
        each_entry(cluster, |entry| match entry.key.as_str() {
            "nodes" => each(&mut entry.node, |node| {
                self.fields(node, &["role", "image"], &[]);
                each_entry(node, |entry| match entry.key.as_str() {
                    "labels" => each_entry(&mut entry.node, |entry| self.as_text(&mut entry.node)),
                    "extraMounts" => each(&mut entry.node, |mount| {
                        let words = ["hostPath", "containerPath", "propagation"];
                        self.fields(mount, &words, &["readOnly", "selinuxRelabel"]);
                    }),
                    "extraPortMappings" => {
                        each(&mut entry.node, |port| {
                            self.fields(port, &["listenAddress", "protocol"], &[]);
                            each_entry(port, in_capitals);
                        });
                    }
                    "kubeadmConfigPatchesJSON6902" => self.patches(&mut entry.node),
                    _ => {}
                });
            }),
            "networking" => {
                let words = ["ipFamily", "apiServerAddress", "podSubnet", "serviceSubnet", "kubeProxyMode"];
                self.fields(&mut entry.node, &words, &["disableDefaultCNI"]);
            }
            "featureGates" => each_entry(&mut entry.node, |entry| as_bool(&mut entry.node)),
            "runtimeConfig" => each_entry(&mut entry.node, |entry| self.as_text(&mut entry.node)),
            "kubeadmConfigPatchesJSON6902" => self.patches(&mut entry.node),
            _ => {}
        });
    }

    fn patches(&self, list: &mut Node) {
        each(list, |patch| {
            each_entry(patch, |entry| self.as_text(&mut entry.node));
        });
    }

    /// The fields `words` are text, of which an empty one is as good as none, and `flags` are booleans.
    fn fields(&self, node: &mut Node, words: &[&str], flags: &[&str]) {
        let Value::Map(entries) = &mut node.value else { return };
        entries.retain_mut(|entry| {
            if flags.contains(&entry.key.as_str()) {
                as_bool(&mut entry.node);
            }
            if !words.contains(&entry.key.as_str()) {
                return true;
            }
            self.as_text(&mut entry.node);
            entry.node.text() != Some("")
        });
    }

    /// A number or boolean as it is written.
    fn as_text(&self, node: &mut Node) {
        if matches!(node.value, Value::Bool(_) | Value::Number(_)) {
            let written = self.text.get(node.span.start..node.span.end).unwrap_or_default();
            node.value = Value::String(written.to_owned());
        }
    }
}

fn in_capitals(entry: &mut Entry) {
    if let ("protocol", Value::String(word)) = (entry.key.as_str(), &mut entry.node.value) {
        *word = word.to_uppercase();
    }
}

/// Without the items of lists that are nothing.
fn without_empty_items(node: &mut Node) {
    match &mut node.value {
        Value::List(items) => {
            items.retain(|item| !matches!(item.value, Value::Null));
            items.iter_mut().for_each(without_empty_items);
        }
        Value::Map(entries) => entries.iter_mut().for_each(|entry| without_empty_items(&mut entry.node)),
        _ => {}
    }
}

/// YAML 1.1's words, which kind's reader takes where a boolean has to be.
fn as_bool(node: &mut Node) {
    let flag = match node.text() {
        Some("y" | "Y" | "yes" | "on") => true,
        Some("n" | "N" | "no" | "off") => false,
        _ => return,
    };
    node.value = Value::Bool(flag);
}

fn map(entries: Vec<Entry>, span: Span) -> Node {
    Node { value: Value::Map(entries), span, secret: false }
}

fn text_node(text: &str, span: Span) -> Node {
    Node { value: Value::String(text.to_owned()), span, secret: false }
}

fn new(key: &str, node: Node, span: Span) -> Entry {
    Entry { key: key.to_owned(), key_span: span, node, secret: false }
}

fn each(list: &mut Node, visit: impl FnMut(&mut Node)) {
    if let Value::List(items) = &mut list.value {
        items.iter_mut().for_each(visit);
    }
}

fn each_entry(map: &mut Node, visit: impl FnMut(&mut Entry)) {
    if let Value::Map(entries) = &mut map.value {
        entries.iter_mut().for_each(visit);
    }
}
