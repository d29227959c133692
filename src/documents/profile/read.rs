//! Reading YAML 1.2 text into a tree.
//!
//! Owns the bounds of what is read, and what is said of text that is no YAML or more than a profile may use of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use granit_parser::{Event, Parser, ScalarStyle, StrInput};

use crate::documents::bounds::{MAX_EXPANDED, too_deep, too_large};

use super::error::{Finding, quoted};
use super::tree::{Entry, Node, Span, Value};
use super::variables::{Unexpanded, VARIABLE, Variables};

/// The most bytes of a profile's text.
pub(super) const MAX_TEXT: usize = 4 << 20;

/// The deepest nesting: every reader of the tree recurses.
const MAX_DEPTH: usize = 64;

/// Whose YAML it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// kprov's: one document of YAML 1.2.
    Profile,
    /// kind's: what follows the first document is not looked at, and mappings can be merged by `<<`.
    Kind,
}

/// Whose YAML `text` is: kind's if the `apiVersion` at its top is one of kind's.
pub(super) fn dialect_of(text: &str) -> Dialect {
    let mut depth = 0_usize;
    let mut is_key = true;
    let mut is_version = false;
    for event in Parser::new_from_str(text) {
        match event.map(|(event, _)| event) {
            Ok(Event::MappingStart(..) | Event::SequenceStart(..)) => depth += 1,
            Ok(Event::MappingEnd | Event::SequenceEnd) => {
                depth = depth.saturating_sub(1);
                if depth == 1 {
                    is_key = true;
                }
            }
            Ok(Event::Scalar(text, ..)) if depth == 1 => {
                if is_version {
                    return if text.starts_with("kind.x-k8s.io/") { Dialect::Kind } else { Dialect::Profile };
                }
                is_version = is_key && text == "apiVersion";
                is_key = !is_key;
            }
            Ok(Event::Alias(_)) if depth == 1 => is_key = !is_key,
            Ok(Event::DocumentEnd) | Err(_) => break,
            Ok(_) => {}
        }
    }
    Dialect::Profile
}

/// Reads the one document of `text`, which lies `offset` bytes into source number `source`.
/// Everything that is wrong is added to `findings`; there is no tree if the syntax itself is broken.
pub(super) fn parse(text: &str, source: usize, offset: usize, findings: &mut Vec<Finding>) -> Option<Node> {
    parse_as(Dialect::Profile, None, text, source, offset, findings)
}

/// As [`parse`], of a file that may be kind's, whose YAML may do more, and with the values of `variables` in their places.
pub(super) fn parse_as(
    dialect: Dialect,
    variables: Option<Variables>,
    text: &str,
    source: usize,
    offset: usize,
    findings: &mut Vec<Finding>,
) -> Option<Node> {
    let mut reader = Reader {
        events: Parser::new_from_str(text),
        source,
        offset,
        anchors: HashMap::new(),
        findings,
        budget: MAX_EXPANDED,
        depth: 0,
        dialect,
        variables,
    };
    match reader.document() {
        Ok(node) => Some(node),
        Err(finding) => {
            findings.push(*finding);
            None
        }
    }
}

struct Reader<'a, 'f> {
    events: Parser<'a, StrInput<'a>>,
    source: usize,
    offset: usize,
    /// Anchored values and their sizes.
    anchors: HashMap<usize, (Rc<Node>, usize)>,
    findings: &'f mut Vec<Finding>,
    /// Bytes that the tree and the anchored values may still take.
    budget: usize,
    depth: usize,
    dialect: Dialect,
    variables: Option<Variables>,
}

type Read<T> = Result<T, Box<Finding>>;

impl<'a> Reader<'a, '_> {
    fn span(&self, range: Range<usize>) -> Span {
        Span { source: self.source, start: range.start + self.offset, end: range.end + self.offset }
    }

    /// The next event that is part of the data.
    fn next(&mut self) -> Read<(Event<'a>, Span)> {
        loop {
            match self.events.next() {
                Some(Ok((event, span))) => {
                    let span = self.span(span.byte_range().unwrap_or(0..0));
                    // Whether comments are events depends on a feature that other crates may switch on.
                    let is_data = event.is_node()
                        || matches!(
                            event,
                            Event::StreamStart
                                | Event::StreamEnd
                                | Event::DocumentStart(..)
                                | Event::DocumentEnd
                                | Event::SequenceEnd
                                | Event::MappingEnd
                        );
                    if is_data {
                        return Ok((event, span));
                    }
                }
                Some(Err(error)) => {
                    let at = error.marker().byte_offset().unwrap_or(0);
                    let message = format!("invalid YAML: {}", error.info());
                    return Err(Box::new(Finding::error("profile::syntax", message, self.span(at..at))));
                }
                None => return Ok((Event::StreamEnd, self.span(0..0))),
            }
        }
    }

    fn document(&mut self) -> Read<Node> {
        loop {
            match self.next()? {
                (Event::StreamStart | Event::DocumentStart(..), _) => {}
                (Event::StreamEnd, span) => {
                    return Err(Box::new(Finding::error("profile::syntax", "there is no document here", span)));
                }
                (event, span) => {
                    let root = self.node(event, span)?;
                    if self.dialect == Dialect::Kind {
                        return Ok(root);
                    }
                    loop {
                        match self.next()? {
                            (Event::StreamEnd, _) => return Ok(root),
                            (Event::DocumentStart(..), span) => {
                                let finding = Finding::error("profile::syntax", "a second YAML document", span)
                                    .label("begins here")
                                    .help("one file is one profile");
                                return Err(Box::new(finding));
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    /// Takes `bytes` off the budget, before they are allocated.
    fn charge(&mut self, bytes: usize, span: Span) -> Read<()> {
        match self.budget.checked_sub(bytes) {
            Some(rest) => {
                self.budget = rest;
                Ok(())
            }
            None => Err(Box::new(Finding::error("profile::syntax", too_large(), span).help("are aliases nested?"))),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Read<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Box::new(Finding::error("profile::syntax", too_deep(MAX_DEPTH), span)));
        }
        let node = self.node_within(event, span)?;
        self.depth -= 1;
        Ok(node)
    }

    fn node_within(&mut self, event: Event<'a>, span: Span) -> Read<Node> {
        let text = if let Event::Scalar(text, ..) = &event { text.len() } else { 0 };
        self.charge(size_of::<Node>() + text, span)?;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let text = self.expand(text, span)?;
                let kind = tag.as_deref().map(|tag| tag.core_suffix().map(str::to_owned).ok_or_else(|| tag.original()));
                let value = match kind {
                    None if style == ScalarStyle::Plain => self.plain(&text, span),
                    None => Value::String(text.into_owned()),
                    Some(Ok(kind)) if kind == "str" => Value::String(text.into_owned()),
                    Some(Ok(_)) => self.plain(&text, span),
                    Some(Err(tag)) => {
                        let message = format!("the tag `{tag}` means nothing here");
                        self.findings.push(Finding::error("profile::syntax", message, span).help("leave it out"));
                        Value::String(text.into_owned())
                    }
                };
                (value, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(_, anchor, _) => (self.mapping()?, anchor),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    // Only an anchor that is still open is missing: an alias inside of what it names.
                    return Err(Box::new(Finding::error("profile::syntax", "an alias contains itself", span)));
                };
                self.charge(size, span)?;
                return Ok(Node::clone(&node));
            }
            _ => (Value::Null, 0),
        };
        let node = Node { value, span, secret: false };
        if anchor > 0 {
            let size = size(&node);
            self.charge(size, span)?;
            self.anchors.insert(anchor, (Rc::new(node.clone()), size));
        }
        Ok(node)
    }

    /// The text of a value, with those of variables in it.
    fn expand(&mut self, text: Cow<'a, str>, span: Span) -> Read<Cow<'a, str>> {
        let Some(variables) = self.variables else { return Ok(text) };
        let problem = match variables.expand(&text) {
            Ok(Cow::Borrowed(_)) => return Ok(text),
            Ok(Cow::Owned(expanded)) => {
                self.charge(expanded.len(), span)?;
                return Ok(expanded.into());
            }
            Err(Unexpanded::Unset(name)) => {
                Finding::error(VARIABLE, format!("the environment has no variable {}", quoted(&name)), span)
                    .label("asked for here")
                    .help(format!("set it, or say what stands for it otherwise: ${{{name}:-…}}"))
            }
            Err(Unexpanded::Form) => Finding::error(VARIABLE, "`${` begins no variable here", span)
                .label("expected ${NAME}, ${NAME-default} or ${NAME:-default}")
                .help("for the sign itself, write `$${`"),
        };
        self.findings.push(problem);
        Ok(text)
    }

    fn mapping(&mut self) -> Read<Value> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Span> = HashMap::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let (event, key_span) = self.next()?;
            let key = match event {
                Event::MappingEnd => {
                    // What is written here wins, then what was merged first.
                    for entry in merged {
                        if !entries.iter().any(|own| own.key == entry.key) {
                            entries.push(entry);
                        }
                    }
                    return Ok(Value::Map(entries));
                }
                Event::Scalar(text, ..) => {
                    self.charge(size_of::<Entry>() + text.len(), key_span)?;
                    text.into_owned()
                }
                event => {
                    self.node(event, key_span)?;
                    self.findings.push(Finding::error("profile::syntax", "a key has to be a plain word", key_span));
                    String::new()
                }
            };
            if key == "<<" && self.dialect == Dialect::Kind {
                let (event, span) = self.next()?;
                match self.node(event, span)?.value {
                    Value::Map(more) => merged.extend(more),
                    Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
                        for item in items {
                            if let Value::Map(more) = item.value {
                                merged.extend(more);
                            }
                        }
                    }
                    _ => {
                        let finding = Finding::error("profile::syntax", "`<<` merges mappings", key_span)
                            .label("expected an alias of a mapping, or a list of such");
                        self.findings.push(finding);
                    }
                }
                continue;
            }
            if key == "<<" {
                let finding = Finding::error("profile::syntax", "`<<` is no merge key in YAML 1.2", key_span)
                    .help("use `extends` to build on another profile");
                self.findings.push(finding);
            }
            let (event, span) = self.next()?;
            let node = self.node(event, span)?;
            if let Some(first) = seen.get(&key) {
                let finding = Finding::error(
                    "profile::duplicate_key",
                    format!("the key {} is there twice", quoted(&key)),
                    key_span,
                )
                .label("again here")
                .also(*first, "first here")
                .help("remove one of them, or merge them");
                self.findings.push(finding);
            } else if key != "<<" {
                seen.insert(key.clone(), key_span);
                entries.push(Entry { key, key_span, node, secret: false });
            }
        }
    }

    /// A plain scalar by YAML 1.2's core schema, but for numbers with a leading zero: 0644 is an octal number to some
    /// and a decimal one to others, so it stays a string.
    fn plain(&mut self, text: &str, span: Span) -> Value {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
            "true" | "True" | "TRUE" => return Value::Bool(true),
            "false" | "False" | "FALSE" => return Value::Bool(false),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
                let message = format!("`{text}` is no number that Kubernetes knows");
                self.findings.push(Finding::error("profile::syntax", message, span).help("for a string, quote it"));
                return Value::Null;
            }
            _ => {}
        }
        number(text).map_or_else(|| Value::String(text.to_owned()), Value::Number)
    }
}

/// The bytes that a value takes.
fn size(node: &Node) -> usize {
    size_of::<Node>()
        + match &node.value {
            Value::String(text) => text.len(),
            Value::List(items) => items.iter().map(size).sum(),
            Value::Map(entries) => {
                entries.iter().map(|entry| size_of::<Entry>() + entry.key.len() + size(&entry.node)).sum()
            }
            _ => 0,
        }
}

fn number(text: &str) -> Option<serde_json::Number> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok().map(Into::into);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return u64::from_str_radix(digits, 8).ok().map(Into::into);
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let first = unsigned.bytes().next()?;
    if !(first.is_ascii_digit() || first == b'.' && unsigned.as_bytes().get(1).is_some_and(u8::is_ascii_digit)) {
        return None;
    }
    if first == b'0' && unsigned.as_bytes().get(1).is_some_and(u8::is_ascii_digit) {
        return None;
    }
    if !unsigned.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-')) {
        return None;
    }
    let text = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    if let Ok(whole) = text.parse::<u64>() {
        return Some(whole.into());
    }
    serde_json::Number::from_f64(text.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use crate::documents::bounds::{check_stream, tests::bomb};

    use super::*;

    fn read(text: &str) -> (Option<Node>, Vec<String>) {
        let mut findings = Vec::new();
        let node = parse(text, 0, 0, &mut findings);
        (node, findings.into_iter().map(|finding| finding.message).collect())
    }

    #[test]
    fn scalars_are_those_of_yaml_1_2() {
        let (node, findings) = read(
            "[yes, on, 'true', true, ~, 12, -3, 0x1F, 0o17, 1.5, 1e3, 0644, 1.20.2, 10.96.0.0/16, '5', !!str 5, 5m, -a, +1]",
        );
        assert!(findings.is_empty(), "{findings:?}");
        assert_eq!(
            node.unwrap().to_json(),
            serde_json::json!([
                "yes",
                "on",
                "true",
                true,
                null,
                12,
                -3,
                31,
                15,
                1.5,
                1000.0,
                "0644",
                "1.20.2",
                "10.96.0.0/16",
                "5",
                "5",
                "5m",
                "-a",
                1
            ])
        );
    }

    #[test]
    fn every_duplicate_key_is_found() {
        let (_, findings) = read("a: 1\nb: {c: 1, c: 2}\na: 2\n");
        assert_eq!(findings, ["the key `c` is there twice", "the key `a` is there twice"]);
    }

    #[test]
    fn places_are_those_of_the_text() {
        let text = "a:\n  b: [x, yy]\n";
        let (node, _) = read(text);
        let node = node.unwrap();
        let shown = |span: Span| &text[span.start..span.end];
        assert_eq!(shown(node.place_of(&["a".into(), "b".into(), 1.into()])), "yy");
        assert_eq!(shown(node.place_of(&["a".into(), "b".into()])), "b");
        assert_eq!(shown(node.place_of(&["a".into(), "missing".into(), "deeper".into()])), "a");
        assert_eq!(shown(node.place_of_key(&["a".into(), "b".into()])), "b");
    }

    #[test]
    fn merging_is_deep_and_null_removes() {
        let (base, _) = read("a: {x: 1, y: 2, l: [1, 2]}\nb: 1\nl: [1]\n");
        let (over, _) = read("a: {x: null, y: 3, l: [9], z: {n: null, m: 1}}\nc: null\nl: [null, {n: null, m: 1}]\n");
        let mut merged = base.unwrap();
        merged.merge(over.unwrap());
        assert_eq!(
            merged.to_json(),
            serde_json::json!({"a": {"y": 3, "l": [9], "z": {"m": 1}}, "b": 1, "l": [null, {"m": 1}]})
        );
    }

    #[test]
    fn broken_and_hostile_documents_end_in_an_error() {
        for (text, want) in [
            ("", "there is no document here"),
            ("a: 1\n---\nb: 1\n", "a second YAML document"),
            ("a: &a [*a]\n", "an alias contains itself"),
            ("? [a]\n: 1\n", "a key has to be a plain word"),
            ("a: .nan", "`.nan` is no number that Kubernetes knows"),
            ("a: !Env b", "the tag `!Env` means nothing here"),
            ("x: &x {a: 1}\ny:\n  <<: *x\n", "`<<` is no merge key in YAML 1.2"),
        ] {
            let (_, findings) = read(text);
            assert_eq!(findings, [want], "{text}");
        }
        for bomb in [nested_aliases(), bomb()] {
            let (node, findings) = read(&bomb);
            assert!(node.is_none());
            assert_eq!(findings, [too_large()]);
            assert_eq!(check_stream(&bomb), Err(too_large()));
        }
        let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(read(&nested(64)).1, [too_deep(64)]);
        assert_eq!(check_stream(&nested(128)), Ok(()));
        assert_eq!(check_stream(&nested(129)), Err(too_deep(128)));
        assert_eq!(check_stream("a: &a [*a]\n").unwrap_err(), "an alias contains itself");
    }

    /// Nine times nine times nine ... values.
    fn nested_aliases() -> String {
        let bomb: String =
            (1..12).map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(","))).collect();
        format!("a0: &a0 [x]\n{bomb}")
    }

    #[test]
    fn anchors_count_as_well() {
        // Each level's copy is kept for aliases that never come.
        let open: String = (0..60).map(|n| format!("&a{n} [")).collect();
        let text = format!("{open}{}{}", "x".repeat(1 << 20), "]".repeat(60));
        assert_eq!(read(&text).1, [too_large()]);
    }

    #[test]
    fn what_is_large_and_honest_is_read() {
        let text = format!("a: &a {}\nb: [*a, *a, *a]\n", "x".repeat(1 << 20));
        let (node, findings) = read(&text);
        assert!(node.is_some() && findings.is_empty(), "{findings:?}");
        assert_eq!(check_stream(&text), Ok(()));
    }
}
