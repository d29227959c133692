//! The nodes of a cluster: their names, what each of them is given, and where they are found.
//!
//! Owns names, ports and addresses that follow from the profile alone. Leaves
//! containers to the engine and kubeadm's documents to its siblings.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::documents::profile::{
    IpFamily, Limits, Mount, Networking, PatchJson6902, PortMapping, Profile, Propagation, Role, Taint,
};

use super::{PLUGIN_SOCKET_FOLDER, RenderError};

/// The API server's port inside a node (and of the load balancer).
pub const API_SERVER_PORT: u16 = 6443;

/// How a node comes to be part of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeStart {
    /// It is the first control plane.
    Init,
    /// It is a further control plane.
    JoinControlPlane,
    /// It is a worker.
    JoinWorker,
}

impl NodePlan {
    /// How this node starts: the first control plane makes the cluster, the others join.
    #[must_use]
    pub fn start(&self) -> NodeStart {
        match (self.role, self.index) {
            (Role::ControlPlane, 1) => NodeStart::Init,
            (Role::ControlPlane, _) => NodeStart::JoinControlPlane,
            (Role::Worker, _) => NodeStart::JoinWorker,
        }
    }
}

/// One node, before it has an address.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePlan {
    /// The container's name, host name and name in Kubernetes.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Its place among the nodes of its role, counted from 1.
    pub index: u32,
    /// The profile's labels.
    pub labels: BTreeMap<String, String>,
    /// The profile's taints.
    pub taints: Vec<Taint>,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Host paths mounted into it.
    pub mounts: Vec<Mount>,
    /// How much of the host it may use.
    pub limits: Limits,
    /// Another image than the cluster's.
    pub image: Option<String>,
    /// Merge patches of its kubeadm configuration, besides the cluster's.
    pub kubeadm_config_patches: Vec<String>,
    /// JSON 6902 patches of its kubeadm configuration, besides the cluster's.
    pub kubeadm_config_patches_json6902: Vec<PatchJson6902>,
}

/// The nodes of `profile` as a cluster called `cluster`, control planes first.
///
/// Named as kind names them (pkg/cluster/internal/providers/common/namer.go): the
/// first one of a role has no number, the second one is 2.
#[must_use]
pub fn plan_nodes(profile: &Profile, cluster: &str) -> Vec<NodePlan> {
    let groups = profile.spec.node_groups();
    let plugin = profile.kms_on_host().map(|folder| Mount {
        host_path: folder.to_owned(),
        container_path: PLUGIN_SOCKET_FOLDER.to_owned(),
        // Who connects to a socket does not write its folder.
        read_only: true,
        selinux_relabel: false,
        propagation: Propagation::None,
    });
    let mut nodes = Vec::new();
    for role in [Role::ControlPlane, Role::Worker] {
        let mut index = 0;
        for group in groups.iter().filter(|group| group.role == role) {
            for _ in 0..group.count {
                index += 1;
                let number = if index == 1 { String::new() } else { index.to_string() };
                let plugin = plugin.clone().filter(|_| role == Role::ControlPlane);
                nodes.push(NodePlan {
                    name: format!("{cluster}-{role}{number}", role = role_name(role)),
                    role,
                    index,
                    labels: group.labels.clone(),
                    taints: group.taints.clone(),
                    ports: group.ports.clone(),
                    mounts: group.mounts.iter().cloned().chain(plugin).collect(),
                    limits: group.limits.clone(),
                    image: group.image.clone(),
                    kubeadm_config_patches: group.kubeadm_config_patches.clone(),
                    kubeadm_config_patches_json6902: group.kubeadm_config_patches_json6902.clone(),
                });
            }
        }
    }
    nodes
}

/// A role as kind writes it in names, labels and configuration.
#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::ControlPlane => "control-plane",
        Role::Worker => "worker",
    }
}

/// The name of the container in front of several control planes.
#[must_use]
pub fn load_balancer_name(cluster: &str) -> String {
    format!("{cluster}-external-load-balancer")
}

/// Whether the nodes need a load balancer: there is more than one control plane.
#[must_use]
pub fn needs_load_balancer(nodes: &[NodePlan]) -> bool {
    nodes.iter().filter(|node| node.role == Role::ControlPlane).count() > 1
}

/// Where the nodes find the API server, as `host:port`: the control plane or the load balancer.
#[must_use]
pub fn control_plane_endpoint(nodes: &[NodePlan], cluster: &str) -> String {
    let host = if needs_load_balancer(nodes) {
        load_balancer_name(cluster)
    } else {
        format!("{cluster}-{}", role_name(Role::ControlPlane))
    };
    format!("{host}:{API_SERVER_PORT}")
}

/// A node's addresses on the engine's network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeAddresses {
    /// Its IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl NodeAddresses {
    /// The addresses that the cluster's family uses, the preferred one first. With
    /// both families, the services' first subnet decides (as in kind; kubernetes-sigs/kind issue 2484).
    ///
    /// # Errors
    /// [`RenderError::NoAddress`] if the engine's network has none of a family.
    pub fn ordered(self, node: &str, networking: &Networking) -> Result<Vec<IpAddr>, RenderError> {
        let v4 = || {
            let missing = || RenderError::NoAddress { node: node.to_owned(), family: "IPv4" };
            self.v4.map(IpAddr::from).ok_or_else(missing)
        };
        let v6 = || {
            let missing = || RenderError::NoAddress { node: node.to_owned(), family: "IPv6" };
            self.v6.map(IpAddr::from).ok_or_else(missing)
        };
        Ok(match networking.ip_family {
            IpFamily::Ipv4 => vec![v4()?],
            IpFamily::Ipv6 => vec![v6()?],
            IpFamily::Dual => {
                let first = networking.service_subnet().split(',').next().unwrap_or_default();
                if first.contains(':') { vec![v6()?, v4()?] } else { vec![v4()?, v6()?] }
            }
        })
    }
}
