//! Several endpoints under virtual time, joined by a seeded network: delay, loss, duplication,
//! reorder and corruption by the injector, a path MTU, and receive buffers of finite truesize.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::net::credit::truesize;
use crate::net::inject::{Injector, InjectorConfig};
use crate::net::{
    ClusterKey, Endpoint, EndpointConfig, Entropy, Event, OutMessage, Priority, SendError, SessionHandle,
    Taken, TransmitBuf, Version,
};
use crate::page::{Incarnation, Span, Time};

/// The default `net.core.rmem_default` of Linux.
pub(super) const SOCKET_BUFFER: usize = 212_992;
/// What a node takes to receive and handle one datagram.
const SERVICE: Span = Span::from_us(2);

/// A datagram as it was sent.
#[derive(Clone)]
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

pub(super) struct Node {
    pub(super) endpoint: Endpoint,
    pub(super) addr: SocketAddr,
    pub(super) config: EndpointConfig,
    pub(super) delivered: Vec<(SessionHandle, Vec<u8>)>,
    pub(super) events: Vec<Event>,
    pub(super) weather: Injector,
    /// Datagrams that found the socket buffer full.
    pub(super) overflows: u64,
    socket: VecDeque<Datagram>,
    socket_used: usize,
    pub(super) socket_used_max: usize,
    busy_until: Time,
    /// It has no room for any message.
    pub(super) refuses: bool,
    buf: TransmitBuf,
}

pub(super) struct Rig {
    pub(super) now: Time,
    pub(super) nodes: Vec<Node>,
    pub(super) path_mtu: usize,
    /// Everything that was sent, when switched on.
    pub(super) capture: Option<Vec<Datagram>>,
    seed: u64,
}

pub(super) fn key() -> ClusterKey {
    ClusterKey::new([42; 32])
}

pub(super) fn addr(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 1000 + index as u16))
}

/// A network of 50 us round trip.
pub(super) fn lan(seed: u64) -> InjectorConfig {
    InjectorConfig { delay: Span::from_us(25), seed, ..InjectorConfig::default() }
}

pub(super) fn config(index: usize) -> EndpointConfig {
    EndpointConfig::new(key(), Incarnation(100 + index as u64), Version::of_library(1), SOCKET_BUFFER)
}

impl Node {
    /// The process receives nothing before this time, and its socket buffer fills.
    pub(super) fn stopped_until(&mut self, until: Time) {
        self.busy_until = until;
    }
}

impl Rig {
    /// So many nodes under this weather. Prints the seed, which is the whole of the randomness.
    pub(super) fn new(nodes: usize, weather: InjectorConfig) -> Self {
        println!("seed {}", weather.seed);
        let mut rig =
            Rig { now: Time(1_000), nodes: Vec::new(), path_mtu: 1 << 16, capture: None, seed: weather.seed };
        for index in 0..nodes {
            rig.add(config(index), weather);
        }
        rig
    }

    pub(super) fn add(&mut self, config: EndpointConfig, weather: InjectorConfig) -> usize {
        let index = self.nodes.len();
        let seed = self.seed.wrapping_mul(1000) + index as u64;
        self.nodes.push(Node {
            endpoint: Endpoint::new(config.clone(), Entropy::of_seed(seed)),
            addr: addr(index),
            config,
            delivered: Vec::new(),
            events: Vec::new(),
            weather: Injector::new(InjectorConfig { seed, ..weather }),
            overflows: 0,
            socket: VecDeque::new(),
            socket_used: 0,
            socket_used_max: 0,
            busy_until: Time(0),
            refuses: false,
            buf: TransmitBuf::default(),
        });
        index
    }

    /// Two nodes with a session; the handles of the first and of the second.
    pub(super) fn pair(weather: InjectorConfig) -> (Rig, SessionHandle, SessionHandle) {
        let mut rig = Rig::new(2, weather);
        let (a, b) = rig.connect(0, 1);
        (rig, a, b)
    }

    /// Opens a session from node `a` to node `b`.
    pub(super) fn connect(&mut self, a: usize, b: usize) -> (SessionHandle, SessionHandle) {
        let (now, to, from) = (self.now, self.nodes[b].addr, self.nodes[a].addr);
        let before = self.connected(b, from);
        let handle = self.nodes[a].endpoint.connect(now, to).expect("room for a session");
        self.flush(a);
        self.run_until(Span::from_ms(3_100), |rig| {
            rig.connected(a, to) == Some(handle) && rig.connected(b, from) != before
        });
        (handle, self.connected(b, from).expect("both sides are connected"))
    }

    /// The newest session of a node with an address.
    pub(super) fn connected(&self, node: usize, with: SocketAddr) -> Option<SessionHandle> {
        self.nodes[node].events.iter().rev().find_map(|event| match event {
            Event::Connected { session, addr, .. } if *addr == with => Some(*session),
            Event::Connected { .. }
            | Event::ConnectFailed { .. }
            | Event::Closed { .. }
            | Event::Refused { .. } => None,
        })
    }

    /// Replaces a node by a new start of it at the same address.
    pub(super) fn restart(&mut self, node: usize, incarnation: u64) {
        let config =
            EndpointConfig { incarnation: Incarnation(incarnation), ..self.nodes[node].config.clone() };
        self.nodes[node].endpoint = Endpoint::new(config, Entropy::of_seed(incarnation));
        self.nodes[node].events.clear();
        self.nodes[node].delivered.clear();
    }

    pub(super) fn try_send(
        &mut self,
        node: usize,
        to: SessionHandle,
        message: OutMessage,
        priority: Priority,
    ) -> Result<(), SendError> {
        let sent = self.nodes[node].endpoint.send(self.now, to, message, priority);
        self.flush(node);
        sent
    }

    pub(super) fn send(&mut self, node: usize, to: SessionHandle, bytes: &[u8], priority: Priority) {
        self.try_send(node, to, OutMessage::from_bytes(bytes), priority).expect("queued");
    }

    /// Gives a node a datagram past network and socket buffer.
    pub(super) fn inject(&mut self, node: usize, from: SocketAddr, bytes: &[u8]) {
        let Node { endpoint, delivered, events, refuses, .. } = &mut self.nodes[node];
        endpoint.offer_datagram(self.now, from, &mut bytes.to_vec(), &mut |session, message| {
            if *refuses {
                return Taken::No;
            }
            delivered.push((session, message.to_vec()));
            Taken::Yes
        });
        events.extend(std::iter::from_fn(|| endpoint.poll_event()));
    }

    /// Sends everything that a node has to send now.
    pub(super) fn flush(&mut self, node: usize) {
        let Node { endpoint, weather, buf, events, addr, .. } = &mut self.nodes[node];
        while let Some(transmit) = endpoint.poll_transmit(self.now, buf) {
            assert_eq!(transmit.len, transmit.with_slices(|slices| slices.concat().len()));
            if let Some(capture) = &mut self.capture {
                let mut bytes = Vec::new();
                transmit.copy_into(&mut bytes);
                capture.push(Datagram { from: *addr, to: transmit.to, bytes });
            }
            if transmit.len <= self.path_mtu {
                transmit.with_slices(|slices| weather.offer(self.now, transmit.to, slices));
            }
        }
        events.extend(std::iter::from_fn(|| endpoint.poll_event()));
    }

    /// When something happens next.
    fn next(&self) -> Option<Time> {
        let times = self.nodes.iter().flat_map(|node| {
            let service = (!node.socket.is_empty()).then_some(node.busy_until);
            [node.weather.poll_timeout(), node.endpoint.poll_timeout(), service]
        });
        times.flatten().min().map(|at| at.max(self.now))
    }

    /// Moves time on by `span`, with all that happens meanwhile.
    pub(super) fn run(&mut self, span: Span) {
        let end = self.now + span;
        self.run_while(span, |_| true);
        self.now = end;
    }

    /// Moves time on while `condition` holds, at most by `limit`. Returns the time that passed.
    pub(super) fn run_while(&mut self, limit: Span, condition: impl Fn(&Rig) -> bool) -> Span {
        let start = self.now;
        while condition(self) {
            match self.next() {
                Some(at) if at <= start + limit => self.now = at,
                Some(_) | None => break,
            }
            self.arrive();
            for node in 0..self.nodes.len() {
                self.serve(node);
                self.drain(node);
                if self.nodes[node].endpoint.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.flush(node);
                }
            }
        }
        self.now.since(start)
    }

    /// Runs until `condition`; fails after `limit`.
    pub(super) fn run_until(&mut self, limit: Span, condition: impl Fn(&Rig) -> bool) -> Span {
        let passed = self.run_while(limit, |rig| !condition(rig));
        assert!(condition(self), "not within {limit:?}, seed {}", self.seed);
        passed
    }

    /// Puts what the network delivers now into the socket buffers.
    fn arrive(&mut self) {
        for from in 0..self.nodes.len() {
            let sender = self.nodes[from].addr;
            while let Some((to, bytes)) = self.nodes[from].weather.poll(self.now) {
                let Some(node) = self.nodes.iter_mut().find(|n| n.addr == to) else { continue };
                // The kernel's rule: dropped if what is there already exceeds the buffer.
                if node.socket_used + truesize(bytes.len()) > node.config.socket_buffer {
                    node.overflows += 1;
                    continue;
                }
                node.socket_used += truesize(bytes.len());
                node.socket_used_max = node.socket_used_max.max(node.socket_used);
                node.socket.push_back(Datagram { from: sender, to, bytes });
            }
        }
    }

    /// Tells a node that its socket is empty, if it is and the node looks.
    fn drain(&mut self, node: usize) {
        let Node { endpoint, events, socket, busy_until, .. } = &mut self.nodes[node];
        if socket.is_empty() && *busy_until <= self.now {
            endpoint.handle_drained(self.now);
            events.extend(std::iter::from_fn(|| endpoint.poll_event()));
        }
    }

    /// Lets a node receive one datagram if it has time.
    fn serve(&mut self, node: usize) {
        if self.nodes[node].busy_until > self.now {
            return;
        }
        let Some(datagram) = self.nodes[node].socket.pop_front() else { return };
        self.nodes[node].socket_used -= truesize(datagram.bytes.len());
        self.nodes[node].busy_until = self.now + SERVICE;
        self.inject(node, datagram.from, &datagram.bytes);
        self.flush(node);
    }
}

/// A message whose bytes tell which one it is and whether it is intact.
pub(super) fn pattern(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    bytes.extend((8..len.max(8)).map(|i| (i as u64).wrapping_mul(number | 1).wrapping_add(number) as u8));
    bytes
}

/// Asserts that a node has received the messages `0..count` of [`pattern`], each once and intact.
pub(super) fn assert_exactly_once(node: &Node, count: u64) {
    let mut seen = vec![0; count as usize];
    for (_, bytes) in &node.delivered {
        let number = u64::from_le_bytes(*bytes.first_chunk().expect("a pattern"));
        assert_eq!(*bytes, pattern(number, bytes.len()), "message {number} is intact");
        seen[number as usize] += 1;
    }
    assert!(seen.iter().all(|&n| n == 1), "each exactly once: {seen:?}");
}
