//! Secrets by file or environment: read when needed, checked for who else could read them, wiped when dropped.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::KmsError;

/// No configuration, key file or credential is larger.
const MAX_LENGTH: u64 = 1 << 20;

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, try_from = "Fields")]
pub(super) enum Source {
    /// A file, read anew each time.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    file: Option<PathBuf>,
    env: Option<String>,
}

impl TryFrom<Fields> for Source {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        match (fields.file, fields.env) {
            (Some(file), None) => Ok(Self::File(file)),
            (None, Some(variable)) => Ok(Self::Environment(variable)),
            _ => Err("a secret is given by `file` or by `env`, one of them"),
        }
    }
}

impl Source {
    /// The secret, without white space around it. An empty one is an error here, and not the server's riddle.
    pub(super) fn read(&self) -> Result<Zeroizing<String>, KmsError> {
        let (text, place) = match self {
            Self::File(path) => {
                let bytes = read_private(path)?;
                let text = std::str::from_utf8(&bytes)
                    .map_err(|_| KmsError::Config { path: path.clone(), reason: "is not text".to_owned() })?;
                (Zeroizing::new(text.to_owned()), path.display().to_string())
            }
            Self::Environment(variable) => {
                let text = std::env::var(variable).map_err(|_| KmsError::Variable(variable.clone()))?;
                (Zeroizing::new(text), format!("the environment variable {variable}"))
            }
        };
        match text.trim() {
            "" => Err(KmsError::Empty(place)),
            text => Ok(Zeroizing::new(text.to_owned())),
        }
    }
}

/// The bytes of a file that nobody but root and this user may read. What is checked is the file that is read: it
/// is opened first.
pub(super) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let fail = |error: std::io::Error| KmsError::File { path: path.to_owned(), error };
    let mode = |problem: String| KmsError::Mode { path: path.to_owned(), problem };
    // A pipe that nobody writes to would be waited for without end.
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let file = File::from(opened.map_err(|error| fail(error.into()))?);
    let metadata = file.metadata().map_err(fail)?;
    if !metadata.is_file() {
        return Err(mode("is not a regular file".to_owned()));
    }
    if metadata.uid() != 0 && metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(mode(format!("belongs to the user {}", metadata.uid())));
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(mode(format!("is open to others: its mode is {:o}", metadata.mode() & 0o777)));
    }
    if metadata.len() > MAX_LENGTH {
        return Err(mode(format!("has {} bytes, which is too much", metadata.len())));
    }
    // Reserved at once: growing would leave unwiped copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(MAX_LENGTH).read_to_end(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_open_to_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, " s.token\n").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Source::File(path.clone()).read().unwrap_err();
            assert!(error.to_string().ends_with(&format!("is open to others: its mode is {mode:o}")), "{error}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Source::File(path).read().unwrap().as_str(), "s.token");
    }

    #[test]
    fn what_is_no_file_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [folder.path(), &pipe, Path::new("/dev/null")] {
            let error = read_private(path).unwrap_err();
            assert!(error.to_string().ends_with("is not a regular file"), "{error}");
        }
    }

    #[test]
    fn nothing_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for text in ["", " \n"] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = Source::File(path.clone()).read().unwrap_err();
            assert!(error.to_string().ends_with("token is empty"), "{error}");
        }
        let error = Source::Environment("KPROV_NO_SUCH_VARIABLE".to_owned()).read().unwrap_err();
        assert!(matches!(error, KmsError::Variable(_)), "{error}");
    }

    #[test]
    fn a_secret_has_one_source() {
        let parse = |text: &str| serde_yaml::from_str::<Source>(text);
        assert_eq!(parse("file: /a").unwrap(), Source::File("/a".into()));
        assert_eq!(parse("{\"env\": \"A\"}").unwrap(), Source::Environment("A".to_owned()));
        assert!(parse("{}").is_err() && parse("{file: /a, env: A}").is_err() && parse("value: secret").is_err());
    }
}
