//! Marks a thread that holds, or is about to take, a lock of the calls.
//!
//! A signal handler of the application may interrupt such a thread and touch shared memory. The thread
//! then waits for the page, and while it waits it receives for its node; but what comes for the calls it
//! must leave to others, who will wait for the lock until the handler has returned. So a section costs no
//! system call, unlike one that keeps handlers away.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    /// Sections of this thread that are open, one inside the other.
    static SECTIONS: Cell<u32> = const { Cell::new(0) };
}

/// While it lives, the thread may hold locks of the calls.
#[must_use]
pub(crate) struct CallSection {
    /// The mark is the thread's: it must not move to another.
    _not_send: PhantomData<*const ()>,
}

impl CallSection {
    pub(crate) fn enter() -> CallSection {
        SECTIONS.set(SECTIONS.get() + 1);
        CallSection { _not_send: PhantomData }
    }

    /// Whether the thread is in one.
    pub(crate) fn is_open() -> bool {
        SECTIONS.get() > 0
    }
}

impl Drop for CallSection {
    fn drop(&mut self) {
        SECTIONS.set(SECTIONS.get() - 1);
    }
}
