//! Tasks for developers of kprov.
fn main() {}
