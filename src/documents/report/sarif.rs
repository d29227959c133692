//! A report as SARIF 2.1.0: a run for each cluster, a rule for each control, a result for each that does not hold.

use serde_json::{Value, json};

use super::{Cluster, Report, Row};

/// The report as SARIF.
#[must_use]
pub fn sarif(report: &Report) -> Value {
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": report.clusters.iter().map(|cluster| run(report, cluster)).collect::<Vec<_>>(),
    })
}

fn run(report: &Report, cluster: &Cluster) -> Value {
    let mut ids: Vec<&str> = Vec::new();
    let mut rules = Vec::new();
    for row in cluster.rows() {
        if !ids.contains(&row.id.as_str()) {
            ids.push(&row.id);
            rules.push(json!({
                "id": row.id,
                "shortDescription": {"text": row.title},
                "help": {"text": row.remedy},
                "properties": {"level": row.level, "scored": row.scored},
            }));
        }
    }
    let results: Vec<Value> =
        cluster.rows().filter(|row| row.status != "PASS").map(|row| result(cluster, row, &ids)).collect();
    json!({
        "tool": {"driver": {
            "name": "kprov", "version": report.kprov, "rules": rules,
            "properties": {"benchmark": cluster.benchmark, "kubernetes": cluster.kubernetes},
        }},
        "invocations": [{"executionSuccessful": true, "endTimeUtc": report.created}],
        "results": results,
    })
}

fn result(cluster: &Cluster, row: &Row, ids: &[&str]) -> Value {
    let level = if row.status == "FAIL" { "error" } else { "warning" };
    let place = row.node.as_deref().unwrap_or(&cluster.name);
    let mut value = json!({
        "ruleId": row.id,
        "ruleIndex": ids.iter().position(|id| *id == row.id),
        "level": level,
        "message": {"text": format!("{}: {}", row.title, row.evidence)},
        "locations": [{"logicalLocations": [{
            "name": place, "fullyQualifiedName": format!("{}/{place}", cluster.name), "kind": "resource",
        }]}],
    });
    if let Some(reason) = &row.reason {
        value["suppressions"] = json!([{"kind": "external", "status": "accepted", "justification": reason}]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;
    use super::*;

    #[test]
    fn what_does_not_hold_is_a_result() {
        let value = sarif(&hostile());
        let run = &value["runs"][0];
        let levels: Vec<&str> =
            run["results"].as_array().unwrap().iter().map(|result| result["level"].as_str().unwrap()).collect();
        assert_eq!(levels, ["error", "warning", "warning"]);
        assert_eq!(run["results"][2]["suppressions"][0]["justification"], "because");
        for result in run["results"].as_array().unwrap() {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        }
    }
}
