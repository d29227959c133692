//! How soon the control plane's static pods are asked whether they have started, and what may keep a kubelet from starting them.
//!
//! kubeadm lays these patches over the manifests that it writes.

use serde::Serialize;

use super::{Inputs, KubernetesVersion, RenderError, kms, templates};

/// The folder of kubeadm's patches on a control plane.
pub(super) const PATCHES_FOLDER: &str = "/kind/patches";

/// The static pods, and the names of their patches, by which kubeadm goes (cmd/kubeadm/app/util/patches/patches.go).
const PATCHES: [(&str, &str); 4] = [
    ("etcd", "/kind/patches/etcd+strategic.yaml"),
    ("kube-apiserver", "/kind/patches/kube-apiserver+strategic.yaml"),
    ("kube-controller-manager", "/kind/patches/kube-controller-manager+strategic.yaml"),
    ("kube-scheduler", "/kind/patches/kube-scheduler+strategic.yaml"),
];

/// How long after its start a static pod is first asked, in seconds.
///
/// A kubelet tells the API of one whenever something happens to it, if the API has it by then; otherwise with its next look at all
/// of them, ten seconds after its start and more. So the last thing that happens to a pod, which is that it is Ready, had better come
/// after the node, of those two that start before it, and after the API server's priority classes, without which it takes no pod of
/// theirs: later where the kubelet does not bring its pods as soon as there is a node.
fn delay(component: &str, version: &KubernetesVersion) -> u8 {
    match component {
        "etcd" | "kube-apiserver" if version.mirrors_static_pods_with_node() => 5,
        "etcd" | "kube-apiserver" => 8,
        _ => 0,
    }
}

#[derive(Serialize)]
struct ProbeValues {
    component: &'static str,
    delay: u8,
    /// A health check of the API server that its life does not depend on.
    excluded: Option<&'static str>,
    /// Whether kubeadm's manifest asks for storage on the node.
    claims_storage: bool,
}

/// The patches, by their paths on a control plane.
///
/// # Errors
/// [`RenderError::Template`]; [`RenderError::Unsupported`] if the version has not the KMS protocol that is asked for.
pub(super) fn startup_probe_patches(inputs: &Inputs<'_>) -> Result<Vec<(&'static str, String)>, RenderError> {
    let check = kms::health_check(inputs)?.filter(|_| inputs.version.dies_of_an_ill_kms());
    let patch = |(component, path)| {
        let excluded = check.filter(|_| component == "kube-apiserver");
        let values = ProbeValues {
            component,
            delay: delay(component, inputs.version),
            excluded,
            claims_storage: component == "etcd" && inputs.version.etcd_claims_storage(),
        };
        Ok((path, inputs.templates.render(templates::STARTUP_PROBE, values)?))
    };
    PATCHES.into_iter().map(patch).collect()
}
