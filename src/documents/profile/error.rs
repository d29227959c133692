//! What is said when a profile is wrong: problems with their place, shown as text or as data.
//!
//! Owns the public error type and the hiding of key material in what it quotes. What is a problem is decided by
//! the modules that check.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use miette::{Diagnostic, LabeledSpan, NamedSource, Severity, SourceCode};
use serde::Serialize;

use crate::progress::{printable, printable_in_place};

use super::tree::{Node, Span};

/// One thing that is wrong with a profile, or that deserves a second look.
#[derive(Clone)]
pub struct Problem {
    code: &'static str,
    message: String,
    help: Option<String>,
    severity: Severity,
    place: Option<Place>,
}

#[derive(Clone)]
struct Place {
    source: NamedSource<Arc<String>>,
    text: Arc<String>,
    labels: Vec<LabeledSpan>,
}

/// A problem that does not stop: see [`Problem`].
pub type Warning = Problem;

/// Why there is no profile: all that is wrong with it, at once.
#[derive(Clone)]
pub struct ProfileError {
    reference: String,
    problems: Vec<Problem>,
}

/// A problem as plain data, for `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemEntry {
    /// The kind of problem, such as `profile::unknown_field`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// The file, or `--set`, or the name of a built-in profile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The column in characters, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl Problem {
    /// A problem that lies in no file.
    pub(super) fn nowhere(code: &'static str, message: impl Into<String>, help: Option<String>) -> Self {
        Self { code, message: message.into(), help, severity: Severity::Error, place: None }
    }

    /// The problem as plain data.
    #[must_use]
    pub fn entry(&self) -> ProblemEntry {
        let mut entry = ProblemEntry {
            code: self.code,
            message: self.message.clone(),
            file: None,
            line: None,
            column: None,
            help: self.help.clone(),
        };
        if let Some(place) = &self.place {
            entry.file = Some(place.source.name().to_owned());
            if let Some(label) = place.labels.first() {
                let before = place.text.get(..label.offset()).unwrap_or_default();
                let line_start = before.rfind('\n').map_or(0, |at| at + 1);
                entry.line = Some(before.matches('\n').count() + 1);
                entry.column = Some(before[line_start..].chars().count() + 1);
            }
        }
        entry
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

// The texts that a problem carries are long, and say nothing that its entry does not.
impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entry().fmt(f)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place.as_ref().map(|place| &place.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.place.as_ref().map(|place| Box::new(place.labels.iter().cloned()) as Box<dyn Iterator<Item = _>>)
    }
}

impl ProfileError {
    /// All that is wrong with the profile that was asked for as `reference`. `problems` is not empty.
    pub(super) fn new(reference: &str, problems: Vec<Problem>) -> Self {
        Self { reference: reference.to_owned(), problems }
    }

    /// All problems as plain data.
    #[must_use]
    pub fn entries(&self) -> Vec<ProblemEntry> {
        self.problems.iter().map(Problem::entry).collect()
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A lone problem speaks for itself; several need a line above them.
    fn lone(&self) -> Option<&Problem> {
        match &self.problems[..] {
            [problem] => Some(problem),
            _ => None,
        }
    }
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lone() {
            Some(problem) => problem.fmt(f),
            None => write!(f, "profile `{}` has {} problems", self.reference, self.problems.len()),
        }
    }
}

impl fmt::Debug for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.problems).finish()
    }
}

impl std::error::Error for ProfileError {}

impl Diagnostic for ProfileError {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        match self.lone() {
            Some(problem) => problem.code(),
            None => Some(Box::new("profile::invalid")),
        }
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.lone()?.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.lone()?.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.lone()?.labels()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        match self.lone() {
            Some(_) => None,
            None => Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic))),
        }
    }
}

/// A problem whose place is still a number of a source.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) severity: Severity,
    pub(super) span: Span,
    label: String,
    also: Option<(Span, &'static str)>,
    help: Option<String>,
}

impl Finding {
    pub(super) fn error(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self {
            code,
            message: message.into(),
            severity: Severity::Error,
            span,
            label: "here".to_owned(),
            also: None,
            help: None,
        }
    }

    pub(super) fn warning(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message, span) }
    }

    pub(super) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Points at a second place, which is only shown if it lies in the same file.
    pub(super) fn also(mut self, span: Span, label: &'static str) -> Self {
        self.also = Some((span, label));
        self
    }
}

/// A text that values came from.
pub(super) struct Source {
    /// How it is called in messages.
    pub(super) name: String,
    /// The folder that its relative paths start at.
    pub(super) base: PathBuf,
    /// The text, with possible keys hidden behind as many asterisks, and nothing that steers a terminal.
    masked: Arc<String>,
}

impl Source {
    /// Keeps the text to quote from. `tree` tells where keys are; without one (broken syntax) they are guessed at,
    /// and all that follows `fence` is hidden if it is given.
    pub(super) fn new(name: String, base: PathBuf, text: &str, tree: Option<&Node>, fence: Option<usize>) -> Self {
        let mut secrets = suspects(text, tree.is_none());
        secrets.extend(fence.filter(|_| tree.is_none()).map(|start| (start, text.len())));
        if let Some(tree) = tree {
            let mut spans = Vec::new();
            tree.hidden(&mut spans);
            secrets.extend(spans.iter().map(|span| (span.start, span.end)));
        }
        let mut bytes = text.as_bytes().to_vec();
        for (start, end) in secrets {
            for byte in bytes.iter_mut().take(end).skip(start) {
                if !byte.is_ascii_whitespace() {
                    *byte = b'*';
                }
            }
        }
        // Whole characters were replaced, so this is UTF-8 still.
        let masked = printable_in_place(&String::from_utf8_lossy(&bytes));
        let name = printable(&name);
        Self { name, base, masked: Arc::new(masked) }
    }
}

/// Puts files' names and texts to findings, in the order of the text.
pub(super) fn located(mut findings: Vec<Finding>, sources: &[Source]) -> Vec<Problem> {
    findings.sort_by_key(|finding| (finding.span.source, finding.span.start));
    findings
        .into_iter()
        .map(|finding| {
            let place = sources.get(finding.span.source).map(|source| {
                let length = finding.span.end.saturating_sub(finding.span.start);
                let mut labels =
                    vec![LabeledSpan::new_primary_with_span(Some(finding.label), (finding.span.start, length))];
                if let Some((span, label)) = finding.also.filter(|(span, _)| span.source == finding.span.source) {
                    labels.push(LabeledSpan::new(Some(label.to_owned()), span.start, span.end - span.start));
                }
                let text = Arc::clone(&source.masked);
                Place { source: NamedSource::new(&source.name, Arc::clone(&text)), text, labels }
            });
            Problem {
                code: finding.code,
                message: finding.message,
                help: finding.help,
                severity: finding.severity,
                place,
            }
        })
        .collect()
}

/// Parts of a text that look like keys wherever they are: base64 of 16, 24 or 32 bytes, and, where `lines`,
/// whatever stands behind a field that is meant for a key.
fn suspects(text: &str, lines: bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let mut at = 0;
    for run in text.as_bytes().split(|byte| !is_base64(byte)) {
        let mixed = run.iter().any(u8::is_ascii_digit) && run.iter().any(u8::is_ascii_uppercase);
        // `literal=KEY` on a command line is one run; only its last part is the key.
        let tail = run.iter().position(|byte| *byte == b'=').filter(|eq| eq + 4 < run.len()).map_or(0, |eq| eq + 1);
        let decoded = BASE64.decode(&run[tail..]).map_or(0, |bytes| bytes.len());
        if matches!(decoded, 16 | 24 | 32) && (mixed || run.ends_with(b"=")) {
            found.push((at + tail, at + run.len()));
        }
        at += run.len() + 1;
    }
    if lines {
        for field in ["literal", "secret", "source"] {
            for (start, _) in text.match_indices(field) {
                let rest = &text[start + field.len()..];
                let after = rest.trim_start_matches(['"', '\'', ' ']);
                if after.starts_with([':', '=']) {
                    let from = text.len() - after.len() + 1;
                    let end = text[from..].find('\n').map_or(text.len(), |line| from + line);
                    found.push((from, end));
                }
            }
        }
    }
    found
}

/// `word` as messages quote it; nothing of it if it may hold a key.
pub(super) fn quoted(word: &str) -> String {
    if suspects(word, true).is_empty() { format!("`{word}`") } else { "`…`".to_owned() }
}

/// The candidates that `word` may have been meant to be, the likeliest first.
pub(super) fn near<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = word.to_lowercase();
    let mut scored: Vec<_> = candidates
        .into_iter()
        .filter_map(|candidate| {
            let other = candidate.to_lowercase();
            let distance = strsim::osa_distance(&lower, &other);
            // A third of the letters may be wrong; or one is the beginning of the other.
            let allowed = (lower.chars().count().max(other.chars().count()) / 3).max(1);
            let begins = lower.len().min(other.len()) >= 3 && (other.starts_with(&lower) || lower.starts_with(&other));
            (distance <= allowed || begins).then_some((distance, candidate))
        })
        .collect();
    scored.sort();
    scored.into_iter().map(|(_, candidate)| candidate).take(3).collect()
}

/// "did you mean `a` or `b`?", or else what there is.
pub(super) fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    let quoted = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>();
    let near = near(word, candidates.clone());
    if !near.is_empty() {
        return Some(format!("did you mean {}?", quoted(&near).join(" or ")));
    }
    let all: Vec<_> = candidates.into_iter().collect();
    (!all.is_empty()).then(|| format!("known here: {}", quoted(&all).join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn keys_are_hidden_even_in_broken_documents() {
        for text in [
            format!("a: [\nliteral: {KEY}\n"),
            format!("a: {KEY} b: ["),
            "literal: short".to_owned(),
            "{source: {literal: 'short'".to_owned(),
            format!("spec.encryption.providers[0].keys[0].source.literal={KEY}"),
        ] {
            let source = Source::new("f".into(), PathBuf::new(), &text, None, None);
            assert!(!source.masked.contains("AAEC") && !source.masked.contains("short"), "{}", source.masked);
            assert_eq!(source.masked.len(), text.len());
        }
    }

    #[test]
    fn digests_and_names_stay_readable() {
        let text = "image: kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5\n\
            suites: TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,/var/lib/kubelet/pki/current.pem";
        assert_eq!(*Source::new("f".into(), PathBuf::new(), text, None, None).masked, text);
    }

    #[test]
    fn near_words_come_first_and_far_ones_are_listed() {
        assert_eq!(suggestion("hostport", ["hostPort", "containerPort"]).unwrap(), "did you mean `hostPort`?");
        assert_eq!(suggestion("harden", ["hardened", "default"]).unwrap(), "did you mean `hardened`?");
        assert_eq!(suggestion("zzz", ["role", "count"]).unwrap(), "known here: `role`, `count`");
    }
}
