//! Measures kprov beside the real kind: same machine, same image, turn by turn. Prints a table, and judges only when asked to.
//!
//! `cargo xtask bench` runs it, and says where everything is.

mod by_hand;
mod change;
mod cluster;
mod exercise;
mod kms;
mod load;
mod plain;
mod power;
mod program;
mod recorded;
mod several;
mod steps;
mod table;

use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use test_support::{Run, Sandbox};

use table::Row;

/// Measures kprov beside the real kind.
#[derive(Parser)]
struct Options {
    /// How often each thing is measured.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// List what can be measured.
    #[arg(long)]
    list: bool,
    /// Fail if something is slower, beside kind, than what is recorded in ratios.json.
    #[arg(long, conflicts_with = "record")]
    check: bool,
    /// Record these ratios in ratios.json.
    #[arg(long)]
    record: bool,
    /// What to measure; everything if nothing is named.
    sections: Vec<String>,
}

/// Something that can be measured: its name, what it is, and how.
type Section = (&'static str, &'static str, fn(&Bench) -> Vec<Row>);

const SECTIONS: [Section; 12] = [
    ("program", "start, rendering, size", program::measure),
    ("cluster", "a hardened cluster of two nodes: up, reset, memory", cluster::measure),
    ("ha", "three control planes and a worker: up, reset", cluster::several_control_planes),
    ("several", "four clusters of one node", several::measure),
    ("power", "a cluster that was put aside", power::measure),
    ("load", "an image of 200 MB into three nodes", load::measure),
    ("change", "a flag of a running API server", change::flag),
    ("rewrite", "5,000 Secrets written anew", change::rewrite),
    ("exercise", "encryption at rest, from nothing to proof", exercise::measure),
    ("kms", "the KMS plugin by itself: memory, wraps, beside plain calls of its server", kms::plugin),
    ("kms-up", "a cluster under a KMS beside one without", kms::up),
    ("kms-load", "5,000 Secrets under a KMS: wraps, unwraps, the first list after a restart", kms::load),
];

/// What every measurement uses.
struct Bench {
    /// The release build of kprov.
    program: String,
    rounds: u32,
}

impl Bench {
    fn sandbox(&self) -> Sandbox {
        Sandbox::on_engine(&self.program, "bench")
    }

    /// Does something of kprov's and something of kind's as often as asked for, each in turn first, so that
    /// neither always meets the warmer machine.
    fn in_turn(&self, mut kprov: impl FnMut(), mut kind: impl FnMut()) {
        for round in 0..self.rounds {
            eprintln!("round {} of {}", round + 1, self.rounds);
            if round % 2 == 0 {
                kprov();
                kind();
            } else {
                kind();
                kprov();
            }
        }
    }
}

/// How long something takes.
fn time(what: &str, action: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    action();
    let took = begin.elapsed();
    eprintln!("  {what}: {:.2} s", took.as_secs_f64());
    took
}

fn main() {
    let options = Options::parse();
    if options.list {
        for (name, what, _) in SECTIONS {
            println!("{name:<12} {what}");
        }
        return;
    }
    if let Some(unknown) = options.sections.iter().find(|name| SECTIONS.iter().all(|(known, ..)| known != name)) {
        eprintln!("there is no section {unknown}; --list shows what there is");
        std::process::exit(2);
    }
    let program = std::env::var("KPROV_BENCH_PROGRAM").expect("run `cargo xtask bench`");
    let bench = Bench { program, rounds: options.rounds.max(1) };
    println!("{}\n", machine(&bench.program));
    let mut rows = Vec::new();
    for (name, what, measure) in SECTIONS {
        if options.sections.is_empty() || options.sections.iter().any(|wanted| wanted == name) {
            eprintln!("{name}: {what}");
            rows.extend(measure(&bench));
        }
    }
    println!("{}", table::render(&rows));
    if let Err(error) = compare(&options, &rows) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

/// Shows where the time went, and holds what was measured against what is recorded, or records it.
fn compare(options: &Options, rows: &[Row]) -> Result<(), String> {
    let version = format!("1.{}", plain::minor());
    let mut recorded = recorded::Recorded::load()?;
    println!("\n{}", recorded.steps(&version, rows));
    if options.record {
        recorded.take(&version, rows);
        recorded.save()?;
    } else if options.check {
        let slower = recorded.slower(&version, rows)?;
        if !slower.is_empty() {
            return Err(format!("slower than recorded:\n  {}", slower.join("\n  ")));
        }
    }
    Ok(())
}

/// On what all this was measured.
fn machine(program: &str) -> String {
    let said = |command: &mut Command| Run::of(command).stdout.trim().replace('\n', ", ");
    let kind = std::env::var_os("KPROV_KIND").unwrap_or_else(|| "kind".into());
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().next().and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok());
    [
        ("processors", std::thread::available_parallelism().map_or(0, usize::from).to_string()),
        ("memory", format!("{:.1} GiB", memory.unwrap_or(0.0_f64) / 1024.0 / 1024.0)),
        ("kernel", said(Command::new("uname").arg("-sr"))),
        (
            "engine",
            said(Command::new("docker").args([
                "info",
                "--format",
                "{{.ServerVersion}}, cgroup v{{.CgroupVersion}}, {{.Driver}}",
            ])),
        ),
        ("image", Sandbox::image()),
        ("kind", said(Command::new(kind).arg("version"))),
        ("kprov", said(Command::new(program).arg("--version"))),
    ]
    .map(|(what, value)| format!("{what:<10} {value}"))
    .join("\n")
}
