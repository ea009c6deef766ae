//! How long a datagram may be: packetization layer path MTU discovery, RFC 8899.
//!
//! All candidate sizes above the present one are probed side by side, so that a loopback path is
//! known after one round trip; each is tried a few times. When large packets keep vanishing and
//! none arrives, the path has become a black hole for them, and the session falls back to the base.

use crate::config::net::{
    MTU_BASE, MTU_BLACK_HOLE_HOLD, MTU_BLACK_HOLE_LOSSES, MTU_PROBE_TRIES_MAX, MTU_PROBES, MTU_RAISE_AFTER,
};
use crate::page::{Span, Time};

/// Search for the longest datagram that arrives.
pub(super) struct Mtu {
    present: usize,
    limit: usize,
    sizes: [Size; MTU_PROBES.len()],
    /// No probe before this; sizes given up are tried again then.
    hold_until: Time,
    hold: Span,
    lost_in_a_row: u32,
}

#[derive(Clone, Copy)]
struct Size {
    bytes: usize,
    lost: u32,
    probe: Probe,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Probe {
    Idle,
    OnItsWay,
}

impl Mtu {
    pub(super) fn new(limit: usize) -> Self {
        let size = |bytes| Size { bytes, lost: 0, probe: Probe::Idle };
        Mtu {
            present: MTU_BASE,
            limit: limit.max(MTU_BASE),
            sizes: MTU_PROBES.map(size),
            hold_until: Time(0),
            hold: MTU_BLACK_HOLE_HOLD,
            lost_in_a_row: 0,
        }
    }

    /// The longest datagram that is known to arrive.
    pub(super) fn present(&self) -> usize {
        self.present
    }

    /// Whether there may be a size to probe.
    pub(super) fn is_searching(&self) -> bool {
        self.present < self.limit && self.hold_until == Time(0)
    }

    /// A size to probe now, at most `room` bytes; the caller sends it.
    pub(super) fn poll_probe(&mut self, now: Time, room: usize) -> Option<usize> {
        let bound = room.min(self.limit);
        if self.present >= self.limit || now < self.hold_until {
            return None;
        }
        let present = self.present;
        let size =
            self.sizes.iter_mut().rev().find(|s| s.is_open() && s.bytes > present && s.bytes <= bound)?;
        size.probe = Probe::OnItsWay;
        Some(size.bytes)
    }

    /// When probing starts again after a pause.
    pub(super) fn timeout(&self) -> Option<Time> {
        (self.present < self.limit && self.hold_until != Time(0)).then_some(self.hold_until)
    }

    /// A pause is over: sizes that were given up get another chance.
    pub(super) fn on_timeout(&mut self, now: Time) {
        if self.hold_until != Time(0) && self.hold_until <= now {
            self.hold_until = Time(0);
            for size in &mut self.sizes {
                size.lost = 0;
            }
        }
    }

    /// A probe of `bytes` arrived. Returns whether datagrams may be longer now.
    pub(super) fn on_probe_acked(&mut self, bytes: usize) -> Option<usize> {
        self.settle(bytes, |size| size.lost = 0);
        (bytes > self.present).then(|| {
            self.present = bytes;
            self.lost_in_a_row = 0;
            bytes
        })
    }

    /// A probe of `bytes` was lost.
    pub(super) fn on_probe_lost(&mut self, now: Time, bytes: usize) {
        self.settle(bytes, |size| size.lost += 1);
        self.pause_if_done(now);
    }

    /// The socket refused a datagram of `bytes`: no link of this host carries it. Returns the size
    /// to fall back to if that is shorter than the present one.
    pub(super) fn on_too_long(&mut self, now: Time, bytes: usize) -> Option<usize> {
        for size in self.sizes.iter_mut().filter(|s| s.bytes >= bytes) {
            size.lost = MTU_PROBE_TRIES_MAX;
        }
        self.pause_if_done(now);
        (bytes <= self.present && self.present > MTU_BASE).then(|| {
            self.present = MTU_BASE;
            MTU_BASE
        })
    }

    /// A data packet of `bytes` arrived.
    pub(super) fn on_acked(&mut self, bytes: usize) {
        if bytes > MTU_BASE {
            self.lost_in_a_row = 0;
        }
    }

    /// A data packet of `bytes` was lost, or waits for its acknowledgement past a probe timeout.
    /// Returns the base size if the path must be thought a black hole.
    pub(super) fn on_suspicion(&mut self, now: Time, bytes: usize) -> Option<usize> {
        if bytes <= MTU_BASE || self.present <= MTU_BASE {
            return None;
        }
        self.lost_in_a_row += 1;
        if self.lost_in_a_row < MTU_BLACK_HOLE_LOSSES {
            return None;
        }
        self.lost_in_a_row = 0;
        self.present = MTU_BASE;
        self.hold_until = now + self.hold;
        self.hold = Span(self.hold.0 * 2).min(MTU_RAISE_AFTER);
        Some(MTU_BASE)
    }

    fn settle(&mut self, bytes: usize, change: impl Fn(&mut Size)) {
        for size in self.sizes.iter_mut().filter(|s| s.bytes == bytes) {
            size.probe = Probe::Idle;
            change(size);
        }
    }

    fn pause_if_done(&mut self, now: Time) {
        let mut above = self.sizes.iter().filter(|s| s.bytes > self.present && s.bytes <= self.limit);
        if self.hold_until <= now && above.all(|s| s.lost >= MTU_PROBE_TRIES_MAX) {
            self.hold_until = now + MTU_RAISE_AFTER;
        }
    }
}

impl Size {
    fn is_open(&self) -> bool {
        self.lost < MTU_PROBE_TRIES_MAX && self.probe == Probe::Idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::net::{MTU_LIMIT, MTU_PAGE};

    #[test]
    fn all_sizes_are_probed_at_once_and_the_largest_that_arrives_wins() {
        let mut mtu = Mtu::new(MTU_LIMIT);
        let probes: Vec<usize> = std::iter::from_fn(|| mtu.poll_probe(Time(0), usize::MAX)).collect();
        assert_eq!(probes, [MTU_LIMIT, 8972, MTU_PAGE, 1472]);
        assert_eq!(mtu.on_probe_acked(8972), Some(8972));
        assert_eq!(mtu.on_probe_acked(1472), None);
        for _ in 0..MTU_PROBE_TRIES_MAX {
            mtu.on_probe_lost(Time(0), MTU_LIMIT);
        }
        assert_eq!((mtu.present(), mtu.poll_probe(Time(0), usize::MAX)), (8972, None));
        let at = mtu.timeout().unwrap();
        mtu.on_timeout(at);
        assert_eq!(mtu.poll_probe(at, usize::MAX), Some(MTU_LIMIT));
    }

    #[test]
    fn probes_keep_to_the_limit_and_to_the_room() {
        let mut mtu = Mtu::new(5000);
        assert_eq!(mtu.poll_probe(Time(0), 2000), Some(1472));
        assert_eq!(mtu.poll_probe(Time(0), 9000), Some(MTU_PAGE));
        assert_eq!(mtu.poll_probe(Time(0), 90_000), None);
    }

    #[test]
    fn large_packets_that_all_vanish_mean_a_black_hole() {
        let mut mtu = Mtu::new(MTU_LIMIT);
        mtu.on_probe_acked(8972);
        for _ in 0..MTU_BLACK_HOLE_LOSSES - 1 {
            assert_eq!(mtu.on_suspicion(Time(0), 8972), None);
        }
        mtu.on_acked(8000);
        for _ in 0..MTU_BLACK_HOLE_LOSSES - 1 {
            assert_eq!(mtu.on_suspicion(Time(0), 8972), None);
        }
        assert_eq!(mtu.on_suspicion(Time(0), 1000), None);
        assert_eq!(mtu.on_suspicion(Time(0), 8972), Some(MTU_BASE));
        assert_eq!(mtu.poll_probe(Time(0), usize::MAX), None);
        assert_eq!(mtu.timeout(), Some(Time(0) + MTU_BLACK_HOLE_HOLD));
    }
}
