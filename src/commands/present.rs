//! Printing results and errors, for people or for programs.

use std::io::Write;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::grammar::Output;

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
            text
        }
        Output::Text => text(),
    };
    print(text.as_bytes());
}

/// Writes to standard output. A reader that has gone away (`kprov ls | head -1`) is no error.
pub(super) fn print(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
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

/// Prints an error to standard error.
pub fn print_error(output: Output, error: &CommandError) {
    let error = error.0.as_ref();
    let text = match output {
        Output::Json => format!("{}\n", json!({"error": describe(error)})),
        Output::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr())
                && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            let theme = if colours { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
            let handler = GraphicalReportHandler::new_themed(theme).with_width(110).with_links(false);
            let mut text = String::new();
            if handler.render_report(&mut text, error).is_err() {
                text = format!("{error}\n");
            }
            text
        }
    };
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
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
}
