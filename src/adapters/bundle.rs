//! Writing a rendered bundle into a folder that somebody else may have prepared.
//!
//! Owns that nothing outside that folder is ever written: no symbolic link is followed, neither in place of the folder
//! nor in it, and none is written through. What is in the bundle is left to `render`.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::documents::files::FileEntry;
use crate::documents::render::{Bundle, Document};

/// A bundle could not be written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BundleError {
    /// Something else than a folder or a file is where one has to be.
    #[error("{path} is a symbolic link, or no {wanted}: nothing is written there", path = path.display())]
    #[diagnostic(code(kprov::render::link), help("remove it, or choose another folder for `--out`"))]
    InTheWay {
        /// The folder or file.
        path: PathBuf,
        /// `folder` or `regular file`.
        wanted: &'static str,
    },
    /// A file could not be written.
    #[error("{path} could not be written: {error}", path = path.display())]
    #[diagnostic(code(kprov::render::write))]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// A file of a bundle on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was there already and has been left alone, since it holds keys.
    pub kept: bool,
}

/// What is written.
struct Item<'a> {
    /// Its path within the bundle, with slashes.
    name: &'a str,
    content: &'a [u8],
    mode: u32,
    /// Whether it stays as it is if it is there already.
    stays: bool,
}

impl<'a> From<&'a Document> for Item<'a> {
    fn from(document: &'a Document) -> Self {
        // A bundle that has been used must go on fitting the cluster made from it.
        let (mode, stays) = if document.secret { (0o600, true) } else { (0o644, false) };
        Self { name: &document.name, content: document.content.as_bytes(), mode, stays }
    }
}

impl<'a> From<&'a FileEntry> for Item<'a> {
    fn from(file: &'a FileEntry) -> Self {
        Self { name: &file.path, content: &file.content, mode: file.mode, stays: false }
    }
}

/// Writes the documents of `bundle`, and `programs` beside them, whose paths are within it, into the folder `out`, which is made
/// if it is not there; so are its parents, in which links are followed as usual. Documents with keys get mode 0600, and one that is
/// there already stays.
///
/// # Errors
/// [`BundleError::InTheWay`] if a link, or anything but a file, is where a document has to go: then no document has been
/// written. [`BundleError::Write`] if the system refuses.
pub fn write(out: &Path, bundle: &Bundle, programs: &[FileEntry]) -> Result<Vec<Written>, BundleError> {
    let root = root(out)?;
    let items: Vec<Item<'_>> = bundle.documents.iter().map(Item::from).chain(programs.iter().map(Item::from)).collect();
    let mut places = Vec::with_capacity(items.len());
    for item in &items {
        places.push(Place::find(&root, out, item)?);
    }
    let mut written = Vec::with_capacity(places.len());
    for (place, item) in places.into_iter().zip(&items) {
        let kept = place.exists && item.stays;
        if !kept {
            place.write(item).map_err(|error| BundleError::Write { path: place.path.clone(), error })?;
        }
        written.push(Written { path: place.path, kept });
    }
    Ok(written)
}

/// Where a document goes: its folder, held open so that nobody can exchange it meanwhile.
struct Place<'a> {
    folder: OwnedFd,
    name: &'a str,
    path: PathBuf,
    exists: bool,
}

impl<'a> Place<'a> {
    fn find(root: &OwnedFd, out: &Path, item: &Item<'a>) -> Result<Self, BundleError> {
        let path = out.join(item.name);
        let fail = |error: io::Error| BundleError::Write { path: path.clone(), error };
        let (folders, name) = item.name.rsplit_once('/').unwrap_or(("", item.name));
        let mut folder = root.try_clone().map_err(fail)?;
        let mut at = out.to_owned();
        for part in folders.split('/').filter(|part| !part.is_empty()) {
            at.push(part);
            let mode = if item.mode & 0o077 == 0 { 0o700 } else { 0o755 };
            folder = enter(folder.as_fd(), Path::new(part), &at, mode)?;
        }
        let exists = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => true,
            Ok(_) => return Err(BundleError::InTheWay { path, wanted: "regular file" }),
            Err(Errno::NOENT) => false,
            Err(error) => return Err(fail(error.into())),
        };
        Ok(Self { folder, name, path, exists })
    }

    /// All or nothing, and never through what is there: a new file takes its name.
    fn write(&self, item: &Item<'_>) -> io::Result<()> {
        let passing = format!(".{}.kprov-new", self.name);
        match unlinkat(&self.folder, &passing, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(openat(&self.folder, &passing, flags, Mode::from_raw_mode(0o600))?);
        let written = file.write_all(item.content).and_then(|()| {
            fchmod(&file, Mode::from_raw_mode(item.mode))?;
            file.sync_all()?;
            Ok(renameat(&self.folder, &passing, &self.folder, self.name)?)
        });
        if written.is_err() {
            // The first error is the one to tell.
            let _ = unlinkat(&self.folder, &passing, AtFlags::empty());
        }
        written
    }
}

/// The folder of the bundle. What it lies in is the user's own affair; the folder itself must not be a link.
fn root(out: &Path) -> Result<OwnedFd, BundleError> {
    let fail = |error: io::Error| BundleError::Write { path: out.to_owned(), error };
    let (parent, name) = match (out.parent(), out.file_name()) {
        (Some(parent), Some(name)) => (parent, Path::new(name)),
        // `/`, or a path that ends in `..`.
        _ => (out, Path::new(".")),
    };
    let parent = if parent == Path::new("") { Path::new(".") } else { parent };
    std::fs::create_dir_all(parent).map_err(fail)?;
    let parent = std::fs::File::open(parent).map_err(fail)?;
    enter(parent.as_fd(), name, out, 0o755)
}

/// Opens the folder `name` in `parent`, making it if need be, without following a link.
fn enter(parent: BorrowedFd<'_>, name: &Path, path: &Path, mode: u32) -> Result<OwnedFd, BundleError> {
    let fail = |error: Errno| BundleError::Write { path: path.to_owned(), error: error.into() };
    match mkdirat(parent, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(fail(error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|error| match error {
        // Systems differ in which of them a link is.
        Errno::LOOP | Errno::NOTDIR => BundleError::InTheWay { path: path.to_owned(), wanted: "folder" },
        error => fail(error),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn bundle(text: &str) -> Bundle {
        let document = |name: &str, secret| Document { name: name.to_owned(), content: text.to_owned().into(), secret };
        Bundle { documents: vec![document("cluster.yaml", false), document("encryption/config.yaml", true)] }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn documents_are_written_anew_and_keys_kept() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/b");
        let kept = |text| write(&out, &bundle(text), &[]).unwrap().iter().map(|one| one.kept).collect::<Vec<_>>();
        assert_eq!(kept("one"), [false, false]);
        assert_eq!(kept("two"), [false, true]);
        let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
        assert_eq!((read("cluster.yaml"), read("encryption/config.yaml")), ("two".to_owned(), "one".to_owned()));
        assert_eq!([mode(&out.join("encryption/config.yaml")), mode(&out.join("encryption"))], [0o600, 0o700]);
        assert_eq!(fs::read_dir(&out).unwrap().count(), 2);
    }

    #[test]
    fn no_link_is_followed() {
        let outside = tempfile::tempdir().unwrap();
        let theirs = outside.path().join("theirs");
        for link in ["out", "out/encryption", "out/cluster.yaml", "out/encryption/config.yaml"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(&theirs, "theirs").unwrap();
            let link = folder.path().join(link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(if link.extension().is_some() { &theirs } else { outside.path() }, &link).unwrap();
            let error = write(&folder.path().join("out"), &bundle("ours"), &[]).unwrap_err();
            assert!(matches!(&error, BundleError::InTheWay { path, .. } if *path == link), "{error}");
            assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
            assert!(!folder.path().join("out/cluster.yaml").is_file() || link.ends_with("cluster.yaml"));
        }
    }
}
