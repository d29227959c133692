//! Keeping the logs of nodes that are about to be removed.

use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::adapters::kubernetes::ready::STATIC_PODS;
use crate::adapters::node::{Node, NodeError, STATIC_POD, last_lines};
use crate::adapters::paths::{self, Paths};
use crate::documents::names::ClusterName;

use super::ClusterError;
use super::error::LogFolder;

const LAST_WORDS: &str = include_str!("scripts/last_words.sh");
const CRASH_LOOP: &str = include_str!("scripts/crash_loop.sh");
const STARTS: &str = include_str!("scripts/starts.sh");
const KUBELET: &str = include_str!("scripts/kubelet.sh");
const LIST_LOGS: &str = include_str!("scripts/list_logs.sh");

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
    let names = node.script("listing logs", LIST_LOGS).await.unwrap_or_default();
    // What a node says is no path of ours.
    for name in names.lines().filter(|name| !name.starts_with('.') && !name.contains('/')) {
        let path = format!("/var/log/containers/{name}");
        if let Ok(text) = node.run(&["tail", "-n", "20000", &path]).await {
            logs.push((PathBuf::from("containers").join(name), text));
        }
    }
}

/// The last lines of the newest log of a static pod on `node`; `None` if it never ran.
pub(super) async fn last_words(node: &Node, component: &str) -> Option<String> {
    let script = format!("component={component}\n{LAST_WORDS}");
    let text = node.script(&format!("reading the log of {component}"), &script).await.ok()?;
    // Each line of a CRI log opens with time, stream and a flag.
    let bare: Vec<&str> = text.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or(line)).collect();
    let lines = last_lines(&bare.join("\n"), 14);
    (!lines.is_empty()).then_some(lines)
}

/// The static pod of a control plane that has run and does not now, and its last words: the first one, by who waits for whom.
pub(super) async fn silent(node: &Node) -> Option<(&'static str, String)> {
    for component in STATIC_PODS {
        if node.command_line(component).await.ok()?.is_none()
            && let Some(words) = last_words(node, component).await
        {
            return Some((component, words));
        }
    }
    None
}

/// The error of a command on a control plane, with the last words of what does not run there: that is mostly why.
pub(super) async fn with_last_words(node: &Node, error: NodeError) -> NodeError {
    match error {
        NodeError::Command { node: name, command, code, last_lines } => {
            let silent = silent(node).await;
            let last_lines = match silent {
                Some((component, words)) => format!("{last_lines}\n{component} does not run. Its last lines:\n{words}"),
                None => last_lines,
            };
            NodeError::Command { node: name, command, code, last_lines }
        }
        other => other,
    }
}

/// The starts of static pods that one may take for a loop, as [`crash_loop`] takes them; none if the node cannot be asked.
pub(super) async fn starts(node: &Node) -> String {
    node.script("listing starts of static pods", &format!("{STARTS}\nstarts")).await.unwrap_or_default()
}

/// The error of a control plane one of whose static pods has ended again since the starts in `known`, and keeps ending;
/// `None` if none does, or the node cannot be asked.
pub(super) async fn crash_loop(node: &Node, known: &str) -> Option<ClusterError> {
    let script = format!("known='{known}'\n{STATIC_POD}\n{STARTS}\n{CRASH_LOOP}");
    let said = node.script("looking for static pods that keep ending", &script).await.ok()?;
    let component = STATIC_PODS.into_iter().find(|component| *component == said.trim())?;
    Some(ClusterError::StaticPod {
        node: node.name.clone(),
        component,
        last_lines: last_words(node, component).await?,
        cause: "its container has ended several times".to_owned(),
    })
}

/// The error of a node whose kubelet keeps ending; `None` if it does not, or the node cannot be asked.
pub(super) async fn kubelet_loop(node: &Node) -> Option<ClusterError> {
    let said = node.script("looking at the kubelet", KUBELET).await.ok()?;
    let last_lines = last_lines(&said, 12);
    (!last_lines.is_empty()).then(|| ClusterError::Kubelet { node: node.name.clone(), last_lines })
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
