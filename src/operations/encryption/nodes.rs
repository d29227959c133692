//! What a walk reads and writes on a control plane: its journal, the EncryptionConfiguration, the API server's flags.

use std::time::Duration;

use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::adapters::node::NodeError;
use crate::documents::encryption::{Config, Journal, PLUGIN_SOCKET};
use crate::documents::keys::KmsProtocol;
use crate::documents::render::{ENCRYPTION_FILE, ENCRYPTION_FOLDER, KubernetesVersion, PLUGIN_SOCKET_FOLDER};
use crate::documents::static_pod::{Change, StaticPod, volume_name};
use crate::operations::api_server::Rejected;

use super::EncryptionError;
use super::reload::{Loaded, RELOAD};
use super::world::Machine;

/// Where a walk under way is written down. Names and phases only, no key.
pub(super) const JOURNAL: &str = Journal::FILE;

const FLAG: &str = "encryption-provider-config";
const RELOAD_FLAG: &str = "encryption-provider-config-automatic-reload";

/// A control plane as it was found.
#[derive(Debug, Clone)]
pub(super) struct ControlPlane<M> {
    pub(super) server: M,
    pub(super) manifest: StaticPod,
    /// What the API server is told to read; with a walk under way, also what it is about to be told.
    pub(super) config: Option<Config>,
    pub(super) journal: Option<Journal>,
    /// Where the configuration lies, or will lie.
    file: String,
    version: Option<KubernetesVersion>,
    /// Whether this version can read a changed configuration without a restart.
    reloads: bool,
    /// The configuration that the API server is known to have, since it was given it just now.
    loaded: Option<Option<Config>>,
}

/// What a phase wants of a control plane.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    /// The configuration; `None` turns encryption off.
    pub(super) target: Option<&'a Config>,
    /// What to go back to.
    pub(super) fallback: Option<&'a Config>,
    /// Whether to restart even if the API server could read the new configuration by itself.
    pub(super) restart: bool,
}

impl<M: Machine> ControlPlane<M> {
    /// Reads all there is to know.
    pub(super) async fn read(server: &M) -> Result<Self, EncryptionError> {
        let manifest = server.manifest().await?;
        let journal = read_journal(server).await?;
        let flag = manifest.flag(FLAG);
        let noted = journal.as_ref().and_then(|journal| journal.file.clone());
        let file = flag.clone().or(noted).unwrap_or_else(|| ENCRYPTION_FILE.to_owned());
        let mut config = None;
        if flag.is_some() || journal.is_some() {
            match server.read(&file).await? {
                Some(bytes) => config = Some(parse(server, &file, &bytes)?),
                // Told to read a file that is not there, an API server would not come up again.
                None if flag.is_some() => {
                    return Err(unusable(server, &file, "there is no such file".to_owned()));
                }
                None => {}
            }
        }
        let version: Option<KubernetesVersion> = server.version().await?.parse().ok();
        let reloads = version.as_ref().is_some_and(KubernetesVersion::reloads_encryption_config);
        Ok(Self { server: server.clone(), manifest, config, journal, file, version, reloads, loaded: None })
    }

    /// The node's name.
    pub(super) fn name(&self) -> &str {
        self.server.name()
    }

    /// What the API server puts in front of every key in etcd.
    pub(super) fn root(&self) -> String {
        self.manifest.flag("etcd-prefix").unwrap_or_else(|| crate::adapters::etcd::ROOT.to_owned())
    }

    /// Whether the API server reads a changed configuration by itself.
    pub(super) fn reloads(&self) -> bool {
        self.manifest.flag(RELOAD_FLAG).as_deref() == Some("true") && self.manifest.shows_folder_of(&self.file)
    }

    /// The protocol that this version talks to KMS plugins.
    pub(super) fn kms_protocol(&self) -> Option<KmsProtocol> {
        self.version.as_ref().map(KubernetesVersion::kms_protocol)
    }

    /// The manifest that makes the API server read its configuration, or none.
    fn manifest_for(&self, target: Option<&Config>) -> StaticPod {
        let mut manifest = self.manifest.clone();
        if let Some(target) = target {
            let mut change = Change::default().set(FLAG, &self.file);
            if self.reloads {
                change = change.set(RELOAD_FLAG, "true");
            }
            manifest.apply(&change);
            for socket in target.sockets() {
                manifest.show_folder(socket);
            }
        } else {
            manifest.apply(&Change::default().unset(FLAG).unset(RELOAD_FLAG));
            manifest.remove_volume(&volume_name(ENCRYPTION_FOLDER));
        }
        if !target.is_some_and(|target| target.asks(PLUGIN_SOCKET)) {
            // The plugin is about to go, and a pod whose folder is gone does not start.
            manifest.hide_folder(PLUGIN_SOCKET_FOLDER);
        }
        if let Some(version) = self.version.as_ref().filter(|version| version.dies_of_an_ill_kms()) {
            let protocols = target.map(Config::kms_protocols).unwrap_or_default();
            manifest.leave_out(&version.kms_health_checks(&protocols));
        }
        manifest
    }

    /// Whether a phase can be had without a restart.
    pub(super) fn needs_restart(&self, wanted: &Wanted<'_>) -> bool {
        wanted.restart || !self.reloads() || self.manifest_for(wanted.target) != self.manifest
    }

    /// Whether the API server that runs has this configuration, as far as that can be told for sure.
    pub(super) async fn has(&self, target: Option<&Config>) -> Result<bool, EncryptionError> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.as_ref() == target) {
            return Ok(true);
        }
        if self.manifest_for(target) != self.manifest || !self.server.runs(&self.manifest).await? {
            return Ok(false);
        }
        let Some(target) = target else { return Ok(true) };
        if self.config.as_ref() != Some(target) {
            return Ok(false);
        }
        if self.reloads() && self.server.look(&self.manifest.port(), &self.file).await? == Loaded::Yes {
            return Ok(true);
        }
        // Started well after the file was written, it has read that file.
        Ok(self.server.started_after(&self.file).await?)
    }

    /// Puts away what the configuration before has left: the API server has `target`, by whomever it was given it.
    pub(super) async fn settle(&mut self, target: Option<&Config>) -> Result<(), EncryptionError> {
        self.server.commit().await?;
        if target.is_none() {
            self.server.remove(&self.file).await?;
        }
        self.config = target.cloned();
        self.loaded = Some(target.cloned());
        Ok(())
    }

    /// Gives the API server a configuration, and waits until it has it. If it does not come up with it, it gets
    /// the fallback, and the error says what it had to say.
    ///
    /// `safe_without` is asked, once the new API server is gone, whether nothing was written that only the new
    /// configuration reads: only then may a cluster go back to having none.
    pub(super) async fn apply(
        &mut self,
        wanted: &Wanted<'_>,
        safe_without: impl AsyncFn() -> Result<bool, EncryptionError>,
        detail: impl Fn(&str),
    ) -> Result<(), EncryptionError> {
        let manifest = self.manifest_for(wanted.target);
        let restart = self.needs_restart(wanted);
        if let Some(target) = wanted.target {
            self.write_config(target).await?;
        }
        let rejected = if restart {
            self.server.replace(&manifest, &detail).await?.err()
        } else {
            let reason = match self.wait_until_loaded(&manifest.port(), &detail).await? {
                Loaded::Yes => None,
                Loaded::Refused => Some("it has read the new configuration, and refused it"),
                Loaded::NotYet => Some("it has not read the new configuration in time"),
            };
            match reason {
                None => None,
                Some(reason) => Some(Rejected { reason: reason.to_owned(), last_lines: self.server.words().await }),
            }
        };
        let Some(rejected) = rejected else {
            self.manifest = manifest;
            return self.settle(wanted.target).await;
        };
        self.loaded = None;
        detail("it did not come up: going back");
        let restored = self.fall_back(wanted, &manifest, restart, safe_without, &detail).await;
        Err(EncryptionError::Rejected {
            node: self.name().to_owned(),
            reason: rejected.reason,
            last_lines: rejected.last_lines,
            restored: match restored {
                Ok(()) => "it has the configuration of before again, and answers".to_owned(),
                Err(error) => format!("going back failed, too: {error}"),
            },
        })
    }

    async fn fall_back(
        &mut self,
        wanted: &Wanted<'_>,
        tried: &StaticPod,
        restart: bool,
        safe_without: impl AsyncFn() -> Result<bool, EncryptionError>,
        detail: impl Fn(&str),
    ) -> Result<(), EncryptionError> {
        let had_none = self.manifest.flag(FLAG).is_none();
        if let Some(fallback) = wanted.fallback {
            self.write_config(fallback).await?;
        }
        if !restart {
            return Ok(());
        }
        // Before and after: the rejected one may have written until it was ended.
        let unwritten = async || Ok::<_, EncryptionError>(wanted.fallback.is_none() || safe_without().await?);
        if had_none && unwritten().await? {
            self.come_back(&self.manifest.clone(), &detail).await?;
            if unwritten().await? {
                self.server.remove(&self.file).await?;
                self.config = None;
                return Ok(());
            }
        }
        if had_none {
            self.manifest = tried.clone();
        }
        self.come_back(&self.manifest, &detail).await
    }

    async fn come_back(&self, manifest: &StaticPod, detail: impl Fn(&str)) -> Result<(), EncryptionError> {
        let Err(again) = self.server.put_back(manifest, detail).await? else { return Ok(()) };
        Err(EncryptionError::Rejected {
            node: self.name().to_owned(),
            reason: again.reason,
            last_lines: again.last_lines,
            restored: "`kprov encryption undo` tries again".to_owned(),
        })
    }

    /// Waits until the API server has read its changed file by itself.
    async fn wait_until_loaded(&self, port: &str, detail: impl Fn(&str)) -> Result<Loaded, NodeError> {
        let begun = Instant::now();
        loop {
            let now = self.server.look(port, &self.file).await?;
            if now != Loaded::NotYet || begun.elapsed() > RELOAD {
                return Ok(now);
            }
            let seconds = begun.elapsed().as_secs();
            detail(&format!("waiting for the API server's own look at the file, once a minute ({seconds} s)"));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn write_config(&mut self, config: &Config) -> Result<(), NodeError> {
        self.server.write(&self.file, config.to_yaml().as_bytes()).await?;
        // Whatever becomes of the API server: whoever turns back starts from what is there.
        self.config = Some(config.clone());
        Ok(())
    }

    /// Writes the journal.
    pub(super) async fn write_journal(&self, journal: &Journal) -> Result<(), NodeError> {
        // A manifest that reads no configuration any more does not tell where it lay.
        let journal = Journal { file: Some(self.file.clone()), ..journal.clone() };
        let text = Zeroizing::new(serde_json::to_vec_pretty(&journal).unwrap_or_default());
        self.server.write(JOURNAL, &text).await
    }

    /// Removes the journal: the walk is over.
    pub(super) async fn remove_journal(&self) -> Result<(), NodeError> {
        self.server.remove(JOURNAL).await
    }
}

pub(super) async fn read_journal<M: Machine>(machine: &M) -> Result<Option<Journal>, EncryptionError> {
    let Some(bytes) = machine.read(JOURNAL).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| unusable(machine, JOURNAL, error.to_string()))
}

fn parse<M: Machine>(machine: &M, file: &str, bytes: &[u8]) -> Result<Config, EncryptionError> {
    let text = std::str::from_utf8(bytes).map_err(|_| unusable(machine, file, "it is not UTF-8".to_owned()))?;
    Config::parse(text).map_err(|reason| unusable(machine, file, reason))
}

fn unusable<M: Machine>(machine: &M, file: &str, reason: String) -> EncryptionError {
    EncryptionError::Unusable { node: machine.name().to_owned(), file: file.to_owned(), reason }
}
