//! Registries beside clusters: the one to push to, and pull-through caches, which all clusters of an engine share.
//!
//! Nothing is written down about them. Which there are is seen on the engine, and so is who uses one: its name is in a label of
//! every node that does. One that no node names goes with the next cluster that goes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::adapters::engine::{Container, ContainerSpec, EngineError, ExecSpec, Image, PublishedPort, Restart};
use crate::adapters::kubernetes;
use crate::adapters::node::last_lines;
use crate::documents::certificates::{check_authorities, server_identity};
use crate::documents::files::{FileEntry, pack};
use crate::documents::named_file::read_named;
use crate::documents::profile::{Profile, Registry, user_and_password};
use crate::documents::record::Record;
use crate::documents::render::{
    self, Access, REGISTRY_ALONE, REGISTRY_CA, REGISTRY_CONFIG, REGISTRY_DATA, REGISTRY_FILES, REGISTRY_PORT,
    REGISTRY_START, REGISTRY_TRUST, RegistryPlan,
};

use super::image::have_image;
use super::{ClusterError, Context, LABEL_KEEP, LABEL_REGISTRIES, LABEL_REGISTRY, machine};

/// Distribution's own image.
const DEFAULT_IMAGE: &str = "docker.io/library/registry:3";

/// One that was built here: for hosts that reach no registry.
const BUILT_IMAGE: &str = "kprov/registry:latest";

/// How long a registry may take until it listens: a cache asks its upstream first, which may not even refuse.
const START: Duration = Duration::from_secs(90);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The most bytes of a file of its own that is read from a registry.
const LARGEST_FILE: usize = 1 << 20;

/// How long it may take to say how it is, and how many bytes.
const ANSWER: Duration = Duration::from_secs(10);
const MOST_SAID: usize = 1 << 16;

/// How long a kprov on another host may take to fill a registry that it has made.
const FILLING: Duration = Duration::from_secs(5);

/// What is behind the name of a registry that is about to be removed.
const GONE: &str = ".kprov-gone";

/// How many seconds a registry may take to end before it starts with another configuration.
const GRACE: i32 = 3;

/// Says how a registry serves.
const SERVES: &str = include_str!("scripts/registry_serves.sh");

/// The registries and mirrors of a cluster, with all that files on this host say of them.
pub(super) struct Registries<'a> {
    registry: &'a Registry,
    base: &'a Path,
    plans: Vec<(RegistryPlan, Access)>,
    mirrors: Vec<Access>,
    /// The image; it may be missing where all of them are there.
    image: Option<Image>,
}

/// Reads what files say, and finds or pulls the image if a registry has to be made. Nothing is made yet; `None` if a profile
/// asks for nothing.
///
/// # Errors
/// [`ClusterError::File`] for a file, [`ClusterError::Engine`] if there is no image.
pub(super) async fn prepare<'a>(
    context: &Context,
    profile: &'a Profile,
    base: &'a Path,
) -> Result<Option<Registries<'a>>, ClusterError> {
    let Some(registry) = &profile.spec.registry else { return Ok(None) };
    let mut plans = Vec::new();
    for plan in render::registries(registry, base) {
        let cache = plan.cache.as_ref();
        let access = access(base, cache.and_then(|it| it.ca.as_ref()), cache.and_then(|it| it.credentials.as_ref()))?;
        plans.push((plan, access));
    }
    let mirrors = registry.mirrors.iter().map(|mirror| access(base, mirror.ca.as_ref(), mirror.credentials.as_ref()));
    let mirrors = mirrors.collect::<Result<Vec<_>, _>>()?;
    let there = context.engine.containers(LABEL_REGISTRY, None).await?;
    let all_there = plans.iter().all(|(plan, _)| there.iter().any(|container| container.name == plan.name));
    let wanted = registry.image.as_deref();
    // One that is there may yet have to be made again; but nothing is pulled for that.
    let image = match context.engine.image(wanted.unwrap_or(DEFAULT_IMAGE)).await? {
        None if all_there => context.engine.image(BUILT_IMAGE).await?,
        None => Some(choose_image(context, wanted).await?),
        there => there,
    };
    Ok(Some(Registries { registry, base, plans, mirrors, image }))
}

/// What an upstream or a mirror is asked by, from its files.
fn access(base: &Path, ca: Option<&String>, credentials: Option<&String>) -> Result<Access, ClusterError> {
    let read = |file: &String| {
        let path = base.join(file);
        let text = read_named(&path);
        text.map_err(|error| fail(&path, error.to_string())).map(|text| (path, text))
    };
    let ca = match ca {
        None => None,
        Some(file) => {
            let (path, text) = read(file)?;
            check_authorities(&text).map_err(|reason| fail(&path, reason.to_owned()))?;
            Some(text.to_string())
        }
    };
    let credentials = match credentials {
        None => None,
        Some(file) => {
            let (path, text) = read(file)?;
            Some(user_and_password(&text).ok_or_else(|| fail(&path, "expected one line USER:PASSWORD".to_owned()))?)
        }
    };
    Ok(Access { ca, credentials })
}

fn fail(path: &Path, reason: String) -> ClusterError {
    ClusterError::File { path: path.to_owned(), reason }
}

/// The image that is wanted, or Distribution's, or, where no registry can be reached, the one that was built here.
async fn choose_image(context: &Context, wanted: Option<&str>) -> Result<Image, ClusterError> {
    match have_image(context, wanted.unwrap_or(DEFAULT_IMAGE)).await {
        Ok(image) => Ok(image),
        Err(error) => match context.engine.image(BUILT_IMAGE).await? {
            Some(image) if wanted.is_none() => {
                context
                    .reporter
                    .info(&format!("Registries are {BUILT_IMAGE}, since {DEFAULT_IMAGE} cannot be pulled."));
                Ok(image)
            }
            _ => Err(error),
        },
    }
}

impl Registries<'_> {
    /// Makes sure that all of them are there, on `network` and started; gives the files that nodes need. The caller holds the
    /// lock of the network until its nodes are there, too: one that nobody uses is one that `down` removes.
    ///
    /// # Errors
    /// [`ClusterError::Registry`] if a name is taken or another port is, [`ClusterError::Engine`].
    pub(super) async fn ensure(
        &self,
        context: &Context,
        network: &str,
        proxies: &[String],
    ) -> Result<Vec<FileEntry>, ClusterError> {
        let there = context.engine.containers(LABEL_REGISTRY, None).await?;
        let mut authorities = BTreeMap::new();
        for (plan, access) in &self.plans {
            let found = there.iter().find(|container| container.name == plan.name);
            let known = match found {
                Some(container) => self.take_over(context, plan, access, container, network).await?,
                None => None,
            };
            let authority = match known {
                Some(authority) => authority,
                None => self.make(context, plan, access, network, proxies).await?,
            };
            authorities.insert(plan.name.clone(), authority);
        }
        Ok(render::registry_files(self.registry, self.base, &authorities, &self.mirrors))
    }

    /// Makes those anew that a kprov on another host has removed just before it could see the nodes that use them. The nodes
    /// are there, and are told by [`Self::make`].
    ///
    /// # Errors
    /// As of [`Self::ensure`].
    pub(super) async fn ensure_still(
        &self,
        context: &Context,
        network: &str,
        proxies: &[String],
    ) -> Result<(), ClusterError> {
        let there = context.engine.containers(LABEL_REGISTRY, None).await?;
        if self.plans.iter().any(|(plan, _)| !there.iter().any(|container| container.name == plan.name)) {
            self.ensure(context, network, proxies).await?;
        }
        Ok(())
    }

    /// Brings a registry that is there up to date, and starts it. `None` if whoever made it was killed over it: then it has
    /// been removed.
    async fn take_over(
        &self,
        context: &Context,
        plan: &RegistryPlan,
        access: &Access,
        container: &Container,
        network: &str,
    ) -> Result<Option<String>, ClusterError> {
        let engine = &context.engine;
        if container.labels.get(LABEL_REGISTRY) != Some(&label(plan)) {
            let there = container.labels.get(LABEL_REGISTRY).cloned().unwrap_or_default();
            let reason =
                format!("there is one already on this engine, {there}, and this profile asks for {}", label(plan));
            return Err(ClusterError::Registry { name: plan.name.clone(), reason, last_lines: String::new() });
        }
        if let Some(image) = self.image.as_ref().filter(|image| image.id != container.image_id) {
            // What it serves is run, and it would be given what its upstream is asked by.
            let reason = format!(
                "the one on this engine runs another image, {} ({}), than the one asked for ({}); once nobody uses it, `kprov down --all` \
                 removes it",
                container.image, container.image_id, image.id
            );
            return Err(ClusterError::Registry { name: plan.name.clone(), reason, last_lines: String::new() });
        }
        // The last file that it gets.
        let begun = Instant::now();
        let authority = loop {
            match engine.read_file(&container.id, REGISTRY_CA, LARGEST_FILE).await? {
                Some(authority) => break authority,
                None if begun.elapsed() < FILLING => tokio::time::sleep(LOOK).await,
                None => {
                    engine.remove_container(&container.id).await?;
                    return Ok(None);
                }
            }
        };
        if container.labels.contains_key(LABEL_KEEP) != self.registry.keep {
            let stays = if self.registry.keep { "does not stay" } else { "stays" };
            context.reporter.warn(&format!(
                "the registry {} {stays} when its last cluster goes, as whoever made it wanted",
                plan.name
            ));
        }
        let wanted = settings(plan, access);
        let mut changed = false;
        for file in &wanted {
            changed |= engine.read_file(&container.id, &file.path, LARGEST_FILE).await?.as_ref() != Some(&file.content);
        }
        if changed {
            context.reporter.info(&format!("The registry {} starts again: it is asked for in another way.", plan.name));
            // In this order: whoever is killed leaves one that has yet to be told, or is started with what it is told.
            engine.stop_container(&container.id, GRACE).await?;
            engine.put_archive(&container.id, pack(&wanted)).await?;
        }
        if !container.addresses.contains_key(network) {
            engine.connect_network(network, &container.id).await?;
        }
        engine.start_container(&container.id).await?;
        Ok(Some(String::from_utf8_lossy(&authority).into_owned()))
    }

    /// Makes a registry, with an authority of its own whose key nobody keeps, and starts it. Nodes that knew one of that name are
    /// told of the new authority.
    async fn make(
        &self,
        context: &Context,
        plan: &RegistryPlan,
        access: &Access,
        network: &str,
        proxies: &[String],
    ) -> Result<String, ClusterError> {
        let engine = &context.engine;
        let failed = |reason: &str| ClusterError::Registry {
            name: plan.name.clone(),
            reason: reason.to_owned(),
            last_lines: String::new(),
        };
        let image = self
            .image
            .as_ref()
            .ok_or_else(|| failed("it has to be made, and its image is not on the engine any more"))?;
        let step = context.reporter.step(&plan.name, "Making the registry");
        let (authority, identity) = server_identity("registry-ca", &plan.name)?;
        let file =
            |name: &str, mode, text: &str| FileEntry::new(format!("{REGISTRY_FILES}/{name}"), mode, text.as_bytes());
        let mut files = settings(plan, access);
        files.extend([
            FileEntry::new(REGISTRY_START, 0o755, render::registry_start().as_bytes()),
            file("server.crt", 0o644, &identity.certificate),
            file("server.key", 0o600, &identity.key),
            // Last: without it, the others are not all there.
            FileEntry::new(REGISTRY_CA, 0o644, authority.as_bytes()),
        ]);
        let spec = spec(plan, self.registry.keep, network, proxies, image.id.clone());
        let made = match engine.create_container(spec).await {
            Err(EngineError::Conflict { .. }) => {
                let there = engine.containers(LABEL_REGISTRY, None).await?;
                return match there.iter().find(|container| container.name == plan.name) {
                    // Somebody on another host was faster.
                    Some(other) => self
                        .take_over(context, plan, access, other, network)
                        .await?
                        .ok_or_else(|| failed("whoever was making it has not come to an end; it is gone, try again")),
                    None => Err(failed("a container of that name is there, which is no registry of kprov's")),
                };
            }
            made => made?,
        };
        engine.put_archive(&made, pack(&files)).await?;
        for node in users(context, &plan.name).await? {
            let file = FileEntry::new(render::authority_file(&plan.name), 0o644, authority.as_bytes());
            if let Err(error) = engine.put_archive(&node.id, pack(&[file])).await {
                context.reporter.warn(&format!("{} is not told of the new registry {}: {error}", node.name, plan.name));
            }
        }
        engine.start_container(&made).await?;
        step.done();
        Ok(authority)
    }

    /// Waits until all of them serve.
    ///
    /// # Errors
    /// [`ClusterError::Registry`] with its last lines if one does not.
    pub(super) async fn await_serving(&self, context: &Context) -> Result<(), ClusterError> {
        let begun = Instant::now();
        for (plan, _) in &self.plans {
            let serves = loop {
                if let Some(serves) = serves(context, &plan.name).await? {
                    break serves;
                }
                if begun.elapsed() > START {
                    let log = context.engine.last_logs(&plan.name, 20).await.unwrap_or_default();
                    let reason = format!("it has not begun to listen within {} s", START.as_secs());
                    let last_lines = last_lines(&log, 10);
                    return Err(ClusterError::Registry { name: plan.name.clone(), reason, last_lines });
                }
                tokio::time::sleep(LOOK).await;
            };
            if let (Serves::Alone, Some(cache)) = (serves, &plan.cache) {
                context.reporter.warn(&format!(
                    "{} does not answer: its cache serves what it has, and asks again later",
                    cache.upstream()
                ));
            }
        }
        Ok(())
    }

    /// Tells the cluster's tools of the registry to push to.
    ///
    /// # Errors
    /// [`ClusterError::Api`] if the API server refuses it.
    pub(super) async fn announce(&self, client: &kube::Client) -> Result<(), ClusterError> {
        match render::registry_hosting(self.registry) {
            Some(manifest) => Ok(kubernetes::apply(client, "local-registry-hosting", &manifest).await?),
            None => Ok(()),
        }
    }
}

/// How a registry serves.
enum Serves {
    /// All that there is to be had.
    Whole,
    /// What it has: it is a cache whose upstream does not answer.
    Alone,
}

/// How a registry serves; `None` while it does not.
async fn serves(context: &Context, name: &str) -> Result<Option<Serves>, ClusterError> {
    let words = ["sh", "-euc", SERVES, "registry_serves", REGISTRY_FILES];
    let command = words.map(str::to_owned).to_vec();
    let asked = context.engine.exec(name, ExecSpec { command, most: Some(MOST_SAID), ..ExecSpec::default() });
    let Ok(answer) = tokio::time::timeout(ANSWER, asked).await else { return Ok(None) };
    match answer {
        Ok(output) if output.code == 0 && output.stdout.starts_with(b"alone") => Ok(Some(Serves::Alone)),
        Ok(output) if output.code == 0 => Ok(Some(Serves::Whole)),
        // It does not run (yet), or is out of its place for a moment.
        Ok(_) | Err(EngineError::NotRunning { .. } | EngineError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What a registry is told, which may be otherwise the next time.
fn settings(plan: &RegistryPlan, access: &Access) -> Vec<FileEntry> {
    let config = render::registry_config(plan, access);
    let mut files = vec![FileEntry::new(REGISTRY_CONFIG, 0o600, config.as_bytes())];
    if plan.cache.is_some() {
        files.push(FileEntry::new(REGISTRY_ALONE, 0o600, render::registry_alone()));
        let trust = access.ca.clone().unwrap_or_default();
        files.push(FileEntry::new(format!("{REGISTRY_TRUST}/upstream.crt"), 0o644, trust));
    }
    files
}

/// What a registry's label says it is.
fn label(plan: &RegistryPlan) -> String {
    match (&plan.cache, plan.port) {
        (Some(cache), _) => format!("cache of {}", cache.of),
        (None, Some(port)) => format!("local at port {port}"),
        (None, None) => "local".to_owned(),
    }
}

/// It has no label of kind's, whose tools would take it for a node, and none of what passes.
fn spec(plan: &RegistryPlan, keep: bool, network: &str, proxies: &[String], image: String) -> ContainerSpec {
    let mut labels = vec![(LABEL_REGISTRY.to_owned(), label(plan))];
    if keep {
        labels.push((LABEL_KEEP.to_owned(), "true".to_owned()));
    }
    let port = plan.port.map(|port| PublishedPort {
        container: REGISTRY_PORT,
        protocol: "tcp",
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        host: port,
    });
    let mut env = vec![format!("SSL_CERT_DIR={REGISTRY_TRUST}:/etc/ssl/certs")];
    if plan.cache.is_some() {
        env.extend_from_slice(proxies);
    }
    ContainerSpec {
        name: plan.name.clone(),
        image,
        entrypoint: Some(vec!["sh".to_owned(), REGISTRY_START.to_owned()]),
        labels,
        env,
        user: Some("0".to_owned()),
        network: network.to_owned(),
        ports: port.into_iter().collect(),
        volumes: vec![REGISTRY_DATA.to_owned()],
        restart: Restart::UnlessStopped,
        ..ContainerSpec::default()
    }
}

/// The names in a node's label.
fn named(node: &Container) -> impl Iterator<Item = &str> {
    node.labels.get(LABEL_REGISTRIES).map(String::as_str).unwrap_or_default().split(',')
}

/// The nodes that use a registry.
async fn users(context: &Context, name: &str) -> Result<Vec<Container>, ClusterError> {
    let nodes = context.engine.containers(LABEL_REGISTRIES, None).await?;
    Ok(nodes.into_iter().filter(|node| named(node).any(|one| one == name)).collect())
}

/// Starts the registries of a cluster whose nodes are there; those that are gone are made anew.
///
/// # Errors
/// As of [`prepare`] and [`Registries::ensure`].
pub(super) async fn wake(context: &Context, record: &Record) -> Result<(), ClusterError> {
    let Some(registry) = &record.profile.spec.registry else { return Ok(()) };
    let there = context.engine.containers(LABEL_REGISTRY, None).await?;
    let plans = render::registries(registry, &record.base);
    let find = |plan: &RegistryPlan| there.iter().find(|container| container.name == plan.name);
    if let Some(gone) = plans.iter().find(|plan| find(plan).is_none()) {
        context
            .reporter
            .warn(&format!("the registry {} is no more, and so is what was in it: it is made anew", gone.name));
        if let Some(registries) = prepare(context, &record.profile, &record.base).await? {
            let network = context.engine.network(record.network()).await?;
            let subnets = network.map(|network| network.subnets).unwrap_or_default();
            let nodes = render::plan_nodes(&record.profile, &record.name);
            let proxies = machine::proxies_of(record, &nodes, &subnets);
            let _network_lock = context.store().network_lock().await?;
            registries.ensure(context, record.network(), &proxies).await?;
        }
        return Ok(());
    }
    for container in plans.iter().filter_map(find) {
        context.engine.start_container(&container.id).await?;
    }
    Ok(())
}

/// Which registries that nobody uses go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unused {
    /// Those that are not meant to stay.
    Passing,
    /// All.
    All,
}

/// An engine that others, on other hosts, use at the same time.
trait Shelf {
    /// What goes wrong.
    type Error;

    /// Whether there are nodes that use the registry of that name.
    async fn is_used(&self, name: &str) -> Result<bool, Self::Error>;
    /// Gives a registry another name; `false` if that one is taken, or there is no such registry any more.
    async fn rename(&self, id: &str, name: &str) -> Result<bool, Self::Error>;
    /// Removes a registry. One that is gone is no error.
    async fn remove(&self, id: &str) -> Result<(), Self::Error>;
}

impl Shelf for Context {
    type Error = ClusterError;

    async fn is_used(&self, name: &str) -> Result<bool, ClusterError> {
        Ok(!users(self, name).await?.is_empty())
    }

    async fn rename(&self, id: &str, name: &str) -> Result<bool, ClusterError> {
        match self.engine.rename_container(id, name).await {
            Ok(()) => Ok(true),
            Err(EngineError::Conflict { .. } | EngineError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), ClusterError> {
        Ok(self.engine.remove_container(id).await?)
    }
}

/// Removes a registry that nobody uses, and says whether it has gone. It is taken out of its place before it is looked once more
/// for who uses it: whoever begins to, on whichever host, has nodes that say so before it is looked whether it is in its place.
async fn retire<S: Shelf>(shelf: &S, id: &str, name: &str) -> Result<bool, S::Error> {
    let place = name.strip_suffix(GONE).unwrap_or(name);
    if place == name && !shelf.rename(id, &format!("{place}{GONE}")).await? {
        // Somebody on another host is doing it.
        return Ok(false);
    }
    if shelf.is_used(place).await? && shelf.rename(id, place).await? {
        return Ok(false);
    }
    // Nobody uses it, or those who do have found its place empty, and have made another one.
    shelf.remove(id).await?;
    Ok(true)
}

/// Removes registries that no node names, with their images, and takes the others off networks where no user of theirs is.
///
/// # Errors
/// [`ClusterError::Engine`] if the engine does not answer, or one could not be removed.
pub async fn remove_unused_registries(context: &Context, which: Unused) -> Result<Vec<String>, ClusterError> {
    let engine = &context.engine;
    let mut removed = Vec::new();
    if engine.containers(LABEL_REGISTRY, None).await?.is_empty() {
        return Ok(removed);
    }
    // Whoever makes nodes holds it from making registries until the nodes are there.
    let _lock = context.store().network_lock().await?;
    let mut registries = engine.containers(LABEL_REGISTRY, None).await?;
    // What a killed command has left comes first: it may have to go back to its place.
    registries.sort_by_key(|registry| !registry.name.ends_with(GONE));
    let nodes = engine.containers(LABEL_REGISTRIES, None).await?;
    for registry in registries {
        let name = registry.name.strip_suffix(GONE).unwrap_or(&registry.name);
        let users: Vec<&Container> = nodes.iter().filter(|node| named(node).any(|one| one == name)).collect();
        let stays = which == Unused::Passing && registry.labels.contains_key(LABEL_KEEP);
        if users.is_empty() && !stays {
            if retire(context, &registry.id, &registry.name).await? {
                removed.push(name.to_owned());
            }
            continue;
        }
        if registry.name != name && !Shelf::rename(context, &registry.id, name).await? {
            // Another one is in its place.
            Shelf::remove(context, &registry.id).await?;
            continue;
        }
        let deserted = |network: &&String| !users.iter().any(|user| user.addresses.contains_key(*network));
        let mut networks = registry.addresses.keys().filter(deserted).collect::<Vec<_>>();
        if networks.len() == registry.addresses.len() {
            // Where it waits for its next user.
            networks.pop();
        }
        for network in networks {
            match engine.disconnect_network(network, &registry.id).await {
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn plan(port: Option<u16>) -> RegistryPlan {
        let cache = serde_json::json!({"of": "docker.io"});
        let cache = port.is_none().then(|| serde_json::from_value(cache).unwrap());
        RegistryPlan { name: "r".to_owned(), port, cache }
    }

    #[test]
    fn no_secret_is_where_others_look() {
        let secret = zeroize::Zeroizing::new("hunter2".to_owned());
        let access = Access { ca: None, credentials: Some(("me".to_owned(), secret)) };
        let made = spec(&plan(None), false, "kind", &[], "i".to_owned());
        assert!(!format!("{made:?}").contains("hunter2"));
        let files = settings(&plan(None), &access);
        assert!(
            files
                .iter()
                .filter(|file| file.content.windows(7).any(|part| part == b"hunter2"))
                .all(|file| file.mode == 0o600)
        );
    }

    #[test]
    fn what_passes_is_told_from_what_stays_and_no_kind_tool_takes_it_for_a_node() {
        let labels = |keep| spec(&plan(Some(5001)), keep, "kind", &[], "i".to_owned()).labels;
        let own = (LABEL_REGISTRY.to_owned(), "local at port 5001".to_owned());
        assert_eq!(labels(false), std::slice::from_ref(&own));
        assert_eq!(labels(true), [own, (LABEL_KEEP.to_owned(), "true".to_owned())]);
    }

    /// Registries by id and name, and a user on another host, who begins before one of the steps.
    struct Memory {
        there: RefCell<Vec<(&'static str, String)>>,
        /// When he has a node, when he looks whether his registry is there, and how many steps there have been.
        times: (usize, usize),
        steps: Cell<usize>,
    }

    impl Memory {
        fn step(&self) -> bool {
            let now = self.steps.get();
            self.steps.set(now + 1);
            let mut there = self.there.borrow_mut();
            if now == self.times.1 && !there.iter().any(|(_, name)| name == "r") {
                there.push(("his", "r".to_owned()));
            }
            now >= self.times.0
        }
    }

    impl Shelf for Memory {
        type Error = std::convert::Infallible;

        async fn is_used(&self, name: &str) -> Result<bool, Self::Error> {
            assert_eq!(name, "r");
            Ok(self.step())
        }

        async fn rename(&self, id: &str, name: &str) -> Result<bool, Self::Error> {
            self.step();
            let mut there = self.there.borrow_mut();
            if there.iter().any(|(_, taken)| taken == name) {
                return Ok(false);
            }
            there.iter_mut().filter(|(one, _)| *one == id).for_each(|(_, old)| *old = name.to_owned());
            Ok(true)
        }

        async fn remove(&self, id: &str) -> Result<(), Self::Error> {
            self.step();
            self.there.borrow_mut().retain(|(one, _)| *one != id);
            Ok(())
        }
    }

    #[tokio::test]
    async fn whoever_begins_to_use_a_registry_that_is_about_to_go_has_one_afterwards() {
        const NEVER: usize = usize::MAX;
        for begins_as in ["r".to_owned(), format!("r{GONE}")] {
            for has_nodes in 0..5 {
                for looks in has_nodes..6 {
                    let there = RefCell::new(vec![("old", begins_as.clone())]);
                    let memory = Memory { there, times: (has_nodes, looks), steps: Cell::new(0) };
                    retire(&memory, "old", &begins_as).await.unwrap();
                    while memory.steps.get() < 6 {
                        memory.step();
                    }
                    let left: Vec<String> = memory.there.take().into_iter().map(|(_, name)| name).collect();
                    assert_eq!(left, ["r"], "{begins_as}, {has_nodes}, {looks}");
                }
            }
            let there = RefCell::new(vec![("old", begins_as.clone())]);
            let memory = Memory { there, times: (NEVER, NEVER), steps: Cell::new(0) };
            assert!(retire(&memory, "old", &begins_as).await.unwrap());
            assert!(memory.there.take().is_empty());
        }
    }

    #[test]
    fn files_are_what_they_are_said_to_be_or_are_refused_without_being_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("ca", "-----BEGIN PRIVATE KEY-----\nhunter2\n");
        write("credentials", "hunter2\n");
        let (ca, credentials, none) = ("ca".to_owned(), "credentials".to_owned(), "none".to_owned());
        for (ca, credentials) in [(Some(&ca), None), (None, Some(&credentials)), (None, Some(&none))] {
            let error = access(folder.path(), ca, credentials).unwrap_err().to_string();
            assert!(error.contains(&folder.path().display().to_string()) && !error.contains("hunter2"), "{error}");
        }
        write("credentials", "me:a\n");
        assert_eq!(access(folder.path(), None, Some(&credentials)).unwrap().credentials.unwrap().0, "me");
    }
}
