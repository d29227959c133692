//! What is remembered of a cluster: how it was made, and from what.
//!
//! Where records lie and who may change them is `adapters::records`' affair.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::documents::keys::KeyRing;
use crate::documents::names::ClusterName;
use crate::documents::profile::Profile;
use crate::documents::render::{Inputs, KubernetesVersion, Templates};

/// How far the making of a cluster has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RecordStatus {
    /// Being made; if nobody holds the lock, who did was killed.
    Creating,
    /// Made and verified.
    Ready,
}

impl std::fmt::Display for RecordStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Ready => "ready",
        })
    }
}

/// How a cluster was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The cluster's name.
    pub name: ClusterName,
    /// The engine that it was made on; records of kprov's first version do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineRecord>,
    /// How far it has come.
    pub status: RecordStatus,
    /// Which of the generations of its nodes has been proven last. Each reset and each restore makes a new one.
    #[serde(default)]
    pub generation: u64,
    /// The resolved profile.
    pub profile: Profile,
    /// The folder at which the profile's relative paths start.
    pub base: PathBuf,
    /// The image's reference.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// The load balancer's image, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer_image: Option<String>,
    /// The Kubernetes version, `vX.Y.Z`.
    pub version: String,
    /// The digest over documents and image.
    pub digest: String,
    /// The host port of the API server.
    pub api_server_port: u16,
    /// The nodes' addresses.
    pub nodes: Vec<NodeRecord>,
}

impl Record {
    /// The engine's network that its nodes are on.
    #[must_use]
    pub fn network(&self) -> &str {
        self.profile.spec.networking.docker_network()
    }

    /// What the documents of this cluster are rendered from. `version` is the record's own, parsed.
    #[must_use]
    pub fn inputs<'a>(
        &'a self,
        version: &'a KubernetesVersion,
        keys: Option<&'a KeyRing>,
        templates: &'a Templates,
        cgroup_v1: bool,
    ) -> Inputs<'a> {
        let Self { profile, name: cluster, image, .. } = self;
        Inputs { profile, cluster, image, version, keys, templates, cgroup_v1 }
    }
}

/// An engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EngineRecord {
    /// What the engine calls itself, whatever its address.
    pub id: String,
    /// Where it was reached.
    pub host: String,
}

/// A node's addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// The node's name.
    pub name: String,
    /// Its IPv4 address on the clusters' network.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}
