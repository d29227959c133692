//! The Docker Engine, as kprov uses it: a thin layer over bollard.
//!
//! Owns the connection, the mapping of the engine's answers to errors that say what
//! to do, and kprov's few ways of using containers, images, networks and archives.
//! Knows nothing of profiles, Kubernetes or what runs in a container.

mod archive;
mod connect;
mod containers;
mod error;
mod exec;
mod images;
mod networks;
mod ssh;
mod states;

use std::sync::Arc;

use bollard::Docker;
use k8s_openapi::jiff::Timestamp;

pub use containers::{Container, ContainerSpec, ContainerState, PublishedPort, Restart};
pub use error::EngineError;
pub use exec::{ExecOutput, ExecSpec, Terminal};
pub use images::Image;
pub use networks::Network;

/// A connection to a Docker Engine. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    docker: Docker,
    host: String,
    greeting: Arc<Greeting>,
}

/// What an engine has answered when it was greeted, which it is not asked again.
#[derive(Debug, Default)]
struct Greeting {
    version: String,
    api_version: String,
    is_podman: bool,
}

/// What an engine says of itself.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// What it calls itself, for as long as its data folder lives; empty if it does not.
    pub id: String,
    /// Engine version, such as `26.1.5`.
    pub version: String,
    /// Highest API version that it speaks, such as `1.45`.
    pub api_version: String,
    /// `1` or `2`.
    pub cgroup_version: String,
    /// The processors' architecture, such as `x86_64`.
    pub architecture: String,
    /// Storage driver.
    pub storage_driver: String,
    /// Where it keeps its data, on the engine's host.
    pub root_dir: String,
    /// Number of processors.
    pub cpus: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Whether it runs without root.
    pub rootless: bool,
}

impl Engine {
    /// The address of the engine, as in `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// An engine that takes every request and never answers, and the folder of its socket.
    #[cfg(test)]
    pub(crate) fn silent() -> (tempfile::TempDir, Self) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // Kept open for as long as the tests run.
        std::mem::forget(listener);
        let host = format!("unix://{}", socket.display());
        let docker = Docker::connect_with_unix(&host, 3600, bollard::API_DEFAULT_VERSION).unwrap();
        (folder, Self { docker, host, greeting: Arc::default() })
    }

    /// Whether the engine runs on this host, so that its published ports and disks are ours to look at.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with("unix://") || self.host.starts_with("npipe://")
    }

    /// Asks the engine about itself.
    ///
    /// # Errors
    /// [`EngineError`] if it does not answer.
    pub async fn info(&self) -> Result<EngineInfo, EngineError> {
        let info = self.docker.info().await.map_err(|error| self.error("asking the engine about itself", error))?;
        let Greeting { version, api_version, is_podman } = &*self.greeting;
        // Podman makes an id up for each answer.
        let id = if *is_podman {
            podman_id(info.name.as_deref(), info.docker_root_dir.as_deref(), &self.host)
        } else {
            info.id.unwrap_or_default()
        };
        Ok(EngineInfo {
            id,
            version: version.clone(),
            api_version: api_version.clone(),
            cgroup_version: info.cgroup_version.map(|version| version.to_string()).unwrap_or_default(),
            architecture: info.architecture.unwrap_or_default(),
            storage_driver: info.driver.unwrap_or_default(),
            root_dir: info.docker_root_dir.unwrap_or_default(),
            cpus: info.ncpu.unwrap_or_default(),
            memory: info.mem_total.unwrap_or_default(),
            rootless: info.security_options.unwrap_or_default().iter().any(|option| option.contains("name=rootless")),
        })
    }

    /// All that the engine says of itself and its host, as `docker info` does.
    ///
    /// # Errors
    /// [`EngineError`] if it does not answer.
    pub async fn describe(&self) -> Result<String, EngineError> {
        let info = self.docker.info().await.map_err(|error| self.error("asking the engine about itself", error))?;
        Ok(serde_json::to_string_pretty(&info).unwrap_or_default())
    }

    /// The time by the engine's clock, which is that of all its containers, and need not be this host's. Whatever is
    /// compared with times that nodes or containers have noted is taken from here.
    ///
    /// # Errors
    /// [`EngineError`] if the engine does not answer, or does not tell its time.
    pub async fn now(&self) -> Result<Timestamp, EngineError> {
        const DOING: &str = "asking the engine for its time";
        let info = self.docker.info().await.map_err(|error| self.error(DOING, error))?;
        let told = info.system_time.unwrap_or_default();
        told.parse().map_err(|_| EngineError::Failed { doing: DOING.to_owned(), reason: format!("it says {told:?}") })
    }
}

/// What Podman is known by: its host's name, its store, and the way to it. Empty if it does not tell.
fn podman_id(name: Option<&str>, store: Option<&str>, host: &str) -> String {
    match (name, store) {
        (Some(name), Some(store)) if !name.is_empty() && !store.is_empty() => format!("podman {name} {store} {host}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_podman_is_known_by_what_stays() {
        assert_eq!(podman_id(Some("vm"), Some("/s"), "unix:///p"), "podman vm /s unix:///p");
        assert_eq!(podman_id(Some("vm"), None, "unix:///p"), "", "and else is not known to be the same one");
        assert_eq!(podman_id(Some(""), Some("/s"), "unix:///p"), "");
    }
}
