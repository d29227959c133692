//! Kubelets that have asked in vain, before there was an API server to answer.
//!
//! Owns how they are told that there is one. Each thing that a kubelet watches is asked for by itself, and each that was asked for
//! in vain waits longer before it is asked for again: up to thirty seconds, and by chance up to twice that
//! (client-go, `tools/cache/reflector.go`). One that is started anew asks for all of them at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join_all};
use kube::Client;

use crate::adapters::kubernetes::ready;
use crate::adapters::node::{Node, NodeError};

/// How often the API is asked which kubelets say that they wait.
const LOOK: Duration = Duration::from_secs(2);

/// How long what a kubelet said before it was started anew may still be there to be read.
const STALE: Duration = Duration::from_secs(20);

/// Starts kubelets anew, but not one that somebody has stopped; does not wait until they run.
///
/// # Errors
/// [`NodeError`] of the first node on which that fails.
pub(super) async fn start_anew(nodes: impl IntoIterator<Item = &Node>) -> Result<(), NodeError> {
    let nodes = nodes.into_iter();
    try_join_all(nodes.map(|node| node.run(&["systemctl", "try-restart", "--no-block", "kubelet"]))).await.map(|_| ())
}

/// Starts kubelets anew that say that they cannot start containers since they know of no services yet. Never ends, and its type
/// says so; what fails is only slower.
pub(super) async fn rouse(client: &Client, nodes: &[Node]) -> Infallible {
    let mut roused: BTreeMap<&str, Instant> = BTreeMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let Ok(waiting) = ready::without_services(client).await else { continue };
        let said_anew = |node: &&Node| roused.get(&*node.name).is_none_or(|then| then.elapsed() > STALE);
        let waiting: Vec<&Node> = nodes.iter().filter(|node| waiting.contains(&node.name)).filter(said_anew).collect();
        join_all(waiting.iter().map(|node| start_anew([*node]))).await;
        roused.extend(waiting.iter().map(|node| (&*node.name, Instant::now())));
    }
}
