//! Real nodes, a real etcd and the record on this host, as a walk sees them.

use kube::Client;
use zeroize::Zeroizing;

use crate::adapters::etcd::Etcd;
use crate::adapters::node::{NodeError, STATIC_POD};
use crate::adapters::records::Store;
use crate::adapters::{kms_plugin, kubernetes};
use crate::documents::encryption::{Config, Layout, Located};
use crate::documents::keys::{KeyRing, ProviderKind};
use crate::documents::names::ClusterName;
use crate::documents::profile::{Encryption, EncryptionProvider, Key, KeySource, Kms};
use crate::documents::static_pod::StaticPod;
use crate::documents::stored::classify;
use crate::operations::api_server::{ApiServer, Rejected};
use crate::operations::cluster::{ClusterError, remove_kms_plugin};

use super::reload::{self, Loaded};
use super::world::{Books, Machine, Storage};
use super::{EncryptionError, Scrubbed};

const MAKE_FOLDER: &str = include_str!("scripts/make_folder.sh");
const REMOVE: &str = include_str!("scripts/remove.sh");
const AGE: &str = include_str!("scripts/age.sh");
const WORDS: &str = include_str!("scripts/words.sh");

impl Machine for ApiServer {
    fn name(&self) -> &str {
        &self.node().name
    }

    async fn is_running(&self) -> Result<bool, NodeError> {
        self.node().is_running().await
    }

    async fn version(&self) -> Result<String, NodeError> {
        Ok(self.node().read_text("/kind/version").await?.trim().to_owned())
    }

    async fn read(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, NodeError> {
        self.node().read_file(path).await
    }

    async fn write(&self, path: &str, content: &[u8]) -> Result<(), NodeError> {
        let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
        let script = format!("folder='{folder}'\n{MAKE_FOLDER}");
        self.node().script(&format!("making {folder}"), &script).await?;
        self.node().replace_file(path, 0o600, content).await
    }

    async fn remove(&self, path: &str) -> Result<(), NodeError> {
        let folder = path.rsplit_once('/').map_or("/", |(folder, _)| folder);
        let script = format!("folder='{folder}' path='{path}'\n{REMOVE}");
        self.node().script(&format!("removing {path}"), &script).await.map(|_| ())
    }

    async fn manifest(&self) -> Result<StaticPod, NodeError> {
        Self::manifest(self).await
    }

    async fn replace(&self, to: &StaticPod, detail: impl FnMut(&str)) -> Result<Result<(), Rejected>, NodeError> {
        Self::replace(self, to, detail).await
    }

    async fn put_back(&self, to: &StaticPod, detail: impl FnMut(&str)) -> Result<Result<(), Rejected>, NodeError> {
        Self::put_back(self, to, detail).await
    }

    async fn commit(&self) -> Result<(), NodeError> {
        Self::commit(self).await
    }

    async fn wake(&self) -> Result<(), NodeError> {
        Self::wake(self).await
    }

    async fn comes_back(&self) -> Result<bool, NodeError> {
        Self::comes_back(self).await
    }

    async fn recover(&self, detail: impl FnMut(&str)) -> Result<Option<&'static str>, NodeError> {
        Self::recover(self, detail).await
    }

    async fn runs(&self, manifest: &StaticPod) -> Result<bool, NodeError> {
        Self::runs(self, manifest).await
    }

    async fn look(&self, port: &str, file: &str) -> Result<Loaded, NodeError> {
        let sum = self.node().run(&["sha256sum", file]).await?;
        reload::look(self.node(), port, file, sum.split_whitespace().next().unwrap_or_default()).await
    }

    async fn started_after(&self, file: &str) -> Result<bool, NodeError> {
        let script = format!("file='{file}'\n{STATIC_POD}\n{AGE}");
        let text = self.node().script("comparing the API server's age with its configuration's", &script).await?;
        Ok(text.trim().parse::<i64>().is_ok_and(|seconds| seconds > 2))
    }

    async fn words(&self) -> String {
        let text = self.node().script("reading the API server's log", WORDS).await.unwrap_or_default();
        crate::adapters::node::last_lines(&text, 3)
    }

    async fn kms_problem(&self) -> Result<Option<String>, NodeError> {
        Ok(match kms_plugin::report(self.node()).await? {
            Ok(report) => report.problem,
            Err(silent) => Some(silent),
        })
    }

    async fn remove_plugin(&self) -> Result<(), NodeError> {
        remove_kms_plugin(self.node()).await
    }
}

/// Where a scrub's marker is: below nothing that an API server keeps.
const MARKER: &str = "/kprov/marker";

/// etcd as one control plane sees it, and the cluster's API.
pub(super) struct Stores<'a> {
    pub(super) etcd: Etcd,
    /// Every member, with its node's name.
    pub(super) members: Vec<(String, Etcd)>,
    pub(super) client: &'a Client,
}

impl Storage for Stores<'_> {
    async fn layout(&self, root: &str) -> Result<Layout, EncryptionError> {
        Ok(kubernetes::layout(self.client, root).await?)
    }

    async fn scan(&self, prefix: &str, mut visit: impl FnMut(&str, &str)) -> Result<(), EncryptionError> {
        self.etcd.scan(prefix, |entry| visit(&entry.key, &classify(&entry.value).to_string())).await?;
        Ok(())
    }

    async fn touch(&self, resource: &Located, key: &str) -> Result<(), EncryptionError> {
        let Some(served) = &resource.served else {
            return Err(EncryptionError::NotServed { resource: resource.name.to_string() });
        };
        Ok(kubernetes::touch(self.client, resource, served, key).await?)
    }

    async fn plant(&self, text: &str) -> Result<(), EncryptionError> {
        Ok(self.etcd.put(MARKER, text).await?)
    }

    async fn uproot(&self) -> Result<(), EncryptionError> {
        Ok(self.etcd.delete(MARKER).await?)
    }

    async fn scrub(&self, texts: &[String]) -> Result<Vec<Scrubbed>, EncryptionError> {
        let mut scrubbed = Vec::new();
        for (node, etcd) in &self.members {
            let before = etcd.files_with(texts).await?;
            scrubbed.push(Scrubbed { node: node.clone(), before, ..Scrubbed::default() });
        }
        self.etcd.compact().await?;
        // One after the other: a member that does so does nothing else.
        for ((_, etcd), member) in self.members.iter().zip(&mut scrubbed) {
            etcd.defragment().await?;
            member.after = etcd.files_with(texts).await?;
        }
        Ok(scrubbed)
    }

    async fn last_log(&self, node: &str) -> Result<String, EncryptionError> {
        let member = self.members.iter().find(|(name, _)| name == node);
        match member {
            Some((_, etcd)) => Ok(etcd.last_log().await?),
            None => Ok(String::new()),
        }
    }

    async fn renew_log(&self, node: &str, last: &str) -> Result<(), EncryptionError> {
        for (_, etcd) in self.members.iter().filter(|(name, _)| name == node) {
            if self.members.len() > 1 {
                etcd.await_members().await?;
            }
            etcd.renew_log(last).await?;
        }
        Ok(())
    }

    async fn files_with(&self, node: &str, texts: &[String]) -> Result<Vec<String>, EncryptionError> {
        let mut found = Vec::new();
        for (_, etcd) in self.members.iter().filter(|(name, _)| name == node) {
            found.extend(etcd.files_with(texts).await?);
        }
        Ok(found)
    }
}

/// kprov's record of one cluster.
pub(super) struct Record<'a> {
    pub(super) store: Store,
    pub(super) cluster: &'a ClusterName,
}

impl Books for Record<'_> {
    fn keys(&self) -> Result<KeyRing, EncryptionError> {
        let known = self.store.load_keys(self.cluster).map_err(ClusterError::from).map_err(Box::new)?;
        Ok(known.unwrap_or_default())
    }

    fn record(&self, config: Option<&Config>, kms: Option<&Kms>) -> Result<(), EncryptionError> {
        record(&self.store, self.cluster, config, kms).map_err(|error| Box::new(error).into())
    }
}

fn record(
    store: &Store,
    cluster: &ClusterName,
    config: Option<&Config>,
    kms: Option<&Kms>,
) -> Result<(), ClusterError> {
    let Some(mut record) = store.load(cluster)? else { return Ok(()) };
    let simple = config.map(Config::simple);
    let (encryption, ring) = match simple {
        None => (None, None),
        Some(Some((resources, mut ring))) => {
            let mut unused = None;
            // What a plugin is and logs in by, no EncryptionConfiguration says.
            let kms = kms.or(record.profile.kms()).cloned();
            if let Some(known) = store.load_keys(cluster)?.filter(|known| !known.kms().is_empty()) {
                // Kept even if nothing needs it now: the way back, and states of before, do.
                if ring.set_kms(known.kms().to_vec()).is_err() {
                    unused = known.providers.into_iter().find(|provider| provider.kind == ProviderKind::Kms);
                }
            }
            let key = |name: &String| Key { name: name.clone(), source: KeySource::Generate };
            let providers = ring.providers.iter().map(|provider| EncryptionProvider {
                kind: provider.kind,
                keys: match provider.kind {
                    ProviderKind::Kms => Vec::new(),
                    _ => provider.keys.iter().map(|(name, _)| key(name)).collect(),
                },
                kms: kms.clone().filter(|_| provider.kind == ProviderKind::Kms),
            });
            let providers: Vec<_> = providers.collect();
            let encryption = Encryption { providers, resources: resources.to_vec() };
            ring.providers.extend(unused);
            (Some(encryption), Some(ring))
        }
        // More than a profile can say: the nodes' own configuration is all that there is.
        Some(None) => return Ok(()),
    };
    // Keys that are no longer in the profile are of no use, but of no harm either; the other way round would be.
    if let Some(ring) = &ring
        && store.load_keys(cluster)?.as_ref() != Some(ring)
    {
        store.save_keys(cluster, ring)?;
    }
    if record.profile.spec.encryption != encryption {
        record.profile.spec.encryption = encryption;
        store.save(&record)?;
    }
    if ring.is_none() {
        store.forget_keys(cluster)?;
    }
    Ok(())
}
