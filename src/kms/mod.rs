//! The KMS plugin: serves an API server's KMS requests over a Unix socket, by v2 and v1 of Kubernetes' protocol.
//!
//! Owns the protocol, its limits, the socket, and the providers that wrap data keys. Knows nothing of clusters,
//! profiles or Docker: it runs beside any API server. Who starts it, and with which configuration, is for others.

mod authority;
mod client;
mod config;
mod error;
mod log;
mod measure;
mod metrics;
mod proto;
mod provider;
mod rest;
mod secret;
mod server;
mod service;
mod socket;
mod statistics;

#[cfg(test)]
mod tests;

pub use client::{Operation, Report, report};
pub use config::Config;
pub use error::KmsError;
pub use measure::{Measured, Timing, measure};
pub use metrics::text as metrics;
pub use provider::local::add_key;
pub use server::serve;
