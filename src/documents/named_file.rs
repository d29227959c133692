//! Files on this host that a profile names: keys, certificates, credentials, manifests.

use std::fs;
use std::io::{self, Error, ErrorKind, Read as _};
use std::path::Path;

use zeroize::Zeroizing;

/// The text of a file on this host that a profile names. It may have no end, or never be written to: both are errors.
///
/// # Errors
/// Whatever the system says; that it is no file, or has more than 1 MiB.
pub fn read_named(path: &Path) -> io::Result<Zeroizing<String>> {
    const LARGEST: u64 = 1 << 20;
    // Before it is opened: that would wait for somebody to write to a pipe.
    if !fs::metadata(path)?.is_file() {
        return Err(Error::new(ErrorKind::InvalidInput, "it is no file"));
    }
    let mut text = Zeroizing::new(String::new());
    fs::File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it has more than {LARGEST} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_or_nobody_writes_to_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "a").unwrap();
        std::fs::write(path("large"), vec![b'a'; (1 << 20) + 1]).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        assert_eq!(*read_named(&path("text")).unwrap(), "a");
        for wrong in [path("large"), path("pipe"), "/dev/zero".into(), folder.path().to_owned(), path("none")] {
            assert!(read_named(&wrong).is_err(), "{}", wrong.display());
        }
    }
}
