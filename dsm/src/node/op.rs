//! Operations that threads wait for, and the word by which a thread is woken.
//!
//! The table lives under the node's lock. A waiting thread has a cell: it parks on the cell's word, ends its search
//! at the socket when the word changes, and finds the outcome there.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use super::poller::{futex_wait, futex_wake};
use crate::coherence::OpId;
use crate::machine::Outcome;

const OPEN: u32 = 0;
/// Its thread must come to the lock.
const COME: u32 = 1;
/// What its thread waits for has happened: the last word.
const DONE: u32 = 2;

/// What a thread parks on. It is changed under the node's lock, and read without.
#[derive(Default)]
pub(super) struct WakeWord(AtomicU32);

impl WakeWord {
    /// Whether the thread must come to the lock.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire) != OPEN
    }

    /// The thread is at the lock, and will park or search.
    pub(super) fn reset(&self) {
        let _ = self.0.compare_exchange(COME, OPEN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The thread must come to the lock; wakes nobody.
    pub(super) fn set(&self) {
        let _ = self.0.compare_exchange(OPEN, COME, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Wakes the thread if it is parked: after the word was set.
    pub(super) fn wake(&self) {
        futex_wake(&self.0);
    }

    /// Sleeps until the word is set, or for `timeout`. Without one, who sets it keeps a bound on how long that is.
    pub(super) fn park(&self, timeout: Option<Duration>) {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        while !self.is_set() {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return;
            }
            futex_wait(&self.0, OPEN, left);
        }
    }
}

/// One wait: what its thread parks on, and how the operation ended.
pub(super) struct OpCell {
    op: OpId,
    pub(super) word: WakeWord,
    outcome: OnceLock<Outcome>,
}

impl OpCell {
    pub(super) fn op(&self) -> OpId {
        self.op
    }

    /// Whether the operation has ended.
    pub(super) fn is_done(&self) -> bool {
        self.outcome.get().is_some()
    }
}

struct Slot {
    generation: u32,
    /// An operation is here.
    taken: bool,
    /// None: no thread waits for it.
    cell: Option<Arc<OpCell>>,
    /// Ends the sleep of its thread at the socket.
    bell: Option<Arc<EventFd>>,
}

/// All operations of a node that have not ended, or whose thread has not fetched the outcome.
///
/// Every wait ends: each operation is answered by the machine, which fails what depended on a dead node, and the
/// node's own end fails all.
#[derive(Default)]
pub(super) struct Ops {
    slots: Vec<Slot>,
    free: Vec<u32>,
    spare: Vec<Arc<OpCell>>,
    /// The last operation that began without a thread that waits for it.
    detached: Option<OpId>,
    /// Ends when one of those does.
    attendant: Option<OpId>,
}

/// Who hears of the end of an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Audience {
    /// A thread that waits.
    Waiting,
    /// Nobody: it was detached, and the thread behind it waits in the kernel.
    Detached,
    /// Nobody: it had ended before.
    Gone,
}

impl Ops {
    /// A new operation with a cell for the thread that will wait.
    pub(super) fn begin(&mut self) -> Arc<OpCell> {
        let op = self.insert();
        let fresh = OpCell { op, word: WakeWord::default(), outcome: OnceLock::new() };
        // A cell whose last thread still looks at it is let go.
        let cell = match self.spare.pop().map(|mut cell| (Arc::get_mut(&mut cell).is_some(), cell)) {
            Some((true, mut cell)) => {
                *Arc::get_mut(&mut cell).expect("it was unique just now") = fresh;
                cell
            }
            Some((false, _)) | None => Arc::new(fresh),
        };
        self.slots[index(op)].cell = Some(cell.clone());
        cell
    }

    /// A new operation that no thread waits for; its outcome is only looked at.
    pub(super) fn begin_detached(&mut self) -> OpId {
        let op = self.insert();
        self.detached = Some(op);
        op
    }

    /// An operation that ends when the next one does that no thread waits for; `None` if the last of those
    /// has ended already.
    pub(super) fn begin_attending(&mut self) -> Option<Arc<OpCell>> {
        let awaited = self.detached.is_some_and(|op| !self.has_ended(op)) && self.attendant.is_none();
        awaited.then(|| {
            let cell = self.begin();
            self.attendant = Some(cell.op);
            cell
        })
    }

    /// The thread that attended does so no longer.
    pub(super) fn end_attending(&mut self) {
        self.attendant = None;
    }

    fn insert(&mut self) -> OpId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, taken: false, cell: None, bell: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        (slot.generation, slot.taken) = (slot.generation.wrapping_add(1), true);
        OpId(u64::from(slot.generation) << 32 | u64::from(index))
    }

    fn slot(&self, op: OpId) -> Option<&Slot> {
        let slot = self.slots.get(index(op))?;
        (slot.taken && u64::from(slot.generation) == op.0 >> 32).then_some(slot)
    }

    /// Ends an operation, unless it has ended already; wakes nobody.
    pub(super) fn end(&mut self, op: OpId, outcome: Outcome) -> Audience {
        match self.slot(op).map(|slot| slot.cell.as_ref()) {
            None => Audience::Gone,
            Some(Some(cell)) => {
                if cell.outcome.set(outcome).is_err() {
                    return Audience::Gone;
                }
                cell.word.0.store(DONE, Ordering::Release);
                Audience::Waiting
            }
            Some(None) => {
                self.forget(op);
                Audience::Detached
            }
        }
    }

    /// The thread that attends, if there is one: an operation has ended that no thread waits for.
    pub(super) fn take_attendant(&mut self) -> Option<OpId> {
        self.attendant.take()
    }

    /// The outcome of an operation that has ended, which then is forgotten.
    pub(super) fn take(&mut self, op: OpId) -> Option<Outcome> {
        let outcome = self.slot(op)?.cell.as_ref()?.outcome.get()?.clone();
        self.forget(op);
        Some(outcome)
    }

    /// Whether an operation has ended.
    pub(super) fn has_ended(&self, op: OpId) -> bool {
        self.slot(op).is_none_or(|slot| slot.cell.as_ref().is_some_and(|cell| cell.is_done()))
    }

    /// The operation is nobody's any more.
    pub(super) fn forget(&mut self, op: OpId) {
        if self.slot(op).is_some() {
            let slot = &mut self.slots[index(op)];
            (slot.taken, slot.bell) = (false, None);
            self.spare.extend(slot.cell.take());
            self.free.push(index(op) as u32);
        }
    }

    /// What wakes the operation's thread at the socket.
    pub(super) fn set_bell(&mut self, op: OpId, bell: &Arc<EventFd>) {
        if self.slot(op).is_some() {
            self.slots[index(op)].bell = Some(bell.clone());
        }
    }

    /// Has the operation's parked thread come to the lock; returns what it is to be woken by.
    pub(super) fn unpark(&self, op: OpId) -> Option<Arc<OpCell>> {
        let cell = self.slot(op)?.cell.as_ref()?;
        cell.word.set();
        Some(cell.clone())
    }

    /// Ends the search of the operation's thread; returns what ends its sleep at the socket.
    pub(super) fn summon(&self, op: OpId) -> Option<Arc<EventFd>> {
        let slot = self.slot(op)?;
        slot.cell.as_ref()?.word.set();
        slot.bell.clone()
    }

    /// All operations that have not ended.
    pub(super) fn open(&self) -> Vec<OpId> {
        let taken = self.slots.iter().enumerate().filter(|(_, slot)| slot.taken);
        let ops = taken.map(|(index, slot)| OpId(u64::from(slot.generation) << 32 | index as u64));
        ops.filter(|op| !self.has_ended(*op)).collect()
    }
}

fn index(op: OpId) -> usize {
    (op.0 & u64::from(u32::MAX)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_attends_is_told_when_any_operation_ends_that_nobody_waits_for() {
        let mut ops = Ops::default();
        assert!(ops.begin_attending().is_none(), "there is none");
        let (stuck, last) = (ops.begin_detached(), ops.begin_detached());
        let cell = ops.begin_attending().expect("the last one is open");
        assert!(ops.begin_attending().is_none(), "one thread attends");
        assert_eq!(ops.end(last, Outcome::Membership), Audience::Detached);
        assert_eq!(ops.take_attendant(), Some(cell.op()));
        assert!(ops.begin_attending().is_none(), "an older one is no reason to wait");
        assert_eq!(ops.end(stuck, Outcome::Membership), Audience::Detached);
        assert_eq!(ops.end(stuck, Outcome::Membership), Audience::Gone);
    }

    #[test]
    fn an_outcome_stays_with_its_operation_though_the_cell_is_used_again() {
        let mut ops = Ops::default();
        let first = ops.begin();
        assert_eq!(ops.end(first.op(), Outcome::Membership), Audience::Waiting);
        assert!(first.is_done() && first.word.is_set());
        first.word.reset();
        assert!(first.word.is_set(), "an end is the last word");
        assert!(ops.take(first.op()).is_some() && ops.take(first.op()).is_none());
        let second = ops.begin();
        assert!(first.is_done() && !second.is_done(), "its thread still looked at the first one");
        let kept = Arc::as_ptr(&second);
        ops.forget(second.op());
        drop(second);
        let third = ops.begin();
        assert_eq!(Arc::as_ptr(&third), kept, "nothing is allocated for a wait");
        assert!(!third.is_done() && !third.word.is_set());
        third.word.set();
        third.word.park(None);
    }
}
