//! What becomes of a profile's wishes: what patches change in the end, and what has no effect.
//!
//! Owns comparing documents with and without patches. Making documents is its siblings'.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::documents::patches;

use super::kind::PLACEHOLDER;
use super::kubeadm::{PLACEHOLDER_TOKEN, kubeadm_config};
use super::nodes::{control_plane_endpoint, plan_nodes};
use super::{Inputs, RenderError, patching, settings};

/// What the profile asks for that has no effect with this version, a line each; and whether the version is newer than known.
#[must_use]
pub fn warnings(inputs: &Inputs<'_>) -> Vec<String> {
    let mut lines = settings::warnings(inputs);
    lines.extend(patching::without_effect(inputs));
    lines
}

/// What patches make of the components' settings: each that they set, and `None` for each that they take away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchedSettings {
    /// Flags of each static pod.
    pub flags: BTreeMap<&'static str, BTreeMap<String, Option<String>>>,
    /// Fields of the kubelets' configuration, which is the first control plane's on every node.
    pub kubelet: BTreeMap<String, Option<Value>>,
}

/// What the profile's patches of kubeadm's configuration change, seen on the first control plane, which all others follow.
///
/// # Errors
/// [`RenderError`] as for the configuration itself.
pub fn patched_settings(inputs: &Inputs<'_>) -> Result<PatchedSettings, RenderError> {
    let mut settings = PatchedSettings::default();
    if !inputs.profile.spec.patches_kubeadm() {
        return Ok(settings);
    }
    let mut plain = inputs.profile.clone();
    plain.spec.without_kubeadm_patches();
    let (before, after) = (first_documents(&Inputs { profile: &plain, ..*inputs })?, first_documents(inputs)?);
    let find = |documents: &[Value], kind: &str| {
        documents.iter().find(|document| document["kind"] == kind).cloned().unwrap_or_default()
    };
    let cluster = [&before, &after].map(|documents| find(documents, "ClusterConfiguration"));
    for (component, at) in [
        ("kube-apiserver", "/apiServer/extraArgs"),
        ("kube-controller-manager", "/controllerManager/extraArgs"),
        ("kube-scheduler", "/scheduler/extraArgs"),
        ("etcd", "/etcd/local/extraArgs"),
    ] {
        let [before, after] = [0, 1].map(|which| arguments(cluster[which].pointer(at)));
        settings.flags.insert(component, changes(&before, &after));
    }
    let [before, after] = [&before, &after].map(|documents| {
        let document = find(documents, "KubeletConfiguration");
        document.as_object().cloned().unwrap_or_default().into_iter().collect::<BTreeMap<_, _>>()
    });
    settings.kubelet = changes(&before, &after);
    Ok(settings)
}

fn first_documents(inputs: &Inputs<'_>) -> Result<Vec<Value>, RenderError> {
    let plan = plan_nodes(inputs.profile, inputs.cluster);
    let Some(first) = plan.first() else { return Ok(Vec::new()) };
    let endpoint = control_plane_endpoint(&plan, inputs.cluster);
    let config = kubeadm_config(inputs, first, first.start(), &PLACEHOLDER, &endpoint, PLACEHOLDER_TOKEN)?;
    patches::documents(&config).map_err(|error| RenderError::Patch {
        node: first.name.clone(),
        which: "the configuration".to_owned(),
        error,
    })
}

/// Arguments in either of kubeadm's forms.
fn arguments(written: Option<&Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match written {
        Some(Value::Object(map)) => map.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
        Some(Value::Array(list)) => {
            list.iter().filter_map(|one| Some((one["name"].as_str()?.to_owned(), text(&one["value"])))).collect()
        }
        _ => BTreeMap::new(),
    }
}

fn changes<T: Clone + PartialEq>(
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
) -> BTreeMap<String, Option<T>> {
    let set = after.iter().filter(|(name, value)| before.get(*name) != Some(*value));
    let removed = before.keys().filter(|name| !after.contains_key(*name));
    set.map(|(name, value)| (name.clone(), Some(value.clone())))
        .chain(removed.map(|name| (name.clone(), None)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::profile::Profile;
    use crate::documents::render::Templates;

    #[test]
    fn what_patches_change_is_told_by_flag_and_field() {
        let profile: Profile = serde_json::from_value(json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {
                "kubeadmConfigPatches": [
                    "kind: ClusterConfiguration\napiServer: {extraArgs: {v: '2'}}\netcd: {local: {extraArgs: {x: y}}}",
                    "kind: ClusterConfiguration\ncontrollerManager: {extraArgs: {enable-hostpath-provisioner: null}}",
                    "kind: KubeletConfiguration\nmaxPods: 50\nevictionHard: null",
                    "kind: ClusterConfiguration\napiVersion: kubeadm.k8s.io/v1beta1\nscheduler: {extraArgs: {v: '9'}}"
                ],
                "audit": {"rules": [{"level": "None"}]}
            }
        }))
        .unwrap();
        for version in ["v1.20.2", "v1.36.2"] {
            let inputs = Inputs {
                profile: &profile,
                cluster: "p",
                image: "i",
                version: &version.parse().unwrap(),
                keys: None,
                templates: &Templates::built_in(),
                cgroup_v1: false,
            };
            let settings = patched_settings(&inputs).unwrap();
            let some = |name: &str, value: Option<&str>| BTreeMap::from([(name.to_owned(), value.map(str::to_owned))]);
            assert_eq!(settings.flags["kube-apiserver"], some("v", Some("2")));
            assert_eq!(settings.flags["kube-controller-manager"], some("enable-hostpath-provisioner", None));
            assert_eq!(settings.flags["kube-scheduler"], BTreeMap::new());
            assert_eq!(settings.flags["etcd"], some("x", Some("y")));
            let kubelet = [("evictionHard".to_owned(), None), ("maxPods".to_owned(), Some(json!(50)))];
            assert_eq!(settings.kubelet, BTreeMap::from(kubelet));
        }
    }
}
