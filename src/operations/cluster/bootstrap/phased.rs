//! The fast way: kubeadm's phases, each as soon as what it needs is there.
//!
//! kubeadm still writes every file and object that it would write. What differs is who waits for what:
//!
//! - Certificates are made here, at once, while the containers start; kubeadm's phases find and check them.
//! - etcd and the first API server start alone, but for the workers' kubelets, which come with a certificate instead of asking
//!   for one; everything else would only make them slower. Control planes are [`control_planes`]' affair.
//! - The API server is asked from outside until it answers, which is when images are unpacked; until it has made its roles,
//!   which is when the controller manager and the scheduler start; and until it is ready. That moment starts all the rest, side
//!   by side: kubeadm's remaining phases, the CNI, and what would be slow by itself.
//! - The name server is probed every second, not every ten: a kubelet puts off the probes of its first pods by random
//!   times of up to their periods.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join_all, try_join_all};
use kube::Client;
use tokio::sync::Notify;
use zeroize::Zeroizing;

use crate::adapters::kubernetes;
use crate::documents::certificates::Pki;
use crate::documents::profile::Role;
use crate::documents::render::{self, NodeStart};

use super::control_planes::{self, phases, start_kubelet};
use super::{Build, ClusterError, KUBEADM_CONFIG, Member, Up, watch_kubelet};

/// The configuration by which a worker's kubelet is set up; removed afterwards.
const KUBELET_CONFIG: &str = "/kind/kubeadm-kubelet.conf";

/// How long a kubelet that runs may take to notice that the API server answers.
const NOTICE: Duration = Duration::from_secs(8);

const UNPACK_IMAGES: &str = include_str!("scripts/unpack_images.sh");
const WORKER_KUBELET: &str = include_str!("scripts/worker_kubelet.sh");

pub(super) async fn bring_up(build: &Build<'_>) -> Result<Up, ClusterError> {
    let cluster = build.inputs.cluster;
    let pki = Pki::generate(build.inputs.version)?;
    let client = kubernetes::client(&pki.maker_kubeconfig(cluster, &build.server)?).await?;
    let workers: Vec<&Member> = build.joining(NodeStart::JoinWorker).collect();
    let answers = Notify::new();
    let control_planes = control_planes::start(build, &pki, &client, &answers);
    let boot_workers = try_join_all(workers.iter().map(|member| boot_worker(build, &pki, member)));
    // An API server that answers first pauses for a second before it makes its roles, in which the processors have little to do.
    let images = async {
        answers.notified().await;
        let step = build.context.reporter.stage("Unpacking images");
        join_all(build.nodes.iter().map(|member| unpack_images(build, member))).await;
        step.done();
    };
    let rest = async {
        let (has_dns, _) = tokio::try_join!(control_planes, boot_workers)?;
        complete(build, &pki, &client, &workers, has_dns).await
    };
    tokio::try_join!(rest, images.map(Ok))?;
    control_planes::finish(build).await?;
    build.connect().await
}

/// Makes everything else, as soon as the first API server is ready.
async fn complete(
    build: &Build<'_>,
    pki: &Pki,
    client: &Client,
    workers: &[&Member],
    has_dns: bool,
) -> Result<(), ClusterError> {
    let addons = async {
        let step = build.context.reporter.stage("Installing the CNI and the storage class");
        build.addons(client).await?;
        step.done();
        Ok::<_, ClusterError>(())
    };
    let kubelets = try_join_all(workers.iter().map(|member| complete_worker(build, client, member)));
    let controllers = kubernetes::make_service_accounts(client);
    let dns = async {
        if has_dns {
            install_dns(build, client).await?;
        }
        Ok(())
    };
    let objects = control_planes::complete_first(build);
    let further = build.joining(NodeStart::JoinControlPlane);
    let further = try_join_all(further.map(|member| control_planes::join(build, client, member)));
    let joining = make_joining_objects(build, pki, client);
    let connect = async {
        let step = build.context.reporter.stage("Connecting the nodes");
        build.connect_nodes(client).await?;
        step.done();
        Ok(())
    };
    tokio::try_join!(controllers.map(Ok), objects, further, joining, dns, addons, kubelets, connect).map(|_| ())
}

/// Makes what kubeadm makes beside a bootstrap token.
async fn make_joining_objects(build: &Build<'_>, pki: &Pki, client: &Client) -> Result<(), ClusterError> {
    let kubeconfig = pki.public_kubeconfig(&format!("https://{}", build.endpoint));
    let manifest = render::joining_manifest(build.inputs.templates, build.inputs.version, &kubeconfig)?;
    // The API server makes this namespace when it is ready, not before.
    kubernetes::await_namespace(client, "kube-public").await?;
    Ok(kubernetes::apply(client, "rules for joining", &manifest).await?)
}

/// Installs the cluster's name server. Its probe is changed before the Deployment's controller has come to it: that one
/// takes seconds to start.
async fn install_dns(build: &Build<'_>, client: &Client) -> Result<(), ClusterError> {
    let step = build.context.reporter.stage("Installing the name server");
    build.phase(build.init(), "kubeadm init (addons)", &phases(KUBEADM_CONFIG, &["addon coredns"])).await?;
    kubernetes::probe_name_server_often(client).await?;
    step.done();
    Ok(())
}

/// Has containerd unpack the images of the pods that every cluster runs, in the seconds in which the API server and the controller
/// manager only wait. They would be unpacked one by one, when the pods are there: so this is a shortcut, and may fail.
async fn unpack_images(build: &Build<'_>, member: &Member) {
    let unpack = async |wanted: &[&str]| {
        let wanted = Zeroizing::new(wanted.join("\n").into_bytes());
        let _ = member.node.feed("unpacking images", UNPACK_IMAGES, wanted).await;
    };
    if member.plan.role == Role::ControlPlane {
        // These are asked for first.
        unpack(&["/kube-controller-manager:", "/kube-scheduler:"]).await;
    }
    let manifests = [build.facts.cni.as_deref(), build.facts.storage.as_deref()];
    let named = manifests.into_iter().flatten().flat_map(str::lines).filter_map(image_of);
    let wanted: Vec<&str> = named.chain(["/kube-proxy:", "/coredns:"]).collect();
    unpack(&wanted).await;
}

/// The image that a line of a manifest names.
fn image_of(line: &str) -> Option<&str> {
    let image = line.trim().trim_start_matches("- ").strip_prefix("image:")?.trim().trim_matches(['"', '\'']);
    image.chars().all(|c| c.is_ascii_alphanumeric() || "-._/:@".contains(c)).then_some(image)
}

/// Boots a worker, sets its kubelet up with all that it needs to be who it is, and starts it.
async fn boot_worker(build: &Build<'_>, pki: &Pki, member: &Member) -> Result<(), ClusterError> {
    build
        .boot_with(member, |addresses| {
            // kubeadm's phase that sets up a kubelet reads an InitConfiguration, whichever node it runs on.
            Ok(vec![build.config_file(member, KUBELET_CONFIG, NodeStart::Init, addresses)?])
        })
        .await?;
    let script = format!("config='{KUBELET_CONFIG}'\n{WORKER_KUBELET}");
    member.node.script("kubeadm init phase kubelet-start", &script).await?;
    // Only now: where it finds the authority's certificate without its key, kubeadm expects all that the key has signed.
    let endpoint = format!("https://{}", build.endpoint);
    let mut files = pki.kubelet_files(build.inputs.cluster, &member.plan.name, &endpoint)?;
    files.push(pki.ca_file());
    member.node.put_files(&files).await?;
    start_kubelet(member).await
}

/// Waits until a worker's kubelet has registered the node, and completes it.
async fn complete_worker(build: &Build<'_>, client: &Client, member: &Member) -> Result<(), ClusterError> {
    let step = build.context.reporter.step(&member.plan.name, "Joining");
    let complete = || kubernetes::complete_node(client, &member.plan, build.inputs.version);
    let completed = async {
        if let Ok(completed) = tokio::time::timeout(NOTICE, complete()).await {
            return Ok(completed?);
        }
        // One that has tried in vain for long waits ever longer between tries; a new one does not.
        start_kubelet(member).await?;
        Ok::<_, ClusterError>(complete().await?)
    };
    tokio::select! {
        completed = completed => completed?,
        error = watch_kubelet(&member.node) => return Err(error),
    }
    step.done();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_found_in_manifests() {
        assert_eq!(image_of("      - image: docker.io/a/b:v1"), Some("docker.io/a/b:v1"));
        assert_eq!(image_of("        image: \"a/b:v1\""), Some("a/b:v1"));
        assert_eq!(image_of("        image: $(reboot)"), None);
        assert_eq!(image_of("        imagePullPolicy: Never"), None);
    }
}
