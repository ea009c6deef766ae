//! Operations that somebody waits for, and how the waiting threads are woken.
//!
//! The table lives under the core's lock. A waiting thread sleeps on its own [`Bell`]; whoever ends
//! the operation stores the result in the table and rings.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::coherence::OpId;
use crate::machine::Outcome;

/// Why a thread was woken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ring {
    /// Not yet.
    None,
    /// Its operation has ended.
    Done,
    /// It must receive for the node now.
    Receive,
}

/// What one waiting thread sleeps on.
pub(super) struct Bell {
    ring: Mutex<Ring>,
    condvar: Condvar,
}

impl Bell {
    fn new() -> Self {
        Bell { ring: Mutex::new(Ring::None), condvar: Condvar::new() }
    }

    fn ring(&self, why: Ring) {
        let mut ring = self.ring.lock();
        // "Done" is the last word.
        if *ring != Ring::Done {
            *ring = why;
        }
        self.condvar.notify_one();
    }

    /// Sleeps until rung, or for `timeout`. Without one, whoever rings keeps a bound on how long that
    /// is: see [`Waits`].
    pub(super) fn sleep(&self, timeout: Option<Duration>) {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut ring = self.ring.lock();
        while *ring == Ring::None {
            match until {
                None => self.condvar.wait(&mut ring),
                Some(until) if self.condvar.wait_until(&mut ring, until).timed_out() => break,
                Some(_) => {}
            }
        }
        if *ring == Ring::Receive {
            *ring = Ring::None;
        }
    }

    /// Whether the operation has ended; for threads that do not sleep.
    pub(super) fn is_done(&self) -> bool {
        *self.ring.lock() == Ring::Done
    }
}

struct Slot {
    generation: u32,
    /// `None`: free, or nobody waits for this one.
    bell: Option<Arc<Bell>>,
    outcome: Option<Outcome>,
    taken: bool,
    parked: bool,
}

/// All operations of a node that have not ended, or whose thread has not fetched the result.
///
/// Every wait ends: each operation is answered by the coherence or membership core, which fail what
/// depended on a dead node, and the node's own end fails all.
#[derive(Default)]
pub(super) struct Waits {
    slots: Vec<Slot>,
    free: Vec<u32>,
    spare: Vec<Arc<Bell>>,
    /// The last operation that began without a thread that waits for it.
    detached: Option<OpId>,
    /// Ends when one of those does.
    attendant: Option<OpId>,
}

impl Waits {
    /// A new operation with a bell for the thread that will wait.
    pub(super) fn begin(&mut self) -> (OpId, Arc<Bell>) {
        let bell = self.spare.pop().unwrap_or_else(|| Arc::new(Bell::new()));
        *bell.ring.lock() = Ring::None;
        let op = self.insert(Some(bell.clone()));
        (op, bell)
    }

    /// A new operation that no thread waits for; its outcome is only looked at.
    pub(super) fn begin_detached(&mut self) -> OpId {
        let op = self.insert(None);
        self.detached = Some(op);
        op
    }

    /// An operation that ends when the next one does that no thread waits for; `None` if the last of those
    /// has ended already.
    pub(super) fn begin_attending(&mut self) -> Option<(OpId, Arc<Bell>)> {
        let awaited = self.detached.is_some_and(|op| !self.has_ended(op)) && self.attendant.is_none();
        awaited.then(|| {
            let (op, bell) = self.begin();
            self.attendant = Some(op);
            (op, bell)
        })
    }

    /// The thread that attended does so no longer.
    pub(super) fn end_attending(&mut self) {
        self.attendant = None;
    }

    fn insert(&mut self, bell: Option<Arc<Bell>>) -> OpId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, bell: None, outcome: None, taken: false, parked: false });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        (slot.bell, slot.outcome, slot.taken, slot.parked) = (bell, None, true, false);
        OpId(u64::from(slot.generation) << 32 | u64::from(index))
    }

    fn slot(&mut self, op: OpId) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((op.0 & u64::from(u32::MAX)) as usize)?;
        (slot.taken && u64::from(slot.generation) == op.0 >> 32).then_some(slot)
    }

    /// Ends an operation, unless it has ended already.
    pub(super) fn end(&mut self, op: OpId, outcome: Outcome) -> Audience {
        let Some(slot) = self.slot(op).filter(|slot| slot.outcome.is_none()) else {
            return Audience::Gone;
        };
        let Some(bell) = slot.bell.clone() else {
            self.release(op);
            if let Some(attendant) = self.attendant.take() {
                self.end(attendant, Outcome::Membership);
            }
            return Audience::Detached;
        };
        slot.outcome = Some(outcome);
        bell.ring(Ring::Done);
        Audience::Waiting
    }

    /// The result of an operation that has ended, which then is forgotten.
    pub(super) fn take(&mut self, op: OpId) -> Option<Outcome> {
        let outcome = self.slot(op)?.outcome.take()?;
        self.release(op);
        Some(outcome)
    }

    /// Whether an operation has ended.
    pub(super) fn has_ended(&mut self, op: OpId) -> bool {
        self.slot(op).is_none_or(|slot| slot.outcome.is_some())
    }

    fn release(&mut self, op: OpId) {
        if let Some(slot) = self.slot(op) {
            slot.taken = false;
            let bell = slot.bell.take();
            self.spare.extend(bell);
            self.free.push((op.0 & u64::from(u32::MAX)) as u32);
        }
    }

    /// The operation's thread sleeps on its bell (or no longer does).
    pub(super) fn set_parked(&mut self, op: OpId, parked: Parked) {
        if let Some(slot) = self.slot(op) {
            slot.parked = parked == Parked::Yes;
        }
    }

    /// Wakes some sleeping thread whose operation has not ended, to receive for the node.
    pub(super) fn appoint(&mut self) -> Option<OpId> {
        let index = self.slots.iter().position(|slot| slot.taken && slot.parked && slot.outcome.is_none())?;
        let slot = &mut self.slots[index];
        slot.parked = false;
        slot.bell.as_ref()?.ring(Ring::Receive);
        Some(OpId(u64::from(slot.generation) << 32 | index as u64))
    }

    /// All operations that have not ended.
    pub(super) fn open(&self) -> Vec<OpId> {
        let open = |(index, slot): (usize, &Slot)| {
            let op = OpId(u64::from(slot.generation) << 32 | index as u64);
            (slot.taken && slot.outcome.is_none()).then_some(op)
        };
        self.slots.iter().enumerate().filter_map(open).collect()
    }
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

/// Whether a thread sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Parked {
    /// On its bell.
    Yes,
    /// It runs, or receives.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_attends_is_told_when_any_operation_ends_that_nobody_waits_for() {
        let mut waits = Waits::default();
        assert!(waits.begin_attending().is_none(), "there is none");
        let (stuck, last) = (waits.begin_detached(), waits.begin_detached());
        let (op, bell) = waits.begin_attending().expect("the last one is open");
        assert!(waits.begin_attending().is_none(), "one thread attends");
        assert_eq!(waits.end(last, Outcome::Membership), Audience::Detached);
        assert!(bell.is_done() && waits.take(op).is_some());
        assert!(waits.begin_attending().is_none(), "an older one is no reason to wait");
        assert_eq!(waits.end(stuck, Outcome::Membership), Audience::Detached);
        assert_eq!(waits.end(stuck, Outcome::Membership), Audience::Gone);
    }
}
