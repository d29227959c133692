//! Records commands as a terminal shows them, as an animated picture: `record --out FILE COMMAND...`.
//!
//! The commands run for real, one after the other, in a pseudo-terminal; what they write is drawn when they wrote it.

mod svg;
mod terminal;

use std::num::NonZeroU16;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Parser;

/// Records commands as an animated picture.
#[derive(Parser)]
struct Options {
    /// The picture.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// How much faster than in truth it moves.
    #[arg(long, default_value_t = 3.0, value_name = "FACTOR")]
    speed: f64,
    /// The terminal's width.
    #[arg(long, default_value = "118")]
    columns: NonZeroU16,
    /// The terminal's height.
    #[arg(long, default_value = "34")]
    rows: NonZeroU16,
    /// The program that `kprov` stands for.
    #[arg(long, value_name = "PROGRAM")]
    program: PathBuf,
    /// The home folder of what runs: a user's own clusters and settings stay out of the picture.
    #[arg(long, value_name = "DIR")]
    home: PathBuf,
    /// The commands, each as one word: `kprov ls`.
    #[arg(required = true)]
    commands: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut terminal = terminal::Terminal::new(options.rows, options.columns, &options.home);
    for command in &options.commands {
        let mut words = command.split_whitespace();
        if words.next() != Some("kprov") {
            bail!("{command:?} is no command of kprov");
        }
        terminal.prompt(command);
        let status = terminal.run(&options.program, words)?;
        if !status.success() {
            bail!("`{command}` failed: {status}");
        }
    }
    terminal.prompt("");
    let picture = svg::draw(terminal.frames(), options.rows.get(), options.columns.get(), options.speed);
    std::fs::write(&options.out, &picture).with_context(|| format!("cannot write {}", options.out.display()))?;
    eprintln!("record: {} has {} frames, {} bytes", options.out.display(), terminal.frames().len(), picture.len());
    Ok(())
}
