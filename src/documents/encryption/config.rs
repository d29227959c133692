//! The EncryptionConfiguration: made from keys, read, changed step by step, written.
//!
//! Pure. Every step is idempotent and keeps what it does not concern, so that a walk that was
//! interrupted can be taken up from whatever was written last. Keys are wiped when dropped; no error quotes the text.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::documents::bounds::check_stream;
use crate::documents::keys::{KeyMaterial, KeyRing, KmsProtocol, ProviderKeys, ProviderKind};

use super::layout::{GroupResource, Precision};

/// Where kprov's own KMS plugin listens, on every control plane and in the API server's pod.
pub const PLUGIN_SOCKET: &str = "/run/kprov-kms/kms.sock";

/// A key, told by its provider and name: what stored values carry. `identity` has no name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyId {
    /// The provider.
    pub provider: ProviderKind,
    /// The key's name; the plugin's, for a KMS.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// The protocol, for a KMS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<KmsProtocol>,
}

impl KeyId {
    /// No encryption.
    #[must_use]
    pub fn identity() -> Self {
        Self::local(ProviderKind::Identity, "")
    }

    /// A key of a provider whose keys are in the configuration.
    #[must_use]
    pub fn local(provider: ProviderKind, key: &str) -> Self {
        Self { provider, key: key.to_owned(), protocol: None }
    }

    /// A KMS plugin.
    #[must_use]
    pub fn kms(protocol: KmsProtocol, name: &str) -> Self {
        Self { provider: ProviderKind::Kms, key: name.to_owned(), protocol: Some(protocol) }
    }

    /// The first bytes of a value that it wrote, as [`crate::documents::stored::Stored`] shows them.
    #[must_use]
    pub fn stored(&self) -> String {
        match self.provider {
            ProviderKind::Identity => "plain text".to_owned(),
            provider => format!("k8s:enc:{provider}:{}:{}:", self.protocol.unwrap_or(KmsProtocol::V1), self.key),
        }
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.provider {
            ProviderKind::Identity => f.write_str("identity"),
            ProviderKind::Kms => {
                write!(f, "kms {} ({})", self.key, self.protocol.unwrap_or(KmsProtocol::V1))
            }
            provider => write!(f, "{provider} {}", self.key),
        }
    }
}

/// A provider in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provider {
    /// One whose keys are in the configuration, or `identity`.
    Local(ProviderKeys),
    /// A KMS plugin.
    Kms(Kms),
}

/// What a configuration has to hold for a key: its bytes, or how its plugin is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Material {
    /// A key's bytes.
    Key(KeyMaterial),
    /// A plugin.
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

impl Kms {
    /// A plugin that is asked by `protocol` at `endpoint`, for so many seconds.
    #[must_use]
    pub fn new(protocol: KmsProtocol, name: &str, endpoint: &str, timeout_seconds: u32) -> Self {
        Self {
            // Before 1.25 there is no such field, and no other protocol.
            api_version: (protocol != KmsProtocol::V1).then(|| protocol.name().to_owned()),
            name: name.to_owned(),
            endpoint: endpoint.to_owned(),
            cache_size: None,
            timeout: Some(format!("{timeout_seconds}s")),
        }
    }

    /// How its values are told.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let protocol = if self.api_version.as_deref() == Some("v2") { KmsProtocol::V2 } else { KmsProtocol::V1 };
        KeyId::kms(protocol, &self.name)
    }

    /// The socket, of an endpoint that is one.
    #[must_use]
    pub fn socket(&self) -> Option<&str> {
        // As the API server reads it: `unix:///path`, and `unix://@name` for sockets without a file.
        self.endpoint.strip_prefix("unix://").filter(|path| path.starts_with('/'))
    }
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
    /// The groups, in order. Those that name a resource most exactly decide on it: see [`Config::deciding`].
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
    /// What writes; `None` for a group without providers, which no API server takes.
    #[must_use]
    pub fn writer(&self) -> Option<KeyId> {
        match self.providers.first()? {
            Provider::Local(local) => {
                let key = local.keys.first().map_or("", |(name, _)| name);
                Some(KeyId::local(local.kind, key))
            }
            Provider::Kms(kms) => Some(kms.id()),
        }
    }

    /// All keys that can be read, with their fingerprints; the one that writes comes first.
    #[must_use]
    pub fn keys(&self) -> Vec<(KeyId, Option<String>)> {
        let of = |provider: &Provider| match provider {
            Provider::Kms(kms) => vec![(kms.id(), None)],
            Provider::Local(local) if local.kind == ProviderKind::Identity => vec![(KeyId::identity(), None)],
            Provider::Local(local) => {
                let key = |name: &String| KeyId::local(local.kind, name);
                local.keys.iter().map(|(name, material)| (key(name), Some(material.fingerprint()))).collect()
            }
        };
        self.providers.iter().flat_map(of).collect()
    }

    /// What the configuration holds for a key; nothing for `identity`.
    #[must_use]
    pub fn material(&self, id: &KeyId) -> Option<Material> {
        let (provider, key) = self.place(id)?;
        match &self.providers[provider] {
            Provider::Local(local) => local.keys.get(key).map(|(_, material)| Material::Key(material.clone())),
            Provider::Kms(kms) => Some(Material::Kms(kms.clone())),
        }
    }

    /// Whether values that `id` wrote can be read.
    #[must_use]
    pub fn reads(&self, id: &KeyId) -> bool {
        self.place(id).is_some()
    }

    /// The first bytes of all that it reads; of one that `identity` reads, "plain text".
    #[must_use]
    pub fn readable(&self) -> Vec<String> {
        let of = |provider: &Provider| match provider {
            Provider::Local(local) if local.kind == ProviderKind::Identity => vec![KeyId::identity().stored()],
            Provider::Local(local) => {
                local.keys.iter().map(|(name, _)| KeyId::local(local.kind, name).stored()).collect()
            }
            Provider::Kms(kms) => vec![kms.id().stored()],
        };
        self.providers.iter().flat_map(of).collect()
    }

    /// The first bytes of what it writes, or "plain text".
    #[must_use]
    pub fn writes(&self) -> String {
        self.writer().unwrap_or_else(KeyId::identity).stored()
    }

    /// Index of the provider, and of the key in it.
    fn place(&self, id: &KeyId) -> Option<(usize, usize)> {
        self.providers.iter().enumerate().find_map(|(index, provider)| match provider {
            Provider::Local(local) if local.kind == id.provider => match id.provider {
                ProviderKind::Identity => Some((index, 0)),
                _ => local.keys.iter().position(|(name, _)| *name == id.key).map(|key| (index, key)),
            },
            Provider::Kms(kms) if kms.id() == *id => Some((index, 0)),
            _ => None,
        })
    }

    /// Makes `id` a reader, behind the one that writes.
    fn add(&mut self, id: &KeyId, material: Option<Material>) {
        if self.reads(id) {
            return;
        }
        let material = match material {
            None => {
                // identity reads whatever is in the clear, so it comes last.
                self.providers.push(Provider::Local(ProviderKeys { kind: ProviderKind::Identity, keys: Vec::new() }));
                return;
            }
            Some(Material::Kms(kms)) => {
                self.providers.insert(self.providers.len().min(1), Provider::Kms(kms));
                return;
            }
            Some(Material::Key(material)) => material,
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
        let material = self.material(id);
        let identity = self.reads(&KeyId::identity());
        self.providers.clear();
        match material {
            Some(Material::Key(material)) => {
                let keys = vec![(id.key.clone(), material)];
                self.providers.push(Provider::Local(ProviderKeys { kind: id.provider, keys }));
            }
            Some(Material::Kms(kms)) => self.providers.push(Provider::Kms(kms)),
            None => {}
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
        check_stream(text).map_err(|_| "it is no YAML, or too large once its aliases are expanded")?;
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

    /// The configuration that a profile asks for: one group of resources, whose KMS provider is `kms`.
    #[must_use]
    pub fn of(resources: &[String], ring: &KeyRing, kms: Option<&Kms>) -> Self {
        let providers = ring.providers.iter().filter_map(|provider| match provider.kind {
            ProviderKind::Kms => kms.cloned().map(Provider::Kms),
            _ => Some(Provider::Local(provider.clone())),
        });
        let providers = providers.collect();
        Self { groups: vec![Group { resources: resources.to_vec(), providers }] }
    }

    /// The document, as the API server reads it. Wiped when dropped.
    #[must_use]
    pub fn to_yaml(&self) -> Zeroizing<String> {
        self.write(|_, material| material.to_base64())
    }

    /// The document with a text in place of each key, for showing.
    #[must_use]
    pub fn redacted(&self, text: impl Fn(&KeyId) -> String) -> String {
        self.write(|id, _| Zeroizing::new(text(id))).to_string()
    }

    fn write(&self, secret: impl Fn(&KeyId, &KeyMaterial) -> Zeroizing<String>) -> Zeroizing<String> {
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
                            let id = KeyId::local(local.kind, name);
                            out.push_str(&format!("      - name: {}\n        secret: \"", text(name)));
                            out.push_str(&secret(&id, material));
                            out.push_str("\"\n");
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
        hex::encode(Sha256::digest(self.to_yaml().as_bytes()))
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

    /// The groups that decide on a resource, or on all that a narrower wildcard names.
    ///
    /// The API server's rules (k8s.io/apiserver/pkg/server/options/encryptionconfig, `transformerFromOverrides`): groups
    /// that name the resource; else those with `*.GROUP`; else those with `*.*`; never a mixture. The first one writes,
    /// all of them read.
    #[must_use]
    pub fn deciding(&self, resource: &GroupResource) -> Vec<&Group> {
        let precision = |group: &Group| {
            let names = |rule: &String| GroupResource::parse(rule).names(resource);
            group.resources.iter().filter_map(names).max()
        };
        let best: Option<Precision> = self.groups.iter().filter_map(precision).max();
        self.groups.iter().filter(|group| best.is_some() && precision(group) == best).collect()
    }

    /// Whether a value of a resource can be read, by its first bytes. What no group decides on is in the clear.
    #[must_use]
    pub fn reads(&self, resource: &GroupResource, stored: &str) -> bool {
        let deciding = self.deciding(resource);
        if deciding.is_empty() {
            return stored == KeyId::identity().stored();
        }
        deciding.iter().any(|group| group.readable().iter().any(|readable| readable == stored))
    }

    /// Whether any group reads such values, whatever they are.
    #[must_use]
    pub fn knows(&self, stored: &str) -> bool {
        self.groups.iter().any(|group| group.readable().iter().any(|readable| readable == stored))
    }

    /// The sockets at which KMS plugins are asked.
    #[must_use]
    pub fn sockets(&self) -> Vec<&str> {
        let providers = self.groups.iter().flat_map(|group| &group.providers);
        fn socket(provider: &Provider) -> Option<&str> {
            match provider {
                Provider::Kms(kms) => kms.socket(),
                Provider::Local(_) => None,
            }
        }
        providers.filter_map(socket).collect()
    }

    /// The protocols by which KMS plugins are asked, one for each, in order.
    #[must_use]
    pub fn kms_protocols(&self) -> Vec<KmsProtocol> {
        let providers = self.groups.iter().flat_map(|group| &group.providers);
        let protocol = |provider: &Provider| match provider {
            Provider::Kms(kms) => kms.id().protocol,
            Provider::Local(_) => None,
        };
        providers.filter_map(protocol).collect()
    }

    /// Whether a KMS plugin is asked at this socket.
    #[must_use]
    pub fn asks(&self, socket: &str) -> bool {
        self.sockets().contains(&socket)
    }

    fn group_mut(&mut self, resources: &[String]) -> &mut Group {
        let index = self.groups.iter().position(|group| group.resources == resources).unwrap_or_else(|| {
            let group = Group { resources: resources.to_vec(), providers: self.inherited(resources) };
            // An API server refuses a rule behind a wildcard that covers it. `*.*` is always the last one.
            let named = |rules: &[String], all: bool| {
                let rules = rules.iter().map(|rule| GroupResource::parse(rule));
                rules.filter(|rule| rule.is_wildcard() && (!all || rule.group == "*")).count() > 0
            };
            let last = self.groups.last().is_some_and(|group| named(&group.resources, true));
            let index = match (named(resources, false), named(resources, true)) {
                (false, _) => 0,
                (true, false) => self.groups.len() - usize::from(last),
                (true, true) => self.groups.len(),
            };
            self.groups.insert(index, group);
            index
        });
        &mut self.groups[index]
    }

    /// What a new group begins with: it writes in the clear, and reads all that those which have decided until now can read.
    fn inherited(&self, resources: &[String]) -> Vec<Provider> {
        let identity = Provider::Local(ProviderKeys { kind: ProviderKind::Identity, keys: Vec::new() });
        let mut providers = vec![identity];
        for resource in resources {
            for group in self.deciding(&GroupResource::parse(resource)) {
                for provider in &group.providers {
                    if !providers.contains(provider) {
                        providers.push(provider.clone());
                    }
                }
            }
        }
        providers
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
    pub fn add(&mut self, resources: &[String], id: &KeyId, material: Option<Material>) {
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

    /// Makes every group write plain text, and read all that it has read before.
    pub fn write_plain_text(&mut self) {
        for group in &mut self.groups {
            group.add(&KeyId::identity(), None);
            group.promote(&KeyId::identity());
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

    /// Puts neighbouring groups with the same providers and keys together. Wildcards stay alone: an API server
    /// refuses a group whose rules overlap.
    pub fn merge_groups(&mut self) {
        let mut merged: Vec<Group> = Vec::new();
        for group in self.groups.drain(..).rev() {
            let alone = |group: &Group| group.resources.iter().any(|rule| GroupResource::parse(rule).is_wildcard());
            let same = |known: &&mut Group| known.providers == group.providers && !alone(known) && !alone(&group);
            match merged.first_mut().filter(same) {
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
            Provider::Local(local) => local.clone(),
            // What it logs in by is not in the configuration.
            Provider::Kms(_) => ProviderKeys { kind: ProviderKind::Kms, keys: Vec::new() },
        });
        Some((&group.resources, KeyRing { providers: providers.collect() }))
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
        secret: \"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\"
  - identity: {}
";

    fn id(provider: ProviderKind, key: &str) -> KeyId {
        KeyId::local(provider, key)
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
            config.add(&secrets(), &new, Some(Material::Key(KeyMaterial::generate().unwrap())));
            assert_eq!(order(&config), ["aescbc key1", "aescbc key2", "identity"]);
        }
        let material = config.groups[0].material(&new).unwrap();
        for _ in 0..2 {
            config.promote(&secrets(), &new);
            assert_eq!(order(&config), ["aescbc key2", "aescbc key1", "identity"]);
        }
        for _ in 0..2 {
            config.keep_only(&secrets(), &new);
            assert_eq!(order(&config), ["aescbc key2", "identity"]);
        }
        assert_eq!(config.groups[0].material(&new), Some(material));
    }

    #[test]
    fn a_migration_puts_the_new_provider_second_then_first() {
        let mut config = Config::parse(TEXT).unwrap();
        let new = id(ProviderKind::Secretbox, "key2");
        config.add(&secrets(), &new, Some(Material::Key(KeyMaterial::generate().unwrap())));
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
        config.add(&secrets(), &new, Some(Material::Key(KeyMaterial::generate().unwrap())));
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

    /// `[RULES]` written by secretbox with each of the keys named.
    fn with(groups: &[(&[&str], &[&str])]) -> Config {
        let group = |(rules, keys): &(&[&str], &[&str])| {
            let keys = keys.iter().map(|&name| (name.to_owned(), KeyMaterial::generate().unwrap())).collect();
            Group {
                resources: rules.iter().map(|&rule| rule.to_owned()).collect(),
                providers: vec![Provider::Local(ProviderKeys { kind: ProviderKind::Secretbox, keys })],
            }
        };
        Config { groups: groups.iter().map(group).collect() }
    }

    fn rules(config: &Config) -> Vec<String> {
        config.groups.iter().map(|group| group.resources.join(",")).collect()
    }

    #[test]
    fn the_most_exact_rule_decides_alone() {
        let config =
            with(&[(&["secrets"], &["a"]), (&["*.apps"], &["b"]), (&["secrets", "pods"], &["c"]), (&["*.*"], &["d"])]);
        let reads = |name: &str| {
            let keys = ["a", "b", "c", "d"].into_iter();
            let stored = |key: &&str| id(ProviderKind::Secretbox, key).stored();
            keys.filter(|key| config.reads(&GroupResource::parse(name), &stored(key))).collect::<String>()
        };
        // Groups that name the same resource add up, as in the API server.
        assert_eq!(reads("secrets"), "ac");
        assert_eq!(reads("deployments.apps"), "b");
        assert_eq!(reads("configmaps"), "d");
        assert_eq!(config.deciding(&GroupResource::parse("secrets"))[0].writes(), "k8s:enc:secretbox:v1:a:");
        assert!(!config.reads(&GroupResource::parse("configmaps"), "plain text"));
        assert!(with(&[]).reads(&GroupResource::parse("configmaps"), "plain text"));
    }

    #[test]
    fn a_new_group_reads_what_the_wildcard_before_it_has_written() {
        let mut config = with(&[(&["*.*"], &["old"])]);
        let (old, new) = (id(ProviderKind::Secretbox, "old"), id(ProviderKind::Aescbc, "new"));
        config.add(&secrets(), &new, Some(Material::Key(KeyMaterial::generate().unwrap())));
        config.promote(&secrets(), &new);
        let secrets = GroupResource::parse("secrets");
        assert!(config.reads(&secrets, &old.stored()) && config.reads(&secrets, &new.stored()));
        assert!(config.reads(&secrets, "plain text"));
    }

    #[test]
    fn no_rule_comes_behind_a_wildcard_that_covers_it() {
        let mut config = with(&[(&["deployments.apps"], &["a"]), (&["*.*"], &["d"])]);
        let key = id(ProviderKind::Aescbc, "new");
        for rule in ["*.apps", "secrets", "*."] {
            config.add(&[rule.to_owned()], &key, Some(Material::Key(KeyMaterial::generate().unwrap())));
        }
        assert_eq!(rules(&config), ["secrets", "deployments.apps", "*.apps", "*.", "*.*"]);
        let mut config = with(&[(&["secrets"], &["a"])]);
        config.add(&["*.*".to_owned()], &key, Some(Material::Key(KeyMaterial::generate().unwrap())));
        assert_eq!(rules(&config), ["secrets", "*.*"]);
    }

    #[test]
    fn wildcards_are_not_put_together_with_what_they_cover() {
        let mut config = with(&[(&["secrets"], &["a"]), (&["*.*"], &["b"])]);
        config.groups[1].providers = config.groups[0].providers.clone();
        config.merge_groups();
        assert_eq!(rules(&config), ["secrets", "*.*"]);
    }

    #[test]
    fn a_kms_plugin_is_kept() {
        let text = TEXT
            .replace("- identity: {}", "- kms: {apiVersion: v2, name: vault, endpoint: \"unix:///x\", timeout: 3s}");
        let config = Config::parse(&text).unwrap();
        assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
        let (_, ring) = config.simple().unwrap();
        assert_eq!(ring.providers[1], ProviderKeys { kind: ProviderKind::Kms, keys: Vec::new() });
    }

    #[test]
    fn a_migration_to_a_kms_and_back_keeps_its_order() {
        let kms = Kms::new(KmsProtocol::V2, "vault", "unix:///run/kms.sock", 3);
        assert_eq!(kms.socket(), Some("/run/kms.sock"));
        let (old, new) = (id(ProviderKind::Aescbc, "key1"), kms.id());
        assert_eq!(new.stored(), "k8s:enc:kms:v2:vault:");
        let mut config = Config::parse(TEXT).unwrap();
        for _ in 0..2 {
            config.add(&secrets(), &new, Some(Material::Kms(kms.clone())));
            assert_eq!(order(&config), ["aescbc key1", "kms vault (v2)", "identity"]);
        }
        for _ in 0..2 {
            config.promote(&secrets(), &new);
            assert_eq!(order(&config), ["kms vault (v2)", "aescbc key1", "identity"]);
        }
        assert!(config.knows(&new.stored()) && config.knows(&old.stored()));
        let mut back = config.clone();
        for _ in 0..2 {
            config.keep_only(&secrets(), &new);
            assert_eq!(order(&config), ["kms vault (v2)", "identity"]);
            assert_eq!(Config::parse(&config.to_yaml()).unwrap(), config);
        }
        back.promote(&secrets(), &old);
        back.keep_only(&secrets(), &old);
        assert_eq!(back, Config::parse(TEXT).unwrap());
    }

    #[test]
    fn the_older_protocol_is_named_by_nothing() {
        let text = serde_json::to_string(&Kms::new(KmsProtocol::V1, "a", "unix:///a", 5)).unwrap();
        assert_eq!(text, r#"{"name":"a","endpoint":"unix:///a","timeout":"5s"}"#);
        let read = Config::parse(&TEXT.replace("- identity: {}", &format!("- kms: {text}"))).unwrap();
        assert_eq!(read.groups[0].keys()[1].0, KeyId::kms(KmsProtocol::V1, "a"));
    }

    #[test]
    fn errors_name_the_fault_and_no_key() {
        for (text, expected) in [
            (TEXT.replace("Hh8=", "Hh8"), "not valid base64"),
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

    #[test]
    fn a_file_that_would_take_all_memory_is_refused() {
        let error = Config::parse(&crate::documents::bounds::tests::bomb()).unwrap_err();
        assert!(error.contains("too large once its aliases are expanded"), "{error}");
    }
}
