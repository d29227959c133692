//! What only a real engine can find wrong. Clusters that fail while Kubernetes starts are among the end-to-end tests.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use test_support::{Run, Sandbox};

use super::KPROV;

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_image_that_does_not_exist() {
    let sandbox = Sandbox::on_engine(KPROV, "image");
    // Where no registry listens.
    sandbox
        .kprov(&["up", "--name", &sandbox.cluster, "--image", "localhost:1/kprov/none:1"])
        .fails()
        .says("the image localhost:1/kprov/none:1 is not on the engine and could not be pulled");
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_image_that_is_no_node_image() {
    let sandbox = Sandbox::on_engine(KPROV, "image");
    let image = format!("kprov/no-node:{}", std::process::id());
    sandbox.write("file", "not much");
    let mut archive = Command::new("tar")
        .args(["--create", "--directory"])
        .arg(sandbox.path())
        .arg("file")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let content = archive.stdout.take().unwrap();
    Run::of(Command::new("docker").args(["import", "-", &image]).stdin(content)).done();
    archive.wait().unwrap();
    let run = sandbox.kprov(&["up", "--name", &sandbox.cluster, "--image", &image]);
    sandbox.engine().docker(&["image", "rm", &image]).done();
    run.fails().says(&format!("{image} is no kind node image: it has no /kind/version"));
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_port_of_the_api_server_that_is_taken() {
    let sandbox = Sandbox::on_engine(KPROV, "port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    sandbox
        .up(&["--set", &format!("networking.apiServerPort={port}")])
        .fails()
        .says("a host port that the API server needs is taken")
        .says(&port.to_string());
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_published_port_that_is_taken() {
    let sandbox = Sandbox::on_engine(KPROV, "port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let ports = format!("nodes[0].ports=[{{containerPort: 80, hostPort: {port}, listenAddress: 127.0.0.1}}]");
    sandbox
        .up(&["--set", &ports])
        .fails()
        .says(&format!("a host port that {} needs is taken", sandbox.node("control-plane")))
        .says(&port.to_string());
    sandbox.assert_clean();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn a_key_that_does_not_fit_wherever_it_comes_from() {
    let sandbox = Sandbox::on_engine(KPROV, "key");
    sandbox.write("key", "c2hvcnQ=\n");
    let up = |source: &str| {
        let mut command = sandbox.up_command(&["--profile", "secure-two-node", "--set"]);
        command.arg(format!("encryption.providers[0].keys[0].source.{source}"));
        let run = Run::of(command.env("E2E_KEY", "hunter2 is no base64")).fails();
        sandbox.assert_clean();
        run
    };
    up("file=key").says("key \"key1\" has 5 bytes; aescbc takes 16, 24 or 32").never_says("c2hvcnQ");
    up("file=none").says("the file").says("could not be read");
    up("env=E2E_KEY").says("key \"key1\" is not valid base64").never_says("hunter2");
    up("env=E2E_NONE").says("the environment variable E2E_NONE, which is not set");
}
