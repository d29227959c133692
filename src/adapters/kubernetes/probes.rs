//! Having kubelets probe pods now.
//!
//! A kubelet probes a pod when it starts, which mostly is a moment too early, and then once in the probe's period, ten
//! seconds by default. But it also does so whenever the pod's object has changed
//! (pkg/kubelet/prober/prober_manager.go, `UpdatePodStatus`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::ready::SYSTEM_NAMESPACES;

/// An annotation that is put on and taken off again.
const ANNOTATION: &str = "kprov.dev/probe";

/// The annotation of a static pod's image in the API, which its kubelet does not read.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// How long a pod that has just started is left alone.
const PAUSE: Duration = Duration::from_millis(400);

/// How often one pod is changed: if it is not ready by then, it has its reasons.
const TIMES: u8 = 8;

/// Has system pods that run probed again and again. Never ends, and its type says so; what fails is only
/// slower.
pub async fn hasten_probes(client: &Client) -> Infallible {
    let mut changed: BTreeMap<String, u8> = BTreeMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        for namespace in SYSTEM_NAMESPACES {
            let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
            let Ok(pods) = api.list(&ListParams::default()).await else { continue };
            for pod in pods.items.iter().filter(|pod| is_waiting(pod)) {
                let times = changed.entry(format!("{namespace}/{}", pod.name_any())).or_default();
                if *times < TIMES {
                    *times += 1;
                    change(&api, &pod.name_any()).await;
                }
            }
        }
    }
}

async fn change(api: &Api<Pod>, name: &str) {
    for value in [json!(""), json!(null)] {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: value}}}));
        let _ = api.patch(name, &PatchParams::default(), &patch).await;
    }
}

/// Whether a pod runs and waits for a probe.
fn is_waiting(pod: &Pod) -> bool {
    let probed = pod.spec.iter().flat_map(|spec| &spec.containers).any(|container| container.readiness_probe.is_some());
    let Some(status) = &pod.status else { return false };
    let is = |condition: &str| {
        status.conditions.iter().flatten().any(|found| found.type_ == condition && found.status == "True")
    };
    probed && status.phase.as_deref() == Some("Running") && !is("Ready") && !pod.annotations().contains_key(MIRROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(phase: &str, ready: &str, annotations: serde_json::Value, container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"annotations": annotations},
            "spec": {"containers": [container]},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    #[test]
    fn only_pods_that_run_and_wait_for_a_probe_are_changed() {
        let probed = || json!({"name": "c", "readinessProbe": {}});
        assert!(is_waiting(&pod("Running", "False", json!({}), probed())));
        assert!(!is_waiting(&pod("Running", "True", json!({}), probed())));
        assert!(!is_waiting(&pod("Pending", "False", json!({}), probed())));
        assert!(!is_waiting(&pod("Running", "False", json!({}), json!({"name": "c"}))));
        assert!(!is_waiting(&pod("Running", "False", json!({MIRROR: "x"}), probed())));
    }
}
