//! The bytes of messages: what is written is read back, and nothing that is read can do harm.

use proptest::prelude::*;

use crate::codec::Reader;
use crate::coherence::{
    Answer, Attempt, BATCH_MESSAGES_MAX, BarrierId, BarrierMessage, Batch, Body, Held, HeldLock, LockId,
    LockMessage, Message, NodeSet, Report, ReportPart, Req, ToHome, ToNode, Txn, encode_batch_head,
};
use crate::page::{Access, Epoch, ExtentId, NodeId, PAGE_SIZE, PageId, Span};

/// One of each kind, in each variant that is written differently.
fn samples() -> Vec<Message> {
    let (page, req, txn, version) = (PageId(77), Req(5), Txn(9), Txn(8));
    let (node, lock) = (NodeId(127), LockId(PageId(3)));
    let barrier = BarrierId { program: 4, index: 2 };
    let generation = 6;
    let mut all: Vec<Message> = Vec::new();
    for have in [None, Some(Txn(0)), Some(version)] {
        all.push(ToHome::GetM { page, req, have }.into());
    }
    for body in [Body::Zero, Body::Page] {
        all.push(ToHome::DataHome { page, txn, body }.into());
        all.push(ToHome::WriteBack { page, version, body }.into());
        all.push(ToHome::Copy { page, version, body }.into());
        for access in [Access::Read, Access::Write] {
            all.push(ToNode::Data { page, req, txn, version, access, body }.into());
        }
    }
    for access in [Access::Read, Access::Write] {
        all.push(ToNode::Forward { page, txn, version, requester: node, req, access }.into());
    }
    for flag in [false, true] {
        all.push(LockMessage::Return { lock, req, token: 7, broken: flag }.into());
    }
    for answer in [Answer::AtOnce, Answer::Riding] {
        all.push(ToNode::Grant { page, req, txn, answer }.into());
    }
    for state in [Held::Bytes, Held::Shared, Held::Modified] {
        let part = ReportPart::Pages { first: page, pages: 2, state, version };
        all.push(Report::Part { number: 1, part }.into());
    }
    for held in [HeldLock::Here(req), HeldLock::WaitsSince(req)] {
        all.push(Report::Part { number: 2, part: ReportPart::Lock { lock, held } }.into());
    }
    for attempt in [Attempt::Wait, Attempt::Try] {
        all.push(LockMessage::Request { lock, req, attempt }.into());
        all.push(LockMessage::Forward { lock, tenure: req, next: node, next_req: Req(6), attempt }.into());
    }
    let rest: [Message; 24] = [
        ToHome::GetS { page, req }.into(),
        ToHome::InvAck { page, txn }.into(),
        ToHome::Installed { page, txn }.into(),
        ToHome::Drop { page, version }.into(),
        ToNode::Fetch { page, version }.into(),
        ToHome::Leave.into(),
        ToHome::Locate { extent: ExtentId(2), nearest: node }.into(),
        ToNode::Inv { page, txn }.into(),
        ToNode::Hurry { page, txn }.into(),
        ToNode::WriteBackAck { page, version }.into(),
        ToNode::Lost { page, req, dead: node }.into(),
        ToNode::LeaveAck.into(),
        ToNode::Located { extent: ExtentId(2), home: node }.into(),
        LockMessage::Grant { lock, req, token: 7, kept: Span(8) }.into(),
        LockMessage::ReturnAck { lock, req }.into(),
        Report::Total { parts: 3 }.into(),
        LockMessage::Broken { lock, req, dead: node }.into(),
        LockMessage::Busy { lock, req }.into(),
        BarrierMessage::Arrive { barrier, generation, arrival: 3, members: NodeSet::from_bits(0b1011) }
            .into(),
        BarrierMessage::Release { barrier, generation }.into(),
        BarrierMessage::Broken { barrier, generation, dead: node }.into(),
        BarrierMessage::Quit { barrier }.into(),
        BarrierMessage::Withdraw { barrier, generation, arrival: 3 }.into(),
        BarrierMessage::Withdrawn { barrier, generation, arrival: 3 }.into(),
    ];
    all.extend(rest);
    all
}

fn batch_of(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_batch_head(&mut bytes, Epoch(11), messages.len());
    for message in messages {
        message.encode(&mut bytes);
    }
    for (at, _) in messages.iter().filter(|message| message.carries_page()).enumerate() {
        bytes.extend([at as u8; PAGE_SIZE]);
    }
    bytes
}

#[test]
fn every_message_comes_back_as_it_was_and_uses_all_its_bytes() {
    for message in samples() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(Message::decode(&mut reader), Ok(message));
        assert!(reader.is_empty(), "{message:?}");
        for len in 0..bytes.len() {
            assert!(Message::decode(&mut Reader::new(&bytes[..len])).is_err(), "{message:?} cut to {len}");
        }
    }
}

#[test]
fn a_batch_gives_each_message_the_page_that_it_carries() {
    let messages: Vec<Message> = samples().into_iter().take(BATCH_MESSAGES_MAX).collect();
    let bytes = batch_of(&messages);
    let batch = Batch::decode(&bytes).expect("it was encoded here");
    assert_eq!(batch.epoch, Epoch(11));
    let mut pages = 0;
    for ((message, page), expected) in batch.iter().zip(&messages) {
        assert_eq!(message, *expected);
        assert_eq!(page.len(), if message.carries_page() { PAGE_SIZE } else { 0 });
        if message.carries_page() {
            assert_eq!(page[0], pages);
            pages += 1;
        }
    }
    assert_eq!(batch.iter().count(), messages.len());
}

#[test]
fn a_batch_with_a_byte_too_many_or_too_few_is_refused() {
    let mut bytes = batch_of(&samples()[..4]);
    bytes.push(0);
    assert!(Batch::decode(&bytes).is_err());
    bytes.truncate(bytes.len() - 2);
    assert!(Batch::decode(&bytes).is_err());
    assert!(Batch::decode(&[0; 9]).is_err(), "a batch has a message");
}

/// The layouts of `docs/protocol.md`, byte by byte: a change here is a change of the wire.
#[test]
fn the_bytes_are_those_of_the_document() {
    let lines: Vec<String> = samples()
        .iter()
        .map(|message| {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{hex} {message:?}")
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Batch::decode(&bytes).map(|batch| batch.iter().count());
    }

    #[test]
    fn no_damage_to_a_batch_makes_decoding_panic(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = batch_of(&samples()[..12]);
        let at = at.index(bytes.len());
        bytes[at] = to;
        if let Ok(batch) = Batch::decode(&bytes) {
            for (message, page) in batch.iter() {
                prop_assert_eq!(page.len(), if message.carries_page() { PAGE_SIZE } else { 0 });
            }
        }
    }
}
