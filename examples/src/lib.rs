//! What the example programs share and what is not worth reading them for: exit codes, a table, and
//! sums of the ranks' statistics. Everything about shared memory stands in the programs themselves.
#![deny(unsafe_code)]

use std::fmt::Display;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use clap::error::ErrorKind;
use pagemesh::Stats;
use pagemesh::prelude::*;
use pagemesh::settings::one_line;

/// How an example can fail.
#[derive(Debug)]
pub enum Failure {
    /// The library says why.
    Dsm(Error),
    /// The result is not what it must be.
    Wrong(String),
}

/// What an example gives.
pub type Outcome = std::result::Result<(), Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Dsm(error)
    }
}

/// Runs an example: one line and an exit code if it fails.
pub fn main(name: &str, example: impl FnOnce() -> Outcome) -> ExitCode {
    let (line, code) = match example() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Wrong(what)) => (format!("wrong result: {what}"), 1),
        Err(Failure::Dsm(error @ Error::NodeDied { .. })) => (error.to_string(), 70),
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

/// What the ranks' faults and sockets did, summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Loads and stores that faulted.
    pub faults: u64,
    /// Pages that came over the network.
    pub pages: u64,
    /// Bytes that came over the network, headers and repetitions included.
    pub bytes: u64,
    /// Pieces of messages sent again.
    pub retransmissions: u64,
}

impl Traffic {
    /// What happened between two readings of a rank.
    pub fn between(before: &Stats, after: &Stats) -> Traffic {
        Traffic {
            faults: after.read_faults + after.write_faults - before.read_faults - before.write_faults,
            pages: after.pages_received - before.pages_received,
            bytes: after.bytes_received - before.bytes_received,
            retransmissions: after.retransmissions - before.retransmissions,
        }
    }

    /// The sum over all ranks, each of which must call it.
    pub fn sum(self, dsm: &Dsm) -> Result<Traffic> {
        let own = [self.faults, self.pages, self.bytes, self.retransmissions];
        let sum = dsm.all_reduce(own, |a, b| std::array::from_fn(|at| a[at] + b[at]))?;
        let [faults, pages, bytes, retransmissions] = sum;
        Ok(Traffic { faults, pages, bytes, retransmissions })
    }

    /// Its lines of a table.
    pub fn rows(&self, table: &mut Table) {
        table.row("page faults", self.faults);
        table.row("pages moved", self.pages);
        table.row("bytes received", format!("{:.1} MiB", self.bytes as f64 / (1 << 20) as f64));
        table.row("fragments sent again", self.retransmissions);
    }
}

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
    pub fn print(&self, title: &str) {
        let left = self.rows.iter().map(|(what, _)| what.chars().count()).max().unwrap_or(0);
        let right = self.rows.iter().map(|(_, value)| value.chars().count()).max().unwrap_or(0);
        let rule = "-".repeat((left + right + 4).max(title.chars().count()));
        println!("{title}\n{rule}");
        for (what, value) in &self.rows {
            println!("{what:<left$}    {value:>right$}");
        }
        println!("{rule}");
    }
}
