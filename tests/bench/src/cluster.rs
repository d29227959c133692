//! A cluster from nothing, and anew: kprov's, verified, beside kind's plain one of the same nodes.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use test_support::{Job, Sandbox};

use crate::steps::Steps;
use crate::table::Row;
use crate::{Bench, plain, time};

/// A cluster by a profile, and kind's plain one of as many nodes.
struct Case {
    profile: &'static str,
    control_planes: usize,
    /// What is measured, and what it should come to: from nothing, nodes anew, all anew.
    what: [(&'static str, &'static str); 3],
}

const TWO_NODES: Case = Case {
    profile: "hardened",
    control_planes: 1,
    what: [
        ("two nodes from nothing, all Ready (up hardened, verified / create)", "at most 0.38"),
        ("anew, nodes Ready (reset / delete, create)", "at most 0.20"),
        ("anew, all Ready (reset, verified / delete, create)", "at most 0.28"),
    ],
};

const SEVERAL_CONTROL_PLANES: Case = Case {
    profile: "ha",
    control_planes: 3,
    what: [
        ("three control planes and a worker from nothing, all Ready (up ha, verified / create)", "at most 0.50"),
        ("three control planes anew, nodes Ready (reset / delete, create)", ""),
        ("three control planes anew, all Ready (reset, verified / delete, create)", "at most 0.30"),
    ],
};

#[derive(Default)]
struct Times {
    up: Vec<Duration>,
    /// Until the API answers and every node is Ready.
    anew_nodes: Vec<Duration>,
    /// Until every system pod is Ready, too.
    anew: Vec<Duration>,
    up_steps: Steps,
    reset_steps: Steps,
}

/// Two nodes.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    measure_case(bench, &TWO_NODES)
}

/// Three control planes and a worker. kind's are left out where its load balancer's image is not to be had.
pub(crate) fn several_control_planes(bench: &Bench) -> Vec<Row> {
    measure_case(bench, &SEVERAL_CONTROL_PLANES)
}

/// Measures `up` and `reset`, kind's `create`, and its `delete` and `create`.
fn measure_case(bench: &Bench, case: &Case) -> Vec<Row> {
    let has_kind = case.control_planes == 1 || plain::has_load_balancer();
    if !has_kind {
        eprintln!("  without kind: there is no load balancer for it");
    }
    let sandbox = bench.sandbox();
    let (kprov, kind) = (RefCell::new(Times::default()), RefCell::new(Times::default()));
    let memory = RefCell::new(Vec::new());
    sandbox.write("kind.yaml", plain::file(case.control_planes, 1));
    bench.in_turn(
        || {
            let times = &mut *kprov.borrow_mut();
            let (up_steps, reset_steps) = (&mut times.up_steps, &mut times.reset_steps);
            times.up.push(time("kprov up", || memory.borrow_mut().push(up(&sandbox, case.profile, up_steps))));
            let (nodes, all) = reset(&sandbox, reset_steps);
            times.anew_nodes.push(nodes);
            times.anew.push(all);
            sandbox.kprov(&["down", &sandbox.cluster]).done();
        },
        || {
            if !has_kind {
                return;
            }
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
    let [nothing, nodes, all] = case.what;
    let row = |(what, bar), kprov: &[Duration], kind: &[Duration]| Row::seconds(what, kprov, kind, bar);
    let peak = format!("peak memory of kprov up --profile {}", case.profile);
    vec![
        row(nothing, &kprov.up, &kind.up).with(kprov.up_steps),
        row(nodes, &kprov.anew_nodes, &kind.anew_nodes),
        row(all, &kprov.anew, &kind.anew).with(kprov.reset_steps),
        Row::alone(&peak, "MB", memory.into_inner(), "under 60 MB"),
    ]
}

pub(crate) fn create(sandbox: &Sandbox) {
    let image = Sandbox::image();
    sandbox.kind(&["create", "cluster", "--name", &sandbox.cluster, "--image", &image, "--config", "kind.yaml"]).done();
}

/// `kprov up`; gives its peak of memory in MB.
fn up(sandbox: &Sandbox, profile: &str, steps: &mut Steps) -> f64 {
    let mut job = sandbox.start_up(&["--profile", profile, "--timings"]);
    let file = format!("/proc/{}/status", job.id());
    let mut peak = 0.0_f64;
    while !job.ends_within(Duration::from_millis(20)) {
        let status = std::fs::read_to_string(&file).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<f64> = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = kib.map_or(peak, |kib| peak.max(kib * 1024.0 / 1e6));
    }
    steps.add(&job.wait().ok().json());
    peak
}

/// `kprov reset`: when every node was Ready again, and when it had ended.
fn reset(sandbox: &Sandbox, steps: &mut Steps) -> (Duration, Duration) {
    let begin = Instant::now();
    let job = Job::start(&mut sandbox.kprov_command(&["reset", &sandbox.cluster, "--timings", "-o", "json"]));
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
    let run = job.wait();
    let all = begin.elapsed();
    steps.add(&run.ok().json());
    let nodes = nodes.unwrap_or(all);
    eprintln!("  kprov reset: {:.2} s, nodes at {:.2} s", all.as_secs_f64(), nodes.as_secs_f64());
    (nodes, all)
}
