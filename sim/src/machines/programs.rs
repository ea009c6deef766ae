//! What the ranks of a run do: they make or find the region, and their threads run on its pages.

use pagemesh::coherence::{Failure, Fault, Input, OpId, RegionInfo};
use pagemesh::machine::{Command, Event as MachineEvent, Host};
use pagemesh::membership::{ElementType, RegionRecord, Want};
use pagemesh::page::{NodeId, PAGE_SIZE, PageId, PeerId};

use super::plan::AUDITOR;
use super::process::{Op, Phase, Stage};
use super::{Event, Machines};
use crate::local::NodeMemory;
use crate::program::{CELLS, Cell, Instruction, State, Step, Thread};

const ADDRESS: u64 = 0x40_1000;

impl Machines {
    pub(super) fn ask_for_region(&mut self, index: usize) {
        self.processes[index].stage = Stage::Allocating;
        let bytes = self.shared.plan.region.pages * PAGE_SIZE as u64;
        let want =
            Want::Any { bytes, element: ElementType::untagged(8), placement: Some(self.plan.placement) };
        let command = Command::Region("data".into(), want);
        self.begin(index, Op::Alloc, |op| MachineEvent::Command { op, command });
    }

    /// The first rank that hears of it gives the pages of the run their addresses.
    pub(super) fn found_region(&mut self, index: usize, record: &RegionRecord) {
        if !self.plan.region_known {
            self.plan.region_known = true;
            self.move_pages(&record.info);
        }
        let rng = &mut self.shared.rng;
        let count = rng.u8(1..=self.shared.plan.threads_max);
        let is_auditor = self.processes[index].rank().is_some_and(|(program, _)| program == AUDITOR);
        let threads: Vec<Thread> = if is_auditor {
            vec![self.auditor()]
        } else {
            (0..count)
                .map(|thread| {
                    let id = 4_000 + 16 * index as u64 + u64::from(thread);
                    Thread::new(&self.shared.plan, &mut self.shared.rng, id, 0)
                })
                .collect()
        };
        self.processes[index].local.threads = threads;
        self.processes[index].stage = Stage::Working;
        for thread in 0..self.processes[index].local.threads.len() {
            self.step_after(index, thread as u8);
        }
    }

    fn move_pages(&mut self, info: &RegionInfo) {
        let plan = &mut self.shared.plan;
        let (old, new) = (plan.region.start.0, info.start.0);
        plan.pages.iter_mut().for_each(|page| *page = PageId(page.0 - old + new));
        plan.region = info.clone();
    }

    /// Reads every cell of every page.
    fn auditor(&self) -> Thread {
        let mut thread = Thread::adding(9_000, Instruction::Load(Cell { page: 0, index: 0 }), 0);
        for page in 0..self.shared.plan.pages.len() as u8 {
            for index in 0..CELLS.len() as u8 {
                let instruction = Instruction::Load(Cell { page, index });
                thread.steps.push_back(Step::Run { instruction, address: ADDRESS });
            }
        }
        thread
    }

    fn step_after(&mut self, index: usize, thread: u8) {
        let longest = self.shared.plan.pace.step;
        let at = self.soon(longest);
        self.schedule(at, Event::Step { process: index, thread });
    }

    /// One step of a thread that is ready.
    pub(super) fn step(&mut self, index: usize, thread: u8) {
        let at = thread as usize;
        let now = self.shared.now;
        let process = &mut self.processes[index];
        let is_ready = process.local.threads.get(at).is_some_and(|thread| thread.state == State::Ready);
        if process.phase != Phase::Running || process.stage != Stage::Working || !is_ready {
            return;
        }
        if now < process.starved_until {
            let until = process.starved_until;
            return self.schedule(until, Event::Step { process: index, thread });
        }
        let leaves_now = self.plan.processes[index].leaves_at.is_some_and(|at| now >= at);
        if leaves_now && !self.holds_a_lock(index) {
            self.log(index, || "leaves in the middle".to_owned());
            return self.finish(index);
        }
        if self.plan.meets && !self.processes[index].has_met && self.shared.rng.u32(..12) == 0 {
            self.come_to_barrier(index);
            if self.processes[index].stage != Stage::Working || self.processes[index].phase != Phase::Running
            {
                return;
            }
        }
        if self.shared.rng.u32(..self.plan.call_one_in) == 0 {
            if self.shared.rng.u32(..4) == 0 {
                self.call_again(index)
            } else {
                self.call_somebody(index)
            }
            if self.processes[index].stage != Stage::Working || self.processes[index].phase != Phase::Running
            {
                return;
            }
        }
        let process = &mut self.processes[index];
        let Some(runner) = process.local.threads.get_mut(at) else { return };
        if let Some((page, access)) = runner.woken.take() {
            let thread = runner.id;
            self.give(index, MachineEvent::Thread(Input::Resumed { thread, page, access }));
        }
        let Some(runner) = self.processes[index].local.threads.get_mut(at) else { return };
        let Some(step) = runner.step(&self.shared.plan, &mut self.shared.rng) else {
            runner.state = State::Finished;
            if self.has_finished(index) {
                self.finish(index);
            }
            return;
        };
        let local = &mut self.processes[index].local;
        match step {
            Step::Run { instruction, address } => self.run_or_fault(index, thread, instruction, address),
            Step::Lock(lock, _) if local.try_take(at, lock, &mut self.shared) => {
                self.finish_step(index, thread)
            }
            Step::Unlock(lock) if local.try_give(at, lock, &mut self.shared) => {
                self.finish_step(index, thread)
            }
            Step::Lock(lock, attempt) => {
                self.wait(index, thread, |op| MachineEvent::Thread(Input::Lock { op, lock, attempt }));
            }
            Step::Unlock(lock) => {
                local.threads[at].holds = None;
                self.shared.oracle.lock_released(self.shared.plan.index(lock.0));
                self.finish_step(index, thread);
                self.give(index, MachineEvent::Thread(Input::Unlock { lock }));
            }
            Step::Barrier(_) => unreachable!("these programs have no barriers"),
        }
    }

    fn wait(&mut self, index: usize, thread: u8, event: impl FnOnce(OpId) -> MachineEvent<'static>) {
        let op = self.next_op();
        let now = self.shared.now;
        self.processes[index].local.threads[thread as usize].state = State::Waiting(op);
        self.processes[index].ops.insert(op, (Op::Thread(thread), now));
        let event = event(op);
        self.log(index, || format!("{event:?}"));
        self.give(index, event);
    }

    fn run_or_fault(&mut self, index: usize, thread: u8, instruction: Instruction, address: u64) {
        let at = thread as usize;
        let local = &mut self.processes[index].local;
        match local.missing(&instruction, &mut self.shared.rng) {
            None => {
                local.run(at, instruction, &mut self.shared);
                self.finish_step(index, thread);
            }
            Some((page, access)) => {
                self.work.faults += 1;
                let id = local.threads[at].id;
                let page = self.shared.plan.pages[page as usize];
                local.threads[at].woken = Some((page, access));
                self.wait(index, thread, |op| {
                    MachineEvent::Thread(Input::Fault(Fault {
                        op,
                        thread: id,
                        instruction: address,
                        page,
                        access,
                    }))
                });
            }
        }
    }

    fn finish_step(&mut self, index: usize, thread: u8) {
        if let Some(runner) = self.processes[index].local.threads.get_mut(thread as usize) {
            runner.steps.pop_front();
        }
        self.step_after(index, thread);
    }

    pub(super) fn thread_goes_on(&mut self, index: usize, thread: u8, result: Result<u64, Failure>) {
        let at = thread as usize;
        let Some(runner) = self.processes[index].local.threads.get_mut(at) else { return };
        runner.state = State::Ready;
        let (id, step) = (runner.id, runner.steps.front().copied());
        match (step, result) {
            (Some(Step::Run { .. }), Ok(_)) => self.step_after(index, thread),
            (Some(Step::Lock(lock, _)), Ok(token)) => {
                runner.holds = Some(lock);
                let page = self.shared.plan.index(lock.0);
                self.shared.oracle.lock_taken(NodeId(index as u16), id, page, token);
                self.finish_step(index, thread);
            }
            (_, Err(failure)) => self.thread_fails(index, thread, step, failure),
            (step, Ok(_)) => self.fail(|| format!("only what waits ends: p{index} {step:?}")),
        }
    }

    fn thread_fails(&mut self, index: usize, thread: u8, step: Option<Step>, failure: Failure) {
        self.log(index, || format!("{step:?} fails: {failure:?}"));
        let leaves = self.processes[index].stage == Stage::Leaving;
        let has_cause = match failure {
            Failure::PageLost(_) | Failure::NodeDied(_) if self.plan.runs_on => !self.lost.is_empty(),
            Failure::PageLost(_) | Failure::NodeDied(_) => self.work.crashes > 0 || self.plan.is_rough,
            Failure::LockBroken(_) => true,
            Failure::Leaving => {
                leaves
                    || self.processes[index].stage == Stage::Ending
                    || self.processes[index].stage == Stage::Failed
            }
            Failure::NoRegion | Failure::Abandoned | Failure::LockBusy | Failure::BarrierMisuse => false,
        };
        if !has_cause {
            self.fail(|| format!("no failure without a cause: p{index} {step:?} {failure:?}"));
        }
        match (step, failure) {
            // The library ends the process: a page that it needs does not come.
            (Some(Step::Run { .. }), Failure::PageLost(_) | Failure::NodeDied(_)) => self.vanish(index),
            (_, Failure::Leaving) => {}
            _ => {
                let Some(runner) = self.processes[index].local.threads.get_mut(thread as usize) else {
                    return;
                };
                runner.woken = None;
                runner.steps.clear();
                runner.steps.extend(runner.holds.map(Step::Unlock));
                self.step_after(index, thread);
            }
        }
    }
}

impl Host for NodeMemory<'_> {
    type Kept<'a>
        = NodeMemory<'a>
    where
        Self: 'a;

    fn kept(&mut self, node: PeerId) -> Option<NodeMemory<'_>> {
        let local = self.local.kept(node.incarnation.0 as usize - 1)?;
        Some(NodeMemory { local, shared: self.shared })
    }

    fn map_region(&mut self, _start: PageId, _pages: u64) -> Result<(), String> {
        Ok(())
    }

    fn unmap_region(&mut self, _start: PageId, _pages: u64) -> Result<(), String> {
        Ok(())
    }

    fn backed_pages(&self) -> u64 {
        self.local.backed().count() as u64
    }

    fn end_lending(&mut self) {
        self.local.end_lending();
    }
}
