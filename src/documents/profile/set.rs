//! `--set path=value`: single values laid over a profile.
//!
//! Owns reading such an argument and putting its value into the merged document. Whether the value is a fit one is
//! checked afterwards, with all others.

use super::error::Finding;
use super::shape::Shape;
use super::tree::{Entry, Node, Path, Span, Step, Value};
use super::{read, secret};

/// One `--set`, read.
pub(super) struct Set {
    path: Path,
    steps: Vec<Span>,
    /// What is to be there; null removes.
    pub(super) value: Node,
}

impl Set {
    /// Reads `argument`, which is source number `source`.
    pub(super) fn parse(argument: &str, source: usize, shape: &Shape, findings: &mut Vec<Finding>) -> Option<Self> {
        let at = |start: usize, end: usize| Span { source, start, end };
        let (mut words, equals) = match split(argument) {
            Ok(split) => split,
            Err((position, message)) => {
                let finding = Finding::error(
                    "profile::set",
                    message,
                    at(position.min(argument.len().saturating_sub(1)), argument.len()),
                )
                .help("write it as `nodes[1].count=3`; quote a key with dots: `kubelet.config.\"a.b\"=1`");
                findings.push(finding);
                return None;
            }
        };
        if words.first().is_none_or(|(step, ..)| *step != Step::from("spec")) {
            words.insert(0, ("spec".into(), 0, 0));
        }
        let mut path = Path::default();
        for (step, start, end) in &words {
            // `nodes.1` and `labels.1` look alike; the schema tells them apart.
            let index = match step {
                Step::Key(key) => key.parse().ok().map(|index: usize| path.then(index)),
                Step::Index(_) => None,
            };
            path = match index {
                Some(index) if shape.follow(&index.0).is_ok() => index,
                _ => path.then(step.clone()),
            };
            if let Err((_, message, help)) = shape.follow(&path.0) {
                let mut finding = Finding::error("profile::set", message, at(*start, *end)).label("leads nowhere");
                if let Some(help) = help {
                    finding = finding.help(help);
                }
                findings.push(finding);
                return None;
            }
        }
        if path.0.len() == 1 {
            let finding = Finding::error("profile::set", "`spec` as a whole cannot be set", at(0, equals));
            findings.push(finding.help("name one of its fields"));
            return None;
        }
        let text = &argument[equals + 1..];
        let span = at(equals + 1, argument.len());
        let is_text = shape.follow(&path.0).unwrap_or(false);
        let mut value = if text.trim().is_empty() {
            Node { value: Value::String(String::new()), span, secret: false }
        } else {
            read::parse(text, source, equals + 1, findings)?
        };
        // Nobody wants to quote twice, for the shell and for YAML, to say that a flag is "false".
        if is_text && matches!(value.value, Value::Bool(_) | Value::Number(_)) {
            value.value = Value::String(text.trim().to_owned());
        }
        secret::mark_keys(&mut value);
        let last = path.0.last();
        let keys_may_be_here = path.0.contains(&"providers".into());
        if keys_may_be_here && !["type", "name", "env", "file"].iter().any(|name| last == Some(&Step::from(*name))) {
            value.mark_secret();
        }
        Some(Self { path, steps: words.iter().map(|(_, start, end)| at(*start, *end)).collect(), value })
    }

    /// Puts the value into `root`.
    pub(super) fn apply(self, root: &mut Node, findings: &mut Vec<Finding>) {
        let Self { path, steps, value } = self;
        let mut node = root;
        let count = path.0.len();
        for (position, (step, span)) in path.0.iter().zip(&steps).enumerate() {
            let is_last = position + 1 == count;
            match step {
                Step::Key(key) => {
                    if !matches!(node.value, Value::Map(_)) {
                        *node = Node { value: Value::Map(Vec::new()), span: *span, secret: false };
                    }
                    let Value::Map(entries) = &mut node.value else { return };
                    if is_last && matches!(value.value, Value::Null) {
                        entries.retain(|entry| entry.key != *key);
                        return;
                    }
                    let index = entries.iter().position(|entry| entry.key == *key).unwrap_or_else(|| {
                        let empty = Node { value: Value::Null, span: *span, secret: false };
                        entries.push(Entry { key: key.clone(), key_span: *span, node: empty, secret: false });
                        entries.len() - 1
                    });
                    // A choice such as a key's source has one field at most: the new one takes the old one's place.
                    let is_source = position > 0 && path.0[position - 1] == Step::from("source");
                    if is_source && entries.len() > 1 {
                        let entry = entries.swap_remove(index);
                        *entries = vec![entry];
                        node = &mut entries[0].node;
                        continue;
                    }
                    if is_last {
                        entries[index].key_span = *span;
                    }
                    node = &mut entries[index].node;
                }
                Step::Index(index) => {
                    if !matches!(node.value, Value::List(_)) {
                        *node = Node { value: Value::List(Vec::new()), span: *span, secret: false };
                    }
                    let Value::List(items) = &mut node.value else { return };
                    if *index > items.len() {
                        let list = Path(path.0[..position].to_vec());
                        let message = format!("`{list}` has no entry {index}");
                        let help = match items.len() {
                            0 => format!("it is empty: the first entry is `{list}[0]`"),
                            count => format!(
                                "it has {count}: the last is `{list}[{}]`, and `{list}[{count}]` adds one",
                                count - 1
                            ),
                        };
                        findings.push(Finding::error("profile::set", message, *span).label("leads nowhere").help(help));
                        return;
                    }
                    if is_last && matches!(value.value, Value::Null) {
                        if *index < items.len() {
                            items.remove(*index);
                        }
                        return;
                    }
                    if *index == items.len() {
                        items.push(Node { value: Value::Null, span: *span, secret: false });
                    }
                    node = &mut items[*index];
                }
            }
        }
        *node = value.without_nulls();
    }
}

type Word = (Step, usize, usize);

/// The steps of the path with their places, and where the `=` is.
fn split(argument: &str) -> Result<(Vec<Word>, usize), (usize, String)> {
    let mut words = Vec::new();
    let bytes = argument.as_bytes();
    let mut at = 0;
    loop {
        let start = at;
        match bytes.get(at) {
            None => return Err((at, "there is no `=` and value".to_owned())),
            Some(b'=') if at > 0 => return Ok((words, at)),
            Some(b'=') => return Err((at, "there is no path before `=`".to_owned())),
            Some(b'[') => {
                let end = argument[at..].find(']').map(|end| at + end).ok_or((at, "`[` is not closed".to_owned()))?;
                let index = argument[at + 1..end]
                    .parse()
                    .map_err(|_| (at + 1, "a number goes between `[` and `]`".to_owned()))?;
                words.push((Step::Index(index), start, end + 1));
                at = end + 1;
            }
            Some(quote @ (b'"' | b'\'')) => {
                let end = bytes[at + 1..]
                    .iter()
                    .position(|byte| byte == quote)
                    .map(|end| at + 1 + end)
                    .ok_or((at, "the quote is not closed".to_owned()))?;
                words.push((argument[at + 1..end].into(), start, end + 1));
                at = end + 1;
            }
            Some(_) => {
                let end = argument[at..].find(['.', '[', '=']).map_or(argument.len(), |end| at + end);
                if end == at {
                    return Err((at, "a name is missing here".to_owned()));
                }
                words.push((argument[at..end].into(), start, end));
                at = end;
            }
        }
        match bytes.get(at) {
            Some(b'.') => {
                at += 1;
                if matches!(bytes.get(at), None | Some(b'=' | b'.' | b'[')) {
                    return Err((at, "a name is missing here".to_owned()));
                }
            }
            Some(b'[' | b'=') | None => {}
            Some(_) => return Err((at, "`.`, `[` or `=` is missing here".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split() {
        let steps = |argument: &str| {
            split(argument).map(|(words, equals)| {
                (
                    Path(words.into_iter().map(|(step, ..)| step).collect()).to_string(),
                    argument[equals + 1..].to_owned(),
                )
            })
        };
        assert_eq!(steps("nodes[1].count=3"), Ok(("nodes[1].count".into(), "3".into())));
        assert_eq!(steps("kubelet.config.\"a.b\"=1=2"), Ok(("kubelet.config.\"a.b\"".into(), "1=2".into())));
        assert_eq!(steps("a=[{b: c}]"), Ok(("a".into(), "[{b: c}]".into())));
        for bad in ["", "=1", "a", "a..b=1", "a.=1", "a[x]=1", "a[1=1", "a.\"b=1", ".a=1", "a[1]b=1"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }
}
