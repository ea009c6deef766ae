//! The one loop by which a thread receives for the node: it searches, sleeps, and takes in what it has found.
//!
//! Threads that wait, workers and the progress thread run it. Which of them does is decided by [`Reception`] under
//! the node's lock, so a reply is never taken by one thread while another sleeps for it. A search is a bounded spin
//! at the socket, because waking an idle core costs tens of microseconds; how long it is, `wait_policy.rs` decides.
//!
//! [`Reception`]: super::reception::Reception

use std::net::SocketAddr;
use std::sync::Arc;

use nix::sys::eventfd::EventFd;

use super::entry::Entry;
use super::op::{OpCell, WakeWord};
use super::poller::{wait_for_datagram, wake_event};
use super::reception::{Receiver, Role};
use super::wait_policy::{Awaited, Choice, Look, Looked, Others, WaitPolicy};
use super::{Runtime, RuntimeState, exit, receive_buffer};
use crate::coherence::OpId;
use crate::config::net::ERRORS_IN_A_ROW;
use crate::config::node::{ACTIVE_TICK, ANSWER_LATE};
use crate::error::Result;
use crate::machine::{Event, Outcome};
use crate::net::udp::Received;
use crate::page::Time;

/// A thread at the socket.
pub(super) struct Seeker<'a> {
    pub(super) thread: Receiver,
    /// Ends its search.
    pub(super) word: &'a WakeWord,
    /// Its own wait for an answer.
    pub(super) look: Option<Look>,
    /// When it must be at the lock again.
    pub(super) until: Time,
}

/// What a thread that waits needs at the socket.
pub(super) struct Kit {
    buffer: Box<[u8]>,
    /// Ends its sleep.
    bell: Arc<EventFd>,
}

/// What a receive found, for the thread that must go back to the lock.
pub(super) enum Found {
    Datagrams {
        len: usize,
        segment: usize,
        from: SocketAddr,
    },
    Refused(SocketAddr),
    /// A timer, a wake-up, the end of the operation, or errors of the socket only.
    Nothing,
}

/// What a search came to.
struct Searched {
    found: Found,
    looked: Looked,
    /// The last moment at which the socket was empty.
    drained_at: Option<Time>,
}

impl Kit {
    pub(super) fn new() -> Result<Kit> {
        Ok(Kit { buffer: receive_buffer(), bell: Arc::new(wake_event()?) })
    }
}

impl Runtime {
    /// Searches without the lock, sleeps by `sleep`, and takes in what was found. `sleep` gets its latest end, and
    /// says whether the socket has reports in its error queue.
    pub(super) fn receive(
        &self,
        locked: &mut Entry<'_>,
        seeker: &Seeker<'_>,
        buffer: &mut [u8],
        sleep: impl FnOnce(Time) -> bool,
    ) {
        locked.reception.search(seeker.thread, seeker.until);
        // Another thread wants this core: another core may be free.
        let elsewhere = locked.policy.contention.wants_change();
        let policy = locked.policy;
        let searched = locked.unlocked(|| {
            if elsewhere {
                self.affinity.change();
            }
            self.search(seeker, &policy, buffer, sleep)
        });
        let now = self.now();
        locked.reception.visit(seeker.thread);
        locked.policy.contention.note(now, searched.looked);
        if let Some(at) = searched.drained_at {
            self.give(locked, now, Event::Drained(at));
        }
        let is_relieved = locked.reception.receiver() != seeker.thread;
        if is_relieved && matches!(searched.found, Found::Nothing) {
            return; // the timers are another thread's
        }
        self.handle(locked, now, &searched.found, buffer);
    }

    /// Spins while that promises something, then sleeps, until the seeker must come to the lock.
    fn search(
        &self,
        seeker: &Seeker<'_>,
        policy: &WaitPolicy,
        buffer: &mut [u8],
        sleep: impl FnOnce(Time) -> bool,
    ) -> Searched {
        let begun = self.now();
        let (mut looked, mut last, mut drained_at) = (Looked::default(), begun, None);
        loop {
            if let Some(found) = self.receive_or_pause(buffer) {
                if last > begun && matches!(found, Found::Datagrams { .. }) {
                    self.affinity.answered();
                }
                return Searched { found, looked, drained_at };
            }
            if seeker.word.is_set() {
                return Searched { found: Found::Nothing, looked, drained_at };
            }
            let now = self.now();
            drained_at = Some(now);
            looked.add(now.since(last));
            last = now;
            let goes_on = seeker.look.is_some_and(|look| look.lasts(now)) || policy.lasts(now);
            if now >= seeker.until {
                return Searched { found: Found::Nothing, looked, drained_at };
            }
            if !goes_on || self.affinity.is_single() {
                break;
            }
            if self.affinity.take(now) {
                // Its own doing, and no other thread's.
                last = self.now();
            }
            match policy.contention.others(now) {
                Others::Waiting => std::thread::yield_now(),
                Others::Nobody | Others::Computing => std::hint::spin_loop(),
            }
        }
        let has_errors = sleep(seeker.until);
        self.affinity.slept();
        if let Some(addr) = has_errors.then(|| self.socket.take_refusal()).flatten() {
            return Searched { found: Found::Refused(addr), looked, drained_at };
        }
        // Another thread may receive now.
        let found = if seeker.word.is_set() { Some(Found::Nothing) } else { self.receive_or_pause(buffer) };
        let found = found.unwrap_or_else(|| {
            drained_at = Some(self.now());
            Found::Nothing
        });
        Searched { found, looked, drained_at }
    }

    /// Until a datagram, `wake` or `until` comes; whether the socket has reports in its error queue.
    pub(super) fn sleep_at_socket(&self, wake: &EventFd, until: Time) -> bool {
        wait_for_datagram(&self.socket, wake, until.since(self.now()).to_std())
    }

    /// Without waiting, but for the pause that a failing socket demands. Says once that it fails.
    fn receive_or_pause(&self, buffer: &mut [u8]) -> Option<Found> {
        match self.socket.receive(buffer) {
            Ok(Received::Datagrams { len, segment, from }) => Some(Found::Datagrams { len, segment, from }),
            Ok(Received::Refused { addr }) => Some(Found::Refused(addr)),
            Ok(Received::Failing { errors, error }) => {
                if errors == ERRORS_IN_A_ROW {
                    tracing::warn!(
                        "the UDP socket has given {errors} errors and no datagram, the last: {error}"
                    );
                }
                self.socket.pause();
                Some(Found::Nothing)
            }
            Ok(Received::Nothing) => None,
            Err(error) => exit::die(format_args!("{error}")),
        }
    }
}

/// Threads that wait.
impl Runtime {
    /// Waits until the operation ends, receiving for the node if no other thread that waits does. `None`
    /// when `deadline` came first; the operation is forgotten then.
    pub(super) fn wait(
        &self,
        locked: &mut Entry<'_>,
        cell: &OpCell,
        deadline: Option<Time>,
    ) -> Option<Outcome> {
        let outcome = self.wait_until(locked, cell, deadline);
        if outcome.is_none() {
            locked.ops.forget(cell.op());
        }
        outcome
    }

    /// Waits for what ends no operation: a tick, in which this thread receives as any other that waits.
    pub(super) fn wait_a_tick(&self, locked: &mut Entry<'_>) {
        let cell = locked.ops.begin();
        let _ = self.wait(locked, &cell, Some(self.now() + ACTIVE_TICK));
    }

    /// As [`Runtime::wait`], but at the deadline the operation goes on, and is to be waited for again.
    ///
    /// The caller's section stays: a signal handler that ran in the middle of a wait could fault,
    /// and its own wait would leave the node without a receiver. Handlers run on other threads, or after.
    pub(super) fn wait_until(
        &self,
        locked: &mut Entry<'_>,
        cell: &OpCell,
        deadline: Option<Time>,
    ) -> Option<Outcome> {
        let (op, mut look, mut kit) = (cell.op(), None, None);
        let outcome = loop {
            let served = self.hand_out_calls(locked) > 0;
            if let Some(outcome) = locked.ops.take(op) {
                break Some(outcome);
            }
            let now = self.now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                break None;
            }
            cell.word.reset();
            let is_long = served && look.is_some_and(|look: Look| now.since(look.began) > ANSWER_LATE);
            match self.role(locked, op, now, is_long) {
                Role::Park => {
                    let timeout = deadline.map(|deadline| deadline.since(now).to_std());
                    locked.unlocked(|| cell.word.park(timeout));
                }
                Role::Receive => {
                    let look = *look.get_or_insert_with(|| self.choose(locked, now));
                    let Kit { buffer, bell } = kit.get_or_insert_with(|| self.take_kit(locked, op));
                    let until = self.due(locked).min(deadline.unwrap_or(Time(u64::MAX)));
                    let (thread, look) = (Receiver::Waiter(op), Some(look));
                    let seeker = Seeker { thread, word: &cell.word, look, until };
                    self.receive(locked, &seeker, buffer, |until| self.sleep_at_socket(bell, until));
                }
            }
        };
        // A full stock lets it go.
        kit.map(|kit| self.kits.push(kit));
        let now = self.now();
        locked.waited_until = now;
        if let Some(look) = look {
            locked.policy.learn(look, now.since(look.began));
        }
        // When it has used what has come of a stream, it will be back as well.
        let back_soon = locked.reception.receiver() == Receiver::Waiter(op)
            && (locked.policy.lease.begins(now) || locked.awaited() == Awaited::Stream);
        let due = self.due(locked);
        locked.reception.end(op, now, back_soon, due);
        outcome
    }

    /// Whether a thread that waits receives, or parks.
    pub(super) fn role(&self, locked: &mut RuntimeState, op: OpId, now: Time, is_long: bool) -> Role {
        if is_long && locked.reception.long(op, self.due(locked)) {
            return Role::Park;
        }
        let this = Receiver::Waiter(op);
        let received = locked.reception.receiver() == this;
        let role = locked.reception.begin(op);
        if role == Role::Receive && !received {
            locked.policy.lease.ends(now);
        }
        role
    }

    /// How to wait for the answer.
    fn choose(&self, locked: &mut Entry<'_>, now: Time) -> Look {
        let awaited = locked.awaited();
        let Choice { way, elsewhere } = locked.policy.choose(now, awaited);
        if elsewhere {
            // Without the lock: it may take until another thread's time slice is over.
            locked.unlocked(|| self.affinity.change());
        }
        Look { way, began: if elsewhere { self.now() } else { now }, awaited }
    }

    fn take_kit(&self, locked: &mut RuntimeState, op: OpId) -> Kit {
        let kit = self.kits.pop().map_or_else(Kit::new, Ok);
        let kit = kit.unwrap_or_else(|error| exit::die(format_args!("a thread cannot receive: {error}")));
        locked.ops.set_bell(op, &kit.bell);
        kit
    }
}
