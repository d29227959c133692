//! An OpenBao of somebody else's: a server on this host, which clusters reach by the engine's own bridge.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::run::Run;

/// The variable that names the program `bao`; `cargo xtask` sets it.
const PROGRAM: &str = "KPROV_OPENBAO";

/// The name in the server's certificate.
const NAME: &str = "localhost";

/// A server in memory, with TLS by a CA of its own. Ends when dropped.
#[derive(Debug)]
pub struct OpenBao {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl OpenBao {
    /// Starts one at all addresses of this host, with a transit key and a policy that allows to use it, both called `team`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start() -> Self {
        let program = std::env::var_os(PROGRAM).unwrap_or_else(|| panic!("{PROGRAM} is not set: run `cargo xtask`"));
        let folder = tempfile::Builder::new()
            .prefix("kprov-test-bao-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .expect("a temporary folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let token = folder.path().join("token");
        let mut random = [0_u8; 16];
        std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").expect("random bytes"), &mut random)
            .expect("random bytes");
        let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&token, &text).expect("a file");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        let child = Command::new(program)
            .args(["server", "-dev", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-listen-address=0.0.0.0:{port}"))
            .arg(format!("-dev-tls-cert-dir={}", folder.path().display()))
            .env("BAO_DEV_ROOT_TOKEN_ID", &text)
            .env("HOME", folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bao starts");
        let bao = Self { child, folder, port };
        let begun = Instant::now();
        while bao.run(&["secrets", "enable", "transit"]).code != Some(0) {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}", bao.run(&["status"]));
            std::thread::sleep(Duration::from_millis(100));
        }
        bao.run(&["write", "-f", "transit/keys/team"]).done();
        let policy = "path \"transit/encrypt/team\" { capabilities = [\"update\"] }\n\
                      path \"transit/decrypt/team\" { capabilities = [\"update\"] }\n\
                      path \"transit/keys/team\" { capabilities = [\"read\"] }\n";
        let file = bao.write("team.hcl", policy);
        bao.run(&["policy", "write", "team", &file.display().to_string()]).done();
        bao
    }

    /// Runs `bao` as who may do everything.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Run {
        let token = std::fs::read_to_string(self.token_file()).expect("the token");
        let program = std::env::var_os(PROGRAM).expect("it was there");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("BAO_ADDR", self.address_at("127.0.0.1"))
            .env("BAO_CACERT", self.ca())
            .env("BAO_TLS_SERVER_NAME", NAME)
            .env("BAO_TOKEN", token)
            .env("HOME", self.folder.path());
        Run::of(&mut command)
    }

    /// Its address, at one of this host's.
    #[must_use]
    pub fn address_at(&self, host: &str) -> String {
        format!("https://{host}:{}", self.port)
    }

    /// The name in its certificate.
    #[must_use]
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// Its CA's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        ["bao-ca.pem", "vault-ca.pem"]
            .map(|name| self.folder.path().join(name))
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| self.folder.path().join("bao-ca.pem"))
    }

    /// The token of who may do everything, in a private file.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// Sends it a signal: `STOP` makes it a server that takes connections and says nothing, until `CONT`.
    ///
    /// # Panics
    /// If it cannot be sent.
    pub fn signal(&self, signal: &str) {
        Run::of(Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string())).done();
    }

    /// What it shows to clients: its CA's certificate, its own, and the key to that, in PEM.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn shown(&self) -> [String; 3] {
        self.identity().map(|path| std::fs::read_to_string(path).expect("a file of the server's"))
    }

    /// Has it show these from the next connection on.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn show(&self, identity: &[String; 3]) {
        for (path, text) in self.identity().into_iter().zip(identity) {
            std::fs::write(path, text).expect("a file of the server's");
        }
        self.signal("HUP");
    }

    fn identity(&self) -> [PathBuf; 3] {
        let ca = self.ca();
        let of = |part: &str| {
            let name = ca.file_name().and_then(|name| name.to_str()).expect("a name").replace("ca.pem", part);
            ca.with_file_name(name)
        };
        [of("ca.pem"), of("cert.pem"), of("key.pem")]
    }

    /// Writes a private file beside its own.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        // It has ended by itself, or does now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
