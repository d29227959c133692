//! The seam between a walk and the world: what a walk needs of control planes, of what is stored, and of kprov's own record.
//!
//! Behind it are `live`, real nodes, and in tests a world in memory that can die at every step.

use zeroize::Zeroizing;

use crate::adapters::node::NodeError;
use crate::documents::encryption::{Config, Layout, Located};
use crate::documents::keys::KeyRing;
use crate::documents::profile::Kms;
use crate::documents::static_pod::StaticPod;
use crate::operations::api_server::Rejected;

use super::reload::Loaded;
use super::{EncryptionError, Scrubbed};

/// A control plane: its files, and its API server.
pub(super) trait Machine: Clone {
    /// The node's name.
    fn name(&self) -> &str;
    async fn is_running(&self) -> Result<bool, NodeError>;
    /// The Kubernetes version, as the image says.
    async fn version(&self) -> Result<String, NodeError>;
    async fn read(&self, path: &str) -> Result<Option<Zeroizing<Vec<u8>>>, NodeError>;
    /// Replaces a file at once, or makes it, readable by root alone; makes its folder.
    async fn write(&self, path: &str, content: &[u8]) -> Result<(), NodeError>;
    /// Removes a file; one that is not there is no error.
    async fn remove(&self, path: &str) -> Result<(), NodeError>;

    async fn manifest(&self) -> Result<StaticPod, NodeError>;
    /// See [`crate::operations::api_server::ApiServer::replace`]; these five are its.
    async fn replace(&self, to: &StaticPod, detail: impl FnMut(&str)) -> Result<Result<(), Rejected>, NodeError>;
    async fn put_back(&self, to: &StaticPod, detail: impl FnMut(&str)) -> Result<Result<(), Rejected>, NodeError>;
    async fn commit(&self) -> Result<(), NodeError>;
    async fn wake(&self) -> Result<(), NodeError>;
    /// See [`crate::operations::api_server::ApiServer::comes_back`].
    async fn comes_back(&self) -> Result<bool, NodeError>;
    async fn recover(&self, detail: impl FnMut(&str)) -> Result<Option<&'static str>, NodeError>;
    /// Whether the API server runs as the manifest says, and is ready.
    async fn runs(&self, manifest: &StaticPod) -> Result<bool, NodeError>;
    /// What the API server's metrics say of the configuration in `file`.
    async fn look(&self, port: &str, file: &str) -> Result<Loaded, NodeError>;
    /// Whether the API server was started well after `file` was written.
    async fn started_after(&self, file: &str) -> Result<bool, NodeError>;
    /// The API server's own last lines on its configuration.
    async fn words(&self) -> String;
    /// What is wrong with kprov's KMS plugin there, or with its KMS; `None` if they work.
    async fn kms_problem(&self) -> Result<Option<String>, NodeError>;
    /// Takes kprov's KMS plugin away, with all that it has there; that there is none is no error.
    async fn remove_plugin(&self) -> Result<(), NodeError>;
}

/// What is stored, seen raw and through the API.
pub(super) trait Storage {
    /// Where everything lies below `root`.
    async fn layout(&self, root: &str) -> Result<Layout, EncryptionError>;
    /// Calls `visit` with every key that starts with `prefix` and the first bytes of its value, as
    /// [`crate::documents::stored::Stored`] shows them.
    async fn scan(&self, prefix: &str, visit: impl FnMut(&str, &str)) -> Result<(), EncryptionError>;
    /// Has the API write an object again as it is.
    async fn touch(&self, resource: &Located, key: &str) -> Result<(), EncryptionError>;
    /// Writes a text into etcd in the clear, beside all that the API server keeps.
    async fn plant(&self, text: &str) -> Result<(), EncryptionError>;
    /// Deletes that text again; that it is gone already is no error.
    async fn uproot(&self) -> Result<(), EncryptionError>;
    /// Has every member of etcd forget old revisions and give free pages back, and looks for `texts` in its files, before
    /// and after.
    async fn scrub(&self, texts: &[String]) -> Result<Vec<Scrubbed>, EncryptionError>;
    /// The segment of its log that the member of etcd on a node writes to.
    async fn last_log(&self, node: &str) -> Result<String, EncryptionError>;
    /// Has the member of etcd on a node begin a new write-ahead log and drop all up to the segment `last`, once all members
    /// are well. Its API server is away meanwhile, and comes back behind it. An error says why that could not be done; etcd
    /// runs as before then.
    async fn renew_log(&self, node: &str, last: &str) -> Result<(), EncryptionError>;
    /// The files of the member of etcd on a node that hold any of `texts`.
    async fn files_with(&self, node: &str, texts: &[String]) -> Result<Vec<String>, EncryptionError>;
}

/// What kprov keeps of the cluster on this host.
pub(super) trait Books {
    /// The keys that it knows; none if it has not made the cluster.
    fn keys(&self) -> Result<KeyRing, EncryptionError>;
    /// Brings the record up to date, if there is one: what `verify` expects, and what `reset` makes again.
    /// `kms` is the KMS that a walk has led to.
    fn record(&self, config: Option<&Config>, kms: Option<&Kms>) -> Result<(), EncryptionError>;
}
