//! A computing thread on every core: the state in which a DSM's owner is when it computes itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, Child};
use crate::role::{Part, Role};

/// What the computing process is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Compute until told otherwise.
    Compute,
    /// Sleep.
    Rest,
}

/// The computing process, seen from the parent.
pub(crate) struct Load(Child<Work, ()>);

impl Load {
    /// Starts it; it rests.
    pub(crate) fn start() -> Result<Load> {
        Ok(Load(Child::start(&Role::new(Part::Load), &[])?))
    }

    pub(crate) fn set(&mut self, work: Work) -> Result<()> {
        self.0.ask(&work)
    }
}

/// In the child.
pub(crate) fn serve() -> Result<()> {
    let computing = Arc::new(AtomicBool::new(false));
    let cores = sched_getaffinity(Pid::from_raw(0))?;
    let mut threads = Vec::new();
    for core in (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap_or(false)) {
        let computing = computing.clone();
        threads.push(thread::spawn(move || compute_on(core, &computing)));
    }
    child::serve(|work: Work| {
        computing.store(work == Work::Compute, Ordering::Release);
        for thread in &threads {
            thread.thread().unpark();
        }
        Ok(())
    })
}

fn compute_on(core: usize, computing: &AtomicBool) {
    let mut only = CpuSet::new();
    // A thread that cannot be bound computes all the same.
    let _ = only.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    let mut value = 1.0f64;
    loop {
        while computing.load(Ordering::Acquire) {
            for _ in 0..10_000 {
                value = value.mul_add(1.000_000_1, 1e-9);
            }
            value = std::hint::black_box(value) % 10.0;
        }
        thread::park();
    }
}
