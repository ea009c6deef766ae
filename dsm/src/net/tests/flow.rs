//! Windows: throughput, credit, incast, and control beside bulk.

use super::rig::{Rig, SOCKET_BUFFER, assert_exactly_once, config, lan, pattern};
use crate::config::net::SEND_QUEUE_BYTES_MAX;
use crate::net::inject::{Chance, InjectorConfig};
use crate::net::{EndpointConfig, OutMessage, Priority, SendError};
use crate::page::{PAGE_SIZE, PageBuf, Span, Time};

const PATIENCE: Span = Span::from_ms(60_000);

fn page(number: u64) -> OutMessage {
    let mut message = OutMessage::from_bytes(&number.to_le_bytes());
    message.pages.push(PageBuf::zeroed());
    message
}

/// Time that `count` pages take, with `path_mtu` and a share of them lost.
fn pages_take(seed: u64, count: u64, path_mtu: usize, loss: Chance) -> Span {
    let (mut rig, a, _) = Rig::pair(lan(seed));
    rig.path_mtu = path_mtu;
    rig.run(Span::from_ms(1));
    for node in &mut rig.nodes {
        node.weather.set_weather(InjectorConfig { loss, ..lan(seed) });
    }
    for number in 0..count {
        rig.try_send(0, a, page(number), Priority::Bulk).unwrap();
    }
    let took = rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
    assert_eq!(rig.nodes[1].delivered.len() as u64, count);
    assert_eq!(rig.nodes[1].overflows, 0);
    took
}

#[test]
fn one_percent_of_loss_costs_less_than_a_third_of_the_throughput() {
    for path_mtu in [9000, 1 << 16] {
        let (mut lossless, mut lossy) = (0, 0);
        for seed in 0..5 {
            lossless += pages_take(seed, 4_000, path_mtu, Chance(0)).0;
            lossy += pages_take(seed, 4_000, path_mtu, Chance::percent(1)).0;
        }
        let ratio = lossless as f64 / lossy as f64;
        println!("path MTU {path_mtu}: {ratio:.2} of the lossless throughput");
        assert!(ratio >= 0.7, "path MTU {path_mtu}: {ratio:.2} of the lossless throughput");
    }
}

#[test]
fn one_sender_never_overflows_a_default_socket_buffer() {
    let (mut rig, a, _) = Rig::pair(lan(1));
    for number in 0..2_000 {
        rig.try_send(0, a, page(number), Priority::Bulk).unwrap();
    }
    rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
    assert_eq!(rig.nodes[1].overflows, 0);
    assert!(rig.nodes[1].socket_used_max <= SOCKET_BUFFER / 2, "{}", rig.nodes[1].socket_used_max);
    assert_eq!(rig.nodes[0].endpoint.counters().packets_lost, 0);
}

#[test]
fn seven_senders_at_once_do_not_overflow_a_default_socket_buffer() {
    let mut rig = Rig::new(8, lan(2));
    let handles: Vec<_> = (1..8).map(|node| rig.connect(node, 0).0).collect();
    rig.run(Span::from_ms(50));
    let start = rig.now;
    for number in 0..300 {
        for (node, handle) in (1..8).zip(&handles) {
            rig.nodes[node].endpoint.send(rig.now, *handle, page(number), Priority::Bulk).unwrap();
        }
    }
    for node in 1..8 {
        rig.flush(node);
    }
    rig.run_until(PATIENCE, |rig| {
        (1..8).zip(&handles).all(|(node, &handle)| rig.nodes[node].endpoint.pending(handle) == Some(0))
    });
    assert_eq!(rig.nodes[0].overflows, 0);
    assert_eq!(rig.nodes[0].delivered.len(), 7 * 300);
    let took = rig.now.since(start);
    // A seventh of half the buffer is one page: each sender sends one a round trip, of 50 us and
    // what the receiver takes for the other six.
    assert!(took < Span::from_us(300 * (50 + 7 * 2) + 1_000), "{took:?}");
    println!(
        "seven senders: {took:?} for {} pages, {} bytes used at most",
        7 * 300,
        rig.nodes[0].socket_used_max
    );
}

#[test]
fn a_receiver_that_stops_is_not_flooded() {
    let (mut rig, a, _) = Rig::pair(lan(3));
    rig.run(Span::from_ms(1));
    // Nothing is received, as if the process were stopped: the network swallows no byte.
    rig.nodes[1].stopped_until(Time(u64::MAX));
    for number in 0..500 {
        rig.try_send(0, a, page(number), Priority::Bulk).unwrap();
    }
    rig.run(Span::from_ms(1_500));
    assert_eq!(rig.nodes[1].overflows, 0);
    rig.nodes[1].stopped_until(rig.now);
    let took = rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
    assert!(took < Span::from_ms(20), "{took:?}");
    assert_eq!(rig.nodes[1].delivered.len(), 500);
}

#[test]
fn control_is_not_starved_by_bulk() {
    let (mut rig, a, _) = Rig::pair(InjectorConfig { loss: Chance::percent(1), ..lan(4) });
    rig.run(Span::from_ms(1));
    for _ in 0..40 {
        rig.send(0, a, &vec![1; 1 << 20], Priority::Bulk);
    }
    rig.run(Span::from_ms(2));
    let mut worst = Span(0);
    for _ in 0..20 {
        assert!(rig.nodes[0].endpoint.pending(a) > Some(0), "bulk lasts as long as the test");
        rig.nodes[0].weather.set_weather(lan(4));
        rig.nodes[1].delivered.clear();
        rig.send(0, a, b"a control message", Priority::Control);
        rig.nodes[0].weather.set_weather(InjectorConfig { loss: Chance::percent(1), ..lan(4) });
        let arrived =
            |rig: &Rig| rig.nodes[1].delivered.iter().any(|(_, bytes)| bytes == b"a control message");
        worst = worst.max(rig.run_until(PATIENCE, arrived));
    }
    assert!(worst < Span::from_us(200), "{worst:?} under bulk");
}

/// Credit is the limit with a default buffer once the path is known to be good, the congestion
/// window with a large one at the start.
#[test]
fn control_leaves_at_once_when_bulk_has_filled_its_windows() {
    for (socket_buffer, path_mtu, pages_before) in [(SOCKET_BUFFER, 1500, 2_000), (64 << 20, 1 << 16, 0)] {
        let mut rig = Rig::new(0, lan(6));
        for node in 0..2 {
            rig.add(EndpointConfig { socket_buffer, ..config(node) }, lan(6));
        }
        rig.path_mtu = path_mtu;
        let (a, _) = rig.connect(0, 1);
        rig.run(Span::from_ms(1));
        for number in 0..pages_before {
            rig.try_send(0, a, page(number), Priority::Bulk).unwrap();
        }
        rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
        for number in 0..2_000 {
            rig.nodes[0].endpoint.send(rig.now, a, page(number), Priority::Bulk).unwrap();
        }
        rig.flush(0);
        let full = rig.nodes[0].endpoint.counters().packets_out;
        rig.flush(0);
        assert_eq!(rig.nodes[0].endpoint.counters().packets_out, full, "bulk has no room");
        rig.send(0, a, b"a control message", Priority::Control);
        assert_eq!(rig.nodes[0].endpoint.counters().packets_out, full + 1, "control has");
    }
}

#[test]
fn a_full_queue_pushes_back_and_takes_more_once_it_drains() {
    let (mut rig, a, _) = Rig::pair(lan(5));
    let long = vec![0; 1 << 20];
    let mut queued = 0;
    while rig.nodes[0].endpoint.send(rig.now, a, OutMessage::from_bytes(&long), Priority::Bulk).is_ok() {
        queued += 1;
    }
    assert!(queued * long.len() <= SEND_QUEUE_BYTES_MAX && queued >= 60);
    let refused = rig.nodes[0].endpoint.send(rig.now, a, OutMessage::from_bytes(&long), Priority::Bulk);
    assert_eq!(refused, Err(SendError::Full));
    rig.flush(0);
    rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) < Some(queued));
    rig.send(0, a, &long, Priority::Bulk);
}

#[test]
fn a_narrow_path_with_loss_still_delivers_everything() {
    let (mut rig, a, _) = Rig::pair(InjectorConfig { loss: Chance::percent(10), ..lan(6) });
    rig.path_mtu = 1200;
    for number in 0..300 {
        rig.send(0, a, &pattern(number, PAGE_SIZE), Priority::Bulk);
    }
    rig.run_until(PATIENCE, |rig| rig.nodes[0].endpoint.pending(a) == Some(0));
    assert_exactly_once(&rig.nodes[1], 300);
}
