//! The EncryptionConfiguration of a living cluster: read, changed step by step, written.
//!
//! Pure. Every step is idempotent and keeps what it does not concern, so that a walk that was
//! interrupted can be taken up from whatever was written last. Keys are wiped when dropped; no error quotes the text.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::documents::keys::{KeyMaterial, KeyRing, ProviderKeys};
use crate::documents::profile::ProviderKind;

/// A key, told by its provider and name: what stored values carry. `identity` has no name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyId {
    /// The provider.
    pub provider: ProviderKind,
    /// The key's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

impl KeyId {
    /// No encryption.
    #[must_use]
    pub fn identity() -> Self {
        Self { provider: ProviderKind::Identity, key: String::new() }
    }

    /// The first bytes of a value that it wrote, as [`crate::documents::stored::Stored`] shows them.
    #[must_use]
    pub fn stored(&self) -> String {
        match self.provider {
            ProviderKind::Identity => "plain text".to_owned(),
            provider => format!("k8s:enc:{provider}:v1:{}:", self.key),
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            ProviderKind::Identity => f.write_str("identity"),
            provider => write!(f, "{provider} {}", self.key),
        }
    }
}

/// A provider in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// One whose keys are in the configuration, or `identity`.
    Local(ProviderKeys),
    /// A KMS plugin: kept as it is.
    Kms(Kms),
}

/// A KMS plugin's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kms {
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<String>,
    name: String,
    endpoint: String,
    #[serde(rename = "cachesize", skip_serializing_if = "Option::is_none")]
    cache_size: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<String>,
}

/// Resources that are stored alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Their names.
    pub resources: Vec<String>,
    /// The providers; the first one writes, all of them read.
    pub providers: Vec<Provider>,
}

/// An EncryptionConfiguration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The groups; the first one that names a resource decides.
    pub groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    resources: Vec<DocumentGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DocumentGroup {
    resources: Vec<String>,
    providers: Vec<BTreeMap<String, Option<DocumentProvider>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DocumentProvider {
    #[serde(default)]
    keys: Vec<DocumentKey>,
    api_version: Option<String>,
    name: Option<String>,
    endpoint: Option<String>,
    #[serde(rename = "cachesize")]
    cache_size: Option<i64>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
struct DocumentKey {
    name: String,
    secret: Zeroizing<String>,
}

impl Group {
    /// The key that writes; `None` for a KMS plugin.
    #[must_use]
    pub fn writer(&self) -> Option<KeyId> {
        match self.providers.first()? {
            Provider::Local(local) => {
                let key = local.keys.first().map(|(name, _)| name.clone()).unwrap_or_default();
                Some(KeyId { provider: local.kind, key })
            }
            Provider::Kms(_) => None,
        }
    }

    /// All keys that can be read, with their fingerprints; the one that writes comes first.
    #[must_use]
    pub fn keys(&self) -> Vec<(KeyId, Option<String>)> {
        let local = self.providers.iter().filter_map(|provider| match provider {
            Provider::Local(local) => Some(local),
            Provider::Kms(_) => None,
        });
        local
            .flat_map(|local| -> Vec<(KeyId, Option<String>)> {
                if local.kind == ProviderKind::Identity {
                    return vec![(KeyId::identity(), None)];
                }
                let key = |name: &String| KeyId { provider: local.kind, key: name.clone() };
                local.keys.iter().map(|(name, material)| (key(name), Some(material.fingerprint()))).collect()
            })
            .collect()
    }

    /// The bytes of a key.
    #[must_use]
    pub fn material(&self, id: &KeyId) -> Option<&KeyMaterial> {
        let (provider, key) = self.place(id)?;
        match &self.providers[provider] {
            Provider::Local(local) => local.keys.get(key).map(|(_, material)| material),
            Provider::Kms(_) => None,
        }
    }

    /// Whether values that `id` wrote can be read.
    #[must_use]
    pub fn reads(&self, id: &KeyId) -> bool {
        self.place(id).is_some()
    }

    /// Index of the provider, and of the key in it.
    fn place(&self, id: &KeyId) -> Option<(usize, usize)> {
        self.providers.iter().enumerate().find_map(|(index, provider)| match provider {
            Provider::Local(local) if local.kind == id.provider => match id.provider {
                ProviderKind::Identity => Some((index, 0)),
                _ => local.keys.iter().position(|(name, _)| *name == id.key).map(|key| (index, key)),
            },
            _ => None,
        })
    }

    /// Makes `id` a reader, behind the one that writes.
    fn add(&mut self, id: &KeyId, material: Option<KeyMaterial>) {
        if self.reads(id) {
            return;
        }
        let Some(material) = material else {
            // identity reads whatever is in the clear, so it comes last.
            self.providers.push(Provider::Local(ProviderKeys { kind: ProviderKind::Identity, keys: Vec::new() }));
            return;
        };
        let key = (id.key.clone(), material);
        let same = self.providers.iter_mut().find_map(|provider| match provider {
            Provider::Local(local) if local.kind == id.provider => Some(local),
            _ => None,
        });
        match same {
            Some(local) => local.keys.insert(local.keys.len().min(1), key),
            None => {
                let provider = Provider::Local(ProviderKeys { kind: id.provider, keys: vec![key] });
                self.providers.insert(self.providers.len().min(1), provider);
            }
        }
    }

    /// Makes `id`, which is a reader, the one that writes.
    fn promote(&mut self, id: &KeyId) {
        let Some((index, key)) = self.place(id) else { return };
        let mut provider = self.providers.remove(index);
        if let Provider::Local(local) = &mut provider
            && !local.keys.is_empty()
        {
            local.keys[..=key].rotate_right(1);
        }
        self.providers.insert(0, provider);
    }

    /// Takes away every key but `id`. `identity` stays where it was a reader: it holds no key.
    fn keep_only(&mut self, id: &KeyId) {
        let material = self.material(id).cloned();
        let identity = self.reads(&KeyId::identity());
        self.providers.clear();
        if let Some(material) = material {
            let keys = vec![(id.key.clone(), material)];
            self.providers.push(Provider::Local(ProviderKeys { kind: id.provider, keys }));
        }
        if identity {
            self.providers.push(Provider::Local(ProviderKeys { kind: ProviderKind::Identity, keys: Vec::new() }));
        }
    }
}

impl Config {
    /// Reads an EncryptionConfiguration.
    ///
    /// # Errors
    /// What is wrong with it, without quoting it: it holds keys.
    pub fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_yaml::from_str(text).map_err(|error| {
            let place = error.location().map(|place| format!(" (line {})", place.line())).unwrap_or_default();
            format!("it is no valid EncryptionConfiguration{place}")
        })?;
        if document.kind != "EncryptionConfiguration" {
            return Err("its kind is not EncryptionConfiguration".to_owned());
        }
        let groups = document.resources.into_iter().map(|group| {
            let providers: Vec<_> =
                group.providers.into_iter().flatten().map(read_provider).collect::<Result<_, _>>()?;
            if providers.is_empty() {
                return Err("a group of resources has no provider".to_owned());
            }
            Ok(Group { resources: group.resources, providers })
        });
        let groups: Vec<Group> = groups.collect::<Result<_, _>>()?;
        if groups.is_empty() { Err("it names no resources".to_owned()) } else { Ok(Self { groups }) }
    }

    /// The document, as the API server reads it. Wiped when dropped.
    #[must_use]
    pub fn to_yaml(&self) -> Zeroizing<String> {
        // Room for all of it from the start: a buffer that grows leaves copies of keys behind.
        let mut out = Zeroizing::new(String::with_capacity(4096 + 1024 * self.groups.len() + 256 * self.key_count()));
        out.push_str("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n");
        // JSON strings are YAML strings, whatever they hold.
        let text = |text: &str| serde_json::Value::from(text).to_string();
        for group in &self.groups {
            out.push_str("- resources:\n");
            for resource in &group.resources {
                out.push_str(&format!("  - {}\n", text(resource)));
            }
            out.push_str("  providers:\n");
            for provider in &group.providers {
                match provider {
                    Provider::Local(local) if local.kind == ProviderKind::Identity => {
                        out.push_str("  - identity: {}\n")
                    }
                    Provider::Local(local) => {
                        out.push_str(&format!("  - {}:\n      keys:\n", local.kind));
                        for (name, material) in &local.keys {
                            out.push_str(&format!("      - name: {}\n        secret: ", text(name)));
                            out.push_str(&material.to_base64());
                            out.push('\n');
                        }
                    }
                    Provider::Kms(kms) => {
                        let settings = serde_json::to_string(kms).unwrap_or_default();
                        out.push_str(&format!("  - kms: {settings}\n"));
                    }
                }
            }
        }
        out
    }

    fn key_count(&self) -> usize {
        self.groups.iter().map(|group| group.keys().len()).sum()
    }

    /// The sha256 of the document, in hexadecimal.
    #[must_use]
    pub fn digest(&self) -> String {
        Sha256::digest(self.to_yaml().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// All resources, each once, with the group that decides on it.
    #[must_use]
    pub fn resources(&self) -> Vec<(&str, &Group)> {
        let mut all: Vec<(&str, &Group)> = Vec::new();
        for group in &self.groups {
            for resource in &group.resources {
                if !all.iter().any(|(known, _)| known == resource) {
                    all.push((resource, group));
                }
            }
        }
        all
    }

    /// The names of all keys, of whichever provider.
    #[must_use]
    pub fn key_names(&self) -> Vec<String> {
        self.groups.iter().flat_map(Group::keys).map(|(id, _)| id.key).filter(|name| !name.is_empty()).collect()
    }

    /// The group of exactly these resources.
    #[must_use]
    pub fn group(&self, resources: &[String]) -> Option<&Group> {
        self.groups.iter().find(|group| group.resources == resources)
    }

    fn group_mut(&mut self, resources: &[String]) -> &mut Group {
        let index = self.groups.iter().position(|group| group.resources == resources).unwrap_or_else(|| {
            // First, lest a wildcard of a later group decides.
            let identity = Provider::Local(ProviderKeys { kind: ProviderKind::Identity, keys: Vec::new() });
            self.groups.insert(0, Group { resources: resources.to_vec(), providers: vec![identity] });
            0
        });
        &mut self.groups[index]
    }

    /// Whether `id` writes these resources from within larger groups: they have been put together already.
    fn is_settled(&self, resources: &[String], id: &KeyId) -> bool {
        let known = self.resources();
        let writes = |resource: &String| {
            known.iter().any(|(name, group)| name == resource && group.writer().as_ref() == Some(id))
        };
        self.group(resources).is_none() && !resources.is_empty() && resources.iter().all(writes)
    }

    /// Makes `id` readable for these resources; a group that is not there yet starts in the clear.
    pub fn add(&mut self, resources: &[String], id: &KeyId, material: Option<KeyMaterial>) {
        if !self.is_settled(resources, id) {
            self.group_mut(resources).add(id, material);
        }
    }

    /// Makes `id` the one that writes these resources.
    pub fn promote(&mut self, resources: &[String], id: &KeyId) {
        if !self.is_settled(resources, id) {
            self.group_mut(resources).promote(id);
        }
    }

    /// Takes all other keys of these resources away; with `identity`, the whole group.
    pub fn keep_only(&mut self, resources: &[String], id: &KeyId) {
        if id.provider == ProviderKind::Identity {
            self.groups.retain(|group| group.resources != resources);
        } else if !self.is_settled(resources, id) {
            self.group_mut(resources).keep_only(id);
        }
    }

    /// Puts neighbouring groups with the same providers and keys together.
    pub fn merge_groups(&mut self) {
        let mut merged: Vec<Group> = Vec::new();
        for group in self.groups.drain(..).rev() {
            match merged.first_mut().filter(|known| known.providers == group.providers) {
                Some(known) => {
                    let new = group.resources.into_iter().filter(|resource| !known.resources.contains(resource));
                    known.resources.extend(new.collect::<Vec<_>>());
                }
                None => merged.insert(0, group),
            }
        }
        self.groups = merged;
    }

    /// The keys as kprov keeps them on the host, if the configuration is of the simple form that a profile can ask for.
    #[must_use]
    pub fn simple(&self) -> Option<(&[String], KeyRing)> {
        let [group] = self.groups.as_slice() else { return None };
        let providers = group.providers.iter().map(|provider| match provider {
            Provider::Local(local) => Some(local.clone()),
            Provider::Kms(_) => None,
        });
        Some((&group.resources, KeyRing { providers: providers.collect::<Option<_>>()? }))
    }
}

fn read_provider((kind, provider): (String, Option<DocumentProvider>)) -> Result<Provider, String> {
    let provider = provider.unwrap_or_default();
    let local = match kind.as_str() {
        "aescbc" => ProviderKind::Aescbc,
        "aesgcm" => ProviderKind::Aesgcm,
        "secretbox" => ProviderKind::Secretbox,
        "identity" => ProviderKind::Identity,
        "kms" => {
            return Ok(Provider::Kms(Kms {
                api_version: provider.api_version,
                name: provider.name.ok_or("a KMS plugin has no name")?,
                endpoint: provider.endpoint.ok_or("a KMS plugin has no endpoint")?,
                cache_size: provider.cache_size,
                timeout: provider.timeout,
            }));
        }
        other => return Err(format!("there is no provider {other:?}")),
    };
    let keys = provider.keys.into_iter().map(|key| {
        let material = KeyMaterial::from_base64(&key.name, local, &key.secret).map_err(|error| error.to_string())?;
        Ok((key.name, material))
    });
    let keys: Vec<_> = keys.collect::<Result<_, String>>()?;
    if keys.is_empty() && local != ProviderKind::Identity {
        return Err(format!("the provider {local} has no key"));
    }
    Ok(Provider::Local(ProviderKeys { kind: local, keys }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources:
  - \"secrets\"
  providers:
  - aescbc:
      keys:
      - name: \"key1\"
        secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=
  - identity: {}
";

    fn id(provider: ProviderKind, key: &str) -> KeyId {
        KeyId { provider, key: key.to_owned() }
    }

    fn secrets() -> Vec<String> {
        vec!["secrets".to_owned()]
    }

    fn order(config: &Config) -> Vec<String> {
        config.groups[0].keys().iter().map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn what_is_read_is_written_again() {
        let config = Config::parse(TEXT).unwrap();
        assert_eq!(config.to_yaml().as_str(), TEXT);
        assert_eq!(config.groups[0].writer(), Some(id(ProviderKind::Aescbc, "key1")));
    }

    #[test]
    fn a_rotation_is_three_steps_each_of_which_can_be_repeated() {
        let mut config = Config::parse(TEXT).unwrap();
        let new = id(ProviderKind::Aescbc, "key2");
        for _ in 0..2 {
            config.add(&secrets(), &new, Some(KeyMaterial::generate().unwrap()));
            assert_eq!(order(&config), ["aescbc key1", "aescbc key2", "identity"]);
        }
        let material = config.groups[0].material(&new).unwrap().clone();
        for _ in 0..2 {
            config.promote(&secrets(), &new);
            assert_eq!(order(&config), ["aescbc key2", "aescbc key1", "identity"]);
        }
        for _ in 0..2 {
            config.keep_only(&secrets(), &new);
            assert_eq!(order(&config), ["aescbc key2", "identity"]);
        }
        assert_eq!(config.groups[0].material(&new), Some(&material));
    }

    #[test]
    fn a_migration_puts_the_new_provider_second_then_first() {
        let mut config = Config::parse(TEXT).unwrap();
        let new = id(ProviderKind::Secretbox, "key2");
        config.add(&secrets(), &new, Some(KeyMaterial::generate().unwrap()));
        assert_eq!(order(&config), ["aescbc key1", "secretbox key2", "identity"]);
        config.promote(&secrets(), &new);
        assert_eq!(order(&config), ["secretbox key2", "aescbc key1", "identity"]);
        config.promote(&secrets(), &id(ProviderKind::Aescbc, "key1"));
        assert_eq!(order(&config), ["aescbc key1", "secretbox key2", "identity"], "and back");
    }

    #[test]
    fn turning_off_ends_without_a_group() {
        let mut config = Config::parse(TEXT).unwrap();
        let off = KeyId::identity();
        config.add(&secrets(), &off, None);
        config.promote(&secrets(), &off);
        assert_eq!(order(&config), ["identity", "aescbc key1"]);
        config.keep_only(&secrets(), &off);
        assert!(config.groups.is_empty());
    }

    #[test]
    fn turning_on_starts_in_the_clear() {
        let mut config = Config::default();
        let new = id(ProviderKind::Secretbox, "key1");
        config.add(&secrets(), &new, Some(KeyMaterial::generate().unwrap()));
        assert_eq!(order(&config), ["identity", "secretbox key1"]);
        config.promote(&secrets(), &new);
        config.keep_only(&secrets(), &new);
        assert_eq!(order(&config), ["secretbox key1", "identity"]);
        let (resources, ring) = config.simple().unwrap();
        assert_eq!(resources, ["secrets"]);
        assert_eq!(ring.writer(), Some((ProviderKind::Secretbox, "key1")));
    }

    #[test]
    fn groups_of_the_same_keys_become_one() {
        let mut config = Config::parse(TEXT).unwrap();
        let mut more = config.groups[0].clone();
        more.resources = vec!["configmaps".to_owned()];
        config.groups.insert(0, more);
        config.merge_groups();
        assert_eq!(config.groups.len(), 1);
        assert_eq!(config.groups[0].resources, ["secrets", "configmaps"]);
    }

    #[test]
    fn a_kms_plugin_is_kept() {
        let text = TEXT
            .replace("- identity: {}", "- kms: {apiVersion: v2, name: vault, endpoint: \"unix:///x\", timeout: 3s}");
        let config = Config::parse(&text).unwrap();
        assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
        assert!(config.simple().is_none());
    }

    #[test]
    fn errors_name_the_fault_and_no_key() {
        let cut = &TEXT[..TEXT.len() - 40];
        for (text, expected) in [
            (cut.to_owned(), "not valid base64"),
            (TEXT[..90].to_owned(), "no valid EncryptionConfiguration"),
            (TEXT.replace("aescbc", "rot13"), "there is no provider \"rot13\""),
            (TEXT.replace("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", "AAEC"), "has 3 bytes"),
            (TEXT.replace("EncryptionConfiguration", "Pod"), "kind"),
        ] {
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("AAEC"), "{error}");
        }
    }
}
