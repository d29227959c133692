//! A key in a token that speaks PKCS#11, such as an HSM: AES-256-GCM in the token, by a key that does not leave it.
//!
//! Owns the thread that talks to the token. `token` owns the way back to a token that was away, `module` the calls, `keys`
//! what the keys mean. Static builds have `pkcs11_absent` instead.

mod config;
mod keys;
mod module;
#[cfg(test)]
mod tests;
mod token;

use std::sync::{Arc, mpsc};
use std::time::Instant;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::super::KmsError;
use super::{Provider, ProviderError, Wrapped};
use module::Library;
use token::{Keeper, Module};

pub(crate) use config::Config;

/// Why a token did not do what it was asked. The text holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// The session, the token or the module has failed: another login may do.
    Failed(String),
    /// The token refuses the PIN, or any.
    Pin(String),
    /// The key is not as it has to be.
    Key(String),
    /// What is to be unwrapped is none of ours, or has been changed.
    Data(String),
}

/// Loads the module and logs in to the token, which may be away.
///
/// # Errors
/// [`KmsError::Module`] if the module cannot be loaded, [`KmsError::Provider`] if there is no thread for it.
pub(crate) fn start(config: &Config) -> Result<Arc<dyn Provider>, KmsError> {
    Ok(Arc::new(Pkcs11::start(Keeper::new(Library::open(config)?, config, Instant::now))?))
}

/// Makes one more version of the key in the token, from which it never leaves; gives its id.
///
/// # Errors
/// [`KmsError::Module`] if the module cannot be loaded, [`KmsError::Provider`] if the token refuses.
pub(crate) fn add_key(config: &Config) -> Result<String, KmsError> {
    let mut keeper = Keeper::new(Library::open(config)?, config, Instant::now);
    keeper.add_key().map_err(|error| KmsError::Provider(error.to_string()))
}

type Job<M> = Box<dyn FnOnce(&mut Keeper<M>) + Send>;

/// A key in a token.
struct Pkcs11<M: Module> {
    jobs: mpsc::Sender<Job<M>>,
}

impl<M: Module + 'static> Pkcs11<M> {
    /// A module's calls block, some for as long as they like; they have a thread of their own, which ends with the provider.
    fn start(mut keeper: Keeper<M>) -> Result<Self, KmsError> {
        let (jobs, queue) = mpsc::channel::<Job<M>>();
        let work = move || {
            keeper.greet();
            for job in queue {
                job(&mut keeper);
            }
        };
        let spawned = std::thread::Builder::new().name("pkcs11".to_owned()).spawn(work);
        spawned.map_err(|error| KmsError::Provider(format!("there is no thread for the token: {error}")))?;
        Ok(Self { jobs })
    }

    /// Does something with the token, unless who has asked does not wait any more when it is its turn.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Keeper<M>) -> Result<T, ProviderError> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let ended = || ProviderError::Unavailable("the thread that talks to the token has ended".to_owned());
        let (answer, answered) = oneshot::channel();
        let job: Job<M> = Box::new(move |keeper| {
            if !answer.is_closed() {
                // Who has gone meanwhile needs no answer.
                let _ = answer.send(work(keeper));
            }
        });
        self.jobs.send(job).map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }
}

impl<M: Module + 'static> Provider for Pkcs11<M> {
    fn name(&self) -> &'static str {
        "pkcs11"
    }

    fn key_id(&self) -> BoxFuture<'_, Result<String, ProviderError>> {
        self.with(Keeper::key_id).boxed()
    }

    fn wrap<'a>(&'a self, plaintext: &'a [u8]) -> BoxFuture<'a, Result<Wrapped, ProviderError>> {
        let plaintext = Zeroizing::new(plaintext.to_vec());
        self.with(move |keeper| keeper.wrap(&plaintext)).boxed()
    }

    fn unwrap<'a>(&'a self, ciphertext: &'a [u8]) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, ProviderError>> {
        let ciphertext = ciphertext.to_vec();
        self.with(move |keeper| keeper.unwrap(&ciphertext)).boxed()
    }

    fn login_expires_in(&self) -> Option<u64> {
        None
    }
}
