//! Reading a cluster's state out of its running nodes.
//!
//! Consistent because etcd stands still while it is copied, on all control planes at once: what is
//! read is what a power failure would have left at that moment, which etcd is made to start from.

use std::time::Duration;

use futures_util::future::try_join_all;
use zeroize::Zeroizing;

use crate::adapters::node::{Node, NodeError};
use crate::adapters::states::SnapshotError;
use crate::documents::keys::{KeyRing, StoredKeys};
use crate::documents::profile::Role;
use crate::documents::record::Record;
use crate::documents::snapshot::{Blob, Draft, NodeState, StateManifest, pack, pack_canonical};

use super::{ClusterError, Context, NETWORK};

/// What makes a node that node, beyond its image: shell patterns below `/`.
///
/// Left out is what a node makes anew by itself: pods, their sandboxes, volumes and addresses, sockets,
/// logs, the kubelet's notes about containers that are no more.
const FILES: &str = "\
etc/kubernetes
etc/cni/net.d
etc/containerd
etc/default/kubelet
etc/systemd/system/kubelet.service.d
usr/lib/systemd/system/kubelet.service.d
kind/kubeadm.conf
kind/old-ipv4
kind/old-ipv6
kind/product_uuid
var/lib/kubelet/*.yaml
var/lib/kubelet/*.env
var/lib/kubelet/pki
var/lib/etcd
var/local-path-provisioner
opt/local-path-provisioner";

/// For how long a control plane may stand still before it goes on by itself, should kprov be gone.
const STANDSTILL_SECONDS: u32 = 8;

/// How long reading a node's files or images may take: they may be many gigabytes.
pub(super) const LONG: Duration = Duration::from_secs(3600);

/// Finds processes by name without starting any.
const PIDS: &str = "pids() { for p in /proc/[0-9]*; do read -r name < $p/comm || continue; \
                    if [ \"$name\" = \"$1\" ]; then echo \"${p#/proc/}\"; fi; done 2>/dev/null; }; \
                    leaders=\"$(pids kube-controller) $(pids kube-scheduler)\"; etcd=$(pids etcd); ";

/// Brings the leaders to a halt, takes away their leases (a state in which nobody leads is one in which nobody
/// has to be waited for), then brings etcd to a halt.
fn halt() -> String {
    format!(
        "{PIDS} [ -n \"$etcd\" ] || {{ echo 'etcd does not run' >&2; exit 69; }}; \
         setsid sh -c \"sleep {STANDSTILL_SECONDS}; kill -CONT $leaders $etcd\" >/dev/null 2>&1 </dev/null & \
         kill -STOP $leaders 2>/dev/null || true; \
         c=$(ctr -n k8s.io containers ls -q 'labels.\"io.kubernetes.container.name\"==etcd' | while read -r c; do \
           if ctr -n k8s.io tasks ls | grep -q \"^$c .*RUNNING\"; then echo \"$c\"; fi; done | head -n 1); \
         ctr -n k8s.io tasks exec --exec-id \"kprov-$(cat /proc/sys/kernel/random/uuid)\" \"$c\" etcdctl \
           --endpoints=https://127.0.0.1:2379 --cacert=/etc/kubernetes/pki/etcd/ca.crt \
           --cert=/etc/kubernetes/pki/etcd/server.crt --key=/etc/kubernetes/pki/etcd/server.key \
           del --prefix /registry/leases/kube-system/kube- >/dev/null 2>&1 </dev/null || true; \
         kill -STOP $etcd; \
         for t in $(for p in $etcd; do echo /proc/$p/task/*; done); do n=0; \
           while read -r _ _ state _ < $t/stat && [ \"$state\" != T ] && [ $n -lt 1000 ]; do n=$((n+1)); done; \
         done 2>/dev/null; "
    )
}

/// Where etcd's log is.
const LOG: &str = "var/lib/etcd/member/wal";

/// Copies the files to memory, so that etcd stands still no longer than that takes. Its log by itself, without the 64 MB
/// of zeros that each of its files reserves: tar takes files for what they occupy.
fn copy() -> String {
    format!(
        "umask 077; cd /; set --; for p in {files}; do if [ -e \"$p\" ]; then set -- \"$@\" \"$p\"; fi; done; \
         if [ -d {LOG} ]; then rm -rf /run/kprov-log; mkdir /run/kprov-log; \
           cp --preserve=mode,ownership,timestamps --sparse=always {LOG}/*.wal /run/kprov-log; \
           set -- \"$@\" --directory=/run; for p in {LOG}/*.wal; do set -- \"$@\" \"kprov-log/${{p##*/}}\"; done; fi; \
         code=0; tar --create --file=/run/kprov-state.tar --format=gnu --sparse --hole-detection=raw --numeric-owner \
           --hard-dereference --exclude='{LOG}/*' --transform='s,^kprov-log/,{LOG}/,' \"$@\" \
           2>/run/kprov-state.err || code=$?; rm -rf /run/kprov-log; \
         if [ $code -gt 1 ]; then cat /run/kprov-state.err >&2; exit $code; fi; ",
        files = FILES.replace('\n', " ")
    )
}

const RESUME: &str = "kill -CONT $etcd $leaders 2>/dev/null || true; ";

/// Hands the copy out.
const HAND_OUT: &str = "cat /run/kprov-state.tar; rm -f /run/kprov-state.tar /run/kprov-state.err";

/// Reads the whole state of a cluster. The caller holds its lock.
///
/// # Errors
/// [`ClusterError`]; the cluster then runs as before.
pub(super) async fn capture(
    context: &Context,
    record: &Record,
    keys: Option<&KeyRing>,
    nodes: &[Node],
) -> Result<Draft, ClusterError> {
    let network = context.engine.network(NETWORK).await?;
    let archives = read_nodes(nodes).await?;
    let mut blobs = Vec::new();
    let mut states = Vec::new();
    for (node, raw) in nodes.iter().zip(archives) {
        let name = node.name.clone();
        let packed = tokio::task::spawn_blocking(move || pack_canonical(&raw))
            .await
            .map_err(|error| error.to_string())
            .and_then(|packed| packed)
            .map_err(|reason| SnapshotError::Archive { node: name.clone(), reason })?;
        let archive = Blob::of(&packed);
        blobs.push((archive.clone(), packed));
        states.push(NodeState { name, archive, images: None });
    }
    let keys = keys.map(|keys| {
        let bytes = Zeroizing::new(serde_json::to_vec(&StoredKeys::from(keys)).expect("plain data with text keys"));
        let blob = Blob::of(&bytes);
        blobs.push((blob.clone(), bytes));
        blob
    });
    let manifest = StateManifest {
        format: StateManifest::FORMAT,
        kprov: env!("CARGO_PKG_VERSION").to_owned(),
        created: k8s_openapi::jiff::Timestamp::now().as_second(),
        record: record.clone(),
        subnets: network.into_iter().flat_map(|network| network.subnets).map(|subnet| subnet.to_string()).collect(),
        keys,
        nodes: states,
    };
    Ok(Draft { manifest, blobs })
}

async fn read_nodes(nodes: &[Node]) -> Result<Vec<Zeroizing<Vec<u8>>>, ClusterError> {
    let control_planes: Vec<&Node> = nodes.iter().filter(|node| node.role == Role::ControlPlane).collect();
    let several = control_planes.len() > 1;
    let run = async |node: &Node, script: String| -> Result<Zeroizing<Vec<u8>>, NodeError> {
        let script = format!("set -eu; {script}");
        match node.patient(LONG).output(&["sh", "-c", &script], None).await {
            Ok(output) => Ok(output.stdout),
            // The script itself says nothing to a reader.
            Err(NodeError::Command { node, code, last_lines, .. }) => {
                Err(NodeError::Command { node, command: "reading its state".to_owned(), code, last_lines })
            }
            Err(error) => Err(error),
        }
    };
    if !several {
        return Ok(try_join_all(nodes.iter().map(|node| {
            let script = match node.role {
                Role::ControlPlane => {
                    let resume = format!("trap '{RESUME}' EXIT; ");
                    format!("{PIDS}{resume}{}{}{RESUME}{HAND_OUT}", halt(), copy())
                }
                Role::Worker => format!("{}{HAND_OUT}", copy()),
            };
            run(node, script)
        }))
        .await?);
    }
    // All stand still before any is copied, and go on only when all are: a moment that all have in common.
    let copied = async {
        try_join_all(control_planes.iter().map(|node| run(node, halt()))).await?;
        try_join_all(nodes.iter().map(|node| run(node, copy()))).await
    }
    .await;
    let resumed = try_join_all(control_planes.iter().map(|node| run(node, format!("{PIDS}{RESUME}")))).await;
    copied?;
    resumed?;
    Ok(try_join_all(nodes.iter().map(|node| run(node, HAND_OUT.to_owned()))).await?)
}

/// The images that were loaded into a node since it was made, packed; `None` if there are none. `built_in` is
/// containerd's database in the node's own image.
pub(super) async fn loaded_images(node: &Node, built_in: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>, ClusterError> {
    let list = node.run(&["ctr", "--namespace", "k8s.io", "images", "ls"]).await?;
    let loaded = loaded(&list, built_in);
    if loaded.is_empty() {
        return Ok(None);
    }
    let mut command = vec!["ctr", "--namespace", "k8s.io", "images", "export", "-"];
    command.extend(loaded);
    let tar = node.patient(LONG).output(&command, None).await?.stdout;
    let packed = tokio::task::spawn_blocking(move || pack(&tar)).await.map_err(|error| error.to_string());
    let packed = packed
        .and_then(|packed| packed)
        .map_err(|reason| SnapshotError::Archive { node: node.name.clone(), reason })?;
    Ok(Some(packed))
}

/// Of the lines of `ctr images ls` (name, type, digest, ...), the names of those images whose name or digest
/// `built_in` does not hold. Names by digest alone are left out: they come with the image that they belong to.
fn loaded<'a>(list: &'a str, built_in: &[u8]) -> Vec<&'a str> {
    let holds = |text: &str| built_in.windows(text.len()).any(|window| window == text.as_bytes());
    list.lines()
        .skip(1)
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, digest) = (words.next()?, words.nth(1)?);
            let by_tag = !name.starts_with("sha256:") && !name.contains('@');
            (by_tag && !(holds(name) && holds(digest))).then_some(name)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_of_the_nodes_own_image_do_not_count() {
        let list = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
            docker.io/a:1 application/x sha256:11 1MiB linux/amd64 -\n\
            docker.io/b:1 application/x sha256:22 1MiB linux/amd64 -\n\
            docker.io/c:1 application/x sha256:33 1MiB linux/amd64 -\n\
            sha256:44 application/x sha256:33 1MiB linux/amd64 -\n";
        assert_eq!(
            loaded(list, b"..docker.io/a:1..sha256:11..docker.io/b:1..sha256:99"),
            ["docker.io/b:1", "docker.io/c:1"]
        );
    }
}
