//! Which of the newest numbers have been seen: a bitmap over a sliding window, as in RFC 6479.
//! Used for packet numbers and for message ids.

use crate::config::net::DUPLICATE_WINDOW;

const WORDS: usize = (DUPLICATE_WINDOW / 64) as usize;

/// Remembers the newest [`DUPLICATE_WINDOW`] numbers; anything older counts as seen.
pub(super) struct Seen {
    /// One more than the highest number seen.
    next: u64,
    bits: Box<[u64; WORDS]>,
}

/// Whether a number came for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arrival {
    /// For the first time.
    New,
    /// Again, or so old that nobody remembers.
    Duplicate,
}

impl Seen {
    pub(super) fn new() -> Self {
        Seen { next: 0, bits: Box::new([0; WORDS]) }
    }

    /// One more than the highest number seen.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether `number` was seen, or is too old to tell.
    pub(super) fn check(&self, number: u64) -> Arrival {
        if number >= self.next {
            return Arrival::New;
        }
        let (word, bit) = place(number);
        if self.next - number > DUPLICATE_WINDOW || self.bits[word] & bit != 0 {
            return Arrival::Duplicate;
        }
        Arrival::New
    }

    /// Records `number`.
    pub(super) fn insert(&mut self, number: u64) -> Arrival {
        if self.check(number) == Arrival::Duplicate {
            return Arrival::Duplicate;
        }
        if number >= self.next {
            // The bits of numbers between were set by numbers one window earlier.
            if number - self.next >= DUPLICATE_WINDOW {
                self.bits.fill(0);
            } else {
                for between in self.next..=number {
                    let (word, bit) = place(between);
                    self.bits[word] &= !bit;
                }
            }
            self.next = number.saturating_add(1);
        }
        let (word, bit) = place(number);
        self.bits[word] |= bit;
        Arrival::New
    }
}

fn place(number: u64) -> (usize, u64) {
    let index = (number % DUPLICATE_WINDOW) as usize;
    (index / 64, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_number_behind_the_window_counts_as_seen() {
        let mut seen = Seen::new();
        assert_eq!(seen.insert(DUPLICATE_WINDOW), Arrival::New);
        assert_eq!(seen.insert(0), Arrival::Duplicate);
        assert_eq!(seen.insert(1), Arrival::New);
        assert_eq!(seen.insert(1), Arrival::Duplicate);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set(numbers in proptest::collection::vec(0u64..30_000, 1..300)) {
            let (mut seen, mut set) = (Seen::new(), HashSet::new());
            for number in numbers {
                let expected = if set.contains(&number) || number + DUPLICATE_WINDOW < seen.next() {
                    Arrival::Duplicate
                } else {
                    Arrival::New
                };
                prop_assert_eq!(seen.insert(number), expected);
                set.insert(number);
            }
        }
    }
}
