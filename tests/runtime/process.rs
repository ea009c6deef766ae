//! What programs do besides computing: fork, start others, handle signals.

use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use pagemesh::fault::Health;
use pagemesh::{Dsm, Node, Settings, SharedSlice};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

#[test]
fn other_programs_can_be_started_while_threads_fault() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let data = dsm.alloc::<u64>("data", 512 * 8).unwrap();
        dsm.barrier().unwrap();
        std::thread::scope(|scope| {
            let faults = scope.spawn(|| {
                for round in 0..200usize {
                    // SAFETY: a word of the region, accessed atomically only.
                    let word =
                        unsafe { AtomicU64::from_ptr(data.as_mut_ptr().wrapping_add(512 * (round % 8))) };
                    word.fetch_add(1, Ordering::Relaxed);
                }
            });
            for _ in 0..5 {
                let output = Command::new("echo").arg("started").output().expect("starts");
                assert_eq!(output.stdout, b"started\n");
            }
            faults.join().expect("no panic");
        });
        dsm.barrier().unwrap();
        assert_eq!((0..8).map(|page| data.get(512 * page)).sum::<u64>(), 400);
        dsm.leave().unwrap();
    });
}

/// A socket as a process is given one by its starter: it survives the start of another program.
fn inheritable() -> std::net::UdpSocket {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).expect("a flag");
    socket
}

/// What `ls` shows of the descriptors of a process, `self` for its own.
fn descriptors(of: &str, command: &mut Command) -> String {
    let output = command.arg("-l").arg(format!("/proc/{of}/fd")).output().expect("ls starts");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn programs_that_a_rank_starts_do_not_inherit_its_socket() {
    let socket = inheritable();
    let inode = nix::sys::stat::fstat(&socket).expect("an open socket").st_ino;
    let settings = Settings { socket: Some(socket.into()), ..rig::small() };
    let dsm = rig::join(settings);
    let name = format!("socket:[{inode}]");
    let ours = descriptors(&std::process::id().to_string(), &mut Command::new("ls"));
    assert!(ours.contains(&name), "the node uses it: {ours}");
    let mut forks = Command::new("ls");
    // SAFETY: does nothing; with such a step the standard library forks and executes, and spawns in no other way.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut forks, || Ok(())) };
    for mut command in [Command::new("ls"), forks] {
        let theirs = descriptors("self", &mut command);
        assert!(theirs.contains("/dev/null") || theirs.contains("pipe:"), "it lists its own: {theirs}");
        assert!(!theirs.contains(&name), "{theirs}");
    }
    dsm.leave().unwrap();
}

#[test]
fn a_socket_that_settings_pass_on_is_taken_by_one_node() {
    let settings = Settings { socket: Some(inheritable().into()), ..rig::small() };
    let dsm = rig::join(settings.clone());
    let again = pagemesh::Dsm::builder().settings(settings).arena_anywhere().join();
    let error = again.err().expect("a refusal").to_string();
    assert!(error.contains("taken by another node"), "{error}");
    dsm.leave().unwrap();
}

/// In such a thread the kernel would end the process at the first fault.
#[test]
fn a_thread_that_blocks_the_signals_of_page_faults_can_neither_join_nor_allocate() {
    let rig = Rig::without_daemons(1);
    let dsm = rig::join(rig.rank(rig::new_program(), 0, None));
    let refused = |result: pagemesh::Result<()>, name: &str| {
        let error = result.expect_err("it would die at its first access").to_string();
        assert!(error.contains(name) && error.contains("unblock"), "{error}");
    };
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| {
            for (signal, name) in [(Signal::SIGBUS, "SIGBUS"), (Signal::SIGSEGV, "SIGSEGV")] {
                let mask = SigSet::from(signal);
                mask.thread_block().unwrap();
                refused(dsm.alloc::<u64>("data", 512).map(drop), name);
                refused(dsm.attach::<u64>("data").map(drop), name);
                let settings = rig.rank(rig::new_program(), 0, None);
                refused(Dsm::builder().settings(settings).arena_anywhere().join().map(drop), name);
                let found = pagemesh::fault::doctor(0x2000_0000_0000, 1 << 28);
                let bad = found.iter().find(|check| check.name == "signal mask").expect("it looks");
                assert!(bad.health == Health::Bad && bad.found.contains(name), "{bad:?}");
                mask.thread_unblock().unwrap();
            }
            dsm.alloc::<u64>("data", 512).unwrap().set(0, 1);
        });
        blocked.join().unwrap();
    });
    dsm.leave().unwrap();
}

#[test]
fn a_forked_child_can_neither_read_shared_memory_nor_leave_for_its_parent() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, daemons.first().map(Node::local_addr));
    let mut child = Child::start("forker", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    data.set(0, 3);
    dsm.barrier().unwrap();
    // The other rank forks now, and both of its children end.
    dsm.barrier().unwrap();
    assert_eq!(data.get(1), 4);
    dsm.leave().unwrap();
    let (status, errors) = child.end_within(Duration::from_secs(20));
    assert!(status.success(), "{errors}");
    assert!(errors.contains("forked"), "{errors}");
    rig::stop(daemons);
}

/// Forks twice: one child touches shared memory, the other exits as programs do.
pub(crate) fn forker(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    dsm.barrier().unwrap();
    assert_eq!(data.get(0), 3);
    let touches = in_fork(|| data.get(0));
    assert!(matches!(touches, WaitStatus::Signaled(..)), "{touches:?}");
    let exits = in_fork(|| {
        // SAFETY: ends the process, exit handlers included.
        unsafe { libc::exit(7) }
    });
    assert!(matches!(exits, WaitStatus::Exited(_, 7)), "{exits:?}");
    data.set(1, 4);
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
}

fn in_fork<T>(work: impl FnOnce() -> T) -> WaitStatus {
    // SAFETY: the child touches memory, writes a line or exits, and nothing else.
    match unsafe { fork() }.expect("forks") {
        ForkResult::Child => {
            work();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => waitpid(child, None).expect("a child of ours"),
    }
}

#[test]
fn a_signal_handler_that_faults_in_the_middle_of_a_wait_does_not_stop_it() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, daemons.first().map(Node::local_addr));
    let mut child = Child::start("interrupted", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    data.set(0, 6);
    let guard = mutex.lock().unwrap();
    dsm.barrier().unwrap();
    let before = daemons[0].status().net.messages_in;
    child.tell("lock");
    until("the other rank asks for the lock", || daemons[0].status().net.messages_in > before);
    child.tell("interrupt");
    child.expect("interrupted");
    drop(guard);
    child.expect("locked");
    child.expect("handled 6");
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
    let (status, errors) = child.end_within(Duration::from_secs(20));
    assert!(status.success(), "{errors}");
    rig::stop(daemons);
}

static WORD: AtomicPtr<u64> = AtomicPtr::new(std::ptr::null_mut());
static HANDLED: AtomicU64 = AtomicU64::new(0);
static DATA: OnceLock<SharedSlice<u64>> = OnceLock::new();

extern "C" fn on_user_signal(_: i32) {
    // SAFETY: a word of a region that lives as long as the process.
    let word = unsafe { AtomicU64::from_ptr(WORD.load(Ordering::Relaxed)) };
    HANDLED.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// Waits for a lock in one thread, which another one interrupts.
pub(crate) fn interrupted(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    WORD.store(data.as_mut_ptr(), Ordering::Relaxed);
    DATA.get_or_init(|| data);
    let action = SigAction::new(SigHandler::Handler(on_user_signal), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only loads a word of shared memory, which the library allows.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("a handler");
    dsm.barrier().unwrap();
    listen();
    let waits = std::thread::spawn(move || {
        drop(mutex.lock().unwrap());
        say("locked");
    });
    listen();
    let thread = std::os::unix::thread::JoinHandleExt::as_pthread_t(&waits);
    // SAFETY: the thread has not been joined yet.
    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
    say("interrupted");
    waits.join().expect("no panic");
    until("the handler has run", || HANDLED.load(Ordering::Relaxed) > 0);
    say(&format!("handled {}", HANDLED.load(Ordering::Relaxed)));
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
    std::process::exit(0);
}
