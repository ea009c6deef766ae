//! What a program holds: the cluster ([`Dsm`]) and typed handles on shared memory ([`SharedSlice`]).

mod atomic;
mod blocks;
mod builder;
mod calls;
mod collective;
mod copy;
mod element;
mod slice;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::blocks::Items;
use self::element::element_type;
use crate::coherence::Placement;
use crate::error::{Error, Result};
use crate::membership::RegionRecord;
use crate::node::Node;
use crate::node::status::NodeStatus;
use crate::page::{GlobalAddr, NodeId};
use crate::sync::DsmMutex;

pub use atomic::{Atomic, AtomicCell, AtomicInteger};
pub use builder::Builder;
pub use calls::Globals;
pub use element::{Element, Pod, Untagged, derived};
pub use slice::SharedSlice;

/// A rank's membership of the cluster. Dropping it leaves; [`Dsm::leave`] does so and tells of errors.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let squares = dsm.alloc::<u64>("squares", 100)?;
/// for i in dsm.my_block(squares.len()) {
///     squares.set(i, (i * i) as u64);
/// }
/// dsm.barrier()?;
/// assert_eq!(squares.get(99), 9801);
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
pub struct Dsm {
    node: Arc<Node>,
    rank: u32,
    ranks: u32,
}

/// What a node has done since it joined; differences of two readings tell of what lay between.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let before = dsm.stats();
/// dsm.alloc::<u64>("data", 1)?.set(0, 1);
/// println!("{} faults by stores", dsm.stats().write_faults - before.write_faults);
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Stats {
    /// Faults by loads.
    pub read_faults: u64,
    /// Faults by stores.
    pub write_faults: u64,
    /// Pages that came from other nodes.
    pub pages_received: u64,
    /// Pages that came without bytes because nobody had written them.
    pub zero_pages_received: u64,
    /// Pages that went to other nodes.
    pub pages_sent: u64,
    /// Bytes of datagrams sent, headers included.
    pub bytes_sent: u64,
    /// Bytes of datagrams received, headers included.
    pub bytes_received: u64,
    /// Datagrams sent.
    pub datagrams_sent: u64,
    /// Datagrams received.
    pub datagrams_received: u64,
    /// Message fragments sent again.
    pub retransmissions: u64,
    /// Datagrams that the kernel dropped for want of room.
    pub socket_drops: u64,
}

impl Stats {
    fn of(status: &NodeStatus) -> Stats {
        Stats {
            read_faults: status.read_faults,
            write_faults: status.write_faults,
            pages_received: status.coherence.pages_received,
            zero_pages_received: status.coherence.zero_pages_received,
            pages_sent: status.coherence.pages_sent,
            bytes_sent: status.socket.bytes_out,
            bytes_received: status.socket.bytes_in,
            datagrams_sent: status.socket.datagrams_out,
            datagrams_received: status.socket.datagrams_in,
            retransmissions: status.net.fragments_retransmitted,
            socket_drops: status.socket_drops,
        }
    }
}

impl Dsm {
    /// Starts to describe how to join.
    ///
    /// ```
    /// use pagemesh::Dsm;
    ///
    /// let dsm = Dsm::builder().from_env()?.join()?;
    /// println!("rank {} of {}", dsm.rank(), dsm.ranks());
    /// dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// This rank, from 0.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// assert!(dsm.rank() < dsm.ranks());
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Ranks of the program.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let next = (dsm.rank() + 1) % dsm.ranks();
    /// # assert_eq!(next, 0);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Whether this is rank 0.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// if dsm.is_root() {
    ///     println!("said once");
    /// }
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn is_root(&self) -> bool {
        self.rank == 0
    }

    /// The ranks of this program whose processes run on this host, this one included, by ascending
    /// number. A host is where process numbers mean the same: two containers on one machine are two hosts.
    /// Ranks that have left or died are not among them. In a forked child, which is no rank, there are none.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// let dsm = Dsm::builder().join()?;
    /// let neighbours = dsm.ranks_on_this_host();
    /// // One rank of each host does what is to be done once a host.
    /// if neighbours.first() == Some(&dsm.rank()) {
    ///     println!("{} ranks here", neighbours.len());
    /// }
    /// # assert_eq!(neighbours, [0]);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn ranks_on_this_host(&self) -> Vec<u32> {
        self.node.ranks_on_this_host()
    }

    /// This rank's share of `n` items in contiguous blocks: shares differ by at most one item, and
    /// may be empty.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let sum: usize = dsm.my_block(1000).sum();
    /// # assert_eq!(sum, 499_500);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn my_block(&self, n: usize) -> Range<usize> {
        blocks::block(n, self.rank as usize, self.ranks as usize)
    }

    /// This rank's share of the elements of `slice` in contiguous blocks of whole pages: no two ranks' shares
    /// have elements on one page (4096 bytes), so that ranks that write their shares never take pages away
    /// from each other. Shares differ by at most one page, and may be empty. Elements that do not fill a page
    /// evenly are shared out in runs of pages that they fill evenly (24 bytes: 512 elements, 3 pages).
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let field = dsm.alloc::<f64>("field", 100_000)?;
    /// let mine = dsm.my_block_aligned(&field);
    /// assert!(mine.start % 512 == 0, "512 numbers of 8 bytes fill a page");
    /// field.slice(mine).fill(1.0);
    /// # assert_eq!(field.iter().sum::<f64>(), 100_000.0);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn my_block_aligned<T: Element>(&self, slice: &SharedSlice<T>) -> Range<usize> {
        let items = Items { count: slice.len(), size: size_of::<T>(), addr: slice.addr().0 };
        items.block_of_pages(self.rank as usize, self.ranks as usize)
    }

    /// The elements of this rank's rows in a matrix of `n` rows of `width` elements, row by row in memory:
    /// the rows [`my_block(n)`](Dsm::my_block), as a range of elements. Panics if the matrix has more
    /// elements than a `usize` can count.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let (n, width) = (8, 100);
    /// let matrix = dsm.alloc::<f32>("matrix", n * width)?;
    /// let mine = matrix.slice(dsm.rows(n, width));
    /// for (row, elements) in dsm.my_block(n).zip(mine.to_vec().chunks(width)) {
    ///     println!("row {row} begins with {}", elements[0]);
    /// }
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn rows(&self, n: usize, width: usize) -> Range<usize> {
        assert!(n.checked_mul(width).is_some(), "{n} rows of {width} elements are beyond any memory");
        let rows = self.my_block(n);
        rows.start * width..rows.end * width
    }

    /// Waits until every rank has called it. What a rank wrote before is seen by all ranks after.
    ///
    /// Costs 2(n - 1) messages between n ranks, in two hops. Fails with [`Error::NodeDied`] if a rank has
    /// died, with [`Error::NodeLeft`] if one has left and will never come. After 5 s one line on standard error says which ranks are
    /// missing; the wait goes on.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let total = dsm.alloc::<u64>("total", 1)?;
    /// if dsm.is_root() {
    ///     total.set(0, 7);
    /// }
    /// dsm.barrier()?;
    /// assert_eq!(total.get(0), 7); // on every rank
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn barrier(&self) -> Result<()> {
        self.node.barrier(None)
    }

    /// Waits until every rank has called it, but for about `timeout` at most.
    ///
    /// If the ranks are not complete by then, this rank's arrival is withdrawn, and [`Error::Timeout`] names
    /// the ranks that are missing. It is then as if this rank had not come: the others go on waiting for it,
    /// and the barrier ends when it has called again and the others are still there. A rank that withdraws
    /// while the last one arrives either succeeds, as all do, or fails and is waited for; the home of the
    /// barriers decides, and its answer is waited for.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// while let Err(error) = dsm.barrier_timeout(Duration::from_secs(30)) {
    ///     let Error::Timeout { .. } = error else { return Err(error) };
    ///     eprintln!("{error}"); // which ranks are missing
    /// }
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn barrier_timeout(&self, timeout: Duration) -> Result<()> {
        // A time that the clock cannot count is never reached.
        self.node.barrier(Instant::now().checked_add(timeout))
    }

    /// As [`Dsm::barrier_timeout`], until a point in time.
    ///
    /// ```
    /// # use std::time::{Duration, Instant};
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let deadline = Instant::now() + Duration::from_secs(30);
    /// dsm.barrier_deadline(deadline)?;
    /// # dsm.leave()?;
    /// # Ok::<(), pagemesh::Error>(())
    /// ```
    pub fn barrier_deadline(&self, deadline: Instant) -> Result<()> {
        self.node.barrier(Some(deadline))
    }

    /// Makes or finds the region `name` of `len` elements; new memory is zero. All ranks that name it,
    /// and later programs that find it, must ask for the same length and the same type of elements (see
    /// [`Element`]); else an error says both, and nothing is changed. A page's home is a daemon near the rank
    /// that touches it first. Returns when all members of the cluster know the region.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let table = dsm.alloc::<u64>("table", 1000)?;
    /// assert!(table.iter().all(|entry| entry == 0));
    /// let error = dsm.alloc::<u64>("table", 2000).err().unwrap();
    /// assert!(error.to_string().contains("16000"), "{error}");
    /// let error = dsm.alloc::<f64>("table", 1000).err().unwrap();
    /// assert!(error.to_string().contains("`<u8` (u64), not 8000 in elements of 8 bytes of type `<f8` (f64)"));
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn alloc<T: Element>(&self, name: &str, len: usize) -> Result<SharedSlice<T>> {
        self.alloc_as(name, len, None)
    }

    /// [`alloc`](Dsm::alloc) with a rule for the pages' homes. A region that exists must have been made with that
    /// rule; else an error says both, and nothing is changed. ([`alloc`](Dsm::alloc) finds it whatever its rule.)
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// // One block of pages for each daemon.
    /// let matrix = dsm.alloc_with::<f64>("matrix", 1000 * 1000, Placement::Block)?;
    /// # assert_eq!(matrix.len(), 1_000_000);
    /// let error = dsm.alloc_with::<f64>("matrix", 1000 * 1000, Placement::Cyclic).err().unwrap();
    /// assert!(error.to_string().contains("placement block, not cyclic"), "{error}");
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn alloc_with<T: Element>(
        &self,
        name: &str,
        len: usize,
        placement: Placement,
    ) -> Result<SharedSlice<T>> {
        self.alloc_as(name, len, Some(placement))
    }

    fn alloc_as<T: Element>(
        &self,
        name: &str,
        len: usize,
        placement: Option<Placement>,
    ) -> Result<SharedSlice<T>> {
        let element = size_of::<T>();
        if element == 0 {
            return Err(Error::Invalid(format!("region `{name}`: elements without size")));
        }
        let bytes = len.checked_mul(element).ok_or_else(|| {
            Error::Invalid(format!(
                "region `{name}`: {len} elements of {element} bytes are beyond any memory"
            ))
        })?;
        let record = self.node.alloc(name, bytes as u64, element_type::<T>(), placement)?;
        self.open(&record)
    }

    /// Finds the region `name`, of any length, which may be an earlier program's. An error if there is none,
    /// or if its elements are of another type.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// dsm.alloc::<u32>("data", 8)?;
    /// assert_eq!(dsm.attach::<u32>("data")?.len(), 8);
    /// assert!(dsm.attach::<u32>("no such region").is_err());
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn attach<T: Element>(&self, name: &str) -> Result<SharedSlice<T>> {
        let record = self.node.attach(name, element_type::<T>())?;
        self.open(&record)
    }

    fn open<T: Element>(&self, record: &RegionRecord) -> Result<SharedSlice<T>> {
        let (own, wanted) = (&record.element, element_type::<T>());
        if own.tag != wanted.tag {
            tracing::warn!("region `{}` of {own} is opened in {wanted}: types are not compared", record.name);
        }
        SharedSlice::new(self.node.clone(), record)
    }

    /// Marks the region for removal: it goes when the last rank that uses it has left.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// dsm.alloc::<u8>("scratch", 100)?;
    /// dsm.remove("scratch")?;
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn remove(&self, name: &str) -> Result<()> {
        self.node.remove(name)
    }

    /// Makes or finds a value behind a lock that all ranks share; a new one is zero.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let counter = dsm.mutex::<u64>("counter")?;
    /// *counter.lock()? += 1;
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn mutex<T: Pod>(&self, name: &str) -> Result<DsmMutex<T>> {
        DsmMutex::new(self.alloc_as(&format!("mutex {name}"), 1, None)?)
    }

    /// [`mutex`](Dsm::mutex) with a rule for the home of lock and value. A mutex that exists must have been made
    /// with that rule; else an error says both.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// // With the other data of the same daemon.
    /// let counter = dsm.mutex_with::<u64>("counter", Placement::Cyclic)?;
    /// *counter.lock()? += 1;
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn mutex_with<T: Pod>(&self, name: &str, placement: Placement) -> Result<DsmMutex<T>> {
        DsmMutex::new(self.alloc_with(&format!("mutex {name}"), 1, placement)?)
    }

    /// A pointer to a byte of the arena, valid as long as its region is; null outside the arena.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let data = dsm.alloc::<u32>("data", 2)?;
    /// data.set(1, 7);
    /// let second: *mut u32 = dsm.pointer(GlobalAddr(data.addr().0 + 4));
    /// // SAFETY: it points to an element of the region, which no rank writes now.
    /// assert_eq!(unsafe { second.read() }, 7);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn pointer<T>(&self, addr: GlobalAddr) -> *mut T {
        self.node.pointer(addr).map_or(std::ptr::null_mut(), <*mut u8>::cast)
    }

    /// Where a pointer into shared memory leads, on every node.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let data = dsm.alloc::<u32>("data", 2)?;
    /// assert_eq!(dsm.address(data.as_ptr()), Some(data.addr()));
    /// assert_eq!(dsm.address(&0_u32), None);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn address<T>(&self, pointer: *const T) -> Option<GlobalAddr> {
        self.node.global(pointer.cast())
    }

    /// What this node has done so far. In a forked child, which cannot ask its parent's node, all counts are 0.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let before = dsm.stats();
    /// dsm.barrier()?;
    /// let sent = dsm.stats().bytes_sent - before.bytes_sent;
    /// # assert_eq!(sent, 0);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn stats(&self) -> Stats {
        Stats::of(&self.node.counts())
    }

    /// The same with everything that there is to know; in a forked child nothing but the parent's node id.
    #[doc(hidden)]
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// This rank's node id; in a forked child the parent's.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # let dsm = Dsm::builder().arena_anywhere().join()?;
    /// let to_myself = dsm.channel_to(dsm.node_id())?;
    /// # drop(to_myself);
    /// # dsm.leave()?;
    /// # Ok::<(), Error>(())
    /// ```
    pub fn node_id(&self) -> NodeId {
        self.node.id()
    }

    /// Leaves the cluster: everything that this rank wrote is safe with the daemons on return. (Without
    /// daemons the ranks hold the memory; then it waits for all of them to leave, and those that wait for this rank
    /// at a barrier, in a collective operation or for a lock get [`Error::NodeLeft`].)
    ///
    /// Handles that outlive it are of no use: see [`SharedSlice`], "After `leave`". A lock that is held meanwhile is
    /// broken for the other ranks, and a guard that was changed must be dropped before.
    ///
    /// ```
    /// use pagemesh::Dsm;
    ///
    /// fn main() -> pagemesh::Result<()> {
    ///     let dsm = Dsm::builder().arena_anywhere().join()?;
    ///     dsm.alloc::<u64>("result", 1)?.set(0, 42);
    ///     dsm.leave() // an error says what was not written back
    /// }
    /// ```
    pub fn leave(self) -> Result<()> {
        self.node.leave()
    }
}
