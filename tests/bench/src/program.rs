//! The program by itself, without an engine.

use std::time::Instant;

use test_support::Sandbox;

use crate::Bench;
use crate::table::Row;

/// Short things are measured more often.
const ROUNDS: usize = 50;

/// How long the program takes to start and to render, and how large it is.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let sandbox = Sandbox::without_engine(&bench.program);
    let milliseconds = |arguments: &[&str]| {
        let once = |_| {
            let begin = Instant::now();
            sandbox.kprov(arguments).done();
            begin.elapsed().as_secs_f64() * 1000.0
        };
        // The first one finds nothing in memory yet.
        let _ = once(0);
        (0..ROUNDS).map(once).collect()
    };
    let size = std::fs::metadata(&bench.program).map_or(f64::NAN, |file| file.len() as f64 / 1e6);
    vec![
        Row::alone("start (kprov --version)", "ms", milliseconds(&["--version"]), "under 10 ms"),
        Row::alone(
            "render hardened, process included",
            "ms",
            milliseconds(&["render", "--profile", "hardened"]),
            "under 20 ms",
        ),
        Row::alone("size of the program", "MB", vec![size], "under 25 MB"),
    ]
}
