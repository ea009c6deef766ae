//! `C = A x B`: rank 0 fills A and B, every rank multiplies a block of rows, rank 0 reads C.
//!
//! Nobody sends anything: A and B come to the ranks, and C to rank 0, because their pages are touched.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{Outcome, Progress, Table, Traffic, Unit, arguments, best_of, check, timed};
use pagemesh::prelude::*;

/// Multiply two matrices in shared memory
#[derive(Parser)]
#[command(name = "matmul", version)]
struct Arguments {
    /// Rows and columns of the matrices
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    n: u32,
    /// Compare C with a product made by rank 0 alone, in its private memory
    #[arg(long)]
    verify: bool,
    /// Do not time a product made by rank 0 alone
    #[arg(long)]
    no_baseline: bool,
    /// Seed of the random matrices
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A product made by one process, for comparison.
struct Alone {
    c: Vec<f64>,
    /// Of the quickest sample.
    time: Duration,
    samples: usize,
}

/// Rows that are multiplied, and numbers that are fetched, between two looks at how far it is.
const ROWS_A_PART: usize = 256;
const FETCHED_A_PART: usize = 1 << 20;

fn main() -> ExitCode {
    examples::main("matmul", matmul)
}

fn matmul() -> Outcome {
    let arguments: Arguments = arguments()?;
    let n = arguments.n as usize;
    let dsm = Dsm::builder().from_env()?.join()?;

    // Collective by name: every rank gets the same memory, at the same address.
    let a = dsm.alloc::<f64>(&format!("matmul.{n}.A"), n * n)?;
    let b = dsm.alloc::<f64>(&format!("matmul.{n}.B"), n * n)?;
    // The rows of C lie where they are written.
    let c = dsm.alloc_with::<f64>(&format!("matmul.{n}.C"), n * n, Placement::Block)?;

    let mut alone = None;
    let mut fill = Duration::ZERO;
    if dsm.is_root() {
        let (private_a, private_b) = (random(n, arguments.seed), random(n, !arguments.seed));
        if arguments.verify || !arguments.no_baseline {
            alone = Some(multiply_alone(&dsm, &private_a, &private_b, n));
        }
        let (filled, time) = timed(|| a.copy_in(0, &private_a).and_then(|()| b.copy_in(0, &private_b)));
        filled?;
        fill = time;
    }
    dsm.barrier()?;
    let before = dsm.stats();

    let rows = dsm.my_block(n);
    let mine = rows.start * n..rows.end * n;
    // SAFETY: nobody writes A after the barrier above.
    let whole_a = unsafe { a.as_slice() };
    // SAFETY: nor B.
    let whole_b = unsafe { b.as_slice() };
    // SAFETY: these rows of C are this rank's alone until the barrier below.
    let my_c = unsafe { &mut c.as_mut_slice()[mine.clone()] };

    // Touching is fetching. The product would do it too; done apart, it can be timed apart.
    let (fetched, fetch) = timed(|| {
        if !rows.is_empty() {
            // Rank 0 has them already; the last rank fetches as all others do.
            let bytes = size_of_val(whole_b) + size_of_val(&whole_a[mine.clone()]);
            let last = dsm.ranks() - 1;
            let mut progress = Progress::of_rank(&dsm, last, "fetch A and B", Unit::Bytes, bytes as u64);
            touch(&whole_a[mine.clone()], &mut progress);
            touch(whole_b, &mut progress);
        }
        dsm.barrier()
    });
    fetched?;
    let mut progress = Progress::of_rank(&dsm, 0, "multiply", Unit::Rows, rows.len() as u64);
    let ((), multiply) = timed(|| product(&whole_a[mine], whole_b, my_c, n, &mut progress));
    drop(progress);
    let (waited, wait) = timed(|| dsm.barrier());
    waited?;

    let mut result = Vec::new();
    let mut collect = Duration::ZERO;
    if dsm.is_root() {
        result = vec![0.0; n * n];
        let (copied, time) = timed(|| c.copy_out(0, &mut result));
        copied?;
        collect = time;
    }
    let traffic = Traffic::between(&before, &dsm.stats()).sum(&dsm)?;

    if dsm.is_root() {
        let mut table = Table::default();
        table.time("fill A and B (rank 0)", fill);
        table.time("fetch A and B by page faults", fetch);
        table.time("multiply", multiply);
        table.time("wait for the slowest rank", wait);
        table.time("collect C by page faults", collect);
        let total = fetch + multiply + wait + collect;
        table.time("product in all", total);
        table.row("rate", format!("{:.2} GFLOP/s", 2.0 * (n as f64).powi(3) / total.as_secs_f64() / 1e9));
        if let Some(alone) = alone.as_ref().filter(|_| !arguments.no_baseline) {
            table.time(format!("one process alone, best of {}", alone.samples), alone.time);
            let ratio = |time: Duration| format!("{:.2} x", alone.time.as_secs_f64() / time.as_secs_f64());
            table.row("speed-up of the multiplication", ratio(multiply + wait));
            table.row("speed-up in all", ratio(total));
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            if cores < dsm.ranks() as usize && dsm.ranks_on_this_host().len() == dsm.ranks() as usize {
                table.row("at most, on these cores", format!("{cores}.00 x"));
            }
        }
        traffic.rows(&mut table);
        if let Some(alone) = alone.filter(|_| arguments.verify) {
            verify(&result, &alone.c, n)?;
            table.row("verified", "yes");
        }
        table.print(&format!("C = A x B, {n} x {n} f64, {} ranks", dsm.ranks()))?;
        // With daemons, regions stay until somebody removes them.
        for name in ["A", "B", "C"] {
            dsm.remove(&format!("matmul.{n}.{name}"))?;
        }
    }
    Ok(dsm.leave()?)
}

/// Random numbers in [-1, 1), the same for the same seed.
fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut generator = fastrand::Rng::with_seed(seed);
    (0..n * n).map(|_| generator.f64() * 2.0 - 1.0).collect()
}

fn multiply_alone(dsm: &Dsm, a: &[f64], b: &[f64], n: usize) -> Alone {
    let mut c = vec![0.0; n * n];
    let ((), time, samples) = best_of(|| {
        let mut progress = Progress::of_rank(dsm, 0, "multiply in one process", Unit::Rows, n as u64);
        product(a, b, &mut c, n, &mut progress);
    });
    Alone { c, time, samples }
}

/// `c = a x b`, where a and c have some rows of n numbers, and b is n x n, all in row order.
fn product(a: &[f64], b: &[f64], c: &mut [f64], n: usize, progress: &mut Progress) {
    assert!(a.len() == c.len() && b.len() == n * n);
    for (a, c) in a.chunks(ROWS_A_PART * n).zip(c.chunks_mut(ROWS_A_PART * n)) {
        multiply_rows(a, b, c, a.len() / n, n);
        progress.advance((a.len() / n) as u64);
    }
}

fn multiply_rows(a: &[f64], b: &[f64], c: &mut [f64], rows: usize, n: usize) {
    assert!(a.len() == rows * n && b.len() == n * n && c.len() == rows * n);
    let stride = n as isize;
    // SAFETY: the lengths are checked above, and `c` is borrowed for writing by this call alone.
    unsafe {
        matrixmultiply::dgemm(
            rows,
            n,
            n,
            1.0,
            a.as_ptr(),
            stride,
            1,
            b.as_ptr(),
            stride,
            1,
            0.0,
            c.as_mut_ptr(),
            stride,
            1,
        );
    }
}

/// Reads one number of each page, and uses it so that the reads stay.
fn touch(values: &[f64], progress: &mut Progress) {
    let page = 4096 / size_of::<f64>();
    for part in values.chunks(FETCHED_A_PART) {
        let ends = part.iter().step_by(page).chain(part.last());
        std::hint::black_box(ends.sum::<f64>());
        progress.advance(size_of_val(part) as u64);
    }
}

fn verify(c: &[f64], expected: &[f64], n: usize) -> Outcome {
    // Sums of n products of numbers below 1, in an order that the kernel may choose.
    let tolerance = n as f64 * 1e-14;
    let near = |got: f64, want: f64| (got - want).abs() <= tolerance;
    let worst = c.iter().zip(expected).position(|(got, want)| !near(*got, *want));
    check(worst.is_none(), || {
        let at = worst.unwrap_or(0);
        format!("C[{}][{}] is {}, not {}", at / n, at % n, c[at], expected[at])
    })
}
