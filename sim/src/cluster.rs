//! Clusters of membership values, whole: processes on hosts that join, leave, crash, starve, are cut off
//! and lie, in simulated time. The values are the shipped ones; what surrounds them here (sessions,
//! heartbeats, the order of handling) does what `node/core.rs` does.

mod incidents;
mod oracle;
mod plan;
mod regions;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::SocketAddr;

use fastrand::Rng;
use pagemesh::config::membership::{HEARTBEAT, JOIN_TIMEOUT};
use pagemesh::membership::{Action, Control, HostId, Introduction, Kind, LinkId, Membership, Observation};
use pagemesh::page::{Incarnation, NodeId, Span, Time};

use crate::slab::Slab;
use crate::{ClusterReport, ClusterViolation};
use oracle::Oracle;
pub(crate) use plan::Plan;
use plan::Starved;
use regions::{Mapped, Regions};

/// Datagrams that fit into a process's socket.
const SOCKET_MAX: usize = 400;
/// Events of one run; beyond it something goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// The program of all ranks.
const PROGRAM: u64 = 7;

/// What a run did; a run that did less than its floor proves nothing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ClusterWork {
    /// Events of the run.
    pub events: u64,
    /// Joins that were completed.
    pub joins: u64,
    /// Members that left in peace.
    pub leaves: u64,
    /// Processes that were killed.
    pub crashes: u64,
    /// Times that a process or its receiver got no core.
    pub starvations: u64,
    /// Links that failed.
    pub cuts: u64,
    /// Questions about a suspected member.
    pub questions: u64,
    /// Members that were declared dead or taken out.
    pub deaths: u64,
    /// Lies that were told.
    pub lies: u64,
    /// Answers that led to a region.
    pub regions: u64,
}

impl ClusterWork {
    /// Adds another run's.
    pub fn add(&mut self, other: &ClusterWork) {
        self.events += other.events;
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.crashes += other.crashes;
        self.starvations += other.starvations;
        self.cuts += other.cuts;
        self.questions += other.questions;
        self.deaths += other.deaths;
        self.lies += other.lies;
        self.regions += other.regions;
    }
}

impl std::fmt::Display for ClusterWork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ClusterWork {
            events,
            joins,
            leaves,
            crashes,
            starvations,
            cuts,
            questions,
            deaths,
            lies,
            regions,
        } = self;
        write!(
            f,
            "{events} events, {joins} joins, {leaves} leaves, {crashes} crashes, {starvations} starvations, \
             {cuts} failed links, {questions} questions, {deaths} deaths, {lies} lies, {regions} regions"
        )
    }
}

/// A process of the run; its index is its incarnation.
struct Process {
    host: usize,
    membership: Option<Membership>,
    phase: Phase,
    /// Sessions by process, and when something last came by each.
    sessions: BTreeMap<usize, Time>,
    /// The processes of members, until their departure has been handled.
    of_node: BTreeMap<NodeId, usize>,
    /// What waits for a session.
    unsent: Vec<(usize, Control)>,
    /// What lies in its socket.
    socket: VecDeque<(usize, Content)>,
    drained_at: Option<Time>,
    /// It gets no core until then; or only its receiver gets none.
    starved: Option<(Starved, Time)>,
    has_met: bool,
    wakes: bool,
    regions: Mapped,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Running,
    /// Has ended, in whatever way.
    Gone,
}

/// What one process sends to another.
#[derive(Clone, Debug)]
enum Content {
    Hello,
    Welcome,
    Ping,
    Pong,
    Control(Control),
    /// Ends the session: the sender's last words, or none.
    Close(Option<String>),
    /// Ends the session: the receiver was taken out.
    Evicted(String),
}

impl Content {
    /// Whether the transport sends it again until it has arrived.
    fn is_reliable(&self) -> bool {
        matches!(self, Content::Control(_) | Content::Hello | Content::Welcome)
    }
}

struct Datagram {
    from: usize,
    to: usize,
    content: Content,
    /// Transmissions so far.
    sent: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(u32),
    Resend(u32),
    Run(usize),
    Tick(usize),
    /// The kernel tells a process of the end of another one.
    ProcessEnded {
        told: usize,
        of: usize,
    },
    Incident(usize),
    /// An incident is over.
    Over(usize),
    /// A process must have joined.
    Joined(usize),
}

/// One run.
pub(crate) struct Cluster {
    /// Lines for people, if they are wanted.
    trace: Option<Vec<String>>,
    plan: Plan,
    rng: Rng,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    processes: Vec<Process>,
    datagrams: Slab<Datagram>,
    /// Links that are down or lose much, by hosts, one way each: how often.
    links: BTreeMap<(usize, usize), f64>,
    oracle: Oracle,
    regions: Regions,
    work: ClusterWork,
    #[cfg(feature = "planted")]
    mutation: Option<pagemesh::membership::Mutation>,
}

impl Cluster {
    pub(crate) fn new(plan: Plan, rng: Rng, trace: bool) -> Cluster {
        let mut cluster = Cluster {
            trace: trace.then(Vec::new),
            plan,
            rng,
            now: Time(1_000_000_000),
            queue: BinaryHeap::new(),
            scheduled: 0,
            processes: Vec::new(),
            datagrams: Slab::new(),
            links: BTreeMap::new(),
            oracle: Oracle::default(),
            regions: Regions::default(),
            work: ClusterWork::default(),
            #[cfg(feature = "planted")]
            mutation: None,
        };
        for index in 0..cluster.plan.incidents.len() {
            let at = cluster.plan.incidents[index].at;
            cluster.schedule(at, Event::Incident(index));
        }
        cluster
    }

    #[cfg(feature = "planted")]
    pub(crate) fn with_mutation(mut self, mutation: Option<pagemesh::membership::Mutation>) -> Cluster {
        self.mutation = mutation;
        self
    }

    /// Runs all incidents, heals everything, and lets the cluster come to rest; what it did, or the rule that it
    /// broke.
    pub(crate) fn run(mut self) -> Result<ClusterReport, ClusterViolation> {
        let outcome = self.run_to_the_end();
        let lines = self.trace.take().unwrap_or_default();
        match outcome {
            Ok(()) => Ok(ClusterReport { work: self.work, lines }),
            Err(what) => Err(ClusterViolation { what, lines }),
        }
    }

    fn run_to_the_end(&mut self) -> Result<(), String> {
        for (index, spec) in self.plan.processes.clone().iter().enumerate() {
            self.record(|| format!("plan: {index} is {spec:?}"));
        }
        self.start(0);
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.now = self.now.max(at);
            self.work.events += 1;
            self.react(event);
            if let Some(broken) = self.oracle.broken.take() {
                return Err(broken);
            }
            if self.now > self.plan.ends && self.is_settled() {
                break;
            }
            if self.now > self.plan.ends + self.plan.settles {
                return Err(format!("everything comes to rest: {}", self.unsettled()));
            }
            if self.work.events > EVENTS_MAX {
                return Err("the run ends".into());
            }
        }
        Ok(())
    }

    fn record(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} ms  {}", self.now.0 as f64 / 1e6, line()));
        }
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, event)));
    }

    fn after(&mut self, longest: Span) -> Time {
        self.now + Span(self.rng.u64(1..=longest.0))
    }

    /// Starts a process of the plan; it joins, or founds the cluster.
    fn start(&mut self, index: usize) {
        debug_assert_eq!(index, self.processes.len(), "processes start in order");
        let spec = self.plan.processes[index];
        let intro = Introduction {
            incarnation: Incarnation(index as u64),
            kind: match spec.rank {
                None => Kind::Daemon,
                Some(rank) => Kind::Rank { program: PROGRAM, rank, ranks: u32::MAX },
            },
            name: "simulated".into(),
            addr: SocketAddr::from(([10, 0, 0, spec.host as u8 + 1], 1_000 + index as u16)),
            host: HostId { processes: format!("host {}", spec.host), network: format!("host {}", spec.host) },
            pid: index as u32,
            started: 0,
            memory_max: 1 << 30,
            arena_base: 0,
            arena_size: regions::ARENA_LEN,
            keeps_at: None,
            index: None,
        };
        let membership = match index {
            0 => Membership::coordinator(intro),
            _ => Membership::newcomer(intro, LinkId(0)),
        };
        #[cfg(feature = "planted")]
        let membership = match self.mutation {
            Some(mutation) => membership.with_rules(pagemesh::membership::Rules::without(mutation)),
            None => membership,
        };
        self.processes.push(Process {
            host: spec.host,
            // A newcomer's begins when it has a session with the coordinator.
            membership: Some(membership),
            phase: Phase::Running,
            sessions: BTreeMap::new(),
            of_node: BTreeMap::new(),
            unsent: Vec::new(),
            socket: VecDeque::new(),
            drained_at: None,
            starved: None,
            has_met: index == 0,
            wakes: false,
            regions: Mapped::default(),
        });
        self.oracle.started(index);
        let first = self.after(HEARTBEAT);
        self.schedule(first, Event::Tick(index));
        if index > 0 {
            self.send(index, 0, Content::Hello);
            self.schedule(self.now + JOIN_TIMEOUT, Event::Joined(index));
        }
        self.follow(index);
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Arrive(slot) => self.arrive(slot),
            Event::Resend(slot) => {
                let datagram = self.datagrams.remove(slot);
                if self.processes[datagram.from].phase == Phase::Running
                    && self.processes[datagram.to].phase == Phase::Running
                {
                    self.transmit(datagram);
                }
            }
            Event::Run(index) => self.run_process(index),
            Event::Tick(index) => self.tick(index),
            Event::ProcessEnded { told, of } => {
                // A process that gets no core hears of it later.
                match self.processes[told].starved {
                    Some((Starved::Process, until)) => self.schedule(until, event),
                    Some((Starved::Receiver, _)) | None => {
                        self.observe(told, Observation::ProcessEnded(Incarnation(of as u64)));
                    }
                }
            }
            Event::Incident(index) => self.begin_incident(index),
            Event::Over(index) => self.end_incident(index),
            Event::Joined(index) => {
                if self.processes[index].phase == Phase::Running && !self.processes[index].has_met {
                    self.end(index, Some("could not join"));
                }
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, content: Content) {
        self.transmit(Datagram { from, to, content, sent: 0 });
    }

    /// Puts a datagram on the network, which may lose it; what the transport repeats comes again.
    fn transmit(&mut self, mut datagram: Datagram) {
        datagram.sent += 1;
        let hosts = (self.processes[datagram.from].host, self.processes[datagram.to].host);
        let loss = self.links.get(&hosts).copied().unwrap_or(0.0).max(self.plan.loss);
        let is_lost = hosts.0 != hosts.1 && self.rng.f64() < loss;
        if is_lost {
            if datagram.content.is_reliable() {
                let wait = Span::from_ms(20 << datagram.sent.min(4));
                let slot = self.datagrams.insert(datagram);
                let at = self.after(wait);
                self.schedule(at, Event::Resend(slot));
            }
            return;
        }
        let is_late = datagram.content.is_reliable() && hosts.0 != hosts.1 && self.rng.u32(..10) == 0;
        let delay = if is_late { Span(self.plan.delay.0 + self.plan.tail.0) } else { self.plan.delay };
        let at = self.after(delay);
        let slot = self.datagrams.insert(datagram);
        self.schedule(at, Event::Arrive(slot));
    }

    fn arrive(&mut self, slot: u32) {
        let datagram = self.datagrams.remove(slot);
        let to = datagram.to;
        let process = &mut self.processes[to];
        if process.phase != Phase::Running {
            return;
        }
        if process.socket.len() >= SOCKET_MAX {
            if datagram.content.is_reliable() {
                let slot = self.datagrams.insert(datagram);
                let at = self.after(Span::from_ms(200));
                self.schedule(at, Event::Resend(slot));
            }
            return;
        }
        process.socket.push_back((datagram.from, datagram.content));
        self.wake(to);
    }

    fn wake(&mut self, index: usize) {
        if !std::mem::replace(&mut self.processes[index].wakes, true) {
            let at = self.after(Span::from_us(50));
            self.schedule(at, Event::Run(index));
        }
    }

    /// The receiver's turn: takes in what lies in the socket.
    fn run_process(&mut self, index: usize) {
        self.processes[index].wakes = false;
        if self.processes[index].phase != Phase::Running || self.processes[index].starved.is_some() {
            return;
        }
        // A receiver may be interrupted in the middle.
        let burst = self.rng.usize(1..=64);
        for _ in 0..burst {
            let Some((from, content)) = self.processes[index].socket.pop_front() else {
                self.processes[index].drained_at = Some(self.now);
                return;
            };
            self.handle(index, from, content);
            if self.processes[index].phase != Phase::Running {
                return;
            }
        }
        self.wake(index);
    }

    fn handle(&mut self, index: usize, from: usize, content: Content) {
        let process = &mut self.processes[index];
        match &content {
            Content::Hello | Content::Welcome => {
                process.sessions.insert(from, self.now);
            }
            Content::Ping | Content::Pong | Content::Control(_) => match process.sessions.get_mut(&from) {
                Some(heard) => *heard = self.now,
                // A session that is over, or that this side does not know yet.
                None => return,
            },
            Content::Close(_) | Content::Evicted(_) => {}
        }
        match content {
            Content::Hello => {
                self.send(index, from, Content::Welcome);
                self.flush(index, from);
            }
            Content::Welcome => {
                self.flush(index, from);
                if from == 0 {
                    self.follow(index);
                }
            }
            Content::Ping => self.send(index, from, Content::Pong),
            Content::Pong => {}
            Content::Control(control) => {
                if let Some(control) = self.hold(index, from, control) {
                    self.on_control(index, from, control);
                }
            }
            Content::Close(words) => {
                let is_known = process.sessions.remove(&from).is_some();
                if let Some(why) = words.filter(|_| is_known) {
                    self.observe(index, Observation::SaidEnd(Incarnation(from as u64), why));
                }
            }
            Content::Evicted(why) => {
                process.sessions.remove(&from);
                if from == 0 {
                    self.oracle.told_of_its_eviction(index, &why);
                    self.end(index, Some("taken out of the cluster"));
                }
            }
        }
        self.follow(index);
    }

    fn on_control(&mut self, index: usize, from: usize, control: Control) {
        self.record(|| format!("{index} hears of {from}: {}", short(&control)));
        let (now, sender) = (self.now, self.node_of(index, from));
        if let Some(membership) = &mut self.processes[index].membership {
            membership.handle(now, LinkId(from as u64), sender, control);
        }
    }

    /// The member as which `index` knows a process.
    fn node_of(&self, index: usize, other: usize) -> Option<NodeId> {
        let membership = self.processes[index].membership.as_ref()?;
        if other == 0 && index != 0 {
            // The session that was made to the coordinator's address.
            return Some(NodeId(0));
        }
        Some(membership.view().incarnation(Incarnation(other as u64))?.id)
    }

    fn observe(&mut self, index: usize, observation: Observation) {
        if self.processes[index].phase != Phase::Running {
            return;
        }
        let now = self.now;
        if let Some(membership) = &mut self.processes[index].membership {
            membership.observe(now, observation);
        }
        self.follow(index);
    }

    /// What waited for a session goes out.
    fn flush(&mut self, index: usize, to: usize) {
        let unsent = std::mem::take(&mut self.processes[index].unsent);
        let (ready, others): (Vec<_>, Vec<_>) = unsent.into_iter().partition(|(of, _)| *of == to);
        self.processes[index].unsent = others;
        for (_, control) in ready {
            self.send(index, to, Content::Control(control));
        }
    }

    /// The heartbeat.
    fn tick(&mut self, index: usize) {
        let process = &mut self.processes[index];
        if process.phase != Phase::Running {
            return;
        }
        if let Some((Starved::Process, until)) = process.starved {
            // It runs again in some order: here its timer comes before its datagrams.
            return self.schedule(until, Event::Tick(index));
        }
        let heard: Vec<(usize, Time)> = process.sessions.iter().map(|(&of, &at)| (of, at)).collect();
        let drained = process.drained_at.take();
        let now = self.now;
        for (of, at) in heard {
            if self.node_of(index, of).is_none() {
                continue;
            }
            if now.since(at) > Span(HEARTBEAT.0 / 2) {
                self.send(index, of, Content::Ping);
            }
            if let Some(membership) = &mut self.processes[index].membership {
                membership.observe(now, Observation::Heard(Incarnation(of as u64), at));
            }
        }
        if let Some(membership) = &mut self.processes[index].membership {
            match drained {
                Some(at) => membership.observe(now, Observation::Drained(at)),
                None => membership.on_timer(now),
            }
        }
        if let Some(membership) = &mut self.processes[index].membership {
            membership.return_idle_uses();
        }
        self.judge_suspicions(index);
        // The receiver looks at its socket, and finds nothing.
        self.wake(index);
        self.follow(index);
        if index != 0 && self.plan.liar == Some(index) {
            self.lie(index);
        }
        self.schedule(now + HEARTBEAT, Event::Tick(index));
    }

    /// Does what the membership says, as a node does.
    fn follow(&mut self, index: usize) {
        while self.processes[index].phase == Phase::Running {
            if index != 0 && !self.processes[index].sessions.contains_key(&0) && !self.has_joined(index) {
                return;
            }
            let Some(action) = self.processes[index].membership.as_mut().and_then(Membership::poll_action)
            else {
                break;
            };
            self.act(index, action);
        }
        if self.processes[index].phase == Phase::Running {
            self.check_met(index);
            self.oracle.look(self.now, index, self.processes[index].membership.as_ref());
        }
    }

    fn has_joined(&self, index: usize) -> bool {
        self.processes[index].membership.as_ref().is_some_and(|membership| membership.me().is_some())
    }

    fn act(&mut self, index: usize, action: Action) {
        if !matches!(action, Action::Send { .. } | Action::SendLink { .. } | Action::Ping(_)) {
            self.record(|| format!("{index} acts: {action:?}"));
        }
        match action {
            Action::SendLink { link, control } => {
                self.send(index, link.0 as usize, Content::Control(control));
            }
            Action::Send { to, control } => self.send_to_member(index, to, control),
            Action::Joined => {
                self.work.joins += u64::from(index > 0);
                let epoch = self.processes[index].membership.as_ref().map_or(0, |m| m.view().epoch.0);
                self.oracle.joined(index, epoch, self.now);
                self.map(index);
                self.watch(index);
                for other in self.members(index).into_iter().filter(|&other| other != 0) {
                    self.send(index, other, Content::Hello);
                }
            }
            Action::JoinRefused(_) => self.end(index, None),
            Action::ViewChanged { left, died, .. } => {
                for member in left {
                    let gone = member.intro.incarnation.0 as usize;
                    // It ends the session itself when it has gone.
                    self.processes[index].of_node.retain(|_, of| *of != gone);
                }
                for death in died {
                    let gone = death.member.intro.incarnation.0 as usize;
                    if index == 0 {
                        self.work.deaths += 1;
                        self.judge_death(gone, &death.how);
                        let epoch = self.processes[0].membership.as_ref().map_or(0, |m| m.view().epoch.0);
                        self.oracle.declared(gone, epoch);
                    }
                    self.oracle.told_of_death(index, gone);
                    self.processes[index].sessions.remove(&gone);
                    self.processes[index].of_node.retain(|_, of| *of != gone);
                    self.send(index, gone, Content::Evicted(death.how));
                }
                self.map(index);
                self.watch(index);
            }
            Action::MapRegion(record) => self.map_region(index, &record),
            Action::UnmapRegion(record) => self.unmap_region(index, &record),
            Action::Done { op, result } => {
                self.answered(index, op, result.ok().flatten().as_ref());
            }
            Action::ProgramEnded { .. } => {}
            Action::Left => {
                self.work.leaves += 1;
                self.oracle.left(index);
                self.end(index, None);
            }
            Action::Shutdown { .. } => {
                self.oracle.fail(format!("only the coordinator stops a cluster: {index}"))
            }
            Action::Ping(node) => {
                if let Some(to) = self.process_of(index, node) {
                    self.send(index, to, Content::Ping);
                }
            }
            Action::Inspect { of, .. } => {
                let starved = self.processes[of.0 as usize].starved;
                if self.plan.traced == Some(of.0 as usize) && matches!(starved, Some((Starved::Process, _))) {
                    self.observe(index, Observation::Traced(of));
                }
            }
            Action::CoordinatorDied { how } => {
                self.judge_coordinators_death(index, &how);
                self.end(index, Some("the coordinator is dead"));
            }
            Action::CutOff { how } => {
                self.judge_cut(index, &how);
                self.end(index, Some("cut off"));
            }
        }
    }

    fn send_to_member(&mut self, index: usize, to: NodeId, control: Control) {
        self.work.questions += u64::from(matches!(control, Control::Probe { .. }));
        let Some(to) = self.process_of(index, to) else { return };
        if self.processes[index].sessions.contains_key(&to) {
            self.send(index, to, Content::Control(control));
        } else {
            self.processes[index].unsent.push((to, control));
        }
    }

    fn process_of(&self, index: usize, node: NodeId) -> Option<usize> {
        if node == NodeId(0) {
            return Some(0);
        }
        self.processes[index].of_node.get(&node).copied()
    }

    /// Brings the map of members up to date with the view.
    fn map(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let Some(membership) = &process.membership else { return };
        for member in &membership.view().members {
            process.of_node.insert(member.id, member.intro.incarnation.0 as usize);
        }
    }

    /// The other members of a process's view.
    fn members(&self, index: usize) -> Vec<usize> {
        let Some(membership) = &self.processes[index].membership else { return Vec::new() };
        let all = membership.view().members.iter().map(|member| member.intro.incarnation.0 as usize);
        all.filter(|&other| other != index).collect()
    }

    /// The kernel reports the ends of processes of this host.
    fn watch(&mut self, index: usize) {
        for other in self.members(index) {
            if self.processes[other].host != self.processes[index].host {
                continue;
            }
            if self.processes[other].phase == Phase::Running {
                self.observe_only(index, Observation::Watched(Incarnation(other as u64), true));
            }
        }
    }

    fn observe_only(&mut self, index: usize, observation: Observation) {
        let now = self.now;
        if let Some(membership) = &mut self.processes[index].membership {
            membership.observe(now, observation);
        }
    }

    fn check_met(&mut self, index: usize) {
        if self.processes[index].has_met || !self.has_joined(index) {
            return;
        }
        let sessions = &self.processes[index].sessions;
        if self.members(index).iter().all(|other| sessions.contains_key(other)) {
            self.processes[index].has_met = true;
            self.oracle.met(index, self.now);
            if let Some(membership) = &mut self.processes[index].membership {
                membership.met();
            }
            self.follow(index);
        }
    }

    /// A process ends, with last words or without.
    fn end(&mut self, index: usize, words: Option<&str>) {
        for other in self.processes[index].sessions.keys().copied().collect::<Vec<_>>() {
            self.send(index, other, Content::Close(words.map(str::to_owned)));
        }
        self.vanish(index);
        if words.is_some() {
            self.oracle.said_end(index);
        }
    }

    fn vanish(&mut self, index: usize) {
        self.processes[index].phase = Phase::Gone;
        self.processes[index].socket.clear();
        self.oracle.ended(index, self.now);
        let host = self.processes[index].host;
        for told in 0..self.processes.len() {
            let is_there = self.processes[told].phase == Phase::Running && self.processes[told].host == host;
            if told != index && is_there {
                let at = self.after(Span::from_ms(20));
                self.schedule(at, Event::ProcessEnded { told, of: index });
            }
        }
    }
}

fn short(control: &Control) -> String {
    let mut text = format!("{control:?}");
    text.truncate(text.floor_char_boundary(120));
    text
}
