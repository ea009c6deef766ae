//! How a node goes: by its program's wish, at the exit of its process, or because a signal ends it.

use std::fmt;
use std::sync::atomic::Ordering;

use super::{LAST_BARRIER, Node, PROGRAM_BARRIER, Runtime, RuntimeState, interrupt, to_error};
use crate::coherence::{BarrierId, Input};
use crate::error::{Error, Result};
use crate::fork;
use crate::machine::{Command, Departing, Departure, Event, LeaveFailure, Outcome, describe};
use crate::membership::Kind;
use crate::page::Span;

/// Told to the peers of a node whose memory goes with it.
const WITHOUT_LEAVING: &str = "its program ended without leaving, and its memory with it";

/// Pages that could not be written back before the end of the process.
pub(super) struct Unsaved {
    pages: u64,
    why: String,
}

impl Node {
    /// An error if the program has called `leave` and the memory is no longer this node's to use, or in a forked
    /// child.
    pub(crate) fn check_not_left(&self) -> Result<()> {
        fork::check()?;
        if self.runtime.memory_given_back.load(Ordering::Acquire) { Err(Error::Left) } else { Ok(()) }
    }
}

impl Runtime {
    pub(super) fn leave(&self, departure: Departure) -> Result<()> {
        if self.left.swap(true, Ordering::AcqRel) {
            // The thread that ends the process may still be writing back.
            self.sleep_if_ending(current_thread);
            return Ok(());
        }
        let holds_memory = matches!(self.kind, Kind::Rank { .. }) && self.is_without_daemons();
        if holds_memory && departure != Departure::Wish {
            // Its memory goes with it, so the others cannot go on.
            self.close(WITHOUT_LEAVING);
            return Ok(());
        }
        // The memory is in the ranks: no rank may go while another one needs it.
        let met = if holds_memory { self.meet_at_the_end() } else { Ok(()) };
        if departure == Departure::Wish {
            self.memory_given_back.store(true, Ordering::Release);
        }
        let writes_back = matches!(self.kind, Kind::Rank { .. }) && !holds_memory;
        // A daemon that ends in a panic has no less to give back.
        let by = if self.kind == Kind::Daemon { Departure::Wish } else { departure };
        let left = self.depart(Departing { writes_back, by, asks: met.is_ok() });
        self.close("left");
        if departure == Departure::Wish {
            // So that no store is lost unnoticed: pages whose home is this node are not written back, and were
            // accessible until here.
            self.arena.revoke_all();
            // Without the coordinator's consent another process runs the node on; this one need not end for that.
            self.with_locked(|_| self.arena.let_go());
        }
        met.and(left.map_err(|failure| self.explain_departure(failure)))
    }

    /// Waits until all ranks leave. Those that wait for this rank elsewhere are told before, since they would
    /// never come.
    fn meet_at_the_end(&self) -> Result<()> {
        let Kind::Rank { program, .. } = self.kind else { return Ok(()) };
        let members = self.with_machine(|machine| machine.ranks());
        self.cast(Input::Retire { barrier: BarrierId { program, index: PROGRAM_BARRIER }, members });
        // A call that is dropped is cancelled; a rank that has come to the end needs it no more.
        let _told = self.tell_that_it_leaves();
        self.barrier(LAST_BARRIER, None)
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
        let writes_back = matches!(self.kind, Kind::Rank { .. });
        // Without consent the peers take the end of the process for a death; nothing is lost by that.
        let left = self.depart(Departing { writes_back, by: Departure::Signal, asks: true });
        self.keepers.end();
        left.err().and_then(|failure| self.unsaved(&failure))
    }

    /// Takes all steps of a departure, and waits for its end.
    fn depart(&self, how: Departing) -> std::result::Result<(), LeaveFailure> {
        let mut locked = self.enter();
        let cell = self.start_op(&mut locked, |op| Event::Command { op, command: Command::Leave(how) });
        match self.wait(&mut locked, &cell, None) {
            Some(Outcome::Left(result)) => result,
            Some(Outcome::Coherence(_) | Outcome::Region(_) | Outcome::Membership) | None => Ok(()),
        }
    }

    fn explain_departure(&self, failure: LeaveFailure) -> Error {
        if let Some(why) = self.with_machine(|machine| machine.lifecycle().why().cloned()) {
            return to_error(&why);
        }
        let what = match self.unsaved(&failure) {
            Some(unsaved) => unsaved.to_string(),
            None => "leaving the cluster".into(),
        };
        let after = match failure {
            LeaveFailure::Ended(_) => Span(0),
            LeaveFailure::Stalled(_, after) | LeaveFailure::NoConsent(after) => after,
        };
        Error::Timeout { what, after_ms: after.0 / 1_000_000 }
    }

    /// The pages that a departure could not write back.
    fn unsaved(&self, failure: &LeaveFailure) -> Option<Unsaved> {
        let why = self.with_machine(|machine| machine.lifecycle().why().map(describe));
        let (pages, why) = match *failure {
            LeaveFailure::Ended(pages) => (pages, why.unwrap_or_else(|| "the node has ended".into())),
            LeaveFailure::Stalled(pages, after) => {
                let stalled = || format!("no page was acknowledged for {} s", after.0 / 1_000_000_000);
                (pages, why.unwrap_or_else(stalled))
            }
            LeaveFailure::NoConsent(_) => return None,
        };
        (pages > 0).then_some(Unsaved { pages, why })
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
        self.with_machine(|machine| machine.membership().is_some_and(|m| m.view().daemons().count() == 0))
    }

    pub(super) fn flush_while(&self, unfinished: impl Fn(&RuntimeState) -> bool) {
        let mut locked = self.enter();
        while unfinished(&locked) {
            self.wait_a_tick(&mut locked);
        }
    }

    /// Another thread leaves already: waits until it has, or has given up.
    fn await_departure(&self) -> Option<Unsaved> {
        let mut locked = self.enter();
        while locked.machine.lifecycle().leaving_op().is_some() {
            self.wait_a_tick(&mut locked);
        }
        None
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

#[cfg(test)]
mod tests {
    use std::fs::File;

    use crate::fault::{Recorded, User, user_of};
    use crate::node::local::LocalMemory;
    use crate::node::{Node, NodeConfig, RuntimeState};
    use crate::page::{Memory, PageId, Version};
    use crate::process::Process;
    use crate::settings::Settings;

    #[test]
    fn a_process_that_leaves_and_lives_on_lets_go_of_its_memory() {
        let settings = Settings { arena_size: 1 << 28, memory_max: 1 << 28, ..Settings::default() };
        let node = Node::start(NodeConfig::daemon(settings, 0)).expect("a daemon starts");
        let (_, record) = node.runtime.arena.files();
        let record = File::from(record.try_clone_to_owned().expect("a descriptor"));
        assert_eq!(user_of(&record).expect("a word"), User::Process(Process::own()));
        node.leave().expect("a cluster of one");
        assert_eq!(user_of(&record).expect("a word"), User::Nobody);
        // Whatever the machine still does, another process may have the memory by now.
        let mut locked = node.runtime.enter();
        let RuntimeState { words, run_on, .. } = &mut *locked;
        let mut memory = LocalMemory { arena: &node.runtime.arena, words, run_on };
        memory.set_version(PageId(0), Version(9));
        assert_eq!(node.runtime.arena.recorded(PageId(0)), Recorded::Nothing);
    }
}
