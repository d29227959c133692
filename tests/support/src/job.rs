//! A `kprov` that is at work, seen through the events that `-o json` prints, and stopped at will.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::run::{Run, line};

/// An event as `-o json` prints it, a line each.
pub type Event = Value;

/// A running program.
#[derive(Debug)]
pub struct Job {
    line: String,
    child: Child,
    events: Receiver<Event>,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<Vec<u8>>,
}

impl Job {
    /// Starts `command`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let line = line(command);
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap_or_else(|error| panic!("`{line}` does not start: {error}"));
        let (sender, events) = channel();
        let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let stdout = std::thread::spawn(move || {
            let (mut out, mut all) = (out, Vec::new());
            // A pipe that breaks ends the output, as its end does.
            let _ = out.read_to_end(&mut all);
            all
        });
        let stderr = std::thread::spawn(move || {
            let (mut err, mut all) = (BufReader::new(err), Vec::new());
            loop {
                let start = all.len();
                match err.read_until(b'\n', &mut all) {
                    Ok(0) | Err(_) => return all,
                    Ok(_) => {
                        if let Ok(event) = serde_json::from_slice(&all[start..]) {
                            // Nobody may be listening any more.
                            let _ = sender.send(event);
                        }
                    }
                }
            }
        });
        Self { line, child, events, stdout, stderr }
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next event; `None` once the program has ended.
    ///
    /// # Panics
    /// If there is neither within ten minutes.
    #[must_use]
    pub fn next_event(&self) -> Option<Event> {
        match self.events.recv_timeout(Duration::from_secs(600)) {
            Ok(event) => Some(event),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("`{}` does nothing", self.line),
        }
    }

    /// Waits for the event that `wanted` picks. Says whether it came before the end.
    pub fn wait_for(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        std::iter::from_fn(|| self.next_event()).any(|event| wanted(&event))
    }

    /// Whether it ends within `time`.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn ends_within(&mut self, time: Duration) -> bool {
        let deadline = std::time::Instant::now() + time;
        loop {
            if self.child.try_wait().expect("a child can be waited for").is_some() {
                return true;
            }
            if std::time::Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks it to stop, as Ctrl-C does, and lets it go on with what it makes of that.
    pub fn press_ctrl_c(&self) {
        self.signal(Signal::INT);
    }

    /// Kills it, so that it can do nothing about it.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn kill(self) -> Run {
        self.signal(Signal::KILL);
        self.wait()
    }

    /// Asks it to stop, as Ctrl-C does, and waits for its end.
    pub fn interrupt(self) -> Run {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Asks it to stop, as the system does before it shuts down, and waits for its end.
    pub fn terminate(self) -> Run {
        self.signal(Signal::TERM);
        self.wait()
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("process ids are positive");
        match kill_process(id, signal) {
            // It ended by itself, this moment or before.
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => panic!("a child can be signalled: {error}"),
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn wait(mut self) -> Run {
        let status = self.child.wait().expect("a child can be waited for");
        let read = |thread: JoinHandle<Vec<u8>>| thread.join().expect("reading does not panic");
        Run::new(self.line, &Output { status, stdout: read(self.stdout), stderr: read(self.stderr) })
    }
}
