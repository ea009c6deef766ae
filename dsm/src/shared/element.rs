//! Which types may live in shared memory.

use std::num::Wrapping;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    AtomicUsize,
};

/// A type that regions of shared memory can have as elements.
///
/// These are the numbers, `bool`, the atomic integers, arrays of elements, and structures that derive
/// [`Pod`](trait@Pod). A type of another crate that implements `bytemuck::Pod` is admitted inside
/// [`Untagged`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an element of shared memory",
    note = "a structure of numbers derives it: `#[derive(Clone, Copy, Pod)] #[repr(C)]`",
    note = "for `AtomicBool` use `bool`, which has atomic operations in shared memory",
    note = "a `bytemuck::Pod` type of another crate is an element as `pagemesh::Untagged<T>`"
)]
pub trait Element: Sized + 'static {}

/// An element that is a plain value, copied in and out of shared memory as a whole: any bytes are a valid
/// value, and it has no padding (`bytemuck::Pod`). Numbers, arrays of them, and structures that derive it.
pub trait Pod: bytemuck::Pod + Element {}

impl<T: bytemuck::Pod + Element> Pod for T {}

/// A plain value whose type has no tag: its regions open as any type of elements that fits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(transparent)]
pub struct Untagged<T>(
    /// The value.
    pub T,
);

// SAFETY: transparent, and zero bytes are a valid `T`.
#[allow(unsafe_code)]
unsafe impl<T: bytemuck::Zeroable> bytemuck::Zeroable for Untagged<T> {}
// SAFETY: transparent, so that it is plain if `T` is.
#[allow(unsafe_code)]
unsafe impl<T: bytemuck::Pod> bytemuck::Pod for Untagged<T> {}

impl<T: bytemuck::Pod> Element for Untagged<T> {}
impl<T: Element> Element for Wrapping<T> {}
impl<T: Element, const N: usize> Element for [T; N] {}
impl Element for bool {}

macro_rules! elements {
    ($($type:ty)*) => {$(impl Element for $type {})*};
}

elements! {
    u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64
    AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize
}
