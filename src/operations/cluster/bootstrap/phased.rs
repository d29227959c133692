//! The fast way: kubeadm's phases, each as soon as what it needs is there.
//!
//! kubeadm still writes every file and object that it would write. What differs is who waits for what:
//!
//! - Certificates are made here, at once, while the containers start; kubeadm's phases find and check them.
//! - etcd and the API server start alone, but for the workers' kubelets, which come with a certificate instead of asking
//!   for one; everything else would only make them slower.
//! - The API server is asked from outside until it has made its roles, which is when the controller manager and the
//!   scheduler start, and until it is ready; that moment starts all the rest, side by side: kubeadm's remaining
//!   phases, the CNI, and what would be slow by itself.
//! - The name server is probed every second, not every ten: a kubelet puts off the probes of its first pods by random
//!   times of up to their periods.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{join_all, try_join_all};
use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::kubernetes;
use crate::adapters::node::Node;
use crate::documents::certificates::{ControlPlaneNames, Pki};
use crate::documents::files::FileEntry;
use crate::documents::profile::KubeProxyMode;
use crate::documents::render::{self, API_SERVER_PORT, NodeAddresses, NodeStart};

use super::super::interim_network::api_server_address;
use super::{Build, ClusterError, KUBEADM_CONFIG, LOOK, Member, Up, logs, watch_kubelet};

/// The configuration by which a worker's kubelet is set up; removed afterwards.
const KUBELET_CONFIG: &str = "/kind/kubeadm-kubelet.conf";

/// How long the API server may take to answer, as in kubeadm.
const API_SERVER: Duration = Duration::from_secs(240);

/// How often the API server is asked whether it is ready: it cannot be watched before it answers.
const ASK: Duration = Duration::from_millis(50);

/// How long the kubelet may take to start the API server's container at all.
const START: Duration = Duration::from_secs(120);

/// How long a kubelet that runs may take to notice that the API server answers.
const NOTICE: Duration = Duration::from_secs(8);

const INIT_STATIC_PODS: &str = include_str!("scripts/init_static_pods.sh");
const LATER_STATIC_PODS: &str = include_str!("scripts/later_static_pods.sh");
const PHASES: &str = include_str!("scripts/phases.sh");
const UNPACK_IMAGES: &str = include_str!("scripts/unpack_images.sh");
const WORKER_KUBELET: &str = include_str!("scripts/worker_kubelet.sh");

/// Where the kubelet finds static pods.
const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// Where the manifests of the controller manager and the scheduler wait for the API server.
const LATER: &str = "/kind/manifests-later";

/// The first phases of `kubeadm init`. They find what they would make, and check it.
const CREDENTIALS: [&str; 2] = ["certs all", "kubeconfig all"];

/// The phases that write the manifests of the static pods.
const STATIC_PODS: [&str; 2] = ["control-plane all", "etcd local"];

/// Those that wait for the API server, but for the addons. Left out are `wait-control-plane`, which kprov does itself,
/// and `kubelet-finalize`: it points the kubelet's kubeconfig at the certificate that the kubelet rotates, which ours
/// does from the start, and restarts the kubelet.
/// So is `bootstrap-token`: nobody joins by a token here, so there is none at any time; its other objects are made by
/// [`make_joining_objects`].
const OBJECTS: [&str; 2] = ["upload-config all", "mark-control-plane"];

pub(super) async fn bring_up(build: &Build<'_>) -> Result<Up, ClusterError> {
    let cluster = build.inputs.cluster;
    let pki = Pki::generate(build.inputs.version)?;
    let client = kubernetes::client(&pki.maker_kubeconfig(cluster, &build.server)?).await?;
    let workers: Vec<&Member> = build.joining(NodeStart::JoinWorker).collect();
    let control_plane = start_control_plane(build, &pki, &client);
    let boot_workers = try_join_all(workers.iter().map(|member| boot_worker(build, &pki, member)));
    let (has_dns, _) = tokio::try_join!(control_plane, boot_workers)?;

    let addons = async {
        let step = build.context.reporter.stage("Installing the CNI and the storage class");
        build.addons(&client).await?;
        step.done();
        Ok::<_, ClusterError>(())
    };
    let kubelets = try_join_all(workers.iter().map(|member| complete_worker(build, &client, member)));
    let images = join_all(build.nodes.iter().map(|member| unpack_images(build, &member.node)));
    let controllers = kubernetes::make_service_accounts(&client);
    let dns = async {
        if has_dns {
            install_dns(build, &client).await?;
        }
        Ok(())
    };
    let objects = complete_control_plane(build);
    let joining = make_joining_objects(build, &pki, &client);
    let connect = build.connect_nodes(&client);
    tokio::try_join!(controllers.map(Ok), objects, joining, dns, addons, kubelets, connect, images.map(Ok))?;
    build.connect().await
}

/// Boots the first control plane and starts etcd and the API server on it; ends when the API server is ready.
/// Says whether the image has a DNS server.
async fn start_control_plane(build: &Build<'_>, pki: &Pki, client: &Client) -> Result<bool, ClusterError> {
    let member = build.init();
    build.boot_with(member, |addresses| control_plane_files(build, pki, member, addresses)).await?;
    let step = build.context.reporter.step(&member.plan.name, "Starting etcd and the API server");
    let patches = render::patches_flag(build.inputs.version).unwrap_or_default();
    let script = format!(
        "config='{KUBEADM_CONFIG}' manifests='{MANIFESTS}' later='{LATER}' patches='{patches}'\n\
         credentials='{credentials}' pods='{pods}'\n{INIT_STATIC_PODS}",
        credentials = CREDENTIALS.join("\n"),
        pods = STATIC_PODS.join("\n"),
    );
    member.node.script("kubeadm init", &script).await?;
    let ready = wait_for_api_server(member, client);
    let (has_dns, ()) = tokio::try_join!(build.has_dns(&member.node), ready)?;
    step.done();
    Ok(has_dns)
}

/// A script that runs these of kubeadm's phases, one after the other.
fn phases(names: &[&str]) -> String {
    format!("config='{KUBEADM_CONFIG}' phases='{}'\n{PHASES}", names.join("\n"))
}

fn control_plane_files(
    build: &Build<'_>,
    pki: &Pki,
    member: &Member,
    addresses: &NodeAddresses,
) -> Result<Vec<FileEntry>, ClusterError> {
    let networking = &build.inputs.profile.spec.networking;
    let own = addresses.ordered(&member.plan.name, networking)?;
    let local = own.first().map(|address| std::net::SocketAddr::new(*address, API_SERVER_PORT).to_string());
    let endpoint = format!("https://{}", build.endpoint);
    let local = format!("https://{}", local.unwrap_or_else(|| build.endpoint.clone()));
    let endpoint_host = build.endpoint.rsplit_once(':').map_or(build.endpoint.as_str(), |(host, _)| host);
    let mut others = render::cert_sans(build.inputs.profile);
    others.push(endpoint_host.to_owned());
    let names = ControlPlaneNames {
        node: member.plan.name.clone(),
        addresses: own,
        service_addresses: networking.service_subnet().split(',').filter_map(api_server_address).collect(),
        others,
    };
    let mut files = pki.control_plane_files(&names)?;
    files.extend(pki.control_plane_kubeconfigs(build.inputs.cluster, &endpoint, &local)?);
    files.extend(pki.kubelet_files(build.inputs.cluster, &member.plan.name, &endpoint)?);
    Ok(files)
}

/// Asks until the API server is ready; gives up early if its container keeps ending.
async fn wait_for_api_server(member: &Member, client: &Client) -> Result<(), ClusterError> {
    let start = Instant::now();
    let ready = async {
        // Earlier, the controller manager and the scheduler would be refused, and wait for seconds.
        while !kubernetes::has_roles(client).await {
            tokio::time::sleep(ASK).await;
        }
        let script = format!("manifests='{MANIFESTS}' later='{LATER}'\n{LATER_STATIC_PODS}");
        member.node.script("starting the controller manager and the scheduler", &script).await?;
        while !kubernetes::is_ready(client).await {
            tokio::time::sleep(ASK).await;
        }
        Ok::<_, ClusterError>(())
    };
    let given_up = async {
        tokio::time::sleep(LOOK).await;
        while start.elapsed() < API_SERVER {
            tokio::time::sleep(LOOK).await;
            if let Some(error) = logs::crash_loop(&member.node, "").await {
                return error;
            }
            if start.elapsed() > START && logs::last_words(&member.node, "kube-apiserver").await.is_none() {
                let what = "the kubelet has not started the API server";
                return ClusterError::FastStart { node: member.plan.name.clone(), what, seconds: START.as_secs() };
            }
        }
        let what = "the API server has not become ready";
        ClusterError::FastStart { node: member.plan.name.clone(), what, seconds: API_SERVER.as_secs() }
    };
    tokio::select! {
        result = ready => result,
        error = given_up => Err(error),
        error = watch_kubelet(&member.node) => Err(error),
    }
}

/// Runs kubeadm's remaining phases on the control plane.
async fn complete_control_plane(build: &Build<'_>) -> Result<(), ClusterError> {
    let member = build.init();
    let step = build.context.reporter.step(&member.plan.name, "Completing the control plane");
    // In this order kubeadm runs them one after the other, but the addons need none of what the others make.
    let addons = async {
        if build.inputs.profile.spec.networking.kube_proxy_mode != KubeProxyMode::None {
            member.node.script("kubeadm init (addons)", &phases(&["addon kube-proxy"])).await?;
        }
        Ok(())
    };
    let objects = phases(&OBJECTS);
    tokio::try_join!(member.node.script("kubeadm init (objects)", &objects), addons)?;
    step.done();
    Ok(())
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
    build.init().node.script("kubeadm init (addons)", &phases(&["addon coredns"])).await?;
    kubernetes::probe_name_server_often(client).await?;
    step.done();
    Ok(())
}

/// Has containerd unpack the images of the pods that every cluster runs, in the seconds in which the controller manager
/// only waits. They would be unpacked one by one, when the pods are there: so this is a shortcut, and may fail.
async fn unpack_images(build: &Build<'_>, node: &Node) {
    let manifests = [build.facts.cni.as_deref(), build.facts.storage.as_deref()];
    let named = manifests.into_iter().flatten().flat_map(str::lines).filter_map(image_of);
    let wanted: Vec<&str> = named.chain(["/kube-proxy:", "/coredns:"]).collect();
    let _ = node.feed("unpacking images", UNPACK_IMAGES, Zeroizing::new(wanted.join("\n").into_bytes())).await;
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
            let config = render::kubeadm_config(
                &build.inputs,
                &member.plan,
                NodeStart::Init,
                addresses,
                &build.endpoint,
                &build.token,
            )?;
            Ok(vec![FileEntry::new(KUBELET_CONFIG, 0o600, config.as_bytes())])
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

async fn start_kubelet(member: &Member) -> Result<(), ClusterError> {
    member.node.run(&["systemctl", "restart", "--no-block", "kubelet"]).await?;
    Ok(())
}

/// Waits until a worker's kubelet has registered the node, and completes it.
async fn complete_worker(build: &Build<'_>, client: &Client, member: &Member) -> Result<(), ClusterError> {
    let step = build.context.reporter.step(&member.plan.name, "Joining");
    let complete = || kubernetes::complete_worker(client, &member.plan, build.inputs.version);
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
