//! Finding the engine as the docker command does, and greeting it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::Docker;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::error::classify;
use super::{Engine, EngineError};

/// Docker Engine 20.10's: the first with private cgroup namespaces on request.
const LOWEST_API: (u64, u64) = (1, 41);
const LOWEST_API_TEXT: &str = "1.41 (Docker Engine 20.10)";

/// How long an engine may take to answer the greeting.
const GREETING: Duration = Duration::from_secs(10);

impl Engine {
    /// Connects to the engine that `DOCKER_HOST`, `DOCKER_CONTEXT` or the docker command's current
    /// context names, else to the default socket, and settles the API version.
    ///
    /// # Errors
    /// [`EngineError`] if there is none, it does not answer, it may not be used, or it is too old.
    pub async fn connect() -> Result<Self, EngineError> {
        let host = host();
        // The greeting goes out on the socket itself first: "permission denied" is lost in an HTTP client's errors.
        if let Some(path) = host.strip_prefix("unix://")
            && let Err(error) = tokio::net::UnixStream::connect(path).await
        {
            return Err(match error.kind() {
                std::io::ErrorKind::PermissionDenied => EngineError::Permission { host },
                _ => EngineError::Unreachable { reason: error.to_string(), host },
            });
        }
        let docker = Docker::connect_with_host(&host)
            .map_err(|error| EngineError::Address { host: host.clone(), reason: error.to_string() })?;
        let greeting = tokio::time::timeout(GREETING, docker.version()).await;
        let version = greeting
            .map_err(|_| EngineError::Unreachable {
                host: host.clone(),
                reason: format!("no answer within {} s", GREETING.as_secs()),
            })?
            .map_err(|error| classify(&host, "greeting the engine".to_owned(), error))?;
        let found = version.api_version.unwrap_or_default();
        if parse_api(&found).is_none_or(|api| api < LOWEST_API) {
            return Err(EngineError::TooOld { host, found, needed: LOWEST_API_TEXT });
        }
        let docker = docker
            .negotiate_version()
            .await
            .map_err(|error| classify(&host, "settling the API version".to_owned(), error))?;
        Ok(Self { docker, host })
    }
}

fn parse_api(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The engine's address, by the docker command's own order of precedence.
fn host() -> String {
    let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    if let Some(host) = variable("DOCKER_HOST") {
        return host;
    }
    let folder = variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| etcetera::home_dir().ok().map(|home| home.join(".docker")));
    folder
        .and_then(|folder| context_host(&folder, variable("DOCKER_CONTEXT")))
        .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned())
}

/// The address of a docker context: docker keeps its metadata in a folder named by the sha256 of its name.
fn context_host(folder: &Path, chosen: Option<String>) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Meta {
        endpoints: std::collections::BTreeMap<String, Endpoint>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Endpoint {
        host: Option<String>,
    }
    let name = chosen.or_else(|| {
        let text = std::fs::read(folder.join("config.json")).ok()?;
        serde_json::from_slice::<Config>(&text).ok()?.current_context
    })?;
    let id: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = std::fs::read(folder.join("contexts/meta").join(id).join("meta.json")).ok()?;
    serde_json::from_slice::<Meta>(&text).ok()?.endpoints.remove("docker")?.host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_versions_compare_by_number() {
        assert!(parse_api("1.5").unwrap() < LOWEST_API);
        assert!(parse_api("1.100").unwrap() > LOWEST_API);
        assert_eq!(parse_api("nonsense"), None);
    }

    #[test]
    fn the_current_context_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let id: String = Sha256::digest(b"lab").iter().map(|byte| format!("{byte:02x}")).collect();
        let meta = folder.path().join("contexts/meta").join(id);
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(meta.join("meta.json"), r#"{"Name":"lab","Endpoints":{"docker":{"Host":"unix:///lab.sock"}}}"#)
            .unwrap();
        assert_eq!(context_host(folder.path(), None), None);
        std::fs::write(folder.path().join("config.json"), r#"{"currentContext":"lab"}"#).unwrap();
        assert_eq!(context_host(folder.path(), None).as_deref(), Some("unix:///lab.sock"));
        assert_eq!(context_host(folder.path(), Some("other".to_owned())), None);
    }
}
