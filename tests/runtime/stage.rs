//! Memory that the processes of a test share beside the library, through a file: where they meet, and
//! what they tell each other. It is the test's own; what is tested moves in datagrams.

use std::fs::{File, OpenOptions};
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Ranks for which there is room.
const RANKS_MAX: usize = 8;
/// Loads of one rank.
const SEEN_MAX: usize = 4;
/// Kinds of outcomes.
const COUNTS_MAX: usize = 64;

/// The words, mapped for as long as the process lives.
pub(crate) struct Stage {
    words: &'static Words,
    path: PathBuf,
    made_here: bool,
}

/// What lies in the file; all zero is its beginning. Its maker may have gone, so nothing in it is ever
/// waited for by who could not be killed.
#[repr(C)]
pub(crate) struct Words {
    players: AtomicU32,
    /// Meetings so far: what those who came early sleep on.
    meetings: AtomicU32,
    arrived: AtomicU32,
    seen: [[AtomicU64; SEEN_MAX]; RANKS_MAX],
    /// How often each kind of outcome came.
    pub(crate) counts: [AtomicU64; COUNTS_MAX],
    /// The kind that is aimed at.
    pub(crate) aim: AtomicU64,
    /// 1: enough.
    pub(crate) done: AtomicU64,
}

impl Stage {
    /// Makes the file.
    pub(crate) fn new() -> Stage {
        let path = std::env::temp_dir().join(format!("pagemesh-test-stage-{:016x}", fastrand::u64(..)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
        file.set_len(size_of::<Words>() as u64).expect("room");
        Stage { words: map(&file), path, made_here: true }
    }

    /// Opens what another process has made.
    pub(crate) fn open(path: &Path) -> Stage {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("made by the parent");
        Stage { words: map(&file), path: path.to_owned(), made_here: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins anew, for so many players. Nobody may be playing.
    pub(crate) fn begin(&self, players: usize) {
        self.players.store(players as u32, Ordering::Relaxed);
        self.counts.iter().chain([&self.aim, &self.done]).for_each(|word| word.store(0, Ordering::Relaxed));
    }

    /// Waits until all players have come.
    pub(crate) fn meet(&self) {
        let meeting = self.meetings.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.players.load(Ordering::Relaxed) {
            self.arrived.store(0, Ordering::Relaxed);
            self.meetings.fetch_add(1, Ordering::Release);
            futex(&self.meetings, libc::FUTEX_WAKE, i32::MAX as u32);
        } else {
            while self.meetings.load(Ordering::Acquire) == meeting {
                futex(&self.meetings, libc::FUTEX_WAIT, meeting);
            }
        }
    }

    /// Leaves what a rank has seen for who reads it after the next meeting.
    pub(crate) fn tell(&self, rank: usize, seen: &[u64]) {
        self.seen[rank].iter().zip(seen).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
    }

    /// The first words that a rank has told.
    pub(crate) fn told(&self, rank: usize, count: usize) -> impl Iterator<Item = u64> {
        self.seen[rank][..count].iter().map(|word| word.load(Ordering::Relaxed))
    }
}

impl Deref for Stage {
    type Target = Words;

    fn deref(&self) -> &Words {
        self.words
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.made_here {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn map(file: &File) -> &'static Words {
    let (len, access) = (size_of::<Words>(), libc::PROT_READ | libc::PROT_WRITE);
    // SAFETY: a new mapping of a whole file of this length, at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: mapped just above, aligned to a page, never unmapped; all fields are atomic, any bytes good.
    unsafe { &*start.cast::<Words>() }
}

/// Between processes, so not the private kind.
fn futex(word: &AtomicU32, operation: i32, value: u32) {
    let none = ptr::null::<libc::timespec>();
    // SAFETY: the kernel reads the word; a wait without a timeout may end early, and is done again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, none) };
}
