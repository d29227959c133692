//! Making a cluster anew, as it was on its first day.

use k8s_openapi::jiff::Timestamp;

use crate::adapters::states::States;
use crate::documents::names::ClusterName;

use super::create::{Before, make};
use super::{ClusterError, Context, Outcome, Request, delete, restore};

/// Brings a cluster back to its golden state: what it was when its making had been proven. Whatever was done to
/// it meanwhile is gone. Also completes a cluster whose making, or an earlier reset, was killed.
///
/// Where there is no golden state that can be used, it is made again from what it was first made of: the same
/// profile, image, name, port and keys.
///
/// # Errors
/// [`ClusterError::NoRecord`] if kprov did not make it; then it is left alone.
pub async fn reset(context: &Context, cluster: &ClusterName, retain: bool) -> Result<Outcome, ClusterError> {
    let since = Timestamp::now();
    let store = context.store();
    let lock = store.lock(cluster)?;
    let Some(record) = store.load(cluster)? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    let state = async {
        match States::at(&context.paths).golden(cluster)? {
            Some(manifest) => restore::prepare(context, manifest).await.map(Some),
            None => Ok(None),
        }
    };
    match state.await {
        Ok(Some(state)) => {
            return restore::restore(context, &state, since, retain).await;
        }
        Ok(None) => context.reporter.info("There is no golden state: making the cluster again from its profile."),
        Err(error) => context
            .reporter
            .warn(&format!("The golden state cannot be used ({error}): making the cluster again from its profile.")),
    }
    let keys = store.load_keys(cluster)?;
    let request = Request {
        name: record.name.clone(),
        profile: record.profile.clone(),
        base: record.base.clone(),
        image: Some(record.image.clone()),
        load_balancer_image: record.load_balancer_image.clone(),
        retain,
    };
    let step = context.reporter.stage("Removing the old nodes");
    delete::remove_containers(&context.engine, cluster).await?;
    step.done();
    make(context, &request, Some(&Before { record, keys }), &lock).await
}
