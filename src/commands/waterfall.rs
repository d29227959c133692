//! The steps of a command along its time, as lines of text.

use crate::documents::timings::{Ended, Step, Timings};

use super::present;

/// How many columns a step's bar may have: at least, and at most.
const SCALE: (usize, usize) = (10, 60);

/// How many columns there are where no terminal tells.
const COLUMNS: usize = 100;

/// A line for each step, in the order of their starts: when it began, how long it took, a bar, and what it was.
pub(super) fn waterfall(timings: &Timings) -> String {
    drawn(&timings.steps, present::columns().unwrap_or(COLUMNS))
}

fn drawn(steps: &[Step], columns: usize) -> String {
    /// What comes before the bar, and between it and the name.
    const FRAME: usize = "123.4 123.4   ".len();
    let end = steps.iter().map(|step| step.start_ms + step.length_ms).max().unwrap_or_default();
    let longest = steps.iter().map(|step| named(step).chars().count()).max().unwrap_or_default();
    let width = columns.saturating_sub(FRAME + longest).clamp(SCALE.0, SCALE.1);
    let line = |step: &Step| {
        let from = place(step.start_ms, end, width).min(width - 1);
        // One that was over at once is seen all the same.
        let to = place(step.start_ms + step.length_ms, end, width).max(from + 1);
        let bar = format!("{}{}", " ".repeat(from), "█".repeat(to - from));
        format!("{} {} {bar:<width$}  {}\n", seconds(step.start_ms), seconds(step.length_ms), named(step))
    };
    std::iter::once(" at s for s\n".to_owned()).chain(steps.iter().map(line)).collect()
}

fn named(step: &Step) -> String {
    let what = step.node.as_ref().map_or_else(|| step.name.clone(), |node| format!("{node}: {}", step.name));
    match step.ended {
        Ended::Done => what,
        Ended::Failed => format!("{what} (failed)"),
        Ended::Aborted => format!("{what} (given up)"),
    }
}

fn seconds(milliseconds: u64) -> String {
    format!("{:>3}.{}", milliseconds / 1000, milliseconds % 1000 / 100)
}

/// The column of a moment.
fn place(moment: u64, end: u64, width: usize) -> usize {
    let width = u64::try_from(width).unwrap_or(u64::MAX);
    usize::try_from(moment.saturating_mul(width).checked_div(end).unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, start_ms: u64, length_ms: u64, ended: Ended) -> Step {
        Step { node: None, name: name.to_owned(), start_ms, length_ms, ended }
    }

    #[test]
    fn steps_are_drawn_where_they_were() {
        let on_node = Step { node: Some("n".to_owned()), ..step("a", 0, 5000, Ended::Done) };
        let steps = [on_node, step("b", 5000, 5000, Ended::Failed), step("c", 10_000, 0, Ended::Done)];
        let expected = [
            " at s for s",
            "  0.0   5.0 █████       n: a",
            "  5.0   5.0      █████  b (failed)",
            " 10.0   0.0          █  c",
        ];
        assert_eq!(drawn(&steps, 0).lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_takes_no_time() {
        assert_eq!(drawn(&[step("a", 0, 0, Ended::Aborted)], 80).lines().count(), 2);
        assert_eq!(drawn(&[], 80).lines().count(), 1);
    }
}
