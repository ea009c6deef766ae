//! Heat in a rod: each point becomes the mean of itself and its neighbours, again and again. Each rank writes
//! whole pages of its own, so they stay with it; only the pages beside them come over after each step.

use std::process::ExitCode;
use std::time::Instant;

use examples::{Outcome, Table, arguments, check};
use pagemesh::prelude::*;

/// Solve the heat equation on a rod, in blocks of whole pages
#[derive(clap::Parser)]
struct Arguments {
    /// Points of the rod
    #[arg(long, default_value_t = 1_000_000)]
    n: usize,
    /// Steps
    #[arg(long, default_value_t = 100)]
    steps: usize,
}

fn main() -> ExitCode {
    examples::main("stencil", stencil)
}

fn stencil() -> Outcome {
    let Arguments { n, steps } = arguments()?;
    let dsm = Dsm::builder().from_env()?.join()?;
    let mut now = dsm.alloc_with::<f64>("stencil.0", n, Placement::Block)?; // new memory is zero
    let mut next = dsm.alloc_with::<f64>("stencil.1", n, Placement::Block)?;
    let mine = dsm.my_block_aligned(&now);
    let mut alone = vec![0.0; n];
    alone[n / 2] = 1.0;
    now.slice(mine.clone()).copy_from_slice(&alone[mine.clone()]);
    let mean = |rod: &[f64], at: usize| (rod[at.saturating_sub(1)] + rod[at] + rod[n.min(at + 2) - 1]) / 3.0;
    dsm.barrier()?;
    let begun = Instant::now();
    for _ in 0..steps {
        let part = next.slice(mine.clone());
        // SAFETY: all ranks only read `now` until the barrier.
        let rod = unsafe { now.as_slice() };
        // SAFETY: this part of `next` is this rank's alone until then.
        let points = unsafe { part.as_mut_slice() };
        points.iter_mut().zip(mine.clone()).for_each(|(point, at)| *point = mean(rod, at));
        dsm.barrier()?;
        std::mem::swap(&mut now, &mut next);
    }
    let time = begun.elapsed();

    if dsm.is_root() {
        (0..steps).for_each(|_| alone = (0..n).map(|at| mean(&alone, at)).collect());
        check(now.to_vec() == alone, || "a point differs from one process's".into())?;
        let mut table = Table::default();
        table.time("time", time);
        table.row("verified", "yes");
        table.print(&format!("a rod of {n} points, {steps} steps, {} ranks", dsm.ranks()))?;
        dsm.remove("stencil.0").and(dsm.remove("stencil.1"))?; // with daemons, regions stay until then
    }
    Ok(dsm.leave()?)
}
