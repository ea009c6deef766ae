//! Who receives: the progress thread, or a thread that waits for something.
//!
//! While a thread waits it receives for the whole node, so that a reply costs one wake-up and not
//! two; the progress thread steps aside meanwhile. All decisions about who receives are made under
//! the core's lock, so a reply is never taken by one thread while the other sleeps for it. Waiting
//! has two steps: a bounded look, because waking an idle core costs tens of microseconds, then a
//! sleep. How long the look is, `patience.rs` decides.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use parking_lot::MutexGuard;

use super::local::LocalMemory;
use super::patience::{Awaited, Choice, Look, Looked, Others, Patience};
use super::poller::{Woken, has_datagram, wait_for_datagram};
use super::waits::{Audience, Bell, Parked};
use super::{Inner, Locked, exit, receive_buffer, time_slice};
use crate::coherence::{Failure, OpId};
use crate::config::net::ERRORS_IN_A_ROW;
use crate::config::node::{
    ABSENCE_MAX, ACTIVE_FOR, ACTIVE_TICK, ANSWER_LATE, RECEIVE_BURST, SLEEP_MAX, UNREAD_MAX,
};
use crate::fault::CoreSection;
use crate::machine::{Event, Outcome, Output, describe};
use crate::net::udp::{Received, datagrams};
use crate::page::Time;
use crate::rpc::{CallSection, Deferred};

/// The one thread that takes datagrams from the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Receiver {
    /// The progress thread; the socket is armed in its poller.
    Progress,
    /// The thread that waits for this operation.
    Waiter(OpId),
    /// This worker, until calls come or a thread that waits relieves it.
    Worker(usize),
    /// Since then, whoever received has something short to do, and will receive again: a worker that runs
    /// a method of microseconds, a thread that has waited and will soon wait for something else.
    Nobody(Time),
}

/// What a receive found, for the thread that must go back to the lock.
pub(super) enum Found {
    Datagrams {
        len: usize,
        segment: usize,
        from: std::net::SocketAddr,
    },
    Refused(std::net::SocketAddr),
    /// Errors only, and how many since the last datagram: see [`Received::Failing`].
    Failing {
        errors: u32,
        error: nix::errno::Errno,
    },
    /// A timer, a wake-up, or the end of the operation.
    Nothing,
}

/// What a thread's turn at the socket came to.
pub(super) struct Turn {
    pub(super) found: Found,
    pub(super) looked: Looked,
    /// The last moment at which the socket was empty.
    pub(super) drained_at: Option<Time>,
}

/// Datagrams that lie in the socket while the thread whose part it is to take them does not come.
#[derive(Clone, Copy)]
struct Unread {
    /// Visits to the lock by who receives, when they were first seen.
    visits: u64,
    since: Time,
}

impl Locked {
    /// Whether the progress thread will look at the socket soon, whoever receives.
    pub(super) fn is_looked_after(&self, now: Time) -> bool {
        self.progress_until <= now + ACTIVE_TICK
    }

    /// Only if the socket is looked after.
    pub(super) fn leave_to_nobody(&mut self, now: Time) {
        self.sleep_until = Time(0);
        self.receiver = Receiver::Nobody(now);
    }

    /// What comes next to a thread that waits.
    pub(super) fn awaited(&self) -> Awaited {
        if self.machine.is_streaming() { Awaited::Stream } else { Awaited::Answer }
    }

    /// Does what the machine wants done, but for its datagrams.
    fn perform(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Done { op, outcome } => self.end(op, outcome),
                Output::Call(output) => {
                    if let Some(signal) = self.callers.perform(output) {
                        signal.set();
                        self.end(OpId(signal.mark()), Outcome::Membership);
                    }
                }
                Output::Gone(peer) => self.departed.push(peer),
                Output::Note(level, text) => self.notes.add(level, text),
                Output::Inspect { of, pid } => self.inspections.push((of, pid)),
                Output::Ended { departure } => {
                    self.has_ended = true;
                    for op in self.waits.open().into_iter().filter(|op| Some(*op) != departure) {
                        if self.waits.end(op, Outcome::Membership) == Audience::Detached {
                            self.failed_fault.get_or_insert(Failure::Leaving);
                        }
                    }
                }
            }
        }
    }

    fn end(&mut self, op: OpId, outcome: Outcome) {
        let failure = match outcome {
            Outcome::Coherence(Err(failure)) => Some(failure),
            Outcome::Coherence(Ok(_)) | Outcome::Region(_) | Outcome::Membership | Outcome::Left(_) => None,
        };
        if let (Audience::Detached, Some(failure)) = (self.waits.end(op, outcome), failure) {
            self.failed_fault.get_or_insert(failure);
        }
    }

    /// Lets a thread receive that sleeps while it waits; false if there is none.
    fn hand_to_waiter(&mut self) -> bool {
        let Some(next) = self.waits.appoint() else { return false };
        self.sleep_until = Time(0);
        self.receiver = Receiver::Waiter(next);
        true
    }
}

/// Under the lock.
impl Inner {
    /// Gives the machine an event.
    pub(super) fn give(&self, locked: &mut Locked, now: Time, event: Event<'_>) {
        let Locked { machine, words, .. } = locked;
        machine.handle(now, event, &mut LocalMemory { arena: &self.arena, words });
    }

    /// Carries the cores' outputs around, sends what they want sent, and wakes whom that concerns.
    pub(super) fn settle(&self, locked: &mut MutexGuard<'_, Locked>, now: Time) {
        let locked = &mut **locked;
        loop {
            let Locked { machine, words, .. } = &mut *locked;
            let moved = machine.flush(now, &mut LocalMemory { arena: &self.arena, words });
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
        // Awake, and perhaps the very thread that is here, it looks by itself.
        let sleeps = locked.sleep_until > Time(0);
        if let Receiver::Waiter(op) = locked.receiver
            && sleeps
            && locked.waits.has_ended(op)
        {
            self.wake_receiver(locked);
        }
        // A sleeping receiver that would look at the timers too late must look earlier.
        let due = self.due(locked);
        if due + ACTIVE_TICK < locked.sleep_until || (sleeps && locked.has_work()) {
            self.wake_receiver(locked);
        }
    }

    pub(super) fn wake_receiver(&self, locked: &mut Locked) {
        locked.sleep_until = Time(0);
        match locked.receiver {
            Receiver::Progress => self.poller.wake(),
            Receiver::Waiter(_) => {
                self.receiver_wake.write(1).expect("an eventfd takes a 1");
            }
            Receiver::Worker(worker) => self.interrupt_worker(worker),
            Receiver::Nobody(_) => {}
        }
    }

    fn transmit(&self, locked: &mut Locked, now: Time) {
        let Locked { machine, outlet, transmit, .. } = locked;
        if let Err(error) = outlet.drain(&self.socket, now, machine.endpoint_mut(), transmit) {
            self.give(locked, now, Event::Broken(error.to_string()));
        }
    }

    /// When the timers must be looked at.
    pub(super) fn due(&self, locked: &Locked) -> Time {
        let outlet = locked.outlet.poll_timeout().unwrap_or(Time(u64::MAX));
        locked.machine.poll_timeout().min(outlet)
    }

    pub(super) fn handle(
        &self,
        locked: &mut MutexGuard<'_, Locked>,
        now: Time,
        found: &Found,
        buffer: &[u8],
    ) {
        locked.machine.forget_asker();
        let before = (locked.machine.outputs(), locked.machine.calls().handled());
        match *found {
            Found::Datagrams { len, segment, from } => {
                for datagram in datagrams(&buffer[..len], segment) {
                    self.give(locked, now, Event::Datagram { from, bytes: datagram });
                }
            }
            Found::Refused(addr) => self.give(locked, now, Event::Refused(addr)),
            Found::Failing { .. } | Found::Nothing => {}
        }
        self.give(locked, now, Event::Timer);
        self.settle(locked, now);
        if matches!(found, Found::Datagrams { .. }) {
            let (outputs, calls) = (locked.machine.outputs(), locked.machine.calls().handled() > before.1);
            let (served, moved) = (outputs.served_since(&before.0), outputs.moved_since(&before.0));
            if served || calls {
                locked.patience.vigil.served(now);
            }
            // Signs of life are no traffic: an idle cluster sleeps.
            if moved || calls {
                locked.active_until = now + ACTIVE_FOR;
            }
        }
    }

    /// Takes in what a thread has found at the socket.
    pub(super) fn end_turn(&self, locked: &mut MutexGuard<'_, Locked>, turn: &Turn, buffer: &[u8]) {
        let now = self.now();
        locked.visits += 1;
        locked.patience.company.note(now, turn.looked);
        if let Some(at) = turn.drained_at {
            self.give(locked, now, Event::Drained(at));
        }
        self.handle(locked, now, &turn.found, buffer);
    }

    /// Between two looks.
    fn pause(&self, patience: &Patience, now: Time) {
        match patience.company.others(now) {
            Others::Waiting => std::thread::yield_now(),
            Others::Nobody | Others::Computing => std::hint::spin_loop(),
        }
    }

    /// Without waiting.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<Found> {
        match self.socket.receive(buffer) {
            Ok(Received::Datagrams { len, segment, from }) => Some(Found::Datagrams { len, segment, from }),
            Ok(Received::Refused { addr }) => Some(Found::Refused(addr)),
            Ok(Received::Failing { errors, error }) => Some(Found::Failing { errors, error }),
            Ok(Received::Nothing) => None,
            Err(error) => exit::die(format_args!("{error}")),
        }
    }

    /// The same without the lock, with the pause that a failing socket demands.
    fn receive_or_pause(&self, buffer: &mut [u8]) -> Option<Found> {
        let found = self.receive(buffer)?;
        self.pause_after(&found);
        Some(found)
    }

    /// Without the lock: pauses if the socket gives nothing but errors, and says so once.
    fn pause_after(&self, found: &Found) {
        let Found::Failing { errors, error } = *found else { return };
        // In a signal handler that interrupted this thread with the calls' lock it is left out.
        if errors == ERRORS_IN_A_ROW && !CallSection::is_open() {
            self.calls.endpoint.defer(move || {
                tracing::warn!("the UDP socket has given {errors} errors and no datagram, the last: {error}");
            });
        }
        self.socket.pause();
    }
}

/// How a thread that receives for the node waits for the next datagram.
pub(super) struct Search<'a> {
    patience: Patience,
    /// Its own wait for an answer.
    look: Option<Look>,
    /// When the timers must be looked at.
    due: Time,
    /// Somebody else wants this core: another may be free.
    elsewhere: bool,
    /// Ends its sleep.
    wake: &'a EventFd,
}

/// Threads that wait.
impl Inner {
    /// The receiver is about to look and to sleep, until `deadline` or an earlier timer.
    pub(super) fn begin_search<'a>(
        &self,
        locked: &mut Locked,
        look: Option<Look>,
        deadline: Option<Time>,
        wake: &'a EventFd,
    ) -> Search<'a> {
        let due = self.due(locked).min(deadline.unwrap_or(Time(u64::MAX)));
        locked.sleep_until = due;
        let elsewhere = locked.patience.company.wants_change();
        Search { patience: locked.patience, look, due, elsewhere, wake }
    }

    /// Looks for a datagram while that promises something, then sleeps, until `is_over`. Without the lock.
    pub(super) fn search(&self, search: &Search<'_>, buffer: &mut [u8], is_over: impl Fn() -> bool) -> Turn {
        let Search { patience, look, due, elsewhere, wake } = search;
        if *elsewhere {
            self.seat.change();
        }
        let begun = self.now();
        let (mut looked, mut last) = (Looked::default(), begun);
        let mut drained_at = None;
        loop {
            if let Some(found) = self.receive_or_pause(buffer).or_else(|| is_over().then_some(Found::Nothing))
            {
                if last > begun && matches!(found, Found::Datagrams { .. }) {
                    self.seat.answered();
                }
                return Turn { found, looked, drained_at };
            }
            let now = self.now();
            drained_at = Some(now);
            looked.add(now.since(last));
            last = now;
            let goes_on = look.is_some_and(|look| look.lasts(now)) || patience.lasts(now);
            if now >= *due || !goes_on || self.seat.is_single() {
                break;
            }
            if self.seat.take(now) {
                // Its own doing, and nobody's company.
                last = self.now();
            }
            self.pause(patience, now);
        }
        let timeout = due.since(last).to_std();
        let error = wait_for_datagram(&self.socket, wake, timeout);
        self.seat.slept();
        let refusal = if error { self.socket.take_refusal() } else { None };
        let found = match refusal {
            Some(addr) => Found::Refused(addr),
            None => self.receive_or_pause(buffer).unwrap_or_else(|| {
                drained_at = Some(self.now());
                Found::Nothing
            }),
        };
        Turn { found, looked, drained_at }
    }

    /// Waits until the operation ends, receiving for the node if nobody else who waits does. `None`
    /// when `deadline` came first; the operation is forgotten then.
    pub(super) fn wait(
        &self,
        locked: &mut MutexGuard<'_, Locked>,
        (op, bell): (OpId, &Arc<Bell>),
        deadline: Option<Time>,
    ) -> Option<Outcome> {
        let outcome = self.wait_until(locked, (op, bell), deadline);
        if outcome.is_none() {
            locked.waits.end(op, Outcome::Membership);
            locked.waits.take(op);
        }
        outcome
    }

    /// As [`Inner::wait`], but at the deadline the operation goes on, and is to be waited for again.
    ///
    /// The caller's [`CoreSection`] stays: a signal handler that ran in the middle of a wait could fault,
    /// and its own wait would leave the node without a receiver. Handlers run on other threads, or after.
    pub(super) fn wait_until(
        &self,
        locked: &mut MutexGuard<'_, Locked>,
        (op, bell): (OpId, &Arc<Bell>),
        deadline: Option<Time>,
    ) -> Option<Outcome> {
        let (mut buffer, mut look) = (None, None);
        let interrupted = usize::from(CallSection::is_open());
        locked.interrupted += interrupted;
        let outcome = loop {
            let served = self.serve_while_waiting(locked, op) > 0;
            if let Some(outcome) = locked.waits.take(op) {
                break Some(outcome);
            }
            if deadline.is_some_and(|deadline| deadline <= self.now()) {
                break None;
            }
            let waits_long = |look: Look| self.now().since(look.began) > ANSWER_LATE;
            if served && locked.receiver == Receiver::Waiter(op) && look.is_some_and(waits_long) {
                // The worker that runs these calls also receives the next ones, and wakes nobody for them.
                self.hand_to_progress(locked);
                self.park(locked, op, bell, deadline);
                continue;
            }
            let now = self.now();
            self.take_over(locked, op, now);
            if locked.receiver == Receiver::Waiter(op) {
                let look = *look.get_or_insert_with(|| {
                    let awaited = locked.awaited();
                    let Choice { way, elsewhere } = locked.patience.choose(now, awaited);
                    if elsewhere {
                        // Without the lock: it may take until another thread's time slice is over.
                        MutexGuard::unlocked(locked, || self.seat.change());
                    }
                    Look { way, began: if elsewhere { self.now() } else { now }, awaited }
                });
                let buffer = buffer.get_or_insert_with(|| self.buffers.pop().unwrap_or_else(receive_buffer));
                self.receive_as_waiter(locked, (op, bell), (look, deadline), buffer);
            } else {
                self.park(locked, op, bell, deadline);
            }
        };
        let now = self.now();
        locked.waited_until = now;
        locked.interrupted -= interrupted;
        if let Some(look) = look {
            locked.patience.learn(look, now.since(look.began));
        }
        if locked.receiver == Receiver::Waiter(op) {
            self.stop_receiving(locked, now);
        }
        if let Some(buffer) = buffer {
            // A full stock lets the buffer go.
            let _ = self.buffers.push(buffer);
        }
        outcome
    }

    /// Gives the calls what has come for them. While a thread waits that was interrupted with a lock of the
    /// calls, its page must be received: who receives waits for no such lock, and leaves them to the progress thread.
    fn serve_while_waiting(&self, locked: &mut MutexGuard<'_, Locked>, op: OpId) -> usize {
        if locked.interrupted > 0 {
            self.leave_calls(locked);
            return 0;
        }
        let receives = locked.receiver == Receiver::Waiter(op);
        locked.in_calls = receives.then_some(op).or(locked.in_calls);
        let queued = self.hand_out_calls(locked);
        if receives && locked.in_calls == Some(op) {
            locked.in_calls = None;
        }
        queued
    }

    /// Becomes the receiver, unless another thread that waits is.
    pub(super) fn take_over(&self, locked: &mut MutexGuard<'_, Locked>, op: OpId, now: Time) {
        match locked.receiver {
            Receiver::Progress => self.poller.disarm(&self.socket),
            Receiver::Worker(worker) => self.interrupt_worker(worker),
            Receiver::Nobody(_) => {}
            // It may be waiting for a lock that this thread had when it was interrupted.
            Receiver::Waiter(other) if CallSection::is_open() && locked.in_calls == Some(other) => {}
            Receiver::Waiter(_) => return,
        }
        locked.receiver = Receiver::Waiter(op);
        locked.patience.absence.ends(now);
    }

    fn receive_as_waiter(
        &self,
        locked: &mut MutexGuard<'_, Locked>,
        (op, bell): (OpId, &Arc<Bell>),
        (look, deadline): (Look, Option<Time>),
        buffer: &mut [u8],
    ) {
        let search = self.begin_search(locked, Some(look), deadline, &self.receiver_wake);
        let turn = MutexGuard::unlocked(locked, || self.search(&search, buffer, || bell.is_done()));
        // It has another receiver if this thread did not run for so long that it was relieved.
        if locked.receiver == Receiver::Waiter(op) {
            locked.sleep_until = Time(0);
        }
        self.end_turn(locked, &turn, buffer);
    }

    /// Sleeps until the operation has ended, this thread must receive, or `deadline` has come.
    fn park(&self, locked: &mut MutexGuard<'_, Locked>, op: OpId, bell: &Arc<Bell>, deadline: Option<Time>) {
        let timeout = deadline.map(|deadline| deadline.since(self.now()).to_std());
        locked.waits.set_parked(op, Parked::Yes);
        MutexGuard::unlocked(locked, || bell.sleep(timeout));
        locked.waits.set_parked(op, Parked::No);
    }

    /// A thread that has waited goes on. If it comes back as soon as it usually does, or when it has used what
    /// has come of a stream, nobody need receive meanwhile; the progress thread sees to it that this is not for long.
    fn stop_receiving(&self, locked: &mut MutexGuard<'_, Locked>, now: Time) {
        let is_short = locked.patience.absence.begins(now) || locked.awaited() == Awaited::Stream;
        if locked.hand_to_waiter() {
            return;
        }
        if is_short && locked.is_looked_after(now) {
            locked.leave_to_nobody(now);
        } else {
            self.hand_to_progress(locked);
        }
    }

    /// Lets another waiting thread receive, or else the progress thread.
    pub(super) fn hand_over(&self, locked: &mut MutexGuard<'_, Locked>) {
        if !locked.hand_to_waiter() {
            self.hand_to_progress(locked);
        }
    }

    fn hand_to_progress(&self, locked: &mut MutexGuard<'_, Locked>) {
        locked.receiver = Receiver::Progress;
        self.poller.arm(&self.socket);
        // The progress thread sleeps by its own clock; wake it only for an earlier timer, be it one of
        // now or one that a later event sets.
        locked.sleep_until = locked.progress_until;
        if self.due(locked) + ACTIVE_TICK < locked.sleep_until {
            self.wake_receiver(locked);
        }
    }
}

/// The progress thread.
impl Inner {
    pub(super) fn run_progress(&self) {
        time_slice::shorten();
        let mut buffer = receive_buffer();
        let mut section = CoreSection::enter();
        let (mut woken, mut last_look, mut polled_at) = (Woken::default(), None, self.now());
        let mut unread = None;
        while !self.stopping.load(Ordering::Acquire) {
            let looked_at = self.now();
            if looked_at >= polled_at + ACTIVE_TICK {
                // While there is always something to receive it never sleeps, and processes end meanwhile.
                woken.add(self.poller.wait(Duration::ZERO, None));
                polled_at = looked_at;
            }
            let mut locked = self.lock();
            let now = self.now();
            self.take_in(&mut locked, &mut woken, now);
            self.tell_notes(&mut locked);
            self.inspect_processes(&mut locked);
            if let Receiver::Nobody(since) = locked.receiver
                && now >= since + ABSENCE_MAX
            {
                self.take_from_nobody(&mut locked);
            }
            if self.relieve_starved(&mut locked, now, &mut unread) {
                continue;
            }
            if self.receive_burst(&mut locked, &mut buffer) {
                if last_look.take().is_some() {
                    self.seat.answered();
                }
                self.report_failed_fault(&mut locked);
                self.hand_out_calls(&mut locked);
                continue;
            }
            if let Some(last) = last_look.take() {
                let mut looked = Looked::default();
                looked.add(looked_at.since(last));
                locked.patience.company.note(now, looked);
            }
            if self.looks_on(&locked, now) && self.due(&locked) > now {
                // The peer that has just asked for something may well ask for more.
                let elsewhere = locked.patience.company.wants_change();
                let patience = locked.patience;
                drop(locked);
                let moved = if elsewhere {
                    self.seat.change();
                    true
                } else {
                    self.seat.take(now)
                };
                last_look = (!moved).then_some(now);
                self.pause(&patience, now);
                continue;
            }
            if locked.receiver == Receiver::Progress {
                locked.sleep_until = Time(0);
            }
            self.handle(&mut locked, now, &Found::Nothing, &[]);
            self.report_failed_fault(&mut locked);
            self.hand_out_calls(&mut locked);
            let now = self.now();
            if self.looks_on(&locked, now) {
                continue;
            }
            let timeout = self.plan_sleep(&mut locked, now, unread);
            let receives = locked.receiver == Receiver::Progress;
            drop(locked);
            woken = section.asleep(|mask| self.poller.wait(timeout, mask));
            polled_at = self.now();
            if receives {
                self.seat.slept();
            }
        }
        self.tell_notes(&mut self.lock());
    }

    /// Leaves to a worker what the cores have noted: a subscriber may take long, or touch shared memory.
    pub(super) fn tell_notes(&self, locked: &mut MutexGuard<'_, Locked>) {
        let notes = std::mem::take(&mut locked.notes);
        if !notes.is_empty() {
            locked.callers.defer(Deferred::Run(Box::new(|| notes.tell())));
            self.hand_out_calls(locked);
        }
    }

    /// Whether the progress thread looks for more before it sleeps.
    fn looks_on(&self, locked: &Locked, now: Time) -> bool {
        locked.receiver == Receiver::Progress && locked.patience.lasts(now) && !self.seat.is_single()
    }

    /// What the poller reported: ended processes, errors of the socket.
    fn take_in(&self, locked: &mut MutexGuard<'_, Locked>, woken: &mut Woken, now: Time) {
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

    /// Takes in what is there, a bounded number of datagrams; true if there was any.
    fn receive_burst(&self, locked: &mut MutexGuard<'_, Locked>, buffer: &mut [u8]) -> bool {
        for count in 0..RECEIVE_BURST {
            if locked.receiver != Receiver::Progress {
                return count > 0;
            }
            // Under the lock: a waiting thread that takes the socket over must find its reply there.
            match self.receive(buffer) {
                Some(found) => {
                    if matches!(found, Found::Failing { .. }) {
                        MutexGuard::unlocked(locked, || self.pause_after(&found));
                    }
                    self.handle(locked, self.now(), &found, buffer);
                }
                None => {
                    let now = self.now();
                    self.give(locked, now, Event::Drained(now));
                    return count > 0;
                }
            }
        }
        true
    }

    /// Takes the socket from a thread that does not come for its datagrams: it gets no core, and the node must
    /// answer. What it has in hand it brings later. Whether the progress thread receives now.
    fn relieve_starved(&self, locked: &mut Locked, now: Time, unread: &mut Option<Unread>) -> bool {
        let is_another = matches!(locked.receiver, Receiver::Waiter(_) | Receiver::Worker(_));
        if !is_another || !has_datagram(&self.socket) {
            *unread = None;
            return false;
        }
        let Unread { visits, since } = *unread.get_or_insert(Unread { visits: locked.visits, since: now });
        if visits != locked.visits {
            *unread = Some(Unread { visits: locked.visits, since: now });
            return false;
        }
        let starved = now.since(since) >= UNREAD_MAX;
        if starved {
            *unread = None;
            locked.sleep_until = Time(0);
            locked.receiver = Receiver::Progress;
            self.poller.arm(&self.socket);
        }
        starved
    }

    fn plan_sleep(&self, locked: &mut Locked, now: Time, unread: Option<Unread>) -> Duration {
        let mut until = now + SLEEP_MAX;
        if let Some(unread) = unread {
            until = until.min(unread.since + UNREAD_MAX);
        }
        // Another receiver looks at the timers itself.
        match locked.receiver {
            Receiver::Progress => until = until.min(self.due(locked)),
            Receiver::Nobody(since) => until = until.min(since + ABSENCE_MAX),
            Receiver::Waiter(_) | Receiver::Worker(_) => {}
        }
        if now < locked.active_until {
            until = until.min(now + ACTIVE_TICK);
        }
        locked.progress_until = until;
        if locked.receiver == Receiver::Progress {
            locked.sleep_until = until;
        }
        until.since(now).to_std()
    }

    /// The `thread` backend's faults have no thread of ours that could be told.
    fn report_failed_fault(&self, locked: &mut MutexGuard<'_, Locked>) {
        if let Some(failure) = locked.failed_fault.take() {
            if self.is_ending() {
                return; // the thread that waits for it ends with the process
            }
            let fatal = locked.machine.lifecycle().why().cloned();
            let why = MutexGuard::unlocked(locked, || match fatal {
                Some(fatal) => describe(&fatal),
                None => self.failure(failure).to_string(),
            });
            exit::die(format_args!("a page fault cannot be resolved: {why}"));
        }
    }
}
