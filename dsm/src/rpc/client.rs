//! The client's side of all calls of a node, as a value: what is open, at which peer, until when. It
//! takes events and the time, and says what to send and whom to wake; it does no IO and never waits.
//!
//! At most once: a call has one sequence at one peer. It is sent again only to the same start of the
//! same peer, which knows the sequence, or under a new sequence when the first was surely not executed
//! or the method is idempotent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::codec::DecodeError;
use crate::config::rpc::{ENDED_MAX, IN_FLIGHT_PEER_MAX, ROOM_AGAIN, SILENCE_MAX, STREAM_WINDOW};
use crate::page::{PeerId, Time};

use super::error::{Error, ErrorKind};
use super::frame::{CALL_HEADER_LEN, Frame, FrameKind, IDEMPOTENT, ONEWAY, RETRIED, Status};
use super::interface::{Kind, Method};
use super::server::Served;
use super::transport::{SendError, Signal};

/// Buffers kept for requests.
const SPARE_MAX: usize = 128;

/// A call, as its caller holds it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Ticket(u64);

/// Whom to tell that a call has changed.
#[derive(Debug, Default)]
pub(super) enum Waiter {
    /// Nobody waits.
    #[default]
    None,
    /// A blocked thread.
    Thread(Arc<Signal>),
    /// A future.
    Task(Waker),
}

/// What the shell must do after an event, without the core's lock.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) sends: SmallVec<[(PeerId, Vec<u8>); 2]>,
    pub(super) wakes: SmallVec<[Waiter; 4]>,
    /// Calls whose request must be sent to a peer.
    pub(super) requests: SmallVec<[(PeerId, Ticket); 2]>,
    /// References to services whose calls have ended.
    pub(super) services: SmallVec<[Arc<Served>; 1]>,
}

/// How a call ended: a status with its body, or why it failed.
pub(super) type Outcome = Result<(Status, Vec<u8>), Error>;

/// How far a long call is, as its server says.
///
/// ```
/// fn percent(progress: pagemesh::rpc::Progress) -> u64 {
///     progress.done * 100 / progress.total.max(1)
/// }
/// # assert_eq!(percent(pagemesh::rpc::Progress { done: 1, total: 4 }), 25);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all.
    pub total: u64,
}

/// What the caller of a stream gets next.
pub(super) enum Next {
    Item(Vec<u8>),
    End(Outcome),
    Pending,
}

/// What a new call is made of.
pub(super) struct Start {
    pub(super) method: &'static Method,
    pub(super) peer: PeerId,
    /// Servers to try when the first surely did not execute the call.
    pub(super) others: Vec<PeerId>,
    pub(super) deadline: Option<Time>,
}

struct Slot {
    method: &'static Method,
    peer: PeerId,
    sequence: u64,
    /// Was sent over a session that is lost.
    retried: bool,
    /// The whole frame, to be sent again after a reset.
    request: Vec<u8>,
    started: Time,
    deadline: Option<Time>,
    timer: Option<Time>,
    heard: Time,
    others: Vec<PeerId>,
    outcome: Option<Outcome>,
    waiter: Waiter,
    progress: Option<(u64, Progress)>,
    stream: Option<Box<Incoming>>,
}

/// Items of a stream at the client.
struct Incoming {
    early: BTreeMap<u64, Vec<u8>>,
    /// Index of the item that the caller gets next.
    next: u64,
    granted: u64,
    /// Number of items, and the answer that ended the stream.
    end: Option<(u64, Status, Vec<u8>)>,
    received: u64,
}

#[derive(Default)]
struct Link {
    next_sequence: u64,
    /// Everything below is settled.
    oldest: u64,
    next_oneway: u64,
    routes: FxHashMap<u64, Ticket>,
    /// Sequences of calls that never left: the server would take them for gaps.
    unused: BTreeSet<u64>,
}

/// All calls of a node that have not been taken by their callers.
#[derive(Default)]
pub(super) struct ClientCore {
    next: u64,
    slots: FxHashMap<Ticket, Slot>,
    links: FxHashMap<PeerId, Link>,
    /// Where the sequences of peers stand whose end was told lately. Who was only out of reach may come back,
    /// and remembers what it has seen.
    ended: VecDeque<(PeerId, Link)>,
    timers: BTreeSet<(Time, Ticket)>,
    /// Calls that must be asked again, and for which the queues to their peers had no room; and when to offer
    /// them next.
    delayed: BTreeSet<Ticket>,
    delayed_until: Option<Time>,
    spare: Vec<Vec<u8>>,
}

impl ClientCore {
    /// Opens a call. `request` has room for the header in front of the arguments; the header is filled in,
    /// and the shell sends it.
    /// Returns its sequence, too.
    pub(super) fn start(
        &mut self,
        now: Time,
        start: Start,
        request: &mut [u8],
    ) -> Result<(Ticket, u64), ErrorKind> {
        let link = link(&mut self.links, &mut self.ended, start.peer);
        if link.routes.len() >= IN_FLIGHT_PEER_MAX {
            return Err(ErrorKind::Busy);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(request);
        let stream = (start.method.kind == Kind::Stream).then(|| Box::new(Incoming::new()));
        let mut slot = Slot {
            method: start.method,
            peer: start.peer,
            sequence: 0,
            retried: false,
            request: copy,
            started: now,
            deadline: start.deadline,
            timer: None,
            heard: now,
            others: start.others,
            outcome: None,
            waiter: Waiter::None,
            progress: None,
            stream,
        };
        slot.route(ticket, link, now);
        request[..CALL_HEADER_LEN].copy_from_slice(&slot.request[..CALL_HEADER_LEN]);
        let sequence = slot.sequence;
        self.slots.insert(ticket, slot);
        self.arm(ticket);
        Ok((ticket, sequence))
    }

    /// Fills in the header of a call without an answer.
    pub(super) fn start_oneway(&mut self, method: &'static Method, peer: PeerId, request: &mut [u8]) {
        let link = link(&mut self.links, &mut self.ended, peer);
        let sequence = link.next_oneway;
        link.next_oneway += 1;
        let mut frame = Frame::new(FrameKind::Call, sequence, method.id);
        frame.flags = ONEWAY;
        let len = request.len() - CALL_HEADER_LEN;
        frame.write_header(request, len);
    }

    /// The bytes to send for [`Effects::requests`], and their sequence, if the call is still for that peer.
    pub(super) fn request(&self, peer: PeerId, ticket: Ticket) -> Option<(&[u8], u64)> {
        let slot = self.slots.get(&ticket).filter(|slot| slot.peer == peer && slot.outcome.is_none())?;
        Some((slot.request.as_slice(), slot.sequence))
    }

    /// The open call that has this sequence at the peer.
    pub(super) fn ticket(&self, peer: PeerId, sequence: u64) -> Option<Ticket> {
        self.links.get(&peer)?.routes.get(&sequence).copied()
    }

    /// Calls that wait for an answer of the peer.
    pub(super) fn in_flight(&self, peer: PeerId) -> usize {
        self.links.get(&peer).map_or(0, |link| link.routes.len())
    }

    /// Everybody who was called and whose end is not known.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        self.links.keys().copied().collect()
    }

    /// Takes an answer, an item or a report. What belongs to no open call is late, and passed over.
    pub(super) fn handle_frame(
        &mut self,
        now: Time,
        from: PeerId,
        frame: &Frame<'_>,
        effects: &mut Effects,
    ) -> Result<(), DecodeError> {
        let route = self.links.get(&from).and_then(|link| link.routes.get(&frame.sequence));
        let Some(ticket) = route.copied() else { return Ok(()) };
        let Some(slot) = self.slots.get_mut(&ticket) else { return Ok(()) };
        slot.heard = now;
        match frame.kind {
            FrameKind::Item => slot.on_item(frame, effects),
            FrameKind::Progress => slot.on_progress(frame, effects),
            FrameKind::Reply => {
                let status = Status::from_wire(frame.aux)?;
                self.on_reply(now, ticket, status, frame, effects);
                return Ok(());
            }
            FrameKind::Call | FrameKind::Credit | FrameKind::Cancel => {
                Err(DecodeError::Bad("frame direction"))
            }
        }?;
        // The last item may come after the answer.
        if slot.stream.as_ref().is_some_and(|stream| stream.is_complete()) {
            self.close(ticket, effects);
        }
        Ok(())
    }

    fn on_reply(
        &mut self,
        now: Time,
        ticket: Ticket,
        status: Status,
        frame: &Frame<'_>,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.slots.get_mut(&ticket) else { return };
        let client = slot.method.version;
        let failure = match status {
            Status::Done | Status::Thrown => {
                let body = frame.body.to_vec();
                match &mut slot.stream {
                    Some(stream) => {
                        stream.end = Some((frame.extra, status, body));
                        if !stream.is_complete() {
                            return;
                        }
                    }
                    None => slot.outcome = Some(Ok((status, body))),
                }
                return self.close(ticket, effects);
            }
            Status::Remote => ErrorKind::Remote(String::from_utf8_lossy(frame.body).into_owned()),
            Status::Busy => ErrorKind::Busy,
            Status::Deadline => ErrorKind::Deadline,
            Status::Cancelled => ErrorKind::Cancelled,
            Status::BadVersion => {
                let server = u32::try_from(frame.extra).unwrap_or(u32::MAX);
                ErrorKind::BadVersion { client, server: Some(server) }
            }
            Status::Unknown => ErrorKind::BadVersion { client, server: None },
            Status::ReplyLost => ErrorKind::Unreachable { may_have_executed: true },
        };
        self.fail(now, ticket, failure, effects);
    }

    /// The call failed at its peer: it goes to another one if that is safe, or ends.
    pub(super) fn fail(&mut self, now: Time, ticket: Ticket, kind: ErrorKind, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&ticket) else { return };
        if slot.outcome.is_some() {
            return;
        }
        let safe = match kind {
            ErrorKind::Unreachable { may_have_executed } | ErrorKind::ServerDied { may_have_executed } => {
                !may_have_executed || slot.method.idempotent
            }
            ErrorKind::Busy | ErrorKind::BadVersion { .. } => true,
            ErrorKind::Deadline | ErrorKind::Cancelled | ErrorKind::Remote(_) | ErrorKind::Forked => false,
        };
        // What the caller has taken from a stream cannot be taken back.
        let untouched = slot.stream.as_ref().is_none_or(|stream| stream.next == 0);
        if safe
            && untouched
            && let Some(peer) = slot.others.pop()
        {
            self.unroute(ticket);
            let link = link(&mut self.links, &mut self.ended, peer);
            let Some(slot) = self.slots.get_mut(&ticket) else { return };
            (slot.peer, slot.heard) = (peer, now);
            slot.stream = slot.stream.as_ref().map(|_| Box::new(Incoming::new()));
            slot.route(ticket, link, now);
            effects.requests.push((peer, ticket));
            let timer = slot.timer.take();
            self.disarm(ticket, timer);
            self.arm(ticket);
            return;
        }
        slot.outcome = Some(Err(slot.error(kind, now)));
        self.close(ticket, effects);
    }

    /// The request did not leave with this sequence to this peer. If it has left before, over a session that is lost, it may have run, and must
    /// be sent until its answer comes; else it was surely not executed.
    pub(super) fn handle_unsent(
        &mut self,
        now: Time,
        (ticket, attempt): (Ticket, (PeerId, u64)),
        error: SendError,
        effects: &mut Effects,
    ) {
        // Meanwhile the peer's end may have sent it to another one.
        let is_current = |slot: &&Slot| slot.outcome.is_none() && (slot.peer, slot.sequence) == attempt;
        let Some(slot) = self.slots.get(&ticket).filter(is_current) else { return };
        let retried = slot.retried;
        let kind = match error {
            SendError::Full if retried => {
                self.delayed.insert(ticket);
                self.delayed_until.get_or_insert(now + ROOM_AGAIN);
                return;
            }
            SendError::Full => ErrorKind::Busy,
            SendError::Unreachable => ErrorKind::Unreachable { may_have_executed: retried },
            SendError::TooLong => ErrorKind::Remote(error.to_string()),
        };
        if !retried && let Some(link) = self.links.get_mut(&slot.peer) {
            link.unused.insert(slot.sequence);
        }
        self.fail(now, ticket, kind, effects);
    }

    /// The peer has ended. Whatever it was asked may have happened.
    pub(super) fn handle_peer_died(&mut self, now: Time, peer: PeerId, effects: &mut Effects) {
        let Some(link) = self.links.get(&peer) else { return };
        let tickets: Vec<Ticket> = link.routes.values().copied().collect();
        for ticket in tickets {
            self.fail(now, ticket, ErrorKind::ServerDied { may_have_executed: true }, effects);
        }
        let Some(Link { next_sequence, next_oneway, .. }) = self.links.remove(&peer) else { return };
        let settled = Link { next_sequence, oldest: next_sequence, next_oneway, ..Link::default() };
        self.ended.push_back((peer, settled));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    /// The session with the peer is new, the peer is not: messages on the way were lost. Asks again.
    pub(super) fn handle_peer_reset(&mut self, now: Time, peer: PeerId, effects: &mut Effects) {
        let Some(link) = self.links.get(&peer) else { return };
        let oldest = link.oldest;
        let tickets: Vec<Ticket> = link.routes.values().copied().collect();
        for ticket in tickets {
            let Some(slot) = self.slots.get_mut(&ticket) else { continue };
            if slot.stream.is_some() {
                // Its items on the way are lost, and a server does not keep them.
                effects.sends.push((peer, slot.cancel_frame()));
                self.fail(now, ticket, ErrorKind::Unreachable { may_have_executed: true }, effects);
                continue;
            }
            slot.retried = true;
            slot.write_header(oldest, now);
            effects.requests.push((peer, ticket));
        }
    }

    /// Ends what is over its time.
    pub(super) fn handle_timeout(&mut self, now: Time, effects: &mut Effects) {
        if self.delayed_until.is_some_and(|until| until <= now) {
            self.delayed_until = None;
            let still_open = |ticket: Ticket| {
                let slot = self.slots.get(&ticket).filter(|slot| slot.retried && slot.outcome.is_none())?;
                Some((slot.peer, ticket))
            };
            effects.requests.extend(std::mem::take(&mut self.delayed).into_iter().filter_map(still_open));
        }
        while let Some((at, ticket)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            let Some(slot) = self.slots.get_mut(&ticket) else { continue };
            slot.timer = None;
            if slot.deadline.is_some_and(|deadline| deadline <= now) {
                effects.sends.push((slot.peer, slot.cancel_frame()));
                self.fail(now, ticket, ErrorKind::Deadline, effects);
            } else if slot.silent_at().is_some_and(|silent| silent <= now) {
                self.fail(now, ticket, ErrorKind::Unreachable { may_have_executed: true }, effects);
            } else {
                self.arm(ticket);
            }
        }
    }

    /// When [`ClientCore::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(at, _)| *at);
        [timer, self.delayed_until].into_iter().flatten().min()
    }

    /// The caller does not wait any more.
    pub(super) fn cancel(&mut self, ticket: Ticket, effects: &mut Effects) {
        self.unroute(ticket);
        let Some(slot) = self.slots.remove(&ticket) else { return };
        self.disarm(ticket, slot.timer);
        let open = slot.outcome.is_none() && slot.stream.as_ref().is_none_or(|stream| stream.end.is_none());
        if open {
            effects.sends.push((slot.peer, slot.cancel_frame()));
        }
        self.reuse(slot.request);
    }

    /// The outcome, if it is there; else `waiter` is told when it is.
    pub(super) fn take(&mut self, ticket: Ticket, waiter: Waiter) -> Option<Outcome> {
        let slot = self.slots.get_mut(&ticket)?;
        if slot.outcome.is_none() {
            slot.waiter = waiter;
            return None;
        }
        let slot = self.slots.remove(&ticket)?;
        self.disarm(ticket, slot.timer);
        self.reuse(slot.request);
        slot.outcome
    }

    /// The next item, or the end; else `waiter` is told when there is one.
    pub(super) fn take_item(&mut self, ticket: Ticket, waiter: Waiter, effects: &mut Effects) -> Next {
        let Some(slot) = self.slots.get_mut(&ticket) else { return Next::Pending };
        let Some(stream) = &mut slot.stream else { return Next::Pending };
        if let Some(item) = stream.early.remove(&stream.next) {
            stream.next += 1;
            // Half a window at a time: one credit frame for sixteen items.
            if stream.end.is_none() && stream.granted - stream.next <= STREAM_WINDOW / 2 {
                stream.granted = stream.next + STREAM_WINDOW;
                let frame = Frame::new(FrameKind::Credit, slot.sequence, stream.granted);
                effects.sends.push((slot.peer, frame.to_vec()));
            }
            return Next::Item(item);
        }
        match self.take(ticket, waiter) {
            Some(outcome) => Next::End(outcome),
            None => Next::Pending,
        }
    }

    /// Whether the outcome is there.
    pub(super) fn is_done(&self, ticket: Ticket) -> bool {
        self.slots.get(&ticket).is_none_or(|slot| slot.outcome.is_some())
    }

    /// The newest report of the server.
    pub(super) fn progress(&self, ticket: Ticket) -> Option<Progress> {
        self.slots.get(&ticket)?.progress.map(|(_, progress)| progress)
    }

    /// Whether futures wait for something.
    pub(super) fn has_tasks(&self) -> bool {
        self.slots.values().any(|slot| matches!(slot.waiter, Waiter::Task(_)))
    }

    /// Where the call runs and since when, for errors that are found later.
    pub(super) fn place(&self, ticket: Ticket) -> Option<(PeerId, Time)> {
        self.slots.get(&ticket).map(|slot| (slot.peer, slot.started))
    }

    /// The answer is complete: nothing of the peer is expected any more.
    fn close(&mut self, ticket: Ticket, effects: &mut Effects) {
        self.unroute(ticket);
        let Some(slot) = self.slots.get_mut(&ticket) else { return };
        if let Some(stream) = &mut slot.stream
            && slot.outcome.is_none()
            && let Some((_, status, body)) = &mut stream.end
        {
            slot.outcome = Some(Ok((*status, std::mem::take(body))));
        }
        effects.wakes.push(std::mem::take(&mut slot.waiter));
        let timer = slot.timer.take();
        self.disarm(ticket, timer);
    }

    fn unroute(&mut self, ticket: Ticket) {
        let Some(slot) = self.slots.get(&ticket) else { return };
        let Some(link) = self.links.get_mut(&slot.peer) else { return };
        if link.routes.get(&slot.sequence) == Some(&ticket) {
            link.routes.remove(&slot.sequence);
        }
        while link.oldest < link.next_sequence && !link.routes.contains_key(&link.oldest) {
            link.oldest += 1;
        }
    }

    fn arm(&mut self, ticket: Ticket) {
        let Some(slot) = self.slots.get_mut(&ticket) else { return };
        slot.timer = [slot.deadline, slot.silent_at()].into_iter().flatten().min();
        if let Some(at) = slot.timer {
            self.timers.insert((at, ticket));
        }
    }

    fn disarm(&mut self, ticket: Ticket, timer: Option<Time>) {
        if let Some(at) = timer {
            self.timers.remove(&(at, ticket));
        }
    }

    fn reuse(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(buffer);
        }
    }
}

/// The link to a peer, with the sequences where they stood if there was one.
fn link<'a>(
    links: &'a mut FxHashMap<PeerId, Link>,
    ended: &mut VecDeque<(PeerId, Link)>,
    peer: PeerId,
) -> &'a mut Link {
    links.entry(peer).or_insert_with(|| {
        let at = ended.iter().position(|(other, _)| *other == peer);
        at.and_then(|at| ended.remove(at)).map(|(_, link)| link).unwrap_or_default()
    })
}

impl Slot {
    /// Gives the call a sequence at its peer.
    fn route(&mut self, ticket: Ticket, link: &mut Link, now: Time) {
        // What is settled cannot be used any more.
        link.unused = link.unused.split_off(&link.oldest);
        self.sequence = link.unused.pop_first().unwrap_or(link.next_sequence);
        self.retried = false;
        link.next_sequence = link.next_sequence.max(self.sequence + 1);
        link.routes.insert(self.sequence, ticket);
        self.write_header(link.oldest, now);
    }

    fn write_header(&mut self, settled: u64, now: Time) {
        let mut frame = Frame::new(FrameKind::Call, self.sequence, self.method.id);
        frame.flags = if self.method.idempotent { IDEMPOTENT } else { 0 };
        frame.flags |= if self.retried { RETRIED } else { 0 };
        frame.aux = STREAM_WINDOW as u16;
        // Zero means no limit, so what is over has one nanosecond left.
        frame.budget = self.deadline.map_or(0, |deadline| deadline.since(now).0.max(1));
        frame.settled = settled;
        let len = self.request.len() - CALL_HEADER_LEN;
        frame.write_header(&mut self.request, len);
    }

    fn cancel_frame(&self) -> Vec<u8> {
        Frame::new(FrameKind::Cancel, self.sequence, 0).to_vec()
    }

    fn silent_at(&self) -> Option<Time> {
        self.method.longrunning.then(|| self.heard + SILENCE_MAX)
    }

    fn error(&self, kind: ErrorKind, now: Time) -> Error {
        Error { kind, method: Some(self.method), peer: Some(self.peer), spent: now.since(self.started) }
    }

    fn on_item(&mut self, frame: &Frame<'_>, effects: &mut Effects) -> Result<(), DecodeError> {
        let Some(stream) = &mut self.stream else { return Err(DecodeError::Bad("item outside a stream")) };
        if frame.extra >= stream.granted {
            return Err(DecodeError::Bad("item without credit"));
        }
        if frame.extra >= stream.next && !stream.early.contains_key(&frame.extra) {
            stream.early.insert(frame.extra, frame.body.to_vec());
            stream.received += 1;
            if frame.extra == stream.next {
                effects.wakes.push(std::mem::take(&mut self.waiter));
            }
        }
        Ok(())
    }

    fn on_progress(&mut self, frame: &Frame<'_>, effects: &mut Effects) -> Result<(), DecodeError> {
        // Without a body it only says that the call lives.
        let Some((done, rest)) = frame.body.split_first_chunk::<8>() else { return Ok(()) };
        let total = rest.first_chunk::<8>().ok_or(DecodeError::Truncated)?;
        let newer = self.progress.is_none_or(|(number, _)| frame.extra > number);
        if newer {
            let progress = Progress { done: u64::from_le_bytes(*done), total: u64::from_le_bytes(*total) };
            self.progress = Some((frame.extra, progress));
            effects.wakes.push(std::mem::take(&mut self.waiter));
        }
        Ok(())
    }
}

impl Incoming {
    fn new() -> Self {
        Incoming { early: BTreeMap::new(), next: 0, granted: STREAM_WINDOW, end: None, received: 0 }
    }

    fn is_complete(&self) -> bool {
        self.end.as_ref().is_some_and(|(total, status, _)| *status != Status::Done || self.received >= *total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Incarnation, NodeId};

    static METHOD: Method = Method {
        interface: "Test",
        version: 1,
        name: "method",
        id: 1,
        kind: Kind::Unary,
        deadline_us: None,
        idempotent: true,
        longrunning: false,
    };

    /// The peer ends, and the call goes to another one, before the first attempt has told that it failed.
    #[test]
    fn an_attempt_that_fails_late_concerns_no_later_one() {
        let peer = |node| PeerId { node: NodeId(node), incarnation: Incarnation(1) };
        let (mut core, mut effects) = (ClientCore::default(), Effects::default());
        let start = Start { method: &METHOD, peer: peer(1), others: vec![peer(2)], deadline: None };
        let (ticket, sequence) = core.start(Time(0), start, &mut [0; CALL_HEADER_LEN]).expect("room");
        core.handle_peer_died(Time(0), peer(1), &mut effects);
        assert_eq!(effects.requests[..], [(peer(2), ticket)]);
        core.handle_unsent(Time(0), (ticket, (peer(1), sequence)), SendError::Unreachable, &mut effects);
        assert!(!core.is_done(ticket), "it is on its way to the other");
        assert!(core.links[&peer(2)].unused.is_empty());
        assert!(core.request(peer(1), ticket).is_none() && core.request(peer(2), ticket).is_some());
    }
}
