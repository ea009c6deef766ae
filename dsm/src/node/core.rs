//! Everything of a node that lives under its lock: the three cores, and the glue that carries each
//! one's outputs to the next. Nothing here waits; the caller moves the datagrams.

mod members;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tracing::Level;

use super::local::{Local, LockWords};
use super::losses::Losses;
use super::notes::Notes;
use super::patience::Awaited;
use super::peers::{Peers, link};
use super::rpc::CallEvent;
use super::wait_times::WaitClock;
use super::waits::{Audience, Outcome, Waits};
use crate::codec::{decode_control, encode_control};
use crate::coherence::{
    BATCH_MESSAGES_MAX, Batch, Coherence, Failure, Input, Message, NodeSet, OpId, Output, encode_batch_head,
};
use crate::config::membership::HEARTBEAT;
use crate::config::net::SESSIONS_CROWD;
use crate::config::node::{BATCH_PAGES_MAX, FLUSH_MAX, STREAMING_MIN};
use crate::config::rpc::SILENCE_MAX;
use crate::fault::Arena;
use crate::membership::{Action, Control, Introduction, Member, Membership, Observation};
use crate::net::{Endpoint, Event, OutMessage, Priority, SessionHandle};
use crate::page::{Incarnation, NodeId, PageBuf, PageId, Span, Time};
use crate::rpc::PeerId;

/// First byte of every message: whom it is for.
pub(crate) mod channel {
    pub(in crate::node) const COHERENCE: u8 = 1;
    pub(in crate::node) const CONTROL: u8 = 2;
    /// Calls to and from who is no member.
    pub(crate) const GUEST: u8 = 3;
    pub(in crate::node) const CALLS: u8 = 4;
    pub(in crate::node) const LOSS: u8 = 5;
}

/// Why a node ends a session, for the peer's program.
pub(crate) mod close {
    /// No more is to be said: a guest's session, or one whose node has left.
    pub(crate) const DONE: u16 = 0;
    /// The node that closes ends without leaving: its last words.
    pub(crate) const ENDS: u16 = 1;
    /// The peer was taken out of the cluster, because.
    pub(crate) const EVICTED: u16 = 2;
}

/// Why a node cannot go on.
#[derive(Clone, Debug)]
pub(super) enum Fatal {
    /// A node that everything here depends on is dead.
    Died {
        /// Who.
        node: NodeId,
        /// Its description and how its death is known.
        name: String,
    },
    /// It never became a member.
    NotJoined(String),
    /// It was taken out of the cluster.
    Evicted(String),
    /// The cluster stops because somebody asked it to.
    Stopped(String),
    /// The memory of this node failed.
    Broken(String),
}

/// How far this node's departure is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Leaving {
    /// It stays.
    No,
    /// It has asked the coordinator; this ends when it is let go.
    Asked(OpId),
    /// Nothing that happens to the cluster concerns it any more.
    LetGo,
}

/// A node's cores and the glue between them.
pub(super) struct Core {
    pub(super) endpoint: Endpoint,
    pub(super) brain: Brain,
    sends: Vec<Send>,
}

/// A message of the coherence core, to whom, and the page that it carries.
type Send = (NodeId, Message, Option<PageBuf>);

/// The part that reacts to messages; apart from the endpoint, which lends it the bytes.
pub(super) struct Brain {
    pub(super) intro: Introduction,
    pub(super) membership: Option<Membership>,
    pub(super) coherence: Option<Coherence>,
    pub(super) peers: Peers,
    pub(super) waits: Waits,
    pub(super) words: LockWords,
    pub(super) fatal: Option<Fatal>,
    pub(super) notes: Notes,
    pub(super) losses: Losses,
    /// All sessions were ended, and no others begin.
    pub(super) closed: bool,
    /// Ends when this node and all its peers are ready.
    pub(super) joining: Option<OpId>,
    pub(super) leaving: Leaving,
    /// The ranks of this node's program, once all have joined.
    pub(super) ranks: NodeSet,
    /// Their processes, by rank.
    pub(super) ranks_in_order: Vec<PeerId>,
    pub(super) nearest: Option<NodeId>,
    /// From the settings.
    pub(super) silence_max: Option<Span>,
    /// By node id, the last member that has left; none if one with that id has died since.
    pub(super) left: BTreeMap<NodeId, Member>,
    pub(super) view_changes: u64,
    /// How long threads of this node waited.
    pub(super) wait_clock: WaitClock,
    /// Most pages that had memory here after any event.
    pub(super) resident_peak: u64,
    /// Regions that are mapped, while what was held before still leaves them no room.
    crowding: Vec<PageId>,
    pub(super) outputs: Outputs,
    /// A page fault that nobody waits for has failed.
    pub(super) failed_fault: Option<Failure>,
    coordinator_session: Option<SessionHandle>,
    /// Sessions under way to members.
    connecting: FxHashMap<SessionHandle, NodeId>,
    /// Sessions of members that have left; they end them, or we do when the time has come.
    departing: Vec<(SessionHandle, Time)>,
    pub(super) violators: Vec<SessionHandle>,
    /// Processes of this host that are silent, to be looked at without the lock.
    pub(super) inspections: Vec<(Incarnation, u32)>,
    /// For the calls, which are handled without the lock.
    pub(super) call_events: SmallVec<[CallEvent; 2]>,
    next_heartbeat: Time,
    /// The last moment at which the socket was empty, if the detector has not been told.
    drained_at: Option<Time>,
    /// No silence counts before this moment: this process itself may have been stopped.
    listening_since: Time,
}

/// How much the coherence core has put out.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Outputs {
    sent: u64,
    done: u64,
    /// Of what was sent, what went to who had just asked.
    answers: u64,
    pub(super) asker: Option<NodeId>,
}

impl Outputs {
    /// A message went out: an answer if it went to who had just asked, or is the page that was asked for.
    fn count_answer(&mut self, to: NodeId, carries_page: bool) {
        let is_answer = self.asker.is_some_and(|asker| asker == to || carries_page);
        self.answers += u64::from(is_answer);
    }

    /// Whether a peer was answered since, and no thread of this node. Who is only put in a queue, or
    /// referred to another node, will not ask for more at once.
    pub(super) fn served_since(&self, before: &Outputs) -> bool {
        self.answers > before.answers && self.done == before.done
    }

    /// Whether anything was put out since.
    pub(super) fn moved_since(&self, before: &Outputs) -> bool {
        (self.sent, self.done) != (before.sent, before.done)
    }
}

impl Core {
    pub(super) fn new(endpoint: Endpoint, intro: Introduction, nearest: Option<NodeId>) -> Self {
        let brain = Brain {
            intro,
            membership: None,
            coherence: None,
            peers: Peers::new(),
            waits: Waits::default(),
            words: LockWords::default(),
            fatal: None,
            notes: Notes::default(),
            losses: Losses::default(),
            closed: false,
            joining: None,
            leaving: Leaving::No,
            ranks: NodeSet::EMPTY,
            ranks_in_order: Vec::new(),
            nearest,
            silence_max: None,
            left: BTreeMap::new(),
            view_changes: 0,
            wait_clock: WaitClock::default(),
            resident_peak: 0,
            crowding: Vec::new(),
            outputs: Outputs::default(),
            failed_fault: None,
            coordinator_session: None,
            connecting: FxHashMap::default(),
            departing: Vec::new(),
            violators: Vec::new(),
            inspections: Vec::new(),
            call_events: SmallVec::new(),
            next_heartbeat: Time(0),
            drained_at: None,
            listening_since: Time(0),
        };
        Core { endpoint, brain, sends: Vec::new() }
    }

    /// Starts to found a cluster (no address), or to join the one whose coordinator is at `join`.
    pub(super) fn start(&mut self, now: Time, join: Option<SocketAddr>) {
        self.brain.listening_since = now;
        match join {
            None => {
                let founder = Membership::coordinator(self.brain.intro.clone());
                self.brain.membership = Some(self.brain.with_silence_max(founder));
            }
            Some(addr) => match self.endpoint.connect(now, addr) {
                Ok(session) => self.brain.coordinator_session = Some(session),
                Err(error) => self.brain.fatal(Fatal::NotJoined(error.to_string())),
            },
        }
    }

    /// Takes in a datagram.
    pub(super) fn on_datagram(&mut self, now: Time, from: SocketAddr, datagram: &[u8], arena: &Arena) {
        let brain = &mut self.brain;
        self.endpoint.handle_datagram(now, from, datagram, &mut |session, bytes| {
            brain.deliver(now, session, bytes, arena);
        });
    }

    /// Carries outputs around until there are none: afterwards only datagrams are left to send.
    /// True if there was anything.
    pub(super) fn settle(&mut self, now: Time, arena: &Arena) -> bool {
        let mut any = false;
        loop {
            let mut moved = false;
            while let Some(event) = self.endpoint.poll_event() {
                self.on_event(now, event, arena);
                moved = true;
            }
            while let Some(action) = self.brain.membership.as_mut().and_then(Membership::poll_action) {
                self.on_action(now, action, arena);
                moved = true;
            }
            moved |= self.brain.admit_regions();
            moved |= self.send_outputs(now);
            moved |= self.brain.peers.send_waiting(now, &mut self.endpoint);
            for session in std::mem::take(&mut self.brain.violators) {
                self.endpoint.close(
                    now,
                    session,
                    crate::net::CLOSE_VIOLATION,
                    "message that does not decode",
                );
                self.on_closed(session, None);
                moved = true;
            }
            any |= moved;
            if !moved {
                break;
            }
        }
        self.brain.check_joined();
        any
    }

    /// Runs the coherence timers and the heartbeat.
    pub(super) fn tick(&mut self, now: Time, arena: &Arena) {
        if let Some(coherence) = &self.brain.coherence
            && coherence.poll_timeout().is_some_and(|due| due <= now)
        {
            self.brain.input(now, Input::Timer, arena);
        }
        if now < self.brain.next_heartbeat {
            return;
        }
        if now > self.brain.next_heartbeat + HEARTBEAT + HEARTBEAT {
            // We ourselves did not run: everybody's silence starts now.
            self.brain.listening_since = now;
        }
        self.brain.next_heartbeat = now + HEARTBEAT;
        let brain = &mut self.brain;
        let (expired, kept) =
            std::mem::take(&mut brain.departing).into_iter().partition(|&(_, until)| until <= now);
        brain.departing = kept;
        let expired: Vec<(SessionHandle, Time)> = expired;
        for (session, _) in expired {
            self.endpoint.close(now, session, close::DONE, "you have left");
            brain.peers.closed(session);
        }
        self.close_silent_guests(now);
        if let Some(membership) = &mut self.brain.membership {
            membership.return_idle_uses();
        }
        self.observe_members(now);
    }

    /// Ends the session with a guest. It may come back and ask again.
    pub(super) fn close_guest(&mut self, now: Time, incarnation: Incarnation) {
        if let Some(session) = self.brain.peers.guest_session(incarnation) {
            self.end_guest(now, session);
        }
    }

    fn end_guest(&mut self, now: Time, session: SessionHandle) {
        let reason = "you are silent, or take no answers";
        self.endpoint.close(now, session, close::DONE, reason);
        // No event tells of an end that comes from here.
        self.on_closed(session, None);
    }

    /// Who is no member and silent need not be dead: a guest says nothing while nobody waits in it. But the
    /// memory of what waits for it is better used otherwise, and in a crowd so is its place.
    fn close_silent_guests(&mut self, now: Time) {
        let listening = self.brain.listening_since;
        let crowd = self.endpoint.sessions() >= SESSIONS_CROWD;
        let is_in_the_way = |session: SessionHandle| {
            let heard = self.endpoint.last_heard(session).unwrap_or(now).max(listening);
            let waits = self.endpoint.pending(session).is_some_and(|count| count > 0);
            now.since(heard) > SILENCE_MAX && (waits || crowd)
        };
        let silent: SmallVec<[SessionHandle; 4]> =
            self.brain.peers.strangers().filter(|&session| is_in_the_way(session)).collect();
        silent.into_iter().for_each(|session| self.end_guest(now, session));
    }

    /// When to call [`Core::tick`] or move datagrams although nothing has happened.
    pub(super) fn poll_timeout(&self) -> Time {
        let coherence = self.brain.coherence.as_ref().and_then(Coherence::poll_timeout);
        let due = [coherence, self.endpoint.poll_timeout()].into_iter().flatten().min();
        due.map_or(self.brain.next_heartbeat, |due| due.min(self.brain.next_heartbeat))
    }

    /// Whether a member has yet to acknowledge something.
    pub(super) fn has_pending_members(&self) -> bool {
        let unsent = |node| self.brain.peers.unsent(node) > 0;
        let pending = |session| self.endpoint.pending(session).is_some_and(|count| count > 0);
        self.brain.peers.members().any(|(node, session)| pending(session) || unsent(node))
    }

    /// Whether a member has yet to acknowledge something, or a guest that was heard of lately.
    pub(super) fn has_pending(&self, now: Time) -> bool {
        let pending = |session| self.endpoint.pending(session).is_some_and(|count| count > 0);
        let here = |session| self.endpoint.last_heard(session).is_some_and(|at| now.since(at) < FLUSH_MAX);
        let (members, guests) = (self.brain.peers.members(), self.brain.peers.guests());
        members.map(|(_, session)| session).chain(guests.filter(|&guest| here(guest))).any(pending)
    }

    /// Ends all sessions, and every wait.
    pub(super) fn close_all(&mut self, now: Time, reason: &str) {
        self.brain.closed = true;
        self.brain.end_waits();
        let code = if self.brain.leaving == Leaving::LetGo { close::DONE } else { close::ENDS };
        for session in self.brain.peers.sessions().collect::<Vec<_>>() {
            self.endpoint.close(now, session, code, reason);
        }
    }

    fn on_event(&mut self, now: Time, event: Event, arena: &Arena) {
        match event {
            Event::Connected { session, incarnation, .. } => {
                self.brain.peers.connected(session, incarnation);
                if self.brain.coordinator_session == Some(session) {
                    self.brain.peers.is_coordinator(session);
                    let newcomer = Membership::newcomer(self.brain.intro.clone(), link(session));
                    self.brain.membership = Some(self.brain.with_silence_max(newcomer));
                }
                self.brain.connecting.remove(&session);
                self.on_new_view(now, arena);
            }
            Event::ConnectFailed { session, error, .. } => {
                if self.brain.coordinator_session == Some(session) {
                    self.brain.fatal(Fatal::NotJoined(error.to_string()));
                } else if let Some(node) = self.brain.connecting.remove(&session) {
                    // A busy host may answer too late; the deadline of the join ends this.
                    self.connect_to(now, node);
                }
            }
            Event::Closed { session, reason } => {
                let (peer, observation) =
                    (self.brain.peers.peer(session), self.on_closed(session, Some(reason)));
                if let (Some(peer), Some(why), Some(membership)) =
                    (peer, observation, self.brain.membership.as_mut())
                {
                    membership.observe(now, Observation::SaidEnd(peer.incarnation, why));
                }
            }
            // A hint that anybody can forge; the heartbeat decides.
            Event::Refused { .. } => {}
        }
    }

    fn on_action(&mut self, now: Time, action: Action, arena: &Arena) {
        match action {
            Action::SendLink { link, control } => {
                let session = SessionHandle::from_bits(link.0);
                self.send_to_session(now, session, channel::CONTROL, &control);
            }
            Action::Send { to, control } => {
                let message = typed(channel::CONTROL, &encode_control(&control));
                self.send(now, to, message, Priority::Control);
            }
            Action::Joined => self.on_joined(now, arena),
            Action::JoinRefused(reason) => self.brain.fatal(Fatal::NotJoined(reason)),
            Action::ViewChanged { joined, left, died } => {
                self.on_view_changed(now, (&joined, &left, died), arena);
            }
            Action::MapRegion(record) => {
                let (start, pages) = (record.info.start, record.info.pages);
                self.brain.input(now, Input::Region(record.info), arena);
                if let Err(error) = arena.map_region(start, pages) {
                    self.brain.fatal(Fatal::Broken(format!("region `{}`: {error}", record.name)));
                }
                self.brain.crowding.push(start);
            }
            Action::UnmapRegion(record) => {
                let (start, pages) = (record.info.start, record.info.pages);
                self.brain.input(now, Input::RegionGone { start }, arena);
                self.brain.words.forget(start, pages);
                self.brain.losses.forget(start, pages);
                if let Err(error) = arena.unmap_region(start, pages) {
                    self.brain.fatal(Fatal::Broken(format!("region `{}`: {error}", record.name)));
                }
                self.brain.region_done(start);
            }
            Action::ProgramEnded { program } => {
                self.brain.input(now, Input::ProgramEnded { program }, arena);
            }
            Action::Done { op, result } => {
                self.brain.waits.end(OpId(op), Outcome::Region(result));
            }
            Action::Left => self.brain.let_go(),
            Action::Shutdown { reason } => self.brain.fatal(Fatal::Stopped(reason)),
            Action::Ping(node) => {
                if let Some(session) = self.brain.peers.session(node) {
                    self.endpoint.ping(session);
                }
            }
            Action::Inspect { of, pid } => self.brain.inspections.push((of, pid)),
            Action::CoordinatorDied { how } => self.brain.coordinator_died(how),
            Action::CutOff { how } => self.brain.fatal(Fatal::Evicted(how)),
        }
    }

    /// Sends what the coherence core has put out, in batches; true if there was something.
    fn send_outputs(&mut self, now: Time) -> bool {
        // Kept from call to call for its memory.
        let mut sends = std::mem::take(&mut self.sends);
        let mut any = false;
        while let Some(output) = self.brain.coherence.as_mut().and_then(Coherence::poll_output) {
            any = true;
            match output {
                Output::Send { to, message, page } => {
                    self.brain.outputs.sent += 1;
                    self.brain.outputs.count_answer(to, page.is_some());
                    if let Some(notice) = self.brain.notice_of_loss(&message) {
                        self.send(now, to, notice, Priority::Control);
                    }
                    sends.push((to, message, page));
                }
                Output::Done { op, result } => {
                    self.brain.outputs.done += 1;
                    self.brain.end(op, result);
                }
            }
        }
        while let Some(&(to, ..)) = sends.first() {
            let batch = self.take_batch(to, &mut sends);
            let priority = if batch.pages.is_empty() { Priority::Control } else { Priority::Bulk };
            self.send(now, to, batch, priority);
        }
        self.sends = sends;
        any
    }

    /// Takes what goes to `to` with the next batch.
    fn take_batch(&self, to: NodeId, sends: &mut Vec<Send>) -> OutMessage {
        let (mut count, mut pages) = (0, 0);
        let mut fits = |(node, _, page): &Send| {
            let carried = usize::from(page.is_some());
            let fits = *node == to && count < BATCH_MESSAGES_MAX && pages + carried <= BATCH_PAGES_MAX;
            if fits {
                (count, pages) = (count + 1, pages + carried);
            }
            fits
        };
        let chosen: SmallVec<[bool; 256]> = sends.iter().map(&mut fits).collect();
        let mut out = OutMessage::default();
        out.head.push(channel::COHERENCE);
        let epoch = self.brain.membership.as_ref().map_or_else(Default::default, |m| m.view().epoch);
        encode_batch_head(&mut out.head, epoch, count);
        let mut chosen = chosen.into_iter();
        sends.retain_mut(|(_, message, page)| {
            let goes = chosen.next() == Some(true);
            if goes {
                message.encode(&mut out.head);
                out.pages.extend(page.take());
            }
            !goes
        });
        out
    }

    fn send(&mut self, now: Time, to: NodeId, message: OutMessage, priority: Priority) {
        let is_member = self.brain.membership.as_ref().is_some_and(|m| m.view().member(to).is_some());
        if !is_member && self.brain.peers.session(to).is_none() {
            // It has gone, and whoever gets its slot next must not get its mail.
            return;
        }
        self.brain.peers.send(now, &mut self.endpoint, to, message, priority);
    }

    fn send_to_session<T: serde::Serialize>(
        &mut self,
        now: Time,
        session: SessionHandle,
        channel: u8,
        value: &T,
    ) {
        let message = typed(channel, &encode_control(value));
        // A session that is gone needs no answer; its end is an event of its own.
        let _ = self.endpoint.send(now, session, message, Priority::Control);
    }
}

impl Brain {
    /// One message of a session.
    fn deliver(&mut self, now: Time, session: SessionHandle, bytes: &[u8], arena: &Arena) {
        let understood = match bytes.split_first() {
            Some((&channel::COHERENCE, rest)) => self.deliver_batch(now, session, bytes, rest, arena),
            Some((&channel::CALLS, rest)) => self.deliver_calls(session, bytes, rest),
            Some((&channel::CONTROL, rest)) => self.deliver_control(now, session, rest),
            Some((&channel::GUEST, rest)) => self.deliver_guest(session, rest),
            Some((&channel::LOSS, rest)) => self.deliver_loss(self.peers.node(session), rest),
            Some(_) | None => false,
        };
        if !understood {
            self.violators.push(session);
        }
    }

    fn deliver_control(&mut self, now: Time, session: SessionHandle, rest: &[u8]) -> bool {
        let Ok(control) = decode_control::<Control>(rest) else { return false };
        if !control.is_sound(self.intro.arena_size) {
            return false;
        }
        let from = self.peers.node(session);
        if let Some(membership) = &mut self.membership {
            membership.handle(now, link(session), from, control);
        }
        true
    }

    fn deliver_batch(
        &mut self,
        now: Time,
        session: SessionHandle,
        bytes: &[u8],
        rest: &[u8],
        arena: &Arena,
    ) -> bool {
        let Ok(batch) = Batch::decode(rest) else { return false };
        let known = self.membership.as_ref().map_or_else(Default::default, |m| m.view().epoch);
        // The sender may name nodes and regions that only a later view explains.
        let (Some(from), true) = (self.peers.node(session), batch.epoch <= known && self.coherence.is_some())
        else {
            return self.peers.keep_early(session, bytes);
        };
        self.outputs.asker = Some(from);
        if let Some(coherence) = &mut self.coherence {
            coherence.handle_batch(now, from, &batch, &mut Local { arena, words: &self.words });
        }
        self.note_resident(arena);
        true
    }

    /// Gives the coherence core an event, if it exists yet.
    pub(super) fn input(&mut self, now: Time, input: Input<'_>, arena: &Arena) {
        if let Some(coherence) = &mut self.coherence {
            coherence.handle(now, input, &mut Local { arena, words: &self.words });
        }
        self.note_resident(arena);
    }

    /// What comes next to a thread that waits.
    pub(super) fn awaited(&self) -> Awaited {
        match &self.coherence {
            Some(coherence) if coherence.pages_asked_for() >= STREAMING_MIN => Awaited::Stream,
            Some(_) | None => Awaited::Answer,
        }
    }

    /// Keeps the most that this node has held.
    fn note_resident(&mut self, arena: &Arena) {
        let retained = self.coherence.as_ref().map_or(0, Coherence::retained_pages);
        self.resident_peak = self.resident_peak.max(arena.backed_pages() + retained);
    }

    /// Says that regions are here once pages at home have their room; true if any was waiting.
    fn admit_regions(&mut self) -> bool {
        let waits =
            !self.crowding.is_empty() && self.coherence.as_ref().is_some_and(Coherence::is_within_limit);
        if waits {
            for start in std::mem::take(&mut self.crowding) {
                self.region_done(start);
            }
        }
        waits
    }

    fn region_done(&mut self, start: crate::page::PageId) {
        if let Some(membership) = &mut self.membership {
            membership.region_done(start);
        }
    }

    /// Ends an operation of the coherence core.
    fn end(&mut self, op: OpId, result: Result<u64, Failure>) {
        let audience = self.waits.end(op, Outcome::Coherence(result));
        if let (Audience::Detached, Err(failure)) = (audience, result) {
            self.failed_fault.get_or_insert(failure);
        }
    }

    /// The node cannot go on: everybody who waits is told. The first reason stands.
    pub(super) fn fatal(&mut self, fatal: Fatal) {
        if self.leaving == Leaving::LetGo {
            return;
        }
        if self.fatal.is_none() {
            let level = match &fatal {
                // Who joins is told so, and says it.
                Fatal::NotJoined(_) => Level::DEBUG,
                Fatal::Died { .. } | Fatal::Evicted(_) | Fatal::Stopped(_) | Fatal::Broken(_) => Level::ERROR,
            };
            self.notes.add(level, super::describe(&fatal));
            self.fatal = Some(fatal);
            self.call_events.push(CallEvent::AllEnded);
            self.words.end_lending();
        }
        self.end_waits();
    }

    /// Nothing that anybody waits for will come.
    fn end_waits(&mut self) {
        for op in self.waits.open() {
            if self.waits.end(op, Outcome::Membership) == Audience::Detached {
                self.failed_fault.get_or_insert(Failure::Leaving);
            }
        }
    }

    /// The coordinator knows that this node leaves, or is no more. From here on its end, which may well come
    /// before the thread that leaves has run again, is nothing to tell.
    fn let_go(&mut self) {
        if let Leaving::Asked(op) = std::mem::replace(&mut self.leaving, Leaving::LetGo) {
            self.waits.end(op, Outcome::Membership);
        }
    }
}

pub(super) fn typed(channel: u8, body: &[u8]) -> OutMessage {
    let mut message = OutMessage::default();
    message.head.push(channel);
    message.head.extend_from_slice(body);
    message
}
