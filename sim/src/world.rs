//! The run of one seed: nodes with the shipped core, one queue of events in simulated time, and the
//! checks after every event. Everything random comes from one generator, so a seed replays exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;
use pagemesh::coherence::{
    Attempt, BarrierId, Coherence, Failure, Fault, Input, LockId, Message, NodeSet, OpId, Output, RegionInfo,
    ToHome, Version,
};
use pagemesh::page::{Access, Epoch, NodeId, PageBuf, PageId, Span, Time};
use smallvec::SmallVec;

use crate::bare::Parcel;
use crate::lies::Liar;
use crate::local::{Local, NodeMemory, Shared};
use crate::oracle::Oracle;
use crate::plan::{CROWDED_PAGES, Departure, Plan};
use crate::program::{COUNTER, Cell, Instruction, State, Step, Thread};
use crate::slab::Slab;
use crate::trace::{Keep, Trace, What};
use crate::{Options, Prize, Report};

/// Events of one run; beyond it something goes round in circles.
const EVENTS_MAX: u64 = 2_000_000;
/// Lies of one run.
const LIES_MAX: u32 = 60;
/// What one node can wait for at a page's home: its request, its bytes' return or end, and its departure.
const QUEUED_MAX: usize = 4;
/// The one program of a run, and its one barrier.
pub(crate) const BARRIER: BarrierId = BarrierId { program: 1, index: 0 };

/// One run.
pub(crate) struct World {
    pub(crate) shared: Shared,
    pub(crate) nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(Time, u64, Event)>>,
    pub(crate) parcels: Slab<Parcel>,
    scheduled: u64,
    next_op: u64,
    next_incarnation: u32,
    /// Views of the cluster so far.
    pub(crate) epoch: u64,
    pub(crate) deaths: Vec<Death>,
    options: Options,
    pub(crate) work: Work,
    /// A node that lies, if there is one.
    pub(crate) liar: Option<Liar>,
}

/// A death as the views tell it.
pub(crate) struct Death {
    pub(crate) epoch: Epoch,
    pub(crate) node: NodeId,
    /// The members of the view that tells it.
    pub(crate) members: NodeSet,
    /// Those of them that other processes run.
    pub(crate) run_on: NodeSet,
}

/// One node of the run: a slot of the cluster, and who is in it.
pub(crate) struct Node {
    pub(crate) core: Coherence,
    pub(crate) local: Local,
    pub(crate) phase: Phase,
    pub(crate) incarnation: u32,
    /// How often its process has ended.
    pub(crate) life: u32,
    /// The slot whose process runs it, and the one that the newest view names.
    pub(crate) runs_at: NodeId,
    pub(crate) runner: NodeId,
    /// The death whose view names the runner, counted from one.
    pub(crate) named: usize,
    /// Incarnations that this node regards as members; messages of others are dropped.
    pub(crate) view: Vec<Option<u32>>,
    /// The newest view that it knows, and the deaths of the run that it has been told.
    pub(crate) epoch: Epoch,
    pub(crate) joined: Epoch,
    pub(crate) told: usize,
    /// Messages of this incarnation under way, duplicates not counted.
    pub(crate) in_flight: u32,
    pub(crate) leave_op: Option<OpId>,
    /// When it began to leave.
    pub(crate) leaving_since: Option<Time>,
    timer_at: Option<Time>,
    /// Newest version of each page that was readable here.
    seen: Vec<Version>,
    /// When each thread began to wait.
    since: SmallVec<[Option<Time>; 3]>,
}

/// Whether a slot's node takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Up,
    Leaving,
    /// Has left; its last messages are still under way.
    Left,
    Gone,
    /// Its process has ended, and its heir has not begun.
    Ended,
    /// Another process runs it.
    RunOn,
}

/// An event that is due at some time. Small: parcels lie beside the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Step { node: NodeId, thread: u8, incarnation: u32 },
    Deliver { slot: u32 },
    Timer { node: NodeId, incarnation: u32 },
    Abandon { node: NodeId, thread: u8, op: OpId, lock: LockId },
    Withdraw { node: NodeId, thread: u8, op: OpId },
    Depart { index: u8 },
    LearnDeaths { node: NodeId, told: u8 },
    Join { node: NodeId },
    BeginToRun { node: NodeId, by: NodeId },
    End { node: NodeId },
}

/// How much a run did; a run that did less than its floor proves nothing.
#[derive(Clone, Copy, Default)]
pub(crate) struct Work {
    pub(crate) messages: u64,
    pub(crate) operations: u64,
    pub(crate) failures: u64,
}

impl World {
    /// The world of a plan before anything has happened; the dice have drawn the plan already.
    pub(crate) fn new(plan: Plan, rng: Rng, options: Options) -> World {
        let oracle = Oracle::new(plan.pages.len(), plan.barrier_rounds);
        let trace = Trace::new(options.keep);
        let nodes = plan.nodes;
        let mut world = World {
            shared: Shared { oracle, rng, trace, now: Time(0), plan, plant: options.plant },
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            parcels: Slab::new(),
            scheduled: 0,
            next_op: 0,
            next_incarnation: 0,
            epoch: 1,
            deaths: Vec::new(),
            options,
            work: Work::default(),
            liar: None,
        };
        for node in (0..nodes).map(NodeId) {
            let fresh = world.fresh_node(node);
            world.nodes.push(fresh);
        }
        let view: Vec<Option<u32>> = world.nodes.iter().map(|node| Some(node.incarnation)).collect();
        for node in &mut world.nodes {
            node.view.clone_from(&view);
        }
        for node in (0..nodes).map(NodeId) {
            world.start(node);
        }
        for index in 0..world.shared.plan.departures.len() {
            let Departure { at, .. } = world.shared.plan.departures[index];
            world.schedule(at, Event::Depart { index: index as u8 });
        }
        world
    }

    /// One of eight such runs has a member that lies. Its dice are its own, so the others are as they would be.
    pub(crate) fn with_liar(mut self) -> World {
        let mut rng = Rng::with_seed(self.shared.rng.get_seed() ^ 0x11e5);
        if rng.u32(..8) == 0 {
            let node = NodeId(rng.u16(..self.shared.plan.nodes));
            self.liar = Some(Liar { node, one_in: rng.u32(2..12), left: LIES_MAX, rng, wanted: Vec::new() });
            (0..self.shared.plan.nodes).for_each(|other| self.tell_program(NodeId(other)));
        }
        self
    }

    /// Tells a node that the liar has no business at the barriers of the run, if so it is.
    pub(crate) fn tell_program(&mut self, node: NodeId) {
        let Some(liar) = self.liar.as_ref().map(|liar| liar.node) else { return };
        let is_fresh = self.node(liar).incarnation > u32::from(self.shared.plan.nodes);
        let program = (!is_fresh && self.shared.plan.members.contains(liar)).then_some(BARRIER.program);
        self.node(node).core.tell_program(liar, program);
    }

    /// A node that has just been started in a slot.
    pub(crate) fn fresh_node(&mut self, me: NodeId) -> Node {
        self.next_incarnation += 1;
        let incarnation = self.next_incarnation;
        let plan = &self.shared.plan;
        let homes = &plan.region.homes;
        let nearest = if homes.contains(&me) { me } else { homes[me.0 as usize % homes.len()] };
        let joined = Epoch(self.epoch);
        let core = Coherence::new(me, joined, nearest);
        let core = match plan.limit(me) {
            Some(limit) => core.with_limit(limit),
            None => core,
        };
        let core = self.planted(core);
        let (threads, pages) = (self.draw_threads(me), self.shared.plan.pages.len());
        Node {
            core,
            phase: Phase::Up,
            incarnation,
            life: 0,
            runs_at: me,
            runner: me,
            named: 0,
            epoch: joined,
            joined,
            told: self.deaths.len(),
            view: Vec::new(),
            in_flight: 0,
            leave_op: None,
            leaving_since: None,
            timer_at: None,
            seen: vec![Version::default(); pages],
            since: SmallVec::from_elem(None, threads.len()),
            local: Local::new(me, pages, threads),
        }
    }

    /// The core with the fault of this run, if there is one.
    pub(crate) fn planted(&self, core: Coherence) -> Coherence {
        #[cfg(feature = "planted")]
        let core = match self.options.plant {
            Some(plant) => core.with_planted(pagemesh::coherence::Planted::with(plant)),
            None => core,
        };
        core
    }

    fn draw_threads(&mut self, me: NodeId) -> Vec<Thread> {
        let Shared { plan, rng, .. } = &mut self.shared;
        // Only the first incarnation of a slot meets the others at barriers.
        let member = plan.members.contains(me) && self.next_incarnation <= u32::from(plan.nodes);
        (0..rng.u8(1..=plan.threads_max))
            .map(|index| {
                let rounds = if index == 0 && member { plan.barrier_rounds } else { 0 };
                Thread::new(plan, rng, 4_000 + 16 * u64::from(me.0) + u64::from(index), rounds)
            })
            .collect()
    }

    /// Tells a fresh node the regions and sets its threads going.
    pub(crate) fn start(&mut self, node: NodeId) {
        for region in self.shared.plan.regions().map(RegionInfo::clone) {
            self.feed(node, Input::Region(region));
        }
        for thread in 0..self.node(node).local.threads.len() {
            let after = self.pace();
            self.schedule_step(node, thread as u8, after);
        }
    }

    /// Gives every node one thread that adds to the same place.
    pub(crate) fn contend(&mut self, prize: Prize, times: u32) {
        let instruction = match prize {
            Prize::Word => Instruction::Add(Cell { page: 0, index: COUNTER }),
            Prize::Straddle => Instruction::AddAcross(0),
        };
        for node in &mut self.nodes {
            let id = node.local.threads[0].id;
            node.local.threads = vec![Thread::adding(id, instruction, times)];
        }
    }

    /// Has all threads copy, each from and to pages of its own choice.
    pub(crate) fn crowd(&mut self, times: u32) {
        let rng = &mut self.shared.rng;
        for thread in self.nodes.iter_mut().flat_map(|node| &mut node.local.threads) {
            let (low, high) = (rng.u8(..3), rng.u8(4..CROWDED_PAGES as u8 - 1));
            let (from, to) = if rng.bool() { (low, high) } else { (high, low) };
            *thread = Thread::adding(thread.id, Instruction::CopyAcross { from, to }, times);
        }
    }

    /// Runs until nothing is due any more, then checks the rest.
    pub(crate) fn run(mut self) -> Result<Report, (String, Vec<String>)> {
        let (mut events, mut checked_at) = (0_u64, Time(0));
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            self.shared.now = at;
            self.react(event);
            events += 1;
            if events.is_multiple_of(256) || at.since(checked_at) > Span::from_ms(1_000) {
                checked_at = at;
                self.check_patience(events);
            }
            if self.shared.oracle.broken.is_some() {
                break;
            }
        }
        self.check_quiet();
        match self.shared.oracle.broken.take() {
            Some(what) => Err((what, self.shared.trace.lines())),
            None => {
                let (trace_events, trace_hash) = self.shared.trace.summary();
                let lines =
                    if self.options.keep == Keep::All { self.shared.trace.lines() } else { Vec::new() };
                Ok(Report {
                    trace_events,
                    trace_hash,
                    instructions: self.shared.oracle.instructions,
                    messages: self.work.messages,
                    simulated: self.shared.now,
                    lines,
                })
            }
        }
    }

    pub(crate) fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.0 as usize]
    }

    pub(crate) fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((at, self.scheduled, event)));
    }

    fn schedule_step(&mut self, node: NodeId, thread: u8, after: Span) {
        let (at, incarnation) = (self.shared.now + after, self.node(node).incarnation);
        self.schedule(at, Event::Step { node, thread, incarnation });
    }

    /// How long a thread takes to its next step: short, and now and then longer than any hold.
    fn pace(&mut self) -> Span {
        let Shared { plan, rng, .. } = &mut self.shared;
        let longest = if rng.u32(..plan.pace.pause_one_in) == 0 { plan.pace.pause } else { plan.pace.step };
        Span(rng.u64(plan.pace.step_min.0..=longest.0.max(plan.pace.step_min.0)))
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Step { node, thread, incarnation } => {
                let slot = self.node(node);
                if slot.incarnation == incarnation && matches!(slot.phase, Phase::Up | Phase::Leaving) {
                    self.step(node, thread);
                    self.disturb(node);
                }
            }
            Event::Deliver { slot } => self.deliver(slot),
            Event::Timer { node, incarnation } => {
                let now = self.shared.now;
                let slot = self.node(node);
                if slot.incarnation == incarnation && slot.takes_part() && slot.timer_at == Some(now) {
                    slot.timer_at = None;
                    self.record(node, What::Timer);
                    self.feed(node, Input::Timer);
                }
            }
            Event::Abandon { node, thread, op, lock } => {
                if self.waits_for(node, thread, op) {
                    self.record(node, What::AbandonLock { op });
                    self.feed(node, Input::AbandonLock { op, lock });
                }
            }
            Event::Withdraw { node, thread, op } => {
                if self.waits_for(node, thread, op) {
                    self.record(node, What::WithdrawBarrier { op });
                    self.feed(node, Input::WithdrawBarrier { op, barrier: BARRIER });
                }
            }
            Event::Depart { index } => self.depart(index),
            Event::LearnDeaths { node, told } => {
                for slot in self.run_by(node) {
                    self.learn_deaths(slot, told as usize);
                }
            }
            Event::Join { node } => self.join(node),
            Event::BeginToRun { node, by } => self.begin_to_run(node, by),
            Event::End { node } => self.process_ended(node),
        }
    }

    /// Whether a thread of a node that takes part still waits for this operation.
    fn waits_for(&mut self, node: NodeId, thread: u8, op: OpId) -> bool {
        let slot = self.node(node);
        let runner = slot.local.threads.get(thread as usize);
        runner.is_some_and(|thread| thread.state == State::Waiting(op))
            && matches!(slot.phase, Phase::Up | Phase::Leaving)
    }

    pub(crate) fn record(&mut self, node: NodeId, what: What) {
        self.shared.trace.record(self.shared.now, node, what);
    }

    /// One step of a thread that is ready.
    fn step(&mut self, node: NodeId, thread: u8) {
        let at = thread as usize;
        let slot = &mut self.nodes[node.0 as usize];
        let runner = &mut slot.local.threads[at];
        if runner.state != State::Ready {
            return;
        }
        if let Some((page, access)) = runner.woken.take() {
            let thread_id = runner.id;
            if self.resume(node, thread, thread_id, page, access) {
                return;
            }
        }
        let slot = &mut self.nodes[node.0 as usize];
        let runner = &mut slot.local.threads[at];
        let Some(step) = runner.step(&self.shared.plan, &mut self.shared.rng) else {
            runner.state = State::Finished;
            slot.since[at] = None;
            self.work.operations += 1;
            return;
        };
        slot.since[at].get_or_insert(self.shared.now);
        match step {
            Step::Run { instruction, address } => self.run_or_fault(node, thread, instruction, address),
            Step::Lock(lock, _) if slot.local.try_take(at, lock, &mut self.shared) => {
                self.finish_step(node, thread);
            }
            Step::Unlock(lock) if slot.local.try_give(at, lock, &mut self.shared) => {
                self.finish_step(node, thread);
            }
            Step::Lock(lock, attempt) => {
                let op = self.wait(node, thread);
                self.record(node, What::Lock { op, lock, attempt });
                self.feed(node, Input::Lock { op, lock, attempt });
                if self.shared.plan.abandons && self.shared.rng.u32(..3) == 0 {
                    let at = self.shared.now + Span(self.shared.rng.u64(..2_000_000));
                    self.schedule(at, Event::Abandon { node, thread, op, lock });
                }
            }
            Step::Unlock(lock) => {
                self.shared.oracle.lock_released(self.shared.plan.index(lock.0));
                self.node(node).local.threads[at].holds = None;
                self.record(node, What::Unlock { lock });
                self.finish_step(node, thread);
                self.feed(node, Input::Unlock { lock });
            }
            Step::Barrier(round) if !self.all_live(node) => {
                // Whoever runs the program refuses: a rank of it is known to be dead.
                self.shared.oracle.barrier_ended(node, round, self.shared.plan.members, Err(()));
                self.node(node).local.threads[at].meets = false;
                self.finish_step(node, thread);
            }
            Step::Barrier(round) => {
                let op = self.wait(node, thread);
                self.shared.oracle.arrived(node, round);
                self.record(node, What::Barrier { op, round });
                let members = self.shared.plan.members;
                self.feed(node, Input::Barrier { op, barrier: BARRIER, members });
                if self.shared.plan.withdraws && self.shared.rng.bool() {
                    let at = self.shared.now + Span(self.shared.rng.u64(..2_000_000));
                    self.schedule(at, Event::Withdraw { node, thread, op });
                }
            }
        }
    }

    /// Says, most of the time, that a thread goes on after its fault; its instruction follows soon.
    fn resume(&mut self, node: NodeId, at: u8, thread: u64, page: PageId, access: Access) -> bool {
        if self.shared.rng.u32(..4) == 0 {
            return false;
        }
        self.record(node, What::Resumed { thread, page });
        self.feed(node, Input::Resumed { thread, page, access });
        let soon = Span(self.shared.rng.u64(..3_000));
        let after = if self.shared.rng.u32(..8) == 0 { self.pace() } else { soon };
        self.schedule_step(node, at, after);
        true
    }

    /// Whether every member of the barrier is the one that the program began with, as far as is known.
    fn all_live(&mut self, node: NodeId) -> bool {
        let members = self.shared.plan.members;
        let view = &self.node(node).view;
        members.iter().all(|member| view[member.0 as usize] == Some(u32::from(member.0) + 1))
    }

    fn run_or_fault(&mut self, node: NodeId, thread: u8, instruction: Instruction, address: u64) {
        let slot = &mut self.nodes[node.0 as usize];
        match slot.local.missing(&instruction, &mut self.shared.rng) {
            None => {
                slot.local.run(thread as usize, instruction, &mut self.shared);
                self.finish_step(node, thread);
            }
            Some((page, access)) => {
                let id = slot.local.threads[thread as usize].id;
                let op = self.wait(node, thread);
                let page = self.shared.plan.pages[page as usize];
                let fault = Fault { op, thread: id, instruction: address, page, access };
                self.node(node).local.threads[thread as usize].woken = Some((page, access));
                self.record(node, What::Fault(fault));
                self.feed(node, Input::Fault(fault));
            }
        }
    }

    /// The step at the front is done; the next follows after a while.
    fn finish_step(&mut self, node: NodeId, thread: u8) {
        let slot = self.node(node);
        slot.local.threads[thread as usize].steps.pop_front();
        slot.since[thread as usize] = None;
        let after = self.pace();
        self.schedule_step(node, thread, after);
    }

    fn wait(&mut self, node: NodeId, thread: u8) -> OpId {
        let op = self.next_op();
        self.node(node).local.threads[thread as usize].state = State::Waiting(op);
        op
    }

    pub(crate) fn next_op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// Now and then a node is told to hold less, or to fetch ahead.
    pub(crate) fn disturb(&mut self, node: NodeId) {
        match self.node(node).phase {
            Phase::Up => self.lie(node),
            Phase::RunOn => {}
            Phase::Leaving | Phase::Left | Phase::Gone | Phase::Ended => return,
        }
        let has_program = self.node(node).phase == Phase::Up;
        let Shared { plan, rng, .. } = &mut self.shared;
        let page = plan.pages[rng.usize(..plan.pages.len())];
        if plan.evict_one_in.is_some_and(|one_in| rng.u32(..one_in) == 0) {
            self.record(node, What::Evict { page });
            self.feed(node, Input::Evict { page });
        } else if has_program && plan.prefetch_one_in.is_some_and(|one_in| rng.u32(..one_in) == 0) {
            let access = if rng.bool() { Access::Read } else { Access::Write };
            self.record(node, What::Prefetch { page, access });
            self.feed(node, Input::Prefetch { first: page, pages: 1, access });
        }
    }

    /// Gives a node's core an input, carries out what it says, and checks it.
    pub(crate) fn feed(&mut self, node: NodeId, input: Input<'_>) {
        let slot = &mut self.nodes[node.0 as usize];
        let mut memory = NodeMemory { local: &mut slot.local, shared: &mut self.shared };
        slot.core.handle(memory.shared.now, input, &mut memory);
        while let Some(output) = self.node(node).core.poll_output() {
            match output {
                Output::Send { to, message, page } => {
                    if self.node(node).local.takes_step() {
                        self.send(node, to, message, page);
                    }
                }
                Output::Done { .. } if self.node(node).local.has_ended() => {}
                Output::Done { op, result } => self.done(node, op, result),
            }
        }
        if self.node(node).local.has_ended() {
            return self.crashed(node);
        }
        self.check_node(node);
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: NodeId) {
        let now = self.shared.now;
        let slot = self.node(node);
        let Some(due) = slot.core.poll_timeout() else { return };
        let due = due.max(now);
        if slot.timer_at.is_none_or(|at| due < at) {
            slot.timer_at = Some(due);
            let incarnation = slot.incarnation;
            self.schedule(due, Event::Timer { node, incarnation });
        }
    }

    fn done(&mut self, node: NodeId, op: OpId, result: Result<u64, Failure>) {
        self.record(node, What::Done { op, result });
        let slot = self.node(node);
        if slot.leave_op == Some(op) {
            return self.has_left(node);
        }
        let waiting = slot.local.threads.iter().position(|thread| thread.state == State::Waiting(op));
        let Some(at) = waiting else {
            return self.shared.oracle.fail(|| format!("each operation ends once: {node} {op:?}"));
        };
        let runner = &mut slot.local.threads[at];
        runner.state = State::Ready;
        let (step, id) = (runner.steps.front().copied().expect("a waiting thread has a step"), runner.id);
        match result {
            Ok(value) => self.succeeded(node, at, id, step, value),
            Err(failure) => self.failed(node, at, step, failure),
        }
    }

    fn succeeded(&mut self, node: NodeId, at: usize, id: u64, step: Step, value: u64) {
        match step {
            // The instruction is tried again, later.
            Step::Run { .. } => {
                let after = self.pace();
                self.schedule_step(node, at as u8, after);
            }
            Step::Lock(lock, _) => {
                let page = self.shared.plan.index(lock.0);
                self.shared.oracle.lock_taken(node, id, page, value);
                self.node(node).local.threads[at].holds = Some(lock);
                self.finish_step(node, at as u8);
            }
            Step::Barrier(round) => {
                self.shared.oracle.barrier_ended(node, round, self.shared.plan.members, Ok(()));
                self.finish_step(node, at as u8);
            }
            Step::Unlock(_) => unreachable!("unlocking does not wait"),
        }
    }

    /// The operation failed: its thread gives the rest of it up.
    fn failed(&mut self, node: NodeId, at: usize, step: Step, failure: Failure) {
        self.work.failures += 1;
        self.shared.oracle.failed(node, failure);
        let faulted = self.node(node).local.threads[at].woken.map(|(page, _)| page);
        if let (Failure::PageLost(_), Some(page)) = (failure, faulted) {
            let page = self.shared.plan.index(page);
            self.shared.oracle.lost(page);
        }
        if self.shared.plan.runs_on
            && matches!(failure, Failure::PageLost(_) | Failure::NodeDied(_))
            && !matches!(step, Step::Barrier(_))
        {
            self.shared.oracle.fail(|| format!("no store is lost: {node} was told {failure:?}"));
        }
        let leaving = self.node(node).phase == Phase::Leaving;
        match (step, failure) {
            (Step::Barrier(round), Failure::Abandoned) => {
                self.shared.oracle.withdrew(node, round);
                if !leaving {
                    // It comes again, later.
                    let after = self.pace();
                    return self.schedule_step(node, at as u8, after);
                }
            }
            (Step::Barrier(round), _) => {
                self.shared.oracle.barrier_ended(node, round, self.shared.plan.members, Err(()));
            }
            (Step::Lock(_, Attempt::Try), Failure::LockBusy) => {}
            (_, Failure::LockBusy) => {
                self.shared.oracle.fail(|| format!("only a thread that tries is told so: {node} {step:?}"));
            }
            (Step::Run { .. } | Step::Lock(..) | Step::Unlock(_), _) => {}
        }
        let runner = &mut self.node(node).local.threads[at];
        runner.woken = None;
        runner.meets &= !matches!(step, Step::Barrier(_));
        runner.steps.clear();
        if leaving {
            runner.stop();
        }
        // A lock that is held is given back whatever happened in the section.
        runner.steps.extend(runner.holds.map(Step::Unlock));
        runner.steps.push_front(step);
        self.finish_step(node, at as u8);
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message, page: Option<PageBuf>) {
        self.record(from, What::Send { to, message });
        if from == to || page.is_some() != message.carries_page() {
            self.shared.oracle.fail(|| format!("a message is well formed: {from} sends {to} {message:?}"));
        }
        let Some(incarnation) = self.node(from).view[to.0 as usize] else { return };
        self.work.messages += 1;
        if let (Message::ToHome(ToHome::GetM { page, .. }), Some(liar)) = (message, &mut self.liar)
            && liar.node == from
        {
            liar.wanted.push(page);
        }
        self.post_message(from, (to, incarnation), message, page);
    }

    fn check_node(&mut self, node: NodeId) {
        let slot = &mut self.nodes[node.0 as usize];
        let oracle = &mut self.shared.oracle;
        for page in std::mem::take(&mut slot.local.touched) {
            let id = self.shared.plan.pages[page as usize];
            let (mapped, known) = (slot.local.access(page as usize), slot.core.mapped(id));
            let allowed = slot.core.access(id);
            if mapped != known || mapped > allowed {
                oracle.fail(|| {
                    format!(
                        "the mapping is known and allowed: {node} {id:?} {mapped:?}, {known:?}, {allowed:?}"
                    )
                });
            }
            if let Some(version) = slot.core.copy_version(id) {
                let seen = std::mem::replace(&mut slot.seen[page as usize], version);
                if version < seen {
                    oracle
                        .fail(|| format!("versions never go back: {node} {id:?} {seen:?}, then {version:?}"));
                }
            }
        }
        self.check_memory(node);
        let slot = &mut self.nodes[node.0 as usize];
        let oracle = &mut self.shared.oracle;
        let violations = slot.core.counters().violations;
        if violations > 0 && self.liar.is_none() {
            oracle.fail(|| format!("nothing impossible arrives: {node} counts {violations}"));
        }
        let (longest, nodes) = (slot.core.longest_queue(), usize::from(self.shared.plan.nodes));
        if longest > QUEUED_MAX * nodes {
            oracle.fail(|| format!("every queue is within its bound: {longest} wait for a page at {node}"));
        }
    }

    /// What the core counts is there, and never too much.
    fn check_memory(&mut self, node: NodeId) {
        let slot = &self.nodes[node.0 as usize];
        // A home need not know that it is one before its own threads touch the page.
        let is_home = |page| self.nodes.iter().any(|other| other.core.home(page) == Some(node));
        let cached = slot.local.backed().filter(|&page| !is_home(page)).count() as u64;
        let counted = slot.core.occupancy();
        // What was asked for may have its memory before it comes.
        if !(counted.cached..=counted.cached + counted.reserved).contains(&cached) {
            self.shared.oracle.fail(|| format!("memory is counted: {node} has {cached}, not {counted:?}"));
        }
        if counted.cached + counted.reserved > counted.cached_max {
            self.shared.oracle.fail(|| format!("no node exceeds its limit: {node} {counted:?}"));
        }
    }

    fn check_patience(&mut self, events: u64) {
        let (now, patience) = (self.shared.now, self.shared.plan.patience());
        let too_long = |since: &Time| now.since(*since) > patience;
        let waits = |node: &Node| node.since.iter().flatten().any(too_long);
        let lingers = |node: &Node| node.leaving_since.as_ref().is_some_and(too_long);
        let stuck = self.nodes.iter().position(|node| match node.phase {
            Phase::Up => waits(node),
            Phase::Leaving | Phase::Left => lingers(node),
            Phase::Gone | Phase::Ended | Phase::RunOn => false,
        });
        if let Some(node) = stuck {
            self.shared.oracle.fail(|| format!("nobody waits for ever: node {node} makes no progress"));
        }
        if events > EVENTS_MAX {
            self.shared.oracle.fail(|| "nobody waits for ever: too many events".to_owned());
        }
    }

    /// The pages that the run touches.
    pub(crate) fn pages(&self) -> Vec<PageId> {
        self.shared.plan.pages.clone()
    }

    /// Members of the run that are neither dead nor gone.
    pub(crate) fn up(&self) -> NodeSet {
        let up = |&(_, node): &(usize, &Node)| node.takes_part() && node.runner == node.runs_at;
        self.nodes.iter().enumerate().filter(up).map(|(at, _)| NodeId(at as u16)).collect()
    }
}

impl Node {
    /// Its process ends: no thread waits any more.
    pub(crate) fn end(&mut self) {
        (self.phase, self.timer_at, self.leave_op, self.leaving_since) = (Phase::Ended, None, None, None);
        self.life += 1;
        self.since.fill(None);
    }

    /// Whether it has a core that runs.
    pub(crate) fn takes_part(&self) -> bool {
        matches!(self.phase, Phase::Up | Phase::Leaving | Phase::RunOn)
    }

    pub(crate) fn is_dead(&self, incarnation: u32) -> bool {
        self.phase == Phase::Gone || self.incarnation != incarnation
    }
}
