//! Holds: that every instruction gets through, and that nobody waits for what nobody needs.

use super::rig::{A, B, H, P, Q, Rig, region};
use crate::coherence::{Input, Placement, RegionInfo};
use crate::config::coherence::{HOLD_MAX, HOLD_MIN};
use crate::page::Access::{None, Read, Write};
use crate::page::{EXTENT_PAGES, NodeId, PageId, Span, Time};

/// Brings a page to A for a fault, with a forward from B right behind it.
fn taken_and_wanted(rig: &mut Rig) -> Time {
    rig.fault(A, P, Write);
    rig.deliver(A, H);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.deliver(H, A);
    let arrived = rig.now;
    rig.deliver(A, H);
    rig.deliver(H, A);
    arrived
}

#[test]
fn a_faulted_page_stays_until_its_instruction_can_have_run() {
    let mut rig = Rig::new(3);
    let arrived = taken_and_wanted(&mut rig);
    assert_eq!(rig.mapped(A, P), Write);
    assert_eq!(rig.cores[1].poll_timeout(), Some(arrived + HOLD_MIN));
    rig.now = arrived + HOLD_MIN;
    rig.feed(A, Input::Timer);
    assert_eq!(rig.mapped(A, P), None);
}

#[test]
fn a_hold_ends_when_the_thread_faults_elsewhere() {
    let mut rig = Rig::new(3);
    taken_and_wanted(&mut rig);
    rig.fault_at(A, 1, 0x2000, Q, Read);
    assert_eq!(rig.mapped(A, P), None, "the instruction has run");
}

#[test]
fn a_hold_doubles_whenever_the_same_instruction_loses_the_page_again() {
    let mut rig = Rig::new(3);
    let mut last = Span(0);
    for round in 0..12 {
        let arrived = taken_and_wanted(&mut rig);
        let due = rig.cores[1].poll_timeout().expect("B waits");
        let hold = due - arrived;
        assert_eq!(hold, Span((HOLD_MIN.0 << round).min(HOLD_MAX.0)));
        assert!(hold >= last);
        last = hold;
        rig.settle();
        rig.now = rig.now + HOLD_MAX;
        rig.feed(B, Input::Evict { page: P });
        rig.settle();
    }
    assert_eq!(last, HOLD_MAX);
}

/// A loop that polls a flag faults at one instruction again and again; it has run each time.
#[test]
fn a_loop_that_went_on_between_its_faults_starts_anew() {
    let mut rig = Rig::new(3);
    for _ in 0..5 {
        let arrived = taken_and_wanted(&mut rig);
        assert_eq!(rig.cores[1].poll_timeout(), Some(arrived + HOLD_MIN));
        rig.feed(A, Input::Resumed { thread: 1, page: P, access: Write });
        rig.settle();
        rig.now = rig.now + HOLD_MAX;
        rig.feed(B, Input::Evict { page: P });
        rig.settle();
    }
}

#[test]
fn a_prefetched_page_is_not_held() {
    let mut rig = Rig::new(3);
    rig.feed(A, Input::Prefetch { first: P, pages: 1, access: Write });
    rig.deliver(A, H);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.deliver(H, A);
    rig.deliver(A, H);
    rig.deliver(H, A);
    assert_eq!(rig.mapped(A, P), None);
}

/// A's instruction at 0x1000 needs P and Q, and loses P once: from then on it asks in order.
fn needs_both(rig: &mut Rig) {
    loses_both(rig, Q);
}

/// The same with another page in place of Q.
fn loses_both(rig: &mut Rig, higher: PageId) {
    rig.access(A, P, Write);
    rig.write(B, P, 1);
    rig.fault(A, higher, Write);
    rig.settle();
    rig.now = rig.now + HOLD_MAX;
    rig.write(B, higher, 1);
    rig.now = rig.now + HOLD_MAX;
}

#[test]
fn once_a_page_was_lost_the_pages_of_an_instruction_are_asked_for_in_ascending_order() {
    let mut rig = Rig::new(3);
    needs_both(&mut rig);
    // The hardware faults on the higher page; the lower one is asked for.
    let op = rig.fault(A, Q, Write);
    rig.settle();
    assert_eq!((rig.mapped(A, P), rig.mapped(A, Q)), (Write, None));
    assert_eq!(rig.result(op), Some(Ok(0)), "the instruction is tried again");
}

/// The page that is asked for first was in a region that is gone: there is no home to ask.
#[test]
fn an_instruction_does_not_ask_for_a_page_of_a_removed_region() {
    let mut rig = Rig::new(3);
    let next = RegionInfo { start: PageId(EXTENT_PAGES), ..region(Placement::OnNode(H), vec![H]) };
    let page = PageId(EXTENT_PAGES + 4);
    (0..3).for_each(|node| rig.feed(NodeId(node), Input::Region(next.clone())));
    loses_both(&mut rig, page);
    (0..3).for_each(|node| rig.feed(NodeId(node), Input::RegionGone { start: PageId(0) }));
    let op = rig.fault(A, page, Write);
    rig.settle();
    assert_eq!((rig.result(op), rig.mapped(A, page)), (Some(Ok(0)), Write));
}

#[test]
fn a_lower_page_is_kept_while_the_instruction_waits_for_a_higher_one() {
    let mut rig = Rig::new(3);
    needs_both(&mut rig);
    rig.fault(A, Q, Write);
    rig.settle();
    rig.fault(A, Q, Write);
    // The higher page takes longer than any hold, and B wants the lower one meanwhile.
    let slow = rig.take(A, H);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    rig.deliver(H, A);
    rig.now = rig.now + HOLD_MAX + HOLD_MAX;
    rig.feed(A, Input::Timer);
    assert_eq!(rig.mapped(A, P), Write);
    rig.give(&slow);
    rig.deliver(H, B);
    rig.deliver(B, A);
    assert_eq!((rig.mapped(A, P), rig.mapped(A, Q)), (Write, Write), "both at once: it runs");
    rig.settle();
    assert_eq!(rig.mapped(B, P), Write);
}

#[test]
fn a_higher_page_is_given_away_while_a_lower_one_is_missing() {
    let mut rig = Rig::new(3);
    needs_both(&mut rig);
    rig.feed(A, Input::Prefetch { first: Q, pages: 1, access: Write });
    rig.settle();
    rig.fault(A, P, Write);
    let _slow = rig.take(A, H);
    rig.fault(B, Q, Write);
    rig.deliver(B, H);
    rig.deliver(H, A);
    assert_eq!(rig.mapped(A, Q), None);
}

/// Three nodes once passed two pages round without an instruction ever running: a page was held for
/// the finished instruction of another thread, as long as the faulting thread's doubled hold said.
#[test]
fn a_thread_that_went_on_does_not_lend_its_page_to_another_thread_s_hold() {
    let mut rig = Rig::new(3);
    needs_both(&mut rig);
    // Another thread of A has used Q alone, long ago.
    rig.fault_at(A, 2, 0x5000, Q, Write);
    rig.settle();
    rig.now = rig.now + HOLD_MAX;
    rig.write(B, Q, 2);
    // Q comes for thread 1, which misses P.
    rig.fault_at(A, 1, 0x1000, P, Write);
    let slow = rig.take(A, H);
    rig.feed(A, Input::Prefetch { first: Q, pages: 1, access: Write });
    rig.settle();
    rig.fault(B, Q, Write);
    rig.deliver(B, H);
    rig.deliver(H, A);
    assert_eq!(rig.mapped(A, Q), None, "thread 2's instruction has run");
    rig.give(&slow);
    rig.settle();
}

#[test]
fn a_second_invalidation_waits_as_well_and_is_answered_too() {
    let mut rig = Rig::new(3);
    rig.write(H, P, 1);
    rig.fault(A, P, Read);
    rig.deliver(A, H);
    rig.deliver(H, A);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    let _hurry = rig.deliver(H, A);
    rig.deliver(A, H);
    let inv = rig.deliver(H, A);
    rig.give(&inv);
    assert_eq!(rig.mapped(A, P), Read);
    rig.settle();
    assert_eq!((rig.mapped(A, P), rig.mapped(B, P)), (None, Write));
}
