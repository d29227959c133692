//! Encryption changed on clusters that are under load, with everything going wrong that can: no value is ever lost.
//!
//! The short form is part of `cargo xtask test`, the full one of `cargo xtask test --faults`.

mod harm;
mod kills;
mod kind;
mod kms;
mod load;
mod restarts;
mod several;

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use test_support::{Run, Sandbox};

const KPROV: &str = env!("CARGO_BIN_EXE_kprov");

/// `kprov encryption VERB CLUSTER ...`.
fn encryption(sandbox: &Sandbox, verb: &[&str]) -> Run {
    sandbox.kprov(&[&["encryption", verb[0], &sandbox.cluster], &verb[1..]].concat())
}

/// How Secrets are stored, as `kprov encryption status` counts them: each way, and how many.
#[track_caller]
fn stored(sandbox: &Sandbox) -> Vec<(String, u64)> {
    let status = sandbox.kprov(&["encryption", "status", &sandbox.cluster, "-o", "json"]).ok().json();
    let status = &status["encryption"];
    assert!(status["underWay"].is_null(), "unfinished: {status}");
    assert_eq!(status["same"], true, "{status}");
    let resources = status["resources"].as_array().expect("a list");
    let secrets =
        resources.iter().find(|resource| resource["resource"] == "secrets").expect("secrets are always shown");
    let stored = secrets["stored"].as_array().expect("a list").iter();
    stored.map(|way| (way["stored"].as_str().unwrap().to_owned(), way["count"].as_u64().unwrap())).collect()
}

/// Holds that all Secrets are stored in one way, and gives it.
#[track_caller]
fn stored_alike(sandbox: &Sandbox) -> String {
    let stored = stored(sandbox);
    assert_eq!(stored.len(), 1, "stored in several ways: {stored:?}");
    stored[0].0.clone()
}

/// A random number below `bound`. KPROV_SEED repeats the numbers of an earlier run, in the order in which they are drawn.
fn random(bound: u64) -> u64 {
    static STATE: OnceLock<AtomicU64> = OnceLock::new();
    let state = STATE.get_or_init(|| {
        let given = std::env::var("KPROV_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0));
        eprintln!("seed {seed}");
        AtomicU64::new(seed)
    });
    mixed(state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)) % bound.max(1)
}

/// splitmix64, which makes random numbers of equal steps.
fn mixed(step: u64) -> u64 {
    let step = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let step = (step ^ (step >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    step ^ (step >> 31)
}
