//! Tests of the documents as a whole. Their exact text is in the golden files (`tests/golden`).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::Deserialize as _;
use serde_json::json;

use crate::documents::profile::{Encryption, KubeProxyMode, Role};

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const ADDRESSES: NodeAddresses = NodeAddresses {
    v4: Some(Ipv4Addr::new(172, 18, 0, 2)),
    v6: Some(Ipv6Addr::new(0xfc00, 0xf853, 0xccd, 0xe793, 0, 0, 0, 2)),
};

fn profile(spec: Value) -> Profile {
    serde_json::from_value(json!({
        "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "test"}, "spec": spec,
    }))
    .unwrap()
}

fn hardened() -> Profile {
    profile(json!({
        "nodes": [{"role": "worker", "count": 2}, {"role": "control-plane"}],
        "encryption": {
            "providers": [{"type": "secretbox", "keys": [{"name": "key1"}, {"name": "key2"}]}, {"type": "identity"}],
            "resources": ["secrets", "configmaps"],
        },
        "audit": {"rules": [{"level": "None", "verbs": ["get"]}, {"level": "Metadata"}], "omitStages": ["RequestReceived"]},
        "apiServer": {"extraArgs": {"profiling": "false"}},
        "hardening": {"fileModes": "restrictive", "kubeletServingCertificates": true, "seccompDefault": true},
    }))
}

/// Inputs with everything but the profile and the version at its usual value.
struct Case {
    profile: Profile,
    version: KubernetesVersion,
    templates: Templates,
    keys: Option<KeyRing>,
}

impl Case {
    fn new(profile: Profile, version: &str) -> Self {
        let keys = profile.spec.encryption.as_ref().map(Encryption::placeholder);
        Self { profile, version: version.parse().unwrap(), templates: Templates::built_in(), keys }
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            profile: &self.profile,
            cluster: "lab",
            image: "kindest/node:test",
            version: &self.version,
            keys: self.keys.as_ref(),
            templates: &self.templates,
            cgroup_v1: false,
        }
    }

    fn digest(&self) -> Digest {
        documents_digest(&self.inputs()).unwrap()
    }

    /// The kubeadm documents of the node at `index`, by kind.
    fn kubeadm(&self, index: usize) -> Value {
        let nodes = plan_nodes(&self.profile, "lab");
        let endpoint = control_plane_endpoint(&nodes, "lab");
        let node = &nodes[index];
        let text =
            kubeadm_config(&self.inputs(), node, node.start(), &ADDRESSES, &endpoint, PLACEHOLDER_TOKEN).unwrap();
        by_kind(&text)
    }
}

fn by_kind(text: &str) -> Value {
    let mut kinds = serde_json::Map::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let document = Value::deserialize(document).unwrap_or_else(|error| panic!("{error}\n{text}"));
        kinds.insert(document["kind"].as_str().unwrap().to_owned(), document);
    }
    Value::Object(kinds)
}

#[test]
fn nodes_are_named_as_kind_names_them() {
    let nodes = plan_nodes(
        &profile(json!({"nodes": [
            {"role": "worker", "labels": {"a": "b"}}, {"role": "control-plane", "count": 3}, {"role": "worker"},
        ]})),
        "lab",
    );
    let names: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.role, node.index, node.start())).collect();
    assert_eq!(
        names,
        [
            ("lab-control-plane", Role::ControlPlane, 1, NodeStart::Init),
            ("lab-control-plane2", Role::ControlPlane, 2, NodeStart::JoinControlPlane),
            ("lab-control-plane3", Role::ControlPlane, 3, NodeStart::JoinControlPlane),
            ("lab-worker", Role::Worker, 1, NodeStart::JoinWorker),
            ("lab-worker2", Role::Worker, 2, NodeStart::JoinWorker),
        ]
    );
    assert_eq!(nodes[3].labels["a"], "b");
    assert_eq!(control_plane_endpoint(&nodes, "lab"), "lab-external-load-balancer:6443");
    let single = plan_nodes(&profile(json!({})), "lab");
    assert_eq!((single.len(), control_plane_endpoint(&single, "lab").as_str()), (1, "lab-control-plane:6443"));
}

#[test]
fn members_that_found_an_etcd_cluster_differ_in_nothing_else() {
    let members = [("a", "172.18.0.2"), ("b", "fd00::3")].map(|(name, at)| (name.to_owned(), at.parse().unwrap()));
    let members = initial_cluster(&members);
    assert_eq!(members, "a=https://172.18.0.2:2380,b=https://[fd00::3]:2380");
    for (version, path) in [("v1.20.2", "/initial-cluster"), ("v1.37.0", "/0")] {
        let case = Case::new(profile(json!({"nodes": [{"role": "control-plane", "count": 2}]})), version);
        let nodes = plan_nodes(&case.profile, "lab");
        let config = |founding: bool| {
            let (node, token) = (&nodes[1], PLACEHOLDER_TOKEN);
            let text = if founding {
                founding_config(&case.inputs(), node, &ADDRESSES, "e:6443", token, &members)
            } else {
                kubeadm_config(&case.inputs(), node, NodeStart::Init, &ADDRESSES, "e:6443", token)
            };
            by_kind(&text.unwrap())
        };
        let (mut founding, plain) = (config(true), config(false));
        let etcd = founding["ClusterConfiguration"].as_object_mut().unwrap().remove("etcd").unwrap();
        assert!(etcd["local"]["extraArgs"].pointer(path).unwrap().to_string().contains(&members), "{etcd}");
        assert_eq!(founding, plain, "{version}");
    }
}

#[test]
fn every_kubeadm_version_says_the_same() {
    let mut seen = Vec::new();
    for (version, api) in [("v1.22.9", "v1beta2"), ("v1.27.3", "v1beta3"), ("v1.37.0", "v1beta4")] {
        let case = Case::new(hardened(), version);
        let mut documents = case.kubeadm(0);
        for (kind, section) in [
            ("ClusterConfiguration", "/apiServer/extraArgs"),
            ("ClusterConfiguration", "/controllerManager/extraArgs"),
            ("InitConfiguration", "/nodeRegistration/kubeletExtraArgs"),
        ] {
            assert_eq!(documents[kind]["apiVersion"], format!("kubeadm.k8s.io/{api}"));
            let args = documents[kind].pointer_mut(section).unwrap();
            assert_eq!(args.is_array(), api == "v1beta4", "{args}");
            if let Some(list) = args.as_array() {
                let pairs = list.iter().map(|arg| (arg["name"].as_str().unwrap().to_owned(), arg["value"].clone()));
                *args = Value::Object(pairs.collect());
            }
            args.as_object_mut().unwrap().remove("encryption-provider-config-automatic-reload");
        }
        for document in documents.as_object_mut().unwrap().values_mut() {
            let document = document.as_object_mut().unwrap();
            for field in ["apiVersion", "kubernetesVersion", "skipPhases", "patches", "cgroupDriver", "featureGates"] {
                document.remove(field);
            }
            // Only older kubelets have to be told to report at once.
            for field in ["nodeStatusUpdateFrequency", "nodeStatusReportFrequency"] {
                document.remove(field);
            }
        }
        seen.push(documents);
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[1], seen[2]);
    let cluster = &seen[0]["ClusterConfiguration"];
    assert_eq!(cluster["apiServer"]["extraArgs"]["encryption-provider-config"], ENCRYPTION_FILE);
    assert_eq!(cluster["apiServer"]["extraArgs"]["audit-log-maxage"], "30");
    assert_eq!(cluster["apiServer"]["extraVolumes"].as_array().unwrap().len(), 3);
    assert_eq!(cluster["controllerManager"]["extraArgs"]["enable-hostpath-provisioner"], "true");
    assert_eq!(seen[0]["KubeletConfiguration"]["serverTLSBootstrap"], true);
    assert_eq!(seen[0]["KubeProxyConfiguration"]["conntrack"]["maxPerCore"], 0);
}

#[test]
fn features_come_with_their_versions() {
    let at = |version: &str| Case::new(hardened(), version);
    assert_eq!(at("v1.20.2").kubeadm(0)["KubeletConfiguration"].get("seccompDefault"), None);
    assert_eq!(warnings(&at("v1.20.2").inputs()).len(), 1);
    assert_eq!(warnings(&at("v1.38.0").inputs()).len(), 1);
    assert!(warnings(&at("v1.37.0").inputs()).is_empty());
    let gated = &at("v1.23.0").kubeadm(0)["KubeletConfiguration"];
    assert_eq!((&gated["seccompDefault"], &gated["featureGates"]["SeccompDefault"]), (&json!(true), &json!(true)));
    let reload = "encryption-provider-config-automatic-reload";
    assert!(!api_server(&at("v1.25.0").inputs()).unwrap().args.contains_key(reload));
    assert!(api_server(&at("v1.26.0").inputs()).unwrap().args.contains_key(reload));
    for (version, expected) in [("v1.34.0", None), ("v1.35.0", Some(&json!(false)))] {
        let case = at(version);
        let inputs = Inputs { cgroup_v1: true, ..case.inputs() };
        assert_eq!(settings::kubelet(&inputs).get("failCgroupV1"), expected);
        assert_eq!(settings::kubelet(&case.inputs()).get("failCgroupV1"), None);
    }
    assert_eq!(at("v1.20.2").kubeadm(0)["InitConfiguration"].get("skipPhases"), None);
    assert_eq!(at("v1.23.0").kubeadm(0)["InitConfiguration"]["skipPhases"], json!(["preflight"]));
}

#[test]
fn what_a_version_cannot_do_is_an_error() {
    let encrypting =
        |resource: &str| profile(json!({"encryption": {"providers": [{"type": "aescbc"}], "resources": [resource]}}));
    for (profile, version, since) in [
        (encrypting("*.*"), "v1.26.0", "1.27"),
        (encrypting("foos.example.com"), "v1.25.0", "1.26"),
        (profile(json!({"networking": {"kubeProxyMode": "nftables"}})), "v1.30.0", "1.31"),
    ] {
        let error = bundle(&Case::new(profile, version).inputs(), Path::new("/b")).unwrap_err();
        assert!(matches!(error, RenderError::Unsupported { since: s, .. } if s == since), "{error}");
    }
    for resource in ["ingresses.networking.k8s.io", "deployments.apps", "secrets"] {
        assert!(api_server(&Case::new(encrypting(resource), "v1.20.2").inputs()).is_ok());
    }
}

#[test]
fn a_single_node_registers_without_the_control_planes_taint() {
    let own = json!([{"key": "a", "effect": "NoExecute"}]);
    let single =
        |taints: &Value| Case::new(profile(json!({"nodes": [{"role": "control-plane", "taints": taints}]})), "v1.37.0");
    let taints = |documents: &Value, kind: &str| documents[kind]["nodeRegistration"].get("taints").cloned();
    assert_eq!(taints(&single(&json!([])).kubeadm(0), "InitConfiguration"), Some(json!([])));
    assert_eq!(taints(&single(&own).kubeadm(0), "InitConfiguration"), Some(own.clone()));
    let case = Case::new(
        profile(
            json!({"nodes": [{"role": "control-plane", "taints": own}, {"role": "worker", "taints": own}, {"role": "worker"}]}),
        ),
        "v1.24.0",
    );
    let first = taints(&case.kubeadm(0), "InitConfiguration").unwrap();
    let keys: Vec<_> = first.as_array().unwrap().iter().map(|taint| taint["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master", "a"]);
    assert_eq!(taints(&case.kubeadm(1), "JoinConfiguration"), Some(own));
    assert_eq!(taints(&case.kubeadm(2), "JoinConfiguration"), None);
}

#[test]
fn addresses_follow_the_family() {
    let v6 = "fc00:f853:ccd:e793::2";
    for (networking, ips, advertised, listen) in [
        (json!({}), "172.18.0.2".to_owned(), "172.18.0.2", "127.0.0.1"),
        (json!({"ipFamily": "ipv6"}), v6.to_owned(), v6, "::1"),
        (json!({"ipFamily": "dual"}), format!("172.18.0.2,{v6}"), "172.18.0.2", "127.0.0.1"),
        (
            json!({"ipFamily": "dual", "serviceSubnet": "fd00:10:96::/112,10.96.0.0/16"}),
            format!("{v6},172.18.0.2"),
            v6,
            "127.0.0.1",
        ),
    ] {
        let ipv6 = networking["ipFamily"] == "ipv6";
        let documents = Case::new(profile(json!({ "networking": networking })), "v1.27.3").kubeadm(0);
        let init = &documents["InitConfiguration"];
        assert_eq!(init["nodeRegistration"]["kubeletExtraArgs"]["node-ip"], ips);
        assert_eq!(init["localAPIEndpoint"]["advertiseAddress"], advertised);
        let cluster = &documents["ClusterConfiguration"];
        assert_eq!(cluster["apiServer"]["certSANs"], json!(["localhost", listen]));
        assert_eq!(cluster["scheduler"]["extraArgs"].get("bind-address"), ipv6.then_some(&json!("::1")));
        assert_eq!(documents["KubeletConfiguration"].get("address"), ipv6.then_some(&json!("::")));
    }
    let case = Case::new(profile(json!({"networking": {"ipFamily": "ipv6"}})), "v1.27.3");
    let node = &plan_nodes(&case.profile, "lab")[0];
    let only_v4 = NodeAddresses { v6: None, ..ADDRESSES };
    let error =
        kubeadm_config(&case.inputs(), node, NodeStart::Init, &only_v4, "lab:6443", PLACEHOLDER_TOKEN).unwrap_err();
    assert_eq!(error.to_string(), "node lab-control-plane has no IPv6 address");
}

#[test]
fn without_kube_proxy_there_is_neither_document_nor_phase() {
    let case = Case::new(profile(json!({"networking": {"kubeProxyMode": "none"}})), "v1.37.0");
    let documents = case.kubeadm(0);
    assert_eq!(documents.get("KubeProxyConfiguration"), None);
    assert_eq!(documents["InitConfiguration"]["skipPhases"], json!(["preflight", "addon/kube-proxy"]));
    assert_eq!(skip_phases(KubeProxyMode::None, NodeStart::JoinWorker), ["preflight"]);
}

#[test]
fn the_profiles_own_flags_and_fields_win() {
    let case = Case::new(
        profile(json!({
            "audit": {"rules": [{"level": "Metadata"}]},
            "apiServer": {"extraArgs": {"audit-log-maxage": "7"}, "certSANs": ["localhost", "lab.example"]},
            "controllerManager": {"extraArgs": {"enable-hostpath-provisioner": "false"}},
            "etcd": {"extraArgs": {"quota-backend-bytes": "1"}},
            "kubelet": {
                "config": {"evictionHard": {"memory.available": "100Mi"}, "failSwapOn": true, "maxPods": 20},
                "extraArgs": {"v": "4"},
            },
            "featureGates": {"B": false, "A": true},
            "runtimeConfig": {"api/alpha": "true"},
        })),
        "v1.27.3",
    );
    let documents = case.kubeadm(0);
    let cluster = &documents["ClusterConfiguration"];
    assert_eq!(cluster["apiServer"]["extraArgs"]["audit-log-maxage"], "7");
    assert_eq!(cluster["apiServer"]["extraArgs"]["feature-gates"], "A=true,B=false");
    assert_eq!(cluster["apiServer"]["extraArgs"]["runtime-config"], "api/alpha=true");
    assert_eq!(cluster["apiServer"]["certSANs"], json!(["localhost", "127.0.0.1", "lab.example"]));
    assert_eq!(cluster["controllerManager"]["extraArgs"]["enable-hostpath-provisioner"], "false");
    assert_eq!(cluster["scheduler"]["extraArgs"]["feature-gates"], "A=true,B=false");
    assert_eq!(cluster["etcd"]["local"]["extraArgs"]["quota-backend-bytes"], "1");
    let kubelet = &documents["KubeletConfiguration"];
    assert_eq!(kubelet["evictionHard"]["memory.available"], "100Mi");
    assert_eq!(kubelet["evictionHard"]["nodefs.available"], "0%");
    assert_eq!((&kubelet["failSwapOn"], &kubelet["maxPods"]), (&json!(true), &json!(20)));
    assert_eq!(kubelet["featureGates"], json!({"A": true, "B": false}));
    assert_eq!(documents["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]["v"], "4");
}

#[test]
fn control_planes_get_their_files() {
    let mut case = Case::new(hardened(), "v1.37.0");
    let encryption: Encryption = serde_json::from_value(json!({
        "providers": [{"type": "secretbox", "keys": [{"name": "key1", "source": {"literal": KEY}}]}, {"type": "identity"}],
    }))
    .unwrap();
    case.keys = Some(encryption.resolve(Path::new("/")).unwrap());
    let mut files = control_plane_files(&case.inputs()).unwrap();
    let patches: Vec<_> = files.drain(..4).map(|file| serde_yaml::from_str::<Value>(&file.content).unwrap()).collect();
    assert_eq!(patches[0]["spec"]["containers"][0]["name"], "etcd");
    for patch in patches {
        let probe = &patch["spec"]["containers"][0]["startupProbe"];
        let number = |field: &str| probe[field].as_u64().unwrap();
        // As long as kubeadm gives it in all.
        assert_eq!(number("initialDelaySeconds") + number("periodSeconds") * number("failureThreshold"), 250);
    }
    let rate = files.remove(0);
    assert_eq!(rate.path, "/kind/patches/kube-controller-manager0+json.yaml");
    let rate: Value = serde_yaml::from_str(&rate.content).unwrap();
    assert_eq!(rate[1], json!({"op": "add", "path": "/spec/containers/0/command/-", "value": "--kube-api-qps=100"}));
    assert_eq!(
        files.iter().map(|file| (file.path, file.mode)).collect::<Vec<_>>(),
        [(ENCRYPTION_FILE, 0o600), (AUDIT_POLICY_FILE, 0o600)]
    );
    assert!(files[0].content.contains(KEY) && !format!("{files:?}").contains(KEY));
    let config: Value = serde_yaml::from_str(&files[0].content).unwrap();
    assert_eq!(
        config,
        json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{
                "resources": ["secrets", "configmaps"],
                "providers": [{"secretbox": {"keys": [{"name": "key1", "secret": KEY}]}}, {"identity": {}}],
            }],
        })
    );
    let policy: Value = serde_yaml::from_str(&files[1].content).unwrap();
    assert_eq!((&policy["kind"], &policy["omitStages"]), (&json!("Policy"), &json!(["RequestReceived"])));
    assert_eq!(policy["rules"], json!([{"level": "None", "verbs": ["get"]}, {"level": "Metadata"}]));
    case.keys = None;
    assert!(matches!(control_plane_files(&case.inputs()), Err(RenderError::NoKeys)));
    assert_eq!(control_plane_files(&Case::new(profile(json!({})), "v1.37.0").inputs()).unwrap().len(), 5);
}

#[test]
fn a_rate_of_the_controller_manager_that_somebody_may_have_set_is_left_alone() {
    let is_patched = |change: fn(&mut Profile)| {
        let mut profile: Profile = serde_json::from_value(json!({
            "apiVersion": "kprov.dev/v1alpha1", "kind": "Profile", "metadata": {"name": "test"},
            "spec": {"nodes": [{"role": "control-plane"}]},
        }))
        .unwrap();
        change(&mut profile);
        let files = control_plane_files(&Case::new(profile, "v1.37.0").inputs()).unwrap();
        files.iter().any(|file| file.path.contains("kube-controller-manager0+json"))
    };
    assert!(is_patched(|_| {}));
    assert!(!is_patched(|profile| {
        profile.spec.controller_manager.extra_args.insert("kube-api-burst".to_owned(), "5".to_owned());
    }));
    assert!(!is_patched(|profile| profile.spec.kubeadm_config_patches.push("kind: ClusterConfiguration".to_owned())));
}

#[test]
fn a_bundle_without_keys_says_where_they_come_from() {
    let mut case = Case::new(hardened(), "v1.37.0");
    case.keys = None;
    case.profile.spec.encryption = serde_json::from_value(json!({"providers": [{"type": "aescbc", "keys": [
        {"name": "a"}, {"name": "b", "source": {"env": "KEY"}}, {"name": "c", "source": {"literal": KEY}},
    ]}, {"type": "aesgcm"}]}))
    .unwrap();
    let documents = bundle(&case.inputs(), Path::new("/b")).unwrap().documents;
    assert!(documents.iter().all(|document| !document.secret && !document.content.contains(KEY)));
    let config: Value = serde_yaml::from_str(&documents[1].content).unwrap();
    let providers = &config["resources"][0]["providers"];
    let secrets: Vec<_> = (0..3).map(|i| providers[0]["aescbc"]["keys"][i]["secret"].as_str().unwrap()).collect();
    assert_eq!(secrets, ["<generated per cluster>", "<from the environment variable KEY>", "<from the profile>"]);
    assert_eq!(providers[1]["aesgcm"]["keys"][0]["secret"], "<generated per cluster>");
}

#[test]
fn no_template_sees_a_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("encryption-config.yaml.j2"), "{{ providers | yaml }}").unwrap();
    assert!(matches!(Templates::with_overrides(folder.path()), Err(OverridesError::Unknown { .. })));
}

#[test]
fn a_templates_error_reaches_the_user_with_its_excerpt() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("kubelet.yaml.j2"), "a: 1\nb: {{ kubelet.nothing | yaml }}\n").unwrap();
    let mut case = Case::new(hardened(), "v1.37.0");
    case.templates = Templates::with_overrides(folder.path()).unwrap();
    let report = format!("{:?}", miette::Report::new(bundle(&case.inputs(), Path::new("/b")).unwrap_err()));
    let place = format!("{}:2", folder.path().join("kubelet.yaml.j2").display());
    assert!(report.contains(&place) && report.contains("kubelet.nothing | yaml"), "{report}");
}

#[test]
fn the_digest_tells_clusters_apart_and_nothing_else() {
    let case = Case::new(hardened(), "v1.37.0");
    let digest = case.digest();
    assert_eq!(digest, Case::new(hardened(), "v1.37.0").digest());
    assert_eq!(digest.to_string().parse(), Ok(digest));
    assert_eq!("xyz".parse::<Digest>(), Err(NotADigest));

    // Keys, the folder and the host make no other cluster.
    let mut other = Case::new(hardened(), "v1.37.0");
    other.keys = Some(other.profile.spec.encryption.as_ref().unwrap().resolve(Path::new("/")).unwrap());
    assert_eq!(documents_digest(&Inputs { cgroup_v1: true, ..other.inputs() }).unwrap(), digest);
    other.keys = None;
    assert_eq!(other.digest(), digest);

    // Profile, version, image and name do.
    let mut digests = vec![digest];
    digests.push(Case::new(hardened(), "v1.37.1").digest());
    digests.push(documents_digest(&Inputs { image: "other", ..case.inputs() }).unwrap());
    digests.push(documents_digest(&Inputs { cluster: "other", ..case.inputs() }).unwrap());
    for change in [
        json!({"hardening": {"fileModes": "asIs", "kubeletServingCertificates": true, "seccompDefault": true}}),
        json!({"manifests": [{"name": "m", "inline": "kind: Namespace"}]}),
        json!({"scheduler": {"extraArgs": {"v": "4"}}}),
        json!({"audit": {"rules": [{"level": "Metadata"}]}}),
    ] {
        let mut spec = serde_json::to_value(hardened().spec).unwrap();
        templates::merge(&mut spec, change);
        digests.push(Case::new(profile(spec), "v1.37.0").digest());
    }
    digests.extend([cluster_digest(&digest, "sha256:a"), cluster_digest(&digest, "sha256:b")]);
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}

#[test]
fn hostile_strings_survive() {
    let hostile = "it's \"so\": #1 {{ x }} {% y %}\n- ünïcode\u{2028}\\ \t| --- 🚀";
    let case = Case::new(
        profile(json!({
            "nodes": [
                {"role": "control-plane", "labels": {"a": hostile}, "taints": [{"key": hostile, "effect": "NoSchedule"}],
                 "mounts": [{"hostPath": hostile, "containerPath": hostile}]},
                {"role": "worker"},
            ],
            "apiServer": {"extraArgs": {hostile: hostile}},
            "kubelet": {"config": {hostile: [hostile, {hostile: hostile}]}, "extraArgs": {"x": hostile}},
            "audit": {"rules": [{"level": "None", "users": [hostile]}]},
            "encryption": {"providers": [{"type": "aescbc", "keys": [{"name": hostile}]}], "resources": [hostile]},
            "containerdConfigPatches": [hostile],
        })),
        "v1.37.0",
    );
    let bundle = bundle(&case.inputs(), Path::new("/tmp/a \"b\" #c")).unwrap();
    for document in bundle.documents.iter().filter(|document| !document.name.starts_with("kubeadm/patches/")) {
        let read: Vec<_> = serde_yaml::Deserializer::from_str(&document.content)
            .map(|part| Value::deserialize(part).unwrap_or_else(|error| panic!("{error}\n{}", *document.content)))
            .collect();
        let found = read.iter().any(|document| holds(document, hostile));
        assert!(found, "{}\n{}", document.name, *document.content);
    }
    let config: Value = serde_yaml::from_str(&bundle.documents[0].content).unwrap();
    assert_eq!(config["containerdConfigPatches"][0], hostile);
    assert_eq!(config["nodes"][0]["extraMounts"][1]["hostPath"], "/tmp/a \"b\" #c/encryption");
    // kind's patches are YAML within strings.
    let of_node = &config["nodes"][0]["kubeadmConfigPatches"];
    let patches = [&config["kubeadmConfigPatches"], of_node].map(|list| list.as_array().unwrap());
    let patches: Vec<Value> =
        patches.into_iter().flatten().map(|patch| serde_yaml::from_str(patch.as_str().unwrap()).unwrap()).collect();
    assert_eq!(patches.len(), 6);
    for patch in patches {
        assert!(holds(&patch, hostile), "{patch:#}");
    }
}

/// Whether `value` holds exactly `text` somewhere, by itself or as a flag.
fn holds(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string == text || string == &format!("--{text}={text}"),
        Value::Array(items) => items.iter().any(|item| holds(item, text)),
        Value::Object(fields) => fields.iter().any(|(name, field)| name == text || holds(field, text)),
        _ => false,
    }
}

#[test]
fn kinds_configuration_carries_it_all() {
    let case = Case::new(hardened(), "v1.20.2");
    let documents = bundle(&case.inputs(), Path::new("/bundle")).unwrap().documents;
    let names: Vec<_> = documents.iter().map(|document| (document.name.as_str(), document.secret)).collect();
    assert_eq!(
        names,
        [
            ("cluster.yaml", false),
            ("encryption/encryption-config.yaml", true),
            ("audit/policy.yaml", false),
            ("patches/kube-apiserver0+json.yaml", false),
            ("kubeadm/lab-control-plane.yaml", false),
            ("kubeadm/lab-worker.yaml", false),
            ("kubeadm/lab-worker2.yaml", false),
            ("kubeadm/patches/etcd+strategic.yaml", false),
            ("kubeadm/patches/kube-apiserver+strategic.yaml", false),
            ("kubeadm/patches/kube-controller-manager+strategic.yaml", false),
            ("kubeadm/patches/kube-scheduler+strategic.yaml", false),
            ("kubeadm/patches/kube-controller-manager0+json.yaml", false),
        ]
    );
    let config: Value = serde_yaml::from_str(&documents[0].content).unwrap();
    let patches = config["kubeadmConfigPatches"].as_array().unwrap();
    let patches: Vec<Value> =
        patches.iter().map(|patch| serde_yaml::from_str(patch.as_str().unwrap()).unwrap()).collect();
    let pod = api_server(&case.inputs()).unwrap();
    for (name, value) in &pod.args {
        assert_eq!(&patches[0]["apiServer"]["extraArgs"][name], value);
    }
    assert_eq!(patches[0]["apiServer"]["extraVolumes"], json!(pod.volumes));
    assert_eq!(patches[1]["kind"], "KubeletConfiguration");
    assert_eq!(patches[1]["serverTLSBootstrap"], true);
    assert_eq!(patches[1].get("seccompDefault"), None);
    let mounts = config["nodes"][0]["extraMounts"].as_array().unwrap();
    assert_eq!(mounts[0], json!({"hostPath": "/bundle/encryption", "containerPath": ENCRYPTION_FOLDER}));
    assert_eq!(config["nodes"][1].get("extraMounts"), None);
    assert_eq!(config["nodes"][2]["role"], "worker");
}

#[test]
fn a_plugin_on_the_host_is_seen_by_control_planes_and_by_kind() {
    let spec = json!({
        "nodes": [{"role": "control-plane"}, {"role": "worker"}],
        "encryption": {"providers": [{"type": "kms", "kms": {"host": "/run/hsm"}}]},
    });
    let case = Case::new(profile(spec), "v1.36.2");
    let inputs = case.inputs();
    // What asks it comes along, and nothing that starts one or logs in.
    let files: Vec<_> = kms_files(&inputs).unwrap().iter().map(|file| file.path).collect();
    assert_eq!(files, [PLUGIN_START]);
    let mount = json!({"hostPath": "/run/hsm", "containerPath": PLUGIN_SOCKET_FOLDER, "readOnly": true});
    let plan = plan_nodes(inputs.profile, inputs.cluster);
    assert_eq!((json!(plan[0].mounts), plan[1].mounts.len()), (json!([mount]), 0));
    let documents = bundle(&inputs, Path::new("/bundle")).unwrap().documents;
    let config: Value = serde_yaml::from_str(&documents[0].content).unwrap();
    assert_eq!(config["nodes"][0]["extraMounts"][0], mount);
    assert!(!documents[0].content.contains("kind makes no server"), "nothing is missing");
    assert!(documents.iter().all(|document| !document.name.starts_with("kms/")));
    let encryption = documents.iter().find(|document| document.name.ends_with("encryption-config.yaml")).unwrap();
    assert!(encryption.content.contains("unix:///run/kprov-kms/kms.sock"), "its socket is where one of ours is");
}

#[test]
fn the_load_balancer_knows_every_control_plane() {
    use LoadBalancer::{Envoy, Haproxy};
    let ha = |spec: Value| Case::new(profile(spec), "v1.37.0");
    let case = ha(json!({"nodes": [{"role": "control-plane", "count": 3}]}));
    let haproxy = load_balancer_config(&case.inputs(), Haproxy).unwrap().unwrap();
    for line in [
        "bind 0.0.0.0:6443",
        "option httpchk GET /readyz",
        "server lab-control-plane lab-control-plane:6443",
        "server lab-control-plane3 lab-control-plane3:6443",
    ] {
        assert!(haproxy.lines().any(|found| found.trim() == line), "{line}\n{haproxy}");
    }
    let envoy = load_balancer_config(&case.inputs(), Envoy).unwrap().unwrap();
    let envoy: Value = serde_yaml::from_str(&envoy).unwrap();
    let address = |i: usize| {
        let path = format!("/static_resources/clusters/0/load_assignment/endpoints/0/lb_endpoints/{i}");
        envoy.pointer(&(path + "/endpoint/address/socket_address/address")).cloned()
    };
    assert_eq!(
        [address(0), address(2), address(3)],
        [Some(json!("lab-control-plane")), Some(json!("lab-control-plane3")), None]
    );

    let closed = ha(json!({
        "nodes": [{"role": "control-plane", "count": 2}], "networking": {"ipFamily": "dual"},
        "apiServer": {"extraArgs": {"anonymous-auth": "false"}},
    }));
    let haproxy = load_balancer_config(&closed.inputs(), Haproxy).unwrap().unwrap();
    assert!(haproxy.contains("bind [::]:6443 v4v6") && !haproxy.contains("httpchk"), "{haproxy}");
    let envoy = load_balancer_config(&closed.inputs(), Envoy).unwrap().unwrap();
    assert!(!envoy.contains("/readyz"), "{envoy}");
    assert_eq!(load_balancer_config(&ha(json!({})).inputs(), Haproxy).unwrap(), None);
}
