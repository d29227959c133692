//! How soon the control plane's static pods are asked whether they have started, and what may keep a kubelet from starting them.
//!
//! kubeadm lays these patches over the manifests that it writes.

use serde::Serialize;

use super::{Inputs, RenderError, kms, templates};

/// The folder of kubeadm's patches on a control plane.
pub(super) const PATCHES_FOLDER: &str = "/kind/patches";

/// In seconds, for those that start before there is a node in the API. kubelet tells the API of a static pod whenever
/// something happens to it, and otherwise once a minute: the last thing that happens has to come after the node.
const EARLY: u8 = 8;

/// In seconds, for the others.
const LATE: u8 = 0;

/// The static pods, the names of their patches, by which kubeadm goes (cmd/kubeadm/app/util/patches/patches.go), and
/// how long after its start each is first asked.
const PATCHES: [(&str, &str, u8); 4] = [
    ("etcd", "/kind/patches/etcd+strategic.yaml", EARLY),
    ("kube-apiserver", "/kind/patches/kube-apiserver+strategic.yaml", EARLY),
    ("kube-controller-manager", "/kind/patches/kube-controller-manager+strategic.yaml", LATE),
    ("kube-scheduler", "/kind/patches/kube-scheduler+strategic.yaml", LATE),
];

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
    let patch = |(component, path, delay)| {
        let excluded = check.filter(|_| component == "kube-apiserver");
        let values = ProbeValues {
            component,
            delay,
            excluded,
            claims_storage: component == "etcd" && inputs.version.etcd_claims_storage(),
        };
        Ok((path, inputs.templates.render(templates::STARTUP_PROBE, values)?))
    };
    PATCHES.into_iter().map(patch).collect()
}
