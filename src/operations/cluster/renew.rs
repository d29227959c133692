//! Certificates that end soon, made anew while a cluster's nodes do not run.
//!
//! What an authority's key has to be for that, `documents::certificates::renewal` says. Authorities themselves last ten years.

use zeroize::Zeroizing;

use crate::adapters::node::{Node, NodeError};
use crate::adapters::states::States;
use crate::documents::certificates::kubelet_certificate;
use crate::documents::certificates::renewal::{Signer, ends};
use crate::documents::files::FileEntry;
use crate::documents::names::ClusterName;

use super::{ClusterError, Context};

/// How many seconds before its end a certificate is made anew.
const EARLY: i64 = 30 * 24 * 3600;

const FOLDER: &str = "/etc/kubernetes/pki";

/// Each certificate of a control plane, and the authority that has signed it.
const CERTIFICATES: [(&str, &str); 7] = [
    ("apiserver", "ca"),
    ("apiserver-kubelet-client", "ca"),
    ("front-proxy-client", "front-proxy-ca"),
    ("apiserver-etcd-client", "etcd/ca"),
    ("etcd/server", "etcd/ca"),
    ("etcd/peer", "etcd/ca"),
    ("etcd/healthcheck-client", "etcd/ca"),
];

/// A control plane's kubeconfigs with certificates in them; not each version has all.
const KUBECONFIGS: [&str; 4] = ["admin", "super-admin", "controller-manager", "scheduler"];

/// Makes the certificates of a cluster anew that end soon, or all of them if `anyway`; says whether it has. Its nodes do not run.
///
/// # Errors
/// [`ClusterError::Pki`] if an authority cannot sign, [`ClusterError::Node`] if a node's files cannot be read or written. What was
/// there before is as good as before: each node gets its new files at once.
pub(super) async fn renew(
    context: &Context,
    cluster: &ClusterName,
    control_planes: &[Node],
    workers: &[Node],
    anyway: bool,
) -> Result<bool, ClusterError> {
    let now = context.engine.now().await?.as_second();
    let mut soon = false;
    for node in control_planes {
        let certificate = text(node, &format!("{FOLDER}/apiserver.crt")).await?;
        soon |= certificate.as_deref().and_then(|text| ends(text)).is_some_and(|end| end - now < EARLY);
    }
    // Kubelets renew theirs by themselves.
    let Some(first) = control_planes.first().filter(|_| soon || anyway) else { return Ok(false) };
    let step = context.reporter.stage("Making certificates anew");
    let kubelets = signer(first, "ca").await?;
    let mut made = Vec::new();
    for node in control_planes {
        let mut files = Vec::new();
        for (path, authority) in CERTIFICATES {
            let Some(before) = text(node, &format!("{FOLDER}/{path}.crt")).await? else { continue };
            let renewed = signer(node, authority).await?.renew(&before)?;
            files.push(FileEntry::new(format!("{FOLDER}/{path}.crt"), 0o644, renewed.certificate.as_bytes()));
            files.push(FileEntry::new(format!("{FOLDER}/{path}.key"), 0o600, renewed.key.as_bytes()));
        }
        for name in KUBECONFIGS {
            let path = format!("/etc/kubernetes/{name}.conf");
            let Some(before) = text(node, &path).await? else { continue };
            let renewed = kubelets.renew_kubeconfig(&before)?;
            files.push(FileEntry::new(path, 0o600, renewed.as_bytes()));
        }
        made.push((node, files));
    }
    made.extend(workers.iter().map(|node| (node, Vec::new())));
    for (node, files) in &mut made {
        files.extend(kubelet_certificate(&kubelets.kubelet(&node.name)?));
    }
    if soon {
        // First: the state that `reset` goes back to has those that end, and whoever is killed now comes back to this.
        States::at(&context.paths).forget_golden(cluster)?;
        context
            .reporter
            .info("`kprov reset` will make the cluster again from its profile: its golden state was too old.");
    }
    // All of them first: what cannot be signed leaves everything as it was.
    for (node, files) in &made {
        node.put_files(files).await?;
    }
    step.done();
    Ok(true)
}

async fn signer(node: &Node, authority: &str) -> Result<Signer, ClusterError> {
    let certificate = text(node, &format!("{FOLDER}/{authority}.crt")).await?.unwrap_or_default();
    let key = text(node, &format!("{FOLDER}/{authority}.key")).await?.unwrap_or_default();
    Ok(Signer::of(&certificate, &key)?)
}

async fn text(node: &Node, path: &str) -> Result<Option<Zeroizing<String>>, NodeError> {
    let content = node.read_file(path).await?;
    Ok(content.map(|content| Zeroizing::new(String::from_utf8_lossy(&content).into_owned())))
}
