//! From a name to a checked profile: finding, layering, `--set`, checking.
//!
//! Owns the order of these steps. Each of them is in a module of its own.

use std::path::{Path, PathBuf};

use miette::Severity;

use crate::documents::yaml;

use super::error::{Finding, Problem, ProfileError, Source, Warning, located};
use super::read::Dialect;
use super::set::Set;
use super::shape::{Required, Shape};
use super::source::{Found, Origin, SearchPath, same_file};
use super::tree::{Node, Span, Value};
use super::variables::{VARIABLE, mentions_one};
use super::{KeySource, Profile, kind_file, read, secret, semantic};

/// A profile that is complete and checked.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The profile, with all that it extends and every `--set` merged in.
    pub profile: Profile,
    /// Where its relative paths start.
    pub base: PathBuf,
    /// Where it was found: a file's path, or `built-in:NAME`.
    pub origin: String,
    /// What deserves a second look.
    pub warnings: Vec<Warning>,
}

/// Loads the profile that `reference` names, lays `sets` (`path=value`, below `spec`) over it and checks it all.
///
/// # Errors
/// Everything that is wrong with it, each with its place.
pub fn load(reference: &str, sets: &[String], search: &SearchPath) -> Result<Loaded, ProfileError> {
    load_layers(&[reference], sets, search)
}

/// As [`load`], of several profiles of which each is laid over those before it; what is not in the last one, its name
/// included, comes from the others. Each of them can be a configuration of kind's.
///
/// # Errors
/// Everything that is wrong with them, each with its place.
pub fn load_layers(
    references: &[impl AsRef<str>],
    sets: &[String],
    search: &SearchPath,
) -> Result<Loaded, ProfileError> {
    let name = references.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" + ");
    let found = references.iter().map(|reference| search.find(reference.as_ref()));
    let found = found.collect::<Result<Vec<_>, _>>().map_err(|problem| ProfileError::new(&name, vec![*problem]))?;
    load_found(&name, found, sets, search)
}

/// Checks a profile that was loaded at another time, or somewhere else, as if it stood in a file in `base`.
///
/// # Errors
/// As [`load`]; also if it extends another one, which no profile does any more once it is loaded.
pub fn check(profile: &Profile, base: &Path) -> Result<Loaded, ProfileError> {
    let reference = &profile.metadata.name;
    let fail = |message: &str| ProfileError::new(reference, vec![Problem::nowhere("profile::invalid", message, None)]);
    if profile.extends.is_some() {
        return Err(fail("it extends another profile: it has not been loaded"));
    }
    let text = to_yaml(profile);
    if text.len() > read::MAX_TEXT {
        return Err(fail("it is too long"));
    }
    let found = Found { origin: Origin::File(base.join(reference)), text, base: base.to_owned() };
    load_found(reference, vec![found], &[], &SearchPath { current: base.to_owned(), user: None, variables: None })
}

/// Layers and checks what has been found under `reference`, the lowest layer first.
fn load_found(
    reference: &str,
    found: Vec<Found>,
    sets: &[String],
    search: &SearchPath,
) -> Result<Loaded, ProfileError> {
    let fail = |problems: Vec<Problem>| ProfileError::new(reference, problems);
    let origin = found.last().map(|found| found.origin.to_string()).unwrap_or_default();

    let shape = Shape::new();
    let mut all = Layers { sources: Vec::new(), findings: Vec::new(), trees: Vec::new() };
    let layers = found.len();
    for (above, found) in found.into_iter().rev().enumerate() {
        all.chain(found, above + 1 < layers, search, &shape);
    }
    let base = all.sources.first().map(|source| source.base.clone()).unwrap_or_default();
    let sets = all.sets(sets, search, &shape);
    let Layers { sources, mut findings, trees } = all;
    if !findings.is_empty() {
        return Err(fail(located(findings, &sources)));
    }

    let mut bases_first = trees.into_iter().rev();
    let Some(mut root) = bases_first.next().map(Node::without_nulls) else {
        return Err(fail(vec![Problem::nowhere("profile::syntax", "the profile is empty", None)]));
    };
    for layer in bases_first {
        root.merge(layer);
    }
    if let Value::Map(entries) = &mut root.value {
        entries.retain(|entry| entry.key != "extends");
    }
    for set in sets {
        set.apply(&mut root, &mut findings);
    }
    shape.check(&root, Required::Everything, &mut findings);
    if !findings.is_empty() {
        return Err(fail(located(findings, &sources)));
    }

    root_paths(&mut root, &sources);
    let profile: Profile = serde_json::from_value(root.to_json()).map_err(|error| {
        // The schema lets through what the types do not take: rare, and never to be told with a key in it.
        let mut message = error.to_string();
        root.each_scalar(&mut |node| {
            if node.secret && node.text().is_some_and(|text| message.contains(text)) {
                message = "a value is not allowed here".to_owned();
            }
        });
        fail(located(vec![Finding::error("profile::invalid", message, root.place())], &sources))
    })?;

    semantic::check(&profile, &root, &base, &mut findings);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(fail(located(errors, &sources)));
    }
    Ok(Loaded { profile, base, origin, warnings: located(warnings, &sources) })
}

/// The profile as YAML that [`load`] reads back to the same profile. Literal keys are in it: see [`Profile::redacted`].
#[must_use]
pub fn to_yaml(profile: &Profile) -> String {
    yaml::document(profile)
}

impl Profile {
    /// The profile without the text of literal keys, for showing.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let mut profile = self.clone();
        for provider in profile.spec.encryption.iter_mut().flat_map(|encryption| &mut encryption.providers) {
            let local = provider.kms.iter_mut().filter_map(|kms| Some(&mut kms.local.as_mut()?.key));
            for source in provider.keys.iter_mut().map(|key| &mut key.source).chain(local) {
                if let KeySource::Literal(text) = source {
                    "<redacted>".clone_into(text);
                }
            }
        }
        profile
    }
}

struct Layers {
    sources: Vec<Source>,
    findings: Vec<Finding>,
    /// The profile itself, then what it extends, and so on.
    trees: Vec<Node>,
}

impl Layers {
    /// Reads `found` and everything that it extends, each checked on its own; `lies_over` says whether it is laid over
    /// another layer besides.
    fn chain(&mut self, found: Found, lies_over: bool, search: &SearchPath, shape: &Shape) {
        let mut found = found;
        let mut origins: Vec<Origin> = Vec::new();
        loop {
            origins.push(found.origin.clone());
            let source = self.sources.len();
            let dialect = read::dialect_of(&found.text);
            let known = self.findings.len();
            let variables = search.variables.filter(|_| dialect == Dialect::Profile);
            let mut tree = read::parse_as(dialect, variables, &found.text, source, 0, &mut self.findings);
            if dialect == Dialect::Kind {
                // kind's relative paths start where it is called.
                let base = absolute(Path::new(""), search);
                self.sources.push(Source::new(found.origin.to_string(), base, &found.text, tree.as_ref(), None));
                let translated = tree.and_then(|tree| kind_file::translate(tree, &found.text, &mut self.findings));
                return self.trees.extend(translated);
            }
            if let Some(tree) = &mut tree {
                secret::mark_keys(tree);
                if variables.is_some() {
                    self.refuse_keys(tree, &found.text);
                }
            }
            let base = absolute(&found.base, search);
            self.sources.push(Source::new(found.origin.to_string(), base, &found.text, tree.as_ref(), None));
            let Some(tree) = tree else { return };

            let extends = tree.get("extends").and_then(|node| Some((node.text()?.to_owned(), node.span)));
            let required = if extends.is_some() || lies_over { Required::OnlyIdentity } else { Required::Everything };
            // What stands where a variable is missing has no type to be wrong.
            if !self.findings[known..].iter().any(|finding| finding.code == VARIABLE) {
                shape.check(&tree, required, &mut self.findings);
            }
            self.trees.push(tree);

            let Some((reference, span)) = extends else { return };
            match search.find_base(&reference, &found) {
                Ok(next) if origins.iter().any(|origin| same(origin, &next.origin)) => {
                    let round: Vec<_> = origins.iter().chain([&next.origin]).map(Origin::to_string).collect();
                    let finding = Finding::error("profile::cycle", "the profile extends itself", span)
                        .label("leads back")
                        .help(round.join(" -> "));
                    return self.findings.push(finding);
                }
                Ok(next) => found = next,
                Err(problem) => {
                    let entry = problem.entry();
                    let mut finding = Finding::error(entry.code, entry.message, span).label("extended here");
                    if let Some(help) = entry.help {
                        finding = finding.help(help);
                    }
                    return self.findings.push(finding);
                }
            }
        }
    }

    /// Keys come by their own way from the environment, on which they are kept out of records.
    fn refuse_keys(&mut self, tree: &Node, text: &str) {
        tree.each_scalar(&mut |node| {
            let written = text.get(node.span.start..node.span.end).unwrap_or_default();
            if node.secret && mentions_one(written) {
                let finding = Finding::error(VARIABLE, "no variable stands for a key or a password", node.span)
                    .help("a source has a field for that: `env: NAME`");
                self.findings.push(finding);
            }
        });
    }

    fn sets(&mut self, sets: &[String], search: &SearchPath, shape: &Shape) -> Vec<Set> {
        let mut read = Vec::with_capacity(sets.len());
        for argument in sets {
            let source = self.sources.len();
            let set = Set::parse(argument, source, shape, &mut self.findings);
            let base = absolute(Path::new(""), search);
            let tree = set.as_ref().map(|set| &set.value);
            let fence = argument.contains("encryption").then(|| argument.find('=').map_or(0, |equals| equals + 1));
            self.sources.push(Source::new("--set".to_owned(), base, argument, tree, fence));
            read.extend(set);
        }
        read
    }
}

fn same(one: &Origin, other: &Origin) -> bool {
    match (one, other) {
        (Origin::File(one), Origin::File(other)) => same_file(one, other),
        _ => one == other,
    }
}

/// `folder` from the root; an empty one is the folder that the search starts in.
fn absolute(folder: &Path, search: &SearchPath) -> PathBuf {
    let folder = if folder.as_os_str().is_empty() { &search.current } else { folder };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf())
}

/// Makes paths absolute that come from another folder than the profile's own, so that one folder will do for all.
fn root_paths(root: &mut Node, sources: &[Source]) {
    let Some(base) = sources.first().map(|source| source.base.clone()) else { return };
    let fix = |node: &mut Node| {
        let Span { source, .. } = node.span;
        let Some(other) = sources.get(source).filter(|source| source.base != base) else { return };
        if let Value::String(path) = &mut node.value
            && Path::new(path).is_relative()
            && !path.is_empty()
        {
            *path = other.base.join(&*path).display().to_string();
        }
    };
    let Some(spec) = entry_mut(root, "spec") else { return };
    each_item(entry_mut(spec, "manifests"), |manifest| {
        entry_mut(manifest, "file").into_iter().for_each(fix);
    });
    each_item(entry_mut(spec, "nodes"), |group| {
        each_item(entry_mut(group, "mounts"), |mount| entry_mut(mount, "hostPath").into_iter().for_each(fix));
    });
    each_item(entry_mut(spec, "encryption").and_then(|encryption| entry_mut(encryption, "providers")), |provider| {
        each_item(entry_mut(provider, "keys"), |key| {
            entry_mut(key, "source").and_then(|source| entry_mut(source, "file")).into_iter().for_each(fix);
        });
        for path in [
            &["local", "key", "file"][..],
            &["vault", "ca"],
            &["vault", "auth", "appRole", "roleId", "file"],
            &["vault", "auth", "appRole", "secretId", "file"],
            &["vault", "auth", "token", "file"],
            &["vault", "auth", "certificate", "certificate"],
            &["vault", "auth", "certificate", "key", "file"],
        ] {
            let kms = entry_mut(provider, "kms");
            path.iter().fold(kms, |node, key| entry_mut(node?, key)).into_iter().for_each(fix);
        }
    });
}

fn entry_mut<'n>(node: &'n mut Node, key: &str) -> Option<&'n mut Node> {
    match &mut node.value {
        Value::Map(entries) => entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node),
        _ => None,
    }
}

fn each_item(list: Option<&mut Node>, visit: impl FnMut(&mut Node)) {
    if let Some(Value::List(items)) = list.map(|node| &mut node.value) {
        items.iter_mut().for_each(visit);
    }
}
