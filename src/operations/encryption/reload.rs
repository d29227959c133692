//! Whether an API server has read a changed EncryptionConfiguration by itself.
//!
//! It looks at the file once a minute (k8s.io/apiserver/pkg/server/options/encryptionconfig/controller), and says
//! in its metrics which one it has: newer ones by the file's sha256, older ones by the time of the last reload only.

use std::time::Duration;

use crate::adapters::node::{Node, NodeError};

/// How long a reload may take: two looks, and some.
pub(super) const RELOAD: Duration = Duration::from_secs(150);

const PREFIX: &str = "apiserver_encryption_config_controller_";

/// Prints metrics of an API server.
const METRICS: &str = include_str!("scripts/metrics.sh");

/// What an API server says of its configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    /// It has the file as it is.
    Yes,
    /// It has read the file and could not use it.
    Refused,
    /// It has an older one, or does not say.
    NotYet,
}

/// Asks the API server on `node` once.
pub(super) async fn look(node: &Node, port: &str, file: &str, sha256: &str) -> Result<Loaded, NodeError> {
    let script = format!(
        "file='{file}' port='{port}' prefix='{PREFIX}'
{METRICS}"
    );
    Ok(judge(&node.script("asking the API server for its configuration", &script).await?, sha256))
}

/// The metrics of the API server on `node` whose names begin so; none if it does not answer.
pub(super) async fn metrics(node: &Node, port: &str, prefix: &str) -> Result<String, NodeError> {
    node.script("asking the API server for its metrics", &format!("port='{port}' prefix='{prefix}'\n{METRICS}")).await
}

fn judge(text: &str, sha256: &str) -> Loaded {
    let written: f64 =
        text.lines().find_map(|line| line.strip_prefix("written ")?.trim().parse().ok()).unwrap_or(f64::MAX);
    let metrics = || text.lines().filter_map(|line| line.strip_prefix(PREFIX)?.rsplit_once(' '));
    let last = |status: &str| {
        let wanted = format!("status=\"{status}\"");
        let times = metrics()
            .filter(|(name, _)| name.starts_with("automatic_reload_last_timestamp_seconds") && name.contains(&wanted));
        times.filter_map(|(_, value)| value.parse::<f64>().ok()).fold(0.0, f64::max)
    };
    let (success, failure) = (last("success"), last("failure"));
    let mut hashes = metrics().filter(|(name, _)| name.starts_with("last_config_info")).peekable();
    // A second for the file's time, which is whole seconds, and for a look that had begun before.
    let loaded = if hashes.peek().is_some() {
        hashes.any(|(name, _)| name.contains(&format!("hash=\"sha256:{sha256}\"")))
    } else {
        success > written + 1.0
    };
    if loaded {
        Loaded::Yes
    } else if failure > written + 1.0 && failure > success {
        Loaded::Refused
    } else {
        Loaded::NotYet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(name: &str, labels: &str, value: &str) -> String {
        format!("{PREFIX}{name}{{apiserver_id_hash=\"sha256:1ac4\",{labels}}} {value}\n")
    }

    #[test]
    fn the_hash_tells_where_there_is_one() {
        let text = format!("written 1795511700\n{}", metric("last_config_info", "hash=\"sha256:abc\"", "1"));
        assert_eq!(judge(&text, "abc"), Loaded::Yes);
        assert_eq!(judge(&text, "abd"), Loaded::NotYet);
    }

    #[test]
    fn otherwise_the_time_of_the_last_reload() {
        let at =
            |status, value| metric("automatic_reload_last_timestamp_seconds", &format!("status=\"{status}\""), value);
        let text = |metrics: String| format!("written 1795511700\n{metrics}");
        assert_eq!(judge(&text(at("success", "1.7955117843217363e+09")), "abc"), Loaded::Yes);
        assert_eq!(judge(&text(at("success", "1.7955117e+09")), "abc"), Loaded::NotYet);
        assert_eq!(judge(&text(at("failure", "1.7955117843217363e+09")), "abc"), Loaded::Refused);
        assert_eq!(judge(&text(String::new()), "abc"), Loaded::NotYet);
        assert_eq!(judge("", "abc"), Loaded::NotYet);
    }
}
