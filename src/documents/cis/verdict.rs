//! What was found where a control was looked at.

use serde::Serialize;

/// How many names evidence lists.
const NAMED: usize = 5;

/// Some names, and how many more there are.
pub(super) fn some<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<&String> = names.into_iter().collect();
    let mut shown: Vec<String> = names.iter().take(NAMED).map(|name| (*name).clone()).collect();
    if names.len() > NAMED {
        shown.push(format!("and {} more", names.len() - NAMED));
    }
    shown.join(", ")
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the control holds; `None` if only a person can tell.
    pub holds: Option<bool>,
    /// What decided, or what there is to be judged.
    pub evidence: String,
    /// All that was found wrong, by name, where the evidence names but some.
    pub found: Vec<String>,
}

impl Verdict {
    /// It holds.
    pub(super) fn pass(evidence: impl Into<String>) -> Self {
        Self { holds: Some(true), evidence: evidence.into(), found: Vec::new() }
    }

    /// It does not.
    pub(super) fn fail(evidence: impl Into<String>) -> Self {
        Self { holds: Some(false), evidence: evidence.into(), found: Vec::new() }
    }

    /// It does not, because of these; the evidence names some of them, then says what there is besides.
    pub(super) fn found<'n>(names: impl IntoIterator<Item = &'n String>, besides: impl AsRef<str>) -> Self {
        let found: Vec<String> = names.into_iter().cloned().collect();
        Self { holds: Some(false), evidence: format!("{}{}", some(&found), besides.as_ref()), found }
    }

    /// The same, with words before its evidence.
    pub(super) fn after(self, words: &str) -> Self {
        Self { evidence: format!("{words}{}", self.evidence), ..self }
    }

    /// A person has to judge.
    pub(super) fn open(evidence: impl Into<String>) -> Self {
        Self { holds: None, evidence: evidence.into(), found: Vec::new() }
    }
}

/// What comes of a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It is scored and does not hold.
    Fail,
    /// It is not scored and does not hold, or a person has to judge.
    Warn,
    /// It does not hold, and a profile says why that is so.
    Excepted,
    /// It holds.
    Pass,
}

impl Status {
    /// The word, as kube-bench has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Fail => "FAIL",
            Self::Warn => "WARN",
            Self::Excepted => "EXCEPTED",
            Self::Pass => "PASS",
        }
    }
}
