//! The objects that controls are about, all asked for at once.

use futures_util::future::try_join_all;
use kube::Client;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::adapters::kubernetes::{ApiError, http_get};
use crate::documents::bounds::check_stream;
use crate::documents::cis::facts::{Binding, List, Object, Objects, Role};

/// The lists of what may be in the namespace `default`.
const IN_DEFAULT: [(&str, &str); 9] = [
    ("pod", "/api/v1/namespaces/default/pods"),
    ("service", "/api/v1/namespaces/default/services"),
    ("secret", "/api/v1/namespaces/default/secrets?fieldSelector=type!=kubernetes.io/service-account-token"),
    ("claim", "/api/v1/namespaces/default/persistentvolumeclaims"),
    ("deployment", "/apis/apps/v1/namespaces/default/deployments"),
    ("daemon set", "/apis/apps/v1/namespaces/default/daemonsets"),
    ("stateful set", "/apis/apps/v1/namespaces/default/statefulsets"),
    ("job", "/apis/batch/v1/namespaces/default/jobs"),
    ("ingress", "/apis/networking.k8s.io/v1/namespaces/default/ingresses"),
];

/// Only names are needed: the API can leave out the rest.
const NAMES_ONLY: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

async fn list<T: DeserializeOwned>(client: &Client, path: &str, accept: &str) -> Result<Vec<T>, ApiError> {
    let request = http_get(path).map(|mut request| {
        if let Ok(accept) = accept.parse() {
            request.headers_mut().insert(http::header::ACCEPT, accept);
        }
        request
    });
    let request = request.map_err(|error| ApiError::Manifest { name: path.to_owned(), reason: error.to_string() })?;
    match client.request::<List<T>>(request).await {
        Ok(list) => Ok(list.items),
        Err(error) => Err(ApiError::request(format!("listing {}", path.split('?').next().unwrap_or(path)))(error)),
    }
}

async fn all_of<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, ApiError> {
    list(client, path, "application/json").await
}

async fn names(client: &Client, path: &str) -> Result<Vec<Object>, ApiError> {
    list(client, path, NAMES_ONLY).await
}

/// A list of something that not every version serves.
async fn if_served<T>(list: impl Future<Output = Result<Vec<T>, ApiError>>) -> Result<Vec<T>, ApiError> {
    match list.await {
        Err(ApiError::Request { answer, .. }) if matches!(&*answer, kube::Error::Api(status) if status.code == 404) => {
            Ok(Vec::new())
        }
        other => other,
    }
}

/// Asks for everything.
pub(super) async fn all(client: &Client) -> Result<Objects, ApiError> {
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let in_default = try_join_all(
        IN_DEFAULT.map(|(kind, path)| async move { Ok::<_, ApiError>((kind, if_served(names(client, path)).await?)) }),
    );
    let (
        (nodes, namespaces, service_accounts, pods, network_policies),
        (cluster_roles, roles, cluster_bindings, bindings),
        (in_default, tokens, webhooks, policies, kube_proxy),
    ) = tokio::try_join!(
        async {
            tokio::try_join!(
                names(client, "/api/v1/nodes"),
                all_of(client, "/api/v1/namespaces"),
                all_of(client, "/api/v1/serviceaccounts"),
                all_of(client, "/api/v1/pods"),
                names(client, "/apis/networking.k8s.io/v1/networkpolicies"),
            )
        },
        async {
            let (roles, namespaced) = (format!("{RBAC}/clusterroles"), format!("{RBAC}/roles"));
            let (cluster, bound) = (format!("{RBAC}/clusterrolebindings"), format!("{RBAC}/rolebindings"));
            tokio::try_join!(
                all_of::<Role>(client, &roles),
                all_of::<Role>(client, &namespaced),
                all_of::<Binding>(client, &cluster),
                all_of::<Binding>(client, &bound),
            )
        },
        async {
            tokio::try_join!(
                in_default,
                names(
                    client,
                    "/api/v1/namespaces/kube-system/secrets?fieldSelector=type=bootstrap.kubernetes.io/token"
                ),
                webhooks(client),
                if_served(names(client, "/apis/policy/v1beta1/podsecuritypolicies")),
                kube_proxy(client),
            )
        },
    )?;
    let name = |object: Object| object.metadata.name;
    Ok(Objects {
        namespaces,
        service_accounts,
        pods,
        network_policies,
        roles: cluster_roles.into_iter().chain(roles).collect(),
        bindings: cluster_bindings.into_iter().chain(bindings).collect(),
        in_default: in_default
            .into_iter()
            .flat_map(|(kind, objects)| objects.into_iter().map(move |object| (kind, object.metadata.name)))
            .filter(|(kind, name)| !(*kind == "service" && name == "kubernetes"))
            .map(|(kind, name)| format!("{kind} {name}"))
            .collect(),
        bootstrap_tokens: tokens.into_iter().map(name).collect(),
        pod_webhooks: webhooks,
        pod_security_policies: policies.into_iter().map(name).collect(),
        kube_proxy,
        admin_groups: Vec::new(),
        nodes,
    })
}

/// The webhooks that see pods before they are made.
async fn webhooks(client: &Client) -> Result<Vec<String>, ApiError> {
    let configurations: Vec<Value> =
        all_of(client, "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations").await?;
    let found = configurations.iter().filter(|configuration| {
        let hooks = configuration["webhooks"].as_array().into_iter().flatten();
        hooks.into_iter().any(|hook| hook["rules"].as_array().into_iter().flatten().any(sees_new_pods))
    });
    Ok(found.filter_map(|configuration| configuration["metadata"]["name"].as_str()).map(str::to_owned).collect())
}

/// Whether a webhook's rule is about pods that are made: there are others of that name, in the API of metrics, and there is what only
/// sees them go.
fn sees_new_pods(rule: &Value) -> bool {
    let names = |field: &str, wanted: &[&str]| {
        let all = rule[field].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.into_iter().any(|one| wanted.contains(&one))
    };
    names("apiGroups", &["", "*"]) && names("operations", &["CREATE", "*"]) && names("resources", &["pods", "*", "*/*"])
}

/// kube-proxy's configuration, as kubeadm keeps it.
async fn kube_proxy(client: &Client) -> Result<Option<Value>, ApiError> {
    let maps: Vec<Value> =
        all_of(client, "/api/v1/namespaces/kube-system/configmaps?fieldSelector=metadata.name=kube-proxy").await?;
    let text = maps.first().and_then(|map| map["data"]["config.conf"].as_str());
    Ok(text.filter(|text| check_stream(text).is_ok()).and_then(|text| serde_yaml::from_str(text).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_sees_no_pod_come_judges_none() {
        let sees = |group: &str, operation: &str, resource: &str| {
            sees_new_pods(
                &serde_json::json!({"apiGroups": [group], "operations": ["UPDATE", operation], "resources": [resource]}),
            )
        };
        assert!(sees("", "CREATE", "pods") && sees("*", "*", "*") && sees("", "CREATE", "*/*"));
        assert!(!sees("metrics.k8s.io", "CREATE", "pods"));
        assert!(!sees("", "DELETE", "pods"));
        assert!(!sees("", "CREATE", "pods/exec"));
    }
}
