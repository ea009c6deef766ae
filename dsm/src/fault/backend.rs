//! Which mechanism protects the application's view: the setting, the choice, and why.

use std::fmt;
use std::str::FromStr;

use super::probe;
use super::uffd::{Delivery, Uffd};
use crate::error::{Error, Result};

/// A mechanism that tells the library about page faults.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backend {
    /// userfaultfd with SIGBUS, resolved in the faulting thread; needs no privilege. A system call on
    /// memory that is not here fails with EFAULT or comes up short.
    Signal,
    /// userfaultfd with a handler thread; needs privilege. System calls fault like loads and stores.
    Thread,
    /// Page protections and SIGSEGV, for kernels and containers without userfaultfd.
    Mprotect,
    /// No application view: this process only serves pages to others.
    None,
}

/// What the user asked for (`PAGEMESH_FAULT`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BackendChoice {
    /// The best that works here: `signal`, else `mprotect`.
    #[default]
    Auto,
    /// This one or an error.
    Only(Backend),
}

impl BackendChoice {
    /// The backend that will run. An error if the forced one cannot; nothing was changed.
    pub fn decide(self) -> Result<Backend> {
        match self {
            BackendChoice::Only(Backend::None) => Ok(Backend::None),
            BackendChoice::Only(Backend::Mprotect) => Ok(Backend::Mprotect),
            BackendChoice::Auto => match probe::cycle() {
                Ok(()) => Ok(Backend::Signal),
                Err(_) => Ok(Backend::Mprotect),
            },
            BackendChoice::Only(Backend::Signal) => match probe::cycle() {
                Ok(()) => Ok(Backend::Signal),
                Err(why) => Err(impossible(Backend::Signal, &why, MEND_SIGNAL)),
            },
            BackendChoice::Only(Backend::Thread) => match probe_thread() {
                Ok(()) => Ok(Backend::Thread),
                Err(why) => Err(impossible(Backend::Thread, &why, MEND_THREAD)),
            },
        }
    }
}

/// How to get the `signal` backend.
pub(super) const MEND_SIGNAL: &str =
    "it needs Linux 6.4 or newer and a container that allows the userfaultfd system call";
/// How to get the `thread` backend.
pub(super) const MEND_THREAD: &str = "it needs Linux 6.4 or newer and one of: root, CAP_SYS_PTRACE, \
     a readable and writable /dev/userfaultfd, sysctl vm.unprivileged_userfaultfd=1";

/// Whether the `thread` backend would work: the cycle, and a descriptor for faults of the kernel too.
pub(super) fn probe_thread() -> std::result::Result<(), String> {
    Uffd::open(Delivery::Message)?;
    probe::cycle()
}

fn impossible(backend: Backend, why: &str, mend: &str) -> Error {
    Error::Invalid(format!(
        "fault backend '{backend}' does not work here: {why}; {mend}; or leave PAGEMESH_FAULT unset"
    ))
}

impl FromStr for BackendChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(BackendChoice::Auto),
            "signal" => Ok(BackendChoice::Only(Backend::Signal)),
            "thread" => Ok(BackendChoice::Only(Backend::Thread)),
            "mprotect" => Ok(BackendChoice::Only(Backend::Mprotect)),
            "none" => Ok(BackendChoice::Only(Backend::None)),
            other => Err(Error::Invalid(format!(
                "unknown fault backend '{other}': use auto, signal, thread, mprotect or none"
            ))),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Signal => "signal",
            Backend::Thread => "thread",
            Backend::Mprotect => "mprotect",
            Backend::None => "none",
        })
    }
}
