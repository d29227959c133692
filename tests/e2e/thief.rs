//! Somebody who has stolen a host: the files of a node, its etcd and kprov's own folder; and what they make of them.
//!
//! Finds stored values in etcd's raw files, takes every text that could be a key for one, and tries each by each provider's
//! own format. Whether the method is any good, clusters show whose keys are there to be found.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use aes::Aes256;
use aes::cipher::{BlockDecrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk};
use test_support::Sandbox;

/// Where on a node keys, logins and values could lie.
const FOLDERS: [&str; 7] = ["/etc", "/kind", "/root", "/home", "/var/lib/kubelet", "/var/lib/etcd", "/var/log"];

/// A file that is larger is no place for a key.
const SMALL: usize = 4 << 20;

/// What was stolen: files by their names.
pub(super) struct Loot {
    files: Vec<(String, Vec<u8>)>,
}

/// A stored value: what is before it, and what could be its text.
struct Value<'a> {
    provider: &'a str,
    version: &'a str,
    rest: &'a [u8],
}

impl Loot {
    /// Everything of a node that has been stopped, and of the sandbox, kprov's folder among it. Plain text is looked for in
    /// all of both, keys and values in what could hold them.
    pub(super) fn of(sandbox: &Sandbox) -> Self {
        let node = sandbox.node("control-plane");
        let mut loot = Self { files: Vec::new() };
        for folder in FOLDERS {
            loot.unpack(folder, &docker(&["cp", &format!("{node}:{folder}"), "-"]));
        }
        loot.walk(sandbox.path());
        // Without these, it would be no wonder that nothing is found.
        for needed in ["member/snap/db", "admin.conf", "keys.json", "cluster.json", "kubelet/config.yaml"] {
            assert!(loot.files.iter().any(|(name, _)| name.ends_with(needed)), "{needed} was not stolen");
        }
        loot
    }

    fn unpack(&mut self, place: &str, tar: &[u8]) {
        for entry in tar::Archive::new(tar).entries().expect("an archive") {
            let mut entry = entry.expect("an entry");
            let name = format!("{place}/{}", entry.path().expect("a path").display());
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("a file");
            self.files.push((name, bytes));
        }
    }

    fn walk(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                self.walk(&path);
                continue;
            }
            let name = path.display().to_string();
            let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                // A kept state holds a node's files.
                let tar = zstd::stream::decode_all(bytes.as_slice()).expect("a state can be unpacked");
                self.unpack(&name, &tar);
            }
            self.files.push((name, bytes));
        }
    }

    /// The files that hold a text as it is, or in base64.
    pub(super) fn holding(&self, text: &str) -> Vec<&str> {
        let encoded = BASE64.encode(text);
        let holds = |bytes: &[u8]| find(bytes, text.as_bytes()).is_some() || find(bytes, encoded.as_bytes()).is_some();
        self.files.iter().filter(|(_, bytes)| holds(bytes)).map(|(name, _)| name.as_str()).collect()
    }

    /// Decrypts the value of `key` in etcd's files, if there is a key to it anywhere; gives the plain text.
    pub(super) fn decrypt(&self, key: &str) -> Option<Vec<u8>> {
        let keys = self.keys();
        assert!(!keys.is_empty(), "nothing that could be a key was stolen");
        let values: Vec<Value<'_>> = self.files.iter().flat_map(|(_, bytes)| values(bytes, key)).collect();
        assert!(!values.is_empty(), "{key} was not stolen");
        values.iter().find_map(|value| keys.iter().find_map(|with| value.decrypt(with, &keys, key)))
    }

    /// All that could be a key of 32 bytes: such bytes, or words that stand for them.
    fn keys(&self) -> BTreeSet<[u8; 32]> {
        let mut keys = BTreeSet::new();
        let mut add = |bytes: &[u8]| keys.extend(<[u8; 32]>::try_from(bytes).ok());
        for (_, bytes) in
            self.files.iter().filter(|(name, bytes)| bytes.len() <= SMALL && !name.contains("etcd/member"))
        {
            add(bytes);
            let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=_-".contains(byte);
            for word in bytes.split(|byte| !is_word(byte)).filter(|word| (32..=128).contains(&word.len())) {
                add(word);
                add(&BASE64.decode(word).unwrap_or_default());
                add(&hex::decode(word).unwrap_or_default());
            }
        }
        keys
    }
}

/// What follows the key's name in etcd's pages and logs, wherever it does.
fn values<'a>(bytes: &'a [u8], key: &str) -> Vec<Value<'a>> {
    let (mut found, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, key.as_bytes()) {
        rest = &rest[at + key.len()..];
        let near = &rest[..rest.len().min(2048)];
        let Some(start) = find(&near[..near.len().min(64)], b"k8s:enc:") else { continue };
        let value = &near[start + b"k8s:enc:".len()..];
        let mut parts = value.splitn(4, |byte| *byte == b':');
        let mut word = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
        let (Some(provider), Some(version), Some(_)) = (word(), word(), word()) else { continue };
        found.extend(parts.next().map(|rest| Value { provider, version, rest }));
    }
    found
}

impl Value<'_> {
    /// By `with`, or by a data key that `with` unwraps.
    fn decrypt(&self, with: &[u8; 32], all: &BTreeSet<[u8; 32]>, path: &str) -> Option<Vec<u8>> {
        let plain = match (self.provider, self.version) {
            ("aescbc", _) => cbc(with, self.rest),
            ("kms", "v1") => {
                let (length, rest) = self.rest.split_first_chunk::<2>()?;
                let (wrapped, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
                // The first thing to be tried is whether the data key itself lies around.
                if with == all.first()?
                    && let Some(plain) = all.iter().find_map(|key| secret(cbc(key, rest)))
                {
                    return Some(plain);
                }
                cbc(&unwrap(with, wrapped)?.try_into().ok()?, rest)
            }
            ("kms", "v2") => {
                let [sealed, _, wrapped] = fields(self.rest)?;
                let seed = unwrap(with, wrapped)?;
                let (info, sealed) = sealed.split_at_checked(32)?;
                let (info, length) = ([info], HKDF_SHA256);
                let mut key = [0; 32];
                Prk::new_less_safe(HKDF_SHA256, &seed).expand(&info, length).ok()?.fill(&mut key).ok()?;
                gcm(&key, path.as_bytes(), sealed)?
            }
            _ => return None,
        };
        secret(plain)
    }
}

/// Only a Secret's protobuf is plain text.
fn secret(plain: Vec<u8>) -> Option<Vec<u8>> {
    find(&plain, b"Secret").is_some().then_some(plain)
}

/// A wrapped data key, by the formats of the provider `local` and of the transit engine.
fn unwrap(with: &[u8; 32], wrapped: &[u8]) -> Option<Vec<u8>> {
    if let Some(text) = wrapped.strip_prefix(b"vault:v1:") {
        return gcm(with, b"", &BASE64.decode(text).ok()?);
    }
    let (header, sealed) = wrapped.split_at_checked(9)?;
    gcm(with, header, sealed)
}

fn gcm(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<12>()?;
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
    let mut buffer = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    Some(key.open_in_place(nonce, Aad::from(aad), &mut buffer).ok()?.to_vec())
}

/// What follows is decrypted, too: where a value ends does not matter to who looks for a text.
fn cbc(key: &[u8; 32], sealed: &[u8]) -> Vec<u8> {
    let cipher = Aes256::new(key.into());
    let blocks: Vec<&[u8]> = sealed.chunks_exact(16).take(24).collect();
    let decrypted = blocks.windows(2).flat_map(|pair| {
        let mut block = aes::Block::clone_from_slice(pair[1]);
        cipher.decrypt_block(&mut block);
        block.iter().zip(pair[0]).map(|(byte, before)| byte ^ before).collect::<Vec<u8>>()
    });
    decrypted.collect()
}

/// The first three fields of a protobuf message, which are bytes.
fn fields(mut message: &[u8]) -> Option<[&[u8]; 3]> {
    let mut found = [&[][..]; 3];
    for (number, field) in (1u8..).zip(&mut found) {
        let rest = message.strip_prefix(&[number << 3 | 2])?;
        let (mut length, mut shift, mut read) = (0usize, 0, 0);
        for byte in rest.iter().take(3) {
            length |= usize::from(byte & 0x7f) << shift;
            (shift, read) = (shift + 7, read + 1);
            if byte & 0x80 == 0 {
                break;
            }
        }
        (*field, message) = rest[read..].split_at_checked(length)?;
    }
    Some(found)
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, text)
}

fn docker(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("docker").args(arguments).output().expect("docker runs");
    assert!(output.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Looks for a text in every byte of a stopped node, its volume included.
#[track_caller]
pub(super) fn assert_nowhere_on(node: &str, text: &str) {
    for what in [&["export", node][..], &["cp", &format!("{node}:/var"), "-"]] {
        let mut docker = Command::new("docker").args(what).stdout(Stdio::piped()).spawn().expect("docker runs");
        let bytes = docker.stdout.take().expect("it is piped");
        let search =
            Command::new("grep").args(["-acF", text]).env("LC_ALL", "C").stdin(bytes).output().expect("grep runs");
        assert!(docker.wait().expect("docker ends").success(), "docker {}", what.join(" "));
        // 1: read to its end, and not found.
        assert_eq!(
            search.status.code(),
            Some(1),
            "docker {}: {}",
            what.join(" "),
            String::from_utf8_lossy(&search.stdout)
        );
    }
}
