//! A bad network between the nodes changes nothing but the time.

use std::sync::atomic::{AtomicU64, Ordering};

use pagemesh::Dsm;

use system_tests::rig::Rig;

/// Neighbours' values by page faults, a locked counter and a contended word.
fn workload(dsm: Dsm) {
    let data = dsm.alloc::<u64>("data", 512 * 48).unwrap();
    let sum = dsm.alloc::<u64>("sum", 1).unwrap();
    let counter = dsm.mutex::<u64>("counter").unwrap();
    dsm.barrier().unwrap();
    for round in 1..=3u64 {
        for index in dsm.my_block(data.len()) {
            data.set(index, index as u64 * round);
        }
        dsm.barrier().unwrap();
        for index in (0..data.len()).step_by(97) {
            assert_eq!(data.get(index), index as u64 * round);
        }
        *counter.lock().unwrap() += 1;
        for _ in 0..10 {
            // SAFETY: a word of the region, accessed atomically only.
            unsafe { AtomicU64::from_ptr(sum.as_mut_ptr()) }.fetch_add(1, Ordering::Relaxed);
        }
        dsm.barrier().unwrap();
    }
    let ranks = u64::from(dsm.ranks());
    assert_eq!(*counter.lock().unwrap(), 3 * ranks);
    assert_eq!(sum.get(0), 30 * ranks);
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
}

fn bad(rig: Rig, seed: &str) -> Rig {
    rig.set("net_loss", "5%")
        .set("net_dup", "5%")
        .set("net_reorder", "5%")
        .set("net_corrupt", "1%")
        .set("net_seed", seed)
}

#[test]
fn loss_duplicates_reorder_and_corruption_change_no_result() {
    bad(Rig::with_daemons(2, 3), "7").run(workload);
    bad(Rig::without_daemons(3), "8").run(workload);
}

#[test]
fn small_socket_buffers_change_no_result() {
    Rig::with_daemons(2, 3).set("socket_buffer", "212992").run(workload);
    bad(Rig::with_daemons(2, 3), "9").set("socket_buffer", "212992").run(workload);
}

#[test]
fn a_delay_changes_no_result() {
    Rig::with_daemons(1, 2).set("net_delay", "2ms").run(workload);
}

#[test]
fn joining_and_leaving_at_once_survives_a_bad_network() {
    for seed in 0..6 {
        bad(Rig::with_daemons(1, 4), &seed.to_string()).run(|dsm| dsm.leave().unwrap());
        bad(Rig::without_daemons(4), &seed.to_string()).run(|dsm| dsm.leave().unwrap());
    }
}
