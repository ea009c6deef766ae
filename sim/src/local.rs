//! One node's memory and its application threads. Threads run between the core's calls as they do on
//! real cores: before every change of a mapping takes effect, and before every read of a page by the
//! runtime, threads of the node may load and store what is still mapped.

use std::cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fastrand::Rng;
use pagemesh::coherence::{Legacy, LockId, Plant};
use pagemesh::page::{
    Access, Contents, Epoch, ExtentId, Lent, LockWords, Memory, NodeId, PAGE_SIZE, PageBuf, PageId, PagePool,
    Time, Version,
};
use smallvec::SmallVec;

use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::program::{CELLS, Cell, Instruction, State, Step, Thread};
use crate::trace::{Trace, What};

/// Instructions that one thread may run inside one call of the core.
const STEPS_BETWEEN_MAX: u32 = 3;

/// What belongs to no node: the truth, the dice, the record, the time.
pub(crate) struct Shared {
    pub(crate) oracle: Oracle,
    pub(crate) rng: Rng,
    pub(crate) trace: Trace,
    pub(crate) now: Time,
    pub(crate) plan: Plan,
    /// A fault that is planted in the memory itself, if it is one of those.
    pub(crate) plant: Option<Plant>,
}

/// A node's memory and threads.
pub(crate) struct Local {
    pub(crate) me: NodeId,
    pub(crate) threads: Vec<Thread>,
    frames: Vec<Frame>,
    /// Locks that the core has lent to the threads, by page.
    lent: Vec<Option<Lent>>,
    lending: bool,
    watched: bool,
    /// Pages whose mapping or bytes the core has touched since the last check.
    pub(crate) touched: SmallVec<[u8; 4]>,
    /// Pages that take memory, those included that no program touches.
    backed: BTreeSet<PageId>,
    pool: PagePool,
    /// The node has ended: its threads have no access any more.
    revoked: bool,
    process: Rc<cell::Cell<Process>>,
    /// The memory of nodes that this process runs on.
    kept: BTreeMap<usize, Local>,
    /// What the record says of each page, those included that no program touches.
    record: BTreeMap<PageId, Version>,
    /// Homes and locks that the record notes.
    homes: BTreeMap<ExtentId, NodeId>,
    taken: BTreeSet<PageId>,
    opened: Epoch,
}

/// Whether the process still runs. It may end between any two steps, and what was written stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Process {
    Runs,
    /// It ends after so many more steps.
    EndsAfter(u32),
    Ended,
}

#[derive(Clone, Copy)]
struct Frame {
    cells: [u32; CELLS.len()],
    access: Access,
}

/// The view of a node's memory that its core is given.
pub(crate) struct NodeMemory<'a> {
    pub(crate) local: &'a mut Local,
    pub(crate) shared: &'a mut Shared,
}

impl Local {
    pub(crate) fn new(me: NodeId, pages: usize, threads: Vec<Thread>) -> Self {
        let frame = Frame { cells: [0; CELLS.len()], access: Access::None };
        let (frames, lent) = (vec![frame; pages], vec![None; pages]);
        let (touched, pool) = (SmallVec::new(), PagePool::new(64));
        Local {
            me,
            threads,
            frames,
            lent,
            lending: true,
            watched: true,
            touched,
            backed: BTreeSet::new(),
            pool,
            revoked: false,
            process: Rc::new(cell::Cell::new(Process::Runs)),
            kept: BTreeMap::new(),
            record: BTreeMap::new(),
            homes: BTreeMap::new(),
            taken: BTreeSet::new(),
            opened: Epoch(0),
        }
    }

    /// The process ends after so many more steps: changes of memory, of the record or of a mapping, or messages.
    pub(crate) fn ends_after(&mut self, steps: u32) {
        if self.process.get() == Process::Runs {
            self.process.set(Process::EndsAfter(steps));
        }
    }

    /// One step of the process; false if it has ended before.
    pub(crate) fn takes_step(&mut self) -> bool {
        self.process.set(match self.process.get() {
            Process::EndsAfter(0) => Process::Ended,
            Process::EndsAfter(left) => Process::EndsAfter(left - 1),
            same @ (Process::Runs | Process::Ended) => same,
        });
        self.process.get() != Process::Ended
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.process.get() == Process::Ended
    }

    /// The process ends now: its mappings and threads are gone, its memory and its record stay.
    pub(crate) fn end(&mut self) {
        self.process.set(Process::Ended);
        self.threads.clear();
        self.frames.iter_mut().for_each(|frame| frame.access = Access::None);
        self.lent.fill(None);
        self.touched.clear();
    }

    /// What another process that runs the node on finds. What lies there without a version is given back.
    pub(crate) fn hand_over(&mut self) -> Legacy {
        self.process = Rc::new(cell::Cell::new(Process::Runs));
        self.backed.retain(|page| self.record.contains_key(page));
        Legacy {
            pages: self.record.iter().map(|(&page, &version)| (page, version)).collect(),
            homes: self.homes.iter().map(|(&extent, &home)| (extent, home)).collect(),
            locks: self.taken.iter().map(|&page| LockId(page)).collect(),
            opened: self.opened,
        }
    }

    /// The process runs another node on, by its place in the run: its end is the end of both.
    pub(crate) fn keep(&mut self, of: usize, mut memory: Local) {
        memory.process = self.process.clone();
        self.kept.insert(of, memory);
    }

    pub(crate) fn keeps(&self, of: usize) -> bool {
        self.kept.contains_key(&of)
    }

    pub(crate) fn kept(&mut self, of: usize) -> Option<&mut Local> {
        self.kept.get_mut(&of)
    }

    /// The process runs that node on no more.
    pub(crate) fn release(&mut self, of: usize) -> Option<Local> {
        let mut memory = self.kept.remove(&of)?;
        memory.process = Rc::new(cell::Cell::new(Process::Ended));
        Some(memory)
    }

    /// The process runs nobody on any more.
    pub(crate) fn release_all(&mut self) -> Vec<(usize, Local)> {
        let kept: Vec<usize> = self.kept.keys().copied().collect();
        kept.into_iter().filter_map(|of| Some((of, self.release(of)?))).collect()
    }

    /// What the MMU allows on a page.
    pub(crate) fn access(&self, page: usize) -> Access {
        self.frames[page].access
    }

    /// The pages that take memory, those included that no program touches.
    pub(crate) fn backed(&self) -> impl Iterator<Item = PageId> {
        self.backed.iter().copied()
    }

    /// The bytes that the runtime would see.
    pub(crate) fn cells(&self, page: usize) -> [u32; CELLS.len()] {
        self.frames[page].cells
    }

    /// The page that an instruction faults on: the hardware looks at its pages in an order of its own.
    pub(crate) fn missing(&self, instruction: &Instruction, rng: &mut Rng) -> Option<(u8, Access)> {
        let lacks = |&(page, access): &(u8, Access)| self.frames[page as usize].access < access;
        let missing: SmallVec<[(u8, Access); 4]> = instruction.needs().into_iter().filter(lacks).collect();
        match missing.len() {
            0 => None,
            1 => Some(missing[0]),
            len => Some(missing[rng.usize(..len)]),
        }
    }

    /// Runs an instruction whose pages are all mapped.
    pub(crate) fn run(&mut self, thread: usize, instruction: Instruction, shared: &mut Shared) {
        let (reads, writes) = instruction.cells();
        let mut values: SmallVec<[u32; 2]> = SmallVec::new();
        for &cell in &reads {
            let value = self.frames[cell.page as usize].cells[cell.index as usize];
            shared.oracle.loaded(self.me, cell, value);
            values.push(value);
        }
        for (i, &cell) in writes.iter().enumerate() {
            let value = match instruction {
                Instruction::Add(_) | Instruction::AddAcross(_) => values[i] + 1,
                Instruction::Copy { .. } | Instruction::CopyAcross { .. } => values[i],
                Instruction::StoreKept(_) => self.threads[thread].register + 1,
                Instruction::Load(_) | Instruction::LoadAcross(_) | Instruction::Keep(_) => {
                    unreachable!("loads write nothing")
                }
                Instruction::Store(_) | Instruction::StoreAcross(_) => shared.oracle.fresh_value(),
            };
            self.store(cell, value, shared);
            values.push(value);
        }
        if let Instruction::Keep(_) = instruction {
            self.threads[thread].register = values[0];
        }
        shared.oracle.instructions += 1;
        let value = values.last().copied().unwrap_or(0);
        let what = What::Ran { thread: self.threads[thread].id, instruction, value };
        shared.trace.record(shared.now, self.me, what);
    }

    /// A thread takes a lock that is lent and free.
    pub(crate) fn try_take(&mut self, thread: usize, lock: LockId, shared: &mut Shared) -> bool {
        let page = shared.plan.index(lock.0);
        let Some(Lent::Free { token }) = self.lent[page] else { return false };
        let (token, runner) = (token + 1, &mut self.threads[thread]);
        self.lent[page] = Some(Lent::Held { token });
        runner.holds = Some(lock);
        shared.oracle.lock_taken(self.me, runner.id, page, token);
        shared.trace.record(shared.now, self.me, What::Took { thread: runner.id, lock, token });
        true
    }

    /// A thread gives a lock back that is still lent.
    pub(crate) fn try_give(&mut self, thread: usize, lock: LockId, shared: &mut Shared) -> bool {
        let page = shared.plan.index(lock.0);
        let Some(Lent::Held { token }) = self.lent[page] else { return false };
        let runner = &mut self.threads[thread];
        self.lent[page] = Some(Lent::Free { token });
        runner.holds = None;
        shared.oracle.lock_released(page);
        shared.trace.record(shared.now, self.me, What::Gave { thread: runner.id, lock });
        true
    }

    /// The others have declared this node dead: what is mapped here is no part of the memory any more.
    pub(crate) fn go_unwatched(&mut self) {
        self.watched = false;
    }

    /// No thread takes a lock any more, or gives one back.
    pub(crate) fn end_lending(&mut self) {
        self.lending = false;
    }

    fn store(&mut self, cell: Cell, value: u32, shared: &mut Shared) {
        self.frames[cell.page as usize].cells[cell.index as usize] = value;
        shared.oracle.stored(cell, value);
    }
}

impl NodeMemory<'_> {
    /// Lets a thread of this node run, as one on another core could just now.
    fn between(&mut self) {
        if self.local.has_ended() {
            return;
        }
        if self.shared.rng.u32(..self.shared.plan.pace.between_one_in) != 0 || self.local.threads.is_empty() {
            return;
        }
        let thread = self.shared.rng.usize(..self.local.threads.len());
        for _ in 0..self.shared.rng.u32(1..=STEPS_BETWEEN_MAX) {
            if self.local.threads[thread].state != State::Ready {
                return;
            }
            let step = self.local.threads[thread].step(&self.shared.plan, &mut self.shared.rng);
            let went_on = match step {
                Some(Step::Run { instruction, .. }) => self.try_run(thread, instruction),
                Some(Step::Lock(lock, _)) => self.local.try_take(thread, lock, self.shared),
                Some(Step::Unlock(lock)) => self.local.try_give(thread, lock, self.shared),
                Some(Step::Barrier(_)) | None => false,
            };
            if !went_on {
                return;
            }
            self.local.threads[thread].steps.pop_front();
        }
    }

    fn try_run(&mut self, thread: usize, instruction: Instruction) -> bool {
        let runs = self.local.missing(&instruction, &mut self.shared.rng).is_none();
        if runs {
            self.local.run(thread, instruction, self.shared);
        }
        runs
    }

    fn record(&mut self, what: What) {
        self.shared.trace.record(self.shared.now, self.local.me, what);
    }

    fn check_unmapped(&mut self, page: usize) {
        let (mapped, me) = (self.local.frames[page].access, self.local.me);
        if mapped == Access::Write && !self.local.has_ended() {
            self.shared.oracle.fail(|| format!("bytes are not changed under a writer: {me} page {page}"));
        }
    }

    /// A page of a region that no program has touched comes to no node: it would be lost with the node.
    fn check_region(&mut self, page: PageId) {
        if !self.shared.plan.region.contains(page) {
            let me = self.local.me;
            self.shared.oracle.fail(|| format!("no page of another program's region comes: {me} {page:?}"));
        }
    }

    /// The record says from now on which version of the page lies here.
    fn note_version(&mut self, page: PageId, version: Version) {
        if !self.local.takes_step() {
            return;
        }
        match version {
            Version(0) => self.local.record.remove(&page),
            Version(_) => self.local.record.insert(page, version),
        };
        if let Some(index) = self.shared.plan.find(page) {
            self.shared.oracle.recorded(self.local.me, index, version);
        }
    }

    /// Writes a page's bytes. The process may end when half of them are written.
    fn write(&mut self, page: usize, cells: &[u32; CELLS.len()]) {
        for half in [0..2, 2..CELLS.len()] {
            if self.local.takes_step() {
                self.local.frames[page].cells[half.clone()].copy_from_slice(&cells[half]);
            }
        }
    }

    fn map(&mut self, page: usize, access: Access) {
        if !self.local.takes_step() {
            return;
        }
        let access = if self.local.revoked { Access::None } else { access };
        self.local.frames[page].access = access;
        self.local.touched.push(page as u8);
        if self.local.watched {
            self.shared.oracle.mapped(self.local.me, page, access);
        }
    }
}

impl Memory for NodeMemory<'_> {
    fn protect(&mut self, page: PageId, access: Access) {
        self.between();
        self.record(What::Protect { page, access });
        if access != Access::None && !self.local.has_ended() {
            self.check_region(page);
            self.local.backed.insert(page);
        }
        if let Some(index) = self.shared.plan.find(page) {
            self.map(index, access);
        }
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        (first.0..first.0 + pages).for_each(|page| self.protect(PageId(page), access));
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        self.between();
        self.record(What::Read { page });
        let mut buffer = self.local.pool.take();
        let cells =
            self.shared.plan.find(page).map_or_else(Default::default, |at| self.local.frames[at].cells);
        write_cells(&cells, buffer.as_mut_slice());
        buffer
    }

    fn set_version(&mut self, page: PageId, version: Version) {
        self.between();
        self.note_version(page, version);
    }

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, version: Version) {
        self.between();
        self.record(What::Install { page, access });
        self.check_region(page);
        if !self.local.has_ended() {
            self.local.backed.insert(page);
        }
        let index = self.shared.plan.find(page);
        let cells = match contents {
            Contents::Zero => Some([0; CELLS.len()]),
            Contents::Bytes(bytes) => Some(read_cells(bytes)),
            Contents::InPlace => None,
        };
        if let Some(cells) = cells {
            if let Some(index) = index {
                self.check_unmapped(index);
            }
            // The order of `Arena`: what lies there is recorded only while it is complete.
            let early = self.shared.plant == Some(Plant::MemoryRecordsBeforeBytes);
            self.note_version(page, if early { version } else { Version(0) });
            if let Some(index) = index {
                self.write(index, &cells);
            }
        }
        self.note_version(page, version);
        if let Some(index) = index {
            self.map(index, access);
        }
    }

    fn note_home(&mut self, extent: ExtentId, home: NodeId) {
        if self.local.takes_step() {
            self.local.homes.insert(extent, home);
        }
    }

    fn note_opened(&mut self, round: Epoch) {
        if self.local.takes_step() {
            self.local.opened = round;
        }
    }

    fn expect(&mut self, first: PageId, pages: u64) {
        if self.local.has_ended() {
            return;
        }
        self.local.backed.extend((first.0..first.0 + pages).map(PageId));
    }

    fn discard(&mut self, page: PageId) {
        self.between();
        self.record(What::Discard { page });
        let punches_first = self.shared.plant == Some(Plant::MemoryPunchesBeforeItClears);
        if !punches_first {
            self.note_version(page, Version(0));
        }
        let index = self.shared.plan.find(page);
        let mapped = index.map_or(Access::None, |index| self.local.frames[index].access);
        if mapped != Access::None && !self.local.has_ended() {
            let me = self.local.me;
            self.shared.oracle.fail(|| format!("only unmapped memory is given back: {me} {page:?}"));
        }
        if self.local.takes_step() {
            self.local.backed.remove(&page);
            if let Some(index) = index {
                self.local.frames[index].cells = [0; CELLS.len()];
            }
        }
        if punches_first {
            self.note_version(page, Version(0));
        }
    }

    fn revoke_all(&mut self) {
        if !self.local.revoked {
            self.between();
            self.local.revoked = true;
            (0..self.local.frames.len()).for_each(|page| self.map(page, Access::None));
        }
    }
}

impl LockWords for NodeMemory<'_> {
    fn lend_lock(&mut self, page: PageId, token: u64) -> bool {
        // Not every node has a handle of every lock.
        let lends = self.local.lending && !self.local.has_ended() && self.shared.rng.u32(..8) != 0;
        if lends {
            self.record(What::Lend { page, token });
            let index = self.shared.plan.index(page);
            if self.local.lent[index].replace(Lent::Free { token }).is_some() {
                let me = self.local.me;
                self.shared.oracle.fail(|| format!("a lock is lent once: {me} {page:?}"));
            }
            self.between();
        }
        lends
    }

    fn note_lock(&mut self, page: PageId, is_taken: bool) {
        if self.local.takes_step() && is_taken {
            self.local.taken.insert(page);
        } else if !self.local.has_ended() {
            self.local.taken.remove(&page);
        }
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        self.between();
        self.record(What::Recall { page });
        let index = self.shared.plan.index(page);
        let lent = self.local.lent[index].take();
        if self.local.has_ended() {
            return Lent::Free { token: 0 };
        }
        lent.expect("only a lent lock is recalled")
    }
}

/// Puts the modelled cells where they lie in a page; the other bytes stay as they are.
pub(crate) fn write_cells(cells: &[u32; CELLS.len()], bytes: &mut [u8]) {
    for (&offset, value) in CELLS.iter().zip(cells) {
        bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// The modelled cells of a page.
pub(crate) fn read_cells(bytes: &[u8]) -> [u32; CELLS.len()] {
    assert_eq!(bytes.len(), PAGE_SIZE, "a page is whole");
    CELLS.map(|offset| {
        let word: [u8; 4] = bytes[offset..offset + 4].try_into().expect("four bytes");
        u32::from_le_bytes(word)
    })
}
