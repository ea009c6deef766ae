//! The shell of the calls: one per node. It owns their lock, sends what they say, wakes whom they name, and runs
//! methods in the thread that asks for work, so that the node decides which that is.
//!
//! A call from a blocked thread costs two datagrams and, if that thread receives the answer itself (see
//! [`Port::wait`]), one wake-up on each side. No lock is held while a method runs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::codec::DecodeError;
use crate::config::rpc::{
    CALL_LEN_MAX, GATHER_LEN_MAX, GATHERED_MAX, ROOM_AGAIN, ROOM_WAIT_MAX, SYSTEM_CALLS_MAX,
};
use crate::fork;
use crate::page::{PeerId, Span, Time};

use super::callers::{CallCell, Deferred};
use super::context::{Context, Reply};
use super::core::frame::{CALL_HEADER_LEN, Frame, FrameKind, HEADER_LEN, ONEWAY};
use super::core::stats::MethodReading;
use super::core::{Calls, Counters, Job, Rank, SendError, ServiceId, Start, Status, Ticket};
use super::error::{Error, ErrorKind};
use super::interface::{Interface, Method, Service};
use super::port::{Port, State};
use super::signal::Signal;
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
    port: Arc<dyn Port>,
    /// By [`ServiceId`]. Held for moments, while no other lock is.
    services: Mutex<Vec<Option<Arc<dyn Service>>>>,
    /// Threads in [`Endpoint::run_ready`].
    serving: AtomicUsize,
    next_ticket: AtomicU64,
    gathering: AtomicUsize,
    /// Held for moments, while no other lock is.
    gathered: Mutex<Gathered>,
}

/// Requests of batches that have not been sent.
#[derive(Default)]
struct Gathered {
    calls: Vec<Opened>,
    /// Their requests, one behind the other.
    bytes: Vec<u8>,
}

/// A call that is about to be started.
struct Opened {
    what: What,
    /// Bytes of its request.
    len: usize,
}

enum What {
    Call(Ticket, Arc<CallCell>, Start),
    Oneway(&'static Method, PeerId),
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

impl Endpoint {
    /// The calls that `port` owns.
    #[doc(hidden)]
    pub fn over(port: Arc<dyn Port>) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            port,
            services: Mutex::default(),
            serving: AtomicUsize::new(0),
            next_ticket: AtomicU64::new(0),
            gathering: AtomicUsize::new(0),
            gathered: Mutex::default(),
        })
    }

    /// Does something to the calls, then what follows from it: messages are sent, and threads woken.
    /// Panics in a forked child, where another thread of the parent may have left the calls locked.
    pub(super) fn with<R>(&self, act: impl FnOnce(Time, &mut State<'_>) -> R) -> R {
        fork::assert_not_child();
        let (mut act, mut result) = (Some(act), None);
        self.port.enter(&mut |now, state| result = act.take().map(|act| act(now, state)));
        result.expect("a port enters once")
    }

    /// Looks at the calls, from which nothing follows.
    fn look<R>(&self, look: impl FnOnce(&Calls) -> R) -> R {
        self.with(|_, state| look(state.calls))
    }

    /// Serves an interface. At most `calls_max` of its calls wait or run at one time; more are `Busy`.
    /// One interface has one server on a node: a second is a broken program.
    #[doc(hidden)]
    pub fn serve(&self, service: impl Service, calls_max: usize) {
        self.register(Arc::new(service), calls_max, Rank::Program);
    }

    /// Serves an interface of the system's own: its calls, which are short, run before all others, and by
    /// [`Endpoint::run_system`] even when every worker is held up.
    #[doc(hidden)]
    pub fn serve_system(&self, service: impl Service) {
        self.register(Arc::new(service), SYSTEM_CALLS_MAX, Rank::System);
    }

    fn register(&self, service: Arc<dyn Service>, calls_max: usize, rank: Rank) {
        // Its calls may come at once: the service must be there before.
        let mut services = self.services.lock();
        let (interface, number) = (service.interface(), services.len());
        services.push(Some(service));
        let id = self.with(|_, state| state.calls.serve(interface, calls_max, rank));
        assert_eq!(id.0 as usize, number, "services have the numbers that the calls know");
    }

    fn service(&self, id: ServiceId) -> Option<Arc<dyn Service>> {
        self.services.lock()[id.0 as usize].clone()
    }

    /// Takes a message of a peer. Answers wake their callers; calls are queued, workers are woken for
    /// them, and their number is returned.
    /// An error is a message that no peer of ours writes: the session should end.
    #[doc(hidden)]
    pub fn handle_message(&self, from: PeerId, message: &[u8]) -> Result<usize, DecodeError> {
        self.with(|now, state| {
            let before = state.calls.queue_len();
            let outcome = state.calls.handle_message(now, from, message);
            outcome.map(|()| state.calls.queue_len().saturating_sub(before))
        })
    }

    /// This start of the peer is dead. Every call to it ends now.
    #[doc(hidden)]
    pub fn handle_peer_died(&self, peer: PeerId) {
        self.with(|now, state| state.calls.handle_peer_died(now, peer));
    }

    /// This client has no session now, and may come back.
    #[doc(hidden)]
    pub fn handle_peer_away(&self, peer: PeerId) {
        self.with(|now, state| state.calls.handle_peer_away(now, peer));
    }

    /// This client has a session.
    #[doc(hidden)]
    pub fn handle_peer_back(&self, peer: PeerId) {
        self.with(|_, state| state.calls.handle_peer_back(peer));
    }

    /// This node goes: every call that is open ends now, those of others with their cancellation.
    #[doc(hidden)]
    pub fn handle_end(&self) {
        self.with(|now, state| state.calls.handle_end(now));
    }

    /// Serves nothing any more. Calls that wait for a worker are cancelled; services go when those that run have ended.
    #[doc(hidden)]
    pub fn stop_serving(&self) {
        self.with(|_, state| state.calls.stop_serving());
        // Jobs that have been taken have their own references.
        let served: Vec<_> = self.services.lock().iter_mut().map(Option::take).collect();
        // Without the lock: a service may own the last handle on the node.
        drop(served);
    }

    /// The session with this start of the peer is new; what was on the way is lost. Asks again.
    #[doc(hidden)]
    pub fn handle_peer_reset(&self, peer: PeerId) {
        self.with(|now, state| state.calls.handle_peer_reset(now, peer));
    }

    /// Ends what is over its time, and shows that long calls live.
    #[doc(hidden)]
    pub fn handle_timeout(&self) {
        self.with(|now, state| state.calls.handle_timeout(now));
    }

    /// When [`Endpoint::handle_timeout`] is due.
    #[doc(hidden)]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.look(Calls::poll_timeout)
    }

    /// Runs the calls that are queued, in this thread, until none is left. Answers to one peer are sent
    /// together, but none waits for a method that may take long. Returns how much ran: calls,
    /// and what was left to workers.
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
        while let Some(job) = self.next_job(down_to, &mut replies, &mut ran) {
            if job.is_slow {
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
        self.port.rouse(calls)
    }

    /// How many calls wait for a worker.
    #[doc(hidden)]
    pub fn queue_len(&self) -> usize {
        self.look(Calls::queue_len)
    }

    /// Bytes of the answers that are kept in case they are asked for again.
    #[doc(hidden)]
    pub fn kept_bytes(&self) -> usize {
        self.look(Calls::kept_bytes)
    }

    /// Whether the next call in the queue may hold its worker for long.
    #[doc(hidden)]
    pub fn is_next_slow(&self) -> bool {
        self.look(Calls::is_next_slow)
    }

    /// Waits in this thread for calls, until one is queued or `done` says to stop; see [`super::Workers`].
    #[doc(hidden)]
    pub fn wait_for_calls(&self, done: impl Fn() -> bool) {
        self.port.wait_for_work(Rank::Program, &done);
    }

    /// The same for calls of the system's own interfaces that found no worker, and for code of others.
    #[doc(hidden)]
    pub fn wait_for_system_calls(&self, done: impl Fn() -> bool) {
        self.port.wait_for_work(Rank::System, &done);
    }

    /// Wakes all threads in [`Endpoint::wait_for_calls`], to ask again whether to stop.
    #[doc(hidden)]
    pub fn wake_workers(&self) {
        self.port.wake_workers();
    }

    fn next_job(&self, down_to: Rank, replies: &mut Vec<(PeerId, Vec<u8>)>, ran: &mut usize) -> Option<Job> {
        loop {
            let job = self.with(|now, state| {
                if state.callers.deferred_len() > 0 {
                    return Err(state.calls.queue_len());
                }
                Ok(state.calls.take_job(now, down_to))
            });
            match job {
                Ok(job) => return job,
                Err(queued) => {
                    // What may take long holds up no answer and no call.
                    self.flush(replies);
                    self.rouse(queued.min(1));
                    self.run_deferred();
                    *ran += 1;
                }
            }
        }
    }

    /// Leaves to a worker what may take locks, fault or call: log lines.
    #[doc(hidden)]
    pub fn defer(&self, run: impl FnOnce() + Send + 'static) {
        self.with(|_, state| state.callers.defer(Deferred::Run(Box::new(run))));
    }

    /// Runs it in this thread, which must be in no section and have no lock.
    #[doc(hidden)]
    pub fn run_deferred(&self) {
        let deferred = self.with(|_, state| state.callers.take_deferred());
        deferred.into_iter().for_each(Deferred::run);
    }

    fn run(&self, job: Job, replies: &mut Vec<(PeerId, Vec<u8>)>) {
        let method = job.method;
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
        let oneway = job.flags & ONEWAY != 0;
        self.with(|now, state| {
            state.calls.ran(&job, now.since(started), status != Status::Done);
            state.callers.forget_permit(job.from, job.sequence);
            state.calls.finish(job, &out[start..]);
        });
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
        let Some(service) = self.service(job.service) else {
            // It was queued when the node still served it.
            return (Status::Cancelled, 0);
        };
        let context = Context::new(self, job);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut reply = Reply::new(out);
            let mut from = Decoder::new(&job.body);
            let decoded = service.dispatch(job.index, &context, &mut from, &mut reply);
            (decoded, reply.status, reply.items)
        }));
        let text = match outcome {
            Ok((Ok(()), status, items)) if out.len() - body <= CALL_LEN_MAX - HEADER_LEN => {
                return (status, items);
            }
            Ok((Ok(()), _, _)) => format!("the answer is longer than {CALL_LEN_MAX} bytes"),
            Ok((Err(error), _, _)) => {
                self.with(|_, state| state.calls.count_malformed());
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
        let mut taken = (outcome == Err(SendError::Full)).then(|| (self.port.taken(peer), self.now()));
        while let Some((before, since)) = taken
            && outcome == Err(SendError::Full)
        {
            // Nobody sets it: the queue empties while datagrams are received.
            self.port.wait(&self.signal(), Some(self.now() + ROOM_AGAIN));
            let now = self.now();
            if now.since(since) > ROOM_WAIT_MAX {
                let after = self.port.taken(peer);
                if after == before {
                    self.port.give_up(peer);
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

    /// Opens a call and sends its request, or gathers it. Its outcome comes into the cell.
    pub(super) fn start(&self, start: Start, request: &[u8]) -> (Ticket, Arc<CallCell>) {
        let ticket = Ticket(self.next_ticket.fetch_add(1, Ordering::Relaxed));
        let cell = Arc::new(CallCell::default());
        if request.len() > CALL_LEN_MAX {
            let kind = ErrorKind::Remote(format!("the arguments are longer than {CALL_LEN_MAX} bytes"));
            let (method, peer) = (Some(start.method), Some(start.peer));
            cell.refuse(Err(Error { kind, method, peer, spent: Span(0) }));
            return (ticket, cell);
        }
        let opened = Opened { what: What::Call(ticket, cell.clone(), start), len: request.len() };
        if let Some(Opened { what: What::Call(ticket, cell, start), .. }) = self.gather(opened, request) {
            self.with(|now, state| open(state, now, (ticket, cell), start, request));
        }
        (ticket, cell)
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
        let opened = Opened { what: What::Oneway(method, peer), len: request.len() };
        if self.gather(opened, request).is_none() {
            return Ok(());
        }
        self.with(|_, state| state.calls.start_oneway(method, peer, request));
        self.send(peer, request).map_err(unsent)
    }

    /// Puts the request aside while there is a batch; else it comes back.
    fn gather(&self, opened: Opened, request: &[u8]) -> Option<Opened> {
        if self.gathering.load(Ordering::Relaxed) == 0 {
            return Some(opened);
        }
        let mut gathered = self.gathered.lock();
        // The thread that ends the last batch takes the lock afterwards, and sends what is put here before.
        if self.gathering.load(Ordering::Relaxed) == 0 {
            return Some(opened);
        }
        gathered.bytes.extend_from_slice(request);
        gathered.calls.push(opened);
        let is_full = gathered.bytes.len() >= GATHERED_MAX * GATHER_LEN_MAX;
        drop(gathered);
        if is_full {
            self.flush_batches();
        }
        None
    }

    /// Sends what batches have gathered so far. A thread does it before it waits.
    #[doc(hidden)]
    pub fn flush_batches(&self) {
        if fork::is_child() {
            return;
        }
        let Gathered { calls, mut bytes } = std::mem::take(&mut *self.gathered.lock());
        if calls.is_empty() {
            return;
        }
        self.with(|now, state| {
            let mut rest = &mut bytes[..];
            for Opened { what, len } in calls {
                let (request, behind) = rest.split_at_mut(len);
                rest = behind;
                match what {
                    What::Call(ticket, cell, start) => open(state, now, (ticket, cell), start, request),
                    What::Oneway(method, peer) => {
                        state.calls.start_oneway(method, peer, request);
                        state.calls.send(peer, request);
                    }
                }
            }
        });
    }

    /// The caller waits for the call no longer.
    pub(super) fn cancel(&self, ticket: Ticket) {
        // One that was only gathered is sent, and cancelled: its place in the batch is known to nobody.
        self.flush_batches();
        self.with(|_, state| {
            state.callers.forget(ticket);
            state.calls.cancel(ticket);
        });
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
        self.port.now()
    }

    /// What happened that nobody asked for.
    #[doc(hidden)]
    pub fn counters(&self) -> Counters {
        self.look(Calls::counters)
    }

    /// What each method did since the node started.
    #[doc(hidden)]
    pub fn statistics(&self) -> Vec<(&'static Method, MethodReading)> {
        if fork::is_child() {
            return Vec::new();
        }
        self.look(Calls::statistics)
    }

    /// The interfaces that are served here.
    #[doc(hidden)]
    pub fn interfaces(&self) -> Vec<&'static Interface> {
        self.look(Calls::interfaces)
    }

    pub(super) fn port(&self) -> &dyn Port {
        &*self.port
    }

    pub(super) fn send(&self, peer: PeerId, message: &[u8]) -> Result<(), SendError> {
        self.port.send(peer, message)
    }
}

fn open(
    state: &mut State<'_>,
    now: Time,
    (ticket, cell): (Ticket, Arc<CallCell>),
    start: Start,
    request: &[u8],
) {
    state.callers.expect(ticket, cell);
    state.calls.start(now, ticket, start, request);
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
