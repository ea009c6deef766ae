//! Progress: which pages the faulting instruction of each thread needs, and how long they are held.
//!
//! A page that was fetched for a fault must stay until the instruction has run, or two writers take
//! it from each other for ever. How long that is cannot be known, so a hold starts short and doubles
//! whenever the same instruction faults again on a page that it already had. An instruction may need
//! several pages (an access across a boundary, a string move): then nodes that hold some and wait for
//! others would deadlock, so a page is held only while no lower page of the same instruction is
//! missing, and once a page was lost again the set is asked for in ascending order.
//!
//! Where a node has no room for the pages of all its instructions, the older one keeps its pages from the
//! younger, and not the other way round. Without an order two of them, each short of a page, let go and ask
//! again in step for ever.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::Fault;
use super::fingerprint::hash_map;
use super::plant::{Plant, Planted};
use crate::config::coherence::{FAULTING_THREADS_MAX, HOLD_MAX, HOLD_MIN, INSTRUCTION_PAGES_MAX};
use crate::page::{Access, PageId, Span, Time};

/// Address of an instruction that the fault backend cannot tell.
const UNKNOWN: u64 = 0;

/// The last instruction of every thread that faults.
#[derive(Clone, Default)]
pub(super) struct Instructions {
    threads: FxHashMap<u64, Instruction>,
}

#[derive(Clone)]
struct Instruction {
    address: u64,
    /// Its first fault.
    since: Time,
    /// In the order of their first faults.
    needs: SmallVec<[Need; INSTRUCTION_PAGES_MAX]>,
    hold: Span,
    /// A page of the set was lost before the instruction ran.
    ordered: bool,
    /// The page that the thread waits for.
    awaited: Option<PageId>,
    /// When the thread went on with the page that it had faulted on, if it did.
    resumed: Option<Time>,
}

/// Since when an instruction wants to run, and its thread: no two are equally old.
pub(super) type Age = (Time, u64);
/// Younger than all: who is not younger than this is everybody.
pub(super) const ANY_AGE: Age = (Time(u64::MAX), u64::MAX);

/// A page that the instruction needs, and until when it stays if it has come.
#[derive(Clone, Copy)]
struct Need {
    page: PageId,
    access: Access,
    held_until: Time,
}

impl Instructions {
    /// Records a fault. What the thread's previous instruction needed is held no longer.
    ///
    /// The same instruction at a later fault is another run of it (a loop) if the thread had gone on for
    /// a while: it starts anew. A loop must not be taken for an instruction that never gets its pages.
    pub(super) fn note(&mut self, fault: &Fault, now: Time) {
        let need = Need { page: fault.page, access: fault.access, held_until: Time(0) };
        let fresh = Instruction {
            address: fault.instruction,
            since: now,
            needs: SmallVec::from_slice(&[need]),
            hold: HOLD_MIN,
            ordered: false,
            awaited: None,
            resumed: None,
        };
        if self.threads.len() >= FAULTING_THREADS_MAX && !self.threads.contains_key(&fault.thread) {
            self.threads.clear();
        }
        let Some(known) = self.threads.get_mut(&fault.thread) else {
            self.threads.insert(fault.thread, fresh);
            return;
        };
        let has_run = known.resumed.take().is_some_and(|resumed| now > resumed + HOLD_MIN);
        if known.address != fault.instruction || has_run {
            *known = fresh;
        } else if let Some(need) = known.needs.iter_mut().find(|need| need.page == fault.page) {
            if need.access < fault.access {
                // Read first, then written: the instruction goes on, nothing was lost.
                need.access = fault.access;
            } else {
                known.hold = Span((known.hold.0 * 2).min(HOLD_MAX.0));
                // Where the instruction is not known, nothing brings a thread back to the page that
                // it faulted on after it was given a lower one.
                known.ordered = fault.instruction != UNKNOWN;
            }
        } else {
            if known.needs.len() == INSTRUCTION_PAGES_MAX {
                known.needs.remove(0);
            }
            known.needs.push(need);
        }
    }

    /// The page to ask for: the one that faulted, or, once pages were lost again, the lowest that is
    /// missing. `allows` tells what the node already has.
    pub(super) fn wanted(
        &mut self,
        fault: &Fault,
        allows: impl Fn(PageId, Access) -> bool,
    ) -> (PageId, Access) {
        let faulted = (fault.page, fault.access);
        let Some(known) = self.threads.get_mut(&fault.thread) else { return faulted };
        let missing = |need: &&Need| known.ordered && !allows(need.page, need.access);
        let lowest = known.needs.iter().filter(missing).min_by_key(|need| need.page);
        let wanted = lowest.map_or(faulted, |need| (need.page, need.access));
        known.awaited = Some(wanted.0);
        wanted
    }

    /// The thread's page waits for room here (`None`), or is asked for again. Who waits for room keeps
    /// nothing from others beyond its time: their pages may be what makes room.
    pub(super) fn awaits(&mut self, thread: u64, page: Option<PageId>) {
        if let Some(known) = self.threads.get_mut(&thread) {
            known.awaited = page;
        }
    }

    /// A page has come for this thread: hold all that its instruction has of its pages.
    pub(super) fn arrived(&mut self, thread: u64, until: impl Fn(Span) -> Time) {
        let Some(known) = self.threads.get_mut(&thread) else { return };
        known.awaited = None;
        for need in &mut known.needs {
            need.held_until = until(known.hold);
        }
    }

    /// The thread goes on with the page that it faulted on: from now on counts how long it needs the
    /// page. What it has got for its wake-up is over.
    pub(super) fn resumed(&mut self, thread: u64, page: PageId, now: Time) {
        let Some(known) = self.threads.get_mut(&thread) else { return };
        let is_alone = known.needs.len() == 1;
        for need in known.needs.iter_mut().filter(|need| need.page == page) {
            known.resumed = Some(now);
            let needed = now + HOLD_MIN;
            need.held_until = if is_alone { needed } else { need.held_until.max(needed) };
        }
    }

    /// The age of the instruction that this thread runs.
    pub(super) fn age(&self, thread: u64) -> Option<Age> {
        self.threads.get(&thread).map(|known| (known.since, thread))
    }

    /// Until when an instruction that is not younger than `youngest` holds the page, if one does. It holds
    /// what it has while it misses no lower page of its set. While it waits for a higher one it lets nothing
    /// go: those who wait for each other's pages in ascending order never wait in a circle.
    pub(super) fn held_until(
        &self,
        planted: Planted,
        page: PageId,
        youngest: Age,
        allows: impl Fn(PageId, Access) -> bool,
    ) -> Option<Time> {
        let in_any_order = planted.has(Plant::NodeHoldsOutOfOrder);
        let holds = |known: &Instruction| {
            let need = known.needs.iter().find(|need| need.page == page && allows(page, need.access))?;
            let lacks_lower =
                known.needs.iter().any(|need| need.page < page && !allows(need.page, need.access));
            let waits_above = known.ordered && known.awaited.is_some_and(|awaited| awaited > page);
            if in_any_order && known.awaited.is_some_and(|awaited| awaited != page) {
                return Some(Time(u64::MAX));
            }
            (!lacks_lower).then_some(if waits_above { Time(u64::MAX) } else { need.held_until })
        };
        let counts = |&(thread, known): &(&u64, &Instruction)| (known.since, *thread) <= youngest;
        self.threads.iter().filter(counts).filter_map(|(_, known)| holds(known)).max()
    }

    pub(super) fn fingerprint(&self, now: Time, hasher: &mut impl Hasher) {
        hash_map(&self.threads, hasher, |known, mut hasher| {
            (known.address, known.hold, known.ordered, known.awaited).hash(&mut hasher);
            // Who is older matters, not by how much.
            self.threads.values().filter(|other| other.since < known.since).count().hash(&mut hasher);
            for need in &known.needs {
                (need.page, need.access, need.held_until.since(now)).hash(&mut hasher);
            }
        });
    }

    /// Takes pages that no node can have any more out of every set.
    pub(super) fn forget(&mut self, is_gone: impl Fn(PageId) -> bool) {
        for known in self.threads.values_mut() {
            known.needs.retain(|need| !is_gone(need.page));
            known.awaited.take_if(|awaited| is_gone(*awaited));
        }
    }
}
