//! Bringing Kubernetes up on nodes that have booted.
//!
//! Owns the order in which kubeadm is run and what is waited for. kubeadm stays the
//! authority on what is on a node; what it is told comes from `render`.

mod kubeadm;
mod phased;

use std::time::Duration;

use futures_util::future::try_join_all;
use kube::Client;

use crate::adapters::node::{Node, NodeError};
use crate::adapters::{kubeconfig, kubernetes};
use crate::documents::files::FileEntry;
use crate::documents::keys::KeyError;
use crate::documents::profile::Bootstrap;
use crate::documents::record::NodeRecord;
use crate::documents::render::{self, Inputs, NodeAddresses, NodePlan, NodeStart};

use super::image::ImageFacts;
use super::interim_network::{connect_pods, lay, slower, stand_ins};
use super::{ClusterError, Context, NETWORK, logs};

/// How long kubeadm may take: it waits itself, for several minutes each, for several things.
const KUBEADM: Duration = Duration::from_secs(1200);

/// Where kubeadm's configuration lies on a node.
const KUBEADM_CONFIG: &str = "/kind/kubeadm.conf";

/// A cluster in the making.
pub(super) struct Build<'a> {
    pub(super) context: &'a Context,
    pub(super) inputs: Inputs<'a>,
    pub(super) facts: &'a ImageFacts,
    pub(super) nodes: Vec<Member>,
    /// Where the nodes find the API server, `host:port`.
    pub(super) endpoint: String,
    /// Where this host finds it, an URL.
    pub(super) server: String,
    /// What nodes join by, where they do so by kubeadm.
    pub(super) token: zeroize::Zeroizing<String>,
}

/// A node in the making.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) plan: NodePlan,
    pub(super) node: Node,
}

/// A cluster whose API server answers.
pub(super) struct Up {
    /// Its kubeconfig for this host.
    pub(super) kubeconfig: zeroize::Zeroizing<String>,
    /// A client for it.
    pub(super) client: Client,
}

/// Starts the nodes and brings up Kubernetes on them; ends when every node has joined, not when all is ready.
pub(super) async fn bring_up(build: &Build<'_>) -> Result<Up, ClusterError> {
    match build.inputs.profile.spec.bootstrap {
        // Further control planes join by kubeadm's own protocol.
        Bootstrap::Phased if build.joining(NodeStart::JoinControlPlane).next().is_none() => {
            phased::bring_up(build).await
        }
        Bootstrap::Phased | Bootstrap::Kubeadm => kubeadm::bring_up(build).await,
    }
}

/// A random bootstrap token, `ID.SECRET` of 6 and 16 letters and digits.
///
/// # Errors
/// [`KeyError::Random`] if the system has no randomness.
pub(super) fn new_token() -> Result<zeroize::Zeroizing<String>, ClusterError> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut token = zeroize::Zeroizing::new(String::with_capacity(23));
    while token.len() < 23 {
        let mut byte = [0_u8];
        getrandom::fill(&mut byte).map_err(|error| KeyError::Random(error.to_string()))?;
        if token.len() == 6 {
            token.push('.');
        }
        // The largest multiple of the alphabet's size: each character is as likely as any other.
        if byte[0] < 252 {
            token.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    Ok(token)
}

impl Build<'_> {
    fn init(&self) -> &Member {
        // A profile without a control plane does not get this far.
        &self.nodes[0]
    }

    fn joining(&self, start: NodeStart) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(move |member| member.plan.start() == start)
    }

    /// Starts a node's container and waits for its init system, then tells kubeadm what it is to be.
    async fn boot(&self, member: &Member) -> Result<(), ClusterError> {
        self.boot_with(member, |_| Ok(Vec::new())).await
    }

    /// The same, with more files, which may depend on the node's addresses.
    async fn boot_with(
        &self,
        member: &Member,
        files: impl FnOnce(&NodeAddresses) -> Result<Vec<FileEntry>, ClusterError>,
    ) -> Result<(), ClusterError> {
        let step = self.context.reporter.step(&member.plan.name, "Booting");
        let booted = async {
            self.context.engine.start_container(&member.plan.name).await?;
            let (v4, v6) = member.node.addresses(NETWORK).await?;
            let addresses = NodeAddresses { v4, v6 };
            let start = member.plan.start();
            let config =
                render::kubeadm_config(&self.inputs, &member.plan, start, &addresses, &self.endpoint, &self.token)?;
            let mut files = files(&addresses)?;
            files.push(FileEntry::new(KUBEADM_CONFIG, 0o600, config.as_bytes()));
            member.node.put_files(&files).await?;
            member.node.wait_booted().await?;
            Ok::<_, ClusterError>(())
        };
        match booted.await {
            Ok(()) => {
                step.done();
                Ok(())
            }
            Err(error) => {
                step.fail(&error);
                Err(error)
            }
        }
    }

    /// The kubeconfig and a client for this host, from what kubeadm left on the first control plane.
    async fn connect(&self) -> Result<Up, ClusterError> {
        let admin = self.init().node.read_text("/etc/kubernetes/admin.conf").await?;
        let kubeconfig = kubeconfig::for_cluster(&admin, self.inputs.cluster, &self.server)?;
        let client = kubernetes::client(&kubeconfig).await?;
        Ok(Up { kubeconfig, client })
    }

    /// The nodes' addresses on the clusters' network.
    pub(super) async fn addresses(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        try_join_all(self.nodes.iter().map(async |member| {
            let (ipv4, ipv6) = member.node.addresses(NETWORK).await?;
            Ok(NodeRecord { name: member.plan.name.clone(), ipv4, ipv6 })
        }))
        .await
    }

    /// Connects the nodes, as the CNI and kube-proxy will a little later. Waits until there are pod subnets.
    async fn connect_nodes(&self, client: &Client) -> Result<(), ClusterError> {
        let nodes: Vec<Node> = self.nodes.iter().map(|member| member.node.clone()).collect();
        let addresses = self.addresses().await?;
        let mut failed = lay(&stand_ins(self.inputs.profile, addresses.first()), &nodes).await;
        if self.facts.has_kindnet() && !self.inputs.profile.spec.networking.disable_default_cni {
            failed.extend(connect_pods(client, self.inputs.templates, &nodes, &addresses).await);
        }
        slower(self.context, &failed);
        Ok(())
    }

    /// Applies the image's CNI and storage class.
    async fn addons(&self, client: &Client) -> Result<(), ClusterError> {
        let networking = &self.inputs.profile.spec.networking;
        if !networking.disable_default_cni
            && let Some(manifest) = self.facts.cni_manifest(networking.pod_subnet())
        {
            kubernetes::apply(client, "CNI", &manifest).await?;
        }
        if let Some(manifest) = &self.facts.storage {
            kubernetes::apply(client, "storage class", manifest).await?;
        }
        Ok(())
    }

    /// Runs kubeadm; if it fails because the API server did not come up, says what the API server said.
    async fn kubeadm(&self, member: &Member, arguments: &[&str]) -> Result<(), ClusterError> {
        let command: Vec<&str> = std::iter::once("kubeadm").chain(arguments.iter().copied()).collect();
        match member.node.patient(KUBEADM).output(&command, None).await {
            Ok(_) => Ok(()),
            Err(error @ NodeError::Command { .. }) if member.plan.start() == NodeStart::Init => {
                Err(self.explain(member, error).await)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn explain(&self, member: &Member, error: NodeError) -> ClusterError {
        let ready = member.node.command_line("kube-apiserver").await.ok().flatten().is_some();
        match logs::api_server_last_lines(&member.node).await {
            Some(last_lines) if !ready => {
                ClusterError::ApiServer { node: member.plan.name.clone(), last_lines, cause: error.to_string() }
            }
            _ => error.into(),
        }
    }

    /// Whether the image holds a DNS server for the cluster; some do not.
    async fn has_dns(&self, node: &Node) -> Result<bool, ClusterError> {
        // A node whose boot has been seen may still be starting containerd.
        let script = "n=0; until ctr version >/dev/null 2>&1 || [ $n -ge 300 ]; do n=$((n+1)); sleep 0.1; done; \
                      exec ctr --namespace k8s.io images ls -q";
        let images = node.script("listing images", script).await?;
        Ok(images.lines().any(|image| image.contains("/coredns")))
    }
}
