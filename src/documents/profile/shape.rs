//! Checks a document's fields and types against the JSON Schema of [`Profile`](super::Profile), all of it at once.
//!
//! Owns messages about unknown, missing and mistyped fields, and the walk along a path that `--set` needs. It reads
//! only the part of JSON Schema that schemars writes for our types; what a schema cannot say is left to `semantic`.

use serde_json::Value as Json;

use super::error::{Finding, quoted, suggestion};
use super::tree::{Entry, Node, Path, Span, Step, Value};

/// Names from kind's configuration and from Kubernetes' own files, and what they are called here.
const ALIASES: &[(&str, &str)] = &[
    ("extraPortMappings", "ports"),
    ("extraMounts", "mounts"),
    ("replicas", "count"),
    ("name", "clusterName"),
    ("secret", "source: {literal: …}"),
    ("auditPolicy", "audit"),
];

/// How strict a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Required {
    /// All of it has to be there.
    Everything,
    /// A layer over another profile: what is missing in its mappings may come from below.
    OnlyIdentity,
}

/// The schema, ready to check with.
pub(super) struct Shape {
    root: Json,
}

/// What one value may be.
enum Expected<'s> {
    Anything,
    /// One of these words, or a mapping of exactly one of these keys.
    Choice(Vec<&'s str>, Vec<(&'s str, &'s Json)>),
    Object(&'s Json),
    Array(&'s Json),
    Text(&'s Json),
    Integer(&'s Json),
    Boolean,
}

impl Expected<'_> {
    fn describe(&self) -> String {
        match self {
            Self::Anything => "anything".to_owned(),
            Self::Choice(words, keys) => {
                let mut all: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                all.extend(keys.iter().map(|(key, _)| format!("`{key}: …`")));
                match all.pop() {
                    Some(last) if all.is_empty() => last,
                    Some(last) => format!("{} or {last}", all.join(", ")),
                    None => "nothing".to_owned(),
                }
            }
            Self::Object(_) => "a mapping".to_owned(),
            Self::Array(_) => "a list".to_owned(),
            Self::Text(_) => "a string".to_owned(),
            Self::Integer(_) => "a whole number".to_owned(),
            Self::Boolean => "`true` or `false`".to_owned(),
        }
    }
}

impl Shape {
    pub(super) fn new() -> Self {
        Self::of(super::schema::json_schema())
    }

    /// The shape of documents with this schema.
    pub(super) fn of(schema: Json) -> Self {
        Self { root: schema }
    }

    /// Adds everything to `findings` that is wrong with the fields and types of `node`, a whole profile.
    pub(super) fn check(&self, node: &Node, required: Required, findings: &mut Vec<Finding>) {
        let mut walk = Walk { shape: self, findings, required };
        walk.node(node, &self.root, &Path::default(), node.place(), true);
    }

    /// Whether a field is at `path`, whatever the profile's values are; if so, whether it takes text alone.
    ///
    /// # Errors
    /// The position in `path` of the first step that leads nowhere, why, and help.
    pub(super) fn follow(&self, path: &[Step]) -> Result<bool, (usize, String, Option<String>)> {
        let mut schema = &self.root;
        for (position, step) in path.iter().enumerate() {
            let here = Path(path[..position].to_vec());
            schema = match (self.expected(schema), step) {
                (Expected::Anything, _) => return Ok(false),
                (Expected::Object(object), Step::Key(key)) => match property(object, key) {
                    Some(below) => below,
                    None => {
                        let help = suggestion(key, properties(object));
                        return Err((position, format!("there is no field {} in `{here}`", quoted(key)), help));
                    }
                },
                (Expected::Choice(_, keys), Step::Key(key)) if !keys.is_empty() => {
                    match keys.iter().find(|(name, _)| name == key) {
                        Some((_, below)) => below,
                        None => {
                            let help = suggestion(key, keys.iter().map(|(name, _)| *name));
                            return Err((position, format!("there is no field {} in `{here}`", quoted(key)), help));
                        }
                    }
                }
                (Expected::Array(array), Step::Index(_)) => array.get("items").unwrap_or(&Json::Bool(true)),
                (Expected::Array(_), Step::Key(_)) => {
                    let help = format!("`{here}` is a list: write `{here}[0]` for its first entry");
                    return Err((position, format!("`{here}` has no fields"), Some(help)));
                }
                (expected, _) => {
                    return Err((position, format!("`{here}` is {}: nothing is below it", expected.describe()), None));
                }
            };
        }
        Ok(matches!(self.expected(schema), Expected::Text(_)))
    }

    /// What `schema` expects, references followed.
    fn expected<'s>(&'s self, schema: &'s Json) -> Expected<'s> {
        if let Some(name) = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix("#/$defs/")) {
            return self
                .root
                .get("$defs")
                .and_then(|defs| defs.get(name))
                .map_or(Expected::Anything, |s| self.expected(s));
        }
        if let Some(options) = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)).and_then(Json::as_array) {
            let not_null: Vec<_> = options.iter().filter(|option| option.get("type") != Some(&"null".into())).collect();
            if let [only] = not_null[..] {
                return self.expected(only);
            }
            let (mut words, mut keys) = (Vec::new(), Vec::new());
            for option in not_null {
                words.extend(option.get("const").and_then(Json::as_str));
                words
                    .extend(option.get("enum").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str));
                keys.extend(
                    option
                        .get("properties")
                        .and_then(Json::as_object)
                        .into_iter()
                        .flatten()
                        .map(|(k, v)| (k.as_str(), v)),
                );
            }
            return Expected::Choice(words, keys);
        }
        if let Some(word) = schema.get("const").and_then(Json::as_str) {
            return Expected::Choice(vec![word], Vec::new());
        }
        if let Some(words) = schema.get("enum").and_then(Json::as_array) {
            return Expected::Choice(words.iter().filter_map(Json::as_str).collect(), Vec::new());
        }
        let kind = match schema.get("type") {
            Some(Json::Array(kinds)) => kinds.iter().filter_map(Json::as_str).find(|kind| *kind != "null"),
            Some(kind) => kind.as_str(),
            None => None,
        };
        match kind {
            Some("object") => Expected::Object(schema),
            Some("array") => Expected::Array(schema),
            Some("string") => Expected::Text(schema),
            Some("integer") => Expected::Integer(schema),
            Some("boolean") => Expected::Boolean,
            _ => Expected::Anything,
        }
    }
}

/// An entry's key as messages quote it.
fn name_of(entry: &Entry) -> String {
    if entry.secret { "`…`".to_owned() } else { quoted(&entry.key) }
}

fn properties(object: &Json) -> impl Iterator<Item = &str> + Clone {
    object.get("properties").and_then(Json::as_object).into_iter().flat_map(|all| all.keys()).map(String::as_str)
}

/// The schema of the field `key`, be it named or one of a free mapping.
fn property<'s>(object: &'s Json, key: &str) -> Option<&'s Json> {
    object
        .get("properties")
        .and_then(|all| all.get(key))
        .or_else(|| object.get("additionalProperties").filter(|schema| **schema != Json::Bool(false)))
}

struct Walk<'s, 'f> {
    shape: &'s Shape,
    findings: &'f mut Vec<Finding>,
    required: Required,
}

impl<'s> Walk<'s, '_> {
    /// `place` is where to point if `node` itself is not to be shown; `mergeable` whether a layer below may add to it.
    fn node(&mut self, node: &Node, schema: &'s Json, path: &Path, place: Span, mergeable: bool) {
        let expected = self.shape.expected(schema);
        match (&expected, &node.value) {
            (Expected::Anything, _) => {}
            (Expected::Object(object), Value::Map(entries)) => self.object(entries, object, path, place, mergeable),
            (Expected::Array(array), Value::List(items)) => {
                let least = array.get("minItems").and_then(Json::as_u64).unwrap_or(0);
                if (items.len() as u64) < least {
                    self.findings.push(
                        Finding::error("profile::value", format!("`{path}` is empty"), place)
                            .label("needs at least one entry"),
                    );
                }
                let items_schema = array.get("items").unwrap_or(&Json::Bool(true));
                for (index, item) in items.iter().enumerate() {
                    self.node(item, items_schema, &path.then(index), item.place(), false);
                }
            }
            (Expected::Choice(words, keys), Value::String(word)) => {
                if !words.contains(&word.as_str()) {
                    self.wrong_word(node, path, word, words, keys);
                }
            }
            (Expected::Choice(_, keys), Value::Map(entries)) if !keys.is_empty() => {
                self.one_of(entries, keys, path, place);
            }
            (Expected::Text(text), Value::String(value)) => {
                if text.get("format").is_some_and(|format| format == "ip") && value.parse::<std::net::IpAddr>().is_err()
                {
                    self.findings.push(
                        Finding::error("profile::value", format!("`{path}` is no IP address"), node.span)
                            .label("expected one like 127.0.0.1 or ::1"),
                    );
                }
            }
            (Expected::Integer(limits), Value::Number(number)) => self.integer(node, number, limits, path),
            (Expected::Boolean, Value::Bool(_)) => {}
            _ => self.mistyped(node, &expected, path, place),
        }
    }

    fn object(&mut self, entries: &[Entry], object: &'s Json, path: &Path, place: Span, mergeable: bool) {
        let required: Vec<&str> =
            object.get("required").and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect();
        for entry in entries {
            let Some(schema) = property(object, &entry.key) else {
                self.unknown(entry, object, path);
                continue;
            };
            if matches!(entry.node.value, Value::Null) {
                // A null is the same as a missing key, and in a layer it removes the base's; free values may be null.
                let is_missing = mergeable && self.required == Required::OnlyIdentity && !path.0.is_empty();
                if is_missing || !required.contains(&entry.key.as_str()) {
                    continue;
                }
            }
            let below = path.then(&entry.key);
            let place = match entry.node.value {
                Value::Map(_) | Value::List(_) | Value::Null => entry.key_span,
                _ => entry.node.span,
            };
            self.node(&entry.node, schema, &below, place, mergeable);
        }
        for field in required {
            let relaxed = mergeable
                && self.required == Required::OnlyIdentity
                && !(path.0.is_empty() && matches!(field, "apiVersion" | "kind"));
            if relaxed || entries.iter().any(|entry| entry.key == *field) {
                continue;
            }
            let (what, help) = if path.0.is_empty() {
                let value = match field {
                    "apiVersion" => super::API_VERSION,
                    "kind" => "Profile",
                    _ => "{name: …}",
                };
                ("the profile".to_owned(), format!("add `{field}: {value}`"))
            } else {
                let expected = property(object, field).map(|schema| self.shape.expected(schema).describe());
                (format!("`{path}`"), format!("add `{field}`: {}", expected.unwrap_or_default()))
            };
            self.findings.push(
                Finding::error("profile::missing_field", format!("{what} has no `{field}`"), place)
                    .label(format!("`{field}` is missing"))
                    .help(help),
            );
        }
    }

    fn unknown(&mut self, entry: &Entry, object: &Json, path: &Path) {
        let key = entry.key.as_str();
        let alias = ALIASES.iter().find(|(theirs, ours)| {
            *theirs == key && property(object, ours.split(['.', ':']).next().unwrap_or(ours)).is_some()
        });
        let in_spec = path.0.is_empty().then(|| self.shape.follow(&["spec".into(), key.into()]).is_ok());
        let help = match alias {
            Some((_, ours)) => Some(format!("here it is `{ours}`")),
            None if in_spec == Some(true) => Some(format!("it belongs under `spec`: `spec.{key}`")),
            None => suggestion(key, properties(object)),
        };
        let name = name_of(entry);
        let message = if path.0.is_empty() {
            format!("unknown field {name}")
        } else {
            format!("unknown field {name} in `{path}`")
        };
        let mut finding = Finding::error("profile::unknown_field", message, entry.key_span).label("no such field");
        if let Some(help) = help {
            finding = finding.help(help);
        }
        self.findings.push(finding);
    }

    fn one_of(&mut self, entries: &[Entry], keys: &[(&'s str, &'s Json)], path: &Path, place: Span) {
        for entry in entries {
            match keys.iter().find(|(name, _)| *name == entry.key) {
                Some((_, schema)) => self.node(&entry.node, schema, &path.then(&entry.key), entry.node.place(), false),
                None => {
                    let message = format!("unknown field {} in `{path}`", name_of(entry));
                    let mut finding =
                        Finding::error("profile::unknown_field", message, entry.key_span).label("no such field");
                    if let Some(help) = suggestion(&entry.key, keys.iter().map(|(name, _)| *name)) {
                        finding = finding.help(help);
                    }
                    self.findings.push(finding);
                }
            }
        }
        if entries.len() != 1 {
            let names: Vec<_> = keys.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message = format!("`{path}` takes exactly one of {}", names.join(", "));
            self.findings
                .push(Finding::error("profile::value", message, place).label(format!("has {}", entries.len())));
        }
    }

    fn wrong_word(&mut self, node: &Node, path: &Path, word: &str, words: &[&str], keys: &[(&str, &Json)]) {
        let expected = Expected::Choice(words.to_vec(), keys.iter().map(|(key, _)| (*key, &Json::Null)).collect());
        let message = if node.secret {
            format!("`{path}` has a value that is not allowed")
        } else {
            format!("`{path}` cannot be {}", quoted(word))
        };
        let mut finding =
            Finding::error("profile::value", message, node.span).label(format!("expected {}", expected.describe()));
        let near = super::error::near(word, words.iter().copied().chain(keys.iter().map(|(key, _)| *key)));
        if node.secret {
            finding = finding.help("a key in the profile itself is `source: {literal: …}`");
        } else if let Some(key) = near.first().filter(|near| keys.iter().any(|(key, _)| key == *near)) {
            finding = finding.help(format!("write `{key}: …` below it"));
        } else if let Some(near) = near.first() {
            finding = finding.help(format!("did you mean `{near}`?"));
        }
        self.findings.push(finding);
    }

    fn integer(&mut self, node: &Node, number: &serde_json::Number, limits: &Json, path: &Path) {
        let least = limits.get("minimum").and_then(Json::as_i64).unwrap_or(i64::MIN);
        let most = limits.get("maximum").and_then(Json::as_i64).unwrap_or(i64::from(u32::MAX));
        if !number.is_i64() && !number.is_u64() {
            self.mistyped(node, &Expected::Integer(limits), path, node.span);
        } else if number.as_i64().is_none_or(|value| value < least || value > most) {
            self.findings.push(
                Finding::error("profile::value", format!("`{path}` cannot be {number}"), node.span)
                    .label(format!("expected {least} to {most}")),
            );
        }
    }

    fn mistyped(&mut self, node: &Node, expected: &Expected<'_>, path: &Path, place: Span) {
        let what = if path.0.is_empty() { "the profile".to_owned() } else { format!("`{path}`") };
        let got = match &node.value {
            Value::Bool(flag) if !node.secret => format!("the boolean `{flag}`"),
            Value::Number(number) if !node.secret => format!("the number `{number}`"),
            Value::String(text) if !node.secret && text.len() <= 40 && !text.contains('\n') => {
                format!("the string {}", quoted(text))
            }
            value => value.kind().to_owned(),
        };
        let help = match (expected, &node.value) {
            _ if node.secret => None,
            (Expected::Text(_), Value::Bool(flag)) => Some(format!("quote it: \"{flag}\"")),
            (Expected::Text(_), Value::Number(number)) => Some(format!("quote it: \"{number}\"")),
            (Expected::Boolean, Value::String(text)) => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" | "true" => Some("write `true`, without quotes".to_owned()),
                "no" | "off" | "n" | "false" => Some("write `false`, without quotes".to_owned()),
                _ => None,
            },
            (Expected::Integer(_), Value::String(text)) if text.parse::<i64>().is_ok() => {
                Some("write the number without quotes or leading zeros".to_owned())
            }
            (Expected::Array(_), Value::String(_) | Value::Map(_)) => {
                Some("a list's entries each begin with `- `".to_owned())
            }
            _ => None,
        };
        let mut finding = Finding::error("profile::type", format!("{what} is {got}"), place)
            .label(format!("expected {}", expected.describe()));
        if let Some(help) = help {
            finding = finding.help(help);
        }
        self.findings.push(finding);
    }
}
