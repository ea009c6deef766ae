//! The server's side of all calls to a node, as a value: what was seen, what waits, what runs, and the
//! replies that a client may ask for again. It runs nothing itself: workers take [`Job`]s.

use std::collections::{BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

use crate::codec::DecodeError;
use crate::config::rpc::{
    ALIVE_EVERY, CLIENTS_MAX, DELAYED_BYTES_MAX, DELAYED_MAX, ENDED_MAX, ONEWAY_WINDOW, QUEUE_BYTES_MAX,
    QUEUE_LEN_MAX, REPLIES_MAX, REPLY_BYTES_MAX, REPLY_BYTES_NODE_MAX, ROOM_AGAIN, SILENCE_MAX,
    SYSTEM_BYTES_MAX,
};
use crate::page::{PeerId, Span, Time};

use super::frame::{Frame, FrameKind, IDEMPOTENT, ONEWAY, RETRIED, Status};
use super::seen::Seen;
use super::stats::{MethodReading, MethodStats};
use super::{Effects, Output, Rules};
use crate::rpc::interface::{Interface, Kind, Method};

/// Whose calls run first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rank {
    /// Those of the system's own interfaces, which are few, short, and what others wait for.
    System,
    /// All others.
    Program,
}

/// Names what runs the methods of an interface; the node knows it by this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServiceId(pub u32);

/// An interface that is served here.
struct Served {
    interface: &'static Interface,
    /// Calls that may wait or run at one time.
    calls_max: usize,
    occupied: usize,
    rank: Rank,
    stats: Vec<MethodStats>,
}

/// A call for a worker.
#[derive(Debug)]
pub struct Job {
    /// Who called.
    pub from: PeerId,
    /// The number of the call at its client.
    pub sequence: u64,
    pub(in crate::rpc) flags: u8,
    /// What runs it.
    pub service: ServiceId,
    /// What is called.
    pub method: &'static Method,
    /// Its number in the interface.
    pub index: usize,
    /// The arguments.
    pub body: Vec<u8>,
    /// When its client gives up.
    pub deadline: Option<Time>,
    /// Whether it may hold its worker for long, so that nothing should wait for it.
    pub is_slow: bool,
}

/// Names a call that somebody waits for.
type CallId = (PeerId, u64);

struct Running {
    kind: Kind,
    cancelled: bool,
    /// Items of the stream that may be sent, counted from the first.
    credit: u64,
    /// A thread waits until more items may be sent.
    waits: bool,
    alive_at: Option<Time>,
    reports: u64,
}

#[derive(Default)]
struct Client {
    seen: Seen,
    oneways: Seen,
    newest_oneway: u64,
    replies: VecDeque<(u64, Vec<u8>)>,
    reply_bytes: usize,
    /// Without a session since then.
    away: Option<Time>,
    /// It came when others had been forgotten, and may be one of them.
    may_be_forgotten: bool,
}

/// What happened that nobody asked for, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Calls that came twice and were not run twice.
    pub duplicates: u64,
    /// Calls refused because the queue or the interface was full.
    pub busy: u64,
    /// Calls for interfaces, versions or methods that are not here.
    pub unknown: u64,
    /// Calls whose arguments did not decode.
    pub malformed: u64,
    /// Calls whose time was over, or that were cancelled, before they ran.
    pub not_run: u64,
    /// Answers that were given up because too many waited for room in the queues to their peers, and oneway
    /// calls of batches that could not be sent.
    pub dropped: u64,
    /// Messages that no client writes.
    pub violations: u64,
}

/// All calls to a node.
#[derive(Default)]
pub(super) struct ServerCore {
    pub(super) counters: Counters,
    pub(super) rules: Rules,
    /// By [`ServiceId`].
    services: Vec<Served>,
    methods: FxHashMap<u64, (ServiceId, usize)>,
    families: FxHashMap<u32, ServiceId>,
    clients: FxHashMap<PeerId, Client>,
    /// A client that is away has had to make room for another.
    has_forgotten: bool,
    /// Calls that wait, those of the system apart.
    queue: VecDeque<Job>,
    system: VecDeque<Job>,
    /// Of the arguments of those that wait.
    queue_bytes: usize,
    system_bytes: usize,
    /// Of the replies that are kept for all clients.
    reply_bytes: usize,
    /// Clients without a session: when that was noticed.
    away: BTreeSet<(Time, PeerId)>,
    /// Members that ended lately: what they sent may be handled after their end.
    ended: VecDeque<PeerId>,
    running: FxHashMap<CallId, Running>,
    alive: BTreeSet<(Time, CallId)>,
    /// What the queues to its peers had no room for, of both sides of the calls, and when to offer it again.
    /// Nobody asks for a lost refusal or a lost credit, and the thread that sends them cannot wait.
    delayed: Vec<(PeerId, Vec<u8>)>,
    delayed_bytes: usize,
    delayed_until: Option<Time>,
    spare: Vec<Vec<u8>>,
}

/// What a method with a stream may do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Permit {
    /// Send the item.
    Send,
    /// Wait for [`Output::Permit`].
    Wait,
    /// End: nobody takes items any more.
    Stop,
}

impl ServerCore {
    /// Serves an interface; one of the same name must not be served already.
    pub(super) fn register(
        &mut self,
        interface: &'static Interface,
        calls_max: usize,
        rank: Rank,
    ) -> ServiceId {
        let id = ServiceId(self.services.len() as u32);
        let stats = interface.methods.iter().map(|_| MethodStats::default()).collect();
        self.services.push(Served { interface, calls_max, occupied: 0, rank, stats });
        for (index, method) in interface.methods.iter().enumerate() {
            let before = self.methods.insert(method.id, (id, index));
            assert!(before.is_none(), "{}.{} is served twice", interface.name, method.name);
            self.families.insert(Interface::family(method.id), id);
        }
        id
    }

    /// Serves nothing any more.
    pub(super) fn stop_serving(&mut self) {
        self.methods.clear();
        self.families.clear();
    }

    /// The interfaces that are served, by name.
    pub(super) fn interfaces(&self) -> Vec<&'static Interface> {
        self.served().map(|served| served.interface).collect()
    }

    /// What their methods did.
    pub(super) fn statistics(&self) -> Vec<(&'static Method, MethodReading)> {
        let readings = |served: &Served| {
            let methods = served.interface.methods.iter();
            let readings = methods.zip(&served.stats).map(|(method, stats)| (method, stats.read()));
            readings.collect::<Vec<_>>()
        };
        self.served().flat_map(readings).collect()
    }

    fn served(&self) -> impl Iterator<Item = &Served> {
        let mut ids: Vec<ServiceId> = self.families.values().copied().collect();
        ids.sort_by_key(|id| self.services[id.0 as usize].interface.name);
        ids.into_iter().map(|id| &self.services[id.0 as usize])
    }

    fn service(&mut self, id: ServiceId) -> &mut Served {
        &mut self.services[id.0 as usize]
    }

    /// Under which start of a node its calls are remembered: the one that it is.
    fn start_of(&self, from: PeerId) -> PeerId {
        if self.rules.remembers_each_start() {
            return from;
        }
        let before = self.clients.keys().filter(|peer| peer.node == from.node).min();
        before.copied().unwrap_or(from)
    }

    /// Takes a frame of a client. A new call is queued, or answered at once.
    pub(super) fn handle_frame(
        &mut self,
        now: Time,
        from: PeerId,
        frame: &Frame<'_>,
        effects: &mut Effects,
    ) -> Result<(), DecodeError> {
        let start = self.start_of(from);
        let known = self.clients.contains_key(&start);
        if !known && self.ended.contains(&from) {
            return Ok(());
        }
        if !known && !self.has_room_for_client() {
            self.counters.busy += 1;
            effects.sends.push_back((from, refusal(frame.sequence, Status::Busy, 0)));
            return Ok(());
        }
        let client = self.clients.entry(start).or_default();
        client.may_be_forgotten |= !known && self.has_forgotten && !frame.is_first();
        let may_be_forgotten = client.may_be_forgotten;
        if let Some(since) = client.away.take() {
            self.away.remove(&(since, from));
        }
        match frame.kind {
            FrameKind::Call => {
                let before = client.reply_bytes;
                let admitted = client.admit(frame);
                self.reply_bytes -= before - client.reply_bytes;
                let new = admitted?;
                if new && may_be_forgotten && frame.flags & RETRIED != 0 {
                    // Its first copy may have run before the client was forgotten.
                    self.on_duplicate(now, from, frame, effects);
                } else if new {
                    self.on_new_call(now, from, frame, effects);
                } else {
                    self.on_duplicate(now, from, frame, effects);
                }
            }
            FrameKind::Cancel => {
                // A cancellation that overtakes its call: the call must not run when it comes.
                client.seen.insert(frame.sequence)?;
                self.change(from, frame.sequence, effects, |running| running.cancelled = true);
            }
            FrameKind::Credit => self.change(from, frame.sequence, effects, |running| {
                running.credit = running.credit.max(frame.extra);
            }),
            FrameKind::Reply | FrameKind::Item | FrameKind::Progress => {
                return Err(DecodeError::Bad("frame direction"));
            }
        }
        Ok(())
    }

    /// Whether one more client can be remembered; who is away longest is forgotten for it.
    fn has_room_for_client(&mut self) -> bool {
        if self.clients.len() < CLIENTS_MAX {
            return true;
        }
        // Those that have been away for long are in `away` no more.
        let away = self.clients.iter().filter_map(|(peer, client)| Some((client.away?, *peer)));
        let Some((_, peer)) = away.min() else { return false };
        self.forget(peer);
        self.has_forgotten = true;
        true
    }

    fn forget(&mut self, peer: PeerId) {
        let Some(client) = self.clients.remove(&peer) else { return };
        self.reply_bytes -= client.reply_bytes;
        if let Some(since) = client.away {
            self.away.remove(&(since, peer));
        }
    }

    fn on_new_call(&mut self, now: Time, from: PeerId, frame: &Frame<'_>, effects: &mut Effects) {
        let Some((service, index)) = self.methods.get(&frame.extra).copied() else {
            self.counters.unknown += 1;
            let (status, version) = match self.families.get(&Interface::family(frame.extra)) {
                Some(id) => (Status::BadVersion, self.services[id.0 as usize].interface.version),
                None => (Status::Unknown, 0),
            };
            return self.refuse(from, frame, status, u64::from(version), effects);
        };
        let &Served { interface, calls_max, occupied, rank, .. } = &self.services[service.0 as usize];
        let method = &interface.methods[index];
        let is_full = match rank {
            // Their number has the interface's own limit.
            Rank::System => self.system_bytes + frame.body.len() > SYSTEM_BYTES_MAX,
            Rank::Program => {
                self.queue.len() >= QUEUE_LEN_MAX || self.queue_bytes + frame.body.len() > QUEUE_BYTES_MAX
            }
        };
        if is_full || occupied >= calls_max {
            self.counters.busy += 1;
            self.service(service).stats[index].busy();
            return self.refuse(from, frame, Status::Busy, 0, effects);
        }
        self.service(service).occupied += 1;
        effects.arrivals += 1;
        let oneway = frame.flags & ONEWAY != 0;
        if !oneway {
            let alive_at = method.longrunning.then(|| now + ALIVE_EVERY);
            self.alive.extend(alive_at.map(|at| (at, (from, frame.sequence))));
            let credit = u64::from(frame.aux);
            let kind = method.kind;
            let running = Running { kind, cancelled: false, credit, waits: false, alive_at, reports: 0 };
            self.running.insert((from, frame.sequence), running);
        }
        let mut body = self.spare.pop().unwrap_or_default();
        body.clear();
        body.extend_from_slice(frame.body);
        // The method decides what a call is, not the client's flags; they only choose the sequences.
        let idempotent = if method.idempotent { IDEMPOTENT } else { 0 };
        let (queue, bytes) = match rank {
            Rank::System => (&mut self.system, &mut self.system_bytes),
            Rank::Program => (&mut self.queue, &mut self.queue_bytes),
        };
        *bytes += body.len();
        queue.push_back(Job {
            from,
            sequence: frame.sequence,
            flags: (frame.flags & ONEWAY) | idempotent,
            service,
            method,
            index,
            body,
            deadline: (frame.budget > 0).then(|| now + Span(frame.budget)),
            is_slow: false,
        });
    }

    /// A call that was seen: runs already, is answered from memory, or is idempotent and runs again.
    fn on_duplicate(&mut self, now: Time, from: PeerId, frame: &Frame<'_>, effects: &mut Effects) {
        self.counters.duplicates += 1;
        let Some(client) = self.clients.get(&self.start_of(from)) else { return };
        if frame.flags & ONEWAY != 0
            || client.seen.is_settled(frame.sequence)
            || self.running.contains_key(&(from, frame.sequence))
        {
            return;
        }
        if let Some((_, reply)) = client.replies.iter().find(|(sequence, _)| *sequence == frame.sequence) {
            effects.sends.push_back((from, reply.clone()));
            return;
        }
        let idempotent = self
            .methods
            .get(&frame.extra)
            .is_some_and(|(id, index)| self.services[id.0 as usize].interface.methods[*index].idempotent);
        if idempotent {
            self.on_new_call(now, from, frame, effects);
        } else {
            effects.sends.push_back((from, refusal(frame.sequence, Status::ReplyLost, 0)));
        }
    }

    fn refuse(&mut self, from: PeerId, frame: &Frame<'_>, status: Status, extra: u64, effects: &mut Effects) {
        if frame.flags & ONEWAY != 0 {
            return;
        }
        let reply = refusal(frame.sequence, status, extra);
        // Kept like an answer: a copy of the call must not run when there is room again.
        self.keep(from, frame.sequence, &reply);
        effects.sends.push_back((from, reply));
    }

    fn change(
        &mut self,
        from: PeerId,
        sequence: u64,
        effects: &mut Effects,
        change: impl FnOnce(&mut Running),
    ) {
        if let Some(running) = self.running.get_mut(&(from, sequence)) {
            change(running);
            running.tell((from, sequence), effects);
        }
    }

    /// The next call to run, of this rank or a higher one. Those that are over are answered and passed over.
    pub(super) fn take_job(&mut self, now: Time, down_to: Rank, effects: &mut Effects) -> Option<Job> {
        let next = |core: &mut ServerCore| match down_to {
            Rank::System => core.system.pop_front(),
            Rank::Program => core.system.pop_front().or_else(|| core.queue.pop_front()),
        };
        while let Some(mut job) = next(self) {
            match self.service(job.service).rank {
                Rank::System => self.system_bytes -= job.body.len(),
                Rank::Program => self.queue_bytes -= job.body.len(),
            }
            let call = (job.from, job.sequence);
            let oneway = job.flags & ONEWAY != 0;
            let cancelled = !oneway && self.running.get(&call).is_none_or(|running| running.cancelled);
            let late = job.deadline.is_some_and(|deadline| deadline <= now);
            if !cancelled && !late {
                job.is_slow = self.is_slow(&job);
                return Some(job);
            }
            self.counters.not_run += 1;
            let status = if cancelled { Status::Cancelled } else { Status::Deadline };
            let reply = refusal(job.sequence, status, 0);
            if !oneway {
                effects.sends.push_back((job.from, reply.clone()));
            }
            self.finish(job, &reply);
        }
        None
    }

    /// Calls that wait for a worker.
    pub(super) fn queue_len(&self) -> usize {
        self.system.len() + self.queue.len()
    }

    /// Bytes of the replies that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Whether calls of the system wait.
    pub(super) fn has_system_calls(&self) -> bool {
        !self.system.is_empty()
    }

    /// Whether the next call may hold its worker for long.
    pub(super) fn is_next_slow(&self) -> bool {
        self.system.front().or(self.queue.front()).is_some_and(|job| self.is_slow(job))
    }

    fn is_slow(&self, job: &Job) -> bool {
        let is_long = job.method.longrunning || job.method.kind == Kind::Stream;
        is_long || self.services[job.service.0 as usize].stats[job.index].is_slow()
    }

    /// The method has run for so long.
    pub(super) fn ran(&mut self, job: &Job, time: Span, failed: bool) {
        self.service(job.service).stats[job.index].ran(time, failed);
    }

    /// The call has been answered with the frame `reply`.
    pub(super) fn finish(&mut self, job: Job, reply: &[u8]) {
        self.service(job.service).occupied -= 1;
        if job.flags & ONEWAY == 0 {
            if let Some(running) = self.running.remove(&(job.from, job.sequence))
                && let Some(at) = running.alive_at
            {
                self.alive.remove(&(at, (job.from, job.sequence)));
            }
            if job.flags & IDEMPOTENT == 0 {
                self.keep(job.from, job.sequence, reply);
            }
        }
        self.reuse(job.body);
    }

    /// Keeps a reply for its client. If all clients' take too much, those of whom has been away longest go first.
    fn keep(&mut self, from: PeerId, sequence: u64, reply: &[u8]) {
        while self.reply_bytes + reply.len() > REPLY_BYTES_NODE_MAX && self.drop_oldest_replies(from) {}
        let start = self.start_of(from);
        let Some(client) = self.clients.get_mut(&start) else { return };
        if client.seen.is_settled(sequence) {
            return;
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(reply);
        client.reply_bytes += copy.len();
        self.reply_bytes += copy.len();
        client.replies.push_back((sequence, copy));
        while client.replies.len() > REPLIES_MAX
            || client.reply_bytes > REPLY_BYTES_MAX
            || self.reply_bytes > REPLY_BYTES_NODE_MAX
        {
            let Some((_, old)) = client.replies.pop_front() else { return };
            client.reply_bytes -= old.len();
            self.reply_bytes -= old.len();
        }
    }

    /// False if no client but this one is away and has any.
    fn drop_oldest_replies(&mut self, but: PeerId) -> bool {
        let others = self.clients.iter_mut().filter(|(peer, client)| **peer != but && client.reply_bytes > 0);
        let away = others.filter_map(|(_, client)| Some((client.away?, client)));
        let Some((_, client)) = away.min_by_key(|(since, _)| *since) else { return false };
        client.replies.clear();
        self.reply_bytes -= std::mem::take(&mut client.reply_bytes);
        true
    }

    fn reuse(&mut self, buffer: Vec<u8>) {
        if self.spare.len() < REPLIES_MAX && buffer.capacity() <= 1 << 14 {
            self.spare.push(buffer);
        }
    }

    /// Whether item number `index` of a stream may be sent; else [`Output::Permit`] says when that changes.
    pub(super) fn permit(&mut self, from: PeerId, sequence: u64, index: u64) -> Permit {
        match self.running.get_mut(&(from, sequence)) {
            None => Permit::Stop,
            Some(running) if running.cancelled => Permit::Stop,
            Some(running) if index < running.credit => Permit::Send,
            Some(running) => {
                running.waits = true;
                Permit::Wait
            }
        }
    }

    /// This message found no room. It is offered again by [`ServerCore::handle_timeout`], at the time that is
    /// returned at the earliest. A peer that never has room for it ends with its session.
    pub(super) fn delay(&mut self, now: Time, to: PeerId, message: Vec<u8>) -> Time {
        let bytes = self.delayed_bytes + message.len();
        if self.delayed.len() < DELAYED_MAX && bytes <= DELAYED_BYTES_MAX {
            self.delayed_bytes = bytes;
            self.delayed.push((to, message));
        } else {
            self.counters.dropped += 1;
        }
        *self.delayed_until.get_or_insert(now + ROOM_AGAIN)
    }

    /// Whether nobody waits for the call any more.
    pub(super) fn is_cancelled(&self, from: PeerId, sequence: u64) -> bool {
        self.running.get(&(from, sequence)).is_none_or(|running| running.cancelled)
    }

    /// The number of the next report about a call.
    pub(super) fn next_report(&mut self, from: PeerId, sequence: u64) -> Option<u64> {
        let running = self.running.get_mut(&(from, sequence))?;
        running.reports += 1;
        Some(running.reports)
    }

    /// Whose calls run here.
    pub(super) fn peers(&self) -> Vec<PeerId> {
        let mut peers: Vec<PeerId> = self.running.keys().map(|(peer, _)| *peer).collect();
        peers.dedup();
        peers
    }

    /// The peer has ended: nobody waits for its calls, and what it did can come no more.
    pub(super) fn handle_peer_died(&mut self, peer: PeerId, effects: &mut Effects) {
        self.cancel_calls(peer, |_| true, effects);
        if self.rules.remembers_each_start() {
            self.forget(peer);
        }
        // A client has no end: it comes back or does not.
        if !peer.is_client() {
            self.ended.push_back(peer);
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
    }

    /// The client has a session.
    pub(super) fn handle_peer_back(&mut self, peer: PeerId) {
        if let Some(since) = self.clients.get_mut(&peer).and_then(|client| client.away.take()) {
            self.away.remove(&(since, peer));
        }
    }

    /// The client has no session now: it may come back and ask again, but for streams. What it does not ask
    /// for within [`SILENCE_MAX`] nobody waits for.
    pub(super) fn handle_peer_away(&mut self, now: Time, peer: PeerId, effects: &mut Effects) {
        self.cancel_calls(peer, |running| running.kind == Kind::Stream, effects);
        let Some(client) = self.clients.get_mut(&peer) else { return };
        if client.away.is_none() {
            client.away = Some(now);
            self.away.insert((now, peer));
        }
    }

    fn cancel_calls(&mut self, peer: PeerId, which: impl Fn(&Running) -> bool, effects: &mut Effects) {
        let of_peer = self.running.iter_mut().filter(|((from, _), running)| *from == peer && which(running));
        for (call, running) in of_peer {
            running.cancelled = true;
            running.tell(*call, effects);
        }
    }

    /// Tells the clients of long calls that they live, and ends the calls of those that do not come back.
    pub(super) fn handle_timeout(&mut self, now: Time, effects: &mut Effects) {
        while let Some((since, peer)) = self.away.first().copied()
            && since + SILENCE_MAX <= now
        {
            self.away.pop_first();
            self.cancel_calls(peer, |_| true, effects);
        }
        while let Some((at, call)) = self.alive.first().copied()
            && at <= now
        {
            self.alive.pop_first();
            let Some(running) = self.running.get_mut(&call) else { continue };
            running.alive_at = Some(now + ALIVE_EVERY);
            self.alive.insert((now + ALIVE_EVERY, call));
            effects.sends.push_back((call.0, Frame::new(FrameKind::Progress, call.1, 0).to_vec()));
        }
        if self.delayed_until.is_some_and(|until| until <= now) {
            (self.delayed_until, self.delayed_bytes) = (None, 0);
            effects.sends.extend(self.delayed.drain(..));
        }
    }

    /// When [`ServerCore::handle_timeout`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        let alive = self.alive.first().map(|(at, _)| *at);
        let given_up = self.away.first().map(|(since, _)| *since + SILENCE_MAX);
        [alive, given_up, self.delayed_until].into_iter().flatten().min()
    }
}

impl Client {
    /// Whether the call is new. Replies that the client has settled are let go.
    fn admit(&mut self, frame: &Frame<'_>) -> Result<bool, DecodeError> {
        if frame.flags & ONEWAY != 0 {
            self.newest_oneway = self.newest_oneway.max(frame.sequence);
            self.oneways.raise(self.newest_oneway.saturating_sub(ONEWAY_WINDOW));
            return self.oneways.insert(frame.sequence);
        }
        if frame.settled > frame.sequence {
            return Err(DecodeError::Bad("settled"));
        }
        self.seen.raise(frame.settled);
        while let Some((sequence, _)) = self.replies.front()
            && self.seen.is_settled(*sequence)
        {
            if let Some((_, reply)) = self.replies.pop_front() {
                self.reply_bytes -= reply.len();
            }
        }
        self.seen.insert(frame.sequence)
    }
}

impl Running {
    /// What its method waits for may have changed.
    fn tell(&mut self, (from, sequence): CallId, effects: &mut Effects) {
        if std::mem::take(&mut self.waits) {
            effects.outputs.push_back(Output::Permit(from, sequence));
        }
    }
}

fn refusal(sequence: u64, status: Status, extra: u64) -> Vec<u8> {
    let mut frame = Frame::new(FrameKind::Reply, sequence, extra);
    frame.aux = status as u16;
    frame.to_vec()
}
