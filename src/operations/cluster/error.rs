//! Why an operation on a cluster failed.

use std::path::PathBuf;

use crate::adapters::engine::EngineError;
use crate::adapters::host::HostCheck;
use crate::adapters::kubeconfig::KubeconfigError;
use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::NodeError;
use crate::adapters::paths::PathsError;
use crate::adapters::program::ProgramError;
use crate::adapters::records::RecordError;
use crate::adapters::states::SnapshotError;
use crate::documents::certificates::PkiError;
use crate::documents::keys::KeyError;
use crate::documents::render::{RenderError, VersionError};
use crate::operations::verify::VerifyError;
use crate::progress::counted;

/// A failed operation on a cluster.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ClusterError {
    /// There is one of that name already.
    #[error("a cluster called {name:?} exists already ({nodes} containers)")]
    #[diagnostic(
        code(kprov::cluster::exists),
        help("`kprov down {name}` removes it, `kprov reset {name}` makes it anew, `--name` makes another one")
    )]
    Exists {
        /// The cluster's name.
        name: String,
        /// How many containers it has.
        nodes: usize,
    },
    /// kprov's record of that name is of a cluster on another engine.
    #[error("the cluster {name:?} is on another engine, at {host}; this one is at {here}")]
    #[diagnostic(
        code(kprov::cluster::elsewhere),
        help(
            "its record and keys are kept: set DOCKER_HOST={host} to work on it, or choose another `--name`. If that engine is no more, `kprov down {name} --forget` forgets the record and the keys"
        )
    )]
    Elsewhere {
        /// The cluster's name.
        name: String,
        /// Where its engine was.
        host: String,
        /// Where the engine is that was asked now.
        here: String,
    },
    /// The program of the KMS server cannot be used.
    #[error("the KMS server's program {path}, which KPROV_OPENBAO names, could not be read: {reason}", path = path.display())]
    #[diagnostic(code(kprov::cluster::openbao))]
    OpenBao {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The server beside a cluster does not do what it is there for.
    #[error("the KMS server {name} does not work: {reason}{}", if last_lines.is_empty() { String::new() } else { format!(". Its last lines:\n{last_lines}") })]
    #[diagnostic(
        code(kprov::cluster::kms_server),
        help("`docker logs {name}` says more; `docker restart {name}` starts it again, unsealed, with its keys")
    )]
    Server {
        /// The server's container.
        name: String,
        /// What was seen.
        reason: String,
        /// Its last lines.
        last_lines: String,
    },
    /// The server with the key that everything was encrypted by is no more.
    #[error("the KMS server {name} is no more, and with it the key that the Secrets were encrypted by")]
    #[diagnostic(
        code(kprov::cluster::kms_server_gone),
        help(
            "nobody can read them any more; nothing has been changed. `kprov down` and `kprov up` make the cluster anew"
        )
    )]
    ServerGone {
        /// The server's container.
        name: String,
    },
    /// A plugin on the host that control planes are to ask does not work.
    #[error("{node}: the KMS plugin whose socket the engine's host has in {folder} does not work: {reason}")]
    #[diagnostic(
        code(kprov::cluster::kms_on_host),
        help(
            "start it there, as root: kprov kms serve --socket {folder}/kms.sock --config FILE. `kprov kms status --socket {folder}/kms.sock` tells how it is"
        )
    )]
    PluginOnHost {
        /// The node that has asked it.
        node: String,
        /// The socket's folder on the host.
        folder: String,
        /// What was seen.
        reason: String,
    },
    /// A node does not see the folder of a plugin on the host.
    #[error("{node} does not see the folder {folder} of the engine's host, where its KMS plugin is to be asked")]
    #[diagnostic(
        code(kprov::cluster::kms_mount),
        help(
            "a node is given folders when it is made: make the cluster by a profile that names this KMS; nothing has been changed"
        )
    )]
    NoMount {
        /// The node.
        node: String,
        /// The folder.
        folder: String,
    },
    /// A node sees the folder of a plugin on the host where its own is to listen.
    #[error("{node} sees a folder of the engine's host where a KMS plugin of its own would listen")]
    #[diagnostic(
        code(kprov::cluster::kms_mount_in_the_way),
        help(
            "it was made for a plugin on the host (`kms: {{host: …}}`), and keeps that; make the cluster by a profile that names the other KMS. Nothing has been changed"
        )
    )]
    MountInTheWay {
        /// The node.
        node: String,
    },
    /// A registry beside clusters cannot be had, or does not serve.
    #[error("the registry {name} cannot be used: {reason}{}", if last_lines.is_empty() { String::new() } else { format!(". Its last lines:\n{last_lines}") })]
    #[diagnostic(
        code(kprov::cluster::registry),
        help("`docker ps --all --filter name={name}` shows it, `docker logs {name}` says more")
    )]
    Registry {
        /// The registry's container.
        name: String,
        /// What was seen.
        reason: String,
        /// Its last lines.
        last_lines: String,
    },
    /// A file of certificates or credentials cannot be used.
    #[error("{path} cannot be used: {reason}", path = path.display())]
    #[diagnostic(
        code(kprov::cluster::file),
        help("certificates are in PEM; credentials are one line USER:PASSWORD. Nothing has been made")
    )]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, without any of its text.
        reason: String,
    },
    /// This program does not run in nodes.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Program(#[from] ProgramError),
    /// A container of that cluster is not of kprov's making.
    #[error("the container {container} of the cluster {name:?} was not made by kprov")]
    #[diagnostic(
        code(kprov::cluster::foreign),
        help(
            "nothing has been changed; `kprov down {name}` removes the cluster whoever made it, `--name` makes another one"
        )
    )]
    Foreign {
        /// The cluster's name.
        name: String,
        /// The container.
        container: String,
    },
    /// The host, or its engine, cannot carry it.
    #[error("this host cannot carry {}:\n{}", counted(*nodes, "node"), failed.iter().map(|check| format!("  - {check}")).collect::<Vec<_>>().join("\n"))]
    #[diagnostic(code(kprov::cluster::host), help("`kprov doctor` shows all that was looked at"))]
    Host {
        /// How many nodes were to be made.
        nodes: u32,
        /// What is short, with what can be done about it.
        failed: Vec<HostCheck>,
    },
    /// What is to be done to it needs its nodes not to run.
    #[error("nodes of the cluster {name:?} run: what runs does not read new certificates")]
    #[diagnostic(code(kprov::cluster::runs), help("`kprov stop {name}` first"))]
    Runs {
        /// The cluster's name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no cluster called {name:?}{}", near(known))]
    #[diagnostic(code(kprov::cluster::unknown), help("`kprov ls` lists clusters, `kprov up --name {name}` makes one"))]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is no node of that name.
    #[error("there is no node called {name:?}{}", near(known))]
    #[diagnostic(code(kprov::cluster::unknown_node), help("`kprov status` lists a cluster's nodes"))]
    UnknownNode {
        /// The name that was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// No name was given, and there is not exactly one cluster.
    #[error("which cluster? There are {}: {}", known.len(), known.join(", "))]
    #[diagnostic(code(kprov::cluster::ambiguous), help("name one of them"))]
    Ambiguous {
        /// The clusters' names.
        known: Vec<String>,
    },
    /// No name was given, and there are none.
    #[error("there is no cluster")]
    #[diagnostic(code(kprov::cluster::none), help("`kprov up` makes one"))]
    None,
    /// The container of a control plane is gone.
    #[error("the control plane {node} of the cluster {cluster:?} is gone: there is no such container")]
    #[diagnostic(
        code(kprov::cluster::no_control_plane),
        help(
            "nothing has been changed; `kprov reset {cluster}` makes the cluster anew, `kprov down {cluster}` removes what is left of it"
        )
    )]
    NoControlPlane {
        /// The cluster's name.
        cluster: String,
        /// The missing node.
        node: String,
    },
    /// Its API server's port is not published: the container does not run.
    #[error("the control plane of the cluster {name:?} does not run")]
    #[diagnostic(
        code(kprov::cluster::not_running),
        help(
            "`kprov start {name}` starts it again, as it was; `kprov status {name}` shows its containers, `kprov reset {name}` makes it anew"
        )
    )]
    NotRunning {
        /// The cluster's name.
        name: String,
    },
    /// A node is gone.
    #[error("the cluster {name:?} is not whole: its node {node} is gone")]
    #[diagnostic(
        code(kprov::cluster::incomplete),
        help(
            "nothing has been started; `kprov reset {name}` makes the cluster anew, `kprov down {name}` removes what is left of it"
        )
    )]
    Incomplete {
        /// The cluster's name.
        name: String,
        /// The missing node.
        node: String,
    },
    /// They would not fit.
    #[error("this host has no memory for {wanted} such clusters, only for {possible}")]
    #[diagnostic(
        code(kprov::cluster::too_many),
        help("ask for fewer (`--count {possible}`), or take others down first")
    )]
    TooMany {
        /// How many were asked for.
        wanted: usize,
        /// How many would fit.
        possible: usize,
    },
    /// An image cannot be unpacked once for all.
    #[error("the images within {reference} cannot be unpacked once for all: {reason}")]
    #[diagnostic(
        code(kprov::cluster::warm),
        help("clusters are made of {reference} all the same; each node then unpacks what it needs")
    )]
    Warm {
        /// The image.
        reference: String,
        /// Why not.
        reason: String,
    },
    /// kprov has no record of it, so does not know how to make it again.
    #[error("kprov has no record of how the cluster {name:?} was made")]
    #[diagnostic(
        code(kprov::cluster::no_record),
        help("only clusters made by `kprov up` on this account can be reset; make it with `kprov up --profile ...`")
    )]
    NoRecord {
        /// The cluster's name.
        name: String,
    },
    /// A part of the control plane did not come up with the configuration that it was given.
    #[error("{node}: {} did not come up. Its last lines:\n{last_lines}\n{cause}", called(component))]
    #[diagnostic(
        code(kprov::cluster::static_pod),
        help(
            "a flag or value that this Kubernetes version does not take is the usual cause; `kprov render` shows what it was given"
        )
    )]
    StaticPod {
        /// The node.
        node: String,
        /// The static pod, such as `kube-apiserver`.
        component: &'static str,
        /// The last lines of its log.
        last_lines: String,
        /// What noticed.
        cause: String,
    },
    /// A kubelet keeps ending.
    #[error("{node}: the kubelet keeps ending. Its last lines:\n{last_lines}")]
    #[diagnostic(
        code(kprov::cluster::kubelet),
        help(
            "a flag or field that this Kubernetes version does not take is the usual cause; `kprov render` shows what it was given"
        )
    )]
    Kubelet {
        /// The node.
        node: String,
        /// The last lines of its journal.
        last_lines: String,
    },
    /// Something does not come that the fast start waits for.
    #[error("{node}: {what} after {seconds} s{}", quoted(silent.as_ref()))]
    #[diagnostic(
        code(kprov::cluster::fast_start),
        help("`--set bootstrap=kubeadm` makes the cluster by kubeadm's own way, which is slower and expects less")
    )]
    FastStart {
        /// The node.
        node: String,
        /// What has not happened.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
        /// A static pod there that does not run, and its last lines.
        silent: Option<(&'static str, String)>,
    },
    /// The image lacks what kind's images have.
    #[error("the image {image} has no CNI of its own ({path})")]
    #[diagnostic(
        code(kprov::cluster::no_cni),
        help(
            "use a `kindest/node` image, or bring a CNI: `--set networking.disableDefaultCNI=true`, and apply its manifest when the cluster is up"
        )
    )]
    NoCni {
        /// The image.
        image: String,
        /// Where its manifest would be.
        path: &'static str,
    },
    /// The user, or the system, asked to stop.
    #[error("interrupted")]
    #[diagnostic(code(kprov::interrupted))]
    Interrupted,
    /// Something failed while a cluster was made; says what is left.
    #[error("the cluster {name:?} could not be made{}", left.as_deref().map(|left| format!(" ({left})")).unwrap_or_default())]
    #[diagnostic(code(kprov::cluster::create))]
    Create {
        /// The cluster's name.
        name: String,
        /// What was kept, if anything.
        left: Option<String>,
        /// What failed.
        #[diagnostic_source]
        source: Box<dyn miette::Diagnostic + Send + Sync>,
        /// Where the nodes' logs are kept.
        #[help]
        logs: Option<LogFolder>,
    },
    /// New nodes that were to take the place of a cluster's failed; says what there is now.
    #[error("the cluster {name:?} could not be replaced: {now}")]
    #[diagnostic(code(kprov::cluster::replace))]
    Replace {
        /// The cluster's name.
        name: String,
        /// What there is now, and what to do next.
        now: Now,
        /// What failed.
        #[diagnostic_source]
        source: Box<dyn miette::Diagnostic + Send + Sync>,
        /// Where the new nodes' logs are kept.
        #[help]
        logs: Option<LogFolder>,
    },
    /// The engine refused.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Engine(#[from] EngineError),
    /// Something failed on a node.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Node(#[from] NodeError),
    /// The API server refused.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Api(#[from] ApiError),
    /// A document could not be rendered.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Render(#[from] RenderError),
    /// What kprov keeps of it cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Records(#[from] RecordError),
    /// The image's Kubernetes version is not supported.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Version(#[from] VersionError),
    /// A key could not be had.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
    /// A certificate could not be made.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Pki(#[from] PkiError),
    /// The user's kubeconfig could not be changed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// kprov's own files could not be written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Paths(#[from] PathsError),
    /// A snapshot could not be kept or used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The finished cluster is not what was asked for.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Verify(#[from] VerifyError),
}

impl ClusterError {
    /// Whether this says that a kept state cannot be used, rather than that something is wrong now that would be as
    /// wrong with any other way.
    pub(super) fn is_unfit_state(&self) -> bool {
        use SnapshotError as State;
        match self {
            Self::ServerGone { .. } => true,
            Self::Snapshot(error) => matches!(
                error,
                State::Damaged { .. }
                    | State::Archive { .. }
                    | State::Format { .. }
                    | State::Image { .. }
                    | State::Version { .. }
                    | State::Addresses { .. }
            ),
            _ => false,
        }
    }
}

impl ClusterError {
    /// Whether this may come of what the fast start does otherwise than kubeadm, so that kubeadm's own way may get further:
    /// a step on a node that failed, an API that refused, something that did not come. Not what either way would meet:
    /// the engine, the user's wish to stop, a component or kubelet that does not run with what it was given, a
    /// configuration that kubeadm finds wrong.
    pub(super) fn is_unfamiliar(&self) -> bool {
        /// By which kubeadm ends when it does not take its configuration (cmd/kubeadm/app/util/error.go).
        const INVALID: i64 = 3;
        match self {
            Self::FastStart { .. } | Self::Api(_) | Self::Node(NodeError::TimedOut { .. }) => true,
            Self::Node(NodeError::Command { code, .. }) => *code != INVALID,
            Self::Verify(VerifyError::Api(_) | VerifyError::Node(NodeError::Command { .. })) => true,
            _ => false,
        }
    }
}

/// The last lines of a static pod that does not run, if there is one.
fn quoted(silent: Option<&(&'static str, String)>) -> String {
    silent.map_or_else(String::new, |(component, last_lines)| {
        format!(". {} does not run. Its last lines:\n{last_lines}", called(component))
    })
}

/// What people call a static pod.
fn called(component: &str) -> &str {
    match component {
        "kube-apiserver" => "the API server",
        "kube-controller-manager" => "the controller manager",
        "kube-scheduler" => "the scheduler",
        other => other,
    }
}

/// What there is after a cluster could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Now {
    /// The nodes from before.
    #[error("its nodes from before are back in their places and have been started; nothing of it is lost")]
    PutBack,
    /// Both, as was asked for.
    #[error(
        "the new nodes are kept, and those from before beside them, stopped; `kprov verify {name}` brings those back, and removes the new ones"
    )]
    Retained {
        /// The cluster's name.
        name: String,
    },
    /// The new ones, since they had been proven already.
    #[error("its new nodes had been proven already, and stay; `kprov verify {name}` completes what is missing")]
    Proven {
        /// The cluster's name.
        name: String,
    },
    /// Whatever there was when that failed, too.
    #[error(
        "bringing back its nodes from before failed, too ({failed}); they are still there, and `kprov verify {name}` tries again"
    )]
    Unsettled {
        /// The cluster's name.
        name: String,
        /// What failed.
        failed: String,
    },
}

/// Where logs are kept, as a hint.
#[derive(Debug, Clone)]
pub struct LogFolder(pub PathBuf);

impl std::fmt::Display for LogFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the nodes' logs are in {}", self.0.display())
    }
}

fn near(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(code: i64) -> ClusterError {
        let (node, command, last_lines) = ("a-control-plane".to_owned(), "kubeadm init".to_owned(), String::new());
        NodeError::Command { node, command, code, last_lines }.into()
    }

    #[test]
    fn what_either_way_would_meet_is_not_tried_twice() {
        let text = || "x".to_owned();
        for error in [
            ClusterError::Interrupted,
            EngineError::PortTaken { container: text(), reason: text() }.into(),
            EngineError::DiskFull { doing: text(), reason: text() }.into(),
            NodeError::Boot { node: text(), reason: text(), last_lines: text() }.into(),
            // kubeadm does not take its configuration.
            command(3),
            ClusterError::StaticPod { node: text(), component: "etcd", last_lines: text(), cause: text() },
            ClusterError::Kubelet { node: text(), last_lines: text() },
            ClusterError::NoCni { image: text(), path: "/kind" },
        ] {
            assert!(!error.is_unfamiliar(), "{error}");
        }
    }

    #[test]
    fn what_does_not_run_is_quoted() {
        let silent = Some(("etcd", "  | flag provided but not defined: -x".to_owned()));
        let error = ClusterError::FastStart { node: "n".to_owned(), what: "nothing has come", seconds: 120, silent };
        let expected = "n: nothing has come after 120 s. etcd does not run. Its last lines:\n  | flag provided but not defined: -x";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_the_fast_start_alone_relies_on_may_be_otherwise() {
        for error in [
            command(1),
            command(127),
            NodeError::TimedOut { node: "n".to_owned(), command: "c".to_owned(), seconds: 1 }.into(),
            ApiError::NotReady { seconds: 150, pending: vec!["node n has not registered".to_owned()] }.into(),
            ApiError::Manifest { name: "CNI".to_owned(), reason: "odd".to_owned() }.into(),
            ClusterError::FastStart { node: "n".to_owned(), what: "nothing has come", seconds: 120, silent: None },
        ] {
            assert!(error.is_unfamiliar(), "{error}");
        }
    }
}
