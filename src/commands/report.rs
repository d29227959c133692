//! `kprov report`.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::adapters::kubernetes;
use crate::commands::grammar::{self, Global, ReportForm};
use crate::documents::cis::{Exception, Selection, results};
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;
use crate::documents::report::{self, Beside, Cluster, Evidence, NodeLine, Report, Secret};
use crate::operations::cis;
use crate::operations::cluster::{self, Context};

use super::target::open;
use super::{Result, context, present};

/// How long a report from before may be: they have some 300 KB for each cluster.
const LONGEST: u64 = 64 * 1024 * 1024;

/// Why there is no report.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum Unfit {
    /// It cannot be written.
    #[error("the report cannot be written to {}: {error}", path.display())]
    #[diagnostic(code(kprov::report::file), help("name a file in a folder that is there and that you may write to"))]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// What it is to be held against is no report.
    #[error("{} cannot be read as a report: {reason}", path.display())]
    #[diagnostic(
        code(kprov::report::earlier),
        help("`--since` and `--baseline` take what `kprov report` has written, as a page or as JSON")
    )]
    NoReport {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Only a page shows what it is held against.
    #[error("--since and --baseline are of use for pages only")]
    #[diagnostic(code(kprov::report::form), help("leave them out, or let --out end in .html"))]
    PagesOnly,
}

pub(super) async fn report(global: &Global, arguments: &grammar::Report) -> Result<ExitCode> {
    let path = &arguments.out;
    let form = arguments.form.unwrap_or_else(|| form_of(path));
    let beside = [&arguments.since, &arguments.baseline];
    if form != ReportForm::Html && beside.into_iter().any(Option::is_some) {
        return Err(Unfit::PagesOnly.into());
    }
    // Before anything is looked at: a name that is mistyped costs nothing.
    let [since, baseline] = beside.map(|path| path.as_deref().map(earlier).transpose());
    let (since, baseline) = (since?, baseline?);
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
    if let (Some(since), Some(path)) = (&since, &arguments.since) {
        let is_in = |name: &ClusterName| since.clusters.iter().any(|cluster| cluster.name == name.as_str());
        for name in names.iter().filter(|name| !is_in(name)) {
            context.reporter.warn(&format!("{} has no cluster {name}: nothing is shown beside it", path.display()));
        }
    }
    context.reporter.close();
    let made = Report {
        kprov: env!("CARGO_PKG_VERSION").to_owned(),
        created: k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        clusters: all,
    };
    let text = match form {
        ReportForm::Html => {
            // What is replaced need not be a report.
            let replaced = if path.is_file() { earlier(path).ok() } else { None };
            let beside = Beside { since: since.as_ref().or(replaced.as_ref()), baseline: baseline.as_ref() };
            report::page(&context.templates, &made, beside)?
        }
        ReportForm::Json => serde_json::to_string_pretty(&made).unwrap_or_default() + "\n",
        ReportForm::Junit => report::junit(&made),
        ReportForm::Sarif => serde_json::to_string_pretty(&report::sarif(&made)).unwrap_or_default() + "\n",
    };
    write(path, &text).map_err(|error| Unfit::Unwritable { path: path.clone(), error })?;
    present::result(global.output, &json!({"report": path, "clusters": names, "bytes": text.len()}), || {
        format!("The report is in {} ({} KB).\n", path.display(), text.len().div_ceil(1000))
    });
    Ok(ExitCode::SUCCESS)
}

/// A report that was written before.
fn earlier(path: &Path) -> std::result::Result<Report, Unfit> {
    let fail = |reason: String| Unfit::NoReport { path: path.to_owned(), reason };
    let file = std::fs::File::open(path).map_err(|error| fail(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| fail(error.to_string()))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(fail(format!("it has more than {} MiB", LONGEST / 1024 / 1024)));
    }
    let text = String::from_utf8(bytes).map_err(|_| fail("it is no text".to_owned()))?;
    report::earlier(&text).ok_or_else(|| fail("it is neither such a page nor such a JSON document".to_owned()))
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
    for gap in facts.gaps() {
        context.reporter.warn(&gap);
    }
    let evidence = opened.evidence(context, &client).await?;
    let exceptions: Vec<Exception> =
        opened.record.iter().flat_map(|record| record.profile.spec.cis.exceptions()).collect();
    let benchmark = facts.benchmark();
    let findings = results::assess(&facts, benchmark, &exceptions, &Selection::default());
    let role = |role: Role| if role == Role::ControlPlane { "control plane" } else { "worker" };
    // Those of a cluster of that name on another engine say nothing of this one.
    let timings = match opened.record {
        Some(_) => context.store().timings(name).unwrap_or_else(|error| {
            context.reporter.warn(&format!("what its steps took is left out: {error}"));
            None
        }),
        None => None,
    };
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
        unseen: facts.unseen().into_iter().map(str::to_owned).collect(),
        evidence: evidence
            .checks
            .iter()
            .map(|check| Evidence { name: check.name.clone(), ok: check.ok, evidence: check.evidence.clone() })
            .collect(),
        secret: evidence
            .canary
            .map(|canary| Secret { stored: canary.stored.clone(), first_bytes: canary.first_bytes.clone() }),
        timings,
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
    fn what_is_no_report_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("before.html");
        let reason = || match earlier(&path) {
            Err(Unfit::NoReport { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(reason().contains("No such file"), "{}", reason());
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(reason(), "it is no text");
        std::fs::write(&path, "<html>{}").unwrap();
        assert!(reason().contains("neither"), "{}", reason());
        let made = Report { kprov: "1".to_owned(), created: "then".to_owned(), clusters: Vec::new() };
        std::fs::write(&path, serde_json::to_string(&made).unwrap()).unwrap();
        assert_eq!(earlier(&path).unwrap(), made);
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
