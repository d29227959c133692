//! Approving the kubelets' requests for serving certificates.
//!
//! Kubernetes leaves them to somebody who knows the nodes (the controller manager approves
//! client certificates only), and that is kprov: it has just made them.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use super::ApiError;

const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// Approves one serving certificate for each of `nodes`, as the requests come in; ends when all are approved.
///
/// A request counts only if it comes from the kubelet of one of the nodes, for serving, and
/// names nobody else: the API server has checked that who asks is who it says.
///
/// # Errors
/// [`ApiError::Request`].
pub async fn approve_serving_certificates(client: &Client, nodes: &[String]) -> Result<(), ApiError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.signerName={SERVING_SIGNER}"));
    let mut missing: BTreeSet<String> = nodes.iter().map(|node| format!("system:node:{node}")).collect();
    let mut requests = watcher(api.clone(), config).default_backoff().applied_objects().boxed();
    while !missing.is_empty() {
        // The stream of a watcher with back-off does not end, and its errors pass.
        let Ok(request) = requests.try_next().await else { continue };
        let Some(request) = request else { break };
        let Some(user) = wanted(&request, &missing) else { continue };
        let user = user.to_owned();
        approve(&api, request).await?;
        missing.remove(&user);
    }
    Ok(())
}

/// The user that a pending request comes from, if it is one of `missing` and asks for no more than it may have.
fn wanted<'a>(request: &CertificateSigningRequest, missing: &'a BTreeSet<String>) -> Option<&'a str> {
    let spec = &request.spec;
    let user = missing.get(spec.username.as_deref()?)?;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let serves = usages.iter().any(|usage| usage == "server auth")
        && usages
            .iter()
            .all(|usage| matches!(usage.as_str(), "server auth" | "digital signature" | "key encipherment"));
    let is_node = spec.groups.as_deref().unwrap_or_default().iter().any(|group| group == "system:nodes");
    (spec.signer_name == SERVING_SIGNER && serves && is_node).then_some(user)
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
        let missing = BTreeSet::from(["system:node:a-worker".to_owned()]);
        let usages = ["digital signature", "server auth"];
        assert!(wanted(&request("system:node:a-worker", &usages), &missing).is_some());
        assert!(wanted(&request("system:node:stranger", &usages), &missing).is_none());
        assert!(wanted(&request("system:node:a-worker", &["server auth", "client auth"]), &missing).is_none());
        assert!(wanted(&request("system:node:a-worker", &["digital signature"]), &missing).is_none());
    }
}
