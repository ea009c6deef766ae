//! What a member says of things in which it has no say: it is counted, and changes nothing.

use super::rig::{A, B, Bytes, C, H, P, Rig};
use crate::coherence::authority::TOKENS_MAX;
use crate::coherence::barrier::BARRIERS_MAX;
use crate::coherence::{
    Attempt, BarrierId, BarrierMessage, Body, Coherence, Failure, Held, Input, LockId, LockMessage, Message,
    NodeSet, OpId, Output, Report, ReportPart, Req, ToHome, ToNode, Txn,
};
use crate::page::{Access, Epoch, NodeId, PageId};

const BARRIER: BarrierId = BarrierId { program: 1, index: 0 };
const LOCK: LockId = LockId(P);

/// Tells a copy of a node's core something; returns what it then has to send, and the violations that it counts.
fn hear(rig: &Rig, node: NodeId, from: NodeId, message: impl Into<Message>) -> (Vec<Output>, u64) {
    let at = node.0 as usize;
    let (mut core, mut memory) = (rig.cores[at].clone(), rig.memories[at].clone());
    tell(&mut core, &mut memory, from, message.into());
    let outputs = std::iter::from_fn(|| core.poll_output()).collect();
    (outputs, core.counters().violations)
}

fn tell(core: &mut Coherence, memory: &mut Bytes, from: NodeId, message: Message) {
    core.handle(crate::page::Time(1), Input::Message { from, epoch: Epoch(0), message, page: &[] }, memory);
}

#[test]
fn who_is_no_home_of_a_page_serves_nobody_with_it() {
    let rig = Rig::new(3);
    let (page, req) = (P, Req(1));
    let said: [Message; 4] = [
        ToHome::GetM { page, req, have: None }.into(),
        ToHome::GetS { page, req }.into(),
        ToHome::WriteBack { page, version: Txn(1), body: Body::Zero }.into(),
        ToHome::Locate { extent: P.extent(), nearest: H }.into(),
    ];
    for message in said {
        assert_eq!(hear(&rig, A, B, message), (Vec::new(), 1), "{message:?}");
    }
}

#[test]
fn the_queue_of_a_lock_is_the_word_of_its_home_alone() {
    let mut rig = Rig::new(3);
    let op = rig.op();
    rig.feed(A, Input::Lock { op, lock: LOCK, attempt: Attempt::Wait });
    let req = Req(1);
    let (lock, next_req, attempt) = (LOCK, Req(9), Attempt::Wait);
    for message in [
        LockMessage::Forward { lock, tenure: req, next: B, next_req, attempt },
        LockMessage::ReturnAck { lock, req },
        LockMessage::Broken { lock, req, dead: H },
        LockMessage::Request { lock, req: next_req, attempt },
        LockMessage::Return { lock, req, token: 1, broken: true },
    ] {
        assert_eq!(hear(&rig, A, B, message), (Vec::new(), 1), "{message:?}");
    }
}

/// In a round the homes believe what members say that they hold; but nobody holds what was not granted to it.
#[test]
fn a_report_claims_no_more_than_the_home_has_granted() {
    let mut rig = Rig::new(4);
    rig.write(A, P, 6);
    rig.die(C);
    for (number, (state, version)) in
        [(Held::Modified, Txn(1)), (Held::Shared, Txn(1)), (Held::Bytes, Txn(9))].into_iter().enumerate()
    {
        let part = ReportPart::Pages { first: P, pages: 1, state, version };
        let claim = Message::from(Report::Part { number: number as u32, part });
        let page = &[][..];
        let (mut core, mut memory) = (rig.cores[0].clone(), Bytes::default());
        let before = core.counters().violations;
        core.handle(rig.now, Input::Message { from: B, epoch: rig.epoch, message: claim, page }, &mut memory);
        assert_eq!(core.counters().violations, before + 1, "{claim:?}");
    }
    rig.settle();
    assert_eq!(rig.read(B, P), 6);
}

/// Tokens are counted down and up from what a peer says.
#[test]
fn no_token_of_a_peer_overflows() {
    let mut rig = Rig::new(3);
    let op = rig.op();
    rig.feed(A, Input::Lock { op, lock: LOCK, attempt: Attempt::Wait });
    let (lock, req, kept) = (LOCK, Req(1), crate::page::Span(u64::MAX));
    for token in [0, TOKENS_MAX + 1, u64::MAX] {
        assert_eq!(hear(&rig, A, B, LockMessage::Grant { lock, req, token, kept }), (Vec::new(), 1));
    }
    let (outputs, violations) = hear(&rig, A, B, LockMessage::Grant { lock, req, token: 1, kept });
    assert_eq!((outputs, violations), (vec![Output::Done { op, result: Ok(1) }], 0));
    let returned = LockMessage::Return { lock, req, token: u64::MAX, broken: false };
    assert_eq!(hear(&rig, H, B, returned).1, 1);
}

#[test]
fn who_does_not_hold_a_lock_does_not_break_it() {
    let mut rig = Rig::new(3);
    let op = rig.op();
    rig.feed(A, Input::Lock { op, lock: LOCK, attempt: Attempt::Wait });
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(1)));
    let broken = LockMessage::Return { lock: LOCK, req: Req(5), token: 1, broken: true };
    // It is only told that the home has nothing to await from it; A, who holds the lock, hears of nothing.
    let message = LockMessage::ReturnAck { lock: LOCK, req: Req(5) }.into();
    assert_eq!(hear(&rig, H, B, broken), (vec![Output::Send { to: B, message, page: None }], 0));
}

#[test]
fn a_barrier_ends_and_breaks_by_the_word_of_its_home_alone() {
    let mut rig = Rig::new(3);
    let op = rig.op();
    let members: NodeSet = [H, A, C].into_iter().collect();
    rig.feed(A, Input::Barrier { op, barrier: BARRIER, members });
    let (barrier, generation) = (BARRIER, 0);
    for message in [
        BarrierMessage::Release { barrier, generation },
        BarrierMessage::Broken { barrier, generation, dead: C },
        BarrierMessage::Withdrawn { barrier, generation, arrival: 1 },
        BarrierMessage::Arrive { barrier, generation, arrival: 1, members },
    ] {
        assert_eq!(hear(&rig, A, B, message), (Vec::new(), 1), "{message:?}");
    }
}

#[test]
fn a_stranger_to_a_program_comes_to_none_of_its_barriers_and_breaks_none() {
    let mut rig = Rig::new(4);
    rig.cores[0].tell_program(A, Some(1));
    rig.cores[0].tell_program(B, Some(2));
    rig.cores[0].tell_program(C, None);
    let (barrier, generation, members) = (BARRIER, 0, [H, A, B].into_iter().collect());
    let arrive = BarrierMessage::Arrive { barrier, generation, arrival: 1, members };
    for stranger in [B, C] {
        for message in [arrive, BarrierMessage::Quit { barrier }] {
            assert_eq!(hear(&rig, H, stranger, message), (Vec::new(), 1), "{message:?}");
        }
    }
    assert_eq!(hear(&rig, H, A, arrive).1, 0);
}

#[test]
fn barriers_without_end_take_no_memory_without_end() {
    let mut rig = Rig::new(2);
    let members = [H, A].into_iter().collect();
    let (core, memory) = (&mut rig.cores[0], &mut rig.memories[0]);
    for index in 0..BARRIERS_MAX as u32 + 5 {
        let barrier = BarrierId { program: 1, index };
        let message = BarrierMessage::Arrive { barrier, generation: 0, arrival: 1, members };
        tell(core, memory, A, message.into());
        core.poll_output();
    }
    assert_eq!(core.counters().violations, 5);
    // One that it keeps already goes on.
    let broken = BarrierMessage::Quit { barrier: BARRIER };
    tell(core, memory, A, broken.into());
    assert!(core.poll_output().is_some());
    // And a program is told so where it asks.
    let (core, memory) = (&mut rig.cores[1], &mut rig.memories[1]);
    for index in 0..=BARRIERS_MAX as u32 {
        while core.poll_output().is_some() {}
        let barrier = BarrierId { program: 1, index };
        let input = Input::Barrier { op: OpId(u64::from(index)), barrier, members };
        core.handle(crate::page::Time(1), input, memory);
    }
    let refused = Output::Done { op: OpId(BARRIERS_MAX as u64), result: Err(Failure::BarrierMisuse) };
    assert_eq!(core.poll_output(), Some(refused));
}

/// Only a home knows which owner is to send a page; it knows that of its own requests too.
#[test]
fn a_home_takes_its_own_page_from_the_owner_that_it_has_asked() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 7);
    let op = rig.fault(H, P, Access::Write);
    let (page, req, txn) = (P, Req(1), Txn(2));
    let body = Body::Zero;
    let data = ToNode::Data { page, req, txn, version: txn, access: Access::Write, body };
    assert_eq!(hear(&rig, H, B, data), (Vec::new(), 0), "it is stale");
    rig.settle();
    assert_eq!((rig.result(op), rig.byte(H, P)), (Some(Ok(0)), 7));
}

#[test]
fn a_node_waits_once_for_each_thing_that_it_can_want_of_a_page() {
    let mut rig = Rig::new(3);
    rig.write(A, P, 7);
    rig.fault(H, P, Access::Write);
    let (core, memory) = (&mut rig.cores[0], &mut rig.memories[0]);
    for number in 1..50 {
        let (page, req, version) = (P, Req(number), Txn(number));
        tell(core, memory, B, ToHome::GetS { page, req }.into());
        tell(core, memory, B, ToHome::WriteBack { page, version, body: Body::Zero }.into());
    }
    assert_eq!(core.longest_queue(), 2);
    // Another page has a queue of its own.
    tell(core, memory, B, ToHome::GetS { page: PageId(P.0 + 1), req: Req(51) }.into());
    assert_eq!(core.longest_queue(), 2);
}
