//! What is sent again, dropped or refused moves the counter of its reason.

use super::rig::{Rig, addr, assert_exactly_once, lan, pattern};
use crate::net::{Counters, OutMessage, Priority, SendError, SessionHandle};
use crate::page::Span;

const PATIENCE: Span = Span::from_ms(1_000);

/// Two nodes with a session that has been quiet for a while.
fn quiet_pair() -> (Rig, SessionHandle, Counters) {
    let (mut rig, a, _) = Rig::pair(lan(1));
    rig.run(Span::from_ms(50));
    let before = counters(&rig, a);
    (rig, a, before)
}

fn counters(rig: &Rig, session: SessionHandle) -> Counters {
    rig.nodes[0].endpoint.session_counters(session).expect("the session goes on")
}

fn settle(rig: &mut Rig, session: SessionHandle) {
    rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(session) == Some(0));
    rig.run(Span::from_ms(5));
}

#[test]
fn bytes_sent_again_to_a_late_peer_are_told_from_lost_ones() {
    let (mut rig, a, before) = quiet_pair();
    let late = rig.now + Span::from_ms(2);
    rig.nodes[1].stopped_until(late);
    rig.send(0, a, &pattern(0, 100), Priority::Control);
    settle(&mut rig, a);
    let now = counters(&rig, a);
    assert!(now.resent_on_timeout > before.resent_on_timeout, "{now:?}");
    assert!(now.resent_in_vain > before.resent_in_vain, "{now:?}");
    assert_eq!(now.packets_lost, before.packets_lost);
    assert_exactly_once(&rig.nodes[1], 1);
}

#[test]
fn a_lost_packet_was_not_sent_again_in_vain() {
    let (mut rig, a, before) = quiet_pair();
    // Nothing passes.
    rig.path_mtu = 0;
    rig.send(0, a, &pattern(0, 100), Priority::Control);
    rig.path_mtu = 1 << 16;
    settle(&mut rig, a);
    let now = counters(&rig, a);
    assert_eq!(now.packets_lost, before.packets_lost + 1, "{now:?}");
    assert_eq!(now.lost_overtaken + now.lost_late, before.lost_overtaken + before.lost_late + 1);
    assert_eq!(now.resent_in_vain, before.resent_in_vain);
    assert_exactly_once(&rig.nodes[1], 1);
}

#[test]
fn a_packet_that_three_overtook_and_that_arrives_later_was_sent_again_in_vain() {
    let (mut rig, a, before) = quiet_pair();
    (rig.capture, rig.path_mtu) = (Some(Vec::new()), 0);
    rig.send(0, a, &pattern(0, 100), Priority::Control);
    let late = rig.capture.take().expect("switched on").remove(0);
    rig.path_mtu = 1 << 16;
    (1..5).for_each(|number| rig.send(0, a, &pattern(number, 100), Priority::Control));
    settle(&mut rig, a);
    let now = counters(&rig, a);
    assert_eq!(now.lost_overtaken, before.lost_overtaken + 1, "{now:?}");
    assert_eq!((now.resent_in_vain, now.lost_late), (before.resent_in_vain, before.lost_late));
    rig.inject(1, addr(0), &late.bytes);
    rig.send(0, a, &pattern(5, 100), Priority::Control);
    settle(&mut rig, a);
    assert_eq!(counters(&rig, a).resent_in_vain, before.resent_in_vain + 1);
    assert_exactly_once(&rig.nodes[1], 6);
}

#[test]
fn hellos_and_welcomes_that_are_sent_again_are_counted() {
    let mut rig = Rig::new(2, lan(2));
    rig.path_mtu = 0;
    rig.nodes[0].endpoint.connect(rig.now, addr(1)).expect("room for a session");
    rig.flush(0);
    rig.path_mtu = 1 << 16;
    rig.run(Span::from_ms(50));
    assert_eq!(rig.nodes[0].endpoint.counters().hellos_resent, 1);

    let mut rig = Rig::new(2, lan(2));
    rig.capture = Some(Vec::new());
    rig.nodes[0].endpoint.connect(rig.now, addr(1)).expect("room for a session");
    rig.flush(0);
    let hello = rig.capture.take().expect("switched on").remove(0);
    rig.inject(1, addr(0), &hello.bytes);
    rig.inject(1, addr(0), &hello.bytes);
    assert_eq!(rig.nodes[1].endpoint.counters().welcomes_resent, 1);
}

#[test]
fn messages_without_room_are_counted_at_the_end_that_had_none() {
    let (mut rig, a, _) = quiet_pair();
    rig.nodes[1].refuses = true;
    rig.send(0, a, &pattern(0, 100), Priority::Control);
    rig.run(Span::from_ms(20));
    assert!(rig.nodes[1].endpoint.counters().messages_refused > 0);
    let mut refused = 0;
    for _ in 0..100 {
        let message = OutMessage::from_bytes(&[0; 1 << 20]);
        match rig.try_send(0, a, message, Priority::Bulk) {
            Ok(()) => {}
            Err(SendError::Full) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(counters(&rig, a).sends_refused, refused);
}
