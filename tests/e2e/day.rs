//! A kind's day: images, logs, names and kubeconfigs, as people are used to from kind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use test_support::{Run, Sandbox};

use super::KPROV;

const TWO_NODES: &str = r#"nodes=[{"role": "control-plane"}, {"role": "worker"}]"#;

/// An image that holds a shell and three megabytes of noise, and goes with the test.
pub(super) struct Image<'a> {
    sandbox: &'a Sandbox,
    pub(super) name: String,
}

impl<'a> Image<'a> {
    pub(super) fn new(sandbox: &'a Sandbox, name: &str) -> Self {
        let script = "head -c 3000000 /dev/urandom > noise && tar --dereference -cf image.tar noise -C / bin/dash \
                      lib64/ld-linux-x86-64.so.2 lib/x86_64-linux-gnu/libc.so.6";
        Run::of(Command::new("sh").args(["-euc", script]).current_dir(sandbox.path())).done();
        let name = format!("kprov-e2e/{name}:{}", sandbox.cluster);
        let archive = sandbox.path().join("image.tar").display().to_string();
        sandbox.engine().docker(&["import", "--change", r#"CMD ["/bin/dash"]"#, &archive, &name]).done();
        Self { sandbox, name }
    }

    /// Puts a layer on it, with a file.
    fn add(&self, file: &str, text: &str) {
        let engine = self.sandbox.engine();
        let path = self.sandbox.write(file, text).display().to_string();
        let id = engine.docker(&["create", &self.name]).ok().stdout.trim().to_owned();
        engine.docker(&["cp", &path, &format!("{id}:/{file}")]).done();
        engine.docker(&["commit", &id, &self.name]).done();
        engine.docker(&["rm", &id]).done();
    }
}

impl Drop for Image<'_> {
    fn drop(&mut self) {
        let _ = self.sandbox.engine().docker(&["image", "rm", "--force", &self.name]);
    }
}

/// What a load has sent to each node.
fn sent(run: &Run) -> BTreeMap<String, u64> {
    serde_json::from_value(run.json()["sentBytes"].clone()).unwrap()
}

/// Runs a pod that never pulls on the worker, and gives what it has said.
fn say(sandbox: &Sandbox, pod: &str, image: &str, script: &str) -> String {
    let (node, worker) = (sandbox.node("control-plane"), sandbox.node("worker"));
    let script = format!(
        r#"kubectl run {pod} --image={image} --image-pull-policy=Never --restart=Never \
             --overrides='{{"spec":{{"nodeName":"{worker}"}}}}' --command -- /bin/dash -c '{script}' >/dev/null
           n=0
           until [ "$(kubectl get pod {pod} -o jsonpath='{{.status.phase}}')" = Succeeded ]; do
             n=$((n + 1)); [ $n -lt 300 ] || {{ kubectl describe pod {pod}; exit 1; }}; sleep 0.2
           done
           kubectl logs {pod}"#
    );
    sandbox.kprov(&["exec", &node, "--", "sh", "-euc", &script]).ok().stdout
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn images_come_into_nodes_and_only_what_is_missing_of_them() {
    let sandbox = Sandbox::on_engine(KPROV, "load");
    let cluster = sandbox.cluster.as_str();
    let (control_plane, worker) = (sandbox.node("control-plane"), sandbox.node("worker"));
    let zero = Image::new(&sandbox, "zero");
    let (preload, hosts) =
        (format!("preload=[\"{}\"]", zero.name), r#"networking.hosts={"registry.lab": "192.0.2.7"}"#);
    sandbox.up(&["--set", TWO_NODES, "--set", &preload, "--set", hosts]).done();
    let (one, two) = (Image::new(&sandbox, "one"), Image::new(&sandbox, "two"));
    let load = |arguments: &[&str]| sandbox.kprov(&[&["load"], arguments, &["--cluster", cluster]].concat());
    let json = |arguments: &[&str]| sent(&load(&[arguments, &["-o", "json"]].concat()).ok());

    load(&["docker-image", &zero.name]).ok().says("there already, on all of 2 nodes");
    sandbox.kprov(&["exec", &worker, "--", "getent", "hosts", "registry.lab"]).ok().says("192.0.2.7");

    // Both at once, by the names of kind's command.
    let first = json(&["docker-image", &one.name, &two.name]);
    assert_eq!(first.keys().collect::<Vec<_>>(), [&control_plane, &worker]);
    assert!(first.values().all(|&bytes| bytes > 2 * 3_000_000), "{first:?}");
    assert_eq!(say(&sandbox, "first", &one.name, "echo it runs"), "it runs\n");
    load(&["docker-image", &one.name, &two.name]).ok().says("there already, on all of 2 nodes");
    sandbox.kind(&["load", "docker-image", &one.name, "--name", cluster]).ok().says("already present on all nodes");

    // The same name for something else: what is new of it is sent, and a pod gets that.
    one.add("news", "new");
    let news = json(&["docker-image", &one.name]);
    assert!(news.values().all(|&bytes| (1..1_000_000).contains(&bytes)), "{news:?}");
    assert_eq!(say(&sandbox, "second", &one.name, "read line < /news; echo \"$line\" || echo \"$line\""), "new\n");
    // One node has it, the other one does not.
    sandbox
        .kprov(&["exec", &worker, "--", "ctr", "-n", "k8s.io", "images", "rm", &format!("docker.io/{}", two.name)])
        .done();
    let lacking = json(&["docker-image", &one.name, &two.name]);
    assert!(lacking[&control_plane] == 0 && lacking[&worker] > 0, "{lacking:?}");

    // From a file, into one node.
    let three = Image::new(&sandbox, "three");
    let file = sandbox.path().join("three.tar").display().to_string();
    sandbox.engine().docker(&["save", "--output", &file, &three.name]).done();
    let only = json(&["image-archive", &file, "--nodes", &worker]);
    assert!(only.len() == 1 && only[&worker] > 3_000_000, "{only:?}");
    assert_eq!(json(&["archive", &file, "--nodes", &worker])[&worker], 0);
    assert_eq!(say(&sandbox, "third", &three.name, "echo three"), "three\n");
    // What kind would do with it is the same.
    sandbox.kind(&["load", "image-archive", &file, "--name", cluster]).done();
    load(&["image-archive", &file]).ok().says("there already, on all of 2 nodes");

    let id = sandbox.engine().docker(&["image", "inspect", "--format", "{{.Id}}", &one.name]).ok().stdout;
    load(&["docker-image", id.trim()]).fails().says("no name that a pod could ask for").says("docker tag");
    load(&["docker-image", "nowhere.invalid/none"]).fails().says("the engine has no image nowhere.invalid/none");
    load(&["docker-image", &one.name, "--nodes", "none"]).fails().says("has no node called");
    Run::of(Command::new("gzip").arg(&file)).done();
    load(&["image-archive", &format!("{file}.gz")]).fails().says("it is compressed by gzip").says("gunzip");
    load(&["image-archive", "missing.tar"]).fails().says("missing.tar is no archive of images").says("No such file");
    std::fs::write(&file, &std::fs::read(sandbox.path().join("image.tar")).unwrap()[..1_000_000]).unwrap();
    load(&["image-archive", &file]).fails().says("is no archive of images");

    // What a profile wants in nodes is there after a reset, too; what was brought otherwise is not.
    sandbox.kprov(&["reset", cluster]).done();
    load(&["docker-image", &zero.name]).ok().says("there already, on all of 2 nodes");
    assert!(json(&["docker-image", &two.name]).values().all(|&bytes| bytes > 3_000_000));

    drop((zero, one, two, three));
    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}

/// The files below a folder, without what differs from run to run.
fn files(folder: &Path) -> BTreeSet<String> {
    let list = "find . -type f | sort";
    let run = Run::of(Command::new("sh").args(["-euc", list]).current_dir(folder)).ok();
    run.stdout.lines().map(str::to_owned).collect()
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn logs_nodes_and_kubeconfigs_are_what_kind_has() {
    let sandbox = Sandbox::on_engine(KPROV, "day");
    let cluster = sandbox.cluster.as_str();
    let node = sandbox.node("control-plane");
    // Quiet, and by kind's variable.
    let mut up = sandbox.kprov_command(&[
        "up",
        "-q",
        "--image",
        &Sandbox::image(),
        "--profile",
        "secure-two-node",
        "--wait",
        "10m",
    ]);
    let up = Run::of(up.env("KIND_CLUSTER_NAME", cluster)).ok();
    assert_eq!(up.stderr, "");
    let named = |arguments: &[&str]| Run::of(sandbox.kprov_command(arguments).env("KIND_CLUSTER_NAME", cluster));

    let sorted = |run: Run| run.ok().stdout.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let kinds = sorted(sandbox.kind(&["get", "nodes", "--name", cluster]));
    assert_eq!(kinds.len(), 2);
    assert_eq!(sorted(sandbox.kprov(&["nodes", cluster])), kinds);
    assert_eq!(sorted(named(&["nodes"])), kinds);
    named(&["status"]).ok().says(cluster);
    let mut unfit = sandbox.kprov_command(&["nodes"]);
    Run::of(unfit.env("KIND_CLUSTER_NAME", "No Name")).fails().says("KIND_CLUSTER_NAME is set to \"No Name\"");

    let server =
        |run: Run| run.ok().stdout.lines().find(|line| line.contains("server:")).map(|line| line.trim().to_owned());
    let ours = sandbox.kprov(&["kubeconfig", cluster, "--internal"]).ok();
    assert_eq!(server(ours.clone()), server(sandbox.kind(&["get", "kubeconfig", "--internal", "--name", cluster])));
    sandbox.write("internal", &ours.stdout);
    let inside = "cat > /tmp/internal && kubectl --kubeconfig /tmp/internal get nodes";
    let mut inside = Command::new("docker")
        .args(["exec", "-i", &node, "sh", "-euc", inside])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut inside.stdin.take().unwrap(), ours.stdout.as_bytes()).unwrap();
    assert!(inside.wait().unwrap().success());

    // Something secret in a log.
    let noise =
        "logger -t kubelet token abcdef.0123456789abcdef was here; echo proxy http://me:word@host > /var/log/mine.log";
    sandbox.kprov(&["exec", &node, "--", "sh", "-euc", noise]).done();
    let folder = sandbox.path().join("ours");
    let run = sandbox.kprov(&["logs", "ours", "--name", cluster]).ok();
    assert_eq!(run.stdout, "ours\n");
    sandbox.kind(&["export", "logs", "kinds", "--name", cluster]).done();
    let (ours, mut kinds) = (files(&folder), files(&sandbox.path().join("kinds")));
    kinds.remove("./kind-version.txt");
    let lacking: Vec<_> = kinds.difference(&ours).collect();
    assert!(lacking.is_empty(), "kind has these, and kprov does not: {lacking:?}");
    for file in ["./kprov-record.json", "./kprov-version.txt"] {
        assert!(ours.contains(file), "{file} is not there");
    }
    let keys: serde_json::Value = serde_json::from_slice(
        &std::fs::read(sandbox.data().join("clusters").join(cluster).join("keys.json")).unwrap(),
    )
    .unwrap();
    let secret = keys
        .pointer("/0/keys/0")
        .map(|key| key.as_object().unwrap().values().map(ToString::to_string).collect::<Vec<_>>())
        .unwrap();
    let all: Vec<u8> = ours.iter().flat_map(|file| std::fs::read(folder.join(file)).unwrap()).collect();
    let all = String::from_utf8_lossy(&all);
    for secret in secret.iter().map(|text| text.trim_matches('"')).filter(|text| text.len() > 20) {
        assert!(!all.contains(secret), "a key is in the logs");
    }
    assert!(
        !all.contains("abcdef.0123456789abcdef")
            && !all.contains("me:word@")
            && all.contains("http://me:[masked]@host")
    );
    assert!(all.contains("token [masked] was here"));
    sandbox.kprov(&["logs", "ours", "--name", cluster]).fails().says("ours is not empty");

    // A node that does not run has less to say, and keeps nobody from the rest.
    sandbox.engine().docker(&["stop", "--time", "1", &sandbox.node("worker")]).done();
    let again = sandbox.kprov(&["logs", "again", "--name", cluster]).ok();
    assert_eq!(again.stdout, "again\n");
    let again = files(&sandbox.path().join("again"));
    assert!(again.contains(&format!("./{}/serial.log", sandbox.node("worker"))), "{again:?}");
    assert!(!again.contains(&format!("./{}/journal.log", sandbox.node("worker"))));

    sandbox.kprov(&["down", cluster]).done();
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_network_of_its_own_is_made_kept_and_removed() {
    let sandbox = Sandbox::on_engine(KPROV, "network");
    let cluster = sandbox.cluster.as_str();
    let network = format!("{cluster}.lab");
    let with_network = |arguments: &[&str]| {
        Run::of(sandbox.kprov_command(arguments).env("KIND_EXPERIMENTAL_DOCKER_NETWORK", &network))
    };
    let image = Sandbox::image();
    let up = ["up", "--name", cluster, "--image", &image];
    Run::of(sandbox.kprov_command(&up).env("KIND_EXPERIMENTAL_DOCKER_NETWORK", "host"))
        .fails()
        .says("engine's own network");
    with_network(&up).done();
    let networks = || {
        let format = "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}} {{end}}";
        sandbox
            .engine()
            .docker(&["inspect", "--format", format, &sandbox.node("control-plane")])
            .ok()
            .stdout
            .trim()
            .to_owned()
    };
    assert_eq!(networks(), network);
    let status = sandbox.kprov(&["status", cluster, "-o", "json"]).ok().json();
    assert!(status["nodes"][0]["ipv4"].is_string(), "{status}");
    // Nothing but the record knows of it from now on.
    for verb in [&["stop"][..], &["start"], &["reset"], &["verify"]] {
        sandbox.kprov(&[verb, &[cluster]].concat()).done();
        assert_eq!(networks(), network, "after {verb:?}");
    }
    sandbox.kprov(&["down", cluster]).done();
    let left = sandbox.engine().docker(&["network", "ls", "--format", "{{.Name}}"]).ok().stdout;
    assert!(!left.lines().any(|name| name == network), "{left}");
    sandbox.assert_clean();
}
