//! The syntax of names: of clusters, labels, images, flags, subnets.
//!
//! Owns rules that need nothing but the text. What has to agree with other values is left to `semantic`.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::documents::names::{ClusterName, NameError};

use super::{Role, Spec};

/// The longest name that a node, being a host, can have.
const LONGEST_NODE_NAME: usize = 63;

/// Checks `name` as the name of a cluster of `spec`, whose nodes are called after it.
///
/// # Errors
/// [`NameError`] if no cluster of kprov's can have it, [`NameError::Room`] if one of these nodes cannot.
pub fn check_cluster_name(name: &str, spec: &Spec) -> Result<ClusterName, NameError> {
    let name: ClusterName = name.parse()?;
    if name.ends_with(['.', '-']) {
        return Err(NameError::Edge { of: "cluster" });
    }
    let suffix = longest_suffix(spec);
    let most = LONGEST_NODE_NAME - suffix.len();
    if name.len() > most {
        return Err(NameError::Room { suffix, most });
    }
    Ok(name)
}

/// Checks the name of a network of the engine that nodes could be on.
///
/// # Errors
/// What is wrong with it.
pub fn check_docker_network(name: &str) -> Result<(), String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    // On the engine's own ones, containers do not find each other by name.
    if matches!(name, "bridge" | "host" | "none" | "default") {
        return Err(format!("nodes cannot be on the engine's own network `{name}`"));
    }
    if name.bytes().all(inner) && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && name.len() <= 63 {
        return Ok(());
    }
    Err(format!(
        "{name:?} is no name of a network: it has letters, digits, `_`, `.` and `-`, and begins with one of the first two"
    ))
}

/// What the longest of the nodes' names has behind the cluster's.
fn longest_suffix(spec: &Spec) -> String {
    let numbered = |role: &str, count: u32| match count {
        0 => String::new(),
        1 => format!("-{role}"),
        count => format!("-{role}{count}"),
    };
    let control_planes = spec.count(Role::ControlPlane);
    if control_planes > 1 {
        return "-external-load-balancer".to_owned();
    }
    let (one, other) = (numbered("control-plane", control_planes), numbered("worker", spec.count(Role::Worker)));
    if one.len() >= other.len() { one } else { other }
}

/// Lower-case words of letters, digits and dashes, joined by dots.
pub(super) fn is_dns_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

fn is_dns_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !label.is_empty()
        && label.len() <= 63
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A label's value, or the name in its key.
fn is_label_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 63 && name.bytes().all(inner) && outer(name.bytes().next()) && outer(name.bytes().last())
}

/// The key of a label or taint: `name` or `prefix/name`.
pub(super) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_dns_name(prefix) && is_label_name(name),
        None => is_label_name(key),
    }
}

/// The value of a label or taint.
pub(super) fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_name(value)
}

/// Whether kubelet refuses to start with the label `key`: of Kubernetes' own labels it sets but these itself.
pub(super) fn is_reserved_label(key: &str) -> bool {
    const ALLOWED: &[&str] = &[
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let Some((prefix, _)) = key.split_once('/') else { return false };
    let within = |domain: &str| prefix == domain || prefix.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
    (within("kubernetes.io") || within("k8s.io"))
        && !ALLOWED.contains(&key)
        && !within("kubelet.kubernetes.io")
        && !within("node.kubernetes.io")
}

/// A feature gate's name.
pub(super) fn is_feature_gate(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_uppercase()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The name of an environment variable.
pub(super) fn is_variable(name: &str) -> bool {
    !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A name in a certificate: an address, a host name, or `*.` and a host name.
pub(super) fn is_certificate_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || is_dns_name(lower.strip_prefix("*.").unwrap_or(&lower))
}

/// Checks the syntax of an image reference.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_image(image: &str) -> Result<(), String> {
    image_fault(image).map_or(Ok(()), |fault| Err(format!("`{image}` is no image reference: {fault}")))
}

/// What is wrong with an image reference: `[HOST[:PORT]/]PATH[:TAG][@ALGORITHM:DIGEST]`.
pub(super) fn image_fault(image: &str) -> Option<&'static str> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    if let Some(digest) = digest {
        let Some((algorithm, hex)) = digest.split_once(':') else { return Some("the digest has no `sha256:`") };
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Some("the digest is neither sha256 nor sha512"),
        };
        if hex.len() != length || !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Some("the digest has the wrong length, or is not lower-case hexadecimal");
        }
    }
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    if let Some(tag) = tag {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(fits) || tag.starts_with(['.', '-']) {
            return Some("the tag is not valid");
        }
    }
    let mut parts: Vec<&str> = name.split('/').collect();
    // The first part is a host if it could be nothing else.
    if parts.len() > 1 && (parts[0].contains(['.', ':']) || parts[0] == "localhost") {
        let host = parts.remove(0);
        let (host, port) = host.rsplit_once(':').unwrap_or((host, "1"));
        if !is_dns_name(&host.to_ascii_lowercase()) || port.parse::<u16>().is_err() {
            return Some("the registry's address is not valid");
        }
    }
    if parts.iter().any(|part| part.bytes().any(|byte| byte.is_ascii_uppercase())) {
        return Some("the name has upper-case letters");
    }
    let fits = |part: &&str| {
        let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        outer(part.bytes().next())
            && outer(part.bytes().last())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    };
    if name.len() > 255 || !parts.iter().all(fits) {
        return Some("the name is not valid");
    }
    None
}

/// A subnet as Kubernetes writes it: `010` and `+8` are no prefix lengths to it.
pub(super) fn subnet(text: &str) -> Option<IpNet> {
    let (_, prefix) = text.split_once('/')?;
    let plain = prefix.bytes().all(|byte| byte.is_ascii_digit()) && (prefix.len() == 1 || !prefix.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// How many bits of a subnet's addresses are the host's.
pub(super) fn host_bits(subnet: &IpNet) -> u8 {
    subnet.max_prefix_len() - subnet.prefix_len()
}

/// Whether two subnets have addresses in common: one lies in the other then.
pub(super) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use crate::documents::profile::NodeGroup;

    use super::*;

    #[test]
    fn cluster_names_leave_room_for_the_nodes() {
        let spec = Spec::default();
        for good in ["kind", "a", "a.b-c", "0", &"a".repeat(49)] {
            assert_eq!(check_cluster_name(good, &spec).unwrap(), *good, "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a.", "ä", &"a".repeat(50)] {
            assert!(check_cluster_name(bad, &spec).is_err(), "{bad}");
        }
        let three = NodeGroup { count: 3, ..NodeGroup::new(Role::ControlPlane) };
        let ha = Spec { nodes: vec![three], ..Spec::default() };
        assert_eq!(
            check_cluster_name(&"a".repeat(41), &ha).unwrap_err().to_string(),
            "a cluster with a node NAME-external-load-balancer has a name of at most 40 characters"
        );
    }

    #[test]
    fn images() {
        for good in [
            "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5",
            "node",
            "localhost:5000/a/b_c:1",
            "registry.example.com/x",
            "localhost/kprov/node",
        ] {
            assert_eq!(image_fault(good), None, "{good}");
        }
        for bad in ["", "Node", "a b", "a:", "a@sha256:12", "a@md5:12", "a//b", "a:x y", "-a", "h.x:99999/a", "a/"] {
            assert!(image_fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn subnets() {
        let overlaps = |one, other| overlap(&subnet(one).unwrap(), &subnet(other).unwrap());
        assert!(overlaps("10.96.0.0/16", "10.0.0.0/8"));
        assert!(!overlaps("10.96.0.0/16", "10.244.0.0/16"));
        assert!(!overlaps("0.0.0.0/0", "::/0"));
        assert!(overlaps("fd00::/8", "fd00:10:244::/56"));
        assert!(overlaps("10.96.0.1/16", "10.96.3.0/24"));
        assert_eq!([host_bits(&subnet("10.96.0.0/16").unwrap()), host_bits(&subnet("fd00::/112").unwrap())], [16, 16]);
        for bad in
            ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/08", "10.0.0.0/+8", "a/8", "10.0.0.0/"]
        {
            assert_eq!(subnet(bad), None, "{bad}");
        }
    }

    #[test]
    fn labels() {
        for good in ["a", "example.com/a_b.C", "a-1"] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "/a", "a/", "A.com/x", "-a", "a b", "a/b/c", &"a".repeat(64)] {
            assert!(!is_label_key(bad), "{bad}");
        }
        assert!(is_reserved_label("node-role.kubernetes.io/worker"));
        assert!(is_reserved_label("x.node-restriction.kubernetes.io/a"));
        assert!(!is_reserved_label("topology.kubernetes.io/zone"));
        assert!(!is_reserved_label("x.node.kubernetes.io/a"));
        assert!(!is_reserved_label("notkubernetes.io/a"));
    }
}
