//! What is really stored: raw keys and values, read from etcd inside a control-plane node.
//!
//! Owns the reading and the telling apart of stored values (encrypted or not, by which
//! provider and key). Never writes. What *should* be stored is `verify`'s affair.

mod decode;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::node::{Node, NodeError};

pub use decode::{Field, fields};

/// How often etcd is asked before an answer that breaks off counts as none.
const TRIES: u8 = 3;

/// How many values are read at a time: a page of large values stays within a few MiB.
const PAGE: usize = 500;

/// The API server's default prefix in etcd.
pub const ROOT: &str = "/registry/";

/// A key and its value, as they are in etcd.
#[derive(Clone)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The raw value; wiped when dropped.
    pub value: Zeroizing<Vec<u8>>,
    /// The revision of the last change.
    pub mod_revision: i64,
}

/// How a value is stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Stored {
    /// By an encryption provider: its name with its version, and the key's name.
    Encrypted {
        /// Such as `aescbc`, `secretbox` or `kms`.
        provider: String,
        /// Such as `v1`.
        version: String,
        /// The key's name, or the KMS plugin's.
        key: String,
    },
    /// In the clear, as protobuf or JSON.
    Plain,
}

impl std::fmt::Display for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Encrypted { provider, version, key } => write!(f, "k8s:enc:{provider}:{version}:{key}:"),
            Self::Plain => f.write_str("plain text"),
        }
    }
}

/// Tells how a value is stored by its first bytes.
///
/// The prefixes are those of k8s.io/apiserver/pkg/server/options/encryptionconfig:
/// `k8s:enc:PROVIDER:VERSION:KEY:`, where the rest is ciphertext.
#[must_use]
pub fn classify(value: &[u8]) -> Stored {
    let Some(rest) = value.strip_prefix(b"k8s:enc:") else { return Stored::Plain };
    let mut parts = rest.splitn(4, |&byte| byte == b':').map(|part| String::from_utf8_lossy(part).into_owned());
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(provider), Some(version), Some(key), Some(_)) => Stored::Encrypted { provider, version, key },
        _ => Stored::Plain,
    }
}

#[derive(Deserialize)]
struct RangeResponse {
    #[serde(default)]
    kvs: Vec<KeyValue>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: Zeroizing<String>,
    #[serde(default)]
    mod_revision: i64,
}

/// etcd, as seen from one control-plane node.
#[derive(Debug, Clone)]
pub struct Etcd {
    node: Node,
}

impl Etcd {
    /// etcd on `node`, which must be a control plane.
    #[must_use]
    pub fn on(node: Node) -> Self {
        Self { node }
    }

    /// The value of one key; `None` if there is no such key.
    ///
    /// # Errors
    /// [`NodeError`] if etcd cannot be asked.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, NodeError> {
        Ok(self.range(&["get", key]).await?.0.into_iter().next())
    }

    /// All keys that start with `prefix`, in order.
    ///
    /// # Errors
    /// [`NodeError`] if etcd cannot be asked.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, NodeError> {
        let (entries, _) = self.range(&["get", prefix, "--prefix", "--keys-only"]).await?;
        Ok(entries.into_iter().map(|entry| entry.key).collect())
    }

    /// Calls `visit` for every key that starts with `prefix`, in order, page by page.
    ///
    /// # Errors
    /// [`NodeError`] if etcd cannot be asked.
    pub async fn scan(&self, prefix: &str, mut visit: impl FnMut(&Entry)) -> Result<(), NodeError> {
        let limit = format!("--limit={PAGE}");
        let end = prefix_end(prefix);
        let mut from = prefix.to_owned();
        loop {
            let (entries, more) = self.range(&["get", &from, &end, &limit]).await?;
            for entry in &entries {
                visit(entry);
            }
            match entries.last() {
                // The smallest key behind the last one: a trailing NUL cannot be passed as an
                // argument, so a space stands in; no API object's key continues with one.
                Some(last) if more => from = format!("{} ", last.key),
                _ => return Ok(()),
            }
        }
    }

    /// How many values under `prefix` are stored in which way.
    ///
    /// # Errors
    /// [`NodeError`] if etcd cannot be asked.
    pub async fn census(&self, prefix: &str) -> Result<BTreeMap<Stored, usize>, NodeError> {
        let mut counts = BTreeMap::new();
        self.scan(prefix, |entry| *counts.entry(classify(&entry.value)).or_insert(0) += 1).await?;
        Ok(counts)
    }

    async fn range(&self, arguments: &[&str]) -> Result<(Vec<Entry>, bool), NodeError> {
        // The API server's own client certificate is not in etcd's pod; etcd's server certificate is,
        // and is good for clients as well.
        let mut command = vec![
            "etcdctl",
            "--endpoints=https://127.0.0.1:2379",
            "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
            "--cert=/etc/kubernetes/pki/etcd/server.crt",
            "--key=/etc/kubernetes/pki/etcd/server.key",
            "--write-out=json",
        ];
        command.extend(arguments);
        let fail = |reason: String| NodeError::File {
            node: self.node.name.clone(),
            path: "etcdctl's answer".to_owned(),
            reason,
        };
        let mut tries = 0;
        let response: RangeResponse = loop {
            let output = self.node.run_in_container("etcd", &command).await?;
            tries += 1;
            match serde_json::from_slice(&output.stdout) {
                Ok(response) => break response,
                // containerd's tool may end before it has handed on all that its command has said.
                Err(error) if error.is_eof() && tries < TRIES => {}
                Err(error) => return Err(fail(error.to_string())),
            }
        };
        let mut entries = Vec::with_capacity(response.kvs.len());
        for kv in response.kvs {
            let key = BASE64.decode(&kv.key).map_err(|error| fail(error.to_string()))?;
            let value =
                BASE64.decode(kv.value.as_str()).map(Zeroizing::new).map_err(|error| fail(error.to_string()))?;
            entries.push(Entry {
                key: String::from_utf8_lossy(&key).into_owned(),
                value,
                mod_revision: kv.mod_revision,
            });
        }
        Ok((entries, response.more))
    }
}

/// The first key behind all that start with `prefix`.
fn prefix_end(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| "\u{7f}".to_owned())
}

/// A hexdump as `hexdump -C` prints it: offset, 16 bytes, their ASCII.
#[must_use]
pub fn hexdump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex = |half: &[u8]| half.iter().map(|byte| format!("{byte:02x} ")).collect::<String>();
        let (left, right) = line.split_at(line.len().min(8));
        let ascii: String =
            line.iter().map(|&byte| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '.' }).collect();
        text.push_str(&format!("{:08x}  {:<24} {:<24} |{ascii}|\n", index * 16, hex(left), hex(right)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_values_are_told_apart() {
        assert_eq!(
            classify(b"k8s:enc:secretbox:v1:key1:\x01\x02:"),
            Stored::Encrypted { provider: "secretbox".into(), version: "v1".into(), key: "key1".into() }
        );
        assert_eq!(classify(b"k8s\x00\n\x0c\n\x02v1\x12\x06Secret"), Stored::Plain);
        assert_eq!(classify(b"k8s:enc:aescbc"), Stored::Plain);
        assert_eq!(classify(b""), Stored::Plain);
    }

    #[test]
    fn hexdumps_look_like_hexdump() {
        assert_eq!(
            hexdump(b"k8s:enc:aescbc:v1"),
            "00000000  6b 38 73 3a 65 6e 63 3a  61 65 73 63 62 63 3a 76  |k8s:enc:aescbc:v|\n\
             00000010  31                                                |1|\n"
        );
    }

    #[test]
    fn a_prefix_ends_before_its_sibling() {
        assert_eq!(prefix_end("/registry/secrets/"), "/registry/secrets0");
    }
}
