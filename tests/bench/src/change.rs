//! Changes of a cluster that runs, beside the same change by hand on the same cluster.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use test_support::{Job, Sandbox};

use crate::table::Row;
use crate::{Bench, by_hand, time};

/// How many Secrets of how many bytes are written anew.
const SECRETS: usize = 5000;
const BYTES: usize = 1024;

fn cluster(bench: &Bench, profile: &str) -> Sandbox {
    let sandbox = bench.sandbox();
    sandbox.up(&["--profile", profile]).done();
    sandbox
}

fn end(sandbox: &Sandbox) {
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
}

/// Measures how long a flag takes until an API server is ready with it.
pub(crate) fn flag(bench: &Bench) -> Vec<Row> {
    let sandbox = cluster(bench, "default");
    let (kprov, hand): (RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    // Another value each time, so that it is a change.
    let count = RefCell::new(0);
    let next = || {
        *count.borrow_mut() += 1;
        (100 + *count.borrow()).to_string()
    };
    bench.in_turn(
        || {
            let value = format!("max-requests-inflight={}", next());
            kprov.borrow_mut().push(set(&sandbox, &value));
        },
        || {
            let value = next();
            let set = || by_hand::set_flag(&sandbox, "max-requests-inflight", &value);
            hand.borrow_mut().push(time("by hand", set));
        },
    );
    end(&sandbox);
    let what = "a flag, until the API server is ready with it (apiserver set / by hand)";
    vec![Row::seconds(what, &kprov.into_inner(), &hand.into_inner(), "at most 0.20 and 6 s")]
}

/// `kprov apiserver set`; gives how long it took until the API server was ready, as by hand. The command goes on until the kubelet
/// says so, too.
fn set(sandbox: &Sandbox, value: &str) -> Duration {
    let begun = Instant::now();
    let job = Job::start(&mut sandbox.kprov_command(&["apiserver", "set", &sandbox.cluster, value, "-o", "json"]));
    assert!(job.wait_for(|event| event["name"] == "Restarting the API server" && event["state"] == "done"));
    let ready = begun.elapsed();
    job.wait().done();
    let all = begun.elapsed();
    eprintln!("  kprov apiserver set: {:.2} s, {:.2} s in all", ready.as_secs_f64(), all.as_secs_f64());
    ready
}

/// Measures how long it takes to write many Secrets anew.
pub(crate) fn rewrite(bench: &Bench) -> Vec<Row> {
    let sandbox = cluster(bench, "secure-two-node");
    eprintln!("  making {SECRETS} Secrets");
    let value = "x".repeat(BYTES);
    let secrets = format!(
        r#"for i in $(seq {SECRETS}); do
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata: {{name: bench-%s}}\nstringData: {{value: {value}}}\n' $i
done | kubectl create -f - >/dev/null"#
    );
    by_hand::shell(&sandbox, &secrets).done();
    let (kprov, hand): (RefCell<Vec<_>>, RefCell<Vec<_>>) = Default::default();
    bench.in_turn(|| kprov.borrow_mut().push(rotate(&sandbox)), || hand.borrow_mut().push(by_hand::rewrite(&sandbox)));
    end(&sandbox);
    let what = format!("{SECRETS} Secrets of {BYTES} bytes written anew (rotate's rewriting / kubectl replace)");
    vec![Row::seconds(&what, &kprov.into_inner(), &hand.into_inner(), "at most 1.20")]
}

/// `kprov encryption rotate`; gives how long the rewriting alone took, as it says itself.
fn rotate(sandbox: &Sandbox) -> Duration {
    let command = ["encryption", "rotate", &sandbox.cluster, "--no-scrub", "-o", "json"];
    let job = Job::start(&mut sandbox.kprov_command(&command));
    let mut rewriting = Duration::ZERO;
    while let Some(event) = job.next_event() {
        if event["state"] == "done" && event["name"].as_str().is_some_and(|name| name.starts_with("Rewriting")) {
            rewriting += Duration::from_secs_f64(event["seconds"].as_f64().unwrap_or_default());
        }
    }
    job.wait().done();
    eprintln!("  kprov encryption rotate, the rewriting: {:.2} s", rewriting.as_secs_f64());
    rewriting
}
