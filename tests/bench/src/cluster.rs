//! A cluster of two nodes from nothing, and anew: kprov's hardened and verified one, beside kind's plain one.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use test_support::{Job, Sandbox};

use crate::table::Row;
use crate::{Bench, plain, time};

#[derive(Default)]
struct Times {
    up: Vec<Duration>,
    /// Until the API answers and every node is Ready.
    anew_nodes: Vec<Duration>,
    /// Until every system pod is Ready, too.
    anew: Vec<Duration>,
}

/// Measures `up` and `reset`, kind's `create`, and its `delete` and `create`.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    let (kprov, kind) = (RefCell::new(Times::default()), RefCell::new(Times::default()));
    let memory = RefCell::new(Vec::new());
    sandbox.write("kind.yaml", plain::file(1));
    bench.in_turn(
        || {
            let mut times = kprov.borrow_mut();
            times.up.push(time("kprov up --profile hardened", || memory.borrow_mut().push(up(&sandbox))));
            let (nodes, all) = reset(&sandbox);
            times.anew_nodes.push(nodes);
            times.anew.push(all);
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        },
        || {
            let mut times = kind.borrow_mut();
            times.up.push(time("kind create cluster", || {
                create(&sandbox);
                sandbox.kprov(&["wait", &sandbox.cluster]).done();
            }));
            let begin = Instant::now();
            sandbox.kind(&["delete", "cluster", "--name", &sandbox.cluster]).done();
            create(&sandbox);
            sandbox.kprov(&["wait", "--nodes", &sandbox.cluster]).done();
            let nodes = begin.elapsed();
            sandbox.kprov(&["wait", &sandbox.cluster]).done();
            let all = begin.elapsed();
            eprintln!("  kind delete and create: {:.2} s, nodes at {:.2} s", all.as_secs_f64(), nodes.as_secs_f64());
            times.anew_nodes.push(nodes);
            times.anew.push(all);
            sandbox.kind(&["delete", "cluster", "--name", &sandbox.cluster]).done();
        },
    );
    sandbox.assert_clean();
    let (kprov, kind) = (kprov.into_inner(), kind.into_inner());
    vec![
        Row::seconds(
            "two nodes from nothing, all Ready (up hardened, verified / create)",
            &kprov.up,
            &kind.up,
            "at most 0.60",
        ),
        Row::seconds("anew, nodes Ready (reset / delete, create)", &kprov.anew_nodes, &kind.anew_nodes, "at most 0.35"),
        Row::seconds("anew, all Ready (reset, verified / delete, create)", &kprov.anew, &kind.anew, "at most 0.50"),
        Row::alone("peak memory of kprov up", "MB", memory.into_inner(), "under 60 MB"),
    ]
}

pub(crate) fn create(sandbox: &Sandbox) {
    let image = Sandbox::image();
    sandbox.kind(&["create", "cluster", "--name", &sandbox.cluster, "--image", &image, "--config", "kind.yaml"]).done();
}

/// `kprov up`; gives its peak of memory in MB.
fn up(sandbox: &Sandbox) -> f64 {
    let mut job = sandbox.start_up(&["--profile", "hardened"]);
    let file = format!("/proc/{}/status", job.id());
    let mut peak = 0.0_f64;
    while !job.ends_within(Duration::from_millis(20)) {
        let status = std::fs::read_to_string(&file).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<f64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = kib.map_or(peak, |kib| peak.max(kib * 1024.0 / 1e6));
    }
    job.wait().done();
    peak
}

/// `kprov reset`: when every node was Ready again, and when it had ended.
fn reset(sandbox: &Sandbox) -> (Duration, Duration) {
    let begin = Instant::now();
    let job = Job::start(&mut sandbox.kprov_command(&["reset", &sandbox.cluster, "-o", "json"]));
    let mut nodes = None;
    while let Some(event) = job.next_event() {
        // Of what is awaited, nodes are named first.
        let waiting = event["name"].as_str().is_some_and(|name| name.starts_with("Waiting until every node"));
        let is_past =
            event["state"] == "done" || event["detail"].as_str().is_some_and(|detail| !detail.starts_with("node "));
        if waiting && is_past && nodes.is_none() {
            nodes = Some(begin.elapsed());
        }
    }
    job.wait().done();
    let all = begin.elapsed();
    let nodes = nodes.unwrap_or(all);
    eprintln!("  kprov reset: {:.2} s, nodes at {:.2} s", all.as_secs_f64(), nodes.as_secs_f64());
    (nodes, all)
}
