//! What kprov keeps of a cluster between commands: how it was made, and its keys.
//!
//! A folder per cluster in the user's data folder, readable by the user alone. The lock
//! file lies beside it, so that it outlives the folder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::adapters::paths::{self, Paths, PathsError};
use crate::documents::keys::{KeyError, KeyRing, StoredKeys};
use crate::documents::names::ClusterName;
use crate::documents::record::Record;
use crate::documents::timings::Timings;

/// The file of a record.
const RECORD: &str = "cluster.json";

/// The file of what goes with a record.
const SUCCESSION: &str = "succession.json";

/// The file of what the steps took by which a cluster was last made.
const TIMINGS: &str = "timings.json";

/// Why a record could not be had or kept.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum RecordError {
    /// Somebody else is at work on the cluster.
    #[error("another kprov is at work on the cluster {name:?}{}", pid.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    #[diagnostic(code(kprov::cluster::locked), help("wait for it to end"))]
    Locked {
        /// The cluster's name.
        name: String,
        /// Its process id.
        pid: Option<String>,
    },
    /// A record cannot be read.
    #[error("kprov's record of the cluster {name:?} cannot be read: {reason}")]
    #[diagnostic(code(kprov::cluster::record), help("`kprov down {name}` removes the cluster and the record"))]
    Unreadable {
        /// The cluster's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A key in it is no key.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
    /// A file could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Paths(#[from] PathsError),
}

/// What goes with a record that is about to be written, in one file, so that whoever finds both knows what is still to be
/// done: the record's generation of nodes, its keys, and the kubeconfig that its user is to have.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Succession {
    /// The generation of nodes.
    pub generation: u64,
    keys: Option<StoredKeys>,
    kubeconfig: Zeroizing<String>,
}

impl std::fmt::Debug for Succession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Succession(to {})", self.generation)
    }
}

impl Succession {
    /// What goes with the record of a generation.
    #[must_use]
    pub fn new(generation: u64, keys: Option<&KeyRing>, kubeconfig: &str) -> Self {
        Self { generation, keys: keys.map(StoredKeys::from), kubeconfig: Zeroizing::new(kubeconfig.to_owned()) }
    }

    /// Its keys, and the kubeconfig.
    ///
    /// # Errors
    /// [`RecordError::Key`] if a key is none.
    pub fn open(self) -> Result<(Option<KeyRing>, Zeroizing<String>), RecordError> {
        Ok((self.keys.map(KeyRing::try_from).transpose()?, self.kubeconfig))
    }
}

/// The folder of all records.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// The right to change a cluster, held by one process at a time. Ends with the process, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
    /// The lock's file, and the folder of what it locks: a lock of nothing is not kept.
    paths: Option<(PathBuf, PathBuf)>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some((file, folder)) = &self.paths
            && !folder.exists()
        {
            // While it is still held: see `Store::lock`.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Store {
    /// The store in the user's data folder.
    #[must_use]
    pub fn at(paths: &Paths) -> Self {
        Self { folder: paths.clusters() }
    }

    /// Takes the cluster's lock.
    ///
    /// # Errors
    /// [`RecordError::Locked`] if another process holds it.
    pub fn lock(&self, cluster: &ClusterName) -> Result<Lock, RecordError> {
        paths::create_private_dir(&self.folder)?;
        let path = self.folder.join(format!("{cluster}.lock"));
        let write_error = |error| RecordError::Paths(PathsError::Write { path: path.clone(), error });
        let mut file = loop {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(&path)
                .map_err(write_error)?;
            if file.try_lock().is_err() {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                let pid = Some(pid.trim().to_owned()).filter(|pid| !pid.is_empty());
                return Err(RecordError::Locked { name: cluster.to_string(), pid });
            }
            // Its last holder may have removed it between our opening and our locking it.
            let ours = file.metadata().map_err(write_error)?;
            if std::fs::metadata(&path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                break file;
            }
        };
        // The process id is for people; the lock itself is the kernel's.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        Ok(Lock { _file: file, paths: Some((path, self.path(cluster))) })
    }

    /// Takes the lock of the network that all clusters share, once nobody else holds it.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if the lock's file could not be made.
    pub async fn network_lock(&self) -> Result<Lock, RecordError> {
        paths::create_private_dir(&self.folder)?;
        // Not a name that a cluster can have.
        let path = self.folder.join(".network.lock");
        let locked = tokio::task::spawn_blocking(move || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
            file.and_then(|file| file.lock().map(|()| file)).map_err(|error| PathsError::Write { path, error })
        });
        let file = locked
            .await
            .map_err(|error| RecordError::Unreadable { name: ".network".to_owned(), reason: error.to_string() })??;
        Ok(Lock { _file: file, paths: None })
    }

    /// The names of all clusters that there are records of.
    #[must_use]
    pub fn names(&self) -> Vec<ClusterName> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let mut names: Vec<ClusterName> = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.path().join(RECORD).is_file())
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        names
    }

    /// The record of a cluster; `None` if there is none.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`] if it cannot be read.
    pub fn load(&self, cluster: &ClusterName) -> Result<Option<Record>, RecordError> {
        self.read_json(cluster, RECORD)
    }

    /// The keys of a cluster; `None` if it has none.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`] if they cannot be read.
    pub fn load_keys(&self, cluster: &ClusterName) -> Result<Option<KeyRing>, RecordError> {
        let stored: Option<StoredKeys> = self.read_json(cluster, "keys.json")?;
        stored.map(KeyRing::try_from).transpose().map_err(RecordError::Key)
    }

    /// What the steps took by which a cluster was last made; `None` if that is not known.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`] if they cannot be read.
    pub fn timings(&self, cluster: &ClusterName) -> Result<Option<Timings>, RecordError> {
        self.read_json(cluster, TIMINGS)
    }

    fn read_json<T: serde::de::DeserializeOwned>(
        &self,
        cluster: &ClusterName,
        file: &str,
    ) -> Result<Option<T>, RecordError> {
        let Some(bytes) = paths::read(&self.path(cluster).join(file))? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| RecordError::Unreadable { name: cluster.to_string(), reason: error.to_string() })
    }

    /// Writes the record of a cluster.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if it could not be written; a record of before is still there then.
    pub fn save(&self, record: &Record) -> Result<(), RecordError> {
        let bytes = json(record);
        Ok(paths::write_private(&self.path(&record.name).join(RECORD), &bytes)?)
    }

    /// Writes the keys of a cluster.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if they could not be written; those of before are still there then.
    pub fn save_keys(&self, cluster: &ClusterName, keys: &KeyRing) -> Result<(), RecordError> {
        let bytes = json(&StoredKeys::from(keys));
        Ok(paths::write_private(&self.path(cluster).join("keys.json"), &bytes)?)
    }

    /// Writes what the steps took by which a cluster was made.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if they could not be written; those of before are still there then.
    pub fn save_timings(&self, cluster: &ClusterName, timings: &Timings) -> Result<(), RecordError> {
        Ok(paths::write_private(&self.path(cluster).join(TIMINGS), &json(timings))?)
    }

    /// Writes what goes with a record, before the record itself is written.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if the folder cannot be made or the file not be written; what was there before is untouched.
    pub fn stage(&self, cluster: &ClusterName, succession: &Succession) -> Result<(), RecordError> {
        Ok(paths::write_private(&self.path(cluster).join(SUCCESSION), &json(succession))?)
    }

    /// What [`Self::stage`] has written; `None` if there is nothing.
    ///
    /// # Errors
    /// [`RecordError::Unreadable`] if it cannot be read.
    pub fn staged(&self, cluster: &ClusterName) -> Result<Option<Succession>, RecordError> {
        self.read_json(cluster, SUCCESSION)
    }

    /// Forgets what [`Self::stage`] has written. Nothing is no error.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if it is there and cannot be removed.
    pub fn forget_staged(&self, cluster: &ClusterName) -> Result<(), RecordError> {
        remove_all(&self.path(cluster).join(SUCCESSION))
    }

    /// Forgets the keys of a cluster, also those that a killed kprov was about to write. One without keys is no error.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if a file is there and could not be removed.
    pub fn forget_keys(&self, cluster: &ClusterName) -> Result<(), RecordError> {
        remove_all(&self.path(cluster).join("keys.json"))
    }

    /// Forgets a cluster, and looks that nothing is left of it. One that is not known is no error.
    ///
    /// # Errors
    /// [`RecordError::Paths`] if something could not be removed, or has come back.
    pub fn forget(&self, cluster: &ClusterName) -> Result<(), RecordError> {
        let path = self.path(cluster);
        // The record last: keys that nobody knows of would be there for good.
        for entry in std::fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_name() != RECORD && !entry.path().is_dir() {
                remove_all(&entry.path())?;
            }
        }
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(PathsError::Write { path, error }.into()),
            _ => match path.symlink_metadata() {
                Ok(_) => {
                    let error = std::io::Error::other("it was removed, and is there again");
                    Err(PathsError::Write { path, error }.into())
                }
                Err(_) => Ok(()),
            },
        }
    }

    fn path(&self, cluster: &ClusterName) -> PathBuf {
        self.folder.join(cluster.as_str())
    }
}

/// Removes a file, and what killed writers of it have left.
fn remove_all(path: &Path) -> Result<(), RecordError> {
    for path in paths::temporaries(path).into_iter().chain([path.to_owned()]) {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(PathsError::Write { path, error }.into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(serde_json::to_vec_pretty(value).expect("plain data with text keys"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(&Paths::at(folder.path().join("data"), folder.path().join("config")));
        (folder, store)
    }

    fn name(text: &str) -> ClusterName {
        text.parse().unwrap()
    }

    #[test]
    fn a_cluster_is_changed_by_one_at_a_time() {
        let (_folder, store) = store();
        let lock = store.lock(&name("a")).unwrap();
        let error = store.lock(&name("a")).unwrap_err();
        let here = std::process::id().to_string();
        assert!(matches!(error, RecordError::Locked { pid: Some(pid), .. } if pid == here));
        drop((store.lock(&name("b")).unwrap(), lock));
        drop(store.lock(&name("a")).unwrap());
    }

    #[test]
    fn a_lock_of_nothing_is_not_kept() {
        let (_folder, store) = store();
        drop(store.lock(&name("a")).unwrap());
        assert_eq!(std::fs::read_dir(&store.folder).unwrap().count(), 0);
        let lock = store.lock(&name("a")).unwrap();
        std::fs::create_dir(store.path(&name("a"))).unwrap();
        drop(lock);
        assert_eq!(std::fs::read_dir(&store.folder).unwrap().count(), 2);
    }

    #[test]
    fn a_record_of_a_name_that_is_none_cannot_be_read() {
        let (_folder, store) = store();
        paths::write_private(&store.path(&name("a")).join("cluster.json"), br#"{"name": "../b"}"#).unwrap();
        assert!(matches!(store.load(&name("a")), Err(RecordError::Unreadable { .. })));
        std::fs::create_dir(store.folder.join("..b")).unwrap();
        std::fs::write(store.folder.join("..b/cluster.json"), "").unwrap();
        assert_eq!(store.names(), [name("a")]);
    }

    #[test]
    fn what_goes_with_a_record_is_read_back_and_shows_no_key() {
        let (_folder, store) = store();
        let a = name("a");
        assert!(store.staged(&a).unwrap().is_none());
        let succession = Succession::new(3, None, "users: [secret]");
        assert_eq!(format!("{succession:?}"), "Succession(to 3)");
        store.stage(&a, &succession).unwrap();
        let staged = store.staged(&a).unwrap().unwrap();
        assert_eq!(staged.generation, 3);
        let (keys, kubeconfig) = staged.open().unwrap();
        assert_eq!((keys, kubeconfig.as_str()), (None, "users: [secret]"));
        store.forget_staged(&a).unwrap();
        store.forget_staged(&a).unwrap();
        assert!(store.staged(&a).unwrap().is_none());
    }

    #[test]
    fn what_steps_took_is_read_back_and_forgotten_with_the_cluster() {
        let (_folder, store) = store();
        let a = name("a");
        assert_eq!(store.timings(&a).unwrap(), None);
        let timings = Timings { command: "up".to_owned(), total_ms: 5, ..Timings::default() };
        store.save_timings(&a, &timings).unwrap();
        assert_eq!(store.timings(&a).unwrap(), Some(timings));
        store.forget(&a).unwrap();
        assert_eq!(store.timings(&a).unwrap(), None);
    }

    #[test]
    fn nothing_of_a_forgotten_cluster_is_left() {
        let (_folder, store) = store();
        let a = name("a");
        let folder = store.path(&a);
        let files = ["cluster.json", "keys.json", ".keys.json.kprov-Ab12", ".cluster.json.kprov-Cd34"];
        for file in files {
            paths::write_private(&folder.join(file), b"secret").unwrap();
        }
        store.forget_keys(&a).unwrap();
        let left: Vec<_> = files.into_iter().filter(|file| folder.join(file).exists()).collect();
        assert_eq!(left, ["cluster.json", ".cluster.json.kprov-Cd34"]);
        store.forget(&a).unwrap();
        store.forget(&a).unwrap();
        assert_eq!(std::fs::read_dir(&store.folder).unwrap().count(), 0);
    }
}
