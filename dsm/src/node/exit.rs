//! Ends of the process: of a thread that can get no error because it is inside a page fault, and of a
//! program that returns from `main`, calls `exit` or panics without leaving the cluster.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Once, Weak};

use parking_lot::Mutex;

use super::Inner;

/// Exit code of a process whose memory is gone (EX_SOFTWARE of sysexits.h).
const MEMORY_GONE: i32 = 70;

/// Writes one line to standard error and ends the process at once. May be called in a signal handler.
pub(super) fn die(why: Arguments<'_>) -> ! {
    let mut line = Vec::with_capacity(400);
    // Memory is no shared memory: writing to it cannot fail, and cannot fault.
    let _ = writeln!(line, "pagemesh: {why}");
    let _ = nix::unistd::write(std::io::stderr(), &line);
    // SAFETY: ends the process without running destructors, which could wait for this thread.
    unsafe { libc::_exit(MEMORY_GONE) }
}

/// Nodes of this process that have yet to leave.
static NODES: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Makes the node leave when the process exits, if it has not left before.
pub(super) fn leave_at_exit(node: Weak<Inner>) {
    static REGISTERED: Once = Once::new();
    let mut nodes = NODES.lock();
    nodes.retain(|node| node.strong_count() > 0);
    nodes.push(node);
    REGISTERED.call_once(|| {
        OWNER.store(std::process::id(), Ordering::Relaxed);
        // SAFETY: `on_exit` is a function for the life of the process.
        let _ = unsafe { libc::atexit(on_exit) };
    });
}

/// The process that [`on_exit`] is for.
static OWNER: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_exit() {
    if OWNER.load(Ordering::Relaxed) != std::process::id() {
        // A forked child: the node, its session and its socket are the parent's.
        return;
    }
    let nodes = std::mem::take(&mut *NODES.lock());
    for node in nodes.iter().filter_map(Weak::upgrade) {
        node.exiting.store(nix::unistd::gettid().as_raw() as u32, Ordering::Release);
        // An error has been logged, and there is nobody left to tell.
        let _ = node.leave(super::Departure::Exit);
    }
}
