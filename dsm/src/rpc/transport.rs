//! What carries the calls. The node implements [`Transport`] over its reliable UDP sessions; an
//! in-process one is in [`super::local`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use super::core::SendError;
use crate::page::{GlobalAddr, NodeId, PeerId, Time};

/// Carries messages between nodes, in any order, each exactly once, or reports the peer's end through
/// [`super::Endpoint::handle_peer_died`] or [`super::Endpoint::handle_peer_reset`]. The implementer gives
/// what arrives to [`super::Endpoint::handle_message`].
pub trait Transport: Send + Sync + 'static {
    /// The time, by the clock of all calls of this node.
    fn now(&self) -> Time;

    /// Queues one message; never blocks, and may be called under a lock. The bytes are copied.
    fn send(&self, to: PeerId, message: &[u8]) -> Result<(), SendError>;

    /// Gives the calling thread away until the signal is set or `until` has come; may return early. An
    /// implementation with sockets receives here: whoever waits, polls.
    fn wait(&self, signal: &Signal, until: Option<Time>) {
        if signal.is_set() {
            return;
        }
        match until {
            None => std::thread::park(),
            Some(until) => std::thread::park_timeout(Duration::from_nanos(until.since(self.now()).0)),
        }
    }

    /// Wakes the thread that waits for the signal, which is set already.
    fn notify(&self, signal: &Signal) {
        signal.unpark();
    }

    /// Bytes that the peer is known to have taken so far.
    fn taken(&self, peer: PeerId) -> u64 {
        let _ = peer;
        0
    }

    /// The peer has taken nothing for [`crate::config::rpc::ROOM_WAIT_MAX`] although its queue is full. Who cannot
    /// tell otherwise that a peer is dead ends the session, so that nobody waits for it; it may come back.
    fn give_up(&self, peer: PeerId) {
        let _ = peer;
    }

    /// A future waits for an answer, and perhaps no thread does: somebody must receive, and call
    /// [`super::Endpoint::handle_timeout`] when it is due.
    fn attend(&self) {}

    /// [`super::Endpoint::handle_timeout`] is due at `at`, earlier than was known.
    fn timer_at(&self, at: Time) {
        let _ = at;
    }
}

/// Says who serves what, and where shared memory lives.
pub trait Registry: Send + Sync + 'static {
    /// The nodes that serve the interface, in a stable order.
    fn servers(&self, interface: &str) -> Vec<PeerId>;
    /// The node that is home of the address.
    fn home(&self, addr: GlobalAddr) -> Option<NodeId>;
}

/// What a blocked thread waits for.
#[derive(Debug)]
pub struct Signal {
    thread: Thread,
    set: AtomicBool,
    mark: AtomicU64,
}

impl Signal {
    /// A signal for the calling thread, not set.
    pub fn for_this_thread() -> Signal {
        Signal { thread: std::thread::current(), set: AtomicBool::new(false), mark: AtomicU64::new(0) }
    }

    /// Whether the calling thread would wait for it.
    pub(crate) fn is_of_this_thread(&self) -> bool {
        self.thread.id() == std::thread::current().id()
    }

    /// Ends its thread's [`std::thread::park`].
    pub(crate) fn unpark(&self) {
        self.thread.unpark();
    }

    /// The number that [`Signal::set_mark`] left.
    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }

    /// Leaves a number with the signal, for the transport to find its waiting thread by.
    pub fn set_mark(&self, mark: u64) {
        self.mark.store(mark, Ordering::Release);
    }

    /// Whether what the thread waits for has happened.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Sets the signal; [`Transport::notify`] must follow.
    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::Release);
    }

    /// Makes the signal ready for another wait of the same thread.
    pub(crate) fn clear(&self) {
        self.set.store(false, Ordering::Release);
    }
}
