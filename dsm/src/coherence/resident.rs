//! How much memory the pages of other homes take here, and whose turn it is to go.
//!
//! Counted are pages with memory (readable, owned, invalidated and not given back yet, or on their way out),
//! and a place for every page that was asked for: so an answer always finds its place. Pages at home are set aside as a whole when their region comes. There
//! is no reference bit in hardware for a mapping of ours; CLOCK's (Corbato, 1968) is had by taking a page from the
//! application's view and keeping its bytes: the next touch is a fault without a message. This file
//! counts and turns the hand; what may go, and how, is decided in [`super::cache`].

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::config::coherence::{SPARE_PAGES_MAX, SWEEP_RETRY};
use crate::page::{EXTENT_PAGES, ExtentId, PageId, Time};

const _: () = assert!(EXTENT_PAGES == 64, "an extent's pages are the bits of a word");

/// Memory that a node may take for pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryLimit {
    /// Pages in all.
    pub pages: u64,
    /// Of them, what pages of other homes may always take, however much this node is home of. At least
    /// what one instruction needs.
    pub cache_min: u64,
}

/// Memory that pages take, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Occupancy {
    /// Pages of other homes that have memory here.
    pub cached: u64,
    /// Of them, pages that go when their home has acknowledged it.
    pub returning: u64,
    /// Places kept for pages that were asked for.
    pub reserved: u64,
    /// Upper bound of pages with memory and places together.
    pub cached_max: u64,
}

/// See the module's text.
#[derive(Clone)]
pub(super) struct Resident {
    limit: MemoryLimit,
    /// Pages whose home is, or may become, here.
    at_home: u64,
    cached: u64,
    returning: u64,
    reserved: u64,
    extents: FxHashMap<ExtentId, Marks>,
    /// Extents with pages, the one under the hand first. An extent that has lost all stays until then.
    ring: VecDeque<ExtentId>,
    /// Pages that wait for a place, in the order in which they came.
    queue: VecDeque<PageId>,
    next_sweep: Time,
}

/// One bit a page.
#[derive(Clone, Copy, Default)]
struct Marks {
    present: u64,
    /// Taken from the application's view by the hand, and not touched since.
    aged: u64,
}

/// The pages of an extent under the hand.
pub(super) struct Turn {
    extent: ExtentId,
    marks: Marks,
}

impl Resident {
    /// Nothing, and no limit.
    pub(super) fn new() -> Self {
        Resident {
            limit: MemoryLimit { pages: u64::MAX, cache_min: 0 },
            at_home: 0,
            cached: 0,
            returning: 0,
            reserved: 0,
            extents: FxHashMap::default(),
            ring: VecDeque::new(),
            queue: VecDeque::new(),
            next_sweep: Time(0),
        }
    }

    pub(super) fn set_limit(&mut self, limit: MemoryLimit) {
        self.limit = limit;
    }

    /// The pages that this node is home of, or may become home of, have changed.
    pub(super) fn set_aside(&mut self, at_home: u64) {
        self.at_home = at_home;
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        let &Resident { cached, returning, reserved, .. } = self;
        Occupancy { cached, returning, reserved, cached_max: self.cached_max() }
    }

    fn cached_max(&self) -> u64 {
        self.limit.pages.saturating_sub(self.at_home).max(self.limit.cache_min)
    }

    /// Whether pages at home that come now find room.
    pub(super) fn is_within_limit(&self) -> bool {
        self.cached + self.reserved <= self.cached_max()
    }

    /// Places that are free.
    pub(super) fn room(&self) -> u64 {
        self.cached_max().saturating_sub(self.cached + self.reserved)
    }

    /// Pages that must go, those on their way out not counted: for who waits, and a few ahead of need.
    pub(super) fn shortage(&self) -> u64 {
        let held = self.cached - self.returning + self.reserved;
        let spare = (self.cached_max() / 16).min(SPARE_PAGES_MAX);
        (held + self.queue.len() as u64 + spare).saturating_sub(self.cached_max())
    }
}

/// Pages that come and go.
impl Resident {
    pub(super) fn has(&self, page: PageId) -> bool {
        self.extents.get(&page.extent()).is_some_and(|marks| marks.present & bit(page) != 0)
    }

    pub(super) fn is_aged(&self, page: PageId) -> bool {
        self.extents.get(&page.extent()).is_some_and(|marks| marks.aged & bit(page) != 0)
    }

    /// Takes one of the free places for a page that is asked for.
    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
    }

    /// The page will not come.
    pub(super) fn cancel(&mut self) {
        self.reserved -= 1;
    }

    /// The page has come to its place.
    pub(super) fn fill(&mut self, page: PageId) {
        self.reserved -= 1;
        self.cached += 1;
        let (extents, ring) = (&mut self.extents, &mut self.ring);
        let marks = extents.entry(page.extent()).or_insert_with(|| {
            ring.push_back(page.extent());
            Marks::default()
        });
        marks.present |= bit(page);
        marks.aged &= !bit(page);
    }

    /// The page is used (or mapped anew).
    pub(super) fn touch(&mut self, page: PageId) {
        if let Some(marks) = self.extents.get_mut(&page.extent()) {
            marks.aged &= !bit(page);
        }
    }

    /// The page is mapped no longer, but has its memory.
    pub(super) fn age(&mut self, page: PageId) {
        if let Some(marks) = self.extents.get_mut(&page.extent()) {
            marks.aged |= marks.present & bit(page);
        }
    }

    /// The page's memory was given back. Pages at home were never counted.
    pub(super) fn vacate(&mut self, page: PageId) {
        let Some(marks) = self.extents.get_mut(&page.extent()) else { return };
        if marks.present & bit(page) != 0 {
            self.cached -= 1;
            marks.present &= !bit(page);
            marks.aged &= !bit(page);
        }
    }

    /// A page is on its way out.
    pub(super) fn begin_return(&mut self) {
        self.returning += 1;
    }

    /// It is so no longer.
    pub(super) fn end_return(&mut self) {
        self.returning -= 1;
    }

    /// Forgets whole extents whose memory is gone.
    pub(super) fn remove_extents(&mut self, gone: impl Fn(ExtentId) -> bool) {
        let cached = &mut self.cached;
        self.extents.retain(|&extent, marks| {
            let goes = gone(extent);
            if goes {
                *cached -= u64::from(marks.present.count_ones());
            }
            !goes
        });
        self.ring.retain(|&extent| !gone(extent));
        self.queue.retain(|page| !gone(page.extent()));
    }
}

/// Who waits, and when to look for room.
impl Resident {
    /// A page must wait for a place.
    pub(super) fn enqueue(&mut self, page: PageId, now: Time) {
        self.queue.push_back(page);
        self.next_sweep = now;
    }

    /// The page that waits longest, if there is a place for it.
    pub(super) fn admit(&mut self) -> Option<PageId> {
        if self.room() > 0 { self.queue.pop_front() } else { None }
    }

    /// The pages that wait for a place.
    pub(super) fn crowd(&self) -> impl Iterator<Item = PageId> {
        self.queue.iter().copied()
    }

    /// Whether pages wait that came before.
    pub(super) fn is_crowded(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether there is something to do about room.
    pub(super) fn is_due(&self, now: Time) -> bool {
        (self.is_crowded() && self.room() > 0) || self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// When to look for pages that can go.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        (self.shortage() > 0).then_some(self.next_sweep)
    }

    /// The hand was turned: it is turned again at once if that found something, else when holds may
    /// have ended.
    pub(super) fn swept(&mut self, now: Time, found: u64) {
        self.next_sweep = if found > 0 { now } else { now + SWEEP_RETRY };
    }

    /// Turns the hand by one extent with pages.
    pub(super) fn turn(&mut self) -> Option<Turn> {
        loop {
            let extent = self.ring.pop_front()?;
            let marks = self.extents.get(&extent).copied().unwrap_or_default();
            if marks.present != 0 {
                self.ring.push_back(extent);
                return Some(Turn { extent, marks });
            }
            self.extents.remove(&extent);
        }
    }

    /// Extents that the hand passes in one round.
    pub(super) fn round(&self) -> usize {
        self.ring.len()
    }
}

impl Turn {
    /// The pages with memory, each with whether it is aged.
    pub(super) fn pages(&self) -> impl Iterator<Item = (PageId, bool)> + use<> {
        let (first, marks) = (self.extent.0 * EXTENT_PAGES, self.marks);
        let present = (0..EXTENT_PAGES).filter(move |i| marks.present >> i & 1 != 0);
        present.map(move |i| (PageId(first + i), marks.aged >> i & 1 != 0))
    }
}

fn bit(page: PageId) -> u64 {
    1 << (page.0 % EXTENT_PAGES)
}
