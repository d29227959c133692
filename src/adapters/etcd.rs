//! What is really stored: raw keys and values, read from etcd inside a control-plane node.
//!
//! Writes nothing but kprov's own marker, outside of all that the API server keeps. What a value is, `documents::stored` tells; what *should* be stored is `verify`'s affair.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::adapters::node::{END_STATIC_POD, Node, NodeError, STATIC_POD};
use crate::documents::encryption::{GroupResource, Layout};
use crate::documents::static_pod::flag_of;
use crate::documents::stored::classify;

/// How often etcd is asked before an answer that breaks off counts as none.
const TRIES: u8 = 3;

/// How many values are read at a time: a page of large values stays within a few MiB.
const PAGE: usize = 500;

/// The unit on a node that a member's log is renewed in, and a folder of its own.
const RENEWAL: (&str, &str) = ("kprov-renew-log.service", "/run/kprov-renew-log");

/// How many seconds renewing a log may take; then the unit is ended, and etcd runs as before.
const RENEWAL_SECONDS: u32 = 150;

/// How often members are asked whether they are well, and how long they may take to be so.
const ASK: Duration = Duration::from_millis(500);
const WELL: Duration = Duration::from_secs(60);

const AWAIT_UNIT: &str = include_str!("etcd/scripts/await_unit.sh");
const FILES_WITH: &str = include_str!("etcd/scripts/files_with.sh");
const IN_UNIT: &str = include_str!("etcd/scripts/in_unit.sh");
const LAST_LOG: &str = include_str!("etcd/scripts/last_log.sh");
const RENEW_LOG: &str = include_str!("etcd/scripts/renew_log.sh");

/// The API server's default prefix in etcd.
pub const ROOT: &str = "/registry/";

/// A key and its value, as they are in etcd.
#[derive(Clone)]
pub struct EtcdEntry {
    /// The key.
    pub key: String,
    /// The raw value; wiped when dropped.
    pub value: Zeroizing<Vec<u8>>,
    /// The revision of the last change.
    pub mod_revision: i64,
}

#[derive(Deserialize, Default)]
struct Header {
    revision: i64,
}

#[derive(Deserialize)]
struct RangeResponse {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    kvs: Vec<KeyValue>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct KeyValue {
    key: String,
    #[serde(default)]
    value: Zeroizing<String>,
    #[serde(default)]
    mod_revision: i64,
}

/// etcd, as seen from one control-plane node.
#[derive(Debug, Clone)]
pub struct Etcd {
    node: Node,
}

impl Etcd {
    /// etcd on `node`, which must be a control plane.
    #[must_use]
    pub fn on(node: Node) -> Self {
        Self { node }
    }

    /// The value of one key; `None` if there is no such key.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn get(&self, key: &str) -> Result<Option<EtcdEntry>, NodeError> {
        Ok(self.range(&["get", key]).await?.0.into_iter().next())
    }

    /// All keys that start with `prefix`, in order.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, NodeError> {
        let (entries, _) = self.range(&["get", prefix, "--prefix", "--keys-only"]).await?;
        Ok(entries.into_iter().map(|entry| entry.key).collect())
    }

    /// Calls `visit` for every key that starts with `prefix`, in order, page by page.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn scan(&self, prefix: &str, mut visit: impl FnMut(&EtcdEntry)) -> Result<(), NodeError> {
        let limit = format!("--limit={PAGE}");
        let end = prefix_end(prefix);
        let mut from = prefix.to_owned();
        loop {
            let (entries, more) = self.range(&["get", &from, &end, &limit]).await?;
            for entry in &entries {
                visit(entry);
            }
            match entries.last() {
                // The smallest key behind the last one: a trailing NUL cannot be passed as an
                // argument, so a space stands in; no API object's key continues with one.
                Some(last) if more => from = format!("{} ", last.key),
                _ => return Ok(()),
            }
        }
    }

    /// How the values of each rule are stored, by their first bytes, and how many so. A value belongs to the rule that
    /// names its resource most exactly.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn census(
        &self,
        layout: &Layout,
        rules: &[GroupResource],
    ) -> Result<Vec<BTreeMap<String, usize>>, NodeError> {
        let of = |resource: &GroupResource| {
            let exactly = |index: &usize| rules[*index].names(resource);
            // The first of equals.
            (0..rules.len()).rev().filter(|index| exactly(index).is_some()).max_by_key(exactly)
        };
        let resources = layout.resources().iter();
        let wanted: Vec<(&str, usize)> =
            resources.filter_map(|known| Some((known.prefix.as_str(), of(&known.name)?))).collect();
        let all = rules.iter().any(GroupResource::is_wildcard);
        let each = wanted.iter().map(|(prefix, _)| *prefix);
        let prefixes: Vec<&str> = if all { vec![layout.root()] } else { each.collect() };
        let mut counts = vec![BTreeMap::new(); rules.len()];
        for prefix in prefixes {
            let visit = |entry: &EtcdEntry| {
                if let Some((_, index)) = wanted.iter().find(|(prefix, _)| entry.key.starts_with(prefix)) {
                    *counts[*index].entry(classify(&entry.value).to_string()).or_insert(0) += 1;
                }
            };
            self.scan(prefix, visit).await?;
        }
        Ok(counts)
    }

    /// Writes a value of kprov's own.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn put(&self, key: &str, value: &str) -> Result<(), NodeError> {
        self.ask(&["put", key, value]).await.map(|_| ())
    }

    /// Deletes a value of kprov's own. One that is not there is no error.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn delete(&self, key: &str) -> Result<(), NodeError> {
        self.ask(&["del", key]).await.map(|_| ())
    }

    /// Has etcd forget all revisions but the last one of each key, on every member.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn compact(&self) -> Result<(), NodeError> {
        let answer = self.ask(&["get", "/", "--limit=1", "--keys-only"]).await?;
        let revision = self.parsed::<RangeResponse>(&answer)?.header.revision.to_string();
        match self.ask(&["compaction", &revision, "--physical=true", "--command-timeout=60s"]).await {
            // An API server does so, too, every five minutes.
            Err(NodeError::Command { last_lines, .. }) if last_lines.contains("has been compacted") => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Has this member write its database anew, without what it has forgotten.
    ///
    /// # Errors
    /// [`NodeError::Command`] if etcd does not run, or refuses; [`NodeError::Engine`] if its node does not run.
    pub async fn defragment(&self) -> Result<(), NodeError> {
        self.ask(&["defrag", "--command-timeout=60s"]).await.map(|_| ())
    }

    /// The files of this member that hold any of these texts, byte by byte, as paths below its data folder.
    ///
    /// # Errors
    /// [`NodeError`] if the node cannot be asked.
    pub async fn files_with(&self, texts: &[String]) -> Result<Vec<String>, NodeError> {
        let script = format!("folder={}\n{FILES_WITH}", self.folder().await?);
        let texts = Zeroizing::new(texts.join("\n").into_bytes());
        let found = self.node.feed("looking through etcd's files", &script, texts).await?;
        let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
        found.sort();
        Ok(found)
    }

    /// Where this member keeps its data, as a word of a script: what a node says is no command.
    async fn folder(&self) -> Result<String, NodeError> {
        let command = self.node.command_line("etcd").await?.unwrap_or_default();
        let folder = flag_of(&command, "data-dir").unwrap_or_else(|| "/var/lib/etcd".to_owned());
        Ok(word(&folder))
    }

    /// The segment of its write-ahead log that this member writes to; what it has written until now is in none behind it.
    ///
    /// # Errors
    /// [`NodeError`] if the node cannot be asked.
    pub async fn last_log(&self) -> Result<String, NodeError> {
        let script = format!("folder={}\n{LAST_LOG}", self.folder().await?);
        Ok(self.node.script("looking at etcd's log", &script).await?.trim().to_owned())
    }

    /// Waits until every member answers, so that one of them can be missed.
    ///
    /// # Errors
    /// [`NodeError::Command`] with what etcd says if one does not in good time.
    pub async fn await_members(&self) -> Result<(), NodeError> {
        let begun = Instant::now();
        loop {
            match self.ask(&["endpoint", "health", "--cluster"]).await {
                Ok(_) => return Ok(()),
                Err(error) if begun.elapsed() > WELL => return Err(error),
                Err(_) => tokio::time::sleep(ASK).await,
            }
        }
    }

    /// Has this member begin a new write-ahead log, and drop all up to the segment `last` with all that was ever written to
    /// it. etcd and the API server of this node are away meanwhile, and are being started when this returns. It comes to its
    /// end on the node, whatever becomes of this process.
    ///
    /// # Errors
    /// [`NodeError::Command`] says why not, lack of space or an etcd that cannot, say: then etcd runs as before.
    pub async fn renew_log(&self, last: &str) -> Result<(), NodeError> {
        let ((unit, work), folder) = (RENEWAL, self.folder().await?);
        let known = format!("folder={folder} last={} work='{work}'", word(last));
        let script = format!("{known}\n{STATIC_POD}\n{END_STATIC_POD}\n{RENEW_LOG}");
        let launch = format!("unit='{unit}' work='{work}' size={} seconds={RENEWAL_SECONDS}\n{IN_UNIT}", script.len());
        self.node.feed("renewing etcd's log", &launch, Zeroizing::new(script.into_bytes())).await.map(|_| ())
    }

    /// Waits for a renewal of the log that an earlier process has begun. Says whether there was one.
    ///
    /// # Errors
    /// [`NodeError`] if the node cannot be asked.
    pub async fn log_is_renewed(&self) -> Result<bool, NodeError> {
        let (unit, _) = RENEWAL;
        let script = format!("unit='{unit}'\n{AWAIT_UNIT}");
        Ok(!self.node.script("waiting for etcd's log to be renewed", &script).await?.is_empty())
    }

    /// What etcd's own tool says, as JSON.
    async fn ask(&self, arguments: &[&str]) -> Result<Zeroizing<Vec<u8>>, NodeError> {
        // The API server's own client certificate is not in etcd's pod; etcd's server certificate is,
        // and is good for clients as well.
        let mut command = vec![
            "etcdctl",
            // By name: in IPv6 clusters etcd listens at no other address of this host than ::1.
            "--endpoints=https://localhost:2379",
            "--cacert=/etc/kubernetes/pki/etcd/ca.crt",
            "--cert=/etc/kubernetes/pki/etcd/server.crt",
            "--key=/etc/kubernetes/pki/etcd/server.key",
            "--write-out=json",
        ];
        command.extend(arguments);
        Ok(self.node.run_in_container("etcd", &command).await?.stdout)
    }

    fn unreadable(&self, reason: String) -> NodeError {
        NodeError::File { node: self.node.name.clone(), path: "etcdctl's answer".to_owned(), reason }
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, answer: &[u8]) -> Result<T, NodeError> {
        serde_json::from_slice(answer).map_err(|error| self.unreadable(error.to_string()))
    }

    async fn range(&self, arguments: &[&str]) -> Result<(Vec<EtcdEntry>, bool), NodeError> {
        let fail = |reason: String| self.unreadable(reason);
        let mut tries = 0;
        let response: RangeResponse = loop {
            let answer = self.ask(arguments).await?;
            tries += 1;
            match serde_json::from_slice(&answer) {
                Ok(response) => break response,
                // containerd's tool may end before it has handed on all that its command has said.
                Err(error) if error.is_eof() && tries < TRIES => {}
                Err(error) => return Err(fail(error.to_string())),
            }
        };
        let mut entries = Vec::with_capacity(response.kvs.len());
        for kv in response.kvs {
            let key = BASE64.decode(&kv.key).map_err(|error| fail(error.to_string()))?;
            let value =
                BASE64.decode(kv.value.as_str()).map(Zeroizing::new).map_err(|error| fail(error.to_string()))?;
            entries.push(EtcdEntry {
                key: String::from_utf8_lossy(&key).into_owned(),
                value,
                mod_revision: kv.mod_revision,
            });
        }
        Ok((entries, response.more))
    }
}

/// A text as one word of a shell script, whatever is in it.
fn word(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The first key behind all that start with `prefix`.
fn prefix_end(prefix: &str) -> String {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    String::from_utf8(bytes).unwrap_or_else(|_| "\u{7f}".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_one() {
        assert_eq!(word("/var/lib/etcd"), "'/var/lib/etcd'");
        assert_eq!(word("/x'; reboot; '"), r"'/x'\''; reboot; '\'''");
    }

    #[test]
    fn a_prefix_ends_before_its_sibling() {
        assert_eq!(prefix_end("/registry/secrets/"), "/registry/secrets0");
    }
}
