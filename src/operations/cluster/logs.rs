//! Keeping the logs of nodes that are about to be removed.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::adapters::node::Node;
use crate::adapters::paths::{self, Paths};
use crate::documents::names::ClusterName;

use super::error::LogFolder;

/// How long the logs of one node may take: they are kept while somebody waits for an error.
const PATIENCE: Duration = Duration::from_secs(30);

/// Writes each node's logs into a new folder below the user's data folder. What cannot be read is left out:
/// the nodes are in trouble, or nobody would ask.
pub(super) async fn keep(paths: &Paths, cluster: &ClusterName, nodes: &[Node]) -> Option<LogFolder> {
    let stamp = k8s_openapi::jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
    let folder = paths.logs().join(format!("{cluster}-{stamp}"));
    let mut kept = false;
    let logs = join_all(nodes.iter().map(read)).await;
    for (node, logs) in nodes.iter().zip(logs) {
        for (name, text) in logs {
            kept |= paths::write_private(&folder.join(&node.name).join(name), text.as_bytes()).is_ok();
        }
    }
    kept.then_some(LogFolder(folder))
}

/// What can be read of a node's logs in good time.
async fn read(node: &Node) -> Vec<(PathBuf, String)> {
    let mut logs = Vec::new();
    // What has been read until then is worth keeping.
    let _ = timeout(PATIENCE, read_into(node, &mut logs)).await;
    logs
}

async fn read_into(node: &Node, logs: &mut Vec<(PathBuf, String)>) {
    if let Ok(text) = node.engine().last_logs(&node.name, 5000).await {
        logs.push((PathBuf::from("container.log"), text));
    }
    if !node.is_running().await.unwrap_or(false) {
        return;
    }
    for unit in ["kubelet", "containerd"] {
        if let Ok(text) = node.run(&["journalctl", "--no-pager", "--lines=20000", "--unit", unit]).await {
            logs.push((PathBuf::from(format!("{unit}.log")), text));
        }
    }
    let list = "cd /var/log/containers 2>/dev/null && ls || true";
    let names = node.script("listing logs", list).await.unwrap_or_default();
    // What a node says is no path of ours.
    for name in names.lines().filter(|name| !name.starts_with('.') && !name.contains('/')) {
        let path = format!("/var/log/containers/{name}");
        if let Ok(text) = node.run(&["tail", "-n", "20000", &path]).await {
            logs.push((PathBuf::from("containers").join(name), text));
        }
    }
}

/// The last lines of the newest log of the API server on `node`; `None` if it never ran.
pub(super) async fn api_server_last_lines(node: &Node) -> Option<String> {
    let script = "f=$(ls -t /var/log/containers/kube-apiserver-*.log 2>/dev/null | head -n 1); \
                  [ -z \"$f\" ] || tail -n 20 \"$f\"";
    let text = node.script("reading the API server's log", script).await.ok()?;
    // Each line of a CRI log opens with time, stream and a flag.
    let bare: Vec<&str> = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line)).collect();
    let lines = crate::adapters::node::last_lines(&bare.join("\n"), 12);
    (!lines.is_empty()).then_some(lines)
}

/// The last lines of the API server on `node`, if its container has ended more than once: the first end may be due to
/// etcd's being slower.
pub(super) async fn api_server_crash_loop(node: &Node) -> Option<String> {
    let script = "ls /var/log/pods/kube-system_kube-apiserver-*/kube-apiserver/ 2>/dev/null | sort -n | tail -n 1";
    let newest = node.script("counting the API server's starts", script).await.ok()?;
    // Logs are called 0.log, 1.log and so on, a number a start.
    let restarts: u32 = newest.trim().trim_end_matches(".log").parse().ok()?;
    if restarts < 2 { None } else { api_server_last_lines(node).await }
}

#[cfg(test)]
mod tests {
    use crate::adapters::engine::Engine;
    use crate::documents::profile::Role;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nodes_that_do_not_answer_hold_nobody_up() {
        let (folder, engine) = Engine::silent();
        let paths = Paths::at(folder.path().join("data"), folder.path().join("config"));
        let nodes = ["a-control-plane", "a-worker"].map(|name| Node::new(engine.clone(), name, Role::Worker));
        let start = tokio::time::Instant::now();
        assert!(keep(&paths, &"a".parse().unwrap(), &nodes).await.is_none());
        assert!(start.elapsed() <= PATIENCE + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
