//! Datagrams that no sender of ours meant: altered, cut, replayed, forged. A counter moves, nothing else.

use super::rig::{Datagram, Rig, addr, config, lan};
use crate::codec::Writer;
use crate::config::net::{HALF_OPEN_COOKIES, REKEY_AFTER};
use crate::net::wire::{self, PacketRange};
use crate::net::{
    CLOSE_VIOLATION, CloseReason, Counters, EndpointConfig, Event, Priority, SessionHandle, Version,
    Violation,
};
use crate::page::Span;
use crate::settings::Encrypt;

/// Two nodes, with a capture of their handshake and of packets with every frame but CLOSE.
fn capture_all(encrypt: Encrypt) -> Rig {
    let mut rig = Rig::new(0, lan(1));
    for index in 0..2 {
        rig.add(EndpointConfig { encrypt, ..config(index) }, lan(1));
    }
    rig.capture = Some(Vec::new());
    let (a, b) = rig.connect(0, 1);
    rig.send(0, a, b"a whole message", Priority::Control);
    rig.send(1, b, &[3; 30_000], Priority::Bulk);
    rig.run(Span::from_ms(5));
    // What follows is under the next keys.
    rig.run(REKEY_AFTER);
    rig.send(0, a, b"a later message", Priority::Control);
    rig.send(1, b, b"and another", Priority::Control);
    rig.run(Span::from_ms(5));
    rig
}

#[test]
fn what_comes_from_where_no_answer_can_go_gets_none() {
    let mut rig = Rig::new(2, lan(1));
    rig.capture = Some(Vec::new());
    rig.connect(0, 1);
    let captured = rig.capture.replace(Vec::new()).unwrap();
    let hello = captured.iter().find(|datagram| datagram.from == addr(0)).unwrap();
    let mut nowhere = addr(0);
    nowhere.set_port(0);
    rig.inject(1, nowhere, &hello.bytes);
    rig.flush(1);
    assert!(rig.capture.unwrap().iter().all(|datagram| datagram.to != nowhere));
}

#[test]
fn an_altered_or_cut_datagram_moves_a_counter_and_nothing_else() {
    [Encrypt::All, Encrypt::Never].into_iter().for_each(alter_and_cut_all);
}

fn alter_and_cut_all(encrypt: Encrypt) {
    let mut rig = capture_all(encrypt);
    let captured = rig.capture.take().unwrap();
    let odd = captured.iter().filter(|datagram| datagram.bytes[0] == wire::TYPE_DATA_ODD).count();
    assert_eq!(odd > 0, encrypt == Encrypt::All, "two keys");
    rig.run(Span::from_ms(100));
    captured.iter().for_each(|original| alter_and_cut(&mut rig, original));
    // Both ends go on.
    for (node, peer) in [(0, 1), (1, 0)] {
        let session = rig.connected(node, addr(peer)).unwrap();
        rig.send(node, session, b"still here", Priority::Control);
        rig.run(Span::from_ms(5));
        assert!(rig.nodes[peer].delivered.last().is_some_and(|(_, bytes)| bytes == b"still here"));
    }
}

fn alter_and_cut(rig: &mut Rig, original: &Datagram) {
    let mut rng = fastrand::Rng::with_seed(1);
    let node = rig.nodes.iter().position(|n| n.addr == original.to).unwrap();
    let bits = original.bytes.len() * 8;
    // Every bit of headers and short packets, a sample of the rest.
    let sample: Vec<usize> = if bits <= 1000 {
        (0..bits).collect()
    } else {
        (0..1000).chain((0..300).map(|_| rng.usize(1000..bits))).collect()
    };
    for bit in sample {
        let mut bytes = original.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        check_dropped(rig, node, original, &bytes);
    }
    for len in (0..original.bytes.len()).step_by(1 + original.bytes.len() / 200) {
        check_dropped(rig, node, original, &original.bytes[..len]);
    }
}

/// What node `b` answers to a hello, which is given to it alone.
fn answer(rig: &mut Rig, b: usize, hello: &Datagram) -> Datagram {
    rig.inject(b, hello.from, &hello.bytes);
    first_of(rig, b)
}

/// What a node sends now, before all else.
fn first_of(rig: &mut Rig, node: usize) -> Datagram {
    rig.capture = Some(Vec::new());
    rig.flush(node);
    rig.capture.take().unwrap().remove(0)
}

#[test]
fn an_altered_or_cut_refusal_ends_no_attempt() {
    let mut rig = Rig::new(1, lan(1));
    rig.add(EndpointConfig { version: Version::of_library(2), ..config(1) }, lan(1));
    rig.nodes[1].endpoint.connect(rig.now, addr(0)).unwrap();
    let hello = first_of(&mut rig, 1);
    let refusal = answer(&mut rig, 0, &hello);
    assert_eq!(refusal.bytes[0], wire::TYPE_REFUSE);
    alter_and_cut(&mut rig, &refusal);
    assert!(rig.nodes[1].events.is_empty());
    rig.inject(1, refusal.from, &refusal.bytes);
    assert!(matches!(rig.nodes[1].events[..], [Event::ConnectFailed { .. }]));
}

#[test]
fn an_altered_or_cut_cookie_is_used_in_no_hello() {
    let mut rig = Rig::new(2, lan(1));
    rig.nodes[0].endpoint.connect(rig.now, addr(1)).unwrap();
    let hello = first_of(&mut rig, 0);
    for port in 1..=HALF_OPEN_COOKIES as u16 {
        rig.inject(1, ([10, 9, 9, 9], port).into(), &hello.bytes);
    }
    rig.flush(1);
    let cookie = answer(&mut rig, 1, &hello);
    assert_eq!(cookie.bytes[0], wire::TYPE_COOKIE);
    alter_and_cut(&mut rig, &cookie);
    rig.inject(0, cookie.from, &cookie.bytes);
    let again = first_of(&mut rig, 0);
    assert_eq!(again.bytes[0], wire::TYPE_HELLO);
    assert_eq!(answer(&mut rig, 1, &again).bytes[0], wire::TYPE_WELCOME);
}

fn check_dropped(rig: &mut Rig, node: usize, original: &Datagram, bytes: &[u8]) {
    let state = |rig: &Rig| {
        let n = &rig.nodes[node];
        (n.delivered.len(), n.events.len(), n.endpoint.poll_timeout())
    };
    let (before, counters) = (state(rig), rig.nodes[node].endpoint.counters());
    rig.inject(node, original.from, bytes);
    rig.flush(node);
    let after = rig.nodes[node].endpoint.counters();
    assert_eq!(state(rig), before);
    assert_eq!((after.packets_in, after.packets_out), (counters.packets_in, counters.packets_out));
    assert_eq!(dropped(&after), dropped(&counters) + 1);
}

fn dropped(c: &Counters) -> u64 {
    c.malformed + c.unknown_session + c.foreign_address + c.bad_tag + c.bad_key + c.bad_mac
}

#[test]
fn a_replayed_capture_delivers_nothing_twice() {
    let mut rig = capture_all(Encrypt::All);
    let captured = rig.capture.take().unwrap();
    let (events, delivered): (Vec<_>, Vec<_>) =
        rig.nodes.iter().map(|n| (n.events.clone(), n.delivered.clone())).unzip();
    for datagram in &captured {
        let node = rig.nodes.iter().position(|n| n.addr == datagram.to).unwrap();
        rig.inject(node, datagram.from, &datagram.bytes);
    }
    rig.run(Span::from_ms(5_000));
    for (node, (events, delivered)) in rig.nodes.iter().zip(events.iter().zip(&delivered)) {
        assert_eq!((&node.events, &node.delivered), (events, delivered));
    }
}

#[test]
fn a_replayed_capture_is_accepted_by_nobody_after_a_restart() {
    let mut rig = capture_all(Encrypt::All);
    let captured = rig.capture.take().unwrap();
    rig.restart(0, 900);
    rig.restart(1, 901);
    for datagram in &captured {
        let node = rig.nodes.iter().position(|n| n.addr == datagram.to).unwrap();
        rig.inject(node, datagram.from, &datagram.bytes);
        rig.flush(node);
    }
    rig.run(Span::from_ms(5_000));
    for node in &rig.nodes {
        assert!(node.events.is_empty() && node.delivered.is_empty());
        assert_eq!(node.endpoint.counters().packets_in, 0);
    }
}

/// A peer that has the key and breaks the protocol: writes packets of node 0's session itself.
struct Forger {
    rig: Rig,
    session: SessionHandle,
    number: u64,
}

impl Forger {
    fn new() -> Self {
        let mut rig = Rig::new(2, lan(1));
        let (session, _) = rig.connect(0, 1);
        rig.send(0, session, b"x", Priority::Control);
        rig.run(Span::from_ms(5));
        Forger { session, number: 100, rig }
    }

    /// Gives node 1 a packet of these frames.
    fn give(&mut self, frames: impl FnOnce(&mut Vec<u8>)) {
        let forged = self.rig.nodes[0].endpoint.forge(self.session, self.number, frames);
        // Nothing can follow what has ended the session.
        let Some(bytes) = forged else { return };
        self.number = self.number.wrapping_add(1);
        self.rig.inject(1, addr(0), &bytes);
        self.rig.flush(1);
    }

    fn violation(&self) -> Option<Violation> {
        self.rig.nodes[1].events.iter().find_map(|event| match event {
            Event::Closed { reason: CloseReason::Violation(violation), .. } => Some(*violation),
            Event::Closed { .. }
            | Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Refused { .. } => None,
        })
    }
}

#[test]
fn an_acknowledgement_of_an_unsent_packet_ends_the_session_and_the_peer_is_told() {
    let mut forger = Forger::new();
    forger.give(|out| wire::put_ack(out, &[PacketRange { first: 0, last: 1 << 40 }], Span(0)));
    assert_eq!(forger.violation(), Some(Violation::AckOfUnsent));
    assert_eq!(forger.rig.nodes[1].endpoint.counters().violations, 1);
    forger.rig.run(Span::from_ms(1));
    let told = forger.rig.nodes[0].events.iter().any(|event| {
        matches!(event, Event::Closed { reason: CloseReason::Peer { code: CLOSE_VIOLATION, .. }, .. })
    });
    assert!(told, "{:?}", forger.rig.nodes[0].events);
}

#[test]
fn an_acknowledgement_given_twice_is_harmless() {
    let mut forger = Forger::new();
    for _ in 0..10 {
        forger.give(|out| wire::put_ack(out, &[PacketRange { first: 0, last: 0 }], Span(0)));
    }
    assert_eq!(forger.violation(), None);
}

#[test]
fn more_incomplete_messages_than_the_bound_end_the_session() {
    let mut forger = Forger::new();
    for id in 1..=65 {
        assert_eq!(forger.violation(), None);
        forger.give(|out| {
            wire::put_part_head(out, id, 0, 5000, 1);
            out.put_u8(0);
        });
    }
    assert_eq!(forger.violation(), Some(Violation::ReassemblyBounds));
}

#[test]
fn authentic_nonsense_ends_the_session_and_never_the_process() {
    let cases: [(&[u8], Violation); 4] = [
        (&[0], Violation::Malformed(crate::codec::DecodeError::Bad("frame type"))),
        (&[1, 2, 3], Violation::Malformed(crate::codec::DecodeError::Truncated)),
        (&[2, 5, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 0, 0], Violation::FragmentBounds),
        (&[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], Violation::MessageIdAhead),
    ];
    for (frames, violation) in cases {
        let mut forger = Forger::new();
        forger.give(|out| out.put(frames));
        assert_eq!(forger.violation(), Some(violation));
    }
    let mut forger = Forger::new();
    forger.number = u64::MAX;
    forger.give(wire::put_ping);
    assert_eq!(forger.violation(), Some(Violation::PacketNumber));
}

#[test]
fn random_authentic_frames_never_panic() {
    for seed in 0..300 {
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut forger = Forger::new();
        for _ in 0..20 {
            let len = rng.usize(0..60);
            let bytes: Vec<u8> =
                (0..len).map(|i| if i == 0 { rng.u8(0..8) } else { rng.u8(..) & rng.u8(..) }).collect();
            forger.give(|out| out.put(&bytes));
            forger.rig.run(Span::from_us(rng.u64(0..3000)));
        }
    }
}

#[test]
fn a_packet_from_another_address_is_of_no_session() {
    let mut rig = capture_all(Encrypt::All);
    let captured = rig.capture.take().unwrap();
    let before = rig.nodes[1].endpoint.counters();
    let datagram = captured.iter().rev().find(|d| d.to == addr(1)).unwrap();
    rig.inject(1, addr(9), &datagram.bytes);
    assert_eq!(rig.nodes[1].endpoint.counters().foreign_address, before.foreign_address + 1);
}
