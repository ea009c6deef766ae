//! A transport inside one process, for tests and for a cluster of one: messages are queued, and whoever
//! drives the network chooses which is delivered when, or twice, or not at all. Time stands still until
//! it is moved.

use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use crate::codec::DecodeError;
use crate::config::rpc::CALL_LEN_MAX;
use crate::page::{GlobalAddr, Incarnation, NodeId, PeerId, Span, Time};

use super::core::SendError;
use super::endpoint::Endpoint;
use super::transport::{Registry, Signal, Transport};

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

struct LocalTransport {
    network: Arc<LocalNetwork>,
    here: PeerId,
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
        let endpoint = Endpoint::new(Arc::new(LocalTransport { network: self.clone(), here }));
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

impl Transport for LocalTransport {
    fn now(&self) -> Time {
        self.network.state.lock().now
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
