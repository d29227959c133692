//! A hardened cluster from `up` to its end: all that a user can ask of it, with kprov and with the real kind.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use test_support::{Run, Sandbox};

use super::{KPROV, make_secret, stored};

/// The encryption key, in its only written form. Known beforehand, so that it can be looked for everywhere.
const KEY: &str = "qpC4vUoZ0Jw1yT6mRkXn3bHs8fLgD2eWaVtNi7xMcYE=";

const PREFIX: &str = "k8s:enc:secretbox:v1:key1:";

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_hardened_cluster_from_its_making_to_its_end() {
    let sandbox = Sandbox::on_engine(KPROV, "life");
    let nodes = [sandbox.node("control-plane"), sandbox.node("worker")];

    let watch = Watch::start();
    let source = "encryption.providers[0].keys[0].source.env=E2E_KEY";
    let mut command = sandbox.up_command(&["--profile", "hardened", "--set", source, "-o", "json"]);
    let made = Run::of(command.env("E2E_KEY", KEY)).ok().never_says(KEY);
    assert_eq!(watch.stop(), [""; 0], "the key was in the arguments of a process");
    let made = made.json();
    assert_eq!(made["cluster"], *sandbox.cluster);
    assert_eq!(made["profile"], "hardened");
    assert_eq!(made["context"], format!("kind-{}", sandbox.cluster));
    assert_is_proof(&made["evidence"]);

    eprintln!("- ls, status, verify");
    looks_as_made(&sandbox, &nodes, &made);
    eprintln!("- etcd");
    secrets_are_encrypted(&sandbox);
    eprintln!("- exec");
    commands_run_on_nodes(&sandbox, &nodes[1]);
    eprintln!("- kind");
    kind_takes_it_for_its_own(&sandbox, &nodes);
    eprintln!("- up again");
    sandbox.up(&[]).fails().says(&format!("a cluster called \"{}\" exists already (2 containers)", sandbox.cluster));
    eprintln!("- secrets");
    key_is_nowhere_else(&sandbox, &nodes);

    eprintln!("- reset");
    let port = api_server(&sandbox);
    let kubeconfig = std::fs::read_to_string(sandbox.kubeconfig()).unwrap();
    // The variable with the key is not set this time: it has to be remembered.
    let reset = sandbox.kprov(&["reset", &sandbox.cluster, "-o", "json"]).ok().never_says(KEY).json();
    assert_is_proof(&reset["evidence"]);
    assert_eq!(reset["digest"], made["digest"]);
    assert_eq!(api_server(&sandbox), port);
    assert!(encryption_file(&sandbox).contains(KEY), "another key");
    assert_eq!(server_of(&std::fs::read_to_string(sandbox.kubeconfig()).unwrap()), server_of(&kubeconfig));
    sandbox
        .kprov(&["etcd", "get", "secrets/default/e2e", "--cluster", &sandbox.cluster])
        .fails()
        .says("etcd has no key /registry/secrets/default/e2e");
    looks_as_made(&sandbox, &nodes, &made);

    eprintln!("- stopped nodes");
    stopped_nodes_are_seen(&sandbox, &nodes);

    eprintln!("- the end");
    sandbox.kind(&["delete", "cluster", "--name", &sandbox.cluster]).done();
    assert_eq!(sandbox.engine().containers(&sandbox.cluster), [""; 0]);
    sandbox.kprov(&["status", &sandbox.cluster]).fails().says("there is no cluster called");
    // What kind does not know of.
    sandbox.kprov(&["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
    sandbox.kprov(&["down", &sandbox.cluster]).fails().says("there is no cluster called");
}

/// All checks hold, and the canary was encrypted.
#[track_caller]
fn assert_is_proof(evidence: &Value) {
    let checks = evidence["checks"].as_array().unwrap();
    assert!(checks.len() > 8, "{checks:#?}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{checks:#?}");
    let canary = &evidence["canary"];
    assert_eq!((&canary["stored"], &canary["plainTextFound"]), (&PREFIX.into(), &false.into()), "{canary}");
    let resources: Vec<_> = evidence["census"].as_array().unwrap().iter().map(|one| &one["resource"]).collect();
    assert_eq!(resources, ["secrets", "configmaps"]);
}

fn looks_as_made(sandbox: &Sandbox, nodes: &[String; 2], made: &Value) {
    let listed = sandbox.kprov(&["ls", "-o", "json"]).ok().json();
    let ours = listed.as_array().unwrap().iter().find(|one| one["cluster"] == *sandbox.cluster).unwrap();
    assert_eq!((&ours["profile"], &ours["running"]), (&"hardened".into(), &2.into()));
    sandbox.kprov(&["ls"]).ok().says(&format!("{} hardened 2/2 running 127.0.0.1:", sandbox.cluster));

    let status = sandbox.kprov(&["status", &sandbox.cluster, "-o", "json"]).ok().json();
    assert_eq!(status["digest"], made["digest"]);
    assert_eq!(status["status"], "ready");
    assert_eq!(status["encryption"]["providers"][0], "secretbox");
    for (node, name) in status["nodes"].as_array().unwrap().iter().zip(nodes) {
        assert_eq!(
            (&node["name"], &node["container"], &node["ready"]),
            (&name.as_str().into(), &"running".into(), &true.into())
        );
        let label = r#"{{index .Config.Labels "dev.kprov.digest"}}"#;
        let digest = sandbox.engine().docker(&["inspect", "--format", label, name]).ok();
        assert_eq!(digest.stdout.trim(), made["digest"]);
    }
    sandbox.kprov(&["status", &sandbox.cluster]).ok().says("secretbox, identity on secrets, configmaps");

    let verified = sandbox.kprov(&["verify", &sandbox.cluster, "-o", "json"]).ok().json();
    assert_eq!(verified["ok"], true);
    assert_is_proof(&verified["evidence"]);
    sandbox.kprov(&["verify", &sandbox.cluster]).ok().says(PREFIX).says("its plain text is absent").never_says("FAIL");
    // The canary does not stay.
    let keys = sandbox.kprov(&["etcd", "keys", "secrets/default", "--cluster", &sandbox.cluster]).ok();
    keys.never_says("canary");
}

fn secrets_are_encrypted(sandbox: &Sandbox) {
    let key = make_secret(sandbox, "e2e");
    let keys = sandbox.kprov(&["etcd", "keys", "secrets/default", "--cluster", &sandbox.cluster, "-o", "json"]).ok();
    assert!(keys.json().as_array().unwrap().contains(&key.as_str().into()), "{keys}");
    let shown = stored(sandbox, &key, &["-o", "json"]).json();
    assert_eq!((&shown["prefix"], &shown["stored"]["provider"]), (&PREFIX.into(), &"secretbox".into()));
    stored(sandbox, "secrets/default/e2e", &[]).says("|k8s:enc:secretbo|").never_says("mypassword");
    let raw = stored(sandbox, &key, &["--raw"]);
    assert!(raw.stdout.starts_with(PREFIX) && !raw.stdout.contains("mypassword"));
}

fn commands_run_on_nodes(sandbox: &Sandbox, node: &str) {
    let run = sandbox.kprov(&["exec", node, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(7), "out\n", "err\n"));
    let mut cat = sandbox
        .kprov_command(&["exec", node, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    cat.stdin.take().unwrap().write_all(b"fed\n").unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"fed\n".as_slice()));
    let unknown =
        sandbox.kprov(&["exec", "nonesuch", "--", "true"]).fails().says("there is no node called \"nonesuch\"");
    // Where there are more clusters, the list is broken into lines, within names, too.
    let bare = |text: &str| text.split(|c: char| c.is_whitespace() || c == '│').collect::<String>();
    assert!(bare(&unknown.all()).contains(node), "{unknown}");
}

fn kind_takes_it_for_its_own(sandbox: &Sandbox, nodes: &[String; 2]) {
    let cluster = sandbox.cluster.as_str();
    let clusters = sandbox.kind(&["get", "clusters"]).ok().stdout;
    assert!(clusters.lines().any(|line| line == cluster), "{clusters}");
    let found = sandbox.kind(&["get", "nodes", "--name", cluster]).ok().stdout;
    let mut found: Vec<_> = found.lines().collect();
    found.sort_unstable();
    assert_eq!(found, nodes);

    let kubeconfig = sandbox.kind(&["get", "kubeconfig", "--name", cluster]).ok().stdout;
    let ours = sandbox.kprov(&["kubeconfig", cluster]).ok().stdout;
    assert_eq!(server_of(&kubeconfig), server_of(&ours));
    assert_eq!(server_of(&kubeconfig), server_of(&std::fs::read_to_string(sandbox.kubeconfig()).unwrap()));
    // Merging again what is there changes nothing.
    let before = std::fs::read_to_string(sandbox.kubeconfig()).unwrap();
    sandbox.kprov(&["kubeconfig", cluster, "--merge"]).ok().says(&format!("kind-{cluster}"));
    assert_eq!(std::fs::read_to_string(sandbox.kubeconfig()).unwrap(), before);

    let image = format!("e2e/load:{}", std::process::id());
    let archive = sandbox.path().join("archive.tar");
    import_image(sandbox, &image);
    let saved = sandbox.engine().docker(&["save", "--output", &archive.display().to_string(), &image]);
    let loaded = sandbox.kind(&["load", "docker-image", &image, "--name", cluster]);
    let has_image = |node: &String| {
        let images = sandbox.kprov(&["exec", node, "--", "ctr", "-n", "k8s.io", "images", "ls", "-q"]).ok();
        images.stdout.lines().any(|line| line.ends_with(&image))
    };
    let on_nodes = nodes.each_ref().map(has_image);
    sandbox.engine().docker(&["image", "rm", &image]).done();
    saved.done();
    loaded.done();
    assert_eq!(on_nodes, [true, true]);
    for node in nodes {
        sandbox
            .kprov(&[
                "exec",
                node,
                "--",
                "ctr",
                "-n",
                "k8s.io",
                "images",
                "rm",
                "--sync",
                &format!("docker.io/{image}"),
            ])
            .done();
    }
    assert_eq!(nodes.each_ref().map(has_image), [false, false]);
    sandbox.kind(&["load", "image-archive", &archive.display().to_string(), "--name", cluster]).done();
    assert_eq!(nodes.each_ref().map(has_image), [true, true]);

    let logs = sandbox.path().join("logs");
    sandbox.kind(&["export", "logs", &logs.display().to_string(), "--name", cluster]).done();
    for node in nodes {
        let size = |name: &str| std::fs::metadata(logs.join(node).join(name)).map_or(0, |file| file.len());
        assert!(size("kubelet.log") > 0 && size("serial.log") > 0, "{node}");
    }
}

/// An image of one file.
fn import_image(sandbox: &Sandbox, image: &str) {
    sandbox.write("image/file", "loaded");
    let mut archive = Command::new("tar")
        .args(["--create", "--directory"])
        .arg(sandbox.path().join("image"))
        .arg("file")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let content = archive.stdout.take().unwrap();
    Run::of(Command::new("docker").args(["import", "-", image]).stdin(content)).done();
    archive.wait().unwrap();
}

/// The key is in one file of the control plane, in kprov's record and in the golden state, and all are private.
fn key_is_nowhere_else(sandbox: &Sandbox, nodes: &[String; 2]) {
    for node in nodes {
        sandbox.engine().docker(&["inspect", node]).ok().never_says(KEY);
        sandbox.engine().docker(&["logs", node]).ok().never_says(KEY);
        let search = "grep -rlF -e \"$(cat)\" /etc /kind /run /tmp /var/log /root /var/lib/kubelet /proc/[0-9]*/cmdline \
                      /proc/[0-9]*/environ 2>/dev/null";
        let mut command = sandbox.kprov_command(&["exec", node, "--", "sh", "-c", search]);
        let mut grep = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        grep.stdin.take().unwrap().write_all(KEY.as_bytes()).unwrap();
        let found = String::from_utf8(grep.wait_with_output().unwrap().stdout).unwrap();
        let files: Vec<_> = found.lines().collect();
        if *node == nodes[0] {
            assert_eq!(files, ["/etc/kubernetes/encryption/encryption-config.yaml"]);
            let stat = sandbox.kprov(&["exec", node, "--", "stat", "-c", "%a %U:%G", files[0]]).ok();
            assert_eq!(stat.stdout.trim(), "600 root:root");
        } else {
            assert_eq!(files, [""; 0]);
        }
    }
    for command in [&["status"][..], &["verify"], &["kubeconfig"]] {
        sandbox.kprov(&[command, &[&sandbox.cluster]].concat()).ok().never_says(KEY);
    }
    let mut holders = Vec::new();
    files_with(&sandbox.path().join("data"), KEY, &mut holders);
    let record = sandbox.data().join("clusters").join(&sandbox.cluster).join("keys.json");
    let state = sandbox.data().join("states/blobs");
    assert!(holders.contains(&record), "{holders:?}");
    for holder in &holders {
        assert!(*holder == record || holder.parent() == Some(state.as_path()), "{holders:?}");
        assert_eq!(std::fs::metadata(holder).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

fn files_with(folder: &Path, text: &str, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_with(&path, text, found);
        } else if String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(text) {
            found.push(path);
        }
    }
}

fn encryption_file(sandbox: &Sandbox) -> String {
    let path = "/etc/kubernetes/encryption/encryption-config.yaml";
    sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "cat", path]).ok().stdout
}

fn api_server(sandbox: &Sandbox) -> String {
    let status = sandbox.kprov(&["status", &sandbox.cluster, "-o", "json"]).ok().json();
    status["apiServer"].as_str().unwrap().to_owned()
}

/// The server that a kubeconfig of one cluster names.
fn server_of(kubeconfig: &str) -> &str {
    kubeconfig.lines().find_map(|line| line.trim().strip_prefix("server: ")).unwrap()
}

fn stopped_nodes_are_seen(sandbox: &Sandbox, nodes: &[String; 2]) {
    sandbox.engine().docker(&["stop", "--time", "5", &nodes[1]]).done();
    let run = sandbox.kprov(&["verify", &sandbox.cluster]).fails();
    run.says(&format!("FAIL {}: container: does not run", nodes[1])).says("its plain text is absent");
    sandbox.kprov(&["ls"]).ok().says(&format!("{} hardened 1/2 running", sandbox.cluster));
    sandbox.engine().docker(&["stop", "--time", "5", &nodes[0]]).done();
    let does_not_run = format!("the control plane of the cluster \"{}\" does not run", sandbox.cluster);
    sandbox.kprov(&["verify", &sandbox.cluster]).fails().says(&does_not_run).says("kprov start");
    let status = sandbox.kprov(&["status", &sandbox.cluster, "-o", "json"]).ok().json();
    assert_eq!(status["nodes"][0]["container"], "exited");
}

/// Looks all the time at the arguments of all processes of this host, those in containers among them.
struct Watch {
    stop: Arc<AtomicBool>,
    found: Arc<Mutex<Vec<String>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start() -> Self {
        let (stop, found) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stopped, list) = (Arc::clone(&stop), Arc::clone(&found));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                    let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                    let line = String::from_utf8_lossy(&line);
                    if line.contains(KEY) {
                        list.lock().unwrap().push(line.into_owned());
                    }
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
        });
        Self { stop, found, thread }
    }

    /// The command lines that held the key.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        std::mem::take(&mut self.found.lock().unwrap())
    }
}
