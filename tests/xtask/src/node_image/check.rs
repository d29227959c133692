//! The proof of a node image: the real kind makes a cluster of it, the cluster does what clusters do, and kind's other
//! commands work on it, before and after the nodes were restarted.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    apt::{self, Apt},
    engine::Engine,
    sh::{self, cmd},
    tools,
};

const CLUSTER: &str = "kprov-image-check";
const IMAGE: &str = "kprov/check:1";
const LIMIT: Duration = Duration::from_secs(180);

/// A cluster under test. It is deleted when this is dropped.
struct Cluster<'a> {
    engine: &'a Engine,
    folder: tempfile::TempDir,
}

/// Checks an image; the error says what does not work.
pub(super) fn check(engine: &Engine, sources: &Path, image: &str) -> Result<()> {
    let cluster = Cluster { engine, folder: tempfile::tempdir()? };
    cluster.delete()?;
    let begin = Instant::now();
    cluster.create(image)?;
    eprintln!("xtask: kind made the cluster in {:.1} s", begin.elapsed().as_secs_f32());
    cluster.wait_for_pods("kube-system")?;
    eprintln!("xtask: every system pod was ready after {:.1} s", begin.elapsed().as_secs_f32());

    cluster.load_image()?;
    let manifest = File::open(sources.join("check.yaml"))?;
    sh::run(cluster.kubectl(["create", "--filename", "-"]).stdin(manifest))?;
    cluster.wait_for_pods("default")?;
    cluster.check_network()?;
    let volume = cluster.query(["get", "pvc", "volume", "--output", "jsonpath={.status.phase}"])?;
    ensure!(volume == "Bound", "the volume is {volume}");
    eprintln!("xtask: pods reach each other and the Service from each node; the volume is bound");

    let nodes = cluster.nodes()?;
    let begin = Instant::now();
    sh::output(engine.docker(["restart"]).args(&nodes))?;
    eventually("the API server answers after a restart", || cluster.query(["get", "--raw", "/readyz"]).map(drop))?;
    eventually("the network works after a restart", || cluster.check_network())?;
    eprintln!("xtask: all of it works {:.1} s after a restart", begin.elapsed().as_secs_f32());

    let logs = cluster.folder.path().join("logs");
    sh::run(cluster.kind(["export", "logs"]).arg(&logs).args(["--name", CLUSTER]))?;
    for node in &nodes {
        let log = fs::metadata(logs.join(node).join("kubelet.log")).context("kind exported no kubelet log")?;
        ensure!(log.len() > 0, "the kubelet log of {node} is empty");
    }
    cluster.delete()?;
    ensure!(cluster.nodes()?.is_empty(), "kind left nodes behind");
    Ok(())
}

impl Cluster<'_> {
    fn create(&self, image: &str) -> Result<()> {
        let file = self.folder.path().join("cluster.yaml");
        let nodes = "nodes:\n- role: control-plane\n- role: worker\n";
        fs::write(&file, format!("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n{nodes}"))?;
        sh::run(
            self.kind(["create", "cluster", "--name", CLUSTER, "--image", image, "--wait", "120s", "--config"])
                .arg(file),
        )?;
        let ready = self.query([
            "get",
            "nodes",
            "--output",
            r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#,
        ])?;
        // kind waits for the control plane alone.
        ensure!(ready.split(' ').count() == 2, "there are other nodes than two: {ready}");
        sh::output(&mut self.kubectl(["wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s"])).map(drop)
    }

    /// Lets kind load an image that is made here.
    fn load_image(&self) -> Result<()> {
        let root = self.folder.path().join("root");
        Apt::open(apt::NODE_SUITE)?.unpack(&["busybox-static"], &root)?;
        sh::pipe(
            cmd("tar", ["--create", "--directory"]).arg(&root).arg("./bin"),
            self.engine.docker(["import", "--change", "ENV PATH=/bin", "-", IMAGE]).stderr(Stdio::inherit()),
        )?;
        let result = sh::run(&mut self.kind(["load", "docker-image", "--name", CLUSTER, IMAGE]));
        sh::output(&mut self.engine.docker(["image", "rm", IMAGE]))?;
        result
    }

    /// Asks from each pod for each pod, and for the Service until each pod has answered.
    fn check_network(&self) -> Result<()> {
        let pods = self.query([
            "get",
            "pods",
            "--output",
            "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}\n{end}",
        ])?;
        let pods: Vec<(&str, &str)> = pods.lines().filter_map(|line| line.split_once(' ')).collect();
        ensure!(pods.len() == 2, "there are other pods than one on each node: {pods:?}");
        let service = self.query(["get", "service", "web", "--output", "jsonpath={.spec.clusterIP}"])?;
        for (from, _) in &pods {
            for (name, address) in &pods {
                let answer = self.fetch(from, address)?;
                ensure!(answer == *name, "{from} asked {name} and got {answer:?}");
            }
            let mut answers = BTreeSet::new();
            for _ in 0..40 {
                if answers.len() < pods.len() {
                    answers.insert(self.fetch(from, &service)?);
                }
            }
            ensure!(answers.len() == pods.len(), "{from} reaches through the Service only {answers:?}");
        }
        Ok(())
    }

    fn fetch(&self, pod: &str, address: &str) -> Result<String> {
        let script = format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 {address} 80");
        let answer = self.query(["exec", pod, "--", "/bin/busybox", "sh", "-c", &script])?;
        Ok(answer.lines().last().unwrap_or_default().to_owned())
    }

    fn wait_for_pods(&self, namespace: &str) -> Result<()> {
        eventually(&format!("every pod in {namespace} is ready"), || {
            let states = self.query([
                "get",
                "pods",
                "--namespace",
                namespace,
                "--output",
                r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}"#,
            ])?;
            let waiting: Vec<&str> = states.split_whitespace().filter(|state| !state.ends_with("=True")).collect();
            ensure!(!states.is_empty() && waiting.is_empty(), "not ready: {waiting:?}");
            Ok(())
        })
    }

    fn nodes(&self) -> Result<Vec<String>> {
        let nodes = sh::output(&mut self.kind(["get", "nodes", "--name", CLUSTER]))?;
        Ok(nodes.split_whitespace().map(str::to_owned).collect())
    }

    fn delete(&self) -> Result<()> {
        sh::run(&mut self.kind(["delete", "cluster", "--name", CLUSTER]))
    }

    fn query<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        sh::output(&mut self.kubectl(arguments))
    }

    fn kubectl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let node = format!("{CLUSTER}-control-plane");
        let mut command =
            self.engine.docker(["exec", "--interactive", &node, "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]);
        command.args(arguments);
        command
    }

    /// kind, with this engine's docker, and without touching the user's kubeconfig.
    fn kind<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let kind = tools::kind().unwrap_or_else(|_| "kind".into());
        let mut command = cmd(kind, arguments);
        command
            .env("PATH", self.engine.search_path())
            .env("DOCKER_HOST", &self.engine.host)
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"));
        command
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let _ = self.delete();
    }
}

/// Tries until it succeeds; after a while, the last error is the result.
fn eventually(what: &str, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) if begin.elapsed() > LIMIT => bail!("not in {} s: {what}: {error:#}", LIMIT.as_secs()),
            Err(_) => thread::sleep(Duration::from_millis(500)),
        }
    }
}
