//! The way to a node's state: signals blocked, then the lock, and threads that are to be woken when it is free
//! again. One that was woken earlier would only wait for the lock.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use parking_lot::{Condvar, MutexGuard};
use smallvec::SmallVec;

use super::op::OpCell;
use super::poller::ring;
use super::reception::{Action, Receiver};
use super::{Runtime, RuntimeState};
use crate::fault::CoreSection;
use crate::fork;

/// The state of a node, locked. Dropping it unlocks, wakes, and lets signals in, in this order.
pub(super) struct Entry<'a> {
    node: &'a Runtime,
    locked: Option<MutexGuard<'a, RuntimeState>>,
    /// Dropped last; none of a thread that has a section of its own.
    _section: Option<CoreSection>,
}

/// A thread that is to be woken, and what it sleeps on.
enum Wake {
    Parked(Arc<OpCell>),
    Searching(Arc<EventFd>),
    IdleWorker(usize),
    Leader(usize),
    Progress,
}

type Wakes = SmallVec<[Wake; 4]>;

impl Runtime {
    /// Nobody may touch shared memory, or sleep, while the state is locked. Panics in a forked child, where a
    /// thread of the parent may have left it locked.
    pub(super) fn enter(&self) -> Entry<'_> {
        self.lock(Some(CoreSection::enter()))
    }

    /// The same for a thread that is in a section already.
    pub(super) fn enter_in_section(&self) -> Entry<'_> {
        self.lock(None)
    }

    fn lock(&self, section: Option<CoreSection>) -> Entry<'_> {
        fork::assert_not_child();
        Entry { node: self, locked: Some(self.state.lock()), _section: section }
    }

    /// Leaves to workers what came for them, and does what the table of reception asks for, but for the calls that
    /// wake threads.
    fn act(&self, locked: &mut RuntimeState) -> Wakes {
        self.hand_out_calls(locked);
        let mut wakes = Wakes::new();
        for action in locked.reception.take_actions() {
            match action {
                Action::Arm => self.poller.arm(&self.socket),
                Action::Disarm => {
                    self.progress_word.set();
                    self.poller.disarm(&self.socket);
                }
                Action::Unpark(op) => wakes.extend(locked.ops.unpark(op).map(Wake::Parked)),
                Action::WakeWorker(worker) => {
                    self.calls.workers[worker].word.set();
                    wakes.push(Wake::IdleWorker(worker));
                }
                Action::Summon(Receiver::Progress) => {
                    self.progress_word.set();
                    wakes.push(Wake::Progress);
                }
                Action::Summon(Receiver::Waiter(op)) => {
                    wakes.extend(locked.ops.summon(op).map(Wake::Searching));
                }
                Action::Summon(Receiver::Worker(worker)) => {
                    self.calls.workers[worker].word.set();
                    wakes.push(Wake::Leader(worker));
                }
                Action::Summon(Receiver::Nobody { .. }) => {}
            }
        }
        wakes
    }

    fn wake(&self, wakes: Wakes) {
        for wake in wakes {
            match wake {
                Wake::Parked(cell) => cell.word.wake(),
                Wake::Searching(bell) => ring(&bell),
                Wake::IdleWorker(worker) => self.calls.workers[worker].word.wake(),
                Wake::Leader(worker) => ring(&self.calls.workers[worker].wake),
                Wake::Progress => self.poller.wake(),
            }
        }
    }
}

impl Entry<'_> {
    /// Runs `act` while the state is unlocked.
    pub(super) fn unlocked<T>(&mut self, act: impl FnOnce() -> T) -> T {
        let Entry { node, locked, .. } = self;
        let locked = locked.as_mut().expect("locked until it is dropped");
        let wakes = node.act(locked);
        MutexGuard::unlocked(locked, || {
            node.wake(wakes);
            act()
        })
    }

    /// Sleeps until somebody notifies `arrived`, for `timeout` at most.
    pub(super) fn sleep_on(&mut self, arrived: &Condvar, timeout: Duration) {
        let Entry { node, locked, .. } = self;
        let locked = locked.as_mut().expect("locked until it is dropped");
        node.wake(node.act(locked));
        arrived.wait_for(locked, timeout);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let wakes = self.node.act(self);
        self.locked = None;
        self.node.wake(wakes);
    }
}

impl Deref for Entry<'_> {
    type Target = RuntimeState;

    fn deref(&self) -> &RuntimeState {
        self.locked.as_ref().expect("locked until it is dropped")
    }
}

impl DerefMut for Entry<'_> {
    fn deref_mut(&mut self) -> &mut RuntimeState {
        self.locked.as_mut().expect("locked until it is dropped")
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;
    use crate::machine::Outcome;
    use crate::node::poller::wake_event;
    use crate::node::{Node, NodeConfig};
    use crate::page::Time;
    use crate::settings::Settings;

    #[test]
    fn a_thread_is_woken_when_the_lock_is_free_again() {
        let settings = Settings { arena_size: 1 << 28, memory_max: 1 << 28, ..Settings::default() };
        let node = Node::start(NodeConfig::daemon(settings, 0)).expect("a daemon starts");
        let bell = Arc::new(wake_event().expect("an eventfd"));
        let mut locked = node.runtime.enter();
        // As a thread does that waits, and sleeps at the socket.
        let cell = locked.ops.begin();
        let op = cell.op();
        locked.ops.set_bell(op, &bell);
        let _ = locked.reception.begin(op);
        locked.reception.search(Receiver::Waiter(op), Time(u64::MAX));
        locked.end(op, Outcome::Membership);
        assert_eq!(bell.read(), Err(Errno::EAGAIN), "it would run into the lock");
        drop(locked);
        assert_eq!(bell.read(), Ok(1));
        assert!(cell.word.is_set());
        let mut locked = node.runtime.enter();
        assert!(locked.ops.take(op).is_some());
        locked.reception.end(op, node.runtime.now(), false, Time(u64::MAX));
        drop(locked);
        node.request_shutdown();
    }
}
