//! YAML text from values, such that any string survives.
//!
//! Owns quoting and block layout. A string is written plain only if every YAML
//! reader, of version 1.1 (Go's) or 1.2, takes it for that same string.

use serde_json::Value;

/// Words that some YAML reader takes for a boolean or for nothing.
const RESERVED: [&str; 10] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan"];

/// A value on one line: a scalar, or a collection in flow style.
pub(super) fn inline(value: &Value) -> String {
    let mut out = String::new();
    write_inline(value, &mut out);
    out
}

/// A value in block style, every line of it indented by `indent`, without a final newline.
pub(super) fn block(value: &Value, indent: usize) -> String {
    let mut out = String::new();
    write_block(value, indent, &mut out);
    out.truncate(out.trim_end_matches('\n').len());
    out
}

fn is_compound(value: &Value) -> bool {
    match value {
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => false,
    }
}

fn write_inline(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_inline(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push('{');
            for (i, (name, field)) in fields.iter().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                write_string(name, out);
                out.push_str(": ");
                write_inline(field, out);
            }
            out.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn write_block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                pad(indent, out);
                write_string(name, out);
                out.push(':');
                match field {
                    // Lists stand below their key's own column, as kubectl writes them.
                    Value::Array(_) if is_compound(field) => {
                        out.push('\n');
                        write_block(field, indent, out);
                    }
                    Value::Object(_) if is_compound(field) => {
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
        Value::Array(items) if !items.is_empty() => {
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

/// Characters that YAML does not take as they are within double quotes, or that a reader would lose.
fn needs_escape(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
}

fn write_string(text: &str, out: &mut String) {
    if is_plain(text) {
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
    use serde_json::json;

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
                for written in [inline(&value), block(&value, 0) + "\n", format!("x:\n{}\n", block(&value, 2))] {
                    let read: Value = serde_yaml::from_str(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
                    assert!(read == value || read == json!({ "x": value }), "{text:?}\n{written}");
                }
            }
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
            block(&value, 2),
            "  kind: Policy\n  empty: []\n  none: {}\n  number: 1\n  b: true\n  rules:\n  - level: None\n    verbs:\n    \
             - get\n    - list\n  - \"10\"\n  text: |\n    a = 1\n\n    b = 2"
        );
    }
}
