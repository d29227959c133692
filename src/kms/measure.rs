//! Asking a plugin, whoever's it is, as an API server does by the protocol's second version: is what it wraps what it
//! unwraps, and how fast is it.

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde::Serialize;
use zeroize::Zeroizing;

use super::KmsError;
use super::client::Client;
use super::proto::{self, path};

/// What an API server sends: a seed of 32 bytes.
const DATA_KEY: usize = 32;

/// What a plugin has shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// The id of the key that wrapped.
    pub key_id: String,
    /// How many bytes a wrapped key has.
    pub wrapped_bytes: usize,
    /// Wrapping.
    pub wrap: Timing,
    /// Unwrapping.
    pub unwrap: Timing,
}

/// How fast calls of one kind were.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Timing {
    /// How many, all of them right.
    pub calls: usize,
    /// How many in a second.
    pub per_second: f64,
    /// Half of them took no longer, in microseconds.
    pub p50_micros: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_micros: u64,
}

/// Has `calls` random data keys wrapped and unwrapped, `at_a_time` of them at once, over one connection, and compares.
///
/// # Errors
/// [`KmsError::NoAnswer`] if the plugin or its KMS does not do its part, [`KmsError::Wrong`] if what it answers is wrong.
pub async fn measure(socket: &Path, calls: usize, at_a_time: usize) -> Result<Measured, KmsError> {
    let no_answer = |reason: String| KmsError::NoAnswer { path: socket.to_owned(), reason };
    let wrong = |problem: String| KmsError::Wrong { path: socket.to_owned(), problem };
    let mut client = Client::connect(socket).await.map_err(|error| no_answer(error.to_string()))?;
    let status: proto::StatusResponse =
        client.call(path::STATUS, proto::Empty {}).await.map_err(|status| no_answer(status.message().to_owned()))?;
    if status.healthz != proto::HEALTHY {
        return Err(no_answer(status.healthz));
    }
    let mut keys = Vec::with_capacity(calls.max(1));
    for _ in 0..calls.max(1) {
        let mut key = Zeroizing::new(vec![0; DATA_KEY]);
        getrandom::fill(&mut key).map_err(|error| no_answer(format!("there are no random bytes: {error}")))?;
        keys.push(key);
    }
    let wrap = async |client: &mut Client, index: usize| {
        let request = proto::EncryptRequest { plaintext: keys[index].to_vec(), uid: format!("kprov-{index}") };
        client.call::<_, proto::EncryptResponse>(path::ENCRYPT, request).await
    };
    let (wrapped, wrap) = timed(&client, keys.len(), at_a_time, wrap)
        .await
        .map_err(|status| no_answer(format!("wrapping: {}", status.message())))?;
    let unwrap = async |client: &mut Client, index: usize| {
        let proto::EncryptResponse { ciphertext, key_id } = wrapped[index].clone();
        let request = proto::DecryptRequest { ciphertext, key_id, uid: format!("kprov-{index}") };
        client.call::<_, proto::DecryptResponse>(path::DECRYPT, request).await
    };
    let (unwrapped, unwrap) = timed(&client, keys.len(), at_a_time, unwrap)
        .await
        .map_err(|status| no_answer(format!("unwrapping: {}", status.message())))?;
    for ((key, wrapped), unwrapped) in keys.iter().zip(&wrapped).zip(&unwrapped) {
        if unwrapped.plaintext != key.as_slice() {
            return Err(wrong("it does not unwrap what it has wrapped".to_owned()));
        }
        if wrapped.ciphertext.is_empty() || wrapped.ciphertext.windows(DATA_KEY).any(|bytes| bytes == key.as_slice()) {
            return Err(wrong("what it calls wrapped holds the data key as it is".to_owned()));
        }
        if wrapped.key_id.is_empty() {
            return Err(wrong("it does not say which key has wrapped".to_owned()));
        }
    }
    // A rotation meanwhile is no fault: the id of the last one counts.
    let last = wrapped.last().cloned().unwrap_or_default();
    Ok(Measured { key_id: last.key_id, wrapped_bytes: last.ciphertext.len(), wrap, unwrap })
}

/// Does `calls` calls, each lane one after the other.
async fn timed<T>(
    client: &Client,
    calls: usize,
    at_a_time: usize,
    call: impl AsyncFn(&mut Client, usize) -> Result<T, tonic::Status>,
) -> Result<(Vec<T>, Timing), tonic::Status> {
    let lanes = at_a_time.clamp(1, calls);
    let begun = Instant::now();
    let lane = async |lane: usize| {
        let mut client = client.clone();
        let mut done = Vec::new();
        for index in (lane..calls).step_by(lanes) {
            let start = Instant::now();
            done.push((index, call(&mut client, index).await?, start.elapsed()));
        }
        Ok::<_, tonic::Status>(done)
    };
    let mut done: Vec<(usize, T, Duration)> = try_join_all((0..lanes).map(lane)).await?.into_iter().flatten().collect();
    let seconds = begun.elapsed().as_secs_f64();
    done.sort_unstable_by_key(|(index, ..)| *index);
    let mut times: Vec<u64> =
        done.iter().map(|(.., time)| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)).collect();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).saturating_sub(1)];
    let timing = Timing { calls, per_second: calls as f64 / seconds, p50_micros: at(50), p99_micros: at(99) };
    Ok((done.into_iter().map(|(_, answer, _)| answer).collect(), timing))
}
