//! A node as one value: it takes an event and the time, changes local memory through [`Host`], and returns
//! messages, ended operations and notes. It has no socket, clock, thread, lock or MMU, so the simulator runs
//! whole nodes (`sim/src/machines.rs`).
//!
//! Duties of its owner: one lock around it; after its events [`Machine::flush`], then [`Machine::poll_output`]
//! until there is none, then the datagrams of [`Machine::endpoint_mut`]; [`Event::Timer`] at
//! [`Machine::poll_timeout`]; [`Event::Drained`] only for a moment at which a receive found nothing. Several
//! events may come before one flush: what they cause for one peer then travels in one batch.

mod calls;
mod client;
mod describe;
mod egress;
mod event;
mod further;
mod gate;
mod lifecycle;
mod losses;
mod members;
mod mutation;
mod routes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use rustc_hash::FxHashMap;
use tracing::Level;

pub use client::{ClientEvent, ClientMachine, ClientOutput};
pub use describe::describe;
pub use egress::Outputs;
pub use event::{Command, Event, Outcome, Output};
pub use gate::EarlyBounds;
pub use lifecycle::{Departing, Departure, LeaveFailure, Lifecycle, Why};
pub use mutation::{Mutation, Rules};

use crate::codec::{decode_control, encode_control};
use crate::coherence::{Batch, Coherence, Input, MemoryLimit, Message, NodeSet, OpId, Output as CoreOutput};
use crate::config::MESSAGE_LEN_MAX;
use crate::config::coherence::CACHE_PAGES_MIN;
use crate::config::membership::HEARTBEAT;
use crate::config::node::STREAMING_MIN;
use crate::membership::{Action, Control, Introduction, Member, Membership, Observation, RegionRecord};
use crate::net::{Endpoint, OutMessage, Priority, SessionHandle};
use crate::page::{
    Epoch, Incarnation, LockWords, Memory, NodeId, PAGE_SIZE, PageBuf, PageId, PeerId, Span, Time,
};
use crate::rpc::core::Calls;
use egress::Egress;
use further::Further;
use gate::{Gate, Hearing, Source};
use losses::Losses;
use routes::{Routes, link};

/// First byte of every message: what it is for.
pub(crate) mod channel {
    pub(in crate::machine) const COHERENCE: u8 = 1;
    pub(in crate::machine) const CONTROL: u8 = 2;
    /// Calls to and from a client that is no member.
    pub(in crate::machine) const CLIENT: u8 = 3;
    pub(in crate::machine) const CALLS: u8 = 4;
    pub(in crate::machine) const LOSS: u8 = 5;
    /// Of the coherence cores, from or to a node that another process runs on.
    pub(in crate::machine) const CARRIED: u8 = 6;
}

/// Why a node ends a session, for the peer's program.
pub(crate) mod close {
    /// No more is to be said: a client's session, or one whose node has left.
    pub(crate) const DONE: u16 = 0;
    /// The node that closes ends without leaving: its last words.
    pub(crate) const ENDS: u16 = 1;
    /// The peer was taken out of the cluster, because.
    pub(crate) const EVICTED: u16 = 2;
    /// Messages between two members may be lost: they have no session any more.
    pub(crate) const SEVERED: u16 = 3;
}

/// What a machine changes in its process: pages and lock words, called under the node's lock and complete on
/// return.
pub trait Host: Memory + LockWords {
    /// The memory and the record of a node that this process runs on.
    type Kept<'a>: Memory + LockWords
    where
        Self: 'a;
    /// Those of this node, from its [`Event::RunOn`] until its [`Output::Forget`].
    fn kept(&mut self, node: PeerId) -> Option<Self::Kept<'_>>;
    /// Makes the addresses of a region usable, also in the memory of the nodes that this process runs on; new pages
    /// have no memory yet. An error says why it cannot.
    fn map_region(&mut self, start: PageId, pages: u64) -> Result<(), String>;
    /// Ends the use of a region's addresses, and gives back its memory and its lock words, also in the memory of the
    /// nodes that this process runs on.
    fn unmap_region(&mut self, start: PageId, pages: u64) -> Result<(), String>;
    /// Pages that have memory here.
    fn backed_pages(&self) -> u64;
    /// From now on no thread takes a lock, or gives one back, without the machine.
    fn end_lending(&mut self);
}

/// The lengths of a machine's queues, for the simulator's oracles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Audit {
    /// Messages of members that a later view must explain.
    pub early_members: usize,
    /// Most messages kept of one session that leads to no member.
    pub early_stranger: usize,
    /// Most messages that wait for one member's session, or for room in its queue.
    pub waiting: usize,
    /// Suspicions that are open.
    pub suspicions: usize,
    /// The coordinator was asked to let this node go, and has not answered.
    pub asks_to_leave: bool,
    /// A member that has welcomed a session and has not shown that it knows of it.
    pub welcomed: Option<Incarnation>,
}

/// What a machine is to be.
pub struct MachineConfig {
    /// What it says of itself.
    pub intro: Introduction,
    /// The daemon whose memory is nearest.
    pub nearest: Option<NodeId>,
    /// Silence after which members are suspected, if not the usual one.
    pub silence_max: Option<Span>,
    /// How much it keeps that comes too early.
    pub early: EarlyBounds,
    /// Where it decides: a node whose process has ended is run on by another process of its host, if one keeps its
    /// memory. Otherwise it is a member no more, and its memory is lost.
    pub runs_on: bool,
    /// All rules, except in tests of the tests.
    pub rules: Rules,
    /// The same for membership.
    pub membership_rules: crate::membership::Rules,
}

/// One process of the cluster.
pub struct Machine {
    endpoint: Endpoint,
    cores: Cores,
    sends: Vec<Send>,
    call_message: Vec<u8>,
}

/// A message of the coherence core, its receiver, and the page that it carries.
type Send = (NodeId, Message, Option<PageBuf>);

/// The part that reacts to messages; apart from the endpoint, which lends it their bytes.
struct Cores {
    intro: Introduction,
    rules: Rules,
    membership_rules: crate::membership::Rules,
    membership: Option<Membership>,
    coherence: Option<Coherence>,
    lifecycle: Lifecycle,
    routes: Routes,
    gate: Gate,
    egress: Egress,
    further: Further,
    /// Where this node decides, it names processes that run ended nodes on.
    runs_on: bool,
    losses: Losses,
    /// The ranks of this node's program, once all have joined.
    ranks: NodeSet,
    /// Their processes, by rank.
    ranks_in_order: Vec<PeerId>,
    nearest: Option<NodeId>,
    silence_max: Option<Span>,
    /// By node id, the last member that has left; none if one with that id has died since.
    left: BTreeMap<NodeId, Member>,
    view_changes: u64,
    /// The epoch whose changes the coherence core has been told, all of them.
    installed: Epoch,
    /// Changes of the view were told since messages that came too early were looked at.
    has_new_view: bool,
    /// Most pages that had memory here after any event.
    resident_peak: u64,
    /// Regions that are mapped, while what was held before still leaves them no room.
    crowding: Vec<PageId>,
    outputs: Outputs,
    pending: VecDeque<Output>,
    /// What threads of this node call, and what they are asked.
    calls: Calls,
    /// This node has ended, and the calls have not heard of it.
    calls_end: bool,
    coordinator_session: Option<SessionHandle>,
    /// Sessions under way to members.
    connecting: FxHashMap<SessionHandle, NodeId>,
    /// Sessions of members that have left; they end them, or we do when the time has come.
    departing: Vec<(SessionHandle, Time)>,
    violators: Vec<SessionHandle>,
    next_heartbeat: Time,
    /// The last moment at which the socket was empty, if the detector has not been told.
    drained_at: Option<Time>,
    /// No silence counts before this moment: this process itself may have been stopped.
    listening_since: Time,
}

impl Machine {
    /// A node that has not started.
    pub fn new(mut endpoint: Endpoint, config: MachineConfig) -> Self {
        endpoint.set_rules(config.rules.net());
        let cores = Cores {
            intro: config.intro,
            rules: config.rules,
            membership_rules: config.membership_rules,
            membership: None,
            coherence: None,
            lifecycle: Lifecycle::Joining(None),
            routes: Routes::new(),
            gate: Gate::new(config.early),
            egress: Egress::default(),
            further: Further::default(),
            runs_on: config.runs_on,
            losses: Losses::default(),
            ranks: NodeSet::EMPTY,
            ranks_in_order: Vec::new(),
            nearest: config.nearest,
            silence_max: config.silence_max,
            left: BTreeMap::new(),
            view_changes: 0,
            installed: Epoch::default(),
            has_new_view: false,
            resident_peak: 0,
            crowding: Vec::new(),
            outputs: Outputs::default(),
            pending: VecDeque::new(),
            calls: Calls::default().with_rules(config.rules.calls()),
            calls_end: false,
            coordinator_session: None,
            connecting: FxHashMap::default(),
            departing: Vec::new(),
            violators: Vec::new(),
            next_heartbeat: Time(0),
            drained_at: None,
            listening_since: Time(0),
        };
        Machine { endpoint, cores, sends: Vec::new(), call_message: Vec::new() }
    }

    /// Starts to found a cluster (no address), or to join the one whose coordinator is at `join`.
    pub fn start(&mut self, now: Time, join: Option<SocketAddr>) {
        self.cores.listening_since = now;
        match join {
            None => {
                let founder = Membership::coordinator(self.cores.intro.clone());
                self.cores.membership = Some(self.cores.configured(founder));
            }
            Some(addr) => match self.endpoint.connect(now, addr) {
                Ok(session) => self.cores.coordinator_session = Some(session),
                Err(error) => self.cores.end_with(Why::NotJoined(error.to_string())),
            },
        }
    }

    /// Takes one event. Effects on memory have happened on return; the rest follows with [`Machine::flush`].
    pub fn handle<H: Host>(&mut self, now: Time, event: Event<'_>, host: &mut H) {
        match event {
            Event::Datagram { from, bytes } => {
                let cores = &mut self.cores;
                self.endpoint.offer_datagram(now, from, bytes, &mut |session, message| {
                    cores.deliver(now, session, message, Source::Socket, host).taken()
                });
            }
            Event::Refused(addr) => self.endpoint.handle_refused(now, addr),
            Event::Drained(at) => {
                self.cores.drained_at = self.cores.drained_at.max(Some(at));
                self.endpoint.handle_drained(at);
            }
            Event::Timer => self.tick(now, host),
            Event::ProcessEnded(of) => self.cores.observe(now, Observation::ProcessEnded(of)),
            Event::Watched(of) => self.cores.observe(now, Observation::Watched(of, true)),
            Event::Traced(of) => self.cores.on_traced(now, of),
            Event::RunOn { node, legacy } => self.cores.on_run_on(node, legacy),
            Event::CannotRun(node) => self.cores.on_cannot_run(node),
            Event::Thread(input) => self.cores.input(now, input, host),
            Event::Command { op, command } => self.on_command(now, op, command, host),
            Event::Shutdown => self.cores.shut_down(),
            Event::Broken(why) => self.cores.end_with(Why::Broken(why)),
            Event::Close(reason) => self.close_all(now, reason),
        }
    }

    fn on_command<H: Host>(&mut self, now: Time, op: OpId, command: Command, host: &mut H) {
        if self.cores.lifecycle.is_over() && !matches!(command, Command::Leave(_)) {
            return self.cores.pending.push_back(Output::Done { op, outcome: Outcome::Membership });
        }
        match command {
            Command::Join => self.cores.join(op),
            Command::Barrier(barrier) => {
                let members = self.cores.ranks;
                self.cores.input(now, Input::Barrier { op, barrier, members }, host);
            }
            Command::Leave(departing) => self.begin_leaving(now, op, departing, host),
            Command::Region(name, want) => {
                self.cores.ask(op, |membership| membership.alloc(op.0, name, want))
            }
            Command::Remove(name) => self.cores.ask(op, |membership| membership.remove(op.0, name)),
            Command::Use(page, generation) => {
                self.cores.ask(op, |membership| membership.ask_use(op.0, page, generation));
            }
        }
    }

    /// Carries outputs around until there are none: afterwards only outputs and datagrams are left. True if
    /// there was anything.
    pub fn flush<H: Host>(&mut self, now: Time, host: &mut H) -> bool {
        let mut any = false;
        loop {
            let mut moved = false;
            // First: a session that has come up may lead to a member that only these changes bring.
            while let Some(action) = self.cores.membership.as_mut().and_then(Membership::poll_action) {
                self.on_action(now, action, host);
                moved = true;
            }
            // Not after each change: a message may come of a member that the next one brings.
            if std::mem::take(&mut self.cores.has_new_view) {
                self.on_new_view(now, host);
                moved = true;
            }
            if let Some(event) = self.endpoint.poll_event() {
                self.on_net_event(now, event, host);
                any = true;
                continue;
            }
            moved |= self.cores.admit_regions();
            moved |= self.cores.begin_further(now, host);
            self.cores.record_losses();
            moved |= self.send_outputs(now);
            moved |= self.carry(now, host);
            moved |= self.drain_further(now, host);
            moved |= self.send_calls(now);
            moved |= self.send_waiting(now);
            for session in std::mem::take(&mut self.cores.violators) {
                let reason = "message that does not decode";
                self.endpoint.close(now, session, crate::net::CLOSE_VIOLATION, reason);
                let _ = self.on_closed(now, session, None);
                moved = true;
            }
            moved |= self.continue_leaving(now);
            any |= moved;
            if !moved {
                break;
            }
        }
        self.cores.check_joined();
        if self.cores.lifecycle.is_over() {
            host.end_lending();
        }
        if self.cores.lifecycle.why().is_some() && self.cores.rules.revokes_access() {
            // Before the outputs tell it to anybody: no thread goes on with bytes that others change no more, or
            // change unseen.
            host.revoke_all();
        }
        any
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        let call = || self.cores.calls.poll_output().map(Output::Call);
        self.cores.pending.pop_front().or_else(call)
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The same, whose datagrams the owner sends.
    pub fn endpoint_mut(&mut self) -> &mut Endpoint {
        &mut self.endpoint
    }

    /// When to give [`Event::Timer`], or to move datagrams, although nothing has happened.
    pub fn poll_timeout(&self) -> Time {
        let heartbeat = self.cores.next_heartbeat;
        let coherence = self.cores.coherence.as_ref().and_then(Coherence::poll_timeout);
        let further = self.cores.further.poll_timeout();
        let leaving = self.cores.lifecycle.poll_timeout();
        let calls = self.cores.calls.poll_timeout();
        let due =
            [coherence, further, self.endpoint.poll_timeout(), leaving, calls].into_iter().flatten().min();
        due.map_or(heartbeat, |due| due.min(heartbeat))
    }

    /// How much was put out so far; `asker` is the member whose message came last.
    pub fn outputs(&self) -> Outputs {
        self.cores.outputs
    }

    /// What is handled from now on answers nobody yet.
    pub fn forget_asker(&mut self) {
        self.cores.outputs.asker = None;
    }

    /// Whether more pages are on their way than a thread's own instruction can wait for.
    pub fn is_streaming(&self) -> bool {
        self.cores.coherence.as_ref().is_some_and(|core| core.pages_asked_for() >= STREAMING_MIN)
    }

    /// The membership core, once there is one.
    pub fn membership(&self) -> Option<&Membership> {
        self.cores.membership.as_ref()
    }

    /// The same, for what this node's threads say to it.
    pub(crate) fn membership_mut(&mut self) -> Option<&mut Membership> {
        self.cores.membership.as_mut()
    }

    /// The coherence core, once this node is a member.
    pub fn coherence(&self) -> Option<&Coherence> {
        self.cores.coherence.as_ref()
    }

    /// Where this node is between its start and its end.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.cores.lifecycle
    }

    /// What this node says of itself.
    pub fn intro(&self) -> &Introduction {
        &self.cores.intro
    }

    /// The ranks of this node's program, once all have joined.
    pub fn ranks(&self) -> NodeSet {
        self.cores.ranks
    }

    /// Their processes, by rank.
    pub fn ranks_in_order(&self) -> &[PeerId] {
        &self.cores.ranks_in_order
    }

    /// Counts the views that were installed.
    pub fn view_changes(&self) -> u64 {
        self.cores.view_changes
    }

    /// Most pages that had memory here after any event.
    pub fn resident_peak(&self) -> u64 {
        self.cores.resident_peak
    }

    /// The sessions to members.
    pub fn sessions(&self) -> impl Iterator<Item = (NodeId, SessionHandle)> {
        self.cores.routes.members()
    }

    /// The lengths of its queues.
    pub fn audit(&self) -> Audit {
        let (early_members, early_stranger) = self.cores.gate.held();
        let mut connecting = self.cores.connecting.iter();
        let welcomed = connecting.find(|(session, _)| self.endpoint.is_welcomed(**session));
        let member = welcomed.and_then(|(_, &node)| self.membership()?.view().member(node));
        Audit {
            asks_to_leave: self.cores.asks_to_leave(),
            welcomed: member.map(|member| member.intro.incarnation),
            early_members,
            early_stranger,
            waiting: self.cores.egress.longest().max(self.cores.further.longest()),
            suspicions: self.cores.membership.as_ref().map_or(0, Membership::open_suspicions),
        }
    }

    /// Runs the coherence timers and the heartbeat.
    fn tick<H: Host>(&mut self, now: Time, host: &mut H) {
        if let Some(coherence) = &self.cores.coherence
            && coherence.poll_timeout().is_some_and(|due| due <= now)
        {
            self.cores.input(now, Input::Timer, host);
        }
        self.cores.tick_further(now, host);
        if self.cores.calls.poll_timeout().is_some_and(|due| due <= now) {
            self.cores.calls.handle_timeout(now);
        }
        if now < self.cores.next_heartbeat {
            return;
        }
        if now > self.cores.next_heartbeat + HEARTBEAT + HEARTBEAT {
            // This process did not run: everybody's silence starts now.
            self.cores.listening_since = now;
        }
        self.cores.next_heartbeat = now + HEARTBEAT;
        if self.cores.drained_at.is_some() {
            // What they have said lies in the socket otherwise.
            self.end_departed_sessions(now);
            self.close_silent_clients(now);
        }
        if let Some(membership) = &mut self.cores.membership {
            membership.return_idle_uses();
        }
        self.observe_members(now);
    }

    /// The membership core bounds what it says. A message that is too long all the same is told, and not sent.
    fn control_message(&mut self, control: &Control) -> Option<OutMessage> {
        let bytes = encode_control(control);
        let fits = bytes.len() < MESSAGE_LEN_MAX;
        debug_assert!(fits, "a control message of {} bytes", bytes.len());
        if !fits {
            let text = format!("a control message of {} bytes is too long and was not sent", bytes.len());
            self.cores.note(Level::ERROR, text);
        }
        fits.then(|| typed(channel::CONTROL, &bytes))
    }

    fn on_action<H: Host>(&mut self, now: Time, action: Action, host: &mut H) {
        match action {
            Action::SendLink { link, control } => {
                let Some(message) = self.control_message(&control) else { return };
                // A session that is gone needs no answer; its end is an event of its own.
                let session = SessionHandle::from_bits(link.0);
                let _ = self.endpoint.send(now, session, message, Priority::Control);
            }
            Action::Send { to, control } => {
                let Some(message) = self.control_message(&control) else { return };
                self.send(now, to, message, Priority::Control);
            }
            Action::Joined => self.on_joined(now, host),
            Action::JoinRefused(reason) => self.cores.end_with(Why::NotJoined(reason)),
            Action::ViewChanged { joined, left, died } => {
                self.on_view_changed(now, (&joined, &left, died), host);
            }
            Action::MapRegion(record) => self.cores.map_region(now, record, host),
            Action::UnmapRegion(record) => self.cores.unmap_region(now, &record, host),
            Action::ProgramEnded { program } => {
                self.cores.input_all(now, Input::ProgramEnded { program }, host);
            }
            Action::Done { op, result } => self.cores.done(OpId(op), Outcome::Region(result)),
            Action::Left => self.cores.let_go(now),
            Action::Shutdown { reason } => self.cores.end_with(Why::Stopped(reason)),
            Action::Ping(node) => {
                if let Some(session) = self.cores.routes.session(node) {
                    self.endpoint.ping(session);
                }
            }
            Action::Inspect { of, pid } => self.cores.pending.push_back(Output::Inspect { of, pid }),
            Action::CoordinatorDied { how } => self.cores.coordinator_died(now, how),
            Action::CutOff { how } => self.cores.end_with(Why::Evicted(how)),
        }
    }
}

impl Cores {
    /// One message of a session.
    fn deliver<H: Host>(
        &mut self,
        now: Time,
        session: SessionHandle,
        bytes: &[u8],
        source: Source,
        host: &mut H,
    ) -> Hearing {
        let hearing = match bytes.split_first() {
            Some((&channel::COHERENCE, rest)) => {
                self.deliver_batch(now, (session, source), bytes, rest, host)
            }
            Some((&channel::CARRIED, rest)) => {
                self.deliver_carried(now, (session, source), bytes, rest, host)
            }
            Some((&channel::CALLS, rest)) => self.deliver_calls(now, (session, source), bytes, rest),
            Some((&channel::CONTROL, rest)) => Hearing::of(self.deliver_control(now, session, rest)),
            Some((&channel::CLIENT, rest)) => Hearing::of(self.deliver_client(now, session, rest)),
            Some((&channel::LOSS, rest)) => Hearing::of(self.deliver_loss(self.routes.node(session), rest)),
            Some(_) | None => Hearing::Unsound,
        };
        if hearing == Hearing::Unsound {
            self.violators.push(session);
        }
        hearing
    }

    fn deliver_control(&mut self, now: Time, session: SessionHandle, rest: &[u8]) -> bool {
        let Ok(control) = decode_control::<Control>(rest) else { return false };
        if !control.is_sound(self.intro.arena_size) {
            return false;
        }
        // A newcomer introduces itself, and nobody else.
        if let Control::Join(intro) = &control
            && self.routes.incarnation(session) != Some(intro.incarnation)
        {
            return false;
        }
        let from = self.routes.node(session);
        if let Some(membership) = &mut self.membership {
            membership.handle(now, link(session), from, control);
        }
        true
    }

    fn deliver_batch<H: Host>(
        &mut self,
        now: Time,
        (session, source): (SessionHandle, Source),
        bytes: &[u8],
        rest: &[u8],
        host: &mut H,
    ) -> Hearing {
        let Ok(batch) = Batch::decode(rest) else { return Hearing::Unsound };
        // The sender may name nodes and regions that only a later view explains.
        let is_known = batch.epoch <= self.installed || !self.rules.awaits_views();
        let (Some(from), Some(_), true) = (self.routes.node(session), &self.coherence, is_known) else {
            return self.keep_early(session, bytes, source);
        };
        self.hear_batch(now, from, &batch, host)
    }

    /// A batch of a member to this node's own core.
    fn hear_batch<H: Host>(&mut self, now: Time, from: NodeId, batch: &Batch<'_>, host: &mut H) -> Hearing {
        self.outputs.asker = Some(from);
        if let Some(coherence) = &mut self.coherence {
            coherence.handle_batch(now, from, batch, host);
        }
        self.note_resident(host);
        Hearing::Heard
    }

    /// Gives the coherence core an event, if it exists yet.
    fn input<H: Host>(&mut self, now: Time, input: Input<'_>, host: &mut H) {
        if let Some(coherence) = &mut self.coherence {
            coherence.handle(now, input, host);
        }
        self.note_resident(host);
    }

    /// Keeps the most that this node has held.
    fn note_resident<H: Host>(&mut self, host: &H) {
        self.resident_peak = self.resident_peak.max(host.backed_pages());
    }

    fn map_region<H: Host>(&mut self, now: Time, record: RegionRecord, host: &mut H) {
        let (start, pages) = (record.info.start, record.info.pages);
        self.input_all(now, Input::Region(record.info), host);
        if let Err(error) = host.map_region(start, pages) {
            self.end_with(Why::Broken(format!("region `{}`: {error}", record.name)));
        }
        self.crowding.push(start);
    }

    fn unmap_region<H: Host>(&mut self, now: Time, record: &RegionRecord, host: &mut H) {
        let (start, pages) = (record.info.start, record.info.pages);
        self.input_all(now, Input::RegionGone { start }, host);
        self.losses.forget(start, pages);
        if let Err(error) = host.unmap_region(start, pages) {
            self.end_with(Why::Broken(format!("region `{}`: {error}", record.name)));
        }
        if let Some(membership) = &mut self.membership {
            membership.region_unmapped(start);
        }
    }

    /// Says that regions are here once pages at home have their room; true if any was waiting.
    fn admit_regions(&mut self) -> bool {
        let waits =
            !self.crowding.is_empty() && self.coherence.as_ref().is_some_and(Coherence::is_within_limit);
        if waits {
            for start in std::mem::take(&mut self.crowding) {
                if let Some(membership) = &mut self.membership {
                    membership.region_mapped(start);
                }
            }
        }
        waits
    }

    /// Asks the membership core for something on behalf of an operation.
    fn ask(&mut self, op: OpId, question: impl FnOnce(&mut Membership)) {
        match &mut self.membership {
            Some(membership) => question(membership),
            None => self.done(op, Outcome::Membership),
        }
    }

    /// An operation has ended; not if it did when this node could not go on.
    fn done(&mut self, op: OpId, outcome: Outcome) {
        if self.lifecycle.is_over() && !matches!(outcome, Outcome::Left(_)) {
            return;
        }
        self.pending.push_back(Output::Done { op, outcome });
    }

    fn note(&mut self, level: Level, text: String) {
        self.pending.push_back(Output::Note(level, text));
    }

    /// The limit on memory that the coherence core keeps.
    fn limit(&self) -> MemoryLimit {
        MemoryLimit { pages: self.intro.memory_max / PAGE_SIZE as u64, cache_min: CACHE_PAGES_MIN }
    }
}

fn typed(channel: u8, body: &[u8]) -> OutMessage {
    let mut message = OutMessage::default();
    message.head.reserve(1 + body.len());
    message.head.push(channel);
    message.head.extend_from_slice(body);
    message
}
