//! Where states lie: blobs and manifests named by their content, and names that point at manifests.
//!
//! ```text
//! states/blobs/SHA256      archives and keys; equal ones are there once
//! states/manifests/SHA256  manifests
//! states/golden/CLUSTER    which manifest is a cluster's golden state
//! states/named/NAME        which manifest is the snapshot of that name
//! ```
//!
//! Every file is private and written all or nothing; a name is written last, so that whoever is
//! killed before leaves only what the next pruning takes away.

mod error;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::adapters::paths::{self, Paths, PathsError};
use crate::documents::names::{ClusterName, SnapshotName};
use crate::documents::snapshot::{Blob, Draft, ParseError, StateManifest, sha256};

pub use error::SnapshotError;

/// How many states without a name are kept.
const KEEP_COUNT: usize = 4;

/// How long states without a name are kept.
const KEEP_AGE: Duration = Duration::from_secs(14 * 24 * 3600);

/// A snapshot in a list.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its name; `None` for a cluster's golden state.
    pub name: Option<SnapshotName>,
    /// The sha256 of its manifest.
    pub id: String,
    /// What it is.
    pub manifest: StateManifest,
}

/// All states of a user.
#[derive(Debug, Clone)]
pub struct States {
    folder: PathBuf,
}

/// Held while states are written or taken away.
struct Guard {
    _file: File,
}

impl States {
    /// The states in the user's data folder.
    #[must_use]
    pub fn at(paths: &Paths) -> Self {
        Self { folder: paths.data().join("states") }
    }

    /// Keeps a state as the golden one of its cluster, in place of an earlier one. It is read back before it is one.
    ///
    /// # Errors
    /// [`SnapshotError::Paths`] if it cannot be written, [`SnapshotError::Damaged`] if it cannot be read back; the earlier one is then
    /// still there.
    pub fn keep_golden(&self, draft: &Draft) -> Result<String, SnapshotError> {
        let guard = self.guard()?;
        self.keep(draft, &self.golden_path(&draft.manifest.record.name), &guard)
    }

    /// Keeps a state under a name. It is read back before it has one.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`] if a snapshot is called so, [`SnapshotError::Paths`] if it cannot be written,
    /// [`SnapshotError::Damaged`] if it cannot be read back; no snapshot has that name then.
    pub fn keep_named(&self, draft: &Draft, name: &SnapshotName) -> Result<String, SnapshotError> {
        // Nobody else can take the name from here on.
        let guard = self.guard()?;
        self.check_free(name)?;
        self.keep(draft, &self.named_path(name), &guard)
    }

    /// Nothing, if no snapshot is called so.
    ///
    /// # Errors
    /// [`SnapshotError::Exists`] if one is.
    pub fn check_free(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        if self.named_path(name).exists() {
            return Err(SnapshotError::Exists { name: name.to_string() });
        }
        Ok(())
    }

    fn keep(&self, draft: &Draft, name: &Path, _guard: &Guard) -> Result<String, SnapshotError> {
        for (blob, bytes) in &draft.blobs {
            let path = self.blob_path(blob);
            // The same bytes have the same name; what is there already is not taken on trust.
            if self.read(blob).is_ok() {
                continue;
            }
            paths::write_private(&path, bytes)?;
            self.read(blob)?;
        }
        let text = serde_json::to_vec_pretty(&draft.manifest).expect("plain data with text keys");
        let id = sha256(&text);
        paths::write_private(&self.manifest_path(&id), &text)?;
        self.manifest(&id)?;
        paths::write_private(name, id.as_bytes())?;
        // It is kept; what could not be taken away now can be next time.
        let _ = self.prune();
        Ok(id)
    }

    /// The golden state of a cluster; `None` if it has none.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if its manifest is missing or not the one that was kept, [`SnapshotError::Format`] if another
    /// kprov has written it, in a way that this one does not know.
    pub fn golden(&self, cluster: &ClusterName) -> Result<Option<StateManifest>, SnapshotError> {
        let Some(id) = self.pointer(&self.golden_path(cluster))? else { return Ok(None) };
        self.manifest(&id).map(Some)
    }

    /// Makes a state that is kept already the golden one of a cluster.
    ///
    /// # Errors
    /// [`SnapshotError::Paths`] if the note of it could not be written; the golden state of before is still there then.
    pub fn set_golden(&self, cluster: &ClusterName, id: &str) -> Result<(), SnapshotError> {
        let _guard = self.guard()?;
        paths::write_private(&self.golden_path(cluster), id.as_bytes())?;
        let _ = self.prune();
        Ok(())
    }

    /// The snapshot of that name, and its id.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`] if there is none, with the names that there are; [`SnapshotError::Damaged`] and
    /// [`SnapshotError::Format`] as of [`Self::golden`].
    pub fn named(&self, name: &SnapshotName) -> Result<(String, StateManifest), SnapshotError> {
        match self.pointer(&self.named_path(name))? {
            Some(id) => self.manifest(&id).map(|manifest| (id, manifest)),
            None => Err(SnapshotError::Unknown { name: name.to_string(), known: self.known() }),
        }
    }

    /// The names of all snapshots.
    #[must_use]
    pub fn names(&self) -> Vec<SnapshotName> {
        let files = entries(&self.folder.join("named"));
        let mut names: Vec<SnapshotName> = files.filter_map(|path| file_name(&path)?.parse().ok()).collect();
        names.sort();
        names
    }

    /// The names of all snapshots, as errors show them.
    fn known(&self) -> Vec<String> {
        self.names().iter().map(ToString::to_string).collect()
    }

    /// All snapshots and all golden states, and the errors of those that are damaged and therefore not among them.
    #[must_use]
    pub fn list(&self) -> (Vec<Listed>, Vec<SnapshotError>) {
        let (mut listed, mut errors) = (Vec::new(), Vec::new());
        let golden = entries(&self.folder.join("golden")).map(|path| (None, path));
        let named = self.names().into_iter().map(|name| (Some(name.clone()), self.named_path(&name)));
        for (name, path) in named.chain(golden) {
            match self
                .pointer(&path)
                .and_then(|id| id.map(|id| self.manifest(&id).map(|found| (id, found))).transpose())
            {
                Ok(Some((id, manifest))) => listed.push(Listed { name, id, manifest }),
                Ok(None) => {}
                Err(error) => errors.push(error),
            }
        }
        (listed, errors)
    }

    /// Forgets the snapshot of that name.
    ///
    /// # Errors
    /// [`SnapshotError::Unknown`] if there is none, [`SnapshotError::Paths`] if a file of it could not be removed: then it can be
    /// tried again.
    pub fn remove(&self, name: &SnapshotName) -> Result<(), SnapshotError> {
        if !self.names().iter().any(|known| known == name) {
            return Err(SnapshotError::Unknown { name: name.to_string(), known: self.known() });
        }
        let id = self.pointer(&self.named_path(name))?;
        self.forget(&self.named_path(name), id, None)
    }

    /// Forgets the golden state of a cluster that is no more. None is no error.
    ///
    /// # Errors
    /// [`SnapshotError::Paths`] if the note of it is there and could not be removed.
    pub fn forget_golden(&self, cluster: &ClusterName) -> Result<(), SnapshotError> {
        let path = self.golden_path(cluster);
        if !path.exists() {
            return Ok(());
        }
        let id = self.pointer(&path).unwrap_or_default();
        self.forget(&path, id, Some(cluster))
    }

    /// Takes a name away, and what it pointed at unless another name does: keys do not outlive their use. What it
    /// pointed at goes first, so that whoever is killed leaves a name that can be taken away again.
    fn forget(&self, name: &Path, id: Option<String>, also: Option<&ClusterName>) -> Result<(), SnapshotError> {
        let _guard = self.guard()?;
        let elsewhere = self.referenced(Some(name));
        if let Some(id) = id.filter(|id| !elsewhere.contains(id)) {
            remove(&self.manifest_path(&id))?;
        }
        if let Some(cluster) = also {
            // Earlier golden states of the cluster, which no name points at any more.
            for path in entries(&self.folder.join("manifests")) {
                let Some(id) = file_name(&path).filter(|id| !elsewhere.contains(id)) else { continue };
                if self.manifest(&id).is_ok_and(|manifest| manifest.record.name == *cluster) {
                    remove(&path)?;
                }
            }
        }
        remove(name)?;
        self.prune()
    }

    /// A snapshot with all its bytes, checked.
    ///
    /// # Errors
    /// As [`Self::named`]; [`SnapshotError::Damaged`] if the bytes of a node are missing or not those that were kept.
    pub fn draft(&self, name: &SnapshotName) -> Result<Draft, SnapshotError> {
        let (_, manifest) = self.named(name)?;
        let blobs = manifest.blobs().map(|blob| Ok((blob.clone(), self.read(blob)?)));
        Ok(Draft { blobs: blobs.collect::<Result<_, SnapshotError>>()?, manifest })
    }

    /// The bytes of a blob, checked against its sum.
    ///
    /// # Errors
    /// [`SnapshotError::Damaged`] if it is missing, or its bytes are not those that were kept.
    pub fn read(&self, blob: &Blob) -> Result<Zeroizing<Vec<u8>>, SnapshotError> {
        let path = self.blob_path(blob);
        let damaged = |reason: String| SnapshotError::Damaged { path: path.clone(), reason };
        let bytes = paths::read(&path)?.ok_or_else(|| damaged("it is missing".to_owned()))?;
        blob.check(&bytes).map_err(damaged)?;
        Ok(bytes)
    }

    fn pointer(&self, path: &Path) -> Result<Option<String>, SnapshotError> {
        let Some(bytes) = paths::read(path)? else { return Ok(None) };
        match std::str::from_utf8(&bytes) {
            Ok(id) if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(Some(id.to_owned())),
            _ => Err(SnapshotError::Damaged { path: path.to_owned(), reason: "it names no state".to_owned() }),
        }
    }

    fn manifest(&self, id: &str) -> Result<StateManifest, SnapshotError> {
        let path = self.manifest_path(id);
        let damaged = |reason: String| SnapshotError::Damaged { path: path.clone(), reason };
        let bytes = paths::read(&path)?.ok_or_else(|| damaged("it is missing".to_owned()))?;
        if sha256(&bytes) != id {
            return Err(damaged(format!("its sha256 is {}", sha256(&bytes))));
        }
        StateManifest::parse(&bytes).map_err(|error| match error {
            ParseError::Format(found) => SnapshotError::Format { found, known: StateManifest::FORMAT },
            ParseError::Text(reason) => damaged(reason),
        })
    }

    /// The manifests that some name points at, apart from the name at `but`.
    fn referenced(&self, but: Option<&Path>) -> BTreeSet<String> {
        ["golden", "named"]
            .iter()
            .flat_map(|kind| entries(&self.folder.join(kind)))
            .filter(|path| Some(path.as_path()) != but)
            .filter_map(|path| self.pointer(&path).ok().flatten())
            .collect()
    }

    /// Takes away what killed writers left, states without a name that are too many, too old or damaged, and blobs
    /// that belong to no state. The caller holds the guard, so that nobody is writing.
    ///
    /// Goes through all of it whatever fails, and gives the first error.
    fn prune(&self) -> Result<(), SnapshotError> {
        let mut result = Ok(());
        let mut take_away = |path: &Path| {
            let removed = remove(path);
            if result.is_ok() {
                result = removed;
            }
        };
        for folder in ["manifests", "blobs", "golden", "named"] {
            for path in entries(&self.folder.join(folder)).filter(|path| file_name(path).is_none()) {
                take_away(&path);
            }
        }
        let referenced = self.referenced(None);
        let mut nameless: Vec<(SystemTime, PathBuf)> = entries(&self.folder.join("manifests"))
            .filter(|path| file_name(path).is_some_and(|id| !referenced.contains(&id)))
            .map(|path| (fs::metadata(&path).and_then(|found| found.modified()).unwrap_or(UNIX_EPOCH), path))
            .collect();
        nameless.sort_by(|a, b| b.cmp(a));
        let oldest = SystemTime::now().checked_sub(KEEP_AGE).unwrap_or(UNIX_EPOCH);
        for (index, (time, path)) in nameless.iter().enumerate() {
            let damaged = || {
                let read = file_name(path).map(|id| self.manifest(&id));
                matches!(read, Some(Err(SnapshotError::Damaged { .. })))
            };
            if index >= KEEP_COUNT || *time < oldest || damaged() {
                take_away(path);
            }
        }
        let mut used = BTreeSet::new();
        for path in entries(&self.folder.join("manifests")) {
            // Also of one that is damaged or of a newer format: whatever it names is kept, and nothing else is.
            if let Ok(Some(bytes)) = paths::read(&path) {
                used.extend(sums_in(&bytes));
            }
        }
        for path in entries(&self.folder.join("blobs")) {
            if file_name(&path).is_none_or(|name| !used.contains(&name)) {
                take_away(&path);
            }
        }
        result
    }

    fn guard(&self) -> Result<Guard, SnapshotError> {
        paths::create_private_dir(&self.folder)?;
        let path = self.folder.join("lock");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .and_then(|file| file.lock().map(|()| Guard { _file: file }))
            .map_err(|error| PathsError::Write { path, error }.into())
    }

    fn golden_path(&self, cluster: &ClusterName) -> PathBuf {
        self.folder.join("golden").join(cluster.as_str())
    }

    fn named_path(&self, name: &SnapshotName) -> PathBuf {
        self.folder.join("named").join(name.as_str())
    }

    fn manifest_path(&self, id: &str) -> PathBuf {
        self.folder.join("manifests").join(component(id))
    }

    fn blob_path(&self, blob: &Blob) -> PathBuf {
        self.folder.join("blobs").join(component(&blob.sha256))
    }
}

/// A name as a single component of a path, whatever was typed.
fn component(name: &str) -> &std::ffi::OsStr {
    Path::new(name).file_name().unwrap_or_else(|| "none".as_ref())
}

/// All sha256 sums, in hexadecimal, in a text that need not be well formed.
fn sums_in(text: &[u8]) -> impl Iterator<Item = String> {
    text.split(|byte| !byte.is_ascii_hexdigit())
        .filter(|word| word.len() == 64)
        .map(|word| String::from_utf8_lossy(word).into_owned())
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// The name of a file that is not a left-over of writing.
fn file_name(path: &Path) -> Option<String> {
    path.file_name()?.to_str().filter(|name| !name.starts_with('.')).map(str::to_owned)
}

fn remove(path: &Path) -> Result<(), SnapshotError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PathsError::Write { path: path.to_owned(), error }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::documents::snapshot::tests::draft;

    use super::*;

    fn states() -> (tempfile::TempDir, States) {
        let folder = tempfile::tempdir().unwrap();
        let states = States::at(&Paths::at(folder.path().to_owned(), folder.path().to_owned()));
        (folder, states)
    }

    fn cluster(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    fn snapshot(name: &str) -> SnapshotName {
        name.parse().unwrap()
    }

    fn count(states: &States, kind: &str) -> usize {
        entries(&states.folder.join(kind)).count()
    }

    #[test]
    fn equal_states_are_stored_once_and_privately() {
        let (_folder, states) = states();
        states.keep_golden(&draft("a", b"same", 1)).unwrap();
        states.keep_named(&draft("a", b"same", 2), &snapshot("lesson-1")).unwrap();
        assert_eq!((count(&states, "blobs"), count(&states, "manifests")), (1, 2));
        let path = states.blob_path(&Blob::of(b"same"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        let manifest = states.golden(&cluster("a")).unwrap().unwrap();
        assert_eq!(states.read(&manifest.nodes[0].archive).unwrap().as_slice(), b"same");
    }

    #[test]
    fn a_changed_byte_is_an_error() {
        let (_folder, states) = states();
        let id = states.keep_golden(&draft("a", b"same", 1)).unwrap();
        let blob = Blob::of(b"same");
        fs::write(states.blob_path(&blob), b"samE").unwrap();
        assert!(matches!(states.read(&blob), Err(SnapshotError::Damaged { .. })));
        fs::write(states.manifest_path(&id), b"{}").unwrap();
        assert!(matches!(states.golden(&cluster("a")), Err(SnapshotError::Damaged { .. })));
    }

    #[test]
    fn a_name_is_taken_once() {
        let (_folder, states) = states();
        states.keep_named(&draft("a", b"1", 1), &snapshot("lesson")).unwrap();
        assert!(matches!(
            states.keep_named(&draft("a", b"2", 2), &snapshot("lesson")),
            Err(SnapshotError::Exists { .. })
        ));
        assert_eq!(states.named(&snapshot("lesson")).unwrap().1.created, 1);
        states.remove(&snapshot("lesson")).unwrap();
        assert!(matches!(states.remove(&snapshot("lesson")), Err(SnapshotError::Unknown { .. })));
        assert_eq!((count(&states, "blobs"), count(&states, "manifests")), (0, 0));
    }

    #[test]
    fn of_two_that_want_a_name_at_once_one_gets_it() {
        let (_folder, states) = states();
        let guard = states.guard().unwrap();
        let both = [1, 2].map(|created| {
            let states = states.clone();
            std::thread::spawn(move || states.keep_named(&draft("a", b"1", created), &snapshot("lesson")))
        });
        // Both are at it, and wait.
        std::thread::sleep(Duration::from_millis(200));
        drop(guard);
        let kept = both.map(|one| one.join().unwrap());
        assert_eq!(kept.iter().filter(|one| one.is_ok()).count(), 1);
        assert!(kept.iter().any(|one| matches!(one, Err(SnapshotError::Exists { .. }))));
    }

    #[test]
    fn states_without_a_name_are_pruned_by_count() {
        let (_folder, states) = states();
        for created in 0..10 {
            states.keep_golden(&draft("a", format!("state {created}").as_bytes(), created)).unwrap();
        }
        assert_eq!(count(&states, "manifests"), KEEP_COUNT + 1);
        assert_eq!(count(&states, "blobs"), KEEP_COUNT + 1);
        assert_eq!(states.golden(&cluster("a")).unwrap().unwrap().created, 9);
    }

    #[test]
    fn states_without_a_name_are_pruned_by_age() {
        let (_folder, states) = states();
        let old = states.keep_golden(&draft("a", b"old", 1)).unwrap();
        states.keep_golden(&draft("a", b"new", 2)).unwrap();
        assert_eq!(count(&states, "manifests"), 2);
        let file = File::options().write(true).open(states.manifest_path(&old)).unwrap();
        file.set_modified(SystemTime::now() - 2 * KEEP_AGE).unwrap();
        states.keep_golden(&draft("b", b"other", 3)).unwrap();
        assert!(!states.manifest_path(&old).exists());
        assert!(!states.blob_path(&Blob::of(b"old")).exists());
    }

    #[test]
    fn nothing_of_a_removed_snapshot_is_left_whatever_killed_writers_left() {
        let (_folder, states) = states();
        states.keep_named(&draft("a", b"the keys", 1), &snapshot("lesson")).unwrap();
        for folder in ["manifests", "blobs", "named"] {
            fs::write(states.folder.join(folder).join(".x.kprov-Ab12"), "the keys").unwrap();
        }
        states.remove(&snapshot("lesson")).unwrap();
        assert_eq!((count(&states, "blobs"), count(&states, "manifests"), count(&states, "named")), (0, 0, 0));
    }

    #[test]
    fn a_damaged_snapshot_neither_keeps_nor_loses_blobs_of_others() {
        let (_folder, states) = states();
        let damaged = states.keep_named(&draft("a", b"damaged", 1), &snapshot("damaged")).unwrap();
        states.keep_named(&draft("b", b"whole", 2), &snapshot("whole")).unwrap();
        states.keep_named(&draft("c", b"gone", 3), &snapshot("gone")).unwrap();
        let mut text = fs::read(states.manifest_path(&damaged)).unwrap();
        text.truncate(text.len() - 3);
        fs::write(states.manifest_path(&damaged), text).unwrap();
        states.remove(&snapshot("gone")).unwrap();
        assert!(!states.blob_path(&Blob::of(b"gone")).exists());
        assert!(states.blob_path(&Blob::of(b"whole")).exists());
        assert!(states.blob_path(&Blob::of(b"damaged")).exists());
        states.remove(&snapshot("damaged")).unwrap();
        assert_eq!((count(&states, "blobs"), count(&states, "manifests")), (1, 1));
    }

    #[test]
    fn earlier_golden_states_go_with_their_cluster() {
        let (_folder, states) = states();
        states.keep_golden(&draft("a", b"first", 1)).unwrap();
        states.keep_golden(&draft("a", b"second", 2)).unwrap();
        states.keep_golden(&draft("b", b"other", 3)).unwrap();
        states.forget_golden(&cluster("a")).unwrap();
        assert_eq!((count(&states, "blobs"), count(&states, "manifests")), (1, 1));
    }

    #[test]
    fn a_clusters_golden_state_goes_with_it() {
        let (_folder, states) = states();
        states.keep_golden(&draft("a", b"1", 1)).unwrap();
        states.forget_golden(&cluster("a")).unwrap();
        states.forget_golden(&cluster("a")).unwrap();
        assert_eq!((count(&states, "blobs"), count(&states, "manifests")), (0, 0));
        assert!(states.golden(&cluster("a")).unwrap().is_none());
    }
}
