//! Holding the CIS Kubernetes Benchmark against a cluster that runs, whoever made it: facts are gathered here, and judged
//! by `documents::cis`.

pub mod kube_bench;
mod objects;

use std::time::Duration;

use futures_util::future::try_join_all;
use kube::Client;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::adapters::kubernetes::{self, ApiError};
use crate::adapters::node::{Node, NodeError, STATIC_POD};
use crate::documents::cis::facts::{EncryptionRule, Facts, NodeFacts};
use crate::documents::encryption::{Config, Provider};
use crate::documents::profile::Role;

/// Prints what is to be known of a node.
const FACTS: &str = include_str!("scripts/facts.sh");

/// How long a kubelet may take to tell what it runs with. One that does not is judged by its file, and that is told.
const KUBELET: Duration = Duration::from_secs(10);

/// How long the API server may take for all that it is asked.
const API: Duration = Duration::from_secs(60);

/// Why a cluster could not be judged.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CisError {
    /// What a node says of itself makes no sense.
    #[error("{node}: its files and processes could not be looked at: {reason}")]
    #[diagnostic(
        code(kprov::cis::facts),
        help("`kprov exec {node} -- systemctl status kubelet containerd` tells how it is doing")
    )]
    Facts {
        /// The node.
        node: String,
        /// What is wrong.
        reason: String,
    },
    /// kube-bench did not do what it is there for.
    #[error("{node}: kube-bench gave no results: {reason}")]
    #[diagnostic(
        code(kprov::cis::kube_bench),
        help(
            "`--kube-bench=BINARY` needs no image: its folder `cfg` has to be beside it, with the rules of that version"
        )
    )]
    KubeBench {
        /// The node.
        node: String,
        /// What is wrong.
        reason: String,
    },
    /// kube-bench's files are of no use.
    #[error("{} cannot be used as kube-bench's: {reason}", path.display())]
    #[diagnostic(
        code(kprov::cis::kube_bench_files),
        help(
            "`--kube-bench=` takes the program with its folder `cfg` beside it, an archive of its image (.tar), or the image's name"
        )
    )]
    Rules {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is no such file, and it cannot be an image's name either.
    #[error("there is no file {}", path.display())]
    #[diagnostic(
        code(kprov::cis::kube_bench_missing),
        help(
            "`--kube-bench=` takes the program with its folder `cfg` beside it, an archive of its image (.tar), or the image's name"
        )
    )]
    Missing {
        /// The file.
        path: std::path::PathBuf,
    },
    /// There is something in the way that is not ours to remove.
    #[error("the cluster has a {kind} {name} that kprov has not made: nothing was run, nor removed")]
    #[diagnostic(
        code(kprov::cis::not_ours),
        help(
            "kube-bench's Jobs run in a namespace of that name, with a role and a binding of it, which go with them: rename or remove yours, or use `--kube-bench=BINARY`, which needs none"
        )
    )]
    NotOurs {
        /// What it is.
        kind: String,
        /// Its name.
        name: &'static str,
    },
    /// The user has had enough.
    #[error("interrupted")]
    #[diagnostic(code(kprov::interrupted))]
    Interrupted,
    /// A node could not be looked at.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
    /// The API server could not be asked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Api(#[from] ApiError),
}

/// What to look at.
pub struct Target<'a> {
    /// The cluster's name.
    pub cluster: &'a str,
    /// A client for it.
    pub client: &'a Client,
    /// Its nodes.
    pub nodes: &'a [Node],
    /// The groups of the certificate in the administrator's kubeconfig.
    pub admin_groups: Vec<String>,
}

/// Gathers what the controls are judged by, from all nodes and the API side by side.
///
/// # Errors
/// [`CisError`] if a node or the API cannot be asked: what is not seen is not judged.
pub async fn gather(target: &Target<'_>) -> Result<Facts, CisError> {
    let nodes = try_join_all(target.nodes.iter().map(|node| node_facts(node, target.client)));
    let asked = async { tokio::try_join!(objects::all(target.client), kubernetes::server_version(target.client)) };
    let (nodes, (mut objects, version)) = tokio::try_join!(nodes, async { Ok(in_time(asked).await?) })?;
    objects.admin_groups.clone_from(&target.admin_groups);
    Ok(Facts { cluster: target.cluster.to_owned(), version, nodes, objects })
}

/// What the API server answers, if it does so in time: one that stands still takes requests, too.
async fn in_time<T>(asked: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    match tokio::time::timeout(API, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::NotReady {
            seconds: API.as_secs(),
            pending: vec!["the API server takes requests and does not answer".to_owned()],
        }),
    }
}

async fn node_facts(node: &Node, client: &Client) -> Result<NodeFacts, CisError> {
    let control_plane = node.role == Role::ControlPlane;
    let script = format!("control_plane={}\n{STATIC_POD}\n{FACTS}", if control_plane { "yes" } else { "no" });
    // A node that cannot be looked at is told at once, however long its kubelet is waited for.
    let (text, running) = tokio::try_join!(
        async { Ok::<_, CisError>(node.script("looking at files and processes", &script).await?) },
        async { Ok(running_configuration(client, &node.name).await) }
    )?;
    let mut facts = NodeFacts::parse(&node.name, control_plane, text.as_bytes())
        .map_err(|reason| CisError::Facts { node: node.name.clone(), reason })?;
    facts.kubelet_running = Some(running);
    if let Some(file) = facts.api_server_flag("encryption-provider-config") {
        let seen = facts.digests.get("encryption").map(String::as_str);
        facts.encryption = Some(encryption_rules(node, &file, seen).await);
    }
    Ok(facts)
}

/// The configuration that a kubelet runs with, as it tells the API server; or why it does not.
pub(crate) async fn running_configuration(client: &Client, node: &str) -> Result<Value, String> {
    let request =
        kubernetes::http_get(&format!("/api/v1/nodes/{node}/proxy/configz")).map_err(|error| error.to_string())?;
    let answer: Value = match tokio::time::timeout(KUBELET, client.request(request)).await {
        Ok(answer) => answer.map_err(|error| error.to_string())?,
        Err(_) => return Err(format!("it has not answered within {} s", KUBELET.as_secs())),
    };
    match answer.get("kubeletconfig") {
        Some(configuration) => Ok(configuration.clone()),
        None => Err("its answer has no kubeletconfig".to_owned()),
    }
}

/// The rules of an encryption configuration, without its keys. `seen` is the checksum of the file that the API server sees
/// by that name: a mount may show it another one than the node has.
async fn encryption_rules(node: &Node, file: &str, seen: Option<&str>) -> Result<Vec<EncryptionRule>, String> {
    let text = node.read_text(file).await.map_err(|error| error.to_string())?;
    if seen != Some(hex::encode(Sha256::digest(text.as_bytes())).as_str()) {
        return Err(format!("the API server sees another file at {file} than the node has there, or none"));
    }
    let config = Config::parse(&text)?;
    let mut rules: Vec<EncryptionRule> = Vec::new();
    for (resource, group) in config.resources() {
        let providers: Vec<String> = group.providers.iter().map(provider_name).collect();
        match rules.last_mut().filter(|rule| rule.providers == providers) {
            Some(rule) => rule.resources.push(resource.to_owned()),
            None => rules.push(EncryptionRule { resources: vec![resource.to_owned()], providers }),
        }
    }
    Ok(rules)
}

fn provider_name(provider: &Provider) -> String {
    match provider {
        Provider::Local(keys) => keys.kind.name().to_owned(),
        Provider::Kms(_) => "kms".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{Pending, pending};
    use std::task::{Context, Poll};

    use http::{Request, Response};
    use kube::client::Body;
    use tower_service::Service;

    use super::*;

    /// An API server that takes every request and answers none.
    #[derive(Clone)]
    struct Silent;

    impl Service<Request<Body>> for Silent {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = Pending<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_not_waited_for_for_ever() {
        let client = Client::new(Silent, "default");
        let reason = running_configuration(&client, "node").await.unwrap_err();
        assert_eq!(reason, "it has not answered within 10 s");
        let error = in_time(objects::all(&client)).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("60 s") && error.contains("does not answer"), "{error}");
    }
}
