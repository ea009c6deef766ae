//! How long threads of this node have waited for pages, locks and barriers: counts, sums and a histogram in powers
//! of two for each. A wait is timed by the clock readings that it takes anyway; nothing here reads the clock.

use serde::{Deserialize, Serialize};

use crate::page::Time;

/// Buckets of a histogram: the last holds everything above four minutes.
const BUCKETS: usize = 28;

/// What a thread waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WaitKind {
    /// A page, in a page fault.
    Page,
    /// A lock that another node may have.
    Lock,
    /// The other ranks at a barrier.
    Barrier,
}

/// Waits of all kinds, finished and under way.
#[derive(Clone, Default)]
pub(super) struct WaitClock {
    pages: Tally,
    locks: Tally,
    barriers: Tally,
}

#[derive(Clone, Default)]
struct Tally {
    count: u64,
    total_ns: u64,
    histogram: [u64; BUCKETS],
    /// Waits under way, and the sum of the times at which they began: together they give the time that is
    /// spent in them so far.
    open: u64,
    open_since_ns: u64,
}

/// Waits of a node since its start, by what its threads waited for. Faults that the handler thread of the
/// `thread` backend resolves are not timed.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Waits {
    /// For pages, in page faults.
    pub pages: WaitTimes,
    /// For locks that were not at hand on this node.
    pub locks: WaitTimes,
    /// At barriers.
    pub barriers: WaitTimes,
}

/// Waits for one kind of thing.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct WaitTimes {
    /// Waits that have ended.
    pub count: u64,
    /// Waits under way.
    pub open: u64,
    /// Time spent in all of them, in nanoseconds, those under way included.
    pub total_ns: u64,
    /// Element i counts the ended waits that took less than 2^i microseconds, and not less than the one before.
    pub histogram_us: Vec<u64>,
}

impl WaitClock {
    /// A wait begins.
    pub(super) fn begin(&mut self, kind: WaitKind, now: Time) {
        let tally = self.tally(kind);
        tally.open += 1;
        tally.open_since_ns = tally.open_since_ns.wrapping_add(now.0);
    }

    /// The wait that began at `began` ends.
    pub(super) fn end(&mut self, kind: WaitKind, began: Time, now: Time) {
        let tally = self.tally(kind);
        tally.open -= 1;
        tally.open_since_ns = tally.open_since_ns.wrapping_sub(began.0);
        let took = now.since(began).0;
        tally.count += 1;
        tally.total_ns += took;
        let bucket = (u64::BITS - (took / 1_000).leading_zeros()) as usize;
        tally.histogram[bucket.min(BUCKETS - 1)] += 1;
    }

    /// A reading.
    pub(super) fn read(&self, now: Time) -> Waits {
        Waits { pages: self.pages.read(now), locks: self.locks.read(now), barriers: self.barriers.read(now) }
    }

    fn tally(&mut self, kind: WaitKind) -> &mut Tally {
        match kind {
            WaitKind::Page => &mut self.pages,
            WaitKind::Lock => &mut self.locks,
            WaitKind::Barrier => &mut self.barriers,
        }
    }
}

impl Tally {
    fn read(&self, now: Time) -> WaitTimes {
        let so_far = now.0.wrapping_mul(self.open).wrapping_sub(self.open_since_ns);
        WaitTimes {
            count: self.count,
            open: self.open,
            total_ns: self.total_ns + so_far,
            histogram_us: self.histogram.to_vec(),
        }
    }
}

impl WaitTimes {
    /// What was added since an earlier reading.
    pub fn since(&self, earlier: &WaitTimes) -> WaitTimes {
        let before = earlier.histogram_us.iter().copied().chain(std::iter::repeat(0));
        WaitTimes {
            count: self.count.saturating_sub(earlier.count),
            open: self.open,
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            histogram_us: self.histogram_us.iter().zip(before).map(|(n, b)| n.saturating_sub(b)).collect(),
        }
    }

    /// A bound in microseconds below which this share (0 to 1) of the ended waits took: the power of two above
    /// it. `None` without waits.
    pub fn below_us(&self, share: f64) -> Option<u64> {
        let all: u64 = self.histogram_us.iter().sum();
        let wanted = (share * all as f64).ceil() as u64;
        let mut seen = 0;
        let bucket = self.histogram_us.iter().position(|n| {
            seen += n;
            seen >= wanted.max(1)
        });
        bucket.map(|bucket| 1 << bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_under_way_count_as_time_and_ended_ones_by_their_length() {
        let mut clock = WaitClock::default();
        clock.begin(WaitKind::Lock, Time(1_000));
        clock.begin(WaitKind::Lock, Time(3_000));
        let reading = clock.read(Time(5_000)).locks;
        assert_eq!((reading.count, reading.open, reading.total_ns), (0, 2, 6_000));
        assert_eq!(reading.below_us(0.5), None);
        clock.end(WaitKind::Lock, Time(1_000), Time(6_000));
        let reading = clock.read(Time(7_000)).locks;
        assert_eq!((reading.count, reading.open, reading.total_ns), (1, 1, 9_000));
        assert_eq!(clock.read(Time(7_000)).pages, Tally::default().read(Time(7_000)));
        // Five microseconds: below 8, not below 4.
        assert_eq!(reading.below_us(0.99), Some(8));
    }

    #[test]
    fn a_reading_minus_an_earlier_one_is_what_lay_between() {
        let mut clock = WaitClock::default();
        let mut wait = |from_us: u64, to_us: u64| {
            clock.begin(WaitKind::Page, Time(from_us * 1_000));
            clock.end(WaitKind::Page, Time(from_us * 1_000), Time(to_us * 1_000));
            clock.read(Time(to_us * 1_000)).pages
        };
        let earlier = wait(0, 900);
        (0..98).for_each(|i| drop(wait(1_000 + i, 1_003 + i)));
        let later = wait(2_000, 2_040);
        let between = later.since(&earlier);
        assert_eq!((between.count, between.total_ns), (99, 98 * 3_000 + 40_000));
        assert_eq!(
            (between.below_us(0.5), between.below_us(0.99), between.below_us(1.0)),
            (Some(4), Some(64), Some(64))
        );
    }
}
