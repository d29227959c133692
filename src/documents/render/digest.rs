//! What identifies a cluster: digests over its documents and its image.
//!
//! Owns their computation. Two clusters have the same one if they were made from the same
//! documents (keys aside), the same settings of what no document tells, and the same image.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::documents::profile::Encryption;

use super::{Inputs, RenderError, bundle};

/// A sha256 digest; shown in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a sha256 digest in hexadecimal")]
pub struct NotADigest;

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotADigest);
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

/// The digest of every rendered document and of the settings that are in none of
/// them, with placeholders for keys, addresses and the bundle's folder.
///
/// # Errors
/// [`RenderError`] if one of the documents cannot be rendered.
pub fn documents_digest(inputs: &Inputs<'_>) -> Result<Digest, RenderError> {
    let spec = &inputs.profile.spec;
    let ring = spec.encryption.as_ref().map(Encryption::placeholder);
    let mut hash = Sha256::new();
    // Neither its keys nor the host's cgroups make a cluster another one.
    let inputs = Inputs { keys: ring.as_ref(), cgroup_v1: false, ..*inputs };
    for document in bundle(&inputs, Path::new("/"))?.documents {
        field(&mut hash, document.name.as_bytes());
        field(&mut hash, document.content.as_bytes());
    }
    // What kprov does on the nodes, and no document tells.
    let mut rest = json!({"fileModes": spec.hardening.file_modes, "manifests": spec.manifests});
    if let Some(registry) = &spec.registry {
        rest["registry"] = json!(registry);
    }
    if !spec.ca_certificates.is_empty() {
        rest["caCertificates"] = json!(spec.ca_certificates);
    }
    if let Some(proxy) = &spec.networking.proxy {
        rest["proxy"] = json!(proxy);
    }
    if spec.nodes.iter().any(|group| !group.limits.is_none()) {
        rest["limits"] = spec.nodes.iter().map(|group| json!(group.limits)).collect();
    }
    field(&mut hash, rest.to_string().as_bytes());
    Ok(Digest(hash.finalize().into()))
}

/// The digest of a cluster: its documents and the identifier of its image's content.
#[must_use]
pub fn cluster_digest(documents: &Digest, image_id: &str) -> Digest {
    let mut hash = Sha256::new();
    field(&mut hash, &documents.0);
    field(&mut hash, image_id.as_bytes());
    Digest(hash.finalize().into())
}

/// Adds a field with its length before it, so that no two lists of fields run together to the same bytes.
fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
