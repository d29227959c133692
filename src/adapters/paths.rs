//! Where kprov keeps its files on the host, and how it writes them.
//!
//! Owns the user's data and configuration folders (XDG on every system), their
//! modes, and writing a file so that a reader or a crash never meets half of it.
//! Leaves what the files say to those who write them.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, fchown};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;
use etcetera::base_strategy::Xdg;
use zeroize::Zeroizing;

use crate::documents::names::ClusterName;

/// A folder or file of kprov's own that could not be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PathsError {
    /// There is no home folder to start from.
    #[error("there is no home folder")]
    #[diagnostic(help("set HOME, or XDG_DATA_HOME and XDG_CONFIG_HOME"))]
    NoHome,
    /// A folder could not be made.
    #[error("the folder {path} could not be made: {error}", path = path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file could not be read.
    #[error("{path} could not be read: {error}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file could not be written. The old one, if any, is still there.
    #[error("{path} could not be written: {error}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The user's folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    data: PathBuf,
    config: PathBuf,
}

impl Paths {
    /// `$XDG_DATA_HOME/kprov` and `$XDG_CONFIG_HOME/kprov`, with the defaults of the XDG specification.
    ///
    /// # Errors
    /// [`PathsError::NoHome`] if neither those variables nor a home folder are known.
    pub fn from_process() -> Result<Self, PathsError> {
        let xdg = Xdg::new().map_err(|_| PathsError::NoHome)?;
        Ok(Self::at(xdg.data_dir().join("kprov"), xdg.config_dir().join("kprov")))
    }

    /// These two folders.
    #[must_use]
    pub fn at(data: PathBuf, config: PathBuf) -> Self {
        Self { data, config }
    }

    /// What kprov keeps between commands. Private: it holds keys.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// What the user keeps for kprov: profiles and templates of their own.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The folder of all clusters' folders.
    #[must_use]
    pub fn clusters(&self) -> PathBuf {
        self.data.join("clusters")
    }

    /// The folder of one cluster.
    #[must_use]
    pub fn cluster(&self, name: &ClusterName) -> PathBuf {
        self.clusters().join(name.as_str())
    }

    /// The folder where the logs of failed nodes are kept.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.data.join("logs")
    }
}

/// Makes `path` and what it lies in, each new folder with mode 0700. Folders that exist stay as they are.
///
/// # Errors
/// [`PathsError::Create`] if a folder could not be made, or something that is no folder is in the way.
pub fn create_private_dir(path: &Path) -> Result<(), PathsError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| PathsError::Create { path: path.to_owned(), error })
}

/// Writes `bytes` to `path` with mode 0600, all or nothing: a reader sees the old file or the new one, and so
/// does whoever comes after a crash. A missing folder is made with mode 0700. A file that belonged to another
/// user (kprov run by sudo) stays theirs.
///
/// # Errors
/// [`PathsError::Create`] or [`PathsError::Write`]; the old file is then untouched.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), PathsError> {
    let folder = folder_of(path);
    create_private_dir(folder)?;
    replace(path, folder, bytes).map_err(|error| PathsError::Write { path: path.to_owned(), error })
}

fn replace(path: &Path, folder: &Path, bytes: &[u8]) -> io::Result<()> {
    // tempfile makes it 0600 whatever the umask, and removes it again if we leave early.
    let mut file = tempfile::Builder::new().prefix(&temporary_prefix(path)?).tempfile_in(folder)?;
    if let Ok(old) = fs::symlink_metadata(path) {
        let new = file.as_file().metadata()?;
        let same_user = old.uid() == new.uid();
        if !(same_user && old.gid() == new.gid()) {
            // The owner matters; a group that we may not give is not worth failing for.
            match fchown(file.as_file(), Some(old.uid()), Some(old.gid())) {
                Err(error) if !same_user => return Err(error),
                _ => {}
            }
        }
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The new name is durable only once the folder is.
    File::open(folder)?.sync_all()
}

/// Removes what earlier writers of `path` left because they were killed midway. Only for a caller that holds
/// a lock on `path`: it cannot tell the left-overs from a file that is just being written.
pub(crate) fn remove_leftovers(path: &Path) {
    for file in temporaries(path) {
        // Best effort: a left-over does no harm.
        let _ = fs::remove_file(file);
    }
}

/// The files that are or were on their way to become `path`.
pub(crate) fn temporaries(path: &Path) -> Vec<PathBuf> {
    let Ok(prefix) = temporary_prefix(path) else { return Vec::new() };
    let Ok(entries) = fs::read_dir(folder_of(path)) else { return Vec::new() };
    let is_one = |name: &OsString| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
    entries.flatten().filter(|entry| is_one(&entry.file_name())).map(|entry| entry.path()).collect()
}

/// How the names of temporary files for `path` begin.
pub(crate) fn temporary_prefix(path: &Path) -> io::Result<OsString> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a file name"))?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".kprov-");
    Ok(prefix)
}

/// The folder that `path` lies in; `.` for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// The bytes of `path`, wiped when dropped; `None` if there is no such file.
///
/// # Errors
/// [`PathsError::Read`] if it is there, but cannot be read.
pub fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, PathsError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PathsError::Read { path: path.to_owned(), error }),
    }
}

/// The same, of a file that has at most so many bytes: it may be a stranger's, or have no end.
///
/// # Errors
/// [`PathsError::Read`], also if there are more.
pub fn read_within(path: &Path, most: u64) -> Result<Option<Zeroizing<Vec<u8>>>, PathsError> {
    let fail = |error| PathsError::Read { path: path.to_owned(), error };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > most {
        return Err(fail(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"))));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_has_no_end_is_read_no_further_than_it_may_be_long() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        fs::write(&file, "12345").unwrap();
        assert_eq!(read_within(&file, 5).unwrap().unwrap().as_slice(), b"12345");
        assert!(read_within(&file, 4).unwrap_err().to_string().contains('4'));
        assert!(read_within(Path::new("/dev/zero"), 1 << 20).is_err());
        assert!(read_within(&folder.path().join("b"), 4).unwrap().is_none());
    }

    #[test]
    fn folders_lie_where_they_should() {
        let paths = Paths::at("/d/kprov".into(), "/c/kprov".into());
        assert_eq!(paths.cluster(&"demo".parse().unwrap()), Path::new("/d/kprov/clusters/demo"));
        assert_eq!(paths.logs(), Path::new("/d/kprov/logs"));
        assert_eq!((paths.data(), paths.config()), (Path::new("/d/kprov"), Path::new("/c/kprov")));
    }

    #[test]
    fn files_and_new_folders_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        write_private(&path, b"one").unwrap();
        assert_eq!(
            (mode(&folder.path().join("a")), mode(&folder.path().join("a/b")), mode(&path)),
            (0o700, 0o700, 0o600)
        );
        assert_eq!(read(&path).unwrap().unwrap().as_slice(), b"one");
        assert!(read(&folder.path().join("none")).unwrap().is_none());
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old and longer").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_state() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("folder");
        fs::create_dir(&path).unwrap();
        let error = write_private(&path, b"new").unwrap_err();
        assert!(error.to_string().contains("could not be written"), "{error}");
        assert_eq!(names(folder.path()), ["folder"]);
    }

    #[test]
    fn a_link_in_a_folder_is_no_target() {
        // Whoever wants links followed resolves them first; here a link is replaced, never written through.
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "theirs").unwrap();
        symlink(&target, &link).unwrap();
        write_private(&link, b"ours").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert_eq!(fs::read(&link).unwrap(), b"ours");
    }

    #[test]
    fn leftovers_of_that_file_alone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".config.kprov-Ab12", ".other.kprov-Ab12", "config", ".config"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        remove_leftovers(&folder.path().join("config"));
        assert_eq!(names(folder.path()), [".config", ".other.kprov-Ab12", "config"]);
    }
}
