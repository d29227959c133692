//! What a walk reads and writes on a control plane: its journal, the EncryptionConfiguration, the API server's flags.

use zeroize::Zeroizing;

use crate::adapters::node::{Node, NodeError, STATIC_POD};
use crate::documents::encryption::{Config, Journal};
use crate::documents::render::{ENCRYPTION_FILE, ENCRYPTION_FOLDER, KubernetesVersion};
use crate::documents::static_pod::{Change, StaticPod, volume_name};
use crate::operations::api_server::{ApiServer, Rejected};

use super::EncryptionError;
use super::reload::{self, Loaded};

/// Where a walk under way is written down. Names and phases only, no key.
const JOURNAL: &str = "/kind/kprov/encryption.json";

const FLAG: &str = "encryption-provider-config";
const RELOAD_FLAG: &str = "encryption-provider-config-automatic-reload";

/// A control plane as it was found.
#[derive(Debug, Clone)]
pub(super) struct ControlPlane {
    pub(super) server: ApiServer,
    pub(super) manifest: StaticPod,
    /// What the API server is told to read; with a walk under way, also what it is about to be told.
    pub(super) config: Option<Config>,
    pub(super) journal: Option<Journal>,
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

impl ControlPlane {
    /// Reads all there is to know.
    pub(super) async fn read(node: &Node) -> Result<Self, EncryptionError> {
        let server = ApiServer::on(node.clone());
        let manifest = server.manifest().await?;
        let journal = read_journal(node).await?;
        let file = match manifest.flag(FLAG) {
            Some(file) => Some(file),
            None => journal.as_ref().map(|_| ENCRYPTION_FILE.to_owned()),
        };
        let mut config = None;
        if let Some(file) = file {
            match node.read_file(&file).await? {
                Some(bytes) => config = Some(parse(node, &file, &bytes)?),
                // Told to read a file that is not there, an API server would not come up again.
                None if manifest.flag(FLAG).is_some() => {
                    return Err(unusable(node, &file, "there is no such file".to_owned()));
                }
                None => {}
            }
        }
        let version: Option<KubernetesVersion> = node.read_text("/kind/version").await?.parse().ok();
        let reloads = version.is_some_and(|version| version.reloads_encryption_config());
        Ok(Self { server, manifest, config, journal, reloads, loaded: None })
    }

    pub(super) fn node(&self) -> &Node {
        self.server.node()
    }

    /// Where the configuration lies, or will lie.
    pub(super) fn file(&self) -> String {
        self.manifest.flag(FLAG).unwrap_or_else(|| ENCRYPTION_FILE.to_owned())
    }

    /// Whether the API server reads a changed configuration by itself.
    pub(super) fn reloads(&self) -> bool {
        self.manifest.flag(RELOAD_FLAG).as_deref() == Some("true") && self.manifest.shows_folder_of(&self.file())
    }

    /// The manifest that makes the API server read its configuration, or none.
    fn manifest_for(&self, encrypted: bool) -> StaticPod {
        let mut manifest = self.manifest.clone();
        if encrypted {
            let mut change = Change::default().set(FLAG, &self.file());
            if self.reloads {
                change = change.set(RELOAD_FLAG, "true");
            }
            manifest.apply(&change);
        } else {
            manifest.apply(&Change::default().unset(FLAG).unset(RELOAD_FLAG));
            manifest.remove_volume(&volume_name(ENCRYPTION_FOLDER));
        }
        manifest
    }

    /// Whether a phase can be had without a restart.
    pub(super) fn needs_restart(&self, wanted: &Wanted<'_>) -> bool {
        wanted.restart || !self.reloads() || self.manifest_for(wanted.target.is_some()) != self.manifest
    }

    /// Whether the API server that runs has this configuration, as far as that can be told for sure.
    pub(super) async fn has(&self, target: Option<&Config>) -> Result<bool, EncryptionError> {
        if self.loaded.as_ref().is_some_and(|loaded| loaded.as_ref() == target) {
            return Ok(true);
        }
        if self.manifest_for(target.is_some()) != self.manifest || !self.server.runs(&self.manifest).await? {
            return Ok(false);
        }
        let Some(target) = target else { return Ok(true) };
        if self.config.as_ref() != Some(target) {
            return Ok(false);
        }
        if self.reloads()
            && reload::look(self.node(), &self.manifest.port(), &self.file(), &self.file_digest().await?).await?
                == Loaded::Yes
        {
            return Ok(true);
        }
        // Started well after the file was written, it has read that file.
        let script = format!(
            r#"{STATIC_POD}
boot=$(sed -n 's/^btime //p' /proc/stat)
for pid in $(static_pod_pids kube-apiserver); do
  read -r stat < "/proc/$pid/stat"; set -- $stat
  echo $((boot + ${{22}} / $(getconf CLK_TCK 2>/dev/null || echo 100) - $(stat -c %Y '{}')))
done"#,
            self.file()
        );
        let text = self.node().script("comparing the API server's age with its configuration's", &script).await?;
        Ok(text.trim().parse::<i64>().is_ok_and(|seconds| seconds > 2))
    }

    async fn file_digest(&self) -> Result<String, NodeError> {
        let sum = self.node().run(&["sha256sum", &self.file()]).await?;
        Ok(sum.split_whitespace().next().unwrap_or_default().to_owned())
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
        let file = self.file();
        let manifest = self.manifest_for(wanted.target.is_some());
        let restart = self.needs_restart(wanted);
        if let Some(target) = wanted.target {
            self.write_config(&file, target).await?;
        }
        let rejected = if restart {
            self.server.replace(&manifest, &detail).await?.err()
        } else {
            let sum = self.file_digest().await?;
            match reload::wait(self.node(), &manifest.port(), &file, &sum, &detail).await? {
                Loaded::Yes => None,
                Loaded::Refused => Some(Rejected {
                    reason: "it has read the new configuration, and refused it".to_owned(),
                    last_lines: self.words_on_encryption().await,
                }),
                Loaded::NotYet => Some(Rejected {
                    reason: "it has not read the new configuration in time".to_owned(),
                    last_lines: self.words_on_encryption().await,
                }),
            }
        };
        let Some(rejected) = rejected else {
            self.server.commit().await?;
            if wanted.target.is_none() {
                self.node().run(&["rm", "-f", &file]).await?;
            }
            self.config = wanted.target.cloned();
            self.loaded = Some(wanted.target.cloned());
            self.manifest = manifest;
            return Ok(());
        };
        self.loaded = None;
        detail("it did not come up: going back");
        let restored = self.fall_back(wanted, &manifest, restart, safe_without, &detail).await;
        Err(EncryptionError::Rejected {
            node: self.node().name.clone(),
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
        let file = self.file();
        let had_none = self.manifest.flag(FLAG).is_none();
        if let Some(fallback) = wanted.fallback {
            self.write_config(&file, fallback).await?;
        }
        if !restart {
            self.config = wanted.fallback.cloned();
            return Ok(());
        }
        // Before and after: the rejected one may have written until it was ended.
        let unwritten = async || Ok::<_, EncryptionError>(wanted.fallback.is_none() || safe_without().await?);
        if had_none && unwritten().await? {
            self.come_back(&self.manifest.clone(), &detail).await?;
            if unwritten().await? {
                self.node().run(&["rm", "-f", &file]).await?;
                self.config = None;
                return Ok(());
            }
        }
        let manifest = if had_none { tried.clone() } else { self.manifest.clone() };
        self.come_back(&manifest, &detail).await?;
        self.config = wanted.fallback.cloned();
        self.manifest = manifest;
        Ok(())
    }

    async fn come_back(&self, manifest: &StaticPod, detail: impl Fn(&str)) -> Result<(), EncryptionError> {
        let Err(again) = self.server.put_back(manifest, detail).await? else { return Ok(()) };
        Err(EncryptionError::Rejected {
            node: self.node().name.clone(),
            reason: again.reason,
            last_lines: again.last_lines,
            restored: "`kprov encryption undo` tries again".to_owned(),
        })
    }

    /// The API server's own last lines on its configuration.
    async fn words_on_encryption(&self) -> String {
        let script = "cat $(ls -t /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/*.log | head -n 1) \
                      | grep -i 'encryption config' | tail -n 3 | cut -d ' ' -f 4-";
        let text = self.node().script("reading the API server's log", script).await.unwrap_or_default();
        crate::adapters::node::last_lines(&text, 3)
    }

    async fn write_config(&self, file: &str, config: &Config) -> Result<(), NodeError> {
        let folder = file.rsplit_once('/').map_or("/", |(folder, _)| folder);
        self.node()
            .script(&format!("making {folder}"), &format!("[ -d '{folder}' ] || mkdir -m 700 -p '{folder}'"))
            .await?;
        self.node().replace_file(file, 0o600, config.to_yaml().as_bytes()).await
    }

    /// Writes the journal.
    pub(super) async fn write_journal(&self, journal: &Journal) -> Result<(), NodeError> {
        let node = self.node();
        node.script("making /kind/kprov", "mkdir -m 700 -p /kind/kprov").await?;
        let text = Zeroizing::new(serde_json::to_vec_pretty(journal).unwrap_or_default());
        node.replace_file(JOURNAL, 0o600, &text).await
    }

    /// Removes the journal: the walk is over.
    pub(super) async fn remove_journal(&self) -> Result<(), NodeError> {
        self.node().script("removing the journal", &format!("rm -f '{JOURNAL}'; sync /kind/kprov")).await.map(|_| ())
    }
}

pub(super) async fn read_journal(node: &Node) -> Result<Option<Journal>, EncryptionError> {
    let Some(bytes) = node.read_file(JOURNAL).await? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| unusable(node, JOURNAL, error.to_string()))
}

fn parse(node: &Node, file: &str, bytes: &[u8]) -> Result<Config, EncryptionError> {
    let text = std::str::from_utf8(bytes).map_err(|_| unusable(node, file, "it is not UTF-8".to_owned()))?;
    Config::parse(text).map_err(|reason| unusable(node, file, reason))
}

fn unusable(node: &Node, file: &str, reason: String) -> EncryptionError {
    EncryptionError::Unusable { node: node.name.clone(), file: file.to_owned(), reason }
}
