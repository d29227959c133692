//! Who may do what: the controls on roles and on those who have them.
//!
//! What Kubernetes and the cluster's own add-ons need is counted apart: nobody can take it away.

use std::collections::BTreeSet;

use super::facts::{Binding, Facts, Role, Rule, Subject};
use super::verdict::{Verdict, some};

/// Namespaces that a cluster has by itself.
pub(super) const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"];

/// Whether a namespace is the cluster's own.
pub(super) fn is_system(namespace: &str) -> bool {
    SYSTEM_NAMESPACES.contains(&namespace)
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

/// The service accounts of the cluster's own namespaces that Kubernetes' controllers, kubeadm's add-ons and kind's bring (Kubernetes,
/// plugin/pkg/auth/authorizer/rbac/bootstrappolicy/controller_policy.go, versions 1.19 to 1.37). Others there are somebody's.
const OWN_ACCOUNTS: [(&str, &[&str]); 2] = [
    (
        "kube-system",
        &[
            "attachdetach-controller",
            "bootstrap-signer",
            "certificate-controller",
            "clusterrole-aggregation-controller",
            "coredns",
            "cronjob-controller",
            "daemon-set-controller",
            "deployment-controller",
            "device-taint-eviction-controller",
            "disruption-controller",
            "endpoint-controller",
            "endpointslice-controller",
            "endpointslicemirroring-controller",
            "ephemeral-volume-controller",
            "expand-controller",
            "generic-garbage-collector",
            "horizontal-pod-autoscaler",
            "job-controller",
            "kindnet",
            "kube-dns",
            "kube-proxy",
            "legacy-service-account-token-cleaner",
            "namespace-controller",
            "node-controller",
            "persistent-volume-binder",
            "pod-garbage-collector",
            "podcertificaterequestcleaner",
            "pv-protection-controller",
            "pvc-protection-controller",
            "replicaset-controller",
            "replication-controller",
            "resource-claim-controller",
            "resourcequota-controller",
            "root-ca-cert-publisher",
            "route-controller",
            "selinux-warning-controller",
            "service-account-controller",
            "service-cidrs-controller",
            "service-controller",
            "statefulset-controller",
            "storage-version-migrator-controller",
            "taint-eviction-controller",
            "token-cleaner",
            "ttl-after-finished-controller",
            "ttl-controller",
            "validatingadmissionpolicy-status-controller",
            "volumeattributesclass-protection-controller",
        ],
    ),
    ("local-path-storage", &["local-path-provisioner-service-account"]),
];

fn is_own_account(namespace: &str, name: &str) -> bool {
    OWN_ACCOUNTS.iter().any(|(of, names)| *of == namespace && names.contains(&name))
}

/// Whether a user is Kubernetes itself or one of the cluster's own add-ons. By their whole names: anybody may be called
/// `system:` something.
pub(super) fn is_own_user(name: &str) -> bool {
    const OWN: [&str; 6] = [
        "system:apiserver",
        "system:kube-controller-manager",
        "system:kube-scheduler",
        "system:kube-proxy",
        "system:volume-scheduler",
        // The API server, where it talks to kubelets.
        "kube-apiserver-kubelet-client",
    ];
    // Service accounts by the names that they have as users.
    let account = name.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
    OWN.contains(&name) || account.is_some_and(|(namespace, name)| is_own_account(namespace, name))
}

/// Whether a group is of Kubernetes itself. Its administrators are told of by controls of their own.
pub(super) fn is_own_group(name: &str) -> bool {
    let accounts_of = name.strip_prefix("system:serviceaccounts:");
    matches!(name, "system:nodes" | "system:monitoring") || accounts_of.is_some_and(is_system)
}

/// Whether a subject is Kubernetes itself, one of the cluster's own add-ons, or its administrators.
fn is_own(subject: &Subject) -> bool {
    match subject.kind.as_str() {
        "ServiceAccount" => is_own_account(subject.namespace.as_deref().unwrap_or_default(), &subject.name),
        "Group" => {
            matches!(
                subject.name.as_str(),
                "system:masters"
                    | "kubeadm:cluster-admins"
                    | "system:nodes"
                    | "system:monitoring"
                    | "system:bootstrappers:kubeadm:default-node-token"
            )
        }
        _ => is_own_user(&subject.name),
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
            Verdict::found(&others, format!("; Kubernetes and its add-ons apart ({})", own.len()))
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
            rule.verbs.iter().any(|verb| {
                // Also `impersonate:user-info` and its like (Kubernetes 1.35).
                matches!(verb.as_str(), "*" | "bind" | "escalate") || verb.starts_with("impersonate")
            }) && rule.resources.iter().any(|resource| {
                let whole = resource.split('/').next().unwrap_or_default();
                matches!(
                    whole,
                    "*" | "roles" | "clusterroles" | "users" | "groups" | "serviceaccounts" | "userextras" | "uids"
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
        false => Verdict::found(&others, format!("; Kubernetes and its add-ons apart ({own})")),
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
    Verdict::found(&found, why).after("besides system:masters, ")
}

/// The roles of Kubernetes, kubeadm's add-ons and kind's that have a `*`, in any version from 1.19 to 1.37. By their whole names: a label is
/// put on by anybody.
const OWN_WILDCARDS: [(Option<&str>, &str); 10] = [
    (None, "cluster-admin"),
    (None, "local-path-provisioner-role"),
    (None, "system:kube-controller-manager"),
    (None, "system:kubelet-api-admin"),
    (None, "system:controller:disruption-controller"),
    (None, "system:controller:generic-garbage-collector"),
    (None, "system:controller:horizontal-pod-autoscaler"),
    (None, "system:controller:namespace-controller"),
    (None, "system:controller:resourcequota-controller"),
    (None, "system:controller:clusterrole-aggregation-controller"),
];

pub(super) fn wildcards(facts: &Facts) -> Verdict {
    let wild = |rule: &Rule| {
        [&rule.api_groups, &rule.resources, &rule.verbs].iter().any(|list| list.iter().any(|one| one == "*"))
    };
    let (mut others, mut own) = (Vec::new(), 0);
    for role in facts.objects.roles.iter().filter(|role| role.rules.iter().any(wild)) {
        let name = &role.metadata.name;
        let namespace = role.metadata.namespace.as_deref();
        if OWN_WILDCARDS.contains(&(namespace, name.as_str())) {
            own += 1;
        } else {
            others.push(namespace.map_or_else(|| name.clone(), |space| format!("{space}/{name}")));
        }
    }
    match others.is_empty() {
        true => Verdict::pass(format!("only in roles of Kubernetes and its add-ons ({own})")),
        false => Verdict::found(&others, format!("; roles of Kubernetes and its add-ons apart ({own})")),
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
