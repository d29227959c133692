//! What pods may do and do: the controls on service accounts, pod security, networks and Secrets.
//!
//! Pods of the cluster's own namespaces are counted apart: without them there is no cluster.

use std::collections::BTreeMap;

use serde_json::Value;

use super::facts::{Container, Facts, NodeFacts, Pod, SecurityContext};
use super::flags;
use super::rbac::is_system;
use super::verdict::{Verdict, some};

fn namespace_of(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

fn name_of(pod: &Pod) -> String {
    format!("{}/{}", namespace_of(pod), pod.metadata.name)
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.containers.iter().chain(&pod.spec.init_containers).chain(&pod.spec.ephemeral_containers)
}

/// The names of pods that are so: those of users, and how many of the cluster's own.
fn pods_that(facts: &Facts, are: impl Fn(&Pod) -> bool) -> (Vec<String>, usize) {
    let (system, users): (Vec<&Pod>, Vec<&Pod>) =
        facts.objects.pods.iter().filter(|pod| are(pod)).partition(|pod| is_system(namespace_of(pod)));
    (users.into_iter().map(name_of).collect(), system.len())
}

/// How strict a policy is; the levels are those of Kubernetes' Pod Security Standards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    fn of(text: &str) -> Self {
        match text {
            "restricted" => Self::Restricted,
            "baseline" => Self::Baseline,
            _ => Self::Privileged,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Whether PodSecurity admission is in force in every API server: it is on by default from Kubernetes 1.23, unless it is
/// switched off.
fn has_pod_security(facts: &Facts) -> bool {
    let on_by_default = minor(&facts.version).is_some_and(|minor| minor >= 23);
    on_by_default
        && every_api_server(facts, |arguments| {
            let off = flags::value(arguments, "disable-admission-plugins", true).unwrap_or_default();
            !off.split(',').any(|one| one.trim() == "PodSecurity")
        })
}

/// Whether something holds of the API server of every control plane. Where none is seen, nothing does.
fn every_api_server(facts: &Facts, holds: impl Fn(&[String]) -> bool) -> bool {
    let mut control_planes = facts.nodes.iter().filter(|node| node.control_plane).peekable();
    control_planes.peek().is_some() && control_planes.all(|node| node.arguments("kube-apiserver").is_some_and(&holds))
}

/// Whether every API server has an admission plugin that is off by default.
fn has_plugin(facts: &Facts, plugin: &str) -> bool {
    every_api_server(facts, |arguments| {
        let on = flags::value(arguments, "enable-admission-plugins", true).unwrap_or_default();
        on.split(',').any(|one| one.trim() == plugin)
    })
}

fn minor(version: &str) -> Option<u64> {
    version.trim_start_matches('v').split('.').nth(1)?.parse().ok()
}

/// The level that every namespace without labels gets, by the API servers' files of admission: the laxest of them.
fn default_level(facts: &Facts) -> Level {
    let level = |node: &NodeFacts| {
        let plugins = node.admission.as_ref().and_then(|file| file.get("plugins")).and_then(Value::as_array);
        let plugin = plugins.into_iter().flatten().find(|plugin| plugin["name"] == "PodSecurity");
        let enforced = plugin.and_then(|plugin| plugin["configuration"]["defaults"]["enforce"].as_str());
        enforced.map_or(Level::Privileged, Level::of)
    };
    facts.nodes.iter().filter(|node| node.control_plane).map(level).min().unwrap_or(Level::Privileged)
}

/// Whom or what the API servers' files of admission have PodSecurity leave alone, whatever labels say: `usernames`,
/// `runtimeClasses` or `namespaces`.
fn exempt<'f>(facts: &'f Facts, what: &'static str) -> Vec<&'f str> {
    let files = facts.nodes.iter().filter_map(|node| node.admission.as_ref());
    let plugins = files.filter_map(|file| file.get("plugins")?.as_array()).flatten();
    let lists = plugins
        .filter(|plugin| plugin["name"] == "PodSecurity")
        .filter_map(|plugin| plugin["configuration"]["exemptions"][what].as_array())
        .flatten();
    lists.filter_map(Value::as_str).collect()
}

/// Who makes pods that PodSecurity does not judge: users, such as a controller that makes everybody's, and runtime classes. Nothing
/// if there are none.
fn unjudged(facts: &Facts) -> Option<String> {
    let named = |what, word: &str| {
        exempt(facts, what).into_iter().map(move |name| format!("{word} {name}")).collect::<Vec<_>>()
    };
    let found = [named("usernames", "the user"), named("runtimeClasses", "the runtime class")].concat();
    (!found.is_empty()).then(|| some(&found))
}

/// The level at which each namespace of users refuses pods.
fn levels(facts: &Facts) -> BTreeMap<&str, Level> {
    if !has_pod_security(facts) {
        return BTreeMap::new();
    }
    let default = default_level(facts);
    let exempt = exempt(facts, "namespaces");
    let users = facts.objects.namespaces.iter().filter(|space| !is_system(&space.metadata.name));
    users
        .map(|space| {
            let label = space.metadata.labels.get("pod-security.kubernetes.io/enforce");
            let level = label.map_or(default, |label| Level::of(label));
            let name = space.metadata.name.as_str();
            (name, if exempt.contains(&name) { Level::Privileged } else { level })
        })
        .collect()
}

/// Whether pods are judged by something else than PodSecurity.
fn other_policies(facts: &Facts) -> Vec<String> {
    let mut found: Vec<String> = facts.objects.pod_webhooks.iter().map(|name| format!("the webhook {name}")).collect();
    if has_plugin(facts, "PodSecurityPolicy") {
        found.push(format!("PodSecurityPolicy with {} policies", facts.objects.pod_security_policies.len()));
    }
    found
}

pub(super) fn policy_in_place(facts: &Facts) -> Verdict {
    let others = other_policies(facts);
    let levels = levels(facts);
    let lax: Vec<String> =
        levels.iter().filter(|(_, level)| **level == Level::Privileged).map(|(name, _)| (*name).to_owned()).collect();
    if !levels.is_empty() && lax.is_empty() {
        return match unjudged(facts) {
            None => Verdict::pass("every namespace of users has a PodSecurity level above privileged"),
            Some(who) => Verdict::fail(format!("PodSecurity does not judge what {who} makes")),
        };
    }
    if has_plugin(facts, "PodSecurityPolicy") {
        return Verdict::pass(some(&others));
    }
    if !others.is_empty() {
        return Verdict::open(format!("what {} refuses is for you to tell", some(&others)));
    }
    match has_pod_security(facts) {
        true => Verdict::fail(format!("PodSecurity refuses nothing in {}", some(&lax))),
        false => {
            Verdict::fail("there is no PodSecurity admission, no PodSecurityPolicy and no webhook that judges pods")
        }
    }
}

/// Judges what the admission of pods should keep out: nobody's pod has it, and something would refuse one that had.
fn admitted(facts: &Facts, what: &str, refused_at: Level, has: impl Fn(&Pod) -> bool) -> Verdict {
    let (users, system) = pods_that(facts, has);
    let apart = match system {
        0 => String::new(),
        count => format!("; {count} of the cluster's own pods need it"),
    };
    if !users.is_empty() {
        return Verdict::fail(format!("{what}: {}{apart}", some(&users)));
    }
    let others = other_policies(facts);
    let levels = levels(facts);
    let lax: Vec<String> =
        levels.iter().filter(|(_, level)| **level < refused_at).map(|(name, _)| (*name).to_owned()).collect();
    if !levels.is_empty() && lax.is_empty() {
        return match unjudged(facts) {
            None => Verdict::pass(format!("no pod of users: PodSecurity refuses it ({}){apart}", refused_at.word())),
            Some(who) => {
                Verdict::fail(format!("no pod of users, but PodSecurity does not judge what {who} makes{apart}"))
            }
        };
    }
    if !others.is_empty() {
        return Verdict::open(format!(
            "no pod of users; whether {} would refuse one is for you to tell{apart}",
            some(&others)
        ));
    }
    let below = match lax.is_empty() {
        true => String::new(),
        false => format!(" in {}", some(&lax)),
    };
    Verdict::fail(format!("no pod of users, but nothing would refuse one{below}{apart}"))
}

fn any_context(pod: &Pod, is: impl Fn(&SecurityContext) -> bool) -> bool {
    containers(pod).filter_map(|container| container.security_context.as_ref()).any(is)
}

pub(super) fn privileged(facts: &Facts) -> Verdict {
    admitted(facts, "privileged", Level::Baseline, |pod| any_context(pod, |context| context.privileged == Some(true)))
}

pub(super) fn host_pid(facts: &Facts) -> Verdict {
    admitted(facts, "hostPID", Level::Baseline, |pod| pod.spec.host_pid)
}

pub(super) fn host_ipc(facts: &Facts) -> Verdict {
    admitted(facts, "hostIPC", Level::Baseline, |pod| pod.spec.host_ipc)
}

pub(super) fn host_network(facts: &Facts) -> Verdict {
    admitted(facts, "hostNetwork", Level::Baseline, |pod| pod.spec.host_network)
}

pub(super) fn privilege_escalation(facts: &Facts) -> Verdict {
    admitted(facts, "may get further rights", Level::Restricted, |pod| {
        containers(pod).any(|container| {
            container.security_context.as_ref().and_then(|context| context.allow_privilege_escalation) != Some(false)
        })
    })
}

pub(super) fn root(facts: &Facts) -> Verdict {
    admitted(facts, "may run as root", Level::Restricted, |pod| {
        let of_pod = pod.spec.security_context.as_ref();
        containers(pod).any(|container| {
            let own = container.security_context.as_ref();
            let non_root = own.and_then(|own| own.run_as_non_root).or(of_pod.and_then(|pod| pod.run_as_non_root));
            let user = own.and_then(|own| own.run_as_user).or(of_pod.and_then(|pod| pod.run_as_user));
            non_root != Some(true) && user.is_none_or(|user| user == 0)
        })
    })
}

fn drops(container: &Container, capability: &str) -> bool {
    let capabilities = container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    capabilities.is_some_and(|all| all.drop.iter().any(|one| one == "ALL" || one == capability))
}

pub(super) fn net_raw(facts: &Facts) -> Verdict {
    admitted(facts, "keeps NET_RAW", Level::Restricted, |pod| {
        containers(pod).any(|container| !drops(container, "NET_RAW") || adds(container))
    })
}

fn adds(container: &Container) -> bool {
    let capabilities = container.security_context.as_ref().and_then(|context| context.capabilities.as_ref());
    capabilities.is_some_and(|all| !all.add.is_empty())
}

pub(super) fn added_capabilities(facts: &Facts) -> Verdict {
    admitted(facts, "adds capabilities", Level::Baseline, |pod| containers(pod).any(adds))
}

pub(super) fn assigned_capabilities(facts: &Facts) -> Verdict {
    admitted(facts, "keeps capabilities", Level::Restricted, |pod| {
        containers(pod).any(|container| !drops(container, "ALL"))
    })
}

pub(super) fn host_process(facts: &Facts) -> Verdict {
    admitted(facts, "HostProcess", Level::Baseline, |pod| {
        let is =
            |context: &SecurityContext| context.windows_options.as_ref().is_some_and(|w| w.host_process == Some(true));
        any_context(pod, is) || pod.spec.security_context.as_ref().is_some_and(is)
    })
}

pub(super) fn host_path(facts: &Facts) -> Verdict {
    admitted(facts, "hostPath", Level::Baseline, |pod| pod.spec.volumes.iter().any(|volume| volume.host_path.is_some()))
}

pub(super) fn host_ports(facts: &Facts) -> Verdict {
    admitted(facts, "hostPort", Level::Baseline, |pod| {
        !pod.spec.host_network
            && containers(pod)
                .any(|container| container.ports.iter().any(|port| port.host_port.is_some_and(|port| port != 0)))
    })
}

/// Every namespace's `default` service account, the cluster's own included: nothing has to use it.
pub(super) fn default_accounts(facts: &Facts) -> Verdict {
    let accounts = facts.objects.service_accounts.iter().filter(|account| account.metadata.name == "default");
    let mut open: Vec<String> = Vec::new();
    let mut all = 0;
    for account in accounts {
        all += 1;
        if account.automount_service_account_token != Some(false) {
            open.push(account.metadata.namespace.clone().unwrap_or_default());
        }
    }
    let users: Vec<String> = facts
        .objects
        .pods
        .iter()
        .filter(|pod| matches!(pod.spec.service_account_name.as_str(), "default"))
        .filter(|pod| pod.spec.automount_service_account_token != Some(false))
        .filter(|pod| open.iter().any(|space| space == namespace_of(pod)))
        .map(name_of)
        .collect();
    if all == 0 {
        return Verdict::fail("there is no default service account: nothing is proven");
    }
    if open.is_empty() {
        return Verdict::pass(format!("none of {all} gives its token to pods"));
    }
    let used = match users.is_empty() {
        true => "no pod uses it".to_owned(),
        false => format!("used by {}", some(&users)),
    };
    Verdict::fail(format!("{} of {all} give their token to pods ({}); {used}", open.len(), some(&open)))
}

pub(super) fn mounted_tokens(facts: &Facts) -> Verdict {
    let gives = |pod: &Pod| {
        let account = facts.objects.service_accounts.iter().find(|account| {
            account.metadata.name == pod.spec.service_account_name
                && account.metadata.namespace == pod.metadata.namespace
        });
        let by_account = account.and_then(|account| account.automount_service_account_token);
        // Static pods have no account, and no token.
        account.is_some() && pod.spec.automount_service_account_token.or(by_account).unwrap_or(true)
    };
    let (users, system) = pods_that(facts, gives);
    match users.is_empty() {
        true => Verdict::pass(format!("no pod of users; {system} of the cluster's own need one")),
        false => Verdict::fail(format!("{}; and {system} of the cluster's own, which need one", some(&users))),
    }
}

/// Container networks that enforce NetworkPolicies, by their DaemonSets' pods.
const ENFORCING: [&str; 6] = ["calico", "cilium", "weave", "antrea", "kube-router", "canal"];

/// The first build of kindnet that enforces NetworkPolicies (kind 0.24).
const KINDNET_ENFORCES: &str = "v20240813";

pub(super) fn network_policies_enforced(facts: &Facts) -> Verdict {
    let images = |node: &NodeFacts| {
        let name = node.name.clone();
        let here = move |pod: &&Pod| namespace_of(pod) == "kube-system" && pod.spec.node_name == name;
        facts.objects.pods.iter().filter(here).flat_map(|pod| {
            pod.spec.containers.iter().map(move |container| (pod.metadata.name.as_str(), container.image.as_str()))
        })
    };
    // One pod that is called so is no network: it takes one on every node.
    let everywhere = |known: &&&str| {
        let is_it = |(pod, image): (&str, &str)| pod.contains(**known) || image.contains(**known);
        !facts.nodes.is_empty() && facts.nodes.iter().all(|node| images(node).any(is_it))
    };
    if let Some(known) = ENFORCING.iter().find(everywhere) {
        return Verdict::pass(format!("{known} enforces NetworkPolicies"));
    }
    let is_kindnet = |(pod, image): &(&str, &str)| pod.starts_with("kindnet") || image.contains("kindnetd");
    // The oldest of them, since each does its own node's part.
    let kindnets: Option<Vec<&str>> =
        facts.nodes.iter().map(|node| images(node).find(is_kindnet).map(|(_, image)| image)).collect();
    let kindnet = kindnets.and_then(|images| images.into_iter().min());
    match kindnet {
        Some(image) => {
            let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
            let enforces = tag.starts_with("v2") && tag.get(..KINDNET_ENFORCES.len()) >= Some(KINDNET_ENFORCES);
            match enforces {
                true => Verdict::pass(format!("kindnet {tag} enforces NetworkPolicies")),
                false => Verdict::fail(format!(
                    "kindnet of {image} does not enforce NetworkPolicies: {KINDNET_ENFORCES} was the first"
                )),
            }
        }
        None => {
            Verdict::open("the container network is not known: whether it enforces NetworkPolicies is for you to tell")
        }
    }
}

pub(super) fn network_policies(facts: &Facts) -> Verdict {
    let has = |space: &str| {
        facts.objects.network_policies.iter().any(|policy| policy.metadata.namespace.as_deref() == Some(space))
    };
    let (mut users, mut system) = (Vec::new(), Vec::new());
    for space in facts.objects.namespaces.iter().map(|space| &space.metadata.name).filter(|space| !has(space)) {
        if is_system(space) { system.push(space.clone()) } else { users.push(space.clone()) }
    }
    if users.is_empty() && system.is_empty() {
        return Verdict::pass(format!("each of {} namespaces has one", facts.objects.namespaces.len()));
    }
    let mut parts = Vec::new();
    if !users.is_empty() {
        parts.push(format!("none in {}", some(&users)));
    }
    if !system.is_empty() {
        parts.push(format!("none in the cluster's own {}", some(&system)));
    }
    Verdict::fail(parts.join("; "))
}

pub(super) fn secrets_as_variables(facts: &Facts) -> Verdict {
    let (users, system) = pods_that(facts, |pod| {
        containers(pod).any(|container| {
            container
                .env
                .iter()
                .any(|variable| variable.value_from.as_ref().is_some_and(|source| source.secret_key_ref.is_some()))
                || container.env_from.iter().any(|source| source.secret_ref.is_some())
        })
    });
    match users.is_empty() {
        true => Verdict::pass(format!("no pod of users, {system} of the cluster's own")),
        false => Verdict::fail(format!("{}; {system} of the cluster's own apart", some(&users))),
    }
}

pub(super) fn external_secrets(facts: &Facts) -> Verdict {
    let kms = facts.nodes.iter().filter_map(|node| node.encryption.as_ref()?.as_ref().ok()).flatten();
    let by_kms = kms.into_iter().any(|rule| rule.providers.iter().any(|provider| provider == "kms"));
    let drivers: Vec<String> = facts
        .objects
        .pods
        .iter()
        .filter(|pod| pod.metadata.name.contains("secrets-store") || pod.metadata.name.contains("external-secrets"))
        .map(name_of)
        .collect();
    match (by_kms, drivers.is_empty()) {
        (_, false) => Verdict::open(format!("found {}: what it keeps is for you to tell", some(&drivers))),
        (true, true) => Verdict::open("data keys are wrapped by a KMS; Secrets themselves are in etcd"),
        (false, true) => Verdict::open("Secrets are in etcd, and no driver of an external store runs"),
    }
}

pub(super) fn image_provenance(facts: &Facts) -> Verdict {
    if has_plugin(facts, "ImagePolicyWebhook") {
        return Verdict::pass("ImagePolicyWebhook is in force");
    }
    match facts.objects.pod_webhooks.is_empty() {
        true => Verdict::fail("there is no ImagePolicyWebhook, and no webhook that judges pods"),
        false => Verdict::open(format!(
            "no ImagePolicyWebhook; whether {} looks at images is for you to tell",
            some(&facts.objects.pod_webhooks)
        )),
    }
}

pub(super) fn boundaries(facts: &Facts) -> Verdict {
    let users = facts.objects.namespaces.iter().map(|space| &space.metadata.name).filter(|space| !is_system(space));
    let users: Vec<String> = users.cloned().collect();
    Verdict::open(format!("namespaces of users: {}", some(&users)))
}

pub(super) fn seccomp(facts: &Facts) -> Verdict {
    let by_kubelet = !facts.nodes.is_empty()
        && facts.nodes.iter().all(|node| match &node.kubelet_running {
            Some(Ok(running)) => running.get("seccompDefault") == Some(&Value::Bool(true)),
            _ => false,
        });
    let fits = |context: Option<&SecurityContext>| {
        context
            .and_then(|context| context.seccomp_profile.as_ref())
            .map(|profile| profile.kind == "RuntimeDefault" || profile.kind == "Localhost")
    };
    let (users, system) = pods_that(facts, |pod| {
        let old = pod.metadata.annotations.get("seccomp.security.alpha.kubernetes.io/pod");
        let of_pod = fits(pod.spec.security_context.as_ref())
            .or(old.map(|profile| profile == "runtime/default" || profile == "docker/default"));
        containers(pod).any(|container| !fits(container.security_context.as_ref()).or(of_pod).unwrap_or(by_kubelet))
    });
    let default = if by_kubelet { "kubelets give every container the runtime's profile; " } else { "" };
    match users.is_empty() {
        true => Verdict::pass(format!("{default}no pod of users runs without, {system} of the cluster's own do")),
        false => Verdict::fail(format!("{default}without: {}; {system} of the cluster's own apart", some(&users))),
    }
}

pub(super) fn security_contexts(facts: &Facts) -> Verdict {
    let (users, system) = pods_that(facts, |pod| {
        let of_pod = pod.spec.security_context.as_ref().is_some_and(|context| *context != SecurityContext::default());
        !of_pod && containers(pod).any(|container| container.security_context.is_none())
    });
    match users.is_empty() {
        true => Verdict::pass(format!("no pod of users is without, {system} of the cluster's own are")),
        false => Verdict::fail(format!("without: {}; {system} of the cluster's own apart", some(&users))),
    }
}

pub(super) fn default_namespace(facts: &Facts) -> Verdict {
    match facts.objects.in_default.is_empty() {
        true => Verdict::pass("nothing is in it but the service kubernetes"),
        false => Verdict::fail(some(&facts.objects.in_default)),
    }
}
