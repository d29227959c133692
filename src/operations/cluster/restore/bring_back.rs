//! Waiting until the nodes of a state are again what they were, and proving it.

use futures_util::future::try_join_all;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::kubeconfig;
use crate::adapters::kubernetes;
use crate::adapters::node::{Node, NodeError};
use crate::adapters::states::SnapshotError;
use crate::documents::files::Tarball;
use crate::documents::profile::Role;
use crate::documents::record::{NodeRecord, Record};
use crate::documents::render::{NodePlan, NodeStart};
use crate::documents::snapshot::{Held, file, unpack};
use crate::operations::verify::Report;

use super::super::again::Again;
use super::super::capture;
use super::super::reach::server_url;
use super::super::{ClusterError, Context};
use super::Prepared;
use super::nodes::{complete, late_part, start_kubelet};

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
    let report = back.prove(since).await?;
    Ok(Back { report, kubeconfig, warnings })
}

/// The kubeconfig of a state's cluster, for this host.
///
/// # Errors
/// [`ClusterError::Snapshot`] if the state has none that kubeadm would write.
pub(super) fn kubeconfig_of(state: &Prepared) -> Result<Zeroizing<String>, ClusterError> {
    let (first, archive) = state.nodes.first().ok_or(ClusterError::None)?;
    let admin = file(archive, kubeconfig::ADMIN);
    Ok(access(&state.record, &first.name, admin.as_deref().map(Vec::as_slice))?)
}

/// The kubeconfig by which this host reaches a cluster, from the one that its first node has.
///
/// # Errors
/// [`SnapshotError::Archive`] if it has none, or not one that kubeadm would write.
pub(in crate::operations::cluster) fn access(
    record: &Record,
    node: &str,
    admin: Option<&[u8]>,
) -> Result<Zeroizing<String>, SnapshotError> {
    let fail = |reason: String| SnapshotError::Archive { node: node.to_owned(), reason };
    let admin = admin.ok_or_else(|| fail(format!("it has no {}", kubeconfig::ADMIN)))?;
    let server = server_url(&record.profile, record.api_server_port);
    kubeconfig::for_cluster(&String::from_utf8_lossy(admin), &record.name, &server)
        .map_err(|error| fail(error.to_string()))
}

impl Returning<'_> {
    fn parts(&self) -> impl Iterator<Item = (&Node, &NodePlan, &Tarball)> {
        self.nodes.iter().zip(&self.state.nodes).map(|(node, (plan, archive))| (node, plan, archive))
    }

    /// Whether a control plane's API server was ready when the state was read.
    fn serves(&self, node: &Node) -> bool {
        let missing = [format!("node {}", node.name), format!("pod kube-apiserver-{}", node.name)];
        !missing.iter().any(|what| self.held.not_ready.contains(what))
    }

    /// Waits until all nodes have booted, and starts the kubelets of control planes.
    async fn boot(&self) -> Result<(), ClusterError> {
        let step = self.context.reporter.stage("Booting");
        let first_serves = self.nodes.first().is_some_and(|first| self.serves(first));
        try_join_all(self.parts().map(async |(node, plan, archive)| {
            node.wait_booted().await?;
            if node.role == Role::ControlPlane {
                start_kubelet(node, archive).await?;
                // Where the first API server never comes, the others do not wait for it.
                if !first_serves {
                    late_part(node, plan, archive).await?;
                }
            }
            Ok::<_, NodeError>(())
        }))
        .await?;
        step.done();
        Ok(())
    }

    /// Gives the nodes the rest of the state, and does no more: there was no API server that would have answered.
    async fn leave_alone(&self) -> Result<(), ClusterError> {
        try_join_all(self.parts().map(|(node, plan, archive)| late_part(node, plan, archive))).await?;
        self.import_images().await
    }

    /// Gives the nodes what had to wait for the API server, and takes away what makes their controllers wait: in a state, somebody
    /// leads who is no more.
    async fn late(&self) -> Result<(), ClusterError> {
        let parts = try_join_all(self.parts().map(|(node, plan, archive)| late_part(node, plan, archive)));
        let (parts, unled) = tokio::join!(parts, kubernetes::forget_leaders(&self.client));
        if let Err(error) = unled {
            let reason =
                format!("the controllers wait until their leader's lease has ended, so this takes longer: {error}");
            self.context.reporter.warn(&reason);
        }
        parts?;
        Ok(())
    }

    /// Waits for the API servers of further control planes, which the first one's did not have to share the processors with, where
    /// their kubelets do.
    async fn complete(&self) -> Result<(), ClusterError> {
        if !self.state.version.kubelet_asks_own_api_server() {
            return Ok(());
        }
        let further = self.parts().filter(|(_, plan, _)| plan.start() == NodeStart::JoinControlPlane);
        let further: Vec<&Node> = further.map(|(node, ..)| node).filter(|node| self.serves(node)).collect();
        if further.is_empty() {
            return Ok(());
        }
        let step = self.context.reporter.stage("Waiting for the other API servers");
        try_join_all(further.into_iter().map(complete)).await?;
        step.done();
        Ok(())
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

    /// Waits until the API server answers, gives the nodes what had to wait for it, and proves what held.
    async fn prove(&self, since: Timestamp) -> Result<Report, ClusterError> {
        let Self { context, state, nodes, addresses, client, held } = self;
        let again = Again {
            context,
            record: &state.record,
            version: &state.version,
            keys: state.keys.as_ref(),
            has_kindnet: state.has_kindnet,
            nodes,
            addresses,
            client,
            held,
        };
        tokio::try_join!(again.answer(self.late()), self.import_images())?;
        self.complete().await?;
        again.prove(kubernetes::ready::Since::Then(since)).await
    }
}
