//! The profile's patches of containerd's configuration.

use crate::adapters::node::{Node, NodeError};
use crate::documents::files::FileEntry;

use super::super::ClusterError;

/// Lays the profile's patches over containerd's configuration, before containerd has started.
pub(super) async fn patch_containerd(node: &Node, patches: &[String]) -> Result<(), ClusterError> {
    const CONFIG: &str = "/etc/containerd/config.toml";
    if patches.is_empty() {
        return Ok(());
    }
    let fail = |reason: String| NodeError::File { node: node.name.clone(), path: CONFIG.to_owned(), reason };
    let mut config: toml::Table =
        node.read_text(CONFIG).await?.parse().map_err(|error: toml::de::Error| fail(error.to_string()))?;
    for patch in patches {
        let patch: toml::Table = patch.parse().map_err(|error: toml::de::Error| fail(format!("the patch: {error}")))?;
        overlay(&mut config, patch);
    }
    let text = toml::to_string(&config).map_err(|error| fail(error.to_string()))?;
    Ok(node.put_files(&[FileEntry::new(CONFIG, 0o644, text)]).await?)
}

fn overlay(base: &mut toml::Table, patch: toml::Table) {
    for (key, value) in patch {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => overlay(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_is_merged_table_by_table() {
        let mut config: toml::Table = "a = 1\n[plugins.x]\nb = 2\nc = 3\n".parse().unwrap();
        overlay(&mut config, "[plugins.x]\nb = 4\n[plugins.y]\nd = 5\n".parse().unwrap());
        assert_eq!(config, "a = 1\n[plugins.x]\nb = 4\nc = 3\n[plugins.y]\nd = 5\n".parse().unwrap());
    }
}
