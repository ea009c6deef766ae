//! Messages that came too early: of a session whose member is not known here yet, or of a view that is not.
//! They are kept until the view that explains them has come.

use rustc_hash::FxHashMap;

use super::{Cores, Rules};
use crate::config::node::{
    EARLY_BYTES_MAX, EARLY_MESSAGES_MAX, EARLY_STRANGER_BYTES_MAX, EARLY_STRANGER_MESSAGES_MAX,
};
use crate::net::{SessionHandle, Taken};

/// How much is kept that came too early. What finds no room is refused and comes again, so a small bound costs time,
/// and ends no session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EarlyBounds {
    /// Messages of all members together.
    pub messages: usize,
    /// Bytes of them.
    pub bytes: usize,
    /// Messages of one session that leads to no member yet.
    pub stranger_messages: usize,
    /// Bytes of them.
    pub stranger_bytes: usize,
}

impl Default for EarlyBounds {
    fn default() -> Self {
        EarlyBounds {
            messages: EARLY_MESSAGES_MAX,
            bytes: EARLY_BYTES_MAX,
            stranger_messages: EARLY_STRANGER_MESSAGES_MAX,
            stranger_bytes: EARLY_STRANGER_BYTES_MAX,
        }
    }
}

/// The messages that are kept, in the order of arrival. Members share one bound: they send early only what a
/// change of the view overtakes. Any other session has a bound of its own, so that a client that floods this
/// node takes no room from a node that joins.
#[derive(Default)]
pub(super) struct Gate {
    early: Vec<Early>,
    bounds: EarlyBounds,
}

/// A message that came too early.
pub(super) struct Early {
    pub(super) session: SessionHandle,
    pub(super) bytes: Vec<u8>,
    /// Its session led to a member when it came.
    is_member: bool,
}

/// Where a message comes from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    Socket,
    /// It was kept, and its peer knows that it has arrived. The rest is [`Early`]'s.
    Gate {
        is_member: bool,
    },
}

/// What became of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hearing {
    Heard,
    /// There is no room to keep it until it can be understood.
    Refused,
    /// No node of ours writes it.
    Unsound,
}

impl Hearing {
    pub(super) fn of(is_sound: bool) -> Hearing {
        if is_sound { Hearing::Heard } else { Hearing::Unsound }
    }

    /// What the transport is told.
    pub(super) fn taken(self) -> Taken {
        match self {
            Hearing::Heard | Hearing::Unsound => Taken::Yes,
            Hearing::Refused => Taken::No,
        }
    }
}

impl Early {
    pub(super) fn source(&self) -> Source {
        Source::Gate { is_member: self.is_member }
    }
}

impl Cores {
    /// Keeps a message until the view is known that explains it, if it has room.
    pub(super) fn keep_early(&mut self, session: SessionHandle, bytes: &[u8], source: Source) -> Hearing {
        if !self.rules.keeps_early_messages() {
            return Hearing::Heard;
        }
        let is_member = self.routes.node(session).is_some();
        match source {
            Source::Gate { is_member } => self.gate.put_back(session, bytes, is_member),
            Source::Socket if self.gate.keep(self.rules, session, bytes, is_member) => {}
            Source::Socket if self.rules.refuses_without_room() => return Hearing::Refused,
            Source::Socket => return Hearing::Unsound,
        }
        Hearing::Heard
    }
}

impl Gate {
    pub(super) fn new(bounds: EarlyBounds) -> Gate {
        Gate { early: Vec::new(), bounds }
    }

    /// Keeps a message; false if there is no room for it.
    pub(super) fn keep(
        &mut self,
        rules: Rules,
        session: SessionHandle,
        bytes: &[u8],
        is_member: bool,
    ) -> bool {
        let shares = |early: &&Early| {
            if is_member { early.is_member } else { !early.is_member && early.session == session }
        };
        let (messages, held) = self
            .early
            .iter()
            .filter(shares)
            .fold((0, 0), |(n, held), early| (n + 1, held + early.bytes.len()));
        let EarlyBounds { messages: shared, bytes: shared_bytes, stranger_messages, stranger_bytes } =
            self.bounds;
        let (messages_max, bytes_max) =
            if is_member { (shared, shared_bytes) } else { (stranger_messages, stranger_bytes) };
        let fits = messages < messages_max && held + bytes.len() <= bytes_max;
        let keeps = fits || !rules.bounds_early_messages();
        if keeps {
            self.early.push(Early { session, bytes: bytes.to_vec(), is_member });
        }
        keeps
    }

    /// Keeps a message further, which counts where it did.
    fn put_back(&mut self, session: SessionHandle, bytes: &[u8], is_member: bool) {
        self.early.push(Early { session, bytes: bytes.to_vec(), is_member });
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
    pub(super) fn take_of(&mut self, is_one: impl Fn(SessionHandle) -> bool) -> Vec<Early> {
        let early = std::mem::take(&mut self.early);
        let (taken, kept) = early.into_iter().partition(|early| is_one(early.session));
        self.early = kept;
        taken
    }

    /// The messages that were kept, in the order of arrival.
    pub(super) fn take(&mut self) -> Vec<Early> {
        std::mem::take(&mut self.early)
    }

    /// Messages of members that are kept, and the most of any other session.
    pub(super) fn held(&self) -> (usize, usize) {
        let mut strangers: FxHashMap<SessionHandle, usize> = FxHashMap::default();
        let mut members = 0;
        for early in &self.early {
            let count =
                if early.is_member { &mut members } else { strangers.entry(early.session).or_default() };
            *count += 1;
        }
        (members, strangers.into_values().max().unwrap_or(0))
    }
}
