//! A room of clusters: four of one node.

use std::cell::RefCell;

use test_support::Sandbox;

use crate::table::Row;
use crate::{Bench, plain, time};

const CLUSTERS: usize = 4;

/// Measures four clusters side by side, and kind's one after the other.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    let names: Vec<String> = (1..=CLUSTERS).map(|number| format!("{}-{number}", sandbox.cluster)).collect();
    let (kprov, kind): (RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    let memory = RefCell::new(Vec::new());
    let image = Sandbox::image();
    sandbox.write("kind.yaml", plain::file(1, 0));
    let remove = || {
        for name in &names {
            sandbox.kprov(&["down", name]).done();
        }
    };
    bench.in_turn(
        || {
            let count = CLUSTERS.to_string();
            let took = time("four at a time by kprov", || sandbox.up(&["--count", &count]).done());
            kprov.borrow_mut().push(took);
            memory.borrow_mut().extend(names.iter().map(|name| memory_of(&sandbox, name)));
            remove();
        },
        || {
            let took = time("four in a row by kind", || {
                for name in &names {
                    sandbox
                        .kind(&["create", "cluster", "--name", name, "--image", &image, "--config", "kind.yaml"])
                        .done();
                }
                for name in &names {
                    sandbox.kprov(&["wait", name]).done();
                }
            });
            kind.borrow_mut().push(took);
            remove();
        },
    );
    vec![
        Row::seconds("four clusters of one node, all Ready", &kprov.into_inner(), &kind.into_inner(), "at most 0.60"),
        Row::alone("memory of a cluster of one node", "MB", memory.into_inner(), ""),
    ]
}

/// What the engine says that a cluster's node uses, in MB.
fn memory_of(sandbox: &Sandbox, cluster: &str) -> f64 {
    let node = format!("{cluster}-control-plane");
    let run = sandbox.engine().docker(&["stats", "--no-stream", "--format", "{{.MemUsage}}", &node]).ok();
    let used = run.stdout.split('/').next().unwrap_or_default().trim();
    let number = used.trim_end_matches(|c: char| c.is_alphabetic());
    let unit = if used.ends_with("GiB") { 1024.0 } else { 1.0 };
    number.parse::<f64>().map_or(f64::NAN, |mib| mib * unit * 1024.0 * 1024.0 / 1e6)
}
