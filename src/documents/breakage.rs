//! What a teacher can break in a cluster: each break, the control of the CIS benchmark that it is against, and what puts
//! it right. Pure: breaking is `operations::breakage`' part.

use serde::Deserialize as _;
use serde_json::Value;

/// Something to be broken.
#[derive(Debug, PartialEq, Eq)]
pub struct Break {
    /// Its name, as `--what` takes it.
    pub name: &'static str,
    /// The control that it is against, by its number in the newest version of the benchmark.
    pub control: &'static str,
    /// What is done.
    pub action: Action,
}

/// How it is broken.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// A file gets other permissions.
    Mode {
        /// Which file.
        path: &'static str,
        /// Its new permissions.
        mode: u32,
    },
    /// A file gets another owner.
    Owner {
        /// Which file.
        path: &'static str,
        /// `USER:GROUP`, as numbers.
        owner: &'static str,
    },
    /// A flag of the API server gets another value.
    ApiServer {
        /// Which flag.
        flag: &'static str,
        /// Its new value.
        value: &'static str,
    },
    /// A value is added to those of a flag of the API server.
    Adds {
        /// Which flag.
        flag: &'static str,
        /// What is added, after a comma where there is something.
        value: &'static str,
    },
    /// A flag of another static pod of a control plane gets another value.
    Component {
        /// Its name, which is that of its manifest, its container and its process.
        name: &'static str,
        /// Which flag.
        flag: &'static str,
        /// Its new value.
        value: &'static str,
    },
    /// The API server gets a configuration by which it writes plain text, and still reads all that is encrypted.
    PlainText {
        /// A Secret that is made thereafter, as YAML.
        secret: &'static str,
    },
    /// A field of the kubelet's configuration gets another value.
    Kubelet {
        /// Which field, as a JSON pointer.
        field: &'static str,
        /// Its new value, as YAML.
        value: &'static str,
    },
    /// Objects are made.
    Objects {
        /// What is found, by its whole name.
        shows: &'static str,
        /// The objects, as YAML.
        text: &'static str,
    },
}

/// Everything that can be broken. The lesson's files have to be wrong by every version of the benchmark, and the cluster has
/// to go on running.
pub const BREAKS: [Break; 46] = [
    Break {
        name: "manifest-mode",
        control: "1.1.1",
        action: Action::Mode { path: "/etc/kubernetes/manifests/kube-apiserver.yaml", mode: 0o666 },
    },
    Break {
        name: "manifest-owner",
        control: "1.1.2",
        action: Action::Owner { path: "/etc/kubernetes/manifests/kube-apiserver.yaml", owner: "1000:1000" },
    },
    Break {
        name: "controller-manager-manifest-mode",
        control: "1.1.3",
        action: Action::Mode { path: "/etc/kubernetes/manifests/kube-controller-manager.yaml", mode: 0o666 },
    },
    Break {
        name: "controller-manager-manifest-owner",
        control: "1.1.4",
        action: Action::Owner { path: "/etc/kubernetes/manifests/kube-controller-manager.yaml", owner: "1000:1000" },
    },
    Break {
        name: "scheduler-manifest-mode",
        control: "1.1.5",
        action: Action::Mode { path: "/etc/kubernetes/manifests/kube-scheduler.yaml", mode: 0o666 },
    },
    Break {
        name: "scheduler-manifest-owner",
        control: "1.1.6",
        action: Action::Owner { path: "/etc/kubernetes/manifests/kube-scheduler.yaml", owner: "1000:1000" },
    },
    Break {
        name: "etcd-manifest-mode",
        control: "1.1.7",
        action: Action::Mode { path: "/etc/kubernetes/manifests/etcd.yaml", mode: 0o666 },
    },
    Break {
        name: "etcd-manifest-owner",
        control: "1.1.8",
        action: Action::Owner { path: "/etc/kubernetes/manifests/etcd.yaml", owner: "1000:1000" },
    },
    Break { name: "etcd-data-mode", control: "1.1.11", action: Action::Mode { path: "/var/lib/etcd", mode: 0o755 } },
    Break { name: "etcd-data-owner", control: "1.1.12", action: Action::Owner { path: "/var/lib/etcd", owner: "0:0" } },
    Break {
        name: "admin-mode",
        control: "1.1.13",
        action: Action::Mode { path: "/etc/kubernetes/admin.conf", mode: 0o666 },
    },
    Break {
        name: "admin-owner",
        control: "1.1.14",
        action: Action::Owner { path: "/etc/kubernetes/admin.conf", owner: "1000:1000" },
    },
    Break {
        name: "scheduler-kubeconfig-mode",
        control: "1.1.15",
        action: Action::Mode { path: "/etc/kubernetes/scheduler.conf", mode: 0o666 },
    },
    Break {
        name: "scheduler-kubeconfig-owner",
        control: "1.1.16",
        action: Action::Owner { path: "/etc/kubernetes/scheduler.conf", owner: "1000:1000" },
    },
    Break {
        name: "controller-manager-kubeconfig-mode",
        control: "1.1.17",
        action: Action::Mode { path: "/etc/kubernetes/controller-manager.conf", mode: 0o666 },
    },
    Break {
        name: "controller-manager-kubeconfig-owner",
        control: "1.1.18",
        action: Action::Owner { path: "/etc/kubernetes/controller-manager.conf", owner: "1000:1000" },
    },
    Break {
        name: "pki-owner",
        control: "1.1.19",
        action: Action::Owner { path: "/etc/kubernetes/pki/apiserver.crt", owner: "1000:1000" },
    },
    Break {
        name: "key-mode",
        control: "1.1.21",
        action: Action::Mode { path: "/etc/kubernetes/pki/sa.key", mode: 0o644 },
    },
    Break {
        name: "authorizes-all",
        control: "1.2.6",
        action: Action::Adds { flag: "authorization-mode", value: "AlwaysAllow" },
    },
    Break {
        name: "always-admit",
        control: "1.2.10",
        action: Action::Adds { flag: "enable-admission-plugins", value: "AlwaysAdmit" },
    },
    Break {
        name: "no-service-account-admission",
        control: "1.2.12",
        action: Action::Adds { flag: "disable-admission-plugins", value: "ServiceAccount" },
    },
    Break {
        name: "no-namespace-lifecycle",
        control: "1.2.13",
        action: Action::Adds { flag: "disable-admission-plugins", value: "NamespaceLifecycle" },
    },
    Break { name: "profiling", control: "1.2.15", action: Action::ApiServer { flag: "profiling", value: "true" } },
    Break { name: "audit-age", control: "1.2.17", action: Action::ApiServer { flag: "audit-log-maxage", value: "1" } },
    Break {
        name: "audit-backups",
        control: "1.2.18",
        action: Action::ApiServer { flag: "audit-log-maxbackup", value: "1" },
    },
    Break {
        name: "audit-size",
        control: "1.2.19",
        action: Action::ApiServer { flag: "audit-log-maxsize", value: "1" },
    },
    Break {
        name: "no-token-lookup",
        control: "1.2.21",
        action: Action::ApiServer { flag: "service-account-lookup", value: "false" },
    },
    Break {
        name: "plain-secret",
        control: "1.2.28",
        action: Action::PlainText {
            secret: "apiVersion: v1\nkind: Secret\nmetadata: {name: payroll, namespace: default}\n\
             stringData: {password: 'whoever reads etcd reads this'}\n",
        },
    },
    Break {
        name: "weak-suites",
        control: "1.2.29",
        action: Action::ApiServer {
            flag: "tls-cipher-suites",
            value: "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        },
    },
    Break {
        name: "controller-manager-profiling",
        control: "1.3.2",
        action: Action::Component { name: "kube-controller-manager", flag: "profiling", value: "true" },
    },
    Break {
        name: "controller-manager-one-account",
        control: "1.3.3",
        action: Action::Component {
            name: "kube-controller-manager",
            flag: "use-service-account-credentials",
            value: "false",
        },
    },
    Break {
        name: "controller-manager-open",
        control: "1.3.7",
        action: Action::Component { name: "kube-controller-manager", flag: "bind-address", value: "0.0.0.0" },
    },
    Break {
        name: "scheduler-profiling",
        control: "1.4.1",
        action: Action::Component { name: "kube-scheduler", flag: "profiling", value: "true" },
    },
    Break {
        name: "scheduler-open",
        control: "1.4.2",
        action: Action::Component { name: "kube-scheduler", flag: "bind-address", value: "0.0.0.0" },
    },
    Break {
        name: "kubelet-kubeconfig-mode",
        control: "4.1.5",
        action: Action::Mode { path: "/etc/kubernetes/kubelet.conf", mode: 0o666 },
    },
    Break {
        name: "kubelet-kubeconfig-owner",
        control: "4.1.6",
        action: Action::Owner { path: "/etc/kubernetes/kubelet.conf", owner: "1000:1000" },
    },
    Break {
        name: "kubelet-config-mode",
        control: "4.1.9",
        action: Action::Mode { path: "/var/lib/kubelet/config.yaml", mode: 0o666 },
    },
    Break {
        name: "kubelet-config-owner",
        control: "4.1.10",
        action: Action::Owner { path: "/var/lib/kubelet/config.yaml", owner: "1000:1000" },
    },
    Break {
        name: "kubelet-anonymous",
        control: "4.2.1",
        action: Action::Kubelet { field: "/authentication/anonymous/enabled", value: "true" },
    },
    Break {
        name: "kubelet-always-allow",
        control: "4.2.2",
        action: Action::Kubelet { field: "/authorization/mode", value: "AlwaysAllow" },
    },
    Break {
        name: "kubelet-open-port",
        control: "4.2.4",
        action: Action::Kubelet { field: "/readOnlyPort", value: "10255" },
    },
    Break {
        name: "kubelet-without-chains",
        control: "4.2.6",
        action: Action::Kubelet { field: "/makeIPTablesUtilChains", value: "false" },
    },
    Break {
        name: "kubelet-one-certificate",
        control: "4.2.10",
        action: Action::Kubelet { field: "/rotateCertificates", value: "false" },
    },
    Break {
        name: "cluster-admin",
        control: "5.1.1",
        action: Action::Objects {
            shows: "support: service account default/default",
            text: "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: support}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}\n\
             subjects: [{kind: ServiceAccount, name: default, namespace: default}]\n",
        },
    },
    Break {
        name: "secret-readers",
        control: "5.1.2",
        action: Action::Objects {
            shows: "group system:authenticated by secret-audit",
            text: "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: secret-audit}\n\
             rules: [{apiGroups: [''], resources: [secrets], verbs: [get, list]}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: secret-audit}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: secret-audit}\n\
             subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:authenticated'}]\n",
        },
    },
    Break {
        name: "wildcard-role",
        control: "5.1.3",
        action: Action::Objects {
            shows: "operator",
            text: "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: operator}\n\
             rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]\n",
        },
    },
];

impl Break {
    /// The break of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        BREAKS.iter().find(|one| one.name == name)
    }

    /// Whether it is done on nodes other than control planes, too.
    #[must_use]
    pub fn is_of_every_node(&self) -> bool {
        self.control.starts_with("4.")
    }

    /// What was done, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.action {
            Action::Mode { path, mode } => format!("{path} has the mode {mode:o}"),
            Action::Owner { path, owner } => format!("{path} belongs to {owner}"),
            Action::ApiServer { flag, value } => format!("the API server runs with --{flag}={value}"),
            Action::Adds { flag, value } => format!("the API server runs with {value} in --{flag}"),
            Action::Component { name, flag, value } => format!("{name} runs with --{flag}={value}"),
            Action::PlainText { .. } => {
                "the API server writes plain text, and the Secret default/payroll is stored so".to_owned()
            }
            Action::Kubelet { field, value } => {
                format!("{} of the kubelet's configuration is {value}", field.trim_start_matches('/').replace('/', "."))
            }
            Action::Objects { .. } => {
                let objects = self.objects().into_iter().map(|(kind, name)| format!("{kind} {name}"));
                format!("made: {}", objects.collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// The objects that are made: kind and name.
    #[must_use]
    pub fn objects(&self) -> Vec<(String, String)> {
        let (Action::Objects { text, .. } | Action::PlainText { secret: text }) = self.action else {
            return Vec::new();
        };
        let documents = serde_yaml::Deserializer::from_str(text).filter_map(|one| Value::deserialize(one).ok());
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        documents.map(|object| (word(&object["kind"]), word(&object["metadata"]["name"]))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::documents::cis::{Benchmark, find};

    #[test]
    fn each_break_has_a_name_of_its_own_and_a_control_that_every_version_has() {
        let names: BTreeSet<&str> = BREAKS.iter().map(|one| one.name).collect();
        assert_eq!(names.len(), BREAKS.len());
        for one in &BREAKS {
            let control = find(Benchmark::NEWEST, one.control).unwrap_or_else(|| panic!("{}", one.name));
            let old = find(Benchmark::V1_20, control.place(Benchmark::V1_20).map_or("", |place| place.id));
            // Where the permissions that a version asks for differ, each has a control of its own.
            assert!(
                old.is_some() || matches!(one.action, Action::Mode { .. } | Action::ApiServer { .. }),
                "{}",
                one.name
            );
            assert!(Break::named(one.name) == Some(one));
        }
    }

    #[test]
    fn objects_are_yaml() {
        for one in &BREAKS {
            if let Action::Objects { text, .. } | Action::PlainText { secret: text } = one.action {
                crate::documents::bounds::check_stream(text).unwrap_or_else(|error| panic!("{}: {error}", one.name));
                let objects = one.objects();
                assert_eq!(
                    objects.len(),
                    text.lines().filter(|line| line.starts_with("kind: ")).count(),
                    "{objects:?}"
                );
                assert!(objects.iter().all(|(kind, name)| !kind.is_empty() && !name.is_empty()), "{objects:?}");
            }
        }
    }
}
