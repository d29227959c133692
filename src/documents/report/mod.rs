//! What is told of clusters in one document: a page for people, JSON, JUnit and SARIF for programs.
//!
//! Owns the data and its forms; asks no cluster.

mod compare;
mod junit;
mod page;
mod sarif;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

use crate::documents::cis::results::{numbers, section, section_title};
use crate::documents::cis::{Finding, Kind};
use crate::documents::timings::Timings;

pub use junit::junit;
pub use page::{Beside, earlier, page};
pub use sarif::sarif;

/// Everything that is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The version of kprov.
    pub kprov: String,
    /// When the clusters were looked at.
    pub created: String,
    /// The clusters.
    pub clusters: Vec<Cluster>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// The version of Kubernetes.
    pub kubernetes: String,
    /// The version of the benchmark.
    pub benchmark: String,
    /// The profile, if kprov made it.
    pub profile: Option<String>,
    /// The digest of what it was made from, if kprov made it.
    pub digest: Option<String>,
    /// Its nodes.
    pub nodes: Vec<NodeLine>,
    /// Nodes that the API server knows and that were not looked at.
    #[serde(default)]
    pub unseen: Vec<String>,
    /// What `verify` has seen.
    pub evidence: Vec<Evidence>,
    /// How a Secret is stored in etcd.
    pub secret: Option<Secret>,
    /// What the steps took by which it was last made, if kprov made it.
    #[serde(default)]
    pub timings: Option<Timings>,
    /// What came of the benchmark.
    pub sections: Vec<Section>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: String,
}

/// Something that `verify` has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// What was looked at.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen.
    pub evidence: String,
}

/// How a Secret is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    /// Under which provider and key.
    pub stored: String,
    /// Its first bytes, as a hexdump.
    pub first_bytes: String,
}

/// A section of the benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Section {
    /// Its number.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// Its controls.
    pub rows: Vec<Row>,
}

/// A control on a node, or in the cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// Its number.
    pub id: String,
    /// What holds where it passes.
    pub title: String,
    /// 1 or 2.
    pub level: u8,
    /// Whether it is scored.
    pub scored: bool,
    /// How the benchmark says that it is assessed: `automated` or `manual`. Reports of kprov's first versions do not say.
    #[serde(default)]
    pub assessment: String,
    /// `PASS`, `FAIL`, `WARN` or `EXCEPTED`.
    #[schemars(regex(pattern = "^(PASS|FAIL|WARN|EXCEPTED)$"))]
    pub status: String,
    /// The node; none if it is about the cluster.
    pub node: Option<String>,
    /// What decided.
    pub evidence: String,
    /// What closes it.
    pub remedy: String,
    /// Why it is excepted.
    pub reason: Option<String>,
}

/// The JSON Schema of a report as JSON (draft 2020-12), made from the types.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Report>().to_value();
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "kprov report".into());
    }
    schema
}

/// Findings by their sections.
#[must_use]
pub fn sections(findings: &[Finding]) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    for finding in findings {
        let id = section(finding.id);
        let row = Row {
            id: finding.id.to_owned(),
            title: finding.control.title.to_owned(),
            level: finding.control.level,
            scored: finding.kind == Kind::Scored,
            assessment: finding.kind.word().to_owned(),
            status: finding.status.word().to_owned(),
            node: finding.node.clone(),
            evidence: finding.evidence.clone(),
            remedy: finding.remedy.clone(),
            reason: finding.reason.clone(),
        };
        match sections.iter_mut().find(|section| section.id == id) {
            Some(section) => section.rows.push(row),
            None => {
                let title = section_title(id).to_owned();
                sections.push(Section { id: id.to_owned(), title, rows: vec![row] });
            }
        }
    }
    sections.sort_by_key(|section| numbers(&section.id));
    sections
}

impl Row {
    /// Its level and how it is assessed, as far as that is known.
    fn class(&self) -> String {
        let level = format!("level {}", self.level);
        if self.assessment.is_empty() { level } else { format!("{level}, {}", self.assessment) }
    }
}

impl Cluster {
    /// Every control.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sections.iter().flat_map(|section| &section.rows)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::documents::timings::{Ended, Step};

    #[test]
    fn the_schema_holds() {
        let validator = jsonschema::draft202012::new(&json_schema()).unwrap();
        let value = serde_json::to_value(hostile()).unwrap();
        assert!(validator.is_valid(&value), "{:?}", validator.iter_errors(&value).next());
        for (place, wrong) in [
            ("/clusters/0/sections/0/rows/0/status", "FINE".into()),
            ("/clusters/0/sections/0/rows/0/level", "1".into()),
            ("/clusters/0/timings/totalMs", (-1).into()),
            ("/clusters/0/evidence", serde_json::Value::Null),
            ("/created", serde_json::Value::Null),
        ] {
            let mut broken = value.clone();
            *broken.pointer_mut(place).unwrap() = wrong;
            assert!(!validator.is_valid(&broken), "{place}");
        }
    }

    /// A report of a cluster whose texts mean harm.
    pub(super) fn hostile() -> Report {
        let row = |id: &str, status: &str| Row {
            id: id.to_owned(),
            title: "Nothing <b>bad</b> & \"quoted\"".to_owned(),
            level: 1,
            scored: true,
            assessment: "automated".to_owned(),
            status: status.to_owned(),
            node: Some("n".to_owned()),
            evidence: "</script><script>alert(1)</script>\u{0}\u{1b}[2J]]>".to_owned(),
            remedy: "--set 'a=b'".to_owned(),
            reason: (status == "EXCEPTED").then(|| "because".to_owned()),
        };
        let rows = vec![row("1.1.1", "PASS"), row("1.1.2", "FAIL"), row("1.1.3", "WARN"), row("1.1.4", "EXCEPTED")];
        Report {
            kprov: "0.1.0".to_owned(),
            created: "2026-11-25T20:00:00Z".to_owned(),
            clusters: vec![Cluster {
                name: "c".to_owned(),
                kubernetes: "v1.36.2".to_owned(),
                benchmark: "cis-1.12".to_owned(),
                profile: None,
                digest: None,
                nodes: vec![NodeLine { name: "n".to_owned(), role: "control-plane".to_owned() }],
                unseen: vec!["<b>far".to_owned()],
                evidence: vec![Evidence { name: "e".to_owned(), ok: true, evidence: "<img src=x>".to_owned() }],
                secret: Some(Secret { stored: "k8s:enc".to_owned(), first_bytes: "00000000  6b |k<s|\n".to_owned() }),
                timings: Some(Timings {
                    command: "up</script>".to_owned(),
                    began: "<img src=x>".to_owned(),
                    total_ms: 2000,
                    steps: vec![Step {
                        node: Some("<b>n".to_owned()),
                        name: "</script><script>alert(1)</script>".to_owned(),
                        start_ms: 500,
                        length_ms: 1000,
                        ended: Ended::Done,
                    }],
                }),
                sections: vec![Section { id: "1.1".to_owned(), title: "Files".to_owned(), rows }],
            }],
        }
    }
}
