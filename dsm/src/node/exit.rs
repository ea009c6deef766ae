//! Ends of the process: of a thread that can get no error because it is inside a page fault, and of a
//! program that returns from `main`, calls `exit` or panics without leaving the cluster.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once, Weak};

use parking_lot::Mutex;

use super::Runtime;
use super::leaving::current_thread;
use crate::machine::Departure;

/// Exit code of a process whose memory is gone (EX_SOFTWARE of sysexits.h).
pub(super) const MEMORY_GONE: i32 = 70;

/// Writes one line to standard error and ends the process at once. May be called in a signal handler.
pub(super) fn die(why: Arguments<'_>) -> ! {
    write_line(why);
    end_at_once(MEMORY_GONE)
}

/// The same for a mistake of the program itself: by SIGABRT, so that a debugger or a core dump shows the place, and
/// nobody takes the end for a consequence of another process's.
pub(super) fn abort(why: Arguments<'_>) -> ! {
    write_line(why);
    std::process::abort()
}

fn write_line(why: Arguments<'_>) {
    let mut line = Vec::with_capacity(400);
    // Memory is no shared memory: writing to it cannot fail, and cannot fault.
    let _ = writeln!(line, "pagemesh: {why}");
    let _ = nix::unistd::write(std::io::stderr(), &line);
}

/// Ends the process without running destructors, which could wait for this thread.
pub(super) fn end_at_once(code: i32) -> ! {
    // SAFETY: a system call that does not return, and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Writes one line to standard error, whatever the program has done with its logging.
pub(super) fn tell(what: Arguments<'_>) {
    let line = format!("pagemesh: {what}\n");
    // An error of standard error itself can be written nowhere.
    let _ = nix::unistd::write(std::io::stderr(), line.as_bytes());
}

/// Nodes of this process that have yet to leave.
static NODES: Mutex<Vec<Weak<Runtime>>> = Mutex::new(Vec::new());

/// Makes the node leave when the process exits, if it has not left before.
pub(super) fn leave_at_exit(node: Weak<Runtime>) {
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

/// The nodes of this process that exist, those that have left included.
pub(super) fn nodes() -> Vec<Arc<Runtime>> {
    NODES.lock().iter().filter_map(Weak::upgrade).collect()
}

/// The process that [`on_exit`] is for.
static OWNER: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_exit() {
    if OWNER.load(Ordering::Relaxed) != std::process::id() {
        // A forked child: the node, its session and its socket are the parent's.
        return;
    }
    for node in nodes() {
        // If a signal ends the process, its thread has come first, and this one sleeps below.
        let thread = current_thread();
        let _ = node.exiting.compare_exchange(0, thread, Ordering::AcqRel, Ordering::Acquire);
        // An error has been logged, and there is nobody left to tell.
        let _ = node.leave(Departure::Exit);
    }
}
