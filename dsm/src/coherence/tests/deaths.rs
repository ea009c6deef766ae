//! Nodes that die, and the slots that they leave to others. Most of these races were found by seeds
//! of the simulator, and are written down here with their order of delivery.

use super::rig::{A, B, C, H, P, Q, Rig, region};
use crate::coherence::{Coherence, Failure, Input, OpId, Placement, Req, ToHome, ToNode};
use crate::page::Access::{None, Read, Write};
use crate::page::{Epoch, NodeId};

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
fn a_dead_writer_s_invalidations_are_awaited_before_anybody_else_is_granted() {
    let mut rig = Rig::new(3);
    rig.write(H, P, 5);
    rig.read(B, P);
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    let inv = rig.take(H, B);
    let op = rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.die(A);
    assert!(rig.network.is_empty(), "the invalidation is still under way");
    rig.give(&inv);
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(B, P)), (Some(Ok(0)), 5));
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
    assert!(rig.network.is_empty(), "nothing is sent to the dead");
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
    let forward = rig.take(H, B);
    rig.die(A);
    rig.replace(A, Epoch(9));
    let op = rig.fault(A, P, Read);
    rig.give(&forward);
    let stale = rig.stale(A);
    let late = rig.network.iter().position(|parcel| (parcel.from, parcel.to) == (B, A)).unwrap();
    let late = rig.network.remove(late);
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
    let mut core = Coherence::new(A, Epoch(0), NodeId(7), NodeId(5));
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
