//! Snapshots: the few files that make a node that node, kept on the host.
//!
//! Owns the format of a node's archive, the manifest that names and sums everything, and
//! where states lie in the user's data folder. All of it is files and bytes: reading a
//! state out of a running cluster and putting it into a new one is `cluster`'s.

mod archive;
mod error;
mod manifest;
mod portable;
mod states;

pub use archive::{Edit, edit, file, pack, pack_canonical, unpack};
pub use error::SnapshotError;
pub use manifest::{Blob, Manifest, NodeState};
pub use portable::{PortableError, is_encrypted, read as read_portable, write as write_portable};
pub use states::{Draft, Listed, States};
