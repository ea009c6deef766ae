//! One test for each crossing of messages that the tables settle.

use super::rig::{A, B, C, H, P, Rig, region};
use crate::coherence::{Body, Input, Message, Placement, Req, ToHome, ToNode, Txn};
use crate::page::Access::{None, Read, Write};
use crate::page::{Epoch, PageId};

#[test]
fn a_read_fault_recalls_the_page_from_its_owner() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 7);
    let op = rig.fault(B, P, Read);
    rig.deliver(B, H);
    let forward = rig.deliver(H, A);
    assert!(matches!(forward.to_node(), ToNode::Forward { access: Read, requester: B, .. }));
    assert_eq!(rig.mapped(A, P), Read);
    rig.deliver(A, B);
    assert_eq!((rig.result(op), rig.byte(B, P)), (Some(Ok(0)), 7));
    rig.settle();
    assert_eq!(rig.byte(H, P), 7, "the home has the bytes too");
}

#[test]
fn an_owner_lowers_its_mapping_before_it_reads_and_reads_before_it_sends() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 7);
    rig.memories[1].log.clear();
    rig.read(B, P);
    assert_eq!(rig.memories[1].log, ["protect Read", "read"]);
    rig.memories[1].log.clear();
    rig.write(B, P, 8);
    assert_eq!(rig.memories[1].log, ["protect None"], "a reader is unmapped, its bytes are not needed");
}

#[test]
fn the_home_starts_nothing_conflicting_before_installed() {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    let grant = rig.take(H, A);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    assert!(rig.network.is_empty(), "neither INV nor FWD can overtake a grant: {:?}", rig.network);
    rig.give(&grant);
    rig.deliver(A, H);
    assert!(matches!(rig.take(H, A).to_node(), ToNode::Forward { access: Write, requester: B, .. }));
}

#[test]
fn a_write_back_that_overtakes_installed_waits_in_the_queue() {
    let mut rig = Rig::new(2);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    rig.deliver(H, A);
    let installed = rig.take(A, H);
    rig.store(A, P, 5);
    rig.now = rig.now + crate::page::Span::from_ms(20);
    rig.feed(A, Input::Evict { page: P });
    rig.deliver(A, H);
    assert!(rig.network.is_empty(), "the home answers nothing while its transaction is open");
    rig.give(&installed);
    assert!(matches!(rig.deliver(H, A).to_node(), ToNode::WriteBackAck { .. }));
    assert_eq!(rig.byte(H, P), 5);
}

#[test]
fn an_upgrade_that_overtakes_installed_waits_in_the_queue() {
    let mut rig = Rig::new(2);
    rig.write(H, P, 5);
    rig.fault(A, P, Read);
    rig.deliver(A, H);
    rig.deliver(H, A);
    rig.fault(A, P, Write);
    let installed = rig.take(A, H);
    assert!(matches!(installed.to_home(), ToHome::Installed { .. }), "it rides on the upgrade");
    rig.deliver(A, H);
    rig.network.retain(|parcel| !matches!(parcel.message, Message::ToNode(ToNode::Hurry { .. })));
    assert!(rig.network.is_empty());
    rig.give(&installed);
    rig.settle();
    assert_eq!((rig.mapped(A, P), rig.byte(A, P)), (Write, 5));
}

#[test]
fn installed_that_overtakes_the_owner_s_bytes_leaves_the_transaction_open() {
    let mut rig = Rig::new(4);
    rig.write(A, P, 7);
    rig.fault(B, P, Read);
    rig.deliver(B, H);
    rig.deliver(H, A);
    let data_home = rig.take(A, H);
    rig.deliver(A, B);
    rig.fault(C, P, Read);
    rig.deliver(C, H);
    rig.deliver(H, B);
    assert!(matches!(rig.deliver(B, H).to_home(), ToHome::Installed { .. }), "somebody waits: at once");
    assert!(rig.network.is_empty(), "the home's bytes are old until DATA_HOME is in");
    rig.give(&data_home);
    rig.settle();
    assert_eq!(rig.byte(C, P), 7);
}

#[test]
fn a_reader_s_installed_waits_for_an_occasion_but_not_for_ever() {
    let mut rig = Rig::new(2);
    rig.fault(A, P, Read);
    rig.deliver(A, H);
    rig.deliver(H, A);
    assert!(rig.network.is_empty(), "nobody waits for it");
    assert!(!rig.cores[0].is_idle());
    rig.settle();
    assert!(rig.cores[0].is_idle(), "it went when it was due");
}

#[test]
fn a_waiting_writer_makes_the_readers_hurry() {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Read);
    rig.deliver(A, H);
    rig.deliver(H, A);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    let before = rig.now;
    assert!(matches!(rig.deliver(H, A).to_node(), ToNode::Hurry { .. }));
    assert!(matches!(rig.deliver(A, H).to_home(), ToHome::Installed { .. }));
    assert!(matches!(rig.take(H, A).to_node(), ToNode::Inv { .. }));
    assert_eq!(rig.now, before);
}

#[test]
fn a_hurry_that_overtakes_the_page_is_remembered() {
    let mut rig = Rig::new(4);
    rig.write(A, P, 7);
    rig.fault(B, P, Read);
    rig.deliver(B, H);
    rig.fault(C, P, Write);
    rig.deliver(C, H);
    rig.deliver(H, B);
    rig.deliver(H, A);
    rig.deliver(A, H);
    rig.deliver(A, B);
    assert!(matches!(rig.take(B, H).to_home(), ToHome::Installed { .. }), "at once");
}

#[test]
fn reads_overlap_while_the_home_s_bytes_are_current() {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Read);
    rig.fault(B, P, Read);
    rig.deliver(A, H);
    rig.deliver(B, H);
    assert!(matches!(rig.take(H, A).to_node(), ToNode::Data { .. }));
    assert!(matches!(rig.take(H, B).to_node(), ToNode::Data { .. }));
}

#[test]
fn a_forward_that_crosses_a_write_back_is_answered_from_the_bytes_in_place() {
    for access in [Read, Write] {
        let mut rig = Rig::new(3);
        rig.write(A, P, 9);
        rig.feed(A, Input::Evict { page: P });
        let write_back = rig.take(A, H);
        rig.fault(B, P, access);
        rig.deliver(B, H);
        rig.deliver(H, A);
        assert_eq!(rig.byte(A, P), 9, "the bytes stay until the home has acknowledged them");
        rig.give(&write_back);
        rig.settle();
        assert_eq!((rig.mapped(B, P), rig.byte(B, P)), (access, 9));
        // The write-back came behind the transaction: the owner had changed, and only the ack was due.
        let owner = if access == Write { Some(B) } else { Option::None };
        assert_eq!(rig.cores[0].directory_entry(P).unwrap().0, owner);
        assert_eq!(rig.read(A, P), 9);
    }
}

#[test]
fn a_write_back_ack_cannot_overtake_a_forward_of_the_same_page() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 9);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    let forward = rig.take(H, A);
    rig.feed(A, Input::Evict { page: P });
    rig.deliver(A, H);
    assert!(rig.network.is_empty(), "the write-back waits for the transaction that sent the forward");
    rig.give(&forward);
    rig.settle();
    assert_eq!(rig.byte(B, P), 9);
}

#[test]
fn a_node_that_answered_while_it_wrote_back_is_listed_as_a_sharer_and_that_does_no_harm() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 9);
    rig.feed(A, Input::Evict { page: P });
    let write_back = rig.take(A, H);
    rig.fault(B, P, Read);
    rig.deliver(B, H);
    rig.deliver(H, A);
    rig.give(&write_back);
    rig.settle();
    assert!(rig.cores[0].directory_entry(P).unwrap().1.contains(A), "a superset");
    assert_eq!(rig.mapped(A, P), None);
    let op = rig.fault(A, P, Write);
    let ask = rig.take(A, H);
    assert!(matches!(ask.to_home(), ToHome::GetM { have: Option::None, .. }));
    rig.give(&ask);
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(A, P)), (Some(Ok(0)), 9));
}

#[test]
fn a_dropped_copy_is_fetched_again_although_the_home_lists_it() {
    for access in [Read, Write] {
        let mut rig = Rig::new(2);
        rig.write(H, P, 4);
        assert_eq!(rig.read(A, P), 4);
        rig.feed(A, Input::Evict { page: P });
        assert!(rig.network.is_empty(), "shared copies are dropped silently");
        rig.fault(A, P, access);
        rig.deliver(A, H);
        assert!(matches!(rig.deliver(H, A).to_node(), ToNode::Data { body: Body::Page, .. }));
        assert_eq!(rig.byte(A, P), 4);
    }
}

#[test]
fn a_copy_that_an_upgrade_has_named_is_not_dropped() {
    let mut rig = Rig::new(2);
    rig.write(H, P, 4);
    rig.read(A, P);
    rig.fault(A, P, Write);
    rig.now = rig.now + crate::page::Span::from_ms(20);
    rig.feed(A, Input::Evict { page: P });
    assert_eq!(rig.mapped(A, P), Read);
    rig.deliver(A, H);
    rig.deliver(H, A);
    rig.settle();
    assert_eq!((rig.mapped(A, P), rig.byte(A, P)), (Write, 4));
}

#[test]
fn an_upgrade_whose_copy_was_invalidated_gets_the_bytes() {
    let mut rig = Rig::new(3);
    rig.write(H, P, 1);
    rig.read(A, P);
    rig.read(B, P);
    let slow = rig.fault(A, P, Write);
    let upgrade = rig.take(A, H);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.give(&upgrade);
    // A waiting node serves the invalidation at once.
    while let Some(at) = rig.network.iter().position(|parcel| parcel.to == A) {
        let parcel = rig.network.remove(at);
        rig.give(&parcel);
    }
    assert_eq!(rig.mapped(A, P), None);
    rig.settle();
    assert_eq!(rig.result(slow), Some(Ok(0)));
    assert_eq!(rig.mapped(B, P), None);
}

#[test]
fn two_upgrades_at_once_both_succeed_one_after_the_other() {
    let mut rig = Rig::new(3);
    rig.write(H, P, 1);
    rig.read(A, P);
    rig.read(B, P);
    let ops = [rig.fault(A, P, Write), rig.fault(B, P, Write)];
    rig.settle();
    assert_eq!(ops.map(|op| rig.result(op)), [Some(Ok(0)), Some(Ok(0))]);
}

#[test]
fn a_write_grant_leaves_only_after_every_acknowledgement() {
    let mut rig = Rig::new(4);
    for node in [A, B] {
        rig.read(node, P);
    }
    rig.fault(C, P, Write);
    rig.deliver(C, H);
    rig.deliver(H, A);
    rig.deliver(A, H);
    assert!(rig.network.iter().all(|parcel| parcel.to != C), "one sharer has not answered");
    rig.deliver(H, B);
    rig.deliver(B, H);
    rig.deliver(H, C);
    assert_eq!(rig.mapped(C, P), Write);
}

#[test]
fn late_duplicates_change_nothing() {
    let mut rig = Rig::new(3);
    let mut all = Vec::new();
    let mut step = |rig: &mut Rig, node, access| {
        rig.fault(node, P, access);
        loop {
            while !rig.network.is_empty() {
                let parcel = rig.network.remove(0);
                rig.give(&parcel);
                all.push(parcel);
            }
            let Some(due) = rig.cores.iter().filter_map(|core| core.poll_timeout()).min() else { break };
            rig.now = due;
            for id in [H, A, B] {
                rig.feed(id, Input::Timer);
            }
        }
    };
    for (node, access) in [(A, Write), (B, Read), (A, Write), (B, Write), (H, Read), (A, Read), (B, Write)] {
        step(&mut rig, node, access);
    }
    rig.now = rig.now + crate::page::Span::from_ms(20);
    rig.store(B, P, 77);
    rig.feed(B, Input::Evict { page: P });
    while !rig.network.is_empty() {
        let parcel = rig.network.remove(0);
        rig.give(&parcel);
        all.push(parcel);
    }
    let settled = rig.cores[0].directory_entry(P);
    for parcel in &all {
        rig.give(parcel);
        // An invalidation is acknowledged whenever it comes; nothing else is answered.
        rig.network.retain(|sent| !matches!(sent.message, Message::ToHome(ToHome::InvAck { .. })));
        rig.network.retain(|sent| !matches!(sent.message, Message::ToNode(ToNode::WriteBackAck { .. })));
        assert!(rig.network.is_empty(), "{:?} was answered by {:?}", parcel.message, rig.network);
    }
    assert_eq!(rig.cores[0].directory_entry(P), settled);
    assert_eq!(rig.byte(H, P), 77);
    assert_eq!(rig.read(A, P), 77);
}

#[test]
fn a_late_grant_for_a_page_already_taken_away_is_dropped() {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    let grant = rig.deliver(H, A);
    rig.settle();
    rig.write(B, P, 3);
    let stale = rig.stale(A);
    rig.give(&grant);
    assert_eq!((rig.mapped(A, P), rig.stale(A)), (None, stale + 1));
}

#[test]
fn a_page_nobody_wrote_moves_no_bytes() {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Read);
    rig.deliver(A, H);
    let data = rig.deliver(H, A);
    let zero =
        ToNode::Data { page: P, req: Req(1), txn: Txn(1), version: Txn(0), access: Read, body: Body::Zero };
    assert_eq!((data.to_node(), data.page), (zero, Option::None));
}

#[test]
fn threads_of_one_node_share_one_request() {
    let mut rig = Rig::new(2);
    let first = rig.fault_at(A, 1, 0x1000, P, Read);
    let second = rig.fault_at(A, 2, 0x2000, P, Write);
    let third = rig.fault_at(A, 3, 0x3000, P, Read);
    assert_eq!(rig.network.len(), 1);
    rig.deliver(A, H);
    rig.deliver(H, A);
    assert_eq!([first, third].map(|op| rig.result(op)), [Some(Ok(0)), Some(Ok(0))]);
    assert_eq!(rig.result(second), Option::None, "the writer's turn comes now");
    rig.settle();
    assert_eq!(rig.result(second), Some(Ok(0)));
}

#[test]
fn a_fault_on_a_page_that_is_there_is_answered_at_once() {
    let mut rig = Rig::new(2);
    rig.write(A, P, 1);
    let op = rig.fault(A, P, Read);
    assert_eq!(rig.result(op), Some(Ok(0)));
    assert!(rig.network.is_empty());
}

/// A shared page: nodes A and B have copies, and A upgrades its own.
fn upgraded() -> Rig {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Read);
    rig.fault(B, P, Read);
    rig.settle();
    upgrade(&mut rig);
    rig
}

/// A upgrades its copy; B, which has the other one, gives it up.
fn upgrade(rig: &mut Rig) {
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    rig.deliver(H, B);
    rig.deliver(B, H);
    rig.deliver(H, A);
}

#[test]
fn an_upgrade_that_nobody_waits_for_is_acknowledged_with_the_next_message() {
    let mut rig = upgraded();
    assert!(rig.network.is_empty(), "nobody waits for it");
    rig.settle();
    assert!(rig.cores[0].is_idle(), "it went when it was due");
}

#[test]
fn who_waits_for_an_upgrade_hurries_it_and_the_next_ones_are_acknowledged_at_once() {
    let mut rig = upgraded();
    rig.fault(B, P, Read);
    rig.deliver(B, H);
    let before = rig.now;
    assert!(matches!(rig.deliver(H, A).to_node(), ToNode::Hurry { .. }));
    assert!(matches!(rig.deliver(A, H).to_home(), ToHome::Installed { .. }));
    assert!(matches!(rig.take(H, A).to_node(), ToNode::Forward { .. }));
    assert_eq!(rig.now, before);
    let mut rig = upgraded();
    rig.fault(B, P, Read);
    rig.settle();
    upgrade(&mut rig);
    assert!(matches!(rig.take(A, H).to_home(), ToHome::Installed { .. }), "at once");
}

#[test]
fn a_region_in_the_place_of_one_that_was_removed_while_its_home_was_asked_for_has_homes_of_its_own() {
    let mut rig = Rig::empty(2);
    let region = region(Placement::FirstTouch, vec![H]);
    [H, A].into_iter().for_each(|node| rig.feed(node, Input::Region(region.clone())));
    rig.feed(A, Input::Prefetch { first: P, pages: 1, access: Read });
    assert!(matches!(rig.take(A, H).to_home(), ToHome::Locate { .. }));
    [H, A].into_iter().for_each(|node| rig.feed(node, Input::RegionGone { start: PageId(0) }));
    [H, A].into_iter().for_each(|node| rig.feed(node, Input::Region(region.clone())));
    let op = rig.fault(A, P, Read);
    rig.settle();
    assert_eq!((rig.result(op), rig.mapped(A, P)), (Some(Ok(0)), Read));
}

/// A member that breaks the protocol must not take pages from others, or say that they are lost.
#[test]
fn what_a_home_says_counts_from_the_page_s_home_alone() {
    let mut rig = Rig::new(4);
    rig.write(A, P, 7);
    let op = rig.fault(A, PageId(P.0 + 1), Read);
    let (page, req, txn) = (PageId(P.0 + 1), Req(1), Txn(99));
    let said: [Message; 7] = [
        ToNode::Inv { page: P, txn }.into(),
        ToNode::Forward { page: P, txn, version: Txn(1), requester: C, req, access: Write }.into(),
        ToNode::WriteBackAck { page: P, version: txn }.into(),
        ToNode::Hurry { page: P, txn }.into(),
        ToNode::Grant { page, req, txn, answer: crate::coherence::Answer::AtOnce }.into(),
        ToNode::Lost { page, req, dead: B }.into(),
        ToNode::Located { extent: P.extent(), home: H }.into(),
    ];
    // The rig takes no violations; the node's core is asked beside it.
    let (mut core, mut memory) = (rig.cores[1].clone(), rig.memories[1].clone());
    for (count, message) in said.into_iter().enumerate() {
        core.handle(rig.now, Input::Message { from: C, epoch: Epoch(0), message, page: &[] }, &mut memory);
        assert_eq!(core.counters().violations, count as u64 + 1, "{message:?}");
    }
    assert_eq!((core.poll_output(), core.mapped(P)), (Option::None, Write));
    assert_eq!(memory.log, rig.memories[1].log);
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
}
