//! Containers in states that Docker does not have, as Podman tells them.
//!
//! The library takes no answer with a word that it does not know, and has no other way to the engine. So the same is asked once
//! more past it, and Docker's words are put in place of the others.

use std::collections::HashMap;
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{Engine, EngineError};

/// How long an engine may take to answer.
const ANSWER: Duration = Duration::from_secs(120);

/// The most bytes of an answer.
const MOST: u64 = 64 << 20;

/// Whether the library has met a word in an answer that it does not know.
pub(super) fn is_unknown_word(error: &BollardError) -> bool {
    matches!(error, BollardError::JsonDataError { message, .. } if message.contains("unknown variant"))
}

/// What Docker calls a state.
fn in_dockers_words(state: &str) -> &str {
    match state {
        "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead" | "stopping" => state,
        // Made, and made ready to be started.
        "configured" | "initialized" => "created",
        // `stopped` is one that has ended, and that Podman has not tidied up after.
        _ => "exited",
    }
}

fn put_right(state: Option<&mut Value>) {
    if let Some(state) = state {
        *state = in_dockers_words(state.as_str().unwrap_or_default()).into();
    }
}

impl Engine {
    /// The containers that `filters` let through, running or not.
    pub(super) async fn list_past_library(
        &self,
        filters: &HashMap<String, Vec<String>>,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = escaped(&serde_json::to_string(filters).unwrap_or_default());
        let doing = "listing containers";
        let mut listed = self.get(doing, &format!("containers/json?all=true&filters={filters}")).await?;
        for container in listed.as_array_mut().into_iter().flatten() {
            put_right(container.get_mut("State"));
        }
        self.understood(doing, listed)
    }

    /// What there is to know of a container.
    pub(super) async fn inspect_past_library(&self, name: &str) -> Result<ContainerInspectResponse, EngineError> {
        let doing = format!("looking at the container {name}");
        let mut details = self.get(&doing, &format!("containers/{}/json", escaped(name))).await?;
        put_right(details.pointer_mut("/State/Status"));
        self.understood(&doing, details)
    }

    fn understood<T: DeserializeOwned>(&self, doing: &str, answer: Value) -> Result<T, EngineError> {
        serde_json::from_value(answer).map_err(|error| failed(doing, format!("the engine at {}: {error}", self.host)))
    }

    /// What an engine on this host answers.
    async fn get(&self, doing: &str, path: &str) -> Result<Value, EngineError> {
        let Some(socket) = self.host.strip_prefix("unix://") else {
            let reason =
                format!("a container is in a state that Docker does not have, and {} is not on this host", self.host);
            return Err(failed(doing, reason));
        };
        let version = self.docker.client_version();
        // In this version of HTTP, an answer ends where the connection does.
        let request = format!("GET /v{version}/{path} HTTP/1.0\r\nHost: kprov\r\n\r\n");
        let talk = async {
            let mut stream = UnixStream::connect(socket).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = Vec::new();
            stream.take(MOST).read_to_end(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = match tokio::time::timeout(ANSWER, talk).await {
            Ok(answer) => answer.map_err(|error| failed(doing, error.to_string()))?,
            Err(_) => return Err(failed(doing, format!("no answer within {} s", ANSWER.as_secs()))),
        };
        let (status, body) = parts(&answer).ok_or_else(|| failed(doing, "the answer is none of HTTP".to_owned()))?;
        if status == 200 {
            return serde_json::from_slice(body).map_err(|error| failed(doing, error.to_string()));
        }
        let said: Option<Value> = serde_json::from_slice(body).ok();
        let reason = said.as_ref().and_then(|said| said.get("message")?.as_str()).unwrap_or_default().to_owned();
        Err(match status {
            404 => EngineError::NotFound { doing: doing.to_owned(), reason },
            _ => failed(doing, format!("status {status}: {reason}")),
        })
    }
}

fn failed(doing: &str, reason: String) -> EngineError {
    EngineError::Failed { doing: doing.to_owned(), reason }
}

/// Status and body of an answer.
fn parts(answer: &[u8]) -> Option<(u16, &[u8])> {
    const END: &[u8] = b"\r\n\r\n";
    let end = answer.windows(END.len()).position(|four| four == END)?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, &answer[end + END.len()..]))
}

/// A text as it may stand in an address.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ContainerState::{Created, Exited, Running};
    use super::*;

    /// An engine that answers every request with a status and a body.
    fn engine(status: u16, body: &'static str) -> (tempfile::TempDir, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("podman.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 4096];
                let length = stream.read(&mut request).await.unwrap_or_default();
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                let version = if request.contains("HTTP/1.0") { "1.0" } else { "1.1" };
                let head =
                    format!("HTTP/{version} {status} -\r\nConnection: close\r\nContent-Type: application/json\r\n");
                let length = format!("Content-Length: {}\r\n\r\n", body.len());
                let _ = stream.write_all([head.as_str(), &length, body].concat().as_bytes()).await;
            }
        });
        let host = format!("unix://{}", socket.display());
        let docker = bollard::Docker::connect_with_unix(&host, 10, bollard::API_DEFAULT_VERSION).unwrap();
        (folder, Engine { docker, host, greeting: std::sync::Arc::default() })
    }

    #[tokio::test]
    async fn a_container_that_podman_calls_stopped_has_ended() {
        let (_folder, podman) = engine(
            200,
            r#"[{"Id": "1", "Names": ["/a"], "State": "stopped", "Labels": {"l": "x"}},
                {"Id": "2", "Names": ["/b"], "State": "initialized"},
                {"Id": "3", "Names": ["/c"], "State": "running"},
                {"Id": "4", "Names": ["/d"], "State": "stopping"},
                {"Id": "5", "Names": ["/e"], "State": "unheard of"}]"#,
        );
        let listed = podman.containers("l", Some("x")).await.unwrap();
        let states: Vec<_> = listed.iter().map(|one| (one.name.as_str(), one.state)).collect();
        assert_eq!(states, [("a", Exited), ("b", Created), ("c", Running), ("d", Running), ("e", Exited)]);
        assert_eq!(listed[0].labels["l"], "x");
    }

    #[tokio::test]
    async fn one_that_is_looked_at_has_ended_as_well() {
        let (_folder, podman) = engine(
            200,
            r#"{"Image": "sha256:1", "State": {"Status": "stopped", "Running": false, "ExitCode": 137, "StartedAt": "2026-01-02T03:04:05Z"}}"#,
        );
        assert_eq!(podman.exit_code("a").await.unwrap(), Some(137));
        assert_eq!(podman.image_of("a").await.unwrap(), "sha256:1");
        assert_eq!(podman.started_at("a").await.unwrap().unwrap().to_string(), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn what_fails_is_told_as_the_engine_tells_it() {
        assert_eq!(parts(b"HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n{}"), Some((404, &b"{}"[..])));
        for odd in
            [&b""[..], b"HTTP/1.0 404 Not Found", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.0\r\n\r\n", b"HTTP/1.1 x y\r\n\r\n"]
        {
            assert_eq!(parts(odd), None);
        }
        assert_eq!(escaped(r#"{"label":["a=b/../c"]}"#), "%7B%22label%22%3A%5B%22a%3Db%2F..%2Fc%22%5D%7D");
    }
}
