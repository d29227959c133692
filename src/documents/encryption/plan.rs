//! The walk from one key to another, as a state machine. Pure.
//!
//! The order is that of Kubernetes' documentation ("Rotate a decryption key"): the new key becomes readable
//! everywhere, then writes, then everything is rewritten, then the old key goes. Where the walk is, is written into a
//! [`Journal`] on every control plane before the first step of each phase: whoever finds a journal can go on or turn back.

use serde::{Deserialize, Serialize};

use crate::documents::keys::ProviderKind;

use super::config::{Config, KeyId, Kms, Material};
use super::layout::{GroupResource, Precision};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// From no encryption.
    Enable,
    /// To another key of the same provider.
    Rotate,
    /// To another provider.
    Migrate,
    /// To no encryption.
    Disable,
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Enable => "enable",
            Self::Rotate => "rotate",
            Self::Migrate => "migrate",
            Self::Disable => "disable",
        })
    }
}

/// Where a walk is: what is being done right now. All earlier phases are complete on every control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// The new key becomes a reader. Not needed where there is but one API server.
    Add,
    /// The new key becomes the writer.
    Promote,
    /// Everything is rewritten, until nothing is stored under another key.
    Rewrite,
    /// All other keys are removed.
    Remove,
    /// What kprov keeps on the host is brought up to date.
    Record,
}

impl Phase {
    /// What is being done, for progress and errors.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Add => "Adding the new key as a reader",
            Self::Promote => "Making the new key the writer",
            Self::Rewrite => "Rewriting",
            Self::Remove => "Removing what is no longer needed",
            Self::Record => "Recording",
        }
    }

    /// The phase that follows; `None` at the end.
    #[must_use]
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Add => Some(Self::Promote),
            Self::Promote => Some(Self::Rewrite),
            Self::Rewrite => Some(Self::Remove),
            Self::Remove => Some(Self::Record),
            Self::Record => None,
        }
    }
}

/// The way of one group of resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// The resources.
    pub resources: Vec<String>,
    /// What wrote them before.
    pub from: KeyId,
    /// What is to write them.
    pub to: KeyId,
}

/// A walk under way, as it is written on every control plane. Holds no key, only names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Journal {
    /// Tells walks apart.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// What was asked for.
    pub verb: Verb,
    /// Whether it has turned back.
    #[serde(default)]
    pub undoing: bool,
    /// Where it is.
    pub phase: Phase,
    /// The ways of all groups that it concerns.
    pub moves: Vec<Move>,
    /// Where the configuration lies on the control plane that this copy is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The KMS that a move leads to, without anything secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms: Option<crate::documents::profile::Kms>,
    /// A text that lies in etcd in the clear, to be looked for once it is scrubbed. It is random, and no secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<String>,
}

impl Journal {
    /// Where it lies on each control plane, as long as a change is under way.
    pub const FILE: &str = "/kind/kprov/encryption.json";
}

impl std::fmt::Display for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let undoing = if self.undoing { "undoing of " } else { "" };
        let ways: Vec<String> = self
            .moves
            .iter()
            .map(|way| format!("{} from {} to {}", way.resources.join(", "), way.from, way.to))
            .collect();
        write!(f, "{undoing}{} ({})", self.verb, ways.join("; "))
    }
}

impl Journal {
    /// The one of several control planes' journals that has come furthest: the phase before it was complete everywhere.
    #[must_use]
    pub fn furthest(journals: Vec<Self>) -> Option<Self> {
        // Turning back is the later decision.
        journals.into_iter().max_by_key(|journal| (journal.began, journal.undoing, journal.phase))
    }

    /// The journal of the way back.
    #[must_use]
    pub fn turned_back(&self) -> Option<Self> {
        let phase = match self.phase {
            // Nothing is stored under the new key yet.
            Phase::Add => Phase::Remove,
            Phase::Promote | Phase::Rewrite => Phase::Promote,
            // The old key may be gone somewhere, and nothing needs it any more.
            Phase::Remove | Phase::Record => return None,
        };
        let back = |way: &Move| Move { resources: way.resources.clone(), from: way.to.clone(), to: way.from.clone() };
        Some(Self { undoing: !self.undoing, phase, moves: self.moves.iter().map(back).collect(), ..self.clone() })
    }

    /// Of the configurations on the control planes, the one to go on from: it has all that the others have.
    #[must_use]
    pub fn base(&self, mut found: Vec<Option<Config>>) -> Config {
        let known = |config: &Option<Config>| {
            let has =
                |way: &&Move| config.as_ref().and_then(|c| c.group(&way.resources)).is_some_and(|g| g.reads(&way.to));
            let keys = config.as_ref().map_or(0, |config| config.key_names().len());
            (self.moves.iter().filter(has).count(), keys)
        };
        found.sort_by_key(known);
        found.pop().flatten().unwrap_or_default()
    }

    /// The key that is to write a resource, if this walk decides on it: the most exact rule does, be it one of the walk's
    /// or one of `base` that the walk leaves alone.
    #[must_use]
    pub fn destination(&self, base: &Config, resource: &GroupResource) -> Option<&KeyId> {
        let best = |rules: &[String]| rules.iter().filter_map(|rule| GroupResource::parse(rule).names(resource)).max();
        let (precision, to): (Precision, &KeyId) = self
            .moves
            .iter()
            .filter_map(|way| Some((best(&way.resources)?, &way.to)))
            // The first of equals.
            .rev()
            .max_by_key(|(precision, _)| *precision)?;
        let others = base.groups.iter().filter_map(|group| best(&group.resources)).max();
        (others <= Some(precision)).then_some(to)
    }

    /// What the files of etcd are to hold no longer: the marker of a time before encryption, and the first bytes of values
    /// under keys that are gone.
    #[must_use]
    pub fn texts_to_scrub(&self) -> Vec<String> {
        let old = self.moves.iter().filter(|way| way.from.provider != ProviderKind::Identity);
        let old = old.map(|way| way.from.stored());
        let mut texts: Vec<String> = self.marker.iter().cloned().chain(old).collect();
        texts.sort();
        texts.dedup();
        texts
    }

    /// The configuration that a phase gives every control plane; `None` for none at all.
    ///
    /// `base` has every key that the walk needs, but for those in `new`.
    #[must_use]
    pub fn target(&self, phase: Phase, base: &Config, new: &NewKeys) -> Option<Config> {
        let mut config = base.clone();
        for (index, way) in self.moves.iter().enumerate() {
            if phase >= Phase::Remove {
                config.keep_only(&way.resources, &way.to);
                continue;
            }
            config.add(&way.resources, &way.to, new.get(index));
            if phase >= Phase::Promote {
                config.promote(&way.resources, &way.to);
            }
        }
        if phase >= Phase::Remove {
            config.merge_groups();
        }
        (!config.groups.is_empty()).then_some(config)
    }

    /// The configuration to fall back to when an API server does not come up with a phase's own. It reads
    /// whatever may have been written meanwhile.
    #[must_use]
    pub fn fallback(&self, phase: Phase, base: &Config, new: &NewKeys) -> Option<Config> {
        match phase {
            Phase::Add => (!base.groups.is_empty()).then(|| base.clone()),
            Phase::Promote | Phase::Rewrite => {
                let mut config = self.target(Phase::Promote, base, new)?;
                for way in &self.moves {
                    config.add(&way.resources, &way.from, None);
                    config.promote(&way.resources, &way.from);
                }
                Some(config)
            }
            Phase::Remove | Phase::Record => (!base.groups.is_empty()).then(|| base.clone()),
        }
    }
}

/// Keys that were made for this walk and are on no control plane yet, one for each of its moves.
#[derive(Debug, Default)]
pub struct NewKeys(pub Vec<Option<Material>>);

impl NewKeys {
    fn get(&self, index: usize) -> Option<Material> {
        self.0.get(index).cloned().flatten()
    }
}

/// Why there is no way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
#[diagnostic(code(kprov::encryption::plan))]
pub enum PlanError {
    /// There is nothing to rotate, migrate or disable.
    #[error("nothing is encrypted in this cluster")]
    #[diagnostic(help("`kprov encryption enable` turns encryption on"))]
    NotEnabled,
    /// A KMS plugin encrypts.
    #[error("{} is encrypted by a KMS plugin, whose keys are its own affair", .0.join(", "))]
    Kms(Vec<String>),
    /// A KMS is asked for, and nobody says which.
    #[error("which KMS is to encrypt is not said")]
    #[diagnostic(help("name a profile that says so: `--kms PROFILE`, such as `--kms kms-local`"))]
    NoPlugin,
    /// The name is taken.
    #[error("there is a key called {0:?} already")]
    #[diagnostic(help("choose another name, or leave --key out"))]
    NameTaken(String),
    /// The name is none.
    #[error("{0:?} is no name for a key")]
    #[diagnostic(help("a key's name is stored with every value: small letters, digits, dots and dashes, 63 at most"))]
    BadName(String),
    /// Another provider encrypts already.
    #[error("{} is encrypted already, by {writer}", resources.join(", "))]
    #[diagnostic(help("`kprov encryption migrate --to {wanted}` changes the provider"))]
    OtherProvider {
        /// The resources.
        resources: Vec<String>,
        /// What writes them.
        writer: KeyId,
        /// What was asked for.
        wanted: ProviderKind,
    },
}

/// The name of a new key: the one that was given, or the next number, or one so much behind it.
fn new_name(config: &Config, given: Option<&str>, behind: u64) -> Result<String, PlanError> {
    let taken = config.key_names();
    match given {
        Some(name) if taken.iter().any(|known| known == name) => Err(PlanError::NameTaken(name.to_owned())),
        Some(name) => {
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            let fits = !name.is_empty() && name.len() <= 63 && name.chars().all(good);
            if fits { Ok(name.to_owned()) } else { Err(PlanError::BadName(name.to_owned())) }
        }
        None => {
            let number = |name: &String| name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().ok();
            Ok(format!("key{}", taken.iter().filter_map(number).max().unwrap_or(0) + 1 + behind))
        }
    }
}

/// The moves that a verb asks for; empty if all is as it is asked for already.
///
/// # Errors
/// [`PlanError`] if the verb makes no sense for what is there: nothing is encrypted, a KMS plugin has the keys, a key's name is
/// taken or none, a resource is encrypted already.
pub fn moves(
    verb: Verb,
    config: &Config,
    provider: Option<ProviderKind>,
    resources: &[String],
    key: Option<&str>,
    plugin: Option<&Kms>,
) -> Result<Vec<Move>, PlanError> {
    if verb == Verb::Enable {
        return enable(config, provider.unwrap_or(ProviderKind::Secretbox), resources, key, plugin);
    }
    if config.groups.is_empty() {
        return Err(PlanError::NotEnabled);
    }
    let mut names: Vec<(KeyId, String)> = Vec::new();
    let mut moves = Vec::new();
    for group in &config.groups {
        let Some(from) = group.writer() else { continue };
        let provider = match (verb, provider) {
            (Verb::Disable, _) => ProviderKind::Identity,
            (Verb::Migrate, Some(provider)) if provider != from.provider => provider,
            (Verb::Rotate, _) if from.provider == ProviderKind::Kms => {
                return Err(PlanError::Kms(group.resources.clone()));
            }
            (Verb::Rotate, _) if from.provider != ProviderKind::Identity => from.provider,
            _ => continue,
        };
        if provider == ProviderKind::Kms {
            let to = plugin.ok_or(PlanError::NoPlugin)?.id();
            moves.push(Move { resources: group.resources.clone(), from, to });
            continue;
        }
        let key = match names.iter().find(|(known, _)| *known == from) {
            _ if provider == ProviderKind::Identity => String::new(),
            Some((_, name)) => name.clone(),
            // Groups with keys of their own get new ones of their own.
            None => {
                let name = new_name(config, key, u64::try_from(names.len()).unwrap_or_default())?;
                names.push((from.clone(), name.clone()));
                name
            }
        };
        moves.push(Move { resources: group.resources.clone(), from, to: KeyId::local(provider, &key) });
    }
    Ok(moves)
}

fn enable(
    config: &Config,
    provider: ProviderKind,
    resources: &[String],
    key: Option<&str>,
    plugin: Option<&Kms>,
) -> Result<Vec<Move>, PlanError> {
    let mut new: Vec<String> = Vec::new();
    for resource in resources {
        // Whether by its name or by a wildcard.
        let deciding = config.deciding(&GroupResource::parse(resource));
        match deciding.first().map(|group| group.writer()) {
            // What nothing decides on, or a group that writes in the clear.
            None | Some(Some(KeyId { provider: ProviderKind::Identity, .. })) if !new.contains(resource) => {
                new.push(resource.clone());
            }
            None | Some(Some(KeyId { provider: ProviderKind::Identity, .. })) => {}
            Some(Some(writer)) if writer.provider == provider => {}
            Some(Some(writer)) => {
                return Err(PlanError::OtherProvider { resources: vec![resource.clone()], writer, wanted: provider });
            }
            Some(None) => {}
        }
    }
    if new.is_empty() {
        return Ok(Vec::new());
    }
    // Further resources share the key of those that are encrypted already.
    let writers = config.groups.iter().filter_map(super::config::Group::writer);
    let to = match writers.into_iter().find(|writer| writer.provider == provider) {
        Some(writer) if key.is_none() => writer,
        _ if provider == ProviderKind::Kms => plugin.ok_or(PlanError::NoPlugin)?.id(),
        _ => KeyId::local(provider, &new_name(config, key, 0)?),
    };
    // Wildcards have their own places in the configuration, so each is a group by itself.
    let (wildcards, exact): (Vec<String>, Vec<String>) =
        new.into_iter().partition(|rule| GroupResource::parse(rule).is_wildcard());
    let exact = (!exact.is_empty()).then_some(exact);
    let groups = exact.into_iter().chain(wildcards.into_iter().map(|rule| vec![rule]));
    Ok(groups.map(|resources| Move { resources, from: KeyId::identity(), to: to.clone() }).collect())
}

#[cfg(test)]
mod tests {
    use crate::documents::keys::KeyMaterial;

    use super::*;

    fn id(provider: ProviderKind, key: &str) -> KeyId {
        KeyId::local(provider, key)
    }

    fn secrets() -> Vec<String> {
        vec!["secrets".to_owned()]
    }

    fn encrypted() -> Config {
        let mut config = Config::default();
        let key = id(ProviderKind::Aescbc, "key1");
        config.add(&secrets(), &key, Some(Material::Key(KeyMaterial::generate().unwrap())));
        config.promote(&secrets(), &key);
        config
    }

    fn journal(verb: Verb, config: &Config, provider: Option<ProviderKind>, phase: Phase) -> Journal {
        let moves = moves(verb, config, provider, &secrets(), None, None).unwrap();
        Journal { id: "1".into(), began: 1, verb, undoing: false, phase, moves, kms: None, file: None, marker: None }
    }

    fn new_keys() -> NewKeys {
        NewKeys(vec![Some(Material::Key(KeyMaterial::generate().unwrap()))])
    }

    /// Every configuration of a walk can read what any configuration up to the next phase writes.
    #[test]
    fn whatever_is_written_can_be_read_one_phase_earlier_and_later() {
        for (verb, start, provider) in [
            (Verb::Enable, Config::default(), Some(ProviderKind::Secretbox)),
            (Verb::Rotate, encrypted(), None),
            (Verb::Migrate, encrypted(), Some(ProviderKind::Aesgcm)),
            (Verb::Disable, encrypted(), None),
        ] {
            let journal = journal(verb, &start, provider, Phase::Add);
            let new = new_keys();
            let to = &journal.moves[0].to;
            let from = &journal.moves[0].from;
            let add = journal.target(Phase::Add, &start, &new).unwrap();
            let promote = journal.target(Phase::Promote, &add, &NewKeys::default()).unwrap();
            for config in [&add, &promote, &journal.fallback(Phase::Promote, &promote, &NewKeys::default()).unwrap()] {
                assert!(config.groups[0].reads(to) && config.groups[0].reads(from), "{verb}");
            }
            assert_eq!(add.groups[0].writer().as_ref(), Some(from), "{verb}");
            assert_eq!(promote.groups[0].writer().as_ref(), Some(to), "{verb}");
            let remove = journal.target(Phase::Remove, &promote, &NewKeys::default());
            match verb {
                Verb::Disable => assert_eq!(remove, None),
                _ => {
                    assert!(!remove.unwrap().groups[0].keys().iter().any(|(key, _)| key == from && from.key == "key1"))
                }
            }
        }
    }

    #[test]
    fn a_phase_gives_the_same_from_its_own_result() {
        let start = encrypted();
        let journal = journal(Verb::Rotate, &start, None, Phase::Add);
        let new = new_keys();
        let add = journal.target(Phase::Add, &start, &new).unwrap();
        // A killed walk left the new key on one of two control planes.
        let base = journal.base(vec![Some(start.clone()), Some(add.clone())]);
        assert_eq!(journal.target(Phase::Add, &base, &new_keys()), Some(add.clone()), "the key on the node counts");
        let promote = journal.target(Phase::Promote, &add, &NewKeys::default()).unwrap();
        for base in [&add, &promote] {
            assert_eq!(journal.target(Phase::Promote, base, &NewKeys::default()).as_ref(), Some(&promote));
        }
        let remove = journal.target(Phase::Remove, &promote, &NewKeys::default()).unwrap();
        assert_eq!(journal.target(Phase::Remove, &remove, &NewKeys::default()), Some(remove));
    }

    #[test]
    fn turning_back_starts_where_it_must() {
        let start = encrypted();
        let at = |phase| journal(Verb::Rotate, &start, None, phase).turned_back();
        let back = at(Phase::Rewrite).unwrap();
        assert!(back.undoing);
        assert_eq!((back.phase, &back.moves[0].to), (Phase::Promote, &id(ProviderKind::Aescbc, "key1")));
        assert_eq!(at(Phase::Add).unwrap().phase, Phase::Remove);
        assert_eq!(at(Phase::Remove), None);
        assert_eq!(back.turned_back().unwrap().moves, journal(Verb::Rotate, &start, None, Phase::Add).moves);
    }

    #[test]
    fn undoing_before_anything_was_written_takes_the_key_away() {
        let start = encrypted();
        let forth = journal(Verb::Rotate, &start, None, Phase::Add);
        let add = forth.target(Phase::Add, &start, &new_keys()).unwrap();
        let back = forth.turned_back().unwrap();
        assert_eq!(back.target(Phase::Remove, &add, &NewKeys::default()), Some(start));
        let on = journal(Verb::Enable, &Config::default(), None, Phase::Add);
        let add = on.target(Phase::Add, &Config::default(), &new_keys()).unwrap();
        assert_eq!(on.turned_back().unwrap().target(Phase::Remove, &add, &NewKeys::default()), None);
    }

    #[test]
    fn the_furthest_journal_counts() {
        let start = encrypted();
        let one = journal(Verb::Rotate, &start, None, Phase::Promote);
        let two = Journal { phase: Phase::Rewrite, ..one.clone() };
        assert_eq!(Journal::furthest(vec![one.clone(), two.clone()]), Some(two.clone()));
        let back = two.turned_back().unwrap();
        assert_eq!(Journal::furthest(vec![back.clone(), two]), Some(back));
        assert_eq!(Journal::furthest(Vec::new()), None);
    }

    #[test]
    fn names_are_counted_up() {
        let config = encrypted();
        assert_eq!(new_name(&config, None, 0).unwrap(), "key2");
        assert_eq!(new_name(&Config::default(), None, 0).unwrap(), "key1");
        assert_eq!(new_name(&config, Some("key1"), 0), Err(PlanError::NameTaken("key1".to_owned())));
        assert_eq!(new_name(&config, Some("a:b"), 0), Err(PlanError::BadName("a:b".to_owned())));
    }

    #[test]
    fn what_is_so_already_needs_no_move() {
        let config = encrypted();
        let same = moves(Verb::Enable, &config, Some(ProviderKind::Aescbc), &secrets(), None, None);
        assert_eq!(same, Ok(Vec::new()));
        assert_eq!(moves(Verb::Migrate, &config, Some(ProviderKind::Aescbc), &[], None, None), Ok(Vec::new()));
        assert!(matches!(
            moves(Verb::Enable, &config, Some(ProviderKind::Secretbox), &secrets(), None, None),
            Err(PlanError::OtherProvider { .. })
        ));
        assert_eq!(moves(Verb::Disable, &Config::default(), None, &[], None, None), Err(PlanError::NotEnabled));
    }

    /// A configuration of these rules, each with a key of its own.
    fn config_of(rules: &[(&str, ProviderKind, &str)]) -> Config {
        let mut config = Config::default();
        for (rule, provider, key) in rules.iter().rev() {
            let (rule, key) = (vec![(*rule).to_owned()], id(*provider, key));
            config.add(&rule, &key, Some(Material::Key(KeyMaterial::generate().unwrap())));
            config.promote(&rule, &key);
            config.keep_only(&rule, &key);
        }
        config
    }

    #[test]
    fn what_a_wildcard_covers_is_encrypted_already() {
        use ProviderKind::{Aescbc, Secretbox};
        let config = config_of(&[("*.*", Secretbox, "key1")]);
        for resource in ["secrets", "*.apps", "*."] {
            let rules = [resource.to_owned()];
            assert_eq!(moves(Verb::Enable, &config, Some(Secretbox), &rules, None, None), Ok(Vec::new()), "{resource}");
            let other = moves(Verb::Enable, &config, Some(Aescbc), &rules, None, None);
            assert!(matches!(other, Err(PlanError::OtherProvider { .. })), "{resource}");
        }
    }

    /// A wildcard that writes in the clear and still reads an old key: the new group in front of it has to read it, too,
    /// on the way forth and on the way back.
    #[test]
    fn a_group_in_front_of_a_wildcard_keeps_its_old_readers() {
        let old = id(ProviderKind::Aescbc, "old");
        let mut start = config_of(&[("*.*", ProviderKind::Aescbc, "old")]);
        let everything = ["*.*".to_owned()];
        start.add(&everything, &KeyId::identity(), None);
        start.promote(&everything, &KeyId::identity());
        let moves = moves(Verb::Enable, &start, Some(ProviderKind::Secretbox), &secrets(), None, None).unwrap();
        let journal = Journal {
            id: "1".into(),
            began: 1,
            verb: Verb::Enable,
            undoing: false,
            phase: Phase::Add,
            moves,
            file: None,
            marker: None,
            kms: None,
        };
        let secrets = GroupResource::parse("secrets");
        let add = journal.target(Phase::Add, &start, &new_keys()).unwrap();
        let promote = journal.target(Phase::Promote, &add, &NewKeys::default()).unwrap();
        let back = journal.turned_back().unwrap();
        let turned = back.target(Phase::Promote, &promote, &NewKeys::default()).unwrap();
        for config in [&start, &add, &promote, &turned] {
            assert!(config.reads(&secrets, &old.stored()) && config.reads(&secrets, "plain text"));
        }
        assert_eq!(back.target(Phase::Remove, &turned, &NewKeys::default()), Some(start));
    }

    #[test]
    fn the_most_exact_rule_says_where_a_resource_goes() {
        use ProviderKind::{Aescbc, Secretbox};
        let config = config_of(&[("secrets", Aescbc, "key1"), ("*.*", Secretbox, "key2")]);
        let journal = journal(Verb::Migrate, &config, Some(Secretbox), Phase::Rewrite);
        let to = |name: &str| journal.destination(&config, &GroupResource::parse(name)).map(ToString::to_string);
        assert_eq!(to("secrets").as_deref(), Some("secretbox key3"));
        assert_eq!(to("configmaps"), None, "another group decides");
        let rotated = self::journal(Verb::Rotate, &config, None, Phase::Rewrite);
        let to = |name: &str| rotated.destination(&config, &GroupResource::parse(name)).map(ToString::to_string);
        assert_eq!(to("secrets").as_deref(), Some("aescbc key3"));
        assert_eq!(to("configmaps").as_deref(), Some("secretbox key4"), "a key of its own");
        // The way back of an `enable` ends without any group.
        let on = self::journal(Verb::Enable, &Config::default(), None, Phase::Rewrite).turned_back().unwrap();
        assert_eq!(on.destination(&Config::default(), &GroupResource::parse("secrets")), Some(&KeyId::identity()));
    }

    #[test]
    fn what_is_scrubbed_is_what_was_there_before() {
        let mut rotate = journal(Verb::Rotate, &encrypted(), None, Phase::Record);
        assert_eq!(rotate.texts_to_scrub(), ["k8s:enc:aescbc:v1:key1:"]);
        rotate.marker = Some("marker".to_owned());
        assert_eq!(rotate.texts_to_scrub(), ["k8s:enc:aescbc:v1:key1:", "marker"]);
        assert!(journal(Verb::Enable, &Config::default(), None, Phase::Record).texts_to_scrub().is_empty());
    }

    #[test]
    fn further_resources_share_the_key() {
        let mut config = encrypted();
        let more = vec!["secrets".to_owned(), "configmaps".to_owned()];
        let moves = moves(Verb::Enable, &config, Some(ProviderKind::Aescbc), &more, None, None).unwrap();
        assert_eq!(moves[0].resources, ["configmaps"]);
        assert_eq!(moves[0].to, id(ProviderKind::Aescbc, "key1"));
        let material = config.groups[0].material(&moves[0].to);
        let journal = Journal {
            id: "1".into(),
            began: 1,
            verb: Verb::Enable,
            undoing: false,
            phase: Phase::Add,
            moves,
            file: None,
            marker: None,
            kms: None,
        };
        for phase in [Phase::Promote, Phase::Remove] {
            config = journal.target(phase, &config, &NewKeys(vec![material.clone()])).unwrap();
        }
        assert_eq!(config.groups.len(), 1);
        assert_eq!(config.groups[0].resources, ["secrets", "configmaps"]);
        for phase in [Phase::Add, Phase::Promote, Phase::Remove] {
            assert_eq!(journal.target(phase, &config, &NewKeys::default()).as_ref(), Some(&config), "once more");
        }
    }
}
