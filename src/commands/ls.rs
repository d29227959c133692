//! `kprov ls`: all clusters on the engine.

use std::net::SocketAddr;
use std::process::ExitCode;

use serde::Serialize;

use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::operations::cluster::{self, Found};

use super::{Result, context, present};

/// One line of the list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    cluster: ClusterName,
    /// None if kprov did not make it.
    profile: Option<String>,
    containers: usize,
    running: usize,
    api_server: Option<String>,
}

impl Row {
    fn of(cluster: &Found) -> Self {
        let (running, containers) = cluster.running();
        Self {
            cluster: cluster.name.clone(),
            profile: cluster.profile().map(str::to_owned),
            containers,
            running,
            api_server: cluster
                .api_server()
                .map(|(address, port)| format!("https://{}", SocketAddr::new(address, port))),
        }
    }

    fn cells(&self) -> Vec<String> {
        let address = self.api_server.as_deref().and_then(|server| server.strip_prefix("https://"));
        vec![
            self.cluster.to_string(),
            self.profile.as_deref().unwrap_or("- (made by kind)").to_owned(),
            format!("{}/{} running", self.running, self.containers),
            address.unwrap_or("-").to_owned(),
        ]
    }
}

pub(super) async fn ls(global: &Global) -> Result<ExitCode> {
    let context = context(global).await?;
    let rows: Vec<Row> = cluster::list(&context.engine).await?.iter().map(Row::of).collect();
    present::result(global.output, &rows, || {
        if rows.is_empty() {
            return "No clusters. `kprov up` makes one.\n".to_owned();
        }
        let cells: Vec<_> = rows.iter().map(Row::cells).collect();
        present::table(&["CLUSTER", "PROFILE", "NODES", "API SERVER"], &cells)
    });
    Ok(ExitCode::SUCCESS)
}
