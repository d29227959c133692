//! Bringing Kubernetes up on nodes that have booted.
//!
//! Owns the order in which kubeadm is run and what is waited for. kubeadm stays the
//! authority on what is on a node; what it is told comes from `render`.

mod control_planes;
mod kubeadm;
mod phased;

use std::time::Duration;

use futures_util::future::try_join_all;
use kube::Client;

use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::{Node, NodeError};
use crate::adapters::{kubeconfig, kubernetes};
use crate::documents::files::FileEntry;
use crate::documents::keys::KeyError;
use crate::documents::profile::{Bootstrap, Profile, Role};
use crate::documents::record::NodeRecord;
use crate::documents::render::{self, Inputs, NodeAddresses, NodePlan, NodeStart};

use super::image::ImageFacts;
use super::interim_network::{connect_pods, lay, slower, stand_ins};
use super::{ClusterError, Context, kms, logs};

/// How long kubeadm may take: it waits itself, for several minutes each, for several things.
const KUBEADM: Duration = Duration::from_secs(1200);

/// How often kprov checks whether something has given up, and when first: by then a healthy one is mostly up.
const LOOK: Duration = Duration::from_secs(4);

/// Where kubeadm's configuration lies on a node.
const KUBEADM_CONFIG: &str = "/kind/kubeadm.conf";

const LIST_IMAGES: &str = include_str!("scripts/list_images.sh");

/// How Kubernetes is brought up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By kubeadm's phases, ordered here.
    Phased,
    /// By kubeadm itself, with kprov's shortcuts beside it.
    Kubeadm,
    /// As kind does it, and nothing else: for what the others do not know.
    Plain,
}

impl Way {
    /// The way that a profile asks for.
    pub(super) fn of(profile: &Profile) -> Self {
        // What patches of its configuration ask for is kubeadm's to know.
        if profile.spec.patches_kubeadm() {
            return Self::Kubeadm;
        }
        match profile.spec.bootstrap {
            Bootstrap::Auto | Bootstrap::Phased => Self::Phased,
            Bootstrap::Kubeadm => Self::Kubeadm,
        }
    }

    /// Whether another way is taken where this one meets something that it does not know.
    pub(super) fn can_fall_back(self, profile: &Profile) -> bool {
        self != Self::Plain && profile.spec.bootstrap == Bootstrap::Auto
    }

    /// Whether an error may come of what this way relies on and [`Way::Plain`] does not.
    pub(super) fn may_be_why(self, error: &ClusterError) -> bool {
        match self {
            Self::Phased => error.is_unfamiliar(),
            // Here it is kubeadm that makes the nodes, and where it fails it fails again.
            Self::Kubeadm => {
                matches!(error, ClusterError::Api(ApiError::Manifest { .. } | ApiError::Request { .. }))
            }
            Self::Plain => false,
        }
    }
}

/// A cluster in the making.
pub(super) struct Build<'a> {
    pub(super) context: &'a Context,
    pub(super) inputs: Inputs<'a>,
    pub(super) facts: &'a ImageFacts,
    pub(super) way: Way,
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
    match build.way {
        Way::Phased => phased::bring_up(build).await,
        Way::Kubeadm | Way::Plain => kubeadm::bring_up(build).await,
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

/// Looks at a node's kubelet now and then; ends if that keeps ending.
async fn watch_kubelet(node: &Node) -> ClusterError {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(error) = logs::kubelet_loop(node).await {
            return error;
        }
    }
}

impl Build<'_> {
    fn init(&self) -> &Member {
        // A profile without a control plane does not get this far.
        &self.nodes[0]
    }

    /// The first one first.
    fn control_planes(&self) -> Vec<&Member> {
        self.nodes.iter().filter(|member| member.plan.role == Role::ControlPlane).collect()
    }

    fn joining(&self, start: NodeStart) -> impl Iterator<Item = &Member> {
        self.nodes.iter().filter(move |member| member.plan.start() == start)
    }

    /// What kubeadm reads on a node, if that is to start so.
    fn config_file(
        &self,
        member: &Member,
        path: &str,
        start: NodeStart,
        addresses: &NodeAddresses,
    ) -> Result<FileEntry, ClusterError> {
        let config = render::kubeadm_config(&self.inputs, &member.plan, start, addresses, &self.endpoint, &self.token)?;
        Ok(FileEntry::new(path, 0o600, config.as_bytes()))
    }

    /// Starts a node's container and waits for its init system, then tells kubeadm what it is to be.
    async fn boot(&self, member: &Member) -> Result<(), ClusterError> {
        self.boot_with(member, |_| Ok(Vec::new())).await.map(|_| ())
    }

    /// The same, with more files, which may depend on the node's addresses. Gives those.
    async fn boot_with(
        &self,
        member: &Member,
        files: impl FnOnce(&NodeAddresses) -> Result<Vec<FileEntry>, ClusterError>,
    ) -> Result<NodeAddresses, ClusterError> {
        let step = self.context.reporter.step(&member.plan.name, "Booting");
        let booted = async {
            self.context.engine.start_container(&member.plan.name).await?;
            let (v4, v6) = member.node.addresses(self.network()).await?;
            let addresses = NodeAddresses { v4, v6 };
            let mut files = files(&addresses)?;
            files.push(self.config_file(member, KUBEADM_CONFIG, member.plan.start(), &addresses)?);
            member.node.put_files(&files).await?;
            member.node.wait_booted().await?;
            kms::ask_host(self.inputs.profile, &member.node).await?;
            Ok::<_, ClusterError>(addresses)
        };
        match booted.await {
            Ok(addresses) => {
                step.done();
                Ok(addresses)
            }
            Err(error) => {
                step.fail(&error);
                Err(error)
            }
        }
    }

    /// The kubeconfig and a client for this host, from what kubeadm left on the first control plane.
    async fn connect(&self) -> Result<Up, ClusterError> {
        let admin = self.init().node.read_text(kubeconfig::ADMIN).await?;
        let kubeconfig = kubeconfig::for_cluster(&admin, self.inputs.cluster, &self.server)?;
        let client = kubernetes::client(&kubeconfig).await?;
        Ok(Up { kubeconfig, client })
    }

    fn network(&self) -> &str {
        self.inputs.profile.spec.networking.docker_network()
    }

    /// The nodes' addresses on the clusters' network.
    pub(super) async fn addresses(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        try_join_all(self.nodes.iter().map(async |member| {
            let (ipv4, ipv6) = member.node.addresses(self.network()).await?;
            Ok(NodeRecord { name: member.plan.name.clone(), ipv4, ipv6 })
        }))
        .await
    }

    /// Connects the nodes, as the CNI and kube-proxy will a little later. Waits until there are pod subnets.
    async fn connect_nodes(&self, client: &Client) -> Result<(), ClusterError> {
        if self.way == Way::Plain {
            return Ok(());
        }
        let nodes: Vec<Node> = self.nodes.iter().map(|member| member.node.clone()).collect();
        let addresses = self.addresses().await?;
        let mut failed = lay(&stand_ins(self.inputs.profile, addresses.first()), &nodes).await;
        if self.facts.has_kindnet() && !self.inputs.profile.spec.networking.disable_default_cni {
            // Further control planes register some seconds after all others, whose pods need not wait for them.
            let first = |index: &usize| self.nodes[*index].plan.start() != NodeStart::JoinControlPlane;
            let first: Vec<usize> = (0..nodes.len()).filter(first).collect();
            if first.len() < nodes.len() && self.way == Way::Phased {
                let (nodes, addresses): (Vec<Node>, Vec<NodeRecord>) =
                    first.iter().map(|index| (nodes[*index].clone(), addresses[*index].clone())).unzip();
                failed.extend(connect_pods(client, self.inputs.templates, &nodes, &addresses).await);
            }
            failed.extend(connect_pods(client, self.inputs.templates, &nodes, &addresses).await);
        }
        slower(self.context, &failed);
        Ok(())
    }

    /// Applies the image's CNI and storage class.
    async fn addons(&self, client: &Client) -> Result<(), ClusterError> {
        let networking = &self.inputs.profile.spec.networking;
        if !networking.disable_default_cni
            && let Some(manifest) = &self.facts.cni
        {
            let manifest = render::cni_manifest(manifest, networking.pod_subnet(), &self.endpoint)
                .map_err(|error| ApiError::Manifest { name: "CNI".to_owned(), reason: error.to_string() })?;
            self.apply(client, "CNI", &manifest).await?;
        }
        if let Some(manifest) = &self.facts.storage {
            self.apply(client, "storage class", manifest).await?;
        }
        Ok(())
    }

    async fn apply(&self, client: &Client, what: &str, manifest: &str) -> Result<(), ClusterError> {
        if self.way != Way::Plain {
            return Ok(kubernetes::apply(client, what, manifest).await?);
        }
        // By the image's own tool, which takes whatever was written for it.
        let command = ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "apply", "--filename=-"];
        let manifest = zeroize::Zeroizing::new(manifest.as_bytes().to_vec());
        self.init().node.output(&command, Some(manifest)).await?;
        Ok(())
    }

    /// Runs kubeadm; if it fails because a part of the control plane did not come up, says what that one said.
    async fn kubeadm(&self, member: &Member, arguments: &[&str]) -> Result<(), ClusterError> {
        let command: Vec<&str> = std::iter::once("kubeadm").chain(arguments.iter().copied()).collect();
        let node = member.node.patient(KUBEADM);
        let run = node.output(&command, None);
        let ended = tokio::select! {
            ended = run => ended,
            // kubeadm waits for minutes for a kubelet that will never run.
            error = watch_kubelet(&member.node) => return Err(error),
        };
        match ended {
            Ok(_) => Ok(()),
            Err(error @ NodeError::Command { .. }) if member.plan.role == Role::ControlPlane => {
                Err(self.explain(member, error).await)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn explain(&self, member: &Member, error: NodeError) -> ClusterError {
        if let Some(error) = logs::crash_loop(&member.node, "").await {
            return error;
        }
        match logs::silent(&member.node).await {
            Some((component, last_lines)) => ClusterError::StaticPod {
                node: member.plan.name.clone(),
                component,
                last_lines,
                cause: error.to_string(),
            },
            None => error.into(),
        }
    }

    /// Runs a script of kubeadm's phases; if it fails where a part of the control plane does not run, says what that one said.
    async fn phase(&self, member: &Member, what: &str, script: &str) -> Result<(), ClusterError> {
        match member.node.script(what, script).await {
            Ok(_) => Ok(()),
            Err(error) => Err(logs::with_last_words(&member.node, error).await.into()),
        }
    }

    /// Whether the image holds a DNS server for the cluster; some do not.
    async fn has_dns(&self, node: &Node) -> Result<bool, ClusterError> {
        if self.way == Way::Plain {
            // Whether it is there or comes from a registry is kubeadm's and the kubelet's affair.
            return Ok(true);
        }
        let images = node.script("listing images", LIST_IMAGES).await?;
        Ok(images.lines().any(|image| image.contains("/coredns")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(bootstrap: Option<&str>, control_planes: u32) -> Profile {
        let mut spec = serde_json::json!({"nodes": [{"role": "control-plane", "count": control_planes}]});
        if let Some(bootstrap) = bootstrap {
            spec["bootstrap"] = bootstrap.into();
        }
        serde_json::from_value(serde_json::json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "test"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn only_who_names_no_way_gets_another_one() {
        for (bootstrap, control_planes, patch, way, falls_back) in [
            (None, 1, None, Way::Phased, true),
            (Some("auto"), 1, None, Way::Phased, true),
            (Some("phased"), 1, None, Way::Phased, false),
            (Some("kubeadm"), 1, None, Way::Kubeadm, false),
            (None, 3, None, Way::Phased, true),
            (Some("phased"), 3, None, Way::Phased, false),
            (Some("kubeadm"), 3, None, Way::Kubeadm, false),
            (None, 1, Some("kind: ClusterConfiguration"), Way::Kubeadm, true),
            (Some("kubeadm"), 1, Some("kind: ClusterConfiguration"), Way::Kubeadm, false),
        ] {
            let mut profile = profile(bootstrap, control_planes);
            profile.spec.kubeadm_config_patches.extend(patch.map(str::to_owned));
            assert_eq!(Way::of(&profile), way, "{bootstrap:?} {control_planes}");
            assert_eq!(Way::of(&profile).can_fall_back(&profile), falls_back, "{bootstrap:?} {control_planes}");
        }
    }

    #[test]
    fn where_kubeadm_fails_it_is_not_asked_again() {
        let command = || {
            ClusterError::from(NodeError::Command {
                node: "n".to_owned(),
                command: "kubeadm init".to_owned(),
                code: 1,
                last_lines: String::new(),
            })
        };
        let list = || ClusterError::Api(ApiError::Manifest { name: "CNI".to_owned(), reason: "odd".to_owned() });
        let late = || ClusterError::Api(ApiError::NotReady { seconds: 1, pending: Vec::new() });
        for (way, manifest, failed, not_ready) in
            [(Way::Phased, true, true, true), (Way::Kubeadm, true, false, false), (Way::Plain, false, false, false)]
        {
            let judged = [list(), command(), late()].map(|error| way.may_be_why(&error));
            assert_eq!(judged, [manifest, failed, not_ready], "{way:?}");
        }
    }

    #[test]
    fn tokens_are_kubeadms_and_random() {
        let (one, other) = (new_token().unwrap(), new_token().unwrap());
        assert_ne!(one, other);
        let (id, secret) = one.split_once('.').unwrap();
        assert_eq!((id.len(), secret.len()), (6, 16));
        assert!(one.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.'));
    }
}
