//! What was found where a control was looked at.

use serde::Serialize;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the control holds; `None` if only a person can tell.
    pub holds: Option<bool>,
    /// What decided, or what there is to be judged.
    pub evidence: String,
}

impl Verdict {
    /// It holds.
    pub(super) fn pass(evidence: impl Into<String>) -> Self {
        Self { holds: Some(true), evidence: evidence.into() }
    }

    /// It does not.
    pub(super) fn fail(evidence: impl Into<String>) -> Self {
        Self { holds: Some(false), evidence: evidence.into() }
    }

    /// A person has to judge.
    pub(super) fn open(evidence: impl Into<String>) -> Self {
        Self { holds: None, evidence: evidence.into() }
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
