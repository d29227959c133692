//! Rewriting what is stored, through the API, until etcd holds nothing under another key.
//!
//! What is left to do is read from etcd, page by page, so that an interrupted rewriting goes on where it was.
//! Each object gets an empty patch: the API server reads it, finds it stored under another key than the one that
//! writes, and writes it again, unchanged (k8s.io/apiserver/pkg/storage/etcd3, `GuaranteedUpdate`). No value leaves it.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client};

use crate::adapters::etcd::Etcd;
use crate::adapters::kubernetes::ApiError;
use crate::documents::encryption::{KeyId, Move};
use crate::documents::stored::classify;
use crate::operations::verify::etcd_prefix;

use super::EncryptionError;

/// How many objects are rewritten at a time.
const PARALLEL: usize = 16;

/// How often a request is repeated that may succeed later; with the pauses, about a minute.
const TRIES: u32 = 35;

/// How often everything is looked through before what is left counts as refused.
const ROUNDS: usize = 10;

/// A resource and where it is stored.
#[derive(Debug, Clone)]
struct Stored {
    name: String,
    api: ApiResource,
    namespaced: bool,
    prefix: String,
    to: KeyId,
}

/// Rewrites every resource of these moves; gives how many objects it has rewritten.
pub(super) async fn rewrite(
    client: &Client,
    etcd: &Etcd,
    moves: &[Move],
    detail: impl Fn(&str),
) -> Result<usize, EncryptionError> {
    let mut rewritten = 0;
    for resource in resources(client, etcd, moves).await? {
        let mut left = stale(etcd, &resource.prefix, &resource.to).await?;
        for _ in 0..ROUNDS {
            if left.is_empty() {
                break;
            }
            let (total, mut done) = (left.len(), 0);
            let mut patches =
                stream::iter(left.iter().map(|key| patch(client, &resource, key))).buffer_unordered(PARALLEL);
            while let Some(()) = patches.try_next().await? {
                done += 1;
                if done % 10 == 0 || done == total {
                    detail(&format!("{}: {done} of {total}", resource.name));
                }
            }
            drop(patches);
            rewritten += done;
            // Whoever wrote meanwhile, wrote with the new key; this is the proof.
            left = stale(etcd, &resource.prefix, &resource.to).await?;
        }
        if let Some(key) = left.first() {
            return Err(EncryptionError::Left { resource: resource.name, count: left.len(), key: key.clone() });
        }
    }
    Ok(rewritten)
}

/// The first key, if there is any, that is stored otherwise than by the moves' new key.
pub(super) async fn unproven(etcd: &Etcd, client: &Client, moves: &[Move]) -> Result<Option<String>, EncryptionError> {
    for resource in resources(client, etcd, moves).await? {
        if let Some(key) = stale(etcd, &resource.prefix, &resource.to).await?.into_iter().next() {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// Keys below `prefix` that are stored otherwise than `to` would.
async fn stale(etcd: &Etcd, prefix: &str, to: &KeyId) -> Result<Vec<String>, EncryptionError> {
    let wanted = to.stored();
    let mut keys = Vec::new();
    etcd.scan(prefix, |entry| {
        if classify(&entry.value).to_string() != wanted {
            keys.push(entry.key.clone());
        }
    })
    .await?;
    Ok(keys)
}

async fn patch(client: &Client, resource: &Stored, key: &str) -> Result<(), EncryptionError> {
    let rest = key.strip_prefix(&resource.prefix).unwrap_or(key);
    let (api, name): (Api<DynamicObject>, &str) = match rest.split_once('/') {
        Some((namespace, name)) if resource.namespaced => {
            (Api::namespaced_with(client.clone(), namespace, &resource.api), name)
        }
        _ => (Api::all_with(client.clone(), &resource.api), rest),
    };
    let (nothing, params) = (Patch::Merge(serde_json::json!({})), PatchParams::default());
    let mut pause = Duration::from_millis(50);
    for attempt in 1.. {
        let answer = api.patch_metadata(name, &params, &nothing).await;
        match answer.map(|_: PartialObjectMeta<DynamicObject>| ()) {
            Ok(()) => break,
            // Deleted meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => break,
            Err(error) if attempt < TRIES && passes(&error) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(error) => return Err(ApiError::request(format!("rewriting {key}"))(error).into()),
        }
    }
    Ok(())
}

/// Whether the same request may succeed later: a conflict, an overload, an API server that is being restarted.
fn passes(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 401 | 403 | 409 | 429 | 500..),
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

/// The resources of the moves, wildcards spelled out.
async fn resources(client: &Client, etcd: &Etcd, moves: &[Move]) -> Result<Vec<Stored>, EncryptionError> {
    let mut found: Vec<Stored> = Vec::new();
    for way in moves {
        for name in &way.resources {
            let served = served(client, name).await?;
            if served.is_empty() && !etcd.keys(&etcd_prefix(name)).await?.is_empty() {
                return Err(EncryptionError::NotServed { resource: name.clone() });
            }
            for (api, namespaced) in served {
                let name =
                    if api.group.is_empty() { api.plural.clone() } else { format!("{}.{}", api.plural, api.group) };
                if !found.iter().any(|known| known.name == name) {
                    found.push(Stored { prefix: etcd_prefix(&name), name, api, namespaced, to: way.to.clone() });
                }
            }
        }
    }
    Ok(found)
}

/// What the API server serves under a name of an EncryptionConfiguration: `secrets`, `widgets.example.com`,
/// `*.apps`, `*.` or `*.*`.
async fn served(client: &Client, name: &str) -> Result<Vec<(ApiResource, bool)>, ApiError> {
    let (plural, group) = name.split_once('.').unwrap_or((name, ""));
    let mut versions: Vec<(String, String)> = Vec::new();
    if group.is_empty() || group == "*" {
        versions.push((String::new(), "v1".to_owned()));
    }
    if !group.is_empty() {
        let doing = "asking for the API's groups";
        for known in retried(doing, || client.list_api_groups()).await?.groups {
            if group != "*" && known.name != group {
                continue;
            }
            if let Some(version) = known.preferred_version.or_else(|| known.versions.first().cloned()) {
                versions.push((known.name, version.version));
            }
        }
    }
    let mut found = Vec::new();
    for (group, version) in versions {
        let doing = format!("asking for the resources of {group}/{version}");
        let list = if group.is_empty() {
            retried(&doing, || client.list_core_api_resources(&version)).await?
        } else {
            let group_version = format!("{group}/{version}");
            retried(&doing, async || client.list_api_group_resources(&group_version).await).await?
        };
        let fits = |resource: &&APIResource| {
            let whole = !resource.name.contains('/');
            let can = resource.verbs.iter().any(|verb| verb == "patch");
            whole && can && (plural == "*" || resource.name == plural)
        };
        for resource in list.resources.iter().filter(fits) {
            let api = ApiResource {
                api_version: if group.is_empty() { version.clone() } else { format!("{group}/{version}") },
                group: group.clone(),
                version: version.clone(),
                kind: resource.kind.clone(),
                plural: resource.name.clone(),
            };
            found.push((api, resource.namespaced));
        }
    }
    Ok(found)
}

/// Repeats a request while the API server is being restarted.
async fn retried<T>(doing: &str, request: impl AsyncFn() -> Result<T, kube::Error>) -> Result<T, ApiError> {
    let mut attempt = 1;
    loop {
        match request().await {
            Err(error) if attempt < TRIES && passes(&error) => {
                attempt += 1;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            other => return other.map_err(ApiError::request(doing)),
        }
    }
}
