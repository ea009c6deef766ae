//! Signals as readable events: the user's wish to stop arrives through a descriptor, between two steps
//! of the command, never in the middle of one.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::trouble::Trouble;

/// The signals that ask a command to stop.
const STOPPING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The descriptor; from its making on the signals interrupt nothing any more.
pub(crate) struct Signals {
    fd: SignalFd,
    /// Whoever started us has SIGINT ignored, as shells do for what runs in the background.
    interrupt_is_ignored: bool,
}

impl Signals {
    /// Takes the signals over. Call before any thread starts: a mask belongs to a thread.
    pub(crate) fn install() -> Result<Signals, Trouble> {
        let ignored = ignored();
        // `nohup` means it; blocking the signal would bring it back.
        let ours = |signal: &Signal| *signal != Signal::SIGHUP || !is_in(ignored, *signal);
        let set: SigSet = STOPPING.into_iter().filter(ours).collect();
        let fd = set
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .map_err(|e| Trouble::os("signals", e))?;
        Ok(Signals { fd, interrupt_is_ignored: is_in(ignored, Signal::SIGINT) })
    }

    /// The signal by which to pass a wish to stop on to our children: they ignore what we were told to.
    pub(crate) fn for_children(&self, signal: Signal) -> Signal {
        if signal == Signal::SIGINT && self.interrupt_is_ignored { Signal::SIGTERM } else { signal }
    }

    /// The next signal that has arrived.
    pub(crate) fn next(&self) -> Option<Signal> {
        let info = self.fd.read_signal().ok().flatten()?;
        Signal::try_from(info.ssi_signo as i32).ok()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The signals that this process was started to ignore, a bit each.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let digits = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0");
    u64::from_str_radix(digits.trim(), 16).unwrap_or(0)
}

fn is_in(set: u64, signal: Signal) -> bool {
    set >> (signal as i32 - 1) & 1 == 1
}

/// Lets signals through again; a child inherits the mask of its parent, and a program expects none.
pub(crate) fn unblock_all() {
    // Fails for invalid arguments only.
    let _ = SigSet::empty().thread_set_mask();
}
