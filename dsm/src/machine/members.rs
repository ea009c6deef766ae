//! What a node does about the other members: it brings sessions and members together, tells the membership core
//! what was seen of whom, and follows its views.

use smallvec::SmallVec;
use tracing::Level;

use super::routes::link;
use super::{Cores, Host, Machine, Why, close};
use crate::coherence::{Coherence, Input, NodeSet};
use crate::config::membership::HEARTBEAT;
use crate::config::net::SESSIONS_CROWD;
use crate::config::node::{CONSENT_MAX, FLUSH_MAX};
use crate::config::rpc::SILENCE_MAX;
use crate::membership::{COORDINATOR, Death, Kind, Member, Membership, Observation};
use crate::net::{CloseReason, ConnectRefused, Event as NetEvent, Series, SessionHandle};
use crate::page::{Epoch, Incarnation, NodeId, PeerId, Span, Time};

/// Why a session with a member is ended that is not evicted.
const SEVERED: &str = "messages of an earlier session may be lost";

impl Machine {
    pub(super) fn on_net_event<H: Host>(&mut self, now: Time, event: NetEvent, host: &mut H) {
        match event {
            NetEvent::Connected { session, incarnation, .. } if self.cores.routes.is_severed(incarnation) => {
                self.cores.connecting.remove(&session);
                self.endpoint.close(now, session, close::SEVERED, SEVERED);
            }
            NetEvent::Connected { session, incarnation, .. } => {
                self.cores.routes.connected(session, incarnation);
                if self.cores.coordinator_session == Some(session) {
                    self.cores.routes.is_coordinator(session);
                    let newcomer = Membership::newcomer(self.cores.intro.clone(), link(session));
                    self.cores.membership = Some(self.cores.configured(newcomer));
                }
                self.cores.connecting.remove(&session);
                self.on_new_view(now, host);
            }
            NetEvent::ConnectFailed { session, error, series, .. } => {
                if self.cores.coordinator_session == Some(session) {
                    self.cores.end_with(Why::NotJoined(error.to_string()));
                } else if let Some(node) = self.cores.connecting.remove(&session) {
                    self.cores.note(Level::DEBUG, format!("no session with {node}: {error}"));
                    // A busy host may answer too late; the deadline of the join ends this.
                    self.connect_to(now, node, Some(series));
                }
            }
            NetEvent::Closed { session, reason } => {
                let peer = self.cores.routes.peer(session);
                if let (Some(peer), CloseReason::Replaced) = (peer, &reason) {
                    self.sever(now, peer);
                }
                let said = self.on_closed(now, session, Some(reason));
                if let (Some(peer), Some(why)) = (peer, said) {
                    self.cores.observe(now, Observation::SaidEnd(peer.incarnation, why));
                }
            }
            // A hint that anybody can forge; the heartbeat decides.
            NetEvent::Refused { session, .. } => {
                if !self.cores.rules.takes_refusals_for_hints() {
                    let of = self.cores.routes.peer(session).map(|peer| peer.incarnation);
                    of.into_iter().for_each(|of| self.cores.observe(now, Observation::ProcessEnded(of)));
                }
            }
        }
    }

    /// Tells the detector what was heard of each member, and asks the quiet ones for a sign of life.
    pub(super) fn observe_members(&mut self, now: Time) {
        let Cores { membership, routes, drained_at, .. } = &mut self.cores;
        let Some(membership) = membership else { return };
        let members: SmallVec<[SessionHandle; 8]> = routes.members().map(|(_, session)| session).collect();
        for session in members {
            let heard = self.endpoint.last_heard(session).unwrap_or(now);
            // A ping and its acknowledgement are signs of life of both: one of the two pings.
            if now.since(heard) > Span(HEARTBEAT.0 / 2) {
                self.endpoint.ping(session);
            }
            if let Some(peer) = routes.peer(session) {
                membership.observe(now, Observation::Heard(peer.incarnation, heard));
            }
        }
        match drained_at.take() {
            Some(at) => membership.observe(now, Observation::Drained(at)),
            None => membership.on_timer(now),
        }
    }

    /// Ends the sessions of members that left some time ago.
    pub(super) fn end_departed_sessions(&mut self, now: Time) {
        let departing = std::mem::take(&mut self.cores.departing);
        // A leaver that gets no core takes the coordinator's consent late, and waits for it that long.
        let awaits = |session, until| {
            self.cores.rules.waits_for_leavers()
                && self.endpoint.pending(session).is_some_and(|count| count > 0)
                && now < until + CONSENT_MAX
        };
        let (expired, kept) =
            departing.into_iter().partition(|&(session, until)| until <= now && !awaits(session, until));
        self.cores.departing = kept;
        let expired: Vec<(SessionHandle, Time)> = expired;
        for (session, _) in expired {
            self.endpoint.close(now, session, close::DONE, "you have left");
            self.cores.forget_session(session);
        }
    }

    /// A client that is silent need not be dead: it says nothing while no thread waits in it. But the memory of
    /// what waits for it is better used otherwise, and in a crowd so is its place.
    pub(super) fn close_silent_clients(&mut self, now: Time) {
        let listening = self.cores.listening_since;
        let crowd = self.endpoint.sessions() >= SESSIONS_CROWD;
        let is_in_the_way = |session: SessionHandle| {
            let heard = self.endpoint.last_heard(session).unwrap_or(now).max(listening);
            let waits = self.endpoint.pending(session).is_some_and(|count| count > 0);
            now.since(heard) > SILENCE_MAX && (waits || crowd)
        };
        let strangers = self.cores.routes.strangers();
        let silent: SmallVec<[SessionHandle; 4]> =
            strangers.filter(|&session| is_in_the_way(session)).collect();
        silent.into_iter().for_each(|session| self.end_client(now, session));
    }

    pub(super) fn end_client(&mut self, now: Time, session: SessionHandle) {
        let reason = "you are silent, or take no answers";
        self.endpoint.close(now, session, close::DONE, reason);
        // No event tells of an end that comes from here.
        let _ = self.on_closed(now, session, None);
    }

    /// A session is over; returns the peer's last words by which it ends, if it said any. That a session with a
    /// member is over says nothing of the member: if it stays silent, the detector will tell.
    pub(super) fn on_closed(
        &mut self,
        now: Time,
        session: SessionHandle,
        reason: Option<CloseReason>,
    ) -> Option<String> {
        self.cores.departing.retain(|&(departing, _)| departing != session);
        self.cores.client_closed(now, session);
        let node = self.cores.forget_session(session);
        if let (Some(node), Some(reason)) = (node, &reason) {
            self.cores.note(Level::DEBUG, format!("the session with {node} is over: {reason}"));
        }
        match (node, reason) {
            (Some(_), Some(CloseReason::Peer { code: close::ENDS, reason })) => return Some(reason),
            (Some(COORDINATOR), Some(CloseReason::Peer { code: close::EVICTED, reason })) => {
                self.cores.end_with(Why::Evicted(reason));
            }
            // Its word that this node may go was lost; this one came instead.
            (Some(COORDINATOR), Some(CloseReason::Peer { code: close::DONE, .. }))
                if self.cores.asks_to_leave() =>
            {
                self.cores.let_go(now);
            }
            (None, reason) if self.cores.coordinator_session == Some(session) => {
                let text = reason.map_or_else(|| "it broke the protocol".into(), |reason| reason.to_string());
                self.cores.end_with(Why::NotJoined(text));
            }
            (Some(_) | None, _) => {}
        }
        None
    }

    /// A member has begun a second session in place of one that it knew. What was sent there and not acknowledged may
    /// have arrived or not, so it can be sent neither again nor not at all: the two members have no session any
    /// more, hear nothing of each other, and one of them has to go.
    fn sever(&mut self, now: Time, peer: PeerId) {
        let text = format!("{} has begun a second session: messages may be lost", peer.node);
        self.cores.note(Level::WARN, text);
        for session in self.cores.routes.sever(peer.incarnation) {
            self.endpoint.close(now, session, close::SEVERED, SEVERED);
            // No event tells of an end that comes from here.
            let _ = self.on_closed(now, session, None);
        }
    }

    /// Begins a session with a member, or, in a series of attempts, begins it anew.
    fn connect_to(&mut self, now: Time, node: NodeId, series: Option<Series>) {
        let view = self.cores.membership.as_ref().map(Membership::view);
        let Some(addr) = view.and_then(|view| view.member(node)).map(|member| member.intro.addr) else {
            return;
        };
        let begun = match series {
            Some(series) => self.endpoint.connect_again(now, addr, series),
            None => self.endpoint.connect(now, addr),
        };
        match begun {
            Ok(session) => {
                self.cores.connecting.insert(session, node);
            }
            // It is on its way from the other side, or there is no room: the join's deadline names who is missing.
            Err(ConnectRefused::Exists(_) | ConnectRefused::Full) => {}
        }
    }

    pub(super) fn on_joined<H: Host>(&mut self, now: Time, host: &mut H) {
        let Some(membership) = &self.cores.membership else { return };
        let me = membership.me().expect("joined");
        // Members of before hear of this node by its hello; those that come later say hello to it.
        let others = membership.view().running().map(|member| member.id);
        let others: Vec<NodeId> = others.filter(|&id| id != me && id != COORDINATOR).collect();
        let joined = membership.view().epoch;
        let is_member = |id: &NodeId| membership.view().member(*id).is_some();
        let nearest = self.cores.nearest.filter(is_member).unwrap_or(me);
        let mut coherence = Coherence::new(me, joined, nearest).with_limit(self.cores.limit());
        for member in &membership.view().members {
            coherence.tell_program(member.id, member.intro.kind.program());
        }
        self.cores.coherence = Some(coherence);
        // It is home of nothing yet.
        host.note_opened(joined);
        self.cores.further.note_view(membership);
        let view = membership.view();
        let tells_deaths = !view.deaths.is_empty();
        let members: NodeSet = view.members.iter().map(|member| member.id).collect();
        if tells_deaths {
            // A member that hears of this node together with a death waits for its report.
            self.cores.input(now, Input::Joined { members }, host);
        }
        for node in others {
            self.connect_to(now, node, None);
        }
        self.cores.has_new_view = true;
    }

    /// What leavers have said before this change was known here, and what was acknowledged: they may have left because
    /// of that. (What a dead member said counts as not sent.)
    fn deliver_last_words<H: Host>(&mut self, now: Time, left: &[Member], host: &mut H) {
        if left.is_empty() {
            return;
        }
        let routes = &self.cores.routes;
        let is_leavers = |session| {
            routes.peer(session).is_some_and(|peer| left.iter().any(|member| PeerId::from(member) == peer))
        };
        let early = self.cores.gate.take_of(is_leavers);
        // It knew no view of after its departure.
        let view = self.cores.membership.as_ref().map(|membership| membership.view().epoch);
        let installed = std::mem::replace(&mut self.cores.installed, view.unwrap_or_default());
        for early in early {
            self.cores.deliver(now, early.session, &early.bytes, early.source(), host);
        }
        self.cores.installed = installed;
    }

    /// Sessions may have found their member, and messages that came too early their explanation.
    pub(super) fn on_new_view<H: Host>(&mut self, now: Time, host: &mut H) {
        if let Some(membership) = &self.cores.membership {
            self.cores.installed = membership.view().epoch;
            self.cores.routes.map(membership.view());
        }
        let early = self.cores.gate.take();
        if early.is_empty() {
            return;
        }
        for early in early {
            self.cores.deliver(now, early.session, &early.bytes, early.source(), host);
        }
        let gate = &self.cores.gate;
        self.cores.routes.forget_ended(|session| gate.keeps(session));
    }

    pub(super) fn on_view_changed<H: Host>(
        &mut self,
        now: Time,
        (joined, left, died): (&[Member], &[Member], Vec<Death>),
        host: &mut H,
    ) {
        self.cores.view_changes += 1;
        let is_vacated = |node| {
            left.iter().any(|member| member.id == node) || died.iter().any(|death| death.member.id == node)
        };
        // A newcomer may have the slot of a member that went in the same change: then after that.
        let (after, before): (Vec<&Member>, Vec<&Member>) =
            joined.iter().partition(|member| is_vacated(member.id));
        for member in before {
            self.cores.on_member(now, member, host);
        }
        if self.cores.rules.hears_leavers_out() {
            self.deliver_last_words(now, left, host);
        }
        let ends_transactions = self.cores.rules.ends_transactions_of_the_departed();
        for member in left {
            if ends_transactions {
                self.cores.input_all(now, Input::NodeLeft(member.id), host);
            }
            self.cores.left.insert(member.id, member.clone());
            if !self.cores.further.is_run_on(member.into()) {
                self.cores.peer_gone(now, member.into());
            }
            self.cores.further.note_left(member.into());
            if let Some(session) = self.cores.forget_member(member) {
                self.cores.departing.push((session, now + FLUSH_MAX));
            }
        }
        if ends_transactions {
            self.cores.begin_round(now, &died, host);
        }
        for death in died {
            self.cores.note_death(&death);
            let is_news = !self.cores.further.is_run_on((&death.member).into());
            self.cores.further.note_death(&death);
            if is_news {
                self.cores.left.remove(&death.member.id);
                self.cores.peer_gone(now, (&death.member).into());
                if let Some(session) = self.cores.forget_member(&death.member) {
                    self.endpoint.close(now, session, close::EVICTED, &death.how);
                }
            }
            if is_news || death.runner.is_none() {
                self.cores.on_death(&death);
            }
        }
        self.cores.follow_runners();
        for member in after {
            self.cores.on_member(now, member, host);
        }
        self.cores.has_new_view = true;
        if !self.cores.rules.installs_whole_views() {
            self.on_new_view(now, host);
        }
    }
}

impl Cores {
    /// Tells the coherence core of deaths. All members name the round alike: by the view that told the last of them.
    fn begin_round<H: Host>(&mut self, now: Time, died: &[Death], host: &mut H) {
        let Some(membership) = self.membership.as_ref().filter(|_| !died.is_empty()) else { return };
        let view = membership.view();
        let told =
            view.deaths.iter().filter(|(_, death)| died.contains(death)).map(|&(epoch, _)| epoch).max();
        let epoch = told.or(view.deaths.back().map(|&(epoch, _)| epoch)).unwrap_or(view.epoch);
        let members: NodeSet = view.members.iter().map(|member| member.id).collect();
        let (mut lost, mut run_on) = (NodeSet::EMPTY, view.runners.keys().copied().collect::<NodeSet>());
        for death in died {
            // The members are those of the last view, which may have told since that its runner is gone too.
            let of_it = |(_, other): &&(Epoch, Death)| other.member == death.member;
            let last = view.deaths.iter().rev().find(of_it).map_or(death, |(_, last)| last);
            let nodes = if last.runner.is_some() { &mut run_on } else { &mut lost };
            nodes.insert(death.member.id);
        }
        self.further.note_round(epoch, members, run_on);
        self.input_all(now, Input::Round { epoch, members, died: lost, run_on }, host);
    }

    /// Tells the operator of a death.
    fn note_death(&mut self, death: &Death) {
        let view = self.membership.as_ref().map(Membership::view);
        let runner = death.runner.and_then(|runner| view?.incarnation(runner.incarnation));
        let who = death.member.describe();
        let text = match runner {
            Some(runner) => format!("{who} died: {}; {} runs its memory on", death.how, runner.describe()),
            None => format!("{who} died: {}", death.how),
        };
        self.note(Level::WARN, text);
    }

    pub(super) fn configured(&self, membership: Membership) -> Membership {
        let membership = membership.with_rules(self.membership_rules).with_runners(self.runs_on);
        match self.silence_max {
            Some(longest) => membership.with_silence_max(longest),
            None => membership,
        }
    }

    fn on_member<H: Host>(&mut self, now: Time, member: &Member, host: &mut H) {
        self.further.note_joined(member.id);
        self.input_all(now, Input::NodeJoined(member.id), host);
        if let Some(coherence) = &mut self.coherence {
            coherence.tell_program(member.id, member.intro.kind.program());
        }
    }

    /// A member is gone; returns the session that led to it.
    fn forget_member(&mut self, member: &Member) -> Option<SessionHandle> {
        if self.rules.forgets_messages_of_the_departed() {
            self.egress.forget(member.id);
        }
        let gate = &mut self.gate;
        let session = self.routes.forget(member.into());
        session.iter().for_each(|&session| gate.forget(session));
        session
    }

    /// A session is over; returns the member that it led to. Messages of that member that a later view must explain
    /// were acknowledged: it may have left because of that.
    fn forget_session(&mut self, session: SessionHandle) -> Option<NodeId> {
        let is_member = self.routes.node(session).is_some();
        if is_member && self.gate.keeps(session) && self.rules.keeps_messages_of_closed_sessions() {
            return self.routes.end(session);
        }
        self.gate.forget(session);
        self.routes.closed(session)
    }

    /// Tells the membership what was seen of a member.
    pub(super) fn observe(&mut self, now: Time, observation: Observation) {
        if let Some(membership) = &mut self.membership {
            membership.observe(now, observation);
        }
    }

    pub(super) fn on_traced(&mut self, now: Time, of: Incarnation) {
        let member = self.membership.as_ref().and_then(|membership| membership.view().incarnation(of));
        if let Some(text) =
            member.map(|member| format!("{} is stopped by a debugger: waiting for it", member.describe()))
        {
            self.note(Level::WARN, text);
        }
        self.observe(now, Observation::Traced(of));
    }

    /// What a death means for this node: a dead rank ends the ranks of its program, and a dead daemon all, unless its
    /// memory is run on.
    fn on_death(&mut self, death: &Death) {
        let ours = match (death.member.intro.kind, self.intro.kind) {
            (Kind::Daemon, Kind::Daemon | Kind::Rank { .. }) => death.runner.is_none(),
            (Kind::Rank { program: dead, .. }, Kind::Rank { program, .. }) => dead == program,
            (Kind::Rank { .. }, Kind::Daemon) => false,
        };
        let it_is_us = death.member.intro.incarnation == self.intro.incarnation;
        if ours || it_is_us {
            let name = format!("{}: {}", death.member.describe(), death.how);
            self.end_with(Why::Died { node: death.member.id, name });
        }
    }
}
