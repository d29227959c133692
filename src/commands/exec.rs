//! `kprov exec`: a command on a node, with the caller's own terminal.

use std::io::IsTerminal;
use std::process::ExitCode;

use rustix::termios::{self, OptionalActions, Termios};

use crate::adapters::engine::{Engine, Terminal};
use crate::operations::cluster;

use super::Result;

pub(super) async fn exec(node: &str, command: Vec<String>) -> Result<ExitCode> {
    let engine = Engine::connect().await?;
    let node = cluster::node(&engine, node).await?;
    let interactive = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let size = interactive
        .then(|| termios::tcgetwinsize(std::io::stdin()).map_or((24, 80), |size| (size.ws_row, size.ws_col)));
    let raw = interactive.then(Raw::enter).flatten();
    let terminal =
        Terminal { input: tokio::io::stdin(), output: tokio::io::stdout(), errors: tokio::io::stderr(), size };
    let code = engine.exec_interactive(&node.name, command, terminal).await;
    drop(raw);
    Ok(ExitCode::from(u8::try_from(code?).unwrap_or(1)))
}

/// The terminal in raw mode: every key goes to the node. Given back when dropped.
struct Raw(Termios);

impl Raw {
    fn enter() -> Option<Self> {
        let before = termios::tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that has gone away.
        let _ = termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
