//! Fetching ahead: what earns it, what ends it, and what is mapped when.

use super::rig::{A, B, H, P, Q, Rig, region};
use crate::coherence::stream::{Cause, Streams};
use crate::coherence::{Input, Message, Placement, RegionInfo, ToHome};
use crate::page::{Access, EXTENT_PAGES, NodeId, PageId};

const NONE: [u64; 0] = [];

fn fault(streams: &mut Streams, page: u64, access: Access) -> Vec<u64> {
    streams
        .faulted(PageId(page), access, Cause::Miss, 0..u64::MAX)
        .map_or(Vec::new(), |pages| pages.map(|page| page.0).collect())
}

fn read(streams: &mut Streams, page: u64) -> Vec<u64> {
    fault(streams, page, Access::Read)
}

#[test]
fn the_third_fault_at_equal_distances_begins_a_stream() {
    let mut streams = Streams::default();
    assert_eq!(read(&mut streams, 100), NONE);
    assert_eq!(read(&mut streams, 101), NONE);
    assert_eq!(read(&mut streams, 102), [103, 104, 105, 106]);
}

#[test]
fn each_further_fault_doubles_how_far_a_stream_runs_ahead_up_to_its_bound() {
    let mut streams = Streams::default();
    (0..3).for_each(|page| drop(read(&mut streams, page)));
    for (page, last) in [(3, 3 + 8), (4, 4 + 16), (5, 5 + 32), (6, 6 + 64)] {
        assert_eq!(read(&mut streams, page).last(), Some(&last));
    }
    assert_eq!(read(&mut streams, 7), NONE, "more than half is on its way");
    assert_eq!(read(&mut streams, 20), (71..=20 + 120).collect::<Vec<u64>>());
    assert_eq!(read(&mut streams, 100), (141..=100 + 120).collect::<Vec<u64>>());
}

#[test]
fn strides_and_descents_are_followed_and_nothing_is_below_the_first_page() {
    let mut streams = Streams::default();
    (0..2).for_each(|i| drop(read(&mut streams, 1000 + 5 * i)));
    assert_eq!(read(&mut streams, 1010), [1015, 1020, 1025, 1030]);
    let mut streams = Streams::default();
    (0..2).for_each(|i| drop(read(&mut streams, 9 - 3 * i)));
    assert_eq!(read(&mut streams, 3), [0]);
}

#[test]
fn interleaved_streams_are_told_apart_and_loads_from_stores() {
    let mut streams = Streams::default();
    for i in 0..2 {
        for start in [100, 5000, 90_000] {
            assert_eq!(read(&mut streams, start + i), NONE);
        }
        assert_eq!(fault(&mut streams, 700 + i, Access::Write), NONE);
    }
    assert_eq!(read(&mut streams, 102), [103, 104, 105, 106]);
    assert_eq!(read(&mut streams, 90_002), [90_003, 90_004, 90_005, 90_006]);
    assert_eq!(read(&mut streams, 702), NONE);
    assert_eq!(fault(&mut streams, 702, Access::Write), [703, 704, 705, 706]);
}

#[test]
fn random_faults_earn_nothing() {
    let mut streams = Streams::default();
    let mut rng = fastrand::Rng::with_seed(7);
    let asked: usize = (0..20_000).map(|_| read(&mut streams, rng.u64(..65_536)).len()).sum();
    assert!(asked < 200, "{asked} pages for 20,000 random ones");
}

#[test]
fn a_page_taken_away_untouched_stops_its_stream_until_the_program_comes_there() {
    let mut streams = Streams::default();
    (0..3).for_each(|page| drop(read(&mut streams, page)));
    streams.wasted(PageId(5));
    // Another sweep: its window grows, but not beyond the fence.
    (100..103).for_each(|page| drop(read(&mut streams, page)));
    let mut streams_again = streams.clone();
    assert_eq!(read(&mut streams_again, 3), NONE, "4 is here, 5 is fenced off");
    // The program itself goes there: the fence falls.
    assert_eq!(read(&mut streams_again, 4), NONE);
    assert!(read(&mut streams_again, 5).contains(&7));
}

/// Three faults by node A on the pages before `next`, so that the next ones come ahead.
fn rig_with_a_stream() -> (Rig, PageId) {
    let mut rig = Rig::new(3);
    for page in 0..12 {
        rig.write(H, PageId(page), 40 + page as u8);
    }
    (0..3).for_each(|page| assert_eq!(rig.read(A, PageId(page)), 40 + page as u8));
    (rig, PageId(3))
}

#[test]
fn pages_that_come_ahead_are_mapped_by_the_first_touch_all_at_once() {
    let (mut rig, next) = rig_with_a_stream();
    for page in next.0..next.0 + 4 {
        assert_eq!(rig.mapped(A, PageId(page)), Access::None);
        assert_eq!(rig.cores[1].access(PageId(page)), Access::Read, "it is here all the same");
    }
    let op = rig.fault(A, next, Access::Read);
    assert_eq!(rig.result(op), Some(Ok(0)), "without a message");
    for page in next.0..next.0 + 4 {
        assert_eq!(rig.mapped(A, PageId(page)), Access::Read);
        assert_eq!(rig.byte(A, PageId(page)), 40 + page as u8);
    }
    assert_eq!(rig.cores[1].counters().local_faults, 1);
}

/// Whoever copies a range asks for it first; it comes in batches, and each batch is touched once.
#[test]
fn first_touches_of_what_was_asked_for_begin_no_stream() {
    let mut rig = Rig::new(3);
    for first in [0, 3, 6, 9].map(PageId) {
        rig.feed(A, Input::Prefetch { first, pages: 3, access: Access::Read });
        rig.settle();
        let op = rig.fault(A, first, Access::Read);
        assert_eq!(rig.result(op), Some(Ok(0)));
        assert!(rig.network.is_empty(), "a touch of {first:?} asked for more");
    }
}

#[test]
fn the_request_that_somebody_waits_for_travels_first() {
    let mut rig = Rig::new(2);
    for page in 0..2 {
        rig.read(A, PageId(page));
    }
    rig.fault(A, PageId(2), Access::Read);
    let asked: Vec<u64> = rig
        .network
        .iter()
        .filter_map(|parcel| {
            let Message::ToHome(ToHome::GetS { page, .. }) = parcel.message else { return None };
            Some(page.0)
        })
        .collect();
    assert_eq!(asked, [2, 3, 4, 5, 6]);
}

#[test]
fn a_page_that_came_ahead_is_given_up_without_unmapping_and_counts_as_waste() {
    let (mut rig, next) = rig_with_a_stream();
    rig.memories[1].log.clear();
    rig.write(B, next, 9);
    assert!(rig.memories[1].log.is_empty(), "{:?}", rig.memories[1].log);
    assert_eq!(rig.cores[1].counters().pages_wasted, 1);
    assert_eq!(rig.read(A, next), 9);
}

#[test]
fn pages_that_are_lowered_together_came_in_vain_only_if_nobody_touched_them() {
    for stored in [false, true] {
        let mut rig = Rig::new(3);
        for page in [P, Q] {
            rig.access(A, page, if stored { Access::Write } else { Access::Read });
        }
        rig.feed(A, Input::Prefetch { first: PageId(Q.0 + 1), pages: 1, access: Access::Read });
        rig.settle();
        let writers = [P, Q, PageId(Q.0 + 1)].map(|page| rig.fault(B, page, Access::Write));
        rig.deliver_together(B, H);
        rig.memories[1].log.clear();
        rig.deliver_together(H, A);
        assert_eq!(rig.memories[1].log[0], "protect None x 2");
        rig.settle();
        assert!(writers.iter().all(|&op| rig.result(op) == Some(Ok(0))));
        assert_eq!(rig.cores[1].counters().invalidations, 3);
        assert_eq!(rig.cores[1].counters().pages_wasted, 1, "stored: {stored}");
    }
}

#[test]
fn a_fault_on_a_page_that_is_on_its_way_ahead_waits_for_it_and_maps_it() {
    let mut rig = Rig::new(2);
    rig.write(H, P, 7);
    rig.feed(A, Input::Prefetch { first: P, pages: 1, access: Access::Read });
    let op = rig.fault(A, P, Access::Read);
    assert_eq!(rig.network.len(), 1, "one request");
    rig.settle();
    assert_eq!(rig.result(op), Some(Ok(0)));
    assert_eq!((rig.mapped(A, P), rig.byte(A, P)), (Access::Read, 7));
}

#[test]
fn nothing_that_no_program_may_touch_is_asked_for() {
    let mut rig = Rig::new(2);
    let last = region(Placement::OnNode(H), vec![H]).used - 1;
    rig.feed(A, Input::Prefetch { first: PageId(last), pages: 100, access: Access::Read });
    assert_eq!(rig.network.len(), 1);
}

/// Three nodes with three regions back to back, each of one extent, all of whose pages may be touched.
fn rig_with_neighbouring_regions() -> Rig {
    let mut rig = Rig::empty(3);
    for start in [0, EXTENT_PAGES, 2 * EXTENT_PAGES].map(PageId) {
        let used = EXTENT_PAGES;
        let region = RegionInfo { start, used, ..region(Placement::OnNode(H), vec![H]) };
        (0..3).map(NodeId).for_each(|node| rig.feed(node, Input::Region(region.clone())));
    }
    rig
}

/// The pages that a node has asked its home for since the network was empty.
fn asked_for(rig: &Rig) -> Vec<u64> {
    let page = |message| match message {
        Message::ToHome(ToHome::GetS { page, .. } | ToHome::GetM { page, .. }) => Some(page.0),
        Message::ToHome(_)
        | Message::ToNode(_)
        | Message::Lock(_)
        | Message::Barrier(_)
        | Message::Report(_) => None,
    };
    rig.network.iter().filter_map(|parcel| page(parcel.message)).collect()
}

/// Found with programs that were killed: up to 60 pages of a region that a program had never named had
/// become its own, and were lost with it.
#[test]
fn a_stream_of_stores_ends_with_its_region() {
    let (low, high) = (EXTENT_PAGES, 2 * EXTENT_PAGES - 1);
    // Upwards and downwards, page by page and with gaps.
    for (first, stride) in [(high - 9, 1), (high - 27, 3), (low + 9, -1), (low + 27, -3)] {
        let mut rig = rig_with_neighbouring_regions();
        for page in (0..10).map(|step| PageId(first.checked_add_signed(step * stride).unwrap())) {
            if rig.cores[1].access(page) < Access::Write || rig.mapped(A, page) < Access::Write {
                rig.fault(A, page, Access::Write);
                let asked = asked_for(&rig);
                assert!(asked.iter().all(|page| (low..=high).contains(page)), "stride {stride}: {asked:?}");
            }
            rig.write(A, page, 1);
        }
        let own = |page: &u64| rig.cores[1].access(PageId(*page)) == Access::Write;
        let beyond: Vec<u64> = (0..low).chain(high + 1..3 * EXTENT_PAGES).filter(own).collect();
        assert!(beyond.is_empty(), "stride {stride}: {beyond:?}");
        assert!((low..=high).filter(own).count() >= 10, "it went ahead inside");
    }
}

#[test]
fn an_explicit_prefetch_ends_with_its_region() {
    let mut rig = rig_with_neighbouring_regions();
    let first = PageId(EXTENT_PAGES - 2);
    rig.feed(A, Input::Prefetch { first, pages: 10, access: Access::Write });
    assert_eq!(asked_for(&rig), [EXTENT_PAGES - 2, EXTENT_PAGES - 1]);
    rig.feed(B, Input::Prefetch { first: PageId(3 * EXTENT_PAGES), pages: 10, access: Access::Write });
    assert_eq!(asked_for(&rig).len(), 2, "there is no region");
}

/// A program may have two regions that lie back to back.
#[test]
fn a_stream_goes_on_in_the_next_region_once_a_thread_faults_there() {
    let mut rig = rig_with_neighbouring_regions();
    for page in EXTENT_PAGES - 8..EXTENT_PAGES {
        rig.write(A, PageId(page), 1);
    }
    rig.fault(A, PageId(EXTENT_PAGES), Access::Write);
    let asked = asked_for(&rig);
    assert!(asked.len() > 8 && asked[0] == EXTENT_PAGES, "as if there were no border: {asked:?}");
    rig.settle();
}

#[test]
fn a_touch_maps_no_page_of_another_region() {
    let border = EXTENT_PAGES;
    let mut rig = rig_with_neighbouring_regions();
    for first in [border - 2, border].map(PageId) {
        rig.feed(A, Input::Prefetch { first, pages: 2, access: Access::Write });
    }
    rig.settle();
    let mapped =
        |rig: &Rig| [border - 2, border - 1, border, border + 1].map(|page| rig.mapped(A, PageId(page)));
    let (write, none) = (Access::Write, Access::None);
    rig.access(A, PageId(border - 2), write);
    assert_eq!(mapped(&rig), [write, write, none, none], "upwards");
    let mut rig = rig_with_neighbouring_regions();
    for first in [border - 2, border].map(PageId) {
        rig.feed(A, Input::Prefetch { first, pages: 2, access: Access::Write });
    }
    rig.settle();
    rig.access(A, PageId(border + 1), write);
    assert_eq!(mapped(&rig), [none, none, write, write], "downwards");
    // With a stride, across the border.
    let mut rig = rig_with_neighbouring_regions();
    for page in [border - 8, border - 6, border - 4].map(PageId) {
        rig.write(A, page, 1);
    }
    rig.feed(A, Input::Prefetch { first: PageId(border), pages: 1, access: write });
    rig.settle();
    rig.access(A, PageId(border - 2), write);
    assert_eq!(rig.mapped(A, PageId(border)), none, "with a stride");
}

#[test]
fn a_batch_downgrades_neighbours_of_one_region_together() {
    let mut rig = rig_with_neighbouring_regions();
    let pages = [EXTENT_PAGES - 2, EXTENT_PAGES - 1, EXTENT_PAGES, EXTENT_PAGES + 1].map(PageId);
    for page in pages {
        rig.access(A, page, Access::Read);
    }
    for page in pages {
        rig.fault(B, page, Access::Write);
    }
    rig.deliver_together(B, H);
    rig.memories[1].log.clear();
    rig.deliver_together(H, A);
    assert_eq!(rig.memories[1].log[0], "protect None x 2", "up to the border");
    rig.settle();
}

/// Pages that the home has written, two of which have been read by node A.
fn rig_with_readers_of_the_neighbourhood() -> Rig {
    let mut rig = Rig::new(2);
    for page in 0..16 {
        rig.write(H, PageId(page), 40 + page as u8);
    }
    for page in [2, 9] {
        assert_eq!(rig.read(A, PageId(page)), 40 + page as u8);
        let writable = (0..16).filter(|&page| rig.mapped(H, PageId(page)) == Access::Write).count();
        assert_eq!(writable, if page == 2 { 15 } else { 14 }, "not before it is earned");
    }
    rig.memories[0].log.clear();
    rig
}

#[test]
fn an_owner_lowers_pages_ahead_of_readers_who_have_read_others_of_the_neighbourhood() {
    let mut rig = rig_with_readers_of_the_neighbourhood();
    assert_eq!(rig.read(A, PageId(5)), 45);
    assert_eq!(rig.memories[0].log[0], "protect Read x 6", "between those that had been read");
    rig.memories[0].log.clear();
    assert_eq!(rig.read(A, PageId(7)), 47);
    assert_eq!(rig.memories[0].log, ["read"], "and nothing is left to lower");
    assert_eq!(rig.cores[0].access(PageId(6)), Access::Write, "to the protocol it is as writable as before");
}

#[test]
fn a_store_to_a_page_that_was_lowered_ahead_needs_no_message_and_is_not_provoked_again() {
    let mut rig = rig_with_readers_of_the_neighbourhood();
    rig.read(A, PageId(5));
    let op = rig.fault(H, PageId(4), Access::Write);
    assert_eq!(rig.result(op), Some(Ok(0)), "without a message");
    for page in [3, 4] {
        rig.store(H, PageId(page), 90);
    }
    assert_eq!(rig.read(A, PageId(3)), 90);
    assert_eq!(rig.mapped(H, PageId(4)), Access::Write);
    assert_eq!(rig.read(A, PageId(4)), 90);
}

#[test]
fn a_page_that_is_held_is_not_lowered_ahead() {
    let mut rig = rig_with_readers_of_the_neighbourhood();
    rig.read(A, PageId(14));
    let store = rig.fault_at(H, 2, 0x2000, PageId(9), Access::Write);
    rig.deliver(H, A);
    rig.deliver(A, H);
    assert_eq!(rig.result(store), Some(Ok(0)), "and the instruction has not run yet");
    rig.fault(A, PageId(7), Access::Read);
    rig.deliver(A, H);
    let mapped = [6, 7, 8, 9].map(|page| rig.mapped(H, PageId(page)));
    assert_eq!(mapped, [Access::Read, Access::Read, Access::Read, Access::Write]);
}
