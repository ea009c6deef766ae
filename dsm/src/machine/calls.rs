//! Messages of the calls: the machine carries them between its sessions and the calls, whose cores are elsewhere
//! (`crate::rpc`).

use super::{Cores, Machine, channel, typed};
use crate::config::node::UNSENT_MESSAGES_MAX;
use crate::config::rpc::CALLS_QUEUE_SHARE;
use crate::membership::{Member, Membership};
use crate::net::{self, Priority, SessionHandle};
use crate::page::{GUEST, Incarnation, NodeId, PeerId, Time};
use crate::rpc::is_message;

/// Longest message that travels ahead of pages.
const CONTROL_LEN_MAX: usize = 1024;

/// Something that concerns the calls.
#[derive(Debug)]
pub enum CallEvent {
    /// A message of a peer.
    Message(PeerId, Vec<u8>),
    /// This start of the peer is no member any more.
    Ended(PeerId),
    /// This client has no session now, and may come back.
    Away(PeerId),
    /// This node cannot go on.
    AllEnded,
}

/// Why a message of the calls was not taken. Nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallRefused {
    /// There is no session with this start of the peer, and none is being made.
    Unreachable,
    /// The calls' part of the queue to the peer is full.
    Full,
    /// It is longer than a message may be.
    TooLong,
}

impl Machine {
    /// Sends a message of the calls; never waits, and gives up no peer.
    pub fn send_call(&mut self, now: Time, to: PeerId, message: &[u8]) -> Result<(), CallRefused> {
        let lifecycle = &self.cores.lifecycle;
        // Calls to members have all ended. A client may still wait for the answer to what ended this node.
        if lifecycle.is_closed() || (lifecycle.why().is_some() && to.node != GUEST) {
            return Err(CallRefused::Unreachable);
        }
        let priority = if message.len() <= CONTROL_LEN_MAX { Priority::Control } else { Priority::Bulk };
        let Some(session) = self.session_of(to) else {
            return self.send_without_session(now, to, message, priority);
        };
        let channel = if to.node == GUEST { channel::GUEST } else { channel::CALLS };
        let message = typed(channel, message);
        let share = self.endpoint.queue_max() / CALLS_QUEUE_SHARE;
        let full = self.endpoint.queued(session) + message.total_len() > share;
        if full && self.cores.rules.divides_queues() {
            // The other half is for pages and control messages.
            return Err(CallRefused::Full);
        }
        self.endpoint.send(now, session, message, priority).map_err(|error| match error {
            net::SendError::Full => CallRefused::Full,
            net::SendError::TooLong => CallRefused::TooLong,
            net::SendError::Closed | net::SendError::NotConnected => CallRefused::Unreachable,
        })
    }

    /// To this node itself, or to a member whose session is on its way.
    fn send_without_session(
        &mut self,
        now: Time,
        to: PeerId,
        message: &[u8],
        priority: Priority,
    ) -> Result<(), CallRefused> {
        if self.peer(to.node) != Some(to) {
            return Err(CallRefused::Unreachable);
        }
        if self.cores.membership.as_ref().and_then(Membership::me) == Some(to.node) {
            self.cores.call_events.push(CallEvent::Message(to, message.to_vec()));
            return Ok(());
        }
        if self.cores.egress.waiting(to.node) >= UNSENT_MESSAGES_MAX {
            return Err(CallRefused::Full);
        }
        self.send(now, to.node, typed(channel::CALLS, message), priority);
        Ok(())
    }

    /// The session that leads to this start of a member or client.
    pub fn session_of(&self, peer: PeerId) -> Option<SessionHandle> {
        self.cores.routes.session_of(self.cores.rules, peer)
    }

    /// The present start of a member.
    pub fn peer(&self, node: NodeId) -> Option<PeerId> {
        self.cores.membership.as_ref()?.view().member(node).map(PeerId::from)
    }

    /// How many messages this peer has acknowledged; none without a session.
    pub(crate) fn acknowledged(&self, peer: PeerId) -> Option<u64> {
        self.endpoint.acknowledged(self.session_of(peer)?)
    }

    /// A message of this peer was none of the calls': its session ends.
    pub(crate) fn call_violation(&mut self, peer: PeerId) {
        let session = self.session_of(peer);
        self.cores.violators.extend(session);
    }

    /// Puts something aside for the calls.
    #[cfg(test)]
    pub(crate) fn push_call(&mut self, event: CallEvent) {
        self.cores.call_events.push(event);
    }

    /// Ends the session with a client. It may come back and ask again.
    pub(crate) fn close_guest(&mut self, now: Time, incarnation: Incarnation) {
        if let Some(session) = self.cores.routes.guest_session(incarnation) {
            self.end_guest(now, session);
        }
    }
}

impl Cores {
    /// Puts a message of the calls aside; false if there is no room.
    pub(super) fn deliver_calls(&mut self, session: SessionHandle, bytes: &[u8], rest: &[u8]) -> bool {
        match self.routes.peer(session) {
            Some(peer) => self.call_events.push(CallEvent::Message(peer, rest.to_vec())),
            None => return is_message(rest) && self.keep_early(session, bytes),
        }
        true
    }

    /// Puts a message of a client aside; false if there is no such session.
    pub(super) fn deliver_guest(&mut self, session: SessionHandle, rest: &[u8]) -> bool {
        let Some(incarnation) = self.routes.guest(session) else { return false };
        let peer = PeerId { node: GUEST, incarnation };
        self.call_events.push(CallEvent::Message(peer, rest.to_vec()));
        true
    }

    /// A session is over, which may have been a client's.
    pub(super) fn guest_closed(&mut self, session: SessionHandle) {
        if let Some(incarnation) = self.routes.guest_closed(session) {
            self.call_events.push(CallEvent::Away(PeerId { node: GUEST, incarnation }));
        }
    }
}

impl From<&Member> for PeerId {
    fn from(member: &Member) -> PeerId {
        PeerId { node: member.id, incarnation: member.intro.incarnation }
    }
}
