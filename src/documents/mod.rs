//! Everything that can be computed without touching anything: documents, their rules, and what they mean.
//!
//! Nothing here reads or writes a file, talks to an engine or knows a running cluster; the exceptions are a profile's
//! own files, and the sources of keys that it names.

pub mod bounds;
pub mod breakage;
pub mod certificates;
pub mod cis;
pub mod encryption;
pub mod files;
pub mod images;
pub mod keys;
pub mod masking;
pub mod named_file;
pub mod names;
pub mod patches;
pub mod profile;
pub mod record;
pub mod render;
pub mod report;
pub mod snapshot;
pub mod static_pod;
pub mod stored;
pub mod timings;
pub mod yaml;
