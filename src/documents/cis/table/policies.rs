//! Section 5: roles, pods, networks and Secrets.

use crate::documents::cis::benchmark::Benchmark as B;
use crate::documents::cis::control::{Control, Remedy, Test, automated, manual};
use crate::documents::cis::{rbac, workloads};

pub(super) const CONTROLS: &[Control] = &[
    Control {
        places: &[
            manual(B::V1_20, B::V1_8, "5.1.1"),
            automated(B::V1_9, B::V1_10, "5.1.1"),
            manual(B::V1_11, B::V2_0, "5.1.1"),
        ],
        level: 1,
        title: "Nobody is cluster-admin who need not be",
        test: Test::Cluster(rbac::cluster_admin),
        remedy: Remedy::Do("bind a smaller role; kubeadm:cluster-admins is the administrator's own"),
    },
    Control {
        places: &[
            manual(B::V1_20, B::V1_8, "5.1.2"),
            automated(B::V1_9, B::V1_10, "5.1.2"),
            manual(B::V1_11, B::V2_0, "5.1.2"),
        ],
        level: 1,
        title: "Nobody reads Secrets who need not",
        test: Test::Cluster(rbac::read_secrets),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[
            manual(B::V1_20, B::V1_8, "5.1.3"),
            automated(B::V1_9, B::V1_10, "5.1.3"),
            manual(B::V1_11, B::V2_0, "5.1.3"),
        ],
        level: 1,
        title: "Roles name what they allow",
        test: Test::Cluster(rbac::wildcards),
        remedy: Remedy::Do("name groups, resources and verbs instead of `*`"),
    },
    Control {
        places: &[
            manual(B::V1_20, B::V1_8, "5.1.4"),
            automated(B::V1_9, B::V1_10, "5.1.4"),
            manual(B::V1_11, B::V2_0, "5.1.4"),
        ],
        level: 1,
        title: "Nobody makes pods who need not",
        test: Test::Cluster(rbac::create_pods),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[
            manual(B::V1_20, B::V1_8, "5.1.5"),
            automated(B::V1_9, B::V1_10, "5.1.5"),
            manual(B::V1_11, B::V2_0, "5.1.5"),
        ],
        level: 1,
        title: "Default service accounts are not used",
        test: Test::Cluster(workloads::default_accounts),
        remedy: Remedy::Do("set `automountServiceAccountToken: false` on each; the profile cis-level-2 does"),
    },
    Control {
        places: &[
            manual(B::V1_20, B::V1_8, "5.1.6"),
            automated(B::V1_9, B::V1_10, "5.1.6"),
            manual(B::V1_11, B::V2_0, "5.1.6"),
        ],
        level: 1,
        title: "Pods get a token only if they need one",
        test: Test::Cluster(workloads::mounted_tokens),
        remedy: Remedy::Do("set `automountServiceAccountToken: false` on pods that do not ask the API"),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.1.7")],
        level: 1,
        title: "Nobody is of system:masters",
        test: Test::Cluster(rbac::masters),
        remedy: Remedy::Do(
            "use credentials of a group that a binding can be taken from; since Kubernetes 1.29 admin.conf is such a one",
        ),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.1.8")],
        level: 1,
        title: "Nobody binds, impersonates or escalates who need not",
        test: Test::Cluster(rbac::bind_impersonate_escalate),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "5.1.9")],
        level: 1,
        title: "Nobody makes PersistentVolumes who need not",
        test: Test::Cluster(rbac::create_volumes),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "5.1.10")],
        level: 1,
        title: "Nobody gets to kubelets by the API server who need not",
        test: Test::Cluster(rbac::proxy_to_nodes),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "5.1.11")],
        level: 1,
        title: "Nobody approves certificates who need not",
        test: Test::Cluster(rbac::approve_certificates),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "5.1.12")],
        level: 1,
        title: "Nobody changes webhooks who need not",
        test: Test::Cluster(rbac::change_webhooks),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[manual(B::V1_7, B::V2_0, "5.1.13")],
        level: 1,
        title: "Nobody makes service accounts' tokens who need not",
        test: Test::Cluster(rbac::create_tokens),
        remedy: Remedy::Do("take the right away from whoever does not need it"),
    },
    Control {
        places: &[manual(B::V1_23, B::V2_0, "5.2.1")],
        level: 1,
        title: "Pods are judged by a policy",
        test: Test::Cluster(workloads::policy_in_place),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[automated(B::V1_20, B::V1_20, "5.2.1"), manual(B::V1_23, B::V2_0, "5.2.2")],
        level: 1,
        title: "Privileged containers are refused",
        test: Test::Cluster(workloads::privileged),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.2"),
            automated(B::V1_23, B::V1_8, "5.2.3"),
            manual(B::V1_9, B::V2_0, "5.2.3"),
        ],
        level: 1,
        title: "Pods that see the node's processes are refused",
        test: Test::Cluster(workloads::host_pid),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.3"),
            automated(B::V1_23, B::V1_8, "5.2.4"),
            manual(B::V1_9, B::V2_0, "5.2.4"),
        ],
        level: 1,
        title: "Pods that share the node's memory are refused",
        test: Test::Cluster(workloads::host_ipc),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.4"),
            automated(B::V1_23, B::V1_8, "5.2.5"),
            manual(B::V1_9, B::V2_0, "5.2.5"),
        ],
        level: 1,
        title: "Pods on the node's network are refused",
        test: Test::Cluster(workloads::host_network),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.5"),
            automated(B::V1_23, B::V1_8, "5.2.6"),
            manual(B::V1_9, B::V2_0, "5.2.6"),
        ],
        level: 1,
        title: "Containers that may get further rights are refused",
        test: Test::Cluster(workloads::privilege_escalation),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.6"),
            automated(B::V1_23, B::V1_8, "5.2.7"),
            manual(B::V1_9, B::V2_0, "5.2.7"),
        ],
        level: 2,
        title: "Containers that run as root are refused",
        test: Test::Cluster(workloads::root),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.7"),
            automated(B::V1_23, B::V1_8, "5.2.8"),
            manual(B::V1_9, B::V2_0, "5.2.8"),
        ],
        level: 1,
        title: "Containers that keep NET_RAW are refused",
        test: Test::Cluster(workloads::net_raw),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            automated(B::V1_20, B::V1_20, "5.2.8"),
            automated(B::V1_23, B::V1_8, "5.2.9"),
            manual(B::V1_9, B::V1_11, "5.2.9"),
        ],
        level: 1,
        title: "Containers that add capabilities are refused",
        test: Test::Cluster(workloads::added_capabilities),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[
            manual(B::V1_20, B::V1_20, "5.2.9"),
            manual(B::V1_23, B::V1_11, "5.2.10"),
            manual(B::V1_12, B::V2_0, "5.2.9"),
        ],
        level: 2,
        title: "Containers that keep capabilities are refused",
        test: Test::Cluster(workloads::assigned_capabilities),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[manual(B::V1_23, B::V1_11, "5.2.11"), manual(B::V1_12, B::V2_0, "5.2.10")],
        level: 1,
        title: "HostProcess containers are refused",
        test: Test::Cluster(workloads::host_process),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[manual(B::V1_23, B::V1_11, "5.2.12"), manual(B::V1_12, B::V2_0, "5.2.11")],
        level: 1,
        title: "Pods that mount the node's files are refused",
        test: Test::Cluster(workloads::host_path),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[manual(B::V1_23, B::V1_11, "5.2.13"), manual(B::V1_12, B::V2_0, "5.2.12")],
        level: 1,
        title: "Containers that take the node's ports are refused",
        test: Test::Cluster(workloads::host_ports),
        remedy: Remedy::Do(
            "label namespaces with `pod-security.kubernetes.io/enforce`, or set defaults for PodSecurity: the profile cis-level-2 does",
        ),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.3.1")],
        level: 1,
        title: "The container network enforces NetworkPolicies",
        test: Test::Cluster(workloads::network_policies_enforced),
        remedy: Remedy::Do(
            "use a node image whose container network does, or bring your own: `networking.disableDefaultCNI=true`",
        ),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.3.2")],
        level: 2,
        title: "Every namespace has a NetworkPolicy",
        test: Test::Cluster(workloads::network_policies),
        remedy: Remedy::Do("write one for each; the profile cis-level-2 has those of the cluster's own"),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.4.1")],
        level: 2,
        title: "Secrets come as files, not as variables",
        test: Test::Cluster(workloads::secrets_as_variables),
        remedy: Remedy::Do("mount them as volumes"),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.4.2")],
        level: 2,
        title: "Secrets are kept by a store outside",
        test: Test::Cluster(workloads::external_secrets),
        remedy: Remedy::Do("for production, consider a store with a CSI driver"),
    },
    Control {
        places: &[manual(B::V1_20, B::V2_0, "5.5.1")],
        level: 2,
        title: "Images are judged before they run",
        test: Test::Cluster(workloads::image_provenance),
        remedy: Remedy::Do("run a webhook that verifies signatures"),
    },
    Control {
        places: &[manual(B::V1_20, B::V1_10, "5.7.1"), manual(B::V1_11, B::V2_0, "5.6.1")],
        level: 1,
        title: "What does not belong together is in namespaces of its own",
        test: Test::Cluster(workloads::boundaries),
        remedy: Remedy::Do("make a namespace for each team or application"),
    },
    Control {
        places: &[manual(B::V1_20, B::V1_10, "5.7.2"), manual(B::V1_11, B::V2_0, "5.6.2")],
        level: 2,
        title: "Containers run with a seccomp profile",
        test: Test::Cluster(workloads::seccomp),
        remedy: Remedy::Set(&["hardening.seccompDefault=true"]),
    },
    Control {
        places: &[manual(B::V1_20, B::V1_10, "5.7.3"), manual(B::V1_11, B::V2_0, "5.6.3")],
        level: 2,
        title: "Pods say what they may do",
        test: Test::Cluster(workloads::security_contexts),
        remedy: Remedy::Do("give each pod a securityContext"),
    },
    Control {
        places: &[manual(B::V1_20, B::V1_10, "5.7.4"), manual(B::V1_11, B::V2_0, "5.6.4")],
        level: 2,
        title: "The namespace default is not used",
        test: Test::Cluster(workloads::default_namespace),
        remedy: Remedy::Do("move what is in it to a namespace of its own"),
    },
];
