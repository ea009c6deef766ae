//! Copies between private memory and shared memory that other threads and other nodes access at the same
//! time. A naturally aligned piece of 1, 2, 4 or 8 bytes is never torn, as far as the alignment of the
//! element type guarantees that the piece is aligned: a copy accesses whole 8-byte words where there are
//! any, and what lies before and behind them in units of the type's alignment.
//!
//! The words of a copy may cover several smaller elements, which other threads access one by one. The
//! language has no name for such a race; on the machines that this library runs on (64 bits, x86 and Arm)
//! an aligned access of at most 8 bytes is one access whatever accesses its parts.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

/// Reads `to.len()` elements from shared memory. The caller has checked that they lie in a mapped region.
pub(super) fn read<T: bytemuck::Pod>(from: *const T, to: &mut [T]) {
    let (from, to) = (from.cast::<u8>(), bytemuck::cast_slice_mut::<T, u8>(to));
    match align_of::<T>() {
        1 => read_by::<AtomicU8>(from, to),
        2 => read_by::<AtomicU16>(from, to),
        4 => read_by::<AtomicU32>(from, to),
        _ => read_by::<AtomicU64>(from, to),
    }
    // What the writer wrote before these values is seen by what follows.
    fence(Ordering::Acquire);
}

/// Writes `from.len()` elements to shared memory. The caller has checked that they lie in a mapped region.
pub(super) fn write<T: bytemuck::Pod>(to: *mut T, from: &[T]) {
    // A reader that sees these values sees what was written before them.
    fence(Ordering::Release);
    let (to, from) = (to.cast::<u8>(), bytemuck::cast_slice::<T, u8>(from));
    match align_of::<T>() {
        1 => write_by::<AtomicU8>(to, from),
        2 => write_by::<AtomicU16>(to, from),
        4 => write_by::<AtomicU32>(to, from),
        _ => write_by::<AtomicU64>(to, from),
    }
}

/// One access of the machine.
trait Unit {
    /// What it moves.
    type Bytes: bytemuck::Pod;
    fn load(&self) -> Self::Bytes;
    fn store(&self, bytes: Self::Bytes);
}

macro_rules! units {
    ($($atomic:ty, $number:ty;)*) => {$(
        impl Unit for $atomic {
            type Bytes = [u8; size_of::<$number>()];
            #[inline(always)]
            fn load(&self) -> Self::Bytes {
                self.load(Ordering::Relaxed).to_ne_bytes()
            }
            #[inline(always)]
            fn store(&self, bytes: Self::Bytes) {
                self.store(<$number>::from_ne_bytes(bytes), Ordering::Relaxed);
            }
        }
    )*};
}

units! {
    AtomicU8, u8;
    AtomicU16, u16;
    AtomicU32, u32;
    AtomicU64, u64;
}

/// Whole words, and units at both ends. `from` is aligned to a unit, and `to` is a number of units long.
#[inline]
fn read_by<U: Unit>(from: *const u8, to: &mut [u8]) {
    if to.len() == size_of::<U>() {
        return read_units::<U>(from, to);
    }
    let (head, rest) = to.split_at_mut(bytes_before_words(from.addr(), to.len()));
    let (words, tail) = rest.split_at_mut(rest.len() & !(size_of::<u64>() - 1));
    read_units::<U>(from, head);
    read_units::<AtomicU64>(from.wrapping_add(head.len()), words);
    read_units::<U>(from.wrapping_add(head.len() + words.len()), tail);
}

/// The opposite of [`read_by`].
#[inline]
fn write_by<U: Unit>(to: *mut u8, from: &[u8]) {
    if from.len() == size_of::<U>() {
        return write_units::<U>(to, from);
    }
    let (head, rest) = from.split_at(bytes_before_words(to.addr(), from.len()));
    let (words, tail) = rest.split_at(rest.len() & !(size_of::<u64>() - 1));
    write_units::<U>(to, head);
    write_units::<AtomicU64>(to.wrapping_add(head.len()), words);
    write_units::<U>(to.wrapping_add(head.len() + words.len()), tail);
}

#[inline(always)]
fn read_units<U: Unit>(from: *const u8, to: &mut [u8]) {
    for (index, bytes) in bytemuck::cast_slice_mut::<u8, U::Bytes>(to).iter_mut().enumerate() {
        *bytes = unit::<U>(from, index).load();
    }
}

#[inline(always)]
fn write_units<U: Unit>(to: *mut u8, from: &[u8]) {
    for (index, bytes) in bytemuck::cast_slice::<u8, U::Bytes>(from).iter().enumerate() {
        unit::<U>(to, index).store(*bytes);
    }
}

/// The unit number `index` from `start` on, in shared memory.
#[inline(always)]
#[allow(unsafe_code)]
fn unit<'a, U: Unit>(start: *const u8, index: usize) -> &'a U {
    let unit = start.cast::<U>().wrapping_add(index);
    // SAFETY: the callers of `read` and `write` have checked that it lies in a region, which stays mapped
    // meanwhile; it is aligned, since words start at aligned addresses and elements are aligned to a unit;
    // any bytes are an atomic integer, which others may change.
    unsafe { &*unit }
}

/// Of `len` bytes from `addr` on, those in front of the first whole word.
fn bytes_before_words(addr: usize, len: usize) -> usize {
    len.min(addr.wrapping_neg() % size_of::<u64>())
}

#[cfg(test)]
mod tests {
    use super::{read, write};

    /// Elements of every alignment at every place relative to a word.
    fn copy_everywhere<T: bytemuck::Pod + PartialEq + std::fmt::Debug>(value: impl Fn(u8) -> T) {
        let values: Vec<T> = (1..=40).map(value).collect();
        let size = size_of::<T>();
        for (start, len) in (0..9).flat_map(|start| (0..31).map(move |len| (start, len))) {
            let mut memory = [0u64; 40];
            let memory = bytemuck::cast_slice_mut::<u64, u8>(&mut memory);
            let mut back = vec![T::zeroed(); len];
            write(memory[start * size..].as_mut_ptr().cast::<T>(), &values[..len]);
            let (before, rest) = memory.split_at(start * size);
            let (written, behind) = rest.split_at(len * size);
            assert_eq!(written, bytemuck::cast_slice::<T, u8>(&values[..len]));
            assert!(before.iter().chain(behind).all(|&byte| byte == 0));
            read(memory[start * size..].as_ptr().cast::<T>(), &mut back);
            assert_eq!(back, values[..len]);
        }
    }

    #[test]
    fn elements_at_any_place_are_copied_and_no_others() {
        copy_everywhere(|at| at);
        copy_everywhere(|at| u16::from(at) * 0x0101);
        copy_everywhere(|at| u32::from(at) * 0x0101_0101);
        copy_everywhere(|at| u64::from(at) * 0x0101_0101_0101_0101);
        copy_everywhere(|at| [at; 3]);
        copy_everywhere(|at| [u16::from(at); 3]);
    }
}
