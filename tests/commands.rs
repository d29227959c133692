//! Commands that can be seen through without a cluster.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::{FakeEngine, Job, Sandbox, Traits};

const KPROV: &str = env!("CARGO_BIN_EXE_kprov");

#[test]
fn down_all_takes_what_kprov_made_and_leaves_kinds_clusters() {
    let engine = FakeEngine::start(Traits::default());
    let labels = |cluster: &str| json!({"io.x-k8s.kind.cluster": cluster, "io.x-k8s.kind.role": "control-plane"});
    let mut ours = labels("ours");
    ours["dev.kprov.owner"] = "kprov".into();
    ours["dev.kprov.digest"] = "abc".into();
    engine.hold("ours-control-plane", &ours);
    engine.hold("kinds-control-plane", &labels("kinds"));
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    sandbox.kprov(&["ls"]).ok().says("kinds - (made by kind) 0/1 running").says("ours -");
    sandbox.kprov(&["down"]).fails().says("which cluster? There are 2: kinds, ours");
    sandbox.kprov(&["down", "--all"]).ok().says("Removed ours.");
    assert_eq!(engine.left(), ["kinds-control-plane"]);
    sandbox.kprov(&["down", "--all"]).ok().says("There was nothing to remove.");
    sandbox.kprov(&["down"]).fails().says("the cluster \"kinds\" is not removed").says("`kprov down --yes`");
    assert_eq!(engine.left(), ["kinds-control-plane"]);
    sandbox.kprov(&["down", "--yes"]).ok().says("Removed kinds.");
    assert_eq!(engine.left(), [""; 0]);
}

/// All files below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn what_is_no_name_is_refused_before_anything_is_touched() {
    let engine = FakeEngine::start(Traits::default());
    engine.hold("bar-control-plane", &json!({"io.x-k8s.kind.cluster": "bar", "io.x-k8s.kind.role": "control-plane"}));
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    for file in ["clusters/bar/cluster.json", "clusters/bar/keys.json", "clusters/foo/keys.json", "states/golden/bar"] {
        sandbox.write(&format!("data/kprov/{file}"), "kept");
    }
    sandbox.write("victim.lock", "kept");
    let before = files(sandbox.path());
    for name in ["", ".", "..", "/", "./", "//", "x/bar", "../../../victim", "bar/"] {
        for command in [
            &["down", name][..],
            &["reset", name],
            &["status", name],
            &["verify", name],
            &["wait", name],
            &["kubeconfig", name],
            &["up", "--name", name],
            &["up", "--from", name],
            &["render", "--name", name],
            &["etcd", "keys", "--cluster", name],
            &["encryption", "status", name],
            &["encryption", "enable", name],
            &["encryption", "rotate", name],
            &["encryption", "migrate", "--to", "aesgcm", name],
            &["encryption", "disable", name],
            &["encryption", "resume", name],
            &["encryption", "undo", name],
            &["snapshot", "save", name],
            &["snapshot", "save", "a", "--cluster", name],
            &["snapshot", "restore", name],
            &["snapshot", "restore", "a", "--cluster", name],
            &["snapshot", "rm", name],
            &["snapshot", "export", name, "file"],
            &["snapshot", "import", "file", "--name", name],
            &["stop", name],
            &["start", name],
            &["load", "image", "i", "--name", name],
            &["cis", name],
            &["break", name, "--random", "1"],
            &["report", name, "--out", "file"],
            &["nodes", name],
            &["logs", "--name", name],
            &["kms", "status", name],
        ] {
            let run = sandbox.kprov(command).is_refused();
            run.says(if name.is_empty() { "name cannot be empty; is the variable" } else { "'s name " });
        }
    }
    sandbox.kprov(&["apiserver", "set", "", "v=4"]).fails().says("name cannot be empty");
    assert_eq!(files(sandbox.path()), before);
    assert_eq!(engine.left(), ["bar-control-plane"]);
}

#[test]
fn a_control_plane_that_is_gone_is_named_and_nothing_is_said_to_be_done() {
    let engine = FakeEngine::start(Traits::default());
    engine.hold("lab-worker", &json!({"io.x-k8s.kind.cluster": "lab", "io.x-k8s.kind.role": "worker"}));
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    for command in [
        &["apiserver", "set", "lab", "v=4"][..],
        &["apiserver", "unset", "lab", "v"],
        &["encryption", "status", "lab"],
        &["encryption", "enable", "lab"],
        &["etcd", "keys", "--cluster", "lab"],
        &["verify", "lab"],
        &["kubeconfig", "lab"],
    ] {
        let run = sandbox.kprov(command).fails();
        run.says("the control plane lab-control-plane of the cluster \"lab\" is gone").says("`kprov reset lab`");
    }
}

/// The record of a cluster, as kprov writes it.
fn record(name: &str, status: &str, control_planes: u32) -> Value {
    json!({
        "name": name, "status": status, "base": "/", "image": "i", "imageId": "sha256:1234", "version": "v1.33.1",
        "digest": "d", "apiServerPort": 1, "nodes": [],
        "profile": {"apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "p"},
            "spec": {"nodes": [{"role": "control-plane", "count": control_planes}]}},
    })
}

#[test]
fn what_is_done_on_every_control_plane_needs_every_one() {
    let engine = FakeEngine::start(Traits::default());
    for node in ["ha-control-plane", "ha-control-plane3"] {
        engine.hold(node, &json!({"io.x-k8s.kind.cluster": "ha", "io.x-k8s.kind.role": "control-plane"}));
    }
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    sandbox.write("data/kprov/clusters/ha/cluster.json", record("ha", "ready", 3).to_string());
    for command in [&["apiserver", "set", "ha", "v=4"][..], &["encryption", "status", "ha"]] {
        sandbox.kprov(command).fails().says("the control plane ha-control-plane2 of the cluster \"ha\" is gone");
    }
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    // Its nodes do not boot, and cleaning up never ends.
    let engine = FakeEngine::start(Traits { silent: Some("DELETE /containers/lab"), ..Traits::default() });
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    let mut job = Job::start(&mut sandbox.kprov_command(&["up", "--name", "lab"]));
    while !engine.was_asked("DELETE /containers/lab") {
        assert!(!job.ends_within(Duration::from_millis(5)), "{}", job.wait());
    }
    job.press_ctrl_c();
    assert!(!job.ends_within(Duration::from_millis(300)), "the first one lets it clean up");
    job.press_ctrl_c();
    assert!(job.ends_within(Duration::from_secs(10)));
    assert_eq!(job.wait().code, Some(130));
}

#[test]
fn the_network_is_not_taken_from_under_an_up() {
    let engine = FakeEngine::start(Traits::default());
    engine.hold_network();
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    // As an `up` does that has found the network and has no node on it yet.
    let lock = std::fs::File::create(sandbox.write("data/kprov/clusters/.network.lock", "")).unwrap();
    lock.lock().unwrap();
    let mut job = Job::start(&mut sandbox.kprov_command(&["down", "--all"]));
    assert!(!job.ends_within(Duration::from_millis(500)));
    assert_eq!(engine.left(), ["a network"]);
    lock.unlock().unwrap();
    job.wait().done();
    assert_eq!(engine.left(), [""; 0]);
}

#[test]
fn reset_finds_out_what_is_wrong_before_a_node_goes() {
    let engine = FakeEngine::start(Traits::default());
    let ours =
        json!({"io.x-k8s.kind.cluster": "lab", "io.x-k8s.kind.role": "control-plane", "dev.kprov.owner": "kprov"});
    engine.hold("lab-control-plane", &ours);
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    sandbox.write("data/kprov/clusters/lab/cluster.json", record("lab", "ready", 1).to_string());
    sandbox.write("templates/kubeadm.yaml.j2", "{{ nonsense | unknown }}");
    sandbox.kprov(&["reset", "lab", "--templates", "templates"]).fails().says("unknown");
    assert_eq!(engine.left(), ["lab-control-plane"]);
}

#[test]
fn reset_misses_an_image_or_a_key_before_a_node_goes() {
    let labels =
        json!({"io.x-k8s.kind.cluster": "lab", "io.x-k8s.kind.role": "control-plane", "dev.kprov.owner": "kprov"});
    let key = json!({"name": "key1", "source": {"file": "of-the-teacher"}});
    let providers = json!([{"type": "aescbc", "keys": [key]}]);
    for (has_image, encryption, said) in
        [(false, Value::Null, "no registry has it"), (true, json!({"providers": providers}), "/nowhere/of-the-teacher")]
    {
        let engine = FakeEngine::start(Traits { has_image, ..Traits::default() });
        engine.hold("lab-control-plane", &labels);
        let sandbox = Sandbox::with_host(KPROV, &engine.host());
        let mut record = record("lab", "ready", 1);
        record["base"] = "/nowhere".into();
        record["profile"]["spec"]["encryption"] = encryption;
        sandbox.write("data/kprov/clusters/lab/cluster.json", record.to_string());
        sandbox.kprov(&["reset", "lab"]).fails().says(said);
        assert!(!engine.was_asked("DELETE /containers/lab-control-plane") && !engine.was_asked("rename"));
        assert_eq!(engine.left(), ["lab-control-plane"]);
    }
}

#[test]
fn the_record_of_another_engines_cluster_says_nothing_of_one_of_its_name_here() {
    let here = FakeEngine::start(Traits { id: "here", ..Traits::default() });
    here.hold("lab-control-plane", &json!({"io.x-k8s.kind.cluster": "lab", "io.x-k8s.kind.role": "control-plane"}));
    let sandbox = Sandbox::with_host(KPROV, &here.host());
    let mut theirs = record("lab", "ready", 3);
    theirs["engine"] = json!({"id": "there", "host": "ssh://there"});
    sandbox.write("data/kprov/clusters/lab/cluster.json", theirs.to_string());
    let status = sandbox.kprov(&["status", "lab", "-o", "json"]).ok().json();
    assert_eq!((&status["profile"], &status["digest"]), (&Value::Null, &Value::Null));
    // By that record, two control planes would be gone.
    sandbox.kprov(&["apiserver", "set", "lab", "v=4"]).fails().never_says("is gone");
}

#[test]
fn what_is_left_over_is_told_by_the_engines_clock() {
    // Made a few seconds ago by a process that is alive: by the host's clock, half a century ago.
    for (clock, left) in [("1970-01-01T00:00:30Z", 1), ("1970-01-01T00:10:00+00:00", 0)] {
        let engine = FakeEngine::start(Traits { clock, ..Traits::default() });
        let process = std::process::id().to_string();
        engine.hold("passing", &json!({"dev.kprov.owner": "kprov", "dev.kprov.process": process}));
        Sandbox::with_host(KPROV, &engine.host()).kprov(&["down", "--all"]).ok().done();
        assert_eq!(engine.left().len(), left, "at {clock}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn there_are_no_core_dumps() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let sandbox = Sandbox::with_host(KPROV, &format!("unix://{}", socket.display()));
    let mut kprov = sandbox.command(KPROV, &["ls"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    // It is well under way once it asks the engine, which never answers.
    let _connection = listener.accept().unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", kprov.id())).unwrap();
    kprov.kill().unwrap();
    kprov.wait().unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
}

#[test]
fn the_record_and_keys_of_another_engines_cluster_are_kept() {
    let there = FakeEngine::start(Traits { id: "there", ..Traits::default() });
    let here = FakeEngine::start(Traits { id: "here", ..Traits::default() });
    let sandbox = Sandbox::with_host(KPROV, &here.host());
    let mut theirs = record("lab", "ready", 1);
    theirs["engine"] = json!({"id": "there", "host": there.host()});
    sandbox.write("data/kprov/clusters/lab/cluster.json", theirs.to_string());
    sandbox.write("data/kprov/clusters/lab/keys.json", r#"{"providers": []}"#);
    let kept = || std::fs::read_to_string(sandbox.path().join("data/kprov/clusters/lab/cluster.json")).unwrap();
    for command in [&["up", "--name", "lab"][..], &["reset", "lab"], &["down", "lab"]] {
        sandbox.kprov(command).fails().says("the cluster \"lab\" is on another engine").says(&there.host());
        assert_eq!(kept(), theirs.to_string());
        assert!(sandbox.path().join("data/kprov/clusters/lab/keys.json").exists());
    }
    sandbox.kprov(&["down", "--all"]).ok().says("Left alone: the cluster \"lab\"").says("There was nothing to remove");
    assert_eq!(kept(), theirs.to_string());
    // Nor does a "yes" forget them, whether it is to this cluster, to the only one or to all.
    sandbox.kprov(&["down", "--all", "--yes"]).ok().says("Left alone: the cluster \"lab\"");
    for command in [&["down", "--yes"][..], &["down", "lab", "--yes"]] {
        sandbox.kprov(command).fails().says("the cluster \"lab\" is on another engine").says("--forget");
    }
    sandbox.kprov(&["down", "--forget"]).is_refused();
    assert_eq!(kept(), theirs.to_string());
    assert!(sandbox.path().join("data/kprov/clusters/lab/keys.json").exists());
    // Another one of that name, on this engine, is not what is forgotten.
    here.hold("lab-control-plane", &json!({"io.x-k8s.kind.cluster": "lab", "io.x-k8s.kind.role": "control-plane"}));
    sandbox.kprov(&["down", "lab", "--forget"]).ok().says("Removed lab.");
    assert_eq!(here.left(), ["lab-control-plane"]);
    assert!(!sandbox.path().join("data/kprov/clusters/lab").exists());
}

#[test]
fn what_another_tool_made_outlives_a_stale_record() {
    let engine = FakeEngine::start(Traits::default());
    let kinds = json!({"io.x-k8s.kind.cluster": "lab", "io.x-k8s.kind.role": "control-plane"});
    engine.hold("lab-control-plane", &kinds);
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    let path = "data/kprov/clusters/lab/cluster.json";
    for (written, says) in [
        (
            record("lab", "creating", 1).to_string(),
            "the container lab-control-plane of the cluster \"lab\" was not made by",
        ),
        ("{".to_owned(), "kprov's record of the cluster \"lab\" cannot be read"),
    ] {
        sandbox.write(path, &written);
        sandbox.kprov(&["up", "--name", "lab"]).fails().says(says);
        sandbox.kprov(&["reset", "lab"]).fails().says(says);
        assert_eq!(engine.left(), ["lab-control-plane"]);
        assert_eq!(std::fs::read_to_string(sandbox.path().join(path)).unwrap(), written);
    }
    sandbox.write(path, record("lab", "ready", 1).to_string());
    sandbox.kprov(&["down", "--all"]).ok().says("Removed lab.");
    assert_eq!(engine.left(), ["lab-control-plane"]);
    sandbox.kprov(&["down", "lab"]).ok().says("Removed lab.");
    assert_eq!(engine.left(), [""; 0]);
}

#[test]
fn doctor_without_an_engine_says_so_in_the_form_that_was_asked_for() {
    let run =
        Sandbox::without_engine(KPROV).kprov(&["doctor", "-o", "json"]).fails().says("kprov::engine::unreachable");
    assert_eq!(run.json(), json!({"ok": false, "checks": []}));
}

#[test]
fn a_bundle_is_private_where_it_holds_keys_and_keeps_them() {
    let sandbox = Sandbox::without_engine(KPROV);
    let render = ["render", "--profile", "hardened", "-o", "json"];
    let shown = sandbox.kprov(&render).ok().json();
    let written = sandbox.kprov(&[&render[..], &["--out", "bundle"]].concat()).ok().json();
    assert_eq!(shown["digest"], written["digest"]);
    let keys = sandbox.path().join("bundle/encryption/encryption-config.yaml");
    assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&keys).unwrap();
    let secret = text.lines().find_map(|line| line.trim().strip_prefix("secret: ")).unwrap().trim_matches('"');
    assert_eq!(secret.len(), 44);
    let again = sandbox.kprov(&[&render[..], &["--out", "bundle"]].concat()).ok().never_says(secret);
    again.says("is kept as it is: it holds the keys");
    assert_eq!(std::fs::read_to_string(&keys).unwrap(), text);
}

#[test]
fn a_bundle_is_not_written_through_links_nor_where_kind_cannot_mount_it() {
    let sandbox = Sandbox::without_engine(KPROV);
    let render = |out: &str| sandbox.kprov(&["render", "--profile", "hardened", "--out", out]).fails();
    sandbox.write("theirs/cluster.yaml", "theirs");
    std::os::unix::fs::symlink(sandbox.path().join("theirs"), sandbox.path().join("linked")).unwrap();
    render("linked").says("linked is a symbolic link, or no folder");
    std::fs::create_dir(sandbox.path().join("bundle")).unwrap();
    for name in ["audit", "cluster.yaml"] {
        let (theirs, link) = (sandbox.path().join("theirs/cluster.yaml"), sandbox.path().join("bundle").join(name));
        std::os::unix::fs::symlink(theirs, &link).unwrap();
        render("bundle").says("nothing is written there");
        std::fs::remove_file(link).unwrap();
    }
    assert_eq!(std::fs::read_to_string(sandbox.path().join("theirs/cluster.yaml")).unwrap(), "theirs");
    render("a:b").says("it has a colon in it");
    assert!(!sandbox.path().join("a:b").exists());
}

#[test]
fn every_shell_gets_its_completions_and_editors_the_schema() {
    let sandbox = Sandbox::without_engine(KPROV);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        sandbox.kprov(&["completions", shell]).ok().says("kubeconfig");
    }
    assert!(sandbox.kprov(&["schema"]).ok().json()["$defs"].is_object());
}
