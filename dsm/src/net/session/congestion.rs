//! How many bytes may be on their way, and how fast they follow each other.
//!
//! NewReno of RFC 9002, section 7, behind a trait so that another controller can take its place,
//! with the floor of TCP Westwood+ under its reductions, and the pacer of section 7.7. Explicit congestion notification is not read yet: a mark would be
//! one more caller of [`CongestionController::on_loss`]. The receiver's socket buffer is not this
//! file's concern but that of credit (`net/credit.rs`), which is what meets an incast first.

use crate::config::net::{CONGESTION_INITIAL_MAX, CONGESTION_WINDOW_MAX, GRANULARITY, MTU_BASE};
use crate::page::{Span, Time};

/// Datagrams of the initial window.
const INITIAL_DATAGRAMS: usize = 10;
/// Bytes that a burst may have beside what the rate allows.
const BURST_DATAGRAMS: usize = 10;

/// Whether the sender had more to send than the window allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Demand {
    /// The window was the limit, so it may grow.
    WindowLimited,
    /// Little was sent; the window says nothing about the path.
    Less,
}

/// Decides how many bytes may be unacknowledged.
pub(super) trait CongestionController {
    /// Bytes that may be in flight.
    fn window(&self) -> usize;
    /// A packet of `len` bytes, sent at `sent_at`, arrived.
    fn on_acked(&mut self, sent_at: Time, len: usize, demand: Demand);
    /// A packet sent at `sent_at` was lost, on a path that holds about `pipe` bytes.
    fn on_loss(&mut self, now: Time, sent_at: Time, pipe: usize);
    /// Everything was lost for so long that the path must be thought empty.
    fn on_persistent_congestion(&mut self);
    /// Datagrams may now have `mtu` bytes.
    fn on_mtu(&mut self, mtu: usize);
}

/// RFC 9002's example controller; a loss leaves it what the path is known to carry.
///
/// Halving answers a queue that has overflowed. Where packets vanish at random, halves of halves would
/// be left of a window that never filled a queue. So a loss reduces it to what was delivered of late in
/// one round trip, if that is more than half (TCP Westwood+; Grieco and Mascolo 2004), but always by an
/// eighth: if there is a queue after all, it drains, and flows that share a link still back off.
pub(super) struct NewReno {
    window: usize,
    slow_start_until: usize,
    recovery_since: Option<Time>,
    acked_in_avoidance: usize,
    mtu: usize,
}

impl NewReno {
    pub(super) fn new() -> Self {
        NewReno {
            window: INITIAL_DATAGRAMS * MTU_BASE,
            slow_start_until: usize::MAX,
            recovery_since: None,
            acked_in_avoidance: 0,
            mtu: MTU_BASE,
        }
    }

    fn window_min(&self) -> usize {
        2 * self.mtu
    }
}

impl CongestionController for NewReno {
    fn window(&self) -> usize {
        self.window
    }

    fn on_acked(&mut self, sent_at: Time, len: usize, demand: Demand) {
        let in_recovery = self.recovery_since.is_some_and(|since| sent_at <= since);
        if in_recovery || demand == Demand::Less {
            return;
        }
        if self.window < self.slow_start_until {
            self.window = (self.window + len).min(CONGESTION_WINDOW_MAX);
            return;
        }
        self.acked_in_avoidance += len;
        if self.acked_in_avoidance >= self.window {
            self.acked_in_avoidance -= self.window;
            self.window = (self.window + self.mtu).min(CONGESTION_WINDOW_MAX);
        }
    }

    fn on_loss(&mut self, now: Time, sent_at: Time, pipe: usize) {
        if self.recovery_since.is_some_and(|since| sent_at <= since) {
            return;
        }
        self.recovery_since = Some(now);
        let kept = pipe.clamp(self.window / 2, self.window - self.window / 8);
        self.window = kept.max(self.window_min());
        self.slow_start_until = self.window;
        self.acked_in_avoidance = 0;
    }

    fn on_persistent_congestion(&mut self) {
        self.window = self.window_min();
        self.recovery_since = None;
    }

    fn on_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
        let initial = (INITIAL_DATAGRAMS * mtu).min(CONGESTION_INITIAL_MAX);
        if self.slow_start_until == usize::MAX {
            // No loss so far: the initial window is that of the larger datagrams.
            self.window = self.window.max(initial);
        }
        self.window = self.window.max(self.window_min());
    }
}

/// How much the path delivers, from acknowledgements: sampled about once a round trip, and smoothed.
#[derive(Default)]
pub(super) struct Delivery {
    since: Time,
    bytes: usize,
    /// Bytes a second.
    rate: u64,
}

impl Delivery {
    /// `bytes` were acknowledged. Spans without traffic count too, so that the rate is never
    /// overestimated: then a loss halves the window.
    pub(super) fn on_acked(&mut self, now: Time, bytes: usize, rtt: Span) {
        self.bytes += bytes;
        let span = now.since(self.since);
        if span < rtt.max(GRANULARITY) {
            return;
        }
        let sample = (self.bytes as u64).saturating_mul(1_000_000_000) / span.0;
        self.rate = if self.rate == 0 { sample } else { (7 * self.rate + sample) / 8 };
        (self.since, self.bytes) = (now, 0);
    }

    /// Bytes that the path holds: what it delivers in a round trip without queues, and in the time by
    /// which hosts let each other wait for a processor.
    pub(super) fn pipe(&self, rtt_min: Span) -> usize {
        let span = rtt_min.0 + GRANULARITY.0;
        usize::try_from(self.rate.saturating_mul(span) / 1_000_000_000).unwrap_or(usize::MAX)
    }
}

/// A bucket of bytes that fills at 5/4 of a window for each round trip.
pub(super) struct Pacer {
    tokens: usize,
    filled_at: Time,
}

impl Pacer {
    pub(super) fn new() -> Self {
        Pacer { tokens: BURST_DATAGRAMS * MTU_BASE, filled_at: Time(0) }
    }

    /// When the next bytes may go, if not at once. The bucket is filled only when it is empty, so
    /// that a packet that need not wait costs nothing.
    pub(super) fn wait(&mut self, now: Time, window: usize, mtu: usize, rtt: Span) -> Option<Time> {
        if self.tokens > 0 {
            return None;
        }
        let rate = Rate { bytes: window + window / 4, span: rtt };
        // Timers are coarse, so the bucket must hold what the rate allows between two of them.
        let coarse = rate.bytes_in(Span(2 * GRANULARITY.0));
        let burst = (BURST_DATAGRAMS * mtu).min(CONGESTION_INITIAL_MAX).max(coarse);
        self.tokens = rate.bytes_in(now.since(self.filled_at)).min(burst);
        if self.tokens == 0 {
            return Some(now + rate.span_of(mtu));
        }
        self.filled_at = now;
        None
    }

    /// Takes a packet's bytes out; the last packet of a burst may overdraw.
    pub(super) fn on_sent(&mut self, len: usize) {
        self.tokens = self.tokens.saturating_sub(len);
    }
}

struct Rate {
    bytes: usize,
    span: Span,
}

impl Rate {
    fn bytes_in(&self, span: Span) -> usize {
        let product = (self.bytes as u64).saturating_mul(span.0);
        usize::try_from(product / self.span.0.max(1)).unwrap_or(usize::MAX)
    }

    fn span_of(&self, bytes: usize) -> Span {
        Span((bytes as u64).saturating_mul(self.span.0) / (self.bytes as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_of_losses_halves_the_window_once() {
        let mut reno = NewReno::new();
        reno.on_acked(Time(0), 88_000, Demand::WindowLimited);
        assert_eq!(reno.window(), 100_000);
        reno.on_loss(Time(100), Time(50), 0);
        reno.on_loss(Time(110), Time(60), 0);
        assert_eq!(reno.window(), 50_000);
        reno.on_loss(Time(300), Time(200), 0);
        assert_eq!(reno.window(), 25_000);
        reno.on_persistent_congestion();
        assert_eq!(reno.window(), 2 * MTU_BASE);
    }

    #[test]
    fn a_loss_leaves_what_the_path_delivers_but_never_all_of_the_window() {
        let mut reno = NewReno::new();
        reno.on_acked(Time(0), 88_000, Demand::WindowLimited);
        reno.on_loss(Time(100), Time(50), 70_000);
        assert_eq!(reno.window(), 70_000);
        reno.on_loss(Time(300), Time(200), 70_000);
        assert_eq!(reno.window(), 70_000 - 70_000 / 8);
    }

    #[test]
    fn the_path_holds_what_it_delivers_in_a_round_trip() {
        let (mut delivery, rtt) = (Delivery::default(), Span::from_us(200));
        // A packet of 1,000 bytes a microsecond.
        for us in 1..20_000 {
            delivery.on_acked(Time(0) + Span::from_us(us), 1_000, rtt);
        }
        let expected = 1_000 * (rtt.0 + GRANULARITY.0) as usize / 1_000;
        assert!(delivery.pipe(rtt).abs_diff(expected) < expected / 10, "{}", delivery.pipe(rtt));
        // One packet after a second of silence.
        delivery.on_acked(Time(0) + Span::from_ms(1_020), 1_000, rtt);
        assert!(delivery.pipe(rtt) < expected);
    }

    #[test]
    fn avoidance_adds_one_datagram_a_window_and_only_under_demand() {
        let mut reno = NewReno::new();
        reno.on_loss(Time(1), Time(0), 0);
        let window = reno.window();
        reno.on_acked(Time(5), window, Demand::Less);
        assert_eq!(reno.window(), window);
        reno.on_acked(Time(5), window, Demand::WindowLimited);
        assert_eq!(reno.window(), window + MTU_BASE);
    }

    #[test]
    fn the_pacer_spreads_a_window_over_a_round_trip() {
        let (window, rtt) = (1 << 20, Span::from_ms(10));
        let mut pacer = Pacer::new();
        let (mut now, mut sent) = (Time(0), 0);
        while now < Time(0) + rtt {
            match pacer.wait(now, window, MTU_BASE, rtt) {
                Some(at) => now = at,
                None => {
                    pacer.on_sent(MTU_BASE);
                    sent += MTU_BASE;
                }
            }
        }
        assert!(sent > window && sent < window * 3 / 2, "{sent} bytes in a round trip");
    }
}
