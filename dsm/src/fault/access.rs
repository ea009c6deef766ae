//! The record of what the application's view allows on each page: one byte a page, in chunks that
//! appear when a region is mapped.
//!
//! The record is what makes a second fault on a mapped page cheap and silent. It changes under the
//! node's core lock only; signal handlers read it without, to learn whether a page is in a region.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::page::{Access, PageId};

/// Pages of one chunk: 4 KiB of record for 16 MiB of arena.
const CHUNK_PAGES: u64 = 4096;

/// Access that the core granted.
const GRANTED: u8 = 0b0000_0011;
/// Access that the MMU gives now. Equal to the granted one, but in the `mprotect` backend, which may
/// take mappings away when the kernel allows no more of them.
const MAPPED: u8 = 0b0000_1100;
const MAPPED_SHIFT: u32 = 2;
/// The file may hold memory for the page.
const BACKED: u8 = 0b0001_0000;
/// The page belongs to a region.
const REGION: u8 = 0b0010_0000;

type Chunk = Box<[AtomicU8]>;

/// See the module's text.
pub(super) struct AccessMap {
    chunks: Box<[OnceLock<Chunk>]>,
    backed_pages: AtomicU64,
}

impl AccessMap {
    pub(super) fn new(pages: u64) -> Self {
        let chunks = (0..pages.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect();
        AccessMap { chunks, backed_pages: AtomicU64::new(0) }
    }

    /// Makes the pages part of a region: no access, no memory.
    pub(super) fn open(&self, pages: Range<u64>) {
        for page in pages {
            let (chunk, at) = split(page);
            let chunk =
                self.chunks[chunk].get_or_init(|| (0..CHUNK_PAGES).map(|_| AtomicU8::new(0)).collect());
            chunk[at].store(REGION, Ordering::Release);
        }
    }

    /// Ends the pages' region.
    pub(super) fn close(&self, pages: Range<u64>) {
        for page in pages.map(PageId) {
            self.set_backed(page, Backing::Hole);
            self.cell(page).store(0, Ordering::Release);
        }
    }

    pub(super) fn in_region(&self, page: PageId) -> bool {
        self.find(page).is_some()
    }

    /// The access that the core granted. Panics outside every region, as all the below do.
    pub(super) fn granted(&self, page: PageId) -> Access {
        decode(self.load(page) & GRANTED)
    }

    pub(super) fn set_granted(&self, page: PageId, access: Access) {
        self.replace(page, GRANTED, encode(access));
    }

    /// The access that the MMU gives; `None` outside every region.
    pub(super) fn mapped(&self, page: PageId) -> Option<Access> {
        let byte = self.find(page)?.load(Ordering::Acquire);
        Some(decode((byte & MAPPED) >> MAPPED_SHIFT))
    }

    pub(super) fn set_mapped(&self, page: PageId, access: Access) {
        self.replace(page, MAPPED, encode(access) << MAPPED_SHIFT);
    }

    /// Whether the file may hold memory for the page. If not, it reads as zero without being touched.
    pub(super) fn is_backed(&self, page: PageId) -> bool {
        self.load(page) & BACKED != 0
    }

    pub(super) fn set_backed(&self, page: PageId, backing: Backing) {
        let (bits, change) = match backing {
            Backing::Memory => (BACKED, 1),
            Backing::Hole => (0, u64::MAX),
        };
        if self.replace(page, BACKED, bits) & BACKED != bits {
            self.backed_pages.fetch_add(change, Ordering::Relaxed);
        }
    }

    /// Pages of all regions that may hold memory.
    pub(super) fn backed_pages(&self) -> u64 {
        self.backed_pages.load(Ordering::Relaxed)
    }

    /// The old byte.
    fn replace(&self, page: PageId, mask: u8, bits: u8) -> u8 {
        let update = |old: u8| Some(old & !mask | bits);
        let cell = self.cell(page);
        cell.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).expect("always some")
    }

    /// Pages of this range that may hold memory; those outside every region hold none.
    pub(super) fn backed_pages_in(&self, pages: Range<u64>) -> u64 {
        let backed = |page: &u64| {
            self.find(PageId(*page)).is_some_and(|cell| cell.load(Ordering::Relaxed) & BACKED != 0)
        };
        pages.filter(backed).count() as u64
    }

    fn load(&self, page: PageId) -> u8 {
        self.cell(page).load(Ordering::Acquire)
    }

    fn cell(&self, page: PageId) -> &AtomicU8 {
        self.find(page).unwrap_or_else(|| panic!("{page:?} is in no region"))
    }

    fn find(&self, page: PageId) -> Option<&AtomicU8> {
        let (chunk, at) = split(page.0);
        let cell = &self.chunks.get(chunk)?.get()?[at];
        (cell.load(Ordering::Acquire) & REGION != 0).then_some(cell)
    }
}

/// Whether the file holds memory for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Backing {
    Memory,
    Hole,
}

fn split(page: u64) -> (usize, usize) {
    ((page / CHUNK_PAGES) as usize, (page % CHUNK_PAGES) as usize)
}

fn encode(access: Access) -> u8 {
    match access {
        Access::None => 0,
        Access::Read => 1,
        Access::Write => 2,
    }
}

fn decode(bits: u8) -> Access {
    match bits {
        0 => Access::None,
        1 => Access::Read,
        2 => Access::Write,
        _ => unreachable!("only three values are stored"),
    }
}
