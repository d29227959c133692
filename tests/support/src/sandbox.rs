//! A place to run `kprov` in: folders, kubeconfig and cluster name of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::IMAGE_VARIABLE;
use crate::engine::Engine;
use crate::job::Job;
use crate::run::Run;

/// Where nothing listens.
const NO_ENGINE: &str = "unix:///nonexistent/docker.sock";

/// Variables of the surroundings that programs in a sandbox get to see.
const KEPT: [&str; 6] =
    ["PATH", "DOCKER_HOST", "KPROV_LOAD_BALANCER_IMAGE", "KPROV_OPENBAO", "TMPDIR", "LLVM_PROFILE_FILE"];

/// Folders, kubeconfig and cluster name of one test. Removed when dropped, with all that a failed test has left.
#[derive(Debug)]
pub struct Sandbox {
    kprov: PathBuf,
    folder: TempDir,
    /// The cluster's name.
    pub cluster: String,
    engine: Option<Engine>,
    host: Option<String>,
}

impl Sandbox {
    /// A sandbox for `kprov`, the program's path, from which no engine can be reached.
    ///
    /// # Panics
    /// If there is no room for its folders.
    #[must_use]
    pub fn without_engine(kprov: &str) -> Self {
        Self::with_host(kprov, NO_ENGINE)
    }

    /// A sandbox whose `DOCKER_HOST` is `host`.
    ///
    /// # Panics
    /// If there is no room for its folders.
    #[must_use]
    pub fn with_host(kprov: &str, host: &str) -> Self {
        let mut sandbox = Self::new(kprov, "none", None);
        sandbox.host = Some(host.to_owned());
        sandbox
    }

    /// A sandbox on the real engine, for itself. `name` becomes part of the cluster's name.
    ///
    /// # Panics
    /// If there is no engine, or no room.
    #[must_use]
    pub fn on_engine(kprov: &str, name: &str) -> Self {
        let sandbox = Self::new(kprov, name, Some(Engine::take()));
        assert_eq!(sandbox.left(), [""; 0], "left by somebody else");
        sandbox
    }

    fn new(kprov: &str, name: &str, engine: Option<Engine>) -> Self {
        let folder = tempfile::Builder::new().prefix("kprov-test-").tempdir().expect("a temporary folder");
        Self {
            kprov: kprov.into(),
            folder,
            // Two runs of the tests may share an engine.
            cluster: format!("e2e-{name}-{}", std::process::id()),
            engine,
            host: None,
        }
    }

    /// The node image of the tests.
    ///
    /// # Panics
    /// If `cargo xtask test` did not say.
    #[must_use]
    pub fn image() -> String {
        std::env::var(IMAGE_VARIABLE).unwrap_or_else(|_| panic!("{IMAGE_VARIABLE} is not set: run `cargo xtask test`"))
    }

    /// The engine.
    ///
    /// # Panics
    /// If this sandbox has none.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("a sandbox on an engine")
    }

    /// The folder in which programs run.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The kubeconfig file.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.path().join("kubeconfig")
    }

    /// kprov's folder of data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path().join("data/kprov")
    }

    /// Writes a file into the sandbox's folder and gives its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(self.path())).expect("a folder");
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// A command in the sandbox.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path()).env_clear();
        command.envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
            .env("HOME", self.path())
            .env("XDG_DATA_HOME", self.path().join("data"))
            .env("XDG_CONFIG_HOME", self.path().join("config"))
            .env("KUBECONFIG", self.kubeconfig());
        if let Some(host) = &self.host {
            command.env("DOCKER_HOST", host);
        }
        command
    }

    /// `kprov` in the sandbox.
    #[must_use]
    pub fn kprov_command(&self, arguments: &[&str]) -> Command {
        self.command(&self.kprov, arguments)
    }

    /// Runs `kprov` to its end.
    #[must_use]
    pub fn kprov(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.kprov_command(arguments))
    }

    /// The command line of `kprov up` for the sandbox's cluster, with the tests' image.
    #[must_use]
    pub fn up_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.kprov_command(&["up", "--name", &self.cluster, "--image", &Self::image()]);
        command.args(arguments);
        command
    }

    /// Runs `kprov up` for the sandbox's cluster.
    #[must_use]
    pub fn up(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.up_command(arguments))
    }

    /// Starts `kprov up -o json` for the sandbox's cluster.
    #[must_use]
    pub fn start_up(&self, arguments: &[&str]) -> Job {
        Job::start(self.up_command(arguments).args(["-o", "json"]))
    }

    /// Runs the real kind.
    #[must_use]
    pub fn kind(&self, arguments: &[&str]) -> Run {
        Run::of(&mut self.kind_command(arguments))
    }

    /// A command of the real kind.
    #[must_use]
    pub fn kind_command(&self, arguments: &[&str]) -> Command {
        self.command(std::env::var_os("KPROV_KIND").unwrap_or_else(|| "kind".into()), arguments)
    }

    /// The name of one of the cluster's nodes: `control-plane`, `worker2` and so on behind the cluster's own.
    #[must_use]
    pub fn node(&self, role: &str) -> String {
        format!("{}-{role}", self.cluster)
    }

    /// Runs kubectl on a control plane, which asks its own API server, past any load balancer.
    #[must_use]
    pub fn own_kubectl(&self, role: &str, arguments: &[&str]) -> Run {
        let own = ["exec", &self.node(role), "--", "kubectl", "--server=https://127.0.0.1:6443"];
        let admin = ["--kubeconfig=/etc/kubernetes/admin.conf", "--tls-server-name=kubernetes.default"];
        self.kprov(&[&own[..], &admin, arguments].concat())
    }

    /// Holds that each of these control planes reads all Secrets, and what the first one has just written.
    ///
    /// # Panics
    /// If one of them does not.
    pub fn assert_secrets_are_read(&self, control_planes: &[&str]) {
        let literal = "--from-literal=password=mypassword";
        self.own_kubectl(control_planes[0], &["create", "secret", "generic", "read-by-all", literal]).done();
        for role in control_planes {
            let all = self.own_kubectl(role, &["get", "secrets", "--all-namespaces", "-o", "yaml"]).ok();
            // "mypassword", as the API shows it.
            assert!(all.stdout.contains("bXlwYXNzd29yZA=="), "{role}: {all}");
        }
    }

    /// What is left of the sandbox's cluster, a line each: on the engine, in the kubeconfig, in kprov's folder.
    ///
    /// # Panics
    /// If the engine does not answer.
    #[must_use]
    pub fn left(&self) -> Vec<String> {
        let mut left = self.engine.as_ref().map(|engine| engine.left(&self.cluster)).unwrap_or_default();
        let kubeconfig = std::fs::read_to_string(self.kubeconfig()).unwrap_or_default();
        if kubeconfig.contains(&format!("kind-{}", self.cluster)) {
            left.push(format!("an entry in the kubeconfig:\n{kubeconfig}"));
        }
        for entry in std::fs::read_dir(self.data().join("clusters")).into_iter().flatten().flatten() {
            // The lock of the network is nobody's own.
            if entry.file_name() != ".network.lock" {
                left.push(entry.path().display().to_string());
            }
        }
        left
    }

    /// Holds that nothing is left.
    ///
    /// # Panics
    /// If something is.
    #[track_caller]
    pub fn assert_clean(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left behind:\n{}", left.join("\n"));
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(engine) = &self.engine
            && std::thread::panicking()
        {
            engine.clean(&self.cluster);
        }
    }
}
