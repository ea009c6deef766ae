//! Input and output between files and shared memory.
//!
//! A system call that is given shared memory fails with EFAULT, or comes up short, when a page of it is
//! not here; fetching the pages first is a race. So these functions go through a private buffer: the
//! kernel sees only that, and shared memory is loaded and stored by this thread, which may fault.

use std::io::{self, ErrorKind, Read, Write};
use std::ptr;

use crate::config::fault::BOUNCE_LEN;

/// Reads at most `len` bytes from `input` into shared memory; returns how many, 0 at the end.
///
/// # Safety
/// The bytes from `to` on are shared memory, and no other thread or node accesses them meanwhile.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let data = dsm.alloc::<u8>("data", 5)?;
/// // SAFETY: five bytes of the region, which only this rank uses now.
/// let read = unsafe { pagemesh::io::read(&mut &b"hello"[..], data.as_mut_ptr(), 5) };
/// assert_eq!((read.unwrap(), data.get(4)), (5, b'o'));
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
pub unsafe fn read(input: &mut impl Read, to: *mut u8, len: usize) -> io::Result<usize> {
    let mut bounce = vec![0; len.min(BOUNCE_LEN)];
    let part = input.read(&mut bounce)?;
    // SAFETY: `part <= len`, and the caller vouches for the destination.
    unsafe { store(to, &bounce[..part]) };
    Ok(part)
}

/// Reads exactly `len` bytes from `input` into shared memory. If it ends early, the error is
/// [`ErrorKind::UnexpectedEof`] and a part of the bytes has been stored.
///
/// # Safety
/// As for [`read`].
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let data = dsm.alloc::<u8>("data", 5)?;
/// // SAFETY: five bytes of the region, which only this rank uses now.
/// let read = unsafe { pagemesh::io::read_exact(&mut &b"hel"[..], data.as_mut_ptr(), 5) };
/// assert!(read.is_err(), "the input is too short");
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
pub unsafe fn read_exact(input: &mut impl Read, to: *mut u8, len: usize) -> io::Result<()> {
    let mut bounce = vec![0; len.min(BOUNCE_LEN)];
    let mut done = 0;
    while done < len {
        let want = bounce.len().min(len - done);
        let part = match input.read(&mut bounce[..want]) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(part) => part,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // SAFETY: `done + part <= len`, and the caller vouches for the destination.
        unsafe { store(to.wrapping_add(done), &bounce[..part]) };
        done += part;
    }
    Ok(())
}

/// Writes at most `len` bytes of shared memory to `output`; returns how many.
///
/// # Safety
/// The bytes from `from` on are shared memory, and no other thread or node writes them meanwhile.
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let (data, mut file) = (dsm.alloc::<u8>("data", 5)?, Vec::new());
/// // SAFETY: five bytes of the region, which no rank writes now.
/// let written = unsafe { pagemesh::io::write(&mut file, data.as_ptr(), 5) };
/// assert_eq!((written.unwrap(), file), (5, vec![0; 5]));
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
pub unsafe fn write(output: &mut impl Write, from: *const u8, len: usize) -> io::Result<usize> {
    let mut bounce = vec![0; len.min(BOUNCE_LEN)];
    // SAFETY: the buffer is no longer than `len`, and the caller vouches for the source.
    unsafe { load(from, &mut bounce) };
    output.write(&bounce)
}

/// Writes `len` bytes of shared memory to `output`. After an error a part has been written.
///
/// # Safety
/// As for [`write()`].
///
/// ```
/// # use pagemesh::prelude::*;
/// # let dsm = Dsm::builder().arena_anywhere().join()?;
/// let (data, mut file) = (dsm.alloc::<u8>("data", 100_000)?, Vec::new());
/// // SAFETY: all bytes of the region, which no rank writes now.
/// unsafe { pagemesh::io::write_all(&mut file, data.as_ptr(), data.len()) }.unwrap();
/// assert_eq!(file.len(), 100_000);
/// # dsm.leave()?;
/// # Ok::<(), Error>(())
/// ```
pub unsafe fn write_all(output: &mut impl Write, from: *const u8, len: usize) -> io::Result<()> {
    let mut bounce = vec![0; len.min(BOUNCE_LEN)];
    let mut done = 0;
    while done < len {
        let part = bounce.len().min(len - done);
        // SAFETY: `done + part <= len`, and the caller vouches for the source.
        unsafe { load(from.wrapping_add(done), &mut bounce[..part]) };
        output.write_all(&bounce[..part])?;
        done += part;
    }
    Ok(())
}

/// # Safety
/// As for [`read`], with `bytes.len()` as the length.
unsafe fn store(to: *mut u8, bytes: &[u8]) {
    // SAFETY: the caller vouches for the destination, and `bytes` is private memory.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

/// # Safety
/// As for [`write()`], with `bytes.len()` as the length.
unsafe fn load(from: *const u8, bytes: &mut [u8]) {
    // SAFETY: the caller vouches for the source, and `bytes` is private memory.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
}
