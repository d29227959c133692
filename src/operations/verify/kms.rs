//! Evidence on a KMS: every plugin works, nobody else reaches it, and what is stored was wrapped by the key that wraps now.

use std::collections::BTreeMap;

use crate::adapters::etcd::Etcd;
use crate::adapters::kms_plugin::{self, PluginReport};
use crate::adapters::node::Node;
use crate::documents::encryption::{GroupResource, Layout};
use crate::documents::stored::{Envelope, envelope};

use super::{Check, VerifyError};

/// The plugins on the control planes.
pub(super) async fn plugins(nodes: &[&Node]) -> Result<(Vec<Check>, Vec<PluginReport>), VerifyError> {
    let (mut checks, mut reports) = (Vec::new(), Vec::new());
    for node in nodes {
        let name = format!("{}: KMS plugin", node.name);
        match kms_plugin::report(node).await? {
            Err(problem) => checks.push(Check::new(name, false, problem)),
            Ok(report) => {
                checks.push(judge(name, &report));
                reports.push(report);
            }
        }
    }
    Ok((checks, reports))
}

fn judge(name: String, report: &PluginReport) -> Check {
    if let Some(problem) = &report.problem {
        return Check::new(name, false, format!("{}: {problem}", report.provider));
    }
    let modes = report.modes.join(", its folder ");
    let warning = if report.provider == "local" { "; the key is a file beside it: no safer than aescbc" } else { "" };
    let evidence = format!("{} works, and wraps by {}; its socket is {modes}{warning}", report.provider, report.key_id);
    Check::new(name, report.is_private(), evidence)
}

/// The keys that have wrapped what is stored of `rules`, held against the one that wraps now. A state of before may have
/// older ones.
pub(super) async fn census(
    etcd: &Etcd,
    layout: &Layout,
    rules: &[GroupResource],
    reports: &[PluginReport],
    restored: bool,
) -> Result<Vec<Check>, VerifyError> {
    const NAME: &str = "keys of the KMS in etcd";
    let mut ids: Vec<&str> = reports.iter().map(|report| report.key_id.as_str()).filter(|id| !id.is_empty()).collect();
    ids.dedup();
    let id = match ids[..] {
        [id] => id,
        [] => return Ok(Vec::new()),
        _ => {
            return Ok(vec![Check::new(
                NAME,
                false,
                format!("the plugins wrap by different keys: {}", ids.join(", ")),
            )]);
        }
    };
    let named = |resource: &GroupResource| rules.iter().any(|rule| rule.names(resource).is_some());
    let mut census = Census::default();
    for located in layout.resources().iter().filter(|located| named(&located.name)) {
        etcd.scan(&located.prefix, |entry| census.add(envelope(&entry.value).as_ref(), id)).await?;
    }
    Ok(vec![census.judge(NAME, id, restored)])
}

/// How many values each key has wrapped.
#[derive(Debug, Default, PartialEq, Eq)]
struct Census {
    /// By the key that wraps now.
    current: usize,
    /// By others.
    others: BTreeMap<String, usize>,
}

impl Census {
    /// Values of another provider are told elsewhere.
    fn add(&mut self, envelope: Option<&Envelope>, id: &str) {
        let Some(envelope) = envelope else { return };
        match envelope.is_by(id) {
            Some(true) => self.current += 1,
            Some(false) | None => {
                let key = envelope.key.clone().unwrap_or_else(|| "a key that cannot be told".to_owned());
                *self.others.entry(key).or_insert(0) += 1;
            }
        }
    }

    fn judge(&self, name: &str, id: &str, restored: bool) -> Check {
        let total = self.current + self.others.values().sum::<usize>();
        if total == 0 {
            return Check::new(name, true, "nothing is stored: nothing is proven");
        }
        let mut evidence =
            format!("{} of {total} values are wrapped by {id}, which the KMS wraps by now", self.current);
        for (key, count) in &self.others {
            evidence.push_str(&format!("; {count} by {key}"));
        }
        if !self.others.is_empty() {
            evidence.push_str(" (`kprov encryption rotate` rewrites them)");
        }
        Check::new(name, restored || self.others.is_empty(), evidence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(id: &str) -> Option<Envelope> {
        let mut value = b"k8s:enc:kms:v2:vault:\x0a\x01x\x12".to_vec();
        value.push(u8::try_from(id.len()).unwrap());
        value.extend_from_slice(id.as_bytes());
        envelope(&value)
    }

    #[test]
    fn values_under_another_key_are_told() {
        let mut census = Census::default();
        assert!(census.judge("n", "new", false).evidence.ends_with("nothing is proven"));
        census.add(stored("new").as_ref(), "new");
        assert!(census.judge("n", "new", false).ok);
        census.add(stored("old").as_ref(), "new");
        let check = census.judge("n", "new", false);
        assert!(!check.ok);
        assert!(check.evidence.starts_with("1 of 2 values are wrapped by new"), "{}", check.evidence);
        assert!(check.evidence.contains("1 by old"), "{}", check.evidence);
        assert!(census.judge("n", "new", true).ok, "a state of before");
    }

    #[test]
    fn a_socket_that_others_reach_is_no_good() {
        let report = |mode: &str| PluginReport {
            provider: "vault".to_owned(),
            key_id: "k".to_owned(),
            modes: vec![mode.to_owned(), "700 root:root".to_owned()],
            ..PluginReport::default()
        };
        assert!(judge(String::new(), &report("600 root:root")).ok);
        assert!(!judge(String::new(), &report("666 root:root")).ok);
        let ill = PluginReport { problem: Some("sealed".to_owned()), ..report("600 root:root") };
        assert_eq!(judge(String::new(), &ill).evidence, "vault: sealed");
    }
}
