//! The way from the shell of the calls to their owner: the node, whose machine has them under its one lock, or
//! [`Separate`], where they have a lock of their own over whatever carries messages.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use super::callers::Callers;
use super::core::{Calls, Rank, SendError};
use super::transport::{Signal, Transport};
use crate::page::{PeerId, Time};

/// The calls and those who wait for them, under their lock.
pub struct State<'a> {
    /// The calls.
    pub calls: &'a mut Calls,
    /// Who waits.
    pub callers: &'a mut Callers,
}

/// The owner of the calls of one node.
pub trait Port: Send + Sync + 'static {
    /// The time, by the clock of all calls of this node.
    fn now(&self) -> Time;

    /// Calls `act` once, under the lock. Before it returns, what follows is sent, and threads are woken.
    fn enter(&self, act: &mut dyn FnMut(Time, &mut State<'_>));

    /// Sends one message, now or never.
    fn send(&self, to: PeerId, message: &[u8]) -> Result<(), SendError>;

    /// Gives the calling thread away until the signal is set or `until` has come; may return early. Timers of the
    /// calls run meanwhile.
    fn wait(&self, signal: &Signal, until: Option<Time>);

    /// Waits until there is work for a worker, or for the one that serves the system; or until `done`.
    fn wait_for_work(&self, rank: Rank, done: &dyn Fn() -> bool);

    /// Wakes as many sleeping workers as there are calls, and returns how many that were. If they were too few, the
    /// thread that serves the system is woken for what must not wait.
    fn rouse(&self, calls: usize) -> usize;

    /// Wakes all threads in [`Port::wait_for_work`], to ask again whether to stop.
    fn wake_workers(&self);

    /// Bytes that the peer is known to have taken so far.
    fn taken(&self, peer: PeerId) -> u64;

    /// The peer has taken nothing for [`crate::config::rpc::ROOM_WAIT_MAX`] although its queue is full.
    fn give_up(&self, peer: PeerId);

    /// A future waits for an answer, and perhaps no thread does.
    fn attend(&self);
}

impl State<'_> {
    /// How much there is to do for workers.
    pub(crate) fn work_len(&self, rank: Rank) -> usize {
        match rank {
            // What must not wait until a method has ended.
            Rank::System => usize::from(self.calls.has_system_calls()) + self.callers.deferred_len(),
            Rank::Program => self.calls.queue_len() + self.callers.deferred_len(),
        }
    }
}

/// Enters the calls of a node that is gone: nothing can be sent, and every call ends at once.
pub(crate) fn enter_nowhere(now: Time, act: &mut dyn FnMut(Time, &mut State<'_>)) {
    let (mut calls, mut callers) = (Calls::default(), Callers::default());
    act(now, &mut State { calls: &mut calls, callers: &mut callers });
    let mut message = Vec::new();
    while let Some(peer) = calls.next_message(&mut message) {
        calls.handle_unsent(now, peer, &message, SendError::Unreachable);
        message.clear();
    }
    while let Some(output) = calls.poll_output() {
        callers.perform(output).into_iter().for_each(|signal| signal.set());
    }
    callers.take_deferred().into_iter().for_each(|deferred| deferred.run());
}

/// Calls with a lock of their own.
pub(super) struct Separate {
    transport: Arc<dyn Transport>,
    state: Mutex<(Calls, Callers)>,
    arrived: Condvar,
    system_arrived: Condvar,
}

impl Separate {
    pub(super) fn new(transport: Arc<dyn Transport>) -> Separate {
        let (arrived, system_arrived) = (Condvar::new(), Condvar::new());
        Separate { transport, state: Mutex::default(), arrived, system_arrived }
    }

    fn arrived(&self, rank: Rank) -> &Condvar {
        match rank {
            Rank::System => &self.system_arrived,
            Rank::Program => &self.arrived,
        }
    }

    fn work_len(&self, rank: Rank) -> usize {
        let (calls, callers) = &mut *self.state.lock();
        State { calls, callers }.work_len(rank)
    }
}

impl Port for Separate {
    fn now(&self) -> Time {
        self.transport.now()
    }

    fn enter(&self, act: &mut dyn FnMut(Time, &mut State<'_>)) {
        let now = self.now();
        let mut state = self.state.lock();
        let before = state.0.poll_timeout();
        {
            let (calls, callers) = &mut *state;
            act(now, &mut State { calls, callers });
        }
        loop {
            let (calls, callers) = &mut *state;
            let mut signals: SmallVec<[Arc<Signal>; 4]> = SmallVec::new();
            while let Some(output) = calls.poll_output() {
                signals.extend(callers.perform(output));
            }
            let mut messages: SmallVec<[(PeerId, Vec<u8>); 2]> = SmallVec::new();
            let mut message = Vec::new();
            while let Some(peer) = calls.next_message(&mut message) {
                messages.push((peer, std::mem::take(&mut message)));
            }
            let (due, arrivals, deferred) = (calls.poll_timeout(), calls.take_arrivals(), callers.take_new());
            drop(state);
            for signal in signals {
                signal.set();
                self.transport.notify(&signal);
            }
            self.rouse(arrivals + deferred);
            if deferred > 0 {
                self.transport.attend();
            }
            let sent = |(peer, message): (PeerId, Vec<u8>)| {
                self.transport.send(peer, &message).err().map(|error| (peer, message, error))
            };
            let unsent: SmallVec<[_; 2]> = messages.into_iter().filter_map(sent).collect();
            if unsent.is_empty() {
                if let Some(due) = due.filter(|due| before.is_none_or(|before| *due < before)) {
                    self.transport.timer_at(due);
                }
                return;
            }
            state = self.state.lock();
            for (peer, message, error) in unsent {
                state.0.handle_unsent(now, peer, &message, error);
            }
        }
    }

    fn send(&self, to: PeerId, message: &[u8]) -> Result<(), SendError> {
        self.transport.send(to, message)
    }

    fn wait(&self, signal: &Signal, until: Option<Time>) {
        let due = self.state.lock().0.poll_timeout();
        self.transport.wait(signal, [due, until].into_iter().flatten().min());
        if due.is_some_and(|due| due <= self.now()) {
            self.enter(&mut |now, state| state.calls.handle_timeout(now));
        }
    }

    fn wait_for_work(&self, rank: Rank, done: &dyn Fn() -> bool) {
        let mut state = self.state.lock();
        loop {
            let (calls, callers) = &mut *state;
            if (State { calls, callers }).work_len(rank) > 0 || done() {
                return;
            }
            self.arrived(rank).wait(&mut state);
        }
    }

    fn rouse(&self, calls: usize) -> usize {
        let roused = (0..calls).take_while(|_| self.arrived.notify_one()).count();
        if roused < calls && self.work_len(Rank::System) > 0 {
            self.system_arrived.notify_one();
        }
        roused
    }

    fn wake_workers(&self) {
        // The lock: no worker may be between its question and its sleep.
        let _state = self.state.lock();
        self.arrived.notify_all();
        self.system_arrived.notify_all();
    }

    fn taken(&self, peer: PeerId) -> u64 {
        self.transport.taken(peer)
    }

    fn give_up(&self, peer: PeerId) {
        self.transport.give_up(peer);
    }

    fn attend(&self) {
        self.transport.attend();
    }
}
