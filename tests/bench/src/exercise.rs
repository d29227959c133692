//! The exercise from nothing to proof: a cluster, a Secret, encryption at rest, a look into etcd.

use std::cell::RefCell;

use test_support::Sandbox;

use crate::table::Row;
use crate::{Bench, by_hand, plain, time};

/// Measures the exercise step by step, and by the profile that has the encryption in it.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    [
        on(
            bench,
            "one node: up default, Secret, encryption enable --no-scrub, etcd get / by hand, which does not scrub",
            "at most 0.50",
            0,
            &|sandbox| {
                sandbox.up(&["--profile", "default"]).done();
                by_hand::make_secret(sandbox);
                let how = ["--provider", "aescbc", "--no-scrub"];
                sandbox.kprov(&[&["encryption", "enable", &sandbox.cluster], &how[..]].concat()).done();
            },
        ),
        on(bench, "two nodes: up secure-two-node, Secret, etcd get / by hand", "at most 0.35", 1, &|sandbox| {
            sandbox.up(&["--profile", "secure-two-node"]).done();
            by_hand::make_secret(sandbox);
        }),
    ]
    .into()
}

fn on(bench: &Bench, what: &str, bar: &'static str, workers: usize, kprov: &dyn Fn(&Sandbox)) -> Row {
    let sandbox = bench.sandbox();
    sandbox.write("kind.yaml", plain::file(1, workers));
    let image = Sandbox::image();
    let (ours, hand): (RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    bench.in_turn(
        || {
            ours.borrow_mut().push(time("kprov", || {
                kprov(&sandbox);
                let key = "secrets/default/my-secret";
                let shown = sandbox.kprov(&["etcd", "get", key, "--cluster", &sandbox.cluster]).ok();
                let _ = shown.says("k8s:enc:aescbc:v1:key1:");
            }));
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        },
        || {
            hand.borrow_mut().push(time("kind and a shell", || {
                let create =
                    ["create", "cluster", "--name", &sandbox.cluster, "--image", &image, "--config", "kind.yaml"];
                sandbox.kind(&create).done();
                by_hand::make_secret(&sandbox);
                by_hand::encrypt(&sandbox);
                by_hand::prove(&sandbox);
            }));
            sandbox.kind(&["delete", "cluster", "--name", &sandbox.cluster]).done();
        },
    );
    sandbox.assert_clean();
    Row::seconds(what, &ours.into_inner(), &hand.into_inner(), bar)
}
