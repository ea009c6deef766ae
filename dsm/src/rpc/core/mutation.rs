//! Faults planted on purpose in the cores of the calls, one rule each, chosen at run time: the check on the
//! simulator's oracles. Outside the `planted` feature every rule holds, and its test is a constant.

/// A rule of the calls that a mutated node breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // The name is the rule that is broken.
pub enum Mutation {
    RepliesGoToTheNextStart,
    CallsEndTwice,
    EndedLeavesCallsOpen,
}

impl Mutation {
    /// Every mutation.
    pub const ALL: [Mutation; 3] =
        [Mutation::RepliesGoToTheNextStart, Mutation::CallsEndTwice, Mutation::EndedLeavesCallsOpen];
}

/// The rules that the calls keep: all of them, or all but one.
pub type Rules = crate::mutation::Rules<Mutation>;

impl Rules {
    /// What one start of a node has asked is none of the next one's.
    pub(super) fn remembers_each_start(&self) -> bool {
        self.keeps(Mutation::RepliesGoToTheNextStart)
    }

    /// A call that has ended is forgotten.
    pub(super) fn forgets_ended_calls(&self) -> bool {
        self.keeps(Mutation::CallsEndTwice)
    }

    /// The end of a node ends its calls.
    pub(super) fn ends_calls_with_the_node(&self) -> bool {
        self.keeps(Mutation::EndedLeavesCallsOpen)
    }
}
