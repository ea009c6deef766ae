//! What the demo shows while it runs: its lines on standard output as soon as they are known, and on standard
//! error that it still works: a bar on a terminal, a line now and then elsewhere.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pagemesh::Dsm;

use super::Stop;
use super::notes::Notes;
use crate::out;

/// Where no bar is seen, something is said after each such time without a result.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often a bar moves.
const TICK: Duration = Duration::from_millis(100);

/// What this rank shows: at rank 0 everything, at the others nothing.
pub(super) struct Screen<'a> {
    notes: &'a Notes<'a>,
    is_root: bool,
    json: bool,
}

/// A step of the demo that is under way.
pub(super) struct Step<'a> {
    what: &'a str,
    bar: Option<ProgressBar>,
    /// Ends the thread that speaks when it is dropped.
    pulse: Option<(Sender<()>, JoinHandle<()>)>,
}

impl<'a> Screen<'a> {
    pub(super) fn new(dsm: &Dsm, notes: &'a Notes<'a>, json: bool) -> Screen<'a> {
        Screen { notes, is_root: dsm.is_root(), json }
    }

    /// Shows a line of the result, unless the result is asked for as JSON. An error at every rank if it cannot be
    /// written. Collective.
    pub(super) fn line(&self, line: &impl Display) -> Result<(), Stop> {
        let shown = if self.is_root && !self.json { out::line(line) } else { Ok(()) };
        let trouble = shown.err().filter(|trouble| !trouble.is_silent());
        // A reader that has gone, as after `demo | head -1`, has seen what it wanted.
        if self.notes.decide(u64::from(trouble.is_some()))? == 0 {
            Ok(())
        } else {
            Err(Stop::Unwritten(trouble))
        }
    }

    /// Does a step and shows meanwhile that it is under way.
    pub(super) fn during<T>(&self, what: &str, work: impl FnOnce(&mut Step<'_>) -> T) -> T {
        let mut step = Step { what, bar: None, pulse: None };
        if self.is_root && std::io::stderr().is_terminal() {
            step.bar = Some(spinner(what));
        } else if self.is_root {
            step.pulse = Some(pulse(what.to_owned(), SILENCE_MAX));
        }
        let result = work(&mut step);
        step.end();
        result
    }
}

impl Step<'_> {
    /// Tells of how many parts the step has.
    pub(super) fn parts(&mut self, parts: u64, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(parts);
            bar.set_message(format!("{}, {detail}", self.what));
            if let Ok(style) = ProgressStyle::with_template("  {msg}  {bar:24} {pos}/{len}  {eta} left") {
                bar.set_style(style);
            }
        }
    }

    /// One part is done.
    pub(super) fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    fn end(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
        if let Some((sender, thread)) = self.pulse {
            drop(sender);
            // It cannot panic, and there is nothing to do if it has.
            let _ = thread.join();
        }
    }
}

fn spinner(what: &str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what.to_owned());
    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

/// Says on standard error again and again that a step is under way, until the sender is dropped.
fn pulse(what: String, every: Duration) -> (Sender<()>, JoinHandle<()>) {
    let (sender, ended) = mpsc::channel();
    let begun = Instant::now();
    let thread = std::thread::spawn(move || {
        while ended.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            out::note(format_args!("  {what}: {:.0} s so far", begun.elapsed().as_secs_f64()));
        }
    });
    (sender, thread)
}
