//! What the time of a command went to, by what it tells itself with `--timings`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::table::median;

/// The steps of a command that was run several times, in the order in which they first began: for each, how many seconds it took in
/// each run. Nodes do a step side by side, so that the longest of them counts.
#[derive(Debug, Default)]
pub(crate) struct Steps(Vec<(String, Vec<f64>)>);

impl Steps {
    /// Takes over one run, by the JSON that the command has printed.
    pub(crate) fn add(&mut self, printed: &Value) {
        let mut longest: Vec<(String, f64)> = Vec::new();
        for step in printed["timings"]["steps"].as_array().into_iter().flatten() {
            let name = step["name"].as_str().unwrap_or_default();
            let seconds = step["lengthMs"].as_f64().unwrap_or(f64::NAN) / 1000.0;
            match longest.iter_mut().find(|(known, _)| known == name) {
                Some((_, known)) => *known = known.max(seconds),
                None => longest.push((name.to_owned(), seconds)),
            }
        }
        assert!(!longest.is_empty(), "no steps in {printed}");
        for (name, seconds) in longest {
            match self.0.iter_mut().find(|(known, _)| *known == name) {
                Some((_, all)) => all.push(seconds),
                None => self.0.push((name, vec![seconds])),
            }
        }
    }

    /// Each step's median.
    pub(crate) fn medians(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().filter_map(|(name, all)| Some((name.as_str(), median(all)?)))
    }

    /// Each step's median, in units of `whole`.
    pub(crate) fn shares(&self, whole: f64) -> BTreeMap<String, f64> {
        self.medians().map(|(name, seconds)| (name.to_owned(), seconds / whole)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_what_nodes_do_side_by_side_the_longest_counts() {
        let mut steps = Steps::default();
        let step = |name: &str, length: u32| json!({"name": name, "lengthMs": length});
        steps.add(&json!({"timings": {"steps": [step("b", 1000), step("a", 500), step("b", 3000)]}}));
        steps.add(&json!({"timings": {"steps": [step("b", 5000), step("c", 100)]}}));
        assert_eq!(steps.medians().collect::<Vec<_>>(), [("b", 4.0), ("a", 0.5), ("c", 0.1)]);
        assert_eq!(steps.shares(8.0)["b"], 0.5);
    }
}
