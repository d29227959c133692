//! Why a snapshot could not be kept or used.

use std::path::PathBuf;

use crate::adapters::paths::PathsError;
use crate::documents::snapshot::LARGEST;

/// What went wrong with a snapshot.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum SnapshotError {
    /// There is none of that name.
    #[error("there is no snapshot called {name:?}{}", near(known))]
    #[diagnostic(
        code(kprov::snapshot::unknown),
        help("`kprov snapshot ls` lists snapshots, `kprov snapshot save NAME` makes one")
    )]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// There is one of that name already.
    #[error("a snapshot called {name:?} exists already")]
    #[diagnostic(
        code(kprov::snapshot::exists),
        help("choose another name, or remove the old one first: `kprov snapshot rm {name}`")
    )]
    Exists {
        /// The name.
        name: String,
    },
    /// Nodes that have to have the addresses that they had cannot have them.
    #[error(
        "the control planes of {cluster:?} know each other by their addresses, which cannot be had again: {reason}"
    )]
    #[diagnostic(
        code(kprov::snapshot::addresses),
        help(
            "nothing was changed; `kprov reset {cluster}` makes it anew from its profile, with the same keys, if there is such a cluster"
        )
    )]
    Addresses {
        /// The cluster.
        cluster: String,
        /// Why.
        reason: String,
    },
    /// A change of encryption has begun and not ended.
    #[error("the encryption of the cluster {cluster:?} is being changed: {node} has a journal of it")]
    #[diagnostic(
        code(kprov::snapshot::under_way),
        help(
            "nothing was kept; `kprov encryption status` shows what is under way, the same command again completes it, `kprov encryption undo` takes it back"
        )
    )]
    UnderWay {
        /// The cluster.
        cluster: String,
        /// The control plane.
        node: String,
    },
    /// A node's container is gone, so that the cluster could not come back whole.
    #[error("the cluster {cluster:?} lacks a node: {} is gone", gone.join(", "))]
    #[diagnostic(
        code(kprov::snapshot::incomplete),
        help("nothing was kept; `kprov reset {cluster}` makes the cluster whole again, as it was on its first day")
    )]
    Incomplete {
        /// The cluster.
        cluster: String,
        /// The nodes that are gone.
        gone: Vec<String>,
    },
    /// All of it together is more than a snapshot may have.
    #[error("the state of the cluster {cluster:?} has {} MiB, a snapshot has at most {} MiB", size >> 20, LARGEST >> 20)]
    #[diagnostic(
        code(kprov::snapshot::large),
        help("nothing was kept; without `--with-images` it is smaller, if that was asked for")
    )]
    Large {
        /// The cluster.
        cluster: String,
        /// Its size, in bytes.
        size: u64,
    },
    /// A file of a state is missing or not what it was.
    #[error("the snapshot is damaged: {path}: {reason}", path = path.display())]
    #[diagnostic(
        code(kprov::snapshot::damaged),
        help("nothing was changed; a damaged snapshot can only be removed and taken again")
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What came from a node is no archive of a node.
    #[error("the archive of {node} cannot be used: {reason}")]
    #[diagnostic(code(kprov::snapshot::archive))]
    Archive {
        /// The node.
        node: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The state was made by a kprov that writes another format.
    #[error("the snapshot has format {found}; this kprov reads format {known}")]
    #[diagnostic(code(kprov::snapshot::format), help("use the kprov that made it, or a newer one"))]
    Format {
        /// Its format.
        found: u32,
        /// The one that is known.
        known: u32,
    },
    /// The image that the state belongs to is not there.
    #[error("the snapshot belongs to the image {reference} ({image_id}), which is not on the engine")]
    #[diagnostic(
        code(kprov::snapshot::image),
        help("load or pull exactly that image: a snapshot holds what a node adds to its image, and fits no other")
    )]
    Image {
        /// The image's reference.
        reference: String,
        /// The image's id.
        image_id: String,
    },
    /// The state is of another Kubernetes version than the image says.
    #[error("the snapshot is of Kubernetes {snapshot}, the image {reference} holds {image}")]
    #[diagnostic(code(kprov::snapshot::version))]
    Version {
        /// The state's version.
        snapshot: String,
        /// The image's version.
        image: String,
        /// The image's reference.
        reference: String,
    },
    /// The snapshot is of another cluster.
    #[error("the snapshot is of the cluster {found:?}, not of {wanted:?}")]
    #[diagnostic(
        code(kprov::snapshot::cluster),
        help("names are in its certificates and objects, so a snapshot can only become the cluster that it was")
    )]
    Cluster {
        /// The cluster that it is of.
        found: String,
        /// The cluster that was asked for.
        wanted: String,
    },
    /// kprov's own files could not be read or written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Paths(#[from] PathsError),
}

fn near(known: &[String]) -> String {
    if known.is_empty() { String::new() } else { format!("; there are: {}", known.join(", ")) }
}
