//! Clients of the run: processes that call nodes and are no members, each the shipped `ClientMachine` with a socket.
//! A client is starved, deaf, or killed like a node; a call that fails because its server is gone makes it look for
//! another server. Each attempt and each call ends; a client is in no view and nobody's death.

use std::collections::VecDeque;
use std::net::SocketAddr;

use fastrand::Rng;
use pagemesh::coherence::OpId;
use pagemesh::machine::{ClientEvent, ClientMachine, ClientOutput, Machine};
use pagemesh::net::TransmitBuf;
use pagemesh::page::{Incarnation, NodeId, PeerId, Span, Time};

use super::network::{addr, fresh_endpoint, next_datagram};
use super::plan::Plan;
use super::process::{Phase, Stage};
use super::{Event, Machines};

/// Processes of this number and higher are clients.
pub(super) const CLIENTS: usize = 500;
/// Calls of one client that are open at one time.
const OPEN_MAX: usize = 8;
/// Longest that an attempt to connect takes, while its client listens.
const CONNECT_MAX: Span = Span::from_ms(30_000);
/// Messages that wait for a new session: one cancellation for each call that is open.
const WAITING_MAX: usize = 64;
/// A process that does not run for so long is silent for longer than a session may be.
const SILENT: Span = Span::from_ms(2_000);

/// What a client does, and what befalls it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientSpec {
    host: usize,
    starts: Time,
    /// Calls that it makes.
    calls: u32,
    /// It goes when it has made its calls, although they have not ended.
    is_hasty: bool,
    /// The cluster runs on until it has done its work.
    is_waited_for: bool,
    /// The network tells it that nobody listens at an address.
    hears_refusals: bool,
    /// It is killed after so many datagrams.
    dies_in: Option<u32>,
    /// It gets no core from then on, for so long.
    starves: Option<(Time, Span)>,
}

/// A client.
pub(super) struct Client {
    spec: ClientSpec,
    machine: Option<ClientMachine>,
    phase: Phase,
    socket: VecDeque<(SocketAddr, Vec<u8>)>,
    will_receive: bool,
    timer_at: Option<Time>,
    /// Its server, if it has one.
    server: Option<PeerId>,
    /// The attempt to connect that is under way, and since when.
    opening: Option<(OpId, Time)>,
    /// The process that it tries, or tries next.
    target: usize,
    failures: usize,
    was_starved: bool,
    buf: TransmitBuf,
}

impl ClientSpec {
    /// The clients of a run, by a generator of their own: what else a seed stands for stays.
    pub(super) fn draw(hosts: usize, rng: &mut Rng) -> Vec<ClientSpec> {
        if rng.u32(..4) > 0 {
            return Vec::new();
        }
        let ms = |rng: &mut Rng, most: u64| Span(rng.u64(..most * 1_000_000));
        let draw = |rng: &mut Rng| ClientSpec {
            host: rng.usize(..hosts),
            starts: Time(1) + ms(rng, 60),
            calls: rng.u32(1..40),
            is_hasty: rng.u32(..4) == 0,
            is_waited_for: rng.bool(),
            hears_refusals: rng.bool(),
            dies_in: (rng.u32(..4) == 0).then(|| rng.u32(..60)),
            starves: (rng.u32(..3) == 0).then(|| {
                let longest = [200, 8_000][rng.usize(..2)];
                (Time(1) + ms(rng, 100), ms(rng, longest))
            }),
        };
        (0..rng.usize(1..=2)).map(|_| draw(rng)).collect()
    }
}

impl Client {
    pub(super) fn new(spec: ClientSpec, target: usize) -> Client {
        Client {
            spec,
            machine: None,
            phase: Phase::ToCome,
            socket: VecDeque::new(),
            will_receive: false,
            timer_at: None,
            server: None,
            opening: None,
            target,
            failures: 0,
            was_starved: false,
            buf: TransmitBuf::default(),
        }
    }

    pub(super) fn host(&self) -> usize {
        self.spec.host
    }

    pub(super) fn is_gone(&self) -> bool {
        self.phase == Phase::Gone
    }

    /// Whether the cluster is not stopped yet, for its sake.
    pub(super) fn is_waited_for(&self) -> bool {
        self.spec.is_waited_for && !self.is_gone()
    }

    /// When it runs again, if it does not run now.
    fn held_until(&self, now: Time) -> Option<Time> {
        let (from, lasts) = self.spec.starves?;
        (from <= now && now < from + lasts).then_some(from + lasts)
    }
}

/// The number of a client as a process.
fn process(number: usize) -> usize {
    CLIENTS + number
}

/// The start of a node that a client's machine says it is.
fn is_client(incarnation: Incarnation) -> bool {
    incarnation.0 as usize > CLIENTS
}

impl Plan {
    /// How many processes a client tries: daemons, or else ranks.
    fn servers(&self) -> usize {
        if self.daemons > 0 { self.daemons } else { self.processes.len() }
    }
}

impl Machines {
    pub(super) fn add_clients(&mut self) {
        for number in 0..self.plan.clients.len() {
            let spec = self.plan.clients[number];
            let target = self.shared.rng.usize(..self.plan.servers());
            self.clients.push(Client::new(spec, target));
            self.schedule(spec.starts, Event::ClientStep(number));
        }
    }

    /// The next thing that a client does: it looks for a server, calls, or goes.
    pub(super) fn client_step(&mut self, number: usize) {
        let now = self.shared.now;
        if self.clients[number].is_gone() {
            return;
        }
        if let Some(until) = self.clients[number].held_until(now) {
            return self.schedule(until, Event::ClientStep(number));
        }
        if self.clients[number].phase == Phase::ToCome {
            let incarnation = process(number) as u64 + 1;
            let (seed, queue_max) = (self.shared.rng.u64(..), self.plan.queue_max);
            let endpoint = fresh_endpoint(&self.plan, incarnation, seed, queue_max);
            let client = &mut self.clients[number];
            client.machine = Some(ClientMachine::new(endpoint, self.plan.rules));
            client.phase = Phase::Running;
            let host = self.clients[number].host();
            self.log(process(number), || format!("starts as a client on host {host}"));
        }
        let open = self.open_calls_of(process(number));
        let client = &self.clients[number];
        let is_done = client.spec.calls == 0 && (open == 0 || client.spec.is_hasty);
        if is_done || client.failures > 2 * self.plan.servers() {
            return self.end_client(number);
        }
        match client.server {
            None if client.opening.is_none() => self.look_for_server(number),
            Some(server) if client.spec.calls > 0 && open < OPEN_MAX => self.call_server(number, server),
            None | Some(_) => {}
        }
        let at = self.soon(Span::from_ms(10));
        self.schedule(at, Event::ClientStep(number));
    }

    fn look_for_server(&mut self, number: usize) {
        let (op, now) = (self.next_op(), self.shared.now);
        let client = &mut self.clients[number];
        client.target = (client.target + 1) % self.plan.servers();
        client.opening = Some((op, now));
        let target = client.target;
        let addr = addr(self.plan.processes[target].host, target);
        self.log(process(number), || format!("connects to p{target}"));
        self.give_client(number, ClientEvent::Connect { op, name: NodeId(target as u16), addr });
    }

    fn call_server(&mut self, number: usize, server: PeerId) {
        self.clients[number].spec.calls -= 1;
        if self.shared.rng.u32(..8) == 0 {
            self.log(process(number), || "loses its session".to_owned());
            self.give_client(number, ClientEvent::Reconnect(server));
        }
        let (ticket, start, request) = self.open_call(process(number), server);
        self.work.client_calls += 1;
        let now = self.shared.now;
        if let Some(machine) = &mut self.clients[number].machine {
            machine.calls_mut().start(now, ticket, start, &request);
        }
        self.pump_client(number);
    }

    /// It ends as the command does: what has not ended ends.
    fn end_client(&mut self, number: usize) {
        self.clients[number].server = None;
        self.give_client(number, ClientEvent::Close("done"));
        let open = self.open_calls_of(process(number));
        if !self.clients[number].is_gone() && (open > 0 || self.clients[number].opening.is_some()) {
            self.fail(|| format!("the end of a client ends its calls: {open} are open at c{number}"));
        }
        self.client_vanishes(number);
    }

    fn client_vanishes(&mut self, number: usize) {
        self.log(process(number), || "is gone".to_owned());
        let client = &mut self.clients[number];
        (client.machine, client.phase) = (None, Phase::Gone);
        self.forget_calls(process(number));
    }

    fn give_client(&mut self, number: usize, event: ClientEvent<'_>) {
        let now = self.shared.now;
        if let Some(machine) = &mut self.clients[number].machine {
            machine.handle(now, event);
        }
        self.pump_client(number);
    }

    fn pump_client(&mut self, number: usize) {
        loop {
            let now = self.shared.now;
            let Some(machine) = &mut self.clients[number].machine else { return };
            let mut moved = machine.flush(now);
            while let Some(output) =
                self.clients[number].machine.as_mut().and_then(ClientMachine::poll_output)
            {
                moved = true;
                self.client_output(number, output);
            }
            if !self.client_transmits(number) {
                return;
            }
            if !moved {
                break;
            }
        }
        self.check_client(number);
        let now = self.shared.now;
        let client = &mut self.clients[number];
        let Some(due) = client.machine.as_ref().and_then(ClientMachine::poll_timeout) else { return };
        let due = due.max(now);
        if client.timer_at.is_none_or(|at| due < at || at < now) {
            client.timer_at = Some(due);
            self.schedule(due, Event::ClientTimer(number));
        }
    }

    /// Sends what there is to send; false if the client was killed meanwhile.
    fn client_transmits(&mut self, number: usize) -> bool {
        let from = addr(self.clients[number].host(), process(number));
        loop {
            let now = self.shared.now;
            let Client { machine: Some(machine), buf, .. } = &mut self.clients[number] else { return false };
            let Some((to, bytes)) = next_datagram(machine.endpoint_mut(), now, buf) else { return true };
            if self.client_dies_now(number) {
                return false;
            }
            self.put(from, to, bytes);
        }
    }

    /// Counts a datagram of a client that is to be killed; true when its time has come.
    fn client_dies_now(&mut self, number: usize) -> bool {
        match &mut self.clients[number].spec.dies_in {
            None => false,
            Some(0) => {
                self.log(process(number), || "is killed".to_owned());
                self.client_vanishes(number);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    fn client_output(&mut self, number: usize, output: ClientOutput) {
        match output {
            ClientOutput::Call(output) => {
                let server = self.call_output(process(number), output);
                let client = &mut self.clients[number];
                if server.is_some() && server == client.server {
                    client.server = None;
                    self.work.failovers += 1;
                    self.judge_loss(number, server);
                }
            }
            ClientOutput::Connected { op, result } => {
                self.log(process(number), || format!("has a server: {result:?}"));
                let client = &mut self.clients[number];
                if client.opening.take().is_none_or(|(opening, _)| opening != op) {
                    return self.fail(|| format!("each attempt to connect ends once: {op:?} of c{number}"));
                }
                match result {
                    Ok(peer) => (client.server, client.failures) = (Some(peer), 0),
                    Err(_) => client.failures += 1,
                }
            }
        }
    }

    /// A server that runs and is reached is not taken for one that is gone.
    fn judge_loss(&mut self, number: usize, server: Option<PeerId>) {
        let Some(server) = server else { return };
        let process = &self.processes[server.incarnation.0 as usize - 1];
        let runs = process.phase == Phase::Running && process.stage < Stage::Ending && !process.was_held;
        let ends = process.machine.as_ref().is_none_or(|machine| machine.lifecycle().why().is_some());
        let starves = self.clients[number].was_starved;
        if runs && !ends && !starves && self.work.cuts == 0 {
            self.fail(|| format!("a server that answers is not lost: c{number} gives up {server:?}"));
        }
    }

    /// A datagram reaches the socket of a client.
    pub(super) fn client_arrives(&mut self, number: usize, from: SocketAddr, bytes: Vec<u8>) {
        let client = &mut self.clients[number];
        if client.phase != Phase::Running || client.socket.len() >= self.plan.socket_max {
            return;
        }
        client.socket.push_back((from, bytes));
        if !client.will_receive {
            client.will_receive = true;
            let at = self.soon(Span::from_us(20));
            self.schedule(at, Event::ClientReceive(number));
        }
    }

    pub(super) fn client_receives(&mut self, number: usize) {
        let now = self.shared.now;
        let held = self.clients[number].held_until(now);
        let client = &mut self.clients[number];
        client.will_receive = held.is_some();
        if client.phase != Phase::Running {
            return;
        }
        if let Some(until) = held {
            client.was_starved |= client.spec.starves.is_some_and(|(_, lasts)| lasts > SILENT);
            return self.schedule(until, Event::ClientReceive(number));
        }
        for _ in 0..self.shared.rng.u32(1..=8) {
            let Some((from, mut bytes)) = self.clients[number].socket.pop_front() else { break };
            if self.client_dies_now(number) {
                return;
            }
            self.work.datagrams += 1;
            if let Some(machine) = &mut self.clients[number].machine {
                machine.handle(now, ClientEvent::Datagram { from, bytes: &mut bytes });
            }
        }
        let client = &mut self.clients[number];
        if client.socket.is_empty() {
            client.machine.iter_mut().for_each(|machine| machine.handle(now, ClientEvent::Drained(now)));
        } else {
            client.will_receive = true;
            let at = self.soon(Span::from_us(20));
            self.schedule(at, Event::ClientReceive(number));
        }
        self.give_client(number, ClientEvent::Timer);
    }

    pub(super) fn client_timer(&mut self, number: usize) {
        let now = self.shared.now;
        let held = self.clients[number].held_until(now);
        let client = &mut self.clients[number];
        if client.phase != Phase::Running || client.timer_at != Some(now) {
            return;
        }
        client.timer_at = held;
        if let Some(until) = held {
            return self.schedule(until, Event::ClientTimer(number));
        }
        if client.socket.is_empty() {
            client.machine.iter_mut().for_each(|machine| machine.handle(now, ClientEvent::Drained(now)));
        }
        self.give_client(number, ClientEvent::Timer);
    }

    /// A client is told that nobody listens at an address.
    pub(super) fn hint_client(&mut self, number: usize, of: SocketAddr) {
        let client = &self.clients[number];
        let hears = client.phase == Phase::Running && client.spec.hears_refusals;
        if hears && client.held_until(self.shared.now).is_none() {
            self.give_client(number, ClientEvent::Refused(of));
        }
    }

    /// What must hold after every step of a client.
    fn check_client(&mut self, number: usize) {
        let now = self.shared.now;
        self.check_lateness(process(number));
        let client = &self.clients[number];
        let lasts = client.spec.starves.map_or(Span(0), |(_, lasts)| lasts);
        let (waiting, opening) = (client.machine.as_ref().map_or(0, ClientMachine::waiting), client.opening);
        if waiting > WAITING_MAX {
            self.fail(|| format!("every queue is within its bound: c{number} keeps {waiting} messages"));
        }
        if let Some((op, _)) = opening.filter(|(_, since)| now > *since + CONNECT_MAX + lasts) {
            self.fail(|| format!("every attempt to connect ends: {op:?} of c{number}"));
        }
    }

    /// A client is in no view, and its end is no member's.
    pub(super) fn check_members(&mut self, index: usize) {
        let membership = self.processes[index].machine.as_ref().and_then(Machine::membership);
        let Some(view) = membership.map(|membership| membership.view()) else { return };
        let members = view.members.iter().chain(view.deaths.iter().map(|(_, death)| &death.member));
        if let Some(client) = members.map(|member| member.intro.incarnation).find(|&of| is_client(of)) {
            self.fail(|| format!("a client is no member: {client:?} is in the view of p{index}"));
        }
    }

    /// A node says that a peer is a member no more.
    pub(super) fn check_gone(&mut self, index: usize, peer: PeerId) {
        if is_client(peer.incarnation) {
            self.fail(|| format!("the end of a client is no death: p{index} says that {peer:?} is gone"));
        }
    }
}
