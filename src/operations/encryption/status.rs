//! How things are stored, seen from the nodes and from etcd.

use futures_util::future::try_join_all;
use kube::Client;
use serde::Serialize;

use crate::adapters::etcd::Etcd;
use crate::documents::encryption::{GroupResource, Journal};
use crate::operations::api_server::ApiServer;
use crate::operations::cluster::ControlPlanes;

use super::EncryptionError;
use super::nodes::ControlPlane;
use super::walk::under_way;

/// What is looked at in a cluster where nothing is encrypted.
const USUAL: [&str; 2] = ["secrets", "configmaps"];

/// How everything is stored.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EncryptionStatus {
    /// Each resource.
    pub resources: Vec<ResourceStatus>,
    /// Whether all control planes have the same configuration.
    pub same: bool,
    /// Whether API servers read a changed configuration by themselves.
    pub reloads: bool,
    /// A change that is under way.
    pub under_way: Option<Journal>,
}

/// A resource.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceStatus {
    /// Its name.
    pub resource: String,
    /// What writes it.
    pub writer: String,
    /// What reads it, with the keys' fingerprints.
    pub readers: Vec<String>,
    /// How it is stored, counted in etcd.
    pub stored: Vec<StoredCount>,
}

/// How many values are stored in one way.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredCount {
    /// The first bytes of such a value, or "plain text".
    pub stored: String,
    /// How many.
    pub count: usize,
}

pub(super) async fn read(control_planes: &ControlPlanes, client: &Client) -> Result<EncryptionStatus, EncryptionError> {
    for node in control_planes.iter() {
        if !node.is_running().await? {
            return Err(EncryptionError::NotRunning { node: node.name.clone() });
        }
    }
    let servers: Vec<ApiServer> = control_planes.iter().cloned().map(ApiServer::on).collect();
    let planes = try_join_all(servers.iter().map(ControlPlane::read)).await?;
    let etcd = Etcd::on(control_planes.first().clone());
    let root = planes.first().map_or_else(|| crate::adapters::etcd::ROOT.to_owned(), ControlPlane::root);
    let layout = crate::adapters::kubernetes::layout(client, &root).await?;
    let config = planes.iter().find_map(|plane| plane.config.clone()).unwrap_or_default();
    let mut rules: Vec<(&str, String, Vec<String>)> = Vec::new();
    for (name, group) in config.resources() {
        let readers = group.keys().into_iter().map(|(id, fingerprint)| match fingerprint {
            Some(fingerprint) => format!("{id} ({fingerprint})"),
            None => id.to_string(),
        });
        let writer = group.writer().map_or_else(|| "a KMS plugin".to_owned(), |writer| writer.to_string());
        rules.push((name, writer, readers.collect()));
    }
    if config.groups.is_empty() {
        rules.extend(USUAL.map(|name| (name, "identity".to_owned(), vec!["identity".to_owned()])));
    }
    let mut resources = Vec::new();
    let named: Vec<GroupResource> = rules.iter().map(|(name, ..)| GroupResource::parse(name)).collect();
    let mut counted = etcd.census(&layout, &named).await?;
    for (index, (name, writer, readers)) in rules.into_iter().enumerate() {
        let stored = std::mem::take(&mut counted[index]);
        let stored = stored.into_iter().map(|(stored, count)| StoredCount { stored, count }).collect();
        resources.push(ResourceStatus { resource: name.to_owned(), writer, readers, stored });
    }
    Ok(EncryptionStatus {
        resources,
        same: planes.windows(2).all(|pair| pair[0].config == pair[1].config),
        reloads: planes.iter().all(ControlPlane::reloads),
        under_way: under_way(&planes),
    })
}
