//! Calls between nodes: the node's sessions carry them, and its workers run them.
//!
//! The calls have locks of their own (`crate::rpc`), which are taken before the node's. So what the cores
//! find for them is put aside under the node's lock and handled without it ([`Inner::handle_calls`]), by
//! whoever receives.
//!
//! Workers are leaders and followers. The leader receives for the node, like every thread that waits;
//! when calls come it passes the socket on and runs them itself, so that no wake-up lies between a
//! datagram and its method. How it passes the socket on depends on what is known of the method:
//! one that takes microseconds leaves it to nobody ([`Receiver::Nobody`]), and whoever waits, or the
//! progress thread at its next look, takes it; any other gives it to the progress thread. A thread
//! that waits for something relieves the leader: its own answer must cost one wake-up, not two.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigmaskHow;
use parking_lot::MutexGuard;
use smallvec::SmallVec;

use super::collective::Mailbox;
use super::directory::Directory;
use super::leaving::current_thread;
use super::poller::drain;
use super::pump::Receiver;
use super::{Inner, Locked, Node, receive_buffer, time_since, time_slice};
use crate::coherence::OpId;
use crate::error::{Error, Result};
use crate::fault::{CoreSection, asynchronous};
use crate::fork;
use crate::machine::{CallEvent, CallRefused, Machine, Outcome};
use crate::membership::{ElementType, Opened, RegionRecord, RegionUse};
use crate::page::{GlobalAddr, NodeId, Time};
use crate::rpc::{CallSection, Channel, Endpoint, GUEST, PeerId, SendError, Signal, Transport};

/// The calls of a node.
pub(super) struct Calls {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) directory: Directory,
    pub(super) mailbox: Mailbox,
    /// When the calls' timers are due.
    due: AtomicU64,
    workers: Vec<Worker>,
}

/// A worker, and the descriptor that wakes it.
struct Worker {
    wake: EventFd,
    /// Somebody else receives, calls are queued, or a timer is due earlier.
    interrupted: AtomicBool,
}

/// The work that events have brought to the calls.
#[derive(Default)]
struct Handled {
    /// Calls, and code of others, that wait for a worker now.
    queued: usize,
    /// Who sent what no peer sends.
    violators: SmallVec<[PeerId; 1]>,
}

impl Calls {
    /// The calls of the node behind `node`, to be run by so many workers.
    pub(super) fn new(node: Weak<Inner>, clock: Instant, workers: Vec<EventFd>) -> Calls {
        let worker = |wake| Worker { wake, interrupted: AtomicBool::new(false) };
        Calls {
            endpoint: Endpoint::new(Arc::new(Carrier { node, clock })),
            directory: Directory::default(),
            mailbox: Mailbox::default(),
            due: AtomicU64::new(u64::MAX),
            workers: workers.into_iter().map(worker).collect(),
        }
    }

    /// When the timers are due.
    pub(super) fn due(&self) -> Time {
        Time(self.due.load(Ordering::Acquire))
    }

    /// Without the node's lock.
    fn handle(
        &self,
        events: SmallVec<[CallEvent; 2]>,
        now: Time,
        is_here: impl Fn(PeerId) -> bool,
    ) -> Handled {
        let mut handled = Handled::default();
        for event in events {
            match event {
                CallEvent::Message(from, bytes) => {
                    match self.endpoint.admit_message(from, &bytes) {
                        Ok(queued) => handled.queued += queued,
                        Err(_) => {
                            // What stood before the garbage may be a call that is queued.
                            handled.queued += 1;
                            handled.violators.push(from);
                        }
                    }
                    if from.node == GUEST {
                        // Another thread may have handled the end of the session first.
                        self.endpoint.handle_presence(from, || is_here(from));
                    }
                }
                CallEvent::Ended(peer) => {
                    self.directory.forget(peer);
                    self.mailbox.note_departure();
                    self.endpoint.handle_peer_died(peer);
                }
                CallEvent::Away(peer) => self.endpoint.handle_presence(peer, || is_here(peer)),
                CallEvent::AllEnded => {
                    self.endpoint.handle_end();
                    self.directory.end();
                    self.mailbox.end();
                }
            }
        }
        let due = self.due() <= now;
        if due {
            // Forgotten first: a timer that is set meanwhile must not be lost.
            self.due.store(u64::MAX, Ordering::Release);
            self.endpoint.handle_timeout();
        }
        let has_calls = handled.queued > 0;
        handled.queued += self.endpoint.deferred_len();
        // A call may have come with a sign of life to be given.
        if due || has_calls {
            let next = self.endpoint.poll_timeout().map_or(u64::MAX, |due| due.0);
            self.due.fetch_min(next, Ordering::AcqRel);
        }
        handled
    }
}

impl Inner {
    /// Gives the calls what the cores found for them, and the time. Returns how many calls were queued for
    /// workers, of which none was woken.
    pub(super) fn handle_calls(&self, locked: &mut MutexGuard<'_, Locked>) -> usize {
        if CallSection::is_open() {
            // In a signal handler, which interrupted this thread while it had a lock of the calls.
            self.leave_calls(locked);
            return 0;
        }
        let mut queued = 0;
        loop {
            let events = locked.machine.take_calls();
            if events.is_empty() && (self.calls.due() == Time(u64::MAX) || self.calls.due() > self.now()) {
                return queued;
            }
            let now = self.now();
            let is_here = |peer| self.with_machine(|machine| machine.session_of(peer).is_some());
            let handled = MutexGuard::unlocked(locked, || self.calls.handle(events, now, is_here));
            queued += handled.queued;
            for peer in &handled.violators {
                locked.machine.call_violation(*peer);
            }
            if !handled.violators.is_empty() {
                self.settle(locked, now);
            }
        }
    }

    /// The same, for a thread that runs no calls: workers are woken.
    pub(super) fn hand_out_calls(&self, locked: &mut MutexGuard<'_, Locked>) -> usize {
        let queued = self.handle_calls(locked);
        let roused = self.calls.endpoint.rouse(queued);
        // A worker that did not sleep may have begun to lead meanwhile, and have found no call.
        if roused < queued
            && let Receiver::Worker(_) = locked.receiver
        {
            self.wake_receiver(locked);
        }
        queued
    }

    /// Leaves what has come for the calls to the progress thread.
    pub(super) fn leave_calls(&self, locked: &Locked) {
        if locked.machine.has_calls() {
            self.poller.wake();
        }
    }

    /// The leading worker goes back to the lock: it must not take datagrams that a thread waits for, and
    /// must run what others have queued.
    pub(super) fn interrupt_worker(&self, worker: usize) {
        let worker = &self.calls.workers[worker];
        worker.interrupted.store(true, Ordering::Release);
        worker.wake.write(1).expect("an eventfd takes a 1");
    }

    /// The progress thread found that nobody receives: what was to be short is not.
    pub(super) fn take_from_nobody(&self, locked: &mut Locked) {
        locked.receiver = Receiver::Progress;
        locked.patience.absence.lasts_too_long();
        self.poller.arm(&self.socket);
        // What came with that method has waited for it long enough.
        self.calls.endpoint.rouse(self.calls.workers.len());
    }

    /// Does something to the machine and sends what follows of it.
    pub(super) fn command<T>(&self, command: impl FnOnce(&mut Machine) -> T) -> T {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        let result = command(&mut locked.machine);
        let now = self.now();
        self.settle(&mut locked, now);
        result
    }

    fn wait_signal(&self, signal: &Signal, until: Option<Time>) {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        let (op, bell) = locked.waits.begin();
        signal.set_mark(op.0);
        // Whoever sets it from now on finds the mark under the lock. Nothing more comes for a node that is closed
        // or cannot go on; who waits until a time, for room for a last answer, does so all the same.
        let lifecycle = locked.machine.lifecycle();
        let is_over = lifecycle.is_closed() || (lifecycle.why().is_some() && until.is_none());
        if signal.is_set() || is_over {
            locked.waits.end(op, Outcome::Membership);
        }
        let _ = self.wait(&mut locked, (op, &bell), until);
        signal.set_mark(0);
    }
}

/// The workers.
impl Inner {
    fn run_worker(&self, number: usize) {
        CoreSection::mark_thread_blocked();
        let mut buffer = receive_buffer();
        let stopping = || self.stopping.load(Ordering::Acquire);
        while !stopping() {
            self.calls.endpoint.wait_for_calls(stopping);
            self.calls.endpoint.run_ready();
            // Where calls came, more may come.
            while !stopping() && self.lead(number, &mut buffer) {
                self.calls.endpoint.run_ready();
            }
        }
    }

    /// Receives for the node until calls are there to run. False if somebody else receives.
    ///
    /// Who received before may still be queueing calls, and rouses nobody if this worker is the only one that
    /// is free. So it looks at the queue once it is known as the receiver: what is queued later interrupts it.
    fn lead(&self, number: usize, buffer: &mut [u8]) -> bool {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        match locked.receiver {
            Receiver::Progress => self.poller.disarm(&self.socket),
            Receiver::Nobody(_) => {}
            Receiver::Waiter(_) | Receiver::Worker(_) => return false,
        }
        locked.receiver = Receiver::Worker(number);
        loop {
            self.calls.workers[number].interrupted.store(false, Ordering::Release);
            let mut queued = self.handle_calls(&mut locked);
            if queued == 0 {
                let endpoint = &self.calls.endpoint;
                queued = MutexGuard::unlocked(&mut locked, || endpoint.queue_len() + endpoint.deferred_len());
            }
            if queued > 0 {
                self.pass_on(&mut locked, number, queued);
                return true;
            }
            if locked.receiver != Receiver::Worker(number) {
                return false;
            }
            if self.stopping.load(Ordering::Acquire) {
                self.hand_over(&mut locked);
                return true;
            }
            self.receive_as_worker(&mut locked, number, buffer);
        }
    }

    /// This worker will run `queued` calls: others may receive, and run what may have to wait long.
    fn pass_on(&self, locked: &mut MutexGuard<'_, Locked>, number: usize, queued: usize) {
        let slow = MutexGuard::unlocked(locked, || {
            let slow = self.calls.endpoint.is_next_slow();
            if slow {
                self.calls.endpoint.rouse(queued - 1);
            }
            slow
        });
        if locked.receiver != Receiver::Worker(number) {
            return;
        }
        let now = self.now();
        if slow || !locked.is_looked_after(now) {
            self.hand_over(locked);
        } else {
            locked.leave_to_nobody(now);
        }
    }

    fn receive_as_worker(&self, locked: &mut MutexGuard<'_, Locked>, number: usize, buffer: &mut [u8]) {
        let Worker { wake, interrupted } = &self.calls.workers[number];
        let search = self.begin_search(locked, None, None, wake);
        let turn = MutexGuard::unlocked(locked, || {
            self.search(&search, buffer, || interrupted.load(Ordering::Acquire))
        });
        if interrupted.load(Ordering::Acquire) {
            drain(wake);
        }
        if locked.receiver == Receiver::Worker(number) {
            locked.sleep_until = Time(0);
        }
        self.end_turn(locked, &turn, buffer);
    }

    pub(super) fn spawn_workers(self: &Arc<Self>) -> Result<Vec<JoinHandle<()>>> {
        // Methods touch shared memory, so faults get through; handlers of the application run elsewhere.
        let mask = asynchronous().thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("valid arguments");
        let spawn = |number: usize| {
            let inner = self.clone();
            let named = std::thread::Builder::new().name(format!("pm-worker-{number}"));
            named.spawn(move || {
                time_slice::shorten();
                inner.run_worker(number)
            })
        };
        let system = std::iter::once_with(|| self.clone().spawn_system_worker());
        let workers = (0..self.calls.workers.len()).map(spawn);
        let threads: std::io::Result<Vec<_>> = workers.chain(system).collect();
        mask.thread_set_mask().expect("valid arguments");
        threads.map_err(|error| Error::os("starting the workers", error))
    }

    /// The thread for the system's own calls when all workers are held up: by methods that take long, or by
    /// streams that nobody reads. It never receives.
    fn spawn_system_worker(self: Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("pm-system".into()).spawn(move || {
            CoreSection::mark_thread_blocked();
            let stopping = || self.stopping.load(Ordering::Acquire);
            while !stopping() {
                self.calls.endpoint.wait_for_system_calls(stopping);
                self.calls.endpoint.run_system();
            }
        })
    }

    /// Makes the workers look whether they are to stop.
    pub(super) fn wake_workers(&self) {
        self.calls.endpoint.wake_workers();
        (0..self.calls.workers.len()).for_each(|worker| self.interrupt_worker(worker));
    }
}

/// What programs do with calls.
impl Node {
    /// The calls of this node.
    pub fn calls(&self) -> &Arc<Endpoint> {
        &self.inner.calls.endpoint
    }

    /// The present start of a member; none in a forked child.
    pub fn peer(&self, node: NodeId) -> Option<PeerId> {
        if fork::is_child() {
            return None;
        }
        self.inner.with_machine(|machine| machine.peer(node))
    }

    /// Makes this node a user of the region `generation`, in which all of these bytes must lie; it uses the region
    /// while the share lives.
    pub(crate) fn open_region(&self, addr: GlobalAddr, bytes: u64, generation: u64) -> Result<RegionUse> {
        fork::check()?;
        loop {
            let opened = self.inner.with_machine(|machine| {
                let is_closed = machine.lifecycle().is_closed();
                let membership = machine.membership_mut().filter(|_| !is_closed);
                let opened = membership.ok_or(Error::Left)?.open(addr, bytes, generation);
                opened
                    .map_err(|why| Error::Invalid(format!("a reference to {bytes} bytes at {addr:?} {why}")))
            })?;
            match opened {
                Opened::Used(share) => return Ok(share),
                // Once more: a node that was stopped meanwhile may have given the use back.
                Opened::Unused { page } => self.inner.use_region(page, Some(generation))?,
            }
        }
    }

    /// An error unless all of these bytes lie in one region, and it opens in such elements.
    pub fn check_elements(&self, addr: GlobalAddr, bytes: u64, element: &ElementType) -> Result<()> {
        self.inner.with_machine(|machine| {
            let holds = |record: &&RegionRecord| {
                let start = record.info.start.start().0;
                let end = addr.0.checked_add(bytes);
                addr.0 >= start && end.is_some_and(|end| end <= start + record.bytes)
            };
            let Some(record) = machine.membership().and_then(|m| m.regions().find(holds)) else {
                return Err(Error::Invalid(format!(
                    "{bytes} bytes at {addr:?} are in no region of this node"
                )));
            };
            let RegionRecord { name, element: own, .. } = record;
            if own.opens_as(element, bytes) {
                return Ok(());
            }
            Err(Error::Invalid(format!("region `{name}` has {own}, not {element}")))
        })
    }

    /// The way to the interfaces of one member.
    pub fn channel_to(&self, node: NodeId) -> Result<Channel> {
        fork::check()?;
        let peer = self.peer(node).ok_or_else(|| Error::Invalid(format!("{node} is no member")))?;
        Ok(Channel::to(self.calls(), peer))
    }
}

/// Carries messages over the node's sessions.
struct Carrier {
    node: Weak<Inner>,
    clock: Instant,
}

impl Transport for Carrier {
    fn now(&self) -> Time {
        time_since(self.clock)
    }

    fn send(&self, to: PeerId, message: &[u8]) -> std::result::Result<(), SendError> {
        let inner = self.node.upgrade().ok_or(SendError::Unreachable)?;
        let _section = CoreSection::enter();
        let mut locked = inner.lock();
        let now = inner.now();
        locked.machine.send_call(now, to, message).map_err(|refused| match refused {
            CallRefused::Unreachable => SendError::Unreachable,
            CallRefused::Full => SendError::Full,
            CallRefused::TooLong => SendError::TooLong,
        })?;
        inner.settle(&mut locked, now);
        Ok(())
    }

    fn wait(&self, signal: &Signal, until: Option<Time>) {
        // Without a node every call has failed already.
        if let Some(inner) = self.node.upgrade()
            && !signal.is_set()
        {
            inner.wait_signal(signal, until);
            // A call may have failed because other ranks end too.
            inner.sleep_if_ending(current_thread);
        }
    }

    fn notify(&self, signal: &Signal) {
        let Some(inner) = self.node.upgrade() else { return };
        let _section = CoreSection::enter();
        let mut locked = inner.lock();
        let op = OpId(signal.mark());
        locked.waits.end(op, Outcome::Membership);
        if locked.receiver == Receiver::Waiter(op) && locked.sleep_until > Time(0) {
            inner.wake_receiver(&mut locked);
        }
    }

    fn taken(&self, peer: PeerId) -> u64 {
        let Some(inner) = self.node.upgrade() else { return 0 };
        inner.with_machine(|machine| machine.acknowledged(peer)).unwrap_or(0)
    }

    fn give_up(&self, peer: PeerId) {
        // A member that is silent is found out by its heartbeat.
        if let (GUEST, Some(inner)) = (peer.node, self.node.upgrade()) {
            let now = inner.now();
            inner.command(|machine| machine.close_guest(now, peer.incarnation));
        }
    }

    fn timer_at(&self, at: Time) {
        let Some(inner) = self.node.upgrade() else { return };
        let before = inner.calls.due.fetch_min(at.0, Ordering::AcqRel);
        if at.0 < before {
            let _section = CoreSection::enter();
            let mut locked = inner.lock();
            if at < locked.sleep_until {
                inner.wake_receiver(&mut locked);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{NodeConfig, Settings};

    fn until(what: &str, condition: impl Fn() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < give_up, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// The only worker may be on its way from the empty queue to the socket, or be there already, when
    /// another thread queues a call: nobody sleeps who could be roused.
    #[test]
    fn a_call_runs_though_its_only_worker_had_left_the_queue() {
        let settings =
            Settings { arena_size: 1 << 28, memory_max: 1 << 28, rpc_workers: 1, ..Settings::default() };
        let node = Node::start(NodeConfig::daemon(settings, 0)).expect("a daemon starts");
        let (inner, calls) = (&node.inner, node.calls());
        let me = node.peer(NodeId(0)).expect("it is a member");
        let list = || {
            let statistics = calls.statistics();
            statistics.into_iter().find(|(method, _)| method.name == "list").expect("every node serves it")
        };
        let (method, _) = list();
        let ran = || list().1.calls;
        // A oneway call without arguments, as `frame.rs` describes it.
        let call = |sequence: u64| {
            let mut bytes = vec![0; 40];
            bytes[..2].copy_from_slice(&[1, 1]);
            bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
            bytes[16..24].copy_from_slice(&method.id.to_le_bytes());
            bytes
        };
        let section = CoreSection::enter();

        let locked = inner.lock();
        assert_eq!(calls.handle_message(me, &call(0)), Ok(1));
        until("it ran", || ran() == 1 && !calls.is_serving());
        // The worker waits for the lock to lead.
        assert_eq!(calls.admit_message(me, &call(1)), Ok(1));
        drop(locked);
        until("the worker sees what was queued before it led", || ran() == 2);

        until("the worker leads", || {
            let locked = inner.lock();
            locked.receiver == Receiver::Worker(0) && locked.sleep_until > Time(0)
        });
        let mut locked = inner.lock();
        locked.machine.push_call(CallEvent::Message(me, call(2)));
        assert_eq!(inner.hand_out_calls(&mut locked), 1);
        let told = inner.calls.workers[0].interrupted.load(Ordering::Acquire);
        assert!(told, "it would see the call when its next timer is due");
        drop(locked);
        until("the worker runs what is queued while it leads", || ran() == 3);

        // A signal handler that faults while its thread has a lock of the calls.
        let interrupted = CallSection::enter();
        let mut locked = inner.lock();
        locked.machine.push_call(CallEvent::Message(me, call(3)));
        assert_eq!(inner.hand_out_calls(&mut locked), 0);
        assert!(locked.machine.has_calls(), "it would wait for itself");
        drop(locked);
        until("another thread handles it", || ran() == 4);
        // Another thread receives, and may be waiting for that lock.
        let mut locked = inner.lock();
        let (other, mine) = (OpId(u64::MAX), OpId(u64::MAX - 1));
        locked.receiver = Receiver::Waiter(other);
        inner.take_over(&mut locked, mine, inner.now());
        assert_eq!(locked.receiver, Receiver::Waiter(other), "it receives");
        locked.in_calls = Some(other);
        inner.take_over(&mut locked, mine, inner.now());
        assert_eq!(locked.receiver, Receiver::Waiter(mine));
        locked.in_calls = None;
        inner.hand_over(&mut locked);
        drop(locked);
        drop((interrupted, section));
        node.request_shutdown();
    }
}
