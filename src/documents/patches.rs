//! Patches of Kubernetes' and containerd's configurations, with kind's meaning of them.
//!
//! Owns what a merge patch and a JSON 6902 patch do to a document, and which documents each of them is for. Where patches
//! are written down is the profile's, and what is patched `render`'s and the node's.

use serde_json::{Map, Value, json};

use super::bounds::check_stream;
use super::yaml;

/// What is wrong with a patch, or with applying it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// It is no YAML.
    #[error("it is no YAML: {0}")]
    Yaml(String),
    /// It is YAML, but patches nothing.
    #[error("it is no mapping")]
    NoMapping,
    /// It is no list of JSON 6902 operations.
    #[error("it is no list of JSON 6902 operations: {0}")]
    Operations(String),
    /// An operation fails on the document.
    #[error("it cannot be applied: {0}")]
    Apply(String),
    /// It is no TOML.
    #[error("it is no TOML: {0}")]
    Toml(String),
    /// A value that TOML cannot hold, such as null.
    #[error("TOML cannot hold what it makes of the configuration: {0}")]
    NotToml(String),
    /// containerd takes either mirrors in its own configuration, or folders with what it is told of registries.
    #[error(
        "it has `{0}` of registries, which containerd does not take beside a folder for each registry, as `registry` in the profile makes them"
    )]
    Mirrors(&'static str),
    /// The configuration to be patched does not say of which version it is.
    #[error("containerd's configuration does not say of which version it is")]
    NoVersion,
}

/// Which documents a patch is for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Target {
    /// The kind, such as `ClusterConfiguration`.
    pub kind: String,
    /// The group and version; empty fits every one.
    pub api_version: String,
}

impl Target {
    fn of(document: &Value) -> Self {
        let text = |field: &str| document.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self { kind: text("kind"), api_version: text("apiVersion") }
    }

    /// Whether a patch for this target is applied to a document of `kind` and `api_version`.
    #[must_use]
    pub fn fits(&self, kind: &str, api_version: &str) -> bool {
        self.kind == kind && (self.api_version.is_empty() || self.api_version == api_version)
    }
}

/// Something that changes documents.
#[derive(Debug, Clone)]
pub struct Patch {
    /// Which documents.
    pub target: Target,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    /// RFC 7386, but for arguments and names in certificates, which are joined.
    Merge(Value),
    /// RFC 6902.
    Operations(json_patch::Patch),
}

/// The merge patches in `text`, which may hold several documents.
///
/// # Errors
/// [`PatchError::Yaml`] or [`PatchError::NoMapping`] for the first document that is wrong.
pub fn merge_patches(text: &str) -> Result<Vec<Patch>, PatchError> {
    documents(text)?
        .into_iter()
        .map(|document| {
            if !document.is_object() {
                return Err(PatchError::NoMapping);
            }
            Ok(Patch { target: Target::of(&document), change: Change::Merge(document) })
        })
        .collect()
}

/// A JSON 6902 patch, which may be written as YAML, for documents of `target`.
///
/// # Errors
/// [`PatchError::Yaml`] or [`PatchError::Operations`].
pub fn json_6902(target: Target, text: &str) -> Result<Patch, PatchError> {
    Ok(Patch { target, change: Change::Operations(operations(text)?) })
}

fn operations(text: &str) -> Result<json_patch::Patch, PatchError> {
    let document = parse(text)?;
    serde_json::from_value(document).map_err(|error| PatchError::Operations(error.to_string()))
}

/// A group and a version as they are written in `apiVersion`.
#[must_use]
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The documents of a stream, as kind splits it: at each line that begins with three dashes. Empty ones are left out.
///
/// # Errors
/// [`PatchError::Yaml`] for the first one that cannot be read.
pub fn documents(stream: &str) -> Result<Vec<Value>, PatchError> {
    let mut parts = stream.split("\n---");
    let first = parts.next().unwrap_or_default();
    // What else is on the line of the dashes is not read.
    let others = parts.map(|part| part.split_once('\n').map_or("", |(_, rest)| rest));
    let read = std::iter::once(first).chain(others).map(parse);
    Ok(read.collect::<Result<Vec<_>, _>>()?.into_iter().filter(|document| !document.is_null()).collect())
}

fn parse(text: &str) -> Result<Value, PatchError> {
    let wrong = |error: serde_yaml::Error| PatchError::Yaml(error.to_string());
    check_stream(text).map_err(PatchError::Yaml)?;
    let mut value: serde_yaml::Value = serde_yaml::from_str(text).map_err(wrong)?;
    value.apply_merge().map_err(wrong)?;
    to_json(value)
}

fn to_json(value: serde_yaml::Value) -> Result<Value, PatchError> {
    use serde_yaml::Value as Yaml;
    Ok(match value {
        Yaml::Mapping(fields) => {
            let mut map = Map::new();
            for (key, value) in fields {
                let key = match key {
                    Yaml::String(key) => key,
                    Yaml::Bool(key) => key.to_string(),
                    Yaml::Number(key) => key.to_string(),
                    _ => return Err(PatchError::Yaml("a key has to be a plain word".to_owned())),
                };
                map.insert(key, to_json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Sequence(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Yaml::Tagged(tagged) => to_json(tagged.value)?,
        scalar => serde_json::to_value(scalar).map_err(|error| PatchError::Yaml(error.to_string()))?,
    })
}

/// Applies to each document the patches that are for it, in their order, merge patches first.
///
/// # Errors
/// [`PatchError::Apply`] if an operation fails on a document that it is for.
pub fn apply(documents: &mut [Value], patches: &[Patch]) -> Result<(), PatchError> {
    for document in documents {
        let own = Target::of(document);
        let fitting = || patches.iter().filter(|patch| patch.target.fits(&own.kind, &own.api_version));
        for patch in fitting() {
            if let Change::Merge(change) = &patch.change {
                let mut change = change.clone();
                join(document, &mut change, own.api_version.ends_with("v1beta4"), patch.target.api_version.is_empty());
                json_patch::merge(document, &change);
            }
        }
        for patch in fitting() {
            if let Change::Operations(operations) = &patch.change {
                json_patch::patch(document, operations).map_err(|error| PatchError::Apply(error.to_string()))?;
            }
        }
    }
    Ok(())
}

/// Takes arguments and names in certificates out of `change` and joins them with those that there are: lists, which a merge
/// patch would replace. Arguments are mappings before v1beta4, and merged as such.
fn join(document: &mut Value, change: &mut Value, as_lists: bool, from_mappings: bool) {
    let (Value::Object(document), Value::Object(change)) = (document, change) else { return };
    let keys: Vec<String> = change.keys().cloned().collect();
    for key in keys {
        match key.as_str() {
            "extraArgs" | "kubeletExtraArgs" => {
                if as_lists && let Some(arguments) = change.remove(&key) {
                    let ours = document.entry(key).or_insert_with(|| json!([]));
                    join_arguments(ours, arguments, from_mappings);
                }
            }
            "certSANs" => {
                let names = change.remove(&key);
                let ours = document.entry(key).or_insert_with(|| json!([]));
                if let (Value::Array(ours), Some(Value::Array(names))) = (ours, names) {
                    for name in names {
                        if !ours.contains(&name) {
                            ours.push(name);
                        }
                    }
                }
            }
            _ => {
                if let Some(below @ Value::Object(_)) = change.get_mut(&key) {
                    join(document.entry(key).or_insert_with(|| json!({})), below, as_lists, from_mappings);
                }
            }
        }
    }
}

fn join_arguments(ours: &mut Value, arguments: Value, from_mappings: bool) {
    let listed: Vec<(String, Value)> = match arguments {
        Value::Array(items) => items
            .into_iter()
            .filter_map(|item| {
                let name = item.get("name")?.as_str()?.to_owned();
                Some((name, item.get("value").cloned().unwrap_or_default()))
            })
            .collect(),
        Value::Object(map) if from_mappings => map.into_iter().collect(),
        _ => return,
    };
    let Value::Array(ours) = ours else { return };
    for (name, value) in listed {
        let found = ours.iter().position(|one| one.get("name").and_then(Value::as_str) == Some(&name));
        match (found, value.is_null()) {
            (Some(at), true) => {
                ours.remove(at);
            }
            (Some(at), false) => ours[at]["value"] = value,
            (None, false) => ours.push(json!({"name": name, "value": value})),
            (None, true) => {}
        }
    }
}

/// Documents as one stream.
#[must_use]
pub fn stream(documents: &[Value]) -> String {
    documents.iter().map(yaml::document).collect::<Vec<_>>().join("---\n")
}

/// containerd's configuration, patched: by those merge patches that name no version or the configuration's own, then by the
/// JSON 6902 ones.
///
/// # Errors
/// [`PatchError`] of the first patch that is wrong or does not fit.
pub fn containerd(config: &str, merges: &[String], operations_6902: &[String]) -> Result<String, PatchError> {
    let mut config = toml_document(config)?;
    let version = config.get("version").cloned().ok_or(PatchError::NoVersion)?;
    for patch in merges {
        let patch = toml_document(patch)?;
        if patch.get("version").is_none_or(|of| *of == version) {
            json_patch::merge(&mut config, &patch);
        }
    }
    for patch in operations_6902 {
        json_patch::patch(&mut config, &operations(patch)?).map_err(|error| PatchError::Apply(error.to_string()))?;
    }
    toml::to_string(&config).map_err(|error| PatchError::NotToml(error.to_string()))
}

/// containerd's configuration, told of a folder with what it has to know of registries, before those that it looks into already.
///
/// # Errors
/// [`PatchError`] if it is none, or tells of registries in the old way.
pub fn containerd_registries(config: &str, folder: &str) -> Result<String, PatchError> {
    const PATH: &str = "config_path";
    let mut config = toml_document(config)?;
    let plugin = match config.get("version").and_then(Value::as_i64) {
        None => return Err(PatchError::NoVersion),
        Some(..=2) => "io.containerd.grpc.v1.cri",
        Some(_) => "io.containerd.cri.v1.images",
    };
    let registry = config.pointer(&format!("/plugins/{plugin}/registry")).cloned().unwrap_or_default();
    for old in ["mirrors", "configs"] {
        if registry.get(old).and_then(Value::as_object).is_some_and(|table| !table.is_empty()) {
            return Err(PatchError::Mirrors(old));
        }
    }
    let there = registry.get(PATH).and_then(Value::as_str).unwrap_or_default();
    let others = there.split(':').filter(|other| !other.is_empty() && *other != folder);
    let path = std::iter::once(folder).chain(others).collect::<Vec<_>>().join(":");
    json_patch::merge(&mut config, &json!({"plugins": {plugin: {"registry": {PATH: path}}}}));
    toml::to_string(&config).map_err(|error| PatchError::NotToml(error.to_string()))
}

/// Whether `text` is a merge patch for containerd.
///
/// # Errors
/// [`PatchError::Toml`] if it is not.
pub fn check_containerd(text: &str) -> Result<(), PatchError> {
    toml_document(text).map(|_| ())
}

/// Whether `text` is a JSON 6902 patch.
///
/// # Errors
/// [`PatchError::Yaml`] or [`PatchError::Operations`] if it is not.
pub fn check_6902(text: &str) -> Result<(), PatchError> {
    operations(text).map(|_| ())
}

fn toml_document(text: &str) -> Result<Value, PatchError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| PatchError::Toml(error.to_string()))?;
    serde_json::to_value(table).map_err(|error| PatchError::Toml(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(document: Value, patch: &str) -> Value {
        let mut all = [document];
        apply(&mut all, &merge_patches(patch).unwrap()).unwrap();
        let [document] = all;
        document
    }

    #[test]
    fn a_patch_is_for_its_kind_and_for_its_version_if_it_names_one() {
        let document = json!({"kind": "A", "apiVersion": "g/v2", "x": 1});
        for (patch, x) in [
            ("kind: A\nx: 2", 2),
            ("kind: A\napiVersion: g/v2\nx: 2", 2),
            ("kind: A\napiVersion: g/v1\nx: 2", 1),
            ("kind: B\nx: 2", 1),
            ("x: 2", 1),
            ("kind: B\nx: 2\n---\nkind: A\nx: 3", 3),
            ("---\nkind: A\nx: 4\n--- # next\n", 4),
        ] {
            assert_eq!(patched(document.clone(), patch)["x"], x, "{patch}");
        }
    }

    #[test]
    fn lists_are_replaced_null_removes_and_names_in_certificates_are_joined() {
        let document = json!({"kind": "A", "l": [1, 2], "m": {"a": 1, "b": 2}, "s": {"certSANs": ["x"]}});
        let patch = "kind: A\nl: [3]\nm: {a: null}\ns: {certSANs: [x, y]}\n";
        let want = json!({"kind": "A", "l": [3], "m": {"b": 2}, "s": {"certSANs": ["x", "y"]}});
        assert_eq!(patched(document, patch), want);
    }

    #[test]
    fn arguments_are_joined_where_they_are_lists() {
        let arguments = json!([{"name": "a", "value": "1"}, {"name": "b", "value": "2"}]);
        let document =
            |version: &str| json!({"kind": "C", "apiVersion": version, "apiServer": {"extraArgs": arguments}});
        for patch in [
            "kind: C\napiServer: {extraArgs: {a: '9', b: null, c: '3'}}",
            "kind: C\napiVersion: k/v1beta4\napiServer: {extraArgs: [{name: a, value: '9'}, {name: b}, {name: c, value: '3'}]}",
        ] {
            let got = patched(document("k/v1beta4"), patch);
            let want = json!([{"name": "a", "value": "9"}, {"name": "c", "value": "3"}]);
            assert_eq!(got["apiServer"]["extraArgs"], want, "{patch}");
        }
        let old = json!({"kind": "C", "apiVersion": "k/v1beta3", "apiServer": {"extraArgs": {"a": "1"}}});
        let got = patched(old, "kind: C\napiServer: {extraArgs: {b: '2'}}\netcd: {local: {extraArgs: {c: '3'}}}");
        assert_eq!(got["apiServer"]["extraArgs"], json!({"a": "1", "b": "2"}));
        assert_eq!(got["etcd"]["local"]["extraArgs"], json!({"c": "3"}));
    }

    #[test]
    fn operations_come_last_and_fail_loudly() {
        let target = || Target { kind: "A".to_owned(), api_version: String::new() };
        let mut all = [json!({"kind": "A", "l": [1]})];
        let patches = [
            json_6902(target(), "- {op: add, path: /l/-, value: 2}").unwrap(),
            merge_patches("kind: A\nl: [7]").unwrap().remove(0),
        ];
        apply(&mut all, &patches).unwrap();
        assert_eq!(all[0]["l"], json!([7, 2]));
        let bad = json_6902(target(), r#"[{"op": "remove", "path": "/nothing"}]"#).unwrap();
        assert!(matches!(apply(&mut all, &[bad]), Err(PatchError::Apply(_))));
        assert!(matches!(json_6902(target(), "op: add"), Err(PatchError::Operations(_))));
        assert!(matches!(merge_patches("just words"), Err(PatchError::NoMapping)));
        assert!(matches!(merge_patches("a: [b"), Err(PatchError::Yaml(_))));
    }

    #[test]
    fn containerd_is_told_of_a_folder_for_registries_beside_those_that_it_has() {
        let told = |config: &str| -> toml::Table { containerd_registries(config, "/f").unwrap().parse().unwrap() };
        let at = |version: i64, plugin: &str, path: &str| -> toml::Table {
            format!("version = {version}\n[plugins.\"{plugin}\".registry]\nconfig_path = \"{path}\"\n").parse().unwrap()
        };
        let (old, new) = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images");
        assert_eq!(told("version = 2\n"), at(2, old, "/f"));
        assert_eq!(told("version = 3\n"), at(3, new, "/f"));
        assert_eq!(told(&at(2, old, "/a:/b").to_string()), at(2, old, "/f:/a:/b"));
        assert_eq!(told(&at(2, old, "/f:/a").to_string()), at(2, old, "/f:/a"), "again");
        let mirrors = format!("version = 2\n[plugins.\"{old}\".registry.mirrors.\"docker.io\"]\nendpoint = []\n");
        assert_eq!(containerd_registries(&mirrors, "/f"), Err(PatchError::Mirrors("mirrors")));
        assert_eq!(containerd_registries("a = 1\n", "/f"), Err(PatchError::NoVersion));
    }

    #[test]
    fn containerd_is_patched_by_what_fits_its_version() {
        let config = "version = 2\na = 1\n[plugins.x]\nb = 2\nc = 3\n";
        let merges =
            ["[plugins.x]\nb = 4\n", "version = 3\na = 9\n", "version = 2\n[plugins.y]\nd = 5\n"].map(str::to_owned);
        let operations = [r#"[{"op": "remove", "path": "/plugins/x/c"}]"#.to_owned()];
        let got: toml::Table = containerd(config, &merges, &operations).unwrap().parse().unwrap();
        assert_eq!(got, "version = 2\na = 1\n[plugins.x]\nb = 4\n[plugins.y]\nd = 5\n".parse().unwrap());
        assert_eq!(containerd("a = 1\n", &[], &[]), Err(PatchError::NoVersion));
        assert!(matches!(containerd(config, &["a =".to_owned()], &[]), Err(PatchError::Toml(_))));
    }
}
