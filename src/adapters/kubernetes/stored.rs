//! What the API serves and where that lies in etcd, and writing an object again as it is.
//!
//! Every request is repeated while an API server is being restarted. What to write again is decided elsewhere.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client};

use crate::documents::encryption::{GroupResource, Layout, Located, Served};

use super::ApiError;
use super::retry::retried;

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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::scripted::{api, failure};
    use super::*;

    fn group(name: &str, versions: &[&str]) -> Value {
        let version = |version: &str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
        let all: Vec<Value> = versions.iter().map(|one| version(one)).collect();
        // The last one is preferred, so that the order is seen not to decide.
        json!({"name": name, "versions": all, "preferredVersion": all.last()})
    }

    fn resources(of: &[(&str, &str, bool, &[&str])]) -> (u16, Value) {
        let resource = |(name, kind, namespaced, verbs): &(&str, &str, bool, &[&str])| json!({"name": name, "singularName": "", "kind": kind, "namespaced": namespaced, "verbs": verbs});
        let list: Vec<Value> = of.iter().map(resource).collect();
        (200, json!({"kind": "APIResourceList", "groupVersion": "any", "resources": list}))
    }

    const KEPT: &[&str] = &["create", "delete", "get", "list", "patch", "update"];

    /// A cluster with resources that are served in one version only, two CustomResourceDefinitions whose groups look built in,
    /// and a server for metrics that is gone.
    fn cluster(what: &str, _: usize) -> (u16, Value) {
        match what {
            "GET /apis" => {
                let groups = [
                    group("apiregistration.k8s.io", &["v1"]),
                    group("autoscaling", &["v1", "v2"]),
                    group("scheduling.k8s.io", &["v1alpha1", "v1"]),
                    group("gateway.networking.k8s.io", &["v1beta1", "v1"]),
                    group("metrics.k8s.io", &["v1beta1"]),
                ];
                (200, json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
            }
            "GET /apis/apiextensions.k8s.io/v1/customresourcedefinitions" => {
                let names = ["gateways.gateway.networking.k8s.io", "volumesnapshots.snapshot.storage.k8s.io"];
                let items = names.map(|name| json!({"metadata": {"name": name}}));
                let kind = "PartialObjectMetadataList";
                (200, json!({"kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items}))
            }
            "GET /apis/apiregistration.k8s.io/v1/apiservices" => {
                let service = |group: &str, version: &str, service: Value| {
                    json!({
                        "metadata": {"name": format!("{version}.{group}")},
                        "spec": {
                            "group": group, "version": version, "service": service,
                            "groupPriorityMinimum": 100, "versionPriority": 100,
                        },
                    })
                };
                let items = [
                    service("autoscaling", "v2", Value::Null),
                    service("metrics.k8s.io", "v1beta1", json!({"name": "metrics-server", "namespace": "kube-system"})),
                ];
                let kind = "APIServiceList";
                (200, json!({"kind": kind, "apiVersion": "apiregistration.k8s.io/v1", "metadata": {}, "items": items}))
            }
            "GET /api/v1" => resources(&[
                ("secrets", "Secret", true, KEPT),
                ("nodes", "Node", false, KEPT),
                ("nodes/status", "Node", false, &["get", "patch"]),
                ("bindings", "Binding", true, &["create"]),
            ]),
            "GET /apis/apiregistration.k8s.io/v1" => resources(&[("apiservices", "APIService", false, KEPT)]),
            "GET /apis/autoscaling/v1" | "GET /apis/autoscaling/v2" => {
                resources(&[("horizontalpodautoscalers", "HorizontalPodAutoscaler", true, KEPT)])
            }
            "GET /apis/scheduling.k8s.io/v1" => resources(&[("priorityclasses", "PriorityClass", false, KEPT)]),
            "GET /apis/scheduling.k8s.io/v1alpha1" => resources(&[("workloads", "Workload", true, KEPT)]),
            "GET /apis/gateway.networking.k8s.io/v1" => resources(&[("gateways", "Gateway", true, KEPT)]),
            "GET /apis/gateway.networking.k8s.io/v1beta1" => resources(&[
                ("gateways", "Gateway", true, KEPT),
                ("gateways/status", "Gateway", true, &["get", "patch", "update"]),
            ]),
            _ => failure(404, "NotFound"),
        }
    }

    #[tokio::test]
    async fn what_is_served_in_any_version_is_found_where_it_lies() {
        let (client, asked) = api(cluster);
        let layout = layout(&client, "/registry").await.unwrap();
        let mut found: Vec<(String, &str, Option<&str>, bool)> = Vec::new();
        for located in layout.resources() {
            let version = located.served.as_ref().map(|served| served.version.as_str());
            found.push((located.name.to_string(), &located.prefix, version, located.custom));
        }
        found.sort();
        let expected = [
            ("apiservices.apiregistration.k8s.io", "apiregistration.k8s.io/apiservices/", Some("v1"), false),
            // Its group looks built in.
            ("gateways.gateway.networking.k8s.io", "gateway.networking.k8s.io/gateways/", Some("v1"), true),
            // In the preferred version, of several.
            ("horizontalpodautoscalers.autoscaling", "horizontalpodautoscalers/", Some("v2"), false),
            ("nodes", "minions/", Some("v1"), false),
            ("priorityclasses.scheduling.k8s.io", "priorityclasses/", Some("v1"), false),
            ("secrets", "secrets/", Some("v1"), false),
            // No version is served, and its objects are there.
            ("volumesnapshots.snapshot.storage.k8s.io", "snapshot.storage.k8s.io/volumesnapshots/", None, true),
            // In a version that is not preferred.
            ("workloads.scheduling.k8s.io", "workloads/", Some("v1alpha1"), false),
        ];
        let expected =
            expected.map(|(name, prefix, version, custom)| (name, format!("/registry/{prefix}"), version, custom));
        let seen: Vec<(&str, String, Option<&str>, bool)> = found
            .iter()
            .map(|(name, prefix, version, custom)| (name.as_str(), (*prefix).to_owned(), *version, *custom))
            .collect();
        assert_eq!(seen, expected);
        // What another server keeps is not asked for: that one is gone.
        let asked = asked.lock().unwrap();
        assert!(!asked.iter().any(|what| what.contains("metrics")), "{asked:?}");
    }

    /// The definitions cannot be listed.
    fn without_definitions(what: &str, before: usize) -> (u16, Value) {
        if what.ends_with("/customresourcedefinitions") { failure(404, "NotFound") } else { cluster(what, before) }
    }

    /// One version of a group does not answer.
    fn without_a_version(what: &str, before: usize) -> (u16, Value) {
        if what == "GET /apis/scheduling.k8s.io/v1alpha1" { failure(404, "NotFound") } else { cluster(what, before) }
    }

    #[tokio::test]
    async fn what_cannot_be_asked_for_is_no_empty_answer() {
        let (client, _) = api(without_definitions);
        let error = layout(&client, "/registry").await.unwrap_err().to_string();
        assert!(error.starts_with("listing every CustomResourceDefinition failed"), "{error}");
        let (client, _) = api(without_a_version);
        let error = layout(&client, "/registry").await.unwrap_err().to_string();
        assert!(error.starts_with("asking for the resources of scheduling.k8s.io/v1alpha1 failed"), "{error}");
    }

    fn located(plural: &str, group: &str, namespaced: bool, prefix: &str) -> (Located, Served) {
        let name = GroupResource { plural: plural.to_owned(), group: group.to_owned() };
        let served = Served { name: name.clone(), version: "v1".to_owned(), kind: "Any".to_owned(), namespaced };
        (Located { name, prefix: prefix.to_owned(), served: Some(served.clone()), custom: !group.is_empty() }, served)
    }

    /// Busy at first, then does as it is told; one object is gone.
    fn patched(what: &str, before: usize) -> (u16, Value) {
        match (what, before) {
            (what, _) if what.ends_with("/gone") => failure(404, "NotFound"),
            (what, _) if what.ends_with("/refused") => failure(422, "Invalid"),
            (_, 0) => failure(503, "ServiceUnavailable"),
            _ => (200, json!({"metadata": {"name": "a"}})),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_is_found_by_its_key_and_written_in_the_end() {
        let (client, asked) = api(patched);
        let (gateways, gateway) =
            located("gateways", "gateway.networking.k8s.io", true, "/registry/gateway.networking.k8s.io/gateways/");
        let (nodes, node) = located("nodes", "", false, "/registry/minions/");
        let key = |rest: &str| format!("{}{rest}", gateways.prefix);
        touch(&client, &gateways, &gateway, &key("web/a")).await.unwrap();
        touch(&client, &nodes, &node, "/registry/minions/a").await.unwrap();
        touch(&client, &gateways, &gateway, &key("web/gone")).await.unwrap();
        let error = touch(&client, &gateways, &gateway, &key("web/refused")).await.unwrap_err().to_string();
        assert!(error.contains(&key("web/refused")) && error.contains("Invalid"), "{error}");
        let of = |name: &str| format!("PATCH /apis/gateway.networking.k8s.io/v1/namespaces/web/gateways/{name}");
        let node = "PATCH /api/v1/nodes/a".to_owned();
        let expected = [of("a"), of("a"), node.clone(), node, of("gone"), of("refused")];
        assert_eq!(*asked.lock().unwrap(), expected);
    }
}
