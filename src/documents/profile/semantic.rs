//! What a well-formed profile can still get wrong: values that contradict each other, or Kubernetes.
//!
//! Owns all rules that are neither syntax nor schema. Each points at the text that the offending value came from,
//! be it in the profile, in a base or in a `--set`. Rules that depend on the Kubernetes version are `render`'s.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::documents::bounds::check_stream;
use crate::documents::cis::benchmark::{self, Benchmark};
use crate::documents::images::whole_name;
use crate::documents::keys::KeyMaterial;
use crate::documents::names::NameError;
use crate::documents::patches::{self, PatchError};

use super::error::{Finding, near};
use super::names;
use super::tree::{Node, Step};
use super::{
    ApiServer, Audit, Cis, Encryption, EncryptionProvider, IpFamily, KeySource, KmsHolder, Manifest, Networking,
    NodeGroup, PatchJson6902, PortMapping, Profile, ProviderKind, Proxy, Registry, Role, SecretSource, Spec, VaultAuth,
    VaultKms, kubelet, registry,
};

/// A path from the root: `at!["nodes", 0]` is `spec.nodes[0]`.
macro_rules! at {
    ($($step:expr),* $(,)?) => {
        [Step::from("spec"), $(Step::from($step)),*]
    };
}

/// Flags of kprov's own making, and what to use in their stead.
type Reserved = &'static [(&'static str, &'static str)];

const API_SERVER_FLAGS: Reserved = &[
    ("encryption-provider-config", "spec.encryption"),
    ("encryption-provider-config-automatic-reload", "spec.encryption"),
    ("audit-policy-file", "spec.audit.rules"),
    ("audit-log-path", "spec.audit"),
    ("audit-log-maxage", "spec.audit.maxAgeDays"),
    ("audit-log-maxbackup", "spec.audit.maxBackups"),
    ("audit-log-maxsize", "spec.audit.maxSizeMiB"),
    ("feature-gates", "spec.featureGates"),
    ("runtime-config", "spec.runtimeConfig"),
    ("service-cluster-ip-range", "spec.networking.serviceSubnet"),
    ("admission-control-config-file", "spec.apiServer.admission"),
    ("kubelet-certificate-authority", "spec.hardening.kubeletServingCertificates"),
];
const CONTROLLER_MANAGER_FLAGS: Reserved = &[
    ("feature-gates", "spec.featureGates"),
    ("cluster-cidr", "spec.networking.podSubnet"),
    ("service-cluster-ip-range", "spec.networking.serviceSubnet"),
];
const SCHEDULER_FLAGS: Reserved = &[("feature-gates", "spec.featureGates")];
const KUBELET_FLAGS: Reserved = &[
    ("feature-gates", "spec.featureGates"),
    ("node-labels", "labels` of the group in `spec.nodes"),
    ("register-with-taints", "taints` of the group in `spec.nodes"),
    ("rotate-server-certificates", "spec.hardening.kubeletServingCertificates"),
    ("seccomp-default", "spec.hardening.seccompDefault"),
    ("node-ip", ""),
    ("provider-id", ""),
    ("hostname-override", ""),
    ("cgroup-root", ""),
    ("cgroup-driver", ""),
    ("fail-swap-on", ""),
    ("container-runtime-endpoint", ""),
    ("config", "spec.kubelet.config"),
];
const KUBELET_FIELDS: Reserved = &[
    ("featureGates", "spec.featureGates"),
    ("serverTLSBootstrap", "spec.hardening.kubeletServingCertificates"),
    ("seccompDefault", "spec.hardening.seccompDefault"),
    ("apiVersion", ""),
    ("kind", ""),
    ("cgroupRoot", ""),
    ("cgroupDriver", ""),
    ("failSwapOn", ""),
];

/// Adds all that is wrong with `profile` to `findings`; `root` is the document that it came from, and `base` where its
/// relative paths start.
pub(super) fn check(profile: &Profile, root: &Node, base: &Path, findings: &mut Vec<Finding>) {
    let mut checks = Checks { root, base, findings };
    let spec = &profile.spec;
    checks.cluster_name(profile);
    checks.image(spec.image.as_deref(), &at!["image"]);
    for (index, image) in spec.preload.iter().enumerate() {
        let path = at!["preload", index];
        checks.image(Some(image), &path);
        if whole_name(image).is_none() {
            let message = format!("`{image}` is no name that a pod could ask for");
            checks.error("profile::image", message, &path, "give it a name and a tag");
        }
    }
    checks.nodes(&spec.nodes, &spec.networking);
    checks.networking(profile);
    for gate in spec.feature_gates.keys().filter(|gate| !names::is_feature_gate(gate)) {
        let path = at!["featureGates", gate];
        checks.key_error(
            "profile::name",
            format!("`{gate}` is no name of a feature gate"),
            &path,
            "such as `NodeSwap`",
        );
    }
    for (api, value) in &spec.runtime_config {
        if !matches!(value.as_str(), "true" | "false") {
            checks.error(
                "profile::value",
                format!("`{api}` is switched to neither true nor false"),
                &at!["runtimeConfig", api],
                "expected \"true\" or \"false\"",
            );
        }
    }
    if let Some(encryption) = &spec.encryption {
        checks.encryption(encryption);
    }
    if let Some(audit) = &spec.audit {
        checks.audit(audit);
    }
    checks.flags("apiServer", &spec.api_server.extra_args, API_SERVER_FLAGS);
    checks.flags("controllerManager", &spec.controller_manager.extra_args, CONTROLLER_MANAGER_FLAGS);
    checks.flags("scheduler", &spec.scheduler.extra_args, SCHEDULER_FLAGS);
    checks.flags("etcd", &spec.etcd.extra_args, &[]);
    checks.flags("kubelet", &spec.kubelet.extra_args, KUBELET_FLAGS);
    for (field, instead) in KUBELET_FIELDS {
        if spec.kubelet.config.contains_key(*field) {
            checks.reserved(&format!("`{field}`"), instead, &at!["kubelet", "config", *field]);
        }
    }
    for field in spec.kubelet.config.keys().filter(|field| !kubelet::FIELDS.contains(&field.as_str())) {
        checks.kubelet_field(field);
    }
    for (index, name) in spec.api_server.cert_sans.iter().enumerate() {
        if !names::is_certificate_name(name) {
            checks.error(
                "profile::name",
                format!("`{name}` is neither a host name nor an address"),
                &at!["apiServer", "certSANs", index],
                "not valid",
            );
        }
    }
    checks.anonymous(&spec.api_server);
    checks.patches(spec);
    checks.cis(&spec.cis);
    if let Some(registry) = &spec.registry {
        checks.registry(registry);
    }
    checks.machine(spec);
    checks.manifests(&spec.manifests);
}

struct Checks<'r, 'f> {
    root: &'r Node,
    base: &'r Path,
    findings: &'f mut Vec<Finding>,
}

impl Checks<'_, '_> {
    fn push(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// An error of the value at `path`.
    fn error(&mut self, code: &'static str, message: impl Into<String>, path: &[Step], label: impl Into<String>) {
        let finding = Finding::error(code, message, self.root.place_of(path)).label(label);
        self.push(finding);
    }

    /// An error of the key at `path`.
    fn key_error(&mut self, code: &'static str, message: impl Into<String>, path: &[Step], label: impl Into<String>) {
        let finding = Finding::error(code, message, self.root.place_of_key(path)).label(label);
        self.push(finding);
    }

    /// The second of two equal values.
    fn twice(&mut self, message: String, first: &[Step], second: &[Step]) {
        let (first, second) = (self.root.place_of(first), self.root.place_of(second));
        self.push(Finding::error("profile::duplicate", message, second).label("again here").also(first, "first here"));
    }

    fn cluster_name(&mut self, profile: &Profile) {
        let (path, name) = match &profile.spec.cluster_name {
            Some(name) => (vec!["spec".into(), "clusterName".into()], name),
            None => (vec!["metadata".into(), "name".into()], &profile.metadata.name),
        };
        if let Err(why) = names::check_cluster_name(name, &profile.spec) {
            self.error("profile::name", why.to_string(), &path, "not a cluster's name");
        }
        // The profile's own name is looked for among files, whatever the cluster is called.
        if profile.spec.cluster_name.is_some()
            && let Err(why) = names::check_cluster_name(&profile.metadata.name, &profile.spec)
            && !matches!(why, NameError::Long { .. } | NameError::Room { .. })
        {
            let why = why.to_string().replace("cluster", "profile");
            self.error("profile::name", why, &["metadata".into(), "name".into()], "not a profile's name");
        }
    }

    fn image(&mut self, image: Option<&str>, path: &[Step]) {
        if let Some(fault) = image.and_then(names::image_fault) {
            let finding = Finding::error("profile::image", "this is no image reference", self.root.place_of(path))
                .label(fault)
                .help("expected [REGISTRY/]NAME[:TAG][@sha256:DIGEST]");
            self.push(finding);
        }
    }

    fn nodes(&mut self, groups: &[NodeGroup], networking: &Networking) {
        if !groups.is_empty() {
            let control_planes: u32 =
                groups.iter().filter(|group| group.role == Role::ControlPlane).map(|group| group.count).sum();
            let place = self.root.place_of(&at!["nodes"]);
            if control_planes == 0 {
                let finding = Finding::error("profile::no_control_plane", "the cluster has no control plane", place)
                    .label("only workers")
                    .help("add `- role: control-plane`");
                self.push(finding);
            } else if control_planes.is_multiple_of(2) {
                let message = format!("{control_planes} control planes are no safer than {}", control_planes - 1);
                let finding = Finding::warning("profile::even_control_planes", message, place)
                    .label(format!("{control_planes} in all"))
                    .help("etcd needs a majority: 1, 3 or 5");
                self.push(finding);
            }
        }
        let mut host_ports: Vec<(PortMapping, Vec<Step>)> = Vec::new();
        if networking.api_server_port != 0 {
            let as_mapping = PortMapping {
                container_port: 6443,
                host_port: networking.api_server_port,
                listen_address: Some(networking.api_server_address()),
                protocol: super::Protocol::Tcp,
            };
            host_ports.push((as_mapping, at!["networking", "apiServerPort"].to_vec()));
        }
        for (index, group) in groups.iter().enumerate() {
            self.image(group.image.as_deref(), &at!["nodes", index, "image"]);
            self.labels_and_taints(index, group);
            for (number, port) in group.ports.iter().enumerate().filter(|(_, port)| port.host_port != 0) {
                let path = at!["nodes", index, "ports", number, "hostPort"];
                if group.count > 1 {
                    let message =
                        format!("port {} can be published by one node, not by {}", port.host_port, group.count);
                    let finding = Finding::error("profile::host_port", message, self.root.place_of(&path))
                        .label("one host port, several nodes")
                        .help("put one of the nodes into a group of its own, or use `hostPort: 0` for free ports");
                    self.push(finding);
                }
                match host_ports.iter().find(|(other, _)| clash(other, port)) {
                    Some((_, first)) => {
                        let first = first.clone();
                        self.twice(format!("host port {} is published twice", port.host_port), &first, &path);
                    }
                    None => host_ports.push((port.clone(), path.to_vec())),
                }
            }
            self.mounts(index, group);
        }
    }

    fn mounts(&mut self, index: usize, group: &NodeGroup) {
        let mut targets: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, mount) in group.mounts.iter().enumerate() {
            let path = |field: &str| at!["nodes", index, "mounts", number, field];
            if !mount.container_path.starts_with('/') {
                self.error(
                    "profile::value",
                    "a path inside a node begins with `/`",
                    &path("containerPath"),
                    "relative",
                );
            }
            if mount.host_path.is_empty() {
                self.error("profile::value", "the host's path is empty", &path("hostPath"), "empty");
            }
            // Docker and kind write HOST:NODE:OPTIONS; the rest of a path would be taken for another part of that.
            let mounted = [self.base.join(&mount.host_path), PathBuf::from(&mount.container_path)];
            for (field, mounted) in ["hostPath", "containerPath"].into_iter().zip(mounted) {
                if mounted.to_string_lossy().contains(':') {
                    let message = format!("the path {} has a colon in it", mounted.display());
                    let finding = Finding::error("profile::value", message, self.root.place_of(&path(field)))
                        .label("cannot be mounted")
                        .help("neither Docker nor kind can mount it; use a folder, or a link to it, without a colon");
                    self.push(finding);
                }
            }
            match targets.get(mount.container_path.as_str()) {
                Some(first) => {
                    let first = at!["nodes", index, "mounts", *first, "containerPath"];
                    self.twice(format!("two mounts at {}", mount.container_path), &first, &path("containerPath"));
                }
                None => {
                    targets.insert(&mount.container_path, number);
                }
            }
        }
    }

    fn labels_and_taints(&mut self, index: usize, group: &NodeGroup) {
        for (key, value) in &group.labels {
            let path = at!["nodes", index, "labels", key];
            if !names::is_label_key(key) {
                self.key_error("profile::label", format!("`{key}` is no label key"), &path, "expected [PREFIX/]NAME");
            } else if names::is_reserved_label(key) {
                let finding = Finding::error(
                    "profile::label",
                    format!("kubelet does not start with the label `{key}`"),
                    self.root.place_of_key(&path),
                )
                .label("reserved for Kubernetes")
                .help("use a prefix of your own, or `kubectl label node` once the cluster is up");
                self.push(finding);
            }
            if !names::is_label_value(value) {
                self.error("profile::label", format!("`{value}` is no value of a label"), &path, LABEL_VALUE);
            }
        }
        let mut seen: Vec<(&str, super::TaintEffect, usize)> = Vec::new();
        for (number, taint) in group.taints.iter().enumerate() {
            let path = |field: &str| at!["nodes", index, "taints", number, field];
            if !names::is_label_key(&taint.key) {
                self.error(
                    "profile::taint",
                    format!("`{}` is no taint key", taint.key),
                    &path("key"),
                    "expected [PREFIX/]NAME",
                );
            }
            if !names::is_label_value(&taint.value) {
                self.error(
                    "profile::taint",
                    format!("`{}` is no value of a taint", taint.value),
                    &path("value"),
                    LABEL_VALUE,
                );
            }
            match seen.iter().find(|(key, effect, _)| *key == taint.key && *effect == taint.effect) {
                Some((.., first)) => {
                    let first = at!["nodes", index, "taints", *first, "key"];
                    self.twice(format!("the taint `{}` has the same effect twice", taint.key), &first, &path("key"));
                }
                None => seen.push((&taint.key, taint.effect, number)),
            }
        }
    }

    fn networking(&mut self, profile: &Profile) {
        let networking = &profile.spec.networking;
        if let Some(Err(reason)) = networking.docker_network.as_deref().map(names::check_docker_network) {
            self.error("profile::network", reason, &at!["networking", "dockerNetwork"], "no such network");
        }
        for name in networking.hosts.keys().filter(|name| !names::is_dns_name(name)) {
            let message = format!("`{name}` is no name of a host");
            self.key_error(
                "profile::name",
                message,
                &at!["networking", "hosts", name],
                "such as `registry.example.org`",
            );
        }
        let mask_is_set = |family: &str| {
            let spec = &profile.spec;
            // A CNI of one's own may cut otherwise, and what a patch asks for is not read here.
            if networking.disable_default_cni || spec.patches_kubeadm() {
                return true;
            }
            let flags = &spec.controller_manager.extra_args;
            ["node-cidr-mask-size".to_owned(), format!("node-cidr-mask-size-{family}")]
                .iter()
                .any(|f| flags.contains_key(f))
        };
        let pods = self.subnets(networking.pod_subnet(), networking.ip_family, "podSubnet");
        let services = self.subnets(networking.service_subnet(), networking.ip_family, "serviceSubnet");
        let nodes = profile.spec.count(Role::ControlPlane) + profile.spec.count(Role::Worker);
        for pod in &pods {
            // The controller manager cuts a /24 (IPv6: /64) for each node out of this.
            let (node, family) = if pod.addr().is_ipv6() { (64_u8, "ipv6") } else { (24, "ipv4") };
            let room = node.checked_sub(pod.prefix_len()).map(u32::from);
            if mask_is_set(family) {
                continue;
            }
            let message = match room {
                None => format!("the pod subnet has no room for one node's /{node}"),
                Some(bits) if bits > 16 => format!("the pod subnet is too large: at most 2^16 times a node's /{node}"),
                Some(bits) if 1_u32 << bits < nodes => {
                    format!("the pod subnet has room for {} nodes of a /{node} each, not for {nodes}", 1_u32 << bits)
                }
                Some(_) => continue,
            };
            self.error("profile::subnet", message, &at!["networking", "podSubnet"], "does not fit");
        }
        for service in &services {
            // kube-apiserver keeps a bitmap of them.
            if names::host_bits(service) > 20 {
                self.error(
                    "profile::subnet",
                    "the service subnet is too large: at most 20 bits for services",
                    &at!["networking", "serviceSubnet"],
                    "at least /12, IPv6: /108",
                );
            } else if names::host_bits(service) < 4 {
                self.error(
                    "profile::subnet",
                    "the service subnet is too small for the services that every cluster has",
                    &at!["networking", "serviceSubnet"],
                    "at most /28, IPv6: /124",
                );
            }
        }
        if pods.iter().any(|pod| services.iter().any(|service| names::overlap(pod, service))) {
            // Either can be a default; point at one that was written.
            let field = if networking.service_subnet.is_some() { "serviceSubnet" } else { "podSubnet" };
            let message = format!(
                "pods ({}) and services ({}) have addresses in common",
                networking.pod_subnet(),
                networking.service_subnet()
            );
            self.error("profile::subnet", message, &at!["networking", field], "overlaps");
        }
    }

    /// The valid subnets in `text`, all others reported.
    fn subnets(&mut self, text: &str, family: IpFamily, field: &str) -> Vec<IpNet> {
        let path = at!["networking", field];
        let mut valid = Vec::new();
        for part in text.split(',') {
            match names::subnet(part.trim()) {
                Some(cidr) => {
                    if cidr.addr() != cidr.network() {
                        let finding = Finding::warning(
                            "profile::subnet",
                            format!("`{}` names one address, not a subnet", part.trim()),
                            self.root.place_of(&path),
                        )
                        .label(format!("bits are set behind /{}", cidr.prefix_len()))
                        .help("newer versions of Kubernetes may refuse it");
                        self.push(finding);
                    }
                    valid.push(cidr);
                }
                None => {
                    let message = format!("`{}` is no subnet", part.trim());
                    self.error("profile::subnet", message, &path, "expected one like 10.244.0.0/16");
                }
            }
        }
        let families: Vec<bool> = valid.iter().map(|cidr| cidr.addr().is_ipv6()).collect();
        let (fits, wanted) = match family {
            IpFamily::Ipv4 => (families == [false], "one IPv4 subnet"),
            IpFamily::Ipv6 => (families == [true], "one IPv6 subnet"),
            IpFamily::Dual => (
                families.len() == 1 || families == [false, true] || families == [true, false],
                "an IPv4 and an IPv6 subnet",
            ),
        };
        if !fits && valid.len() == text.split(',').count() {
            let message = format!("`{text}` does not fit the cluster's IP family");
            self.error("profile::ip_family", message, &path, format!("expected {wanted}"));
        }
        valid
    }

    fn encryption(&mut self, encryption: &Encryption) {
        let providers = |index: usize| at!["encryption", "providers", index, "type"];
        for (index, provider) in encryption.providers.iter().enumerate() {
            if provider.kind == ProviderKind::Identity {
                let place = self.root.place_of(&providers(index));
                if index == 0 {
                    let finding = Finding::error(
                        "profile::identity",
                        "`identity` comes first: nothing would be encrypted",
                        place,
                    )
                    .label("writes plain text")
                    .help("the first provider writes; put `identity` last, to read what is not encrypted yet");
                    self.push(finding);
                } else if index + 1 < encryption.providers.len() {
                    let finding = Finding::error("profile::identity", "`identity` is not the last provider", place)
                        .label("providers follow it")
                        .help("it takes everything for plain text, so that no later provider is asked");
                    self.push(finding);
                }
                if !provider.keys.is_empty() {
                    self.key_error(
                        "profile::key",
                        "`identity` has no keys",
                        &at!["encryption", "providers", index, "keys"],
                        "no use",
                    );
                }
                if let Some(first) = encryption.providers[..index].iter().position(|p| p.kind == provider.kind) {
                    self.twice("`identity` is there twice".to_owned(), &providers(first), &providers(index));
                }
                self.plugin(index, provider);
                continue;
            }
            self.plugin(index, provider);
            if let Some(first) = encryption.providers[..index].iter().position(|p| p.kind == provider.kind) {
                let finding = Finding::error(
                    "profile::duplicate",
                    format!("the provider `{}` is there twice", provider.kind),
                    self.root.place_of(&providers(index)),
                )
                .label("again here")
                .also(self.root.place_of(&providers(first)), "first here")
                .help("give one provider several keys");
                self.push(finding);
            }
            for (number, key) in provider.keys.iter().enumerate() {
                let path = |field: &str| at!["encryption", "providers", index, "keys", number, field];
                if key.name.is_empty() || key.name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
                    self.error(
                        "profile::key",
                        "a key's name is a word without colons",
                        &path("name"),
                        "not a key's name",
                    );
                }
                if let Some(first) = provider.keys[..number].iter().position(|other| other.name == key.name) {
                    let first = at!["encryption", "providers", index, "keys", first, "name"];
                    self.twice(format!("the key `{}` is there twice", key.name), &first, &path("name"));
                }
                self.key_source(&key.name, provider.kind, &key.source, &path("source"));
            }
        }
        self.resources(&encryption.resources);
    }

    /// A provider's KMS plugin: there where it has to be, and with one holder of its key.
    fn plugin(&mut self, index: usize, provider: &EncryptionProvider) {
        let place = |field: &str| at!["encryption", "providers", index, field];
        let within = |field: &str| at!["encryption", "providers", index, "kms", field];
        let is_kms = provider.kind == ProviderKind::Kms;
        if is_kms && !provider.keys.is_empty() {
            let message = "a KMS provider has no keys in the profile";
            self.key_error("profile::kms", message, &place("keys"), "its key stays in the KMS");
        }
        let kms = match &provider.kms {
            Some(kms) if is_kms => kms,
            Some(_) => {
                let message = format!("the provider `{}` has no KMS", provider.kind);
                return self.key_error("profile::kms", message, &place("kms"), "for `type: kms` alone");
            }
            None if is_kms => {
                let finding =
                    Finding::error("profile::kms", "a KMS provider without a KMS", self.root.place_of(&place("type")))
                        .label("`kms` is missing")
                        .help("add `kms: {server: openbao}`, or one of `vault`, `local`, `host` and `endpoint`");
                return self.push(finding);
            }
            None => return,
        };
        if kms.name.is_empty() || kms.name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control()) {
            self.error("profile::kms", "a KMS provider's name is a word without colons", &within("name"), "not a name");
        }
        let Some(holder) = kms.holder() else {
            let named = [
                ("local", kms.local.is_some()),
                ("vault", kms.vault.is_some()),
                ("server", kms.server.is_some()),
                ("host", kms.host.is_some()),
                ("endpoint", kms.endpoint.is_some()),
            ];
            let named: Vec<_> = named.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
            let label = if named.is_empty() { "names none".to_owned() } else { format!("has {}", named.join(", ")) };
            let message = "a KMS provider takes exactly one of `local`, `vault`, `server`, `host` and `endpoint`";
            return self.key_error("profile::kms", message, &place("kms"), label);
        };
        if kms.server.is_none() && kms.server_image.is_some() {
            self.key_error("profile::kms", "there is no server to have an image", &within("serverImage"), "no use");
        }
        match holder {
            KmsHolder::Server(_) => {
                self.image(kms.server_image.as_deref(), &within("serverImage"));
            }
            KmsHolder::Host(folder) => {
                // Docker takes a colon for the end of a path.
                if !is_plain_path(folder) || folder.contains([':', ',']) {
                    let message = format!("`{folder}` is no folder of the host's");
                    self.error("profile::kms", message, &within("host"), "expected an absolute path");
                }
            }
            KmsHolder::Foreign(endpoint) => {
                let path = endpoint.strip_prefix("unix://").filter(|path| is_plain_path(path));
                let sound =
                    path.is_some_and(|path| path.rsplit_once('/').is_some_and(|(folder, _)| !folder.is_empty()));
                if !sound {
                    let message = format!("`{endpoint}` is no socket in a folder of its own");
                    self.error("profile::kms", message, &within("endpoint"), "expected unix:///FOLDER/SOCKET");
                }
            }
            KmsHolder::Local(local) => {
                let path = at!["encryption", "providers", index, "kms", "local", "key"];
                self.key_source("key1", ProviderKind::Secretbox, &local.key, &path);
            }
            KmsHolder::Vault(vault) => self.vault(index, vault),
        }
    }

    fn vault(&mut self, index: usize, vault: &VaultKms) {
        let within = |field: &str| at!["encryption", "providers", index, "kms", "vault", field];
        let host = vault.address.strip_prefix("https://").map(|rest| rest.split(['/', ':']).next().unwrap_or(rest));
        if vault.address.contains(['@', '?', '#']) {
            // It may hold a password, which is not repeated.
            let message = "the server's address holds more than host, port and path";
            self.error("profile::kms", message, &within("address"), "expected https://HOST:PORT");
        } else if host.is_none_or(|host| host.is_empty() || vault.address.contains(char::is_whitespace)) {
            let message = format!("`{}` is no address of a server with TLS", vault.address);
            self.error("profile::kms", message, &within("address"), "expected https://HOST:PORT");
        }
        if vault.ca.is_empty() {
            self.error("profile::kms", "the file of the server's certificates has no name", &within("ca"), "empty");
        }
        // As the plugin itself has it: mounts and namespaces may have slashes, a key is one part of a path.
        let plain = |text: &str, slash: bool| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c) || slash && c == '/';
            text.chars().all(allowed) && !text.split('/').any(|part| matches!(part, "" | "." | ".."))
        };
        if !plain(&vault.key, false) {
            self.error(
                "profile::kms",
                "this is no transit key's name",
                &within("key"),
                "letters, digits, `_`, `-`, `.`",
            );
        }
        if !plain(&vault.mount, true) {
            self.error("profile::kms", format!("`{}` is no mount", vault.mount), &within("mount"), "expected a path");
        }
        if vault.namespace.as_deref().is_some_and(|namespace| !plain(namespace.trim_end_matches('/'), true)) {
            self.error("profile::kms", "this is no namespace", &within("namespace"), "expected a path");
        }
        let auth = |steps: &[&str]| -> Vec<Step> {
            let base = at!["encryption", "providers", index, "kms", "vault", "auth"];
            base.into_iter().chain(steps.iter().map(|&step| Step::from(step))).collect()
        };
        let is_host =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-.:".contains(c));
        if vault.server_name.as_deref().is_some_and(|name| !is_host(name)) {
            self.error("profile::kms", "this is no name of a server", &within("serverName"), "expected a host's name");
        }
        let mount = match &vault.auth {
            VaultAuth::AppRole(role) => Some(("appRole", &role.mount)),
            VaultAuth::Certificate(certificate) => Some(("certificate", &certificate.mount)),
            VaultAuth::Token(_) => None,
        };
        if let Some((method, Some(mount))) = mount
            && !plain(mount, true)
        {
            self.error("profile::kms", format!("`{mount}` is no mount"), &auth(&[method, "mount"]), "expected a path");
        }
        let sources = match &vault.auth {
            VaultAuth::AppRole(role) => {
                vec![(auth(&["appRole", "roleId"]), &role.role_id), (auth(&["appRole", "secretId"]), &role.secret_id)]
            }
            VaultAuth::Token(token) => vec![(auth(&["token"]), token)],
            VaultAuth::Certificate(certificate) => vec![(auth(&["certificate", "key"]), &certificate.key)],
        };
        for (path, source) in sources {
            let below = |field: &str| [&path[..], &[field.into()]].concat();
            match source {
                SecretSource::Env(variable) if names::is_variable(variable) => {}
                SecretSource::Env(_) => {
                    self.error(
                        "profile::kms",
                        "this is no name of an environment variable",
                        &below("env"),
                        "not valid",
                    );
                }
                SecretSource::File(file) if !file.is_empty() => {}
                SecretSource::File(_) => self.error("profile::kms", "the file has no name", &below("file"), "empty"),
            }
        }
    }

    fn key_source(&mut self, name: &str, provider: ProviderKind, source: &KeySource, path: &[Step]) {
        let below = |field: &str| [path, &[field.into()]].concat();
        match source {
            KeySource::Generate => {}
            KeySource::Env(variable) if names::is_variable(variable) => {}
            KeySource::Env(_) => {
                self.error("profile::key", "this is no name of an environment variable", &below("env"), "not valid");
            }
            KeySource::File(file) if !file.is_empty() => {}
            KeySource::File(_) => self.error("profile::key", "the key's file has no name", &below("file"), "empty"),
            KeySource::Literal(text) => {
                let place = self.root.place_of(&below("literal"));
                let finding = match KeyMaterial::from_base64(name, provider, text) {
                    Err(error) => Finding::error("profile::key", error.to_string(), place)
                        .label("not a key")
                        .help("make one: head -c 32 /dev/urandom | base64"),
                    Ok(_) => Finding::warning(
                        "profile::literal_key",
                        format!("the key `{name}` stands in the profile itself"),
                        place,
                    )
                    .label("readable by whoever reads this file")
                    .help("for more than an exercise, let kprov make it, or use `env` or `file`"),
                };
                self.push(finding);
            }
        }
    }

    fn resources(&mut self, resources: &[String]) {
        for (index, resource) in resources.iter().enumerate() {
            let path = at!["encryption", "resources", index];
            if resource.is_empty() {
                self.error("profile::resource", "a resource has no name", &path, "empty");
                continue;
            }
            let (name, group) = resource.split_once('.').map_or((resource.as_str(), None), |(n, g)| (n, Some(g)));
            let valid = match (name, group) {
                ("*", None) => false,
                ("*", Some(group)) => matches!(group, "" | "*") || names::is_dns_name(group),
                (name, None) => names::is_dns_name(name),
                (name, Some(group)) => names::is_dns_name(name) && names::is_dns_name(group),
            };
            if !valid {
                let finding = Finding::error(
                    "profile::resource",
                    format!("`{resource}` is no resource"),
                    self.root.place_of(&path),
                )
                .label("expected RESOURCE or RESOURCE.GROUP, in the plural and lower case")
                .help("such as `secrets` or `deployments.apps`; `*.apps` is a whole group, `*.` the core group, `*.*` all");
                self.push(finding);
                continue;
            }
            if let Some((first, earlier)) =
                resources[..index].iter().enumerate().find(|(_, r)| covers(r, resource) || covers(resource, r))
            {
                let first = self.root.place_of(&at!["encryption", "resources", first]);
                let second = self.root.place_of(&path);
                let finding = if earlier == resource {
                    let message = format!("the resource `{resource}` is there twice");
                    Finding::error("profile::duplicate", message, second).label("again here").also(first, "first here")
                } else {
                    let message = format!("the resources `{earlier}` and `{resource}` overlap");
                    Finding::error("profile::duplicate", message, second)
                        .label("this one")
                        .also(first, "and this one")
                        .help("keep the wider one")
                };
                self.push(finding);
            }
        }
    }

    /// What kube-apiserver refuses in a policy, and a schema cannot say.
    fn audit(&mut self, audit: &Audit) {
        for (index, rule) in audit.rules.iter().enumerate() {
            let path = at!["audit", "rules", index, "nonResourceURLs"];
            let list =
                |field: &str| rule.get(field).and_then(serde_json::Value::as_array).filter(|list| !list.is_empty());
            let Some(urls) = list("nonResourceURLs") else { continue };
            if list("resources").or(list("namespaces")).is_some() {
                let message = "an audit rule is for resources or for other paths, not for both";
                self.key_error("profile::audit", message, &path, "besides resources");
            }
            for (number, url) in urls.iter().enumerate() {
                let url = url.as_str().unwrap_or_default();
                let inner = url.strip_suffix('*').unwrap_or(url);
                if url != "*" && (!url.starts_with('/') || inner.contains('*')) {
                    let path = at!["audit", "rules", index, "nonResourceURLs", number];
                    self.error("profile::audit", format!("`{url}` is no path"), &path, "expected /PATH or /PATH*");
                }
            }
        }
    }

    /// Each patch can be read; whether it fits is seen where it is applied.
    fn patches(&mut self, spec: &Spec) {
        self.kubeadm_patches(&at![], &spec.kubeadm_config_patches, &spec.kubeadm_config_patches_json6902);
        for (index, group) in spec.nodes.iter().enumerate() {
            let path = at!["nodes", index];
            self.kubeadm_patches(&path, &group.kubeadm_config_patches, &group.kubeadm_config_patches_json6902);
        }
        for (index, text) in spec.containerd_config_patches.iter().enumerate() {
            self.patch(&at!["containerdConfigPatches", index], patches::check_containerd(text));
        }
        for (index, text) in spec.containerd_config_patches_json6902.iter().enumerate() {
            let checked = patches::check_6902(text);
            self.patch(&at!["containerdConfigPatchesJSON6902", index], checked);
        }
    }

    fn kubeadm_patches(&mut self, path: &[Step], merges: &[String], operations: &[PatchJson6902]) {
        let below = |steps: &[Step]| [path, steps].concat();
        for (index, text) in merges.iter().enumerate() {
            let checked = patches::merge_patches(text);
            self.patch(&below(&["kubeadmConfigPatches".into(), index.into()]), checked.map(|_| ()));
        }
        for (index, written) in operations.iter().enumerate() {
            let text = &written.patch;
            let checked = patches::check_6902(text);
            self.patch(&below(&["kubeadmConfigPatchesJSON6902".into(), index.into(), "patch".into()]), checked);
        }
    }

    fn patch(&mut self, path: &[Step], checked: Result<(), PatchError>) {
        if let Err(error) = checked {
            self.error("profile::patch", format!("the patch cannot be used: {error}"), path, "this patch");
        }
    }

    /// Certificates, proxies and limits of nodes.
    fn machine(&mut self, spec: &Spec) {
        for (index, _) in spec.ca_certificates.iter().enumerate().filter(|(_, file)| file.is_empty()) {
            self.error(
                "profile::value",
                "the file of certificates has no name",
                &at!["caCertificates", index],
                "empty",
            );
        }
        if let Some((field, why)) = spec.networking.proxy.as_ref().and_then(Proxy::fault) {
            self.error("profile::proxy", why, &at!["networking", "proxy", field], "not valid");
        }
        for (index, group) in spec.nodes.iter().enumerate() {
            if let Some((field, why)) = group.limits.fault() {
                self.error("profile::limits", why, &at!["nodes", index, "limits", field], "not valid");
            }
        }
        if spec.nodes.iter().any(|group| !group.limits.is_none()) {
            let instead = "limits` of the group in `spec.nodes";
            if spec.kubelet.config.contains_key("systemReserved") {
                self.reserved("`systemReserved`", instead, &at!["kubelet", "config", "systemReserved"]);
            }
            if spec.kubelet.extra_args.contains_key("system-reserved") {
                self.reserved(
                    "the flag `system-reserved` of kubelet",
                    instead,
                    &at!["kubelet", "extraArgs", "system-reserved"],
                );
            }
        }
    }

    fn registry(&mut self, registry: &Registry) {
        self.image(registry.image.as_deref(), &at!["registry", "image"]);
        for fault in registry::faults(registry) {
            let path = [&at!["registry"][..], &fault.at].concat();
            self.error("profile::registry", fault.message, &path, fault.label);
        }
    }

    /// Each exception is of a control that there is, has a reason, and is the only one of it.
    fn cis(&mut self, cis: &Cis) {
        for (index, exception) in cis.exceptions.iter().enumerate() {
            let path = |field: &str| at!["cis", "exceptions", index, field];
            let names = [("benchmark", &exception.benchmark), ("until", &exception.until)];
            for (field, name) in names.into_iter().filter_map(|(field, name)| Some((field, name.as_deref()?))) {
                if name.parse::<Benchmark>().is_err() {
                    let message = format!("there is no benchmark `{name}`");
                    let expected = format!("expected one of {}", benchmark::names());
                    self.error("profile::cis", message, &path(field), expected);
                }
            }
            let benchmark = exception.benchmark.as_deref().map_or(Ok(Benchmark::NEWEST), str::parse);
            let Ok(benchmark) = benchmark else { continue };
            match crate::documents::cis::find(benchmark, &exception.id) {
                None => {
                    let message = format!("{benchmark} has no control `{}`", exception.id);
                    self.error("profile::cis", message, &path("id"), "expected a number such as 1.2.9");
                }
                Some(control) => {
                    let same = |other: &crate::documents::profile::CisException| {
                        let benchmark = other.benchmark.as_deref().map_or(Ok(Benchmark::NEWEST), str::parse);
                        let found =
                            benchmark.ok().and_then(|benchmark| crate::documents::cis::find(benchmark, &other.id));
                        found.is_some_and(|other| std::ptr::eq(other, control))
                    };
                    if cis.exceptions[..index].iter().any(same) {
                        self.error("profile::cis", "the control is excepted already", &path("id"), "again here");
                    }
                }
            }
            if exception.reason.trim().is_empty() {
                self.error("profile::cis", "the exception has no reason", &path("reason"), "say why it need not hold");
            }
        }
    }

    fn flags(&mut self, component: &str, flags: &BTreeMap<String, String>, reserved: Reserved) {
        for (flag, value) in flags {
            let path = at![component, "extraArgs", flag];
            let bare = flag.trim_start_matches('-');
            let place = self.root.place_of_key(&path);
            if bare.len() < flag.len() && !bare.is_empty() && !bare.contains(['=', ' ']) {
                let finding = Finding::error("profile::flag", format!("the flag `{flag}` has leading dashes"), place)
                    .label("without dashes here")
                    .help(format!("write `{bare}`"));
                self.push(finding);
            } else if let Some((name, rest)) = bare.split_once('=') {
                let finding =
                    Finding::error("profile::flag", format!("the flag `{flag}` has a value in its name"), place)
                        .label("expected a name alone")
                        .help(format!("write `{name}: \"{}\"`", if rest.is_empty() { value } else { rest }));
                self.push(finding);
            } else if bare.is_empty()
                || !bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            {
                self.push(Finding::error("profile::flag", format!("`{flag}` is no flag"), place).label("not valid"));
            }
            // Kubernetes takes both for one.
            let normal = bare.split('=').next().unwrap_or(bare).replace('_', "-");
            if let Some((_, instead)) = reserved.iter().find(|(name, _)| *name == normal) {
                self.reserved(&format!("the flag `{normal}` of {component}"), instead, &path);
            }
        }
    }

    /// Whether the paths for requests without a name are paths, the probes' among them, and nothing else decides on such requests.
    fn anonymous(&mut self, api_server: &ApiServer) {
        let Some(paths) = &api_server.anonymous_paths else { return };
        let at = at!["apiServer", "anonymousPaths"];
        for (index, path) in paths.iter().enumerate() {
            if !path.starts_with('/')
                || path.contains(|c: char| c.is_whitespace() || c.is_control() || "?*#".contains(c))
            {
                let at = at!["apiServer", "anonymousPaths", index];
                self.error("profile::value", format!("`{path}` is no path"), &at, "expected one such as `/livez`");
            } else if let Some(first) = paths[..index].iter().position(|other| other == path) {
                let (first, second) =
                    (at!["apiServer", "anonymousPaths", first], at!["apiServer", "anonymousPaths", index]);
                self.twice(format!("the path {path} is given twice"), &first, &second);
            }
        }
        for probed in ["/livez", "/readyz"] {
            if !paths.iter().any(|path| path == probed) {
                let message = format!("`{probed}` is not among the paths for requests without a name");
                self.error("profile::value", message, &at, "kubeadm's probes would find the API server dead");
            }
        }
        for flag in api_server.extra_args.keys() {
            let normal = flag.replace('_', "-");
            if matches!(normal.as_str(), "anonymous-auth" | "authentication-config") || normal.starts_with("oidc-") {
                let message =
                    format!("the API server takes either the flag `{normal}` or spec.apiServer.anonymousPaths");
                self.key_error("profile::flag", message, &at!["apiServer", "extraArgs", flag], "not together with it");
            }
        }
    }

    fn reserved(&mut self, what: &str, instead: &str, path: &[Step]) {
        let mut finding =
            Finding::error("profile::reserved", format!("kprov itself sets {what}"), self.root.place_of_key(path))
                .label("set by kprov");
        if !instead.is_empty() {
            finding = finding.help(format!("use `{instead}`"));
        }
        self.push(finding);
    }

    /// kubelet itself ignores what it does not know, so that a typo would silently undo a hardening.
    fn kubelet_field(&mut self, field: &str) {
        if KUBELET_FIELDS.iter().any(|(reserved, _)| *reserved == field) {
            return;
        }
        if let Some(near) = near(field, kubelet::FIELDS.iter().copied()).first() {
            let place = self.root.place_of_key(&at!["kubelet", "config", field]);
            let message = format!("kubelet may not know the field `{field}`");
            let finding = Finding::warning("profile::kubelet_field", message, place)
                .label("passed on as it is")
                .help(format!("did you mean `{near}`?"));
            self.push(finding);
        }
    }

    fn manifests(&mut self, manifests: &[Manifest]) {
        for (index, manifest) in manifests.iter().enumerate() {
            let path = |field: &str| at!["manifests", index, field];
            match (&manifest.file, &manifest.inline) {
                (Some(_), Some(_)) => {
                    let message = format!("the manifest `{}` has both a file and inline text", manifest.name);
                    self.key_error("profile::manifest", message, &path("inline"), "one or the other");
                }
                (None, None) => {
                    let message = format!("the manifest `{}` has neither a file nor inline text", manifest.name);
                    self.error("profile::manifest", message, &path("name"), "add `file` or `inline`");
                }
                (Some(file), None) if file.is_empty() => {
                    self.error("profile::manifest", "the manifest's file has no name", &path("file"), "empty");
                }
                (None, Some(text)) => {
                    if let Err(why) = check_stream(text) {
                        let message = format!("the manifest `{}` is no YAML: {why}", manifest.name);
                        self.key_error("profile::manifest", message, &path("inline"), "in this text");
                    }
                }
                _ => {}
            }
            if manifest.name.is_empty() {
                self.error("profile::manifest", "a manifest has an empty name", &path("name"), "empty");
            } else if let Some(first) = manifests[..index].iter().position(|other| other.name == manifest.name) {
                let message = format!("two manifests are called `{}`", manifest.name);
                self.twice(message, &at!["manifests", first, "name"], &path("name"));
            }
        }
    }
}

const LABEL_VALUE: &str = "at most 63 letters, digits, `-`, `_`, `.`; a letter or digit at both ends";

/// Whether two mappings want the same port of the host.
fn clash(one: &PortMapping, other: &PortMapping) -> bool {
    let any = std::net::IpAddr::from([0, 0, 0, 0]);
    let (a, b) = (one.listen_address.unwrap_or(any), other.listen_address.unwrap_or(any));
    let same_address = a == b || a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified());
    one.host_port == other.host_port && one.protocol == other.protocol && same_address
}

/// Whether the resource or wildcard `wide` includes `narrow`.
fn covers(wide: &str, narrow: &str) -> bool {
    let group = |resource: &'_ str| resource.split_once('.').map(|(_, group)| group.to_owned()).unwrap_or_default();
    wide == narrow || wide == "*.*" || wide.starts_with("*.") && group(wide) == group(narrow)
}

/// Whether a path begins at the root and means what it says.
fn is_plain_path(path: &str) -> bool {
    path.strip_prefix('/').is_some_and(|rest| !rest.split('/').any(|part| matches!(part, "" | "." | "..")))
}
