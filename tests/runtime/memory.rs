//! Loads and stores of several nodes.

use system_tests::rig::{Rig, until};

#[test]
fn one_rank_alone_reads_what_it_wrote() {
    Rig::without_daemons(1).run(|dsm| {
        let data = dsm.alloc::<u64>("data", 10_000).unwrap();
        for i in 0..data.len() {
            data.set(i, i as u64 * 3);
        }
        assert!((0..data.len()).all(|i| data.get(i) == i as u64 * 3));
        dsm.leave().unwrap();
    });
}

#[test]
fn every_rank_sees_what_every_other_wrote_before_the_barrier() {
    for rig in [Rig::without_daemons(3), Rig::with_daemons(2, 3)] {
        rig.run(|dsm| {
            let data = dsm.alloc::<u64>("data", 3 * 5000).unwrap();
            let mine = dsm.my_block(data.len());
            for i in mine {
                data.set(i, i as u64 + 7);
            }
            dsm.barrier().unwrap();
            assert!((0..data.len()).all(|i| data.get(i) == i as u64 + 7));
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_locked_counter_counts_every_increment() {
    for rig in [Rig::without_daemons(3), Rig::with_daemons(2, 3)] {
        rig.run(|dsm| {
            let counter = dsm.mutex::<u64>("counter").unwrap();
            for _ in 0..200 {
                *counter.lock().unwrap() += 1;
            }
            dsm.barrier().unwrap();
            assert_eq!(*counter.lock().unwrap(), 600);
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn elements_are_written_and_read_many_at_a_time() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let data = dsm.alloc::<u32>("data", 3000).unwrap();
        let counted = data.slice(1000..1500);
        if dsm.is_root() {
            data.fill(7);
            counted.copy_from_slice(&(0..500).collect::<Vec<u32>>());
        }
        dsm.barrier().unwrap();
        let expected: Vec<u32> =
            (0..3000).map(|at| if (1000..1500).contains(&at) { at - 1000 } else { 7 }).collect();
        assert_eq!(data.to_vec(), expected);
        assert!(data.iter().eq(expected.iter().copied()));
        assert!(counted.iter().rev().eq((0..500).rev()));
        assert_eq!(counted.iter().len(), 500);
        dsm.leave().unwrap();
    });
}

#[test]
fn the_shares_of_all_ranks_are_whole_rows_or_whole_pages_and_together_all_elements() {
    Rig::with_daemons(1, 3).run(|dsm| {
        let (n, width) = (7, 300);
        let matrix = dsm.alloc::<u16>("matrix", n * width).unwrap();
        let rows = dsm.rows(n, width);
        assert_eq!((rows.start % width, rows.end % width), (0, 0), "{rows:?}");
        assert!([2, 3].contains(&(rows.len() / width)), "{rows:?}");
        matrix.slice(rows).fill(1);
        // Of 24 bytes: 512 of them fill 3 pages.
        let triples = dsm.alloc::<[u64; 3]>("triples", 2000).unwrap();
        let mine = dsm.my_block_aligned(&triples);
        assert_eq!(mine.start % 512, 0, "{mine:?}");
        assert!(mine.end % 512 == 0 || mine.end == triples.len(), "{mine:?}");
        let shares = dsm.all_reduce(mine.len() as u64, |a, b| a + b).unwrap();
        assert_eq!(shares, 2000);
        triples.slice(mine).fill([1; 3]);
        dsm.barrier().unwrap();
        assert!(matrix.iter().all(|value| value == 1));
        assert!(triples.iter().all(|value| value == [1; 3]));
        dsm.leave().unwrap();
    });
}

#[test]
fn the_ranks_of_a_host_are_those_that_have_not_left() {
    Rig::with_daemons(1, 3).run(|dsm| {
        dsm.barrier().unwrap();
        assert_eq!(dsm.ranks_on_this_host(), [0, 1, 2]);
        dsm.barrier().unwrap();
        if dsm.rank() == 1 {
            return dsm.leave().unwrap();
        }
        until("rank 1 has left", || dsm.ranks_on_this_host() == [0, 2]);
        // The other one looks, too.
        let both = dsm.mutex::<u32>("have seen it").unwrap();
        *both.lock().unwrap() += 1;
        until("both have seen it", || *both.lock().unwrap() == 2);
        dsm.leave().unwrap();
    });
}
