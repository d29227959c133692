//! `kprov nodes`: the containers of a cluster, a name a line, as `kind get nodes` prints them.

use std::process::ExitCode;

use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::cluster;

use super::target::chosen;
use super::{Result, context, present};

pub(super) async fn nodes(global: &Global, cluster: Option<&ClusterName>, all: bool) -> Result<ExitCode> {
    let context = context(global).await?;
    let found = if all {
        cluster::list(&context.engine).await?
    } else {
        vec![cluster::find(&context.engine, chosen(cluster)?.as_ref()).await?]
    };
    let names: Vec<&str> =
        found.iter().flat_map(|cluster| &cluster.containers).map(|container| container.name.as_str()).collect();
    present::result(global.output, &names, || names.iter().map(|name| format!("{name}\n")).collect());
    Ok(ExitCode::SUCCESS)
}
