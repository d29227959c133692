//! What is meant where a profile says nothing.
//!
//! Owns effective values; they are kind's own, so that an empty profile is the cluster that kind makes.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{IpFamily, Networking, NodeGroup, PatchJson6902, Profile, Role, Spec};

/// The node image of kind 0.33.0.
pub const DEFAULT_IMAGE: &str =
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5";

/// The network that all clusters share unless they say otherwise, as in kind.
const DEFAULT_NETWORK: &str = "kind";

impl Profile {
    /// The cluster's name: `spec.clusterName`, or else the profile's own.
    #[must_use]
    pub fn cluster_name(&self) -> &str {
        self.spec.cluster_name.as_deref().unwrap_or(&self.metadata.name)
    }
}

impl Spec {
    /// The image of nodes whose group names none.
    #[must_use]
    pub fn image(&self) -> &str {
        self.image.as_deref().unwrap_or(DEFAULT_IMAGE)
    }

    /// The groups of nodes: one control plane unless there are any.
    #[must_use]
    pub fn node_groups(&self) -> Cow<'_, [NodeGroup]> {
        if self.nodes.is_empty() {
            Cow::Owned(vec![NodeGroup::new(Role::ControlPlane)])
        } else {
            Cow::Borrowed(&self.nodes)
        }
    }

    /// Whether kubeadm's configuration is patched on any node.
    #[must_use]
    pub fn patches_kubeadm(&self) -> bool {
        let own = |merges: &[String], operations: &[PatchJson6902]| !merges.is_empty() || !operations.is_empty();
        own(&self.kubeadm_config_patches, &self.kubeadm_config_patches_json6902)
            || self.nodes.iter().any(|node| own(&node.kubeadm_config_patches, &node.kubeadm_config_patches_json6902))
    }

    /// Takes away all patches of kubeadm's configuration.
    pub(crate) fn without_kubeadm_patches(&mut self) {
        self.kubeadm_config_patches.clear();
        self.kubeadm_config_patches_json6902.clear();
        for node in &mut self.nodes {
            node.kubeadm_config_patches.clear();
            node.kubeadm_config_patches_json6902.clear();
        }
    }

    /// How many nodes have `role`.
    #[must_use]
    pub fn count(&self, role: Role) -> u32 {
        self.node_groups().iter().filter(|group| group.role == role).map(|group| group.count).sum()
    }
}

impl NodeGroup {
    /// One node without anything special.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            count: 1,
            image: None,
            labels: std::collections::BTreeMap::new(),
            taints: Vec::new(),
            ports: Vec::new(),
            mounts: Vec::new(),
            limits: super::Limits::default(),
            kubeadm_config_patches: Vec::new(),
            kubeadm_config_patches_json6902: Vec::new(),
        }
    }
}

impl Networking {
    /// The pods' addresses; two, separated by a comma, in a dual-stack cluster.
    #[must_use]
    pub fn pod_subnet(&self) -> &str {
        self.pod_subnet.as_deref().unwrap_or(match self.ip_family {
            IpFamily::Ipv4 => "10.244.0.0/16",
            IpFamily::Ipv6 => "fd00:10:244::/56",
            IpFamily::Dual => "10.244.0.0/16,fd00:10:244::/56",
        })
    }

    /// The services' addresses; two, separated by a comma, in a dual-stack cluster.
    #[must_use]
    pub fn service_subnet(&self) -> &str {
        self.service_subnet.as_deref().unwrap_or(match self.ip_family {
            IpFamily::Ipv4 => "10.96.0.0/16",
            IpFamily::Ipv6 => "fd00:10:96::/112",
            IpFamily::Dual => "10.96.0.0/16,fd00:10:96::/112",
        })
    }

    /// The engine's network that the nodes are on.
    #[must_use]
    pub fn docker_network(&self) -> &str {
        self.docker_network.as_deref().unwrap_or(DEFAULT_NETWORK)
    }

    /// The host address that nodes' ports are published on unless they name one.
    #[must_use]
    pub fn listen_address(&self) -> IpAddr {
        match self.ip_family {
            IpFamily::Ipv4 | IpFamily::Dual => Ipv4Addr::UNSPECIFIED.into(),
            IpFamily::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The host address of the API server's port: the loopback address of the family.
    #[must_use]
    pub fn api_server_address(&self) -> IpAddr {
        self.api_server_address.unwrap_or(match self.ip_family {
            IpFamily::Ipv4 | IpFamily::Dual => Ipv4Addr::LOCALHOST.into(),
            IpFamily::Ipv6 => Ipv6Addr::LOCALHOST.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_spec_is_kinds_cluster() {
        let spec = Spec::default();
        assert_eq!(spec.node_groups()[..], [NodeGroup::new(Role::ControlPlane)]);
        assert_eq!((spec.count(Role::ControlPlane), spec.count(Role::Worker)), (1, 0));
        assert_eq!(spec.image(), DEFAULT_IMAGE);
        assert_eq!(spec.networking.pod_subnet(), "10.244.0.0/16");
        assert_eq!(spec.networking.service_subnet(), "10.96.0.0/16");
        assert_eq!(spec.networking.api_server_address().to_string(), "127.0.0.1");
    }

    #[test]
    fn defaults_follow_the_family() {
        let with = |ip_family| Networking { ip_family, ..Networking::default() };
        assert_eq!(with(IpFamily::Ipv6).pod_subnet(), "fd00:10:244::/56");
        assert_eq!(with(IpFamily::Ipv6).api_server_address().to_string(), "::1");
        assert_eq!(with(IpFamily::Dual).service_subnet(), "10.96.0.0/16,fd00:10:96::/112");
    }
}
