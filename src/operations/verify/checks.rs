//! The checks, a group a function. Each says what it has seen, not only whether it holds.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use kube::core::Duration;
use serde_json::Value;

use crate::adapters::etcd::Etcd;
use crate::adapters::kubernetes::{self, ApiError, http_get, ready};
use crate::adapters::node::{Node, NodeError};
use crate::documents::encryption::{GroupResource, KeyId, Known};
use crate::documents::profile::Role;
use crate::documents::render::AUDIT_LOG_FILE;
use crate::progress::counted;

use super::canary::{self, Canary};
use super::expected::{Expected, Resource};
use super::{Census, Check, Target, VerifyError, kms, modes};

/// The name of the check of [`ready`].
pub const READY: &str = "nodes and system pods";

const AUDIT_LOG: &str = include_str!("scripts/audit_log.sh");

fn control_planes<'a>(target: &Target<'a>) -> impl Iterator<Item = &'a Node> {
    target.nodes.iter().filter(|node| node.role == Role::ControlPlane)
}

/// Which nodes' containers run, and a failed check for each of the others.
pub(super) async fn containers(nodes: &[Node]) -> Result<(Vec<Node>, Vec<Check>), VerifyError> {
    let (mut running, mut checks) = (Vec::new(), Vec::new());
    for node in nodes {
        match node.engine().exit_code(&node.name).await.map_err(NodeError::from)? {
            None => running.push(node.clone()),
            Some(code) => {
                checks.push(Check::new(
                    format!("{}: container", node.name),
                    false,
                    format!("does not run (it ended with code {code})"),
                ));
            }
        }
    }
    Ok((running, checks))
}

/// Every node and every system pod is Ready, right now.
pub(super) async fn ready(target: &Target<'_>) -> Result<Vec<Check>, VerifyError> {
    let observed = ready::observe(target.client).await?;
    let expected = ready::Expectation {
        nodes: target.nodes.iter().map(|node| node.name.clone()).collect(),
        control_planes: control_planes(target).map(|node| node.name.clone()).collect(),
        pods: target.inputs.is_none_or(|inputs| !inputs.profile.spec.networking.disable_default_cni),
        since: target.since.clone(),
        ..ready::Expectation::default()
    };
    if !expected.pods {
        return Ok(vec![Check::unproven(READY, "not awaited: the profile brings its own CNI")]);
    }
    let pending = ready::pending(&expected, &observed);
    let system = observed
        .pods
        .iter()
        .filter(|pod| pod.metadata.namespace.as_deref().is_some_and(|space| ready::SYSTEM_NAMESPACES.contains(&space)))
        .count();
    let evidence = if pending.is_empty() {
        format!("{} and {system} system pods Ready", counted(expected.nodes.len(), "node"))
    } else {
        pending.join("; ")
    };
    Ok(vec![Check::new(READY, pending.is_empty(), evidence)])
}

/// The static pods' processes run with the flags that were asked for.
pub(super) async fn processes(target: &Target<'_>, expected: &Expected) -> Result<Vec<Check>, VerifyError> {
    let mut wanted = Vec::new();
    for node in control_planes(target) {
        for component in ready::STATIC_PODS {
            wanted.push((node, component, expected.flags.get(component)));
        }
    }
    let checks = wanted.into_iter().map(|(node, component, flags)| async move {
        let line = node.command_line(component).await?;
        let name = format!("{}: {component}", node.name);
        let none = BTreeMap::new();
        Ok::<_, VerifyError>(match line {
            None => Check::new(name, false, "does not run"),
            Some(line) => check_flags(name, &line, flags.unwrap_or(&none)),
        })
    });
    try_join_all(checks).await
}

fn check_flags(name: String, line: &[String], flags: &BTreeMap<String, String>) -> Check {
    let missing: Vec<String> = flags
        .iter()
        .filter(|(flag, value)| !line.iter().any(|word| *word == format!("--{flag}={value}")))
        .map(|(flag, value)| {
            let actual = line.iter().find(|word| word.starts_with(&format!("--{flag}=")));
            format!("--{flag}={value} is not set (found {})", actual.map_or("nothing", String::as_str))
        })
        .collect();
    if missing.is_empty() {
        let set: Vec<String> = flags.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        let evidence = match set.len() {
            0 => "runs".to_owned(),
            count => format!("runs with the {} asked for: {}", counted(count, "flag"), set.join(" ")),
        };
        Check::new(name, true, evidence)
    } else {
        Check::new(name, false, missing.join("; "))
    }
}

/// Files on the nodes: the EncryptionConfiguration, the audit log, and the modes of all that should be private.
pub(super) async fn files(target: &Target<'_>, expected: &Expected) -> Result<Vec<Check>, VerifyError> {
    let mut checks = Vec::new();
    let mut sums = Vec::new();
    for node in control_planes(target) {
        if let Some(file) = &expected.encryption_file {
            let stat = node.run(&["stat", "-L", "-c", "%a %U:%G %n", file]).await?;
            let sum = node.run(&["sha256sum", file]).await?;
            sums.push(sum.split_whitespace().next().unwrap_or_default().to_owned());
            checks.push(Check::new(
                format!("{}: EncryptionConfiguration", node.name),
                modes::is_private(&stat),
                stat.trim(),
            ));
        }
        if expected.audit {
            let script = format!("log='{AUDIT_LOG_FILE}'\n{AUDIT_LOG}");
            let size = node.script("looking at the audit log", &script).await?;
            let size: u64 = size.trim().parse().unwrap_or_default();
            checks.push(Check::new(
                format!("{}: audit log", node.name),
                size > 0,
                format!("{AUDIT_LOG_FILE} has {size} bytes"),
            ));
        }
    }
    if sums.len() > 1 {
        let same = sums.windows(2).all(|pair| pair[0] == pair[1]);
        let evidence = if same { "the same on every control plane" } else { "differs between control planes" };
        checks.push(Check::new("EncryptionConfiguration", same, evidence));
    }
    if expected.restrictive_modes {
        checks.extend(try_join_all(target.nodes.iter().map(modes::check)).await?);
    }
    Ok(checks)
}

/// The kubelets: the API server reaches each one, verifying its certificate where asked to, and each runs with the
/// configuration that was asked for.
pub(super) async fn kubelets(target: &Target<'_>, expected: &Expected) -> Result<Vec<Check>, VerifyError> {
    if expected.kubelet.is_empty() && !expected.kubelet_serving_certificates {
        return Ok(Vec::new());
    }
    let checks = target.nodes.iter().map(|node| async move {
        let path = format!("/api/v1/nodes/{}/proxy/configz", node.name);
        let request = http_get(&path)
            .map_err(|error| ApiError::Manifest { name: node.name.clone(), reason: error.to_string() })?;
        let name = format!("{}: kubelet", node.name);
        let running: Value = match target.client.request(request).await {
            Ok(answer) => answer,
            Err(error) => return Ok(Check::new(name, false, format!("the API server cannot reach it: {error}"))),
        };
        let running = &running["kubeletconfig"];
        let wrong: Vec<String> = expected
            .kubelet
            .iter()
            .filter(|(field, value)| !same(&running[field.as_str()], value))
            .map(|(field, value)| format!("{field} is {}, not {value}", running[field.as_str()]))
            .collect();
        let mut evidence = format!("{} fields of its running configuration are as asked for", expected.kubelet.len());
        if expected.kubelet_serving_certificates {
            evidence.push_str("; its certificate is signed by the cluster's CA, and verified");
        }
        Ok::<_, VerifyError>(Check::new(
            name,
            wrong.is_empty(),
            if wrong.is_empty() { evidence } else { wrong.join("; ") },
        ))
    });
    try_join_all(checks).await
}

/// Whether a running value is the one asked for. Durations come back in another form (`5m` as `5m0s`), and
/// nested fields with their neighbours' defaults.
fn same(running: &Value, asked: &Value) -> bool {
    match (running, asked) {
        (Value::Object(running), Value::Object(asked)) => {
            asked.iter().all(|(key, value)| same(running.get(key).unwrap_or(&Value::Null), value))
        }
        (Value::String(running), Value::String(asked)) => {
            let duration = |text: &str| text.parse::<Duration>().ok();
            running == asked || duration(running).is_some_and(|running| Some(running) == duration(asked))
        }
        // A field at its zero value is left out.
        (Value::Null, asked) => {
            matches!(asked, Value::Bool(false)) || asked.as_i64() == Some(0) || asked.as_str() == Some("")
        }
        _ => running == asked,
    }
}

/// What is in etcd: the canary, and every value of every encrypted resource.
pub(super) async fn stored(
    target: &Target<'_>,
    expected: &Expected,
) -> Result<(Vec<Check>, Option<Canary>, Vec<Census>), VerifyError> {
    let Some(first) = control_planes(target).next() else { return Ok((Vec::new(), None, Vec::new())) };
    let etcd = Etcd::on(first.clone());
    let layout = kubernetes::layout(target.client, &expected.root).await?;
    let (mut checks, mut reports) = (Vec::new(), Vec::new());
    for resource in &expected.left_out {
        let name = format!("{resource} in the EncryptionConfiguration");
        let file = expected.encryption_file.as_deref().unwrap_or_default();
        checks.push(Check::new(name, false, format!("kprov was asked to encrypt it, {file} does not")));
    }
    if expected.kms_plugin {
        let nodes: Vec<&Node> = control_planes(target).collect();
        let (plugins, of_plugins) = kms::plugins(&nodes).await?;
        checks.extend(plugins);
        reports = of_plugins;
        if reports.len() < nodes.len() || reports.iter().any(|report| report.problem.is_some()) {
            // The API server would refuse to write, in words of its own.
            checks.push(Check::new("what is stored in etcd", false, "not looked at: the KMS does not work"));
            return Ok((checks, None, Vec::new()));
        }
    }
    let canary = canary::fly(target.client, &etcd, layout.root()).await?;
    let secrets = GroupResource::parse("secrets");
    let rules: Vec<GroupResource> = expected.resources.iter().map(|resource| resource.rule.clone()).collect();
    let of_secrets = expected.resources.iter().rev().max_by_key(|resource| resource.rule.names(&secrets));
    let plain = KeyId::identity().stored();
    if let Some(resource) = of_secrets.filter(|found| found.rule.names(&secrets).is_some() && found.writes != plain) {
        checks.push(Check::new(
            "canary Secret in etcd",
            canary.stored == resource.writes && !canary.plain_text_found,
            format!(
                "{} begins with {}; its plain text is {}",
                canary.key,
                canary.stored,
                if canary.plain_text_found { "there" } else { "absent" }
            ),
        ));
    }
    if expected.kms_plugin {
        checks.extend(kms::census(&etcd, &layout, &rules, &reports, target.since != ready::Since::Ever).await?);
    }
    let mut census = Vec::new();
    let counted = etcd.census(&layout, &rules).await?;
    for (resource, counts) in expected.resources.iter().zip(counted) {
        checks.push(judge(resource, &layout.knows(&resource.rule), &counts));
        census.push(Census {
            resource: resource.rule.to_string(),
            expected: resource.writes.clone(),
            stored: counts.into_iter().collect(),
        });
    }
    Ok((checks, Some(canary), census))
}

/// Whether a rule does what it is there for. One that the API knows nothing of does not, and nothing at all is no proof.
fn judge(resource: &Resource, known: &Known, counts: &BTreeMap<String, usize>) -> Check {
    let total: usize = counts.values().sum();
    let right = counts.get(&resource.writes).copied().unwrap_or_default();
    let name = format!("{} in etcd", resource.rule);
    let (ok, evidence) = match known {
        Known::No(meant) => {
            let meant = meant.as_ref().map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            (false, format!("the API knows no such resource, so this encrypts nothing{meant}"))
        }
        Known::KeptAs(other) => (false, format!("these are stored as {other}, so this encrypts nothing")),
        Known::NoGroup => {
            return Check::unproven(
                name,
                "the API does not know its group (yet): nothing is stored, nothing is proven",
            );
        }
        Known::Yes if total == 0 => return Check::unproven(name, "nothing is stored: nothing is proven"),
        Known::Yes => (right == total, format!("{right} of {total} values are stored as {}", resource.writes)),
    };
    Check::new(name, ok, evidence)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_are_compared_word_for_word() {
        let flags = BTreeMap::from([("profiling".to_owned(), "false".to_owned())]);
        let line = |word: &str| vec!["kube-apiserver".to_owned(), word.to_owned()];
        assert!(check_flags("a".to_owned(), &line("--profiling=false"), &flags).ok);
        let check = check_flags("a".to_owned(), &line("--profiling=true"), &flags);
        assert!(!check.ok);
        assert_eq!(check.evidence, "--profiling=false is not set (found --profiling=true)");
    }

    #[test]
    fn running_values_may_be_written_otherwise() {
        assert!(same(&json!("5m0s"), &json!("5m")));
        assert!(same(&json!("1h0m0s"), &json!("60m")));
        assert!(!same(&json!("4h0m0s"), &json!("5m")));
        assert!(same(&json!({"anonymous": {"enabled": false}, "x": 1}), &json!({"anonymous": {"enabled": false}})));
        assert!(same(&Value::Null, &json!(0)));
        assert!(!same(&Value::Null, &json!(true)));
    }

    fn judged(rule: &str, known: &Known, counts: &[(&str, usize)]) -> Check {
        let resource = Resource { rule: GroupResource::parse(rule), writes: "k8s:enc:aescbc:v1:key1:".to_owned() };
        judge(&resource, known, &counts.iter().map(|&(stored, count)| (stored.to_owned(), count)).collect())
    }

    #[test]
    fn values_under_another_key_are_not_right() {
        assert!(judged("secrets", &Known::Yes, &[("k8s:enc:aescbc:v1:key1:", 3)]).ok);
        for other in ["k8s:enc:aescbc:v1:key2:", "plain text"] {
            let check = judged("secrets", &Known::Yes, &[("k8s:enc:aescbc:v1:key1:", 3), (other, 1)]);
            assert!(!check.ok);
            assert_eq!(check.evidence, "3 of 4 values are stored as k8s:enc:aescbc:v1:key1:");
        }
    }

    #[test]
    fn a_typo_is_not_proven() {
        let check = judged("secret", &Known::No(Some(GroupResource::parse("secrets"))), &[]);
        assert!(!check.ok);
        assert!(check.evidence.ends_with("did you mean secrets?"), "{}", check.evidence);
        assert!(!judged("events.events.k8s.io", &Known::KeptAs(GroupResource::parse("events")), &[]).ok);
    }

    #[test]
    fn nothing_is_no_proof() {
        for known in [Known::Yes, Known::NoGroup] {
            let check = judged("widgets.example.com", &known, &[]);
            assert!(check.ok && check.unproven && check.evidence.ends_with("nothing is proven"), "{}", check.evidence);
        }
    }
}
