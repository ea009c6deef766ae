//! Calls as programs see them: serving an interface, finding its servers, and references into shared
//! memory that travel as arguments.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::element::{Element, element_type};
use super::slice::Region;
use super::{Dsm, SharedSlice};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::page::NodeId;
use crate::rpc::{Channel, Endpoint, Global, PeerId, Policy, Service};

impl Dsm {
    /// The calls of this rank.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let together = dsm.calls().batch();
    /// // Requests that are started here travel together.
    /// drop(together);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn calls(&self) -> &Arc<Endpoint> {
        self.node.calls()
    }

    /// Serves an interface: every member knows it on return. At most `calls_max` of its calls wait or run
    /// at one time, more are `Busy`. A service that uses shared memory takes [`Dsm::globals`] along.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// let service = GreeterServer(Polite { globals: dsm.globals() });
    /// dsm.serve(service, 64)?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn serve(&self, service: impl Service, calls_max: usize) -> Result<()> {
        self.node.serve(service, calls_max)
    }

    /// The way to whoever serves the interface of the client that is made with it.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let greeter = GreeterClient::new(dsm.channel(Policy::RoundRobin));
    /// assert_eq!(greeter.greet("Ada")?, "hello, Ada");
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn channel(&self, policy: Policy) -> Channel {
        self.node.channel(policy)
    }

    /// Waits until some node serves the interface.
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
    /// dsm.wait_for_server("Greeter", Duration::from_secs(10))?;
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn wait_for_server(&self, name: &str, timeout: Duration) -> Result<()> {
        self.node.wait_for_server(name, timeout)
    }

    /// The way to the interfaces of one node. Calls end with `ServerDied` or `Unreachable` when it goes.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let greeter = GreeterClient::new(dsm.channel_to(dsm.node_id())?);
    /// assert_eq!(greeter.greet("Ada")?, "hello, Ada");
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn channel_to(&self, node: NodeId) -> Result<Channel> {
        self.node.channel_to(node)
    }

    /// The present start of a node, as calls name it. `None` if it is no member, and in a forked child.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let me = dsm.peer(dsm.node_id()).expect("a member");
    /// assert_eq!(me.node, dsm.node_id());
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn peer(&self, node: NodeId) -> Option<PeerId> {
        self.node.peer(node)
    }

    /// For servers: opens what comes as `global<T>`, and does not keep this rank in the cluster.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let service = GreeterServer(Polite { globals: dsm.globals() });
    /// # drop(service);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn globals(&self) -> Globals {
        Globals { node: Arc::downgrade(&self.node) }
    }
}

/// Opens references into shared memory.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let values = dsm.alloc::<u64>("values", 10)?;
/// let reference = values.global_range(2..5); // what comes as an argument
/// let opened = dsm.globals().open(reference)?;
/// assert_eq!(opened.len(), 3);
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone)]
pub struct Globals {
    node: Weak<Node>,
}

impl Globals {
    /// The elements that the reference names. Makes this node a user of their region: it is not removed while
    /// the slice, or one made from it, lives. That costs two messages if this node did not use the region
    /// lately, and none otherwise.
    ///
    /// An error after [`Dsm::leave`], or if the reference was made in another cluster, the elements are not all in
    /// one region here or are of another type, or the region that the reference was made for is gone ("stale"), even
    /// where another one has its addresses now.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let globals = dsm.globals();
    /// let nowhere = pagemesh::rpc::Global::<u64>::new(GlobalAddr(0), 3, 0);
    /// assert!(globals.open(nowhere).is_err());
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn open<T: Element>(&self, global: Global<T>) -> Result<SharedSlice<T>> {
        let node = self.node.upgrade().ok_or(Error::Left)?;
        let len = usize::try_from(global.len()).ok();
        let bytes = len.and_then(|len| len.checked_mul(size_of::<T>())).filter(|bytes| *bytes > 0);
        let (Some(start), Some(len), Some(bytes)) = (node.pointer(global.addr()), len, bytes) else {
            return Err(Error::Invalid(format!("{global:?} is in no region of this node")));
        };
        let generation = global.generation();
        let used = node.open_region(global.addr(), bytes as u64, generation)?;
        node.check_elements(global.addr(), bytes as u64, &element_type::<T>())?;
        let region = Region { generation, _used: Some(used) };
        SharedSlice::from_parts(node, region, (global.addr(), start.cast()), len)
    }
}

impl<T: Element> SharedSlice<T> {
    /// A reference to all elements, to pass in a call.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let values = dsm.alloc::<u64>("values", 3)?;
    /// values.fill(14);
    /// let greeter = GreeterClient::new(dsm.channel(Policy::RoundRobin));
    /// assert_eq!(greeter.sum(values.global())?, 42);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn global(&self) -> Global<T> {
        Global::new(self.addr(), self.len() as u64, self.generation())
    }

    /// A reference to some elements, to pass in a call. Panics beyond the end.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
    /// # fn main() -> pagemesh::Result<()> {
    /// # use greeter::*;
    /// # use pagemesh::rpc::*;
    /// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
    /// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
    /// let values = dsm.alloc::<u64>("values", 3)?;
    /// values.fill(14);
    /// let greeter = GreeterClient::new(dsm.channel(Policy::RoundRobin));
    /// assert_eq!(greeter.sum(values.global_range(1..3))?, 28);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn global_range(&self, range: Range<usize>) -> Global<T> {
        let count = range.end.checked_sub(range.start).expect("a range that ends after its start");
        self.check(range.start, count);
        Global::new(self.addr_of(range.start), count as u64, self.generation())
    }
}
