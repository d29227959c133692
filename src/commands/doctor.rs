//! `kprov doctor`.

use std::process::ExitCode;

use serde_json::json;

use crate::adapters::engine::{Engine, EngineInfo};
use crate::adapters::host::{HostCheck, Verdict};
use crate::commands::grammar::{Global, Output};
use crate::operations::cluster;

use super::{CommandError, Result, present};

/// The nodes of the largest built-in profile but `ha`: what most people make.
const NODES: u32 = 2;

pub(super) async fn doctor(global: &Global) -> Result<ExitCode> {
    let engine = match Engine::connect().await {
        Ok(engine) => engine,
        Err(error) => return failed(global, error.into()),
    };
    let checks = match engine.info().await {
        Ok(info) => engine_checks(&engine, &info),
        Err(error) => return failed(global, error.into()),
    };
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Verdict::Ok);
    present::result(global.output, &json!({"ok": worst != Verdict::Fail, "checks": checks}), || {
        checks.iter().map(line).collect()
    });
    Ok(if worst == Verdict::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(check: &HostCheck) -> String {
    let mark = match check.status {
        Verdict::Ok => "ok  ",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    let help = check.help.as_ref().map(|help| format!("     {}\n", help.replace('\n', "\n     "))).unwrap_or_default();
    format!("{mark} {}: {}\n{help}", check.name, check.message)
}

fn engine_checks(engine: &Engine, info: &EngineInfo) -> Vec<HostCheck> {
    let found = format!(
        "{} at {} (API {}, {} storage, cgroup v{})",
        info.version,
        engine.host(),
        info.api_version,
        info.storage_driver,
        info.cgroup_version
    );
    let mut checks = vec![HostCheck::new("Docker Engine", Verdict::Ok, found)];
    checks.extend(cluster::host_checks(engine, info, NODES));
    checks
}

/// Without an engine there is but one thing to say; programs get it in the form that they expect.
fn failed(global: &Global, error: CommandError) -> Result<ExitCode> {
    if global.output == Output::Json {
        let value = json!({"ok": false, "checks": []});
        present::result(global.output, &value, String::new);
    }
    Err(error)
}
