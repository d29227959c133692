//! `kprov stop` and `kprov start`: a cluster is put aside, and goes on as it was.

use std::process::ExitCode;

use serde_json::json;

use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::cluster::{self, Renewal};
use crate::progress::counted;

use super::target::name;
use super::{Result, context, present};

pub(super) async fn stop(global: &Global, cluster: Option<&ClusterName>) -> Result<ExitCode> {
    let context = context(global).await?;
    let stopped = cluster::stop(&context, &name(&context, cluster).await?).await?;
    context.reporter.close();
    let name = &stopped.name;
    present::result(global.output, &json!({"cluster": name, "stopped": stopped.changed}), || {
        if stopped.changed.is_empty() {
            return format!("{name} did not run.\n");
        }
        let count = counted(stopped.changed.len(), "container");
        format!("Stopped {name} ({count}). `kprov start {name}` goes on with it.\n")
    });
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn start(global: &Global, cluster: Option<&ClusterName>, renew: bool) -> Result<ExitCode> {
    let context = context(global).await?;
    let renewal = if renew { Renewal::Anyway } else { Renewal::Due };
    let started = cluster::start(&context, &name(&context, cluster).await?, renewal).await?;
    for what in &started.not_ready {
        context.reporter.warn(&format!("{what} is not ready, as before"));
    }
    context.reporter.close();
    let name = &started.name;
    let json =
        json!({"cluster": name, "started": started.changed, "notReady": started.not_ready, "renewed": started.renewed});
    present::result(global.output, &json, || {
        let rest = if started.not_ready.is_empty() { "" } else { " but for what it lacked before" };
        let renewed =
            if started.renewed { " Its certificates are new, and so is its entry in the kubeconfig." } else { "" };
        format!("{name} is ready{rest}.{renewed} `kprov verify {name}` proves what it is.\n")
    });
    Ok(ExitCode::SUCCESS)
}
