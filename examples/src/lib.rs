//! What the example programs share and what is not worth reading them for: exit codes, a table, progress, and
//! sums of the ranks' statistics. Everything about shared memory stands in the programs themselves.
#![deny(unsafe_code)]

mod progress;
mod traffic;

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use pagemesh::prelude::*;
use pagemesh::settings::one_line;

pub use progress::{Progress, Unit};
pub use traffic::Traffic;

/// How an example can fail.
#[derive(Debug)]
pub enum Failure {
    /// The library says why.
    Dsm(Error),
    /// The result is not what it must be.
    Wrong(String),
    /// Standard output takes no more: a full disk, a reader that has gone.
    Unwritten(std::io::Error),
}

/// What an example gives.
pub type Outcome = std::result::Result<(), Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Dsm(error)
    }
}

/// Exit code when standard output takes no more: EX_IOERR of sysexits.h, as of the `pagemesh` command.
const OUTPUT_FAILED: u8 = 74;

/// Runs an example: one line and an exit code if it fails.
pub fn main(name: &str, example: impl FnOnce() -> Outcome) -> ExitCode {
    let (line, code) = match example() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Wrong(what)) => (format!("wrong result: {what}"), 1),
        Err(Failure::Unwritten(error)) => (format!("standard output: {error}"), OUTPUT_FAILED),
        Err(Failure::Dsm(
            error @ (Error::NodeDied { .. } | Error::NodeLeft { .. } | Error::Evicted { .. }),
        )) => (error.to_string(), 70),
        Err(Failure::Dsm(error)) => (error.to_string(), 2),
    };
    eprintln!("{name}: {line}");
    ExitCode::from(code)
}

/// Reads the command line: what is wrong with it is one line, since every rank says it. Help and version
/// are printed and end the program.
pub fn arguments<A: Parser>() -> std::result::Result<A, Failure> {
    A::try_parse().map_err(|error| {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            error.exit();
        }
        Failure::Dsm(Error::Invalid(one_line(&error.to_string())))
    })
}

/// Writes text to standard output. `println!` panics where that fails.
pub fn say(text: impl Display) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()).map_err(Failure::Unwritten)
}

/// A result that must hold.
pub fn check(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(Failure::Wrong(what())) }
}

/// Runs something and tells how long it took.
pub fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = what();
    (value, start.elapsed())
}

/// Runs something again and again, at most `SAMPLES_MAX` times and not much longer than `SAMPLING_MAX`, and gives
/// its last value, the time of the quickest run, and how many there were: one run of a short piece of work tells
/// little, since something else may have had the core.
pub fn best_of<T>(mut what: impl FnMut() -> T) -> (T, Duration, usize) {
    let begun = Instant::now();
    let (mut value, mut best) = timed(&mut what);
    let mut samples = 1;
    while samples < SAMPLES_MAX && begun.elapsed() < SAMPLING_MAX {
        let (again, time) = timed(&mut what);
        (value, best, samples) = (again, best.min(time), samples + 1);
    }
    (value, best, samples)
}

const SAMPLES_MAX: usize = 5;
const SAMPLING_MAX: Duration = Duration::from_secs(2);

/// Two columns: what, and how much.
#[derive(Default)]
pub struct Table {
    rows: Vec<(String, String)>,
}

impl Table {
    /// Adds a line.
    pub fn row(&mut self, what: impl Display, value: impl Display) {
        self.rows.push((what.to_string(), value.to_string()));
    }

    /// Adds a time.
    pub fn time(&mut self, what: impl Display, time: Duration) {
        self.row(what, format!("{:.1} ms", time.as_secs_f64() * 1e3));
    }

    /// Prints it under a title.
    pub fn print(&self, title: &str) -> Outcome {
        let left = self.rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
        let right = self.rows.iter().map(|(_, value)| value.chars().count()).max().unwrap_or(0);
        let rule = "-".repeat((left + right + 4).max(title.chars().count()));
        let row = |(what, value): &(String, String)| format!("{what:<left$}    {value:>right$}\n");
        let rows: String = self.rows.iter().map(row).collect();
        say(format_args!("{title}\n{rule}\n{rows}{rule}"))
    }
}
