//! The README's first command, run on a pristine machine.
//!
//! The machine is a new Debian root in namespaces of its own, with a Rust toolchain and a C compiler and nothing else: no
//! cache, no engine, no program that this machine happens to have. What makes and removes it is in `tests/xtask/fresh`;
//! this module decides what is run, and remembers what has been proven in `fresh.lock`.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    apt,
    cache::{self, Key},
    ground::workspace,
    sh::{self, cmd},
    tools,
};

/// The Debian releases that a machine is made of.
const SUITES: [&str; 2] = ["bookworm", "trixie"];

/// The files that decide whether the first command works on a new machine, apart from kprov itself: that one is tested by
/// `test`. The lock file says what has to be compiled, the manifests of all members whether cargo begins at all, and with
/// which features.
const INPUTS: [&str; 8] = [
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "tests/bench/Cargo.toml",
    "tests/node-image",
    "tests/record/Cargo.toml",
    "tests/support/Cargo.toml",
    "tests/xtask",
];

/// What has been proven, below the workspace.
const LOCK: &str = "tests/xtask/fresh.lock";

/// Options of `fresh`.
#[derive(Args)]
pub(crate) struct Options {
    /// The Debian release of the machine, instead of each in turn.
    #[arg(long, value_name = "SUITE", value_parser = SUITES)]
    suite: Vec<String>,
    /// What is run: a clean checkout of this commit.
    #[arg(long, value_name = "COMMIT", default_value = "HEAD")]
    commit: String,
    /// Leave out releases on which the same files have been proven, as `tests/xtask/fresh.lock` has it.
    #[arg(long)]
    if_changed: bool,
}

/// Runs the first command on each machine; an error unless it succeeds on all of them.
pub(crate) fn run(options: &Options) -> Result<()> {
    apt::need(&[("git", "git")])?;
    let commit =
        git(["rev-parse", "--verify", "--quiet", &format!("{}^{{commit}}", options.commit)]).with_context(|| {
            format!("`{}` is no commit of a git checkout, and a clean checkout is needed", options.commit)
        })?;
    let first = first_command(&git(["show", &format!("{commit}:README.md")])?)
        .context("the README of that commit has no `cargo xtask` command")?;
    let inputs = inputs(&commit, &first)?;
    if !git(["status", "--porcelain"])?.is_empty() {
        eprintln!("xtask: what is not committed is left out");
    }

    let suites = if options.suite.is_empty() { SUITES.map(str::to_owned).to_vec() } else { options.suite.clone() };
    for suite in &suites {
        if options.if_changed && Proven::read()?.holds(suite, &inputs) {
            eprintln!("xtask: `{first}` has been proven on a pristine {suite} with these files ({inputs})");
            continue;
        }
        prove(suite, &commit, &first)?;
        if commit == git(["rev-parse", "HEAD"])? {
            let mut proven = Proven::read()?;
            proven.add(suite, &inputs);
            proven.write()?;
        }
    }
    Ok(())
}

/// Makes a machine, runs the command on it, and removes the machine.
fn prove(suite: &str, commit: &str, first: &str) -> Result<()> {
    if !sh::is_root() {
        bail!("a pristine machine can only be made by root");
    }
    if !Path::new("/dev/net/tun").exists() {
        bail!("a pristine machine reaches the network by /dev/net/tun, which is missing here: `modprobe tun` may help");
    }
    apt::need(&[
        ("slirp4netns", "slirp4netns"),
        ("tar", "tar"),
        ("unshare", "util-linux"),
        ("pivot_root", "util-linux"),
        ("mount", "mount"),
    ])?;
    let folder = cache::root()?.join("fresh");
    fs::create_dir_all(&folder)?;
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;

    let toolchain = sh::output(&mut cmd("rustc", ["--print", "sysroot"]))?;
    let mut command = cmd("sh", [workspace().join("tests/xtask/fresh/machine.sh")]);
    command
        .args([suite, &apt::mirror(), apt::KEYRING])
        .arg(tools::mmdebstrap()?)
        .arg(toolchain)
        .arg(cargo_settings())
        .arg(workspace().canonicalize()?)
        .args([commit, first])
        .arg(folder.join(suite));
    eprintln!("xtask: making a pristine {suite}, to run `{first}` of {} on it", &commit[..commit.len().min(12)]);
    sh::run(bare(&mut command)).map_err(|_| {
        anyhow::anyhow!(
            "`{first}` does not work on a pristine {suite}; the lines above say where it failed, and \
             `cargo xtask fresh --suite {suite}` tries again"
        )
    })
}

/// The same command with nothing of this environment but what says how the network is reached.
fn bare(command: &mut Command) -> &mut Command {
    let kept = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(concerns_network));
    command.env_clear().envs(kept).env("PATH", sh::search_path([])).env("LC_ALL", "C.UTF-8")
}

/// Whether a variable says how package registries are reached. A token is for the owner of this machine alone.
fn concerns_network(name: &str) -> bool {
    let upper = name.to_uppercase();
    let cargo = ["CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];
    !upper.contains("TOKEN")
        && (upper == "KPROV_DEBIAN_MIRROR"
            || upper.ends_with("_PROXY")
            || cargo.iter().any(|prefix| upper.starts_with(prefix)))
}

/// The user's settings of cargo, which say where registries are; a path that need not exist.
fn cargo_settings() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
        .unwrap_or_default();
    let new = home.join("config.toml");
    if new.is_file() { new } else { home.join("config") }
}

/// The first command that the README gives to those who have nothing but Rust.
fn first_command(readme: &str) -> Option<String> {
    let line = readme.lines().find(|line| line.starts_with("cargo xtask "))?;
    Some(line.split('#').next().unwrap_or(line).trim().to_owned())
}

/// The identity of all that the outcome depends on.
fn inputs(commit: &str, first: &str) -> Result<String> {
    let files = sh::output(git_command(["ls-tree", "-r", commit, "--"]).args(INPUTS))?;
    let files = files.lines().filter(|line| !line.ends_with(LOCK));
    let key = files.fold(Key::new(first), Key::with);
    Ok(key.short())
}

fn git<const N: usize>(arguments: [&str; N]) -> Result<String> {
    sh::output(&mut git_command(arguments))
}

fn git_command<const N: usize>(arguments: [&str; N]) -> Command {
    let mut command = cmd("git", arguments);
    command.current_dir(workspace());
    command
}

/// What `fresh.lock` says: for each release, the identity of the files that were last proven on it. Nobody writes it by
/// hand.
#[derive(Default)]
struct Proven(Vec<(String, String)>);

impl Proven {
    fn file() -> PathBuf {
        workspace().join(LOCK)
    }

    fn read() -> Result<Self> {
        match fs::read_to_string(Self::file()) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {LOCK}")),
        }
    }

    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(|line| line.split_once(' ')).map(|(suite, key)| (suite.into(), key.into())).collect())
    }

    fn holds(&self, suite: &str, inputs: &str) -> bool {
        self.0.iter().any(|(known, key)| known == suite && key == inputs)
    }

    fn add(&mut self, suite: &str, inputs: &str) {
        self.0.retain(|(known, _)| known != suite);
        self.0.push((suite.to_owned(), inputs.to_owned()));
        self.0.sort();
    }

    fn text(&self) -> String {
        let mut text = "# Written by `cargo xtask fresh`: what has been proven on a pristine machine.\n".to_owned();
        for (suite, key) in &self.0 {
            text += &format!("{suite} {key}\n");
        }
        text
    }

    fn write(&self) -> Result<()> {
        fs::write(Self::file(), self.text()).with_context(|| format!("cannot write {LOCK}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_command_is_the_readmes() {
        let readme = "# kprov\n\n```\ncargo install --path .\ncargo xtask demo     # all\ncargo xtask test\n```\n";
        assert_eq!(first_command(readme).as_deref(), Some("cargo xtask demo"));
        assert_eq!(first_command("Run cargo xtask demo."), None);
    }

    #[test]
    fn the_manifest_of_each_member_is_an_input() {
        let manifest = fs::read_to_string(workspace().join("Cargo.toml")).unwrap();
        let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")?.strip_suffix(']')).unwrap();
        let members: Vec<&str> = members.split(',').map(|member| member.trim().trim_matches('"')).collect();
        assert!(members.contains(&"tests/xtask"));
        for member in members {
            let manifest = format!("{member}/Cargo.toml");
            assert!(INPUTS.contains(&member) || INPUTS.contains(&manifest.as_str()), "{manifest}");
        }
        for input in INPUTS {
            assert!(workspace().join(input).exists(), "{input}");
        }
    }

    #[test]
    fn what_was_proven_is_remembered_for_each_release() {
        let mut proven = Proven::default();
        proven.add("trixie", "1");
        proven.add("bookworm", "1");
        proven.add("trixie", "2");
        let read = Proven::parse(&proven.text());
        assert!(read.holds("bookworm", "1") && read.holds("trixie", "2"));
        assert!(!read.holds("trixie", "1") && !read.holds("sid", "2"));
    }

    #[test]
    fn only_the_network_is_taken_along() {
        for name in ["http_proxy", "NO_PROXY", "KPROV_DEBIAN_MIRROR", "CARGO_HTTP_CAINFO", "CARGO_SOURCE_A_REGISTRY"] {
            assert!(concerns_network(name), "{name}");
        }
        for name in ["DOCKER_HOST", "RUSTFLAGS", "CARGO_REGISTRIES_A_TOKEN", "CARGO_TARGET_DIR", "CARGO_HOME", "PATH"] {
            assert!(!concerns_network(name), "{name}");
        }
    }
}
