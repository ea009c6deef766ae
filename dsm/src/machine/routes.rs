//! Which session leads to which member or client.

use rustc_hash::FxHashMap;

use super::Rules;
use crate::config::NODES_MAX;
use crate::membership::{COORDINATOR, LinkId, View};
use crate::net::SessionHandle;
use crate::page::{Incarnation, NodeId, PeerId};

struct Peer {
    incarnation: Incarnation,
    node: Option<NodeId>,
    /// Over; it is here for what its member has said too early.
    is_over: bool,
}

/// Sessions by member and members by session.
pub(super) struct Routes {
    sessions: FxHashMap<SessionHandle, Peer>,
    of_node: Vec<Option<SessionHandle>>,
    /// Clients: processes that call without being members.
    clients: FxHashMap<Incarnation, SessionHandle>,
    /// Members with which this node has no session any more, because messages may be lost.
    severed: Vec<Incarnation>,
}

impl Routes {
    pub(super) fn new() -> Self {
        Routes {
            sessions: FxHashMap::default(),
            of_node: vec![None; NODES_MAX],
            clients: FxHashMap::default(),
            severed: Vec::new(),
        }
    }

    /// A session has come up.
    pub(super) fn connected(&mut self, session: SessionHandle, incarnation: Incarnation) {
        self.sessions.insert(session, Peer { incarnation, node: None, is_over: false });
    }

    /// The session that was made to the coordinator's address leads to the coordinator.
    pub(super) fn is_coordinator(&mut self, session: SessionHandle) {
        if let Some(peer) = self.sessions.get_mut(&session) {
            peer.node = Some(COORDINATOR);
            self.of_node[COORDINATOR.0 as usize] = Some(session);
        }
    }

    /// A session is over, and messages of it are kept: they still come of the member that it led to.
    pub(super) fn end(&mut self, session: SessionHandle) -> Option<NodeId> {
        let peer = self.sessions.get_mut(&session)?;
        peer.is_over = true;
        let node = peer.node?;
        if self.of_node[node.0 as usize] == Some(session) {
            self.of_node[node.0 as usize] = None;
        }
        Some(node)
    }

    /// Forgets the sessions that are over and of which nothing is kept.
    pub(super) fn forget_ended(&mut self, keeps: impl Fn(SessionHandle) -> bool) {
        self.sessions.retain(|session, peer| !peer.is_over || keeps(*session));
    }

    /// A session is over; returns the member that it led to.
    pub(super) fn closed(&mut self, session: SessionHandle) -> Option<NodeId> {
        let node = self.sessions.remove(&session)?.node?;
        if self.of_node[node.0 as usize] == Some(session) {
            self.of_node[node.0 as usize] = None;
        }
        Some(node)
    }

    /// No session leads to this start of a member any more; returns those that did.
    pub(super) fn sever(&mut self, incarnation: Incarnation) -> Vec<SessionHandle> {
        if !self.is_severed(incarnation) {
            self.severed.push(incarnation);
        }
        let its = self.sessions.iter().filter(|(_, peer)| peer.incarnation == incarnation);
        its.map(|(session, _)| *session).collect()
    }

    pub(super) fn is_severed(&self, incarnation: Incarnation) -> bool {
        self.severed.contains(&incarnation)
    }

    /// Brings the map up to date with the view.
    pub(super) fn map(&mut self, view: &View) {
        for (&session, peer) in &mut self.sessions {
            let member = view.running_at(peer.incarnation);
            if let (None, Some(member)) = (peer.node, member) {
                peer.node = Some(member.id);
                self.of_node[member.id.0 as usize] = Some(session);
            }
        }
    }

    /// A member is gone; returns the session that led to it. The next member with its id may have one already.
    pub(super) fn forget(&mut self, gone: PeerId) -> Option<SessionHandle> {
        self.severed.retain(|severed| *severed != gone.incarnation);
        let present = self.session(gone.node);
        let is_its = |session: &SessionHandle| self.peer(*session) == Some(gone);
        let its = || self.sessions.keys().copied().find(is_its);
        let session = present.filter(is_its).or_else(its)?;
        if present == Some(session) {
            self.of_node[gone.node.0 as usize] = None;
        }
        self.sessions.remove(&session);
        Some(session)
    }

    /// The member that a session leads to.
    pub(super) fn node(&self, session: SessionHandle) -> Option<NodeId> {
        self.sessions.get(&session)?.node
    }

    /// The start of the member that a session leads to.
    pub(super) fn peer(&self, session: SessionHandle) -> Option<PeerId> {
        let Peer { incarnation, node, .. } = self.sessions.get(&session)?;
        Some(PeerId { node: (*node)?, incarnation: *incarnation })
    }

    /// The start of the node that a session leads to, as the handshake proved it.
    pub(super) fn incarnation(&self, session: SessionHandle) -> Option<Incarnation> {
        Some(self.sessions.get(&session)?.incarnation)
    }

    /// A session whose other side calls as a client; returns which start of it that is.
    pub(super) fn client(&mut self, session: SessionHandle) -> Option<Incarnation> {
        let incarnation = self.sessions.get(&session)?.incarnation;
        self.clients.insert(incarnation, session);
        Some(incarnation)
    }

    /// The session that leads to a client.
    pub(super) fn client_session(&self, incarnation: Incarnation) -> Option<SessionHandle> {
        self.clients.get(&incarnation).copied()
    }

    /// The client whose session this was, if it has no other.
    pub(super) fn client_closed(&mut self, session: SessionHandle) -> Option<Incarnation> {
        let incarnation = self.sessions.get(&session)?.incarnation;
        let its_last = self.clients.get(&incarnation) == Some(&session);
        its_last.then(|| self.clients.remove(&incarnation)).map(|_| incarnation)
    }

    /// The session that leads to a member.
    pub(super) fn session(&self, node: NodeId) -> Option<SessionHandle> {
        *self.of_node.get(node.0 as usize)?
    }

    /// The session that leads to this start of a member or client.
    pub(super) fn session_of(&self, rules: Rules, peer: PeerId) -> Option<SessionHandle> {
        if peer.is_client() {
            return self.client_session(peer.incarnation);
        }
        let is_same = |session: &SessionHandle| self.peer(*session) == Some(peer);
        self.session(peer.node).filter(|session| is_same(session) || !rules.tells_starts_apart())
    }

    /// All sessions to members.
    pub(super) fn members(&self) -> impl Iterator<Item = (NodeId, SessionHandle)> {
        self.of_node.iter().enumerate().filter_map(|(node, session)| Some((NodeId(node as u16), (*session)?)))
    }

    /// All sessions.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionHandle> {
        self.sessions.iter().filter(|(_, peer)| !peer.is_over).map(|(session, _)| *session)
    }

    /// Sessions to clients, and to processes that have not said yet what they want.
    pub(super) fn strangers(&self) -> impl Iterator<Item = SessionHandle> {
        let strangers = self.sessions.iter().filter(|(_, peer)| peer.node.is_none());
        strangers.map(|(session, _)| *session)
    }

    /// All sessions to clients.
    pub(super) fn clients(&self) -> impl Iterator<Item = SessionHandle> {
        self.clients.values().copied()
    }
}

/// The membership core's name for a session.
pub(super) fn link(session: SessionHandle) -> LinkId {
    LinkId(session.to_bits())
}
