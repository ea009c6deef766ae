//! Handshakes and endings.

use std::net::SocketAddr;

use super::rig::{Rig, addr, assert_exactly_once, config, lan, pattern};
use crate::config::net::{HALF_OPEN_COOKIES, HALF_OPEN_MAX, SESSIONS_MAX};
use crate::net::inject::{Chance, InjectorConfig};
use crate::net::{
    CloseReason, ClusterKey, ConnectError, ConnectRefused, EndpointConfig, Event, OutMessage, Priority,
    SendError, SessionHandle, Side, TransmitBuf, Version,
};
use crate::page::{Incarnation, Span};

#[test]
fn both_sides_learn_of_each_other() {
    let (rig, a, b) = Rig::pair(lan(1));
    let expected =
        Event::Connected { session: a, addr: addr(1), incarnation: Incarnation(101), side: Side::Initiator };
    assert_eq!(rig.nodes[0].events, [expected]);
    let expected =
        Event::Connected { session: b, addr: addr(0), incarnation: Incarnation(100), side: Side::Responder };
    assert_eq!(rig.nodes[1].events, [expected]);
}

#[test]
fn a_handshake_survives_loss_and_duplication_and_opens_one_session() {
    for seed in 0..60 {
        let mut rig = Rig::new(
            2,
            InjectorConfig {
                loss: Chance::percent(30),
                duplicate: Chance::percent(30),
                reorder: Chance::percent(30),
                ..lan(seed)
            },
        );
        rig.connect(0, 1);
        rig.run(Span::from_ms(4_000));
        for node in &rig.nodes {
            assert_eq!(node.events.len(), 1, "seed {seed}: {:?}", node.events);
        }
    }
}

#[test]
fn a_peer_with_another_key_gets_no_reply_at_all() {
    let mut rig = Rig::new(1, lan(1));
    let stranger = EndpointConfig { key: ClusterKey::new([1; 32]), ..config(1) };
    rig.add(stranger, lan(1));
    let handle = rig.nodes[1].endpoint.connect(rig.now, addr(0)).unwrap();
    rig.flush(1);
    rig.run(Span::from_ms(3_100));
    let counters = rig.nodes[0].endpoint.counters();
    assert!(counters.bad_key >= 5);
    assert_eq!((counters.packets_out, counters.packets_in), (0, 0));
    assert_eq!(failures(&rig, 1), [(handle, addr(0), ConnectError::NoAnswer)]);
    assert!(rig.nodes[0].events.is_empty());
}

/// What a node was told, which is of attempts that failed and of nothing else.
fn failures(rig: &Rig, node: usize) -> Vec<(SessionHandle, SocketAddr, ConnectError)> {
    let failure = |event: &Event| match event {
        Event::ConnectFailed { session, addr, error, .. } => (*session, *addr, *error),
        Event::Connected { .. } | Event::Closed { .. } | Event::Refused { .. } => panic!("{event:?}"),
    };
    rig.nodes[node].events.iter().map(failure).collect()
}

#[test]
fn another_version_is_refused_and_both_are_named() {
    for theirs in [Version::of_library(2), Version { protocol: Version::ours().protocol + 1, library: 1 }] {
        let mut rig = Rig::new(1, lan(1));
        rig.add(EndpointConfig { version: theirs, ..config(1) }, lan(1));
        let handle = rig.nodes[1].endpoint.connect(rig.now, addr(0)).unwrap();
        rig.flush(1);
        rig.run(Span::from_ms(1));
        let error = ConnectError::Version { ours: theirs, theirs: Version::of_library(1) };
        let text = error.to_string();
        assert!(text.contains(&theirs.to_string()) && text.contains(&Version::of_library(1).to_string()));
        assert_eq!(failures(&rig, 1), [(handle, addr(0), error)]);
        assert!(rig.nodes[0].events.is_empty());
    }
}

#[test]
fn an_attempt_that_nobody_hears_ends_in_time_and_says_what_the_network_said() {
    let mut rig = Rig::new(1, lan(1));
    rig.nodes[0].endpoint.connect(rig.now, addr(7)).unwrap();
    rig.nodes[0].endpoint.connect(rig.now, addr(8)).unwrap();
    rig.nodes[0].endpoint.handle_refused(rig.now, addr(8));
    rig.flush(0);
    rig.run(Span::from_ms(3_001));
    let errors: Vec<_> = rig.nodes[0]
        .events
        .iter()
        .map(|event| match event {
            Event::ConnectFailed { addr, error, .. } => (*addr, *error),
            Event::Connected { .. } | Event::Closed { .. } | Event::Refused { .. } => panic!("{event:?}"),
        })
        .collect();
    assert_eq!(errors, [(addr(7), ConnectError::NoAnswer), (addr(8), ConnectError::NobodyListens)]);
    assert_eq!(rig.nodes[0].endpoint.poll_timeout(), None);
}

#[test]
fn a_second_attempt_to_the_same_address_names_the_first() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    assert_eq!(rig.nodes[0].endpoint.connect(rig.now, addr(1)), Err(ConnectRefused::Exists(a)));
}

#[test]
fn a_flood_of_hellos_keeps_a_bounded_table_and_lets_a_real_one_in() {
    let mut rig = Rig::new(2, lan(1));
    let hello = first_hello(&mut rig);
    for port in 1..=HALF_OPEN_MAX as u16 * 4 {
        rig.inject(1, ([10, 9, 9, 9], port).into(), &hello);
    }
    let flooded = rig.nodes[1].endpoint.counters();
    // Who sends what others have said cannot bring a cookie, and pushes nobody out.
    assert_eq!(flooded.cookies_sent, (HALF_OPEN_MAX * 4 - HALF_OPEN_COOKIES) as u64);
    assert_eq!(flooded.half_open_evicted, 0);
    rig.flush(1);
    let counters = rig.nodes[1].endpoint.counters();
    assert!(counters.packets_out <= HALF_OPEN_MAX as u64, "{} answers", counters.packets_out);
    rig.nodes[0].events.clear();
    // A real one is asked for a cookie, and brings it.
    rig.connect(0, 1);
    assert_eq!(rig.nodes[1].endpoint.counters().cookies_sent, flooded.cookies_sent + 1);
    rig.run(Span::from_ms(4_000));
    for node in &rig.nodes {
        assert_eq!(node.events.len(), 1, "{:?}", node.events);
    }
}

/// Lets node 0 say hello, and loses it.
fn first_hello(rig: &mut Rig) -> Vec<u8> {
    rig.capture = Some(Vec::new());
    rig.nodes[0].weather.set_weather(InjectorConfig { loss: Chance::percent(100), ..lan(1) });
    let handle = rig.nodes[0].endpoint.connect(rig.now, addr(1)).unwrap();
    rig.flush(0);
    rig.nodes[0].endpoint.close(rig.now, handle, 0, "");
    rig.nodes[0].weather.set_weather(lan(1));
    rig.capture.take().unwrap().remove(0).bytes
}

#[test]
fn answers_are_never_longer_than_what_asked_for_them() {
    let mut rig = Rig::new(2, lan(1));
    let hello = first_hello(&mut rig);
    rig.capture = Some(Vec::new());
    rig.inject(1, ([10, 9, 9, 9], 1).into(), &hello);
    rig.flush(1);
    rig.run(Span::from_ms(4_000));
    let answered: usize = rig.capture.unwrap().iter().map(|d| d.bytes.len()).sum();
    assert!(answered <= hello.len(), "{answered} bytes for {}", hello.len());
}

#[test]
fn a_replayed_hello_opens_no_second_session() {
    let mut rig = Rig::new(2, lan(1));
    rig.capture = Some(Vec::new());
    let (a, _) = rig.connect(0, 1);
    let hello = rig.capture.take().unwrap().remove(0);
    for _ in 0..3 {
        rig.inject(1, hello.from, &hello.bytes);
        rig.flush(1);
        rig.run(Span::from_ms(10));
    }
    rig.send(0, a, b"still the first session", Priority::Control);
    rig.run(Span::from_ms(5_000));
    assert_eq!((rig.nodes[0].events.len(), rig.nodes[1].events.len()), (1, 1));
    assert_eq!(rig.nodes[1].delivered.len(), 1);
    assert_eq!(rig.nodes[1].endpoint.counters().stale_handshakes, 3);
}

#[test]
fn a_restarted_peer_ends_its_old_session() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    rig.restart(1, 777);
    rig.send(0, a, b"to the dead", Priority::Control);
    rig.run(Span::from_ms(100));
    assert!(rig.nodes[1].delivered.is_empty());
    assert_eq!(rig.nodes[0].events.len(), 1, "silence closes nothing");
    rig.connect(1, 0);
    assert_eq!(
        rig.nodes[0].events[1..],
        [
            Event::Closed { session: a, reason: CloseReason::PeerRestarted },
            Event::Connected {
                session: rig.connected(0, addr(1)).unwrap(),
                addr: addr(1),
                incarnation: Incarnation(777),
                side: Side::Responder,
            },
        ]
    );
}

/// Found by the simulator: the first packet of a start that left before its session opened arrived
/// after its successor had connected, and ended the successor's session as that of an earlier start.
#[test]
fn a_late_first_packet_of_an_earlier_start_does_not_end_the_session_of_the_next() {
    let mut rig = Rig::new(2, lan(1));
    rig.nodes[1].endpoint.connect(rig.now, addr(0)).unwrap();
    let hello = sent(&mut rig, 1);
    rig.inject(0, addr(1), &hello);
    let welcome = sent(&mut rig, 0);
    rig.inject(1, addr(0), &welcome);
    let late = sent(&mut rig, 1);

    rig.restart(1, 777);
    let (_, session) = rig.connect(1, 0);
    rig.inject(0, addr(1), &late);
    assert_eq!(rig.connected(0, addr(1)), Some(session));
    assert_eq!(rig.nodes[0].events.len(), 1, "{:?}", rig.nodes[0].events);
    rig.send(0, session, b"to the living", Priority::Control);
    rig.run(Span::from_ms(100));
    assert_eq!(rig.nodes[1].delivered.len(), 1);
}

/// Found by the simulator: the same of an attempt that the same start had given up. The two were a cut pair.
#[test]
fn a_late_first_packet_of_an_attempt_that_was_begun_anew_does_not_end_its_session() {
    let mut rig = Rig::new(2, lan(1));
    let attempt = rig.nodes[1].endpoint.connect(rig.now, addr(0)).unwrap();
    let hello = sent(&mut rig, 1);
    rig.inject(0, addr(1), &hello);
    let welcome = sent(&mut rig, 0);
    rig.inject(1, addr(0), &welcome);
    let late = sent(&mut rig, 1);
    // What follows of this attempt is lost too.
    rig.nodes[1].weather.set_weather(InjectorConfig { loss: Chance::percent(100), ..lan(1) });
    rig.run(Span::from_ms(1_005));
    rig.nodes[1].weather.set_weather(lan(1));
    rig.run(Span::from_ms(500));
    let session = rig.connected(0, addr(1)).expect("it was begun anew");
    rig.inject(0, addr(1), &late);
    assert_eq!(rig.nodes[0].events.len(), 1, "{:?}", rig.nodes[0].events);
    rig.send(0, session, b"for the attempt that came up", Priority::Control);
    rig.run(Span::from_ms(100));
    assert_eq!(rig.nodes[1].delivered.len(), 1);
    assert_eq!(rig.nodes[1].delivered[0].0, attempt);
}

/// Found by a simulated network: an attempt was answered by a peer that then restarted; the rest of the
/// answer came after the next start had connected, and ended its session as that of an earlier start.
#[test]
fn a_late_answer_of_an_earlier_start_does_not_end_the_session_of_the_next() {
    for packets_late in [1, 2] {
        let mut rig = Rig::new(2, lan(1));
        let attempt = rig.nodes[0].endpoint.connect(rig.now, addr(1)).unwrap();
        let hello = sent(&mut rig, 0);
        rig.inject(1, addr(0), &hello);
        let mut late = vec![sent(&mut rig, 1)];
        if packets_late == 1 {
            rig.inject(0, addr(1), &late.remove(0));
            let ping = sent(&mut rig, 0);
            rig.inject(1, addr(0), &ping);
            rig.now = rig.now + Span::from_ms(1);
            late.push(sent(&mut rig, 1));
        }

        rig.restart(1, 777);
        let (_, session) = rig.connect(1, 0);
        late.iter().for_each(|packet| rig.inject(0, addr(1), packet));
        rig.run(Span::from_ms(100));
        let closed = |event: &&Event| matches!(event, Event::Closed { session: s, .. } if *s == session);
        assert_eq!(rig.nodes[0].events.iter().find(closed), None);
        rig.send(0, session, b"to the living", Priority::Control);
        rig.run(Span::from_ms(100));
        assert_eq!(rig.nodes[1].delivered.len(), 1);
        // The attempt goes on, and the living answer it.
        assert_eq!(rig.connected(0, addr(1)), Some(attempt));
        rig.send(0, attempt, b"to the living too", Priority::Control);
        rig.run(Span::from_ms(100));
        assert_eq!(rig.nodes[1].delivered.len(), 2);
    }
}

/// Found by the simulator: a process that got no core took the answer that lay in its socket for none.
#[test]
fn an_attempt_is_not_over_while_its_answer_may_lie_in_the_socket() {
    for stops_after in [Span(0), Span::from_us(30), Span::from_us(60)] {
        let mut rig = Rig::new(2, lan(1));
        let attempt = rig.nodes[0].endpoint.connect(rig.now, addr(1)).unwrap();
        rig.flush(0);
        rig.run(stops_after);
        let until = rig.now + Span::from_ms(9_000);
        rig.nodes[0].stopped_until(until);
        rig.run(Span::from_ms(12_000));
        assert_eq!(rig.connected(0, addr(1)), Some(attempt), "{:?}", rig.nodes[0].events);
        assert_eq!(rig.nodes[0].events.len(), 1, "{:?}", rig.nodes[0].events);
    }
}

const SENT: u64 = 20;

/// Node 1 has a session of which node 0 does not know, has sent messages there, and is not heard for so long.
/// Attempts of node 0 that fail are followed by others, of the same series or of a new one.
fn unheard(longest: Span, same_series: bool) -> Rig {
    let mut rig = Rig::new(2, lan(1));
    rig.nodes[0].endpoint.connect(rig.now, addr(1)).unwrap();
    rig.flush(0);
    rig.run_until(Span::from_ms(1), |rig| rig.nodes[1].endpoint.counters().packets_out > 0);
    rig.nodes[1].weather.set_weather(InjectorConfig { loss: Chance::percent(100), ..lan(1) });
    rig.run_until(Span::from_ms(1), |rig| rig.connected(1, addr(0)).is_some());
    let session = rig.connected(1, addr(0)).unwrap();
    for number in 0..SENT {
        let priority = if number % 2 == 0 { Priority::Control } else { Priority::Bulk };
        rig.send(1, session, &pattern(number, 200), priority);
    }
    let heals_at = rig.now + longest;
    while rig.now < heals_at {
        rig.run(Span::from_ms(100));
        if let Some(Event::ConnectFailed { addr, series, .. }) = rig.nodes[0].events.pop() {
            let Rig { nodes, now, .. } = &mut rig;
            let endpoint = &mut nodes[0].endpoint;
            let begun = match same_series {
                true => endpoint.connect_again(*now, addr, series),
                false => endpoint.connect(*now, addr),
            };
            begun.expect("the attempt before has failed");
            rig.flush(0);
        }
    }
    rig.nodes[1].weather.set_weather(lan(1));
    rig.run(Span::from_ms(4_000));
    rig
}

/// Why the sessions of a node ended.
fn ends(rig: &Rig, node: usize) -> Vec<CloseReason> {
    let reason = |event: &Event| match event {
        Event::Closed { reason, .. } => Some(reason.clone()),
        Event::Connected { .. } | Event::ConnectFailed { .. } | Event::Refused { .. } => None,
    };
    rig.nodes[node].events.iter().filter_map(reason).collect()
}

/// Found by the simulator: a page that was sent in a session of which its receiver never knew was lost with it.
#[test]
fn what_was_sent_in_a_session_of_which_the_peer_never_knew_arrives_once_and_in_order() {
    for longest in [2_500, 4_000, 8_000].map(Span::from_ms) {
        let rig = unheard(longest, true);
        assert_exactly_once(&rig.nodes[0], SENT);
        for parity in [0, 1] {
            let numbers = rig.nodes[0].delivered.iter().map(|(_, bytes)| bytes[0]);
            assert!(numbers.filter(|number| number % 2 == parity).is_sorted(), "of one priority");
        }
        assert_eq!(ends(&rig, 1), [CloseReason::BegunAnew], "{longest:?}");
    }
}

#[test]
fn a_session_that_another_series_of_attempts_replaces_takes_its_messages_with_it() {
    let rig = unheard(Span::from_ms(4_000), false);
    assert!(rig.nodes[0].delivered.is_empty(), "nobody knows whether they had arrived");
    assert_eq!(ends(&rig, 1), [CloseReason::Replaced]);
}

/// The next datagram of a node, kept from the network.
fn sent(rig: &mut Rig, node: usize) -> Vec<u8> {
    let (mut buf, mut bytes) = (TransmitBuf::default(), Vec::new());
    let transmit = rig.nodes[node].endpoint.poll_transmit(rig.now, &mut buf);
    transmit.expect("something to send").copy_into(&mut bytes);
    bytes
}

#[test]
fn a_close_is_told_to_the_peer_even_when_its_packet_is_lost() {
    let (mut rig, a, b) = Rig::pair(lan(1));
    rig.run(Span::from_ms(100));
    rig.nodes[0].weather.set_weather(InjectorConfig { loss: Chance::percent(100), ..lan(1) });
    rig.nodes[0].endpoint.close(rig.now, a, 7, "leaving");
    rig.flush(0);
    rig.nodes[0].weather.set_weather(lan(1));
    let late = OutMessage::from_bytes(b"too late");
    assert_eq!(rig.nodes[0].endpoint.send(rig.now, a, late, Priority::Control), Err(SendError::Closed));
    rig.run(Span::from_ms(1));
    rig.send(1, b, b"are you there?", Priority::Control);
    rig.run(Span::from_ms(1));
    let reason = CloseReason::Peer { code: 7, reason: "leaving".to_owned() };
    assert_eq!(rig.nodes[1].events[1..], [Event::Closed { session: b, reason }]);
    rig.run(Span::from_ms(1_000));
    assert_eq!(rig.nodes[0].endpoint.poll_timeout(), None, "the closed session is forgotten");
    rig.connect(0, 1);
}

#[test]
fn the_network_s_hint_is_passed_on_once_and_closes_nothing() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    for _ in 0..3 {
        rig.nodes[0].endpoint.handle_refused(rig.now, addr(1));
    }
    rig.flush(0);
    assert_eq!(rig.nodes[0].events[1..], [Event::Refused { session: a }]);
    rig.send(0, a, b"hello?", Priority::Control);
    rig.run(Span::from_ms(10));
    rig.nodes[0].endpoint.handle_refused(rig.now, addr(1));
    rig.flush(0);
    assert_eq!(rig.nodes[0].events.len(), 3, "it was heard of again in between");
}

#[test]
fn silence_and_a_ping_are_seen_in_last_heard() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    rig.run(Span::from_ms(500));
    let before = rig.nodes[0].endpoint.last_heard(a).unwrap();
    assert!(rig.now.since(before) > Span::from_ms(490));
    rig.nodes[0].endpoint.ping(a);
    rig.flush(0);
    rig.run(Span::from_ms(1));
    assert!(rig.now.since(rig.nodes[0].endpoint.last_heard(a).unwrap()) < Span::from_ms(1));
}

/// Anybody can send a packet again that was on the network once, also when its sender is dead.
#[test]
fn a_packet_that_comes_again_is_no_sign_of_life() {
    let (mut rig, a, b) = Rig::pair(lan(1));
    rig.run(Span::from_ms(500));
    rig.capture = Some(Vec::new());
    rig.send(1, b, b"here", Priority::Control);
    rig.run(Span::from_ms(10));
    let captured = rig.capture.take().unwrap();
    let old: Vec<_> = captured.into_iter().filter(|datagram| datagram.to == addr(0)).collect();
    assert!(!old.is_empty());
    let heard = rig.nodes[0].endpoint.last_heard(a).unwrap();
    rig.run(Span::from_ms(100));
    for datagram in &old {
        rig.inject(0, datagram.from, &datagram.bytes);
    }
    assert_eq!(rig.nodes[0].endpoint.last_heard(a), Some(heard));
}

#[test]
fn there_are_no_more_sessions_than_the_bound() {
    let mut rig = Rig::new(1, lan(1));
    for port in 0..SESSIONS_MAX as u16 {
        rig.nodes[0].endpoint.connect(rig.now, ([10, 8, 8, 8], port).into()).unwrap();
    }
    let refused = rig.nodes[0].endpoint.connect(rig.now, addr(5));
    assert_eq!(refused, Err(ConnectRefused::Full));
    rig.flush(0);
    rig.run(Span::from_ms(3_100));
    assert!(rig.nodes[0].endpoint.connect(rig.now, addr(5)).is_ok());
}

/// The endpoint lives behind a lock that several threads take.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<crate::net::Endpoint>();
    is_send::<crate::net::udp::Outlet>();
};
