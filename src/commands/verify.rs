//! `kprov verify`: the evidence that a cluster is what its profile says.

use std::process::ExitCode;

use serde_json::json;

use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::verify::Report;

use super::target::open;
use super::{Result, context, present};

pub(super) async fn verify(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
    let client = opened.client().await?;
    let step = context.reporter.stage("Gathering evidence");
    let report = opened.evidence(&context, &client).await?;
    step.done();
    context.reporter.close();
    present::result(
        global.output,
        &json!({"cluster": opened.found.name, "ok": report.is_ok(), "evidence": report}),
        || evidence(&report, true),
    );
    Ok(if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How wide a line of evidence is where not all of it is asked for and no terminal tells.
const COLUMNS: usize = 130;

/// The evidence as text: all of it, or the beginning of each check's.
pub(super) fn evidence(report: &Report, all: bool) -> String {
    let mut text = String::new();
    let columns = present::columns().unwrap_or(COLUMNS);
    for check in &report.checks {
        let mark = match check {
            check if !check.ok => "FAIL",
            check if check.unproven => "none",
            _ => "ok  ",
        };
        let line = format!("{mark} {}: {}", check.name, check.evidence);
        text.push_str(&if all || !check.ok { line } else { present::fitted(&line, columns) });
        text.push('\n');
    }
    if let Some(canary) = &report.canary {
        let indented: String = canary.first_bytes.lines().map(|line| format!("       {line}\n")).collect();
        text.push_str(&format!("     the canary's first bytes in etcd ({}):\n{indented}", canary.stored));
    }
    text
}
