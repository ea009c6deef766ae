//! The server's side of all calls to a node, as a value: what was seen, what waits, what runs, and the
//! replies that a client may ask for again. It runs nothing itself: workers take [`Job`]s.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use rustc_hash::FxHashMap;

use crate::codec::DecodeError;
use crate::config::rpc::{
    ALIVE_EVERY, CLIENTS_MAX, DELAYED_BYTES_MAX, DELAYED_MAX, ENDED_MAX, ONEWAY_WINDOW, QUEUE_BYTES_MAX,
    QUEUE_LEN_MAX, REPLIES_MAX, REPLY_BYTES_MAX, REPLY_BYTES_NODE_MAX, ROOM_AGAIN, SILENCE_MAX,
    SYSTEM_BYTES_MAX,
};
use crate::page::{GUEST, PeerId, Span, Time};

use super::client::{Effects, Waiter};
use super::frame::{Frame, FrameKind, IDEMPOTENT, ONEWAY, RETRIED, Status};
use super::interface::{Interface, Kind, Method, Service};
use super::seen::Seen;
use super::stats::MethodStats;
use super::transport::Signal;

/// Whose calls run first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rank {
    /// Those of the system's own interfaces, which are few, short, and what others wait for.
    System,
    /// All others.
    Program,
}

/// An interface that is served here.
pub(super) struct Served {
    pub(super) service: Arc<dyn Service>,
    /// Calls that may wait or run at one time.
    pub(super) calls_max: usize,
    rank: Rank,
    pub(super) stats: Vec<MethodStats>,
}

/// A call for a worker.
pub(super) struct Job {
    pub(super) from: PeerId,
    pub(super) sequence: u64,
    pub(super) flags: u8,
    pub(super) served: Arc<Served>,
    pub(super) method: usize,
    pub(super) body: Vec<u8>,
    pub(super) deadline: Option<Time>,
}

/// Code of the program, or of a library that it chose, which may take locks, fault and call: it runs in a
/// worker, without any lock of ours.
pub(super) enum Deferred {
    /// Tells a future that it should be polled.
    Wake(Waker),
    /// Log lines.
    Run(Box<dyn FnOnce() + Send>),
}

/// Names a call that somebody waits for.
type CallId = (PeerId, u64);

struct Running {
    kind: Kind,
    cancelled: bool,
    /// Items of the stream that may be sent, counted from the first.
    credit: u64,
    waiter: Option<Arc<Signal>>,
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
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
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
    methods: FxHashMap<u64, (Arc<Served>, usize)>,
    families: FxHashMap<u32, Arc<Served>>,
    occupied: FxHashMap<&'static str, usize>,
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
    /// Code of others that waits for a worker.
    deferred: Vec<Deferred>,
}

/// What a sink may do next.
pub(super) enum Permit {
    Send,
    Wait,
    Stop,
}

impl ServerCore {
    /// Serves an interface; one of the same name must not be served already.
    pub(super) fn register(&mut self, service: Arc<dyn Service>, calls_max: usize, rank: Rank) {
        let interface = service.interface();
        let methods = interface.methods;
        let stats = methods.iter().map(|_| MethodStats::default()).collect();
        let served = Arc::new(Served { service, calls_max, rank, stats });
        for (index, method) in methods.iter().enumerate() {
            let before = self.methods.insert(method.id, (served.clone(), index));
            assert!(before.is_none(), "{}.{} is served twice", interface.name, method.name);
            self.families.insert(Interface::family(method.id), served.clone());
        }
    }

    /// Everything that was served, which is served no more.
    pub(super) fn take_services(&mut self) -> Vec<Arc<Served>> {
        self.methods.clear();
        self.families.drain().map(|(_, served)| served).collect()
    }

    /// The interfaces that are served, by name.
    pub(super) fn served(&self) -> Vec<Arc<Served>> {
        let mut list: Vec<Arc<Served>> = self.families.values().cloned().collect();
        list.sort_by_key(|served| served.service.interface().name);
        list
    }

    /// Takes a frame of a client. A new call is queued, or answered at once.
    pub(super) fn handle_frame(
        &mut self,
        now: Time,
        from: PeerId,
        frame: &Frame<'_>,
        effects: &mut Effects,
    ) -> Result<(), DecodeError> {
        let known = self.clients.contains_key(&from);
        if !known && self.ended.contains(&from) {
            return Ok(());
        }
        if !known && !self.has_room_for_client() {
            self.counters.busy += 1;
            effects.sends.push((from, refusal(frame.sequence, Status::Busy, 0)));
            return Ok(());
        }
        let client = self.clients.entry(from).or_default();
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
        let Some((served, index)) = self.methods.get(&frame.extra).cloned() else {
            self.counters.unknown += 1;
            let (status, version) = match self.families.get(&Interface::family(frame.extra)) {
                Some(served) => (Status::BadVersion, served.service.interface().version),
                None => (Status::Unknown, 0),
            };
            return self.refuse(from, frame, status, u64::from(version), effects);
        };
        let interface = served.service.interface();
        let method = &interface.methods[index];
        let occupied = self.occupied.entry(interface.name).or_default();
        let is_full = match served.rank {
            // Their number has the interface's own limit.
            Rank::System => self.system_bytes + frame.body.len() > SYSTEM_BYTES_MAX,
            Rank::Program => {
                self.queue.len() >= QUEUE_LEN_MAX || self.queue_bytes + frame.body.len() > QUEUE_BYTES_MAX
            }
        };
        if is_full || *occupied >= served.calls_max {
            self.counters.busy += 1;
            served.stats[index].busy();
            return self.refuse(from, frame, Status::Busy, 0, effects);
        }
        *occupied += 1;
        let oneway = frame.flags & ONEWAY != 0;
        if !oneway {
            let alive_at = method.longrunning.then(|| now + ALIVE_EVERY);
            self.alive.extend(alive_at.map(|at| (at, (from, frame.sequence))));
            let credit = u64::from(frame.aux);
            let kind = method.kind;
            let running = Running { kind, cancelled: false, credit, waiter: None, alive_at, reports: 0 };
            self.running.insert((from, frame.sequence), running);
        }
        let mut body = self.spare.pop().unwrap_or_default();
        body.clear();
        body.extend_from_slice(frame.body);
        // The method decides what a call is, not the client's flags; they only choose the sequences.
        let idempotent = if method.idempotent { IDEMPOTENT } else { 0 };
        let (queue, bytes) = match served.rank {
            Rank::System => (&mut self.system, &mut self.system_bytes),
            Rank::Program => (&mut self.queue, &mut self.queue_bytes),
        };
        *bytes += body.len();
        queue.push_back(Job {
            from,
            sequence: frame.sequence,
            flags: (frame.flags & ONEWAY) | idempotent,
            served,
            method: index,
            body,
            deadline: (frame.budget > 0).then(|| now + Span(frame.budget)),
        });
    }

    /// A call that was seen: runs already, is answered from memory, or is idempotent and runs again.
    fn on_duplicate(&mut self, now: Time, from: PeerId, frame: &Frame<'_>, effects: &mut Effects) {
        self.counters.duplicates += 1;
        let Some(client) = self.clients.get(&from) else { return };
        if frame.flags & ONEWAY != 0
            || client.seen.is_settled(frame.sequence)
            || self.running.contains_key(&(from, frame.sequence))
        {
            return;
        }
        if let Some((_, reply)) = client.replies.iter().find(|(sequence, _)| *sequence == frame.sequence) {
            effects.sends.push((from, reply.clone()));
            return;
        }
        let idempotent = self
            .methods
            .get(&frame.extra)
            .is_some_and(|(served, index)| served.service.interface().methods[*index].idempotent);
        if idempotent {
            self.on_new_call(now, from, frame, effects);
        } else {
            effects.sends.push((from, refusal(frame.sequence, Status::ReplyLost, 0)));
        }
    }

    fn refuse(&mut self, from: PeerId, frame: &Frame<'_>, status: Status, extra: u64, effects: &mut Effects) {
        if frame.flags & ONEWAY != 0 {
            return;
        }
        let reply = refusal(frame.sequence, status, extra);
        // Kept like an answer: a copy of the call must not run when there is room again.
        self.keep(from, frame.sequence, &reply);
        effects.sends.push((from, reply));
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
            effects.wakes.extend(running.waiter.take().map(Waiter::Thread));
        }
    }

    /// The next call to run, of this rank or a higher one. Those that are over are answered and passed over.
    pub(super) fn take_job(&mut self, now: Time, down_to: Rank, effects: &mut Effects) -> Option<Job> {
        let next = |core: &mut ServerCore| match down_to {
            Rank::System => core.system.pop_front(),
            Rank::Program => core.system.pop_front().or_else(|| core.queue.pop_front()),
        };
        while let Some(job) = next(self) {
            match job.served.rank {
                Rank::System => self.system_bytes -= job.body.len(),
                Rank::Program => self.queue_bytes -= job.body.len(),
            }
            let call = (job.from, job.sequence);
            let oneway = job.flags & ONEWAY != 0;
            let cancelled = !oneway && self.running.get(&call).is_none_or(|running| running.cancelled);
            let late = job.deadline.is_some_and(|deadline| deadline <= now);
            if !cancelled && !late {
                return Some(job);
            }
            self.counters.not_run += 1;
            let status = if cancelled { Status::Cancelled } else { Status::Deadline };
            let reply = refusal(job.sequence, status, 0);
            if !oneway {
                effects.sends.push((job.from, reply.clone()));
            }
            effects.services.push(self.finish(job, &reply));
        }
        None
    }

    /// Calls that wait for a worker.
    pub(super) fn queue_len(&self) -> usize {
        self.system.len() + self.queue.len()
    }

    /// Leaves code of others to a worker.
    pub(super) fn defer(&mut self, deferred: Deferred) {
        self.deferred.push(deferred);
    }

    /// How much code of others waits for a worker.
    pub(super) fn deferred_len(&self) -> usize {
        self.deferred.len()
    }

    /// Takes it, to run it without the lock.
    pub(super) fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }

    /// Bytes of the replies that are kept.
    pub(super) fn kept_bytes(&self) -> usize {
        self.reply_bytes
    }

    /// Whether there is work that must not wait until a method has ended: calls of the system, code of others.
    pub(super) fn has_work_of_system(&self) -> bool {
        !self.system.is_empty() || !self.deferred.is_empty()
    }

    /// Whether the next call may hold its worker for long.
    pub(super) fn is_next_slow(&self) -> bool {
        self.system.front().or(self.queue.front()).is_some_and(Job::is_slow)
    }

    /// The call has been answered with the frame `reply`. Its service comes back, to be dropped without the lock:
    /// it is the program's, and this may be its last reference.
    #[must_use]
    pub(super) fn finish(&mut self, job: Job, reply: &[u8]) -> Arc<Served> {
        if let Some(occupied) = self.occupied.get_mut(job.served.service.interface().name) {
            *occupied -= 1;
        }
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
        job.served
    }

    /// Keeps a reply for its client. If all clients' take too much, those of whom has been away longest go first.
    fn keep(&mut self, from: PeerId, sequence: u64, reply: &[u8]) {
        while self.reply_bytes + reply.len() > REPLY_BYTES_NODE_MAX && self.drop_oldest_replies(from) {}
        let Some(client) = self.clients.get_mut(&from) else { return };
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

    /// Whether item number `index` of a stream may be sent; else `signal` is set when that changes.
    pub(super) fn permit(&mut self, from: PeerId, sequence: u64, index: u64, signal: &Arc<Signal>) -> Permit {
        match self.running.get_mut(&(from, sequence)) {
            None => Permit::Stop,
            Some(running) if running.cancelled => Permit::Stop,
            Some(running) if index < running.credit => Permit::Send,
            Some(running) => {
                running.waiter = Some(signal.clone());
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
        self.forget(peer);
        // A guest has no end: it comes back or does not.
        if peer.node != GUEST {
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
        for (_, running) in of_peer {
            running.cancelled = true;
            effects.wakes.extend(running.waiter.take().map(Waiter::Thread));
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
            effects.sends.push((call.0, Frame::new(FrameKind::Progress, call.1, 0).to_vec()));
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

impl Job {
    /// What is called.
    pub(super) fn method(&self) -> &'static Method {
        &self.served.service.interface().methods[self.method]
    }

    /// Whether it may hold its worker for long, so that nothing should wait for it.
    pub(super) fn is_slow(&self) -> bool {
        let method = self.method();
        method.longrunning || method.kind == Kind::Stream || self.served.stats[self.method].is_slow()
    }
}

impl Deferred {
    /// Runs it. A panic is its own.
    pub(super) fn run(self) {
        let run = std::panic::AssertUnwindSafe(|| match self {
            Deferred::Wake(waker) => waker.wake(),
            Deferred::Run(run) => run(),
        });
        let _ = std::panic::catch_unwind(run);
    }
}

fn refusal(sequence: u64, status: Status, extra: u64) -> Vec<u8> {
    let mut frame = Frame::new(FrameKind::Reply, sequence, extra);
    frame.aux = status as u16;
    frame.to_vec()
}
