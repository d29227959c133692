//! A server that answers as Vault does, over TLS, and can be made to fail; and, by hand, a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const DATA_KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const SECRET_ID: &str = "5ec2e7\"1d";
const LONG: Duration = Duration::from_secs(20);

/// What the server knows, and how it behaves.
struct Knowledge {
    /// The creation of each version of the key.
    versions: BTreeMap<u64, u64>,
    tokens: BTreeSet<String>,
    logins: usize,
    renewals: usize,
    lease: u64,
    renewable: bool,
    sealed: bool,
    /// Answers this to everything but logins.
    denied: bool,
    /// Sends everybody to another server.
    elsewhere: bool,
    namespaces: BTreeSet<String>,
}

/// The fake server; it ends when it is dropped.
struct Server {
    knowledge: Arc<Mutex<Knowledge>>,
    address: SocketAddr,
    folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

impl Server {
    async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_at(address: SocketAddr) -> Self {
        Self::start_with(address, |_| {}).await
    }

    async fn start_with(address: SocketAddr, alter: impl FnOnce(&mut CertificateParams)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = authority("test CA");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        alter(&mut params);
        let certificate = params.signed_by(&key, &ca).unwrap();
        std::fs::write(folder.path().join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(folder.path().join("other-ca.pem"), authority("another CA").pem()).unwrap();
        let client_key = KeyPair::generate().unwrap();
        let mut client = CertificateParams::new(vec!["plugin".to_owned()]).unwrap();
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        std::fs::write(folder.path().join("client.pem"), client.signed_by(&client_key, &ca).unwrap().pem()).unwrap();
        write_private(&folder.path().join("client.key"), &client_key.serialize_pem());
        write_private(&folder.path().join("role-id"), "role\n");
        write_private(&folder.path().join("secret-id"), SECRET_ID);
        write_private(&folder.path().join("token"), "s.static\n");

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let knowledge = Arc::new(Mutex::new(Knowledge {
            versions: BTreeMap::from([(1, 1_700_000_000)]),
            tokens: BTreeSet::from(["s.static".to_owned()]),
            logins: 0,
            renewals: 0,
            lease: 3600,
            renewable: true,
            sealed: false,
            denied: false,
            elsewhere: false,
            namespaces: BTreeSet::new(),
        }));
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        let known = knowledge.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, known) = (acceptor.clone(), known.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certified = stream.get_ref().1.peer_certificates().is_some();
                    let service = service_fn(move |request| {
                        let known = known.clone();
                        async move { Ok::<_, Infallible>(respond(&known, certified, request).await) }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { knowledge, address, folder, _tasks: tasks }
    }

    fn knows(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap()
    }

    fn config(&self, login: &str) -> Config {
        self.config_with(login, "ca.pem", "")
    }

    fn config_with(&self, login: &str, ca: &str, more: &str) -> Config {
        let folder = self.folder.path().display();
        let login = login.replace("DIR", &folder.to_string());
        let address = self.address;
        let text = format!("{{address: 'https://{address}', caFile: {folder}/{ca}, key: k8s, login: {login}{more}}}");
        let config: Config = serde_yaml::from_str(&text).unwrap();
        config.check().unwrap();
        config
    }

    fn vault(&self) -> Arc<Vault> {
        Vault::start(&self.config(APP_ROLE)).unwrap()
    }
}

const APP_ROLE: &str = "{appRole: {roleId: {file: DIR/role-id}, secretId: {file: DIR/secret-id}}}";
const TOKEN: &str = "{token: {file: DIR/token}}";
const CERTIFICATE: &str = "{certificate: {role: kms, certificateFile: DIR/client.pem, key: {file: DIR/client.key}}}";

async fn respond(knowledge: &Mutex<Knowledge>, certified: bool, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (parts, body) = request.into_parts();
    let body: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap_or_default();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut known = knowledge.lock().unwrap();
    known.namespaces.insert(header("x-vault-namespace").to_owned());
    let answer = |code: u16, value: Value| {
        let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
        *response.status_mut() = StatusCode::from_u16(code).unwrap();
        response
    };
    let refused = |code: u16, reason: &str| answer(code, json!({"errors": [reason]}));
    if known.sealed {
        return refused(503, "Vault is sealed");
    }
    if known.elsewhere {
        let mut response = answer(307, json!({}));
        response.headers_mut().insert("location", "https://evil.example/v1".parse().unwrap());
        return response;
    }
    let path = parts.uri.path();
    let login = match path {
        "/v1/auth/approle/login" => Some(body["role_id"] == "role" && body["secret_id"] == SECRET_ID),
        "/v1/auth/cert/login" => Some(certified && body["name"] == "kms"),
        _ => None,
    };
    if let Some(good) = login {
        if !good {
            return refused(400, "invalid role or secret ID");
        }
        known.logins += 1;
        let token = format!("s.login-{}", known.logins);
        known.tokens.insert(token.clone());
        let auth = json!({"client_token": token, "lease_duration": known.lease, "renewable": known.renewable});
        return answer(200, json!({"auth": auth}));
    }
    if !known.tokens.contains(header("x-vault-token")) || known.denied {
        return refused(403, "permission denied");
    }
    let latest = known.versions.keys().last().copied().unwrap_or_default();
    match path {
        "/v1/auth/token/lookup-self" => {
            answer(200, json!({"data": {"ttl": known.lease, "renewable": known.renewable}}))
        }
        "/v1/auth/token/renew-self" => {
            known.renewals += 1;
            let auth =
                json!({"client_token": header("x-vault-token"), "lease_duration": known.lease, "renewable": true});
            answer(200, json!({"auth": auth}))
        }
        "/v1/transit/keys/k8s" if latest == 0 => answer(404, json!({"errors": []})),
        "/v1/transit/keys/k8s" => {
            let keys: BTreeMap<String, u64> = known.versions.iter().map(|(v, at)| (v.to_string(), *at)).collect();
            answer(200, json!({"data": {"latest_version": latest, "keys": keys}}))
        }
        "/v1/transit/encrypt/k8s" => {
            let ciphertext = format!("vault:v{latest}:{}", body["plaintext"].as_str().unwrap());
            answer(200, json!({"data": {"ciphertext": ciphertext, "key_version": latest}}))
        }
        "/v1/transit/decrypt/k8s" => match body["ciphertext"].as_str().unwrap().splitn(3, ':').nth(2) {
            Some(plaintext) if BASE64.decode(plaintext).is_ok() => {
                answer(200, json!({"data": {"plaintext": plaintext}}))
            }
            _ => refused(400, "invalid ciphertext"),
        },
        _ => refused(404, "no handler"),
    }
}

/// Tries until it works: for what comes back by itself.
async fn until<T, E: std::fmt::Display>(mut what: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match what().await {
            Ok(value) => return value,
            Err(error) if start.elapsed() > LONG => panic!("still {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

#[tokio::test]
async fn every_login_wraps_and_unwraps() {
    let server = Server::start().await;
    for login in [APP_ROLE, TOKEN, CERTIFICATE] {
        let vault = Vault::start(&server.config(login)).unwrap();
        let wrapped = vault.encrypt(DATA_KEY).await.unwrap();
        assert!(wrapped.ciphertext.starts_with(b"vault:v1:"), "{login}");
        assert_eq!(vault.key_id().await.unwrap(), wrapped.key_id);
        assert_eq!(vault.decrypt(&wrapped.ciphertext).await.unwrap().as_slice(), DATA_KEY);
        assert!(vault.login_expires_in().is_some_and(|seconds| (3590..=3600).contains(&seconds)));
    }
    assert_eq!(server.knows().logins, 2, "each of the two that log in has done so once");
}

#[tokio::test]
async fn a_rotation_shows_in_the_very_next_wrapped_key() {
    let server = Server::start().await;
    let vault = server.vault();
    let old = vault.encrypt(DATA_KEY).await.unwrap();
    server.knows().versions.insert(2, 1_700_000_100);
    // No Status in between: the id must be that of the version that was used.
    let new = vault.encrypt(DATA_KEY).await.unwrap();
    assert!(old.key_id.starts_with("vault-v1-") && new.key_id.starts_with("vault-v2-"));
    assert_eq!(vault.key_id().await.unwrap(), new.key_id);
    assert_eq!(vault.decrypt(&old.ciphertext).await.unwrap().as_slice(), DATA_KEY);
}

#[tokio::test]
async fn a_key_made_anew_under_its_name_has_another_id() {
    let server = Server::start().await;
    let vault = server.vault();
    let before = vault.key_id().await.unwrap();
    assert_eq!(vault.key_id().await.unwrap(), before);
    server.knows().versions.insert(1, 1_800_000_000);
    assert_ne!(vault.key_id().await.unwrap(), before);
}

#[tokio::test]
async fn a_login_is_renewed_at_half_its_life() {
    let server = Server::start().await;
    server.knows().lease = 2;
    let vault = server.vault();
    until(async || if server.knows().renewals >= 2 { Ok(()) } else { Err("not renewed") }).await;
    assert_eq!(server.knows().logins, 1);
    assert!(vault.login_expires_in().is_some_and(|seconds| seconds <= 2));
}

#[tokio::test]
async fn what_cannot_be_renewed_is_replaced() {
    let server = Server::start().await;
    {
        let mut known = server.knows();
        (known.lease, known.renewable) = (2, false);
    }
    let _vault = server.vault();
    until(async || if server.knows().logins >= 2 { Ok(()) } else { Err("no second login") }).await;
    assert_eq!(server.knows().renewals, 0);
}

#[tokio::test]
async fn a_lease_cut_short_leads_to_a_new_login() {
    let server = Server::start().await;
    server.knows().lease = 4;
    let vault = server.vault();
    vault.key_id().await.unwrap();
    // The token's greatest age comes near: a renewal gives less and less.
    server.knows().lease = 1;
    until(async || if server.knows().logins >= 2 { Ok(()) } else { Err("no second login") }).await;
}

#[tokio::test]
async fn a_lease_without_end_is_no_end_of_the_plugin() {
    let server = Server::start().await;
    server.knows().lease = u64::MAX;
    for login in [APP_ROLE, TOKEN] {
        let vault = Vault::start(&server.config(login)).unwrap();
        until(async || vault.encrypt(DATA_KEY).await).await;
        assert!(vault.login_expires_in().is_some_and(|seconds| seconds > 24 * 3600), "{login}");
    }
    // One that is renewed for ever, too.
    server.knows().lease = 2;
    let vault = server.vault();
    vault.key_id().await.unwrap();
    server.knows().lease = u64::MAX;
    until(async || if server.knows().renewals > 0 { Ok(()) } else { Err("not renewed") }).await;
    vault.encrypt(DATA_KEY).await.unwrap();
    assert_eq!(server.knows().logins, 2, "the login was renewed, not made anew");
}

#[tokio::test]
async fn a_server_that_sends_elsewhere_is_told_and_not_followed() {
    let server = Server::start().await;
    let vault = server.vault();
    vault.key_id().await.unwrap();
    server.knows().elsewhere = true;
    let error = vault.encrypt(DATA_KEY).await.unwrap_err().to_string();
    assert!(error.contains("307") && error.contains("another server, which is not followed"), "{error}");
    assert!(!error.contains("evil"), "{error}");
}

#[tokio::test]
async fn a_revoked_token_is_replaced_without_anybody_noticing_for_long() {
    let server = Server::start().await;
    let vault = server.vault();
    vault.key_id().await.unwrap();
    server.knows().tokens.clear();
    until(async || vault.encrypt(DATA_KEY).await).await;
    assert_eq!(server.knows().logins, 2);
}

#[tokio::test]
async fn a_policy_that_denies_is_told_and_does_not_log_in_all_the_time() {
    let server = Server::start().await;
    let vault = server.vault();
    vault.key_id().await.unwrap();
    server.knows().denied = true;
    for _ in 0..50 {
        let error = vault.encrypt(DATA_KEY).await.unwrap_err();
        assert!(matches!(&error, ProviderError::Denied(text) if text.contains("the policy must allow")), "{error}");
    }
    assert!(server.knows().logins <= 3, "{} logins", server.knows().logins);
}

#[tokio::test]
async fn a_sealed_server_is_waited_out() {
    let server = Server::start().await;
    let vault = server.vault();
    vault.key_id().await.unwrap();
    server.knows().sealed = true;
    for error in [vault.key_id().await.unwrap_err(), vault.encrypt(DATA_KEY).await.unwrap_err()] {
        assert!(matches!(&error, ProviderError::Unavailable(text) if text.contains("sealed")), "{error}");
    }
    server.knows().sealed = false;
    vault.encrypt(DATA_KEY).await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_late_is_found() {
    // A port that is free, since its server has ended.
    let gone = Server::start().await;
    let config = gone.config(TOKEN);
    let Server { address, folder, _tasks: mut tasks, .. } = gone;
    tasks.shutdown().await;
    let vault = Vault::start(&config).unwrap();
    let error = vault.key_id().await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unavailable(text) if text.contains("refused")), "{error}");
    drop(folder);
    // It comes with another CA than the one that was read: it is there, and is not trusted.
    let server = Server::start_at(address).await;
    let error = vault.key_id().await.unwrap_err();
    assert!(error.to_string().contains("reached"), "{error}");
    // With its own CA, a plugin that started before it finds it.
    let vault = Vault::start(&server.config(TOKEN)).unwrap();
    until(async || vault.key_id().await).await;
}

#[tokio::test]
async fn a_server_with_another_ca_is_not_trusted() {
    let server = Server::start().await;
    let vault = Vault::start(&server.config_with(APP_ROLE, "other-ca.pem", "")).unwrap();
    let error = vault.encrypt(DATA_KEY).await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unavailable(text) if text.contains("not signed by the CA")), "{error}");
    assert!(error.to_string().contains(&format!("https://{}: its", server.address)), "{error}");
    assert_eq!(server.knows().logins, 0, "no secret was sent");
}

/// The clock of this host, or the server's, was moved.
#[tokio::test]
async fn a_certificate_of_another_time_is_told() {
    for (from, until, said) in [(1999, 2001, "has expired, by the clock here"), (2999, 3001, "is not valid yet")] {
        let server = Server::start_with("127.0.0.1:0".parse().unwrap(), |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        })
        .await;
        let error = server.vault().encrypt(DATA_KEY).await.unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(server.knows().logins, 0, "no secret was sent");
    }
}

#[tokio::test]
async fn the_name_in_the_certificate_can_be_told() {
    let server = Server::start().await;
    let good =
        Vault::start(&server.config_with(APP_ROLE, "ca.pem", ", serverName: localhost, namespace: team/a")).unwrap();
    good.key_id().await.unwrap();
    assert!(server.knows().namespaces.contains("team/a"));
    let bad = Vault::start(&server.config_with(APP_ROLE, "ca.pem", ", serverName: elsewhere")).unwrap();
    assert!(bad.key_id().await.unwrap_err().to_string().contains("its certificate is another server's"));
}

#[tokio::test]
async fn a_key_that_is_gone_is_told() {
    let server = Server::start().await;
    let vault = server.vault();
    server.knows().versions.clear();
    let error = vault.key_id().await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unavailable(text) if text.ends_with("there is no such key")), "{error}");
}

#[tokio::test]
async fn what_was_wrapped_elsewhere_is_refused_without_asking() {
    let server = Server::start().await;
    let vault = server.vault();
    for foreign in [b"\x01local".as_slice(), b"vault:vx:abc", b"vault:v1", &[0xff, 0xfe]] {
        let error = vault.decrypt(foreign).await.unwrap_err();
        assert!(matches!(&error, ProviderError::Unknown(text) if text.contains("not wrapped")), "{error}");
    }
    let error = vault.decrypt(b"vault:v1:\"}{").await.unwrap_err();
    assert!(matches!(&error, ProviderError::Unknown(text) if text.contains("invalid ciphertext")), "{error}");
}

#[tokio::test]
async fn a_refused_login_says_so_without_the_secret() {
    let server = Server::start().await;
    write_private(&server.folder.path().join("secret-id"), "wrong-secret");
    let vault = server.vault();
    let error = vault.encrypt(DATA_KEY).await.unwrap_err().to_string();
    assert!(error.contains("logging in") && !error.contains("wrong-secret"), "{error}");
    std::fs::set_permissions(server.folder.path().join("secret-id"), std::fs::Permissions::from_mode(0o644)).unwrap();
    until(async || match vault.encrypt(DATA_KEY).await.unwrap_err().to_string() {
        error if error.contains("is open to others") => Ok(()),
        other => Err(other),
    })
    .await;
    // A new secret id is read without a restart.
    write_private(&server.folder.path().join("secret-id"), SECRET_ID);
    until(async || vault.encrypt(DATA_KEY).await).await;
}
