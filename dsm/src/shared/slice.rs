//! The typed handle on elements in shared memory.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use super::copy;
use super::element::{Element, Pod};
use crate::config::node::{COPY_AHEAD, COPY_PART};
use crate::error::{Error, Result};
use crate::membership::{RegionRecord, RegionUse};
use crate::node::Node;
use crate::page::{Access, GlobalAddr, PageId};

/// Elements in shared memory: a region, or a part of one. The handle is an address, cheap to clone; it keeps
/// this process's node, and thus its view of the memory, until the last handle is dropped. Plain pointers to
/// the elements work, too: a page that is not on this node comes by a page fault.
///
/// # What accesses promise
/// All methods are safe against accesses of other threads and nodes at the same time. Each naturally aligned
/// piece of 1, 2, 4 or 8 bytes of an element is read and written by one access of the machine, as long as
/// the piece is no larger than the alignment of `T`: integers and floats up to 64 bits never tear, nor does
/// an aligned field of a structure. A larger element, such as a structure, is several accesses, and a reader
/// may see some old and some new pieces; to see whole elements, order accesses by a lock or a barrier.
///
/// A read followed by a write is two accesses: `set(i, get(i) + 1)` loses the counts of others that do so at
/// the same time. To change an integer in place there are [`fetch_add`](SharedSlice::fetch_add),
/// [`update`](SharedSlice::update) and their like.
///
/// # After `leave`
/// A handle may outlive [`Dsm::leave`](crate::Dsm::leave), but not be used any more: methods that return a
/// [`Result`] fail with [`Error::Left`]. All others, and loads and stores by plain pointers,
/// have no way to fail: the first one that touches an element ends the process by SIGABRT, with one line that says
/// so. In a forked child they end the child by SIGSEGV.
///
/// ```
/// use pagemesh::prelude::*;
///
/// # fn main() -> pagemesh::Result<()> {
/// let dsm = Dsm::builder().join()?;
/// let squares = dsm.alloc::<f64>("squares", 1000)?;
/// for i in dsm.my_block(squares.len()) {
///     squares.set(i, (i * i) as f64);
/// }
/// dsm.barrier()?;
/// assert_eq!(squares.get(30), 900.0);
///
/// squares.copy_in(10, &[1.0, 2.0])?;
/// let mut values = [0.0; 3];
/// squares.copy_out(9, &mut values)?;
/// assert_eq!(values, [81.0, 1.0, 2.0]);
/// squares.prefetch(500..600); // read soon; there is prefetch_mut for what is written soon
/// // SAFETY: no other rank or thread writes it while the slice lives.
/// let slice = unsafe { squares.as_slice() };
/// assert_eq!((slice.len(), slice.as_ptr()), (squares.len(), squares.as_ptr()));
/// # dsm.leave()
/// # }
/// ```
pub struct SharedSlice<T> {
    node: Arc<Node>,
    addr: GlobalAddr,
    start: *mut T,
    len: usize,
    region: Region,
    _element: PhantomData<T>,
}

/// The region that a handle leads into.
#[derive(Clone)]
pub(super) struct Region {
    pub(super) generation: u64,
    /// Keeps the region while the handle lives, on a node that did not make or find it by its name.
    pub(super) _used: Option<RegionUse>,
}

// SAFETY: the handle is an address; all safe accesses through it are atomic, on values that may be sent to
// and shared with other threads.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Send for SharedSlice<T> {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<T: Send + Sync> Sync for SharedSlice<T> {}

impl<T> Clone for SharedSlice<T> {
    fn clone(&self) -> Self {
        SharedSlice { node: self.node.clone(), region: self.region.clone(), ..*self }
    }
}

impl<T: Element> SharedSlice<T> {
    pub(super) fn new(node: Arc<Node>, record: &RegionRecord) -> Result<Self> {
        let addr = record.info.start.start();
        let start = node
            .pointer(addr)
            .ok_or_else(|| Error::Invalid("this node has no view of shared memory".into()))?
            .cast::<T>();
        let region = Region { generation: record.generation, _used: None };
        Self::from_parts(node, region, (addr, start), record.bytes as usize / size_of::<T>())
    }

    pub(super) fn from_parts(
        node: Arc<Node>,
        region: Region,
        (addr, start): (GlobalAddr, *mut T),
        len: usize,
    ) -> Result<Self> {
        if !start.is_aligned() {
            return Err(Error::Invalid("elements need more alignment than their address has".into()));
        }
        Ok(SharedSlice { node, addr, start, len, region, _element: PhantomData })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no elements. A region has at least one; a part of it may have none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first element, the same on every node.
    pub fn addr(&self) -> GlobalAddr {
        self.addr
    }

    /// A pointer to the first element, valid while a handle or the [`Dsm`](crate::Dsm) lives.
    pub fn as_ptr(&self) -> *const T {
        self.start
    }

    /// A pointer to the first element, for writing, valid while a handle or the [`Dsm`](crate::Dsm) lives.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.start
    }

    /// A handle on some of the elements. Nothing is copied. Panics beyond the end.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let data = dsm.alloc::<u32>("data", 100)?;
    /// let mine = data.slice(dsm.my_block(data.len()));
    /// mine.fill(dsm.rank() + 1);
    /// assert!(mine.iter().all(|value| value == dsm.rank() + 1));
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn slice(&self, elements: Range<usize>) -> SharedSlice<T> {
        let len = elements.end.checked_sub(elements.start).expect("a range that ends after its start");
        self.check(elements.start, len);
        SharedSlice {
            node: self.node.clone(),
            addr: self.addr_of(elements.start),
            start: self.start.wrapping_add(elements.start),
            len,
            region: self.region.clone(),
            _element: PhantomData,
        }
    }

    /// Asks for elements that will be read soon; returns at once. A hint: elements beyond the end are
    /// passed over, and so is what exceeds the bound on pages under way.
    pub fn prefetch(&self, elements: Range<usize>) {
        self.ask_ahead(elements, Access::Read);
    }

    /// Asks for elements that will be written soon, and takes their pages away from the nodes that read or
    /// write them; returns at once. A hint like [`prefetch`](SharedSlice::prefetch).
    pub fn prefetch_mut(&self, elements: Range<usize>) {
        self.ask_ahead(elements, Access::Write);
    }

    fn ask_ahead(&self, elements: Range<usize>, access: Access) {
        let elements = elements.start.min(self.len)..elements.end.min(self.len);
        if !elements.is_empty() {
            let first = PageId::of(self.addr_of(elements.start));
            let last = PageId::of(self.addr_of(elements.end - 1));
            self.node.prefetch(first.0..last.0 + 1, access);
        }
    }

    pub(super) fn addr_of(&self, index: usize) -> GlobalAddr {
        GlobalAddr(self.addr.0 + (index * size_of::<T>()) as u64)
    }

    /// The number of the region that the elements lie in.
    pub(super) fn generation(&self) -> u64 {
        self.region.generation
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Panics unless `count` elements from `index` on are there.
    pub(super) fn check(&self, index: usize, count: usize) {
        assert!(
            index.checked_add(count).is_some_and(|end| end <= self.len),
            "elements {index}..{} of {}",
            index.saturating_add(count),
            self.len
        );
    }
}

impl<T: Pod> SharedSlice<T> {
    /// The element at `index`. Panics beyond the end.
    pub fn get(&self, index: usize) -> T {
        let mut value = [T::zeroed()];
        self.check(index, 1);
        self.read(index, &mut value);
        value[0]
    }

    /// Writes the element at `index`. Panics beyond the end.
    ///
    /// `set(i, get(i) + 1)` is not a count: another thread or node may write the element between the two
    /// accesses. Use [`fetch_add`](SharedSlice::fetch_add) or [`update`](SharedSlice::update), or a
    /// [`DsmMutex`](crate::DsmMutex) for what is more than an integer.
    pub fn set(&self, index: usize, value: T) {
        self.check(index, 1);
        self.write(index, &[value]);
    }

    /// Copies `values` to the elements from `offset` on. An error beyond the end, after [`Dsm::leave`] and in a
    /// forked child; nothing is copied then.
    ///
    /// [`Dsm::leave`]: crate::Dsm::leave
    pub fn copy_in(&self, offset: usize, values: &[T]) -> Result<()> {
        self.check_range(offset, values.len())?;
        self.write_parts(offset, values);
        Ok(())
    }

    /// Copies the elements from `offset` on to `values`. An error beyond the end, after [`Dsm::leave`] and in a
    /// forked child; nothing is copied then.
    ///
    /// [`Dsm::leave`]: crate::Dsm::leave
    pub fn copy_out(&self, offset: usize, values: &mut [T]) -> Result<()> {
        self.check_range(offset, values.len())?;
        self.read_parts(offset, values);
        Ok(())
    }

    /// Copies `values` to all elements. Panics if the lengths differ, as for slices.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let data = dsm.alloc::<u16>("data", 6)?;
    /// data.slice(2..5).copy_from_slice(&[7, 8, 9]);
    /// assert_eq!(data.to_vec(), [0, 0, 7, 8, 9, 0]);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn copy_from_slice(&self, values: &[T]) {
        assert_eq!(values.len(), self.len, "{} values for {} elements", values.len(), self.len);
        self.write_parts(0, values);
    }

    /// A copy of all elements in private memory.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let line = dsm.alloc::<f32>("line", 3)?;
    /// line.set(1, 0.5);
    /// assert_eq!(line.to_vec(), [0.0, 0.5, 0.0]);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn to_vec(&self) -> Vec<T> {
        let mut values = vec![T::zeroed(); self.len];
        self.read_parts(0, &mut values);
        values
    }

    /// Writes `value` to all elements.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let distance = dsm.alloc::<f64>("distance", 1000)?;
    /// distance.fill(f64::INFINITY);
    /// assert_eq!(distance.get(999), f64::INFINITY);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn fill(&self, value: T) {
        let values = vec![value; self.len.min(elements_in::<T>(COPY_PART))];
        self.in_parts(0..self.len, Access::Write, |part| self.write(part.start, &values[..part.len()]));
    }

    /// The elements by value, each read when the iterator comes to it. For a copy of many at one time there
    /// is [`to_vec`](SharedSlice::to_vec).
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let data = dsm.alloc::<u64>("data", 10)?;
    /// data.set(4, 40);
    /// assert_eq!(data.iter().sum::<u64>(), 40);
    /// assert_eq!(data.iter().position(|value| value > 0), Some(4));
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = T> + ExactSizeIterator + '_ {
        (0..self.len).map(|index| self.get(index))
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
    /// While the slice lives, no other thread or node reads or writes the elements that are accessed
    /// through it, and no other slice of this process has them.
    #[allow(unsafe_code)]
    #[allow(clippy::mut_from_ref)] // The handle is an address, not the owner of the elements.
    pub unsafe fn as_mut_slice(&self) -> &mut [T] {
        // SAFETY: as for `as_slice`; the caller keeps all other accesses away.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }

    fn check_range(&self, offset: usize, count: usize) -> Result<()> {
        self.node.check_not_left()?;
        if offset.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(Error::Invalid(format!("{count} elements from {offset} of {}", self.len)));
        }
        Ok(())
    }

    fn read(&self, index: usize, values: &mut [T]) {
        copy::read(self.start.wrapping_add(index), values);
    }

    fn write(&self, index: usize, values: &[T]) {
        copy::write(self.start.wrapping_add(index), values);
    }

    /// Writes elements that are there.
    fn write_parts(&self, offset: usize, values: &[T]) {
        self.in_parts(offset..offset + values.len(), Access::Write, |part| {
            self.write(part.start, &values[part.start - offset..part.end - offset]);
        });
    }

    /// Reads elements that are there.
    fn read_parts(&self, offset: usize, values: &mut [T]) {
        self.in_parts(offset..offset + values.len(), Access::Read, |part| {
            self.read(part.start, &mut values[part.start - offset..part.end - offset]);
        });
    }

    /// A range part by part, several parts asked for ahead of the one that is copied: the range travels at
    /// the network's speed, whatever its page faults cost, and steadily, so that no node stops polling.
    fn in_parts(&self, range: Range<usize>, access: Access, mut copy: impl FnMut(Range<usize>)) {
        let (part, ahead) = (elements_in::<T>(COPY_PART), elements_in::<T>(COPY_AHEAD));
        self.ask_ahead(range.start..range.end.min(range.start + ahead), access);
        for start in range.clone().step_by(part) {
            let end = range.end.min(start + part);
            self.ask_ahead(range.end.min(start + ahead)..range.end.min(end + ahead), access);
            copy(start..end);
        }
    }
}

/// Whole elements in `bytes` bytes, at least one.
fn elements_in<T>(bytes: usize) -> usize {
    (bytes / size_of::<T>()).max(1)
}
