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
}

impl Signals {
    /// Takes the signals over. Call before any thread starts: a mask belongs to a thread.
    pub(crate) fn install() -> Result<Signals, Trouble> {
        let set: SigSet = STOPPING.into_iter().collect();
        let fd = set
            .thread_block()
            .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
            .map_err(|e| Trouble::os("signals", e))?;
        Ok(Signals { fd })
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

/// Lets signals through again; a child inherits the mask of its parent, and a program expects none.
pub(crate) fn unblock_all() {
    // Fails for invalid arguments only.
    let _ = SigSet::empty().thread_set_mask();
}
