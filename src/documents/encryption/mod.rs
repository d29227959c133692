//! Encryption at rest as documents: the EncryptionConfiguration, and the walk from one to another.
//!
//! `config` reads and writes the document; `plan` decides what comes next. Acting on clusters is `operations::encryption`'s.

mod config;
mod plan;

pub use config::{Config, Group, KeyId, Kms, Provider};
pub use plan::{Journal, Move, NewKeys, Phase, PlanError, Verb, moves};
