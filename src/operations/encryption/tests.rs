//! Walks in a world in memory that dies at every step: whoever goes on or turns back finds every value readable, always,
//! and leaves nothing over.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::NodeError;
use crate::documents::encryption::{
    Config, GroupResource, KeyId, Kms, Layout, Located, Material, PLUGIN_SOCKET, Phase, PlanError, Served, Verb,
};
use crate::documents::keys::KeyRing;
use crate::documents::keys::{KmsProtocol, ProviderKind};
use crate::documents::static_pod::StaticPod;
use crate::operations::api_server::Rejected;
use crate::progress::Reporter;

use super::nodes::JOURNAL;
use super::reload::Loaded;
use super::walk::Walker;
use super::world::{Books, Machine, Storage};
use super::{EncryptionError, Outcome, Plugin, Request, Scrubbed};

const MANIFEST: &str = "\
spec:
  containers:
  - command: [kube-apiserver, --secure-port=6443]
    livenessProbe: {httpGet: {path: /livez}}
    name: kube-apiserver
    volumeMounts: []
  volumes: []
";

/// One control plane.
#[derive(Clone)]
struct Plane {
    files: BTreeMap<String, Vec<u8>>,
    manifest: StaticPod,
    /// The manifest before a restart that nobody has confirmed.
    before: Option<StaticPod>,
    /// The command that runs, and the configuration that it has read.
    running: (Vec<String>, Config),
    /// Whether kprov's KMS plugin is there.
    plugin: bool,
}

impl Plane {
    /// What an API server that starts right now reads.
    fn on_disk(&self, manifest: &StaticPod) -> Result<Config, String> {
        let Some(file) = manifest.flag("encryption-provider-config") else { return Ok(Config::default()) };
        let bytes = self.files.get(&file).ok_or_else(|| format!("{file} is not there"))?;
        Config::parse(std::str::from_utf8(bytes).unwrap())
    }
}

/// All there is.
#[derive(Clone)]
struct State {
    planes: Vec<Plane>,
    /// Each key in etcd, how it is stored, and the fingerprint of the key that it is stored under.
    etcd: BTreeMap<String, (String, Option<String>)>,
    record: Option<Config>,
    version: &'static str,
    marker: Option<String>,
    scrubbed: Vec<String>,
    /// Whether the log of each control plane's etcd holds the marker.
    logged: Vec<bool>,
    /// Whether the KMS works.
    kms: bool,
}

struct World {
    state: RefCell<State>,
    layout: Layout,
    /// How many more steps may be taken before all stands still; `None` for no end.
    left: Cell<Option<usize>>,
    /// Whether the step that it dies at has still taken effect.
    half_done: bool,
    steps: Cell<usize>,
    /// The API server that comes up with nothing that has two keys, if there is to be one.
    picky: Option<usize>,
    /// The step before which the KMS goes away, if it does.
    kms_goes: Cell<Option<usize>>,
}

impl World {
    fn start(planes: usize, version: &'static str, config: Option<&Config>) -> Rc<Self> {
        let served = |plural: &str, group: &str| Served {
            name: GroupResource { plural: plural.to_owned(), group: group.to_owned() },
            version: "v1".to_owned(),
            kind: plural.to_owned(),
            namespaced: true,
        };
        let served = vec![
            served("secrets", ""),
            served("configmaps", ""),
            served("deployments", "apps"),
            served("gateways", "gateway.networking.k8s.io"),
        ];
        let definitions = BTreeSet::from(["gateways.gateway.networking.k8s.io".to_owned()]);
        let layout = Layout::new("/registry", served, &definitions);
        let mut manifest = StaticPod::parse(MANIFEST).unwrap();
        let mut files = BTreeMap::new();
        if let Some(config) = config {
            let file = "/etc/kubernetes/encryption/encryption-config.yaml";
            let mut change = crate::documents::static_pod::Change::default().set("encryption-provider-config", file);
            if version == "v1.36.2" {
                change = change.set("encryption-provider-config-automatic-reload", "true");
            }
            manifest.apply(&change);
            files.insert(file.to_owned(), config.to_yaml().as_bytes().to_vec());
        }
        if version == OLD && config.is_some_and(|config| config.asks(PLUGIN_SOCKET)) {
            manifest.leave_out(&["kms-provider-0".to_owned()]);
        }
        let running = (manifest.command(), config.cloned().unwrap_or_default());
        let plugin = running.1.asks(PLUGIN_SOCKET);
        let plane = Plane { files, manifest, before: None, running, plugin };
        let state = State {
            planes: vec![plane; planes],
            etcd: BTreeMap::new(),
            record: config.cloned(),
            version,
            marker: None,
            scrubbed: Vec::new(),
            logged: vec![false; planes],
            kms: true,
        };
        let world = Self {
            state: RefCell::new(state),
            layout,
            left: Cell::new(None),
            half_done: false,
            steps: Cell::new(0),
            picky: None,
            kms_goes: Cell::new(None),
        };
        for name in ["secrets", "configmaps", "deployments", "gateway.networking.k8s.io/gateways"] {
            for number in 0..2 {
                world.state.borrow_mut().write(&world.layout, 0, &format!("/registry/{name}/default/{number}"));
            }
        }
        Rc::new(world)
    }

    fn again(self: &Rc<Self>, left: Option<usize>, half_done: bool) -> Rc<Self> {
        Rc::new(Self {
            state: RefCell::new(self.state.borrow().clone()),
            layout: self.layout.clone(),
            left: Cell::new(left),
            half_done,
            steps: Cell::new(0),
            picky: self.picky,
            kms_goes: Cell::new(None),
        })
    }

    /// A step that changes something. The last one of a process that is killed may take effect or not; nothing comes
    /// after it.
    async fn step<T>(&self, effect: impl FnOnce(&mut State) -> T) -> T {
        if self.kms_goes.get() == Some(self.steps.get()) {
            self.state.borrow_mut().kms = false;
        }
        self.steps.set(self.steps.get() + 1);
        let dies = self.left.get() == Some(0);
        if dies && !self.half_done {
            std::future::pending::<()>().await;
        }
        let done = effect(&mut self.state.borrow_mut());
        self.state.borrow_mut().live(&self.layout);
        if dies {
            std::future::pending::<()>().await;
        }
        self.left.set(self.left.get().map(|left| left - 1));
        done
    }
}

impl State {
    /// An API server writes an object with the key that it writes with; gives whether it could.
    fn write(&mut self, layout: &Layout, plane: usize, key: &str) -> bool {
        let name = &layout.owner(key).unwrap().name;
        let deciding = self.planes[plane].running.1.deciding(name);
        let writer = deciding.first().and_then(|group| group.writer()).unwrap_or_else(KeyId::identity);
        // What is rewritten is read first.
        let wrapped = self.etcd.get(key).is_some_and(|(stored, _)| stored.starts_with("k8s:enc:kms:"));
        if !self.kms && (wrapped || writer.provider == ProviderKind::Kms) {
            return false;
        }
        let print = deciding.first().and_then(|group| group.material(&writer)).and_then(|material| match material {
            Material::Key(key) => Some(key.fingerprint()),
            Material::Kms(_) => None,
        });
        self.etcd.insert(key.to_owned(), (writer.stored(), print));
        true
    }

    /// Clients at work: every API server reads every value, and would also do so if it were started anew; then
    /// each writes one.
    fn live(&mut self, layout: &Layout) {
        for plane in &self.planes {
            let restarted =
                plane.on_disk(&plane.manifest).expect("an API server that starts now finds its configuration");
            for config in [&plane.running.1, &restarted] {
                for (key, (stored, print)) in &self.etcd {
                    let Some(name) = layout.owner(key).map(|owner| &owner.name) else {
                        assert!(config.knows(stored) || !stored.starts_with("k8s:enc:"), "{key} has lost its key");
                        continue;
                    };
                    assert!(config.reads(name, stored), "{key}, stored as {stored}, cannot be read");
                    let deciding = config.deciding(name);
                    let keys = deciding.iter().flat_map(|group| group.keys());
                    let same = |(id, known): (KeyId, Option<String>)| id.stored() == *stored && known == *print;
                    assert!(print.is_none() || keys.into_iter().any(same), "{key} is under another key of that name");
                }
            }
        }
        for plane in 0..self.planes.len() {
            self.write(layout, plane, &format!("/registry/secrets/default/busy-{plane}"));
        }
    }
}

#[derive(Clone)]
struct FakeMachine {
    world: Rc<World>,
    index: usize,
    name: String,
}

impl FakeMachine {
    fn plane<T>(&self, look: impl FnOnce(&Plane) -> T) -> T {
        look(&self.world.state.borrow().planes[self.index])
    }

    async fn change<T>(&self, effect: impl FnOnce(&mut Plane) -> T) -> T {
        self.world.step(|state| effect(&mut state.planes[self.index])).await
    }

    async fn exchange(&self, to: &StaticPod, keep: bool) -> Result<Result<(), Rejected>, NodeError> {
        let picky = self.world.picky == Some(self.index);
        let (world, index) = (&self.world, self.index);
        let outcome = world
            .step(|state| {
                let (kms, plane) = (state.kms, &mut state.planes[index]);
                if keep {
                    plane.before = Some(plane.manifest.clone());
                }
                let config = plane.on_disk(to).expect("its configuration is there");
                plane.manifest = to.clone();
                if picky && config.groups.iter().any(|group| group.keys().len() > 1) && keep {
                    return Err(Rejected { reason: "it does not like it".to_owned(), last_lines: String::new() });
                }
                // A pod does not start whose folder is not there.
                assert!(plane.plugin || !to.shows_folder_of(PLUGIN_SOCKET), "the plugin's folder is gone");
                plane.running = (to.command(), config);
                if !kms && plane.running.1.asks(PLUGIN_SOCKET) {
                    return Err(Rejected { reason: "it is not ready".to_owned(), last_lines: String::new() });
                }
                Ok(())
            })
            .await;
        // The watch over what comes of it: another moment to die at.
        self.change(|plane| {
            if !keep && outcome.is_ok() {
                plane.before = None;
            }
        })
        .await;
        Ok(outcome)
    }
}

impl Machine for FakeMachine {
    fn name(&self) -> &str {
        &self.name
    }

    async fn is_running(&self) -> Result<bool, NodeError> {
        Ok(true)
    }

    async fn version(&self) -> Result<String, NodeError> {
        Ok(self.world.state.borrow().version.to_owned())
    }

    async fn read(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, NodeError> {
        Ok(self.plane(|plane| plane.files.get(path).cloned().map(Zeroizing::new)))
    }

    async fn write(&self, path: &str, content: &[u8]) -> Result<(), NodeError> {
        self.change(|plane| plane.files.insert(path.to_owned(), content.to_vec())).await;
        Ok(())
    }

    async fn remove(&self, path: &str) -> Result<(), NodeError> {
        self.change(|plane| plane.files.remove(path)).await;
        Ok(())
    }

    async fn manifest(&self) -> Result<StaticPod, NodeError> {
        Ok(self.plane(|plane| plane.manifest.clone()))
    }

    async fn replace(&self, to: &StaticPod, _: impl FnMut(&str)) -> Result<Result<(), Rejected>, NodeError> {
        self.exchange(to, true).await
    }

    async fn put_back(&self, to: &StaticPod, _: impl FnMut(&str)) -> Result<Result<(), Rejected>, NodeError> {
        self.exchange(to, false).await
    }

    async fn commit(&self) -> Result<(), NodeError> {
        self.change(|plane| plane.before = None).await;
        Ok(())
    }

    async fn wake(&self) -> Result<(), NodeError> {
        Ok(())
    }

    async fn comes_back(&self) -> Result<bool, NodeError> {
        Ok(true)
    }

    async fn recover(&self, _: impl FnMut(&str)) -> Result<Option<&'static str>, NodeError> {
        Ok(None)
    }

    async fn runs(&self, manifest: &StaticPod) -> Result<bool, NodeError> {
        Ok(self.plane(|plane| plane.running.0 == manifest.command()))
    }

    async fn look(&self, _: &str, _: &str) -> Result<Loaded, NodeError> {
        // The minute comes around. A configuration whose KMS does not work is refused.
        let (world, index) = (&self.world, self.index);
        let loaded = world
            .step(|state| {
                let (kms, plane) = (state.kms, &mut state.planes[index]);
                let config = plane.on_disk(&plane.manifest).expect("its configuration is there");
                if !kms && config.asks(PLUGIN_SOCKET) && config != plane.running.1 {
                    return Loaded::Refused;
                }
                plane.running.1 = config;
                Loaded::Yes
            })
            .await;
        Ok(loaded)
    }

    async fn started_after(&self, _: &str) -> Result<bool, NodeError> {
        Ok(self.plane(|plane| plane.on_disk(&plane.manifest).is_ok_and(|config| config == plane.running.1)))
    }

    async fn words(&self) -> String {
        String::new()
    }

    async fn kms_problem(&self) -> Result<Option<String>, NodeError> {
        Ok((!self.world.state.borrow().kms).then(|| "the server is sealed".to_owned()))
    }

    async fn remove_plugin(&self) -> Result<(), NodeError> {
        self.change(|plane| {
            let asks =
                plane.running.1.asks(PLUGIN_SOCKET) || plane.on_disk(&plane.manifest).unwrap().asks(PLUGIN_SOCKET);
            assert!(!asks, "an API server asks it");
            assert!(!plane.manifest.shows_folder_of(PLUGIN_SOCKET), "its folder is mounted");
            plane.plugin = false;
        })
        .await;
        Ok(())
    }
}

impl Storage for World {
    async fn layout(&self, _: &str) -> Result<Layout, EncryptionError> {
        Ok(self.layout.clone())
    }

    async fn scan(&self, prefix: &str, mut visit: impl FnMut(&str, &str)) -> Result<(), EncryptionError> {
        let prefix = format!("{}/", prefix.trim_end_matches('/'));
        for (key, (stored, _)) in self.state.borrow().etcd.range(prefix.clone()..) {
            if key.starts_with(&prefix) {
                visit(key, stored);
            }
        }
        Ok(())
    }

    async fn touch(&self, _: &Located, key: &str) -> Result<(), EncryptionError> {
        match self.step(|state| state.write(&self.layout, 0, key)).await {
            true => Ok(()),
            false => Err(ApiError::NotReady { seconds: 0, pending: vec!["the KMS is away".to_owned()] }.into()),
        }
    }

    async fn plant(&self, text: &str) -> Result<(), EncryptionError> {
        self.step(|state| {
            state.marker = Some(text.to_owned());
            state.logged.fill(true);
        })
        .await;
        Ok(())
    }

    async fn uproot(&self) -> Result<(), EncryptionError> {
        self.step(|state| state.marker = None).await;
        Ok(())
    }

    async fn scrub(&self, texts: &[String]) -> Result<Vec<Scrubbed>, EncryptionError> {
        self.step(|state| {
            assert!(state.marker.is_none(), "the marker goes first");
            state.scrubbed = texts.to_vec();
        })
        .await;
        let mut members = Vec::new();
        let planes = self.state.borrow().planes.len();
        for index in 0..planes {
            let node = format!("plane-{index}");
            let after = self.files_with(&node, texts).await?;
            members.push(Scrubbed { node, before: after.clone(), after, kept: None });
        }
        Ok(members)
    }

    async fn last_log(&self, _: &str) -> Result<String, EncryptionError> {
        Ok("0.wal".to_owned())
    }

    async fn renew_log(&self, node: &str, _: &str) -> Result<(), EncryptionError> {
        let index: usize = node.trim_start_matches("plane-").parse().unwrap();
        self.step(|state| {
            assert!(state.logged[index], "a log that holds nothing is left alone");
            state.logged[index] = false;
        })
        .await;
        Ok(())
    }

    async fn files_with(&self, node: &str, _: &[String]) -> Result<Vec<String>, EncryptionError> {
        let index: usize = node.trim_start_matches("plane-").parse().unwrap();
        let logged = self.state.borrow().logged[index];
        Ok(if logged { vec!["member/wal/0.wal".to_owned()] } else { Vec::new() })
    }
}

#[test]
fn etcd_is_scrubbed_of_what_was_there_before() {
    let world = World::start(1, NEW, None);
    run(&world, &Command::Run(request(Verb::Enable, Some(ProviderKind::Aescbc), &["secrets"]))).unwrap().unwrap();
    let marker = std::mem::take(&mut world.state.borrow_mut().scrubbed);
    assert!(marker.len() == 1 && marker[0].starts_with("kprov marker "), "{marker:?}");
    run(&world, &Command::Run(request(Verb::Rotate, None, &[]))).unwrap().unwrap();
    assert_eq!(world.state.borrow().scrubbed[0], "k8s:enc:aescbc:v1:key1:");
    world.state.borrow_mut().scrubbed.clear();
    run(&world, &Command::Run(request(Verb::Disable, None, &[]))).unwrap().unwrap();
    assert!(world.state.borrow().scrubbed.is_empty(), "what was hidden is in the clear again");
}

impl Books for World {
    fn keys(&self) -> Result<KeyRing, EncryptionError> {
        Ok(KeyRing::default())
    }

    fn record(
        &self,
        config: Option<&Config>,
        _: Option<&crate::documents::profile::Kms>,
    ) -> Result<(), EncryptionError> {
        self.state.borrow_mut().record = config.cloned();
        Ok(())
    }
}

/// What a command is.
#[derive(Clone)]
enum Command {
    Run(Request),
    Resume,
    Undo,
}

fn request(verb: Verb, provider: Option<ProviderKind>, resources: &[&str]) -> Request {
    Request {
        verb,
        provider,
        resources: resources.iter().map(|&name| name.to_owned()).collect(),
        key: None,
        kms: None,
        retire: false,
    }
}

/// Runs a command in a world; `None` if it died.
fn run(world: &Rc<World>, command: &Command) -> Option<Result<Outcome, EncryptionError>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let machines: Vec<FakeMachine> = (0..world.state.borrow().planes.len())
        .map(|index| FakeMachine { world: Rc::clone(world), index, name: format!("plane-{index}") })
        .collect();
    let (reporter, _) = Reporter::recording();
    let walker = Walker {
        reporter: &reporter,
        cluster: "test",
        machines: &machines,
        storage: world.as_ref(),
        books: world.as_ref(),
        restart: false,
        scrub: true,
        renew_logs: true,
        keep_plugin: Cell::new(false),
    };
    if matches!(command, Command::Run(request) if request.kms.is_some()) {
        // As the operation does before a walk begins.
        world.state.borrow_mut().planes.iter_mut().for_each(|plane| plane.plugin = true);
    }
    runtime.block_on(async {
        let work = async {
            match command {
                Command::Run(request) => walker.run(request).await,
                Command::Resume => walker.resume().await,
                Command::Undo => walker.undo().await,
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), work).await.ok()
    })
}

/// Holds that nothing is under way, all is alike, and no key lies around that nobody reads.
fn assert_whole(world: &World, what: &str) {
    let state = world.state.borrow();
    let first = &state.planes[0];
    assert_eq!(state.marker, None, "{what}: the marker is left");
    for plane in &state.planes {
        assert!(!plane.files.contains_key(JOURNAL), "{what}: the journal is left");
        assert!(plane.before.is_none(), "{what}: the manifest before is left");
        assert_eq!(plane.files, first.files, "{what}: control planes differ");
        assert!(plane.plugin || !plane.running.1.asks(PLUGIN_SOCKET), "{what}: the plugin is gone, and needed");
        let config = plane.on_disk(&plane.manifest).unwrap();
        assert_eq!(plane.running.1, config, "{what}: an API server has another configuration than its file");
        let dies = state.version == OLD && config.asks(PLUGIN_SOCKET);
        let mut spared = plane.manifest.clone();
        let checks = ["kms-provider-0".to_owned()];
        spared.leave_out(&checks[..usize::from(dies)]);
        assert_eq!(spared, plane.manifest, "{what}: whether an API server dies of an ill KMS");
        let expected = usize::from(plane.manifest.flag("encryption-provider-config").is_some());
        assert_eq!(plane.files.len(), expected, "{what}: files are left: {:?}", plane.files.keys());
        assert_eq!(state.record, (!config.groups.is_empty()).then_some(config.clone()), "{what}: the record");
        for (key, (stored, _)) in &state.etcd {
            let deciding = config.deciding(&world.layout.owner(key).unwrap().name);
            let writes = deciding.first().map_or_else(|| KeyId::identity().stored(), |group| group.writes());
            assert_eq!(*stored, writes, "{what}: {key} stays under another key");
        }
    }
}

/// Plugins are where they are asked, and nowhere else.
fn assert_plugins_where_asked(world: &World) {
    for plane in &world.state.borrow().planes {
        assert_eq!(plane.plugin, plane.running.1.asks(PLUGIN_SOCKET));
    }
}

fn config(rules: &[(&str, ProviderKind, &str)]) -> Config {
    let mut config = Config::default();
    for (rule, provider, key) in rules.iter().rev() {
        let (rule, key) = (vec![(*rule).to_owned()], KeyId::local(*provider, key));
        config.add(&rule, &key, Some(Material::Key(crate::documents::keys::KeyMaterial::generate().unwrap())));
        config.promote(&rule, &key);
        config.keep_only(&rule, &key);
    }
    config
}

/// Lets a command die at each of its steps, before and behind it, and each of the commands that may follow die at each of
/// theirs; the last one comes to its end, and all is whole.
fn dies_everywhere(planes: usize, version: &'static str, start: Option<&Config>, request: Request) {
    let world = World::start(planes, version, start);
    let first = Command::Run(request.clone());
    let whole = world.again(None, false);
    let outcome = run(&whole, &first).unwrap().unwrap();
    assert!(outcome.walk.is_some());
    assert_whole(&whole, "without a death");
    assert_plugins_where_asked(&whole);
    let steps = whole.steps.get();
    assert!(steps > 10, "{steps}");
    let mut deaths = 0;
    for (step, half_done) in (0..steps).flat_map(|step| [(step, false), (step, true)]) {
        let dead = world.again(Some(step), half_done);
        assert!(run(&dead, &first).is_none(), "it has to die at step {step}");
        let all = [Command::Resume, Command::Undo, first.clone()];
        // With several control planes there are many more moments: each takes its turn.
        let some = if planes == 1 { &all[..] } else { std::slice::from_ref(&all[(step + usize::from(half_done)) % 3]) };
        for next in some {
            let probe = dead.again(None, false);
            finish(&probe, next, &first, &format!("step {step}"));
            // The first death has been everywhere; for the second one, some places suffice.
            for again in (step % 7..probe.steps.get()).step_by(if planes == 1 { 9 } else { 61 }) {
                let twice = dead.again(Some(again), again % 2 == 0);
                if run(&twice, next).is_none() {
                    deaths += 1;
                    finish(&twice.again(None, false), next, &first, &format!("step {step}, then step {again}"));
                }
            }
        }
        deaths += 1;
    }
    eprintln!("{planes} control planes, {version}, {}: {steps} steps, {deaths} deaths", request.verb);
}

/// A command after a death. Where there is nothing to take up, or no way back any more, the other one has to do.
fn finish(world: &Rc<World>, command: &Command, first: &Command, what: &str) {
    match run(world, command).expect("nobody kills it") {
        Ok(outcome) => {
            let walk = outcome.walk.filter(|walk| !walk.undoing && walk.verb != Verb::Disable);
            let renewed = !world.state.borrow().logged.contains(&true);
            assert!(walk.is_none() || renewed, "{what}: a log holds the marker");
        }
        Err(EncryptionError::NothingUnderWay) => {}
        // It was disabled already.
        Err(EncryptionError::Plan(PlanError::NotEnabled)) if matches!(command, Command::Run(_)) => {}
        Err(EncryptionError::TooLate(_)) => {
            run(world, &Command::Resume).unwrap().unwrap();
        }
        Err(error) => panic!("{what}: {:?}", miette::Report::new(error)),
    }
    assert_whole(world, what);
    if matches!(command, Command::Run(_)) && matches!(first, Command::Run(_)) {
        // Rotated or migrated once more, or found as asked for: whole in either case.
        return;
    }
    // Whatever it has come to, the next change finds its way.
    let next = world.again(None, false);
    let writer = next.state.borrow().record.as_ref().and_then(|config| config.groups.first()?.writer());
    let (verb, provider, resources) = match writer {
        None => (Verb::Enable, Some(ProviderKind::Aesgcm), &["secrets"][..]),
        // Its own rotation is no walk.
        Some(writer) if writer.provider == ProviderKind::Kms => (Verb::Migrate, Some(ProviderKind::Aesgcm), &[][..]),
        Some(_) => (Verb::Rotate, None, &["secrets"][..]),
    };
    run(&next, &Command::Run(request(verb, provider, resources))).unwrap().unwrap();
    assert_whole(&next, &format!("{what}, and one more"));
}

const OLD: &str = "v1.25.3";
const NEW: &str = "v1.36.2";

#[test]
fn enable_dies_at_every_step() {
    for (planes, version) in [(1, OLD), (1, NEW), (3, NEW)] {
        dies_everywhere(planes, version, None, request(Verb::Enable, Some(ProviderKind::Aescbc), &["secrets"]));
    }
}

#[test]
fn rotate_dies_at_every_step() {
    let start = config(&[("secrets", ProviderKind::Aescbc, "key1")]);
    for (planes, version) in [(1, OLD), (1, NEW), (3, OLD)] {
        dies_everywhere(planes, version, Some(&start), request(Verb::Rotate, None, &[]));
    }
}

#[test]
fn migrate_of_wildcards_dies_at_every_step() {
    let start = config(&[("secrets", ProviderKind::Aescbc, "key1"), ("*.*", ProviderKind::Aesgcm, "key2")]);
    for planes in [1, 2] {
        let migrate = request(Verb::Migrate, Some(ProviderKind::Secretbox), &[]);
        dies_everywhere(planes, NEW, Some(&start), migrate);
    }
}

#[test]
fn disable_dies_at_every_step() {
    let start = config(&[("secrets", ProviderKind::Aescbc, "key1")]);
    for (planes, version) in [(1, OLD), (1, NEW), (2, NEW)] {
        dies_everywhere(planes, version, Some(&start), request(Verb::Disable, None, &[]));
    }
}

#[test]
fn custom_resources_whose_group_looks_built_in_are_rotated() {
    let start = config(&[("gateways.gateway.networking.k8s.io", ProviderKind::Secretbox, "key1")]);
    let world = World::start(1, NEW, Some(&start));
    let outcome = run(&world, &Command::Run(request(Verb::Rotate, None, &[]))).unwrap().unwrap();
    assert_eq!(outcome.rewritten, 2);
    assert_eq!(outcome.proof.map(|proof| proof.concerned), Some(2));
    assert_whole(&world, "rotated");
}

/// What a CustomResourceDefinition that is gone has left behind is nobody's, and still needs its key.
#[test]
fn a_key_that_something_unknown_needs_is_kept() {
    let start = config(&[("gateways.gateway.networking.k8s.io", ProviderKind::Secretbox, "key1")]);
    let mut world = Rc::try_unwrap(World::start(1, NEW, Some(&start))).ok().unwrap();
    let served = world.layout.resources().iter().filter_map(|known| known.served.clone());
    let served = served.filter(|served| served.name.group.is_empty()).collect();
    world.layout = Layout::new("/registry", served, &BTreeSet::new());
    let stays = |key: &String| key.starts_with("/registry/secrets/") || key.starts_with("/registry/gateway");
    world.state.get_mut().etcd.retain(|key, _| stays(key));
    let error = run(&Rc::new(world), &Command::Run(request(Verb::Rotate, None, &[]))).unwrap().unwrap_err();
    let EncryptionError::Failed { phase: Phase::Remove, source, .. } = error else { panic!("{error}") };
    assert!(source.to_string().contains("/registry/gateway.networking.k8s.io/gateways/default/0"), "{source}");
}

#[test]
fn what_the_api_does_not_know_is_refused_before_anything_is_touched() {
    let world = World::start(1, NEW, None);
    let enable = request(Verb::Enable, Some(ProviderKind::Aescbc), &["secret"]);
    let error = run(&world, &Command::Run(enable)).unwrap().unwrap_err();
    assert!(
        matches!(&error, EncryptionError::UnknownResource { meant: Some(meant), .. } if meant == "secrets"),
        "{error}"
    );
    assert_whole(&world, "refused");
}

#[test]
fn a_nothing_is_no_proof() {
    let world = World::start(1, NEW, None);
    world.state.borrow_mut().etcd.retain(|key, _| !key.starts_with("/registry/configmaps/"));
    let enable = request(Verb::Enable, Some(ProviderKind::Aescbc), &["configmaps"]);
    let proof = run(&world, &Command::Run(enable)).unwrap().unwrap().proof.unwrap();
    assert_eq!(proof.concerned, 0);
    assert!(proof.values > 0);
}

#[test]
fn an_api_server_that_rejects_a_configuration_gets_the_one_before() {
    let start = config(&[("secrets", ProviderKind::Aescbc, "key1")]);
    let mut world = Rc::try_unwrap(World::start(3, OLD, Some(&start))).ok().unwrap();
    world.picky = Some(1);
    let world = Rc::new(world);
    let error = run(&world, &Command::Run(request(Verb::Rotate, None, &[]))).unwrap().unwrap_err();
    assert!(matches!(error, EncryptionError::Failed { .. }), "{error}");
    assert_whole(&world, "turned back");
    assert_eq!(world.state.borrow().record, Some(start));
}

/// A configuration by which a KMS encrypts Secrets, as this version asks it.
fn kms_config(version: &str) -> Config {
    let protocol = if version == OLD { KmsProtocol::V1 } else { KmsProtocol::V2 };
    let kms = Kms::new(protocol, "kprov", &format!("unix://{PLUGIN_SOCKET}"), 3);
    let (rule, id) = (vec!["secrets".to_owned()], kms.id());
    let mut config = Config::default();
    config.add(&rule, &id, Some(Material::Kms(kms)));
    config.promote(&rule, &id);
    config.keep_only(&rule, &id);
    config
}

fn to_kms(verb: Verb) -> Request {
    let kms = serde_json::from_value(serde_json::json!({"local": {}})).unwrap();
    let plugin = Plugin { kms, base: std::path::PathBuf::new() };
    Request { kms: Some(Box::new(plugin)), ..request(verb, Some(ProviderKind::Kms), &["secrets"]) }
}

/// Every change to a KMS and away from it: where it starts, and what is asked for.
fn changes_of_a_kms(version: &str) -> Vec<(Option<Config>, Request)> {
    let aescbc = config(&[("secrets", ProviderKind::Aescbc, "key1")]);
    vec![
        (None, to_kms(Verb::Enable)),
        (Some(aescbc), Request { resources: Vec::new(), ..to_kms(Verb::Migrate) }),
        (Some(kms_config(version)), request(Verb::Migrate, Some(ProviderKind::Secretbox), &[])),
        (Some(kms_config(version)), request(Verb::Disable, None, &[])),
    ]
}

#[test]
fn changes_of_a_kms_die_at_every_step() {
    for (start, request) in changes_of_a_kms(NEW).into_iter().skip(1).take(2) {
        dies_everywhere(1, NEW, start.as_ref(), request);
    }
}

/// The KMS goes away before each step, and kprov goes on as long as it can, or is killed there, too. Once the KMS is back,
/// whoever goes on or turns back finds every value; as long as it is not, nobody makes anything worse.
#[test]
fn a_kms_that_goes_away_at_any_step_costs_nothing() {
    for (planes, version) in [(1, OLD), (1, NEW), (3, OLD), (3, NEW)] {
        for (start, request) in changes_of_a_kms(version) {
            let world = World::start(planes, version, start.as_ref());
            let first = Command::Run(request.clone());
            let whole = world.again(None, false);
            run(&whole, &first).unwrap().unwrap();
            assert_whole(&whole, "with a KMS that works");
            assert_plugins_where_asked(&whole);
            let steps = whole.steps.get();
            let mut failed = 0;
            for step in 0..steps {
                for killed in [false, true] {
                    let what = format!("{planes} {version} {}: the KMS goes at step {step}, {killed}", request.verb);
                    let gone = world.again(killed.then_some(step), step % 2 == 0);
                    gone.kms_goes.set(Some(step));
                    failed += usize::from(run(&gone, &first).is_some_and(|outcome| outcome.is_err()));
                    let all = [Command::Resume, Command::Undo, first.clone()];
                    // With several control planes there are many more moments: each takes its turn.
                    let turn = std::slice::from_ref(&all[(step + usize::from(killed)) % 3]);
                    for next in if planes == 1 { &all[..] } else { turn } {
                        // While it is away, and then when it is back.
                        let meanwhile = gone.again(None, false);
                        let _ = run(&meanwhile, next).expect("nobody kills it");
                        let back = meanwhile.again(None, false);
                        back.state.borrow_mut().kms = true;
                        finish(&back, next, &first, &what);
                    }
                }
            }
            assert!(failed > 0, "{planes} {version} {}: the KMS was never missed", request.verb);
        }
    }
}

#[test]
fn nothing_is_touched_while_the_kms_is_away() {
    let world = World::start(1, NEW, Some(&kms_config(NEW)));
    world.state.borrow_mut().kms = false;
    let migrate = request(Verb::Migrate, Some(ProviderKind::Secretbox), &[]);
    let error = run(&world, &Command::Run(migrate)).unwrap().unwrap_err();
    assert!(matches!(&error, EncryptionError::Plugin { reason, .. } if reason.contains("sealed")), "{error}");
    assert_eq!(world.steps.get(), 0);
}
