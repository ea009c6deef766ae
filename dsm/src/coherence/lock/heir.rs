//! Locks of a node that is run on, and what a node notes for whoever may run it on.

use super::{Home, Locks};
use crate::coherence::fingerprint::sorted_keys;
use crate::coherence::message::{LockId, Req};
use crate::coherence::plant::{Plant, Planted};
use crate::page::LockWords;

impl Locks {
    /// The locks of a node whose own have ended with its process.
    pub(in crate::coherence) fn of_heir() -> Self {
        Locks { is_blind: true, ..Locks::new(Req(0)) }
    }

    /// Somebody had these locks when the process ended.
    pub(in crate::coherence) fn inherit(&mut self, taken: impl Iterator<Item = LockId>) {
        for lock in taken {
            self.homes.insert(lock, Home { is_noted: true, ..Home::default() });
        }
    }

    /// Notes whether somebody has a lock of this home, before anybody is told of it.
    pub(in crate::coherence) fn note<M: LockWords>(
        &mut self,
        planted: Planted,
        lock: LockId,
        memory: &mut M,
    ) {
        let Some(home) = self.homes.get_mut(&lock).filter(|_| !self.is_blind) else { return };
        let is_taken = !home.chain.is_empty() || home.broken.is_some();
        if home.is_noted != is_taken && !planted.has(Plant::LockHomeNotesNothing) {
            home.is_noted = is_taken;
            memory.note_lock(lock.0, is_taken);
        }
    }

    /// The same for all locks.
    pub(in crate::coherence) fn note_all<M: LockWords>(&mut self, planted: Planted, memory: &mut M) {
        if self.verdicts.is_none() {
            sorted_keys(&self.homes).into_iter().for_each(|lock| self.note(planted, lock, memory));
        }
    }
}
