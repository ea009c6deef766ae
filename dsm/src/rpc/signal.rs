//! What ends the wait of a blocked thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;

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

    /// Ends its thread's [`std::thread::park`].
    pub(crate) fn unpark(&self) {
        self.thread.unpark();
    }

    /// The number that [`Signal::set_mark`] left.
    pub fn mark(&self) -> u64 {
        self.mark.load(Ordering::Acquire)
    }

    /// Leaves a number with the signal, for the owner of the calls to find its waiting thread by.
    pub fn set_mark(&self, mark: u64) {
        self.mark.store(mark, Ordering::Release);
    }

    /// Whether what the thread waits for has happened.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Sets the signal; whatever ends its thread's sleep must follow.
    pub(crate) fn set(&self) {
        self.set.store(true, Ordering::Release);
    }

    /// Makes the signal ready for another wait of the same thread.
    pub(crate) fn clear(&self) {
        self.set.store(false, Ordering::Release);
    }
}
