//! `kprov kms serve`, `status`, `metrics`, `measure` and `add-key`.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::adapters::kms_plugin::{self, Calls, PluginReport};
use crate::commands::grammar::{Global, KmsCommand};
use crate::documents::names::ClusterName;
use crate::kms::{self, Config, KmsError, Measured, Operation, Report, Timing};
use crate::operations::cluster;

use super::{Result, RuntimeError, context, present};

/// How long a node may take to ask its plugin.
const ANSWER: Duration = Duration::from_secs(20);

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
        KmsCommand::Status { socket: Some(socket), .. } => {
            let report = runtime()?.block_on(kms::report(socket))?;
            present::result(global.output, &report, || text(&(&report).into()));
            Ok(if report.problem.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        KmsCommand::Status { cluster, socket: None } => runtime()?.block_on(status(global, cluster.as_ref())),
        KmsCommand::Metrics { socket } => {
            let report = runtime()?.block_on(kms::report(socket))?;
            present::print(kms::metrics(&report).as_bytes());
            Ok(ExitCode::SUCCESS)
        }
        KmsCommand::Measure { socket, calls, at_a_time } => {
            let (calls, at_a_time) = (*calls as usize, *at_a_time as usize);
            let measured = runtime()?.block_on(kms::measure(socket, calls, at_a_time))?;
            present::result(global.output, &measured, || measured_text(&measured));
            Ok(ExitCode::SUCCESS)
        }
        KmsCommand::AddKey { file, config } => {
            let key_id = match (file, config) {
                (Some(file), _) => kms::add_key(file)?,
                (None, Some(config)) => Config::read(config)?.add_key()?,
                // The grammar lets nobody come here.
                (None, None) => {
                    return Err(KmsError::Provider("no key file and no --config was given".to_owned()).into());
                }
            };
            present::result(global.output, &json!({"keyId": key_id}), || {
                format!("{key_id} is the key that plugins wrap by, within a minute\n")
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn runtime() -> std::result::Result<tokio::runtime::Runtime, RuntimeError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RuntimeError)
}

/// The plugins of a cluster, control plane by control plane. One that does not answer is told as its problem.
async fn status(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let found = cluster::find(&context.engine, cluster).await?;
    let nodes = found.control_planes(&context.engine)?;
    let asked = nodes.iter().map(|node| async {
        let report = match tokio::time::timeout(ANSWER, kms_plugin::report(node)).await {
            Ok(Ok(report)) => report,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", ANSWER.as_secs())),
        };
        (node.name.clone(), report)
    });
    let reports = join_all(asked).await;
    let works = reports.iter().all(|(_, report)| report.as_ref().is_ok_and(|report| report.problem.is_none()));
    let values: Vec<_> = reports
        .iter()
        .map(|(node, report)| match report {
            Ok(report) => json!({"node": node, "report": report}),
            Err(problem) => json!({"node": node, "problem": problem}),
        })
        .collect();
    present::result(global.output, &json!({"cluster": found.name, "plugins": values}), || {
        let texts = reports.iter().map(|(node, report)| match report {
            Ok(report) => format!("Node       {node}\n{}", text(report)),
            Err(problem) => format!("Node       {node}\nHealth     no plugin answers: {problem}\n"),
        });
        texts.collect::<Vec<_>>().join("\n")
    });
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl From<&Operation> for Calls {
    fn from(operation: &Operation) -> Self {
        let Operation { calls, failures, p50_micros, p99_micros, .. } = *operation;
        Self { calls, failures, p50_micros, p99_micros }
    }
}

impl From<&Report> for PluginReport {
    fn from(report: &Report) -> Self {
        Self {
            version: report.version.clone(),
            provider: report.provider.clone(),
            problem: report.problem.clone(),
            key_id: report.key_id.clone(),
            uptime_seconds: report.uptime_seconds,
            wrap: (&report.wrap).into(),
            unwrap: (&report.unwrap).into(),
            status: (&report.status).into(),
            login_expires_in_seconds: report.login_expires_in_seconds,
            resident_bytes: report.resident_bytes,
            modes: Vec::new(),
        }
    }
}

fn text(report: &PluginReport) -> String {
    let calls = |calls: &Calls| {
        format!(
            "{} calls, {} failed; of the last: p50 {:.2} ms, p99 {:.2} ms",
            calls.calls,
            calls.failures,
            milliseconds(calls.p50_micros),
            milliseconds(calls.p99_micros)
        )
    };
    let login = report
        .login_expires_in_seconds
        .map(|seconds| format!("Login      expires in {seconds} s, and is renewed at half its life\n"))
        .unwrap_or_default();
    format!(
        "Plugin     kprov {}, up for {} s, {:.1} MB\nProvider   {}\nHealth     {}\nKey        {}\n{login}Wrap       {}\nUnwrap     {}\nStatus     {}\n",
        report.version,
        report.uptime_seconds,
        report.resident_bytes as f64 / 1e6,
        report.provider,
        report.problem.as_deref().unwrap_or("ok"),
        if report.key_id.is_empty() { "-" } else { &report.key_id },
        calls(&report.wrap),
        calls(&report.unwrap),
        calls(&report.status),
    )
}

fn milliseconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1000.0
}

fn measured_text(measured: &Measured) -> String {
    let line = |timing: &Timing| {
        format!(
            "{} right, {:.0} in a second; p50 {:.2} ms, p99 {:.2} ms",
            timing.calls,
            timing.per_second,
            milliseconds(timing.p50_micros),
            milliseconds(timing.p99_micros)
        )
    };
    format!(
        "Key        {}\nWrapped    {} bytes\nWrap       {}\nUnwrap     {}\n",
        measured.key_id,
        measured.wrapped_bytes,
        line(&measured.wrap),
        line(&measured.unwrap),
    )
}
