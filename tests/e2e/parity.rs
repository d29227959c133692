//! The fast start makes the cluster that kubeadm makes: the same files, the same objects.

use std::collections::BTreeMap;

use serde_json::Value;
use test_support::Sandbox;

use super::KPROV;

/// Files and links that a node has, but for those of its own: names with dates, caches, pods' folders, and kubelet's certificate,
/// whose name has the date of its making or `kprov` in it. The link to that is compared.
const FILES: &str = "find /etc/kubernetes /var/lib/kubelet /kind/kubeadm.conf -xdev -type f,l -printf '%m %u:%g %p\\n' \
     | grep -v -e /pods/ -e /plugins -e device-plugins -e /tmp/ -e manager_state -e checkpoint -e 'kubelet-client-[0-9k]' \
     | sort";

/// Files whose content is compared, too.
const CONTENT: &str = "for f in /etc/kubernetes/manifests/*.yaml /var/lib/kubelet/config.yaml \
     /var/lib/kubelet/kubeadm-flags.env /kind/kubeadm.conf; do if [ -f $f ]; then echo \"== $f\"; cat $f; fi; done";

/// Objects that kubeadm and the add-ons make.
const OBJECTS: &str = "nodes,configmaps,secrets,serviceaccounts,services,daemonsets,deployments,roles,rolebindings,\
     clusterroles,clusterrolebindings,storageclasses,priorityclasses";

/// etcd's members without their ids, which are random where they join one after the other.
const MEMBERS: &str = "kubectl --namespace kube-system exec etcd-$(hostname) -- etcdctl --endpoints=https://127.0.0.1:2379 \
     --cacert=/etc/kubernetes/pki/etcd/ca.crt --cert=/etc/kubernetes/pki/etcd/server.crt \
     --key=/etc/kubernetes/pki/etcd/server.key member list | cut -d, -f2- | sort";

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn the_fast_start_makes_the_cluster_that_kubeadm_makes() {
    same("same", "secure-two-node", |_| ());
}

#[test]
#[ignore = "needs an engine: cargo xtask test"]
fn of_several_control_planes_too() {
    same("same-ha", "ha", |sandbox| {
        // One of etcd's members and the way to the API server in front of all are gone.
        let second =
            ["exec", &sandbox.node("control-plane2"), "--", "sh", "-c", "rm -rf /var/lib/etcd/* /etc/kubernetes/pki"];
        sandbox.kprov(&second).done();
        sandbox.engine().docker(&["rm", "--force", "--volumes", &sandbox.node("external-load-balancer")]).done();
        // That would not be the golden state.
        sandbox.kprov(&["reset", &sandbox.cluster]).ok().never_says("from its profile");
        sandbox.kprov(&["verify", &sandbox.cluster]).done();
        sandbox.assert_secrets_are_read(&["control-plane", "control-plane2", "control-plane3"]);
    });
}

/// The same files and objects either way; `after` does more with the cluster that was made the fast way.
fn same(cluster: &str, profile: &str, after: impl Fn(&Sandbox)) {
    let sandbox = Sandbox::on_engine(KPROV, cluster);
    let mut seen = Vec::new();
    for bootstrap in ["kubeadm", "phased"] {
        let set = format!("bootstrap={bootstrap}");
        sandbox.up(&["--profile", profile, "--set", &set]).done();
        seen.push(look(&sandbox));
        // etcd's log holds all that was ever written, and names are not encrypted.
        let token = "grep -c registry/secrets/kube-system/bootstrap-token- /var/lib/etcd/member/wal/*.wal || true";
        let lines = sandbox.kprov(&["exec", &sandbox.node("control-plane"), "--", "sh", "-c", token]).ok().stdout;
        let ever = lines.trim() != "0";
        assert_eq!(ever, bootstrap == "kubeadm", "{bootstrap}: a bootstrap token was written {lines} times");
        if bootstrap == "phased" {
            after(&sandbox);
        }
        sandbox.kprov(&["down", &sandbox.cluster]).done();
    }
    let (mut fast, plain) = (seen.pop().unwrap_or_default(), seen.pop().unwrap_or_default());
    // The name server is probed every second, where kubeadm leaves it at every ten.
    if let Some(deployment) = fast.get_mut("Deployment kube-system/coredns") {
        assert_eq!(deployment.matches("\"periodSeconds\":1,").count(), 1, "{deployment}");
        *deployment = deployment.replace("\"periodSeconds\":1,", "\"periodSeconds\":10,");
    }
    assert!(plain.len() > 100, "only {} things were seen", plain.len());
    let differ: Vec<String> = plain
        .iter()
        .filter(|(name, value)| fast.get(*name) != Some(value))
        .map(|(name, value)| format!("{name}\n  kubeadm: {value}\n  phased:  {}", fast.get(name).map_or("-", |v| v)))
        .chain(fast.keys().filter(|name| !plain.contains_key(*name)).map(|name| format!("{name}: only phased")))
        .collect();
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    sandbox.assert_clean();
}

/// Everything that is to be the same, by name, with the nodes' addresses replaced by their names.
fn look(sandbox: &Sandbox) -> BTreeMap<String, String> {
    let status = sandbox.kprov(&["status", &sandbox.cluster, "-o", "json"]).ok().json();
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<(String, String)> = nodes
        .iter()
        .filter_map(|node| Some((node["ipv4"].as_str()?.to_owned(), node["name"].as_str()?.to_owned())))
        .collect();
    // The longest first: one address may begin with another.
    addresses.sort_by_key(|(ip, _)| std::cmp::Reverse(ip.len()));
    let named = |text: &str| addresses.iter().fold(text.to_owned(), |text, (ip, name)| text.replace(ip, name));
    let shell = |node: &str, script: &str| named(&sandbox.kprov(&["exec", node, "--", "sh", "-c", script]).ok().stdout);
    let mut seen = BTreeMap::new();
    for (_, node) in addresses.iter().filter(|(_, name)| !name.ends_with("load-balancer")) {
        for line in shell(node, FILES).lines() {
            seen.insert(format!("{node}: {line}"), String::new());
        }
        for part in shell(node, CONTENT).split("== ").skip(1) {
            let (file, content) = part.split_once('\n').unwrap_or((part, ""));
            seen.insert(format!("{node}: {file}"), comparable(content));
        }
    }
    seen.insert("etcd's members".to_owned(), shell(&sandbox.node("control-plane"), MEMBERS));
    let list = format!("kubectl get {OBJECTS} --all-namespaces -o json");
    let list: Value = serde_json::from_str(&shell(&sandbox.node("control-plane"), &list)).expect("a list of objects");
    for object in list["items"].as_array().into_iter().flatten() {
        assert_ne!(object["type"], "bootstrap.kubernetes.io/token", "anybody who knows it can join");
        let (name, value) = essence(object);
        seen.insert(name, value);
    }
    seen
}

/// A file without what may differ: kubeadm's bootstrap token, which is random, and not the one that everybody knows, and what
/// etcd's members are told of each other for their very first start.
fn comparable(content: &str) -> String {
    assert!(!content.contains("abcdef.0123456789abcdef"), "{content}");
    let differs = |line: &&str| {
        let line = line.trim_start_matches([' ', '-']);
        line.starts_with("token:") || line.starts_with("initial-cluster")
    };
    content.lines().filter(|line| !differs(line)).collect::<Vec<_>>().join("\n")
}

/// An object's name, without what is random in it, and what of it does not change from cluster to cluster.
fn essence(object: &Value) -> (String, String) {
    let metadata = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, mut name) = (text(&object["kind"]), text(&metadata["name"]));
    // Tokens' Secrets of old Kubernetes versions are called ACCOUNT-token-RANDOM.
    if let Some((account, _)) = name.rsplit_once("-token-").filter(|_| kind == "Secret") {
        name = format!("{account}-token");
    }
    let annotations: Vec<String> =
        metadata["annotations"].as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
    let mut value = vec![metadata["labels"].to_string(), annotations.join(",")];
    match kind.as_str() {
        "ConfigMap" => {
            // Certificates and signatures are each cluster's own.
            let own = |key: &str| key.ends_with(".crt") || key.contains("ca-file") || key == "kubeconfig";
            // Old kubeadm notes a default there that its phase for the manifests has set in the same process.
            let quirk = "\\n    authorization-mode: Node,RBAC";
            let mut data = object["data"].as_object().cloned().unwrap_or_default();
            // The signature by a token goes a moment after the token.
            data.retain(|key, _| !key.starts_with("jws"));
            value.extend(
                data.iter().map(
                    |(key, text)| if own(key) { key.clone() } else { format!("{key}: {text}").replace(quirk, "") },
                ),
            );
        }
        "Node" => {
            // Those that tell a condition come and go: the node lifecycle controller is some seconds behind.
            let passes =
                |taint: &&Value| taint["key"].as_str().is_some_and(|key| key.starts_with("node.kubernetes.io/"));
            let taints = object["spec"]["taints"].as_array().into_iter().flatten();
            value.extend(taints.filter(|taint| !passes(taint)).map(Value::to_string));
            value.push(object["spec"]["providerID"].to_string());
        }
        "Secret" => value.push(object["type"].to_string()),
        "Service" => value.push(object["spec"]["ports"].to_string()),
        _ => value.extend(["spec", "rules", "roleRef", "subjects"].map(|field| object[field].to_string())),
    }
    (format!("{kind} {}/{name}", text(&metadata["namespace"])), value.join("\n"))
}
