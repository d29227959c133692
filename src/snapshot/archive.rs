//! A node's archive: a tar in one canonical form, compressed.
//!
//! Canonical means sorted, with expanded sparse files and without what a node makes anew by
//! itself, so that equal nodes have equal archives and an engine can unpack them. Pure.

use std::collections::BTreeMap;
use std::io::Read;

use tar::{EntryType, Header};
use zeroize::Zeroizing;

use crate::engine::Tarball;

/// How hard zstd tries: more takes longer than it saves.
const LEVEL: i32 = 3;

/// The most that an archive may be unpacked: far beyond any node's, far below a host's memory.
const LARGEST: u64 = 4 << 30;

/// Brings a node's tar into canonical form.
///
/// # Errors
/// What is wrong with it, in words.
pub fn normalise(raw: &[u8]) -> Result<Tarball, String> {
    struct Item {
        header: Header,
        link: Option<std::path::PathBuf>,
        content: Zeroizing<Vec<u8>>,
    }
    let fail = |error: std::io::Error| error.to_string();
    let mut items = BTreeMap::new();
    for entry in tar::Archive::new(raw).entries().map_err(fail)? {
        let mut entry = entry.map_err(fail)?;
        let path = entry.path().map_err(fail)?.into_owned();
        let kind = match entry.header().entry_type() {
            EntryType::Regular | EntryType::GNUSparse | EntryType::Continuous => EntryType::Regular,
            kind @ (EntryType::Directory | EntryType::Symlink) => kind,
            // Devices, sockets and pipes belong to whoever runs.
            _ => continue,
        };
        let mut content = Zeroizing::new(Vec::new());
        if kind == EntryType::Regular {
            content.reserve_exact(usize::try_from(entry.size()).unwrap_or_default());
            entry.read_to_end(&mut content).map_err(fail)?;
            if is_wal(&path) {
                let used = wal_length(&content);
                content.truncate(used);
            }
        }
        let from = entry.header();
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(from.mode().map_err(fail)?);
        header.set_uid(from.uid().map_err(fail)?);
        header.set_gid(from.gid().map_err(fail)?);
        header.set_mtime(from.mtime().map_err(fail)?);
        header.set_size(content.len() as u64);
        let link = entry.link_name().map_err(fail)?.map(std::borrow::Cow::into_owned);
        items.insert(path, Item { header, link, content });
    }
    let size: usize = items.values().map(|item| item.content.len() + 2048).sum();
    // Sized in advance: a buffer that grows leaves copies of keys behind.
    let mut builder = tar::Builder::new(Vec::with_capacity(size + 1024));
    for (path, mut item) in items {
        match item.link {
            Some(target) => builder.append_link(&mut item.header, path, target),
            None => builder.append_data(&mut item.header, path, item.content.as_slice()),
        }
        .map_err(fail)?;
    }
    Ok(Zeroizing::new(builder.into_inner().map_err(fail)?))
}

fn is_wal(path: &std::path::Path) -> bool {
    path.starts_with("var/lib/etcd/member/wal") && path.extension().is_some_and(|extension| extension == "wal")
}

/// How much of an etcd log is records; the rest was reserved in advance and is zeros, which etcd reserves again.
///
/// A record is a length in little endian (its lowest 56 bits are the record's bytes, the three lowest of its
/// highest byte are how many fill it up to 8), then the record. See etcd's server/storage/wal/encoder.go.
fn wal_length(log: &[u8]) -> usize {
    let mut at = 0;
    while let Some(head) = log.get(at..at + 8).and_then(|head| <[u8; 8]>::try_from(head).ok()) {
        let head = u64::from_le_bytes(head);
        if head == 0 {
            return at;
        }
        let padding = if head >> 63 == 1 { (head >> 56) & 0x7 } else { 0 };
        let next = (head & 0x00ff_ffff_ffff_ffff).saturating_add(padding).saturating_add(at as u64 + 8);
        match usize::try_from(next) {
            Ok(next) if next <= log.len() => at = next,
            // Torn, or no such log: etcd knows how to mend it, so nothing is taken away.
            _ => return log.len(),
        }
    }
    log.len()
}

/// Compresses an archive.
///
/// # Errors
/// What the compressor said.
pub fn pack(tar: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    zstd::bulk::compress(tar, LEVEL).map(Zeroizing::new).map_err(|error| error.to_string())
}

/// Unpacks what [`pack`] has packed.
///
/// # Errors
/// What the decompressor said; also if the content is too large to be a node's.
pub fn unpack(packed: &[u8]) -> Result<Tarball, String> {
    let mut tar = Zeroizing::new(Vec::new());
    let decoder = zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())?;
    decoder.take(LARGEST).read_to_end(&mut tar).map_err(|error| error.to_string())?;
    if tar.len() as u64 == LARGEST {
        return Err("it is too large".to_owned());
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
        assert_eq!(unpack(&packed).unwrap(), tar);
        assert!(unpack(&packed[..packed.len() - 9]).is_err());
    }

    #[test]
    fn what_etcd_has_reserved_is_left_out() {
        // Two records: 5 bytes and 3 to fill up, then 8 bytes and none.
        let mut log = vec![5, 0, 0, 0, 0, 0, 0, 0x83, 1, 1, 1, 1, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0];
        log.extend([0; 8]);
        let used = log.len();
        log.extend([0; 4096]);
        assert_eq!(wal_length(&log), used);
        assert_eq!(wal_length(&log[..20]), 20, "torn");
        assert_eq!(wal_length(&[]), 0);
        let tar = normalise(&tar(&[("var/lib/etcd/member/wal/0-0.wal", &log)])).unwrap();
        assert_eq!(file(&tar, "/var/lib/etcd/member/wal/0-0.wal").unwrap().len(), used);
    }
}
