//! What is ready before static pods are restarted, and has to be again before a command ends.
//!
//! An API server that answers is not yet one whose pod is Ready: the kubelet, itself just restarted, says so some moments
//! later, and until then what is shown is from before. So it is waited for what is shown of the very containers that run.
//! What takes too long is told; it is no reason to fail, since the change itself has been made.

use std::time::Duration;

use futures_util::future::try_join_all;
use kube::Client;
use tokio::time::Instant;

use crate::adapters::kubernetes::ready::{self, Expectation, STATIC_PODS};
use crate::adapters::kubernetes::{ApiError, hasten_probes};
use crate::operations::cluster::ControlPlanes;
use crate::progress::Reporter;

/// How long everything may take to be ready again; a static pod that has ended twice waits for its third start.
const AGAIN: Duration = Duration::from_secs(60);

/// How long the containers that run count as such; one that has ended meanwhile has another name when it is back.
const CURRENT: Duration = Duration::from_secs(3);

/// What was ready of a cluster whose control planes are about to be changed.
pub struct Readiness<'a> {
    client: &'a Client,
    control_planes: &'a ControlPlanes,
    /// What was not; `None` if the API server could not be asked.
    not_ready: Option<Vec<String>>,
}

impl<'a> Readiness<'a> {
    /// Looks at what is ready now. An API server that does not answer is no error: the change may be what mends it.
    pub async fn before(client: &'a Client, control_planes: &'a ControlPlanes) -> Self {
        let mut readiness = Self { client, control_planes, not_ready: None };
        readiness.not_ready = readiness.missing().await.ok();
        readiness
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
        .await
    }
}
