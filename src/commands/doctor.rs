//! `kprov doctor`.

use std::process::ExitCode;

use serde_json::json;

use crate::cli::{Global, Output};
use crate::cluster;
use crate::engine::{Engine, EngineInfo};
use crate::host::{Check, Status};

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
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    present::result(global.output, &json!({"ok": worst != Status::Fail, "checks": checks}), || {
        checks.iter().map(line).collect()
    });
    Ok(if worst == Status::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(check: &Check) -> String {
    let mark = match check.status {
        Status::Ok => "ok  ",
        Status::Warn => "warn",
        Status::Fail => "FAIL",
    };
    let help = check.help.as_ref().map(|help| format!("     {}\n", help.replace('\n', "\n     "))).unwrap_or_default();
    format!("{mark} {}: {}\n{help}", check.name, check.message)
}

fn engine_checks(engine: &Engine, info: &EngineInfo) -> Vec<Check> {
    let found = format!(
        "{} at {} (API {}, {} storage, cgroup v{})",
        info.version,
        engine.host(),
        info.api_version,
        info.storage_driver,
        info.cgroup_version
    );
    let mut checks = vec![Check::new("Docker Engine", Status::Ok, found)];
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
