//! A histogram in two ways, both exact: each item is one atomic addition to bins that all ranks share, or one
//! to private bins that are added to the shared ones at the end. The times show what sharing costs.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use examples::{Outcome, Table, arguments, check, timed};
use pagemesh::prelude::*;

/// Count items by kind, in shared and in private bins
#[derive(clap::Parser)]
struct Arguments {
    /// Items of all ranks together
    #[arg(long, default_value_t = 10_000_000)]
    items: usize,
}

const BINS: usize = 256;

fn main() -> ExitCode {
    examples::main("histogram", histogram)
}

fn histogram() -> Outcome {
    let items = arguments::<Arguments>()?.items;
    let dsm = Dsm::builder().from_env()?.join()?;
    let bins = dsm.alloc::<u64>("histogram", 2 * BINS)?;
    let (each, merged) = (bins.slice(0..BINS), bins.slice(BINS..2 * BINS));
    bins.slice(dsm.my_block(2 * BINS)).fill(0); // they may be left from a run that was killed
    let kind = |item: usize| item.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    let count = |items: Range<usize>| {
        let mut bins = vec![0; BINS];
        items.for_each(|item| bins[kind(item)] += 1);
        bins
    };
    dsm.barrier()?;

    let begun = Instant::now();
    dsm.my_block(items).for_each(|item| _ = each.fetch_add(kind(item), 1));
    dsm.barrier()?;
    let (each_time, begun) = (begun.elapsed(), Instant::now());
    count(dsm.my_block(items)).iter().enumerate().for_each(|(bin, n)| _ = merged.fetch_add(bin, *n));
    dsm.barrier()?;
    let merged_time = begun.elapsed();

    if dsm.is_root() {
        let (expected, alone_time) = timed(|| count(0..items));
        check(each.to_vec() == expected && merged.to_vec() == expected, || "a bin is wrong".into())?;
        let mut table = Table::default();
        table.time("one fetch_add on shared bins an item", each_time);
        table.time("private bins, added up at the end", merged_time);
        table.time("one process alone", alone_time);
        table.row("verified", "yes");
        table.print(&format!("{items} items in {BINS} bins, {} ranks", dsm.ranks()))?;
        dsm.remove("histogram")?; // with daemons, regions stay until a program or a user removes them
    }
    Ok(dsm.leave()?)
}
