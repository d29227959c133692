//! What belongs into a node's archive, and whether one that comes from elsewhere holds nothing else.
//!
//! A stranger's archive is believed nothing: neither sizes nor paths nor kinds. It is read as a stream, so that a small
//! one that unfolds to gigabytes costs no memory. Pure.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use tar::EntryType;

/// What makes a node that node, beyond its image: paths below `/`, the last part of which may be a pattern.
///
/// Left out is what a node makes anew by itself: pods, their sandboxes, volumes and addresses, sockets,
/// logs, the kubelet's notes about containers that are no more.
pub const FILES: [&str; 14] = [
    "etc/kubernetes",
    "etc/cni/net.d",
    "etc/containerd",
    "etc/default/kubelet",
    "etc/systemd/system/kubelet.service.d",
    "usr/lib/systemd/system/kubelet.service.d",
    "kind/kubeadm.conf",
    "kind/old-ipv4",
    "kind/old-ipv6",
    "kind/product_uuid",
    "var/lib/kubelet/*.yaml",
    "var/lib/kubelet/*.env",
    "var/lib/kubelet/pki",
    "var/lib/etcd",
];

/// What pods keep on a node. Nobody stops them from writing while it is copied.
pub const VOLUMES: [&str; 2] = ["var/local-path-provisioner", "opt/local-path-provisioner"];

/// What an archive of images consists of.
const IMAGES: [&str; 4] = ["blobs", "index.json", "manifest.json", "oci-layout"];

/// The most that all archives of a snapshot may unfold to: far beyond any exercise, and what a host has memory for.
pub const LARGEST: u64 = 4 << 30;

/// The most members that an archive may have.
const MEMBERS: usize = 500_000;

/// The longest name of a member: what Linux takes.
const LONGEST_NAME: u64 = 4096;

/// A reader that ends with an error when it has given more than there may be.
struct Bounded<'a, R> {
    inner: R,
    left: &'a mut u64,
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        *self.left = self.left.checked_sub(read as u64).ok_or_else(too_large)?;
        Ok(read)
    }
}

/// The error of what unfolds to more than [`LARGEST`].
pub(super) fn too_large() -> std::io::Error {
    let message = format!("it unfolds to more than the {} GiB that all archives of a snapshot may", LARGEST >> 30);
    std::io::Error::new(std::io::ErrorKind::FileTooLarge, message)
}

/// Nothing, if a packed archive is one that capturing a node could have written. `left` is what all archives of the
/// snapshot may still unfold to, and is counted down.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_node(packed: &[u8], left: &mut u64) -> Result<(), String> {
    check_members(packed, left)?;
    let members = members(packed, is_of_node)?;
    for (path, member) in &members {
        let Some(target) = &member.link else { continue };
        // What pods have in their volumes, they could make at any time; everything else is read by the node itself.
        if !is_below(path, &VOLUMES) && !lands_in(path, target).is_some_and(|found| is_of_node(&found)) {
            return Err(format!("{} leads out of what a snapshot holds: to {}", path.display(), target.display()));
        }
    }
    Ok(())
}

/// Nothing, if a packed archive is one of images, as containerd exports them. `left` is as for [`check_node`].
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_images(packed: &[u8], left: &mut u64) -> Result<(), String> {
    check_members(packed, left)?;
    let members = members(packed, |path| is_below(path, &IMAGES))?;
    match members.iter().find(|(_, member)| member.link.is_some()) {
        Some((path, _)) => Err(format!("{} is a link", path.display())),
        None => Ok(()),
    }
}

fn decoder(packed: &[u8]) -> Result<impl Read + use<'_>, String> {
    zstd::stream::read::Decoder::new(packed).map_err(|error| error.to_string())
}

/// Goes through an archive as it is, without following what its headers ask for: kinds, sizes and counts.
fn check_members(packed: &[u8], left: &mut u64) -> Result<(), String> {
    let fail = |error: std::io::Error| error.to_string();
    let before = *left;
    let mut archive = tar::Archive::new(Bounded { inner: decoder(packed)?, left });
    let mut count = 0;
    for entry in archive.entries().map_err(fail)?.raw(true) {
        let entry = entry.map_err(fail)?;
        let header = entry.header();
        let name = || String::from_utf8_lossy(&header.path_bytes()).into_owned();
        let size = header.entry_size().map_err(fail)?;
        let most = match header.entry_type() {
            EntryType::Regular => before,
            EntryType::Directory | EntryType::Symlink => 0,
            EntryType::GNULongName | EntryType::GNULongLink => LONGEST_NAME,
            other => return Err(format!("{:?} is of the kind {other:?}, which no snapshot has", name())),
        };
        if size > most {
            return Err(format!("{:?} says that it has {size} bytes", name()));
        }
        count += 1;
        if count > MEMBERS {
            return Err(format!("it has more than {MEMBERS} members"));
        }
    }
    Ok(())
}

/// A member of an archive.
struct Member {
    is_folder: bool,
    /// Where it leads, if it is a link.
    link: Option<PathBuf>,
}

/// The members of an archive that [`check_members`] has nothing against, by their paths, none of which is there twice or
/// below one that is no folder.
fn members(packed: &[u8], is_allowed: impl Fn(&Path) -> bool) -> Result<BTreeMap<PathBuf, Member>, String> {
    let fail = |error: std::io::Error| error.to_string();
    let mut members = BTreeMap::new();
    for entry in tar::Archive::new(decoder(packed)?).entries().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let path = plain(&entry.path().map_err(fail)?)?;
        if !is_allowed(&path) {
            return Err(format!("{} does not belong into a snapshot", path.display()));
        }
        let link = match entry.header().entry_type() {
            EntryType::Symlink => {
                let target = entry.link_name().map_err(fail)?;
                Some(target.ok_or_else(|| format!("{} leads nowhere", path.display()))?.into_owned())
            }
            _ => None,
        };
        let member = Member { is_folder: entry.header().entry_type().is_dir(), link };
        if members.insert(path.clone(), member).is_some() {
            return Err(format!("{} is there twice", path.display()));
        }
    }
    for path in members.keys() {
        let through = path.ancestors().skip(1).find(|above| members.get(*above).is_some_and(|above| !above.is_folder));
        if let Some(through) = through {
            return Err(format!("{} lies behind {}, which is no folder", path.display(), through.display()));
        }
    }
    Ok(members)
}

/// A path that goes down only, from the root.
fn plain(path: &Path) -> Result<PathBuf, String> {
    let down = |part: Component<'_>| matches!(part, Component::Normal(_));
    if path.as_os_str().is_empty() || !path.components().all(down) {
        return Err(format!("{} is no path that a snapshot has", path.display()));
    }
    Ok(path.components().collect())
}

/// Where a link leads, as a path from the root; `None` if it leads out of it.
fn lands_in(link: &Path, target: &Path) -> Option<PathBuf> {
    let mut found = if target.is_absolute() { PathBuf::new() } else { link.parent()?.to_owned() };
    for part in target.components() {
        match part {
            Component::Normal(name) => found.push(name),
            Component::ParentDir => {
                if !found.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Some(found)
}

fn is_of_node(path: &Path) -> bool {
    is_below(path, &VOLUMES) || is_below(path, &FILES)
}

/// Whether a path is one of those, or below one of them.
fn is_below(path: &Path, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| match pattern.split_once('*') {
        None => path.starts_with(pattern),
        Some((folder, ending)) => {
            path.parent() == Some(Path::new(folder.trim_end_matches('/')))
                && path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(ending))
        }
    })
}

#[cfg(test)]
mod tests {
    use tar::Header;

    use crate::documents::snapshot::pack;

    use super::*;

    /// A member as an attacker writes it: whatever its header says, these bytes follow.
    fn member(path: &str, kind: EntryType, says: u64, content: &[u8], link: Option<&str>) -> Vec<u8> {
        let mut header = Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_size(says);
        header.set_mode(0o600);
        if let Some(link) = link {
            header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn regular(path: &str, content: &[u8]) -> Vec<u8> {
        member(path, EntryType::Regular, content.len() as u64, content, None)
    }

    fn link(path: &str, kind: EntryType, target: &str) -> Vec<u8> {
        member(path, kind, 0, b"", Some(target))
    }

    fn check(members: &[Vec<u8>]) -> Result<(), String> {
        let mut tar = members.concat();
        tar.extend([0; 1024]);
        check_node(&pack(&tar).unwrap(), &mut 10_000_000)
    }

    /// What a node's archive consists of.
    fn good() -> Vec<Vec<u8>> {
        vec![
            member("etc/kubernetes/", EntryType::Directory, 0, b"", None),
            regular("etc/kubernetes/admin.conf", b"admin"),
            regular("var/lib/kubelet/config.yaml", b"kind: x"),
            regular("var/lib/etcd/member/snap/db", &[7; 5000]),
            link("var/lib/kubelet/pki/current.pem", EntryType::Symlink, "/var/lib/kubelet/pki/1.pem"),
            link("var/lib/kubelet/pki/also.pem", EntryType::Symlink, "../pki/1.pem"),
            link("var/local-path-provisioner/pvc-1/home", EntryType::Symlink, "/home"),
        ]
    }

    #[test]
    fn what_capturing_writes_is_fine() {
        check(&good()).unwrap();
    }

    #[test]
    fn paths_stay_where_a_snapshot_has_files() {
        let long = "etc/kubernetes/../../../../root/.ssh/authorized_keys";
        let wrong = [
            "/etc/kubernetes/a",
            "../etc/kubernetes/a",
            "../../../../victim/Cargo",
            long,
            "etc/kubernetes/..",
            "./etc/kubernetes/a",
            "etc/passwd",
            "etc/kubernetes2",
            "var/lib/kubelet/x",
            "var/lib/kubelet/pods/x.yaml",
            "usr/bin/kubelet",
            "etc",
            ".",
        ];
        for path in wrong {
            let error = check(&[good(), vec![regular(path, b"x")]].concat()).unwrap_err();
            assert!(error.contains("no path") || error.contains("does not belong"), "{path}: {error}");
        }
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let inward = link("etc/kubernetes/there", EntryType::Symlink, "pki");
        let error = check(&[inward, regular("etc/kubernetes/there/ca.key", b"x")]).unwrap_err();
        assert!(error.contains("behind etc/kubernetes/there, which is no folder"), "{error}");
        let error = check(&[regular("etc/kubernetes/a/b", b"x"), regular("etc/kubernetes/a", b"x")]).unwrap_err();
        assert!(error.contains("which is no folder"), "{error}");
        for target in [
            "/",
            "/etc/shadow",
            "../../..",
            "../../../../../etc/kubernetes",
            "/etc/kubernetes/../passwd",
            "/proc/1/root",
        ] {
            let error = check(&[link("etc/kubernetes/there", EntryType::Symlink, target)]).unwrap_err();
            assert!(error.contains("leads out"), "{target}: {error}");
        }
        let volume = link("var/local-path-provisioner/pvc/out", EntryType::Symlink, "/");
        let error = check(&[volume, regular("var/local-path-provisioner/pvc/out/etc/passwd", b"x")]).unwrap_err();
        assert!(error.contains("which is no folder"), "{error}");
    }

    #[test]
    fn only_files_folders_and_links_are_taken() {
        for kind in [EntryType::Link, EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNUSparse] {
            let error = check(&[link("etc/kubernetes/x", kind, "etc/passwd")]).unwrap_err();
            assert!(error.contains("which no snapshot has"), "{error}");
        }
        for kind in [EntryType::XHeader, EntryType::XGlobalHeader] {
            let pax = b"22 path=../../etc/pw\n\n";
            let error = check(&[member("x", kind, pax.len() as u64, pax, None)]).unwrap_err();
            assert!(error.contains("which no snapshot has"), "{error}");
        }
    }

    #[test]
    fn a_path_is_there_once() {
        let twice = [regular("etc/kubernetes/a", b"1"), regular("etc/kubernetes//a", b"2")];
        assert_eq!(check(&twice).unwrap_err(), "etc/kubernetes/a is there twice");
        let over = [link("etc/kubernetes/a", EntryType::Symlink, "b"), regular("etc/kubernetes/a", b"2")];
        assert_eq!(check(&over).unwrap_err(), "etc/kubernetes/a is there twice");
    }

    #[test]
    fn sizes_are_not_believed() {
        let says = |size| member("var/lib/etcd/member/snap/db", EntryType::Regular, size, b"x", None);
        assert!(check(&[says(1 << 40)]).unwrap_err().contains("says that it has"));
        // Less than there may be, and more than there is.
        assert!(check(&[says(5_000_000)]).is_err());
        assert!(check(&[member("etc/kubernetes/d", EntryType::Directory, 512, &[0; 512], None)]).is_err());
        let name = member("././@LongLink", EntryType::GNULongName, 1 << 20, &[b'a'; 1 << 20], None);
        assert!(check(&[name]).unwrap_err().contains("says that it has"));
    }

    #[test]
    fn a_sparse_file_asks_for_nothing() {
        // 1.5 KB that unfold to 1 TB if they are taken at their word.
        let mut header = Header::new_gnu();
        {
            let gnu = header.as_gnu_mut().unwrap();
            gnu.name[..15].copy_from_slice(b"var/lib/etcd/db");
            gnu.set_real_size(1 << 40);
            gnu.sparse[0].set_offset((1 << 40) - 512);
            gnu.sparse[0].set_length(512);
        }
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(512);
        header.set_cksum();
        let tar = [header.as_bytes().to_vec(), vec![1; 512]].concat();
        assert!(check(&[tar]).unwrap_err().contains("GNUSparse"));
    }

    #[test]
    fn a_bomb_is_noticed_before_it_goes_off() {
        let tar = [regular("var/lib/etcd/db", &vec![0; 20_000_000]), vec![0; 1024]].concat();
        let packed = pack(&tar).unwrap();
        assert!(packed.len() < 10_000);
        assert!(check_node(&packed, &mut 10_000_000).unwrap_err().contains("says that it has"));
        let mut left = 30_000_000;
        check_node(&packed, &mut left).unwrap();
        // What one has taken, the next one has not.
        assert!(check_node(&packed, &mut left).is_err());
        // Zeros behind the end of the archive, which nobody reads.
        let many = vec![regular("var/lib/etcd/db", &[0; 400]); 100_000];
        assert!(check(&many).unwrap_err().contains("unfolds to more"));
    }

    #[test]
    fn a_truncated_archive_is_none() {
        let tar = [good().concat(), vec![0; 1024]].concat();
        let packed = pack(&tar).unwrap();
        for length in [0, 1, 4, packed.len() / 2, packed.len() - 1] {
            assert!(check_node(&packed[..length], &mut 10_000_000).is_err(), "{length}");
        }
        // Cut within a file, and packed again.
        let cut = tar.len() - 1024 - 512 * 5;
        assert!(check_node(&pack(&tar[..cut]).unwrap(), &mut 10_000_000).is_err());
    }

    #[test]
    fn bytes_at_random_are_refused_or_fine_and_never_more() {
        let tar = [good().concat(), vec![0; 1024]].concat();
        let mut dice = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = || {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            usize::try_from(dice >> 16).unwrap()
        };
        let mut refused = 0;
        for _ in 0..2000 {
            let mut forged = tar.clone();
            for _ in 0..=next() % 4 {
                let at = next() % forged.len();
                forged[at] = u8::try_from(next() % 256).unwrap();
            }
            let mut left = 10_000_000;
            refused += usize::from(check_node(&pack(&forged).unwrap(), &mut left).is_err());
            assert!(left <= 10_000_000);
        }
        assert!(refused > 100, "{refused}");
    }

    #[test]
    fn images_are_blobs_and_their_index() {
        let pack_members = |members: &[Vec<u8>]| pack(&[members.concat(), vec![0; 1024]].concat()).unwrap();
        let good = [regular("blobs/sha256/aa", b"x"), regular("index.json", b"{}"), regular("oci-layout", b"{}")];
        check_images(&pack_members(&good), &mut 10_000_000).unwrap();
        for wrong in [regular("etc/kubernetes/a", b"x"), link("blobs/sha256/b", EntryType::Symlink, "/etc/passwd")] {
            assert!(check_images(&pack_members(&[wrong]), &mut 10_000_000).is_err());
        }
    }
}
