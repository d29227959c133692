//! Which parts of a tree may be key material, to be hidden in whatever is quoted of it.

use super::tree::{Entry, Node, Value};

/// Marks whatever may be key material: all that stands under a list of providers and is not known to be harmless.
pub(super) fn mark_keys(node: &mut Node) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(mark_keys),
        Value::Map(entries) => {
            for entry in entries {
                match entry.key.as_str() {
                    "providers" => mark_within(&mut entry.node, &["type", "keys", "kms"]),
                    "keys" => mark_within(&mut entry.node, &["name", "source"]),
                    "literal" | "secret" => entry.node.mark_secret(),
                    // What stands there by mistake.
                    "upstream" | "endpoint" | "http" | "https" if has(&entry.node, '@') => entry.node.mark_secret(),
                    "credentials" if has(&entry.node, ':') => entry.node.mark_secret(),
                    _ => mark_keys(&mut entry.node),
                }
            }
        }
        _ => {}
    }
}

fn has(node: &Node, sign: char) -> bool {
    node.text().is_some_and(|text| text.contains(sign))
}

/// Marks all in a list of mappings but the fields in `harmless`, and what is in those if it is of an unexpected form.
fn mark_within(list: &mut Node, harmless: &[&str]) {
    let Value::List(items) = &mut list.value else { return list.mark_secret() };
    for item in items {
        let Value::Map(entries) = &mut item.value else {
            item.mark_secret();
            continue;
        };
        for entry in entries {
            match entry.key.as_str() {
                key if !harmless.contains(&key) => entry.mark_secret(),
                "keys" => mark_within(&mut entry.node, &["name", "source"]),
                "source" => mark_source(&mut entry.node),
                "kms" => mark_kms(&mut entry.node),
                _ => {}
            }
        }
    }
}

/// Marks what a KMS plugin logs in by, wherever it stands: all but how it is got.
fn mark_kms(node: &mut Node) {
    let Value::Map(entries) = &mut node.value else { return };
    for entry in entries {
        match (entry.key.as_str(), &entry.node.value) {
            ("roleId" | "secretId" | "token", _) => mark_source(&mut entry.node),
            // The name of a transit key is none.
            ("key", Value::String(_)) if entry.node.text().is_some_and(|text| text.len() < 40) => {}
            ("key", _) => mark_source(&mut entry.node),
            // Where none belongs, a password may stand.
            ("address", _) if entry.node.text().is_some_and(|text| text.contains('@')) => entry.node.mark_secret(),
            ("local" | "vault" | "auth" | "appRole" | "certificate", _) => mark_kms(&mut entry.node),
            _ => {}
        }
    }
}

fn mark_source(source: &mut Node) {
    match &mut source.value {
        Value::Map(entries) => {
            let harmless = |entry: &&mut Entry| matches!(entry.key.as_str(), "env" | "file");
            entries.iter_mut().filter(|entry| !harmless(entry)).for_each(Entry::mark_secret);
        }
        Value::String(word) if matches!(word.as_str(), "generate" | "env" | "file" | "literal") => {}
        _ => source.mark_secret(),
    }
}
