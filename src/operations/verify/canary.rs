//! The canary: a Secret that is written through the API and read back raw from etcd.

use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde::Serialize;

use crate::adapters::etcd::Etcd;
use crate::adapters::kubernetes::ApiError;
use crate::documents::stored;

use super::VerifyError;

const NAMESPACE: &str = "default";

/// How many of the raw value's first bytes are shown: the prefix and some of what follows.
const SHOWN: usize = 64;

/// What came of the canary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Its key in etcd.
    pub key: String,
    /// How it is stored.
    pub stored: String,
    /// A hexdump of the raw value's first bytes.
    pub first_bytes: String,
    /// Whether the raw value holds what was written.
    pub plain_text_found: bool,
}

/// Writes a Secret, reads its raw value below `root`, and removes it again, whatever comes of it.
pub(super) async fn fly(client: &Client, etcd: &Etcd, root: &str) -> Result<Canary, VerifyError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let (name, plain) = (format!("kprov-canary-{}", random_hex()), format!("plain text {}", random_hex()));
    let mut secret = Secret::default();
    secret.metadata.name = Some(name.clone());
    secret.string_data = Some([("canary".to_owned(), plain.clone())].into());
    api.create(&PostParams::default(), &secret).await.map_err(ApiError::request("writing the canary Secret"))?;
    let key = format!("{root}secrets/{NAMESPACE}/{name}");
    let read = etcd.get(&key).await;
    let deleted = api.delete(&name, &DeleteParams::default()).await;
    let entry = read?.ok_or_else(|| ApiError::Manifest {
        name: name.clone(),
        reason: format!("written through the API, but etcd has no {key}"),
    })?;
    deleted.map_err(ApiError::request("removing the canary Secret"))?;
    let first = &entry.value[..entry.value.len().min(SHOWN)];
    Ok(Canary {
        stored: stored::classify(&entry.value).to_string(),
        first_bytes: stored::hexdump(first),
        plain_text_found: contains(&entry.value, plain.as_bytes()),
        key,
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// 64 random bits; a clash would only make the API server refuse the canary.
fn random_hex() -> String {
    format!("{:016x}", getrandom::u64().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_found_wherever_it_is() {
        assert!(contains(b"k8s\0 plain text 1 tail", b"plain text 1"));
        assert!(!contains(b"k8s:enc:aescbc:v1:key1:\x01", b"plain text 1"));
        assert!(!contains(b"", b"x"));
    }
}
