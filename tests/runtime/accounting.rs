//! No page moves but in datagrams: the bytes on the sockets against the pages moved.

use pagemesh::NodeId;
use pagemesh::Placement;
use pagemesh::node::status::NodeStatus;

use system_tests::rig::Rig;

const PAGE: u64 = 4096;

/// What a node received between two moments.
fn received(before: &NodeStatus, after: &NodeStatus) -> (u64, u64, u64) {
    (
        after.coherence.pages_received - before.coherence.pages_received,
        after.socket.bytes_in - before.socket.bytes_in,
        after.coherence.zero_pages_received - before.coherence.zero_pages_received,
    )
}

#[test]
fn every_page_that_moves_is_carried_by_datagrams() {
    const PAGES: u64 = 400;
    Rig::with_daemons(1, 2).run(|dsm| {
        let data = dsm.alloc::<u64>("data", 512 * PAGES as usize).unwrap();
        if dsm.is_root() {
            for index in 0..data.len() {
                data.set(index, fastrand::u64(..));
            }
        }
        dsm.barrier().unwrap();
        if !dsm.is_root() {
            let before = dsm.status();
            let sum = (0..data.len()).fold(0u64, |sum, index| sum.wrapping_add(data.get(index)));
            let (pages, bytes, _) = received(&before, &dsm.status());
            println!("{pages} pages in {bytes} bytes, sum {sum}");
            assert_eq!(pages, PAGES);
            assert!(bytes >= pages * PAGE, "{pages} pages cannot have come in {bytes} bytes");
            // Headers, acknowledgements, invitations to send, signs of life.
            assert!(bytes <= pages * (PAGE + 512) + 65_536, "{bytes} bytes for {pages} pages");
        }
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn what_one_node_sends_the_others_receive() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let join = daemons.first().map(pagemesh::Node::local_addr);
    let before = daemons[0].status();
    let ranks = rig.run_program(join, |dsm| {
        let data = dsm.alloc::<u64>("data", 512 * 100).unwrap();
        for index in dsm.my_block(data.len()) {
            data.set(index, index as u64 + 1);
        }
        dsm.barrier().unwrap();
        assert!((0..data.len()).all(|index| data.get(index) == index as u64 + 1));
        dsm.barrier().unwrap();
        let status = dsm.status();
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
        status
    });
    let after = daemons[0].status();
    let sent: u64 = ranks.iter().map(|status| status.coherence.pages_sent).sum::<u64>()
        + after.coherence.pages_sent
        - before.coherence.pages_sent;
    let came: u64 = ranks.iter().map(|status| status.coherence.pages_received).sum();
    let bytes: u64 = ranks.iter().map(|status| status.socket.bytes_out).sum::<u64>() + after.socket.bytes_out
        - before.socket.bytes_out;
    assert!(came >= 100, "each rank reads the other's half");
    assert!(sent >= came);
    assert!(bytes >= sent * PAGE, "{sent} pages were sent in {bytes} bytes");
    system_tests::rig::stop(daemons);
}

#[test]
fn pages_that_nobody_wrote_move_no_bytes() {
    Rig::with_daemons(1, 1).run(|dsm| {
        let data = dsm.alloc_with::<u64>("data", 512 * 500, Placement::OnNode(NodeId(0))).unwrap();
        let before = dsm.status();
        assert!((0..500).all(|page| data.get(512 * page) == 0));
        let (pages, bytes, zeros) = received(&before, &dsm.status());
        assert_eq!((pages, zeros), (0, 500));
        assert!(bytes < 500 * 512 + 65_536, "{bytes} bytes for 500 zero pages");
        dsm.leave().unwrap();
    });
}
