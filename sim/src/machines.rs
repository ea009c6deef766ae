//! Whole nodes in a simulated world: each process is the shipped `Machine` with a simulated memory and
//! threads; datagrams are lost, doubled, delayed, reordered and damaged, and wait in small sockets. Processes join,
//! leave, crash between any two datagrams, and get no core for a while; links are cut; strangers send garbage.

mod calls;
mod clients;
mod exchange;
mod incidents;
mod kept;
mod network;
mod plan;
mod process;
mod programs;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::fmt;
use std::net::SocketAddr;

use fastrand::Rng;
use pagemesh::coherence::OpId;
use pagemesh::page::{Incarnation, Span, Time};

use crate::Keep;
use crate::local::Shared;
use crate::oracle::Oracle;
use crate::slab::Slab;
use crate::trace::Trace;
use calls::OpenCall;
use clients::Client;
use network::{Datagram, Stranger};
pub(crate) use plan::Plan;
use process::{Phase, Process};

/// Events of one run; beyond it something goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;
/// Simulated time in which every run must come to its end.
const ENDS_MAX: Span = Span::from_ms(600_000);

/// What a run of whole nodes did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MachinesWork {
    /// Page faults of threads.
    pub faults: u64,
    /// Instructions that threads ran.
    pub instructions: u64,
    /// Processes that became members.
    pub joins: u64,
    /// Departures that lost nothing.
    pub leaves: u64,
    /// Processes that were killed.
    pub crashes: u64,
    /// Members that were declared dead.
    pub deaths: u64,
    /// Nodes that a process began to run on for another one.
    pub run_on: u64,
    /// Of them, those that were drained.
    pub drained: u64,
    /// Times in which a process, or its receiver, got no core.
    pub starvations: u64,
    /// Links that did not work for a while.
    pub cuts: u64,
    /// Calls that ran.
    pub calls: u64,
    /// Calls of clients.
    pub client_calls: u64,
    /// Times in which a client lost its server, and looked for another one.
    pub failovers: u64,
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Datagrams of strangers, damaged ones, and old ones that came again.
    pub hostile: u64,
    /// Messages that came before the view that explains them.
    pub early: u64,
    /// Times in which a node came to suspect members.
    pub suspicions: u64,
    /// Times in which messages found no session or no room.
    pub full: u64,
}

/// One run.
pub(crate) struct Machines {
    shared: Shared,
    plan: Plan,
    processes: Vec<Process>,
    clients: Vec<Client>,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    datagrams: Slab<Datagram>,
    scheduled: u64,
    next_op: u64,
    /// Calls that have run.
    calls_run: BTreeSet<u64>,
    open_calls: BTreeMap<u64, OpenCall>,
    next_call: u64,
    /// Some datagrams of the run, to be sent again.
    recorded: Vec<(SocketAddr, Vec<u8>)>,
    stranger: Option<Stranger>,
    /// Links between hosts that do not work, until when, and whether one of ten datagrams passes.
    cuts: BTreeMap<(usize, usize), (Time, bool)>,
    /// Hosts at the ends of such links.
    weak: BTreeSet<usize>,
    /// Links that are slow, and until when.
    slow: BTreeMap<(usize, usize), Time>,
    /// Ranks that have come to a barrier of all ranks.
    arrived: BTreeMap<(u64, u32), usize>,
    /// Whether the last reader and the end of the cluster are under way.
    audit: Audit,
    work: MachinesWork,
    /// Something has happened that may keep the ranks of a program from meeting.
    is_troubled: bool,
    /// Processes whose memory nobody has any more.
    lost: BTreeSet<usize>,
    keep: Keep,
    lines: Vec<String>,
}

/// What comes when the programs have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Audit {
    NotYet,
    /// This process reads all pages.
    Reads(usize),
    /// The coordinator was asked to stop.
    Stops,
}

/// An event that is due at some time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Start(usize),
    Datagram(u32),
    Receive(usize),
    Timer(usize),
    Step {
        process: usize,
        thread: u8,
    },
    /// The runtime of a process opens the memory of another one.
    Open {
        process: usize,
        node: usize,
    },
    /// A process that cannot go on ends.
    End(usize),
    /// The kernel tells a process of the end of another one.
    Told {
        process: usize,
        of: u64,
    },
    JoinIsLate(usize),
    Incident(usize),
    Hostile,
    ClientStep(usize),
    ClientReceive(usize),
    ClientTimer(usize),
}

impl Machines {
    pub(crate) fn new(plan: Plan, mut rng: Rng, keep: Keep) -> Machines {
        let memory = plan.memory(&mut rng);
        let mut oracle = Oracle::new(memory.pages.len(), 0);
        if plan.is_rough || plan.runs_on {
            oracle.judge_mappings_later();
        }
        let mut world = Machines {
            shared: Shared { oracle, rng, trace: Trace::new(keep), now: Time(1), plan: memory, plant: None },
            processes: Vec::new(),
            clients: Vec::new(),
            queue: BinaryHeap::new(),
            datagrams: Slab::new(),
            scheduled: 0,
            next_op: 0,
            calls_run: BTreeSet::new(),
            open_calls: BTreeMap::new(),
            next_call: 0,
            recorded: Vec::new(),
            stranger: None,
            cuts: BTreeMap::new(),
            weak: BTreeSet::new(),
            slow: BTreeMap::new(),
            arrived: BTreeMap::new(),
            audit: Audit::NotYet,
            work: MachinesWork::default(),
            is_troubled: false,
            lost: BTreeSet::new(),
            keep,
            lines: Vec::new(),
            plan,
        };
        for index in 0..world.plan.processes.len() {
            let fresh = world.fresh_process(index);
            world.processes.push(fresh);
            world.schedule(world.plan.processes[index].starts, Event::Start(index));
        }
        for index in 0..world.plan.incidents.len() {
            world.schedule(world.plan.incidents[index].at, Event::Incident(index));
        }
        world.add_clients();
        if world.plan.hostile {
            world.schedule(Time(1_000_000), Event::Hostile);
        }
        world
    }

    /// Runs until every process has ended, then checks the rest.
    pub(crate) fn run(mut self) -> Result<(MachinesWork, Vec<String>), (String, Vec<String>)> {
        let mut events = 0_u64;
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.shared.now = at;
            self.react(event);
            events += 1;
            self.go_on();
            let all_gone = self.processes.iter().all(|process| process.phase == Phase::Gone)
                && self.clients.iter().all(Client::is_gone);
            if self.shared.oracle.broken.is_some() || all_gone {
                break;
            }
            if events > EVENTS_MAX || at > Time(0) + ENDS_MAX {
                let stuck = self.describe_stuck();
                self.fail(|| format!("every run ends: {events} events, {stuck}"));
            }
        }
        self.shared.oracle.check_sums();
        self.work.instructions = self.shared.oracle.instructions;
        // What happened to processes, then what happened to their memories.
        let mut lines = self.lines;
        if self.keep == Keep::All {
            lines.extend(self.shared.trace.lines());
        }
        match self.shared.oracle.broken {
            Some(what) => Err((what, lines)),
            None => Ok((self.work, lines)),
        }
    }

    fn describe_stuck(&self) -> String {
        let running = self.processes.iter().enumerate().filter(|(_, process)| process.phase != Phase::Gone);
        let describe = |(index, process): (usize, &Process)| {
            let lifecycle = process.machine.as_ref().map(|machine| format!("{:?}", machine.lifecycle()));
            format!("p{index} {:?} {lifecycle:?} {:?}", process.phase, process.ops)
        };
        running.map(describe).collect::<Vec<String>>().join("; ")
    }

    fn fail(&mut self, why: impl FnOnce() -> String) {
        self.shared.oracle.fail(why);
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, event)));
    }

    fn soon(&mut self, span: Span) -> Time {
        self.shared.now + Span(self.shared.rng.u64(..=span.0))
    }

    fn next_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    fn log(&mut self, index: usize, text: impl FnOnce() -> String) {
        if self.keep == Keep::All {
            self.lines.push(format!("{:>14?} p{index} {}", self.shared.now, text()));
        }
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Start(index) => self.start(index),
            Event::Datagram(slot) => self.arrive(slot),
            Event::Receive(index) => self.receive(index),
            Event::Timer(index) => self.timer(index),
            Event::Step { process, thread } => self.step(process, thread),
            Event::Open { process, node } => self.open(process, node),
            Event::End(index) => self.end(index),
            Event::Told { process, of } => self.told(process, Incarnation(of)),
            Event::JoinIsLate(index) => self.join_is_late(index),
            Event::Incident(index) => self.incident(index),
            Event::Hostile => self.be_hostile(),
            Event::ClientStep(number) => self.client_step(number),
            Event::ClientReceive(number) => self.client_receives(number),
            Event::ClientTimer(number) => self.client_timer(number),
        }
    }

    /// When all programs have ended, a last rank reads all pages, then the cluster stops.
    fn go_on(&mut self) {
        let is_rank = |process: &&Process| process.rank().is_some();
        let running = |process: &&Process| process.phase != Phase::Gone;
        match self.audit {
            Audit::NotYet => {
                let is_in_use = self.plan.daemons > 0 && self.clients.iter().any(Client::is_waited_for);
                if is_in_use || self.processes.iter().filter(is_rank).filter(running).count() > 0 {
                    return;
                }
                let index = self.processes.len();
                let at_rest = self.plan.daemons > 0 && self.processes.iter().filter(running).count() > 0;
                if at_rest && self.region_exists() && self.cluster_is_well() {
                    self.plan.add_auditor(self.shared.now);
                    let fresh = self.fresh_process(index);
                    self.processes.push(fresh);
                    self.audit = Audit::Reads(index);
                    self.schedule(self.shared.now, Event::Start(index));
                } else {
                    self.stop_cluster();
                }
            }
            Audit::Reads(index) if self.processes[index].phase == Phase::Gone => self.stop_cluster(),
            Audit::Reads(_) | Audit::Stops => {}
        }
    }

    fn stop_cluster(&mut self) {
        self.audit = Audit::Stops;
        for index in 0..self.processes.len() {
            if self.processes[index].phase == Phase::Gone {
                continue;
            }
            if index == 0 {
                self.give(index, pagemesh::machine::Event::Shutdown);
            } else if self.processes[0].phase == Phase::Gone && !self.processes[index].is_member() {
                self.vanish(index);
            }
        }
    }

    fn region_exists(&self) -> bool {
        self.plan.region_known
    }

    /// Whether all daemons are members that nothing has befallen.
    fn cluster_is_well(&self) -> bool {
        (0..self.plan.daemons).all(|index| self.has_memory(index))
    }
}

impl MachinesWork {
    /// Adds the work of another run.
    pub fn add(&mut self, other: &MachinesWork) {
        let pairs = [
            (&mut self.faults, other.faults),
            (&mut self.instructions, other.instructions),
            (&mut self.joins, other.joins),
            (&mut self.leaves, other.leaves),
            (&mut self.crashes, other.crashes),
            (&mut self.deaths, other.deaths),
            (&mut self.run_on, other.run_on),
            (&mut self.drained, other.drained),
            (&mut self.starvations, other.starvations),
            (&mut self.cuts, other.cuts),
            (&mut self.calls, other.calls),
            (&mut self.client_calls, other.client_calls),
            (&mut self.failovers, other.failovers),
            (&mut self.datagrams, other.datagrams),
            (&mut self.hostile, other.hostile),
            (&mut self.early, other.early),
            (&mut self.suspicions, other.suspicions),
            (&mut self.full, other.full),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
    }
}

impl fmt::Display for MachinesWork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} faults, {} instructions, {} joins, {} leaves, {} crashes, {} deaths, {} nodes run on, {} drained, {} starvations, {} failed \
             links, {} calls, {} calls of clients, {} lost servers, {} datagrams, {} hostile ones, {} early messages, {} suspicions, {} full queues",
            self.faults,
            self.instructions,
            self.joins,
            self.leaves,
            self.crashes,
            self.deaths,
            self.run_on,
            self.drained,
            self.starvations,
            self.cuts,
            self.calls,
            self.client_calls,
            self.failovers,
            self.datagrams,
            self.hostile,
            self.early,
            self.suspicions,
            self.full
        )
    }
}
