//! A client as one value: a process that calls nodes and is no member of their cluster. It has sessions and calls,
//! and neither memory nor a view; like [`Machine`](super::Machine) it does no IO, and the simulator runs it.
//!
//! Duties of its owner: one lock around it; after its events [`ClientMachine::flush`], then
//! [`ClientMachine::poll_output`] until there is none, then the datagrams of [`ClientMachine::endpoint_mut`];
//! [`ClientEvent::Timer`] at [`ClientMachine::poll_timeout`]; [`ClientEvent::Drained`] only for a moment at which a
//! receive found nothing.
//!
//! No view tells a client that a server is dead. It finds out by a session that cannot be replaced: sessions are
//! replaced when they are lost, and when their server is silent for too long, in time in which this process has
//! listened. What was asked in a lost session is asked again, and the server knows what it has run already.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::{Rules, channel, close, typed};
use crate::coherence::OpId;
use crate::config::membership::HEARTBEAT;
use crate::config::rpc::{UNSENT_BYTES_MAX, UNSENT_MAX};
use crate::membership::{Detector, Finding};
use crate::net::{self, CloseReason, ConnectRefused, Endpoint, Event as NetEvent, Priority, SessionHandle};
use crate::page::{Incarnation, NodeId, PeerId, Span, Time};
use crate::rpc::core::{self, Calls, SendError};
use crate::rpc::is_asked_again;

/// What a client is told.
#[derive(Debug)]
pub enum ClientEvent<'a> {
    /// A datagram has come.
    Datagram {
        /// Its source address.
        from: SocketAddr,
        /// Its bytes, which are decrypted in place.
        bytes: &'a mut [u8],
    },
    /// The kernel reports that nobody listens at an address: a hint that anybody can forge.
    Refused(SocketAddr),
    /// The socket was empty at that moment, and all datagrams of before are handled.
    Drained(Time),
    /// Time has passed.
    Timer,
    /// A thread wants a session. Ends with one [`ClientOutput::Connected`].
    Connect {
        /// The operation.
        op: OpId,
        /// What errors call the node.
        name: NodeId,
        /// Its address.
        addr: SocketAddr,
    },
    /// The session with this server is to be replaced, as if the network had lost it.
    Reconnect(PeerId),
    /// All sessions end; the servers are told why. Every call and every [`ClientEvent::Connect`] ends.
    Close(&'a str),
}

/// What a client tells its owner.
#[derive(Debug)]
pub enum ClientOutput {
    /// There is a session with a server, or why there is none.
    Connected {
        /// The operation that asked.
        op: OpId,
        /// The start of the node that answers, or a reason for people.
        result: Result<PeerId, String>,
    },
    /// Something that a thread waits for in the calls.
    Call(core::Output),
}

/// A process that calls nodes.
pub struct ClientMachine {
    endpoint: Endpoint,
    calls: Calls,
    servers: Vec<Server>,
    detector: Detector,
    rules: Rules,
    outputs: VecDeque<ClientOutput>,
    /// Sessions whose server sends what no server of ours sends.
    violators: Vec<SessionHandle>,
    next_heartbeat: Time,
    /// The last moment at which the socket was empty, if the detector has not been told.
    drained_at: Option<Time>,
    is_closed: bool,
}

/// A node that was connected to.
struct Server {
    name: NodeId,
    addr: SocketAddr,
    session: SessionHandle,
    state: State,
    /// Which start of the node answered last.
    incarnation: Option<Incarnation>,
    /// Operations that end with the attempt to connect.
    opening: Vec<OpId>,
    /// Messages that no caller sends again in a new session, and that must wait for it.
    unsent: Vec<Vec<u8>>,
    unsent_bytes: usize,
}

/// How the session with a server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Connecting,
    Up,
    /// There is none, and no attempt to get one.
    Down,
}

impl ClientMachine {
    /// A client without sessions.
    pub fn new(mut endpoint: Endpoint, rules: Rules) -> Self {
        endpoint.set_rules(rules.net());
        ClientMachine {
            endpoint,
            calls: Calls::default().with_rules(rules.calls()),
            servers: Vec::new(),
            detector: Detector::default(),
            rules,
            outputs: VecDeque::new(),
            violators: Vec::new(),
            next_heartbeat: Time(0),
            drained_at: None,
            is_closed: false,
        }
    }

    /// Takes one event. What follows from it comes with [`ClientMachine::flush`].
    pub fn handle(&mut self, now: Time, event: ClientEvent<'_>) {
        match event {
            ClientEvent::Datagram { from, bytes } => self.on_datagram(now, from, bytes),
            ClientEvent::Refused(addr) => self.endpoint.handle_refused(now, addr),
            ClientEvent::Drained(at) => {
                self.drained_at = self.drained_at.max(Some(at));
                self.endpoint.handle_drained(at);
            }
            ClientEvent::Timer => self.tick(now),
            ClientEvent::Connect { op, name, addr } => self.connect(now, op, name, addr),
            ClientEvent::Reconnect(peer) => {
                if let Some(at) = self.servers.iter().position(|server| server.peer() == Some(peer)) {
                    self.renew(now, at, "a new session is wanted");
                }
            }
            ClientEvent::Close(reason) => self.close(now, reason),
        }
    }

    /// Carries what has happened around until only outputs and datagrams are left. True if there was anything.
    pub fn flush(&mut self, now: Time) -> bool {
        let mut any = false;
        loop {
            let mut moved = false;
            while let Some(event) = self.endpoint.poll_event() {
                self.on_net_event(now, event);
                moved = true;
            }
            for session in std::mem::take(&mut self.violators) {
                let reason = "message that does not decode";
                self.endpoint.close(now, session, net::CLOSE_VIOLATION, reason);
                self.lost(now, session, &format!("it sent a {reason}"));
                moved = true;
            }
            moved |= self.send_calls(now);
            any |= moved;
            if !moved {
                return any;
            }
        }
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop_front().or_else(|| self.calls.poll_output().map(ClientOutput::Call))
    }

    /// When to give [`ClientEvent::Timer`], or to move datagrams, although nothing has happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        let listens = self.servers.iter().any(|server| server.state == State::Up);
        let heartbeat = listens.then_some(self.next_heartbeat);
        [self.endpoint.poll_timeout(), self.calls.poll_timeout(), heartbeat].into_iter().flatten().min()
    }

    /// The endpoint, whose datagrams the owner sends.
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// The calls of this client, for what threads want of them; then [`ClientMachine::flush`].
    pub fn calls_mut(&mut self) -> &mut Calls {
        &mut self.calls
    }

    /// Messages that wait for the new session of one server, at most.
    pub fn waiting(&self) -> usize {
        self.servers.iter().map(|server| server.unsent.len()).max().unwrap_or(0)
    }

    /// Sends a message of the calls; never waits.
    pub fn send_call(&mut self, now: Time, to: PeerId, message: &[u8]) -> Result<(), SendError> {
        let server = self.servers.iter_mut().find(|server| server.peer() == Some(to));
        let server = server.ok_or(SendError::Unreachable)?;
        match server.state {
            State::Up => {}
            State::Connecting => return server.keep(message),
            State::Down => return Err(SendError::Unreachable),
        }
        let message = typed(channel::CLIENT, message);
        self.endpoint.send(now, server.session, message, Priority::Control).map_err(SendError::from)
    }

    fn send_calls(&mut self, now: Time) -> bool {
        let mut message = Vec::new();
        let mut any = false;
        while let Some(peer) = self.calls.next_message(&mut message) {
            any = true;
            if let Err(refused) = self.send_call(now, peer, &message) {
                self.calls.handle_unsent(now, peer, &message, refused);
            }
            message.clear();
        }
        any
    }

    fn on_datagram(&mut self, now: Time, from: SocketAddr, bytes: &mut [u8]) {
        let ClientMachine { endpoint, calls, servers, violators, .. } = self;
        endpoint.handle_datagram(now, from, bytes, &mut |session, message| {
            // A server says nothing before it is asked, and it is asked when its start is known.
            let server = servers.iter().find(|server| server.session == session);
            let Some(peer) = server.and_then(Server::peer) else { return };
            let is_sound = match message.split_first() {
                Some((&channel::CLIENT, frames)) => calls.handle_message(now, peer, frames).is_ok(),
                // Anything else a node does not say to a client.
                Some(_) | None => true,
            };
            if !is_sound {
                violators.push(session);
            }
        });
    }

    fn connect(&mut self, now: Time, op: OpId, name: NodeId, addr: SocketAddr) {
        if self.is_closed {
            return self.connected(op, Err("the client has ended".into()));
        }
        if let Some(server) = self.servers.iter_mut().find(|server| server.addr == addr) {
            match (server.state, server.peer()) {
                (State::Up, Some(peer)) => return self.connected(op, Ok(peer)),
                (State::Up | State::Connecting, _) => return server.opening.push(op),
                (State::Down, _) => {}
            }
        }
        match self.begin(now, addr) {
            Ok(session) => {
                self.servers.retain(|server| server.addr != addr);
                self.servers.push(Server::new(name, addr, session, op));
            }
            Err(reason) => self.connected(op, Err(reason)),
        }
    }

    fn connected(&mut self, op: OpId, result: Result<PeerId, String>) {
        self.outputs.push_back(ClientOutput::Connected { op, result });
    }

    fn begin(&mut self, now: Time, addr: SocketAddr) -> Result<SessionHandle, String> {
        match self.endpoint.connect(now, addr) {
            Ok(session) | Err(ConnectRefused::Exists(session)) => Ok(session),
            Err(error @ ConnectRefused::Full) => Err(error.to_string()),
        }
    }

    fn on_net_event(&mut self, now: Time, event: NetEvent) {
        match event {
            NetEvent::Connected { session, incarnation, .. } => self.on_connected(now, session, incarnation),
            NetEvent::ConnectFailed { session, error, .. } => self.lost(now, session, &error.to_string()),
            // Its last words: what it was asked has ended with it.
            NetEvent::Closed { session, reason: CloseReason::Peer { code: close::ENDS, reason } } => {
                self.lost(now, session, &reason);
            }
            NetEvent::Closed { session, reason } => self.renew_session(now, session, &reason.to_string()),
            // A hint that anybody can forge: an attempt to connect anew tells.
            NetEvent::Refused { session } => self.renew_session(now, session, "nobody listens there"),
        }
    }

    fn position(&self, session: SessionHandle) -> Option<usize> {
        self.servers.iter().position(|server| server.session == session)
    }

    fn on_connected(&mut self, now: Time, session: SessionHandle, incarnation: Incarnation) {
        let Some(at) = self.position(session) else { return };
        let server = &mut self.servers[at];
        let before = server.peer();
        (server.state, server.incarnation) = (State::Up, Some(incarnation));
        let peer = PeerId { node: server.name, incarnation };
        let (opening, unsent) = (std::mem::take(&mut server.opening), server.take_unsent());
        self.detector.follow_peer(incarnation);
        opening.into_iter().for_each(|op| self.connected(op, Ok(peer)));
        match before {
            Some(before) if before == peer => {
                for message in unsent {
                    // The queue is empty: it has more room than was kept.
                    let _ = self.send_call(now, peer, &message);
                }
                if self.rules.asks_again() {
                    self.calls.handle_peer_reset(now, peer);
                }
            }
            // It has restarted: what it was asked is lost with it.
            Some(before) => self.died(now, before),
            None => {}
        }
    }

    /// Replaces the session, if it is still that of a server.
    fn renew_session(&mut self, now: Time, session: SessionHandle, reason: &str) {
        if let Some(at) = self.position(session) {
            self.renew(now, at, reason);
        }
    }

    fn renew(&mut self, now: Time, at: usize, reason: &str) {
        let Server { session: old, addr, .. } = self.servers[at];
        self.endpoint.close(now, old, close::DONE, reason);
        match self.begin(now, addr) {
            Ok(session) => {
                let server = &mut self.servers[at];
                (server.session, server.state) = (session, State::Connecting);
            }
            Err(reason) => self.lost(now, old, &reason),
        }
    }

    /// No session can be had: what the server was asked ends.
    fn lost(&mut self, now: Time, session: SessionHandle, reason: &str) {
        let Some(at) = self.position(session) else { return };
        let server = &mut self.servers[at];
        server.state = State::Down;
        server.take_unsent();
        let (peer, opening) = (server.peer(), std::mem::take(&mut server.opening));
        opening.into_iter().for_each(|op| self.connected(op, Err(reason.to_owned())));
        peer.into_iter().for_each(|peer| self.died(now, peer));
    }

    fn died(&mut self, now: Time, peer: PeerId) {
        self.detector.forget_peer(peer.incarnation);
        self.calls.handle_peer_died(now, peer);
    }

    /// Runs the timers of the calls and the heartbeat.
    fn tick(&mut self, now: Time) {
        if self.calls.poll_timeout().is_some_and(|due| due <= now) {
            self.calls.handle_timeout(now);
        }
        if now < self.next_heartbeat {
            return;
        }
        self.next_heartbeat = now + HEARTBEAT;
        for server in self.servers.iter().filter(|server| server.state == State::Up) {
            let Some(heard) = self.endpoint.last_heard(server.session) else { continue };
            if let Some(of) = server.incarnation {
                self.detector.heard(of, heard);
            }
            // A ping and its acknowledgement are signs of life.
            if now.since(heard) > Span(HEARTBEAT.0 / 2) {
                self.endpoint.ping(server.session);
            }
        }
        let Some(at) = self.drained_at.take() else { return };
        for finding in self.detector.drained(at, crate::membership::Rules::default()) {
            if let Finding::Silent { of, .. } = finding
                && self.rules.judges_servers()
            {
                self.on_silent(now, of);
            }
        }
    }

    fn on_silent(&mut self, now: Time, of: Incarnation) {
        self.detector.forget_peer(of);
        let is_silent = |server: &Server| server.state == State::Up && server.incarnation == Some(of);
        for at in 0..self.servers.len() {
            if is_silent(&self.servers[at]) {
                self.renew(now, at, "you are silent");
            }
        }
    }

    fn close(&mut self, now: Time, reason: &str) {
        self.is_closed = true;
        for session in self.servers.iter().map(|server| server.session).collect::<Vec<_>>() {
            self.endpoint.close(now, session, close::DONE, reason);
            self.lost(now, session, "the client has ended");
        }
        self.calls.handle_end(now);
    }
}

impl Server {
    fn new(name: NodeId, addr: SocketAddr, session: SessionHandle, op: OpId) -> Server {
        Server {
            name,
            addr,
            session,
            state: State::Connecting,
            incarnation: None,
            opening: vec![op],
            unsent: Vec::new(),
            unsent_bytes: 0,
        }
    }

    /// Keeps what no caller sends again; the calls that are open are sent again when the session is there.
    fn keep(&mut self, message: &[u8]) -> Result<(), SendError> {
        if is_asked_again(message) {
            return Ok(());
        }
        let bytes = self.unsent_bytes + message.len();
        if self.unsent.len() >= UNSENT_MAX || bytes > UNSENT_BYTES_MAX {
            return Err(SendError::Full);
        }
        self.unsent_bytes = bytes;
        self.unsent.push(message.to_vec());
        Ok(())
    }

    fn take_unsent(&mut self) -> Vec<Vec<u8>> {
        self.unsent_bytes = 0;
        std::mem::take(&mut self.unsent)
    }

    fn peer(&self) -> Option<PeerId> {
        self.incarnation.map(|incarnation| PeerId { node: self.name, incarnation })
    }
}
