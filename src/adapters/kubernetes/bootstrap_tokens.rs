//! Bootstrap tokens: whoever holds one can join the cluster.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

use super::ApiError;
use super::retry::retried;

const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Deletes all bootstrap tokens. One that is gone already is no error.
///
/// # Errors
/// [`ApiError::Request`] if the API server refuses.
pub async fn delete_bootstrap_tokens(client: &Client) -> Result<(), ApiError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let tokens = ListParams::default().fields(&format!("type={TYPE}"));
    let found = retried("listing bootstrap tokens", || api.list(&tokens)).await?;
    for token in found.items {
        let name = token.name_any();
        retried("deleting a bootstrap token", async || match api.delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            other => other.map(|_| ()),
        })
        .await?;
    }
    Ok(())
}
