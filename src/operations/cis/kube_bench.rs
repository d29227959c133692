//! The real kube-bench, run on every node beside our own check: its binary, put in and removed again, or a Job for each
//! node where an image is given.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use zeroize::Zeroizing;

use crate::adapters::kubernetes::ApiError;
use crate::adapters::node::Node;
use crate::documents::cis::Benchmark;
use crate::documents::cis::comparison::KubeBench;
use crate::documents::files::FileEntry;
use crate::documents::profile::Role;
use crate::operations::cluster::interrupted;

use super::CisError;

/// Runs kube-bench on a node.
const RUN: &str = include_str!("scripts/kube_bench.sh");

/// Where its binary is put. Not below `/run` or `/tmp`, from which nothing can be run in a node.
const FOLDER: &str = "/var/kprov-kube-bench";

/// How long a Job may take, images pulled.
const JOB: Duration = Duration::from_secs(300);

/// How often it is looked whether a Job's pod can ever run.
const LOOK: Duration = Duration::from_millis(500);

/// The Jobs' own namespace, made and removed with them.
const NAMESPACE: &str = "kprov-kube-bench";

/// What shows that the namespace is ours: somebody else's, of the same name, is not to be removed.
const OWNER: (&str, &str) = ("app.kubernetes.io/managed-by", "kprov");

/// Why a pod waits that will never run, however long it is waited for.
const HOPELESS: [&str; 2] = ["InvalidImageName", "ErrImageNeverPull"];

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
    ///
    /// # Errors
    /// [`CisError::Missing`] if there is no such file and it can only have been meant as one.
    pub fn parse(text: &str) -> Result<Self, CisError> {
        let path = Path::new(text);
        let is_archive = path.extension().is_some_and(|extension| extension == "tar");
        if path.is_dir() {
            Ok(Self::Binary(path.join("kube-bench")))
        } else if path.is_file() && is_archive {
            Ok(Self::Archive(path.to_owned()))
        } else if path.is_file() {
            Ok(Self::Binary(path.to_owned()))
        } else if text.is_empty() || is_archive || text.starts_with(['/', '.', '~']) {
            Err(CisError::Missing { path: path.to_owned() })
        } else {
            Ok(Self::Image(text.to_owned()))
        }
    }
}

/// Runs kube-bench on every node, with that version of the benchmark. What it needs there is removed again, whatever comes
/// of it, also if the user has enough.
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
            let texts = in_nodes(nodes, &files, benchmark).await;
            if texts.is_err() {
                // Otherwise its script has done so.
                join_all(nodes.iter().map(|node| node.run(&["rm", "-rf", FOLDER]))).await;
            }
            texts?
        }
        Source::Archive(path) => {
            let (image, archive) = read_image(path)?;
            let without = without_image(nodes, &image).await?;
            let texts = unless_interrupted(async {
                load(&archive, nodes).await?;
                as_jobs(client, nodes, benchmark, &image, "Never").await
            })
            .await;
            let cleaned = clean_up(client).await;
            unload(&without, &image).await;
            let texts = texts?;
            cleaned?;
            texts
        }
        Source::Image(image) => {
            let texts = unless_interrupted(as_jobs(client, nodes, benchmark, image, "IfNotPresent")).await;
            let cleaned = clean_up(client).await;
            let texts = texts?;
            cleaned?;
            texts
        }
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

/// What comes of it, unless the user has enough before.
async fn unless_interrupted<T>(doing: impl Future<Output = Result<T, CisError>>) -> Result<T, CisError> {
    tokio::select! {
        done = doing => done,
        () = interrupted() => Err(CisError::Interrupted),
    }
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

/// Puts the files into every node, and runs it there.
async fn in_nodes(
    nodes: &[Node],
    files: &[FileEntry],
    benchmark: Benchmark,
) -> Result<Vec<(String, String)>, CisError> {
    let mut putting = pin!(join_all(nodes.iter().map(|node| node.put_files(files))));
    let put = tokio::select! {
        put = &mut putting => put,
        () = interrupted() => {
            // An engine goes on unpacking what it has been sent: removed before its end, the files would come back.
            putting.await;
            return Err(CisError::Interrupted);
        }
    };
    put.into_iter().collect::<Result<Vec<()>, _>>()?;
    let script = format!("folder={FOLDER}\nbenchmark={benchmark}\n{RUN}");
    let run = async |node: &Node| Ok((node.name.clone(), node.script("running kube-bench", &script).await?));
    unless_interrupted(try_join_all(nodes.iter().map(run))).await
}

/// An archive of an image, and the image's name.
fn read_image(path: &Path) -> Result<(String, Zeroizing<Vec<u8>>), CisError> {
    let fail = |error: &dyn std::fmt::Display| CisError::Rules { path: path.to_owned(), reason: error.to_string() };
    let archive = std::fs::read(path).map_err(|error| fail(&error))?;
    let image = image_name(&archive).ok_or_else(|| fail(&"it is no archive of an image that has a name"))?;
    Ok((image, archive.into()))
}

/// The nodes that have no image of that name. From the others it is not removed afterwards: it is not ours.
async fn without_image(nodes: &[Node], image: &str) -> Result<Vec<Node>, CisError> {
    let list = ["ctr", "--namespace", "k8s.io", "images", "ls", "-q"];
    let lists = try_join_all(nodes.iter().map(|node| node.run(&list))).await?;
    let without = nodes.iter().zip(lists).filter(|(_, names)| !names.lines().any(|name| name == image));
    Ok(without.map(|(node, _)| node.clone()).collect())
}

/// Puts an image into every node.
async fn load(archive: &Zeroizing<Vec<u8>>, nodes: &[Node]) -> Result<(), CisError> {
    let import = "ctr --namespace k8s.io images import -";
    try_join_all(nodes.iter().map(|node| node.feed("loading kube-bench's image", import, archive.clone()))).await?;
    Ok(())
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
    let (owner, kprov) = OWNER;
    let labels = json!({"pod-security.kubernetes.io/enforce": "privileged", owner: kprov});
    let namespace = object(json!({"metadata": {"name": NAMESPACE, "labels": labels}}))?;
    namespaces.create(&PostParams::default(), &namespace).await.map_err(ApiError::request("making a namespace"))?;
    try_join_all(nodes.iter().enumerate().map(|(index, node)| async move {
        let job = object(job(index, node, benchmark, image, pull))?;
        one_job(client, node, &job).await
    }))
    .await
}

fn object<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(value)
        .map_err(|error| ApiError::Manifest { name: "kube-bench".to_owned(), reason: error.to_string() })
}

/// Removes the namespace with all that is in it, and waits until it is gone. One that is not ours stays.
async fn clean_up(client: &Client) -> Result<(), CisError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let doing = || ApiError::request(format!("removing the namespace {NAMESPACE}"));
    let Some(found) = namespaces.get_opt(NAMESPACE).await.map_err(doing())? else { return Ok(()) };
    if !is_ours(&found) {
        return Err(CisError::Namespace { namespace: NAMESPACE });
    }
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        // This one, and none of the same name that has come in its place.
        preconditions: Some(Preconditions { uid: found.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
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

fn is_ours(namespace: &Namespace) -> bool {
    let (owner, kprov) = OWNER;
    namespace.labels().get(owner).is_some_and(|value| value == kprov)
}

/// Why a pod's container waits: the reason, and what there is to say about it.
fn waiting(pod: &Pod) -> Option<(&str, String)> {
    let state = pod.status.as_ref()?.container_statuses.as_ref()?.first()?.state.as_ref()?;
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    Some((reason, format!("{reason} {}", waiting.message.as_deref().unwrap_or_default())))
}

/// Why a pod will never run, if so.
fn hopeless(pod: &Pod) -> Option<String> {
    waiting(pod).filter(|(reason, _)| HOPELESS.contains(reason)).map(|(_, text)| text)
}

/// A Job that sees what kube-bench looks at: the node's processes, files and user names, and tolerates every taint.
fn job(index: usize, node: &Node, benchmark: Benchmark, image: &str, pull: &str) -> serde_json::Value {
    let paths = [
        "/etc/kubernetes",
        "/etc/systemd",
        "/lib/systemd",
        "/etc/cni/net.d",
        "/var/lib/cni",
        "/var/lib/kubelet",
        "/etc/passwd",
        "/etc/group",
        // Only where etcd is: the runtime would make the folder elsewhere, and leave it.
        "/var/lib/etcd",
    ];
    let paths = if node.role == Role::ControlPlane { &paths[..] } else { &paths[..paths.len() - 1] };
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
    let parameters = ListParams::default().labels(&format!("job-name={name}"));
    let fail = |reason: String| CisError::KubeBench { node: node.name.clone(), reason };
    let in_vain = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let Ok(found) = pods.list(&parameters).await else { continue };
            if let Some(reason) = found.items.iter().find_map(hopeless) {
                return reason;
            }
        }
    };
    let ended = tokio::select! {
        ended = tokio::time::timeout(JOB, ended) => ended,
        reason = in_vain => return Err(fail(format!("its Job cannot run: {reason}"))),
    };
    let found = pods.list(&parameters).await.map_err(ApiError::request("looking for kube-bench's pod"))?;
    let pod = found.items.into_iter().next();
    if !matches!(ended, Ok(Ok(_))) {
        let waiting = pod.as_ref().and_then(waiting).map(|(_, text)| text);
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
        let parse = |path: PathBuf| Source::parse(path.to_str().unwrap()).unwrap();
        assert_eq!(parse(folder.path().to_owned()), Source::Binary(at("kube-bench")));
        assert_eq!(parse(at("kube-bench")), Source::Binary(at("kube-bench")));
        assert_eq!(parse(at("image.tar")), Source::Archive(at("image.tar")));
        assert_eq!(Source::parse(DEFAULT_IMAGE).unwrap(), Source::Image(DEFAULT_IMAGE.to_owned()));
    }

    #[test]
    fn a_file_that_is_not_there_is_not_taken_for_an_image() {
        for text in ["/nowhere/kube-bench", "./kube-bench", "../kb.tar", "kube-bench.tar", "~/kube-bench", ""] {
            assert!(matches!(Source::parse(text), Err(CisError::Missing { .. })), "{text}");
        }
    }

    #[test]
    fn only_a_namespace_of_kprovs_is_its_own() {
        let namespace =
            |labels: serde_json::Value| object(json!({"metadata": {"name": NAMESPACE, "labels": labels}})).unwrap();
        assert!(is_ours(&namespace(json!({"app.kubernetes.io/managed-by": "kprov"}))));
        for other in [json!({}), json!({"app.kubernetes.io/managed-by": "helm"})] {
            assert!(!is_ours(&namespace(other)));
        }
    }

    #[test]
    fn etcds_folder_is_looked_at_where_it_is() {
        let (_folder, engine) = crate::adapters::engine::Engine::silent();
        let mounts = |role| {
            let node = Node::new(engine.clone(), "n", role);
            job(0, &node, Benchmark::NEWEST, "i", "Never").to_string().matches("/var/lib/etcd").count()
        };
        assert_eq!((mounts(Role::ControlPlane), mounts(Role::Worker)), (2, 0));
    }

    #[test]
    fn what_can_never_run_is_told_from_what_waits() {
        let pod = |reason: &str| -> Pod {
            let state = json!({"waiting": {"reason": reason, "message": "why"}});
            let container =
                json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            object(json!({"metadata": {}, "status": {"containerStatuses": [container]}})).unwrap()
        };
        assert_eq!(hopeless(&pod("InvalidImageName")).as_deref(), Some("InvalidImageName why"));
        for reason in ["ContainerCreating", "ImagePullBackOff"] {
            assert_eq!(hopeless(&pod(reason)), None, "{reason}");
        }
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
