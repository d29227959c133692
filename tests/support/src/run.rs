//! What came of a program that was run to its end.

use std::process::{Command, Output};

use serde_json::Value;

/// A program's exit code and all that it printed.
#[derive(Debug, Clone)]
pub struct Run {
    line: String,
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let line = line(command);
        let output = command.output().unwrap_or_else(|error| panic!("`{line}` does not start: {error}"));
        Self::new(line, &output)
    }

    pub(crate) fn new(line: String, output: &Output) -> Self {
        Self {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same run, which must have succeeded.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    #[must_use = "or call `done`"]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// Nothing: for a run that must have succeeded, and whose output does not matter.
    ///
    /// # Panics
    /// If it has not succeeded.
    #[track_caller]
    pub fn done(self) {
        assert_eq!(self.code, Some(0), "{self}");
    }

    /// The same run, which must have failed, as a program does that knows what it is doing.
    ///
    /// # Panics
    /// If it has succeeded, was killed, or has panicked.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert_eq!(self.code, Some(1), "{self}");
        self
    }

    /// The same run, which must have been refused for its command line, before anything was done.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn is_refused(self) -> Self {
        assert_eq!(self.code, Some(2), "{self}");
        self
    }

    /// The same run, which must have printed `text`, wherever lines may have been broken.
    ///
    /// # Panics
    /// If it has not.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(flat(&self.all()).contains(&flat(text)), "{self}\n\ndoes not say {text:?}");
        self
    }

    /// The same run, which must not have printed `text`.
    ///
    /// # Panics
    /// If it has.
    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        assert!(!self.all().contains(text), "{self}\n\nsays {text:?}");
        self
    }

    /// Standard output, as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{self}\n\nis no JSON: {error}"))
    }

    /// Standard output and standard error.
    #[must_use]
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {:?}\n--- stdout\n{}--- stderr\n{}", self.line, self.code, self.stdout, self.stderr)
    }
}

/// A command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// A text without line breaks, and without the marks with which errors are drawn.
fn flat(text: &str) -> String {
    let bare = text.replace(['│', '×', '╰', '├', '─', '▶', '·'], " ");
    bare.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_errors_can_be_read() {
        let drawn = "  × the cluster could not\n  │ be made\n  ╰─▶ there is no image\n";
        assert_eq!(flat(drawn), "the cluster could not be made there is no image");
    }
}
