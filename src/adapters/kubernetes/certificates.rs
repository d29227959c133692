//! Approving the kubelets' requests for serving certificates.
//!
//! Kubernetes leaves them to somebody who knows the nodes (the controller manager approves
//! client certificates only), and that is kprov: it has just made them.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::{ApiError, http_get};

const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Approves the serving certificates of `nodes`, as the requests come in, until the API server reaches each kubelet,
/// whose certificate it verifies. A kubelet that restarts asks anew, and one whose request is approved takes a moment
/// to fetch its certificate: so neither a count of requests nor an approval is the end.
///
/// A request counts only if it comes from the kubelet of one of the nodes, for serving, and
/// names nobody else: the API server has checked that who asks is who it says.
///
/// # Errors
/// [`ApiError::Request`], or [`ApiError::NotReady`] after `timeout`.
pub async fn approve_serving_certificates(
    client: &Client,
    nodes: &[String],
    timeout: Duration,
) -> Result<(), ApiError> {
    tokio::select! {
        failed = approve_requests(client, nodes) => failed,
        reached = await_serving_certificates(client, nodes, timeout) => reached,
    }
}

/// Approves requests as they come in. Ends only if the API server refuses.
async fn approve_requests(client: &Client, nodes: &[String]) -> Result<(), ApiError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.signerName={SERVING_SIGNER}"));
    let users: BTreeSet<String> = nodes.iter().map(|node| format!("system:node:{node}")).collect();
    let mut requests = watcher(api.clone(), config).default_backoff().applied_objects().boxed();
    loop {
        // The stream of a watcher with back-off does not end, and its errors pass.
        if let Ok(Some(request)) = requests.try_next().await
            && is_wanted(&request, &users)
        {
            approve(&api, request).await?;
        }
    }
}

/// How often the kubelets are asked again: what they serve with cannot be watched.
const ASK: Duration = Duration::from_millis(200);

async fn await_serving_certificates(client: &Client, nodes: &[String], timeout: Duration) -> Result<(), ApiError> {
    let answers = async |node: &String| {
        let Ok(request) = http_get(&format!("/api/v1/nodes/{node}/proxy/healthz")) else { return };
        while client.request_text(request.clone()).await.is_err() {
            tokio::time::sleep(ASK).await;
        }
    };
    tokio::time::timeout(timeout, join_all(nodes.iter().map(answers))).await.map(|_| ()).map_err(|_| {
        let pending = vec!["not every kubelet has a serving certificate that the API server accepts".to_owned()];
        ApiError::NotReady { seconds: timeout.as_secs(), pending }
    })
}

/// Whether a request comes from one of `users`, and asks for no more than it may have.
fn is_wanted(request: &CertificateSigningRequest, users: &BTreeSet<String>) -> bool {
    let spec = &request.spec;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let serves = usages.iter().any(|usage| usage == "server auth")
        && usages
            .iter()
            .all(|usage| matches!(usage.as_str(), "server auth" | "digital signature" | "key encipherment"));
    let is_node = spec.groups.as_deref().unwrap_or_default().iter().any(|group| group == "system:nodes");
    spec.signer_name == SERVING_SIGNER
        && serves
        && is_node
        && spec.username.as_ref().is_some_and(|user| users.contains(user))
}

async fn approve(api: &Api<CertificateSigningRequest>, mut request: CertificateSigningRequest) -> Result<(), ApiError> {
    let name = request.name_any();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == "Approved") {
        return Ok(());
    }
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("KprovApproved".to_owned()),
        message: Some("kprov made this node".to_owned()),
        last_transition_time: None,
        last_update_time: None,
    });
    api.replace_subresource("approval", &name, &PostParams::default(), &request)
        .await
        .map(|_| ())
        .map_err(ApiError::request(format!("approving the serving certificate {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(user: &str, usages: &[&str]) -> CertificateSigningRequest {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "csr-1"},
            "spec": {"request": "", "signerName": SERVING_SIGNER, "username": user, "groups": ["system:nodes"], "usages": usages}
        }))
        .unwrap()
    }

    #[test]
    fn only_our_own_nodes_are_approved_and_only_to_serve() {
        let users = BTreeSet::from(["system:node:a-worker".to_owned()]);
        let usages = ["digital signature", "server auth"];
        assert!(is_wanted(&request("system:node:a-worker", &usages), &users));
        assert!(!is_wanted(&request("system:node:stranger", &usages), &users));
        assert!(!is_wanted(&request("system:node:a-worker", &["server auth", "client auth"]), &users));
        assert!(!is_wanted(&request("system:node:a-worker", &["digital signature"]), &users));
    }
}
