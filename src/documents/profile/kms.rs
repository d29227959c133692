//! A KMS provider, as a profile names it: the plugin, what holds its key-encryption key, and how it logs in there.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::documents::keys::KmsProtocol;

use super::KeySource;

/// A KMS plugin on every control plane, and what holds its key-encryption key: exactly one of `local`, `vault`, `server`,
/// `host` and `endpoint`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kms {
    /// The provider's name, stored with every value that it encrypts.
    #[serde(default = "provider_name")]
    pub name: String,
    /// For how many seconds an API server waits for the plugin.
    #[serde(default = "timeout")]
    #[schemars(range(min = 1, max = 60))]
    pub timeout_seconds: u32,
    /// The protocol. Default: `v2` from Kubernetes 1.27, `v1` before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<KmsProtocol>,
    /// A key on the control planes themselves: for learning the protocol. It protects from nothing that a key in the
    /// EncryptionConfiguration would not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalKms>,
    /// The transit engine of a Vault or OpenBao that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault: Option<VaultKms>,
    /// A server that kprov runs beside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<KmsServer>,
    /// Another image for that server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_image: Option<String>,
    /// kprov's plugin on the engine's host, where it has what does not come into nodes, such as an HSM: the folder of its socket
    /// there, which is `kms.sock`. Starting it is your part: `kprov kms serve --socket FOLDER/kms.sock --config FILE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// A foreign plugin's socket on the control planes, `unix:///folder/name`. Starting it is your part, such as by a static
    /// pod that is mounted into the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

fn provider_name() -> String {
    "kprov".to_owned()
}

fn timeout() -> u32 {
    3
}

/// A key-encryption key on the control planes themselves.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LocalKms {
    /// Where the key comes from: 32 bytes. Default: generated for this cluster.
    pub key: KeySource,
}

/// A key in the transit engine of Vault or OpenBao.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VaultKms {
    /// The server, such as `https://vault.example:8200`.
    pub address: String,
    /// A file with the certificates that may have signed the server's, in PEM; a relative path starts at the profile's folder.
    pub ca: String,
    /// The name in the server's certificate, if not the address's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Where the transit engine is mounted.
    #[serde(default = "transit")]
    pub mount: String,
    /// The transit key's name.
    pub key: String,
    /// How the plugin logs in.
    pub auth: VaultAuth,
}

fn transit() -> String {
    "transit".to_owned()
}

/// A way to log in to Vault or OpenBao. What is secret is in files or the environment; it gets to a root-only file on the
/// control planes, and nowhere else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VaultAuth {
    /// By an AppRole.
    AppRole(AppRole),
    /// By a token, which has to be renewable to last.
    Token(SecretSource),
    /// By a client certificate.
    Certificate(ClientCertificate),
}

/// An AppRole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AppRole {
    /// Where the auth method is mounted. Default: `approle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// The role's id.
    pub role_id: SecretSource,
    /// The secret id.
    pub secret_id: SecretSource,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// Where the auth method is mounted. Default: `cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<String>,
    /// The role to log in as. Default: whichever fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// A file with the certificate, in PEM.
    pub certificate: String,
    /// Its key, in PEM.
    pub key: SecretSource,
}

/// Where a secret comes from. A profile never holds one itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SecretSource {
    /// An environment variable of kprov's.
    Env(String),
    /// A file; a relative path starts at the profile's folder.
    File(String),
}

/// A server that kprov runs beside a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KmsServer {
    /// OpenBao, with Vault's API.
    Openbao,
}

/// What holds the key-encryption key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KmsHolder<'a> {
    /// A file on the control planes.
    Local(&'a LocalKms),
    /// A server that is there already.
    Vault(&'a VaultKms),
    /// A server that kprov runs beside the cluster.
    Server(KmsServer),
    /// kprov's plugin on the engine's host, whose socket is in this folder there.
    Host(&'a str),
    /// A foreign plugin, at this endpoint.
    Foreign(&'a str),
}

impl Kms {
    /// What holds the key-encryption key; a profile that has been checked names exactly one.
    #[must_use]
    pub fn holder(&self) -> Option<KmsHolder<'_>> {
        match (&self.local, &self.vault, self.server, &self.host, &self.endpoint) {
            (Some(local), None, None, None, None) => Some(KmsHolder::Local(local)),
            (None, Some(vault), None, None, None) => Some(KmsHolder::Vault(vault)),
            (None, None, Some(server), None, None) => Some(KmsHolder::Server(server)),
            (None, None, None, Some(folder), None) => Some(KmsHolder::Host(folder)),
            (None, None, None, None, Some(endpoint)) => Some(KmsHolder::Foreign(endpoint)),
            _ => None,
        }
    }

    /// The same without a key that stands in the profile itself.
    #[must_use]
    pub fn without_secrets(&self) -> Self {
        let mut kms = self.clone();
        if let Some(local) = &mut kms.local
            && matches!(local.key, KeySource::Literal(_))
        {
            local.key = KeySource::Generate;
        }
        kms
    }

    /// Whether kprov's own plugin is what the API server asks.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.endpoint.is_none()
    }
}

impl super::Profile {
    /// The folder of the engine's host that control planes see, since a plugin there serves them.
    #[must_use]
    pub fn kms_on_host(&self) -> Option<&str> {
        match self.kms()?.holder()? {
            KmsHolder::Host(folder) => Some(folder),
            _ => None,
        }
    }
}

impl super::Encryption {
    /// The KMS provider, if there is one; a profile that has been checked has no two.
    #[must_use]
    pub fn kms(&self) -> Option<&Kms> {
        self.providers.iter().find_map(|provider| provider.kms.as_ref())
    }
}

impl super::Profile {
    /// The KMS provider, if there is one.
    #[must_use]
    pub fn kms(&self) -> Option<&Kms> {
        self.spec.encryption.as_ref()?.kms()
    }
}
