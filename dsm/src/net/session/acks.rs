//! The receiving half's memory of packets: what has arrived, and when to say so.
//!
//! An acknowledgement goes out with the second packet that asks for one, after
//! [`ACK_DELAY_MAX`], at once after a gap or a PING, and at once when the sender has used half of its credit
//! and would otherwise wait for us. RFC 9000, section 13.2.

use smallvec::SmallVec;

use super::seen::{Arrival, Seen};
use crate::config::net::{ACK_DELAY_MAX, ACK_RANGES_MAX};
use crate::net::wire::{PacketRange, put_ack};
use crate::page::Time;

/// Packets that wait for an acknowledgement before one is sent without further delay.
const UNACKED_MAX: u32 = 2;

/// What arrived, and whether the peer waits to hear of it.
pub(super) struct Acks {
    seen: Seen,
    /// Newest first, never touching each other.
    ranges: SmallVec<[PacketRange; ACK_RANGES_MAX + 1]>,
    newest_at: Time,
    unacked: u32,
    unacked_truesize: usize,
    due: Option<Time>,
}

impl Acks {
    pub(super) fn new() -> Self {
        Acks {
            seen: Seen::new(),
            ranges: SmallVec::new(),
            newest_at: Time(0),
            unacked: 0,
            unacked_truesize: 0,
            due: None,
        }
    }

    /// Records a packet whose authenticity has been checked.
    pub(super) fn insert(&mut self, now: Time, number: u64) -> Arrival {
        if self.seen.insert(number) == Arrival::Duplicate {
            return Arrival::Duplicate;
        }
        match self.ranges.first_mut() {
            Some(newest) if number == newest.last + 1 => newest.last = number,
            Some(_) | None => self.insert_out_of_order(number),
        }
        if self.ranges[0].last == number {
            self.newest_at = now;
        }
        Arrival::New
    }

    fn insert_out_of_order(&mut self, number: u64) {
        let at = self.ranges.iter().position(|r| number >= r.first).unwrap_or(self.ranges.len());
        let joins_older = self.ranges.get(at).is_some_and(|r| r.last + 1 == number);
        let joins_newer = at > 0 && self.ranges[at - 1].first == number + 1;
        match (joins_newer, joins_older) {
            (true, true) => {
                self.ranges[at - 1].first = self.ranges[at].first;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].first = number,
            (false, true) => self.ranges[at].last = number,
            (false, false) => {
                self.ranges.insert(at, PacketRange { first: number, last: number });
                self.ranges.truncate(ACK_RANGES_MAX);
            }
        }
    }

    /// The packet `number`, just inserted, counts as lost: what it carries is to come again.
    pub(super) fn withdraw(&mut self, number: u64) {
        let Some(at) = self.ranges.iter().position(|r| (r.first..=r.last).contains(&number)) else { return };
        let PacketRange { first, last } = self.ranges.remove(at);
        if first < number {
            self.ranges.insert(at, PacketRange { first, last: number - 1 });
        }
        if number < last {
            self.ranges.insert(at, PacketRange { first: number + 1, last });
        }
        self.ranges.truncate(ACK_RANGES_MAX);
        if self.ranges.is_empty() {
            // The peer has heard of all others.
            self.on_written();
        }
    }

    /// The packet `number`, just inserted, asks for an acknowledgement; it took `truesize` bytes of
    /// the `credit` that its sender has.
    pub(super) fn on_eliciting(&mut self, now: Time, number: u64, truesize: usize, credit: usize) {
        self.unacked += 1;
        self.unacked_truesize += truesize;
        // A second range means that something is missing below, or that this one fills a hole.
        let gap = self.ranges.len() > 1 || self.ranges.first().is_some_and(|r| r.last != number);
        if gap || self.unacked >= UNACKED_MAX || self.unacked_truesize * 2 >= credit {
            self.due = Some(now);
        } else if self.due.is_none() {
            self.due = Some(now + ACK_DELAY_MAX);
        }
    }

    /// Acknowledgements that are owed go out now.
    pub(super) fn hurry(&mut self, now: Time) {
        self.due = Some(now);
    }

    /// A packet arrived again: its sender has probably not heard of it.
    pub(super) fn on_duplicate(&mut self, now: Time) {
        if self.due.is_none() && !self.ranges.is_empty() {
            self.due = Some(now + ACK_DELAY_MAX);
        }
    }

    /// When an acknowledgement must go out, by itself if need be.
    pub(super) fn due(&self) -> Option<Time> {
        self.due
    }

    /// The newest packet that an acknowledgement written now would name, if one is owed.
    pub(super) fn owed(&self) -> Option<u64> {
        self.due.and(self.ranges.first()).map(|r| r.last)
    }

    /// Appends the ACK frame; [`Acks::on_written`] follows if the packet is sent.
    pub(super) fn write(&self, now: Time, out: &mut Vec<u8>) {
        put_ack(out, &self.ranges, now.since(self.newest_at));
    }

    /// The ACK frame is on its way: nothing is owed any more.
    pub(super) fn on_written(&mut self) {
        self.unacked = 0;
        self.unacked_truesize = 0;
        self.due = None;
    }

    /// The peer has our acknowledgement up to `largest`: older ranges need not be repeated.
    pub(super) fn forget_through(&mut self, largest: u64) {
        let keep = self.ranges.iter().position(|r| r.last <= largest).unwrap_or(self.ranges.len());
        // The newest range stays whole, so that a packet next to it still joins it.
        self.ranges.truncate(keep.max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const CREDIT: usize = 1 << 20;

    #[test]
    fn the_second_packet_is_acknowledged_at_once_and_the_first_after_the_delay() {
        let mut acks = Acks::new();
        acks.insert(Time(5), 0);
        acks.on_eliciting(Time(5), 0, 768, CREDIT);
        assert_eq!(acks.due(), Some(Time(5) + ACK_DELAY_MAX));
        acks.insert(Time(9), 1);
        acks.on_eliciting(Time(9), 1, 768, CREDIT);
        assert_eq!(acks.due(), Some(Time(9)));
        acks.on_written();
        assert_eq!(acks.due(), None);
    }

    #[test]
    fn what_is_hurried_goes_out_at_once() {
        let mut acks = Acks::new();
        acks.insert(Time(5), 0);
        acks.on_eliciting(Time(5), 0, 768, CREDIT);
        acks.hurry(Time(6));
        assert_eq!(acks.due(), Some(Time(6)));
    }

    #[test]
    fn a_gap_and_half_of_the_credit_are_acknowledged_at_once() {
        let mut acks = Acks::new();
        acks.insert(Time(1), 1);
        acks.insert(Time(2), 3);
        acks.on_eliciting(Time(2), 3, 768, CREDIT);
        assert_eq!(acks.due(), Some(Time(2)));
        let mut acks = Acks::new();
        acks.insert(Time(2), 0);
        acks.on_eliciting(Time(2), 0, 8448, 16_000);
        assert_eq!(acks.due(), Some(Time(2)));
    }

    #[test]
    fn a_packet_that_is_withdrawn_is_named_by_no_acknowledgement() {
        let named = |acks: &Acks| -> Vec<u64> { acks.ranges.iter().flat_map(|r| r.first..=r.last).collect() };
        for withdrawn in 0..5 {
            let mut acks = Acks::new();
            let order = (0..5).filter(|number| *number != withdrawn).chain([withdrawn]);
            order.for_each(|number| assert_eq!(acks.insert(Time(1), number), Arrival::New));
            acks.withdraw(withdrawn);
            let mut rest = named(&acks);
            rest.sort_unstable();
            assert_eq!(rest, (0..5).filter(|number| *number != withdrawn).collect::<Vec<u64>>());
            assert_eq!(acks.insert(Time(2), withdrawn), Arrival::Duplicate, "it comes under another number");
        }
    }

    /// What is owed and cannot be written would be due for ever.
    #[test]
    fn nothing_is_owed_when_no_packet_is_left_to_name() {
        let mut acks = Acks::new();
        acks.insert(Time(1), 0);
        acks.on_eliciting(Time(1), 0, 768, CREDIT);
        acks.insert(Time(2), 2);
        acks.forget_through(0);
        acks.withdraw(2);
        assert_eq!((acks.due(), acks.owed()), (None, None));
    }

    proptest! {
        #[test]
        fn ranges_are_the_sorted_set_of_arrivals(
            numbers in proptest::collection::vec(0u64..60, 1..80)
        ) {
            let (mut acks, mut set) = (Acks::new(), BTreeSet::new());
            for number in numbers {
                acks.insert(Time(0), number);
                set.insert(number);
            }
            let named: BTreeSet<u64> = acks.ranges.iter().flat_map(|r| r.first..=r.last).collect();
            prop_assert_eq!(named, set);
            for pair in acks.ranges.windows(2) {
                prop_assert!(pair[0].first > pair[1].last + 1);
            }
        }
    }
}
