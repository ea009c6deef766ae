//! Calls from outside of the cluster, over networks and to servers that fail.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::task::Context;
use std::time::{Duration, Instant};

use pagemesh::client::Client;
use pagemesh::net::inject::InjectorConfig;
use pagemesh::rpc::ErrorKind;
use pagemesh::{Node, NodeId, Settings};

use crate::child::Child;
use crate::counting::{CounterCalls, CounterClient, CounterServer, Counting, OnWake};
use system_tests::rig::{self, Rig, until};

const CONNECT_MAX: Duration = Duration::from_secs(10);

fn client(settings: &Settings) -> Client {
    let injected = |name: &str| settings.inject.get(name.strip_prefix("PAGEMESH_NET_")?).cloned();
    let injector = InjectorConfig::from_settings(injected).expect("good settings");
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    Client::new(rig::key(), anywhere, injector).expect("a client")
}

/// A daemon that counts.
fn server(rig: &Rig) -> (Vec<Node>, Counting) {
    let daemons = rig.start_daemons();
    let counting = Counting::default();
    daemons[0].serve(CounterServer(counting.clone()), 1024).unwrap();
    (daemons, counting)
}

#[test]
fn who_is_no_member_calls_by_address() {
    let rig = Rig::with_daemons(1, 0);
    let (daemons, _) = server(&rig);
    let client = client(&rig.settings);
    let peer = client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX).unwrap();
    let counter = CounterClient::new(client.channel_to(peer));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..500).for_each(|_| assert!(counter.add(1).is_ok())));
        }
    });
    assert_eq!(counter.read().unwrap(), 1500);
    assert_eq!(counter.echo(&[7; 100_000]).unwrap(), [7; 100_000]);
    assert_eq!(counter.count(100).count(), 100);
    rig::stop(daemons);
}

/// The thread that wakes the future also receives for all of the client's calls.
#[test]
fn a_waker_of_a_client_may_wait_for_another_call() {
    let rig = Rig::with_daemons(1, 0);
    let (daemons, counting) = server(&rig);
    let client = client(&rig.settings);
    let peer = client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX).unwrap();
    let mut call = pin!(CounterCalls::new(client.channel_to(peer)).hold());
    let (tell, told) = mpsc::channel();
    let second = CounterClient::new(client.channel_to(peer));
    let waker = OnWake::new(move || _ = tell.send(second.add(7))).into();
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    counting.state.go_on.store(true, Ordering::SeqCst);
    assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(Ok(7)), "the waker has run");
    assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    drop(client);
    rig::stop(daemons);
}

/// One thread sleeps on the socket for all: who connects meanwhile must hear of it from that one.
#[test]
fn threads_connect_while_others_wait() {
    let rig = Rig::with_daemons(2, 0);
    let (daemons, _) = server(&rig);
    let client = client(&rig.settings);
    let addrs = [0, 1].map(|node: usize| daemons[node].local_addr());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let (client, addr) = (&client, addrs[number % 2]);
            scope.spawn(move || {
                let peer = client.connect(NodeId(number as u16 % 2), addr, CONNECT_MAX).expect("connected");
                if number % 2 == 0 {
                    let counter = CounterClient::new(client.channel_to(peer));
                    (0..50).for_each(|_| assert!(counter.add(1).is_ok()));
                }
            });
        }
    });
    rig::stop(daemons);
}

/// Answers to a client that takes none fill its queue, and workers wait with the next ones. It is given up, and
/// everybody else is served.
#[test]
fn a_client_that_takes_no_answers_holds_up_nobody_for_long() {
    const ANSWERS: usize = 300;
    let rig = Rig::with_daemons(1, 0);
    let (daemons, _) = server(&rig);
    let (stuck, other) = (client(&rig.settings), client(&rig.settings));
    let connect = |client: &Client| client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX).unwrap();
    let peer = connect(&stuck);
    let calls = CounterCalls::new(stuck.channel_to(peer));
    let patient = other.channel_to(connect(&other)).with_deadline(Duration::from_secs(8));
    let other = CounterCalls::new(patient);
    let open: Vec<_> = (0..ANSWERS).map(|_| calls.zeros(1_000_000)).collect();
    let ran = || {
        let statistics = daemons[0].calls().statistics();
        statistics.iter().find(|(method, _)| method.name == "zeros").map_or(0, |(_, read)| read.calls)
    };
    // A client receives while one of its threads waits: just long enough for the calls to be there.
    let hurried = CounterCalls::new(stuck.channel_to(peer).with_deadline(Duration::from_millis(2)));
    until("the calls have come", || hurried.read().wait().is_err() && ran() >= 8);
    until("the queue is full", || ran() >= 64);
    let answer = other.add(1);
    assert_eq!(answer.wait(), Ok(1));
    until("all its calls have run", || ran() == ANSWERS as u64);
    drop(open);
    rig::stop(daemons);
}

/// An executor polls, and waits elsewhere: nobody else receives for the client.
#[test]
fn futures_of_a_client_end_though_no_thread_waits_in_it() {
    let rig = Rig::with_daemons(1, 0);
    let (daemons, counting) = server(&rig);
    let client = client(&rig.settings);
    let peer = client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX).unwrap();
    let calls = CounterCalls::new(client.channel_to(peer));
    let conversation = async {
        let mut sum = 0;
        for _ in 0..100 {
            sum = calls.add(1).await?;
        }
        let mut items = calls.count(100);
        while let Some(item) = items.next_item().await {
            sum += item?;
        }
        Ok::<i64, pagemesh::rpc::Error>(sum)
    };
    assert_eq!(pollster::block_on(conversation), Ok(100 + 4950));
    // A deadline ends a future, too, and threads may wait meanwhile.
    let held = CounterCalls::new(client.channel_to(peer).with_deadline(Duration::from_millis(300))).hold();
    let blocking = CounterClient::new(client.channel_to(peer));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..100).for_each(|_| assert!(blocking.add(1).is_ok())));
        assert_eq!(pollster::block_on(held).unwrap_err().kind, ErrorKind::Deadline);
    });
    // The thread ends with the client, also when a future is left behind.
    let left = [calls.hold(), calls.hold()];
    let [waits, polled] = left;
    let waiting = std::thread::spawn(move || waits.wait());
    let polling = std::thread::spawn(move || pollster::block_on(polled));
    until("both are under way", || counting.state.running.load(Ordering::SeqCst) >= 2);
    drop(client);
    assert!(waiting.join().expect("no panic").is_err() && polling.join().expect("no panic").is_err());
    counting.state.go_on.store(true, Ordering::SeqCst);
    rig::stop(daemons);
}

#[test]
fn what_is_not_asked_again_waits_for_the_new_session() {
    let rig = Rig::with_daemons(1, 0);
    let (daemons, counting) = server(&rig);
    let client = client(&rig.settings);
    let peer = client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX).unwrap();
    let calls = CounterCalls::new(client.channel_to(peer));
    for round in 1..=20 {
        client.reconnect(peer).unwrap();
        calls.note(1).expect("it is kept");
        until("it has come", || calls.read().wait().expect("a call is asked again by itself") == round);
    }
    assert_eq!(counting.state.sum.load(Ordering::SeqCst), 20);
    rig::stop(daemons);
}

/// A session that has ended lingers, and takes a place meanwhile.
#[test]
fn a_client_whose_places_are_taken_by_ended_sessions_connects_when_they_are_free() {
    let rig = Rig::with_daemons(1, 0);
    let (daemons, _) = server(&rig);
    let client = client(&rig.settings);
    let connect = || client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX);
    let peer = connect().expect("connected");
    let mut begun = 0;
    while client.reconnect(peer).is_ok() && connect().is_ok() {
        begun += 1;
        assert!(begun < 10_000, "the places never end: nothing is tested");
    }
    until("there is a place again", || connect().is_ok());
    assert_eq!(CounterClient::new(client.channel_to(peer)).add(1), Ok(1));
    rig::stop(daemons);
}

/// 5 % loss, 20 % duplicates and reordering in both directions, and the session lost ten times with calls
/// on their way in both directions.
#[test]
fn increments_that_are_acknowledged_are_counted_once_each() {
    let bad = Rig::with_daemons(1, 0).set("net_loss", "5%").set("net_dup", "20%");
    let bad = bad.set("net_reorder", "5%").set("net_seed", "11");
    let (daemons, counting) = server(&bad);
    let client = client(&bad.settings);
    let peer = client.connect(NodeId(0), daemons[0].local_addr(), CONNECT_MAX).unwrap();
    let calls = CounterCalls::new(client.channel_to(peer));
    let mut acknowledged = 0;
    let mut open = VecDeque::new();
    let batch = client.calls().batch();
    for number in 0..100_000 {
        if open.len() == 64 {
            let oldest: pagemesh::rpc::Call<i64> = open.pop_front().expect("64 of them");
            oldest.wait().expect("nothing that was asked is lost");
            acknowledged += 1;
        }
        open.push_back(calls.add(1));
        if number % 10_000 == 5_000 {
            client.calls().flush_batches();
            // Some are run by now and their answers are on their way, some are not.
            let sent = Instant::now();
            until("a moment has passed", || sent.elapsed() > Duration::from_millis(2));
            client.reconnect(peer).unwrap();
        }
    }
    for call in open {
        call.wait().expect("nothing that was asked is lost");
        acknowledged += 1;
    }
    drop(batch);
    assert_eq!(acknowledged, 100_000);
    assert_eq!(counting.state.sum.load(Ordering::SeqCst), acknowledged);
    assert!(daemons[0].calls().counters().duplicates > 0, "nothing was asked twice: no test");
    rig::stop(daemons);
}

#[test]
fn the_death_of_a_server_ends_the_calls_of_its_clients() {
    let child = Child::start("server", &rig::small());
    let addr: SocketAddr = child.line().parse().expect("an address");
    let client = client(&rig::small());
    let peer = client.connect(NodeId(0), addr, CONNECT_MAX).unwrap();
    let calls = CounterCalls::new(client.channel_to(peer));
    let call = calls.hold();
    assert_eq!(calls.add(1).wait().unwrap(), 1);
    child.signal(nix::sys::signal::Signal::SIGKILL);
    let error = call.wait().unwrap_err();
    assert_eq!(error.kind, ErrorKind::ServerDied { may_have_executed: true });
    let later = calls.add(1).wait().unwrap_err();
    assert_eq!(later.kind, ErrorKind::Unreachable { may_have_executed: false });
}
