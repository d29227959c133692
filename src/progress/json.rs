//! The front end for programs: one JSON object a line.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::{Level, Sink, State, Subject};

/// Writes events as JSON lines.
pub(super) struct Json<W> {
    // None once closed, or once nobody reads.
    out: Mutex<Option<W>>,
}

impl<W: Write> Json<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: Mutex::new(Some(out)) }
    }

    fn write(&self, object: Map<String, Value>) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = out.as_mut() {
            // In one piece, so that other writers to the same file do not get in between.
            let line = format!("{}\n", Value::Object(object));
            if writer.write_all(line.as_bytes()).and_then(|()| writer.flush()).is_err() {
                *out = None;
            }
        }
    }
}

impl<W: Write + Send> Sink for Json<W> {
    fn step(&self, step: &Subject, state: &State) {
        let (word, extra, after) = match state {
            State::Started => ("started", None, None),
            State::Detail(text) => ("running", Some(("detail", text)), None),
            State::Done(after) => ("done", None, Some(after)),
            State::Failed { reason, after } => ("failed", Some(("error", reason)), Some(after)),
            State::Aborted(after) => ("aborted", None, Some(after)),
        };
        let mut object = Map::new();
        object.insert("event".to_owned(), json!("step"));
        object.insert("state".to_owned(), json!(word));
        if let Some(node) = &step.node {
            object.insert("node".to_owned(), json!(node));
        }
        object.insert("name".to_owned(), json!(step.name));
        if let Some((key, text)) = extra {
            object.insert(key.to_owned(), json!(text));
        }
        if let Some(after) = after {
            object.insert("seconds".to_owned(), json!((after.as_secs_f64() * 1000.0).round() / 1000.0));
        }
        self.write(object);
    }

    fn message(&self, level: Level, text: &str) {
        let event = match level {
            Level::Info => "info",
            Level::Warning => "warning",
        };
        let mut object = Map::new();
        object.insert("event".to_owned(), json!(event));
        object.insert("message".to_owned(), json!(text));
        self.write(object);
    }

    fn close(&self) {
        *self.out.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Reporter;
    use super::super::tests::{Broken, Shared};
    use super::*;

    #[test]
    fn every_event_is_an_object_on_its_line() {
        let out = Shared::default();
        let json = Json::new(out.clone());
        let node = Subject { id: 0, node: Some("demo-worker".to_owned()), name: "Join".to_owned() };
        let cluster = Subject { id: 1, node: None, name: "CNI".to_owned() };
        json.step(&node, &State::Started);
        json.step(&node, &State::Detail("a \"b\"".to_owned()));
        json.step(&cluster, &State::Done(Duration::from_micros(1_234_567)));
        json.step(&node, &State::Failed { reason: "no".to_owned(), after: Duration::from_secs(2) });
        json.message(Level::Warning, "two\nlines");
        json.close();
        json.message(Level::Info, "unseen");
        assert_eq!(
            out.text(),
            r#"{"event":"step","state":"started","node":"demo-worker","name":"Join"}
{"event":"step","state":"running","node":"demo-worker","name":"Join","detail":"a \"b\""}
{"event":"step","state":"done","name":"CNI","seconds":1.235}
{"event":"step","state":"failed","node":"demo-worker","name":"Join","error":"no","seconds":2.0}
{"event":"warning","message":"two\nlines"}
"#
        );
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let reporter = Reporter::to(Json::new(Broken));
        reporter.stage("a").done();
        reporter.info("b");
    }
}
