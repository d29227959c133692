//! kprov turns a YAML profile into a running, hardened, proven kind cluster on Docker.
//!
//! ARCHITECTURE.md tells how data flows through these modules.

pub mod api_server;
pub mod cli;
pub mod cluster;
pub mod commands;
pub mod encryption;
pub mod engine;
pub mod etcd;
pub mod host;
pub mod keys;
pub mod kubeconfig;
pub mod kubernetes;
pub mod node;
pub mod paths;
pub mod pki;
pub mod profile;
pub mod progress;
pub mod render;
pub mod snapshot;
pub mod verify;
