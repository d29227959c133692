//! The plain way: `kubeadm init`, then `kubeadm join`, as kind does it.

use futures_util::future::try_join_all;

use crate::adapters::kubernetes;
use crate::adapters::node::NodeError;
use crate::documents::profile::Role;
use crate::documents::render::{self, NodeStart};

use super::{Build, ClusterError, KUBEADM_CONFIG, Member, Up};

/// What further control planes need of the first one before they join.
const SHARED_CERTIFICATES: [&str; 8] = [
    "/etc/kubernetes/pki/ca.crt",
    "/etc/kubernetes/pki/ca.key",
    "/etc/kubernetes/pki/front-proxy-ca.crt",
    "/etc/kubernetes/pki/front-proxy-ca.key",
    "/etc/kubernetes/pki/sa.pub",
    "/etc/kubernetes/pki/sa.key",
    "/etc/kubernetes/pki/etcd/ca.crt",
    "/etc/kubernetes/pki/etcd/ca.key",
];

pub(super) async fn bring_up(build: &Build<'_>) -> Result<Up, ClusterError> {
    let init = async {
        build.boot(build.init()).await?;
        init(build, build.init()).await?;
        build.connect().await
    };
    // The others boot meanwhile, and wait for the first one only then.
    let others = try_join_all(build.nodes[1..].iter().map(|member| build.boot(member)));
    let (up, _) = tokio::try_join!(init, others)?;
    let addons = async {
        let step = build.context.reporter.stage("Installing the CNI and the storage class");
        build.addons(&up.client).await?;
        step.done();
        Ok::<_, ClusterError>(())
    };
    let control_planes = async {
        for member in build.joining(NodeStart::JoinControlPlane) {
            share_certificates(build, member).await?;
            join(build, member).await?;
        }
        Ok(())
    };
    let workers = try_join_all(build.joining(NodeStart::JoinWorker).map(|member| join(build, member)));
    tokio::try_join!(addons, control_planes, workers)?;
    // All have joined: nobody else is to.
    kubernetes::delete_bootstrap_tokens(&up.client).await?;
    build.connect_nodes(&up.client).await?;
    Ok(up)
}

async fn init(build: &Build<'_>, member: &Member) -> Result<(), ClusterError> {
    let step = build.context.reporter.step(&member.plan.name, "Starting the control plane");
    let proxy = build.inputs.profile.spec.networking.kube_proxy_mode;
    let mut skip = render::skip_phases(proxy, NodeStart::Init);
    if !build.has_dns(&member.node).await? {
        skip.push("addon/coredns");
    }
    // The flag says the same as the configuration does from 1.23 on, and is there in all versions.
    let skip = format!("--skip-phases={}", skip.join(","));
    let config = format!("--config={KUBEADM_CONFIG}");
    let patches = render::patches_flag(build.inputs.version);
    let arguments = ["init", &config, "--skip-token-print", &skip];
    build.kubeadm(member, &arguments.into_iter().chain(patches.as_deref()).collect::<Vec<_>>()).await?;
    step.done();
    Ok(())
}

async fn join(build: &Build<'_>, member: &Member) -> Result<(), ClusterError> {
    let step = build.context.reporter.step(&member.plan.name, "Joining");
    let config = format!("--config={KUBEADM_CONFIG}");
    let patches = render::patches_flag(build.inputs.version).filter(|_| member.plan.role == Role::ControlPlane);
    let arguments = ["join", &config, "--skip-phases=preflight"];
    build.kubeadm(member, &arguments.into_iter().chain(patches.as_deref()).collect::<Vec<_>>()).await?;
    step.done();
    Ok(())
}

async fn share_certificates(build: &Build<'_>, member: &Member) -> Result<(), ClusterError> {
    let first = &build.init().node;
    let mut files = Vec::new();
    for path in SHARED_CERTIFICATES {
        let content = first.read_file(path).await?.ok_or_else(|| NodeError::File {
            node: first.name.clone(),
            path: path.to_owned(),
            reason: "there is no such file".to_owned(),
        })?;
        // As kubeadm itself writes them: the public key for ServiceAccounts is no certificate.
        let mode = if path.ends_with(".crt") { 0o644 } else { 0o600 };
        files.push(crate::documents::files::FileEntry::sealed(path, mode, content));
    }
    member.node.put_files(&files).await?;
    Ok(())
}
