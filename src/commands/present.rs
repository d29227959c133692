//! Printing results and errors, for people or for programs.

use std::error::Error;
use std::fmt;
use std::io::Write;

use console::Term;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, Severity, SourceCode};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::grammar::Output;
use crate::progress::{printable, printable_json};

/// Any error that a command ends with.
#[derive(Debug)]
pub struct CommandError(Box<dyn Diagnostic + Send + Sync>);

impl<E: Diagnostic + Send + Sync + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

/// Prints a result, as JSON or as the text that `text` makes.
pub(super) fn result(output: Output, value: &impl Serialize, text: impl FnOnce() -> String) {
    let text = match output {
        Output::Json => {
            let mut text = serde_json::to_string_pretty(value)
                .unwrap_or_else(|error| json!({"error": error.to_string()}).to_string());
            text.push('\n');
            printable_json(&text)
        }
        Output::Text => printable(&text()),
    };
    print(text.as_bytes());
}

/// Writes to standard output. A reader that has gone away (`kprov ls | head -1`) is no error.
pub(super) fn print(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// How many columns the terminal has that results go to; none if they go elsewhere.
pub(super) fn columns() -> Option<usize> {
    columns_of(&Term::stdout())
}

fn columns_of(terminal: &Term) -> Option<usize> {
    terminal.size_checked().filter(|_| terminal.is_term()).map(|(_, columns)| columns.into())
}

/// A line that fits into so many columns: what is beyond is left out, and that is shown.
pub(super) fn fitted(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

/// A table with aligned columns.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}", width = *width)).collect();
        format!("{}\n", padded.join("   ").trim_end())
    };
    let head: Vec<String> = head.iter().map(|&cell| cell.to_owned()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

/// Prints an error to standard error, fit to be shown.
pub fn print_error(output: Output, error: &CommandError) {
    let error = error.0.as_ref();
    let text = match output {
        Output::Json => printable_json(&format!("{}\n", json!({"error": describe(error)}))),
        Output::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            drawn(error, if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() })
        }
    };
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// How wide an error is where there is room, and how wide at least.
const ERROR_COLUMNS: (usize, usize) = (110, 40);

fn drawn(error: &dyn Diagnostic, theme: GraphicalTheme) -> String {
    let error = Shown::of(error);
    let (most, least) = ERROR_COLUMNS;
    let width = columns_of(&Term::stderr()).map_or(most, |columns| columns.clamp(least, most));
    let handler = GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false);
    let mut text = String::new();
    if handler.render_report(&mut text, &error).is_err() {
        text = format!("{error}\n");
    }
    text
}

/// A diagnostic whose texts are fit to be shown: any of them may have come from a node or a file. The source that it
/// quotes was made so when it was read, since places in it count bytes.
#[derive(Debug)]
struct Shown<'e> {
    inner: &'e dyn Diagnostic,
    message: String,
    help: Option<String>,
    labels: Option<Vec<LabeledSpan>>,
    related: Vec<Shown<'e>>,
    cause: Option<Box<Shown<'e>>>,
    plain_cause: Option<ShownCause>,
}

/// A cause that is no diagnostic.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct ShownCause {
    message: String,
    source: Option<Box<ShownCause>>,
}

impl<'e> Shown<'e> {
    fn of(inner: &'e dyn Diagnostic) -> Self {
        let label = |label: LabeledSpan| {
            let text = label.label().map(printable);
            if label.primary() {
                LabeledSpan::new_primary_with_span(text, *label.inner())
            } else {
                LabeledSpan::new_with_span(text, *label.inner())
            }
        };
        let cause = inner.diagnostic_source();
        Self {
            inner,
            message: printable(&inner.to_string()),
            help: inner.help().map(|help| printable(&help.to_string())),
            labels: inner.labels().map(|labels| labels.map(label).collect()),
            related: inner.related().into_iter().flatten().map(Self::of).collect(),
            plain_cause: inner.source().filter(|_| cause.is_none()).map(ShownCause::of),
            cause: cause.map(|cause| Box::new(Self::of(cause))),
        }
    }
}

impl ShownCause {
    fn of(cause: &(dyn Error + 'static)) -> Self {
        let source = cause.source().map(|source| Box::new(Self::of(source)));
        Self { message: printable(&cause.to_string()), source }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Shown<'_> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.plain_cause.as_ref().map(|cause| cause as &dyn Error)
    }
}

impl Diagnostic for Shown<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.inner.code()
    }

    fn severity(&self) -> Option<Severity> {
        self.inner.severity()
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.inner.source_code()
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.labels.as_ref().map(|labels| Box::new(labels.iter().cloned()) as Box<dyn Iterator<Item = _>>)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.related.is_empty() {
            return None;
        }
        Some(Box::new(self.related.iter().map(|related| related as &dyn Diagnostic)))
    }

    fn diagnostic_source(&self) -> Option<&dyn Diagnostic> {
        self.cause.as_ref().map(|cause| cause.as_ref() as &dyn Diagnostic)
    }
}

/// An error as JSON: message, code, help, where in a file, and what caused it.
fn describe(error: &dyn Diagnostic) -> Value {
    let related: Vec<Value> = error.related().into_iter().flatten().map(describe).collect();
    let mut value = json!({"message": error.to_string()});
    if let Some(code) = error.code() {
        value["code"] = code.to_string().into();
    }
    if let Some(help) = error.help() {
        value["help"] = help.to_string().into();
    }
    if let (Some(source), Some(label)) = (error.source_code(), error.labels().and_then(|mut labels| labels.next()))
        && let Ok(place) = source.read_span(label.inner(), 0, 0)
    {
        value["file"] = place.name().into();
        value["line"] = (place.line() + 1).into();
        value["column"] = (place.column() + 1).into();
    }
    if let Some(cause) = error.diagnostic_source() {
        value["cause"] = describe(cause);
    } else if let Some(cause) = error.source() {
        value["cause"] = json!({"message": cause.to_string()});
    }
    if !related.is_empty() {
        value["related"] = related.into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_at_the_edge() {
        assert_eq!(fitted("abcdef", 6), "abcdef");
        assert_eq!(fitted("äöüßef", 5), "äöüß…");
        assert_eq!(fitted("abc", 0), "…");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "running".to_owned()], vec!["longer".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME     STATE\na        running\nlonger   x\n");
    }

    #[test]
    fn errors_for_programs_carry_their_code_and_help() {
        let error = crate::operations::cluster::ClusterError::None;
        let value = describe(&error);
        assert_eq!(value["code"], "kprov::cluster::none");
        assert_eq!(value["help"], "`kprov up` makes one");
    }

    #[derive(Debug, thiserror::Error, Diagnostic)]
    #[error("the node said \x1b[2J{said}\r")]
    #[diagnostic(code(kprov::test), help("look at \x1b]0;{said}\x07"))]
    struct Hostile {
        said: &'static str,
        #[source_code]
        text: miette::NamedSource<String>,
        #[label("here \x1b[31m{said}")]
        place: miette::SourceSpan,
        #[related]
        related: Vec<Hostile>,
        #[source]
        cause: std::io::Error,
    }

    fn hostile(related: Vec<Hostile>) -> Hostile {
        Hostile {
            said: "hello\u{9b}31m",
            text: miette::NamedSource::new("file", "some text\n".to_owned()),
            place: (5, 4).into(),
            related,
            cause: std::io::Error::other("out \x1b[8m of order\u{202e}"),
        }
    }

    #[test]
    fn no_text_of_an_error_steers_the_terminal() {
        let error = hostile(vec![hostile(Vec::new())]);
        let text = drawn(&error, GraphicalTheme::unicode_nocolor());
        assert_eq!(printable(&text), text);
        for part in
            ["the node said [2Jhello31m", "look at ]0;hello31m", "here [31mhello31m", "out [8m of order", "some text"]
        {
            assert!(text.matches(part).count() == 2, "{part} in {text}");
        }
        // With colours, only those of the drawing itself are left.
        let text = drawn(&error, GraphicalTheme::unicode());
        assert!(!text.contains("\x1b[2J") && !text.contains("\x1b[8m") && !text.contains('\x07'), "{text}");
        assert!(!text.contains('\u{9b}') && !text.contains('\u{202e}'), "{text}");
    }
}
