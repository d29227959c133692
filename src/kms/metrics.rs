//! What a plugin says of itself, in Prometheus' text format. There is no secret in it: counts, times, and the key's id,
//! which stands in etcd as well.

use std::fmt::Write as _;

use super::client::{Operation, Report};
use super::statistics::BOUNDS;

/// The metrics of a plugin.
#[must_use]
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        // Writing to memory does not fail.
        let _ = write!(text, "# HELP kprov_kms_{name} {help}\n# TYPE kprov_kms_{name} {kind}\n");
        for (labels, value) in samples {
            let _ = writeln!(text, "kprov_kms_{name}{labels} {value}");
        }
    };
    let plain = |value: String| vec![(String::new(), value)];
    family("up", "gauge", "Whether the KMS works.", &plain(u8::from(report.problem.is_none()).to_string()));
    let info = labels(&[("provider", &report.provider), ("version", &report.version)]);
    family("info", "gauge", "The plugin.", &[(info, "1".to_owned())]);
    if !report.key_id.is_empty() {
        let key = labels(&[("key_id", &report.key_id)]);
        family("key_info", "gauge", "The key that wraps now.", &[(key, "1".to_owned())]);
    }
    family("uptime_seconds", "gauge", "Since when the plugin runs.", &plain(report.uptime_seconds.to_string()));
    family("resident_bytes", "gauge", "The plugin's memory.", &plain(report.resident_bytes.to_string()));
    if let Some(seconds) = report.login_expires_in_seconds {
        family("login_expires_in_seconds", "gauge", "Until the login to the KMS ends.", &plain(seconds.to_string()));
    }
    let operations = [("wrap", &report.wrap), ("unwrap", &report.unwrap), ("status", &report.status)];
    let each = |value: &dyn Fn(&Operation) -> u64| {
        let sample =
            |(name, operation): &(&str, &Operation)| (labels(&[("operation", name)]), value(operation).to_string());
        operations.iter().map(sample).collect::<Vec<_>>()
    };
    family("calls_total", "counter", "Calls.", &each(&|operation| operation.calls));
    family("failures_total", "counter", "Calls that failed.", &each(&|operation| operation.failures));
    // Samples of a histogram have suffixes to its name.
    let mut head = true;
    for (name, operation) in operations {
        if std::mem::take(&mut head) {
            let name = "kprov_kms_call_duration_seconds";
            let _ = write!(text, "# HELP {name} Time of calls that went well.\n# TYPE {name} histogram\n");
        }
        histogram(&mut text, name, operation);
    }
    text
}

fn histogram(text: &mut String, name: &str, operation: &Operation) {
    let mut total = 0;
    let bounds = BOUNDS.iter().map(|&micros| seconds(micros.into()).to_string()).chain(["+Inf".to_owned()]);
    for (index, bound) in bounds.enumerate() {
        total += operation.buckets.get(index).copied().unwrap_or_default();
        let labels = labels(&[("operation", name), ("le", &bound)]);
        let _ = writeln!(text, "kprov_kms_call_duration_seconds_bucket{labels} {total}");
    }
    let labels = labels(&[("operation", name)]);
    let _ = writeln!(text, "kprov_kms_call_duration_seconds_sum{labels} {}", seconds(operation.sum_micros));
    let _ = writeln!(text, "kprov_kms_call_duration_seconds_count{labels} {total}");
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let quoted = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", quoted(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(problem: Option<&str>) -> Report {
        let mut buckets = vec![0; BOUNDS.len() + 1];
        (buckets[0], buckets[BOUNDS.len()]) = (2, 1);
        let wrap = Operation { calls: 4, failures: 1, buckets, sum_micros: 11_000_100, ..Operation::default() };
        Report {
            version: "1".to_owned(),
            provider: "vault".to_owned(),
            problem: problem.map(str::to_owned),
            key_id: "a\"b".to_owned(),
            uptime_seconds: 5,
            wrap,
            unwrap: Operation::default(),
            status: Operation::default(),
            login_expires_in_seconds: None,
            resident_bytes: 9,
        }
    }

    #[test]
    fn buckets_add_up() {
        let text = text(&report(None));
        for line in [
            "kprov_kms_up 1",
            "kprov_kms_key_info{key_id=\"a\\\"b\"} 1",
            "kprov_kms_calls_total{operation=\"wrap\"} 4",
            "kprov_kms_failures_total{operation=\"wrap\"} 1",
            "kprov_kms_call_duration_seconds_bucket{operation=\"wrap\",le=\"0.0001\"} 2",
            "kprov_kms_call_duration_seconds_bucket{operation=\"wrap\",le=\"10\"} 2",
            "kprov_kms_call_duration_seconds_bucket{operation=\"wrap\",le=\"+Inf\"} 3",
            "kprov_kms_call_duration_seconds_sum{operation=\"wrap\"} 11.0001",
            "kprov_kms_call_duration_seconds_count{operation=\"wrap\"} 3",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    /// Prometheus takes a family once, and its samples right behind its head.
    #[test]
    fn every_family_has_one_head() {
        let text = text(&report(Some("the server is sealed")));
        assert!(text.contains("kprov_kms_up 0\n") && !text.contains("sealed"), "{text}");
        let heads: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let unique: std::collections::BTreeSet<_> = heads.iter().collect();
        assert_eq!(heads.len(), unique.len());
        let mut current = "";
        for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
            match line.strip_prefix("# TYPE ") {
                Some(head) => current = head.split(' ').next().unwrap(),
                None => assert!(line.starts_with(current), "{line} is not of {current}"),
            }
        }
    }
}
