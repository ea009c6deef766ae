//! The client's side of all calls of a node, as a value: what is open, at which peer, until when. It
//! takes events and the time, and says what to send and how calls ended; it does no IO and never waits.
//!
//! At most once: a call has one sequence at one peer. It is sent again only to the same start of the
//! same peer, which knows the sequence, or under a new sequence when the first was surely not executed
//! or the method is idempotent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use crate::codec::DecodeError;
use crate::config::rpc::{ENDED_MAX, IN_FLIGHT_PEER_MAX, ROOM_AGAIN, SILENCE_MAX, STREAM_WINDOW};
use crate::page::{PeerId, Span, Time};

use super::frame::{CALL_HEADER_LEN, Frame, FrameKind, IDEMPOTENT, ONEWAY, RETRIED, Status};
use super::{Effects, Outcome, Output, Progress, Rules, SendError, Start, Ticket};
use crate::rpc::error::{Error, ErrorKind};
use crate::rpc::interface::{Kind, Method};

/// Buffers kept for requests.
const SPARE_MAX: usize = 128;

/// A call that has not ended.
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
    /// Number of the newest report.
    reported: Option<u64>,
    stream: Option<Box<Incoming>>,
}

/// Items of a stream at the client.
struct Incoming {
    early: BTreeMap<u64, Vec<u8>>,
    /// Index of the item that the caller gets next.
    next: u64,
    /// Items that it has used.
    used: u64,
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

/// All calls of a node that have not ended.
#[derive(Default)]
pub(super) struct ClientCore {
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
    pub(super) rules: Rules,
}

impl ClientCore {
    /// Opens a call. `request` has room for the header in front of the arguments.
    pub(super) fn start(
        &mut self,
        now: Time,
        ticket: Ticket,
        start: Start,
        request: &[u8],
        effects: &mut Effects,
    ) {
        let link = link(&mut self.links, &mut self.ended, start.peer);
        if link.routes.len() >= IN_FLIGHT_PEER_MAX {
            let (method, peer) = (Some(start.method), Some(start.peer));
            let error = Error { kind: ErrorKind::Busy, method, peer, spent: Span(0) };
            return effects.outputs.push_back(Output::Done(ticket, Err(error)));
        }
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
            reported: None,
            stream,
        };
        slot.route(ticket, link, now);
        effects.requests.push_back((slot.peer, ticket));
        self.slots.insert(ticket, slot);
        self.arm(ticket);
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

    /// The bytes to send for [`Effects::requests`], if the call is still for that peer.
    pub(super) fn request(&self, peer: PeerId, ticket: Ticket) -> Option<&[u8]> {
        let slot = self.slots.get(&ticket).filter(|slot| slot.peer == peer)?;
        Some(slot.request.as_slice())
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
            FrameKind::Item => slot.on_item(ticket, frame, effects),
            FrameKind::Progress => slot.on_progress(ticket, frame, effects),
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
        if let Some((_, status, body)) = slot.stream.as_mut().and_then(|stream| stream.take_end()) {
            self.close(ticket, Ok((status, body)), effects);
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
                if let Some(stream) = &mut slot.stream {
                    stream.end = Some((frame.extra, status, body));
                    if let Some((_, status, body)) = stream.take_end() {
                        self.close(ticket, Ok((status, body)), effects);
                    }
                    return;
                }
                return self.close(ticket, Ok((status, body)), effects);
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
            effects.requests.push_back((peer, ticket));
            let timer = slot.timer.take();
            self.disarm(ticket, timer);
            self.arm(ticket);
            return;
        }
        let error = slot.error(kind, now);
        self.close(ticket, Err(error), effects);
    }

    /// The request did not leave with this sequence to this peer. If it has left before, over a session that is
    /// lost, it may have run, and must be sent until its answer comes; else it was surely not executed.
    pub(super) fn handle_unsent(
        &mut self,
        now: Time,
        peer: PeerId,
        sequence: u64,
        error: SendError,
        effects: &mut Effects,
    ) {
        // Meanwhile the peer's end may have sent it to another one.
        let ticket = self.links.get(&peer).and_then(|link| link.routes.get(&sequence)).copied();
        let Some(ticket) = ticket else { return };
        let Some(slot) = self.slots.get(&ticket) else { return };
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
        let mut tickets: Vec<Ticket> = link.routes.values().copied().collect();
        tickets.sort_unstable();
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
        let mut tickets: Vec<Ticket> = link.routes.values().copied().collect();
        tickets.sort_unstable();
        for ticket in tickets {
            let Some(slot) = self.slots.get_mut(&ticket) else { continue };
            if slot.stream.is_some() {
                // Its items on the way are lost, and a server does not keep them.
                effects.sends.push_back((peer, slot.cancel_frame()));
                self.fail(now, ticket, ErrorKind::Unreachable { may_have_executed: true }, effects);
                continue;
            }
            slot.retried = true;
            slot.write_header(oldest, now);
            effects.requests.push_back((peer, ticket));
        }
    }

    /// Ends what is over its time.
    pub(super) fn handle_timeout(&mut self, now: Time, effects: &mut Effects) {
        if self.delayed_until.is_some_and(|until| until <= now) {
            self.delayed_until = None;
            let still_open = |ticket: Ticket| {
                let slot = self.slots.get(&ticket).filter(|slot| slot.retried)?;
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
                effects.sends.push_back((slot.peer, slot.cancel_frame()));
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
        if slot.stream.as_ref().is_none_or(|stream| stream.end.is_none()) {
            effects.sends.push_back((slot.peer, slot.cancel_frame()));
        }
        self.reuse(slot.request);
    }

    /// The caller has used so many items of its stream: the server may send more. Half a window at a time: one
    /// credit frame for sixteen items.
    pub(super) fn use_items(&mut self, ticket: Ticket, used: u64, effects: &mut Effects) {
        let Some(slot) = self.slots.get_mut(&ticket) else { return };
        let Some(stream) = &mut slot.stream else { return };
        stream.used = stream.used.max(used);
        if stream.end.is_none() && stream.granted - stream.used <= STREAM_WINDOW / 2 {
            stream.granted = stream.used + STREAM_WINDOW;
            let frame = Frame::new(FrameKind::Credit, slot.sequence, stream.granted);
            effects.sends.push_back((slot.peer, frame.to_vec()));
        }
    }

    /// Calls that have not ended.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The call has ended: nothing of the peer is expected any more.
    fn close(&mut self, ticket: Ticket, outcome: Outcome, effects: &mut Effects) {
        if !self.rules.forgets_ended_calls() {
            return effects.outputs.push_back(Output::Done(ticket, outcome));
        }
        self.unroute(ticket);
        let Some(slot) = self.slots.remove(&ticket) else { return };
        self.disarm(ticket, slot.timer);
        self.reuse(slot.request);
        effects.outputs.push_back(Output::Done(ticket, outcome));
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

    fn on_item(
        &mut self,
        ticket: Ticket,
        frame: &Frame<'_>,
        effects: &mut Effects,
    ) -> Result<(), DecodeError> {
        let Some(stream) = &mut self.stream else { return Err(DecodeError::Bad("item outside a stream")) };
        if frame.extra >= stream.granted {
            return Err(DecodeError::Bad("item without credit"));
        }
        if frame.extra >= stream.next && !stream.early.contains_key(&frame.extra) {
            stream.early.insert(frame.extra, frame.body.to_vec());
            stream.received += 1;
            while let Some(item) = stream.early.remove(&stream.next) {
                stream.next += 1;
                effects.outputs.push_back(Output::Item(ticket, item));
            }
        }
        Ok(())
    }

    fn on_progress(
        &mut self,
        ticket: Ticket,
        frame: &Frame<'_>,
        effects: &mut Effects,
    ) -> Result<(), DecodeError> {
        // Without a body it only says that the call lives.
        let Some((done, rest)) = frame.body.split_first_chunk::<8>() else { return Ok(()) };
        let total = rest.first_chunk::<8>().ok_or(DecodeError::Truncated)?;
        if self.reported.is_none_or(|number| frame.extra > number) {
            let progress = Progress { done: u64::from_le_bytes(*done), total: u64::from_le_bytes(*total) };
            self.reported = Some(frame.extra);
            effects.outputs.push_back(Output::Progress(ticket, progress));
        }
        Ok(())
    }
}

impl Incoming {
    fn new() -> Self {
        let early = BTreeMap::new();
        Incoming { early, next: 0, used: 0, granted: STREAM_WINDOW, end: None, received: 0 }
    }

    /// The answer that ended the stream, if all its items are there.
    fn take_end(&mut self) -> Option<(u64, Status, Vec<u8>)> {
        let is_complete =
            |(total, status, _): &(u64, Status, Vec<u8>)| *status != Status::Done || self.received >= *total;
        if self.end.as_ref().is_some_and(is_complete) { self.end.take() } else { None }
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
        let ticket = Ticket(1);
        core.start(Time(0), ticket, start, &[0; CALL_HEADER_LEN], &mut effects);
        core.handle_peer_died(Time(0), peer(1), &mut effects);
        assert_eq!(effects.requests, [(peer(1), ticket), (peer(2), ticket)]);
        core.handle_unsent(Time(0), peer(1), 0, SendError::Unreachable, &mut effects);
        assert!(effects.outputs.is_empty(), "it is on its way to the other");
        assert!(core.links[&peer(2)].unused.is_empty());
        assert!(core.request(peer(1), ticket).is_none() && core.request(peer(2), ticket).is_some());
    }
}
