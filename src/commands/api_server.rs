//! `kprov apiserver set` and `kprov apiserver unset`.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use crate::commands::grammar::{ApiServerCommand, Global};
use crate::documents::names::ClusterName;
use crate::operations::encryption::{self, EncryptionError};
use crate::operations::{api_server, cluster};

use super::{Result, context, present, target};

pub(super) async fn api_server(global: &Global, command: ApiServerCommand) -> Result<ExitCode> {
    let start = Instant::now();
    let context = context(global).await?;
    let (ApiServerCommand::Set { mut words } | ApiServerCommand::Unset { mut words }) = command.clone();
    // A flag has a value, or is not alone; a cluster is there.
    let known = cluster::list(&context.engine).await?;
    let cluster = match words.first() {
        // An empty word is the value of a variable that is not set, and was meant to be a name.
        Some(first) if first.is_empty() => Some(first.parse::<ClusterName>()?),
        Some(first) if words.len() > 1 && !first.starts_with('-') => {
            known.into_iter().map(|found| found.name).find(|name| *name == first.as_str())
        }
        _ => None,
    };
    if cluster.is_some() {
        words.remove(0);
    }
    let change = match command {
        ApiServerCommand::Set { .. } => api_server::parse_set(&words)?,
        ApiServerCommand::Unset { .. } => api_server::parse_unset(&words)?,
    };
    let name = target::name(&context, cluster.as_ref()).await?;
    let _lock = cluster::lock(&context, &name).await?;
    let found = cluster::find(&context.engine, Some(&name)).await?;
    let nodes = found.all_control_planes(&context.engine, cluster::record_if_here(&context, &name).await?.as_ref())?;
    let opened = target::open(&context, Some(&name)).await?;
    let client = opened.client().await?;
    if let Some(journal) = encryption::unfinished(&nodes).await? {
        return Err(EncryptionError::Unfinished(Box::new(journal)).into());
    }
    let changed = api_server::change_all(&context.reporter, &client, &nodes, &opened.nodes, &change).await;
    context.reporter.close();
    let changed = changed?;
    let seconds = start.elapsed().as_secs_f64();
    let value = json!({"cluster": name, "change": change.to_string(), "changed": changed,
        "seconds": (seconds * 10.0).round() / 10.0});
    present::result(global.output, &value, || {
        if changed.is_empty() {
            format!("The API server runs with {change} already.\n")
        } else {
            format!("The API server runs with {change}, and is ready: {}, {seconds:.1} s.\n", changed.join(", "))
        }
    });
    Ok(ExitCode::SUCCESS)
}
