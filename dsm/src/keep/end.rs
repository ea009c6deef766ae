//! That the process of a kept node has ended, for certain: another one may use the node's memory only then.
//!
//! Its end is what the kernel says of the process itself, never a silence or the end of a connection. A process that
//! lives and does not answer is killed, unless a debugger holds it. Its memory may outlive it in a process that it
//! has started and that shares its address space (`vfork`), so the mappings of others are looked at, too.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{fstat, major, minor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::Kept;
use super::channel::errno_of;
use crate::fault::{User, user_of};

const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Why the process of a kept node is not killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotKilled {
    /// A debugger holds it: whoever debugs decides.
    Traced {
        /// The debugger.
        by: u32,
    },
    /// The kernel refuses it.
    Refused(Errno),
}

impl fmt::Display for NotKilled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotKilled::Traced { by } => write!(f, "process {by} debugs it: let it go on, or end it there"),
            NotKilled::Refused(errno) => write!(f, "it cannot be killed: {errno}"),
        }
    }
}

/// Whether a process has ended, with all of its threads.
pub(crate) fn has_ended(process: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&AT_ONCE)), Ok(1))
}

/// Kills a process, whatever it does now. It has ended only when [`has_ended`] says so: the kernel takes its memory
/// down first, some 40 us a MiB.
pub(crate) fn kill(process: &OwnedFd, pid: u32) -> Result<(), NotKilled> {
    if let Some(by) = tracer(process, pid) {
        return Err(NotKilled::Traced { by });
    }
    match pidfd_send_signal(process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(NotKilled::Refused(errno_of(errno))),
    }
}

/// The process that debugs it.
fn tracer(process: &OwnedFd, pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?.trim().parse().ok()?;
    // Afterwards: as long as it has not ended, the number was not another process's.
    (tracer != 0 && !has_ended(process)).then_some(tracer)
}

impl Kept {
    /// Whether the process has ended, with all of its threads.
    pub(crate) fn has_ended(&self) -> bool {
        has_ended(&self.process)
    }

    /// The process that may touch the node's memory, as the node's record says.
    pub(crate) fn user(&self) -> std::io::Result<User> {
        user_of(&self.record)
    }

    /// Another process that maps the node's memory, besides those of `members`, which have memory of their own and are
    /// not looked at. Reads the list of mappings of every process of this user: for the end of a node, no path on which
    /// anything waits.
    pub(crate) fn mapped_by(&self, members: &[u32]) -> Option<u32> {
        let stat = fstat(self.arena.as_fd()).ok()?;
        let place = format!("{:02x}:{:02x} {}", major(stat.st_dev), minor(stat.st_dev), stat.st_ino);
        let own = std::process::id();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        processes.filter(|pid| *pid != own && !members.contains(pid)).find(|pid| maps(*pid, &place))
    }
}

/// Whether a process maps the file at this device and inode. Those of others cannot be read, and cannot map it.
fn maps(pid: u32, place: &str) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/maps")) else { return false };
    let is_of_file = |line: &[u8]| {
        // Addresses, permissions, offset, device, inode, name.
        let fields = std::str::from_utf8(line).unwrap_or_default().splitn(4, ' ').nth(3).unwrap_or_default();
        fields.strip_prefix(place).is_some_and(|rest| rest.starts_with([' ', '\n']) || rest.is_empty())
    };
    BufReader::new(file).split(b'\n').map_while(Result::ok).any(|line| is_of_file(&line))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::process::{Child, Command, Stdio};

    use memmap2::MmapOptions;
    use nix::sys::ptrace;
    use nix::sys::signal;
    use nix::unistd::Pid;
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::super::tests::sealed_memory;
    use super::*;
    use crate::page::{Incarnation, NodeId};

    /// Set in the process that maps a file: the file's path.
    const MAPPED: &str = "PAGEMESH_TEST_MAPPED";

    /// A process of a test, with files as a keeper holds them. It is killed when dropped.
    struct Node {
        child: Child,
        kept: Kept,
    }

    impl Node {
        fn start(command: &mut Command) -> Node {
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
            let pid = rustix::process::Pid::from_child(&child);
            let kept = Kept {
                node: NodeId(1),
                incarnation: Incarnation(1),
                arena: sealed_memory(8192),
                record: sealed_memory(8192),
                process: pidfd_open(pid, PidfdFlags::empty()).expect("a descriptor"),
                pid: child.id(),
                connection: None,
            };
            Node { child, kept }
        }

        fn signal(&self, signal: signal::Signal) {
            signal::kill(Pid::from_raw(self.child.id() as i32), signal).expect("it runs");
        }

        fn kill(&self) -> Result<(), NotKilled> {
            kill(&self.kept.process, self.kept.pid)
        }

        /// Waits for the process's end as a keeper does. It is a zombie then: its number is not free.
        fn wait(&self) {
            let longest = Timespec { tv_sec: 20, tv_nsec: 0 };
            let mut fds = [PollFd::new(&self.kept.process, PollFlags::IN)];
            assert_eq!(poll(&mut fds, Some(&longest)), Ok(1), "it does not end");
            assert!(self.kept.has_ended());
        }
    }

    impl Drop for Node {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    fn sleeper() -> Node {
        Node::start(Command::new("sleep").arg("1000"))
    }

    #[test]
    fn a_process_that_is_silent_because_it_is_stopped_is_ended_for_certain() {
        let node = sleeper();
        assert!(!node.kept.has_ended());
        node.signal(signal::Signal::SIGSTOP);
        assert!(!node.kept.has_ended());
        assert_eq!(node.kill(), Ok(()));
        node.wait();
        assert_eq!(node.kill(), Ok(()), "it has ended");
    }

    #[test]
    fn a_process_that_a_debugger_holds_is_not_killed() {
        let node = sleeper();
        let pid = Pid::from_raw(node.child.id() as i32);
        ptrace::seize(pid, ptrace::Options::empty()).expect("a child can be traced");
        let refused = node.kill().expect_err("it is debugged");
        assert!(matches!(refused, NotKilled::Traced { .. }) && !node.kept.has_ended(), "{refused}");
        ptrace::interrupt(pid).expect("it is traced");
        nix::sys::wait::waitpid(pid, None).expect("it stops");
        ptrace::detach(pid, None).expect("it is traced");
        assert_eq!(node.kill(), Ok(()));
        node.wait();
    }

    /// The process that maps memory of another one: this test binary again.
    #[test]
    #[ignore = "is started by the test below"]
    fn mapper() {
        let Ok(path) = std::env::var(MAPPED) else { return };
        let file = File::options().read(true).write(true).open(path).expect("its parent's file");
        let mapped = MmapOptions::new().len(8192).map_raw(&file).expect("a mapping");
        drop(file);
        writeln!(std::io::stdout(), "mapped").and_then(|()| std::io::stdout().flush()).expect("a parent");
        // Until the parent closes it.
        let _ = std::io::stdin().read(&mut [0]);
        drop(mapped);
    }

    #[test]
    fn a_process_that_maps_the_memory_of_an_ended_one_is_found() {
        let node = sleeper();
        assert_eq!(node.kill(), Ok(()));
        node.wait();
        assert_eq!(node.kept.mapped_by(&[]), None);
        let name = format!("{}::mapper", module_path!().split_once("::").expect("a crate").1);
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"]);
        let path = format!("/proc/{}/fd/{}", std::process::id(), node.kept.arena.as_raw_fd());
        let mut mapper = Node::start(command.env(MAPPED, path));
        let mut lines = BufReader::new(mapper.child.stdout.take().expect("a pipe")).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line.ends_with("mapped")));
        let pid = mapper.child.id();
        assert_eq!(node.kept.mapped_by(&[]), Some(pid));
        assert_eq!(node.kept.mapped_by(&[pid]), None, "a member");
        drop(mapper.child.stdin.take());
        mapper.wait();
        assert_eq!(node.kept.mapped_by(&[]), None);
    }
}
