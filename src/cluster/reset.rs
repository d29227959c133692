//! Making a cluster anew, as it was on its first day.

use super::create::{Before, make};
use super::{ClusterError, Context, Outcome, Request, delete};

/// Removes a cluster and makes it again from what it was first made of: the same profile, image, name,
/// port and keys. Whatever was done to it meanwhile is gone. Also completes a cluster whose making was killed.
///
/// # Errors
/// [`ClusterError::NoRecord`] if kprov did not make it; then it is left alone.
pub async fn reset(context: &Context, cluster: &str, retain: bool) -> Result<Outcome, ClusterError> {
    let store = context.store();
    let lock = store.lock(cluster)?;
    let Some(record) = store.load(cluster)? else {
        return Err(ClusterError::NoRecord { name: cluster.to_owned() });
    };
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
