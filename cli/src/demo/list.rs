//! A linked list of raw pointers: they mean the same in every process.

use std::fmt;
use std::ptr;

use pagemesh::Dsm;
use serde::Serialize;

use super::figures::{row, verdict};
use super::notes::{Note, Notes};

/// Items of the list, each of 16 bytes.
const ITEMS: usize = 10_000;

/// One item, as it lies in shared memory.
#[repr(C)]
#[derive(Clone, Copy)]
struct Item {
    value: u64,
    next: *const Item,
}

/// The result of the walk through the list.
#[derive(Serialize, Default)]
pub(super) struct List {
    walked_by: u32,
    items: u64,
    items_expected: u64,
    sum: u64,
    sum_expected: u64,
    /// Where the walker found the first item. Text: readers of JSON keep 53 bits of a number.
    first: String,
    first_expected: String,
}

/// Rank 0 links items in an order that jumps between pages; the last rank follows the pointers.
pub(super) fn build_and_walk(dsm: &Dsm, notes: &Notes<'_>) -> pagemesh::Result<List> {
    // The first item is the list's head and carries no value.
    let memory = dsm.alloc::<u64>("demo.list", (1 + ITEMS) * size_of::<Item>() / size_of::<u64>())?;
    let head = memory.as_mut_ptr().cast::<Item>();
    let walker = dsm.ranks() - 1;
    let mut order: Vec<usize> = (1..=ITEMS).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    if dsm.is_root() {
        let mut next = ptr::null();
        for &place in order.iter().rev() {
            // SAFETY: `place` is at most ITEMS, and the region has that many items behind its head.
            let item = unsafe { head.add(place) };
            // SAFETY: aligned memory of the region, which the others do not touch before the barrier.
            unsafe { item.write(Item { value: place as u64, next }) };
            next = item;
        }
        // SAFETY: as above.
        unsafe { head.write(Item { value: 0, next }) };
    }
    dsm.barrier()?;
    if dsm.rank() == walker {
        // SAFETY: rank 0 has written the list before the barrier, and nobody changes it any more.
        let found = unsafe { walk(head) };
        notes.set(Note::ListItems, found.items);
        notes.set(Note::ListSum, found.sum);
        notes.set(Note::ListFirst, found.first);
    }
    dsm.barrier()?;
    let address = |addr: usize| format!("{addr:#x}");
    Ok(List {
        walked_by: walker,
        items: notes.get(Note::ListItems, walker),
        items_expected: ITEMS as u64,
        sum: notes.get(Note::ListSum, walker),
        sum_expected: (ITEMS * (ITEMS + 1) / 2) as u64,
        first: address(notes.get(Note::ListFirst, walker) as usize),
        first_expected: address(head.wrapping_add(order[0]).addr()),
    })
}

/// The result of one rank.
struct Walk {
    items: u64,
    sum: u64,
    first: u64,
}

/// Follows the pointers to the end, at most one item farther than the list is long.
///
/// # Safety
/// `head` is the head of a complete list, and nobody changes the list meanwhile.
unsafe fn walk(head: *const Item) -> Walk {
    // SAFETY: the caller's promise.
    let mut item = unsafe { head.read() };
    let mut walk = Walk { items: 0, sum: 0, first: item.next.addr() as u64 };
    while !item.next.is_null() && walk.items <= ITEMS as u64 {
        // SAFETY: every pointer of the list was made from an item of the region.
        item = unsafe { item.next.read() };
        walk.items += 1;
        walk.sum += item.value;
    }
    walk
}

impl List {
    pub(super) fn ok(&self) -> bool {
        self.items == self.items_expected
            && self.sum == self.sum_expected
            && self.first == self.first_expected
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let walked = format!("built by 0, walked by {}", self.walked_by);
        let wrong = || {
            format!(
                "{} items with sum {}, not {} with {}, the first at {}",
                self.items, self.sum, self.items_expected, self.sum_expected, self.first_expected
            )
        };
        let verdict = verdict(self.ok(), wrong);
        f.write_str(&row("2. a linked list, raw pointers", &walked, &self.first, &verdict))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_right_only_if_items_sum_and_address_are() {
        let right = || List { items: 3, items_expected: 3, sum: 6, sum_expected: 6, ..List::default() };
        assert!(right().ok());
        assert!(!List { items: 2, ..right() }.ok());
        assert!(!List { sum: 7, ..right() }.ok());
        let moved = List { first: "0x10".into(), first_expected: "0x20".into(), ..right() };
        assert!(!moved.ok());
        assert!(moved.to_string().contains("WRONG: 3 items with sum 6"), "{moved}");
    }
}
