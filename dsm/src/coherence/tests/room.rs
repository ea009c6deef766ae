//! The memory limit: who goes first, who waits, and what is never taken.

use super::rig::{A, B, H, Rig};
use crate::coherence::{Coherence, Fault, Input, MemoryLimit, Message, ToHome, ToNode};
use crate::page::{Access, PageId, Span};

const LIMIT: u64 = 4;

/// The home, and two nodes of which A may hold four pages.
fn limited() -> Rig {
    let mut rig = Rig::new(3);
    rig.cores[A.0 as usize] =
        rig.cores[A.0 as usize].clone().with_limit(MemoryLimit { pages: LIMIT, cache_min: LIMIT });
    rig
}

fn held(rig: &Rig) -> u64 {
    let seen = rig.cores[A.0 as usize].occupancy();
    assert!(seen.cached + seen.reserved <= LIMIT, "{seen:?}");
    seen.cached
}

#[test]
fn shared_copies_go_before_owned_pages() {
    let mut rig = limited();
    rig.write(A, PageId(0), 1);
    rig.write(A, PageId(1), 2);
    rig.read(A, PageId(2));
    rig.read(A, PageId(3));
    rig.read(A, PageId(4));
    let counters = rig.cores[A.0 as usize].counters();
    assert_eq!((counters.evictions, counters.write_backs), (1, 0));
    assert_eq!(held(&rig), LIMIT);
    for page in 5..9 {
        rig.write(A, PageId(page), 7);
        held(&rig);
    }
    assert!(rig.cores[A.0 as usize].counters().write_backs >= 2);
    assert_eq!((rig.read(B, PageId(0)), rig.read(B, PageId(1))), (1, 2));
    assert_eq!((rig.read(A, PageId(5)), rig.read(A, PageId(8))), (7, 7));
}

#[test]
fn a_page_that_is_touched_again_has_a_second_chance_without_a_message() {
    let mut rig = limited();
    for page in 0..4 {
        rig.read(A, PageId(page));
    }
    // The hand passes all four, and takes one of them.
    rig.read(A, PageId(4));
    let aged = (0..4).map(PageId).find(|&page| {
        let core = &rig.cores[A.0 as usize];
        core.mapped(page) == Access::None && core.copy_version(page).is_some()
    });
    let aged = aged.expect("three pages are in their second chance");
    let op = rig.fault(A, aged, Access::Read);
    assert_eq!(rig.result(op), Some(Ok(0)));
    assert!(rig.network.is_empty());
    assert_eq!(rig.cores[A.0 as usize].counters().second_chances, 1);
}

#[test]
fn a_forwarded_read_does_not_map_an_owner_s_aged_page() {
    let mut rig = limited();
    for page in 0..4 {
        rig.write(A, PageId(page), 9);
    }
    rig.read(A, PageId(4));
    let aged = (0..4).map(PageId).find(|&page| {
        let core = &rig.cores[A.0 as usize];
        core.mapped(page) == Access::None && core.copy_version(page).is_some()
    });
    let aged = aged.expect("three pages are in their second chance");
    assert_eq!(rig.read(B, aged), 9);
    assert_eq!(rig.mapped(A, aged), Access::None);
    assert_eq!(rig.read(A, aged), 9);
}

#[test]
fn who_finds_no_room_waits_until_the_hold_ends_and_asks_once() {
    let mut rig = limited();
    for page in 0..4 {
        let op = rig.fault_at(A, page, 0x1000, PageId(page), Access::Write);
        rig.deliver_all();
        assert_eq!(rig.result(op), Some(Ok(0)));
    }
    // Everything is held: the request waits, and does not go out.
    let op = rig.fault_at(A, 9, 0x2000, PageId(5), Access::Read);
    assert!(rig.network.is_empty());
    assert_eq!(rig.cores[A.0 as usize].counters().room_waited_for, 1);
    rig.now = rig.now + Span::from_ms(1);
    rig.feed(A, Input::Timer);
    // The hold has ended: a page goes home, and its bytes keep their place until they are there.
    let parcel = rig.take(A, H);
    assert!(matches!(parcel.to_home(), ToHome::WriteBack { .. }), "{parcel:?}");
    assert!(rig.network.is_empty());
    assert_eq!(held(&rig), LIMIT);
    rig.give(&parcel);
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
}

#[test]
fn a_copy_that_an_upgrade_has_named_stays() {
    let mut rig = limited();
    for page in 0..4 {
        rig.read(A, PageId(page));
    }
    rig.fault(A, PageId(0), Access::Write);
    let upgrade = rig.take(A, H);
    for page in 4..8 {
        rig.read(A, PageId(page));
        assert_eq!(rig.mapped(A, PageId(0)), Access::Read);
    }
    rig.give(&upgrade);
    rig.settle();
    assert_eq!(rig.mapped(A, PageId(0)), Access::Write);
}

#[test]
fn a_guess_does_not_wait_for_room() {
    let mut rig = limited();
    for thread in 0..4 {
        let page = PageId(thread);
        rig.feed(
            A,
            Input::Fault(Fault {
                op: crate::coherence::OpId(100 + thread),
                thread,
                instruction: 1,
                page,
                access: Access::Read,
            }),
        );
    }
    assert_eq!(rig.network.len(), 4);
    rig.feed(A, Input::Prefetch { first: PageId(9), pages: 1, access: Access::Read });
    assert_eq!(rig.network.len(), 4);
    rig.settle();
    assert!(rig.cores[A.0 as usize].is_idle());
}

#[test]
fn written_back_bytes_keep_their_place_until_the_home_has_acknowledged_them() {
    let mut rig = limited();
    rig.write(A, PageId(0), 5);
    rig.feed(A, Input::Evict { page: PageId(0) });
    let write_back = rig.take(A, H);
    let op = rig.fault(B, PageId(0), Access::Read);
    rig.deliver(B, H);
    rig.deliver(H, A);
    assert_eq!((held(&rig), rig.byte(A, PageId(0))), (1, 5), "a forward does not take them along");
    rig.give(&write_back);
    rig.settle();
    assert_eq!((held(&rig), rig.byte(A, PageId(0))), (0, 0));
    assert_eq!(rig.result(op), Some(Ok(0)));
    assert_eq!(rig.byte(B, PageId(0)), 5);
    assert_eq!(rig.read(A, PageId(0)), 5);
}

/// The node that wrote a page last keeps its bytes until the home says that they are elsewhere: a message that
/// carries them may be void.
#[test]
fn the_last_writer_s_copy_goes_when_the_home_has_agreed() {
    for access in [Access::Read, Access::Write] {
        let mut rig = limited();
        rig.write(A, PageId(0), 5);
        let op = rig.fault(B, PageId(0), access);
        rig.deliver(B, H);
        rig.deliver(H, A);
        rig.now = rig.now + Span::from_ms(20);
        let answers = std::mem::take(&mut rig.network);
        if access == Access::Read {
            rig.feed(A, Input::Evict { page: PageId(0) });
        } else {
            // Invalidated: it goes when the node needs its memory.
            for page in 1..5 {
                rig.fault_at(A, page, 0x1000, PageId(page), Access::Read);
            }
            rig.network.rotate_left(3);
        }
        let drop = rig.take(A, H);
        assert!(matches!(drop.to_home(), ToHome::Drop { page: PageId(0), .. }), "{drop:?}");
        assert_eq!(rig.byte(A, PageId(0)), 5);
        rig.give(&drop);
        let acknowledged = |parcel: &super::rig::Parcel| {
            matches!(parcel.message, Message::ToNode(ToNode::WriteBackAck { .. }))
        };
        assert!(!rig.network.iter().any(acknowledged), "the transaction that took the bytes is open");
        assert_eq!(rig.byte(A, PageId(0)), 5);
        rig.network.extend(answers);
        rig.settle();
        assert_eq!((rig.result(op), rig.byte(B, PageId(0))), (Some(Ok(0)), 5));
        assert_eq!(rig.byte(A, PageId(0)), 0, "given back");
        assert!(rig.cores.iter().all(Coherence::is_idle));
    }
}

#[test]
fn an_older_instruction_takes_room_from_a_younger_one_and_not_the_other_way_round() {
    let mut rig = limited();
    let (old, young) = ((1, 0x1000), (2, 0x2000));
    let fault = |rig: &mut Rig, (thread, instruction): (u64, u64), page: u64| {
        rig.now = rig.now + Span(1);
        let op = rig.fault_at(A, thread, instruction, PageId(page), Access::Read);
        rig.deliver_all();
        rig.result(op)
    };
    for (who, page) in [(old, 0), (young, 4), (young, 5), (old, 1)] {
        assert_eq!(fault(&mut rig, who, page), Some(Ok(0)));
    }
    // All four places are taken, and all four pages are held.
    assert_eq!(fault(&mut rig, old, 2), Some(Ok(0)));
    assert_eq!(fault(&mut rig, old, 3), Some(Ok(0)));
    assert_eq!(fault(&mut rig, young, 6), None, "it waits for the older one");
    let mapped: Vec<Access> = (0..4).map(|page| rig.mapped(A, PageId(page))).collect();
    assert_eq!(mapped, [Access::Read; 4], "it has what it needs");
    rig.now = rig.now + Span::from_ms(1);
    rig.feed(A, Input::Timer);
    rig.deliver_all();
    assert_eq!(rig.mapped(A, PageId(6)), Access::Read, "and then the younger one goes on");
}
