//! A Docker Engine that can run nodes.
//!
//! An engine is judged by what it does: it has to run a privileged container. Engines that are there come first; only as
//! root on Debian, and only where `DOCKER_HOST` does not name an engine, is one started, from Debian's packages. Its
//! programs and data lie in one folder of their own, and it outlives the task that started it.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    apt::{self, Apt},
    cache::{self, Key},
    sh::{self, cmd},
    tools,
};

const FOLDER: &str = "/var/lib/kprov-engine";
const RUN_FOLDER: &str = "/run/kprov-engine";
const LOG: &str = "/var/log/kprov-engine.log";
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
const OWN_HOST: &str = "unix:///run/kprov-engine/docker.sock";
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running engine, and how to speak to it.
pub(crate) struct Engine {
    /// What `DOCKER_HOST` has to be.
    pub(crate) host: String,
    /// The docker command line.
    pub(crate) cli: PathBuf,
}

impl Engine {
    /// A docker command for this engine.
    pub(crate) fn docker<A: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = cmd(&self.cli, arguments);
        command.env("DOCKER_HOST", &self.host);
        command
    }

    /// A search path in which the docker command line is found; the real kind, for one, calls it by its name.
    pub(crate) fn search_path(&self) -> std::ffi::OsString {
        sh::search_path(self.cli.parent().map(Path::to_owned))
    }

    /// Whether the engine has an image.
    pub(crate) fn has_image(&self, image: &str) -> bool {
        sh::output(&mut self.docker(["image", "inspect", "--format", "{{.Id}}", image])).is_ok()
    }

    fn answers(&self) -> Result<()> {
        sh::output(&mut self.docker(["version", "--format", "{{.Server.Version}}"])).map(drop)
    }

    /// Runs a privileged container of an image made for it, which needs no registry.
    fn runs_privileged(&self) -> Result<()> {
        let image = format!("kprov/probe:{}", std::process::id());
        let root = probe_root()?;
        sh::pipe(
            cmd("tar", ["--create", "--directory"]).arg(root.path()).arg("."),
            &mut self.docker(["import", "-", &image]),
        )?;
        let result = sh::output(&mut self.docker(["run", "--rm", "--privileged", "--network=none", &image, "/probe"]));
        // The image is removed whatever the outcome.
        let _ = sh::output(&mut self.docker(["image", "rm", "--force", &image]));
        result.map(drop)
    }
}

/// Makes sure that a fit engine runs.
pub(crate) fn ensure() -> Result<Engine> {
    let cli = tools::docker()?;
    let given = std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
    if let Some(host) = given {
        let engine = Engine { host, cli };
        engine
            .answers()
            .with_context(|| format!("the engine that DOCKER_HOST names ({}) does not answer", engine.host))?;
        engine
            .runs_privileged()
            .with_context(|| format!("the engine that DOCKER_HOST names ({}) cannot run nodes", engine.host))?;
        return Ok(engine);
    }

    let mut own_host = DEFAULT_HOST;
    let mut reasons = Vec::new();
    for host in [context_host(&cli), OWN_HOST.into()] {
        let engine = Engine { host, cli: cli.clone() };
        if let Err(error) = engine.answers() {
            reasons.push(format!("{} does not answer: {}", engine.host, last_line(&error)));
            continue;
        }
        match engine.runs_privileged() {
            Ok(()) => return Ok(engine),
            Err(error) => {
                reasons.push(format!("{} cannot run a privileged container: {}", engine.host, last_line(&error)));
                if engine.host == OWN_HOST {
                    bail!("{}\nits log is {LOG}", reasons.join("\n"));
                }
                own_host = OWN_HOST;
            }
        }
    }
    for reason in &reasons {
        eprintln!("xtask: {reason}");
    }
    if !sh::is_root() || !is_debian() {
        bail!(
            "no fit Docker Engine runs here. Start one (version 23 or later) or name one in DOCKER_HOST; \
             as root on Debian, this command installs one itself"
        );
    }
    if own_host == DEFAULT_HOST && Path::new(&socket(DEFAULT_HOST)).exists() && !is_dead_socket() {
        own_host = OWN_HOST;
    }
    let engine = Engine { host: own_host.into(), cli };
    start(&engine)?;
    engine
        .runs_privileged()
        .with_context(|| format!("the engine that was started cannot run nodes; its log is {LOG}"))?;
    Ok(engine)
}

/// The engine that the docker command line would use.
fn context_host(cli: &Path) -> String {
    sh::output(&mut cmd(cli, ["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]))
        .ok()
        .filter(|host| !host.is_empty())
        .unwrap_or_else(|| DEFAULT_HOST.into())
}

fn socket(host: &str) -> String {
    host.trim_start_matches("unix://").to_owned()
}

/// Whether the default socket was left behind by an engine that no longer runs.
fn is_dead_socket() -> bool {
    std::os::unix::net::UnixStream::connect(socket(DEFAULT_HOST))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.lines().any(|line| line == "ID=debian"))
}

fn last_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().last().unwrap_or_default().to_owned()
}

/// Unpacks Debian's engine and starts it.
fn start(engine: &Engine) -> Result<()> {
    apt::need(&[("iptables", "iptables"), ("runc", "runc")])?;
    let key = Key::new("engine").with(apt::ENGINE_SUITE).with(apt::architecture());
    let programs = cache::stage_in(Path::new(FOLDER), "programs", &key, |folder| {
        Apt::open(apt::ENGINE_SUITE)?.unpack(&["docker.io", "containerd"], folder)
    })?;
    fs::create_dir_all(RUN_FOLDER)?;
    forget_dead();
    let log = File::options().create(true).append(true).open(LOG)?;
    let logged = log.metadata()?.len();
    eprintln!("xtask: starting an engine on {}, log in {LOG}", engine.host);
    // A session of its own keeps it running when the terminal, or the step of a CI job, ends; and it holds no stream open
    // whose end somebody awaits.
    let status = cmd("setsid", ["--fork", "dockerd", "--host", &engine.host])
        .args(["--data-root", &format!("{FOLDER}/data")])
        .args(["--exec-root", &format!("{RUN_FOLDER}/exec")])
        .args(["--pidfile", &format!("{RUN_FOLDER}/dockerd.pid")])
        .env("PATH", sh::search_path(["usr/bin", "usr/sbin"].map(|folder| programs.join(folder))))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()
        .context("cannot start the engine: `setsid` (package util-linux) cannot be run")?;
    if !status.success() {
        bail!("cannot start the engine: setsid: {status}");
    }
    let begin = Instant::now();
    loop {
        let Err(error) = engine.answers() else {
            return Ok(());
        };
        let log = log_since(logged);
        if log.contains("failed to start daemon") || begin.elapsed() > START_LIMIT {
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            bail!("the engine did not start: {error:#}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Removes what an engine that was killed left behind. A process that nobody has reaped yet counts as dead; to the engine it
/// would not.
fn forget_dead() {
    let file = format!("{RUN_FOLDER}/dockerd.pid");
    let Ok(pid) = fs::read_to_string(&file) else {
        return;
    };
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let is_engine = state.contains("(dockerd) ") && !state.contains("(dockerd) Z");
    if !is_engine {
        let _ = fs::remove_file(file);
    }
}

/// What the engine has logged after the log had a certain length.
fn log_since(length: u64) -> String {
    let bytes = fs::read(LOG).unwrap_or_default();
    let start = usize::try_from(length).unwrap_or(0).min(bytes.len());
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

/// A file tree with one program, `/probe`, that succeeds: the machine's own `true`, with the libraries that it loads.
fn probe_root() -> Result<tempfile::TempDir> {
    let root = tempfile::tempdir()?;
    let program = sh::find("true").context("this machine has no `true`")?;
    fs::copy(&program, root.path().join("probe"))?;
    // A static program has no libraries, and ldd says so by failing.
    let libraries = sh::output(cmd("ldd", [&program]).env("LC_ALL", "C")).unwrap_or_default();
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.path().join(library.trim_start_matches('/'));
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(library, target)?;
    }
    Ok(root)
}

/// Prints what a shell has to evaluate to use the engine and the tools that tests drive.
pub(crate) fn print_environment(mut to: impl Write) -> Result<()> {
    let engine = ensure()?;
    let kind = tools::kind()?;
    let folders: Vec<String> =
        [kind.parent(), engine.cli.parent()].into_iter().flatten().map(|folder| folder.display().to_string()).collect();
    writeln!(to, "export DOCKER_HOST='{}'", engine.host)?;
    writeln!(to, "export PATH='{}':\"$PATH\"", folders.join(":"))?;
    Ok(())
}
