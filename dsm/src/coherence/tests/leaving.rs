//! Leaving: everything is written back, every home forgets the node, and nothing waits for it after.

use super::rig::{A, B, H, P, Q, Rig};
use crate::coherence::{Attempt, Failure, Input, LockId, Message, ToHome};
use crate::page::Access::{None, Read, Write};

#[test]
fn a_leaving_node_writes_back_what_it_owns_and_drops_the_rest() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 4);
    rig.read(A, Q);
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
    assert_eq!((rig.mapped(A, P), rig.mapped(A, Q)), (None, None));
    assert_eq!(rig.read(B, P), 4);
    assert!(!rig.cores[0].directory_entry(Q).unwrap().1.contains(A), "the home has forgotten the sharer");
}

#[test]
fn a_leaving_node_answers_invalidations_until_the_home_lets_it_go() {
    let mut rig = Rig::new(3);
    rig.read(A, P);
    rig.fault(B, P, Write);
    rig.deliver(B, H);
    let inv = rig.take(H, A);
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    rig.deliver(A, H);
    assert!(rig.network.is_empty(), "the home answers when no transaction counts on the node");
    rig.give(&inv);
    rig.settle();
    assert_eq!((rig.result(op), rig.mapped(B, P)), (Some(Ok(0)), Write));
}

#[test]
fn a_duplicate_of_an_old_request_does_not_ask_on_behalf_of_a_node_that_left() {
    let mut rig = Rig::new(2);
    rig.fault(A, P, Read);
    let ask = rig.deliver(A, H);
    rig.settle();
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
    rig.give(&ask);
    assert!(rig.network.is_empty());
    assert!(rig.cores[0].is_idle());
}

#[test]
fn a_page_that_arrives_while_its_node_leaves_is_given_back() {
    let mut rig = Rig::new(2);
    let fault = rig.fault(A, P, Write);
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    rig.settle();
    assert_eq!([fault, op].map(|op| rig.result(op)), [Some(Ok(0)), Some(Ok(0))]);
    assert_eq!(rig.mapped(A, P), None);
    let late = rig.fault(A, P, Read);
    assert_eq!(rig.result(late), Some(Err(Failure::Leaving)));
}

#[test]
fn a_node_leaves_although_the_home_of_a_page_that_it_owns_is_dead() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 4);
    rig.die(H);
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
}

#[test]
fn only_homes_that_were_asked_are_told() {
    let mut rig = Rig::new(2);
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    assert!(rig.network.is_empty());
    assert_eq!(rig.result(op), Some(Ok(0)));
}

/// The lock came to the leaving node, whose thread was let in and thrown out at once; the lock was
/// broken for everybody.
#[test]
fn a_thread_that_waits_for_a_lock_gives_up_when_its_node_leaves() {
    let mut rig = Rig::new(3);
    let lock = LockId(P);
    let (first, second) = (rig.op(), rig.op());
    rig.feed(B, Input::Lock { op: first, lock, attempt: Attempt::Wait });
    rig.settle();
    rig.feed(A, Input::Lock { op: second, lock, attempt: Attempt::Wait });
    let leave = rig.op();
    rig.feed(A, Input::Leave { op: leave });
    assert_eq!(rig.result(second), Some(Err(Failure::Leaving)));
    rig.settle();
    rig.feed(B, Input::Unlock { lock });
    rig.settle();
    assert_eq!(rig.result(leave), Some(Ok(0)));
    let again = rig.op();
    rig.feed(B, Input::Lock { op: again, lock, attempt: Attempt::Wait });
    rig.settle();
    assert!(matches!(rig.result(again), Some(Ok(_))));
}

#[test]
fn leave_is_sent_when_nothing_is_outstanding_any_more() {
    let mut rig = Rig::new(2);
    rig.write(A, P, 1);
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    let first = rig.take(A, H);
    assert!(matches!(first.to_home(), ToHome::WriteBack { .. }));
    assert!(rig.network.is_empty());
    rig.give(&first);
    rig.deliver(H, A);
    assert_eq!(rig.take(A, H).message, Message::ToHome(ToHome::Leave));
}
