//! The nodes' pod subnets, as the controller manager gives them out, and where the API's own service leads.

use std::collections::BTreeMap;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Endpoints, Node};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::ApiError;

/// Watches until each of `nodes` has its pod subnets, and gives them by the nodes' names.
pub async fn pod_subnets(client: &Client, nodes: &[String]) -> BTreeMap<String, Vec<String>> {
    let mut known = BTreeMap::new();
    let events = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
    let mut changes = std::pin::pin!(events.default_backoff().applied_objects());
    while !nodes.iter().all(|node| known.contains_key(node)) {
        // The stream of a watcher with back-off does not end, and its errors pass.
        if let Ok(Some(node)) = changes.try_next().await
            && let Some(subnets) = subnets(&node)
        {
            known.insert(node.name_any(), subnets);
        }
    }
    known
}

fn subnets(node: &Node) -> Option<Vec<String>> {
    let spec = node.spec.as_ref()?;
    let several = spec.pod_cidrs.clone().filter(|subnets| !subnets.is_empty());
    several.or_else(|| Some(vec![spec.pod_cidr.clone()?]))
}

/// The addresses that the API's own service, `kubernetes`, leads to.
///
/// # Errors
/// [`ApiError::Request`] if the API server does not answer.
pub async fn own_service(client: &Client) -> Result<Vec<IpAddr>, ApiError> {
    let api: Api<Endpoints> = Api::namespaced(client.clone(), "default");
    let endpoints = api.get_opt("kubernetes").await.map_err(ApiError::request("looking at the API's own service"))?;
    let subsets = endpoints.and_then(|endpoints| endpoints.subsets).unwrap_or_default();
    let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
    Ok(addresses.filter_map(|address| address.ip.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_subnets_once_they_are_given_out() {
        let node = |spec: serde_json::Value| serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap();
        assert_eq!(subnets(&node(serde_json::json!({}))), None);
        assert_eq!(subnets(&node(serde_json::json!({"podCIDR": "a"}))).unwrap(), ["a"]);
        assert_eq!(subnets(&node(serde_json::json!({"podCIDR": "a", "podCIDRs": ["a", "b"]}))).unwrap(), ["a", "b"]);
    }
}
