//! What lies outside: the Docker Engine, what runs inside a node, the Kubernetes API, the user's files and host.
//!
//! Each adapter knows one of them and nothing of what it is used for; the order of things is up to `operations`.

pub mod bundle;
pub mod engine;
pub mod etcd;
pub mod host;
pub mod kms_plugin;
pub mod kubeconfig;
pub mod kubernetes;
pub mod node;
pub mod paths;
pub mod program;
pub mod records;
pub mod states;
