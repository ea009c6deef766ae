//! The way from a client to its servers: an address, or a name in the registry with a policy.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fork;
use crate::page::{GlobalAddr, NodeId, PeerId, Span};

use super::call::{Call, Started, Streaming};
use super::core::Start;
use super::core::frame::CALL_HEADER_LEN;
use super::endpoint::Endpoint;
use super::error::{Error, ErrorKind, MethodError};
use super::interface::Method;
use super::wire::Wire;

thread_local! {
    // The request under construction: a thread that calls again and again allocates once.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Says who serves what, and where shared memory lives.
pub trait Registry: Send + Sync + 'static {
    /// The nodes that serve the interface, in a stable order.
    fn servers(&self, interface: &str) -> Vec<PeerId>;
    /// The node that is home of the address.
    fn home(&self, addr: GlobalAddr) -> Option<NodeId>;
}

/// Which of several servers a call goes to.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let greeter = GreeterClient::new(dsm.channel(Policy::LeastInFlight));
/// greeter.greet("Ada")?;
/// # dsm.leave()
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Policy {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest calls of this node.
    LeastInFlight,
}

/// Where calls go. Cheap to clone, and may be used from any thread.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let channel = dsm.channel(Policy::RoundRobin);
/// let greeter = GreeterClient::new(channel.clone());
/// greeter.greet("Ada")?;
/// # dsm.leave()
/// # }
/// ```
#[derive(Clone)]
pub struct Channel {
    endpoint: Arc<Endpoint>,
    target: Target,
    deadline: Option<Span>,
}

#[derive(Clone)]
enum Target {
    Peer(PeerId),
    Named { registry: Arc<dyn Registry>, policy: Policy, turn: Arc<AtomicUsize> },
}

impl Channel {
    /// To one server.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let me = dsm.peer(dsm.node_id()).expect("a member");
    /// let greeter = GreeterClient::new(Channel::to(dsm.calls(), me));
    /// greeter.greet("Ada")?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn to(endpoint: &Arc<Endpoint>, peer: PeerId) -> Channel {
        Channel { endpoint: endpoint.clone(), target: Target::Peer(peer), deadline: None }
    }

    /// To whoever the registry names as a server of the interface, at the time of each call. When the
    /// first surely did not execute the call, or the method is idempotent, the others are tried.
    #[doc(hidden)]
    pub fn named(endpoint: &Arc<Endpoint>, registry: Arc<dyn Registry>, policy: Policy) -> Channel {
        let target = Target::Named { registry, policy, turn: Arc::default() };
        Channel { endpoint: endpoint.clone(), target, deadline: None }
    }

    /// The same way with a limit of time for each call, in place of the method's own.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// use std::time::Duration;
    ///
    /// let channel = dsm.channel(Policy::RoundRobin).with_deadline(Duration::from_secs(30));
    /// GreeterClient::new(channel).greet("Ada")?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn with_deadline(&self, deadline: impl Into<Span>) -> Channel {
        Channel { deadline: Some(deadline.into()), ..self.clone() }
    }

    /// One channel for each server of the interface: a call to each of them is a fan-out.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let everybody = dsm.channel(Policy::RoundRobin).each("Greeter");
    /// let calls: Vec<_> = everybody.into_iter().map(|(_, to)| GreeterCalls::new(to).greet("Ada")).collect();
    /// for call in calls {
    ///     assert_eq!(call.wait()?, "hello, Ada");
    /// }
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn each(&self, interface: &str) -> Vec<(PeerId, Channel)> {
        let servers = match &self.target {
            Target::Peer(peer) => vec![*peer],
            Target::Named { registry, .. } => registry.servers(interface),
        };
        let to = |peer| (peer, Channel { target: Target::Peer(peer), ..self.clone() });
        servers.into_iter().map(to).collect()
    }

    /// The node's calls.
    #[doc(hidden)]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Begins a call; for generated code.
    #[doc(hidden)]
    pub fn prepare(&self, method: &'static Method) -> Prepared<'_> {
        let mut request = SCRATCH.with(RefCell::take);
        request.clear();
        request.resize(CALL_HEADER_LEN, 0);
        Prepared { channel: self, method, near: None, request }
    }

    /// The server to ask, and those to ask after it.
    fn route(&self, method: &Method, near: Option<GlobalAddr>) -> Option<(PeerId, Vec<PeerId>)> {
        let (registry, policy, turn) = match &self.target {
            Target::Peer(peer) => return Some((*peer, Vec::new())),
            Target::Named { registry, policy, turn } => (registry, policy, turn),
        };
        let mut servers = registry.servers(method.interface);
        if servers.is_empty() {
            return None;
        }
        let home = near.and_then(|addr| registry.home(addr));
        let at_home = servers.iter().position(|peer| Some(peer.node) == home);
        let first = at_home.unwrap_or_else(|| match policy {
            Policy::RoundRobin => turn.fetch_add(1, Ordering::Relaxed) % servers.len(),
            Policy::LeastInFlight => self.endpoint.with(|_, state| {
                let loads = servers.iter().map(|peer| state.calls.in_flight(*peer)).enumerate();
                loads.min_by_key(|(_, load)| *load).map_or(0, |(at, _)| at)
            }),
        });
        servers.rotate_left(first);
        let peer = servers.remove(0);
        // Taken from the end.
        servers.reverse();
        Some((peer, servers))
    }
}

/// A call whose arguments are being written.
pub struct Prepared<'a> {
    channel: &'a Channel,
    method: &'static Method,
    near: Option<GlobalAddr>,
    request: Vec<u8>,
}

impl Prepared<'_> {
    /// Where the arguments go, one after the other.
    pub fn arguments(&mut self) -> &mut Vec<u8> {
        &mut self.request
    }

    /// Prefers the server that is home of the address.
    pub fn near(&mut self, addr: GlobalAddr) {
        self.near = Some(addr);
    }

    /// Sends the call.
    pub fn start<T: Wire, E: MethodError>(mut self) -> Call<T, E> {
        let started = self.open();
        Call::new(self.channel.endpoint.clone(), self.method, started)
    }

    /// Sends the call, whose results are a stream.
    pub fn stream<T: Wire, E: MethodError>(mut self) -> Streaming<T, E> {
        let started = self.open();
        Streaming::new(self.channel.endpoint.clone(), self.method, started)
    }

    /// Sends the call, which has no answer.
    pub fn notify(mut self) -> Result<(), Error> {
        if fork::is_child() {
            return Err(self.error(ErrorKind::Forked, None));
        }
        let Some((peer, _)) = self.channel.route(self.method, self.near) else {
            return Err(self.error(ErrorKind::Unreachable { may_have_executed: false }, None));
        };
        let sent = self.channel.endpoint.start_oneway(self.method, peer, &mut self.request);
        sent.map_err(|kind| self.error(kind, Some(peer)))
    }

    fn open(&mut self) -> Result<Started, Error> {
        let Channel { endpoint, deadline, .. } = self.channel;
        if fork::is_child() {
            return Err(self.error(ErrorKind::Forked, None));
        }
        let Some((peer, others)) = self.channel.route(self.method, self.near) else {
            return Err(self.error(ErrorKind::Unreachable { may_have_executed: false }, None));
        };
        let own = self.method.deadline_us.map(Span::from_us);
        let at = endpoint.now();
        let deadline = deadline.or(own).map(|limit| at + limit);
        let start = Start { method: self.method, peer, others, deadline };
        let (ticket, cell) = endpoint.start(start, &self.request);
        Ok(Started { ticket, cell, peer, at })
    }

    fn error(&self, kind: ErrorKind, peer: Option<PeerId>) -> Error {
        Error { kind, method: Some(self.method), peer, spent: Span(0) }
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        // Not a megabyte for ever because of one large argument.
        if self.request.capacity() <= 1 << 16 {
            SCRATCH.with(|scratch| scratch.replace(std::mem::take(&mut self.request)));
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Peer(peer) => write!(f, "Channel(to {:?})", peer.node),
            Target::Named { policy, .. } => write!(f, "Channel(named, {policy:?})"),
        }
    }
}
