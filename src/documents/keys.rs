//! Encryption keys: making them, reading them from their source, keeping them out of sight.
//!
//! Owns key bytes while they are in memory (wiped when dropped, redacted in `Debug`).
//! Leaves to `render` how they are written into an EncryptionConfiguration, and to
//! `cluster::store` where they are kept between commands.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::documents::profile::{Encryption, KeySource, ProviderKind};

/// The length in bytes of keys that kprov makes: AES-256, and the only length that secretbox takes.
pub const GENERATED_LENGTH: usize = 32;

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
            ProviderKind::Identity => (false, "none"),
        };
        if fits {
            Ok(Self(bytes))
        } else {
            Err(KeyError::Length { key: name.to_owned(), provider, got: bytes.len(), allowed })
        }
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
    /// Name and bytes of each key; the first one writes. Empty for `identity`.
    pub keys: Vec<(String, KeyMaterial)>,
}

/// All keys of a cluster's encryption at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyRing {
    /// The providers, in order.
    pub providers: Vec<ProviderKeys>,
}

impl KeyRing {
    /// Makes or reads every key that `encryption` names. Relative key files start at `base`.
    ///
    /// # Errors
    /// The first [`KeyError`].
    pub fn resolve(encryption: &Encryption, base: &Path) -> Result<Self, KeyError> {
        Self::with(encryption, |name, provider, source| match source {
            KeySource::Generate => KeyMaterial::generate(),
            KeySource::Env(variable) => {
                let text = std::env::var(variable)
                    .map(Zeroizing::new)
                    .map_err(|_| KeyError::NoVariable { key: name.to_owned(), variable: variable.clone() })?;
                KeyMaterial::from_base64(name, provider, &text)
            }
            KeySource::File(path) => {
                let path = base.join(path);
                let text = std::fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| KeyError::NoFile {
                    key: name.to_owned(),
                    path,
                    error,
                })?;
                KeyMaterial::from_base64(name, provider, &text)
            }
            KeySource::Literal(text) => KeyMaterial::from_base64(name, provider, text),
        })
    }

    /// A ring of the same shape whose keys are all zeros: for digests and previews, never for a cluster.
    #[must_use]
    pub fn placeholder(encryption: &Encryption) -> Self {
        Self::with(encryption, |_, _, _| {
            Ok::<_, std::convert::Infallible>(KeyMaterial(Zeroizing::new(vec![0; GENERATED_LENGTH])))
        })
        .unwrap_or_else(|never| match never {})
    }

    fn with<E>(
        encryption: &Encryption,
        mut material: impl FnMut(&str, ProviderKind, &KeySource) -> Result<KeyMaterial, E>,
    ) -> Result<Self, E> {
        let mut providers = Vec::with_capacity(encryption.providers.len());
        for provider in &encryption.providers {
            let mut keys = Vec::new();
            if provider.kind != ProviderKind::Identity {
                let default = [crate::documents::profile::Key { name: "key1".to_owned(), source: KeySource::Generate }];
                let wanted = if provider.keys.is_empty() { &default[..] } else { &provider.keys };
                for key in wanted {
                    keys.push((key.name.clone(), material(&key.name, provider.kind, &key.source)?));
                }
            }
            providers.push(ProviderKeys { kind: provider.kind, keys });
        }
        Ok(Self { providers })
    }

    /// The provider and key that write: what every stored value should carry.
    #[must_use]
    pub fn writer(&self) -> Option<(ProviderKind, &str)> {
        let first = self.providers.first()?;
        let (name, _) = first.keys.first()?;
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
    fn a_key_can_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), format!("{KEY32}\n")).unwrap();
        let encryption: Encryption = serde_json::from_value(serde_json::json!({
            "providers": [{"type": "aescbc", "keys": [{"name": "a", "source": {"file": "key"}}]}, {"type": "identity"}]
        }))
        .unwrap();
        let ring = KeyRing::resolve(&encryption, folder.path()).unwrap();
        assert_eq!(ring.writer(), Some((ProviderKind::Aescbc, "a")));
        assert_eq!(ring.providers[0].keys[0].1.to_base64().as_str(), KEY32);
        assert!(ring.providers[1].keys.is_empty());
    }

    #[test]
    fn a_ring_survives_being_stored() {
        let encryption: Encryption = serde_json::from_value(serde_json::json!({
            "providers": [{"type": "secretbox"}, {"type": "identity"}]
        }))
        .unwrap();
        let ring = KeyRing::resolve(&encryption, Path::new("/")).unwrap();
        let text = serde_json::to_string(&StoredKeys::from(&ring)).unwrap();
        let stored: StoredKeys = serde_json::from_str(&text).unwrap();
        assert_eq!(KeyRing::try_from(stored).unwrap(), ring);
    }
}
