//! Certificates that end soon, made anew while a cluster's nodes do not run.
//!
//! What an authority's key has to be for that, `documents::certificates::renewal` says. Authorities themselves last ten years.

use crate::adapters::engine::Container;
use crate::adapters::states::States;
use crate::documents::certificates::kubelet_certificate;
use crate::documents::certificates::renewal::{Signer, ends};
use crate::documents::files::{FileEntry, first_file, pack};
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

/// The most bytes of such a file.
const LARGEST_FILE: usize = 1 << 20;

/// Makes the certificates of a cluster anew that end soon, or all of them if `anyway`; says whether it has. Its nodes do not run.
///
/// # Errors
/// [`ClusterError::Pki`] if an authority cannot sign, [`ClusterError::Engine`] if a node's files cannot be read or written. What was
/// there before is as good as before: each node gets its new files at once.
pub(super) async fn renew(
    context: &Context,
    cluster: &ClusterName,
    control_planes: &[Container],
    workers: &[Container],
    anyway: bool,
) -> Result<bool, ClusterError> {
    let now = context.engine.now().await?.as_second();
    let mut soon = false;
    for node in control_planes {
        let certificate = read(context, node, &format!("{FOLDER}/apiserver.crt")).await?;
        soon |= certificate.as_deref().and_then(|text| ends(text)).is_some_and(|end| end - now < EARLY);
    }
    // Kubelets renew theirs by themselves.
    let Some(first) = control_planes.first().filter(|_| soon || anyway) else { return Ok(false) };
    let step = context.reporter.stage("Making certificates anew");
    let kubelets = signer(context, first, "ca").await?;
    let mut made = Vec::new();
    for node in control_planes {
        let mut files = Vec::new();
        for (path, authority) in CERTIFICATES {
            let Some(before) = read(context, node, &format!("{FOLDER}/{path}.crt")).await? else { continue };
            let renewed = signer(context, node, authority).await?.renew(&before)?;
            files.push(FileEntry::new(format!("{FOLDER}/{path}.crt"), 0o644, renewed.certificate.as_bytes()));
            files.push(FileEntry::new(format!("{FOLDER}/{path}.key"), 0o600, renewed.key.as_bytes()));
        }
        for name in KUBECONFIGS {
            let path = format!("/etc/kubernetes/{name}.conf");
            let Some(before) = read(context, node, &path).await? else { continue };
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
        context.engine.put_archive(&node.id, pack(files)).await?;
    }
    step.done();
    Ok(true)
}

async fn signer(context: &Context, node: &Container, authority: &str) -> Result<Signer, ClusterError> {
    let certificate = read(context, node, &format!("{FOLDER}/{authority}.crt")).await?.unwrap_or_default();
    let key = read(context, node, &format!("{FOLDER}/{authority}.key")).await?.unwrap_or_default();
    Ok(Signer::of(&certificate, &key)?)
}

async fn read(
    context: &Context,
    node: &Container,
    path: &str,
) -> Result<Option<zeroize::Zeroizing<String>>, ClusterError> {
    match context.engine.get_archive(&node.id, path, LARGEST_FILE).await {
        Ok(archive) => {
            Ok(first_file(&archive).map(|file| zeroize::Zeroizing::new(String::from_utf8_lossy(&file).into_owned())))
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
