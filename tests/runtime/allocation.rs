//! What a warm page fault allocates in the process that faults: nothing. (Tables and queues may grow
//! when the machine is busy: so a part of the rounds must be without any allocation, not all. What a
//! fault, or every sixteenth of them, allocated would be in each round.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pagemesh::{Dsm, Node, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig};

/// Counts what all threads of the process allocate.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        trap();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        trap();
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Prints the backtraces of this many allocations, for who looks for them.
static TRAPS: AtomicU64 = AtomicU64::new(0);

fn trap() {
    if TRAPS.load(Ordering::Relaxed) > 0 {
        let left = TRAPS.swap(0, Ordering::Relaxed);
        eprintln!("{}", std::backtrace::Backtrace::force_capture());
        TRAPS.store(left - 1, Ordering::Relaxed);
    }
}

const PAGES: usize = 64;
/// From one page to the next: too far for a stream, so that each is a fault of its own.
const APART: usize = 97;
const ROUNDS: usize = 30;
const WARM: usize = 6;

/// Writes a word of each page.
fn write(data: &pagemesh::SharedSlice<u64>, value: u64) {
    for page in 0..PAGES {
        // SAFETY: a word of the region, accessed atomically only.
        unsafe { AtomicU64::from_ptr(data.as_mut_ptr().wrapping_add(512 * APART * page)) }
            .store(value, Ordering::Relaxed);
    }
}

fn read(data: &pagemesh::SharedSlice<u64>) -> u64 {
    let load = |page: usize| {
        // SAFETY: a word of the region, accessed atomically only.
        unsafe { AtomicU64::from_ptr(data.as_mut_ptr().wrapping_add(512 * APART * page)) }
            .load(Ordering::Relaxed)
    };
    (0..PAGES).map(load).sum()
}

/// Both ranks' dance: 1 writes; 0 reads; 0 writes; 1 writes; 0 writes. `measured` is rank 0's.
fn dance(dsm: &Dsm, mut measured: impl FnMut(&'static str, usize, &mut dyn FnMut())) {
    let data = dsm.alloc::<u64>("data", 512 * APART * PAGES).unwrap();
    for round in 0..ROUNDS {
        for step in ["take", "read fault", "upgrade", "take", "write fault"] {
            match (step, dsm.is_root()) {
                ("take", false) => write(&data, 1),
                ("take", true) | (_, false) => {}
                ("read fault", true) => measured(step, round, &mut || assert_eq!(read(&data), PAGES as u64)),
                (_, true) => measured(step, round, &mut || write(&data, 2)),
            }
            dsm.barrier().unwrap();
        }
    }
}

#[test]
fn a_warm_page_fault_allocates_nothing() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, daemons.first().map(Node::local_addr));
    let mut child = Child::start("allocations", &rig.rank(program, 0, join));
    let dsm = rig::join(rig.rank(program, 1, join));
    dance(&dsm, |_, _, _| unreachable!("rank 0 measures"));
    for _ in 0..3 {
        let told = child.line();
        println!("allocations: {told}");
        let (_, counts) = told.split_once(": ").expect("a step and its counts");
        let clean = counts.split(' ').filter(|count| *count == "0").count();
        assert!(4 * clean >= ROUNDS - WARM, "{told}, for {PAGES} pages a round");
    }
    child.tell("leave");
    dsm.leave().unwrap();
    let (status, errors) = child.end_within(Duration::from_secs(20));
    assert!(status.success(), "{errors}");
    rig::stop(daemons);
}

/// Rank 0, which counts.
pub(crate) fn measure(settings: Settings) {
    let dsm = child::join(settings);
    let mut counts = ["read fault:", "upgrade:", "write fault:"].map(str::to_owned);
    let traps = std::env::var("ALLOCATION_TRAPS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    dance(&dsm, |step, round, work| {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        if round >= WARM {
            TRAPS.store(traps, Ordering::Relaxed);
        }
        work();
        TRAPS.store(0, Ordering::Relaxed);
        let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
        if round >= WARM {
            let line = counts.iter_mut().find(|line| line.starts_with(step)).expect("a known step");
            line.push_str(&format!(" {allocated}"));
        }
    });
    for line in counts {
        say(&line);
    }
    listen();
    dsm.leave().unwrap();
}
