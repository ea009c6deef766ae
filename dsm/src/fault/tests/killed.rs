//! A process is killed while it takes in pages, stores to them and gives them up: what its record says of the bytes
//! that it leaves behind is true, whichever instruction was its last.
//!
//! `LONG=1` in the environment kills 10,000 processes in each order, instead of 200.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::record::FORMAT;
use super::*;
use crate::page::{ExtentId, NodeId};

const PAGES: u64 = 64;
/// What the process notes of the only extent.
const HOME: NodeId = NodeId(7);
/// The lock that the process notes as taken in every other round of all pages.
const LOCK: PageId = PageId(5);
/// The page between whose two versions of a round it notes both. It is never given up.
const NOTER: PageId = PageId(1);
/// Set in the process that is killed: how it orders its steps.
const ORDER: &str = "PAGEMESH_TEST_ORDER";
/// A moment of the sweep is at most so long after the process began its work, in microseconds.
const SWEEP_US: u64 = 3_000;

/// What the process does in the wrong order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Shipped,
    RecordBeforeBytes,
    StoresBeforeRecord,
    PunchBeforeClearing,
}

const TURNED: [Order; 3] = [Order::RecordBeforeBytes, Order::StoresBeforeRecord, Order::PunchBeforeClearing];

/// The bytes of a page at a version: its first word is the version, and so are all others until the application
/// stores.
fn contents(version: u64) -> PageBuf {
    let mut page = PageBuf::zeroed();
    for word in page.as_mut_slice().chunks_exact_mut(8) {
        word.copy_from_slice(&version.to_le_bytes());
    }
    page
}

/// Takes pages in, makes them its own and stores to them, and gives them up, for ever.
fn work(order: Order) -> ! {
    let rig = Rig::new(Backend::Mprotect, PAGES);
    let arena = &rig.arena;
    let mut out = std::io::stdout();
    writeln!(out, "files {} {}", arena.store.file().as_raw_fd(), arena.record.as_fd().as_raw_fd())
        .and_then(|()| out.flush())
        .expect("the parent reads");
    for round in 1.. {
        for page in (0..PAGES).map(PageId) {
            let (taken, owned) = (Version(2 * round), Version(2 * round + 1));
            let bytes = contents(taken.0);
            if order == Order::RecordBeforeBytes {
                arena.record.set(page, taken);
                arena.store.write(page.start().0 as usize, bytes.as_slice());
            }
            rig.locked(|memory| memory.install(page, Contents::Bytes(bytes.as_slice()), Access::Read, taken));
            if page == NOTER {
                rig.locked(|memory| memory.note_home(page.extent(), HOME));
                arena.note_lock(LOCK, round % 2 == 1);
            }
            if order == Order::StoresBeforeRecord {
                rig.locked(|memory| memory.protect(page, Access::Write));
                rig.store(page.0, owned.0);
            }
            rig.locked(|memory| memory.set_version(page, owned));
            rig.locked(|memory| memory.protect(page, Access::Write));
            rig.store(page.0, owned.0);
            if page.0 % 4 == 0 {
                rig.locked(|memory| memory.protect(page, Access::None));
                if order == Order::PunchBeforeClearing {
                    let start = page.start().0 as usize;
                    arena.store.punch(start..start + PAGE_SIZE).expect("memory is given back");
                }
                rig.locked(|memory| memory.discard(page));
            }
        }
    }
    unreachable!("the parent kills this process")
}

/// The process under test: this test binary again.
#[test]
#[ignore = "is what the other tests of this file kill"]
fn victim() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let all = [&[Order::Shipped][..], &TURNED].concat();
    work(all.into_iter().find(|known| format!("{known:?}") == order).expect("a known order"));
}

struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the process and kills it some time after it has begun; returns its memory and its record.
fn kill_once(order: Order, after: Duration) -> (File, File) {
    let myself = std::env::current_exe().expect("a program");
    let name = format!("{}::victim", module_path!().split_once("::").expect("a crate").1);
    let mut command = Command::new(myself);
    command
        .args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(ORDER, format!("{order:?}"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a process");
    let mut victim = Victim(child);
    let mut stdout = victim.0.stdout.take().expect("a pipe");
    let files = read_descriptors(&mut stdout);
    let [arena, record] = files.map(|number| {
        let path = format!("/proc/{}/fd/{number}", victim.0.id());
        File::options().read(true).write(true).open(path).expect("a descriptor of a process of this user")
    });
    // The moment of the kill: nothing comes through the pipe.
    let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)];
    let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(after)), None);
    drop(victim);
    (arena, record)
}

/// The words of a page at a version, taken in or owned.
fn is_of(words: &[u64], version: Version) -> bool {
    match version.0 % 2 {
        // Taken in: all words are of this version. Owned: the others are of the one before, and the first may be.
        0 => words.iter().all(|&word| word == version.0),
        _ => {
            words[1..].iter().all(|&word| word == version.0 - 1)
                && [version.0, version.0 - 1].contains(&words[0])
        }
    }
}

fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8"))).collect()
}

/// What of a killed process's pages is not what its record says.
fn wrong_after_kill(order: Order, after: Duration) -> Vec<String> {
    let (arena, record) = kill_once(order, after);
    let len = PAGES as usize * PAGE_SIZE;
    let store = Store::open(arena, len).expect("a mapping");
    let record = Record::open(record, PAGES).expect("a mapping");
    let wrong = |page: PageId| {
        let mut bytes = PageBuf::zeroed();
        store.read(page.start().0 as usize, bytes.as_mut_slice());
        let words = words_of(bytes.as_slice());
        let is_true = match record.get(page) {
            Recorded::Nothing => true,
            Recorded::Version(version) => is_of(&words, version),
            Recorded::Doubt => false,
        };
        (!is_true)
            .then(|| format!("{page:?} is recorded as {:?} and begins {:?}", record.get(page), &words[..2]))
    };
    (0..PAGES).filter_map(|page| wrong(PageId(page))).collect()
}

/// The two numbers of the line with which the process begins.
fn read_descriptors(stdout: &mut impl Read) -> [i32; 2] {
    let mut text = String::new();
    let mut byte = [0];
    loop {
        assert_eq!(stdout.read(&mut byte).expect("a pipe"), 1, "the process has ended: {text}");
        text.push(char::from(byte[0]));
        if let Some(line) = text.split_once("files ").and_then(|(_, rest)| rest.strip_suffix('\n')) {
            let mut numbers = line.split_whitespace().map(|number| number.parse().expect("a number"));
            return [(); 2].map(|()| numbers.next().expect("two numbers"));
        }
    }
}

fn kills() -> u64 {
    if std::env::var_os("LONG").is_some() { 10_000 } else { 200 }
}

/// Sweeps the moment of the kill; ends with the first wrong page.
fn sweep(order: Order, kills: u64) -> Vec<String> {
    let moment = |kill: u64| Duration::from_micros(kill.wrapping_mul(7_919) % SWEEP_US);
    (0..kills)
        .map(|kill| wrong_after_kill(order, moment(kill)))
        .find(|wrong| !wrong.is_empty())
        .unwrap_or_default()
}

#[test]
fn what_a_killed_process_has_recorded_lies_in_its_memory() {
    assert_eq!(sweep(Order::Shipped, kills()), Vec::<String>::new());
}

#[test]
fn a_record_that_is_written_in_another_order_is_found_out() {
    for order in TURNED {
        assert!(!sweep(order, 10_000).is_empty(), "{order:?} was not found");
    }
}

/// What its heir does: it maps the memory and the record, and gives back what no word of the record names.
#[test]
fn a_killed_processs_memory_is_gone_on_with_where_it_is_recorded_and_nowhere_else() {
    let moments = (0..20).map(|kill: u64| Duration::from_micros(kill.wrapping_mul(7_919) % SWEEP_US));
    for moment in moments {
        let (file, record) = kill_once(Order::Shipped, moment);
        // Most kills leave no page half written: one more, that no word names.
        let words = Record::open(record.try_clone().expect("a descriptor"), PAGES).expect("a mapping");
        if let Some(torn) = (0..PAGES).map(PageId).find(|page| words.get(*page) == Recorded::Nothing) {
            file.write_all_at(b"torn", torn.start().0).expect("memory");
        }
        let user = user_of(&record).expect("a word");
        assert!(matches!(user, User::Process(_)), "{user:?}");
        let arena = Arena::open(file, record, PagePool::new(4), user).expect("a kept arena");
        let recovered = arena.recover();
        arena.adopt_region(PageId(0), PAGES).expect("a region");
        assert_eq!(recovered.doubtful, []);
        let backed = recovered.pages.len() as u64;
        assert_eq!(
            (arena.backed_pages(), arena.store.blocks()),
            (backed, backed * 8),
            "torn bytes are given back"
        );
        let mut memory = &arena;
        for page in (0..PAGES).map(PageId) {
            let words = words_of(memory.read(page).as_slice());
            match recovered.pages.iter().find(|(recorded, _)| *recorded == page) {
                Some((_, version)) => {
                    assert!(is_of(&words, *version), "{page:?} at {version:?}: {:?}", &words[..2])
                }
                None => assert!(words.iter().all(|word| *word == 0), "{page:?}: {:?}", &words[..2]),
            }
        }
        memory.install(
            PageId(1),
            Contents::Bytes(contents(1 << 20).as_slice()),
            Access::None,
            Version(1 << 20),
        );
        assert_eq!(arena.recorded(PageId(1)), Recorded::Version(Version(1 << 20)));
        assert!(arena.adopt_region(PageId(0), PAGES).is_err(), "twice");
    }
}

#[test]
fn files_of_other_lengths_are_no_kept_arena() {
    let open = |arena: usize, record: usize| {
        let file = |len| map::sealed_memory(c"test", len).expect("memory");
        let record = file(record);
        record.write_all_at(&FORMAT.to_le_bytes(), 0).expect("memory");
        Arena::open(file(arena), record, PagePool::new(1), User::Nobody)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(open(2 * PAGE_SIZE, Record::len(2)), Ok(()));
    assert!(open(2 * PAGE_SIZE, PAGE_SIZE).is_err_and(|why| why.contains("4096 bytes")));
    assert!(open(2 * PAGE_SIZE + 1, Record::len(2)).is_err_and(|why| why.contains("not whole pages")));
}

/// What else the record of a killed process says: homes, locks, and nothing of a word that no node has written.
#[test]
fn a_killed_processs_record_says_where_homes_are_which_locks_are_taken_and_what_is_doubtful() {
    let mut locks = BTreeSet::new();
    let moments = (0..).map(|kill: u64| Duration::from_micros(kill.wrapping_mul(7_919) % SWEEP_US));
    for moment in moments.take(if std::env::var_os("LONG").is_some() { 1_000 } else { 40 }) {
        let (file, record) = kill_once(Order::Shipped, moment);
        let words = Record::open(record.try_clone().expect("a descriptor"), PAGES).expect("a mapping");
        let has_bytes = |page: &PageId| matches!(words.get(*page), Recorded::Version(_)) && *page != NOTER;
        let Some(struck) = (0..PAGES).map(PageId).find(has_bytes) else { continue };
        // A stray store of the dying program: one bit of a check.
        let (at, mut word) = (PAGE_SIZE as u64 + struck.0 * 8, [0]);
        record.read_exact_at(&mut word, at).expect("a word");
        record.write_all_at(&[word[0] ^ 1], at).expect("a word");
        let user = user_of(&record).expect("a word");
        assert!(matches!(user, User::Process(_)), "{user:?}");
        let arena = Arena::open(file, record, PagePool::new(4), user).expect("a kept arena");
        let recovered = arena.recover();
        arena.adopt_region(PageId(0), PAGES).expect("a region");
        arena.unmap_region(PageId(0), PAGES).expect("a region");
        assert_eq!(arena.recover(), Recovered::default(), "nothing is known of a region that is gone");
        assert_eq!(recovered.doubtful, [struck]);
        assert!(recovered.pages.iter().all(|(page, _)| *page != struck));
        let Some((_, Version(noted))) = recovered.pages.iter().find(|(page, _)| *page == NOTER) else {
            continue;
        };
        if noted % 2 == 1 {
            let is_taken = noted / 2 % 2 == 1;
            assert_eq!(recovered.homes, [(ExtentId(0), HOME)]);
            assert_eq!(recovered.locks, if is_taken { vec![LOCK] } else { vec![] }, "{noted}");
            locks.insert(is_taken);
        }
    }
    assert_eq!(locks, BTreeSet::from([false, true]), "both are seen");
}
