//! What a thread with the node's lock does: it gives events to the machine, sends and performs what comes out, and
//! does what the table of reception asks for.

use std::sync::Arc;

use super::entry::Entry;
use super::local::LocalMemory;
use super::op::{Audience, OpCell};
use super::receive::Found;
use super::wait_policy::Awaited;
use super::{Runtime, RuntimeState};
use crate::coherence::{Failure, OpId};
use crate::config::node::ACTIVE_FOR;
use crate::machine::{Event, Outcome, Output};
use crate::net::udp::datagrams;
use crate::page::Time;

impl RuntimeState {
    /// What comes next to a thread that waits.
    pub(super) fn awaited(&self) -> Awaited {
        if self.machine.is_streaming() { Awaited::Stream } else { Awaited::Answer }
    }

    /// Does what the machine wants done, but for its datagrams.
    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Done { op, outcome } => {
                    let failure = match outcome {
                        Outcome::Coherence(Err(failure)) => Some(failure),
                        Outcome::Coherence(Ok(_))
                        | Outcome::Region(_)
                        | Outcome::Membership
                        | Outcome::Left(_) => None,
                    };
                    if let (Audience::Detached, Some(failure)) = (self.end(op, outcome), failure) {
                        self.failed_fault.get_or_insert(failure);
                    }
                }
                Output::Call(output) => {
                    if let Some(signal) = self.callers.perform(output) {
                        signal.set();
                        self.end(OpId(signal.mark()), Outcome::Membership);
                    }
                }
                Output::Gone(peer) => self.departed.push(peer),
                // The record says which process has to end.
                Output::RunOn { node, ran_at: _ } => self.run_on.begin(node),
                Output::Forget(node) => self.run_on.forget(node),
                Output::Note(level, text) => self.notes.add(level, text),
                Output::Inspect { of, pid } => self.inspections.push((of, pid)),
                Output::Ended { departure } => {
                    self.has_ended = true;
                    for op in self.ops.open().into_iter().filter(|op| Some(*op) != departure) {
                        if self.end(op, Outcome::Membership) == Audience::Detached {
                            self.failed_fault.get_or_insert(Failure::Leaving);
                        }
                    }
                }
            }
        }
    }

    /// Ends an operation, unless it has ended already, and has its thread woken.
    pub(super) fn end(&mut self, op: OpId, outcome: Outcome) -> Audience {
        let audience = self.ops.end(op, outcome);
        match audience {
            Audience::Waiting => self.reception.done(op),
            Audience::Detached => {
                if let Some(attendant) = self.ops.take_attendant() {
                    self.end(attendant, Outcome::Membership);
                }
            }
            Audience::Gone => {}
        }
        audience
    }
}

/// Under the lock.
impl Runtime {
    /// Gives the machine an event.
    pub(super) fn give(&self, locked: &mut RuntimeState, now: Time, event: Event<'_>) {
        let RuntimeState { machine, words, run_on, .. } = locked;
        machine.handle(now, event, &mut LocalMemory { arena: &self.arena, words, run_on });
    }

    /// Gives it an event of now, and does what follows of it.
    pub(super) fn tell(&self, locked: &mut Entry<'_>, event: Event<'_>) {
        let now = self.now();
        self.give(locked, now, event);
        self.flush(locked, now);
    }

    /// The same with an event that begins an operation.
    pub(super) fn start_op(
        &self,
        locked: &mut Entry<'_>,
        event: impl FnOnce(OpId) -> Event<'static>,
    ) -> Arc<OpCell> {
        let cell = locked.ops.begin();
        self.tell(locked, event(cell.op()));
        cell
    }

    /// Carries the cores' outputs around, sends what they want sent, and wakes whom that concerns.
    pub(super) fn flush(&self, locked: &mut Entry<'_>, now: Time) {
        let locked = &mut **locked;
        loop {
            let RuntimeState { machine, words, run_on, .. } = &mut *locked;
            let moved = machine.flush(now, &mut LocalMemory { arena: &self.arena, words, run_on });
            locked.perform();
            self.transmit(locked, now);
            if !moved {
                break;
            }
        }
        self.follow_view(locked, now);
        self.tell_departures(locked);
        if !locked.notes.is_empty() {
            self.poller.wake();
        }
        if locked.run_on.has_orders() {
            self.keepers.wake();
        }
        let due = self.due(locked);
        locked.reception.due(due);
    }

    fn transmit(&self, locked: &mut RuntimeState, now: Time) {
        let RuntimeState { machine, outlet, transmit, .. } = locked;
        if let Err(error) = outlet.drain(&self.socket, now, machine.endpoint_mut(), transmit) {
            self.give(locked, now, Event::Broken(error.to_string()));
        }
    }

    /// When the timers must be looked at.
    pub(super) fn due(&self, locked: &RuntimeState) -> Time {
        let outlet = locked.outlet.poll_timeout().unwrap_or(Time(u64::MAX));
        locked.machine.poll_timeout().min(outlet)
    }

    /// Takes in what a thread has found at the socket, and looks at the timers.
    pub(super) fn handle(&self, locked: &mut Entry<'_>, now: Time, found: &Found, buffer: &mut [u8]) {
        locked.machine.forget_asker();
        let before = (locked.machine.outputs(), locked.machine.calls().handled());
        match *found {
            Found::Datagrams { len, segment, from } => {
                for datagram in datagrams(&mut buffer[..len], segment) {
                    self.give(locked, now, Event::Datagram { from, bytes: datagram });
                }
            }
            Found::Refused(addr) => self.give(locked, now, Event::Refused(addr)),
            Found::Nothing => {}
        }
        self.give(locked, now, Event::Timer);
        self.flush(locked, now);
        if matches!(found, Found::Datagrams { .. }) {
            let (outputs, calls) = (locked.machine.outputs(), locked.machine.calls().handled() > before.1);
            let (served, moved) = (outputs.served_since(&before.0), outputs.moved_since(&before.0));
            if served || calls {
                locked.policy.busy_poll.served(now);
            }
            // Signs of life are no traffic: an idle cluster sleeps.
            if moved || calls {
                locked.reception.traffic(now + ACTIVE_FOR);
            }
        }
    }
}
