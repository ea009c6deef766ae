//! What must be true, kept beside the nodes: the last value stored in each cell, who has which page
//! mapped, who is in which critical section, who has arrived at which barrier. Nothing here looks at
//! the protocol's own state, so no fault of the protocol can hide in it.

use pagemesh::coherence::{Failure, NodeSet};
use pagemesh::page::{Access, NodeId, Version};

use crate::program::{CELLS, COUNTER, Cell, GUARDED};

/// The truth about a run.
pub(crate) struct Oracle {
    pages: Vec<Page>,
    barriers: Vec<Barrier>,
    /// Slots in which a node has died.
    dead: NodeSet,
    /// Slots whose node has left.
    leavers: NodeSet,
    /// Slots whose node left in the middle of a critical section.
    deserters: NodeSet,
    next_value: u32,
    /// Pages whose mappings broke a rule and are to be looked at again, in runs in which a node may be declared dead
    /// that still runs: it has what it had until the declaration is known here.
    conflicts: Option<Vec<usize>>,
    /// The first rule that was broken.
    pub(crate) broken: Option<String>,
    pub(crate) instructions: u64,
    pub(crate) sections: u64,
}

#[derive(Clone, Default)]
struct Page {
    cells: [u32; CELLS.len()],
    readers: NodeSet,
    writers: NodeSet,
    adds: u32,
    sections: u32,
    holder: Option<(NodeId, u64)>,
    token: u64,
    /// What the nodes' records say of the page, by slot.
    versions: Vec<Version>,
    /// A node died in the critical section.
    is_broken: bool,
    /// A node died that may have written the page last.
    may_be_lost: bool,
}

#[derive(Clone, Default)]
struct Barrier {
    arrived: NodeSet,
    outcome: Option<Result<(), ()>>,
}

impl Oracle {
    pub(crate) fn new(pages: usize, rounds: u32) -> Self {
        Oracle {
            pages: vec![Page::default(); pages],
            barriers: vec![Barrier::default(); rounds as usize],
            dead: NodeSet::EMPTY,
            leavers: NodeSet::EMPTY,
            deserters: NodeSet::EMPTY,
            next_value: 1 << 16,
            conflicts: None,
            broken: None,
            instructions: 0,
            sections: 0,
        }
    }

    /// Notes that a rule was broken; the first one counts.
    pub(crate) fn fail(&mut self, why: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(why());
        }
    }

    /// A value that no cell has had before.
    pub(crate) fn fresh_value(&mut self) -> u32 {
        self.next_value += 1;
        self.next_value
    }

    /// A node's mapping of a page has changed: one writer, or many readers.
    pub(crate) fn mapped(&mut self, node: NodeId, page: usize, access: Access) {
        let entry = &mut self.pages[page];
        entry.readers.remove(node);
        entry.writers.remove(node);
        match access {
            Access::None => {}
            Access::Read => entry.readers.insert(node),
            Access::Write => entry.writers.insert(node),
        }
        match &mut self.conflicts {
            None => {
                self.check_version(node, page, access);
                self.check_mapping(page);
            }
            Some(conflicts) => conflicts.push(page),
        }
    }

    fn check_version(&mut self, node: NodeId, page: usize, access: Access) {
        let entry = &self.pages[page];
        let newest = entry.versions.iter().max().copied().unwrap_or_default();
        let own = entry.versions.get(node.0 as usize).copied().unwrap_or_default();
        if access != Access::None && own != newest {
            self.fail(|| {
                format!("a page is used where its newest version lies: {node} page {page} has {own:?}, not {newest:?}")
            });
        }
        let entry = &self.pages[page];
        let alone = entry.versions.iter().filter(|&&version| version == newest).count() == 1;
        if access == Access::Write && !(alone && newest > Version(0)) {
            let versions = entry.versions.clone();
            self.fail(|| format!("a writer's version is its own: {node} page {page} {versions:?}"));
        }
    }

    /// A node's record says which version of a page lies there.
    pub(crate) fn recorded(&mut self, node: NodeId, page: usize, version: Version) {
        let (versions, at) = (&mut self.pages[page].versions, node.0 as usize);
        if versions.len() <= at {
            versions.resize(at + 1, Version::default());
        }
        versions[at] = version;
    }

    /// Whether no record says of a page that a newer version lies elsewhere.
    pub(crate) fn holds_newest(&self, node: NodeId, page: usize) -> bool {
        let versions = &self.pages[page].versions;
        versions.get(node.0 as usize).copied().unwrap_or_default()
            == versions.iter().max().copied().unwrap_or_default()
    }

    /// Mappings are judged by [`Oracle::check_mappings`] only.
    pub(crate) fn judge_mappings_later(&mut self) {
        self.conflicts = Some(Vec::new());
    }

    /// Whether a node's record says that it has bytes of a page.
    pub(crate) fn has_version(&self, node: NodeId, page: usize) -> bool {
        self.pages[page].versions.get(node.0 as usize).is_some_and(|&version| version > Version(0))
    }

    /// The nodes whose records have the newest version of a page.
    pub(crate) fn newest(&self, page: usize) -> Vec<NodeId> {
        let versions = &self.pages[page].versions;
        let newest = versions.iter().max().copied().unwrap_or_default();
        let has_it = |&(_, version): &(usize, &Version)| *version == newest;
        versions.iter().enumerate().filter(has_it).map(|(at, _)| NodeId(at as u16)).collect()
    }

    /// Judges the mappings that have changed since.
    pub(crate) fn check_mappings(&mut self) {
        let conflicts = self.conflicts.as_mut().map(std::mem::take).unwrap_or_default();
        for page in conflicts {
            let Page { readers, writers, .. } = self.pages[page];
            readers.iter().for_each(|node| self.check_version(node, page, Access::Read));
            writers.iter().for_each(|node| self.check_version(node, page, Access::Write));
            self.check_mapping(page);
        }
    }

    fn check_mapping(&mut self, page: usize) {
        let Page { readers, writers, .. } = self.pages[page];
        if writers.len() > 1 || (writers.len() == 1 && !readers.is_empty()) {
            self.fail(|| {
                format!(
                    "one writer or many readers: page {page} has writers {writers:?}, readers {readers:?}"
                )
            });
        }
    }

    /// A load has given `value`: it must be the last one stored.
    pub(crate) fn loaded(&mut self, node: NodeId, cell: Cell, value: u32) {
        let last = self.pages[cell.page as usize].cells[cell.index as usize];
        if value != last {
            self.fail(|| {
                format!("a read returns the latest write: {node} read {value} in {cell:?}, not {last}")
            });
        }
    }

    pub(crate) fn stored(&mut self, cell: Cell, value: u32) {
        let page = &mut self.pages[cell.page as usize];
        page.cells[cell.index as usize] = value;
        match cell.index {
            COUNTER => page.adds += 1,
            GUARDED => page.sections += 1,
            _ => {}
        }
    }

    /// The last values of a page.
    pub(crate) fn cells(&self, page: usize) -> [u32; CELLS.len()] {
        self.pages[page].cells
    }

    /// Counters count: a lost or doubled increment shows here even if every single load was right.
    pub(crate) fn check_sums(&mut self) {
        for at in 0..self.pages.len() {
            let Page { cells, adds, sections, .. } = self.pages[at];
            let (counted, guarded) = (cells[COUNTER as usize], cells[GUARDED as usize]);
            if counted != adds || guarded != sections {
                self.fail(|| {
                    format!("increments sum up: page {at} has {counted} of {adds}, {guarded} of {sections}")
                });
            }
        }
    }

    pub(crate) fn lock_taken(&mut self, node: NodeId, thread: u64, page: usize, token: u64) {
        let entry = &mut self.pages[page];
        let (holder, last) = (entry.holder.replace((node, thread)), entry.token);
        entry.token = token;
        self.sections += 1;
        if let Some((other, _)) = holder {
            self.fail(|| format!("one holder for each lock: {node} has lock {page}, and {other} too"));
        }
        if self.pages[page].is_broken {
            self.fail(|| format!("a lock whose holder died is broken: {node} has lock {page}"));
        }
        if token <= last {
            self.fail(|| format!("tokens grow: lock {page} had {last}, now {token}"));
        }
    }

    pub(crate) fn lock_released(&mut self, page: usize) {
        self.pages[page].holder = None;
    }

    pub(crate) fn arrived(&mut self, node: NodeId, round: u32) {
        self.barriers[round as usize].arrived.insert(node);
    }

    /// A barrier has ended for one member: like it has for the others, and not before all came.
    pub(crate) fn barrier_ended(
        &mut self,
        node: NodeId,
        round: u32,
        members: NodeSet,
        outcome: Result<(), ()>,
    ) {
        let barrier = &mut self.barriers[round as usize];
        let before = *barrier.outcome.get_or_insert(outcome);
        let arrived = barrier.arrived;
        // Only the death of the barrier's home can end one wait and not the other.
        let home = members.iter().next();
        if before != outcome && !home.is_some_and(|home| self.dead.contains(home)) {
            self.fail(|| format!("one outcome a barrier: round {round} {before:?}, but {node} {outcome:?}"));
        }
        if outcome.is_ok() && arrived != members {
            self.fail(|| format!("released early: round {round} with {arrived:?} of {members:?}"));
        }
    }

    /// A member's arrival does not count any more; so no member has gone on because of it.
    pub(crate) fn withdrew(&mut self, node: NodeId, round: u32) {
        let barrier = &mut self.barriers[round as usize];
        barrier.arrived.remove(node);
        if barrier.outcome == Some(Ok(())) {
            self.fail(|| format!("one outcome a barrier: round {round} has ended, but {node} has withdrawn"));
        }
    }

    /// An operation may fail only because of something that has happened.
    pub(crate) fn failed(&mut self, node: NodeId, failure: Failure) {
        let has_cause = match failure {
            Failure::NodeDied(gone) => self.dead.contains(gone) || self.leavers.contains(gone),
            Failure::PageLost(dead) => self.dead.contains(dead),
            Failure::LockBroken(dead) => self.dead.contains(dead) || self.deserters.contains(dead),
            Failure::Leaving | Failure::Abandoned | Failure::LockBusy => true,
            Failure::NoRegion | Failure::BarrierMisuse => false,
        };
        if !has_cause {
            self.fail(|| format!("no failure without a cause: {node} was told {failure:?}"));
        }
    }

    /// A node is about to die that may have written the page last.
    pub(crate) fn may_be_lost(&mut self, page: usize) {
        self.pages[page].may_be_lost = true;
    }

    /// A page was declared lost: only what lay at the dead alone may be.
    pub(crate) fn lost(&mut self, page: usize) {
        if !self.pages[page].may_be_lost {
            self.fail(|| format!("nothing is lost that the living have: page {page}"));
        }
    }

    pub(crate) fn died(&mut self, node: NodeId) {
        self.dead.insert(node);
        for page in &mut self.pages {
            page.is_broken |= page.holder.is_some_and(|(holder, _)| holder == node);
        }
        self.gone(node);
    }

    /// A view says that a node's process has ended.
    pub(crate) fn declared_dead(&mut self, node: NodeId) {
        self.dead.insert(node);
    }

    /// A node's process has ended: its threads and mappings are gone, its bytes are not.
    pub(crate) fn process_ended(&mut self, node: NodeId) {
        self.dead.insert(node);
        for page in &mut self.pages {
            page.is_broken |= page.holder.take_if(|(holder, _)| *holder == node).is_some();
            page.readers.remove(node);
            page.writers.remove(node);
        }
    }

    /// A node is gone: it maps nothing and holds nothing.
    pub(crate) fn gone(&mut self, node: NodeId) {
        for page in &mut self.pages {
            page.readers.remove(node);
            page.writers.remove(node);
            page.versions.get_mut(node.0 as usize).map(std::mem::take);
            page.holder.take_if(|(holder, _)| *holder == node);
        }
    }

    /// A node comes to no barrier any more, and is a member still.
    pub(crate) fn retires(&mut self, node: NodeId) {
        self.leavers.insert(node);
    }

    /// A node has left: barriers that count on it fail.
    pub(crate) fn left(&mut self, node: NodeId) {
        self.leavers.insert(node);
        self.gone(node);
    }

    /// A node leaves while one of its threads is in a critical section.
    pub(crate) fn deserts(&mut self, node: NodeId) {
        self.deserters.insert(node);
        for page in &mut self.pages {
            page.holder.take_if(|(holder, _)| *holder == node);
        }
    }
}
