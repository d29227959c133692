//! Values that a KMS provider has encrypted: which key of the KMS wrapped the key that encrypted them.
//!
//! Both forms are upstream's (k8s.io/apiserver/pkg/storage/value/encrypt/envelope, `kmsv2/v2/api.proto` for the second).

use super::fields::{first, message, number};
use super::{Stored, classify};

/// What stands before a value's ciphertext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The key of the KMS that wrapped. The first protocol does not keep it; of plugins whose wrapped keys tell by themselves,
    /// such as kprov's, it is what [`Envelope::is_by`] needs to know.
    pub key: Option<String>,
    /// How many bytes the wrapped key has.
    pub wrapped: usize,
    /// What has been wrapped.
    pub source: &'static str,
    /// The names of the plugin's annotations.
    pub annotations: Vec<String>,
    /// How many bytes the ciphertext has.
    pub ciphertext: usize,
    /// Whether the whole id of the key is known.
    is_whole: bool,
}

impl Envelope {
    /// Whether the key with this id has wrapped; `None` if that cannot be told.
    #[must_use]
    pub fn is_by(&self, id: &str) -> Option<bool> {
        let key = self.key.as_deref()?;
        Some(if self.is_whole { key == id } else { id.starts_with(key) })
    }
}

/// What a KMS provider has put before a value; `None` if the value is none of its, or breaks off.
#[must_use]
pub fn envelope(value: &[u8]) -> Option<Envelope> {
    let Stored::Encrypted { provider, version, key } = classify(value) else { return None };
    if provider != "kms" {
        return None;
    }
    let rest = value.get(format!("k8s:enc:{provider}:{version}:{key}:").len()..)?;
    match version.as_str() {
        "v1" => first_form(rest),
        "v2" => second_form(rest),
        _ => None,
    }
}

/// The length of the wrapped key in two bytes, the wrapped key, the ciphertext.
fn first_form(rest: &[u8]) -> Option<Envelope> {
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (wrapped, ciphertext) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some(Envelope {
        key: key_in(wrapped),
        wrapped: wrapped.len(),
        source: "key",
        annotations: Vec::new(),
        ciphertext: ciphertext.len(),
        is_whole: false,
    })
}

/// What the ids begin with of the keys that kprov's plugin wraps by, as its wrapped keys tell.
fn key_in(wrapped: &[u8]) -> Option<String> {
    if let Some(tag) = wrapped.strip_prefix(&[1]).and_then(|rest| rest.get(..8)) {
        return Some(format!("local-{}", hex::encode(tag)));
    }
    if let Some(mark) = wrapped.strip_prefix(&[2]).and_then(|rest| rest.get(..8)) {
        return Some(format!("pkcs11-{}", hex::encode(mark)));
    }
    let version = std::str::from_utf8(wrapped).ok()?.strip_prefix("vault:v")?.split_once(':')?.0;
    version.bytes().all(|byte| byte.is_ascii_digit()).then(|| format!("vault-v{version}-"))
}

/// A protobuf message: 1 ciphertext, 2 the key's id, 3 what was wrapped, 4 annotations, 5 what that is.
fn second_form(rest: &[u8]) -> Option<Envelope> {
    let fields = message(rest);
    let id = first(&fields, 2);
    if id.is_empty() {
        return None;
    }
    let annotations = fields.iter().filter(|(field, _)| *field == 4);
    Some(Envelope {
        key: Some(String::from_utf8_lossy(id).escape_debug().to_string()),
        wrapped: first(&fields, 3).len(),
        source: if number(rest, 5) == Some(1) { "seed of keys (HKDF)" } else { "key (AES-GCM)" },
        annotations: annotations
            .map(|(_, entry)| String::from_utf8_lossy(first(&message(entry), 1)).escape_debug().to_string())
            .collect(),
        ciphertext: first(&fields, 1).len(),
        is_whole: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(prefix: &str, rest: &[u8]) -> Vec<u8> {
        [prefix.as_bytes(), rest].concat()
    }

    #[test]
    fn the_second_form_tells_its_key() {
        let mut message = b"\x0a\x03abc\x12\x05key-1\x1a\x04wrap".to_vec();
        message.extend_from_slice(b"\x22\x0d\x0a\x08a.b/name\x12\x01x\x28\x01");
        let envelope = envelope(&value("k8s:enc:kms:v2:vault:", &message)).unwrap();
        assert_eq!(envelope.key.as_deref(), Some("key-1"));
        assert_eq!((envelope.wrapped, envelope.ciphertext, envelope.source), (4, 3, "seed of keys (HKDF)"));
        assert_eq!(envelope.annotations, ["a.b/name"]);
        assert_eq!((envelope.is_by("key-1"), envelope.is_by("key-10")), (Some(true), Some(false)));
    }

    #[test]
    fn the_first_form_tells_it_for_our_own_plugin() {
        let local = b"\x00\x0c\x01\x11\x22\x33\x44\x55\x66\x77\x88...rest";
        let found = envelope(&value("k8s:enc:kms:v1:local:", local)).unwrap();
        assert_eq!((found.wrapped, found.ciphertext), (12, 4));
        assert_eq!(found.is_by("local-1122334455667788aabb"), Some(true));
        assert_eq!(found.is_by("local-ff22334455667788aabb"), Some(false));
        let token = b"\x00\x0c\x02\x11\x22\x33\x44\x55\x66\x77\x88...rest";
        let found = envelope(&value("k8s:enc:kms:v1:hsm:", token)).unwrap();
        assert_eq!(found.is_by("pkcs11-1122334455667788-v1-aa"), Some(true));
        assert_eq!(found.is_by("pkcs11-ff22334455667788-v1-aa"), Some(false));
        let found = envelope(&value("k8s:enc:kms:v1:v:", b"\x00\x0bvault:v1:xyrest")).unwrap();
        assert_eq!((found.is_by("vault-v1-ab"), found.is_by("vault-v12-ab")), (Some(true), Some(false)));
        let foreign = envelope(&value("k8s:enc:kms:v1:aws:", b"\x00\x02xyrest")).unwrap();
        assert_eq!(foreign.is_by("anything"), None);
    }

    #[test]
    fn what_breaks_off_is_none() {
        for rest in [&b""[..], b"\x00", b"\x00\x09abc"] {
            assert_eq!(envelope(&value("k8s:enc:kms:v1:a:", rest)), None);
        }
        assert_eq!(envelope(&value("k8s:enc:kms:v2:a:", b"\x0a\xff")), None);
        assert_eq!(envelope(b"k8s:enc:aescbc:v1:key1:xyz"), None);
        assert_eq!(envelope(b"k8s\0"), None);
    }
}
