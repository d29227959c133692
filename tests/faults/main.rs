//! Encryption changed on clusters that are under load, with everything going wrong that can: no value is ever lost.
//!
//! The short form is part of `cargo xtask test`, the full one of `cargo xtask test --faults`.

mod harm;
mod kills;
mod kind;
mod load;
mod several;

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

/// A random number below `bound`.
fn random(bound: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // The standard library's only source of randomness; good enough to choose a moment.
    RandomState::new().hash_one(0) % bound.max(1)
}
