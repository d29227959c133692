//! Patching containerd's configuration on a node that has not started yet.

use crate::adapters::node::{Node, NodeError};
use crate::documents::files::FileEntry;
use crate::documents::patches;
use crate::documents::profile::Spec;
use crate::documents::render::REGISTRY_FOLDER;

use super::super::ClusterError;

/// Lays the profile's patches over the node's configuration, and what it has to know of registries.
pub(super) async fn patch_containerd(node: &Node, spec: &Spec) -> Result<(), ClusterError> {
    const CONFIG: &str = "/etc/containerd/config.toml";
    let (merges, operations) = (&spec.containerd_config_patches, &spec.containerd_config_patches_json6902);
    if merges.is_empty() && operations.is_empty() && spec.registry.is_none() {
        return Ok(());
    }
    let fail = |reason: String| NodeError::File { node: node.name.clone(), path: CONFIG.to_owned(), reason };
    let mut text = patches::containerd(&node.read_text(CONFIG).await?, merges, operations)
        .map_err(|error| fail(format!("a patch of it: {error}")))?;
    if spec.registry.is_some() {
        text = patches::containerd_registries(&text, REGISTRY_FOLDER).map_err(|error| fail(error.to_string()))?;
    }
    Ok(node.put_files(&[FileEntry::new(CONFIG, 0o644, text)]).await?)
}
