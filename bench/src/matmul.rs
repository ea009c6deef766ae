//! `matmul`: the product of two square matrices of doubles, by two processes over shared memory, beside
//! one process, two threads of one process, and two processes of an Open MPI program (`mpi/matmul.c`).
//!
//! All use the same kernel (`gemm/`). All start with A and B at one process and end with C there: the
//! way of A and B to the second process and of its half of C back is part of the time. Threads need
//! neither, which is what makes them a floor. Figures are GFLOP/s, so that large is good.

use std::time::Instant;

use bench_gemm::bench_gemm;
use pagemesh::{Dsm, SharedSlice};
use serde::{Deserialize, Serialize};

use crate::child::{self, Child};
use crate::cluster::{Cluster, Plan};
use crate::mpi::{Program, Said, Transport};
use crate::rank::Command;
use crate::report::{Report, Series};
use crate::role::{Part, Role};
use crate::{Options, Result};

/// What the threads are told: multiply `n` x `n` with so many threads; the seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Threads {
    n: usize,
    threads: usize,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    report.title("matmul: two processes over shared memory; floors: MPI over TCP, two threads, one process");
    let n = if options.quick { 1024 } else { 2048 };
    let mut ours = Plan::ranks(2).start()?;
    let mut threads: Child<Threads, f64> = Child::start(&Role::new(Part::Threads), &[])?;
    let mpi = match Program::compile("matmul") {
        Ok(program) => Some(program),
        Err(why) => {
            report.note(&format!("*** NO MPI: {why}; matmul.{n}.vs_mpi is left out ***"));
            None
        }
    };
    let series = |floor: &str| Series::new(format!("matmul.{n}.{floor}"), "GFLOP/s");
    let (mut vs_mpi, mut vs_threads) = (series("vs_mpi"), series("vs_threads"));
    let mut vs_one = series("vs_one_process");
    let speed = |seconds: f64| 2.0 * (n as f64).powi(3) / 1e9 / seconds;
    // Frames, caches and the MPI program's pages in the file cache.
    multiply(&mut ours, n)?;
    for _ in 0..options.rounds() {
        let two = speed(threads.ask(&Threads { n, threads: 2 })?);
        let figure = speed(multiply(&mut ours, n)?);
        vs_one.push(figure, speed(threads.ask(&Threads { n, threads: 1 })?));
        vs_threads.push(figure, two);
        if let Some(program) = &mpi {
            vs_mpi.push(figure, speed(best_of(program.run(2, Transport::Tcp, &[n])?)));
        }
    }
    for series in [&vs_mpi, &vs_threads, &vs_one] {
        report.add(series);
    }
    drop(ours);
    run_lossy(options, report)
}

/// The same under loss, beside itself without: seconds, so that small is good.
fn run_lossy(options: &Options, report: &mut Report) -> Result<()> {
    let n = if options.quick { 512 } else { 1024 };
    let mut clean = Plan::ranks(2).start()?;
    let mut lossy = Plan::ranks(2).set("net_loss", "1%").start()?;
    let mut series = Series::new(format!("matmul.{n}.loss1"), "s");
    multiply(&mut clean, n)?;
    multiply(&mut lossy, n)?;
    for _ in 0..options.rounds() {
        let floor = multiply(&mut clean, n)?;
        series.push(multiply(&mut lossy, n)?, floor);
    }
    report.add(&series);
    Ok(())
}

/// The best of the runs after the first one: our figures are taken on memory that exists, too.
fn best_of(said: Said) -> f64 {
    said.warm.into_iter().fold(f64::INFINITY, f64::min)
}

fn multiply(cluster: &mut Cluster, n: usize) -> Result<f64> {
    let answers = cluster.all(0..2, &Command::Multiply { region: n as u32, n })?;
    Ok(answers.into_iter().next().ok_or("no rank 0")?.times()?[0])
}

/// A rank's part of the product. The kernel works on private copies, as that of the MPI program does:
/// shared memory has small pages, and packing a matrix from them takes a third longer.
pub(crate) struct Product {
    matrices: SharedSlice<f64>,
    n: usize,
    a: Vec<f64>,
    b: Vec<f64>,
    c: Vec<f64>,
    collected: Vec<f64>,
}

impl Product {
    /// With A, B and C one behind the other.
    pub(crate) fn new(dsm: &Dsm, matrices: SharedSlice<f64>, n: usize) -> Product {
        let part = dsm.my_block(n).len() * n;
        let collected = vec![0.0; if dsm.is_root() { n * n } else { 0 }];
        Product { matrices, n, a: vec![0.0; part], b: vec![0.0; n * n], c: vec![0.0; part], collected }
    }

    /// The first element of C, at rank 0.
    pub(crate) fn first(&self) -> f64 {
        self.collected.first().copied().unwrap_or(0.0)
    }

    /// Multiplies. Seconds, at rank 0.
    pub(crate) fn multiply(&mut self, dsm: &Dsm) -> Result<f64> {
        let (matrices, n) = (&self.matrices, self.n);
        if dsm.is_root() {
            // SAFETY: A and B are in the region, and nobody reads them before the barrier.
            let inputs = unsafe { std::slice::from_raw_parts_mut(matrices.as_mut_ptr(), 2 * n * n) };
            fill(inputs);
        }
        dsm.barrier()?;
        let start = Instant::now();
        let rows = dsm.my_block(n);
        matrices.copy_out(rows.start * n, &mut self.a)?;
        matrices.copy_out(n * n, &mut self.b)?;
        // Who computes already serves others with half a core: everybody first has what it needs, as after
        // the MPI program's scatter and broadcast.
        dsm.barrier()?;
        let (a, b, c) = (self.a.as_ptr(), self.b.as_ptr(), self.c.as_mut_ptr());
        // SAFETY: the three have so many rows and columns, and are this thread's alone.
        unsafe { bench_gemm(rows.len(), n, n, a, b, c) };
        matrices.copy_in((2 * n + rows.start) * n, &self.c)?;
        dsm.barrier()?;
        if !dsm.is_root() {
            return Ok(start.elapsed().as_secs_f64());
        }
        matrices.copy_out(2 * n * n, &mut self.collected)?;
        let time = start.elapsed().as_secs_f64();
        check(&self.collected, n)?;
        Ok(time)
    }
}

/// Values of both inputs: small whole numbers, so that every order of summation gives the same.
fn fill(values: &mut [f64]) {
    for (i, value) in values.iter_mut().enumerate() {
        *value = ((i * 7 + i / 5) % 13) as f64;
    }
}

/// A few elements of C, computed the slow way.
fn check(c: &[f64], n: usize) -> Result<()> {
    let mut inputs = vec![0.0; 2 * n * n];
    fill(&mut inputs);
    let (a, b) = inputs.split_at(n * n);
    for (row, column) in [(0, 0), (n / 2, 1), (n - 1, n - 1), (n / 3, n / 7)] {
        let expected: f64 = (0..n).map(|k| a[row * n + k] * b[k * n + column]).sum();
        if c[row * n + column] != expected {
            return Err(format!("C[{row}][{column}] is {} and not {expected}", c[row * n + column]).into());
        }
    }
    Ok(())
}

/// In a child: multiplies in private memory.
pub(crate) fn serve_threads() -> Result<()> {
    let mut inputs = Vec::new();
    let mut c: Vec<f64> = Vec::new();
    child::serve(|Threads { n, threads }: Threads| {
        if inputs.len() != 2 * n * n {
            inputs = vec![0.0; 2 * n * n];
            fill(&mut inputs);
            c = vec![1.0; n * n];
        }
        let (a, b) = inputs.split_at(n * n);
        let rows = n.div_ceil(threads);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for (a, c) in a.chunks(rows * n).zip(c.chunks_mut(rows * n)) {
                // SAFETY: the chunks are whole rows, as many in A as in C, and B is n x n.
                scope.spawn(move || unsafe {
                    bench_gemm(a.len() / n, n, n, a.as_ptr(), b.as_ptr(), c.as_mut_ptr())
                });
            }
        });
        let time = start.elapsed().as_secs_f64();
        check(&c, n)?;
        Ok(time)
    })
}
