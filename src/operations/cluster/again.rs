//! Nodes that run again, restored or started: waiting until they are what they were.
//!
//! Owns what makes that quick. What the nodes need before their API server answers is its callers' affair.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use kube::Client;

use crate::adapters::kubernetes::{self, ApiError, ready};
use crate::adapters::node::Node;
use crate::documents::keys::KeyRing;
use crate::documents::profile::Role;
use crate::documents::record::{NodeRecord, Record};
use crate::documents::render::KubernetesVersion;
use crate::documents::snapshot::Held;
use crate::operations::verify::Report;

use super::interim_network::{connect_pods, lay, slower, stand_ins};
use super::prove::Proof;
use super::{ClusterError, Context, kubelets};

/// How long an API server may take to answer.
const API: Duration = Duration::from_secs(120);

/// How often it is asked.
const ASK: Duration = Duration::from_millis(50);

/// How long the API's own service may lead elsewhere: an API server's entry there expires after 15 s, and is looked for every ten
/// (`pkg/controlplane/reconcilers`).
const SERVICE_LEADS: Duration = Duration::from_secs(40);

/// How often it is looked at.
const SERVICE: Duration = Duration::from_millis(500);

/// How long a kubelet that was there before the API server may take to notice it, and to come to its pods.
const NOTICE: Duration = Duration::from_secs(2);

/// The same of several control planes, which share the processors: a kubelet that has just been started needs longer, and is not
/// to be started again.
const NOTICE_OF_SEVERAL: Duration = Duration::from_secs(6);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(500);

/// Where a kubelet has a folder for each pod that it knows, by the pod's id.
const PODS: &str = "/var/lib/kubelet/pods";

/// A cluster whose nodes have booted again.
pub(super) struct Again<'a> {
    pub(super) context: &'a Context,
    pub(super) record: &'a Record,
    pub(super) version: &'a KubernetesVersion,
    pub(super) keys: Option<&'a KeyRing>,
    /// Whether its CNI is kind's.
    pub(super) has_kindnet: bool,
    /// The first control plane first.
    pub(super) nodes: &'a [Node],
    /// The nodes' addresses, in the same order.
    pub(super) addresses: &'a [NodeRecord],
    pub(super) client: &'a Client,
    /// What has to hold again.
    pub(super) held: &'a Held,
}

impl Again<'_> {
    /// Waits until the API server is ready. `late` is done as soon as it answers at all.
    ///
    /// # Errors
    /// [`ApiError::NotReady`] if it is not in good time, and whatever `late` says.
    pub(super) async fn answer(
        &self,
        late: impl Future<Output = Result<(), ClusterError>>,
    ) -> Result<(), ClusterError> {
        let step = self.context.reporter.stage("Waiting until the API server answers");
        let ways = stand_ins(&self.record.profile, self.addresses.first());
        slower(self.context, &lay(&ways, self.nodes).await);
        let answers = async {
            while !(kubernetes::lets_controllers_in(self.client).await || kubernetes::has_roles(self.client).await) {
                tokio::time::sleep(ASK).await;
            }
            late.await?;
            while !kubernetes::is_ready(self.client).await {
                tokio::time::sleep(ASK).await;
            }
            Ok::<_, ClusterError>(())
        };
        tokio::time::timeout(API, answers).await.map_err(|_| ApiError::NotReady {
            seconds: API.as_secs(),
            pending: vec!["the API server has not answered".to_owned()],
        })??;
        step.done();
        Ok(())
    }

    /// Waits until all is Ready that was, on evidence younger than `since`.
    ///
    /// # Errors
    /// [`ApiError::NotReady`] with what is pending, [`ClusterError::StaticPod`] for one that keeps ending.
    pub(super) async fn await_ready(&self, since: ready::Since) -> Result<(), ClusterError> {
        self.with_proof(since, async |proof| self.ready(proof).await).await
    }

    /// The same, and proves what held.
    ///
    /// # Errors
    /// Those of [`Self::await_ready`], [`ClusterError::Verify`] with what does not hold.
    pub(super) async fn prove(&self, since: ready::Since) -> Result<Report, ClusterError> {
        let prove = async |proof: &Proof<'_>| {
            self.ready(proof).await?;
            if self.held.unseen.is_some() { Ok(Report::default()) } else { proof.prove().await }
        };
        self.with_proof(since, prove).await
    }

    async fn with_proof<T>(
        &self,
        since: ready::Since,
        work: impl AsyncFnOnce(&Proof<'_>) -> Result<T, ClusterError>,
    ) -> Result<T, ClusterError> {
        let Self { context, record, version, keys, .. } = *self;
        let cgroup_v1 = context.engine.info().await?.cgroup_version == "1";
        let inputs = record.inputs(version, keys, &context.templates, cgroup_v1);
        let proof = Proof {
            context,
            client: self.client,
            nodes: self.nodes,
            addresses: self.addresses,
            inputs: &inputs,
            since,
            patience: context.patience,
            held: self.held.clone(),
        };
        work(&proof).await
    }

    async fn ready(&self, proof: &Proof<'_>) -> Result<(), ClusterError> {
        let Self { context, record, .. } = *self;
        let networking = &record.profile.spec.networking;
        if !networking.disable_default_cni {
            self.await_nodes(&ready::Expectation { pods: false, ..proof.expectation() }).await?;
        }
        let connect = async {
            if self.has_kindnet && !networking.disable_default_cni {
                let connected = connect_pods(self.client, &context.templates, self.nodes, self.addresses).await;
                slower(context, &connected);
            }
            Ok(())
        };
        tokio::try_join!(proof.await_ready(), connect, self.await_own_service(), self.rouse())?;
        Ok(())
    }

    /// Starts kubelets anew that do not come to any of their pods. They ask for those apart from all else, and one that has
    /// done so in vain, a moment before there was an API server, may wait ten seconds and more, while its node is Ready.
    async fn rouse(&self) -> Result<(), ClusterError> {
        let assigned = ready::assigned(self.client).await?;
        let mut idle: Vec<&Node> = self.nodes.iter().filter(|node| assigned.contains_key(&node.name)).collect();
        let begun = Instant::now();
        while !idle.is_empty() && begun.elapsed() < NOTICE {
            tokio::time::sleep(LOOK).await;
            let known = join_all(idle.iter().map(|node| node.run(&["ls", PODS]))).await;
            let knows = |node: &Node, folders: &str| {
                assigned.get(&node.name).is_some_and(|pods| folders.lines().any(|folder| pods.contains(folder)))
            };
            // One that cannot be asked is not known to be idle.
            let pairs = idle.into_iter().zip(known);
            idle = pairs.filter_map(|(node, known)| (!knows(node, &known.ok()?)).then_some(node)).collect();
        }
        Ok(kubelets::start_anew(idle).await?)
    }

    /// Waits until the API's own service leads to the control planes and nowhere else. Where they have other addresses than
    /// before, it leads to those from before, too, until what etcd has of them expires; not for long.
    async fn await_own_service(&self) -> Result<(), ClusterError> {
        let roles = self.nodes.iter().zip(self.addresses).filter(|(node, _)| node.role == Role::ControlPlane);
        let own: Vec<IpAddr> =
            roles.flat_map(|(_, at)| [at.ipv4.map(IpAddr::from), at.ipv6.map(IpAddr::from)]).flatten().collect();
        let leads = async {
            while !kubernetes::own_service(self.client)
                .await
                .is_ok_and(|to| !to.is_empty() && to.iter().all(|to| own.contains(to)))
            {
                tokio::time::sleep(SERVICE).await;
            }
        };
        // `verify` tells what is wrong then.
        let _ = tokio::time::timeout(SERVICE_LEADS, leads).await;
        Ok(())
    }

    /// Waits until every node is Ready.
    async fn await_nodes(&self, expected: &ready::Expectation) -> Result<(), ClusterError> {
        let step = self.context.reporter.stage("Waiting until every node is Ready again");
        let show = |pending: &[String]| step.detail(pending.first().map_or("", String::as_str));
        let control_planes = || self.nodes.iter().filter(|node| node.role == Role::ControlPlane);
        let notice = if control_planes().count() > 1 { NOTICE_OF_SEVERAL } else { NOTICE };
        if ready::wait(self.client, expected, notice, show).await.is_err() {
            // One that started before the API server may sit in a long pause; a new one does not.
            let pending = ready::not_ready(expected, &ready::observe(self.client).await?);
            let idle = control_planes().filter(|node| pending.contains(&format!("node {}", node.name)));
            try_join_all(idle.map(|node| node.run(&["systemctl", "restart", "kubelet"]))).await?;
            ready::wait(self.client, expected, self.context.patience, show).await?;
        }
        step.done();
        Ok(())
    }
}
