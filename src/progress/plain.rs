//! The front end for logs: a line when a step ends and, so that a long silence is
//! explained, one when a step turns out to be long.

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Level, Seconds, Sink, State, Subject};

/// How long a step runs before it is worth a line of its own.
pub(super) const LONG: Duration = Duration::from_secs(3);

/// Writes lines.
pub(super) struct Plain<W: Write + Send + 'static> {
    shared: Arc<Shared<W>>,
}

struct Shared<W> {
    inner: Mutex<Inner<W>>,
    changed: Condvar,
    long: Duration,
}

struct Inner<W> {
    // None once closed, or once nobody reads.
    out: Option<W>,
    // Steps that are running and have not been announced, oldest first.
    silent: Vec<(u64, String, Instant)>,
    watched: bool,
}

impl<W: Write> Inner<W> {
    fn line(&mut self, line: &str) {
        if let Some(writer) = self.out.as_mut()
            && writer.write_all(format!("{line}\n").as_bytes()).and_then(|()| writer.flush()).is_err()
        {
            self.out = None;
        }
    }
}

impl<W> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W: Write> Shared<W> {
    /// Announces steps that have become long, until closed.
    fn watch(&self) {
        let mut inner = self.lock();
        while inner.out.is_some() {
            let wait = inner.silent.first().map(|(_, _, began)| self.long.saturating_sub(began.elapsed()));
            inner = match wait {
                Some(Duration::ZERO) => {
                    let (_, label, _) = inner.silent.remove(0);
                    inner.line(&format!("• {label} …"));
                    inner
                }
                Some(wait) => self.changed.wait_timeout(inner, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

impl<W: Write + Send + 'static> Plain<W> {
    pub(super) fn new(out: W, long: Duration) -> Self {
        let inner = Inner { out: Some(out), silent: Vec::new(), watched: false };
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), changed: Condvar::new(), long }) }
    }
}

impl<W: Write + Send + 'static> Sink for Plain<W> {
    fn step(&self, step: &Subject, state: &State) {
        let mut inner = self.shared.lock();
        let line = match state {
            State::Started => {
                inner.silent.push((step.id, step.to_string(), Instant::now()));
                if !inner.watched {
                    inner.watched = true;
                    let shared = Arc::clone(&self.shared);
                    // Without a thread there are no such lines; the others come all the same.
                    let _ = thread::Builder::new().name("progress".to_owned()).spawn(move || shared.watch());
                }
                self.shared.changed.notify_all();
                return;
            }
            State::Detail(_) => return,
            State::Done(after) => format!("✓ {step} ({})", Seconds(*after)),
            State::Failed { reason, after } => format!("✗ {step}: {reason} ({})", Seconds(*after)),
            State::Aborted(after) => format!("– {step}: given up ({})", Seconds(*after)),
        };
        inner.silent.retain(|(id, _, _)| *id != step.id);
        inner.line(&line);
    }

    fn message(&self, level: Level, text: &str) {
        let mut inner = self.shared.lock();
        match level {
            Level::Info => inner.line(text),
            Level::Warning => inner.line(&format!("! {text}")),
        }
    }

    fn close(&self) {
        self.shared.lock().out = None;
        self.shared.changed.notify_all();
    }
}

impl<W: Write + Send + 'static> Drop for Plain<W> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reporter;
    use super::super::tests::{Broken, Shared as Out};
    use super::*;

    #[test]
    fn a_step_is_a_line_at_its_end() {
        let out = Out::default();
        let plain = Plain::new(out.clone(), LONG);
        let step =
            |node: Option<&str>, name: &str| Subject { id: 0, node: node.map(str::to_owned), name: name.to_owned() };
        plain.step(&step(None, "Network"), &State::Started);
        plain.step(&step(None, "Network"), &State::Detail("unseen".to_owned()));
        plain.step(&step(None, "Network"), &State::Done(Duration::from_millis(1200)));
        let failed = State::Failed { reason: "exit code 1".to_owned(), after: Duration::from_secs(61) };
        plain.step(&step(Some("demo-worker"), "Joining"), &failed);
        plain.step(&step(None, "Storage"), &State::Aborted(Duration::from_millis(50)));
        plain.message(Level::Warning, "old engine");
        plain.message(Level::Info, "logs are in /x");
        plain.close();
        plain.message(Level::Info, "unseen");
        assert_eq!(
            out.text(),
            "✓ Network (1.2 s)\n✗ demo-worker: Joining: exit code 1 (1 min 01 s)\n– Storage: given up (0.1 s)\n! old engine\n\
             logs are in /x\n"
        );
    }

    #[test]
    fn a_long_step_is_announced_once() {
        let out = Out::default();
        let reporter = Reporter::to(Plain::new(out.clone(), Duration::from_millis(200)));
        reporter.stage("Short").done();
        let long = reporter.stage("Long");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !out.text().contains('•') && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        long.done();
        let text = out.text();
        let mut lines = text.lines().map(|line| line.split(" (").next().unwrap_or_default());
        assert_eq!(lines.by_ref().collect::<Vec<_>>(), ["✓ Short", "• Long …", "✓ Long"]);
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let reporter = Reporter::to(Plain::new(Broken, LONG));
        reporter.stage("a").done();
        reporter.warn("b");
    }
}
