//! What goes wrong between nodes, each in an order of events that the test wrote down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pagemesh::config::rpc::{
    CALL_LEN_MAX, DELAYED_MAX, ENDED_MAX, GATHER_LEN_MAX, GATHERED_MAX, QUEUE_BYTES_MAX, REPLY_BYTES_MAX,
    REPLY_BYTES_NODE_MAX, ROOM_AGAIN, ROOM_WAIT_MAX, SEQUENCE_GAPS_MAX, SILENCE_MAX, STREAM_WINDOW,
};
use pagemesh::page::{GlobalAddr, Incarnation, NodeId, Span};
use pagemesh::rpc::local::LocalRegistry;
use pagemesh::rpc::{Channel, ErrorKind, Global, MetaCalls, Policy, Workers};
use proptest::prelude::*;

use super::support::{Counting, Pair, peer};
use crate::calculator::*;
use crate::geometry::Point;

#[test]
fn a_deadline_ends_the_wait_and_names_method_peer_and_time() {
    let pair = Pair::by_hand();
    let mut call = pair.calls().divide(1, 1);
    pair.network.advance(Span::from_ms(499));
    assert!(call.try_take().is_none());
    pair.network.advance(Span::from_ms(1));
    let Some(Err(CalculatorDivideError::Rpc(error))) = call.try_take() else { panic!("not over") };
    assert_eq!(error.kind, ErrorKind::Deadline);
    assert_eq!(error.to_string(), "Calculator.divide at node 1: deadline passed after 500.000 ms");
}

#[test]
fn a_call_whose_time_is_over_in_the_queue_does_not_run() {
    let pair = Pair::by_hand();
    let calls = CalculatorCalls::new(pair.channel().with_deadline(Span::from_ms(5)));
    let call = calls.func1(1);
    pair.deliver();
    pair.network.advance(Span::from_ms(5));
    assert_eq!(pair.server_end.run_ready(), 0);
    assert_eq!(pair.runs(), 0);
    assert_eq!(pair.server_end.counters().not_run, 1);
    assert_eq!(call.wait().unwrap_err().kind, ErrorKind::Deadline);
}

#[test]
fn what_fits_a_message_alone_but_not_with_others_goes_alone() {
    let pair = Pair::by_hand();
    let (short, long) = (vec![1; 10_000], vec![2; CALL_LEN_MAX - 100]);
    // Two requests of one batch, and their two answers of one worker.
    let batch = pair.client_end.batch();
    let calls = [pair.calls().echo(&short), pair.calls().echo(&long)];
    drop(batch);
    pair.deliver();
    assert_eq!(pair.server_end.run_ready(), 2);
    pair.deliver();
    let [first, second] = calls.map(|mut call| call.try_take().expect("answered"));
    assert_eq!((first.unwrap(), second.unwrap()), (short, long));
}

#[test]
fn a_refusal_that_finds_no_room_arrives_later() {
    let pair = Pair::with_limit(0);
    let mut call = pair.calls().func1(1);
    pair.network.fill(pair.client);
    pair.deliver();
    assert!(pair.network.in_flight().is_empty());
    for _ in 0..2 {
        pair.network.advance(ROOM_AGAIN);
        assert!(pair.network.in_flight().is_empty(), "no room yet");
    }
    pair.network.make_room(pair.client);
    assert!(call.try_take().is_none());
    pair.network.advance(ROOM_AGAIN);
    pair.deliver();
    let outcome = call.try_take().expect("the refusal has come");
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::Busy);
    assert_eq!(pair.server_end.counters().dropped, 0);
}

#[test]
fn a_batch_that_grows_is_sent_in_parts() {
    let pair = Pair::by_hand();
    let text = "x".repeat(GATHER_LEN_MAX);
    let batch = pair.client_end.batch();
    for _ in 0..GATHERED_MAX - 1 {
        pair.calls().note(&text).unwrap();
    }
    assert!(pair.network.in_flight().is_empty());
    pair.calls().note(&text).unwrap();
    assert_eq!(pair.network.take_queue(|_| true).len(), GATHERED_MAX);
    pair.calls().note(&text).unwrap();
    pair.network.fill(pair.server);
    drop(batch);
    assert_eq!(pair.client_end.counters().dropped, 1);
}

#[test]
fn refusals_without_room_have_a_bound() {
    let pair = Pair::with_limit(0);
    pair.network.fill(pair.client);
    let mut calls = Vec::new();
    for _ in 0..DELAYED_MAX + 1 {
        // Dropped at once: the server has the request all the same, and refuses it.
        drop(pair.calls().func1(1));
        calls.extend(pair.network.take_queue(|_| true));
    }
    for envelope in &calls {
        pair.network.deliver(envelope).unwrap();
    }
    assert_eq!(pair.server_end.counters().dropped, 1);
}

#[test]
fn a_credit_that_finds_no_room_is_granted_later() {
    let pair = Pair::by_hand();
    let mut stream = pair.calls().count(STREAM_WINDOW as i32 / 2);
    pair.deliver();
    pair.server_end.run_ready();
    // All but the answer that ends it: else no more credit is given.
    for item in &pair.network.take_queue(|_| true)[..STREAM_WINDOW as usize / 2] {
        pair.network.deliver(item).unwrap();
    }
    pair.network.fill(pair.server);
    assert!(stream.by_ref().take(STREAM_WINDOW as usize / 2).all(|item| item.is_ok()));
    assert!(pair.network.in_flight().is_empty());
    pair.network.make_room(pair.server);
    pair.network.advance(ROOM_AGAIN);
    // Delayed messages are offered together with those of the other direction.
    assert_eq!(pair.network.in_flight().len(), 1, "without it the server would stop for good");
}

#[test]
fn a_node_that_goes_on_no_longer_ends_the_calls_that_it_runs() {
    let pair = Pair::by_hand();
    let stream = pair.calls().count(1000);
    pair.deliver();
    let server = pair.server_end.clone();
    let worker = std::thread::spawn(move || server.run_ready());
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let until = |what: &str, condition: &dyn Fn() -> bool| {
        while !condition() {
            assert!(std::time::Instant::now() < give_up, "in vain: {what}");
            std::thread::yield_now();
        }
    };
    until("the client's room is used up", &|| pair.counting.items.load(Ordering::SeqCst) == 32);
    pair.server_end.handle_end();
    until("the method ends", &|| worker.is_finished());
    drop(stream);
}

#[test]
fn a_call_that_may_have_run_is_asked_again_until_there_is_room() {
    let pair = Pair::by_hand();
    let mut call = pair.calls().func1(5);
    pair.deliver();
    pair.server_end.run_ready();
    // Its answer is lost with the session, and the queue of the next one is full at once.
    pair.network.take_queue(|_| true);
    pair.network.fill(pair.server);
    pair.client_end.handle_peer_reset(pair.server);
    pair.network.advance(ROOM_AGAIN);
    assert!(call.try_take().is_none(), "busy would say that it has not run");
    pair.network.make_room(pair.server);
    pair.network.advance(ROOM_AGAIN);
    pair.network.settle();
    assert_eq!(call.try_take(), Some(Ok(5)));
    assert_eq!(pair.runs(), 5);
}

#[test]
fn a_call_that_may_have_run_says_so_if_its_server_cannot_be_asked_any_more() {
    let pair = Pair::by_hand();
    let mut call = pair.calls().func1(5);
    pair.deliver();
    pair.server_end.run_ready();
    pair.network.lose(pair.server);
    pair.client_end.handle_peer_reset(pair.server);
    let error = call.try_take().expect("it has ended").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable { may_have_executed: true });
}

#[test]
fn a_call_that_goes_to_another_server_keeps_its_deadline() {
    let pair = Pair::by_hand();
    let (third, third_end) = peer(&pair.network, 2, 12);
    third_end.serve(CalculatorServer(Counting::default()), 8);
    let registry = Arc::new(LocalRegistry::default().with("Calculator", &[pair.server, third]));
    let channel = Channel::named(&pair.client_end, registry, Policy::RoundRobin);
    let mut call = CalculatorCalls::new(channel.with_deadline(Span::from_ms(100))).echo(b"again");
    pair.network.advance(Span::from_ms(60));
    pair.network.kill(pair.server);
    assert_eq!(pair.network.take_queue(|envelope| envelope.to == third).len(), 1, "it has gone there");
    pair.network.advance(Span::from_ms(39));
    assert!(call.try_take().is_none());
    pair.network.advance(Span::from_ms(1));
    assert_eq!(call.try_take().expect("in time").unwrap_err().kind, ErrorKind::Deadline);
    assert_eq!(pair.client_end.poll_timeout(), None);
}

#[test]
fn calls_that_found_no_room_leave_no_gaps_behind_an_open_one() {
    let pair = Pair::by_hand();
    let mut open = pair.calls().func1(0);
    pair.deliver();
    pair.server_end.run_ready();
    let answer = pair.network.take_queue(|_| true);
    for _ in 0..SEQUENCE_GAPS_MAX + 1 {
        pair.network.fill(pair.server);
        let refused = pair.calls().func1(1).wait();
        assert_eq!(refused.unwrap_err().kind, ErrorKind::Busy);
        pair.network.make_room(pair.server);
        let mut call = pair.calls().func1(0);
        pair.deliver();
        pair.server_end.run_ready();
        pair.deliver();
        assert_eq!(call.try_take(), Some(Ok(0)));
    }
    assert_eq!(pair.server_end.counters().violations, 0);
    answer.iter().for_each(|envelope| _ = pair.network.deliver(envelope).unwrap());
    assert_eq!(open.try_take(), Some(Ok(0)));
}

#[test]
fn an_answer_waits_for_room_for_as_long_as_its_client_lives() {
    let pair = Pair::driven();
    let mut call = pair.calls().func1(5);
    pair.deliver();
    pair.network.fill(pair.client);
    std::thread::scope(|scope| {
        // A thread that waits moves the time.
        let worker = scope.spawn(|| pair.server_end.run_ready());
        let long = || pair.client_end.now().0 > 3 * ROOM_WAIT_MAX.0;
        while !long() && !worker.is_finished() {
            std::thread::yield_now();
        }
        assert!(!worker.is_finished(), "the answer was dropped, and its caller would wait for ever");
        pair.network.make_room(pair.client);
    });
    pair.deliver();
    assert_eq!(call.try_take(), Some(Ok(5)));
}

#[test]
fn a_stream_ends_with_its_clients_session_and_gives_its_worker_free() {
    let pair = Pair::by_hand();
    let worker = Workers::start(&pair.server_end, 1).unwrap();
    let stream = pair.calls().count(i32::MAX);
    pair.deliver();
    while pair.counting.items.load(Ordering::SeqCst) < 32 {
        std::thread::yield_now();
    }
    pair.server_end.handle_peer_away(pair.client);
    // Joins the worker.
    drop(worker);
    drop(stream);
}

#[test]
fn calls_of_a_client_that_does_not_come_back_are_cancelled() {
    let pair = Pair::by_hand();
    let calls = [pair.calls().func1(1), pair.calls().func1(1)];
    let requests = pair.network.take_queue(|_| true);
    pair.network.deliver(&requests[0]).unwrap();
    pair.server_end.handle_peer_away(pair.client);
    pair.network.advance(Span(SILENCE_MAX.0 - 1));
    // It comes back, and goes again.
    pair.network.deliver(&requests[1]).unwrap();
    pair.network.advance(Span(1));
    pair.server_end.handle_peer_away(pair.client);
    pair.network.advance(Span(SILENCE_MAX.0 - 1));
    assert_eq!(pair.server_end.queue_len(), 2);
    assert_eq!(pair.server_end.counters().not_run, 0);
    pair.network.advance(Span(1));
    assert_eq!(pair.server_end.run_ready(), 0);
    assert_eq!(pair.server_end.counters().not_run, 2);
    drop(calls);
}

#[test]
fn calls_of_the_system_run_though_all_workers_are_held_up_and_the_queue_is_full() {
    let pair = Pair::by_hand();
    let calls: Vec<_> = (0..1025).map(|_| pair.calls().func1(1)).collect();
    let mut ping = MetaCalls::new(pair.channel()).ping(b"are you there");
    pair.deliver();
    assert_eq!(pair.server_end.run_system(), 1);
    pair.deliver();
    assert_eq!(ping.try_take().expect("answered").unwrap(), b"are you there");
    assert_eq!(pair.server_end.queue_len(), 1024);
    assert_eq!(pair.server_end.counters().busy, 1);
    drop(calls);
}

#[test]
fn arguments_that_wait_have_a_bound_in_bytes() {
    let pair = Pair::by_hand();
    let data = vec![0; 1 << 19];
    let fit = QUEUE_BYTES_MAX / (data.len() + 100);
    let calls: Vec<_> = (0..fit + 2).map(|_| pair.calls().echo(&data)).collect();
    pair.deliver();
    assert!(pair.server_end.counters().busy > 0);
    assert!((fit - 1..=fit + 1).contains(&pair.server_end.queue_len()), "{}", pair.server_end.queue_len());
    assert!(pair.server_end.run_ready() >= fit - 1);
    drop(calls);
}

#[test]
fn answers_that_are_kept_have_a_bound_for_all_clients_together() {
    let pair = Pair::by_hand();
    let clients = REPLY_BYTES_NODE_MAX / REPLY_BYTES_MAX + 8;
    let name = "x".repeat(1 << 19);
    let ask = |end: &Arc<pagemesh::rpc::Endpoint>| {
        let hello = CalculatorCalls::new(Channel::to(end, pair.server))
            .hello(&name, &[Point { x: 0.0, y: 0.0 }, Point { x: 0.0, y: 0.0 }]);
        pair.deliver();
        assert_eq!(pair.server_end.run_ready(), 1);
        // The answer is lost.
        pair.network.take_queue(|_| true);
        hello
    };
    let ends: Vec<_> = (0..clients as u64).map(|number| peer(&pair.network, 2, 100 + number)).collect();
    let open: Vec<_> =
        ends.iter().flat_map(|(_, end)| (0..8).map(|_| ask(end)).collect::<Vec<_>>()).collect();
    assert!(pair.server_end.kept_bytes() <= REPLY_BYTES_NODE_MAX);
    assert!(pair.server_end.kept_bytes() > REPLY_BYTES_NODE_MAX / 2, "nothing is tested");
    for (peer, _) in &ends {
        pair.server_end.handle_peer_died(*peer);
    }
    assert_eq!(pair.server_end.kept_bytes(), 0);
    drop(open);
}

#[test]
fn what_is_handled_after_its_senders_end_leaves_no_trace() {
    let pair = Pair::by_hand();
    for number in 0..ENDED_MAX as u64 + 1 {
        let (client, end) = peer(&pair.network, 2, 100 + number);
        let call = CalculatorCalls::new(Channel::to(&end, pair.server)).func1(1);
        let late = pair.network.take_queue(|_| true);
        pair.server_end.handle_peer_died(client);
        late.iter().for_each(|envelope| assert_eq!(pair.network.deliver(envelope), Ok(0)));
        drop(call);
    }
}

#[test]
fn dropping_a_call_cancels_it_at_the_server() {
    let pair = Pair::by_hand();
    let call = pair.calls().func1(1);
    pair.deliver();
    drop(call);
    pair.deliver();
    pair.network.settle();
    assert_eq!(pair.server_end.run_ready(), 0);
    assert_eq!(pair.runs(), 0);
}

#[test]
fn a_cancellation_that_overtakes_its_call_keeps_it_from_running() {
    let pair = Pair::by_hand();
    drop(pair.calls().func1(1));
    let messages = pair.network.take_queue(|_| true);
    assert_eq!(messages.len(), 2);
    messages.iter().rev().for_each(|message| _ = pair.network.deliver(message).unwrap());
    assert_eq!(pair.server_end.run_ready(), 0);
    assert_eq!(pair.runs(), 0);
}

#[test]
fn a_running_stream_stops_when_its_client_drops_it() {
    let pair = Pair::by_hand();
    let worker = Workers::start(&pair.server_end, 1).unwrap();
    let mut stream = pair.calls().count(i32::MAX);
    pair.deliver();
    // The worker sends a window of items, then waits for credit.
    while pair.counting.items.load(Ordering::SeqCst) < 32 {
        std::thread::yield_now();
    }
    pair.deliver();
    assert_eq!(stream.next(), Some(Ok(0)));
    assert_eq!(pair.counting.items.load(Ordering::SeqCst), 32, "no more than the window");
    drop(stream);
    pair.deliver();
    // Joins the worker: it ends only because the stream saw the cancellation.
    drop(worker);
    assert_eq!(pair.counting.items.load(Ordering::SeqCst), 32);
}

#[test]
fn a_full_server_answers_busy_and_recovers() {
    let pair = Pair::with_limit(8);
    let calls: Vec<_> = (0..1000).map(|_| pair.calls().func1(1)).collect();
    pair.network.settle();
    pair.network.settle();
    let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait().map_err(|error| error.kind)).collect();
    assert!(outcomes.iter().all(Result::is_ok), "one at a time there is always room");

    let calls: Vec<_> = (0..1000).map(|_| pair.calls().func1(1)).collect();
    pair.deliver();
    assert_eq!(pair.server_end.run_ready(), 8);
    pair.network.settle();
    let outcomes: Vec<_> = calls.into_iter().map(|call| call.wait().map_err(|error| error.kind)).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(ErrorKind::Busy)).count(), 992);
    assert_eq!(pair.runs(), 1008);
    assert_eq!(pair.server_end.counters().busy, 992);
}

#[test]
fn the_death_of_the_server_ends_calls_at_once() {
    let pair = Pair::by_hand();
    let call = pair.calls().func1(1);
    let idle = pair.calls();
    pair.deliver();
    pair.network.kill(pair.server);
    let error = call.wait().unwrap_err();
    assert_eq!(error.kind, ErrorKind::ServerDied { may_have_executed: true });
    let later = idle.func1(1).wait().unwrap_err();
    assert_eq!(later.kind, ErrorKind::Unreachable { may_have_executed: false });
    assert_eq!(pair.client_end.poll_timeout(), None);
}

#[test]
fn only_an_idempotent_call_goes_to_another_server_after_a_death() {
    let pair = Pair::by_hand();
    let (third, third_end) = peer(&pair.network, 2, 12);
    third_end.serve(CalculatorServer(Counting::default()), 8);
    let registry = Arc::new(LocalRegistry::default().with("Calculator", &[pair.server, third]));
    let fresh =
        || CalculatorCalls::new(Channel::named(&pair.client_end, registry.clone(), Policy::RoundRobin));
    let (idempotent, other) = (fresh().echo(b"again"), fresh().func1(1));
    pair.deliver();
    pair.network.kill(pair.server);
    pair.network.settle();
    assert_eq!(idempotent.wait().unwrap(), b"again");
    assert_eq!(other.wait().unwrap_err().kind, ErrorKind::ServerDied { may_have_executed: true });
    let unsent = fresh().func1(1);
    pair.network.settle();
    assert_eq!(unsent.wait(), Ok(1), "what never left may go to anybody");
}

#[test]
fn a_reply_that_was_lost_with_its_session_comes_from_the_cache() {
    let pair = Pair::by_hand();
    let mut call = pair.calls().func1(5);
    pair.deliver();
    pair.server_end.run_ready();
    pair.network.take_queue(|_| true);
    pair.client_end.handle_peer_reset(pair.server);
    pair.network.settle();
    assert_eq!(call.try_take(), Some(Ok(5)));
    assert_eq!(pair.runs(), 5, "executed once");
    assert_eq!(pair.server_end.counters().duplicates, 1);
}

#[test]
fn a_request_that_was_lost_with_its_session_is_sent_again() {
    let pair = Pair::by_hand();
    let mut call = pair.calls().func1(5);
    pair.network.take_queue(|_| true);
    pair.client_end.handle_peer_reset(pair.server);
    pair.network.settle();
    assert_eq!(call.try_take(), Some(Ok(5)));
    assert_eq!(pair.runs(), 5);
}

#[test]
fn a_long_call_shows_that_it_lives_and_is_given_up_in_silence() {
    let pair = Pair::by_hand();
    let mut call = pair.calls().train(Global::new(GlobalAddr(0), 1, 1));
    pair.deliver();
    for _ in 0..30 {
        pair.network.advance(Span::from_ms(1_000));
        pair.deliver();
    }
    assert!(call.try_take().is_none(), "half a minute in the queue, and alive");
    for _ in 0..11 {
        pair.network.advance(Span::from_ms(1_000));
        pair.network.take_queue(|_| true);
    }
    let error = call.try_take().unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable { may_have_executed: true });
}

#[test]
fn other_versions_and_interfaces_are_named() {
    static NEWER: pagemesh::rpc::Method =
        pagemesh::rpc::Method { version: 3, id: CALCULATOR.methods[0].id ^ 1, ..method(0) };
    static STRANGER: pagemesh::rpc::Method =
        pagemesh::rpc::Method { interface: "Other", id: 77, ..method(0) };
    let pair = Pair::driven();
    let version = pair.channel().prepare(&NEWER).start::<i32, pagemesh::rpc::Error>().wait().unwrap_err();
    assert_eq!(version.kind, ErrorKind::BadVersion { client: 3, server: Some(2) });
    assert!(version.to_string().contains("the client speaks version 3, the server version 2"));
    let stranger = pair.channel().prepare(&STRANGER).start::<i32, pagemesh::rpc::Error>().wait().unwrap_err();
    assert_eq!(stranger.kind, ErrorKind::BadVersion { client: 2, server: None });
    assert_eq!(pair.server_end.counters().unknown, 2);
}

const fn method(_: usize) -> pagemesh::rpc::Method {
    pagemesh::rpc::Method {
        interface: "Calculator",
        version: 2,
        name: "func1",
        id: 0,
        kind: pagemesh::rpc::Kind::Unary,
        deadline_us: None,
        idempotent: false,
        longrunning: false,
    }
}

#[test]
fn a_thousand_callers_at_eight_workers_are_all_answered() {
    let pair = Pair::with_limit(64);
    let workers = Workers::start(&pair.server_end, 8).unwrap();
    let (done, acknowledged, busy) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                pair.deliver();
                std::thread::yield_now();
            }
        });
        let callers: Vec<_> = (0..10)
            .map(|_| {
                scope.spawn(|| {
                    let calls: Vec<_> = (0..100).map(|_| pair.calls().func1(1)).collect();
                    for call in calls {
                        match call.wait() {
                            Ok(_) => acknowledged.fetch_add(1, Ordering::SeqCst),
                            Err(error) => {
                                assert_eq!(error.kind, ErrorKind::Busy);
                                busy.fetch_add(1, Ordering::SeqCst)
                            }
                        };
                    }
                })
            })
            .collect();
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        done.store(true, Ordering::SeqCst);
    });
    drop(workers);
    assert_eq!(acknowledged.load(Ordering::SeqCst) + busy.load(Ordering::SeqCst), 1000);
    assert_eq!(pair.runs(), acknowledged.load(Ordering::SeqCst) as i64, "counter equals acknowledged calls");
}

#[test]
fn a_client_that_is_away_makes_room_and_its_calls_run_no_second_time() {
    let pair = Pair::by_hand();
    let (first, first_end) = peer(&pair.network, 2, 1000);
    let calls = CalculatorCalls::new(Channel::to(&first_end, pair.server));
    let lost = [calls.func1(1), calls.func1(1)];
    pair.deliver();
    assert_eq!(pair.server_end.run_ready(), 2);
    // Their answers are lost with its session.
    assert!(!pair.network.take_queue(|envelope| envelope.to == first).is_empty());
    pair.server_end.handle_peer_away(first);
    // Others come until there is no room.
    for number in 1..=pagemesh::config::rpc::CLIENTS_MAX as u64 {
        let (_, end) = peer(&pair.network, 3, 1000 + number);
        let call = CalculatorCalls::new(Channel::to(&end, pair.server)).func1(1);
        pair.network.settle();
        call.wait().unwrap();
    }
    let (_, end) = peer(&pair.network, 3, 999);
    let refused = CalculatorCalls::new(Channel::to(&end, pair.server)).func1(1);
    pair.network.settle();
    assert_eq!(refused.wait().unwrap_err().kind, ErrorKind::Busy, "nobody else is away");

    let runs = pair.runs();
    pair.server_end.handle_peer_died(pair.client);
    pair.server_end
        .handle_peer_died(pagemesh::rpc::PeerId { node: NodeId(3), incarnation: Incarnation(1001) });
    first_end.handle_peer_reset(pair.server);
    pair.network.settle();
    for call in lost {
        assert_eq!(call.wait().unwrap_err().kind, ErrorKind::Unreachable { may_have_executed: true });
    }
    assert_eq!(pair.runs(), runs);

    // Who comes when others have been forgotten is new all the same.
    pair.server_end
        .handle_peer_died(pagemesh::rpc::PeerId { node: NodeId(3), incarnation: Incarnation(1002) });
    let (_, end) = peer(&pair.network, 3, 998);
    let calls = CalculatorCalls::new(Channel::to(&end, pair.server));
    let first = calls.func1(1);
    pair.network.settle();
    assert!(first.wait().is_ok());
    let asked_again = calls.func1(1);
    pair.network.take_queue(|_| true);
    end.handle_peer_reset(pair.server);
    pair.network.settle();
    assert!(asked_again.wait().is_ok());
}

/// A client cannot tell a server that is dead from one that it did not reach for a while.
#[test]
fn a_server_that_was_out_of_reach_takes_no_call_for_an_earlier_one() {
    let pair = Pair::by_hand();
    for round in 1..=3 {
        let mut call = pair.calls().func1(1);
        pair.network.settle();
        assert_eq!(call.try_take(), Some(Ok(2 * round - 1)));
        pair.calls().note("1").unwrap();
        pair.network.settle();
        assert_eq!(pair.runs(), 2 * i64::from(round));
        pair.client_end.handle_peer_died(pair.server);
    }
}

#[test]
fn a_client_that_takes_no_answer_keeps_nobody_elses() {
    let pair = Pair::driven();
    let (other, other_end) = peer(&pair.network, 2, 100);
    let stuck = pair.calls().func1(1);
    let served = CalculatorCalls::new(Channel::to(&other_end, pair.server)).func1(1);
    pair.deliver();
    pair.network.fill(pair.client);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| pair.server_end.run_ready());
        while !worker.is_finished() && pair.server_end.now() < pagemesh::page::Time(ROOM_WAIT_MAX.0) {
            std::thread::yield_now();
        }
        assert!(!worker.is_finished(), "it waits for room");
        assert!(served.is_done() || pair.network.in_flight().iter().any(|envelope| envelope.to == other));
        pair.network.make_room(pair.client);
    });
    drop(stuck);
}

#[test]
fn who_came_back_before_its_absence_was_told_is_here() {
    let pair = Pair::by_hand();
    let call = pair.calls().func1(1);
    pair.deliver();
    pair.server_end.handle_peer_back(pair.client);
    pair.network.advance(SILENCE_MAX);
    assert_eq!(pair.server_end.run_ready(), 1);
    pair.network.settle();
    assert_eq!(call.wait(), Ok(1));
}

#[test]
fn replies_of_who_is_away_make_room_for_those_of_others() {
    let pair = Pair::by_hand();
    let name = "x".repeat(1 << 20 >> 1);
    let ends = [Point { x: 0.0, y: 0.0 }, Point { x: 0.0, y: 0.0 }];
    let gone = REPLY_BYTES_NODE_MAX / name.len() + 4;
    for number in 0..gone as u64 {
        let (client, end) = peer(&pair.network, 2, 100 + number);
        let call = CalculatorCalls::new(Channel::to(&end, pair.server)).hello(&name, &ends);
        pair.network.settle();
        call.wait().unwrap();
        pair.server_end.handle_peer_away(client);
    }
    let mut call = pair.calls().hello(&name, &ends);
    pair.deliver();
    pair.server_end.run_ready();
    pair.network.take_queue(|_| true);
    pair.client_end.handle_peer_reset(pair.server);
    pair.network.settle();
    assert!(call.try_take().expect("it comes from memory").is_ok());
    assert!(pair.server_end.kept_bytes() <= REPLY_BYTES_NODE_MAX);
}

/// What happens to the first message on its way, or to the session.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Deliver(usize),
    Twice(usize),
    Lose(usize),
    Call,
    Oneway,
    Cancel,
    Reset,
    Work,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        4 => (0usize..50).prop_map(Fate::Deliver),
        2 => (0usize..50).prop_map(Fate::Twice),
        1 => (0usize..50).prop_map(Fate::Lose),
        4 => Just(Fate::Call),
        1 => Just(Fate::Oneway),
        1 => Just(Fate::Cancel),
        1 => Just(Fate::Reset),
        3 => Just(Fate::Work),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Messages reordered, doubled, and lost with their sessions: no increment happens twice, and every
    /// acknowledged one has happened.
    #[test]
    fn whatever_happens_to_messages_no_call_runs_twice(fates in proptest::collection::vec(fate(), 1..200)) {
        let pair = Pair::by_hand();
        let (mut calls, mut asked, mut cancelled) = (Vec::new(), 0i64, 0i64);
        for fate in fates {
            let queued = pair.network.take_queue(|_| true);
            let pick = |at: usize| (!queued.is_empty()).then(|| at % queued.len());
            let mut kept = Vec::new();
            let chosen = match fate {
                Fate::Deliver(at) | Fate::Twice(at) | Fate::Lose(at) => pick(at),
                Fate::Call | Fate::Oneway | Fate::Cancel | Fate::Reset | Fate::Work => None,
            };
            for (at, envelope) in queued.iter().enumerate() {
                match fate {
                    _ if Some(at) != chosen => kept.push(envelope.clone()),
                    Fate::Twice(_) => kept.extend([envelope.clone(), envelope.clone()]),
                    Fate::Deliver(_) => _ = pair.network.deliver(envelope).unwrap(),
                    Fate::Lose(_) | Fate::Call | Fate::Oneway | Fate::Cancel | Fate::Reset | Fate::Work => {}
                }
            }
            match fate {
                Fate::Call => { asked += 1; calls.push(pair.calls().func1(1)); }
                Fate::Oneway => { asked += 1; cancelled += 1; pair.calls().note("1").unwrap(); }
                Fate::Cancel => { cancelled += i64::from(calls.pop().is_some()); }
                Fate::Reset => pair.client_end.handle_peer_reset(pair.server),
                Fate::Work => _ = pair.server_end.run_ready(),
                Fate::Deliver(_) | Fate::Twice(_) | Fate::Lose(_) => {}
            }
            kept.iter().for_each(|envelope| pair.network.put_back(envelope.clone()));
        }
        // The last session holds: everything that is asked for again is answered.
        pair.client_end.handle_peer_reset(pair.server);
        pair.network.settle();
        pair.server_end.run_ready();
        pair.network.settle();
        let acknowledged = calls.into_iter().map(|mut call| call.try_take().expect("answered")).filter(Result::is_ok).count();
        prop_assert!(pair.runs() >= acknowledged as i64);
        prop_assert!(pair.runs() <= acknowledged as i64 + cancelled, "asked {asked}");
    }
}

/// It looks at its node when it is dropped, while one of its calls is in the queue.
#[test]
fn a_service_that_is_dropped_may_use_its_node() {
    struct Last {
        end: Arc<pagemesh::rpc::Endpoint>,
        gone: std::sync::mpsc::Sender<u64>,
    }
    impl Drop for Last {
        fn drop(&mut self) {
            let _ = self.gone.send(self.end.counters().not_run);
        }
    }
    impl pagemesh::rpc::Service for Last {
        fn interface(&self) -> &'static pagemesh::rpc::Interface {
            &CALCULATOR
        }

        fn dispatch(
            &self,
            _: usize,
            _: &pagemesh::rpc::Context<'_>,
            _: &mut pagemesh::rpc::Decoder<'_>,
            _: &mut pagemesh::rpc::Reply<'_>,
        ) -> Result<(), pagemesh::rpc::DecodeError> {
            Ok(())
        }
    }
    let network = pagemesh::rpc::local::LocalNetwork::new();
    let ((_, client_end), (server, end)) = (peer(&network, 0, 10), peer(&network, 1, 11));
    let (gone, told) = std::sync::mpsc::channel();
    end.serve(Last { end: end.clone(), gone }, 8);
    let mut call = CalculatorCalls::new(Channel::to(&client_end, server)).func1(1);
    for envelope in network.take_queue(|_| true) {
        network.deliver(&envelope).unwrap();
    }
    let stopping = end.clone();
    std::thread::spawn(move || stopping.stop_serving());
    let counted = told.recv_timeout(std::time::Duration::from_secs(20));
    assert_eq!(counted, Ok(0), "it is dropped without the lock that it needs");
    assert_eq!(end.run_ready(), 1);
    network.settle();
    let outcome = call.try_take().expect("its call has ended");
    assert_eq!(outcome.unwrap_err().kind, ErrorKind::Cancelled);
}
