//! The two views of a node's memory, and the file behind both.
//!
//! [`AppView`] is what the application loads from and stores to: protected, at the same address on
//! every node. [`Store`] owns the file and the runtime's view, which never faults and is the only one
//! that the runtime touches. All methods take byte offsets in the arena and check them, so that no
//! call reaches memory outside it.

use std::ffi::{CStr, c_void};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};
use nix::unistd::{Whence, lseek};

use crate::page::{Access, PAGE_SIZE};

/// The application's view: an address range that is reserved as a whole and mapped region by region.
#[derive(Debug)]
pub(super) struct AppView {
    base: usize,
    len: usize,
}

impl AppView {
    /// Reserves `len` bytes at `base`, or anywhere. Nothing there is accessible yet.
    pub(super) fn reserve(base: Option<usize>, len: usize) -> Result<AppView, Errno> {
        let fixed = if base.is_some() { MapFlags::MAP_FIXED_NOREPLACE } else { MapFlags::empty() };
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | fixed;
        let hint = base.and_then(NonZeroUsize::new);
        let size = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        // SAFETY: without MAP_FIXED the kernel replaces no mapping of anybody.
        let start = unsafe { mmap_anonymous(hint, size, ProtFlags::PROT_NONE, flags) }?;
        let view = AppView { base: start.as_ptr() as usize, len };
        match base {
            // A kernel older than MAP_FIXED_NOREPLACE takes the address as a hint; dropping gives it back.
            Some(base) if base != view.base => return Err(Errno::EEXIST),
            _ => view.advise(0..len)?,
        }
        Ok(view)
    }

    pub(super) fn addresses(&self) -> Range<usize> {
        self.base..self.base + self.len
    }

    /// Address of the byte at `offset`.
    pub(super) fn address(&self, offset: usize) -> usize {
        assert!(offset < self.len, "offset {offset:#x} is outside the arena");
        self.base + offset
    }

    /// Addresses of a range.
    pub(super) fn span(&self, range: Range<usize>) -> Range<usize> {
        check(&range, self.len);
        self.base + range.start..self.base + range.end
    }

    /// Maps a range of the store, still without any access.
    pub(super) fn map(&self, store: &Store, range: Range<usize>) -> Result<(), Errno> {
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        let (start, size) = self.checked(&range);
        let offset = range.start as libc::off_t;
        // SAFETY: MAP_FIXED replaces only addresses of this arena's reservation (checked above).
        unsafe { mmap(Some(start), size, ProtFlags::PROT_NONE, flags, &store.file, offset) }?;
        self.advise(range)
    }

    /// Back to the bare reservation.
    pub(super) fn unmap(&self, range: Range<usize>) -> Result<(), Errno> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        let (start, size) = self.checked(&range);
        // SAFETY: MAP_FIXED replaces only addresses of this arena's reservation (checked above).
        unsafe { mmap_anonymous(Some(start), size, ProtFlags::PROT_NONE, flags) }?;
        self.advise(range)
    }

    /// Sets the mapping's own protection; under userfaultfd that is the upper bound of the access.
    pub(super) fn protect(&self, range: Range<usize>, access: Access) -> Result<(), Errno> {
        let protection = match access {
            Access::None => ProtFlags::PROT_NONE,
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let (start, size) = self.pointer(&range);
        // SAFETY: the range is of this arena (checked), where only raw pointers of callers who expect
        // faults lead.
        unsafe { mprotect(start, size, protection) }
    }

    /// Takes all access to the whole view away. Every mapping in it changes as a whole, so that the kernel needs no
    /// further ones.
    pub(super) fn protect_all(&self) -> Result<(), Errno> {
        self.protect(0..self.len, Access::None)
    }

    /// Whether the kernel may load the byte at `offset` for a system call, namely a write to `pipe`.
    pub(super) fn system_load(&self, offset: usize, pipe: BorrowedFd<'_>) -> Result<(), Errno> {
        let byte = ptr::with_exposed_provenance::<c_void>(self.address(offset));
        // SAFETY: the kernel checks the address; a byte that is not accessible yields EFAULT.
        Errno::result(unsafe { libc::write(pipe.as_raw_fd(), byte, 1) }).map(drop)
    }

    /// Whether the kernel may store to the byte at `offset`, namely one byte that is in `pipe`.
    pub(super) fn system_store(&self, offset: usize, pipe: BorrowedFd<'_>) -> Result<(), Errno> {
        let byte = ptr::with_exposed_provenance_mut::<c_void>(self.address(offset));
        // SAFETY: the byte is of this arena (checked), to which no reference exists.
        Errno::result(unsafe { libc::read(pipe.as_raw_fd(), byte, 1) }).map(drop)
    }

    /// Takes the pages out of the view. The bytes stay in the store.
    pub(super) fn drop_pages(&self, range: Range<usize>) -> Result<(), Errno> {
        let (start, size) = self.pointer(&range);
        // SAFETY: the range is of this arena (checked); a shared mapping loses no byte by DONTNEED.
        unsafe { madvise(start, size, MmapAdvise::MADV_DONTNEED) }
    }

    fn advise(&self, range: Range<usize>) -> Result<(), Errno> {
        let (start, size) = self.pointer(&range);
        // A child would read stale pages and corrupt its parent.
        // SAFETY: this advice changes what fork does, not memory.
        unsafe { madvise(start, size, MmapAdvise::MADV_DONTFORK) }?;
        // SAFETY: this advice changes what a core dump holds, not memory.
        unsafe { madvise(start, size, MmapAdvise::MADV_DONTDUMP) }?;
        // A huge page would be invalidated as one.
        // SAFETY: this advice changes how memory is allocated later on.
        match unsafe { madvise(start, size, MmapAdvise::MADV_NOHUGEPAGE) } {
            // A kernel without huge pages does not know the advice.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn checked(&self, range: &Range<usize>) -> (NonZeroUsize, NonZeroUsize) {
        let (start, size) = self.pointer(range);
        (start.addr(), NonZeroUsize::new(size).expect("checked: not empty"))
    }

    fn pointer(&self, range: &Range<usize>) -> (NonNull<c_void>, usize) {
        check(range, self.len);
        let start = ptr::with_exposed_provenance_mut::<c_void>(self.base + range.start);
        (NonNull::new(start).expect("an arena does not start at 0"), range.len())
    }
}

impl Drop for AppView {
    fn drop(&mut self) {
        let (start, size) = self.pointer(&(0..self.len));
        // SAFETY: the range is this value's own reservation. The API's contract ends all pointers
        // into the arena before it goes.
        let result = unsafe { munmap(start, size) };
        debug_assert_eq!(result, Ok(()));
    }
}

/// Takes addresses that nothing is mapped at, without any access. For the child of a fork: one system call,
/// and if it is refused the addresses stay free.
pub(super) fn guard(addresses: &Range<usize>) {
    let start = ptr::with_exposed_provenance_mut::<c_void>(addresses.start);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: without MAP_FIXED the kernel replaces no mapping of anybody.
    unsafe { libc::mmap(start, addresses.len(), libc::PROT_NONE, flags, -1, 0) };
}

/// A sparse memory file of `len` bytes, which nobody can make shorter or longer: whoever holds a descriptor of it may
/// map it and touch every byte.
pub(super) fn sealed_memory(name: &CStr, len: usize) -> io::Result<File> {
    let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(len as u64)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(LENGTH_SEALS))?;
    Ok(file)
}

/// The parts of a range of a memory file that have memory, whole pages but for the range's own ends.
pub(super) fn data_of(file: &File, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    let seek = move |from: u64, whence| {
        let found = lseek(file, libc::off_t::try_from(from).ok()?, whence).ok()?;
        // Beyond the last of what is looked for the kernel says ENXIO, or the end of the file.
        u64::try_from(found).ok()
    };
    std::iter::from_fn(move || {
        let start = seek(at, Whence::SeekData).filter(|start| *start < range.end)?;
        let end = seek(start, Whence::SeekHole).unwrap_or(range.end).min(range.end);
        at = end;
        Some(start..end)
    })
}

/// Seals of a file whose length is for ever: it can be neither cut nor grown, and no other seal, such as one against
/// stores, can be added.
pub(crate) const LENGTH_SEALS: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// The file and the runtime's view of it.
#[derive(Debug)]
pub(super) struct Store {
    file: File,
    view: MmapRaw,
}

impl Store {
    /// A sparse file of `len` bytes.
    pub(super) fn new(len: usize) -> io::Result<Store> {
        Store::open(sealed_memory(c"pagemesh-arena", len)?, len)
    }

    /// The memory that lies in a file already, of `len` bytes.
    pub(super) fn open(file: File, len: usize) -> io::Result<Store> {
        let view = MmapOptions::new().len(len).no_reserve_swap().map_raw(&file)?;
        view.advise(Advice::DontFork)?;
        view.advise(Advice::DontDump)?;
        match view.advise(Advice::NoHugePage) {
            // A kernel without huge pages does not know the advice.
            Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
            _ => Ok(Store { file, view }),
        }
    }

    /// Copies bytes out.
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.pointer(offset, bytes.len());
        // SAFETY: the source is inside the view (checked) and the destination is an exclusive borrow
        // elsewhere. Stores by other threads may be seen in part; protocols downgrade before reading.
        unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies bytes in.
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.pointer(offset, bytes.len());
        // SAFETY: the destination is inside the view (checked), the source is a borrow elsewhere, and
        // no reference to the view's bytes exists, only raw pointers.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Writes zeros.
    pub(super) fn clear(&self, offset: usize, len: usize) {
        let to = self.pointer(offset, len);
        // SAFETY: the destination is inside the view (checked); no reference to its bytes exists.
        unsafe { ptr::write_bytes(to, 0, len) }
    }

    /// Makes sure that the page at `offset` has memory, which is zero if it is new.
    pub(super) fn touch(&self, offset: usize) {
        let byte = self.pointer(offset, 1);
        // SAFETY: the byte is inside the view (checked). Volatile, because the load is the purpose.
        unsafe { byte.read_volatile() };
    }

    /// Brings the page at `offset` into the caches of this core, to be written. Only a hint.
    pub(super) fn prefetch(&self, offset: usize) {
        let start = self.pointer(offset, PAGE_SIZE);
        #[cfg(target_arch = "x86_64")]
        for line in (0..PAGE_SIZE).step_by(64) {
            use core::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: every x86-64 processor has the instruction, and it has no effect that a program could see.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(start.wrapping_add(line).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start;
    }

    /// Allocates the range's memory ahead of need: 0.2 us a page instead of 3 us at the first touch.
    pub(super) fn populate(&self, range: Range<usize>) -> io::Result<()> {
        check(&range, self.view.len());
        self.view.advise_range(Advice::PopulateWrite, range.start, range.len())
    }

    /// Gives the range's memory back; it reads as zero from now on.
    pub(super) fn punch(&self, range: Range<usize>) -> io::Result<()> {
        check(&range, self.view.len());
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, flags, range.start as libc::off_t, range.len() as libc::off_t)?)
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Where the runtime's view starts.
    #[cfg(test)]
    pub(super) fn view_address(&self) -> usize {
        self.view.as_ptr().addr()
    }

    /// The file's memory, in blocks of 512 bytes.
    #[cfg(test)]
    pub(super) fn blocks(&self) -> u64 {
        std::os::linux::fs::MetadataExt::st_blocks(&self.file.metadata().expect("an open file"))
    }

    fn pointer(&self, offset: usize, len: usize) -> *mut u8 {
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.view.len());
        assert!(fits, "{len} bytes at {offset:#x} are outside the arena");
        self.view.as_mut_ptr().wrapping_add(offset)
    }
}

/// Ranges are whole pages inside the arena, and not empty.
fn check(range: &Range<usize>, len: usize) {
    let aligned = range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE);
    assert!(aligned && range.start < range.end && range.end <= len, "bad range {range:#x?} of {len:#x}");
}
