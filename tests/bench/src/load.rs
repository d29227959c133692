//! An image from the engine into three nodes, and a pod that uses it on one of them.

use std::cell::{Cell, RefCell};
use std::process::Command;
use std::time::{Duration, Instant};

use test_support::{Run, Sandbox};

use crate::table::Row;
use crate::{Bench, time};

/// Bytes of noise in the image, which nothing makes smaller.
const SIZE: u64 = 200_000_000;

const NODES: &str = "nodes=[{role: control-plane}, {role: worker}, {role: worker}]";

#[derive(Default)]
struct Times {
    first: Vec<Duration>,
    again: Vec<Duration>,
    pod: Vec<Duration>,
}

/// Measures `load docker-image` of both, each of an image that no node has seen, and once more of the same one.
pub(crate) fn measure(bench: &Bench) -> Vec<Row> {
    let sandbox = bench.sandbox();
    let (kprov, kind) = (RefCell::new(Times::default()), RefCell::new(Times::default()));
    let count = Cell::new(0);
    let round = |times: &RefCell<Times>, program: &str, load: &dyn Fn(&str) -> Run| {
        count.set(count.get() + 1);
        let name = format!("kprov-bench/noise:{}-{}", std::process::id(), count.get());
        make(&sandbox, &name);
        let begin = Instant::now();
        let mut times = times.borrow_mut();
        times.first.push(time(&format!("{program} load docker-image"), || load(&name).done()));
        pod(&sandbox, &name, count.get());
        times.pod.push(begin.elapsed());
        eprintln!("  and a pod with it: {:.2} s", begin.elapsed().as_secs_f64());
        times.again.push(time("the same again", || load(&name).done()));
        sandbox.engine().docker(&["image", "rm", "--force", &name]).done();
    };
    sandbox.up(&["--set", NODES]).done();
    let cluster = sandbox.cluster.as_str();
    bench.in_turn(
        || round(&kprov, "kprov", &|name| sandbox.kprov(&["load", "docker-image", name, "--cluster", cluster])),
        || round(&kind, "kind", &|name| sandbox.kind(&["load", "docker-image", name, "--name", cluster])),
    );
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
    let (kprov, kind) = (kprov.into_inner(), kind.into_inner());
    vec![
        Row::seconds("200 MB into three nodes (load docker-image of both)", &kprov.first, &kind.first, "at most 0.50"),
        Row::seconds("the same, until a pod has run with it", &kprov.pod, &kind.pod, ""),
        Row::seconds("the same image once more", &kprov.again, &kind.again, "at most 0.3 s"),
    ]
}

/// Makes an image of noise and a shell.
fn make(sandbox: &Sandbox, name: &str) {
    let script = format!(
        "head -c {SIZE} /dev/urandom > noise && tar --dereference -cf image.tar noise -C / bin/dash \
         lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6 && rm noise"
    );
    Run::of(Command::new("sh").args(["-euc", &script]).current_dir(sandbox.path())).done();
    let archive = sandbox.path().join("image.tar").display().to_string();
    sandbox.engine().docker(&["import", &archive, name]).done();
}

/// Runs a pod with it on a worker to its end.
fn pod(sandbox: &Sandbox, image: &str, number: u32) {
    let (node, worker) = (sandbox.node("control-plane"), sandbox.node("worker"));
    let script = format!(
        r#"kubectl run noise-{number} --image={image} --image-pull-policy=Never --restart=Never \
             --overrides='{{"spec":{{"nodeName":"{worker}"}}}}' --command -- /bin/dash -c : >/dev/null
           until [ "$(kubectl get pod noise-{number} -o jsonpath='{{.status.phase}}')" = Succeeded ]; do sleep 0.1; done"#
    );
    sandbox.kprov(&["exec", &node, "--", "sh", "-euc", &script]).done();
}
