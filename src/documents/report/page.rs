//! A report as a page that needs nothing else: its data is in it, too, so that the next one can tell what has changed.

use serde::Serialize;

use crate::documents::render::{RenderError, Templates};
use crate::documents::timings::{Ended, Timings};

use super::compare::{Change, baseline, changes, same, status};
use super::{Cluster, Report, Row};

/// The element of the page that holds its data.
const START: &str = "<script type=\"application/json\" id=\"kprov-report\">";
const END: &str = "</script>";

/// What a report is shown beside.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// The report before.
    pub since: Option<&'a Report>,
    /// A report of another cluster, such as a plain one.
    pub baseline: Option<&'a Report>,
}

#[derive(Serialize)]
struct Values<'a> {
    report: &'a Report,
    clusters: Vec<Shown<'a>>,
    /// The report before: when, and what has changed.
    before: Option<&'a str>,
    changes: Vec<Change>,
}

/// A cluster, and what is computed of it.
#[derive(Serialize)]
struct Shown<'a> {
    cluster: &'a Cluster,
    /// What its statuses stand beside, the last one being those of now.
    columns: Vec<Column>,
    secrets: Vec<ShownSecret<'a>>,
    waterfall: Option<Waterfall<'a>>,
    sections: Vec<ShownSection<'a>>,
}

/// Statuses of one time, and how many of each there are.
#[derive(Serialize)]
struct Column {
    /// In a word.
    name: &'static str,
    /// Of which cluster, or when.
    of: String,
    pass: usize,
    fail: usize,
    warn: usize,
    excepted: usize,
}

impl Column {
    fn new(name: &'static str, of: String, cluster: &Cluster) -> Self {
        let count = |status: &str| cluster.rows().filter(|row| row.status == status).count();
        let (pass, fail, warn, excepted) = (count("PASS"), count("FAIL"), count("WARN"), count("EXCEPTED"));
        Self { name, of, pass, fail, warn, excepted }
    }
}

/// A Secret in etcd, of one time.
#[derive(Serialize)]
struct ShownSecret<'a> {
    name: &'static str,
    secret: &'a super::Secret,
}

#[derive(Serialize)]
struct ShownSection<'a> {
    id: &'a str,
    title: &'a str,
    rows: Vec<ShownRow<'a>>,
}

#[derive(Serialize)]
struct ShownRow<'a> {
    row: &'a Row,
    /// Its status in each of the columns but the last.
    earlier: Vec<Option<&'a str>>,
}

/// What steps took, drawn to scale.
#[derive(Serialize)]
struct Waterfall<'a> {
    command: &'a str,
    began: &'a str,
    seconds: String,
    bars: Vec<Bar<'a>>,
}

#[derive(Serialize)]
struct Bar<'a> {
    node: Option<&'a str>,
    name: &'a str,
    start: String,
    length: String,
    /// Where it begins and how long it is, in percent of the whole.
    left: String,
    width: String,
    ended: Ended,
}

impl<'a> Waterfall<'a> {
    fn of(timings: &'a Timings) -> Self {
        let ends = timings.steps.iter().map(|step| step.start_ms.saturating_add(step.length_ms));
        let whole = ends.chain([timings.total_ms]).max().unwrap_or_default().max(1);
        let percent = |part: u64| {
            // Hundredths of a percent, in whole numbers.
            let hundredths = u128::from(part) * 10_000 / u128::from(whole);
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        };
        let bars = timings.steps.iter().map(|step| Bar {
            node: step.node.as_deref(),
            name: &step.name,
            start: seconds(step.start_ms),
            length: seconds(step.length_ms),
            left: percent(step.start_ms),
            width: percent(step.length_ms),
            ended: step.ended,
        });
        Self {
            command: &timings.command,
            began: &timings.began,
            seconds: seconds(timings.total_ms),
            bars: bars.collect(),
        }
    }
}

/// Milliseconds as seconds, to a tenth.
fn seconds(milliseconds: u64) -> String {
    let tenths = milliseconds.saturating_add(50) / 100;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// The report as a page, with what it is shown beside.
///
/// # Errors
/// [`RenderError::Template`] if the template fails.
pub fn page(templates: &Templates, report: &Report, beside: Beside<'_>) -> Result<String, RenderError> {
    let values = Values {
        report,
        clusters: report.clusters.iter().map(|cluster| shown(cluster, beside)).collect(),
        before: beside.since.map(|before| before.created.as_str()),
        changes: beside.since.map(|before| changes(before, report)).unwrap_or_default(),
    };
    templates.report(values)
}

fn shown<'a>(cluster: &'a Cluster, beside: Beside<'a>) -> Shown<'a> {
    let plain = beside.baseline.and_then(|report| Some((report, baseline(report, cluster)?)));
    let before = beside.since.and_then(|report| Some((report, same(report, cluster)?)));
    let mut columns = Vec::new();
    let mut secrets = Vec::new();
    if let Some((_, plain)) = plain {
        columns.push(Column::new("Baseline", format!("{}, Kubernetes {}", plain.name, plain.kubernetes), plain));
        secrets.extend(plain.secret.as_ref().map(|secret| ShownSecret { name: "Baseline", secret }));
    }
    if let Some((report, before)) = before {
        columns.push(Column::new("Before", report.created.clone(), before));
        let stored_otherwise =
            |secret: &&super::Secret| cluster.secret.as_ref().is_none_or(|now| now.stored != secret.stored);
        let secret = before.secret.as_ref().filter(stored_otherwise);
        secrets.extend(secret.map(|secret| ShownSecret { name: "Before", secret }));
    }
    columns.push(Column::new("Now", String::new(), cluster));
    secrets.extend(cluster.secret.as_ref().map(|secret| ShownSecret { name: "Now", secret }));
    let others: Vec<&Cluster> = [plain, before].into_iter().flatten().map(|(_, other)| other).collect();
    let sections = cluster.sections.iter().map(|section| ShownSection {
        id: &section.id,
        title: &section.title,
        rows: section
            .rows
            .iter()
            .map(|row| ShownRow { row, earlier: others.iter().map(|other| status(other, cluster, row)).collect() })
            .collect(),
    });
    let sections = sections.collect();
    Shown { cluster, columns, secrets, waterfall: cluster.timings.as_ref().map(Waterfall::of), sections }
}

/// The data of an earlier report: of a page, or of JSON. Whatever is neither is none.
#[must_use]
pub fn earlier(text: &str) -> Option<Report> {
    let json = match text.split_once(START) {
        Some((_, rest)) => rest.split_once(END)?.0,
        None => text,
    };
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;
    use super::*;
    use crate::documents::timings::Step;

    fn alone(report: &Report) -> String {
        page(&Templates::built_in(), report, Beside::default()).unwrap()
    }

    #[test]
    fn the_page_needs_nothing_else_and_harmful_text_stays_text() {
        let report = hostile();
        let beside = Beside { since: Some(&report), baseline: Some(&report) };
        for text in [alone(&report), page(&Templates::built_in(), &report, beside).unwrap()] {
            // Its own script and its data, and no other.
            assert_eq!(text.matches("<script").count(), 2, "{text}");
            assert_eq!(text.matches("</script>").count(), 2);
            for outside in ["http://", "https://", "src=", "@import", "url("] {
                let found = text.replace("&lt;img src=x&gt;", "").replace("\\u003cimg src=x\\u003e", "");
                assert!(!found.contains(outside), "{outside}");
            }
            assert!(text.contains("&lt;b&gt;far: no container") && text.contains("Content-Security-Policy"));
            assert!(!text.contains("<img") && !text.contains('\u{0}') && !text.contains('\u{1b}'));
        }
    }

    #[test]
    fn a_page_tells_the_next_one_what_has_changed() {
        let before = hostile();
        let text = alone(&before);
        let read = earlier(&text).unwrap();
        assert_eq!(read.clusters[0].name, "c");
        assert_eq!(read.clusters[0].timings, before.clusters[0].timings);
        let mut after = hostile();
        after.clusters[0].sections[0].rows[0].status = "FAIL".to_owned();
        assert_eq!(changes(&read, &after).len(), 1);
        let beside = Beside { since: Some(&read), baseline: None };
        assert!(page(&Templates::built_in(), &after, beside).unwrap().contains("1.1.1"));
        assert!(earlier("nonsense").is_none() && earlier("").is_none());
        assert!(earlier(&serde_json::to_string(&before).unwrap()).is_some());
    }

    #[test]
    fn a_report_of_an_older_kprov_is_read() {
        let mut value = serde_json::to_value(hostile()).unwrap();
        value["clusters"][0].as_object_mut().unwrap().remove("timings");
        let row = value.pointer_mut("/clusters/0/sections/0/rows/0").unwrap();
        row.as_object_mut().unwrap().remove("assessment");
        let read = earlier(&value.to_string()).unwrap();
        assert_eq!(
            (&read.clusters[0].timings, read.clusters[0].sections[0].rows[0].class()),
            (&None, "level 1".to_owned())
        );
    }

    #[test]
    fn a_plain_cluster_and_the_report_before_stand_beside_what_is_now() {
        let now = hostile();
        let mut plain = hostile();
        plain.clusters[0].name = "plain".to_owned();
        plain.clusters[0].secret.as_mut().unwrap().stored = "plain text".to_owned();
        plain.clusters[0].sections[0].rows[0].status = "FAIL".to_owned();
        let shown = shown(&now.clusters[0], Beside { since: Some(&now), baseline: Some(&plain) });
        let names: Vec<&str> = shown.columns.iter().map(|column| column.name).collect();
        assert_eq!(names, ["Baseline", "Before", "Now"]);
        assert_eq!(shown.columns.iter().map(|column| column.fail).collect::<Vec<_>>(), [2, 1, 1]);
        // What is stored as it was before is not shown twice.
        let secrets: Vec<&str> = shown.secrets.iter().map(|shown| shown.secret.stored.as_str()).collect();
        assert_eq!(secrets, ["plain text", "k8s:enc"]);
        assert_eq!(shown.sections[0].rows[0].earlier, [Some("FAIL"), Some("PASS")]);
    }

    #[test]
    fn bars_are_to_scale_and_stay_within_the_whole() {
        let step =
            |start_ms, length_ms| Step { node: None, name: "s".to_owned(), start_ms, length_ms, ended: Ended::Done };
        let timings = |total_ms, steps| Timings { total_ms, steps, ..Timings::default() };
        let bars = |timings: &Timings| -> Vec<(String, String)> {
            Waterfall::of(timings).bars.into_iter().map(|bar| (bar.left, bar.width)).collect()
        };
        let pair = |left: &str, width: &str| (left.to_owned(), width.to_owned());
        assert_eq!(
            bars(&timings(2000, vec![step(0, 500), step(500, 1500)])),
            [pair("0.00", "25.00"), pair("25.00", "75.00")]
        );
        // A step may end after what has been told of the whole.
        assert_eq!(
            bars(&timings(0, vec![step(0, 0), step(1000, 3000)])),
            [pair("0.00", "0.00"), pair("25.00", "75.00")]
        );
        assert_eq!(bars(&timings(1, vec![step(u64::MAX, u64::MAX)])), [pair("100.00", "100.00")]);
        assert_eq!((seconds(1249), seconds(1250), seconds(0)), ("1.2".to_owned(), "1.3".to_owned(), "0.0".to_owned()));
    }
}
