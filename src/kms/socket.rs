//! The socket's file: made so that nobody else can ever connect, stale ones taken away, live ones left alone.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::KmsError;

/// That many clients may wait to be accepted.
const BACKLOG: i32 = 64;

/// A listening socket, whose file is removed when it is dropped.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, to tell our file from one that took its place.
    identity: (u64, u64),
}

impl Socket {
    /// Listens at `path`. Its folder must belong to root or this user and be closed to everybody else.
    ///
    /// # Errors
    /// [`KmsError::Folder`], [`KmsError::InUse`] or [`KmsError::Socket`].
    pub(super) fn bind(path: &Path) -> Result<Self, KmsError> {
        let fail = |error: io::Error| KmsError::Socket { path: path.to_owned(), error };
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        };
        let handle = check_folder(folder)?;
        // Of two plugins that start at once, the second waits here, and then finds the first one's socket alive.
        rustix::fs::flock(&handle, FlockOperation::LockExclusive).map_err(|error| fail(error.into()))?;
        remove_stale(path)?;
        let listener = listen(path).map_err(fail)?;
        let metadata = fs::symlink_metadata(path).map_err(fail)?;
        Ok(Self { listener, path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }

    pub(super) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

/// A socket whose file has mode 0600 from its first moment on: Linux takes the mode from the socket itself, which
/// spares the umask, the whole process's.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| ours(&metadata)) {
            // A file that stays is stale, and the next start takes it away.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn check_folder(folder: &Path) -> Result<fs::File, KmsError> {
    let fail = |problem: String| KmsError::Folder { path: folder.to_owned(), problem };
    let handle = fs::File::open(folder).map_err(|error| fail(format!("cannot be opened: {error}")))?;
    let metadata = handle.metadata().map_err(|error| fail(format!("cannot be looked at: {error}")))?;
    if !metadata.is_dir() {
        return Err(fail("is no folder".to_owned()));
    }
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(fail(format!("belongs to the user {}", metadata.uid())));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(fail(format!("is open to others: its mode is {:o}", metadata.mode() & 0o777)));
    }
    Ok(handle)
}

/// Removes what a killed plugin left at `path`.
fn remove_stale(path: &Path) -> Result<(), KmsError> {
    let fail = |error: io::Error| KmsError::Socket { path: path.to_owned(), error };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(fail(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket")));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(fail),
        // A full backlog (EAGAIN) has somebody behind it, too.
        _ => Err(KmsError::InUse { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn folder() -> tempfile::TempDir {
        // By itself, tempfile leaves the mode to the umask.
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_owner() {
        let folder = folder();
        let path = folder.path().join("kms.sock");
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let folder = folder();
        let path = folder.path().join("kms.sock");
        // What a kill leaves: the file, with nobody behind it.
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(KmsError::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok(), "the live one still answers");
        drop(socket);
    }

    #[test]
    fn a_socket_that_took_our_place_is_left_alone() {
        let folder = folder();
        let path = folder.path().join("kms.sock");
        let ours = Socket::bind(&path).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(UnixStream::connect(&path).is_ok());
        drop(theirs);
    }

    #[test]
    fn other_files_are_never_removed() {
        let folder = folder();
        let path = folder.path().join("kms.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(Socket::bind(&path), Err(KmsError::Socket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        // Nor is a link followed, be it to a file, to nothing, or to somebody's socket, stale or not.
        let (link, other) = (folder.path().join("link"), folder.path().join("other"));
        drop(UnixListener::bind(&other).unwrap());
        for target in [&path, &other, &folder.path().join("nothing")] {
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(matches!(Socket::bind(&link), Err(KmsError::Socket { .. })));
            assert!(link.is_symlink());
            fs::remove_file(&link).unwrap();
        }
        assert!(other.exists() && !folder.path().join("nothing").exists());
    }

    #[test]
    fn a_folder_that_lets_others_in_is_refused() {
        let folder = folder();
        for mode in [0o755, 0o710, 0o701] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = Socket::bind(&folder.path().join("kms.sock")).err().unwrap();
            assert!(error.to_string().contains(&format!("its mode is {mode:o}")), "{error}");
        }
        assert!(matches!(Socket::bind(&folder.path().join("none/kms.sock")), Err(KmsError::Folder { .. })));
    }
}
