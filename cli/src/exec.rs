//! The child's side of a start: this executable runs first in every child, sets up what a program cannot
//! ask for itself, and becomes the program. It keeps unsafe code between fork and exec out of the command.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, dup2_stderr, getppid, setsid};
use rustix::process::{PidfdFlags, pidfd_open};

use crate::args::ExecChild;
use crate::guardian::end_descendants;
use crate::prepare::open_log;
use crate::process::{Ending, adopt_orphans, this_executable};
use crate::signals::unblock_all;
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// How long a program has to end after SIGTERM when its lifeline is cut. It writes its pages back meanwhile.
const LIFELINE_GRACE: Duration = Duration::from_secs(30);

/// Becomes the program; returns only if it cannot, or if it is to stay as its guard.
pub(crate) fn exec_child(setup: ExecChild) -> Result<i32, Trouble> {
    if let Some(parent) = setup.parent {
        set_pdeathsig(Signal::SIGKILL).map_err(|e| Trouble::os("tie the child to its parent", e))?;
        // The parent may have died before the call above could notice.
        if getppid() != Pid::from_raw(parent) {
            return Err(Trouble::start("the command that started this process is gone"));
        }
    }
    if setup.session {
        setsid().map_err(|e| Trouble::os("lead a session", e))?;
    }
    if let Some(path) = &setup.stderr {
        let log = open_log(path)?;
        dup2_stderr(&log).map_err(|e| Trouble::os(path.display(), e))?;
    }
    unblock_all();
    let Some((program, arguments)) = setup.program.split_first() else {
        return Err(Trouble::start("no program"));
    };
    let cannot = |error| Trouble::os(format_args!("run {}", program.to_string_lossy()), error);
    if setup.lifeline {
        return guard(&setup, cannot);
    }
    if setup.detach {
        // Through this executable again, which can lead a session where a group's leader cannot.
        let mut detached = Command::new(this_executable()?);
        detached.args(["exec-child", "--session", "--"]).args(&setup.program);
        // With this one's input, by whose end the program sees that the connection is gone.
        detached.spawn().map_err(cannot)?;
        return Ok(0);
    }
    Err(cannot(Command::new(program).args(arguments).exec()))
}

/// Runs the program until it ends by itself or standard input closes, and gives its exit code.
fn guard(setup: &ExecChild, cannot: impl Fn(std::io::Error) -> Trouble) -> Result<i32, Trouble> {
    #[derive(Clone, Copy, PartialEq)]
    enum Event {
        Ended,
        Input,
    }
    adopt_orphans()?;
    // Through this executable again, so that the program does not outlive its guard.
    let mut command = Command::new(this_executable()?);
    command.args(["exec-child", "--parent", &std::process::id().to_string(), "--"]).args(&setup.program);
    let mut child = command.stdin(Stdio::null()).process_group(0).spawn().map_err(cannot)?;
    let group = Pid::from_raw(child.id() as i32);
    let pidfd = pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty())
        .map_err(|e| Trouble::os("watch the program", e))?;
    let stdin = std::io::stdin();
    let ended = || (Event::Ended, pidfd.as_fd(), Interest::Read);
    let mut cut = false;
    let mut deadline = None;
    loop {
        let input = || (Event::Input, stdin.as_fd(), Interest::Read);
        let ready = if cut { wait(&[ended()], deadline)? } else { wait(&[ended(), input()], None)? };
        if ready.contains(&Event::Ended) {
            break;
        }
        if ready.is_empty() {
            let _ = killpg(group, Signal::SIGKILL);
            break;
        }
        // Whatever is sent down a lifeline is ignored; only its end counts.
        if matches!(nix::unistd::read(&stdin, &mut [0; 512]), Ok(0) | Err(_)) {
            let _ = killpg(group, Signal::SIGTERM);
            // A stopped program handles no signal.
            let _ = killpg(group, Signal::SIGCONT);
            cut = true;
            deadline = Some(Instant::now() + LIFELINE_GRACE);
        }
    }
    let status = child.wait().map_err(|e| Trouble::os("wait for the program", e))?;
    if cut {
        end_descendants();
    }
    Ok(Ending::from(status).code())
}
