//! A report as JUnit: a suite for each section, a case for each control.

use std::fmt::Write as _;

use super::{Report, Row};

/// Text for XML: what it cannot hold is left out.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\t' | '\n' => escaped.push(' '),
            _ if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            _ => escaped.push(c),
        }
    }
    escaped
}

/// The report as JUnit. What is scored and does not hold has failed; what a person has to look at, or is excepted, is skipped.
#[must_use]
pub fn junit(report: &Report) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for cluster in &report.clusters {
        for section in &cluster.sections {
            let count = |status: &str| section.rows.iter().filter(|row| row.status == status).count();
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{}\" errors=\"0\" skipped=\"{}\" timestamp=\"{}\">",
                xml(&format!("{} {} {} {}", cluster.name, cluster.benchmark, section.id, section.title)),
                section.rows.len(),
                count("FAIL"),
                count("WARN") + count("EXCEPTED"),
                xml(report.created.trim_end_matches('Z')),
            );
            for row in &section.rows {
                text.push_str(&case(&cluster.name, row));
            }
            text.push_str("  </testsuite>\n");
        }
    }
    text.push_str("</testsuites>\n");
    text
}

fn case(cluster: &str, row: &Row) -> String {
    let head = format!(
        "    <testcase name=\"{}\" classname=\"{}\" time=\"0\"",
        xml(&format!("{} {}", row.id, row.title)),
        xml(&format!("{cluster}.{}", row.node.as_deref().unwrap_or("cluster"))),
    );
    let (evidence, remedy) = (xml(&row.evidence), xml(&row.remedy));
    match row.status.as_str() {
        "PASS" => format!("{head}/>\n"),
        "FAIL" => format!(
            "{head}>\n      <failure message=\"{evidence}\" type=\"FAIL\">{remedy}</failure>\n    </testcase>\n"
        ),
        _ => {
            let why = row.reason.as_deref().map_or(evidence, xml);
            format!("{head}>\n      <skipped message=\"{why}\"/>\n    </testcase>\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::hostile;
    use super::*;

    #[test]
    fn harmful_text_stays_text() {
        let text = junit(&hostile());
        assert!(text.contains("tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"2\""), "{text}");
        assert!(text.contains("&lt;/script&gt;&lt;script&gt;alert(1)"), "{text}");
        assert!(!text.contains("<script") && !text.contains('\u{0}') && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.matches("<testcase").count(), 4);
    }
}
