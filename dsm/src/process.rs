//! Processes of this host, as the kernel tells one from another: by number and start. Numbers are given again; a number
//! with a start is not.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A process of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process {
    /// Its number.
    pub(crate) pid: u32,
    /// When it started, in ticks since the kernel's boot; 0: it is not known.
    pub(crate) started: u64,
}

/// What the kernel says of a process now.
struct Stat {
    state: char,
    started: u64,
}

impl Process {
    /// This one.
    pub(crate) fn own() -> Process {
        Process::of(std::process::id())
    }

    /// The one that has this number now.
    pub(crate) fn of(pid: u32) -> Process {
        Process { pid, started: stat(pid).map_or(0, |stat| stat.started) }
    }

    /// Opens it, to be told of its end; none if it has ended, or if its number belongs to another process here. A copy
    /// of a running virtual machine has the boot and the namespaces of the original; a process that started after the
    /// copying has another start.
    pub(crate) fn open(self) -> Result<Option<OwnedFd>, Errno> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw).filter(|_| self.started != 0)
        else {
            return Ok(None);
        };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Compared after opening: the number cannot have changed hands between the two.
            Ok(process) => {
                let is_this = stat(self.pid).is_some_and(|stat| stat.started == self.started);
                Ok(is_this.then_some(process))
            }
            Err(Errno::SRCH) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

/// Whether a debugger has stopped the process with this number.
pub(crate) fn is_traced(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 't')
}

/// Whether a signal has stopped the process with this number: it does nothing by itself.
pub(crate) fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state == 'T')
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The fields follow the name, which may itself have parentheses: the state is the third field of all, the
    // start the 22nd.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Stat { state, started: fields.nth(18)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_anothers_number_and_not_its_start_is_not_opened() {
        let own = Process::own();
        assert!(own.open().expect("a descriptor").is_some());
        let later = Process { started: own.started + 1, ..own };
        assert!(later.open().expect("no error").is_none(), "another process");
        let unknown = Process { started: 0, ..own };
        assert!(unknown.open().expect("no error").is_none(), "one of which the start is not known");
    }
}
