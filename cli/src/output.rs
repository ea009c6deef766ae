//! Output of the ranks: whole lines, each behind its rank, so that two ranks never share a line.
//!
//! A pipe or file gets every line, with a tag. On a terminal equal lines of several ranks become one (see
//! [`crate::merge`]), and tags come with the second rank that writes.

use std::collections::BTreeSet;
use std::io::{ErrorKind, IsTerminal, Read, Write};
use std::time::Instant;

use crate::merge::{Line, Merger, Stream, ranges};

/// A line longer than this is passed on in pieces.
const LINE_LEN_MAX: usize = 64 << 10;
/// Colours of the tags, by the first rank: codes of ECMA-48, those that are legible on dark and light.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// One stream of one rank.
pub(crate) struct Lines<R> {
    from: R,
    /// The line that has not ended yet.
    partial: Vec<u8>,
}

/// The outcome of reading or writing a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// Something came, and more may.
    Open,
    /// Nothing is there now.
    Idle,
    /// It has ended.
    Ended,
}

/// Where the lines of all ranks go: our own standard output and standard error.
pub(crate) struct Output {
    merger: Merger,
    /// Ranks that have written.
    writers: BTreeSet<u32>,
    stdout: Face,
    stderr: Face,
}

/// How lines look on one of our streams.
#[derive(Clone, Copy)]
struct Face {
    /// Equal lines become one.
    merges: bool,
    /// Tags have colours.
    colours: bool,
}

impl<R: Read> Lines<R> {
    /// The lines of a stream that does not block.
    pub(crate) fn new(from: R) -> Lines<R> {
        Lines { from, partial: Vec::new() }
    }

    /// The stream itself, to wait on.
    pub(crate) fn source(&self) -> &R {
        &self.from
    }

    /// Reads once what is there; complete lines go to `lines`, without their ends.
    pub(crate) fn read(&mut self, lines: &mut Vec<Vec<u8>>) -> Flow {
        let mut bytes = [0; 16 << 10];
        let n = match self.from.read(&mut bytes) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Flow::Idle;
            }
            Err(_) => 0,
        };
        self.partial.extend_from_slice(&bytes[..n]);
        self.cut(lines);
        if n > 0 {
            return Flow::Open;
        }
        self.finish(lines);
        Flow::Ended
    }

    /// Reads all that is there now, and takes the unfinished line: the writer has ended.
    pub(crate) fn drain(mut self, lines: &mut Vec<Vec<u8>>) {
        // Until the pipe is empty, not until it ends: another process may still hold its other end.
        while self.read(lines) == Flow::Open {}
        self.finish(lines);
    }

    fn cut(&mut self, lines: &mut Vec<Vec<u8>>) {
        let end = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.partial.len() >= LINE_LEN_MAX => self.partial.len(),
            None => return,
        };
        let whole: Vec<u8> = self.partial.drain(..end).collect();
        let whole = whole.strip_suffix(b"\n").unwrap_or(&whole);
        lines.extend(whole.split(|byte| *byte == b'\n').map(<[u8]>::to_vec));
    }

    fn finish(&mut self, lines: &mut Vec<Vec<u8>>) {
        if !self.partial.is_empty() {
            lines.push(std::mem::take(&mut self.partial));
        }
    }
}

impl Output {
    /// For this many ranks; `merges` if equal lines may become one on a terminal.
    pub(crate) fn new(ranks: u32, merges: bool) -> Output {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let face = |terminal: bool| Face { merges: terminal && merges, colours: terminal && !plain };
        Output {
            merger: Merger::new(ranks),
            writers: BTreeSet::new(),
            stdout: face(std::io::stdout().is_terminal()),
            stderr: face(std::io::stderr().is_terminal()),
        }
    }

    /// Takes lines of a rank. An error if our standard output cannot be written.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        rank: u32,
        stream: Stream,
        lines: &[Vec<u8>],
    ) -> std::io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.writers.insert(rank);
        let face = self.face(stream);
        if face.merges {
            lines.iter().for_each(|line| self.merger.add(now, rank, stream, line));
            return self.write_due(now);
        }
        let tag = tag(&BTreeSet::from([rank]), face);
        let mut text = Vec::new();
        for line in lines {
            text.extend_from_slice(tag.as_bytes());
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        write(stream, &text)
    }

    /// When to call [`Output::write_due`] although no line has come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.merger.deadline()
    }

    /// Writes the lines that have waited long enough for equal ones.
    pub(crate) fn write_due(&mut self, now: Instant) -> std::io::Result<()> {
        let lines = self.merger.take_due(now);
        self.write_merged(lines)
    }

    /// Writes all lines.
    pub(crate) fn flush(&mut self) -> std::io::Result<()> {
        let lines = self.merger.take_all();
        self.write_merged(lines)
    }

    fn write_merged(&self, lines: Vec<Line>) -> std::io::Result<()> {
        for line in lines {
            let several = self.writers.len() > 1;
            let mut text =
                if several { tag(&line.ranks, self.face(line.stream)) } else { String::new() }.into_bytes();
            text.extend_from_slice(&line.text);
            text.push(b'\n');
            write(line.stream, &text)?;
        }
        Ok(())
    }

    fn face(&self, stream: Stream) -> Face {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

fn tag(ranks: &BTreeSet<u32>, face: Face) -> String {
    let text = format!("[{}]", ranges(ranks));
    if !face.colours {
        return format!("{text} ");
    }
    let colour = COLOURS[ranks.first().map_or(0, |first| *first as usize) % COLOURS.len()];
    format!("\x1b[{colour}m{text}\x1b[0m ")
}

fn write(stream: Stream, text: &[u8]) -> std::io::Result<()> {
    match stream {
        Stream::Stdout => {
            let mut out = std::io::stdout().lock();
            out.write_all(text).and_then(|()| out.flush())
        }
        Stream::Stderr => {
            // Without standard error no line can be shown, but the result on standard output may still be wanted.
            let _ = std::io::stderr().write_all(text);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &str) -> Vec<String> {
        let mut lines = Vec::new();
        Lines::new(input.as_bytes()).drain(&mut lines);
        lines.into_iter().map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
    }

    #[test]
    fn a_stream_is_cut_into_lines() {
        assert_eq!(lines("one\n\ntwo\n"), ["one", "", "two"]);
    }

    #[test]
    fn an_unfinished_last_line_is_finished() {
        assert_eq!(lines("one\ntwo"), ["one", "two"]);
        assert_eq!(lines(""), [""; 0]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let out = lines(&"x".repeat(LINE_LEN_MAX + 20_000));
        assert!(out.len() >= 2);
        assert!(out.iter().all(|line| line.len() <= LINE_LEN_MAX + 16_384));
        assert_eq!(out.concat().len(), LINE_LEN_MAX + 20_000);
    }

    #[test]
    fn a_tag_has_a_colour_where_it_is_wanted() {
        let ranks = BTreeSet::from([1, 2, 3]);
        assert_eq!(tag(&ranks, Face { merges: true, colours: false }), "[1-3] ");
        assert_eq!(tag(&ranks, Face { merges: true, colours: true }), "\x1b[33m[1-3]\x1b[0m ");
    }
}
