//! kube-bench's verdicts beside ours: same, stricter or laxer, and why they differ where that is known.

use serde::{Deserialize, Serialize};

use super::benchmark::Benchmark;
use super::control::Kind;
use super::results::{Finding, numbers};
use super::verdict::Status;

/// What kube-bench prints with `--json`; of it, what is compared.
#[derive(Debug, Deserialize)]
pub struct KubeBench {
    /// Its parts.
    #[serde(rename = "Controls")]
    controls: Vec<TheirPart>,
}

#[derive(Debug, Deserialize)]
struct TheirPart {
    #[serde(default)]
    version: String,
    #[serde(default, rename = "tests")]
    sections: Vec<TheirSection>,
}

#[derive(Debug, Deserialize)]
struct TheirSection {
    #[serde(default)]
    results: Vec<Theirs>,
}

/// A verdict of kube-bench.
#[derive(Debug, Clone, Deserialize)]
struct Theirs {
    test_number: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    scored: bool,
    #[serde(default, rename = "type")]
    kind: String,
    /// What its command printed.
    #[serde(default)]
    actual_value: String,
}

impl KubeBench {
    /// Reads what kube-bench has printed; there may be warnings before it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let start = text.find('{').ok_or("it printed no JSON")?;
        // What follows the document is talk, too.
        let mut documents = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Self>();
        match documents.next() {
            Some(Ok(document)) if document.controls.iter().any(|part| !part.sections.is_empty()) => Ok(document),
            Some(Ok(_)) => Err("its JSON has no results".to_owned()),
            Some(Err(error)) => Err(format!("its JSON cannot be read: {error}")),
            None => Err("it printed no JSON".to_owned()),
        }
    }

    /// The version of the benchmark that it has used, if that is known.
    #[must_use]
    pub fn benchmark(&self) -> Option<Benchmark> {
        self.version().parse().ok()
    }

    /// The name of the version of the benchmark that it has used.
    #[must_use]
    pub fn version(&self) -> &str {
        self.controls.first().map_or("", |part| part.version.as_str())
    }
}

/// How our verdict relates to theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// Both pass, or neither does.
    Same,
    /// Ours does not pass, theirs does.
    Stricter,
    /// Ours passes, theirs does not.
    Laxer,
    /// Only one of the two has the control.
    Missing,
}

/// Both verdicts on a control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pair {
    /// The node that kube-bench ran on.
    pub node: String,
    /// The number.
    pub id: String,
    /// Whether it is scored.
    pub scored: bool,
    /// Ours.
    pub ours: Option<Status>,
    /// Theirs.
    pub theirs: Option<String>,
    /// How they relate.
    pub relation: Relation,
    /// Why they differ, if that is known.
    pub why: Option<&'static str>,
}

impl Pair {
    /// Whether the two differ in what nobody knows why, or in what is scored, where they are not to differ at all.
    #[must_use]
    pub fn is_unexplained(&self) -> bool {
        self.relation != Relation::Same && (self.scored || self.why.is_none())
    }
}

/// What is known to differ: a control by its number in a version, the relation, and why that is so.
const KNOWN: [(Benchmark, &[&str], Relation, &str); 13] = [
    (
        Benchmark::V1_12,
        &["1.2.1"],
        Relation::Laxer,
        "kube-bench looks at the flag; ours, too, at the configuration by which requests without a name get to probes' paths alone",
    ),
    (
        Benchmark::V1_12,
        &["1.1.9", "1.1.10"],
        Relation::Laxer,
        "kube-bench looks where --cni-conf-dir points, a flag that these kubelets do not have; ours looks into /etc/cni/net.d",
    ),
    (
        Benchmark::V1_12,
        &["4.1.3", "4.1.4"],
        Relation::Laxer,
        "kube-proxy's kubeconfig is in a ConfigMap; no file is no harm, which kube-bench cannot tell from no answer",
    ),
    (
        Benchmark::V1_12,
        &["4.2.9"],
        Relation::Laxer,
        "kube-bench knows fixed certificates only; ours takes serverTLSBootstrap, which has them signed by the cluster's CA",
    ),
    (
        Benchmark::V1_12,
        &["4.2.13", "4.2.14"],
        Relation::Stricter,
        "kube-bench asks whether the field is there, ours what it says",
    ),
    (
        Benchmark::V1_12,
        &["4.3.1"],
        Relation::Stricter,
        "kube-bench looks at the flag, ours at the configuration that wins over it",
    ),
    (
        Benchmark::V1_12,
        &["5.1.1"],
        Relation::Stricter,
        "kube-bench lists bindings of the cluster; ours those of namespaces, too, and who else is in the built-in one",
    ),
    (
        Benchmark::V1_12,
        &["5.1.2", "5.1.4"],
        Relation::Stricter,
        "kube-bench asks what a user called system:authenticated may do; ours follows every binding",
    ),
    (
        Benchmark::V1_12,
        &["5.1.2", "5.1.4", "5.1.5"],
        Relation::Laxer,
        "kube-bench counts what its question could not be answered with",
    ),
    (
        Benchmark::V1_12,
        &["5.1.3", "5.1.6", "5.2.2", "5.2.3", "5.2.4", "5.2.5", "5.2.6"],
        Relation::Laxer,
        "kube-bench counts roles and pods without which there is no cluster, and its own; ours counts them apart",
    ),
    (
        Benchmark::V1_12,
        &["5.2.2", "5.2.3", "5.2.4", "5.2.5", "5.2.6"],
        Relation::Stricter,
        "kube-bench looks at pods that run; ours asks whether anything would refuse a new one",
    ),
    (
        Benchmark::V1_11,
        &["5.2.9"],
        Relation::Stricter,
        "kube-bench looks at pods that run; ours asks whether anything would refuse a new one",
    ),
    (
        Benchmark::V1_11,
        &["4.2.15", "5.2.9"],
        Relation::Laxer,
        "kube-bench looks for a flag that there is not, or counts the cluster's own pods; ours looks at the unit, and counts them apart",
    ),
];

/// Why both sides may differ in a control that kube-bench leaves to a person.
const TO_A_PERSON: &str = "kube-bench leaves it to a person; ours looks";

/// Why they may differ where a program that kube-bench's command needs, such as jq, is not there.
const COULD_NOT_LOOK: &str = "kube-bench's command did not run: a program that it needs is not there";

/// Whether a control is scored: it is enough that one of the two says so, so that neither can hide it.
fn is_scored(ours: Option<&Finding>, theirs: &Theirs) -> bool {
    theirs.scored || ours.is_some_and(|finding| finding.kind == Kind::Scored)
}

fn why(finding: &Finding, theirs: &Theirs, relation: Relation) -> Option<&'static str> {
    if theirs.kind == "manual" && !is_scored(Some(finding), theirs) {
        return Some(TO_A_PERSON);
    }
    let lacks = |line: &str| line.starts_with("/bin/sh:") && line.ends_with(": not found");
    if !is_scored(Some(finding), theirs)
        && relation == Relation::Laxer
        && theirs.actual_value.lines().any(|line| lacks(line.trim()))
    {
        return Some(COULD_NOT_LOOK);
    }
    let known = KNOWN.iter().find(|(benchmark, ids, of, _)| {
        *of == relation && ids.iter().any(|id| super::is(finding.control, *benchmark, id))
    });
    known.map(|(.., why)| *why)
}

/// Compares our findings with what kube-bench says on one node. Where an exception was made, it is the control itself that
/// counts.
#[must_use]
pub fn compare(findings: &[Finding], node: &str, theirs: &KubeBench) -> Vec<Pair> {
    let theirs: Vec<&Theirs> =
        theirs.controls.iter().flat_map(|part| &part.sections).flat_map(|one| &one.results).collect();
    let mut pairs = Vec::new();
    for verdict in &theirs {
        // A control of the whole cluster is compared wherever kube-bench looked at it.
        let ours = findings.iter().find(|finding| {
            finding.id == verdict.test_number && finding.node.as_deref().is_none_or(|name| name == node)
        });
        let relation = match ours {
            None => Relation::Missing,
            Some(finding) => match (finding.status == Status::Pass, verdict.status == "PASS") {
                (false, true) => Relation::Stricter,
                (true, false) => Relation::Laxer,
                _ => Relation::Same,
            },
        };
        pairs.push(Pair {
            node: node.to_owned(),
            id: verdict.test_number.clone(),
            scored: is_scored(ours, verdict),
            ours: ours.map(|finding| finding.status),
            theirs: Some(verdict.status.clone()),
            relation,
            why: ours.filter(|_| relation != Relation::Same).and_then(|finding| why(finding, verdict, relation)),
        });
    }
    // What is about the whole cluster, kube-bench looks at on control planes.
    let is_control_plane =
        findings.iter().any(|finding| finding.node.as_deref() == Some(node) && finding.id.starts_with("1."));
    let is_due = |finding: &&Finding| finding.node.as_deref().map_or(is_control_plane, |name| name == node);
    for finding in findings.iter().filter(is_due) {
        if !theirs.iter().any(|verdict| verdict.test_number == finding.id) {
            pairs.push(Pair {
                node: node.to_owned(),
                id: finding.id.to_owned(),
                scored: finding.kind == Kind::Scored,
                ours: Some(finding.status),
                theirs: None,
                relation: Relation::Missing,
                why: None,
            });
        }
    }
    pairs.sort_by_key(|pair| numbers(&pair.id));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::cis::find;

    fn finding(id: &'static str, status: Status) -> Finding {
        let control = find(Benchmark::V1_12, id).unwrap();
        let kind = control.place(Benchmark::V1_12).unwrap().kind;
        Finding {
            control,
            id,
            kind,
            node: Some("n".to_owned()),
            status,
            evidence: String::new(),
            found: Vec::new(),
            remedy: String::new(),
            reason: None,
        }
    }

    fn pairs(findings: &[Finding], results: &str) -> Vec<Pair> {
        let text = format!(
            "warning {{x\n{{\"Controls\": [{{\"version\": \"cis-1.12\", \"tests\": [{{\"results\": [{results}]}}]}}]}}\n"
        );
        let text = text.strip_prefix("warning {x\n").unwrap();
        compare(findings, "n", &KubeBench::parse(text).unwrap())
    }

    #[test]
    fn verdicts_are_held_side_by_side() {
        let findings = [
            finding("1.2.15", Status::Pass),
            finding("1.2.16", Status::Fail),
            finding("1.2.17", Status::Excepted),
            finding("1.1.9", Status::Pass),
            finding("3.2.2", Status::Pass),
            finding("1.2.18", Status::Pass),
        ];
        let found = pairs(
            &findings,
            r#"{"test_number": "1.2.15", "status": "FAIL", "scored": true}, {"test_number": "1.2.16", "status": "PASS", "scored": true},
               {"test_number": "1.2.17", "status": "FAIL", "scored": true}, {"test_number": "1.1.9", "status": "WARN"},
               {"test_number": "3.2.2", "status": "WARN", "type": "manual"}, {"test_number": "9.9", "status": "PASS"}"#,
        );
        let seen: Vec<(&str, Relation, bool)> =
            found.iter().map(|pair| (pair.id.as_str(), pair.relation, pair.is_unexplained())).collect();
        let expected = [
            ("1.1.9", Relation::Laxer, false),
            ("1.2.15", Relation::Laxer, true),
            ("1.2.16", Relation::Stricter, true),
            ("1.2.17", Relation::Same, false),
            ("1.2.18", Relation::Missing, true),
            ("3.2.2", Relation::Laxer, false),
            ("9.9", Relation::Missing, true),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_command_that_could_not_run_explains_a_hint_and_never_a_scored_verdict() {
        let of = |scored: bool| {
            let findings = [finding("5.1.1", Status::Pass)];
            let result = format!(
                r#"{{"test_number": "5.1.1", "status": "WARN", "scored": {scored}, "actual_value": "/bin/sh: 1: jq: not found\n"}}"#
            );
            pairs(&findings, &result)[0].why
        };
        assert_eq!((of(false), of(true)), (Some(COULD_NOT_LOOK), None));
    }

    #[test]
    fn a_scored_verdict_cannot_be_talked_down() {
        // A kube-bench whose rules were changed: what it calls manual is scored all the same.
        let found = pairs(
            &[finding("1.2.15", Status::Fail)],
            r#"{"test_number": "1.2.15", "status": "PASS", "scored": false, "type": "manual"}"#,
        );
        assert!(found[0].scored && found[0].is_unexplained(), "{found:?}");
    }

    #[test]
    fn a_scored_verdict_that_differs_is_told_even_where_the_reason_is_known() {
        let theirs = r#"{"test_number": "4.3.1", "status": "PASS", "scored": true}"#;
        let found = pairs(&[finding("4.3.1", Status::Fail)], theirs);
        assert!(found[0].why.is_some() && found[0].is_unexplained(), "{found:?}");
    }

    #[test]
    fn what_is_about_the_cluster_is_missed_where_a_control_plane_says_nothing_of_it() {
        let of_cluster = || Finding { node: None, ..finding("5.1.1", Status::Pass) };
        let on_control_plane = [finding("1.2.15", Status::Pass), of_cluster()];
        let found = pairs(&on_control_plane, r#"{"test_number": "1.2.15", "status": "PASS", "scored": true}"#);
        assert_eq!(found.iter().filter(|pair| pair.is_unexplained()).count(), 1, "{found:?}");
        let found = pairs(
            &[finding("4.2.1", Status::Pass), of_cluster()],
            r#"{"test_number": "4.2.1", "status": "PASS", "scored": true}"#,
        );
        assert!(!found.iter().any(Pair::is_unexplained), "{found:?}");
    }

    #[test]
    fn what_is_known_to_differ_is_about_controls_that_there_are() {
        for (benchmark, ids, ..) in KNOWN {
            for id in ids {
                assert!(find(benchmark, id).is_some(), "{benchmark} {id}");
            }
        }
    }

    #[test]
    fn what_is_no_result_is_an_error() {
        for text in
            ["", "no", "{}", r#"{"Controls": []}"#, r#"{"Controls": [{"tests": []}]}"#, r#"{"Controls": [{"tests""#]
        {
            assert!(KubeBench::parse(text).is_err(), "{text}");
        }
    }
}
