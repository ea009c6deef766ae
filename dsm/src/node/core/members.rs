//! What a node does about the other members: it brings sessions and members together, tells the membership core
//! what was seen of whom, and follows its views.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use tracing::Level;

use super::{Brain, CallEvent, Core, Fatal, Leaving, close};
use crate::coherence::{Coherence, Input};
use crate::config::membership::HEARTBEAT;
use crate::config::node::FLUSH_MAX;
use crate::fault::Arena;
use crate::membership::{COORDINATOR, Death, Kind, Member, Membership, Observation};
use crate::net::{CloseReason, ConnectRefused, SessionHandle};
use crate::node::waits::Outcome;
use crate::page::{NodeId, Span, Time};
use crate::rpc::PeerId;

impl Core {
    /// The socket was empty at `at`, and all that had come until then is handled.
    pub(in crate::node) fn drained(&mut self, at: Time) {
        self.brain.drained_at = self.brain.drained_at.max(Some(at));
    }

    /// Tells the detector what was heard of whom, and asks who was quiet for a sign of life.
    pub(super) fn observe_members(&mut self, now: Time) {
        let Brain { membership, peers, drained_at, .. } = &mut self.brain;
        let Some(membership) = membership else { return };
        let members: SmallVec<[SessionHandle; 8]> = peers.members().map(|(_, session)| session).collect();
        for session in members {
            let heard = self.endpoint.last_heard(session).unwrap_or(now);
            // A ping and its acknowledgement are signs of life of both: one of the two pings.
            if now.since(heard) > Span(HEARTBEAT.0 / 2) {
                self.endpoint.ping(session);
            }
            if let Some(peer) = peers.peer(session) {
                membership.observe(now, Observation::Heard(peer.incarnation, heard));
            }
        }
        match drained_at.take() {
            Some(at) => membership.observe(now, Observation::Drained(at)),
            None => membership.on_timer(now),
        }
    }

    /// A session is over; by the peer's last words, if it said any, it ends. That a session with a member is
    /// over says nothing of the member: if it stays silent, the detector will tell.
    pub(super) fn on_closed(
        &mut self,
        session: SessionHandle,
        reason: Option<CloseReason>,
    ) -> Option<String> {
        self.brain.departing.retain(|&(departing, _)| departing != session);
        self.brain.guest_closed(session);
        let node = self.brain.peers.closed(session);
        match (node, reason) {
            (Some(_), Some(CloseReason::Peer { code: close::ENDS, reason })) => return Some(reason),
            (Some(COORDINATOR), Some(CloseReason::Peer { code: close::EVICTED, reason })) => {
                self.brain.fatal(Fatal::Evicted(reason));
            }
            // Its word that this node may go was lost; this one came instead.
            (Some(COORDINATOR), Some(CloseReason::Peer { code: close::DONE, .. }))
                if matches!(self.brain.leaving, Leaving::Asked(_)) =>
            {
                self.brain.let_go();
            }
            (None, reason) if self.brain.coordinator_session == Some(session) => {
                let text = reason.map_or_else(|| "it broke the protocol".into(), |reason| reason.to_string());
                self.brain.fatal(Fatal::NotJoined(text));
            }
            (Some(_) | None, _) => {}
        }
        None
    }

    /// Begins a session with a member.
    pub(super) fn connect_to(&mut self, now: Time, node: NodeId) {
        let view = self.brain.membership.as_ref().map(Membership::view);
        let Some(addr) = view.and_then(|view| view.member(node)).map(|member| member.intro.addr) else {
            return;
        };
        match self.endpoint.connect(now, addr) {
            Ok(session) => {
                self.brain.connecting.insert(session, node);
            }
            // It is on its way from the other side, or there is no room: the join's deadline names who is missing.
            Err(ConnectRefused::Exists(_) | ConnectRefused::Full) => {}
        }
    }

    pub(super) fn on_joined(&mut self, now: Time, arena: &Arena) {
        let Some(membership) = &self.brain.membership else { return };
        let me = membership.me().expect("joined");
        // Whoever was there before us hears of us by our hello; whoever comes later says hello to us.
        let others = membership.view().members.iter().map(|member| member.id);
        let others: Vec<NodeId> = others.filter(|&id| id != me && id != COORDINATOR).collect();
        let joined = membership.view().epoch;
        let nearest = self.brain.nearest.filter(|id| membership.view().member(*id).is_some()).unwrap_or(me);
        let limit = crate::node::limit::of(&self.brain.intro);
        self.brain.coherence = Some(Coherence::new(me, joined, nearest, COORDINATOR).with_limit(limit));
        for node in others {
            self.connect_to(now, node);
        }
        self.on_new_view(now, arena);
    }

    /// Sessions may have found their member, and messages that came too early their explanation.
    pub(super) fn on_new_view(&mut self, now: Time, arena: &Arena) {
        if let Some(membership) = &self.brain.membership {
            self.brain.peers.map(membership.view());
        }
        for (session, bytes) in self.brain.peers.take_early() {
            self.brain.deliver(now, session, &bytes, arena);
        }
    }

    pub(super) fn on_view_changed(
        &mut self,
        now: Time,
        (joined, left, died): (&[Member], &[Member], Vec<Death>),
        arena: &Arena,
    ) {
        self.brain.view_changes += 1;
        for member in left {
            self.brain.input(now, Input::NodeLeft(member.id), arena);
            self.brain.left.insert(member.id, member.clone());
            self.brain.call_events.push(CallEvent::Ended(member.into()));
            if let Some(session) = self.brain.peers.forget(member.id) {
                self.brain.departing.push((session, now + FLUSH_MAX));
            }
        }
        for death in died {
            let id = death.member.id;
            self.brain.notes.add(Level::WARN, format!("{} died: {}", death.member.describe(), death.how));
            self.brain.input(now, Input::NodeDied(id), arena);
            self.brain.left.remove(&id);
            self.brain.record_losses(&death);
            self.brain.call_events.push(CallEvent::Ended((&death.member).into()));
            if let Some(session) = self.brain.peers.forget(id) {
                self.endpoint.close(now, session, close::EVICTED, &death.how);
            }
            self.brain.on_death(&death);
        }
        // A newcomer may have the slot of somebody who went in the same change.
        for member in joined {
            self.brain.input(now, Input::NodeJoined(member.id), arena);
        }
        self.on_new_view(now, arena);
    }
}

impl Brain {
    /// The coordinator is no more, and the cluster with it.
    pub(in crate::node) fn coordinator_died(&mut self, how: String) {
        let view = self.membership.as_ref().map(Membership::view);
        let Some(member) = view.and_then(|view| view.member(COORDINATOR)) else { return };
        let name = format!("{}: {how}", member.describe());
        match self.leaving {
            Leaving::No => self.fatal(Fatal::Died { node: COORDINATOR, name }),
            // It has nobody left to let go.
            Leaving::Asked(_) | Leaving::LetGo => self.let_go(),
        }
    }

    pub(super) fn with_silence_max(&self, membership: Membership) -> Membership {
        match self.silence_max {
            Some(longest) => membership.with_silence_max(longest),
            None => membership,
        }
    }

    /// Tells the membership what was seen of a member.
    pub(in crate::node) fn observe(&mut self, now: Time, observation: Observation) {
        if let Some(membership) = &mut self.membership {
            membership.observe(now, observation);
        }
    }

    /// What a death means for this node: a dead daemon ends all, a dead rank the ranks of its program.
    pub(super) fn on_death(&mut self, death: &Death) {
        let ours = match (death.member.intro.kind, self.intro.kind) {
            (Kind::Daemon, Kind::Daemon | Kind::Rank { .. }) => true,
            (Kind::Rank { program: dead, .. }, Kind::Rank { program, .. }) => dead == program,
            (Kind::Rank { .. }, Kind::Daemon) => false,
        };
        let it_is_us = death.member.intro.incarnation == self.intro.incarnation;
        if ours || it_is_us {
            let name = format!("{}: {}", death.member.describe(), death.how);
            self.fatal(Fatal::Died { node: death.member.id, name });
        }
    }

    /// Ends the join when all members have a session and all ranks of the program are there.
    pub(super) fn check_joined(&mut self) {
        let (Some(op), Some(membership)) = (self.joining, &mut self.membership) else { return };
        let Some(me) = membership.me() else { return };
        let connected =
            membership.view().members.iter().all(|m| m.id == me || self.peers.session(m.id).is_some());
        if connected {
            membership.met();
        }
        let view = membership.view();
        let complete = match self.intro.kind {
            Kind::Daemon => true,
            Kind::Rank { program, ranks, .. } => view.ranks(program).count() == ranks as usize,
        };
        if connected && complete {
            if let Kind::Rank { program, .. } = self.intro.kind {
                self.ranks = view.ranks(program).map(|member| member.id).collect();
                let ranked =
                    view.ranks(program).filter_map(|member| Some((member.intro.kind.rank()?, member.into())));
                let ranked: BTreeMap<u32, PeerId> = ranked.collect();
                self.ranks_in_order = ranked.into_values().collect();
            }
            self.joining = None;
            self.waits.end(op, Outcome::Membership);
        }
    }
}
