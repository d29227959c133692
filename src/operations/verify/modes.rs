//! File modes on nodes, as the CIS benchmark asks for them.

use crate::adapters::node::{Node, NodeError};
use crate::documents::profile::Role;

use super::Check;

/// Files that only root may read, and folders that only root may enter, as the CIS Kubernetes benchmark lists
/// them (1.1.1 to 1.1.21 and 4.1.1 to 4.1.10): shell patterns, one a line. Those that a node lacks do not count.
const PRIVATE: &str = "\
/etc/kubernetes/manifests/*.yaml
/etc/kubernetes/*.conf
/etc/kubernetes/pki/*.crt
/etc/kubernetes/pki/*.key
/etc/kubernetes/pki/etcd/*.crt
/etc/kubernetes/pki/etcd/*.key
/etc/kubernetes/encryption/*
/etc/kubernetes/audit/*
/etc/kubernetes/admission/*
/etc/kubernetes/authentication/*
/etc/cni/net.d/*
/var/lib/kubelet/config.yaml
/var/lib/kubelet/kubeadm-flags.env
/etc/systemd/system/kubelet.service.d/*.conf
/usr/lib/systemd/system/kubelet.service.d/*.conf";

const RESTRICT: &str = include_str!("scripts/restrict_modes.sh");
const READ: &str = include_str!("scripts/read_modes.sh");

/// Gives etcd's data to a user of its own.
const OWN_ETCD: &str = include_str!("scripts/own_etcd.sh");

/// Takes all permissions of group and others off the files that the benchmark names, and gives etcd's data folder
/// to a user of its own.
///
/// # Errors
/// [`NodeError`] if the node does not run, or a mode could not be changed.
pub async fn restrict_file_modes(node: &Node) -> Result<(), NodeError> {
    // An image may have the folder on workers, too, where there is nothing in it.
    let own_etcd = if node.role == Role::ControlPlane { OWN_ETCD } else { "" };
    let script = format!("patterns='{PRIVATE}'\n{RESTRICT}\n{own_etcd}");
    node.script("restricting file modes", &script).await.map(|_| ())
}

/// Checks what [`restrict_file_modes`] has set: owner root, nothing for group and others.
pub(super) async fn check(node: &Node) -> Result<Check, NodeError> {
    let control_plane = node.role == Role::ControlPlane;
    let data = if control_plane { "/var/lib/etcd" } else { "" };
    let script = format!("patterns='{PRIVATE}' data='{data}'\n{READ}");
    let listing = node.script("reading file modes", &script).await?;
    let wrong: Vec<&str> = listing.lines().filter(|line| !is_private(line)).collect();
    let evidence = if wrong.is_empty() {
        let files = listing.lines().filter(|line| !line.ends_with(" /var/lib/etcd")).count();
        let apart = if control_plane { ", etcd's data to etcd" } else { "" };
        format!("{files} files belong to root alone{apart}")
    } else {
        wrong.join(", ")
    };
    Ok(Check::new(format!("{}: file modes", node.name), wrong.is_empty() && !listing.is_empty(), evidence))
}

/// Whether a line of `mode owner:group path` shows a file that is root's alone.
pub(super) fn is_private(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let mode = words.next().and_then(|mode| u32::from_str_radix(mode, 8).ok());
    let owner = words.next();
    let own = if words.next() == Some("/var/lib/etcd") { "etcd:etcd" } else { "root:root" };
    mode.is_some_and(|mode| mode & 0o077 == 0) && owner == Some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_means_root_alone() {
        assert!(is_private("600 root:root /etc/kubernetes/admin.conf"));
        assert!(is_private("400 root:root /x"));
        assert!(!is_private("644 root:root /x"));
        assert!(!is_private("600 student:root /x"));
        assert!(is_private("700 etcd:etcd /var/lib/etcd"));
        assert!(!is_private("700 root:root /var/lib/etcd"));
        assert!(!is_private("600 etcd:etcd /etc/kubernetes/admin.conf"));
        assert!(!is_private(""));
    }
}
