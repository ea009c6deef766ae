//! Which types may live in shared memory.

use std::num::Wrapping;
use std::sync::atomic::{
    AtomicI8, AtomicI16, AtomicI32, AtomicI64, AtomicIsize, AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    AtomicUsize,
};

use crate::membership::{ElementType, TypeTag};

/// A type that regions of shared memory can have as elements.
///
/// These are the numbers, `bool`, the atomic integers, arrays of elements, and structures that derive
/// [`Pod`](trait@Pod). A type of another crate that implements `bytemuck::Pod` is admitted inside
/// [`Untagged`].
///
/// A region keeps the tag of its elements' type, and is not opened as another type:
/// ```
/// use std::sync::atomic::AtomicU64;
/// use pagemesh::prelude::*;
/// use pagemesh::{Element, TypeTag};
///
/// #[derive(Clone, Copy, Pod)]
/// #[repr(C)]
/// struct Particle {
///     position: [f64; 3],
///     id: u64,
/// }
///
/// let tag = |tag: Option<TypeTag>| tag.unwrap().to_string();
/// assert_eq!(tag(u64::type_tag()), "<u8");
/// assert_eq!(tag(AtomicU64::type_tag()), "<u8");
/// assert_eq!(tag(bool::type_tag()), "|b1");
/// assert_eq!(tag(Particle::type_tag()), "{position:(3)<f8@0,id:<u8@24}");
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an element of shared memory",
    note = "a structure of numbers derives it: `#[derive(Clone, Copy, Pod)] #[repr(C)]`",
    note = "for `AtomicBool` use `bool`, which has atomic operations in shared memory",
    note = "a `bytemuck::Pod` type of another crate is an element as `pagemesh::Untagged<T>`"
)]
pub trait Element: Sized + 'static {
    /// The type as all programs know it. None: regions of this type open as any type that fits, with a
    /// line in the log.
    fn type_tag() -> Option<TypeTag>;
}

/// An element that is a plain value, copied in and out of shared memory as a whole: any bytes are a valid
/// value, and it has no padding (`bytemuck::Pod`). Numbers, arrays of them, and structures that derive it:
///
/// ```
/// use pagemesh::prelude::*;
///
/// #[derive(Clone, Copy, Debug, PartialEq, Pod)]
/// #[repr(C)]
/// struct Point {
///     x: f64,
///     y: f64,
/// }
///
/// # fn main() -> pagemesh::Result<()> {
/// # let dsm = Dsm::builder().join()?;
/// let points = dsm.alloc::<Point>("points", 100)?;
/// points.set(7, Point { x: 1.0, y: 2.0 });
/// assert_eq!(points.get(7).y, 2.0);
/// # dsm.leave()
/// # }
/// ```
/// The compiler refuses padding, whose bytes no program has written:
/// ```compile_fail,E0080
/// # use pagemesh::prelude::*;
/// #[derive(Clone, Copy, Pod)]
/// #[repr(C)]
/// struct Padded {
///     small: u8,
///     large: u64,
/// }
/// ```
/// and fields that are no plain values:
/// ```compile_fail,E0277
/// # use pagemesh::prelude::*;
/// #[derive(Clone, Copy, Pod)]
/// #[repr(C)]
/// struct Flagged {
///     flag: bool,
/// }
/// ```
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

impl<T: bytemuck::Pod> Element for Untagged<T> {
    fn type_tag() -> Option<TypeTag> {
        None
    }
}

impl<T: Element> Element for Wrapping<T> {
    fn type_tag() -> Option<TypeTag> {
        T::type_tag()
    }
}

impl<T: Element, const N: usize> Element for [T; N] {
    fn type_tag() -> Option<TypeTag> {
        TypeTag::new(format!("({N}){}", part_of::<T>())).ok()
    }
}

/// Size and tag of a type.
pub(super) fn element_type<T: Element>() -> ElementType {
    ElementType { size: size_of::<T>() as u64, tag: T::type_tag() }
}

/// A type's tag as a part of another; without a tag, bytes of any kind.
fn part_of<T: Element>() -> String {
    T::type_tag().map_or_else(|| format!("|V{}", size_of::<T>()), String::from)
}

/// What `#[derive(Pod)]` makes tags with.
#[doc(hidden)]
pub mod derived {
    use super::{Element, part_of};
    use crate::membership::TypeTag;

    /// One field of a structure, `offset` bytes from its start.
    pub fn field<T: Element>(name: &str, offset: usize) -> String {
        format!("{name}:{}@{offset}", part_of::<T>())
    }

    /// A structure of these fields. None if the tag were longer than a tag may be.
    pub fn structure(fields: &[String]) -> Option<TypeTag> {
        TypeTag::new(format!("{{{}}}", fields.join(","))).ok()
    }
}

macro_rules! elements {
    ($($kind:literal: $($type:ty)*;)*) => {$($(
        impl Element for $type {
            fn type_tag() -> Option<TypeTag> {
                let order = match size_of::<$type>() {
                    1 => '|',
                    _ if cfg!(target_endian = "big") => '>',
                    _ => '<',
                };
                TypeTag::new(format!("{order}{}{}", $kind, size_of::<$type>())).ok()
            }
        }
    )*)*};
}

elements! {
    "b": bool;
    "f": f32 f64;
    "i": i8 i16 i32 i64 i128 isize AtomicI8 AtomicI16 AtomicI32 AtomicI64 AtomicIsize;
    "u": u8 u16 u32 u64 u128 usize AtomicU8 AtomicU16 AtomicU32 AtomicU64 AtomicUsize;
}
