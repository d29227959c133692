//! `kprov kubeconfig`: a cluster's kubeconfig, printed or merged into the user's.

use std::process::ExitCode;

use serde_json::json;

use crate::adapters::kubeconfig;
use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::cluster::ClusterError;

use super::target::open;
use super::{Result, context, present};

pub(super) async fn kubeconfig(
    global: &Global,
    cluster: Option<&ClusterName>,
    merge: bool,
    internal: bool,
) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
    if internal {
        let found = &opened.found;
        let server =
            found.api_server_inside().ok_or_else(|| ClusterError::NotRunning { name: found.name.to_string() })?;
        present::print(kubeconfig::for_cluster(&opened.kubeconfig, &found.name, &server)?.as_bytes());
        return Ok(ExitCode::SUCCESS);
    }
    if merge {
        let file = context.kubeconfig.merge(&opened.kubeconfig)?;
        let entry = kubeconfig::entry_name(&opened.found.name);
        present::result(global.output, &json!({"context": entry, "kubeconfig": file}), || {
            format!("The context {entry} is in {}.\n", file.display())
        });
    } else {
        present::print(opened.kubeconfig.as_bytes());
    }
    Ok(ExitCode::SUCCESS)
}
