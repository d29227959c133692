//! Keeping the state that `reset` goes back to.

use crate::adapters::node::Node;
use crate::adapters::states::States;
use crate::documents::keys::KeyRing;
use crate::documents::record::Record;

use super::super::bootstrap::Build;
use super::super::{ClusterError, capture};

/// Keeps the golden state of a cluster that has been proven. It is good without one, too: then `reset` makes it again.
pub(super) async fn keep(build: &Build<'_>, record: &Record, keys: Option<&KeyRing>) {
    let context = build.context;
    // Nodes of other images are not in a state yet.
    if build.nodes.iter().any(|member| member.plan.image.is_some()) {
        return;
    }
    let step = context.reporter.stage("Keeping the golden state");
    let nodes: Vec<Node> = build.nodes.iter().map(|member| member.node.clone()).collect();
    let kept = async {
        let draft = capture::capture(context, record, keys, &nodes).await?;
        step.detail(&format!("{} KiB", draft.manifest.size() / 1024));
        States::at(&context.paths).keep_golden(&draft)?;
        Ok::<_, ClusterError>(())
    };
    match kept.await {
        Ok(()) => step.done(),
        Err(error) => {
            step.fail(&error);
            context.reporter.warn("`kprov reset` will make this cluster again from its profile, which takes longer");
        }
    }
}
