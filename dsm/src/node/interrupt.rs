//! SIGINT, SIGTERM and SIGHUP in a rank: its pages are written back to their homes, then the signal ends the process.
//!
//! A signal can interrupt a thread anywhere, so the handler only writes to an eventfd; the thread
//! `pm-interrupt` does the work. The handlers are installed where a signal has its default action only: a
//! program's own handler stays, and so does "ignore". The second signal ends the process at once.

use std::fmt::Write as _;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, raise};
use nix::unistd::{getpid, gettid};

use super::exit;
use crate::error::{Error, Result};

/// The signals that ask a program to end.
const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The process that the handlers are for; a forked child inherits them, but no thread that would do the work.
static OWNER: AtomicU32 = AtomicU32::new(0);
/// The event descriptor that wakes the thread; -1 before it exists.
static EVENT: AtomicI32 = AtomicI32::new(-1);
/// The signal that came first; 0 before.
static CAME: AtomicI32 = AtomicI32::new(0);

/// Whether a signal has come, and the process is about to end.
pub(super) fn has_come() -> bool {
    CAME.load(Ordering::Acquire) != 0
}

/// Installs the handlers, once for the process.
pub(super) fn install() -> Result<()> {
    static INSTALLED: OnceLock<std::result::Result<(), Errno>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| {
            let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
            EVENT.store(event.as_raw_fd(), Ordering::Release);
            OWNER.store(getpid().as_raw() as u32, Ordering::Release);
            start_thread(event)?;
            SIGNALS.into_iter().try_for_each(|signal| replace(signal, libc::SIG_DFL, handler()))
        })
        .map_err(|errno| Error::os("installing the handlers of SIGINT, SIGTERM and SIGHUP", errno))
}

fn start_thread(event: EventFd) -> std::result::Result<(), Errno> {
    // The thread inherits the mask. No handler of the program may run in it.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let thread = std::thread::Builder::new().name("pm-interrupt".into()).spawn(move || {
        // Nothing but a signal ends the wait.
        while event.read().is_err() {}
        end(CAME.load(Ordering::Acquire))
    });
    mask.thread_set_mask()?;
    thread.map(drop).map_err(|error| error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
}

/// Writes back what the nodes of this process own, then ends it as the signal would have.
fn end(number: i32) -> ! {
    let nodes = exit::nodes();
    let thread = gettid().as_raw() as u32;
    for node in &nodes {
        // A thread that exits meanwhile leaves by itself.
        let _ = node.exiting.compare_exchange(0, thread, Ordering::AcqRel, Ordering::Acquire);
    }
    let mut lost = String::new();
    for node in &nodes {
        if let Some(unsaved) = node.leave_for_signal() {
            let who = node.with_machine(|machine| machine.intro_name());
            let _ = writeln!(lost, "pagemesh: {who}: {unsaved}");
        }
    }
    if !lost.is_empty() {
        let _ = std::io::stderr().write_all(lost.as_bytes());
        exit::end_at_once(exit::MEMORY_GONE);
    }
    // The handler has put the default action back; its first delivery ends the process.
    if let Ok(signal) = Signal::try_from(number) {
        let _ = raise(signal);
        let _ = SigSet::from(signal).thread_unblock();
    }
    // The program has replaced or ignored the signal since.
    exit::end_at_once(128 + number)
}

extern "C" fn on_signal(number: i32) {
    let errno = Errno::last_raw();
    // The next of these signals ends the process at once.
    for signal in SIGNALS {
        let _ = replace(signal, handler(), libc::SIG_DFL);
    }
    if OWNER.load(Ordering::Acquire) == getpid().as_raw() as u32 {
        let _ = CAME.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
        let one = 1u64.to_ne_bytes();
        // SAFETY: the descriptor is open for the life of the process, and the bytes are those of a u64.
        unsafe { libc::write(EVENT.load(Ordering::Acquire), one.as_ptr().cast(), one.len()) };
    } else {
        // SAFETY: may be called in a handler; the default action follows when this one returns.
        unsafe { libc::raise(number) };
    }
    Errno::set_raw(errno);
}

fn handler() -> libc::sighandler_t {
    on_signal as extern "C" fn(i32) as libc::sighandler_t
}

/// Gives a signal another action if it has the expected one. May be called in a handler.
fn replace(
    signal: Signal,
    expected: libc::sighandler_t,
    action: libc::sighandler_t,
) -> std::result::Result<(), Errno> {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call only writes the present one.
    Errno::result(unsafe { libc::sigaction(signal as i32, std::ptr::null(), current.as_mut_ptr()) })?;
    // SAFETY: the call above succeeded and so has written the value.
    let mut new = unsafe { current.assume_init() };
    if new.sa_sigaction != expected {
        return Ok(());
    }
    (new.sa_sigaction, new.sa_flags) = (action, libc::SA_RESTART);
    // SAFETY: `action` is the default or `on_signal`, which calls only what a handler may call.
    Errno::result(unsafe { libc::sigaction(signal as i32, &new, std::ptr::null_mut()) }).map(drop)
}
