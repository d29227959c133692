//! Tasks for developers of kprov: `cargo xtask TASK`.
//!
//! A task prints its result on standard output and everything else on standard error.

mod apt;
mod cache;
mod engine;
mod node_image;
mod sh;
mod tools;

use anyhow::Result;
use clap::Parser;

/// Tasks for developers of kprov.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Task {
    /// Make sure that a fit Docker Engine runs; prints its DOCKER_HOST.
    Engine,
    /// Build the test node image from Debian packages, once; prints its tag.
    NodeImage(node_image::Options),
    /// Get the real kind; prints the path of the program.
    Kind,
    /// Print what a shell has to evaluate to use the engine, docker and kind.
    Env,
}

fn main() -> Result<()> {
    match Task::parse() {
        Task::Engine => println!("{}", engine::ensure()?.host),
        Task::NodeImage(options) => println!("{}", node_image::run(&options)?),
        Task::Kind => println!("{}", tools::kind()?.display()),
        Task::Env => engine::print_environment(std::io::stdout().lock())?,
    }
    Ok(())
}
