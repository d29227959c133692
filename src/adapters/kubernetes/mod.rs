//! The Kubernetes API, as kprov uses it from outside: by the kube crate, through the published port.
//!
//! Owns clients, waiting for conditions, applying manifests and approving certificates.
//! Leaves nodes' files and processes to `node`, and the user's kubeconfig to `kubeconfig`.

mod apply;
mod bootstrap_tokens;
mod certificates;
mod controllers;
mod network;
mod probes;
pub mod ready;
mod retry;
#[cfg(test)]
mod scripted;
mod stored;

use std::time::Duration;

use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

pub use apply::{apply, await_namespace, complete_node, probe_name_server_often, remove_label};
pub use bootstrap_tokens::delete_bootstrap_tokens;
pub use certificates::{approve_serving_certificates, client_groups};
pub use controllers::{are_let_in as lets_controllers_in, forget_leaders, make_service_accounts};
pub use network::{own_service, pod_subnets};
pub use probes::hasten_probes;
pub use stored::{change, layout, touch};

/// A failed conversation with a cluster's API server.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ApiError {
    /// The kubeconfig is of no use.
    #[error("the cluster's kubeconfig cannot be used: {0}")]
    #[diagnostic(code(kprov::api::kubeconfig))]
    Kubeconfig(String),
    /// A request failed.
    #[error("{doing} failed: {}", crate::adapters::kubernetes::reason(answer))]
    #[diagnostic(code(kprov::api::request))]
    Request {
        /// What was tried.
        doing: String,
        /// What came of it. Not a source: the message says all of it, and kube's own text would repeat it in Rust's form.
        answer: Box<kube::Error>,
    },
    /// A manifest is none.
    #[error("the manifest {name}: {reason}")]
    #[diagnostic(code(kprov::api::manifest))]
    Manifest {
        /// The manifest's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A condition did not come true in time.
    #[error("not ready after {seconds} s:\n{}", pending.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n"))]
    #[diagnostic(
        code(kprov::api::not_ready),
        help("`kprov exec NODE -- journalctl -u kubelet` shows the kubelet's log")
    )]
    NotReady {
        /// How long it was waited for.
        seconds: u64,
        /// What was still missing, a line each.
        pending: Vec<String>,
    },
}

impl ApiError {
    pub(crate) fn request(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |answer| Self::Request { doing, answer: Box::new(answer) }
    }
}

/// The reason of a failed request, without the client's wrapping around it.
fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(inner) = cause {
                let inner_text = inner.to_string();
                if !text.contains(&inner_text) {
                    text = format!("{text}: {inner_text}");
                }
                cause = inner.source();
            }
            text
        }
    }
}

/// A client for the cluster that the kubeconfig's current context names.
///
/// # Errors
/// [`ApiError::Kubeconfig`] if it is none, names no current context, or holds certificates that cannot be used.
pub async fn client(kubeconfig: &str) -> Result<Client, ApiError> {
    let fail = |error: &dyn std::fmt::Display| ApiError::Kubeconfig(error.to_string());
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).map_err(|error| fail(&error))?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(&error))?;
    config.connect_timeout = Some(Duration::from_secs(5));
    // The API server is on this host or nearby: a proxy is never needed, and may not reach it.
    config.proxy_url = None;
    Client::try_from(config).map_err(|error| fail(&error))
}

/// Whether the API server says that it is ready, by its own `/readyz`.
pub async fn is_ready(client: &Client) -> bool {
    matches!(ask(client, "/readyz").await, Some(Ok(text)) if text == "ok")
}

/// Whether the API server answers at all, ready or not.
pub async fn answers(client: &Client) -> bool {
    matches!(ask(client, "/readyz").await, Some(Ok(_) | Err(kube::Error::Api(_))))
}

/// Whether the API server has made its built-in roles. Before that, the controller manager and the scheduler are
/// refused, and wait for seconds before they try again.
pub async fn has_roles(client: &Client) -> bool {
    match ask(client, "/readyz/poststarthook/rbac/bootstrap-roles").await {
        Some(Ok(_)) => true,
        // An API server without RBAC has no such step.
        Some(Err(kube::Error::Api(status))) => status.code == 404,
        Some(Err(_)) | None => false,
    }
}

/// What the API server answers, if it does so at once.
async fn ask(client: &Client, path: &str) -> Option<Result<String, kube::Error>> {
    let request = http_get(path).ok()?;
    tokio::time::timeout(Duration::from_secs(2), client.request_text(request)).await.ok()
}

/// The version that the API server tells, such as `v1.36.2`.
///
/// # Errors
/// [`ApiError::Request`] if the API server does not answer, or refuses.
pub async fn server_version(client: &Client) -> Result<String, ApiError> {
    let version = client.apiserver_version().await.map_err(ApiError::request("asking for the version"))?;
    Ok(version.git_version)
}

/// A request for a path of the API server.
pub(crate) fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, http::Error> {
    http::Request::get(path).body(Vec::new())
}
