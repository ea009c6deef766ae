//! Every kind of call, as users write them.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use pagemesh::page::{GlobalAddr, NodeId};
use pagemesh::rpc::local::LocalRegistry;
use pagemesh::rpc::{Channel, Error, ErrorKind, Global, Policy, Progress, Wire, Workers};

use super::support::{Counting, Pair, peer};
use crate::calculator::*;
use crate::geometry::{Point, Polygon};

fn sample(time: f64) -> Sample {
    let counts = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]);
    Sample { time, values: [1, 2, 3, 4], label: None, color: Color::Blue, counts }
}

fn leaf(name: &str) -> Tree {
    Tree { name: name.to_owned(), left: None, right: None, others: Vec::new() }
}

#[test]
fn a_blocking_call_looks_like_a_local_one() -> Result<(), Error> {
    let pair = Pair::driven();
    let calculator = pair.blocking();
    assert_eq!(calculator.func2(2, 3)?, 5);
    assert_eq!(calculator.echo(&[7; 4096])?, vec![7; 4096]);
    assert_eq!(calculator.summary(&[sample(1.0), sample(3.0)], &Some("tag".to_owned()))?.samples, 5);
    assert_eq!(calculator.summary(&[sample(1.0), sample(3.0)], &None)?.mean, 2.0);
    let polygon = Polygon { corners: vec![Point { x: 0.0, y: 1.0 }; 3], name: None };
    assert_eq!(calculator.area(&Figure::Polygon(polygon), Color::Green)?, 8.0);
    let flags = BTreeMap::from([(1, true), (-2, false)]);
    assert_eq!(calculator.sum(&[1, 2, 3], &flags, 4.0, true, 5)?, 17);
    let ends = [Point { x: 1.0, y: 2.0 }, Point { x: 3.0, y: 4.0 }];
    assert_eq!(calculator.hello("walk", &ends)?, "walk from 1 to 4");
    let tree = Tree { left: Some(Box::new(leaf("l"))), others: vec![leaf("o")], ..leaf("root") };
    let mirrored = calculator.mirror(&tree)?;
    assert_eq!((mirrored.left, mirrored.right), (None, tree.left));
    Ok(())
}

#[test]
fn declared_errors_arrive_as_values_and_others_as_text() {
    let pair = Pair::driven();
    let calculator = pair.blocking();
    assert_eq!(calculator.divide(7, 2), Ok(3));
    assert_eq!(calculator.divide(7, 0), Err(CalculatorDivideError::DivideByZero(DivideByZero {})));
    assert_eq!(calculator.divide(7, 99), Err(TooLarge { limit: 98 }.into()));
    let error = calculator.nothing().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Remote("nothing doing".to_owned()));
    assert_eq!(error.to_string(), "Calculator.nothing at node 1: nothing doing after 0.000 ms");
    let panicked = calculator.func2(1, 13).unwrap_err();
    assert_eq!(panicked.kind, ErrorKind::Remote("the method panicked: thirteen".to_owned()));
    assert_eq!(calculator.func2(1, 2), Ok(3), "the server lives");
}

#[test]
fn a_stream_arrives_in_order_however_its_messages_travel() {
    let pair = Pair::by_hand();
    let items: Result<Vec<i32>, Error> = pair.alive(|| pair.blocking().count(500).collect());
    assert_eq!(items.unwrap(), (0..500).collect::<Vec<_>>());

    let pair = Pair::by_hand();
    let mut stream = pair.calls().count(20);
    pair.deliver();
    pair.server_end.run_ready();
    let mut messages = pair.network.take_queue(|_| true);
    assert_eq!(messages.len(), 21);
    messages.reverse();
    messages.iter().for_each(|message| _ = pair.network.deliver(message).unwrap());
    let items: Vec<i32> = stream.by_ref().map(Result::unwrap).collect();
    assert_eq!(items, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_stream_may_end_with_a_declared_error() {
    let pair = Pair::driven();
    let along = Polygon { corners: vec![Point { x: 0.0, y: 0.0 }; 3], name: Some("p".to_owned()) };
    let mut stream = pair.blocking().walk(&along);
    assert_eq!(stream.by_ref().take(3).filter(Result::is_ok).count(), 3);
    assert_eq!(stream.next(), Some(Err(TooLarge { limit: 3 }.into())));
    assert!(stream.next().is_none());
}

#[test]
fn a_oneway_call_brings_nothing_back() {
    let pair = Pair::by_hand();
    pair.blocking().note("seven!!").unwrap();
    assert_eq!(pair.network.settle(), 1, "one message, no answer");
    assert_eq!(pair.runs(), 7);
}

#[test]
fn a_long_call_reports_how_far_it_is() {
    let pair = Pair::by_hand();
    let call = pair.calls().train(Global::new(GlobalAddr(0x1000), 5, 1));
    assert_eq!(call.progress(), None);
    pair.network.settle();
    assert!(call.is_done());
    assert_eq!(call.progress(), Some(Progress { done: 5, total: 5 }));
    assert_eq!(call.wait().unwrap().weights, [5.0]);
}

#[test]
fn a_batch_travels_in_one_message_and_its_answers_too() {
    let pair = Pair::by_hand();
    // A method that nothing is known of might be slow, and answers before it do not wait for it.
    drop(pair.calls().func1(0));
    pair.network.settle();
    let batch = pair.client_end.batch();
    let calls: Vec<_> = (0..64).map(|i| pair.calls().func1(i)).collect();
    assert_eq!(pair.network.in_flight().len(), 0);
    drop(batch);
    assert_eq!(pair.network.in_flight().len(), 1);
    assert_eq!(pair.network.settle(), 2);
    assert!(calls.into_iter().all(|call| call.wait().is_ok()));
    assert_eq!(pair.runs(), (0..64).sum::<i64>());
}

#[test]
fn a_fan_out_asks_every_server_at_once() {
    let pair = Pair::driven();
    let (third, third_end) = peer(&pair.network, 2, 12);
    third_end.serve(CalculatorServer(Counting::default()), 8);
    let registry = LocalRegistry::default().with("Calculator", &[pair.server, third]);
    let channel = Channel::named(&pair.client_end, Arc::new(registry), Policy::RoundRobin);
    let calls: Vec<_> = channel
        .each("Calculator")
        .into_iter()
        .map(|(peer, channel)| (peer, CalculatorCalls::new(channel).func1(5)))
        .collect();
    assert_eq!(pair.network.in_flight().len(), 2);
    let answers: Vec<_> = calls.into_iter().map(|(peer, call)| (peer, call.wait().unwrap())).collect();
    assert_eq!(answers, [(pair.server, 5), (third, 5)]);
}

#[test]
fn policies_choose_the_server() {
    let pair = Pair::by_hand();
    let (third, third_end) = peer(&pair.network, 2, 12);
    third_end.serve(CalculatorServer(Counting::default()), 8);
    let registry = || {
        let registry = LocalRegistry::default().with("Calculator", &[pair.server, third]);
        Arc::new(registry.with_home(GlobalAddr(0x2000), NodeId(2)))
    };
    let turns = CalculatorCalls::new(Channel::named(&pair.client_end, registry(), Policy::RoundRobin));
    let least = CalculatorCalls::new(Channel::named(&pair.client_end, registry(), Policy::LeastInFlight));
    let to = |_: &dyn std::any::Any| pair.network.take_queue(|_| true)[0].to;
    let (first, second) = (turns.func1(1), turns.func1(1));
    assert_eq!(
        pair.network.take_queue(|_| true).iter().map(|e| e.to).collect::<Vec<_>>(),
        [pair.server, third]
    );
    drop(second);
    pair.network.take_queue(|_| true);
    assert_eq!(to(&least.func1(1)), third, "the other one has a call in flight");
    drop(first);
    pair.network.take_queue(|_| true);
    assert_eq!(to(&turns.train(Global::new(GlobalAddr(0x2000), 1, 1))), third, "where the page lives");
    pair.network.take_queue(|_| true);
    assert_eq!(to(&turns.train(Global::new(GlobalAddr(0x2000), 1, 1))), third, "where the page lives");
}

/// An executor of a few lines: it polls when it was woken, and delivers messages in between.
fn block_on<F: Future>(pair: &Pair, future: F) -> F::Output {
    struct Flag(AtomicBool);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let flag = Arc::new(Flag(AtomicBool::new(true)));
    let waker = Waker::from(flag.clone());
    let mut future = pin!(future);
    loop {
        if flag.0.swap(false, Ordering::SeqCst)
            && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        pair.deliver();
        std::thread::yield_now();
    }
}

async fn conversation(calls: CalculatorCalls) -> Result<i32, Error> {
    let (first, second) = (calls.func2(1, 2), calls.func2(3, 4));
    let mut sum = first.await? + second.await?;
    let mut stream = calls.count(100);
    while let Some(item) = stream.next_item().await {
        sum += item?;
    }
    Ok(sum)
}

#[test]
fn futures_run_on_an_executor_of_a_few_lines() {
    let pair = Pair::by_hand();
    let worker = Workers::start(&pair.server_end, 1).unwrap();
    assert_eq!(block_on(&pair, conversation(pair.calls())), Ok(4960));
    drop(worker);
}

#[test]
fn futures_run_on_a_foreign_executor_while_others_deliver() {
    let pair = Pair::by_hand();
    let sum = pair.alive(|| pollster::block_on(conversation(pair.calls())));
    assert_eq!(sum, Ok(4960));
}

#[test]
fn clients_may_be_cloned_and_used_from_any_thread() {
    fn free<T: Clone + Send + Sync + 'static>() {}
    free::<CalculatorClient>();
    free::<CalculatorCalls>();
    fn movable<T: Send + 'static>() {}
    movable::<pagemesh::rpc::Call<i32>>();
}

#[test]
fn fields_that_a_reader_does_not_know_are_passed_over() {
    let mut bytes = Vec::new();
    sample(2.5).encode(&mut bytes);
    let mut newer = Vec::new();
    let frame = pagemesh::rpc::begin_frame(&mut newer);
    pagemesh::rpc::put_field(&mut newer, 1, &9u64);
    pagemesh::rpc::put_field(&mut newer, 1500, &"of a later version".to_owned());
    pagemesh::rpc::put_field(&mut newer, 3, &vec![1u32, 2]);
    pagemesh::rpc::put_field(&mut newer, 2, &0.5f64);
    pagemesh::rpc::end_frame(&mut newer, frame);
    let stats = Stats::decode(&mut pagemesh::rpc::Decoder::new(&newer));
    assert_eq!(stats, Ok(Stats { samples: 9, mean: 0.5 }));
    assert!(
        Stats::decode(&mut pagemesh::rpc::Decoder::new(&bytes)).is_err(),
        "another struct is not mistaken"
    );
}
