//! Finding the engine as the docker command does, and greeting it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::error::classify;
use super::{Engine, EngineError, Greeting};

/// Docker Engine 20.10's: the first with private cgroup namespaces on request.
const LOWEST_API: (u64, u64) = (1, 41);
const LOWEST_API_TEXT: &str = "1.41 (Docker Engine 20.10)";

/// Where an engine of this host listens.
const DEFAULT: &str = "unix:///var/run/docker.sock";

/// How long, in seconds, an engine may take to begin an answer; the client's own default.
const TIMEOUT: u64 = 120;

/// How long an engine may take to answer the greeting, and how long where ssh has to log in first.
const GREETING: Duration = Duration::from_secs(10);
const SSH_GREETING: Duration = Duration::from_secs(30);

impl Engine {
    /// Connects to the engine that `DOCKER_HOST`, `DOCKER_CONTEXT` or the docker command's current
    /// context names, else to the default socket, and greets it.
    ///
    /// # Errors
    /// [`EngineError::Context`] if there is no such context, others if there is no engine, it does not answer, it may
    /// not be used, or it is too old.
    pub async fn connect() -> Result<Self, EngineError> {
        Self::at(endpoint(|name| std::env::var(name).ok(), etcetera::home_dir().ok())?).await
    }

    async fn at(endpoint: Endpoint) -> Result<Self, EngineError> {
        let host = endpoint.host.clone();
        // The greeting goes out on the socket itself first: "permission denied" is lost in an HTTP client's errors.
        if let Some(path) = host.strip_prefix("unix://")
            && let Err(error) = tokio::net::UnixStream::connect(path).await
        {
            return Err(match error.kind() {
                std::io::ErrorKind::PermissionDenied => EngineError::Permission { host },
                _ => EngineError::Unreachable { reason: error.to_string(), host },
            });
        }
        let docker = endpoint.connect()?;
        let patience = if host.starts_with("ssh://") { SSH_GREETING } else { GREETING };
        let greeting = tokio::time::timeout(patience, docker.version()).await;
        let version = greeting
            .map_err(|_| EngineError::Unreachable {
                host: host.clone(),
                reason: format!("no answer within {} s", patience.as_secs()),
            })?
            .map_err(|error| classify(&host, "greeting the engine".to_owned(), error))?;
        let components = version.components.unwrap_or_default();
        let greeting = Greeting {
            version: version.version.unwrap_or_default(),
            api_version: version.api_version.unwrap_or_default(),
            is_podman: components.iter().any(|component| component.name == "Podman Engine"),
        };
        // Nothing is to be settled: the client names no version in what it asks, and an engine then speaks its own.
        if parse_api(&greeting.api_version).is_none_or(|api| api < LOWEST_API) {
            return Err(EngineError::TooOld { host, found: greeting.api_version, needed: LOWEST_API_TEXT });
        }
        Ok(Self { docker, host, greeting: Arc::new(greeting) })
    }
}

fn parse_api(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Where an engine is, and how it and we prove who we are.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    host: String,
    /// The folder of `ca.pem`, `cert.pem` and `key.pem`, if nothing is to be said in the clear.
    certificates: Option<PathBuf>,
}

impl Endpoint {
    /// An endpoint of the docker command's environment. `https://` is never spoken to without certificates.
    fn new(host: String, certificates: Option<PathBuf>) -> Self {
        // A socket of this host has no use for them.
        let certificates = certificates.filter(|_| host.starts_with("tcp://") || host.starts_with("https://"));
        Self { host, certificates }
    }

    fn connect(&self) -> Result<Docker, EngineError> {
        let fail = |reason: String| EngineError::Address { host: self.host.clone(), reason };
        if let Some(address) = self.host.strip_prefix("ssh://") {
            check_ssh(address).map_err(|reason| fail(reason.to_owned()))?;
            return super::ssh::client(&self.host, TIMEOUT).map_err(|error| fail(error.to_string()));
        }
        let Some(folder) = &self.certificates else {
            if self.host.starts_with("https://") {
                return Err(fail("no folder with its certificates is known (DOCKER_CERT_PATH)".to_owned()));
            }
            return Docker::connect_with_host(&self.host).map_err(|error| fail(error.to_string()));
        };
        let [ca, certificate, key] = ["ca.pem", "cert.pem", "key.pem"].map(|name| folder.join(name));
        if !ca.is_file() {
            return Err(fail(format!("it is to be spoken to by TLS, and there is no {}", ca.display())));
        }
        Docker::connect_with_ssl(&self.host, &key, &certificate, &ca, TIMEOUT, bollard::API_DEFAULT_VERSION)
            .map_err(|error| fail(error.to_string()))
    }
}

/// What an `ssh://` address may be: the ssh command gets user and host, and finds all else in its own configuration.
fn check_ssh(address: &str) -> Result<(), &'static str> {
    let (user, host) = address.split_once('@').unwrap_or(("", address));
    let host = host.strip_suffix('/').unwrap_or(host);
    if host.is_empty() || host.contains('/') {
        return Err("it is ssh://[USER@]HOST, without a path");
    }
    if host.starts_with('-') || user.starts_with('-') {
        return Err("neither a user nor a host begins with a dash, which ssh takes for an option");
    }
    // The client hands them on as part of the name, which ssh then does not find.
    if host.rsplit(']').next().is_some_and(|rest| rest.contains(':')) {
        return Err("a port cannot be given here: name the host and its Port in ssh's configuration (~/.ssh/config)");
    }
    if user.contains(':') {
        return Err("a password cannot be given here: ssh uses keys and its agent");
    }
    Ok(())
}

/// The engine's endpoint, by the docker command's own order of precedence. `home` is the user's home folder.
fn endpoint(variable: impl Fn(&str) -> Option<String>, home: Option<PathBuf>) -> Result<Endpoint, EngineError> {
    let variable = |name| variable(name).filter(|value| !value.is_empty());
    let folder = variable("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(home?.join(".docker")));
    if let Some(host) = variable("DOCKER_HOST") {
        let wants_tls = ["DOCKER_TLS_VERIFY", "DOCKER_TLS"].into_iter().any(|name| variable(name).is_some());
        let certificates = variable("DOCKER_CERT_PATH").map(PathBuf::from).or(folder);
        let certificates = certificates.filter(|_| wants_tls || host.starts_with("https://"));
        return Ok(Endpoint::new(host, certificates));
    }
    let chosen = variable("DOCKER_CONTEXT").or_else(|| current_context(folder.as_deref()?));
    match (chosen.filter(|name| name != "default"), folder) {
        (Some(name), Some(folder)) => context(&folder, &name),
        (Some(name), None) => Err(EngineError::Context { name, known: Vec::new() }),
        (None, _) => Ok(Endpoint::new(DEFAULT.to_owned(), None)),
    }
}

fn current_context(folder: &Path) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let text = std::fs::read(folder.join("config.json")).ok()?;
    serde_json::from_slice::<Config>(&text).ok()?.current_context.filter(|name| !name.is_empty())
}

/// What docker keeps of a context.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    name: String,
    endpoints: std::collections::BTreeMap<String, MetaEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetaEndpoint {
    host: Option<String>,
    #[serde(default, rename = "SkipTLSVerify")]
    skip_tls_verify: bool,
}

/// The endpoint of a docker context: docker keeps its metadata, and its certificates, in folders named by the sha256
/// of its name.
fn context(folder: &Path, name: &str) -> Result<Endpoint, EngineError> {
    let all = folder.join("contexts/meta");
    let read = |folder: PathBuf| -> Option<Meta> {
        serde_json::from_slice(&std::fs::read(folder.join("meta.json")).ok()?).ok()
    };
    let id = hex::encode(Sha256::digest(name.as_bytes()));
    let found = read(all.join(&id)).and_then(|mut meta| meta.endpoints.remove("docker"));
    let Some(MetaEndpoint { host: Some(host), skip_tls_verify }) = found else {
        let entries = std::fs::read_dir(&all).into_iter().flatten().flatten();
        let mut known: Vec<String> = entries.filter_map(|entry| Some(read(entry.path())?.name)).collect();
        known.sort();
        return Err(EngineError::Context { name: name.to_owned(), known });
    };
    if skip_tls_verify {
        let reason = format!("the docker context {name:?} says not to check who answers there (SkipTLSVerify)");
        return Err(EngineError::Address { host, reason });
    }
    let certificates = folder.join("contexts/tls").join(id).join("docker");
    let has_any = std::fs::read_dir(&certificates).is_ok_and(|mut files| files.next().is_some());
    let wants_tls = has_any || host.starts_with("https://");
    Ok(Endpoint::new(host, wants_tls.then_some(certificates)))
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
    fn ssh_gets_no_options_and_no_passwords() {
        for good in ["host", "me@host", "[::1]", "host/"] {
            assert_eq!(check_ssh(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "me@",
            "host/run/docker.sock",
            "-oProxyCommand=x",
            "me@-oProxyCommand=x",
            "-l@host",
            "me:word@host",
            "me@host:22",
            "[::1]:22",
        ] {
            assert!(check_ssh(bad).is_err(), "{bad}");
            let endpoint = Endpoint::new(format!("ssh://{bad}"), None);
            assert!(matches!(endpoint.connect(), Err(EngineError::Address { .. })), "{bad}");
        }
    }

    /// A docker folder with the context `lab`.
    fn docker_folder(host: &str, more: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let id = hex::encode(Sha256::digest(b"lab"));
        let meta = folder.path().join(".docker/contexts/meta").join(&id);
        std::fs::create_dir_all(&meta).unwrap();
        let text = format!(r#"{{"Name":"lab","Endpoints":{{"docker":{{"Host":"{host}"{more}}}}}}}"#);
        std::fs::write(meta.join("meta.json"), text).unwrap();
        let tls = folder.path().join(".docker/contexts/tls").join(id).join("docker");
        (folder, tls)
    }

    fn endpoint_of(folder: &tempfile::TempDir, variables: &[(&str, &str)]) -> Result<Endpoint, EngineError> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        endpoint(get, Some(folder.path().to_owned()))
    }

    #[test]
    fn the_current_context_is_followed() {
        let (folder, _) = docker_folder("unix:///lab.sock", "");
        let host = |variables: &[(&str, &str)]| endpoint_of(&folder, variables).unwrap().host;
        assert_eq!(host(&[]), DEFAULT);
        std::fs::write(folder.path().join(".docker/config.json"), r#"{"currentContext":"lab"}"#).unwrap();
        assert_eq!(host(&[]), "unix:///lab.sock");
        assert_eq!(host(&[("DOCKER_CONTEXT", "default")]), DEFAULT);
        assert_eq!(host(&[("DOCKER_HOST", "unix:///own"), ("DOCKER_CONTEXT", "other")]), "unix:///own");
        let error = endpoint_of(&folder, &[("DOCKER_CONTEXT", "other")]).unwrap_err();
        assert_eq!(error.to_string(), "there is no docker context called \"other\"; there are: default, lab");
    }

    #[test]
    fn tls_is_asked_for_as_docker_does() {
        let (folder, tls) = docker_folder("tcp://lab:2376", "");
        let found = |variables: &[(&str, &str)]| endpoint_of(&folder, variables).unwrap().certificates;
        assert_eq!(found(&[("DOCKER_CONTEXT", "lab")]), None);
        std::fs::create_dir_all(&tls).unwrap();
        std::fs::write(tls.join("cert.pem"), "").unwrap();
        assert_eq!(found(&[("DOCKER_CONTEXT", "lab")]), Some(tls));
        // What is not whole is no reason to speak in the clear.
        let error = endpoint_of(&folder, &[("DOCKER_CONTEXT", "lab")]).unwrap().connect().unwrap_err();
        assert!(error.to_string().contains("there is no ") && error.to_string().contains("ca.pem"), "{error}");
        let host = ("DOCKER_HOST", "tcp://lab:2376");
        assert_eq!(found(&[host]), None);
        assert_eq!(found(&[host, ("DOCKER_TLS_VERIFY", "1")]), Some(folder.path().join(".docker")));
        assert_eq!(found(&[host, ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/c")]), Some("/c".into()));
        assert_eq!(found(&[("DOCKER_HOST", "https://lab"), ("DOCKER_CERT_PATH", "/c")]), Some("/c".into()));
        let (folder, _) = docker_folder("tcp://lab:2376", r#","SkipTLSVerify":true"#);
        let error = endpoint_of(&folder, &[("DOCKER_CONTEXT", "lab")]).unwrap_err();
        assert!(error.to_string().contains("SkipTLSVerify"), "{error}");
    }

    /// An engine that speaks TLS and knows one client, and the client's folder of certificates.
    async fn tls_engine() -> (u16, tempfile::TempDir) {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        use tokio_rustls::rustls::server::WebPkiClientVerifier;
        use tokio_rustls::rustls::{RootCertStore, ServerConfig};

        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = Issuer::new(params, ca_key);
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap(), key)
        };
        let ((server, server_key), (client, client_key)) = (issue("127.0.0.1"), issue("client"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(folder.path().join("cert.pem"), client.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), client_key.serialize_pem()).unwrap();

        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder(std::sync::Arc::new(roots)).build().unwrap();
        let config = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![server.der().clone()], server_key.serialize_der().try_into().unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that is not known, or does not speak TLS, gets no answer.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let body = r#"{"Version": "29.0.0", "ApiVersion": "1.45"}"#;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
                let _ = stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        (port, folder)
    }

    #[tokio::test]
    async fn certificates_are_used_and_asked_for() {
        let (port, folder) = tls_engine().await;
        let host = format!("tcp://127.0.0.1:{port}");
        let with = |host: &str| Endpoint::new(host.to_owned(), Some(folder.path().to_owned()));
        assert_eq!(Engine::at(with(&host)).await.unwrap().host(), host);
        assert!(Engine::at(Endpoint::new(host.clone(), None)).await.is_err(), "in the clear");
        std::fs::remove_file(folder.path().join("cert.pem")).unwrap();
        assert!(Engine::at(with(&host)).await.is_err(), "without a certificate of ours");
    }

    #[tokio::test]
    async fn a_plain_listener_gets_nothing_in_the_clear() {
        use tokio::io::AsyncReadExt as _;

        let (_, folder) = tls_engine().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("tcp://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let heard = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = vec![0; 64];
            let count = stream.read(&mut bytes).await.unwrap();
            bytes.truncate(count);
            bytes
        });
        assert!(Engine::at(Endpoint::new(host, Some(folder.path().to_owned()))).await.is_err());
        // The first byte of a TLS handshake, not the `G` of an HTTP request.
        assert_eq!(heard.await.unwrap().first(), Some(&22));
    }
}
