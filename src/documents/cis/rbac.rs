//! Who may do what: the controls on roles and on those who have them.
//!
//! What Kubernetes and the cluster's own add-ons need is counted apart: nobody can take it away.

use std::collections::BTreeSet;

use super::facts::{Binding, Facts, Role, Rule, Subject};
use super::verdict::Verdict;

/// Namespaces that a cluster has by itself.
pub(super) const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Whether a namespace is the cluster's own.
pub(super) fn is_system(namespace: &str) -> bool {
    SYSTEM_NAMESPACES.contains(&namespace)
}

/// How many names evidence lists.
const NAMED: usize = 5;

/// Some names, and how many more there are.
pub(super) fn some<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    let names: Vec<&String> = names.into_iter().collect();
    let mut shown: Vec<String> = names.iter().take(NAMED).map(|name| (*name).clone()).collect();
    if names.len() > NAMED {
        shown.push(format!("and {} more", names.len() - NAMED));
    }
    shown.join(", ")
}

fn describe(subject: &Subject) -> String {
    match subject.kind.as_str() {
        "ServiceAccount" => {
            format!("service account {}/{}", subject.namespace.as_deref().unwrap_or_default(), subject.name)
        }
        "Group" => format!("group {}", subject.name),
        _ => format!("user {}", subject.name),
    }
}

/// Whether a subject is Kubernetes itself, or one of the cluster's own add-ons. Everybody who is authenticated, or nobody
/// in particular, is not.
fn is_own(subject: &Subject) -> bool {
    const EVERYBODY: [&str; 4] =
        ["system:authenticated", "system:unauthenticated", "system:anonymous", "system:serviceaccounts"];
    match subject.kind.as_str() {
        "ServiceAccount" => subject.namespace.as_deref().is_some_and(is_system) && subject.name != "default",
        "Group" if subject.name == "kubeadm:cluster-admins" => true,
        // The API server itself, where it talks to kubelets.
        "User" if subject.name == "kube-apiserver-kubelet-client" => true,
        // Service accounts by the names that they have as users and in groups.
        "User" if subject.name.starts_with("system:serviceaccount:") => {
            let account = subject.name.splitn(4, ':').skip(2).collect::<Vec<_>>();
            matches!(account[..], [namespace, name] if is_system(namespace) && name != "default")
        }
        "Group" if subject.name.starts_with("system:serviceaccounts:") => false,
        _ => subject.name.starts_with("system:") && !EVERYBODY.contains(&subject.name.as_str()),
    }
}

/// The role that a binding names.
fn role_of<'f>(binding: &Binding, facts: &'f Facts) -> Option<&'f Role> {
    facts.objects.roles.iter().find(|role| {
        let namespace = role.metadata.namespace.as_deref();
        role.metadata.name == binding.role_ref.name
            && match binding.role_ref.kind.as_str() {
                "Role" => namespace.is_some() && namespace == binding.metadata.namespace.as_deref(),
                _ => namespace.is_none(),
            }
    })
}

/// What is to be held by as few as possible.
struct Grant {
    groups: &'static [&'static str],
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
}

impl Grant {
    fn given_by(&self, rule: &Rule) -> bool {
        let any = |have: &[String], asked: &[&str]| have.iter().any(|one| one == "*" || asked.contains(&one.as_str()));
        let resources = |have: &[String]| {
            have.iter().any(|one| {
                one == "*"
                    || self.resources.contains(&one.as_str())
                    // `*/proxy` is the subresource of everything.
                    || self.resources.iter().any(|asked| {
                        asked.split_once('/').is_some_and(|(_, sub)| one.strip_prefix("*/") == Some(sub))
                    })
            })
        };
        any(&rule.api_groups, self.groups) && resources(&rule.resources) && any(&rule.verbs, self.verbs)
    }

    /// Who has it beyond the cluster's own.
    fn judge(&self, facts: &Facts) -> Verdict {
        let (mut others, mut own) = (BTreeSet::new(), BTreeSet::new());
        for binding in &facts.objects.bindings {
            let Some(role) = role_of(binding, facts) else { continue };
            if !role.rules.iter().any(|rule| self.given_by(rule)) {
                continue;
            }
            for subject in &binding.subjects {
                let text = format!("{} by {}", describe(subject), binding.role_ref.name);
                if is_own(subject) {
                    own.insert(text)
                } else {
                    others.insert(text)
                };
            }
        }
        if others.is_empty() {
            Verdict::pass(format!("nobody but Kubernetes and its add-ons ({})", own.len()))
        } else {
            Verdict::fail(format!("{}; Kubernetes and its add-ons apart ({})", some(&others), own.len()))
        }
    }
}

pub(super) fn read_secrets(facts: &Facts) -> Verdict {
    Grant { groups: &[""], resources: &["secrets"], verbs: &["get", "list", "watch"] }.judge(facts)
}

pub(super) fn create_pods(facts: &Facts) -> Verdict {
    Grant { groups: &[""], resources: &["pods"], verbs: &["create"] }.judge(facts)
}

pub(super) fn create_volumes(facts: &Facts) -> Verdict {
    Grant { groups: &[""], resources: &["persistentvolumes"], verbs: &["create"] }.judge(facts)
}

pub(super) fn proxy_to_nodes(facts: &Facts) -> Verdict {
    Grant { groups: &[""], resources: &["nodes/proxy"], verbs: &["get", "create", "update", "patch", "delete"] }
        .judge(facts)
}

pub(super) fn approve_certificates(facts: &Facts) -> Verdict {
    Grant {
        groups: &["certificates.k8s.io"],
        resources: &["certificatesigningrequests/approval"],
        verbs: &["update", "patch"],
    }
    .judge(facts)
}

pub(super) fn change_webhooks(facts: &Facts) -> Verdict {
    Grant {
        groups: &["admissionregistration.k8s.io"],
        resources: &["validatingwebhookconfigurations", "mutatingwebhookconfigurations"],
        verbs: &["create", "update", "patch", "delete"],
    }
    .judge(facts)
}

pub(super) fn create_tokens(facts: &Facts) -> Verdict {
    Grant { groups: &[""], resources: &["serviceaccounts/token"], verbs: &["create"] }.judge(facts)
}

pub(super) fn bind_impersonate_escalate(facts: &Facts) -> Verdict {
    let (mut others, mut own) = (BTreeSet::new(), 0);
    for binding in &facts.objects.bindings {
        let Some(role) = role_of(binding, facts) else { continue };
        let given = |rule: &Rule| {
            rule.verbs.iter().any(|verb| matches!(verb.as_str(), "*" | "bind" | "impersonate" | "escalate"))
                && rule.resources.iter().any(|resource| {
                    matches!(
                        resource.as_str(),
                        "*" | "roles" | "clusterroles" | "users" | "groups" | "serviceaccounts" | "userextras"
                    )
                })
        };
        if role.rules.iter().any(given) {
            for subject in &binding.subjects {
                if is_own(subject) {
                    own += 1;
                } else {
                    others.insert(format!("{} by {}", describe(subject), binding.role_ref.name));
                }
            }
        }
    }
    match others.is_empty() {
        true => Verdict::pass(format!("nobody but Kubernetes and its add-ons ({own})")),
        false => Verdict::fail(format!("{}; Kubernetes and its add-ons apart ({own})", some(&others))),
    }
}

/// The benchmark counts every binding to cluster-admin but the one that Kubernetes itself makes.
pub(super) fn cluster_admin(facts: &Facts) -> Verdict {
    let bound = facts.objects.bindings.iter().filter(|binding| {
        binding.role_ref.kind == "ClusterRole"
            && binding.role_ref.name == "cluster-admin"
            && !(binding.metadata.name == "cluster-admin" && binding.metadata.namespace.is_none())
    });
    let (mut found, mut by_kubeadm) = (Vec::new(), false);
    for binding in bound {
        by_kubeadm |= binding.metadata.name == "kubeadm:cluster-admins";
        let subjects: Vec<String> = binding.subjects.iter().map(describe).collect();
        let place = binding.metadata.namespace.as_ref().map(|space| format!(" in {space}")).unwrap_or_default();
        found.push(format!("{}{place}: {}", binding.metadata.name, subjects.join(", ")));
    }
    // The built-in binding is for one group; more in it is as good as another binding.
    let built_in = facts
        .objects
        .bindings
        .iter()
        .find(|binding| binding.metadata.name == "cluster-admin" && binding.metadata.namespace.is_none());
    let masters = |subject: &&Subject| !(subject.kind == "Group" && subject.name == "system:masters");
    for subject in built_in.into_iter().flat_map(|binding| &binding.subjects).filter(masters) {
        found.push(format!("cluster-admin: {}", describe(subject)));
    }
    if found.is_empty() {
        return Verdict::pass("cluster-admin is bound to the group system:masters alone");
    }
    let why = match by_kubeadm {
        true => {
            "; kubeadm:cluster-admins is the group of the certificate in admin.conf since Kubernetes 1.29: unlike \
             system:masters, it can be taken away"
        }
        false => "",
    };
    Verdict::fail(format!("besides system:masters, {}{why}", some(&found)))
}

pub(super) fn wildcards(facts: &Facts) -> Verdict {
    let wild = |rule: &Rule| {
        [&rule.api_groups, &rule.resources, &rule.verbs].iter().any(|list| list.iter().any(|one| one == "*"))
    };
    let (mut others, mut own) = (Vec::new(), 0);
    for role in facts.objects.roles.iter().filter(|role| role.rules.iter().any(wild)) {
        let name = &role.metadata.name;
        let namespace = role.metadata.namespace.as_deref();
        if role.metadata.labels.contains_key("kubernetes.io/bootstrapping")
            || name.starts_with("system:")
            || name == "local-path-provisioner-role"
            || namespace.is_some_and(is_system)
        {
            own += 1;
        } else {
            others.push(namespace.map_or_else(|| name.clone(), |space| format!("{space}/{name}")));
        }
    }
    match others.is_empty() {
        true => Verdict::pass(format!("only in roles of Kubernetes and its add-ons ({own})")),
        false => Verdict::fail(format!("{}; roles of Kubernetes and its add-ons apart ({own})", some(&others))),
    }
}

pub(super) fn masters(facts: &Facts) -> Verdict {
    let mut found = Vec::new();
    for binding in &facts.objects.bindings {
        let has = binding.subjects.iter().any(|subject| subject.kind == "Group" && subject.name == "system:masters");
        let built_in = binding.metadata.name == "cluster-admin" && binding.metadata.namespace.is_none();
        if has && !built_in {
            found.push(format!("the binding {}", binding.metadata.name));
        }
    }
    if facts.objects.admin_groups.iter().any(|group| group == "system:masters") {
        found.push("the certificate in admin.conf is of that group, which nothing can revoke".to_owned());
    }
    match found.is_empty() {
        true if facts.objects.admin_groups.is_empty() => {
            Verdict::open("no binding but the built-in one; of which group admin.conf is, cannot be read from it")
        }
        true => Verdict::pass(format!(
            "no binding but the built-in one; the certificate in admin.conf is of {}",
            some(&facts.objects.admin_groups)
        )),
        false => Verdict::fail(some(&found)),
    }
}
