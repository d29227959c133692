//! What a state consists of, and which cluster it is.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use zeroize::Zeroizing;

use crate::documents::record::Record;

/// A file of a state, named by its content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// The sha256 of its bytes, in hexadecimal.
    pub sha256: String,
    /// Its length.
    pub size: u64,
}

impl Blob {
    /// The name of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { sha256: sha256(bytes), size: bytes.len() as u64 }
    }

    /// Whether its name is a sha256, so that it can be a file's.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.sha256.len() == 64 && self.sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// Nothing, if these are its bytes.
    ///
    /// # Errors
    /// How they differ.
    pub fn check(&self, bytes: &[u8]) -> Result<(), String> {
        let found = Self::of(bytes);
        if found == *self {
            return Ok(());
        }
        Err(format!(
            "it has {} bytes with the sha256 {}, not {} with {}",
            found.size, found.sha256, self.size, self.sha256
        ))
    }
}

/// The sha256 of some bytes, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Why a text is no manifest.
#[derive(Debug)]
pub enum ParseError {
    /// It has another format.
    Format(u32),
    /// It makes no sense.
    Text(String),
}

/// One node of a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeState {
    /// The node's name.
    pub name: String,
    /// Its files.
    pub archive: Blob,
    /// Images that were loaded into it and are not in its own image, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Blob>,
}

/// What held of a cluster when its state was read, so that no more is asked of it when it comes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Whether its API server answered.
    pub api_server: bool,
    /// What was not ready, by kind and name: `Deployment coredns`.
    pub not_ready: Vec<String>,
    /// The checks of `verify` that failed, by their names.
    pub failed: Vec<String>,
    /// Why `verify` could not look at it, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<String>,
}

impl Default for Held {
    /// All of it.
    fn default() -> Self {
        Self { api_server: true, not_ready: Vec::new(), failed: Vec::new(), unseen: None }
    }
}

impl Held {
    /// What is not to be expected of the cluster, a line each; empty if all held.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if !self.api_server {
            return vec![
                "the API server did not answer when this was saved: it comes back as it was, and is not waited for"
                    .to_owned(),
            ];
        }
        let mut warnings = Vec::new();
        if !self.not_ready.is_empty() {
            let what = self.not_ready.join(", ");
            warnings.push(format!("not ready when this was saved, and not waited for: {what}"));
        }
        if !self.failed.is_empty() {
            let what = self.failed.join(", ");
            warnings.push(format!("not as its profile says when this was saved, and not asked for now: {what}"));
        }
        if let Some(reason) = &self.unseen {
            warnings.push(format!("could not be verified when this was saved, and is not now: {reason}"));
        }
        warnings
    }
}

/// Everything about a state but its bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StateManifest {
    /// Which format this is.
    pub format: u32,
    /// The kprov that made it.
    pub kprov: String,
    /// When, in seconds since 1970.
    pub created: i64,
    /// The cluster: profile, image, version, digest, port and addresses.
    pub record: Record,
    /// The subnets of the network that it was on.
    pub subnets: Vec<String>,
    /// Its encryption keys as kprov keeps them, if it has any.
    pub keys: Option<Blob>,
    /// Its nodes, in the order of their plan.
    pub nodes: Vec<NodeState>,
    /// What held when it was read; all of it, if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

impl StateManifest {
    /// The format that this kprov writes and reads.
    pub const FORMAT: u32 = 1;

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ParseError::Format`] for one of another format, [`ParseError::Text`] for what is no manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let text = |error: serde_json::Error| ParseError::Text(error.to_string());
        let Versioned { format } = serde_json::from_slice(bytes).map_err(text)?;
        if format != Self::FORMAT {
            return Err(ParseError::Format(format));
        }
        serde_json::from_slice(bytes).map_err(text)
    }

    /// All files of the state.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        let nodes = self.nodes.iter().flat_map(|node| std::iter::once(&node.archive).chain(&node.images));
        self.keys.iter().chain(nodes)
    }

    /// How many bytes it takes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }
}

/// A state that is not kept yet.
pub struct Draft {
    /// What it is.
    pub manifest: StateManifest,
    /// The bytes of its blobs.
    pub blobs: Vec<(Blob, Zeroizing<Vec<u8>>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_byte_is_seen() {
        let blob = Blob::of(b"state");
        assert!(blob.check(b"state").is_ok());
        assert!(blob.check(b"statE").unwrap_err().contains("5 bytes"));
    }
}
