//! Encryption at rest as documents: the EncryptionConfiguration, and the walk from one to another.
//!
//! `config` reads and writes the document; `layout` knows where resources lie in etcd and which rule decides on them;
//! `plan` decides what comes next. Acting on clusters is `operations::encryption`'s.

mod config;
mod layout;
mod plan;

pub use config::{Config, Group, KeyId, Kms, Material, PLUGIN_SOCKET, Provider};
pub use layout::{GroupResource, Known, Layout, Located, Precision, Served};
pub use plan::{Journal, Move, NewKeys, Phase, PlanError, Verb, moves};
