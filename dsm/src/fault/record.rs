//! The record of a node's memory: one word a page, the version of the bytes that lie at the page's place.
//!
//! It lies in a file of its own, so that it outlives the process as the memory does: whoever goes on with a node
//! after its process has ended learns from it which pages have bytes there, and how new they are. Rights, requests
//! and the directory are not in it; they end with the process.
//!
//! A word is one aligned 64-bit store, so no end of the process leaves half of one. Bytes may be half written at that
//! moment, so the order of the stores counts: a word is cleared before bytes change and set when they are complete,
//! and before the application may store to them. [`super::Arena`] keeps that order in one place.
//!
//! | bits | |
//! |---|---|
//! | 63 to 6 | version; 0: nothing valid |
//! | 5, 4 | unused, 0 |
//! | 3 to 0 | check of page and version: a stray store of a dying program is hardly taken for a version |

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::map::{data_of, sealed_memory};
use crate::page::{PAGE_SIZE, PageId, Version};

/// Bytes before the table: a page, of which the owner's name takes a part.
const HEADER_LEN: usize = PAGE_SIZE;
/// Bytes of a word.
const WORD_LEN: usize = size_of::<u64>();
/// Bits below the version.
const VERSION_SHIFT: u32 = 6;
const UNUSED: u64 = 0b11_0000;
const CHECK: u64 = 0b1111;

/// What a record says of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recorded {
    /// Nothing valid lies there, or the page was never written.
    Nothing,
    /// Complete bytes of this version lie there.
    Version(Version),
    /// The word is none that a node writes: what lies there is not known.
    Doubt,
}

/// See the module's text. All changes are made under the node's lock.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    view: MmapRaw,
    pages: u64,
}

impl Record {
    /// An empty record of an arena of so many pages. Memory is used only for pages that have bytes.
    pub(super) fn new(pages: u64) -> io::Result<Record> {
        let len = Record::len(pages);
        Record::open(sealed_memory(c"pagemesh-record", len)?, pages)
    }

    /// Length in bytes of the record's file for an arena of `pages` pages.
    pub(super) fn len(pages: u64) -> usize {
        HEADER_LEN + (pages as usize * WORD_LEN).next_multiple_of(PAGE_SIZE)
    }

    /// Those of `pages` whose words may be other than 0: no time is spent on the others, however many there are.
    pub(super) fn written(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let byte = |page: u64| HEADER_LEN as u64 + page * WORD_LEN as u64;
        let page = |byte: u64| byte.saturating_sub(HEADER_LEN as u64) / WORD_LEN as u64;
        data_of(&self.file, byte(pages.start)..byte(pages.end))
            .map(move |data| page(data.start)..page(data.end))
    }

    /// A record that lies in a file already.
    pub(super) fn open(file: File, pages: u64) -> io::Result<Record> {
        let len = Record::len(pages);
        let view = MmapOptions::new().len(len).no_reserve_swap().map_raw(&file)?;
        view.advise(Advice::DontFork)?;
        view.advise(Advice::DontDump)?;
        Ok(Record { file, view, pages })
    }

    /// Complete bytes of this version lie there now, and no later store of this node comes before this one.
    pub(super) fn set(&self, page: PageId, version: Version) {
        self.word(page).store(encode(page, version), Ordering::Release);
    }

    /// Nothing valid lies there from now on, and no later store of this node comes before this one.
    pub(super) fn clear(&self, page: PageId) {
        self.word(page).store(0, Ordering::Relaxed);
        // The processor's order does not matter, as the record is read after the process's end: only the compiler
        // must not move a store of bytes up.
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    }

    pub(super) fn get(&self, page: PageId) -> Recorded {
        decode(page, self.word(page).load(Ordering::Acquire))
    }

    fn word(&self, page: PageId) -> &AtomicU64 {
        assert!(page.0 < self.pages, "{page:?} is outside the record");
        let at = HEADER_LEN + page.0 as usize * WORD_LEN;
        let word = self.view.as_mut_ptr().wrapping_add(at).cast::<u64>();
        // SAFETY: the word is inside the view (checked) and aligned, because the view begins at a page and `at` is a
        // multiple of 8. It is only ever used as an atomic, and the view lives as long as this value.
        unsafe { AtomicU64::from_ptr(word) }
    }
}

impl AsFd for Record {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn encode(page: PageId, version: Version) -> u64 {
    match version {
        Version(0) => 0,
        Version(number) => {
            debug_assert!(
                number >> (u64::BITS - VERSION_SHIFT) == 0,
                "{version:?} is too large for a record"
            );
            number << VERSION_SHIFT | check(page, number)
        }
    }
}

fn decode(page: PageId, word: u64) -> Recorded {
    let number = word >> VERSION_SHIFT;
    let is_sound = word & CHECK == check(page, number) && word & UNUSED == 0;
    match (word, is_sound) {
        (0, _) => Recorded::Nothing,
        (_, false) => Recorded::Doubt,
        (_, true) if number == 0 => Recorded::Doubt,
        (_, true) => Recorded::Version(Version(number)),
    }
}

/// Four bits that depend on every bit of both.
fn check(page: PageId, number: u64) -> u64 {
    // Knuth's multiplicative hashing: the high bits of a product with an odd constant near 2^64 / golden ratio.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let mixed = (number.wrapping_mul(GOLDEN) ^ page.0).wrapping_mul(GOLDEN);
    mixed >> (u64::BITS - 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_what_was_recorded_and_only_for_its_page() {
        let record = Record::new(1000).expect("a record");
        assert_eq!(record.get(PageId(999)), Recorded::Nothing);
        record.set(PageId(999), Version(7 << 32 | 5));
        assert_eq!(record.get(PageId(999)), Recorded::Version(Version(7 << 32 | 5)));
        record.set(PageId(999), Version(0));
        assert_eq!(record.get(PageId(999)), Recorded::Nothing);
        record.set(PageId(998), Version((1 << 58) - 1));
        record.clear(PageId(998));
        assert_eq!(record.get(PageId(998)), Recorded::Nothing);
    }

    /// A program that runs wild may store to the record too.
    #[test]
    fn noise_is_taken_for_a_version_once_in_sixteen_times_at_most() {
        let mut random = fastrand::Rng::with_seed(1);
        let believed = (0..10_000)
            .filter(|&page| match decode(PageId(page), random.u64(1..)) {
                Recorded::Version(_) => true,
                Recorded::Nothing | Recorded::Doubt => false,
            })
            .count();
        assert!(believed < 10_000 / 16, "{believed}");
        let flipped = |bit: u32| {
            let word = encode(PageId(3), Version(1 << 32 | 9)) ^ 1 << bit;
            decode(PageId(3), word) != Recorded::Version(Version(1 << 32 | 9))
        };
        assert!((0..64).all(flipped));
    }
}
