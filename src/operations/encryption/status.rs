//! How things are stored, seen from the nodes and from etcd.

use futures_util::future::try_join_all;
use serde::Serialize;

use crate::adapters::etcd::Etcd;
use crate::adapters::node::Node;
use crate::documents::encryption::Journal;
use crate::operations::verify::etcd_prefix;

use super::EncryptionError;
use super::nodes::ControlPlane;

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

pub(super) async fn read(control_planes: &[Node]) -> Result<EncryptionStatus, EncryptionError> {
    for node in control_planes {
        if !node.is_running().await? {
            return Err(EncryptionError::NotRunning { node: node.name.clone() });
        }
    }
    let planes = try_join_all(control_planes.iter().map(ControlPlane::read)).await?;
    let etcd = Etcd::on(control_planes[0].clone());
    let config = planes.iter().find_map(|plane| plane.config.clone()).unwrap_or_default();
    let mut resources = Vec::new();
    for (name, group) in config.resources() {
        let readers = group.keys().into_iter().map(|(id, fingerprint)| match fingerprint {
            Some(fingerprint) => format!("{id} ({fingerprint})"),
            None => id.to_string(),
        });
        resources.push(ResourceStatus {
            resource: name.to_owned(),
            writer: group.writer().map_or_else(|| "a KMS plugin".to_owned(), |writer| writer.to_string()),
            readers: readers.collect(),
            stored: count(&etcd, name).await?,
        });
    }
    let usual = if config.groups.is_empty() { &USUAL[..] } else { &[] };
    for &name in usual {
        resources.push(ResourceStatus {
            resource: name.to_owned(),
            writer: "identity".to_owned(),
            readers: vec!["identity".to_owned()],
            stored: count(&etcd, name).await?,
        });
    }
    Ok(EncryptionStatus {
        resources,
        same: planes.windows(2).all(|pair| pair[0].config == pair[1].config),
        reloads: planes.iter().all(ControlPlane::reloads),
        under_way: super::under_way(&planes),
    })
}

async fn count(etcd: &Etcd, resource: &str) -> Result<Vec<StoredCount>, EncryptionError> {
    let census = etcd.census(&etcd_prefix(resource)).await?;
    Ok(census.into_iter().map(|(stored, count)| StoredCount { stored: stored.to_string(), count }).collect())
}
