//! Counts and latencies of the calls, and whether they work just now: what `kprov kms status`, `metrics` and the log tell.

use std::time::{Duration, Instant};

use serde_json::json;

use super::log;
use super::proto::OperationReport;

/// The latencies of that many calls are kept.
const KEPT: usize = 1024;

/// The upper bounds, in microseconds, between which calls that went well are counted; slower ones are behind the last.
pub(super) const BOUNDS: [u32; 11] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 1_000_000, 10_000_000];

/// What the calls of one kind came to.
pub(super) struct Statistics {
    operation: &'static str,
    calls: u64,
    failures: u64,
    /// Microseconds of the last calls that went well, as a ring.
    latencies: Vec<u32>,
    next: usize,
    /// How many calls that went well took no longer than each of the bounds, and longer than the one before.
    buckets: [u64; BOUNDS.len() + 1],
    /// What all calls that went well took together, in microseconds.
    sum: u64,
    /// Since when calls fail, and how many have.
    failing: Option<(Instant, u64)>,
}

impl Statistics {
    pub(super) fn new(operation: &'static str) -> Self {
        Self {
            operation,
            calls: 0,
            failures: 0,
            latencies: Vec::new(),
            next: 0,
            buckets: [0; _],
            sum: 0,
            failing: None,
        }
    }

    /// Notes a call that went well.
    pub(super) fn succeeded(&mut self, took: Duration) {
        self.calls += 1;
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.buckets[BOUNDS.partition_point(|&bound| bound < micros)] += 1;
        self.sum += u64::from(micros);
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

    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    pub(super) fn report(&self) -> OperationReport {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(index).copied().unwrap_or_default().into()
        };
        OperationReport {
            calls: self.calls,
            failures: self.failures,
            p50_micros: at(50),
            p99_micros: at(99),
            buckets: self.buckets.to_vec(),
            sum_micros: self.sum,
        }
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
        let report = Statistics::new("wrap").report();
        assert_eq!((report.calls, report.p50_micros, report.sum_micros), (0, 0, 0));
        assert!(report.buckets.iter().all(|count| *count == 0));
    }

    #[test]
    fn a_call_is_counted_by_the_bound_that_it_keeps() {
        let mut statistics = Statistics::new("wrap");
        for micros in [1, 100, 101, 10_000_000, 10_000_001, u64::MAX] {
            statistics.succeeded(Duration::from_micros(micros));
        }
        let report = statistics.report();
        assert_eq!((report.buckets[0], report.buckets[1]), (2, 1));
        assert_eq!((report.buckets[BOUNDS.len() - 1], report.buckets[BOUNDS.len()]), (1, 2));
        assert_eq!(report.buckets.iter().sum::<u64>(), report.calls);
    }

    #[test]
    fn a_single_call_is_every_percentile() {
        let mut statistics = Statistics::new("wrap");
        statistics.succeeded(Duration::from_micros(7));
        assert_eq!((statistics.report().p50_micros, statistics.report().p99_micros), (7, 7));
    }
}
