//! A number that all ranks add to, one at a time.

use std::fmt;
use std::time::Instant;

use pagemesh::Dsm;
use serde::Serialize;

use super::figures::{row, verdict};

/// Additions of each rank.
const EACH: u64 = 1000;

/// The result of the counting.
#[derive(Serialize, Default)]
pub(super) struct Counter {
    pub(super) ranks: u32,
    pub(super) each: u64,
    pub(super) found: u64,
    /// Wall time over all additions.
    pub(super) us_each: f64,
}

/// Every rank adds one, [`EACH`] times, with the lock held.
pub(super) fn count(dsm: &Dsm) -> pagemesh::Result<Counter> {
    let count = dsm.mutex::<u64>("demo.counter")?;
    dsm.barrier()?;
    let begun = Instant::now();
    for _ in 0..EACH {
        *count.lock()? += 1;
    }
    dsm.barrier()?;
    let time = begun.elapsed();
    let found = *count.lock()?;
    let ranks = dsm.ranks();
    let us_each = time.as_secs_f64() * 1e6 / (EACH * u64::from(ranks)) as f64;
    Ok(Counter { ranks, each: EACH, found, us_each })
}

impl Counter {
    fn expected(&self) -> u64 {
        u64::from(self.ranks) * self.each
    }

    pub(super) fn ok(&self) -> bool {
        self.found == self.expected()
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = format!("{} x {} = {}", self.ranks, self.each, self.found);
        let cost = format!("{:.0} us each", self.us_each);
        let wrong = || format!("it must be {}", self.expected());
        f.write_str(&row("1. a counter behind a lock", &sum, &cost, &verdict(self.ok(), wrong)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_count_is_wrong_and_says_what_it_must_be() {
        let counter = |found| Counter { ranks: 4, each: 1000, found, us_each: 12.3 };
        assert!(counter(4000).ok() && counter(4000).to_string().ends_with(" ok"));
        assert!(!counter(3999).ok());
        assert!(counter(3999).to_string().ends_with("WRONG: it must be 4000"), "{}", counter(3999));
    }
}
