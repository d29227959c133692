//! The lock beside a kubeconfig, as every Kubernetes client takes it: whoever
//! manages to create `FILE.lock` may change `FILE`, until it removes the lock.
//!
//! Owns one addition that other clients do not see: our own lock says that it is
//! ours and is also held with flock(2), so that the lock of a kprov that was killed
//! can be told from that of one at work, and be removed.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::adapters::paths;

const MARK: &[u8] = b"kprov\n";
const POLL: Duration = Duration::from_millis(20);

/// The lock of one file. Dropping it unlocks.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    // Held open for the sake of the flock.
    _file: File,
}

/// Where the lock of `file` lies.
pub(super) fn path_of(file: &Path) -> PathBuf {
    let mut path = OsString::from(file);
    path.push(".lock");
    path.into()
}

impl Lock {
    /// Locks `file`, whose folder exists, and waits up to `wait` for whoever holds the lock.
    ///
    /// # Errors
    /// `AlreadyExists` if it is still held then; what the system said if the lock cannot be created at all.
    pub(super) fn acquire(file: &Path, wait: Duration) -> io::Result<Self> {
        let path = path_of(file);
        let deadline = Instant::now() + wait;
        let mut candidate = prepare(&path)?;
        loop {
            let error = match candidate.persist_noclobber(&path) {
                Ok(file) => {
                    remove_leftovers(&path);
                    return Ok(Self { path, _file: file });
                }
                Err(failed) => {
                    candidate = failed.file;
                    failed.error
                }
            };
            match error.kind() {
                io::ErrorKind::AlreadyExists if remove_if_stale(&path, &[MARK]) => {}
                _ if Instant::now() >= deadline => return Err(error),
                io::ErrorKind::AlreadyExists => thread::sleep(POLL),
                // Someone took our candidate for a left-over before we had its flock.
                io::ErrorKind::NotFound => candidate = prepare(&path)?,
                _ => return Err(error),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Before the flock goes: a waiter that got the flock must not find our lock in place.
        let _ = fs::remove_file(&self.path);
    }
}

/// A lock under a name of its own, to be given its real one in a single step, so that no lock of ours is ever
/// seen without flock and mark.
fn prepare(path: &Path) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(&paths::temporary_prefix(path)?)
        // Others create it with mode 0 and look at its existence alone. Ours can be read by its owner, or nobody but
        // root could ever find out that it is stale.
        .permissions(Permissions::from_mode(0o400))
        .tempfile_in(paths::folder_of(path))?;
    // Whoever reads the mark may rely on the flock. Where the file system has none, the lock stays unmarked and is
    // one like any other client's.
    if file.as_file().try_lock().is_ok() {
        file.write_all(MARK)?;
    }
    Ok(file)
}

/// Removes the lock at `path` if a kprov made it that is no more, which shows in that it says one of `marks` and
/// nobody holds its flock. Says whether it did.
fn remove_if_stale(path: &Path, marks: &[&[u8]]) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut mark = Vec::new();
    if (&file).take(64).read_to_end(&mut mark).is_err() || !marks.contains(&&mark[..]) || file.try_lock().is_err() {
        return false;
    }
    // We hold the flock of what we opened. If that is still what lies there, nobody else can hold it, and
    // nobody removes it but us.
    let same = match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
        _ => false,
    };
    same && fs::remove_file(path).is_ok()
}

/// Removes candidates for the lock at `path` that were left by killed processes.
fn remove_leftovers(path: &Path) {
    for candidate in paths::temporaries(path) {
        remove_if_stale(&candidate, &[MARK, b""]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(60);

    #[test]
    fn a_second_one_waits_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let first = Lock::acquire(&file, SHORT).unwrap();
        assert_eq!(Lock::acquire(&file, SHORT).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let second = thread::spawn({
            let file = file.clone();
            move || Lock::acquire(&file, Duration::from_secs(20)).map(drop)
        });
        thread::sleep(SHORT);
        drop(first);
        second.join().unwrap().unwrap();
        assert!(!path_of(&file).exists());
    }

    #[test]
    fn a_killed_kprovs_lock_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        // What a killed process leaves: the file with its mark, without the flock.
        fs::write(path_of(&file), MARK).unwrap();
        drop(Lock::acquire(&file, SHORT).unwrap());
        assert!(!path_of(&file).exists());
    }

    #[test]
    fn left_candidates_go_and_waiting_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let left = ["a", "b"].map(|name| folder.path().join(format!(".config.lock.kprov-{name}")));
        fs::write(&left[0], MARK).unwrap();
        fs::write(&left[1], "").unwrap();
        let waiting = prepare(&path_of(&file)).unwrap();
        drop(Lock::acquire(&file, SHORT).unwrap());
        assert!(!left[0].exists() && !left[1].exists() && waiting.path().exists());
    }

    #[test]
    fn another_clients_lock_is_respected_however_old() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(path_of(&file), "").unwrap();
        assert_eq!(Lock::acquire(&file, SHORT).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(path_of(&file).exists());
    }

    #[test]
    fn many_at_once_are_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        fs::write(&file, "0").unwrap();
        // A stale one to begin with: several waiters find it at the same time.
        fs::write(path_of(&file), MARK).unwrap();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let file = file.clone();
                thread::spawn(move || {
                    for _ in 0..5 {
                        let _lock = Lock::acquire(&file, Duration::from_secs(60)).unwrap();
                        let count: u32 = fs::read_to_string(&file).unwrap().parse().unwrap();
                        fs::write(&file, (count + 1).to_string()).unwrap();
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), "40");
    }
}
