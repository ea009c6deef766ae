//! Pages that come ahead of need: asked for by the application or because a run of faults was seen,
//! mapped at their first touch.
//!
//! Each page is asked for, answered and acknowledged by itself, with the messages and rules of any
//! other; batches make one datagram of many. What differs is the mapping. A page that nobody waits
//! for is installed without one, so that many are mapped by one system call when the first of them is
//! touched, so that this touch tells how far the application has come, and so that a page which is taken
//! away untouched costs no unmapping and is known as waste.

use super::{Cache, Entry, Lowered, Place, State, hold_until};
use crate::coherence::placement::{Places, RegionInfo};
use crate::coherence::plant::{Plant, Planted};
use crate::coherence::stream::Cause;
use crate::coherence::{Context, Fault};
use crate::config::coherence::{AHEAD_PENDING_MAX, LOWER_EVIDENCE, LOWER_RUN, MAP_RUN_MAX};
use crate::page::{Access, EXTENT_PAGES, Memory, PageId, Time};

// Regions begin and end at extents' boundaries, so neighbours that are downgraded together are of one region.
const _: () = assert!(EXTENT_PAGES.is_multiple_of(LOWER_RUN));

impl Cache {
    /// Asks for pages of `region` that will be wanted; pages outside of it are passed over, as are those that
    /// are here or under way, and what exceeds [`AHEAD_PENDING_MAX`] or the node's room.
    pub(in crate::coherence) fn prefetch<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        (places, region): (&Places, &RegionInfo),
        pages: impl Iterator<Item = PageId>,
        access: Access,
    ) {
        let usable = |page, planted: Planted| {
            let beyond = planted.has(Plant::NodeFetchesBeyondTheRegion);
            region.uses(page) || beyond && places.region(page).is_some_and(|region| region.uses(page))
        };
        // Neighbours that are on their way, for which room is made at once.
        let mut run = 0..0;
        for page in pages {
            // Who only guesses does not wait for room.
            let full = self.resident.room() == 0 || self.resident.is_crowded();
            if self.departs || full || self.pending.len() >= AHEAD_PENDING_MAX {
                break;
            }
            let goes = self.table.peek(page).is_some_and(|entry| entry.state.awaits_ack());
            let lacks = self.access(page) < access && !self.pending.contains_key(&page) && !goes;
            if lacks && usable(page, ctx.planted) {
                self.pending.entry(page).or_default();
                self.request(ctx, places, page, access);
                let request = self.pending.get(&page).and_then(|pending| pending.request);
                // Memory is for who has a place: the page may wait for its home's name, or be given up.
                let has_place = request.is_some_and(|request| request.place == Place::Reserved);
                if has_place && run.end == page.0 {
                    run.end += 1;
                } else if has_place {
                    ctx.memory.expect(PageId(run.start), run.end - run.start);
                    run = page.0..page.0 + 1;
                }
            }
        }
        ctx.memory.expect(PageId(run.start), run.end - run.start);
    }

    pub(in crate::coherence) fn pages_asked_for(&self) -> usize {
        self.pending.len()
    }

    /// Fetches ahead of a fault if it continues a run of faults.
    pub(super) fn run_ahead<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        (places, region): (&Places, &RegionInfo),
        fault: &Fault,
        cause: Cause,
    ) {
        let beyond = ctx.planted.has(Plant::NodeFetchesBeyondTheRegion);
        let bounds = if beyond { 0..u64::MAX } else { region.usable_pages() };
        if let Some(ahead) = self.streams.faulted(fault.page, fault.access, cause, bounds) {
            self.prefetch(ctx, (places, region), ahead, fault.access);
        }
    }

    /// A fault on a page whose state allows the access: maps it, and its neighbours that came with it.
    pub(super) fn touch<M: Memory>(&mut self, ctx: &mut Context<'_, M>, region: &RegionInfo, fault: &Fault) {
        if self.mapped(fault.page) >= fault.access {
            ctx.counters.spurious_faults += 1;
            return;
        }
        ctx.counters.local_faults += 1;
        ctx.counters.second_chances += u64::from(self.resident.is_aged(fault.page));
        match self.streams.stride(fault.page, fault.access) {
            Some(stride) if stride.abs() > 1 => self.map_strided(ctx, region, fault.page, stride),
            Some(_) | None => self.map_run(ctx, region, fault.page),
        }
        self.instructions.arrived(fault.thread, |hold| hold_until(ctx, hold));
    }

    /// Maps the pages of a stream that have come, each by itself: cheaper than a fault for each.
    fn map_strided<M: Memory>(
        &mut self,
        ctx: &mut Context<'_, M>,
        region: &RegionInfo,
        page: PageId,
        stride: i64,
    ) {
        let access = self.access(page);
        let pages = (0..MAP_RUN_MAX as i64).map_while(|step| page.0.checked_add_signed(step * stride));
        for page in pages.map(PageId).take_while(|&page| region.contains(page)) {
            if self.access(page) != access || self.mapped(page) >= access {
                break;
            }
            self.note_mapped(page, access);
            ctx.memory.protect(page, access);
        }
    }

    /// Maps a page as far as its state allows, and with it its neighbours that wait for their first touch.
    pub(super) fn map_run<M: Memory>(&mut self, ctx: &mut Context<'_, M>, region: &RegionInfo, page: PageId) {
        let access = self.access(page);
        // What the clock has taken from the view is its own: a neighbour's coming is no touch of it.
        let aged = self.resident.is_aged(page);
        let waits = |page: u64| {
            let entry = self.table.peek(PageId(page)).filter(|_| self.resident.is_aged(PageId(page)) == aged);
            let blind = ctx.planted.has(Plant::NodeMapsNeighboursItLacks);
            let entry = entry.filter(|_| region.contains(PageId(page)));
            entry.is_some_and(|entry| entry.mapped < access && (entry.access() == access || blind))
        };
        let end =
            (page.0 + 1..page.0 + MAP_RUN_MAX).find(|&page| !waits(page)).unwrap_or(page.0 + MAP_RUN_MAX);
        // Downwards for those who go down: whoever goes up has mapped what lies below.
        let lowest = page.0.saturating_sub(MAP_RUN_MAX - (end - page.0));
        let start = (lowest..page.0).rev().take_while(|&page| waits(page)).last().unwrap_or(page.0);
        for page in (start..end).map(PageId) {
            self.note_mapped(page, access);
        }
        ctx.memory.protect_range(PageId(start), end - start, access);
    }

    /// Downgrades neighbours of one region together. If one of them is held, each is downgraded by itself later.
    pub(in crate::coherence) fn lower_run<M: Memory>(
        &mut self,
        now: Time,
        memory: &mut M,
        (first, pages): (PageId, u64),
        access: Access,
    ) {
        if (first.0..first.0 + pages).any(|page| self.is_held(PageId(page), now)) {
            return;
        }
        for page in first.0..first.0 + pages {
            let entry = self.table.entry(PageId(page));
            entry.mapped = entry.mapped.min(access);
        }
        memory.protect_range(first, pages, access);
    }

    /// Somebody reads a page of this owner, some of whose neighbours have been read before: lowers the others
    /// with it, one system call instead of one each. A store to one of them maps it again without a message,
    /// and then it is left alone until a reader does come.
    pub(super) fn lower_ahead<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        if self.mapped(page) < Access::Write {
            return;
        }
        let start = page.0 - page.0 % LOWER_RUN;
        let entries = (start..start + LOWER_RUN).filter_map(|page| self.table.peek(PageId(page)));
        if entries.filter(|entry| entry.state == State::Shared).count() < LOWER_EVIDENCE {
            return;
        }
        let goes_along = |page: &u64| {
            let writable = |entry: &Entry| entry.mapped == Access::Write && entry.lowered != Lowered::InVain;
            self.table.peek(PageId(*page)).is_some_and(writable) && !self.is_held(PageId(*page), ctx.now)
        };
        let first = (start..page.0).rev().take_while(goes_along).last().unwrap_or(page.0);
        let end = (page.0 + 1..start + LOWER_RUN).take_while(goes_along).last().unwrap_or(page.0) + 1;
        for page in first..end {
            let entry = self.table.entry(PageId(page));
            (entry.mapped, entry.lowered) = (Access::Read, Lowered::Ahead);
        }
        if !ctx.planted.has(Plant::OwnerLowersOnPaperOnly) {
            ctx.memory.protect_range(PageId(first), end - first, Access::Read);
        }
    }

    fn note_mapped(&mut self, page: PageId, access: Access) {
        let entry = self.table.entry(page);
        if entry.lowered == Lowered::Ahead {
            entry.lowered = Lowered::InVain;
        }
        (entry.mapped, entry.touched) = (access, true);
        self.resident.touch(page);
    }

    /// A page is taken away: if it never was mapped, it came in vain.
    pub(super) fn note_waste<M: Memory>(&mut self, ctx: &mut Context<'_, M>, page: PageId) {
        // What is mapped now may be less: the page is lowered with its neighbours, or by the clock.
        if !self.table.entry(page).touched {
            ctx.counters.pages_wasted += 1;
            self.streams.wasted(page);
        }
    }
}
