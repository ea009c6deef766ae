//! Who else wants the cores: whether looking for datagrams would take a core from somebody, and
//! whether this thread shares its core with the very peer that it looks for.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::config::node::{CROWD_AFTER, CROWD_AT_LEAST, CROWD_EVERY, CROWD_MAX};
use crate::page::Time;

/// The machine's cores, as a thread that would like to spin on one sees them.
pub(super) struct Crowd {
    /// Has the number of threads that run or could. `None` where there is none: then looking is bounded
    /// but not adapted to the load.
    load: Option<File>,
    cores: usize,
    asked: AtomicU64,
    /// How crowded it has been of late, at most [`CROWD_MAX`]: a thread that runs for a moment is no crowd.
    crowded: AtomicU32,
}

/// What a thread that looks for datagrams should do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Room {
    /// A core is free for it.
    Enough,
    /// Somebody waits for a core.
    None,
    /// A core is free, but the peer that sent the last datagram has sent it from this very core, this one.
    Shared(usize),
}

impl Crowd {
    pub(super) fn new() -> Crowd {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        let cores = if allowed == 1 { 1 } else { online.and_then(|n| n.try_into().ok()).unwrap_or(allowed) };
        Crowd {
            load: File::open("/proc/loadavg").ok(),
            cores,
            asked: AtomicU64::new(0),
            crowded: AtomicU32::new(0),
        }
    }

    /// Whether it is time to ask again, for a thread that last served somebody at `served`. Not at once
    /// after that: who has just been answered, or woken by it, is no crowd.
    pub(super) fn is_due(&self, now: Time, served: Time) -> bool {
        let since = now.since(Time(self.asked.load(Ordering::Relaxed)));
        since > CROWD_EVERY && now.since(served) > CROWD_AFTER || since > CROWD_AT_LEAST
    }

    /// Looks around.
    pub(super) fn ask(&self, now: Time, socket: &impl AsFd) -> Room {
        self.asked.store(now.0, Ordering::Relaxed);
        let is_full = self.runnable().is_some_and(|runnable| runnable > self.cores);
        let crowded = self.crowded.load(Ordering::Relaxed);
        let crowded = if is_full { (crowded + 1).min(CROWD_MAX) } else { crowded.saturating_sub(1) };
        // Threads that ask at the same time may lose one word of the two.
        self.crowded.store(crowded, Ordering::Relaxed);
        if self.is_crowded() {
            return Room::None;
        }
        match sched_getcpu().ok() {
            Some(own) if incoming_core(socket) == Some(own) => Room::Shared(own),
            Some(_) | None => Room::Enough,
        }
    }

    /// Whether threads have had to wait for cores of late.
    pub(super) fn is_crowded(&self) -> bool {
        self.cores == 1 || self.crowded.load(Ordering::Relaxed) > CROWD_MAX / 2
    }

    /// Threads of the machine that run or could run now, this one included.
    fn runnable(&self) -> Option<usize> {
        let mut text = [0; 64];
        let len = self.load.as_ref()?.read_at(&mut text, 0).ok()?;
        runnable_in(std::str::from_utf8(&text[..len]).ok()?)
    }
}

/// `0.20 0.18 0.12 1/80 11206`: the number before the slash.
fn runnable_in(loadavg: &str) -> Option<usize> {
    loadavg.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

/// The core that the last datagram came through: the sender's own, if it was sent on this machine.
fn incoming_core(socket: &impl AsFd) -> Option<usize> {
    let core = nix::sys::socket::getsockopt(socket, IncomingCpu).ok()?;
    usize::try_from(core).ok()
}

mod option {
    //! An option that nix lacks.
    use nix::{getsockopt_impl, libc, sockopt_impl};

    sockopt_impl!(
        /// The core that the last packet came through.
        IncomingCpu,
        GetOnly,
        libc::SOL_SOCKET,
        libc::SO_INCOMING_CPU,
        libc::c_int
    );
}
use option::IncomingCpu;

/// Moves this thread to another core that it may use; true if there was one. The kernel had woken it
/// where its peer runs, who now waits for its word: each would keep the other from going on.
pub(super) fn move_off(core: usize) -> bool {
    let this = Pid::from_raw(0);
    let Ok(allowed) = sched_getaffinity(this) else { return false };
    let mut others = allowed;
    let has_others = (0..CpuSet::count()).any(|other| other != core && allowed.is_set(other) == Ok(true));
    if !has_others || others.unset(core).is_err() || sched_setaffinity(this, &others).is_err() {
        return false;
    }
    // The kernel may place it anywhere again; it stays while it runs.
    let _ = sched_setaffinity(this, &allowed);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runnable_threads_are_read() {
        assert_eq!(runnable_in("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(runnable_in("nonsense"), None);
    }

    #[test]
    fn a_thread_leaves_its_core_and_keeps_its_right_to_it() {
        let before = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let own = sched_getcpu().unwrap();
        let allowed = (0..CpuSet::count()).filter(|core| before.is_set(*core) == Ok(true)).count();
        assert_eq!(move_off(own), allowed > 1);
        assert_eq!(sched_getaffinity(Pid::from_raw(0)).unwrap(), before);
    }

    #[test]
    fn a_machine_of_one_core_has_no_room() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let crowd = Crowd { load: None, cores: 1, asked: AtomicU64::new(0), crowded: AtomicU32::new(0) };
        assert_eq!(crowd.ask(Time(5), &socket), Room::None);
        assert!(!crowd.is_due(Time(5) + CROWD_EVERY, Time(0)));
        assert!(crowd.is_due(Time(6) + CROWD_EVERY, Time(0)));
    }
}
