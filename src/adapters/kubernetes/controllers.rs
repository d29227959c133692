//! A head start for the controller manager and the scheduler.
//!
//! The controller manager makes a ServiceAccount for each of its controllers, one after the other, with three requests each,
//! and allows itself 20 requests a second (`--kube-api-qps`): so for its first five seconds it does nothing else. If they are
//! there it finds them with one request each. Where somebody led who is no more, both wait until that one's lease has ended.

use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, Subject};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::ApiError;

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

/// The leases of those who lead.
const LEADERS: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];

/// How long an API server may take to say whether somebody is let in.
const ANSWER: Duration = Duration::from_secs(2);

/// How long it may take to forget them: they end by themselves 15 s after somebody has waited for them first.
const FORGET: Duration = Duration::from_secs(3);

/// Whether the API server lets the controller manager and the scheduler in, by the roles that it has read. Where they were made
/// earlier, that is a second and more before it has looked through all of them, which it begins with a pause of a second
/// (pkg/registry/rbac/rest/storage_rbac.go, `EnsureRBACPolicy`).
pub async fn are_let_in(client: &Client) -> bool {
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let is_let_in = async |component: &str| {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:{component}")),
                groups: Some(vec!["system:authenticated".to_owned()]),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some("update".to_owned()),
                    group: Some("coordination.k8s.io".to_owned()),
                    resource: Some("leases".to_owned()),
                    namespace: Some("kube-system".to_owned()),
                    name: Some(component.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let parameters = PostParams::default();
        let answer = tokio::time::timeout(ANSWER, reviews.create(&parameters, &review)).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|review| review.status.is_some_and(|status| status.allowed)))
    };
    let (first, second) = tokio::join!(is_let_in(LEADERS[0]), is_let_in(LEADERS[1]));
    first && second
}

/// Deletes the leases by which the controller manager and the scheduler lead, where none of them runs: whoever comes first
/// leads at once.
///
/// # Errors
/// [`ApiError::Request`] if the API server refuses, [`ApiError::NotReady`] if it does not answer at once. Nothing is lost but time.
pub async fn forget_leaders(client: &Client) -> Result<(), ApiError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NAMESPACE);
    let delete = async |name: &str| match leases.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(|_| ()).map_err(ApiError::request(format!("deleting the lease {name}"))),
    };
    let deleted = tokio::time::timeout(FORGET, try_join_all(LEADERS.map(delete))).await;
    let silent = |_| ApiError::NotReady { seconds: FORGET.as_secs(), pending: vec!["deleting leases".to_owned()] };
    deleted.map_err(silent)?.map(|_: Vec<()>| ())
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
    use serde_json::{Value, json};

    use crate::adapters::kubernetes::scripted::{api, failure};

    use super::*;

    #[tokio::test]
    async fn leaders_are_forgotten_whether_there_was_one_or_not() {
        let (client, asked) =
            api(
                |what, _| {
                    if what.ends_with("scheduler") {
                        failure(404, "NotFound")
                    } else {
                        (200, json!({"kind": "Status"}))
                    }
                },
            );
        forget_leaders(&client).await.unwrap();
        let leases = "DELETE /apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
        let wanted = LEADERS.map(|name| format!("{leases}/{name}"));
        assert_eq!(*asked.lock().unwrap(), wanted);
        let (client, _) = api(|_, _| failure(403, "a webhook says no"));
        assert!(forget_leaders(&client).await.unwrap_err().to_string().contains("a webhook says no"));
    }

    #[tokio::test]
    async fn controllers_are_let_in_if_both_are() {
        fn answer(allowed: bool) -> (u16, Value) {
            (201, json!({"spec": {}, "status": {"allowed": allowed}}))
        }
        let (client, asked) = api(|_, _| answer(true));
        assert!(are_let_in(&client).await);
        assert_eq!(*asked.lock().unwrap(), ["POST /apis/authorization.k8s.io/v1/subjectaccessreviews"; 2]);
        let (client, _) = api(|_, before| answer(before == 0));
        assert!(!are_let_in(&client).await);
        let (client, _) = api(|_, _| failure(403, "not yet"));
        assert!(!are_let_in(&client).await);
    }

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
