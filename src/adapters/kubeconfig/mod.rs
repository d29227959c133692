//! The user's kubeconfig: putting a cluster's entry in, and taking it out again, as kind does.
//!
//! Owns the choice of the file, its lock, and the merge, which works on the YAML
//! tree so that whatever else is in the file stays as it is and where it is.
//! Leaves to `cluster` where a cluster's credentials come from. Everything here
//! blocks (on the lock, for seconds at worst): call it off the async threads.

mod lock;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::{Mapping, Value};
use zeroize::Zeroizing;

use crate::adapters::paths::{self, PathsError};
use crate::documents::bounds::check_stream;
use crate::documents::yaml;
use lock::Lock;

/// How long to wait for another program that is changing the same file.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The most symbolic links that are followed from one path, as in Linux.
const MAX_LINKS: usize = 40;

/// Why a kubeconfig could not be changed. Messages name files and places in them, never what they hold.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum KubeconfigError {
    /// There is no file to choose.
    #[error("there is no kubeconfig to write to: neither --kubeconfig nor KUBECONFIG nor HOME is set")]
    #[diagnostic(help("name a file with --kubeconfig FILE"))]
    NoFile,
    /// Another program holds the lock.
    #[error("{path} is locked: {lock} exists", path = path.display(), lock = lock.display())]
    #[diagnostic(help(
        "another kubectl, kind or kprov may be changing the file; if none is running, remove {lock}",
        lock = lock.display()
    ))]
    Locked {
        /// The kubeconfig.
        path: PathBuf,
        /// Its lock.
        lock: PathBuf,
    },
    /// The lock could not be created.
    #[error("{path} could not be locked: {error}", path = path.display())]
    #[diagnostic(help("its folder must be writable, or name another file with --kubeconfig FILE"))]
    Lock {
        /// The kubeconfig.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The path is a folder.
    #[error("{path} is a folder, not a kubeconfig", path = path.display())]
    #[diagnostic(help("check --kubeconfig and KUBECONFIG"))]
    Folder {
        /// The path.
        path: PathBuf,
    },
    /// Symbolic links lead nowhere.
    #[error("{path} leads through too many symbolic links", path = path.display())]
    Links {
        /// The path.
        path: PathBuf,
    },
    /// The file is not YAML.
    #[error("{origin} is not valid YAML{place}")]
    #[diagnostic(help("it was left as it is; mend it, or name another file with --kubeconfig FILE"))]
    Yaml {
        /// The file, or what else the text is.
        origin: String,
        /// Line and column, if known. Not the parser's own words: they may quote the file.
        place: String,
    },
    /// The file is YAML, but no kubeconfig.
    #[error("{origin} is not a kubeconfig: {problem}")]
    #[diagnostic(help("it was left as it is; mend it, or name another file with --kubeconfig FILE"))]
    Shape {
        /// The file, or what else the text is.
        origin: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Files(#[from] PathsError),
}

/// Where kubeadm leaves the administrator's kubeconfig on a control plane.
pub const ADMIN: &str = "/etc/kubernetes/admin.conf";

/// The name of a cluster's entries in a kubeconfig, and of its context.
#[must_use]
pub fn entry_name(cluster: &str) -> String {
    format!("kind-{cluster}")
}

/// What the choice of files depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// `$KUBECONFIG`.
    pub kubeconfig: Option<OsString>,
    /// The home folder.
    pub home: Option<PathBuf>,
}

impl Environment {
    /// This process's.
    #[must_use]
    pub fn from_process() -> Self {
        Self { kubeconfig: std::env::var_os("KUBECONFIG"), home: std::env::home_dir() }
    }
}

/// The kubeconfig files that apply: one or, from a `$KUBECONFIG` list, several. Never none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    files: Vec<PathBuf>,
    wait: Duration,
}

impl Files {
    /// Chooses as kubectl and kind do: the explicit file (`--kubeconfig`) alone, else the list in `$KUBECONFIG`,
    /// else `~/.kube/config`.
    ///
    /// # Errors
    /// [`KubeconfigError::NoFile`] if the list is empty, or no home folder is known.
    pub fn choose(explicit: Option<&Path>, environment: &Environment) -> Result<Self, KubeconfigError> {
        let mut files: Vec<PathBuf> = Vec::new();
        if let Some(file) = explicit.filter(|file| !file.as_os_str().is_empty()) {
            files.push(file.to_owned());
        } else if let Some(list) = &environment.kubeconfig {
            for file in std::env::split_paths(list) {
                if !file.as_os_str().is_empty() && !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        if files.is_empty() {
            let home = environment.home.as_ref().filter(|home| !home.as_os_str().is_empty());
            files.push(home.ok_or(KubeconfigError::NoFile)?.join(".kube").join("config"));
        }
        Ok(Self { files, wait: LOCK_WAIT })
    }

    /// All of them, in order.
    #[must_use]
    pub fn all(&self) -> &[PathBuf] {
        &self.files
    }

    /// The one that new entries go to: the first that exists, else the last.
    #[must_use]
    pub fn for_writing(&self) -> &Path {
        let existing = self.files.iter().find(|file| fs::metadata(file).is_ok_and(|metadata| !metadata.is_dir()));
        // `choose` leaves at least one; the empty path is for the compiler.
        existing.or(self.files.last()).map_or(Path::new(""), PathBuf::as_path)
    }

    /// Puts the entries of `kubeconfig` (from [`for_cluster`]) into the user's and makes its context the current
    /// one. Entries of the same name are replaced where they are; new ones come last. Returns the file it changed.
    ///
    /// # Errors
    /// A [`KubeconfigError`]; the file is then as it was.
    pub fn merge(&self, kubeconfig: &str) -> Result<PathBuf, KubeconfigError> {
        let ours = Document::parse(kubeconfig, "the cluster's kubeconfig")?;
        let path = self.for_writing();
        change(path, self.wait, kubeconfig.len(), |text, origin| {
            let mut theirs = Document::parse(text, origin)?;
            theirs.merge(&ours)?;
            Ok(Some(theirs))
        })?;
        Ok(path.to_owned())
    }

    /// Takes the entries of `cluster` out of every file, and the current context back if it was that cluster's.
    /// Files without such an entry are not written. Returns the files that changed.
    ///
    /// # Errors
    /// The first [`KubeconfigError`]; the other files are seen to all the same.
    pub fn remove(&self, cluster: &str) -> Result<Vec<PathBuf>, KubeconfigError> {
        let name = entry_name(cluster);
        let mut changed = Vec::new();
        let mut first_error = None;
        for path in &self.files {
            match remove_from(path, self.wait, &name) {
                Ok(true) => changed.push(path.clone()),
                Ok(false) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(changed), Err)
    }
}

fn remove_from(path: &Path, wait: Duration, name: &str) -> Result<bool, KubeconfigError> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Ok(false),
        Err(_) => return remove_unfinished(path, wait).map(|()| false),
    }
    let result = change(path, wait, 0, |text, origin| {
        // A file without the name in it is not parsed at all, so that a broken one is no error here.
        if !text.contains(name) {
            return Ok(None);
        }
        let mut document = Document::parse(text, origin)?;
        Ok(document.remove(name)?.then_some(document))
    });
    match result {
        // A list may hold files that are not ours to change (/etc/kubernetes/admin.conf, say). That matters only
        // if there is something to change.
        Err(KubeconfigError::Lock { .. }) if !read_text(path)?.contains(name) => Ok(false),
        other => other,
    }
}

/// Removes what a kprov has left that was killed before it could give the name `path` to the first file there: the keys of an
/// administrator are in it.
fn remove_unfinished(path: &Path, wait: Duration) -> Result<(), KubeconfigError> {
    // Links that lead in a circle lead to nothing that was left.
    let Ok(target) = resolve(path) else { return Ok(()) };
    if paths::temporaries(&target).is_empty() {
        return Ok(());
    }
    let _locks = acquire_both(path, &target, wait)?;
    paths::remove_leftovers(&target);
    Ok(())
}

/// kubeadm's `admin.conf` as the kubeconfig of `cluster`: entries named `kind-CLUSTER`, the server replaced.
///
/// It comes out of a node, or out of a stranger's snapshot, and is used on this host, where a kubeconfig may name programs
/// to run and files to read (`exec`, `tokenFile`). So it is believed nothing but what kubeadm writes.
///
/// # Errors
/// [`KubeconfigError::Yaml`] or [`KubeconfigError::Shape`] if it is not what kubeadm writes.
pub fn for_cluster(admin_conf: &str, cluster: &str, server: &str) -> Result<Zeroizing<String>, KubeconfigError> {
    let mut document = Document::parse(admin_conf, "admin.conf")?;
    let name = entry_name(cluster);
    for list in LISTS {
        let origin = document.origin.clone();
        let entry = document.only(list)?;
        let inner = entry.get_mut(list.inner).and_then(Value::as_mapping_mut);
        let inner = inner.ok_or_else(|| shape(&origin, format!("the entry in {} has no {}", list.key, list.inner)))?;
        let is_known = |name: &Value| matches!(name, Value::String(name) if list.fields.contains(&name.as_str()));
        if let Some((name, _)) = inner.iter().find(|(name, value)| !(is_known(name) && value.is_string())) {
            let name = name.as_str().unwrap_or("a field without a name");
            return Err(shape(
                &origin,
                format!("the entry in {} has {name:?}, which kubeadm does not write", list.key),
            ));
        }
        match list.inner {
            "cluster" => {
                inner.insert("server".into(), server.into());
            }
            "context" => {
                inner.insert("cluster".into(), name.as_str().into());
                inner.insert("user".into(), name.as_str().into());
            }
            _ => {}
        }
        entry.insert("name".into(), name.as_str().into());
    }
    document.root.insert(CURRENT.into(), name.into());
    Ok(document.to_text(admin_conf.len() + server.len()))
}

const CURRENT: &str = "current-context";

/// One of the three lists of a kubeconfig.
#[derive(Clone, Copy)]
struct List {
    /// Its key in the document.
    key: &'static str,
    /// The key beside `name` in each of its entries.
    inner: &'static str,
    /// What kubeadm writes below that, each of it text, and a context's namespace.
    fields: &'static [&'static str],
}

const LISTS: [List; 3] = [
    List { key: "clusters", inner: "cluster", fields: &["certificate-authority-data", "server"] },
    List { key: "contexts", inner: "context", fields: &["cluster", "namespace", "user"] },
    List { key: "users", inner: "user", fields: &["client-certificate-data", "client-key-data"] },
];

/// A kubeconfig as a tree, with what to call it in messages.
struct Document {
    root: Mapping,
    origin: String,
}

impl Document {
    fn parse(text: &str, origin: &str) -> Result<Self, KubeconfigError> {
        // It may come from a node that somebody else has had, or from a stranger's snapshot.
        check_stream(text)
            .map_err(|reason| KubeconfigError::Yaml { origin: origin.to_owned(), place: format!(": {reason}") })?;
        let mut value: Value = serde_yaml::from_str(text).map_err(|error| KubeconfigError::Yaml {
            origin: origin.to_owned(),
            place: error
                .location()
                .map(|place| format!(" (line {}, column {})", place.line(), place.column()))
                .unwrap_or_default(),
        })?;
        mend_booleans(&mut value);
        let root = match value {
            Value::Null => Mapping::new(),
            Value::Mapping(root) => root,
            _ => return Err(shape(origin, "it is not a mapping".to_owned())),
        };
        Ok(Self { root, origin: origin.to_owned() })
    }

    /// The entries of a list; `None` if it is missing or empty.
    fn entries(&mut self, list: List) -> Result<Option<&mut Vec<Value>>, KubeconfigError> {
        match self.root.get_mut(list.key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Sequence(entries)) => Ok(Some(entries)),
            Some(_) => Err(shape(&self.origin, format!("{} is not a list", list.key))),
        }
    }

    /// The one entry of a list.
    fn only(&mut self, list: List) -> Result<&mut Mapping, KubeconfigError> {
        let origin = self.origin.clone();
        let problem = || shape(&origin, format!("{} does not hold exactly one entry", list.key));
        match self.entries(list)?.map(Vec::as_mut_slice) {
            Some([Value::Mapping(entry)]) => Ok(entry),
            _ => Err(problem()),
        }
    }

    fn merge(&mut self, other: &Self) -> Result<(), KubeconfigError> {
        // Some clients insist on these two, and a file that we begin has neither.
        for (key, value) in [("apiVersion", "v1"), ("kind", "Config")] {
            if !self.root.contains_key(key) {
                self.root.insert(key.into(), value.into());
            }
        }
        for list in LISTS {
            let Some(Value::Sequence(additions)) = other.root.get(list.key) else { continue };
            if self.entries(list)?.is_none() {
                self.root.insert(list.key.into(), Value::Sequence(Vec::new()));
            }
            let Some(entries) = self.entries(list)? else { continue };
            for addition in additions {
                let mut replaced = false;
                for entry in entries.iter_mut().filter(|entry| entry.get("name") == addition.get("name")) {
                    *entry = addition.clone();
                    replaced = true;
                }
                if !replaced {
                    entries.push(addition.clone());
                }
            }
        }
        if let Some(current) = other.root.get(CURRENT) {
            self.root.insert(CURRENT.into(), current.clone());
        }
        Ok(())
    }

    /// Takes out what is called `name`. Says whether anything was.
    fn remove(&mut self, name: &str) -> Result<bool, KubeconfigError> {
        let mut changed = false;
        for list in LISTS {
            let Some(entries) = self.entries(list)? else { continue };
            let before = entries.len();
            entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(name));
            let (after, emptied) = (entries.len(), entries.is_empty());
            changed |= after != before;
            if after != before && emptied {
                self.root.shift_remove(list.key);
            }
        }
        if self.root.get(CURRENT).and_then(Value::as_str) == Some(name) {
            self.root.shift_remove(CURRENT);
            changed = true;
        }
        Ok(changed)
    }

    /// The text, about `size` bytes of it.
    fn to_text(&self, size: usize) -> Zeroizing<String> {
        // Room for all of it at once: a buffer that grows leaves copies of keys behind.
        let mut text = Zeroizing::new(String::with_capacity(size + size / 2 + 1024));
        yaml::write(&self.root, &mut text);
        text
    }
}

/// kubeconfig's booleans. Everywhere else `yes` can only have been meant as text.
const BOOLEANS: [&str; 4] = ["insecure-skip-tls-verify", "disable-compression", "provideClusterInfo", "colors"];

/// Makes booleans of those that were written in YAML 1.1's words: kubectl takes them, serde_yaml takes them for text.
fn mend_booleans(value: &mut Value) {
    match value {
        Value::Sequence(items) => items.iter_mut().for_each(mend_booleans),
        Value::Mapping(fields) => {
            for (name, field) in fields.iter_mut() {
                let named = name.as_str().is_some_and(|name| BOOLEANS.contains(&name));
                match field.as_str().and_then(boolean).filter(|_| named) {
                    Some(meant) => *field = Value::Bool(meant),
                    None => mend_booleans(field),
                }
            }
        }
        Value::Tagged(tagged) => mend_booleans(&mut tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What `text` means to YAML 1.1, if it is a boolean there alone.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

fn shape(origin: &str, problem: String) -> KubeconfigError {
    KubeconfigError::Shape { origin: origin.to_owned(), problem }
}

/// Changes the file at `path` under its lock: `edit` gets its text and what to call it, and returns what the file
/// becomes, which is about `growth` bytes longer, or `None` to leave it alone. Says whether it was written.
fn change(
    path: &Path,
    wait: Duration,
    growth: usize,
    edit: impl FnOnce(&str, &str) -> Result<Option<Document>, KubeconfigError>,
) -> Result<bool, KubeconfigError> {
    let target = resolve(path)?;
    match fs::metadata(&target) {
        Ok(metadata) if metadata.is_dir() => return Err(KubeconfigError::Folder { path: path.to_owned() }),
        // /dev/null and its like: they hold nothing, need no lock, and must not be replaced by a file.
        Ok(metadata) if !metadata.is_file() => {
            let Some(document) = edit("", &path.display().to_string())? else { return Ok(false) };
            let text = document.to_text(growth);
            OpenOptions::new()
                .write(true)
                .open(&target)
                .and_then(|mut device| device.write_all(text.as_bytes()))
                .map_err(|error| PathsError::Write { path: path.to_owned(), error })?;
            return Ok(true);
        }
        _ => {}
    }
    let _locks = acquire_both(path, &target, wait)?;
    paths::remove_leftovers(&target);
    let text = read_text(&target)?;
    let Some(document) = edit(&text, &path.display().to_string())? else { return Ok(false) };
    paths::write_private(&target, document.to_text(text.len() + growth).as_bytes())?;
    Ok(true)
}

/// The locks of `path` and of the file behind it, if that is another. Other programs lock the name that they were given. We lock
/// what we replace as well, in this order always.
fn acquire_both(path: &Path, target: &Path, wait: Duration) -> Result<(Lock, Option<Lock>), KubeconfigError> {
    let lock = acquire(path, wait)?;
    let behind = if target == path { None } else { Some(acquire(target, wait)?) };
    Ok((lock, behind))
}

fn acquire(path: &Path, wait: Duration) -> Result<Lock, KubeconfigError> {
    paths::create_private_dir(paths::folder_of(path))?;
    Lock::acquire(path, wait).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KubeconfigError::Locked { path: path.to_owned(), lock: lock::path_of(path) },
        _ => KubeconfigError::Lock { path: path.to_owned(), error },
    })
}

/// The text of the file; empty if there is none.
fn read_text(path: &Path) -> Result<Zeroizing<String>, KubeconfigError> {
    let Some(mut bytes) = paths::read(path)? else { return Ok(Zeroizing::new(String::new())) };
    String::from_utf8(std::mem::take(&mut *bytes)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        shape(&path.display().to_string(), "it is not UTF-8".to_owned())
    })
}

/// Where `path` leads to through symbolic links, whether or not anything is there yet.
fn resolve(path: &Path) -> Result<PathBuf, KubeconfigError> {
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&target) {
            Ok(next) => target = paths::folder_of(&target).join(next),
            // Not a link, or not there.
            Err(_) => return Ok(target),
        }
    }
    Err(KubeconfigError::Links { path: path.to_owned() })
}

#[cfg(test)]
mod tests;
