//! Applying manifests, as `kubectl apply --server-side` does.

use k8s_openapi::api::core::v1::Node;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use serde::Deserialize;

use super::ApiError;

/// The name under which the API server records what kprov owns of an object.
const FIELD_MANAGER: &str = "kprov";

/// Applies every document of a YAML text, in order.
///
/// # Errors
/// [`ApiError::Manifest`] if a document is no object, [`ApiError::Request`] if the API server refuses one.
pub async fn apply(client: &Client, name: &str, text: &str) -> Result<(), ApiError> {
    let fail = |reason: String| ApiError::Manifest { name: name.to_owned(), reason };
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
            pinned_kind(client, &gvk).await.map_err(ApiError::request(format!("{doing} (asking for its kind)")))?;
        let api: Api<DynamicObject> = match (capabilities.scope, &object.metadata.namespace) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
            (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        };
        api.patch(&object_name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object))
            .await
            .map_err(ApiError::request(doing))?;
    }
    Ok(())
}

/// Takes a label off a node. One that is not there is no error.
///
/// # Errors
/// [`ApiError::Request`].
pub async fn remove_label(client: &Client, node: &str, label: &str) -> Result<(), ApiError> {
    let api: Api<Node> = Api::all(client.clone());
    let patch = Patch::Merge(serde_json::json!({"metadata": {"labels": {label: null}}}));
    api.patch(node, &PatchParams::default(), &patch)
        .await
        .map(|_| ())
        .map_err(ApiError::request(format!("taking the label {label} off {node}")))
}
