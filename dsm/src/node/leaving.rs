//! How a node goes: by its program's wish, at the exit of its process, or because a signal ends it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;

use super::core::{Brain, Fatal, Leaving};
use super::waits::{Bell, Outcome};
use super::{Inner, LAST_BARRIER, Locked, Started, describe, interrupt};
use crate::coherence::{Coherence, Input, OpId};
use crate::config::node::{ACTIVE_TICK, CONSENT_MAX, FLUSH_MAX, LEAVE_STALL_MAX, WRITE_BACK_STALL_MAX};
use crate::error::{Error, Result};
use crate::fault::CoreSection;
use crate::membership::Kind;
use crate::page::Span;

/// Told to the peers of a node whose memory goes with it.
const WITHOUT_LEAVING: &str = "its program ended without leaving, and its memory with it";

/// How a node goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Departure {
    /// The program has come to its end and says so.
    Leave,
    /// The process exits without having said so.
    Exit,
}

/// Pages that could not be written back before the end of the process.
pub(super) struct Unsaved {
    pages: u64,
    why: String,
}

impl Inner {
    pub(super) fn leave(&self, departure: Departure) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            // The thread that ends the process may still be writing back.
            self.sleep_if_ending(current_thread);
            return Ok(());
        }
        let (result, longest) = match (self.kind, departure) {
            (Kind::Rank { .. }, Departure::Leave) if self.is_without_daemons() => {
                // The memory is in the ranks: no rank may go while another one needs it.
                (self.barrier(LAST_BARRIER, None), CONSENT_MAX)
            }
            // Its memory goes with it, so the others cannot go on.
            (Kind::Rank { .. }, Departure::Exit) if self.is_without_daemons() => {
                self.close(WITHOUT_LEAVING);
                return Ok(());
            }
            (Kind::Rank { .. }, Departure::Leave) => {
                let leave = |core: &mut Started<'_>, op| core.input(Input::Leave { op });
                (self.call(Some(LEAVE_STALL_MAX), leave).map(drop), CONSENT_MAX)
            }
            (Kind::Rank { .. }, Departure::Exit) => {
                let written = self.write_back().map_err(|unsaved| Error::Timeout {
                    what: unsaved.to_string(),
                    after_ms: WRITE_BACK_STALL_MAX.0 / 1_000_000,
                });
                (written, WRITE_BACK_STALL_MAX)
            }
            (Kind::Daemon, Departure::Leave | Departure::Exit) => (Ok(()), CONSENT_MAX),
        };
        // What others wait for must have arrived before the coordinator tells them that we are gone.
        self.flush_to_members();
        self.flush();
        let result = result.and_then(|()| self.take_leave(longest));
        self.flush();
        self.close("left");
        result
    }

    /// Leaves because a signal ends the process. The sessions stay open, so that no other thread gets an
    /// error that a user would read.
    pub(super) fn leave_for_signal(&self) -> Option<Unsaved> {
        let leaves_already = self.left.swap(true, Ordering::AcqRel);
        if self.is_without_daemons() {
            // Its memory goes with it, and a thread that leaves would wait for the other ranks.
            self.close(WITHOUT_LEAVING);
            return None;
        }
        if leaves_already {
            return self.await_departure();
        }
        let unsaved = self.write_back().err();
        self.flush();
        // Without an answer the peers take the end of the process for a death; nothing is lost by that.
        let _ = self.take_leave(WRITE_BACK_STALL_MAX);
        self.flush();
        unsaved
    }

    /// Parks a thread for ever if another one is ending the process: it would only get errors about its end.
    pub(super) fn sleep_if_ending(&self, thread: impl Fn() -> u32) {
        let ends_elsewhere = || match self.exiting.load(Ordering::Acquire) {
            0 => self.is_ending(),
            exits => exits != thread(),
        };
        while ends_elsewhere() {
            std::thread::park();
        }
    }

    /// Whether the process is ending, by a thread that exits or by a signal.
    pub(super) fn is_ending(&self) -> bool {
        self.exiting.load(Ordering::Acquire) > 0
            || (interrupt::has_come() && !self.left.load(Ordering::Acquire))
    }

    fn is_without_daemons(&self) -> bool {
        self.with_core(|core| core.brain.membership.as_ref().is_some_and(|m| m.view().daemons().count() == 0))
    }

    /// Tells the coordinator, and waits for its consent, or for its end. By then nothing is left to lose.
    fn take_leave(&self, longest: Span) -> Result<()> {
        self.call(Some(longest), |core, op| {
            core.core.brain.leaving = Leaving::Asked(op);
            if let Some(membership) = &mut core.core.brain.membership {
                membership.leave();
            }
        })
        .map(drop)
    }

    /// Waits for an operation as long as this node gives back more of what it has; forgets it when nothing was
    /// given back for `stall`.
    pub(super) fn wait_while_leaving_progresses(
        &self,
        locked: &mut MutexGuard<'_, Locked>,
        (op, bell): (OpId, &Arc<Bell>),
        stall: Span,
    ) -> Option<Outcome> {
        let steps = |locked: &Locked| locked.core.brain.coherence.as_ref().and_then(Coherence::leave_steps);
        let mut left = steps(locked);
        loop {
            let until = self.now() + stall;
            let outcome = self.wait_until(locked, (op, bell), Some(until));
            let now_left = steps(locked);
            if outcome.is_some() || now_left == left {
                if outcome.is_none() {
                    locked.core.brain.waits.end(op, Outcome::Membership);
                    locked.core.brain.waits.take(op);
                }
                return outcome;
            }
            left = now_left;
        }
    }

    /// Waits until everything sent has been acknowledged, for a bounded time.
    pub(super) fn flush(&self) {
        let until = self.now() + FLUSH_MAX;
        self.flush_while(|locked| self.now() < until && locked.core.has_pending(self.now()));
    }

    /// Waits until all members have acknowledged what this node has sent them: one that lives takes its time, and
    /// one that does not is found dead. Ends with the cluster.
    pub(super) fn flush_to_members(&self) {
        self.flush_while(|locked| {
            let core = &locked.core;
            core.brain.fatal.is_none() && !core.brain.closed && core.has_pending_members()
        });
    }

    pub(super) fn flush_while(&self, unfinished: impl Fn(&Locked) -> bool) {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        while unfinished(&locked) {
            let (op, bell) = locked.core.brain.waits.begin();
            let soon = self.now() + ACTIVE_TICK;
            let _ = self.wait(&mut locked, (op, &bell), Some(soon));
        }
    }

    /// Writes back all that this node owns and gives its locks back, for as long as that progresses. Goes on
    /// when another rank of the program has died: the homes are in the daemons.
    fn write_back(&self) -> std::result::Result<(), Unsaved> {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        let now = self.now();
        let (mut op, mut bell) = locked.core.brain.waits.begin();
        locked.core.brain.input(now, Input::Leave { op }, &self.arena);
        self.settle(&mut locked, now);
        let (mut steps, mut since) = (None, now);
        loop {
            let now = self.now();
            let brain = &locked.core.brain;
            let left = brain.coherence.as_ref().and_then(Coherence::leave_steps);
            if left.is_none() {
                return Ok(());
            }
            if left != steps {
                (steps, since) = (left, now);
            }
            if brain.is_beyond_saving() || now.since(since) >= WRITE_BACK_STALL_MAX {
                return brain.unsaved().map_or(Ok(()), Err);
            }
            let _ = self.wait(&mut locked, (op, &bell), Some(now + ACTIVE_TICK));
            (op, bell) = locked.core.brain.waits.begin();
        }
    }

    /// Another thread leaves already: waits until it has, or gets no further.
    fn await_departure(&self) -> Option<Unsaved> {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        let (mut steps, mut since) = (None, self.now());
        loop {
            let now = self.now();
            let brain = &locked.core.brain;
            if brain.closed {
                return None;
            }
            let left = brain.coherence.as_ref().and_then(Coherence::leave_steps);
            if left != steps {
                (steps, since) = (left, now);
            }
            if brain.is_beyond_saving() || now.since(since) >= WRITE_BACK_STALL_MAX {
                return brain.unsaved();
            }
            let (op, bell) = locked.core.brain.waits.begin();
            let _ = self.wait(&mut locked, (op, &bell), Some(now + ACTIVE_TICK));
        }
    }
}

impl Brain {
    /// Whether no home takes a page any more: the cluster has ended, or this node is out of it.
    fn is_beyond_saving(&self) -> bool {
        match &self.fatal {
            None => self.closed,
            Some(Fatal::Died { node, .. }) => {
                let rank = |kind| matches!(kind, Kind::Rank { .. });
                self.closed || !self.last_dead(*node).is_some_and(|member| rank(member.intro.kind))
            }
            Some(Fatal::NotJoined(_) | Fatal::Evicted(_) | Fatal::Stopped(_) | Fatal::Broken(_)) => true,
        }
    }

    /// What would be lost now.
    fn unsaved(&self) -> Option<Unsaved> {
        let pages = self.coherence.as_ref().map_or(0, Coherence::unsaved_pages);
        let why = || match &self.fatal {
            Some(fatal) => describe(fatal),
            None => {
                format!("no page was acknowledged for {} s", WRITE_BACK_STALL_MAX.0 / 1_000_000_000)
            }
        };
        (pages > 0).then(|| Unsaved { pages, why: why() })
    }
}

impl fmt::Display for Unsaved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages could not be written back and are lost: {}", self.pages, self.why)
    }
}

/// The calling thread, by the kernel's id.
pub(super) fn current_thread() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}
