//! `kprov report`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::adapters::kubernetes;
use crate::commands::grammar::{self, Global, ReportForm};
use crate::documents::cis::{Exception, Selection, results};
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;
use crate::documents::report::{self, Cluster, Evidence, NodeLine, Report, Secret};
use crate::operations::cis;
use crate::operations::cluster::{self, Context};

use super::target::open;
use super::{Result, context, present};

/// The report cannot be written.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the report cannot be written to {}: {error}", path.display())]
#[diagnostic(code(kprov::report::file), help("name a file in a folder that is there and that you may write to"))]
struct Unwritable {
    path: PathBuf,
    error: std::io::Error,
}

pub(super) async fn report(global: &Global, arguments: &grammar::Report) -> Result<ExitCode> {
    let context = context(global).await?;
    let names: Vec<ClusterName> = match arguments.clusters.as_slice() {
        [] => vec![cluster::find(&context.engine, None).await?.name],
        names => names.to_vec(),
    };
    let mut all = Vec::new();
    for name in &names {
        let step = context.reporter.stage(&format!("Looking at {name}"));
        all.push(look(&context, name).await?);
        step.done();
    }
    context.reporter.close();
    let made = Report {
        kprov: env!("CARGO_PKG_VERSION").to_owned(),
        created: k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        clusters: all,
    };
    let path = &arguments.out;
    let form = arguments.form.unwrap_or_else(|| form_of(path));
    let text = match form {
        ReportForm::Html => {
            let before = if path.is_file() { std::fs::read_to_string(path).ok() } else { None };
            let before = before.and_then(|text| report::earlier(&text));
            report::page(&context.templates, &made, before.as_ref())?
        }
        ReportForm::Json => serde_json::to_string_pretty(&made).unwrap_or_default() + "\n",
        ReportForm::Junit => report::junit(&made),
        ReportForm::Sarif => serde_json::to_string_pretty(&report::sarif(&made)).unwrap_or_default() + "\n",
    };
    write(path, &text).map_err(|error| Unwritable { path: path.clone(), error })?;
    present::result(global.output, &json!({"report": path, "clusters": names, "bytes": text.len()}), || {
        format!("The report is in {} ({} KB).\n", path.display(), text.len().div_ceil(1000))
    });
    Ok(ExitCode::SUCCESS)
}

/// The form that a file's ending means.
fn form_of(path: &Path) -> ReportForm {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("json") => ReportForm::Json,
        Some("xml") => ReportForm::Junit,
        Some("sarif") => ReportForm::Sarif,
        _ => ReportForm::Html,
    }
}

/// Puts the report in the place of the one before only once it is whole. A device or a pipe is written to, never replaced.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|there| !there.is_file() && !there.is_dir()) {
        return std::fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes());
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map(|_| ()).map_err(|error| error.error)
}

async fn look(context: &Context, name: &ClusterName) -> Result<Cluster> {
    let opened = open(context, Some(name)).await?;
    let client = opened.client().await?;
    let target = cis::Target {
        cluster: name.as_str(),
        client: &client,
        nodes: &opened.nodes,
        admin_groups: kubernetes::client_groups(&opened.kubeconfig),
    };
    let facts = cis::gather(&target).await?;
    let evidence = opened.evidence(context, &client).await?;
    let exceptions: Vec<Exception> =
        opened.record.iter().flat_map(|record| record.profile.spec.cis.exceptions()).collect();
    let benchmark = facts.benchmark();
    let findings = results::assess(&facts, benchmark, &exceptions, &Selection::default());
    let role = |role: Role| if role == Role::ControlPlane { "control plane" } else { "worker" };
    Ok(Cluster {
        name: name.to_string(),
        kubernetes: facts.version.clone(),
        benchmark: benchmark.name().to_owned(),
        profile: opened.found.profile().map(str::to_owned),
        digest: opened.found.digest().map(str::to_owned),
        nodes: opened
            .nodes
            .iter()
            .map(|node| NodeLine { name: node.name.clone(), role: role(node.role).to_owned() })
            .collect(),
        evidence: evidence
            .checks
            .iter()
            .map(|check| Evidence { name: check.name.clone(), ok: check.ok, evidence: check.evidence.clone() })
            .collect(),
        secret: evidence
            .canary
            .map(|canary| Secret { stored: canary.stored.clone(), first_bytes: canary.first_bytes.clone() }),
        sections: report::sections(&findings),
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || std::fs::read_to_string(path).unwrap()
        });
        write(&path, "report").unwrap();
        assert!(!path.is_file(), "the pipe was replaced");
        assert_eq!(reader.join().unwrap(), "report");
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.html");
        std::fs::write(&path, "the one before, which was longer").unwrap();
        write(&path, "report").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "report");
    }
}
