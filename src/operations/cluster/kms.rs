//! The KMS of a cluster: the plugin's files for control planes, and the server beside the cluster where a profile asks for
//! one.
//!
//! The server is a container of its own, which outlives the nodes: `reset` and snapshots go back to the same keys. All that is
//! secret of it stays in it, but for what the plugin logs in by.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use crate::adapters::engine::{ContainerSpec, ContainerState, Engine, EngineError, ExecOutput, ExecSpec, Restart};
use crate::adapters::kms_plugin;
use crate::adapters::node::{Node, NodeError, last_lines};
use crate::adapters::program;
use crate::adapters::states::States;
use crate::documents::certificates::server_identity;
use crate::documents::files::{FileEntry, pack};
use crate::documents::keys::{KeyMaterial, KeyRing, ProviderKind, secret};
use crate::documents::names::ClusterName;
use crate::documents::profile::{Encryption, EncryptionProvider, Kms, KmsHolder, Profile, Role};
use crate::documents::record::Record;
use crate::documents::render::{self, Inputs, PLUGIN_FOLDER};

use super::balancer;
use super::discover;
use super::image::have_image;
use super::{ClusterError, Context, ControlPlanes, LABEL_SERVER};

/// The image of OpenBao.
const OPENBAO: &str = "docker.io/openbao/openbao:2.7.2";

/// The variable that names the program `bao`, for hosts that reach no registry: it then runs in a node image.
const OPENBAO_VARIABLE: &str = "KPROV_OPENBAO";

/// The server's folder.
const FOLDER: &str = "/kprov/openbao";

/// The key there.
const TRANSIT_KEY: &str = "transit/keys/kprov";

/// How long the server may take to set itself up.
const SETUP: Duration = Duration::from_secs(60);

/// How often it is asked meanwhile: each time is a process of the server's size.
const ASK: Duration = Duration::from_millis(300);

/// How long `bao` may take for one thing that it is asked.
const COMMAND: Duration = Duration::from_secs(30);

/// How long a plugin may take to say how it is: longer than its KMS may.
const ASKED: Duration = Duration::from_secs(15);

/// Does something on the server as who administers the key. That login is the last thing that the server sets up, so that
/// it tells when all is there.
const ADMINISTER: &str = include_str!("scripts/administer.sh");

/// Makes way for a plugin on a node that runs, starts it, or takes it away.
const BRING: &str = include_str!("scripts/bring_plugin.sh");

/// The files that kprov's own plugin needs on a control plane, the program among them; none without such a plugin.
///
/// # Errors
/// [`ClusterError::Render`], or [`ClusterError::Program`] if this kprov does not run in the engine's nodes.
pub(super) async fn plugin_files(context: &Context, inputs: &Inputs<'_>) -> Result<Vec<FileEntry>, ClusterError> {
    let files = render::kms_files(inputs)?;
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let architecture = context.engine.info().await?.architecture;
    let mut entries = program::files(&architecture, PLUGIN_FOLDER)?;
    entries.extend(files.into_iter().map(|file| FileEntry::new(file.path, file.mode, file.content.as_bytes())));
    Ok(entries)
}

/// A server that a cluster needs.
pub(super) enum Server {
    /// It is there, and has the cluster's keys.
    There,
    /// It has to be made, with these files.
    New(Box<New>),
}

/// A server to be made.
pub(super) struct New {
    image: Option<String>,
    files: Vec<FileEntry>,
}

/// Finds out whether a cluster needs a server, and gives the key ring what the plugin logs in there by. Nothing is made yet.
///
/// # Errors
/// [`ClusterError::Engine`], [`ClusterError::Pki`], or [`ClusterError::Key`].
pub(super) async fn prepare(
    context: &Context,
    cluster: &ClusterName,
    profile: &Profile,
    keys: &mut Option<KeyRing>,
) -> Result<Option<Server>, ClusterError> {
    let Some((kms, KmsHolder::Server(_))) = profile.kms().and_then(|kms| Some((kms, kms.holder()?))) else {
        return Ok(None);
    };
    let Some(ring) = keys else { return Ok(None) };
    let name = render::kms_server_name(cluster);
    if ring.kms_secret(secret::SECRET_ID).is_some() && find(&context.engine, cluster).await?.is_some() {
        // The cluster may have been under another server meanwhile.
        let kept = |(own, name): (&str, &str)| Some((name.to_owned(), ring.kms_secret(own)?.clone()));
        let kept: Vec<_> = secret::OWN_SERVER.into_iter().filter_map(kept).collect();
        ring.add_kms(kept);
        return Ok(Some(Server::There));
    }
    let (authority, identity) = server_identity("kms-ca", &name)?;
    let random = |bytes: &KeyMaterial| KeyMaterial::from_text(&hex::encode(bytes.bytes()));
    let (plugin, admin, seal) =
        (random(&KeyMaterial::generate()?), random(&KeyMaterial::generate()?), KeyMaterial::generate()?);
    let file = |name: &str, content: &[u8]| FileEntry::new(format!("{FOLDER}/{name}"), 0o600, content);
    let mut files = vec![
        file("config.hcl", render::kms_server_config().as_bytes()),
        file("ca.crt", authority.as_bytes()),
        file("server.crt", identity.certificate.as_bytes()),
        file("server.key", identity.key.as_bytes()),
        file("seal.key", seal.bytes()),
        file("plugin.secret", plugin.bytes()),
        file("admin.secret", admin.bytes()),
    ];
    let image = match std::env::var_os(OPENBAO_VARIABLE).filter(|path| !path.is_empty()) {
        Some(path) => {
            let bytes = std::fs::read(&path)
                .map_err(|error| ClusterError::OpenBao { path: path.into(), reason: error.to_string() })?;
            files.push(FileEntry::new("/usr/local/bin/bao", 0o755, bytes));
            None
        }
        None => Some(kms.server_image.clone().unwrap_or_else(|| OPENBAO.to_owned())),
    };
    let values = [KeyMaterial::from_text(&authority), KeyMaterial::from_text("plugin"), plugin];
    for ((own, name), value) in secret::OWN_SERVER.into_iter().zip(values) {
        ring.add_kms([(own.to_owned(), value.clone()), (name.to_owned(), value)]);
    }
    Ok(Some(Server::New(Box::new(New { image, files }))))
}

/// Whether the cluster of `record` has a server beside it.
fn has_server(record: &Record) -> bool {
    matches!(record.profile.kms().and_then(Kms::holder), Some(KmsHolder::Server(_)))
}

/// Holds that a state of the cluster can be read: without its server, nobody can.
///
/// # Errors
/// [`ClusterError::ServerGone`] if the cluster has a server and that is not there; [`ClusterError::Engine`] if the engine
/// cannot be asked.
pub(super) async fn require(context: &Context, record: &Record) -> Result<(), ClusterError> {
    if has_server(record) && find(&context.engine, &record.name).await?.is_none() {
        return Err(ClusterError::ServerGone { name: render::kms_server_name(&record.name) });
    }
    Ok(())
}

/// Starts the server of a cluster, if it has one and that does not run.
///
/// # Errors
/// [`ClusterError::Server`] if it does not come up.
pub(super) async fn wake(context: &Context, record: &Record) -> Result<(), ClusterError> {
    if has_server(record) { ensure(context, &record.name, record.network(), "", &Server::There).await } else { Ok(()) }
}

/// Warns if a plugin of a cluster that runs says that its KMS, which is somebody else's, does not work: who goes back to a state
/// would wait in vain for an API server. One that kprov has beside the cluster is started anyway.
pub(super) async fn warn_if_ill(context: &Context, record: &Record) {
    if has_server(record) || !record.profile.kms().is_some_and(Kms::is_own) {
        return;
    }
    // Nodes that do not run tell nothing: that is what a state may be gone back to for.
    let Ok(found) = discover::find(&context.engine, Some(&record.name)).await else { return };
    let Ok(nodes) = found.control_planes(&context.engine) else { return };
    let node = nodes.first();
    if let Ok(Ok(Ok(report))) = tokio::time::timeout(ASKED, kms_plugin::report(node)).await
        && let Some(problem) = report.problem
    {
        context.reporter.warn(&format!(
            "The KMS does not work: {problem} ({}). An API server that starts without it reads nothing that it has encrypted, and is not ready.",
            node.name
        ));
    }
}

/// Holds that the plugin on the host that a node is to ask works; nothing to do without one. Otherwise an API server would be
/// waited for in vain, and at length.
///
/// # Errors
/// [`ClusterError::PluginOnHost`] if it does not.
pub(super) async fn ask_host(profile: &Profile, node: &Node) -> Result<(), ClusterError> {
    let Some(folder) = profile.kms_on_host().filter(|_| node.role == Role::ControlPlane) else { return Ok(()) };
    let begun = Instant::now();
    loop {
        let problem = match kms_plugin::report(node).await? {
            Ok(report) => report.problem,
            Err(silent) => Some(silent),
        };
        let Some(reason) = problem else { return Ok(()) };
        // Who has just been started may not answer yet.
        if begun.elapsed() > ASKED {
            return Err(ClusterError::PluginOnHost { node: node.name.clone(), folder: folder.to_owned(), reason });
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Makes a server, or starts one that is there, and waits until it works. The network has to be there.
///
/// # Errors
/// [`ClusterError::Server`] with its last lines if it does not come up.
pub(super) async fn ensure(
    context: &Context,
    cluster: &ClusterName,
    network: &str,
    node_image: &str,
    server: &Server,
) -> Result<(), ClusterError> {
    let name = render::kms_server_name(cluster);
    let step = context.reporter.step(&name, "Starting the KMS server");
    if let Server::New(new) = server {
        remove(&context.engine, cluster).await?;
        let image = match &new.image {
            Some(reference) => have_image(context, reference).await?.id,
            None => node_image.to_owned(),
        };
        let made = context.engine.create_container(spec(cluster, network, &name, image)).await?;
        context.engine.put_archive(&made, pack(&new.files)).await?;
    }
    context.engine.start_container(&name).await?;
    let begun = Instant::now();
    let reason = loop {
        match administer(context, cluster, &[]).await {
            Ok(_) => {
                step.done();
                return Ok(());
            }
            Err(ClusterError::Server { reason, .. }) if begun.elapsed() > SETUP => break reason,
            Err(ClusterError::Server { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(code) = context.engine.exit_code(&name).await? {
            break format!("it ended with code {code}");
        }
        tokio::time::sleep(ASK).await;
    };
    let log = context.engine.last_logs(&name, 20).await.unwrap_or_default();
    Err(ClusterError::Server { name, reason, last_lines: last_lines(&log, 10) })
}

/// Runs `bao` with these arguments in the server's container, logged in as who administers the key; gives what it prints.
///
/// # Errors
/// [`ClusterError::Server`] if it fails, or does not end.
async fn administer(context: &Context, cluster: &ClusterName, arguments: &[&str]) -> Result<String, ClusterError> {
    let name = render::kms_server_name(cluster);
    let words = ["sh", "-euc", ADMINISTER, "administer"].iter().chain(arguments);
    let command = words.map(|&word| word.to_owned()).collect();
    let output = run(&context.engine, &name, command).await?;
    match output.code {
        0 => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => Err(failed(&name, last_lines(&String::from_utf8_lossy(&output.stderr), 3))),
    }
}

/// Runs a command in a server's container, but not for ever: one that is stuck would let everybody wait.
async fn run(engine: &Engine, name: &str, command: Vec<String>) -> Result<ExecOutput, ClusterError> {
    let running = engine.exec(name, ExecSpec { command, ..ExecSpec::default() });
    match tokio::time::timeout(COMMAND, running).await {
        Err(_) => Err(failed(name, format!("`bao` has not ended there within {} s", COMMAND.as_secs()))),
        Ok(Err(error)) if error.is_not_found() => Err(failed(name, "there is no such container".to_owned())),
        // It does not run (any more).
        Ok(Err(EngineError::NotRunning { reason, .. })) => Err(failed(name, reason)),
        Ok(ended) => Ok(ended?),
    }
}

fn failed(name: &str, reason: String) -> ClusterError {
    ClusterError::Server { name: name.to_owned(), reason, last_lines: String::new() }
}

/// The server of a cluster.
pub(super) async fn find(engine: &Engine, cluster: &ClusterName) -> Result<Option<ContainerState>, ClusterError> {
    let found = engine.containers(LABEL_SERVER, Some(cluster)).await?;
    Ok(found.first().map(|container| container.state))
}

/// Removes the server of a cluster, with its keys.
async fn remove(engine: &Engine, cluster: &ClusterName) -> Result<usize, ClusterError> {
    let found = engine.containers(LABEL_SERVER, Some(cluster)).await?;
    for container in &found {
        engine.remove_container(&container.id).await?;
    }
    Ok(found.len())
}

/// It has no label of kind's, whose tools would take it for a node.
fn spec(cluster: &ClusterName, network: &str, name: &str, image: String) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        image,
        entrypoint: Some(["bao", "server", "-config=/kprov/openbao/config.hcl"].map(str::to_owned).to_vec()),
        labels: vec![(LABEL_SERVER.to_owned(), cluster.to_string())],
        env: vec![
            format!("BAO_ADDR=https://127.0.0.1:{}", render::KMS_SERVER_PORT),
            "BAO_CACERT=/kprov/openbao/ca.crt".to_owned(),
        ],
        user: Some("0".to_owned()),
        network: network.to_owned(),
        volumes: vec![format!("{FOLDER}/data")],
        restart: Restart::UnlessStopped,
        ..ContainerSpec::default()
    }
}

/// How a key was rotated.
pub enum KmsRotation {
    /// kprov has rotated it.
    Rotated,
    /// The KMS is somebody else's.
    NotOurs,
}

/// Brings kprov's own plugin for `kms` to control planes that run: its server, its login, the program; and starts it.
///
/// # Errors
/// [`ClusterError::NoRecord`] if kprov did not make the cluster, [`ClusterError::NoMount`] and [`ClusterError::MountInTheWay`] if its
/// nodes were made for a plugin elsewhere; whatever the plugin or its server lack.
pub async fn install_kms(
    context: &Context,
    cluster: &ClusterName,
    kms: &Kms,
    base: &Path,
    nodes: &ControlPlanes,
) -> Result<(), ClusterError> {
    let store = context.store();
    let Some(mut record) = store.load(cluster)? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    for node in nodes.iter() {
        let mounted = node.try_output(&["mountpoint", "-q", render::PLUGIN_SOCKET_FOLDER], None).await?.code == 0;
        match kms.holder() {
            Some(KmsHolder::Host(folder)) if !mounted => {
                return Err(ClusterError::NoMount { node: node.name.clone(), folder: folder.to_owned() });
            }
            Some(KmsHolder::Host(_)) => {}
            // The one on the host would be asked in its stead.
            _ if mounted => return Err(ClusterError::MountInTheWay { node: node.name.clone() }),
            _ => {}
        }
    }
    let provider = EncryptionProvider { kind: ProviderKind::Kms, keys: Vec::new(), kms: Some(kms.clone()) };
    let encryption = Encryption { providers: vec![provider], resources: Vec::new() };
    let mut ring = store.load_keys(cluster)?.unwrap_or_default();
    ring.add_kms(encryption.resolve(base)?.kms().to_vec());
    // As if the cluster had been made so; what is written down is what the walk leads to.
    record.profile.spec.encryption = Some(encryption);
    let mut keys = Some(ring);
    let server = prepare(context, cluster, &record.profile, &mut keys).await?;
    if let Some(ring) = &keys {
        // First: what was made and is not known is lost.
        store.save_keys(cluster, ring)?;
    }
    if let Some(server) = &server {
        ensure(context, cluster, record.network(), &record.image_id, server).await?;
    }
    let version = record.version.parse()?;
    let inputs = record.inputs(&version, keys.as_ref(), &context.templates, false);
    let files = plugin_files(context, &inputs).await?;
    try_join_all(nodes.iter().map(|node| bring(node, &files))).await?;
    balancer::tell(context, &record).await
}

/// Puts the plugin into a node that runs, and starts it.
async fn bring(node: &Node, files: &[FileEntry]) -> Result<(), ClusterError> {
    node.run(&["sh", "-euc", BRING, "bring", "prepare"]).await?;
    node.put_files(files).await?;
    node.run(&["sh", "-euc", BRING, "bring", "start"]).await?;
    Ok(())
}

/// Takes kprov's own plugin away from a node that runs, with all that it has there. None is no error.
///
/// # Errors
/// [`NodeError`] if the node does not do so.
pub async fn remove_kms_plugin(node: &Node) -> Result<(), NodeError> {
    node.run(&["sh", "-euc", BRING, "bring", "remove"]).await.map(drop)
}

/// Rotates the key of a KMS that is kprov's own. Everything that was wrapped can still be unwrapped.
///
/// # Errors
/// [`ClusterError::NoRecord`] if kprov did not make the cluster, [`ClusterError::Server`] if its server refuses.
pub async fn rotate_kms(
    context: &Context,
    cluster: &ClusterName,
    nodes: &ControlPlanes,
) -> Result<KmsRotation, ClusterError> {
    let store = context.store();
    let Some(record) = store.load(cluster)? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    match record.profile.kms().and_then(Kms::holder) {
        Some(KmsHolder::Server(_)) => {
            administer(context, cluster, &["write", "-f", &format!("{TRANSIT_KEY}/rotate")]).await?;
            Ok(KmsRotation::Rotated)
        }
        Some(KmsHolder::Local(_)) => {
            rotate_local(context, &record, nodes).await?;
            Ok(KmsRotation::Rotated)
        }
        Some(KmsHolder::Vault(_) | KmsHolder::Host(_) | KmsHolder::Foreign(_)) | None => Ok(KmsRotation::NotOurs),
    }
}

/// Has a KMS that is kprov's own give up all versions of its key but the one with this id. Says what that means; `None` if the
/// KMS is somebody else's. Nothing in etcd may need them any more: that is the caller's part.
///
/// # Errors
/// As of [`rotate_kms`]; [`ClusterError::Snapshot`] if the golden state, which could not be read any more, cannot be forgotten.
pub async fn retire_kms(
    context: &Context,
    cluster: &ClusterName,
    nodes: &ControlPlanes,
    id: &str,
) -> Result<Option<String>, ClusterError> {
    let store = context.store();
    let Some(record) = store.load(cluster)? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    match record.profile.kms().and_then(Kms::holder) {
        Some(KmsHolder::Server(_)) => {
            let name = render::kms_server_name(cluster);
            let version = id.strip_prefix("vault-v").and_then(|rest| rest.split_once('-')?.0.parse::<u64>().ok());
            let Some(version) = version else {
                let reason = format!("{id} names no version of its key");
                return Err(ClusterError::Server { name, reason, last_lines: String::new() });
            };
            let states = States::at(&context.paths);
            // First: one that cannot be read any more is of no use, but whoever has none makes the cluster anew.
            states.forget_golden(cluster)?;
            let minimum = format!("min_decryption_version={version}");
            administer(context, cluster, &["write", &format!("{TRANSIT_KEY}/config"), &minimum]).await?;
            let of_before = states.list().0.into_iter().filter(|state| state.manifest.record.name == *cluster);
            let names: Vec<String> = of_before.filter_map(|state| state.name).map(|name| name.to_string()).collect();
            let snapshots = match &names[..] {
                [] => String::new(),
                names => {
                    format!(" What these snapshots hold under a KMS cannot be read any more: {}.", names.join(", "))
                }
            };
            Ok(Some(format!(
                "{name} has given up all versions before {version}.{snapshots} `kprov reset` makes the cluster anew from its profile."
            )))
        }
        Some(KmsHolder::Local(_)) => {
            let mut ring = store.load_keys(cluster)?.unwrap_or_default();
            let (mut first, mut keys) = (true, ring.kms().to_vec());
            keys.retain(|(name, _)| !name.starts_with(secret::LOCAL) || std::mem::take(&mut first));
            ring.keep_kms(keys);
            give_keys(nodes, &ring).await?;
            // Last: as long as a node may hold them, they are known.
            store.save_keys(cluster, &ring)?;
            Ok(Some(
                "The old keys are gone from the control planes and from kprov's keys; states of before hold their own."
                    .to_owned(),
            ))
        }
        Some(KmsHolder::Vault(_) | KmsHolder::Host(_) | KmsHolder::Foreign(_)) | None => Ok(None),
    }
}

/// Gives the plugins of the provider `local` their keys.
async fn give_keys(nodes: &ControlPlanes, ring: &KeyRing) -> Result<(), NodeError> {
    let content = render::kms_key_file(ring);
    let each = nodes.iter().map(|node| node.replace_file(render::PLUGIN_KEYS, 0o600, content.as_bytes()));
    try_join_all(each).await.map(drop)
}

/// Gives the provider `local` a new key: first everywhere as a reader, then as the one that wraps.
async fn rotate_local(context: &Context, record: &Record, nodes: &ControlPlanes) -> Result<(), ClusterError> {
    let store = context.store();
    let mut ring = store.load_keys(&record.name)?.unwrap_or_default();
    let mut keys = ring.kms().to_vec();
    let number = |name: &str| name.strip_prefix(secret::LOCAL).and_then(|number| number.parse::<u64>().ok());
    let next = keys.iter().filter_map(|(name, _)| number(name)).max().unwrap_or(0) + 1;
    keys.push((format!("{}{next}", secret::LOCAL), KeyMaterial::generate()?));
    for first in [false, true] {
        if first {
            keys.rotate_right(1);
        }
        ring.keep_kms(keys.clone());
        // Kept before anything is wrapped by it.
        store.save_keys(&record.name, &ring)?;
        give_keys(nodes, &ring).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_stuck_is_not_waited_for_without_end() {
        let (_folder, engine) = Engine::silent();
        let Err(error) = run(&engine, "c-kms", vec!["bao".to_owned()]).await else { panic!("it has answered") };
        assert!(matches!(error, ClusterError::Server { .. }));
        assert!(error.to_string().contains("c-kms does not work: `bao` has not ended there within 30 s"), "{error}");
    }
}
