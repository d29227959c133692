//! What is special to a control of API server, etcd or kube-proxy.

use serde_json::Value;

use super::audit_policy;
use super::evaluate::same;
use super::facts::{EncryptionRule, Facts, NodeFacts, Pod};
use super::flags;
use super::verdict::{Verdict, some};

fn rules(node: &NodeFacts) -> Result<&[EncryptionRule], Verdict> {
    if node.api_server_flag("encryption-provider-config").is_none() {
        return Err(Verdict::fail("--encryption-provider-config is not set: everything is stored as plain text"));
    }
    match &node.encryption {
        Some(Ok(rules)) => Ok(rules),
        Some(Err(reason)) => Err(Verdict::fail(format!("the configuration cannot be read: {reason}"))),
        None => Err(Verdict::fail("the configuration could not be found")),
    }
}

fn shown(rules: &[EncryptionRule]) -> String {
    let rule = |rule: &EncryptionRule| format!("{} by {}", rule.resources.join(", "), rule.providers.join(", "));
    rules.iter().map(rule).collect::<Vec<_>>().join("; ")
}

/// Secrets are encrypted by a provider that the benchmark names, by the first rule that is about them.
pub(super) fn encryption_providers(node: &NodeFacts, _: &Facts) -> Verdict {
    let rules = match rules(node) {
        Ok(rules) => rules,
        Err(verdict) => return verdict,
    };
    let about_secrets = |rule: &&EncryptionRule| {
        rule.resources.iter().any(|name| matches!(name.as_str(), "secrets" | "secrets." | "*." | "*.*"))
    };
    match rules.iter().find(about_secrets).and_then(|rule| rule.providers.first()) {
        Some(provider) if matches!(provider.as_str(), "aescbc" | "kms" | "secretbox") => Verdict::pass(shown(rules)),
        Some(provider) => {
            Verdict::fail(format!("Secrets are written by {provider}; wanted is aescbc, kms or secretbox"))
        }
        None => Verdict::fail(format!("no rule is about Secrets: {}", shown(rules))),
    }
}

/// What tells nothing of a cluster but how it is, and what `kubeadm join` has to read before it can trust the cluster: its CA.
const HARMLESS: [&str; 4] = ["/livez", "/readyz", "/healthz", "/api/v1/namespaces/kube-public/configmaps/cluster-info"];

/// Requests without a name are refused, or get no further than to what probes ask.
pub(super) fn anonymous_requests(node: &NodeFacts, _: &Facts) -> Verdict {
    if node.arguments("kube-apiserver").is_none() {
        return Verdict::fail(node.absence("kube-apiserver"));
    }
    match node.api_server_flag("anonymous-auth") {
        Some(value) if same(&value, "false") => return Verdict::pass(format!("--anonymous-auth={value}")),
        Some(value) => return Verdict::fail(format!("--anonymous-auth={value}, wanted is false")),
        None => {}
    }
    let Some(file) = node.api_server_flag("authentication-config") else {
        return Verdict::fail("--anonymous-auth is not set, wanted is false");
    };
    // Without that part, they are let in as without the file.
    let anonymous = node.authentication.as_ref().and_then(|configuration| configuration.get("anonymous"));
    let Some(anonymous) = anonymous.filter(|anonymous| anonymous.is_object()) else {
        return Verdict::fail(format!(
            "neither --anonymous-auth nor {file} says that requests without a name are refused"
        ));
    };
    if anonymous.get("enabled") != Some(&Value::Bool(true)) {
        return Verdict::pass(format!("{file} refuses requests without a name"));
    }
    let conditions = anonymous.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let paths: Vec<&str> =
        conditions.iter().map(|one| one.get("path").and_then(Value::as_str).unwrap_or_default()).collect();
    match paths.as_slice() {
        [] => Verdict::fail(format!("{file} lets requests without a name in, wherever they go")),
        paths if paths.iter().all(|path| HARMLESS.contains(path)) => {
            Verdict::pass(format!("{file} lets requests without a name in to {} alone", paths.join(", ")))
        }
        paths => Verdict::fail(format!("{file} lets requests without a name in to {}", paths.join(", "))),
    }
}

/// What a request may take at most: the default is a minute.
const LONGEST: f64 = 300.0;

pub(super) fn request_timeout(node: &NodeFacts, _: &Facts) -> Verdict {
    if node.arguments("kube-apiserver").is_none() {
        return Verdict::fail(node.absence("kube-apiserver"));
    }
    let Some(text) = node.api_server_flag("request-timeout") else {
        return Verdict::open("--request-timeout is not set: 1m0s, the default; whether that fits is for you to tell");
    };
    match seconds(&text) {
        Some(seconds) if seconds > 0.0 && seconds <= LONGEST => Verdict::pass(format!("--request-timeout={text}")),
        _ => Verdict::fail(format!("--request-timeout={text}; wanted is a time of no more than five minutes")),
    }
}

/// A Go duration in seconds.
fn seconds(text: &str) -> Option<f64> {
    let (mut total, mut number, mut rest) = (0.0, String::new(), text);
    while let Some(c) = rest.chars().next() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            rest = &rest[1..];
            continue;
        }
        let (unit, length) = match rest {
            _ if rest.starts_with("ms") => (0.001, 2),
            _ if rest.starts_with('h') => (3600.0, 1),
            _ if rest.starts_with('m') => (60.0, 1),
            _ if rest.starts_with('s') => (1.0, 1),
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * unit;
        number.clear();
        rest = &rest[length..];
    }
    number.is_empty().then_some(total)
}

/// etcd trusts another CA than the API server's clients do.
pub(super) fn own_authority(node: &NodeFacts, _: &Facts) -> Verdict {
    let Some(arguments) = node.arguments("etcd") else { return Verdict::fail(node.absence("etcd")) };
    let file = flags::value(arguments, "trusted-ca-file", false)
        .or_else(|| node.etcd_environment.get("ETCD_TRUSTED_CA_FILE").cloned());
    let Some(file) = file else { return Verdict::fail("--trusted-ca-file is not set") };
    match (node.digests.get("etcd-ca"), node.digests.get("client-ca")) {
        (Some(own), Some(other)) if own == other => {
            Verdict::fail(format!("--trusted-ca-file={file} is the CA of the cluster's clients"))
        }
        (Some(_), Some(_)) => Verdict::pass(format!("--trusted-ca-file={file} is not the CA of the cluster's clients")),
        _ => Verdict::open(format!("--trusted-ca-file={file}; the files could not be compared")),
    }
}

pub(super) fn client_certificates(_: &Facts) -> Verdict {
    Verdict::open("whether people have certificates of their own, nothing in the cluster tells; admin.conf holds one")
}

pub(super) fn account_tokens(_: &Facts) -> Verdict {
    Verdict::open("whether people use service accounts' tokens, nothing in the cluster tells")
}

pub(super) fn bootstrap_tokens(facts: &Facts) -> Verdict {
    match facts.objects.bootstrap_tokens.is_empty() {
        true => Verdict::pass("there is no bootstrap token"),
        false => Verdict::fail(some(&facts.objects.bootstrap_tokens)),
    }
}

fn no_audit_policy() -> Verdict {
    Verdict::fail("there is no audit policy")
}

pub(super) fn audit_coverage(node: &NodeFacts, _: &Facts) -> Verdict {
    node.audit_policy.as_ref().map_or_else(no_audit_policy, audit_policy::judge)
}

pub(super) fn audit_coverage_of_credentials_too(node: &NodeFacts, _: &Facts) -> Verdict {
    node.audit_policy.as_ref().map_or_else(no_audit_policy, audit_policy::judge_credentials_too)
}

/// kube-proxy shows its metrics to the node alone. Whoever makes pods in its namespace can call one so: each has to hold.
pub(super) fn proxy_metrics(node: &NodeFacts, facts: &Facts) -> Verdict {
    let is_proxy = |pod: &&Pod| {
        let metadata = &pod.metadata;
        pod.spec.node_name == node.name
            && metadata.namespace.as_deref() == Some("kube-system")
            && (metadata.name.starts_with("kube-proxy-")
                || metadata.labels.get("k8s-app").is_some_and(|app| app == "kube-proxy"))
    };
    let mut verdicts: Vec<Verdict> =
        facts.objects.pods.iter().filter(is_proxy).map(|pod| metrics_of(pod, facts)).collect();
    match verdicts.iter().position(|verdict| verdict.holds != Some(true)) {
        Some(wrong) => verdicts.swap_remove(wrong),
        None => verdicts.pop().unwrap_or_else(|| Verdict::pass("kube-proxy does not run here")),
    }
}

fn metrics_of(pod: &Pod, facts: &Facts) -> Verdict {
    let words: Vec<String> = pod
        .spec
        .containers
        .iter()
        .flat_map(|container| container.command.iter().chain(&container.args))
        .cloned()
        .collect();
    let by_file = || {
        let text = facts.objects.kube_proxy.as_ref()?.get("metricsBindAddress")?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    let by_flag = flags::value(&words, "metrics-bind-address", false);
    // A configuration file wins over the flag.
    let found = match flags::value(&words, "config", false) {
        Some(file) if facts.objects.kube_proxy.is_none() => {
            return Verdict::fail(format!("kube-proxy reads {file}, which could not be looked at: nothing is proven"));
        }
        Some(_) => by_file().or(by_flag),
        None => by_flag,
    };
    match found {
        None => Verdict::pass("metricsBindAddress is not set: 127.0.0.1:10249, the default"),
        Some(address)
            if address.starts_with("127.0.0.1") || address.starts_with("localhost") || address.starts_with("[::1]") =>
        {
            Verdict::pass(format!("metricsBindAddress is {address}"))
        }
        Some(address) => Verdict::fail(format!("metricsBindAddress is {address}; wanted is 127.0.0.1")),
    }
}

/// The kubelet's certificate is one that clients can verify.
pub(super) fn kubelet_certificate(node: &NodeFacts, _: &Facts) -> Verdict {
    let running = node.kubelet_running.as_ref().and_then(|running| running.as_ref().ok());
    let at = |name: &str| {
        let of = |value: Option<&Value>| value.and_then(|value| value.get(name)).cloned();
        of(running).or_else(|| of(node.kubelet_file.as_ref()))
    };
    // What it runs with names the certificate that it has signed for itself, too; the file does not.
    let text = |name: &str| {
        let named = node.kubelet_file.as_ref().and_then(|file| file.get(name)).and_then(Value::as_str);
        named.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let flag = |name: &str| flags::value(node.arguments("kubelet").unwrap_or_default(), name, false);
    match (
        flag("tls-cert-file").or_else(|| text("tlsCertFile")),
        flag("tls-private-key-file").or_else(|| text("tlsPrivateKeyFile")),
    ) {
        (Some(certificate), Some(_)) => Verdict::pass(format!("tlsCertFile is {certificate}")),
        _ if at("serverTLSBootstrap") == Some(Value::Bool(true)) => {
            Verdict::pass("serverTLSBootstrap: the certificate is signed by the cluster's CA, and renewed")
        }
        _ => Verdict::fail("neither tlsCertFile and tlsPrivateKeyFile nor serverTLSBootstrap is set: it signs its own"),
    }
}

pub(super) fn address_deny(node: &NodeFacts, _: &Facts) -> Verdict {
    match node.unit.get("IPAddressDeny").map(String::as_str) {
        Some(denied) if !denied.is_empty() => Verdict::pass(format!("IPAddressDeny={denied} in the kubelet's unit")),
        _ => Verdict::fail("IPAddressDeny is not set in the kubelet's unit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_a_name_get_to_what_probes_ask_or_nowhere() {
        let judge = |line: &str, configuration: &str| {
            let mut node = NodeFacts::default();
            let words = std::iter::once("kube-apiserver").chain(line.split_whitespace()).map(str::to_owned).collect();
            node.processes.insert("kube-apiserver".to_owned(), words);
            node.authentication = serde_yaml::from_str(configuration).unwrap();
            anonymous_requests(&node, &Facts::default()).holds
        };
        let by_file = |configuration: &str| judge("--authentication-config=/a", configuration);
        assert_eq!(judge("", "null"), Some(false));
        assert_eq!(judge("--anonymous-auth=0", "null"), Some(true));
        assert_eq!(judge("--anonymous-auth=true", "null"), Some(false));
        assert_eq!(by_file("null"), Some(false));
        assert_eq!(by_file("{jwt: []}"), Some(false));
        assert_eq!(by_file("anonymous: {enabled: false}"), Some(true));
        assert_eq!(by_file("anonymous: {enabled: true}"), Some(false));
        assert_eq!(by_file("anonymous: {enabled: true, conditions: []}"), Some(false));
        assert_eq!(by_file("anonymous: {enabled: true, conditions: [{path: /livez}, {path: /readyz}]}"), Some(true));
        assert_eq!(by_file("anonymous: {enabled: true, conditions: [{path: /livez}, {path: /api}]}"), Some(false));
        assert_eq!(by_file("anonymous: {enabled: true, conditions: [{}]}"), Some(false));
        // A file that the process no longer has proves nothing.
        assert_eq!(judge("--profiling=false", "anonymous: {enabled: false}"), Some(false));
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(seconds("1m30s"), Some(90.0));
        assert_eq!(seconds("0s"), Some(0.0));
        assert_eq!(seconds("1h"), Some(3600.0));
        assert_eq!(seconds("500ms"), Some(0.5));
        assert_eq!((seconds("90"), seconds("x")), (None, None));
    }
}
