//! What happens when the making of a cluster fails, or its user has had enough: the logs are kept, the rest goes.

use crate::adapters::node::Node;
use crate::documents::names::ClusterName;
use crate::documents::profile::Profile;
use crate::documents::render;

use super::super::delete::{self, Whose};
use super::super::interrupt::interrupted;
use super::super::{ClusterError, Context, LABEL_CLUSTER, Outcome, logs};

/// What is being made.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct What<'a> {
    pub(in super::super) name: &'a ClusterName,
    pub(in super::super) profile: &'a Profile,
    pub(in super::super) retain: bool,
}

/// Makes a cluster; if that fails, or the user has enough, keeps the logs and cleans up.
pub(in super::super) async fn or_clean_up(
    context: &Context,
    what: &What<'_>,
    making: impl Future<Output = Result<Outcome, ClusterError>>,
) -> Result<Outcome, ClusterError> {
    let result = tokio::select! {
        result = making => result,
        () = interrupted() => Err(ClusterError::Interrupted),
    };
    let error = match result {
        Ok(outcome) => return Ok(outcome),
        Err(error) => error,
    };
    if matches!(error, ClusterError::Interrupted) && !what.retain {
        context.reporter.info("Cleaning up; Ctrl-C again ends at once, and `kprov down` cleans up later.");
    }
    let name = what.name;
    let plan = render::plan_nodes(what.profile, name);
    let nodes: Vec<Node> = plan.iter().map(|plan| Node::new(context.engine.clone(), &plan.name, plan.role)).collect();
    let exists = !context.engine.containers(LABEL_CLUSTER, Some(name)).await.unwrap_or_default().is_empty();
    let logs = match &error {
        _ if !exists => None,
        ClusterError::Interrupted => None,
        _ => logs::keep(&context.paths, name, &nodes).await,
    };
    let left = if what.retain && exists {
        Some(format!("its containers are kept; `kprov down {name}` removes them"))
    } else {
        delete::delete(context, name, Whose::Own)
            .await
            .err()
            .map(|failed| format!("cleaning up failed, too: {failed}; `kprov down {name}` tries again"))
    };
    if !exists && left.is_none() {
        // Nothing had been made: the error itself says all.
        return Err(error);
    }
    Err(ClusterError::Create { name: name.to_string(), left, source: Box::new(error), logs })
}
