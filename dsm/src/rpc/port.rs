//! The way from the shell of the calls to their owner: a node or a client, whose machine has them under its one lock.

use super::callers::Callers;
use super::core::{Calls, Rank, SendError};
use super::signal::Signal;
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
