//! kprov's KMS plugin on a control plane, asked what it says of itself.

use serde::{Deserialize, Serialize};

use crate::adapters::node::{Node, NodeError};
use crate::documents::encryption::PLUGIN_SOCKET;
use crate::documents::render::{PLUGIN_SOCKET_FOLDER, PLUGIN_START};

/// What a plugin says of itself, and what is seen of its socket. One on a node may be of an older kprov, which says less.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginReport {
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
    pub wrap: Calls,
    /// Data keys that were unwrapped.
    pub unwrap: Calls,
    /// Questions whether the KMS works, and by which key it wraps.
    #[serde(default)]
    pub status: Calls,
    /// In how many seconds the login to the KMS expires, if there is one that does.
    pub login_expires_in_seconds: Option<u64>,
    /// How much memory the plugin has.
    #[serde(default)]
    pub resident_bytes: u64,
    /// Mode and owner of the socket and of its folder.
    #[serde(skip)]
    pub modes: Vec<String>,
}

/// The calls of one kind, since the plugin started; latencies are of the last ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Calls {
    /// How many.
    pub calls: u64,
    /// How many of them failed.
    pub failures: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_micros: u64,
    /// 99 of 100 took no longer, in microseconds.
    pub p99_micros: u64,
}

impl PluginReport {
    /// Whether nobody but root can reach the socket.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.modes == ["600 root:root", "700 root:root"]
    }
}

/// Asks the plugin on a control plane; the error is what is wrong with it, in words.
///
/// # Errors
/// [`NodeError`] if the node cannot be asked at all.
pub async fn report(node: &Node) -> Result<Result<PluginReport, String>, NodeError> {
    let command = [PLUGIN_START, "kms", "status", "--socket", PLUGIN_SOCKET, "--output", "json"];
    let output = node.try_output(&command, None).await?;
    let Ok(mut report) = serde_json::from_slice::<PluginReport>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr);
        // What it says is drawn for people; its first words are the message.
        let line = said.lines().map(str::trim).find(|line| line.starts_with('×') || line.contains("error"));
        let line = line.or_else(|| said.lines().next()).unwrap_or("it says nothing");
        return Ok(Err(line.trim_start_matches(['×', ' ']).to_owned()));
    };
    let modes = node.run(&["stat", "-c", "%a %U:%G", PLUGIN_SOCKET, PLUGIN_SOCKET_FOLDER]).await?;
    report.modes = modes.lines().map(|line| line.trim().to_owned()).collect();
    Ok(Ok(report))
}
