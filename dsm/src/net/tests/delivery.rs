//! Every message exactly once and intact, whatever the weather.

use super::rig::{Rig, assert_exactly_once, lan, pattern};
use crate::config::net::PTO_MIN;
use crate::net::inject::{Chance, InjectorConfig};
use crate::net::{OutMessage, Priority};
use crate::page::{PAGE_SIZE, PageBuf, Span};

const PATIENCE: Span = Span::from_ms(60_000);

fn storm(seed: u64) -> InjectorConfig {
    let mut rng = fastrand::Rng::with_seed(seed);
    InjectorConfig {
        loss: Chance::percent(rng.u32(0..=30)),
        duplicate: Chance::percent(rng.u32(0..=10)),
        reorder: Chance::percent(rng.u32(0..=20)),
        corrupt: Chance::percent(rng.u32(0..=5)),
        ..lan(seed)
    }
}

/// Lengths that straddle what the wire distinguishes: nothing, one datagram of each MTU, many.
fn some_len(rng: &mut fastrand::Rng) -> usize {
    match rng.u32(0..10) {
        0 => 8,
        1..=4 => rng.usize(8..300),
        5 | 6 => rng.usize(1_000..5_000),
        7 | 8 => rng.usize(5_000..70_000),
        _ => rng.usize(70_000..300_000),
    }
}

/// Refused messages are sent again like lost ones, also those in pieces of which only the last was refused.
#[test]
fn what_a_peer_has_no_room_for_comes_again_once_and_the_peer_is_heard_meanwhile() {
    for seed in 0..20 {
        let weather = if seed == 0 { lan(seed) } else { storm(seed) };
        let (mut rig, a, _) = Rig::pair(weather);
        rig.nodes[1].refuses = true;
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = 40;
        for number in 0..count {
            let priority = if rng.bool() { Priority::Control } else { Priority::Bulk };
            rig.send(0, a, &pattern(number, some_len(&mut rng)), priority);
        }
        for _ in 0..5 {
            rig.run(Span::from_ms(1_000));
            let heard = rig.nodes[0].endpoint.last_heard(a).expect("the session goes on");
            assert!(rig.now.since(heard) < Span::from_ms(2_000), "seed {seed}: {heard:?}");
        }
        assert!(rig.nodes[1].delivered.is_empty());
        rig.nodes[1].refuses = false;
        rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
        assert_exactly_once(&rig.nodes[1], count);
    }
}

#[test]
fn every_message_arrives_exactly_once_in_a_storm() {
    for seed in 0..40 {
        let (mut rig, a, b) = Rig::pair(storm(seed));
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = 60;
        for number in 0..count {
            let priority = if rng.bool() { Priority::Control } else { Priority::Bulk };
            let (one, other) = (some_len(&mut rng), some_len(&mut rng));
            rig.send(0, a, &pattern(number, one), priority);
            rig.send(1, b, &pattern(number, other), priority);
            rig.run(Span::from_us(rng.u64(0..100)));
        }
        rig.run_until(PATIENCE, |rig| {
            rig.nodes[0].endpoint.pending(a) == Some(0) && rig.nodes[1].endpoint.pending(b) == Some(0)
        });
        assert_exactly_once(&rig.nodes[0], count);
        assert_exactly_once(&rig.nodes[1], count);
        for node in &rig.nodes {
            assert_eq!(node.endpoint.counters().violations, 0);
        }
    }
}

#[test]
fn messages_of_the_greatest_length_arrive_over_every_mtu() {
    for path_mtu in [1200, 1500, 9000, 1 << 16] {
        let weather = InjectorConfig { loss: Chance::percent(2), ..lan(path_mtu as u64) };
        let (mut rig, a, _) = Rig::pair(weather);
        rig.path_mtu = path_mtu;
        for number in 0..6 {
            rig.send(0, a, &pattern(number, 1 << 20), Priority::Bulk);
        }
        rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
        assert_exactly_once(&rig.nodes[1], 6);
        assert_eq!(rig.nodes[0].endpoint.counters().violations, 0);
    }
}

#[test]
fn head_and_pages_arrive_as_one_run_of_bytes() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    for pages in [1usize, 2, 15, 40] {
        let mut message = OutMessage::from_bytes(b"a reply of some pages");
        for page in 0..pages {
            message.pages.push(PageBuf::copy_of(&[page as u8; PAGE_SIZE]));
        }
        let mut expected = Vec::new();
        message.for_slices(0, message.total_len(), |slice| expected.extend_from_slice(slice));
        rig.try_send(0, a, message, Priority::Bulk).unwrap();
        rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
        assert_eq!(rig.nodes[1].delivered.pop().unwrap().1, expected);
    }
}

#[test]
fn an_empty_message_is_a_message() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    rig.send(0, a, b"", Priority::Control);
    rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
    assert_eq!(rig.nodes[1].delivered.len(), 1);
}

#[test]
fn small_messages_that_wait_together_share_a_datagram() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    rig.run(Span::from_ms(1));
    let before = rig.nodes[0].endpoint.counters().packets_out;
    for number in 0..12 {
        let message = OutMessage::from_bytes(&pattern(number, 40));
        rig.nodes[0].endpoint.send(rig.now, a, message, Priority::Control).unwrap();
    }
    rig.flush(0);
    assert_eq!(rig.nodes[0].endpoint.counters().packets_out, before + 1);
    rig.run(Span::from_ms(1));
    assert_exactly_once(&rig.nodes[1], 12);
}

#[test]
fn a_lost_tail_is_sent_again_after_one_probe_timeout() {
    let (mut rig, a, _) = Rig::pair(lan(3));
    rig.run(Span::from_ms(5));
    rig.nodes[0].weather.set_weather(InjectorConfig { loss: Chance::percent(100), ..lan(3) });
    rig.send(0, a, &pattern(0, 100), Priority::Control);
    rig.nodes[0].weather.set_weather(lan(3));
    let took = rig.run_until(PATIENCE, |rig| !rig.nodes[1].delivered.is_empty());
    assert!(took >= PTO_MIN && took.0 < PTO_MIN.0 + Span::from_us(200).0, "{took:?}");
}

#[test]
fn nothing_waits_for_ever_once_the_network_heals() {
    for seed in 0..10 {
        let (mut rig, a, b) = Rig::pair(lan(seed));
        let dead = InjectorConfig { loss: Chance::percent(100), ..lan(seed) };
        for node in &mut rig.nodes {
            node.weather.set_weather(dead);
        }
        for number in 0..50 {
            rig.send(0, a, &pattern(number, 3_000), Priority::Bulk);
            rig.send(1, b, &pattern(number, 30), Priority::Control);
        }
        rig.run(Span::from_ms(20_000));
        assert!(rig.nodes[1].delivered.is_empty());
        for node in &mut rig.nodes {
            node.weather.set_weather(lan(seed));
        }
        let took = rig.run_until(PATIENCE, |rig| {
            rig.nodes[0].endpoint.pending(a) == Some(0) && rig.nodes[1].endpoint.pending(b) == Some(0)
        });
        assert!(took < Span::from_ms(1_500), "{took:?} after 20 s of darkness");
        assert_exactly_once(&rig.nodes[1], 50);
        assert_exactly_once(&rig.nodes[0], 50);
    }
}

#[test]
fn a_path_that_becomes_a_black_hole_for_long_packets_is_survived() {
    let (mut rig, a, _) = Rig::pair(lan(5));
    rig.run(Span::from_ms(1));
    assert!(rig.nodes[0].endpoint.mtu(a).unwrap() > 9000);
    rig.path_mtu = 1500;
    for number in 0..20 {
        rig.send(0, a, &pattern(number, 4200), Priority::Bulk);
    }
    rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
    assert_exactly_once(&rig.nodes[1], 20);
    assert_eq!(rig.nodes[0].endpoint.counters().mtu_black_holes, 1);
    // After the hold, what the path still carries is found again.
    rig.run(Span::from_ms(3_000));
    rig.send(0, a, &pattern(20, 100), Priority::Bulk);
    rig.run(Span::from_ms(100));
    assert_eq!(rig.nodes[0].endpoint.mtu(a), Some(1472));
}

#[test]
fn a_page_goes_as_one_datagram_two_round_trips_after_the_handshake() {
    let (mut rig, a, b) = Rig::pair(lan(6));
    rig.run(Span::from_us(120));
    assert!(rig.nodes[0].endpoint.mtu(a).unwrap() >= 4608);
    assert!(rig.nodes[1].endpoint.mtu(b).unwrap() >= 4608);
}

#[test]
fn a_node_that_has_nothing_to_do_sets_no_timer() {
    let (mut rig, a, _) = Rig::pair(lan(7));
    rig.send(0, a, b"one request", Priority::Control);
    rig.run(Span::from_ms(100));
    assert_eq!(rig.nodes[0].endpoint.poll_timeout(), None);
    assert_eq!(rig.nodes[1].endpoint.poll_timeout(), None);
}
