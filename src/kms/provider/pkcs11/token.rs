//! Keeps a session with a token: logs in when there is none, and anew when what it had has gone.
//!
//! A PIN that the token has refused is not tried again until it is another one: tokens lock themselves after a few.

use std::time::{Duration, Instant};

use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use zeroize::Zeroizing;

use super::super::super::log;
use super::super::super::secret::Source;
use super::super::{ProviderError, Wrapped};
use super::keys::{Found, HEADER_LENGTH, IV_LENGTH, Keys, Parts, next_id};
use super::{Config, Fault};

/// After a login that failed, its error stands for so long: a crowd of calls must not become a crowd of logins.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);
/// In a session that is so young, what fails does not fail because of the session.
const YOUNG: Duration = Duration::from_secs(1);
/// AES-GCM's.
const TAG_LENGTH: usize = 16;

/// A library that talks to tokens.
pub(super) trait Module: Send {
    type Session: Session + Send;

    /// Logs in to the token. What was there of an earlier session is gone.
    fn log_in(&self, pin: &str, to_write: bool) -> Result<Self::Session, Fault>;
}

/// A login.
pub(super) trait Session {
    /// Maker and serial number: no other token has them.
    fn token(&self) -> &str;

    /// The AES keys of the label. Fails if the token is not there any more.
    fn keys(&mut self) -> Result<Vec<Found>, Fault>;

    /// Encrypts by the key that stood at `place` of those listed last; gives ciphertext and tag. A token may exchange the IV.
    fn encrypt(
        &self,
        place: usize,
        iv: &mut [u8; IV_LENGTH],
        header: &[u8; HEADER_LENGTH],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, Fault>;

    /// Undoes that.
    fn decrypt(&self, place: usize, wrapped: &Parts<'_>) -> Result<Zeroizing<Vec<u8>>, Fault>;

    /// Makes a key with this id, which cannot be read out.
    fn add_key(&self, id: &[u8]) -> Result<(), Fault>;
}

struct Open<S> {
    session: S,
    keys: Keys,
    since: Instant,
}

/// A token, whether it is there just now or not.
pub(super) struct Keeper<M: Module> {
    module: M,
    /// The token in words, the key's label, and where the PIN is.
    token: String,
    label: String,
    pin: Source,
    open: Option<Open<M::Session>>,
    failed: Option<(Instant, ProviderError)>,
    refused: Option<Zeroizing<String>>,
    random: SystemRandom,
    now: Box<dyn Fn() -> Instant + Send>,
}

impl<M: Module> Keeper<M> {
    /// A keeper who takes the time from `now`.
    pub(super) fn new(module: M, config: &Config, now: impl Fn() -> Instant + Send + 'static) -> Self {
        Self {
            module,
            token: config.token(),
            label: config.key.clone(),
            pin: config.pin.clone(),
            open: None,
            failed: None,
            refused: None,
            random: SystemRandom::new(),
            now: Box::new(now),
        }
    }

    /// Logs in before anybody asks. A token that is away is told in the log.
    pub(super) fn greet(&mut self) {
        if let Err(error) = self.key_id() {
            log::error("the token does not work yet", json!({"reason": error.to_string()}));
        }
    }

    /// The id of the key that wraps, once that has been seen to wrap and to unwrap.
    pub(super) fn key_id(&mut self) -> Result<String, ProviderError> {
        const PROBE: [u8; 32] = [0; 32];
        let random = self.random.clone();
        self.with(|open, label| {
            open.list(label)?;
            let wrapped = open.wrap(&random, &PROBE)?;
            match open.unwrap(&wrapped.ciphertext, label)?.as_slice() == PROBE {
                true => Ok(wrapped.key_id),
                false => Err(Fault::Failed("it unwraps another key than it has wrapped".to_owned())),
            }
        })
    }

    pub(super) fn wrap(&mut self, plaintext: &[u8]) -> Result<Wrapped, ProviderError> {
        let random = self.random.clone();
        self.with(|open, _| open.wrap(&random, plaintext))
    }

    pub(super) fn unwrap(&mut self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, ProviderError> {
        self.with(|open, label| open.unwrap(wrapped, label))
    }

    /// Makes one more version of the key; gives its id.
    pub(super) fn add_key(&mut self) -> Result<String, ProviderError> {
        self.log_in(true)?;
        let Some(open) = &mut self.open else {
            return Err(self.explain(Fault::Failed("there is no login".to_owned())));
        };
        let added = open.session.keys().and_then(|found| {
            open.session.add_key(&next_id(&found))?;
            open.list(&self.label)?;
            Ok(open.keys.current()?.id.clone())
        });
        added.map_err(|fault| self.explain(fault))
    }

    /// Does something in a session. One that fails is not kept; if it was no young one, another one is tried.
    fn with<T>(
        &mut self,
        mut work: impl FnMut(&mut Open<M::Session>, &str) -> Result<T, Fault>,
    ) -> Result<T, ProviderError> {
        loop {
            if self.open.is_none() {
                self.log_in_gently()?;
            }
            let Some(open) = &mut self.open else { continue };
            match work(open, &self.label) {
                Err(fault @ (Fault::Failed(_) | Fault::Pin(_))) => {
                    let young = (self.now)().duration_since(open.since) < YOUNG;
                    self.open = None;
                    let error = self.explain(fault);
                    if young {
                        return Err(error);
                    }
                    log::info("the session fails, logging in anew", json!({"reason": error.to_string()}));
                }
                done => return done.map_err(|fault| self.explain(fault)),
            }
        }
    }

    fn log_in_gently(&mut self) -> Result<(), ProviderError> {
        if let Some((when, error)) = &self.failed
            && (self.now)().duration_since(*when) < LOGIN_PAUSE
        {
            return Err(error.clone());
        }
        self.failed = None;
        let entered = self.log_in(false);
        match (&entered, &self.open) {
            (Err(error), _) => self.failed = Some(((self.now)(), error.clone())),
            (Ok(()), Some(open)) => {
                let key_id = open.keys.current().map(|key| key.id.as_str()).unwrap_or_default();
                log::info("logged in", json!({"token": self.token, "keys": open.keys.len(), "key_id": key_id}));
            }
            (Ok(()), None) => {}
        }
        entered
    }

    fn log_in(&mut self, to_write: bool) -> Result<(), ProviderError> {
        let pin = self
            .pin
            .read()
            .map_err(|error| ProviderError::Unavailable(format!("the PIN of {}: {error}", self.token)))?;
        if self.refused.as_ref() == Some(&pin) {
            return Err(ProviderError::Denied(format!(
                "{} has refused this PIN, which is not tried again, since tokens lock themselves: put another one into its place, or start the plugin anew",
                self.token
            )));
        }
        let entered = self.module.log_in(&pin, to_write).and_then(|session| {
            let mut open = Open { session, keys: Keys::default(), since: (self.now)() };
            open.list(&self.label).map(|()| open)
        });
        if let Err(Fault::Pin(_)) = &entered {
            self.refused = Some(pin);
        }
        self.open = Some(entered.map_err(|fault| self.explain(fault))?);
        Ok(())
    }

    fn explain(&self, fault: Fault) -> ProviderError {
        let (token, label) = (&self.token, &self.label);
        match fault {
            Fault::Failed(reason) => ProviderError::Unavailable(format!("{token}: {reason}")),
            Fault::Pin(reason) => ProviderError::Denied(format!("{token} takes no login: {reason}")),
            Fault::Key(reason) => ProviderError::Unavailable(format!("the key {label} of {token}: {reason}")),
            Fault::Data(reason) => ProviderError::Unknown(format!("the key {label} of {token}: {reason}")),
        }
    }
}

impl<S: Session> Open<S> {
    fn list(&mut self, label: &str) -> Result<(), Fault> {
        self.keys = Keys::of(&self.session.keys()?, self.session.token(), label);
        Ok(())
    }

    fn wrap(&self, random: &SystemRandom, plaintext: &[u8]) -> Result<Wrapped, Fault> {
        let key = self.keys.current()?;
        let mut iv = [0; IV_LENGTH];
        random.fill(&mut iv).map_err(|_| Fault::Key("the system's random source failed".to_owned()))?;
        let header = key.header();
        let sealed = self.session.encrypt(key.place, &mut iv, &header, plaintext)?;
        if sealed.len() != plaintext.len() + TAG_LENGTH {
            return Err(Fault::Failed(format!("it made {} bytes of {}", sealed.len(), plaintext.len())));
        }
        Ok(Wrapped { ciphertext: [&header[..], &iv, &sealed].concat(), key_id: key.id.clone() })
    }

    fn unwrap(&mut self, wrapped: &[u8], label: &str) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let parts = Parts::of(wrapped)?;
        if self.keys.of_wrapped(&parts).is_none() {
            // Another plugin may have met a new key first.
            self.list(label)?;
        }
        let key = self.keys.of_wrapped(&parts);
        let key = key.ok_or_else(|| Fault::Data("the key that wrapped this is not in the token".to_owned()))?;
        self.session.decrypt(key.place, &parts)
    }
}
