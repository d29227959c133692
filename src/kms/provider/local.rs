//! Key-encryption keys in a file beside the plugin: for learning the protocol without a server. Whoever has the
//! disk has the file, so it protects from nothing that a key in the EncryptionConfiguration would not.
//!
//! The first key of the file wraps, all of them unwrap. The file is read again when it changes.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::super::secret::read_private;
use super::super::{KmsError, log};
use super::{Provider, ProviderError, Wrapped};
use crate::adapters::paths::{create_private_dir, write_private};

/// Keys are AES-256's.
const KEY_LENGTH: usize = 32;
/// What wrapped keys begin with: the version of their form.
const FORMAT: u8 = 1;
/// The form: the version, the first bytes of the key's id, a nonce, the ciphertext with its tag.
const TAG_LENGTH: usize = 8;
const HEADER_LENGTH: usize = 1 + TAG_LENGTH;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    keys: Vec<KeyEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    /// 32 bytes in base64.
    secret: Zeroizing<String>,
}

struct Key {
    cipher: LessSafeKey,
    /// A hash of the key's bytes, as text and its first bytes. It says nothing about a random key.
    id: String,
    tag: [u8; TAG_LENGTH],
}

/// What tells that a file has changed.
type Stamp = (u64, u64, i64, i64, i64, i64);

struct Loaded {
    keys: Arc<Vec<Key>>,
    stamp: Option<Stamp>,
}

/// Keys in a file.
pub(crate) struct Local {
    path: PathBuf,
    loaded: Mutex<Loaded>,
    random: SystemRandom,
}

impl Local {
    /// Reads the key file.
    ///
    /// # Errors
    /// [`KmsError`] if the file cannot be read, is open to others, or holds no sound keys.
    pub(crate) fn open(path: &Path) -> Result<Self, KmsError> {
        // The stamp comes first: a change in between is then seen at the next call.
        let stamp = stamp(path);
        let keys = Arc::new(load(path)?);
        Ok(Self { path: path.to_owned(), loaded: Mutex::new(Loaded { keys, stamp }), random: SystemRandom::new() })
    }

    /// The keys, read again if the file has changed. A file that makes no sense leaves the old ones in use.
    fn keys(&self) -> Arc<Vec<Key>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp(&self.path);
        if now != loaded.stamp {
            loaded.stamp = now;
            match load(&self.path) {
                Ok(keys) => {
                    let first = keys.first().map(|key| key.id.as_str());
                    log::info("keys read again", json!({"keys": keys.len(), "key_id": first}));
                    loaded.keys = Arc::new(keys);
                }
                Err(error) => log::error("key file refused, the old keys stay", json!({"reason": error.to_string()})),
            }
        }
        loaded.keys.clone()
    }

    fn seal(&self, plaintext: &[u8]) -> Result<Wrapped, ProviderError> {
        let keys = self.keys();
        let key = keys.first().ok_or_else(|| ProviderError::Unavailable("the key file has no key".to_owned()))?;
        let failed = |_| ProviderError::Unavailable("the system's random source or AES-GCM failed".to_owned());
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(failed)?;
        let mut ciphertext = vec![FORMAT];
        ciphertext.extend_from_slice(&key.tag);
        let mut sealed = plaintext.to_vec();
        let aad = Aad::from(ciphertext.clone());
        // In place: the plaintext's copy becomes the ciphertext.
        let tag = key
            .cipher
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .map_err(failed)?;
        ciphertext.extend_from_slice(&nonce);
        ciphertext.append(&mut sealed);
        ciphertext.extend_from_slice(tag.as_ref());
        Ok(Wrapped { ciphertext, key_id: key.id.clone() })
    }

    fn open_sealed(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let unknown = |reason: &str| ProviderError::Unknown(reason.to_owned());
        let (header, rest) = ciphertext
            .split_at_checked(HEADER_LENGTH)
            .filter(|(header, _)| header[0] == FORMAT)
            .ok_or_else(|| unknown("this was not wrapped by the provider `local`"))?;
        let (nonce, sealed) =
            rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| unknown("the wrapped key breaks off"))?;
        let keys = self.keys();
        let key = keys
            .iter()
            .find(|key| key.tag == header[1..])
            .ok_or_else(|| unknown("the key that wrapped this is not in the key file"))?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let length = key
            .cipher
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(header), &mut buffer)
            .map_err(|_| unknown("the wrapped key has been changed"))?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn key_id(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        let id = self.keys().first().map(|key| key.id.clone());
        let id = id.ok_or_else(|| ProviderError::Unavailable("the key file has no key".to_owned()));
        std::future::ready(id).boxed()
    }

    fn wrap<'a>(&'a self, plaintext: &'a [u8]) -> BoxFuture<'a, Result<Wrapped, ProviderError>> {
        std::future::ready(self.seal(plaintext)).boxed()
    }

    fn unwrap<'a>(&'a self, ciphertext: &'a [u8]) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, ProviderError>> {
        std::future::ready(self.open_sealed(ciphertext)).boxed()
    }

    fn login_expires_in(&self) -> Option<u64> {
        None
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ))
}

fn parse(path: &Path) -> Result<KeyFile, KmsError> {
    let bytes = read_private(path)?;
    // The parser's own words might repeat what it met, and that may be a key.
    serde_yaml::from_slice(&bytes).map_err(|error| KmsError::Config {
        path: path.to_owned(),
        reason: match error.location() {
            Some(place) => format!("it is no list of keys; see line {}", place.line()),
            None => "it is no list of keys".to_owned(),
        },
    })
}

fn load(path: &Path) -> Result<Vec<Key>, KmsError> {
    let fail = |reason: String| KmsError::Config { path: path.to_owned(), reason };
    let mut keys: Vec<Key> = Vec::new();
    for (index, entry) in parse(path)?.keys.into_iter().enumerate() {
        let wrong = || fail(format!("key {} is not {KEY_LENGTH} bytes in base64", index + 1));
        let bytes = BASE64.decode(entry.secret.trim()).map(Zeroizing::new).map_err(|_| wrong())?;
        let cipher = UnboundKey::new(&AES_256_GCM, &bytes).map(LessSafeKey::new).map_err(|_| wrong())?;
        let hash = Sha256::new().chain_update(b"kprov kms local key id\0").chain_update(bytes.as_slice()).finalize();
        let mut tag = [0; TAG_LENGTH];
        tag.copy_from_slice(&hash[..TAG_LENGTH]);
        if keys.iter().any(|key| key.tag == tag) {
            return Err(fail(format!("key {} is there twice", index + 1)));
        }
        let id = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        keys.push(Key { cipher, id: format!("local-{id}"), tag });
    }
    if keys.is_empty() { Err(fail("it has no key".to_owned())) } else { Ok(keys) }
}

/// Puts a new key first into a key file, which is made if there is none: the plugin wraps with it from the next call
/// on, and still unwraps what the others have wrapped. Returns the new key's id.
///
/// # Errors
/// [`KmsError`] if the file cannot be read or written, or is no key file.
pub fn add_key(path: &Path) -> Result<String, KmsError> {
    // Of two at once, the second would write the file without the first one's key, by which something may be wrapped already.
    let _lock = lock(path)?;
    let mut file = match parse(path) {
        Ok(file) => file,
        Err(KmsError::File { error, .. }) if error.kind() == ErrorKind::NotFound => KeyFile { keys: Vec::new() },
        Err(error) => return Err(error),
    };
    let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
    SystemRandom::new()
        .fill(bytes.as_mut_slice())
        .map_err(|_| KmsError::Provider("the operating system's random source failed".to_owned()))?;
    file.keys.insert(0, KeyEntry { secret: Zeroizing::new(BASE64.encode(bytes.as_slice())) });
    let text = serde_json::to_vec_pretty(&file)
        .map(Zeroizing::new)
        .map_err(|error| KmsError::Config { path: path.to_owned(), reason: error.to_string() })?;
    write_private(path, &text)
        .map_err(|error| KmsError::Config { path: path.to_owned(), reason: error.to_string() })?;
    Ok(load(path)?.remove(0).id)
}

/// Locks the folder of a key file, which is made if there is none, until the lock is dropped.
fn lock(path: &Path) -> Result<File, KmsError> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    create_private_dir(folder)
        .map_err(|error| KmsError::Config { path: path.to_owned(), reason: error.to_string() })?;
    let handle = File::open(folder).map_err(|error| KmsError::File { path: folder.to_owned(), error })?;
    rustix::fs::flock(&handle, FlockOperation::LockExclusive)
        .map_err(|error| KmsError::File { path: folder.to_owned(), error: error.into() })?;
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const DATA_KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        (folder, path)
    }

    fn write(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    #[test]
    fn what_is_wrapped_is_unwrapped() {
        let (_folder, path) = folder();
        let id = add_key(&path).unwrap();
        let local = Local::open(&path).unwrap();
        let (one, two) = (local.seal(DATA_KEY).unwrap(), local.seal(DATA_KEY).unwrap());
        assert_eq!(one.key_id, id);
        assert_ne!(one.ciphertext, two.ciphertext, "the nonce is random");
        assert_eq!(one.ciphertext.len(), HEADER_LENGTH + NONCE_LEN + DATA_KEY.len() + 16);
        assert_eq!(local.open_sealed(&one.ciphertext).unwrap().as_slice(), DATA_KEY);
    }

    #[test]
    fn a_changed_byte_anywhere_is_noticed() {
        let (_folder, path) = folder();
        add_key(&path).unwrap();
        let local = Local::open(&path).unwrap();
        let wrapped = local.seal(DATA_KEY).unwrap().ciphertext;
        for index in 0..wrapped.len() {
            let mut changed = wrapped.clone();
            changed[index] ^= 1;
            assert!(local.open_sealed(&changed).is_err(), "byte {index}");
            assert!(local.open_sealed(&wrapped[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn a_new_first_key_rotates_without_a_restart() {
        let (_folder, path) = folder();
        let first = add_key(&path).unwrap();
        let local = Local::open(&path).unwrap();
        let old = local.seal(DATA_KEY).unwrap();
        let second = add_key(&path).unwrap();
        let new = local.seal(DATA_KEY).unwrap();
        assert_eq!((old.key_id, new.key_id), (first, second));
        assert_eq!(local.open_sealed(&old.ciphertext).unwrap(), local.open_sealed(&new.ciphertext).unwrap());
    }

    #[test]
    fn keys_that_are_made_at_once_are_all_kept() {
        let (_folder, path) = folder();
        let ids: Vec<String> = std::thread::scope(|scope| {
            let each: Vec<_> = (0..8).map(|_| scope.spawn(|| add_key(&path).unwrap())).collect();
            each.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let kept: Vec<String> = load(&path).unwrap().into_iter().map(|key| key.id).collect();
        assert_eq!(kept.len(), ids.len());
        assert!(ids.iter().all(|id| kept.contains(id)), "{ids:?} {kept:?}");
    }

    #[test]
    fn a_broken_file_leaves_the_old_keys_in_use() {
        let (_folder, path) = folder();
        add_key(&path).unwrap();
        let local = Local::open(&path).unwrap();
        let wrapped = local.seal(DATA_KEY).unwrap();
        write(&path, "keys: [");
        assert!(local.open_sealed(&wrapped.ciphertext).is_ok());
        fs::remove_file(&path).unwrap();
        assert!(local.open_sealed(&wrapped.ciphertext).is_ok());
        assert!(Local::open(&path).is_err());
    }

    #[test]
    fn files_without_sound_keys_are_refused_and_not_repeated() {
        let (_folder, path) = folder();
        for (text, reason) in [
            ("keys: []", "it has no key"),
            ("keys: [{secret: c2VjcmV0}]", "key 1 is not 32 bytes in base64"),
            ("keys: [{secret: c2VjcmV0, name: a}]", "it is no list of keys"),
            ("c2VjcmV0", "it is no list of keys"),
        ] {
            write(&path, text);
            let error = Local::open(&path).err().unwrap().to_string();
            assert!(error.contains(reason) && !error.contains("c2VjcmV0"), "{error}");
        }
        let key = BASE64.encode(DATA_KEY);
        write(&path, &format!("keys: [{{secret: {key}}}, {{secret: {key}}}]"));
        assert!(Local::open(&path).err().unwrap().to_string().contains("key 2 is there twice"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Local::open(&path).err().unwrap().to_string().contains("is open to others"));
    }
}
