//! Environment variables in the values of profiles: `${NAME}`, `${NAME-default}`, `${NAME:-default}`, as in Compose files.
//!
//! Owns their form, and where variables come from. Where they may stand is left to `read` (in values, not in keys) and `load`
//! (not in keys of encryption, not in kind's own files, and not in what was loaded before).

use std::borrow::Cow;

/// The code of what is wrong with one.
pub(super) const VARIABLE: &str = "profile::variable";

/// How a variable is asked for.
const OPEN: &str = "${";

/// Where variables come from.
#[derive(Debug, Clone, Copy)]
pub struct Variables(fn(&str) -> Option<String>);

impl Variables {
    /// Those of this process.
    #[must_use]
    pub const fn of_this_process() -> Self {
        Self(|name| std::env::var(name).ok())
    }

    /// Whatever `lookup` has.
    #[must_use]
    pub const fn of(lookup: fn(&str) -> Option<String>) -> Self {
        Self(lookup)
    }

    /// `text` with the value of each variable in its place.
    ///
    /// # Errors
    /// What is wrong with the first one that is: its form, or that nobody has set it.
    pub(super) fn expand<'t>(self, text: &'t str) -> Result<Cow<'t, str>, Unexpanded> {
        if !mentions_one(text) {
            return Ok(Cow::Borrowed(text));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            // A doubled sign is one that means nothing.
            if let Some(before) = rest[..at].strip_suffix('$') {
                out.push_str(before);
                out.push_str(OPEN);
                rest = &rest[at + OPEN.len()..];
                continue;
            }
            out.push_str(&rest[..at]);
            let inside = &rest[at + OPEN.len()..];
            let end = inside.find('}').ok_or(Unexpanded::Form)?;
            out.push_str(&self.value(&inside[..end])?);
            rest = &inside[end + 1..];
        }
        out.push_str(rest);
        Ok(Cow::Owned(out))
    }

    fn value(self, asked: &str) -> Result<String, Unexpanded> {
        let end = asked.find(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_').unwrap_or(asked.len());
        let (name, rest) = asked.split_at(end);
        if name.is_empty() || name.starts_with(|sign: char| sign.is_ascii_digit()) || asked.contains(OPEN) {
            return Err(Unexpanded::Form);
        }
        let found = (self.0)(name);
        if rest.is_empty() {
            found.ok_or_else(|| Unexpanded::Unset(name.to_owned()))
        } else if let Some(default) = rest.strip_prefix(":-") {
            Ok(found.filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned()))
        } else if let Some(default) = rest.strip_prefix('-') {
            Ok(found.unwrap_or_else(|| default.to_owned()))
        } else {
            Err(Unexpanded::Form)
        }
    }
}

/// Why a text could not be expanded.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unexpanded {
    /// Nobody has set it, and there is no default.
    Unset(String),
    /// It is not written as a variable is.
    Form,
}

/// Whether there is something in `text` that looks like a variable.
pub(super) fn mentions_one(text: &str) -> bool {
    text.contains(OPEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Variables = Variables::of(|name| match name {
        "A" => Some("one".to_owned()),
        "EMPTY" => Some(String::new()),
        "TRICKY" => Some("${A} $${A}".to_owned()),
        _ => None,
    });

    #[test]
    fn variables_are_those_of_compose() {
        for (text, want) in [
            ("plain $A $$ $", "plain $A $$ $"),
            ("${A}", "one"),
            ("<${A}-${A}>", "<one-one>"),
            ("${NONE:-two}", "two"),
            ("${NONE-two}", "two"),
            ("${EMPTY:-two}", "two"),
            ("${EMPTY-two}", ""),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("${NONE:-a:b-c}", "a:b-c"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${A}$${A}${A}", "one${A}one"),
            // What a variable holds is not looked into.
            ("${TRICKY}", "${A} $${A}"),
            ("ü${A}ü", "üoneü"),
        ] {
            assert_eq!(SOME.expand(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_not_set_or_no_variable_is_told() {
        assert_eq!(SOME.expand("${NONE}"), Err(Unexpanded::Unset("NONE".to_owned())));
        for text in ["${", "${A", "${}", "${1}", "${A B}", "${A:+x}", "${A:?x}", "${ A }", "${NONE:-${A}}", "${ü}"] {
            assert_eq!(SOME.expand(text), Err(Unexpanded::Form), "{text}");
        }
    }
}
