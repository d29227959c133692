//! Whole clusters on a real engine, as their users meet them. Nothing in here is simulated.

mod cis;
mod day;
mod elsewhere;
mod failing;
mod hsm;
mod kills;
mod kind;
mod kms;
mod kube_proxy;
mod lifecycle;
mod parity;
mod power;
mod registry;
mod resources;
mod snapshots;
mod ssh;
mod thief;
mod traces;
mod warm;

use test_support::{Run, Sandbox};

const KPROV: &str = env!("CARGO_BIN_EXE_kprov");

/// Makes a Secret whose value is `mypassword`, as students do, and gives its key in etcd.
fn make_secret(sandbox: &Sandbox, name: &str) -> String {
    let node = sandbox.node("control-plane");
    let literal = "--from-literal=password=mypassword";
    sandbox.kprov(&["exec", &node, "--", "kubectl", "create", "secret", "generic", name, literal]).done();
    format!("/registry/secrets/default/{name}")
}

/// `kprov etcd get`.
fn stored(sandbox: &Sandbox, key: &str, arguments: &[&str]) -> Run {
    sandbox.kprov(&[&["etcd", "get", key, "--cluster", &sandbox.cluster], arguments].concat()).ok()
}
