//! The plugin over a real socket, asked as API servers ask.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client::Client;
use super::proto::{self, path};
use super::{Config, KmsError, add_key, report, serve};

const DATA_KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
const LONG: Duration = Duration::from_secs(20);

/// A plugin with the provider `local` that serves within this process.
struct Running {
    folder: tempfile::TempDir,
    socket: PathBuf,
    end: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), KmsError>>,
}

impl Running {
    async fn start() -> Self {
        let folder = private_folder();
        let config = local_config(folder.path());
        let socket = folder.path().join("kms.sock");
        let (end, ended) = oneshot::channel::<()>();
        let served = tokio::spawn({
            let socket = socket.clone();
            async move { serve(&socket, &config, async { drop(ended.await) }).await }
        });
        let start = Instant::now();
        while !socket.exists() {
            assert!(start.elapsed() < LONG, "no socket");
            tokio::task::yield_now().await;
        }
        Self { folder, socket, end: Some(end), served }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.socket).await.unwrap()
    }

    async fn stop(mut self) {
        drop(self.end.take());
        tokio::time::timeout(LONG, &mut self.served).await.unwrap().unwrap().unwrap();
        assert!(!self.socket.exists(), "the socket is removed");
    }
}

/// By itself, tempfile leaves the mode to the umask.
fn private_folder() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn local_config(folder: &Path) -> Config {
    let keys = folder.join("keys.yaml");
    add_key(&keys).unwrap();
    let path = folder.join("config.yaml");
    std::fs::write(&path, format!("local: {{keyFile: {}}}", keys.display())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Config::read(&path).unwrap()
}

fn encrypt(plaintext: &[u8]) -> proto::EncryptRequest {
    proto::EncryptRequest { plaintext: plaintext.to_vec(), uid: "u".to_owned() }
}

fn decrypt(wrapped: &proto::EncryptResponse) -> proto::DecryptRequest {
    proto::DecryptRequest {
        ciphertext: wrapped.ciphertext.clone(),
        uid: "u".to_owned(),
        key_id: wrapped.key_id.clone(),
    }
}

#[tokio::test]
async fn v2_wraps_and_unwraps_by_the_key_that_status_names() {
    let plugin = Running::start().await;
    let mut client = plugin.client().await;
    let status: proto::StatusResponse = client.call(path::STATUS, proto::Empty {}).await.unwrap();
    assert_eq!((status.version.as_str(), status.healthz.as_str()), ("v2beta1", "ok"));
    let wrapped: proto::EncryptResponse = client.call(path::ENCRYPT, encrypt(DATA_KEY)).await.unwrap();
    assert_eq!(wrapped.key_id, status.key_id);
    let unwrapped: proto::DecryptResponse = client.call(path::DECRYPT, decrypt(&wrapped)).await.unwrap();
    assert_eq!(unwrapped.plaintext, DATA_KEY);
    plugin.stop().await;
}

#[tokio::test]
async fn v1_and_v2_unwrap_what_the_other_wrapped() {
    let plugin = Running::start().await;
    let mut client = plugin.client().await;
    let version = || "v1beta1".to_owned();
    let answer: proto::VersionResponseV1 =
        client.call(path::VERSION_V1, proto::VersionRequestV1 { version: version() }).await.unwrap();
    assert_eq!((answer.version.as_str(), answer.runtime_name.as_str()), ("v1beta1", "kprov"));
    let request = proto::EncryptRequestV1 { version: version(), plain: DATA_KEY.to_vec() };
    let by_v1: proto::EncryptResponseV1 = client.call(path::ENCRYPT_V1, request).await.unwrap();
    let by_v2: proto::EncryptResponse = client.call(path::ENCRYPT, encrypt(DATA_KEY)).await.unwrap();
    let request = proto::DecryptRequestV1 { version: version(), cipher: by_v2.ciphertext.clone() };
    let unwrapped: proto::DecryptResponseV1 = client.call(path::DECRYPT_V1, request).await.unwrap();
    assert_eq!(unwrapped.plain, DATA_KEY);
    let request = proto::DecryptRequest { ciphertext: by_v1.cipher, uid: String::new(), key_id: by_v2.key_id };
    let unwrapped: proto::DecryptResponse = client.call(path::DECRYPT, request).await.unwrap();
    assert_eq!(unwrapped.plaintext, DATA_KEY);
    plugin.stop().await;
}

#[tokio::test]
async fn what_the_protocol_does_not_allow_is_refused() {
    let plugin = Running::start().await;
    let mut client = plugin.client().await;
    let mut refused = async |path, request| {
        client.call::<proto::EncryptRequest, proto::EncryptResponse>(path, request).await.unwrap_err()
    };
    assert_eq!(refused(path::ENCRYPT, encrypt(&[0; 513])).await.code(), tonic::Code::InvalidArgument);
    assert_eq!(refused(path::ENCRYPT, encrypt(&[0; 100_000])).await.code(), tonic::Code::OutOfRange);
    assert_eq!(refused("/v2.KeyManagementService/Erase", encrypt(b"")).await.code(), tonic::Code::Unimplemented);
    let mut refused = async |ciphertext: Vec<u8>| {
        let request = proto::DecryptRequest { ciphertext, uid: String::new(), key_id: String::new() };
        client.call::<_, proto::DecryptResponse>(path::DECRYPT, request).await.unwrap_err().code()
    };
    assert_eq!(refused(vec![1; 1025]).await, tonic::Code::InvalidArgument);
    assert_eq!(refused(b"vault:v1:abc".to_vec()).await, tonic::Code::FailedPrecondition);
    plugin.stop().await;
}

#[tokio::test]
async fn who_sends_nonsense_ends_its_own_connection_alone() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let plugin = Running::start().await;
    let mut client = plugin.client().await;
    let frame = |length: usize, kind: u8, flags: u8, stream: u8, bytes: &[u8]| {
        let [.., a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, stream], bytes].concat()
    };
    let settings = frame(0, 4, 0, 0, b"");
    let half = [PREFACE, &settings, &frame(500, 1, 4, 1, &[0x82; 20])].concat();
    let endless = {
        // A block of headers that never ends.
        let mut bytes = [PREFACE, &settings, &frame(16_000, 1, 0, 1, &[0x82; 16_000])].concat();
        for _ in 0..20 {
            bytes.extend(frame(16_000, 9, 0, 1, &[0x82; 16_000]));
        }
        bytes
    };
    let huge = [PREFACE, &settings, &frame(0xff_ffff, 1, 4, 1, &[0x82; 4000])].concat();
    let broken = [PREFACE, &settings, &frame(8, 1, 5, 1, &[0xff; 8])].concat();
    for (what, bytes, stays) in [
        ("half a preface", &PREFACE[..9], true),
        ("no HTTP/2", b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", false),
        ("half a frame", &half, true),
        ("endless headers", &endless, false),
        ("a frame that is too large", &huge, false),
        ("headers that are none", &broken, false),
    ] {
        let mut stream = tokio::net::UnixStream::connect(&plugin.socket).await.unwrap();
        // What is refused early need not be read to its end.
        let _ = stream.write_all(bytes).await;
        if !stays {
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(LONG, stream.read_to_end(&mut answer)).await;
            assert!(ended.is_ok(), "{what}: the connection stays");
        }
        // Others are served all the while.
        let wrapped: proto::EncryptResponse = client.call(path::ENCRYPT, encrypt(DATA_KEY)).await.unwrap();
        let unwrapped: proto::DecryptResponse = client.call(path::DECRYPT, decrypt(&wrapped)).await.unwrap();
        assert_eq!(unwrapped.plaintext, DATA_KEY, "{what}");
    }
    plugin.stop().await;
}

#[tokio::test]
async fn a_rotation_shows_in_status_and_in_what_is_wrapped() {
    let plugin = Running::start().await;
    let mut client = plugin.client().await;
    let before: proto::EncryptResponse = client.call(path::ENCRYPT, encrypt(DATA_KEY)).await.unwrap();
    let new = add_key(&plugin.folder.path().join("keys.yaml")).unwrap();
    let after: proto::EncryptResponse = client.call(path::ENCRYPT, encrypt(DATA_KEY)).await.unwrap();
    let status: proto::StatusResponse = client.call(path::STATUS, proto::Empty {}).await.unwrap();
    assert_eq!((&after.key_id, &status.key_id), (&new, &new));
    assert_ne!(before.key_id, new);
    let unwrapped: proto::DecryptResponse = client.call(path::DECRYPT, decrypt(&before)).await.unwrap();
    assert_eq!(unwrapped.plaintext, DATA_KEY);
    plugin.stop().await;
}

#[tokio::test]
async fn the_report_counts() {
    let plugin = Running::start().await;
    let mut client = plugin.client().await;
    for _ in 0..3 {
        let _: proto::EncryptResponse = client.call(path::ENCRYPT, encrypt(DATA_KEY)).await.unwrap();
    }
    let request = proto::DecryptRequest { ciphertext: vec![1; 60], uid: String::new(), key_id: String::new() };
    assert!(client.call::<_, proto::DecryptResponse>(path::DECRYPT, request).await.is_err());
    let report = report(&plugin.socket).await.unwrap();
    assert_eq!((report.wrap.calls, report.wrap.failures), (3, 0));
    assert_eq!((report.unwrap.calls, report.unwrap.failures), (1, 1));
    assert_eq!((report.provider.as_str(), report.problem), ("local", None));
    assert!(report.key_id.starts_with("local-"));
    plugin.stop().await;
}

#[tokio::test]
async fn nobody_behind_a_socket_is_an_error_that_says_so() {
    let folder = private_folder();
    let error = report(&folder.path().join("kms.sock")).await.unwrap_err();
    assert!(matches!(error, KmsError::NoAnswer { .. }), "{error}");
}

#[tokio::test]
async fn more_clients_than_there_is_room_for_wait_their_turn() {
    let plugin = Running::start().await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(plugin.client().await);
    }
    // The first ones are served; when they go, the others are.
    for mut client in clients {
        let wrapped: proto::EncryptResponse =
            tokio::time::timeout(LONG, client.call(path::ENCRYPT, encrypt(DATA_KEY))).await.unwrap().unwrap();
        assert!(!wrapped.ciphertext.is_empty());
    }
    plugin.stop().await;
}
