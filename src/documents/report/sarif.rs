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
                "properties": {"level": row.level, "scored": row.scored, "assessment": row.assessment},
            }));
        }
    }
    let unseen: Vec<Value> = cluster
        .unseen
        .iter()
        .map(|node| json!({"level": "warning", "message": {"text": format!("{node} was not looked at: no container is called so")}}))
        .collect();
    let results: Vec<Value> =
        cluster.rows().filter(|row| row.status != "PASS").map(|row| result(cluster, row, &ids)).collect();
    json!({
        "tool": {"driver": {
            "name": "kprov", "version": report.kprov, "rules": rules,
            "properties": {"benchmark": cluster.benchmark, "kubernetes": cluster.kubernetes},
        }},
        "invocations": [{
            "executionSuccessful": true, "endTimeUtc": report.created, "toolExecutionNotifications": unseen,
        }],
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

    /// What SARIF 2.1.0 asks of the objects that are written here (its sections 3.13 to 3.58), none of which may have anything
    /// else. In kprov's own words.
    fn schema() -> Value {
        let object = |required: &[&str], properties: Value| json!({"type": "object", "additionalProperties": false, "required": required, "properties": properties});
        let list = |items: Value| json!({"type": "array", "items": items});
        let text = json!({"type": "string"});
        let message = object(&["text"], json!({"text": text}));
        let rule = object(
            &["id"],
            json!({"id": text, "shortDescription": message, "help": message, "properties": {"type": "object"}}),
        );
        let driver = object(
            &["name"],
            json!({
                "name": text, "version": text, "properties": {"type": "object"},
                "rules": {"type": "array", "items": rule, "uniqueItems": true},
            }),
        );
        let levels = json!({"enum": ["none", "note", "warning", "error"]});
        let place = object(&[], json!({"name": text, "fullyQualifiedName": text, "kind": text}));
        let suppression = object(
            &["kind"],
            json!({
                "kind": {"enum": ["inSource", "external"]}, "status": {"enum": ["accepted", "underReview", "rejected"]},
                "justification": text,
            }),
        );
        let result = object(
            &["message"],
            json!({
                "ruleId": text, "ruleIndex": {"type": "integer", "minimum": -1}, "level": levels, "message": message,
                "locations": list(object(&[], json!({"logicalLocations": list(place)}))),
                "suppressions": list(suppression),
            }),
        );
        let moment = json!({"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"});
        let notification = object(&["message"], json!({"level": levels, "message": message}));
        let invocation = object(
            &["executionSuccessful"],
            json!({
                "executionSuccessful": {"type": "boolean"}, "endTimeUtc": moment,
                "toolExecutionNotifications": list(notification),
            }),
        );
        let run = object(
            &["tool"],
            json!({
                "tool": object(&["driver"], json!({"driver": driver})), "invocations": list(invocation),
                "results": list(result),
            }),
        );
        object(&["version", "runs"], json!({"$schema": text, "version": {"const": "2.1.0"}, "runs": list(run)}))
    }

    #[test]
    fn the_schema_holds() {
        let validator = jsonschema::draft202012::new(&schema()).unwrap();
        let value = sarif(&hostile());
        assert!(validator.is_valid(&value), "{:?}", validator.iter_errors(&value).next());
        assert!(validator.is_valid(&sarif(&Report { clusters: Vec::new(), ..hostile() })));
        for (place, wrong) in [
            ("/runs/0/results/0/level", json!("fatal")),
            ("/runs/0/results/0/message", json!("text")),
            ("/runs/0/results/2/suppressions/0/kind", json!("mine")),
            ("/runs/0/invocations/0/endTimeUtc", json!("yesterday")),
            ("/version", json!("2.0.0")),
        ] {
            let mut broken = value.clone();
            *broken.pointer_mut(place).unwrap() = wrong;
            assert!(!validator.is_valid(&broken), "{place}");
        }
    }
}
