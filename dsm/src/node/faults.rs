//! Page faults of the application: brought to the cores by the faulting thread itself, or by the handler
//! thread of the `thread` backend.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::entry::Entry;
use super::reception::Receiver;
use super::wait_times::WaitKind;
use super::{Runtime, exit};
use crate::coherence::{Failure, Input, OpId};
use crate::config::node::{ANSWER_SOON, LOSS_NOTICE_WAIT};
use crate::fault::{FaultSink, PageFault};
use crate::machine::{Event, Machine, Outcome, describe};
use crate::membership::Membership;
use crate::page::{Access, PageId, Time};

/// Why no page comes any more.
enum End {
    /// The program has called `leave`, and uses the memory nevertheless.
    Left,
    /// This node, or the cluster, cannot go on.
    Cluster(String),
}

impl FaultSink for Runtime {
    fn resolve(&self, fault: PageFault) {
        let mut locked = self.enter();
        if let Some(end) = end_of_memory(&locked.machine) {
            drop(locked);
            self.die_at_end(&fault, &end);
        }
        let now = self.now();
        let cell = locked.ops.begin();
        locked.wait_clock.begin(WaitKind::Page, now);
        self.start_fault(&mut locked, now, cell.op(), &fault);
        if !cell.is_done() {
            self.arena.warm(fault.page);
        }
        let outcome = self.wait(&mut locked, &cell, None);
        let fatal = locked.machine.lifecycle().why().cloned();
        let (thread, page, access) = (u64::from(fault.thread), fault.page, fault.access);
        let resumed = self.now();
        locked.wait_clock.end(WaitKind::Page, now, resumed);
        self.give(&mut locked, resumed, Event::Thread(Input::Resumed { thread, page, access }));
        drop(locked);
        match (outcome, fatal) {
            (Some(Outcome::Coherence(Ok(_))), _) => {}
            (_, Some(fatal)) => self.die_in_fault(&fault, &describe(&fatal)),
            (Some(Outcome::Coherence(Err(Failure::Leaving))), None) => self.die_after_leave(&fault),
            (Some(Outcome::Coherence(Err(failure))), None) => {
                let why = self.why_failed(fault.page, failure);
                self.die_in_fault(&fault, &why);
            }
            (Some(Outcome::Region(_) | Outcome::Membership | Outcome::Left(_)) | None, None) => {
                self.die_after_leave(&fault);
            }
        }
    }

    fn find_region(&self, page: PageId) -> bool {
        // An end of the node, or of the cluster, is told elsewhere; the pointer leads to nothing here.
        self.use_region(page, None).is_ok()
    }

    fn submit(&self, fault: PageFault) {
        let mut locked = self.enter();
        if self.waiters_hear_of_the_end() {
            return;
        }
        if let Some(end) = end_of_memory(&locked.machine) {
            drop(locked);
            self.die_at_end(&fault, &end);
        }
        let now = self.now();
        let op = locked.ops.begin_detached();
        self.start_fault(&mut locked, now, op, &fault);
        let failed = locked.failed_fault.take();
        let end = end_of_memory(&locked.machine);
        drop(locked);
        if self.waiters_hear_of_the_end() {
            return;
        }
        if let Some(end) = end {
            self.die_at_end(&fault, &end);
        }
        if failed == Some(Failure::Leaving) {
            self.die_after_leave(&fault);
        }
        if let Some(failure) = failed {
            let why = self.why_failed(fault.page, failure);
            self.die_in_fault(&fault, &why);
        }
    }

    fn attend(&self) {
        let mut locked = self.enter();
        if matches!(locked.reception.receiver(), Receiver::Waiter(_)) {
            return; // another thread receives, and maps what comes
        }
        if let Some(cell) = locked.ops.begin_attending() {
            let until = self.now() + ANSWER_SOON;
            let _ = self.wait(&mut locked, &cell, Some(until));
            locked.ops.end_attending();
        }
    }
}

impl Runtime {
    /// Whether threads that wait for pages which they have submitted are woken, or will be at the end of `leave`, to
    /// fault again in [`FaultSink::resolve`]. A submitted fault that fails then says nothing of the program: its
    /// thread may have gone on long ago, with what another fault or a stream has mapped, and needs the page no more.
    pub(super) fn waiters_hear_of_the_end(&self) -> bool {
        self.arena.is_revoked() || self.memory_given_back.load(Ordering::Acquire)
    }

    fn start_fault(&self, locked: &mut Entry<'_>, now: Time, op: OpId, fault: &PageFault) {
        let PageFault { page, access, instruction, thread } = *fault;
        let thread = u64::from(thread);
        let input = crate::coherence::Fault { op, thread, instruction, page, access };
        let mapped = locked.machine.coherence().map_or(Access::None, |core| core.mapped(page));
        self.give(locked, now, Event::Thread(Input::Fault(input)));
        if mapped >= access {
            // Another thread's fault was answered first, or the kernel took the mapping: put it back.
            self.arena.restore(fault);
        }
        self.flush(locked, now);
    }

    /// What to tell the user of a fault that failed.
    fn why_failed(&self, page: PageId, failure: Failure) -> String {
        match failure {
            Failure::PageLost(_) => {
                let process = self.await_notice_of_loss(page);
                self.with_machine(|machine| machine.explain_loss(page, process.as_deref()))
            }
            Failure::NodeDied(_)
            | Failure::LockBroken(_)
            | Failure::NoRegion
            | Failure::Leaving
            | Failure::Abandoned
            | Failure::LockBusy
            | Failure::BarrierMisuse => self.failure(failure).to_string(),
        }
    }

    /// The process with which a page was lost. The home's notice may come after the protocol's message.
    fn await_notice_of_loss(&self, page: PageId) -> Option<Arc<str>> {
        let until = self.now() + LOSS_NOTICE_WAIT;
        let mut locked = self.enter();
        loop {
            let process = locked.machine.lost_with(page);
            let ended = end_of_memory(&locked.machine).is_some();
            if process.is_some() || ended || self.now() >= until {
                return process;
            }
            self.wait_a_tick(&mut locked);
        }
    }

    fn die_at_end(&self, fault: &PageFault, end: &End) -> ! {
        match end {
            End::Left => self.die_after_leave(fault),
            End::Cluster(why) => self.die_in_fault(fault, why),
        }
    }

    /// The program uses memory that it has given back.
    fn die_after_leave(&self, fault: &PageFault) -> ! {
        self.sleep_if_ending(|| fault.thread);
        let (who, region) = self.with_machine(|machine| {
            let mut regions = machine.membership().into_iter().flat_map(Membership::regions);
            let region = regions.find(|record| record.info.contains(fault.page));
            (machine.intro_name(), region.map(|record| format!("region `{}`", record.name)))
        });
        let region = region.unwrap_or_else(|| "no region".into());
        let access = if fault.access == Access::Write { "a store, which would be lost," } else { "a load" };
        exit::abort(format_args!(
            "{who}: shared memory was used after this process left the cluster: {access} in {region}; \
             end all uses of its memory, and drop all guards, before `leave`"
        ))
    }

    fn die_in_fault(&self, fault: &PageFault, why: &str) -> ! {
        self.sleep_if_ending(|| fault.thread);
        let who = self.with_machine(|machine| machine.intro_name());
        exit::die(format_args!("{who}: a page fault at {:?} cannot be resolved: {why}", fault.page.start()))
    }
}

/// Why no page comes any more, if none does.
fn end_of_memory(machine: &Machine) -> Option<End> {
    let lifecycle = machine.lifecycle();
    let left = || lifecycle.is_closed().then_some(End::Left);
    lifecycle.why().map(|why| End::Cluster(describe(why))).or_else(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::{Node, NodeConfig};
    use crate::settings::Settings;

    /// The handler thread may come to a fault late: another call has mapped the page, and the thread that the fault
    /// was of has gone on and has called `leave`. Of what fails then the process does not die.
    #[test]
    fn a_fault_that_is_submitted_when_its_thread_has_gone_on_and_left_ends_nothing() {
        let settings = Settings { arena_size: 1 << 28, memory_max: 1 << 28, ..Settings::default() };
        let node =
            Node::start(NodeConfig { arena_base: None, ..NodeConfig::rank(settings) }).expect("a rank");
        node.leave().expect("leaves");
        let fault = PageFault { page: PageId(1), access: Access::Read, instruction: 0, thread: 1 };
        node.runtime.submit(fault);
        let mut locked = node.runtime.enter();
        // As of one that was submitted in time, and whose page did not come before the end.
        locked.failed_fault = Some(Failure::Leaving);
        node.runtime.report_failed_fault(&mut locked);
        assert_eq!(locked.failed_fault, None);
    }
}
