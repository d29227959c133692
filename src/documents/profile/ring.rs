//! From the keys that a profile names to their bytes: made, or read from where the profile says.

use std::convert::Infallible;
use std::path::Path;

use zeroize::Zeroizing;

use crate::documents::keys::{KeyError, KeyMaterial, KeyRing, ProviderKeys, ProviderKind};

use super::{Encryption, Key, KeySource};

impl Encryption {
    /// Makes or reads every key that is named. Relative key files start at `base`.
    ///
    /// # Errors
    /// The first [`KeyError`].
    pub fn resolve(&self, base: &Path) -> Result<KeyRing, KeyError> {
        self.ring(|name, provider, source| match source {
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
    pub fn placeholder(&self) -> KeyRing {
        self.ring(|_, _, _| Ok::<_, Infallible>(KeyMaterial::placeholder())).unwrap_or_else(|never| match never {})
    }

    fn ring<E>(
        &self,
        mut material: impl FnMut(&str, ProviderKind, &KeySource) -> Result<KeyMaterial, E>,
    ) -> Result<KeyRing, E> {
        let mut providers = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            let mut keys = Vec::new();
            if provider.kind != ProviderKind::Identity {
                let default = [Key { name: "key1".to_owned(), source: KeySource::Generate }];
                let wanted = if provider.keys.is_empty() { &default[..] } else { &provider.keys };
                for key in wanted {
                    keys.push((key.name.clone(), material(&key.name, provider.kind, &key.source)?));
                }
            }
            providers.push(ProviderKeys { kind: provider.kind, keys });
        }
        Ok(KeyRing { providers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY32: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_key_can_come_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), format!("{KEY32}\n")).unwrap();
        let encryption: Encryption = serde_json::from_value(serde_json::json!({
            "providers": [{"type": "aescbc", "keys": [{"name": "a", "source": {"file": "key"}}]}, {"type": "identity"}]
        }))
        .unwrap();
        let ring = encryption.resolve(folder.path()).unwrap();
        assert_eq!(ring.writer(), Some((ProviderKind::Aescbc, "a")));
        assert_eq!(ring.providers[0].keys[0].1.to_base64().as_str(), KEY32);
        assert!(ring.providers[1].keys.is_empty());
    }

    #[test]
    fn a_provider_without_keys_gets_one() {
        let encryption: Encryption =
            serde_json::from_value(serde_json::json!({"providers": [{"type": "secretbox"}]})).unwrap();
        assert_eq!(encryption.placeholder().writer(), Some((ProviderKind::Secretbox, "key1")));
    }
}
