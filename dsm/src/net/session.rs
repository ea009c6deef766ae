//! One peer: packets in, messages out, and back. A value without clock, socket or thread.
//!
//! The pieces: `outbox` (what to send), `recovery` (what was sent), `congestion` and `mtu` (how much
//! and how long), `acks` (what arrived), `reassembly` (what to deliver). This file ties them
//! together: a packet in, a packet out, a timer. The handshake and the other peers are
//! `endpoint.rs`'s affair. Structure after RFC 9002 and RFC 9000, sections 12 and 13.

mod acks;
mod build;
mod congestion;
mod mtu;
mod outbox;
mod reassembly;
mod recovery;
mod seen;

use std::net::SocketAddr;

use super::endpoint::EndpointConfig;
use crate::codec::{DecodeError, Reader};
use crate::config::net::{CREDIT_ACTIVE, CREDIT_PEER_MIN};
use crate::net::counters::Counters;
use crate::net::credit;
use crate::net::crypt::{Guards, Open, Seal};
use crate::net::endpoint::Side;
use crate::net::handshake::{Nonce, Series};
use crate::net::message::{OutMessage, Priority};
use crate::net::wire::{Ack, Frame, SessionId, next_frame};
use crate::page::{Incarnation, Span, Time};

use acks::Acks;
use congestion::{CongestionController, Delivery, Demand, NewReno, Pacer};
use mtu::Mtu;
pub(crate) use outbox::{Fragment, Outbox};
use reassembly::{Piece, Reassembly};
use recovery::{Again, Findings, Probes, Purpose, Recovery, SentPacket};
use seen::Arrival;

/// Packet numbers end here: no session lives so long, and sums of two cannot overflow.
const NUMBER_MAX: u64 = 1 << 62;
/// Datagrams above this make their sender count as active.
const LARGE: usize = 1024;

/// Why a message was not queued. Nothing was changed, and the message is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// Too much waits for this peer already: send again when some of it has been acknowledged.
    #[error("the queue to this peer is full")]
    Full,
    /// The handshake has not finished.
    #[error("the session is not connected yet")]
    NotConnected,
    /// The session is over, or the handle is of an older one.
    #[error("the session is closed")]
    Closed,
    /// The message exceeds [`crate::config::MESSAGE_LEN_MAX`].
    #[error("the message is too long")]
    TooLong,
}

/// How a peer broke the protocol; its session ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    /// Authentic bytes that no sender of ours writes.
    #[error("malformed frames: {0}")]
    Malformed(#[from] DecodeError),
    /// A packet number that no session reaches.
    #[error("packet number out of bounds")]
    PacketNumber,
    /// It acknowledged a packet that was never sent.
    #[error("acknowledgement of an unsent packet")]
    AckOfUnsent,
    /// A fragment that does not lie within a legal message.
    #[error("fragment out of bounds")]
    FragmentBounds,
    /// Fragments of one message that disagree about its length.
    #[error("fragments contradict each other")]
    Contradiction,
    /// More incomplete messages, bytes or holes than a receiver keeps.
    #[error("too much incomplete")]
    ReassemblyBounds,
    /// A message number further ahead than a receiver remembers.
    #[error("message number too far ahead")]
    MessageIdAhead,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    pub(crate) incarnation: Incarnation,
    /// The session as the peer numbers it.
    pub(crate) session: SessionId,
    /// What the peer lets us have unacknowledged at first.
    pub(crate) credit: u32,
    /// Of the attempts that led to the session.
    pub(crate) series: Series,
}

/// What the owner of an endpoint did with a message that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It has it.
    Yes,
    /// It has no room: the message is to come again.
    No,
}

/// What a packet meant for the session as a whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// It goes on.
    Open,
    /// The peer ended it.
    PeerClosed { code: u16, reason: String },
}

/// Something small that is to go out with the next packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Owed {
    Nothing,
    Now,
}

/// One established session.
pub(crate) struct Session {
    peer: Peer,
    guards: Guards,
    side: Side,
    hello: Nonce,
    acks: Acks,
    recovery: Recovery,
    outbox: Outbox,
    reassembly: Reassembly,
    congestion: Box<dyn CongestionController + Send>,
    delivery: Delivery,
    pacer: Pacer,
    mtu: Mtu,
    demand: Demand,
    /// Bulk may go again at this time.
    paced_until: Option<Time>,
    /// Packets to send in spite of all windows.
    probes: Probes,
    ping: Owed,
    /// What the peer may have unacknowledged, and whether it must be told.
    credit_in: usize,
    credit_in_news: Owed,
    /// What we may have unacknowledged, and the packet that said so.
    credit_out: usize,
    credit_out_from: Option<u64>,
    last_heard: Time,
    active_until: Time,
    found: Findings,
    counters: Counters,
}

impl Session {
    /// A session that both sides have agreed on. Its first packet asks for an acknowledgement.
    pub(crate) fn new(
        now: Time,
        (peer, guards): (Peer, Guards),
        (side, hello): (Side, Nonce),
        config: &EndpointConfig,
    ) -> Self {
        Session {
            peer,
            guards,
            side,
            hello,
            acks: Acks::new(),
            recovery: Recovery::new(),
            outbox: Outbox::new(config.queue_max),
            reassembly: Reassembly::new(),
            congestion: Box::new(NewReno::new()),
            delivery: Delivery::default(),
            pacer: Pacer::new(),
            mtu: Mtu::new(config.mtu_max),
            demand: Demand::Less,
            paced_until: None,
            probes: Probes::NONE,
            ping: Owed::Now,
            credit_in: CREDIT_PEER_MIN,
            credit_in_news: Owed::Nothing,
            credit_out: clamp_credit(peer.credit),
            credit_out_from: None,
            last_heard: now,
            active_until: Time(0),
            found: Findings::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What its packets are sealed with.
    pub(crate) fn seal(&self) -> &Seal {
        &self.guards.seal
    }

    /// What packets from the peer are opened with.
    pub(crate) fn open_mut(&mut self) -> &mut Open {
        &mut self.guards.open
    }

    /// Ends it: what is still needed to answer late packets.
    pub(crate) fn into_guards(self) -> Guards {
        self.guards
    }

    /// Which side this one is.
    pub(crate) fn side(&self) -> Side {
        self.side
    }

    /// Whether the session began with the hello of this nonce.
    pub(crate) fn is_from(&self, hello: &Nonce) -> bool {
        self.hello == *hello
    }

    /// Number of the next packet.
    pub(crate) fn next_number(&self) -> u64 {
        self.recovery.next_number()
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When the peer was last heard of.
    pub(crate) fn last_heard(&self) -> Time {
        self.last_heard
    }

    /// Smoothed round-trip time.
    pub(crate) fn rtt(&self) -> Span {
        self.recovery.rtt().smoothed()
    }

    /// The longest datagram that is known to arrive.
    pub(crate) fn mtu(&self) -> usize {
        self.mtu.present()
    }

    /// Whether the peer has lately sent enough to deserve more credit than an idle one.
    pub(crate) fn is_active(&self, now: Time) -> bool {
        self.active_until > now
    }

    /// Messages that the peer has not acknowledged.
    pub(crate) fn pending(&self) -> usize {
        self.outbox.pending()
    }

    /// Bytes of messages that the peer has acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.outbox.acknowledged()
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn ping(&mut self) {
        self.ping = Owed::Now;
    }

    /// Whether a message finds room in the queue.
    pub(crate) fn has_room(&self, message: &OutMessage, priority: Priority) -> bool {
        self.outbox.has_room(message, priority)
    }

    /// Bytes of the queue that are taken.
    pub(crate) fn queued(&self) -> usize {
        self.outbox.charged()
    }

    /// Queues a message.
    pub(crate) fn send(&mut self, message: OutMessage, priority: Priority) -> Result<(), SendError> {
        self.outbox.push(message, priority).inspect_err(|_| self.counters.sends_refused += 1)?;
        self.counters.messages_out += 1;
        Ok(())
    }

    /// Takes the messages of a session of which the peer has acknowledged nothing, in the order of [`Session::send`].
    pub(crate) fn take_messages(&mut self) -> Vec<(OutMessage, Priority)> {
        self.outbox.take_all()
    }

    /// Queues messages that another session to this peer was to carry. They fit: they did so there.
    pub(crate) fn adopt(&mut self, messages: Vec<(OutMessage, Priority)>) {
        for (message, priority) in messages {
            let queued = self.outbox.push(message, priority);
            debug_assert!(queued.is_ok(), "the queues are alike: {queued:?}");
        }
    }

    /// Lets the peer have `credit` bytes unacknowledged from now on. Returns whether it must be told.
    pub(crate) fn set_credit(&mut self, credit: usize) -> bool {
        // Small gains are not worth a frame; every loss is, lest the socket overflow.
        let worth_telling = credit < self.credit_in || credit > self.credit_in + self.credit_in / 8;
        if worth_telling {
            self.credit_in = credit;
            self.credit_in_news = Owed::Now;
        }
        worth_telling
    }

    /// Takes in a packet of `len` bytes whose authenticity has been checked. Offers every message that became
    /// complete; a packet with one that is refused is not acknowledged, and its peer sends the message again. After
    /// an error the session must be ended.
    pub(crate) fn handle_packet(
        &mut self,
        now: Time,
        number: u64,
        len: usize,
        payload: &[u8],
        offer: &mut dyn FnMut(&[u8]) -> Taken,
    ) -> Result<Verdict, Violation> {
        if number >= NUMBER_MAX {
            return Err(Violation::PacketNumber);
        }
        if self.acks.insert(now, number) == Arrival::Duplicate {
            self.counters.duplicate_packets += 1;
            self.acks.on_duplicate(now);
            return Ok(Verdict::Open);
        }
        // A number is sent once: what comes again may come from anybody, also when its sender is dead.
        self.last_heard = now;
        self.counters.packets_in += 1;
        self.counters.bytes_in += len as u64;
        if len > LARGE {
            self.active_until = now + CREDIT_ACTIVE;
        }
        let mut reader = Reader::new(payload);
        let (mut elicits, mut pinged, mut refused) = (false, false, false);
        let mut offer = |bytes: &[u8]| {
            let taken = offer(bytes);
            refused |= taken == Taken::No;
            taken
        };
        while let Some(frame) = next_frame(&mut reader)? {
            match frame {
                Frame::Whole { id, bytes } => {
                    elicits = true;
                    let messages_in = &mut self.counters.messages_in;
                    let arrival = self.reassembly.accept_whole(id, || {
                        let taken = offer(bytes);
                        *messages_in += u64::from(taken == Taken::Yes);
                        taken
                    })?;
                    self.count_message(arrival);
                }
                Frame::Part { id, offset, total, bytes } => {
                    elicits = true;
                    self.on_part(Piece { id, offset, total, bytes }, &mut offer)?;
                }
                Frame::Ack(ack) => self.on_ack(now, &ack)?,
                Frame::Credit { window } => {
                    elicits = true;
                    self.on_credit(number, window);
                }
                Frame::Ping => (elicits, pinged) = (true, true),
                Frame::Probe => elicits = true,
                Frame::Close { code, reason } => {
                    let reason = String::from_utf8_lossy(reason).into_owned();
                    return Ok(Verdict::PeerClosed { code, reason });
                }
            }
        }
        if refused {
            self.counters.messages_refused += 1;
            self.acks.withdraw(number);
            // Its peer hears that this node is there, though its packets seem to be lost.
            self.ping = Owed::Now;
        } else if elicits {
            self.acks.on_eliciting(now, number, credit::truesize(len), self.credit_in);
            if pinged {
                // Nothing else is likely to go there soon: this spares a wake-up.
                self.acks.hurry(now);
            }
        }
        Ok(Verdict::Open)
    }

    /// When [`Session::on_timeout`] or a transmission is due.
    pub(crate) fn timeout(&self) -> Option<Time> {
        let times = [self.acks.due(), self.recovery.timeout(), self.paced_until, self.mtu.timeout()];
        // Asked twice a packet: without branches.
        let first = times.map(|time| time.map_or(u64::MAX, |time| time.0)).into_iter().min();
        first.filter(|&first| first != u64::MAX).map(Time)
    }

    /// The time of [`Session::timeout`] has come. Transmissions may follow.
    pub(crate) fn on_timeout(&mut self, now: Time) {
        if self.paced_until.is_some_and(|at| at <= now) {
            self.paced_until = None;
        }
        self.mtu.on_timeout(now);
        let mut found = std::mem::take(&mut self.found);
        let probes = self.recovery.on_timeout(now, &mut found);
        if probes != Probes::NONE {
            self.probes = probes;
            self.counters.probe_timeouts += 1;
        }
        self.absorb(now, &mut found);
        self.found = found;
    }

    /// The socket refused a datagram of `len` bytes as too long for every link.
    pub(crate) fn on_too_long(&mut self, now: Time, len: usize) {
        if let Some(mtu) = self.mtu.on_too_long(now, len) {
            self.congestion.on_mtu(mtu);
            self.counters.mtu_black_holes += 1;
        }
    }

    fn on_part(&mut self, piece: Piece<'_>, offer: &mut dyn FnMut(&[u8]) -> Taken) -> Result<(), Violation> {
        let mut complete = 0;
        let arrival = self.reassembly.accept_piece(piece, &mut |bytes| {
            let taken = offer(bytes);
            complete += u64::from(taken == Taken::Yes);
            taken
        })?;
        self.counters.messages_in += complete;
        self.count_message(arrival);
        Ok(())
    }

    fn count_message(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::New => {}
            Arrival::Duplicate => self.counters.duplicate_messages += 1,
        }
    }

    fn on_credit(&mut self, number: u64, window: u32) {
        // Packets overtake each other; the newest word counts.
        if self.credit_out_from.is_none_or(|from| from < number) {
            self.credit_out_from = Some(number);
            self.credit_out = clamp_credit(window);
        }
    }

    fn on_ack(&mut self, now: Time, ack: &Ack<'_>) -> Result<(), Violation> {
        let mut found = std::mem::take(&mut self.found);
        let worked = self.recovery.on_ack(now, ack, &mut found);
        self.absorb(now, &mut found);
        self.found = found;
        worked.map_err(|_| Violation::AckOfUnsent)
    }

    /// Tells everyone concerned what became of packets.
    fn absorb(&mut self, now: Time, found: &mut Findings) {
        self.counters.resent_in_vain += std::mem::take(&mut found.in_vain);
        let mut delivered = 0;
        for packet in found.acked.drain(..) {
            for fragment in &packet.fragments {
                self.outbox.on_acked(*fragment);
            }
            if let Some(largest) = packet.carries.ack {
                self.acks.forget_through(largest);
            }
            let len = packet.len as usize;
            match packet.purpose {
                Purpose::Data => {
                    delivered += len;
                    self.congestion.on_acked(packet.time, len, self.demand);
                    self.mtu.on_acked(len);
                }
                Purpose::MtuProbe => {
                    if let Some(mtu) = self.mtu.on_probe_acked(len) {
                        self.congestion.on_mtu(mtu);
                    }
                }
                Purpose::AckOnly | Purpose::Settled => {}
            }
        }
        if delivered > 0 {
            self.delivery.on_acked(now, delivered, self.rtt());
        }
        for packet in found.lost.drain(..) {
            self.on_lost(now, packet);
        }
        if std::mem::take(&mut found.persistent_congestion) {
            self.congestion.on_persistent_congestion();
        }
    }

    fn on_lost(&mut self, now: Time, packet: SentPacket) {
        for fragment in &packet.fragments {
            self.outbox.on_lost(*fragment);
        }
        if packet.carries.credit.is_some() {
            self.credit_in_news = Owed::Now;
        }
        let counters = &mut self.counters;
        if let (Purpose::Data | Purpose::Settled, Some(again)) = (packet.purpose, packet.again) {
            *match again {
                Again::Overtaken => &mut counters.lost_overtaken,
                Again::Late => &mut counters.lost_late,
                Again::Forgotten => &mut counters.lost_forgotten,
                Again::Probe => &mut counters.resent_on_timeout,
            } += 1;
        }
        let len = packet.len as usize;
        match packet.purpose {
            Purpose::Data => {
                self.counters.packets_lost += 1;
                let pipe = self.delivery.pipe(self.recovery.rtt().shortest());
                self.congestion.on_loss(now, packet.time, pipe);
                self.suspect_mtu(now, len);
            }
            Purpose::MtuProbe => self.mtu.on_probe_lost(now, len),
            Purpose::AckOnly | Purpose::Settled => {}
        }
    }

    fn suspect_mtu(&mut self, now: Time, len: usize) {
        if let Some(mtu) = self.mtu.on_suspicion(now, len) {
            self.congestion.on_mtu(mtu);
            self.counters.mtu_black_holes += 1;
        }
    }
}

/// A peer's word about credit, bent to what a working session needs and to our own bound.
fn clamp_credit(window: u32) -> usize {
    (window as usize).clamp(CREDIT_PEER_MIN, crate::config::net::CREDIT_PEER_MAX)
}
