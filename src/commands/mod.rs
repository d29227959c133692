//! The commands: each parses what it was given, calls one thing, and presents what came of it.
//!
//! Results go to standard output, talk to standard error.

mod api_server;
mod breakage;
mod cis;
mod doctor;
mod down;
mod encryption;
mod etcd;
mod exec;
pub mod grammar;
#[cfg(target_os = "linux")]
mod kms;
mod kubeconfig;
mod load;
mod logs;
mod ls;
mod nodes;
mod power;
mod present;
mod profiles;
mod report;
mod snapshot;
mod status;
mod target;
mod up;
mod verify;
mod wait;
mod warm;
mod waterfall;

use std::process::ExitCode;
use std::sync::Arc;

use clap::CommandFactory;

use crate::adapters::engine::Engine;
use crate::adapters::kubeconfig::{Environment, Files};
use crate::adapters::paths::Paths;
use crate::commands::grammar::{Cli, Command, Global, Output};
use crate::documents::render::Templates;
use crate::operations::cluster::{Context, PATIENCE};
use crate::progress::{Format, Reporter, Surroundings};

pub use present::{CommandError, print_error};

/// The asynchronous runtime could not be started.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the asynchronous runtime could not be started: {0}")]
struct RuntimeError(std::io::Error);

type Result<T> = std::result::Result<T, CommandError>;

/// Runs the command that was typed.
///
/// # Errors
/// [`CommandError`], to be shown by [`print_error`].
pub fn run(cli: Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match cli.command {
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kprov", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Schema { of } => profiles::schema(of),
        Command::Profiles { name } => profiles::profiles(global, name.as_deref()),
        Command::Render(arguments) => profiles::render(global, &arguments),
        #[cfg(target_os = "linux")]
        Command::Kms { command } => kms::kms(global, &command),
        other => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .map_err(RuntimeError)?;
            let result = runtime.block_on(run_async(global, other));
            // A thread that reads standard input cannot be ended otherwise.
            runtime.shutdown_background();
            result
        }
    }
}

async fn run_async(global: &Global, command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(arguments) => up::up(global, &arguments).await,
        Command::Down { cluster, yes, forget, all } => {
            down::down(global, cluster.as_ref(), down::How { yes, forget, all }).await
        }
        Command::Ls => ls::ls(global).await,
        Command::Status { cluster } => status::status(global, cluster.as_ref()).await,
        Command::Reset { cluster, retain, timings } => up::reset(global, cluster.as_ref(), retain, timings).await,
        Command::Snapshot { command } => snapshot::snapshot(global, command).await,
        Command::Break(arguments) => breakage::break_controls(global, &arguments).await,
        Command::Report(arguments) => report::report(global, &arguments).await,
        Command::Cis(arguments) => cis::cis(global, &arguments).await,
        Command::Stop { cluster } => power::stop(global, cluster.as_ref()).await,
        Command::Start { cluster, renew } => power::start(global, cluster.as_ref(), renew).await,
        Command::Warm { image, remove } => warm::warm(global, &image, remove).await,
        Command::Load { command } => load::load(global, &command).await,
        Command::Nodes { cluster, all_clusters } => nodes::nodes(global, cluster.as_ref(), all_clusters).await,
        Command::Logs { folder, cluster } => logs::logs(global, folder, cluster.as_ref()).await,
        Command::Verify { cluster } => verify::verify(global, cluster.as_ref()).await,
        Command::Wait { cluster, nodes, timeout } => {
            let timeout = std::time::Duration::from_secs(timeout);
            wait::wait(global, cluster.as_ref(), nodes, timeout).await
        }
        Command::Etcd { command, cluster } => etcd::etcd(global, cluster.as_ref(), command).await,
        Command::ApiServer { command } => api_server::api_server(global, command).await,
        Command::Encryption { command } => encryption::encryption(global, command).await,
        Command::Kubeconfig { cluster, merge, internal } => {
            kubeconfig::kubeconfig(global, cluster.as_ref(), merge, internal).await
        }
        Command::Exec { node, command } => exec::exec(&node, command).await,
        Command::Doctor => doctor::doctor(global).await,
        #[cfg(target_os = "linux")]
        Command::Kms { .. } => unreachable!("it needs no engine, and has been run"),
        Command::Completions { .. } | Command::Schema { .. } | Command::Profiles { .. } | Command::Render(_) => {
            unreachable!("these need no engine, and have been run")
        }
    }
}

/// What commands on clusters need.
async fn context(global: &Global) -> Result<Context> {
    let paths = Paths::from_process()?;
    Ok(Context {
        engine: Engine::connect().await?,
        reporter: reporter(global),
        templates: Arc::new(templates(global, &paths)?),
        kubeconfig: Files::choose(global.kubeconfig.as_deref(), &Environment::from_process())?,
        paths,
        patience: PATIENCE,
    })
}

fn reporter(global: &Global) -> Reporter {
    if global.quiet {
        return Reporter::silent();
    }
    Reporter::new(Format::choose(global.output == Output::Json, Surroundings::from_process()))
}

/// The built-in templates, below those of `--templates` or of the user's configuration folder.
fn templates(global: &Global, paths: &Paths) -> Result<Templates> {
    let own = paths.config().join("templates");
    Ok(match &global.templates {
        Some(folder) => Templates::with_overrides(folder)?,
        None if own.is_dir() => Templates::with_overrides(&own)?,
        None => Templates::built_in(),
    })
}
