//! Counts and latencies of the calls, and whether they work just now: what `kprov kms status` and the log tell.

use std::time::{Duration, Instant};

use serde_json::json;

use super::log;
use super::proto::OperationReport;

/// The latencies of that many calls are kept.
const KEPT: usize = 1024;

/// What the calls of one kind came to.
pub(super) struct Statistics {
    operation: &'static str,
    calls: u64,
    failures: u64,
    /// Microseconds of the last calls that went well, as a ring.
    latencies: Vec<u32>,
    next: usize,
    /// Since when calls fail, and how many have.
    failing: Option<(Instant, u64)>,
}

impl Statistics {
    pub(super) fn new(operation: &'static str) -> Self {
        Self { operation, calls: 0, failures: 0, latencies: Vec::new(), next: 0, failing: None }
    }

    /// Notes a call that went well.
    pub(super) fn succeeded(&mut self, took: Duration) {
        self.calls += 1;
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.latencies.len() < KEPT {
            self.latencies.push(micros);
        } else {
            self.latencies[self.next] = micros;
            self.next = (self.next + 1) % KEPT;
        }
        if let Some((since, count)) = self.failing.take() {
            let details = json!({"operation": self.operation, "failures": count, "seconds": since.elapsed().as_secs()});
            log::info("works again", details);
        }
    }

    /// Notes a call that failed. The log gets the first of a row: an outage must not fill it.
    pub(super) fn failed(&mut self, reason: &str) {
        self.calls += 1;
        self.failures += 1;
        match &mut self.failing {
            Some((_, count)) => *count += 1,
            None => {
                self.failing = Some((Instant::now(), 1));
                log::error("fails", json!({"operation": self.operation, "reason": reason}));
            }
        }
    }

    pub(super) fn report(&self) -> OperationReport {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(index).copied().unwrap_or_default().into()
        };
        OperationReport { calls: self.calls, failures: self.failures, p50_micros: at(50), p99_micros: at(99) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_last_calls() {
        let mut statistics = Statistics::new("wrap");
        for _ in 0..KEPT {
            statistics.succeeded(Duration::from_secs(9));
        }
        for micros in 1..=KEPT as u64 {
            statistics.succeeded(Duration::from_micros(micros));
        }
        statistics.failed("down");
        let report = statistics.report();
        assert_eq!((report.calls, report.failures), (2 * KEPT as u64 + 1, 1));
        assert_eq!((report.p50_micros, report.p99_micros), (512, 1014));
    }

    #[test]
    fn nothing_called_is_no_latency() {
        assert_eq!(Statistics::new("wrap").report(), OperationReport::default());
    }

    #[test]
    fn a_single_call_is_every_percentile() {
        let mut statistics = Statistics::new("wrap");
        statistics.succeeded(Duration::from_micros(7));
        assert_eq!((statistics.report().p50_micros, statistics.report().p99_micros), (7, 7));
    }
}
