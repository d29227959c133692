//! Whose a cluster is: which engine its record belongs to, and who made its containers.
//!
//! Two engines may each have a cluster of the same name, and so may kprov and kind. What is not known to be ours on
//! this engine is left alone, unless the user names it.

use crate::adapters::engine::Container;
use crate::documents::names::ClusterName;
use crate::documents::record::{EngineRecord, Record};

use super::{ClusterError, Context, LABEL_OWNER};

/// What records say of the engine that is used now; `None` if it has no identity.
pub(super) async fn this_engine(context: &Context) -> Result<Option<EngineRecord>, ClusterError> {
    let id = context.engine.info().await?.id;
    Ok(if id.is_empty() { None } else { Some(EngineRecord { id, host: context.engine.host().to_owned() }) })
}

/// Nothing, if a cluster's record belongs to the engine that is used now, or does not say to which.
///
/// # Errors
/// [`ClusterError::Elsewhere`], [`ClusterError::Engine`].
pub async fn require_here(context: &Context, record: &Record) -> Result<(), ClusterError> {
    let Some(there) = &record.engine else { return Ok(()) };
    // One that does not say who it is, is not known to be that one.
    if this_engine(context).await?.is_some_and(|here| here.id == there.id) {
        return Ok(());
    }
    Err(ClusterError::Elsewhere {
        name: record.name.to_string(),
        host: there.host.clone(),
        here: context.engine.host().to_owned(),
    })
}

/// The record of a cluster, which must belong to the engine that is used now; `None` if there is none.
///
/// # Errors
/// [`ClusterError::Elsewhere`], [`ClusterError::Records`] if it cannot be read.
pub async fn record_here(context: &Context, name: &ClusterName) -> Result<Option<Record>, ClusterError> {
    let record = context.store().load(name)?;
    if let Some(record) = &record {
        require_here(context, record).await?;
    }
    Ok(record)
}

/// The record of a cluster on this engine; `None` if there is none, or if that of its name is of a cluster elsewhere.
///
/// # Errors
/// [`ClusterError::Records`] if it cannot be read, [`ClusterError::Engine`].
pub async fn record_if_here(context: &Context, name: &ClusterName) -> Result<Option<Record>, ClusterError> {
    match record_here(context, name).await {
        Err(ClusterError::Elsewhere { .. }) => Ok(None),
        other => other,
    }
}

/// Whether kprov made a container.
pub(super) fn is_own(container: &Container) -> bool {
    container.labels.get(LABEL_OWNER).is_some_and(|owner| owner == "kprov")
}

/// Nothing, if kprov made all these containers of a cluster.
///
/// # Errors
/// [`ClusterError::Foreign`] names the first container that somebody else made.
pub(super) fn require_own(name: &ClusterName, containers: &[Container]) -> Result<(), ClusterError> {
    match containers.iter().find(|container| !is_own(container)) {
        Some(other) => Err(ClusterError::Foreign { name: name.to_string(), container: other.name.clone() }),
        None => Ok(()),
    }
}
