//! A Docker Engine that runs nothing: enough of its HTTP interface to see what `kprov` does with an engine that is
//! unfit, and what it leaves on it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tempfile::TempDir;

/// What the engine says of itself, and how it fails.
#[derive(Debug, Clone)]
pub struct Traits {
    /// What it calls itself.
    pub id: &'static str,
    /// Its API version.
    pub api: &'static str,
    /// Where it keeps its data.
    pub root_dir: &'static str,
    /// What time it is there. Its containers were made in 1970.
    pub clock: &'static str,
    /// What it answers when a container is to be started.
    pub start: (u16, &'static str),
    /// What lies in its only image at `/kind/version`; without it, the engine never ends sending the file.
    pub version: Option<&'static str>,
    /// Whether it has its image; it cannot be pulled.
    pub has_image: bool,
    /// Requests that hold this, such as `DELETE /containers`, are never answered.
    pub silent: Option<&'static str>,
}

impl Default for Traits {
    fn default() -> Self {
        let clock = "2026-01-01T00:00:00.5Z";
        Self {
            id: "one",
            api: "1.45",
            root_dir: "/",
            clock,
            start: (204, ""),
            version: Some("v1.33.1"),
            has_image: true,
            silent: None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// Containers by name, with their labels.
    containers: BTreeMap<String, Value>,
    network: Option<Value>,
    requests: Vec<String>,
}

/// A fake engine on a socket of its own. Its thread ends with the test.
#[derive(Debug)]
pub struct FakeEngine {
    folder: TempDir,
    state: Arc<Mutex<State>>,
}

impl FakeEngine {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no room for its socket.
    #[must_use]
    pub fn start(traits: Traits) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("docker.sock")).expect("a socket");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (traits, state) = (traits.clone(), Arc::clone(&shared));
                // A client that goes away ends the conversation.
                std::thread::spawn(move || converse(&stream, &traits, &state));
            }
        });
        Self { folder, state }
    }

    /// Its `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.folder.path().join("docker.sock").display())
    }

    /// Puts a container there, with its labels.
    pub fn hold(&self, name: &str, labels: &Value) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.containers.insert(name.to_owned(), labels.clone());
    }

    /// Puts the clusters' network there, as kprov makes it.
    pub fn hold_network(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.network = Some(json!({"Id": "n1", "Name": "kind", "Labels": {"dev.kprov.owner": "kprov"}}));
    }

    /// Everything that is there and not removed.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let networks = state.network.iter().map(|_| "a network".to_owned());
        state.containers.keys().cloned().chain(networks).collect()
    }

    /// Whether a client has asked for something whose request line holds `text`.
    #[must_use]
    pub fn was_asked(&self, text: &str) -> bool {
        self.asked(text) > 0
    }

    /// How often clients have asked for something whose request line holds `text`.
    #[must_use]
    pub fn asked(&self, text: &str) -> usize {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.requests.iter().filter(|request| request.contains(text)).count()
    }
}

fn converse(stream: &UnixStream, traits: &Traits, state: &Mutex<State>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (request, body) = read_request(&mut reader)?;
        let (method, target) = request.split_once(' ')?;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // The API's version leads, once it is settled.
        let path = match path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')) {
            Some((_, rest)) => format!("/{rest}"),
            None => path.to_owned(),
        };
        let (code, content) = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.requests.push(format!("{method} {path}"));
            match traits.silent {
                Some(silent) if format!("{method} {path}").contains(silent) => (200, None),
                _ => answer(&mut state, traits, method, &path, query, &body),
            }
        };
        let Some(content) = content else {
            // Never answered; ends when the client does.
            let _ = reader.read(&mut [0]);
            return None;
        };
        let head = format!(
            "HTTP/1.1 {code} x\r\nContent-Type: application/json\r\nApi-Version: {}\r\nContent-Length: {}\r\n\r\n",
            traits.api,
            content.len()
        );
        let length = if code == 204 { 0 } else { content.len() };
        (&mut &*stream).write_all(head.as_bytes()).ok()?;
        (&mut &*stream).write_all(&content[..length]).ok()?;
    }
}

/// A request's first line, without the protocol, and its body.
fn read_request(reader: &mut BufReader<&UnixStream>) -> Option<(String, Vec<u8>)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&count| count > 0)?;
    let (request, _) = line.trim_end().rsplit_once(' ')?;
    let request = request.to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&count| count > 0)?;
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        chunked |= header.starts_with("transfer-encoding:") && header.ends_with("chunked");
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        let start = body.len();
        // A chunk ends in a line break.
        body.resize(start + size + 2, 0);
        reader.read_exact(&mut body[start..]).ok()?;
        body.truncate(start + size);
        chunked = size > 0;
    }
    Some((request, body))
}

/// The code and content of an answer; no content if there is to be none.
fn answer(
    state: &mut State,
    traits: &Traits,
    method: &str,
    path: &str,
    query: &str,
    body: &[u8],
) -> (u16, Option<Vec<u8>>) {
    let json = |code: u16, value: Value| (code, Some(value.to_string().into_bytes()));
    let message = |code: u16, text: &str| json(code, json!({"message": text}));
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, words.as_slice()) {
        ("GET", ["version"]) => json(200, json!({"Version": "26.1.5", "ApiVersion": traits.api})),
        ("GET", ["info"]) => json(
            200,
            json!({"ID": traits.id, "DockerRootDir": traits.root_dir, "CgroupVersion": "2", "Driver": "overlay2", "NCPU": 2,
                "SystemTime": traits.clock}),
        ),
        ("GET", ["images", "json"]) => json(200, json!([])),
        ("GET", ["images", ..]) if !traits.has_image => message(404, "No such image"),
        ("POST", ["images", "create"]) => message(404, "no registry has it"),
        ("GET", ["images", ..]) => json(200, json!({"Id": "sha256:1234"})),
        ("GET", ["networks"]) => json(200, Value::from_iter(state.network.clone())),
        ("POST", ["networks", "create"]) => {
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            let ipam = json!({"Config": [{"Subnet": "172.18.0.0/16"}]});
            state.network = Some(json!({"Id": "n1", "Name": asked["Name"], "Labels": asked["Labels"], "IPAM": ipam}));
            json(201, json!({"Id": "n1", "Warning": ""}))
        }
        ("GET", ["networks", "n1"]) => json(200, state.network.clone().unwrap_or_default()),
        ("DELETE", ["networks", _]) => {
            state.network = None;
            message(204, "")
        }
        ("GET", ["containers", "json"]) => {
            let all = state.containers.iter().map(|(name, labels)| {
                json!({"Id": name, "Names": [format!("/{name}")], "Labels": labels, "State": "created",
                    "Image": "i", "ImageID": "sha256:1234", "Created": 1})
            });
            // Of filters, all that matters here: does it have that label.
            let is_asked_for = |container: &Value| {
                let labels = container["Labels"].as_object();
                let has = |key: &str, value: &Value| {
                    let value = value.as_str().unwrap_or_default();
                    query.contains(&format!("{key}%22")) || query.contains(&format!("{key}%3D{value}%22"))
                };
                !query.contains("label") || labels.into_iter().flatten().any(|(key, value)| has(key, value))
            };
            json(200, all.filter(is_asked_for).collect())
        }
        ("POST", ["containers", "create"]) => {
            let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).unwrap_or("nameless").to_owned();
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            state.containers.insert(name.clone(), asked["Labels"].clone());
            json(201, json!({"Id": name, "Warnings": []}))
        }
        ("DELETE", ["containers", name]) => match state.containers.remove(*name) {
            Some(_) => message(204, ""),
            None => message(404, "No such container"),
        },
        ("PUT", ["containers", _, "archive"]) => message(200, ""),
        ("GET", ["containers", _, "archive"]) => match traits.version {
            None => (200, None),
            Some(version) if query.contains("version") => (200, Some(tar_of(version))),
            // A CNI, whatever is in it.
            Some(_) if query.contains("default-cni") => (200, Some(tar_of("kind: List"))),
            Some(_) => message(404, "Could not find the file in the container"),
        },
        ("POST", ["containers", _, "start"]) => message(traits.start.0, traits.start.1),
        ("GET", ["containers", _, "json"]) => json(200, json!({"State": {"Running": false, "ExitCode": 128}})),
        _ => message(404, "page not found"),
    }
}

/// An archive of one file.
fn tar_of(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, Path::new("version"), text.as_bytes()).expect("memory can be written");
    builder.into_inner().expect("memory can be written")
}
