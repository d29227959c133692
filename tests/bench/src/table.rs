//! The table of results.

use std::time::Duration;

use crate::steps::Steps;

/// A thing that was measured, for kprov and, where kind has it as well, for kind.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) kprov: Vec<f64>,
    pub(crate) kind: Vec<f64>,
    /// What it should come to, for the reader.
    pub(crate) bar: &'static str,
    /// What kprov's time went to.
    pub(crate) steps: Steps,
}

impl Row {
    /// Durations, in seconds.
    pub(crate) fn seconds(what: &str, kprov: &[Duration], kind: &[Duration], bar: &'static str) -> Self {
        let seconds = |times: &[Duration]| times.iter().map(Duration::as_secs_f64).collect();
        let (kprov, kind) = (seconds(kprov), seconds(kind));
        Self { what: what.to_owned(), unit: "s", kprov, kind, bar, steps: Steps::default() }
    }

    /// Something that kind has no part in.
    pub(crate) fn alone(what: &str, unit: &'static str, kprov: Vec<f64>, bar: &'static str) -> Self {
        Self { what: what.to_owned(), unit, kprov, kind: Vec::new(), bar, steps: Steps::default() }
    }

    /// The same, with what its time went to.
    pub(crate) fn with(self, steps: Steps) -> Self {
        Self { steps, ..self }
    }

    /// kprov's median by kind's, where both have one.
    pub(crate) fn ratio(&self) -> Option<f64> {
        Some(median(&self.kprov)? / median(&self.kind)?)
    }

    fn cells(&self) -> [String; 5] {
        let (kprov, kind) = (median(&self.kprov), median(&self.kind));
        let shown = |value: Option<f64>, all: &[f64]| match value {
            None => "-".to_owned(),
            Some(value) if all.len() < 2 => format!("{value:.1} {}", self.unit),
            Some(value) => {
                let (least, most) =
                    all.iter().fold((f64::MAX, 0.0_f64), |(least, most), &one| (least.min(one), most.max(one)));
                format!("{value:.1} {} ({least:.1} to {most:.1})", self.unit)
            }
        };
        let ratio = self.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        [self.what.clone(), shown(kprov, &self.kprov), shown(kind, &self.kind), ratio, self.bar.to_owned()]
    }
}

/// The middle one of an odd number of values, or of the two in the middle the mean.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        Some(sorted[middle])
    } else {
        Some((sorted.get(middle)? + sorted.get(middle.checked_sub(1)?)?) / 2.0)
    }
}

/// Everything, as Markdown: medians, in parentheses the least and the most.
pub(crate) fn render(rows: &[Row]) -> String {
    let head = ["what", "kprov", "kind", "ratio", "bar"].map(str::to_owned);
    markdown(std::iter::once(head).chain(rows.iter().map(Row::cells)).collect())
}

/// A table in Markdown, whose first row is its head.
pub(crate) fn markdown<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("| {cell:<width$} "));
            format!("{}|", cells.collect::<String>())
        })
        .collect();
    lines.insert(1, format!("{}|", widths.map(|width| format!("| {} ", "-".repeat(width))).concat()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_table_has_a_line_for_each_thing() {
        let rows = [
            Row {
                what: "up".into(),
                kprov: vec![1.0, 2.0, 3.0],
                kind: vec![4.0],
                ..Row::seconds("", &[], &[], "0.60")
            },
            Row::alone("size", "MB", vec![20.0], ""),
        ];
        assert_eq!(
            render(&rows),
            "| what | kprov              | kind  | ratio | bar  |\n\
             | ---- | ------------------ | ----- | ----- | ---- |\n\
             | up   | 2.0 s (1.0 to 3.0) | 4.0 s | 0.50  | 0.60 |\n\
             | size | 20.0 MB            | -     | -     |      |"
        );
    }
}
