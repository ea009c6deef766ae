//! What a second process gives: the product of two ranks beside one process in private memory, at one size.
//!
//! One process: A and B are there, C stays. Two: rank 1 fetches what it needs, and it is over when rank 0 has
//! read all of C. Both have the quickest of their samples, taken in turns.

use std::fmt;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use pagemesh::{Dsm, Placement, SharedSlice};
use serde::Serialize;

use super::notes::{Note, Notes};
use super::product::{self, add_product, multiply_alone, panels, random, touch};
use super::screen::Step;

/// Rows and columns that are tried, the largest first: the larger, the less the pages weigh.
const SIZES: [usize; 6] = [4096, 3072, 2560, 2048, 1536, 1024];
/// Samples of each side.
const SAMPLES: usize = 3;
/// Longest that all samples may take.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Part of it that is planned for: the rest is for what the estimate does not know.
const PLANNED: f64 = 0.75;
/// What one sample of each side takes, of one process's time: that, half of it, and the pages.
const BOTH_SIDES: f64 = 1.8;
/// Rows of B that are asked for while the panel before is multiplied.
const PANEL: usize = 256;
/// Least that counts as quicker.
const PAYS: f64 = 1.05;
/// Share of its computing time that a process has a core on an idle machine, at least.
const IDLE: f64 = 0.9;

/// The comparison's result.
#[derive(Serialize, PartialEq, Debug)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum SpeedUp {
    /// Two processes were quicker than one.
    Pays { n: usize, one_s: f64, two_s: f64, samples: usize, ratio: f64, cores: usize },
    /// They were not, or could not be.
    DoesNotPay { why: String },
}

/// The samples of one size.
#[derive(Default)]
struct Samples {
    n: usize,
    one_s: Vec<f64>,
    two_s: Vec<f64>,
    /// The least share of computing time in which one of the processes had a core.
    core_share: f64,
}

/// Ranks 0 and 1 measure, the others wait. Collective. `alone_s` is the time of one process for a product of
/// [`product::N`].
pub(super) fn measure(
    dsm: &Dsm,
    notes: &Notes<'_>,
    alone_s: f64,
    cores: usize,
    step: &mut Step<'_>,
) -> pagemesh::Result<SpeedUp> {
    let chosen = if dsm.is_root() && cores > 1 { choose(alone_s, memory_limit(dsm)) } else { None };
    let n = notes.decide(chosen.unwrap_or(0) as u64)? as usize;
    let mut samples = Samples { n, core_share: 1.0, ..Samples::default() };
    if n > 0 {
        let matrices = ["A", "B", "C"].map(|name| format!("demo.large {name}"));
        let [a, b] = [&matrices[0], &matrices[1]].map(|name| dsm.alloc::<f64>(name, n * n));
        let c = dsm.alloc_with::<f64>(&matrices[2], n * n, Placement::FirstTouch)?;
        Pair { dsm, notes, a: a?, b: b?, c, n }.sample(&mut samples, step)?;
    }
    Ok(samples.judge(alone_s, cores))
}

/// The largest size whose samples fit the time and the memory, by the time of a smaller one.
fn choose(alone_s: f64, bytes_max: u64) -> Option<usize> {
    let fits = |n: &usize| {
        let one = alone_s * (*n as f64 / product::N as f64).powi(3);
        let time = one * BOTH_SIDES * SAMPLES as f64;
        let shared = 3 * (n * n * size_of::<f64>()) as u64;
        time <= TIME_MAX.as_secs_f64() * PLANNED && shared <= bytes_max / 2
    };
    SIZES.into_iter().find(fits)
}

fn memory_limit(dsm: &Dsm) -> u64 {
    dsm.status().resident_limit * 4096
}

/// The shared matrices, and what rank 0 and rank 1 do with them.
struct Pair<'a> {
    dsm: &'a Dsm,
    notes: &'a Notes<'a>,
    a: SharedSlice<f64>,
    b: SharedSlice<f64>,
    c: SharedSlice<f64>,
    n: usize,
}

impl Pair<'_> {
    fn sample(&self, samples: &mut Samples, step: &mut Step<'_>) -> pagemesh::Result<()> {
        let n = self.n;
        let (mut private_a, mut private_b, mut found) = (Vec::new(), Vec::new(), Vec::new());
        if self.dsm.is_root() {
            (private_a, private_b, found) = (random(n * n, 3), random(n * n, 4), vec![0.0; n * n]);
        }
        step.parts(2 * SAMPLES as u64, &format!("n = {n}"));
        let begun = Instant::now();
        while self.notes.decide(u64::from(samples.two_s.len() < SAMPLES && begun.elapsed() < TIME_MAX))? == 1
        {
            if self.dsm.is_root() {
                let cpu = cpu_time();
                let (_, seconds) = multiply_alone(&private_a, &private_b, n, PANEL, 1);
                samples.saw_core_share((cpu_time() - cpu).as_secs_f64() / seconds);
                samples.one_s.push(seconds);
                step.advance();
                // Written anew, so that rank 1 fetches them each time.
                self.a.copy_in(0, &private_a)?;
                self.b.copy_in(0, &private_b)?;
            }
            self.dsm.barrier()?;
            let begun = Instant::now();
            let share = if self.dsm.rank() < 2 { self.multiply_half() } else { 1.0 };
            self.notes.set(Note::CoreShare, (share * 1e6) as u64);
            self.dsm.barrier()?;
            if self.dsm.is_root() {
                self.c.copy_out(0, &mut found)?;
                samples.two_s.push(begun.elapsed().as_secs_f64());
                (0..2).for_each(|rank| {
                    samples.saw_core_share(self.notes.get(Note::CoreShare, rank) as f64 / 1e6);
                });
                step.advance();
            } else {
                // Counted by all, so that all end together.
                samples.two_s.push(0.0);
            }
        }
        Ok(())
    }

    /// One of two halves of C; gives the share of the computing time in which this process had a core.
    fn multiply_half(&self) -> f64 {
        let n = self.n;
        let rows = if self.dsm.rank() == 0 { 0..n / 2 } else { n / 2..n };
        let mine = rows.start * n..rows.end * n;
        // SAFETY: nobody writes A and B between the barriers around this call.
        let my_a = &unsafe { self.a.as_slice() }[mine.clone()];
        // SAFETY: as above.
        let whole_b = unsafe { self.b.as_slice() };
        // SAFETY: these rows of C are this rank's alone between these barriers.
        let my_c = &mut unsafe { self.c.as_mut_slice() }[mine];
        touch(my_a);
        let (mut computing, mut on_core) = (0.0, 0.0);
        for panel in panels(n, PANEL) {
            let of_b = &whole_b[panel.start * n..panel.end * n];
            touch(of_b);
            self.b.prefetch(panel.end * n..n.min(panel.end + PANEL) * n);
            let (begun, cpu) = (Instant::now(), cpu_time());
            add_product(my_a, of_b, my_c, n, panel);
            computing += begun.elapsed().as_secs_f64();
            on_core += (cpu_time() - cpu).as_secs_f64();
        }
        on_core / computing
    }
}

impl Samples {
    fn saw_core_share(&mut self, share: f64) {
        self.core_share = self.core_share.min(share);
    }

    fn judge(&self, alone_s: f64, cores: usize) -> SpeedUp {
        let best = |samples: &[f64]| samples.iter().copied().fold(f64::INFINITY, f64::min);
        let (one_s, two_s) = (best(&self.one_s), best(&self.two_s));
        let (n, samples, ratio) = (self.n, self.two_s.len(), one_s / two_s);
        let why = if cores < 2 {
            "there is 1 core, which both would share".to_owned()
        } else if n == 0 {
            format!("one product of {0} x {0} takes {alone_s:.1} s", product::N)
        } else if samples < SAMPLES {
            format!("{samples} of {SAMPLES} samples with n = {n} took {} s", TIME_MAX.as_secs())
        } else if ratio >= PAYS {
            return SpeedUp::Pays { n, one_s, two_s, samples, ratio, cores };
        } else if self.core_share < IDLE {
            let share = self.core_share * 100.0;
            format!("{ratio:.1} x one, n = {n}; the cores are busy (a process had {share:.0} % of one)")
        } else {
            format!("{ratio:.1} x one, n = {n}; the pages cost more than a core gives")
        };
        SpeedUp::DoesNotPay { why }
    }
}

/// Time that this thread has had a core.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl fmt::Display for SpeedUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpeedUp::Pays { n, one_s, two_s, samples, ratio, .. } => write!(
                f,
                "     2 processes: {ratio:.1} x one, n = {n}, best of {samples} ({} beside {}); \
                 2 cannot give more than 2",
                seconds(*one_s),
                seconds(*two_s),
            ),
            SpeedUp::DoesNotPay { why } => {
                write!(f, "     2 processes do not pay here and now: {why}")
            }
        }
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(one_s: f64, two_s: f64, core_share: f64, cores: usize) -> String {
        let (one_s, two_s) = (vec![one_s * 2.0, one_s, one_s * 1.5], vec![two_s, two_s * 3.0, two_s]);
        Samples { n: 2048, one_s, two_s, core_share }.judge(0.1, cores).to_string()
    }

    #[test]
    fn the_largest_size_is_taken_whose_samples_fit() {
        let memory = 64 << 30;
        assert_eq!(choose(0.1, memory), Some(2048));
        assert_eq!(choose(0.01, memory), Some(4096));
        assert_eq!(choose(0.01, 512 << 20), Some(3072));
        assert_eq!(choose(1.0, memory), Some(1024));
        assert_eq!(choose(5.0, memory), None);
    }

    #[test]
    fn the_best_samples_of_both_sides_are_compared() {
        let line = judged(1.0, 0.625, 1.0, 2);
        assert_eq!(
            line,
            "     2 processes: 1.6 x one, n = 2048, best of 3 (1.00 s beside 625 ms); 2 cannot give more than 2"
        );
    }

    #[test]
    fn where_a_second_process_does_not_pay_one_line_says_why() {
        let slow = Samples { n: 0, ..Samples::default() }.judge(5.0, 2).to_string();
        let unfinished = Samples { n: 1024, one_s: vec![6.0], two_s: vec![5.0], core_share: 1.0 };
        for (line, why) in [
            (judged(1.0, 1.1, 0.6, 2), "0.9 x one, n = 2048; the cores are busy (a process had 60 % of one)"),
            (judged(1.0, 1.1, 0.99, 2), "0.9 x one, n = 2048; the pages cost more"),
            (judged(1.0, 0.5, 1.0, 1), "there is 1 core"),
            (slow, "one product of 1024 x 1024 takes 5.0 s"),
            (unfinished.judge(0.5, 2).to_string(), "1 of 3 samples with n = 1024 took 10 s"),
        ] {
            assert!(line.contains("do not pay here and now: ") && line.contains(why), "{line}");
            assert_eq!(line.lines().count(), 1);
        }
    }
}
