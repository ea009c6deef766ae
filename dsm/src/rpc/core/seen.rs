//! Which sequences of a client were seen: intervals above a floor. Without gaps it is one interval,
//! however many calls there were.

use crate::codec::DecodeError;
use crate::config::rpc::SEQUENCE_GAPS_MAX;

/// A set of sequences that grows, with a floor below which everything counts as seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    floor: u64,
    /// Half-open, sorted, apart from each other.
    intervals: Vec<(u64, u64)>,
}

impl Seen {
    /// Adds a sequence; whether it is new. More gaps than a client can have end its session.
    pub(super) fn insert(&mut self, sequence: u64) -> Result<bool, DecodeError> {
        if sequence < self.floor || sequence == u64::MAX {
            return Ok(false);
        }
        let after = self.intervals.partition_point(|(start, _)| *start <= sequence);
        if after > 0 && sequence < self.intervals[after - 1].1 {
            return Ok(false);
        }
        let joins_before = after > 0 && self.intervals[after - 1].1 == sequence;
        let joins_after = self.intervals.get(after).is_some_and(|(start, _)| *start == sequence + 1);
        match (joins_before, joins_after) {
            (true, true) => {
                let (_, end) = self.intervals.remove(after);
                self.intervals[after - 1].1 = end;
            }
            (true, false) => self.intervals[after - 1].1 = sequence + 1,
            (false, true) => self.intervals[after].0 = sequence,
            (false, false) if self.intervals.len() >= SEQUENCE_GAPS_MAX => {
                return Err(DecodeError::Bad("gaps in the sequences"));
            }
            (false, false) => self.intervals.insert(after, (sequence, sequence + 1)),
        }
        Ok(true)
    }

    /// Everything below `floor` counts as seen from now on.
    pub(super) fn raise(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        self.intervals.retain(|(_, end)| *end > floor);
    }

    /// Whether the sequence can come no more, because the client has settled it.
    pub(super) fn is_settled(&self, sequence: u64) -> bool {
        sequence < self.floor
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_without_gaps_take_one_interval() {
        let mut seen = Seen::default();
        for sequence in 1..100_000 {
            assert_eq!(seen.insert(sequence), Ok(true));
        }
        assert_eq!(seen.intervals.len(), 1);
    }

    #[test]
    fn a_client_that_leaves_ever_more_gaps_is_refused() {
        let mut seen = Seen::default();
        let refused = (0..u64::MAX).step_by(2).find(|sequence| seen.insert(*sequence).is_err());
        assert_eq!(refused, Some(2 * SEQUENCE_GAPS_MAX as u64));
    }

    proptest! {
        #[test]
        fn it_remembers_as_a_plain_set_does(
            steps in proptest::collection::vec((0u64..200, 0u64..30), 0..400),
        ) {
            let (mut seen, mut model, mut floor) = (Seen::default(), BTreeSet::new(), 0);
            for (sequence, raise) in steps {
                if raise == 0 {
                    floor = floor.max(sequence / 2);
                    seen.raise(floor);
                }
                let new = sequence >= floor && model.insert(sequence);
                prop_assert_eq!(seen.insert(sequence), Ok(new));
            }
        }
    }
}
