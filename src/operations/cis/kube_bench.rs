//! The real kube-bench, run on every node beside our own check: its binary, put in and removed again, or a Job for each
//! node where an image is given.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use zeroize::Zeroizing;

use crate::adapters::kubernetes::{self, ApiError};
use crate::adapters::node::Node;
use crate::documents::cis::Benchmark;
use crate::documents::cis::comparison::KubeBench;
use crate::documents::files::FileEntry;
use crate::documents::images::whole_name;
use crate::documents::profile::Role;
use crate::operations::cluster::interrupted;

use super::CisError;

/// Runs kube-bench on a node.
const RUN: &str = include_str!("scripts/kube_bench.sh");

/// Runs the one of an image.
const RUN_JOB: &str = include_str!("scripts/kube_bench_job.sh");

/// Where its binary is put. Not below `/run` or `/tmp`, from which nothing can be run in a node.
const FOLDER: &str = "/var/kprov-kube-bench";

/// How long a Job may take, images pulled.
const JOB: Duration = Duration::from_secs(300);

/// How often it is looked whether a Job's pod can ever run.
const LOOK: Duration = Duration::from_millis(500);

/// The Jobs' own namespace, made and removed with them.
const NAMESPACE: &str = "kprov-kube-bench";

/// The role of the Jobs on control planes, its binding, and their service account: section 5 asks the API.
const RIGHTS: &str = "kprov-kube-bench";

/// Where a Job may write.
const OWN_FOLDER: &str = "/kprov";

/// How long a service account of an old Kubernetes may be without its token.
const TOKEN: Duration = Duration::from_secs(10);

/// How long containerd may take until it has given an image that has come its second name.
const SECOND_NAME: Duration = Duration::from_secs(2);

/// What shows that an object is ours: somebody else's, of the same name, is not to be removed.
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

/// Runs kube-bench on every node, with that version of the benchmark, or with the one before the newest where it does not know that
/// yet: the results say which. What it needs on nodes is removed again, whatever comes of it, also if the user has enough.
///
/// # Errors
/// [`CisError::KubeBench`] if it does not run or prints no results; [`CisError`] otherwise.
pub async fn run(
    source: &Source,
    client: &Client,
    nodes: &[Node],
    benchmark: Benchmark,
) -> Result<Vec<(String, KubeBench)>, CisError> {
    let benchmarks = fitting(benchmark);
    let texts = match source {
        Source::Binary(path) => {
            let (benchmark, files) = binary(path, &benchmarks)?;
            let texts = in_nodes(nodes, &files, benchmark).await;
            if texts.is_err() {
                // Otherwise its script has done so.
                join_all(nodes.iter().map(|node| node.run(&["rm", "-rf", FOLDER]))).await;
            }
            texts?
        }
        Source::Archive(path) => {
            let (names, archive) = read_image(path)?;
            let before = images_of(nodes).await?;
            let texts = async {
                load(&archive, nodes).await?;
                unless_interrupted(as_jobs(client, nodes, &benchmarks, &names[0], "Never")).await
            };
            let texts = texts.await;
            let cleaned = clean_up(client).await;
            unload(nodes, &before, &names).await;
            let texts = texts?;
            cleaned?;
            texts
        }
        Source::Image(image) => {
            let names: Vec<String> = whole_name(image).into_iter().collect();
            let before = images_of(nodes).await?;
            let texts = unless_interrupted(as_jobs(client, nodes, &benchmarks, image, "IfNotPresent")).await;
            let cleaned = clean_up(client).await;
            unload(nodes, &before, &names).await;
            let texts = texts?;
            cleaned?;
            texts
        }
    };
    let parsed = texts.into_iter().map(|(node, text)| {
        let results = KubeBench::parse(&text)
            .map_err(|reason| CisError::KubeBench { node: node.clone(), reason: reason.to_owned() })?;
        match results.benchmark().is_some_and(|used| benchmarks.contains(&used)) {
            true => Ok((node, results)),
            false => {
                let reason = format!("it used {:?} instead of {benchmark}", results.version());
                Err(CisError::KubeBench { node, reason })
            }
        }
    });
    parsed.collect()
}

/// The benchmarks that can stand for one, the best first: a kube-bench that does not know the newest one yet has the one before.
fn fitting(benchmark: Benchmark) -> Vec<Benchmark> {
    let before = benchmark.before().filter(|_| benchmark == Benchmark::NEWEST);
    std::iter::once(benchmark).chain(before).collect()
}

/// What comes of it, unless the user has enough before.
async fn unless_interrupted<T>(doing: impl Future<Output = Result<T, CisError>>) -> Result<T, CisError> {
    tokio::select! {
        done = doing => done,
        () = interrupted() => Err(CisError::Interrupted),
    }
}

/// The binary and what it needs of its rules, by the first of the benchmarks that it has rules of.
fn binary(path: &Path, benchmarks: &[Benchmark]) -> Result<(Benchmark, Vec<FileEntry>), CisError> {
    let rules = path.parent().unwrap_or(Path::new(".")).join("cfg");
    let read =
        |path: PathBuf| std::fs::read(&path).map_err(|error| CisError::Rules { path, reason: error.to_string() });
    let has = benchmarks.iter().find(|benchmark| rules.join(benchmark.name()).is_dir());
    let benchmark = *has.unwrap_or(&benchmarks[0]);
    let mut files = vec![FileEntry::new(format!("{FOLDER}/kube-bench"), 0o700, read(path.to_owned())?)];
    files.push(FileEntry::new(format!("{FOLDER}/cfg/config.yaml"), 0o600, read(rules.join("config.yaml"))?));
    for name in ["config", "master", "etcd", "controlplane", "node", "policies"] {
        let file = format!("{benchmark}/{name}.yaml");
        files.push(FileEntry::new(format!("{FOLDER}/cfg/{file}"), 0o600, read(rules.join(&file))?));
    }
    Ok((benchmark, files))
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

/// An archive of an image, and the names that it gives it, of which there is one at least.
fn read_image(path: &Path) -> Result<(Vec<String>, Zeroizing<Vec<u8>>), CisError> {
    let fail = |error: &dyn std::fmt::Display| CisError::Rules { path: path.to_owned(), reason: error.to_string() };
    let archive = std::fs::read(path).map_err(|error| fail(&error))?;
    match image_names(&archive) {
        Some(names) if !names.is_empty() => Ok((names, archive.into())),
        _ => Err(fail(&"it is no archive of an image that has a name")),
    }
}

/// The names of all images that each node has. What is there is not removed afterwards: it is not ours.
async fn images_of(nodes: &[Node]) -> Result<Vec<BTreeSet<String>>, CisError> {
    let list = ["ctr", "--namespace", "k8s.io", "images", "ls", "-q"];
    let lists = try_join_all(nodes.iter().map(|node| node.run(&list))).await?;
    Ok(lists.iter().map(|names| names.lines().map(str::to_owned).collect()).collect())
}

/// Puts an image into every node, whole even if the user has enough: containerd would go on with what it has been sent, and
/// bring in what has just been removed.
async fn load(archive: &Zeroizing<Vec<u8>>, nodes: &[Node]) -> Result<(), CisError> {
    let import = "ctr --namespace k8s.io images import -";
    let feed = |node: &Node| {
        let node = node.clone();
        async move { node.feed("loading kube-bench's image", import, archive.clone()).await }
    };
    let mut loading = pin!(join_all(nodes.iter().map(feed)));
    let loaded = tokio::select! {
        loaded = &mut loading => loaded,
        () = interrupted() => {
            loading.await;
            return Err(CisError::Interrupted);
        }
    };
    loaded.into_iter().collect::<Result<Vec<String>, _>>()?;
    Ok(())
}

/// The names in the manifest of an archive.
fn image_names(archive: &[u8]) -> Option<Vec<String>> {
    for entry in tar::Archive::new(archive).entries().ok()? {
        let entry = entry.ok()?;
        if entry.path().ok()?.to_str() == Some("manifest.json") {
            let manifest: serde_json::Value = serde_json::from_reader(entry).ok()?;
            let tags = manifest.as_array()?.iter().filter_map(|image| image.get("RepoTags")?.as_array()).flatten();
            return Some(tags.filter_map(|name| whole_name(name.as_str()?)).collect());
        }
    }
    None
}

/// Of a list of containerd's images, what was not there before and is one of these, under all the names that it has by now: the part of
/// containerd that the kubelet talks to names each by its checksum, too.
fn came<'l>(
    list: &'l str,
    before: &BTreeSet<String>,
    names: &[String],
    digests: &mut BTreeSet<String>,
) -> Vec<&'l str> {
    let rows = || {
        list.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.nth(1)?))
        })
    };
    let new = rows().filter(|(name, _)| names.iter().any(|one| one == name) && !before.contains(*name));
    digests.extend(new.map(|(_, digest)| digest.to_owned()));
    rows().filter(|(name, digest)| digests.contains(*digest) && !before.contains(*name)).map(|(name, _)| name).collect()
}

/// Removes the image again from each node that had none of its name.
async fn unload(nodes: &[Node], before: &[BTreeSet<String>], names: &[String]) {
    join_all(nodes.iter().zip(before).map(|(node, before)| unload_from(node, before, names))).await;
}

async fn unload_from(node: &Node, before: &BTreeSet<String>, names: &[String]) {
    let ctr = ["ctr", "--namespace", "k8s.io", "images"];
    let mut digests = BTreeSet::new();
    let all = async {
        let mut removed = false;
        loop {
            let Ok(list) = node.run(&[&ctr[..], &["ls"]].concat()).await else { return };
            let found = came(&list, before, names, &mut digests);
            let is_named_twice = found.iter().any(|name| name.starts_with("sha256:"));
            if found.is_empty() {
                return;
            }
            if removed || is_named_twice {
                // With what it consists of, unless somebody else's consists of it, too.
                let _ = node.run(&[&ctr[..], &["rm", "--sync"], &found].concat()).await;
                removed = true;
            } else {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    if tokio::time::timeout(SECOND_NAME, all).await.is_err() {
        // It never got its second name.
        let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| !before.contains(*name)).collect();
        let _ = node.run(&[&ctr[..], &["rm", "--sync"], &names].concat()).await;
    }
}

async fn as_jobs(
    client: &Client,
    nodes: &[Node],
    benchmarks: &[Benchmark],
    image: &str,
    pull: &str,
) -> Result<Vec<(String, String)>, CisError> {
    clean_up(client).await?;
    give_rights(client).await?;
    try_join_all(nodes.iter().enumerate().map(|(index, node)| async move {
        let job = object(job(index, node, benchmarks, image, pull))?;
        one_job(client, node, &job).await
    }))
    .await
}

/// Makes the Jobs' namespace, and what lets those on control planes ask the API what section 5 is about: they may read, and ask
/// what anybody may do.
async fn give_rights(client: &Client) -> Result<(), CisError> {
    let (owner, kprov) = OWNER;
    let labels = json!({owner: kprov});
    let namespace = json!({"metadata": {"name": NAMESPACE, "labels": {
        "pod-security.kubernetes.io/enforce": "privileged", owner: kprov,
    }}});
    make::<Namespace>(Api::all(client.clone()), namespace).await?;
    // The one that each namespace has would be one more that gives its token to pods.
    let default = format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {NAMESPACE}}}, automountServiceAccountToken: false}}"
    );
    kubernetes::apply(client, "kube-bench", &default).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    make(accounts.clone(), json!({"metadata": {"name": RIGHTS, "labels": labels}})).await?;
    let read = json!(["get", "list"]);
    let role = json!({"metadata": {"name": RIGHTS, "labels": labels}, "rules": [
        {"apiGroups": [""], "resources": ["namespaces", "pods", "serviceaccounts"], "verbs": read},
        {"apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterrolebindings", "clusterroles", "rolebindings", "roles"], "verbs": read},
        {"apiGroups": ["policy"], "resources": ["podsecuritypolicies"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
        // `kubectl auth can-i --as=system:authenticated`: a user of whom nobody knows more than of anybody.
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["system:authenticated"], "verbs": ["impersonate"]},
    ]});
    make::<ClusterRole>(Api::all(client.clone()), role).await?;
    let binding = json!({"metadata": {"name": RIGHTS, "labels": labels},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": RIGHTS},
        "subjects": [{"kind": "ServiceAccount", "name": RIGHTS, "namespace": NAMESPACE}]});
    make::<ClusterRoleBinding>(Api::all(client.clone()), binding).await?;
    // Before 1.22, a pod is refused until its service account has a token, and a Job asks again ten seconds later.
    let version = kubernetes::server_version(client).await?;
    let minor = version.split('.').nth(1).and_then(|minor| minor.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor < 22) {
        let has_token = |account: Option<&ServiceAccount>| {
            account.and_then(|account| account.secrets.as_ref()).is_some_and(|secrets| !secrets.is_empty())
        };
        let token = kube::runtime::wait::await_condition(accounts, RIGHTS, has_token);
        // Without one, the Job's own answer says more.
        let _ = tokio::time::timeout(TOKEN, token).await;
    }
    Ok(())
}

async fn make<K>(api: Api<K>, value: serde_json::Value) -> Result<(), CisError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let doing = format!("making kube-bench's {}", K::kind(&()));
    api.create(&PostParams::default(), &object(value)?).await.map_err(ApiError::request(doing))?;
    Ok(())
}

fn object<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, ApiError> {
    serde_json::from_value(value)
        .map_err(|error| ApiError::Manifest { name: "kube-bench".to_owned(), reason: error.to_string() })
}

/// Removes the namespace with all that is in it, and the rights, and waits until the namespace is gone. If one of them is not
/// ours, all stay.
async fn clean_up(client: &Client) -> Result<(), CisError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let (namespace, binding, role) =
        tokio::try_join!(ours(&namespaces, NAMESPACE), ours(&bindings, RIGHTS), ours(&roles, RIGHTS))?;
    if let Some(uid) = binding {
        remove(&bindings, RIGHTS, uid).await?;
    }
    if let Some(uid) = role {
        remove(&roles, RIGHTS, uid).await?;
    }
    let Some(uid) = namespace else { return Ok(()) };
    remove(&namespaces, NAMESPACE, uid).await?;
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

/// The id of an object that is ours, if it is there. One that is not ours is an error.
async fn ours<K>(api: &Api<K>, name: &'static str) -> Result<Option<String>, CisError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let kind = K::kind(&()).into_owned();
    let found = api.get_opt(name).await.map_err(ApiError::request(format!("looking for the {kind} {name}")))?;
    match found {
        Some(found) if is_ours(&found) => Ok(found.uid()),
        Some(_) => Err(CisError::NotOurs { kind, name }),
        None => Ok(None),
    }
}

async fn remove<K>(api: &Api<K>, name: &str, uid: String) -> Result<(), CisError>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        // This one, and none of the same name that has come in its place.
        preconditions: Some(Preconditions { uid: Some(uid), resource_version: None }),
        ..DeleteParams::default()
    };
    let doing = ApiError::request(format!("removing the {} {name}", K::kind(&())));
    api.delete(name, &parameters).await.map_err(doing)?;
    Ok(())
}

fn is_ours(object: &impl ResourceExt) -> bool {
    let (owner, kprov) = OWNER;
    object.labels().get(owner).is_some_and(|value| value == kprov)
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
fn job(index: usize, node: &Node, benchmarks: &[Benchmark], image: &str, pull: &str) -> serde_json::Value {
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
    let of_node =
        paths.iter().enumerate().map(|(at, path)| json!({"name": format!("v{at}"), "hostPath": {"path": path}}));
    let volumes: Vec<_> = of_node.chain([json!({"name": "own", "emptyDir": {}})]).collect();
    let of_node = paths
        .iter()
        .enumerate()
        .map(|(at, path)| json!({"name": format!("v{at}"), "mountPath": path, "readOnly": true}));
    let mounts: Vec<_> = of_node.chain([json!({"name": "own", "mountPath": OWN_FOLDER})]).collect();
    let names = benchmarks.iter().map(|benchmark| benchmark.name()).collect::<Vec<_>>().join(" ");
    let mut command = vec!["/bin/sh", "-c", RUN_JOB, "kube-bench", &names];
    if node.role != Role::ControlPlane {
        command.extend(["--targets", "node"]);
    }
    // What is about the whole cluster is looked at from control planes.
    let (account, token) = if node.role == Role::ControlPlane { (RIGHTS, true) } else { ("default", false) };
    json!({
        "metadata": {"name": format!("kube-bench-{index}"), "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "nodeName": node.name,
            "hostPID": true,
            "restartPolicy": "Never",
            "serviceAccountName": account,
            "automountServiceAccountToken": token,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "kube-bench", "image": image, "imagePullPolicy": pull, "command": command, "volumeMounts": mounts,
                "env": [{"name": "KUBECONFIG", "value": format!("{OWN_FOLDER}/kubeconfig")}],
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
        let namespace = |labels: serde_json::Value| -> Namespace {
            object(json!({"metadata": {"name": NAMESPACE, "labels": labels}})).unwrap()
        };
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
            let job = job(0, &node, &[Benchmark::NEWEST], "i", "Never");
            let pod = &job["spec"]["template"]["spec"];
            // Only those on control planes ask the API.
            assert_eq!(pod["automountServiceAccountToken"], role == Role::ControlPlane);
            job.to_string().matches("/var/lib/etcd").count()
        };
        assert_eq!((mounts(Role::ControlPlane), mounts(Role::Worker)), (2, 0));
    }

    #[test]
    fn a_kube_bench_without_the_newest_benchmark_uses_the_one_before() {
        assert_eq!(fitting(Benchmark::NEWEST), [Benchmark::V2_0, Benchmark::V1_12]);
        assert_eq!(fitting(Benchmark::V1_12), [Benchmark::V1_12]);
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        put("kube-bench");
        put("cfg/config.yaml");
        let rules = |benchmark: &str| {
            for name in ["config", "master", "etcd", "controlplane", "node", "policies"] {
                put(&format!("cfg/{benchmark}/{name}.yaml"));
            }
        };
        let used = || binary(&folder.path().join("kube-bench"), &fitting(Benchmark::NEWEST)).map(|(used, _)| used);
        assert!(matches!(used(), Err(CisError::Rules { path, .. }) if path.ends_with("cfg/cis-2.0/config.yaml")));
        rules("cis-1.12");
        assert_eq!(used().unwrap(), Benchmark::V1_12);
        rules("cis-2.0");
        assert_eq!(used().unwrap(), Benchmark::V2_0);
    }

    #[test]
    fn what_has_come_is_known_under_all_its_names_and_nothing_else_is_taken_for_it() {
        let list = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n\
                    docker.io/library/kb:1 application/vnd sha256:aa 9.9 MiB linux/amd64 -\n\
                    docker.io/library/kb:old application/vnd sha256:aa 9.9 MiB linux/amd64 -\n\
                    registry.k8s.io/pause:3 application/vnd sha256:bb 1 MiB linux/amd64 -\n\
                    sha256:cc application/vnd sha256:aa 9.9 MiB linux/amd64 x=y\n\
                    sha256:dd application/vnd sha256:bb 1 MiB linux/amd64 x=y\n";
        let names = ["docker.io/library/kb:1".to_owned()];
        let found = |before: &[&str]| {
            let before = before.iter().map(|name| (*name).to_owned()).collect();
            came(list, &before, &names, &mut BTreeSet::new()).join(" ")
        };
        let others = ["registry.k8s.io/pause:3", "sha256:dd", "docker.io/library/kb:old"];
        assert_eq!(found(&others), "docker.io/library/kb:1 sha256:cc");
        assert_eq!(found(&[&others[..], &["docker.io/library/kb:1"]].concat()), "", "it was there before");
        assert_eq!(came("", &BTreeSet::new(), &names, &mut BTreeSet::new()), Vec::<&str>::new());
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
        let name = |text: &str| image_names(&archive(text)).unwrap().remove(0);
        assert_eq!(name("kube-bench:1"), "docker.io/library/kube-bench:1");
        assert_eq!(name("aquasec/kube-bench:1"), "docker.io/aquasec/kube-bench:1");
        assert_eq!(name("localhost/kube-bench:1"), "localhost/kube-bench:1");
        assert_eq!(name("kube-bench"), "docker.io/library/kube-bench:latest");
        let two = r#"[{"RepoTags": ["a:1", "b:1"]}, {"RepoTags": null}, {"RepoTags": ["c:1"]}]"#;
        let archive = crate::documents::files::pack(&[FileEntry::new("/manifest.json", 0o644, two)]);
        let library = |name: &str| format!("docker.io/library/{name}");
        assert_eq!(image_names(&archive).unwrap(), ["a:1", "b:1", "c:1"].map(library));
        assert_eq!(image_names(b"nonsense"), None);
    }
}
