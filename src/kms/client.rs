//! Asking a plugin over its socket what it says of itself.

use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic_prost::ProstCodec;

use super::KmsError;
use super::proto::{Empty, HEALTHY, OperationReport, ReportResponse, path};

/// Longer than any call within the plugin may take.
const PATIENCE: Duration = Duration::from_secs(12);

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The plugin's version.
    pub version: String,
    /// The provider.
    pub provider: String,
    /// What is wrong with the KMS; `None` if nothing is.
    pub problem: Option<String>,
    /// The id of the key that wraps now; empty if the KMS does not tell.
    pub key_id: String,
    /// For how many seconds the plugin has been running.
    pub uptime_seconds: u64,
    /// Data keys that were wrapped.
    pub wrap: Operation,
    /// Data keys that were unwrapped.
    pub unwrap: Operation,
    /// Questions whether the KMS works, and by which key it wraps.
    pub status: Operation,
    /// In how many seconds the login to the KMS expires, if there is one that does.
    pub login_expires_in_seconds: Option<u64>,
    /// How much memory the plugin has.
    pub resident_bytes: u64,
}

/// The calls of one kind, since the plugin started; latencies are of the last 1,024 that went well.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// How many.
    pub calls: u64,
    /// How many of them failed.
    pub failures: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_micros: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_micros: u64,
    /// How many that went well kept which bound, for metrics.
    #[serde(skip)]
    pub(super) buckets: Vec<u64>,
    /// What all that went well took together, in microseconds.
    #[serde(skip)]
    pub(super) sum_micros: u64,
}

impl From<OperationReport> for Operation {
    fn from(report: OperationReport) -> Self {
        Self {
            calls: report.calls,
            failures: report.failures,
            p50_micros: report.p50_micros,
            p99_micros: report.p99_micros,
            buckets: report.buckets,
            sum_micros: report.sum_micros,
        }
    }
}

/// Asks the plugin at `socket`.
///
/// # Errors
/// [`KmsError::NoAnswer`] if there is none, or if it is not kprov's.
pub async fn report(socket: &Path) -> Result<Report, KmsError> {
    let fail = |reason: String| KmsError::NoAnswer { path: socket.to_owned(), reason };
    let asked = async {
        let mut client = Client::connect(socket).await.map_err(|error| fail(error.to_string()))?;
        client.call(path::REPORT, Empty {}).await.map_err(|status| fail(status.message().to_owned()))
    };
    let report: ReportResponse = tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(fail(format!("nothing within {PATIENCE:?}"))))?;
    Ok(Report {
        version: report.version,
        provider: report.provider,
        problem: (report.healthz != HEALTHY).then_some(report.healthz),
        key_id: report.key_id,
        uptime_seconds: report.uptime_seconds,
        wrap: report.wrap.unwrap_or_default().into(),
        unwrap: report.unwrap.unwrap_or_default().into(),
        status: report.status.unwrap_or_default().into(),
        login_expires_in_seconds: report.login_expires_in_seconds,
        resident_bytes: report.resident_bytes,
    })
}

/// A connection to a plugin.
#[derive(Clone)]
pub(super) struct Client(Grpc<Channel>);

impl Client {
    pub(super) async fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        // Ends when the sender is dropped; its errors are the calls'.
        tokio::spawn(connection);
        Ok(Self(Grpc::with_origin(Channel(sender), Uri::from_static("http://localhost"))))
    }

    pub(super) async fn call<In, Out>(&mut self, path: &'static str, message: In) -> Result<Out, tonic::Status>
    where
        In: prost::Message + 'static,
        Out: prost::Message + Default + 'static,
    {
        self.0.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<In, Out>::default();
        let answer = self.0.unary(tonic::Request::new(message), PathAndQuery::from_static(path), codec).await?;
        Ok(answer.into_inner())
    }
}

/// hyper's connection as tonic wants it.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl GrpcService<Body> for Channel {
    type ResponseBody = Incoming;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Response<Incoming>, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.send_request(request).boxed()
    }
}
