//! A node that asks again at once for a lock that it has handed on has it for a while when it comes back.

use super::rig::{A, B, C, P, Rig};
use crate::coherence::{Attempt, Input, LockId, OpId};
use crate::config::coherence::{STAY_AFTER, STAY_MAX};
use crate::page::{Lent, NodeId, Span};

const LOCK: LockId = LockId(P);

fn lock(rig: &mut Rig, node: NodeId) -> OpId {
    let op = rig.op();
    rig.feed(node, Input::Lock { op, lock: LOCK, attempt: Attempt::Wait });
    rig.deliver_all();
    op
}

fn unlock(rig: &mut Rig, node: NodeId) {
    rig.feed(node, Input::Unlock { lock: LOCK });
    rig.deliver_all();
}

fn has(rig: &Rig, op: OpId) -> bool {
    matches!(rig.result(op), Some(Ok(_)))
}

/// A thread takes the lock that its node was lent and gives it back, without the core, so often.
fn use_lent(rig: &mut Rig, node: NodeId, times: u64) {
    let lent = rig.memories[node.0 as usize].lent.get_mut(&P).expect("lent");
    let Lent::Free { token } = *lent else { panic!("{lent:?}") };
    *lent = Lent::Free { token: token + times };
}

fn is_lent(rig: &Rig, node: NodeId) -> bool {
    rig.memories[node.0 as usize].lent.contains_key(&P)
}

fn let_stays_end(rig: &mut Rig) {
    rig.now = rig.now + STAY_MAX;
    (0..4).for_each(|node| rig.feed(NodeId(node), Input::Timer));
    rig.deliver_all();
}

/// A and B have had the lock in turn. A has it, B waits, and A asks again in time.
fn contended() -> (Rig, OpId) {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    let first = lock(&mut rig, B);
    unlock(&mut rig, A);
    assert!(has(&rig, first));
    let back = lock(&mut rig, A);
    unlock(&mut rig, B);
    assert!(has(&rig, back));
    let waits = lock(&mut rig, B);
    (rig, waits)
}

#[test]
fn a_node_that_asks_again_at_once_keeps_the_lock_for_its_threads_until_the_stay_ends() {
    let (mut rig, waits) = contended();
    unlock(&mut rig, A);
    assert!(is_lent(&rig, A) && !has(&rig, waits));
    use_lent(&mut rig, A, 9);
    assert!(rig.cores[A.0 as usize].poll_timeout().is_some_and(|at| at <= rig.now + STAY_MAX));
    let_stays_end(&mut rig);
    assert!(has(&rig, waits) && !is_lent(&rig, A));
}

#[test]
fn a_section_that_the_stay_s_end_finds_is_the_last() {
    let (mut rig, waits) = contended();
    unlock(&mut rig, A);
    rig.memories[A.0 as usize].lent.insert(P, Lent::Held { token: 90 });
    let_stays_end(&mut rig);
    assert!(!has(&rig, waits) && !is_lent(&rig, A));
    unlock(&mut rig, A);
    assert!(rig.result(waits).is_some_and(|token| token.is_ok_and(|token| token > 90)));
}

/// A second thread of the node is in the queue of the node, behind nobody else.
#[test]
fn threads_of_the_node_that_wait_are_let_in_during_the_stay_and_no_longer() {
    let (mut rig, waits) = contended();
    let second = lock(&mut rig, A);
    unlock(&mut rig, A);
    assert!(has(&rig, second) && !has(&rig, waits));
    let third = lock(&mut rig, A);
    rig.now = rig.now + STAY_MAX;
    unlock(&mut rig, A);
    assert!(has(&rig, waits) && !has(&rig, third));
    unlock(&mut rig, B);
    let_stays_end(&mut rig);
    assert!(has(&rig, third));
}

#[test]
fn a_node_that_asks_again_late_has_no_stay() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    lock(&mut rig, B);
    unlock(&mut rig, A);
    rig.now = rig.now + STAY_AFTER + Span(1);
    lock(&mut rig, A);
    unlock(&mut rig, B);
    let waits = lock(&mut rig, C);
    unlock(&mut rig, A);
    assert!(has(&rig, waits));
}

#[test]
fn a_stay_in_which_no_thread_came_is_followed_by_none() {
    let (mut rig, waits) = contended();
    unlock(&mut rig, A);
    let_stays_end(&mut rig);
    assert!(has(&rig, waits));
    let back = lock(&mut rig, A);
    rig.now = rig.now + STAY_MAX;
    unlock(&mut rig, B);
    assert!(has(&rig, back));
    let next = lock(&mut rig, C);
    unlock(&mut rig, A);
    assert!(has(&rig, next), "the lock is handed on at once");
    lock(&mut rig, A);
    rig.now = rig.now + STAY_MAX;
    unlock(&mut rig, C);
    lock(&mut rig, C);
    unlock(&mut rig, A);
    assert!(is_lent(&rig, A), "and the time after that it is tried again");
}

#[test]
fn a_node_that_leaves_during_its_stay_hands_the_lock_on_at_once() {
    let (mut rig, waits) = contended();
    unlock(&mut rig, A);
    assert!(is_lent(&rig, A));
    let op = rig.op();
    rig.feed(A, Input::Leave { op });
    rig.deliver_all();
    assert!(has(&rig, waits) && rig.result(op).is_some());
}
