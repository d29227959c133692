//! Requests that are made again: API servers are restarted, and balancers know of it late.

use std::fmt::Debug;
use std::time::Duration;

use kube::runtime::wait::await_condition;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

use super::ApiError;

/// How often a request is repeated that may succeed later; with the pauses, about a minute.
const TRIES: u32 = 35;

/// How long one try may take: a node that goes away in the middle says nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the same request may succeed later: a conflict, an overload, an API server that is being restarted.
fn passes(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 401 | 403 | 409 | 429 | 500..),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// Makes a request until it succeeds, fails for good, or has been tried for about a minute; one that is not answered at all,
/// three times for a minute each.
///
/// # Errors
/// [`ApiError::Request`] with the last answer.
pub(super) async fn retried<T>(doing: &str, request: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T, ApiError> {
    let (mut attempt, mut pause) = (1, Duration::from_millis(50));
    let begun = tokio::time::Instant::now();
    loop {
        let answer = match tokio::time::timeout(PATIENCE, request()).await {
            Ok(answer) => answer,
            Err(silent) => Err(kube::Error::Service(Box::new(silent))),
        };
        match answer {
            Err(error) if attempt < TRIES && begun.elapsed() < 3 * PATIENCE && passes(&error) => {
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_never_answered_is_made_again() {
        let tries = Cell::new(0);
        let answered = retried("asking", async || {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { std::future::pending().await } else { Ok(tries.get()) }
        });
        assert_eq!(answered.await.unwrap(), 3);
        let begun = tokio::time::Instant::now();
        let silent = retried("asking", async || std::future::pending::<Result<(), kube::Error>>().await).await;
        assert!(matches!(silent, Err(ApiError::Request { .. })));
        assert_eq!(begun.elapsed().as_secs() / 60, 3);
    }
}
