//! Approving the kubelets' requests for serving certificates.
//!
//! Kubernetes leaves them to somebody who knows the nodes (the controller manager approves
//! client certificates only), and that is kprov: it has just made them.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::api::PostParams;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer;

use crate::documents::bounds::check_stream;
use crate::documents::record::NodeRecord;

use super::{ApiError, http_get};

const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// The group of all nodes, and the organization in their certificates.
const NODES: &str = "system:nodes";

/// Approves the serving certificates of `nodes`, as the requests come in, until the API server reaches each kubelet,
/// whose certificate it verifies. A kubelet that restarts asks anew, and one whose request is approved takes a moment
/// to fetch its certificate: so neither a count of requests nor an approval is the end.
///
/// A request counts only if it comes from the kubelet of one of the nodes, for serving, and asks for no name or address
/// but that node's: the API server has checked that who asks is who it says, but not what it asks for.
///
/// # Errors
/// [`ApiError::Request`], or [`ApiError::NotReady`] after `timeout`.
pub async fn approve_serving_certificates(
    client: &Client,
    nodes: &[NodeRecord],
    timeout: Duration,
) -> Result<(), ApiError> {
    tokio::select! {
        failed = approve_requests(client, nodes) => failed,
        reached = await_serving_certificates(client, nodes, timeout) => reached,
    }
}

/// Approves requests as they come in. Ends only if the API server refuses.
async fn approve_requests(client: &Client, nodes: &[NodeRecord]) -> Result<(), ApiError> {
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let config = watcher::Config::default().fields(&format!("spec.signerName={SERVING_SIGNER}"));
    let mut requests = watcher(api.clone(), config).default_backoff().applied_objects().boxed();
    loop {
        // The stream of a watcher with back-off does not end, and its errors pass.
        if let Ok(Some(request)) = requests.try_next().await
            && nodes.iter().any(|node| is_wanted(&request, node))
        {
            approve(&api, request).await?;
        }
    }
}

/// How often the kubelets are asked again: what they serve with cannot be watched.
const ASK: Duration = Duration::from_millis(200);

async fn await_serving_certificates(client: &Client, nodes: &[NodeRecord], timeout: Duration) -> Result<(), ApiError> {
    let answers = async |node: &NodeRecord| {
        let Ok(request) = http_get(&format!("/api/v1/nodes/{}/proxy/healthz", node.name)) else { return };
        while client.request_text(request.clone()).await.is_err() {
            tokio::time::sleep(ASK).await;
        }
    };
    tokio::time::timeout(timeout, join_all(nodes.iter().map(answers))).await.map(|_| ()).map_err(|_| {
        let pending = vec!["not every kubelet has a serving certificate that the API server accepts".to_owned()];
        ApiError::NotReady { seconds: timeout.as_secs(), pending }
    })
}

/// Whether a request comes from the kubelet of `node`, and asks for no more than that may have.
fn is_wanted(request: &CertificateSigningRequest, node: &NodeRecord) -> bool {
    let spec = &request.spec;
    let user = format!("system:node:{}", node.name);
    let usages = spec.usages.as_deref().unwrap_or_default();
    let serves = usages.iter().any(|usage| usage == "server auth")
        && usages
            .iter()
            .all(|usage| matches!(usage.as_str(), "server auth" | "digital signature" | "key encipherment"));
    let is_node = spec.groups.as_deref().unwrap_or_default().iter().any(|group| group == NODES);
    spec.signer_name == SERVING_SIGNER
        && serves
        && is_node
        && spec.username.as_ref() == Some(&user)
        && names_only(&spec.request.0, &user, node).is_some()
}

/// `Some` if a PKCS#10 request is for `user`, and for names and addresses of `node` alone; `None` also for what cannot be
/// read.
fn names_only(pem: &[u8], user: &str, node: &NodeRecord) -> Option<()> {
    let (rest, pem) = parse_x509_pem(pem).ok()?;
    if pem.label != "CERTIFICATE REQUEST" || !rest.trim_ascii().is_empty() {
        return None;
    }
    let (rest, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let info = &request.certification_request_info;
    let subject = &info.subject;
    let only = |values: Vec<Option<&str>>, wanted: &str| values == [Some(wanted)];
    let names = only(subject.iter_common_name().map(|name| name.as_str().ok()).collect(), user)
        && only(subject.iter_organization().map(|name| name.as_str().ok()).collect(), NODES)
        && subject.iter_attributes().count() == 2;
    if !rest.is_empty() || !names {
        return None;
    }
    let mut asked = 0;
    for attribute in info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() else { return None };
        for extension in &requested.extensions {
            let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() else {
                return None;
            };
            if !alternative.general_names.iter().all(|name| belongs_to(name, node)) {
                return None;
            }
            asked += alternative.general_names.len();
        }
    }
    (asked > 0).then_some(())
}

fn belongs_to(name: &GeneralName<'_>, node: &NodeRecord) -> bool {
    match name {
        GeneralName::DNSName(name) => *name == node.name,
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            let own = [node.ipv4.map(IpAddr::from), node.ipv6.map(IpAddr::from)];
            v4.or(v6).is_ok_and(|address| own.contains(&Some(address)))
        }
        _ => false,
    }
}

async fn approve(api: &Api<CertificateSigningRequest>, mut request: CertificateSigningRequest) -> Result<(), ApiError> {
    let name = request.name_any();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == "Approved") {
        return Ok(());
    }
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("KprovApproved".to_owned()),
        message: Some("kprov made this node".to_owned()),
        last_transition_time: None,
        last_update_time: None,
    });
    api.replace_subresource("approval", &name, &PostParams::default(), &request)
        .await
        .map(|_| ())
        .map_err(ApiError::request(format!("approving the serving certificate {name}")))
}

/// The groups of the certificate by which a kubeconfig's first user authenticates; none if there is no such certificate.
#[must_use]
pub fn client_groups(kubeconfig: &str) -> Vec<String> {
    let groups = || {
        check_stream(kubeconfig).ok()?;
        let document: serde_json::Value = serde_yaml::from_str(kubeconfig).ok()?;
        let data = document.pointer("/users/0/user/client-certificate-data")?.as_str()?.to_owned();
        let pem = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, data).ok()?;
        let (_, pem) = parse_x509_pem(&pem).ok()?;
        let certificate = pem.parse_x509().ok()?;
        let names = certificate.subject().iter_organization();
        Some(names.filter_map(|name| name.as_str().ok()).map(str::to_owned).collect())
    };
    groups().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use rcgen::{CertificateParams, DnType, IsCa, KeyPair};

    use super::*;

    const USER: &str = "system:node:a-worker";
    const USAGES: [&str; 2] = ["digital signature", "server auth"];

    fn node() -> NodeRecord {
        let (ipv4, ipv6) = (Some([172, 18, 0, 3].into()), Some("fd00::3".parse().unwrap()));
        NodeRecord { name: "a-worker".to_owned(), ipv4, ipv6 }
    }

    fn params(user: &str, names: &[&str]) -> CertificateParams {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES);
        params.distinguished_name.push(DnType::CommonName, user);
        params
    }

    fn request(user: &str, usages: &[&str], params: &CertificateParams) -> CertificateSigningRequest {
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "csr-1"},
            "spec": {"request": STANDARD.encode(pem), "signerName": SERVING_SIGNER, "username": user, "groups": [NODES],
                "usages": usages}
        }))
        .unwrap()
    }

    fn wanted(names: &[&str]) -> bool {
        is_wanted(&request(USER, &USAGES, &params(USER, names)), &node())
    }

    #[test]
    fn only_our_own_nodes_are_approved_and_only_to_serve() {
        let good = params(USER, &["a-worker"]);
        assert!(is_wanted(&request(USER, &USAGES, &good), &node()));
        let stranger = "system:node:stranger";
        assert!(!is_wanted(&request(stranger, &USAGES, &params(stranger, &["a-worker"])), &node()));
        assert!(!is_wanted(&request(USER, &["server auth", "client auth"], &good), &node()));
        assert!(!is_wanted(&request(USER, &["digital signature"], &good), &node()));
        let mut other_signer = request(USER, &USAGES, &good);
        other_signer.spec.signer_name = "kubernetes.io/kube-apiserver-client".to_owned();
        assert!(!is_wanted(&other_signer, &node()));
    }

    #[test]
    fn only_names_and_addresses_of_the_node_are_approved() {
        assert!(wanted(&["a-worker", "172.18.0.3", "fd00::3"]));
        assert!(!wanted(&["kubernetes.default.svc"]));
        assert!(!wanted(&["a-worker", "kubernetes.default.svc"]));
        assert!(!wanted(&["a-worker", "172.18.0.2"]));
        assert!(!wanted(&["a-worker", "10.96.0.1"]));
        assert!(!wanted(&["*"]));
        assert!(!wanted(&[]));
    }

    #[test]
    fn only_the_nodes_own_subject_is_approved() {
        let is = |params: &CertificateParams| is_wanted(&request(USER, &USAGES, params), &node());
        assert!(!is(&params("kubernetes-admin", &["a-worker"])));
        let mut masters = params(USER, &["a-worker"]);
        masters.distinguished_name.push(DnType::OrganizationName, "system:masters");
        assert!(!is(&masters));
        let mut unit = params(USER, &["a-worker"]);
        unit.distinguished_name.push(DnType::OrganizationalUnitName, "x");
        assert!(!is(&unit));
        let mut authority = params(USER, &["a-worker"]);
        authority.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        authority.is_ca = IsCa::NoCa;
        assert!(!is(&authority), "no extension but the names");
    }

    #[test]
    fn what_cannot_be_read_is_not_approved() {
        let mut garbage = request(USER, &USAGES, &params(USER, &["a-worker"]));
        garbage.spec.request.0 = b"nonsense".to_vec();
        assert!(!is_wanted(&garbage, &node()));
    }

    #[test]
    fn a_kubeconfig_that_would_take_all_memory_has_no_groups() {
        assert!(client_groups(&crate::documents::bounds::tests::bomb()).is_empty());
    }
}
