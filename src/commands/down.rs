//! `kprov down`: clusters are removed, with all that kprov keeps of them.

use std::io::IsTerminal;
use std::process::ExitCode;

use serde_json::json;

use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::cluster::{self, ClusterError, Context, Whose};

use super::target::name;
use super::{Result, context, present};

/// Some of several clusters could not be removed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{} of {total} clusters could not be removed; the others are gone", failed.len())]
#[diagnostic(code(kprov::cluster::several))]
struct SomeRemain {
    total: usize,
    #[related]
    failed: Vec<ClusterError>,
}

/// Nobody has said that the only cluster is to be removed.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the cluster {cluster:?} is not removed: nobody has named it or said yes")]
#[diagnostic(
    code(kprov::cluster::unconfirmed),
    help("`kprov down {cluster}` removes it, and so does `kprov down --yes`")
)]
struct Unconfirmed {
    cluster: String,
}

/// The only cluster, once the user has agreed that it goes.
async fn only_one(context: &Context, yes: bool) -> Result<ClusterName> {
    let name = name(context, None).await?;
    let unconfirmed = || Unconfirmed { cluster: name.to_string() };
    let terminal = console::Term::stderr();
    if yes {
        return Ok(name);
    }
    if !(terminal.is_term() && std::io::stdin().is_terminal()) {
        return Err(unconfirmed().into());
    }
    let asked = terminal.write_str(&format!("Remove the cluster {name}, with all that is in it? [y/N] "));
    let answer = asked.and_then(|()| terminal.read_line()).map_err(|_| unconfirmed())?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(name),
        _ => Err(unconfirmed().into()),
    }
}

/// What was said beside the cluster's name.
#[derive(Clone, Copy)]
pub(super) struct How {
    /// Nobody is asked.
    pub(super) yes: bool,
    /// A cluster on another engine is forgotten.
    pub(super) forget: bool,
    /// Every cluster of kprov's goes.
    pub(super) all: bool,
}

pub(super) async fn down(global: &Global, cluster: Option<&ClusterName>, how: How) -> Result<ExitCode> {
    let How { yes, forget, all } = how;
    let context = context(global).await?;
    // First: a kprov that was killed early may have left something, but no cluster.
    cluster::delete_leftovers(&context).await?;
    let (names, whose) = match cluster {
        Some(cluster) => (vec![cluster.clone()], Whose::Any),
        None if all => (ours(&context).await?, Whose::Own),
        None => (vec![only_one(&context, yes).await?], Whose::Any),
    };
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    for (name, result) in names.iter().zip(cluster::delete_all(&context, &names, whose, forget).await) {
        match result {
            Ok(what) if what.is_nothing() => {
                let known =
                    cluster::list(&context.engine).await?.into_iter().map(|cluster| cluster.name.to_string()).collect();
                failed.push(ClusterError::Unknown { name: name.to_string(), known });
            }
            Ok(_) => removed.push(name),
            Err(error @ ClusterError::Elsewhere { .. }) if all => {
                context.reporter.info(&format!("Left alone: {error}."))
            }
            Err(error) => failed.push(error),
        }
    }
    if all {
        // Those that were to stay, too; their network goes with them.
        cluster::remove_unused_registries(&context, cluster::Unused::All).await?;
        cluster::delete_leftovers(&context).await?;
        cluster::cool(&context).await?;
    }
    if !failed.is_empty() {
        context.reporter.close();
        return Err(if failed.len() == 1 && names.len() == 1 {
            failed.remove(0).into()
        } else {
            SomeRemain { total: names.len(), failed }.into()
        });
    }
    context.reporter.close();
    present::result(global.output, &json!({"removed": removed}), || match removed.as_slice() {
        [] => "There was nothing to remove.\n".to_owned(),
        names => format!("Removed {}.\n", names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")),
    });
    Ok(ExitCode::SUCCESS)
}

/// The names of all clusters that kprov made or has a record of. Those of kind itself are not ours to remove.
async fn ours(context: &Context) -> Result<Vec<ClusterName>> {
    let mut names = context.store().names();
    for cluster in cluster::list(&context.engine).await? {
        if cluster.digest().is_some() && !names.contains(&cluster.name) {
            names.push(cluster.name);
        }
    }
    Ok(names)
}
