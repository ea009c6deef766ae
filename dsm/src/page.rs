//! The vocabulary that every floor shares: who (nodes), where (pages, addresses), when (time), and
//! the one trait through which a core touches local memory. Nothing here does IO or decides.

use std::fmt;
use std::ops::{Add, Sub};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// Bytes in one page, the unit of coherence.
pub const PAGE_SIZE: usize = 4096;
/// Pages in one extent, the unit in which homes are assigned.
pub const EXTENT_PAGES: u64 = 64;

/// A node (one process of the cluster): a slot below [`crate::config::NODES_MAX`]. Slots are reused
/// after a node has left; the pair (slot, [`Incarnation`]) never is.
///
/// ```
/// assert_eq!(pagemesh::NodeId(3).to_string(), "node 3");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId(pub u16);

/// One start of a node: random, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Incarnation(pub u64);

/// Number of a membership view; it only grows.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
)]
pub struct Epoch(pub u64);

/// Number of a page's transactions. The version of a page's bytes is the number of its last write grant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Txn(pub u64);

/// Version of a page's bytes: the transaction that last granted write access. Zero: never written.
pub use self::Txn as Version;

/// A page of the arena: byte offset divided by [`PAGE_SIZE`]. The same page has the same id on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PageId(pub u64);

/// [`EXTENT_PAGES`] neighbouring pages, aligned; they have one home.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ExtentId(pub u64);

/// Byte offset in the arena; valid on every node, whatever base its arena is mapped at.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let list = dsm.alloc::<u64>("list", 2)?;
/// list.set(0, list.addr().0); // a reference that every rank understands
/// assert_eq!(GlobalAddr(list.get(0)), list.addr());
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct GlobalAddr(pub u64);

/// A moment: nanoseconds since a start that the caller chose. Cores never read a clock; time is passed in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

/// A span of time in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

/// What the MMU allows on a page of the application's view. Ordered: `None < Read < Write`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Access {
    /// Every access faults.
    None,
    /// Loads run, stores fault.
    Read,
    /// Loads and stores run.
    Write,
}

/// The bytes that a grant of access brings with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents<'a> {
    /// All bytes are zero; older bytes of the page must be cleared.
    Zero,
    /// Exactly these [`PAGE_SIZE`] bytes.
    Bytes(&'a [u8]),
    /// The bytes that are already in this node's memory are the right ones.
    InPlace,
}

/// One start of a node. A restarted node is another peer: nothing of the old one is taken for its own.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let me = dsm.peer(dsm.node_id()).expect("a member");
/// assert_eq!(me.node, dsm.node_id());
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct PeerId {
    /// The node.
    pub node: NodeId,
    /// Which of its starts.
    pub incarnation: Incarnation,
}

/// The node of every peer that is no member of the cluster; only its incarnation tells it from others.
const CLIENT: NodeId = NodeId(u16::MAX);

impl PeerId {
    /// A process that calls nodes and is no member.
    pub(crate) fn client(incarnation: Incarnation) -> PeerId {
        PeerId { node: CLIENT, incarnation }
    }

    /// Whether it is no member.
    pub(crate) fn is_client(self) -> bool {
        self.node == CLIENT
    }
}

/// What a core may do to local memory. Each call is complete when it returns.
///
/// The application's view is what application threads load from and store to; the runtime's bytes
/// are the same memory seen without protection. Calls name pages of existing regions only.
pub trait Memory {
    /// Sets what the application may do with a page. Lowering is complete on return: every store that
    /// happened is visible to [`Memory::read`], every later one faults.
    fn protect(&mut self, page: PageId, access: Access);
    /// The same for `pages` neighbours from `first` on.
    fn protect_range(&mut self, first: PageId, pages: u64, access: Access);
    /// Copies the page's bytes. A page without memory reads as zero.
    fn read(&mut self, page: PageId) -> PageBuf;
    /// Writes the page's bytes, which are of this version, then sets what the application may do with it.
    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, version: Version);
    /// The bytes that are in place become this version's: what the application stores to them from now on. Complete
    /// on return, so that the access may be raised.
    fn set_version(&mut self, page: PageId, version: Version);
    /// Notes the home of an extent for whoever runs this node on after its process has ended. A memory that nobody
    /// takes over notes nothing.
    fn note_home(&mut self, _extent: ExtentId, _home: NodeId) {}
    /// Notes that this node knows all about the pages of which it is home, in the round of this epoch: whoever runs the
    /// node on need not doubt them for ends of processes that earlier views have told.
    fn note_opened(&mut self, _round: Epoch) {}
    /// Contents of `pages` neighbours from `first` on will be installed soon: a hint to make room for
    /// them together, which is cheaper.
    fn expect(&mut self, _first: PageId, _pages: u64) {}
    /// Gives the page's memory back; its access must be [`Access::None`]. A later read sees zeros.
    fn discard(&mut self, page: PageId);
    /// Takes all access to all pages away for ever, because the node has ended: when it returns, every access
    /// faults, and no later call gives any. The bytes stay.
    fn revoke_all(&mut self);
}

/// What a core may do to the words by which the threads of its node take locks without it.
pub trait LockWords {
    /// Lets the node's threads take the lock of this page and give it back among themselves, without the
    /// core: it is free, and `token` was its last. False if they cannot; then nothing has changed.
    fn lend_lock(&mut self, page: PageId, token: u64) -> bool;
    /// Ends what a successful [`LockWords::lend_lock`] began: when it returns, no thread takes the lock or
    /// gives it back but by the core.
    fn recall_lock(&mut self, page: PageId) -> Lent;
    /// At a lock's home: notes whether somebody has the lock, for whoever runs this node on after its process has
    /// ended. Words that nobody takes over note nothing.
    fn note_lock(&mut self, _page: PageId, _is_taken: bool) {}
}

/// How a lent lock comes back, with the last token that was given out for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lent {
    /// Nobody has it.
    Free {
        /// The last token.
        token: u64,
    },
    /// A thread is in the critical section. It will give the lock back by the core.
    Held {
        /// Its token.
        token: u64,
    },
}

/// The bytes of one page, owned. Buffers from a [`PagePool`] return to it when dropped.
pub struct PageBuf {
    bytes: Option<Box<[u8; PAGE_SIZE]>>,
    pool: Option<Arc<ArrayQueue<Box<[u8; PAGE_SIZE]>>>>,
}

/// A bounded stock of page buffers, so that the fault path allocates nothing once it is warm.
#[derive(Clone)]
pub struct PagePool {
    free: Arc<ArrayQueue<Box<[u8; PAGE_SIZE]>>>,
}

impl PagePool {
    /// A pool that keeps at most `buffers_max` unused buffers.
    pub fn new(buffers_max: usize) -> Self {
        PagePool { free: Arc::new(ArrayQueue::new(buffers_max)) }
    }

    /// A buffer with unspecified (old) contents.
    pub fn take(&self) -> PageBuf {
        let bytes = self.free.pop().unwrap_or_else(|| Box::new([0; PAGE_SIZE]));
        PageBuf { bytes: Some(bytes), pool: Some(self.free.clone()) }
    }
}

impl PageBuf {
    /// A page of zeros that belongs to no pool.
    pub fn zeroed() -> Self {
        PageBuf { bytes: Some(Box::new([0; PAGE_SIZE])), pool: None }
    }

    /// A copy of `bytes`, which must be [`PAGE_SIZE`] long; belongs to no pool.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut page = PageBuf::zeroed();
        page.as_mut_slice().copy_from_slice(bytes);
        page
    }

    /// The page's bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_ref().expect("taken only by drop").as_slice()
    }

    /// The page's bytes, writable.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.bytes.as_mut().expect("taken only by drop").as_mut_slice()
    }
}

impl Clone for PageBuf {
    fn clone(&self) -> Self {
        let mut copy = match &self.pool {
            Some(free) => PagePool { free: free.clone() }.take(),
            None => PageBuf::zeroed(),
        };
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl Drop for PageBuf {
    fn drop(&mut self) {
        if let (Some(bytes), Some(pool)) = (self.bytes.take(), self.pool.take()) {
            // A full pool lets the buffer go.
            let _ = pool.push(bytes);
        }
    }
}

impl PartialEq for PageBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for PageBuf {}

impl std::hash::Hash for PageBuf {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

impl fmt::Debug for PageBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageBuf({:02x?}..)", &self.as_slice()[..8])
    }
}

impl PageId {
    /// The page that holds `addr`.
    pub fn of(addr: GlobalAddr) -> Self {
        PageId(addr.0 / PAGE_SIZE as u64)
    }

    /// Address of the page's first byte.
    pub fn start(self) -> GlobalAddr {
        GlobalAddr(self.0 * PAGE_SIZE as u64)
    }

    /// The extent that the page belongs to.
    pub fn extent(self) -> ExtentId {
        ExtentId(self.0 / EXTENT_PAGES)
    }
}

impl Time {
    /// The span since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Time) -> Span {
        Span(self.0.saturating_sub(earlier.0))
    }
}

impl Span {
    /// A span of whole microseconds.
    pub const fn from_us(us: u64) -> Span {
        Span(us * 1_000)
    }

    /// A span of whole milliseconds.
    pub const fn from_ms(ms: u64) -> Span {
        Span(ms * 1_000_000)
    }

    /// The same span for `std` calls.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0)
    }
}

/// The longest span, 584 years, if it is longer.
impl From<std::time::Duration> for Span {
    fn from(span: std::time::Duration) -> Span {
        Span(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Add<Span> for Time {
    type Output = Time;
    fn add(self, span: Span) -> Time {
        Time(self.0.saturating_add(span.0))
    }
}

impl Sub<Time> for Time {
    type Output = Span;
    fn sub(self, earlier: Time) -> Span {
        self.since(earlier)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

impl fmt::Debug for ExtentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{}", self.0)
    }
}

impl fmt::Debug for GlobalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{:#x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{:016x}", self.0)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}.{:03}us", self.0 / 1_000, self.0 % 1_000)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}us", self.0 / 1_000, self.0 % 1_000)
    }
}
