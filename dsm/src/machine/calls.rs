//! Between the machine's sessions and the calls, which are a value of their own (`crate::rpc::core`).

use super::gate::{Hearing, Source};
use super::{Cores, Machine, Output, channel, typed};
use crate::config::node::UNSENT_MESSAGES_MAX;
use crate::config::rpc::CALLS_QUEUE_SHARE;
use crate::membership::{Member, Membership};
use crate::net::{self, Priority, SessionHandle};
use crate::page::{Incarnation, NodeId, PeerId, Time};
use crate::rpc::core::{Calls, SendError};
use crate::rpc::is_message;

/// Longest buffer for messages of the calls that is kept.
const SPARE_LEN_MAX: usize = 1 << 16;
/// Longest message that travels ahead of pages.
const CONTROL_LEN_MAX: usize = 1024;

impl Machine {
    /// The calls of this node.
    pub fn calls(&self) -> &Calls {
        &self.cores.calls
    }

    /// The same, for what threads want of them; then [`Machine::flush`].
    pub fn calls_mut(&mut self) -> &mut Calls {
        &mut self.cores.calls
    }

    /// Sends what the calls have put out; true if there was something.
    pub(super) fn send_calls(&mut self, now: Time) -> bool {
        if std::mem::take(&mut self.cores.calls_end) {
            self.cores.calls.handle_end(now);
        }
        // Kept from call to call for its memory.
        let mut message = std::mem::take(&mut self.call_message);
        let mut any = false;
        message.clear();
        while let Some(peer) = self.cores.calls.next_message(&mut message) {
            any = true;
            if let Err(refused) = self.send_call(now, peer, &message) {
                self.cores.calls.handle_unsent(now, peer, &message, refused);
            }
            message.clear();
        }
        if message.capacity() <= SPARE_LEN_MAX {
            self.call_message = message;
        }
        any
    }

    /// Sends a message of the calls; never waits, and gives up no peer.
    pub fn send_call(&mut self, now: Time, to: PeerId, message: &[u8]) -> Result<(), SendError> {
        let lifecycle = &self.cores.lifecycle;
        // Calls to members have all ended. A client may still wait for the answer to what ended this node.
        if lifecycle.is_closed() || (lifecycle.why().is_some() && !to.is_client()) {
            return Err(SendError::Unreachable);
        }
        let priority = if message.len() <= CONTROL_LEN_MAX { Priority::Control } else { Priority::Bulk };
        let Some(session) = self.session_of(to) else {
            return self.send_without_session(now, to, message, priority);
        };
        let channel = if to.is_client() { channel::CLIENT } else { channel::CALLS };
        let message = typed(channel, message);
        let share = self.endpoint.queue_max() / CALLS_QUEUE_SHARE;
        let full = self.endpoint.queued(session) + message.total_len() > share;
        if full && self.cores.rules.divides_queues() {
            // The other half is for pages and control messages.
            return Err(SendError::Full);
        }
        self.endpoint.send(now, session, message, priority).map_err(SendError::from)
    }

    /// To this node itself, or to a member whose session is on its way.
    fn send_without_session(
        &mut self,
        now: Time,
        to: PeerId,
        message: &[u8],
        priority: Priority,
    ) -> Result<(), SendError> {
        if self.peer(to.node) != Some(to) {
            return Err(SendError::Unreachable);
        }
        if self.cores.membership.as_ref().and_then(Membership::me) == Some(to.node) {
            // It is our own, and sound.
            let _ = self.cores.calls.handle_message(now, to, message);
            return Ok(());
        }
        if self.cores.egress.waiting(to.node) >= UNSENT_MESSAGES_MAX {
            return Err(SendError::Full);
        }
        self.send(now, to.node, typed(channel::CALLS, message), priority);
        Ok(())
    }

    /// The session that leads to this start of a member or client.
    pub fn session_of(&self, peer: PeerId) -> Option<SessionHandle> {
        self.cores.routes.session_of(self.cores.rules, peer)
    }

    /// The present start of a member whose own process runs.
    pub fn peer(&self, node: NodeId) -> Option<PeerId> {
        let view = self.cores.membership.as_ref()?.view();
        view.member(node).filter(|member| view.runner(member.id).is_none()).map(PeerId::from)
    }

    /// How many messages this peer has acknowledged; none without a session.
    pub(crate) fn acknowledged(&self, peer: PeerId) -> Option<u64> {
        self.endpoint.acknowledged(self.session_of(peer)?)
    }

    /// Ends the session with a client. It may come back and ask again.
    pub(crate) fn close_client(&mut self, now: Time, incarnation: Incarnation) {
        if let Some(session) = self.cores.routes.client_session(incarnation) {
            self.end_client(now, session);
        }
    }
}

impl Cores {
    /// Takes a message of the calls, or keeps it for later.
    pub(super) fn deliver_calls(
        &mut self,
        now: Time,
        (session, source): (SessionHandle, Source),
        bytes: &[u8],
        rest: &[u8],
    ) -> Hearing {
        match self.routes.peer(session) {
            Some(peer) => Hearing::of(self.calls.handle_message(now, peer, rest).is_ok()),
            None if is_message(rest) => self.keep_early(session, bytes, source),
            None => Hearing::Unsound,
        }
    }

    /// Takes a message of a client; false if it is none, or there is no such session.
    pub(super) fn deliver_client(&mut self, now: Time, session: SessionHandle, rest: &[u8]) -> bool {
        let Some(incarnation) = self.routes.client(session) else { return false };
        self.calls.handle_message(now, PeerId::client(incarnation), rest).is_ok()
    }

    /// A session is over, which may have been a client's: it may come back.
    pub(super) fn client_closed(&mut self, now: Time, session: SessionHandle) {
        if let Some(incarnation) = self.routes.client_closed(session) {
            let peer = PeerId::client(incarnation);
            if self.rules.waits_for_clients() {
                self.calls.handle_peer_away(now, peer);
            } else {
                self.peer_gone(now, peer);
            }
        }
    }

    /// This start of the peer is no member any more.
    pub(super) fn peer_gone(&mut self, now: Time, peer: PeerId) {
        self.calls.handle_peer_died(now, peer);
        self.pending.push_back(Output::Gone(peer));
    }
}

impl From<net::SendError> for SendError {
    fn from(error: net::SendError) -> SendError {
        match error {
            net::SendError::Full => SendError::Full,
            net::SendError::TooLong => SendError::TooLong,
            net::SendError::Closed | net::SendError::NotConnected => SendError::Unreachable,
        }
    }
}

impl From<&Member> for PeerId {
    fn from(member: &Member) -> PeerId {
        PeerId { node: member.id, incarnation: member.intro.incarnation }
    }
}
