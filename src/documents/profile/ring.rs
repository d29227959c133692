//! From the keys that a profile names to their bytes: made, or read from where the profile says.

use std::convert::Infallible;
use std::path::Path;

use zeroize::Zeroizing;

use crate::documents::keys::{KeyError, KeyMaterial, KeyRing, ProviderKeys, ProviderKind, secret};
use crate::documents::named_file::read_named;

use super::{Encryption, Key, KeySource, Kms, KmsHolder, SecretSource, VaultAuth};

impl Encryption {
    /// Makes or reads every key that is named, and what a KMS plugin logs in by. Relative files start at `base`.
    ///
    /// # Errors
    /// The first [`KeyError`].
    pub fn resolve(&self, base: &Path) -> Result<KeyRing, KeyError> {
        self.ring(&Sources { base })
    }

    /// A ring of the same shape whose keys are all zeros: for digests and previews, never for a cluster.
    #[must_use]
    pub fn placeholder(&self) -> KeyRing {
        self.ring(&Zeros).unwrap_or_else(|never| match never {})
    }

    fn ring<M: Materials>(&self, materials: &M) -> Result<KeyRing, M::Error> {
        let mut providers = Vec::with_capacity(self.providers.len());
        for provider in &self.providers {
            let mut keys = Vec::new();
            match (provider.kind, &provider.kms) {
                (ProviderKind::Identity, _) => {}
                (ProviderKind::Kms, kms) => {
                    for (name, needed) in kms.as_ref().map(needed).unwrap_or_default() {
                        keys.push((name.to_owned(), materials.secret(name, &needed)?));
                    }
                }
                _ => {
                    let default = [Key { name: "key1".to_owned(), source: KeySource::Generate }];
                    let wanted = if provider.keys.is_empty() { &default[..] } else { &provider.keys };
                    for key in wanted {
                        keys.push((key.name.clone(), materials.key(&key.name, provider.kind, &key.source)?));
                    }
                }
            }
            providers.push(ProviderKeys { kind: provider.kind, keys });
        }
        Ok(KeyRing { providers })
    }
}

/// Something that a KMS plugin needs, and where it comes from.
enum Needed {
    /// A key of 32 bytes.
    Key(KeySource),
    /// A text, in a file that need not be secret.
    File(String),
    /// A secret text.
    Secret(SecretSource),
}

/// All that a KMS plugin needs, but for what a server has yet to be made for.
fn needed(kms: &Kms) -> Vec<(&'static str, Needed)> {
    match kms.holder() {
        Some(KmsHolder::Local(local)) => vec![("key1", Needed::Key(local.key.clone()))],
        Some(KmsHolder::Vault(vault)) => {
            let mut needed = vec![(secret::CA, Needed::File(vault.ca.clone()))];
            match vault.auth.clone() {
                VaultAuth::AppRole(role) => needed.extend([
                    (secret::ROLE_ID, Needed::Secret(role.role_id)),
                    (secret::SECRET_ID, Needed::Secret(role.secret_id)),
                ]),
                VaultAuth::Token(token) => needed.push((secret::TOKEN, Needed::Secret(token))),
                VaultAuth::Certificate(certificate) => needed.extend([
                    (secret::CERTIFICATE, Needed::File(certificate.certificate)),
                    (secret::CERTIFICATE_KEY, Needed::Secret(certificate.key)),
                ]),
            }
            needed
        }
        Some(KmsHolder::Server(_) | KmsHolder::Host(_) | KmsHolder::Foreign(_)) | None => Vec::new(),
    }
}

/// Where bytes come from.
trait Materials {
    type Error;

    fn key(&self, name: &str, provider: ProviderKind, source: &KeySource) -> Result<KeyMaterial, Self::Error>;
    fn secret(&self, name: &str, needed: &Needed) -> Result<KeyMaterial, Self::Error>;
}

struct Zeros;

impl Materials for Zeros {
    type Error = Infallible;

    fn key(&self, _: &str, _: ProviderKind, _: &KeySource) -> Result<KeyMaterial, Infallible> {
        Ok(KeyMaterial::placeholder())
    }

    fn secret(&self, _: &str, _: &Needed) -> Result<KeyMaterial, Infallible> {
        Ok(KeyMaterial::placeholder())
    }
}

/// The environment, and files.
struct Sources<'a> {
    base: &'a Path,
}

impl Sources<'_> {
    fn variable(&self, key: &str, variable: &str) -> Result<Zeroizing<String>, KeyError> {
        let missing = |_| KeyError::NoVariable { key: key.to_owned(), variable: variable.to_owned() };
        std::env::var(variable).map(Zeroizing::new).map_err(missing)
    }

    fn file(&self, key: &str, path: &str) -> Result<Zeroizing<String>, KeyError> {
        let path = self.base.join(path);
        read_named(&path).map_err(|error| KeyError::NoFile { key: key.to_owned(), path, error })
    }
}

impl Materials for Sources<'_> {
    type Error = KeyError;

    fn key(&self, name: &str, provider: ProviderKind, source: &KeySource) -> Result<KeyMaterial, KeyError> {
        match source {
            KeySource::Generate => KeyMaterial::generate(),
            KeySource::Env(variable) => KeyMaterial::from_base64(name, provider, &self.variable(name, variable)?),
            KeySource::File(path) => KeyMaterial::from_base64(name, provider, &self.file(name, path)?),
            KeySource::Literal(text) => KeyMaterial::from_base64(name, provider, text),
        }
    }

    fn secret(&self, name: &str, needed: &Needed) -> Result<KeyMaterial, KeyError> {
        let text = match needed {
            // secretbox takes keys of 32 bytes, as the plugin does.
            Needed::Key(source) => return self.key(name, ProviderKind::Secretbox, source),
            Needed::File(path) | Needed::Secret(SecretSource::File(path)) => self.file(name, path)?,
            Needed::Secret(SecretSource::Env(variable)) => self.variable(name, variable)?,
        };
        match text.trim() {
            "" => Err(KeyError::Empty { key: name.to_owned() }),
            text => Ok(KeyMaterial::from_text(text)),
        }
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
