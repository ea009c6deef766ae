//! The command's own words on standard output and standard error.
//!
//! `println!` panics where nobody reads any more. Here a reader that has gone away (`pagemesh status | head -1`)
//! ends the command without a word, as SIGPIPE would, and any other failure (a full disk) is one line with an exit
//! code of its own. The lints of this crate refuse `println!` and `eprintln!` everywhere else.

use std::fmt::Display;
use std::io::{Error, ErrorKind, IsTerminal, Write};

use nix::sys::signal::Signal;
use serde::Serialize;

use crate::trouble::{SIGNALLED, Trouble};

/// Exit code when standard output takes no more: EX_IOERR of sysexits.h.
const OUTPUT_FAILED: i32 = 74;

/// Writes a line.
pub(crate) fn line(line: impl Display) -> Result<(), Trouble> {
    bytes(format!("{line}\n").as_bytes())
}

/// Writes text that ends its own lines.
pub(crate) fn text(text: &str) -> Result<(), Trouble> {
    bytes(text.as_bytes())
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Trouble> {
    line(serde_json::to_string_pretty(value).map_err(|error| Trouble::failed(error.to_string()))?)
}

/// Writes bytes that are text at best, such as another program's.
pub(crate) fn bytes(bytes: &[u8]) -> Result<(), Trouble> {
    let mut out = std::io::stdout().lock();
    // Flushed here: an error at the end of the process would be lost.
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritten)
}

/// Says something on standard error, behind the command's name.
pub(crate) fn warn(line: impl Display) {
    note(format_args!("pagemesh: {line}"));
}

/// Says something on standard error about a program that may have drawn a bar on the terminal: in the bar's place.
pub(crate) fn warn_over_bar(line: impl Display) {
    note(format_args!("{}pagemesh: {line}", clear()));
}

/// Clears what a program that was interrupted has left of its bar.
pub(crate) fn clear_bar() {
    let _ = std::io::stderr().write_all(clear().as_bytes());
}

/// Clears the line of the cursor, on a terminal.
fn clear() -> &'static str {
    if std::io::stderr().is_terminal() { "\r\x1b[K" } else { "" }
}

/// Writes a line on standard error. Nothing can be done if nobody reads it.
pub(crate) fn note(line: impl Display) {
    // In one piece: other processes write to the same terminal.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// What it means for the command that standard output cannot be written.
pub(crate) fn unwritten(error: Error) -> Trouble {
    if error.kind() == ErrorKind::BrokenPipe {
        return Trouble::silent(SIGNALLED + Signal::SIGPIPE as i32);
    }
    Trouble::coded(OUTPUT_FAILED, format!("standard output: {error}"))
}
