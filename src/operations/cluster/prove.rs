//! The end of every making of a cluster, new or restored: waiting until it is ready, proving that it is what was asked
//! for.

use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::{join_all, try_join_all};
use kube::Client;

use crate::adapters::kubernetes::{self, ready};
use crate::adapters::node::Node;
use crate::documents::profile::{FileModes, KubeProxyMode, Role};
use crate::documents::record::NodeRecord;
use crate::documents::render::Inputs;
use crate::documents::snapshot::Held;
use crate::operations::verify;

use super::interim_network::{stand_ins, take_away};
use super::{ClusterError, Context, kubelets, logs};

/// A cluster whose API server answers and whose nodes have all been started.
pub(super) struct Proof<'a> {
    pub(super) context: &'a Context,
    pub(super) client: &'a Client,
    /// The first control plane first.
    pub(super) nodes: &'a [Node],
    /// The nodes' addresses, in the same order.
    pub(super) addresses: &'a [NodeRecord],
    pub(super) inputs: &'a Inputs<'a>,
    /// If given, only evidence younger than this counts.
    pub(super) since: ready::Since,
    /// How long the nodes may take to be Ready; pods may take as long as the context says.
    pub(super) patience: Duration,
    /// What it has to show: all of it, or as much as it did before.
    pub(super) held: Held,
}

/// How often it is looked whether a static pod keeps ending.
const LOOK: Duration = Duration::from_secs(5);

/// How long what has been Ready may take to be so again.
const AGAIN: Duration = Duration::from_secs(30);

impl Proof<'_> {
    /// What the cluster has to show to be ready.
    pub(super) fn expectation(&self) -> ready::Expectation {
        let control_planes = self.nodes.iter().filter(|node| node.role == Role::ControlPlane);
        ready::Expectation {
            nodes: self.nodes.iter().map(|node| node.name.clone()).collect(),
            control_planes: control_planes.map(|node| node.name.clone()).collect(),
            // Without a CNI neither nodes nor most pods can be ready: the user brings their own.
            pods: !self.inputs.profile.spec.networking.disable_default_cni,
            since: self.since.clone(),
            except: self.held.not_ready.clone(),
            ..ready::Expectation::default()
        }
    }

    /// Waits until every node and every system pod is Ready, and approves the kubelets' serving certificates meanwhile.
    ///
    /// # Errors
    /// [`kubernetes::ApiError::NotReady`] with what is pending.
    pub(super) async fn await_ready(&self) -> Result<(), ClusterError> {
        let spec = &self.inputs.profile.spec;
        let expected = self.expectation();
        let longest = self.context.patience;
        let step = self.context.reporter.stage("Waiting until every node and system pod is Ready");
        let wait = async {
            if !expected.pods {
                return Ok(());
            }
            let ready = async {
                if self.patience < longest {
                    let nodes_only = ready::Expectation { pods: false, ..expected.clone() };
                    ready::wait(self.client, &nodes_only, self.patience, |pending| {
                        step.detail(pending.first().map_or("", String::as_str));
                    })
                    .await?;
                }
                ready::wait(self.client, &expected, longest, |pending| {
                    if let Some(first) = pending.first() {
                        step.detail(&format!("{first} ({} in all)", pending.len()));
                    }
                })
                .await
            };
            tokio::select! {
                ready = ready => ready,
                never = kubernetes::hasten_probes(self.client) => match never {},
                never = kubelets::rouse(self.client, self.nodes) => match never {},
            }
        };
        let held = &self.held;
        let is_ready = |address: &&NodeRecord| !held.not_ready.contains(&format!("node {}", address.name));
        let addresses: Vec<NodeRecord> = self.addresses.iter().filter(is_ready).cloned().collect();
        let approve = async {
            if spec.hardening.kubelet_serving_certificates {
                kubernetes::approve_serving_certificates(self.client, &addresses, longest).await?;
            }
            Ok::<_, kubernetes::ApiError>(())
        };
        let routes_services = spec.networking.kube_proxy_mode != KubeProxyMode::None && held.unseen.is_none();
        let routes = |node: &&Node| routes_services && !held.failed.contains(&verify::kube_proxy_check(&node.name));
        let routing: Vec<Node> = self.nodes.iter().filter(routes).cloned().collect();
        let proxies = async { Ok::<_, ClusterError>(verify::await_kube_proxy(&routing, longest).await?) };
        let (wait, approve) = (wait.map_err(ClusterError::from), approve.map_err(ClusterError::from));
        tokio::select! {
            ready = async { tokio::try_join!(wait, approve, proxies) } => ready.map(|_| ())?,
            error = self.watch_static_pods() => return Err(error),
        }
        // kube-proxy's own rules are there by now: what follows is to prove them, not ours.
        take_away(&stand_ins(self.inputs.profile, self.addresses.first()), self.nodes).await?;
        if spec.hardening.file_modes == FileModes::Restrictive {
            try_join_all(self.nodes.iter().map(verify::restrict_file_modes)).await?;
        }
        step.done();
        Ok(())
    }

    /// Looks at the control planes now and then; ends if a static pod keeps ending.
    async fn watch_static_pods(&self) -> ClusterError {
        // Where something was amiss before, that is no news.
        let watched = if self.held.not_ready.is_empty() { self.nodes } else { &[] };
        let control_planes: Vec<&Node> = watched.iter().filter(|node| node.role == Role::ControlPlane).collect();
        // What has ended before the API server answered may have done so for that.
        let known = join_all(control_planes.iter().map(|node| logs::starts(node))).await;
        loop {
            tokio::time::sleep(LOOK).await;
            for (node, known) in control_planes.iter().zip(&known) {
                if let Some(error) = logs::crash_loop(node, known).await {
                    return error;
                }
            }
        }
    }

    /// Proves that the cluster is what was asked for.
    ///
    /// # Errors
    /// [`verify::VerifyError`] with all that does not hold.
    pub(super) async fn prove(&self) -> Result<verify::Report, ClusterError> {
        let step = self.context.reporter.stage("Verifying");
        let target = verify::Target {
            client: self.client,
            nodes: self.nodes,
            inputs: Some(self.inputs),
            since: self.since.clone(),
        };
        let mut report = verify::verify(&target).await?;
        // Seen of a further control plane: static pods that were Ready were not, a second later. A kubelet that has just been
        // started anew tells what runs before it has begun to probe it (`SyncPod` makes a pod's status before
        // `probeManager.AddPod`).
        if report.failed().iter().any(|check| check == verify::READY && !self.held.failed.contains(check)) {
            // What does not become Ready, the second look tells.
            let _ = ready::wait(self.client, &self.expectation(), AGAIN, |_| {}).await;
            report = verify::verify(&target).await?;
        }
        report.require_but(&self.held.failed)?;
        step.done();
        Ok(report)
    }
}
