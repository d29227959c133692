//! Making a cluster anew, as it was on its first day.

use crate::adapters::states::States;
use crate::documents::keys::KeyRing;
use crate::documents::names::ClusterName;
use crate::documents::record::Record;
use crate::documents::render;

use super::create::{Before, make_again};
use super::owner::{record_here, require_own};
use super::succession::recover;
use super::timed::Timed;
use super::{ClusterError, Context, LABEL_CLUSTER, Outcome, Request, resolve_image, restore};

/// Brings a cluster back to its golden state: what it was when its making had been proven. Whatever was done to
/// it meanwhile is gone. Also completes a cluster whose making, or an earlier reset, was killed.
///
/// Where there is no golden state that can be used, it is made again from what it was first made of: the same
/// profile, image, name, port and keys.
///
/// # Errors
/// [`ClusterError::NoRecord`] or [`ClusterError::Foreign`] if kprov did not make it, [`ClusterError::Elsewhere`] if it
/// is on another engine; then it is left alone. Nodes go only once the state, or the
/// image, the keys and the templates that they are made of again, have been found fit.
pub async fn reset(context: &Context, cluster: &ClusterName, retain: bool) -> Result<Outcome, ClusterError> {
    let timed = Timed::begin(context, "reset");
    let context = &timed.context;
    let since = context.engine.now().await?;
    let store = context.store();
    let lock = store.lock(cluster)?;
    let Some(record) = record_here(context, cluster).await? else {
        return Err(ClusterError::NoRecord { name: cluster.to_string() });
    };
    require_own(cluster, &context.engine.containers(LABEL_CLUSTER, Some(cluster)).await?)?;
    recover(context, cluster).await?;
    let state = async {
        match States::at(&context.paths).golden(cluster)? {
            Some(manifest) => restore::prepare(context, manifest).await.map(Some),
            None => Ok(None),
        }
    };
    match state.await {
        Ok(Some(state)) => match restore::restore(context, &state, since, retain).await {
            Err(error) if error.is_unfit_state() => unfit(context, &error),
            outcome => return outcome.map(|outcome| timed.end(outcome)),
        },
        Ok(None) => context.reporter.info("There is no golden state: making the cluster again from its profile."),
        Err(error) if !error.is_unfit_state() => return Err(error),
        Err(error) => unfit(context, &error),
    }
    let keys = match (store.load_keys(cluster)?, &record.profile.spec.encryption) {
        (None, Some(encryption)) => Some(encryption.resolve(&record.base)?),
        (keys, _) => keys,
    };
    let request = Request {
        name: record.name.clone(),
        profile: record.profile.clone(),
        base: record.base.clone(),
        image: Some(record.image.clone()),
        load_balancer_image: record.load_balancer_image.clone(),
        retain,
    };
    check(context, &record, keys.as_ref()).await?;
    let outcome = make_again(context, &request, &Before { record, keys }, &lock).await?;
    Ok(timed.end(outcome))
}

fn unfit(context: &Context, error: &ClusterError) {
    let reason = format!("The golden state cannot be used ({error}): making the cluster again from its profile.");
    context.reporter.warn(&reason);
}

/// Finds out whatever would keep a cluster from being made again, before its nodes go: the image and every document.
async fn check(context: &Context, record: &Record, keys: Option<&KeyRing>) -> Result<(), ClusterError> {
    let (_, facts) = resolve_image(context, &record.image).await?;
    let version = facts.kubernetes()?;
    let cgroup_v1 = context.engine.info().await?.cgroup_version == "1";
    let inputs = record.inputs(&version, keys, &context.templates, cgroup_v1);
    render::documents_digest(&inputs)?;
    render::control_plane_files(&inputs)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::adapters::engine::EngineError;
    use crate::adapters::states::SnapshotError;

    use super::*;

    #[test]
    fn only_an_unfit_state_makes_reset_take_the_long_way() {
        let damaged = SnapshotError::Damaged { path: "a".into(), reason: "it is missing".to_owned() };
        assert!(ClusterError::from(damaged).is_unfit_state());
        let gone = EngineError::Unreachable { host: "unix:///s".to_owned(), reason: "gone".to_owned() };
        assert!(!ClusterError::from(gone).is_unfit_state());
        let full = EngineError::DiskFull { doing: "a".to_owned(), reason: "full".to_owned() };
        assert!(!ClusterError::from(full).is_unfit_state());
    }
}
