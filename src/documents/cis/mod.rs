//! The CIS Kubernetes Benchmark: its controls, and whether they hold in what is known of a cluster.
//!
//! Pure: facts come in, results go out. Gathering facts is `operations::cis`' part. Numbers and tests are in [`table`];
//! what a control looks for beyond flags, files and settings is in a module for each subject.

mod audit_policy;
pub mod benchmark;
pub mod comparison;
pub mod control;
mod control_plane;
mod evaluate;
pub mod facts;
mod flags;
mod rbac;
pub mod results;
mod table;
mod verdict;
mod workloads;

pub use benchmark::Benchmark;
pub use control::{Control, Kind, Remedy};
pub use results::{Exception, Finding, Selection, Totals, assess};
pub use table::controls;
pub use verdict::Status;

/// The control that has the number `id` in a version of the benchmark.
#[must_use]
pub fn find(benchmark: Benchmark, id: &str) -> Option<&'static Control> {
    controls().find(|control| control.place(benchmark).is_some_and(|place| place.id == id))
}

/// Whether `control` is the one that has the number `id` in a version of the benchmark. One whose permissions differ between
/// versions is in the tables once for each; its title is the same.
#[must_use]
pub fn is(control: &Control, benchmark: Benchmark, id: &str) -> bool {
    find(benchmark, id).is_some_and(|other| other.title == control.title)
}

#[cfg(test)]
mod tests;
