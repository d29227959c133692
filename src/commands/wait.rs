//! `kprov wait`: until a cluster is ready.

use std::process::ExitCode;

use serde_json::json;

use crate::adapters::kubernetes::ready;
use crate::adapters::node::Node;
use crate::commands::grammar::Global;
use crate::documents::names::ClusterName;
use crate::documents::profile::Role;

use super::target::open;
use super::{Result, context, present};

pub(super) async fn wait(
    global: &Global,
    cluster: Option<&ClusterName>,
    nodes_only: bool,
    timeout: std::time::Duration,
) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, cluster).await?;
    let client = opened.client().await?;
    let names = |nodes: &mut dyn Iterator<Item = &Node>| nodes.map(|node| node.name.clone()).collect::<Vec<_>>();
    let expected = ready::Expectation {
        nodes: names(&mut opened.nodes.iter()),
        control_planes: names(&mut opened.nodes.iter().filter(|node| node.role == Role::ControlPlane)),
        pods: !nodes_only,
        since: ready::Since::Ever,
        ..ready::Expectation::default()
    };
    let step = context.reporter.stage("Waiting until every node and system pod is Ready");
    ready::wait(&client, &expected, timeout, |pending| {
        if let Some(first) = pending.first() {
            step.detail(&format!("{first} ({} in all)", pending.len()));
        }
    })
    .await?;
    step.done();
    context.reporter.close();
    present::result(global.output, &json!({"cluster": opened.found.name, "ready": true}), || {
        format!("{} is ready.\n", opened.found.name)
    });
    Ok(ExitCode::SUCCESS)
}
