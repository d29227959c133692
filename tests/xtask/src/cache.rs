//! The folder in which results of tasks are kept, each under the hash of what it was made from.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The cache folder, which may be deleted at any time.
pub(crate) fn root() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")?;
    let root = base.join("kprov-xtask");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(root)
}

/// The identity of a result: a hash over all that it depends on.
#[derive(Clone)]
pub(crate) struct Key(Sha256);

impl Key {
    /// A key that depends on `text` alone.
    pub(crate) fn new(text: &str) -> Self {
        let mut key = Self(Sha256::new());
        key.add(text.as_bytes());
        key
    }

    /// Makes the key depend on `bytes`, too.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0.update(u64::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
        self.0.update(bytes);
    }

    /// The same key, depending on `text` as well.
    pub(crate) fn with(mut self, text: &str) -> Self {
        self.add(text.as_bytes());
        self
    }

    /// The same key, depending as well on the names, modes and contents of all files in a folder.
    pub(crate) fn with_tree(mut self, folder: &Path) -> Result<Self> {
        for file in files(folder)? {
            let relative = file.strip_prefix(folder)?;
            self.add(relative.to_string_lossy().as_bytes());
            self.add(if is_executable(&file)? { b"x" } else { b"-" });
            self.add(&fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
        }
        Ok(self)
    }

    /// The first twelve digits of the hash.
    pub(crate) fn short(&self) -> String {
        let digest = self.0.clone().finalize();
        digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The folder that holds the result `name` of `key`. If it is not there yet, `build` fills it; nobody sees a half-filled
/// one, and two processes that ask at the same time build it once.
pub(crate) fn stage(name: &str, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    stage_in(&root()?, name, key, build)
}

/// Like [`stage`], in another folder than the cache.
pub(crate) fn stage_in(root: &Path, name: &str, key: &Key, build: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
    let result = root.join(format!("{name}-{}", key.short()));
    if result.is_dir() {
        return Ok(result);
    }
    let lock = File::create(root.join(format!(".{name}.lock")))?;
    lock.lock()?;
    if result.is_dir() {
        return Ok(result);
    }
    let unfinished = root.join(format!(".{name}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir(&unfinished)?;
    eprintln!("xtask: making {name}");
    let begin = Instant::now();
    build(&unfinished).with_context(|| format!("cannot make {name}"))?;
    fs::rename(&unfinished, &result)?;
    eprintln!("xtask: {name} took {} s", begin.elapsed().as_secs());
    Ok(result)
}

/// All files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether anybody may execute a file.
pub(crate) fn is_executable(file: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::symlink_metadata(file)?.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_tell_boundaries_apart() {
        assert_ne!(Key::new("ab").with("c").short(), Key::new("a").with("bc").short());
        assert_eq!(Key::new("a").with("b").short(), Key::new("a").with("b").short());
        assert_eq!(Key::new("a").short().len(), 12);
    }
}
