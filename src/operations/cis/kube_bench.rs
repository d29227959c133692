//! The real kube-bench, run on every node beside our own check: its binary, put in and removed again, or a Job for each
//! node where an image is given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, PropagationPolicy};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::Node;
use crate::documents::cis::Benchmark;
use crate::documents::cis::comparison::KubeBench;
use crate::documents::files::FileEntry;
use crate::documents::profile::Role;

use super::CisError;

/// Runs kube-bench on a node.
const RUN: &str = include_str!("scripts/kube_bench.sh");

/// Where its binary is put. Not below `/run` or `/tmp`, from which nothing can be run in a node.
const FOLDER: &str = "/var/kprov-kube-bench";

/// How long a Job may take, images pulled.
const JOB: Duration = Duration::from_secs(300);

/// The Jobs' own namespace, made and removed with them.
const NAMESPACE: &str = "kprov-kube-bench";

/// The image that is run if nothing else is said.
pub const DEFAULT_IMAGE: &str = "docker.io/aquasec/kube-bench:v0.15.6";

/// Which kube-bench.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A binary of this host, with its folder `cfg` beside it.
    Binary(PathBuf),
    /// An archive of an image, as `docker save` writes it, and the image's name.
    Archive(PathBuf),
    /// An image that the nodes can pull.
    Image(String),
}

impl Source {
    /// What `text` means: an archive or a binary if there is such a file, an image otherwise.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let path = Path::new(text);
        if path.is_dir() {
            Self::Binary(path.join("kube-bench"))
        } else if path.is_file() && path.extension().is_some_and(|extension| extension == "tar") {
            Self::Archive(path.to_owned())
        } else if path.is_file() {
            Self::Binary(path.to_owned())
        } else {
            Self::Image(text.to_owned())
        }
    }
}

/// Runs kube-bench on every node, with that version of the benchmark.
///
/// # Errors
/// [`CisError::KubeBench`] if it does not run or prints no results; [`CisError`] otherwise.
pub async fn run(
    source: &Source,
    client: &Client,
    nodes: &[Node],
    benchmark: Benchmark,
) -> Result<Vec<(String, KubeBench)>, CisError> {
    let texts = match source {
        Source::Binary(path) => {
            let files = binary(path, benchmark)?;
            try_join_all(nodes.iter().map(|node| in_node(node, &files, benchmark))).await?
        }
        Source::Archive(path) => {
            let image = load(path, nodes).await?;
            let texts = as_jobs(client, nodes, benchmark, &image, "Never").await;
            unload(nodes, &image).await;
            texts?
        }
        Source::Image(image) => as_jobs(client, nodes, benchmark, image, "IfNotPresent").await?,
    };
    let parsed = texts.into_iter().map(|(node, text)| {
        let results = KubeBench::parse(&text)
            .map_err(|reason| CisError::KubeBench { node: node.clone(), reason: reason.to_owned() })?;
        match results.version() == benchmark.name() {
            true => Ok((node, results)),
            false => {
                let reason = format!("it used {:?} instead of {benchmark}", results.version());
                Err(CisError::KubeBench { node, reason })
            }
        }
    });
    parsed.collect()
}

/// The binary and what it needs of its rules.
fn binary(path: &Path, benchmark: Benchmark) -> Result<Vec<FileEntry>, CisError> {
    let rules = path.parent().unwrap_or(Path::new(".")).join("cfg");
    let read =
        |path: PathBuf| std::fs::read(&path).map_err(|error| CisError::Rules { path, reason: error.to_string() });
    let mut files = vec![FileEntry::new(format!("{FOLDER}/kube-bench"), 0o700, read(path.to_owned())?)];
    files.push(FileEntry::new(format!("{FOLDER}/cfg/config.yaml"), 0o600, read(rules.join("config.yaml"))?));
    for name in ["config", "master", "etcd", "controlplane", "node", "policies"] {
        let file = format!("{benchmark}/{name}.yaml");
        files.push(FileEntry::new(format!("{FOLDER}/cfg/{file}"), 0o600, read(rules.join(&file))?));
    }
    Ok(files)
}

async fn in_node(node: &Node, files: &[FileEntry], benchmark: Benchmark) -> Result<(String, String), CisError> {
    node.put_files(files).await?;
    let script = format!("folder={FOLDER}\nbenchmark={benchmark}\n{RUN}");
    Ok((node.name.clone(), node.script("running kube-bench", &script).await?))
}

/// Puts an image into every node; gives its name.
async fn load(path: &Path, nodes: &[Node]) -> Result<String, CisError> {
    let fail = |error: &dyn std::fmt::Display| CisError::Rules { path: path.to_owned(), reason: error.to_string() };
    let archive = std::fs::read(path).map_err(|error| fail(&error))?;
    let image = image_name(&archive).ok_or_else(|| fail(&"it is no archive of an image that has a name"))?;
    let import = "ctr --namespace k8s.io images import -";
    try_join_all(nodes.iter().map(|node| node.feed("loading kube-bench's image", import, archive.clone().into())))
        .await?;
    Ok(image)
}

/// The first name in the manifest of an archive.
fn image_name(archive: &[u8]) -> Option<String> {
    for entry in tar::Archive::new(archive).entries().ok()? {
        let entry = entry.ok()?;
        if entry.path().ok()?.to_str() == Some("manifest.json") {
            let manifest: serde_json::Value = serde_json::from_reader(entry).ok()?;
            let name = manifest.pointer("/0/RepoTags/0")?.as_str()?;
            // containerd's names are whole.
            let first = name.split('/').next().unwrap_or_default();
            return Some(match name.contains('/') {
                true if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
                true => format!("docker.io/{name}"),
                false => format!("docker.io/library/{name}"),
            });
        }
    }
    None
}

/// Removes the image again. What remains is no harm: it is in no registry that anybody pulls from.
async fn unload(nodes: &[Node], image: &str) {
    let remove = async |node: &Node| node.run(&["ctr", "--namespace", "k8s.io", "images", "rm", image]).await;
    join_all(nodes.iter().map(remove)).await;
}

async fn as_jobs(
    client: &Client,
    nodes: &[Node],
    benchmark: Benchmark,
    image: &str,
    pull: &str,
) -> Result<Vec<(String, String)>, CisError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    clean_up(client).await?;
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let namespace = object(json!({"metadata": {"name": NAMESPACE, "labels": labels}}))?;
    namespaces.create(&PostParams::default(), &namespace).await.map_err(ApiError::request("making a namespace"))?;
    let results = try_join_all(nodes.iter().enumerate().map(|(index, node)| async move {
        let job = object(job(index, node, benchmark, image, pull))?;
        one_job(client, node, &job).await
    }))
    .await;
    clean_up(client).await?;
    results
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(value)
        .map_err(|error| ApiError::Manifest { name: "kube-bench".to_owned(), reason: error.to_string() })
}

/// Removes the namespace with all that is in it, and waits until it is gone.
async fn clean_up(client: &Client) -> Result<(), CisError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let doing = || ApiError::request(format!("removing the namespace {NAMESPACE}"));
    if namespaces.get_opt(NAMESPACE).await.map_err(doing())?.is_none() {
        return Ok(());
    }
    let parameters =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    namespaces.delete(NAMESPACE, &parameters).await.map_err(doing())?;
    let gone =
        kube::runtime::wait::await_condition(namespaces, NAMESPACE, |object: Option<&Namespace>| object.is_none());
    match tokio::time::timeout(Duration::from_secs(60), gone).await {
        Ok(Ok(_)) => Ok(()),
        _ => {
            Err(ApiError::NotReady { seconds: 60, pending: vec![format!("the namespace {NAMESPACE} is still there")] }
                .into())
        }
    }
}

/// A Job that sees what kube-bench looks at: the node's processes, files and user names, and tolerates every taint.
fn job(index: usize, node: &Node, benchmark: Benchmark, image: &str, pull: &str) -> serde_json::Value {
    let paths = [
        "/etc/kubernetes",
        "/etc/systemd",
        "/lib/systemd",
        "/etc/cni/net.d",
        "/var/lib/cni",
        "/var/lib/etcd",
        "/var/lib/kubelet",
        "/etc/passwd",
        "/etc/group",
    ];
    let volumes: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(at, path)| json!({"name": format!("v{at}"), "hostPath": {"path": path}}))
        .collect();
    let mounts: Vec<_> = paths
        .iter()
        .enumerate()
        .map(|(at, path)| json!({"name": format!("v{at}"), "mountPath": path, "readOnly": true}))
        .collect();
    let mut command = vec!["kube-bench", "run", "--json", "--benchmark", benchmark.name()];
    if node.role != Role::ControlPlane {
        command.extend(["--targets", "node"]);
    }
    json!({
        "metadata": {"name": format!("kube-bench-{index}"), "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "nodeName": node.name,
            "hostPID": true,
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "kube-bench", "image": image, "imagePullPolicy": pull, "command": command, "volumeMounts": mounts,
            }],
            "volumes": volumes,
        }}},
    })
}

async fn one_job(client: &Client, node: &Node, job: &Job) -> Result<(String, String), CisError> {
    let jobs: Api<Job> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let name = job.name_any();
    jobs.create(&PostParams::default(), job).await.map_err(ApiError::request("making kube-bench's Job"))?;
    let ended = kube::runtime::wait::await_condition(jobs, &name, |job: Option<&Job>| {
        let status = job.and_then(|job| job.status.as_ref());
        status.is_some_and(|status| status.succeeded.unwrap_or(0) + status.failed.unwrap_or(0) > 0)
    });
    let ended = tokio::time::timeout(JOB, ended).await;
    let parameters = ListParams::default().labels(&format!("job-name={name}"));
    let found = pods.list(&parameters).await.map_err(ApiError::request("looking for kube-bench's pod"))?;
    let pod = found.items.into_iter().next();
    let fail = |reason: String| CisError::KubeBench { node: node.name.clone(), reason };
    if !matches!(ended, Ok(Ok(_))) {
        let waiting = pod.as_ref().and_then(|pod| {
            let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
            let waiting = state.waiting.as_ref()?;
            Some(format!("{} {}", waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
        });
        let reason = waiting.unwrap_or_else(|| "nothing is known of its pod".to_owned());
        return Err(fail(format!("its Job has not ended within {} s: {reason}", JOB.as_secs())));
    }
    let pod = pod.ok_or_else(|| fail("its Job has no pod".to_owned()))?;
    let log = pods
        .logs(&pod.name_any(), &LogParams::default())
        .await
        .map_err(ApiError::request("reading kube-bench's log"))?;
    Ok((node.name.clone(), log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_meant_is_told_by_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("kube-bench"), "").unwrap();
        std::fs::write(at("image.tar"), "").unwrap();
        let parse = |path: PathBuf| Source::parse(path.to_str().unwrap());
        assert_eq!(parse(folder.path().to_owned()), Source::Binary(at("kube-bench")));
        assert_eq!(parse(at("kube-bench")), Source::Binary(at("kube-bench")));
        assert_eq!(parse(at("image.tar")), Source::Archive(at("image.tar")));
        assert_eq!(Source::parse(DEFAULT_IMAGE), Source::Image(DEFAULT_IMAGE.to_owned()));
    }

    #[test]
    fn an_archives_image_is_named_as_containerd_names_it() {
        let archive = |name: &str| {
            let manifest = format!("[{{\"RepoTags\": [\"{name}\"]}}]");
            crate::documents::files::pack(&[FileEntry::new("/manifest.json", 0o644, manifest)])
        };
        let name = |text: &str| image_name(&archive(text)).unwrap();
        assert_eq!(name("kube-bench:1"), "docker.io/library/kube-bench:1");
        assert_eq!(name("aquasec/kube-bench:1"), "docker.io/aquasec/kube-bench:1");
        assert_eq!(name("localhost/kube-bench:1"), "localhost/kube-bench:1");
        assert_eq!(image_name(b"nonsense"), None);
    }
}
