//! kprov turns a YAML profile into a running, hardened, proven kind cluster on Docker.

pub mod engine;
pub mod etcd;
pub mod keys;
pub mod kubernetes;
pub mod node;
pub mod profile;
