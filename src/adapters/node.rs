//! A node: a container that runs systemd, containerd and kubelet.
//!
//! Everything that talks to a node goes through [`Node`]. It knows files, processes and
//! containerd's containers inside one node; it leaves to `cluster` what should be there.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use zeroize::Zeroizing;

use crate::adapters::engine::{Engine, EngineError, ExecOutput, ExecSpec};
use crate::documents::files::{FileEntry, pack};
use crate::documents::profile::Role;

/// The most bytes of a file that is read from a node, and of what a script prints there, where students are root.
const LARGEST_FILE: usize = 16 << 20;

/// How long a container may take to boot its init system, as in kind.
const BOOT: Duration = Duration::from_secs(30);

/// How often a container that ended while it was waited for is looked at.
const AGAIN: Duration = Duration::from_millis(200);

/// How long a command on a node may take, unless its caller knows that it takes longer.
const COMMAND: Duration = Duration::from_secs(300);

/// How much of a command an error shows that has not waited for its end.
const SHOWN: usize = 80;

/// How many lines of a failed command's output an error carries.
const LAST_LINES: usize = 20;

/// Shell functions that find the containers of static pods and their processes: `static_pod COMPONENT` prints
/// `CONTAINER PID`, `static_pod_pids COMPONENT...` prints process ids. To be put before a script.
pub const STATIC_POD: &str = include_str!("node/scripts/static_pod.sh");

/// Defines `end_static_pod COMPONENT`, which ends a static pod. To be put before a script, behind [`STATIC_POD`].
pub const END_STATIC_POD: &str = include_str!("node/scripts/end_static_pod.sh");

const BOOTED: &str = include_str!("node/scripts/booted.sh");
const STATIC_PODS: &str = include_str!("node/scripts/static_pods.sh");
const COMMAND_LINE: &str = include_str!("node/scripts/command_line.sh");
const IN_STATIC_POD: &str = include_str!("node/scripts/in_static_pod.sh");
const REPLACE: &str = include_str!("node/scripts/replace.sh");

/// What went wrong on a node.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum NodeError {
    /// A command ended with another code than 0.
    #[error("{node}: `{command}` ended with code {code}{}", quoted(last_lines))]
    #[diagnostic(code(kprov::node::command))]
    Command {
        /// The node.
        node: String,
        /// The command, without its input.
        command: String,
        /// Its exit code.
        code: i64,
        /// The last lines that it printed.
        last_lines: String,
    },
    /// The init system did not come up.
    #[error("{node}: the container did not boot: {reason}{}", quoted(last_lines))]
    #[diagnostic(
        code(kprov::node::boot),
        help(
            "is this a kind node image? If other clusters run here, see `kprov doctor` for the host's inotify limits, the usual cause"
        )
    )]
    Boot {
        /// The node.
        node: String,
        /// What was seen.
        reason: String,
        /// The last lines of the container's log.
        last_lines: String,
    },
    /// A command did not end in time.
    #[error("{node}: `{command}` has not ended within {seconds} s")]
    #[diagnostic(
        code(kprov::node::timeout),
        help(
            "the node may be starved of processor or disk, or stand still: `docker stats`, `docker logs {node}`; what was started there may still run"
        )
    )]
    TimedOut {
        /// The node.
        node: String,
        /// The command, without its input.
        command: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A file that every node image has is missing.
    #[error("{image} is no kind node image: it has no {path}")]
    #[diagnostic(
        code(kprov::node::no_node_image),
        help("use a `kindest/node` image or one that keeps its layout; the file names the image's Kubernetes version")
    )]
    NoNodeImage {
        /// The image.
        image: String,
        /// The file.
        path: String,
    },
    /// A file has no content that makes sense.
    #[error("{node}: {path}: {reason}")]
    #[diagnostic(code(kprov::node::file))]
    File {
        /// The node.
        node: String,
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The engine refused.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Engine(#[from] EngineError),
}

fn quoted(lines: &str) -> String {
    if lines.is_empty() { String::new() } else { format!(":\n{lines}") }
}

/// The last lines of a text, trimmed, each behind a bar.
#[must_use]
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(|line| format!("  | {line}")).collect::<Vec<_>>().join("\n")
}

/// What runs of a static pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// containerd's name of the container.
    pub container: String,
    /// The pod's id, which is its manifest's hash.
    pub pod: String,
}

/// One node of a cluster. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    engine: Engine,
    /// The container's and the node's name.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// How long a command may take.
    deadline: Duration,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({})", self.name)
    }
}

impl Node {
    /// The node in the container `name`.
    #[must_use]
    pub fn new(engine: Engine, name: impl Into<String>, role: Role) -> Self {
        Self { engine, name: name.into(), role, deadline: COMMAND }
    }

    /// The same node, whose commands may take as long as `deadline`.
    #[must_use]
    pub fn patient(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The engine that the node runs on.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Runs a command; one that fails is an error with its last lines.
    ///
    /// # Errors
    /// [`NodeError::Command`] if it ends with another code than 0, [`NodeError::TimedOut`] if it does not end in time,
    /// [`NodeError::Engine`] if it could not be run, as in a container that does not run.
    pub async fn run(&self, command: &[&str]) -> Result<String, NodeError> {
        let output = self.output(command, None).await?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command with the given standard input; one that fails is an error with its last lines.
    ///
    /// # Errors
    /// [`NodeError::Command`] if it ends with another code than 0, [`NodeError::TimedOut`] if it does not end in time,
    /// [`NodeError::Engine`] if it could not be run, as in a container that does not run.
    pub async fn output(&self, command: &[&str], stdin: Option<Zeroizing<Vec<u8>>>) -> Result<ExecOutput, NodeError> {
        self.succeeded(command, self.try_output(command, stdin).await?)
    }

    /// The output of a command that has ended with 0.
    fn succeeded(&self, command: &[&str], output: ExecOutput) -> Result<ExecOutput, NodeError> {
        if output.code == 0 {
            return Ok(output);
        }
        let talk = format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Err(NodeError::Command {
            node: self.name.clone(),
            command: command.join(" "),
            code: output.code,
            last_lines: last_lines(&talk, LAST_LINES),
        })
    }

    /// Runs a command and gives its output whatever its exit code.
    ///
    /// # Errors
    /// [`NodeError::TimedOut`] if it does not end in time, [`NodeError::Engine`] if it could not be run, or prints more than 16 MiB.
    pub async fn try_output(
        &self,
        command: &[&str],
        stdin: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<ExecOutput, NodeError> {
        self.bounded(command, stdin, LARGEST_FILE).await
    }

    /// What a command prints, which may be as much as a whole state; one that fails is an error with its last lines.
    ///
    /// # Errors
    /// As of [`Self::output`]; [`NodeError::Engine`] if it prints more than `most` bytes.
    pub async fn large_output(&self, command: &[&str], most: usize) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        Ok(self.succeeded(command, self.bounded(command, None, most).await?)?.stdout)
    }

    /// Runs a command that may print so many bytes: students are root on the node, and may have replaced it.
    async fn bounded(
        &self,
        command: &[&str],
        stdin: Option<Zeroizing<Vec<u8>>>,
        most: usize,
    ) -> Result<ExecOutput, NodeError> {
        let words = command.iter().map(|&word| word.to_owned()).collect();
        let spec = ExecSpec { command: words, env: Vec::new(), stdin, most: Some(most) };
        self.in_time(&command.join(" "), self.engine.exec(&self.name, spec)).await
    }

    /// What comes of something that is called `what`, if it comes in time.
    async fn in_time<T>(
        &self,
        what: &str,
        outcome: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, NodeError> {
        match tokio::time::timeout(self.deadline, outcome).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(NodeError::TimedOut {
                node: self.name.clone(),
                // Of a script, its beginning.
                command: what.chars().take(SHOWN).collect(),
                seconds: self.deadline.as_secs(),
            }),
        }
    }

    /// The text that a command has printed, which errors call `what`: the text of a script says nothing to a reader.
    fn named(&self, what: &str, output: Result<ExecOutput, NodeError>) -> Result<String, NodeError> {
        match output {
            Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            Err(NodeError::Command { node, code, last_lines, .. }) => {
                Err(NodeError::Command { node, command: what.to_owned(), code, last_lines })
            }
            Err(NodeError::TimedOut { node, seconds, .. }) => {
                Err(NodeError::TimedOut { node, command: what.to_owned(), seconds })
            }
            Err(other) => Err(other),
        }
    }

    /// Runs a shell script. The script comes in by standard input, so that no other process sees it.
    ///
    /// # Errors
    /// [`NodeError::Command`], named `what`, if it ends with another code than 0, [`NodeError::TimedOut`] if it does not end in
    /// time, [`NodeError::Engine`] if it could not be run, or prints more than 16 MiB.
    pub async fn script(&self, what: &str, script: &str) -> Result<String, NodeError> {
        let (command, input) = (["sh", "-eu"], Zeroizing::new(script.as_bytes().to_vec()));
        let output = self.bounded(&command, Some(input), LARGEST_FILE).await;
        self.named(what, output.and_then(|output| self.succeeded(&command, output)))
    }

    /// Runs a shell script that reads `input`. The script itself may be seen by others; the input is not.
    ///
    /// # Errors
    /// [`NodeError::Command`], named `what`, if it ends with another code than 0, [`NodeError::TimedOut`] if it does not end in
    /// time, [`NodeError::Engine`] if it could not be run.
    pub async fn feed(&self, what: &str, script: &str, input: Zeroizing<Vec<u8>>) -> Result<String, NodeError> {
        self.named(what, self.output(&["sh", "-euc", script], Some(input)).await)
    }

    /// The same, where the input comes in pieces. They are dropped once the script reads no more.
    ///
    /// # Errors
    /// [`NodeError::Command`], named `what`, if it ends with another code than 0, [`NodeError::TimedOut`] if it does not end in
    /// time, [`NodeError::Engine`] if it could not be run.
    pub async fn feed_pieces(
        &self,
        what: &str,
        script: &str,
        input: impl Stream<Item = Bytes>,
    ) -> Result<String, NodeError> {
        let command = ["sh", "-euc", script];
        let words = command.iter().map(|&word| word.to_owned()).collect();
        let output = self.in_time(&command.join(" "), self.engine.exec_fed(&self.name, words, input)).await;
        self.named(what, output.and_then(|output| self.succeeded(&command, output)))
    }

    /// A file's bytes, 16 MiB at most; `None` if there is no such file. Works on a stopped node, too.
    ///
    /// # Errors
    /// [`NodeError::Engine`] if there is no such container, or the engine does not answer; [`NodeError::TimedOut`] if it begins to,
    /// and does not end in time.
    pub async fn read_file(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, NodeError> {
        self.in_time(&format!("reading {path}"), self.engine.read_file(&self.name, path, LARGEST_FILE)).await
    }

    /// A file's text.
    ///
    /// # Errors
    /// [`NodeError::File`] if there is none or it is no UTF-8.
    pub async fn read_text(&self, path: &str) -> Result<Zeroizing<String>, NodeError> {
        let fail = |reason: &str| NodeError::File {
            node: self.name.clone(),
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let bytes = self.read_file(path).await?.ok_or_else(|| fail("there is no such file"))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| fail("is not UTF-8"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }

    /// Puts files into the node, running or not, replacing those that are there.
    ///
    /// A reader may see a file half written: see [`Self::replace_file`] for files that something watches.
    ///
    /// # Errors
    /// [`NodeError::Engine`] if there is no such container, or it takes no files: its disk is full or read-only, say.
    pub async fn put_files(&self, files: &[FileEntry]) -> Result<(), NodeError> {
        if files.is_empty() {
            return Ok(());
        }
        Ok(self.engine.put_archive(&self.name, pack(files)).await?)
    }

    /// Replaces a file of a running node at once: readers see the old one or the new one, and after a crash of
    /// the host it is one of them.
    ///
    /// # Errors
    /// [`NodeError`] if the file could not be written; then the old one is still there.
    pub async fn replace_file(&self, path: &str, mode: u32, content: &[u8]) -> Result<(), NodeError> {
        let script = format!("path='{path}' mode={mode:o} size={}\n{REPLACE}", content.len());
        self.feed(&format!("writing {path}"), &script, Zeroizing::new(content.to_vec())).await.map(|_| ())
    }

    /// The IPv4 and IPv6 address of the node on the clusters' network.
    ///
    /// # Errors
    /// [`NodeError::Engine`] if there is no such container, or the engine does not answer.
    pub async fn addresses(
        &self,
        network: &str,
    ) -> Result<(Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>), NodeError> {
        Ok(self.engine.addresses(&self.name, network).await?)
    }

    /// Waits until the init system has come up, as the container's log tells.
    ///
    /// # Errors
    /// [`NodeError::Boot`] with the log's last lines if it ends before, or does not come up in time.
    pub async fn wait_booted(&self) -> Result<(), NodeError> {
        let mut log = String::new();
        let watch = async {
            let mut stream = std::pin::pin!(self.engine.follow_logs(&self.name));
            while let Some(chunk) = stream.try_next().await? {
                log.push_str(&String::from_utf8_lossy(&chunk));
                if has_booted(&log) {
                    return Ok::<_, EngineError>(true);
                }
            }
            Ok(false)
        };
        let reason = match tokio::time::timeout(BOOT, watch).await {
            // The log may run ahead of the init system: it is up when its socket is there, and that of containerd.
            Ok(Ok(true)) => {
                let seconds = BOOT.as_secs();
                let script = format!("seconds={seconds}\n{BOOTED}");
                let deadline = tokio::time::Instant::now() + BOOT;
                loop {
                    match self.script("waiting for systemd and containerd", &script).await {
                        Ok(_) => return Ok(()),
                        Err(NodeError::Command { code: 1, last_lines, .. }) => {
                            let reason = format!("systemd or containerd was not up after {seconds} s");
                            return Err(NodeError::Boot { node: self.name.clone(), reason, last_lines });
                        }
                        // It ended under the script's feet, and the engine starts it anew.
                        Err(error) if has_ended(&error) => {
                            if tokio::time::Instant::now() < deadline {
                                tokio::time::sleep(AGAIN).await;
                                continue;
                            }
                            let log = self.engine.last_logs(&self.name, LAST_LINES).await?;
                            let (node, reason) = (self.name.clone(), "it ends again and again".to_owned());
                            return Err(NodeError::Boot { node, reason, last_lines: last_lines(&log, LAST_LINES) });
                        }
                        Err(other) => return Err(other),
                    }
                }
            }
            Ok(Ok(false)) => match self.engine.exit_code(&self.name).await? {
                Some(code) => format!("it ended with code {code}"),
                None => "its log ended".to_owned(),
            },
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => format!("its init system was not up after {} s", BOOT.as_secs()),
        };
        Err(NodeError::Boot { node: self.name.clone(), reason, last_lines: last_lines(&log, LAST_LINES) })
    }

    /// Whether the node's container runs.
    ///
    /// # Errors
    /// [`NodeError::Engine`] if the engine does not answer.
    pub async fn is_running(&self) -> Result<bool, NodeError> {
        Ok(self.engine.exit_code(&self.name).await?.is_none())
    }

    /// The command line of the static pod `component`, such as `kube-apiserver`, as a list of words; `None` if it
    /// does not run.
    ///
    /// # Errors
    /// [`NodeError::Command`] if containerd does not answer, [`NodeError::Engine`] if the node cannot be asked.
    pub async fn command_line(&self, component: &str) -> Result<Option<Vec<String>>, NodeError> {
        let script = format!("component='{component}'\n{STATIC_POD}\n{COMMAND_LINE}");
        let text = self.script(&format!("finding the static pod {component}"), &script).await?;
        let words: Vec<String> = text.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        Ok(if words.is_empty() { None } else { Some(words) })
    }

    /// What runs of each of these static pods; without names where nothing does.
    ///
    /// # Errors
    /// [`NodeError::Command`] if containerd does not answer, [`NodeError::Engine`] if the node cannot be asked.
    pub async fn static_pods(&self, components: &[&str]) -> Result<BTreeMap<String, Running>, NodeError> {
        let script = format!("components='{}'\n{STATIC_POD}\n{STATIC_PODS}", components.join(" "));
        let text = self.script("finding the static pods", &script).await?;
        let running = text.lines().map(|line| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut word = || words.next().unwrap_or_default();
            (word(), Running { container: word(), pod: word() })
        });
        Ok(running.collect())
    }

    /// Runs a command inside the running container `container` of a static pod, by containerd's own tool:
    /// unlike crictl, every node image has it.
    ///
    /// # Errors
    /// [`NodeError::Command`] if there is no such container or the command fails.
    pub async fn run_in_container(&self, container: &str, command: &[&str]) -> Result<ExecOutput, NodeError> {
        let script = format!("{STATIC_POD}\n{IN_STATIC_POD}");
        let mut words = vec!["sh", "-euc", script.as_str(), "sh", container];
        words.extend(command);
        let output = self.try_output(&words, None).await?;
        if output.code == 0 {
            return Ok(output);
        }
        let talk = String::from_utf8_lossy(&output.stderr);
        Err(NodeError::Command {
            node: self.name.clone(),
            command: format!("{} (in {container})", command.join(" ")),
            code: output.code,
            last_lines: last_lines(&talk, LAST_LINES),
        })
    }
}

/// Whether a command has failed because its container has ended; an engine forgets what ran in it.
fn has_ended(error: &NodeError) -> bool {
    match error {
        NodeError::Command { .. } | NodeError::Engine(EngineError::NotRunning { .. }) => true,
        NodeError::Engine(EngineError::NotFound { reason, .. }) => reason.contains("exec instance"),
        _ => false,
    }
}

/// Whether a container's log says that its init system is up: the two texts that kind's tools wait for.
fn has_booted(log: &str) -> bool {
    log.contains("detected cgroup v1") || (log.contains("Reached target") && log.contains("Multi-User System"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_is_seen_in_the_log() {
        assert!(has_booted("INFO: detected cgroup v1\n"));
        assert!(has_booted("[  OK  ] Reached target \u{1b}[0;1;39mMulti-User System\u{1b}[0m.\n"));
        assert!(!has_booted("[  OK  ] Reached target Basic System.\n"));
    }

    /// Containerd's tool, as far as finding static pods needs it, for a control plane that runs an API server beside
    /// somebody's own pod.
    const CTR: &str = r#"#!/bin/sh
case "$*" in
*'containers ls -q '*kube-apiserver*'"io.kubernetes.pod.namespace"==kube-system,'*'"io.kubernetes.pod.name"==kube-apiserver-'*)
  printf 'ended\nours\n' ;;
*'containers ls -q '*kube-apiserver*) printf 'ended\nours\ntheirs\n' ;;
*'tasks ls') printf 'TASK PID STATUS\nended 11 STOPPED\ntheirs 22 RUNNING\nours 33 RUNNING\n' ;;
esac
"#;

    #[test]
    fn static_pods_are_found_by_container_and_not_by_name() {
        use std::os::unix::fs::PermissionsExt as _;
        use std::process::Command;

        let folder = tempfile::tempdir().unwrap();
        let ctr = folder.path().join("ctr");
        std::fs::write(&ctr, CTR).unwrap();
        std::fs::set_permissions(&ctr, std::fs::Permissions::from_mode(0o755)).unwrap();
        let run = |command: &str| {
            let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
            let script = format!("{STATIC_POD}\n{command}");
            let output = Command::new("sh").args(["-euc", &script]).env("PATH", path).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run("static_pod kube-apiserver"), "ours 33\n");
        assert_eq!(run("static_pod_pids kube-apiserver etcd"), "33\n", "etcd does not run");
        assert_eq!(run("static_pods kube-apiserver etcd"), "kube-apiserver 33\n");
        assert_eq!(run("static_pods etcd"), "");
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_does_not_end_is_given_up_by_name() {
        let (_folder, engine) = Engine::silent();
        let node = Node::new(engine, "a-worker", Role::Worker).patient(Duration::from_secs(7));
        let error = node.run(&["sleep", "1"]).await.unwrap_err();
        assert_eq!(error.to_string(), "a-worker: `sleep 1` has not ended within 7 s");
        let error = node.script("looking around", "sleep 1").await.unwrap_err();
        assert_eq!(error.to_string(), "a-worker: `looking around` has not ended within 7 s");
        let error = node.read_file("/etc/hosts").await.unwrap_err();
        assert_eq!(error.to_string(), "a-worker: `reading /etc/hosts` has not ended within 7 s");
    }

    #[test]
    fn errors_carry_the_last_lines_only() {
        assert_eq!(last_lines("a\n\nb \nc\n", 2), "  | b\n  | c");
        assert_eq!(quoted(""), "");
    }
}
