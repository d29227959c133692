//! The transit engine of HashiCorp Vault or OpenBao: the key-encryption key never leaves the server.
//!
//! Owns the calls of the transit engine and the key's id; `session` owns logging in, `api` owns HTTP and TLS.

mod api;
mod config;
mod session;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Method;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::super::KmsError;
use super::{Provider, ProviderError, Wrapped};
use api::{Api, ApiError};
use session::Session;

pub(crate) use config::Config;

/// A transit key.
pub(crate) struct Vault {
    session: Arc<Session>,
    namespace: String,
    mount: String,
    key: String,
    /// The creation of each version that the server told last.
    versions: Mutex<BTreeMap<u64, String>>,
}

#[derive(Deserialize)]
struct KeyAnswer {
    latest_version: u64,
    keys: BTreeMap<u64, Value>,
}

#[derive(Deserialize)]
struct EncryptAnswer {
    ciphertext: String,
}

#[derive(Deserialize)]
struct DecryptAnswer {
    plaintext: Zeroizing<String>,
}

impl Vault {
    /// Sets the connection up and starts to keep the login alive. The server may be away.
    ///
    /// # Errors
    /// [`KmsError`] if the CA or the client certificate cannot be read, or make no sense.
    pub(crate) fn start(config: &Config) -> Result<Arc<Self>, KmsError> {
        let session = Arc::new(Session::new(Api::new(config)?, config.login.method()));
        // Ends with the runtime, or with the provider.
        tokio::spawn(session::keep(Arc::downgrade(&session)));
        Ok(Arc::new(Self {
            session,
            namespace: config.namespace.clone().unwrap_or_default(),
            mount: config.mount.clone(),
            key: config.key.clone(),
            versions: Mutex::new(BTreeMap::new()),
        }))
    }

    async fn latest(&self) -> Result<u64, ProviderError> {
        let path = format!("{}/keys/{}", self.mount, self.key);
        let answer: KeyAnswer =
            self.session.call(Method::GET, &path, None).await.map_err(|error| self.explain("reading", &error))?;
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let versions = answer.keys.into_iter().map(|(version, created)| (version, text(created))).collect();
        *self.versions.lock().unwrap_or_else(PoisonError::into_inner) = versions;
        Ok(answer.latest_version)
    }

    /// The id of one version of the key. A key that was deleted and made anew has another one, although its name and
    /// version are the same.
    async fn id_of(&self, version: u64) -> Result<String, ProviderError> {
        let known = || self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&version).cloned();
        let created = match known() {
            Some(created) => created,
            None => {
                self.latest().await?;
                known().ok_or_else(|| {
                    ProviderError::Unavailable(format!("the server does not tell of version {version} of the key"))
                })?
            }
        };
        let mut hash = Sha256::new();
        for part in ["kprov kms vault key id", &self.namespace, &self.mount, &self.key, &created] {
            hash.update(part);
            hash.update([0]);
        }
        let hash = hash.chain_update(version.to_be_bytes()).finalize();
        let hash = hash[..12].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(format!("vault-v{version}-{hash}"))
    }

    async fn encrypt(&self, plaintext: &[u8]) -> Result<Wrapped, ProviderError> {
        let body = api::body(&[("plaintext", &Zeroizing::new(BASE64.encode(plaintext)))]);
        let path = format!("{}/encrypt/{}", self.mount, self.key);
        let answer: EncryptAnswer = self
            .session
            .call(Method::POST, &path, Some(&body))
            .await
            .map_err(|error| self.explain("encrypting with", &error))?;
        // The version that was used is part of the ciphertext: no second call could tell it without a race.
        let version = version(&answer.ciphertext)
            .ok_or_else(|| ProviderError::Unavailable("the server's ciphertext names no version".to_owned()))?;
        Ok(Wrapped { key_id: self.id_of(version).await?, ciphertext: answer.ciphertext.into_bytes() })
    }

    async fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        let text = std::str::from_utf8(ciphertext)
            .ok()
            .filter(|text| version(text).is_some())
            .ok_or_else(|| ProviderError::Unknown("this was not wrapped by the provider `vault`".to_owned()))?;
        let body = api::body(&[("ciphertext", text)]);
        let path = format!("{}/decrypt/{}", self.mount, self.key);
        let answer: DecryptAnswer = self
            .session
            .call(Method::POST, &path, Some(&body))
            .await
            .map_err(|error| self.explain("decrypting with", &error))?;
        BASE64
            .decode(answer.plaintext.as_str())
            .map(Zeroizing::new)
            .map_err(|_| ProviderError::Unavailable("the server's plaintext is not base64".to_owned()))
    }

    fn explain(&self, doing: &str, error: &ApiError) -> ProviderError {
        let text = format!("{doing} the key {} of {}: {error}", self.key, self.mount);
        match error {
            ApiError::Status { code: 403, .. } => ProviderError::Denied(format!(
                "{text}; the policy must allow `read` on keys/, `update` on encrypt/ and decrypt/"
            )),
            ApiError::Status { code: 400, .. } => ProviderError::Unknown(text),
            ApiError::Status { code: 404, .. } => ProviderError::Unavailable(format!("{text}: there is no such key")),
            _ => ProviderError::Unavailable(text),
        }
    }
}

impl Provider for Vault {
    fn name(&self) -> &'static str {
        "vault"
    }

    fn key_id(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        async {
            let latest = self.latest().await?;
            self.id_of(latest).await
        }
        .boxed()
    }

    fn wrap<'a>(&'a self, plaintext: &'a [u8]) -> BoxFuture<'a, Result<Wrapped, ProviderError>> {
        self.encrypt(plaintext).boxed()
    }

    fn unwrap<'a>(&'a self, ciphertext: &'a [u8]) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, ProviderError>> {
        self.decrypt(ciphertext).boxed()
    }

    fn login_expires_in(&self) -> Option<u64> {
        self.session.expires_in()
    }
}

/// The key version that a ciphertext names: `vault:vN:...`.
fn version(ciphertext: &str) -> Option<u64> {
    ciphertext.strip_prefix("vault:v")?.split_once(':')?.0.parse().ok()
}
