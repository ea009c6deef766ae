//! Processes that this program starts of itself: they obey typed commands, one JSON line each, and
//! answer each with one. Between two commands they sleep on the pipe. They die with their parent.

use std::io::{BufRead, BufReader, Write};
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Result;
use crate::role::Role;

/// Longest wait for an answer, in milliseconds: whoever takes longer hangs.
const ANSWER_MAX_MS: u16 = 60_000;

/// A process that takes commands `C` and answers with `R`.
pub(crate) struct Child<C, R> {
    process: Process,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    name: String,
    _types: PhantomData<(C, R)>,
}

impl<C: Serialize, R: DeserializeOwned> Child<C, R> {
    /// Starts a process. It inherits `sockets`, under the same numbers; the role names those.
    pub(crate) fn start(role: &Role, sockets: &[&dyn AsDescriptor]) -> Result<Self> {
        for socket in sockets {
            set_inheritable(*socket, FdFlag::empty())?;
        }
        let started = Command::new(std::env::current_exe()?)
            .arg("--role")
            .arg(serde_json::to_string(role)?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        for socket in sockets {
            set_inheritable(*socket, FdFlag::FD_CLOEXEC)?;
        }
        let mut process = started?;
        let commands = process.stdin.take().ok_or("a child without standard input")?;
        let answers = process.stdout.take().ok_or("a child without standard output")?;
        let name = role.name().to_owned();
        Ok(Child { process, commands, answers: BufReader::new(answers), name, _types: PhantomData })
    }

    /// Gives a command.
    pub(crate) fn tell(&mut self, command: &C) -> Result<()> {
        let mut line = serde_json::to_string(command)?;
        line.push('\n');
        self.commands.write_all(line.as_bytes())?;
        Ok(())
    }

    /// Waits for an answer.
    pub(crate) fn hear(&mut self) -> Result<R> {
        if self.answers.buffer().is_empty() {
            let mut fds = [PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(ANSWER_MAX_MS))? == 0 {
                return Err(format!("{} has not answered for {ANSWER_MAX_MS} ms", self.name).into());
            }
        }
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err(format!("{} has ended: {}", self.name, self.process.wait()?).into());
        }
        let answer: std::result::Result<R, String> = serde_json::from_str(&line)?;
        answer.map_err(|error| format!("{}: {error}", self.name).into())
    }

    /// Gives a command and waits for its answer.
    pub(crate) fn ask(&mut self, command: &C) -> Result<R> {
        self.tell(command)?;
        self.hear()
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}

impl<C, R> Drop for Child<C, R> {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, only to collect.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Anything with a descriptor, in a list.
pub(crate) trait AsDescriptor {
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_>;
}

impl<T: AsFd> AsDescriptor for T {
    fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.as_fd()
    }
}

fn set_inheritable(socket: &dyn AsDescriptor, flag: FdFlag) -> Result<()> {
    fcntl(socket.descriptor(), FcntlArg::F_SETFD(flag))?;
    Ok(())
}

/// The number by which a child finds a socket that it inherits.
pub(crate) fn number(socket: &impl AsFd) -> RawFd {
    socket.as_fd().as_raw_fd()
}

/// In a child: takes an inherited socket over.
pub(crate) fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: the parent named this descriptor, which it left open for this process alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// In a child: makes sure that it does not outlive its parent.
pub(crate) fn die_with(parent: u32) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid().as_raw() as u32 == parent { Ok(()) } else { Err("the parent has gone".into()) }
}

/// In a child: obeys commands until the parent closes the pipe.
pub(crate) fn serve<C: DeserializeOwned, R: Serialize>(mut obey: impl FnMut(C) -> Result<R>) -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let command = serde_json::from_str(&line?)?;
        answer(&obey(command))?;
    }
    Ok(())
}

/// In a child: an answer, the first of which may need no command.
pub(crate) fn answer<R: Serialize>(result: &Result<R>) -> Result<()> {
    let result = result.as_ref().map_err(ToString::to_string);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(&result)?)?;
    out.flush()?;
    Ok(())
}
