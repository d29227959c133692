//! Kubernetes versions, and every decision that depends on one.
//!
//! Owns the facts on what changed in which minor version, each with its source
//! upstream. The other modules ask here and compare no versions themselves.
//! Paths are those of kubernetes/kubernetes unless another repository is named.

use std::fmt;
use std::str::FromStr;

use semver::{BuildMetadata, Prerelease, Version};

use crate::documents::keys::KmsProtocol;

/// The oldest minor version that kprov brings up.
const OLDEST: (u64, u64) = (1, 20);
/// The newest minor version that kprov has been held against.
const NEWEST: (u64, u64) = (1, 37);

/// A version of Kubernetes, as in `v1.36.2` or `1.37.0-alpha.1+abc`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KubernetesVersion(Version);

/// Why a text is no usable version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, miette::Diagnostic)]
pub enum VersionError {
    /// It is not a version at all.
    #[error("{0:?} is not a Kubernetes version")]
    #[diagnostic(help("versions look like v1.37.0 or 1.37.0-rc.1"))]
    Malformed(String),
    /// It is older than what kprov knows how to start.
    #[error("Kubernetes {0} is too old")]
    #[diagnostic(help("kprov brings up Kubernetes 1.20 and later"))]
    TooOld(String),
}

/// The version of kubeadm's configuration documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KubeadmApi {
    /// `kubeadm.k8s.io/v1beta2`
    V1Beta2,
    /// `kubeadm.k8s.io/v1beta3`
    V1Beta3,
    /// `kubeadm.k8s.io/v1beta4`
    V1Beta4,
}

impl KubeadmApi {
    /// The name, as in `apiVersion: kubeadm.k8s.io/NAME`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V1Beta2 => "v1beta2",
            Self::V1Beta3 => "v1beta3",
            Self::V1Beta4 => "v1beta4",
        }
    }

    /// Whether extra arguments are lists of name and value; they are mappings before
    /// v1beta4 (cmd/kubeadm/app/apis/kubeadm/v1beta4/types.go, `Arg`).
    #[must_use]
    pub fn lists_arguments(self) -> bool {
        self == Self::V1Beta4
    }

    /// Whether `skipPhases` is in the configuration; before v1beta3 there is but the
    /// flag `--skip-phases` (cmd/kubeadm/app/apis/kubeadm/v1beta3/types.go).
    #[must_use]
    pub fn skips_phases(self) -> bool {
        self != Self::V1Beta2
    }

    /// Whether `patches.directory` is in the configuration; before v1beta3 there is but a
    /// flag (cmd/kubeadm/app/apis/kubeadm/v1beta3/types.go).
    #[must_use]
    pub fn names_patches(self) -> bool {
        self != Self::V1Beta2
    }
}

impl fmt::Display for KubeadmApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How kubelet's default seccomp profile is switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeccompDefault {
    /// Not at all.
    Absent,
    /// By the field `seccompDefault` and the feature gate `SeccompDefault`.
    Gated,
    /// By the field `seccompDefault` alone.
    Field,
}

impl FromStr for KubernetesVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let version = Version::parse(text.strip_prefix('v').unwrap_or(text))
            .map_err(|_| VersionError::Malformed(text.to_owned()))?;
        if (version.major, version.minor) < OLDEST {
            return Err(VersionError::TooOld(version.to_string()));
        }
        Ok(Self(version))
    }
}

/// As kubeadm and `/kind/version` write it: with the leading `v`.
impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl KubernetesVersion {
    /// The version that the tag of an image reference tells, if it tells one:
    /// `kindest/node:v1.37.0@sha256:...`, `kprov/node:v1.20.2-abcdef012345`.
    ///
    /// A suffix counts as a pre-release only if it is one of Kubernetes' own
    /// (alpha, beta, rc); anything else is the image's build.
    #[must_use]
    pub fn from_image(reference: &str) -> Option<Self> {
        let name = reference.split('@').next()?;
        // A colon before the last slash belongs to a registry's port.
        let (_, tag) = name.rsplit('/').next()?.split_once(':')?;
        let tag = tag.strip_prefix('v').unwrap_or(tag);
        let (numbers, suffix) = match tag.find(['-', '_', '+']) {
            Some(at) => (&tag[..at], &tag[at..]),
            None => (tag, ""),
        };
        let mut version = Version::parse(numbers).ok()?;
        // Tags hold no `+`; Kubernetes' own builds write `_` instead.
        let (pre, build) = suffix.split_once(['_', '+']).unwrap_or((suffix, ""));
        let pre = pre.strip_prefix('-').unwrap_or_default();
        if ["alpha", "beta", "rc"].iter().any(|stage| pre.split('.').next() == Some(stage)) {
            version.pre = Prerelease::new(pre).ok()?;
            version.build = BuildMetadata::new(build).unwrap_or_default();
        }
        version.to_string().parse().ok()
    }

    /// Whether this is at least `major`.`minor`. A pre-release counts as its
    /// release: features arrive in a minor version's alphas.
    fn at_least(&self, major: u64, minor: u64) -> bool {
        (self.0.major, self.0.minor) >= (major, minor)
    }

    /// Whether this is newer than what kprov has been held against: worth a
    /// warning, and taken for the newest known one in all else.
    #[must_use]
    pub fn is_untested(&self) -> bool {
        (self.0.major, self.0.minor) > NEWEST
    }

    /// kubeadm's configuration API. The same choice as kind's
    /// (kubernetes-sigs/kind, pkg/cluster/internal/kubeadm/config.go), so that both write the
    /// same documents; kubeadm takes v1beta3 from 1.22 and v1beta4 from 1.31.
    #[must_use]
    pub fn kubeadm_api(&self) -> KubeadmApi {
        if self.at_least(1, 36) {
            KubeadmApi::V1Beta4
        } else if self.at_least(1, 23) {
            KubeadmApi::V1Beta3
        } else {
            KubeadmApi::V1Beta2
        }
    }

    /// kubeadm's own feature gates. 1.20 needs `IPv6DualStack` for a second
    /// address family, and kind sets it there whatever the family (pkg/cluster/internal/kubeadm/config.go).
    #[must_use]
    pub fn kubeadm_feature_gates(&self) -> &'static [&'static str] {
        if self.at_least(1, 21) { &[] } else { &["IPv6DualStack"] }
    }

    /// The flag that names the folder of patches, for versions whose configuration cannot: it was an experiment
    /// before 1.22 (cmd/kubeadm/app/cmd/options/constant.go).
    #[must_use]
    pub fn kubeadm_patches_flag(&self) -> Option<&'static str> {
        match self.kubeadm_api().names_patches() {
            true => None,
            false if self.at_least(1, 22) => Some("--patches"),
            false => Some("--experimental-patches"),
        }
    }

    /// kubelet's cgroup driver in a node image: kind's images for 1.24 and later
    /// run containerd with systemd's (kubernetes-sigs/kind, pkg/cluster/internal/kubeadm/config.go).
    #[must_use]
    pub fn cgroup_driver(&self) -> &'static str {
        if self.at_least(1, 24) { "systemd" } else { "cgroupfs" }
    }

    /// The keys of the taints (effect NoSchedule, no value) that kubeadm puts on
    /// a control plane: the old name before 1.24, both in 1.24, the new one from 1.25
    /// (KEP-2067; cmd/kubeadm/app/constants/constants.go).
    #[must_use]
    pub fn control_plane_taints(&self) -> &'static [&'static str] {
        const OLD: &str = "node-role.kubernetes.io/master";
        const NEW: &str = "node-role.kubernetes.io/control-plane";
        if self.at_least(1, 25) {
            &[NEW]
        } else if self.at_least(1, 24) {
            &[NEW, OLD]
        } else {
            &[OLD]
        }
    }

    /// The labels (without value) that kubeadm puts on a control plane: the old
    /// name went in 1.24, the load balancers' came in 1.21
    /// (cmd/kubeadm/app/phases/markcontrolplane/markcontrolplane.go).
    #[must_use]
    pub fn control_plane_labels(&self) -> &'static [&'static str] {
        const OLD: &str = "node-role.kubernetes.io/master";
        const NEW: &str = "node-role.kubernetes.io/control-plane";
        if self.at_least(1, 24) {
            &[NEW, EXCLUDE_FROM_LOAD_BALANCERS]
        } else if self.at_least(1, 21) {
            &[NEW, OLD, EXCLUDE_FROM_LOAD_BALANCERS]
        } else {
            &[NEW, OLD]
        }
    }

    /// kubelet's `seccompDefault`: alpha in 1.22, on by default from 1.25
    /// (KEP-2413; pkg/features/kube_features.go).
    #[must_use]
    pub fn seccomp_default(&self) -> SeccompDefault {
        if self.at_least(1, 25) {
            SeccompDefault::Field
        } else if self.at_least(1, 22) {
            SeccompDefault::Gated
        } else {
            SeccompDefault::Absent
        }
    }

    /// Whether this version does not have an admission plugin that others do: DenyServiceExternalIPs came in 1.21
    /// (plugin/pkg/admission/network/denyserviceexternalips), PodSecurity in 1.22, and without a gate in 1.23 (KEP-2579);
    /// PodSecurityPolicy went in 1.25 (KEP-5).
    #[must_use]
    pub fn lacks_admission_plugin(&self, plugin: &str) -> bool {
        match plugin {
            "DenyServiceExternalIPs" => !self.at_least(1, 21),
            "PodSecurity" => !self.at_least(1, 23),
            "PodSecurityPolicy" => self.at_least(1, 25),
            _ => false,
        }
    }

    /// The version of PodSecurity's configuration (v1 from 1.25: staging/src/k8s.io/pod-security-admission/admission/api).
    #[must_use]
    pub fn pod_security_api(&self) -> &'static str {
        if self.at_least(1, 25) {
            "pod-security.admission.config.k8s.io/v1"
        } else {
            "pod-security.admission.config.k8s.io/v1beta1"
        }
    }

    /// Whether the API server can let requests without a name in to some paths alone (KEP-4633: on by default from 1.32).
    #[must_use]
    pub fn limits_anonymous_paths(&self) -> bool {
        self.at_least(1, 32)
    }

    /// The version of the configuration that says so (v1 from 1.34, KEP-3331:
    /// staging/src/k8s.io/apiserver/pkg/apis/apiserver).
    #[must_use]
    pub fn authentication_api(&self) -> &'static str {
        if self.at_least(1, 34) { "apiserver.config.k8s.io/v1" } else { "apiserver.config.k8s.io/v1beta1" }
    }

    /// Whether kubelet stops on cgroup v1 unless `failCgroupV1: false`. The field
    /// is there from 1.31, and true by default from 1.35
    /// (KEP-5573, pull request 134298; pkg/kubelet/apis/config/v1beta1/defaults.go).
    #[must_use]
    pub fn fails_on_cgroup_v1(&self) -> bool {
        self.at_least(1, 35)
    }

    /// Whether the API server reloads a changed EncryptionConfiguration by itself
    /// (`--encryption-provider-config-automatic-reload`, from 1.26:
    /// staging/src/k8s.io/apiserver/pkg/server/options/etcd.go).
    #[must_use]
    pub fn reloads_encryption_config(&self) -> bool {
        self.at_least(1, 26)
    }

    /// The protocol for KMS plugins: the second one from 1.27 on, where it is beta (KEP-3299). 1.25 and 1.26 take it with a
    /// feature gate only, and versions before do not read the field that names it
    /// (staging/src/k8s.io/apiserver/pkg/apis/config/v1/types.go).
    #[must_use]
    pub fn kms_protocol(&self) -> KmsProtocol {
        if self.at_least(1, 27) { KmsProtocol::V2 } else { KmsProtocol::V1 }
    }

    /// Whether the first protocol for KMS plugins needs the feature gate `KMSv1` (from 1.29:
    /// staging/src/k8s.io/apiserver/pkg/features/kube_features.go).
    #[must_use]
    pub fn gates_kms_v1(&self) -> bool {
        self.at_least(1, 29)
    }

    /// The health check of the KMS plugin: a joint one for the second protocol, and wherever the configuration is read again
    /// (staging/src/k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go, `kmsv2PluginProbe`).
    #[must_use]
    pub fn kms_health_check(&self, protocol: KmsProtocol) -> &'static str {
        if protocol == KmsProtocol::V2 || self.reloads_encryption_config() { "kms-providers" } else { "kms-provider-0" }
    }

    /// The health checks of plugins that are asked by these protocols, in the order of a configuration.
    #[must_use]
    pub fn kms_health_checks(&self, protocols: &[KmsProtocol]) -> Vec<String> {
        match protocols.iter().map(|protocol| self.kms_health_check(*protocol)).find(|check| *check == "kms-providers")
        {
            Some(joint) => vec![joint.to_owned()],
            None => (0..protocols.len()).map(|index| format!("kms-provider-{index}")).collect(),
        }
    }

    /// Whether an API server is taken for dead while its KMS plugin is ill: until 1.28 that check is one of `/livez`, too
    /// (staging/src/k8s.io/apiserver/pkg/server/options/etcd.go, pull request 120583).
    #[must_use]
    pub fn dies_of_an_ill_kms(&self) -> bool {
        !self.at_least(1, 29)
    }

    /// Whether custom resources can be encrypted (from 1.26: kubernetes.io, "Encrypting Confidential Data at Rest").
    #[must_use]
    pub fn encrypts_custom_resources(&self) -> bool {
        self.at_least(1, 26)
    }

    /// The group of `admin.conf` and of the API server's own client certificate for kubelets. From 1.29 on it has
    /// its rights from a ClusterRoleBinding (cmd/kubeadm/app/constants/constants.go, `ClusterAdminsGroupAndClusterRoleBinding`).
    #[must_use]
    pub fn admin_group(&self) -> &'static str {
        if self.has_super_admin() { "kubeadm:cluster-admins" } else { "system:masters" }
    }

    /// Whether kubeadm makes a `super-admin.conf`, from 1.29 on (CHANGELOG-1.29, kubeadm).
    #[must_use]
    pub fn has_super_admin(&self) -> bool {
        self.at_least(1, 29)
    }

    /// Whether a control plane's kubelet asks the API server of its own node, not the one that all nodes find: kubeadm's
    /// feature gate `ControlPlaneKubeletLocalMode`, on by default from 1.33 on (KEP-4471).
    #[must_use]
    pub fn kubelet_asks_own_api_server(&self) -> bool {
        self.at_least(1, 33)
    }

    /// Whether kubeadm keeps a list of all API servers beside its configuration, the ClusterStatus. It went in 1.22
    /// (CHANGELOG-1.22, kubeadm).
    #[must_use]
    pub fn lists_api_servers(&self) -> bool {
        !self.at_least(1, 22)
    }

    /// Whether kubeadm has etcd ask for storage on the node, which a kubelet that has just started may not know of
    /// (kubernetes/kubernetes#99305). It no longer does from 1.22 (#102673) and some patch releases before.
    #[must_use]
    pub fn etcd_claims_storage(&self) -> bool {
        !self.at_least(1, 22)
    }

    /// Whether kubeadm binds the API server's client certificate for kubelets to the role `system:kubelet-api-admin`, from
    /// 1.36.1 on (CHANGELOG-1.36; cmd/kubeadm/app/phases/bootstraptoken/node/tlsbootstrap.go).
    #[must_use]
    pub fn binds_kubelet_api_admin(&self) -> bool {
        (self.0.major, self.0.minor, self.0.patch) >= (1, 36, 1)
    }

    /// The group of the client certificates for etcd, which has no notion of groups: kubeadm left it out from 1.30 on
    /// (cmd/kubeadm/app/phases/certs/certlist.go).
    #[must_use]
    pub fn etcd_healthcheck_group(&self) -> Option<&'static str> {
        (!self.at_least(1, 30)).then_some("system:masters")
    }

    /// Whether kubeadm notes the runtime's socket in an annotation of the node. From 1.36 on kubelet's instance
    /// configuration on the node itself says it (feature gate NodeLocalCRISocket; KEP-4656 of kubeadm).
    #[must_use]
    pub fn annotates_runtime_socket(&self) -> bool {
        !self.at_least(1, 36)
    }

    /// Whether kubelet reports that its node has become Ready only with its next regular report, up to 10 s later.
    /// Newer ones look every 100 ms until then (pkg/kubelet/kubelet_node_status.go, `fastNodeStatusUpdate`, since 1.26).
    #[must_use]
    pub fn reports_first_readiness_late(&self) -> bool {
        !self.at_least(1, 26)
    }

    /// Whether static pods are Ready only at kubelet's next resync after their startup probe has succeeded: seen in 1.20,
    /// fixed in 1.21 (kubernetes/kubernetes issue 95140).
    #[must_use]
    pub fn delays_readiness_to_resync(&self) -> bool {
        !self.at_least(1, 21)
    }

    /// Whether a kubelet brings its static pods into the API as soon as its node is there, not with their next resync after a
    /// minute or more (kubernetes/kubernetes#126870, from 1.32).
    #[must_use]
    pub fn mirrors_static_pods_with_node(&self) -> bool {
        self.at_least(1, 32)
    }

    /// Whether an EncryptionConfiguration takes `*.GROUP` and `*.*`
    /// (from 1.27: staging/src/k8s.io/apiserver/pkg/apis/apiserver/validation/validation_encryption.go).
    #[must_use]
    pub fn encrypts_by_wildcard(&self) -> bool {
        self.at_least(1, 27)
    }

    /// Whether kube-proxy has the nftables mode without a feature gate
    /// (KEP-3866: alpha in 1.29, on by default from 1.31).
    #[must_use]
    pub fn has_nftables_proxy(&self) -> bool {
        self.at_least(1, 31)
    }
}

/// The label that keeps a node out of a service load balancer's targets
/// (staging/src/k8s.io/api/core/v1/well_known_labels.go).
pub const EXCLUDE_FROM_LOAD_BALANCERS: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> KubernetesVersion {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_read_with_and_without_the_letter() {
        assert_eq!(version("v1.20.2").to_string(), "v1.20.2");
        assert_eq!(version("1.37.0-alpha.1+abc\n").to_string(), "v1.37.0-alpha.1+abc");
        for text in ["", "v1", "1.20", "latest", "v1.20.2 x", "v01.20.2"] {
            assert!(matches!(text.parse::<KubernetesVersion>(), Err(VersionError::Malformed(_))), "{text:?}");
        }
        assert_eq!("v1.19.16".parse::<KubernetesVersion>(), Err(VersionError::TooOld("1.19.16".to_owned())));
        assert!(!version("1.37.4").is_untested());
        assert!(version("1.38.0").is_untested());
    }

    #[test]
    fn an_image_tag_tells_the_version() {
        for (reference, expected) in [
            ("kindest/node:v1.37.0@sha256:a1ed", Some("v1.37.0")),
            ("kprov/node:v1.20.2-abcdef012345", Some("v1.20.2")),
            ("example/node:v1.36.2", Some("v1.36.2")),
            ("localhost:5000/kindest/node:v1.37.0-rc.1", Some("v1.37.0-rc.1")),
            ("kindest/node:v1.38.0-alpha.1.2_0123abc", Some("v1.38.0-alpha.1.2+0123abc")),
            ("kindest/node:1.30.0", Some("v1.30.0")),
            ("localhost:5000/kindest/node", None),
            ("kindest/node:latest", None),
            ("kindest/node:v1.19.1", None),
            ("kindest/node@sha256:a1ed", None),
            ("", None),
        ] {
            assert_eq!(
                KubernetesVersion::from_image(reference).map(|v| v.to_string()).as_deref(),
                expected,
                "{reference}"
            );
        }
    }

    #[test]
    fn each_decision_turns_at_its_version() {
        assert_eq!(version("1.22.17").kubeadm_api(), KubeadmApi::V1Beta2);
        assert_eq!(version("1.23.0-alpha.1").kubeadm_api(), KubeadmApi::V1Beta3);
        assert_eq!(version("1.35.9").kubeadm_api(), KubeadmApi::V1Beta3);
        assert_eq!(version("1.36.0").kubeadm_api(), KubeadmApi::V1Beta4);
        assert_eq!(version("1.38.0").kubeadm_api(), KubeadmApi::V1Beta4);
        assert_eq!(version("1.23.9").control_plane_taints(), ["node-role.kubernetes.io/master"]);
        assert_eq!(version("1.24.0").control_plane_taints().len(), 2);
        assert_eq!(version("1.25.0").control_plane_taints(), ["node-role.kubernetes.io/control-plane"]);
        assert_eq!(version("1.21.9").seccomp_default(), SeccompDefault::Absent);
        assert_eq!(version("1.24.9").seccomp_default(), SeccompDefault::Gated);
        assert_eq!(version("1.25.0").seccomp_default(), SeccompDefault::Field);
        assert!(!version("1.20.2").control_plane_labels().contains(&EXCLUDE_FROM_LOAD_BALANCERS));
        assert_eq!(version("1.23.1").cgroup_driver(), "cgroupfs");
        assert!(!version("1.31.9").limits_anonymous_paths() && version("1.32.0").limits_anonymous_paths());
        assert_eq!(version("1.33.9").authentication_api(), "apiserver.config.k8s.io/v1beta1");
        assert_eq!(version("1.34.0").authentication_api(), "apiserver.config.k8s.io/v1");
        assert!(!version("1.34.0").fails_on_cgroup_v1() && version("1.35.0").fails_on_cgroup_v1());
        assert_eq!(version("1.26.9").kms_protocol(), KmsProtocol::V1);
        assert_eq!(version("1.27.0").kms_protocol(), KmsProtocol::V2);
        assert!(!version("1.32.9").kubelet_asks_own_api_server() && version("1.33.0").kubelet_asks_own_api_server());
        assert!(
            !version("1.31.9").mirrors_static_pods_with_node() && version("1.32.0").mirrors_static_pods_with_node()
        );
        assert!(version("1.21.9").lists_api_servers() && !version("1.22.0").lists_api_servers());
        assert!(!version("1.28.9").gates_kms_v1() && version("1.29.0").gates_kms_v1());
        assert!(version("1.28.9").dies_of_an_ill_kms() && !version("1.29.0").dies_of_an_ill_kms());
        assert_eq!(version("1.25.9").kms_health_check(KmsProtocol::V1), "kms-provider-0");
        assert_eq!(version("1.26.0").kms_health_check(KmsProtocol::V1), "kms-providers");
        let two = [KmsProtocol::V1; 2];
        assert_eq!(version("1.20.2").kms_health_checks(&two), ["kms-provider-0", "kms-provider-1"]);
        assert_eq!(version("1.26.0").kms_health_checks(&two), ["kms-providers"]);
        assert!(version("1.20.2").kms_health_checks(&[]).is_empty());
        assert!(!version("1.25.0").reloads_encryption_config() && version("1.26.0").reloads_encryption_config());
    }
}
