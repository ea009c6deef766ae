//! Nodes that die, and the slots that they leave to others. Most of these races were found by seeds
//! of the simulator, and are written down here with their order of delivery.

use super::rig::{A, B, C, H, P, Q, Rig, region};
use crate::coherence::{
    Attempt, Coherence, Failure, Input, LockId, LockMessage, Message, NodeSet, OpId, Placement, RegionInfo,
    Req, ToHome, ToNode,
};
use crate::config::coherence::REPORT_PARTS_AT_ONCE;
use crate::page::Access::{None, Read, Write};
use crate::page::{EXTENT_PAGES, Epoch, NodeId, PageId};

#[test]
fn a_page_whose_only_copy_died_is_lost_and_says_so() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 1);
    rig.die(A);
    let op = rig.fault(B, P, Read);
    rig.settle();
    assert_eq!(rig.result(op), Some(Err(Failure::PageLost(A))));
    assert_eq!(rig.cores[0].lost_pages(), [(P, A)]);
}

#[test]
fn a_reader_that_waits_for_a_dead_owner_is_told() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 1);
    let op = rig.fault(B, P, Read);
    rig.deliver(B, H);
    rig.die(A);
    rig.settle();
    assert_eq!(rig.result(op), Some(Err(Failure::PageLost(A))));
    assert!(rig.cores.iter().all(Coherence::is_idle));
}

/// The owner's answer to the reader died with it, but its answer to the home had arrived.
#[test]
fn a_page_that_came_home_before_its_owner_died_is_not_lost() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 6);
    let op = rig.fault(B, P, Read);
    rig.deliver(B, H);
    rig.deliver(H, A);
    rig.deliver(A, H);
    rig.die(A);
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(B, P)), (Some(Ok(0)), 6));
    assert_eq!(rig.cores[0].lost_pages(), []);
}

/// INSTALLED was overtaken by the write-back and died with its sender; behind both, a request was
/// queued that would have been forwarded to the dead owner.
#[test]
fn a_queued_write_back_of_a_dead_owner_is_used() {
    let mut rig = Rig::new(3);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    let op = rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.deliver(H, A);
    let _died_with_its_sender = rig.take(A, H);
    rig.store(A, P, 6);
    rig.now = rig.now + crate::page::Span::from_ms(20);
    rig.feed(A, Input::Evict { page: P });
    rig.deliver(A, H);
    rig.die(A);
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(B, P)), (Some(Ok(0)), 6));
}

/// The home once ended such a transaction at the death: the sharer's upgrade was then granted without
/// bytes, while the dead node's invalidation was still on its way to that very copy.
#[test]
fn a_dead_writer_s_invalidations_are_void_when_somebody_else_is_granted() {
    let mut rig = Rig::new(3);
    rig.write(H, P, 5);
    rig.read(B, P);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    let inv = rig.take(H, B);
    let op = rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.die(A);
    let stale = rig.stale(B);
    rig.give(&inv);
    assert_eq!((rig.mapped(B, P), rig.stale(B)), (Read, stale + 1));
    rig.settle();
    assert_eq!((rig.result(op), rig.mapped(B, P), rig.byte(B, P)), (Some(Ok(0)), Write, 5));
}

/// The page's version had stayed behind the dead writer's transaction, so that a late duplicate of its
/// invalidation found the copy of a later read old enough to kill, in the middle of an upgrade.
#[test]
fn a_duplicate_of_a_dead_writer_s_invalidation_spares_later_copies() {
    let mut rig = Rig::new(3);
    rig.write(H, P, 5);
    rig.read(B, P);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    let inv = rig.take(H, B);
    rig.die(A);
    rig.give(&inv);
    rig.settle();
    rig.read(B, P);
    let op = rig.fault(B, P, Write);
    rig.give(&inv);
    assert_eq!(rig.mapped(B, P), Read);
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
}

#[test]
fn a_fault_whose_home_is_dead_fails_whether_it_came_before_or_after() {
    let mut rig = Rig::new(3);
    let before = rig.fault(A, P, Read);
    rig.die(H);
    let after = rig.fault(A, Q, Write);
    let failed = Some(Err(Failure::NodeDied(H)));
    assert_eq!([before, after].map(|op| rig.result(op)), [failed, failed]);
    assert!(rig.network.iter().all(|parcel| parcel.to != H), "nothing is sent to the dead");
}

#[test]
fn a_page_of_a_dead_home_stays_with_its_owner() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 8);
    rig.die(H);
    rig.feed(A, Input::Evict { page: P });
    assert_eq!((rig.mapped(A, P), rig.byte(A, P)), (Write, 8), "there is nowhere to write it back");
}

/// An instruction's set may name pages that a loop has left behind; one that is lost must not fail the
/// fault on another.
#[test]
fn a_lost_page_fails_only_the_faults_on_itself() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 1);
    // The thread reads P, loses it, and goes on to Q with the same instruction.
    rig.read(B, P);
    rig.write(A, P, 2);
    rig.fault(B, P, Read);
    rig.settle();
    rig.now = rig.now + crate::page::Span::from_ms(20);
    rig.write(A, P, 3);
    rig.die(A);
    let op = rig.fault(B, Q, Read);
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)), "tried again: the lost page is forgotten");
    let op = rig.fault(B, Q, Read);
    rig.settle();
    assert_eq!((rig.result(op), rig.mapped(B, Q)), (Some(Ok(0)), Read));
}

#[test]
fn a_newcomer_in_a_slot_is_served_although_its_predecessor_asked_before() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 1);
    let leave = rig.op();
    rig.feed(A, Input::Leave { op: leave });
    rig.settle();
    assert_eq!(rig.result(leave), Some(Ok(0)));
    rig.replace(A, Epoch(0));
    assert_eq!(rig.read(A, P), 1);
}

/// The owner's answer to a dead node reached the next incarnation in its slot, which had asked for the
/// same page under the same number.
#[test]
fn a_newcomer_does_not_take_an_answer_to_its_predecessor() {
    let mut rig = Rig::new(3);
    rig.write(B, P, 1);
    rig.fault(A, P, Read);
    rig.deliver(A, H);
    rig.deliver(H, B);
    let late = rig.take(B, A);
    rig.die(A);
    rig.replace(A, Epoch(9));
    let op = rig.fault(A, P, Read);
    let stale = rig.stale(A);
    rig.give(&late);
    assert_eq!((rig.mapped(A, P), rig.stale(A)), (None, stale + 1));
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(A, P)), (Some(Ok(0)), 1));
}

#[test]
fn request_numbers_of_a_later_incarnation_are_greater() {
    let mut first = Rig::new(2);
    first.fault(A, P, Read);
    let ToHome::GetS { req: old, .. } = first.take(A, H).to_home() else { panic!("a read asks for S") };
    first.replace(A, Epoch(1));
    first.fault(A, P, Read);
    let ToHome::GetS { req: new, .. } = first.take(A, H).to_home() else { panic!("a read asks for S") };
    assert!(new > Req(old.0 + 1_000_000_000));
}

#[test]
fn a_first_touch_from_a_node_whose_home_the_region_does_not_have_finds_one_that_it_has() {
    let homes = vec![NodeId(5), NodeId(6)];
    let mut core = Coherence::new(A, Epoch(0), NodeId(7));
    let mut memory = super::rig::Bytes::default();
    let region = region(Placement::FirstTouch, homes.clone());
    core.handle(crate::page::Time(0), Input::Region(region), &mut memory);
    let fault = crate::coherence::Fault { op: OpId(1), thread: 1, instruction: 1, page: P, access: Read };
    core.handle(crate::page::Time(0), Input::Fault(fault), &mut memory);
    let Some(crate::coherence::Output::Send { message, .. }) = core.poll_output() else { panic!("it asks") };
    let crate::coherence::Message::ToHome(ToHome::Locate { nearest, .. }) = message else {
        panic!("{message:?}")
    };
    assert!(homes.contains(&nearest), "another would be refused, and never answered");
}

#[test]
fn a_death_while_somebody_else_is_being_served_changes_nothing_for_them() {
    let mut rig = Rig::new(4);
    rig.write(A, P, 2);
    let op = rig.fault(B, P, Read);
    rig.deliver(B, H);
    let forward = rig.take(H, A);
    assert!(matches!(forward.to_node(), ToNode::Forward { requester: B, .. }));
    rig.die(C);
    rig.give(&forward);
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(B, P)), (Some(Ok(0)), 2));
}

/// What the giver sent is void, and so is what the home sent; it has kept the bytes, and says so.
#[test]
fn bytes_whose_message_is_void_are_with_who_gave_them() {
    for access in [Read, Write] {
        let mut rig = Rig::new(4);
        rig.write(A, P, 6);
        let op = rig.fault(B, P, access);
        rig.deliver(B, H);
        rig.deliver(H, A);
        let sent: Vec<_> = rig.network.drain(..).collect();
        rig.die(C);
        for parcel in &sent {
            rig.give(parcel);
        }
        assert_eq!((rig.byte(H, P), rig.mapped(B, P)), (0, None), "void");
        rig.settle();
        assert_eq!((rig.result(op), rig.byte(B, P)), (Some(Ok(0)), 6));
        assert_eq!(rig.cores[0].lost_pages(), []);
    }
}

/// A member that is stopped when another one dies delays the pages that it had to do with, and no others.
#[test]
fn a_page_is_served_when_those_have_reported_whom_its_entry_names() {
    let mut rig = Rig::new(4);
    let r = PageId(5);
    rig.write(A, P, 6);
    rig.read(A, r);
    rig.write(B, Q, 7);
    rig.die(C);
    let (report, rest): (Vec<_>, Vec<_>) =
        rig.network.drain(..).partition(|parcel| (parcel.from, parcel.to) == (A, H));
    rig.network = rest;
    let [owned, shared, other] = [(P, Read), (r, Write), (Q, Read)].map(|(page, access)| {
        let op = rig.fault(H, page, access);
        rig.deliver_all();
        op
    });
    assert_eq!([owned, shared].map(|op| rig.result(op)), [Option::None; 2], "A has not said what it has");
    assert_eq!((rig.result(other), rig.byte(H, Q)), (Some(Ok(0)), 7));
    // A node that has nothing of A's leaves meanwhile.
    let leave = rig.op();
    rig.now = rig.now + crate::page::Span::from_ms(20);
    rig.feed(B, Input::Leave { op: leave });
    rig.deliver_all();
    assert_eq!(rig.result(leave), Some(Ok(0)));
    report.iter().rev().for_each(|parcel| rig.give(parcel));
    rig.settle();
    assert_eq!([owned, shared].map(|op| rig.result(op)), [Some(Ok(0)); 2]);
    assert_eq!(rig.byte(H, P), 6);
}

#[test]
fn another_death_begins_the_round_again() {
    let mut rig = Rig::new(5);
    let d = NodeId(4);
    for (writer, page, value) in [(A, P, 6), (B, Q, 7)] {
        rig.write(writer, page, value);
        assert_eq!(rig.read(d, page), value);
    }
    rig.die(C);
    // A's report comes, D's never does.
    rig.network.retain(|parcel| parcel.from != d);
    rig.deliver_all();
    let waits = [rig.fault(A, Q, Read), rig.fault(B, P, Write)];
    rig.deliver_all();
    assert_eq!(waits.map(|op| rig.result(op)), [Option::None; 2]);
    rig.die(d);
    rig.settle();
    assert_eq!(waits.map(|op| rig.result(op)), [Some(Ok(0)); 2]);
    assert_eq!((rig.byte(A, Q), rig.byte(B, P)), (7, 6));
    assert!([H, A, B].iter().all(|node| rig.cores[node.0 as usize].is_idle()));
}

#[test]
fn versions_of_a_later_round_are_above_those_of_all_earlier_ones() {
    let mut rig = Rig::new(4);
    for value in 1..5 {
        rig.write(A, P, value);
        rig.write(B, P, value);
    }
    let before = rig.cores[0].directory_entry(P).unwrap().2;
    rig.die(C);
    rig.settle();
    rig.write(A, P, 9);
    let after = rig.cores[0].directory_entry(P).unwrap().2;
    assert!(after > before && after.0 >> 32 == 1, "{before:?} {after:?}");
}

/// The view tells a death and a join together; the newcomer was never told of the death.
#[test]
fn a_newcomer_reports_to_who_hears_of_it_together_with_a_death() {
    let mut rig = Rig::new(4);
    rig.die(C);
    rig.network.clear();
    rig.replace(C, Epoch(2));
    let members: NodeSet = [H, A, B, C].into_iter().collect();
    rig.feed(C, Input::Joined { members });
    for node in [H, A, B] {
        rig.feed(
            node,
            Input::Round { epoch: Epoch(2), members, died: NodeSet::EMPTY, run_on: NodeSet::EMPTY },
        );
    }
    rig.settle();
    assert!(rig.cores.iter().all(Coherence::is_idle));
    rig.write(A, P, 3);
    assert_eq!(rig.read(C, P), 3);
}

#[test]
fn a_long_report_goes_in_slices() {
    const PAGES: u64 = 70 * EXTENT_PAGES;
    let mut rig = Rig::empty(4);
    let region = RegionInfo { pages: PAGES, used: PAGES, ..region(Placement::OnNode(H), vec![H]) };
    (0..4).map(NodeId).for_each(|node| rig.feed(node, Input::Region(region.clone())));
    for page in (0..PAGES).map(PageId) {
        // No two neighbours are alike.
        let access = if page.0 % 2 == 0 { Read } else { Write };
        let fault = Input::Prefetch { first: page, pages: 1, access };
        rig.feed(A, fault);
        rig.deliver_all();
    }
    rig.die(C);
    let parts = |rig: &Rig| rig.network.iter().filter(|parcel| parcel.from == A).count();
    assert_eq!(parts(&rig), REPORT_PARTS_AT_ONCE);
    rig.settle();
    assert!(rig.cores.iter().enumerate().all(|(at, core)| at == 3 || core.is_idle()));
    for page in [PageId(0), PageId(1), PageId(PAGES - 1)] {
        assert!(rig.cores[0].directory_entry(page).is_some_and(|(owner, copyset, _)| {
            owner == (page.0 % 2 == 1).then_some(A) && copyset.contains(A) == (page.0 % 2 == 0)
        }));
    }
}

/// The home had taken the lock back, its answer was void, and the lock was decided before the report came that
/// said the leaving node had it: nobody answered the second return.
#[test]
fn a_lock_that_was_given_back_before_a_round_is_not_waited_for_in_it() {
    let mut rig = Rig::new(4);
    let lock = LockId(P);
    let op = rig.op();
    rig.feed(A, Input::Lock { op, lock, attempt: Attempt::Wait });
    rig.settle();
    rig.feed(A, Input::Unlock { lock });
    let leave = rig.op();
    rig.feed(A, Input::Leave { op: leave });
    rig.deliver(A, H);
    rig.die(C);
    let is_return = |parcel: &super::rig::Parcel| {
        matches!(parcel.message, Message::Lock(LockMessage::Return { .. })) && parcel.epoch == rig.epoch
    };
    let at = rig.network.iter().position(is_return).expect("it is given back again");
    let parcel = rig.network.remove(at);
    rig.give(&parcel);
    rig.settle();
    assert_eq!(rig.result(leave), Some(Ok(0)));
}
