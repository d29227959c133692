//! Finding profiles: as files, in the folders that are searched, among the built-in ones.
//!
//! Owns names, folders and the embedded texts. What is in a profile is left to `load`.

use std::fmt;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy as _;

use super::error::{Problem, near};
use super::read;
use super::tree::Node;
use super::variables::Variables;

/// The profiles that kprov brings along.
const BUILT_IN: &[(&str, &str)] = &[
    ("cis-level-2", include_str!("../../../profiles/cis-level-2.yaml")),
    ("default", include_str!("../../../profiles/default.yaml")),
    ("ha", include_str!("../../../profiles/ha.yaml")),
    ("hardened", include_str!("../../../profiles/hardened.yaml")),
    ("kms-local", include_str!("../../../profiles/kms-local.yaml")),
    ("kms-vault", include_str!("../../../profiles/kms-vault.yaml")),
    ("secure-two-node", include_str!("../../../profiles/secure-two-node.yaml")),
];

/// Where a profile was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// In kprov itself, under this name.
    BuiltIn(&'static str),
    /// On standard input.
    Input,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::BuiltIn(name) => write!(f, "built-in:{name}"),
            Self::Input => f.write_str("standard input"),
        }
    }
}

/// The folders that profiles are looked for in.
#[derive(Debug, Clone)]
pub struct SearchPath {
    /// Where relative file names, and `profiles/`, start.
    pub current: PathBuf,
    /// The user's own folder of profiles.
    pub user: Option<PathBuf>,
    /// What stands for `${NAME}` in profiles; without them, such a text is itself.
    pub variables: Option<Variables>,
}

/// A profile's text.
pub(super) struct Found {
    pub(super) origin: Origin,
    pub(super) text: String,
    /// Where relative paths in it start.
    pub(super) base: PathBuf,
}

/// A profile that can be had by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// What to call it.
    pub name: String,
    /// Where it is.
    pub origin: Origin,
    /// Its description; empty if it has none.
    pub description: String,
    /// What it extends.
    pub extends: Option<String>,
    /// Why it cannot be read at all.
    pub unreadable: Option<String>,
}

impl SearchPath {
    /// The working directory, the user's configuration folder (`$XDG_CONFIG_HOME/kprov/profiles`), and the environment.
    #[must_use]
    pub fn of_this_process() -> Self {
        let user = etcetera::base_strategy::choose_base_strategy().ok();
        Self {
            current: PathBuf::new(),
            user: user.map(|strategy| strategy.config_dir().join("kprov").join("profiles")),
            variables: Some(Variables::of_this_process()),
        }
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        [Some(self.current.join("profiles")), self.user.clone()].into_iter().flatten()
    }

    /// Every place that a profile called `name` may be in and is in, in the order of the search.
    fn named(&self, name: &str) -> Vec<Origin> {
        let files = self
            .folders()
            .flat_map(|folder| ["yaml", "yml"].map(|ending| folder.join(format!("{name}.{ending}"))))
            .filter(|path| path.is_file())
            .map(Origin::File);
        files.chain(built_in(name).map(|(name, _)| Origin::BuiltIn(name))).collect()
    }

    /// Finds what the user calls `reference`.
    pub(super) fn find(&self, reference: &str) -> Result<Found, Box<Problem>> {
        if reference == "-" {
            return read(Origin::Input);
        }
        let path = self.current.join(reference);
        if is_path(reference) || path.is_file() {
            return read(Origin::File(path));
        }
        self.named(reference).into_iter().next().map_or_else(|| Err(Box::new(self.unknown(reference))), read)
    }

    /// Finds what the profile at `from` extends. A name is looked for behind the profile itself if it is its own,
    /// and a built-in profile knows built-in ones alone, so that it means the same everywhere.
    pub(super) fn find_base(&self, reference: &str, from: &Found) -> Result<Found, Box<Problem>> {
        let path = match &from.origin {
            Origin::BuiltIn(_) => {
                let found = built_in(reference).map(|(name, _)| Origin::BuiltIn(name));
                return found.map_or_else(|| Err(Box::new(self.unknown(reference))), read);
            }
            Origin::File(path) => path.as_path(),
            // It is no file that could be found as its own base.
            Origin::Input => Path::new(""),
        };
        if is_path(reference) {
            return read(Origin::File(from.base.join(reference)));
        }
        let candidates = self.named(reference);
        let itself = candidates.iter().position(|origin| match origin {
            Origin::File(candidate) => same_file(candidate, path),
            Origin::BuiltIn(_) | Origin::Input => false,
        });
        let behind = itself.map_or(0, |position| position + 1);
        candidates.into_iter().nth(behind).map_or_else(|| Err(Box::new(self.unknown(reference))), read)
    }

    fn unknown(&self, reference: &str) -> Problem {
        let listed = list(self);
        let names: Vec<&str> = listed.iter().map(|profile| profile.name.as_str()).collect();
        let quoted = |names: &[&str], between: &str| {
            names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(between)
        };
        let near = near(reference, names.iter().copied());
        let known = format!("there are {}", quoted(&names, ", "));
        let help = if near.is_empty() { known } else { format!("did you mean {}?\n{known}", quoted(&near, " or ")) };
        Problem::nowhere("profile::unknown", format!("there is no profile `{reference}`"), Some(help))
    }
}

/// Whether two paths lead to one file.
pub(super) fn same_file(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// All profiles that can be had by name, sorted; each name as it would be found.
#[must_use]
pub fn list(search: &SearchPath) -> Vec<Listed> {
    let mut names: Vec<String> = BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).collect();
    for folder in search.folders() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| {
            let path = entry.path();
            let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
            (is_yaml && path.is_file()).then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
        }));
    }
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| search.named(&name).into_iter().next().map(|origin| listed(name, origin)))
        .collect()
}

fn listed(name: String, origin: Origin) -> Listed {
    let mut findings = Vec::new();
    let (tree, unreadable) = match read(origin.clone()) {
        Ok(found) => (read::parse(&found.text, 0, 0, &mut findings), None),
        Err(problem) => (None, Some(problem.to_string())),
    };
    let text = |node: Option<&Node>| node.and_then(Node::text).map(str::to_owned);
    let description =
        text(tree.as_ref().and_then(|tree| tree.get("metadata")).and_then(|meta| meta.get("description")));
    Listed {
        name,
        origin,
        description: description.unwrap_or_default(),
        extends: text(tree.as_ref().and_then(|tree| tree.get("extends"))),
        unreadable: unreadable.or_else(|| findings.into_iter().next().map(|finding| finding.message)),
    }
}

fn is_path(reference: &str) -> bool {
    let ending = Path::new(reference).extension();
    reference.contains(std::path::is_separator) || ending.is_some_and(|ending| ending == "yaml" || ending == "yml")
}

fn built_in(name: &str) -> Option<&'static (&'static str, &'static str)> {
    BUILT_IN.iter().find(|(known, _)| *known == name)
}

fn read(origin: Origin) -> Result<Found, Box<Problem>> {
    match &origin {
        Origin::BuiltIn(name) => {
            let text = built_in(name).map(|(_, text)| (*text).to_owned()).unwrap_or_default();
            Ok(Found { origin, text, base: PathBuf::new() })
        }
        Origin::File(path) => {
            let text = std::fs::File::open(path)
                .and_then(bounded)
                .map_err(|error| unreadable(&path.display().to_string(), &error))?;
            let base = path.parent().map(Path::to_path_buf).unwrap_or_default();
            Ok(Found { origin, text, base })
        }
        Origin::Input => {
            let text = bounded(std::io::stdin().lock()).map_err(|error| unreadable("standard input", &error))?;
            Ok(Found { origin, text, base: PathBuf::new() })
        }
    }
}

fn unreadable(what: &str, error: &std::io::Error) -> Box<Problem> {
    let message = match error.kind() {
        ErrorKind::NotFound => format!("there is no file {what}"),
        ErrorKind::InvalidData => format!("{what} is no text (UTF-8)"),
        ErrorKind::FileTooLarge => format!("{what} has more than {} MiB", read::MAX_TEXT >> 20),
        _ => format!("{what} could not be read: {error}"),
    };
    Box::new(Problem::nowhere("profile::unreadable", message, None))
}

/// A text, which is read no further than a profile may be long: it may have no end.
fn bounded(from: impl std::io::Read) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    from.take(read::MAX_TEXT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > read::MAX_TEXT {
        return Err(ErrorKind::FileTooLarge.into());
    }
    String::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData.into())
}
