//! Output of the ranks: whole lines, each behind its rank, so that two ranks never share a line.

use std::io::{ErrorKind, Read, Write};

/// A line longer than this is passed on in pieces.
const LINE_LEN_MAX: usize = 64 << 10;

/// One stream of one rank on its way to one of ours.
pub(crate) struct Tagged<R> {
    from: R,
    tag: String,
    /// The line that has not ended yet.
    partial: Vec<u8>,
}

/// What became of a stream.
#[derive(Debug)]
pub(crate) enum Flow {
    /// Something came, and more may.
    Open,
    /// Nothing is there now.
    Idle,
    /// It has ended.
    Ended,
    /// Our side cannot be written.
    Unwritten(std::io::Error),
}

impl<R: Read> Tagged<R> {
    /// A stream whose lines get `[rank] ` before them.
    pub(crate) fn new(from: R, rank: u32) -> Tagged<R> {
        Tagged { from, tag: format!("[{rank}] "), partial: Vec::new() }
    }

    /// The stream itself, to wait on.
    pub(crate) fn source(&self) -> &R {
        &self.from
    }

    /// Reads once what is there and passes complete lines on. The stream must not block.
    pub(crate) fn pass_on(&mut self, to: &mut impl Write) -> Flow {
        let mut bytes = [0; 16 << 10];
        let n = match self.from.read(&mut bytes) {
            Ok(n) => n,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Flow::Idle;
            }
            Err(_) => 0,
        };
        self.partial.extend_from_slice(&bytes[..n]);
        let written = if n == 0 { self.finish(to) } else { self.write_lines(to) };
        match written {
            Err(error) => Flow::Unwritten(error),
            Ok(()) if n == 0 => Flow::Ended,
            Ok(()) => Flow::Open,
        }
    }

    /// Passes on all that is there now and the unfinished line: the writer has ended.
    pub(crate) fn drain(&mut self, to: &mut impl Write) -> std::io::Result<()> {
        // Until the pipe is empty, not until it ends: something else may still hold its other end.
        loop {
            match self.pass_on(to) {
                Flow::Open => {}
                Flow::Idle | Flow::Ended => return self.finish(to),
                Flow::Unwritten(error) => return Err(error),
            }
        }
    }

    fn write_lines(&mut self, to: &mut impl Write) -> std::io::Result<()> {
        let end = match self.partial.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            None if self.partial.len() >= LINE_LEN_MAX => self.partial.len(),
            None => return Ok(()),
        };
        let mut tagged = Vec::with_capacity(end + 16 * self.tag.len());
        for line in self.partial[..end].split_inclusive(|byte| *byte == b'\n') {
            tagged.extend_from_slice(self.tag.as_bytes());
            tagged.extend_from_slice(line);
        }
        if tagged.last() != Some(&b'\n') {
            tagged.push(b'\n');
        }
        self.partial.drain(..end);
        to.write_all(&tagged)?;
        to.flush()
    }

    fn finish(&mut self, to: &mut impl Write) -> std::io::Result<()> {
        if !self.partial.is_empty() {
            self.partial.push(b'\n');
        }
        self.write_lines(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(input: &str) -> String {
        let mut stream = Tagged::new(input.as_bytes(), 3);
        let mut out = Vec::new();
        while matches!(stream.pass_on(&mut out), Flow::Open) {}
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn each_line_gets_the_rank() {
        assert_eq!(pass("one\ntwo\n"), "[3] one\n[3] two\n");
    }

    #[test]
    fn an_unfinished_last_line_is_finished() {
        assert_eq!(pass("one\ntwo"), "[3] one\n[3] two\n");
        assert_eq!(pass(""), "");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let out = pass(&"x".repeat(LINE_LEN_MAX + 20_000));
        assert!(out.lines().count() >= 2);
        assert!(out.lines().all(|line| line.starts_with("[3] ") && line.len() <= LINE_LEN_MAX + 20_000));
    }
}
