//! What each method did: counters, and a histogram in powers of two.

use crate::config::rpc::QUICK;
use crate::page::Span;

/// Buckets of the histogram: the last holds everything above four minutes.
const BUCKETS: usize = 28;

/// Counters of one method.
#[derive(Default, Debug)]
pub(super) struct MethodStats {
    calls: u64,
    failures: u64,
    busy: u64,
    histogram: [u64; BUCKETS],
    /// Moving average of the time in the handler, in nanoseconds, plus one; 0 before the first call.
    typical: u64,
}

/// A reading of the counters.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MethodReading {
    /// Calls that ran.
    pub calls: u64,
    /// Calls that ran and gave no result.
    pub failures: u64,
    /// Calls that were refused.
    pub busy: u64,
    /// Element i counts the calls that took less than 2^i microseconds, and not less than the one before.
    pub histogram_us: Vec<u64>,
}

impl MethodStats {
    pub(super) fn ran(&mut self, time: Span, failed: bool) {
        self.calls += 1;
        self.failures += u64::from(failed);
        let micros = time.0 / 1_000;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.histogram[bucket.min(BUCKETS - 1)] += 1;
        let average = if self.typical == 0 { time.0 } else { (self.typical * 7 + time.0) / 8 };
        self.typical = average.saturating_add(1);
    }

    pub(super) fn busy(&mut self) {
        self.busy += 1;
    }

    /// Whether other replies should not wait for this method; so too when nothing is known of it.
    pub(super) fn is_slow(&self) -> bool {
        self.typical == 0 || self.typical > QUICK.0
    }

    pub(super) fn read(&self) -> MethodReading {
        let (calls, failures, busy) = (self.calls, self.failures, self.busy);
        MethodReading { calls, failures, busy, histogram_us: self.histogram.to_vec() }
    }
}
