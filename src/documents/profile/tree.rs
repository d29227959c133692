//! A document as a tree that remembers where each of its parts was written.
//!
//! Owns merging trees, and finding a part by its path. The typed profile is deserialized from the same tree, so that a value
//! and its place always agree. Making a tree of text is left to `read`, what a profile may contain to `shape` and
//! `semantic`.

use std::fmt;

/// A place in one of the loaded texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// Which text: an index into the list of sources.
    pub(super) source: usize,
    /// First byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    /// Of a scalar: all of it. Of a list or mapping: where it begins.
    pub(super) span: Span,
    /// Whether the value may be key material, which no message repeats.
    pub(super) secret: bool,
}

/// What a YAML node can be.
#[derive(Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

// A derived `Debug` would print literal keys.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// A key of a mapping, and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) node: Node,
    /// Whether the key itself may be key material: a forgotten colon is enough.
    pub(super) secret: bool,
}

impl Value {
    /// The kind of value, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// A step on the way from the root to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<&String> for Step {
    fn from(key: &String) -> Self {
        Self::Key(key.clone())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// The way from the root to a value, shown as `spec.nodes[1].count`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    /// This path and one step more.
    pub(super) fn then(&self, step: impl Into<Step>) -> Self {
        let mut steps = self.0.clone();
        steps.push(step.into());
        Self(steps)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    if key.is_empty() || key.contains(['.', '[', ']', '"', '=']) {
                        write!(f, "{key:?}")?;
                    } else {
                        f.write_str(key)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Node {
    /// The entry `key` of a mapping.
    pub(super) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value under `key` of a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The place to point at when speaking of this value: for a mapping its first key, for a list its first item.
    pub(super) fn place(&self) -> Span {
        match &self.value {
            Value::Map(entries) => entries.first().map_or(self.span, |entry| entry.key_span),
            Value::List(items) => items.first().map_or(self.span, Self::place),
            _ => self.span,
        }
    }

    /// The place of the value at `path`, or of the nearest part of that path that was written at all.
    pub(super) fn place_of(&self, path: &[Step]) -> Span {
        let (mut node, mut span) = (self, self.place());
        for step in path {
            let next = match (step, &node.value) {
                (Step::Key(key), Value::Map(_)) => node.entry(key).map(|entry| (&entry.node, entry.key_span)),
                (Step::Index(index), Value::List(items)) => items.get(*index).map(|item| (item, item.place())),
                _ => None,
            };
            let Some((below, key_span)) = next else { return span };
            // A scalar is the offender itself; a mapping or list is best shown by its key.
            span = match below.value {
                Value::Map(_) | Value::List(_) => key_span,
                _ => below.span,
            };
            node = below;
        }
        span
    }

    /// The place of the key at `path`, for complaints about the key and not its value.
    pub(super) fn place_of_key(&self, path: &[Step]) -> Span {
        let Some((Step::Key(last), parents)) = path.split_last() else { return self.place_of(path) };
        let parent = parents.iter().try_fold(self, |node, step| match (step, &node.value) {
            (Step::Key(key), _) => node.get(key),
            (Step::Index(index), Value::List(items)) => items.get(*index),
            _ => None,
        });
        parent.and_then(|node| node.entry(last)).map_or_else(|| self.place_of(path), |entry| entry.key_span)
    }

    /// The plain value.
    pub(super) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(flag) => (*flag).into(),
            Value::Number(number) => number.clone().into(),
            Value::String(text) => text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// Lays `over` over this value: mappings key by key (an explicit null removes the key), all else replaces.
    pub(super) fn merge(&mut self, over: Self) {
        if let (Value::Map(entries), Value::Map(_)) = (&mut self.value, &over.value) {
            let Value::Map(new) = over.value else { return };
            for entry in new {
                match entries.iter().position(|old| old.key == entry.key) {
                    _ if matches!(entry.node.value, Value::Null) => entries.retain(|old| old.key != entry.key),
                    Some(position) => {
                        entries[position].key_span = entry.key_span;
                        entries[position].node.merge(entry.node);
                    }
                    None => entries.push(Entry { node: entry.node.without_nulls(), ..entry }),
                }
            }
        } else {
            *self = over.without_nulls();
        }
    }

    /// Without the keys whose value is null: there is nothing below that they could remove. Nulls in lists stay.
    pub(super) fn without_nulls(mut self) -> Self {
        self.value = match self.value {
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .filter(|entry| !matches!(entry.node.value, Value::Null))
                    .map(|entry| Entry { node: entry.node.without_nulls(), ..entry })
                    .collect(),
            ),
            Value::List(items) => Value::List(items.into_iter().map(Self::without_nulls).collect()),
            scalar => scalar,
        };
        self
    }

    /// Marks every scalar of this value as possible key material.
    pub(super) fn mark_secret(&mut self) {
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(Self::mark_secret),
            Value::Map(entries) => entries.iter_mut().for_each(Entry::mark_secret),
            _ => self.secret = true,
        }
    }

    /// The places of everything that is marked.
    pub(super) fn hidden(&self, spans: &mut Vec<Span>) {
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| item.hidden(spans)),
            Value::Map(entries) => {
                for entry in entries {
                    spans.extend(entry.secret.then_some(entry.key_span));
                    entry.node.hidden(spans);
                }
            }
            _ => spans.extend(self.secret.then_some(self.span)),
        }
    }

    /// Calls `visit` on every scalar.
    pub(super) fn each_scalar(&self, visit: &mut impl FnMut(&Self)) {
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| item.each_scalar(visit)),
            Value::Map(entries) => entries.iter().for_each(|entry| entry.node.each_scalar(visit)),
            _ => visit(self),
        }
    }
}

impl Entry {
    /// Marks the value, and the key too unless it is a word that no base64 of a key can be.
    pub(super) fn mark_secret(&mut self) {
        self.secret = self.key.len() > 20 || !self.key.bytes().all(|byte| byte.is_ascii_alphabetic());
        self.node.mark_secret();
    }
}
