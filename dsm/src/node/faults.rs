//! Page faults of the application: brought to the cores by the faulting thread itself, or by the handler
//! thread of the `thread` backend.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::core::Brain;
use super::pump::Receiver;
use super::wait_times::WaitKind;
use super::waits::Outcome;
use super::{Inner, Locked, describe, exit};
use crate::coherence::{Failure, Input, OpId};
use crate::config::node::{ACTIVE_TICK, ANSWER_SOON, LOSS_NOTICE_WAIT};
use crate::fault::{CoreSection, FaultSink, PageFault};
use crate::page::{Access, PageId, Time};

const HAS_LEFT: &str = "the node has left the cluster";

impl FaultSink for Inner {
    fn resolve(&self, fault: PageFault) {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        if let Some(why) = locked.core.brain.why_ended() {
            drop(locked);
            self.die_in_fault(&fault, &why);
        }
        let now = self.now();
        let (op, bell) = locked.core.brain.waits.begin();
        locked.core.brain.wait_clock.begin(WaitKind::Page, now);
        self.start_fault(&mut locked, now, op, &fault);
        if !locked.core.brain.waits.has_ended(op) {
            self.arena.warm(fault.page);
        }
        let outcome = self.wait(&mut locked, (op, &bell), None);
        let fatal = locked.core.brain.fatal.clone();
        let (thread, page, access) = (u64::from(fault.thread), fault.page, fault.access);
        let resumed = self.now();
        locked.core.brain.wait_clock.end(WaitKind::Page, now, resumed);
        locked.core.brain.input(resumed, Input::Resumed { thread, page, access }, &self.arena);
        drop(locked);
        match (outcome, fatal) {
            (Some(Outcome::Coherence(Ok(_))), _) => {}
            (Some(Outcome::Coherence(Err(failure))), None) => {
                let why = self.why_failed(fault.page, failure);
                self.die_in_fault(&fault, &why);
            }
            (_, Some(fatal)) => self.die_in_fault(&fault, &describe(&fatal)),
            (_, None) => self.die_in_fault(&fault, HAS_LEFT),
        }
    }

    fn submit(&self, fault: PageFault) {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        let now = self.now();
        let op = locked.core.brain.waits.begin_detached();
        self.start_fault(&mut locked, now, op, &fault);
        let failed = locked.core.brain.failed_fault.take();
        let end = locked.core.brain.why_ended();
        drop(locked);
        if let Some(why) = end {
            self.die_in_fault(&fault, &why);
        }
        if let Some(failure) = failed {
            let why = self.why_failed(fault.page, failure);
            self.die_in_fault(&fault, &why);
        }
    }

    fn attend(&self) {
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        if matches!(locked.receiver, Receiver::Waiter(_)) {
            return; // another thread receives, and maps what comes
        }
        if let Some((op, bell)) = locked.core.brain.waits.begin_attending() {
            let until = self.now() + ANSWER_SOON;
            let _ = self.wait(&mut locked, (op, &bell), Some(until));
            locked.core.brain.waits.end_attending();
        }
    }
}

impl Inner {
    fn start_fault(&self, locked: &mut MutexGuard<'_, Locked>, now: Time, op: OpId, fault: &PageFault) {
        let PageFault { page, access, instruction, thread } = *fault;
        let thread = u64::from(thread);
        let input = crate::coherence::Fault { op, thread, instruction, page, access };
        let mapped = locked.core.brain.coherence.as_ref().map_or(Access::None, |core| core.mapped(page));
        locked.core.brain.input(now, Input::Fault(input), &self.arena);
        if mapped >= access {
            // Another thread's fault was answered first, or the kernel took the mapping: put it back.
            self.arena.settle(fault);
        }
        self.settle(locked, now);
    }

    /// What to tell the user of a fault that failed.
    fn why_failed(&self, page: PageId, failure: Failure) -> String {
        match failure {
            Failure::PageLost(_) => {
                let process = self.await_notice_of_loss(page);
                self.with_core(|core| core.brain.explain_loss(page, process.as_deref()))
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
        let _section = CoreSection::enter();
        let mut locked = self.lock();
        loop {
            let process = locked.core.brain.losses.process(page);
            let ended = locked.core.brain.why_ended().is_some();
            if process.is_some() || ended || self.now() >= until {
                return process;
            }
            let (op, bell) = locked.core.brain.waits.begin();
            let soon = self.now() + ACTIVE_TICK;
            let _ = self.wait(&mut locked, (op, &bell), Some(soon.min(until)));
        }
    }

    fn die_in_fault(&self, fault: &PageFault, why: &str) -> ! {
        self.sleep_if_ending(|| fault.thread);
        let who = self.with_core(|core| core.brain.intro_name());
        exit::die(format_args!("{who}: a page fault at {:?} cannot be resolved: {why}", fault.page.start()))
    }
}

impl Brain {
    /// Why no page comes any more, if none does.
    fn why_ended(&self) -> Option<String> {
        let left = || self.closed.then(|| HAS_LEFT.to_owned());
        self.fatal.as_ref().map(describe).or_else(left)
    }
}
