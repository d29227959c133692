//! A cluster's certificates: made at once, in memory, as kubeadm would make them on a node.
//!
//! Owns the authorities, what they sign, and the kubeconfigs that carry client certificates.
//! The layout, names and usages are those of cmd/kubeadm/app/phases/certs/certlist.go; the keys are
//! of the curve P-256, which takes a fraction of the time of RSA. Pure but for the random source and the clock.

pub mod renewal;

use std::net::IpAddr;

use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{Span, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::documents::files::FileEntry;
use crate::documents::render::{KubernetesVersion, NodeStart};
use crate::documents::yaml;

/// Where kubeadm keeps certificates on a control plane.
const FOLDER: &str = "/etc/kubernetes/pki";

/// The group whose members may do everything, without any rule that says so.
const MASTERS: &str = "system:masters";

/// Years that authorities and other certificates last, as kubeadm's own.
const AUTHORITY_YEARS: i64 = 10;
const LEAF_YEARS: i64 = 1;

/// A certificate could not be made.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("the certificate {name} could not be made: {reason}")]
#[diagnostic(code(kprov::pki))]
pub struct PkiError {
    /// The certificate's common name.
    name: String,
    /// What is wrong.
    reason: String,
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key; wiped when dropped.
    pub key: Zeroizing<String>,
}

struct Authority {
    name: &'static str,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What the certificates of a control plane have to name.
#[derive(Debug, Clone)]
pub struct ControlPlaneNames {
    /// The node's name.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The first address of the services' subnets: the API server's own, as pods see it.
    pub service_addresses: Vec<IpAddr>,
    /// Other names and addresses of the API server.
    pub others: Vec<String>,
}

/// All authorities of one cluster.
pub struct Pki {
    ca: Authority,
    front_proxy: Authority,
    etcd: Authority,
    service_accounts: KeyPair,
    version: KubernetesVersion,
}

/// Where a kubelet finds its certificate: a link, since it only ever replaces one, when it renews what the link leads to
/// (k8s.io/client-go/util/certificate/certificate_store.go).
const KUBELET_NOW: &str = "/var/lib/kubelet/pki/kubelet-client-current.pem";

/// What that leads to at first, in the same folder.
const KUBELET_FIRST: &str = "kubelet-client-kprov.pem";

/// The files by which a kubelet finds its certificate and key, both of them in one text.
#[must_use]
pub fn kubelet_certificate(both: &str) -> Vec<FileEntry> {
    let (folder, _) = KUBELET_NOW.rsplit_once('/').unwrap_or_default();
    vec![
        FileEntry::new(format!("{folder}/{KUBELET_FIRST}"), 0o600, both.as_bytes()),
        FileEntry::link(KUBELET_NOW, KUBELET_FIRST),
    ]
}

impl Pki {
    /// Makes the authorities of a new cluster.
    ///
    /// # Errors
    /// [`PkiError`] if there are no random bytes to be had.
    pub fn generate(version: &KubernetesVersion) -> Result<Self, PkiError> {
        Ok(Self {
            ca: Authority::generate("kubernetes")?,
            front_proxy: Authority::generate("front-proxy-ca")?,
            etcd: Authority::generate("etcd-ca")?,
            service_accounts: key("sa")?,
            version: version.clone(),
        })
    }

    /// The cluster's certificate authority, as every node and client gets it.
    #[must_use]
    pub fn ca_file(&self) -> FileEntry {
        FileEntry::new(format!("{FOLDER}/ca.crt"), 0o644, self.ca.certificate.pem())
    }

    /// A control plane's whole certificate folder.
    ///
    /// # Errors
    /// [`PkiError`] if there are no random bytes, or a name cannot be in a certificate.
    pub fn control_plane_files(&self, names: &ControlPlaneNames) -> Result<Vec<FileEntry>, PkiError> {
        let admins = self.version.admin_group();
        let client = |authority: &Authority, name: &str, group: Option<&str>| {
            authority.issue(name, group, Vec::new(), &[ExtendedKeyUsagePurpose::ClientAuth])
        };
        let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let etcd_names = || {
            let mut list = vec![dns("localhost")?, dns(&names.node)?];
            list.extend(
                [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)].map(SanType::IpAddress),
            );
            list.extend(names.addresses.iter().copied().map(SanType::IpAddress));
            Ok::<_, PkiError>(list)
        };
        let mut api_names = Vec::new();
        for name in [
            &names.node,
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ] {
            api_names.push(dns(name)?);
        }
        for other in &names.others {
            api_names.push(other.parse().map_or_else(|_| dns(other), |address| Ok(SanType::IpAddress(address)))?);
        }
        api_names.extend(names.service_addresses.iter().chain(&names.addresses).copied().map(SanType::IpAddress));
        let mut unique: Vec<SanType> = Vec::with_capacity(api_names.len());
        for name in api_names {
            if !unique.contains(&name) {
                unique.push(name);
            }
        }

        let mut files = Vec::new();
        for (path, authority) in [("ca", &self.ca), ("front-proxy-ca", &self.front_proxy), ("etcd/ca", &self.etcd)] {
            let identity = Identity {
                certificate: authority.certificate.pem(),
                key: Zeroizing::new(authority.issuer.key().serialize_pem()),
            };
            files.extend(identity.files(path));
        }
        let healthcheck_group = self.version.etcd_healthcheck_group();
        for (path, identity) in [
            ("apiserver", self.ca.issue("kube-apiserver", None, unique, &both[..1])?),
            ("apiserver-kubelet-client", client(&self.ca, "kube-apiserver-kubelet-client", Some(admins))?),
            ("front-proxy-client", client(&self.front_proxy, "front-proxy-client", None)?),
            ("apiserver-etcd-client", client(&self.etcd, "kube-apiserver-etcd-client", healthcheck_group)?),
            ("etcd/server", self.etcd.issue(&names.node, None, etcd_names()?, &both)?),
            ("etcd/peer", self.etcd.issue(&names.node, None, etcd_names()?, &both)?),
            ("etcd/healthcheck-client", client(&self.etcd, "kube-etcd-healthcheck-client", healthcheck_group)?),
        ] {
            files.extend(identity.files(path));
        }
        files.push(FileEntry::new(format!("{FOLDER}/sa.key"), 0o600, self.service_accounts.serialize_pem()));
        files.push(FileEntry::new(format!("{FOLDER}/sa.pub"), 0o600, self.service_accounts.public_key_pem()));
        Ok(files)
    }

    /// A control plane's kubeconfigs, but for the kubelet's. `endpoint` is where all nodes find the API server, `local` where
    /// this one does. Only the first control plane has one of a super admin, as by `kubeadm join`
    /// (cmd/kubeadm/app/phases/kubeconfig/kubeconfig.go, `CreateJoinControlPlaneKubeConfigFiles`).
    ///
    /// # Errors
    /// [`PkiError`] if there are no random bytes, or a name cannot be in a certificate.
    pub fn control_plane_kubeconfigs(
        &self,
        cluster: &str,
        endpoint: &str,
        local: &str,
        start: NodeStart,
    ) -> Result<Vec<FileEntry>, PkiError> {
        let mut wanted = vec![
            ("admin", "kubernetes-admin", Some(self.version.admin_group()), endpoint),
            ("controller-manager", "system:kube-controller-manager", None, local),
            ("scheduler", "system:kube-scheduler", None, local),
        ];
        if self.version.has_super_admin() && start == NodeStart::Init {
            wanted.push(("super-admin", "kubernetes-super-admin", Some(MASTERS), endpoint));
        }
        let mut files = Vec::new();
        for (file, user, group, server) in wanted {
            let identity = self.client(user, group)?;
            let text = self.kubeconfig(cluster, server, user, &identity);
            files.push(FileEntry::sealed(format!("/etc/kubernetes/{file}.conf"), 0o600, text));
        }
        Ok(files)
    }

    /// The files by which a kubelet is who it is: its certificate and its kubeconfig, as kubeadm leaves them once the
    /// kubelet has got its first certificate.
    ///
    /// # Errors
    /// [`PkiError`] if there are no random bytes, or a name cannot be in a certificate.
    pub fn kubelet_files(&self, cluster: &str, node: &str, endpoint: &str) -> Result<Vec<FileEntry>, PkiError> {
        let identity = self.client(&format!("system:node:{node}"), Some("system:nodes"))?;
        let both = Zeroizing::new(format!("{}{}", identity.certificate, *identity.key));
        let user = json!({"client-certificate": KUBELET_NOW, "client-key": KUBELET_NOW});
        let mut files = kubelet_certificate(&both);
        files.push(FileEntry::sealed(
            "/etc/kubernetes/kubelet.conf",
            0o600,
            self.document(cluster, endpoint, "default-auth", user),
        ));
        Ok(files)
    }

    /// A kubeconfig of a member of `system:masters`, for whoever makes the cluster: it works before any rule is there.
    ///
    /// # Errors
    /// [`PkiError`] if there are no random bytes, or a name cannot be in a certificate.
    pub fn maker_kubeconfig(&self, cluster: &str, server: &str) -> Result<Zeroizing<String>, PkiError> {
        let identity = self.client("kubernetes-super-admin", Some(MASTERS))?;
        let text = self.kubeconfig(cluster, server, "kubernetes-super-admin", &identity);
        Ok(Zeroizing::new(String::from_utf8_lossy(&text).into_owned()))
    }

    /// Where the cluster is and who vouches for it, as a kubeconfig without contexts and users: anybody may know.
    #[must_use]
    pub fn public_kubeconfig(&self, server: &str) -> String {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(self.ca.certificate.pem());
        let value = json!({
            "apiVersion": "v1",
            "clusters": [{"cluster": {"certificate-authority-data": authority, "server": server}, "name": ""}],
            "contexts": null,
            "current-context": "",
            "kind": "Config",
            "preferences": {},
            "users": null,
        });
        yaml::document(&value)
    }

    fn client(&self, user: &str, group: Option<&str>) -> Result<Identity, PkiError> {
        self.ca.issue(user, group, Vec::new(), &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    fn kubeconfig(&self, cluster: &str, server: &str, user: &str, identity: &Identity) -> Zeroizing<Vec<u8>> {
        use base64::Engine as _;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let key = Zeroizing::new(encode(&identity.key));
        let credentials = json!({
            "client-certificate-data": encode(&identity.certificate),
            "client-key-data": key.as_str(),
        });
        self.document(cluster, server, user, credentials)
    }

    /// A kubeconfig in kubeadm's layout. JSON is YAML; kubeadm and kubelet read it, and rewrite it as they please.
    fn document(&self, cluster: &str, server: &str, user: &str, credentials: serde_json::Value) -> Zeroizing<Vec<u8>> {
        use base64::Engine as _;
        let authority = base64::engine::general_purpose::STANDARD.encode(self.ca.certificate.pem());
        let context = format!("{user}@{cluster}");
        let value = json!({
            "apiVersion": "v1",
            "clusters": [{"cluster": {"certificate-authority-data": authority, "server": server}, "name": cluster}],
            "contexts": [{"context": {"cluster": cluster, "user": user}, "name": context}],
            "current-context": context,
            "kind": "Config",
            "preferences": {},
            "users": [{"name": user, "user": credentials}],
        });
        Zeroizing::new(yaml::document(&value).into_bytes())
    }
}

impl Identity {
    fn files(&self, path: &str) -> [FileEntry; 2] {
        [
            FileEntry::new(format!("{FOLDER}/{path}.crt"), 0o644, self.certificate.as_bytes()),
            FileEntry::new(format!("{FOLDER}/{path}.key"), 0o600, self.key.as_bytes()),
        ]
    }
}

impl Authority {
    fn generate(name: &'static str) -> Result<Self, PkiError> {
        let key = key(name)?;
        let mut params = params(name, None, AUTHORITY_YEARS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names = vec![dns(name)?];
        let certificate = params.self_signed(&key).map_err(|error| fail(name, error))?;
        Ok(Self { name, certificate, issuer: Issuer::new(params, key) })
    }

    fn issue(
        &self,
        name: &str,
        group: Option<&str>,
        names: Vec<SanType>,
        usages: &[ExtendedKeyUsagePurpose],
    ) -> Result<Identity, PkiError> {
        let key = key(name)?;
        let mut params = params(name, group, LEAF_YEARS);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = usages.to_vec();
        params.use_authority_key_identifier_extension = true;
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(|error| fail(&format!("{name} by {}", self.name), error))?;
        Ok(Identity { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }
}

/// An authority of its own, called `authority`, for one server, and the server's certificate, which names it, this very host and nothing else. The
/// authority's key is gone afterwards: the certificate lasts as long as the authority does.
///
/// # Errors
/// [`PkiError`] if there are no random bytes, or the name cannot be in a certificate.
pub fn server_identity(authority: &'static str, name: &str) -> Result<(String, Identity), PkiError> {
    let authority = Authority::generate(authority)?;
    let own = key(name)?;
    let mut params = params(name, None, AUTHORITY_YEARS);
    let local = SanType::IpAddress(IpAddr::from([127, 0, 0, 1]));
    params.subject_alt_names = vec![dns(name)?, dns("localhost")?, local];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&own, &authority.issuer).map_err(|error| fail(name, error))?;
    let identity = Identity { certificate: certificate.pem(), key: Zeroizing::new(own.serialize_pem()) };
    Ok((authority.certificate.pem(), identity))
}

/// Nothing, if a text is certificates in PEM, and nothing else that would have to be kept secret.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_authorities(text: &str) -> Result<(), &'static str> {
    if text.contains("PRIVATE KEY-----") {
        return Err("there is a private key in it, which nodes must not get");
    }
    let (mut inside, mut count) = (false, 0);
    for line in text.lines().map(str::trim) {
        match line {
            "-----BEGIN CERTIFICATE-----" if !inside => inside = true,
            "-----END CERTIFICATE-----" if inside => (inside, count) = (false, count + 1),
            line if inside && !is_base64(line) => return Err("a certificate in it is no base64"),
            _ => {}
        }
    }
    match (inside, count) {
        (true, _) => Err("a certificate in it has no end"),
        (false, 0) => Err("there is no certificate in PEM in it"),
        (false, _) => Ok(()),
    }
}

fn is_base64(line: &str) -> bool {
    !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
}

fn params(name: &str, group: Option<&str>, years: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if let Some(group) = group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.distinguished_name.push(DnType::CommonName, name);
    // A day back: the clocks of host and engine need not agree.
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let day = |span: Span| {
        let date = now.checked_add(span).unwrap_or_else(|_| now.clone()).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(Span::new().days(-1));
    params.not_after = day(Span::new().years(years));
    params
}

fn key(name: &str) -> Result<KeyPair, PkiError> {
    KeyPair::generate().map_err(|error| fail(name, error))
}

fn dns(name: &str) -> Result<SanType, PkiError> {
    name.try_into().map(SanType::DnsName).map_err(|error| fail(name, error))
}

fn fail(name: &str, error: rcgen::Error) -> PkiError {
    PkiError { name: name.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pki(version: &str) -> Pki {
        Pki::generate(&version.parse().unwrap()).unwrap()
    }

    fn names() -> ControlPlaneNames {
        ControlPlaneNames {
            node: "c-control-plane".to_owned(),
            addresses: vec!["172.18.0.2".parse().unwrap()],
            service_addresses: vec!["10.96.0.1".parse().unwrap()],
            others: vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "c-control-plane".to_owned()],
        }
    }

    #[test]
    fn a_control_plane_gets_what_kubeadm_would_make() {
        let files = pki("v1.36.2").control_plane_files(&names()).unwrap();
        let mut paths: Vec<_> = files.iter().map(|file| file.path.trim_start_matches("/etc/kubernetes/pki/")).collect();
        paths.sort_unstable();
        assert_eq!(
            paths,
            [
                "apiserver-etcd-client.crt",
                "apiserver-etcd-client.key",
                "apiserver-kubelet-client.crt",
                "apiserver-kubelet-client.key",
                "apiserver.crt",
                "apiserver.key",
                "ca.crt",
                "ca.key",
                "etcd/ca.crt",
                "etcd/ca.key",
                "etcd/healthcheck-client.crt",
                "etcd/healthcheck-client.key",
                "etcd/peer.crt",
                "etcd/peer.key",
                "etcd/server.crt",
                "etcd/server.key",
                "front-proxy-ca.crt",
                "front-proxy-ca.key",
                "front-proxy-client.crt",
                "front-proxy-client.key",
                "sa.key",
                "sa.pub",
            ]
        );
        assert!(files.iter().all(|file| file.path.ends_with(".crt") || file.mode == 0o600));
    }

    #[test]
    fn kubeconfigs_are_those_of_the_version() {
        let list = |version, start| {
            let files = pki(version).control_plane_kubeconfigs("c", "https://e:6443", "https://l:6443", start).unwrap();
            files.into_iter().map(|file| file.path).collect::<Vec<_>>()
        };
        assert_eq!(list("v1.20.2", NodeStart::Init).len(), 3);
        assert!(list("v1.36.2", NodeStart::Init).contains(&"/etc/kubernetes/super-admin.conf".to_owned()));
        assert_eq!(list("v1.36.2", NodeStart::JoinControlPlane), list("v1.20.2", NodeStart::Init));
    }

    #[test]
    fn a_node_whose_clock_is_a_day_behind_takes_them() {
        let yesterday = Timestamp::now().as_second() - 24 * 3600;
        for years in [AUTHORITY_YEARS, LEAF_YEARS] {
            let params = params("c", None, years);
            assert!(params.not_before.unix_timestamp() <= yesterday);
            assert!(params.not_after.unix_timestamp() > Timestamp::now().as_second() + years * 364 * 24 * 3600);
        }
    }

    #[test]
    fn authorities_are_certificates_and_nothing_secret() {
        let (authority, identity) = server_identity("kms-ca", "a").unwrap();
        assert_eq!(check_authorities(&format!("# ours\n{authority}\n{authority}")), Ok(()));
        for bad in ["", "a", &authority[..authority.len() - 10], &format!("{authority}{}", *identity.key)] {
            assert!(check_authorities(bad).is_err(), "{bad}");
        }
        assert!(check_authorities("-----BEGIN CERTIFICATE-----\n$(x)\n-----END CERTIFICATE-----").is_err());
    }

    #[test]
    fn no_two_clusters_share_an_authority() {
        assert_ne!(pki("v1.36.2").ca.certificate.pem(), pki("v1.36.2").ca.certificate.pem());
    }

    #[test]
    fn a_kubeconfig_can_be_used() {
        let text = pki("v1.36.2").maker_kubeconfig("c", "https://127.0.0.1:6443").unwrap();
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("kubernetes-super-admin@c"));
    }

    #[test]
    fn the_public_kubeconfig_names_the_server_and_no_user() {
        let server = "https://127.0.0.1:6443";
        let config: serde_json::Value = serde_yaml::from_str(&pki("v1.36.2").public_kubeconfig(server)).unwrap();
        assert_eq!(config["clusters"][0]["cluster"]["server"], server);
        assert_eq!(config["clusters"][0]["name"], "");
        assert_eq!(config["current-context"], "");
        assert!(config["contexts"].is_null() && config["users"].is_null());
    }
}
