//! `kprov kubeconfig`: a cluster's kubeconfig, printed or merged into the user's.

use std::process::ExitCode;

use serde_json::json;

use crate::adapters::kubeconfig;
use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;

use super::target::open;
use super::{Result, context, present};

pub(super) async fn kubeconfig(global: &Global, cluster: Option<&ClusterName>, merge: bool) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
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
