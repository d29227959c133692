//! The tables as a whole, and whole clusters in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::facts::{Binding, Facts, FileFact, NodeFacts, Pod, Role, ServiceAccount};
use super::results::document;
use super::*;

/// How many controls each version has, and how many of them are scored (aquasecurity/kube-bench, `cfg/`).
const COUNTS: [(Benchmark, usize, usize); 10] = [
    (Benchmark::V1_20, 123, 69),
    (Benchmark::V1_23, 125, 67),
    (Benchmark::V1_24, 124, 64),
    (Benchmark::V1_7, 131, 61),
    (Benchmark::V1_8, 130, 63),
    (Benchmark::V1_9, 130, 64),
    (Benchmark::V1_10, 130, 64),
    (Benchmark::V1_11, 133, 65),
    (Benchmark::V1_12, 131, 65),
    (Benchmark::V2_0, 131, 65),
];

#[test]
fn every_version_has_its_controls_and_each_number_once() {
    for (benchmark, all, scored) in COUNTS {
        let places: Vec<_> = controls().filter_map(|control| control.place(benchmark)).collect();
        let numbers: BTreeSet<&str> = places.iter().map(|place| place.id).collect();
        let titles: BTreeSet<&str> =
            controls().filter(|control| control.place(benchmark).is_some()).map(|control| control.title).collect();
        assert_eq!((places.len(), numbers.len(), titles.len()), (all, all, all), "{benchmark}");
        assert_eq!(places.iter().filter(|place| place.kind == Kind::Scored).count(), scored, "{benchmark}");
    }
}

#[test]
fn numbers_of_a_section_have_no_gaps() {
    for benchmark in Benchmark::all() {
        let mut sections: BTreeMap<&str, Vec<u32>> = BTreeMap::new();
        for place in controls().filter_map(|control| control.place(benchmark)) {
            let last = *results::numbers(place.id).last().unwrap();
            sections.entry(results::section(place.id)).or_default().push(last);
        }
        for (section, mut numbers) in sections {
            numbers.sort_unstable();
            let expected: Vec<u32> = (1..=u32::try_from(numbers.len()).unwrap()).collect();
            assert_eq!(numbers, expected, "{benchmark} {section}");
        }
    }
}

fn node(name: &str, control_plane: bool) -> NodeFacts {
    NodeFacts { name: name.to_owned(), control_plane, ..NodeFacts::default() }
}

fn with(program: &str, line: &str) -> Facts {
    let mut node = node("n", true);
    let words = std::iter::once(program).chain(line.split_whitespace()).map(str::to_owned).collect();
    node.processes.insert(program.to_owned(), words);
    Facts { version: "v1.36.2".to_owned(), nodes: vec![node], ..Facts::default() }
}

fn finding(facts: &Facts, benchmark: Benchmark, id: &str) -> Finding {
    let wanted = Selection { sections: vec![id.to_owned()], level: 0 };
    let mut findings = assess(facts, benchmark, &[], &wanted);
    assert_eq!(findings.len(), 1, "{id}");
    findings.remove(0)
}

fn status(facts: &Facts, id: &str) -> Status {
    finding(facts, Benchmark::V1_12, id).status
}

#[test]
fn of_a_cluster_of_which_nothing_is_known_nothing_is_proven() {
    let facts = Facts { nodes: vec![node("c", true), node("w", false)], ..Facts::default() };
    let findings = assess(&facts, Benchmark::V1_12, &[], &Selection::default());
    let scored_and_passed: Vec<_> = findings
        .iter()
        .filter(|finding| finding.kind == Kind::Scored && finding.status == Status::Pass)
        .map(|finding| finding.id)
        .collect();
    // Where kube-proxy does not run, it shows nothing.
    assert_eq!(scored_and_passed, ["4.3.1", "4.3.1"]);
}

#[test]
fn nodes_that_were_not_looked_at_are_told() {
    let objects =
        |names: &[&str]| names.iter().map(|name| parsed(&format!("{{metadata: {{name: {name}}}}}"))).collect();
    let mut facts = Facts { nodes: vec![node("c", true)], ..Facts::default() };
    facts.objects.nodes = objects(&["c", "w"]);
    assert_eq!(facts.unseen(), ["w"]);
    assert_eq!(facts.gaps(), ["not looked at, since no container here is called so: w"]);
    facts.objects.nodes = objects(&["c"]);
    assert!(facts.unseen().is_empty());
}

#[test]
fn flags_decide() {
    let api = |line: &str, id: &str| status(&with("kube-apiserver", line), id);
    assert_eq!(api("--profiling=false", "1.2.15"), Status::Pass);
    assert_eq!(api("--profiling=0", "1.2.15"), Status::Pass);
    assert_eq!(api("", "1.2.15"), Status::Fail);
    assert_eq!(api("--profiling=false --profiling=true", "1.2.15"), Status::Fail);
    assert_eq!(api("--authorization-mode=Node,RBAC", "1.2.7"), Status::Pass);
    assert_eq!(api("--authorization-mode=AlwaysAllow", "1.2.6"), Status::Fail);
    assert_eq!(api("", "1.2.6"), Status::Fail);
    assert_eq!(api("--audit-log-maxage=29", "1.2.17"), Status::Fail);
    assert_eq!(api("--audit-log-maxage=x", "1.2.17"), Status::Fail);
    assert_eq!(api("--token-auth-file=/x", "1.2.2"), Status::Fail);
    assert_eq!(api("--disable-admission-plugins=A,ServiceAccount", "1.2.12"), Status::Fail);
    assert_eq!(api("--enable-admission-plugins=NodeRestriction --enable-admission-plugins=X", "1.2.14"), Status::Pass);
    assert_eq!(api("--tls-cipher-suites=TLS_AES_128_GCM_SHA256,WEAK", "1.2.29"), Status::Warn);
    assert_eq!(api("", "1.2.1"), Status::Warn);
    // A number means something else in another version.
    let facts = with("kube-apiserver", "--insecure-port=0");
    assert_eq!(finding(&facts, Benchmark::V1_20, "1.2.18").status, Status::Pass);
    assert_eq!(status(&facts, "1.2.18"), Status::Fail);
}

#[test]
fn a_flag_that_may_be_another_ones_value_proves_nothing() {
    let api = |line: &str, id: &str| finding(&with("kube-apiserver", line), Benchmark::V1_12, id);
    let found = api("--audit-log-path --profiling=false", "1.2.15");
    assert!(found.status == Status::Fail && found.evidence.contains("the flag before it"), "{}", found.evidence);
    // Neither that it is set, nor that it is not.
    assert_eq!(api("--audit-log-path --token-auth-file=/x", "1.2.2").status, Status::Fail);
    assert_eq!(api("--audit-log-path /x --profiling=false", "1.2.15").status, Status::Pass);
    assert_eq!(api("--anonymous-auth --profiling=false", "1.2.15").status, Status::Pass);
    let none = Some(r#"{"authentication": {"anonymous": {"enabled": false}}}"#);
    assert_eq!(status(&kubelet("{}", none, "--cgroup-root --anonymous-auth=false"), "4.2.1"), Status::Fail);
}

#[test]
fn what_starts_a_program_is_not_the_program() {
    let mut facts = with("kube-apiserver", "");
    let shell = ["sh", "-c", "kube-apiserver --token-auth-file=/x"].map(str::to_owned).to_vec();
    facts.nodes[0].processes.insert("kube-apiserver".to_owned(), shell);
    // That no flag is found would be taken for a flag that is not set.
    for id in ["1.2.2", "1.2.10", "1.2.12", "1.2.21"] {
        let found = finding(&facts, Benchmark::V1_12, id);
        assert!(found.status == Status::Fail && found.evidence.contains("runs sh"), "{id}: {}", found.evidence);
    }
    let whole = ["/usr/local/bin/kube-apiserver", "--profiling=false"].map(str::to_owned).to_vec();
    facts.nodes[0].processes.insert("kube-apiserver".to_owned(), whole);
    assert_eq!((status(&facts, "1.2.2"), status(&facts, "1.2.15")), (Status::Pass, Status::Pass));
}

#[test]
fn etcds_variables_are_as_good_as_flags() {
    let mut facts = with("etcd", "--key-file=/k");
    assert_eq!(status(&facts, "2.1"), Status::Fail);
    facts.nodes[0].etcd_environment.insert("ETCD_CERT_FILE".to_owned(), "/c".to_owned());
    assert_eq!(status(&facts, "2.1"), Status::Pass);
}

#[test]
fn flags_that_a_file_goes_before_prove_nothing() {
    let flags = "--cert-file=/c --key-file=/k --client-cert-auth=true";
    assert_eq!(status(&with("etcd", flags), "2.2"), Status::Pass);
    let found = finding(&with("etcd", &format!("{flags} --config-file=/etcd.yaml")), Benchmark::V1_12, "2.2");
    assert!(found.status == Status::Fail && found.evidence.contains("/etcd.yaml"), "{}", found.evidence);
    let mut facts = with("etcd", flags);
    facts.nodes[0].etcd_environment.insert("ETCD_CONFIG_FILE".to_owned(), "/etcd.yaml".to_owned());
    assert_eq!((status(&facts, "2.1"), status(&facts, "2.6")), (Status::Fail, Status::Fail));
    let scheduler = |line: &str, id: &str| status(&with("kube-scheduler", line), id);
    assert_eq!(scheduler("--profiling=false", "1.4.1"), Status::Pass);
    assert_eq!(scheduler("--profiling=false --config=/s.yaml", "1.4.1"), Status::Fail);
    assert_eq!(scheduler("--bind-address=127.0.0.1 --config=/s.yaml", "1.4.2"), Status::Pass);
}

fn file(path: &str, mode: u32, owner: &str) -> FileFact {
    FileFact { path: path.to_owned(), mode, owner: owner.to_owned(), folder: false }
}

#[test]
fn files_decide() {
    let facts = |mode, owner| {
        let mut facts = with("kube-apiserver", "");
        facts.nodes[0].files = vec![file("/etc/kubernetes/manifests/kube-apiserver.yaml", mode, owner)];
        facts
    };
    assert_eq!(status(&facts(0o600, "root:root"), "1.1.1"), Status::Pass);
    assert_eq!(status(&facts(0o400, "root:root"), "1.1.1"), Status::Pass);
    for mode in [0o640, 0o604, 0o700, 0o4600] {
        assert_eq!(status(&facts(mode, "root:root"), "1.1.1"), Status::Fail, "{mode:o}");
    }
    assert_eq!(finding(&facts(0o644, "root:root"), Benchmark::V1_20, "1.1.1").status, Status::Pass);
    assert_eq!(status(&facts(0o600, "UNKNOWN:root"), "1.1.2"), Status::Fail);
    // No keys at all prove nothing; no files of a container network do no harm.
    assert_eq!(status(&facts(0o600, "root:root"), "1.1.21"), Status::Warn);
    assert_eq!(status(&facts(0o600, "root:root"), "1.1.9"), Status::Pass);
}

#[test]
fn etcds_folder_is_the_one_that_its_process_names() {
    let mut facts = with("etcd", "--data-dir=/var/lib/other");
    facts.nodes[0].files = vec![file("/var/lib/etcd", 0o700, "etcd:etcd"), file("/var/lib/other", 0o755, "root:root")];
    assert_eq!((status(&facts, "1.1.11"), status(&facts, "1.1.12")), (Status::Fail, Status::Fail));
}

fn kubelet(file: &str, running: Option<&str>, line: &str) -> Facts {
    let mut facts = with("kubelet", line);
    facts.nodes[0].kubelet_file = Some(serde_yaml::from_str(file).unwrap());
    facts.nodes[0].kubelet_running = running.map(|text| Ok(serde_json::from_str(text).unwrap()));
    facts
}

#[test]
fn a_kubelet_is_judged_by_what_it_runs_with_and_by_what_it_would_start_with() {
    let fine = r#"{"authentication": {"anonymous": {"enabled": false}}, "podPidsLimit": 100}"#;
    let open = r#"{"authentication": {"anonymous": {"enabled": true}}, "podPidsLimit": -1}"#;
    let yes = "authentication: {anonymous: {enabled: true}}";
    let no = "authentication: {anonymous: {enabled: false}}";
    assert_eq!(status(&kubelet(no, Some(fine), ""), "4.2.1"), Status::Pass);
    assert_eq!(status(&kubelet(no, Some(open), ""), "4.2.1"), Status::Fail);
    assert_eq!(status(&kubelet("{}", Some(fine), ""), "4.2.1"), Status::Pass);
    let later = finding(&kubelet(yes, Some(fine), ""), Benchmark::V1_12, "4.2.1");
    assert!(later.status == Status::Fail && later.evidence.contains("from its next start on"), "{}", later.evidence);
    assert_eq!(status(&kubelet(no, Some(fine), "--anonymous-auth=true"), "4.2.1"), Status::Fail);
    assert_eq!(status(&kubelet(no, None, ""), "4.2.1"), Status::Pass);
    assert_eq!(status(&kubelet("{}", None, ""), "4.2.1"), Status::Fail);
    assert_eq!(status(&kubelet("{}", Some(fine), ""), "4.2.13"), Status::Pass);
    assert_eq!(status(&kubelet("{}", Some(open), ""), "4.2.13"), Status::Warn);
}

#[test]
fn a_kubelet_that_does_not_answer_is_judged_by_its_file_and_that_is_told() {
    let mut facts = kubelet("readOnlyPort: 10255", None, "");
    facts.nodes[0].kubelet_running = Some(Err("refused".to_owned()));
    let found = finding(&facts, Benchmark::V1_12, "4.2.4");
    assert!(found.status == Status::Warn && found.evidence.contains("does not answer"), "{}", found.evidence);
    // Also where all holds, whose evidence a terminal does not show.
    let gaps = facts.gaps();
    assert!(gaps.len() == 1 && gaps[0].contains("n: the kubelet") && gaps[0].ends_with("refused"), "{gaps:?}");
    facts.nodes[0].processes.clear();
    assert!(facts.gaps().is_empty(), "one that does not run is judged as such");
}

#[test]
fn of_a_kubelet_that_neither_answers_nor_has_a_file_no_default_is_taken_for_granted() {
    let mut facts = kubelet("makeIPTablesUtilChains: true", None, "");
    facts.nodes[0].kubelet_running = Some(Err("refused".to_owned()));
    let passed = |facts: &Facts| {
        let all = assess(facts, Benchmark::V1_12, &[], &Selection { sections: vec!["4.2".to_owned()], level: 0 });
        all.iter().filter(|finding| finding.status == Status::Pass).map(|finding| finding.id).collect::<Vec<_>>()
    };
    assert!(passed(&facts).contains(&"4.2.6"));
    facts.nodes[0].kubelet_file = None;
    // What is a flag alone, its command line tells.
    assert_eq!(passed(&facts), ["4.2.7"]);
    // What its command line says, it runs with.
    let words = ["kubelet", "--anonymous-auth=false"].map(str::to_owned).to_vec();
    facts.nodes[0].processes.insert("kubelet".to_owned(), words);
    assert_eq!(status(&facts, "4.2.1"), Status::Pass);
}

#[test]
fn a_kube_proxy_whose_configuration_is_not_known_proves_nothing() {
    let mut facts = with("kube-apiserver", "");
    facts.objects.pods = vec![parsed(
        "{metadata: {name: kube-proxy-x, namespace: kube-system}, spec: {nodeName: n, containers: [{name: p, command: [kube-proxy, --config=/c]}]}}",
    )];
    assert_eq!(status(&facts, "4.3.1"), Status::Fail);
    facts.objects.kube_proxy = Some(parsed("{mode: iptables}"));
    assert_eq!(status(&facts, "4.3.1"), Status::Pass);
    facts.objects.kube_proxy = Some(parsed("{metricsBindAddress: '0.0.0.0:10249'}"));
    assert_eq!(status(&facts, "4.3.1"), Status::Fail);
    // One that is only called so does not hide it.
    let imitation =
        "{metadata: {name: kube-proxy-a, namespace: kube-system}, spec: {nodeName: n, containers: [{name: p}]}}";
    facts.objects.pods.insert(0, parsed(imitation));
    assert_eq!(status(&facts, "4.3.1"), Status::Fail);
}

#[test]
fn a_certificate_that_the_kubelet_has_signed_itself_is_none() {
    let own = r#"{"tlsCertFile": "/var/lib/kubelet/pki/kubelet.crt", "tlsPrivateKeyFile": "/var/lib/kubelet/pki/kubelet.key"}"#;
    assert_eq!(status(&kubelet("{}", Some(own), ""), "4.2.9"), Status::Warn);
    let given = "{tlsCertFile: /c, tlsPrivateKeyFile: /k}";
    assert_eq!(status(&kubelet(given, Some(own), ""), "4.2.9"), Status::Pass);
    let signed = r#"{"serverTLSBootstrap": true}"#;
    assert_eq!(status(&kubelet("serverTLSBootstrap: true", Some(signed), ""), "4.2.9"), Status::Pass);
}

#[test]
fn times_of_zero_in_a_file_are_defaults() {
    let hours = r#"{"streamingConnectionIdleTimeout": "4h0m0s"}"#;
    assert_eq!(status(&kubelet("streamingConnectionIdleTimeout: 0s", Some(hours), ""), "4.2.5"), Status::Pass);
    let never = r#"{"streamingConnectionIdleTimeout": "0s"}"#;
    assert_eq!(status(&kubelet("{}", Some(never), ""), "4.2.5"), Status::Warn);
}

#[test]
fn an_exception_needs_a_control_that_does_not_hold() {
    let facts = with("kube-apiserver", "--profiling=true --anonymous-auth=false");
    let exception =
        |benchmark, id: &str| Exception { benchmark, until: None, id: id.to_owned(), reason: "because".to_owned() };
    let of = |exceptions: &[Exception], benchmark, id: &str| {
        let wanted = Selection { sections: vec![id.to_owned()], level: 0 };
        let finding = assess(&facts, benchmark, exceptions, &wanted).remove(0);
        (finding.status, finding.reason)
    };
    let newest = [exception(Benchmark::V1_12, "1.2.15")];
    assert_eq!(of(&newest, Benchmark::V1_12, "1.2.15"), (Status::Excepted, Some("because".to_owned())));
    let mode = [exception(Benchmark::V1_12, "1.1.1")];
    assert_eq!(of(&mode, Benchmark::V1_20, "1.1.1").0, Status::Excepted);
    // The same control under another number, and another control under the same number.
    assert_eq!(of(&newest, Benchmark::V1_20, "1.2.20").0, Status::Excepted);
    assert_eq!(of(&newest, Benchmark::V1_20, "1.2.15").0, Status::Fail);
    let holds = [exception(Benchmark::V1_12, "1.2.1")];
    assert_eq!(of(&holds, Benchmark::V1_12, "1.2.1"), (Status::Pass, None));
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn cluster_admin_is_for_masters_alone() {
    let built_in: Binding = parsed(
        "{metadata: {name: cluster-admin}, roleRef: {kind: ClusterRole, name: cluster-admin}, subjects: [{kind: Group, name: 'system:masters'}]}",
    );
    let kubeadm: Binding = parsed(
        "{metadata: {name: 'kubeadm:cluster-admins'}, roleRef: {kind: ClusterRole, name: cluster-admin}, subjects: [{kind: Group, name: 'kubeadm:cluster-admins'}]}",
    );
    let in_namespace: Binding = parsed(
        "{metadata: {name: x, namespace: a}, roleRef: {kind: ClusterRole, name: cluster-admin}, subjects: [{kind: User, name: eve}]}",
    );
    let mut facts = with("kube-apiserver", "");
    facts.objects.bindings = vec![built_in.clone()];
    assert_eq!(status(&facts, "5.1.1"), Status::Pass);
    // What is not known of admin.conf is not taken for good.
    assert_eq!(status(&facts, "5.1.7"), Status::Warn);
    facts.objects.admin_groups = vec!["kubeadm:cluster-admins".to_owned()];
    assert_eq!(status(&facts, "5.1.7"), Status::Pass);
    let mut namesake = built_in.clone();
    namesake.metadata.namespace = Some("shop".to_owned());
    facts.objects.bindings.push(namesake);
    assert_eq!(status(&facts, "5.1.7"), Status::Warn);
    facts.objects.bindings.pop();
    facts.objects.bindings.push(kubeadm);
    let found = finding(&facts, Benchmark::V1_12, "5.1.1");
    assert!(found.status == Status::Warn && found.evidence.contains("since Kubernetes 1.29"), "{}", found.evidence);
    facts.objects.bindings = vec![built_in.clone(), in_namespace];
    assert!(finding(&facts, Benchmark::V1_12, "5.1.1").evidence.contains("user eve"));
    let mut more = built_in;
    more.subjects.push(parsed("{kind: User, name: eve}"));
    facts.objects.bindings = vec![more];
    assert_eq!(status(&facts, "5.1.1"), Status::Warn);
}

#[test]
fn rights_of_others_are_found_and_those_of_the_cluster_are_not() {
    let role: Role =
        parsed("{metadata: {name: reader}, rules: [{apiGroups: [''], resources: [secrets], verbs: [list]}]}");
    let binding = |kind: &str, name: &str, namespace: &str| -> Binding {
        parsed(&format!(
            "{{metadata: {{name: b}}, roleRef: {{kind: ClusterRole, name: reader}}, subjects: [{{kind: {kind}, name: '{name}', namespace: '{namespace}'}}]}}"
        ))
    };
    let judged = |binding| {
        let mut facts = with("kube-apiserver", "");
        facts.objects.roles = vec![role.clone()];
        facts.objects.bindings = vec![binding];
        status(&facts, "5.1.2")
    };
    assert_eq!(judged(binding("User", "system:kube-controller-manager", "")), Status::Pass);
    assert_eq!(judged(binding("ServiceAccount", "kindnet", "kube-system")), Status::Pass);
    assert_eq!(judged(binding("User", "system:serviceaccount:kube-system:kindnet", "")), Status::Pass);
    for (kind, name, namespace) in [
        // Nobody is Kubernetes by the beginning of a name, or by where they are.
        ("User", "system:eve", ""),
        ("Group", "system:eves", ""),
        ("User", "system:node:eve", ""),
        ("ServiceAccount", "eve", "kube-system"),
        ("User", "system:serviceaccount:kube-system:eve", ""),
        ("ServiceAccount", "coredns", "kube-public"),
        ("User", "system:serviceaccount:shop:app", ""),
        ("User", "system:serviceaccount:kube-system:default", ""),
        ("User", "system:serviceaccount:kube-system", ""),
        ("Group", "system:serviceaccounts:shop", ""),
        ("Group", "system:serviceaccounts:kube-system", ""),
        ("User", "eve", ""),
        ("Group", "system:authenticated", ""),
        ("Group", "system:unauthenticated", ""),
        ("User", "system:anonymous", ""),
        ("ServiceAccount", "app", "shop"),
        ("ServiceAccount", "default", "kube-system"),
    ] {
        assert_eq!(judged(binding(kind, name, namespace)), Status::Warn, "{kind} {name}");
    }
}

#[test]
fn what_is_wild_or_lets_become_another_is_found_whatever_it_is_called() {
    let judged = |id: &str, name: &str, rule: &str| {
        let label = "kubernetes.io/bootstrapping: rbac-defaults";
        let mut facts = with("kube-apiserver", "");
        facts.objects.roles =
            vec![parsed(&format!("{{metadata: {{name: '{name}', labels: {{{label}}}}}, rules: [{rule}]}}"))];
        facts.objects.bindings = vec![parsed(&format!(
            "{{metadata: {{name: b}}, roleRef: {{kind: ClusterRole, name: '{name}'}}, subjects: [{{kind: User, name: eve}}]}}"
        ))];
        status(&facts, id)
    };
    let all = "{apiGroups: ['*'], resources: ['*'], verbs: ['*']}";
    assert_eq!(judged("5.1.3", "cluster-admin", all), Status::Pass);
    for name in ["eve", "system:eve", "system:controller:eve"] {
        assert_eq!(judged("5.1.3", name, all), Status::Warn, "{name}");
    }
    for (resource, verb) in [
        ("users", "impersonate"),
        ("userextras/scopes", "impersonate"),
        ("uids", "impersonate"),
        ("users", "impersonate:user-info"),
        ("clusterroles", "escalate"),
    ] {
        let rule = format!("{{apiGroups: ['*'], resources: ['{resource}'], verbs: ['{verb}']}}");
        assert_eq!(judged("5.1.8", "r", &rule), Status::Warn, "{resource} {verb}");
    }
    assert_eq!(judged("5.1.8", "r", "{apiGroups: ['*'], resources: [pods], verbs: [get]}"), Status::Pass);
}

#[test]
fn pods_that_may_do_much_are_found_and_an_empty_cluster_is_no_proof() {
    let pod = |namespace: &str, spec: &str| -> Pod {
        parsed(&format!("{{metadata: {{name: p, namespace: {namespace}}}, spec: {spec}}}"))
    };
    let mut facts = with("kube-apiserver", "");
    facts.objects.namespaces = vec![parsed("{metadata: {name: shop}}"), parsed("{metadata: {name: kube-system}}")];
    // No pod, but nothing would refuse one.
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
    facts.objects.namespaces[0] =
        parsed("{metadata: {name: shop, labels: {pod-security.kubernetes.io/enforce: baseline}}}");
    assert_eq!((status(&facts, "5.2.1"), status(&facts, "5.2.2")), (Status::Pass, Status::Pass));
    assert_eq!(status(&facts, "5.2.7"), Status::Warn);
    facts.objects.pods = vec![pod("kube-system", "{containers: [{name: c, securityContext: {privileged: true}}]}")];
    assert_eq!(status(&facts, "5.2.2"), Status::Pass);
    facts.objects.pods = vec![pod("shop", "{initContainers: [{name: c, securityContext: {privileged: true}}]}")];
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
    facts.version = "v1.20.2".to_owned();
    facts.objects.pods.clear();
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
}

#[test]
fn every_api_server_has_to_refuse_what_one_does() {
    let mut facts = with("kube-apiserver", "");
    let labels = "{pod-security.kubernetes.io/enforce: restricted}";
    facts.objects.namespaces = vec![parsed(&format!("{{metadata: {{name: shop, labels: {labels}}}}}"))];
    assert_eq!(status(&facts, "5.2.2"), Status::Pass);
    let mut second = with("kube-apiserver", "--disable-admission-plugins=PodSecurity").nodes.remove(0);
    second.name = "n2".to_owned();
    facts.nodes.push(second);
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
    // One that is not seen refuses nothing that could be proven.
    facts.nodes[1] = node("n2", true);
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
    facts.nodes = vec![node("w", false)];
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
    // By a file of admission that only one has.
    facts.nodes = with("kube-apiserver", "").nodes;
    facts.objects.namespaces = vec![parsed("{metadata: {name: shop}}")];
    let file = "{plugins: [{name: PodSecurity, configuration: {defaults: {enforce: restricted}}}]}";
    facts.nodes[0].admission = Some(parsed(file));
    assert_eq!(status(&facts, "5.2.2"), Status::Pass);
    // Which may exempt a namespace from it.
    let exempt = "{defaults: {enforce: restricted}, exemptions: {namespaces: [shop]}}";
    facts.nodes[0].admission = Some(parsed(&format!("{{plugins: [{{name: PodSecurity, configuration: {exempt}}}]}}")));
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
    // Or whoever makes everybody's pods, and a runtime class that anybody may name.
    for exempt in ["usernames: ['system:serviceaccount:kube-system:replicaset-controller']", "runtimeClasses: [fast]"] {
        let configuration = format!("{{defaults: {{enforce: restricted}}, exemptions: {{{exempt}}}}}");
        let file = format!("{{plugins: [{{name: PodSecurity, configuration: {configuration}}}]}}");
        facts.nodes[0].admission = Some(parsed(&file));
        assert_eq!((status(&facts, "5.2.1"), status(&facts, "5.2.2")), (Status::Warn, Status::Warn), "{exempt}");
    }
    facts.nodes[0].admission = Some(parsed(file));
    facts.nodes.extend(with("kube-apiserver", "").nodes);
    assert_eq!(status(&facts, "5.2.2"), Status::Warn);
}

#[test]
fn a_webhook_may_judge_pods_or_not() {
    let mut facts = with("kube-apiserver", "");
    facts.objects.namespaces = vec![parsed("{metadata: {name: shop}}")];
    facts.objects.pod_webhooks = vec!["anything".to_owned()];
    let found = finding(&facts, Benchmark::V1_12, "5.2.1");
    assert!(found.status == Status::Warn && found.evidence.contains("for you to tell"), "{}", found.evidence);
}

#[test]
fn a_network_is_on_every_node() {
    let pod = |name: &str, node: &str, image: &str| -> Pod {
        parsed(&format!(
            "{{metadata: {{name: {name}, namespace: kube-system}}, spec: {{nodeName: {node}, containers: [{{name: c, image: '{image}'}}]}}}}"
        ))
    };
    let mut facts = Facts { nodes: vec![node("c", true), node("w", false)], ..Facts::default() };
    let judged = |facts: &Facts| status(facts, "5.3.1");
    assert_eq!(judged(&facts), Status::Warn);
    // A pod that is only called so.
    facts.objects.pods = vec![pod("calico-x", "w", "busybox")];
    assert_eq!(judged(&facts), Status::Warn);
    facts.objects.pods.push(pod("calico-node-1", "c", "calico/node:v3"));
    assert_eq!(judged(&facts), Status::Pass);
    facts.objects.pods = vec![
        pod("kindnet-1", "c", "kindest/kindnetd:v20260101-x"),
        pod("kindnet-2", "w", "kindest/kindnetd:v20260101-x"),
    ];
    assert_eq!(judged(&facts), Status::Pass);
    facts.objects.pods[1] = pod("kindnet-2", "w", "kindest/kindnetd:v20230511-x");
    assert_eq!(judged(&facts), Status::Warn);
    facts.objects.pods.pop();
    assert_eq!(judged(&facts), Status::Warn, "one node has none");
}

#[test]
fn default_accounts_give_no_tokens() {
    let account = |namespace: &str, mounts: &str| -> ServiceAccount {
        parsed(&format!(
            "{{metadata: {{name: default, namespace: {namespace}}}, automountServiceAccountToken: {mounts}}}"
        ))
    };
    let mut facts = with("kube-apiserver", "");
    assert_eq!(status(&facts, "5.1.5"), Status::Warn);
    facts.objects.service_accounts = vec![account("default", "false"), account("kube-system", "false")];
    assert_eq!(status(&facts, "5.1.5"), Status::Pass);
    for open in ["true", "null"] {
        facts.objects.service_accounts[1] = account("kube-system", open);
        assert_eq!(status(&facts, "5.1.5"), Status::Warn);
    }
}

#[test]
fn an_exception_ends_with_the_version_that_it_is_for() {
    let facts = with("kube-apiserver", "--profiling=true");
    let exception = Exception {
        benchmark: Benchmark::V1_12,
        until: Some(Benchmark::V1_23),
        id: "1.2.15".to_owned(),
        reason: "old".to_owned(),
    };
    let status = |benchmark, id: &str| {
        let wanted = Selection { sections: vec![id.to_owned()], level: 0 };
        assess(&facts, benchmark, std::slice::from_ref(&exception), &wanted).remove(0).status
    };
    assert_eq!(status(Benchmark::V1_20, "1.2.20"), Status::Excepted);
    assert_eq!(status(Benchmark::V1_23, "1.2.18"), Status::Excepted);
    assert_eq!(status(Benchmark::V1_24, "1.2.17"), Status::Fail);
    assert_eq!(status(Benchmark::NEWEST, "1.2.15"), Status::Fail);
}

#[test]
fn remedies_of_plugins_keep_those_that_are_on() {
    let facts = with("kube-apiserver", "--enable-admission-plugins=NodeRestriction,PodSecurity");
    let remedy = |id: &str| finding(&facts, Benchmark::NEWEST, id).remedy;
    let list = "--set apiServer.extraArgs.enable-admission-plugins=NodeRestriction,PodSecurity";
    assert!(remedy("1.2.3").starts_with(&format!("{list},DenyServiceExternalIPs ")), "{}", remedy("1.2.3"));
    assert!(remedy("1.2.9").starts_with(&format!("{list},EventRateLimit --set 'apiServer.admission.")));
    assert!(remedy("1.2.14").starts_with(&format!("{list} ")));
}

#[test]
fn the_two_newest_versions_differ_in_the_audit_policy_alone() {
    for control in controls() {
        let (old, new) = (control.place(Benchmark::V1_12), control.place(Benchmark::V2_0));
        let same = match (old, new) {
            (Some(old), Some(new)) => old.id == new.id && old.kind == new.kind,
            (None, None) => true,
            _ => old.or(new).is_some_and(|place| place.id == "3.2.2"),
        };
        assert!(same, "{}", control.title);
    }
    let mut facts = with("kube-apiserver", "--audit-policy-file=/p");
    let requests = "[{level: None, resources: [{group: certificates.k8s.io}]}, {level: Metadata}]";
    facts.nodes[0].audit_policy = Some(parsed(&format!("{{rules: {requests}}}")));
    assert_eq!(finding(&facts, Benchmark::V1_12, "3.2.2").status, Status::Pass);
    assert_eq!(finding(&facts, Benchmark::V2_0, "3.2.2").status, Status::Warn);
}

#[test]
fn the_document_has_kube_benchs_fields() {
    let mut facts = with("kube-apiserver", "--profiling=true");
    facts.nodes.push(node("w", false));
    let findings = assess(&facts, Benchmark::V1_12, &[], &Selection::default());
    let value = serde_json::to_value(document(&facts, Benchmark::V1_12, &findings)).unwrap();
    let first = &value["Controls"][0];
    assert_eq!(
        (&first["id"], &first["node_type"], &first["version"]),
        (&"1".into(), &"master".into(), &"cis-1.12".into())
    );
    let results: Vec<&serde_json::Value> = value["Controls"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|part| part["tests"].as_array().unwrap())
        .flat_map(|section| section["results"].as_array().unwrap())
        .collect();
    assert_eq!(results.len(), findings.len());
    let profiling = results.iter().find(|result| result["test_number"] == "1.2.15").unwrap();
    assert_eq!((&profiling["status"], &profiling["scored"]), (&"FAIL".into(), &true.into()));
    assert_eq!(profiling["remediation"], "--set apiServer.extraArgs.profiling=false");
    assert_eq!(value["Totals"]["total_fail"], Totals::of(&findings).fail);
    let parts: Vec<(&str, Option<&str>)> = value["Controls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["node_type"].as_str().unwrap(), part["node"].as_str()))
        .collect();
    let expected = [
        ("master", Some("n")),
        ("etcd", Some("n")),
        ("controlplane", Some("n")),
        ("node", Some("n")),
        ("node", Some("w")),
        ("policies", None),
    ];
    assert_eq!(parts, expected);
}

#[test]
fn what_reads_kube_benchs_results_reads_ours() {
    let mut facts = with("kube-apiserver", "--profiling=true");
    facts.objects.nodes = vec![parsed("{metadata: {name: far}}")];
    let findings = assess(&facts, Benchmark::V1_12, &[], &Selection::default());
    let value = serde_json::to_value(document(&facts, Benchmark::V1_12, &findings)).unwrap();
    assert_eq!(value["unseen"], serde_json::json!(["far"]));
    let read = comparison::KubeBench::parse(&value.to_string()).unwrap();
    assert_eq!(read.version(), "cis-1.12");
    let pairs = comparison::compare(&findings, "n", &read);
    assert_eq!(pairs.len(), findings.len());
    assert!(pairs.iter().all(|pair| pair.relation == comparison::Relation::Same));
}

#[test]
fn every_field_of_a_remedy_is_one_of_a_profile() {
    use crate::documents::profile::{SearchPath, load};
    for control in controls() {
        if let Remedy::Set(fields) | Remedy::Plugin(_, fields) = control.remedy {
            let mut fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            if let Remedy::Plugin(plugin, _) = control.remedy {
                fields.push(format!("apiServer.extraArgs.enable-admission-plugins={plugin}"));
            }
            let nowhere = SearchPath { current: std::path::PathBuf::from("/nonexistent"), user: None, variables: None };
            let loaded = load("default", &fields, &nowhere);
            assert!(loaded.is_ok(), "{}: {fields:?}: {:?}", control.title, loaded.err());
        }
    }
}
