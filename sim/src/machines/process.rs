//! One process of the run: the shipped machine, a simulated memory and socket, and the runtime's few duties.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use pagemesh::coherence::{BarrierId, Failure, Input, NodeSet, OpId};
use pagemesh::config::membership::JOIN_TIMEOUT;
use pagemesh::machine::{
    Command, Departing, Departure, Event as MachineEvent, Machine, MachineConfig, Outcome, Output, Why,
};
use pagemesh::membership::{HostId, Introduction, Kind, Member};
use pagemesh::net::TransmitBuf;
use pagemesh::page::{Access, Incarnation, NodeId, PeerId, Span, Time};

use super::network::{addr, fresh_endpoint, next_datagram};
use super::plan::Role;
use super::{Event, Machines};
use crate::local::{Local, NodeMemory};
use crate::program::State;

/// Messages that wait for one member: each answers a request or makes one, and a thread has one at a time, but pages
/// are fetched ahead.
const WAITING_MAX: usize = 8_192;
/// Times that a machine has something more to do after all its datagrams are sent.
const ROUNDS_MAX: u32 = 1_000;
/// Longest that an operation may take once nothing befalls anybody any more.
const PATIENCE: Span = Span::from_ms(120_000);

/// A process.
pub(super) struct Process {
    pub(super) machine: Option<Machine>,
    pub(super) local: Local,
    pub(super) phase: Phase,
    pub(super) socket: VecDeque<(SocketAddr, Vec<u8>)>,
    pub(super) will_receive: bool,
    /// Operations under way, and since when.
    pub(super) ops: BTreeMap<OpId, (Op, Time)>,
    pub(super) stage: Stage,
    /// No part of it runs until then.
    pub(super) starved_until: Time,
    /// Its socket has no room until then.
    pub(super) full_until: Time,
    /// Its receiver does not run until then.
    pub(super) deaf_until: Time,
    /// It is killed after so many more datagrams.
    pub(super) dies_in: Option<u32>,
    /// It once did not run, or not receive.
    pub(super) was_held: bool,
    /// It did not run, or not receive, for so long that it may be taken for dead.
    pub(super) was_silent: bool,
    /// It has come to its program's own barrier.
    pub(super) has_met: bool,
    /// Suspicions, and messages without room, at the last look.
    seen: (usize, usize),
    /// Nodes that its machine wants to run on and that are not open yet, each with who has run it.
    pub(super) orders: BTreeMap<PeerId, PeerId>,
    /// Peers that it has called.
    pub(super) peers: Vec<PeerId>,
    pub(super) role: Role,
    buf: TransmitBuf,
    timer_at: Option<Time>,
    view_changes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    ToCome,
    Running,
    Gone,
}

/// How far a process is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Stage {
    Joining,
    Meeting,
    Allocating,
    Working,
    Ending,
    Leaving,
    Failed,
}

/// What an operation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    Join,
    Meet,
    Alloc,
    Thread(u8),
    /// Its program's own barrier.
    Round,
    End,
    Leave,
}

/// The barriers of the ranks' common start and end, as the library numbers them.
const FIRST_BARRIER: u32 = u32::MAX - 1;
const LAST_BARRIER: u32 = u32::MAX;
/// The program's own barrier.
const PROGRAM_BARRIER: u32 = 0;

impl Process {
    pub(super) fn rank(&self) -> Option<(u64, u32)> {
        match self.role {
            Role::Daemon => None,
            Role::Rank { program, rank, .. } => Some((program, rank)),
        }
    }

    /// Whether it runs now.
    pub(super) fn runs(&self, now: Time) -> bool {
        self.phase == Phase::Running && now >= self.starved_until
    }

    pub(super) fn is_member(&self) -> bool {
        self.machine
            .as_ref()
            .and_then(Machine::membership)
            .is_some_and(|membership| membership.me().is_some())
    }
}

/// Whether a process can watch another one of its host: not all may open it.
fn watches(process: usize, other: usize) -> bool {
    !(7 * process + other).is_multiple_of(4)
}

/// Who a process is to the others.
pub(super) fn incarnation(index: usize) -> u64 {
    index as u64 + 1
}

impl Machines {
    pub(super) fn fresh_process(&mut self, index: usize) -> Process {
        let role = self.plan.processes[index].role;
        Process {
            machine: None,
            local: Local::new(NodeId(index as u16), self.shared.plan.pages.len(), Vec::new()),
            phase: Phase::ToCome,
            socket: VecDeque::new(),
            will_receive: false,
            ops: BTreeMap::new(),
            stage: Stage::Joining,
            starved_until: Time(0),
            full_until: Time(0),
            deaf_until: Time(0),
            dies_in: None,
            was_held: false,
            was_silent: false,
            has_met: false,
            seen: (0, 0),
            orders: BTreeMap::new(),
            peers: Vec::new(),
            role,
            buf: TransmitBuf::default(),
            timer_at: None,
            view_changes: 0,
        }
    }

    pub(super) fn start(&mut self, index: usize) {
        let spec = self.plan.processes[index];
        // As the command does: the daemons first.
        let is_rank = matches!(spec.role, Role::Rank { .. });
        let is_up = |daemon: &Process| daemon.phase == Phase::Gone || daemon.stage > Stage::Joining;
        if is_rank && !self.processes[..self.plan.daemons].iter().all(is_up) {
            let at = self.soon(Span::from_ms(10));
            return self.schedule(at, Event::Start(index));
        }
        let kind = match spec.role {
            Role::Daemon => Kind::Daemon,
            Role::Rank { program, rank, ranks } => Kind::Rank { program, rank, ranks },
        };
        let intro = Introduction {
            incarnation: Incarnation(incarnation(index)),
            kind,
            name: format!("p{index}"),
            addr: addr(spec.host, index),
            host: HostId { processes: format!("host{}", spec.host), network: format!("host{}", spec.host) },
            pid: index as u32 + 1,
            started: 0,
            memory_max: 1 << 36,
            arena_base: 1 << 40,
            arena_size: 1 << 36,
            keeps_at: self.plan.runs_on.then(|| format!("p{index}")),
            index: (spec.role == Role::Daemon).then_some(index as u16),
        };
        let config = MachineConfig {
            intro,
            nearest: None,
            silence_max: None,
            early: self.plan.early,
            runs_on: self.plan.runs_on,
            rules: self.plan.rules,
            membership_rules: pagemesh::membership::Rules::default(),
        };
        let (seed, queue_max) = (self.shared.rng.u64(..), self.plan.queue_max);
        let endpoint = fresh_endpoint(&self.plan, incarnation(index), seed, queue_max);
        let mut machine = Machine::new(endpoint, config);
        let join = (index > 0).then(|| addr(self.plan.processes[0].host, 0));
        machine.start(self.shared.now, join);
        super::calls::serve(&mut machine);
        let process = &mut self.processes[index];
        (process.machine, process.phase) = (Some(machine), Phase::Running);
        self.log(index, || format!("starts: {:?}", spec.role));
        self.begin(index, Op::Join, |op| MachineEvent::Command { op, command: Command::Join });
        self.schedule(self.shared.now + JOIN_TIMEOUT, Event::JoinIsLate(index));
    }

    /// Starts an operation of a process.
    pub(super) fn begin(
        &mut self,
        index: usize,
        what: Op,
        event: impl FnOnce(OpId) -> MachineEvent<'static>,
    ) -> OpId {
        let op = self.next_op();
        let now = self.shared.now;
        self.processes[index].ops.insert(op, (what, now));
        self.log(index, || format!("begins {what:?}"));
        self.give(index, event(op));
        op
    }

    /// Gives a machine an event, and does what follows of it.
    pub(super) fn give(&mut self, index: usize, event: MachineEvent<'_>) {
        self.tell(index, event);
        self.pump(index);
    }

    fn tell(&mut self, index: usize, event: MachineEvent<'_>) {
        let Process { machine: Some(machine), local, .. } = &mut self.processes[index] else { return };
        let mut memory = NodeMemory { local, shared: &mut self.shared };
        let now = memory.shared.now;
        machine.handle(now, event, &mut memory);
    }

    /// The runtime's loop: outputs, then datagrams, until there are none.
    pub(super) fn pump(&mut self, index: usize) {
        for round in 0.. {
            if round > ROUNDS_MAX {
                return self.fail(|| format!("a machine comes to rest: p{index}"));
            }
            let Process { machine: Some(machine), local, .. } = &mut self.processes[index] else { return };
            let mut memory = NodeMemory { local, shared: &mut self.shared };
            let now = memory.shared.now;
            let moved = machine.flush(now, &mut memory);
            if self.dies_now(index, false) {
                return;
            }
            while let Some(output) = self.processes[index].machine.as_mut().and_then(Machine::poll_output) {
                self.perform(index, output);
            }
            if !self.transmit(index) {
                return;
            }
            if !self.run_calls(index) && !moved {
                break;
            }
        }
        self.follow_view(index);
        self.check(index);
        self.check_calls(index);
        let now = self.shared.now;
        let process = &mut self.processes[index];
        let Some(machine) = &process.machine else { return };
        let due = machine.poll_timeout().max(now);
        if due < Time(u64::MAX) && process.timer_at.is_none_or(|at| due < at || at < now) {
            process.timer_at = Some(due);
            self.schedule(due, Event::Timer(index));
        }
    }

    /// Sends what there is to send; false if the process was killed meanwhile.
    fn transmit(&mut self, index: usize) -> bool {
        let from = addr(self.plan.processes[index].host, index);
        loop {
            let now = self.shared.now;
            let Process { machine: Some(machine), buf, .. } = &mut self.processes[index] else {
                return false;
            };
            let Some((to, bytes)) = next_datagram(machine.endpoint_mut(), now, buf) else { return true };
            if self.dies_now(index, true) {
                return false;
            }
            self.put(from, to, bytes);
        }
    }

    /// Whether a process that is to be killed has come to its end, perhaps by this datagram.
    fn dies_now(&mut self, index: usize, is_datagram: bool) -> bool {
        let Process { dies_in, local, .. } = &mut self.processes[index];
        let is_over = *dies_in == Some(0) && is_datagram;
        *dies_in = dies_in.map(|left| left.saturating_sub(u32::from(is_datagram)));
        if is_datagram {
            local.takes_step();
        }
        let dies = is_over || local.has_ended();
        if dies {
            self.work.crashes += 1;
            self.is_troubled = true;
            self.vanish(index);
        }
        dies
    }

    pub(super) fn receive(&mut self, index: usize) {
        let now = self.shared.now;
        let process = &mut self.processes[index];
        process.will_receive = false;
        if process.phase != Phase::Running {
            return;
        }
        let until = process.starved_until.max(process.deaf_until);
        if now < until {
            process.will_receive = true;
            return self.schedule(until, Event::Receive(index));
        }
        for _ in 0..self.shared.rng.u32(1..=8) {
            let Some((from, mut bytes)) = self.processes[index].socket.pop_front() else { break };
            if self.dies_now(index, true) {
                return;
            }
            self.work.datagrams += 1;
            self.tell(index, MachineEvent::Datagram { from, bytes: &mut bytes });
        }
        if self.processes[index].socket.is_empty() {
            self.tell(index, MachineEvent::Drained(now));
        } else {
            self.processes[index].will_receive = true;
            let at = self.soon(Span::from_us(20));
            self.schedule(at, Event::Receive(index));
        }
        self.give(index, MachineEvent::Timer);
    }

    pub(super) fn timer(&mut self, index: usize) {
        let now = self.shared.now;
        let process = &mut self.processes[index];
        if process.phase != Phase::Running || process.timer_at != Some(now) {
            return;
        }
        if now < process.starved_until {
            process.timer_at = Some(process.starved_until);
            let until = process.starved_until;
            return self.schedule(until, Event::Timer(index));
        }
        process.timer_at = None;
        if process.socket.is_empty() && now >= process.deaf_until {
            self.tell(index, MachineEvent::Drained(now));
        }
        self.give(index, MachineEvent::Timer);
    }

    /// Watches the processes of its host, as the runtime does by pidfds.
    fn follow_view(&mut self, index: usize) {
        let Some(machine) = &self.processes[index].machine else { return };
        if machine.view_changes() == self.processes[index].view_changes {
            return;
        }
        let seen = machine.view_changes();
        let Some(membership) = machine.membership().filter(|membership| membership.me().is_some()) else {
            return;
        };
        let own = machine.intro();
        let is_here = |member: &&Member| member.intro.host == own.host && member.intro.pid != own.pid;
        let here: Vec<Incarnation> =
            membership.view().members.iter().filter(is_here).map(|member| member.intro.incarnation).collect();
        self.processes[index].view_changes = seen;
        for of in here {
            let other = of.0 as usize - 1;
            if self.processes[other].phase == Phase::Running && watches(index, other) {
                self.tell(index, MachineEvent::Watched(of));
            }
        }
    }

    fn perform(&mut self, index: usize, output: Output) {
        match output {
            Output::Done { op, outcome } => {
                let Some((what, _)) = self.processes[index].ops.remove(&op) else {
                    return self.fail(|| format!("each operation ends once: p{index} {op:?} {outcome:?}"));
                };
                self.log(index, || format!("{what:?} ends: {outcome:?}"));
                self.done(index, what, outcome);
            }
            Output::Ended { departure } => {
                let machine = self.processes[index].machine.as_ref();
                let why = machine.and_then(|machine| machine.lifecycle().why()).cloned();
                self.log(index, || format!("ended: {why:?}"));
                let ends = |(op, _): &(OpId, _)| Some(*op) != departure;
                let ops = std::mem::take(&mut self.processes[index].ops);
                let (_, kept): (Vec<_>, Vec<_>) = ops.into_iter().partition(ends);
                self.processes[index].ops = kept.into_iter().collect();
                self.processes[index].local.threads.clear();
                if let Some(why) = why {
                    let pages = 0..self.shared.plan.pages.len();
                    let local = &self.processes[index].local;
                    if let Some(page) = pages.into_iter().find(|&page| local.access(page) != Access::None) {
                        self.fail(|| format!("no load after the end: p{index} has page {page}"));
                    }
                    self.ended(index, &why);
                }
            }
            Output::Call(output) => {
                self.call_output(index, output);
            }
            Output::Gone(peer) => self.check_gone(index, peer),
            Output::RunOn { node, ran_at } => self.order(index, node, ran_at),
            Output::Forget(node) => self.forget_node(index, node),
            Output::Note(_, text) => self.log(index, || text),
            Output::Inspect { .. } => {}
        }
    }

    fn done(&mut self, index: usize, what: Op, outcome: Outcome) {
        match (what, outcome) {
            (Op::Join, Outcome::Membership) => self.joined(index),
            (Op::Meet, Outcome::Coherence(Ok(_))) => self.met(index, FIRST_BARRIER),
            (Op::End, Outcome::Coherence(Ok(_))) => {
                self.met(index, LAST_BARRIER);
                self.leave(index, false);
            }
            (Op::Round, Outcome::Coherence(Ok(_))) => self.met(index, PROGRAM_BARRIER),
            (Op::Round, Outcome::Coherence(Err(failure))) => self.round_fails(index, failure),
            // A rank left, or died, in between.
            (Op::Meet | Op::End, Outcome::Coherence(Err(_))) => self.fails(index),
            (Op::Alloc, Outcome::Region(Ok(Some(record)))) => self.found_region(index, &record),
            (Op::Alloc, Outcome::Region(result)) => {
                self.log(index, || format!("no region: {result:?}"));
                self.fails(index);
            }
            (Op::Thread(thread), Outcome::Coherence(result)) => self.thread_goes_on(index, thread, result),
            (Op::Leave, Outcome::Left(result)) => self.left(index, result.is_ok()),
            (_, Outcome::Membership) => self.fails(index),
            (what, outcome) => self.fail(|| format!("{what:?} does not end so: {outcome:?}")),
        }
    }

    fn joined(&mut self, index: usize) {
        let machine = self.processes[index].machine.as_ref();
        if machine.is_none_or(|machine| machine.lifecycle().why().is_some()) {
            return;
        }
        self.work.joins += 1;
        let Some((program, _)) = self.processes[index].rank() else {
            self.processes[index].stage = Stage::Working;
            return;
        };
        self.processes[index].stage = Stage::Meeting;
        *self.arrived.entry((program, FIRST_BARRIER)).or_default() += 1;
        let barrier = BarrierId { program, index: FIRST_BARRIER };
        self.begin(index, Op::Meet, |op| MachineEvent::Command { op, command: Command::Barrier(barrier) });
    }

    /// A barrier of all ranks has ended: not before all have come.
    fn met(&mut self, index: usize, barrier: u32) {
        let Role::Rank { program, ranks, .. } = self.processes[index].role else { return };
        let arrived = self.arrived.get(&(program, barrier)).copied().unwrap_or(0);
        if arrived < ranks as usize {
            self.fail(|| format!("a barrier ends when all have come: {arrived} of {ranks} at {barrier}"));
        }
        if barrier == FIRST_BARRIER {
            self.ask_for_region(index);
        }
    }

    /// A rank comes to its program's own barrier, once, unless it leaves before.
    pub(super) fn come_to_barrier(&mut self, index: usize) {
        let Some((program, _)) = self.processes[index].rank() else { return };
        self.processes[index].has_met = true;
        *self.arrived.entry((program, PROGRAM_BARRIER)).or_default() += 1;
        let barrier = BarrierId { program, index: PROGRAM_BARRIER };
        self.begin(index, Op::Round, |op| MachineEvent::Command { op, command: Command::Barrier(barrier) });
    }

    /// A barrier breaks only if a rank of the program comes no more.
    fn round_fails(&mut self, index: usize, failure: Failure) {
        let own = self.processes[index].rank().map(|(program, _)| program);
        let is_ours = |process: &&Process| process.rank().map(|(program, _)| program) == own;
        let is_going = |process: &Process| process.stage >= Stage::Ending || process.phase == Phase::Gone;
        let has_cause = match failure {
            Failure::NodeDied(_) => self.processes.iter().filter(is_ours).any(is_going),
            Failure::Leaving => is_going(&self.processes[index]),
            Failure::PageLost(_)
            | Failure::LockBroken(_)
            | Failure::NoRegion
            | Failure::Abandoned
            | Failure::LockBusy
            | Failure::BarrierMisuse => false,
        };
        if !has_cause && !self.plan.is_rough {
            self.fail(|| format!("a barrier breaks if somebody is missing: p{index} is told {failure:?}"));
        }
    }

    /// A rank has done its work, or leaves in the middle of it.
    pub(super) fn finish(&mut self, index: usize) {
        let Some((program, _)) = self.processes[index].rank() else { return };
        if self.plan.daemons > 0 {
            return self.leave(index, true);
        }
        self.processes[index].stage = Stage::Ending;
        // Those that wait for it at the program's barrier would wait in vain.
        let barrier = BarrierId { program, index: PROGRAM_BARRIER };
        let members = self.processes[index].machine.as_ref().map_or(NodeSet::EMPTY, Machine::ranks);
        self.give(index, MachineEvent::Thread(Input::Retire { barrier, members }));
        if self.processes[index].phase != Phase::Running || self.processes[index].stage != Stage::Ending {
            return;
        }
        *self.arrived.entry((program, LAST_BARRIER)).or_default() += 1;
        let barrier = BarrierId { program, index: LAST_BARRIER };
        self.begin(index, Op::End, |op| MachineEvent::Command { op, command: Command::Barrier(barrier) });
    }

    fn leave(&mut self, index: usize, writes_back: bool) {
        self.processes[index].stage = Stage::Leaving;
        let how = Departing { writes_back, by: Departure::Wish, asks: true };
        self.begin(index, Op::Leave, |op| MachineEvent::Command { op, command: Command::Leave(how) });
    }

    /// A departure has ended: the process goes, and with it everything that it has not sent.
    fn left(&mut self, index: usize, well: bool) {
        if self.shared.rng.bool() && !self.transmit(index) {
            return;
        }
        if well {
            self.work.leaves += 1;
            self.processes[index].phase = Phase::Gone;
            self.release_memory(index);
            self.shared.oracle.left(NodeId(index as u16));
            self.forget_calls(index);
            self.tell_host(index);
        } else {
            let machine = self.processes[index].machine.as_ref();
            let has_ended = machine.is_none_or(|machine| machine.lifecycle().why().is_some());
            if !has_ended && !self.plan.is_rough && !self.is_troubled {
                self.fail(|| format!("a departure without trouble loses nothing: p{index}"));
            }
            self.vanish(index);
        }
        self.processes[index].machine = None;
    }

    /// The machine says that it cannot go on. A process that is told so ends; a daemon at once.
    fn ended(&mut self, index: usize, why: &Why) {
        self.processes[index].stage = Stage::Failed;
        self.judge_end(index, why);
        let at = self.soon(Span::from_ms(5));
        self.schedule(at, Event::End(index));
    }

    fn fails(&mut self, index: usize) {
        self.processes[index].stage = Stage::Failed;
        let at = self.soon(Span::from_ms(5));
        self.schedule(at, Event::End(index));
    }

    /// A process that cannot go on ends: half of them as at exit, half at once.
    pub(super) fn end(&mut self, index: usize) {
        if self.processes[index].phase != Phase::Running {
            return;
        }
        if !self.processes[index].runs(self.shared.now) {
            return self.schedule(self.processes[index].starved_until, Event::End(index));
        }
        let leaves = self.processes[index].ops.values().any(|(op, _)| *op == Op::Leave);
        if leaves {
            return;
        }
        let is_rank = self.processes[index].rank().is_some();
        if is_rank && self.plan.daemons > 0 && self.shared.rng.bool() {
            let how = Departing { writes_back: true, by: Departure::Exit, asks: true };
            self.begin(index, Op::Leave, |op| MachineEvent::Command { op, command: Command::Leave(how) });
        } else {
            self.give(index, MachineEvent::Close("its program ends"));
            self.vanish(index);
        }
    }

    /// A process is no more, and nothing of what it had.
    pub(super) fn vanish(&mut self, index: usize) {
        if self.processes[index].phase == Phase::Gone {
            return;
        }
        self.log(index, || "is gone".to_owned());
        let process = &mut self.processes[index];
        process.phase = Phase::Gone;
        process.machine = None;
        process.ops.clear();
        process.local.threads.clear();
        if self.plan.runs_on {
            self.leave_memory(index);
        } else {
            self.shared.oracle.died(NodeId(index as u16));
        }
        self.forget_calls(index);
        self.tell_host(index);
    }

    /// The kernel tells the processes of its host that watch it that one has ended, soon or late.
    fn tell_host(&mut self, index: usize) {
        let host = self.plan.processes[index].host;
        for process in 0..self.processes.len() {
            let is_here = self.plan.processes[process].host == host && process != index;
            if is_here && watches(process, index) {
                let longest = [Span::from_ms(1), Span::from_ms(200)][self.shared.rng.usize(..2)];
                let at = self.soon(longest);
                self.schedule(at, Event::Told { process, of: incarnation(index) });
            }
        }
    }

    pub(super) fn told(&mut self, index: usize, of: Incarnation) {
        if self.processes[index].phase != Phase::Running {
            return;
        }
        if !self.processes[index].runs(self.shared.now) {
            let until = self.processes[index].starved_until;
            return self.schedule(until, Event::Told { process: index, of: of.0 });
        }
        self.give(index, MachineEvent::ProcessEnded(of));
    }

    /// As the library gives up: a rank of its program that does not come ends the join.
    pub(super) fn join_is_late(&mut self, index: usize) {
        let joins = self.processes[index].ops.values().any(|(op, _)| *op == Op::Join);
        if self.processes[index].phase != Phase::Running || !joins {
            return;
        }
        if !self.plan.is_rough && !self.is_troubled {
            let stuck = self.describe_stuck();
            self.fail(|| format!("a join without trouble ends: p{index}; {stuck}"));
        }
        self.give(index, MachineEvent::Close("could not join"));
        self.vanish(index);
    }

    /// What must hold after every step of a machine.
    fn check(&mut self, index: usize) {
        let now = self.shared.now;
        let process = &self.processes[index];
        let Some(machine) = &process.machine else { return };
        let audit = machine.audit();
        let seen = std::mem::replace(&mut self.processes[index].seen, (audit.suspicions, audit.waiting));
        self.work.suspicions += u64::from(audit.suspicions > seen.0);
        self.work.full += u64::from(audit.waiting > 0 && seen.1 == 0);
        if audit.asks_to_leave {
            self.faint(index);
        }
        if let Some(peer) = audit.welcomed.filter(|_| self.plan.mutes.is_some()) {
            self.mute(peer, index);
        }
        let process = &self.processes[index];
        let Some(machine) = &process.machine else { return };
        let violations = machine.coherence().map_or(0, |core| core.counters().violations);
        let late = process.ops.iter().find(|(_, (_, since))| now.since(*since) > PATIENCE);
        let late = late.map(|(op, what)| format!("{op:?} {what:?}"));
        let mut new_deaths = 0;
        if let Some(membership) = machine.membership() {
            new_deaths = membership.view().deaths.len();
        }
        self.work.early = self.work.early.max(audit.early_members as u64);
        if audit.early_members > self.plan.early.messages
            || audit.early_stranger > self.plan.early.stranger_messages
            || audit.waiting > WAITING_MAX
        {
            self.fail(|| format!("every queue is within its bound: p{index} {audit:?}"));
        }
        if violations > 0 {
            self.fail(|| format!("nothing impossible arrives: p{index} counts {violations}"));
        }
        if let Some(late) = late {
            let stuck = self.describe_stuck();
            self.fail(|| format!("nobody waits for ever: p{index} {late}; {stuck}"));
        }
        self.check_members(index);
        if new_deaths > 0 && self.shared.oracle.broken.is_none() {
            self.judge_deaths(index);
        }
        self.shared.oracle.check_mappings();
    }

    /// Nobody is declared dead who runs and can be reached.
    fn judge_deaths(&mut self, index: usize) {
        let Some(membership) = self.processes[index].machine.as_ref().and_then(Machine::membership) else {
            return;
        };
        // The last word on each counts.
        let deaths = membership.view().deaths.iter();
        let dead: BTreeMap<usize, bool> = deaths
            .map(|(_, death)| (death.member.intro.incarnation.0 as usize - 1, death.runner.is_none()))
            .collect();
        for (dead, is_lost) in dead {
            if self.processes[dead].phase == Phase::Gone {
                if is_lost && self.plan.runs_on {
                    self.lose(dead);
                }
                continue;
            }
            if self.plan.is_rough {
                let host = self.plan.processes[dead].host;
                let is_cut = self.weak.contains(&host) || self.processes[dead].was_silent;
                if !is_cut && self.processes[dead].stage != Stage::Failed {
                    self.fail(|| {
                        format!("only who is cut off or silent is declared dead: p{dead}, by p{index}")
                    });
                }
                if !is_lost {
                    // Nobody goes on without it.
                    continue;
                }
                // It cannot know yet, and goes on with what it has; nobody else sees that.
                self.processes[dead].local.threads.clear();
                self.processes[dead].local.go_unwatched();
                self.lost.insert(dead);
                self.shared.oracle.died(NodeId(dead as u16));
                continue;
            }
            // Its last words may be known before it is gone.
            if self.processes[dead].stage != Stage::Failed {
                self.fail(|| format!("nobody that runs is declared dead: p{dead}, in the view of p{index}"));
            }
        }
    }

    /// The reason of an end names who is no more.
    fn judge_end(&mut self, index: usize, why: &Why) {
        match why {
            Why::Died { name, .. } => {
                self.work.deaths += 1;
                let process = name.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
                let dead = process.and_then(|pid| pid.parse::<usize>().ok()).map(|pid| pid - 1);
                match dead {
                    Some(dead) if self.processes[dead].phase == Phase::Gone => {}
                    Some(dead) if self.processes[dead].stage == Stage::Failed || self.plan.is_rough => {
                        self.log(index, || format!("p{dead} is not gone yet"));
                    }
                    _ => self.fail(|| format!("the reason of an end names the dead: p{index} says {name}")),
                }
            }
            Why::Evicted(text) if !self.plan.is_rough => {
                self.fail(|| format!("nobody that runs is evicted: p{index}, {text}"));
            }
            // A handshake has three seconds, in which the other side may have had no core.
            Why::NotJoined(text) if text.contains("no answer") || text.contains("nobody listens") => {
                let coordinator = &self.processes[0];
                let answers = coordinator.phase == Phase::Running && coordinator.stage != Stage::Failed;
                if answers && !coordinator.was_held && self.work.cuts == 0 {
                    self.fail(|| format!("who is answered is not refused: p{index}, {text}"));
                }
                self.is_troubled = true;
            }
            Why::NotJoined(text) if !self.plan.is_rough && !self.is_troubled => {
                self.fail(|| format!("nobody is refused without a reason: p{index}, {text}"));
            }
            Why::Broken(text) => self.fail(|| format!("nothing breaks: p{index}, {text}")),
            Why::Left | Why::Evicted(_) | Why::NotJoined(_) | Why::Stopped(_) => {}
        }
    }

    /// Whether a process is in the middle of a critical section.
    pub(super) fn holds_a_lock(&self, index: usize) -> bool {
        self.processes[index].local.threads.iter().any(|thread| thread.holds.is_some())
    }

    pub(super) fn has_finished(&self, index: usize) -> bool {
        let process = &self.processes[index];
        process.stage == Stage::Working
            && process.local.threads.iter().all(|thread| thread.state == State::Finished)
    }
}
