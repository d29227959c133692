//! Clients that read and write Secrets all the while, and check every value.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::random;

const CLIENTS: usize = 10;
const SECRETS_EACH: usize = 20;

/// The pause between two requests of a client.
const PACE: Duration = Duration::from_millis(60);

/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Secrets by name, and what each may hold.
type Known = Vec<(String, BTreeSet<String>)>;

/// What the clients have seen.
#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    retried: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
    undecryptable: AtomicU64,
    /// The longest time without any answer, in milliseconds.
    outage: AtomicU64,
    /// When the last answer came, in milliseconds since the start.
    answered: AtomicU64,
}

/// What the clients have seen so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) requests: u64,
    /// Requests that were answered the second time.
    pub(super) retried: u64,
    /// Requests that one retry did not save.
    pub(super) failed: u64,
    /// Values that were not what had been written.
    pub(super) wrong: u64,
    /// Answers that said that a value cannot be read.
    pub(super) undecryptable: u64,
    /// The longest time in which no client got an answer.
    pub(super) outage: Duration,
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} requests, {} answered at the second try, {} not, {} wrong values, {} undecryptable, longest outage {:.1} s",
            self.requests,
            self.retried,
            self.failed,
            self.wrong,
            self.undecryptable,
            self.outage.as_secs_f64()
        )
    }
}

impl Seen {
    /// Holds that the clients were answered, and that no value was wrong.
    #[track_caller]
    fn assert_right(&self) {
        assert!(self.requests > self.failed, "nobody was answered, so nothing is proven: {self}");
        assert_eq!(self.wrong, 0, "{self}");
    }

    /// Holds that the clients were answered, and that no value was wrong or could not be read.
    #[track_caller]
    fn assert_unharmed(&self) {
        assert!(self.requests > self.failed, "nobody was answered, so nothing is proven: {self}");
        assert_eq!((self.wrong, self.undecryptable), (0, 0), "{self}");
    }
}

/// The clients at work.
pub(super) struct Load {
    runtime: Runtime,
    client: Client,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    begun: Instant,
    workers: Vec<JoinHandle<Known>>,
}

impl Load {
    /// Makes the Secrets and starts the clients.
    pub(super) fn start(kubeconfig: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let client = runtime.block_on(client(kubeconfig));
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let begun = Instant::now();
        let api: Api<Secret> = Api::namespaced(client.clone(), "default");
        let workers = (0..CLIENTS).map(|index| {
            let names: Vec<String> = (0..SECRETS_EACH).map(|number| format!("load-{index}-{number}")).collect();
            runtime.block_on(async {
                for name in &names {
                    let mut secret = Secret::default();
                    secret.metadata.name = Some(name.clone());
                    secret.string_data = Some([("v".to_owned(), "0".to_owned())].into());
                    api.create(&PostParams::default(), &secret).await.unwrap();
                }
            });
            let known = names.into_iter().map(|name| (name, BTreeSet::from(["0".to_owned()]))).collect();
            let worker = Worker { api: api.clone(), counts: Arc::clone(&counts), begun, known };
            runtime.spawn(worker.work(Arc::clone(&stop)))
        });
        let workers = workers.collect();
        Self { runtime, client, stop, counts, begun, workers }
    }

    /// What the clients have seen so far.
    pub(super) fn seen(&self) -> Seen {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let silent = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX) - get(&self.counts.answered);
        Seen {
            requests: get(&self.counts.requests),
            retried: get(&self.counts.retried),
            failed: get(&self.counts.failed),
            wrong: get(&self.counts.wrong),
            undecryptable: get(&self.counts.undecryptable),
            outage: Duration::from_millis(get(&self.counts.outage).max(silent)),
        }
    }

    /// Holds that no value was wrong or could not be read until now.
    #[track_caller]
    pub(super) fn assert_unharmed(&self) {
        self.seen().assert_unharmed();
    }

    /// Forgets the longest outage so far.
    pub(super) fn forget_outage(&self) {
        self.counts.outage.store(0, Ordering::Relaxed);
    }

    /// Holds that no value was wrong until now, where some may be out of reach for a while: their key is in a KMS that is
    /// away.
    #[track_caller]
    pub(super) fn assert_right(&self) {
        self.seen().assert_right();
    }

    /// Stops the clients, reads every Secret once more, and holds that each has its right value, and that none could not be
    /// read meanwhile.
    #[track_caller]
    pub(super) fn end(self) -> Seen {
        let seen = self.end_right();
        seen.assert_unharmed();
        seen
    }

    /// Stops the clients, reads every Secret once more, and holds that each has its right value.
    #[track_caller]
    pub(super) fn end_right(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let api: Api<Secret> = Api::namespaced(self.client.clone(), "default");
        let seen = self.seen();
        let mut checked = 0;
        self.runtime.block_on(async {
            for worker in self.workers {
                for (name, values) in worker.await.unwrap() {
                    let secret = retried(async || api.get(&name).await).await.unwrap();
                    let value = value(&secret);
                    assert!(values.contains(&value), "{name} holds {value}, not one of {values:?}");
                    checked += 1;
                }
            }
        });
        assert_eq!(checked, CLIENTS * SECRETS_EACH);
        seen.assert_right();
        seen
    }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.connect_timeout = Some(Duration::from_secs(2));
    config.read_timeout = Some(Duration::from_secs(5));
    config.write_timeout = Some(Duration::from_secs(5));
    config.proxy_url = None;
    Client::try_from(config).unwrap()
}

async fn retried<T>(request: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T, kube::Error> {
    for _ in 0..60 {
        match tokio::time::timeout(PATIENCE, request()).await {
            Ok(Ok(answer)) => return Ok(answer),
            _ => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    }
    request().await
}

fn value(secret: &Secret) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get("v")).map(|value| value.0.clone()).unwrap_or_default();
    String::from_utf8(bytes).unwrap_or_default()
}

/// One client with its own Secrets, so that it knows what they hold.
struct Worker {
    api: Api<Secret>,
    counts: Arc<Counts>,
    begun: Instant,
    /// What each may hold: more than one value if it is not known whether a write was done.
    known: Known,
}

impl Worker {
    async fn work(mut self, stop: Arc<AtomicBool>) -> Known {
        while !stop.load(Ordering::Relaxed) {
            let index = usize::try_from(random(SECRETS_EACH as u64)).unwrap();
            if random(2) == 0 {
                self.write(index).await
            } else {
                self.read(index).await
            }
            tokio::time::sleep(PACE).await;
        }
        self.known
    }

    async fn write(&mut self, index: usize) {
        let new = random(u64::MAX).to_string();
        self.known[index].1.insert(new.clone());
        if self.ask(index, Some(&new)).await.is_some() {
            self.known[index].1 = BTreeSet::from([new]);
        }
    }

    async fn read(&mut self, index: usize) {
        let Some(secret) = self.ask(index, None).await else { return };
        let (name, values) = &self.known[index];
        if !values.contains(&value(&secret)) {
            self.counts.wrong.fetch_add(1, Ordering::Relaxed);
            eprintln!("{name} holds {}, not one of {values:?}", value(&secret));
        }
    }

    /// Reads a Secret, or writes it; a request that fails is repeated once.
    async fn ask(&self, index: usize, new: Option<&str>) -> Option<Secret> {
        let name = &self.known[index].0;
        let patch = new.map(|new| Patch::Merge(json!({"stringData": {"v": new}})));
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        for attempt in 0..2 {
            let asked = async {
                match &patch {
                    Some(patch) => self.api.patch(name, &PatchParams::default(), patch).await,
                    None => self.api.get(name).await,
                }
            };
            // A client that waits for a connection without end has no answer, either.
            let Ok(answer) = tokio::time::timeout(PATIENCE, asked).await else { continue };
            match answer {
                Ok(secret) => {
                    if attempt > 0 {
                        self.counts.retried.fetch_add(1, Ordering::Relaxed);
                    }
                    let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap();
                    let before = self.counts.answered.swap(now, Ordering::Relaxed);
                    self.counts.outage.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
                    return Some(secret);
                }
                Err(error) => {
                    let text = error.to_string();
                    // What the API server says of a value that none of its keys reads.
                    if text.contains("unable to transform")
                        || text.contains("no matching prefix")
                        || text.contains("decrypt")
                    {
                        // In an outage of a KMS there are thousands.
                        if self.counts.undecryptable.fetch_add(1, Ordering::Relaxed) < 20 {
                            eprintln!("undecryptable: {text}");
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
        None
    }
}

#[test]
fn load_that_was_never_answered_proves_nothing() {
    let seen = Seen { requests: 9, retried: 0, failed: 8, wrong: 0, undecryptable: 0, outage: Duration::ZERO };
    seen.assert_unharmed();
    Seen { undecryptable: 1, ..seen }.assert_right();
    for wrong in [Seen { failed: 9, ..seen }, Seen { wrong: 1, ..seen }] {
        assert!(std::panic::catch_unwind(|| wrong.assert_right()).is_err(), "{wrong}");
    }
    for harmed in [
        Seen { requests: 0, failed: 0, ..seen },
        Seen { failed: 9, ..seen },
        Seen { wrong: 1, ..seen },
        Seen { undecryptable: 1, ..seen },
    ] {
        assert!(std::panic::catch_unwind(|| harmed.assert_unharmed()).is_err(), "{harmed}");
    }
}
