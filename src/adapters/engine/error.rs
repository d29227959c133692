//! What can go wrong between kprov and the engine, and what to do about it.

use std::io::ErrorKind;

use bollard::errors::Error as BollardError;

use super::Engine;

/// A failed conversation with the engine.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum EngineError {
    /// Nothing listens at the engine's address.
    #[error("no Docker Engine answers at {host}: {reason}")]
    #[diagnostic(
        code(kprov::engine::unreachable),
        help(
            "start Docker (`systemctl start docker`, or Docker Desktop), or point DOCKER_HOST at an engine that runs; `kprov doctor` checks. By ssh, `ssh HOST docker version` has to work without a question"
        )
    )]
    Unreachable {
        /// The address that was tried.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// The socket exists, but not for this user.
    #[error("no permission to talk to the Docker Engine at {host}")]
    #[diagnostic(
        code(kprov::engine::permission),
        help(
            "add yourself to the group that owns the socket (`sudo usermod -aG docker $USER`, then log in again), or run as a user who may use it"
        )
    )]
    Permission {
        /// The address that was tried.
        host: String,
    },
    /// The address is of no kind that kprov knows.
    #[error("{host:?} is not an address of a Docker Engine: {reason}")]
    #[diagnostic(
        code(kprov::engine::address),
        help(
            "DOCKER_HOST takes unix:///path/to/docker.sock, ssh://USER@HOST or tcp://HOST:PORT; with DOCKER_TLS_VERIFY=1, the certificates in DOCKER_CERT_PATH are used"
        )
    )]
    Address {
        /// The address as given.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The docker context that was chosen is not there.
    #[error("there is no docker context called {name:?}; there are: default{}", known.iter().map(|name| format!(", {name}")).collect::<String>())]
    #[diagnostic(
        code(kprov::engine::context),
        help("DOCKER_CONTEXT or `docker context use` chooses one; `docker context ls` lists them")
    )]
    Context {
        /// Its name.
        name: String,
        /// Those that there are, beside the default one.
        known: Vec<String>,
    },
    /// The engine lacks something that nodes need.
    #[error("the Docker Engine at {host} is too old: its API is {found}, kprov needs {needed}")]
    #[diagnostic(code(kprov::engine::too_old), help("update to Docker Engine 20.10 or later"))]
    TooOld {
        /// The engine's address.
        host: String,
        /// Its highest API version.
        found: String,
        /// The lowest that will do.
        needed: &'static str,
    },
    /// Nodes are privileged containers, and this engine starts none.
    #[error("the engine at {host} cannot run privileged containers: {reason}")]
    #[diagnostic(
        code(kprov::engine::not_privileged),
        help(
            "kind nodes need privileged containers. If the host itself is a container or sandbox without all capabilities, Docker Engine 23 or later takes those that are there; a rootless engine needs cgroup v2 with delegation"
        )
    )]
    NotPrivileged {
        /// The engine's address.
        host: String,
        /// What the engine said.
        reason: String,
    },
    /// A host port is in use.
    #[error("a host port that {container} needs is taken: {reason}")]
    #[diagnostic(
        code(kprov::engine::port_taken),
        help(
            "free the port, or choose another one in the profile (`hostPort`, `networking.apiServerPort`); 0 takes a free one"
        )
    )]
    PortTaken {
        /// The container that needs it.
        container: String,
        /// What the engine said.
        reason: String,
    },
    /// The engine's disk is full.
    #[error("the engine's disk is full, seen while {doing}: {reason}")]
    #[diagnostic(code(kprov::engine::disk_full), help("free some space: `docker system df` shows what uses it"))]
    DiskFull {
        /// What was being done.
        doing: String,
        /// What the engine said.
        reason: String,
    },
    /// There is no such image, here or in its registry.
    #[error("the image {reference} is not on the engine and could not be pulled: {reason}")]
    #[diagnostic(
        code(kprov::engine::no_image),
        help("check the name; without a network, load the image first (`docker load`)")
    )]
    NoImage {
        /// The image's reference.
        reference: String,
        /// What the engine or the registry said.
        reason: String,
    },
    /// The thing that was asked for is not there.
    #[error("{doing}: not found: {reason}")]
    #[diagnostic(code(kprov::engine::not_found))]
    NotFound {
        /// What was being done.
        doing: String,
        /// What the engine said.
        reason: String,
    },
    /// The name is taken, or the thing is in a state that forbids it.
    #[error("{doing}: {reason}")]
    #[diagnostic(code(kprov::engine::conflict))]
    Conflict {
        /// What was being done.
        doing: String,
        /// What the engine said.
        reason: String,
    },
    /// A command was to be run in a container that does not run, or stands still.
    #[error("{doing}: {reason}")]
    #[diagnostic(
        code(kprov::engine::not_running),
        help(
            "if it is a node of a cluster that was stopped, `kprov start` lets the cluster go on as it was; `docker logs {container}` says why one has ended by itself"
        )
    )]
    NotRunning {
        /// The container.
        container: String,
        /// What was being done.
        doing: String,
        /// What the engine said.
        reason: String,
    },
    /// A container was killed, and has not ended.
    #[error("{doing} failed: {reason}")]
    #[diagnostic(
        code(kprov::engine::does_not_end),
        help(
            "where there is cgroup v1, what stands still (is frozen) cannot end. As root on the engine's host, this lets it go on: find /sys/fs/cgroup/freezer -path '*{container}*' -name freezer.state -exec sh -c 'echo THAWED > \"$0\"' {{}} \\;"
        )
    )]
    DoesNotEnd {
        /// The container.
        container: String,
        /// What was being done.
        doing: String,
        /// What the engine said.
        reason: String,
    },
    /// A file in a container, or what a command prints there, is larger than any of its kind.
    #[error("{path} in {container} has more than {} MiB, and is not read", most >> 20)]
    #[diagnostic(code(kprov::engine::large), help("look at it: nothing that kprov reads there is so large by itself"))]
    Large {
        /// The file, or what else is read.
        path: String,
        /// The container.
        container: String,
        /// How many bytes are read at most.
        most: usize,
    },
    /// Anything else.
    #[error("{doing} failed: {reason}")]
    #[diagnostic(code(kprov::engine::failed))]
    Failed {
        /// What was being done.
        doing: String,
        /// What the engine said.
        reason: String,
    },
}

impl EngineError {
    /// Whether this says that the thing does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

impl Engine {
    /// Turns bollard's error into ours. `doing` is what was tried, in the words of a user.
    pub(super) fn error(&self, doing: impl Into<String>, error: BollardError) -> EngineError {
        classify(&self.host, doing.into(), error)
    }

    /// The same of a container that is to end. Nothing but dockerd's text says that it was killed and goes on.
    pub(super) fn ending_error(&self, container: &str, doing: String, error: BollardError) -> EngineError {
        match self.error(doing, error) {
            EngineError::Failed { doing, reason } if reason.contains("did not receive an exit event") => {
                EngineError::DoesNotEnd { container: container.to_owned(), doing, reason }
            }
            other => other,
        }
    }
}

/// Sorts an error by what it is. Of the engine's own answers, most have no other mark than dockerd's and runc's texts.
pub(super) fn classify(host: &str, doing: String, error: BollardError) -> EngineError {
    let host = host.to_owned();
    match error {
        BollardError::DockerResponseServerError { status_code, message } => {
            let reason = message.trim().to_owned();
            if reason.contains("no space left on device") {
                EngineError::DiskFull { doing, reason }
            } else if reason.contains("unable to apply caps")
                || reason.contains("privileged mode is incompatible")
                || reason.contains("operation not permitted") && reason.contains("OCI runtime create failed")
            {
                EngineError::NotPrivileged { host, reason }
            } else if is_port_conflict(&reason) {
                EngineError::PortTaken { container: doing, reason }
            } else {
                match status_code {
                    404 => EngineError::NotFound { doing, reason },
                    409 => EngineError::Conflict { doing, reason },
                    _ => EngineError::Failed { doing, reason },
                }
            }
        }
        other => {
            let reason = chain(&other);
            match io_kind(&other) {
                // Elsewhere it is not the socket's: ssh says so, too, of a key that it does not know.
                Some(ErrorKind::PermissionDenied) if host.starts_with("unix://") => EngineError::Permission { host },
                Some(ErrorKind::ConnectionRefused | ErrorKind::NotFound) => EngineError::Unreachable { host, reason },
                _ if is_connect(&other) => EngineError::Unreachable { host, reason },
                _ => EngineError::Failed { doing, reason },
            }
        }
    }
}

/// Whether no connection came about.
fn is_connect(error: &BollardError) -> bool {
    match error {
        BollardError::RequestTimeoutError => true,
        BollardError::HyperLegacyError { err } => err.is_connect(),
        _ => false,
    }
}

/// What the system said, if it was the system.
fn io_kind(error: &BollardError) -> Option<ErrorKind> {
    if let BollardError::IOError { err } = error {
        return Some(err.kind());
    }
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = inner.source();
    }
    None
}

fn is_port_conflict(reason: &str) -> bool {
    reason.contains("port is already allocated")
        || reason.contains("address already in use")
        || reason.contains("Ports are not available")
}

/// An error with its causes: hyper's outermost texts say nothing of the reason.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status_code: u16, message: &str) -> EngineError {
        let error = BollardError::DockerResponseServerError { status_code, message: message.to_owned() };
        classify("unix:///s", "starting a".to_owned(), error)
    }

    #[test]
    fn answers_of_the_engine_are_told_apart() {
        assert!(matches!(
            answer(500, "driver failed: Bind for 0.0.0.0:80 failed: port is already allocated"),
            EngineError::PortTaken { .. }
        ));
        assert!(matches!(
            answer(500, "runc create failed: unable to apply caps: operation not permitted"),
            EngineError::NotPrivileged { .. }
        ));
        assert!(matches!(answer(500, "write /x: no space left on device"), EngineError::DiskFull { .. }));
        assert!(answer(404, "No such container: a").is_not_found());
        assert!(matches!(answer(409, "name in use"), EngineError::Conflict { .. }));
        assert!(matches!(answer(500, "boom"), EngineError::Failed { .. }));
    }

    #[test]
    fn a_socket_without_permission_is_no_missing_engine() {
        let io = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        assert!(matches!(classify("unix:///s", String::new(), BollardError::from(io)), EngineError::Permission { .. }));
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(matches!(
            classify("unix:///s", String::new(), BollardError::from(io)),
            EngineError::Unreachable { .. }
        ));
    }
}
