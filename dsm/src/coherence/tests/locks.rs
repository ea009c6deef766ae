//! Locks and barriers: who is let in, in which order, and what the others hear when somebody is gone.

use super::rig::{A, B, C, H, P, Q, Rig};
use crate::coherence::{Attempt, BarrierId, Failure, Input, LockId, LockMessage, Message, NodeSet, OpId};
use crate::page::{Access, Epoch, Lent, NodeId, Span};

const LOCK: LockId = LockId(P);
const BARRIER: BarrierId = BarrierId { program: 1, index: 0 };

fn lock(rig: &mut Rig, node: NodeId) -> OpId {
    let op = rig.op();
    rig.feed(node, Input::Lock { op, lock: LOCK, attempt: Attempt::Wait });
    op
}

fn try_lock(rig: &mut Rig, node: NodeId) -> OpId {
    let op = rig.op();
    rig.feed(node, Input::Lock { op, lock: LOCK, attempt: Attempt::Try });
    op
}

fn withdraw(rig: &mut Rig, node: NodeId, op: OpId) {
    rig.feed(node, Input::WithdrawBarrier { op, barrier: BARRIER });
}

fn arrive(rig: &mut Rig, node: NodeId, members: &[NodeId]) -> OpId {
    let op = rig.op();
    let members: NodeSet = members.iter().copied().collect();
    rig.feed(node, Input::Barrier { op, barrier: BARRIER, members });
    op
}

fn token(rig: &Rig, op: OpId) -> u64 {
    match rig.result(op) {
        Some(Ok(token)) => token,
        other => panic!("no lock: {other:?}"),
    }
}

#[test]
fn a_free_lock_costs_two_messages_and_none_when_it_is_taken_again() {
    let mut rig = Rig::new(2);
    let first = lock(&mut rig, A);
    assert_eq!(rig.network.len(), 1);
    rig.deliver(A, H);
    rig.deliver(H, A);
    rig.feed(A, Input::Unlock { lock: LOCK });
    let second = lock(&mut rig, A);
    assert!(rig.network.is_empty());
    assert!(token(&rig, second) > token(&rig, first));
}

/// A node that has taken the lock once and given it back.
fn lend(rig: &mut Rig, node: NodeId) {
    lock(rig, node);
    rig.settle();
    rig.feed(node, Input::Unlock { lock: LOCK });
}

/// A thread takes the lock that its node was lent, without the core; its token.
fn take_lent(rig: &mut Rig, node: NodeId) -> u64 {
    let lent = rig.memories[node.0 as usize].lent.get_mut(&P).expect("lent");
    let Lent::Free { token } = *lent else { panic!("{lent:?}") };
    *lent = Lent::Held { token: token + 1 };
    token + 1
}

#[test]
fn a_forward_that_finds_a_lent_lock_taken_waits_for_its_holder() {
    let mut rig = Rig::new(3);
    lend(&mut rig, A);
    let own = take_lent(&mut rig, A);
    let next = lock(&mut rig, B);
    rig.settle();
    assert!(rig.memories[A.0 as usize].lent.is_empty(), "the core decides again");
    assert_eq!(rig.result(next), None);
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    assert!(token(&rig, next) > own);
}

#[test]
fn a_lent_lock_that_nobody_holds_is_handed_on_with_a_new_token() {
    let mut rig = Rig::new(3);
    lend(&mut rig, A);
    let own = take_lent(&mut rig, A);
    rig.memories[A.0 as usize].lent.insert(P, Lent::Free { token: own });
    let next = lock(&mut rig, B);
    rig.settle();
    assert!(token(&rig, next) > own);
}

#[test]
fn a_thread_that_finds_a_lent_lock_taken_is_next() {
    let mut rig = Rig::new(2);
    lend(&mut rig, A);
    let own = take_lent(&mut rig, A);
    let next = lock(&mut rig, A);
    assert_eq!(rig.result(next), None);
    rig.feed(A, Input::Unlock { lock: LOCK });
    assert_eq!(token(&rig, next), own + 1);
    rig.feed(A, Input::Unlock { lock: LOCK });
    assert_eq!(rig.memories[A.0 as usize].lent[&P], Lent::Free { token: own + 1 });
    assert!(rig.network.is_empty());
}

#[test]
fn a_leaving_node_gives_a_lent_lock_back_and_breaks_one_that_is_held() {
    for held in [false, true] {
        let mut rig = Rig::new(3);
        lend(&mut rig, A);
        if held {
            take_lent(&mut rig, A);
        }
        let op = rig.op();
        rig.feed(A, Input::Leave { op });
        rig.settle();
        assert_eq!(rig.result(op), Some(Ok(0)));
        assert!(rig.memories[A.0 as usize].lent.is_empty());
        let next = lock(&mut rig, B);
        rig.settle();
        let broken = rig.result(next) == Some(Err(Failure::LockBroken(A)));
        assert_eq!(broken, held, "{:?}", rig.result(next));
    }
}

#[test]
fn a_lock_goes_from_holder_to_waiter_in_the_order_of_asking() {
    let mut rig = Rig::new(4);
    let first = lock(&mut rig, A);
    rig.settle();
    let (second, third) = (lock(&mut rig, B), lock(&mut rig, C));
    rig.settle();
    assert_eq!(rig.result(second), None);
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    assert_eq!(rig.result(third), None);
    rig.feed(B, Input::Unlock { lock: LOCK });
    rig.settle();
    assert!(token(&rig, first) < token(&rig, second) && token(&rig, second) < token(&rig, third));
}

#[test]
fn a_waiter_that_gave_up_passes_the_lock_on() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    rig.settle();
    let (gone, next) = (lock(&mut rig, B), lock(&mut rig, C));
    rig.settle();
    rig.feed(B, Input::AbandonLock { op: gone, lock: LOCK });
    assert_eq!(rig.result(gone), Some(Err(Failure::Abandoned)));
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    token(&rig, next);
}

const BUSY: Option<Result<u64, Failure>> = Some(Err(Failure::LockBusy));

#[test]
fn a_thread_that_tries_a_free_lock_has_it() {
    let mut rig = Rig::new(3);
    let first = try_lock(&mut rig, A);
    rig.settle();
    token(&rig, first);
    rig.feed(A, Input::Unlock { lock: LOCK });
    let elsewhere = try_lock(&mut rig, B);
    rig.settle();
    assert!(token(&rig, elsewhere) > token(&rig, first), "it lay idle at A");
}

#[test]
fn a_thread_that_tries_a_held_lock_is_told_so_and_the_next_try_costs_no_message() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    let first = try_lock(&mut rig, B);
    rig.deliver(B, H);
    rig.deliver(H, A);
    rig.deliver(A, B);
    assert_eq!(rig.result(first), BUSY);
    let second = try_lock(&mut rig, B);
    assert_eq!(rig.result(second), BUSY);
    assert!(rig.network.is_empty());
    let own = try_lock(&mut rig, A);
    assert_eq!(rig.result(own), BUSY, "another thread of the node has it");
}

/// B's place in the queue stands, though no thread of B waits.
#[test]
fn a_lock_that_comes_to_a_node_that_only_tried_is_handed_on() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    rig.settle();
    try_lock(&mut rig, B);
    rig.settle();
    let behind = lock(&mut rig, C);
    rig.settle();
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    token(&rig, behind);
    rig.feed(C, Input::Unlock { lock: LOCK });
    let again = try_lock(&mut rig, B);
    rig.settle();
    token(&rig, again);
}

#[test]
fn a_lock_that_comes_to_a_node_where_no_thread_wants_it_stays_there_idle() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    try_lock(&mut rig, B);
    rig.settle();
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    take_lent(&mut rig, B);
}

#[test]
fn a_grant_that_overtakes_the_word_that_the_lock_is_busy_counts() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    let tries = try_lock(&mut rig, B);
    rig.deliver(B, H);
    rig.deliver(H, A);
    let busy = rig.take(A, B);
    assert!(matches!(busy.message, Message::Lock(LockMessage::Busy { .. })));
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.deliver(A, B);
    token(&rig, tries);
    let waits = lock(&mut rig, B);
    rig.give(&busy);
    assert_eq!(rig.result(waits), None, "a thread that waits goes on waiting");
    rig.feed(B, Input::Unlock { lock: LOCK });
    token(&rig, waits);
}

#[test]
fn a_thread_that_waits_behind_one_that_tries_is_not_told_that_the_lock_is_busy() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    let tries = try_lock(&mut rig, B);
    let waits = lock(&mut rig, B);
    rig.settle();
    assert_eq!((rig.result(tries), rig.result(waits)), (BUSY, None));
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    token(&rig, waits);
}

#[test]
fn a_late_word_that_a_lock_is_busy_ends_no_later_try() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    try_lock(&mut rig, B);
    rig.deliver(B, H);
    rig.deliver(H, A);
    let busy = rig.deliver(A, B);
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    // Too late for A to stay with the lock.
    rig.now = rig.now + Span::from_ms(1);
    let back = lock(&mut rig, A);
    rig.settle();
    token(&rig, back);
    rig.feed(A, Input::Unlock { lock: LOCK });
    let later = try_lock(&mut rig, B);
    rig.give(&busy);
    assert_eq!(rig.result(later), None, "it was about an earlier request");
    rig.settle();
    token(&rig, later);
}

/// The deadline of B's thread passes while the grant is on its way.
#[test]
fn a_grant_that_nobody_waits_for_any_more_goes_to_the_next_in_the_queue() {
    for told_before in [false, true] {
        let mut rig = Rig::new(4);
        lock(&mut rig, A);
        rig.settle();
        let gone = lock(&mut rig, B);
        rig.settle();
        rig.feed(A, Input::Unlock { lock: LOCK });
        let grant = rig.take(A, B);
        let next = lock(&mut rig, C);
        rig.deliver(C, H);
        if told_before {
            rig.deliver(H, B);
        }
        rig.feed(B, Input::AbandonLock { op: gone, lock: LOCK });
        assert_eq!(rig.result(gone), Some(Err(Failure::Abandoned)));
        rig.give(&grant);
        rig.settle();
        token(&rig, next);
    }
}

#[test]
fn a_thread_that_has_the_lock_cannot_withdraw_its_request() {
    let mut rig = Rig::new(2);
    let op = lock(&mut rig, A);
    rig.settle();
    rig.feed(A, Input::AbandonLock { op, lock: LOCK });
    token(&rig, op);
    let next = lock(&mut rig, A);
    assert_eq!(rig.result(next), None);
}

#[test]
fn the_home_of_a_lock_knows_who_has_it_and_who_waits() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    rig.settle();
    lock(&mut rig, B);
    try_lock(&mut rig, C);
    rig.settle();
    assert_eq!(rig.cores[H.0 as usize].lock_queue(LOCK), [A, B, C]);
    assert_eq!(rig.cores[A.0 as usize].lock_queue(LOCK), []);
}

#[test]
fn late_duplicates_let_nobody_in() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    let request = rig.deliver(A, H);
    let grant = rig.deliver(H, A);
    let waits = lock(&mut rig, B);
    rig.deliver(B, H);
    let forward = rig.deliver(H, A);
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    token(&rig, waits);
    let again = lock(&mut rig, A);
    rig.settle();
    for late in [request, grant, forward] {
        rig.give(&late);
        rig.settle();
        assert_eq!(rig.result(again), None, "B has the lock; {:?} came late", late.message);
    }
}

#[test]
fn a_lock_whose_holder_died_is_broken_for_all() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    rig.settle();
    let waits = lock(&mut rig, B);
    rig.settle();
    rig.die(A);
    rig.settle();
    let later = lock(&mut rig, C);
    rig.settle();
    let broken = Some(Err(Failure::LockBroken(A)));
    assert_eq!([waits, later].map(|op| rig.result(op)), [broken, broken]);
}

#[test]
fn a_lock_that_had_left_the_dead_node_goes_on() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    rig.settle();
    let waits = lock(&mut rig, B);
    rig.settle();
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    token(&rig, waits);
    rig.die(A);
    rig.settle();
    rig.feed(B, Input::Unlock { lock: LOCK });
    let later = lock(&mut rig, C);
    rig.settle();
    token(&rig, later);
}

/// The newcomer's request stands behind the place of the node that died, under that one's number.
#[test]
fn a_newcomer_that_waits_in_the_slot_of_the_dead_is_told_too() {
    let mut rig = Rig::new(4);
    lock(&mut rig, A);
    rig.settle();
    lock(&mut rig, B);
    let behind = lock(&mut rig, C);
    rig.settle();
    rig.feed(A, Input::Unlock { lock: LOCK });
    rig.settle();
    rig.die(B);
    let report = rig.take(A, H);
    rig.replace(B, Epoch(1));
    let newcomer = lock(&mut rig, B);
    rig.deliver_all();
    assert_eq!([behind, newcomer].map(|op| rig.result(op)), [None; 2], "a report is missing");
    rig.give(&report);
    rig.settle();
    let broken = Some(Err(Failure::LockBroken(B)));
    assert_eq!([behind, newcomer].map(|op| rig.result(op)), [broken, broken]);
}

/// A forward reached the leaving node between its RETURN and the home's answer, and got the lock out of
/// the middle of a critical section.
#[test]
fn a_lock_given_up_in_a_critical_section_is_handed_to_nobody() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    let waits = lock(&mut rig, B);
    rig.deliver(B, H);
    let forward = rig.take(H, A);
    let leave = rig.op();
    rig.feed(A, Input::Leave { op: leave });
    rig.give(&forward);
    rig.settle();
    assert_eq!(rig.result(waits), Some(Err(Failure::LockBroken(A))));
    assert_eq!(rig.result(leave), Some(Ok(0)));
}

#[test]
fn nobody_waits_for_a_lock_whose_home_is_dead() {
    let mut rig = Rig::new(3);
    lock(&mut rig, A);
    rig.settle();
    let waits = lock(&mut rig, B);
    rig.die(H);
    let later = lock(&mut rig, B);
    let failed = Some(Err(Failure::NodeDied(H)));
    assert_eq!([waits, later].map(|op| rig.result(op)), [failed, failed]);
    rig.feed(A, Input::Unlock { lock: LOCK });
    let again = lock(&mut rig, A);
    token(&rig, again);
}

#[test]
fn a_barrier_ends_for_all_when_the_last_has_come() {
    let mut rig = Rig::new(3);
    for _ in 0..3 {
        let ops = [A, B, H].map(|node| {
            rig.settle();
            arrive(&mut rig, node, &[H, A, B])
        });
        assert_eq!(rig.result(ops[0]), None);
        rig.settle();
        assert_eq!(ops.map(|op| rig.result(op)), [Some(Ok(0)); 3]);
    }
}

#[test]
fn a_late_arrival_of_an_earlier_generation_does_not_count() {
    let mut rig = Rig::new(3);
    arrive(&mut rig, B, &[A, B]);
    let late = rig.deliver(B, A);
    arrive(&mut rig, A, &[A, B]);
    rig.settle();
    let waits = arrive(&mut rig, A, &[A, B]);
    rig.settle();
    rig.give(&late);
    rig.settle();
    assert_eq!(rig.result(waits), None);
}

#[test]
fn a_barrier_with_a_dead_member_breaks_for_everybody_who_waits_or_comes() {
    let mut rig = Rig::new(4);
    let waits = arrive(&mut rig, A, &[A, B, C]);
    rig.settle();
    rig.die(C);
    rig.settle();
    let later = arrive(&mut rig, B, &[A, B, C]);
    rig.settle();
    let broken = Some(Err(Failure::NodeDied(C)));
    assert_eq!([waits, later].map(|op| rig.result(op)), [broken, broken]);
}

/// The release was on its way to B when B learnt that C had died; A had gone on.
#[test]
fn a_generation_that_was_released_is_released_for_all() {
    let mut rig = Rig::new(4);
    let ops = [A, B, C].map(|node| arrive(&mut rig, node, &[A, B, C]));
    for node in [B, C] {
        rig.deliver(node, A);
    }
    let release = rig.take(A, B);
    rig.hear_of_death(B, C);
    rig.give(&release);
    rig.settle();
    assert_eq!([ops[0], ops[1]].map(|op| rig.result(op)), [Some(Ok(0)); 2]);
}

/// The first member's arrival comes when the home has heard of the death, and the dead member's number has been
/// given to another node.
#[test]
fn a_barrier_whose_member_was_dead_before_the_first_arrival_breaks_although_its_number_has_a_new_node() {
    let mut rig = Rig::new(4);
    let waits = arrive(&mut rig, B, &[A, B, C]);
    rig.hear_of_death(A, C);
    rig.feed(A, Input::NodeJoined(C));
    rig.hear_of_death(B, C);
    rig.feed(B, Input::NodeJoined(C));
    rig.forget_reports();
    rig.settle();
    let later = arrive(&mut rig, A, &[A, B, C]);
    assert_eq!([waits, later].map(|op| rig.result(op)), [Some(Err(Failure::NodeDied(C))); 2]);
}

#[test]
fn the_death_of_a_barrier_s_home_ends_every_wait() {
    let mut rig = Rig::new(4);
    let waits = arrive(&mut rig, B, &[A, B, C]);
    rig.settle();
    rig.die(A);
    let later = arrive(&mut rig, C, &[A, B, C]);
    let failed = Some(Err(Failure::NodeDied(A)));
    assert_eq!([waits, later].map(|op| rig.result(op)), [failed, failed]);
}

#[test]
fn members_that_disagree_about_who_they_are_hear_of_it() {
    let mut rig = Rig::new(3);
    let first = arrive(&mut rig, H, &[H, A]);
    rig.settle();
    let second = arrive(&mut rig, B, &[H, B]);
    rig.settle();
    assert_eq!((rig.result(first), rig.result(second)), (None, Some(Err(Failure::BarrierMisuse))));
}

/// A member that is still there says that it comes no more.
fn retire(rig: &mut Rig, node: NodeId, members: &[NodeId]) {
    let members = members.iter().copied().collect();
    rig.feed(node, Input::Retire { barrier: BARRIER, members });
}

#[test]
fn a_barrier_to_which_a_member_comes_no_more_breaks_for_everybody_who_waits_or_comes() {
    // The home is the one that goes, or the one that stays, or another one.
    for (goes, stays) in [(A, B), (B, A), (C, B)] {
        let mut rig = Rig::new(4);
        let third = [A, B, C].into_iter().find(|node| ![goes, stays].contains(node)).expect("three");
        let members = [goes, stays, third];
        let waits = arrive(&mut rig, stays, &members);
        rig.settle();
        retire(&mut rig, goes, &members);
        rig.settle();
        // The first that has gone is the cause.
        retire(&mut rig, stays, &members);
        rig.settle();
        let later = arrive(&mut rig, third, &members);
        rig.settle();
        let broken = Some(Err(Failure::NodeDied(goes)));
        assert_eq!([waits, later].map(|op| rig.result(op)), [broken, broken]);
        let own = arrive(&mut rig, goes, &members);
        assert_eq!(rig.result(own), Some(Err(Failure::Leaving)));
    }
}

/// Another thread of the node waits there, and its arrival is known to the home, or comes after the word.
#[test]
fn a_thread_at_a_barrier_to_which_its_node_comes_no_more_is_told_that_the_node_leaves() {
    for (goes, stays, overtaken) in [(B, A, false), (B, A, true), (A, B, false)] {
        let mut rig = Rig::new(3);
        let own = arrive(&mut rig, goes, &[goes, stays]);
        let arrival = overtaken.then(|| rig.take(goes, stays));
        rig.settle();
        retire(&mut rig, goes, &[goes, stays]);
        rig.settle();
        arrival.iter().for_each(|arrival| rig.give(arrival));
        let waits = arrive(&mut rig, stays, &[goes, stays]);
        rig.settle();
        let expected = [Some(Err(Failure::Leaving)), Some(Err(Failure::NodeDied(goes)))];
        assert_eq!([own, waits].map(|op| rig.result(op)), expected);
    }
}

/// The release was on its way to B when B said that it comes no more.
#[test]
fn a_member_that_comes_no_more_ends_the_generation_that_was_released_and_breaks_the_next() {
    let mut rig = Rig::new(3);
    let ops = [A, B].map(|node| arrive(&mut rig, node, &[A, B]));
    rig.deliver(B, A);
    let next = arrive(&mut rig, A, &[A, B]);
    retire(&mut rig, B, &[A, B]);
    rig.settle();
    assert_eq!(ops.map(|op| rig.result(op)), [Some(Ok(0)); 2]);
    assert_eq!(rig.result(next), Some(Err(Failure::NodeDied(B))));
}

#[test]
fn a_node_that_retires_gives_its_locks_up_and_stays() {
    for held in [false, true] {
        let mut rig = Rig::new(4);
        lend(&mut rig, A);
        if held {
            take_lent(&mut rig, A);
        }
        let waits = lock(&mut rig, B);
        let own = held.then(|| lock(&mut rig, A));
        retire(&mut rig, A, &[A, B]);
        rig.settle();
        let broken = Some(Err(Failure::LockBroken(A)));
        assert_eq!(rig.result(waits) == broken, held, "{:?}", rig.result(waits));
        assert!(own.is_none_or(|own| rig.result(own) == Some(Err(Failure::Leaving))));
        let later = lock(&mut rig, A);
        assert_eq!(rig.result(later), Some(Err(Failure::Leaving)));
        let page = rig.fault(A, Q, Access::Write);
        rig.settle();
        assert_eq!(rig.result(page), Some(Ok(0)), "its memory is there");
        let leave = rig.op();
        rig.feed(A, Input::Leave { op: leave });
        rig.settle();
        assert_eq!(rig.result(leave), Some(Ok(0)));
    }
}

/// A lock that it waits for comes when it has retired.
#[test]
fn a_lock_that_comes_to_a_node_that_has_retired_goes_on() {
    let mut rig = Rig::new(4);
    lock(&mut rig, B);
    rig.settle();
    let gone = lock(&mut rig, A);
    rig.settle();
    let behind = lock(&mut rig, C);
    rig.settle();
    retire(&mut rig, A, &[A, B]);
    assert_eq!(rig.result(gone), Some(Err(Failure::Leaving)));
    rig.feed(B, Input::Unlock { lock: LOCK });
    rig.settle();
    token(&rig, behind);
}

const WITHDRAWN: Option<Result<u64, Failure>> = Some(Err(Failure::Abandoned));

#[test]
fn a_barrier_waits_for_a_member_that_has_withdrawn() {
    // The home is the one that withdraws, or the one that stays.
    for (goes, stays) in [(H, A), (A, H)] {
        let mut rig = Rig::new(3);
        let gone = arrive(&mut rig, goes, &[goes, stays]);
        rig.settle();
        withdraw(&mut rig, goes, gone);
        rig.settle();
        assert_eq!(rig.result(gone), WITHDRAWN);
        let missing = rig.cores[H.0 as usize].barrier_missing(BARRIER);
        assert_eq!(missing, [goes, stays].into_iter().collect(), "nobody waits, and it has not ended");
        let waits = arrive(&mut rig, stays, &[goes, stays]);
        rig.settle();
        assert_eq!(rig.result(waits), None, "{goes} has not come");
        assert_eq!(rig.cores[H.0 as usize].barrier_missing(BARRIER), NodeSet::only(goes));
        let back = arrive(&mut rig, goes, &[goes, stays]);
        rig.settle();
        assert_eq!([waits, back].map(|op| rig.result(op)), [Some(Ok(0)); 2]);
    }
}

#[test]
fn a_member_that_withdraws_after_the_last_has_come_is_released_with_the_others() {
    let mut rig = Rig::new(3);
    let ops = [A, B].map(|node| arrive(&mut rig, node, &[A, B]));
    rig.deliver(B, A);
    assert_eq!(rig.result(ops[0]), Some(Ok(0)));
    let release = rig.take(A, B);
    withdraw(&mut rig, B, ops[1]);
    rig.settle();
    assert_eq!(rig.result(ops[1]), None, "A has gone on");
    rig.give(&release);
    assert_eq!(rig.result(ops[1]), Some(Ok(0)));
}

#[test]
fn an_arrival_that_its_withdrawal_has_overtaken_does_not_count() {
    let mut rig = Rig::new(3);
    let gone = arrive(&mut rig, B, &[A, B]);
    let arrival = rig.take(B, A);
    withdraw(&mut rig, B, gone);
    rig.settle();
    assert_eq!(rig.result(gone), WITHDRAWN);
    rig.give(&arrival);
    let waits = arrive(&mut rig, A, &[A, B]);
    rig.settle();
    assert_eq!(rig.result(waits), None);
}

#[test]
fn late_duplicates_of_an_arrival_and_its_withdrawal_change_nothing() {
    let mut rig = Rig::new(3);
    let gone = arrive(&mut rig, B, &[A, B]);
    let arrival = rig.deliver(B, A);
    withdraw(&mut rig, B, gone);
    let withdrawal = rig.deliver(B, A);
    let answer = rig.deliver(A, B);
    let waits = arrive(&mut rig, A, &[A, B]);
    rig.settle();
    rig.give(&arrival);
    rig.settle();
    assert_eq!(rig.result(waits), None, "the arrival was withdrawn");
    let back = arrive(&mut rig, B, &[A, B]);
    let again = rig.take(B, A);
    rig.give(&withdrawal);
    rig.give(&answer);
    assert_eq!(rig.result(back), None, "another arrival was withdrawn");
    rig.give(&again);
    rig.settle();
    assert_eq!([waits, back].map(|op| rig.result(op)), [Some(Ok(0)); 2]);
}

/// The late duplicate comes when the second arrival counts already.
#[test]
fn a_late_withdrawal_takes_no_later_arrival_back() {
    let mut rig = Rig::new(3);
    let gone = arrive(&mut rig, B, &[A, B]);
    rig.deliver(B, A);
    withdraw(&mut rig, B, gone);
    let withdrawal = rig.deliver(B, A);
    rig.settle();
    let back = arrive(&mut rig, B, &[A, B]);
    rig.settle();
    rig.give(&withdrawal);
    let last = arrive(&mut rig, A, &[A, B]);
    rig.settle();
    assert_eq!([back, last].map(|op| rig.result(op)), [Some(Ok(0)); 2]);
}

#[test]
fn a_member_that_withdraws_while_the_barrier_breaks_hears_of_one_or_the_other() {
    for broken_first in [false, true] {
        let mut rig = Rig::new(4);
        let op = arrive(&mut rig, A, &[H, A, C]);
        rig.settle();
        rig.hear_of_death(H, C);
        rig.forget_reports();
        let broken = rig.take(H, A);
        withdraw(&mut rig, A, op);
        rig.deliver(A, H);
        let withdrawn = rig.take(H, A);
        let order = if broken_first { [&broken, &withdrawn] } else { [&withdrawn, &broken] };
        order.into_iter().for_each(|parcel| rig.give(parcel));
        let expected = if broken_first { Some(Err(Failure::NodeDied(C))) } else { WITHDRAWN };
        assert_eq!(rig.result(op), expected);
        let later = arrive(&mut rig, A, &[H, A, C]);
        rig.settle();
        assert_eq!(rig.result(later), Some(Err(Failure::NodeDied(C))));
    }
}
