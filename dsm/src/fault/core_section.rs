//! Marks a thread that holds, or is about to take, the lock around a node's core.
//!
//! Such a thread must not touch shared memory: its fault would need the very lock that it holds. And
//! no signal handler may run in it, for a handler is free to touch shared memory. So a section blocks
//! signals, and a fault inside one ends the process with a message instead of a silent deadlock.

use std::cell::Cell;
use std::marker::PhantomData;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

use crate::error::{Error, Result};

thread_local! {
    /// Sections of this thread that are open, one inside the other.
    static SECTIONS: Cell<u32> = const { Cell::new(0) };
    /// Whether this thread is resolving a fault, with all signals blocked.
    static IN_FAULT: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread has its signals blocked for life.
    static BLOCKED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread may hold the core's lock. Enter before locking, drop after unlocking.
#[must_use]
pub struct CoreSection {
    /// The mask to go back to; `None` if signals were blocked already.
    mask: Option<SigSet>,
    /// The mark is the thread's: it must not move to another.
    _not_send: PhantomData<*const ()>,
}

impl CoreSection {
    /// Opens a section. Costs two system calls in all, and none while a fault is being resolved.
    pub fn enter() -> CoreSection {
        let outermost = SECTIONS.get() == 0 && !IN_FAULT.get() && !BLOCKED.get();
        let mask = outermost
            .then(|| asynchronous().thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("valid arguments"));
        SECTIONS.set(SECTIONS.get() + 1);
        CoreSection { mask, _not_send: PhantomData }
    }
}

impl CoreSection {
    /// Says that this thread was started with [`asynchronous`] signals blocked and will never let them
    /// in: its sections cost no system call.
    pub fn mark_thread_blocked() {
        BLOCKED.set(true);
    }

    /// Runs `sleep`, which waits for something without the lock, and must hand the mask to the kernel for
    /// as long: signals are as they were before the section, since a thread that waits for long must be
    /// interruptible. `None`: they stay blocked.
    pub fn asleep<T>(&mut self, sleep: impl FnOnce(Option<&SigSet>) -> T) -> T {
        SECTIONS.set(SECTIONS.get() - 1);
        let result = sleep(self.mask.as_ref());
        SECTIONS.set(SECTIONS.get() + 1);
        result
    }
}

impl Drop for CoreSection {
    fn drop(&mut self) {
        SECTIONS.set(SECTIONS.get() - 1);
        if let Some(mask) = &self.mask {
            mask.thread_set_mask().expect("valid arguments");
        }
    }
}

/// While it lives, this thread resolves a fault.
pub(super) struct FaultSection(());

impl FaultSection {
    /// The error says why this thread must not fault now.
    pub(super) fn enter() -> std::result::Result<FaultSection, &'static str> {
        if SECTIONS.get() > 0 {
            return Err("while it holds the lock of the node's core; this is a bug in the library");
        }
        if IN_FAULT.replace(true) {
            return Err("while it resolves another fault; this is a bug in the library");
        }
        Ok(FaultSection(()))
    }
}

impl Drop for FaultSection {
    fn drop(&mut self) {
        IN_FAULT.set(false);
    }
}

/// An error if the calling thread has a signal blocked by which page faults come to it: the kernel would end the
/// process at the thread's first access to a page that is not here, without a word.
pub fn check_thread_mask() -> Result<()> {
    let mask =
        SigSet::thread_get_mask().map_err(|errno| Error::os("reading the thread's signal mask", errno))?;
    match blocked_fault_signals(&mask) {
        None => Ok(()),
        Some(names) => Err(Error::Invalid(format!(
            "this thread blocks {names}, by which page faults come: its first access to a page that is not here \
             would end the process; unblock them in every thread that uses shared memory (pthread_sigmask)"
        ))),
    }
}

/// The names of those in a mask that page faults need.
pub(super) fn blocked_fault_signals(mask: &SigSet) -> Option<String> {
    let blocked = [Signal::SIGBUS, Signal::SIGSEGV].into_iter().filter(|signal| mask.contains(*signal));
    let names: Vec<&str> = blocked.map(Signal::as_str).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

/// Every signal but those that a load or store of the thread itself raises: those would kill the
/// process unseen if they were blocked.
pub fn asynchronous() -> SigSet {
    let mut signals = SigSet::all();
    signals.remove(Signal::SIGBUS);
    signals.remove(Signal::SIGSEGV);
    signals
}
