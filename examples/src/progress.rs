//! How far long work is, with its rate and the time that is left: after a few seconds a bar on a terminal, and a
//! line now and then where output goes to a pipe or a file. Short work shows nothing.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pagemesh::Dsm;

/// Work that ends sooner shows nothing.
const LONG: Duration = Duration::from_secs(3);
/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// In what the work is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Bytes; shown as MiB.
    Bytes,
    /// Rows of a matrix.
    Rows,
    /// Steps of an iteration.
    Steps,
}

/// Work under way. What is shown goes away when it is dropped.
pub struct Progress {
    /// None: another rank shows it.
    shown: Option<Shown>,
}

struct Shown {
    what: &'static str,
    unit: Unit,
    total: u64,
    done: u64,
    begun: Instant,
    /// When something is shown next.
    due: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Work of `total` units that one rank shows, for all: `rank`.
    pub fn of_rank(dsm: &Dsm, rank: u32, what: &'static str, unit: Unit, total: u64) -> Progress {
        let begun = Instant::now();
        let shown = Shown { what, unit, total, done: 0, begun, due: begun + LONG, bar: None };
        Progress { shown: (dsm.rank() == rank).then_some(shown) }
    }

    /// That many more units are done.
    pub fn advance(&mut self, units: u64) {
        if let Some(shown) = &mut self.shown {
            shown.advance(units, Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = self.shown.as_ref().and_then(|shown| shown.bar.as_ref()) {
            bar.finish_and_clear();
        }
    }
}

impl Shown {
    fn advance(&mut self, units: u64, now: Instant) {
        self.done += units;
        if let Some(bar) = &self.bar {
            bar.set_message(self.rate_and_rest(now));
            bar.set_position(self.done);
        } else if now >= self.due && std::io::stderr().is_terminal() {
            self.bar = Some(bar(self.what, self.total));
        } else if now >= self.due {
            eprintln!("{}", self.line(now));
            self.due = now + LINE_EVERY;
        }
    }

    fn line(&self, now: Instant) -> String {
        let percent = 100.0 * self.done as f64 / self.total.max(1) as f64;
        format!("{}: {percent:.0} %, {}", self.what, self.rate_and_rest(now))
    }

    fn rate_and_rest(&self, now: Instant) -> String {
        let spent = (now - self.begun).as_secs_f64();
        let rate = self.done as f64 / spent;
        let rest = self.total.saturating_sub(self.done) as f64 / rate;
        let rate = match self.unit {
            Unit::Bytes => format!("{:.0} MiB/s", rate / f64::from(1 << 20)),
            Unit::Rows => format!("{rate:.0} rows/s"),
            Unit::Steps => format!("{rate:.0} steps/s"),
        };
        if rest.is_finite() { format!("{rate}, {rest:.0} s left") } else { rate }
    }
}

fn bar(what: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total).with_prefix(what);
    if let Ok(style) = ProgressStyle::with_template("{prefix}: {bar:24} {percent} %, {msg}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_share_rate_and_the_time_that_is_left() {
        let begun = Instant::now();
        let shown =
            |unit, done| Shown { what: "fetch", unit, total: 400, done, begun, due: begun, bar: None };
        let line = |unit, done| shown(unit, done).line(begun + Duration::from_secs(10));
        assert_eq!(line(Unit::Rows, 100), "fetch: 25 %, 10 rows/s, 30 s left");
        assert_eq!(line(Unit::Steps, 400), "fetch: 100 %, 40 steps/s, 0 s left");
        assert_eq!(line(Unit::Rows, 0), "fetch: 0 %, 0 rows/s");
        let bytes = Shown { total: 400 << 20, ..shown(Unit::Bytes, 200 << 20) };
        assert_eq!(bytes.line(begun + Duration::from_secs(2)), "fetch: 50 %, 100 MiB/s, 2 s left");
    }
}
