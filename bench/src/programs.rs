//! In a rank: the programs that `peers` compares with those in C with MPI, as a user would write them, with
//! the placements of the examples. The arithmetic is that of `mpi/*.c`, in the same order.
//!
//! A run is timed from a barrier of all ranks to the next one. The first run makes the memory, and the further runs
//! use it again.

use std::ops::Range;
use std::time::Instant;

use pagemesh::{Dsm, DsmMutex, Placement, SharedSlice};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::matmul::Product;

/// Values of keys to be sorted: below 2 to this power.
const KEY_BITS: u32 = 20;
/// Numbers in a page.
const PAGE_NUMBERS: usize = 4096 / size_of::<u64>();

/// The program that a rank runs, and the size of its input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// The product of two matrices of `n` rows.
    Matmul { n: usize },
    /// Steps on a plate of `n` x `n` points.
    Jacobi { n: usize, steps: usize },
    /// Keys of all ranks.
    Sort { keys: usize },
    /// Tasks behind a lock.
    Queue { tasks: usize },
}

/// Seconds, and the result as all programs print it; the same at every rank.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) result: String,
}

/// A program, with its memory.
pub(crate) enum Program {
    Matmul(Product),
    Jacobi { plates: [SharedSlice<f64>; 2], n: usize, steps: usize },
    Sort(Sort),
    Queue { next: DsmMutex<u64>, tasks: u64 },
}

/// One rank's part of the sort.
pub(crate) struct Sort {
    /// The keys of each rank, in the order of the ranks that sort them.
    parted: SharedSlice<u32>,
    /// How many keys each rank has for each other; a page a rank.
    counts: SharedSlice<u64>,
    keys: Vec<u32>,
    own: Vec<u32>,
    came: Vec<u32>,
    sorted: Vec<u32>,
    frequencies: Vec<u32>,
}

impl Program {
    pub(crate) fn new(dsm: &Dsm, kind: Kind) -> Result<Program> {
        Ok(match kind {
            Kind::Matmul { n } => {
                Program::Matmul(Product::new(dsm, dsm.alloc("peers.matrices", 3 * n * n)?, n))
            }
            Kind::Jacobi { n, steps } => {
                let plates = [
                    dsm.alloc_with::<f64>("peers.plate.0", n * n, Placement::Block)?,
                    dsm.alloc_with::<f64>("peers.plate.1", n * n, Placement::Block)?,
                ];
                Program::Jacobi { plates, n, steps }
            }
            Kind::Sort { keys } => Program::Sort(Sort::new(dsm, keys)?),
            Kind::Queue { tasks } => Program::Queue { next: dsm.mutex("peers.next")?, tasks: tasks as u64 },
        })
    }

    /// Runs it once.
    pub(crate) fn run(&mut self, dsm: &Dsm) -> Result<Run> {
        match self {
            Program::Matmul(product) => {
                let seconds = product.multiply(dsm)?;
                Ok(Run { seconds, result: format!("{:.6}", product.first()) })
            }
            Program::Jacobi { plates, n, steps } => jacobi(dsm, plates, *n, *steps),
            Program::Sort(sort) => sort.run(dsm),
            Program::Queue { next, tasks } => queue(dsm, next, *tasks),
        }
    }
}

fn jacobi(dsm: &Dsm, plates: &[SharedSlice<f64>; 2], n: usize, steps: usize) -> Result<Run> {
    let rows = dsm.my_block(n);
    let mine = rows.start * n..rows.end * n;
    let mut initial = vec![0.0; mine.len()];
    if rows.start == 0 {
        initial[..n].fill(1.0);
    }
    for plate in plates {
        plate.copy_in(mine.start, &initial)?;
    }
    dsm.barrier()?;
    let start = Instant::now();
    for i in 0..steps {
        let (old, new) = (&plates[i % 2], &plates[(i + 1) % 2]);
        // SAFETY: all ranks read `old` and write `new` until the barrier, each its own rows.
        let old = unsafe { old.as_slice() };
        // SAFETY: as above.
        let new = unsafe { &mut new.as_mut_slice()[mine.clone()] };
        step(old, new, n, rows.clone());
        dsm.barrier()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut last = vec![0.0; mine.len()];
    plates[steps % 2].copy_out(mine.start, &mut last)?;
    let heat = dsm.all_reduce(last.iter().sum::<f64>(), |a, b| a + b)?;
    Ok(Run { seconds, result: format!("{heat:.6}") })
}

/// With the instructions that the C compiler may use, too.
fn step(old: &[f64], new: &mut [f64], n: usize, rows: Range<usize>) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: this machine has these instructions.
        return unsafe { step_by_four(old, new, n, rows) };
    }
    step_inline(old, new, n, rows);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn step_by_four(old: &[f64], new: &mut [f64], n: usize, rows: Range<usize>) {
    step_inline(old, new, n, rows);
}

#[inline(always)]
fn step_inline(old: &[f64], new: &mut [f64], n: usize, rows: Range<usize>) {
    for row in rows.start.max(1)..rows.end.min(n - 1) {
        let line = &mut new[(row - rows.start) * n..][..n];
        let (above, here, below) =
            (&old[(row - 1) * n..][..n], &old[row * n..][..n], &old[(row + 1) * n..][..n]);
        for column in 1..n - 1 {
            line[column] = (above[column] + below[column] + here[column - 1] + here[column + 1]) / 4.0;
        }
    }
}

/// The key of that number.
fn key(index: u64) -> u32 {
    let x = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) >> (64 - KEY_BITS)) as u32
}

impl Sort {
    fn new(dsm: &Dsm, keys: usize) -> Result<Sort> {
        let ranks = dsm.ranks() as usize;
        let (mine, range) = (keys / ranks, (1 << KEY_BITS) / ranks);
        let first = dsm.rank() as usize * mine;
        Ok(Sort {
            parted: dsm.alloc_with("peers.parted", keys, Placement::Block)?,
            counts: dsm.alloc("peers.counts", ranks * PAGE_NUMBERS)?,
            keys: (first..first + mine).map(|index| key(index as u64)).collect(),
            own: vec![0; mine],
            came: Vec::with_capacity(mine + mine / 8),
            sorted: Vec::with_capacity(mine + mine / 8),
            frequencies: vec![0; range],
        })
    }

    fn run(&mut self, dsm: &Dsm) -> Result<Run> {
        let (rank, ranks) = (dsm.rank() as usize, dsm.ranks() as usize);
        let (mine, range) = (self.keys.len(), self.frequencies.len());
        dsm.barrier()?;
        let start = Instant::now();
        let mut counts = vec![0u64; ranks];
        self.keys.iter().for_each(|&key| counts[key as usize / range] += 1);
        let mut next = starts(&counts);
        for &key in &self.keys {
            let at = &mut next[key as usize / range];
            self.own[*at] = key;
            *at += 1;
        }
        self.parted.copy_in(rank * mine, &self.own)?;
        self.counts.copy_in(rank * PAGE_NUMBERS, &counts)?;
        dsm.barrier()?;
        self.came.clear();
        // Each rank begins with another one's keys, so that not all ask the same.
        for from in (0..ranks).map(|step| (rank + step) % ranks) {
            self.counts.copy_out(from * PAGE_NUMBERS, &mut counts)?;
            let (first, count) = (from * mine + starts(&counts)[rank], counts[rank] as usize);
            let before = self.came.len();
            self.came.resize(before + count, 0);
            self.parted.copy_out(first, &mut self.came[before..])?;
        }
        self.frequencies.fill(0);
        self.came.iter().for_each(|&key| self.frequencies[key as usize - rank * range] += 1);
        self.sorted.clear();
        for (value, &count) in self.frequencies.iter().enumerate() {
            self.sorted.extend(std::iter::repeat_n((rank * range + value) as u32, count as usize));
        }
        dsm.barrier()?;
        let seconds = start.elapsed().as_secs_f64();
        let mut lens = [0u64; MOST_RANKS];
        lens[rank] = self.sorted.len() as u64;
        let lens = dsm.all_reduce(lens, |a, b| std::array::from_fn(|at| a[at] + b[at]))?;
        let before: u64 = lens[..rank].iter().sum();
        let weighted = |(at, &key): (usize, &u32)| u64::from(key) * ((before + at as u64) % 1021);
        let own: u64 = self.sorted.iter().enumerate().map(weighted).sum();
        let sum = dsm.all_reduce(own, u64::wrapping_add)?;
        Ok(Run { seconds, result: sum.to_string() })
    }
}

/// Most ranks that a comparison has.
const MOST_RANKS: usize = 8;

/// Where each part begins.
fn starts(counts: &[u64]) -> Vec<usize> {
    let mut at = 0;
    let begins = counts.iter().map(|&count| {
        let begin = at;
        at += count as usize;
        begin
    });
    begins.collect()
}

fn queue(dsm: &Dsm, next: &DsmMutex<u64>, tasks: u64) -> Result<Run> {
    if dsm.is_root() {
        *next.lock()? = 0;
    }
    dsm.barrier()?;
    let start = Instant::now();
    let mut own = 0;
    loop {
        let task = {
            let mut next = next.lock()?;
            *next += 1;
            *next - 1
        };
        if task >= tasks {
            break;
        }
        own += work(task);
    }
    dsm.barrier()?;
    let seconds = start.elapsed().as_secs_f64();
    let sum = dsm.all_reduce(own, |a, b| a + b)?;
    Ok(Run { seconds, result: sum.to_string() })
}

/// How many steps the numbers of a task take to 1, halved if even, and tripled and one added if odd.
fn work(task: u64) -> u64 {
    let mut steps = 0;
    for number in 1..1 + task * 7919 % 2000 {
        let mut n = number;
        steps += 1;
        while n > 1 {
            n = if n % 2 == 1 { 3 * n + 1 } else { n / 2 };
            steps += 1;
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_begin_where_those_before_them_end() {
        assert_eq!(starts(&[3, 0, 2]), [0, 3, 3]);
    }

    #[test]
    fn keys_are_below_their_bound_and_about_equally_frequent() {
        let keys: Vec<u32> = (0..1 << 16).map(key).collect();
        assert!(keys.iter().all(|&key| key < 1 << KEY_BITS));
        let low = keys.iter().filter(|&&key| key < 1 << (KEY_BITS - 1)).count();
        assert!((32_000..33_536).contains(&low), "{low} of 65536 are in the lower half");
    }

    #[test]
    fn a_point_becomes_the_mean_of_its_neighbours() {
        let old = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        let mut new = old;
        step(&old, &mut new, 3, 0..3);
        assert_eq!(new[4], 0.25);
    }
}
