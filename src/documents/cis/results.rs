//! What came of every control, for people and, in kube-bench's own words, for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::benchmark::Benchmark;
use super::control::{Control, Kind, Remedy};
use super::evaluate;
use super::facts::Facts;
use super::flags;
use super::table;
use super::verdict::Status;

/// The flag that switches admission plugins on.
const PLUGINS: &str = "enable-admission-plugins";

/// What came of a control on a node, or in the cluster.
#[derive(Debug)]
pub struct Finding {
    /// The control.
    pub control: &'static Control,
    /// Its number in the version of the benchmark that was held against the cluster.
    pub id: &'static str,
    /// How that version judges it.
    pub kind: Kind,
    /// The node; none if it is about the cluster.
    pub node: Option<String>,
    /// What came of it.
    pub status: Status,
    /// What decided.
    pub evidence: String,
    /// All that was found wrong, by name, where the evidence names but some.
    pub found: Vec<String>,
    /// What closes it, in one line.
    pub remedy: String,
    /// Why it is excepted.
    pub reason: Option<String>,
}

/// A control that need not hold, and why.
#[derive(Debug, Clone)]
pub struct Exception {
    /// The version of the benchmark that the number is of.
    pub benchmark: Benchmark,
    /// The newest version of the benchmark that it holds for; all, if there is none.
    pub until: Option<Benchmark>,
    /// The number.
    pub id: String,
    /// Why.
    pub reason: String,
}

/// Which findings are wanted.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Sections or numbers, such as `1.2` or `5.1.1`; all, if there are none.
    pub sections: Vec<String>,
    /// The highest level; 0 stands for all.
    pub level: u8,
}

impl Selection {
    fn takes(&self, id: &str, control: &Control) -> bool {
        let within = |section: &String| {
            id == section || id.strip_prefix(section.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        (self.sections.is_empty() || self.sections.iter().any(within))
            && (self.level == 0 || control.level <= self.level)
    }
}

/// Holds every control that is wanted against what is known. Findings come in the order of numbers, and of nodes within
/// each.
#[must_use]
pub fn assess(facts: &Facts, benchmark: Benchmark, exceptions: &[Exception], wanted: &Selection) -> Vec<Finding> {
    let mut findings = Vec::new();
    for control in table::controls() {
        let Some(place) = control.place(benchmark).filter(|place| wanted.takes(place.id, control)) else { continue };
        let exception = exceptions.iter().find(|exception| {
            exception.until.is_none_or(|until| benchmark <= until)
                && super::is(control, exception.benchmark, &exception.id)
        });
        for (node, verdict) in evaluate::judge(control, facts) {
            let (status, reason) = match (verdict.holds, exception, place.kind) {
                (Some(true), ..) => (Status::Pass, None),
                (_, Some(exception), _) => (Status::Excepted, Some(exception.reason.clone())),
                (Some(false), None, Kind::Scored) => (Status::Fail, None),
                _ => (Status::Warn, None),
            };
            findings.push(Finding {
                control,
                id: place.id,
                kind: place.kind,
                node: node.map(|node| node.name.clone()),
                status,
                evidence: verdict.evidence,
                found: verdict.found,
                remedy: remedy(control.remedy, facts),
                reason,
            });
        }
    }
    findings.sort_by_key(|finding| numbers(finding.id));
    findings
}

/// A number as a list of its parts, to be ordered by.
#[must_use]
pub fn numbers(id: &str) -> Vec<u32> {
    id.split('.').map(|part| part.parse().unwrap_or_default()).collect()
}

/// The section of a number, such as `1.2` of `1.2.3`; etcd's has no parts.
#[must_use]
pub fn section(id: &str) -> &str {
    match id.rsplit_once('.') {
        Some((section, _)) => section,
        None => id,
    }
}

/// What a section is about.
#[must_use]
pub fn section_title(section: &str) -> &'static str {
    match section {
        "1.1" => "Files of control planes",
        "1.2" => "API server",
        "1.3" => "Controller manager",
        "1.4" => "Scheduler",
        "2" => "etcd",
        "3.1" => "Who gets in",
        "3.2" => "Audit log",
        "4.1" => "Files of nodes",
        "4.2" => "kubelet",
        "4.3" => "kube-proxy",
        "5.1" => "Roles and service accounts",
        "5.2" => "Pod security",
        "5.3" => "Network",
        "5.4" => "Secrets",
        "5.5" => "Images",
        _ => "Workloads",
    }
}

/// How many findings of each kind there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// That hold.
    #[serde(rename = "total_pass")]
    pub pass: usize,
    /// That failed.
    #[serde(rename = "total_fail")]
    pub fail: usize,
    /// That a person has to look at.
    #[serde(rename = "total_warn")]
    pub warn: usize,
    /// Always 0: nothing is left out.
    #[serde(rename = "total_info")]
    pub info: usize,
    /// That are excepted.
    #[serde(rename = "total_excepted")]
    pub excepted: usize,
}

impl Totals {
    /// Counts findings.
    pub fn of<'f>(findings: impl IntoIterator<Item = &'f Finding>) -> Self {
        let mut totals = Self::default();
        for finding in findings {
            match finding.status {
                Status::Pass => totals.pass += 1,
                Status::Fail => totals.fail += 1,
                Status::Warn => totals.warn += 1,
                Status::Excepted => totals.excepted += 1,
            }
        }
        totals
    }
}

/// All findings, as kube-bench writes them; what it does not have is added beside.
#[derive(Debug, Serialize)]
pub struct Document<'f> {
    /// The cluster.
    pub cluster: &'f str,
    /// The benchmark.
    pub benchmark: &'static str,
    /// Nodes that the API server knows and that were not looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<&'f str>,
    /// The first number's parts, a node each.
    #[serde(rename = "Controls")]
    pub controls: Vec<Part<'f>>,
    /// All of them, counted.
    #[serde(rename = "Totals")]
    pub totals: Totals,
}

/// What is about one subject on one node.
#[derive(Debug, Serialize)]
pub struct Part<'f> {
    id: &'static str,
    version: &'static str,
    detected_version: String,
    text: &'static str,
    node_type: &'static str,
    /// Only here: the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'f str>,
    tests: Vec<Section<'f>>,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct Section<'f> {
    section: &'f str,
    #[serde(rename = "type")]
    kind: &'static str,
    pass: usize,
    fail: usize,
    warn: usize,
    info: usize,
    excepted: usize,
    desc: &'static str,
    results: Vec<Outcome<'f>>,
}

#[derive(Debug, Serialize)]
struct Outcome<'f> {
    test_number: &'f str,
    test_desc: String,
    /// kube-bench has a command here; there is none.
    audit: &'static str,
    #[serde(rename = "AuditEnv")]
    audit_env: &'static str,
    #[serde(rename = "AuditConfig")]
    audit_config: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    remediation: String,
    test_info: Vec<String>,
    status: Status,
    actual_value: &'f str,
    scored: bool,
    #[serde(rename = "IsMultiple")]
    is_multiple: bool,
    expected_result: &'f str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'f str>,
    /// Only here: the profile of the benchmark.
    level: u8,
}

/// The subject of a number: kube-bench's kind of node, and what it is about.
fn subject(id: &str) -> (&'static str, &'static str, &'static str) {
    match id.as_bytes().first() {
        Some(b'1') => ("1", "master", "Control planes"),
        Some(b'2') => ("2", "etcd", "etcd"),
        Some(b'3') => ("3", "controlplane", "Access to the cluster"),
        Some(b'4') => ("4", "node", "Nodes"),
        _ => ("5", "policies", "Policies"),
    }
}

/// What closes a control, in one line.
fn remedy(remedy: Remedy, facts: &Facts) -> String {
    let set = |fields: &mut dyn Iterator<Item = &str>| {
        fields.map(|field| format!("--set {}", quoted(field))).collect::<Vec<_>>().join(" ")
    };
    match remedy {
        Remedy::Set(fields) => set(&mut fields.iter().copied()),
        Remedy::Plugin(name, fields) => {
            let list = format!("apiServer.extraArgs.enable-admission-plugins={}", with_plugin(facts, name));
            set(&mut std::iter::once(list.as_str()).chain(fields.iter().copied()))
                + " (it is one list: what else is to be on has to be in it)"
        }
        Remedy::Do(text) => text.to_owned(),
    }
}

/// The admission plugins that an API server has switched on, and one more.
fn with_plugin(facts: &Facts, plugin: &str) -> String {
    let on = facts.nodes.iter().find_map(|node| flags::value(node.arguments("kube-apiserver")?, PLUGINS, true));
    let on = on.unwrap_or_default();
    let mut list: Vec<&str> = on.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if !list.contains(&plugin) {
        list.push(plugin);
    }
    list.join(",")
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    match word.chars().all(|c| c.is_ascii_alphanumeric() || "._-=,/:".contains(c)) {
        true => word.to_owned(),
        false => format!("'{word}'"),
    }
}

/// Findings as a document for programs.
#[must_use]
pub fn document<'f>(facts: &'f Facts, benchmark: Benchmark, findings: &'f [Finding]) -> Document<'f> {
    let mut parts: Vec<(&str, Option<&str>, Vec<&Finding>)> = Vec::new();
    // What is about the whole cluster goes with the first node's, where there is one.
    let (cluster, of_nodes): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().partition(|finding| finding.node.is_none());
    for finding in of_nodes.into_iter().chain(cluster) {
        let (id, node) = (subject(finding.id).0, finding.node.as_deref());
        match parts.iter_mut().find(|part| part.0 == id && (node.is_none() || part.1 == node)) {
            Some(part) => part.2.push(finding),
            None => parts.push((id, node, vec![finding])),
        }
    }
    for part in &mut parts {
        part.2.sort_by_key(|finding| numbers(finding.id));
    }
    parts.sort_by_key(|part| part.0);
    let version = facts.version.trim_start_matches('v');
    let minor: Vec<&str> = version.split('.').take(2).collect();
    let controls = parts
        .into_iter()
        .map(|(_, node, findings)| {
            let (id, node_type, text) = subject(findings[0].id);
            let mut sections: BTreeMap<Vec<u32>, Vec<&Finding>> = BTreeMap::new();
            for finding in &findings {
                sections.entry(numbers(section(finding.id))).or_default().push(finding);
            }
            Part {
                id,
                version: benchmark.name(),
                detected_version: minor.join("."),
                text,
                node_type,
                node,
                tests: sections.into_values().map(section_of).collect(),
                totals: Totals::of(findings),
            }
        })
        .collect();
    Document {
        cluster: &facts.cluster,
        benchmark: benchmark.name(),
        unseen: facts.unseen(),
        controls,
        totals: Totals::of(findings),
    }
}

fn section_of(findings: Vec<&Finding>) -> Section<'_> {
    let totals = Totals::of(findings.iter().copied());
    let name = section(findings[0].id);
    Section {
        section: name,
        kind: "",
        pass: totals.pass,
        fail: totals.fail,
        warn: totals.warn,
        info: totals.info,
        excepted: totals.excepted,
        desc: section_title(name),
        results: findings.into_iter().map(outcome).collect(),
    }
}

fn outcome(finding: &Finding) -> Outcome<'_> {
    let (kind, word) = match finding.kind {
        Kind::Scored | Kind::Automated => ("", "Automated"),
        Kind::Manual => ("manual", "Manual"),
    };
    let remedy = finding.remedy.clone();
    Outcome {
        test_number: finding.id,
        test_desc: format!("{} ({word})", finding.control.title),
        audit: "",
        audit_env: "",
        audit_config: "",
        kind,
        test_info: vec![remedy.clone()],
        remediation: remedy,
        status: finding.status,
        actual_value: &finding.evidence,
        scored: finding.kind == Kind::Scored,
        is_multiple: false,
        expected_result: finding.control.title,
        reason: finding.reason.as_deref(),
        level: finding.control.level,
    }
}
