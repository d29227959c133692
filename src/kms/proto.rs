//! The messages of k8s.io/kms (`apis/v2`, `apis/v1beta1`) and of the plugin's own report, written out: nobody who
//! builds this needs protoc. Those that carry a data key wipe it when dropped; the buffers of HTTP/2 are not wiped.

use zeroize::Zeroize as _;

/// The version that Status answers: API servers accept it from 1.27 on.
pub(super) const VERSION: &str = "v2beta1";
/// The version that v1's Version answers.
pub(super) const VERSION_V1: &str = "v1beta1";
/// What Status says when all is well.
pub(super) const HEALTHY: &str = "ok";

/// Methods by their paths.
pub(super) mod path {
    pub(crate) const STATUS: &str = "/v2.KeyManagementService/Status";
    pub(crate) const ENCRYPT: &str = "/v2.KeyManagementService/Encrypt";
    pub(crate) const DECRYPT: &str = "/v2.KeyManagementService/Decrypt";
    pub(crate) const VERSION_V1: &str = "/v1beta1.KeyManagementService/Version";
    pub(crate) const ENCRYPT_V1: &str = "/v1beta1.KeyManagementService/Encrypt";
    pub(crate) const DECRYPT_V1: &str = "/v1beta1.KeyManagementService/Decrypt";
    pub(crate) const REPORT: &str = "/kprov.kms.v1.Plugin/Report";
}

/// A message without fields.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) healthz: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) ciphertext: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) key_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptResponse {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plaintext: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VersionRequestV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VersionResponseV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) runtime_name: String,
    #[prost(string, tag = "3")]
    pub(super) runtime_version: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptRequestV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) plain: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EncryptResponseV1 {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) cipher: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptRequestV1 {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) cipher: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DecryptResponseV1 {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) plain: Vec<u8>,
}

/// What the plugin says of itself; the plugin's own method, not Kubernetes'.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ReportResponse {
    #[prost(string, tag = "1")]
    pub(super) version: String,
    #[prost(string, tag = "2")]
    pub(super) provider: String,
    #[prost(string, tag = "3")]
    pub(super) healthz: String,
    #[prost(string, tag = "4")]
    pub(super) key_id: String,
    #[prost(uint64, tag = "5")]
    pub(super) uptime_seconds: u64,
    #[prost(message, optional, tag = "6")]
    pub(super) wrap: Option<OperationReport>,
    #[prost(message, optional, tag = "7")]
    pub(super) unwrap: Option<OperationReport>,
    #[prost(uint64, optional, tag = "8")]
    pub(super) login_expires_in_seconds: Option<u64>,
    #[prost(message, optional, tag = "9")]
    pub(super) status: Option<OperationReport>,
    #[prost(uint64, tag = "10")]
    pub(super) resident_bytes: u64,
}

/// The calls of one kind.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct OperationReport {
    #[prost(uint64, tag = "1")]
    pub(super) calls: u64,
    #[prost(uint64, tag = "2")]
    pub(super) failures: u64,
    #[prost(uint64, tag = "3")]
    pub(super) p50_micros: u64,
    #[prost(uint64, tag = "4")]
    pub(super) p99_micros: u64,
    #[prost(uint64, repeated, tag = "5")]
    pub(super) buckets: Vec<u64>,
    #[prost(uint64, tag = "6")]
    pub(super) sum_micros: u64,
}

/// Wipes the field that holds a data key when the message is dropped.
macro_rules! wiped {
    ($($message:ident . $field:ident),+ $(,)?) => {$(
        impl Drop for $message {
            fn drop(&mut self) {
                self.$field.zeroize();
            }
        }
    )+};
}

wiped!(EncryptRequest.plaintext, DecryptResponse.plaintext, EncryptRequestV1.plain, DecryptResponseV1.plain,);
