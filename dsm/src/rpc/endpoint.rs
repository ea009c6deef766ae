//! The shell of both cores: one per node. It owns their locks, sends what they say, wakes whom they
//! name, and runs methods in the thread that asks for work, so that the node decides which that is.
//!
//! A call from a blocked thread costs two datagrams and, if that thread receives the answer itself (see
//! [`Transport::wait`]), one wake-up on each side. No lock is held while a method runs.

use std::ops::{Deref, DerefMut};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::codec::DecodeError;
use crate::config::rpc::{
    CALL_LEN_MAX, GATHER_LEN_MAX, GATHERED_MAX, ROOM_AGAIN, ROOM_WAIT_MAX, SYSTEM_CALLS_MAX,
};
use crate::fork;
use crate::page::{PeerId, Time};

use super::client::{ClientCore, Effects, Start, Ticket, Waiter};
use super::context::{Context, Reply};
use super::error::ErrorKind;
use super::frame::{CALL_HEADER_LEN, Frame, FrameKind, HEADER_LEN, ONEWAY, Status};
use super::interface::{Method, Service};
use super::section::CallSection;
use super::server::{Counters, Deferred, Job, Rank, ServerCore};
use super::stats::MethodReading;
use super::transport::{SendError, Signal, Transport};
use super::wire::Decoder;

thread_local! {
    // One signal a thread: a thread waits for one thing at a time.
    static SIGNAL: Arc<Signal> = Arc::new(Signal::for_this_thread());
}

/// The calls of one node, in both directions.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let greeter = GreeterCalls::new(dsm.channel(Policy::RoundRobin));
/// let together = dsm.calls().batch();
/// let call = greeter.greet("Ada");
/// drop(together);
/// call.wait()?;
/// # dsm.leave()
/// # }
/// ```
pub struct Endpoint {
    transport: Arc<dyn Transport>,
    client: Mutex<ClientCore>,
    server: Mutex<ServerCore>,
    arrived: Condvar,
    system_arrived: Condvar,
    /// Threads in [`Endpoint::run_ready`].
    serving: AtomicUsize,
    gathering: AtomicUsize,
    gathered: Mutex<Vec<(PeerId, Vec<u8>)>>,
}

/// While it lives, requests to the same peer are gathered and sent together; dropping it sends them.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let greeter = GreeterCalls::new(dsm.channel(Policy::RoundRobin));
/// let together = dsm.calls().batch();
/// let calls: Vec<_> = (0..5).map(|_| greeter.greet("Ada")).collect();
/// drop(together); // sends five requests in one message
/// for call in calls {
///     call.wait()?;
/// }
/// # dsm.leave()
/// # }
/// ```
pub struct Batch<'a> {
    endpoint: &'a Endpoint,
}

/// A core under its lock.
pub(super) struct Held<'a, T> {
    // First: the section outlives the lock.
    core: MutexGuard<'a, T>,
    _section: CallSection,
}

impl<'a, T> Held<'a, T> {
    /// Panics in a forked child, where another thread of the parent may have left the core locked.
    fn lock(core: &'a Mutex<T>) -> Held<'a, T> {
        fork::assert_not_child();
        let section = CallSection::enter();
        Held { core: core.lock(), _section: section }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.core
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.core
    }
}

impl Endpoint {
    /// The calls of a node whose messages `transport` carries.
    #[doc(hidden)]
    pub fn new(transport: Arc<dyn Transport>) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            transport,
            client: Mutex::default(),
            server: Mutex::default(),
            arrived: Condvar::new(),
            system_arrived: Condvar::new(),
            serving: AtomicUsize::new(0),
            gathering: AtomicUsize::new(0),
            gathered: Mutex::default(),
        })
    }

    /// Serves an interface. At most `calls_max` of its calls wait or run at one time; more are `Busy`.
    /// One interface has one server on a node: a second is a broken program.
    #[doc(hidden)]
    pub fn serve(&self, service: impl Service, calls_max: usize) {
        self.server().register(Arc::new(service), calls_max, Rank::Program);
    }

    /// Serves an interface of the system's own: its calls, which are short, run before all others, and by
    /// [`Endpoint::run_system`] even when every worker is held up.
    #[doc(hidden)]
    pub fn serve_system(&self, service: impl Service) {
        self.server().register(Arc::new(service), SYSTEM_CALLS_MAX, Rank::System);
    }

    /// Takes a message of a peer. Answers wake their callers; calls are queued, workers are woken for
    /// them, and their number is returned.
    /// An error is a message that no peer of ours writes: the session should end.
    #[doc(hidden)]
    pub fn handle_message(&self, from: PeerId, message: &[u8]) -> Result<usize, DecodeError> {
        let queued = self.admit_message(from, message)?;
        self.rouse(queued);
        Ok(queued)
    }

    /// The same without waking anybody: the caller sees to it that [`Endpoint::run_ready`] runs, in this
    /// thread or, by [`Endpoint::rouse`], in others.
    #[doc(hidden)]
    pub fn admit_message(&self, from: PeerId, message: &[u8]) -> Result<usize, DecodeError> {
        let now = self.now();
        let mut effects = Effects::default();
        let outcome = self.handle_frames(now, from, message, &mut effects);
        self.perform(effects);
        if outcome.is_err() {
            self.server().counters.violations += 1;
        }
        outcome
    }

    fn handle_frames(
        &self,
        now: Time,
        from: PeerId,
        message: &[u8],
        effects: &mut Effects,
    ) -> Result<usize, DecodeError> {
        let mut rest = message;
        let mut queued = 0;
        while !rest.is_empty() {
            let (frame, behind) = Frame::decode(rest)?;
            rest = behind;
            match frame.kind {
                FrameKind::Call | FrameKind::Credit | FrameKind::Cancel => {
                    let mut server = self.server();
                    let before = server.queue_len();
                    server.handle_frame(now, from, &frame, effects)?;
                    let added = server.queue_len().saturating_sub(before);
                    drop(server);
                    queued += added;
                }
                FrameKind::Reply | FrameKind::Item | FrameKind::Progress => {
                    self.client().handle_frame(now, from, &frame, effects)?;
                }
            }
        }
        Ok(queued)
    }

    /// This start of the peer is dead. Every call to it ends now.
    #[doc(hidden)]
    pub fn handle_peer_died(&self, peer: PeerId) {
        let mut effects = Effects::default();
        self.client().handle_peer_died(self.now(), peer, &mut effects);
        self.server().handle_peer_died(peer, &mut effects);
        self.perform(effects);
    }

    /// A client's session may have ended, or be another one. While it has none (`is_here`, which may ask the
    /// transport) it may come back: what it may ask again is kept while there is room. Its streams end, as a
    /// new session does not bring their items back.
    #[doc(hidden)]
    pub fn handle_presence(&self, peer: PeerId, is_here: impl FnOnce() -> bool) {
        let mut effects = Effects::default();
        let mut server = self.server();
        // Under the lock: the last one to ask has the newest answer.
        if is_here() {
            return server.handle_peer_back(peer);
        }
        server.handle_peer_away(self.now(), peer, &mut effects);
        let due = server.poll_timeout();
        drop(server);
        self.perform(effects);
        if let Some(due) = due {
            self.transport.timer_at(due);
        }
    }

    /// This node goes: every call that is open ends now, those of others with their cancellation.
    #[doc(hidden)]
    pub fn handle_end(&self) {
        let (asked, asking) = (self.client().peers(), self.server().peers());
        for peer in asked.into_iter().chain(asking) {
            self.handle_peer_died(peer);
        }
    }

    /// Serves nothing any more. Services go when the last of their calls has ended.
    #[doc(hidden)]
    pub fn stop_serving(&self) {
        let served = self.server().take_services();
        // Without the lock: a service may own the last handle on the node.
        drop(served);
    }

    /// The session with this start of the peer is new; what was on the way is lost. Asks again.
    #[doc(hidden)]
    pub fn handle_peer_reset(&self, peer: PeerId) {
        let mut effects = Effects::default();
        self.client().handle_peer_reset(self.now(), peer, &mut effects);
        self.perform(effects);
    }

    /// Ends what is over its time, and shows that long calls live.
    #[doc(hidden)]
    pub fn handle_timeout(&self) {
        let now = self.now();
        let mut effects = Effects::default();
        self.client().handle_timeout(now, &mut effects);
        self.server().handle_timeout(now, &mut effects);
        self.perform(effects);
    }

    /// When [`Endpoint::handle_timeout`] is due.
    #[doc(hidden)]
    pub fn poll_timeout(&self) -> Option<Time> {
        let (client, server) = (self.client().poll_timeout(), self.server().poll_timeout());
        [client, server].into_iter().flatten().min()
    }

    /// Whether futures wait for answers.
    #[doc(hidden)]
    pub fn has_tasks(&self) -> bool {
        self.client().has_tasks()
    }

    /// Runs the calls that are queued, in this thread, until none is left. Answers to one peer are sent
    /// together, but none waits for a method that may take long. Returns how many calls ran.
    #[doc(hidden)]
    pub fn run_ready(&self) -> usize {
        self.run_jobs(Rank::Program)
    }

    /// The same for calls of the system's own interfaces only.
    #[doc(hidden)]
    pub fn run_system(&self) -> usize {
        self.run_jobs(Rank::System)
    }

    fn run_jobs(&self, down_to: Rank) -> usize {
        let mut ran = 0;
        let mut replies = Vec::new();
        self.serving.fetch_add(1, Ordering::AcqRel);
        while let Some(job) = self.next_job(down_to, &mut replies) {
            if job.is_slow() {
                self.flush(&mut replies);
                // Nobody is woken for what stood behind a short one.
                self.rouse(usize::from(self.queue_len() > 0));
            }
            self.run(job, &mut replies);
            ran += 1;
        }
        self.flush(&mut replies);
        self.serving.fetch_sub(1, Ordering::AcqRel);
        ran
    }

    /// Whether a method runs, or its answer has not been handed to the transport yet.
    #[doc(hidden)]
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire) > 0
    }

    /// Wakes as many sleeping workers as there are calls, and returns how many that were. If they were too
    /// few, who runs the system's calls is woken for those.
    #[doc(hidden)]
    pub fn rouse(&self, calls: usize) -> usize {
        let roused = (0..calls).take_while(|_| self.arrived.notify_one()).count();
        if roused < calls && self.server().has_work_of_system() {
            self.system_arrived.notify_one();
        }
        roused
    }

    /// How many calls wait for a worker.
    #[doc(hidden)]
    pub fn queue_len(&self) -> usize {
        self.server().queue_len()
    }

    /// Bytes of the answers that are kept in case they are asked for again.
    #[doc(hidden)]
    pub fn kept_bytes(&self) -> usize {
        self.server().kept_bytes()
    }

    /// Whether the next call in the queue may hold its worker for long.
    #[doc(hidden)]
    pub fn is_next_slow(&self) -> bool {
        self.server().is_next_slow()
    }

    /// Waits in this thread for calls, until one is queued or `done` says to stop; see [`super::Workers`].
    #[doc(hidden)]
    pub fn wait_for_calls(&self, done: impl Fn() -> bool) {
        let mut server = self.server.lock();
        while server.queue_len() + server.deferred_len() == 0 && !done() {
            self.arrived.wait(&mut server);
        }
    }

    /// The same for calls of the system's own interfaces that found no worker, and for code of others.
    #[doc(hidden)]
    pub fn wait_for_system_calls(&self, done: impl Fn() -> bool) {
        let mut server = self.server.lock();
        while !server.has_work_of_system() && !done() {
            self.system_arrived.wait(&mut server);
        }
    }

    /// Wakes all threads in [`Endpoint::wait_for_calls`], to ask again whether to stop.
    #[doc(hidden)]
    pub fn wake_workers(&self) {
        // The lock: no worker may be between its question and its sleep.
        let _server = self.server();
        self.arrived.notify_all();
        self.system_arrived.notify_all();
    }

    fn next_job(&self, down_to: Rank, replies: &mut Vec<(PeerId, Vec<u8>)>) -> Option<Job> {
        loop {
            let mut effects = Effects::default();
            let mut server = self.server();
            if server.deferred_len() == 0 {
                let job = server.take_job(self.now(), down_to, &mut effects);
                drop(server);
                self.perform(effects);
                return job;
            }
            drop(server);
            // What may take long holds up no answer and no call.
            self.flush(replies);
            self.rouse(usize::from(self.queue_len() > 0));
            self.run_deferred();
        }
    }

    /// Leaves to a worker what may take locks, fault or call: log lines.
    #[doc(hidden)]
    pub fn defer(&self, run: impl FnOnce() + Send + 'static) {
        self.server().defer(Deferred::Run(Box::new(run)));
        self.rouse(1);
    }

    /// How much was left to workers and has not begun to run: wakers of futures, log lines.
    #[doc(hidden)]
    pub fn deferred_len(&self) -> usize {
        self.server().deferred_len()
    }

    /// Runs it in this thread, which must be in no section and have no lock.
    #[doc(hidden)]
    pub fn run_deferred(&self) {
        let deferred = self.server().take_deferred();
        deferred.into_iter().for_each(Deferred::run);
    }

    fn run(&self, job: Job, replies: &mut Vec<(PeerId, Vec<u8>)>) {
        let method = job.method();
        let span = tracing::debug_span!("rpc", interface = method.interface, method = method.name, peer = %job.from.node);
        let _entered = span.enter();
        let job_peer = job.from;
        let started = self.now();
        let at = match replies.iter().position(|(peer, _)| *peer == job.from) {
            Some(at) => at,
            None => {
                replies.push((job.from, Vec::new()));
                replies.len() - 1
            }
        };
        let out = &mut replies[at].1;
        let start = out.len();
        out.resize(start + HEADER_LEN, 0);
        let (status, items) = self.dispatch(&job, out, start + HEADER_LEN);
        let mut frame = Frame::new(FrameKind::Reply, job.sequence, items);
        frame.aux = status as u16;
        let len = out.len() - start - HEADER_LEN;
        frame.write_header(&mut out[start..], len);
        job.served.stats[job.method].ran(self.now().since(started), status != Status::Done);
        let oneway = job.flags & ONEWAY != 0;
        let served = self.server().finish(job, &out[start..]);
        // Without the lock: a service may own the last handle on the node.
        drop(served);
        if oneway {
            out.truncate(start);
        }
        if out.len() > CALL_LEN_MAX {
            // Each of them may be sent, but not together.
            let own = out.split_off(start);
            replies.push((job_peer, own));
            self.flush(replies);
        } else if out.len() > GATHER_LEN_MAX {
            self.flush(replies);
        }
    }

    /// Runs the method; its answer stands behind `body` in `out`.
    fn dispatch(&self, job: &Job, out: &mut Vec<u8>, body: usize) -> (Status, u64) {
        let context = Context::new(self, job);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut reply = Reply::new(out);
            let mut from = Decoder::new(&job.body);
            let decoded = job.served.service.dispatch(job.method, &context, &mut from, &mut reply);
            (decoded, reply.status, reply.items)
        }));
        let text = match outcome {
            Ok((Ok(()), status, items)) if out.len() - body <= CALL_LEN_MAX - HEADER_LEN => {
                return (status, items);
            }
            Ok((Ok(()), _, _)) => format!("the answer is longer than {CALL_LEN_MAX} bytes"),
            Ok((Err(error), _, _)) => {
                self.server().counters.malformed += 1;
                format!("the arguments do not decode: {error}")
            }
            Err(panic) => format!("the method panicked: {}", panic_text(&*panic)),
        };
        out.truncate(body);
        out.extend_from_slice(text.as_bytes());
        (Status::Remote, 0)
    }

    fn flush(&self, replies: &mut Vec<(PeerId, Vec<u8>)>) {
        let is_full = |(peer, message): &(PeerId, Vec<u8>)| {
            // Who cannot be reached has no call open any more.
            !message.is_empty() && self.send(*peer, message) == Err(SendError::Full)
        };
        // First whom nothing keeps from being answered.
        replies.retain(is_full);
        for (peer, message) in replies.drain(..) {
            let _ = self.send_when_room(peer, &message);
        }
    }

    /// Sends what its peer waits for. Nobody asks again for what is only dropped here, so a full queue makes
    /// this worker wait until there is room or the session has ended; a peer that is not reachable has no call
    /// open any more.
    pub(super) fn send_when_room(&self, peer: PeerId, message: &[u8]) -> Result<(), SendError> {
        let mut outcome = self.send(peer, message);
        let mut taken = (outcome == Err(SendError::Full)).then(|| (self.transport.taken(peer), self.now()));
        while let Some((before, since)) = taken
            && outcome == Err(SendError::Full)
        {
            // Nobody sets it: the queue empties while datagrams are received.
            self.transport.wait(&self.signal(), Some(self.now() + ROOM_AGAIN));
            let now = self.now();
            if now.since(since) > ROOM_WAIT_MAX {
                let after = self.transport.taken(peer);
                if after == before {
                    self.transport.give_up(peer);
                }
                taken = Some((after, now));
            }
            outcome = self.send(peer, message);
        }
        outcome
    }

    /// Gathers the requests that are started until the batch is dropped.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let together = dsm.calls().batch();
    /// let call = GreeterCalls::new(dsm.channel(Policy::RoundRobin)).greet("Ada");
    /// drop(together);
    /// call.wait()?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn batch(&self) -> Batch<'_> {
        self.gathering.fetch_add(1, Ordering::Relaxed);
        Batch { endpoint: self }
    }

    /// Opens a call and sends its request.
    pub(super) fn start(&self, start: Start, request: &mut [u8]) -> Result<Ticket, ErrorKind> {
        let now = self.now();
        let peer = start.peer;
        if request.len() > CALL_LEN_MAX {
            return Err(ErrorKind::Remote(format!("the arguments are longer than {CALL_LEN_MAX} bytes")));
        }
        let mut client = self.client();
        let earliest = client.poll_timeout();
        let (ticket, sequence) = client.start(now, start, request)?;
        let due = client.poll_timeout();
        drop(client);
        if let Some(due) = due
            && earliest.is_none_or(|earliest| due < earliest)
        {
            self.transport.timer_at(due);
        }
        if let Err(error) = self.send_or_gather(peer, request) {
            let mut effects = Effects::default();
            self.client().handle_unsent(now, (ticket, (peer, sequence)), error, &mut effects);
            self.perform(effects);
        }
        Ok(ticket)
    }

    /// Sends a call without an answer.
    pub(super) fn start_oneway(
        &self,
        method: &'static Method,
        peer: PeerId,
        request: &mut [u8],
    ) -> Result<(), ErrorKind> {
        debug_assert!(request.len() >= CALL_HEADER_LEN);
        if request.len() > CALL_LEN_MAX {
            return Err(ErrorKind::Remote(format!("the arguments are longer than {CALL_LEN_MAX} bytes")));
        }
        self.client().start_oneway(method, peer, request);
        self.send_or_gather(peer, request).map_err(unsent)
    }

    fn send_or_gather(&self, peer: PeerId, request: &[u8]) -> Result<(), SendError> {
        if self.gathering.load(Ordering::Relaxed) == 0 {
            return self.send(peer, request);
        }
        let mut gathered = self.gathered.lock();
        // Who ends the last batch takes the lock afterwards, and sends what is put here before.
        if self.gathering.load(Ordering::Relaxed) == 0 {
            drop(gathered);
            return self.send(peer, request);
        }
        let fits =
            |message: &[u8]| message.len() < GATHER_LEN_MAX && message.len() + request.len() <= CALL_LEN_MAX;
        match gathered.iter_mut().find(|(to, message)| *to == peer && fits(message)) {
            Some((_, message)) => message.extend_from_slice(request),
            None => gathered.push((peer, request.to_vec())),
        }
        let is_full = gathered.len() >= GATHERED_MAX;
        drop(gathered);
        if is_full {
            self.flush_batches();
        }
        Ok(())
    }

    /// Whether batches have gathered something that was not sent yet.
    pub(super) fn has_gathered(&self) -> bool {
        !self.gathered.lock().is_empty()
    }

    /// Sends what batches have gathered so far. A thread does it before it waits.
    #[doc(hidden)]
    pub fn flush_batches(&self) {
        if fork::is_child() || !self.has_gathered() {
            return;
        }
        // Without the lock: what a failure wakes may start calls.
        let gathered = std::mem::take(&mut *self.gathered.lock());
        for (peer, message) in gathered {
            if let Err(error) = self.send(peer, &message) {
                self.fail_gathered(peer, &message, error);
            }
        }
    }

    /// A gathered message could not be sent: its calls end as they would have at once.
    fn fail_gathered(&self, peer: PeerId, message: &[u8], error: SendError) {
        let mut effects = Effects::default();
        let mut rest = message;
        while let Ok((frame, behind)) = Frame::decode(rest) {
            rest = behind;
            let mut client = self.client();
            if frame.flags & ONEWAY != 0 {
                drop(client);
                self.server().counters.dropped += 1;
            } else if let Some(ticket) = client.ticket(peer, frame.sequence) {
                let attempt = (ticket, (peer, frame.sequence));
                client.handle_unsent(self.now(), attempt, error, &mut effects);
            }
        }
        self.perform(effects);
        self.offer_deferred();
    }

    /// Has a worker, or the thread for futures, look at what this thread has left to them.
    #[doc(hidden)]
    pub fn offer_deferred(&self) {
        if self.deferred_len() > 0 {
            self.rouse(1);
            self.transport.attend();
        }
    }

    /// Does what a core asked for, without its lock. Wakers wait for a worker: this thread may be in a section
    /// of its node.
    pub(super) fn perform(&self, mut effects: Effects) {
        for (peer, message) in effects.sends.drain(..) {
            if self.send(peer, &message) == Err(SendError::Full) {
                let at = self.server().delay(self.now(), peer, message);
                self.transport.timer_at(at);
            }
            // Any other error: its peer is dead, or begins anew with the next session.
        }
        if !effects.requests.is_empty() {
            self.send_requests(&mut effects);
        }
        for waiter in effects.wakes {
            match waiter {
                Waiter::None => {}
                Waiter::Thread(signal) => {
                    signal.set();
                    self.transport.notify(&signal);
                }
                Waiter::Task(waker) => self.server().defer(Deferred::Wake(waker)),
            }
        }
    }

    /// Sends requests for which this is not the first attempt.
    fn send_requests(&self, effects: &mut Effects) {
        let mut client = self.client();
        while let Some((peer, ticket)) = effects.requests.pop() {
            let Some((request, sequence)) = client.request(peer, ticket) else { continue };
            // Under the lock, as the trait allows: this is rare.
            if let Err(error) = self.transport.send(peer, request) {
                client.handle_unsent(self.now(), (ticket, (peer, sequence)), error, effects);
            }
        }
        let due = client.poll_timeout();
        drop(client);
        if let Some(due) = due {
            self.transport.timer_at(due);
        }
    }

    /// The calling thread's signal, ready for a wait.
    pub(super) fn signal(&self) -> Arc<Signal> {
        let signal = SIGNAL.with(Arc::clone);
        signal.clear();
        signal
    }

    /// The time of the transport.
    #[doc(hidden)]
    pub fn now(&self) -> Time {
        self.transport.now()
    }

    /// What happened that nobody asked for.
    #[doc(hidden)]
    pub fn counters(&self) -> Counters {
        self.server().counters
    }

    /// What each method did since the node started.
    #[doc(hidden)]
    pub fn statistics(&self) -> Vec<(&'static Method, MethodReading)> {
        if fork::is_child() {
            return Vec::new();
        }
        let served = self.server().served();
        let read = |(served, method): (_, &'static Method)| (method, MethodReading::clone(&served));
        let methods = served.iter().flat_map(|served| {
            let methods = served.service.interface().methods;
            served.stats.iter().map(|stats| stats.read()).zip(methods)
        });
        methods.map(read).collect()
    }

    /// The interfaces that are served here.
    #[doc(hidden)]
    pub fn interfaces(&self) -> Vec<&'static super::Interface> {
        self.server().served().iter().map(|served| served.service.interface()).collect()
    }

    pub(super) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }

    pub(super) fn server(&self) -> Held<'_, ServerCore> {
        Held::lock(&self.server)
    }

    pub(super) fn client(&self) -> Held<'_, ClientCore> {
        Held::lock(&self.client)
    }

    pub(super) fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), SendError> {
        self.transport.send(peer, message)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.endpoint.gathering.fetch_sub(1, Ordering::Relaxed);
        self.endpoint.flush_batches();
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

/// Why a request that never left failed.
fn unsent(error: SendError) -> ErrorKind {
    match error {
        SendError::Unreachable => ErrorKind::Unreachable { may_have_executed: false },
        SendError::Full => ErrorKind::Busy,
        SendError::TooLong => ErrorKind::Remote(error.to_string()),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
