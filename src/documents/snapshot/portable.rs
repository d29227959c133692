//! A snapshot as one file, to be carried elsewhere.
//!
//! A tar of the manifest and the blobs, encrypted by a passphrase in the age format unless the user insists: it
//! holds the cluster's certificate authority and its encryption keys. Pure.

use std::collections::BTreeMap;
use std::io::Read;

use age::secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::documents::names::{NameError, SnapshotName};

use super::contents::LARGEST;
use super::manifest::{Blob, Draft, StateManifest};

/// What every age file begins with.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// The names in the tar.
const MANIFEST: &str = "kprov-snapshot/manifest.json";
const NAME: &str = "kprov-snapshot/name";
const ORIGIN: &str = "kprov-snapshot/origin.json";
const BLOBS: &str = "kprov-snapshot/blobs/";

/// The largest file: what a snapshot may unfold to, and room for what goes with it.
pub const LARGEST_FILE: u64 = LARGEST + (64 << 20);

/// The most that each of the small files in the tar may have.
const SMALL: u64 = 16 << 20;

/// The most files that there may be in the tar: two for each of a hundred nodes, and then some.
const FILES: usize = 300;

/// Who wrote a snapshot into a file, as they say themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Origin {
    /// The user, and the host.
    pub by: String,
    /// When, in seconds since 1970.
    pub at: i64,
    /// The kprov that did it.
    pub kprov: String,
}

/// What a file has in it.
pub struct Carried {
    /// The name that the snapshot had.
    pub name: SnapshotName,
    /// Who wrote it, if it says so.
    pub origin: Option<Origin>,
    /// The snapshot.
    pub draft: Draft,
}

/// How hard a passphrase may be to check, as a power of two: about a minute's work.
const HARDEST: u8 = 22;

/// Why a file could not be made or read.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PortableError {
    /// It is encrypted, and there is no passphrase.
    #[error("the file is encrypted, and there is no passphrase")]
    #[diagnostic(
        code(kprov::snapshot::passphrase),
        help("type it when asked, or give it by --passphrase-file or in KPROV_PASSPHRASE")
    )]
    NoPassphrase,
    /// The passphrase is not the one that it was encrypted with.
    #[error("the passphrase is wrong, or the file is damaged")]
    #[diagnostic(code(kprov::snapshot::passphrase), help("nothing was changed; try again"))]
    WrongPassphrase,
    /// An empty passphrase protects nothing.
    #[error("the passphrase is empty")]
    #[diagnostic(code(kprov::snapshot::passphrase), help("`--plain` writes an unencrypted file"))]
    EmptyPassphrase,
    /// It is no snapshot, or not a whole one.
    #[error("this is no snapshot of kprov, or it is damaged: {0}")]
    #[diagnostic(code(kprov::snapshot::file), help("nothing was changed; export it again"))]
    Damaged(String),
    /// It was made by a kprov that writes another format.
    #[error("the snapshot has format {found}; this kprov reads format {known}")]
    #[diagnostic(code(kprov::snapshot::format), help("use the kprov that made it, or a newer one"))]
    Format {
        /// Its format.
        found: u32,
        /// The one that is known.
        known: u32,
    },
    /// It is larger than a file may be.
    #[error("the snapshot has {} MiB, a file of one has at most {} MiB", size >> 20, LARGEST >> 20)]
    #[diagnostic(
        code(kprov::snapshot::large),
        help("leave out what makes it large: images (`--with-images`), or what pods keep in local volumes")
    )]
    Large {
        /// Its size in bytes.
        size: u64,
    },
    /// Encryption failed.
    #[error("the snapshot could not be encrypted: {0}")]
    #[diagnostic(code(kprov::snapshot::encrypt))]
    Encrypt(String),
}

/// Whether a file is encrypted.
#[must_use]
pub fn is_encrypted(file: &[u8]) -> bool {
    file.starts_with(AGE)
}

/// A snapshot as one file; in the clear without a passphrase.
///
/// # Errors
/// [`PortableError::EmptyPassphrase`], [`PortableError::Large`] or [`PortableError::Encrypt`].
pub fn write(
    name: &SnapshotName,
    origin: &Origin,
    draft: &Draft,
    passphrase: Option<&SecretString>,
) -> Result<Zeroizing<Vec<u8>>, PortableError> {
    if passphrase.is_some_and(|passphrase| passphrase.expose_secret().is_empty()) {
        return Err(PortableError::EmptyPassphrase);
    }
    if draft.manifest.size() > LARGEST {
        return Err(PortableError::Large { size: draft.manifest.size() });
    }
    let manifest = serde_json::to_vec_pretty(&draft.manifest).expect("plain data with text keys");
    let origin = serde_json::to_vec_pretty(origin).expect("plain data with text keys");
    let size: usize = draft.blobs.iter().map(|(_, bytes)| bytes.len() + 1024).sum();
    let mut builder = tar::Builder::new(Vec::with_capacity(size + manifest.len() + 8192));
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        builder.append_data(&mut header, path, bytes).expect("writing to memory cannot fail");
    };
    add(NAME, name.as_bytes());
    add(MANIFEST, &manifest);
    add(ORIGIN, &origin);
    let mut written = std::collections::BTreeSet::new();
    for (blob, bytes) in &draft.blobs {
        if written.insert(&blob.sha256) {
            add(&format!("{BLOBS}{}", blob.sha256), bytes);
        }
    }
    let tar = Zeroizing::new(builder.into_inner().expect("writing to memory cannot fail"));
    let Some(passphrase) = passphrase else { return Ok(tar) };
    let recipient = age::scrypt::Recipient::new(passphrase.clone());
    age::encrypt(&recipient, &tar).map(Zeroizing::new).map_err(|error| PortableError::Encrypt(error.to_string()))
}

/// Reads what [`write`] has written, and checks every sum. What is in the archives is not looked at yet.
///
/// # Errors
/// [`PortableError::Large`], [`PortableError::NoPassphrase`], [`PortableError::WrongPassphrase`], [`PortableError::Damaged`]
/// for what has not been written like that, or [`PortableError::Format`].
pub fn read(file: &[u8], passphrase: Option<&SecretString>) -> Result<Carried, PortableError> {
    if file.len() as u64 > LARGEST_FILE {
        return Err(PortableError::Large { size: file.len() as u64 });
    }
    let opened;
    let tar = if is_encrypted(file) {
        let mut identity = age::scrypt::Identity::new(passphrase.ok_or(PortableError::NoPassphrase)?.clone());
        identity.set_max_work_factor(HARDEST);
        opened = Zeroizing::new(age::decrypt(&identity, file).map_err(|error| match error {
            age::DecryptError::InvalidHeader | age::DecryptError::UnknownFormat => {
                PortableError::Damaged(error.to_string())
            }
            _ => PortableError::WrongPassphrase,
        })?);
        opened.as_slice()
    } else {
        file
    };
    let damaged = |reason: String| PortableError::Damaged(reason);
    let mut files = files(tar).map_err(damaged)?;
    let manifest = files.get(MANIFEST).ok_or_else(|| damaged("it has no manifest".to_owned()))?;
    let manifest = StateManifest::parse(manifest).map_err(|error| match error {
        super::manifest::ParseError::Format(found) => PortableError::Format { found, known: StateManifest::FORMAT },
        super::manifest::ParseError::Text(reason) => PortableError::Damaged(reason),
    })?;
    let origin = files.get(ORIGIN).map(|origin| serde_json::from_slice(origin));
    let origin = origin.transpose().map_err(|error| damaged(format!("who wrote it makes no sense: {error}")))?;
    let mut blobs: BTreeMap<String, (Blob, Zeroizing<Vec<u8>>)> = BTreeMap::new();
    for blob in manifest.blobs().filter(|blob| blob.is_named()) {
        // Equal ones are there once.
        if blobs.get(&blob.sha256).is_some_and(|(known, _)| known == blob) {
            continue;
        }
        let bytes = files
            .remove(&format!("{BLOBS}{}", blob.sha256))
            .ok_or_else(|| damaged(format!("the file {} is missing", blob.sha256)))?;
        blob.check(&bytes).map_err(damaged)?;
        blobs.insert(blob.sha256.clone(), (blob.clone(), bytes));
    }
    if let Some(wrong) = manifest.blobs().find(|blob| !blob.is_named()) {
        return Err(damaged(format!("{:?} is no sha256", wrong.sha256)));
    }
    if let Some(other) = files.keys().find(|name| name.starts_with(BLOBS)) {
        return Err(damaged(format!("{other:?} belongs to nothing")));
    }
    let name = files.get(NAME).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let name = name.parse().map_err(|error: NameError| damaged(error.to_string()))?;
    Ok(Carried { name, origin, draft: Draft { manifest, blobs: blobs.into_values().collect() } })
}

/// The files in the tar, by their names. Nothing is believed of their headers but what they are called.
fn files(tar: &[u8]) -> Result<BTreeMap<String, Zeroizing<Vec<u8>>>, String> {
    let fail = |error: std::io::Error| error.to_string();
    let mut files = BTreeMap::new();
    // As they are: nothing of what a header can ask for (sparse files, other names, other sizes) is done.
    for entry in tar::Archive::new(tar).entries().map_err(fail)?.raw(true) {
        let mut entry = entry.map_err(fail)?;
        let name = String::from_utf8_lossy(&entry.header().path_bytes()).into_owned();
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(format!("{name:?} is no file"));
        }
        let size = entry.header().entry_size().map_err(fail)?;
        let most = match name.as_str() {
            MANIFEST | NAME | ORIGIN => SMALL,
            blob if blob.starts_with(BLOBS) => tar.len() as u64,
            _ => return Err(format!("{name:?} belongs to no snapshot")),
        };
        if size > most || files.len() >= FILES {
            return Err(format!("{name:?} is too large, or one too many"));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default()));
        entry.read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 != size {
            return Err(format!("{name:?} is cut off"));
        }
        if files.insert(name.clone(), bytes).is_some() {
            return Err(format!("{name:?} is there twice"));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use crate::documents::snapshot::tests::draft;

    use super::*;

    fn lesson() -> SnapshotName {
        "lesson".parse().unwrap()
    }

    fn me() -> Origin {
        Origin { by: "me@here".to_owned(), at: 7, kprov: "0".to_owned() }
    }

    fn write(
        name: &SnapshotName,
        draft: &Draft,
        passphrase: Option<&SecretString>,
    ) -> Result<Zeroizing<Vec<u8>>, PortableError> {
        super::write(name, &me(), draft, passphrase)
    }

    #[test]
    fn a_plain_file_is_read_back() {
        let file = write(&lesson(), &draft("a", b"state", 1), None).unwrap();
        assert!(!is_encrypted(&file));
        let Carried { name, origin, draft: back } = read(&file, None).unwrap();
        assert_eq!((name.as_str(), back.manifest.created, back.blobs[0].1.as_slice()), ("lesson", 1, &b"state"[..]));
        assert_eq!(origin, Some(me()));
    }

    #[test]
    fn a_changed_byte_is_an_error() {
        let mut file = write(&lesson(), &draft("a", b"state", 1), None).unwrap();
        let at = file.windows(5).rposition(|window| window == b"state").unwrap();
        file[at] ^= 1;
        assert!(matches!(read(&file, None), Err(PortableError::Damaged(_))));
        assert!(matches!(read(b"nonsense", None), Err(PortableError::Damaged(_))));
    }

    /// A file of these members: name, kind, the size that its header says, and content.
    fn forged(members: &[(&str, tar::EntryType, u64, &[u8])]) -> Vec<u8> {
        let mut file = Vec::new();
        for (name, kind, size, content) in members {
            let mut header = tar::Header::new_gnu();
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(*size);
            header.set_cksum();
            file.extend(header.as_bytes());
            file.extend(*content);
            file.resize(file.len().next_multiple_of(512), 0);
        }
        file.extend([0; 1024]);
        file
    }

    #[test]
    fn forged_files_are_refused_before_they_cost_anything() {
        use tar::EntryType;
        let blob = format!("{BLOBS}{}", "a".repeat(64));
        let reject = |members: &[(&str, EntryType, u64, &[u8])], says: &str| {
            let Err(error) = read(&forged(members), None) else { panic!("taken: {says}") };
            assert!(error.to_string().contains(says), "{error}");
        };
        reject(&[(&blob, EntryType::Regular, 1 << 40, b"")], "too large");
        reject(&[(&blob, EntryType::Regular, 2000, b"x")], "cut off");
        reject(&[(NAME, EntryType::Regular, 1 << 33, b"")], "too large");
        reject(&[(&blob, EntryType::GNUSparse, 0, b"")], "is no file");
        reject(&[(&blob, EntryType::Symlink, 0, b"")], "is no file");
        reject(&[(MANIFEST, EntryType::XHeader, 0, b"")], "is no file");
        reject(&[("../../../victim", EntryType::Regular, 1, b"x")], "belongs to no snapshot");
        reject(&[(NAME, EntryType::Regular, 1, b"a"), (NAME, EntryType::Regular, 1, b"b")], "there twice");
        reject(&[(NAME, EntryType::Regular, 1, b"a")], "no manifest");
        let crowd: Vec<String> = (0..=FILES).map(|index| format!("{BLOBS}{index}")).collect();
        let crowd: Vec<_> = crowd.iter().map(|name| (name.as_str(), EntryType::Regular, 0, &b""[..])).collect();
        reject(&crowd, "one too many");
    }

    #[test]
    fn a_manifest_that_lies_is_refused() {
        let write = |change: &dyn Fn(&mut Draft)| {
            let mut draft = draft("a", b"state", 1);
            change(&mut draft);
            read(&write(&lesson(), &draft, None).unwrap(), None)
        };
        let lie = |change: &dyn Fn(&mut Draft)| write(change).err().expect("refused").to_string();
        let other = lie(&|draft| draft.manifest.nodes[0].archive.size = 4);
        assert!(other.contains("not 4 with"), "{other}");
        let other = lie(&|draft| draft.manifest.nodes[0].archive.sha256 = "b".repeat(64));
        assert!(other.contains("is missing"), "{other}");
        let other = lie(&|draft| draft.manifest.nodes[0].archive.sha256 = "../x".to_owned());
        assert!(other.contains("is no sha256"), "{other}");
        let other = lie(&|draft| draft.manifest.nodes.clear());
        assert!(other.contains("belongs to nothing"), "{other}");
    }

    #[test]
    fn what_no_file_can_hold_is_not_written() {
        let mut draft = draft("a", b"state", 1);
        draft.manifest.nodes[0].archive.size = 5 << 30;
        let error = write(&lesson(), &draft, None).unwrap_err();
        assert_eq!(error.to_string(), "the snapshot has 5120 MiB, a file of one has at most 4096 MiB");
    }

    #[test]
    fn cut_anywhere_it_is_refused() {
        let file = write(&lesson(), &draft("a", b"state", 1), None).unwrap();
        for length in (0..file.len() - 1024).step_by(97) {
            assert!(read(&file[..length], None).is_err(), "{length}");
        }
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        let file = write(&lesson(), &draft("abc", b"state", 1), None).unwrap();
        for (name, forged) in [("lesson", "../les"), ("\"name\": \"abc\"", "\"name\": \"../\"")] {
            let mut file = file.clone();
            let at = file.windows(name.len()).rposition(|window| window == name.as_bytes()).unwrap();
            file[at..at + name.len()].copy_from_slice(forged.as_bytes());
            let Err(error) = read(&file, None) else { panic!("{forged}") };
            assert!(error.to_string().contains("name has only lower-case letters"), "{error}");
        }
    }

    #[test]
    fn an_encrypted_file_needs_its_passphrase() {
        let secret = |text: &str| SecretString::from(text.to_owned());
        let file = write(&lesson(), &draft("a", b"state", 1), Some(&secret("open sesame"))).unwrap();
        assert!(is_encrypted(&file));
        assert!(!file.windows(5).any(|window| window == b"state"));
        assert!(matches!(read(&file, None), Err(PortableError::NoPassphrase)));
        assert!(matches!(read(&file, Some(&secret("open"))), Err(PortableError::WrongPassphrase)));
        assert_eq!(read(&file, Some(&secret("open sesame"))).unwrap().name, "lesson");
        assert!(matches!(
            write(&lesson(), &draft("a", b"s", 1), Some(&secret(""))),
            Err(PortableError::EmptyPassphrase)
        ));
    }
}
