//! Calls between nodes of one process, over their own sockets.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::Context;
use std::time::Duration;

use pagemesh::page::NodeId;
use pagemesh::rpc::{ErrorKind, Policy};
use pagemesh::{Dsm, Node, Placement};

use crate::counting::{CounterCalls, CounterClient, CounterServer, Counting, OnWake};
use system_tests::rig::{self, Rig, until};

/// Rank 0 serves, the others call; then all leave together.
fn between(rig: &Rig, client: impl Fn(&Dsm, NodeId) + Send + Sync + 'static) {
    rig.run(move |dsm| {
        let ids = dsm.alloc::<u64>("ids", dsm.ranks() as usize).unwrap();
        ids.set(dsm.rank() as usize, u64::from(dsm.node_id().0));
        if dsm.is_root() {
            dsm.serve(CounterServer(Counting::new(&dsm)), 1024).unwrap();
        }
        dsm.barrier().unwrap();
        if !dsm.is_root() {
            client(&dsm, NodeId(ids.get(0) as u16));
        }
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn every_kind_of_call_crosses_from_node_to_node() {
    for rig in [Rig::without_daemons(2), Rig::with_daemons(1, 2)] {
        between(&rig, |dsm, server| {
            let channel = dsm.channel_to(server).unwrap();
            let counter = CounterClient::new(channel.clone());
            assert_eq!(counter.add(2).unwrap(), 2);
            for len in [0, 16, 4096, 300_000] {
                let data: Vec<u8> = (0..len).map(|at| at as u8).collect();
                assert!(counter.echo(&data).unwrap() == data, "{len} bytes");
            }
            let items: Result<Vec<i64>, _> = counter.count(1000).collect();
            assert_eq!(items.unwrap(), (0..1000).collect::<Vec<i64>>());
            counter.note(3).unwrap();
            until("the note arrives", || counter.read().unwrap() == 5);
            assert_eq!(counter.dig(10).unwrap(), 10);

            let calls = CounterCalls::new(channel);
            let batch = dsm.calls().batch();
            let many: Vec<_> = (0..100).map(|_| calls.add(1)).collect();
            drop(batch);
            let mut sums: Vec<i64> = many.into_iter().map(|call| call.wait().unwrap()).collect();
            sums.sort_unstable();
            assert_eq!(sums, (6..=105).collect::<Vec<i64>>());
        });
    }
}

/// No thread waits in the library: its own threads receive the answer, and must not wake the future in a section,
/// where a fault ends the process.
#[test]
fn a_waker_may_touch_shared_memory_and_call() {
    let rig = Rig::with_daemons(1, 1);
    let (daemons, counting) = (rig.start_daemons(), Counting::default());
    daemons[0].serve(CounterServer(counting.clone()), 1024).unwrap();
    let dsm = rig::join(rig.rank(rig::new_program(), 0, daemons.first().map(Node::local_addr)));
    let data = dsm.alloc::<u64>("data", 10_000).unwrap();
    let channel = dsm.channel_to(NodeId(0)).unwrap();
    let mut call = pin!(CounterCalls::new(channel.clone()).hold());
    let (tell, told) = mpsc::channel();
    let second = CounterClient::new(channel);
    let waker = OnWake::new(move || _ = tell.send((data.get(9_999), second.add(7).unwrap()))).into();
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    counting.state.go_on.store(true, Ordering::SeqCst);
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok((0, 7)), "the waker has run");
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    dsm.leave().unwrap();
    rig::stop(daemons);
}

#[test]
fn a_server_works_on_the_pages_that_a_reference_names() {
    between(&Rig::with_daemons(1, 2), |dsm, server| {
        let data = dsm.alloc_with::<i64>("data", 10_000, Placement::FirstTouch).unwrap();
        for index in 0..data.len() {
            data.set(index, index as i64);
        }
        let counter = CounterClient::new(dsm.channel_to(server).unwrap());
        assert_eq!(counter.sum(data.global()).unwrap(), 49_995_000);
        assert_eq!(counter.sum(data.global_range(10..13)).unwrap(), 33);
        let beyond = pagemesh::rpc::Global::new(data.addr(), 10_001, data.global().generation());
        assert!(counter.sum(beyond).unwrap_err().to_string().contains("no region"));
    });
}

/// Three programs: the first makes a region and is gone, the second has opened a reference into it, the third
/// makes a region of its own.
#[test]
fn a_slice_that_was_opened_keeps_its_region_until_it_is_dropped() {
    let rig = Rig::with_daemons(1, 1);
    let daemons = rig.start_daemons();
    let join = || rig::join(rig.rank(rig::new_program(), 0, daemons.first().map(Node::local_addr)));
    let (maker, opener, other) = (join(), join(), join());
    let data = maker.alloc::<u64>("data", 1000).unwrap();
    data.fill(7);
    let global = data.global_range(10..1000);
    let opened = opener.globals().open(global).unwrap();
    let open_another = |name| {
        let global = maker.alloc::<u64>(name, 1000).unwrap().global();
        maker.remove(name).unwrap();
        (name, opener.globals().open(global).unwrap())
    };
    let held = ["first", "second"].map(open_another);
    drop(data);
    maker.remove("data").unwrap();
    maker.leave().unwrap();
    // A use that no handle has is given back after two heartbeats: that time passes twice.
    for (name, slice) in held {
        drop(slice);
        // Of another length: refused as long as the region is there.
        until("another region goes", || other.alloc::<u64>(name, 5).is_ok());
    }
    assert!(other.alloc::<u64>("data", 5).is_err(), "the region has gone, and a slice of it is there");
    let others = other.alloc::<u64>("others", 1000).unwrap();
    others.fill(9);
    assert!(opened.iter().all(|value| value == 7));
    opened.fill(8);
    assert!(others.iter().all(|value| value == 9));
    assert!(opened.slice(100..200).iter().all(|value| value == 8));
    drop(opened);
    until("the region goes", || other.alloc::<u64>("data", 5).is_ok());
    let error = opener.globals().open(global).err().expect("it is gone").to_string();
    assert!(error.contains("its region is gone"), "{error}");
    opener.leave().unwrap();
    other.leave().unwrap();
    rig::stop(daemons);
}

#[test]
fn servers_are_found_by_name_until_they_go() {
    let rig = Rig::with_daemons(2, 1);
    let daemons = rig.start_daemons();
    let countings: Vec<Counting> = daemons.iter().map(|_| Counting::default()).collect();
    for (daemon, counting) in daemons.iter().zip(&countings) {
        daemon.serve(CounterServer(counting.clone()), 64).unwrap();
    }
    let sums = move || countings.iter().map(|c| c.state.sum.load(Ordering::SeqCst)).collect::<Vec<_>>();
    rig.run_program(Some(daemons[0].local_addr()), move |dsm| {
        // In turn.
        let counter = CounterClient::new(dsm.channel(Policy::RoundRobin));
        (0..10).for_each(|_| assert!(counter.add(1).is_ok()));
        assert_eq!(sums(), [5, 5]);

        // Where fewer calls of this node wait: the first has nothing to do, then it has more than the other.
        let calls = CounterCalls::new(dsm.channel(Policy::LeastInFlight));
        let [one, two, three] = [calls.add(10), calls.add(10), calls.add(10)];
        [one, two, three].into_iter().for_each(|call| assert!(call.wait().is_ok()));
        assert_eq!(sums().iter().sum::<i64>(), 40);
        assert!(sums().iter().all(|sum| *sum >= 15), "{:?}", sums());

        // Everybody.
        let each = dsm.channel(Policy::RoundRobin).each("Counter");
        let nodes: Vec<u16> = each.iter().map(|(peer, _)| peer.node.0).collect();
        assert_eq!(nodes, [0, 1]);
        let calls: Vec<_> =
            each.into_iter().map(|(_, channel)| CounterCalls::new(channel).add(100)).collect();
        assert!(calls.into_iter().all(|call| call.wait().is_ok()));
        assert!(sums().iter().all(|sum| *sum >= 115), "{:?}", sums());
        dsm.leave().unwrap();
    });
    rig::stop(daemons);
}

#[test]
fn a_call_goes_to_the_home_of_its_argument() {
    let rig = Rig::with_daemons(1, 3);
    rig.run(|dsm| {
        if !dsm.is_root() {
            dsm.serve(CounterServer(Counting::new(&dsm)), 64).unwrap();
        }
        dsm.barrier().unwrap();
        if dsm.is_root() {
            let counter = CounterClient::new(dsm.channel(Policy::RoundRobin));
            let data = dsm.alloc::<i64>("data", 100).unwrap();
            data.set(0, 5);
            // Its home, a daemon, does not serve the interface: any server will do.
            assert_eq!(counter.sum(data.global()).unwrap(), 5);
        }
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
    let rig = Rig::without_daemons(3);
    rig.run(|dsm| {
        let counting = Counting::new(&dsm);
        dsm.serve(CounterServer(counting.clone()), 64).unwrap();
        let here = dsm.alloc_with::<i64>(&format!("of {}", dsm.rank()), 8, Placement::OnNode(dsm.node_id()));
        here.unwrap().set(0, 1);
        dsm.barrier().unwrap();
        if dsm.is_root() {
            let counter = CounterClient::new(dsm.channel(Policy::RoundRobin));
            for rank in [2, 1, 2] {
                let data = dsm.attach::<i64>(&format!("of {rank}")).unwrap();
                assert_eq!(counter.sum(data.global()).unwrap(), 1);
            }
        }
        dsm.barrier().unwrap();
        let asked = dsm.calls().statistics();
        let sums = asked.iter().find(|(method, _)| method.name == "sum").expect("served").1.calls;
        assert_eq!(sums, [0, 1, 2][dsm.rank() as usize], "at rank {}", dsm.rank());
        dsm.leave().unwrap();
    });
}

#[test]
fn a_program_waits_for_its_server() {
    between(&Rig::with_daemons(1, 2), |dsm, _| {
        dsm.wait_for_server("Counter", Duration::from_secs(20)).unwrap();
        let error = dsm.wait_for_server("Nobody", Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("a server of Nobody"), "{error}");
        let nobody = dsm.channel(Policy::RoundRobin).each("Nobody");
        assert!(nobody.is_empty());
    });
}

#[test]
fn a_node_calls_itself() {
    between(&Rig::without_daemons(2), |dsm, _| {
        let counting = Counting::new(dsm);
        dsm.serve(CounterServer(counting.clone()), 8).unwrap();
        let counter = CounterClient::new(dsm.channel_to(dsm.node_id()).unwrap());
        assert_eq!(counter.add(7).unwrap(), 7);
        assert_eq!(counting.state.sum.load(Ordering::SeqCst), 7);
        assert!(counter.count(100).all(|item| item.is_ok()));
    });
}

#[test]
fn calls_wait_while_page_faults_of_the_same_node_are_answered() {
    between(&Rig::with_daemons(1, 3), |dsm, server| {
        let counter = CounterClient::new(dsm.channel_to(server).unwrap());
        let word = dsm.mutex::<u64>("word").unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..200).for_each(|_| *word.lock().unwrap() += 1));
            scope.spawn(|| (0..2000).for_each(|_| assert!(counter.add(1).is_ok())));
            scope.spawn(|| (0..2000).for_each(|_| assert_eq!(counter.echo(&[1; 100]).unwrap(), [1; 100])));
        });
    });
}

#[test]
fn calls_to_a_node_that_is_not_there_fail_at_once() {
    between(&Rig::without_daemons(2), |dsm, server| {
        assert!(dsm.channel_to(NodeId(77)).is_err());
        let mut gone = dsm.peer(server).unwrap();
        gone.incarnation.0 += 1;
        let counter = CounterClient::new(pagemesh::rpc::Channel::to(dsm.calls(), gone));
        let error = counter.add(1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable { may_have_executed: false });
    });
}
