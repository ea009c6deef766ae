//! Time in which this node has listened. What lies unread in the socket is nobody's silence, so a handshake ends
//! only at a moment at which the socket was empty, and after so much of the time in which this node took in what
//! came. A process that gets no core keeps its handshakes for longer by the clock.

use super::table::State;
use super::{Endpoint, table};
use crate::config::membership::LISTENED_MAX;
use crate::config::net::WELCOMED_MAX;
use crate::page::{Span, Time};

/// Listened time, and the earliest at which something ends.
pub(super) struct Listening {
    total: Span,
    drained_at: Option<Time>,
    /// Nothing ends before this; it may be stale in the early direction.
    end_bound: Span,
}

/// When the handshake of a slot ends, in listened time.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// Altogether.
    pub(super) at: Span,
    /// If the peer has not shown by then that it knows of the session, the attempt begins anew.
    pub(super) doubted_at: Span,
    /// When to look whether the socket is empty.
    pub(super) look_at: Time,
}

impl Listening {
    pub(super) fn new() -> Self {
        Listening { total: Span(0), drained_at: None, end_bound: Span(u64::MAX) }
    }

    /// Listened time at `now`, if this node has listened since it last found the socket empty.
    fn at(&self, now: Time) -> Span {
        let since = self.drained_at.map_or(Span(0), |at| now.since(at));
        Span(self.total.0 + since.min(LISTENED_MAX).0)
    }

    /// The end of what begins now and may take so long.
    pub(super) fn ends_after(&mut self, now: Time, longest: Span) -> Ends {
        self.drained_at.get_or_insert(now);
        let at = Span(self.at(now).0 + longest.0);
        let ends = Ends { at, doubted_at: Span(u64::MAX), look_at: now + longest.min(LISTENED_MAX) };
        self.end_bound = self.end_bound.min(at);
        ends
    }

    /// The same for an attempt that was welcomed: so long the peer may take to show that it knows.
    pub(super) fn welcomed(&mut self, now: Time, ends: Ends) -> Ends {
        let doubted = self.ends_after(now, WELCOMED_MAX);
        Ends { at: ends.at, doubted_at: doubted.at, look_at: doubted.look_at }
    }

    /// The next time at which to look.
    pub(super) fn look_again(&self, now: Time, ends: &mut Ends) {
        if ends.look_at <= now {
            let left = ends.at.min(ends.doubted_at).0.saturating_sub(self.at(now).0);
            // At its end only an empty socket is missing; the owner finds it when it can.
            let wait = if left == 0 { LISTENED_MAX } else { Span(left).min(LISTENED_MAX) };
            ends.look_at = now + wait;
        }
    }

    /// The socket was empty at `at`; true if something may have come to its end.
    fn drained(&mut self, at: Time, counted: Span) -> bool {
        self.total.0 += at.since(self.drained_at.unwrap_or(at)).min(counted).0;
        self.drained_at = self.drained_at.max(Some(at));
        self.total >= self.end_bound
    }
}

impl Endpoint {
    /// The socket was empty at `at`, and all datagrams of before are handled. Without this no handshake ends.
    pub fn handle_drained(&mut self, at: Time) {
        if self.listening.drained(at, LISTENED_MAX) {
            self.end_handshakes(at);
        }
    }

    /// A planted fault: handshakes end by the clock, whatever lies in the socket.
    pub(super) fn end_handshakes_unheard(&mut self, now: Time) {
        if !self.config.rules.hears_before_ending() && self.listening.drained(now, Span(u64::MAX)) {
            self.end_handshakes(now);
        }
    }

    /// Ends the handshakes that have had their time.
    fn end_handshakes(&mut self, now: Time) {
        let listened = self.listening.total;
        self.listening.end_bound = Span(u64::MAX);
        for index in self.table.indexes() {
            let slot = self.table.slot(index);
            let (ends, peer) = match &slot.state {
                State::Connecting(connecting) => (connecting.ends, None),
                State::HalfOpen(half) => (half.ends, None),
                State::Welcomed(table::Welcomed { session, ends }) => (*ends, Some(*session.peer())),
                State::Live(_) | State::Closing(_) | State::Free => continue,
            };
            let is_half_open = matches!(slot.state, State::HalfOpen(_));
            if let Some(peer) = peer.filter(|_| ends.doubted_at <= listened && listened < ends.at) {
                // The peer may have forgotten the handshake meanwhile.
                let session = slot.id;
                self.say_hello(now, index, session, (peer.addr, peer.series), ends);
            } else if ends.at <= listened {
                if is_half_open {
                    self.forget(index)
                } else {
                    self.fail_connect(index)
                }
                continue;
            }
            let end = ends.at.min(ends.doubted_at).max(Span(listened.0 + 1));
            self.listening.end_bound = self.listening.end_bound.min(end);
        }
    }
}
