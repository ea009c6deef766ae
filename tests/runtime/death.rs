//! A node that dies while others wait: everybody affected learns who it was, soon, and nobody hangs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pagemesh::admin::Admin;
use pagemesh::{Dsm, Error, Node, NodeId, Placement, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// The published bound.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// Exit code of a process whose memory is gone.
const MEMORY_GONE: i32 = 70;

/// Nodes that keep no memory of each other: what a process had is lost with it.
fn keeping_nothing(rig: Rig) -> Rig {
    rig.set("keep_max", "0")
}

/// Owns a page, and tells.
pub(crate) fn owner(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    data.set(0, 5);
    // The home has heard that the page came: it answers this question later.
    drop(dsm.mutex::<u64>("after").unwrap().lock().unwrap());
    say("owns");
    listen();
}

/// Reads a page when told to, and says so just before.
pub(crate) fn reader(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    say("ready");
    listen();
    say("reads");
    say(&format!("read {}", data.get(0)));
    listen();
}

/// Takes a lock and keeps it.
pub(crate) fn locker(settings: Settings) {
    let dsm = child::join(settings);
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    let _guard = mutex.lock().unwrap();
    say("locked");
    listen();
}

/// Only joins.
pub(crate) fn joiner(settings: Settings) {
    say("joins");
    let _dsm = child::join(settings);
    say("joined");
    listen();
}

/// The result of something that runs in another thread, and how long after `since` it came.
struct Running<T>(mpsc::Receiver<T>);

impl<T: Send + 'static> Running<T> {
    fn start(work: impl FnOnce() -> T + Send + 'static) -> Running<T> {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            // The test may have failed already.
            let _ = sender.send(work());
        });
        Running(receiver)
    }

    fn end_in_time(&self) -> T {
        self.end_within(TOLD_WITHIN)
    }

    fn end_within(&self, longest: Duration) -> T {
        self.0.recv_timeout(longest).expect("everybody is told in time")
    }
}

#[track_caller]
fn assert_names<T>(result: Result<T, Error>, name: &str) {
    match result {
        Err(Error::NodeDied { name: who, .. }) => assert!(who.contains(name), "{who} is not {name}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the death went unnoticed"),
    }
}

/// A daemon, rank 0 of a program of two in this process, and rank 1 as a child.
struct Pair {
    daemons: Vec<Node>,
    dsm: Dsm,
    child: Child,
}

fn pair(role: &'static str) -> Pair {
    pair_of(&Rig::with_daemons(1, 2), role)
}

fn pair_of(rig: &Rig, role: &'static str) -> Pair {
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemons[0].local_addr()));
    let child = Child::start(role, &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    Pair { daemons, dsm, child }
}

/// Waits until a question has come to the daemon since `before`; what it depends on is stopped.
fn until_it_has_asked(daemon: &Node, before: u64) {
    until("the question reaches the daemon", || daemon.status().net.messages_in > before);
}

#[test]
fn a_lock_wait_ends_when_the_holder_dies() {
    let Pair { daemons, dsm, child } = pair("locker");
    child.expect("locked");
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    let before = daemons[0].status().net.messages_in;
    let waits = Running::start(move || mutex.lock().map(|guard| *guard));
    until_it_has_asked(&daemons[0], before);
    child.signal(Signal::SIGKILL);
    assert_names(waits.end_in_time(), "rank 1");
    assert_names(dsm.barrier(), "rank 1");
    rig::stop(daemons);
}

#[test]
fn a_barrier_wait_ends_when_a_member_dies() {
    let Pair { daemons, dsm, child } = pair("joiner");
    child.expect("joins");
    child.expect("joined");
    let dsm = Arc::new(dsm);
    let waits = Running::start({
        let dsm = Arc::clone(&dsm);
        move || dsm.barrier()
    });
    until("the rank waits", || dsm.status().waits.barriers.open == 1);
    child.signal(Signal::SIGKILL);
    assert_names(waits.end_in_time(), "rank 1");
    rig::stop(daemons);
}

/// The daemon keeps the pages: nobody needs the rank that does not run.
#[test]
fn an_allocation_ends_while_a_rank_that_keeps_no_pages_is_stopped() {
    let Pair { daemons, dsm, child } = pair("joiner");
    child.expect("joins");
    child.expect("joined");
    child.stop();
    let dsm = Running::start(move || {
        let data = dsm.alloc::<u64>("data", 100).expect("a region");
        data.fill(7);
        assert!(data.iter().all(|value| value == 7));
        dsm
    });
    let dsm = dsm.end_in_time();
    child.signal(Signal::SIGKILL);
    assert_names(dsm.barrier(), "rank 1");
    rig::stop(daemons);
}

#[test]
fn a_join_ends_when_another_rank_dies_that_waits_too() {
    let rig = Rig::with_daemons(1, 3);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemons[0].local_addr()));
    let child = Child::start("joiner", &rig.rank(program, 1, join));
    let settings = rig.rank(program, 0, join);
    let waits = Running::start(move || Dsm::builder().settings(settings).arena_anywhere().join().map(drop));
    until("both have joined", || daemons[0].status().peers.len() == 2);
    child.signal(Signal::SIGKILL);
    assert_names(waits.end_in_time(), "rank 1");
    rig::stop(daemons);
}

/// A child reads a page whose owner is stopped, then killed; gives the daemons and the child.
fn owner_dies_during_a_fault(rig: &Rig) -> (Vec<Node>, Child) {
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemons[0].local_addr()));
    let owner = Child::start("owner", &rig.rank(program, 1, join));
    let mut reader = Child::start("reader", &rig.rank(program, 0, join));
    owner.expect("owns");
    reader.expect("ready");
    owner.stop();
    let before = daemons[0].status().faults_served;
    reader.tell("read");
    reader.expect("reads");
    until("the fault reaches the home", || daemons[0].status().faults_served > before);
    owner.signal(Signal::SIGKILL);
    (daemons, reader)
}

fn page_goes_with_its_owner(backend: &str) {
    let rig = keeping_nothing(Rig::with_daemons(1, 2).set("fault", backend));
    let (daemons, mut reader) = owner_dies_during_a_fault(&rig);
    let (status, errors) = reader.end_within(TOLD_WITHIN);
    assert_eq!(status.code(), Some(MEMORY_GONE), "{errors}");
    assert!(errors.contains("rank 1") && errors.contains("died"), "{errors}");
    assert!(daemons[0].status().lost_page_count == 1);
    rig::stop(daemons);
}

#[test]
fn a_fault_wait_ends_when_the_owner_dies() {
    page_goes_with_its_owner("signal");
}

#[test]
fn a_fault_wait_through_mprotect_ends_when_the_owner_dies() {
    page_goes_with_its_owner("mprotect");
}

#[test]
fn a_fault_wait_in_the_kernel_ends_when_the_owner_dies() {
    if crate::backends::thread_backend_works() {
        page_goes_with_its_owner("thread");
    }
}

/// The reader's program has lost a rank, and ends at its next use of the library or in its next page fault; no page is
/// lost.
#[test]
fn no_page_is_lost_with_an_owner_whose_memory_is_kept() {
    let (daemons, mut reader) = owner_dies_during_a_fault(&Rig::with_daemons(1, 2));
    let (status, errors) = reader.end_within(TOLD_WITHIN);
    assert_eq!(status.code(), Some(MEMORY_GONE), "{errors}");
    until("its pages are with their homes", || daemons[0].status().peers.is_empty());
    assert_eq!(daemons[0].status().lost_page_count, 0);
    rig::stop(daemons);
}

/// Two daemons as children; `dies` is stopped, then killed while a child reads a page with its home there.
fn home_dies_during_a_fault(backend: &str, dies: usize) {
    let rig = keeping_nothing(Rig::with_daemons(2, 1).set("fault", backend));
    let first = Child::start("daemon", &rig.rank(0, 0, None));
    let join = Some(first.line().parse().expect("an address"));
    let second = Child::start("daemon", &rig.rank(0, 1, join));
    second.line();
    let daemons = [first, second];
    let settings = rig.rank(rig::new_program() + 1_000_000, 0, join);
    let settings = Settings { nearest: Some(NodeId(dies as u16)), ..settings };
    let mut reader = Child::start("reader", &settings);
    reader.expect("ready");
    daemons[dies].stop();
    reader.tell("read");
    reader.expect("reads");
    let started = Instant::now();
    daemons[dies].signal(Signal::SIGKILL);
    let (status, errors) = reader.end_within(TOLD_WITHIN);
    assert_eq!(status.code(), Some(MEMORY_GONE), "{errors}");
    assert!(errors.contains(&format!("daemon {dies}")), "{errors}");
    assert!(started.elapsed() < TOLD_WITHIN);
}

#[test]
fn a_fault_wait_ends_when_the_home_dies() {
    home_dies_during_a_fault("signal", 1);
}

#[test]
fn a_fault_wait_ends_when_the_coordinator_dies() {
    home_dies_during_a_fault("signal", 0);
}

#[test]
fn a_fault_wait_in_the_kernel_ends_when_the_coordinator_dies() {
    if crate::backends::thread_backend_works() {
        home_dies_during_a_fault("thread", 0);
    }
}

/// What rank 0 of a program of two waits for while a daemon dies.
#[derive(Clone, Copy)]
enum Wait {
    Lock,
    Barrier,
    Alloc,
    Leave,
}

/// Two daemons as children, of which `dies` is killed while rank 0 of a program of two waits. What only
/// that daemon could end is begun when it is stopped already.
fn daemon_dies(dies: usize, wait: Wait) {
    let rig = keeping_nothing(Rig::with_daemons(2, 2));
    let first = Child::start("daemon", &rig.rank(0, 0, None));
    let join = Some(first.line().parse().expect("an address"));
    let second = Child::start("daemon", &rig.rank(0, 1, join));
    second.line();
    let daemons = [first, second];
    let program = rig::new_program() + 1_000_000;
    let locker = Child::start("locker", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    locker.expect("locked");
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    let data = dsm.alloc_with::<u64>("data", 512, Placement::OnNode(NodeId(dies as u16))).unwrap();
    data.set(0, 1);
    if matches!(wait, Wait::Alloc | Wait::Leave) {
        daemons[dies].stop();
    }
    let (begin, begun) = mpsc::channel();
    let waits = Running::start(move || {
        // The handle moves into the wait; its status cannot be asked meanwhile.
        begin.send(()).expect("the test listens");
        match wait {
            Wait::Lock => mutex.lock().map(drop),
            Wait::Barrier => dsm.barrier(),
            Wait::Alloc => dsm.alloc::<u64>("more", 1).map(drop),
            Wait::Leave => dsm.leave(),
        }
    });
    begun.recv().expect("the thread runs");
    daemons[dies].signal(Signal::SIGKILL);
    assert_names(waits.end_in_time(), &format!("daemon {dies}"));
    drop(locker);
}

#[test]
fn every_wait_ends_when_a_daemon_dies() {
    for dies in [0, 1] {
        for wait in [Wait::Lock, Wait::Barrier, Wait::Alloc, Wait::Leave] {
            daemon_dies(dies, wait);
        }
    }
}

/// Waits until the cluster of a coordinator in another process has so many members.
fn until_there_are(members: usize, coordinator: SocketAddr) {
    let key = rig::small().key_file.expect("the key of small nodes");
    let admin = Admin::connect(coordinator, &key, TOLD_WITHIN).expect("it answers");
    let until = Instant::now() + TOLD_WITHIN;
    while admin.cluster().expect("it answers").members.len() != members {
        assert!(Instant::now() < until, "there are never {members} members");
    }
}

#[test]
fn a_join_that_waits_for_other_ranks_ends_when_a_daemon_dies() {
    for dies in [0, 1] {
        let rig = keeping_nothing(Rig::with_daemons(2, 2));
        let first = Child::start("daemon", &rig.rank(0, 0, None));
        let coordinator = first.line().parse().expect("an address");
        let join = Some(coordinator);
        let second = Child::start("daemon", &rig.rank(0, 1, join));
        second.line();
        let daemons = [first, second];
        let settings = rig.rank(rig::new_program() + 1_000_000, 0, join);
        let waits =
            Running::start(move || Dsm::builder().settings(settings).arena_anywhere().join().map(drop));
        until_there_are(3, coordinator);
        daemons[dies].signal(Signal::SIGKILL);
        assert_names(waits.end_in_time(), &format!("daemon {dies}"));
    }
}

#[test]
fn ranks_without_daemons_leave_together_or_learn_who_died() {
    let rig = Rig::without_daemons(2);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (program, join) = (rig::new_program() + 1_000_000, socket.local_addr().ok());
    let child = Child::start("joiner", &rig.rank(program, 1, join));
    let mut settings = rig.rank(program, 0, None);
    settings.socket = Some(socket.into());
    let dsm = rig::join(settings);
    child.expect("joins");
    child.expect("joined");
    child.stop();
    let waits = Running::start(move || dsm.leave());
    child.signal(Signal::SIGKILL);
    assert_names(waits.end_in_time(), "rank 1");
}

#[test]
fn a_silent_node_is_declared_dead_and_named() {
    // A process of this host, whose end the kernel would report, has half a minute otherwise.
    let rig = Rig::with_daemons(1, 2).set("silence_max_ms", "3000");
    let Pair { daemons, dsm, child } = pair_of(&rig, "joiner");
    child.expect("joins");
    child.expect("joined");
    let waits = Running::start(move || dsm.barrier());
    child.stop();
    // Three seconds of silence and two to answer, longer where the listeners themselves are kept from running.
    assert_names(waits.end_within(2 * TOLD_WITHIN), "rank 1");
    rig::stop(daemons);
}

#[test]
fn daemons_and_other_programs_survive_a_dead_rank() {
    let Pair { daemons, dsm, child } = pair("locker");
    child.expect("locked");
    let victim = child.pid();
    let rig = Rig::with_daemons(1, 2);
    let join = daemons.first().map(Node::local_addr);
    let results = rig.run_program(join, move |other| {
        let data = other.alloc::<u64>("other", 512).unwrap();
        other.barrier().unwrap();
        if other.is_root() {
            nix::sys::signal::kill(victim, Signal::SIGKILL).unwrap();
            until("the death is known", || dsm.barrier().is_err());
        }
        other.barrier().unwrap();
        data.set(other.rank() as usize, 7);
        other.barrier().unwrap();
        let sum = data.get(0) + data.get(1);
        other.leave().unwrap();
        sum
    });
    assert_eq!(results, [14, 14]);
    rig::stop(daemons);
}
