//! A linked list in shared memory, made of plain pointers: they mean the same on every node. Rank 0
//! builds it, then each rank in turn walks it and appends items of its own; in the end all walk it all.

use std::process::ExitCode;
use std::ptr;

use clap::Parser;
use examples::{Outcome, Table, Traffic, arguments, check, timed};
use pagemesh::prelude::*;

/// Build and walk a linked list in shared memory
#[derive(Parser)]
#[command(name = "list", version)]
struct Arguments {
    /// Items that each rank appends
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    items: u32,
}

/// One item. The region holds two words for each; this is what they mean.
#[repr(C)]
struct Item {
    value: u64,
    next: *mut Item,
}

/// The list: the first item of the region is its head and carries no value.
#[derive(Clone, Copy)]
struct List {
    head: *mut Item,
}

/// What a walk found.
#[derive(Debug, PartialEq, Eq)]
struct Walk {
    items: u64,
    sum: u64,
    last: *mut Item,
}

fn main() -> ExitCode {
    examples::main("list", list)
}

fn list() -> Outcome {
    let arguments: Arguments = arguments()?;
    let dsm = Dsm::builder().from_env()?.join()?;
    let (rank, ranks) = (u64::from(dsm.rank()), u64::from(dsm.ranks()));
    let each = u64::from(arguments.items);
    let capacity = (1 + each * ranks) as usize;

    let memory = dsm.alloc::<[u64; 2]>(&format!("list.{capacity}"), capacity)?;
    let head = memory.as_mut_ptr().cast::<Item>();
    let list = List { head };
    if dsm.is_root() {
        // SAFETY: the head is the region's first item; the others wait at the barrier below.
        unsafe { head.write(Item { value: 0, next: ptr::null_mut() }) };
    }
    dsm.barrier()?;
    let before = dsm.stats();

    let (turns, time) = timed(|| {
        for turn in 0..ranks {
            if turn == rank {
                // SAFETY: between two barriers only the rank whose turn it is touches the list.
                unsafe { append(list, each, rank) }?;
            }
            dsm.barrier()?;
        }
        Outcome::Ok(())
    });
    turns?;

    // SAFETY: nobody writes any more.
    let walk = unsafe { list.walk() };
    verify(&walk, each, ranks)?;
    let traffic = Traffic::between(&before, &dsm.stats()).sum(&dsm)?;
    if dsm.is_root() {
        let mut table = Table::default();
        table.row("items", walk.items);
        table.row("sum of the values", walk.sum);
        table.time("time", time);
        traffic.rows(&mut table);
        table.row("verified", "yes");
        table.print(&format!("a list through plain pointers, {ranks} ranks"))?;
        // With daemons, regions stay until somebody removes them.
        dsm.remove(&format!("list.{capacity}"))?;
    }
    Ok(dsm.leave()?)
}

impl List {
    /// Follows the pointers to the end.
    ///
    /// # Safety
    /// The list's head is written, and nobody changes the list meanwhile.
    unsafe fn walk(self) -> Walk {
        let mut walk = Walk { items: 0, sum: 0, last: self.head };
        loop {
            // SAFETY: every pointer in the list was made from an item of the region.
            let next = unsafe { (*walk.last).next };
            if next.is_null() {
                return walk;
            }
            // SAFETY: as above, and not null.
            walk.sum += unsafe { (*next).value };
            walk.items += 1;
            walk.last = next;
        }
    }
}

/// Checks what earlier ranks left, then puts this rank's items behind it.
///
/// # Safety
/// As for [`List::walk`], and nobody else appends meanwhile.
unsafe fn append(list: List, each: u64, rank: u64) -> Outcome {
    // SAFETY: the caller's promise.
    let found = unsafe { list.walk() };
    verify(&found, each, rank)?;
    let mut last = found.last;
    for i in 0..each {
        let place = (1 + rank * each + i) as usize;
        // SAFETY: the region has 1 + each * ranks items.
        let item = unsafe { list.head.add(place) };
        // SAFETY: this place is this rank's, and no pointer leads to it yet.
        unsafe { item.write(Item { value: value(rank, i), next: ptr::null_mut() }) };
        // SAFETY: `last` is an item of the list, and only this rank changes the list now.
        unsafe { (*last).next = item };
        last = item;
    }
    Ok(())
}

/// The value that a rank gives its item `i`.
fn value(rank: u64, i: u64) -> u64 {
    (rank + 1) * 1_000 + i
}

fn verify(walk: &Walk, each: u64, ranks: u64) -> Outcome {
    let sum: u64 = (0..ranks).map(|rank| (0..each).map(|i| value(rank, i)).sum::<u64>()).sum();
    check(walk.items == each * ranks && walk.sum == sum, || {
        format!("{} items with sum {}, not {} with sum {sum}", walk.items, walk.sum, each * ranks)
    })
}
