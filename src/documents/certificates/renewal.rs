//! Certificates that end soon: the same again, with new keys and another year.
//!
//! Names, groups and usages are those of the certificate before; who signs is the authority that has signed that. Only
//! authorities whose keys are in PKCS #8, as kprov's own, can be used.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use zeroize::Zeroizing;

use crate::documents::bounds::check_stream;
use crate::documents::yaml;

use super::{AUTHORITY_YEARS, Identity, LEAF_YEARS, PkiError, dns, key, params};

/// When a certificate in PEM ends, in seconds since 1970; `None` if there is none.
#[must_use]
pub fn ends(pem: &str) -> Option<i64> {
    let (_, block) = parse_x509_pem(pem.as_bytes()).ok()?;
    Some(block.parse_x509().ok()?.validity().not_after.timestamp())
}

/// An authority that is on a control plane.
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
}

impl Signer {
    /// The authority of this certificate and key, in PEM.
    ///
    /// # Errors
    /// [`PkiError`] if they are none, or the key is not in PKCS #8.
    pub fn of(certificate: &str, key: &str) -> Result<Self, PkiError> {
        let name = read(certificate, "the authority")?.name;
        let key = KeyPair::from_pem(key).map_err(|error| wrong(&name, &format!("its key: {error}")))?;
        let mut params = params(&name, None, AUTHORITY_YEARS);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self { issuer: Issuer::new(params, key) })
    }

    /// A certificate like the one before.
    ///
    /// # Errors
    /// [`PkiError`] if that is none, or there are no random bytes.
    pub fn renew(&self, before: &str) -> Result<Identity, PkiError> {
        self.issue(&read(before, "a certificate")?)
    }

    /// A kubeconfig like the one before, whose certificate is in it.
    ///
    /// # Errors
    /// [`PkiError`] if there is none in it, or there are no random bytes.
    pub fn renew_kubeconfig(&self, before: &str) -> Result<Zeroizing<String>, PkiError> {
        let fail = |reason: &str| wrong("a kubeconfig", reason);
        check_stream(before).map_err(|_| fail("it is no YAML, or out of bounds"))?;
        let mut config: serde_json::Value = serde_yaml::from_str(before).map_err(|_| fail("it is no YAML"))?;
        let user = config.pointer_mut("/users/0/user").ok_or_else(|| fail("it has no user"))?;
        let data = user["client-certificate-data"].as_str().ok_or_else(|| fail("it has no certificate"))?;
        let pem = BASE64.decode(data).map_err(|_| fail("its certificate is no base64"))?;
        let renewed = self.renew(&String::from_utf8_lossy(&pem))?;
        user["client-certificate-data"] = BASE64.encode(&renewed.certificate).into();
        user["client-key-data"] = BASE64.encode(renewed.key.as_bytes()).into();
        Ok(Zeroizing::new(yaml::document(&config)))
    }

    /// The certificate and the key by which a kubelet is who it is, in one text.
    ///
    /// # Errors
    /// [`PkiError`] if there are no random bytes.
    pub fn kubelet(&self, node: &str) -> Result<Zeroizing<String>, PkiError> {
        let certificate = Certificate {
            name: format!("system:node:{node}"),
            group: Some("system:nodes".to_owned()),
            names: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        let identity = self.issue(&certificate)?;
        Ok(Zeroizing::new(format!("{}{}", identity.certificate, *identity.key)))
    }

    fn issue(&self, certificate: &Certificate) -> Result<Identity, PkiError> {
        let Certificate { name, group, names, usages } = certificate;
        let key = key(name)?;
        let mut params = params(name, group.as_deref(), LEAF_YEARS);
        params.subject_alt_names.clone_from(names);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages.clone_from(usages);
        params.use_authority_key_identifier_extension = true;
        let signed = params.signed_by(&key, &self.issuer).map_err(|error| wrong(name, &error.to_string()))?;
        Ok(Identity { certificate: signed.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }
}

/// What of a certificate stays.
struct Certificate {
    name: String,
    group: Option<String>,
    names: Vec<SanType>,
    usages: Vec<ExtendedKeyUsagePurpose>,
}

fn read(pem: &str, what: &str) -> Result<Certificate, PkiError> {
    let fail = |reason: &str| wrong(what, reason);
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| fail("it is no PEM"))?;
    let parsed = block.parse_x509().map_err(|_| fail("it is no certificate"))?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next().and_then(|name| name.as_str().ok());
    let group = subject.iter_organization().next().and_then(|group| group.as_str().ok());
    let alternatives = parsed.subject_alternative_name().map_err(|_| fail("its names cannot be read"))?;
    let mut names = Vec::new();
    for other in alternatives.iter().flat_map(|extension| &extension.value.general_names) {
        names.push(match other {
            GeneralName::DNSName(name) => dns(name)?,
            GeneralName::IPAddress(bytes) => SanType::IpAddress(address(bytes).ok_or_else(|| fail("an odd address"))?),
            _ => return Err(fail("a name in it is neither a host's nor an address")),
        });
    }
    let usage = parsed.extended_key_usage().map_err(|_| fail("its usages cannot be read"))?;
    let uses = usage.iter().flat_map(|extension| {
        let usage = &extension.value;
        [
            usage.server_auth.then_some(ExtendedKeyUsagePurpose::ServerAuth),
            usage.client_auth.then_some(ExtendedKeyUsagePurpose::ClientAuth),
        ]
    });
    Ok(Certificate {
        name: name.ok_or_else(|| fail("it has no name"))?.to_owned(),
        group: group.map(str::to_owned),
        names,
        usages: uses.flatten().collect(),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn wrong(name: &str, reason: &str) -> PkiError {
    PkiError { name: name.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::{ControlPlaneNames, Pki};
    use super::*;
    use crate::documents::render::NodeStart;

    fn file(files: &[crate::documents::files::FileEntry], end: &str) -> String {
        let found = files.iter().find(|file| file.path.ends_with(end)).unwrap();
        String::from_utf8(found.content.to_vec()).unwrap()
    }

    #[test]
    fn a_renewed_certificate_is_the_one_before_but_for_its_key_and_its_end() {
        let pki = Pki::generate(&"v1.36.2".parse().unwrap()).unwrap();
        let names = ControlPlaneNames {
            node: "c-control-plane".to_owned(),
            addresses: vec!["172.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            service_addresses: vec!["10.96.0.1".parse().unwrap()],
            others: vec!["localhost".to_owned()],
        };
        let files = pki.control_plane_files(&names).unwrap();
        for (authority, leaf) in
            [("pki/ca", "pki/apiserver"), ("etcd/ca", "etcd/server"), ("front-proxy-ca", "front-proxy-client")]
        {
            let signer =
                Signer::of(&file(&files, &format!("{authority}.crt")), &file(&files, &format!("{authority}.key")))
                    .unwrap();
            let before = file(&files, &format!("{leaf}.crt"));
            let renewed = signer.renew(&before).unwrap();
            let (old, new) = (read(&before, "").unwrap(), read(&renewed.certificate, "").unwrap());
            assert_eq!(
                (&old.name, &old.group, &old.names, &old.usages),
                (&new.name, &new.group, &new.names, &new.usages)
            );
            assert!(ends(&renewed.certificate) >= ends(&before) && renewed.certificate != before);
            let parsed = |pem: &str| parse_x509_pem(pem.as_bytes()).unwrap().1;
            let (old, new) = (parsed(&before), parsed(&renewed.certificate));
            let (old, new) = (old.parse_x509().unwrap(), new.parse_x509().unwrap());
            assert_eq!(old.issuer(), new.issuer());
            let key_of_authority = |certificate: &x509_parser::certificate::X509Certificate<'_>| {
                let oid = x509_parser::oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER;
                certificate.get_extension_unique(&oid).unwrap().map(|extension| extension.value.to_vec())
            };
            assert_eq!(key_of_authority(&old), key_of_authority(&new));
            assert!(key_of_authority(&new).is_some());
        }
    }

    #[test]
    fn a_renewed_kubeconfig_is_the_one_before_with_another_certificate() {
        let pki = Pki::generate(&"v1.36.2".parse().unwrap()).unwrap();
        let names =
            ControlPlaneNames { node: "c".to_owned(), addresses: vec![], service_addresses: vec![], others: vec![] };
        let files = pki.control_plane_files(&names).unwrap();
        let signer = Signer::of(&file(&files, "pki/ca.crt"), &file(&files, "pki/ca.key")).unwrap();
        let configs = pki.control_plane_kubeconfigs("c", "https://e:1", "https://l:1", NodeStart::Init).unwrap();
        let before = file(&configs, "admin.conf");
        let renewed = signer.renew_kubeconfig(&before).unwrap();
        let read = |text: &str| serde_yaml::from_str::<serde_json::Value>(text).unwrap();
        let (mut old, mut new) = (read(&before), read(&renewed));
        for part in ["client-certificate-data", "client-key-data"] {
            let at = format!("/users/0/user/{part}");
            let (one, other) = (old.pointer_mut(&at).unwrap().take(), new.pointer_mut(&at).unwrap().take());
            assert_ne!(one, other);
        }
        assert_eq!(old, new);
        assert!(signer.kubelet("c-worker").unwrap().contains("PRIVATE KEY"));
    }

    #[test]
    fn a_kubeconfig_that_would_take_all_memory_is_refused() {
        let pki = Pki::generate(&"v1.36.2".parse().unwrap()).unwrap();
        let names =
            ControlPlaneNames { node: "c".to_owned(), addresses: vec![], service_addresses: vec![], others: vec![] };
        let files = pki.control_plane_files(&names).unwrap();
        let signer = Signer::of(&file(&files, "pki/ca.crt"), &file(&files, "pki/ca.key")).unwrap();
        let bomb = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a,".repeat(10_000));
        let error = signer.renew_kubeconfig(&bomb).unwrap_err().to_string();
        assert!(error.contains("out of bounds"), "{error}");
    }

    #[test]
    fn what_is_none_is_told() {
        assert_eq!(ends("x"), None);
        assert!(Signer::of("x", "y").is_err());
    }
}
