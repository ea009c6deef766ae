//! A network inside one process, for tests and for a cluster of one: messages are queued, and whoever
//! drives the network chooses which is delivered when, or twice, or not at all. Time stands still until
//! it is moved.

use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

use crate::codec::DecodeError;
use crate::config::rpc::CALL_LEN_MAX;
use crate::page::{GlobalAddr, Incarnation, NodeId, PeerId, Span, Time};

use super::callers::Callers;
use super::channel::Registry;
use super::core::{Calls, Rank, SendError};
use super::endpoint::Endpoint;
use super::port::{self, Port};
use super::signal::Signal;

/// A message on its way.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Who sent it.
    pub from: PeerId,
    /// Who gets it.
    pub to: PeerId,
    /// Its bytes.
    pub message: Vec<u8>,
}

/// The network between the nodes of one process.
#[derive(Default)]
pub struct LocalNetwork {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    now: Time,
    nodes: Vec<(PeerId, Weak<Endpoint>)>,
    queue: Vec<Envelope>,
    /// Whom nothing can be sent to at present.
    full: Vec<PeerId>,
    /// Whether a thread that waits delivers messages and runs calls itself.
    driven_by_waiters: bool,
}

/// The calls of one node, under a lock of their own.
struct LocalPort {
    network: Arc<LocalNetwork>,
    here: PeerId,
    state: Mutex<(Calls, Callers)>,
    arrived: Condvar,
    system_arrived: Condvar,
}

/// Which nodes serve which interface, said once.
#[derive(Default)]
pub struct LocalRegistry {
    servers: Vec<(String, Vec<PeerId>)>,
    homes: Vec<(GlobalAddr, NodeId)>,
}

impl LocalNetwork {
    /// A network without nodes, at time zero.
    pub fn new() -> Arc<LocalNetwork> {
        Arc::default()
    }

    /// Threads that wait for a call deliver messages meanwhile, and run calls: one thread is enough.
    pub fn let_waiters_drive(&self) {
        self.state.lock().driven_by_waiters = true;
    }

    /// Starts a node.
    pub fn join(self: &Arc<Self>, node: NodeId, incarnation: Incarnation) -> (PeerId, Arc<Endpoint>) {
        let here = PeerId { node, incarnation };
        let (arrived, system_arrived) = (Condvar::new(), Condvar::new());
        let state = Mutex::default();
        let port = LocalPort { network: self.clone(), here, state, arrived, system_arrived };
        let endpoint = Endpoint::over(Arc::new(port));
        self.state.lock().nodes.push((here, Arc::downgrade(&endpoint)));
        (here, endpoint)
    }

    /// Ends a node, and tells all others. Its messages on the way are lost.
    pub fn kill(&self, peer: PeerId) {
        self.lose(peer);
        for endpoint in self.endpoints() {
            endpoint.handle_peer_died(peer);
            endpoint.run_deferred();
        }
    }

    /// Ends a node, and tells nobody. Its messages on the way are lost.
    pub fn lose(&self, peer: PeerId) {
        self.state.lock().nodes.retain(|(node, _)| *node != peer);
        self.take_queue(|envelope| envelope.from == peer || envelope.to == peer);
    }

    /// The queues to this peer are full until [`LocalNetwork::make_room`].
    pub fn fill(&self, peer: PeerId) {
        self.state.lock().full.push(peer);
    }

    /// The queues to this peer have room again.
    pub fn make_room(&self, peer: PeerId) {
        self.state.lock().full.retain(|full| *full != peer);
    }

    /// The messages on their way.
    pub fn in_flight(&self) -> Vec<Envelope> {
        self.state.lock().queue.clone()
    }

    /// Takes the messages that `which` picks out of the network.
    pub fn take_queue(&self, which: impl Fn(&Envelope) -> bool) -> Vec<Envelope> {
        let mut state = self.state.lock();
        let (taken, left) = std::mem::take(&mut state.queue).into_iter().partition(which);
        state.queue = left;
        taken
    }

    /// Puts a message that was taken, or its copy, back on its way.
    pub fn put_back(&self, envelope: Envelope) {
        self.state.lock().queue.push(envelope);
    }

    /// Delivers one message, of the network or made up.
    pub fn deliver(&self, envelope: &Envelope) -> Result<usize, DecodeError> {
        match self.endpoint(envelope.to) {
            Some(endpoint) => {
                let queued = endpoint.handle_message(envelope.from, &envelope.message);
                endpoint.run_deferred();
                queued
            }
            None => Ok(0),
        }
    }

    /// Delivers and runs until nothing is on its way. Returns how many messages were delivered.
    pub fn settle(&self) -> usize {
        let mut delivered = 0;
        loop {
            let next = {
                let mut state = self.state.lock();
                if state.queue.is_empty() { None } else { Some(state.queue.remove(0)) }
            };
            let Some(envelope) = next else { return delivered };
            delivered += 1;
            // A message that breaks the protocol is counted by the endpoint; here no session ends.
            if let Ok(1..) = self.deliver(&envelope)
                && let Some(endpoint) = self.endpoint(envelope.to)
            {
                endpoint.run_ready();
            }
        }
    }

    /// Moves the time, and runs what is due.
    pub fn advance(&self, span: Span) {
        let now = {
            let mut state = self.state.lock();
            state.now = state.now + span;
            state.now
        };
        for endpoint in self.endpoints() {
            if endpoint.poll_timeout().is_some_and(|due| due <= now) {
                endpoint.handle_timeout();
                endpoint.run_deferred();
            }
        }
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.state.lock().nodes.iter().filter_map(|(_, endpoint)| endpoint.upgrade()).collect()
    }

    fn endpoint(&self, peer: PeerId) -> Option<Arc<Endpoint>> {
        let state = self.state.lock();
        state.nodes.iter().find(|(node, _)| *node == peer).and_then(|(_, endpoint)| endpoint.upgrade())
    }
}

impl LocalPort {
    fn arrived(&self, rank: Rank) -> &Condvar {
        match rank {
            Rank::System => &self.system_arrived,
            Rank::Program => &self.arrived,
        }
    }

    fn work_len(&self, rank: Rank) -> usize {
        let (calls, callers) = &mut *self.state.lock();
        port::State { calls, callers }.work_len(rank)
    }

    /// Until the signal is set, or until the network has nothing more to deliver.
    fn wait_or_drive(&self, signal: &Signal, until: Option<Time>) {
        let drives = self.network.state.lock().driven_by_waiters;
        if !drives {
            // Nobody moves this clock but the test; the signal is what ends the wait.
            if !signal.is_set() && until.is_none_or(|until| until > self.now()) {
                std::thread::park();
            }
        } else if self.network.settle() == 0 && !signal.is_set() {
            // Nothing can happen before the next timer: time goes there at once.
            let until = until.expect("a wait that nothing can end");
            self.network.advance(until.since(self.now()));
        }
    }
}

impl Port for LocalPort {
    fn now(&self) -> Time {
        self.network.state.lock().now
    }

    fn enter(&self, act: &mut dyn FnMut(Time, &mut port::State<'_>)) {
        let now = self.now();
        let mut state = self.state.lock();
        {
            let (calls, callers) = &mut *state;
            act(now, &mut port::State { calls, callers });
        }
        loop {
            let (calls, callers) = &mut *state;
            let mut signals: SmallVec<[Arc<Signal>; 4]> = SmallVec::new();
            while let Some(output) = calls.poll_output() {
                signals.extend(callers.perform(output));
            }
            let mut messages: SmallVec<[(PeerId, Vec<u8>); 2]> = SmallVec::new();
            let mut message = Vec::new();
            while let Some(peer) = calls.next_message(&mut message) {
                messages.push((peer, std::mem::take(&mut message)));
            }
            let arrivals = calls.take_arrivals() + callers.take_new();
            drop(state);
            for signal in signals {
                signal.set();
                signal.unpark();
            }
            self.rouse(arrivals);
            let sent = |(peer, message): (PeerId, Vec<u8>)| {
                self.send(peer, &message).err().map(|error| (peer, message, error))
            };
            let unsent: SmallVec<[_; 2]> = messages.into_iter().filter_map(sent).collect();
            if unsent.is_empty() {
                return;
            }
            state = self.state.lock();
            for (peer, message, error) in unsent {
                state.0.handle_unsent(now, peer, &message, error);
            }
        }
    }

    fn send(&self, to: PeerId, message: &[u8]) -> Result<(), SendError> {
        if message.len() > CALL_LEN_MAX {
            return Err(SendError::TooLong);
        }
        let mut state = self.network.state.lock();
        if state.nodes.iter().all(|(node, _)| *node != to) {
            return Err(SendError::Unreachable);
        }
        if state.full.contains(&to) {
            return Err(SendError::Full);
        }
        state.queue.push(Envelope { from: self.here, to, message: message.to_vec() });
        Ok(())
    }

    fn wait(&self, signal: &Signal, until: Option<Time>) {
        let due = self.state.lock().0.poll_timeout();
        self.wait_or_drive(signal, [due, until].into_iter().flatten().min());
        if due.is_some_and(|due| due <= self.now()) {
            self.enter(&mut |now, state| state.calls.handle_timeout(now));
        }
    }

    fn wait_for_work(&self, rank: Rank, done: &dyn Fn() -> bool) {
        let mut state = self.state.lock();
        loop {
            let (calls, callers) = &mut *state;
            if (port::State { calls, callers }).work_len(rank) > 0 || done() {
                return;
            }
            self.arrived(rank).wait(&mut state);
        }
    }

    fn rouse(&self, calls: usize) -> usize {
        let roused = (0..calls).take_while(|_| self.arrived.notify_one()).count();
        if roused < calls && self.work_len(Rank::System) > 0 {
            self.system_arrived.notify_one();
        }
        roused
    }

    fn wake_workers(&self) {
        // The lock: no worker may be between its question and its sleep.
        let _state = self.state.lock();
        self.arrived.notify_all();
        self.system_arrived.notify_all();
    }

    fn taken(&self, _peer: PeerId) -> u64 {
        0
    }

    fn give_up(&self, _peer: PeerId) {}

    fn attend(&self) {}
}

impl LocalRegistry {
    /// The same registry with servers of an interface.
    pub fn with(mut self, interface: &str, servers: &[PeerId]) -> Self {
        self.servers.push((interface.to_owned(), servers.to_vec()));
        self
    }

    /// The same registry with the home of an address.
    pub fn with_home(mut self, addr: GlobalAddr, node: NodeId) -> Self {
        self.homes.push((addr, node));
        self
    }
}

impl Registry for LocalRegistry {
    fn servers(&self, interface: &str) -> Vec<PeerId> {
        let found = self.servers.iter().find(|(name, _)| name == interface);
        found.map(|(_, servers)| servers.clone()).unwrap_or_default()
    }

    fn home(&self, addr: GlobalAddr) -> Option<NodeId> {
        self.homes.iter().find(|(home, _)| *home == addr).map(|(_, node)| *node)
    }
}
