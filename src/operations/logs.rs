//! The logs of a cluster, gathered for whoever is to find out what is wrong with it: what `kind export logs` has, where it has
//! it, and what kprov knows besides.
//!
//! Owns what is gathered and what it is called; what of it is secret is `documents::masking`'s.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, BufWriter, Seek as _, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::AsyncWrite;
use tokio::time::timeout;

use crate::adapters::engine::{Container, ContainerState, EngineError, Terminal};
use crate::adapters::paths::{PathsError, create_private_dir};
use crate::adapters::records::RecordError;
use crate::documents::masking::{Masking, Secrets};
use crate::documents::names::ClusterName;
use crate::operations::cluster::{self, ClusterError, Context, LABEL_ROLE, LABEL_SERVER, ROLE_LOAD_BALANCER};

/// What is asked of each node, by the names of kind's files.
const ASKED: [(&str, &[&str]); 5] = [
    ("kubernetes-version.txt", &["cat", "/kind/version"]),
    ("journal.log", &["journalctl", "--no-pager"]),
    ("kubelet.log", &["journalctl", "--no-pager", "-u", "kubelet.service"]),
    ("containerd.log", &["journalctl", "--no-pager", "-u", "containerd.service"]),
    ("images.log", &["crictl", "images"]),
];

/// All files below /var/log, links followed: those of pods are links to their containers'. One that goes away meanwhile is no
/// failure.
const FILES: [&str; 7] =
    ["tar", "--ignore-failed-read", "--hard-dereference", "--create", "--dereference", "--directory=/var/log", "."];

/// What tar ends with if a file has grown while it was read.
const CHANGED: i64 = 1;

/// How long one of these may take on a node.
const LONG: Duration = Duration::from_secs(300);

/// A line that is longer is masked in parts of this size.
const LONGEST_LINE: usize = 1 << 20;

/// Why logs could not be gathered.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LogsError {
    /// There is something where they would be written.
    #[error("{path} is not empty", path = .0.display())]
    #[diagnostic(code(kprov::logs::not_empty), help("name a folder that is empty, or that is not there yet"))]
    NotEmpty(PathBuf),
    /// A folder or file could not be made.
    #[error("{path}: {error}", path = path.display())]
    #[diagnostic(code(kprov::logs::write))]
    Write {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A folder could not be made.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Paths(#[from] PathsError),
    /// What is kept of the cluster could not be read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Record(#[from] RecordError),
    /// The engine has failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Engine(#[from] EngineError),
    /// The cluster could not be found.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Cluster(#[from] ClusterError),
}

/// What has been gathered.
#[derive(Debug)]
pub struct Gathered {
    /// The cluster.
    pub cluster: ClusterName,
    /// Where it is.
    pub folder: PathBuf,
    /// What could not be had, and why.
    pub missing: Vec<String>,
}

/// Gathers the logs of a cluster in a folder of one's own choice, or in a new one. What cannot be had is left out, and told.
///
/// # Errors
/// [`LogsError`] if there is no such cluster, or nothing can be written.
pub async fn gather(
    context: &Context,
    cluster: Option<&ClusterName>,
    folder: Option<PathBuf>,
) -> Result<Gathered, LogsError> {
    let found = cluster::find(&context.engine, cluster).await?;
    let folder = prepare(folder, &found.name)?;
    let record = match cluster::record_here(context, &found.name).await {
        Err(ClusterError::Elsewhere { .. }) => None,
        other => other?,
    };
    let keys = if record.is_some() { context.store().load_keys(&found.name)? } else { None };
    let secrets = Secrets::of(keys.as_ref());
    let book = Book { context, secrets: &secrets, folder: &folder };

    let mut missing = Vec::new();
    book.text("kprov-version.txt", &format!("kprov {}\n", env!("CARGO_PKG_VERSION")))?;
    book.text("docker-info.txt", &context.engine.describe().await?)?;
    if let Some(mut record) = record {
        record.profile = record.profile.redacted();
        book.text("kprov-record.json", &serde_json::to_string_pretty(&record).unwrap_or_default())?;
    }
    let servers = context.engine.containers(LABEL_SERVER, Some(&found.name)).await?;
    let all = found.containers.iter().chain(&found.beside).chain(&servers);
    for outcome in join_all(all.map(|container| book.container(container))).await {
        missing.extend(outcome?);
    }
    Ok(Gathered { cluster: found.name, folder, missing })
}

/// The folder, which is empty.
fn prepare(folder: Option<PathBuf>, cluster: &ClusterName) -> Result<PathBuf, LogsError> {
    let Some(folder) = folder else {
        let new = tempfile::Builder::new().prefix(&format!("{cluster}-logs-")).tempdir();
        return new
            .map(tempfile::TempDir::keep)
            .map_err(|error| LogsError::Write { path: std::env::temp_dir(), error });
    };
    create_private_dir(&folder)?;
    let mut inside = std::fs::read_dir(&folder).map_err(|error| LogsError::Write { path: folder.clone(), error })?;
    if inside.next().is_some() { Err(LogsError::NotEmpty(folder)) } else { Ok(folder) }
}

/// Where it all goes.
struct Book<'a> {
    context: &'a Context,
    secrets: &'a Secrets,
    folder: &'a Path,
}

impl<'a> Book<'a> {
    fn text(&self, path: &str, text: &str) -> Result<(), LogsError> {
        let mut page = self.page(&self.folder.join(path))?;
        page.copy(text.as_bytes())
    }

    fn page(&self, path: &Path) -> Result<Page<'a>, LogsError> {
        create_private_dir(path.parent().unwrap_or(self.folder))?;
        let file = File::options().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| LogsError::Write { path: path.to_owned(), error })?;
        Ok(Page {
            path: path.to_owned(),
            out: BufWriter::new(file),
            masking: Masking::new(self.secrets),
            line: Vec::new(),
        })
    }

    /// All that is to be had of a container; what is not.
    async fn container(&self, container: &Container) -> Result<Vec<String>, LogsError> {
        let (engine, name) = (&self.context.engine, &container.name);
        let folder = self.folder.join(name);
        let step = self.context.reporter.step(name, "Gathering logs");
        let mut missing = Vec::new();
        let mut miss = |what: &str, why: String| missing.push(format!("{name}: {what}: {why}"));
        match engine.inspect(name).await {
            Ok(text) => self.page(&folder.join("inspect.json"))?.copy(text.as_bytes())?,
            Err(error) => miss("inspect.json", error.to_string()),
        }
        let mut page = self.page(&folder.join("serial.log"))?;
        if let Err(error) = engine.logs_into(name, &mut page).await {
            miss("serial.log", error.to_string());
        }
        page.finish()?;
        let role = container.labels.get(LABEL_ROLE).map(String::as_str);
        let is_node = role.is_some_and(|role| role != ROLE_LOAD_BALANCER);
        if is_node && container.state == ContainerState::Running {
            for (file, command) in ASKED {
                step.detail(file);
                let mut page = self.page(&folder.join(file))?;
                match self.ask(name, command, &mut page).await {
                    Ok(0) => {}
                    Ok(code) => miss(file, format!("`{}` ended with code {code}", command.join(" "))),
                    Err(reason) => miss(file, reason),
                }
                page.finish()?;
            }
            step.detail("/var/log");
            if let Some(reason) = self.files(name, &folder).await? {
                miss("/var/log", reason);
            }
        }
        step.done();
        Ok(missing)
    }

    /// What a command on a node prints; gives its exit code.
    async fn ask<O: AsyncWrite + Unpin>(&self, node: &str, command: &[&str], output: O) -> Result<i64, String> {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        // What it complains of is no part of a log.
        let terminal = Terminal { input: tokio::io::empty(), output, errors: tokio::io::sink(), size: None };
        match timeout(LONG, self.context.engine.exec_interactive(node, command, terminal)).await {
            Ok(code) => code.map_err(|error| error.to_string()),
            Err(_) => Err(format!("has not ended within {} s", LONG.as_secs())),
        }
    }

    /// All files below a node's /var/log; why not, if they could not be had.
    async fn files(&self, node: &str, folder: &Path) -> Result<Option<String>, LogsError> {
        let fail = |error| LogsError::Write { path: folder.to_owned(), error };
        // It has no name: nothing unmasked stays, whatever happens.
        let mut archive = tempfile::tempfile_in(self.folder).map_err(fail)?;
        let copy = archive.try_clone().map_err(fail)?;
        let outcome = self.ask(node, &FILES, tokio::fs::File::from_std(copy)).await;
        archive.rewind().map_err(fail)?;
        let incomplete = match outcome {
            Ok(0 | CHANGED) => None,
            Ok(code) => Some(format!("`{}` ended with code {code}", FILES.join(" "))),
            Err(reason) => Some(reason),
        };
        match self.unpack(archive, folder) {
            Ok(()) => Ok(incomplete),
            Err(Unpack::Archive(error)) => Ok(incomplete.or_else(|| Some(error.to_string()))),
            Err(Unpack::Write(error)) => Err(error),
        }
    }

    fn unpack(&self, archive: File, folder: &Path) -> Result<(), Unpack> {
        for entry in tar::Archive::new(BufReader::new(archive)).entries().map_err(Unpack::Archive)? {
            let mut entry = entry.map_err(Unpack::Archive)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            // What a node says is no path of ours.
            let path = entry.path().map_err(Unpack::Archive)?.into_owned();
            let inside: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
            if !inside.components().all(|part| matches!(part, Component::Normal(_))) {
                continue;
            }
            let target = folder.join(&inside);
            // One of kind's own names is taken.
            if target.exists() {
                continue;
            }
            let mut page = self.page(&target).map_err(Unpack::Write)?;
            page.copy(&mut entry).map_err(Unpack::Write)?;
        }
        Ok(())
    }
}

/// Why an archive could not be unpacked.
enum Unpack {
    Archive(io::Error),
    Write(LogsError),
}

/// A file whose lines are masked before they are written.
struct Page<'a> {
    path: PathBuf,
    out: BufWriter<File>,
    masking: Masking<'a>,
    /// What has come of a line.
    line: Vec<u8>,
}

impl Page<'_> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() >= LONGEST_LINE {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        let masked = self.masking.line(&self.line);
        self.line.clear();
        self.out.write_all(&masked)
    }

    /// All that can be read there.
    fn copy(&mut self, from: impl io::Read) -> Result<(), LogsError> {
        let mut from = BufReader::new(from);
        loop {
            let read = from.fill_buf().map(<[u8]>::to_vec);
            let taken = read.and_then(|bytes| self.take(&bytes).map(|()| bytes.len()));
            match taken.map_err(|error| LogsError::Write { path: self.path.clone(), error })? {
                0 => return self.finish(),
                count => from.consume(count),
            }
        }
    }

    fn finish(&mut self) -> Result<(), LogsError> {
        let ended = if self.line.is_empty() { Ok(()) } else { self.end_line() };
        let written = ended.and_then(|()| self.out.flush());
        written.map_err(|error| LogsError::Write { path: self.path.clone(), error })
    }
}

impl AsyncWrite for Page<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.take(bytes).map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use crate::adapters::engine::Engine;
    use crate::adapters::kubeconfig::{Environment, Files};
    use crate::adapters::paths::Paths;
    use crate::documents::render::Templates;
    use crate::progress::Reporter;

    use super::*;

    fn archive(files: &[(&str, &str)]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        let mut builder = tar::Builder::new(&mut file);
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            // The name as it is: what builds archives refuses such ones.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.finish().unwrap();
        drop(builder);
        file.rewind().unwrap();
        file
    }

    #[test]
    fn nothing_is_written_outside_and_nothing_unmasked() {
        let (folder, engine) = Engine::silent();
        let paths = Paths::at(folder.path().join("data"), folder.path().join("config"));
        let context = Context {
            engine,
            reporter: Reporter::silent(),
            paths,
            templates: std::sync::Arc::new(Templates::built_in()),
            kubeconfig: Files::choose(Some(&folder.path().join("kubeconfig")), &Environment::default()).unwrap(),
            patience: Duration::ZERO,
        };
        let secrets = Secrets::default();
        let book = Book { context: &context, secrets: &secrets, folder: &folder.path().join("logs") };
        let inside = folder.path().join("logs/node");
        let files = [
            ("./pods/a/0.log", "token abcdef.0123456789abcdef\nno end"),
            ("../outside", "x"),
            ("/absolute", "x"),
            ("./pods/../../../up", "x"),
            ("./pods/a/0.log", "again"),
        ];
        assert!(book.unpack(archive(&files), &inside).is_ok());
        assert_eq!(std::fs::read_to_string(inside.join("pods/a/0.log")).unwrap(), "token [masked]\nno end");
        let all =
            |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(all(&inside), ["pods"]);
        assert_eq!(all(&folder.path().join("logs")), ["node"]);
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let name = "class".parse().unwrap();
        assert!(prepare(Some(folder.path().join("new/one")), &name).is_ok());
        std::fs::write(folder.path().join("mine"), "x").unwrap();
        assert!(matches!(prepare(Some(folder.path().to_owned()), &name), Err(LogsError::NotEmpty(_))));
    }
}
