//! This program, for running in a node: the executable, and, unless it is static, the very libraries that it runs with.
//!
//! The node's own C library may be older than the one that kprov was built for, so the host's comes along, with its
//! loader: whatever kprov a user has, it runs in a node as well, without a second build. Where this host is no Linux, or of
//! another architecture than the engine's, a Linux build is named by `KPROV_KMS_PLUGIN`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::documents::files::FileEntry;

/// The variable that names another build of kprov to be put into nodes.
const VARIABLE: &str = "KPROV_KMS_PLUGIN";

/// Why there is no program for a node.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ProgramError {
    /// A file could not be read.
    #[error("{path}, which is to run in the nodes, could not be read: {error}", path = path.display())]
    #[diagnostic(code(kprov::program::file))]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The program does not run on the engine's nodes.
    #[error("{path} cannot run in the nodes: {reason}", path = path.display())]
    #[diagnostic(
        code(kprov::program::unfit),
        help(
            "build kprov for the nodes, statically (RUSTFLAGS=-Ctarget-feature=+crt-static cargo build --release --target x86_64-unknown-linux-gnu, or the architecture of your engine), and name it by KPROV_KMS_PLUGIN=FILE"
        )
    )]
    Unfit {
        /// The program.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// The files that put this program into the folder `folder` of a node of `architecture`, as the engine calls it: `kprov`, and
/// its libraries with their `loader` in `lib`, unless it needs none.
///
/// # Errors
/// [`ProgramError::File`] if the program or one of its libraries cannot be read; [`ProgramError::Unfit`] if it is none for
/// Linux on that architecture, or the one that the environment names needs libraries.
pub fn files(architecture: &str, folder: &str) -> Result<Vec<FileEntry>, ProgramError> {
    if let Some(path) = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let bytes = read(&path)?;
        let unfit = |reason: String| ProgramError::Unfit { path: path.clone(), reason };
        if Elf::of(&bytes, architecture).map_err(unfit)?.loader.is_some() {
            return Err(unfit("it needs libraries that may not be there; only a static one will do".to_owned()));
        }
        return Ok(vec![FileEntry::new(format!("{folder}/kprov"), 0o700, bytes)]);
    }
    own(architecture, folder)
}

#[cfg(target_os = "linux")]
fn own(architecture: &str, folder: &str) -> Result<Vec<FileEntry>, ProgramError> {
    let path = Path::new("/proc/self/exe");
    let bytes = read(path)?;
    let elf = Elf::of(&bytes, architecture)
        .map_err(|reason| ProgramError::Unfit { path: std::env::current_exe().unwrap_or_default(), reason })?;
    let mut files = Vec::new();
    if let Some(loader) = elf.loader {
        files.push(FileEntry::new(format!("{folder}/lib/loader"), 0o700, read(Path::new(&loader))?));
        let maps = fs::read_to_string("/proc/self/maps")
            .map_err(|error| ProgramError::File { path: "/proc/self/maps".into(), error })?;
        for library in libraries(&maps) {
            let bytes = read(&library)?;
            for name in names(&library) {
                files.push(FileEntry::new(format!("{folder}/lib/{name}"), 0o600, bytes.clone()));
            }
        }
    }
    files.push(FileEntry::new(format!("{folder}/kprov"), 0o700, bytes));
    Ok(files)
}

#[cfg(not(target_os = "linux"))]
fn own(_: &str, _: &str) -> Result<Vec<FileEntry>, ProgramError> {
    let path = std::env::current_exe().unwrap_or_default();
    Err(ProgramError::Unfit { path, reason: "it is not built for Linux".to_owned() })
}

fn read(path: &Path) -> Result<Vec<u8>, ProgramError> {
    fs::read(path).map_err(|error| ProgramError::File { path: path.to_owned(), error })
}

/// The shared libraries that a process has in its memory, by its `/proc/PID/maps`.
#[cfg(target_os = "linux")]
fn libraries(maps: &str) -> Vec<PathBuf> {
    // The sixth column is the path, which may hold spaces.
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|start| &line[start..]));
    let is_library = |path: &&str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        (name.ends_with(".so") || name.contains(".so.")) && !path.ends_with(" (deleted)")
    };
    let mut found: Vec<PathBuf> = mapped.filter(is_library).map(PathBuf::from).collect();
    found.sort();
    found.dedup();
    found
}

/// The names by which a library may be looked for: its own, and those of the links to it beside it.
#[cfg(target_os = "linux")]
fn names(library: &Path) -> Vec<String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = name(library).into_iter().collect();
    let entries = library.parent().and_then(|folder| fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let links_here = path.is_symlink() && fs::canonicalize(&path).is_ok_and(|to| to == library);
        if let Some(link) = name(&path).filter(|link| links_here && link.contains(".so") && !names.contains(link)) {
            names.push(link);
        }
    }
    names
}

/// What of an executable decides where it runs.
#[derive(Debug, PartialEq, Eq)]
struct Elf {
    /// What loads its libraries; `None` for a static one.
    loader: Option<String>,
}

impl Elf {
    /// Reads an executable of `architecture`.
    fn of(bytes: &[u8], architecture: &str) -> Result<Self, String> {
        // System V ABI, "ELF Header" and "Program Header", of 64 bits, little-endian.
        const INTERP: u32 = 3;
        let short = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| {
            let long = u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?);
            usize::try_from(long).ok()
        };
        if !bytes.starts_with(b"\x7fELF\x02\x01") {
            return Err("it is no 64-bit Linux program".to_owned());
        }
        let machine = match short(18) {
            Some(62) => "x86_64",
            Some(183) => "aarch64",
            other => return Err(format!("it is for another machine (number {})", other.unwrap_or_default())),
        };
        if machine != architecture {
            return Err(format!("it is for {machine}, and the engine is {architecture}"));
        }
        let broken = || "its header breaks off".to_owned();
        let (table, size, count) =
            (long(32).ok_or_else(broken)?, short(54).ok_or_else(broken)?, short(56).ok_or_else(broken)?);
        for index in 0..usize::from(count) {
            let entry = table.saturating_add(index * usize::from(size));
            if entry.checked_add(40).is_none() || word(entry).ok_or_else(broken)? != INTERP {
                continue;
            }
            let (at, length) = (long(entry + 8).ok_or_else(broken)?, long(entry + 32).ok_or_else(broken)?);
            let text = bytes.get(at..at.saturating_add(length)).ok_or_else(broken)?;
            let loader = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
            return Ok(Self { loader: Some(loader) });
        }
        Ok(Self { loader: None })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_very_program_comes_with_what_it_runs_with() {
        let bytes = read(Path::new("/proc/self/exe")).unwrap();
        let elf = Elf::of(&bytes, std::env::consts::ARCH).unwrap();
        let files = own(std::env::consts::ARCH, "/kms").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for file in &files {
            use std::os::unix::fs::PermissionsExt as _;
            let path = folder.path().join(file.path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, file.content.as_slice()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode)).unwrap();
        }
        // It runs by these files alone: the loader says which ones it has found.
        let kms = folder.path().join("kms");
        if elf.loader.is_some() {
            let listed = std::process::Command::new(kms.join("lib/loader"))
                .args(["--inhibit-cache", "--library-path"])
                .arg(kms.join("lib"))
                .arg("--list")
                .arg(kms.join("kprov"))
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&listed.stdout);
            assert!(listed.status.success(), "{text}");
            let elsewhere = |line: &&str| line.contains("=> /") && !line.contains(kms.to_str().unwrap());
            assert_eq!(text.lines().filter(elsewhere).collect::<Vec<_>>(), Vec::<&str>::new());
        }
    }

    #[test]
    fn what_cannot_run_there_is_refused() {
        let bytes = read(Path::new("/proc/self/exe")).unwrap();
        let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
        assert!(Elf::of(&bytes, other).unwrap_err().contains("and the engine is"));
        assert!(Elf::of(b"#!/bin/sh\n", "x86_64").unwrap_err().contains("no 64-bit Linux program"));
        for length in [0, 6, 20, 40, 60, 64, 100] {
            assert!(Elf::of(&bytes[..length], std::env::consts::ARCH).is_err(), "{length}");
        }
    }

    #[test]
    fn libraries_are_those_in_memory() {
        let maps = "7f00-7f01 r-xp 00000000 08:01 12 /lib/libc.so.6\n7f01-7f02 r--p 0 08:01 12 /lib/libc.so.6\n\
                    7f02-7f03 rw-p 0 00:00 0 [heap]\n7f03-7f04 r-xp 0 08:01 9 /usr/bin/kprov\n\
                    7f04-7f05 r-xp 0 08:01 7 /lib/libm-2.31.so\n7f05-7f06 r-xp 0 08:01 7 /lib/old.so (deleted)\n";
        assert_eq!(libraries(maps), [Path::new("/lib/libc.so.6"), Path::new("/lib/libm-2.31.so")]);
    }
}
