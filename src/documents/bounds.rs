//! How large YAML may become that is not the user's own: a few lines of aliases unfold to gigabytes.

use std::collections::HashMap;

use granit_parser::{Event, Parser};

/// The most bytes of memory that a document may take once its aliases are expanded: a small text can grow to any
/// size by them, by a few values that are long as well as by many short ones.
pub(crate) const MAX_EXPANDED: usize = 32 << 20;

/// The deepest nesting of other YAML, as of its readers: schemas of custom resources go deep.
const MAX_STREAM_DEPTH: usize = 128;

/// What a value costs beside its text, in bytes; more than any reader's.
const VALUE: usize = 128;

/// Whether `text` is YAML at all, as any number of documents, and stays within bounds when its aliases are expanded.
///
/// Only sizes are kept, so that this is safe on any text, before other readers build anything of it.
///
/// # Errors
/// The parser's own words where the syntax is broken; otherwise which bound is exceeded.
pub fn check_stream(text: &str) -> Result<(), String> {
    // Bytes of each anchored value; of each open collection its anchor and the bytes so far.
    let mut anchors: HashMap<usize, usize> = HashMap::new();
    let mut open: Vec<(usize, usize)> = Vec::new();
    for event in Parser::new_from_str(text) {
        let (size, anchor) = match event.map_err(|error| error.to_string())?.0 {
            Event::Scalar(text, _, anchor, _) => (VALUE + text.len(), anchor),
            Event::Alias(anchor) => (anchors.get(&anchor).copied().ok_or("an alias contains itself")?, 0),
            Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) => {
                open.push((anchor, VALUE));
                if open.len() > MAX_STREAM_DEPTH {
                    return Err(too_deep(MAX_STREAM_DEPTH));
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some((anchor, size)) => (size, anchor),
                None => continue,
            },
            _ => continue,
        };
        if anchor > 0 {
            anchors.insert(anchor, size);
        }
        let total = size.saturating_add(open.last().map_or(0, |(_, size)| *size));
        if total > MAX_EXPANDED {
            return Err(too_large());
        }
        if let Some((_, size)) = open.last_mut() {
            *size = total;
        }
    }
    Ok(())
}

pub(crate) fn too_large() -> String {
    format!("more than {} MiB once its aliases are expanded", MAX_EXPANDED >> 20)
}

pub(crate) fn too_deep(most: usize) -> String {
    format!("nested more than {most} deep")
}

#[cfg(test)]
pub(crate) mod tests {
    /// A megabyte that is 100 KB again and again: 20 GB of few values.
    pub(crate) fn bomb() -> String {
        format!("a: &a {}\nb: [{}]\n", "x".repeat(100 << 10), vec!["*a"; 199_000].join(","))
    }
}
