//! Data that are four times what a node may hold: the result is right, and no node is ever above its limit.

use pagemesh::node::status::NodeStatus;
use pagemesh::{Dsm, Node, Placement};

use system_tests::rig::{Rig, stop};

/// What each node may hold.
const LIMIT: &str = "1MiB";
const LIMIT_PAGES: u64 = 256;
/// Four times that.
const PAGES: usize = 1024;
const ROUNDS: usize = 3;

/// Every round each rank adds to a quarter that was another's before, then reads everything.
fn program(dsm: Dsm) -> NodeStatus {
    let data = dsm.alloc::<u64>("data", 512 * PAGES).unwrap();
    let (rank, ranks) = (dsm.rank() as usize, dsm.ranks() as usize);
    let block = 512 * PAGES.div_ceil(ranks);
    for round in 0..ROUNDS {
        let first = (rank + round) % ranks * block;
        for index in (first..(first + block).min(data.len())).step_by(64) {
            data.set(index, data.get(index) + (index * (round + 1)) as u64);
        }
        within_limit(&dsm.status());
        dsm.barrier().unwrap();
        let factor: usize = (1..=round + 1).sum();
        for index in (0..data.len()).step_by(64) {
            assert_eq!(data.get(index), (index * factor) as u64, "round {round}, number {index}");
        }
        within_limit(&dsm.status());
        dsm.barrier().unwrap();
    }
    let status = dsm.status();
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
    status
}

fn within_limit(status: &NodeStatus) {
    let &NodeStatus { resident_pages, resident_peak, resident_limit, .. } = status;
    assert_eq!(resident_limit, LIMIT_PAGES);
    assert!(resident_pages <= resident_peak && resident_peak <= resident_limit, "{status:#?}");
}

fn check(statuses: &[NodeStatus]) {
    for status in statuses {
        within_limit(status);
        println!("{} of {} pages at most, {:?}", status.resident_peak, LIMIT_PAGES, status.coherence);
    }
}

#[test]
fn data_four_times_a_node_s_limit_with_daemons() {
    let rig = Rig::with_daemons(4, 4).set("memory_max", LIMIT);
    let daemons = rig.start_daemons();
    let ranks = rig.run_program(daemons.first().map(Node::local_addr), program);
    check(&ranks);
    let at_home: Vec<NodeStatus> = daemons.iter().map(Node::status).collect();
    check(&at_home);
    // All of it is there, and fits exactly.
    assert_eq!(at_home.iter().map(|status| status.resident_pages).sum::<u64>(), PAGES as u64);
    for status in &ranks {
        assert!(status.resident_peak > LIMIT_PAGES / 2, "the limit was tried: {status:#?}");
        assert!(status.coherence.evictions > PAGES as u64, "{status:#?}");
    }
    stop(daemons);
}

#[test]
fn data_four_times_a_rank_s_limit_without_daemons() {
    // Each keeps a quarter of its limit for pages of other homes, so four ranks are too few.
    check(&Rig::without_daemons(6).set("memory_max", LIMIT).run(program));
    Rig::without_daemons(4).set("memory_max", LIMIT).run(|dsm| {
        let error = dsm.alloc::<u64>("data", 512 * PAGES).err().unwrap().to_string();
        assert!(
            error.contains("larger than what the homes have left") && error.contains("memory_max"),
            "{error}"
        );
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn a_home_that_would_be_overfilled_is_named() {
    Rig::with_daemons(2, 1).set("memory_max", LIMIT).run(|dsm| {
        let on = Placement::OnNode(pagemesh::NodeId(1));
        let error = dsm.alloc_with::<u8>("data", (1 << 20) + 1, on).err().unwrap().to_string();
        assert!(error.contains("node 1") && error.contains("memory_max"), "{error}");
        dsm.alloc_with::<u8>("data", 1 << 20, on).unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn a_rank_without_room_for_its_instructions_is_refused() {
    let settings = pagemesh::Settings { memory_max: 4096, ..system_tests::rig::small() };
    let error = Dsm::builder().settings(settings).arena_anywhere().join().err().unwrap().to_string();
    assert!(error.contains("memory_max: 4096 bytes are too few"), "{error}");
}
