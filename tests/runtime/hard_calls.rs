//! What calls promise when servers die, when they take long, and when there are too many.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use pagemesh::rpc::{Call, Channel, ErrorKind, Policy};
use pagemesh::{Node, NodeConfig, NodeId, Settings};

use crate::child::{self, Child, listen, say};
use crate::counting::{CounterCalls, CounterServer, Counting};
use system_tests::rig::{self, Rig, stop, until};

/// A daemon that founds a cluster, counts, and tells how much memory it uses.
pub(crate) fn server(settings: Settings) {
    let node = Node::start(NodeConfig::daemon(settings, 0)).expect("a daemon starts");
    node.serve(CounterServer(Counting::default()), 64).expect("it is the coordinator");
    say(&node.local_addr().to_string());
    while listen() == "memory" {
        say(&child::resident_kib().to_string());
    }
}

/// A rank that is a program of its own and serves the interface.
pub(crate) fn caller(settings: Settings) {
    let dsm = child::join(settings);
    dsm.serve(CounterServer(Counting::new(&dsm)), 64).expect("the coordinator is told");
    say("serves");
    listen();
}

#[test]
fn the_death_of_a_server_ends_its_calls_at_once_and_says_that_they_may_have_run() {
    let rig = Rig::with_daemons(1, 1);
    let daemons = rig.start_daemons();
    let join = Some(daemons[0].local_addr());
    let child = Child::start("caller", &rig.rank(1_000_001, 0, join));
    child.expect("serves");
    let server = child.pid();
    rig.run_program(join, move |dsm| {
        let calls = CounterCalls::new(dsm.channel(Policy::RoundRobin));
        assert_eq!(calls.add(1).wait().unwrap(), 1);
        let held = calls.hold();
        // The server has taken it: it answers what came later.
        assert_eq!(calls.add(1).wait().unwrap(), 2);
        let killed = Instant::now();
        kill(server, Signal::SIGKILL).unwrap();
        let error = held.wait().unwrap_err();
        assert_eq!(error.kind, ErrorKind::ServerDied { may_have_executed: true });
        assert!(killed.elapsed() < Duration::from_secs(5), "known after {:?}", killed.elapsed());
        let later = calls.add(1).wait().unwrap_err();
        assert_eq!(later.kind, ErrorKind::Unreachable { may_have_executed: false });
        dsm.leave().unwrap();
    });
    stop(daemons);
}

#[test]
fn nodes_join_and_serve_though_every_worker_of_the_coordinator_is_held_up() {
    let rig = Rig::with_daemons(1, 0).set("rpc_workers", "1");
    let daemons = rig.start_daemons();
    let counting = Counting::default();
    daemons[0].serve(CounterServer(counting.clone()), 64).unwrap();
    let join = Some(daemons[0].local_addr());
    let me = daemons[0].peer(NodeId(0)).expect("a member");
    let calls = CounterCalls::new(Channel::to(daemons[0].calls(), me));
    let held = calls.hold();
    until("its worker is taken", || counting.state.running.load(Ordering::SeqCst) == 1);
    let waits = calls.add(1);
    let settings = Settings { join, ..rig.settings.clone() };
    let other = Node::start(NodeConfig::daemon(settings, 1)).expect("a daemon joins");
    other.serve(CounterServer(Counting::default()), 64).expect("the coordinator is told");
    assert_eq!(counting.state.running.load(Ordering::SeqCst), 1, "it was held up all the time");
    counting.state.go_on.store(true, Ordering::SeqCst);
    assert_eq!((held.wait(), waits.wait()), (Ok(0), Ok(1)));
    stop(daemons);
}

#[test]
fn a_member_that_does_not_run_keeps_nobody_from_serving() {
    let rig = Rig::with_daemons(1, 1);
    let daemons = rig.start_daemons();
    let mut child = Child::start("caller", &rig.rank(1_000_002, 0, Some(daemons[0].local_addr())));
    child.expect("serves");
    child.stop();
    let served = daemons[0].serve(CounterServer(Counting::default()), 64);
    child.signal(Signal::SIGCONT);
    served.expect("the others know");
    child.tell("end");
    stop(daemons);
}

#[test]
fn a_long_call_that_is_cancelled_stops_within_a_tenth_of_a_second() {
    let rig = Rig::with_daemons(1, 1).set("rpc_workers", "1");
    let daemons = rig.start_daemons();
    let counting = Counting::default();
    daemons[0].serve(CounterServer(counting.clone()), 64).unwrap();
    rig.run_program(Some(daemons[0].local_addr()), move |dsm| {
        let calls = CounterCalls::new(dsm.channel(Policy::RoundRobin));
        let started = Instant::now();
        // A thousand steps of ten milliseconds.
        let call = calls.dig(1000);
        until("a second has passed", || started.elapsed() > Duration::from_secs(1));
        let progress = call.progress().expect("reported every ten milliseconds");
        assert!(progress.total == 1000 && progress.done > 10, "{progress:?}");
        let cancelled = Instant::now();
        drop(call);
        until("the server stops", || counting.state.running.load(Ordering::SeqCst) == 0);
        assert!(cancelled.elapsed() < Duration::from_millis(100), "{:?}", cancelled.elapsed());
        // Its only worker is free again.
        assert_eq!(calls.add(1).wait().unwrap(), 1);
        dsm.leave().unwrap();
    });
    stop(daemons);
}

#[test]
fn a_thousand_callers_at_eight_workers_are_served_or_told_that_it_is_busy() {
    const CALLERS: usize = 1000;
    const LIMIT: usize = 100;
    let rig = Rig::with_daemons(1, 1).set("rpc_workers", "8");
    let daemons = rig.start_daemons();
    let counting = Counting::default();
    daemons[0].serve(CounterServer(counting.clone()), LIMIT).unwrap();
    let address = daemons[0].local_addr();
    rig.run_program(Some(address), move |dsm| {
        let calls = CounterCalls::new(dsm.channel(Policy::RoundRobin));
        // All workers are taken, so that no more than the limit can be waiting.
        let held: Vec<Call<i64>> = (0..8).map(|_| calls.hold()).collect();
        until("all workers are taken", || counting.state.running.load(Ordering::SeqCst) == 8);
        let mut callers: Vec<Option<Call<i64>>> = (0..CALLERS).map(|_| Some(calls.add(1))).collect();
        let mut refused = 0;
        let mut done = 0;
        let give_up = Instant::now() + Duration::from_secs(30);
        while done < CALLERS {
            assert!(Instant::now() < give_up, "{done} of {CALLERS} were served, {refused} refused");
            for caller in &mut callers {
                match caller.as_mut().and_then(Call::try_take) {
                    Some(Ok(_)) => {
                        *caller = None;
                        done += 1;
                    }
                    Some(Err(error)) => {
                        assert_eq!(error.kind, ErrorKind::Busy);
                        refused += 1;
                        *caller = Some(calls.add(1));
                    }
                    None => {}
                }
            }
            if refused >= CALLERS - LIMIT {
                counting.state.go_on.store(true, Ordering::SeqCst);
            }
        }
        assert!(held.into_iter().all(|call| call.wait().is_ok()));
        assert_eq!(counting.state.sum.load(Ordering::SeqCst), CALLERS as i64);
        dsm.leave().unwrap();
    });
    stop(daemons);
}

#[test]
fn the_memory_that_a_thousand_callers_take_is_bounded_however_often_they_call() {
    const CALLERS: usize = 1000;
    const ROUNDS: usize = 20;
    /// Half of what all answers together have.
    const GROWTH_MAX_KIB: u64 = (ROUNDS * CALLERS * 4096 / 1024 / 2) as u64;
    let rig = Rig::with_daemons(1, 1);
    let server = Child::start("server", &Settings { rpc_workers: 8, ..rig::small() });
    let join = server.line().parse().expect("an address");
    let server = Mutex::new(server);
    rig.run_program(Some(join), move |dsm| {
        let calls = CounterCalls::new(dsm.channel(Policy::RoundRobin));
        let data = vec![7; 4096];
        let round = || {
            let mut refused = 0;
            let mut open: Vec<Call<Vec<u8>>> = (0..CALLERS).map(|_| calls.echo(&data)).collect();
            while let Some(call) = open.pop() {
                match call.wait() {
                    Ok(echo) => assert!(echo == data),
                    Err(error) => {
                        assert_eq!(error.kind, ErrorKind::Busy);
                        refused += 1;
                        open.push(calls.echo(&data));
                    }
                }
            }
            refused
        };
        let memory = || {
            let mut server = server.lock().unwrap();
            server.tell("memory");
            server.line().parse::<u64>().expect("KiB")
        };
        let before = memory();
        let refused: usize = (0..ROUNDS).map(|_| round()).sum();
        let after = memory();
        assert!(after <= before + GROWTH_MAX_KIB, "{before} KiB, and later {after} KiB");
        println!("{refused} refused for {} served; {before} KiB, and later {after} KiB", ROUNDS * CALLERS);
        dsm.leave().unwrap();
    });
}
