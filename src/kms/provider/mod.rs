//! What wraps data keys. A provider's wrapped key tells by itself which key wrapped it: v1 of the protocol has no
//! other place for that.

pub(super) mod local;
#[cfg(not(target_feature = "crt-static"))]
pub(super) mod pkcs11;
#[cfg(target_feature = "crt-static")]
#[path = "pkcs11_absent.rs"]
pub(super) mod pkcs11;
pub(super) mod vault;

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

/// Why a provider could not do what it was asked. The text goes to the API server and to the log, so it holds no
/// secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProviderError {
    /// The KMS cannot be reached, or does not work just now.
    #[error("{0}")]
    Unavailable(String),
    /// The KMS refuses.
    #[error("{0}")]
    Denied(String),
    /// What is to be unwrapped was not wrapped by a key that is at hand.
    #[error("{0}")]
    Unknown(String),
}

/// A wrapped data key, and the name of the key that wrapped it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrapped {
    pub(super) ciphertext: Vec<u8>,
    pub(super) key_id: String,
}

/// What holds the key-encryption key.
pub(super) trait Provider: Send + Sync {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// The id of the key that would wrap now; asked once a minute by each API server.
    fn key_id(&self) -> BoxFuture<'_, Result<String, ProviderError>>;

    /// Wraps a data key. The answer's id is that of the key that was used.
    fn wrap<'a>(&'a self, plaintext: &'a [u8]) -> BoxFuture<'a, Result<Wrapped, ProviderError>>;

    /// Unwraps a data key.
    fn unwrap<'a>(&'a self, ciphertext: &'a [u8]) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, ProviderError>>;

    /// In how many seconds its login expires, if it has one that does.
    fn login_expires_in(&self) -> Option<u64>;
}
