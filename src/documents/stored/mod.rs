//! Stored values: told apart by their first bytes, dumped, and read as far as that goes without a key.
//!
//! Pure. Reading them out of etcd is `adapters::etcd`'s affair.

mod fields;
mod kms;

use serde::Serialize;

pub use fields::{Field, fields};
pub use kms::{Envelope, envelope};

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
}
