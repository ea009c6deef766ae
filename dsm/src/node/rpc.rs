//! Calls between nodes: the node's sessions carry them, and its workers run them.
//!
//! Workers are leaders and followers. The leader receives for the node, like every thread that waits;
//! when calls come it passes the socket on and runs them itself, so that no wake-up lies between a
//! datagram and its method. How it passes the socket on depends on what is known of the method:
//! one that takes microseconds leaves it to nobody ([`Receiver::Nobody`]), and whoever waits, or the
//! progress thread at its next look, takes it; any other gives it to the progress thread. A thread
//! that waits for something relieves the leader: its own answer must cost one wake-up, not two.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::eventfd::EventFd;
use nix::sys::signal::SigmaskHow;
use parking_lot::Condvar;

use super::collective::Mailbox;
use super::directory::Directory;
use super::entry::Entry;
use super::leaving::current_thread;
use super::op::WakeWord;
use super::poller::{drain, ring};
use super::receive::Seeker;
use super::reception::{Receiver, Role};
use super::{Node, Runtime, RuntimeState, receive_buffer, time_since, time_slice};
use crate::error::{Error, Result};
use crate::fault::{CoreSection, asynchronous};
use crate::fork;
use crate::machine::{Machine, Outcome};
use crate::membership::{ElementType, Opened, RegionRecord, RegionUse};
use crate::page::{GlobalAddr, NodeId, Time};
use crate::rpc::core::{Rank, SendError};
use crate::rpc::{Channel, Deferred, Endpoint, PeerId, Port, Signal, State, enter_nowhere};

/// The calls of a node.
pub(super) struct Calls {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) directory: Arc<Directory>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The thread that serves the system sleeps on it, under the node's lock.
    system_arrived: Condvar,
    pub(super) workers: Vec<Worker>,
}

/// What a worker is woken by.
pub(super) struct Worker {
    /// It is idle on it, and its search ends when it is set.
    pub(super) word: WakeWord,
    /// Ends its sleep at the socket.
    pub(super) wake: EventFd,
}

impl Calls {
    /// The calls of the node behind `node`, to be run by so many workers.
    pub(super) fn new(node: Weak<Runtime>, clock: Instant, workers: Vec<EventFd>) -> Calls {
        let worker = |wake| Worker { word: WakeWord::default(), wake };
        Calls {
            endpoint: Endpoint::over(Arc::new(NodePort { node, clock })),
            directory: Arc::default(),
            mailbox: Arc::default(),
            system_arrived: Condvar::new(),
            workers: workers.into_iter().map(worker).collect(),
        }
    }
}

impl RuntimeState {
    fn work_len(&mut self, rank: Rank) -> usize {
        let RuntimeState { machine, callers, .. } = self;
        State { calls: machine.calls_mut(), callers }.work_len(rank)
    }
}

impl Runtime {
    /// How much was left to workers of which none was told.
    pub(super) fn handle_calls(&self, locked: &mut RuntimeState) -> usize {
        locked.machine.calls_mut().take_arrivals() + locked.callers.take_new()
    }

    /// The same, for a thread that runs no calls: workers are woken. Every thread does this before it unlocks.
    pub(super) fn hand_out_calls(&self, locked: &mut RuntimeState) -> usize {
        let queued = self.handle_calls(locked);
        self.wake_workers_for(locked, queued);
        queued
    }

    /// Wakes as many idle workers as there are calls, and returns how many that were. If they were too few, the
    /// thread that serves the system is woken for what must not wait.
    fn wake_workers_for(&self, locked: &mut RuntimeState, calls: usize) -> usize {
        if calls == 0 {
            return 0;
        }
        let woken = locked.reception.jobs(calls);
        if woken < calls {
            self.wake_system_worker(locked);
        }
        woken
    }

    pub(super) fn wake_system_worker(&self, locked: &mut RuntimeState) {
        if locked.work_len(Rank::System) > 0 {
            self.calls.system_arrived.notify_one();
        }
    }

    /// Members have gone, or this node goes on no longer: workers tell it to those who wait without the node's lock,
    /// whom a signal handler may have interrupted with a lock that they need.
    pub(super) fn tell_departures(&self, locked: &mut RuntimeState) {
        let departed = std::mem::take(&mut locked.departed);
        let has_ended = std::mem::take(&mut locked.has_ended);
        if departed.is_empty() && !has_ended {
            return;
        }
        let (directory, mailbox) = (self.calls.directory.clone(), self.calls.mailbox.clone());
        locked.callers.defer(Deferred::Run(Box::new(move || {
            for peer in departed {
                directory.forget(peer);
                mailbox.note_departure();
            }
            if has_ended {
                directory.end();
                mailbox.end();
            }
        })));
    }

    /// Does something to the machine and sends what follows of it.
    pub(super) fn command<T>(&self, command: impl FnOnce(&mut Machine) -> T) -> T {
        let mut locked = self.enter();
        let result = command(&mut locked.machine);
        let now = self.now();
        self.flush(&mut locked, now);
        result
    }

    fn wait_signal(&self, signal: &Signal, until: Option<Time>) {
        let mut locked = self.enter();
        let cell = locked.ops.begin();
        let op = cell.op();
        signal.set_mark(op.0);
        // Whoever sets it from now on finds the mark under the lock. Nothing more comes for a node that is closed
        // or cannot go on; who waits until a time, for room for a last answer, does so all the same.
        let lifecycle = locked.machine.lifecycle();
        let is_over = lifecycle.is_closed() || (lifecycle.why().is_some() && until.is_none());
        if signal.is_set() || is_over {
            locked.end(op, Outcome::Membership);
        }
        let _ = self.wait(&mut locked, &cell, until);
        signal.set_mark(0);
    }
}

/// The workers.
impl Runtime {
    fn run_worker(&self, number: usize) {
        CoreSection::mark_thread_blocked();
        let mut buffer = receive_buffer();
        let stopping = || self.stopping.load(Ordering::Acquire);
        while !stopping() {
            let ran = self.calls.endpoint.run_ready();
            self.wait_for_jobs(number, ran > 0, &mut buffer);
        }
    }

    /// Receives for the node, if it leads, or is idle, until calls are there to run. A worker that has run some may
    /// take the socket.
    fn wait_for_jobs(&self, number: usize, has_run: bool, buffer: &mut [u8]) {
        let mut locked = self.enter();
        let Worker { word, wake } = &self.calls.workers[number];
        word.reset();
        let mut role = if has_run { locked.reception.lead(number) } else { locked.reception.rest(number) };
        loop {
            if role == Role::Receive {
                // It runs them itself, and wakes no worker for them.
                let _ = self.handle_calls(&mut locked);
            }
            let queued = locked.work_len(Rank::Program);
            if queued > 0 || self.stopping.load(Ordering::Acquire) {
                return self.pass_on(&mut locked, number, queued);
            }
            if role == Role::Park {
                drop(locked);
                return word.park(None);
            }
            let (thread, until) = (Receiver::Worker(number), self.due(&locked));
            let seeker = Seeker { thread, word, look: None, until };
            self.receive(&mut locked, &seeker, buffer, |until| self.sleep_at_socket(wake, until));
            if word.is_set() {
                drain(wake);
            }
            word.reset();
            role = locked.reception.rest(number);
        }
    }

    /// This worker will run `queued` calls, or stop: others may receive, and run what may have to wait long.
    fn pass_on(&self, locked: &mut Entry<'_>, number: usize, queued: usize) {
        let is_slow = queued == 0 || locked.machine.calls().is_next_slow();
        let (now, due) = (self.now(), self.due(locked));
        locked.reception.run(number, now, !is_slow, due);
        if is_slow {
            self.wake_workers_for(locked, queued.saturating_sub(1));
        }
    }

    pub(super) fn spawn_workers(self: &Arc<Self>) -> Result<Vec<JoinHandle<()>>> {
        // Methods touch shared memory, so faults get through; handlers of the application run elsewhere.
        let mask = asynchronous().thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("valid arguments");
        let spawn = |number: usize| {
            let runtime = self.clone();
            let named = std::thread::Builder::new().name(format!("pm-worker-{number}"));
            named.spawn(move || {
                time_slice::shorten();
                runtime.run_worker(number)
            })
        };
        let system = std::iter::once_with(|| self.clone().spawn_system_worker());
        let workers = (0..self.calls.workers.len()).map(spawn);
        let threads: std::io::Result<Vec<_>> = workers.chain(system).collect();
        mask.thread_set_mask().expect("valid arguments");
        threads.map_err(|error| Error::os("starting the workers", error))
    }

    /// The thread for the system's own calls when all workers are held up: by methods that take long, or by
    /// streams that nobody reads. It never receives, and sees to it that another thread does.
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
        for worker in &self.calls.workers {
            worker.word.set();
            worker.word.wake();
            ring(&worker.wake);
        }
    }
}

/// What programs do with calls.
impl Node {
    /// The calls of this node.
    pub fn calls(&self) -> &Arc<Endpoint> {
        &self.runtime.calls.endpoint
    }

    /// The present start of a member; none in a forked child.
    pub fn peer(&self, node: NodeId) -> Option<PeerId> {
        if fork::is_child() {
            return None;
        }
        self.runtime.with_machine(|machine| machine.peer(node))
    }

    /// Makes this node a user of the region `generation`, in which all of these bytes must lie; it uses the region
    /// while the share lives.
    pub(crate) fn open_region(&self, addr: GlobalAddr, bytes: u64, generation: u64) -> Result<RegionUse> {
        fork::check()?;
        loop {
            let opened = self.runtime.with_machine(|machine| {
                let is_closed = machine.lifecycle().is_closed();
                let membership = machine.membership_mut().filter(|_| !is_closed);
                let opened = membership.ok_or(Error::Left)?.open(addr, bytes, generation);
                opened
                    .map_err(|why| Error::Invalid(format!("a reference to {bytes} bytes at {addr:?} {why}")))
            })?;
            match opened {
                Opened::Used(share) => return Ok(share),
                // Once more: a node that was stopped meanwhile may have given the use back.
                Opened::Unused { page } => self.runtime.use_region(page, Some(generation))?,
            }
        }
    }

    /// An error unless all of these bytes lie in one region, and it opens in such elements.
    pub fn check_elements(&self, addr: GlobalAddr, bytes: u64, element: &ElementType) -> Result<()> {
        self.runtime.with_machine(|machine| {
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

/// The node as the owner of its calls.
struct NodePort {
    node: Weak<Runtime>,
    clock: Instant,
}

impl NodePort {
    /// The node, under its lock, and the time; nothing if it is gone.
    fn locked<R>(&self, act: impl FnOnce(&Runtime, &mut Entry<'_>, Time) -> R) -> Option<R> {
        let runtime = self.node.upgrade()?;
        let mut locked = runtime.enter();
        let now = runtime.now();
        Some(act(&runtime, &mut locked, now))
    }
}

impl Port for NodePort {
    fn now(&self) -> Time {
        time_since(self.clock)
    }

    fn enter(&self, act: &mut dyn FnMut(Time, &mut State<'_>)) {
        let entered = self.locked(|runtime, locked, now| {
            {
                let RuntimeState { machine, callers, .. } = &mut **locked;
                act(now, &mut State { calls: machine.calls_mut(), callers });
            }
            if !locked.machine.calls().is_quiet() {
                runtime.flush(locked, now);
            }
        });
        if entered.is_none() {
            enter_nowhere(self.now(), act);
        }
    }

    fn send(&self, to: PeerId, message: &[u8]) -> std::result::Result<(), SendError> {
        let sent = self.locked(|runtime, locked, now| {
            locked.machine.send_call(now, to, message)?;
            runtime.flush(locked, now);
            Ok(())
        });
        sent.unwrap_or(Err(SendError::Unreachable))
    }

    fn wait(&self, signal: &Signal, until: Option<Time>) {
        // Without a node every call has failed already.
        if let Some(runtime) = self.node.upgrade()
            && !signal.is_set()
        {
            runtime.wait_signal(signal, until);
            // A call may have failed because other ranks end too.
            runtime.sleep_if_ending(current_thread);
        }
    }

    fn wait_for_work(&self, rank: Rank, done: &dyn Fn() -> bool) {
        self.locked(|runtime, locked, _| {
            debug_assert_eq!(rank, Rank::System, "workers wait in `wait_for_jobs`");
            while locked.work_len(rank) == 0 && !done() {
                let until = runtime.watch_receiver(locked);
                locked.sleep_on(&runtime.calls.system_arrived, until.since(runtime.now()).to_std());
            }
        });
    }

    fn rouse(&self, calls: usize) -> usize {
        self.locked(|runtime, locked, _| runtime.wake_workers_for(locked, calls)).unwrap_or(0)
    }

    fn wake_workers(&self) {
        // Under the lock: no worker is between its question and its sleep.
        self.locked(|runtime, _, _| {
            runtime.calls.system_arrived.notify_all();
        });
    }

    fn taken(&self, peer: PeerId) -> u64 {
        let Some(runtime) = self.node.upgrade() else { return 0 };
        runtime.with_machine(|machine| machine.acknowledged(peer)).unwrap_or(0)
    }

    fn give_up(&self, peer: PeerId) {
        // A member that is silent is found out by its heartbeat.
        if let (true, Some(runtime)) = (peer.is_client(), self.node.upgrade()) {
            let now = runtime.now();
            runtime.command(|machine| machine.close_client(now, peer.incarnation));
        }
    }

    fn attend(&self) {
        // Somebody always receives, and workers wake futures.
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{NodeConfig, Settings};

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let give_up = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < give_up, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// Log lines and wakers come from the receiver, as calls do: who has run them receives what follows.
    #[test]
    fn a_worker_that_has_run_what_was_left_to_it_receives() {
        let settings =
            Settings { arena_size: 1 << 28, memory_max: 1 << 28, rpc_workers: 1, ..Settings::default() };
        let node = Node::start(NodeConfig::daemon(settings, 0)).expect("a daemon starts");
        // More than once: a worker that is not idle yet leaves it to the thread that serves the system.
        until("it receives", || {
            node.calls().defer(|| {});
            node.runtime.enter().reception.receiver() == Receiver::Worker(0)
        });
        node.request_shutdown();
    }

    /// The only worker may be on its way from the empty queue to the socket, or be there already, when
    /// another thread queues a call: nobody sleeps who could be roused.
    #[test]
    fn a_call_runs_though_its_only_worker_had_left_the_queue() {
        let settings =
            Settings { arena_size: 1 << 28, memory_max: 1 << 28, rpc_workers: 1, ..Settings::default() };
        let node = Node::start(NodeConfig::daemon(settings, 0)).expect("a daemon starts");
        let (runtime, calls) = (&node.runtime, node.calls());
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

        // As when it comes in a datagram.
        let queue = |locked: &mut RuntimeState, sequence| {
            let now = runtime.now();
            locked.machine.calls_mut().handle_message(now, me, &call(sequence)).expect("a sound message");
        };

        let mut sent = 0;
        until("the worker leads", || {
            let has_run = ran() == sent;
            let mut locked = runtime.enter();
            if locked.reception.receiver() == Receiver::Worker(0) && locked.reception.is_away() {
                return has_run;
            }
            if has_run {
                // Who serves the system may take it, if it has not slept yet.
                queue(&mut locked, sent);
                runtime.hand_out_calls(&mut locked);
                sent += 1;
            }
            false
        });
        let mut locked = runtime.enter();
        queue(&mut locked, sent);
        assert_eq!(runtime.hand_out_calls(&mut locked), 1);
        assert!(!locked.reception.is_away(), "it would see the call when its next timer is due");
        drop(locked);
        until("the worker runs what is queued while it leads", || ran() == sent + 1);
        let mut locked = runtime.enter();
        queue(&mut locked, sent + 1);
        drop(locked);
        let untold = runtime.enter().machine.calls_mut().take_arrivals();
        assert_eq!(untold, 0, "whoever unlocks leaves what came to workers");
        until("the worker runs that too", || ran() == sent + 2);
        node.request_shutdown();
    }
}
