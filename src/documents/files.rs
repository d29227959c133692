//! Files that go into and come out of containers, as tar archives in memory.

use std::io::Read;

use zeroize::Zeroizing;

/// A tar archive in memory; wiped when dropped, since it may hold keys.
pub type Tarball = Zeroizing<Vec<u8>>;

/// A file that goes into a container, owned by root.
#[derive(Clone)]
pub struct FileEntry {
    /// Absolute path in the container.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Its bytes, or where a link leads to; wiped when dropped.
    pub content: Zeroizing<Vec<u8>>,
    /// Whether it is a symbolic link.
    pub is_link: bool,
}

impl std::fmt::Debug for FileEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileEntry({} {:o}, {} bytes)", self.path, self.mode, self.content.len())
    }
}

impl FileEntry {
    /// A file at `path` with the permission bits `mode`.
    pub fn new(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self::sealed(path, mode, Zeroizing::new(content.into()))
    }

    /// The same, of bytes that are wiped already.
    pub fn sealed(path: impl Into<String>, mode: u32, content: Zeroizing<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, content, is_link: false }
    }

    /// A symbolic link at `path` to `target`.
    pub fn link(path: impl Into<String>, target: &str) -> Self {
        Self { is_link: true, ..Self::new(path, 0o777, target) }
    }
}

/// Packs files into an archive whose paths start at `/`.
///
/// Folders that are missing are made by the engine when it unpacks, those that exist are left as they are.
#[must_use]
pub fn pack(files: &[FileEntry]) -> Tarball {
    let size: usize = files.iter().map(|file| file.content.len() + 1536).sum();
    // Sized in advance: a buffer that grows leaves copies of keys behind.
    let mut builder = tar::Builder::new(Vec::with_capacity(size + 1024));
    for file in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(file.mode);
        let path = file.path.trim_start_matches('/');
        if file.is_link {
            header.set_size(0);
            header.set_entry_type(tar::EntryType::Symlink);
            let target = String::from_utf8_lossy(&file.content);
            builder.append_link(&mut header, path, &*target).expect("writing to memory cannot fail");
            continue;
        }
        header.set_size(file.content.len() as u64);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, path, file.content.as_slice()).expect("writing to memory cannot fail");
    }
    Zeroizing::new(builder.into_inner().expect("writing to memory cannot fail"))
}

/// The bytes of the first regular file in an archive.
#[must_use]
pub fn first_file(archive: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    for entry in tar::Archive::new(archive).entries().ok()? {
        let mut entry = entry.ok()?;
        if entry.header().entry_type().is_file() {
            let mut content = Zeroizing::new(Vec::with_capacity(entry.size() as usize));
            entry.read_to_end(&mut content).ok()?;
            return Some(content);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_their_mode_and_bytes() {
        let archive = pack(&[FileEntry::new("/etc/kubernetes/key", 0o600, "secret")]);
        let mut tar = tar::Archive::new(archive.as_slice());
        let entry = tar.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("etc/kubernetes/key"));
        assert_eq!(entry.header().mode().unwrap(), 0o600);
        assert_eq!(first_file(&archive).unwrap().as_slice(), b"secret");
        assert_eq!(first_file(&[]), None);
    }

    #[test]
    fn a_link_leads_where_it_is_to() {
        let archive = pack(&[FileEntry::link("/a/now", "then"), FileEntry::new("/a/then", 0o600, "x")]);
        let mut tar = tar::Archive::new(archive.as_slice());
        let entries: Vec<_> = tar.entries().unwrap().map(Result::unwrap).collect();
        assert_eq!(entries[0].header().entry_type(), tar::EntryType::Symlink);
        assert_eq!(entries[0].link_name().unwrap().unwrap().to_str(), Some("then"));
        assert_eq!(first_file(&archive).unwrap().as_slice(), b"x");
    }

    #[test]
    fn debug_shows_no_content() {
        assert_eq!(format!("{:?}", FileEntry::new("/a", 0o600, "secret")), "FileEntry(/a 600, 6 bytes)");
    }
}
