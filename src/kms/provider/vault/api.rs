//! HTTP to the server: TLS by the configured CA alone, bounded answers, errors without a secret.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::super::super::KmsError;
use super::config::{Certificate, Config, LoginMethod};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Servers ask for it, as a guard against forged requests.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// No answer of the calls that are made here is larger.
const MAX_ANSWER: usize = 1 << 20;
/// That much of the server's reason is passed on.
const MAX_REASON: usize = 200;
const IDLE: Duration = Duration::from_secs(90);
const IDLE_CONNECTIONS: usize = 8;

/// Why a call failed.
#[derive(Debug, Clone)]
pub(super) enum ApiError {
    /// The server says no.
    Status { code: u16, reason: String },
    /// The server cannot be reached, or not trusted.
    Unreachable(String),
    /// What the plugin needs for the call is not there, or the answer makes no sense.
    Other(String),
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status { code: 503, .. } => f.write_str("the server is sealed or in maintenance (503)"),
            Self::Status { code, .. } if (300..400).contains(code) => {
                write!(f, "the server answers {code}: it names another server, which is not followed")
            }
            Self::Status { code, reason } if reason.is_empty() => write!(f, "the server answers {code}"),
            Self::Status { code, reason } => write!(f, "the server answers {code}: {reason}"),
            Self::Unreachable(reason) => write!(f, "the server cannot be reached: {reason}"),
            Self::Other(reason) => f.write_str(reason),
        }
    }
}

/// The server's HTTP interface.
pub(super) struct Api {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    base: String,
    namespace: Option<HeaderValue>,
    patience: Duration,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<String>,
}

impl Api {
    pub(super) fn new(config: &Config) -> Result<Self, KmsError> {
        let fail = |reason: String| KmsError::Provider(reason);
        let patience = Duration::from_secs(config.timeout_seconds);
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(patience));
        let mut connector = HttpsConnectorBuilder::new().with_tls_config(tls(config)?).https_only();
        if let Some(name) = &config.server_name {
            let name = ServerName::try_from(name.clone()).map_err(|error| fail(format!("serverName: {error}")))?;
            connector = connector.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector.enable_http1().wrap_connector(http));
        let namespace = config.namespace.as_deref().map(HeaderValue::from_str).transpose();
        Ok(Self {
            client,
            base: format!("{}/v1", config.address.trim_end_matches('/')),
            namespace: namespace.map_err(|error| fail(format!("namespace: {error}")))?,
            patience,
        })
    }

    /// The server, as it is told.
    fn address(&self) -> &str {
        self.base.trim_end_matches("/v1")
    }

    /// One call, within its time.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&[u8]>,
    ) -> Result<T, ApiError> {
        let late = |_| ApiError::Unreachable(format!("{}: it says nothing within {:?}", self.address(), self.patience));
        let (status, answer) =
            tokio::time::timeout(self.patience, self.exchange(method, path, token, body)).await.map_err(late)??;
        if !status.is_success() {
            // A proxy's page is no reason.
            let errors = serde_json::from_slice::<Refusal>(&answer).map(|refusal| refusal.errors).unwrap_or_default();
            let reason: String = errors.join("; ").split_whitespace().collect::<Vec<_>>().join(" ");
            return Err(ApiError::Status { code: status.as_u16(), reason: reason.chars().take(MAX_REASON).collect() });
        }
        // The parser's own words might repeat a part of the answer.
        serde_json::from_slice(&answer).map_err(|_| ApiError::Other("the server's answer makes no sense".to_owned()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<&[u8]>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), ApiError> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .header(REQUEST, "true");
        if let Some(namespace) = &self.namespace {
            request = request.header(NAMESPACE, namespace);
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| ApiError::Other("the token cannot be sent in a header".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(TOKEN, value);
        }
        let body = Bytes::copy_from_slice(body.unwrap_or_default());
        let request = request.body(Full::new(body)).map_err(|error| ApiError::Other(error.to_string()))?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| ApiError::Unreachable(format!("{}: {}", self.address(), innermost(&error))))?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| ApiError::Unreachable(error.to_string()))?
            .to_bytes();
        Ok((status, Zeroizing::new(answer.to_vec())))
    }
}

/// A JSON object of texts, wiped when dropped.
pub(super) fn body(fields: &[(&str, &str)]) -> Zeroizing<Vec<u8>> {
    // Six bytes for an escaped one, so that nothing is copied when it grows.
    let room = fields.iter().map(|(name, value)| 6 * (name.len() + value.len()) + 8).sum::<usize>() + 2;
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    let fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
    serde_json::to_writer(&mut *body, &fields).expect("texts can be written to memory");
    body
}

fn tls(config: &Config) -> Result<ClientConfig, KmsError> {
    let read =
        |path: &std::path::Path| std::fs::read(path).map_err(|error| KmsError::File { path: path.to_owned(), error });
    let certificates = |path: &std::path::Path| {
        let fail = |reason: String| KmsError::Config { path: path.to_owned(), reason };
        let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(path)?)
            .collect::<Result<_, _>>()
            .map_err(|error| fail(error.to_string()))?;
        if found.is_empty() { Err(fail("there is no certificate in it".to_owned())) } else { Ok(found) }
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&config.ca_file)? {
        roots
            .add(certificate)
            .map_err(|error| KmsError::Config { path: config.ca_file.clone(), reason: error.to_string() })?;
    }
    let fail = |error: rustls::Error| KmsError::Provider(format!("TLS: {error}"));
    let builder = ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(fail)?
        .with_root_certificates(roots);
    let LoginMethod::Certificate(Certificate { certificate_file, key, .. }) = config.login.method() else {
        return Ok(builder.with_no_client_auth());
    };
    let key = key.read()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| KmsError::Provider("the client certificate's key is no PEM".to_owned()))?;
    builder.with_client_auth_cert(certificates(&certificate_file)?, key).map_err(fail)
}

/// What lies at the bottom of an error: hyper's own words name neither the host nor the reason.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    // What an I/O error wraps, it does not name as its source.
    let mut within = Some(error);
    while let Some(wrapped) = within {
        if let Some(text) = wrapped.downcast_ref::<rustls::Error>().and_then(distrust) {
            return text.to_owned();
        }
        let inner = wrapped.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        within = inner.map(|inner| inner as &(dyn std::error::Error + 'static));
    }
    error.to_string()
}

/// Why the server is not trusted, in words for who runs it.
fn distrust(error: &rustls::Error) -> Option<&'static str> {
    use rustls::CertificateError as Certificate;
    let rustls::Error::InvalidCertificate(certificate) = error else { return None };
    Some(match certificate {
        Certificate::UnknownIssuer => "its certificate is not signed by the CA that the plugin was given",
        Certificate::Expired | Certificate::ExpiredContext { .. } => "its certificate has expired, by the clock here",
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
            "its certificate is not valid yet, by the clock here"
        }
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            "its certificate is another server's"
        }
        _ => return None,
    })
}
