//! Requests that are made again: API servers are restarted, and balancers know of it late.

use std::fmt::Debug;
use std::time::Duration;

use kube::runtime::wait::await_condition;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::ApiError;

/// How often a request is repeated that may succeed later; with the pauses, about a minute.
const TRIES: u32 = 35;

/// Whether the same request may succeed later: a conflict, an overload, an API server that is being restarted.
fn passes(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 401 | 403 | 409 | 429 | 500..),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Makes a request until it succeeds, fails for good, or has been tried for about a minute.
///
/// # Errors
/// [`ApiError::Request`] with the last answer.
pub(super) async fn retried<T>(doing: &str, request: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T, ApiError> {
    let (mut attempt, mut pause) = (1, Duration::from_millis(50));
    loop {
        match request().await {
            Err(error) if attempt < TRIES && passes(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
                attempt += 1;
            }
            other => return other.map_err(ApiError::request(doing)),
        }
    }
}

/// Watches an object until it is as `wanted`, and says whether it was within `limit`. A watch that breaks off begins again.
pub(super) async fn comes<K>(api: &Api<K>, name: &str, wanted: impl Fn(Option<&K>) -> bool, limit: Duration) -> bool
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    const PAUSE: Duration = Duration::from_millis(200);
    let watched = async {
        while await_condition(api.clone(), name, &wanted).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(limit, watched).await.is_ok()
}
