//! Faults planted on purpose in the endpoint, one rule each, chosen at run time: the check on the simulator's oracles.
//! Outside the `planted` feature every rule holds, and its test is a constant.

/// A rule of the endpoint that a mutated node breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[allow(missing_docs)] // The name is the rule that is broken.
pub enum Mutation {
    HandshakesEndUnheard,
    SessionsBegunAnewLoseMessages,
    KeysChangeUnacknowledged,
}

/// The rules that an endpoint keeps: all of them, or all but one.
pub type Rules = crate::mutation::Rules<Mutation>;

impl Rules {
    /// A handshake ends only when what lies in the socket was taken in.
    pub(super) fn hears_before_ending(&self) -> bool {
        self.keeps(Mutation::HandshakesEndUnheard)
    }

    /// What was sent in a session of which the peer never knew is sent again in the one that it begins in its place.
    pub(super) fn sends_again(&self) -> bool {
        self.keeps(Mutation::SessionsBegunAnewLoseMessages)
    }

    /// A key follows another only when the peer is known to have that one: it knows no later key than the next.
    pub(super) fn renews_known_keys(&self) -> bool {
        self.keeps(Mutation::KeysChangeUnacknowledged)
    }
}
