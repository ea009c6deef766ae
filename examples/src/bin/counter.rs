//! A number that all ranks add to, one at a time: a lock with the data that it guards.

use std::process::ExitCode;

use clap::Parser;
use examples::{Outcome, Table, Traffic, arguments, check, timed};
use pagemesh::prelude::*;

/// Count together under a lock
#[derive(Parser)]
#[command(name = "counter", version)]
struct Arguments {
    /// How often each rank adds one
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    increments: u64,
}

fn main() -> ExitCode {
    examples::main("counter", counter)
}

fn counter() -> Outcome {
    let arguments: Arguments = arguments()?;
    let dsm = Dsm::builder().from_env()?.join()?;
    let count = dsm.mutex::<u64>("counter.count")?;

    // The number may be left from an earlier run: with daemons, shared memory outlives programs.
    if dsm.is_root() {
        *count.lock()? = 0;
    }
    dsm.barrier()?;
    let before = dsm.stats();

    let (added, time) = timed(|| {
        for _ in 0..arguments.increments {
            *count.lock()? += 1;
        }
        dsm.barrier()
    });
    added?;

    let found = *count.lock()?;
    let traffic = Traffic::between(&before, &dsm.stats()).sum(&dsm)?;
    let expected = arguments.increments * u64::from(dsm.ranks());
    check(found == expected, || format!("the counter is {found}, not {expected}"))?;
    if dsm.is_root() {
        let mut table = Table::default();
        table.row("counter", found);
        table.time("time", time);
        table.row("each", format!("{:.1} us", time.as_secs_f64() * 1e6 / expected as f64));
        traffic.rows(&mut table);
        table.row("verified", "yes");
        table.print(&format!("{} increments under one lock, {} ranks", expected, dsm.ranks()))?;
    }
    Ok(dsm.leave()?)
}
