//! Signals that end a rank: its pages outlive it where they can, and a line says what is lost where not.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};
use pagemesh::membership::ElementType;
use pagemesh::{Node, NodeConfig, NodeId, Placement, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// Pages of the region that the tests write.
const PAGES: usize = 100;
/// No child takes as long to end, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A rank of a program of its own that has written the region `some data`.
fn writer(rig: &Rig, coordinator: std::net::SocketAddr) -> Child {
    let child = Child::start("writer", &rig.rank(rig::new_program() + 1_000_000, 0, Some(coordinator)));
    child.expect("wrote");
    child
}

/// Writes, then waits for its end.
pub(crate) fn write_and_wait(settings: Settings) {
    // A test that runs in the background may have these ignored, and a child inherits that.
    for number in [Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the default action is no handler that could do anything.
        unsafe { signal(number, SigHandler::SigDfl) }.expect("a valid signal");
    }
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("some data", 512 * PAGES).unwrap();
    for page in 0..PAGES {
        data.set(512 * page, page as u64 + 7);
    }
    say("wrote");
    listen();
}

#[test]
fn a_rank_that_a_signal_ends_writes_its_pages_back() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let rig = Rig::with_daemons(2, 1);
        let daemons = rig.start_daemons();
        let join = daemons[0].local_addr();
        let mut child = writer(&rig, join);
        child.signal(signal);
        let (status, errors) = child.end_within(LIMIT);
        assert_eq!(status.signal(), Some(signal as i32), "the signal's usual status: {status:?} {errors}");
        assert!(!errors.contains("pagemesh"), "nothing is lost, nothing is said: {errors}");
        rig.run_program(Some(join), |dsm| {
            let data = dsm.attach::<u64>("some data").unwrap();
            assert!((0..PAGES).all(|page| data.get(512 * page) == page as u64 + 7));
            dsm.leave().unwrap();
        });
        assert!(daemons.iter().all(|daemon| daemon.status().lost_page_count == 0));
        rig::stop(daemons);
    }
}

/// A daemon that is a process of its own, and its address.
fn daemon_apart(rig: &Rig) -> (Child, std::net::SocketAddr) {
    let daemon = Child::start("daemon", &rig.rank(0, 0, None));
    let addr = daemon.line().parse().expect("an address");
    (daemon, addr)
}

#[test]
fn pages_that_no_home_takes_are_counted_in_one_line() {
    let rig = Rig::with_daemons(1, 1);
    let (daemon, join) = daemon_apart(&rig);
    let mut child = writer(&rig, join);
    daemon.stop();
    child.signal(Signal::SIGINT);
    let (status, errors) = child.end_within(LIMIT);
    assert_eq!(status.code(), Some(70), "{errors}");
    let lines: Vec<&str> = errors.lines().filter(|line| line.starts_with("pagemesh: ")).collect();
    assert_eq!(lines.len(), 1, "{errors}");
    assert!(lines[0].starts_with("pagemesh: rank 0 of runtime"), "{errors}");
    assert!(lines[0].contains("100 pages could not be written back and are lost: "), "{errors}");
}

#[test]
fn a_second_signal_ends_a_rank_at_once() {
    let rig = Rig::with_daemons(1, 1);
    let (daemon, join) = daemon_apart(&rig);
    let mut child = writer(&rig, join);
    daemon.stop();
    child.signal(Signal::SIGINT);
    until("the first signal is handled", || !has_handler(child.pid().as_raw(), Signal::SIGTERM));
    child.signal(Signal::SIGTERM);
    let (status, errors) = child.end_within(LIMIT);
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32), "{status:?} {errors}");
}

/// Has a page whose home is rank 0, and leaves: without daemons that waits for all ranks.
pub(crate) fn leave_early(settings: Settings) {
    // SAFETY: the default action is no handler that could do anything.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }.expect("a valid signal");
    let node = Node::start(NodeConfig { arena_base: None, ..NodeConfig::rank(settings) }).expect("joins");
    let region = node.alloc("data", 4096, ElementType::untagged(1), Some(Placement::OnNode(NodeId(0))));
    let start = region.expect("a region").info.start.start();
    let data = node.pointer(start).expect("a view");
    // SAFETY: a byte of the region, which no other rank touches.
    unsafe { data.write(7) };
    std::thread::scope(|scope| {
        scope.spawn(|| node.leave());
        until("it waits for the other rank", || node.status().waits.barriers.open == 1);
        say("leaves");
        listen();
    });
}

/// The memory goes with the rank: there is no home to which it could write anything back.
#[test]
fn a_rank_without_daemons_that_a_signal_ends_while_it_leaves_ends_at_once() {
    let rig = Rig::without_daemons(2);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let addr = socket.local_addr().expect("an address");
    let program = rig::new_program() + 1_000_000;
    let mut child = Child::start("leaves early", &rig.rank(program, 1, Some(addr)));
    let first = Settings { socket: Some(socket.into()), ..rig.rank(program, 0, None) };
    let dsm = rig::join(first);
    child.expect("leaves");
    child.signal(Signal::SIGINT);
    let (status, errors) = child.end_within(LIMIT);
    assert_eq!(status.signal(), Some(Signal::SIGINT as i32), "{status:?} {errors}");
    assert!(!errors.contains("pagemesh"), "nothing is said: {errors}");
    drop(dsm);
}

/// Whether a process has a handler for a signal.
fn has_handler(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    let caught = u64::from_str_radix(caught.trim(), 16).expect("a mask");
    caught >> (signal as i32 - 1) & 1 == 1
}

static HANDLED: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_terminate(number: i32) {
    HANDLED.store(number, Ordering::Release);
}

/// Has a handler of its own for SIGTERM, and ignores SIGINT.
pub(crate) fn handle_signals(settings: Settings) {
    let action = SigAction::new(SigHandler::Handler(on_terminate), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only stores a number.
    unsafe { sigaction(Signal::SIGTERM, &action) }.expect("a handler");
    // SAFETY: there is no handler that could do anything.
    unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.expect("a valid signal");
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512).unwrap();
    say("joined");
    listen();
    until("the handler has run", || HANDLED.load(Ordering::Acquire) == libc::SIGTERM);
    data.set(0, 5);
    dsm.leave().unwrap();
    std::process::exit(3);
}

#[test]
fn a_programs_own_handlers_stay() {
    let rig = Rig::with_daemons(1, 1);
    let daemons = rig.start_daemons();
    let settings = rig.rank(rig::new_program() + 1_000_000, 0, daemons.first().map(Node::local_addr));
    let mut child = Child::start("handles signals", &settings);
    child.expect("joined");
    child.signal(Signal::SIGINT);
    child.signal(Signal::SIGTERM);
    child.tell("go on");
    let (status, errors) = child.end_within(LIMIT);
    assert_eq!(status.code(), Some(3), "{status:?} {errors}");
    rig::stop(daemons);
}

/// Reads a page of the region `some data`.
pub(crate) fn read_lost_page(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.attach::<u64>("some data").unwrap();
    say(&format!("read {}", data.get(512 * (PAGES - 1))));
    dsm.leave().unwrap();
}

/// The next program's rank gets the dead one's node id, so that a name looked up by the id is its own.
#[test]
fn a_lost_page_names_the_dead_process_and_the_way_out() {
    for nodes in [1, 2] {
        // Nobody keeps the memory of another one.
        let rig = Rig::with_daemons(nodes, 1).set("keep_max", "0");
        let daemons = rig.start_daemons();
        let join = daemons[0].local_addr();
        let mut dead = writer(&rig, join);
        dead.signal(Signal::SIGKILL);
        dead.end_within(LIMIT);
        let lost = || daemons.iter().map(|daemon| daemon.status().lost_page_count).sum::<u64>();
        until("the death is known", || lost() == PAGES as u64);
        let settings = rig.rank(rig::new_program() + 1_000_000, 0, Some(join));
        let mut reader = Child::start("reads a lost page", &settings);
        let (status, errors) = reader.end_within(LIMIT);
        assert_eq!(status.code(), Some(70), "{errors}");
        let said =
            |text: &str| errors.lines().any(|line| line.starts_with("pagemesh: ") && line.contains(text));
        assert!(said("lost with rank 0 of runtime"), "{errors}");
        assert!(said(&format!("process {} at", dead.pid())), "{errors}");
        assert!(!said(&format!("process {} at", reader.pid())), "it accuses the living: {errors}");
        assert!(said("`pagemesh regions rm 'some data'`"), "{errors}");
        rig::stop(daemons);
    }
}
