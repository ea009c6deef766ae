//! Tells a forked child from the process that it was forked from.
//!
//! A child has a copy of every handle of its parent, but none of the threads that serve them, and its
//! descriptors are its parent's: a message that it sent would be its parent's message, and a lock that
//! another thread held at the fork stays locked in the child for ever. So whatever takes a lock or sends
//! asks first; the question costs one load. Nor can a child join anew: the queues of parked threads
//! (parking_lot keeps one table for the process) lead to stacks that the child uses for other threads.
//! A program that forks before its first join is not concerned.
//!
//! `_Fork` and a bare `clone` system call run no handlers: a child made that way is not recognised, and
//! may only call exec or `_exit`, as POSIX asks.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// This process was forked from one that had joined a cluster.
static IS_CHILD: AtomicBool = AtomicBool::new(false);

/// From now on children of this process are told from it. An error in such a child.
pub(crate) fn watch() -> Result<()> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| on_fork(in_child));
    check()
}

/// Whether this process is a forked child, whose handles are its parent's.
pub(crate) fn is_child() -> bool {
    IS_CHILD.load(Ordering::Relaxed)
}

/// [`Error::Forked`] in a forked child.
pub(crate) fn check() -> Result<()> {
    if is_child() { Err(Error::Forked) } else { Ok(()) }
}

/// The same for a caller that has no error to return. Panics in a forked child.
pub(crate) fn assert_not_child() {
    assert!(!is_child(), "{}", Error::Forked);
}

/// Has `handler` run in every forked child, in its only thread, before `fork` returns there. It must do
/// nothing but what a signal handler may.
pub(crate) fn on_fork(handler: unsafe extern "C" fn()) {
    // SAFETY: the handler is a function for the life of the process, and keeps the rule above.
    let result = unsafe { libc::pthread_atfork(None, None, Some(handler)) };
    assert_eq!(result, 0, "no memory for a fork handler");
}

extern "C" fn in_child() {
    IS_CHILD.store(true, Ordering::Relaxed);
}
