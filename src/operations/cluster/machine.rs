//! What nodes get before they start because of the machine that they are on: certificates that it trusts, proxies, and limits
//! that the kubelet has to know of.
//!
//! The files are put together here, from what is in the node's container; nothing runs in it yet.

use std::path::Path;

use ipnet::IpNet;

use crate::adapters::engine::EngineInfo;
use crate::adapters::node::{Node, NodeError};
use crate::documents::certificates::check_authorities;
use crate::documents::files::FileEntry;
use crate::documents::named_file::read_named;
use crate::documents::profile::{Limits, Profile};
use crate::documents::record::Record;
use crate::documents::render::{NodePlan, added_authority};

use super::ClusterError;
use super::containers::proxies;

/// All certificates that a Debian system trusts.
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Flags of the kubelet in node images, behind all others.
const KUBELET: &str = "/etc/default/kubelet";

/// The variable in that file.
const FLAGS: &str = "KUBELET_EXTRA_ARGS=";

/// The flag that tells a kubelet what of the machine is not for pods.
const RESERVED: &str = "--system-reserved=";

/// The certificates that a profile's nodes are to trust, from files on this host.
///
/// # Errors
/// [`ClusterError::File`] for the first file that is none of certificates.
pub(super) fn authorities(profile: &Profile, base: &Path) -> Result<Vec<String>, ClusterError> {
    let read = |file: &String| {
        let path = base.join(file);
        let fail = |reason: String| ClusterError::File { path: path.clone(), reason };
        let text = read_named(&path).map_err(|error| fail(error.to_string()))?;
        check_authorities(&text).map_err(|reason| fail(reason.to_owned()))?;
        Ok(text.to_string())
    };
    profile.spec.ca_certificates.iter().map(read).collect()
}

/// The proxy variables of a cluster's nodes, by its profile or this process' environment.
pub(super) fn proxies_of(record: &Record, nodes: &[NodePlan], subnets: &[IpNet]) -> Vec<String> {
    proxies(|name| std::env::var(name).ok(), &record.profile, &record.base, nodes, subnets)
}

/// The files that a node needs for these certificates and limits, from what is in its container.
///
/// # Errors
/// [`NodeError`] if that cannot be read.
pub(super) async fn files(
    info: &EngineInfo,
    node: &Node,
    authorities: &[String],
    limits: &Limits,
) -> Result<Vec<FileEntry>, NodeError> {
    let mut files = Vec::new();
    if !authorities.is_empty() {
        let bundle = text(node, BUNDLE).await?;
        files.push(FileEntry::new(BUNDLE, 0o644, trusting(&bundle, authorities)));
        for (number, authority) in authorities.iter().enumerate() {
            files.push(FileEntry::new(added_authority(number + 1), 0o644, authority.as_bytes()));
        }
    }
    if !limits.is_none() {
        let flags = text(node, KUBELET).await?;
        files.push(FileEntry::new(KUBELET, 0o644, reserving(&flags, reserved(info, limits).as_deref())));
    }
    Ok(files)
}

async fn text(node: &Node, path: &str) -> Result<String, NodeError> {
    let content = node.read_file(path).await?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// A bundle of certificates with those that it lacks.
fn trusting(bundle: &str, authorities: &[String]) -> String {
    let mut bundle = bundle.to_owned();
    for authority in authorities {
        let authority = authority.trim();
        if !bundle.contains(authority) {
            if !bundle.is_empty() && !bundle.ends_with('\n') {
                bundle.push('\n');
            }
            bundle.push_str(authority);
            bundle.push('\n');
        }
    }
    bundle
}

/// What a kubelet has to leave alone so that pods are promised no more than the limits. It sees the whole machine, whatever its
/// container may use.
fn reserved(info: &EngineInfo, limits: &Limits) -> Option<String> {
    let there = |number: i64| u64::try_from(number).unwrap_or_default();
    let cpus = limits.cpus.and_then(|cpus| there(info.cpus).checked_sub(cpus.into())).filter(|cpus| *cpus > 0);
    let memory = limits.memory_bytes().and_then(|bytes| there(info.memory).checked_sub(bytes)).filter(|rest| *rest > 0);
    let parts =
        [cpus.map(|cpus| format!("cpu={cpus}")), memory.map(|bytes| format!("memory={}Ki", bytes.div_ceil(1024)))];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

/// The file of the kubelet's flags with what it has to leave alone, in place of what it had to before.
fn reserving(file: &str, reserved: Option<&str>) -> String {
    let mut lines: Vec<String> = file.lines().map(str::to_owned).collect();
    if !lines.iter().any(|line| line.starts_with(FLAGS)) {
        lines.push(FLAGS.to_owned());
    }
    for line in &mut lines {
        let Some(flags) = line.strip_prefix(FLAGS) else { continue };
        // With quotation marks or without.
        let quoted = flags.starts_with('"');
        let others = flags.trim_matches('"').split_whitespace().filter(|flag| !flag.starts_with(RESERVED));
        let own = reserved.map(|reserved| format!("{RESERVED}{reserved}"));
        let flags = others.map(str::to_owned).chain(own).collect::<Vec<_>>().join(" ");
        *line = if quoted { format!("{FLAGS}\"{flags}\"") } else { format!("{FLAGS}{flags}") };
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(cpus: i64, memory: i64) -> EngineInfo {
        EngineInfo {
            id: String::new(),
            version: String::new(),
            api_version: String::new(),
            cgroup_version: String::new(),
            architecture: String::new(),
            storage_driver: String::new(),
            root_dir: String::new(),
            cpus,
            memory,
            rootless: false,
        }
    }

    #[test]
    fn pods_are_promised_what_the_node_may_use() {
        let limits = |cpus, memory: Option<&str>| Limits { cpus, memory: memory.map(str::to_owned) };
        let machine = info(8, 16 << 30);
        let told = |cpus, memory| reserved(&machine, &limits(cpus, memory));
        assert_eq!(told(Some(2), Some("4Gi")).unwrap(), "cpu=6,memory=12582912Ki");
        assert_eq!(told(None, Some("4Gi")).unwrap(), "memory=12582912Ki");
        // A node that may use as much as there is has nothing to leave alone.
        assert_eq!(told(Some(8), Some("16Gi")), None);
        assert_eq!(told(Some(9), Some("17Gi")), None);
    }

    #[test]
    fn the_kubelet_is_told_once_and_keeps_its_other_flags() {
        let file = "KUBELET_EXTRA_ARGS=--runtime-cgroups=/x\n";
        let told = reserving(file, Some("cpu=6"));
        assert_eq!(told, "KUBELET_EXTRA_ARGS=--runtime-cgroups=/x --system-reserved=cpu=6\n");
        assert_eq!(
            reserving(&told, Some("cpu=2")),
            "KUBELET_EXTRA_ARGS=--runtime-cgroups=/x --system-reserved=cpu=2\n"
        );
        assert_eq!(reserving(&told, None), file);
        assert_eq!(reserving("", Some("cpu=6")), "KUBELET_EXTRA_ARGS=--system-reserved=cpu=6\n");
        let quoted = "A=1\nKUBELET_EXTRA_ARGS=\"--a --b\"\n";
        assert_eq!(reserving(quoted, Some("cpu=6")), "A=1\nKUBELET_EXTRA_ARGS=\"--a --b --system-reserved=cpu=6\"\n");
    }

    #[test]
    fn a_node_trusts_what_is_added_and_what_it_trusted() {
        let added = ["C\n".to_owned(), "D".to_owned()];
        let bundle = trusting("A\nB", &added);
        assert_eq!(bundle, "A\nB\nC\nD\n");
        assert_eq!(trusting(&bundle, &added), bundle, "again");
    }
}
