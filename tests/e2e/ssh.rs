//! An engine on another host, reached by ssh as the docker command does: here it is this host, by a server of the test's own.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use test_support::{Run, Sandbox};

use super::KPROV;

/// What the server is called in the ssh command's configuration.
const HOST: &str = "kprov-engine";

const SERVER: &str = "/usr/sbin/sshd";

/// An ssh server that knows one key, and an ssh command that knows the server. Ended when dropped.
struct Ssh {
    server: Child,
}

impl Ssh {
    fn start(folder: &Path) -> Self {
        for key in ["host", "user", "stranger"] {
            let path = folder.join(key);
            let arguments = ["-q", "-t", "ed25519", "-N", "", "-f"];
            Run::of(Command::new("ssh-keygen").args(arguments).arg(&path)).done();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let at = |name: &str| folder.join(name).display().to_string();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n",
            at("host"),
            at("user.pub")
        );
        std::fs::write(folder.join("sshd"), config).unwrap();
        // The real one, which looks for its files in the account's home, not in HOME.
        let program = format!("#!/bin/sh\nexec /usr/bin/ssh -F '{}' \"$@\"\n", at("client"));
        std::fs::create_dir(folder.join("bin")).unwrap();
        std::fs::write(folder.join("bin/ssh"), program).unwrap();
        std::fs::set_permissions(folder.join("bin/ssh"), std::fs::Permissions::from_mode(0o755)).unwrap();
        // As root, the server wants this folder.
        let _ = std::fs::create_dir_all("/run/sshd");
        let mut command = Command::new(SERVER);
        command.args(["-D", "-e", "-f"]).arg(folder.join("sshd")).stderr(Stdio::null());
        let ssh = Self { server: command.spawn().unwrap() };
        std::fs::write(folder.join("port"), port.to_string()).unwrap();
        use_key(folder, "user");
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the ssh server does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        ssh
    }

    fn kprov(&self, sandbox: &Sandbox, folder: &Path, arguments: &[&str]) -> Run {
        let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = sandbox.kprov_command(arguments);
        Run::of(command.env("PATH", path).env("DOCKER_HOST", format!("ssh://{HOST}")))
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Has the ssh command use one of the keys.
fn use_key(folder: &Path, name: &str) {
    let port = std::fs::read_to_string(folder.join("port")).unwrap();
    let config = format!(
        "Host {HOST}\nHostName 127.0.0.1\nPort {port}\nIdentityFile {}\nIdentitiesOnly yes\nIdentityAgent none\nUserKnownHostsFile {}\n",
        folder.join(name).display(),
        folder.join("known").display()
    );
    std::fs::write(folder.join("client"), config).unwrap();
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn an_engine_is_reached_by_ssh() {
    assert!(Path::new(SERVER).exists(), "there is no {SERVER} (Debian: openssh-server): nothing can be proven");
    let sandbox = Sandbox::on_engine(KPROV, "ssh");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let ssh = Ssh::start(folder);
    let image = Sandbox::image();
    let up = ["up", "--name", &sandbox.cluster, "--image", &image];
    ssh.kprov(&sandbox, folder, &up).done();
    ssh.kprov(&sandbox, folder, &["verify", &sandbox.cluster]).done();
    let node = sandbox.node("control-plane");
    assert_eq!(sandbox.engine().containers(&sandbox.cluster), [node.as_str()]);
    let run = ssh.kprov(&sandbox, folder, &["exec", &node, "--", "hostname"]).ok();
    assert_eq!(run.stdout.trim(), node);
    // Whom the server does not know is told so, and not to join a group.
    use_key(folder, "stranger");
    ssh.kprov(&sandbox, folder, &["ls"])
        .fails()
        .says("no Docker Engine answers at ssh://kprov-engine")
        .never_says("usermod");
    use_key(folder, "user");
    ssh.kprov(&sandbox, folder, &["down", &sandbox.cluster]).done();
    sandbox.assert_clean();
    // No ssh outlives its kprov for long.
    let deadline = Instant::now() + Duration::from_secs(30);
    while is_mentioned(folder) {
        assert!(Instant::now() < deadline, "an ssh command of kprov's is left");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Whether the command line of an ssh command mentions the client's configuration in the folder.
fn is_mentioned(folder: &Path) -> bool {
    let client = folder.join("client").display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let mut commands = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    commands.any(|command| String::from_utf8_lossy(&command).contains(&client))
}
