//! Nodes of which a thread, or the whole process, gets no core: a healthy node is not taken for dead.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, gettid};
use pagemesh::{Dsm, Node, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// A member that answers nobody for so long is dead: the silence that the rigs allow, and the time to answer.
const DEAD_AFTER: Duration = Duration::from_millis(1_000 + 2_000);
/// How long a page may take while its owner's receiving thread is held: 260 ms, and what the machine adds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
/// How long a thread is held here: time for more than one verdict.
const HELD_FOR: Duration = Duration::from_secs(6);

/// Owns a page, and waits at a barrier in the thread whose number it tells; tells when it has passed.
pub(crate) fn waiter(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    data.set(0, 5);
    say(&gettid().to_string());
    dsm.barrier().unwrap();
    say("passed");
    listen();
}

/// A daemon and rank 0 of a program of two in this process, and rank 1, which waits at a barrier, as a child.
struct Waiting {
    daemons: Vec<Node>,
    dsm: Dsm,
    child: Child,
    thread: Pid,
}

fn waiting(silence_max_ms: &str) -> Waiting {
    let rig = Rig::with_daemons(1, 2).set("silence_max_ms", silence_max_ms);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemons[0].local_addr()));
    let child = Child::start("waiter", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    let thread = Pid::from_raw(child.line().parse().expect("a thread's number"));
    until("the child waits at the barrier, and for datagrams", || waits_for_datagrams(&child, thread));
    Waiting { daemons, dsm, child, thread }
}

/// Whether a thread sleeps in the system call in which a receiver waits.
fn waits_for_datagrams(child: &Child, thread: Pid) -> bool {
    let path = format!("/proc/{}/task/{thread}/syscall", child.pid());
    let call = std::fs::read_to_string(path).unwrap_or_default();
    call.split(' ').next() == Some(&libc::SYS_ppoll.to_string())
}

/// Looks at the cluster for so long; the child must be a member all the time.
fn stays_a_member(daemon: &Node, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        assert_eq!(daemon.status().peers.len(), 2, "nobody has died");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// The thread that waits is the one that receives for its node. Another one takes its place, and gives away the
/// page that this node owns.
#[test]
fn a_node_answers_while_the_thread_that_receives_gets_no_core() {
    let Waiting { daemons, dsm, child, thread } = waiting("1000");
    match ptrace::seize(thread, ptrace::Options::empty()) {
        Ok(()) => {}
        Err(errno @ (Errno::EPERM | Errno::ENOSYS)) => {
            println!("SKIPPED: no thread can be held here: ptrace: {errno}");
            return rig::stop(daemons);
        }
        Err(errno) => panic!("{errno}"),
    }
    ptrace::interrupt(thread).expect("a seized thread can be stopped");
    waitpid(thread, Some(WaitPidFlag::__WALL)).expect("it stops");
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || sender.send(data.get(0)));
    assert_eq!(answer.recv_timeout(ANSWERED_WITHIN), Ok(5), "a node answers");
    assert!(HELD_FOR > DEAD_AFTER);
    stays_a_member(&daemons[0], HELD_FOR);
    ptrace::detach(thread, None).expect("it goes on");
    dsm.barrier().expect("nobody has died");
    child.expect("passed");
    rig::stop(daemons);
}

/// The kernel would report its end, so its silence is long in telling.
#[test]
fn a_process_of_this_host_that_is_stopped_for_some_seconds_is_waited_for() {
    let Waiting { daemons, dsm, child, .. } = waiting("30000");
    child.stop();
    stays_a_member(&daemons[0], HELD_FOR);
    child.signal(Signal::SIGCONT);
    dsm.barrier().expect("nobody has died");
    child.expect("passed");
    rig::stop(daemons);
}
