//! The configuration that kind's own CNI, kindnet, writes on each node.
//!
//! kindnet overwrites it with its own, of the same content, when it comes around to it.

use serde::Serialize;

use super::{RenderError, Templates, templates};

/// Where kindnet writes it (images/kindnetd/cmd/kindnetd/cni.go).
pub const KINDNET_FILE: &str = "/etc/cni/net.d/10-kindnet.conflist";

#[derive(Serialize)]
struct KindnetValues<'a> {
    pod_subnets: &'a [String],
    routes: Vec<&'static str>,
    mtu: u32,
}

/// The CNI's configuration for a node whose pods have addresses of `pod_subnets`, one of each family.
/// `mtu` is that of the node's interface, in bytes.
///
/// # Errors
/// [`RenderError::Template`] if an overriding template is broken.
pub fn kindnet_config(templates: &Templates, pod_subnets: &[String], mtu: u32) -> Result<String, RenderError> {
    let is_v6 = |subnet: &String| subnet.contains(':');
    let mut routes = Vec::new();
    if !pod_subnets.iter().all(is_v6) {
        routes.push("0.0.0.0/0");
    }
    if pod_subnets.iter().any(is_v6) {
        routes.push("::/0");
    }
    Ok(templates.render(templates::KINDNET, KindnetValues { pod_subnets, routes, mtu })?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(pod_subnets: &[&str]) -> Value {
        let subnets: Vec<String> = pod_subnets.iter().map(|&subnet| subnet.to_owned()).collect();
        serde_json::from_str(&kindnet_config(&Templates::built_in(), &subnets, 1500).unwrap()).unwrap()
    }

    /// As read from a node of kind 0.33.
    #[test]
    fn it_is_what_kindnet_writes() {
        let ptp = json!({
            "type": "ptp",
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam-state",
                "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "10.244.0.0/24"}]],
            },
            "mtu": 1500,
        });
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let expected = json!({"cniVersion": "0.3.1", "name": "kindnet", "plugins": [ptp, portmap]});
        assert_eq!(config(&["10.244.0.0/24"]), expected);
    }

    #[test]
    fn each_family_has_a_route_and_a_range() {
        let ipam = |subnets: &[&str]| config(subnets)["plugins"][0]["ipam"].clone();
        assert_eq!(ipam(&["fd00:10:244::/64"])["routes"], json!([{"dst": "::/0"}]));
        let both = ipam(&["10.244.0.0/24", "fd00:10:244::/64"]);
        assert_eq!(both["routes"], json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]));
        assert_eq!(both["ranges"], json!([[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10:244::/64"}]]));
    }
}
