//! What each method did: counters that workers raise without a lock, and a histogram in powers of two.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::rpc::QUICK;
use crate::page::Span;

/// Buckets of the histogram: the last holds everything above four minutes.
const BUCKETS: usize = 28;

/// Counters of one method. Relaxed: they are read for people, not for decisions that must agree.
#[derive(Default, Debug)]
pub(super) struct MethodStats {
    calls: AtomicU64,
    failures: AtomicU64,
    busy: AtomicU64,
    histogram: [AtomicU64; BUCKETS],
    /// Moving average of the time in the handler, in nanoseconds, plus one; 0 before the first call.
    typical: AtomicU64,
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
    pub(super) fn ran(&self, time: Span, failed: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let micros = time.0 / 1_000;
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.histogram[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        let before = self.typical.load(Ordering::Relaxed);
        let average = if before == 0 { time.0 } else { (before * 7 + time.0) / 8 };
        self.typical.store(average.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn busy(&self) {
        self.busy.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether other replies should not wait for this method; so too when nothing is known of it.
    pub(super) fn is_slow(&self) -> bool {
        let typical = self.typical.load(Ordering::Relaxed);
        typical == 0 || typical > QUICK.0
    }

    pub(super) fn read(&self) -> MethodReading {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MethodReading {
            calls: read(&self.calls),
            failures: read(&self.failures),
            busy: read(&self.busy),
            histogram_us: self.histogram.iter().map(read).collect(),
        }
    }
}
