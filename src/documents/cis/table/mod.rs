//! The controls of every version of the benchmark: numbers, levels and tests. Wording is kprov's own.
//!
//! Facts on numbers, kinds and tests are those of aquasecurity/kube-bench (`cfg/cis-*`); a test holds each version to its
//! count.

mod access;
mod control_planes;
mod etcd;
mod nodes;
mod policies;

use super::control::Control;

/// Every control, in the order of the newest version's numbers within each section.
pub fn controls() -> impl Iterator<Item = &'static Control> {
    [control_planes::CONTROLS, etcd::CONTROLS, access::CONTROLS, nodes::CONTROLS, policies::CONTROLS]
        .into_iter()
        .flatten()
}
