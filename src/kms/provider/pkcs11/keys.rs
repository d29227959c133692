//! The keys of one label in a token: which one wraps, what each is called, and what a wrapped key looks like.
//!
//! Keys of the same label are versions of one key, and their `CKA_ID`, read as a number, says which is newer: the highest
//! wraps, all of them unwrap.

use std::cmp::Ordering;

use sha2::{Digest as _, Sha256};

use super::Fault;

/// What wrapped keys begin with: their form. `local` has another one.
const FORMAT: u8 = 2;
/// The form: its number, the first bytes of a hash that names the key, the IV, the ciphertext with its tag.
const MARK_LENGTH: usize = 8;
pub(super) const HEADER_LENGTH: usize = 1 + MARK_LENGTH;
pub(super) const IV_LENGTH: usize = 12;
/// AES-256's.
pub(super) const KEY_LENGTH: u64 = 32;

/// A key as a token tells of it. Its bytes stay there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: Vec<u8>,
    pub(super) length: u64,
    pub(super) encrypts: bool,
    pub(super) decrypts: bool,
    pub(super) sensitive: bool,
    pub(super) extractable: bool,
    /// `CKA_CHECK_VALUE`, where the token has it: two keys that were made one after the other under one name differ in it.
    pub(super) check_value: Vec<u8>,
}

/// A key that can unwrap.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// Its place in what the token has listed.
    pub(super) place: usize,
    /// What API servers call it.
    pub(super) id: String,
    /// What tells in a wrapped key which one wrapped it. The token is no part of it: a key that is restored to another token
    /// unwraps there.
    mark: [u8; MARK_LENGTH],
    /// Why it must not wrap.
    flaw: Option<String>,
}

/// The keys of one label, the one that wraps first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(Vec<Key>);

impl Keys {
    /// Sorts what a token has listed. `token` is what makes the token one of its own: maker and serial number.
    pub(super) fn of(found: &[Found], token: &str, label: &str) -> Self {
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_by(|a, b| newer(&found[*b].id, &found[*a].id));
        let keys = order.iter().map(|&place| {
            let one = &found[place];
            let mut flaw = flaw(one, label);
            let twins = found.iter().filter(|other| newer(&other.id, &one.id) == Ordering::Equal).count();
            if twins > 1 {
                flaw = Some(format!(
                    "{twins} keys {label} have the id {}: which one is the newest cannot be told",
                    shown(&one.id)
                ));
            }
            let mark = hash("kprov kms pkcs11 key", &[label.as_bytes(), &one.id, &one.check_value]);
            let name = hash("kprov kms pkcs11 key id", &[token.as_bytes(), &mark]);
            // The mark first: by the protocol's v1, it is all that a stored value tells of its key.
            let id =
                format!("pkcs11-{}-{}{}", hex::encode(&mark[..MARK_LENGTH]), version(&one.id), hex::encode(&name[..8]));
            let mut first = [0; MARK_LENGTH];
            first.copy_from_slice(&mark[..MARK_LENGTH]);
            Key { place, id, mark: first, flaw }
        });
        Self(keys.collect())
    }

    /// The key that wraps.
    pub(super) fn current(&self) -> Result<&Key, Fault> {
        let first = self.0.first().ok_or_else(|| Fault::Key("there is no such AES key".to_owned()))?;
        match &first.flaw {
            Some(flaw) => Err(Fault::Key(flaw.clone())),
            None => Ok(first),
        }
    }

    /// The key that has wrapped this.
    pub(super) fn of_wrapped(&self, wrapped: &Parts<'_>) -> Option<&Key> {
        self.0.iter().find(|key| key.mark == wrapped.header[1..])
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Key {
    /// What a key that it wraps begins with.
    pub(super) fn header(&self) -> [u8; HEADER_LENGTH] {
        let mut header = [FORMAT; HEADER_LENGTH];
        header[1..].copy_from_slice(&self.mark);
        header
    }
}

/// A wrapped key, taken apart.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) header: &'a [u8],
    pub(super) iv: [u8; IV_LENGTH],
    pub(super) sealed: &'a [u8],
}

impl<'a> Parts<'a> {
    pub(super) fn of(wrapped: &'a [u8]) -> Result<Self, Fault> {
        let wrong = |reason: &str| Fault::Data(reason.to_owned());
        let (header, rest) = wrapped
            .split_at_checked(HEADER_LENGTH)
            .filter(|(header, _)| header[0] == FORMAT)
            .ok_or_else(|| wrong("this was not wrapped by the provider `pkcs11`"))?;
        let (iv, sealed) = rest.split_first_chunk::<IV_LENGTH>().ok_or_else(|| wrong("the wrapped key breaks off"))?;
        Ok(Self { header, iv: *iv, sealed })
    }
}

/// The id for one more key: the next number.
pub(super) fn next_id(found: &[Found]) -> Vec<u8> {
    let newest = found.iter().map(|one| digits(&one.id)).max_by(|a, b| newer(a, b)).unwrap_or_default();
    let mut next = newest.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return next;
        }
    }
    next.insert(0, 1);
    next
}

fn flaw(key: &Found, label: &str) -> Option<String> {
    let problem = match key {
        Found { length, .. } if *length != KEY_LENGTH => format!("has {} bits, and 256 are wanted", length * 8),
        Found { encrypts: false, .. } | Found { decrypts: false, .. } => {
            "must be allowed to encrypt and to decrypt (CKA_ENCRYPT, CKA_DECRYPT)".to_owned()
        }
        Found { extractable: true, .. } | Found { sensitive: false, .. } => {
            "can be read out of its token: it has to be sensitive and not extractable (CKA_SENSITIVE, CKA_EXTRACTABLE)"
                .to_owned()
        }
        _ => return None,
    };
    Some(format!("the key {label} with the id {} {problem}", shown(&key.id)))
}

/// A number's digits, without leading zeros.
fn digits(id: &[u8]) -> &[u8] {
    let zeros = id.iter().take_while(|byte| **byte == 0).count();
    &id[zeros..]
}

fn newer(a: &[u8], b: &[u8]) -> Ordering {
    let (a, b) = (digits(a), digits(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// The version, where the id is a small number, as it is meant to be.
fn version(id: &[u8]) -> String {
    let digits = digits(id);
    if digits.len() > 4 {
        return String::new();
    }
    let number = digits.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("v{number}-")
}

fn shown(id: &[u8]) -> String {
    if id.is_empty() { "(none)".to_owned() } else { hex::encode(id) }
}

fn hash(what: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(what).chain_update([0]);
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
