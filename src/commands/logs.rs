//! `kprov logs`: the logs of a cluster, in a folder.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::logs;

use super::target::chosen;
use super::{Result, context, present};

pub(super) async fn logs(global: &Global, folder: Option<PathBuf>, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let gathered = logs::gather(&context, chosen(cluster)?.as_ref(), folder).await;
    if let Ok(gathered) = &gathered {
        for missing in &gathered.missing {
            context.reporter.warn(&format!("could not be had: {missing}"));
        }
    }
    context.reporter.close();
    let gathered = gathered?;
    let value = json!({"cluster": gathered.cluster, "folder": gathered.folder, "missing": gathered.missing});
    // As kind does it, the folder alone: scripts go on from there.
    present::result(global.output, &value, || format!("{}\n", gathered.folder.display()));
    Ok(if gathered.missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
