//! Why the plugin cannot start, or cannot be asked. What a provider fails with while the plugin runs is
//! `provider::ProviderError`: that goes to the API server, never ends the plugin.

use std::path::PathBuf;

/// Why the plugin cannot start, or cannot be asked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum KmsError {
    /// A file could not be read.
    #[error("{path} could not be read: {error}", path = path.display())]
    #[diagnostic(code(kprov::kms::file))]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A file that holds or names secrets is open to others.
    #[error("{path} {problem}", path = path.display())]
    #[diagnostic(
        code(kprov::kms::file_mode),
        help("make it a regular file of the user that runs the plugin, or root's, with mode 600: chmod 600 {path}", path = path.display())
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The environment variable is not set.
    #[error("the environment variable {0} is not set")]
    #[diagnostic(code(kprov::kms::variable))]
    Variable(String),
    /// A secret's file or variable is there, and holds nothing.
    #[error("{0} is empty")]
    #[diagnostic(code(kprov::kms::empty), help("a secret is expected there"))]
    Empty(String),
    /// A file's content makes no sense. It is not repeated: it may be secret.
    #[error("{path}: {reason}", path = path.display())]
    #[diagnostic(code(kprov::kms::config))]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The socket's folder would let others in.
    #[error("the socket's folder {path} {problem}", path = path.display())]
    #[diagnostic(
        code(kprov::kms::folder),
        help(
            "whoever can reach the socket can unwrap every key: make it a folder of mode 700 that belongs to root or to the plugin's user"
        )
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else serves there.
    #[error("another plugin answers at {path}", path = path.display())]
    #[diagnostic(code(kprov::kms::in_use), help("stop it first, or choose another path with --socket"))]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The socket could not be made.
    #[error("the socket {path} could not be made: {error}", path = path.display())]
    #[diagnostic(code(kprov::kms::socket))]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The provider cannot be set up from this configuration.
    #[error("the provider cannot be set up: {0}")]
    #[diagnostic(code(kprov::kms::provider))]
    Provider(String),
    /// A token's module cannot be loaded.
    #[error("the PKCS#11 module {path} cannot be loaded: {reason}", path = path.display())]
    #[diagnostic(
        code(kprov::kms::module),
        help(
            "it is a shared library that comes with the token, such as SoftHSM2's libsofthsm2.so, for the system that the plugin runs on"
        )
    )]
    Module {
        /// The module.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The plugin could not be asked.
    #[error("the plugin at {path} does not answer: {reason}", path = path.display())]
    #[diagnostic(
        code(kprov::kms::no_answer),
        help("is it running? `systemctl status`, or start it with `kprov kms serve`")
    )]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The plugin answers, and what it answers is wrong.
    #[error("the plugin at {path} is at fault: {problem}", path = path.display())]
    #[diagnostic(
        code(kprov::kms::wrong),
        help("an API server could not read by this plugin what it has written: do not use it")
    )]
    Wrong {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}
