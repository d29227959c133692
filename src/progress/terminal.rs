//! The front end for people: a moving line for each step under way, at the bottom;
//! above them a line for each step that has ended.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle, TermLike};

use super::{Level, Seconds, Sink, State, Subject};

const TICK: Duration = Duration::from_millis(100);
const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/// Draws on a terminal.
pub(super) struct Terminal {
    colours: bool,
    style: ProgressStyle,
    // None once closed.
    drawing: Mutex<Option<Drawing>>,
}

struct Drawing {
    all: MultiProgress,
    running: HashMap<u64, ProgressBar>,
    terminal: Lenient,
}

impl Drawing {
    fn line(&self, line: &str) {
        // MultiProgress::println would fill the line with blanks up to the edge instead of ending it, and whoever
        // copies or records the terminal would get one endless line.
        self.all.suspend(|| {
            let _ = self.terminal.write_line(line);
            let _ = self.terminal.flush();
        });
    }
}

/// A terminal that never fails: one that is gone is no reason to stop working, let alone to panic, which is how
/// indicatif takes it in places.
#[derive(Debug, Clone)]
struct Lenient(Arc<dyn TermLike>);

impl Lenient {
    fn ignoring<T>(_: io::Result<T>) -> io::Result<()> {
        Ok(())
    }
}

impl TermLike for Lenient {
    fn width(&self) -> u16 {
        self.0.width()
    }

    fn height(&self) -> u16 {
        self.0.height()
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        Self::ignoring(self.0.move_cursor_up(n))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        Self::ignoring(self.0.move_cursor_down(n))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        Self::ignoring(self.0.move_cursor_right(n))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        Self::ignoring(self.0.move_cursor_left(n))
    }

    fn write_line(&self, s: &str) -> io::Result<()> {
        Self::ignoring(self.0.write_line(s))
    }

    fn write_str(&self, s: &str) -> io::Result<()> {
        Self::ignoring(self.0.write_str(s))
    }

    fn clear_line(&self) -> io::Result<()> {
        Self::ignoring(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        Self::ignoring(self.0.flush())
    }
}

#[derive(Clone, Copy)]
enum Paint {
    Green,
    Red,
    Yellow,
    Cyan,
    Dim,
}

fn paint(colours: bool, paint: Paint, text: &str) -> String {
    let code = match paint {
        Paint::Green => 32,
        Paint::Red => 31,
        Paint::Yellow => 33,
        Paint::Cyan => 36,
        Paint::Dim => 2,
    };
    if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

impl Terminal {
    pub(super) fn new(terminal: impl TermLike + 'static, colours: bool) -> Self {
        let terminal = Lenient(Arc::new(terminal));
        let frames = FRAMES.map(|frame| paint(colours, Paint::Cyan, frame));
        // indicatif shows the last one when a bar has ended, which ours never do on screen.
        let mut frames: Vec<&str> = frames.iter().map(String::as_str).collect();
        frames.push(" ");
        let style = ProgressStyle::with_template("{spinner} {prefix} {time} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner())
            .tick_strings(&frames)
            .with_key("time", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
                // Whole seconds: tenths that race past say nothing.
                let time = format!("({} s)", state.elapsed().as_secs());
                let _ = out.write_str(&paint(colours, Paint::Dim, &time));
            });
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let drawing = Drawing { all: MultiProgress::with_draw_target(target), running: HashMap::new(), terminal };
        Self { colours, style, drawing: Mutex::new(Some(drawing)) }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Drawing>> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn paint(&self, paint: Paint, text: &str) -> String {
        self::paint(self.colours, paint, text)
    }
}

impl Sink for Terminal {
    fn step(&self, step: &Subject, state: &State) {
        let mut drawing = self.lock();
        let Some(drawing) = drawing.as_mut() else { return };
        let (mark, rest, after) = match state {
            State::Started => {
                let bar = drawing.all.add(ProgressBar::new_spinner());
                bar.set_style(self.style.clone());
                bar.set_prefix(step.to_string());
                bar.enable_steady_tick(TICK);
                drawing.running.insert(step.id, bar);
                return;
            }
            State::Detail(text) => {
                if let Some(bar) = drawing.running.get(&step.id) {
                    bar.set_message(self.paint(Paint::Dim, text));
                }
                return;
            }
            State::Done(after) => (self.paint(Paint::Green, "✓"), String::new(), after),
            State::Failed { reason, after } => (self.paint(Paint::Red, "✗"), format!(": {reason}"), after),
            State::Aborted(after) => (self.paint(Paint::Dim, "–"), ": given up".to_owned(), after),
        };
        if let Some(bar) = drawing.running.remove(&step.id) {
            bar.finish_and_clear();
            drawing.all.remove(&bar);
        }
        let time = self.paint(Paint::Dim, &format!("({})", Seconds(*after)));
        drawing.line(&format!("{mark} {step}{rest} {time}"));
    }

    fn message(&self, level: Level, text: &str) {
        if let Some(drawing) = self.lock().as_ref() {
            match level {
                Level::Info => drawing.line(text),
                Level::Warning => drawing.line(&format!("{} {text}", self.paint(Paint::Yellow, "!"))),
            }
        }
    }

    fn close(&self) {
        if let Some(drawing) = self.lock().take() {
            for bar in drawing.running.values() {
                bar.finish_and_clear();
            }
            let _ = drawing.all.clear();
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A moving line must not outlive the command.
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Reporter;
    use super::*;

    const WIDTH: usize = 60;

    /// A screen of endless height, as far as indicatif needs one: it wraps at the edge, and lines are cleared
    /// before they are written anew.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<Cells>>);

    #[derive(Debug, Default)]
    struct Cells {
        lines: Vec<String>,
        row: usize,
        column: usize,
        writes: usize,
    }

    impl Cells {
        fn line(&mut self) -> &mut String {
            let row = self.row;
            if self.lines.len() <= row {
                self.lines.resize(row + 1, String::new());
            }
            &mut self.lines[row]
        }

        fn put(&mut self, text: &str) {
            let mut escaped = false;
            for c in text.chars() {
                escaped |= c == '\x1b';
                match c {
                    '\r' => self.column = 0,
                    '\n' => (self.row, self.column) = (self.row + 1, 0),
                    _ if escaped => self.line().push(c),
                    _ => {
                        if self.column == WIDTH {
                            (self.row, self.column) = (self.row + 1, 0);
                        }
                        self.line().push(c);
                        self.column += 1;
                    }
                }
                escaped &= c != 'm';
            }
        }
    }

    impl Screen {
        fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().lines.iter().filter(|line| !line.is_empty()).cloned().collect()
        }

        fn writes(&self) -> usize {
            self.0.lock().unwrap().writes
        }

        fn with(&self, change: impl FnOnce(&mut Cells)) -> io::Result<()> {
            let mut cells = self.0.lock().unwrap();
            cells.writes += 1;
            change(&mut cells);
            Ok(())
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            WIDTH.try_into().unwrap()
        }

        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            self.with(|cells| cells.row -= n)
        }

        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.with(|cells| cells.row += n)
        }

        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            self.with(|cells| cells.column += n)
        }

        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            self.with(|cells| cells.column -= n)
        }

        fn write_line(&self, s: &str) -> io::Result<()> {
            self.with(|cells| cells.put(&format!("{s}\n")))
        }

        fn write_str(&self, s: &str) -> io::Result<()> {
            self.with(|cells| cells.put(s))
        }

        fn clear_line(&self) -> io::Result<()> {
            self.with(|cells| {
                cells.line().clear();
                cells.column = 0;
            })
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines without their times, which depend on how busy the machine is.
    fn untimed(screen: &Screen) -> Vec<String> {
        screen.lines().iter().map(|line| line.split(" (").next().unwrap_or_default().to_owned()).collect()
    }

    fn reporter(colours: bool) -> (Reporter, Screen) {
        let screen = Screen::default();
        (Reporter::to(Terminal::new(screen.clone(), colours)), screen)
    }

    #[test]
    fn running_steps_move_below_ended_ones() {
        let (reporter, screen) = reporter(false);
        let first = reporter.stage("Control plane");
        let second = reporter.step("demo-worker", "Joining");
        reporter.stage("Network").done();
        second.detail("kubelet");
        let drawn = |lines: &[String]| lines.len() == 3 && lines[2].trim_end().ends_with(" s) kubelet");
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !drawn(&screen.lines()) && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let lines = untimed(&screen);
        assert_eq!(lines[0], "✓ Network");
        assert!(FRAMES.iter().any(|frame| lines[1] == format!("{frame} Control plane")), "{lines:?}");
        assert!(lines[2].ends_with("demo-worker: Joining"), "{lines:?}");
        assert!(screen.lines()[2].trim_end().ends_with(" s) kubelet"), "{:?}", screen.lines());
        drop((first, second));
    }

    #[test]
    fn ended_steps_stay_as_lines_and_moving_ones_go() {
        let (reporter, screen) = reporter(false);
        let first = reporter.stage("Control plane");
        let second = reporter.step("demo-worker", "Joining");
        second.detail("kubelet");
        first.done();
        reporter.warn("old engine");
        second.fail("exit code 1");
        drop(reporter.stage("Storage"));
        drop(reporter);
        assert_eq!(
            untimed(&screen),
            ["✓ Control plane", "! old engine", "✗ demo-worker: Joining: exit code 1", "– Storage: given up"]
        );
        assert_eq!(screen.0.lock().unwrap().column, 0, "what comes next begins a line");
    }

    #[test]
    fn nothing_is_drawn_once_closed() {
        let (reporter, screen) = reporter(false);
        let running = reporter.stage("Control plane");
        reporter.clone().close();
        let writes = screen.writes();
        std::thread::sleep(3 * TICK);
        running.detail("unseen");
        drop(running);
        reporter.stage("unseen").done();
        reporter.warn("unseen");
        assert_eq!(screen.writes(), writes);
        assert!(screen.lines().is_empty(), "{:?}", screen.lines());
    }

    #[test]
    fn colours_are_for_marks_and_times_alone() {
        let (reporter, screen) = reporter(true);
        reporter.stage("Network").done();
        let line = screen.lines().concat();
        assert!(line.starts_with("\x1b[32m✓\x1b[0m Network \x1b[2m(") && line.ends_with(" s)\x1b[0m"), "{line:?}");
    }

    #[test]
    fn a_terminal_that_is_gone_is_no_failure() {
        #[derive(Debug)]
        struct Gone;
        fn gone() -> io::Result<()> {
            Err(io::Error::other("gone"))
        }
        impl TermLike for Gone {
            fn width(&self) -> u16 {
                80
            }
            fn move_cursor_up(&self, _: usize) -> io::Result<()> {
                gone()
            }
            fn move_cursor_down(&self, _: usize) -> io::Result<()> {
                gone()
            }
            fn move_cursor_right(&self, _: usize) -> io::Result<()> {
                gone()
            }
            fn move_cursor_left(&self, _: usize) -> io::Result<()> {
                gone()
            }
            fn write_line(&self, _: &str) -> io::Result<()> {
                gone()
            }
            fn write_str(&self, _: &str) -> io::Result<()> {
                gone()
            }
            fn clear_line(&self) -> io::Result<()> {
                gone()
            }
            fn flush(&self) -> io::Result<()> {
                gone()
            }
        }
        let reporter = Reporter::to(Terminal::new(Gone, true));
        let running = reporter.stage("a");
        reporter.stage("b").done();
        reporter.warn("c");
        running.fail("d");
        reporter.close();
    }
}
