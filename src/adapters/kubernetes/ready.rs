//! Whether a cluster is ready: every node, and every system pod.
//!
//! Conditions are watched, not polled. [`pending`] is the one definition of "ready"; it is
//! pure, so that it can be tested without a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::adapters::node::Running;

use super::ApiError;

/// The namespaces whose pods belong to the system, as kubeadm and kind use them.
pub const SYSTEM_NAMESPACES: [&str; 2] = ["kube-system", "local-path-storage"];

/// The static pods of a control plane.
pub const STATIC_PODS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// How young evidence has to be. Whatever is compared with is a time by the nodes' clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Since {
    /// It may be of any age.
    #[default]
    Ever,
    /// Younger than this.
    Then(Timestamp),
    /// Younger than the start of the node that it tells of; by the nodes' names.
    Starts(BTreeMap<String, Timestamp>),
}

impl Since {
    fn of(&self, node: &str) -> Option<Timestamp> {
        match self {
            Self::Ever => None,
            Self::Then(then) => Some(*then),
            Self::Starts(starts) => starts.get(node).copied(),
        }
    }

    /// Where a pod is, that is.
    fn of_pod(&self, pod: &Pod) -> Option<Timestamp> {
        self.of(pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default())
    }
}

/// What has to be there.
#[derive(Debug, Clone, Default)]
pub struct Expectation {
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// Those of them that run static pods.
    pub control_planes: Vec<String>,
    /// Whether system pods count, or nodes only.
    pub pods: bool,
    /// How young evidence has to be.
    pub since: Since,
    /// What need not be ready, as [`not_ready`] names it.
    pub except: Vec<String>,
    /// What runs of static pods, by [`not_ready`]'s names. Such a pod is ready only where the API shows that very container,
    /// in the pod of that very manifest: what it says of others is from before a restart, and is about to go.
    pub running: BTreeMap<String, Running>,
}

/// What the API server shows.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// All pods, of whichever namespace.
    pub pods: Vec<Arc<Pod>>,
    /// All DaemonSets.
    pub daemon_sets: Vec<Arc<DaemonSet>>,
    /// All Deployments.
    pub deployments: Vec<Arc<Deployment>>,
}

/// Something that is missing.
struct Missing {
    /// What, by kind and name.
    what: String,
    /// Whose it is, if a DaemonSet or Deployment has made it.
    owner: Option<String>,
    /// Why, as a line.
    line: String,
}

impl Missing {
    fn new(what: impl Into<String>, line: impl std::fmt::Display) -> Self {
        let what = what.into();
        Self { line: format!("{what}{line}"), what, owner: None }
    }
}

/// What is still missing, a line each; empty if the cluster is ready.
#[must_use]
pub fn pending(expected: &Expectation, observed: &Observed) -> Vec<String> {
    let is_excepted = |what: &String| expected.except.contains(what);
    let asked = |missing: &Missing| !is_excepted(&missing.what) && !missing.owner.as_ref().is_some_and(is_excepted);
    missing(expected, observed).into_iter().filter(asked).map(|missing| missing.line).collect()
}

/// What is missing, by kind and name; what belongs to a DaemonSet or Deployment that is missing is left out.
#[must_use]
pub fn not_ready(expected: &Expectation, observed: &Observed) -> Vec<String> {
    let missing = missing(expected, observed);
    let all: BTreeSet<String> = missing.iter().map(|missing| missing.what.clone()).collect();
    let foremost =
        missing.into_iter().filter(|missing| !missing.owner.as_ref().is_some_and(|owner| all.contains(owner)));
    foremost.map(|missing| missing.what).collect()
}

/// What was not ready when it was last seen before `since`, by kind and name: nothing has made it ready after. With the
/// DaemonSet or Deployment that it belongs to.
#[must_use]
pub fn not_ready_before(since: &Since, observed: &Observed) -> Vec<String> {
    let since_before = |pod: &&Arc<Pod>| {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let changed = match conditions.iter().find(|condition| condition.type_ == "Ready") {
            Some(ready) => ready.last_transition_time.as_ref(),
            None => pod.metadata.creation_timestamp.as_ref(),
        };
        let since = since.of_pod(pod);
        changed.zip(since).is_some_and(|(changed, since)| changed.0.as_second() < since.as_second())
    };
    let of_system =
        |pod: &&Arc<Pod>| pod.namespace().is_some_and(|namespace| SYSTEM_NAMESPACES.contains(&namespace.as_str()));
    let waiting = observed.pods.iter().filter(of_system).filter(|pod| pod_pending(pod, None).is_some());
    let names = waiting.filter(since_before).flat_map(|pod| [Some(format!("pod {}", pod.name_any())), owner(pod)]);
    names.flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

/// Looks at everything once.
///
/// # Errors
/// [`ApiError::Request`] if the API server does not answer.
pub async fn observe(client: &Client) -> Result<Observed, ApiError> {
    async fn all<K>(client: &Client) -> Result<Vec<Arc<K>>, ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let api: Api<K> = Api::all(client.clone());
        let doing = format!("listing every {}", K::kind(&()));
        let list = api.list(&ListParams::default()).await.map_err(ApiError::request(doing))?;
        Ok(list.items.into_iter().map(Arc::new).collect())
    }
    let (nodes, pods, daemon_sets, deployments) =
        tokio::try_join!(all::<Node>(client), all::<Pod>(client), all::<DaemonSet>(client), all::<Deployment>(client))?;
    Ok(Observed { nodes, pods, daemon_sets, deployments })
}

fn missing(expected: &Expectation, observed: &Observed) -> Vec<Missing> {
    let mut pending = Vec::new();
    for name in &expected.nodes {
        match observed.nodes.iter().find(|node| node.name_any() == *name) {
            None => pending.push(Missing::new(format!("node {name}"), " has not registered")),
            Some(node) => {
                if let Some(reason) = node_pending(node, expected.since.of(name)) {
                    pending.push(Missing::new(format!("node {name}"), format!(" {reason}")));
                }
            }
        }
    }
    if !expected.pods {
        return pending;
    }
    let system =
        |namespace: Option<String>| namespace.is_some_and(|namespace| SYSTEM_NAMESPACES.contains(&namespace.as_str()));
    for set in observed.daemon_sets.iter().filter(|set| system(set.namespace())) {
        let status = set.status.clone().unwrap_or_default();
        let observed_generation = status.observed_generation.unwrap_or_default();
        if observed_generation < set.metadata.generation.unwrap_or_default()
            || status.desired_number_scheduled < expected_pods(set, &observed.nodes)
            || status.number_ready < status.desired_number_scheduled
        {
            let wanted = status.desired_number_scheduled.max(expected_pods(set, &observed.nodes));
            let line = format!(": {} of {wanted} pods ready", status.number_ready);
            pending.push(Missing::new(format!("DaemonSet {}", set.name_any()), line));
        }
    }
    for deployment in observed.deployments.iter().filter(|deployment| system(deployment.namespace())) {
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        let ready = status.ready_replicas.unwrap_or_default();
        if status.observed_generation.unwrap_or_default() < deployment.metadata.generation.unwrap_or_default()
            || ready < wanted
        {
            let line = format!(": {ready} of {wanted} pods ready");
            pending.push(Missing::new(format!("Deployment {}", deployment.name_any()), line));
        }
    }
    let pods: Vec<_> = observed.pods.iter().filter(|pod| system(pod.namespace())).collect();
    for node in &expected.control_planes {
        for component in STATIC_PODS {
            let name = format!("{component}-{node}");
            if !pods.iter().any(|pod| pod.name_any() == name) {
                pending.push(Missing {
                    line: format!("static pod {name} is not there"),
                    ..Missing::new(format!("pod {name}"), "")
                });
            }
        }
    }
    for pod in pods {
        let what = format!("pod {}", pod.name_any());
        let old = || expected.running.get(&what).filter(|running| !shows(pod, running));
        let reason = pod_pending(pod, expected.since.of_pod(pod))
            .or_else(|| old().map(|_| "is still shown as it was before its restart".to_owned()));
        if let Some(reason) = reason {
            pending.push(Missing { owner: owner(pod), ..Missing::new(what, format!(" {reason}")) });
        }
    }
    pending
}

/// The annotation by which a kubelet tells of which manifest a pod in the API is the image.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether what runs is what the API shows of a static pod.
fn shows(pod: &Pod, running: &Running) -> bool {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let mut shown = containers.filter_map(|container| container.container_id.as_deref());
    shown.any(|shown| shown.rsplit('/').next() == Some(running.container.as_str()))
        && pod.annotations().get(MIRROR).is_some_and(|hash| *hash == running.pod)
}

/// The DaemonSet or Deployment that a pod belongs to.
fn owner(pod: &Pod) -> Option<String> {
    let owner = pod.owner_references().first()?;
    match owner.kind.as_str() {
        "DaemonSet" => Some(format!("DaemonSet {}", owner.name)),
        // Called after its Deployment, and a hash of the pods' template.
        "ReplicaSet" => Some(format!("Deployment {}", owner.name.rsplit_once('-')?.0)),
        _ => None,
    }
}

/// How many nodes a DaemonSet has to be on: all that its node selector takes. Its taints are its own affair,
/// since those of the system tolerate everything.
fn expected_pods(set: &DaemonSet, nodes: &[Arc<Node>]) -> i32 {
    let selector = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.spec.as_ref())
        .and_then(|spec| spec.node_selector.clone())
        .unwrap_or_default();
    let fits = |node: &&Arc<Node>| selector.iter().all(|(key, value)| node.labels().get(key) == Some(value));
    i32::try_from(nodes.iter().filter(fits).count()).unwrap_or(i32::MAX)
}

fn node_pending(node: &Node, since: Option<Timestamp>) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let Some(ready) = conditions.iter().find(|condition| condition.type_ == "Ready") else {
        return Some("has reported nothing".to_owned());
    };
    if ready.status != "True" {
        return Some(format!("is not Ready: {}", ready.message.as_deref().unwrap_or("no reason given")));
    }
    let heartbeat = ready.last_heartbeat_time.as_ref().map(|time| time.0);
    is_stale(heartbeat, since).then(|| "has not reported since".to_owned())
}

fn pod_pending(pod: &Pod, since: Option<Timestamp>) -> Option<String> {
    let status = pod.status.as_ref()?;
    // A pod that has done its work is not waited for.
    if status.phase.as_deref() == Some("Succeeded") {
        return None;
    }
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    if ready.is_none_or(|ready| ready.status != "True") {
        let waiting = status.container_statuses.iter().flatten().find_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            Some(format!("{}: {}", container.name, waiting.reason.as_deref().unwrap_or("waiting")))
        });
        let phase = status.phase.clone().unwrap_or_else(|| "Unknown".to_owned());
        return Some(format!("is not Ready ({})", waiting.unwrap_or(phase)));
    }
    let started = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|container| container.state.as_ref()?.running.as_ref()?.started_at.as_ref().map(|time| time.0));
    // The API's times are whole seconds, rounded down.
    is_stale(started.min(), since).then(|| "has not been started since".to_owned())
}

fn is_stale(evidence: Option<Timestamp>, since: Option<Timestamp>) -> bool {
    since.is_some_and(|since| evidence.is_none_or(|evidence| evidence.as_second() < since.as_second()))
}

/// Whether each node that the API knows is Ready.
///
/// # Errors
/// [`ApiError::Request`] if the API server cannot be asked.
pub async fn nodes(client: &Client) -> Result<BTreeMap<String, bool>, ApiError> {
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await;
    let nodes = nodes.map_err(ApiError::request("listing the nodes"))?;
    Ok(nodes.items.iter().map(|node| (node.name_any(), node_pending(node, None).is_none())).collect())
}

/// The ids of the pods that kubelets get from the API, by the names of their nodes: neither static ones nor those that have
/// done their work.
///
/// # Errors
/// [`ApiError::Request`] if the API server cannot be asked.
pub async fn assigned(client: &Client) -> Result<BTreeMap<String, BTreeSet<String>>, ApiError> {
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await;
    Ok(assigned_of(&pods.map_err(ApiError::request("listing the pods"))?.items))
}

fn assigned_of(pods: &[Pod]) -> BTreeMap<String, BTreeSet<String>> {
    let mut assigned = BTreeMap::<String, BTreeSet<String>>::new();
    for pod in pods.iter().filter(|pod| !pod.annotations().contains_key(MIRROR)) {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        if let (Some(node), Some(id), false) = (node, pod.uid(), ["Succeeded", "Failed"].contains(&phase)) {
            assigned.entry(node).or_default().insert(id);
        }
    }
    assigned
}

/// What a kubelet says of a container that it cannot start, before it has read which services there are
/// (pkg/kubelet/kubelet_pods.go, `makeEnvironmentVariables`).
const NO_SERVICES: &str = "services have not yet been read";

/// The nodes whose kubelets say that they do not know yet which services there are, without which they start no container
/// of a pod that is not static.
///
/// # Errors
/// [`ApiError::Request`] if the API server cannot be asked.
pub async fn without_services(client: &Client) -> Result<BTreeSet<String>, ApiError> {
    let pods = Api::<Pod>::all(client.clone()).list(&ListParams::default()).await;
    Ok(without_services_of(&pods.map_err(ApiError::request("listing the pods"))?.items))
}

fn without_services_of(pods: &[Pod]) -> BTreeSet<String> {
    let says_so = |pod: &&Pod| {
        let status = pod.status.iter();
        let containers = status.flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
        let waiting = containers.flatten().flatten().filter_map(|container| container.state.as_ref()?.waiting.as_ref());
        waiting.filter_map(|waiting| waiting.message.as_ref()).any(|message| message.contains(NO_SERVICES))
    };
    pods.iter().filter(says_so).filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect()
}

/// Watches the cluster until nothing is pending any more. `observe` gets what is pending at each change.
///
/// # Errors
/// [`ApiError::NotReady`] with what is pending after `timeout`.
pub async fn wait(
    client: &Client,
    expected: &Expectation,
    timeout: Duration,
    mut observe: impl FnMut(&[String]),
) -> Result<(), ApiError> {
    let (nodes, node_events) = reflect::<Node>(client);
    let (pods, pod_events) = reflect::<Pod>(client);
    let (daemon_sets, daemon_set_events) = reflect::<DaemonSet>(client);
    let (deployments, deployment_events) = reflect::<Deployment>(client);
    let mut events = stream::select_all([node_events, pod_events, daemon_set_events, deployment_events]);
    let mut seen = BTreeSet::new();
    let mut missing = vec!["the API server has not answered".to_owned()];
    let watch = async {
        while let Some(kind) = events.next().await {
            seen.insert(kind);
            // A kind that has not been listed yet looks as if there were none.
            if seen.len() < 4 {
                continue;
            }
            let observed = Observed {
                nodes: nodes.state(),
                pods: pods.state(),
                daemon_sets: daemon_sets.state(),
                deployments: deployments.state(),
            };
            let now = pending(expected, &observed);
            if now != missing {
                observe(&now);
            }
            missing = now;
            if missing.is_empty() {
                return;
            }
        }
    };
    if tokio::time::timeout(timeout, watch).await.is_err() || !missing.is_empty() {
        return Err(ApiError::NotReady { seconds: timeout.as_secs(), pending: missing });
    }
    Ok(())
}

/// A store of all objects of a kind, and a stream that yields the kind's name whenever the store has changed.
fn reflect<K>(client: &Client) -> (Store<K>, std::pin::Pin<Box<dyn Stream<Item = String> + Send>>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(Api::<K>::all(client.clone()), watcher::Config::default()).default_backoff();
    let changes = reflector::reflector(writer, events).filter_map(|event| async move {
        match event {
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                Some(K::kind(&()).into_owned())
            }
            _ => None,
        }
    });
    (store, changes.boxed())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn expectation() -> Expectation {
        Expectation {
            nodes: vec!["w".to_owned()],
            control_planes: Vec::new(),
            pods: true,
            since: Since::Ever,
            except: Vec::new(),
            running: BTreeMap::new(),
        }
    }

    fn node(status: &str, heartbeat: &str) -> Arc<Node> {
        let condition = json!({"type": "Ready", "status": status, "message": "cni plugin not initialized",
            "lastHeartbeatTime": heartbeat, "lastTransitionTime": heartbeat});
        let node = json!({"metadata": {"name": "w"}, "status": {"conditions": [condition]}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn pod(ready: &str) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "kube-system"}, "status": {"phase": "Pending",
            "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": [{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}});
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn kubelets_get_pods_from_the_api_that_are_neither_static_nor_done() {
        let pod = |id: &str, node: Option<&str>, phase: &str, annotations: serde_json::Value| -> Pod {
            let metadata = json!({"name": id, "uid": id, "annotations": annotations});
            let pod =
                json!({"metadata": metadata, "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase}});
            serde_json::from_value(pod).unwrap()
        };
        let pods = [
            pod("a", Some("w"), "Running", json!({})),
            pod("b", Some("w"), "Pending", json!({})),
            pod("c", Some("w"), "Running", json!({MIRROR: "x"})),
            pod("d", Some("w"), "Succeeded", json!({})),
            pod("e", None, "Pending", json!({})),
        ];
        assert_eq!(assigned_of(&pods), [("w".to_owned(), ["a", "b"].map(str::to_owned).into())].into());
    }

    #[test]
    fn a_kubelet_without_services_is_known_by_what_it_says_of_containers() {
        let pod = |node: &str, containers: &str, reason: &str, message: &str| -> Pod {
            let waiting = json!({"waiting": {"reason": reason, "message": message}});
            let container =
                json!({"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
            let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": []},
                "status": {containers: [container]}});
            serde_json::from_value(pod).unwrap()
        };
        let said = "services have not yet been read at least once, cannot construct envvars";
        let pods = [
            pod("w", "containerStatuses", "CreateContainerConfigError", said),
            pod("x", "initContainerStatuses", "CreateContainerConfigError", said),
            pod("y", "containerStatuses", "CreateContainerConfigError", "configmap \"c\" not found"),
            serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"nodeName": "z", "containers": []}}))
                .unwrap(),
        ];
        assert_eq!(without_services_of(&pods), ["w", "x"].map(str::to_owned).into());
    }

    #[test]
    fn a_node_has_to_register_and_to_be_ready() {
        let mut observed = Observed::default();
        assert_eq!(pending(&expectation(), &observed), ["node w has not registered"]);
        observed.nodes = vec![node("False", "2026-01-01T00:00:00Z")];
        assert_eq!(pending(&expectation(), &observed), ["node w is not Ready: cni plugin not initialized"]);
        observed.nodes = vec![node("True", "2026-01-01T00:00:00Z")];
        assert!(pending(&expectation(), &observed).is_empty());
    }

    #[test]
    fn old_evidence_does_not_count() {
        let observed = Observed { nodes: vec![node("True", "2026-01-01T00:00:00Z")], ..Observed::default() };
        let mut expected = expectation();
        expected.since = Since::Then("2026-01-01T00:00:00.9Z".parse().unwrap());
        assert!(pending(&expected, &observed).is_empty(), "the API's times are whole seconds");
        expected.since = Since::Then("2026-01-01T00:00:01Z".parse().unwrap());
        assert_eq!(pending(&expected, &observed), ["node w has not reported since"]);
        // Of each node since it runs.
        let starts = |node: &str| Since::Starts([(node.to_owned(), "2026-01-01T00:00:01Z".parse().unwrap())].into());
        expected.since = starts("w");
        assert_eq!(pending(&expected, &observed), ["node w has not reported since"]);
        expected.since = starts("another");
        assert!(pending(&expected, &observed).is_empty());
    }

    #[test]
    fn what_is_shown_of_another_container_does_not_count() {
        let mut ready = Pod::clone(&pod("True"));
        let status = ready.status.as_mut().unwrap();
        status.container_statuses.as_mut().unwrap()[0].container_id = Some("containerd://old".to_owned());
        ready.metadata.annotations = Some(BTreeMap::from([(MIRROR.to_owned(), "hash".to_owned())]));
        let observed = Observed {
            nodes: vec![node("True", "2026-01-01T00:00:00Z")],
            pods: vec![Arc::new(ready)],
            ..Observed::default()
        };
        let mut expected = expectation();
        let running = |container: &str, pod: &str| {
            let running = Running { container: container.to_owned(), pod: pod.to_owned() };
            BTreeMap::from([("pod p".to_owned(), running)])
        };
        expected.running = running("old", "hash");
        assert_eq!(pending(&expected, &observed), [""; 0]);
        // What does not run at all has no names.
        for (container, pod) in [("new", "hash"), ("old", "another"), ("", "")] {
            expected.running = running(container, pod);
            assert_eq!(pending(&expected, &observed), ["pod p is still shown as it was before its restart"]);
        }
        expected.except = vec!["pod p".to_owned()];
        assert_eq!(pending(&expected, &observed), [""; 0]);
    }

    #[test]
    fn pods_say_what_they_wait_for() {
        let mut observed = Observed { nodes: vec![node("True", "2026-01-01T00:00:00Z")], ..Observed::default() };
        observed.pods = vec![pod("False")];
        assert_eq!(pending(&expectation(), &observed), ["pod p is not Ready (c: ImagePullBackOff)"]);
        observed.pods = vec![pod("True")];
        assert!(pending(&expectation(), &observed).is_empty());
    }

    #[test]
    fn what_is_excepted_is_not_missed_and_neither_is_what_belongs_to_it() {
        let mut broken = Pod::clone(&pod("False"));
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "coredns-5d78", "uid": "1"}]);
        broken.metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
        let deployment = json!({"metadata": {"name": "coredns", "namespace": "kube-system"},
            "spec": {"selector": {}, "template": {}}, "status": {}});
        let observed = Observed {
            nodes: vec![node("True", "2026-01-01T00:00:00Z")],
            pods: vec![Arc::new(broken), pod("False")],
            deployments: vec![Arc::new(serde_json::from_value(deployment).unwrap())],
            ..Observed::default()
        };
        assert_eq!(not_ready(&expectation(), &observed), ["Deployment coredns", "pod p"]);
        let mut expected = expectation();
        expected.except = vec!["Deployment coredns".to_owned()];
        // The pod of the Deployment may have another name by now.
        assert_eq!(pending(&expected, &observed), ["pod p is not Ready (c: ImagePullBackOff)"]);
        expected.except = not_ready(&expectation(), &observed);
        assert_eq!(pending(&expected, &observed), [""; 0]);
    }

    #[test]
    fn a_pod_that_has_not_been_ready_since_before_is_told_from_one_that_starts_again() {
        let pod = |name: &str, ready: &str, changed: &str| {
            let mut pod = Pod::clone(&pod(ready));
            pod.metadata.name = Some(name.to_owned());
            let condition = json!([{"type": "Ready", "status": ready, "lastTransitionTime": changed}]);
            pod.status.as_mut().unwrap().conditions = serde_json::from_value(condition).unwrap();
            pod
        };
        let (before, after) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let mut broken = pod("coredns-5d78-x", "False", before);
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "coredns-5d78", "uid": "1"}]);
        broken.metadata.owner_references = Some(serde_json::from_value(owner).unwrap());
        let mut users = pod("users", "False", before);
        users.metadata.namespace = Some("default".to_owned());
        let pods = [broken, users, pod("etcd", "False", after), pod("proxy", "True", before)];
        let observed = Observed { pods: pods.into_iter().map(Arc::new).collect(), ..Observed::default() };
        let found = not_ready_before(&Since::Then("2026-01-01T00:00:30Z".parse().unwrap()), &observed);
        assert_eq!(found, ["Deployment coredns", "pod coredns-5d78-x"]);
    }

    #[test]
    fn a_daemon_set_has_to_be_on_every_node() {
        let mut observed = Observed { nodes: vec![node("True", "2026-01-01T00:00:00Z")], ..Observed::default() };
        let set = json!({"metadata": {"name": "kube-proxy", "namespace": "kube-system", "generation": 1},
            "spec": {"selector": {}, "template": {}},
            "status": {"observedGeneration": 1, "currentNumberScheduled": 0, "desiredNumberScheduled": 0,
                "numberMisscheduled": 0, "numberReady": 0}});
        observed.daemon_sets = vec![Arc::new(serde_json::from_value(set).unwrap())];
        assert_eq!(pending(&expectation(), &observed), ["DaemonSet kube-proxy: 0 of 1 pods ready"]);
    }

    #[test]
    fn a_control_plane_has_its_static_pods() {
        let mut expected = expectation();
        expected.control_planes = expected.nodes.clone();
        let observed = Observed { nodes: vec![node("True", "2026-01-01T00:00:00Z")], ..Observed::default() };
        assert_eq!(pending(&expected, &observed).len(), STATIC_PODS.len());
    }
}
