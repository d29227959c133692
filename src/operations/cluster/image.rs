//! What a node image holds that the making of a cluster depends on.
//!
//! Read from the image once and kept by the image's id, which changes with its content.

use serde::{Deserialize, Serialize};

use crate::adapters::engine::{ContainerSpec, Image};
use crate::adapters::node::NodeError;
use crate::adapters::paths;
use crate::documents::render::KubernetesVersion;

use super::{ClusterError, Context, LABEL_OWNER, LABEL_PROCESS};

const VERSION_FILE: &str = "/kind/version";
/// Where a node image has the manifest of its CNI.
pub(super) const CNI_FILE: &str = "/kind/manifests/default-cni.yaml";
const STORAGE_FILE: &str = "/kind/manifests/default-storage.yaml";

/// What kprov has read from a node image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFacts {
    /// The Kubernetes version, `vX.Y.Z`.
    pub version: String,
    /// The CNI's manifest, a template.
    pub cni: Option<String>,
    /// The default storage class's manifest.
    pub storage: Option<String>,
}

impl ImageFacts {
    /// The Kubernetes version.
    ///
    /// # Errors
    /// [`ClusterError::Version`] if kprov does not support it.
    pub fn kubernetes(&self) -> Result<KubernetesVersion, ClusterError> {
        Ok(self.version.parse()?)
    }

    /// Whether the CNI is kindnet, kind's own.
    #[must_use]
    pub fn has_kindnet(&self) -> bool {
        self.cni.as_ref().is_some_and(|manifest| manifest.contains("/kindnetd"))
    }
}

/// Makes sure that the engine has the image, and reads what it holds.
///
/// # Errors
/// [`ClusterError::Engine`] if it is neither here nor to be had, [`NodeError::NoNodeImage`] if it is none.
pub async fn resolve_image(context: &Context, reference: &str) -> Result<(Image, ImageFacts), ClusterError> {
    let image = have_image(context, reference).await?;
    let cache = context.paths.data().join("images").join(format!("{}.json", image.id.replace(':', "-")));
    if let Ok(Some(bytes)) = paths::read(&cache)
        && let Ok(facts) = serde_json::from_slice(&bytes)
    {
        return Ok((image, facts));
    }
    let facts = read_facts(context, reference, &image).await?;
    // Only a shortcut: without it, the next command reads the image again.
    let _ = paths::write_private(&cache, &serde_json::to_vec(&facts).unwrap_or_default());
    Ok((image, facts))
}

/// The image of that name; pulled if the engine does not have it.
///
/// # Errors
/// [`ClusterError::Engine`] if it is neither here nor to be had.
pub(super) async fn have_image(context: &Context, reference: &str) -> Result<Image, ClusterError> {
    if let Some(image) = context.engine.image(reference).await? {
        return Ok(image);
    }
    let step = context.reporter.stage(&format!("Pulling {reference}"));
    let image = context.engine.pull(reference, |status| step.detail(status)).await?;
    step.done();
    Ok(image)
}

/// containerd's database as it is in an image: the names and digests of all images that it was built with are in
/// it, as text.
pub(super) async fn containerd_metadata(context: &Context, image_id: &str) -> Result<Vec<u8>, ClusterError> {
    let engine = &context.engine;
    let probe = engine.create_container(probe_spec(image_id)).await?;
    let read =
        engine.get_archive(&probe, "/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db", LARGEST_FILE).await;
    engine.remove_container(&probe).await?;
    match read {
        Ok(archive) => {
            Ok(crate::documents::files::first_file(&archive).map(|content| content.to_vec()).unwrap_or_default())
        }
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// A container that is none of a cluster's and lives for seconds; the next command removes it if this one is killed.
pub(super) fn passing_spec(what: &str, image_id: &str) -> ContainerSpec {
    ContainerSpec {
        // Whoever shares an engine from another container or host may have the same process id.
        name: format!("kprov-{what}-{:016x}", getrandom::u64().unwrap_or_else(|_| std::process::id().into())),
        image: image_id.to_owned(),
        labels: vec![
            (LABEL_OWNER.to_owned(), "kprov".to_owned()),
            (LABEL_PROCESS.to_owned(), std::process::id().to_string()),
        ],
        network: "none".to_owned(),
        ..Default::default()
    }
}

/// A container that is never started.
fn probe_spec(image_id: &str) -> ContainerSpec {
    // Never run; but an engine makes no container of an image that names no command.
    ContainerSpec { command: Some(vec![VERSION_FILE.to_owned()]), ..passing_spec("probe", image_id) }
}

/// The most bytes of a file that is read from an image: containerd's database has some.
const LARGEST_FILE: usize = 64 << 20;

/// Reads files out of a container that is never started.
async fn read_facts(context: &Context, reference: &str, image: &Image) -> Result<ImageFacts, ClusterError> {
    let engine = &context.engine;
    let probe = engine.create_container(probe_spec(&image.id)).await?;
    let read = async |path: &str| {
        let content = engine.read_file(&probe, path, LARGEST_FILE).await?;
        Ok::<_, ClusterError>(content.map(|content| String::from_utf8_lossy(&content).into_owned()))
    };
    let facts = async {
        let version = read(VERSION_FILE)
            .await?
            .ok_or_else(|| NodeError::NoNodeImage { image: reference.to_owned(), path: VERSION_FILE.to_owned() })?;
        Ok(ImageFacts {
            version: version.trim().to_owned(),
            cni: read(CNI_FILE).await?,
            storage: read(STORAGE_FILE).await?,
        })
    }
    .await;
    engine.remove_container(&probe).await?;
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_probe_is_in_anothers_way_and_all_are_known_for_kprovs() {
        let (one, other) = (probe_spec("sha256:1"), probe_spec("sha256:1"));
        assert_ne!(one.name, other.name);
        assert!(one.name.starts_with("kprov-probe-"));
        let labels = [(LABEL_OWNER, "kprov".to_owned()), (LABEL_PROCESS, std::process::id().to_string())];
        assert_eq!(one.labels, labels.map(|(name, value)| (name.to_owned(), value)));
    }
}
