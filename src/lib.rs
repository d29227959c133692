//! kprov turns a YAML profile into a running, hardened, proven kind cluster on Docker.
//!
//! Imports run one way: commands call operations, operations use adapters, and all of them use documents, which are
//! pure. The KMS plugin is a program of its own. ARCHITECTURE.md tells how data flows through them.

pub mod adapters;
pub mod commands;
pub mod documents;
#[cfg(target_os = "linux")]
pub mod kms;
pub mod operations;
pub mod progress;
