//! Waiting until the nodes of a state are again what they were, and proving it.

use std::time::Duration;

use futures_util::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::kubeconfig;
use crate::adapters::kubernetes::{self, ApiError, ready};
use crate::adapters::node::{Node, NodeError};
use crate::adapters::states::SnapshotError;
use crate::documents::files::Tarball;
use crate::documents::profile::Role;
use crate::documents::record::NodeRecord;
use crate::documents::snapshot::{Held, file, unpack};
use crate::operations::verify::Report;

use super::super::capture;
use super::super::interim_network::{connect_pods, lay, slower, stand_ins};
use super::super::prove::{Proof, READY};
use super::super::reach::server_url;
use super::super::{ClusterError, Context};
use super::Prepared;
use super::nodes::{late_part, start_kubelet};

/// How long an API server may take to answer.
const API: Duration = Duration::from_secs(120);

/// How often it is asked.
const ASK: Duration = Duration::from_millis(50);

/// How long a kubelet that was there before the API server may take to notice it.
const NOTICE: Duration = Duration::from_secs(2);

/// What has come back.
pub(super) struct Back {
    pub(super) report: Report,
    pub(super) kubeconfig: Zeroizing<String>,
    pub(super) warnings: Vec<String>,
}

/// Nodes of a state that have been started in their places.
struct Returning<'a> {
    context: &'a Context,
    state: &'a Prepared,
    nodes: Vec<Node>,
    addresses: &'a [NodeRecord],
    client: Client,
    /// What held when the state was read, and has to hold again.
    held: Held,
}

/// Waits until all that held when the state was read holds again, on evidence younger than `since`.
///
/// # Errors
/// [`ClusterError::Api`] or [`ClusterError::Verify`] with what does not hold.
pub(super) async fn bring_back(
    context: &Context,
    state: &Prepared,
    addresses: &[NodeRecord],
    since: Timestamp,
) -> Result<Back, ClusterError> {
    let kubeconfig = kubeconfig_of(state)?;
    let nodes = state.nodes.iter().map(|(plan, _)| Node::new(context.engine.clone(), &plan.name, plan.role)).collect();
    let client = kubernetes::client(&kubeconfig).await?;
    let held = state.held.clone().unwrap_or_default();
    let back = Returning { context, state, nodes, addresses, client, held };
    back.boot().await?;
    let warnings = back.held.warnings();
    for warning in &warnings {
        context.reporter.warn(warning);
    }
    if !back.held.api_server {
        back.leave_alone().await?;
        return Ok(Back { report: Report::default(), kubeconfig, warnings });
    }
    back.answer().await?;
    let report = back.prove(since).await?;
    Ok(Back { report, kubeconfig, warnings })
}

/// The kubeconfig of a state's cluster, for this host.
///
/// # Errors
/// [`ClusterError::Kubeconfig`] or [`ClusterError::Snapshot`] if the state has none that kubeadm would write.
pub(super) fn kubeconfig_of(state: &Prepared) -> Result<Zeroizing<String>, ClusterError> {
    let record = &state.record;
    let (first, archive) = state.nodes.first().ok_or(ClusterError::None)?;
    let admin = file(archive, kubeconfig::ADMIN).ok_or_else(|| SnapshotError::Archive {
        node: first.name.clone(),
        reason: format!("it has no {}", kubeconfig::ADMIN),
    })?;
    let server = server_url(&record.profile, record.api_server_port);
    Ok(kubeconfig::for_cluster(&String::from_utf8_lossy(&admin), &record.name, &server)?)
}

impl Returning<'_> {
    fn archives(&self) -> impl Iterator<Item = (&Node, &Tarball)> {
        self.nodes.iter().zip(self.state.nodes.iter().map(|(_, archive)| archive))
    }

    /// Waits until all nodes have booted, and starts the kubelets of control planes.
    async fn boot(&self) -> Result<(), ClusterError> {
        let step = self.context.reporter.stage("Booting");
        try_join_all(self.archives().map(async |(node, archive)| {
            node.wait_booted().await?;
            if node.role == Role::ControlPlane {
                start_kubelet(node, archive).await?;
            }
            Ok::<_, NodeError>(())
        }))
        .await?;
        step.done();
        Ok(())
    }

    /// Gives the nodes the rest of the state, and does no more: there was no API server that would have answered.
    async fn leave_alone(&self) -> Result<(), ClusterError> {
        try_join_all(self.archives().map(|(node, archive)| late_part(node, archive))).await?;
        self.import_images().await
    }

    /// Puts images that were loaded into nodes into them again.
    async fn import_images(&self) -> Result<(), ClusterError> {
        try_join_all(self.nodes.iter().map(async |node| {
            let Some((_, images)) = self.state.images.iter().find(|(name, _)| *name == node.name) else {
                return Ok(());
            };
            let tar = unpack(images).map_err(|reason| SnapshotError::Archive { node: node.name.clone(), reason })?;
            let node = node.patient(capture::LONG);
            node.output(&["ctr", "--namespace", "k8s.io", "images", "import", "-"], Some(tar)).await?;
            Ok(())
        }))
        .await
        .map(|_: Vec<()>| ())
    }

    /// Waits until the API server answers, and gives the nodes what had to wait for it.
    async fn answer(&self) -> Result<(), ClusterError> {
        let step = self.context.reporter.stage("Waiting until the API server answers");
        let ways = stand_ins(&self.state.record.profile, self.addresses.first());
        slower(self.context, &lay(&ways, &self.nodes).await);
        let answers = async {
            while !kubernetes::has_roles(&self.client).await {
                tokio::time::sleep(ASK).await;
            }
            try_join_all(self.archives().map(|(node, archive)| late_part(node, archive))).await?;
            while !kubernetes::is_ready(&self.client).await {
                tokio::time::sleep(ASK).await;
            }
            Ok::<_, ClusterError>(())
        };
        let answers = async {
            tokio::time::timeout(API, answers).await.map_err(|_| ApiError::NotReady {
                seconds: API.as_secs(),
                pending: vec!["the API server has not answered".to_owned()],
            })?
        };
        tokio::try_join!(answers, self.import_images())?;
        step.done();
        Ok(())
    }

    /// Waits until all is ready that was, and proves what held.
    async fn prove(&self, since: Timestamp) -> Result<Report, ClusterError> {
        let Self { context, state, .. } = self;
        let record = &state.record;
        let info = context.engine.info().await?;
        let inputs = record.inputs(&state.version, state.keys.as_ref(), &context.templates, info.cgroup_version == "1");
        let proof = Proof {
            context,
            client: &self.client,
            nodes: &self.nodes,
            addresses: self.addresses,
            inputs: &inputs,
            since: Some(since),
            patience: READY,
            held: self.held.clone(),
        };
        if !record.profile.spec.networking.disable_default_cni {
            self.await_nodes(&ready::Expectation { pods: false, ..proof.expectation() }).await?;
        }
        let connect = async {
            if state.has_kindnet && !record.profile.spec.networking.disable_default_cni {
                let connected = connect_pods(&self.client, &context.templates, &self.nodes, self.addresses).await;
                slower(context, &connected);
            }
            Ok(())
        };
        tokio::try_join!(proof.await_ready(), connect)?;
        if self.held.unseen.is_some() { Ok(Report::default()) } else { proof.prove().await }
    }

    /// Waits until every node is Ready.
    async fn await_nodes(&self, expected: &ready::Expectation) -> Result<(), ClusterError> {
        let step = self.context.reporter.stage("Waiting until every node is Ready again");
        let show = |pending: &[String]| step.detail(pending.first().map_or("", String::as_str));
        if ready::wait(&self.client, expected, NOTICE, show).await.is_err() {
            // One that started before the API server may sit in a long pause; a new one does not.
            let control_planes = self.nodes.iter().filter(|node| node.role == Role::ControlPlane);
            try_join_all(control_planes.map(|node| node.run(&["systemctl", "restart", "kubelet"]))).await?;
            ready::wait(&self.client, expected, READY, show).await?;
        }
        step.done();
        Ok(())
    }
}
