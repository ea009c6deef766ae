//! The network of the run: what happens to datagrams under way, sockets that are full, links that are cut, and
//! strangers.

use std::net::SocketAddr;

use pagemesh::machine::Event as MachineEvent;
use pagemesh::net::{
    ClusterKey, Endpoint, EndpointConfig, Entropy, Event as NetEvent, KeyLife, OutMessage, Priority,
    TransmitBuf, Version,
};
use pagemesh::page::{Incarnation, Span, Time};

use super::clients::CLIENTS;
use super::exchange::STAND_IN;
use super::process::Phase;
use super::{Event, Machines, Plan};
use crate::plan::Net;

/// A datagram under way.
pub(super) struct Datagram {
    pub(super) from: SocketAddr,
    pub(super) to: usize,
    pub(super) bytes: Vec<u8>,
}

/// Somebody who has the key, is no member, and sends what only a member may.
pub(super) struct Stranger {
    endpoint: Endpoint,
    buf: TransmitBuf,
    session: Option<pagemesh::net::SessionHandle>,
    sent: u32,
}

/// First byte of the calls' messages.
const CALLS: u8 = 4;
/// Messages that a stranger sends: more than a node keeps of one that it does not know.
const FLOOD: u32 = 400;
const QUEUE_MAX: usize = 1 << 20;
/// Longest that a datagram takes in addition on a slow link.
const SLOW_MAX: Span = Span::from_ms(60);
const PORT_BASE: u16 = 1_000;
const STRANGER_PORT: u16 = 900;
/// From then on nothing is lost, doubled or damaged any more: everything must end.
const HEALED_AT: Time = Time(20_000_000_000);

pub(super) fn addr(host: usize, process: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1 + host as u8], PORT_BASE + process as u16))
}

pub(super) fn fresh_endpoint(plan: &Plan, incarnation: u64, seed: u64, queue_max: usize) -> Endpoint {
    let key = ClusterKey::new([7; 32]);
    let config = EndpointConfig::new(key, Incarnation(incarnation), Version::of_library(1), 212_992);
    let config = EndpointConfig { queue_max, key_life: key_life(seed), ..config };
    let entropy = if plan.has_curve { Entropy::of_seed(seed) } else { Entropy::of_seed_with(seed, STAND_IN) };
    Endpoint::new(config, entropy)
}

/// The next datagram that an endpoint has to send, and where to.
pub(super) fn next_datagram(
    endpoint: &mut Endpoint,
    now: Time,
    buf: &mut TransmitBuf,
) -> Option<(SocketAddr, Vec<u8>)> {
    let transmit = endpoint.poll_transmit(now, buf)?;
    let mut bytes = Vec::with_capacity(transmit.len);
    transmit.copy_into(&mut bytes);
    Some((transmit.to, bytes))
}

/// Most runs last less than a minute, so keys change sooner in half of the endpoints.
fn key_life(seed: u64) -> KeyLife {
    let mut rng = fastrand::Rng::with_seed(seed);
    let usual = KeyLife::default();
    match rng.u32(..4) {
        0 => KeyLife { packets: rng.u64(1..200), ..usual },
        1 => KeyLife { time: Span::from_ms(rng.u64(1..3_000)), ..usual },
        _ => usual,
    }
}

impl Machines {
    fn host_of(&self, addr: SocketAddr) -> usize {
        match addr {
            SocketAddr::V4(v4) => usize::from(v4.ip().octets()[3] - 1),
            SocketAddr::V6(_) => 0,
        }
    }

    /// A process, or a stranger, sends a datagram.
    pub(super) fn put(&mut self, from: SocketAddr, to: SocketAddr, mut bytes: Vec<u8>) {
        if to.port() == STRANGER_PORT {
            return self.answer_stranger(from, &mut bytes);
        }
        let process = usize::from(to.port() - PORT_BASE);
        let rng = &mut self.shared.rng;
        if rng.u32(..200) == 0 && bytes.len() < 5_000 {
            let at = rng.usize(..=self.recorded.len().min(31));
            match self.recorded.get_mut(at) {
                Some(place) => *place = (from, bytes.clone()),
                None => self.recorded.push((from, bytes.clone())),
            }
        }
        let (net, healed) = (self.plan.net, self.shared.now >= HEALED_AT);
        let link = (self.host_of(from), self.host_of(to));
        let cut = self.cuts.get(&link).copied().filter(|&(until, _)| self.shared.now < until);
        let is_cut = cut.is_some_and(|(_, is_leaky)| !is_leaky || self.shared.rng.u32(..10) > 0);
        if is_cut && link.0 != link.1 || !healed && Net::happens(self.plan.loss_one_in, &mut self.shared.rng)
        {
            return;
        }
        let mut datagram = Datagram { from, to: process, bytes };
        let rng = &mut self.shared.rng;
        if !healed && Net::happens(self.plan.damage_one_in, rng) && !datagram.bytes.is_empty() {
            let at = rng.usize(..datagram.bytes.len());
            datagram.bytes[at] ^= 1 << rng.u8(..8);
            self.work.hostile += 1;
        }
        if !healed && Net::happens(net.duplicate_one_in, &mut self.shared.rng) {
            let copy = Datagram { from, to: process, bytes: datagram.bytes.clone() };
            self.post(copy);
        }
        self.post(datagram);
    }

    fn post(&mut self, datagram: Datagram) {
        let mut at = self.shared.now + self.plan.net.delay(&mut self.shared.rng);
        let to = match datagram.to.checked_sub(CLIENTS) {
            Some(client) => self.clients[client].host(),
            None => self.plan.processes[datagram.to].host,
        };
        let link = (self.host_of(datagram.from), to);
        if self.slow.get(&link).is_some_and(|&until| self.shared.now < until) {
            at = at + Span(self.shared.rng.u64(..SLOW_MAX.0));
        }
        let slot = self.datagrams.insert(datagram);
        self.schedule(at, Event::Datagram(slot));
    }

    /// A datagram reaches a socket.
    pub(super) fn arrive(&mut self, slot: u32) {
        let Datagram { from, to, bytes } = self.datagrams.remove(slot);
        if let Some(client) = to.checked_sub(CLIENTS) {
            return self.client_arrives(client, from, bytes);
        }
        let process = &mut self.processes[to];
        if process.phase != Phase::Running {
            // The kernel of that host may say that nobody listens there.
            if from.port() >= PORT_BASE && self.shared.rng.bool() {
                let (host, sender) = (self.plan.processes[to].host, usize::from(from.port() - PORT_BASE));
                self.hint(sender, addr(host, to));
            }
            return;
        }
        if process.socket.len() >= self.plan.socket_max || self.shared.now < process.full_until {
            return;
        }
        process.socket.push_back((from, bytes));
        if !process.will_receive {
            process.will_receive = true;
            let at = self.soon(Span::from_us(20));
            self.schedule(at, Event::Receive(to));
        }
    }

    /// A process is told that nobody listens at an address.
    pub(super) fn hint(&mut self, process: usize, of: SocketAddr) {
        if let Some(client) = process.checked_sub(CLIENTS) {
            return self.hint_client(client, of);
        }
        if self.processes[process].runs(self.shared.now) {
            self.give(process, MachineEvent::Refused(of));
        }
    }

    /// Garbage, damaged datagrams, and old ones again.
    pub(super) fn be_hostile(&mut self) {
        let running: Vec<usize> =
            (0..self.processes.len()).filter(|&at| self.processes[at].phase == Phase::Running).collect();
        if running.is_empty() {
            return;
        }
        let rng = &mut self.shared.rng;
        let to = running[rng.usize(..running.len())];
        let from = running[rng.usize(..running.len())];
        let from = addr(self.plan.processes[from].host, from);
        let (from, bytes) = match rng.u32(..3) {
            0 => (from, (0..rng.usize(1..200)).map(|_| rng.u8(..)).collect()),
            _ if self.recorded.is_empty() => (from, vec![0; 64]),
            // With the address that it came from: who can take an answer to any address is on the path, and
            // nothing but encryption helps against that.
            1 => self.recorded[rng.usize(..self.recorded.len())].clone(),
            _ => {
                let (from, mut bytes) = self.recorded[rng.usize(..self.recorded.len())].clone();
                let at = rng.usize(..bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = rng.u8(..);
                }
                (from, bytes)
            }
        };
        self.work.hostile += 1;
        self.post(Datagram { from, to, bytes });
        if self.plan.flood {
            self.flood();
        }
        let at = self.soon(Span::from_ms(4));
        if at < HEALED_AT {
            self.schedule(at, Event::Hostile);
        }
    }

    /// A stranger sends the coordinator messages that only a member of a later view could explain.
    fn flood(&mut self) {
        let now = self.shared.now;
        let target = addr(self.plan.processes[0].host, 0);
        let seed = self.shared.rng.u64(..);
        let stranger = self.stranger.get_or_insert_with(|| {
            let mut endpoint = fresh_endpoint(&self.plan, 1 << 40, seed, QUEUE_MAX);
            let session = endpoint.connect(now, target).ok();
            Stranger { endpoint, buf: TransmitBuf::default(), session, sent: 0 }
        });
        if let Some(session) = stranger.session {
            for _ in 0..100 {
                let mut message = OutMessage::default();
                message.head.push(CALLS);
                if stranger.sent >= FLOOD
                    || stranger.endpoint.send(now, session, message, Priority::Control).is_err()
                {
                    break;
                }
                stranger.sent += 1;
            }
        }
        self.move_stranger();
    }

    fn answer_stranger(&mut self, from: SocketAddr, bytes: &mut [u8]) {
        let now = self.shared.now;
        let Some(stranger) = &mut self.stranger else { return };
        stranger.endpoint.handle_datagram(now, from, bytes, &mut |_, _| {});
        stranger.endpoint.handle_drained(now);
        self.move_stranger();
    }

    fn move_stranger(&mut self) {
        let now = self.shared.now;
        let Some(stranger) = &mut self.stranger else { return };
        while let Some(event) = stranger.endpoint.poll_event() {
            if let NetEvent::Closed { .. } | NetEvent::ConnectFailed { .. } = event {
                stranger.session = None;
            }
        }
        let mut out = Vec::new();
        while let Some(datagram) = next_datagram(&mut stranger.endpoint, now, &mut stranger.buf) {
            out.push(datagram);
        }
        let from = SocketAddr::from(([10, 0, 0, 9], STRANGER_PORT));
        for (to, bytes) in out {
            self.work.hostile += 1;
            let to = usize::from(to.port() - PORT_BASE);
            self.post(Datagram { from, to, bytes });
        }
    }
}
