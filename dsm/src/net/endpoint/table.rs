//! The table of sessions: fixed slots, found by the low bits of a session id, with their deadlines
//! beside them in one run of memory, so that the earliest is found by looking at all of them.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::listening::Ends;
use super::{ConnectError, SessionHandle, index_of};
use crate::config::net::{HALF_OPEN_MAX, HELLO_RETRY, HELLO_RETRY_MAX, SESSIONS_MAX};
use crate::net::crypt::Guards;
use crate::net::entropy::Entropy;
use crate::net::handshake::{Nonce, Pending, Series};
use crate::net::session::{Outbox, Peer, Session};
use crate::net::wire::SessionId;
use crate::page::{Incarnation, Span, Time};

/// Low bits of a session id that are the slot: a power of two, no smaller than the slots.
pub(super) const INDEXES: usize = 1024;
const SLOTS_MAX: usize = SESSIONS_MAX + HALF_OPEN_MAX;
const _: () = assert!(SLOTS_MAX <= INDEXES);
const NEVER: Time = Time(u64::MAX);

pub(super) enum State {
    Free,
    /// Our hello is on its way.
    Connecting(Box<Connecting>),
    /// A peer's hello was answered; its first data packet will prove that it is alive.
    HalfOpen(Box<HalfOpen>),
    /// We were welcomed; the peer's first data packet will prove that it knows of the session.
    Welcomed(Welcomed),
    Live(Box<Session>),
    /// Over; late packets are answered with CLOSE for a while.
    Closing(Closing),
}

pub(super) struct Connecting {
    pub(super) addr: SocketAddr,
    pub(super) pending: Pending,
    pub(super) hello: Vec<u8>,
    pub(super) series: Series,
    pub(super) ends: Ends,
    pub(super) retry_at: Time,
    pub(super) retry_after: Span,
    pub(super) owed: Owed,
    /// What to report at the end.
    pub(super) error: ConnectError,
    /// The start of the peer that has opened a session from this address since the nonce was made.
    pub(super) rival: Option<Incarnation>,
}

pub(super) struct HalfOpen {
    pub(super) addr: SocketAddr,
    pub(super) hello_nonce: Nonce,
    pub(super) welcome: Vec<u8>,
    pub(super) peer: Peer,
    pub(super) guards: Guards,
    pub(super) ends: Ends,
    /// Counts up, so that the oldest can be found.
    pub(super) age: u64,
}

pub(super) struct Welcomed {
    pub(super) session: Box<Session>,
    pub(super) ends: Ends,
}

pub(super) struct Closing {
    pub(super) peer: Peer,
    pub(super) guards: Guards,
    pub(super) next_number: u64,
    pub(super) until: Time,
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) owed: Owed,
    pub(super) repeats: u32,
}

/// A packet that is to go out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    Nothing,
    Now,
}

/// Whether a slot is in the queue of those that may have something to send.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    No,
    Yes,
}

/// Whether the hint that nobody listens was passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    No,
    Yes,
}

pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) id: SessionId,
    pub(super) is_ready: Ready,
    pub(super) refused_told: Told,
    pub(super) state: State,
}

pub(super) struct Table {
    slots: Vec<Slot>,
    deadlines: Vec<Time>,
    free: Vec<u16>,
    half_open: usize,
    half_open_age: u64,
    /// What a packet without messages borrows from.
    no_messages: Outbox,
}

impl Connecting {
    /// The hello, if it is time to send it.
    pub(super) fn take_hello(&mut self) -> Option<&[u8]> {
        match std::mem::replace(&mut self.owed, Owed::Nothing) {
            Owed::Nothing => None,
            Owed::Now => Some(&self.hello),
        }
    }

    /// Returns whether the hello is due again.
    pub(super) fn on_timeout(&mut self, now: Time) -> bool {
        let is_due = self.retry_at <= now;
        if is_due {
            self.owed = Owed::Now;
            self.retry_at = now + self.retry_after;
            self.retry_after = Span(self.retry_after.0 * 2).min(HELLO_RETRY_MAX);
        }
        is_due
    }

    /// Times of an attempt that begins now.
    pub(super) fn first_retry(now: Time) -> (Time, Span) {
        (now + HELLO_RETRY, Span(HELLO_RETRY.0 * 2))
    }
}

impl Closing {
    /// The peer does not know yet.
    pub(super) fn on_packet(&mut self) {
        self.owed = Owed::Now;
    }

    /// The number of the CLOSE packet to send now, if any.
    pub(super) fn take_packet(&mut self) -> Option<u64> {
        if std::mem::replace(&mut self.owed, Owed::Nothing) == Owed::Nothing || self.repeats == 0 {
            return None;
        }
        self.repeats -= 1;
        self.next_number += 1;
        Some(self.next_number - 1)
    }
}

impl Table {
    pub(super) fn new() -> Self {
        Table {
            slots: Vec::new(),
            deadlines: Vec::new(),
            free: Vec::new(),
            half_open: 0,
            half_open_age: 0,
            no_messages: Outbox::new(0),
        }
    }

    pub(super) fn no_messages(&self) -> &Outbox {
        &self.no_messages
    }

    /// All slots, used or not.
    pub(super) fn indexes(&self) -> std::ops::Range<u16> {
        0..self.slots.len() as u16
    }

    pub(super) fn slot(&self, index: u16) -> &Slot {
        &self.slots[usize::from(index)]
    }

    pub(super) fn slot_mut(&mut self, index: u16) -> &mut Slot {
        &mut self.slots[usize::from(index)]
    }

    /// The slot that a packet's session id names.
    pub(super) fn index_of(&self, id: SessionId) -> Option<u16> {
        let index = index_of(id);
        self.slots.get(index).filter(|slot| slot.id == id).map(|_| index as u16)
    }

    pub(super) fn handle(&self, index: u16) -> SessionHandle {
        SessionHandle { index: u32::from(index), generation: self.slot(index).generation }
    }

    pub(super) fn find_mut(&mut self, handle: SessionHandle) -> Option<&mut Slot> {
        self.slots.get_mut(handle.index as usize).filter(|s| s.generation == handle.generation)
    }

    pub(super) fn find(&self, handle: SessionHandle) -> Option<&Slot> {
        self.slots.get(handle.index as usize).filter(|s| s.generation == handle.generation)
    }

    pub(super) fn live(&self, handle: SessionHandle) -> Option<&Session> {
        match &self.find(handle)?.state {
            State::Live(session) => Some(session),
            State::Welcomed(_)
            | State::Connecting(_)
            | State::HalfOpen(_)
            | State::Closing(_)
            | State::Free => None,
        }
    }

    pub(super) fn live_mut(&mut self, handle: SessionHandle) -> Option<&mut Session> {
        match &mut self.find_mut(handle)?.state {
            State::Live(session) => Some(session),
            State::Welcomed(_)
            | State::Connecting(_)
            | State::HalfOpen(_)
            | State::Closing(_)
            | State::Free => None,
        }
    }

    /// Sessions and attempts, half-open handshakes not counted.
    pub(super) fn sessions(&self) -> usize {
        self.slots.len() - self.free.len() - self.half_open
    }

    /// Half-open handshakes.
    pub(super) fn half_open(&self) -> usize {
        self.half_open
    }

    /// The half-open handshake that has waited longest.
    pub(super) fn oldest_half_open(&self) -> Option<u16> {
        let ages = self.slots.iter().zip(0u16..).filter_map(|(slot, index)| match &slot.state {
            State::HalfOpen(half) => Some((half.age, index)),
            State::Free | State::Connecting(_) | State::Welcomed(_) | State::Live(_) | State::Closing(_) => {
                None
            }
        });
        ages.min().map(|(_, index)| index)
    }

    pub(super) fn next_age(&mut self) -> u64 {
        self.half_open_age += 1;
        self.half_open_age
    }

    /// A free slot with a fresh id; the caller has compared the counts with their bounds.
    pub(super) fn allocate(&mut self, entropy: &mut Entropy) -> (u16, SessionId) {
        let index = self.free.pop().unwrap_or_else(|| {
            assert!(self.slots.len() < SLOTS_MAX, "sessions and half-open handshakes are counted");
            self.deadlines.push(NEVER);
            self.slots.push(Slot {
                generation: entropy.u32(),
                id: SessionId(0),
                is_ready: Ready::No,
                refused_told: Told::No,
                state: State::Free,
            });
            (self.slots.len() - 1) as u16
        });
        let id = SessionId(entropy.u32() & !(INDEXES as u32 - 1) | u32::from(index));
        self.slot_mut(index).id = id;
        (index, id)
    }

    /// Fills a slot, or moves it to another state.
    pub(super) fn set(&mut self, index: u16, state: State) {
        self.replace(index, state);
    }

    /// The same; what was there.
    pub(super) fn replace(&mut self, index: u16, state: State) -> State {
        let slot = self.slot_mut(index);
        let before = std::mem::replace(&mut slot.state, state);
        let is_half_open = matches!(slot.state, State::HalfOpen(_));
        let was_half_open = matches!(before, State::HalfOpen(_));
        self.half_open = self.half_open + usize::from(is_half_open) - usize::from(was_half_open);
        before
    }

    /// Empties a slot; handles to it are dead.
    pub(super) fn free(&mut self, index: u16) {
        self.set(index, State::Free);
        let slot = self.slot_mut(index);
        slot.generation = slot.generation.wrapping_add(1);
        slot.refused_told = Told::No;
        self.deadlines[usize::from(index)] = NEVER;
        self.free.push(index);
    }

    pub(super) fn mark_ready(&mut self, index: u16, ready: &mut VecDeque<u16>) {
        let slot = self.slot_mut(index);
        if std::mem::replace(&mut slot.is_ready, Ready::Yes) == Ready::No {
            ready.push_back(index);
        }
    }

    pub(super) fn deadline(&self, index: u16) -> Time {
        self.deadlines[usize::from(index)]
    }

    /// Asks the slot's state for its deadline and remembers it.
    pub(super) fn update_deadline(&mut self, index: u16) -> Time {
        let deadline = match &self.slot(index).state {
            State::Free => NEVER,
            State::Connecting(connecting) => connecting.retry_at.min(connecting.ends.look_at),
            // It is in nobody's way: it ends when the socket is found empty.
            State::HalfOpen(_) => NEVER,
            State::Welcomed(Welcomed { session, ends }) => {
                session.timeout().map_or(ends.look_at, |at| at.min(ends.look_at))
            }
            State::Live(session) => session.timeout().unwrap_or(NEVER),
            State::Closing(closing) => closing.until,
        };
        self.deadlines[usize::from(index)] = deadline;
        deadline
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.deadlines.iter().copied().min().filter(|&at| at != NEVER)
    }
}
