//! A report as a page that needs nothing else: its data is in it, too, so that the next one can tell what has changed.

use serde::Serialize;

use crate::documents::render::{RenderError, Templates};

use super::Report;

/// The element of the page that holds its data.
const START: &str = "<script type=\"application/json\" id=\"kprov-report\">";
const END: &str = "</script>";

/// A control whose status is another one than in the report before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change {
    cluster: String,
    id: String,
    title: String,
    node: Option<String>,
    before: String,
    after: String,
}

#[derive(Serialize)]
struct Values<'a> {
    report: &'a Report,
    clusters: Vec<Counted<'a>>,
    /// The report before: when, and what has changed.
    before: Option<&'a str>,
    changes: Vec<Change>,
    data: &'a Report,
}

/// A cluster with how many of its controls are of each status.
#[derive(Serialize)]
struct Counted<'a> {
    cluster: &'a super::Cluster,
    pass: usize,
    fail: usize,
    warn: usize,
    excepted: usize,
}

/// The report as a page. `before` is the one that it replaces.
///
/// # Errors
/// [`RenderError::Template`] if the template fails.
pub fn page(templates: &Templates, report: &Report, before: Option<&Report>) -> Result<String, RenderError> {
    let counted = |cluster| {
        let count = |status: &str| super::Cluster::rows(cluster).filter(|row| row.status == status).count();
        Counted { cluster, pass: count("PASS"), fail: count("FAIL"), warn: count("WARN"), excepted: count("EXCEPTED") }
    };
    let values = Values {
        report,
        clusters: report.clusters.iter().map(counted).collect(),
        before: before.map(|before| before.created.as_str()),
        changes: before.map(|before| changes(before, report)).unwrap_or_default(),
        data: report,
    };
    templates.report(values)
}

fn changes(before: &Report, after: &Report) -> Vec<Change> {
    let mut changes = Vec::new();
    for cluster in &after.clusters {
        let Some(earlier) = before.clusters.iter().find(|earlier| earlier.name == cluster.name) else { continue };
        if earlier.benchmark != cluster.benchmark {
            continue;
        }
        for row in cluster.rows() {
            let same = earlier.rows().find(|earlier| earlier.id == row.id && earlier.node == row.node);
            if let Some(earlier) = same.filter(|earlier| earlier.status != row.status) {
                changes.push(Change {
                    cluster: cluster.name.clone(),
                    id: row.id.clone(),
                    title: row.title.clone(),
                    node: row.node.clone(),
                    before: earlier.status.clone(),
                    after: row.status.clone(),
                });
            }
        }
    }
    changes
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

    #[test]
    fn the_page_needs_nothing_else_and_harmful_text_stays_text() {
        let report = hostile();
        let text = page(&Templates::built_in(), &report, None).unwrap();
        // Its own script and its data, and no other.
        assert_eq!(text.matches("<script").count(), 2, "{text}");
        assert_eq!(text.matches("</script>").count(), 2);
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            let found = text.replace("&lt;img src=x&gt;", "").replace("\\u003cimg src=x\\u003e", "");
            assert!(!found.contains(outside), "{outside}");
        }
        assert!(!text.contains("<img") && !text.contains('\u{0}') && !text.contains('\u{1b}'));
    }

    #[test]
    fn a_page_tells_the_next_one_what_has_changed() {
        let before = hostile();
        let text = page(&Templates::built_in(), &before, None).unwrap();
        let read = earlier(&text).unwrap();
        assert_eq!(read.clusters[0].name, "c");
        let mut after = hostile();
        after.clusters[0].sections[0].rows[0].status = "FAIL".to_owned();
        let found = changes(&read, &after);
        assert_eq!((found.len(), found[0].before.as_str(), found[0].after.as_str()), (1, "PASS", "FAIL"));
        assert!(page(&Templates::built_in(), &after, Some(&read)).unwrap().contains("1.1.1"));
        assert!(earlier("nonsense").is_none() && earlier("").is_none());
        assert!(earlier(&serde_json::to_string(&before).unwrap()).is_some());
    }
}
