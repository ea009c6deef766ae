//! Keeps a thread, or a process, from running for a while, while all else of its machine goes on.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use system_tests::rig::until;

/// Where the first version of control groups keeps its freezer, which takes single threads.
const FREEZER: &str = "/sys/fs/cgroup/freezer";

/// The ways.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// As a debugger does.
    Trace,
    /// As a container's limits do.
    Freeze,
}

/// A thread that does not run until this is dropped.
pub(crate) enum Held {
    Traced(Pid),
    Frozen { thread: Pid, group: PathBuf },
}

/// Whether a way is open here; else a line says why not.
pub(crate) fn is_possible(way: Way) -> bool {
    let why = match way {
        // Whoever may make hosts may trace, unless the kernel cannot.
        Way::Trace => return true,
        Way::Freeze => match group() {
            Ok(group) => {
                let _ = fs::remove_dir(group);
                return true;
            }
            Err(error) => error,
        },
    };
    println!("SKIPPED: no thread can be frozen here: {FREEZER}: {why}");
    false
}

fn group() -> std::io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("pagemesh-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let group = PathBuf::from(FREEZER).join(name);
    fs::create_dir(&group)?;
    if group.join("freezer.state").exists() {
        return Ok(group);
    }
    fs::remove_dir(&group)?;
    Err(std::io::Error::other("no freezer of control groups"))
}

/// The threads of a process.
pub(crate) fn threads(process: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("it lives").flatten();
    let mut threads: Vec<Pid> =
        tasks.filter_map(|task| task.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect();
    threads.sort();
    threads
}

/// The name of a thread.
pub(crate) fn name(thread: Pid) -> String {
    fs::read_to_string(format!("/proc/{thread}/comm")).unwrap_or_default().trim().to_owned()
}

/// The thread of a process that its own host numbers so.
pub(crate) fn inner_thread(process: Pid, number: &str) -> Pid {
    let is_it = |thread: &Pid| {
        let status = fs::read_to_string(format!("/proc/{process}/task/{thread}/status")).unwrap_or_default();
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        numbers.is_some_and(|numbers| numbers.split_whitespace().last() == Some(number))
    };
    threads(process).into_iter().find(is_it).expect("its thread")
}

/// Whether a thread sleeps in the system call in which a receiver waits.
pub(crate) fn waits_for_datagrams(process: Pid, thread: Pid) -> bool {
    let call = fs::read_to_string(format!("/proc/{process}/task/{thread}/syscall")).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_ppoll.to_string())
}

impl Held {
    /// Holds a thread; on return it does not run. None if it has ended.
    pub(crate) fn new(thread: Pid, way: Way) -> Option<Held> {
        match way {
            Way::Trace => {
                match ptrace::seize(thread, ptrace::Options::empty()) {
                    Ok(()) => {}
                    Err(Errno::ESRCH) => return None,
                    Err(errno) => panic!("trace {thread}: {errno}"),
                }
                ptrace::interrupt(thread).expect("a seized thread can be stopped");
                waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
                Some(Held::Traced(thread))
            }
            Way::Freeze => {
                let group = group().expect("it was possible");
                fs::write(group.join("tasks"), thread.to_string()).expect("a thread of ours");
                fs::write(group.join("freezer.state"), "FROZEN").expect("a group of ours");
                let state = || fs::read_to_string(group.join("freezer.state")).unwrap_or_default();
                until("the thread is frozen", || state().trim() == "FROZEN");
                Some(Held::Frozen { thread, group })
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        match self {
            Held::Traced(thread) => {
                let _ = ptrace::detach(*thread, None);
            }
            Held::Frozen { thread, group } => {
                let _ = fs::write(group.join("freezer.state"), "THAWED");
                let _ = fs::write(format!("{FREEZER}/tasks"), thread.to_string());
                let _ = fs::remove_dir(group);
            }
        }
    }
}
