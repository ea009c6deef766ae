//! A thread on every core that keeps it from sleeping and gives it to whoever wants it: waking an idle
//! core of a virtual machine costs more than a call does, and it costs a contestant that sleeps more
//! than one that spins.

use std::thread;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::child::{self, Child};
use crate::role::{Part, Role};

/// The process that keeps the cores awake while it lives.
pub(crate) struct Awake(Child<Nothing, ()>);

/// There is nothing to say to it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Nothing {}

impl Awake {
    pub(crate) fn start() -> Result<Awake> {
        let mut child = Child::start(&Role::new(Part::Awake), &[])?;
        child.hear()?;
        Ok(Awake(child))
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

/// In the child.
pub(crate) fn serve() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads one structure, and changes how this process is scheduled.
    let idle = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
    nix::errno::Errno::result(idle)?;
    let cores = thread::available_parallelism()?.get();
    for _ in 0..cores {
        thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    child::answer(&Ok(()))?;
    child::serve(|nothing: Nothing| -> Result<()> { match nothing {} })
}
