//! A snapshot as one file, to be carried elsewhere.
//!
//! A tar of the manifest and the blobs, encrypted by a passphrase in the age format unless the user insists: it
//! holds the cluster's certificate authority and its encryption keys. Pure.

use std::collections::BTreeMap;
use std::io::Read;

use age::secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::documents::names::{NameError, SnapshotName};

use super::manifest::{Blob, Draft, StateManifest};

/// What every age file begins with.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// The names in the tar.
const MANIFEST: &str = "kprov-snapshot/manifest.json";
const NAME: &str = "kprov-snapshot/name";
const BLOBS: &str = "kprov-snapshot/blobs/";

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
/// [`PortableError::EmptyPassphrase`] or [`PortableError::Encrypt`].
pub fn write(
    name: &SnapshotName,
    draft: &Draft,
    passphrase: Option<&SecretString>,
) -> Result<Zeroizing<Vec<u8>>, PortableError> {
    if passphrase.is_some_and(|passphrase| passphrase.expose_secret().is_empty()) {
        return Err(PortableError::EmptyPassphrase);
    }
    let manifest = serde_json::to_vec_pretty(&draft.manifest).expect("plain data with text keys");
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

/// Reads what [`write`] has written, and checks every sum. Gives the name that the snapshot had.
///
/// # Errors
/// [`PortableError`] if the passphrase is missing or wrong, the file is no exported snapshot, a sum does not fit, or it was written by a
/// later version.
pub fn read(file: &[u8], passphrase: Option<&SecretString>) -> Result<(SnapshotName, Draft), PortableError> {
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
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().map_err(|error| damaged(error.to_string()))? {
        let mut entry = entry.map_err(|error| damaged(error.to_string()))?;
        let path = entry.path().map_err(|error| damaged(error.to_string()))?.to_string_lossy().into_owned();
        let mut bytes = Zeroizing::new(Vec::new());
        entry.read_to_end(&mut bytes).map_err(|error| damaged(error.to_string()))?;
        files.insert(path, bytes);
    }
    let manifest = files.get(MANIFEST).ok_or_else(|| damaged("it has no manifest".to_owned()))?;
    let manifest = StateManifest::parse(manifest).map_err(|error| match error {
        super::manifest::ParseError::Format(found) => PortableError::Format { found, known: StateManifest::FORMAT },
        super::manifest::ParseError::Text(reason) => PortableError::Damaged(reason),
    })?;
    let mut blobs: Vec<(Blob, Zeroizing<Vec<u8>>)> = Vec::new();
    for blob in manifest.blobs() {
        let bytes = files
            .get(&format!("{BLOBS}{}", blob.sha256))
            .ok_or_else(|| damaged(format!("the file {} is missing", blob.sha256)))?;
        blob.check(bytes).map_err(damaged)?;
        blobs.push((blob.clone(), bytes.clone()));
    }
    let name = files.get(NAME).map(|name| String::from_utf8_lossy(name).into_owned()).unwrap_or_default();
    let name = name.parse().map_err(|error: NameError| damaged(error.to_string()))?;
    Ok((name, Draft { manifest, blobs }))
}

#[cfg(test)]
mod tests {
    use crate::documents::snapshot::tests::draft;

    use super::*;

    fn lesson() -> SnapshotName {
        "lesson".parse().unwrap()
    }

    #[test]
    fn a_plain_file_is_read_back() {
        let file = write(&lesson(), &draft("a", b"state", 1), None).unwrap();
        assert!(!is_encrypted(&file));
        let (name, back) = read(&file, None).unwrap();
        assert_eq!((name.as_str(), back.manifest.created, back.blobs[0].1.as_slice()), ("lesson", 1, &b"state"[..]));
    }

    #[test]
    fn a_changed_byte_is_an_error() {
        let mut file = write(&lesson(), &draft("a", b"state", 1), None).unwrap();
        let at = file.windows(5).rposition(|window| window == b"state").unwrap();
        file[at] ^= 1;
        assert!(matches!(read(&file, None), Err(PortableError::Damaged(_))));
        assert!(matches!(read(b"nonsense", None), Err(PortableError::Damaged(_))));
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
        assert_eq!(read(&file, Some(&secret("open sesame"))).unwrap().0, "lesson");
        assert!(matches!(
            write(&lesson(), &draft("a", b"s", 1), Some(&secret(""))),
            Err(PortableError::EmptyPassphrase)
        ));
    }
}
