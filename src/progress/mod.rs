//! What a user sees of a command while it works.
//!
//! Owns the [`Reporter`], which the code that does the work tells about its steps,
//! the front ends that show them: a terminal, plain lines, JSON lines, a
//! recorder for tests; and the [`Timeline`] of what they took. Leaves results (standard output) and the final error to the
//! command. Everything here goes to standard error.

mod json;
mod plain;
mod printable;
mod recorder;
mod terminal;
mod timeline;

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use console::Term;

pub use printable::{counted, printable, printable_in_place, printable_json};
pub use recorder::{Event, Recorder};
pub use timeline::{Ended, Timed, Timeline};

use printable::one_line;

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It began.
    Started,
    /// What it is at right now.
    Detail(String),
    /// It succeeded, after that long.
    Done(Duration),
    /// It failed.
    Failed {
        /// Why, in one line.
        reason: String,
        /// After that long.
        after: Duration,
    },
    /// It was given up, after that long, since something else failed or the user pressed Ctrl-C.
    Aborted(Duration),
}

/// How a message stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Info,
    Warning,
}

/// A step as the front ends see it.
#[derive(Debug)]
struct Subject {
    /// Tells apart steps of the same name.
    id: u64,
    /// The node that it is about; none if it is about the whole cluster.
    node: Option<String>,
    name: String,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Some(node) => write!(f, "{node}: {}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// A front end.
trait Sink: Send + Sync {
    fn step(&self, step: &Subject, state: &State);
    fn message(&self, level: Level, text: &str);
    /// Shows nothing from now on.
    fn close(&self);
}

/// Nobody looks.
struct Silent;

impl Sink for Silent {
    fn step(&self, _: &Subject, _: &State) {}
    fn message(&self, _: Level, _: &str) {}
    fn close(&self) {}
}

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines that move, for people at a terminal.
    Terminal {
        /// Whether with colours.
        colours: bool,
    },
    /// A line for each step when it ends, for logs.
    Plain,
    /// A JSON object for each event, for programs.
    Json,
}

/// What the choice of a [`Format`] depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Standard error is a terminal.
    pub terminal: bool,
    /// `NO_COLOR` is set.
    pub no_color: bool,
    /// `CI` is set.
    pub ci: bool,
    /// `TERM` is `dumb`.
    pub dumb: bool,
}

impl Surroundings {
    /// This process's.
    #[must_use]
    pub fn from_process() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is = |name, value: &str| std::env::var_os(name).is_some_and(|found| found == value);
        Self {
            terminal: std::io::stderr().is_terminal(),
            no_color: set("NO_COLOR"),
            ci: set("CI") && !is("CI", "false"),
            dumb: is("TERM", "dumb"),
        }
    }
}

impl Format {
    /// JSON on request; otherwise what the surroundings can show.
    #[must_use]
    pub fn choose(json: bool, surroundings: Surroundings) -> Self {
        if json {
            Self::Json
        } else if surroundings.terminal && !surroundings.ci && !surroundings.dumb {
            Self::Terminal { colours: !surroundings.no_color }
        } else {
            Self::Plain
        }
    }
}

/// Where to report steps to. Clones report to the same place, from any thread.
#[derive(Clone)]
pub struct Reporter {
    sink: Arc<dyn Sink>,
    next: Arc<AtomicU64>,
    /// What stages are about, where several things are under way.
    scope: Option<Arc<str>>,
    /// Where it is noted how long steps take.
    timeline: Option<Timeline>,
}

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    /// Reports to standard error.
    #[must_use]
    pub fn new(format: Format) -> Self {
        match format {
            Format::Terminal { colours } => Self::to(terminal::Terminal::new(Term::buffered_stderr(), colours)),
            Format::Plain => Self::to(plain::Plain::new(std::io::stderr(), plain::LONG)),
            Format::Json => Self::to(json::Json::new(std::io::stderr())),
        }
    }

    /// Reports to nobody.
    #[must_use]
    pub fn silent() -> Self {
        Self::to(Silent)
    }

    /// Reports to nobody but the recorder, for tests.
    #[must_use]
    pub fn recording() -> (Self, Recorder) {
        let recorder = Recorder::default();
        (Self::to(recorder.clone()), recorder)
    }

    fn to(sink: impl Sink + 'static) -> Self {
        Self { sink: Arc::new(sink), next: Arc::default(), scope: None, timeline: None }
    }

    /// A reporter to the same place whose stages are about `scope`, for one of several things that are under way.
    #[must_use]
    pub fn scoped(&self, scope: &str) -> Self {
        Self { scope: Some(scope.into()), ..self.clone() }
    }

    /// A reporter to the same place whose steps are timed from now on, by all its clones.
    #[must_use]
    pub fn timed(&self) -> (Self, Timeline) {
        let timeline = Timeline::begin();
        (Self { timeline: Some(timeline.clone()), ..self.clone() }, timeline)
    }

    /// Begins a step on `node`. Any number of steps may run at a time.
    pub fn step(&self, node: &str, name: &str) -> Step {
        self.begin(Some(node), name)
    }

    /// Begins a step that is about the cluster as a whole.
    pub fn stage(&self, name: &str) -> Step {
        self.begin(self.scope.as_deref(), name)
    }

    fn begin(&self, node: Option<&str>, name: &str) -> Step {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let subject = Subject { id, node: node.map(one_line), name: one_line(name) };
        self.sink.step(&subject, &State::Started);
        Step {
            sink: Arc::clone(&self.sink),
            timeline: self.timeline.clone(),
            subject,
            began: Instant::now(),
            ended: false,
        }
    }

    /// Shows a message.
    pub fn info(&self, message: &str) {
        self.sink.message(Level::Info, &printable(message));
    }

    /// Shows a message that the user should not overlook.
    pub fn warn(&self, message: &str) {
        self.sink.message(Level::Warning, &printable(message));
    }

    /// Ends all reporting, by every clone: what the command prints after this (its error, say) is never drawn
    /// over, whatever is still running.
    pub fn close(&self) {
        self.sink.close();
    }
}

/// A step under way. One that is dropped before it is done counts as aborted.
#[must_use = "a step that is dropped counts as aborted"]
pub struct Step {
    sink: Arc<dyn Sink>,
    timeline: Option<Timeline>,
    subject: Subject,
    began: Instant,
    ended: bool,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl Step {
    /// Says what the step is at right now; only the latest detail is shown.
    pub fn detail(&self, text: &str) {
        self.sink.step(&self.subject, &State::Detail(one_line(text)));
    }

    /// The step succeeded.
    pub fn done(mut self) {
        self.end(State::Done(self.began.elapsed()));
    }

    /// The step failed. The first line of `reason` is shown; the whole of it is the command's to print.
    pub fn fail(mut self, reason: impl fmt::Display) {
        self.end(State::Failed { reason: one_line(&reason.to_string()), after: self.began.elapsed() });
    }

    fn end(&mut self, state: State) {
        self.ended = true;
        if let Some(timeline) = &self.timeline {
            timeline.note(&self.subject, self.began, &state);
        }
        self.sink.step(&self.subject, &state);
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.ended {
            self.end(State::Aborted(self.began.elapsed()));
        }
    }
}

/// A duration for people.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        if seconds < 60 {
            write!(f, "{:.1} s", self.0.as_secs_f64())
        } else {
            write!(f, "{} min {:02} s", seconds / 60, seconds % 60)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A writer that tests can look into.
    #[derive(Clone, Default)]
    pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A writer whose reader has gone.
    pub(super) struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn the_format_fits_the_surroundings() {
        let terminal = Surroundings { terminal: true, ..Surroundings::default() };
        let choose = |surroundings| Format::choose(false, surroundings);
        assert_eq!(choose(terminal), Format::Terminal { colours: true });
        assert_eq!(choose(Surroundings { no_color: true, ..terminal }), Format::Terminal { colours: false });
        assert_eq!(choose(Surroundings { ci: true, ..terminal }), Format::Plain);
        assert_eq!(choose(Surroundings { dumb: true, ..terminal }), Format::Plain);
        assert_eq!(choose(Surroundings::default()), Format::Plain);
        assert_eq!(Format::choose(true, terminal), Format::Json);
    }

    #[test]
    fn steps_run_side_by_side_and_end_once() {
        let (reporter, recorder) = Reporter::recording();
        let first = reporter.step("demo-worker", "Joining");
        let clone = reporter.clone();
        std::thread::spawn(move || clone.stage("Storage").done()).join().unwrap();
        first.detail("kubelet\nstarts");
        first.fail("exit code 1\nand more");
        drop(reporter.stage("Waiting"));
        reporter.warn("old");
        assert_eq!(
            recorder.summary(),
            [
                "demo-worker: Joining started",
                "Storage started",
                "Storage done",
                "demo-worker: Joining at kubelet",
                "demo-worker: Joining failed: exit code 1",
                "Waiting started",
                "Waiting aborted",
                "warning: old",
            ]
        );
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(Seconds(Duration::from_millis(7440)).to_string(), "7.4 s");
        assert_eq!(Seconds(Duration::from_secs(125)).to_string(), "2 min 05 s");
    }
}
