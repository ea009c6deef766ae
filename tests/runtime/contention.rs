//! Several nodes, and several threads of a node, that want the same page at the same time.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pagemesh::Dsm;

use system_tests::rig::Rig;

/// Longest that contended accesses may take: a fair share of a page takes milliseconds.
const PROGRESS_MAX: Duration = Duration::from_secs(20);

fn timed<T>(work: impl FnOnce() -> T) -> T {
    let started = std::time::Instant::now();
    let result = work();
    assert!(started.elapsed() < PROGRESS_MAX, "no progress: {:?}", started.elapsed());
    result
}

fn word(pointer: *mut u64) -> &'static AtomicU64 {
    // SAFETY: the callers pass aligned words of a region that outlives the use, accessed atomically only.
    unsafe { AtomicU64::from_ptr(pointer) }
}

#[test]
fn two_writers_of_disjoint_halves_of_a_page_lose_nothing() {
    for rig in [Rig::without_daemons(2), Rig::with_daemons(1, 2)] {
        rig.run(|dsm| {
            let page = dsm.alloc::<u64>("page", 512).unwrap();
            dsm.barrier().unwrap();
            let mine = dsm.my_block(512);
            timed(|| {
                for round in 1..=400u64 {
                    for index in mine.clone() {
                        let before = page.get(index);
                        assert_eq!(before, (round - 1) * (index as u64 + 1), "rank {}", dsm.rank());
                        page.set(index, round * (index as u64 + 1));
                    }
                }
            });
            dsm.barrier().unwrap();
            for index in 0..512 {
                assert_eq!(page.get(index), 400 * (index as u64 + 1));
            }
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_value_across_two_pages_makes_progress_for_four_nodes() {
    Rig::with_daemons(2, 4).run(|dsm| {
        let bytes = dsm.alloc::<u8>("bytes", 8192).unwrap();
        let value = bytes.as_mut_ptr().wrapping_add(4092).cast::<u64>();
        dsm.barrier().unwrap();
        let rank = u64::from(dsm.rank());
        timed(|| {
            for round in 0..200u64 {
                let written = rank << 32 | round;
                // Plain stores and loads: they may tear at the boundary, but each half is somebody's.
                // SAFETY: eight bytes in the middle of the region.
                unsafe { value.write_unaligned(written) };
                // SAFETY: as above.
                let read = unsafe { std::ptr::read_volatile(value.cast::<[u8; 8]>()) };
                let read = u64::from_ne_bytes(read);
                assert!(read >> 32 < 4 && read & 0xffff_ffff < 200, "{read:#x} was never written");
            }
        });
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn four_nodes_add_to_one_word_and_none_is_lost() {
    for rig in [Rig::without_daemons(4), Rig::with_daemons(2, 4)] {
        rig.run(|dsm| {
            let sum = dsm.alloc::<u64>("sum", 1).unwrap();
            dsm.barrier().unwrap();
            timed(|| {
                for _ in 0..500 {
                    word(sum.as_mut_ptr()).fetch_add(1, Ordering::Relaxed);
                }
            });
            dsm.barrier().unwrap();
            assert_eq!(sum.get(0), 2000);
            dsm.leave().unwrap();
        });
    }
}

/// Four threads of each of two nodes add to words `stride` apart.
fn threads_add(stride: usize) {
    const ROUNDS: u64 = 300;
    Rig::with_daemons(1, 2).run(move |dsm: Dsm| {
        let sums = dsm.alloc::<u64>("sums", 4 * stride.max(1)).unwrap();
        dsm.barrier().unwrap();
        let start = Barrier::new(4);
        timed(|| {
            std::thread::scope(|scope| {
                for thread in 0..4 {
                    let (sums, start) = (&sums, &start);
                    scope.spawn(move || {
                        start.wait();
                        for _ in 0..ROUNDS {
                            let pointer = sums.as_mut_ptr().wrapping_add(thread * stride);
                            word(pointer).fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
        });
        dsm.barrier().unwrap();
        let each = if stride == 0 { 8 * ROUNDS } else { 2 * ROUNDS };
        for thread in 0..4 {
            assert_eq!(sums.get(thread * stride), each);
        }
        dsm.leave().unwrap();
    });
}

#[test]
fn four_threads_a_node_on_one_word_lose_nothing() {
    threads_add(0);
}

#[test]
fn four_threads_a_node_on_one_page_lose_nothing() {
    threads_add(8);
}

#[test]
fn four_threads_a_node_on_a_page_each_lose_nothing() {
    threads_add(512);
}

#[test]
fn many_threads_of_a_node_may_wait_for_faults_and_locks_at_once() {
    Rig::with_daemons(2, 3).run(|dsm| {
        let data = dsm.alloc::<u64>("data", 512 * 256).unwrap();
        let counter = dsm.mutex::<u64>("counter").unwrap();
        dsm.barrier().unwrap();
        timed(|| {
            std::thread::scope(|scope| {
                for thread in 0..6usize {
                    let (data, counter, rank) = (&data, &counter, dsm.rank() as usize);
                    scope.spawn(move || {
                        for round in 0..60usize {
                            let page = (thread * 37 + rank * 11 + round * 5) % 256;
                            word(data.as_mut_ptr().wrapping_add(512 * page)).fetch_add(1, Ordering::Relaxed);
                            if round % 4 == 0 {
                                *counter.lock().unwrap() += 1;
                            }
                        }
                    });
                }
            });
        });
        dsm.barrier().unwrap();
        let sum: u64 = (0..256).map(|page| data.get(512 * page)).sum();
        assert_eq!(sum, 3 * 6 * 60);
        assert_eq!(*counter.lock().unwrap(), 3 * 6 * 15);
        dsm.leave().unwrap();
    });
}

/// Polling shows how long pages are held for an instruction that has long run: a hold that took the
/// loop for an instruction that starves made it 5 ms a turn and more.
#[test]
fn a_flag_goes_back_and_forth() {
    const TURNS: u64 = 300;
    let took = Rig::with_daemons(1, 2).run(|dsm| {
        let flag = dsm.alloc::<u64>("flag", 1).unwrap();
        dsm.barrier().unwrap();
        let (flag, rank) = (word(flag.as_mut_ptr()), u64::from(dsm.rank()));
        let started = std::time::Instant::now();
        timed(|| {
            for turn in (rank..2 * TURNS).step_by(2) {
                while flag.load(Ordering::Acquire) != turn {
                    std::hint::spin_loop();
                }
                flag.store(turn + 1, Ordering::Release);
            }
        });
        let took = started.elapsed();
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
        took
    });
    println!("{:?} a turn", took[0] / (2 * TURNS as u32));
}
