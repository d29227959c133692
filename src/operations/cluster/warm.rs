//! Node images whose own images are unpacked once, on the engine, instead of on each node of each cluster.
//!
//! Owns the image that comes of it: one more layer over the original, in which containerd's store lies unpacked. Layers are
//! shared by all nodes, and none of them can change them for another. Nodes are made of it where it is there; what is recorded of
//! a cluster, and what its digest is of, stays the original.

use std::path::PathBuf;

use crate::adapters::engine::{ContainerSpec, Image};
use crate::adapters::host::Verdict;
use crate::adapters::node::{Node, NodeError};
use crate::adapters::paths::{self, PathsError};
use crate::documents::profile::Role;

use super::{ClusterError, Context, LABEL_OWNER, LABEL_PROCESS, preflight, resolve_image};

/// The label of such an image, with the id of the original.
const LABEL_WARM: &str = "dev.kprov.unpacked";

/// The repository of such images; their tags begin the originals' ids.
const REPOSITORY: &str = "kprov/unpacked";

/// How many characters of an id a tag has.
const TAG: usize = 12;

/// The ids of those that were made here, a line each, below kprov's data. A label is what anybody's image may have; an id is of all
/// that is in it.
const MADE: &str = "unpacked-images";

/// How much of it is read.
const MOST_MADE: u64 = 1 << 20;

/// What the layer may have touched: a folder of its own, and containerd's.
const PLACES: [&str; 2] = ["/kind/warm", "/var/lib/containerd"];

const WARM: &str = include_str!("scripts/warm.sh");

/// An image that is unpacked.
#[derive(Debug, Clone)]
pub struct Warmed {
    /// Its id.
    pub id: String,
    /// The original's id.
    pub of: String,
    /// Whether it has been made only now.
    pub made: bool,
}

/// Has the images within a node image unpacked once. They are containerd's own unpacking, which holds each layer against its
/// digest; it is found out that nothing else in the image is touched.
///
/// # Errors
/// [`ClusterError::Host`] if there is no room for it, [`ClusterError::Warm`] or [`ClusterError::Node`] if it cannot be done;
/// then nothing is left of it, and clusters are made as without it.
pub async fn warm(context: &Context, reference: &str) -> Result<Warmed, ClusterError> {
    let (image, _) = resolve_image(context, reference).await?;
    if let Some(id) = unpacked(context, &image.id).await? {
        return Ok(Warmed { id, of: image.id, made: false });
    }
    let info = context.engine.info().await?;
    let mut failed = preflight::checks(&context.engine, &info, 1);
    failed.retain(|check| check.name == "disk" && check.status == Verdict::Fail);
    if !failed.is_empty() {
        return Err(ClusterError::Host { nodes: 1, failed });
    }
    let step = context.reporter.stage("Unpacking the node image's own images");
    let container = context.engine.create_container(spec(&image)).await?;
    let made = make(context, reference, &image, &container).await;
    context.engine.remove_container(&container).await?;
    let id = made?;
    step.done();
    Ok(Warmed { id, of: image.id, made: true })
}

async fn make(context: &Context, reference: &str, image: &Image, container: &str) -> Result<String, ClusterError> {
    let engine = &context.engine;
    engine.start_container(container).await?;
    let unpacked = Node::new(engine.clone(), container, Role::Worker).script("unpacking images", WARM).await;
    unpacked.map_err(|error| match error {
        NodeError::Command { last_lines, .. } => ClusterError::Warm {
            reference: reference.to_owned(),
            reason: last_lines.trim().trim_start_matches("| ").to_owned(),
        },
        other => other.into(),
    })?;
    engine.kill_container(container, "KILL").await?;
    if let Some(foreign) = engine.changes(container).await?.iter().find(|path| !is_in_place(path)) {
        let reason = format!("that would change {foreign}");
        return Err(ClusterError::Warm { reference: reference.to_owned(), reason });
    }
    // What the container is labelled with is not its image's.
    let labels = [(LABEL_WARM, image.id.as_str()), (LABEL_OWNER, ""), (LABEL_PROCESS, "")];
    let tag: String = image.id.rsplit(':').next().unwrap_or_default().chars().take(TAG).collect();
    let id = engine.commit(container, (REPOSITORY, &tag), &labels, image).await?;
    let mut made = made_here(context)?;
    made.push(id.clone());
    paths::write_private(&list(context), made.join("\n").as_bytes())?;
    Ok(id)
}

fn list(context: &Context) -> PathBuf {
    context.paths.data().join(MADE)
}

/// The ids of the images that this account has made, whether they are still there or not.
fn made_here(context: &Context) -> Result<Vec<String>, PathsError> {
    let bytes = paths::read_within(&list(context), MOST_MADE)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
}

/// The image that nodes of an image are made of: the one that is unpacked, or else itself. By ids. It is a shortcut: an engine that
/// does not say whether it has one is made do without.
pub(super) async fn base(context: &Context, id: &str) -> String {
    unpacked(context, id).await.ok().flatten().unwrap_or_else(|| id.to_owned())
}

async fn unpacked(context: &Context, id: &str) -> Result<Option<String>, ClusterError> {
    let made = made_here(context)?;
    if made.is_empty() {
        return Ok(None);
    }
    Ok(context.engine.images(LABEL_WARM, Some(id)).await?.into_iter().find(|id| made.contains(id)))
}

/// Removes all images that this account has unpacked, but for those that nodes are still made of. Says how many went.
///
/// # Errors
/// [`ClusterError::Engine`] if the engine does not answer, or does not remove one that nobody uses.
pub async fn cool(context: &Context) -> Result<usize, ClusterError> {
    let mut made = made_here(context)?;
    if made.is_empty() {
        return Ok(0);
    }
    let mut removed = 0;
    for id in context.engine.images(LABEL_WARM, None).await? {
        if made.contains(&id) && context.engine.remove_image(&id).await? {
            made.retain(|known| *known != id);
            removed += 1;
        }
    }
    if removed > 0 {
        paths::write_private(&list(context), made.join("\n").as_bytes())?;
    }
    Ok(removed)
}

/// A container on which it is done: like a node, but that nothing of it runs by itself.
fn spec(image: &Image) -> ContainerSpec {
    ContainerSpec {
        name: format!("kprov-warm-{:016x}", getrandom::u64().unwrap_or_else(|_| std::process::id().into())),
        image: image.id.clone(),
        entrypoint: Some(["sleep", "infinity"].map(str::to_owned).to_vec()),
        labels: vec![
            (LABEL_OWNER.to_owned(), "kprov".to_owned()),
            (LABEL_PROCESS.to_owned(), std::process::id().to_string()),
        ],
        network: "none".to_owned(),
        tmpfs: vec!["/run".to_owned()],
        volumes: vec!["/var".to_owned()],
        privileged: true,
        ..Default::default()
    }
}

/// Whether a path is in one of the places that the layer is for, or leads there.
fn is_in_place(path: &str) -> bool {
    PLACES.iter().any(|place| {
        let below = |path: &str, place: &str| {
            path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        below(path, place) || below(place, path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_for_containerds_store_alone() {
        for path in ["/kind", "/kind/warm", "/kind/warm/snapshots/1", "/var", "/var/lib", "/var/lib/containerd/x"] {
            assert!(is_in_place(path), "{path}");
        }
        for path in ["/kind/version", "/kind/warmer", "/var/lib/containerd2", "/var/log", "/usr", "/etc/passwd", "/va"]
        {
            assert!(!is_in_place(path), "{path}");
        }
    }
}
