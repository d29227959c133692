//! A report beside another one: which of its clusters is meant, and what each control was there.

use super::{Cluster, Report, Row};

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
}
