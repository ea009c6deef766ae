//! What application threads do: small random programs of loads, stores, read-modify-writes, accesses
//! across a page boundary, copies, critical sections and barriers. A program has a few *sites*, each
//! with an instruction address of its own, and runs them over and over as a loop does.

use std::collections::VecDeque;

use fastrand::Rng;
use pagemesh::coherence::{Attempt, LockId, OpId};
use pagemesh::page::{Access, PAGE_SIZE, PageId};
use smallvec::SmallVec;

use crate::plan::Plan;

/// Offsets of the four-byte cells that are modelled of each page.
pub(crate) const CELLS: [usize; 5] = [0, 512, 1024, 2048, PAGE_SIZE - 4];
/// The cell that a value across the boundary shares with the page before.
const HEAD: u8 = 0;
/// Only read-modify-writes change it.
pub(crate) const COUNTER: u8 = 1;
/// Only changed under the page's lock, by a load and a later store.
pub(crate) const GUARDED: u8 = 2;
const PLAIN: u8 = 3;
/// The cell that a value across the boundary shares with the page behind.
const TAIL: u8 = 4;

/// A cell of a page; `page` is an index into the plan's pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Cell {
    pub(crate) page: u8,
    pub(crate) index: u8,
}

/// One instruction. It runs when everything that it touches is mapped, and then at once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Instruction {
    Load(Cell),
    Store(Cell),
    /// An atomic read-modify-write: the fault says write.
    Add(Cell),
    /// Eight bytes across the end of the page.
    LoadAcross(u8),
    StoreAcross(u8),
    AddAcross(u8),
    /// A string move: reads one page, writes another.
    Copy {
        from: Cell,
        to: Cell,
    },
    /// A string move whose operands both lie across a boundary: four pages.
    CopyAcross {
        from: u8,
        to: u8,
    },
    /// Loads into the thread's register.
    Keep(Cell),
    /// Stores the register plus one.
    StoreKept(Cell),
}

/// What one step of a thread is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Run { instruction: Instruction, address: u64 },
    Lock(LockId, Attempt),
    Unlock(LockId),
    Barrier(u32),
}

/// What a thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Ready,
    /// In a page fault, or waiting for a lock or a barrier.
    Waiting(OpId),
    Finished,
}

/// What an operation of a thread is made of.
#[derive(Clone, Copy)]
enum Site {
    Single(Kind),
    Section(LockId, u8),
    /// A walk over all pages, again and again; the page that comes next.
    Sweep(Access, u8, Direction),
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

#[derive(Clone, Copy)]
enum Kind {
    Load,
    Store,
    Add,
    LoadAcross,
    StoreAcross,
    AddAcross,
    Copy,
    CopyAcross,
}

/// An application thread.
pub(crate) struct Thread {
    /// As the system would name it.
    pub(crate) id: u64,
    pub(crate) state: State,
    pub(crate) steps: VecDeque<Step>,
    pub(crate) register: u32,
    /// The fault that was answered and has not been gone on from.
    pub(crate) woken: Option<(PageId, Access)>,
    /// The lock that it is in the critical section of.
    pub(crate) holds: Option<LockId>,
    /// Whether barriers still make sense to this thread.
    pub(crate) meets: bool,
    sites: SmallVec<[Site; 4]>,
    operations: u32,
    /// Operations between two barriers.
    stride: u32,
    rounds: u32,
    next_round: u32,
    done: u32,
}

impl Instruction {
    /// The accesses that it makes, in no order that a program may rely on.
    pub(crate) fn needs(&self) -> SmallVec<[(u8, Access); 4]> {
        use Access::{Read, Write};
        let list: &[(u8, Access)] = match *self {
            Instruction::Load(cell) | Instruction::Keep(cell) => &[(cell.page, Read)],
            Instruction::Store(cell) | Instruction::Add(cell) | Instruction::StoreKept(cell) => {
                &[(cell.page, Write)]
            }
            Instruction::LoadAcross(page) => &[(page, Read), (page + 1, Read)],
            Instruction::StoreAcross(page) | Instruction::AddAcross(page) => {
                &[(page, Write), (page + 1, Write)]
            }
            Instruction::Copy { from, to } => &[(from.page, Read), (to.page, Write)],
            Instruction::CopyAcross { from, to } => {
                &[(from, Read), (from + 1, Read), (to, Write), (to + 1, Write)]
            }
        };
        SmallVec::from_slice(list)
    }

    /// The cells that it reads, and those that it writes.
    pub(crate) fn cells(&self) -> (SmallVec<[Cell; 2]>, SmallVec<[Cell; 2]>) {
        let none = SmallVec::new;
        let one = |cell: Cell| SmallVec::from_slice(&[cell]);
        let across = |page: u8| {
            SmallVec::from_slice(&[Cell { page, index: TAIL }, Cell { page: page + 1, index: HEAD }])
        };
        match *self {
            Instruction::Load(cell) | Instruction::Keep(cell) => (one(cell), none()),
            Instruction::Store(cell) | Instruction::StoreKept(cell) => (none(), one(cell)),
            Instruction::Add(cell) => (one(cell), one(cell)),
            Instruction::LoadAcross(page) => (across(page), none()),
            Instruction::StoreAcross(page) => (none(), across(page)),
            Instruction::AddAcross(page) => (across(page), across(page)),
            Instruction::Copy { from, to } => (one(from), one(to)),
            Instruction::CopyAcross { from, to } => (across(from), across(to)),
        }
    }
}

impl Thread {
    /// A thread with a random program; one with `rounds` takes part in that many barriers.
    pub(crate) fn new(plan: &Plan, rng: &mut Rng, id: u64, rounds: u32) -> Self {
        let sites = (0..rng.usize(1..=4)).map(|_| site(plan, rng)).collect();
        let operations = rng.u32(plan.operations.clone());
        Thread {
            id,
            state: State::Ready,
            steps: VecDeque::new(),
            register: 0,
            woken: None,
            holds: None,
            meets: true,
            sites,
            operations,
            stride: operations / (rounds + 1),
            rounds,
            next_round: 0,
            done: 0,
        }
    }

    /// A thread that runs one instruction, again and again.
    pub(crate) fn adding(id: u64, instruction: Instruction, times: u32) -> Self {
        let steps = (0..times).map(|_| Step::Run { instruction, address: 0x40_1000 }).collect();
        Thread {
            id,
            state: State::Ready,
            steps,
            register: 0,
            woken: None,
            holds: None,
            meets: false,
            sites: SmallVec::new(),
            operations: 0,
            stride: 0,
            rounds: 0,
            next_round: 0,
            done: 0,
        }
    }

    /// The step to take now; `None` when the program has ended.
    pub(crate) fn step(&mut self, plan: &Plan, rng: &mut Rng) -> Option<Step> {
        while self.steps.is_empty() {
            let due = self.next_round < self.rounds && self.done >= (self.next_round + 1) * self.stride;
            if due && self.meets {
                self.steps.push_back(Step::Barrier(self.next_round));
                self.next_round += 1;
            } else if self.done < self.operations {
                self.done += 1;
                if self.done == 1 {
                    // Everybody's first operation is on the same page: there is something to share.
                    let instruction = Instruction::Add(Cell { page: 0, index: COUNTER });
                    self.steps.push_back(Step::Run { instruction, address: 0x40_0800 });
                } else {
                    self.expand(plan, rng);
                }
            } else {
                return None;
            }
        }
        self.steps.front().copied()
    }

    /// No operation follows the present one.
    pub(crate) fn stop(&mut self) {
        self.operations = self.done;
        self.meets = false;
    }

    fn expand(&mut self, plan: &Plan, rng: &mut Rng) {
        let at = rng.usize(..self.sites.len());
        let address = 0x40_1000 + 16 * at as u64;
        match self.sites[at] {
            Site::Single(kind) => {
                let instruction = instruction(kind, plan, rng);
                self.steps.push_back(Step::Run { instruction, address });
            }
            Site::Sweep(access, page, direction) => {
                let pages = plan.pages.len() as u8;
                let next = match direction {
                    Direction::Up => (page + 1) % pages,
                    Direction::Down => (page + pages - 1) % pages,
                };
                self.sites[at] = Site::Sweep(access, next, direction);
                let instruction = match access {
                    Access::Write if page % 2 == 0 => Instruction::Add(Cell { page, index: COUNTER }),
                    Access::Write => Instruction::Store(Cell { page, index: PLAIN }),
                    Access::None | Access::Read => Instruction::Load(Cell { page, index: PLAIN }),
                };
                self.steps.push_back(Step::Run { instruction, address });
            }
            Site::Section(lock, page) => {
                let cell = Cell { page, index: GUARDED };
                let attempt = if plan.tries && rng.bool() { Attempt::Try } else { Attempt::Wait };
                self.steps.push_back(Step::Lock(lock, attempt));
                for _ in 0..rng.u32(1..=2) {
                    self.steps.push_back(Step::Run { instruction: Instruction::Keep(cell), address });
                    let instruction = Instruction::StoreKept(cell);
                    self.steps.push_back(Step::Run { instruction, address: address + 8 });
                }
                self.steps.push_back(Step::Unlock(lock));
            }
        }
    }
}

fn site(plan: &Plan, rng: &mut Rng) -> Site {
    if !plan.locks.is_empty() && rng.u32(..4) == 0 {
        let page = plan.locks[rng.usize(..plan.locks.len())];
        return Site::Section(LockId(plan.pages[page as usize]), page);
    }
    if plan.pages.len() > 4 && rng.bool() {
        let access = if rng.bool() { Access::Read } else { Access::Write };
        let direction = if rng.u32(..4) == 0 { Direction::Down } else { Direction::Up };
        return Site::Sweep(access, rng.u8(..plan.pages.len() as u8), direction);
    }
    let across = !plan.adjacent.is_empty();
    Site::Single(match rng.u32(..12) {
        0..=2 => Kind::Load,
        3..=4 => Kind::Store,
        5..=7 => Kind::Add,
        8 => Kind::Copy,
        9 if across => Kind::LoadAcross,
        10 if across => Kind::StoreAcross,
        11 if across && rng.bool() => Kind::CopyAcross,
        11 if across => Kind::AddAcross,
        _ => Kind::Store,
    })
}

fn instruction(kind: Kind, plan: &Plan, rng: &mut Rng) -> Instruction {
    let page = rng.u8(..plan.pages.len() as u8);
    let across = |rng: &mut Rng| plan.adjacent[rng.usize(..plan.adjacent.len())];
    let plain = |rng: &mut Rng| [HEAD, PLAIN, TAIL][rng.usize(..3)];
    match kind {
        Kind::Load => Instruction::Load(Cell { page, index: rng.u8(..CELLS.len() as u8) }),
        Kind::Store => Instruction::Store(Cell { page, index: plain(rng) }),
        Kind::Add => Instruction::Add(Cell { page, index: COUNTER }),
        Kind::LoadAcross => Instruction::LoadAcross(across(rng)),
        Kind::StoreAcross => Instruction::StoreAcross(across(rng)),
        Kind::AddAcross => Instruction::AddAcross(across(rng)),
        Kind::Copy => {
            let from = Cell { page, index: rng.u8(..CELLS.len() as u8) };
            let to = Cell { page: rng.u8(..plan.pages.len() as u8), index: PLAIN };
            Instruction::Copy { from, to }
        }
        Kind::CopyAcross => Instruction::CopyAcross { from: across(rng), to: across(rng) },
    }
}
