//! What the next packet of a session holds: the one place where every window is consulted.
//!
//! Order within a packet: acknowledgement, credit, control messages, bulk. Three limits apply:
//! congestion and pacing (control may exceed them a little), credit (control may use all of it, bulk
//! leaves a reserve), and the path's MTU. A probe after a timeout ignores the first, never credit.

use super::outbox::{Cut, Room, Send, Taken};
use super::recovery::{Carries, Fragments, Probes};
use super::{Demand, Owed, Purpose, SentPacket, Session};
use crate::config::net::{
    CONGESTION_CONTROL_RESERVE, CREDIT_CONTROL_RESERVE, FRAGMENTS_PER_PACKET_MAX, SENT_PACKETS_MAX,
};
use crate::net::credit;
use crate::net::message::Priority;
use crate::net::transmit::TransmitBuf;
use crate::net::wire::{HEADER_LEN, put_credit, put_part_head, put_ping, put_probe_head, put_whole_head};
use crate::page::Time;

/// Datagram lengths that are allowed now.
struct Limits {
    /// On this path, to this receiver, when nothing else is on its way.
    datagram: usize,
    /// With control messages in it.
    control: usize,
    /// With bulk in it.
    bulk: usize,
}

impl Session {
    /// Puts the next packet together in `buf`. Returns `false`, with `buf` of no use, if there is
    /// nothing to send now.
    pub(crate) fn poll_transmit(&mut self, now: Time, buf: &mut TransmitBuf) -> bool {
        if self.probes == Probes::NONE && self.recovery.remembered() >= SENT_PACKETS_MAX {
            return false;
        }
        self.build_mtu_probe(now, buf) || self.build_packet(now, buf)
    }

    /// Whether something may be left to send after a packet. Acknowledgements are not: they went with it.
    pub(crate) fn has_more(&self) -> bool {
        self.outbox.has(Priority::Control)
            || self.outbox.has(Priority::Bulk)
            || self.probes != Probes::NONE
            || self.credit_in_news == Owed::Now
            || self.mtu.is_searching()
    }

    fn build_packet(&mut self, now: Time, buf: &mut TransmitBuf) -> bool {
        let has_messages = self.outbox.has(Priority::Control) || self.outbox.has(Priority::Bulk);
        let ack_due = self.acks.due().is_some_and(|at| at <= now);
        let is_probe = self.probes != Probes::NONE;
        let small = ack_due || self.ping == Owed::Now || self.credit_in_news == Owed::Now || is_probe;
        if !has_messages && !small {
            self.demand = Demand::Less;
            return false;
        }
        self.begin(now, buf);
        let mut carries = Carries::default();
        // It rides along even when it is not due; whether anything carries it shows below.
        let owed = self.acks.owed();
        if let Some(largest) = owed {
            carries.ack = Some(largest);
            self.acks.write(now, &mut buf.bytes);
        }
        let mut eliciting = false;
        if self.credit_in_news == Owed::Now {
            carries.credit = Some(self.credit_in as u32);
            put_credit(&mut buf.bytes, self.credit_in as u32);
            eliciting = true;
        }
        let is_short = self.probes.pings > 0;
        let fragments =
            if has_messages && !is_short { self.put_messages(now, buf) } else { Fragments::new() };
        eliciting |= !fragments.is_empty();
        if self.ping == Owed::Now || (is_probe && !eliciting) {
            put_ping(&mut buf.bytes);
            eliciting = true;
        }
        if !eliciting && !ack_due {
            return false;
        }
        self.ping = Owed::Nothing;
        self.credit_in_news = Owed::Nothing;
        if owed.is_some() {
            self.acks.on_written();
        }
        let purpose = if eliciting { Purpose::Data } else { Purpose::AckOnly };
        self.record(now, buf.len(), purpose, carries, fragments);
        true
    }

    /// Fills the packet with messages, as far as the windows allow.
    fn put_messages(&mut self, now: Time, buf: &mut TransmitBuf) -> Fragments {
        let limits = self.limits(now);
        let mut fragments = Fragments::new();
        for (priority, limit) in [(Priority::Control, limits.control), (Priority::Bulk, limits.bulk)] {
            while self.outbox.has(priority) && fragments.len() < FRAGMENTS_PER_PACKET_MAX {
                let room =
                    Room { here: limit.saturating_sub(buf.len()), empty: limits.datagram - HEADER_LEN };
                let Some(taken) = self.outbox.take(priority, room) else { break };
                self.put_taken(taken, buf);
                fragments.push(taken.fragment);
            }
        }
        fragments
    }

    fn put_taken(&mut self, taken: Taken, buf: &mut TransmitBuf) {
        let Taken { fragment, id, cut, send } = taken;
        let len = u16::try_from(fragment.len).expect("a datagram is shorter than 64 KiB");
        match cut {
            Cut::Whole => put_whole_head(&mut buf.bytes, id, len),
            Cut::Part { total } => put_part_head(&mut buf.bytes, id, fragment.offset, total, len),
        }
        buf.put_fragment(&self.outbox, fragment);
        match send {
            Send::First => {}
            Send::Again => self.counters.fragments_retransmitted += 1,
        }
    }

    fn limits(&mut self, now: Time) -> Limits {
        let datagram = self.mtu.present().min(credit::datagram_max(self.credit_out));
        let outstanding = self.recovery.outstanding();
        // One datagram is always allowed, so that no credit is too small to go on.
        let within = |reserve: usize| match outstanding {
            0 => datagram,
            _ => credit::len_within(self.credit_out.saturating_sub(outstanding + reserve)).min(datagram),
        };
        let mut limits = Limits { datagram, control: within(0), bulk: within(CREDIT_CONTROL_RESERVE) };
        if self.probes != Probes::NONE {
            return limits;
        }
        let (window, in_flight) = (self.congestion.window(), self.recovery.in_flight());
        // A datagram that only begins within the window would eat what control may have beyond it.
        let is_full = in_flight > 0 && in_flight + datagram > window;
        self.demand = if is_full { Demand::WindowLimited } else { Demand::Less };
        if in_flight >= window + CONGESTION_CONTROL_RESERVE {
            limits.control = 0;
        }
        if is_full {
            limits.bulk = 0;
        } else if self.outbox.has(Priority::Bulk) {
            let rtt = self.recovery.rtt().smoothed();
            self.paced_until = self.pacer.wait(now, window, datagram, rtt);
            if self.paced_until.is_some() {
                limits.bulk = 0;
                // Patience is no lack of demand (RFC 9002, section 7.8).
                self.demand = Demand::WindowLimited;
            }
        }
        limits
    }

    /// A probe for a longer datagram, if one is worth sending and credit has room for it.
    fn build_mtu_probe(&mut self, now: Time, buf: &mut TransmitBuf) -> bool {
        if self.mtu.present() >= credit::datagram_max(self.credit_out) {
            return false;
        }
        let free = self.credit_out.saturating_sub(self.recovery.outstanding() + CREDIT_CONTROL_RESERVE);
        let Some(size) = self.mtu.poll_probe(now, credit::len_within(free)) else { return false };
        self.begin(now, buf);
        put_probe_head(&mut buf.bytes);
        buf.put_padding(size - buf.len());
        self.counters.mtu_probes += 1;
        self.record(now, size, Purpose::MtuProbe, Carries::default(), Fragments::new());
        true
    }

    fn begin(&mut self, now: Time, buf: &mut TransmitBuf) {
        let number = self.recovery.next_number();
        self.guards.seal.renew(now, number, self.recovery.largest_acked());
        buf.begin(&self.guards.seal, self.peer.session, number);
    }

    fn record(&mut self, now: Time, len: usize, purpose: Purpose, carries: Carries, fragments: Fragments) {
        match purpose {
            Purpose::Data => {
                let due =
                    if self.probes.pings > 0 { &mut self.probes.pings } else { &mut self.probes.packets };
                *due = due.saturating_sub(1);
                self.pacer.on_sent(len);
            }
            Purpose::AckOnly | Purpose::MtuProbe | Purpose::Settled => {}
        }
        self.counters.packets_out += 1;
        self.counters.bytes_out += len as u64;
        self.recovery.on_sent(SentPacket {
            time: now,
            len: len as u32,
            truesize: credit::truesize(len) as u32,
            purpose,
            carries,
            fragments,
            again: None,
        });
    }
}
