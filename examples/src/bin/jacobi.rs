//! Heat on a square plate: each point becomes the mean of its four neighbours, again and again. Each rank
//! owns a block of rows; the rows beside it, its neighbours', come by page faults after each step.

use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use examples::{Outcome, Progress, Table, Traffic, Unit, arguments, check, timed};
use pagemesh::prelude::*;

/// Solve the heat equation on a plate in shared memory
#[derive(Parser)]
#[command(name = "jacobi", version)]
struct Arguments {
    /// Points along each side of the plate
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    n: u32,
    /// Steps
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    iterations: u32,
    /// Compare with a solution made by rank 0 alone, in its private memory
    #[arg(long)]
    verify: bool,
}

fn main() -> ExitCode {
    examples::main("jacobi", jacobi)
}

fn jacobi() -> Outcome {
    let arguments: Arguments = arguments()?;
    let n = arguments.n as usize;
    let dsm = Dsm::builder().from_env()?.join()?;

    // Each rank's rows have their home beside it.
    let plates = [
        dsm.alloc_with::<f64>(&format!("jacobi.{n}.0"), n * n, Placement::Block)?,
        dsm.alloc_with::<f64>(&format!("jacobi.{n}.1"), n * n, Placement::Block)?,
    ];
    let rows = dsm.my_block(n);
    let mine = rows.start * n..rows.end * n;
    for plate in &plates {
        plate.copy_in(mine.start, &initial(n)[mine.clone()])?;
    }
    dsm.barrier()?;
    let before = dsm.stats();

    let mut progress = Progress::of_rank(&dsm, 0, "iterate", Unit::Steps, u64::from(arguments.iterations));
    let (stepped, time) = timed(|| {
        for iteration in 0..arguments.iterations as usize {
            let (old, new) = (&plates[iteration % 2], &plates[(iteration + 1) % 2]);
            // SAFETY: all ranks read `old` and write `new` until the barrier, each its own rows.
            let old = unsafe { old.as_slice() };
            // SAFETY: as above.
            let new = unsafe { &mut new.as_mut_slice()[mine.clone()] };
            step(old, new, n, rows.clone());
            dsm.barrier()?;
            progress.advance(1);
        }
        Result::Ok(())
    });
    stepped?;
    drop(progress);
    let traffic = Traffic::between(&before, &dsm.stats()).sum(&dsm)?;

    if dsm.is_root() {
        let mut plate = vec![0.0; n * n];
        plates[arguments.iterations as usize % 2].copy_out(0, &mut plate)?;
        let mut table = Table::default();
        table.time("time", time);
        table.time("a step", time / arguments.iterations);
        table.row("heat on the plate", format!("{:.6}", plate.iter().sum::<f64>()));
        traffic.rows(&mut table);
        if arguments.verify {
            // The same operations in the same order: the same bits.
            let expected = alone(n, arguments.iterations);
            let wrong = plate.iter().zip(&expected).position(|(got, want)| got.to_bits() != want.to_bits());
            check(wrong.is_none(), || {
                let at = wrong.unwrap_or(0);
                format!("point [{}][{}] is {}, not {}", at / n, at % n, plate[at], expected[at])
            })?;
            table.row("verified", "yes");
        }
        let ranks = dsm.ranks();
        table.print(&format!("heat, {n} x {n} f64, {} steps, {ranks} ranks", arguments.iterations))?;
        // With daemons, regions stay until somebody removes them.
        dsm.remove(&format!("jacobi.{n}.0"))?;
        dsm.remove(&format!("jacobi.{n}.1"))?;
    }
    Ok(dsm.leave()?)
}

/// A cold plate with a hot upper edge. The edges stay as they are.
fn initial(n: usize) -> Vec<f64> {
    let mut plate = vec![0.0; n * n];
    plate[..n].fill(1.0);
    plate
}

/// Computes some rows of the next plate; `new` holds just these rows.
fn step(old: &[f64], new: &mut [f64], n: usize, rows: Range<usize>) {
    for row in rows.clone() {
        if row == 0 || row == n - 1 {
            continue;
        }
        let line = &mut new[(row - rows.start) * n..][..n];
        let (above, here, below) =
            (&old[(row - 1) * n..][..n], &old[row * n..][..n], &old[(row + 1) * n..][..n]);
        for column in 1..n.max(2) - 1 {
            line[column] = (above[column] + below[column] + here[column - 1] + here[column + 1]) / 4.0;
        }
    }
}

fn alone(n: usize, iterations: u32) -> Vec<f64> {
    let mut old = initial(n);
    let mut new = old.clone();
    for _ in 0..iterations {
        step(&old, &mut new, n, 0..n);
        std::mem::swap(&mut old, &mut new);
    }
    old
}
