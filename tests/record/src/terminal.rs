//! A pseudo-terminal, and the screens that it showed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// How far two pictures are apart at least: what changes faster is not seen.
const FRAME: Duration = Duration::from_millis(250);

/// For how long a typed command stands before it runs.
const TYPED: Duration = Duration::from_millis(900);

/// For how long the end is shown.
const END: Duration = Duration::from_secs(9);

/// A piece of text of one look.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) text: String,
    pub(crate) colour: Option<u8>,
    pub(crate) bold: bool,
    pub(crate) dim: bool,
}

/// A line of a screen.
pub(crate) type Line = Vec<Span>;

/// A screen, and for how long it was there.
pub(crate) struct Frame {
    pub(crate) lines: Vec<Line>,
    pub(crate) time: Duration,
}

/// A terminal that remembers what it showed.
pub(crate) struct Terminal {
    screen: vt100::Parser,
    rows: u16,
    columns: u16,
    home: PathBuf,
    frames: Vec<Frame>,
}

impl Terminal {
    /// An empty terminal; what runs in it has its home in `home`.
    pub(crate) fn new(rows: NonZeroU16, columns: NonZeroU16, home: &Path) -> Self {
        let screen = vt100::Parser::new(rows, columns, 0);
        Self { screen, rows: rows.get(), columns: columns.get(), home: home.to_owned(), frames: Vec::new() }
    }

    /// All that was shown.
    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Shows a typed command; without one, the end.
    pub(crate) fn prompt(&mut self, command: &str) {
        self.screen.process(format!("\x1b[1m$ {command}\x1b[0m\r\n").as_bytes());
        self.take(if command.is_empty() { END } else { TYPED });
    }

    /// Runs a program to its end, and shows what it writes.
    pub(crate) fn run<A: AsRef<OsStr>>(
        &mut self,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<ExitStatus> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).context("no pseudo-terminal is to be had")?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let open = || -> Result<OwnedFd> {
            Ok(File::options().read(true).write(true).open(name.to_str().context("a strange terminal")?)?.into())
        };
        let (out, err) = (open()?, open()?);
        tcsetwinsize(&out, Winsize { ws_row: self.rows, ws_col: self.columns, ws_xpixel: 0, ws_ypixel: 0 })?;
        let mut child = Command::new(program)
            .args(arguments)
            .env("TERM", "xterm-256color")
            .env("HOME", &self.home)
            .env_remove("NO_COLOR")
            .env_remove("KUBECONFIG")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .stdout(Stdio::from(out))
            .stderr(Stdio::from(err))
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;

        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut master = File::from(master);
            let mut buffer = [0; 4096];
            loop {
                match master.read(&mut buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // The system's way to say that nobody has the other end open any more.
                    Ok(0) | Err(_) => break,
                    Ok(length) => {
                        if sender.send(buffer[..length].to_vec()).is_err() {
                            break;
                        }
                    }
                }
            }
        });
        let mut shown = Instant::now();
        loop {
            match receiver.recv_timeout(FRAME) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if shown.elapsed() >= FRAME {
                self.take(shown.elapsed());
                shown = Instant::now();
            }
        }
        self.take(shown.elapsed());
        Ok(child.wait()?)
    }

    /// Remembers the screen as it is, as shown for `time`.
    fn take(&mut self, time: Duration) {
        let lines: Vec<Line> = (0..self.rows).map(|row| self.line(row)).collect();
        match self.frames.last_mut() {
            Some(last) if last.lines == lines => last.time += time,
            _ => self.frames.push(Frame { lines, time }),
        }
    }

    fn line(&self, row: u16) -> Line {
        let mut line: Line = Vec::new();
        for column in 0..self.columns {
            let Some(cell) = self.screen.screen().cell(row, column) else { continue };
            let colour = match cell.fgcolor() {
                vt100::Color::Idx(index) => Some(index),
                _ => None,
            };
            let text = if cell.has_contents() { cell.contents() } else { " " };
            match line.last_mut() {
                Some(last) if (last.colour, last.bold, last.dim) == (colour, cell.bold(), cell.dim()) => {
                    last.text.push_str(text);
                }
                _ => line.push(Span { text: text.to_owned(), colour, bold: cell.bold(), dim: cell.dim() }),
            }
        }
        while let Some(last) = line.last_mut() {
            last.text.truncate(last.text.trim_end().len());
            if !last.text.is_empty() {
                break;
            }
            line.pop();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_writes_is_shown() {
        let size = |cells| NonZeroU16::new(cells).unwrap();
        let mut terminal = Terminal::new(size(4), size(40), Path::new("/"));
        terminal.prompt("kprov x");
        let status = terminal.run(Path::new("/bin/sh"), ["-c", "test -t 1 && printf '\\033[32mgreen\\033[0m plain'"]);
        assert!(status.unwrap().success());
        let last = &terminal.frames().last().unwrap().lines;
        assert_eq!(last[0][0].text, "$ kprov x");
        assert!(last[0][0].bold);
        assert_eq!((last[1][0].text.as_str(), last[1][0].colour), ("green", Some(2)));
        assert_eq!((last[1][1].text.as_str(), last[1][1].colour), (" plain", None));
    }
}
