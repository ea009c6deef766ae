//! A process to start, described once: the same value becomes a local child or a command for ssh, and a
//! line for `--dry-run`. And the process once it runs, which cannot be left behind by accident.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::trouble::{SIGNALLED, Trouble};

/// Variables that give a process its place in a cluster. One of an outer program must not reach ours.
pub(crate) const PLACE_VARIABLES: [&str; 6] = [
    "PAGEMESH_JOIN",
    "PAGEMESH_PROGRAM",
    "PAGEMESH_RANK",
    "PAGEMESH_RANKS",
    "PAGEMESH_NEAREST",
    "PAGEMESH_SOCKET_FD",
];

/// How long a process lives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// It dies with this command, however this command dies.
    Ours,
    /// It stays when this command has ended.
    Own,
}

/// A process to start.
pub(crate) struct Process {
    /// For messages: `node 1`, `rank 2`.
    pub(crate) name: String,
    /// None: this host.
    pub(crate) host: Option<String>,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    /// Variables beside the inherited ones.
    pub(crate) environment: BTreeMap<String, String>,
    /// Where standard error goes; None: where the caller connects it.
    pub(crate) stderr: Option<PathBuf>,
    pub(crate) life: Life,
}

/// A started process. Dropped before it has ended, it is killed, with all that it started in its group.
pub(crate) struct Running {
    pub(crate) name: String,
    pub(crate) child: Child,
    pidfd: OwnedFd,
    place: Place,
    ending: Option<Ending>,
    released: bool,
}

/// Where a process runs, seen from here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The child is the program.
    Here,
    /// The child is a connection to it.
    There,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ending {
    Code(i32),
    Signal(i32),
}

impl Process {
    /// Starts it with these connections.
    pub(crate) fn start(&self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Running, Trouble> {
        let mut command = self.command()?;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let place = if self.host.is_none() { Place::Here } else { Place::There };
        Running::start(self.name.clone(), command, place)
    }

    /// The command as one would type it.
    pub(crate) fn line(&self) -> String {
        let words = match &self.host {
            Some(host) => ssh(host, &self.remote_line()),
            None => {
                let mut words = vec![OsString::from("env")];
                words.extend(self.environment.iter().map(|(k, v)| OsString::from(format!("{k}={v}"))));
                if self.environment.is_empty() {
                    words.clear();
                }
                words.push(self.program.clone().into());
                words.extend(self.arguments.iter().cloned());
                words
            }
        };
        join(&words)
    }

    /// The child: always this executable first, which sets up what must be set up between fork and exec
    /// and then becomes the program. So nothing unsafe is needed here.
    fn command(&self) -> Result<Command, Trouble> {
        let this = this_executable()?;
        let mut command = Command::new(&this);
        PLACE_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        command.arg("exec-child");
        match (&self.host, self.life) {
            (None, Life::Own) => {
                command.arg("--session");
            }
            (None, Life::Ours) | (Some(_), Life::Ours | Life::Own) => {
                command.arg("--parent").arg(std::process::id().to_string()).process_group(0);
            }
        }
        match &self.host {
            None => {
                if let Some(path) = &self.stderr {
                    command.arg("--stderr").arg(path);
                }
                command.envs(&self.environment).arg("--").arg(&self.program).args(&self.arguments);
            }
            Some(host) => {
                command.arg("--").args(ssh(host, &self.remote_line()));
            }
        }
        Ok(command)
    }

    /// What the other host's shell is told.
    fn remote_line(&self) -> String {
        let mut words: Vec<OsString> = vec!["exec".into(), "env".into()];
        words.extend(self.environment.iter().map(|(k, v)| OsString::from(format!("{k}={v}"))));
        words.push(this_executable().unwrap_or_else(|_| "pagemesh".into()).into());
        words.push("exec-child".into());
        words.push(match self.life {
            // When this command is gone the connection closes, and with it the child's standard input.
            Life::Ours => "--lifeline".into(),
            Life::Own => "--detach".into(),
        });
        if let Some(path) = &self.stderr {
            words.push("--stderr".into());
            words.push(path.clone().into());
        }
        words.push("--".into());
        words.push(self.program.clone().into());
        words.extend(self.arguments.iter().cloned());
        let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        format!("cd {} && {}", quote(directory.as_os_str()), join(&words))
    }
}

impl Running {
    fn start(name: String, mut command: Command, place: Place) -> Result<Running, Trouble> {
        let child = command.spawn().map_err(|e| Trouble::os(format_args!("start {name}"), e))?;
        let pidfd = pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|e| Trouble::os(format_args!("watch {name}"), e))?;
        Ok(Running { name, child, pidfd, place, ending: None, released: false })
    }

    /// Starts a command that has its work on another host; dropped before it has ended, it is killed.
    pub(crate) fn connection(name: String, words: &[OsString], stdin: Stdio) -> Result<Running, Trouble> {
        // By way of this executable, which lets signals through again.
        let mut command = Command::new(this_executable()?);
        command.args(["exec-child", "--parent", &std::process::id().to_string(), "--"]).args(words);
        command.process_group(0).stdin(stdin);
        Running::start(name, command, Place::There)
    }

    /// Sends a signal to the process and all in its group; nothing if it has ended. A stopped process (SIGSTOP)
    /// goes on, so that it can handle the signal. A process of another host is asked to end by whatever signal,
    /// through its lifeline: signals do not travel over ssh.
    pub(crate) fn signal(&mut self, signal: Signal) {
        if self.place == Place::There && signal != Signal::SIGKILL {
            drop(self.child.stdin.take());
            return;
        }
        self.send(signal);
        // After the signal: the process must not run before it is pending. SIGKILL ends a stopped process too.
        if signal != Signal::SIGKILL {
            self.resume();
        }
    }

    /// Lets the processes of the group go on that are stopped (SIGSTOP). Nothing happens on another host.
    pub(crate) fn resume(&mut self) {
        if self.place == Place::Here {
            self.send(Signal::SIGCONT);
        }
    }

    fn send(&mut self, signal: Signal) {
        if self.ending.is_none() {
            // The process is not reaped yet, so its number is still its own. It may have ended: no matter.
            let pid = Pid::from_raw(self.child.id() as i32);
            if killpg(pid, signal).is_err() {
                // Not yet the leader of its group.
                let _ = kill(pid, signal);
            }
        }
    }

    /// How it ended, if it has. What it left behind in its group is killed first, while the number is its own.
    pub(crate) fn try_end(&mut self) -> Option<Ending> {
        if self.ending.is_none() && self.has_ended() {
            if !self.released {
                self.signal(Signal::SIGKILL);
            }
            self.ending = Some(self.child.wait().map_or(Ending::Code(1), Ending::from));
            self.reap_group();
        }
        self.ending
    }

    /// Waits for what was killed in the process's group, as far as it is ours to wait for. Of an
    /// [`adopt_orphans`] command that is all of it.
    fn reap_group(&self) {
        let group = Pid::from_raw(-(self.child.id() as i32));
        while !self.released && waitpid(group, None).is_ok() {}
    }

    /// Whether it runs as far as known.
    pub(crate) fn runs(&self) -> bool {
        self.ending.is_none()
    }

    /// Tells a daemon that is to stay that the cluster is recorded: from then on it outlives this command.
    pub(crate) fn say_recorded(&mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // The daemon may have ended: the next command on the cluster reports that.
            let _ = stdin.write_all(node_daemon::RECORDED);
        }
    }

    /// Lets the process live on by itself. A connection ends once the other host has heard all; it is waited
    /// for, up to `longest`.
    pub(crate) fn release(mut self, longest: Duration) -> Result<(), Trouble> {
        self.released = true;
        if self.place == Place::There {
            let ended = ((), self.pidfd.as_fd(), crate::wait::Interest::Read);
            crate::wait::wait(&[ended], Some(Instant::now() + longest))?;
        }
        Ok(())
    }

    /// A pidfd is readable from the end of its process on.
    fn has_ended(&self) -> bool {
        let now = Some(Instant::now());
        crate::wait::wait(&[((), self.pidfd.as_fd(), crate::wait::Interest::Read)], now)
            .is_ok_and(|ready| !ready.is_empty())
    }
}

impl AsFd for Running {
    /// Readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ending.is_none() && !self.released {
            self.signal(Signal::SIGKILL);
            // Cannot take long: nothing survives SIGKILL.
            let _ = self.child.wait();
            self.reap_group();
        }
    }
}

impl Ending {
    /// The exit code that a shell would give.
    pub(crate) fn code(self) -> i32 {
        match self {
            Ending::Code(code) => code,
            Ending::Signal(signal) => SIGNALLED + signal,
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Ending {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, signal) => Ending::Signal(signal.unwrap_or(0)),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "exited with code {code}"),
            Ending::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "was killed by {signal}"),
                Err(_) => write!(f, "was killed by signal {number}"),
            },
        }
    }
}

/// Makes processes whose parents end our children, so that their end can be waited for.
pub(crate) fn adopt_orphans() -> Result<(), Trouble> {
    set_child_subreaper(true).map_err(|e| Trouble::os("adopt orphaned processes", e))
}

/// This program's file.
pub(crate) fn this_executable() -> Result<PathBuf, Trouble> {
    std::env::current_exe().map_err(|e| Trouble::os("find the pagemesh executable", e))
}

/// An ssh command that never asks for a password.
pub(crate) fn ssh(host: &str, line: &str) -> Vec<OsString> {
    ["ssh", "-T", "-o", "BatchMode=yes", host, line].map(OsString::from).to_vec()
}

/// Words as a shell reads them back.
pub(crate) fn join(words: &[OsString]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    words.join(" ")
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A path beside this executable, where the build puts all programs of the workspace.
pub(crate) fn beside(name: &str) -> Result<PathBuf, Trouble> {
    let this = this_executable()?;
    Ok(this.parent().unwrap_or(Path::new("/")).join(name))
}

#[cfg(test)]
mod tests {
    use nix::sys::wait::{WaitPidFlag, WaitStatus};

    use super::*;

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(join(&["a".into(), "b c".into(), "it's".into(), "".into()]), r"a 'b c' 'it'\''s' ''");
    }

    #[test]
    fn a_remote_process_is_one_ssh_command() {
        let process = Process {
            name: "rank 1".into(),
            host: Some("red".into()),
            program: "/bin/echo".into(),
            arguments: vec!["a b".into()],
            environment: BTreeMap::from([("PAGEMESH_RANK".to_owned(), "1".to_owned())]),
            stderr: None,
            life: Life::Ours,
        };
        let line = process.line();
        assert!(line.starts_with("ssh -T -o BatchMode=yes red 'cd "), "{line}");
        assert!(line.contains("exec env PAGEMESH_RANK=1"), "{line}");
        assert!(line.contains("--lifeline -- /bin/echo"), "{line}");
    }

    #[test]
    fn a_stopped_process_goes_on_to_handle_its_signal() {
        let mut command = Command::new("sleep");
        command.arg("1000").process_group(0);
        let start = Running::start("sleep".into(), command, Place::Here);
        let mut running = start.unwrap_or_else(|trouble| panic!("{trouble}"));
        let pid = Pid::from_raw(running.child.id() as i32);
        kill(pid, Signal::SIGSTOP).expect("it runs");
        let stopped = waitpid(pid, Some(WaitPidFlag::WUNTRACED));
        assert_eq!(stopped, Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)));
        running.signal(Signal::SIGTERM);
        let ended = ((), running.as_fd(), crate::wait::Interest::Read);
        let ready = crate::wait::wait(&[ended], Some(Instant::now() + Duration::from_secs(20)));
        assert!(ready.is_ok_and(|ready| !ready.is_empty()), "it is stopped, and does not end");
        assert_eq!(running.try_end(), Some(Ending::Signal(Signal::SIGTERM as i32)));
    }

    #[test]
    fn endings_have_the_codes_of_shells() {
        assert_eq!(Ending::Signal(9).code(), 137);
        assert_eq!(Ending::Signal(9).to_string(), "was killed by SIGKILL");
        assert_eq!(Ending::Code(70).to_string(), "exited with code 70");
    }
}
