//! YAML text from values, such that any string survives: the one writer of YAML.
//!
//! Owns quoting and block layout. A string is written plain only if every YAML reader takes it for that same string:
//! of version 1.1, as kubectl and the kubelet are, where `yes` and `1_000` are a boolean and a number, or of 1.2.

use serde::Serialize;
use serde_yaml::{Mapping, Value};

/// Words that some YAML reader takes for a boolean or for nothing.
const RESERVED: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];

/// A value on one line: a scalar, or a collection in flow style.
#[must_use]
pub fn inline(value: &Value) -> String {
    let mut out = String::new();
    write_inline(value, &mut out);
    out
}

/// A value in block style, every line of it indented by `indent`, without a final newline.
#[must_use]
pub fn block(value: &Value, indent: usize) -> String {
    let mut out = String::new();
    write_block(value, indent, &mut out);
    out.truncate(out.trim_end_matches('\n').len());
    out
}

/// A whole document, added to `out`. With room for it there, no copy of its secrets is left behind in memory.
pub fn write(document: &Mapping, out: &mut String) {
    if document.is_empty() {
        out.push_str("{}\n");
    }
    write_fields(document, 0, out);
}

/// Anything as a value to be written. It goes by way of JSON, whose enums with content are mappings; straight to YAML they
/// would become tags. What JSON cannot express is null.
#[must_use]
pub fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).ok().and_then(|json| serde_yaml::to_value(json).ok()).unwrap_or_default()
}

/// A whole document of anything.
#[must_use]
pub fn document(of: &impl Serialize) -> String {
    block(&value(of), 0) + "\n"
}

fn is_compound(value: &Value) -> bool {
    match value {
        Value::Sequence(items) => !items.is_empty(),
        Value::Mapping(fields) => !fields.is_empty(),
        _ => false,
    }
}

fn write_inline(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => write_string(text, is_plain(text), out),
        Value::Sequence(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_inline(item, out);
            }
            out.push(']');
        }
        Value::Mapping(fields) => {
            out.push('{');
            for (i, (name, field)) in fields.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_inline(name, out);
                out.push_str(": ");
                write_inline(field, out);
            }
            out.push('}');
        }
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(value) => out.push_str(&value.to_string()),
        Value::Tagged(tagged) => {
            out.push_str(&format!("{} ", tagged.tag));
            write_inline(&tagged.value, out);
        }
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write_fields(fields: &Mapping, indent: usize, out: &mut String) {
    for (name, field) in fields {
        pad(indent, out);
        write_inline(name, out);
        out.push(':');
        match field {
            // Lists stand below their key's own column, as kubectl writes them.
            Value::Sequence(_) if is_compound(field) => {
                out.push('\n');
                write_block(field, indent, out);
            }
            Value::Mapping(_) if is_compound(field) => {
                out.push('\n');
                write_block(field, indent + 2, out);
            }
            _ => {
                out.push(' ');
                write_leaf(field, indent + 2, out);
            }
        }
    }
}

fn write_block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Mapping(fields) if !fields.is_empty() => write_fields(fields, indent, out),
        Value::Sequence(items) if !items.is_empty() => {
            for item in items {
                pad(indent, out);
                out.push_str("- ");
                if is_compound(item) {
                    let start = out.len();
                    write_block(item, indent + 2, out);
                    // Its first line goes on where the dash is.
                    out.replace_range(start..start + indent + 2, "");
                } else {
                    write_leaf(item, indent + 2, out);
                }
            }
        }
        _ => {
            pad(indent, out);
            write_leaf(value, indent + 2, out);
        }
    }
}

/// The rest of a line, and the lines of a literal block where that shows the string as it is.
fn write_leaf(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(text) if fits_literal(text) => {
            out.push_str(if text.ends_with('\n') { "|\n" } else { "|-\n" });
            for line in text.lines() {
                if !line.is_empty() {
                    pad(indent, out);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        Value::String(text) => {
            write_string(text, is_plain_in_block(text), out);
            out.push('\n');
        }
        _ => {
            write_inline(value, out);
            out.push('\n');
        }
    }
}

/// Whether a literal block gives exactly this text back: several lines, all of it
/// printable, the first one not indented, one newline at the end or none.
fn fits_literal(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n', '\t'])
        && text.chars().all(|c| c == '\n' || (c != '\t' && !needs_escape(c)))
}

fn is_plain(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-'))
        && !RESERVED.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// As [`is_plain`], for a string that is the rest of a line. Some readers mistake a colon, but within brackets only.
fn is_plain_in_block(text: &str) -> bool {
    is_plain(text)
        || text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
            // Without one of these, it is a word, and there was a reason not to leave it plain.
            && text.contains([':', '@', '+', '='])
            && !text.ends_with(':')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-:@+=".contains(c))
}

/// Characters that YAML does not take as they are within double quotes, or that a reader would lose.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn write_string(text: &str, plain: bool, out: &mut String) {
    if plain {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if needs_escape(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;

    const HOSTILE: [&str; 26] = [
        "",
        " ",
        "a b",
        "it's",
        "say \"hi\"",
        "back\\slash",
        "a: b",
        "a #b",
        "- a",
        "{{ x }}",
        "{% if %}",
        "line\nline",
        "line\n  line\n",
        "\nline",
        "end\n\n",
        "tab\there\nx",
        "\u{0}\u{7f}\u{85}\u{2028}\u{feff}",
        "größe 🚀",
        "yes",
        "NULL",
        "0x1f",
        "1e3",
        "~",
        "*.*",
        "2026-11-24",
        "a\r\nb",
    ];

    #[test]
    fn any_string_survives_in_any_place() {
        for text in HOSTILE {
            for value in [
                json!(text),
                json!({ text: text }),
                json!([text, [text]]),
                json!({"a": [{ text: [text, text] }], "b": {"c": text}}),
            ] {
                let yaml = super::value(&value);
                for written in [inline(&yaml), block(&yaml, 0) + "\n", format!("x:\n{}\n", block(&yaml, 2))] {
                    let read: Json = serde_yaml::from_str(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
                    assert!(read == value || read == json!({ "x": value }), "{text:?}\n{written}");
                }
            }
        }
    }

    #[test]
    fn text_that_yaml_1_1_mistakes_is_quoted() {
        for text in [
            "y",
            "No",
            "ON",
            "off",
            "1_000",
            "0x1_f",
            "+1_0",
            "1e3",
            "0x1f",
            "0b1",
            "0o7",
            "0123",
            "+12",
            "~",
            "null",
            "True",
            ".inf",
            "1.5",
            "1:30",
            "2026-11-24",
            "=",
            "<<",
        ] {
            assert_eq!(document(&json!({"a": [text]})), format!("a:\n- \"{text}\"\n"));
        }
        for text in ["https://127.0.0.1:6443", "LS0tLS1CRUdJTi+/==", "kubernetes-admin@kind", "/etc/kubernetes/pki"] {
            assert_eq!(document(&json!({"a": text})), format!("a: {text}\n"));
        }
        assert_eq!(document(&json!({"a": "yes, sir", "b": "c:"})), "a: \"yes, sir\"\nb: \"c:\"\n");
    }

    #[test]
    fn what_only_yaml_can_say_survives() {
        for text in ["1: {true: null}\na: !tag [x, y]\n", "{}\n", "a: {}\nb: []\nc: 1.5\n"] {
            let read: Value = serde_yaml::from_str(text).unwrap();
            let mut written = String::new();
            write(read.as_mapping().unwrap(), &mut written);
            assert_eq!(serde_yaml::from_str::<Value>(&written).unwrap(), read, "{written}");
        }
    }

    #[test]
    fn blocks_look_like_kubectls() {
        let value = json!({
            "kind": "Policy", "empty": [], "none": {}, "number": 1, "b": true,
            "rules": [{"level": "None", "verbs": ["get", "list"]}, "10"],
            "text": "a = 1\n\nb = 2\n",
        });
        assert_eq!(
            block(&super::value(&value), 2),
            "  kind: Policy\n  empty: []\n  none: {}\n  number: 1\n  b: true\n  rules:\n  - level: None\n    verbs:\n    \
             - get\n    - list\n  - \"10\"\n  text: |\n    a = 1\n\n    b = 2"
        );
    }
}
