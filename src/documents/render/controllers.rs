//! How many requests the controller manager allows itself.
//!
//! kubeadm lays this patch over the manifest that it writes.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Inputs, RenderError, templates};

/// By default thirty at once, and twenty a second after them (`k8s.io/component-base/config`, `ClientConnectionConfiguration`). When
/// it starts, it asks for an account of each of its controllers, some forty, before the first of them does anything.
const RATE: [(&str, &str); 2] = [("kube-api-qps", "100"), ("kube-api-burst", "200")];

const PATH: &str = "/kind/patches/kube-controller-manager0+json.yaml";

/// The patch, with its path on a control plane. There is none where the profile sets a rate, or patches kubeadm's configuration, which
/// may.
///
/// # Errors
/// [`RenderError::Template`].
pub(super) fn rate_patch(inputs: &Inputs<'_>) -> Result<Option<(&'static str, String)>, RenderError> {
    let spec = &inputs.profile.spec;
    let sets_it = RATE.iter().any(|(flag, _)| spec.controller_manager.extra_args.contains_key(*flag));
    if sets_it || spec.patches_kubeadm() {
        return Ok(None);
    }
    let args = BTreeMap::from(RATE);
    Ok(Some((PATH, inputs.templates.render(templates::CONTROLLER_MANAGER_PATCH, json!({"args": args}))?)))
}
