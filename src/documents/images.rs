//! Archives of images, as `docker save` writes them, and the names that images have.
//!
//! Owns taking an archive apart while it passes by, and what is in one; leaves where it comes from and goes to others.

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;

/// How much of an archive is one block.
const BLOCK: usize = 512;

/// How large a list of what an archive holds may be, and a long name in it.
const MOST: u64 = 16 << 20;

/// Why an archive is none of images.
#[derive(Debug, thiserror::Error)]
pub enum ImageArchiveError {
    /// It could not be read.
    #[error("it could not be read: {0}")]
    Read(#[from] std::io::Error),
    /// It is compressed.
    #[error("it is compressed by {0}, which nodes do not take; take it apart first (`gunzip`, `zstd -d`)")]
    Compressed(&'static str),
    /// It is no tar archive, or a damaged one.
    #[error("it is no tar archive, or a damaged one")]
    NoTar,
    /// A file in it is not what its name says.
    #[error("a layer in it is damaged: what it holds does not hash to {digest}")]
    Digest {
        /// The digest that it goes by.
        digest: String,
    },
    /// It says nowhere which images it holds.
    #[error(
        "it names no image: there is neither a manifest.json nor an index.json in it that does (`docker save NAME` writes one)"
    )]
    Nameless,
    /// What it says of its images makes no sense.
    #[error("its {file} makes no sense: {reason}")]
    List {
        /// The file in it.
        file: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// An image by the name that it will have on nodes, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its whole name, with registry and tag.
    pub name: String,
    /// `sha256:…` of its configuration, or of its manifest.
    pub id: String,
}

/// The name that containerd gives an image that people call `reference`: with registry, and with a tag. `None` if it is no name
/// but an id, or one by digest, which nobody has given.
#[must_use]
pub fn whole_name(reference: &str) -> Option<String> {
    let is_id = |text: &str| text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Whoever wrote an archive may have put anything there.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/' | b':');
    if !reference.bytes().all(fits) || !reference.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    if reference.starts_with("sha256:") || is_id(reference) {
        return None;
    }
    let (first, rest) = reference.split_once('/').unwrap_or(("", reference));
    let is_registry = first.contains(['.', ':']) || first == "localhost";
    let path = match (is_registry, first) {
        (true, "index.docker.io") => format!("docker.io/{rest}"),
        (true, _) => reference.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{reference}"),
    };
    // What follows the docker.io that somebody has written out may be such a short one.
    let path = match path.strip_prefix("docker.io/") {
        Some(rest) if !rest.contains('/') => format!("docker.io/library/{rest}"),
        _ => path,
    };
    let tagged = path.rsplit('/').next().is_some_and(|last| last.contains(':'));
    Some(if tagged { path } else { format!("{path}:latest") })
}

/// What an archive is made of, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A file begins.
    Begin {
        /// Its name in the archive.
        name: String,
        /// How many bytes it has.
        size: u64,
        /// The blocks before its bytes, as they are.
        head: Bytes,
    },
    /// Some of the bytes of the file that has begun, or what fills up its last block.
    Content(Bytes),
    /// What follows the last file.
    Rest(Bytes),
}

/// Takes an archive apart that comes in pieces of any size, without keeping or copying what its files hold.
#[derive(Debug, Default)]
pub struct Splitter {
    at: At,
    /// What of the head of a file, or of a note before it, has come.
    head: BytesMut,
    /// The blocks that have come before the head of the file that they are about.
    before: BytesMut,
    long_name: Option<String>,
    long_size: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Head,
    /// A note on the file that follows, of so many bytes; what is still missing of its blocks.
    Note {
        kind: u8,
        size: usize,
        missing: usize,
    },
    Content {
        missing: u64,
    },
    Rest,
}

impl Splitter {
    /// Takes the next piece, and gives what it is made of.
    ///
    /// # Errors
    /// [`ImageArchiveError::NoTar`] if it cannot be one of a tar archive.
    pub fn take(&mut self, mut chunk: Bytes) -> Result<Vec<Piece>, ImageArchiveError> {
        let mut pieces = Vec::new();
        while !chunk.is_empty() {
            match &mut self.at {
                At::Rest => {
                    pieces.push(Piece::Rest(std::mem::take(&mut chunk)));
                }
                At::Content { missing } => {
                    let here = usize::try_from(*missing).map_or(chunk.len(), |missing| missing.min(chunk.len()));
                    *missing -= here as u64;
                    if *missing == 0 {
                        self.at = At::Head;
                    }
                    pieces.push(Piece::Content(chunk.split_to(here)));
                }
                At::Note { kind, size, missing } => {
                    let here = chunk.len().min(*missing);
                    self.head.extend_from_slice(&chunk.split_to(here));
                    *missing -= here;
                    if *missing == 0 {
                        let (kind, size) = (*kind, *size);
                        self.note(kind, size)?;
                    }
                }
                At::Head => {
                    let here = chunk.len().min(BLOCK - self.head.len());
                    self.head.extend_from_slice(&chunk.split_to(here));
                    if self.head.len() == BLOCK {
                        pieces.extend(self.block()?);
                    }
                }
            }
        }
        Ok(pieces)
    }

    /// Whether all has come that was announced.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.at == At::Rest
    }

    /// A block that opens something is complete.
    fn block(&mut self) -> Result<Option<Piece>, ImageArchiveError> {
        let block = self.head.split();
        if block.iter().all(|&byte| byte == 0) {
            self.at = At::Rest;
            let mut rest = std::mem::take(&mut self.before);
            rest.unsplit(block);
            return Ok(Some(Piece::Rest(rest.freeze())));
        }
        let header = tar::Header::from_byte_slice(&block);
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
            .sum();
        if header.cksum().ok() != Some(sum) {
            return Err(ImageArchiveError::NoTar);
        }
        let size = header.entry_size().map_err(|_| ImageArchiveError::NoTar)?;
        let kind = header.entry_type().as_byte();
        if matches!(kind, b'x' | b'g' | b'L' | b'K') {
            let size =
                usize::try_from(size).ok().filter(|&size| size as u64 <= MOST).ok_or(ImageArchiveError::NoTar)?;
            self.before.unsplit(block);
            self.at = At::Note { kind, size, missing: size.next_multiple_of(BLOCK) };
            if size == 0 {
                self.at = At::Head;
            }
            return Ok(None);
        }
        let name = match self.long_name.take() {
            Some(name) => name,
            None => String::from_utf8_lossy(&header.path_bytes()).into_owned(),
        };
        let size = self.long_size.take().unwrap_or(size);
        // Only files have content; what a link says of its size is its target's.
        let content = if matches!(kind, b'0' | b'7' | 0) { size } else { 0 };
        let missing = content.checked_next_multiple_of(BLOCK as u64).ok_or(ImageArchiveError::NoTar)?;
        self.at = if missing == 0 { At::Head } else { At::Content { missing } };
        let mut head = std::mem::take(&mut self.before);
        head.unsplit(block);
        Ok(Some(Piece::Begin { name, size: content, head: head.freeze() }))
    }

    /// A note on the file that follows is complete.
    fn note(&mut self, kind: u8, size: usize) -> Result<(), ImageArchiveError> {
        let note = self.head.split();
        let text = &note[..size];
        match kind {
            b'L' => {
                let end = text.iter().position(|&byte| byte == 0).unwrap_or(size);
                self.long_name = Some(String::from_utf8_lossy(&text[..end]).into_owned());
            }
            b'x' => {
                for record in tar::PaxExtensions::new(text) {
                    let record = record.map_err(|_| ImageArchiveError::NoTar)?;
                    match record.key_bytes() {
                        b"path" => self.long_name = Some(String::from_utf8_lossy(record.value_bytes()).into_owned()),
                        b"size" => {
                            let size = record.value().ok().and_then(|value| value.parse().ok());
                            self.long_size = Some(size.ok_or(ImageArchiveError::NoTar)?);
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        self.before.unsplit(note);
        self.at = At::Head;
        Ok(())
    }
}

/// The digest of what a file in an archive holds, if its name says so: `blobs/sha256/…`.
#[must_use]
pub fn blob_digest(name: &str) -> Option<String> {
    let hex = name.strip_prefix("./").unwrap_or(name).strip_prefix("blobs/sha256/")?;
    is_hex_digest(hex).then(|| format!("sha256:{hex}"))
}

fn is_hex_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A line of Docker's own list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// The list of the OCI's layout.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Manifest>,
}

#[derive(Deserialize)]
struct Manifest {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The images in an archive, by the names that they will have.
///
/// # Errors
/// [`ImageArchiveError`] if it cannot be read, is no such archive, or names none.
pub fn images_in(mut archive: impl Read + Seek) -> Result<Vec<Named>, ImageArchiveError> {
    let mut start = [0; 4];
    let read = archive.read(&mut start)?;
    archive.rewind()?;
    match &start[..read] {
        [0x1f, 0x8b, ..] => return Err(ImageArchiveError::Compressed("gzip")),
        [0x28, 0xb5, 0x2f, 0xfd] => return Err(ImageArchiveError::Compressed("zstd")),
        _ => {}
    }
    let (mut docker, mut index) = (None, None);
    let no_tar = |error: std::io::Error| match error.raw_os_error() {
        Some(_) => ImageArchiveError::Read(error),
        None => ImageArchiveError::NoTar,
    };
    for entry in tar::Archive::new(archive).entries_with_seek().map_err(no_tar)? {
        let mut entry = entry.map_err(no_tar)?;
        let name = entry.path_bytes().into_owned();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        let list = match name {
            b"manifest.json" => &mut docker,
            b"index.json" => &mut index,
            _ => continue,
        };
        if entry.size() > MOST {
            return Err(ImageArchiveError::NoTar);
        }
        let mut text = Vec::new();
        entry.read_to_end(&mut text).map_err(no_tar)?;
        *list = Some(text);
    }
    let mut named = match (docker, index) {
        (Some(docker), _) => of_docker(&docker)?,
        (None, Some(index)) => of_index(&index)?,
        (None, None) => Vec::new(),
    };
    named.sort_by(|a, b| a.name.cmp(&b.name));
    named.dedup();
    if named.is_empty() { Err(ImageArchiveError::Nameless) } else { Ok(named) }
}

fn of_docker(text: &[u8]) -> Result<Vec<Named>, ImageArchiveError> {
    const FILE: &str = "manifest.json";
    let fail = |reason: String| ImageArchiveError::List { file: FILE, reason };
    let images: Vec<DockerImage> = serde_json::from_slice(text).map_err(|error| fail(error.to_string()))?;
    let mut named = Vec::new();
    for image in images {
        let hex = image.config.trim_end_matches(".json");
        let hex = hex.strip_prefix("blobs/sha256/").unwrap_or(hex);
        if !is_hex_digest(hex) {
            return Err(fail(format!("{:?} is no image's configuration", image.config)));
        }
        let names = image.repo_tags.unwrap_or_default();
        named.extend(
            names.iter().filter_map(|name| Some(Named { name: whole_name(name)?, id: format!("sha256:{hex}") })),
        );
    }
    Ok(named)
}

fn of_index(text: &[u8]) -> Result<Vec<Named>, ImageArchiveError> {
    let fail = |reason: String| ImageArchiveError::List { file: "index.json", reason };
    let index: Index = serde_json::from_slice(text).map_err(|error| fail(error.to_string()))?;
    let mut named = Vec::new();
    for manifest in index.manifests {
        if !manifest.digest.strip_prefix("sha256:").is_some_and(is_hex_digest) {
            return Err(fail(format!("{:?} is no digest", manifest.digest)));
        }
        let name = manifest.annotations.get("io.containerd.image.name").and_then(|name| whole_name(name));
        named.extend(name.map(|name| Named { name, id: manifest.digest.clone() }));
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn names_become_what_containerd_calls_them() {
        for (reference, name) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("me/app", "docker.io/me/app:latest"),
            ("index.docker.io/library/app:2", "docker.io/library/app:2"),
            ("localhost/app", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ] {
            assert_eq!(whole_name(reference).as_deref(), Some(name), "{reference}");
        }
        let digest = "a".repeat(64);
        for nameless in [
            "",
            "a'b",
            "a b",
            "a;b",
            "$a",
            "-a",
            &digest[..12],
            &digest,
            &format!("sha256:{digest}"),
            &format!("nginx@sha256:{digest}"),
        ] {
            assert_eq!(whole_name(nameless), None, "{nameless}");
        }
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Long ones get a note before their head.
            builder.append_data(&mut header, name, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    /// Names, sizes and contents.
    type Files = Vec<(String, u64, Vec<u8>)>;

    /// An archive, in pieces of that size, as names, sizes and contents; and all its bytes as they came out again.
    fn taken_apart(bytes: &[u8], size: usize) -> (Files, Vec<u8>, bool) {
        let mut splitter = Splitter::default();
        let (mut files, mut again) = (Files::new(), Vec::new());
        for chunk in bytes.chunks(size) {
            for piece in splitter.take(Bytes::copy_from_slice(chunk)).unwrap() {
                match piece {
                    Piece::Begin { name, size, head } => {
                        again.extend_from_slice(&head);
                        files.push((name, size, Vec::new()));
                    }
                    Piece::Content(bytes) => {
                        again.extend_from_slice(&bytes);
                        files.last_mut().unwrap().2.extend_from_slice(&bytes);
                    }
                    Piece::Rest(bytes) => again.extend_from_slice(&bytes),
                }
            }
        }
        (files, again, splitter.is_whole())
    }

    #[test]
    fn an_archive_is_taken_apart_in_pieces_of_any_size_and_nothing_is_lost() {
        let long = format!("{}/layer.tar", "d".repeat(150));
        let bytes =
            archive(&[("blobs/sha256/a", &[7; 1300]), ("empty", b""), (&long, b"layer"), ("index.json", b"{}")]);
        for size in [1, 511, 512, 513, 4096, bytes.len()] {
            let (files, again, whole) = taken_apart(&bytes, size);
            assert_eq!(again, bytes, "in pieces of {size}");
            assert!(whole);
            let names: Vec<_> = files.iter().map(|(name, size, _)| (name.as_str(), *size)).collect();
            assert_eq!(names, [("blobs/sha256/a", 1300), ("empty", 0), (long.as_str(), 5), ("index.json", 2)]);
            assert_eq!(&files[2].2[..5], b"layer");
        }
        assert!(!taken_apart(&bytes[..2000], 100).2, "the end is missing");
    }

    #[test]
    fn what_is_no_archive_is_told() {
        let no = |bytes: &[u8]| Splitter::default().take(Bytes::copy_from_slice(bytes)).is_err();
        assert!(no(&[b'x'; 512]));
        let mut bytes = archive(&[("a", b"b")]);
        bytes[0] = b'z';
        assert!(no(&bytes));
        assert!(matches!(images_in(Cursor::new([0x1f, 0x8b, 8, 0, 0])), Err(ImageArchiveError::Compressed("gzip"))));
        assert!(matches!(images_in(Cursor::new(vec![b'x'; 2048])), Err(ImageArchiveError::NoTar)));
        assert!(matches!(images_in(Cursor::new(archive(&[("a", b"b")]))), Err(ImageArchiveError::Nameless)));
        let broken = archive(&[("manifest.json", b"[{}]")]);
        assert!(matches!(images_in(Cursor::new(broken)), Err(ImageArchiveError::List { file: "manifest.json", .. })));
    }

    #[test]
    fn images_are_known_by_name_and_id_whatever_wrote_them() {
        let hex = "ab".repeat(32);
        let images = |name: &str, text: String| images_in(Cursor::new(archive(&[(name, text.as_bytes())]))).unwrap();
        let want = vec![Named { name: "docker.io/library/a:1".to_owned(), id: format!("sha256:{hex}") }];
        for config in [format!("{hex}.json"), format!("blobs/sha256/{hex}"), hex.clone()] {
            let text = format!(
                r#"[{{"Config":"{config}","RepoTags":["a:1"],"Layers":[]}}, {{"Config":"{hex}.json","RepoTags":null}}]"#
            );
            assert_eq!(images("manifest.json", text), want);
        }
        let text = format!(
            r#"{{"manifests":[{{"digest":"sha256:{hex}","annotations":{{"io.containerd.image.name":"docker.io/library/a:1"}}}}]}}"#
        );
        assert_eq!(images("./index.json", text), want);
    }

    #[test]
    fn only_what_is_called_by_its_digest_is_one() {
        let hex = "0f".repeat(32);
        assert_eq!(blob_digest(&format!("blobs/sha256/{hex}")), Some(format!("sha256:{hex}")));
        for other in
            [format!("blobs/sha256/{hex}0"), format!("blobs/sha512/{hex}"), format!("x/blobs/sha256/{hex}"), hex]
        {
            assert_eq!(blob_digest(&other), None, "{other}");
        }
    }
}
