//! Containers: making, starting, watching and removing them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, EndpointIpamConfig,
    EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum, NetworkingConfig, PortBinding, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::jiff::Timestamp;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::states::is_unknown_word;
use super::{Engine, EngineError};

/// How long a container that ends by itself may be without its network and yet be said to run.
const ENDING: Duration = Duration::from_secs(10);

/// How often it is looked at until then.
const AGAIN: Duration = Duration::from_millis(100);

/// How many containers this process is having made.
static MAKING: LazyLock<tokio::sync::watch::Sender<usize>> = LazyLock::new(|| tokio::sync::watch::Sender::new(0));

/// A container that is being made, until this is dropped.
struct Making;

impl Making {
    fn begin() -> Self {
        MAKING.send_modify(|count| *count += 1);
        Self
    }

    /// Waits until none is.
    async fn none() {
        // Its sender lives for as long as the process.
        let mut making = MAKING.subscribe();
        let _ = making.wait_for(|&count| count == 0).await;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        MAKING.send_modify(|count| *count -= 1);
    }
}

/// A container to be made.
#[derive(Debug, Clone, Default)]
pub struct ContainerSpec {
    /// Its name.
    pub name: String,
    /// Its host name, if that is not its name.
    pub hostname: Option<String>,
    /// The image's reference or id.
    pub image: String,
    /// What it runs, instead of what the image says.
    pub command: Option<Vec<String>>,
    /// The program and its arguments, instead of all that the image says.
    pub entrypoint: Option<Vec<String>>,
    /// Who runs it, instead of whom the image says.
    pub user: Option<String>,
    /// When it is started again by itself.
    pub restart: Restart,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// Environment, `NAME=value`.
    pub env: Vec<String>,
    /// The network to join.
    pub network: String,
    /// Fixed addresses; the engine chooses where there are none.
    pub ipv4: Option<Ipv4Addr>,
    /// A fixed IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
    /// Host paths, `host:container[:ro]`.
    pub binds: Vec<String>,
    /// Memory file systems.
    pub tmpfs: Vec<String>,
    /// Anonymous volumes.
    pub volumes: Vec<String>,
    /// Kernel settings of the container's own namespaces.
    pub sysctls: Vec<(String, String)>,
    /// How many processors' time it may use.
    pub cpus: Option<u32>,
    /// How many bytes of memory it may use, none of them swapped.
    pub memory: Option<u64>,
    /// Names that it knows by itself, `NAME:ADDRESS`.
    pub hosts: Vec<String>,
    /// Whether it gets all capabilities and devices.
    pub privileged: bool,
}

/// When a container is started again by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Restart {
    /// Once, if it fails: with the engine, and at no other time, as in kind.
    #[default]
    Once,
    /// Always, unless it was stopped.
    UnlessStopped,
}

/// A port of a container that is published on the engine's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// The port inside.
    pub container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The host's address.
    pub address: IpAddr,
    /// The host's port; 0 is a free one.
    pub host: u16,
}

/// Whether a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Runs.
    Running,
    /// Frozen.
    Paused,
    /// About to run again.
    Restarting,
    /// About to be gone.
    Removing,
    /// Has ended.
    Exited,
}

impl std::fmt::Display for ContainerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
        })
    }
}

/// A container as the engine lists it.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
    /// Whether it runs.
    pub state: ContainerState,
    /// The image's reference as given at creation.
    pub image: String,
    /// The image's id.
    pub image_id: String,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// IPv4 and IPv6 address on each network it belongs to.
    pub addresses: HashMap<String, (Option<Ipv4Addr>, Option<Ipv6Addr>)>,
    /// Container port to host address and port.
    pub ports: Vec<(u16, IpAddr, u16)>,
}

impl Engine {
    /// Makes a container. It does not run yet, but files can be put into it.
    ///
    /// The engine makes it, too, if nobody waits for it any more: then it is among [`Self::containers`].
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if the name is taken, others as they come.
    pub async fn create_container(&self, spec: ContainerSpec) -> Result<String, EngineError> {
        let name = spec.name.clone();
        let doing = || format!("making the container {name}");
        let docker = self.docker.clone();
        let making = Making::begin();
        // By itself, so that a caller who has had enough does not break off what the engine goes on with all the same.
        let request = tokio::spawn(async move {
            let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
            let made = docker.create_container(Some(options), body(spec)).await;
            drop(making);
            made
        });
        match request.await {
            Ok(made) => made.map(|made| made.id).map_err(|error| self.error(doing(), error)),
            Err(error) => Err(EngineError::Failed { doing: doing(), reason: error.to_string() }),
        }
    }

    /// Starts a container.
    ///
    /// # Errors
    /// [`EngineError::PortTaken`], [`EngineError::NotPrivileged`], others as they come.
    pub async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        self.docker.start_container(name, None::<StartContainerOptions>).await.map_err(|error| {
            match self.error(format!("starting the container {name}"), error) {
                EngineError::PortTaken { reason, .. } => EngineError::PortTaken { container: name.to_owned(), reason },
                other => other,
            }
        })
    }

    /// Asks a container's init to end, and kills it after `grace` seconds.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container; a stopped one is no error. [`EngineError::DoesNotEnd`] if it goes on
    /// although it was killed.
    pub async fn stop_container(&self, name: &str, grace: i32) -> Result<(), EngineError> {
        let options = StopContainerOptionsBuilder::default().t(grace).build();
        self.docker
            .stop_container(name, Some(options))
            .await
            .map_err(|error| self.ending_error(name, format!("stopping the container {name}"), error))
    }

    /// Lets a frozen container go on.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container, [`EngineError::Conflict`] if it is not frozen.
    pub async fn unpause_container(&self, name: &str) -> Result<(), EngineError> {
        let unpaused = self.docker.unpause_container(name).await;
        unpaused.map_err(|error| self.error(format!("letting the container {name} go on"), error))
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container, [`EngineError::Conflict`] if it does not run,
    /// [`EngineError::DoesNotEnd`] if it goes on although it was killed.
    pub async fn kill_container(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        self.docker
            .kill_container(name, Some(options))
            .await
            .map_err(|error| self.ending_error(name, format!("sending {signal} to the container {name}"), error))
    }

    /// Gives a container another name. Its host name stays.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if the name is taken, [`EngineError::NotFound`] if there is no such container.
    pub async fn rename_container(&self, container: &str, name: &str) -> Result<(), EngineError> {
        let deadline = tokio::time::Instant::now() + ENDING;
        loop {
            let options = RenameContainerOptionsBuilder::default().name(name).build();
            let result = self.docker.rename_container(container, options).await;
            match result.map_err(|error| self.error(format!("calling the container {container} {name}"), error)) {
                Err(EngineError::NotFound { reason, .. })
                    if lost_its_network(&reason) && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(AGAIN).await;
                }
                other => return other,
            }
        }
    }

    /// Removes a container, running or not, with its anonymous volumes. One that is gone, or about to be, is no error.
    ///
    /// # Errors
    /// [`EngineError::Failed`] if the engine cannot remove it, [`EngineError::DoesNotEnd`] if that is since it goes on although it was
    /// killed, [`EngineError::Unreachable`] if it does not answer.
    pub async fn remove_container(&self, name: &str) -> Result<(), EngineError> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.docker.remove_container(name, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) => match self.ending_error(name, format!("removing the container {name}"), error) {
                EngineError::NotFound { .. } => Ok(()),
                EngineError::Conflict { reason, .. } if reason.contains("already in progress") => Ok(()),
                other => Err(other),
            },
        }
    }

    /// All containers, running or not, that carry the label; `None` as its value takes any. Those that this process is just
    /// having made are waited for: whoever cleans up must not miss one.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer.
    pub async fn containers(&self, label: &str, value: Option<&str>) -> Result<Vec<Container>, EngineError> {
        let wanted = value.map_or_else(|| label.to_owned(), |value| format!("{label}={value}"));
        let filters = [("label".to_owned(), vec![wanted])].into();
        Making::none().await;
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let listed = match self.docker.list_containers(Some(options)).await {
            Err(error) if is_unknown_word(&error) => self.list_past_library(&filters).await?,
            listed => listed.map_err(|error| self.error("listing containers", error))?,
        };
        let mut found: Vec<_> = listed.into_iter().map(container).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// A container's addresses on `network`.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container.
    pub async fn addresses(
        &self,
        name: &str,
        network: &str,
    ) -> Result<(Option<Ipv4Addr>, Option<Ipv6Addr>), EngineError> {
        let details = self.details(name).await?;
        let networks = details.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        Ok(networks.get(network).map_or((None, None), endpoint_addresses))
    }

    /// The exit code of a container that does not run, or is about to be started again; `None` while it runs.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container.
    pub async fn exit_code(&self, name: &str) -> Result<Option<i64>, EngineError> {
        let details = self.details(name).await?;
        let state = details.state.unwrap_or_default();
        let runs = state.running == Some(true) && state.restarting != Some(true);
        Ok(if runs { None } else { state.exit_code })
    }

    /// When a container was started last, by the engine's clock; `None` if it never was.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container.
    pub async fn started_at(&self, name: &str) -> Result<Option<Timestamp>, EngineError> {
        let details = self.details(name).await?;
        let started = details.state.and_then(|state| state.started_at).unwrap_or_default();
        // Of one that never was, engines tell the year 1.
        Ok(started.parse().ok().filter(|at: &Timestamp| at.as_second() > 0))
    }

    /// The id of a container's image.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container.
    pub async fn image_of(&self, name: &str) -> Result<String, EngineError> {
        Ok(self.details(name).await?.image.unwrap_or_default())
    }

    async fn details(&self, name: &str) -> Result<ContainerInspectResponse, EngineError> {
        match self.docker.inspect_container(name, None::<InspectContainerOptions>).await {
            Err(error) if is_unknown_word(&error) => self.inspect_past_library(name).await,
            details => details.map_err(|error| self.error(format!("looking at the container {name}"), error)),
        }
    }

    /// What a container prints, from its start on, as it comes.
    pub fn follow_logs(&self, name: &str) -> impl Stream<Item = Result<Vec<u8>, EngineError>> + use<> {
        let options = LogsOptionsBuilder::default().follow(true).stdout(true).stderr(true).build();
        let (this, name) = (self.clone(), name.to_owned());
        self.docker
            .logs(&name, Some(options))
            .map(move |chunk| {
                chunk
                    .map(|chunk| chunk.into_bytes().to_vec())
                    .map_err(|error| this.error(format!("reading the log of {name}"), error))
            })
            .boxed()
    }

    /// The paths at which a container's files differ from its image's, but for those on its volumes.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container.
    pub async fn changes(&self, name: &str) -> Result<Vec<String>, EngineError> {
        let changes = self.docker.container_changes(name).await;
        let changes = changes.map_err(|error| self.error(format!("comparing {name} with its image"), error))?;
        Ok(changes.unwrap_or_default().into_iter().map(|change| change.path).collect())
    }

    /// All that the engine knows of a container, as `docker inspect` shows it.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container.
    pub async fn inspect(&self, name: &str) -> Result<String, EngineError> {
        let details = self.details(name).await?;
        Ok(serde_json::to_string_pretty(&[details]).unwrap_or_default())
    }

    /// Writes all that a container has printed.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container, [`EngineError::Failed`] if its log cannot be read, or written.
    pub async fn logs_into(&self, name: &str, mut to: impl AsyncWrite + Unpin) -> Result<(), EngineError> {
        let doing = format!("reading the log of {name}");
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let mut log = std::pin::pin!(self.docker.logs(name, Some(options)));
        while let Some(chunk) = log.next().await {
            let bytes = chunk.map_err(|error| self.error(doing.clone(), error))?.into_bytes();
            let written = to.write_all(&bytes).await;
            written.map_err(|error| EngineError::Failed { doing: doing.clone(), reason: error.to_string() })?;
        }
        Ok(())
    }

    /// The last `lines` lines that a container has printed.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if there is no such container, [`EngineError::Failed`] if its log cannot be read.
    pub async fn last_logs(&self, name: &str, lines: usize) -> Result<String, EngineError> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&lines.to_string()).build();
        let chunks: Vec<_> = self
            .docker
            .logs(name, Some(options))
            .try_collect()
            .await
            .map_err(|error| self.error(format!("reading the log of {name}"), error))?;
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk| chunk.into_bytes().to_vec()).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

fn body(spec: ContainerSpec) -> ContainerCreateBody {
    let key = |port: &PublishedPort| format!("{}/{}", port.container, port.protocol);
    let mut port_bindings: HashMap<String, Option<Vec<PortBinding>>> = HashMap::new();
    for port in &spec.ports {
        let binding = PortBinding {
            host_ip: Some(port.address.to_string()),
            host_port: Some(if port.host == 0 { String::new() } else { port.host.to_string() }),
        };
        port_bindings.entry(key(port)).or_default().get_or_insert_default().push(binding);
    }
    // The network itself is told by the mode; Podman refuses more than that of `none`.
    let fixed = (spec.ipv4.is_some() || spec.ipv6.is_some()).then(|| {
        let ipam_config = EndpointIpamConfig {
            ipv4_address: spec.ipv4.map(|address| address.to_string()),
            ipv6_address: spec.ipv6.map(|address| address.to_string()),
            link_local_ips: None,
        };
        let endpoint = EndpointSettings { ipam_config: Some(ipam_config), ..Default::default() };
        NetworkingConfig { endpoints_config: Some([(spec.network.clone(), endpoint)].into()) }
    });
    ContainerCreateBody {
        hostname: Some(spec.hostname.unwrap_or(spec.name)),
        image: Some(spec.image),
        cmd: spec.command,
        entrypoint: spec.entrypoint,
        user: spec.user,
        labels: Some(spec.labels.into_iter().collect()),
        env: Some(spec.env),
        tty: Some(true),
        exposed_ports: Some(port_bindings.keys().cloned().collect()),
        volumes: Some(spec.volumes),
        networking_config: fixed,
        host_config: Some(HostConfig {
            privileged: Some(spec.privileged),
            init: Some(false),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            security_opt: Some(vec!["seccomp=unconfined".to_owned(), "apparmor=unconfined".to_owned()]),
            network_mode: Some(spec.network),
            port_bindings: Some(port_bindings),
            binds: Some(spec.binds),
            tmpfs: Some(spec.tmpfs.into_iter().map(|path| (path, String::new())).collect()),
            sysctls: Some(spec.sysctls.into_iter().collect()),
            extra_hosts: Some(spec.hosts),
            nano_cpus: spec.cpus.map(|cpus| i64::from(cpus) * 1_000_000_000),
            memory: memory(spec.memory),
            memory_swap: memory(spec.memory),
            restart_policy: Some(match spec.restart {
                Restart::Once => {
                    RestartPolicy { name: Some(RestartPolicyNameEnum::ON_FAILURE), maximum_retry_count: Some(1) }
                }
                Restart::UnlessStopped => {
                    RestartPolicy { name: Some(RestartPolicyNameEnum::UNLESS_STOPPED), maximum_retry_count: None }
                }
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn memory(bytes: Option<u64>) -> Option<i64> {
    bytes.and_then(|bytes| i64::try_from(bytes).ok())
}

/// Whether it is not the container that the engine has not found, but what it has released of one that is just ending:
/// dockerd (`daemon/rename.go`) then asks libnetwork for a sandbox that is gone. Nothing but the text says so.
fn lost_its_network(reason: &str) -> bool {
    reason.starts_with("sandbox ") && reason.ends_with(" not found")
}

fn endpoint_addresses(endpoint: &EndpointSettings) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
    let parse = |text: &Option<String>| text.as_deref().filter(|text| !text.is_empty()).map(str::to_owned);
    (
        parse(&endpoint.ip_address).and_then(|text| text.parse().ok()),
        parse(&endpoint.global_ipv6_address).and_then(|text| text.parse().ok()),
    )
}

fn container(summary: ContainerSummary) -> Container {
    let name = summary.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let ports = summary
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|port| Some((port.private_port, port.ip?.parse().ok()?, port.public_port?)));
    Container {
        id: summary.id.unwrap_or_default(),
        name: name.trim_start_matches('/').to_owned(),
        labels: summary.labels.unwrap_or_default(),
        state: match summary.state {
            // One that is about to end has its address and its name for as long as it does.
            Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::STOPPING) => ContainerState::Running,
            Some(ContainerSummaryStateEnum::PAUSED) => ContainerState::Paused,
            Some(ContainerSummaryStateEnum::RESTARTING) => ContainerState::Restarting,
            Some(ContainerSummaryStateEnum::REMOVING) => ContainerState::Removing,
            Some(ContainerSummaryStateEnum::CREATED) => ContainerState::Created,
            _ => ContainerState::Exited,
        },
        image: summary.image.unwrap_or_default(),
        image_id: summary.image_id.unwrap_or_default(),
        created: summary.created.unwrap_or_default(),
        addresses: summary
            .network_settings
            .and_then(|settings| settings.networks)
            .unwrap_or_default()
            .iter()
            .map(|(network, endpoint)| (network.clone(), endpoint_addresses(endpoint)))
            .collect(),
        ports: ports.collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// An engine that gives these answers, one a connection, and then no more.
    fn engine(answers: &'static [(u16, &'static str)]) -> (tempfile::TempDir, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            for (status, message) in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await;
                let body = if *status == 204 { String::new() } else { format!(r#"{{"message": "{message}"}}"#) };
                let head = format!("HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Type: application/json\r\n");
                let length = format!("Content-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all([head, length, body].concat().as_bytes()).await;
            }
        });
        let host = format!("unix://{}", socket.display());
        let docker = bollard::Docker::connect_with_unix(&host, 10, bollard::API_DEFAULT_VERSION).unwrap();
        (folder, Engine { docker, host, greeting: Arc::default() })
    }

    /// An engine that takes its time to make a container, and answers everything else at once: it has no containers. Tells
    /// when it has made one.
    fn slow_engine() -> (tempfile::TempDir, Engine, Arc<AtomicBool>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let made = Arc::new(AtomicBool::new(false));
        let has_made = made.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let made = has_made.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).await.unwrap_or_default();
                    let (status, body) = if request[..length].starts_with(b"POST") {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        made.store(true, Ordering::SeqCst);
                        (201, r#"{"Id": "a", "Warnings": []}"#)
                    } else {
                        (200, "[]")
                    };
                    let head =
                        format!("HTTP/1.1 {status} -\r\nConnection: close\r\nContent-Type: application/json\r\n");
                    let length = format!("Content-Length: {}\r\n\r\n", body.len());
                    let _ = stream.write_all([head.as_str(), length.as_str(), body].concat().as_bytes()).await;
                });
            }
        });
        let host = format!("unix://{}", socket.display());
        let docker = bollard::Docker::connect_with_unix(&host, 10, bollard::API_DEFAULT_VERSION).unwrap();
        (folder, Engine { docker, host, greeting: Arc::default() }, made)
    }

    #[tokio::test]
    async fn a_list_waits_for_a_container_that_nobody_waits_for_any_more() {
        let (_folder, engine, made) = slow_engine();
        let creating = engine.create_container(ContainerSpec { name: "a".to_owned(), ..ContainerSpec::default() });
        // What Ctrl-C does.
        assert!(tokio::time::timeout(Duration::from_millis(50), creating).await.is_err());
        assert!(!made.load(Ordering::SeqCst));
        assert!(engine.containers("label", None).await.unwrap().is_empty());
        assert!(made.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_container_that_is_just_ending_gets_its_name() {
        let (_folder, engine) =
            engine(&[(404, "sandbox 0fbace not found"), (404, "sandbox 0fbace not found"), (204, "")]);
        engine.rename_container("a", "b").await.unwrap();
    }

    #[tokio::test]
    async fn a_container_that_is_not_there_is_not_waited_for() {
        let (_folder, engine) = engine(&[(404, "No such container: a"), (204, "")]);
        assert!(engine.rename_container("a", "b").await.unwrap_err().is_not_found());
    }
}
