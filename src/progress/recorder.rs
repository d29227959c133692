//! The front end for tests: remembers what was reported.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Level, Sink, State, Subject};

/// Something that was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A step began, went on or ended.
    Step {
        /// The node, if it is about one.
        node: Option<String>,
        /// The step's name.
        name: String,
        /// What became of it.
        state: State,
    },
    /// A message.
    Info(String),
    /// A warning.
    Warning(String),
}

/// Everything that was reported, in order.
#[derive(Debug, Clone, Default)]
pub struct Recorder {
    events: Arc<Mutex<Vec<Event>>>,
}

impl Recorder {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The events so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    /// The events so far in words, without durations, for tests to compare.
    #[must_use]
    pub fn summary(&self) -> Vec<String> {
        let words = |event: &Event| match event {
            Event::Info(text) => format!("info: {text}"),
            Event::Warning(text) => format!("warning: {text}"),
            Event::Step { node, name, state } => {
                let what = node.as_ref().map_or_else(|| name.clone(), |node| format!("{node}: {name}"));
                match state {
                    State::Started => format!("{what} started"),
                    State::Detail(text) => format!("{what} at {text}"),
                    State::Done(_) => format!("{what} done"),
                    State::Failed { reason, .. } => format!("{what} failed: {reason}"),
                    State::Aborted(_) => format!("{what} aborted"),
                }
            }
        };
        self.lock().iter().map(words).collect()
    }
}

impl Sink for Recorder {
    fn step(&self, step: &Subject, state: &State) {
        self.lock().push(Event::Step { node: step.node.clone(), name: step.name.clone(), state: state.clone() });
    }

    fn message(&self, level: Level, text: &str) {
        self.lock().push(match level {
            Level::Info => Event::Info(text.to_owned()),
            Level::Warning => Event::Warning(text.to_owned()),
        });
    }

    // Tests want to know what came after, too.
    fn close(&self) {}
}
