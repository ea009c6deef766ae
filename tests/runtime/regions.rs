//! Regions: their homes, their names, their limits, and what is left of them.

use pagemesh::node::status::NodeStatus;
use pagemesh::{Dsm, Error, Node, NodeId, Placement};

use system_tests::rig::{self, Rig};

/// A program that writes one word of each page of `extents` extents; the transactions of each daemon.
fn homes_used(placement: Placement, extents: usize) -> Vec<u64> {
    let rig = Rig::with_daemons(3, 1);
    let daemons = rig.start_daemons();
    rig.run_program(daemons.first().map(Node::local_addr), move |dsm| {
        let data = dsm.alloc_with::<u64>("data", 512 * 64 * extents, placement).unwrap();
        for page in 0..64 * extents {
            data.set(512 * page, 1);
        }
        dsm.leave().unwrap();
    });
    let served = daemons.iter().map(|daemon| daemon.status().faults_served).collect();
    rig::stop(daemons);
    served
}

#[test]
fn homes_are_where_the_placement_says() {
    assert_eq!(homes_used(Placement::OnNode(NodeId(1)), 3), [0, 192, 0]);
    assert_eq!(homes_used(Placement::Cyclic, 6), [128, 128, 128]);
    assert_eq!(homes_used(Placement::Block, 6), [128, 128, 128]);
    // One rank, whose nearest daemon is number 0.
    assert_eq!(homes_used(Placement::FirstTouch, 4), [256, 0, 0]);
}

#[test]
fn the_first_toucher_of_an_extent_brings_its_home_along() {
    let rig = Rig::with_daemons(2, 2);
    let daemons = rig.start_daemons();
    rig.run_program(daemons.first().map(Node::local_addr), |dsm| {
        let data = dsm.alloc::<u64>("data", 512 * 64 * 2).unwrap();
        data.set(dsm.rank() as usize * 512 * 64, 1);
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
    let served: Vec<u64> = daemons.iter().map(|daemon| daemon.status().faults_served).collect();
    assert_eq!(served, [1, 1]);
    rig::stop(daemons);
}

/// Runs programs one after the other in one cluster.
fn in_turn(rig: &Rig, programs: Vec<fn(Dsm)>) {
    let daemons = rig.start_daemons();
    for program in programs {
        rig.run_program(daemons.first().map(Node::local_addr), program);
    }
    rig::stop(daemons);
}

fn byte(index: usize) -> u8 {
    (index.wrapping_mul(2_654_435_761) >> 13) as u8
}

#[test]
fn a_later_program_reads_what_an_earlier_one_left_byte_for_byte() {
    const LEN: usize = 300_001;
    fn write(dsm: Dsm) {
        let data = dsm.alloc::<u8>("kept", LEN).unwrap();
        for index in dsm.my_block(LEN) {
            data.set(index, byte(index));
        }
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    }
    fn read(dsm: Dsm) {
        let data = dsm.attach::<u8>("kept").unwrap();
        assert_eq!(data.len(), LEN);
        let mut copy = vec![0; LEN];
        data.copy_out(0, &mut copy).unwrap();
        assert!(copy.iter().enumerate().all(|(index, &value)| value == byte(index)));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    }
    in_turn(&Rig::with_daemons(2, 2), vec![write, read, read]);
}

#[test]
fn ten_programs_in_a_row_find_the_counter_where_it_was() {
    fn count(dsm: Dsm) {
        let counter = dsm.mutex::<u64>("counter").unwrap();
        let data = dsm.alloc::<u64>("data", 5000).unwrap();
        let before = *counter.lock().unwrap();
        dsm.barrier().unwrap();
        *counter.lock().unwrap() += 1;
        for index in dsm.my_block(data.len()) {
            data.set(index, data.get(index) + 1);
        }
        dsm.barrier().unwrap();
        assert_eq!(before % 3, 0);
        assert_eq!(*counter.lock().unwrap(), before + 3);
        assert!((0..data.len()).all(|index| data.get(index) == before / 3 + 1));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    }
    in_turn(&Rig::with_daemons(2, 3), vec![count; 10]);
}

#[test]
fn a_program_that_wants_another_size_is_refused_with_both_sizes() {
    fn make(dsm: Dsm) {
        dsm.alloc::<u64>("data", 1000).unwrap();
        dsm.leave().unwrap();
    }
    fn disagree(dsm: Dsm) {
        let error = dsm.alloc::<u64>("data", 1001).err().unwrap().to_string();
        assert!(error.contains("data") && error.contains("8000") && error.contains("8008"), "{error}");
        let error = dsm.attach::<u32>("data").err().unwrap().to_string();
        assert!(error.contains("elements of 8") && error.contains("elements of 4"), "{error}");
        let error = dsm.attach::<u64>("date").err().unwrap().to_string();
        assert!(error.contains("no region `date`"), "{error}");
        dsm.leave().unwrap();
    }
    in_turn(&Rig::with_daemons(1, 1), vec![make, disagree]);
}

#[test]
fn a_region_larger_than_the_homes_is_refused() {
    Rig::with_daemons(2, 1).set("memory_max", "8MiB").run(|dsm| {
        let error = dsm.alloc::<u8>("large", (16 << 20) + 1).err().unwrap();
        assert!(matches!(error, Error::Refused(_)), "{error}");
        assert!(error.to_string().contains("memory_max"), "{error}");
        dsm.alloc::<u8>("fits", 16 << 20).unwrap();
        let error = dsm.alloc::<u8>("one more", 1).err().unwrap().to_string();
        assert!(error.contains("16777216 of 16777216"), "{error}");
        let error = dsm.alloc::<u64>("beyond", usize::MAX / 4).err().unwrap();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
        assert!(dsm.alloc::<u8>("", 1).is_err());
        assert!(dsm.alloc::<u8>("empty", 0).is_err());
        dsm.leave().unwrap();
    });
}

#[test]
fn a_region_lives_until_its_last_user_has_left() {
    fn make(dsm: Dsm) {
        let data = dsm.alloc::<u64>("data", 1000).unwrap();
        dsm.barrier().unwrap();
        if dsm.is_root() {
            dsm.remove("data").unwrap();
        }
        dsm.barrier().unwrap();
        data.set(dsm.rank() as usize, 5);
        dsm.barrier().unwrap();
        assert_eq!((data.get(0), data.get(1)), (5, 5));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    }
    fn find_nothing(dsm: Dsm) {
        let error = dsm.attach::<u64>("data").err().unwrap().to_string();
        assert!(error.contains("data"), "{error}");
        assert!(dsm.remove("data").is_err());
        dsm.leave().unwrap();
    }
    in_turn(&Rig::with_daemons(2, 2), vec![make, find_nothing]);
}

#[test]
fn a_place_that_is_used_again_reads_zero() {
    fn fill(dsm: Dsm) {
        let data = dsm.alloc::<u64>("data", 512 * 128).unwrap();
        assert_eq!(data.addr().0, 64 * 4096, "the first place of the arena");
        for index in dsm.my_block(data.len()) {
            assert_eq!(data.get(index), 0);
            data.set(index, u64::MAX);
        }
        dsm.barrier().unwrap();
        // Everybody has a copy of everything.
        assert!((0..data.len()).all(|index| data.get(index) == u64::MAX));
        dsm.barrier().unwrap();
        if dsm.is_root() {
            dsm.remove("data").unwrap();
        }
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    }
    // An arena with one place for it: addresses that no region has had are given out first.
    let rig = Rig::with_daemons(2, 2).set("arena_size", &(3 * 64 * 4096).to_string());
    let daemons = rig.start_daemons();
    for _ in 0..4 {
        rig.run_program(daemons.first().map(Node::local_addr), fill);
        rig::until("the region is gone", || daemons.iter().all(|daemon| daemon.status().resident_pages == 0));
    }
    rig::stop(daemons);
}

#[test]
fn many_regions_have_many_places() {
    let statuses: Vec<NodeStatus> = Rig::with_daemons(2, 2).run(|dsm| {
        let regions: Vec<_> =
            (0..200).map(|number| dsm.alloc::<u64>(&format!("region {number}"), 10).unwrap()).collect();
        for (number, region) in regions.iter().enumerate() {
            if number % 2 == dsm.rank() as usize {
                region.set(3, number as u64);
            }
        }
        dsm.barrier().unwrap();
        for (number, region) in regions.iter().enumerate() {
            assert_eq!(region.get(3), number as u64);
        }
        dsm.barrier().unwrap();
        let status = dsm.status();
        dsm.leave().unwrap();
        status
    });
    assert!(statuses.iter().all(|status| status.coherence.violations == 0));
}

/// The table of regions is longer than any message: the second program gets it in parts.
#[test]
fn a_program_joins_a_cluster_with_more_regions_than_one_message_can_tell() {
    const REGIONS: usize = 4_500;
    let mut rig = Rig::with_daemons(1, 1);
    (rig.settings.arena_size, rig.settings.memory_max) = (2 << 30, 2 << 30);
    let daemons = rig.start_daemons();
    let join = daemons.first().map(Node::local_addr);
    let maker = rig::join(rig.rank(rig::new_program() + 1_000_000, 0, join));
    let name = |number: usize| format!("{number:x>255}");
    for number in 0..REGIONS {
        let region = maker.alloc::<u64>(&name(number), 10).unwrap();
        region.set(3, number as u64);
    }
    let newcomer = rig::join(rig.rank(rig::new_program() + 1_000_000, 0, join));
    for number in [0, REGIONS / 2, REGIONS - 1] {
        assert_eq!(newcomer.alloc::<u64>(&name(number), 10).unwrap().get(3), number as u64);
    }
    newcomer.leave().unwrap();
    maker.leave().unwrap();
    rig::stop(daemons);
}
