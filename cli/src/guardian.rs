//! `run` as two processes, so that no process of a run outlives it if one of them is killed.
//!
//! The process that the user started is in front: it passes signals on and gives the exit code. The guardian
//! behind it does the work: it starts the ranks and watches them. Each is a subreaper, so a process of the
//! run whose parent ends becomes a child of the guardian, or of the front if the guardian is gone, in
//! whatever session it is. A pipe connects the two; its end tells the guardian that the front was killed,
//! and the guardian then ends all its descendants.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2, write};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::args::{self, Command as Words, Guardian, Run};
use crate::out;
use crate::process::{Ending, adopt_orphans, this_executable};
use crate::run;
use crate::signals::Signals;
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// The front: starts the guardian, passes signals on, gives its exit code. `words` are the command line that
/// `run` was read from.
pub(crate) fn run(state_dir: Option<PathBuf>, run: Run, words: &[OsString]) -> Result<i32, Trouble> {
    // What can be wrong with the request is found before a process is started.
    run::check(state_dir.clone(), &run)?;
    if run.shape.dry_run {
        return run::run(state_dir, run, &Signals::install()?);
    }
    let signals = Signals::install()?;
    adopt_orphans()?;
    let (read, to_guardian) = pipe2(OFlag::O_CLOEXEC).map_err(|e| Trouble::os("a pipe", e))?;
    fcntl(&read, FcntlArg::F_SETFD(FdFlag::empty())).map_err(|e| Trouble::os("a pipe", e))?;
    let mut command = Command::new(this_executable()?);
    command.args(["guardian", "--front", &read.as_raw_fd().to_string(), "--"]);
    command.args(words);
    let mut guardian = command.spawn().map_err(|e| Trouble::os("start the guardian of the run", e))?;
    drop(read);
    let pidfd = pidfd_open(rustix::process::Pid::from_child(&guardian), PidfdFlags::empty())
        .map_err(|e| Trouble::os("watch the guardian of the run", e))?;
    loop {
        let sources = [(true, signals.as_fd(), Interest::Read), (false, pidfd.as_fd(), Interest::Read)];
        let events = wait(&sources, None)?;
        if events.contains(&false) {
            break;
        }
        if let Some(signal) = signals.next() {
            // It may have ended: no matter. A stopped guardian would not read it.
            let _ = write(&to_guardian, &[signal as i32 as u8]);
            let _ = kill(Pid::from_raw(guardian.id() as i32), Signal::SIGCONT);
        }
    }
    let ending = guardian.wait().map(Ending::from).map_err(|e| Trouble::os("wait for the guardian", e))?;
    if let Ending::Signal(_) = ending {
        out::warn(format_args!("the guardian of the run {ending}; ending the processes of the run"));
        end_descendants();
    }
    Ok(ending.code())
}

/// The guardian: does what the front was told, and ends everything if the front is killed.
pub(crate) fn guard(guardian: &Guardian) -> Result<i32, Trouble> {
    let signals = Signals::of_front(guardian.front)?;
    // The end of the pipe wakes no stopped guardian: the kernel lets it go on when the front is gone.
    set_pdeathsig(Signal::SIGCONT).map_err(|e| Trouble::os("hear of the end of the process in front", e))?;
    adopt_orphans()?;
    let arguments = args::parse_from(&guardian.words)?;
    let Words::Run(run) = arguments.command else {
        return Err(Trouble::start("a guardian is for `run` only"));
    };
    let result = run::run(arguments.state_dir, run, &signals);
    if signals.are_over() {
        end_descendants();
    }
    result
}

/// Kills all processes below this one and waits for their end. They are found by their parents: what a
/// dying process leaves becomes a child of this one.
pub(crate) fn end_descendants() {
    loop {
        let killed = descendants().into_iter().filter(|pid| kill(*pid, Signal::SIGKILL).is_ok()).count();
        // A process that runs as another user stays, and must not be waited for.
        if killed == 0 {
            return;
        }
        match waitpid(Pid::from_raw(-1), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn descendants() -> Vec<Pid> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (Vec::new(), vec![Pid::this().as_raw()]);
    while let Some(parent) = next.pop() {
        let below = children.remove(&parent).unwrap_or_default();
        found.extend(below.iter().map(|pid| Pid::from_raw(*pid)));
        next.extend(below);
    }
    found
}

fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks and parentheses; fields are counted behind the last one.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
}
