//! A cluster that was put aside goes on; kind's users make another one.

use std::cell::RefCell;
use std::time::Duration;

use crate::cluster::create;
use crate::table::Row;
use crate::{Bench, plain, time};

/// Measures `start` after `stop`, and kind's `delete` and `create`.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    let (kprov, kind): (RefCell<Vec<Duration>>, RefCell<Vec<Duration>>) = Default::default();
    sandbox.write("kind.yaml", plain::file(1, 1));
    bench.in_turn(
        || {
            sandbox.up(&["--profile", "hardened"]).done();
            sandbox.kprov(&["stop", &sandbox.cluster]).done();
            kprov.borrow_mut().push(time("kprov start", || sandbox.kprov(&["start", &sandbox.cluster]).done()));
            sandbox.kprov(&["verify", &sandbox.cluster]).done();
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        },
        || {
            create(&sandbox);
            kind.borrow_mut().push(time("kind delete and create", || {
                sandbox.kind(&["delete", "cluster", "--name", &sandbox.cluster]).done();
                create(&sandbox);
                sandbox.kprov(&["wait", &sandbox.cluster]).done();
            }));
            sandbox.kind(&["delete", "cluster", "--name", &sandbox.cluster]).done();
        },
    );
    sandbox.assert_clean();
    vec![Row::seconds(
        "after a pause, all Ready (start after stop / delete, create)",
        &kprov.into_inner(),
        &kind.into_inner(),
        "at most 0.35",
    )]
}
