//! Endpoints over real sockets on loopback: what the rig assumes of the kernel, checked.

use std::net::SocketAddr;
use std::time::Instant;

use super::rig::{config, key};
use crate::config::net::PATH_AFTER;
use crate::net::inject::{Chance, Injector, InjectorConfig};
use crate::net::udp::{DATAGRAM_MAX, Outlet, Received, UdpSocket, datagrams};
use crate::net::{
    Endpoint, EndpointConfig, Entropy, Event, OutMessage, Priority, SessionHandle, TransmitBuf, Version,
};
use crate::page::{Incarnation, PageBuf, Span, Time};

const PATIENCE: Span = Span::from_ms(10_000);

struct Node {
    endpoint: Endpoint,
    socket: UdpSocket,
    outlet: Outlet,
    buf: TransmitBuf,
    delivered: usize,
    connected: Option<SessionHandle>,
    refused: usize,
    /// Where datagrams came from last.
    heard_from: Option<SocketAddr>,
}

impl Node {
    fn new(index: u64, injector: Option<Injector>) -> Self {
        // Half of the default: the kernel doubles what it is asked for.
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 212_992 / 2).unwrap();
        let config =
            EndpointConfig::new(key(), Incarnation(index), Version::of_library(1), socket.receive_buffer());
        Node {
            endpoint: Endpoint::new(config, Entropy::of_seed(index)),
            socket,
            outlet: Outlet::new(injector),
            buf: TransmitBuf::default(),
            delivered: 0,
            connected: None,
            refused: 0,
            heard_from: None,
        }
    }

    fn addr(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn turn(&mut self, now: Time, buffer: &mut [u8]) {
        loop {
            match self.socket.receive(buffer).unwrap() {
                Received::Datagrams { len, segment, from } => {
                    self.heard_from = Some(from);
                    let delivered = &mut self.delivered;
                    for datagram in datagrams(&mut buffer[..len], segment) {
                        self.endpoint.handle_datagram(now, from, datagram, &mut |_, _| *delivered += 1);
                    }
                }
                Received::Refused { addr } => self.endpoint.handle_refused(now, addr),
                Received::Failing { .. } | Received::Nothing => break,
            }
        }
        self.outlet.drain(&self.socket, now, &mut self.endpoint, &mut self.buf).unwrap();
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Connected { session, .. } => self.connected = Some(session),
                Event::Refused { .. } => self.refused += 1,
                Event::ConnectFailed { .. } | Event::Closed { .. } => panic!("{event:?}"),
            }
        }
    }
}

/// Turns both nodes until `done`, with one thread, so that the order of events is nearly fixed.
fn drive(start: Instant, nodes: &mut [Node], done: impl Fn(&[Node]) -> bool) {
    let mut datagram = vec![0; DATAGRAM_MAX];
    while !done(nodes) {
        let now = Time(start.elapsed().as_nanos() as u64 + 1);
        assert!(now < Time(0) + PATIENCE, "patience is over");
        for node in &mut *nodes {
            node.turn(now, &mut datagram);
        }
    }
}

fn pages_through(injector: impl Fn(u64) -> Option<Injector>) -> Vec<Node> {
    let start = Instant::now();
    let mut nodes: Vec<Node> = (0..2).map(|index| Node::new(index, injector(index))).collect();
    let to = nodes[1].addr();
    let session = nodes[0].endpoint.connect(Time(1), to).unwrap();
    drive(start, &mut nodes, |nodes| nodes.iter().all(|n| n.connected.is_some()));
    for _ in 0..2_000 {
        let mut message = OutMessage::from_bytes(b"head");
        message.pages.push(PageBuf::zeroed());
        nodes[0].endpoint.send(Time(1), session, message, Priority::Bulk).unwrap();
    }
    drive(start, &mut nodes, |nodes| nodes[0].endpoint.pending(session) == Some(0));
    assert_eq!(nodes[1].delivered, 2_000);
    nodes
}

#[test]
fn two_thousand_pages_pass_a_default_socket_buffer_without_a_drop() {
    let nodes = pages_through(|_| None);
    assert_eq!(nodes[1].socket.receive_buffer(), config(0).socket_buffer);
    assert_eq!(nodes[1].socket.dropped().unwrap(), 0);
    assert_eq!(nodes[0].endpoint.mtu(nodes[0].connected.unwrap()), Some(65_507));
    let (core, socket) = (nodes[0].endpoint.counters(), nodes[0].socket.counters());
    assert_eq!((core.packets_out, core.bytes_out), (socket.datagrams_out, socket.bytes_out));
}

#[test]
fn pages_pass_real_sockets_through_an_injected_storm() {
    let weather = InjectorConfig {
        loss: Chance::percent(5),
        duplicate: Chance::percent(5),
        reorder: Chance::percent(5),
        corrupt: Chance::percent(2),
        delay: Span::from_us(20),
        seed: 0,
    };
    let nodes = pages_through(|seed| Some(Injector::new(InjectorConfig { seed, ..weather })));
    let counters = nodes[1].endpoint.counters();
    assert!(counters.duplicate_packets > 0, "{counters:?}");
    assert!(nodes[0].endpoint.counters().fragments_retransmitted > 0);
}

#[test]
fn a_busy_peer_is_sent_to_from_a_socket_of_its_own_but_for_handshakes() {
    let start = Instant::now();
    let mut nodes = pages_through(|_| None);
    let first = nodes[0].connected.unwrap();
    for _ in 0..2 * PATH_AFTER {
        // A ping is answered at once.
        let heard = nodes[0].endpoint.last_heard(first);
        nodes[0].endpoint.ping(first);
        drive(start, &mut nodes, |nodes| nodes[0].endpoint.last_heard(first) > heard);
    }
    for (node, peer) in [(0, 1), (1, 0)] {
        let (heard_from, addr) = (nodes[node].heard_from.unwrap(), nodes[peer].addr());
        assert!(heard_from.ip() == addr.ip() && heard_from != addr, "{heard_from}");
    }
    // Whoever gets a hello answers to where it came from.
    let to = nodes[0].addr();
    let second = nodes[1].endpoint.connect(Time(start.elapsed().as_nanos() as u64), to).unwrap();
    drive(start, &mut nodes, |nodes| nodes[1].connected == Some(second));
}

#[test]
fn the_end_of_a_peer_s_process_is_hinted_at_by_the_kernel() {
    let start = Instant::now();
    let mut nodes = pages_through(|_| None);
    let session = nodes[0].connected.unwrap();
    nodes.pop();
    nodes[0].endpoint.ping(session);
    drive(start, &mut nodes, |nodes| nodes[0].refused == 1);
    assert!(nodes[0].endpoint.last_heard(session).is_some(), "the session goes on");
}
