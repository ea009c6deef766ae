//! The sending half's memory of packets: which are on their way, which were lost, and when to ask.
//! RFC 9002, sections 5 and 6, with the constants of a LAN (`config.rs`).
//!
//! A timer never gives a peer up: probe timeouts go on, ever further apart, until the session is
//! closed from outside.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::outbox::Fragment;
use crate::config::net::{
    ACK_DELAY_MAX, FRAGMENTS_INLINE, GRANULARITY, INITIAL_RTT, MTU_BASE, MTU_PAGE, PACKET_THRESHOLD, PTO_MAX,
    PTO_MIN, SENT_PACKETS_MAX,
};
use crate::net::wire::Ack;
use crate::page::{Span, Time};

/// Packets that a probe timeout sends: one at first, since the peer may only be late.
const PROBES: [u32; 2] = [1, 2];
/// Probe timeouts that a run of losses must span to count as persistent congestion.
const PERSISTENT_TIMEOUTS: u64 = 3;

/// Packets that were declared lost and may yet turn out to have been late.
const DECLARED_LOST_MAX: usize = 64;

/// The pieces of messages that one packet carries; few of them fit inline.
pub(super) type Fragments = SmallVec<[Fragment; FRAGMENTS_INLINE]>;

/// One packet that was sent.
pub(super) struct SentPacket {
    pub(super) time: Time,
    /// Bytes on the wire.
    pub(super) len: u32,
    /// Bytes of the receiver's socket buffer that it may take.
    pub(super) truesize: u32,
    pub(super) purpose: Purpose,
    pub(super) carries: Carries,
    pub(super) fragments: Fragments,
    /// Whether its bytes are sent again, and why.
    pub(super) again: Option<Again>,
}

/// Why the bytes of a packet are sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Again {
    /// Newer packets have arrived, as many as the packet threshold.
    Overtaken,
    /// A newer packet has arrived, and the time threshold is over.
    Late,
    /// A probe timeout asks for an answer.
    Probe,
    /// There is no room to remember it.
    Forgotten,
}

/// What a packet is for: decides what its loss means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// Nothing waits for its acknowledgement.
    AckOnly,
    /// It counts for congestion.
    Data,
    /// It tests a datagram size; its loss says nothing about congestion (RFC 8899, section 3).
    MtuProbe,
    /// Its fate is known.
    Settled,
}

/// Small things in a packet that its acknowledgement or loss is reported for.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Carries {
    /// The newest packet that its ACK frame names.
    pub(super) ack: Option<u64>,
    /// It has a CREDIT frame.
    pub(super) credit: Option<u32>,
}

/// Smoothed round-trip time. RFC 9002, section 5.3.
pub(super) struct Rtt {
    latest: Span,
    smoothed: Span,
    variation: Span,
    min: Option<Span>,
}

/// What an acknowledgement or a timer brought to light; filled by [`Recovery`], read by the session.
#[derive(Default)]
pub(super) struct Findings {
    /// Packets that arrived.
    pub(super) acked: Vec<SentPacket>,
    /// Packets that did not.
    pub(super) lost: Vec<SentPacket>,
    /// Packets that arrived although their bytes have been sent again.
    pub(super) in_vain: u64,
    /// Losses so long in a row that the path must be thought empty.
    pub(super) persistent_congestion: bool,
}

/// What a probe timeout sends in spite of all windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Probes {
    /// Packets with bytes that were sent before.
    pub(super) packets: u32,
    /// Short packets that only ask for an acknowledgement, ahead of those.
    pub(super) pings: u32,
}

impl Probes {
    pub(super) const NONE: Probes = Probes { packets: 0, pings: 0 };
}

/// An acknowledgement of a packet that was never sent.
pub(super) struct AckOfUnsent;

/// Packets of one direction of one session.
pub(super) struct Recovery {
    /// Packets from number `first` on; those in front are open.
    sent: VecDeque<SentPacket>,
    first: u64,
    largest_acked: Option<u64>,
    rtt: Rtt,
    loss_at: Option<Time>,
    last_eliciting: Time,
    timeouts: u32,
    in_flight: usize,
    outstanding: usize,
    eliciting: usize,
    /// Numbers of the packets last declared lost whose bytes are sent again: they may have been late only.
    declared_lost: VecDeque<u64>,
}

impl Recovery {
    pub(super) fn new() -> Self {
        Recovery {
            sent: VecDeque::new(),
            first: 0,
            largest_acked: None,
            rtt: Rtt::new(),
            loss_at: None,
            last_eliciting: Time(0),
            timeouts: 0,
            in_flight: 0,
            outstanding: 0,
            eliciting: 0,
            declared_lost: VecDeque::new(),
        }
    }

    /// Number of the next packet.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.sent.len() as u64
    }

    /// The newest packet that the peer has acknowledged.
    pub(super) fn largest_acked(&self) -> Option<u64> {
        self.largest_acked
    }

    /// Bytes that count for congestion.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Bytes, in truesize terms, that may be in the receiver's socket buffer.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Packets that are remembered.
    pub(super) fn remembered(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn rtt(&self) -> &Rtt {
        &self.rtt
    }

    /// Records a packet; its number is [`Recovery::next_number`].
    pub(super) fn on_sent(&mut self, packet: SentPacket) {
        match packet.purpose {
            Purpose::AckOnly | Purpose::Settled => {}
            Purpose::Data | Purpose::MtuProbe => {
                self.eliciting += 1;
                self.outstanding += packet.truesize as usize;
                self.last_eliciting = packet.time;
                if packet.purpose == Purpose::Data {
                    self.in_flight += packet.len as usize;
                }
            }
        }
        if packet.purpose == Purpose::AckOnly && self.sent.is_empty() {
            // A node that only listens would remember all its acknowledgements.
            self.first += 1;
            return;
        }
        self.sent.push_back(packet);
    }

    /// Works an acknowledgement in. On an error nothing was changed.
    pub(super) fn on_ack(
        &mut self,
        now: Time,
        ack: &Ack<'_>,
        found: &mut Findings,
    ) -> Result<(), AckOfUnsent> {
        if ack.largest >= self.next_number() {
            return Err(AckOfUnsent);
        }
        if !self.declared_lost.is_empty() {
            found.in_vain += self.forgive(ack);
        }
        let before = found.acked.len();
        let mut newest_sent_at = None;
        for range in ack.ranges() {
            if range.last < self.first {
                break;
            }
            for number in (range.first.max(self.first)..=range.last).rev() {
                let Some(packet) = self.settle(number) else { continue };
                found.in_vain += u64::from(packet.again.is_some());
                if number == ack.largest {
                    newest_sent_at = Some(packet.time);
                }
                found.acked.push(packet);
            }
        }
        if found.acked.len() == before {
            return Ok(());
        }
        if let Some(sent_at) = newest_sent_at {
            self.rtt.sample(now.since(sent_at), ack.delay);
        }
        self.largest_acked = self.largest_acked.max(Some(ack.largest));
        self.timeouts = 0;
        self.find_lost(now, found);
        Ok(())
    }

    /// When [`Recovery::on_timeout`] has something to do.
    pub(super) fn timeout(&self) -> Option<Time> {
        if self.loss_at.is_some() {
            return self.loss_at;
        }
        (self.eliciting > 0).then(|| self.last_eliciting + self.probe_timeout())
    }

    /// A timer of [`Recovery::timeout`] has passed: declares losses, or asks for probes. The probes
    /// carry the oldest open bytes, moved to `found.lost` in packets of purpose
    /// [`Purpose::Settled`]: sent again, but not yet counted as lost.
    pub(super) fn on_timeout(&mut self, now: Time, found: &mut Findings) -> Probes {
        match self.timeout() {
            Some(at) if at <= now => {}
            Some(_) | None => return Probes::NONE,
        }
        if self.loss_at.is_some() {
            self.find_lost(now, found);
            return Probes::NONE;
        }
        self.timeouts += 1;
        // Without it a second timeout would follow at once when the probe cannot be sent.
        self.last_eliciting = now;
        while self.sent.len() + PROBES[1] as usize > SENT_PACKETS_MAX {
            // Nobody has answered for long: what is oldest is not worth remembering.
            match self.settle(self.first) {
                Some(packet) => found.lost.push(SentPacket { again: Some(Again::Forgotten), ..packet }),
                None => break,
            }
        }
        let probes = self.plan_probes();
        let open = self.sent.iter_mut().filter(|p| p.purpose == Purpose::Data && !p.fragments.is_empty());
        for packet in open.take(probes.packets as usize) {
            packet.again = Some(Again::Probe);
            found.lost.push(SentPacket {
                purpose: Purpose::Settled,
                fragments: std::mem::take(&mut packet.fragments),
                ..*packet
            });
        }
        probes
    }

    /// A short packet is simply sent again: a peer waits for it. For a long one, a PING finds out
    /// first whether it has arrived; and it is answered even on a path that swallows long packets.
    fn plan_probes(&self) -> Probes {
        let oldest = self.sent.iter().find(|p| p.purpose == Purpose::Data).map_or(0, |p| p.len as usize);
        let packets = PROBES[usize::from(self.timeouts > 1)];
        match oldest {
            ..=MTU_BASE => Probes { packets, pings: 0 },
            len if len <= MTU_PAGE => Probes { packets: 1, pings: 1 },
            _ => Probes { packets: packets - 1, pings: 1 },
        }
    }

    /// The present probe timeout, doublings included.
    pub(super) fn probe_timeout(&self) -> Span {
        let base = self.rtt.probe_timeout();
        Span(base.0.saturating_mul(1 << self.timeouts.min(20))).min(PTO_MAX)
    }

    /// Takes a packet out of the books; `None` if its fate was known.
    fn settle(&mut self, number: u64) -> Option<SentPacket> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let packet = self.sent.get_mut(index)?;
        match packet.purpose {
            Purpose::Settled => return None,
            Purpose::AckOnly => {}
            Purpose::Data | Purpose::MtuProbe => {
                self.eliciting -= 1;
                self.outstanding -= packet.truesize as usize;
                if packet.purpose == Purpose::Data {
                    self.in_flight -= packet.len as usize;
                }
            }
        }
        let settled = SentPacket { fragments: std::mem::take(&mut packet.fragments), ..*packet };
        packet.purpose = Purpose::Settled;
        // Packets that nobody acknowledges by themselves must not keep the front open.
        while self.sent.front().is_some_and(|p| matches!(p.purpose, Purpose::Settled | Purpose::AckOnly)) {
            self.sent.pop_front();
            self.first += 1;
        }
        Some(settled)
    }

    fn find_lost(&mut self, now: Time, found: &mut Findings) {
        self.loss_at = None;
        let Some(largest) = self.largest_acked else { return };
        let delay = self.rtt.loss_delay();
        let persistent = Span(self.rtt.probe_timeout().0.saturating_mul(PERSISTENT_TIMEOUTS));
        let mut run_start: Option<Time> = None;
        let mut number = self.first;
        while number < largest.min(self.next_number()) {
            // Settling may move `first` past settled neighbours.
            let Some(index) = number.checked_sub(self.first) else {
                (number, run_start) = (self.first, None);
                continue;
            };
            let Some(packet) = self.sent.get(index as usize) else { break };
            let (time, purpose) = (packet.time, packet.purpose);
            match purpose {
                Purpose::AckOnly => {}
                // It arrived, or was lost long ago: what was lost before it is another run.
                Purpose::Settled => run_start = None,
                Purpose::Data | Purpose::MtuProbe => {
                    if number + PACKET_THRESHOLD > largest && time + delay > now {
                        self.loss_at = Some(self.loss_at.map_or(time + delay, |at| at.min(time + delay)));
                    } else if let Some(packet) = self.settle(number) {
                        let is_overtaken = number + PACKET_THRESHOLD <= largest;
                        let again = Some(if is_overtaken { Again::Overtaken } else { Again::Late });
                        self.remember_lost(number, &packet);
                        let start = *run_start.get_or_insert(packet.time);
                        found.persistent_congestion |= packet.time.since(start) > persistent;
                        found.lost.push(SentPacket { again, ..packet });
                    }
                }
            }
            number += 1;
        }
    }

    fn remember_lost(&mut self, number: u64, packet: &SentPacket) {
        if packet.purpose != Purpose::Data || packet.fragments.is_empty() && packet.again.is_none() {
            return;
        }
        if self.declared_lost.len() == DECLARED_LOST_MAX {
            self.declared_lost.pop_front();
        }
        self.declared_lost.push_back(number);
    }

    /// Takes the packets that have arrived after all out of those declared lost.
    fn forgive(&mut self, ack: &Ack<'_>) -> u64 {
        let before = self.declared_lost.len();
        for range in ack.ranges() {
            self.declared_lost.retain(|number| !(range.first..=range.last).contains(number));
        }
        (before - self.declared_lost.len()) as u64
    }
}

impl Rtt {
    fn new() -> Self {
        Rtt { latest: INITIAL_RTT, smoothed: INITIAL_RTT, variation: Span(INITIAL_RTT.0 / 2), min: None }
    }

    /// The shortest round-trip time seen; an assumption before the first sample.
    pub(super) fn shortest(&self) -> Span {
        self.min.unwrap_or(self.smoothed)
    }

    /// The smoothed round-trip time; an assumption before the first sample.
    pub(super) fn smoothed(&self) -> Span {
        self.smoothed
    }

    fn sample(&mut self, latest: Span, ack_delay: Span) {
        self.latest = latest;
        let Some(min) = self.min else {
            self.min = Some(latest);
            self.smoothed = latest;
            self.variation = Span(latest.0 / 2);
            return;
        };
        let min = min.min(latest);
        self.min = Some(min);
        let delay = ack_delay.min(ACK_DELAY_MAX);
        let adjusted = if latest.0 >= min.0 + delay.0 { latest.0 - delay.0 } else { latest.0 };
        self.variation = Span((3 * self.variation.0 + self.smoothed.0.abs_diff(adjusted)) / 4);
        self.smoothed = Span((7 * self.smoothed.0 + adjusted) / 8);
    }

    /// How much later than a packet its successor may be acknowledged before it counts as lost: 9/8.
    fn loss_delay(&self) -> Span {
        let longest = self.latest.max(self.smoothed).0;
        Span(longest + longest / 8).max(GRANULARITY)
    }

    /// The probe timeout without doublings.
    fn probe_timeout(&self) -> Span {
        let spread = Span(4 * self.variation.0).max(GRANULARITY);
        Span(self.smoothed.0 + spread.0 + ACK_DELAY_MAX.0).max(PTO_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Reader;
    use crate::net::wire::{Frame, PacketRange, next_frame, put_ack};

    const RTT: Span = Span::from_us(50);

    fn packet(time: Time, purpose: Purpose) -> SentPacket {
        SentPacket {
            time,
            len: 1000,
            truesize: 2304,
            purpose,
            carries: Carries::default(),
            fragments: Fragments::new(),
            again: None,
        }
    }

    fn send(recovery: &mut Recovery, count: u64, time: Time) {
        for _ in 0..count {
            recovery.on_sent(packet(time, Purpose::Data));
        }
    }

    fn ack(recovery: &mut Recovery, now: Time, ranges: &[(u64, u64)]) -> Result<Findings, AckOfUnsent> {
        let ranges: Vec<_> = ranges.iter().map(|&(first, last)| PacketRange { first, last }).collect();
        let mut bytes = Vec::new();
        put_ack(&mut bytes, &ranges, Span(0));
        let Ok(Some(Frame::Ack(ack))) = next_frame(&mut Reader::new(&bytes)) else { panic!("an ack") };
        let mut found = Findings::default();
        recovery.on_ack(now, &ack, &mut found)?;
        Ok(found)
    }

    #[test]
    fn a_packet_three_behind_the_newest_acknowledged_is_lost() {
        let mut recovery = Recovery::new();
        send(&mut recovery, 5, Time(0));
        let found = ack(&mut recovery, Time(0) + RTT, &[(3, 3)]).unwrap_or_default();
        assert_eq!((found.acked.len(), found.lost.len()), (1, 1));
        // Packets 1 and 2 get their time, then are lost too; packet 4 is newer than any acknowledged.
        let at = recovery.timeout().unwrap();
        assert_eq!(at, Time(0) + GRANULARITY);
        let mut found = Findings::default();
        assert_eq!(recovery.on_timeout(at, &mut found), Probes::NONE);
        assert_eq!(found.lost.len(), 2);
        assert_eq!((recovery.in_flight(), recovery.outstanding()), (1000, 2304));
    }

    #[test]
    fn an_acknowledgement_of_an_unsent_packet_is_an_error_and_changes_nothing() {
        let mut recovery = Recovery::new();
        send(&mut recovery, 2, Time(0));
        assert!(ack(&mut recovery, Time(9), &[(0, 2)]).is_err());
        assert_eq!(recovery.in_flight(), 2000);
        assert!(ack(&mut recovery, Time(9), &[(0, 1)]).is_ok());
        assert_eq!((recovery.in_flight(), recovery.remembered()), (0, 0));
    }

    #[test]
    fn probe_timeouts_double_and_never_end() {
        let mut recovery = Recovery::new();
        send(&mut recovery, 1, Time(0));
        let mut found = Findings::default();
        let mut waits = Vec::new();
        let mut now = Time(0);
        for timeout in 0..40 {
            let at = recovery.timeout().expect("there is always a next one");
            waits.push(at.since(now));
            now = at;
            // A late peer costs one packet, a silent one two each time.
            let packets = if timeout == 0 { 1 } else { 2 };
            assert_eq!(recovery.on_timeout(now, &mut found), Probes { packets, pings: 0 });
        }
        assert!(waits[0] >= PTO_MIN && waits[1].0 == 2 * waits[0].0);
        assert_eq!(waits.last(), Some(&PTO_MAX));
    }

    #[test]
    fn a_long_packet_is_asked_after_before_it_is_sent_again() {
        for (len, first, second) in [(4_200, (1, 1), (1, 1)), (60_000, (0, 1), (1, 1))] {
            let mut recovery = Recovery::new();
            recovery.on_sent(SentPacket { len, ..packet(Time(0), Purpose::Data) });
            for (packets, pings) in [first, second] {
                let at = recovery.timeout().unwrap();
                assert_eq!(recovery.on_timeout(at, &mut Findings::default()), Probes { packets, pings });
            }
        }
    }

    #[test]
    fn losses_with_an_arrival_between_them_are_no_persistent_congestion() {
        let mut recovery = Recovery::new();
        send(&mut recovery, 1, Time(0));
        ack(&mut recovery, Time(0) + RTT, &[(0, 0)]).unwrap_or_default();
        for i in 0..10 {
            send(&mut recovery, 1, Time(0) + Span::from_ms(1 + i));
        }
        let found = ack(&mut recovery, Time(0) + Span::from_ms(11), &[(10, 10), (2, 8)]).unwrap_or_default();
        assert!(!found.persistent_congestion && found.lost.len() == 2);
    }

    #[test]
    fn acknowledgement_only_packets_leave_no_trace() {
        let mut recovery = Recovery::new();
        recovery.on_sent(packet(Time(0), Purpose::AckOnly));
        assert_eq!((recovery.timeout(), recovery.in_flight()), (None, 0));
        send(&mut recovery, 1, Time(1));
        ack(&mut recovery, Time(60_000), &[(0, 1)]).unwrap_or_default();
        assert_eq!(recovery.remembered(), 0);
    }

    #[test]
    fn losses_over_three_probe_timeouts_are_persistent_congestion() {
        let mut recovery = Recovery::new();
        send(&mut recovery, 1, Time(0));
        ack(&mut recovery, Time(0) + RTT, &[(0, 0)]).unwrap_or_default();
        for i in 0..10 {
            send(&mut recovery, 1, Time(0) + Span::from_ms(1 + i));
        }
        let found = ack(&mut recovery, Time(0) + Span::from_ms(11), &[(10, 10)]).unwrap_or_default();
        assert!(found.persistent_congestion && found.lost.len() == 9);
    }
}
