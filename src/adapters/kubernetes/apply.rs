//! Applying manifests, as `kubectl apply --server-side` does.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Node, Taint as ApiTaint};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use serde_json::json;

use crate::documents::bounds::check_stream;
use crate::documents::profile::{Role, Taint, TaintEffect};
use crate::documents::render::{KubernetesVersion, NodePlan, control_plane_taints};

use super::ApiError;
use super::retry::{comes, retried};

/// The name under which the API server records what kprov owns of an object.
const FIELD_MANAGER: &str = "kprov";

/// Where kubeadm notes the container runtime's socket on a node, and what it is in every node image.
const SOCKET_ANNOTATION: &str = "kubeadm.alpha.kubernetes.io/cri-socket";
const SOCKET: &str = "unix:///run/containerd/containerd.sock";

/// The label that a node registers with in any case.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Applies every document of a YAML text, in order.
///
/// # Errors
/// [`ApiError::Manifest`] if the text is no YAML, is out of bounds, or a document is no object; [`ApiError::Request`]
/// if the API server refuses one.
pub async fn apply(client: &Client, name: &str, text: &str) -> Result<(), ApiError> {
    let fail = |reason: String| ApiError::Manifest { name: name.to_owned(), reason };
    check_stream(text).map_err(fail)?;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_json::Value::deserialize(document).map_err(|error| fail(error.to_string()))?;
        if value.is_null() {
            continue;
        }
        let object: DynamicObject = serde_json::from_value(value).map_err(|error| fail(error.to_string()))?;
        let types = object.types.clone().ok_or_else(|| fail("a document has no apiVersion and kind".to_owned()))?;
        let gvk = GroupVersionKind::try_from(&types).map_err(|error| fail(error.to_string()))?;
        let object_name = object.metadata.name.clone().ok_or_else(|| fail(format!("a {} has no name", gvk.kind)))?;
        let doing = format!("applying {} {object_name} of the manifest {name}", gvk.kind);
        let (resource, capabilities) =
            retried(&format!("{doing} (asking for its kind)"), || pinned_kind(client, &gvk)).await?;
        let api: Api<DynamicObject> = match (capabilities.scope, &object.metadata.namespace) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
            (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        };
        let (parameters, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(&object));
        retried(&doing, || api.patch(&object_name, &parameters, &patch)).await?;
    }
    Ok(())
}

/// Has the kubelet ask the name server every second whether it is ready; kubeadm's manifest leaves it at every ten
/// (cmd/kubeadm/app/phases/addons/dns/manifests.go). Kubelets put off the first probe of each pod by a random part of the
/// period, counted from their own start (pkg/kubelet/prober/worker.go).
///
/// # Errors
/// [`ApiError::Request`] if there is no such Deployment, or the API server refuses the change.
pub async fn probe_name_server_often(client: &Client) -> Result<(), ApiError> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), "kube-system");
    let container = json!({"name": "coredns", "readinessProbe": {"periodSeconds": 1}});
    let patch = Patch::Strategic(json!({"spec": {"template": {"spec": {"containers": [container]}}}}));
    let parameters = PatchParams::default();
    retried("having the name server probed every second", || api.patch("coredns", &parameters, &patch)).await?;
    Ok(())
}

/// Waits until a namespace that the API server makes by itself is there.
///
/// # Errors
/// [`ApiError::NotReady`] if it does not come in time.
pub async fn await_namespace(client: &Client, name: &str) -> Result<(), ApiError> {
    const COMES: Duration = Duration::from_secs(60);
    let api: Api<Namespace> = Api::all(client.clone());
    if comes(&api, name, |namespace| namespace.is_some(), COMES).await {
        return Ok(());
    }
    Err(ApiError::NotReady { seconds: COMES.as_secs(), pending: vec![format!("the namespace {name} is not there")] })
}

/// Takes a label off a node. One that is not there is no error.
///
/// # Errors
/// [`ApiError::Request`] if there is no such node, or the API server does not answer.
pub async fn remove_label(client: &Client, node: &str, label: &str) -> Result<(), ApiError> {
    let api: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(serde_json::json!({"metadata": {"labels": {label: null}}}));
    let parameters = PatchParams::default();
    retried(&format!("taking the label {label} off {node}"), || api.patch(node, &parameters, &patch)).await.map(|_| ())
}

/// Completes a Node object with what `kubeadm join` and the kubelet's flags would have brought: the annotation with the
/// runtime's socket, the taints, and a control plane's labels. Waits until the node has registered.
///
/// # Errors
/// [`ApiError`] if the node has not registered in time, or the API server refuses the change.
pub async fn complete_node(client: &Client, plan: &NodePlan, version: &KubernetesVersion) -> Result<(), ApiError> {
    const REGISTER: Duration = Duration::from_secs(120);
    let api: Api<Node> = Api::all(client.clone());
    // A node may have no labels at first, and then takes those of the kubelet for all that there are.
    let named = |node: Option<&Node>| node.is_some_and(|node| node.labels().contains_key(HOSTNAME));
    if !comes(&api, &plan.name, named, REGISTER).await {
        return Err(ApiError::NotReady {
            seconds: REGISTER.as_secs(),
            pending: vec![format!("node {} has not registered", plan.name)],
        });
    }
    // A conflict passes: kubelet has reported meanwhile. So does a balancer that has just sent this to an API server that is not
    // there yet.
    retried(&format!("completing the node {}", plan.name), async || {
        let mut node = api.get(&plan.name).await?;
        complete(&mut node, plan, version);
        api.replace(&plan.name, &PostParams::default(), &node).await.map(|_| ())
    })
    .await
}

fn complete(node: &mut Node, plan: &NodePlan, version: &KubernetesVersion) {
    if version.annotates_runtime_socket() {
        node.annotations_mut().insert(SOCKET_ANNOTATION.to_owned(), SOCKET.to_owned());
    }
    let wanted = match plan.role {
        Role::Worker => plan.taints.clone(),
        Role::ControlPlane => {
            let labels = version.control_plane_labels().iter().map(|label| ((*label).to_owned(), String::new()));
            node.labels_mut().extend(labels);
            control_plane_taints(version, plan)
        }
    };
    let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
    for taint in wanted.iter().map(api_taint) {
        if !taints.contains(&taint) {
            taints.push(taint);
        }
    }
}

fn api_taint(taint: &Taint) -> ApiTaint {
    let effect = match taint.effect {
        TaintEffect::NoSchedule => "NoSchedule",
        TaintEffect::PreferNoSchedule => "PreferNoSchedule",
        TaintEffect::NoExecute => "NoExecute",
    };
    ApiTaint {
        key: taint.key.clone(),
        value: (!taint.value.is_empty()).then(|| taint.value.clone()),
        effect: effect.to_owned(),
        time_added: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::scripted::{api, failure};
    use super::*;

    /// The API server behind a balancer as another one joins it: everything fails once, and then succeeds.
    fn unsteady(what: &str, before: usize) -> (u16, Value) {
        match (what, before) {
            (_, 0) => failure(500, "rpc error: code = Unavailable desc = transport is closing"),
            ("GET /api/v1", _) => {
                let kinds = json!([{"name": "configmaps", "singularName": "", "kind": "ConfigMap", "namespaced": true, "verbs": ["patch"]}]);
                (200, json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": kinds}))
            }
            ("GET /api/v1/namespaces", _) => {
                let item = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "uid": "1"}});
                (
                    200,
                    json!({"kind": "NamespaceList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [item]}),
                )
            }
            ("PATCH /api/v1/namespaces/n/configmaps/refused", _) => failure(422, "Invalid"),
            _ => (200, json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}})),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_a_moment_is_tried_again() {
        let manifest =
            |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: n}}\n");
        let (client, asked) = api(unsteady);
        apply(&client, "rules", &manifest("c")).await.unwrap();
        let of = "PATCH /api/v1/namespaces/n/configmaps/c";
        assert_eq!(*asked.lock().unwrap(), ["GET /api/v1", "GET /api/v1", of, of]);
        let error = apply(&client, "rules", &manifest("refused")).await.unwrap_err().to_string();
        assert!(error.starts_with("applying ConfigMap refused of the manifest rules failed: Invalid"), "{error}");
        // A watch that breaks off says nothing of the namespace.
        await_namespace(&client, "n").await.unwrap();
    }

    #[test]
    fn a_node_is_completed_as_kubeadm_join_does_it() {
        let registered = || -> Node {
            let not_ready = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
            serde_json::from_value(json!({"metadata": {"labels": {HOSTNAME: "n"}}, "spec": {"taints": [not_ready]}}))
                .unwrap()
        };
        let plan = |role: &str| -> NodePlan {
            let profile = serde_json::from_value(json!({
                "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "test"},
                "spec": {"nodes": [
                    {"role": "control-plane"},
                    {"role": role, "taints": [{"key": "a", "value": "b", "effect": "NoExecute"}]},
                ]},
            }))
            .unwrap();
            crate::documents::render::plan_nodes(&profile, "c").pop().unwrap()
        };
        let keys = |node: &Node| -> Vec<String> {
            let taints = node.spec.as_ref().unwrap().taints.as_ref().unwrap();
            taints.iter().map(|taint| taint.key.clone()).collect()
        };
        let (old, new) = ("v1.20.2".parse().unwrap(), "v1.36.2".parse().unwrap());

        let mut node = registered();
        complete(&mut node, &plan("worker"), &old);
        complete(&mut node, &plan("worker"), &old);
        assert_eq!(keys(&node), ["node.kubernetes.io/not-ready", "a"]);
        assert_eq!(node.annotations()[SOCKET_ANNOTATION], SOCKET);
        assert_eq!(node.labels().len(), 1);

        let mut node = registered();
        complete(&mut node, &plan("control-plane"), &new);
        assert_eq!(keys(&node), ["node.kubernetes.io/not-ready", "node-role.kubernetes.io/control-plane", "a"]);
        assert!(node.annotations().is_empty() && node.labels().len() == 3, "{:?}", node.labels());
    }
}
