//! The login: made when it is needed, renewed at half its life, made anew when renewing does not do. An outage of
//! the server is waited out.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::{Mutex, Notify};
use zeroize::Zeroizing;

use super::super::super::log;
use super::api::{self, Api, ApiError};
use super::config::LoginMethod;

/// After a login that failed, its error stands for so long: a crowd of calls must not become a crowd of logins.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);
/// A token that is so young and is refused is not the reason: the policy is.
const YOUNG: Duration = Duration::from_secs(1);
/// A login is not renewed more often.
const MIN_WAIT: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// No lease is taken to be longer, whatever a server says: clocks cannot count that far.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A login that counts until it expires.
struct Login {
    token: Zeroizing<String>,
    since: Instant,
    /// `None` if it never expires.
    lease: Option<Duration>,
    /// What the lease was when it was new.
    granted: Option<Duration>,
    renewable: bool,
}

#[derive(Default)]
struct State {
    login: Option<Login>,
    failed: Option<(Instant, ApiError)>,
}

/// The login to one server.
pub(super) struct Session {
    api: Api,
    method: LoginMethod,
    state: Mutex<State>,
    /// When the login expires, for reports, which must not wait for a login under way.
    expires: std::sync::Mutex<Option<Instant>>,
    changed: Notify,
}

#[derive(Deserialize)]
struct AuthAnswer {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Zeroizing<String>,
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct TokenData {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

impl Session {
    pub(super) fn new(api: Api, method: LoginMethod) -> Self {
        Self { api, method, state: Mutex::default(), expires: std::sync::Mutex::new(None), changed: Notify::new() }
    }

    /// A call with the login's token. A token that is refused is replaced, once.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&[u8]>,
    ) -> Result<T, ApiError> {
        let token = self.token(None).await?;
        match self.api.call::<Data<T>>(method.clone(), path, Some(&token), body).await {
            Err(refused @ ApiError::Status { code: 403, .. }) => {
                let fresh = self.token(Some(&token)).await?;
                if fresh == token {
                    return Err(refused);
                }
                Ok(self.api.call::<Data<T>>(method, path, Some(&fresh), body).await?.data)
            }
            answer => Ok(answer?.data),
        }
    }

    /// In how many seconds the login expires.
    pub(super) fn expires_in(&self) -> Option<u64> {
        let expires = *self.expires.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        expires.map(|at| at.saturating_duration_since(Instant::now()).as_secs())
    }

    /// The token; `refused` is one that the server did not take, and that is replaced unless it is young.
    async fn token(&self, refused: Option<&str>) -> Result<Zeroizing<String>, ApiError> {
        let mut state = self.state.lock().await;
        if let Some(login) = &state.login
            && (refused != Some(login.token.as_str()) || login.since.elapsed() < YOUNG)
        {
            return Ok(login.token.clone());
        }
        let token = self.log_in(&mut state).await?;
        self.changed.notify_one();
        Ok(token)
    }

    async fn log_in(&self, state: &mut State) -> Result<Zeroizing<String>, ApiError> {
        if let Some((when, error)) = &state.failed
            && when.elapsed() < LOGIN_PAUSE
        {
            return Err(error.clone());
        }
        match self.new_login().await {
            Ok(login) => {
                let token = login.token.clone();
                self.enter(state, login);
                Ok(token)
            }
            Err(error) => {
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn enter(&self, state: &mut State, login: Login) {
        let expires = login.lease.map(|lease| login.since + lease);
        *self.expires.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = expires;
        *state = State { login: Some(login), failed: None };
    }

    async fn new_login(&self) -> Result<Login, ApiError> {
        let other = |error: super::KmsError| ApiError::Other(format!("logging in: {error}"));
        let since = Instant::now();
        let (token, lease, renewable, how) = match &self.method {
            LoginMethod::AppRole(app_role) => {
                let (role, secret) =
                    (app_role.role_id.read().map_err(other)?, app_role.secret_id.read().map_err(other)?);
                let body = api::body(&[("role_id", &role), ("secret_id", &secret)]);
                let auth = self.auth(&app_role.mount, &body).await?;
                (auth.client_token, auth.lease_duration, auth.renewable, "appRole")
            }
            LoginMethod::Certificate(certificate) => {
                let role: Vec<(&str, &str)> = certificate.role.iter().map(|role| ("name", role.as_str())).collect();
                let auth = self.auth(&certificate.mount, &api::body(&role)).await?;
                (auth.client_token, auth.lease_duration, auth.renewable, "certificate")
            }
            LoginMethod::Token(source) => {
                let token = source.read().map_err(other)?;
                let found: Data<TokenData> = self
                    .api
                    .call(Method::GET, "auth/token/lookup-self", Some(&token), None)
                    .await
                    .map_err(logging_in)?;
                (token, found.data.ttl, found.data.renewable, "token")
            }
            LoginMethod::None => return Err(ApiError::Other("no way to log in is configured".to_owned())),
        };
        log::info("logged in", json!({"method": how, "lease_seconds": lease, "renewable": renewable}));
        let lease = (lease > 0).then(|| bounded(lease));
        Ok(Login { token, since, lease, granted: lease, renewable })
    }

    async fn auth(&self, mount: &str, body: &[u8]) -> Result<Auth, ApiError> {
        let path = format!("auth/{mount}/login");
        let answer: AuthAnswer = self.api.call(Method::POST, &path, None, Some(body)).await.map_err(logging_in)?;
        Ok(answer.auth)
    }

    /// When the login is to be renewed; `None` if there is none, `Some(None)` if it never expires.
    async fn renewal(&self) -> Option<Option<Instant>> {
        let state = self.state.lock().await;
        let login = state.login.as_ref()?;
        Some(login.lease.map(|lease| login.since + (lease / 2).max(MIN_WAIT)))
    }

    /// Renews the login, or logs in anew where that gives less than half of what was granted first.
    async fn renew(&self) -> Result<(), ApiError> {
        let mut state = self.state.lock().await;
        if let Some(login) = state.login.as_ref().filter(|login| login.renewable) {
            let since = Instant::now();
            let renewed: Result<AuthAnswer, _> =
                self.api.call(Method::POST, "auth/token/renew-self", Some(&login.token), Some(b"{}")).await;
            match renewed {
                Ok(AuthAnswer { auth }) => {
                    let lease = bounded(auth.lease_duration);
                    if login.granted.is_none_or(|granted| lease * 2 >= granted) {
                        let login = Login {
                            token: login.token.clone(),
                            since,
                            lease: Some(lease),
                            granted: login.granted,
                            renewable: auth.renewable,
                        };
                        self.enter(&mut state, login);
                        log::info("login renewed", json!({"lease_seconds": auth.lease_duration}));
                        return Ok(());
                    }
                }
                // Nobody is there to log in to, either.
                Err(error @ ApiError::Unreachable(_)) => return Err(error),
                Err(error) => log::info("login not renewed, logging in anew", json!({"reason": error.to_string()})),
            }
        }
        self.log_in(&mut state).await.map(drop)
    }
}

/// A lease of so many seconds.
fn bounded(seconds: u64) -> Duration {
    Duration::from_secs(seconds).min(LONGEST)
}

fn logging_in(error: ApiError) -> ApiError {
    match error {
        ApiError::Status { code, reason } => ApiError::Status { code, reason: format!("logging in: {reason}") },
        other => other,
    }
}

/// Logs in, and keeps the login alive for as long as the session is there.
pub(super) async fn keep(session: Weak<Session>) {
    let mut backoff = LOGIN_PAUSE;
    loop {
        let Some(session) = session.upgrade() else { return };
        let now = Instant::now();
        match session.renewal().await {
            Some(Some(at)) if at > now => wait(session, Some(at - now)).await,
            Some(None) => wait(session, None).await,
            _ => match session.renew().await {
                Ok(()) => backoff = LOGIN_PAUSE,
                Err(error) => {
                    log::error("no login", json!({"reason": error.to_string(), "again_in_seconds": backoff.as_secs()}));
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            },
        }
    }
}

/// Waits for a time or until somebody else has logged in.
async fn wait(session: Arc<Session>, time: Option<Duration>) {
    let time = time.unwrap_or(Duration::from_secs(3600));
    // Either is reason enough to look again.
    let _ = tokio::time::timeout(time, session.changed.notified()).await;
}
