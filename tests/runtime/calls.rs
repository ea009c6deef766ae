//! Calls between nodes of one process, over their own sockets.

use std::sync::atomic::Ordering;

use dsm::page::NodeId;
use dsm::rpc::ErrorKind;
use dsm::{Dsm, Placement};

use crate::counting::{CounterCalls, CounterClient, CounterServer, Counting};
use crate::rig::{Rig, until};

/// Rank 0 serves, the others call; then all leave together.
fn between(rig: &Rig, client: impl Fn(&Dsm, NodeId) + Send + Sync + 'static) {
    rig.run(move |dsm| {
        let ids = dsm.alloc::<u64>("ids", dsm.ranks() as usize).unwrap();
        ids.set(dsm.rank() as usize, u64::from(dsm.node_id().0));
        if dsm.is_root() {
            dsm.serve(CounterServer(Counting::new(&dsm)), 1024);
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
        let beyond = dsm::rpc::Global::new(data.addr(), 10_001);
        assert!(counter.sum(beyond).unwrap_err().to_string().contains("no region"));
    });
}

#[test]
fn a_node_calls_itself() {
    between(&Rig::without_daemons(2), |dsm, _| {
        let counting = Counting::new(dsm);
        dsm.serve(CounterServer(counting.clone()), 8);
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
        let counter = CounterClient::new(dsm::rpc::Channel::to(dsm.calls(), gone));
        let error = counter.add(1).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unreachable { may_have_executed: false });
    });
}
