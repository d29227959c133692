//! What was measured before: ratios to kind, so that it shows what has grown slower, and where.
//!
//! Ratios and not seconds, since those depend on the machine; by the minor version of Kubernetes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::table::{Row, markdown, median};

/// By how much a ratio may be above the recorded one: medians of few rounds differ by as much from run to run.
const TOLERANCE: f64 = 1.25;

/// What was measured of one thing.
#[derive(Debug, Default)]
struct Known {
    /// kprov's median by kind's.
    ratio: f64,
    /// The steps of kprov's command, in the same unit.
    steps: BTreeMap<String, f64>,
}

/// All that was measured, by the version of Kubernetes and by what it was.
#[derive(Debug, Default)]
pub(crate) struct Recorded(BTreeMap<String, BTreeMap<String, Known>>);

/// The file that it is in.
fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ratios.json")
}

impl Recorded {
    /// What has been recorded so far.
    pub(crate) fn load() -> Result<Self, String> {
        let fail = |error: &dyn std::fmt::Display| format!("{}: {error}", file().display());
        let text = std::fs::read_to_string(file()).map_err(|error| fail(&error))?;
        Self::parse(&text).map_err(|error| fail(&error))
    }

    fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let versions: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_str(text)?;
        let known = |value: Value| {
            let steps = value["steps"].as_object().into_iter().flatten();
            let steps = steps.filter_map(|(name, share)| Some((name.clone(), share.as_f64()?)));
            // One that is none is slower than nothing.
            Known { ratio: value["ratio"].as_f64().unwrap_or_default(), steps: steps.collect() }
        };
        let things = |things: BTreeMap<String, Value>| things.into_iter().map(|(what, value)| (what, known(value)));
        Ok(Self(versions.into_iter().map(|(version, all)| (version, things(all).collect())).collect()))
    }

    fn text(&self) -> String {
        let known = |known: &Known| match known.steps.is_empty() {
            true => json!({"ratio": known.ratio}),
            false => json!({"ratio": known.ratio, "steps": known.steps}),
        };
        let things = |all: &BTreeMap<String, Known>| all.iter().map(|(what, one)| (what.clone(), known(one))).collect();
        let versions: BTreeMap<&String, Value> =
            self.0.iter().map(|(version, all)| (version, Value::Object(things(all)))).collect();
        format!("{:#}\n", json!(versions))
    }

    /// Takes these over, beside what was recorded of other things and other versions.
    pub(crate) fn take(&mut self, version: &str, rows: &[Row]) {
        let known = self.0.entry(version.to_owned()).or_default();
        for row in rows {
            let (Some(ratio), Some(kind)) = (row.ratio(), median(&row.kind)) else { continue };
            let steps = row.steps.shares(kind).into_iter().map(|(name, share)| (name, round(share)));
            known.insert(row.what.clone(), Known { ratio: round(ratio), steps: steps.collect() });
        }
    }

    /// Writes it down.
    pub(crate) fn save(&self) -> Result<(), String> {
        std::fs::write(file(), self.text()).map_err(|error| format!("{}: {error}", file().display()))
    }

    fn known(&self, version: &str, what: &str) -> Option<&Known> {
        self.0.get(version)?.get(what)
    }

    /// What is slower than recorded, a line each.
    pub(crate) fn slower(&self, version: &str, rows: &[Row]) -> Result<Vec<String>, String> {
        let compare = |row: &Row| Some((row.what.clone(), row.ratio()?, self.known(version, &row.what)?.ratio));
        let compared: Vec<(String, f64, f64)> = rows.iter().filter_map(compare).collect();
        if compared.is_empty() {
            // Nothing found is no proof.
            return Err(format!("nothing that was measured is recorded for Kubernetes {version}"));
        }
        let slower = compared.into_iter().filter(|(_, ratio, recorded)| *ratio > recorded * TOLERANCE);
        Ok(slower.map(|(what, ratio, recorded)| format!("{what}: {ratio:.2}, recorded is {recorded:.2}")).collect())
    }

    /// Where the time of kprov's commands went, beside what is recorded of that; empty if none of them told.
    pub(crate) fn steps(&self, version: &str, rows: &[Row]) -> String {
        let head = ["step", "kprov", "of kind's whole", "recorded"].map(str::to_owned);
        let mut lines = vec![head];
        for row in rows {
            let kind = median(&row.kind);
            let known = self.known(version, &row.what);
            let shown = |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{share:.3}"));
            if row.steps.medians().next().is_some() {
                lines.push([format!("**{}**", row.what), String::new(), String::new(), String::new()]);
            }
            lines.extend(row.steps.medians().map(|(name, seconds)| {
                let recorded = known.and_then(|known| known.steps.get(name).copied());
                let share = kind.map(|kind| seconds / kind);
                [name.to_owned(), format!("{seconds:.2} s"), shown(share), shown(recorded)]
            }));
        }
        if lines.len() > 1 { markdown(lines) } else { String::new() }
    }
}

fn round(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use crate::steps::Steps;

    use super::*;

    fn row(what: &str, kprov: f64, kind: Vec<f64>) -> Row {
        Row { what: what.to_owned(), kprov: vec![kprov], kind, ..Row::seconds("", &[], &[], "") }
    }

    fn recorded() -> Recorded {
        let text = r#"{"1.36": {"up": {"ratio": 0.5, "steps": {"Booting": 0.1}}, "reset": {"ratio": 0.4}}}"#;
        Recorded::parse(text).unwrap()
    }

    #[test]
    fn only_what_is_slower_by_more_than_chance_is_told() {
        let recorded = recorded();
        let slower = |rows: &[Row]| recorded.slower("1.36", rows);
        assert_eq!(slower(&[row("up", 6.0, vec![10.0]), row("reset", 3.0, vec![10.0])]), Ok(Vec::new()));
        let rows = [row("up", 6.5, vec![10.0]), row("memory", 9.0, vec![])];
        assert_eq!(slower(&rows), Ok(vec!["up: 0.65, recorded is 0.50".to_owned()]));
        assert!(slower(&[row("new", 6.0, vec![10.0])]).is_err(), "nothing was compared");
        assert!(recorded.slower("1.20", &rows).is_err());
    }

    #[test]
    fn each_step_is_shown_beside_what_it_was() {
        let mut steps = Steps::default();
        steps.add(&json!({"timings": {"steps": [{"name": "Booting", "lengthMs": 2000}]}}));
        let rows = [row("up", 6.0, vec![10.0]).with(steps), row("memory", 9.0, vec![])];
        let table = recorded().steps("1.36", &rows);
        assert!(table.contains("| Booting | 2.00 s | 0.200           | 0.100    |"), "{table}");
        assert_eq!(recorded().steps("1.36", &rows[1..]), "");
    }

    #[test]
    fn what_is_recorded_is_what_is_compared_with() {
        let mut recorded = recorded();
        recorded.take("1.36", &[row("up", 2.0, vec![10.0]), row("memory", 9.0, vec![])]);
        let recorded = Recorded::parse(&recorded.text()).unwrap();
        let ratio = |what| recorded.known("1.36", what).map(|known| known.ratio);
        assert_eq!((ratio("up"), ratio("reset"), ratio("memory")), (Some(0.2), Some(0.4), None));
    }

    #[test]
    fn the_file_can_be_read() {
        assert!(Recorded::load().is_ok_and(|recorded| !recorded.0.is_empty()));
    }
}
