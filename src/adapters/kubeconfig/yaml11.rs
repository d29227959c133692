//! Writing YAML for readers of both versions. kubectl and kind read YAML 1.1, where
//! `yes` and `1_000` are a boolean and a number; serde_yaml reads and writes YAML 1.2,
//! where they are text and need no quotes.
//!
//! Owns that difference: text that 1.1 takes for something else is quoted, and
//! kubeconfig's booleans, which may have been written as `yes`, become booleans.

use serde_yaml::{Mapping, Value};
use zeroize::Zeroizing;

/// kubeconfig's booleans. Everywhere else `yes` can only have been meant as text.
const BOOLEANS: [&str; 4] = ["insecure-skip-tls-verify", "disable-compression", "provideClusterInfo", "colors"];

/// Stands for the quote around a text that serde_yaml would write without one: a character that YAML does not
/// mind and nobody uses.
const QUOTE: char = '\u{f5c7}';

/// The text of `root`, about `size` bytes of it; `None` if it cannot be written.
pub(super) fn to_text(root: &Mapping, size: usize) -> Option<Zeroizing<String>> {
    // Room for all of it at once: a buffer that grows leaves copies of keys behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + size / 2 + 1024));
    let mut marked = Value::Mapping(root.clone());
    if !mark(&mut marked) {
        serde_yaml::to_writer(&mut *bytes, root).ok()?;
        return String::from_utf8(std::mem::take(&mut *bytes)).ok().map(Zeroizing::new);
    }
    serde_yaml::to_writer(&mut *bytes, &marked).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let mut quoted = Zeroizing::new(String::with_capacity(text.len()));
    quoted.extend(text.chars().map(|c| if c == QUOTE { '\'' } else { c }));
    Some(quoted)
}

/// Marks what needs quotes, and mends booleans. Says whether anything changed.
fn mark(value: &mut Value) -> bool {
    match value {
        Value::String(text) => {
            let quote = boolean(text).is_some() || spaced_number(text);
            if quote {
                *text = format!("{QUOTE}{text}{QUOTE}");
            }
            quote
        }
        Value::Sequence(items) => items.iter_mut().fold(false, |changed, item| mark(item) | changed),
        Value::Mapping(mapping) => mapping.iter_mut().fold(false, |changed, (key, value)| {
            let meant = key.as_str().is_some_and(|key| BOOLEANS.contains(&key));
            match value.as_str().and_then(boolean).filter(|_| meant) {
                Some(boolean) => {
                    *value = Value::Bool(boolean);
                    true
                }
                None => mark(value) | changed,
            }
        }),
        Value::Tagged(tagged) => mark(&mut tagged.value),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What `text` means to YAML 1.1, if it is a boolean there alone.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// Whether YAML 1.1 may read a number with underscores. Rather too often than too rarely: quotes do no harm.
fn spaced_number(text: &str) -> bool {
    text.contains('_')
        && text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c))
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> String {
        to_text(&serde_yaml::from_str(text).unwrap(), text.len()).unwrap().to_string()
    }

    #[test]
    fn text_that_yaml_1_1_mistakes_is_quoted() {
        for text in [
            "y", "No", "ON", "off", "1_000", "0x1_f", "+1_0", "1e3", "0x1f", "0b1", "0o7", "0123", "+12", "~", "null",
            "True", ".inf", "1.5",
        ] {
            assert_eq!(written(&format!("a: ['{text}']\n")), format!("a:\n- '{text}'\n"));
        }
        assert_eq!(written("a: 'yes, sir'\nb: 'y_'\n"), "a: yes, sir\nb: y_\n");
    }

    #[test]
    fn booleans_stay_booleans() {
        assert_eq!(
            written("a: {insecure-skip-tls-verify: yes, colors: off}"),
            "a:\n  insecure-skip-tls-verify: true\n  colors: false\n"
        );
        assert_eq!(written("a: [true, {disable-compression: false}]"), "a:\n- true\n- disable-compression: false\n");
    }

    #[test]
    fn blocks_of_text_are_left_alone() {
        assert_eq!(written("a: \"yes\\nno\\n\"\n"), "a: |\n  yes\n  no\n");
    }
}
