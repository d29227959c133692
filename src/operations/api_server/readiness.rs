//! What is ready before static pods are restarted, and has to be again before a command ends.
//!
//! An API server that answers is not yet one whose pod is Ready: the kubelet, itself just restarted, says so some moments
//! later, and until then what is shown is from before. So it is waited for what is shown of the very containers that run.
//! And an API server that ends takes itself away from its service: each kube-proxy has to have heard that it is back.
//! What takes too long is told; it is no reason to fail, since the change itself has been made.

use std::time::Duration;

use futures_util::future::try_join_all;
use kube::Client;
use tokio::time::Instant;

use crate::adapters::kubernetes::ready::{self, Expectation, STATIC_PODS};
use crate::adapters::kubernetes::{ApiError, hasten_probes};
use crate::adapters::node::Node;
use crate::operations::cluster::ControlPlanes;
use crate::operations::verify::{self, VerifyError};
use crate::progress::Reporter;

/// How long everything may take to be ready again: a static pod that has ended twice waits for its third start, and whoever has
/// asked an API server in vain for some time asks again after half a minute.
const AGAIN: Duration = Duration::from_secs(90);

/// How long the containers that run count as such; one that has ended meanwhile has another name when it is back.
const CURRENT: Duration = Duration::from_secs(3);

/// How often kube-proxy is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What was ready of a cluster whose control planes are about to be changed.
pub struct Readiness<'a> {
    client: &'a Client,
    control_planes: &'a ControlPlanes,
    /// All nodes.
    nodes: &'a [Node],
    /// What was not; `None` if the API server could not be asked.
    not_ready: Option<Vec<String>>,
    /// The checks of kube-proxy that failed; `None` if a node could not be asked.
    failed: Option<Vec<String>>,
}

impl<'a> Readiness<'a> {
    /// Looks at what is ready now. An API server that does not answer is no error: the change may be what mends it.
    pub async fn before(client: &'a Client, control_planes: &'a ControlPlanes, nodes: &'a [Node]) -> Self {
        let mut readiness = Self { client, control_planes, nodes, not_ready: None, failed: None };
        readiness.not_ready = readiness.missing().await.ok();
        if readiness.not_ready.is_some() {
            let failing = readiness.unproxied().await.ok();
            readiness.failed = failing.map(|failing| failing.into_iter().map(|(check, _)| check).collect());
        }
        readiness
    }

    /// The nodes from which the API server is not reached by its service address: the check, and what was seen.
    async fn unproxied(&self) -> Result<Vec<(String, String)>, VerifyError> {
        let target = verify::Target { client: self.client, nodes: self.nodes, inputs: None, since: ready::Since::Ever };
        let checks = verify::kube_proxy_checks(&target).await?;
        Ok(checks.into_iter().filter(|check| !check.ok).map(|check| (check.name, check.evidence)).collect())
    }

    fn expectation(&self) -> Expectation {
        let names: Vec<String> = self.control_planes.iter().map(|node| node.name.clone()).collect();
        Expectation { nodes: names.clone(), control_planes: names, pods: true, ..Expectation::default() }
    }

    async fn missing(&self) -> Result<Vec<String>, ApiError> {
        Ok(ready::not_ready(&self.expectation(), &ready::observe(self.client).await?))
    }

    /// Waits until all that was ready is so again, and warns of what is not in good time.
    pub async fn again(&self, reporter: &Reporter) {
        let step = reporter.stage("Waiting until what was ready is so again");
        let wait = async {
            let begun = Instant::now();
            loop {
                let pending = match self.look(|detail| step.detail(detail)).await {
                    Ok(()) => return Ok(()),
                    Err(ApiError::NotReady { pending, .. }) => pending,
                    Err(other) => vec![other.to_string()],
                };
                if begun.elapsed() > AGAIN {
                    return Err(pending);
                }
            }
        };
        let outcome = tokio::select! {
            outcome = wait => outcome,
            never = hasten_probes(self.client) => match never {},
        };
        match outcome {
            Ok(()) => step.done(),
            Err(pending) => {
                step.fail(format!("not within {} s", AGAIN.as_secs()));
                reporter.warn(&format!(
                    "The change is made; of what was ready before, this is not yet so again: {}",
                    pending.join("; ")
                ));
            }
        }
    }

    /// Waits for a moment, for what is shown of the containers that run now.
    async fn look(&self, detail: impl Fn(&str)) -> Result<(), ApiError> {
        let found = try_join_all(self.control_planes.iter().map(|node| node.static_pods(&STATIC_PODS))).await;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                tokio::time::sleep(CURRENT).await;
                return Err(ApiError::NotReady { seconds: CURRENT.as_secs(), pending: vec![error.to_string()] });
            }
        };
        let mut expected = self.expectation();
        for (node, pods) in self.control_planes.iter().zip(found) {
            let name = |component: String| format!("pod {component}-{}", node.name);
            expected.running.extend(pods.into_iter().map(|(component, container)| (name(component), container)));
        }
        expected.except = match &self.not_ready {
            Some(not_ready) => not_ready.clone(),
            // What is shown at first is from before; of the static pods it is known better.
            None => {
                let static_pods = &expected.running;
                self.missing().await?.into_iter().filter(|what| !static_pods.contains_key(what)).collect()
            }
        };
        ready::wait(self.client, &expected, CURRENT, |pending| {
            detail(pending.first().map_or("", String::as_str));
        })
        .await?;
        let Some(before) = &self.failed else { return Ok(()) };
        let now = match self.unproxied().await {
            Ok(now) => now.into_iter().filter(|(check, _)| !before.contains(check)).collect(),
            Err(error) => vec![("kube-proxy".to_owned(), error.to_string())],
        };
        let pending: Vec<String> = now.into_iter().map(|(check, seen)| format!("{check}: {seen}")).collect();
        let Some(first) = pending.first() else { return Ok(()) };
        detail(first);
        tokio::time::sleep(LOOK).await;
        Err(ApiError::NotReady { seconds: LOOK.as_secs(), pending })
    }
}
