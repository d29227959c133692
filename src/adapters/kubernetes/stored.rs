//! What the API serves and where that lies in etcd, and writing an object again as it is.
//!
//! Every request is repeated while an API server is being restarted. What to write again is decided elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client};

use crate::documents::encryption::{GroupResource, Layout, Located, Served};

use super::ApiError;

/// How often a request is repeated that may succeed later; with the pauses, about a minute.
const TRIES: u32 = 35;

/// How many lists of resources are asked for at a time.
const PARALLEL: usize = 8;

/// Asks what the API serves, in all groups and all versions, and which of it is custom. `root` is what the API server
/// puts in front of every key.
///
/// # Errors
/// [`ApiError::Request`] if the API server refuses, or does not answer for a minute.
pub async fn layout(client: &Client, root: &str) -> Result<Layout, ApiError> {
    let all = ListParams::default();
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let services: Api<APIService> = Api::all(client.clone());
    let (groups, definitions, services) = tokio::try_join!(
        retried("asking for the API's groups", || client.list_api_groups()),
        retried("listing every CustomResourceDefinition", || definitions.list_metadata(&all)),
        retried("listing every APIService", || services.list(&all)),
    )?;
    let definitions: BTreeSet<String> = definitions.items.into_iter().filter_map(|item| item.metadata.name).collect();
    // What other servers serve, they keep somewhere else; one of them may be gone, and does not matter.
    let elsewhere: BTreeSet<(String, String)> = services
        .items
        .into_iter()
        .filter_map(|service| service.spec.filter(|spec| spec.service.is_some()))
        .map(|spec| (spec.group.unwrap_or_default(), spec.version.unwrap_or_default()))
        .collect();
    let mut versions = vec![(String::new(), "v1".to_owned())];
    for group in groups.groups {
        let preferred = group.preferred_version.iter().chain(&group.versions);
        for version in preferred.map(|version| (group.name.clone(), version.version.clone())) {
            if !versions.contains(&version) && !elsewhere.contains(&version) {
                versions.push(version);
            }
        }
    }
    let lists = stream::iter(versions.into_iter().map(|(group, version)| served(client, group, version)));
    let served: Vec<Vec<Served>> = lists.buffered(PARALLEL).try_collect().await?;
    Ok(Layout::new(root, served.into_iter().flatten().collect(), &definitions))
}

/// What one version of a group serves and keeps: what can be patched is kept, the rest is answers to questions.
async fn served(client: &Client, group: String, version: String) -> Result<Vec<Served>, ApiError> {
    let group_version = if group.is_empty() { version.clone() } else { format!("{group}/{version}") };
    let doing = format!("asking for the resources of {group_version}");
    let list = if group.is_empty() {
        retried(&doing, || client.list_core_api_resources(&version)).await?
    } else {
        retried(&doing, || client.list_api_group_resources(&group_version)).await?
    };
    let kept = list
        .resources
        .into_iter()
        .filter(|resource| !resource.name.contains('/') && resource.verbs.iter().any(|verb| verb == "patch"));
    let found = kept.map(|resource| Served {
        name: GroupResource { plural: resource.name, group: group.clone() },
        version: version.clone(),
        kind: resource.kind,
        namespaced: resource.namespaced,
    });
    Ok(found.collect())
}

/// Has the object of a key written again, unchanged: the API server reads it, finds it stored under another key than the one
/// that writes, and stores it anew (k8s.io/apiserver/pkg/storage/etcd3, `GuaranteedUpdate`). No value leaves it. An
/// object that is gone is no error.
///
/// # Errors
/// [`ApiError::Request`] if the API server refuses, or cannot read the value.
pub async fn touch(client: &Client, resource: &Located, served: &Served, key: &str) -> Result<(), ApiError> {
    patch(client, resource, served, key, &serde_json::json!({})).await
}

/// Has the object of a key written again by changing it and changing it back: for where an API server would find nothing to
/// do otherwise. What is changed is an annotation.
///
/// # Errors
/// [`ApiError::Request`] if the API server refuses, or cannot read the value.
pub async fn change(client: &Client, resource: &Located, served: &Served, key: &str) -> Result<(), ApiError> {
    for value in [serde_json::json!("now"), serde_json::Value::Null] {
        let change = serde_json::json!({"metadata": {"annotations": {"kprov.dev/rewritten": value}}});
        patch(client, resource, served, key, &change).await?;
    }
    Ok(())
}

async fn patch(
    client: &Client,
    resource: &Located,
    served: &Served,
    key: &str,
    change: &serde_json::Value,
) -> Result<(), ApiError> {
    let Served { name, version, kind, namespaced } = served;
    let api = ApiResource {
        api_version: if name.group.is_empty() { version.clone() } else { format!("{}/{version}", name.group) },
        group: name.group.clone(),
        version: version.clone(),
        kind: kind.clone(),
        plural: name.plural.clone(),
    };
    let rest = key.strip_prefix(&resource.prefix).unwrap_or(key);
    let (api, name): (Api<DynamicObject>, &str) = match rest.split_once('/') {
        Some((namespace, name)) if *namespaced => (Api::namespaced_with(client.clone(), namespace, &api), name),
        _ => (Api::all_with(client.clone(), &api), rest),
    };
    let (change, params) = (Patch::Merge(change), PatchParams::default());
    let doing = format!("rewriting {key}");
    let request = async || {
        let answer = api.patch_metadata(name, &params, &change).await;
        match answer.map(|_: PartialObjectMeta<DynamicObject>| ()) {
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other,
        }
    };
    retried(&doing, request).await
}

/// Whether the same request may succeed later: a conflict, an overload, an API server that is being restarted.
fn passes(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 401 | 403 | 409 | 429 | 500..),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

async fn retried<T>(doing: &str, request: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T, ApiError> {
    let (mut attempt, mut pause) = (1, Duration::from_millis(50));
    loop {
        match request().await {
            Err(error) if attempt < TRIES && passes(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
                attempt += 1;
            }
            other => return other.map_err(ApiError::request(doing)),
        }
    }
}
