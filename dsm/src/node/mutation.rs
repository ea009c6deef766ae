//! Faults planted on purpose in a real process, one rule each: the check on the tests that starve, stop and kill
//! processes. The variable `PLANTED_RULE` names the rule that is broken: one of the machine, of the membership, or
//! `StarvedReceiverKeepsTheSocket`. Outside the `planted` feature nobody reads it, and every rule holds.

use crate::{machine, membership};

/// The rules of the machine in this process.
pub(super) fn machine_rules() -> machine::Rules {
    #[cfg(feature = "planted")]
    if let Some(broken) = machine::Mutation::ALL.into_iter().find(|rule| is_broken(&format!("{rule:?}"))) {
        return machine::Rules::without(broken);
    }
    machine::Rules::default()
}

/// The rules of the membership in this process.
pub(super) fn membership_rules() -> membership::Rules {
    #[cfg(feature = "planted")]
    if let Some(broken) = membership::Mutation::ALL.into_iter().find(|rule| is_broken(&format!("{rule:?}"))) {
        return membership::Rules::without(broken);
    }
    membership::Rules::default()
}

/// The progress thread takes the socket from a receiver that does not come for its datagrams.
#[cfg(feature = "planted")]
pub(super) fn relieves_starved_receivers() -> bool {
    !is_broken("StarvedReceiverKeepsTheSocket")
}

/// The progress thread takes the socket from a receiver that does not come for its datagrams.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(super) fn relieves_starved_receivers() -> bool {
    true
}

#[cfg(feature = "planted")]
fn is_broken(rule: &str) -> bool {
    std::env::var("PLANTED_RULE").is_ok_and(|broken| broken == rule)
}
