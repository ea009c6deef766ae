//! What waits for the calls of a node: callers, in threads and futures; methods whose streams have no room; and the
//! program's code that workers are to run. The owner of the calls gives it what they put out.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::core::{Outcome, Output, Progress, Ticket};
use super::signal::Signal;
use crate::page::PeerId;

/// What one call has brought so far. Its caller reads it without the lock of the calls. The lock inside is held for
/// moments, never while code of the program runs and never while another one is taken.
#[derive(Default)]
pub(super) struct CallCell(Mutex<Brought>);

#[derive(Default)]
struct Brought {
    items: VecDeque<Vec<u8>>,
    outcome: Option<Outcome>,
    progress: Option<Progress>,
    waiter: Waiter,
}

/// Whom to tell that a call has changed.
#[derive(Debug, Default)]
pub(super) enum Waiter {
    /// Nobody waits.
    #[default]
    None,
    /// A blocked thread.
    Thread(Arc<Signal>),
    /// A future.
    Task(Waker),
}

/// What the caller of a stream gets next.
pub(super) enum Next {
    Item(Vec<u8>),
    End(Outcome),
    Pending,
}

/// Code of the program, or of a library that it chose, which may take locks, fault and call: it runs in a
/// worker, without any lock of ours.
pub(crate) enum Deferred {
    /// Tells a future that it should be polled.
    Wake(Waker),
    /// Log lines.
    Run(Box<dyn FnOnce() + Send>),
}

/// All who wait, under the lock of the calls.
#[derive(Default)]
pub struct Callers {
    cells: FxHashMap<Ticket, Arc<CallCell>>,
    /// Threads that wait until their method may send the next item, by client and call.
    senders: FxHashMap<(PeerId, u64), Arc<Signal>>,
    deferred: Vec<Deferred>,
    /// How many of them no worker was told of.
    new: usize,
}

impl CallCell {
    /// The outcome, if it is there; else `waiter` is told when it is.
    pub(super) fn take(&self, waiter: Waiter) -> Option<Outcome> {
        match self.next(waiter) {
            Next::End(outcome) => Some(outcome),
            Next::Item(_) | Next::Pending => None,
        }
    }

    /// The next item, or the end; else `waiter` is told when there is one.
    pub(super) fn next(&self, waiter: Waiter) -> Next {
        let mut brought = self.0.lock();
        if let Some(item) = brought.items.pop_front() {
            return Next::Item(item);
        }
        if let Some(outcome) = brought.outcome.take() {
            return Next::End(outcome);
        }
        let before = std::mem::replace(&mut brought.waiter, waiter);
        drop(brought);
        // Without the lock: a waker is code of the program.
        drop(before);
        Next::Pending
    }

    /// The call could not even be started.
    pub(super) fn refuse(&self, outcome: Outcome) {
        self.0.lock().outcome = Some(outcome);
    }

    /// Whether the outcome is there.
    pub(super) fn is_done(&self) -> bool {
        self.0.lock().outcome.is_some()
    }

    /// The newest report of the server.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.0.lock().progress
    }

    fn has_task(&self) -> bool {
        matches!(self.0.lock().waiter, Waiter::Task(_))
    }

    /// Changes it, and returns whom that concerns.
    fn change(&self, change: impl FnOnce(&mut Brought)) -> Waiter {
        let mut brought = self.0.lock();
        change(&mut brought);
        std::mem::take(&mut brought.waiter)
    }
}

impl Callers {
    /// From here on the outcome of the call comes into the cell.
    pub(super) fn expect(&mut self, ticket: Ticket, cell: Arc<CallCell>) {
        self.cells.insert(ticket, cell);
    }

    /// Nobody waits for the call any more.
    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.cells.remove(&ticket);
    }

    /// The thread waits until its call may send the next item.
    pub(super) fn expect_permit(&mut self, from: PeerId, sequence: u64, signal: &Arc<Signal>) {
        self.senders.insert((from, sequence), signal.clone());
    }

    /// Its call has ended.
    pub(super) fn forget_permit(&mut self, from: PeerId, sequence: u64) {
        self.senders.remove(&(from, sequence));
    }

    /// Does what the calls have put out. A blocked thread whom that concerns is to be woken.
    pub(crate) fn perform(&mut self, output: Output) -> Option<Arc<Signal>> {
        let waiter = match output {
            Output::Done(ticket, outcome) => {
                self.cells.remove(&ticket)?.change(|brought| brought.outcome = Some(outcome))
            }
            Output::Item(ticket, item) => {
                self.cells.get(&ticket)?.change(|brought| brought.items.push_back(item))
            }
            Output::Progress(ticket, progress) => {
                self.cells.get(&ticket)?.change(|brought| brought.progress = Some(progress))
            }
            Output::Permit(from, sequence) => return self.senders.remove(&(from, sequence)),
        };
        match waiter {
            Waiter::None => None,
            Waiter::Thread(signal) => Some(signal),
            Waiter::Task(waker) => {
                self.defer(Deferred::Wake(waker));
                None
            }
        }
    }

    /// Whether futures wait for answers.
    pub(crate) fn has_tasks(&self) -> bool {
        self.cells.values().any(|cell| cell.has_task())
    }

    /// Leaves code of others to a worker.
    pub(crate) fn defer(&mut self, deferred: Deferred) {
        self.deferred.push(deferred);
        self.new += 1;
    }

    /// How much was left to workers since it was last asked.
    pub(crate) fn take_new(&mut self) -> usize {
        std::mem::take(&mut self.new)
    }

    /// How much of it waits for a worker.
    pub(crate) fn deferred_len(&self) -> usize {
        self.deferred.len()
    }

    /// Takes it, to run it without the lock.
    pub(crate) fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }
}

impl Deferred {
    /// Runs it. A panic is its own.
    pub(crate) fn run(self) {
        let run = AssertUnwindSafe(|| match self {
            Deferred::Wake(waker) => waker.wake(),
            Deferred::Run(run) => run(),
        });
        let _ = catch_unwind(run);
    }
}
