//! `kprov kms serve`, `status` and `add-key`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::grammar::{Global, KmsCommand};
use crate::kms::{self, Config, Operation, Report};

use super::{Result, RuntimeError, present};

pub(super) fn kms(global: &Global, command: &KmsCommand) -> Result<ExitCode> {
    match command {
        KmsCommand::Serve { socket, config } => {
            // A plugin waits, most of the time, and one thread does that with little memory.
            let config = Config::read(config)?;
            runtime()?.block_on(async {
                let (mut terminate, mut interrupt) = (
                    signal(SignalKind::terminate()).map_err(RuntimeError)?,
                    signal(SignalKind::interrupt()).map_err(RuntimeError)?,
                );
                let end = async {
                    tokio::select! {
                        _ = terminate.recv() => {}
                        _ = interrupt.recv() => {}
                    }
                };
                kms::serve(socket, &config, end).await?;
                Ok(ExitCode::SUCCESS)
            })
        }
        KmsCommand::Status { socket } => {
            let report = runtime()?.block_on(kms::report(socket))?;
            present::result(global.output, &report, || text(&report));
            Ok(if report.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        KmsCommand::AddKey { file } => {
            let key_id = kms::add_key(file)?;
            present::result(global.output, &json!({"keyId": key_id}), || {
                format!("{} wraps with the new key {key_id} from now on\n", file.display())
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> std::result::Result<tokio::runtime::Runtime, RuntimeError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RuntimeError)
}

fn text(report: &Report) -> String {
    let calls = |operation: &Operation| {
        let millis = |micros: u64| Duration::from_micros(micros).as_secs_f64() * 1000.0;
        format!(
            "{} calls, {} failed; p50 {:.2} ms, p99 {:.2} ms",
            operation.calls,
            operation.failures,
            millis(operation.p50_micros),
            millis(operation.p99_micros)
        )
    };
    let login = report
        .login_expires_in_seconds
        .map(|seconds| format!("Login      expires in {seconds} s\n"))
        .unwrap_or_default();
    format!(
        "Plugin     kprov {}, up for {} s\nProvider   {}\nHealth     {}\nKey        {}\n{login}Wrap       {}\nUnwrap     {}\n",
        report.version,
        report.uptime_seconds,
        report.provider,
        report.problem.as_deref().unwrap_or("ok"),
        if report.key_id.is_empty() { "-" } else { &report.key_id },
        calls(&report.wrap),
        calls(&report.unwrap),
    )
}
