//! Progress: which pages the faulting instruction of each thread needs, and how long they are held.
//!
//! A page that was fetched for a fault must stay until the instruction has run, or two writers take
//! it from each other for ever. How long that is cannot be known, so a hold starts short and doubles
//! whenever the same instruction faults again on a page that it already had. An instruction may need
//! several pages (an access across a boundary, a string move): then nodes that hold some and wait for
//! others would deadlock, so a page is held only while no lower page of the same instruction is
//! missing, and once a page was lost again the set is asked for in ascending order.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::Fault;
use crate::config::coherence::{FAULTING_THREADS_MAX, HOLD_MAX, HOLD_MIN, INSTRUCTION_PAGES_MAX};
use crate::page::{Access, PageId, Span};

/// What is remembered of every thread that faults.
#[derive(Clone, Default)]
pub(super) struct Instructions {
    threads: FxHashMap<u64, Instruction>,
}

#[derive(Clone)]
struct Instruction {
    address: u64,
    /// In the order of their first faults.
    pages: SmallVec<[(PageId, Access); INSTRUCTION_PAGES_MAX]>,
    hold: Span,
    /// A page of the set was lost before the instruction ran.
    ordered: bool,
}

impl Instructions {
    /// Records a fault. Returns the pages that the thread's previous instruction needs no longer.
    pub(super) fn note(&mut self, fault: &Fault) -> SmallVec<[PageId; INSTRUCTION_PAGES_MAX]> {
        let mut released = SmallVec::new();
        if self.threads.len() >= FAULTING_THREADS_MAX && !self.threads.contains_key(&fault.thread) {
            // Holds of forgotten threads end with their timers.
            self.threads.clear();
        }
        let fresh = Instruction {
            address: fault.instruction,
            pages: SmallVec::from_slice(&[(fault.page, fault.access)]),
            hold: HOLD_MIN,
            ordered: false,
        };
        let Some(known) = self.threads.get_mut(&fault.thread) else {
            self.threads.insert(fault.thread, fresh);
            return released;
        };
        if known.address != fault.instruction {
            released = known.pages.iter().map(|&(page, _)| page).collect();
            *known = fresh;
        } else if let Some(slot) = known.pages.iter_mut().find(|slot| slot.0 == fault.page) {
            if slot.1 < fault.access {
                // Read first, then written: the instruction goes on, nothing was lost.
                slot.1 = fault.access;
            } else {
                known.hold = Span((known.hold.0 * 2).min(HOLD_MAX.0));
                known.ordered = true;
            }
        } else {
            if known.pages.len() == INSTRUCTION_PAGES_MAX {
                released.push(known.pages.remove(0).0);
            }
            known.pages.push((fault.page, fault.access));
        }
        released
    }

    /// The page to ask for: the one that faulted, or, once pages were lost again, the lowest that is
    /// missing. `allows` tells what the node already has.
    pub(super) fn wanted(&self, fault: &Fault, allows: impl Fn(PageId, Access) -> bool) -> (PageId, Access) {
        let faulted = (fault.page, fault.access);
        let Some(known) = self.threads.get(&fault.thread).filter(|known| known.ordered) else {
            return faulted;
        };
        let missing = known.pages.iter().filter(|&&(page, access)| !allows(page, access));
        missing.min().copied().unwrap_or(faulted)
    }

    /// How long a page is held that was mapped for this thread.
    pub(super) fn hold(&self, thread: u64) -> Span {
        self.threads.get(&thread).map_or(HOLD_MIN, |known| known.hold)
    }

    /// Whether some thread's instruction has the page and misses no lower page of its set.
    pub(super) fn needs(&self, page: PageId, allows: impl Fn(PageId, Access) -> bool) -> bool {
        self.threads.values().any(|known| {
            known.pages.iter().any(|&(held, _)| held == page)
                && !known.pages.iter().any(|&(lower, access)| lower < page && !allows(lower, access))
        })
    }

    /// Takes a page that nobody can have any more out of every set.
    pub(super) fn forget(&mut self, page: PageId) {
        for known in self.threads.values_mut() {
            known.pages.retain(|&mut (held, _)| held != page);
        }
    }

    /// Whether some thread's present instruction has the page.
    pub(super) fn has(&self, page: PageId) -> bool {
        self.threads.values().any(|known| known.pages.iter().any(|&(held, _)| held == page))
    }
}
