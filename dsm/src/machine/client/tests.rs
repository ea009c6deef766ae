//! A client and its server, moved by hand: what it makes of lost sessions, silence, and ends.

use super::*;
use crate::config::membership::SILENCE_MAX;
use crate::machine::tests::{Nothing, addr, joined};
use crate::machine::{Event, Machine};
use crate::net::{ClusterKey, EndpointConfig, Entropy, TransmitBuf, Version};
use crate::rpc::core::{CALL_HEADER_LEN, Outcome, Rank, Start, Status, Ticket};
use crate::rpc::{ErrorKind, Interface, Kind, Method};

static INTERFACE: Interface =
    Interface { name: "Test", version: 1, hash: 1, methods: &METHODS, description: "" };
static METHODS: [Method; 1] = [Method {
    interface: "Test",
    version: 1,
    name: "method",
    id: 1 << 32,
    kind: Kind::Unary,
    deadline_us: None,
    idempotent: false,
    longrunning: false,
}];

/// The node's port, by which the rig of the machine's tests calls it, and the client's.
const NODE: u16 = 1;
const CLIENT: u16 = 1_000;

fn endpoint(incarnation: u64) -> Endpoint {
    let key = ClusterKey::new([0; 32]);
    let config = EndpointConfig::new(key, Incarnation(incarnation), Version::ours(), 1 << 20);
    Endpoint::new(config, Entropy::of_seed(incarnation))
}

struct Rig {
    node: Machine,
    client: ClientMachine,
    now: Time,
    /// Nothing arrives.
    is_cut: bool,
    /// The node runs no call.
    is_held_up: bool,
    ran: usize,
    outputs: Vec<ClientOutput>,
    next: u64,
}

impl Rig {
    /// A node that serves, and a client without sessions.
    fn new() -> Rig {
        let mut node = joined();
        node.calls_mut().serve(&INTERFACE, 16, Rank::Program);
        Rig {
            node,
            client: ClientMachine::new(endpoint(50), Rules::default()),
            now: Time(1_000_000_000),
            is_cut: false,
            is_held_up: false,
            ran: 0,
            outputs: Vec::new(),
            next: 0,
        }
    }

    /// The same with a session.
    fn connected() -> (Rig, PeerId) {
        let mut rig = Rig::new();
        let op = rig.connect();
        rig.settle();
        let peer = rig.connection(op).expect("the attempt has ended").clone().expect("the node answers");
        assert_eq!(peer, PeerId { node: NodeId(1), incarnation: Incarnation(1) });
        (rig, peer)
    }

    fn connect(&mut self) -> OpId {
        self.next += 1;
        let op = OpId(self.next);
        self.client.handle(self.now, ClientEvent::Connect { op, name: NodeId(1), addr: addr(NODE) });
        op
    }

    fn call(&mut self, peer: PeerId) -> Ticket {
        self.next += 1;
        let start = Start { method: &METHODS[0], peer, others: Vec::new(), deadline: None };
        self.client.calls_mut().start(self.now, Ticket(self.next), start, &[0; CALL_HEADER_LEN]);
        Ticket(self.next)
    }

    /// Moves datagrams and runs calls until there are none.
    fn settle(&mut self) {
        let mut buffer = TransmitBuf::default();
        loop {
            let mut moved = 0;
            self.client.flush(self.now);
            self.outputs.extend(std::iter::from_fn(|| self.client.poll_output()));
            while let Some(transmit) = self.client.endpoint.poll_transmit(self.now, &mut buffer) {
                let mut bytes = transmit.with_slices(<[&[u8]]>::concat);
                moved += 1;
                if !self.is_cut {
                    let event = Event::Datagram { from: addr(CLIENT), bytes: &mut bytes };
                    self.node.handle(self.now, event, &mut Nothing);
                }
            }
            while !self.is_held_up
                && let Some(job) = self.node.calls_mut().take_job(self.now, Rank::Program)
            {
                self.node.calls_mut().answer(job, b"answer");
                self.ran += 1;
            }
            self.node.flush(self.now, &mut Nothing);
            while let Some(transmit) = self.node.endpoint_mut().poll_transmit(self.now, &mut buffer) {
                let mut bytes = transmit.with_slices(<[&[u8]]>::concat);
                moved += 1;
                if !self.is_cut {
                    self.client
                        .handle(self.now, ClientEvent::Datagram { from: addr(NODE), bytes: &mut bytes });
                }
            }
            if moved == 0 {
                return;
            }
        }
    }

    /// Time passes, in which both listen.
    fn pass(&mut self, span: Span) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + Span::from_ms(50);
            let now = self.now;
            self.node.handle(now, Event::Drained(now), &mut Nothing);
            self.node.handle(now, Event::Timer, &mut Nothing);
            self.client.handle(now, ClientEvent::Drained(now));
            self.client.handle(now, ClientEvent::Timer);
            self.settle();
        }
    }

    fn connection(&self, of: OpId) -> Option<&Result<PeerId, String>> {
        let mut ends = self.outputs.iter().filter_map(|output| match output {
            ClientOutput::Connected { op, result } if *op == of => Some(result),
            ClientOutput::Connected { .. } | ClientOutput::Call(_) => None,
        });
        let end = ends.next();
        assert!(ends.next().is_none(), "an attempt ends once");
        end
    }

    fn outcome(&self, of: Ticket) -> Option<&Outcome> {
        let mut ends = self.outputs.iter().filter_map(|output| match output {
            ClientOutput::Call(core::Output::Done(ticket, outcome)) if *ticket == of => Some(outcome),
            ClientOutput::Call(_) | ClientOutput::Connected { .. } => None,
        });
        let end = ends.next();
        assert!(ends.next().is_none(), "a call ends once");
        end
    }

    fn is_answered(&self, ticket: Ticket) -> bool {
        matches!(self.outcome(ticket), Some(Ok((Status::Done, body))) if body == b"answer")
    }

    fn has_died(&self, ticket: Ticket) -> bool {
        let died = ErrorKind::ServerDied { may_have_executed: true };
        matches!(self.outcome(ticket), Some(Err(error)) if error.kind == died)
    }
}

#[test]
fn a_client_calls_and_is_answered_and_is_no_member() {
    let (mut rig, peer) = Rig::connected();
    let before = rig.node.membership().expect("a member").view().clone();
    let call = rig.call(peer);
    rig.settle();
    assert!(rig.is_answered(call));
    assert_eq!(rig.node.membership().expect("a member").view(), &before);
    assert_eq!(rig.node.sessions().count(), 0, "no session leads to a member");
}

#[test]
fn what_was_asked_in_a_session_that_is_lost_is_asked_again_and_runs_once() {
    let (mut rig, peer) = Rig::connected();
    rig.is_held_up = true;
    let call = rig.call(peer);
    rig.settle();
    rig.client.handle(rig.now, ClientEvent::Reconnect(peer));
    rig.is_held_up = false;
    rig.settle();
    assert!(rig.is_answered(call), "{:?}", rig.outcome(call));
    assert_eq!(rig.ran, 1);
    let op = rig.connect();
    rig.settle();
    assert_eq!(rig.connection(op), Some(&Ok(peer)), "it is the node that was called before");
}

#[test]
fn the_calls_of_a_server_that_is_silent_for_too_long_end() {
    let (mut rig, peer) = Rig::connected();
    rig.is_held_up = true;
    let call = rig.call(peer);
    rig.settle();
    // An idle server answers pings.
    rig.pass(Span(4 * SILENCE_MAX.0));
    assert!(rig.outcome(call).is_none(), "its server lives");
    rig.is_cut = true;
    rig.pass(Span(4 * SILENCE_MAX.0));
    assert!(rig.has_died(call), "{:?}", rig.outcome(call));
    let later = rig.call(peer);
    rig.settle();
    let kind = rig.outcome(later).and_then(|outcome| outcome.as_ref().err()).map(|error| &error.kind);
    assert_eq!(kind, Some(&ErrorKind::Unreachable { may_have_executed: false }));
}

/// A client whose threads do other things for a minute, and one that got no core: what its server said meanwhile
/// lies in its socket.
#[test]
fn a_client_that_did_not_listen_judges_no_server() {
    let (mut rig, _) = Rig::connected();
    rig.pass(Span::from_ms(1_000));
    let session = rig.client.servers[0].session;
    rig.now = rig.now + Span::from_ms(60_000);
    rig.client.handle(rig.now, ClientEvent::Drained(rig.now));
    rig.client.handle(rig.now, ClientEvent::Timer);
    rig.settle();
    rig.pass(Span::from_ms(1_000));
    assert_eq!((rig.client.servers[0].session, rig.client.servers[0].state), (session, State::Up));
}

#[test]
fn every_attempt_to_connect_ends() {
    let mut rig = Rig::new();
    rig.is_cut = true;
    let ops = [rig.connect(), rig.connect()];
    rig.pass(Span(4 * SILENCE_MAX.0));
    for op in ops {
        let result = rig.connection(op).expect("it has ended");
        assert!(result.as_ref().is_err_and(|reason| reason.contains("no answer")), "{result:?}");
    }
    let under_way = rig.connect();
    rig.settle();
    rig.client.handle(rig.now, ClientEvent::Close("done"));
    let late = rig.connect();
    rig.settle();
    for op in [under_way, late] {
        assert_eq!(rig.connection(op), Some(&Err("the client has ended".into())));
    }
}

#[test]
fn the_end_of_a_client_ends_its_calls() {
    let (mut rig, peer) = Rig::connected();
    rig.is_held_up = true;
    let call = rig.call(peer);
    rig.settle();
    rig.client.handle(rig.now, ClientEvent::Close("done"));
    rig.settle();
    assert!(rig.has_died(call), "{:?}", rig.outcome(call));
    assert_eq!(rig.client.poll_timeout().filter(|due| *due <= rig.now), None, "nothing is left to do");
}

/// No silence has to pass.
#[test]
fn the_last_words_of_a_server_end_its_calls_at_once() {
    let (mut rig, peer) = Rig::connected();
    rig.is_held_up = true;
    let call = rig.call(peer);
    rig.settle();
    rig.node.handle(rig.now, Event::Close("it ends"), &mut Nothing);
    rig.settle();
    assert!(rig.has_died(call), "{:?}", rig.outcome(call));
}

#[test]
fn a_node_that_has_restarted_was_asked_nothing() {
    let (mut rig, peer) = Rig::connected();
    rig.is_held_up = true;
    let call = rig.call(peer);
    rig.settle();
    let (mut next, mut buffer) = (endpoint(2), TransmitBuf::default());
    rig.client.handle(rig.now, ClientEvent::Reconnect(peer));
    for _ in 0..20 {
        rig.client.flush(rig.now);
        while let Some(transmit) = rig.client.endpoint.poll_transmit(rig.now, &mut buffer) {
            let mut bytes = transmit.with_slices(<[&[u8]]>::concat);
            next.handle_datagram(rig.now, addr(CLIENT), &mut bytes, &mut |_, _| ());
        }
        while let Some(transmit) = next.poll_transmit(rig.now, &mut buffer) {
            let mut bytes = transmit.with_slices(<[&[u8]]>::concat);
            rig.client.handle(rig.now, ClientEvent::Datagram { from: addr(NODE), bytes: &mut bytes });
        }
    }
    rig.outputs.extend(std::iter::from_fn(|| rig.client.poll_output()));
    assert!(rig.has_died(call), "{:?}", rig.outcome(call));
    let op = rig.connect();
    rig.outputs.extend(std::iter::from_fn(|| rig.client.poll_output()));
    let new = PeerId { incarnation: Incarnation(2), ..peer };
    assert_eq!(rig.connection(op), Some(&Ok(new)));
}

/// Calls are sent again by themselves; oneway calls and cancellations are kept, as many as have room.
#[test]
fn what_no_caller_sends_again_waits_for_the_new_session() {
    let (mut rig, peer) = Rig::connected();
    rig.client.handle(rig.now, ClientEvent::Reconnect(peer));
    let mut request = vec![0; CALL_HEADER_LEN];
    for _ in 0..16 {
        rig.client.calls_mut().start_oneway(&METHODS[0], peer, &mut request);
        assert_eq!(rig.client.send_call(rig.now, peer, &request), Ok(()));
    }
    assert_eq!(rig.client.waiting(), 16);
    rig.settle();
    assert_eq!((rig.client.waiting(), rig.ran), (0, 16));
    rig.is_cut = true;
    rig.client.handle(rig.now, ClientEvent::Reconnect(peer));
    for _ in 0..UNSENT_MAX {
        rig.client.calls_mut().start_oneway(&METHODS[0], peer, &mut request);
        assert_eq!(rig.client.send_call(rig.now, peer, &request), Ok(()));
    }
    assert_eq!(rig.client.send_call(rig.now, peer, &request), Err(SendError::Full));
}
