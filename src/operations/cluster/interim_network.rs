//! What a node's network needs before the CNI and kube-proxy have come around to it.
//!
//! Both do their work in rounds, and the first one mostly comes to nothing: kindnet looks for nodes before it can have
//! heard of any, and again ten seconds later. What is done here is what they do themselves in the end, and what they find
//! then they leave as it is. So all of it is a shortcut: what fails is told, and is only slower.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use ipnet::IpNet;
use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::kubernetes;
use crate::adapters::node::{Node, NodeError};
use crate::documents::profile::{KubeProxyMode, Profile};
use crate::documents::record::NodeRecord;
use crate::documents::render::{API_SERVER_PORT, KINDNET_FILE, Templates, kindnet_config};
use crate::operations::verify::StandIn;

use super::Context;

const CONNECT_PODS: &str = include_str!("scripts/connect_pods.sh");

/// How long the controller manager may take to give out pod subnets; after that, kindnet does it all by itself.
const SUBNETS: Duration = Duration::from_secs(60);

/// Connects the nodes' pods as kindnet will: a configuration of the CNI on each node, and routes from each to the pods
/// of the others. Waits until the controller manager has given out pod subnets, but not for long. Says what did not work.
pub(super) async fn connect_pods(
    client: &Client,
    templates: &Templates,
    nodes: &[Node],
    addresses: &[NodeRecord],
) -> Vec<String> {
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let mtu = join_all(nodes.iter().map(async |node| node.run(&["cat", "/sys/class/net/eth0/mtu"]).await));
    let subnets = tokio::time::timeout(SUBNETS, kubernetes::pod_subnets(client, &names));
    let (mtu, Ok(subnets)) = tokio::join!(mtu, subnets) else {
        return vec![format!("there are no pod subnets after {} s", SUBNETS.as_secs())];
    };
    let connected = join_all(nodes.iter().zip(mtu).map(async |(node, mtu)| {
        let mtu = mtu.map_err(|error| error.to_string())?;
        let mtu = mtu.trim().parse().map_err(|_| format!("{}: its MTU is {mtu:?}", node.name))?;
        let own = subnets.get(&node.name).ok_or_else(|| format!("{}: it has no pod subnet", node.name))?;
        let config = kindnet_config(templates, own, mtu).map_err(|error| error.to_string())?;
        let others = addresses.iter().filter(|other| other.name != node.name);
        let routes = others.flat_map(|other| routes(other, subnets.get(&other.name).map_or(&[], Vec::as_slice)));
        let script = format!("{CONNECT_PODS}\n{}cni_config {KINDNET_FILE}", routes.collect::<String>());
        let config = Zeroizing::new(config.into_bytes());
        node.feed("connecting the pods", &script, config).await.map_err(|error| error.to_string())
    }));
    connected.await.into_iter().filter_map(Result::err).collect()
}

/// The routes to a node's pods.
fn routes(node: &NodeRecord, pod_subnets: &[String]) -> Vec<String> {
    let route = |subnet: &String| {
        let gateway = if subnet.contains(':') { IpAddr::from(node.ipv6?) } else { IpAddr::from(node.ipv4?) };
        let subnet: IpNet = subnet.parse().ok()?;
        Some(format!("route {subnet} {gateway}\n"))
    };
    pod_subnets.iter().filter_map(route).collect()
}

/// The API server's address among the services: the first of their subnet.
pub(super) fn api_server_address(service_subnet: &str) -> Option<IpAddr> {
    let subnet: IpNet = service_subnet.trim().parse().ok()?;
    Some(match subnet.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) + 1).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + 1).into(),
    })
}

/// Ways from a node to the API server's service address, until kube-proxy has made its own: pods that start
/// before that, such as the cluster's name server, would hang in their first connection for half a minute.
///
/// They lead to the first control plane; there are none where nobody routes service addresses.
pub(super) fn stand_ins(profile: &Profile, first: Option<&NodeRecord>) -> Vec<StandIn> {
    let networking = &profile.spec.networking;
    if networking.kube_proxy_mode == KubeProxyMode::None {
        return Vec::new();
    }
    let stand_in = |subnet| {
        let address = api_server_address(subnet)?;
        let target = match address {
            IpAddr::V4(_) => IpAddr::from(first?.ipv4?),
            IpAddr::V6(_) => IpAddr::from(first?.ipv6?),
        };
        Some(StandIn { address, target: SocketAddr::new(target, API_SERVER_PORT).to_string() })
    };
    networking.service_subnet().split(',').filter_map(stand_in).collect()
}

/// Lays ways on nodes. Says what did not work.
pub(super) async fn lay(stand_ins: &[StandIn], nodes: &[Node]) -> Vec<String> {
    let all = nodes.iter().flat_map(|node| stand_ins.iter().map(move |stand_in| stand_in.lay(node)));
    join_all(all).await.into_iter().filter_map(|laid| laid.err().map(|error| error.to_string())).collect()
}

/// Tells what did not work, and that it is no harm.
pub(super) fn slower(context: &Context, failed: &[String]) {
    for what in failed {
        context.reporter.warn(&format!("a shortcut of the nodes' network did not work, so this takes longer: {what}"));
    }
}

/// Takes all ways away again.
///
/// # Errors
/// [`NodeError::Command`] if a node's rules cannot be read or changed.
pub(super) async fn take_away(stand_ins: &[StandIn], nodes: &[Node]) -> Result<(), NodeError> {
    let all = nodes.iter().flat_map(|node| stand_ins.iter().map(move |stand_in| stand_in.take_away(node)));
    try_join_all(all).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeRecord {
        let (ipv4, ipv6) = (Some(Ipv4Addr::new(172, 18, 0, 3)), Some("fd00::3".parse().unwrap()));
        NodeRecord { name: "w".to_owned(), ipv4, ipv6 }
    }

    #[test]
    fn pods_are_reached_by_their_nodes_address_of_the_same_family() {
        let subnets = ["10.244.1.0/24".to_owned(), "fd00:10:244:1::/64".to_owned(), "$(reboot)".to_owned()];
        let expected = ["route 10.244.1.0/24 172.18.0.3\n", "route fd00:10:244:1::/64 fd00::3\n"];
        assert_eq!(routes(&node(), &subnets), expected);
    }

    #[test]
    fn the_api_server_has_the_first_service_address() {
        assert_eq!(api_server_address("10.96.0.0/16"), Some("10.96.0.1".parse().unwrap()));
        assert_eq!(api_server_address("fd00:10:96::/112"), Some("fd00:10:96::1".parse().unwrap()));
        assert_eq!(api_server_address("nonsense"), None);
    }

    #[test]
    fn the_api_server_is_reached_by_the_first_service_address_of_each_family() {
        let profile = |networking: serde_json::Value| -> Profile {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "test"},
                "spec": {"nodes": [{"role": "control-plane"}], "networking": networking},
            }))
            .unwrap()
        };
        let ways = |networking| -> Vec<(String, String)> {
            let all = stand_ins(&profile(networking), Some(&node()));
            all.into_iter().map(|way| (way.address.to_string(), way.target)).collect()
        };
        let pair = |address: &str, target: &str| (address.to_owned(), target.to_owned());
        assert_eq!(
            ways(serde_json::json!({"serviceSubnet": "10.96.0.0/16,fd00:10:96::/112"})),
            [pair("10.96.0.1", "172.18.0.3:6443"), pair("fd00:10:96::1", "[fd00::3]:6443")]
        );
        assert!(ways(serde_json::json!({"kubeProxyMode": "none"})).is_empty());
    }
}
