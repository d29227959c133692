//! The plugin's log: a line of JSON on standard error for each event. The journal adds the time. What is logged are
//! names, counts and reasons; key bytes, tokens and requests' contents never reach this module.

use std::io::Write as _;

use serde_json::Value;

/// Writes one line. `details` is an object.
pub(super) fn line(level: &str, event: &str, mut details: Value) {
    details["level"] = level.into();
    details["event"] = event.into();
    // A log that cannot be written is no reason to stop serving.
    let _ = writeln!(std::io::stderr().lock(), "{details}");
}

pub(super) fn info(event: &str, details: Value) {
    line("info", event, details);
}

pub(super) fn error(event: &str, details: Value) {
    line("error", event, details);
}
