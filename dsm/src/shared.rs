//! What a program holds: the cluster ([`Dsm`]) and typed handles on shared memory ([`SharedSlice`]).

mod calls;

use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use bytemuck::Pod;

use crate::coherence::Placement;
use crate::config::node::{COPY_AHEAD, COPY_PART};
use crate::error::{Error, Result};
use crate::membership::RegionRecord;
use crate::node::status::NodeStatus;
use crate::node::{Node, NodeConfig};
use crate::page::{Access, GlobalAddr, NodeId, PageId};
use crate::settings::Settings;
use crate::sync::DsmMutex;

pub use calls::Globals;

/// A rank's membership of the cluster. Dropping it leaves; [`Dsm::leave`] does so and tells of errors.
pub struct Dsm {
    node: Arc<Node>,
    rank: u32,
    ranks: u32,
}

/// What a node has done since it joined; differences of two readings tell of what lay between.
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

/// How to join; see [`Dsm::builder`].
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
    arena: Arena,
}

/// Where the arena is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Arena {
    /// At the address of the settings: raw pointers mean the same in every process.
    #[default]
    Fixed,
    /// Anywhere: for several nodes in one process.
    Anywhere,
}

impl Builder {
    /// Takes the settings from `PAGEMESH_*` variables and `pagemesh.toml`.
    pub fn from_env(mut self) -> Result<Builder> {
        self.settings = Settings::from_env()?;
        Ok(self)
    }

    /// Takes these settings.
    pub fn settings(mut self, settings: Settings) -> Builder {
        self.settings = settings;
        self
    }

    /// Lets the system choose where the arena is mapped. Raw pointers in shared memory are then of
    /// use in this process only; handles still mean the same everywhere.
    pub fn arena_anywhere(mut self) -> Builder {
        self.arena = Arena::Anywhere;
        self
    }

    /// Uses this key file.
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.settings.key_file = Some(path.into());
        self
    }

    /// Joins the cluster: returns when all ranks of the program are there. On an error nothing is
    /// left running.
    pub fn join(self) -> Result<Dsm> {
        let (rank, ranks) = (self.settings.rank, self.settings.ranks);
        let mut config = NodeConfig::rank(self.settings);
        if self.arena == Arena::Anywhere {
            config.arena_base = None;
        }
        Ok(Dsm { node: Arc::new(Node::start(config)?), rank, ranks })
    }
}

impl Dsm {
    /// Starts to describe how to join.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// This rank, from 0.
    pub fn rank(&self) -> u32 {
        self.rank
    }

    /// Ranks of the program.
    pub fn ranks(&self) -> u32 {
        self.ranks
    }

    /// Whether this is rank 0.
    pub fn is_root(&self) -> bool {
        self.rank == 0
    }

    /// This rank's share of `n` items in contiguous blocks: shares differ by at most one item, and
    /// may be empty.
    pub fn my_block(&self, n: usize) -> Range<usize> {
        block(n, self.rank as usize, self.ranks as usize)
    }

    /// Waits until every rank has called it. What was written before is seen after, by everybody.
    pub fn barrier(&self) -> Result<()> {
        self.node.barrier()
    }

    /// Makes or finds the region `name` of `len` elements; new memory is zero. Every rank that names
    /// it must ask for the same length and element size. Homes by first touch.
    pub fn alloc<T: Pod>(&self, name: &str, len: usize) -> Result<SharedSlice<T>> {
        self.alloc_with(name, len, Placement::FirstTouch)
    }

    /// The same, with a rule for homes, which counts where the region is made.
    pub fn alloc_with<T: Pod>(&self, name: &str, len: usize, placement: Placement) -> Result<SharedSlice<T>> {
        let element = size_of::<T>();
        if element == 0 {
            return Err(Error::Invalid(format!("region `{name}`: elements without size")));
        }
        let bytes = len.checked_mul(element).ok_or_else(|| {
            Error::Invalid(format!(
                "region `{name}`: {len} elements of {element} bytes are beyond any memory"
            ))
        })?;
        let record = self.node.alloc(name, bytes as u64, element as u64, placement)?;
        SharedSlice::new(self.node.clone(), &record)
    }

    /// Finds the region `name`, which may be an earlier program's.
    pub fn attach<T: Pod>(&self, name: &str) -> Result<SharedSlice<T>> {
        let record = self.node.attach(name, size_of::<T>() as u64)?;
        SharedSlice::new(self.node.clone(), &record)
    }

    /// Marks the region for removal: it goes when the last rank that uses it has left.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.node.remove(name)
    }

    /// Makes or finds a value behind a lock that all ranks share; a new one is zero.
    pub fn mutex<T: Pod>(&self, name: &str) -> Result<DsmMutex<T>> {
        self.mutex_with(name, Placement::FirstTouch)
    }

    /// The same, with a rule for the home of lock and value, which counts where the mutex is made.
    pub fn mutex_with<T: Pod>(&self, name: &str, placement: Placement) -> Result<DsmMutex<T>> {
        DsmMutex::new(self.alloc_with(&format!("mutex {name}"), 1, placement)?)
    }

    /// A pointer to a byte of the arena, valid as long as its region is; null outside the arena.
    pub fn pointer<T>(&self, addr: GlobalAddr) -> *mut T {
        self.node.pointer(addr).map_or(std::ptr::null_mut(), <*mut u8>::cast)
    }

    /// Where a pointer into shared memory leads, on every node.
    pub fn address<T>(&self, pointer: *const T) -> Option<GlobalAddr> {
        self.node.global(pointer.cast())
    }

    /// What this node has done so far.
    pub fn stats(&self) -> Stats {
        Stats::of(&self.node.status())
    }

    /// The same with everything that there is to know.
    pub fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// This rank's node id.
    pub fn node_id(&self) -> NodeId {
        self.node.id()
    }

    /// Leaves the cluster: everything that this rank wrote is safe with the daemons on return. (Without
    /// daemons the ranks hold the memory; then it waits for all of them to leave.)
    pub fn leave(self) -> Result<()> {
        self.node.leave()
    }
}

/// The share of `index` among `parts` in `n` items.
fn block(n: usize, index: usize, parts: usize) -> Range<usize> {
    let (each, rest) = (n / parts, n % parts);
    let start = index * each + index.min(rest);
    start..start + each + usize::from(index < rest)
}

/// Elements in shared memory. Plain pointers to them work: what is not here comes by a page fault.
///
/// `get`, `set` and the copies are safe against other nodes' simultaneous writes in the sense that
/// they tear at worst between machine words; to see whole values, order accesses by locks or barriers.
pub struct SharedSlice<T> {
    node: Arc<Node>,
    addr: GlobalAddr,
    start: *mut T,
    len: usize,
    _element: PhantomData<T>,
}

// SAFETY: the handle is an address; all accesses through it are atomic or volatile, or unsafe.
#[allow(unsafe_code)]
unsafe impl<T: Pod + Send> Send for SharedSlice<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: Pod + Send> Sync for SharedSlice<T> {}

impl<T> Clone for SharedSlice<T> {
    fn clone(&self) -> Self {
        SharedSlice { node: self.node.clone(), ..*self }
    }
}

impl<T: Pod> SharedSlice<T> {
    fn new(node: Arc<Node>, record: &RegionRecord) -> Result<Self> {
        let addr = record.info.start.start();
        let start = node
            .pointer(addr)
            .ok_or_else(|| Error::Invalid("this node has no view of shared memory".into()))?
            .cast::<T>();
        Self::from_parts(node, addr, start, record.bytes as usize / size_of::<T>())
    }

    fn from_parts(node: Arc<Node>, addr: GlobalAddr, start: *mut T, len: usize) -> Result<Self> {
        if !start.is_aligned() {
            return Err(Error::Invalid("elements need more alignment than their address has".into()));
        }
        Ok(SharedSlice { node, addr, start, len, _element: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none; never, since regions have at least one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the first element is, on every node.
    pub fn addr(&self) -> GlobalAddr {
        self.addr
    }

    /// A pointer to the first element.
    pub fn as_ptr(&self) -> *const T {
        self.start
    }

    /// A pointer to the first element, for writing.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }

    /// The element at `index`. Panics beyond the end.
    pub fn get(&self, index: usize) -> T {
        let mut value = [T::zeroed()];
        self.check(index, 1);
        self.read(index, &mut value);
        value[0]
    }

    /// Writes the element at `index`. Panics beyond the end.
    pub fn set(&self, index: usize, value: T) {
        self.check(index, 1);
        self.write(index, &[value]);
    }

    /// Copies `values` to the elements from `offset` on.
    pub fn copy_in(&self, offset: usize, values: &[T]) -> Result<()> {
        self.check_range(offset, values.len())?;
        self.in_parts(offset..offset + values.len(), Access::Write, |part| {
            self.write(part.start, &values[part.start - offset..part.end - offset]);
        });
        Ok(())
    }

    /// Copies the elements from `offset` on to `values`.
    pub fn copy_out(&self, offset: usize, values: &mut [T]) -> Result<()> {
        self.check_range(offset, values.len())?;
        self.in_parts(offset..offset + values.len(), Access::Read, |part| {
            self.read(part.start, &mut values[part.start - offset..part.end - offset]);
        });
        Ok(())
    }

    /// The elements as a slice.
    ///
    /// # Safety
    /// No node writes any of them while the slice lives.
    #[allow(unsafe_code)]
    pub unsafe fn as_slice(&self) -> &[T] {
        // SAFETY: the region has `len` elements from `start`, mapped while `node` lives; any bytes are
        // a `T`; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// The elements as a slice to write to.
    ///
    /// # Safety
    /// While the slice lives, nobody else, on any node, reads or writes the elements that are
    /// accessed through it, and no other slice of this process has them.
    #[allow(unsafe_code)]
    #[allow(clippy::mut_from_ref)] // The handle is an address, not the owner of the elements.
    pub unsafe fn as_mut_slice(&self) -> &mut [T] {
        // SAFETY: as for `as_slice`; the caller keeps everybody else away.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    /// Asks for elements that will be read soon; returns at once. A hint: what exceeds the bound on
    /// pages under way is passed over.
    pub fn prefetch(&self, elements: Range<usize>) {
        self.ask_ahead(elements, Access::Read);
    }

    /// The same for elements that will be written: takes them away from their readers and writers.
    pub fn prefetch_mut(&self, elements: Range<usize>) {
        self.ask_ahead(elements, Access::Write);
    }

    fn ask_ahead(&self, elements: Range<usize>, access: Access) {
        let elements = elements.start.min(self.len)..elements.end.min(self.len);
        if !elements.is_empty() {
            let byte = |index: usize| GlobalAddr(self.addr.0 + (index * size_of::<T>()) as u64);
            let (first, last) = (PageId::of(byte(elements.start)), PageId::of(byte(elements.end - 1)));
            self.node.prefetch(first.0..last.0 + 1, access);
        }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn check(&self, index: usize, count: usize) {
        assert!(
            index.checked_add(count).is_some_and(|end| end <= self.len),
            "elements {index}..{} of {}",
            index.saturating_add(count),
            self.len
        );
    }

    fn check_range(&self, offset: usize, count: usize) -> Result<()> {
        if offset.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(Error::Invalid(format!("{count} elements from {offset} of {}", self.len)));
        }
        Ok(())
    }

    fn read(&self, index: usize, values: &mut [T]) {
        let from = self.start.wrapping_add(index).cast::<u8>();
        copy_words(from, bytemuck::cast_slice_mut(values));
    }

    fn write(&self, index: usize, values: &[T]) {
        let to = self.start.wrapping_add(index).cast::<u8>();
        copy_bytes(to, bytemuck::cast_slice(values));
    }

    /// A range part by part, several parts asked for ahead of the one that is copied: the range travels at
    /// the network's speed, whatever the pages' faults cost, and steadily, so that nobody falls asleep.
    fn in_parts(&self, range: Range<usize>, access: Access, mut copy: impl FnMut(Range<usize>)) {
        let elements = |bytes: usize| (bytes / size_of::<T>()).max(1);
        let (part, ahead) = (elements(COPY_PART), elements(COPY_AHEAD));
        self.ask_ahead(range.start..range.end.min(range.start + ahead), access);
        for start in range.clone().step_by(part) {
            let end = range.end.min(start + part);
            self.ask_ahead(range.end.min(start + ahead)..range.end.min(end + ahead), access);
            copy(start..end);
        }
    }
}

/// Reads bytes that another node may be writing: whole words atomically, the ends byte by byte.
#[allow(unsafe_code)]
fn copy_words(from: *const u8, to: &mut [u8]) {
    let (head, rest) = to.split_at_mut(bytes_before_words(from.addr(), to.len()));
    let (words, tail) = rest.as_chunks_mut::<8>();
    let source = from.wrapping_add(head.len()).cast::<u64>();
    let behind = source.wrapping_add(words.len()).cast::<u8>();
    for (source, byte) in (0..).map(|at| from.wrapping_add(at)).zip(head) {
        // SAFETY: checked by the callers to lie in the region.
        *byte = unsafe { source.read_volatile() };
    }
    for (source, word) in (0..).map(|at| source.wrapping_add(at)).zip(words) {
        // SAFETY: as above, and aligned; memory that other nodes write is read atomically, and its pages
        // become readable by a fault.
        let value = unsafe { AtomicU64::from_ptr(source.cast_mut()) }.load(Ordering::Relaxed);
        *word = value.to_ne_bytes();
    }
    for (source, byte) in (0..).map(|at| behind.wrapping_add(at)).zip(tail) {
        // SAFETY: as above.
        *byte = unsafe { source.read_volatile() };
    }
    fence(Ordering::Acquire);
}

/// Writes bytes that another node may be reading: whole words atomically, the ends byte by byte.
#[allow(unsafe_code)]
fn copy_bytes(to: *mut u8, from: &[u8]) {
    fence(Ordering::Release);
    let (head, rest) = from.split_at(bytes_before_words(to.addr(), from.len()));
    let (words, tail) = rest.as_chunks::<8>();
    let target = to.wrapping_add(head.len()).cast::<u64>();
    let behind = target.wrapping_add(words.len()).cast::<u8>();
    for (target, byte) in (0..).map(|at| to.wrapping_add(at)).zip(head) {
        // SAFETY: checked by the callers to lie in the region.
        unsafe { target.write_volatile(*byte) };
    }
    for (target, word) in (0..).map(|at| target.wrapping_add(at)).zip(words) {
        // SAFETY: as above, and aligned.
        unsafe { AtomicU64::from_ptr(target) }.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
    }
    for (target, byte) in (0..).map(|at| behind.wrapping_add(at)).zip(tail) {
        // SAFETY: as above.
        unsafe { target.write_volatile(*byte) };
    }
}

/// Of `len` bytes from `addr` on, those in front of the first whole word.
fn bytes_before_words(addr: usize, len: usize) -> usize {
    len.min(addr.wrapping_neg() % size_of::<u64>())
}

#[cfg(test)]
mod tests {
    use super::{block, copy_bytes, copy_words};

    #[test]
    fn bytes_at_any_place_are_copied_and_no_others() {
        let bytes: Vec<u8> = (1..=40).collect();
        for (start, len) in (0..9).flat_map(|start| (0..31).map(move |len| (start, len))) {
            let (mut memory, mut back) = ([0u64; 6], vec![0; len]);
            let memory = bytemuck::bytes_of_mut(&mut memory);
            copy_bytes(memory[start..].as_mut_ptr(), &bytes[..len]);
            assert_eq!(memory[start..start + len], bytes[..len]);
            assert!(memory[..start].iter().chain(&memory[start + len..]).all(|&byte| byte == 0));
            copy_words(memory[start..].as_ptr(), &mut back);
            assert_eq!(back, bytes[..len]);
        }
    }

    #[test]
    fn blocks_cover_everything_once() {
        for (n, parts) in [(0, 3), (1, 3), (7, 3), (9, 3), (10, 1), (3, 8)] {
            let mut next = 0;
            for index in 0..parts {
                let share = block(n, index, parts);
                assert_eq!(share.start, next);
                assert!(share.len() <= n.div_ceil(parts));
                next = share.end;
            }
            assert_eq!(next, n);
        }
    }
}
