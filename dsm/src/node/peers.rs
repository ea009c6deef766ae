//! Which session leads to which member, and what waits for a session that has not come yet.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;

use crate::config::NODES_MAX;
use crate::config::node::{EARLY_BYTES_MAX, EARLY_MESSAGES_MAX};
use crate::membership::{COORDINATOR, LinkId, View};
use crate::net::{Endpoint, OutMessage, Priority, SessionHandle};
use crate::page::{Incarnation, NodeId, Time};
use crate::rpc::PeerId;

struct Peer {
    incarnation: Incarnation,
    node: Option<NodeId>,
}

/// Sessions by member and members by session.
pub(super) struct Peers {
    sessions: FxHashMap<SessionHandle, Peer>,
    of_node: Vec<Option<SessionHandle>>,
    /// Who calls without being a member.
    guests: FxHashMap<Incarnation, SessionHandle>,
    /// Messages to members whose session has not come yet, or whose queue is full.
    unsent: FxHashMap<NodeId, VecDeque<(OutMessage, Priority)>>,
    /// Messages of sessions that are no member's yet, or of an epoch that is not known here yet.
    early: Vec<(SessionHandle, Vec<u8>)>,
    early_bytes: usize,
}

impl Peers {
    pub(super) fn new() -> Self {
        Peers {
            sessions: FxHashMap::default(),
            of_node: vec![None; NODES_MAX],
            guests: FxHashMap::default(),
            unsent: FxHashMap::default(),
            early: Vec::new(),
            early_bytes: 0,
        }
    }

    /// A session has come up.
    pub(super) fn connected(&mut self, session: SessionHandle, incarnation: Incarnation) {
        self.sessions.insert(session, Peer { incarnation, node: None });
    }

    /// The session that was made to the coordinator's address leads to the coordinator.
    pub(super) fn is_coordinator(&mut self, session: SessionHandle) {
        if let Some(peer) = self.sessions.get_mut(&session) {
            peer.node = Some(COORDINATOR);
            self.of_node[COORDINATOR.0 as usize] = Some(session);
        }
    }

    /// A session is over; returns the member that it led to.
    pub(super) fn closed(&mut self, session: SessionHandle) -> Option<NodeId> {
        self.early.retain(|(from, _)| *from != session);
        self.early_bytes = self.early.iter().map(|(_, bytes)| bytes.len()).sum();
        let node = self.sessions.remove(&session)?.node?;
        if self.of_node[node.0 as usize] == Some(session) {
            self.of_node[node.0 as usize] = None;
        }
        Some(node)
    }

    /// Brings the map up to date with the view.
    pub(super) fn map(&mut self, view: &View) {
        for (&session, peer) in &mut self.sessions {
            let member = view.incarnation(peer.incarnation);
            if let (None, Some(member)) = (peer.node, member) {
                peer.node = Some(member.id);
                self.of_node[member.id.0 as usize] = Some(session);
            }
        }
    }

    /// A member is gone; returns the session that led to it.
    pub(super) fn forget(&mut self, node: NodeId) -> Option<SessionHandle> {
        self.unsent.remove(&node);
        let session = self.of_node[node.0 as usize].take()?;
        self.sessions.remove(&session);
        Some(session)
    }

    /// The member that a session leads to.
    pub(super) fn node(&self, session: SessionHandle) -> Option<NodeId> {
        self.sessions.get(&session)?.node
    }

    /// The start of the member that a session leads to.
    pub(super) fn peer(&self, session: SessionHandle) -> Option<PeerId> {
        let Peer { incarnation, node } = self.sessions.get(&session)?;
        Some(PeerId { node: (*node)?, incarnation: *incarnation })
    }

    /// A session whose other side calls as a guest; returns which start of it that is.
    pub(super) fn guest(&mut self, session: SessionHandle) -> Option<Incarnation> {
        let incarnation = self.sessions.get(&session)?.incarnation;
        self.guests.insert(incarnation, session);
        Some(incarnation)
    }

    /// The session that leads to a guest.
    pub(super) fn guest_session(&self, incarnation: Incarnation) -> Option<SessionHandle> {
        self.guests.get(&incarnation).copied()
    }

    /// The guest whose session this was, if it has no other.
    pub(super) fn guest_closed(&mut self, session: SessionHandle) -> Option<Incarnation> {
        let incarnation = self.sessions.get(&session)?.incarnation;
        let its_last = self.guests.get(&incarnation) == Some(&session);
        its_last.then(|| self.guests.remove(&incarnation)).map(|_| incarnation)
    }

    /// The session that leads to a member.
    pub(super) fn session(&self, node: NodeId) -> Option<SessionHandle> {
        *self.of_node.get(node.0 as usize)?
    }

    /// All sessions to members.
    pub(super) fn members(&self) -> impl Iterator<Item = (NodeId, SessionHandle)> {
        self.of_node.iter().enumerate().filter_map(|(node, session)| Some((NodeId(node as u16), (*session)?)))
    }

    /// All sessions.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionHandle> {
        self.sessions.keys().copied()
    }

    /// Sessions to guests, and to who has not said yet what it wants.
    pub(super) fn strangers(&self) -> impl Iterator<Item = SessionHandle> {
        let strangers = self.sessions.iter().filter(|(_, peer)| peer.node.is_none());
        strangers.map(|(session, _)| *session)
    }

    /// All sessions to guests.
    pub(super) fn guests(&self) -> impl Iterator<Item = SessionHandle> {
        self.guests.values().copied()
    }

    /// Sends to a member, or keeps the message until its session has come or its queue has room. What the
    /// cores say answers a request or makes one, and those are bounded; so is what waits here.
    pub(super) fn send(
        &mut self,
        now: Time,
        endpoint: &mut Endpoint,
        to: NodeId,
        message: OutMessage,
        priority: Priority,
    ) {
        let waits = self.unsent.get(&to).is_some_and(|unsent| !unsent.is_empty());
        match self.session(to) {
            Some(session) if !waits && endpoint.has_room(session, &message, priority) => {
                // Closed: the event that says so is on its way.
                let _ = endpoint.send(now, session, message, priority);
            }
            Some(_) | None => self.unsent.entry(to).or_default().push_back((message, priority)),
        }
    }

    /// Sends what waited for room or for a session; true if there was anything.
    pub(super) fn send_waiting(&mut self, now: Time, endpoint: &mut Endpoint) -> bool {
        let mut any = false;
        if self.unsent.is_empty() {
            return any;
        }
        for (node, unsent) in &mut self.unsent {
            let Some(session) = self.of_node[node.0 as usize] else { continue };
            while let Some((message, priority)) = unsent.front()
                && endpoint.has_room(session, message, *priority)
                && let Some((message, priority)) = unsent.pop_front()
            {
                let _ = endpoint.send(now, session, message, priority);
                any = true;
            }
        }
        self.unsent.retain(|_, unsent| !unsent.is_empty());
        any
    }

    /// Messages that wait for a member's session, or for room in its queue.
    pub(super) fn unsent(&self, node: NodeId) -> usize {
        self.unsent.get(&node).map_or(0, VecDeque::len)
    }

    /// Keeps a message until the view is known that explains it; false if there is no room.
    pub(super) fn keep_early(&mut self, session: SessionHandle, bytes: &[u8]) -> bool {
        let fits = self.early.len() < EARLY_MESSAGES_MAX && self.early_bytes + bytes.len() <= EARLY_BYTES_MAX;
        if fits {
            self.early_bytes += bytes.len();
            self.early.push((session, bytes.to_vec()));
        }
        fits
    }

    /// The messages that were kept, in the order of arrival.
    pub(super) fn take_early(&mut self) -> Vec<(SessionHandle, Vec<u8>)> {
        self.early_bytes = 0;
        std::mem::take(&mut self.early)
    }
}

/// The membership core's name for a session.
pub(super) fn link(session: SessionHandle) -> LinkId {
    LinkId(session.to_bits())
}
