//! How many page faults there were, by kind.

use std::sync::atomic::{AtomicU64, Ordering};

use super::PageFault;
use crate::page::Access;

/// Page faults of one node since its start.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize)]
pub struct FaultCounts {
    /// Faults by loads.
    pub reads: u64,
    /// Faults by stores and read-modify-writes.
    pub writes: u64,
    /// Those of the above that found the page's access sufficient already.
    pub settled: u64,
    /// Neighbourhoods that lost their mappings because the kernel allows no more (`mprotect` only).
    pub reductions: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    reads: AtomicU64,
    writes: AtomicU64,
    settled: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, fault: &PageFault) {
        let counter = match fault.access {
            Access::None | Access::Read => &self.reads,
            Access::Write => &self.writes,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self, reductions: u64) -> FaultCounts {
        FaultCounts {
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            settled: self.settled.load(Ordering::Relaxed),
            reductions,
        }
    }
}
