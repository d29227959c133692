//! What the integration tests and the benchmark share: running `kprov` in a sandbox, and seeing what it leaves behind.
//!
//! Tests go through the program alone, as a user does. Each has folders, a kubeconfig and a cluster name of its own, and
//! the engine for itself.

mod engine;
mod fake_engine;
mod job;
mod openbao;
mod run;
mod sandbox;
mod soft_hsm;

pub use engine::Engine;
pub use fake_engine::{FakeEngine, Traits};
pub use job::{Event, Job};
pub use openbao::OpenBao;
pub use run::Run;
pub use sandbox::Sandbox;
pub use soft_hsm::{PIN, SoftHsm};

/// The node image of the tests; `cargo xtask test` sets it.
pub const IMAGE_VARIABLE: &str = "KPROV_TEST_IMAGE";

/// Whether tests that come in a short and a full form are to run in full, as `cargo xtask test --faults` wants.
#[must_use]
pub fn in_full() -> bool {
    std::env::var_os("KPROV_TEST_FAULTS").is_some()
}
