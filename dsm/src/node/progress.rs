//! The progress thread: it receives while no other thread does, and looks after timers, ended processes, and
//! receivers that do not come.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::entry::Entry;
use super::poller::{Woken, has_datagram};
use super::receive::{Found, Seeker};
use super::reception::{Look, Receiver};
use super::{Runtime, exit, mutation, receive_buffer, time_slice};
use crate::config::node::ACTIVE_TICK;
use crate::fault::CoreSection;
use crate::machine::{Event, describe};
use crate::page::Time;
use crate::rpc::Deferred;

impl Runtime {
    pub(super) fn run_progress(&self) {
        time_slice::shorten();
        let mut buffer = receive_buffer();
        let mut section = CoreSection::enter();
        let (mut woken, mut polled_at) = (Woken::default(), self.now());
        let mut locked = self.enter_in_section();
        while !self.stopping.load(Ordering::Acquire) {
            let now = self.now();
            self.coarse_clock.store(now.0, Ordering::Relaxed);
            if now >= polled_at + ACTIVE_TICK {
                // While there is always something to receive it never sleeps, and processes end meanwhile.
                locked.unlocked(|| woken.add(self.poller.wait(Duration::ZERO, None)));
                polled_at = now;
            }
            self.progress_word.reset();
            self.take_in(&mut locked, &mut woken, now);
            self.tell_notes(&mut locked);
            self.inspect_processes(&mut locked);
            if self.due(&locked) <= now {
                // Of a receiver that gets no core, or of nobody.
                self.handle(&mut locked, now, &Found::Nothing, &mut []);
            }
            self.report_failed_fault(&mut locked);
            let mut sleep = |until: Time| {
                woken.add(section.asleep(|mask| self.poller.wait(until.since(self.now()).to_std(), mask)));
                polled_at = self.now();
                woken.socket_error
            };
            match self.look(&mut locked, now) {
                Look::Receive(until) => {
                    let seeker =
                        Seeker { thread: Receiver::Progress, word: &self.progress_word, look: None, until };
                    self.receive(&mut locked, &seeker, &mut buffer, sleep);
                }
                Look::Sleep(until) => {
                    locked.unlocked(|| sleep(until));
                }
            }
        }
        self.tell_notes(&mut locked);
    }

    /// What the progress thread does next.
    fn look(&self, locked: &mut Entry<'_>, now: Time) -> Look {
        let was_nobody = matches!(locked.reception.receiver(), Receiver::Nobody { .. });
        let is_watched = locked.reception.is_watched() && mutation::relieves_starved_receivers();
        let unread = is_watched && has_datagram(&self.socket);
        let due = self.due(locked);
        let look = locked.reception.look(now, unread, due);
        if was_nobody && locked.reception.receiver() == Receiver::Progress {
            // What was to be short is not.
            locked.policy.lease.lasts_too_long();
            self.wake_system_worker(locked);
        }
        look
    }

    /// A thread that never receives looks whether the receiver comes, and when to look again.
    pub(super) fn watch_receiver(&self, locked: &mut Entry<'_>) -> Time {
        let now = self.now();
        let is_overdue = || self.due(locked) <= now || has_datagram(&self.socket);
        let is_overdue = mutation::relieves_starved_receivers() && is_overdue();
        locked.reception.watch(now, is_overdue)
    }

    /// What the poller reported: ended processes, errors of the socket.
    fn take_in(&self, locked: &mut Entry<'_>, woken: &mut Woken, now: Time) {
        for token in std::mem::take(&mut woken.ended) {
            if let Some(incarnation) = locked.watch.ended(token) {
                self.process_ended(locked, incarnation);
            }
        }
        if std::mem::take(&mut woken.socket_error) {
            while let Some(addr) = self.socket.take_refusal() {
                self.give(locked, now, Event::Refused(addr));
            }
        }
    }

    /// Leaves to a worker what the cores have noted: a subscriber may take long, or touch shared memory.
    pub(super) fn tell_notes(&self, locked: &mut Entry<'_>) {
        let notes = std::mem::take(&mut locked.notes);
        if !notes.is_empty() {
            locked.callers.defer(Deferred::Run(Box::new(|| notes.tell())));
        }
    }

    /// The `thread` backend's faults have no thread of ours that could be told.
    pub(super) fn report_failed_fault(&self, locked: &mut Entry<'_>) {
        if let Some(failure) = locked.failed_fault.take() {
            if self.is_ending() || self.waiters_hear_of_the_end() {
                return; // the thread that waits for it, if one does, ends with the process or says why itself
            }
            let fatal = locked.machine.lifecycle().why().cloned();
            let why = locked.unlocked(|| match fatal {
                Some(fatal) => describe(&fatal),
                None => self.failure(failure).to_string(),
            });
            exit::die(format_args!("a page fault cannot be resolved: {why}"));
        }
    }
}
