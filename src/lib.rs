//! kprov turns a YAML profile into a running, hardened, proven kind cluster on Docker.

pub mod host;
pub mod keys;
pub mod kubeconfig;
pub mod paths;
pub mod profile;
pub mod progress;
