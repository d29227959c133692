//! Bootstrap tokens: whoever holds one can join the cluster.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

use super::ApiError;

const TYPE: &str = "bootstrap.kubernetes.io/token";

/// Deletes all bootstrap tokens. One that is gone already is no error.
///
/// # Errors
/// [`ApiError::Request`] if the API server refuses.
pub async fn delete_bootstrap_tokens(client: &Client) -> Result<(), ApiError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), "kube-system");
    let tokens = ListParams::default().fields(&format!("type={TYPE}"));
    let found = api.list(&tokens).await.map_err(ApiError::request("listing bootstrap tokens"))?;
    for token in found.items {
        match api.delete(&token.name_any(), &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(ApiError::request("deleting a bootstrap token")(error)),
        }
    }
    Ok(())
}
