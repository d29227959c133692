//! Clusters: making them, finding them, taking them down.
//!
//! Owns the order of things and what a cluster is made of. Leaves documents to `render`,
//! containers to `engine`, what happens inside a node to `node`, and the API to `kubernetes`.

mod again;
mod balancer;
mod bootstrap;
mod capture;
mod containers;
mod create;
mod delete;
mod discover;
mod error;
mod image;
mod interim_network;
mod interrupt;
mod kms;
mod kubelets;
mod logs;
mod machine;
mod many;
mod owner;
mod power;
mod preflight;
mod prove;
mod reach;
mod registry;
mod renew;
mod reset;
mod restore;
mod snapshots;
mod succession;
mod thaw;
mod timed;
mod warm;

use std::sync::Arc;
use std::time::Duration;

use crate::adapters::engine::Engine;
use crate::adapters::kubeconfig;
use crate::adapters::paths::Paths;
use crate::documents::render::Templates;
use crate::progress::Reporter;

use crate::adapters::records::Store;
pub use balancer::tell_balancer;
pub use create::{Outcome, Request, create};
pub use delete::{Removed, Whose, delete, delete_leftovers};
pub use discover::{ControlPlanes, Found, find, list, node};
pub use error::ClusterError;
pub use image::{ImageFacts, resolve_image};
pub use interrupt::interrupted;
pub use kms::{KmsRotation, install_kms, remove_kms_plugin, retire_kms, rotate_kms};
pub use many::{create_all, delete_all, numbered};
pub use owner::{record_here, record_if_here, require_here};
pub use power::{Renewal, Switched, start, stop};
pub use preflight::checks as host_checks;
pub use registry::{Unused, remove_unused_registries};
pub use reset::reset;
pub use snapshots::{create_from, restore_snapshot, save as save_snapshot};
pub use succession::{lock, recover_unless_whole};
pub use warm::{Warmed, cool, warm};

/// The label that names a container's cluster; kind's tools find clusters by it.
pub const LABEL_CLUSTER: &str = "io.x-k8s.kind.cluster";

/// The label that names a container's role in its cluster.
pub const LABEL_ROLE: &str = "io.x-k8s.kind.role";

/// The label with the digest over the rendered documents and the image: what identifies a kprov cluster's make.
pub const LABEL_DIGEST: &str = "dev.kprov.digest";

/// The label with the name of the profile.
pub const LABEL_PROFILE: &str = "dev.kprov.profile";

/// The label with the generation of nodes that a container belongs to: each reset and each restore makes a new one.
pub const LABEL_GENERATION: &str = "dev.kprov.generation";

/// The label of things that kprov made and may remove.
pub const LABEL_OWNER: &str = "dev.kprov.owner";

/// The label of the server beside a cluster, with the cluster's name.
pub const LABEL_SERVER: &str = "dev.kprov.server-of";

/// The label of registries beside clusters, which says what each is.
const LABEL_REGISTRY: &str = "dev.kprov.registry";

/// The label of nodes with the names of the registries that they use.
const LABEL_REGISTRIES: &str = "dev.kprov.registries";

/// The label of what stays when nobody uses it any more.
const LABEL_KEEP: &str = "dev.kprov.keep";

/// The label with the id of the process that made a passing thing, and removes it unless it is killed.
const LABEL_PROCESS: &str = "dev.kprov.process";

/// The role of the container in front of several control planes.
pub const ROLE_LOAD_BALANCER: &str = "external-load-balancer";

/// How long nodes and pods may take to be Ready where nobody says.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What every operation on clusters needs.
#[derive(Debug, Clone)]
pub struct Context {
    /// The Docker Engine.
    pub engine: Engine,
    /// Where progress is shown.
    pub reporter: Reporter,
    /// The user's folders.
    pub paths: Paths,
    /// The templates, with the user's own over the built-in ones.
    pub templates: Arc<Templates>,
    /// The user's kubeconfig files.
    pub kubeconfig: kubeconfig::Files,
    /// How long nodes and pods may take to be Ready once all have joined.
    pub patience: Duration,
}

impl Context {
    /// What kprov keeps of its clusters.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::at(&self.paths)
    }
}
