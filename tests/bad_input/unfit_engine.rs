//! Engines that are not there, may not be used, or cannot do what nodes need.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use test_support::{FakeEngine, Job, Run, Sandbox, Traits};

use super::{KPROV, sandbox, up};

/// The user and group that own nothing.
const NOBODY: u32 = 65534;

#[test]
fn no_engine() {
    up(&sandbox(), &[]).says("no Docker Engine answers at unix:///nonexistent").says("start Docker");
}

#[test]
fn a_docker_host_that_cannot_be_reached() {
    let sandbox = Sandbox::with_host(KPROV, "tcp://127.0.0.1:1");
    up(&sandbox, &[]).says("no Docker Engine answers at tcp://127.0.0.1:1").says("Connection refused");
    let sandbox = Sandbox::with_host(KPROV, "nonsense");
    up(&sandbox, &[]).says("\"nonsense\" is not an address of a Docker Engine");
}

#[test]
fn no_permission_on_the_socket() {
    // Everybody may get as far as the socket.
    let folder = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o000)).unwrap();
    let program = folder.path().join("kprov");
    // By another process: a program that this one has open for writing, a fork of another test might keep busy.
    Run::of(Command::new("cp").arg(KPROV).arg(&program)).done();
    let mut command = Command::new(&program);
    command
        .arg("up")
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path().join("home"))
        .env("DOCKER_HOST", format!("unix://{}", socket.display()));
    // To root, no socket is closed.
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    Run::of(&mut command).fails().says("no permission to talk to the Docker Engine at").says("usermod -aG docker");
    let mut names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["docker.sock", "kprov"]);
}

fn is_root() -> bool {
    Run::of(Command::new("id").arg("-u")).stdout.trim() == "0"
}

/// `kprov up` on a fake engine, which has to fail, and to leave nothing there.
#[track_caller]
fn up_on(engine: &FakeEngine, arguments: &[&str]) -> Run {
    let run = up(&Sandbox::with_host(KPROV, &engine.host()), arguments);
    assert_eq!(engine.left(), [""; 0], "{run}");
    run
}

#[test]
fn an_engine_that_is_too_old() {
    let engine = FakeEngine::start(Traits { api: "1.40", ..Traits::default() });
    up_on(&engine, &[]).says("is too old: its API is 1.40, kprov needs 1.41 (Docker Engine 20.10)");
    assert_eq!(engine.asked("GET /"), 1, "its greeting is enough");
}

#[test]
fn an_engine_that_runs_no_privileged_containers() {
    let refusal = "OCI runtime create failed: unable to apply caps: operation not permitted: unknown";
    let engine = FakeEngine::start(Traits { start: (500, refusal), ..Traits::default() });
    up_on(&engine, &[]).says("cannot run privileged containers").says(refusal).says("Docker Engine 23 or later");
    assert!(engine.was_asked("POST /containers/default-control-plane/start"));
    assert_eq!(engine.asked("GET /version"), 1, "it is greeted once");
}

#[test]
fn a_host_port_that_the_engine_finds_taken() {
    let refusal = "Bind for 0.0.0.0:80 failed: port is already allocated";
    let engine = FakeEngine::start(Traits { start: (500, refusal), ..Traits::default() });
    up_on(&engine, &[]).says("a host port that default-control-plane needs is taken").says(refusal);
}

#[test]
fn an_engine_whose_disk_is_full() {
    let engine = FakeEngine::start(Traits { start: (500, "write /x: no space left on device"), ..Traits::default() });
    up_on(&engine, &[]).says("the engine's disk is full");
}

#[test]
fn too_little_disk() {
    // A file system that has no room at all.
    let engine = FakeEngine::start(Traits { root_dir: "/proc", ..Traits::default() });
    up_on(&engine, &[])
        .says("this host cannot carry 1 node")
        .says("disk: 0.0 MiB free in /proc (1 node should have")
        .says("`docker system prune`");
    assert!(!engine.was_asked("POST"), "found out before anything is made");
}

#[test]
fn too_little_inotify() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    // More nodes than the limit has instances, as far as the pod subnet goes: that is more than any limit seen.
    let nodes = limit.trim().parse::<usize>().unwrap().min(30_000) + 1;
    let groups = "{role: worker, count: 100}, ".repeat(nodes / 100 + 1);
    let engine = FakeEngine::start(Traits::default());
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    sandbox.write(
        "p.yaml",
        format!(
            "apiVersion: kprov.dev/v1alpha1\nkind: Profile\nmetadata: {{name: p}}\nspec:\n  \
             networking: {{podSubnet: 10.128.0.0/9}}\n  nodes: [{groups}{{role: control-plane}}]\n"
        ),
    );
    up(&sandbox, &["--profile", "p.yaml"])
        .says(&format!("inotify instances: fs.inotify.max_user_instances is {}", limit.trim()))
        .says("run `sudo sysctl fs.inotify.max_user_instances=");
    assert_eq!(engine.left(), [""; 0]);
    assert!(!engine.was_asked("POST"), "found out before anything is made");
}

#[test]
fn an_image_of_a_version_that_is_not_supported() {
    let engine = FakeEngine::start(Traits { version: Some("v1.9.0"), ..Traits::default() });
    up_on(&engine, &[]).says("1.9.0");
}

#[test]
fn what_was_left_by_a_kill_while_looking_at_the_image_goes_with_the_next_down() {
    let engine = FakeEngine::start(Traits { version: None, ..Traits::default() });
    let sandbox = Sandbox::with_host(KPROV, &engine.host());
    let job = Job::start(&mut sandbox.kprov_command(&["up"]));
    while !engine.was_asked("/archive") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(job.kill().code, None);
    assert_ne!(engine.left(), [""; 0]);
    // There is no cluster yet, and `down` says so; but what there is goes.
    sandbox.kprov(&["down"]).fails().says("there is no cluster");
    assert_eq!(engine.left(), [""; 0]);
}
