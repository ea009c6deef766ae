//! Messages that came too early: of a session whose member is not known here yet, or of a view that is not.
//! They are kept until the view that explains them has come.

use super::Rules;
use crate::config::node::{
    EARLY_BYTES_MAX, EARLY_MESSAGES_MAX, EARLY_STRANGER_BYTES_MAX, EARLY_STRANGER_MESSAGES_MAX,
};
use crate::net::SessionHandle;

/// The messages that are kept, in the order of arrival. Members share one bound: they send early only what a
/// change of the view overtakes. Any other session has a bound of its own, so that a client that floods this
/// node takes no room from a node that joins.
#[derive(Default)]
pub(super) struct Gate {
    early: Vec<Early>,
}

struct Early {
    session: SessionHandle,
    bytes: Vec<u8>,
    is_member: bool,
}

impl Gate {
    /// Keeps a message; false if there is no room for it.
    pub(super) fn keep(
        &mut self,
        rules: Rules,
        session: SessionHandle,
        bytes: &[u8],
        is_member: bool,
    ) -> bool {
        let shares = |early: &&Early| {
            if is_member { early.is_member } else { early.session == session }
        };
        let (messages, held) = self
            .early
            .iter()
            .filter(shares)
            .fold((0, 0), |(n, held), early| (n + 1, held + early.bytes.len()));
        let (messages_max, bytes_max) = if is_member {
            (EARLY_MESSAGES_MAX, EARLY_BYTES_MAX)
        } else {
            (EARLY_STRANGER_MESSAGES_MAX, EARLY_STRANGER_BYTES_MAX)
        };
        let fits = messages < messages_max && held + bytes.len() <= bytes_max;
        let keeps = fits || !rules.bounds_early_messages();
        if keeps {
            self.early.push(Early { session, bytes: bytes.to_vec(), is_member });
        }
        keeps
    }

    /// Whether messages of a session are kept.
    pub(super) fn keeps(&self, session: SessionHandle) -> bool {
        self.early.iter().any(|early| early.session == session)
    }

    /// What a session said too early is void.
    pub(super) fn forget(&mut self, session: SessionHandle) {
        self.early.retain(|early| early.session != session);
    }

    /// The messages of some sessions, in the order of arrival.
    pub(super) fn take_of(
        &mut self,
        is_one: impl Fn(SessionHandle) -> bool,
    ) -> Vec<(SessionHandle, Vec<u8>)> {
        let early = std::mem::take(&mut self.early);
        let (taken, kept): (Vec<Early>, Vec<Early>) =
            early.into_iter().partition(|early| is_one(early.session));
        self.early = kept;
        taken.into_iter().map(|early| (early.session, early.bytes)).collect()
    }

    /// The messages that were kept, in the order of arrival.
    pub(super) fn take(&mut self) -> Vec<(SessionHandle, Vec<u8>)> {
        std::mem::take(&mut self.early).into_iter().map(|early| (early.session, early.bytes)).collect()
    }

    /// Messages of members that are kept, and the most of any other session.
    pub(super) fn held(&self) -> (usize, usize) {
        let strangers = || self.early.iter().filter(|early| !early.is_member);
        let of = |session| strangers().filter(|early| early.session == session).count();
        let most = strangers().map(|early| of(early.session)).max().unwrap_or(0);
        (self.early.len() - strangers().count(), most)
    }
}
