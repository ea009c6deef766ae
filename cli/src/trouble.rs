//! What a command can fail of, as one line for people and one exit code for scripts.

use std::fmt;
use std::io;

/// Exit code when something outside went wrong while a cluster was in use.
pub(crate) const FAILED: i32 = 1;
/// Exit code of a wrong flag, a wrong file, or anything else that kept a cluster or program from starting.
pub(crate) const CANNOT_START: i32 = 2;
/// What shells give for a program that ended by signal 0; the signal's number is added.
pub(crate) const SIGNALLED: i32 = 128;

/// One line that names the cause, and the exit code that goes with it.
#[derive(Debug)]
pub(crate) struct Trouble {
    line: String,
    code: i32,
}

impl Trouble {
    /// Something that kept the command from starting.
    pub(crate) fn start(line: impl Into<String>) -> Trouble {
        Trouble { line: line.into(), code: CANNOT_START }
    }

    /// Something that went wrong later.
    pub(crate) fn failed(line: impl Into<String>) -> Trouble {
        Trouble { line: line.into(), code: FAILED }
    }

    /// The user asked to stop by this signal.
    pub(crate) fn interrupted(signal: i32) -> Trouble {
        Trouble {
            line: "interrupted; everything that was started is stopped".into(),
            code: SIGNALLED + signal,
        }
    }

    /// Something else, with an exit code of its own.
    pub(crate) fn coded(code: i32, line: impl Into<String>) -> Trouble {
        Trouble { line: line.into(), code }
    }

    /// An end of which nothing is said.
    pub(crate) fn silent(code: i32) -> Trouble {
        Trouble { line: String::new(), code }
    }

    /// Adds what else the user must know, unless nothing is said at all.
    pub(crate) fn and(mut self, more: &str) -> Trouble {
        if !self.line.is_empty() {
            self.line = format!("{}; {more}", self.line);
        }
        self
    }

    /// Whether nothing is said.
    pub(crate) fn is_silent(&self) -> bool {
        self.line.is_empty()
    }

    /// Says it on standard error, if there is something to say.
    pub(crate) fn tell(&self) {
        if !self.line.is_empty() {
            crate::out::warn(&self.line);
        }
    }

    /// An operation that the system refused.
    pub(crate) fn os(what: impl fmt::Display, error: impl Into<io::Error>) -> Trouble {
        Trouble::start(format!("{what}: {}", error.into()))
    }

    /// The exit code of the command.
    pub(crate) fn code(&self) -> i32 {
        self.code
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl From<pagemesh::Error> for Trouble {
    fn from(error: pagemesh::Error) -> Trouble {
        Trouble::start(error.to_string())
    }
}
