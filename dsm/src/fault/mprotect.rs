//! Protection of the application's view by page protections, where userfaultfd is not to be had.
//!
//! Every run of pages with the same protection is a mapping of the kernel's, which allows 65,530 in
//! a process. So the pages' real access may be less than the granted one: over the budget, whole
//! neighbourhoods lose their mappings, and later faults put them back without a word to the core.

use std::ops::Range;

use nix::errno::Errno;
use parking_lot::Mutex;

use super::access::AccessMap;
use super::expect;
use super::map::AppView;
use crate::config::fault::{MAPPINGS_DEFAULT, NEIGHBOURHOOD_PAGES};
use crate::page::{Access, EXTENT_PAGES, PAGE_SIZE, PageId};

/// Keeps count of the mappings that an arena takes.
pub(super) struct Mprotect {
    /// Runs that the arena may have: half of what the kernel allows the process, which needs mappings
    /// for its heap and its stacks too.
    runs_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    regions: Vec<Range<u64>>,
    /// Places inside the regions where the protection changes from one page to the next.
    edges: usize,
    /// Where the next search for a neighbourhood begins.
    hand: u64,
    /// Neighbourhoods that lost their mappings, so far.
    reductions: u64,
    /// All access is taken away for ever.
    revoked: bool,
}

/// What the calls below work on.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) view: &'a AppView,
    pub(super) access: &'a AccessMap,
}

impl Mprotect {
    pub(super) fn new(mappings_max: Option<usize>) -> Mprotect {
        let runs_max = mappings_max.unwrap_or_else(|| mappings_of_process() / 2).max(64);
        Mprotect { runs_max, state: Mutex::new(State::default()) }
    }

    /// Counts a region in, whose pages are in the record already.
    pub(super) fn add_region(&self, target: Target<'_>, pages: Range<u64>) {
        let mut state = self.state.lock();
        state.edges += edges(target.access, &pages);
        state.regions.push(pages);
    }

    /// Counts a part of the regions out, which is in the record still.
    pub(super) fn remove_region(&self, target: Target<'_>, pages: Range<u64>) {
        let mut state = self.state.lock();
        // One run again, so that only its ends are left to count out.
        let reset = state.set(target, pages.clone(), Access::None);
        assert_eq!(reset, Ok(()), "taking the mappings of a region that ends");
        state.edges -= edges(target.access, &pages);
        let rest = |region: &Range<u64>| {
            [region.start..region.end.min(pages.start), region.start.max(pages.end)..region.end]
        };
        let regions = state.regions.iter().flat_map(rest).filter(|rest| !rest.is_empty()).collect();
        state.regions = regions;
    }

    /// Gives the pages this very access.
    pub(super) fn set(&self, target: Target<'_>, pages: Range<u64>, access: Access) {
        let mut state = self.state.lock();
        while let Err(errno) = state.set(target, pages.clone(), access) {
            // The kernel's limit came before our budget: others in the process use mappings too.
            let enough = state.edges - state.edges / 4;
            if errno != Errno::ENOMEM || !state.reduce(target, &pages, enough) {
                panic!("mprotect of {} pages: {errno}; raise vm.max_map_count", pages.end - pages.start);
            }
        }
        if state.edges > self.runs_max {
            state.reduce(target, &pages, self.runs_max - self.runs_max / 8);
        }
    }

    /// Gives a page, and those around it that lost the same, the granted access back.
    pub(super) fn restore(&self, target: Target<'_>, page: PageId) {
        let access = target.access.granted(page);
        let extent = page.extent().0 * EXTENT_PAGES..(page.extent().0 + 1) * EXTENT_PAGES;
        let lost = |page: &u64| {
            let page = PageId(*page);
            target.access.in_region(page)
                && target.access.granted(page) == access
                && target.access.mapped(page) != Some(access)
        };
        let start = (extent.start..page.0).rev().take_while(lost).last().unwrap_or(page.0);
        let end = (page.0 + 1..extent.end).take_while(lost).last().unwrap_or(page.0) + 1;
        self.set(target, start..end, access);
    }

    /// Takes all access away; no call gives any from now on.
    pub(super) fn revoke(&self, view: &AppView) {
        let mut state = self.state.lock();
        if !state.revoked {
            state.revoked = true;
            expect(view.protect_all(), "taking all access away");
        }
    }

    /// Places where the protection changes, as counted.
    #[cfg(test)]
    pub(super) fn edges(&self) -> usize {
        self.state.lock().edges
    }

    /// Neighbourhoods that lost their mappings so far.
    pub(super) fn reductions(&self) -> u64 {
        self.state.lock().reductions
    }
}

impl State {
    fn set(&mut self, target: Target<'_>, pages: Range<u64>, access: Access) -> Result<(), Errno> {
        if self.revoked {
            return Ok(());
        }
        let before = edges(target.access, &pages);
        let page = PAGE_SIZE as u64;
        let bytes = (pages.start * page) as usize..(pages.end * page) as usize;
        target.view.protect(bytes, access)?;
        for page in pages.clone() {
            target.access.set_mapped(PageId(page), access);
        }
        self.edges = self.edges + edges(target.access, &pages) - before;
        Ok(())
    }

    /// Takes mappings from neighbourhoods in turn until at most `edges_max` edges are left, sparing
    /// `keep`. False if nothing could be taken.
    fn reduce(&mut self, target: Target<'_>, keep: &Range<u64>, edges_max: usize) -> bool {
        let before = self.edges;
        for block in self.neighbourhoods() {
            if self.edges <= edges_max {
                break;
            }
            self.hand = block.end;
            let spared = block.start < keep.end && keep.start < block.end;
            if spared || edges(target.access, &block) == 0 {
                continue;
            }
            // At the kernel's limit a block whose ends are in the midst of a run cannot be cut out.
            self.reductions += u64::from(self.set(target, block, Access::None).is_ok());
        }
        if self.edges == before {
            // A region's ends are always edges, so a whole one can be.
            for region in self.regions.clone() {
                self.reductions += u64::from(self.set(target, region, Access::None).is_ok());
            }
        }
        self.edges < before
    }

    /// All blocks of all regions, beginning at the hand.
    fn neighbourhoods(&self) -> Vec<Range<u64>> {
        let cut = |region: &Range<u64>| {
            let end = region.end;
            region
                .clone()
                .step_by(NEIGHBOURHOOD_PAGES as usize)
                .map(move |start| start..(start + NEIGHBOURHOOD_PAGES).min(end))
        };
        let mut blocks: Vec<Range<u64>> = self.regions.iter().flat_map(cut).collect();
        blocks.sort_by_key(|block| (block.start < self.hand, block.start));
        blocks
    }
}

/// Changes of protection inside and at the ends of a range, between pages of regions.
fn edges(access: &AccessMap, pages: &Range<u64>) -> usize {
    let mut before = pages.start.checked_sub(1).and_then(|page| access.mapped(PageId(page)));
    let mut edges = 0;
    for page in pages.start..=pages.end {
        let here = access.mapped(PageId(page));
        edges += usize::from(before.is_some() && here.is_some() && before != here);
        before = here;
    }
    edges
}

/// Mappings that the kernel allows this process.
fn mappings_of_process() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(MAPPINGS_DEFAULT)
}
