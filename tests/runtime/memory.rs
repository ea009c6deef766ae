//! Loads and stores of several nodes.

use system_tests::rig::Rig;

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
