//! Encryption keys: making them, and keeping them out of sight; and which providers there are to use them.
//!
//! Owns key bytes while they are in memory (wiped when dropped, redacted in `Debug`).
//! Leaves to `profile` where each comes from, to `encryption` how they are written into an EncryptionConfiguration, and
//! to `adapters::records` where they are kept between commands.

use std::fmt;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// The length in bytes of keys that kprov makes: AES-256, and the only length that secretbox takes.
pub const GENERATED_LENGTH: usize = 32;

/// The encryption providers of kube-apiserver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// AES-CBC with PKCS#7 padding; keys of 16, 24 or 32 bytes (kprov makes 32).
    Aescbc,
    /// AES-GCM; keys of 16, 24 or 32 bytes (kprov makes 32). Must be rotated often.
    Aesgcm,
    /// XSalsa20 and Poly1305; keys of 32 bytes.
    Secretbox,
    /// A KMS plugin: keys of values come from the API server, and are encrypted by a key that stays in the KMS.
    Kms,
    /// No encryption.
    Identity,
}

/// The protocol between an API server and a KMS plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KmsProtocol {
    /// `v1beta1`: asks the plugin for every value.
    V1,
    /// `v2`: asks it at each start of an API server, and tells which key has encrypted.
    V2,
}

impl KmsProtocol {
    /// The name in an EncryptionConfiguration and in the prefix of stored values.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl fmt::Display for KmsProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl ProviderKind {
    /// The name in an EncryptionConfiguration and in the prefix of stored values.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aescbc => "aescbc",
            Self::Aesgcm => "aesgcm",
            Self::Secretbox => "secretbox",
            Self::Kms => "kms",
            Self::Identity => "identity",
        }
    }
}

impl fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[diagnostic(code(kprov::key))]
pub enum KeyError {
    /// The operating system gave no random bytes.
    #[error("the operating system's random source failed: {0}")]
    Random(String),
    /// The environment variable is not set.
    #[error("key {key:?} comes from the environment variable {variable}, which is not set")]
    NoVariable {
        /// The key's name.
        key: String,
        /// The variable's name.
        variable: String,
    },
    /// The file could not be read.
    #[error("key {key:?} comes from the file {path}, which could not be read: {error}", path = path.display())]
    NoFile {
        /// The key's name.
        key: String,
        /// The file's path.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// There is nothing where it comes from.
    #[error("what {key:?} comes from is empty")]
    Empty {
        /// The key's name.
        key: String,
    },
    /// The text is not base64. The text itself is left out on purpose.
    #[error("key {key:?} is not valid base64")]
    NotBase64 {
        /// The key's name.
        key: String,
    },
    /// The provider takes no key of that length.
    #[error("key {key:?} has {got} bytes; {provider} takes {allowed}")]
    Length {
        /// The key's name.
        key: String,
        /// The provider.
        provider: ProviderKind,
        /// The key's length in bytes.
        got: usize,
        /// The lengths that would do.
        allowed: &'static str,
    },
}

/// The bytes of one key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyMaterial(Zeroizing<Vec<u8>>);

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(<redacted>)")
    }
}

impl KeyMaterial {
    /// A new key of [`GENERATED_LENGTH`] bytes from the operating system's random source.
    ///
    /// # Errors
    /// [`KeyError::Random`] if there are no random bytes to be had.
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new(vec![0_u8; GENERATED_LENGTH]);
        getrandom::fill(&mut bytes).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// A key that is all zeros: for digests and previews, never for a cluster.
    #[must_use]
    pub fn placeholder() -> Self {
        Self(Zeroizing::new(vec![0; GENERATED_LENGTH]))
    }

    /// Reads the base64 text `text` (white space at either end is ignored) as the key `name` of `provider`.
    ///
    /// # Errors
    /// [`KeyError::NotBase64`] or [`KeyError::Length`].
    pub fn from_base64(name: &str, provider: ProviderKind, text: &str) -> Result<Self, KeyError> {
        let bytes =
            BASE64.decode(text.trim()).map(Zeroizing::new).map_err(|_| KeyError::NotBase64 { key: name.to_owned() })?;
        // kube-apiserver, staging/src/k8s.io/apiserver/pkg/apis/apiserver/validation:
        // 16, 24 or 32 bytes for AES, 32 for secretbox.
        let (fits, allowed) = match provider {
            ProviderKind::Aescbc | ProviderKind::Aesgcm => (matches!(bytes.len(), 16 | 24 | 32), "16, 24 or 32"),
            ProviderKind::Secretbox => (bytes.len() == 32, "32"),
            // What a plugin needs: keys of its own, and what it logs in by.
            ProviderKind::Kms => ((1..=1 << 16).contains(&bytes.len()), "1 to 65536"),
            ProviderKind::Identity => (false, "none"),
        };
        if fits {
            Ok(Self(bytes))
        } else {
            Err(KeyError::Length { key: name.to_owned(), provider, got: bytes.len(), allowed })
        }
    }

    /// A text that a KMS plugin needs, such as what it logs in by.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(Zeroizing::new(text.as_bytes().to_vec()))
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The base64 text that an EncryptionConfiguration holds. Wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(&*self.0))
    }

    /// The first 8 bytes of the key's sha256, in hexadecimal: tells keys apart and gives nothing of them away.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(&Sha256::digest(&*self.0)[..8])
    }
}

/// A provider with its keys at hand, in the order in which the EncryptionConfiguration names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderKeys {
    /// Which provider.
    pub kind: ProviderKind,
    /// Name and bytes of each key; the first one writes. Empty for `identity`. For `kms`, what the plugin needs: its local keys,
    /// or what it logs in by (see [`secret`]).
    pub keys: Vec<(String, KeyMaterial)>,
}

/// All keys of a cluster's encryption at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    /// The providers, in order.
    pub providers: Vec<ProviderKeys>,
}

/// What a KMS plugin needs, by its names in a key ring.
pub mod secret {
    /// The certificates that may have signed the server's, in PEM; nothing secret.
    pub const CA: &str = "ca";
    /// An AppRole's id.
    pub const ROLE_ID: &str = "roleId";
    /// An AppRole's secret id.
    pub const SECRET_ID: &str = "secretId";
    /// A token.
    pub const TOKEN: &str = "token";
    /// A client certificate, in PEM.
    pub const CERTIFICATE: &str = "certificate";
    /// A client certificate's key, in PEM.
    pub const CERTIFICATE_KEY: &str = "certificateKey";
    /// What the plugin needs for the server that kprov runs beside the cluster, and what that is called for the plugin: kept apart,
    /// since a cluster may go to another server and come back.
    pub const OWN_SERVER: [(&str, &str); 3] =
        [("serverCa", CA), ("serverRoleId", ROLE_ID), ("serverSecretId", SECRET_ID)];
    /// What local keys' names begin with.
    pub const LOCAL: &str = "key";
}

impl KeyRing {
    /// What a KMS plugin needs, in order; empty if there is none.
    #[must_use]
    pub fn kms(&self) -> &[(String, KeyMaterial)] {
        let found = self.providers.iter().find(|provider| provider.kind == ProviderKind::Kms);
        found.map_or(&[], |provider| provider.keys.as_slice())
    }

    /// One of the things that a KMS plugin needs.
    #[must_use]
    pub fn kms_secret(&self, name: &str) -> Option<&KeyMaterial> {
        self.kms().iter().find(|(known, _)| known == name).map(|(_, material)| material)
    }

    /// Gives a KMS plugin what it needs, in place of what it had.
    ///
    /// # Errors
    /// The same again if there is no such provider.
    pub fn set_kms(&mut self, secrets: Vec<(String, KeyMaterial)>) -> Result<(), Vec<(String, KeyMaterial)>> {
        match self.providers.iter_mut().find(|provider| provider.kind == ProviderKind::Kms) {
            Some(provider) => {
                provider.keys = secrets;
                Ok(())
            }
            None => Err(secrets),
        }
    }

    /// Gives a KMS plugin things that it needs besides what it has. What it logs in by is replaced; a local key stays, since
    /// it may have wrapped something.
    pub fn add_kms(&mut self, secrets: impl IntoIterator<Item = (String, KeyMaterial)>) {
        let is_key = |name: &str| name.starts_with(secret::LOCAL);
        let mut all = self.kms().to_vec();
        let has_key = all.iter().any(|(name, _)| is_key(name));
        for (name, material) in secrets {
            if is_key(&name) && has_key {
                continue;
            }
            all.retain(|(known, _)| *known != name);
            all.push((name, material));
        }
        self.keep_kms(all);
    }

    /// The same as [`Self::set_kms`], with a provider of its own at the end if there is none.
    pub fn keep_kms(&mut self, secrets: Vec<(String, KeyMaterial)>) {
        if let Err(keys) = self.set_kms(secrets) {
            self.providers.push(ProviderKeys { kind: ProviderKind::Kms, keys });
        }
    }

    /// The provider and key that write: what every stored value should carry. `None` for a KMS, which has names of its own.
    #[must_use]
    pub fn writer(&self) -> Option<(ProviderKind, &str)> {
        let first = self.providers.first()?;
        let (name, _) = first.keys.first().filter(|_| first.kind != ProviderKind::Kms)?;
        Some((first.kind, name))
    }
}

/// A key ring as it is kept in a private file.
#[derive(Serialize, Deserialize)]
pub struct StoredKeys(Vec<StoredProvider>);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredProvider {
    provider: ProviderKind,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    name: String,
    secret: Zeroizing<String>,
}

impl From<&KeyRing> for StoredKeys {
    fn from(ring: &KeyRing) -> Self {
        let stored =
            |(name, material): &(String, KeyMaterial)| StoredKey { name: name.clone(), secret: material.to_base64() };
        Self(
            ring.providers
                .iter()
                .map(|provider| StoredProvider {
                    provider: provider.kind,
                    keys: provider.keys.iter().map(stored).collect(),
                })
                .collect(),
        )
    }
}

impl TryFrom<StoredKeys> for KeyRing {
    type Error = KeyError;

    fn try_from(stored: StoredKeys) -> Result<Self, KeyError> {
        let providers = stored.0.into_iter().map(|provider| {
            let keys = provider.keys.into_iter().map(|key| {
                let material = KeyMaterial::from_base64(&key.name, provider.provider, &key.secret)?;
                Ok((key.name, material))
            });
            Ok(ProviderKeys { kind: provider.provider, keys: keys.collect::<Result<_, KeyError>>()? })
        });
        Ok(Self { providers: providers.collect::<Result<_, KeyError>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY32: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_login_is_replaced_and_a_local_key_is_not() {
        let mut ring = KeyRing::default();
        let text = |name: &str, text: &str| (name.to_owned(), KeyMaterial::from_text(text));
        ring.add_kms([text("key1", "first"), text(secret::TOKEN, "old")]);
        ring.add_kms([
            text("key1", "second"),
            text("key2", "third"),
            text(secret::TOKEN, "new"),
            text(secret::CA, "ca"),
        ]);
        assert_eq!(ring.kms(), [text("key1", "first"), text(secret::TOKEN, "new"), text(secret::CA, "ca")]);
        assert_eq!(ring.providers.len(), 1);
    }

    #[test]
    fn generated_keys_differ_and_are_redacted() {
        let (a, b) = (KeyMaterial::generate().unwrap(), KeyMaterial::generate().unwrap());
        assert_ne!(a, b);
        assert_eq!(BASE64.decode(a.to_base64().as_str()).unwrap().len(), GENERATED_LENGTH);
        assert_eq!(format!("{a:?}"), "KeyMaterial(<redacted>)");
    }

    #[test]
    fn lengths_are_those_of_the_provider() {
        let aes128 = "AAECAwQFBgcICQoLDA0ODw==";
        assert!(KeyMaterial::from_base64("k", ProviderKind::Aescbc, aes128).is_ok());
        assert!(KeyMaterial::from_base64("k", ProviderKind::Secretbox, KEY32).is_ok());
        let error = KeyMaterial::from_base64("k", ProviderKind::Secretbox, aes128).unwrap_err();
        assert_eq!(error.to_string(), "key \"k\" has 16 bytes; secretbox takes 32");
    }

    #[test]
    fn an_error_never_repeats_the_key() {
        let error = KeyMaterial::from_base64("k", ProviderKind::Aescbc, "not base64, but secret").unwrap_err();
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn a_ring_survives_being_stored() {
        let key = ("key1".to_owned(), KeyMaterial::generate().unwrap());
        let ring = KeyRing {
            providers: vec![
                ProviderKeys { kind: ProviderKind::Secretbox, keys: vec![key] },
                ProviderKeys { kind: ProviderKind::Identity, keys: Vec::new() },
            ],
        };
        let text = serde_json::to_string(&StoredKeys::from(&ring)).unwrap();
        let stored: StoredKeys = serde_json::from_str(&text).unwrap();
        assert_eq!(KeyRing::try_from(stored).unwrap(), ring);
    }
}
