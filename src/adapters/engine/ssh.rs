//! An engine behind an ssh server: a connection is `docker system dial-stdio` there, by the ssh command, as the docker
//! command does it.
//!
//! A server takes only so many connections at once that have not logged in yet, and drops more and more of those beyond
//! (sshd_config(5), MaxStartups: 10:30:100 by default). So few log in at a time, and one that was dropped before it could
//! say who it is asks again: others may be at work there, too.

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bollard::{BollardRequest, Docker};
use http::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use openssh::{Child, ChildStdin, ChildStdout, ControlPersist, Error, Session, SessionBuilder, Stdio};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tower_service::Service;

/// How many log in at a time: half of what a server takes of everybody.
const AT_ONCE: usize = 5;

/// For how many seconds ssh stays that nobody uses. It is a process of its own, and outlives one that ends without closing it.
const IDLE: NonZeroUsize = NonZeroUsize::new(5).unwrap();

/// How often a connection is tried, and how long it is waited before the second time; twice as long before each one after.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(200);

/// A client of the engine at `ssh://[USER@]HOST`.
pub(super) fn client(host: &str, timeout: u64) -> Result<Docker, bollard::errors::Error> {
    let connector = Connector { gate: Arc::new(Semaphore::new(AT_ONCE)) };
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let transport = move |request: BollardRequest| {
        let client = client.clone();
        async move { Ok(client.request(request).await?) }
    };
    let host = host.trim_end_matches('/');
    Docker::connect_with_custom_transport(transport, Some(host), timeout, bollard::API_DEFAULT_VERSION)
}

#[derive(Clone)]
struct Connector {
    gate: Arc<Semaphore>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let gate = Arc::clone(&self.gate);
        Box::pin(async move {
            let nobody = || Error::Connect(io::Error::new(io::ErrorKind::InvalidInput, "the address names no host"));
            let host = uri.authority().ok_or_else(nobody)?.to_string();
            let session = Arc::new(patiently(&gate, || log_in(host.clone())).await?);
            let mut command = session.arc_command("docker");
            command.args(["system", "dial-stdio"]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().await?;
            let (input, output) = (child.stdin().take(), child.stdout().take());
            let output = output.ok_or_else(|| Error::ChildIo(io::ErrorKind::BrokenPipe.into()))?;
            Ok(TokioIo::new(Stream { _child: child, input, output }))
        })
    }
}

async fn log_in(host: String) -> Result<Session, Error> {
    let mut builder = SessionBuilder::default();
    builder.control_persist(ControlPersist::IdleFor(IDLE));
    let (builder, destination) = builder.resolve(&host);
    Ok(Session::new_process_mux(builder.launch_master(destination).await?))
}

/// Tries until it has worked, or has failed for another reason than that the server drops connections. The gate's place is
/// free again while it waits.
async fn patiently<T, F>(gate: &Semaphore, log_in: impl Fn() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut pause = PAUSE;
    for _ in 1..TRIES {
        let outcome = {
            // Nobody closes the gate.
            let _place = gate.acquire().await;
            log_in().await
        };
        match outcome {
            Err(error) if is_dropped(&error) => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
        pause *= 2;
    }
    let _place = gate.acquire().await;
    log_in().await
}

/// Whether the server has hung up before it was told who is there; so ssh says it, in its own words.
fn is_dropped(error: &Error) -> bool {
    let Error::Connect(reason) = error else { return false };
    let said = reason.to_string();
    ["exchange_identification:", "banner exchange:"].iter().any(|words| said.contains(words))
}

/// What goes to the engine and comes from it. Ends the ssh command when dropped.
struct Stream {
    _child: Child<Arc<Session>>,
    /// `None` once nothing more is to be sent.
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Stream {
    fn input(&mut self) -> io::Result<Pin<&mut ChildStdin>> {
        self.input.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.input()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Ok(input) = self.input() else { return Poll::Ready(Ok(())) };
        std::task::ready!(input.poll_shutdown(cx))?;
        // A pipe to a process is closed by dropping it, and by nothing else: a command that reads to the end waits for it.
        self.input = None;
        Poll::Ready(Ok(()))
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::{join_all, ready};

    use super::*;

    fn told(text: &str) -> Error {
        Error::Connect(io::Error::new(io::ErrorKind::ConnectionAborted, text))
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_dropped_is_tried_again() {
        let gate = Semaphore::new(AT_ONCE);
        let dropped = || told("kex_exchange_identification: Connection closed by remote host");
        for (failing, works) in [(0, true), (TRIES - 1, true), (TRIES, false)] {
            let tries = Cell::new(0);
            let outcome = patiently(&gate, || {
                tries.set(tries.get() + 1);
                ready(if tries.get() <= failing { Err(dropped()) } else { Ok(()) })
            });
            assert_eq!(outcome.await.is_ok(), works, "{failing}");
            assert_eq!(tries.get(), TRIES.min(failing + 1));
        }
    }

    #[tokio::test]
    async fn what_another_try_does_not_mend_is_told_at_once() {
        let gate = Semaphore::new(AT_ONCE);
        for text in ["me@host: Permission denied (publickey).", "Host key verification failed."] {
            let tries = Cell::new(0);
            let outcome = patiently(&gate, || {
                tries.set(tries.get() + 1);
                ready(Err::<(), _>(told(text)))
            });
            assert!(outcome.await.is_err());
            assert_eq!(tries.get(), 1, "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_log_in_at_a_time() {
        let gate = Semaphore::new(AT_ONCE);
        let (now, most) = (&Cell::new(0), &Cell::new(0));
        let log_in = || async {
            now.set(now.get() + 1);
            most.set(most.get().max(now.get()));
            tokio::time::sleep(PAUSE).await;
            now.set(now.get() - 1);
            Ok::<_, Error>(())
        };
        let all = join_all((0..50).map(|_| patiently(&gate, &log_in))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(most.get(), AT_ONCE);
    }
}
