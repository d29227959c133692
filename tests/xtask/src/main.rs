//! Tasks for developers of kprov: `cargo xtask TASK`.
//!
//! A task prints its result on standard output and everything else on standard error.

mod apt;
mod bench;
mod cache;
mod demo;
mod engine;
mod fresh;
mod ground;
mod node_image;
mod record;
mod sh;
mod test;
mod tools;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

/// Tasks for developers of kprov.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Make a hardened cluster, and show it step by step.
    Demo(demo::Options),
    /// Run all tests, on a real engine with a real Kubernetes.
    Test(test::Options),
    /// Measure kprov beside the real kind; prints a table.
    Bench(bench::Options),
    /// Record the run that the README shows.
    Record(record::Options),
    /// Run the README's first command on a pristine Debian machine, until its cluster is proven.
    Fresh(fresh::Options),
    /// Make sure that a fit Docker Engine runs; prints its DOCKER_HOST.
    Engine,
    /// Build the test node image from Debian packages, once; prints its tag.
    NodeImage(node_image::Options),
    /// Get the real kind; prints the path of the program.
    Kind,
    /// Print what a shell has to evaluate to use the engine, docker and kind.
    Env,
}

fn main() -> ExitCode {
    match run(&Task::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // One message, whatever RUST_BACKTRACE says: who runs a task can do nothing with a stack of calls.
        Err(error) => {
            eprintln!("xtask: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    match task {
        Task::Demo(options) => demo::run(options)?,
        Task::Test(options) => test::run(options)?,
        Task::Bench(options) => bench::run(options)?,
        Task::Record(options) => record::run(options)?,
        Task::Fresh(options) => fresh::run(options)?,
        Task::Engine => println!("{}", engine::ensure()?.host),
        Task::NodeImage(options) => println!("{}", node_image::run(options)?),
        Task::Kind => println!("{}", tools::kind()?.display()),
        Task::Env => engine::print_environment(std::io::stdout().lock())?,
    }
    Ok(())
}
