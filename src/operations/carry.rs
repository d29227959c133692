//! Snapshots as files: what leaves this host, and what comes in from another one.
//!
//! Owns the order: nothing is kept of a file before it has been looked through and its user has agreed to what it asks for.
//! What makes a file a snapshot is `documents::snapshot`'s.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use k8s_openapi::jiff::Timestamp;

use crate::adapters::host;
use crate::adapters::kubeconfig;
use crate::adapters::paths::{self, PathsError};
use crate::adapters::states::{SnapshotError, States};
use crate::documents::names::SnapshotName;
use crate::documents::record::Record;
use crate::documents::render::{self, KubernetesVersion, Templates};
use crate::documents::snapshot::{
    self, Carried, Contents, Draft, LARGEST_FILE, Origin, PortableError, StateManifest, UnfitError, inspect,
    is_encrypted,
};

/// Why a snapshot could not be written into a file, or taken out of one.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum CarryError {
    /// The file is there already.
    #[error("{path} exists already", path = .0.display())]
    #[diagnostic(code(kprov::snapshot::file_exists), help("choose another file"))]
    Exists(PathBuf),
    /// The file is not there.
    #[error("there is no file {path}", path = .0.display())]
    #[diagnostic(code(kprov::snapshot::no_file))]
    Missing(PathBuf),
    /// It asks for more than a stranger's snapshot gets.
    #[error("the snapshot asks for more than a cluster of the default profile has:\n{}", beyond.iter().map(|line| format!("  - it {line}")).collect::<Vec<_>>().join("\n"))]
    #[diagnostic(
        code(kprov::snapshot::untrusted),
        help("nothing was changed; if you trust whoever made it with all that is on this host, `--trust` takes it")
    )]
    Untrusted {
        /// What it asks for, a line each.
        beyond: Vec<String>,
    },
    /// It is of several control planes.
    #[error(
        "the snapshot {name:?} is of several control planes, which know each other by the addresses that they have on this host"
    )]
    #[diagnostic(
        code(kprov::snapshot::several),
        help("nothing was written; the profile makes such a cluster elsewhere: `kprov up --profile FILE`")
    )]
    Several {
        /// The snapshot.
        name: String,
    },
    /// It is no snapshot that kprov makes.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Unfit(#[from] UnfitError),
    /// It could not be packed or unpacked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Portable(#[from] PortableError),
    /// It could not be kept, or is not there.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A file could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Paths(#[from] PathsError),
}

/// Writes a snapshot into a new file; in the clear without a passphrase. Gives the file's size.
///
/// # Errors
/// [`CarryError::Exists`], [`CarryError::Snapshot`] if it is not there or damaged, [`CarryError::Several`] if it fits no other host,
/// [`CarryError::Portable`] if it is too large, [`CarryError::Paths`]. No file is left then.
pub fn export(
    states: &States,
    name: &SnapshotName,
    file: &Path,
    passphrase: Option<&SecretString>,
) -> Result<u64, CarryError> {
    let draft = states.draft(name)?;
    let record = &draft.manifest.record;
    if render::needs_load_balancer(&render::plan_nodes(&record.profile, &record.name)) {
        return Err(CarryError::Several { name: name.to_string() });
    }
    let origin = Origin {
        by: host::user_at_host(),
        at: Timestamp::now().as_second(),
        kprov: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let bytes = snapshot::write_portable(name, &origin, &draft, passphrase)?;
    // New, or nothing: a file that appeared meanwhile is not ours to replace.
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).and_then(|mut out| {
        let done = out.write_all(&bytes).and_then(|()| out.sync_all());
        if done.is_err() {
            let _ = std::fs::remove_file(file);
        }
        done
    });
    match written {
        Ok(()) => Ok(bytes.len() as u64),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(CarryError::Exists(file.to_owned())),
        Err(error) => Err(PathsError::Write { path: file.to_owned(), error }.into()),
    }
}

/// A snapshot from elsewhere that has been looked through, and is not kept yet.
pub struct Offer {
    carried: Carried,
    /// What it holds, and asks for.
    pub contents: Contents,
}

/// Looks through a file. `passphrase` is asked for one if it is encrypted.
///
/// # Errors
/// [`CarryError::Missing`], [`CarryError::Portable`] if it is no snapshot, [`CarryError::Unfit`] if it is one that kprov
/// does not make, and what `passphrase` says.
pub fn look_into<E: From<CarryError>>(
    file: &Path,
    passphrase: impl FnOnce() -> Result<SecretString, E>,
) -> Result<Offer, E> {
    let bytes = paths::read_within(file, LARGEST_FILE).map_err(CarryError::from)?;
    let bytes = bytes.ok_or_else(|| CarryError::Missing(file.to_owned()))?;
    let passphrase = if is_encrypted(&bytes) { Some(passphrase()?) } else { None };
    let carried = snapshot::read_portable(&bytes, passphrase.as_ref()).map_err(CarryError::from)?;
    let contents = inspect(&carried.draft).map_err(CarryError::from)?;
    check_access(&carried.draft).map_err(CarryError::from)?;
    Ok(Offer { carried, contents })
}

/// The most bytes that a kubeconfig of kubeadm's may have, which has three certificates and a key.
const LARGEST_ADMIN: u64 = 64 << 10;

/// Nothing, if what this host would reach the cluster by is what kubeadm writes: a kubeconfig may name programs that are
/// run, and files that are read, on this host.
fn check_access(draft: &Draft) -> Result<(), UnfitError> {
    let cluster = &draft.manifest.record.name;
    for node in &draft.manifest.nodes {
        let unfit = |reason: String| UnfitError::Other { what: format!("archive of {}", node.name), reason };
        let Some((_, packed)) = draft.blobs.iter().find(|(blob, _)| *blob == node.archive) else { continue };
        let Some(admin) = snapshot::packed_file(packed, kubeconfig::ADMIN, LARGEST_ADMIN).map_err(unfit)? else {
            continue;
        };
        // The server does not matter: it is never the one that the file names.
        kubeconfig::for_cluster(&String::from_utf8_lossy(&admin), cluster, "https://127.0.0.1")
            .map_err(|error| unfit(error.to_string()))?;
    }
    Ok(())
}

/// The digest of a record's cluster.
fn digest(record: &Record, templates: &Templates) -> Result<String, String> {
    let version: KubernetesVersion = record.version.parse().map_err(|error| format!("{error}"))?;
    let inputs = record.inputs(&version, None, templates, false);
    let documents = render::documents_digest(&inputs).map_err(|error| error.to_string())?;
    Ok(render::cluster_digest(&documents, &record.image_id).to_string())
}

impl Offer {
    /// The name that it had.
    #[must_use]
    pub fn name(&self) -> &SnapshotName {
        &self.carried.name
    }

    /// Who wrote the file, as it says itself.
    #[must_use]
    pub fn origin(&self) -> Option<&Origin> {
        self.carried.origin.as_ref()
    }

    /// What it is.
    #[must_use]
    pub fn manifest(&self) -> &StateManifest {
        &self.carried.draft.manifest
    }

    /// Keeps it under a name, once whoever it asks something of has agreed. What identifies its cluster is computed anew, from its
    /// profile and these templates: what it says of that itself is not believed.
    ///
    /// # Errors
    /// [`CarryError::Untrusted`] if it asks for more than nothing and is not trusted, [`CarryError::Unfit`] if its profile cannot
    /// be rendered for its version, [`CarryError::Snapshot`] if the name is taken or it cannot be kept.
    pub fn take(
        mut self,
        states: &States,
        name: &SnapshotName,
        trusted: bool,
        templates: &Templates,
    ) -> Result<StateManifest, CarryError> {
        if !trusted && !self.contents.beyond.is_empty() {
            return Err(CarryError::Untrusted { beyond: self.contents.beyond });
        }
        let record = &mut self.carried.draft.manifest.record;
        let digest = digest(record, templates);
        record.digest = digest.map_err(|reason| UnfitError::Other { what: "profile".to_owned(), reason })?;
        states.keep_named(&self.carried.draft, name)?;
        Ok(self.carried.draft.manifest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::adapters::paths::Paths;
    use crate::documents::files::{FileEntry, pack};
    use crate::documents::snapshot::{Blob, tests::draft};

    use super::*;

    /// A file of a snapshot whose nodes have this `admin.conf`.
    fn file(folder: &Path, admin: &str) -> PathBuf {
        let tar = pack(&[FileEntry::new(kubeconfig::ADMIN, 0o600, admin.as_bytes())]);
        let mut draft = draft("class", &snapshot::pack(&tar).unwrap(), 7);
        draft.manifest.record.image_id = format!("sha256:{}", "a".repeat(64));
        draft.manifest.nodes[0].archive = Blob::of(&draft.blobs[0].1);
        let origin = serde_json::from_value(json!({"by": "x", "at": 7, "kprov": "0"})).unwrap();
        let bytes = snapshot::write_portable(&"lesson".parse().unwrap(), &origin, &draft, None).unwrap();
        let path = folder.join("file");
        std::fs::write(&path, &*bytes).unwrap();
        path
    }

    #[test]
    fn what_comes_back_on_its_own_host_alone_is_not_carried_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let states = States::at(&Paths::at(folder.path().join("data"), folder.path().join("config")));
        let (name, mut draft) = ("lesson".parse().unwrap(), draft("class", b"x", 7));
        draft.manifest.record.profile.spec.nodes =
            serde_json::from_value(json!([{"role": "control-plane", "count": 3}])).unwrap();
        states.keep_named(&draft, &name).unwrap();
        let file = folder.path().join("file");
        let error = export(&states, &name, &file, None).unwrap_err();
        assert!(matches!(error, CarryError::Several { .. }), "{error}");
        assert!(!file.exists());
    }

    const PLAIN: &str = "clusters: [{name: a, cluster: {server: 'https://a:6443'}}]\n\
                         contexts: [{name: a, context: {cluster: a, user: a}}]\n\
                         users: [{name: a, user: {client-key-data: a2V5}}]\n";

    #[test]
    fn what_a_file_says_of_its_clusters_digest_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let states = States::at(&Paths::at(folder.path().join("data"), folder.path().join("config")));
        let offer = look_into(&file(folder.path(), PLAIN), || Err(CarryError::Missing(PathBuf::new()))).ok().unwrap();
        assert_eq!(offer.manifest().record.digest, "d");
        let name = "lesson".parse().unwrap();
        let taken = offer.take(&states, &name, true, &Templates::built_in()).unwrap();
        let (_, kept) = states.named(&name).unwrap();
        assert_eq!(kept.record.digest, taken.record.digest);
        assert_eq!(kept.record.digest, digest(&kept.record, &Templates::built_in()).unwrap());
        assert!(kept.record.digest.parse::<render::Digest>().is_ok(), "{}", kept.record.digest);
    }

    #[test]
    fn a_kubeconfig_that_runs_programs_on_the_host_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let look = |user: &str| {
            let admin = format!(
                "clusters: [{{name: a, cluster: {{server: 'https://a:6443'}}}}]\n\
                 contexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
                 users: [{{name: a, user: {user}}}]\n"
            );
            look_into(&file(folder.path(), &admin), || Err(CarryError::Missing(PathBuf::new())))
        };
        assert!(look("{client-key-data: a2V5}").is_ok());
        let Err(error) = look("{exec: {command: /bin/sh, args: [-c, 'touch /tmp/owned']}}") else { panic!("taken") };
        assert!(matches!(error, CarryError::Unfit(_)), "{error}");
        assert!(error.to_string().contains("has \"exec\", which kubeadm does not write"), "{error}");
    }

    #[test]
    fn a_kubeconfig_that_would_take_all_memory_is_not_taken() {
        // Few bytes once packed; larger than what is read of it, and as large as what is.
        let small = format!("a: &a {}\nb: [{}]\n", "x".repeat(30 << 10), "*a,".repeat(10_000));
        for bomb in [crate::documents::bounds::tests::bomb(), small] {
            let folder = tempfile::tempdir().unwrap();
            let looked = look_into(&file(folder.path(), &bomb), || Err(CarryError::Missing(PathBuf::new())));
            assert!(matches!(looked, Err(CarryError::Unfit(_))), "taken");
        }
    }
}
