//! kprov turns a YAML profile into a running, hardened, proven kind cluster on Docker.

pub mod keys;
pub mod profile;
pub mod render;
