//! One file mapped twice, as a DSM needs it at the least: a view that faults and one that does not.

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::ptr::{self, NonNull};

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mprotect};

use super::Mechanism;
use super::uffd::Uffd;
use crate::touch::PAGE;

/// Lives as long as its process; ranges are of pages.
pub(super) struct View {
    base: usize,
    pages: usize,
    store: MmapRaw,
    uffd: Option<Uffd>,
}

impl View {
    /// Maps `pages` pages without memory and without access.
    pub(super) fn new(mechanism: Mechanism, pages: usize) -> io::Result<View> {
        let len = pages * PAGE;
        let file = File::from(memfd_create(c"floor", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(len as u64)?;
        let store = MmapOptions::new().len(len).no_reserve_swap().map_raw(&file)?;
        store.advise(Advice::NoHugePage)?;
        let protection = match mechanism {
            Mechanism::Signal | Mechanism::Thread => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            Mechanism::Mprotect => ProtFlags::PROT_NONE,
        };
        let size = NonZeroUsize::new(len).ok_or(io::ErrorKind::InvalidInput)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED the kernel replaces no mapping of anybody.
        let start = unsafe { mmap(None, size, protection, flags, &file, 0) }?;
        // SAFETY: this advice changes how memory is allocated later on.
        unsafe { madvise(start, len, MmapAdvise::MADV_NOHUGEPAGE) }?;
        let base = start.as_ptr().expose_provenance();
        let uffd = match mechanism {
            Mechanism::Signal | Mechanism::Thread => Some(Uffd::open(mechanism)?),
            Mechanism::Mprotect => None,
        };
        if let Some(uffd) = &uffd {
            uffd.register(&(base..base + len))?;
        }
        Ok(View { base, pages, store, uffd })
    }

    /// The view that faults.
    pub(super) fn base(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.base)
    }

    pub(super) fn pages(&self) -> usize {
        self.pages
    }

    /// The page of an address, if it is one of this view's.
    pub(super) fn page_of(&self, address: usize) -> Option<usize> {
        let page = address.checked_sub(self.base)? / PAGE;
        (page < self.pages).then_some(page)
    }

    pub(super) fn uffd(&self) -> Option<&Uffd> {
        self.uffd.as_ref()
    }

    /// Allocates memory.
    pub(super) fn populate(&self, pages: Range<usize>) -> io::Result<()> {
        self.store.advise_range(Advice::PopulateWrite, pages.start * PAGE, pages.len() * PAGE)
    }

    /// Copies bytes in from a page on, by the view that does not fault.
    pub(super) fn write(&self, page: usize, bytes: &[u8]) {
        assert!(page * PAGE + bytes.len() <= self.pages * PAGE, "page {page} is outside the view");
        let to = self.store.as_mut_ptr().wrapping_add(page * PAGE);
        // SAFETY: the destination is inside the store (checked); no reference to its bytes exists.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Makes pages that have memory readable.
    pub(super) fn map(&self, pages: Range<usize>) -> io::Result<()> {
        match &self.uffd {
            Some(uffd) => uffd.map(&self.addresses(pages)),
            None => self.protect(pages, ProtFlags::PROT_READ),
        }
    }

    /// Makes readable pages writable.
    pub(super) fn upgrade(&self, pages: Range<usize>) -> io::Result<()> {
        match &self.uffd {
            Some(uffd) => uffd.unprotect(&self.addresses(pages)),
            None => self.protect(pages, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE),
        }
    }

    /// Makes writable pages readable only.
    pub(super) fn downgrade(&self, pages: Range<usize>) -> io::Result<()> {
        match &self.uffd {
            Some(uffd) => uffd.protect(&self.addresses(pages)),
            None => self.protect(pages, ProtFlags::PROT_READ),
        }
    }

    /// Takes pages out of the view that faults. Their memory stays.
    pub(super) fn drop_pages(&self, pages: Range<usize>) -> io::Result<()> {
        if self.uffd.is_none() {
            return self.protect(pages, ProtFlags::PROT_NONE);
        }
        let (start, len) = self.pointer(pages);
        // SAFETY: a shared mapping loses no byte by DONTNEED; only raw pointers lead here.
        Ok(unsafe { madvise(start, len, MmapAdvise::MADV_DONTNEED) }?)
    }

    fn protect(&self, pages: Range<usize>, protection: ProtFlags) -> io::Result<()> {
        let (start, len) = self.pointer(pages);
        // SAFETY: only raw pointers of callers who expect faults lead here.
        Ok(unsafe { mprotect(start, len, protection) }?)
    }

    fn addresses(&self, pages: Range<usize>) -> Range<usize> {
        assert!(pages.end <= self.pages, "{pages:?} are outside the view");
        self.base + pages.start * PAGE..self.base + pages.end * PAGE
    }

    fn pointer(&self, pages: Range<usize>) -> (NonNull<c_void>, usize) {
        let addresses = self.addresses(pages);
        let start = ptr::with_exposed_provenance_mut(addresses.start);
        (NonNull::new(start).expect("a mapping does not start at 0"), addresses.len())
    }
}
