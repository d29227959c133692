//! The `kprov` command: parses, runs, presents errors, sets the exit code.

use std::process::ExitCode;

use kprov::adapters::host;
use kprov::commands;
use kprov::commands::grammar::Cli;

fn main() -> ExitCode {
    host::keep_memory_private();
    let cli = Cli::typed();
    let output = cli.global.output;
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            commands::print_error(output, &error);
            ExitCode::FAILURE
        }
    }
}
