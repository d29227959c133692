//! A report beside another one: which of its clusters is meant, what each control was there, and what has changed.

use serde::Serialize;

use super::{Cluster, Evidence, Report, Row};

/// Something that is otherwise than in the report before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    cluster: String,
    what: String,
    node: Option<String>,
    before: String,
    after: String,
    /// Whether both are statuses of a control.
    of_control: bool,
}

/// All that has changed since an earlier report: the clusters themselves, what they are, what was seen of them, and their controls.
pub(super) fn changes(before: &Report, after: &Report) -> Vec<Change> {
    let mut all = Vec::new();
    let cluster_change = |name: &str, before: &str, after: &str| Change {
        cluster: name.to_owned(),
        what: "the cluster".to_owned(),
        node: None,
        before: before.to_owned(),
        after: after.to_owned(),
        of_control: false,
    };
    for cluster in &after.clusters {
        match same(before, cluster) {
            Some(earlier) => {
                all.extend(of_cluster(earlier, cluster));
                all.extend(of_evidence(earlier, cluster));
                all.extend(of_controls(earlier, cluster));
            }
            None => all.push(cluster_change(&cluster.name, NONE, "looked at")),
        }
    }
    let gone = before.clusters.iter().filter(|earlier| same(after, earlier).is_none());
    all.extend(gone.map(|earlier| cluster_change(&earlier.name, "looked at", "not looked at")));
    all
}

/// What stands for nothing.
const NONE: &str = "–";

/// What a cluster is: its version, nodes and profile, and how its Secrets are stored.
fn of_cluster(before: &Cluster, after: &Cluster) -> Vec<Change> {
    let text = |value: Option<&str>| value.unwrap_or(NONE).to_owned();
    let list = |items: Vec<String>| if items.is_empty() { NONE.to_owned() } else { items.join(", ") };
    let facts = |cluster: &Cluster| {
        let nodes = cluster.nodes.iter().map(|node| format!("{} ({})", node.name, node.role)).collect();
        [
            ("Kubernetes", cluster.kubernetes.clone()),
            ("benchmark", cluster.benchmark.clone()),
            ("profile", text(cluster.profile.as_deref())),
            ("digest of what it was made from", text(cluster.digest.as_deref())),
            ("nodes", list(nodes)),
            ("nodes that were not looked at", list(cluster.unseen.clone())),
            ("Secrets are stored as", text(cluster.secret.as_ref().map(|secret| secret.stored.as_str()))),
        ]
    };
    let name = after.name.clone();
    let pairs = facts(before).into_iter().zip(facts(after));
    let changed = pairs.filter(|((_, before), (_, after))| before != after);
    changed
        .map(|((what, before), (_, after))| Change {
            cluster: name.clone(),
            what: what.to_owned(),
            node: None,
            before,
            after,
            of_control: false,
        })
        .collect()
}

/// What was seen of a cluster: what holds now and did not, or the other way round, and what reads otherwise but for numbers and names that
/// are made anew each time.
fn of_evidence(before: &Cluster, after: &Cluster) -> Vec<Change> {
    let mut changes = Vec::new();
    let told = |evidence: Option<&Evidence>| match evidence {
        Some(one) => format!("{}{}", if one.ok { "" } else { "does not hold: " }, one.evidence),
        None => NONE.to_owned(),
    };
    let gone = before.evidence.iter().filter(|one| !after.evidence.iter().any(|now| now.name == one.name));
    for name in after.evidence.iter().chain(gone).map(|one| &one.name) {
        let find = |cluster: &'_ Cluster| cluster.evidence.iter().find(|one| one.name == *name).cloned();
        let (earlier, now) = (find(before), find(after));
        let same = match (&earlier, &now) {
            (Some(earlier), Some(now)) => earlier.ok == now.ok && lasting(&earlier.evidence) == lasting(&now.evidence),
            _ => false,
        };
        if !same {
            changes.push(Change {
                cluster: after.name.clone(),
                what: name.clone(),
                node: None,
                before: told(earlier.as_ref()),
                after: told(now.as_ref()),
                of_control: false,
            });
        }
    }
    changes
}

/// The words of a text that have no digit in them.
fn lasting(text: &str) -> Vec<&str> {
    text.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit())).collect()
}

/// Controls whose status is another one.
fn of_controls(before: &Cluster, after: &Cluster) -> Vec<Change> {
    let changed = after.rows().filter_map(|row| {
        let earlier = status(before, after, row).filter(|earlier| *earlier != row.status)?;
        Some(Change {
            cluster: after.name.clone(),
            what: format!("{} {}", row.id, row.title),
            node: row.node.clone(),
            before: earlier.to_owned(),
            after: row.status.clone(),
            of_control: true,
        })
    });
    changed.collect()
}

/// The same cluster in another report.
pub(super) fn same<'a>(report: &'a Report, cluster: &Cluster) -> Option<&'a Cluster> {
    report.clusters.iter().find(|other| other.name == cluster.name)
}

/// The cluster of another report that this one is held against: one that is judged by the same benchmark, if there is one.
pub(super) fn baseline<'a>(report: &'a Report, cluster: &Cluster) -> Option<&'a Cluster> {
    report.clusters.iter().find(|other| other.benchmark == cluster.benchmark).or(report.clusters.first())
}

/// What came of a control of `cluster` in another one, on the same node if that has it, and on those of the same role
/// otherwise: there, the worst that was found. A control of another version of the benchmark is told by what it is about.
pub(super) fn status<'a>(other: &'a Cluster, cluster: &Cluster, row: &Row) -> Option<&'a str> {
    let by_number = other.benchmark == cluster.benchmark;
    let is_it = |there: &&Row| if by_number { there.id == row.id } else { there.title == row.title };
    let node = row.node.as_deref();
    let has_node = node.is_some_and(|name| other.nodes.iter().any(|there| there.name == name));
    let role = |of: &Cluster, name: Option<&str>| {
        of.nodes.iter().find(|node| Some(node.name.as_str()) == name).map(|node| node.role.clone())
    };
    let own_role = role(cluster, node);
    let is_there = |there: &&Row| match (node, there.node.as_deref()) {
        (None, None) => true,
        (Some(_), Some(name)) if has_node => node == Some(name),
        (Some(_), Some(name)) => own_role.is_some() && role(other, Some(name)) == own_role,
        _ => false,
    };
    let found = other.rows().filter(is_it).filter(is_there).map(|there| there.status.as_str());
    found.min_by_key(|status| ["FAIL", "WARN", "EXCEPTED", "PASS"].iter().position(|known| known == status))
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;
    use super::super::{NodeLine, Row};
    use super::*;

    fn cluster(name: &str, benchmark: &str, rows: &[(&str, &str, Option<&str>, &str)]) -> Cluster {
        let mut cluster = hostile().clusters.remove(0);
        let row = cluster.sections[0].rows[0].clone();
        cluster.name = name.to_owned();
        cluster.benchmark = benchmark.to_owned();
        cluster.nodes = ["control-plane", "worker", "worker2"]
            .into_iter()
            .map(|node| NodeLine {
                name: format!("{name}-{node}"),
                role: if node.starts_with('w') { "worker" } else { "control plane" }.to_owned(),
            })
            .collect();
        let rows = rows.iter().map(|(id, title, node, status)| Row {
            id: (*id).to_owned(),
            title: (*title).to_owned(),
            node: node.map(|node| format!("{name}-{node}")),
            status: (*status).to_owned(),
            ..row.clone()
        });
        cluster.sections[0].rows = rows.collect();
        cluster
    }

    #[test]
    fn a_control_is_found_by_node_or_role_and_in_another_version_by_what_it_is_about() {
        let now = cluster(
            "a",
            "cis-1.12",
            &[
                ("4.2.1", "kubelet", Some("worker"), "PASS"),
                ("1.2.1", "flag", Some("control-plane"), "PASS"),
                ("5.1.1", "rbac", None, "PASS"),
            ],
        );
        let rows = &now.sections[0].rows;
        let found = |other: &Cluster| -> Vec<Option<String>> {
            rows.iter().map(|row| status(other, &now, row).map(str::to_owned)).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        let others = [
            ("4.2.1", "kubelet", Some("worker"), "WARN"),
            ("4.2.1", "kubelet", Some("worker2"), "FAIL"),
            ("4.2.1", "kubelet", Some("control-plane"), "PASS"),
            ("5.1.1", "rbac", None, "WARN"),
            ("9.9.9", "flag", Some("control-plane"), "FAIL"),
        ];
        assert_eq!(found(&cluster("a", "cis-1.12", &others)), [some("WARN"), None, some("WARN")]);
        assert_eq!(found(&cluster("plain", "cis-1.12", &others)), [some("FAIL"), None, some("WARN")]);
        assert_eq!(found(&cluster("plain", "cis-1.20", &others)), [some("FAIL"), some("FAIL"), some("WARN")]);
    }

    #[test]
    fn the_cluster_that_is_meant_is_found() {
        let report = |clusters: Vec<Cluster>| Report { clusters, ..hostile() };
        let (a, b) = (cluster("a", "cis-1.20", &[]), cluster("b", "cis-1.12", &[]));
        let both = report(vec![a.clone(), b]);
        let now = cluster("a", "cis-1.12", &[]);
        assert_eq!(same(&both, &now).unwrap().benchmark, "cis-1.20");
        assert_eq!(baseline(&both, &now).unwrap().name, "b");
        assert_eq!(baseline(&report(vec![a]), &now).unwrap().name, "a");
        assert!(baseline(&report(Vec::new()), &now).is_none() && same(&report(Vec::new()), &now).is_none());
    }

    #[test]
    fn whatever_has_changed_is_told() {
        let before = hostile();
        assert_eq!(changes(&before, &before), Vec::new());
        let mut after = hostile();
        let cluster = &mut after.clusters[0];
        cluster.kubernetes = "v1.37.0".to_owned();
        cluster.nodes.push(NodeLine { name: "w".to_owned(), role: "worker".to_owned() });
        cluster.secret = None;
        cluster.evidence[0].ok = false;
        cluster.evidence.push(Evidence { name: "new".to_owned(), ok: true, evidence: "there".to_owned() });
        cluster.sections[0].rows[0].status = "FAIL".to_owned();
        let mut other = cluster.clone();
        other.name = "d".to_owned();
        after.clusters.push(other);
        let told = |before: &Report, after: &Report| -> Vec<[String; 4]> {
            let list = changes(before, after).into_iter();
            list.map(|change| [change.cluster, change.what, change.before, change.after]).collect()
        };
        let expected = [
            ["c", "Kubernetes", "v1.36.2", "v1.37.0"],
            ["c", "nodes", "n (control-plane)", "n (control-plane), w (worker)"],
            ["c", "Secrets are stored as", "k8s:enc", "–"],
            ["c", "e", "<img src=x>", "does not hold: <img src=x>"],
            ["c", "new", "–", "there"],
            ["c", "1.1.1 Nothing <b>bad</b> & \"quoted\"", "PASS", "FAIL"],
            ["d", "the cluster", "–", "looked at"],
        ];
        assert_eq!(told(&before, &after), expected);
        assert_eq!(told(&after, &before).last().unwrap(), &["d", "the cluster", "looked at", "not looked at"]);
    }

    #[test]
    fn numbers_and_names_that_are_made_anew_are_no_change() {
        let mut before = hostile();
        let mut after = hostile();
        let mut told = |earlier: &str, now: &str| {
            before.clusters[0].evidence[0].evidence = earlier.to_owned();
            after.clusters[0].evidence[0].evidence = now.to_owned();
            changes(&before, &after).len()
        };
        assert_eq!(told("audit.log has 813663 bytes", "audit.log has 913663 bytes"), 0);
        assert_eq!(told("kprov-canary-b45e9f80 is stored", "kprov-canary-0e9f80aa is stored"), 0);
        assert_eq!(told("36 of 36 values are encrypted", "36 of 36 values are plain text"), 1);
    }
}
