//! A matrix product: rank 0 fills A and B, every rank multiplies a block of rows, rank 0 reads C. Nothing is
//! sent; the matrices come to the ranks because their pages are touched.

use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant};

use pagemesh::{Dsm, Placement};
use serde::Serialize;

use super::figures::{row, verdict};
use super::notes::{Note, Notes};

/// Rows and columns.
pub(super) const N: usize = 1024;
/// Rows of B that are fetched and then multiplied with, one panel after the other.
const PANEL: usize = 64;
/// Characters of a rank's time line.
pub(super) const COLUMNS: usize = 40;
const NUMBERS_A_PAGE: usize = 4096 / size_of::<f64>();

/// The result of the product.
#[derive(Serialize, Default)]
pub(super) struct Product {
    n: usize,
    seconds: f64,
    /// One process in its private memory, the best of [`ALONE_SAMPLES`].
    pub(super) alone_s: f64,
    /// Numbers of C that differ from those of one process in any bit.
    differ: usize,
    pub(super) pages_moved: u64,
    pub(super) pages_ahead: u64,
    pub(super) faults: u64,
    /// A rank's time from the start to the last one's end: `#` computing, `.` waiting for pages.
    time_lines: Vec<String>,
}

/// Samples of the product of one process.
const ALONE_SAMPLES: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Activity {
    WaitingForPages = b'.' as isize,
    Computing = b'#' as isize,
}

/// An activity of a rank, with its begin and end since the rank's start.
#[derive(Clone, Copy)]
struct Span {
    activity: Activity,
    from: Duration,
    until: Duration,
}

/// All ranks together; rank 0 compares every bit with a product of its own. Collective.
pub(super) fn multiply_together(dsm: &Dsm, notes: &Notes<'_>) -> pagemesh::Result<Product> {
    let a = dsm.alloc::<f64>("demo.A", N * N)?;
    let b = dsm.alloc::<f64>("demo.B", N * N)?;
    // The rows of C lie where they are written.
    let c = dsm.alloc_with::<f64>("demo.C", N * N, Placement::Block)?;
    let lines = dsm.alloc::<u8>("demo.time lines", COLUMNS * dsm.ranks() as usize)?;
    let (mut expected, mut alone_s) = (Vec::new(), 0.0);
    if dsm.is_root() {
        let (private_a, private_b) = (random(N * N, 1), random(N * N, 2));
        (expected, alone_s) = multiply_alone(&private_a, &private_b, N, PANEL, ALONE_SAMPLES);
        a.copy_in(0, &private_a)?;
        b.copy_in(0, &private_b)?;
    }
    dsm.barrier()?;
    let before = Traffic::of(dsm);

    let rows = dsm.my_block(N);
    let mine = rows.start * N..rows.end * N;
    // SAFETY: nobody writes A from the barrier above on.
    let my_a = &unsafe { a.as_slice() }[mine.clone()];
    // SAFETY: nor B.
    let whole_b = unsafe { b.as_slice() };
    // SAFETY: these rows of C are this rank's alone until the barrier below.
    let my_c = &mut unsafe { c.as_mut_slice() }[mine];
    let begun = Instant::now();
    let mut spans = Vec::new();
    let mut spend = |activity, work: &mut dyn FnMut()| {
        let from = begun.elapsed();
        work();
        spans.push(Span { activity, from, until: begun.elapsed() });
    };
    spend(Activity::WaitingForPages, &mut || touch(my_a));
    for panel in panels(N, PANEL) {
        let of_b = &whole_b[panel.start * N..panel.end * N];
        spend(Activity::WaitingForPages, &mut || touch(of_b));
        spend(Activity::Computing, &mut || add_product(my_a, of_b, my_c, N, panel.clone()));
    }
    dsm.barrier()?;
    let whole = begun.elapsed();
    let mine = dsm.rank() as usize * COLUMNS;
    lines.copy_in(mine, time_line(&spans, whole).as_bytes())?;

    let mut found = Vec::new();
    if dsm.is_root() {
        found = vec![0.0; N * N];
        c.copy_out(0, &mut found)?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    before.note(dsm, notes);
    dsm.barrier()?;
    let mut text = vec![0; lines.len()];
    lines.copy_out(0, &mut text)?;
    let time_lines = text.chunks(COLUMNS).map(|line| String::from_utf8_lossy(line).into_owned());
    let differ = found.iter().zip(&expected).filter(|(found, alone)| found.to_bits() != alone.to_bits());
    Ok(Product {
        n: N,
        seconds,
        alone_s,
        differ: differ.count(),
        pages_moved: notes.sum(Note::Pages),
        pages_ahead: notes.sum(Note::PagesAhead),
        faults: notes.sum(Note::Faults),
        time_lines: time_lines.collect(),
    })
}

/// What this rank has done so far: page faults, pages that came, faults that had to wait for their page, be it
/// that it was on its way already.
struct Traffic {
    faults: u64,
    pages: u64,
    waited: u64,
}

impl Traffic {
    fn of(dsm: &Dsm) -> Traffic {
        let status = dsm.status();
        let coherence = &status.coherence;
        Traffic {
            faults: status.read_faults + status.write_faults,
            pages: coherence.pages_received + coherence.zero_pages_received,
            waited: coherence.read_faults + coherence.write_faults,
        }
    }

    /// Leaves what has happened since.
    fn note(&self, dsm: &Dsm, notes: &Notes<'_>) {
        let now = Traffic::of(dsm);
        let pages = now.pages - self.pages;
        notes.set(Note::Faults, now.faults - self.faults);
        notes.set(Note::Pages, pages);
        notes.set(Note::PagesAhead, pages.saturating_sub(now.waited - self.waited));
    }
}

/// Numbers in [-1, 1), for one seed always those.
pub(super) fn random(len: usize, seed: u64) -> Vec<f64> {
    let mut generator = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| generator.f64() * 2.0 - 1.0).collect()
}

/// The product of one process in private memory, and the seconds of the quickest of `samples`.
pub(super) fn multiply_alone(
    a: &[f64],
    b: &[f64],
    n: usize,
    panel: usize,
    samples: usize,
) -> (Vec<f64>, f64) {
    let mut c = vec![0.0; n * n];
    let times = (0..samples).map(|_| {
        let begun = Instant::now();
        for panel in panels(n, panel) {
            add_product(a, &b[panel.start * n..panel.end * n], &mut c, n, panel);
        }
        begun.elapsed().as_secs_f64()
    });
    let best = times.fold(f64::INFINITY, f64::min);
    (c, best)
}

/// `0..n` in panels of `len`.
pub(super) fn panels(n: usize, len: usize) -> impl Iterator<Item = Range<usize>> {
    (0..n).step_by(len).map(move |start| start..n.min(start + len))
}

/// Multiplies some columns of `a` with the panel of B that has these rows, and adds that to `c`; the first panel
/// overwrites it. `a` and `c` hold whole rows of `n` numbers.
pub(super) fn add_product(a: &[f64], of_b: &[f64], c: &mut [f64], n: usize, panel: Range<usize>) {
    let rows = a.len() / n;
    assert!(a.len() == rows * n && c.len() == rows * n && of_b.len() == panel.len() * n && panel.end <= n);
    let (stride, beta) = (n as isize, if panel.start == 0 { 0.0 } else { 1.0 });
    let (a, b, c) = (a[panel.start..].as_ptr(), of_b.as_ptr(), c.as_mut_ptr());
    // SAFETY: the lengths are checked above, and `c` is borrowed for writing by this call alone.
    unsafe {
        matrixmultiply::dgemm(rows, panel.len(), n, 1.0, a, stride, 1, b, stride, 1, beta, c, stride, 1);
    }
}

/// Reads one number of each page, and uses it so that the reads stay.
pub(super) fn touch(values: &[f64]) {
    let ends = values.iter().step_by(NUMBERS_A_PAGE).chain(values.last());
    std::hint::black_box(ends.sum::<f64>());
}

/// The activity in the middle of each of [`COLUMNS`] parts of the time; blank: the rank waited for others.
fn time_line(spans: &[Span], whole: Duration) -> String {
    let middle = |column: usize| whole.mul_f64((column as f64 + 0.5) / COLUMNS as f64);
    let at = |time: Duration| {
        let span = spans.iter().find(|span| span.from <= time && time < span.until);
        span.map_or(' ', |span| char::from(span.activity as u8))
    };
    (0..COLUMNS).map(|column| at(middle(column))).collect()
}

impl Product {
    pub(super) fn ok(&self) -> bool {
        self.differ == 0
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("3. C = A x B, {0} x {0}", self.n);
        let time = format!("{:.0} ms", self.seconds * 1e3);
        let wrong = || format!("{} of {} numbers differ from one process's", self.differ, self.n * self.n);
        let checked = if self.ok() { "verified, bit for bit" } else { "compared, bit for bit" };
        f.write_str(&row(&title, checked, &time, &verdict(self.ok(), wrong)))?;
        for (rank, line) in self.time_lines.iter().enumerate() {
            let legend = ["computing #", "waiting for pages .", "for other ranks: blank", ""];
            let legend = legend.get(rank).copied().unwrap_or("");
            f.write_str(format!("\n     rank {rank}  {line}  {legend}").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_in_blocks_of_rows_has_the_bits_of_a_whole_one() {
        let n = 96;
        let (a, b) = (random(n * n, 1), random(n * n, 2));
        let (whole, seconds) = multiply_alone(&a, &b, n, 40, 2);
        assert!(seconds > 0.0 && seconds.is_finite());
        let plain = |at: usize| (0..n).map(|k| a[at / n * n + k] * b[k * n + at % n]).sum::<f64>();
        assert!((0..n * n).all(|at| (whole[at] - plain(at)).abs() < 1e-12));
        let mut parts = vec![0.0; n * n];
        for rows in [0..24, 24..48, 48..96] {
            let mine = rows.start * n..rows.end * n;
            for panel in panels(n, 40) {
                let of_b = &b[panel.start * n..panel.end * n];
                add_product(&a[mine.clone()], of_b, &mut parts[mine.clone()], n, panel);
            }
        }
        assert!(whole.iter().zip(&parts).all(|(whole, part)| whole.to_bits() == part.to_bits()));
    }

    #[test]
    fn a_time_line_shows_what_was_done_in_the_middle_of_each_part() {
        let ms = Duration::from_millis;
        let spans = [
            Span { activity: Activity::WaitingForPages, from: ms(0), until: ms(10) },
            Span { activity: Activity::Computing, from: ms(10), until: ms(30) },
        ];
        let line = time_line(&spans, ms(40));
        assert_eq!(line, format!("{}{}{}", ".".repeat(10), "#".repeat(20), " ".repeat(10)));
    }
}
