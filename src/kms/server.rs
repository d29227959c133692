//! The server: connections, HTTP/2, which path is which method, and a clean end.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tonic::Status;
use tonic::body::Body;
use tonic::server::{Grpc, UnaryService};
use tonic_prost::ProstCodec;

use super::authority::Readdressed;
use super::proto::{self, path};
use super::service::Plugin;
use super::socket::Socket;
use super::{Config, KmsError, log, rest};

/// The protocol's largest message: 32 KiB of annotations, 1 KiB each of wrapped key and key id, and their frame.
const MAX_MESSAGE: usize = 40 * 1024;
/// API servers hold one connection for each provider of theirs.
const MAX_CONNECTIONS: usize = 32;
const MAX_STREAMS: u32 = 256;
const MAX_HEADERS: u32 = 16 * 1024;
/// How long calls may take to end when the plugin is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// A plugin that nobody has asked for that long is at rest.
const REST: Duration = Duration::from_secs(5);
/// How long to wait with the next connection when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves at `socket` until `end`.
///
/// # Errors
/// [`KmsError`] if it cannot start: configuration, keys or socket. Once it serves, nothing ends it but `end`.
pub async fn serve(socket: &Path, config: &Config, end: impl Future<Output = ()>) -> Result<(), KmsError> {
    let listening = Socket::bind(socket)?;
    let fail = |error: io::Error| KmsError::Socket { path: socket.to_owned(), error };
    let listener = listening.listener().map_err(fail)?;
    let provider = config.provider()?;
    let name = provider.name();
    let plugin = Arc::new(Plugin::new(provider));
    log::info("serving", json!({"provider": name, "version": env!("CARGO_PKG_VERSION")}));
    notify("READY=1");

    let (closing, closed) = watch::channel(false);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    let (mut pause, mut seen, mut rests) = (tokio::time::interval(REST), 0, false);
    pause.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pause.reset();
    loop {
        // Connections that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = &mut end => break,
            _ = pause.tick() => {
                let calls = plugin.calls();
                if calls == seen && !rests {
                    rest::give_pages_back();
                }
                rests = calls == seen;
                seen = calls;
                continue;
            }
            accepted = async {
                let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
                Ok::<_, io::Error>((listener.accept().await?.0, slot))
            } => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (plugin, closed) = (plugin.clone(), closed.clone());
                connections.spawn(async move {
                    connection(stream, plugin, closed).await;
                    drop(slot);
                });
            }
            Err(error) => {
                log::error("connection refused", json!({"reason": error.to_string()}));
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    notify("STOPPING=1");
    // No new connection finds the socket; those that are there end after their calls.
    drop(listening);
    drop(listener);
    closing.send_replace(true);
    let drained = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    let report = plugin.report().await;
    let calls = |operation: Option<proto::OperationReport>| {
        operation.map(|operation| json!({"calls": operation.calls, "failures": operation.failures}))
    };
    log::info("ended", json!({"in_time": drained.is_ok(), "wrap": calls(report.wrap), "unwrap": calls(report.unwrap)}));
    Ok(())
}

async fn connection(stream: UnixStream, plugin: Arc<Plugin>, mut closed: watch::Receiver<bool>) {
    let service = service_fn(move |request| {
        let plugin = plugin.clone();
        async move { Ok::<_, Infallible>(route(plugin, request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .max_send_buf_size(MAX_MESSAGE);
    let mut served = pin!(builder.serve_connection(TokioIo::new(Readdressed::new(stream)), service));
    let mut closing = false;
    loop {
        tokio::select! {
            // A client that breaks off, or breaks the rules, ends its connection alone.
            _ = served.as_mut() => return,
            _ = closed.wait_for(|closed| *closed), if !closing => {
                closing = true;
                served.as_mut().graceful_shutdown();
            }
        }
    }
}

async fn route(plugin: Arc<Plugin>, request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        path::STATUS => unary(plugin, request, async |plugin, _: proto::Empty| Ok(plugin.status().await)).await,
        path::ENCRYPT => unary(plugin, request, encrypt).await,
        path::DECRYPT => unary(plugin, request, decrypt).await,
        path::VERSION_V1 => unary(plugin, request, version_v1).await,
        path::ENCRYPT_V1 => unary(plugin, request, encrypt_v1).await,
        path::DECRYPT_V1 => unary(plugin, request, decrypt_v1).await,
        path::REPORT => unary(plugin, request, async |plugin, _: proto::Empty| Ok(plugin.report().await)).await,
        _ => Status::unimplemented("there is no such method").into_http(),
    }
}

async fn encrypt(plugin: Arc<Plugin>, request: proto::EncryptRequest) -> Result<proto::EncryptResponse, Status> {
    let wrapped = plugin.encrypt(&request.plaintext).await?;
    Ok(proto::EncryptResponse { ciphertext: wrapped.ciphertext, key_id: wrapped.key_id })
}

async fn decrypt(plugin: Arc<Plugin>, request: proto::DecryptRequest) -> Result<proto::DecryptResponse, Status> {
    let mut plaintext = plugin.decrypt(&request.ciphertext).await?;
    Ok(proto::DecryptResponse { plaintext: std::mem::take(&mut *plaintext) })
}

async fn version_v1(_: Arc<Plugin>, _: proto::VersionRequestV1) -> Result<proto::VersionResponseV1, Status> {
    Ok(proto::VersionResponseV1 {
        version: proto::VERSION_V1.to_owned(),
        runtime_name: "kprov".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

async fn encrypt_v1(plugin: Arc<Plugin>, request: proto::EncryptRequestV1) -> Result<proto::EncryptResponseV1, Status> {
    Ok(proto::EncryptResponseV1 { cipher: plugin.encrypt(&request.plain).await?.ciphertext })
}

async fn decrypt_v1(plugin: Arc<Plugin>, request: proto::DecryptRequestV1) -> Result<proto::DecryptResponseV1, Status> {
    let mut plaintext = plugin.decrypt(&request.cipher).await?;
    Ok(proto::DecryptResponseV1 { plain: std::mem::take(&mut *plaintext) })
}

/// Reads the request's message, calls the method, and writes its answer's.
async fn unary<In, Out, F, Called>(plugin: Arc<Plugin>, request: Request<Incoming>, handler: F) -> Response<Body>
where
    In: prost::Message + Default + 'static,
    Out: prost::Message + 'static,
    F: FnMut(Arc<Plugin>, In) -> Called,
    Called: Future<Output = Result<Out, Status>> + Send + 'static,
{
    Grpc::new(ProstCodec::<Out, In>::default())
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE)
        .unary(Method { plugin, handler }, request)
        .await
}

/// A method as tonic wants it.
struct Method<F> {
    plugin: Arc<Plugin>,
    handler: F,
}

impl<In, Out, F, Called> UnaryService<In> for Method<F>
where
    F: FnMut(Arc<Plugin>, In) -> Called,
    Called: Future<Output = Result<Out, Status>> + Send + 'static,
{
    type Response = Out;
    type Future = BoxFuture<'static, Result<tonic::Response<Out>, Status>>;

    fn call(&mut self, request: tonic::Request<In>) -> Self::Future {
        (self.handler)(self.plugin.clone(), request.into_inner()).map(|result| result.map(tonic::Response::new)).boxed()
    }
}

/// Tells the service manager how the plugin is doing, if one asks (sd_notify(3)).
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::SocketAddr;

    let Some(target) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match target.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&target),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        log::error("the service manager cannot be told", json!({"reason": error.to_string()}));
    }
}
