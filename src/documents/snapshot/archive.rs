//! A node's archive: a tar in one canonical form, compressed.
//!
//! Canonical means sorted, with expanded sparse files and without what a node makes anew by
//! itself, so that equal nodes have equal archives and an engine can unpack them. Pure.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use tar::{EntryType, Header};
use zeroize::Zeroizing;

use crate::documents::files::Tarball;

use super::contents::{LARGEST, too_large};

/// How hard zstd tries: more takes longer than it saves.
const LEVEL: i32 = 3;

/// Brings a node's tar into canonical form and compresses it, without holding it as a whole: etcd's files are large,
/// and mostly empty.
///
/// # Errors
/// What is wrong with it, in words.
pub fn pack_canonical(raw: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    pack_within(raw, LARGEST)
}

fn pack_within(raw: &[u8], most: u64) -> Result<Zeroizing<Vec<u8>>, String> {
    let encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(raw.len()), LEVEL);
    let bounded = encoder.map(|inner| Bounded { inner, left: most });
    let bounded = bounded.and_then(|bounded| canonical(raw, bounded)).map_err(|error| error.to_string())?;
    bounded.inner.finish().map(Zeroizing::new).map_err(|error| error.to_string())
}

/// A writer that takes no more than there may be: what cannot be unpacked is not packed.
struct Bounded<W> {
    inner: W,
    left: u64,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.left = self.left.checked_sub(written as u64).ok_or_else(too_large)?;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the canonical form of a node's tar.
fn canonical<W: Write>(raw: &[u8], to: W) -> std::io::Result<W> {
    let mut places = BTreeMap::new();
    for entry in tar::Archive::new(raw).entries()? {
        let entry = entry?;
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::GNUSparse | EntryType::Continuous => EntryType::Regular,
            kind @ (EntryType::Directory | EntryType::Symlink) => kind,
            // Devices, sockets and pipes belong to whoever runs.
            _ => continue,
        };
        let link = entry.link_name()?.map(std::borrow::Cow::into_owned);
        places.insert(entry.path()?.into_owned(), (entry.raw_header_position(), kind, link));
    }
    let mut builder = tar::Builder::new(to);
    for (path, (place, kind, link)) in places {
        let rest = usize::try_from(place).ok().and_then(|place| raw.get(place..)).unwrap_or_default();
        let mut archive = tar::Archive::new(rest);
        let Some(entry) = archive.entries()?.next() else { continue };
        let mut entry = entry?;
        let from = entry.header();
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(from.mode()?);
        header.set_uid(from.uid()?);
        header.set_gid(from.gid()?);
        header.set_mtime(from.mtime()?);
        header.set_size(0);
        if let Some(target) = link {
            builder.append_link(&mut header, path, target)?;
        } else if is_wal(&path) {
            // What etcd has reserved in advance is not in the tar, so this is what there is.
            let mut records =
                Zeroizing::new(Vec::with_capacity(usize::try_from(from.entry_size()?).unwrap_or_default()));
            read_wal(&mut entry, &mut records)?;
            header.set_size(records.len() as u64);
            builder.append_data(&mut header, path, records.as_slice())?;
        } else {
            if kind == EntryType::Regular {
                header.set_size(entry.size());
            }
            builder.append_data(&mut header, path, &mut entry)?;
        }
    }
    builder.into_inner()
}

fn is_wal(path: &std::path::Path) -> bool {
    path.starts_with("var/lib/etcd/member/wal") && path.extension().is_some_and(|extension| extension == "wal")
}

/// Reads the records of an etcd log. The rest was reserved in advance, 64 MB of zeros, which etcd reserves again.
///
/// A record is a length in little endian (its lowest 56 bits are the record's bytes, the three lowest of its
/// highest byte are how many fill it up to 8), then the record. See etcd's server/storage/wal/encoder.go.
fn read_wal(log: &mut impl Read, records: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let start = records.len();
        log.by_ref().take(8).read_to_end(records)?;
        let Ok(head) = <[u8; 8]>::try_from(&records[start..]) else { return Ok(()) };
        let head = u64::from_le_bytes(head);
        if head == 0 {
            records.truncate(start);
            return Ok(());
        }
        let padding = if head >> 63 == 1 { (head >> 56) & 0x7 } else { 0 };
        // If it is torn, or is no such log, this reads to the end: etcd knows how to mend it, so nothing is taken away.
        log.by_ref().take((head & 0x00ff_ffff_ffff_ffff) + padding).read_to_end(records)?;
    }
}

/// Compresses an archive.
///
/// # Errors
/// What the compressor said; also if the content is too large to be unpacked.
pub fn pack(tar: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    if tar.len() as u64 > LARGEST {
        return Err(too_large().to_string());
    }
    zstd::bulk::compress(tar, LEVEL).map(Zeroizing::new).map_err(|error| error.to_string())
}

/// Unpacks what [`pack`] has packed.
///
/// # Errors
/// What the decompressor said; also if the content is too large to be a node's.
pub fn unpack(packed: &[u8]) -> Result<Tarball, String> {
    let mut tar = Zeroizing::new(Vec::new());
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())?;
    decoder.take(LARGEST + 1).read_to_end(&mut tar).map_err(|error| error.to_string())?;
    if tar.len() as u64 > LARGEST {
        return Err(too_large().to_string());
    }
    Ok(tar)
}

/// What becomes of a file of an archive.
pub enum Edit {
    /// It stays.
    Keep,
    /// It gets other content.
    Replace(Zeroizing<Vec<u8>>),
    /// It is left out.
    Drop,
}

/// An archive whose regular files have been changed by `change`, which gets each one's path (without a leading
/// slash) and content.
///
/// # Errors
/// What is wrong with the archive, or what `change` said.
pub fn edit(tar: &[u8], mut change: impl FnMut(&str, &[u8]) -> Result<Edit, String>) -> Result<Tarball, String> {
    let fail = |error: std::io::Error| error.to_string();
    let mut builder = tar::Builder::new(Vec::with_capacity(tar.len() + 64 * 1024));
    for entry in tar::Archive::new(tar).entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        let path = entry.path().map_err(fail)?.into_owned();
        let mut header = entry.header().clone();
        if let Some(target) = entry.link_name().map_err(fail)?.map(std::borrow::Cow::into_owned) {
            builder.append_link(&mut header, &path, target).map_err(fail)?;
            continue;
        }
        let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(entry.size()).unwrap_or_default()));
        entry.read_to_end(&mut content).map_err(fail)?;
        if header.entry_type().is_file() {
            match change(&path.to_string_lossy(), &content)? {
                Edit::Keep => {}
                Edit::Replace(other) => content = other,
                Edit::Drop => continue,
            }
        }
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, &path, content.as_slice()).map_err(fail)?;
    }
    Ok(Zeroizing::new(builder.into_inner().map_err(fail)?))
}

/// What a packed archive unfolds to, in bytes. It is read as a stream, and costs no memory.
///
/// # Errors
/// What the decompressor said; also if the content is too large to be a node's.
pub fn unfolded(packed: &[u8]) -> Result<u64, String> {
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())?;
    let size =
        std::io::copy(&mut decoder.take(LARGEST + 1), &mut std::io::sink()).map_err(|error| error.to_string())?;
    if size > LARGEST { Err(too_large().to_string()) } else { Ok(size) }
}

/// The bytes of one file in a packed archive of which nothing is believed; `path` is absolute. Neither the archive's size nor
/// the file's, which is at most `most`, decides what this takes of memory.
///
/// # Errors
/// What is wrong with the archive, or that the file is larger.
pub fn packed_file(packed: &[u8], path: &str, most: u64) -> Result<Option<Zeroizing<Vec<u8>>>, String> {
    let wanted = std::path::Path::new(path.trim_start_matches('/'));
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())?;
    for entry in tar::Archive::new(decoder.take(LARGEST)).entries().map_err(|error| error.to_string())? {
        let mut entry = entry.map_err(|error| error.to_string())?;
        if entry.path().map_err(|error| error.to_string())?.as_ref() != wanted || !entry.header().entry_type().is_file()
        {
            continue;
        }
        if entry.size() > most {
            return Err(format!("{path} has {} bytes, more than {most}", entry.size()));
        }
        let mut content = Zeroizing::new(Vec::new());
        entry.by_ref().take(most).read_to_end(&mut content).map_err(|error| error.to_string())?;
        return Ok(Some(content));
    }
    Ok(None)
}

/// The bytes of one file in an archive; `path` is absolute.
#[must_use]
pub fn file(tar: &[u8], path: &str) -> Option<Zeroizing<Vec<u8>>> {
    let wanted = std::path::Path::new(path.trim_start_matches('/'));
    for entry in tar::Archive::new(tar).entries().ok()? {
        let mut entry = entry.ok()?;
        if entry.path().ok()?.as_ref() == wanted && entry.header().entry_type().is_file() {
            let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(entry.size()).ok()?));
            entry.read_to_end(&mut content).ok()?;
            return Some(content);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalise(raw: &[u8]) -> std::io::Result<Vec<u8>> {
        canonical(raw, Vec::new())
    }

    fn own(header: &mut Header) {
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
    }

    fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            own(&mut header);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        own(&mut header);
        builder.append_link(&mut header, "var/lib/kubelet/pki/current.pem", "/elsewhere").unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn order_does_not_matter() {
        let (a, b) = (("b/x", &b"1"[..]), ("a", &b"22"[..]));
        let one = normalise(&tar(&[a, b])).unwrap();
        assert_eq!(one, normalise(&tar(&[b, a])).unwrap());
        assert_eq!(file(&one, "/b/x").unwrap().as_slice(), b"1");
        let paths: Vec<_> = tar::Archive::new(one.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(paths, ["a", "b/x", "var/lib/kubelet/pki/current.pem"]);
    }

    #[test]
    fn files_can_be_changed_and_left_out() {
        let one = normalise(&tar(&[("a", b"1"), ("b", b"2"), ("c", b"3")])).unwrap();
        let edited = edit(&one, |path, content| {
            Ok(match path {
                "a" => Edit::Drop,
                "b" => Edit::Replace(Zeroizing::new([content, b"!!"].concat())),
                _ => Edit::Keep,
            })
        })
        .unwrap();
        assert!(file(&edited, "/a").is_none());
        assert_eq!(file(&edited, "/b").unwrap().as_slice(), b"2!!");
        assert_eq!(file(&edited, "/c").unwrap().as_slice(), b"3");
    }

    #[test]
    fn packing_is_undone_by_unpacking() {
        let tar = normalise(&tar(&[("a", &[7; 100_000])])).unwrap();
        let packed = pack(&tar).unwrap();
        assert!(packed.len() < 1000);
        assert_eq!(unpack(&packed).unwrap().as_slice(), tar);
        assert_eq!(unpack(&pack_canonical(&tar).unwrap()).unwrap().as_slice(), tar);
        assert!(unpack(&packed[..packed.len() - 9]).is_err());
    }

    #[test]
    fn a_file_is_found_in_a_stream_and_a_large_one_is_refused() {
        let packed = pack(&tar(&[("etc/large", &[7; 100_000]), ("etc/small", b"text")])).unwrap();
        assert_eq!(packed_file(&packed, "/etc/small", 10).unwrap().unwrap().as_slice(), b"text");
        assert_eq!(packed_file(&packed, "/etc/none", 10), Ok(None));
        assert!(packed_file(&packed, "/etc/large", 99_999).unwrap_err().contains("more than 99999"));
        assert!(packed_file(&packed[..packed.len() / 2], "/etc/none", 10).is_err());
        assert!(unfolded(&packed).unwrap() > 100_000);
    }

    #[test]
    fn what_could_not_be_unpacked_is_not_packed() {
        let tar = tar(&[("a", &[7; 100_000])]);
        assert!(pack_within(&tar, 110_000).is_ok());
        assert!(pack_within(&tar, 90_000).unwrap_err().contains("unfolds to more"));
    }

    #[test]
    fn what_etcd_has_reserved_is_left_out() {
        // Two records: 5 bytes and 3 to fill up, then 8 bytes and none.
        let mut log = vec![5, 0, 0, 0, 0, 0, 0, 0x83, 1, 1, 1, 1, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        log.extend([0; 8]);
        let used = log.len();
        log.extend([0; 4096]);
        let read = |mut log: &[u8]| {
            let mut records = Vec::new();
            read_wal(&mut log, &mut records).unwrap();
            records.len()
        };
        assert_eq!(read(&log), used);
        assert_eq!(read(&log[..20]), 20, "torn");
        assert_eq!(read(&[]), 0);
        let tar = normalise(&tar(&[("var/lib/etcd/member/wal/0-0.wal", &log)])).unwrap();
        assert_eq!(file(&tar, "/var/lib/etcd/member/wal/0-0.wal").unwrap().len(), used);
    }
}
