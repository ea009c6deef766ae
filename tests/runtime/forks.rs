//! A forked child inherits every handle of its parent and none of the threads behind them. Whatever it
//! does with them, it ends in time, and its parent is a member as before.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, alarm, fork};
use pagemesh::client::Client;
use pagemesh::node::status::NodeStatus;
use pagemesh::rpc::{Channel, Policy};
use pagemesh::{Dsm, DsmMutex, Node, NodeId, Settings, SharedSlice, Stats};

use crate::child::{Child, listen};
use crate::counting::{CounterCalls, CounterClient, CounterServer, Counting};
use system_tests::rig::{self, Rig};

/// Forks one after the other in each test.
const ROUNDS: u64 = 20;
/// Elements of a page.
const PAGE: usize = 512;
/// Seconds after which the kernel ends a child that hangs.
const CHILD_MAX_S: u32 = 15;
/// What every refusal says.
const CAUSE: &str = "this process was forked";

/// What a member holds when it forks.
struct Handles {
    dsm: Dsm,
    data: SharedSlice<u64>,
    mutex: DsmMutex<u64>,
    channel: Channel,
}

/// Runs `work` in a forked child, which ends with the code that it returns.
fn in_fork(work: impl FnOnce() -> i32) -> WaitStatus {
    // SAFETY: the children of these tests do what programs do in a forked child, and end themselves.
    match unsafe { fork() }.expect("forks") {
        ForkResult::Child => {
            alarm::set(CHILD_MAX_S);
            let code = catch_unwind(AssertUnwindSafe(work)).unwrap_or(101);
            // SAFETY: ends the process, exit handlers included.
            unsafe { libc::exit(code) }
        }
        ForkResult::Parent { child } => waitpid(child, None).expect("a child of ours"),
    }
}

/// A rank in a process of its own forks `ROUNDS` times and works as a member after each; this process is
/// the other rank.
fn forks_and_goes_on(kind: &str) {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    daemons[0].serve(CounterServer(Counting::default()), 64).unwrap();
    let (program, join) = (rig::new_program() + 1_000_000, daemons.first().map(Node::local_addr));
    let mut child = Child::start("member_that_forks", &rig.rank(program, 1, join));
    child.tell(kind);
    let dsm = rig::join(rig.rank(program, 0, join));
    let data = dsm.alloc::<u64>("data", PAGE * ROUNDS as usize).unwrap();
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    dsm.barrier().unwrap();
    // The other rank forks now.
    dsm.barrier().unwrap();
    assert_eq!(*mutex.lock().unwrap(), ROUNDS);
    assert!((0..ROUNDS).all(|round| data.get(PAGE * round as usize) == round + 1));
    dsm.leave().unwrap();
    let (status, errors) = child.end_within(Duration::from_secs(60));
    assert!(status.success(), "{errors}");
    rig::stop(daemons);
}

#[test]
fn a_forked_child_drops_its_handles_and_its_parent_stays_a_member() {
    forks_and_goes_on("drop");
}

#[test]
fn a_forked_child_exits_with_its_handles_and_its_parent_stays_a_member() {
    forks_and_goes_on("exit");
}

#[test]
fn a_forked_child_panics_and_its_parent_stays_a_member() {
    forks_and_goes_on("panic");
}

#[test]
fn every_call_of_a_forked_child_says_that_only_its_parent_is_a_member() {
    forks_and_goes_on("call");
}

#[test]
fn a_forked_child_that_touches_shared_memory_dies_and_its_parent_stays_a_member() {
    forks_and_goes_on("touch");
}

/// The rank that forks; what its children do comes in a line.
pub(crate) fn member_that_forks(settings: Settings) {
    let kind = listen();
    // Where programs have it: what a child maps must not land where its parent's memory is.
    let dsm = Dsm::builder().settings(settings.clone()).join().unwrap();
    let data = dsm.alloc::<u64>("data", PAGE * ROUNDS as usize).unwrap();
    let mutex = dsm.mutex::<u64>("mutex").unwrap();
    let channel = dsm.channel(Policy::RoundRobin);
    dsm.wait_for_server("Counter", Duration::from_secs(20)).unwrap();
    let held = dsm.mutex::<u64>("held").unwrap();
    dsm.barrier().unwrap();
    let counter = CounterClient::new(channel.clone());
    let mut handles = Some(Handles { dsm, data, mutex, channel });
    for round in 0..ROUNDS {
        fork_once(&kind, &settings, &mut handles, &held);
        let handles = handles.as_ref().expect("only children drop them");
        handles.data.set(PAGE * round as usize, round + 1);
        *handles.mutex.lock().unwrap() += 1;
        assert_eq!(counter.echo(&[7]).unwrap(), [7]);
        assert!(counter.count(10).all(|item| item.is_ok()));
    }
    let Handles { dsm, .. } = handles.take().expect("only children drop them");
    assert_eq!(*held.lock().unwrap(), ROUNDS);
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
}

/// Forks while a call is on its way and a lock is held, both of which must stay the parent's.
fn fork_once(kind: &str, settings: &Settings, handles: &mut Option<Handles>, held: &DsmMutex<u64>) {
    let parent = handles.as_ref().expect("only children drop them");
    let id = parent.dsm.node_id();
    let mut data = Some(parent.data.clone());
    let mut call = Some(CounterCalls::new(parent.channel.clone()).dig(1));
    let mut guard = Some(held.lock().unwrap());
    **guard.as_mut().expect("just taken") += 1;
    let status = in_fork(|| match kind {
        "drop" => {
            drop((guard.take(), call.take(), data.take(), handles.take()));
            3
        }
        "exit" => 3,
        "panic" => {
            let _dropped_by_unwinding = (guard.take(), call.take(), data.take(), handles.take());
            panic!("the child's own panic");
        }
        "call" => {
            let mut call = call.take().expect("the parent's");
            refused(call.try_take().expect("an answer at once"));
            drop(call);
            every_call_fails(handles.take().expect("the parent's"), id);
            // Alone, so that it would wait for nobody.
            let alone = Settings { rank: 0, ranks: 1, join: None, ..settings.clone() };
            refused(Dsm::builder().settings(alone).arena_anywhere().join());
            3
        }
        "touch" => {
            let data = data.take().expect("the parent's");
            map_at(data.as_mut_ptr().addr());
            data.get(0) as i32
        }
        other => panic!("no such kind: {other}"),
    });
    match (kind, status) {
        ("touch", WaitStatus::Signaled(_, Signal::SIGSEGV, _)) => {}
        ("panic", WaitStatus::Exited(_, 101)) => {}
        ("drop" | "exit" | "call", WaitStatus::Exited(_, 3)) => {}
        _ => panic!("the child that was to {kind} ended with {status:?}"),
    }
    drop(guard);
    assert_eq!(call.expect("only children take it").wait().unwrap(), 1);
}

/// Maps memory that can be read, there if nothing is in the way.
fn map_at(address: usize) {
    let len = NonZeroUsize::new(4096).expect("not zero");
    let (access, flags) = (ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE);
    // SAFETY: without MAP_FIXED it replaces nothing.
    let mapped = unsafe { mmap_anonymous(NonZeroUsize::new(address), len, access, flags) };
    assert_ne!(mapped.expect("a mapping").as_ptr().addr(), address, "handles of the parent lead there");
}

fn refused<T>(result: Result<T, impl std::fmt::Display>) {
    let error = result.err().expect("a child is no member").to_string();
    assert!(error.contains(CAUSE), "{error}");
}

fn every_call_fails(handles: Handles, parents_id: NodeId) {
    let Handles { dsm, data, mutex, channel } = handles;
    refused(dsm.barrier());
    refused(dsm.alloc::<u64>("other", 1));
    refused(dsm.attach::<u64>("data"));
    refused(dsm.remove("data"));
    refused(dsm.mutex::<u64>("mutex"));
    refused(mutex.lock());
    refused(mutex.try_lock());
    refused(mutex.lock_timeout(Duration::from_secs(60)));
    refused(data.copy_out(0, &mut [0; 4]));
    refused(data.copy_in(0, &[0; 4]));
    refused(dsm.globals().open(data.global()));
    refused(dsm.serve(CounterServer(Counting::default()), 1));
    refused(dsm.wait_for_server("Counter", Duration::from_secs(60)));
    refused(dsm.channel_to(NodeId(0)));
    let counter = CounterClient::new(channel.clone());
    refused(counter.read());
    refused(counter.note(1));
    refused(counter.count(1).next().expect("an error"));
    assert_eq!(CounterCalls::new(channel.clone()).read().progress().map(|_| ()), None);
    drop(dsm.calls().batch());
    assert!(channel.each("Counter").is_empty());
    // Hints.
    data.prefetch(0..data.len());
    data.prefetch_mut(0..data.len());
    refused(dsm.all_reduce(1_u64, u64::max));
    refused(dsm.reduce(1_u64, u64::max));
    refused(dsm.broadcast(0, 1_u64));
    refused(dsm.barrier_timeout(Duration::from_secs(60)));
    // What has no error to return tells what stays true in a child, and else nothing.
    let id = dsm.node_id();
    assert_eq!((id, dsm.rank(), dsm.ranks()), (parents_id, 1, 2));
    assert_eq!(dsm.status(), NodeStatus { id: Some(id), ..NodeStatus::default() });
    assert_eq!(dsm.stats(), Stats::default());
    assert_eq!((dsm.ranks_on_this_host(), dsm.peer(id)), (vec![], None));
    assert!(dsm.calls().statistics().is_empty());
    refused(dsm.leave());
}

#[test]
fn a_forked_child_of_a_client_can_neither_call_nor_end_its_session() {
    let rig = Rig::with_daemons(1, 0);
    let daemons = rig.start_daemons();
    daemons[0].serve(CounterServer(Counting::default()), 64).unwrap();
    let mut child = Child::start("client_that_forks", &rig.settings);
    child.tell(&daemons[0].local_addr().to_string());
    let (status, errors) = child.end_within(Duration::from_secs(60));
    assert!(status.success(), "{errors}");
    rig::stop(daemons);
}

/// A client that forks while a thread of its own receives.
pub(crate) fn client_that_forks(_: Settings) {
    let addr: SocketAddr = listen().parse().expect("an address");
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let client = Client::new(rig::key(), anywhere, None).expect("a client");
    let peer = client.connect(NodeId(0), addr, Duration::from_secs(20)).unwrap();
    let channel = client.channel_to(peer);
    // A future starts the thread that receives.
    let first = pollster::block_on(CounterCalls::new(channel.clone()).read());
    assert_eq!(first.unwrap(), 0);
    let mut client = Some(client);
    for _ in 0..ROUNDS {
        let mut call = Some(CounterCalls::new(channel.clone()).dig(1));
        let status = in_fork(|| {
            let client = client.take().expect("the parent's");
            refused(client.connect(NodeId(0), addr, Duration::from_secs(60)));
            refused(client.reconnect(peer));
            refused(CounterClient::new(channel.clone()).read());
            refused(call.take().expect("the parent's").wait());
            drop(client);
            3
        });
        assert!(matches!(status, WaitStatus::Exited(_, 3)), "{status:?}");
        assert_eq!(call.expect("only children take it").wait().unwrap(), 1);
        assert_eq!(CounterClient::new(channel.clone()).read().unwrap(), 0);
    }
}
