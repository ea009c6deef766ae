//! The record of a node's memory: one word a page, the version of the bytes that lie at the page's place. Beside the
//! words it has the homes of extents that the node has heard of, and of the locks of which it is home those that
//! somebody has.
//!
//! It lies in a file of its own, so that it outlives the process as the memory does: whoever goes on with a node
//! after its process has ended learns from it which pages have bytes there, and how new they are. Rights, requests
//! and the directory are not in it; they end with the process.
//!
//! | part | of the file |
//! |---|---|
//! | header | one page: magic and format, which process may touch the memory, the node's last open round |
//! | words | 8 bytes a page of the arena |
//! | homes | 2 bytes an extent: the home's number + 1; 0: not known |
//! | locks | 1 byte a page: the lock of this page is taken; 0: it is free, or never was a lock |
//!
//! Each part begins at a page of the file. A word is one aligned 64-bit store, so no end of the process leaves half
//! of one. Bytes may be half written at that moment, so the order of the stores counts: a word is cleared before bytes
//! change and set when they are complete, and before the application may store to them. [`super::Arena`] keeps that
//! order in one place.
//!
//! The memory has one user at a time, and the record names that process: the node's own; after its end the one that
//! runs the node on, which takes the place of the user that it knows to have ended by one compare-and-swap. A process
//! that leaves and lives on takes its name out, as its last store of all.
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
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use memmap2::{Advice, MmapOptions, MmapRaw};

use super::map::{data_of, sealed_memory};
use crate::config::NODES_MAX;
use crate::page::{EXTENT_PAGES, Epoch, ExtentId, NodeId, PAGE_SIZE, PageId, Version};
use crate::process::Process;

/// Bytes before the words.
const HEADER_LEN: usize = PAGE_SIZE;
/// The header's first word: the file is a record, of this format.
pub(super) const FORMAT: u64 = u64::from_le_bytes(*b"pmrecord") ^ 4;
/// Where the header names the process that may touch the memory.
const USER_AT: usize = size_of::<u64>();
/// Where it has the epoch of the last round in which the node knew all about the pages of which it is home.
const OPENED_AT: usize = 2 * size_of::<u64>();
/// Bits of a process's number: the kernel gives none above 2^22.
const PID_BITS: u32 = 22;
/// Bits below it, of which the check is made.
const PID_SHIFT: u32 = 4;
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

/// Which process may touch a node's memory, as its record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum User {
    /// None: who had it has left, and lives or not.
    Nobody,
    /// This one, unless it has ended.
    Process(Process),
    /// The word is none that a node writes.
    Doubt,
}

/// See the module's text. All changes are made under the node's lock.
#[derive(Debug)]
pub(super) struct Record {
    file: File,
    view: MmapRaw,
    parts: Parts,
    /// This process is the user.
    is_used: AtomicBool,
}

/// Where the parts of a record of so many pages lie in its file.
#[derive(Clone, Copy, Debug)]
struct Parts {
    pages: u64,
    homes_at: usize,
    locks_at: usize,
    end: usize,
}

impl Parts {
    const fn of(pages: u64) -> Parts {
        let words_len = pages as usize * WORD_LEN;
        let homes_at = HEADER_LEN + words_len.next_multiple_of(PAGE_SIZE);
        let homes_len = pages.div_ceil(EXTENT_PAGES) as usize * size_of::<u16>();
        let locks_at = homes_at + homes_len.next_multiple_of(PAGE_SIZE);
        Parts { pages, homes_at, locks_at, end: locks_at + (pages as usize).next_multiple_of(PAGE_SIZE) }
    }
}

impl Record {
    /// An empty record of an arena of so many pages. Memory is used only for what is noted.
    pub(super) fn new(pages: u64) -> io::Result<Record> {
        let record = Record::map(sealed_memory(c"pagemesh-record", Record::len(pages))?, pages)?;
        record.header(0).store(FORMAT, Ordering::Relaxed);
        assert!(record.take(User::Nobody), "nobody else has it yet");
        Ok(record)
    }

    /// Length in bytes of the record's file for an arena of `pages` pages.
    pub(super) const fn len(pages: u64) -> usize {
        Parts::of(pages).end
    }

    /// A record that lies in a file already. An error if it has another format.
    pub(super) fn open(file: File, pages: u64) -> io::Result<Record> {
        let record = Record::map(file, pages)?;
        match record.header(0).load(Ordering::Relaxed) {
            FORMAT => Ok(record),
            found => Err(io::Error::other(format!("the record has another format ({found:#x})"))),
        }
    }

    fn map(file: File, pages: u64) -> io::Result<Record> {
        let view = MmapOptions::new().len(Record::len(pages)).no_reserve_swap().map_raw(&file)?;
        view.advise(Advice::DontFork)?;
        view.advise(Advice::DontDump)?;
        Ok(Record { file, view, parts: Parts::of(pages), is_used: AtomicBool::new(false) })
    }

    /// Makes this process the user, in the place of one that touches the memory no more. False if another process has
    /// taken it meanwhile.
    pub(super) fn take(&self, from: User) -> bool {
        let word = self.header(USER_AT);
        let from = match from {
            User::Nobody => 0,
            User::Process(process) => encode_user(process),
            // Whatever noise stands there now.
            User::Doubt => match word.load(Ordering::Relaxed) {
                noise if decode_user(noise) == User::Doubt => noise,
                _ => return false,
            },
        };
        let to = encode_user(Process::own());
        // Acquire: what the one before has stored is there.
        let taken = word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.is_used.fetch_or(taken, Ordering::Relaxed);
        taken
    }

    /// Whether this process is the user.
    pub(super) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// The last store of a process that lives on: it touches the memory never again.
    pub(super) fn let_go(&self) {
        if self.is_used.swap(false, Ordering::Relaxed) {
            self.header(USER_AT).store(0, Ordering::Release);
        }
    }

    /// Those of `pages` whose words may be other than 0: no time is spent on the others, however many there are.
    pub(super) fn written(&self, pages: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.entries(HEADER_LEN, WORD_LEN, pages)
    }

    /// The extents whose home has been noted, and their homes.
    pub(super) fn homes(&self) -> impl Iterator<Item = (ExtentId, NodeId)> {
        let extents = 0..self.parts.pages.div_ceil(EXTENT_PAGES);
        self.entries(self.parts.homes_at, size_of::<u16>(), extents).flatten().filter_map(|extent| {
            let home = self.home(ExtentId(extent)).load(Ordering::Relaxed).checked_sub(1)?;
            // A stray store of a dying program names anybody.
            (usize::from(home) < NODES_MAX).then_some((ExtentId(extent), NodeId(home)))
        })
    }

    /// The pages whose lock has been noted as taken.
    pub(super) fn locks(&self) -> impl Iterator<Item = PageId> {
        let is_taken = |page: &PageId| self.lock(*page).load(Ordering::Relaxed) != 0;
        let noted = self.entries(self.parts.locks_at, 1, 0..self.parts.pages).flatten();
        noted.map(PageId).filter(is_taken)
    }

    /// The numbers of those entries of a table that lie where the file has memory.
    fn entries(&self, at: usize, len: usize, numbers: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (at, len) = (at as u64, len as u64);
        let number = move |byte: u64| byte.saturating_sub(at) / len;
        data_of(&self.file, at + numbers.start * len..at + numbers.end * len)
            .map(move |data| number(data.start)..number(data.end))
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

    /// The home of an extent.
    pub(super) fn note_home(&self, extent: ExtentId, home: NodeId) {
        self.home(extent).store(home.0 + 1, Ordering::Release);
    }

    pub(super) fn note_opened(&self, round: Epoch) {
        self.header(OPENED_AT).store(round.0, Ordering::Release);
    }

    pub(super) fn opened(&self) -> Epoch {
        Epoch(self.header(OPENED_AT).load(Ordering::Acquire))
    }

    /// Whether somebody has the lock of a page.
    pub(super) fn note_lock(&self, page: PageId, is_taken: bool) {
        self.lock(page).store(u8::from(is_taken), Ordering::Release);
    }

    /// Nothing is known of the homes and locks of these pages any more: their region is gone. The extents are theirs
    /// as a whole.
    pub(super) fn forget(&self, pages: Range<u64>) {
        let (first, end) = (PageId(pages.start).extent().0, pages.end.div_ceil(EXTENT_PAGES));
        for extent in self.entries(self.parts.homes_at, size_of::<u16>(), first..end).flatten() {
            self.home(ExtentId(extent)).store(0, Ordering::Relaxed);
        }
        for page in self.entries(self.parts.locks_at, 1, pages).flatten().map(PageId) {
            self.lock(page).store(0, Ordering::Relaxed);
        }
    }

    fn header(&self, at: usize) -> &AtomicU64 {
        let word = self.at(at, size_of::<u64>()).cast::<u64>();
        // SAFETY: the word is inside the view (checked) and aligned, because the view begins at a page and `at` is a
        // multiple of 8. It is only ever used as an atomic, and the view lives as long as this value.
        unsafe { AtomicU64::from_ptr(word) }
    }

    fn word(&self, page: PageId) -> &AtomicU64 {
        assert!(page.0 < self.parts.pages, "{page:?} is outside the record");
        self.header(HEADER_LEN + page.0 as usize * WORD_LEN)
    }

    fn home(&self, extent: ExtentId) -> &AtomicU16 {
        assert!(extent.0 < self.parts.pages.div_ceil(EXTENT_PAGES), "{extent:?} is outside the record");
        let at = self.parts.homes_at + extent.0 as usize * size_of::<u16>();
        let home = self.at(at, size_of::<u16>()).cast::<u16>();
        // SAFETY: the entry is inside the view (checked) and aligned, because the homes begin at a page. It is only
        // ever used as an atomic, and the view lives as long as this value.
        unsafe { AtomicU16::from_ptr(home) }
    }

    fn lock(&self, page: PageId) -> &AtomicU8 {
        assert!(page.0 < self.parts.pages, "{page:?} is outside the record");
        let lock = self.at(self.parts.locks_at + page.0 as usize, 1);
        // SAFETY: the byte is inside the view (checked). It is only ever used as an atomic, and the view lives as long
        // as this value.
        unsafe { AtomicU8::from_ptr(lock) }
    }

    fn at(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at + len <= self.parts.end, "byte {at:#x} is outside the record");
        self.view.as_mut_ptr().wrapping_add(at)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Which process may touch the memory whose record this is.
pub(crate) fn user_of(record: &File) -> io::Result<User> {
    let mut word = [0; size_of::<u64>()];
    record.read_exact_at(&mut word, USER_AT as u64)?;
    Ok(decode_user(u64::from_ne_bytes(word)))
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

/// Names another process, for tests.
#[cfg(test)]
pub(crate) fn name_user(record: &File, user: Process) {
    record.write_all_at(&encode_user(user).to_ne_bytes(), USER_AT as u64).expect("memory");
}

fn encode_user(Process { pid, started }: Process) -> u64 {
    let named = started << PID_BITS | u64::from(pid);
    named << PID_SHIFT | check(PageId(0), named)
}

fn decode_user(word: u64) -> User {
    let named = word >> PID_SHIFT;
    match word {
        0 => User::Nobody,
        _ if word & CHECK != check(PageId(0), named) => User::Doubt,
        _ => {
            User::Process(Process { pid: (named & ((1 << PID_BITS) - 1)) as u32, started: named >> PID_BITS })
        }
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

    #[test]
    fn homes_and_taken_locks_are_noted_until_their_region_is_gone() {
        // Two extents of homes, and a part of a third.
        let pages = 2 * EXTENT_PAGES + 1;
        let record = Record::new(pages).expect("a record");
        assert_eq!((record.homes().count(), record.locks().count()), (0, 0));
        record.note_home(ExtentId(0), NodeId(0));
        record.note_home(ExtentId(2), NodeId(127));
        record.note_lock(PageId(3), true);
        record.note_lock(PageId(4), true);
        record.note_lock(PageId(4), false);
        record.note_lock(PageId(pages - 1), true);
        record.set(PageId(pages - 1), Version(9));
        let file = record.file.try_clone().expect("a descriptor");
        let again = Record::open(file, pages).expect("a record");
        let homes = |record: &Record| record.homes().collect::<Vec<_>>();
        let locks = |record: &Record| record.locks().collect::<Vec<_>>();
        assert_eq!(homes(&again), [(ExtentId(0), NodeId(0)), (ExtentId(2), NodeId(127))]);
        assert_eq!(locks(&again), [PageId(3), PageId(pages - 1)]);
        // What a stray store leaves is no node.
        again.home(ExtentId(1)).store(u16::MAX, Ordering::Relaxed);
        assert_eq!(homes(&again).len(), 2);
        record.forget(0..EXTENT_PAGES);
        assert_eq!(homes(&again), [(ExtentId(2), NodeId(127))]);
        assert_eq!(locks(&again), [PageId(pages - 1)]);
        assert_eq!(again.get(PageId(pages - 1)), Recorded::Version(Version(9)));
    }

    #[test]
    fn a_record_of_another_format_is_refused() {
        let file = sealed_memory(c"test", Record::len(3)).expect("memory");
        let refused = Record::open(file, 3).expect_err("it says nothing of itself");
        assert!(refused.to_string().contains("format (0x0)"), "{refused}");
    }

    #[test]
    fn the_header_names_the_process_that_may_touch_the_memory_until_it_lets_go() {
        let record = Record::new(3).expect("a record");
        let file = record.file.try_clone().expect("a descriptor");
        let user = || user_of(&file).expect("a word");
        let own = User::Process(Process::own());
        assert_eq!(user(), own);
        drop(Record::open(file.try_clone().expect("a descriptor"), 3).expect("a record"));
        assert_eq!(user(), own, "who only looks at it has no part in it");
        record.let_go();
        assert_eq!(user(), User::Nobody);
        let next = Record::open(file.try_clone().expect("a descriptor"), 3).expect("a record");
        assert!(next.take(User::Nobody));
        drop(record);
        assert_eq!(user(), own, "who has let go takes nobody else's name out");
        drop(next);
        assert_eq!(user(), User::Nobody);
    }

    #[test]
    fn of_two_processes_that_take_an_ended_ones_memory_one_gets_it() {
        let record = Record::new(3).expect("a record");
        let file = record.file.try_clone().expect("a descriptor");
        let other = Process { pid: 1 << 21, started: 1 << 37 };
        name_user(&file, other);
        let other = User::Process(other);
        assert_eq!(user_of(&file).expect("a word"), other);
        let open = || Record::open(file.try_clone().expect("a descriptor"), 3).expect("a record");
        let (first, second) = (open(), open());
        assert!(!first.take(User::Nobody) && !first.is_used());
        assert!(first.take(other) && first.is_used());
        assert!(!second.take(other) && !second.is_used());
        // What a stray store leaves names nobody, and is nobody's leave.
        record.header(USER_AT).fetch_xor(1, Ordering::Relaxed);
        assert_eq!(user_of(&file).expect("a word"), User::Doubt);
        assert!(second.take(User::Doubt) && !open().take(User::Doubt));
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
