//! A head start for the controller manager.
//!
//! It makes a ServiceAccount for each of its controllers, one after the other, with three requests each, and allows
//! itself 20 requests a second (`--kube-api-qps`): so for its first five seconds it does nothing else. If they are there
//! it finds them with one request each.

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

const NAMESPACE: &str = "kube-system";

/// What the names of the built-in bindings for controllers begin with.
const CONTROLLER: &str = "system:controller:";

/// Controllers that have bindings, but do not run: those of cloud providers, and one that is off unless asked for.
const NOT_RUNNING: [&str; 4] =
    ["cloud-provider", "route-controller", "service-controller", "selinux-warning-controller"];

/// Makes the ServiceAccounts of the controllers. What cannot be made is left to the controller manager.
pub async fn make_service_accounts(client: &Client) {
    let everywhere = Api::<ClusterRoleBinding>::all(client.clone());
    let inside = Api::<RoleBinding>::namespaced(client.clone(), NAMESPACE);
    let all = ListParams::default();
    let (Ok(cluster_bindings), Ok(bindings)) = tokio::join!(everywhere.list(&all), inside.list(&all)) else { return };
    let cluster_bindings = cluster_bindings.items.into_iter().map(|item| (item.name_any(), item.subjects));
    let bindings = bindings.items.into_iter().map(|item| (item.name_any(), item.subjects));
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    let parameters = PostParams::default();
    let make = async |name: String| {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name);
        let _ = accounts.create(&parameters, &account).await;
    };
    join_all(controllers(cluster_bindings.chain(bindings)).map(make)).await;
}

/// The ServiceAccounts of controllers that bindings name.
fn controllers(bindings: impl Iterator<Item = (String, Option<Vec<Subject>>)>) -> impl Iterator<Item = String> {
    bindings
        .filter(|(name, _)| name.starts_with(CONTROLLER))
        .flat_map(|(_, subjects)| subjects.unwrap_or_default())
        .filter(|subject| subject.kind == "ServiceAccount" && subject.namespace.as_deref() == Some(NAMESPACE))
        .map(|subject| subject.name)
        .filter(|name| !NOT_RUNNING.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_those_that_bindings_name() {
        let subject = |kind: &str, name: &str| Subject {
            kind: kind.to_owned(),
            name: name.to_owned(),
            namespace: Some(NAMESPACE.to_owned()),
            ..Subject::default()
        };
        let bindings = [
            ("system:controller:a", Some(vec![subject("ServiceAccount", "a"), subject("User", "b")])),
            ("system:controller:route-controller", Some(vec![subject("ServiceAccount", "route-controller")])),
            ("somebody", Some(vec![subject("ServiceAccount", "c")])),
            ("system:controller:d", None),
        ];
        let found = controllers(bindings.into_iter().map(|(name, subjects)| (name.to_owned(), subjects)));
        assert_eq!(found.collect::<Vec<_>>(), ["a"]);
    }
}
