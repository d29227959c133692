//! The profile's patches, laid over the kubeadm configuration of a node.
//!
//! Owns which patches a node gets, in which order, and which of them can have no effect. What a patch does is `patches`'.

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::documents::patches::{self, Patch, PatchError, Target};
use crate::documents::profile::{KubeProxyMode, PatchJson6902, Spec};

use super::nodes::{NodePlan, NodeStart, plan_nodes};
use super::settings::HostVolume;
use super::{Inputs, RenderError};

/// Patches that are written in one place.
struct Written<'a> {
    place: String,
    merges: &'a [String],
    operations: &'a [PatchJson6902],
}

impl<'a> Written<'a> {
    fn of_cluster(spec: &'a Spec) -> Self {
        let (merges, operations) = (&spec.kubeadm_config_patches, &spec.kubeadm_config_patches_json6902);
        Self { place: String::new(), merges, operations }
    }

    fn of_node(node: &'a NodePlan) -> Self {
        let (merges, operations) = (&node.kubeadm_config_patches, &node.kubeadm_config_patches_json6902);
        Self { place: format!(" of {}", node.name), merges, operations }
    }

    /// All of them, with what each is called in messages, merge patches first.
    fn read(&self) -> Result<Vec<(String, Patch)>, (String, PatchError)> {
        let mut all = Vec::new();
        for (index, text) in self.merges.iter().enumerate() {
            let name = format!("kubeadmConfigPatches[{index}]{}", self.place);
            let read = patches::merge_patches(text).map_err(|error| (name.clone(), error))?;
            all.extend(read.into_iter().map(|patch| (name.clone(), patch)));
        }
        for (index, written) in self.operations.iter().enumerate() {
            let name = format!("kubeadmConfigPatchesJSON6902[{index}]{}", self.place);
            let api_version = patches::api_version(&written.group, &written.version);
            let target = Target { kind: written.kind.clone(), api_version };
            let read = patches::json_6902(target, &written.patch).map_err(|error| (name.clone(), error))?;
            all.push((name, read));
        }
        Ok(all)
    }
}

/// The configuration with the cluster's patches, then the node's own. kprov's volumes of the API server stay, though a
/// patch of that list replaces it: its flags name what lies there.
pub(super) fn patched(
    spec: &Spec,
    node: &NodePlan,
    config: Zeroizing<String>,
    volumes: &[HostVolume],
) -> Result<Zeroizing<String>, RenderError> {
    let fail = |(which, error)| RenderError::Patch { node: node.name.clone(), which, error };
    let written = [Written::of_cluster(spec), Written::of_node(node)];
    if written.iter().all(|written| written.merges.is_empty() && written.operations.is_empty()) {
        return Ok(config);
    }
    let mut documents = patches::documents(&config).map_err(|error| fail(("the configuration".to_owned(), error)))?;
    for written in &written {
        for (which, patch) in written.read().map_err(fail)? {
            patches::apply(&mut documents, &[patch]).map_err(|error| fail((which, error)))?;
        }
    }
    for document in &mut documents {
        without_name(document);
    }
    for document in documents.iter_mut().filter(|document| document["kind"] == "ClusterConfiguration") {
        keep_volumes(document, volumes);
    }
    Ok(Zeroizing::new(patches::stream(&documents)))
}

/// Without the name by which kind once told documents apart, and which patches still have: kubeadm takes none.
fn without_name(document: &mut Value) {
    if document["metadata"] == json!({"name": "config"})
        && let Value::Object(fields) = document
    {
        fields.remove("metadata");
    }
}

fn keep_volumes(configuration: &mut Value, volumes: &[HostVolume]) {
    for volume in volumes {
        let list = &mut configuration["apiServer"]["extraVolumes"];
        if !list.is_array() {
            *list = json!([]);
        }
        if let Value::Array(list) = list
            && !list.iter().any(|there| there["name"] == volume.name)
        {
            list.push(json!(volume));
        }
    }
}

/// A line for each patch that is for no document that anybody reads. kind drops them without a word.
pub(super) fn without_effect(inputs: &Inputs<'_>) -> Vec<String> {
    let spec = &inputs.profile.spec;
    let kubeadm = format!("kubeadm.k8s.io/{}", inputs.version.kubeadm_api().name());
    let mut known = vec![
        ("ClusterConfiguration", kubeadm.as_str()),
        ("InitConfiguration", kubeadm.as_str()),
        ("JoinConfiguration", kubeadm.as_str()),
        ("KubeletConfiguration", "kubelet.config.k8s.io/v1beta1"),
    ];
    if spec.networking.kube_proxy_mode != KubeProxyMode::None {
        known.push(("KubeProxyConfiguration", "kubeproxy.config.k8s.io/v1alpha1"));
    }
    let nodes = plan_nodes(inputs.profile, inputs.cluster);
    let of_nodes = nodes.iter().map(|node| (Some(node), Written::of_node(node)));
    let mut lines = Vec::new();
    for (node, written) in std::iter::once((None, Written::of_cluster(spec))).chain(of_nodes) {
        // What is wrong with a patch has been told before.
        for (which, patch) in written.read().unwrap_or_default() {
            let Target { kind, api_version } = &patch.target;
            let why = match known.iter().find(|(known, _)| known == kind) {
                None if kind.is_empty() => "it names no `kind`".to_owned(),
                None => format!("there is no {kind} in the nodes' kubeadm configuration"),
                Some((_, version)) if !patch.target.fits(kind, version) => {
                    format!("it is for {api_version}, and Kubernetes {}'s {kind} is {version}", inputs.version)
                }
                Some(_) => match node.map(NodePlan::start) {
                    Some(NodeStart::Init) if kind == "JoinConfiguration" => {
                        "the first control plane does not join".to_owned()
                    }
                    Some(NodeStart::JoinControlPlane | NodeStart::JoinWorker) if kind != "JoinConfiguration" => {
                        format!("a node that joins takes no {kind} but the first control plane's")
                    }
                    _ => continue,
                },
            };
            lines.push(format!("{which} has no effect: {why}"));
        }
    }
    lines
}
