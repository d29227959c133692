//! Control planes that start the fast way, all of them at once.
//!
//! Owns what `kubeadm init` and `kubeadm join --control-plane` would do on them. Their certificates are made here, and etcd's
//! members found their cluster together, as those of a new one may: nobody has to be let in by somebody who is there already.
//! The first API server starts alone, since it is what all else waits for; the others follow when it is ready.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{select_all, try_join_all};
use kube::Client;
use tokio::sync::Notify;

use crate::adapters::kubernetes;
use crate::documents::certificates::{ControlPlaneNames, Pki};
use crate::documents::files::FileEntry;
use crate::documents::profile::KubeProxyMode;
use crate::documents::render::{self, API_SERVER_PORT, NodeAddresses, NodeStart};

use super::super::interim_network::api_server_address;
use super::{Build, ClusterError, KUBEADM_CONFIG, LOOK, Member, logs, watch_kubelet};

/// The configuration of a further control plane as one that kubeadm initializes. Removed afterwards.
const FURTHER_CONFIG: &str = "/kind/kubeadm-init.conf";

/// The configuration that etcd's manifest is made by where it has several members. Removed afterwards.
const FOUNDING_CONFIG: &str = "/kind/kubeadm-etcd.conf";

/// How long the API server may take to answer, as in kubeadm.
const API_SERVER: Duration = Duration::from_secs(240);

/// What has not happened where one does not.
const NOT_READY: &str = "the API server has not become ready";

/// How often the first API server is asked whether it is ready: it cannot be watched before it answers.
const ASK: Duration = Duration::from_millis(50);

/// How often the first API server is asked whether a further one is ready.
const ASK_FOR_ANOTHER: Duration = Duration::from_millis(250);

/// How long the kubelet may take to start the API server's container at all.
const START: Duration = Duration::from_secs(120);

const INIT_STATIC_PODS: &str = include_str!("scripts/init_static_pods.sh");
const LATER_STATIC_PODS: &str = include_str!("scripts/later_static_pods.sh");
const PHASES: &str = include_str!("scripts/phases.sh");

/// Where the kubelet finds static pods.
const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// Where manifests wait for the first API server.
const LATER: &str = "/kind/manifests-later";

/// Whose manifests wait, on every control plane and on the further ones.
const HELD: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
const HELD_FURTHER: [&str; 3] = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The first phases of `kubeadm init`. They find what they would make, and check it. On further control planes, it is what
/// `kubeadm join` makes: there is no kubeconfig of a super admin.
const CREDENTIALS: [&str; 2] = ["certs all", "kubeconfig all"];
const CREDENTIALS_FURTHER: [&str; 4] =
    ["certs all", "kubeconfig admin", "kubeconfig controller-manager", "kubeconfig scheduler"];

/// The phases that write the manifests of the static pods, but for etcd's.
const STATIC_PODS: [&str; 1] = ["control-plane all"];

/// Those that wait for the API server, but for the addons. Left out are `wait-control-plane`, which kprov does itself,
/// and `kubelet-finalize`: it points the kubelet's kubeconfig at the certificate that the kubelet rotates, which ours
/// does from the start, and restarts the kubelet.
/// So is `bootstrap-token`: nobody joins by a token here, so there is none at any time; its other objects are made by
/// [`super::phased`].
const OBJECTS: [&str; 2] = ["upload-config all", "mark-control-plane"];

/// Boots the control planes, and starts etcd on all of them and the API server on the first; ends when that is ready.
/// Says whether the image has a DNS server. Tells `answers` as soon as the API server answers at all.
pub(super) async fn start(
    build: &Build<'_>,
    pki: &Pki,
    client: &Client,
    answers: &Notify,
) -> Result<bool, ClusterError> {
    let members = build.control_planes();
    let several = members.len() > 1;
    let boot = |member| build.boot_with(member, move |addresses| files(build, pki, member, addresses, several));
    let addresses = try_join_all(members.iter().copied().map(boot)).await?;
    let founders = founders(build, &members, &addresses)?;
    let starts = members.iter().zip(&addresses).map(async |(member, addresses)| {
        let is_first = member.plan.start() == NodeStart::Init;
        let what = if is_first { "Starting etcd and the API server" } else { "Starting etcd" };
        let step = build.context.reporter.step(&member.plan.name, what);
        start_static_pods(build, member, addresses, &founders).await?;
        let has_dns = if is_first {
            tokio::try_join!(build.has_dns(&member.node), wait_for_api_server(build, client, answers))?.0
        } else {
            false
        };
        step.done();
        Ok::<_, ClusterError>(has_dns)
    });
    Ok(try_join_all(starts).await?.contains(&true))
}

/// The members that found etcd's cluster; none but one, and there is nothing to say of it.
fn founders(
    build: &Build<'_>,
    members: &[&Member],
    addresses: &[NodeAddresses],
) -> Result<Vec<(String, IpAddr)>, ClusterError> {
    let networking = &build.inputs.profile.spec.networking;
    let mut founders = Vec::new();
    for (member, addresses) in members.iter().zip(addresses) {
        let own = addresses.ordered(&member.plan.name, networking)?;
        founders.extend(own.first().map(|address| (member.plan.name.clone(), *address)));
    }
    Ok(if founders.len() > 1 { founders } else { Vec::new() })
}

/// Runs kubeadm's first phases on a control plane, which end by starting its kubelet.
async fn start_static_pods(
    build: &Build<'_>,
    member: &Member,
    addresses: &NodeAddresses,
    founders: &[(String, IpAddr)],
) -> Result<(), ClusterError> {
    let is_first = member.plan.start() == NodeStart::Init;
    let (config, credentials, held) = if is_first {
        (KUBEADM_CONFIG, &CREDENTIALS[..], &HELD[..])
    } else {
        (FURTHER_CONFIG, &CREDENTIALS_FURTHER[..], &HELD_FURTHER[..])
    };
    let etcd = if founders.is_empty() {
        config
    } else {
        let text = render::founding_config(
            &build.inputs,
            &member.plan,
            addresses,
            &build.endpoint,
            &build.token,
            &render::initial_cluster(founders),
        )?;
        member.node.put_files(&[FileEntry::new(FOUNDING_CONFIG, 0o600, text.as_bytes())]).await?;
        FOUNDING_CONFIG
    };
    let script = format!(
        "config='{config}' etcd='{etcd}' manifests='{MANIFESTS}' later='{LATER}' patches='{patches}'\n\
         credentials='{credentials}' pods='{pods}' held='{held}'\n{INIT_STATIC_PODS}",
        patches = render::patches_flag(build.inputs.version).unwrap_or_default(),
        credentials = credentials.join("\n"),
        pods = STATIC_PODS.join("\n"),
        held = held.join("\n"),
    );
    build.phase(member, "kubeadm init", &script).await
}

/// Starts the static pods whose manifests have waited.
async fn start_later(member: &Member, what: &str) -> Result<(), ClusterError> {
    let script = format!("manifests='{MANIFESTS}' later='{LATER}'\n{LATER_STATIC_PODS}");
    member.node.script(what, &script).await?;
    Ok(())
}

/// A script that runs these of kubeadm's phases, one after the other.
pub(super) fn phases(config: &str, names: &[&str]) -> String {
    format!("config='{config}' phases='{}'\n{PHASES}", names.join("\n"))
}

/// The files by which a control plane is who it is.
fn files(
    build: &Build<'_>,
    pki: &Pki,
    member: &Member,
    addresses: &NodeAddresses,
    several: bool,
) -> Result<Vec<FileEntry>, ClusterError> {
    let networking = &build.inputs.profile.spec.networking;
    let own = addresses.ordered(&member.plan.name, networking)?;
    let local = own.first().map(|address| SocketAddr::new(*address, API_SERVER_PORT).to_string());
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
    let start = member.plan.start();
    let mut files = pki.control_plane_files(&names)?;
    files.extend(pki.control_plane_kubeconfigs(build.inputs.cluster, &endpoint, &local, start)?);
    // The name of an only one outlives its address.
    let asks_own = several && build.inputs.version.kubelet_asks_own_api_server();
    let kubelet_server = if asks_own { &local } else { &endpoint };
    files.extend(pki.kubelet_files(build.inputs.cluster, &member.plan.name, kubelet_server)?);
    if start != NodeStart::Init {
        files.push(build.config_file(member, FURTHER_CONFIG, NodeStart::Init, addresses)?);
    }
    Ok(files)
}

/// Asks until the first API server is ready, and tells `answers` when it answers; gives up early if a container keeps ending.
async fn wait_for_api_server(build: &Build<'_>, client: &Client, answers: &Notify) -> Result<(), ClusterError> {
    let start = Instant::now();
    let (first, members) = (build.init(), build.control_planes());
    let ready = async {
        while !kubernetes::answers(client).await {
            tokio::time::sleep(ASK).await;
        }
        answers.notify_one();
        // Earlier, the controller manager and the scheduler would be refused, and wait for seconds.
        while !kubernetes::has_roles(client).await {
            tokio::time::sleep(ASK).await;
        }
        start_later(first, "starting the controller manager and the scheduler").await?;
        while !kubernetes::is_ready(client).await {
            tokio::time::sleep(ASK).await;
        }
        Ok::<_, ClusterError>(())
    };
    let given_up = async {
        tokio::time::sleep(LOOK).await;
        while start.elapsed() < API_SERVER {
            tokio::time::sleep(LOOK).await;
            for member in &members {
                if let Some(error) = logs::crash_loop(&member.node, "").await {
                    return error;
                }
            }
            if start.elapsed() > START && logs::last_words(&first.node, "kube-apiserver").await.is_none() {
                let what = "the kubelet has not started the API server";
                return too_slow(first, what, START).await;
            }
        }
        too_slow(first, NOT_READY, API_SERVER).await
    };
    let kubelets = select_all(members.iter().map(|member| watch_kubelet(&member.node).boxed()));
    tokio::select! {
        result = ready => result,
        error = given_up => Err(error),
        (error, _, _) = kubelets => Err(error),
    }
}

/// The error of a control plane on which something has not come in good time, with what stopped it, as far as that shows.
async fn too_slow(member: &Member, what: &'static str, waited: Duration) -> ClusterError {
    let silent = logs::silent(&member.node).await;
    ClusterError::FastStart { node: member.plan.name.clone(), what, seconds: waited.as_secs(), silent }
}

/// Runs kubeadm's remaining phases on the first control plane.
pub(super) async fn complete_first(build: &Build<'_>) -> Result<(), ClusterError> {
    let member = build.init();
    let step = build.context.reporter.step(&member.plan.name, "Completing the control plane");
    // In this order kubeadm runs them one after the other, but the addons need none of what the others make.
    let addons = async {
        if build.inputs.profile.spec.networking.kube_proxy_mode != KubeProxyMode::None {
            build.phase(member, "kubeadm init (addons)", &phases(KUBEADM_CONFIG, &["addon kube-proxy"])).await?;
        }
        Ok(())
    };
    if build.control_planes().len() > 1 {
        // etcd had to find its other members first: meanwhile this kubelet, too, has asked in vain.
        start_kubelet(member).await?;
    }
    let objects = phases(KUBEADM_CONFIG, &OBJECTS);
    tokio::try_join!(build.phase(member, "kubeadm init (objects)", &objects), addons)?;
    step.done();
    Ok(())
}

/// Starts the rest of a further control plane, waits until its kubelet has registered the node, and completes it.
pub(super) async fn join(build: &Build<'_>, client: &Client, member: &Member) -> Result<(), ClusterError> {
    let step = build.context.reporter.step(&member.plan.name, "Joining");
    let joined = async {
        start_later(member, "starting the API server").await?;
        if build.inputs.version.kubelet_asks_own_api_server() {
            await_own_api_server(build, member, client).await?;
        }
        // It was started for etcd, has asked in vain ever since, and waits ever longer between tries; a new one does not.
        start_kubelet(member).await?;
        Ok::<_, ClusterError>(kubernetes::complete_node(client, &member.plan, build.inputs.version).await?)
    };
    tokio::select! {
        joined = joined => joined?,
        error = watch_kubelet(&member.node) => return Err(error),
        error = watch_static_pods(member) => return Err(error),
    }
    step.done();
    Ok(())
}

/// Starts a node's kubelet anew.
pub(super) async fn start_kubelet(member: &Member) -> Result<(), ClusterError> {
    member.node.run(&["systemctl", "restart", "--no-block", "kubelet"]).await?;
    Ok(())
}

/// Waits until a control plane's own API server is ready: that is when it counts itself among those of the API's service
/// (`pkg/controlplane/controller/kubernetesservice`).
async fn await_own_api_server(build: &Build<'_>, member: &Member, client: &Client) -> Result<(), ClusterError> {
    let (v4, v6) = member.node.addresses(build.network()).await?;
    let own = [v4.map(IpAddr::from), v6.map(IpAddr::from)];
    let counts = async {
        while !kubernetes::own_service(client).await.is_ok_and(|to| to.iter().any(|to| own.contains(&Some(*to)))) {
            tokio::time::sleep(ASK_FOR_ANOTHER).await;
        }
    };
    match tokio::time::timeout(API_SERVER, counts).await {
        Ok(()) => Ok(()),
        Err(_) => Err(too_slow(member, NOT_READY, API_SERVER).await),
    }
}

/// Looks at a control plane's static pods now and then; ends if one keeps ending.
async fn watch_static_pods(member: &Member) -> ClusterError {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Some(error) = logs::crash_loop(&member.node, "").await {
            return error;
        }
    }
}

/// What comes when all have joined: in versions where kubeadm keeps a list of API servers, further ones are put on it; what only
/// this way needed is removed.
pub(super) async fn finish(build: &Build<'_>) -> Result<(), ClusterError> {
    for member in build.joining(NodeStart::JoinControlPlane) {
        if build.inputs.version.lists_api_servers() {
            let upload = phases(FURTHER_CONFIG, &["upload-config kubeadm"]);
            build.phase(member, "kubeadm init (objects)", &upload).await?;
        }
    }
    try_join_all(
        build
            .control_planes()
            .iter()
            .map(|member| async { member.node.run(&["rm", "-f", FURTHER_CONFIG, FOUNDING_CONFIG]).await }),
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kubeadm that takes a phase at its third try only, another one never, and for a third does not take its configuration.
    const KUBEADM: &str = r#"#!/bin/sh
echo "$3 $4" >> "$0.log"
tries=$(wc -l < "$0.log")
case $3 in slow) [ "$tries" -ge 3 ] ;; never) exit 1 ;; invalid) exit 3 ;; esac
"#;

    #[test]
    fn a_phase_that_fails_for_a_moment_is_tried_again() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::process::Command;

        let run = |names: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, program) in [("kubeadm", KUBEADM), ("sleep", "#!/bin/sh\n")] {
                let path = folder.path().join(name);
                std::fs::write(&path, program).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
            let status = Command::new("sh").args(["-euc", &phases("/c", names)]).env("PATH", path).status().unwrap();
            let log = std::fs::read_to_string(folder.path().join("kubeadm.log")).unwrap();
            (status.code().unwrap(), log.lines().map(str::to_owned).collect::<Vec<_>>())
        };
        let (code, tried) = run(&["slow", "two words"]);
        assert_eq!(
            (code, tried.join("; ")),
            (0, "slow --config=/c; slow --config=/c; slow --config=/c; two words".to_owned())
        );
        assert_eq!(run(&["never", "slow"]), (1, vec!["never --config=/c".to_owned(); 3]));
        assert_eq!(run(&["invalid", "slow"]), (3, vec!["invalid --config=/c".to_owned()]));
    }
}
