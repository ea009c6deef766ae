//! Which thread receives for the node: one value, without a thread, a clock or a lock.
//!
//! At each time one thread takes datagrams from the socket: a thread that waits for something, because a reply
//! then costs one wake-up; a worker, because it then runs a call without one; otherwise the progress thread. Each
//! step of these threads is a method here. It changes the table and says what the runtime must do ([`Action`]).
//! `docs/design.md` has the reasons, `reception/tests` the table and its search.

#[cfg(test)]
mod tests;

use smallvec::SmallVec;

use crate::coherence::OpId;
use crate::config::node::{ABSENCE_MAX, ACTIVE_TICK, SLEEP_MAX, UNREAD_MAX};
use crate::page::Time;

/// The thread that takes datagrams from the socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Receiver {
    /// The progress thread; the socket is armed in its poller.
    Progress,
    /// The thread that waits for this operation.
    Waiter(OpId),
    /// This worker, until it runs calls or a thread that waits relieves it.
    Worker(usize),
    /// No thread: the last receiver has something short to do, and will soon receive again. The progress thread
    /// looks within [`ACTIVE_TICK`].
    Nobody {
        /// When it stopped.
        since: Time,
    },
}

/// What the runtime does after a step, in the order given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Action {
    /// Datagrams wake the progress thread from now on.
    Arm,
    /// They do no longer, and a search of the progress thread ends.
    Disarm,
    /// Wakes the thread of an operation that has ended, or that receives from now on; it is parked.
    Unpark(OpId),
    /// Wakes a worker that is idle.
    WakeWorker(usize),
    /// Ends the search or the sleep of a receiver, or of one that was relieved: it comes to the lock.
    Summon(Receiver),
}

/// What a thread does that cannot go on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Role {
    /// It receives for the node.
    Receive,
    /// It parks, or is idle, until it is woken.
    Park,
}

/// What the progress thread does after its look.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Look {
    /// It receives for the node, until then.
    Receive(Time),
    /// Another thread receives, and the progress thread looks again then.
    Sleep(Time),
}

/// The table: who receives, who sleeps, and until when.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Reception {
    receiver: Receiver,
    /// When the receiver, which searches or sleeps, comes to the lock by itself; none while it is there, or summoned.
    wakes_at: Option<Time>,
    /// When the progress thread comes to the lock by itself; in the past while it is awake.
    progress_wakes_at: Time,
    /// Until then the progress thread comes every [`ACTIVE_TICK`].
    traffic_until: Time,
    /// When a thread that does not receive first saw what the receiver has not taken in, unless that one has been at
    /// the lock since.
    unread_since: Option<Time>,
    /// Threads that wait and do not receive, longest first.
    parked: SmallVec<[OpId; 8]>,
    /// Workers that have found no job and do not receive.
    idle: SmallVec<[usize; 8]>,
    actions: SmallVec<[Action; 4]>,
    /// The rule that is left out.
    #[cfg(test)]
    broken: Option<Rule>,
}

/// Rules without which a thread sleeps for ever; the search of all states leaves out one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Rule {
    EndedOperationIsWoken,
    PromotedReceiverIsWoken,
    RelievedWorkerIsSummoned,
    LeaderIsSummoned,
    NobodyIsReplaced,
    StarvedReceiverIsReplaced,
    StarvedProgressIsReplaced,
    SleeperHearsOfTimers,
}

impl Default for Reception {
    fn default() -> Self {
        Reception {
            receiver: Receiver::Progress,
            wakes_at: None,
            progress_wakes_at: Time(0),
            traffic_until: Time(0),
            unread_since: None,
            parked: SmallVec::new(),
            idle: SmallVec::new(),
            actions: SmallVec::new(),
            #[cfg(test)]
            broken: None,
        }
    }
}

/// Threads that wait.
impl Reception {
    /// A thread waits for `op`, for the first time or once more.
    pub(super) fn begin(&mut self, op: OpId) -> Role {
        match self.receiver {
            Receiver::Waiter(receiver) if receiver != op => {
                if !self.parked.contains(&op) {
                    self.parked.push(op);
                }
                return Role::Park;
            }
            Receiver::Waiter(_) | Receiver::Nobody { .. } => {}
            Receiver::Progress => self.actions.push(Action::Disarm),
            Receiver::Worker(_) if self.holds(Rule::RelievedWorkerIsSummoned) => {
                self.actions.push(Action::Summon(self.receiver));
            }
            Receiver::Worker(_) => {}
        }
        self.unpark(op);
        self.change(Receiver::Waiter(op));
        Role::Receive
    }

    /// The thread of `op` has received for long, and calls have come for workers: the one that runs them
    /// receives what follows, and wakes no thread for it. True if `op` is parked now.
    pub(super) fn long(&mut self, op: OpId, due: Time) -> bool {
        let receives = self.receiver == Receiver::Waiter(op);
        if receives {
            self.hand_to_progress(due);
            self.parked.push(op);
        }
        receives
    }

    /// The thread of `op` goes on. Will it be back soon, no other thread need receive meanwhile.
    pub(super) fn end(&mut self, op: OpId, now: Time, back_soon: bool, due: Time) {
        self.unpark(op);
        if self.receiver != Receiver::Waiter(op) || self.promote_receiver() {
            return;
        }
        if back_soon && self.progress_looks_soon(now) {
            self.change(Receiver::Nobody { since: now });
        } else {
            self.hand_to_progress(due);
        }
    }

    /// `op` has ended, and its thread must hear of it.
    pub(super) fn done(&mut self, op: OpId) {
        if self.unpark(op) {
            if self.holds(Rule::EndedOperationIsWoken) {
                self.actions.push(Action::Unpark(op));
            }
        } else if self.receiver == Receiver::Waiter(op) {
            self.summon_sleeper();
        }
    }
}

/// Workers.
impl Reception {
    /// A worker has run all jobs; where calls came, more may come.
    pub(super) fn lead(&mut self, worker: usize) -> Role {
        match self.receiver {
            Receiver::Progress => self.actions.push(Action::Disarm),
            Receiver::Nobody { .. } => {}
            Receiver::Worker(leader) if leader == worker => {}
            Receiver::Waiter(_) | Receiver::Worker(_) => return self.rest(worker),
        }
        self.idle.retain(|idle| *idle != worker);
        self.change(Receiver::Worker(worker));
        Role::Receive
    }

    /// A worker has run none: it goes on as the receiver if it is, and else is idle.
    pub(super) fn rest(&mut self, worker: usize) -> Role {
        if self.receiver == Receiver::Worker(worker) {
            return Role::Receive;
        }
        if !self.idle.contains(&worker) {
            self.idle.push(worker);
        }
        Role::Park
    }

    /// A worker runs jobs, quick ones or not.
    pub(super) fn run(&mut self, worker: usize, now: Time, quick: bool, due: Time) {
        self.idle.retain(|idle| *idle != worker);
        if self.receiver != Receiver::Worker(worker) {
            return;
        }
        if quick && self.progress_looks_soon(now) {
            self.change(Receiver::Nobody { since: now });
        } else if !self.promote_receiver() {
            self.hand_to_progress(due);
        }
    }

    /// Other threads have queued so many jobs. Returns how many workers will come for them.
    pub(super) fn jobs(&mut self, count: usize) -> usize {
        let mut woken = 0;
        while woken < count
            && let Some(worker) = self.idle.pop()
        {
            self.actions.push(Action::WakeWorker(worker));
            woken += 1;
        }
        // The leader may have found no job just before; it must look again.
        if woken < count
            && let Receiver::Worker(_) = self.receiver
            && self.holds(Rule::LeaderIsSummoned)
        {
            self.wakes_at = None;
            self.actions.push(Action::Summon(self.receiver));
            woken += 1;
        }
        woken
    }
}

/// The receiver, and the progress thread.
impl Reception {
    /// A thread leaves the lock, to search and to sleep until then.
    pub(super) fn search(&mut self, thread: Receiver, until: Time) {
        if thread == Receiver::Progress {
            self.progress_wakes_at = until;
        }
        if self.receiver == thread {
            self.wakes_at = Some(until);
        }
    }

    /// A thread that has searched is at the lock.
    pub(super) fn visit(&mut self, thread: Receiver) {
        if thread == Receiver::Progress {
            self.progress_wakes_at = Time(0);
        }
        if self.receiver == thread {
            (self.wakes_at, self.unread_since) = (None, None);
        }
    }

    /// A timer must be looked at: a receiver that would come too late for it must come earlier.
    pub(super) fn due(&mut self, at: Time) {
        if self.wakes_at.is_some_and(|wakes_at| at + ACTIVE_TICK < wakes_at)
            && self.holds(Rule::SleeperHearsOfTimers)
        {
            self.summon_sleeper();
        }
    }

    /// There has been traffic.
    pub(super) fn traffic(&mut self, until: Time) {
        self.traffic_until = until;
    }

    /// Whether the progress thread must say in its next look if datagrams lie in the socket.
    pub(super) fn is_watched(&self) -> bool {
        matches!(self.receiver, Receiver::Waiter(_) | Receiver::Worker(_))
    }

    /// The progress thread looks who receives. Is it nobody for too long, or a thread that does not come for its
    /// datagrams because it gets no core, the progress thread takes its place.
    pub(super) fn look(&mut self, now: Time, unread: bool, due: Time) -> Look {
        self.progress_wakes_at = Time(0);
        let tick = now + if now < self.traffic_until { ACTIVE_TICK } else { SLEEP_MAX };
        let mut until = tick;
        match self.receiver {
            Receiver::Progress => self.unread_since = None,
            Receiver::Nobody { since }
                if now >= since + ABSENCE_MAX && self.holds(Rule::NobodyIsReplaced) =>
            {
                self.hand_to_progress(due);
                // What came with the receiver's short errand has waited for it long enough.
                self.wake_idle();
            }
            Receiver::Nobody { since } => until = until.min(since + ABSENCE_MAX),
            Receiver::Waiter(_) | Receiver::Worker(_) if !unread => self.unread_since = None,
            Receiver::Waiter(_) | Receiver::Worker(_) => {
                let since = *self.unread_since.get_or_insert(now);
                if now >= since + UNREAD_MAX && self.holds(Rule::StarvedReceiverIsReplaced) {
                    let starved = self.receiver;
                    self.hand_to_progress(due);
                    self.actions.push(Action::Summon(starved));
                } else {
                    until = until.min(since + UNREAD_MAX);
                }
            }
        }
        if self.receiver == Receiver::Progress {
            return Look::Receive(due.min(tick));
        }
        self.progress_wakes_at = until;
        Look::Sleep(until)
    }

    /// A thread that never receives looks whether the receiver comes, which may be the progress thread: datagrams that
    /// lie in the socket, or timers that are due, are `overdue` for it. One that gets no core loses its place to a
    /// thread that waits, or else to an idle worker. Returns when to look again.
    pub(super) fn watch(&mut self, now: Time, overdue: bool) -> Time {
        if !overdue {
            self.unread_since = None;
            return now + SLEEP_MAX;
        }
        let starved = self.receiver;
        let since = *self.unread_since.get_or_insert(now);
        if now < since + UNREAD_MAX {
            return since + UNREAD_MAX;
        }
        if self.holds(Rule::StarvedProgressIsReplaced) && (self.promote_receiver() || self.promote_worker()) {
            match starved {
                Receiver::Progress => self.actions.push(Action::Disarm),
                Receiver::Waiter(_) | Receiver::Worker(_) => self.actions.push(Action::Summon(starved)),
                Receiver::Nobody { .. } => self.wake_idle(),
            }
        }
        now + SLEEP_MAX
    }

    /// The thread that receives.
    pub(super) fn receiver(&self) -> Receiver {
        self.receiver
    }

    /// Whether the receiver searches or sleeps, as far as is known.
    #[cfg(test)]
    pub(super) fn is_away(&self) -> bool {
        self.wakes_at.is_some()
    }

    /// What the runtime must do now.
    pub(super) fn take_actions(&mut self) -> SmallVec<[Action; 4]> {
        std::mem::take(&mut self.actions)
    }
}

/// Parts of the steps.
impl Reception {
    #[cfg(test)]
    fn holds(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    #[cfg(not(test))]
    #[inline(always)]
    fn holds(&self, _rule: Rule) -> bool {
        true
    }

    fn change(&mut self, receiver: Receiver) {
        if self.receiver != receiver {
            self.receiver = receiver;
            self.unread_since = None;
        }
        self.wakes_at = None;
    }

    fn progress_looks_soon(&self, now: Time) -> bool {
        self.progress_wakes_at <= now + ACTIVE_TICK
    }

    /// Lets a thread receive that is parked; false if there is none.
    fn promote_receiver(&mut self) -> bool {
        if self.parked.is_empty() {
            return false;
        }
        let next = self.parked.remove(0);
        self.change(Receiver::Waiter(next));
        if self.holds(Rule::PromotedReceiverIsWoken) {
            self.actions.push(Action::Unpark(next));
        }
        true
    }

    /// Lets a worker receive that is idle; false if there is none.
    fn promote_worker(&mut self) -> bool {
        let Some(next) = self.idle.pop() else { return false };
        self.change(Receiver::Worker(next));
        self.actions.push(Action::WakeWorker(next));
        true
    }

    fn hand_to_progress(&mut self, due: Time) {
        self.change(Receiver::Progress);
        self.actions.push(Action::Arm);
        // It sleeps by its own clock; only an earlier timer needs it awake.
        self.wakes_at = Some(self.progress_wakes_at);
        self.due(due);
    }

    fn summon_sleeper(&mut self) {
        if self.wakes_at.take().is_some() {
            self.actions.push(Action::Summon(self.receiver));
        }
    }

    fn wake_idle(&mut self) {
        self.actions.extend(self.idle.drain(..).map(Action::WakeWorker));
    }

    /// True if it was parked.
    fn unpark(&mut self, op: OpId) -> bool {
        let at = self.parked.iter().position(|parked| *parked == op);
        at.map(|at| self.parked.remove(at)).is_some()
    }
}
