//! Measuring kprov beside the real kind.

use anyhow::{Result, bail};
use clap::Args;

use crate::ground::{Ground, cargo, release};
use crate::{node_image, tools};

/// Options of `bench`.
#[derive(Args)]
pub(crate) struct Options {
    /// The node image, instead of the one built from Debian packages.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How often each thing is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// What to measure, instead of everything; `--list` shows what there is.
    sections: Vec<String>,
    /// List what can be measured.
    #[arg(long)]
    list: bool,
    /// Fail if something is slower, beside kind, than what is recorded in tests/bench/ratios.json.
    #[arg(long, conflicts_with = "record")]
    check: bool,
    /// Record these ratios there.
    #[arg(long)]
    record: bool,
}

/// Measures, and prints a table.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = cargo(["run", "--quiet", "--package", "bench", "--"]);
    if options.list {
        command.arg("--list");
    } else {
        let ground = Ground::ensure(options.image.as_deref())?;
        command.arg("--rounds").arg(options.rounds.to_string()).args(&options.sections);
        command.args(options.check.then_some("--check")).args(options.record.then_some("--record"));
        command.env("KPROV_OPENBAO", tools::openbao()?);
        // kprov's; kind's comes from a registry, or is there already.
        command.env("KPROV_LOAD_BALANCER_IMAGE", node_image::load_balancer(&ground.engine)?);
        ground.tell(command.env("KPROV_BENCH_PROGRAM", release()?));
    }
    if !command.status()?.success() {
        bail!("the measurement was not completed");
    }
    Ok(())
}
