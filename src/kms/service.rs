//! Kubernetes' KMS methods, on top of any provider: the protocol's limits, time-outs, counts.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;
use zeroize::Zeroizing;

use super::proto::{self, HEALTHY, ReportResponse};
use super::provider::{Provider, ProviderError, Wrapped};
use super::statistics::Statistics;

/// k8s.io/apiserver takes no longer key id (`KeyIDMaxSize`) ...
const MAX_KEY_ID: usize = 1024;
/// ... and no longer wrapped key (`encryptedDEKSourceMaxSize`).
const MAX_WRAPPED: usize = 1024;
/// API servers send data keys and seeds of 32 bytes, and "ping".
const MAX_PLAINTEXT: usize = 512;
/// An API server waits for 3 seconds unless told otherwise.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// That many calls are with the provider at a time; further ones wait, within their time.
const CONCURRENCY: usize = 64;

/// The plugin, as its methods see it.
pub(super) struct Plugin {
    provider: Arc<dyn Provider>,
    started: Instant,
    slots: Semaphore,
    status: Mutex<Statistics>,
    wrap: Mutex<Statistics>,
    unwrap: Mutex<Statistics>,
}

impl Plugin {
    pub(super) fn new(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            started: Instant::now(),
            slots: Semaphore::new(CONCURRENCY),
            status: Mutex::new(Statistics::new("status")),
            wrap: Mutex::new(Statistics::new("wrap")),
            unwrap: Mutex::new(Statistics::new("unwrap")),
        }
    }

    /// v2's Status. A KMS that does not work is an answer, too: the API server shows the text in its health check.
    pub(super) async fn status(&self) -> proto::StatusResponse {
        let key_id = async {
            let key_id = self.provider.key_id().await?;
            check_key_id(key_id)
        };
        let (healthz, key_id) = match self.call(&self.status, key_id).await {
            Ok(key_id) => (HEALTHY.to_owned(), key_id),
            Err(error) => (error.to_string(), String::new()),
        };
        proto::StatusResponse { version: proto::VERSION.to_owned(), healthz, key_id }
    }

    pub(super) async fn encrypt(&self, plaintext: &[u8]) -> Result<Wrapped, Status> {
        if plaintext.len() > MAX_PLAINTEXT {
            return Err(Status::invalid_argument(format!(
                "a data key of {} bytes; at most {MAX_PLAINTEXT} are wrapped",
                plaintext.len()
            )));
        }
        let wrapped = async {
            let wrapped = self.provider.wrap(plaintext).await?;
            if wrapped.ciphertext.len() > MAX_WRAPPED {
                let length = wrapped.ciphertext.len();
                return Err(ProviderError::Unavailable(format!(
                    "the KMS made {length} bytes of a data key; API servers take at most {MAX_WRAPPED}"
                )));
            }
            Ok(Wrapped { key_id: check_key_id(wrapped.key_id)?, ..wrapped })
        };
        self.call(&self.wrap, wrapped).await.map_err(answer)
    }

    pub(super) async fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Status> {
        if ciphertext.len() > MAX_WRAPPED {
            return Err(Status::invalid_argument(format!(
                "a wrapped key of {} bytes; none has more than {MAX_WRAPPED}",
                ciphertext.len()
            )));
        }
        self.call(&self.unwrap, self.provider.unwrap(ciphertext)).await.map_err(answer)
    }

    /// How often it has been asked so far.
    pub(super) fn calls(&self) -> u64 {
        [&self.status, &self.wrap, &self.unwrap].map(|operation| lock(operation).calls()).iter().sum()
    }

    pub(super) async fn report(&self) -> ReportResponse {
        let status = self.status().await;
        ReportResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            provider: self.provider.name().to_owned(),
            healthz: status.healthz,
            key_id: status.key_id,
            uptime_seconds: self.started.elapsed().as_secs(),
            wrap: Some(lock(&self.wrap).report()),
            unwrap: Some(lock(&self.unwrap).report()),
            login_expires_in_seconds: self.provider.login_expires_in(),
            status: Some(lock(&self.status).report()),
            resident_bytes: resident_bytes(),
        }
    }

    /// Runs a call within its time and its share of the provider, and notes what came of it.
    async fn call<T>(
        &self,
        statistics: &Mutex<Statistics>,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let start = Instant::now();
        let late = || ProviderError::Unavailable(format!("the KMS has not answered within {CALL_TIMEOUT:?}"));
        let result = timeout(CALL_TIMEOUT, async {
            // Never closed; if it were, the call would go on without a slot.
            let _slot = self.slots.acquire().await;
            call.await
        })
        .await
        .unwrap_or_else(|_| Err(late()));
        let mut statistics = lock(statistics);
        match &result {
            Ok(_) => statistics.succeeded(start.elapsed()),
            Err(error) => statistics.failed(&error.to_string()),
        }
        result
    }
}

/// How much memory this process has; 0 if the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or_default() * 1024
}

fn check_key_id(key_id: String) -> Result<String, ProviderError> {
    if key_id.is_empty() || key_id.len() > MAX_KEY_ID {
        return Err(ProviderError::Unavailable(format!("the key's id has {} bytes", key_id.len())));
    }
    Ok(key_id)
}

fn answer(error: ProviderError) -> Status {
    match error {
        ProviderError::Unavailable(reason) => Status::unavailable(reason),
        ProviderError::Denied(reason) => Status::permission_denied(reason),
        ProviderError::Unknown(reason) => Status::failed_precondition(reason),
    }
}

fn lock(statistics: &Mutex<Statistics>) -> MutexGuard<'_, Statistics> {
    // Counts are sound whatever a holder did.
    statistics.lock().unwrap_or_else(PoisonError::into_inner)
}
