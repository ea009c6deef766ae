//! Atomic operations on shared integers in place.

use std::sync::Barrier;
use std::sync::atomic::{AtomicI16, AtomicU64, Ordering};

use pagemesh::AtomicInteger;
use pagemesh::{Dsm, Pod};
use system_tests::rig::Rig;

const EACH: u64 = 2000;
const ROUNDS: u64 = 20;

/// All threads start each round at one time, on elements of one page: while one of them has loaded an
/// element, others store to it.
#[test]
fn no_count_of_any_rank_is_lost() {
    const RANKS: usize = 3;
    const THREADS: usize = 2;
    for rig in [Rig::without_daemons(RANKS as u32), Rig::with_daemons(2, RANKS as u32)] {
        let start = Barrier::new(RANKS * THREADS);
        rig.run(move |dsm| {
            let counts = dsm.alloc::<u64>("counts", 4).unwrap();
            // Two threads of each rank: atomic within a node and between nodes.
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        for _ in 0..ROUNDS {
                            start.wait();
                            (0..EACH).for_each(|at| _ = counts.fetch_add(at as usize % 4, 1));
                        }
                    });
                }
            });
            dsm.barrier().unwrap();
            assert_eq!(counts.to_vec(), [(RANKS * THREADS) as u64 * ROUNDS * EACH / 4; 4]);
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn references_to_atomics_count_as_their_integers_do() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let cells = dsm.alloc::<AtomicU64>("counts", 4).unwrap();
        for at in 0..EACH {
            cells[at as usize % 4].fetch_add(1, Ordering::Relaxed);
        }
        dsm.barrier().unwrap();
        assert!(cells.iter().all(|cell| cell.load(Ordering::Relaxed) == 2 * EACH / 4));
        let counts = dsm.alloc::<u64>("counts", 4).unwrap();
        assert_eq!(counts.to_vec(), [2 * EACH / 4; 4]);
        let part = cells.slice(1..3);
        assert_eq!(part.as_ptr(), &raw const cells[1]);
        assert_eq!(part.len(), 2);
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn one_rank_of_all_wins_an_exchange() {
    let winners = Rig::with_daemons(1, 3).run(|dsm| {
        let owner = dsm.alloc::<u32>("owner", 1).unwrap();
        let won = owner.compare_exchange(0, 0, dsm.rank() + 1);
        dsm.barrier().unwrap();
        assert_eq!(won.err().unwrap_or(dsm.rank() + 1), owner.load(0), "all see who won");
        dsm.leave().unwrap();
        won.is_ok()
    });
    assert_eq!(winners.iter().filter(|&&won| won).count(), 1);
}

/// What every type's operations return and leave, against the standard library's.
fn operations<T>(dsm: &Dsm, [low, high]: [T; 2])
where
    T: AtomicInteger + Pod + PartialEq + std::fmt::Debug,
{
    let name = std::any::type_name::<T>();
    let cells = dsm.alloc::<T>(name, 2).unwrap();
    cells.store(1, low);
    assert_eq!((cells.load(0), cells.load(1)), (T::zeroed(), low), "{name}");
    assert_eq!((cells.swap(1, high), cells.get(1)), (low, high), "{name}");
    assert_eq!((cells.fetch_min(1, low), cells.load(1)), (high, low), "{name}");
    assert_eq!((cells.fetch_max(1, high), cells.load(1)), (low, high), "{name}");
    assert_eq!(cells.compare_exchange(1, low, low), Err(high), "{name}");
    assert_eq!((cells.compare_exchange(1, high, low), cells.load(1)), (Ok(high), low), "{name}");
    assert_eq!((cells.update(1, |_| high), cells.load(1)), (low, high), "{name}");
    // high - high + low; then (low ^ high) ^ high; low & low | high.
    assert_eq!((cells.fetch_sub(1, high), cells.load(1)), (high, T::zeroed()), "{name}");
    assert_eq!((cells.fetch_add(1, low), cells.load(1)), (T::zeroed(), low), "{name}");
    assert_eq!(cells.fetch_xor(1, high), low, "{name}");
    cells.fetch_xor(1, high);
    assert_eq!((cells.fetch_and(1, low), cells.load(1)), (low, low), "{name}");
    cells.store(1, T::zeroed());
    assert_eq!((cells.fetch_or(1, high), cells.load(1)), (T::zeroed(), high), "{name}");
    assert_eq!(cells.load(0), T::zeroed(), "{name}: a neighbour is untouched");
}

#[test]
fn every_integer_has_every_operation() {
    Rig::without_daemons(1).run(|dsm| {
        operations::<u8>(&dsm, [3, u8::MAX]);
        operations::<u16>(&dsm, [3, u16::MAX]);
        operations::<u32>(&dsm, [3, u32::MAX]);
        operations::<u64>(&dsm, [3, u64::MAX]);
        operations::<usize>(&dsm, [3, usize::MAX]);
        operations::<i8>(&dsm, [i8::MIN, 77]);
        operations::<i16>(&dsm, [i16::MIN, 77]);
        operations::<i32>(&dsm, [i32::MIN, 77]);
        operations::<i64>(&dsm, [i64::MIN, 77]);
        operations::<isize>(&dsm, [isize::MIN, 77]);
        dsm.leave().unwrap();
    });
}

#[test]
fn a_sum_wraps_around_at_the_type_s_limits() {
    Rig::without_daemons(1).run(|dsm| {
        let cells = dsm.alloc::<i8>("cells", 2).unwrap();
        assert_eq!(cells.fetch_add(0, i8::MAX), 0);
        assert_eq!((cells.fetch_add(0, 1), cells.load(0)), (i8::MAX, i8::MIN));
        assert_eq!((cells.fetch_sub(0, 1), cells.load(0)), (i8::MIN, i8::MAX));
        dsm.leave().unwrap();
    });
}

#[test]
fn a_shared_bool_is_set_once() {
    let firsts = Rig::with_daemons(1, 3).run(|dsm| {
        let flags = dsm.alloc::<bool>("flags", 3).unwrap();
        let first = !flags.swap(1, true);
        dsm.barrier().unwrap();
        assert_eq!([0, 1, 2].map(|at| flags.load(at)), [false, true, false]);
        dsm.barrier().unwrap();
        if dsm.is_root() {
            assert_eq!((flags.fetch_and(1, false), flags.load(1)), (true, false));
            assert_eq!((flags.fetch_or(1, true), flags.load(1)), (false, true));
            assert_eq!((flags.fetch_xor(1, true), flags.load(1)), (true, false));
            assert_eq!(flags.compare_exchange(1, true, true), Err(false));
            assert_eq!((flags.compare_exchange(1, false, true), flags.load(1)), (Ok(false), true));
            assert_eq!((flags.update(1, |flag| !flag), flags.load(1)), (true, false));
        }
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
        first
    });
    assert_eq!(firsts.iter().filter(|&&first| first).count(), 1);
}

/// Memory may hold any byte: a program wrote it through a pointer.
#[test]
fn every_byte_but_zero_is_true() {
    Rig::without_daemons(1).run(|dsm| {
        let flags = dsm.alloc::<bool>("flags", 1).unwrap();
        // SAFETY: the region has this byte, and no other thread accesses it.
        unsafe { flags.as_mut_ptr().cast::<u8>().write(2) };
        assert!(flags.load(0));
        assert!(flags.update(0, |flag| !flag));
        assert!(!flags.load(0));
        dsm.leave().unwrap();
    });
}

#[test]
fn an_element_beyond_the_end_has_no_operation() {
    Rig::without_daemons(1).run(|dsm| {
        let cells = dsm.alloc::<u32>("cells", 3).unwrap();
        let part = cells.slice(1..2);
        let panics =
            |operation: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(operation)).is_err();
        assert!(panics(&|| _ = cells.fetch_add(3, 1)));
        assert!(panics(&|| _ = part.load(1)));
        assert!(panics(&|| part.store(usize::MAX, 1)));
        let signed = dsm.alloc::<AtomicI16>("signed", 3).unwrap();
        assert!(panics(&|| _ = signed[3].load(Ordering::Relaxed)));
        assert!(signed.get(3).is_none());
        dsm.leave().unwrap();
    });
}

/// The handle keeps the region: a reference cannot outlive it, and removing the region waits for its users.
#[test]
fn a_region_that_is_removed_stays_until_its_users_have_left() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let cells = dsm.alloc::<AtomicU64>("cells", 1).unwrap();
        dsm.barrier().unwrap();
        if dsm.is_root() {
            dsm.remove("cells").unwrap();
        }
        dsm.barrier().unwrap();
        cells[0].fetch_add(1, Ordering::Relaxed);
        dsm.barrier().unwrap();
        assert_eq!(cells[0].load(Ordering::Relaxed), 2);
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}
