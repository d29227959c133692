//! Screens as one animated picture, which needs neither script nor network.
//!
//! Each line that was ever shown is drawn once, and used by every screen that shows it.

use std::collections::HashMap;
use std::fmt::Write;

use crate::terminal::{Frame, Line, Span};

const CELL_WIDTH: f64 = 7.83;
const CELL_HEIGHT: f64 = 17.0;
const MARGIN: f64 = 14.0;

/// The colours of a terminal: black, red, green, yellow, blue, magenta, cyan, white.
const COLOURS: [&str; 8] = ["#6e7681", "#ff7b72", "#7ee787", "#e3b341", "#79c0ff", "#d2a8ff", "#76e3ea", "#e6edf3"];

/// Draws the screens, each for as long as it was there divided by `speed`.
pub(crate) fn draw(frames: &[Frame], rows: u16, columns: u16, speed: f64) -> String {
    let (width, height) =
        (f64::from(columns) * CELL_WIDTH + 2.0 * MARGIN, f64::from(rows) * CELL_HEIGHT + 2.0 * MARGIN);
    let total: f64 = frames.iter().map(|frame| frame.time.as_secs_f64() / speed).sum();
    let mut known: HashMap<&Line, usize> = HashMap::new();
    let (mut lines, mut screens, mut rules) = (String::new(), String::new(), String::new());
    let mut begin = 0.0;
    for (number, frame) in frames.iter().enumerate() {
        let end = begin + frame.time.as_secs_f64() / speed / total * 100.0;
        // Shown from `begin` to `end`; two stops at the same place make a step.
        let _ = write!(
            rules,
            "@keyframes f{number}{{0%,{begin:.3}%{{visibility:hidden}}{begin:.3}%,{end:.3}%{{visibility:visible}}{end:.3}%,100%{{visibility:hidden}}}}\
             #s{number}{{animation:f{number} {total:.2}s step-end infinite}}"
        );
        let _ = write!(screens, "<g id=\"s{number}\" class=\"s\">");
        for (row, line) in frame.lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
            let next = known.len();
            let id = *known.entry(line).or_insert_with(|| {
                let _ = write!(lines, "<text id=\"l{next}\">{}</text>", line.iter().map(span).collect::<String>());
                next
            });
            let y = MARGIN + (row as f64 + 0.8) * CELL_HEIGHT;
            let _ = write!(screens, "<use href=\"#l{id}\" x=\"{MARGIN}\" y=\"{y:.1}\"/>");
        }
        screens.push_str("</g>\n");
        begin = end;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" role=\"img\" aria-label=\"A terminal in which kprov runs\">\n\
         <style>text{{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,\"DejaVu Sans Mono\",monospace;fill:#e6edf3;white-space:pre}}.s{{visibility:hidden}}.b{{font-weight:600}}.d{{opacity:.6}}{rules}</style>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#0d1117\"/>\n<defs>{lines}</defs>\n{screens}</svg>\n"
    )
}

fn span(span: &Span) -> String {
    let mut attributes = String::new();
    if let Some(colour) = span.colour {
        let _ = write!(attributes, " fill=\"{}\"", COLOURS[usize::from(colour % 8)]);
    }
    match (span.bold, span.dim) {
        (true, _) => attributes.push_str(" class=\"b\""),
        (_, true) => attributes.push_str(" class=\"d\""),
        _ => {}
    }
    // Leading blanks would be lost between elements.
    let text = span.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace(' ', "\u{a0}");
    if attributes.is_empty() { text } else { format!("<tspan{attributes}>{text}</tspan>") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn line(text: &str) -> Line {
        vec![Span { text: text.to_owned(), colour: Some(2), bold: false, dim: false }]
    }

    #[test]
    fn a_line_is_drawn_once_and_cannot_break_out() {
        let frame = |lines: Vec<Line>| Frame { lines, time: Duration::from_secs(1) };
        let picture = draw(&[frame(vec![line("a<b")]), frame(vec![line("a<b"), line("c")])], 2, 10, 2.0);
        assert_eq!(picture.matches("a&lt;b").count(), 1);
        assert_eq!(picture.matches("href=\"#l0\"").count(), 2);
        assert!(picture.contains("animation:f0 1.00s"));
        assert!(picture.contains("50.000%,100%{visibility:hidden}"));
    }
}
