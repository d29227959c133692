//! Finding clusters by the labels of their containers, whoever made them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;

use crate::adapters::engine::{Container, ContainerState, Engine};
use crate::adapters::node::Node;
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::render::{self, API_SERVER_PORT};

use super::succession::is_beside;
use super::{ClusterError, LABEL_CLUSTER, LABEL_DIGEST, LABEL_PROFILE, LABEL_ROLE, ROLE_LOAD_BALANCER};

/// A cluster that is on the engine.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its name.
    pub name: ClusterName,
    /// All its containers, sorted by name.
    pub containers: Vec<Container>,
    /// Containers that stand beside them, while one generation of nodes follows another or after that was killed.
    pub beside: Vec<Container>,
}

/// The control planes of a cluster: never none, the first one foremost.
#[derive(Debug, Clone)]
pub struct ControlPlanes {
    nodes: Vec<Node>,
}

impl ControlPlanes {
    /// The first one.
    #[must_use]
    pub fn first(&self) -> &Node {
        &self.nodes[0]
    }
}

impl Deref for ControlPlanes {
    type Target = [Node];

    fn deref(&self) -> &[Node] {
        &self.nodes
    }
}

impl Found {
    /// The nodes: all containers but the load balancer. Control planes come first, the first one foremost.
    #[must_use]
    pub fn nodes(&self, engine: &Engine) -> Vec<Node> {
        let mut nodes: Vec<Node> = self
            .containers
            .iter()
            .filter_map(|container| {
                let role = match container.labels.get(LABEL_ROLE)?.as_str() {
                    "control-plane" => Role::ControlPlane,
                    "worker" => Role::Worker,
                    _ => return None,
                };
                Some(Node::new(engine.clone(), &container.name, role))
            })
            .collect();
        // Names of a role differ by a number that the first one lacks, so shorter is earlier.
        nodes.sort_by_key(|node| (node.role, node.name.len(), node.name.clone()));
        nodes
    }

    /// The control planes that there are, for what can do with any of them.
    ///
    /// # Errors
    /// [`ClusterError::NoControlPlane`] if there is none.
    pub fn control_planes(&self, engine: &Engine) -> Result<ControlPlanes, ClusterError> {
        self.control_planes_of(engine, &[format!("{}-control-plane", self.name)], false)
    }

    /// All control planes that the cluster was made with, as its record tells, for what has to be done on each of
    /// them. Without a record: those that there are.
    ///
    /// # Errors
    /// [`ClusterError::NoControlPlane`] if one is missing; it names the first such one.
    pub fn all_control_planes(&self, engine: &Engine, record: Option<&Record>) -> Result<ControlPlanes, ClusterError> {
        let Some(record) = record else { return self.control_planes(engine) };
        let plan = render::plan_nodes(&record.profile, &record.name);
        let planned = plan.into_iter().filter(|plan| plan.role == Role::ControlPlane).map(|plan| plan.name);
        self.control_planes_of(engine, &planned.collect::<Vec<_>>(), true)
    }

    fn control_planes_of(
        &self,
        engine: &Engine,
        planned: &[String],
        needs_all: bool,
    ) -> Result<ControlPlanes, ClusterError> {
        let mut nodes = self.nodes(engine);
        nodes.retain(|node| node.role == Role::ControlPlane);
        let missing = planned.iter().find(|name| !nodes.iter().any(|node| node.name == **name));
        match missing {
            Some(node) if needs_all || nodes.is_empty() => {
                Err(ClusterError::NoControlPlane { cluster: self.name.to_string(), node: node.clone() })
            }
            _ => Ok(ControlPlanes { nodes }),
        }
    }

    /// The host address and port at which the API server is published.
    #[must_use]
    pub fn api_server(&self) -> Option<(IpAddr, u16)> {
        let published = self.front()?.ports.iter().find(|(inside, _, _)| *inside == API_SERVER_PORT);
        published.map(|&(_, address, port)| (address, port))
    }

    /// The API server's address for other containers on the clusters' network, as kubeadm was told it.
    #[must_use]
    pub fn api_server_inside(&self) -> Option<String> {
        Some(format!("https://{}:{API_SERVER_PORT}", self.front()?.name))
    }

    /// The container that publishes the API server.
    fn front(&self) -> Option<&Container> {
        let of = |role: &str| {
            let is = |container: &&Container| container.labels.get(LABEL_ROLE).is_some_and(|label| label == role);
            self.containers.iter().find(is)
        };
        of(ROLE_LOAD_BALANCER).or_else(|| of("control-plane"))
    }

    /// The digest that the cluster was made with, if kprov made it.
    #[must_use]
    pub fn digest(&self) -> Option<&str> {
        self.label(LABEL_DIGEST)
    }

    /// The profile that the cluster was made from, if kprov made it.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        self.label(LABEL_PROFILE)
    }

    fn label(&self, label: &str) -> Option<&str> {
        let all = self.containers.iter().chain(&self.beside);
        all.filter_map(|container| container.labels.get(label)).map(String::as_str).next()
    }

    /// How many containers run, of how many.
    #[must_use]
    pub fn running(&self) -> (usize, usize) {
        let running = self.containers.iter().filter(|container| container.state == ContainerState::Running).count();
        (running, self.containers.len())
    }
}

/// All clusters on the engine, sorted by name. What is labelled with something that cannot be a cluster's name is none.
///
/// # Errors
/// [`ClusterError::Engine`] if the engine does not answer.
pub async fn list(engine: &Engine) -> Result<Vec<Found>, ClusterError> {
    let mut clusters: BTreeMap<ClusterName, Vec<Container>> = BTreeMap::new();
    for container in engine.containers(LABEL_CLUSTER, None).await? {
        if let Some(Ok(name)) = container.labels.get(LABEL_CLUSTER).map(|name| name.parse()) {
            clusters.entry(name).or_default().push(container);
        }
    }
    Ok(clusters
        .into_iter()
        .map(|(name, all)| {
            let (beside, containers) = all.into_iter().partition(|container| is_beside(&container.name));
            Found { name, containers, beside }
        })
        .collect())
}

/// The cluster called `name`; without a name, the only one there is.
///
/// # Errors
/// [`ClusterError::Unknown`], [`ClusterError::None`] or [`ClusterError::Ambiguous`] if it cannot be told.
pub async fn find(engine: &Engine, name: Option<&ClusterName>) -> Result<Found, ClusterError> {
    let mut clusters = list(engine).await?;
    let known = |clusters: &[Found]| clusters.iter().map(|cluster| cluster.name.to_string()).collect();
    match name {
        Some(name) => match clusters.iter().position(|cluster| cluster.name == *name) {
            Some(index) => Ok(clusters.swap_remove(index)),
            None => Err(ClusterError::Unknown { name: name.to_string(), known: known(&clusters) }),
        },
        None if clusters.len() > 1 => Err(ClusterError::Ambiguous { known: known(&clusters) }),
        None => clusters.pop().ok_or(ClusterError::None),
    }
}

/// The node called `name`, of whichever cluster.
///
/// # Errors
/// [`ClusterError::UnknownNode`] if there is none.
pub async fn node(engine: &Engine, name: &str) -> Result<Node, ClusterError> {
    let mut known = Vec::new();
    for cluster in list(engine).await? {
        for node in cluster.nodes(engine) {
            if node.name == name {
                return Ok(node);
            }
            known.push(node.name);
        }
    }
    Err(ClusterError::UnknownNode { name: name.to_owned(), known })
}
