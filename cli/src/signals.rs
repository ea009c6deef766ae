//! Signals as readable events: the user's wish to stop arrives through a descriptor, between two steps
//! of the command, never in the middle of one.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::trouble::Trouble;

/// The signals that ask a command to stop.
const STOPPING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Where signals come from; from its making on they interrupt nothing any more.
pub(crate) struct Signals {
    source: Source,
    /// Whoever started us has SIGINT ignored, as shells do for what runs in the background.
    interrupt_is_ignored: bool,
}

enum Source {
    /// The kernel.
    Own(SignalFd),
    /// The process in front, which passes on what it gets, a byte each; and whether it is gone.
    Front(File, Cell<bool>),
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
        Ok(Signals { source: Source::Own(fd), interrupt_is_ignored: is_in(ignored, Signal::SIGINT) })
    }

    /// Takes them from the process in front, by the descriptor of a pipe that this process inherited. What
    /// reaches this process itself is ignored: a terminal sends it to both.
    pub(crate) fn of_front(fd: i32) -> Result<Signals, Trouble> {
        let mut set: SigSet = STOPPING.into_iter().collect();
        set.add(Signal::SIGQUIT);
        set.thread_block().map_err(|e| Trouble::os("signals", e))?;
        // Opened through its name: a number from a command line owns nothing, and may be wrong.
        let mut open = OpenOptions::new();
        let pipe = open.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(format!("/proc/self/fd/{fd}"));
        let pipe = pipe.map_err(|e| Trouble::os("the pipe of the process in front", e))?;
        // No child may inherit it.
        nix::unistd::close(fd).map_err(|e| Trouble::os("the pipe of the process in front", e))?;
        let source = Source::Front(pipe, Cell::new(false));
        Ok(Signals { source, interrupt_is_ignored: is_in(ignored(), Signal::SIGINT) })
    }

    /// Whether the process in front is gone. Then the descriptor is always readable.
    pub(crate) fn are_over(&self) -> bool {
        matches!(&self.source, Source::Front(_, gone) if gone.get())
    }

    /// The signal by which to pass a wish to stop on to our children: they ignore what we were told to.
    pub(crate) fn for_children(&self, signal: Signal) -> Signal {
        if signal == Signal::SIGINT && self.interrupt_is_ignored { Signal::SIGTERM } else { signal }
    }

    /// The next signal that has arrived. The end of the process in front is a SIGKILL.
    pub(crate) fn next(&self) -> Option<Signal> {
        match &self.source {
            Source::Own(fd) => {
                let info = fd.read_signal().ok().flatten()?;
                Signal::try_from(info.ssi_signo as i32).ok()
            }
            Source::Front(pipe, gone) => {
                let mut byte = [0];
                match (&*pipe).read(&mut byte) {
                    Ok(1..) => Signal::try_from(i32::from(byte[0])).ok(),
                    Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
                    Ok(0) | Err(_) => {
                        gone.set(true);
                        Some(Signal::SIGKILL)
                    }
                }
            }
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::Own(fd) => fd.as_fd(),
            Source::Front(pipe, _) => pipe.as_fd(),
        }
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
