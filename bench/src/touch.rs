//! Loads and stores to pages, one by one, each timed: the same code for shared memory and for its floor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;

pub(crate) const PAGE: usize = 4096;

/// Which pages are touched, in which order and how often.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Walk {
    /// First page.
    pub(crate) first: usize,
    /// How many pages there are.
    pub(crate) pages: usize,
    /// How many of them are touched, each once.
    pub(crate) touched: usize,
    /// Their order; a different one every time, so that no stride can be seen.
    pub(crate) seed: u64,
    /// What the pages hold, see [`Walk::word`].
    pub(crate) stamp: u64,
    /// Nanoseconds from one access to the next; 0 for back to back. The time is spun away: the
    /// touching core computes, the other side is at rest.
    pub(crate) pace_ns: u64,
}

impl Walk {
    /// The first word of a page.
    pub(crate) fn word(stamp: u64, page: usize) -> u64 {
        (stamp << 32) ^ page as u64
    }

    fn order(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (self.first..self.first + self.pages).collect();
        fastrand::Rng::with_seed(self.seed).shuffle(&mut order);
        order.truncate(self.touched);
        order
    }

    /// Loads a word of each page and checks it; how long each took, in microseconds.
    pub(crate) fn load(&self, base: *mut u8) -> Result<Vec<f64>> {
        self.each(base, |word, page| {
            let (value, expected) = (word.load(Ordering::Relaxed), Self::word(self.stamp, page));
            if value == expected {
                Ok(())
            } else {
                Err(format!("page {page} holds {value:#x} and not {expected:#x}").into())
            }
        })
    }

    /// Stores a word to each page; how long each took, in microseconds.
    pub(crate) fn store(&self, base: *mut u8) -> Result<Vec<f64>> {
        self.each(base, |word, page| {
            word.store(Self::word(self.stamp, page), Ordering::Relaxed);
            Ok(())
        })
    }

    fn each(&self, base: *mut u8, access: impl Fn(&AtomicU64, usize) -> Result<()>) -> Result<Vec<f64>> {
        let order = self.order();
        let mut times = Vec::with_capacity(order.len());
        let mut due = Instant::now();
        for page in order {
            while Instant::now() < due {
                std::hint::spin_loop();
            }
            let word = base.wrapping_add(page * PAGE).cast::<u64>();
            // SAFETY: callers pass the start of a mapping that has these pages; a page that is not
            // accessible becomes so by the fault. Whole pages are aligned.
            let word = unsafe { AtomicU64::from_ptr(word) };
            let start = Instant::now();
            access(word, page)?;
            times.push(start.elapsed().as_nanos() as f64 / 1e3);
            due = start + Duration::from_nanos(self.pace_ns);
        }
        Ok(times)
    }
}
