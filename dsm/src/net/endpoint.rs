//! All sessions of a node behind one socket: who a datagram is for, and whose turn it is to send.
//!
//! A value without socket, clock or thread: `handle_x` takes what happened, `poll_x` yields what is
//! to be done. Handshakes run here (`endpoint/opening.rs`); an established session is `session.rs`.
//! A session is found by the low bits of its id; nothing is answered to who names none of ours.

mod listening;
mod opening;
mod table;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::config::net::{
    CLOSE_LINGER, CLOSE_REPEATS_MAX, CREDIT_ACTIVE, MTU_LIMIT, PATH_AFTER, SEND_QUEUE_BYTES_MAX,
};
use crate::net::counters::Counters;
use crate::net::credit::Share;
use crate::net::crypt::{Cipher, KeyLife, Open};
use crate::net::entropy::Entropy;
use crate::net::handshake::{ClusterKey, Cookies, Keys, Series, Version};
use crate::net::message::{OutMessage, Priority};
use crate::net::mutation::Rules;
use crate::net::session::{SendError, Session, Taken, Verdict, Violation};
use crate::net::transmit::{Transmit, TransmitBuf};
use crate::net::wire::{
    self, Packet, SessionId, TYPE_COOKIE, TYPE_DATA, TYPE_DATA_ODD, TYPE_HELLO, TYPE_REFUSE, TYPE_WELCOME,
};
use crate::page::{Incarnation, Span, Time};
use crate::settings::Encrypt;

use listening::Listening;
use opening::Reply;
use table::{Closing, State, Table};

/// CLOSE code of a session that ended because the other side broke the protocol.
pub const CLOSE_VIOLATION: u16 = 0xffff;

/// What an endpoint is made with.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// The cluster's secret.
    pub key: ClusterKey,
    /// This start of the node.
    pub incarnation: Incarnation,
    /// What peers must have too.
    pub version: Version,
    /// Bytes of the socket's receive buffer, as read back from it.
    pub socket_buffer: usize,
    /// The longest datagram to try.
    pub mtu_max: usize,
    /// Bytes of messages that may wait to be sent to one peer.
    pub queue_max: usize,
    /// All rules, except in tests of the tests.
    pub rules: Rules,
    /// Which sessions must be encrypted.
    pub encrypt: Encrypt,
    /// The address that this node is bound to, if it is one of this host alone: packets from it do not
    /// leave the host.
    pub own_ip: Option<IpAddr>,
    /// The encryption that suits this processor; a session uses AES if it suits both.
    pub cipher: Cipher,
    /// How long this node encrypts with one key.
    pub key_life: KeyLife,
}

impl EndpointConfig {
    /// A configuration with the largest MTU and queues.
    pub fn new(key: ClusterKey, incarnation: Incarnation, version: Version, socket_buffer: usize) -> Self {
        EndpointConfig {
            key,
            incarnation,
            version,
            socket_buffer,
            mtu_max: MTU_LIMIT,
            queue_max: SEND_QUEUE_BYTES_MAX,
            rules: Rules::default(),
            encrypt: Encrypt::All,
            own_ip: None,
            cipher: Cipher::fastest(),
            key_life: KeyLife::default(),
        }
    }

    /// How the keys of its sessions change.
    fn key_changes(&self) -> (KeyLife, Rules) {
        (self.key_life, self.rules)
    }
}

/// Names a session of this endpoint, from `connect` or [`Event::Connected`] on. Never means another one later.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SessionHandle {
    index: u32,
    generation: u32,
}

impl SessionHandle {
    /// The handle as a number, for who must not know this type.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The handle of [`SessionHandle::to_bits`].
    pub fn from_bits(bits: u64) -> Self {
        SessionHandle { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// Which side sent the hello.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// This one.
    Initiator,
    /// The peer.
    Responder,
}

/// Something that happened to a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// Both sides have proved that they know the key and are alive.
    Connected {
        /// The session.
        session: SessionHandle,
        /// The peer's address.
        addr: SocketAddr,
        /// The peer's start.
        incarnation: Incarnation,
        /// Which side this is.
        side: Side,
    },
    /// An attempt of ours has failed; its handle is dead.
    ConnectFailed {
        /// The handle that `connect` gave.
        session: SessionHandle,
        /// Whom it was for.
        addr: SocketAddr,
        /// Why.
        error: ConnectError,
        /// For [`Endpoint::connect_again`].
        series: Series,
    },
    /// The session is over; its handle is dead. Unacknowledged messages may or may not have arrived.
    Closed {
        /// The session.
        session: SessionHandle,
        /// Why.
        reason: CloseReason,
    },
    /// The network says that nobody listens at the peer's address. A hint, not a proof: it may be
    /// forged, and the session goes on. Given once, until something is heard of the peer again.
    Refused {
        /// The session.
        session: SessionHandle,
    },
}

/// Why a session ended.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// The peer closed it.
    #[error("closed by the peer, code {code}: {reason}")]
    Peer {
        /// Why, for programs.
        code: u16,
        /// Why, for people.
        reason: String,
    },
    /// The peer broke the protocol.
    #[error("the peer broke the protocol: {0}")]
    Violation(#[from] Violation),
    /// A newer start of the peer has proved itself at the same address.
    #[error("the peer has restarted")]
    PeerRestarted,
    /// The same start of the peer has begun a new session in place of this one.
    #[error("the peer has begun a new session")]
    Replaced,
    /// The same, before it came to know of this one: all that was sent in this one is sent in the new one.
    #[error("the peer has begun the session anew")]
    BegunAnew,
}

/// Why an attempt to connect failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody answered in time. A peer with another key does not answer either.
    #[error("no answer; is the node running, with the same cluster key?")]
    NoAnswer,
    /// Nobody answered in time, and the network said that no program listens there.
    #[error("nobody listens at this address")]
    NobodyListens,
    /// The peer runs another version.
    #[error("version mismatch: this node has {ours}, the peer has {theirs}")]
    Version {
        /// This node's.
        ours: Version,
        /// The peer's.
        theirs: Version,
    },
    /// The peer has no room for another session.
    #[error("the peer has as many sessions as it can have")]
    PeerFull,
}

/// Why no attempt was made. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConnectRefused {
    /// This endpoint has [`crate::config::net::SESSIONS_MAX`] sessions.
    #[error("this node has as many sessions as it can have")]
    Full,
    /// An earlier attempt to this address is still running, or led to a session that lives.
    #[error("there is a session to this address already")]
    Exists(SessionHandle),
}

/// All sessions behind one socket.
pub struct Endpoint {
    config: EndpointConfig,
    keys: Keys,
    entropy: Entropy,
    cookies: Cookies,
    share: Share,
    table: Table,
    ready: VecDeque<u16>,
    /// No deadline of the table is before this one; it may be stale in the early direction.
    deadline_bound: Time,
    reshare_at: Time,
    listening: Listening,
    replies: VecDeque<Reply>,
    events: VecDeque<Event>,
    /// Of the endpoint itself and of sessions that are gone.
    counters: Counters,
}

impl Endpoint {
    /// An endpoint without sessions. Its keys, nonces and session ids are drawn from `entropy`.
    pub fn new(config: EndpointConfig, mut entropy: Entropy) -> Self {
        Endpoint {
            keys: Keys::derive(&config.key),
            share: Share::of(config.socket_buffer),
            cookies: Cookies::new(&mut entropy),
            entropy,
            table: Table::new(),
            ready: VecDeque::new(),
            deadline_bound: Time(u64::MAX),
            reshare_at: Time(0),
            listening: Listening::new(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// Queues a message to a peer. On an error nothing was queued, and the message is gone.
    pub fn send(
        &mut self,
        _now: Time,
        to: SessionHandle,
        message: OutMessage,
        priority: Priority,
    ) -> Result<(), SendError> {
        let slot = self.table.find_mut(to).ok_or(SendError::Closed)?;
        match &mut slot.state {
            State::Live(session) => session.send(message, priority)?,
            State::Connecting(_) | State::HalfOpen(_) | State::Welcomed(_) => {
                return Err(SendError::NotConnected);
            }
            State::Free | State::Closing(_) => return Err(SendError::Closed),
        }
        self.table.mark_ready(to.index as u16, &mut self.ready);
        Ok(())
    }

    /// Whether a message finds room in a session's queue. A session that is over has none.
    pub fn has_room(&self, session: SessionHandle, message: &OutMessage, priority: Priority) -> bool {
        self.table.live(session).is_some_and(|live| live.has_room(message, priority))
    }

    /// The same endpoint with these rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.config.rules = rules;
    }

    /// Bytes that may wait for one peer.
    pub fn queue_max(&self) -> usize {
        self.config.queue_max
    }

    /// Bytes of a session's queue that are taken, of [`Endpoint::queue_max`].
    pub fn queued(&self, session: SessionHandle) -> usize {
        self.table.live(session).map_or(0, Session::queued)
    }

    /// Takes in a datagram, which is decrypted in place. Calls `deliver` for every message that became
    /// complete: a slice of `datagram` itself if it came whole.
    ///
    /// The first packet of a session that the peer began is delivered in the same call that queues
    /// its [`Event::Connected`]: keep the bytes of a session that you do not know yet, and poll.
    pub fn handle_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &mut [u8],
        deliver: &mut dyn FnMut(SessionHandle, &[u8]),
    ) {
        self.offer_datagram(now, from, datagram, &mut |session, bytes| {
            deliver(session, bytes);
            Taken::Yes
        });
    }

    /// The same for an owner that may have no room for a message: one that it refuses comes again, and holds up
    /// others of its session only where the peer's windows are full.
    pub fn offer_datagram(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &mut [u8],
        offer: &mut dyn FnMut(SessionHandle, &[u8]) -> Taken,
    ) {
        if from.port() == 0 {
            // No answer could go there.
            self.counters.malformed += 1;
            return;
        }
        match datagram.first() {
            Some(&(TYPE_DATA | TYPE_DATA_ODD)) => self.handle_data(now, from, datagram, offer),
            Some(&(TYPE_HELLO | TYPE_WELCOME | TYPE_REFUSE | TYPE_COOKIE)) => {
                self.handle_handshake(now, from, datagram);
            }
            Some(_) | None => self.counters.malformed += 1,
        }
    }

    fn handle_data(
        &mut self,
        now: Time,
        from: SocketAddr,
        datagram: &mut [u8],
        offer: &mut dyn FnMut(SessionHandle, &[u8]) -> Taken,
    ) {
        let len = datagram.len();
        let Ok(packet) = Packet::decode(datagram) else {
            self.counters.malformed += 1;
            return;
        };
        let number = packet.number;
        let Some(index) = self.table.index_of(packet.receiver) else {
            self.counters.unknown_session += 1;
            return;
        };
        let Some((addr, open)) = known(&mut self.table.slot_mut(index).state) else {
            self.counters.unknown_session += 1;
            return;
        };
        if !is_from(addr, from) {
            self.counters.foreign_address += 1;
            return;
        }
        match open.open(packet) {
            Ok(frames) => self.handle_authentic(now, index, Authentic { number, len, frames }, offer),
            Err(_) => self.counters.bad_tag += 1,
        }
    }

    fn handle_authentic(
        &mut self,
        now: Time,
        index: u16,
        packet: Authentic<'_>,
        offer: &mut dyn FnMut(SessionHandle, &[u8]) -> Taken,
    ) {
        if !self.establish(now, index) {
            return;
        }
        let handle = self.table.handle(index);
        let slot = self.table.slot_mut(index);
        slot.refused_told = table::Told::No;
        let State::Live(session) = &mut slot.state else {
            if let State::Closing(closing) = &mut slot.state {
                self.counters.ended_session += 1;
                closing.on_packet();
                self.table.mark_ready(index, &mut self.ready);
            }
            return;
        };
        let was_active = session.is_active(now);
        let mut offer_here = |bytes: &[u8]| offer(handle, bytes);
        match session.handle_packet(now, packet.number, packet.len, packet.frames, &mut offer_here) {
            Ok(Verdict::Open) => {
                let is_active = session.is_active(now);
                // An acknowledgement opens windows; data may call for one at once.
                self.table.mark_ready(index, &mut self.ready);
                self.update(index);
                if is_active && (!was_active || now >= self.reshare_at) {
                    self.reshare(now);
                }
            }
            Ok(Verdict::PeerClosed { code, reason }) => {
                self.release(now, index, CloseReason::Peer { code, reason });
            }
            Err(violation) => {
                self.counters.violations += 1;
                let reason = violation.to_string();
                self.events
                    .push_back(Event::Closed { session: handle, reason: CloseReason::Violation(violation) });
                self.begin_closing(now, index, CLOSE_VIOLATION, &reason);
            }
        }
    }

    /// The network says that nobody listens at `addr`.
    pub fn handle_refused(&mut self, _now: Time, addr: SocketAddr) {
        self.counters.refused_hints += 1;
        for index in self.table.indexes() {
            let handle = self.table.handle(index);
            let slot = self.table.slot_mut(index);
            match &mut slot.state {
                State::Connecting(connecting) if connecting.addr == addr => {
                    connecting.error = ConnectError::NobodyListens;
                }
                State::Live(session) if session.peer().addr == addr => {
                    if std::mem::replace(&mut slot.refused_told, table::Told::Yes) == table::Told::No {
                        self.events.push_back(Event::Refused { session: handle });
                    }
                }
                State::Connecting(_)
                | State::Live(_)
                | State::Welcomed(_)
                | State::HalfOpen(_)
                | State::Closing(_)
                | State::Free => {}
            }
        }
    }

    /// The socket refused a datagram of `len` bytes to `addr` as too long for every link.
    pub fn handle_too_long(&mut self, now: Time, addr: SocketAddr, len: usize) {
        for index in self.table.indexes() {
            match &mut self.table.slot_mut(index).state {
                State::Live(session) | State::Welcomed(table::Welcomed { session, .. })
                    if session.peer().addr == addr =>
                {
                    session.on_too_long(now, len);
                }
                State::Live(_)
                | State::Welcomed(_)
                | State::Connecting(_)
                | State::HalfOpen(_)
                | State::Closing(_)
                | State::Free => {}
            }
        }
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next datagram to send; what it borrows is free again at the next call. Runs the timers
    /// that are due. Call until `None`, after every send and every timeout, and after the socket has
    /// been emptied: an acknowledgement that waits there makes many a timer needless.
    pub fn poll_transmit<'a>(&'a mut self, now: Time, buf: &'a mut TransmitBuf) -> Option<Transmit<'a>> {
        if now >= self.deadline_bound {
            self.end_handshakes_unheard(now);
            self.run_timers(now);
        }
        if let Some(reply) = self.replies.pop_front() {
            buf.clear();
            buf.bytes.extend_from_slice(&reply.bytes);
            self.count_plain(reply.bytes.len());
            return Some(buf.finish_plain(reply.to));
        }
        while let Some(&index) = self.ready.front() {
            self.ready.pop_front();
            self.table.slot_mut(index).is_ready = table::Ready::No;
            if !self.build(now, index, buf) {
                self.update(index);
                continue;
            }
            if self.has_more(index) {
                // Others come first.
                self.table.mark_ready(index, &mut self.ready);
            }
            self.update(index);
            return Some(match &self.table.slot(index).state {
                State::Live(session) => {
                    let (to, seal) = (session.peer().addr, session.seal());
                    let mut transmit = buf.finish_sealed(to, seal, session.outbox());
                    transmit.is_one_of_many = session.next_number() > PATH_AFTER;
                    transmit
                }
                State::Welcomed(table::Welcomed { session, .. }) => {
                    buf.finish_sealed(session.peer().addr, session.seal(), session.outbox())
                }
                State::Connecting(connecting) => buf.finish_plain(connecting.addr),
                State::Closing(closing) => {
                    buf.finish_sealed(closing.peer.addr, &closing.guards.seal, self.table.no_messages())
                }
                State::HalfOpen(_) | State::Free => unreachable!("built only by the states above"),
            });
        }
        None
    }

    /// When [`Endpoint::poll_transmit`] should be called although nothing has happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.table.next_deadline()
    }

    /// Ends a session; the peer is told, with `reason` cut to
    /// [`crate::config::net::CLOSE_REASON_LEN_MAX`] bytes. What was not acknowledged is dropped. No event follows.
    pub fn close(&mut self, now: Time, session: SessionHandle, code: u16, reason: &str) {
        let Some(slot) = self.table.find_mut(session) else { return };
        let index = session.index as u16;
        match &slot.state {
            State::Live(_) | State::Welcomed(_) => self.begin_closing(now, index, code, reason),
            State::Connecting(_) => self.forget(index),
            State::HalfOpen(_) | State::Closing(_) | State::Free => {}
        }
    }

    /// Asks a peer for a sign of life.
    pub fn ping(&mut self, session: SessionHandle) {
        if let Some(live) = self.table.live_mut(session) {
            live.ping();
            self.table.mark_ready(session.index as u16, &mut self.ready);
        }
    }

    /// When something authentic last came from the peer.
    pub fn last_heard(&self, session: SessionHandle) -> Option<Time> {
        self.table.live(session).map(Session::last_heard)
    }

    /// Smoothed round-trip time.
    pub fn rtt(&self, session: SessionHandle) -> Option<Span> {
        self.table.live(session).map(Session::rtt)
    }

    /// The longest datagram that is known to reach the peer.
    pub fn mtu(&self, session: SessionHandle) -> Option<usize> {
        self.table.live(session).map(Session::mtu)
    }

    /// Messages to the peer that it has not acknowledged.
    pub fn pending(&self, session: SessionHandle) -> Option<usize> {
        self.table.live(session).map(Session::pending)
    }

    /// Bytes of messages to the peer that it has acknowledged so far.
    pub fn acknowledged(&self, session: SessionHandle) -> Option<u64> {
        self.table.live(session).map(Session::acknowledged)
    }

    /// Whether the peer has welcomed an attempt, and has not shown yet that it knows of the session.
    pub fn is_welcomed(&self, session: SessionHandle) -> bool {
        self.table.find(session).is_some_and(|slot| matches!(slot.state, State::Welcomed(_)))
    }

    /// What guards the packets of a session.
    pub fn cipher(&self, session: SessionHandle) -> Option<Cipher> {
        self.table.live(session).map(|s| s.seal().cipher())
    }

    /// Sessions and attempts, of which there are at most [`crate::config::net::SESSIONS_MAX`].
    pub fn sessions(&self) -> usize {
        self.table.sessions()
    }

    /// The peer's address and start.
    pub fn peer(&self, session: SessionHandle) -> Option<(SocketAddr, Incarnation)> {
        self.table.live(session).map(|s| (s.peer().addr, s.peer().incarnation))
    }

    /// Counts of one session.
    pub fn session_counters(&self, session: SessionHandle) -> Option<Counters> {
        self.table.live(session).map(|s| *s.counters())
    }

    /// Counts of the endpoint and of all its sessions, past ones included.
    pub fn counters(&self) -> Counters {
        let mut total = self.counters;
        for index in self.table.indexes() {
            match &self.table.slot(index).state {
                State::Live(session) | State::Welcomed(table::Welcomed { session, .. }) => {
                    total.add(session.counters());
                }
                State::Connecting(_) | State::HalfOpen(_) | State::Closing(_) | State::Free => {}
            }
        }
        total
    }

    /// A packet of these frames and this number, as the session's peer would accept it. None: it has ended.
    #[cfg(test)]
    pub(crate) fn forge(
        &self,
        session: SessionHandle,
        number: u64,
        frames: impl FnOnce(&mut Vec<u8>),
    ) -> Option<Vec<u8>> {
        let live = self.table.live(session)?;
        let mut bytes = Vec::new();
        live.seal().put_header(&mut bytes, live.peer().session, number);
        frames(&mut bytes);
        live.seal().seal(&mut bytes);
        Some(bytes)
    }

    /// Whether a session that has just sent may send again at once; then it is worth being asked.
    fn has_more(&self, index: u16) -> bool {
        match &self.table.slot(index).state {
            State::Live(session) => session.has_more(),
            State::Welcomed(_) | State::Connecting(_) | State::Closing(_) => true,
            State::HalfOpen(_) | State::Free => false,
        }
    }

    /// Puts the next packet of one session together.
    fn build(&mut self, now: Time, index: u16, buf: &mut TransmitBuf) -> bool {
        let len = match &mut self.table.slot_mut(index).state {
            State::Live(session) => return session.poll_transmit(now, buf),
            State::Welcomed(welcomed) => return welcomed.session.poll_transmit(now, buf),
            State::Connecting(connecting) => match connecting.take_hello() {
                Some(hello) => {
                    buf.clear();
                    buf.bytes.extend_from_slice(hello);
                    hello.len()
                }
                None => return false,
            },
            State::Closing(closing) => match closing.take_packet() {
                Some(number) => {
                    buf.begin(&closing.guards.seal, closing.peer.session, number);
                    wire::put_close(&mut buf.bytes, closing.code, &closing.reason);
                    buf.len()
                }
                None => return false,
            },
            State::HalfOpen(_) | State::Free => return false,
        };
        self.count_plain(len);
        true
    }

    fn count_plain(&mut self, len: usize) {
        self.counters.packets_out += 1;
        self.counters.bytes_out += len as u64;
    }

    fn run_timers(&mut self, now: Time) {
        for index in self.table.indexes() {
            if self.table.deadline(index) > now {
                continue;
            }
            match &mut self.table.slot_mut(index).state {
                State::Live(session) => session.on_timeout(now),
                State::Welcomed(table::Welcomed { session, ends }) => {
                    session.on_timeout(now);
                    self.listening.look_again(now, ends);
                }
                State::Connecting(connecting) => {
                    if connecting.on_timeout(now) {
                        self.counters.hellos_resent += 1;
                    }
                    self.listening.look_again(now, &mut connecting.ends);
                }
                State::Closing(_) => {
                    self.forget(index);
                    continue;
                }
                State::HalfOpen(_) | State::Free => continue,
            }
            self.table.mark_ready(index, &mut self.ready);
            self.update(index);
        }
        self.deadline_bound = self.table.next_deadline().unwrap_or(Time(u64::MAX));
    }

    /// Brings a session's deadline and its place among the ready up to date.
    fn update(&mut self, index: u16) {
        let deadline = self.table.update_deadline(index);
        self.deadline_bound = self.deadline_bound.min(deadline);
    }

    /// Splits the socket's buffer among the peers anew.
    fn reshare(&mut self, now: Time) {
        self.reshare_at = now + CREDIT_ACTIVE;
        let (mut active, mut idle) = (0, 0);
        for index in self.table.indexes() {
            if let State::Live(session) = &self.table.slot(index).state {
                *(if session.is_active(now) { &mut active } else { &mut idle }) += 1;
            }
        }
        // Nobody else wants what a single peer does not use.
        let alone = active + idle == 1;
        let share = if alone { self.share.active(1, 0) } else { self.share.active(active, idle) };
        for index in self.table.indexes() {
            let State::Live(session) = &mut self.table.slot_mut(index).state else { continue };
            let credit = if alone || session.is_active(now) { share } else { self.share.idle() };
            if session.set_credit(credit) {
                self.table.mark_ready(index, &mut self.ready);
            }
        }
    }

    fn begin_closing(&mut self, now: Time, index: u16, code: u16, reason: &str) {
        let slot = self.table.slot_mut(index);
        let session = match std::mem::replace(&mut slot.state, State::Free) {
            State::Live(session) | State::Welcomed(table::Welcomed { session, .. }) => session,
            State::Free | State::Connecting(_) | State::HalfOpen(_) | State::Closing(_) => {
                unreachable!("only sessions close")
            }
        };
        self.counters.add(session.counters());
        slot.state = State::Closing(Closing {
            peer: *session.peer(),
            next_number: session.next_number(),
            guards: session.into_guards(),
            until: now + CLOSE_LINGER,
            code,
            reason: reason[..reason.floor_char_boundary(crate::config::net::CLOSE_REASON_LEN_MAX)].to_owned(),
            owed: table::Owed::Now,
            repeats: CLOSE_REPEATS_MAX,
        });
        // The handle is dead at once; the slot only answers.
        slot.generation = slot.generation.wrapping_add(1);
        self.table.mark_ready(index, &mut self.ready);
        self.update(index);
        self.reshare(now);
    }

    /// Ends a session without a word to the peer.
    fn release(&mut self, now: Time, index: u16, reason: CloseReason) {
        let session = self.table.handle(index);
        self.forget(index);
        self.events.push_back(Event::Closed { session, reason });
        self.reshare(now);
    }

    fn forget(&mut self, index: u16) {
        if let State::Live(session) | State::Welcomed(table::Welcomed { session, .. }) =
            &self.table.slot(index).state
        {
            self.counters.add(session.counters());
        }
        self.table.free(index);
    }
}

/// A packet whose tag has been checked.
struct Authentic<'a> {
    number: u64,
    /// Bytes of its datagram.
    len: usize,
    frames: &'a [u8],
}

/// The peer's address of a slot that packets may be for, and what opens them.
fn known(state: &mut State) -> Option<(SocketAddr, &mut Open)> {
    match state {
        State::Live(session) | State::Welcomed(table::Welcomed { session, .. }) => {
            Some((session.peer().addr, session.open_mut()))
        }
        State::HalfOpen(half) => Some((half.addr, &mut half.guards.open)),
        State::Closing(closing) => Some((closing.peer.addr, &mut closing.guards.open)),
        State::Connecting(_) | State::Free => None,
    }
}

/// Whether a datagram from `from` may be a peer's: on loopback, from any of its sockets.
fn is_from(peer: SocketAddr, from: SocketAddr) -> bool {
    peer == from || (peer.ip() == from.ip() && peer.ip().is_loopback())
}

/// The session id's low bits are an index into the table.
fn index_of(id: SessionId) -> usize {
    id.0 as usize & (table::INDEXES - 1)
}
