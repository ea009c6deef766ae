//! Calls as programs see them: serving an interface, finding its servers, and references into shared
//! memory that travel as arguments.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::slice::Region;
use super::{Dsm, Element, SharedSlice};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::page::NodeId;
use crate::rpc::{Channel, Endpoint, Global, PeerId, Policy, Service};

impl Dsm {
    /// The calls of this rank.
    pub fn calls(&self) -> &Arc<Endpoint> {
        self.node.calls()
    }

    /// Serves an interface: every member knows it on return. At most `calls_max` of its calls wait or run
    /// at one time, more are `Busy`. A service that uses shared memory takes [`Dsm::globals`] along.
    pub fn serve(&self, service: impl Service, calls_max: usize) -> Result<()> {
        self.node.serve(service, calls_max)
    }

    /// The way to whoever serves the interface of the client that is made with it.
    pub fn channel(&self, policy: Policy) -> Channel {
        self.node.channel(policy)
    }

    /// Waits until some node serves the interface.
    pub fn wait_for_server(&self, name: &str, timeout: Duration) -> Result<()> {
        self.node.wait_for_server(name, timeout)
    }

    /// The way to the interfaces of one node. Calls end with `ServerDied` or `Unreachable` when it goes.
    pub fn channel_to(&self, node: NodeId) -> Result<Channel> {
        self.node.channel_to(node)
    }

    /// The present start of a node, as calls name it.
    pub fn peer(&self, node: NodeId) -> Option<PeerId> {
        self.node.peer(node)
    }

    /// For servers: opens what comes as `global<T>`, and does not keep this rank in the cluster.
    pub fn globals(&self) -> Globals {
        Globals { node: Arc::downgrade(&self.node) }
    }
}

/// Opens references into shared memory.
#[derive(Clone)]
pub struct Globals {
    node: Weak<Node>,
}

impl Globals {
    /// The elements that the reference names. Makes this node a user of their region: it is not removed while
    /// the slice, or one made from it, lives. That costs two messages if this node did not use the region
    /// lately, and none otherwise.
    ///
    /// An error if the elements are not all in one region here, or if the region that the reference was made for
    /// is gone ("stale"), even where another one has its addresses now.
    pub fn open<T: Element>(&self, global: Global<T>) -> Result<SharedSlice<T>> {
        let node = self.node.upgrade().ok_or(Error::Left)?;
        let len = usize::try_from(global.len()).ok();
        let bytes = len.and_then(|len| len.checked_mul(size_of::<T>())).filter(|bytes| *bytes > 0);
        let (Some(start), Some(len), Some(bytes)) = (node.pointer(global.addr()), len, bytes) else {
            return Err(Error::Invalid(format!("{global:?} is in no region of this node")));
        };
        let generation = global.generation();
        let used = node.open_region(global.addr(), bytes as u64, generation)?;
        let region = Region { generation, _used: Some(used) };
        SharedSlice::from_parts(node, region, (global.addr(), start.cast()), len)
    }
}

impl<T: Element> SharedSlice<T> {
    /// A reference to all elements, to pass in a call.
    pub fn global(&self) -> Global<T> {
        Global::new(self.addr(), self.len() as u64, self.generation())
    }

    /// A reference to some elements, to pass in a call. Panics beyond the end.
    pub fn global_range(&self, range: Range<usize>) -> Global<T> {
        let count = range.end.checked_sub(range.start).expect("a range that ends after its start");
        self.check(range.start, count);
        Global::new(self.addr_of(range.start), count as u64, self.generation())
    }
}
