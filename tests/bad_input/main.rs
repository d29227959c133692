//! Bad input: each kind gets one clear error and a non-zero exit, and leaves nothing behind.
//!
//! Most of it is found out before an engine is needed; where an engine has to be unfit, a fake one stands in.

mod on_engine;
mod profiles;
mod unfit_engine;

use test_support::{Run, Sandbox};

const KPROV: &str = env!("CARGO_BIN_EXE_kprov");

fn sandbox() -> Sandbox {
    Sandbox::without_engine(KPROV)
}

/// Runs `kprov up`, which has to fail, and to leave nothing behind.
#[track_caller]
fn up(sandbox: &Sandbox, arguments: &[&str]) -> Run {
    let run = sandbox.kprov(&[&["up"], arguments].concat()).fails();
    sandbox.assert_clean();
    run
}
