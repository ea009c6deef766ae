//! Bytes of a peer that breaks the protocol: an error to whoever asked, a counter, and nothing else.

use pagemesh::rpc::local::Envelope;
use pagemesh::rpc::{Decoder, ErrorKind, Wire, begin_frame, end_frame, put_field};
use proptest::prelude::*;

use super::support::Pair;
use crate::calculator::*;

/// The message of one call, as a client writes it.
fn call_message(pair: &Pair) -> Vec<u8> {
    drop(pair.calls().summary(&[], &Some("tag".to_owned())));
    pair.network.take_queue(|_| true)[0].message.clone()
}

fn send(pair: &Pair, message: &[u8]) -> Result<usize, pagemesh::rpc::DecodeError> {
    pair.network.deliver(&Envelope { from: pair.client, to: pair.server, message: message.to_vec() })
}

#[test]
fn every_truncation_of_a_call_is_a_violation_and_runs_nothing() {
    let pair = Pair::by_hand();
    let message = call_message(&pair);
    for len in 1..message.len() {
        assert!(send(&pair, &message[..len]).is_err(), "{len} bytes");
    }
    assert_eq!(pair.server_end.counters().violations, message.len() as u64 - 1);
    assert_eq!((pair.server_end.run_ready(), pair.runs()), (0, 0));
}

#[test]
fn every_flipped_bit_of_a_call_is_survived() {
    let pair = Pair::by_hand();
    let message = call_message(&pair);
    let (stranger, _end) = super::support::peer(&pair.network, 7, 77);
    for bit in 0..message.len() * 8 {
        let mut altered = message.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let _ = pair.network.deliver(&Envelope { from: stranger, to: pair.server, message: altered });
        pair.server_end.run_ready();
    }
    pair.network.take_queue(|_| true);
    let call = pair.calls().func2(1, 2);
    pair.network.settle();
    assert_eq!(call.wait(), Ok(3), "the server serves");
}

#[test]
fn arguments_that_do_not_decode_are_told_to_the_caller() {
    let pair = Pair::driven();
    for arguments in [&[][..], &[0xff; 4], &[0xff; 64], &[4, 0, 0, 0, 9, 9, 9, 9, 2]] {
        let channel = pair.channel();
        let mut call = channel.prepare(&CALCULATOR.methods[3]);
        call.arguments().extend_from_slice(arguments);
        let error = call.start::<Stats, pagemesh::rpc::Error>().wait().unwrap_err();
        let ErrorKind::Remote(text) = error.kind else { panic!("{error}") };
        assert!(text.starts_with("the arguments do not decode"), "{text}");
    }
    assert_eq!(pair.server_end.counters().malformed, 4);
    assert_eq!(pair.runs(), 0);
}

#[test]
fn a_tree_deeper_than_the_limit_is_refused_before_the_stack_ends() {
    let mut bytes = Vec::new();
    for depth in 0..2000 {
        let mut outer = Vec::new();
        let frame = begin_frame(&mut outer);
        put_field(&mut outer, 1, &depth.to_string());
        if depth > 0 {
            // Field 2, framed: the tree so far.
            outer.push(2 << 3 | 4);
            outer.extend_from_slice(&bytes);
        }
        put_field(&mut outer, 4, &Vec::<Tree>::new());
        end_frame(&mut outer, frame);
        bytes = outer;
        let decoded = Tree::decode(&mut Decoder::new(&bytes));
        assert_eq!(decoded.is_ok(), depth < 63, "depth {depth}");
    }
}

#[test]
fn a_short_message_cannot_claim_much_memory() {
    // A million elements of a struct, in four bytes and a million more.
    let mut bytes = 1_000_000u32.to_le_bytes().to_vec();
    bytes.resize(1_000_004, 0);
    assert!(Vec::<Sample>::decode(&mut Decoder::new(&bytes)).is_err());
    assert!(Vec::<u64>::decode(&mut Decoder::new(&[0xff; 12])).is_err());
    assert!(String::decode(&mut Decoder::new(&[0xff; 12])).is_err());
}

#[test]
fn a_server_that_sends_items_without_credit_breaks_the_protocol() {
    let pair = Pair::by_hand();
    let stream = pair.calls().count(3);
    let mut item = vec![3, 0, 0, 0, 0, 0, 0, 0];
    item.extend_from_slice(&0u64.to_le_bytes());
    item.extend_from_slice(&1_000_000u64.to_le_bytes());
    let envelope = Envelope { from: pair.server, to: pair.client, message: item };
    assert!(pair.network.deliver(&envelope).is_err());
    drop(stream);
}

proptest! {
    #[test]
    fn any_bytes_as_a_message_are_survived(message in proptest::collection::vec(any::<u8>(), 0..200)) {
        let pair = Pair::by_hand();
        let _ = send(&pair, &message);
        pair.server_end.run_ready();
    }

    #[test]
    fn any_bytes_as_values_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Tree::decode(&mut Decoder::new(&bytes));
        let _ = Vec::<Sample>::decode(&mut Decoder::new(&bytes));
        let _ = Figure::decode(&mut Decoder::new(&bytes));
    }

    #[test]
    fn what_is_written_is_read(name in ".{0,20}", times in proptest::collection::vec(any::<f64>(), 0..9), far in any::<i64>()) {
        let tree = Tree { name, left: None, right: None, others: Vec::new() };
        let nested = Tree { left: Some(Box::new(tree.clone())), others: vec![tree.clone(); 3], ..tree };
        let mut bytes = Vec::new();
        nested.encode(&mut bytes);
        prop_assert_eq!(Tree::decode(&mut Decoder::new(&bytes)), Ok(nested));
        let mut bytes = Vec::new();
        (times.clone()).encode(&mut bytes);
        TooLarge { limit: far }.encode(&mut bytes);
        let mut from = Decoder::new(&bytes);
        let read = Vec::<f64>::decode(&mut from).unwrap();
        prop_assert_eq!(read.iter().map(|t| t.to_bits()).collect::<Vec<_>>(), times.iter().map(|t| t.to_bits()).collect::<Vec<_>>());
        prop_assert_eq!(TooLarge::decode(&mut from), Ok(TooLarge { limit: far }));
    }
}
