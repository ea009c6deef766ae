//! The library's small operations, as several ranks use them on the memory that they share.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use pagemesh::{Dsm, Error};
use system_tests::rig::Rig;

/// Elements of 8 bytes on a page.
const PER_PAGE: usize = 512;

#[test]
fn shares_of_all_ranks_cover_every_element_once() {
    let shares = Rig::with_daemons(1, 3).run(|dsm| {
        let (n, width) = (10, 7);
        let counts = dsm.alloc::<u8>("rows", n * width).unwrap();
        let rows = dsm.rows(n, width);
        assert_eq!(rows, dsm.my_block(n).start * width..dsm.my_block(n).end * width);
        rows.for_each(|element| _ = counts.fetch_add(element, 1));
        let field = dsm.alloc::<u64>("field", 5 * PER_PAGE + 3).unwrap();
        let aligned = dsm.my_block_aligned(&field);
        aligned.clone().for_each(|element| _ = field.fetch_add(element, 1));
        dsm.barrier().unwrap();
        assert!(counts.iter().all(|count| count == 1), "{:?}", counts.to_vec());
        assert!(field.iter().all(|count| count == 1));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
        aligned
    });
    assert!(shares.iter().all(|share| !share.is_empty() && share.start % PER_PAGE == 0), "{shares:?}");
}

#[test]
fn every_rank_knows_the_ranks_of_its_host() {
    let known = Rig::with_daemons(1, 3).run(|dsm| {
        let known = dsm.ranks_on_this_host();
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
        known
    });
    assert_eq!(known, [[0, 1, 2]; 3]);
}

#[test]
fn what_one_rank_fills_and_copies_another_reads_by_value() {
    Rig::with_daemons(1, 2).run(|dsm: Dsm| {
        let data = dsm.alloc::<u64>("data", 3 * PER_PAGE).unwrap();
        let part = PER_PAGE - 1..PER_PAGE + 2; // on two pages
        if dsm.is_root() {
            data.fill(7);
            data.slice(part.clone()).copy_from_slice(&[1, 2, 3]);
        }
        dsm.barrier().unwrap();
        let mut expected = vec![7; 3 * PER_PAGE];
        expected[part.clone()].copy_from_slice(&[1, 2, 3]);
        assert_eq!(data.to_vec(), expected);
        assert_eq!(data.slice(part).iter().rev().collect::<Vec<u64>>(), [3, 2, 1]);
        assert_eq!(data.iter().len(), expected.len());
        dsm.barrier().unwrap();
        let wrong = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| data.copy_from_slice(&[0, 0])));
        assert!(wrong.is_err(), "another length");
        assert_eq!(data.to_vec(), expected, "nothing was copied");
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn a_wait_ends_at_the_instant_that_is_its_deadline() {
    let apart = Barrier::new(2);
    Rig::with_daemons(1, 2).run(move |dsm| {
        let later = || Instant::now() + Duration::from_secs(30);
        let mutex = dsm.mutex::<u64>("held").unwrap();
        let guard = dsm.is_root().then(|| mutex.lock().unwrap());
        dsm.barrier().unwrap();
        if !dsm.is_root() {
            let error = mutex.lock_deadline(Instant::now()).map(drop).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
            let error = dsm.barrier_deadline(Instant::now()).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        // Rank 0 comes to the barrier when rank 1 has given up.
        apart.wait();
        drop(guard);
        dsm.barrier_deadline(later()).unwrap();
        *mutex.lock_deadline(later()).unwrap() += 1;
        dsm.barrier_deadline(later()).unwrap();
        assert_eq!(*mutex.lock().unwrap(), 2);
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}
