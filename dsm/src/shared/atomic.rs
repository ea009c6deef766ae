//! Atomic operations on shared integers in place. They are the processor's own: a page that can be written
//! is on one node at a time, so that what is atomic on that node is atomic everywhere.

use std::ops::Deref;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    AtomicUsize, Ordering::SeqCst,
};

use super::element::Element;
use super::slice::SharedSlice;

/// Integers and `bool`: values with atomic operations in shared memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no atomic operations in shared memory",
    label = "not an integer"
)]
pub trait Atomic: Element + Copy + sealed::Atomic {}

/// Integers: values that can be added to and compared atomically in shared memory.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no atomic arithmetic in shared memory",
    label = "not an integer"
)]
pub trait AtomicInteger: Atomic + sealed::AtomicInteger {}

/// The atomic integers of the standard library, `AtomicU8` to `AtomicU64`, `AtomicI8` to `AtomicI64`.
pub trait AtomicCell: Element + sealed::Cell {}

/// What the three traits need; no other crate can implement them.
mod sealed {
    pub trait Cell: Sync {}

    pub trait Atomic: Sized {
        type Cell: Cell;
        fn load(cell: &Self::Cell) -> Self;
        fn store(cell: &Self::Cell, value: Self);
        fn swap(cell: &Self::Cell, value: Self) -> Self;
        fn fetch_and(cell: &Self::Cell, value: Self) -> Self;
        fn fetch_or(cell: &Self::Cell, value: Self) -> Self;
        fn fetch_xor(cell: &Self::Cell, value: Self) -> Self;
        fn compare_exchange(cell: &Self::Cell, current: Self, new: Self) -> Result<Self, Self>;
    }

    pub trait AtomicInteger: Atomic {
        fn fetch_add(cell: &Self::Cell, value: Self) -> Self;
        fn fetch_sub(cell: &Self::Cell, value: Self) -> Self;
        fn fetch_min(cell: &Self::Cell, value: Self) -> Self;
        fn fetch_max(cell: &Self::Cell, value: Self) -> Self;
    }
}

/// Atomic operations in place, on a region of integers or `bool`. Each is one operation of the processor,
/// whichever other threads or nodes operate on the element. The node that operates takes the
/// page for writing if it does not have it (one page fault); after that an operation costs what it costs
/// in private memory, until another node takes the page. `load` is content with a readable copy.
///
/// All of them are sequentially consistent, over all nodes: all threads of all nodes see them in one order. For
/// another ordering, make the region of `AtomicU64` and its like. All panic beyond the end.
///
/// ```
/// use pagemesh::prelude::*;
///
/// # fn main() -> pagemesh::Result<()> {
/// let dsm = Dsm::builder().join()?;
/// let bins = dsm.alloc::<u64>("bins", 256)?;
/// for item in [3u8, 5, 3] {
///     bins.fetch_add(usize::from(item), 1);
/// }
/// assert_eq!((bins.load(3), bins.load(5)), (2, 1));
///
/// let ready = dsm.alloc::<bool>("ready", 1)?;
/// assert!(!ready.swap(0, true));
///
/// // The rank that finds 0 there is the owner; the others get its number.
/// let owner = dsm.alloc::<u32>("owner", 1)?;
/// assert_eq!(owner.compare_exchange(0, 0, 7), Ok(0));
/// assert_eq!(owner.compare_exchange(0, 0, 8), Err(7));
///
/// let bits = dsm.alloc::<u8>("bits", 1)?;
/// bits.store(0, 0b0110);
/// bits.fetch_or(0, 0b1000);
/// bits.fetch_and(0, 0b1100);
/// assert_eq!(bits.fetch_xor(0, 0b0100), 0b1100); // the value before
/// assert_eq!(bits.load(0), 0b1000);
/// # dsm.leave()
/// # }
/// ```
impl<T: Atomic> SharedSlice<T> {
    /// The value of the element at `index`.
    pub fn load(&self, index: usize) -> T {
        T::load(self.cell(index))
    }

    /// Makes `value` the element at `index`.
    pub fn store(&self, index: usize, value: T) {
        T::store(self.cell(index), value);
    }

    /// Makes `value` the element at `index`; returns the value before.
    pub fn swap(&self, index: usize, value: T) -> T {
        T::swap(self.cell(index), value)
    }

    /// Stores `new` in the element at `index` if its value is `current`. `Ok` with the value before if it
    /// was, `Err` with the value that is there if not, and nothing is stored.
    pub fn compare_exchange(&self, index: usize, current: T, new: T) -> Result<T, T> {
        T::compare_exchange(self.cell(index), current, new)
    }

    /// Replaces the element at `index` by what `next` makes of its value; returns the value before. While
    /// others change the element, `next` is called again, with the newer value.
    ///
    /// ```
    /// # use pagemesh::prelude::*;
    /// # fn main() -> pagemesh::Result<()> {
    /// # let dsm = Dsm::builder().join()?;
    /// let limits = dsm.alloc::<u32>("limits", 4)?;
    /// assert_eq!(limits.update(1, |limit| limit.saturating_mul(2).max(10)), 0);
    /// assert_eq!(limits.load(1), 10);
    /// # dsm.leave()
    /// # }
    /// ```
    pub fn update(&self, index: usize, mut next: impl FnMut(T) -> T) -> T {
        let cell = self.cell(index);
        let mut current = T::load(cell);
        loop {
            match T::compare_exchange(cell, current, next(current)) {
                Ok(before) => return before,
                Err(newer) => current = newer,
            }
        }
    }

    /// Bitwise and (for `bool`: and) with the element at `index`; returns the value before.
    pub fn fetch_and(&self, index: usize, value: T) -> T {
        T::fetch_and(self.cell(index), value)
    }

    /// Bitwise or (for `bool`: or) with the element at `index`; returns the value before.
    pub fn fetch_or(&self, index: usize, value: T) -> T {
        T::fetch_or(self.cell(index), value)
    }

    /// Bitwise exclusive or (for `bool`: unequal) with the element at `index`; returns the value before.
    pub fn fetch_xor(&self, index: usize, value: T) -> T {
        T::fetch_xor(self.cell(index), value)
    }

    #[allow(unsafe_code)]
    fn cell(&self, index: usize) -> &T::Cell {
        self.check(index, 1);
        let cell = self.as_ptr().wrapping_add(index).cast::<T::Cell>();
        // SAFETY: it lies in the region, which is mapped while this handle keeps its node; a cell has the
        // size and alignment of `T`, and any bytes are one; all safe accesses to shared memory are atomic.
        unsafe { &*cell }
    }
}

/// Atomic arithmetic in place, on a region of integers; see above for what it costs and promises.
///
/// ```
/// # use pagemesh::prelude::*;
/// # fn main() -> pagemesh::Result<()> {
/// # let dsm = Dsm::builder().join()?;
/// let range = dsm.alloc::<i64>("least, most, sum", 3)?;
/// for value in [3, -8, 5] {
///     range.fetch_min(0, value);
///     range.fetch_max(1, value);
///     range.fetch_add(2, value);
/// }
/// assert_eq!(range.to_vec(), [-8, 5, 0]);
/// assert_eq!(range.fetch_sub(2, 1), 0); // the value before
/// # dsm.leave()
/// # }
/// ```
impl<T: AtomicInteger> SharedSlice<T> {
    /// Adds to the element at `index`, and wraps around at the type's limits; returns the value before.
    pub fn fetch_add(&self, index: usize, value: T) -> T {
        T::fetch_add(self.cell(index), value)
    }

    /// Subtracts from the element at `index`, and wraps around at the type's limits; returns the value before.
    pub fn fetch_sub(&self, index: usize, value: T) -> T {
        T::fetch_sub(self.cell(index), value)
    }

    /// Makes the element at `index` the lesser of itself and `value`; returns the value before.
    pub fn fetch_min(&self, index: usize, value: T) -> T {
        T::fetch_min(self.cell(index), value)
    }

    /// Makes the element at `index` the greater of itself and `value`; returns the value before.
    pub fn fetch_max(&self, index: usize, value: T) -> T {
        T::fetch_max(self.cell(index), value)
    }
}

/// A region of atomic integers is a slice of them. A reference lives no longer than its handle, which keeps
/// the region.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use pagemesh::prelude::*;
///
/// # fn main() -> pagemesh::Result<()> {
/// let dsm = Dsm::builder().join()?;
/// let bins = dsm.alloc::<AtomicU64>("bins", 256)?;
/// bins[3].fetch_add(1, Ordering::Relaxed);
/// let total: u64 = bins.iter().map(|bin| bin.load(Ordering::Relaxed)).sum();
/// assert_eq!(total, 1);
/// # dsm.leave()
/// # }
/// ```
impl<A: AtomicCell> Deref for SharedSlice<A> {
    type Target = [A];

    #[allow(unsafe_code)]
    fn deref(&self) -> &[A] {
        // SAFETY: the region has `len` elements from `as_ptr`, mapped while this handle keeps its node; any
        // bytes are an atomic integer, and all safe accesses to shared memory are atomic.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }
}

macro_rules! integers {
    ($($value:ty, $cell:ty;)*) => {$(
        impl Atomic for $value {}
        impl AtomicInteger for $value {}
        impl AtomicCell for $cell {}
        impl sealed::Cell for $cell {}

        impl sealed::Atomic for $value {
            type Cell = $cell;
            fn load(cell: &$cell) -> Self {
                cell.load(SeqCst)
            }
            fn store(cell: &$cell, value: Self) {
                cell.store(value, SeqCst);
            }
            fn swap(cell: &$cell, value: Self) -> Self {
                cell.swap(value, SeqCst)
            }
            fn fetch_and(cell: &$cell, value: Self) -> Self {
                cell.fetch_and(value, SeqCst)
            }
            fn fetch_or(cell: &$cell, value: Self) -> Self {
                cell.fetch_or(value, SeqCst)
            }
            fn fetch_xor(cell: &$cell, value: Self) -> Self {
                cell.fetch_xor(value, SeqCst)
            }
            fn compare_exchange(cell: &$cell, current: Self, new: Self) -> Result<Self, Self> {
                cell.compare_exchange(current, new, SeqCst, SeqCst)
            }
        }

        impl sealed::AtomicInteger for $value {
            fn fetch_add(cell: &$cell, value: Self) -> Self {
                cell.fetch_add(value, SeqCst)
            }
            fn fetch_sub(cell: &$cell, value: Self) -> Self {
                cell.fetch_sub(value, SeqCst)
            }
            fn fetch_min(cell: &$cell, value: Self) -> Self {
                cell.fetch_min(value, SeqCst)
            }
            fn fetch_max(cell: &$cell, value: Self) -> Self {
                cell.fetch_max(value, SeqCst)
            }
        }
    )*};
}

integers! {
    u8, AtomicU8;
    u16, AtomicU16;
    u32, AtomicU32;
    u64, AtomicU64;
    usize, AtomicUsize;
    i8, AtomicI8;
    i16, AtomicI16;
    i32, AtomicI32;
    i64, AtomicI64;
    isize, AtomicIsize;
}

impl Atomic for bool {}

/// A byte, not `AtomicBool`: shared memory may have any byte there, and only 0 and 1 are a `bool`.
impl sealed::Atomic for bool {
    type Cell = AtomicU8;
    fn load(cell: &AtomicU8) -> Self {
        cell.load(SeqCst) != 0
    }
    fn store(cell: &AtomicU8, value: Self) {
        cell.store(value.into(), SeqCst);
    }
    fn swap(cell: &AtomicU8, value: Self) -> Self {
        cell.swap(value.into(), SeqCst) != 0
    }
    fn fetch_and(cell: &AtomicU8, value: Self) -> Self {
        cell.fetch_and(value.into(), SeqCst) != 0
    }
    fn fetch_or(cell: &AtomicU8, value: Self) -> Self {
        cell.fetch_or(value.into(), SeqCst) != 0
    }
    fn fetch_xor(cell: &AtomicU8, value: Self) -> Self {
        cell.fetch_xor(value.into(), SeqCst) != 0
    }
    fn compare_exchange(cell: &AtomicU8, current: Self, new: Self) -> Result<Self, Self> {
        // Every byte but 0 is true.
        let next = |byte: u8| ((byte != 0) == current).then_some(new.into());
        cell.fetch_update(SeqCst, SeqCst, next).map(|byte| byte != 0).map_err(|byte| byte != 0)
    }
}
