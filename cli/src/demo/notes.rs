//! What the demo's ranks tell each other: a word of shared memory for each rank and purpose.

use pagemesh::{Dsm, SharedSlice};

/// The meaning of a word.
#[derive(Clone, Copy)]
pub(super) enum Note {
    /// The port of this rank's UDP socket.
    Port,
    /// Items of the list that this rank found.
    ListItems,
    /// The sum of their values.
    ListSum,
    /// Where the first one is.
    ListFirst,
    /// Page faults of this rank during the product.
    Faults,
    /// Pages that came to it.
    Pages,
    /// Pages that came to it before a fault asked for them.
    PagesAhead,
    /// The share of its computing time in which it had a core, in millionths.
    CoreShare,
    /// The decision of rank 0.
    Decision,
}

/// Words of one rank; more than there are notes.
const WORDS: usize = 16;

pub(super) struct Notes<'a> {
    dsm: &'a Dsm,
    words: SharedSlice<u64>,
}

impl<'a> Notes<'a> {
    pub(super) fn new(dsm: &'a Dsm) -> pagemesh::Result<Notes<'a>> {
        let words = dsm.alloc("demo.notes", WORDS * dsm.ranks() as usize)?;
        Ok(Notes { dsm, words })
    }

    fn place(note: Note, rank: u32) -> usize {
        rank as usize * WORDS + note as usize
    }

    /// Leaves this rank's value, which the others may read after the next barrier.
    pub(super) fn set(&self, note: Note, value: u64) {
        self.words.set(Self::place(note, self.dsm.rank()), value);
    }

    /// The value that `rank` left.
    pub(super) fn get(&self, note: Note, rank: u32) -> u64 {
        self.words.get(Self::place(note, rank))
    }

    /// The sum over all ranks.
    pub(super) fn sum(&self, note: Note) -> u64 {
        (0..self.dsm.ranks()).map(|rank| self.get(note, rank)).sum()
    }

    /// The decision of rank 0, at every rank. Collective; the others' `value` does not count.
    pub(super) fn decide(&self, value: u64) -> pagemesh::Result<u64> {
        if self.dsm.is_root() {
            self.set(Note::Decision, value);
        }
        self.dsm.barrier()?;
        let decided = self.get(Note::Decision, 0);
        // Read by all before it may change.
        self.dsm.barrier()?;
        Ok(decided)
    }
}
