//! Lines of several ranks on their way to a terminal: equal ones that come within a short time become one.
//! A value: it takes lines and the time, and gives lines back when they are due. It writes nothing.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long a line waits for equal ones of other ranks.
pub(crate) const WINDOW: Duration = Duration::from_millis(50);

/// Where a line goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

/// A line, without its end, and the ranks that wrote it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Line {
    pub(crate) stream: Stream,
    pub(crate) ranks: BTreeSet<u32>,
    pub(crate) text: Vec<u8>,
}

/// Lines that wait. They leave in the order in which their first copies came, so the lines of one rank on
/// one stream keep their order.
pub(crate) struct Merger {
    ranks: usize,
    waiting: VecDeque<(Instant, Line)>,
}

impl Merger {
    /// For the lines of `ranks` ranks.
    pub(crate) fn new(ranks: u32) -> Merger {
        Merger { ranks: ranks as usize, waiting: VecDeque::new() }
    }

    /// Takes a line that a rank has written.
    pub(crate) fn add(&mut self, now: Instant, rank: u32, stream: Stream, text: &[u8]) {
        // Never ahead of an earlier line of the rank on that stream. Between its two streams there is no order.
        let own = |(_, line): &(Instant, Line)| line.stream == stream && line.ranks.contains(&rank);
        let after = self.waiting.iter().rposition(own).map_or(0, |at| at + 1);
        let equal = |(_, line): &&mut (Instant, Line)| line.stream == stream && line.text == text;
        match self.waiting.range_mut(after..).find(equal) {
            Some((_, line)) => {
                line.ranks.insert(rank);
            }
            None => {
                let line = Line { stream, ranks: BTreeSet::from([rank]), text: text.to_vec() };
                self.waiting.push_back((now + WINDOW, line));
            }
        }
    }

    /// When to call [`Merger::take_due`] although no line has come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// The lines that have waited long enough, or that all ranks have written.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Line> {
        let is_due = |(due, line): &(Instant, Line)| *due <= now || line.ranks.len() == self.ranks;
        let count = self.waiting.iter().take_while(|waiting| is_due(waiting)).count();
        self.waiting.drain(..count).map(|(_, line)| line).collect()
    }

    /// All lines that wait.
    pub(crate) fn take_all(&mut self) -> Vec<Line> {
        self.waiting.drain(..).map(|(_, line)| line).collect()
    }
}

/// Ranks as people write them: `0-3`, `0,2-3`.
pub(crate) fn ranges(ranks: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &rank in ranks {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == rank => *last = rank,
            Some(_) | None => ranges.push((rank, rank)),
        }
    }
    let text = |(first, last)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    ranges.into_iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a merger for three ranks has given so far, a text a line.
    struct Bench {
        merger: Merger,
        start: Instant,
    }

    impl Bench {
        fn new() -> Bench {
            Bench { merger: Merger::new(3), start: Instant::now() }
        }

        fn add(&mut self, ms: u64, rank: u32, text: &str) {
            let now = self.start + Duration::from_millis(ms);
            self.merger.add(now, rank, Stream::Stdout, text.as_bytes());
        }

        fn due(&mut self, ms: u64) -> Vec<String> {
            shown(self.merger.take_due(self.start + Duration::from_millis(ms)))
        }
    }

    fn shown(lines: Vec<Line>) -> Vec<String> {
        let show = |line: Line| format!("[{}] {}", ranges(&line.ranks), String::from_utf8_lossy(&line.text));
        lines.into_iter().map(show).collect()
    }

    #[test]
    fn equal_lines_of_several_ranks_within_the_window_become_one() {
        let mut bench = Bench::new();
        bench.add(0, 2, "hello");
        bench.add(49, 0, "hello");
        assert_eq!(bench.due(49), [""; 0]);
        assert_eq!(bench.due(50), ["[0,2] hello"]);
        bench.add(51, 1, "hello");
        assert_eq!(bench.due(101), ["[1] hello"], "too late for the others'");
    }

    #[test]
    fn a_line_that_all_ranks_have_written_waits_no_longer() {
        let mut bench = Bench::new();
        for rank in [1, 0, 2] {
            bench.add(3, rank, "hello");
        }
        assert_eq!(bench.due(3), ["[0-2] hello"]);
        assert_eq!(bench.merger.deadline(), None);
    }

    #[test]
    fn the_lines_of_a_rank_keep_their_order() {
        let mut bench = Bench::new();
        bench.add(0, 0, "a");
        bench.add(1, 0, "b");
        bench.add(2, 1, "b");
        bench.add(3, 1, "a");
        assert_eq!(bench.due(100), ["[0] a", "[0-1] b", "[1] a"], "rank 1 wrote b before a");
        bench.add(200, 2, "c");
        bench.add(200, 2, "c");
        assert_eq!(bench.due(300), ["[2] c", "[2] c"], "a rank's own equal lines are two");
    }

    #[test]
    fn lines_of_different_streams_stay_apart() {
        let mut bench = Bench::new();
        bench.add(0, 0, "x");
        bench.merger.add(bench.start, 1, Stream::Stderr, b"x");
        bench.add(0, 1, "y");
        bench.merger.add(bench.start, 0, Stream::Stderr, b"x");
        assert_eq!(shown(bench.merger.take_all()), ["[0] x", "[0-1] x", "[1] y"]);
    }

    #[test]
    fn the_deadline_is_the_first_lines() {
        let mut bench = Bench::new();
        bench.add(0, 0, "a");
        bench.add(30, 0, "b");
        assert_eq!(bench.merger.deadline(), Some(bench.start + WINDOW));
        assert_eq!(bench.due(50), ["[0] a"]);
        assert_eq!(bench.merger.deadline(), Some(bench.start + Duration::from_millis(80)));
    }
}
