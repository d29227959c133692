//! `kprov cis`.

use std::process::ExitCode;

use console::Style;

use crate::adapters::kubernetes;
use crate::commands::grammar::{self, FailOn, Global, Output};
use crate::documents::cis::comparison::{Pair, Relation, compare};
use crate::documents::cis::results::{self, numbers, section, section_title};
use crate::documents::cis::{Benchmark, Exception, Finding, Selection, Status, Totals};
use crate::operations::cis::{self, kube_bench::Source};
use crate::progress::printable;

use super::target::open;
use super::{Result, context, present};

/// How the command ends if there are findings that it was told to fail on.
const FOUND: u8 = 3;

/// How it ends if kube-bench says something else, and nobody knows why.
const UNEXPLAINED: u8 = 4;

/// No control was left to look at.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
enum NothingChosen {
    /// No section or number is so.
    #[error("{benchmark} has no section or control {section:?}{}", if *level == 0 { String::new() } else { format!(" up to level {level}") })]
    #[diagnostic(
        code(kprov::cis::section),
        help("sections are 1.1 to 5.6; `kprov cis` without `--section` lists all controls")
    )]
    Section {
        /// The benchmark.
        benchmark: Benchmark,
        /// What was asked for.
        section: String,
        /// Up to which level.
        level: u8,
    },
    /// No node is called so.
    #[error("the cluster has no node {node:?}")]
    #[diagnostic(code(kprov::cis::node), help("it has {known}"))]
    Node {
        /// What was asked for.
        node: String,
        /// The nodes.
        known: String,
    },
}

pub(super) async fn cis(global: &Global, arguments: &grammar::Cis) -> Result<ExitCode> {
    let context = context(global).await?;
    let opened = open(&context, arguments.cluster.as_ref()).await?;
    let client = opened.client().await?;
    let nodes: Vec<_> = match &arguments.node {
        Some(name) => opened.nodes.iter().filter(|node| node.name == *name).cloned().collect(),
        None => opened.nodes.clone(),
    };
    if let Some(node) = arguments.node.as_ref().filter(|_| nodes.is_empty()) {
        let known: Vec<&str> = opened.nodes.iter().map(|node| node.name.as_str()).collect();
        return Err(NothingChosen::Node { node: node.clone(), known: known.join(", ") }.into());
    }
    let step = context.reporter.stage("Looking at nodes and objects");
    let target = cis::Target {
        cluster: opened.found.name.as_str(),
        client: &client,
        // All of them, whichever is wanted: what holds of the cluster is told by its control planes.
        nodes: &opened.nodes,
        admin_groups: kubernetes::client_groups(&opened.kubeconfig),
    };
    let facts = cis::gather(&target).await?;
    step.done();
    for gap in facts.gaps() {
        context.reporter.warn(&gap);
    }
    let benchmark = arguments.benchmark.unwrap_or_else(|| facts.benchmark());
    let exceptions: Vec<Exception> =
        opened.record.iter().flat_map(|record| record.profile.spec.cis.exceptions()).collect();
    let wanted = Selection { sections: arguments.section.clone(), level: arguments.level.unwrap_or_default() };
    let mut findings = results::assess(&facts, benchmark, &exceptions, &wanted);
    if let Some(only) = &arguments.node {
        findings.retain(|finding| finding.node.as_ref().is_none_or(|node| node == only));
    }
    let untouched = wanted.sections.iter().find(|section| {
        let only = Selection { sections: vec![(*section).clone()], level: wanted.level };
        results::assess(&facts, benchmark, &[], &only).is_empty()
    });
    if let Some(section) = untouched {
        return Err(NothingChosen::Section { benchmark, section: section.clone(), level: wanted.level }.into());
    }
    let pairs = match &arguments.kube_bench {
        Some(source) => {
            let step = context.reporter.stage("Running kube-bench");
            let source = Source::parse(source)?;
            let theirs = cis::kube_bench::run(&source, &client, &nodes, benchmark).await?;
            step.done();
            // Of one that does not know the newest benchmark yet, by its own numbers.
            let used = theirs.iter().find_map(|(_, theirs)| theirs.benchmark()).unwrap_or(benchmark);
            if used != benchmark {
                context.reporter.warn(&format!("this kube-bench does not know {benchmark}: held against its {used}"));
            }
            let all = results::assess(&facts, used, &exceptions, &Selection::default());
            Some(theirs.iter().flat_map(|(node, theirs)| compare(&all, node, theirs)).collect::<Vec<_>>())
        }
        None => None,
    };
    context.reporter.close();
    match global.output {
        Output::Json => {
            let mut value = serde_json::to_value(results::document(&facts, benchmark, &findings)).unwrap_or_default();
            if let Some(pairs) = &pairs {
                value["comparison"] = serde_json::to_value(pairs).unwrap_or_default();
            }
            present::result(Output::Json, &value, String::new);
        }
        Output::Text => {
            let colours = console::colors_enabled();
            let head = format!("{}: Kubernetes {}, {benchmark}\n", facts.cluster, facts.version);
            let mut text = printable(&head) + &text(&findings, arguments.verbose, colours);
            if let Some(pairs) = &pairs {
                text.push_str(&printable(&comparison(pairs)));
            }
            present::print(text.as_bytes());
        }
    }
    let in_part = !facts.gaps_of(arguments.node.as_deref()).is_empty();
    Ok(ExitCode::from(exit_status(&findings, in_part, pairs.as_deref().unwrap_or_default(), arguments.fail_on)))
}

/// How the command ends. What could not be looked at is as good as a warning.
fn exit_status(findings: &[Finding], in_part: bool, pairs: &[Pair], on: FailOn) -> u8 {
    let is = |wanted: &[Status]| findings.iter().any(|finding| wanted.contains(&finding.status));
    let found = match on {
        FailOn::Fail => is(&[Status::Fail]),
        FailOn::Warn => in_part || is(&[Status::Fail, Status::Warn]),
        FailOn::Never => false,
    };
    match (pairs.iter().any(Pair::is_unexplained), found) {
        (true, _) => UNEXPLAINED,
        (false, true) => FOUND,
        (false, false) => 0,
    }
}

/// Findings of one control that say the same, and the nodes that they are of.
struct Row<'f> {
    finding: &'f Finding,
    nodes: Vec<&'f str>,
}

/// All findings by section, what failed first, what nodes have in common in one row.
fn text(findings: &[Finding], verbose: bool, colours: bool) -> String {
    let mut sections: Vec<(&str, Vec<Row<'_>>)> = Vec::new();
    for finding in findings {
        let name = section(finding.id);
        let at = match sections.iter().position(|(known, _)| *known == name) {
            Some(at) => at,
            None => {
                sections.push((name, Vec::new()));
                sections.len() - 1
            }
        };
        let rows = &mut sections[at].1;
        let node = finding.node.as_deref();
        let alike = rows.iter_mut().find(|row| {
            let (one, other) = (row.finding, finding);
            one.id == other.id && one.status == other.status && one.evidence == other.evidence
        });
        match alike {
            Some(row) => row.nodes.extend(node),
            None => rows.push(Row { finding, nodes: node.into_iter().collect() }),
        }
    }
    let mut lines = String::new();
    for (name, mut rows) in sections {
        lines.push_str(&format!(
            "\n{}\n",
            style(colours, Style::new().bold()).apply_to(format!("{name} {}", section_title(name)))
        ));
        rows.sort_by_key(|row| (row.finding.status, numbers(row.finding.id)));
        for row in rows {
            // Where all nodes that a control is about agree, they need not be named.
            let all = findings.iter().filter(|finding| finding.id == row.finding.id).count();
            lines.push_str(&line(&row, all, verbose, colours));
        }
    }
    let totals = Totals::of(findings);
    lines.push_str(&format!(
        "\n{} passed, {} failed, {} to be looked at, {} excepted\n",
        totals.pass, totals.fail, totals.warn, totals.excepted
    ));
    lines
}

fn style(colours: bool, style: Style) -> Style {
    style.force_styling(colours)
}

fn line(row: &Row<'_>, nodes: usize, verbose: bool, colours: bool) -> String {
    let finding = row.finding;
    let colour = match finding.status {
        Status::Fail => Style::new().red().bold(),
        Status::Warn => Style::new().yellow(),
        Status::Excepted => Style::new().cyan(),
        Status::Pass => Style::new().green(),
    };
    let one_line = |text: &str| printable(text).replace('\n', " ");
    let at = match row.nodes.as_slice() {
        [] => String::new(),
        some if some.len() == nodes => String::new(),
        some => format!("  [{}]", some.join(", ")),
    };
    let level = if finding.control.level > 1 { format!("level {}, ", finding.control.level) } else { String::new() };
    let class = format!(" ({level}{})", finding.kind.word());
    let word = style(colours, colour).apply_to(format!("{:<8}", finding.status.word()));
    let mut text = format!("{word} {:<7}{}{class}{}\n", finding.id, finding.control.title, one_line(&at));
    if finding.status == Status::Pass && !verbose {
        return text;
    }
    let dim = style(colours, Style::new().dim());
    text.push_str(&format!("{:16}{}\n", "", one_line(&finding.evidence)));
    match &finding.reason {
        Some(reason) => {
            text.push_str(&format!("{:16}{}\n", "", dim.apply_to(format!("excepted: {}", one_line(reason)))))
        }
        None if finding.status == Status::Pass => {}
        None => text.push_str(&format!("{:16}{}\n", "", dim.apply_to(one_line(&finding.remedy)))),
    }
    text
}

/// kube-bench's verdicts beside ours: how many are the same, and each that is not.
fn comparison(pairs: &[Pair]) -> String {
    let count = |relation: Relation| pairs.iter().filter(|pair| pair.relation == relation).count();
    let scored: Vec<&Pair> = pairs.iter().filter(|pair| pair.scored).collect();
    let mut text = format!(
        "\nkube-bench beside it: {} of {} verdicts are the same ({} of {} scored ones), {} stricter, {} laxer\n",
        count(Relation::Same),
        pairs.len(),
        scored.iter().filter(|pair| pair.relation == Relation::Same).count(),
        scored.len(),
        count(Relation::Stricter),
        count(Relation::Laxer),
    );
    let rows: Vec<Vec<String>> = pairs
        .iter()
        .filter(|pair| pair.relation != Relation::Same)
        .map(|pair| {
            let relation = match pair.relation {
                Relation::Same => "same",
                Relation::Stricter => "stricter",
                Relation::Laxer => "laxer",
                Relation::Missing => "missing",
            };
            vec![
                pair.id.clone(),
                pair.node.clone(),
                pair.ours.map_or("-", Status::word).to_owned(),
                pair.theirs.clone().unwrap_or_else(|| "-".to_owned()),
                relation.to_owned(),
                pair.why.unwrap_or("NOT EXPLAINED").to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&present::table(&["CONTROL", "NODE", "OURS", "KUBE-BENCH", "OURS IS", "WHY"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::cis::{Kind, find};

    fn finding(status: Status) -> Finding {
        Finding {
            control: find(Benchmark::NEWEST, "1.2.15").unwrap(),
            id: "1.2.15",
            kind: Kind::Scored,
            node: Some("n".to_owned()),
            status,
            evidence: "--profiling=false".to_owned(),
            found: Vec::new(),
            remedy: "--set this=that".to_owned(),
            reason: (status == Status::Excepted).then(|| "because".to_owned()),
        }
    }

    fn pair(relation: Relation, scored: bool, why: Option<&'static str>) -> Pair {
        let id = "1.2.15".to_owned();
        Pair { node: "n".to_owned(), id, scored, ours: None, theirs: None, relation, why }
    }

    #[test]
    fn how_it_ends_is_told_by_what_was_found_and_what_it_was_told_to_fail_on() {
        use FailOn::{Fail, Never, Warn};
        let ends = |status: Status, on: FailOn| exit_status(&[finding(status)], false, &[], on);
        for (status, expected) in [
            (Status::Fail, [3, 3, 0]),
            (Status::Warn, [0, 3, 0]),
            (Status::Excepted, [0, 0, 0]),
            (Status::Pass, [0, 0, 0]),
        ] {
            assert_eq!([Fail, Warn, Never].map(|on| ends(status, on)), expected, "{status:?}");
        }
        // A node that was not looked at is no node that holds.
        assert_eq!([Fail, Warn, Never].map(|on| exit_status(&[finding(Status::Pass)], true, &[], on)), [0, 3, 0]);
        let beside = |one: Pair| exit_status(&[finding(Status::Fail)], false, &[one], Fail);
        assert_eq!(beside(pair(Relation::Same, true, None)), 3);
        assert_eq!(beside(pair(Relation::Laxer, false, Some("known"))), 3);
        assert_eq!(beside(pair(Relation::Laxer, false, None)), 4);
        // What is scored is not to differ, whatever is known of it.
        assert_eq!(beside(pair(Relation::Stricter, true, Some("known"))), 4);
        assert_eq!(exit_status(&[], false, &[pair(Relation::Missing, false, None)], Never), 4);
    }

    #[test]
    fn what_passed_shows_its_evidence_when_it_is_asked_for() {
        let shown = |status, verbose| text(&[finding(status)], verbose, false);
        assert!(shown(Status::Pass, false).contains("(automated)\n\n1 passed"), "{}", shown(Status::Pass, false));
        let told = shown(Status::Pass, true);
        assert!(told.contains("--profiling=false") && !told.contains("this=that"), "{told}");
        assert!(shown(Status::Fail, false).contains("--set this=that"));
        assert!(shown(Status::Excepted, false).contains("excepted: because"));
    }
}
