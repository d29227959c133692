//! A report as JUnit: a suite for each section, a case for each control. There is no one standard: what Ant's readers and those of
//! Jenkins ask for is all there.

use std::fmt::Write as _;

use super::{Cluster, Report, Row};

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
    let mut id = 0;
    for cluster in &report.clusters {
        for section in &cluster.sections {
            let count = |status: &str| section.rows.iter().filter(|row| row.status == status).count();
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "  <testsuite id=\"{id}\" package=\"{0}\" hostname=\"{0}\" name=\"{1}\" tests=\"{2}\" failures=\"{3}\" errors=\"0\" \
                 skipped=\"{4}\" time=\"0\" timestamp=\"{5}\">\n    <properties>\n{6}    </properties>",
                xml(&cluster.name),
                xml(&format!("{} {} {} {}", cluster.name, cluster.benchmark, section.id, section.title)),
                section.rows.len(),
                count("FAIL"),
                count("WARN") + count("EXCEPTED"),
                xml(report.created.trim_end_matches('Z')),
                properties(cluster),
            );
            id += 1;
            for row in &section.rows {
                text.push_str(&case(&cluster.name, row));
            }
            text.push_str("    <system-out/>\n    <system-err/>\n  </testsuite>\n");
        }
    }
    text.push_str("</testsuites>\n");
    text
}

/// What the cluster is.
fn properties(cluster: &Cluster) -> String {
    let mut text = String::new();
    let unseen = cluster.unseen.join(", ");
    for (name, value) in [
        ("kubernetes", cluster.kubernetes.as_str()),
        ("benchmark", cluster.benchmark.as_str()),
        ("profile", cluster.profile.as_deref().unwrap_or_default()),
        ("unseen", unseen.as_str()),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, "      <property name=\"{name}\" value=\"{}\"/>", xml(value));
        }
    }
    text
}

fn case(cluster: &str, row: &Row) -> String {
    let head = format!(
        "    <testcase name=\"{}\" classname=\"{}\" time=\"0\"",
        xml(&format!("{} {} ({})", row.id, row.title, row.class())),
        xml(&format!("{cluster}.{}", row.node.as_deref().unwrap_or("cluster"))),
    );
    let (evidence, remedy) = (xml(&row.evidence), xml(&row.remedy));
    match row.status.as_str() {
        "PASS" => format!("{head}/>\n"),
        "FAIL" => format!(
            "{head}>\n      <failure message=\"{evidence}\" type=\"FAIL\">{remedy}</failure>\n    </testcase>\n"
        ),
        status => {
            // A reader that knows of skipped ones only still tells the one from the other.
            let (message, text) = match row.reason.as_deref() {
                Some(reason) => (format!("EXCEPTED: {}", xml(reason)), evidence),
                None => (format!("{}: {evidence}", xml(status)), remedy),
            };
            format!("{head}>\n      <skipped message=\"{message}\">{text}</skipped>\n    </testcase>\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::tests::hostile;
    use super::*;

    #[test]
    fn harmful_text_stays_text() {
        let text = junit(&hostile());
        assert!(text.contains("tests=\"4\" failures=\"1\" errors=\"0\" skipped=\"2\""), "{text}");
        assert!(text.contains("&lt;/script&gt;&lt;script&gt;alert(1)"), "{text}");
        assert!(!text.contains("<script") && !text.contains('\u{0}') && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.matches("<testcase").count(), 4);
        assert!(text.contains("(level 1, automated)"), "{text}");
        // What is excepted is told from what is to be looked at, and has its evidence.
        let skipped: Vec<&str> = text.lines().filter(|line| line.contains("<skipped")).collect();
        assert!(skipped[0].contains("message=\"WARN: &lt;/script") && skipped[0].contains("\">--set"), "{text}");
        assert!(skipped[1].contains("message=\"EXCEPTED: because\">&lt;/script&gt;"), "{text}");
    }

    /// Held against the schema by a program of its own, where it is installed; a document that lacks something is refused.
    #[test]
    fn the_schema_holds() {
        let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schemas/junit.xsd");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("report.xml");
        let valid = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Command::new("xmllint").args(["--noout", "--nonet", "--schema", schema]).arg(&file).output()
        };
        let text = junit(&hostile());
        match valid(&text) {
            Ok(output) => {
                assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
                for (part, other) in [("<system-out/>", ""), (" hostname=\"c\"", ""), ("T20:00:00", "")] {
                    assert!(text.contains(part), "{part}");
                    assert!(!valid(&text.replace(part, other)).unwrap().status.success(), "{part}");
                }
                assert!(valid(&junit(&Report { clusters: Vec::new(), ..hostile() })).unwrap().status.success());
            }
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("xmllint does not run ({error}): nothing is proven");
            }
            Err(error) => panic!("xmllint does not run: {error}"),
        }
    }
}
