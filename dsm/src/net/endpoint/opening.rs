//! How sessions begin: hello, welcome, and the first data packet of each side.
//!
//! A responder keeps a bounded number of half-open handshakes, the oldest giving way; a replayed
//! hello gets one for each address that it comes from, and no session, since only the
//! secrets of both fresh keys open it. When many are half-open, only hellos with a cookie get one.

use std::net::SocketAddr;

use super::listening::Ends;
use super::table::{Connecting, HalfOpen, Owed, State, Welcomed};
use super::{CloseReason, ConnectError, ConnectRefused, Endpoint, Event, SessionHandle, Side};
use crate::config::net::{HALF_OPEN_COOKIES, HALF_OPEN_MAX, HANDSHAKE_TIMEOUT, SESSIONS_MAX};
use crate::net::crypt::{Cipher, Guards};
use crate::net::handshake::{
    Callee, Caller, Cookie, Handshake, Hello, Nonce, Plain, Refuse, RefuseWhy, Reject, Series, Welcome,
};
use crate::net::session::{Peer, Session};
use crate::net::wire::SessionId;
use crate::page::{Span, Time};
use crate::settings::Encrypt;

/// A handshake packet that answers one of a peer.
pub(super) struct Reply {
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

/// Answers that wait to be sent; what exceeds it is left to the peer's next hello.
const REPLIES_MAX: usize = HALF_OPEN_MAX;

impl Endpoint {
    /// Begins a session to `addr`. [`Event::Connected`] or [`Event::ConnectFailed`] follows when this node has
    /// listened for [`HANDSHAKE_TIMEOUT`]. If both sides begin one at the same time, two sessions result.
    pub fn connect(&mut self, now: Time, addr: SocketAddr) -> Result<SessionHandle, ConnectRefused> {
        let series = Series::new(self.entropy.u64());
        self.connect_again(now, addr, series)
    }

    /// The same after attempts that have failed. The peer may have taken one of them for a session: what it has
    /// sent there, it sends again in the new one.
    pub fn connect_again(
        &mut self,
        now: Time,
        addr: SocketAddr,
        series: Series,
    ) -> Result<SessionHandle, ConnectRefused> {
        for index in self.table.indexes() {
            let is_same = match &self.table.slot(index).state {
                State::Connecting(connecting) => connecting.addr == addr,
                State::Welcomed(welcomed) => welcomed.session.peer().addr == addr,
                State::Live(session) => session.peer().addr == addr && session.side() == Side::Initiator,
                State::HalfOpen(_) | State::Closing(_) | State::Free => false,
            };
            if is_same {
                return Err(ConnectRefused::Exists(self.table.handle(index)));
            }
        }
        if self.table.sessions() >= SESSIONS_MAX {
            return Err(ConnectRefused::Full);
        }
        let (index, session) = self.table.allocate(&mut self.entropy);
        let ends = self.listening.ends_after(now, HANDSHAKE_TIMEOUT);
        self.say_hello(now, index, session, (addr, series), ends);
        Ok(self.table.handle(index))
    }

    /// Begins the attempt of a slot, with a nonce that no answer under way can know.
    pub(super) fn say_hello(
        &mut self,
        now: Time,
        index: u16,
        session: SessionId,
        (addr, series): (SocketAddr, Series),
        ends: Ends,
    ) {
        let caller = Caller {
            incarnation: self.config.incarnation,
            credit: self.share.idle() as u32,
            series,
            plain: self.plain_with(addr),
            cipher: self.config.cipher,
        };
        let pending = self.keys.begin_hello(&mut self.entropy, self.config.version, session, &caller);
        let hello = self.keys.encode_hello(&pending, &Cookie::default());
        let (retry_at, retry_after) = Connecting::first_retry(now);
        self.table.set(
            index,
            State::Connecting(Box::new(Connecting {
                addr,
                pending,
                hello,
                series,
                ends: Ends { doubted_at: Span(u64::MAX), ..ends },
                retry_at,
                retry_after,
                owed: Owed::Now,
                error: ConnectError::NoAnswer,
                rival: None,
            })),
        );
        self.table.mark_ready(index, &mut self.ready);
        self.update(index);
    }

    pub(super) fn handle_handshake(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        match self.keys.decode(datagram) {
            Err(Reject::Malformed) => self.counters.malformed += 1,
            Err(Reject::Key) => self.counters.bad_key += 1,
            Err(Reject::Mac) => self.counters.bad_mac += 1,
            Ok(Handshake::Hello(hello)) if hello.version != self.config.version => {
                self.refuse(from, hello.session, hello.nonce, RefuseWhy::Version);
            }
            Ok(Handshake::ForeignHello { nonce, session, .. }) => {
                self.refuse(from, session, nonce, RefuseWhy::Version);
            }
            Ok(Handshake::Hello(hello)) => self.on_hello(now, from, &hello),
            Ok(Handshake::Welcome(welcome)) => self.on_welcome(now, from, &welcome),
            Ok(Handshake::Refuse(refuse)) => self.on_refuse(from, &refuse),
            Ok(Handshake::Cookie { receiver, hello_nonce, cookie }) => {
                self.on_cookie(from, receiver, &hello_nonce, &cookie);
            }
        }
    }

    fn on_hello(&mut self, now: Time, from: SocketAddr, hello: &Hello) {
        for index in self.table.indexes() {
            match &self.table.slot(index).state {
                State::HalfOpen(half) if half.addr == from && half.hello_nonce == hello.nonce => {
                    // Our welcome was lost, or the hello was duplicated.
                    let bytes = half.welcome.clone();
                    self.counters.welcomes_resent += 1;
                    return self.reply(from, bytes);
                }
                State::Live(session) if session.peer().addr == from && session.is_from(&hello.nonce) => {
                    self.counters.stale_handshakes += 1;
                    return;
                }
                State::HalfOpen(_)
                | State::Live(_)
                | State::Welcomed(_)
                | State::Connecting(_)
                | State::Closing(_)
                | State::Free => {}
            }
        }
        if self.table.sessions() >= SESSIONS_MAX {
            return self.refuse(from, hello.session, hello.nonce, RefuseWhy::Full);
        }
        if self.table.half_open() >= HALF_OPEN_COOKIES && !self.cookies.accept(now, from, hello) {
            self.counters.cookies_sent += 1;
            let cookie = self.cookies.give(now, from, hello);
            let bytes = self.keys.encode_cookie(hello, &cookie);
            return self.reply(from, bytes);
        }
        if self.table.half_open() >= HALF_OPEN_MAX
            && let Some(oldest) = self.table.oldest_half_open()
        {
            self.counters.half_open_evicted += 1;
            self.table.free(oldest);
        }
        self.open_half(now, from, hello);
    }

    fn open_half(&mut self, now: Time, from: SocketAddr, hello: &Hello) {
        let Some((caller, asked)) = self.keys.read_hello(&mut self.entropy, hello) else {
            self.counters.malformed += 1;
            return;
        };
        let (index, session) = self.table.allocate(&mut self.entropy);
        let both_plain = caller.plain == Plain::Wanted && self.plain_with(from) == Plain::Wanted;
        let callee = Callee {
            session,
            incarnation: self.config.incarnation,
            credit: self.share.idle() as u32,
            cipher: match (both_plain, self.config.cipher, caller.cipher) {
                (true, _, _) => Cipher::Plain,
                (false, Cipher::Aes128Gcm, Cipher::Aes128Gcm) => Cipher::Aes128Gcm,
                (false, _, _) => Cipher::Chacha20Poly1305,
            },
        };
        let (welcome, (theirs, ours)) = self.keys.encode_welcome(hello, asked, &callee);
        let peer = Peer {
            addr: from,
            incarnation: caller.incarnation,
            session: hello.session,
            credit: caller.credit,
            series: caller.series,
        };
        let ends = self.listening.ends_after(now, HANDSHAKE_TIMEOUT);
        let age = self.table.next_age();
        self.table.set(
            index,
            State::HalfOpen(Box::new(HalfOpen {
                addr: from,
                hello_nonce: hello.nonce,
                welcome: welcome.clone(),
                peer,
                guards: Guards::new(now, callee.cipher, (ours, theirs), self.config.key_changes()),
                ends,
                age,
            })),
        );
        self.update(index);
        self.reply(from, welcome);
    }

    fn on_welcome(&mut self, now: Time, from: SocketAddr, welcome: &Welcome) {
        let Some(index) = self.answered(from, welcome.receiver, &welcome.hello_nonce) else { return };
        let plain = self.plain_with(from);
        let State::Connecting(connecting) = &mut self.table.slot_mut(index).state else { return };
        let read = self.keys.read_welcome(&mut connecting.pending, welcome);
        let agreed = |callee: &Callee| callee.cipher != Cipher::Plain || plain == Plain::Wanted;
        let Some((callee, (ours, theirs))) = read.filter(|(callee, _)| agreed(callee)) else {
            self.counters.malformed += 1;
            return;
        };
        if connecting.rival.is_some_and(|rival| rival != callee.incarnation) {
            // Of two starts of the peer the one that answers a new question is the later one.
            let series = connecting.series;
            return self.begin_anew(now, index, welcome.receiver, (from, series));
        }
        let (ends, series, nonce) = (connecting.ends, connecting.series, *connecting.pending.nonce());
        let peer = Peer {
            addr: from,
            incarnation: callee.incarnation,
            session: callee.session,
            credit: callee.credit,
            series,
        };
        let guards = Guards::new(now, callee.cipher, (ours, theirs), self.config.key_changes());
        let session = Box::new(Session::new(now, (peer, guards), (Side::Initiator, nonce), &self.config));
        let ends = self.listening.welcomed(now, ends);
        self.table.set(index, State::Welcomed(Welcomed { session, ends }));
        self.table.mark_ready(index, &mut self.ready);
        self.update(index);
    }

    /// The peer has many handshakes to finish, and wants to know that this one comes from here.
    fn on_cookie(&mut self, from: SocketAddr, receiver: SessionId, nonce: &Nonce, cookie: &Cookie) {
        let Some(index) = self.answered(from, receiver, nonce) else { return };
        if let State::Connecting(connecting) = &mut self.table.slot_mut(index).state {
            connecting.hello = self.keys.encode_hello(&connecting.pending, cookie);
            connecting.owed = Owed::Now;
            self.table.mark_ready(index, &mut self.ready);
        }
    }

    /// What this node says of encryption to a peer.
    fn plain_with(&self, peer: SocketAddr) -> Plain {
        // The kernel drops what comes from another host with an address of this one.
        let is_here = || peer.ip().is_loopback() || self.config.own_ip == Some(peer.ip());
        match self.config.encrypt {
            Encrypt::All => Plain::Never,
            Encrypt::Hosts if is_here() => Plain::Wanted,
            Encrypt::Hosts => Plain::Never,
            Encrypt::Never => Plain::Wanted,
        }
    }

    fn on_refuse(&mut self, from: SocketAddr, refuse: &Refuse) {
        let Some(index) = self.answered(from, refuse.receiver, &refuse.hello_nonce) else { return };
        let error = match refuse.why {
            RefuseWhy::Version => ConnectError::Version { ours: self.config.version, theirs: refuse.version },
            RefuseWhy::Full => ConnectError::PeerFull,
        };
        if let State::Connecting(connecting) = &mut self.table.slot_mut(index).state {
            connecting.error = error;
            self.fail_connect(index);
        }
    }

    /// The attempt of ours that an authentic answer is for.
    fn answered(&mut self, from: SocketAddr, receiver: SessionId, nonce: &Nonce) -> Option<u16> {
        let found = self.table.index_of(receiver).filter(|&index| match &self.table.slot(index).state {
            State::Connecting(connecting) => connecting.addr == from && connecting.pending.nonce() == nonce,
            State::Welcomed(_) | State::Live(_) | State::HalfOpen(_) | State::Closing(_) | State::Free => {
                false
            }
        });
        if found.is_none() {
            self.counters.stale_handshakes += 1;
        }
        found
    }

    /// An authentic packet came for this slot: opens the session if it was about to be opened.
    /// Returns whether there is a session, or the rest of one, to take the packet.
    pub(super) fn establish(&mut self, now: Time, index: u16) -> bool {
        match &self.table.slot(index).state {
            State::Live(_) | State::Closing(_) => return true,
            State::Free | State::Connecting(_) => return false,
            State::HalfOpen(_) if self.table.sessions() >= SESSIONS_MAX => {
                self.counters.refused_full += 1;
                return false;
            }
            State::HalfOpen(_) | State::Welcomed(_) => {}
        }
        let mut age = u64::MAX;
        let session = match self.table.replace(index, State::Free) {
            State::Welcomed(welcomed) => welcomed.session,
            State::HalfOpen(half) => {
                age = half.age;
                let from = (Side::Responder, half.hello_nonce);
                Box::new(Session::new(now, (half.peer, half.guards), from, &self.config))
            }
            State::Live(_) | State::Closing(_) | State::Free | State::Connecting(_) => {
                unreachable!("returned above")
            }
        };
        let (peer, side) = (*session.peer(), session.side());
        self.table.set(index, State::Live(session));
        self.end_predecessors(now, index, &peer, side);
        self.forget_older_halves(&peer, side, age);
        self.doubt_attempts(now, &peer);
        self.events.push_back(Event::Connected {
            session: self.table.handle(index),
            addr: peer.addr,
            incarnation: peer.incarnation,
            side,
        });
        self.reshare(now);
        true
    }

    /// Ends the sessions that a new one proves to be over: of an earlier start of the peer, and those
    /// in whose place the peer has begun this one. If it did so in one series of attempts, none of them had come
    /// up there: it has taken in nothing of what was sent, and takes it in now.
    fn end_predecessors(&mut self, now: Time, index: u16, peer: &Peer, side: Side) {
        for other in self.table.indexes() {
            if other == index {
                continue;
            }
            let State::Live(session) = &self.table.slot(other).state else { continue };
            if session.peer().addr != peer.addr {
                continue;
            }
            if session.peer().incarnation != peer.incarnation {
                self.release(now, other, CloseReason::PeerRestarted);
            } else if side == Side::Responder && session.side() == Side::Responder {
                let begins_anew = session.peer().series == peer.series && session.acknowledged() == 0;
                if begins_anew && self.config.rules.sends_again() {
                    self.move_messages(other, index);
                }
                let reason = if begins_anew { CloseReason::BegunAnew } else { CloseReason::Replaced };
                self.release(now, other, reason);
            }
        }
    }

    /// Moves the messages of a session of which the peer knows nothing to the one in its place.
    fn move_messages(&mut self, from: u16, to: u16) {
        let State::Live(old) = &mut self.table.slot_mut(from).state else { return };
        let messages = old.take_messages();
        let State::Live(session) = &mut self.table.slot_mut(to).state else { return };
        session.adopt(messages);
        self.table.mark_ready(to, &mut self.ready);
    }

    /// Forgets handshakes that the peer began before this one, be it in an earlier start or in an attempt that it
    /// has given up: their first packet, late, would end the session that replaced them.
    fn forget_older_halves(&mut self, peer: &Peer, side: Side, age: u64) {
        for index in self.table.indexes() {
            let State::HalfOpen(half) = &self.table.slot(index).state else { continue };
            // What the peer has begun says nothing of what was begun here.
            let is_given_up = side == Side::Responder || half.peer.incarnation != peer.incarnation;
            if half.addr == peer.addr && half.age < age && is_given_up {
                self.forget(index);
            }
        }
    }

    /// Attempts of ours at the address of a session that has come up meanwhile: what another start of the
    /// peer answers, or has answered, may be older than that session, and must not end it. So it is asked
    /// again.
    fn doubt_attempts(&mut self, now: Time, peer: &Peer) {
        for index in self.table.indexes() {
            let session = self.table.slot(index).id;
            let mut doubted = None;
            match &mut self.table.slot_mut(index).state {
                State::Connecting(connecting) if connecting.addr == peer.addr => {
                    connecting.rival = Some(peer.incarnation);
                }
                State::Welcomed(Welcomed { session: welcomed, .. })
                    if welcomed.peer().addr == peer.addr
                        && welcomed.peer().incarnation != peer.incarnation =>
                {
                    doubted = Some(welcomed.peer().series);
                }
                State::Connecting(_)
                | State::Welcomed(_)
                | State::HalfOpen(_)
                | State::Live(_)
                | State::Closing(_)
                | State::Free => {}
            }
            if let Some(series) = doubted {
                self.begin_anew(now, index, session, (peer.addr, series));
            }
        }
    }

    /// Begins an attempt anew, with all the time that one has.
    fn begin_anew(&mut self, now: Time, index: u16, session: SessionId, whom: (SocketAddr, Series)) {
        let ends = self.listening.ends_after(now, HANDSHAKE_TIMEOUT);
        self.say_hello(now, index, session, whom, ends);
    }

    pub(super) fn fail_connect(&mut self, index: u16) {
        let (addr, error, series) = match &self.table.slot(index).state {
            State::Connecting(connecting) => (connecting.addr, connecting.error, connecting.series),
            State::Welcomed(Welcomed { session, .. }) => {
                (session.peer().addr, ConnectError::NoAnswer, session.peer().series)
            }
            State::Live(_) | State::HalfOpen(_) | State::Closing(_) | State::Free => return,
        };
        let session = self.table.handle(index);
        self.forget(index);
        self.events.push_back(Event::ConnectFailed { session, addr, error, series });
    }

    fn refuse(&mut self, to: SocketAddr, receiver: SessionId, hello_nonce: Nonce, why: RefuseWhy) {
        match why {
            RefuseWhy::Version => self.counters.refused_version += 1,
            RefuseWhy::Full => self.counters.refused_full += 1,
        }
        let version = self.config.version;
        let bytes = self.keys.encode_refuse(&Refuse { receiver, version, hello_nonce, why });
        self.reply(to, bytes);
    }

    fn reply(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        if self.replies.len() < REPLIES_MAX {
            self.replies.push_back(Reply { to, bytes });
        } else {
            self.counters.replies_dropped += 1;
        }
    }
}
