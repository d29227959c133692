//! Text from outside, made fit to be shown.
//!
//! Owns which characters could steer a terminal, or show something else than what is there. Nodes' output, objects'
//! names, profiles and imported files are shown through one of these functions. And how things are counted in words.

/// Whether `c` steers a terminal or reorders what is shown: control characters but line ends and tabs, and Unicode's
/// marks for lines and directions.
fn steers(c: char) -> bool {
    let marks = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    marks || c.is_control() && !matches!(c, '\n' | '\t')
}

/// So many of something: `1 node`, `2 nodes`.
#[must_use]
pub fn counted<N: std::fmt::Display + From<u8> + PartialEq>(count: N, one: &str) -> String {
    let plural = if count == N::from(1) { "" } else { "s" };
    format!("{count} {one}{plural}")
}

/// `text` without characters that steer; line ends and tabs stay.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !steers(*c)).collect()
}

/// `text` with a stand-in of as many bytes for each character that steers, so that places in it stay the same.
#[must_use]
pub fn printable_in_place(text: &str) -> String {
    let stand_in = |c: char| match c.len_utf8() {
        _ if !steers(c) => c,
        1 => ' ',
        2 => '·',
        _ => char::REPLACEMENT_CHARACTER,
    };
    text.chars().map(stand_in).collect()
}

/// JSON whose strings have characters that steer escaped; serde_json does so with some of them only.
#[must_use]
pub fn printable_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // All of them lie in Unicode's basic plane.
        if steers(c) {
            text.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            text.push(c);
        }
    }
    text
}

/// The first line of `text` that is not blank, fit to be a part of a line.
pub(super) fn one_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    printable(line).replace('\t', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\x1b[2J\r\x07\x7f\u{9b}31m\u{202e}b\tc\n";

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable(HOSTILE), "a[2J31mb\tc\n");
        assert_eq!(one_line("\n \x1b[2Jgone\tnow\r\x07\nsecond"), "[2Jgone now");
    }

    #[test]
    fn places_stay_the_same() {
        let shown = printable_in_place(HOSTILE);
        assert_eq!(shown, "a [2J   ·31m\u{fffd}b\tc\n");
        assert_eq!(shown.len(), HOSTILE.len());
    }

    #[test]
    fn json_stays_what_it_is() {
        let json = serde_json::json!({ "a": HOSTILE }).to_string();
        let shown = printable_json(&json);
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap()["a"], HOSTILE);
    }
}
