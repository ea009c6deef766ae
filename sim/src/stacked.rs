//! The network of the stacked rig: every node has a real endpoint of the transport, and datagrams are
//! lost, doubled, delayed, reordered and damaged, and wait while their receiver is paused. What one
//! call of a core says to one peer goes into one batch, as a node sends it.

use std::net::SocketAddr;

use pagemesh::coherence::{BATCH_MESSAGES_MAX, Batch, Message, encode_batch_head};
use pagemesh::net::{
    CloseReason, ClusterKey, Endpoint, EndpointConfig, Event as NetEvent, OutMessage, Priority,
    SessionHandle, TransmitBuf, Version,
};
use pagemesh::page::{Epoch, Incarnation, NodeId, PageBuf, Span, Time};

use crate::plan::Net;
use crate::trace::What;
use crate::world::{Event, Phase, World};

/// A receive buffer as Linux has it.
const SOCKET_BUFFER: usize = 212_992;
/// From then on no datagram is lost or damaged any more: everything must end.
const HEALED_AT: Time = Time(5_000_000_000);

/// A node's end of the network.
pub(crate) struct Port {
    endpoint: Endpoint,
    sessions: Vec<(SessionHandle, NodeId, u32)>,
    /// Messages that wait for a session to open.
    waiting: Vec<(NodeId, OutMessage, Priority)>,
    /// Messages of the call under way, to be batched.
    outgoing: Vec<(NodeId, Message, Option<PageBuf>)>,
    buf: TransmitBuf,
    timer_at: Option<Time>,
    paused_until: Time,
}

/// A datagram under way.
pub(crate) struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

impl World {
    /// The endpoint of a fresh incarnation.
    pub(crate) fn fresh_port(&mut self, incarnation: u32) -> Port {
        let key = ClusterKey::new([7; 32]);
        let version = Version::of_library(1);
        let config = EndpointConfig::new(key, Incarnation(u64::from(incarnation)), version, SOCKET_BUFFER);
        Port {
            endpoint: Endpoint::new(config, self.shared.rng.u64(..)),
            sessions: Vec::new(),
            waiting: Vec::new(),
            outgoing: Vec::new(),
            buf: TransmitBuf::default(),
            timer_at: None,
            paused_until: Time(0),
        }
    }

    /// Opens a session to a member.
    pub(crate) fn connect(&mut self, from: NodeId, to: NodeId) {
        let now = self.shared.now;
        if let Some(port) = &mut self.node(from).port {
            // An attempt that runs already is as good as a second one.
            let _ = port.endpoint.connect(now, addr(to));
            self.flush(from);
        }
    }

    /// Ends the session with a node that is no member any more.
    pub(crate) fn disconnect(&mut self, node: NodeId, gone: NodeId) {
        let now = self.shared.now;
        let Some(port) = &mut self.node(node).port else { return };
        for &(session, ..) in port.sessions.iter().filter(|session| session.1 == gone) {
            port.endpoint.close(now, session, 1, "no member");
        }
        port.sessions.retain(|session| session.1 != gone);
        port.waiting.retain(|waiting| waiting.0 != gone);
        self.flush(node);
    }

    pub(crate) fn queue(&mut self, from: NodeId, to: NodeId, message: Message, page: Option<PageBuf>) {
        let port = self.node(from).port.as_mut().expect("the stacked rig has ports");
        port.outgoing.push((to, message, page));
    }

    /// Sends what the last call of the core has said, one batch a peer.
    pub(crate) fn send_batches(&mut self, from: NodeId) {
        let Some(port) = &mut self.node(from).port else { return };
        if port.outgoing.is_empty() {
            return;
        }
        let mut outgoing = std::mem::take(&mut port.outgoing);
        while let Some(&(to, ..)) = outgoing.first() {
            let (mine, others): (Vec<_>, Vec<_>) = outgoing.into_iter().partition(|item| item.0 == to);
            outgoing = others;
            for batch in mine.chunks(BATCH_MESSAGES_MAX) {
                let (message, priority) = encode(batch);
                self.send_or_wait(from, to, message, priority);
            }
        }
        self.flush(from);
    }

    fn send_or_wait(&mut self, from: NodeId, to: NodeId, message: OutMessage, priority: Priority) {
        let now = self.shared.now;
        let port = self.node(from).port.as_mut().expect("the stacked rig has ports");
        match port.sessions.iter().rev().find(|session| session.1 == to) {
            Some(&(session, ..)) => {
                let sent = port.endpoint.send(now, session, message, priority);
                if let Err(error) = sent {
                    self.shared.oracle.fail(|| format!("a member can be sent to: {from} to {to}: {error}"));
                }
            }
            None => port.waiting.push((to, message, priority)),
        }
    }

    /// Puts on the network what an endpoint has to send, and takes note of what happened to its sessions.
    pub(crate) fn flush(&mut self, node: NodeId) {
        let now = self.shared.now;
        let Some(mut port) = self.node(node).port.take() else { return };
        while let Some(transmit) = port.endpoint.poll_transmit(now, &mut port.buf) {
            let mut bytes = Vec::with_capacity(transmit.len);
            transmit.copy_into(&mut bytes);
            let datagram = Datagram { from: addr(node), to: transmit.to, bytes };
            self.suffer(datagram);
        }
        let mut events = Vec::new();
        events.extend(std::iter::from_fn(|| port.endpoint.poll_event()));
        let due = port.endpoint.poll_timeout().map(|due| due.max(now));
        if let Some(due) = due.filter(|&due| port.timer_at.is_none_or(|at| due < at)) {
            port.timer_at = Some(due);
            let incarnation = self.node(node).incarnation;
            self.schedule(due, Event::PortTimer { node, incarnation });
        }
        self.node(node).port = Some(port);
        for event in events {
            self.on_net_event(node, event);
        }
        self.settle_left(node);
    }

    fn on_net_event(&mut self, node: NodeId, event: NetEvent) {
        match event {
            NetEvent::Connected { session, addr, incarnation, .. } => {
                let peer = NodeId(addr.port() - PORT_BASE);
                let incarnation = incarnation.0 as u32;
                let now = self.shared.now;
                let slot = self.node(node);
                let port = slot.port.as_mut().expect("the stacked rig has ports");
                if slot.view[peer.0 as usize] != Some(incarnation) {
                    // A handshake that was late: its node has left or died meanwhile.
                    port.endpoint.close(now, session, 1, "no member");
                    return self.flush(node);
                }
                port.sessions.push((session, peer, incarnation));
                let (ready, waiting) =
                    std::mem::take(&mut port.waiting).into_iter().partition(|item| item.0 == peer);
                port.waiting = waiting;
                let ready: Vec<(NodeId, OutMessage, Priority)> = ready;
                for (to, message, priority) in ready {
                    self.send_or_wait(node, to, message, priority);
                }
                self.flush(node);
            }
            NetEvent::ConnectFailed { addr, .. } => {
                let peer = NodeId(addr.port() - PORT_BASE);
                if self.node(node).view[peer.0 as usize].is_some() {
                    self.connect(node, peer);
                }
            }
            NetEvent::Closed { session, reason } => {
                let port = self.node(node).port.as_mut().expect("the stacked rig has ports");
                port.sessions.retain(|known| known.0 != session);
                if let CloseReason::Violation(violation) = reason {
                    let why = format!("damage is never taken for a peer's word: {node}, {violation}");
                    self.shared.oracle.fail(|| why);
                }
            }
            NetEvent::Refused { .. } => {}
        }
    }

    /// What the network does to a datagram.
    fn suffer(&mut self, mut datagram: Datagram) {
        let net = self.shared.plan.net;
        let healed = self.shared.now >= HEALED_AT;
        let rng = &mut self.shared.rng;
        if !healed && Net::happens(net.loss_one_in, rng) {
            return;
        }
        if !healed && Net::happens(net.damage_one_in, rng) && !datagram.bytes.is_empty() {
            let at = rng.usize(..datagram.bytes.len());
            datagram.bytes[at] ^= 1 << rng.u8(..8);
        }
        if Net::happens(net.duplicate_one_in, rng) {
            let Datagram { from, to, ref bytes } = datagram;
            let copy = Datagram { from, to, bytes: bytes.clone() };
            let at = self.shared.now + net.delay(&mut self.shared.rng);
            self.post_datagram(copy, at);
        }
        let at = self.shared.now + net.delay(&mut self.shared.rng);
        self.post_datagram(datagram, at);
    }

    fn post_datagram(&mut self, datagram: Datagram, at: Time) {
        let slot = self.datagrams.insert(datagram);
        self.schedule(at, Event::Datagram { slot });
    }

    pub(crate) fn receive(&mut self, slot: u32) {
        let datagram = self.datagrams.remove(slot);
        let node = NodeId(datagram.to.port() - PORT_BASE);
        let now = self.shared.now;
        if self.node(node).phase == Phase::Gone {
            return;
        }
        let pause = self.shared.rng.u32(..400) == 0;
        let longest = self.shared.rng.u64(..20_000_000);
        let port = self.node(node).port.as_mut().expect("the stacked rig has ports");
        if pause {
            port.paused_until = now + Span(longest);
        }
        let until = port.paused_until;
        if until > now {
            return self.post_datagram(datagram, until);
        }
        let mut arrived: Vec<(SessionHandle, Vec<u8>)> = Vec::new();
        port.endpoint.handle_datagram(now, datagram.from, &datagram.bytes, &mut |session, bytes| {
            arrived.push((session, bytes.to_vec()));
        });
        // The first packet of a session arrives with the event that names it.
        self.flush(node);
        for (session, bytes) in arrived {
            self.receive_batch(node, session, &bytes);
        }
    }

    fn receive_batch(&mut self, node: NodeId, session: SessionHandle, bytes: &[u8]) {
        let slot = self.node(node);
        let port = slot.port.as_ref().expect("the stacked rig has ports");
        let Some(&(_, from, incarnation)) = port.sessions.iter().find(|known| known.0 == session) else {
            return;
        };
        let is_member = slot.view[from.0 as usize] == Some(incarnation);
        if !is_member || !matches!(slot.phase, Phase::Up | Phase::Leaving) {
            return;
        }
        let batch = match Batch::decode(bytes) {
            Ok(batch) => batch,
            Err(error) => {
                return self
                    .shared
                    .oracle
                    .fail(|| format!("what was sent decodes: {from} to {node}: {error}"));
            }
        };
        for (message, _) in batch.iter() {
            self.record(node, What::Deliver { from, message });
        }
        self.feed_with(node, |core, now, memory| core.handle_batch(now, from, &batch, memory));
        self.disturb(node);
    }

    pub(crate) fn port_timer(&mut self, node: NodeId, incarnation: u32) {
        let now = self.shared.now;
        let slot = self.node(node);
        if slot.incarnation != incarnation || slot.phase == Phase::Gone {
            return;
        }
        if let Some(port) = slot.port.as_mut().filter(|port| port.timer_at == Some(now)) {
            port.timer_at = None;
            self.flush(node);
        }
    }
}

impl Port {
    /// Whether everything that was sent has been acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.waiting.is_empty()
            && self.sessions.iter().all(|&(session, ..)| self.endpoint.pending(session).unwrap_or(0) == 0)
    }
}

const PORT_BASE: u16 = 1_000;

fn addr(node: NodeId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], PORT_BASE + node.0))
}

fn encode(batch: &[(NodeId, Message, Option<PageBuf>)]) -> (OutMessage, Priority) {
    let mut message = OutMessage::default();
    encode_batch_head(&mut message.head, Epoch(1), batch.len());
    for (_, part, page) in batch {
        part.encode(&mut message.head);
        message.pages.extend(page.clone());
    }
    let priority = if message.pages.is_empty() { Priority::Control } else { Priority::Bulk };
    (message, priority)
}
