//! What a node's network needs before the CNI and kube-proxy have come around to it.
//!
//! Both do their work in rounds, and the first one mostly comes to nothing: kindnet looks for nodes before it can have
//! heard of any, and again ten seconds later. What is done here is what they do themselves in the end, and what they find
//! then they leave as it is. So all of it is a shortcut, and whatever fails is only slower.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::future::join_all;
use kube::Client;

use crate::adapters::engine::Subnet;
use crate::adapters::kubernetes;
use crate::adapters::node::{Node, NodeError};
use crate::documents::profile::{KubeProxyMode, Profile};
use crate::documents::record::NodeRecord;
use crate::documents::render::{API_SERVER_PORT, KINDNET_FILE, Templates, kindnet_config};

/// How long the controller manager may take to give out pod subnets; after that, kindnet does it all by itself.
const SUBNETS: Duration = Duration::from_secs(60);

/// Connects the nodes' pods as kindnet will: a configuration of the CNI on each node, and routes from each to the pods
/// of the others. Waits until the controller manager has given out pod subnets, but not for long.
pub(super) async fn connect_pods(client: &Client, templates: &Templates, nodes: &[Node], addresses: &[NodeRecord]) {
    let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let mtu = join_all(nodes.iter().map(async |node| {
        let text = node.run(&["cat", "/sys/class/net/eth0/mtu"]).await.ok()?;
        text.trim().parse::<u32>().ok()
    }));
    let subnets = tokio::time::timeout(SUBNETS, kubernetes::pod_subnets(client, &names));
    let (mtu, Ok(subnets)) = tokio::join!(mtu, subnets) else { return };
    join_all(nodes.iter().zip(mtu).map(async |(node, mtu)| {
        let config = kindnet_config(templates, subnets.get(&node.name)?, mtu?).ok()?;
        let others = addresses.iter().filter(|other| other.name != node.name);
        let routes = others.flat_map(|other| routes(other, subnets.get(&other.name).map_or(&[], Vec::as_slice)));
        node.script("connecting the pods", &script(&routes.collect::<Vec<_>>(), &config)).await.ok()
    }))
    .await;
}

/// The routes to a node's pods.
fn routes(node: &NodeRecord, pod_subnets: &[String]) -> Vec<String> {
    let route = |subnet: &String| {
        let gateway = if subnet.contains(':') { IpAddr::from(node.ipv6?) } else { IpAddr::from(node.ipv4?) };
        let subnet: Subnet = subnet.parse().ok()?;
        Some(format!("ip route replace {subnet} via {gateway}\n"))
    };
    pod_subnets.iter().filter_map(route).collect()
}

/// A configuration that is there already is kindnet's own. Renamed when it is whole, since containerd watches the folder.
fn script(routes: &[String], config: &str) -> String {
    format!(
        "{routes}\
         [ -e {KINDNET_FILE} ] && exit\n\
         mkdir -p \"$(dirname {KINDNET_FILE})\"\n\
         cat > {KINDNET_FILE}.kprov <<'END'\n\
         {config}\n\
         END\n\
         mv -n {KINDNET_FILE}.kprov {KINDNET_FILE}\n\
         rm -f {KINDNET_FILE}.kprov\n",
        routes = routes.concat(),
    )
}

/// The API server's address among the services: the first of their subnet.
pub(super) fn api_server_address(service_subnet: &str) -> Option<IpAddr> {
    let subnet: Subnet = service_subnet.trim().parse().ok()?;
    Some(match subnet.base {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) + 1).into(),
        IpAddr::V6(base) => Ipv6Addr::from(u128::from(base) + 1).into(),
    })
}

/// A way from a node to the API server's service address, until kube-proxy has made its own: pods that start
/// before that, such as the cluster's name server, would hang in their first connection for half a minute.
#[derive(Debug, Clone)]
pub(super) struct ServiceDnat(Vec<String>);

impl ServiceDnat {
    /// The way to the first control plane; none where nobody routes service addresses.
    pub(super) fn of(profile: &Profile, first: Option<&NodeRecord>) -> Self {
        let networking = &profile.spec.networking;
        if networking.kube_proxy_mode == KubeProxyMode::None {
            return Self(Vec::new());
        }
        let rules = networking.service_subnet().split(',').filter_map(|subnet| {
            let from = api_server_address(subnet)?;
            let (tool, to) = match from {
                IpAddr::V4(_) => ("iptables", first?.ipv4?.to_string()),
                IpAddr::V6(_) => ("ip6tables", format!("[{}]", first?.ipv6?)),
            };
            Some((tool, format!("-d {from} -p tcp --dport 443 -j DNAT --to-destination {to}:{API_SERVER_PORT}")))
        });
        Self(
            rules
                .flat_map(|(tool, rule)| {
                    ["PREROUTING", "OUTPUT"].map(|chain| format!("{tool} -w -t nat ACTION {chain} {rule}"))
                })
                .collect(),
        )
    }

    pub(super) async fn add(&self, node: &Node) -> Result<(), NodeError> {
        self.run(node, "-I").await
    }

    pub(super) async fn remove(&self, node: &Node) -> Result<(), NodeError> {
        self.run(node, "-D").await
    }

    async fn run(&self, node: &Node, action: &str) -> Result<(), NodeError> {
        // A node without such rules is slower, not wrong.
        let lines: Vec<String> =
            self.0.iter().map(|rule| format!("{} || true\n", rule.replacen("ACTION", action, 1))).collect();
        node.script("laying a way to the API server", &lines.concat()).await.map(|_| ())
    }
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
        let expected =
            ["ip route replace 10.244.1.0/24 via 172.18.0.3\n", "ip route replace fd00:10:244:1::/64 via fd00::3\n"];
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
        let route = |networking| ServiceDnat::of(&profile(networking), Some(&node())).0;
        let dual = route(serde_json::json!({"serviceSubnet": "10.96.0.0/16,fd00:10:96::/112"}));
        assert_eq!(dual.len(), 4);
        assert!(
            dual[0].contains("-d 10.96.0.1 -p tcp --dport 443 -j DNAT --to-destination 172.18.0.3:6443"),
            "{dual:?}"
        );
        assert!(
            dual[2].contains("-d fd00:10:96::1 -p tcp --dport 443 -j DNAT --to-destination [fd00::3]:6443"),
            "{dual:?}"
        );
        assert!(route(serde_json::json!({"kubeProxyMode": "none"})).is_empty());
    }
}
