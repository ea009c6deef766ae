//! Which core a thread looks for datagrams on.
//!
//! Linux likes to wake a thread on the core of who woke it. Two threads that look for each other's
//! datagrams there keep each other from going on, and nothing tells a thread where its peer runs. But a
//! look that was answered tells that the peer runs elsewhere: a good core to come back to after a sleep.
//! And if looking does not help while sleeping does, another core is worth a trial.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::config::node::AFFINITY_EVERY;
use crate::page::Time;

/// The core of a node's thread that receives.
pub(super) struct CpuAffinity {
    /// The machine, or this process, has one core only.
    single: bool,
    /// Where a look was answered last; none yet: more than there are.
    core: AtomicUsize,
    slept: AtomicBool,
    moved: AtomicU64,
}

impl CpuAffinity {
    pub(super) fn new() -> CpuAffinity {
        let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
        let allowed = std::thread::available_parallelism().map_or(1, usize::from);
        CpuAffinity {
            single: online == Some(1) || allowed == 1,
            core: AtomicUsize::new(usize::MAX),
            slept: AtomicBool::new(false),
            moved: AtomicU64::new(0),
        }
    }

    /// Whether a thread that looks keeps everybody else from going on.
    pub(super) fn is_single(&self) -> bool {
        self.single
    }

    /// The thread that receives has slept, and may have been woken anywhere.
    pub(super) fn slept(&self) {
        self.slept.store(true, Ordering::Relaxed);
    }

    /// A datagram came while this thread looked for it.
    pub(super) fn answered(&self) {
        if let Ok(core) = sched_getcpu() {
            self.core.store(core, Ordering::Relaxed);
        }
    }

    /// This thread is about to look: if it has slept, where looks are answered. True if it has moved.
    pub(super) fn take(&self, now: Time) -> bool {
        if !self.slept.load(Ordering::Relaxed) {
            return false;
        }
        self.slept.store(false, Ordering::Relaxed);
        let core = self.core.load(Ordering::Relaxed);
        let recently = now.since(Time(self.moved.load(Ordering::Relaxed))) < AFFINITY_EVERY;
        let moves = core != usize::MAX && !recently && sched_getcpu() != Ok(core);
        if moves {
            self.moved.store(now.0, Ordering::Relaxed);
            move_to(|other| other == core);
        }
        moves
    }

    /// Takes any other core, for a trial that comes back to it.
    pub(super) fn change(&self) {
        if let Some(core) = sched_getcpu().ok().and_then(|own| move_to(|other| other != own)) {
            self.core.store(core, Ordering::Relaxed);
        }
        self.slept.store(false, Ordering::Relaxed);
    }
}

/// Moves this thread to one of the cores that it may use, if there is one that is wanted; gives it.
fn move_to(is_wanted: impl Fn(usize) -> bool) -> Option<usize> {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).ok()?;
    let mut wanted = CpuSet::new();
    let mut any = false;
    for core in (0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true) && is_wanted(core)) {
        any |= wanted.set(core).is_ok();
    }
    if !any || sched_setaffinity(this, &wanted).is_err() {
        return None;
    }
    let core = sched_getcpu().ok();
    // The kernel may place it anywhere again; it stays while it runs.
    if sched_setaffinity(this, &allowed).is_err() {
        // The cores of that set were taken from this process just now: any that it has now.
        let mut all = CpuSet::new();
        (0..CpuSet::count()).for_each(|core| all.set(core).expect("it is below the count"));
        let _ = sched_setaffinity(this, &all);
    }
    core
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_leaves_its_core_and_keeps_its_right_to_it() {
        let this = Pid::from_raw(0);
        let before = sched_getaffinity(this).unwrap();
        let own = sched_getcpu().unwrap();
        let allowed = (0..CpuSet::count()).filter(|core| before.is_set(*core) == Ok(true)).count();
        let core = move_to(|core| core != own);
        assert_eq!(core.is_some(), allowed > 1);
        assert_ne!(core, Some(own));
        assert_eq!(sched_getaffinity(this).unwrap(), before);
        assert_eq!(move_to(|core| core == usize::MAX), None, "no such core");
    }

    #[test]
    fn who_has_slept_comes_back_now_and_then_to_where_looks_are_answered() {
        let affinity = CpuAffinity::new();
        let now = Time(1) + AFFINITY_EVERY;
        let moved = |now| {
            affinity.slept();
            affinity.take(now);
            affinity.moved.load(Ordering::Relaxed) == now.0
        };
        assert!(!moved(now), "nothing has been answered yet");
        affinity.core.store(usize::MAX - 1, Ordering::Relaxed);
        assert!(moved(now));
        assert!(!moved(Time(now.0 + 1)), "not all the time");
        assert!(moved(now + AFFINITY_EVERY));
        assert!(!affinity.take(now + AFFINITY_EVERY + AFFINITY_EVERY), "it has not slept");
        affinity.slept();
        affinity.change();
        assert!(!affinity.take(now + AFFINITY_EVERY + AFFINITY_EVERY), "a trial is not undone");
        let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
        assert_eq!(
            affinity.core.load(Ordering::Relaxed) < CpuSet::count(),
            several,
            "and comes back to its core"
        );
    }
}
