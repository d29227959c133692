//! The real engine, seen through the docker command, so that kprov's own view of it is not what it is judged by.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::run::Run;

const LABEL_CLUSTER: &str = "io.x-k8s.kind.cluster";
const LABEL_SERVER: &str = "dev.kprov.server-of";
const NETWORK: &str = "kind";

/// Clusters are heavy: one test at a time has the engine.
static TURN: Mutex<()> = Mutex::new(());

/// The network of kprov's own making. One that the real kind made is left to it: kind never removes its own.
const OURS: &str = "label=dev.kprov.owner=kprov";

/// The engine, with what was on it when a test began.
#[derive(Debug)]
pub struct Engine {
    network: Option<String>,
    dangling: BTreeSet<String>,
    _turn: MutexGuard<'static, ()>,
}

impl Engine {
    /// Waits for the test's turn, then looks at the engine.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn take() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self { network: network(), dangling: dangling_volumes(), _turn: turn }
    }

    /// Runs the docker command.
    #[must_use]
    pub fn docker(&self, arguments: &[&str]) -> Run {
        docker(arguments)
    }

    /// The names of a cluster's containers.
    ///
    /// # Panics
    /// If the engine does not answer.
    #[must_use]
    pub fn containers(&self, cluster: &str) -> Vec<String> {
        let filter = format!("label={LABEL_CLUSTER}={cluster}");
        lines(&docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]).ok().stdout)
    }

    /// What is on the engine that was not there at the beginning and is not somebody else's, a line each.
    ///
    /// # Panics
    /// If the engine does not answer.
    #[must_use]
    pub fn left(&self, cluster: &str) -> Vec<String> {
        // Other people's volumes are on their way out for a moment after their containers are gone.
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.left_now(cluster);
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn left_now(&self, cluster: &str) -> Vec<String> {
        let mut left: Vec<String> = self
            .containers(cluster)
            .into_iter()
            .chain(servers(cluster))
            .map(|name| format!("container {name}"))
            .collect();
        let probes =
            lines(&docker(&["ps", "--all", "--filter", "name=^kprov-probe-", "--format", "{{.Names}}"]).ok().stdout);
        left.extend(probes.into_iter().map(|name| format!("container {name}")));
        left.extend(dangling_volumes().difference(&self.dangling).map(|name| format!("volume {name}")));
        if let Some(id) = network()
            && self.network.as_ref() != Some(&id)
            && lines(&docker(&["ps", "--all", "--quiet", "--filter", &format!("network={id}")]).ok().stdout).is_empty()
        {
            left.push(format!("network {NETWORK}"));
        }
        left
    }

    /// Removes what a test that failed has left.
    pub(crate) fn clean(&self, cluster: &str) {
        for name in self.containers(cluster).into_iter().chain(servers(cluster)) {
            let _ = docker(&["rm", "--force", "--volumes", &name]);
        }
        if self.network.is_none() && network().is_some() {
            // Refused if somebody uses it by now.
            let _ = docker(&["network", "rm", NETWORK]);
        }
    }
}

fn docker(arguments: &[&str]) -> Run {
    Run::of(Command::new("docker").args(arguments))
}

/// The server beside a cluster, if it has one.
fn servers(cluster: &str) -> Vec<String> {
    let filter = format!("label={LABEL_SERVER}={cluster}");
    lines(&docker(&["ps", "--all", "--filter", &filter, "--format", "{{.Names}}"]).ok().stdout)
}

fn network() -> Option<String> {
    let filter = format!("name=^{NETWORK}$");
    let command = ["network", "ls", "--no-trunc", "--filter", &filter, "--filter", OURS, "--format", "{{.ID}}"];
    lines(&docker(&command).ok().stdout).pop()
}

fn dangling_volumes() -> BTreeSet<String> {
    lines(&docker(&["volume", "ls", "--quiet", "--filter", "dangling=true"]).ok().stdout).into_iter().collect()
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
