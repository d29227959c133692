//! Running other programs.
//!
//! A task's standard output is its result, so whatever a program says goes to standard error, and a failure names the
//! command line that failed. Programs are looked for in `PATH` and in the system's own folders.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Where a Debian system has its programs; a user's `PATH` can lack some of these.
const SYSTEM_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A command made of a program and its arguments.
pub(crate) fn cmd<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", search_path([]));
    command
}

/// A search path: some folders, then `PATH`, then the system's folders that are not in it.
pub(crate) fn search_path(first: impl IntoIterator<Item = PathBuf>) -> OsString {
    let mut folders: Vec<PathBuf> = first.into_iter().collect();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    for folder in SYSTEM_FOLDERS.map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    // A folder with a colon in its name can be in no search path.
    std::env::join_paths(folders).unwrap_or_else(|_| SYSTEM_FOLDERS.join(":").into())
}

/// Runs a command to its end; an error unless it succeeds.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    command.stdout(std::io::stderr());
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command to its end and returns what it printed, trimmed; an error, with what it complained of, unless it
/// succeeds.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}\n{}", line(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Pipes one command's output into another and returns what that one printed.
pub(crate) fn pipe(from: &mut Command, to: &mut Command) -> Result<String> {
    let mut source = from.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{}`", line(from)))?;
    let Some(stream) = source.stdout.take() else {
        bail!("`{}` has no output", line(from));
    };
    let result = to
        .stdin(stream)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .and_then(std::process::Child::wait_with_output)
        .with_context(|| format!("cannot run `{}`", line(to)));
    let status = source.wait()?;
    let result = result?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(from));
    }
    if !result.status.success() {
        bail!("`{}` failed: {}", line(to), result.status);
    }
    Ok(String::from_utf8_lossy(&result.stdout).trim().to_owned())
}

/// Where a program lies, if it is in the search path.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&search_path([])).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    output(&mut cmd("id", ["-u"])).is_ok_and(|id| id == "0")
}

fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
