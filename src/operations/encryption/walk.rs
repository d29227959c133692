//! The walk from phase to phase, its beginning, its end and its ways back.
//!
//! Before the first step of a phase, the phase is written down on every control plane; each step may be repeated. What
//! it works on is behind the seam of `world`.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use tokio::time::Instant;

use crate::adapters::node::NodeError;
use crate::documents::encryption::{
    Config, GroupResource, Journal, KeyId, Kms, Known, Layout, Material, Move, NewKeys, PLUGIN_SOCKET, Phase, Verb,
    moves,
};
use crate::documents::keys::{KeyMaterial, KmsProtocol, ProviderKind};
use crate::documents::profile;
use crate::documents::render::KubernetesVersion;
use crate::operations::api_server::SETTLE;
use crate::progress::Reporter;

use super::nodes::{ControlPlane, Wanted};
use super::world::{Books, Machine, Storage};
use super::{EncryptionError, Outcome, Proof, Request, Scrubbed, lower, rewrite};

/// How long a KMS plugin may take until it works, before anything is touched; and how often it is asked.
pub(super) const PLUGIN: Duration = Duration::from_secs(10);
const ASK: Duration = Duration::from_millis(500);

/// What walks.
pub(super) struct Walker<'a, M, S, B> {
    pub(super) reporter: &'a Reporter,
    pub(super) cluster: &'a str,
    /// The control planes, the first one first; at least one.
    pub(super) machines: &'a [M],
    pub(super) storage: &'a S,
    pub(super) books: &'a B,
    /// Whether API servers are restarted even where they could read a new configuration by themselves.
    pub(super) restart: bool,
    /// Whether etcd is made to forget, in the end, how things were stored before.
    pub(super) scrub: bool,
    /// Whether its members may be away for that, one at a time.
    pub(super) renew_logs: bool,
    /// Whether a walk away from a KMS leaves its plugin where it is, since the next one leads back to it.
    pub(super) keep_plugin: Cell<bool>,
}

/// The walk that any control plane knows of, the furthest one.
pub(super) fn under_way<M: Machine>(planes: &[ControlPlane<M>]) -> Option<Journal> {
    Journal::furthest(planes.iter().filter_map(|plane| plane.journal.clone()).collect())
}

/// The configuration that all control planes have.
fn same_config<M: Machine>(planes: &[ControlPlane<M>]) -> Result<Option<Config>, EncryptionError> {
    let Some((first, others)) = planes.split_first() else { return Ok(None) };
    for other in others {
        if other.config != first.config {
            let name = |plane: &ControlPlane<M>| plane.name().to_owned();
            return Err(EncryptionError::Different { node: name(other), other: name(first) });
        }
    }
    Ok(first.config.clone())
}

/// A plugin as an EncryptionConfiguration names it.
fn asked_as(kms: &profile::Kms, protocol: KmsProtocol) -> Kms {
    let own = format!("unix://{PLUGIN_SOCKET}");
    Kms::new(protocol, &kms.name, kms.endpoint.as_deref().unwrap_or(&own), kms.timeout_seconds)
}

fn fits(journal: &Journal, request: &Request) -> bool {
    let every = |holds: &dyn Fn(&KeyId) -> bool| journal.moves.iter().all(|way| holds(&way.to));
    request.provider.is_none_or(|provider| every(&|to| to.provider == provider))
        && request.key.as_ref().is_none_or(|key| every(&|to| to.key == *key))
}

/// Whether the cause is one that going back gets rid of: not a node or an engine that is gone.
fn turns_back(error: &EncryptionError) -> bool {
    matches!(error, EncryptionError::Rejected { .. } | EncryptionError::Node(NodeError::Command { .. }))
}

fn root<M: Machine>(planes: &[ControlPlane<M>]) -> String {
    planes.first().map_or_else(|| crate::adapters::etcd::ROOT.to_owned(), ControlPlane::root)
}

impl<M: Machine, S: Storage, B: Books> Walker<'_, M, S, B> {
    pub(super) async fn run(&self, request: &Request) -> Result<Outcome, EncryptionError> {
        let mut planes = self.read().await?;
        if let Some(journal) = under_way(&planes) {
            self.check_kms(&planes).await?;
            self.reporter.info(&format!("Going on with an unfinished {journal}"));
            let same = !journal.undoing && journal.verb == request.verb && fits(&journal, request);
            self.keep_plugin.set(request.kms.is_some());
            let outcome = self.walk(&mut planes, journal, NewKeys::default()).await?;
            self.keep_plugin.set(false);
            if same {
                return Ok(outcome);
            }
            planes = self.read().await?;
        }
        let config = same_config(&planes)?.unwrap_or_default();
        let layout = self.storage.layout(&root(&planes)).await?;
        self.check_keys(&config, &layout).await?;
        self.check_resources(&request.resources, &layout).await?;
        let plugin = request.kms.as_ref().map(|plugin| self.plugin(&plugin.kms, &planes)).transpose()?;
        let (provider, key) = (request.provider, request.key.as_deref());
        let moves = moves(request.verb, &config, provider, &request.resources, key, plugin.as_ref())?;
        if moves.is_empty() {
            self.record(&planes, None)?;
            return Ok(Outcome::default());
        }
        self.check_kms(&planes).await?;
        let restarts = planes.iter().any(|plane| !plane.reloads()) || self.restart;
        let journal = Journal {
            id: format!("{:016x}", getrandom::u64().unwrap_or_default()),
            began: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            verb: request.verb,
            undoing: false,
            // A single API server need not be able to read what no other one writes (kubernetes.io, "Rotate a
            // decryption key"), and each phase costs it a restart or a minute.
            phase: if planes.len() > 1 { Phase::Add } else { Phase::Promote },
            moves,
            kms: request.kms.as_ref().map(|plugin| plugin.kms.without_secrets()),
            file: None,
            marker: self.scrub.then(|| format!("kprov marker {:016x}", getrandom::u64().unwrap_or_default())),
        };
        let new = self.new_keys(&journal, &planes).await?;
        let step = self.reporter.stage("Writing down what is to be done");
        for (index, plane) in planes.iter().enumerate() {
            if let Err(error) = plane.write_journal(&journal).await {
                for written in &planes[..index] {
                    // What cannot be removed is found by the next command.
                    let _ = written.remove_journal().await;
                }
                return Err(error.into());
            }
        }
        if let Some(marker) = &journal.marker {
            self.storage.plant(marker).await?;
        }
        step.done();
        if restarts {
            self.reporter.info("API servers are restarted, one at a time");
        }
        self.walk(&mut planes, journal, new).await
    }

    pub(super) async fn resume(&self) -> Result<Outcome, EncryptionError> {
        let mut planes = self.read().await?;
        let journal = under_way(&planes).ok_or(EncryptionError::NothingUnderWay)?;
        self.check_kms(&planes).await?;
        self.walk(&mut planes, journal, NewKeys::default()).await
    }

    pub(super) async fn undo(&self) -> Result<Outcome, EncryptionError> {
        let mut planes = self.read().await?;
        let journal = under_way(&planes).ok_or(EncryptionError::NothingUnderWay)?;
        self.check_kms(&planes).await?;
        let back = if journal.undoing { Some(journal.clone()) } else { self.way_back(&planes, &journal).await? };
        let back = back.ok_or(EncryptionError::TooLate(journal.verb))?;
        self.write_journals(&planes, &back).await?;
        self.walk(&mut planes, back, NewKeys::default()).await
    }

    /// Reads all control planes, after finishing whatever a killed kprov has left of an API server's restart.
    async fn read(&self) -> Result<Vec<ControlPlane<M>>, EncryptionError> {
        for machine in self.machines {
            if !machine.is_running().await? {
                return Err(EncryptionError::NotRunning { node: machine.name().to_owned() });
            }
        }
        let step = self.reporter.stage("Looking at the control planes");
        let mut planes = try_join_all(self.machines.iter().map(ControlPlane::read)).await?;
        let under_way = under_way(&planes).is_some();
        for plane in &mut planes {
            if under_way {
                // The walk itself knows best which way to go: back to a manifest that reads no key may be too far.
                plane.server.wake().await?;
                plane.server.commit().await?;
                continue;
            }
            if let Some(what) = plane.server.recover(|detail| step.detail(detail)).await? {
                let name = plane.name().to_owned();
                self.reporter.info(&format!("{name}: an earlier restart of the API server was {what}"));
                *plane = ControlPlane::read(&plane.server).await?;
            }
        }
        step.done();
        Ok(planes)
    }

    /// Whether the configuration is one that an API server could be started with: its file may have been changed since
    /// the one that runs has read it.
    async fn check_keys(&self, config: &Config, layout: &Layout) -> Result<(), EncryptionError> {
        let node = self.machines[0].name();
        // What a plugin logs in by is in no configuration.
        for provider in self.books.keys()?.providers.iter().filter(|provider| provider.kind != ProviderKind::Kms) {
            for (name, material) in &provider.keys {
                let key = KeyId::local(provider.kind, name);
                // Another group may have a key of the same name and be right.
                let found: Vec<Material> = config.groups.iter().filter_map(|group| group.material(&key)).collect();
                if !found.is_empty() && !found.contains(&Material::Key(material.clone())) {
                    return Err(EncryptionError::WrongKey { node: node.to_owned(), key });
                }
            }
        }
        let mut unreadable: Option<(String, String, usize)> = None;
        let visit = |key: &str, stored: &str| {
            let Some(owner) = layout.owner(key) else { return };
            if config.deciding(&owner.name).is_empty() || config.reads(&owner.name, stored) {
                return;
            }
            let resource = owner.name.to_string();
            match &mut unreadable {
                None => unreadable = Some((resource, stored.to_owned(), 1)),
                Some((known, how, count)) if *known == resource && how == stored => *count += 1,
                Some(_) => {}
            }
        };
        self.storage.scan(layout.root(), visit).await?;
        match unreadable {
            None => Ok(()),
            Some((resource, stored, count)) => {
                Err(EncryptionError::Unreadable { node: node.to_owned(), resource, stored, count })
            }
        }
    }

    /// Holds that what a KMS has wrapped can be unwrapped: otherwise nothing could be rewritten, and an API server that is
    /// restarted would not come up.
    async fn check_kms(&self, planes: &[ControlPlane<M>]) -> Result<(), EncryptionError> {
        let asks = |plane: &&ControlPlane<M>| plane.config.as_ref().is_some_and(|config| config.asks(PLUGIN_SOCKET));
        let asking: Vec<_> = planes.iter().filter(asks).collect();
        if asking.is_empty() || !self.is_any_wrapped(&root(planes)).await? {
            return Ok(());
        }
        let begun = Instant::now();
        for plane in asking {
            while let Some(reason) = plane.server.kms_problem().await? {
                // One that has just been started needs a moment.
                if begun.elapsed() > PLUGIN {
                    return Err(EncryptionError::Plugin { node: plane.name().to_owned(), reason });
                }
                tokio::time::sleep(ASK).await;
            }
        }
        Ok(())
    }

    /// Whether anything at all needs a KMS to be read.
    async fn is_any_wrapped(&self, root: &str) -> Result<bool, EncryptionError> {
        let mut found = false;
        self.storage.scan(root, |_, stored| found |= stored.starts_with("k8s:enc:kms:")).await?;
        Ok(found)
    }

    /// The plugin of a KMS, as these API servers are to ask it.
    fn plugin(&self, kms: &profile::Kms, planes: &[ControlPlane<M>]) -> Result<Kms, EncryptionError> {
        let own = planes.iter().filter_map(ControlPlane::kms_protocol).min().unwrap_or(KmsProtocol::V1);
        let protocol = kms.protocol.unwrap_or(own);
        if protocol > own {
            return Err(EncryptionError::NoSecondProtocol);
        }
        Ok(asked_as(kms, protocol))
    }

    /// Whether the API knows these resources, and this version can encrypt them.
    async fn check_resources(&self, resources: &[String], layout: &Layout) -> Result<(), EncryptionError> {
        let version = self.machines[0].version().await?;
        let known = version.parse::<KubernetesVersion>().ok();
        for resource in resources {
            let rule = GroupResource::parse(resource);
            match layout.knows(&rule) {
                Known::Yes => {}
                Known::KeptAs(other) => {
                    let (resource, kept_as) = (resource.clone(), other.to_string());
                    return Err(EncryptionError::KeptAs { resource, kept_as });
                }
                Known::No(meant) => {
                    let (resource, meant) = (resource.clone(), meant.map(|meant| meant.to_string()));
                    return Err(EncryptionError::UnknownResource { resource, meant });
                }
                Known::NoGroup => {
                    return Err(EncryptionError::UnknownResource { resource: resource.clone(), meant: None });
                }
            }
            let Some(known) = &known else { continue };
            let custom = layout.resources().iter().any(|located| located.custom && located.name == rule);
            let reason = if rule.is_wildcard() && !known.encrypts_by_wildcard() {
                "wildcards came in 1.27"
            } else if custom && !known.encrypts_custom_resources() {
                "custom resources came in 1.26"
            } else {
                continue;
            };
            return Err(EncryptionError::Unsupported { resource: resource.clone(), version, reason });
        }
        Ok(())
    }

    /// Makes the keys that a walk needs and that are nowhere yet.
    async fn new_keys(&self, journal: &Journal, planes: &[ControlPlane<M>]) -> Result<NewKeys, EncryptionError> {
        let mut keys: Vec<Option<Material>> = Vec::new();
        for (index, way) in journal.moves.iter().enumerate() {
            if way.to.provider == ProviderKind::Identity {
                keys.push(None);
                continue;
            }
            // Resources that join others share their key, which lies in another group.
            let groups = || planes.iter().filter_map(|plane| plane.config.as_ref()).flat_map(|config| &config.groups);
            let found = groups()
                .filter(|group| group.resources == way.resources)
                .chain(groups())
                .find_map(|group| group.material(&way.to))
                // Moves to the same key are moves to the same bytes.
                .or_else(|| keys[journal.moves[..index].iter().position(|other| other.to == way.to)?].clone());
            if let Some(material) = found {
                keys.push(Some(material));
                continue;
            }
            if let (Some(protocol), Some(kms)) = (way.to.protocol, &journal.kms) {
                // The plugin is the same wherever it runs.
                keys.push(Some(Material::Kms(asked_as(kms, protocol))));
                continue;
            }
            // A key that has been used and is gone is not one to be made anew under the same name.
            if self.is_stored(&root(planes), &way.to).await? {
                return Err(EncryptionError::Lost { resources: way.resources.clone(), key: way.to.clone() });
            }
            keys.push(Some(Material::Key(KeyMaterial::generate()?)));
        }
        Ok(NewKeys(keys))
    }

    /// Whether anything at all is stored under a key, whatever it is.
    async fn is_stored(&self, root: &str, key: &KeyId) -> Result<bool, EncryptionError> {
        let (wanted, mut found) = (key.stored(), false);
        self.storage.scan(root, |_, stored| found |= stored == wanted).await?;
        Ok(found)
    }

    async fn write_journals(&self, planes: &[ControlPlane<M>], journal: &Journal) -> Result<(), EncryptionError> {
        try_join_all(planes.iter().map(|plane| plane.write_journal(journal))).await?;
        Ok(())
    }

    /// The journal of the way back, as short as what has been written allows.
    async fn way_back(
        &self,
        planes: &[ControlPlane<M>],
        journal: &Journal,
    ) -> Result<Option<Journal>, EncryptionError> {
        let Some(mut back) = journal.turned_back() else { return Ok(None) };
        let promoted = journal.moves.iter().any(|way| {
            let groups = planes.iter().filter_map(|plane| plane.config.as_ref()?.group(&way.resources));
            groups.into_iter().any(|group| group.writer().as_ref() == Some(&way.to))
        });
        if !promoted && self.is_unwritten(&root(planes), &journal.moves).await? {
            back.phase = Phase::Remove;
        }
        Ok(Some(back))
    }

    /// Whether nothing is stored under the moves' new keys. Resources that join others share their key, so then it is not
    /// told: the longer way is always right.
    async fn is_unwritten(&self, root: &str, moves: &[Move]) -> Result<bool, EncryptionError> {
        for way in moves {
            if self.is_stored(root, &way.to).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Walks from the journal's phase to the end. If a control plane does not come along, the way that was
    /// already made is gone back.
    async fn walk(
        &self,
        planes: &mut [ControlPlane<M>],
        journal: Journal,
        new: NewKeys,
    ) -> Result<Outcome, EncryptionError> {
        let mut reached = journal.clone();
        let (phase, error) = match self.go(planes, journal, new).await {
            Ok(outcome) => return Ok(outcome),
            Err(failed) => failed,
        };
        reached.phase = phase;
        let turns_back = turns_back(&error);
        let failed =
            |next: String| EncryptionError::Failed { verb: reached.verb, phase, next, source: Box::new(error) };
        if phase > Phase::Promote || reached.undoing || !turns_back {
            let or_undo = match reached.turned_back() {
                Some(_) if !reached.undoing => format!(", `kprov encryption undo {}` turns back", self.cluster),
                _ => String::new(),
            };
            return Err(failed(format!(
                "everything can be read. Once the cause is gone, `kprov encryption resume {}` goes on{or_undo}",
                self.cluster
            )));
        }
        self.reporter.warn("Turning back");
        let restored = async {
            let Some(back) = self.way_back(planes, &reached).await? else { return Ok(()) };
            self.write_journals(planes, &back).await?;
            self.go(planes, back, NewKeys::default()).await.map(|_| ()).map_err(|(_, error)| error)
        };
        Err(failed(match restored.await {
            Ok(()) => "everything is as it was before".to_owned(),
            Err(second) => format!(
                "turning back failed, too: {second}. Everything can be read; `kprov encryption undo {}` tries again",
                self.cluster
            ),
        }))
    }

    async fn go(
        &self,
        planes: &mut [ControlPlane<M>],
        mut journal: Journal,
        new: NewKeys,
    ) -> Result<Outcome, (Phase, EncryptionError)> {
        let (mut rewritten, mut proof) = (0, None);
        loop {
            let phase = journal.phase;
            let failed = |error| (phase, error);
            let title =
                if journal.undoing { format!("Undoing: {}", lower(phase.title())) } else { phase.title().to_owned() };
            let step = self.reporter.stage(&title);
            match phase {
                Phase::Add | Phase::Promote => self.configure(planes, &journal, &new).await.map_err(failed)?,
                Phase::Rewrite => {
                    // Whoever resumes has not seen the phase before: an API server may have been changed since.
                    self.configure(planes, &journal, &new).await.map_err(failed)?;
                    if let Some(marker) = &journal.marker {
                        // Nothing is stored in the old way from here on: behind this one, no file of etcd has any of it.
                        self.storage.plant(marker).await.map_err(failed)?;
                    }
                    let base = self.base(planes, &journal);
                    let layout = self.storage.layout(&root(planes)).await.map_err(failed)?;
                    let detail = |detail: &str| step.detail(detail);
                    rewritten =
                        rewrite::rewrite(self.storage, &layout, &journal, &base, detail).await.map_err(failed)?;
                }
                Phase::Remove => {
                    step.detail("looking through all of etcd");
                    proof = Some(self.prove(planes, &journal).await.map_err(failed)?);
                    self.configure(planes, &journal, &new).await.map_err(failed)?;
                }
                Phase::Record => {
                    self.record(planes, journal.kms.as_ref()).map_err(failed)?;
                    self.remove_plugins(planes, &journal).await.map_err(failed)?;
                    let scrubbed =
                        self.scrubbed(planes, &journal, |detail| step.detail(detail)).await.map_err(failed)?;
                    for plane in planes.iter() {
                        plane.remove_journal().await.map_err(|error| failed(error.into()))?;
                    }
                    step.done();
                    return Ok(Outcome { walk: Some(journal), rewritten, proof, scrubbed, rotated: None });
                }
            }
            step.done();
            let Some(next) = phase.next() else { return Err((phase, EncryptionError::NothingUnderWay)) };
            journal.phase = next;
            self.write_journals(planes, &journal).await.map_err(failed)?;
        }
    }

    fn base(&self, planes: &[ControlPlane<M>], journal: &Journal) -> Config {
        journal.base(planes.iter().map(|plane| plane.config.clone()).collect())
    }

    /// Looks through all that is stored, whatever it is called and wherever it lies: nothing may need what is about to go.
    async fn prove(&self, planes: &[ControlPlane<M>], journal: &Journal) -> Result<Proof, EncryptionError> {
        let base = self.base(planes, journal);
        let target = journal.target(Phase::Remove, &base, &NewKeys::default()).unwrap_or_default();
        let layout = self.storage.layout(&root(planes)).await?;
        rewrite::prove(self.storage, &layout, journal, &base, &target).await
    }

    /// Gives every control plane the configuration of the journal's phase, and waits until all have it.
    async fn configure(
        &self,
        planes: &mut [ControlPlane<M>],
        journal: &Journal,
        new: &NewKeys,
    ) -> Result<(), EncryptionError> {
        let base = self.base(planes, journal);
        let made;
        let new = if new.0.is_empty() {
            made = self.new_keys(journal, planes).await?;
            &made
        } else {
            new
        };
        let phase = journal.phase;
        let target = journal.target(phase, &base, new);
        let fallback = journal.fallback(phase, &base, new);
        let wanted = Wanted { target: target.as_ref(), fallback: fallback.as_ref(), restart: self.restart };
        let root = root(planes);
        let unwritten = async || self.is_unwritten(&root, &journal.moves).await;
        let mut waiting = Vec::new();
        for plane in planes.iter_mut() {
            if plane.has(wanted.target).await? {
                plane.settle(wanted.target).await?;
            } else {
                waiting.push(plane);
            }
        }
        let (restarts, reloads): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|plane| plane.needs_restart(&wanted));
        let reloads = reloads.into_iter().map(|plane| async {
            let step = self.reporter.step(plane.name(), "Waiting for the API server to read its new configuration");
            plane.apply(&wanted, &unwritten, |detail| step.detail(detail)).await?;
            step.done();
            Ok::<_, EncryptionError>(())
        });
        try_join_all(reloads).await?;
        for (index, plane) in restarts.into_iter().enumerate() {
            if index > 0 {
                // Until the load balancer sends requests to the one before again.
                tokio::time::sleep(SETTLE).await;
            }
            let step = self.reporter.step(plane.name(), "Restarting the API server");
            plane.apply(&wanted, &unwritten, |detail| step.detail(detail)).await?;
            step.done();
        }
        Ok(())
    }

    /// Takes kprov's KMS plugin away from control planes that ask it no more, if this walk is why.
    async fn remove_plugins(&self, planes: &[ControlPlane<M>], journal: &Journal) -> Result<(), EncryptionError> {
        let is_kms = |key: &KeyId| key.provider == ProviderKind::Kms;
        let concerned = journal.moves.iter().any(|way| is_kms(&way.from) || is_kms(&way.to));
        let asks = |plane: &ControlPlane<M>| plane.config.as_ref().is_some_and(|config| config.asks(PLUGIN_SOCKET));
        if !concerned || self.keep_plugin.get() || planes.iter().any(asks) {
            return Ok(());
        }
        try_join_all(planes.iter().map(|plane| plane.server.remove_plugin())).await?;
        Ok(())
    }

    /// Removes the marker, and has etcd forget how things were stored before, where that was to be. What etcd does not
    /// do is told, and is no reason to fail: everything is stored as it is to be. Of several members, one after the other
    /// renews its log, so that the others go on.
    async fn scrubbed(
        &self,
        planes: &[ControlPlane<M>],
        journal: &Journal,
        detail: impl Fn(&str),
    ) -> Result<Vec<Scrubbed>, EncryptionError> {
        if journal.marker.is_none() {
            return Ok(Vec::new());
        }
        for plane in planes {
            // Whoever was killed meanwhile may have left one that is being started.
            self.is_back(plane).await?;
        }
        self.storage.uproot().await?;
        if !self.scrub || journal.undoing || journal.verb == Verb::Disable {
            return Ok(Vec::new());
        }
        detail("having etcd forget old revisions");
        let texts = journal.texts_to_scrub();
        let mut members = self.storage.scrub(&texts).await.unwrap_or_else(|error| {
            self.reporter.warn(&format!("etcd still holds what was stored before: {error}"));
            Vec::new()
        });
        let in_log = |member: &&mut Scrubbed| member.after.iter().any(|file| file.starts_with("member/wal/"));
        // What fills the log of one member comes into those of all: a later one need not be filled again.
        let mut renewals = Vec::new();
        for member in members.iter_mut().filter(in_log) {
            if !self.renew_logs {
                member.kept = Some("replacing it would cost an outage".to_owned());
                continue;
            }
            let Some(plane) = planes.iter().find(|plane| plane.name() == member.node) else { continue };
            let last = self.storage.last_log(&member.node).await?;
            renewals.push((member, plane, last));
        }
        for (index, (member, plane, last)) in renewals.into_iter().enumerate() {
            if index > 0 {
                // Until the load balancer sends requests to the one before again.
                tokio::time::sleep(SETTLE).await;
            }
            detail(&format!("{}: etcd begins a new write-ahead log", member.node));
            if let Err(error) = self.storage.renew_log(&member.node, &last).await {
                self.reporter.warn(&format!("{}: etcd keeps its write-ahead log: {error}", member.node));
                member.kept = Some(error.to_string());
            }
            detail(&format!("{}: waiting for the API server", member.node));
            self.is_back(plane).await?;
            member.after = self.storage.files_with(&member.node, &texts).await?;
        }
        Ok(members)
    }

    /// Waits for an API server.
    async fn is_back(&self, plane: &ControlPlane<M>) -> Result<(), EncryptionError> {
        if plane.server.comes_back().await? {
            return Ok(());
        }
        Err(EncryptionError::Away { node: plane.name().to_owned() })
    }

    fn record(&self, planes: &[ControlPlane<M>], kms: Option<&profile::Kms>) -> Result<(), EncryptionError> {
        match planes.first() {
            Some(first) => self.books.record(first.config.as_ref(), kms),
            None => Ok(()),
        }
    }
}
