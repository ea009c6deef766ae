//! Locks and barriers as a program's threads wait for them: with deadlines, and with a line on standard
//! error once a wait has been long.
//!
//! The waiting node does not know which rank is late; the home of the lock, or of the barriers, does. It is
//! asked by calls of the system's own interfaces, which are served even when every worker waits.

use std::time::Instant;

use super::control_stubs::NodeClient;
use super::entry::Entry;
use super::leaving::current_thread;
use super::local::LockHandle;
use super::wait_times::WaitKind;
use super::{LAST_BARRIER, Node, PROGRAM_BARRIER, Runtime, RuntimeState, exit, to_error};
use crate::coherence::{Attempt, BarrierId, Coherence, Failure, Input, LockId, NodeSet, OpId};
use crate::config::node::{LONG_WAIT, QUESTION_MAX};
use crate::error::{Error, Result};
use crate::fork;
use crate::machine::{Command, Event, Outcome};
use crate::membership::{Kind, Member};
use crate::page::{NodeId, PageId, Span, Time};
use crate::rpc::Channel;

/// What a thread waits for, and other ranks give or bring about.
#[derive(Clone, Copy)]
enum Goal {
    Lock(LockId),
    Barrier(BarrierId),
}

impl Goal {
    fn kind(self) -> WaitKind {
        match self {
            Goal::Lock(_) => WaitKind::Lock,
            Goal::Barrier(_) => WaitKind::Barrier,
        }
    }
}

impl Node {
    /// Takes a lock; returns its fencing token. An error if this thread has it, or if it does not come
    /// before `until`; the request is withdrawn then.
    pub fn lock(&self, handle: &LockHandle, until: Option<Instant>) -> Result<u64> {
        fork::check()?;
        if let Some(token) = handle.try_take(self.runtime.coarse_now()) {
            return Ok(token);
        }
        self.check_not_left()?;
        if handle.is_held_by_this_thread() {
            return Err(self.runtime.relock(handle.lock));
        }
        let lock = handle.lock;
        let until = until.map(|until| self.runtime.time_of(until));
        let token = self.runtime.wait_for_ranks(Goal::Lock(lock), until, |op| {
            Event::Thread(Input::Lock { op, lock, attempt: Attempt::Wait })
        })?;
        handle.taken(self.runtime.coarse_now());
        Ok(token)
    }

    /// Takes a lock if it is free; returns its fencing token then.
    pub fn try_lock(&self, handle: &LockHandle) -> Result<Option<u64>> {
        fork::check()?;
        if let Some(token) = handle.try_take(self.runtime.coarse_now()) {
            return Ok(Some(token));
        }
        let lock = handle.lock;
        let input = |op| Input::Lock { op, lock, attempt: Attempt::Try };
        match self.runtime.call(|op| Event::Thread(input(op)))? {
            Outcome::Coherence(Ok(token)) => {
                handle.taken(self.runtime.coarse_now());
                Ok(Some(token))
            }
            Outcome::Coherence(Err(Failure::LockBusy)) => Ok(None),
            Outcome::Coherence(Err(failure)) => Err(self.runtime.failure(failure)),
            Outcome::Region(_) | Outcome::Membership | Outcome::Left(_) => Err(Error::Left),
        }
    }

    /// Gives a lock back. In a forked child it stays with the parent.
    pub fn unlock(&self, handle: &LockHandle) {
        if fork::is_child() {
            return;
        }
        if !handle.try_give() {
            self.runtime.cast(Input::Unlock { lock: handle.lock });
        }
    }

    /// Waits until all ranks of the program have called it, or until `until`: the arrival is withdrawn
    /// then, and no rank goes on because of it.
    pub fn barrier(&self, until: Option<Instant>) -> Result<()> {
        let until = until.map(|until| self.runtime.time_of(until));
        self.runtime.barrier(PROGRAM_BARRIER, until)
    }
}

impl Runtime {
    pub(super) fn barrier(&self, index: u32, until: Option<Time>) -> Result<()> {
        let Kind::Rank { program, .. } = self.kind else {
            return Err(Error::Invalid("a daemon has no barrier".into()));
        };
        let barrier = BarrierId { program, index };
        self.wait_for_ranks(Goal::Barrier(barrier), until, |op| Event::Command {
            op,
            command: Command::Barrier(barrier),
        })
        .map(drop)
    }

    pub(super) fn time_of(&self, at: Instant) -> Time {
        self.now() + Span::from(at.saturating_duration_since(Instant::now()))
    }

    /// Starts an operation that ends when other ranks let it, and waits for it. After a long wait one line
    /// on standard error says which ranks it waits for.
    fn wait_for_ranks(
        &self,
        goal: Goal,
        until: Option<Time>,
        event: impl FnOnce(OpId) -> Event<'static>,
    ) -> Result<u64> {
        fork::check()?;
        let (cell, began, outcome) = {
            self.sleep_if_ending(current_thread);
            let mut locked = self.enter();
            check(&locked)?;
            let began = self.now();
            let cell = locked.ops.begin();
            locked.wait_clock.begin(goal.kind(), began);
            self.give(&mut locked, began, event(cell.op()));
            self.flush(&mut locked, began);
            let first = until.map_or(began + LONG_WAIT, |until| until.min(began + LONG_WAIT));
            let outcome = self.wait_until(&mut locked, &cell, Some(first));
            self.check_wait(&mut locked, (goal, began), outcome.is_some())?;
            (cell, began, outcome)
        };
        if let Some(outcome) = outcome {
            return self.result(outcome);
        }
        if until.is_none_or(|until| self.now() < until) {
            let who = self.with_machine(|machine| machine.intro_name());
            let seconds = self.now().since(began).0 / 1_000_000_000;
            let whom = self.describe(goal, QUESTION_MAX);
            exit::tell(format_args!("{who} has waited for {seconds} s for {whom}"));
            let mut locked = self.enter();
            let outcome = self.wait_until(&mut locked, &cell, until);
            self.check_wait(&mut locked, (goal, began), outcome.is_some())?;
            if let Some(outcome) = outcome {
                return self.result(outcome);
            }
        }
        let outcome = {
            let mut locked = self.enter();
            // It may have ended since; then nothing is withdrawn.
            let op = cell.op();
            if !cell.is_done() {
                let input = match goal {
                    Goal::Lock(lock) => Input::AbandonLock { op, lock },
                    Goal::Barrier(barrier) => Input::WithdrawBarrier { op, barrier },
                };
                self.tell(&mut locked, Event::Thread(input));
            }
            let outcome = self.wait(&mut locked, &cell, None);
            self.check_wait(&mut locked, (goal, began), true)?;
            outcome.ok_or(Error::Left)?
        };
        if let Outcome::Coherence(Err(Failure::Abandoned)) = outcome {
            let waited = self.now().since(began);
            // No question takes longer than the wait did.
            let what = self.describe(goal, waited.min(QUESTION_MAX));
            return Err(Error::Timeout { what, after_ms: waited.0 / 1_000_000 });
        }
        self.result(outcome)
    }

    /// As [`check_end`](Self::check_end); a wait that has ended, or that the node's end ends, is counted.
    fn check_wait(&self, locked: &mut Entry<'_>, (goal, began): (Goal, Time), has_ended: bool) -> Result<()> {
        let until = locked.waited_until;
        let checked = self.check_end(locked);
        if has_ended || checked.is_err() {
            locked.wait_clock.end(goal.kind(), began, until);
        }
        checked
    }

    /// After a wait: an error if the node cannot go on. What a wait failed of while the process ends may be
    /// that other ranks end too; a user would read that error.
    fn check_end(&self, locked: &mut Entry<'_>) -> Result<()> {
        if self.is_ending() {
            locked.unlocked(|| self.sleep_if_ending(current_thread));
        }
        locked.machine.lifecycle().why().map_or(Ok(()), |why| Err(to_error(why)))
    }

    fn result(&self, outcome: Outcome) -> Result<u64> {
        match outcome {
            Outcome::Coherence(Ok(value)) => Ok(value),
            Outcome::Coherence(Err(failure)) => Err(self.failure(failure)),
            Outcome::Region(_) | Outcome::Membership | Outcome::Left(_) => Err(Error::Left),
        }
    }

    fn relock(&self, lock: LockId) -> Error {
        let who = self.with_machine(|machine| machine.intro_name());
        let name = self.lock_name(lock);
        Error::Invalid(format!("{who}: this thread has {name} already, and would wait for itself for ever"))
    }

    /// What a thread waits for, and for which ranks, as far as can be found out within about `time`.
    fn describe(&self, goal: Goal, time: Span) -> String {
        match goal {
            Goal::Lock(lock) => format!("{}, {}", self.lock_name(lock), self.describe_holder(lock, time)),
            Goal::Barrier(barrier) => {
                format!("{}, {}", self.barrier_name(barrier), self.describe_missing(barrier, time))
            }
        }
    }

    /// Barriers of a program are counted from 1, as each rank has come to them.
    fn barrier_name(&self, barrier: BarrierId) -> String {
        if barrier.index == LAST_BARRIER {
            return "the end of all ranks".into();
        }
        let passed = self.with_coherence(|core| core.barriers_passed(barrier)).unwrap_or(0);
        format!("barrier {}", passed + 1)
    }

    fn lock_name(&self, lock: LockId) -> String {
        let name = self.with_machine(|machine| {
            let mut regions = machine.membership()?.regions();
            regions.find(|record| record.info.contains(lock.0)).map(|record| record.name.clone())
        });
        name.map_or_else(
            || "a lock".into(),
            |name| format!("the lock `{}`", name.trim_start_matches("mutex ")),
        )
    }

    fn describe_holder(&self, lock: LockId, time: Span) -> String {
        let until = self.now() + time;
        let Some(home) = self.with_coherence(|core| core.lock_home(lock)).flatten() else {
            return "which is gone".into();
        };
        let queue = match self.client_of(home, time) {
            None => self.lock_queue(lock.0),
            Some(client) => match client.lock_queue(lock.0.0) {
                Ok(queue) => queue.into_iter().map(NodeId).collect(),
                Err(_) => return format!("of which {} says nothing", self.name(home)),
            },
        };
        let mut silent = None;
        for node in queue {
            let held = match self.client_of(node, until.since(self.now())) {
                None => self.lock_held_for(lock.0),
                Some(client) => match client.lock_held_ms(lock.0.0) {
                    Ok(held) => held.map(Span::from_ms),
                    Err(_) => {
                        silent.get_or_insert(node);
                        None
                    }
                },
            };
            if let Some(held) = held {
                let seconds = held.0 as f64 / 1e9;
                return format!("held by {} for {seconds:.1} s", self.name(node));
            }
            if self.now() >= until {
                break;
            }
        }
        match silent {
            Some(node) => format!("of which {} says nothing", self.name(node)),
            None => "which is on its way between nodes".into(),
        }
    }

    fn describe_missing(&self, barrier: BarrierId, time: Span) -> String {
        let until = self.now() + time;
        let Some(home) = self.with_coherence(|core| core.barrier_home(barrier)).flatten() else {
            return "which is gone".into();
        };
        let missing = match self.client_of(home, time) {
            None => self.barrier_missing(barrier),
            Some(client) => match client.barrier_missing(barrier.program, barrier.index) {
                Ok(missing) => missing.into_iter().map(NodeId).collect(),
                Err(_) => return format!("of which {} says nothing", self.name(home)),
            },
        };
        // A rank that asks has come itself, also if it has withdrawn its arrival before it asks.
        let me = self.with_machine(|machine| machine.membership()?.me());
        self.describe_ranks(me.map_or(missing, |me| missing.without(me)), until)
    }

    /// Which ranks have not come, and in what else they wait, as far as that can be found out until `until`.
    pub(super) fn describe_ranks(&self, missing: NodeSet, until: Time) -> String {
        let nodes: Vec<NodeId> = missing.iter().collect();
        let elsewhere = self.describe_elsewhere(&nodes, until);
        if let [node] = nodes[..] {
            return format!("where {} is missing{elsewhere}", self.name(node));
        }
        let (ranks, of) = self.with_machine(|machine| {
            let ranks = (0_u32..).zip(machine.ranks_in_order());
            let missing = ranks.filter(|(_, peer)| missing.contains(peer.node)).map(|(rank, _)| rank);
            (missing.collect::<Vec<u32>>(), machine.ranks().len())
        });
        match ranks[..] {
            [] => "for which all ranks have come by now".into(),
            _ => format!("where ranks {ranks:?} of {of} are missing{elsewhere}"),
        }
    }

    /// The first of these ranks that waits in a barrier or a collective operation, and in which; empty if none does
    /// as far as is known. Ranks that wait in different ones wait for ever: that is a mistake of the program.
    fn describe_elsewhere(&self, nodes: &[NodeId], until: Time) -> String {
        for &node in nodes {
            let waits = match self.client_of(node, until.since(self.now())) {
                None => self.waits_in(),
                Some(client) => client.waits_in().unwrap_or_default(),
            };
            if !waits.is_empty() {
                let rank = self.with_machine(|machine| {
                    machine.ranks_in_order().iter().position(|peer| peer.node == node)
                });
                let rank = rank.map_or_else(|| node.to_string(), |rank| format!("rank {rank}"));
                return format!("; {rank} waits in {}", waits.join(" and "));
            }
            if self.now() >= until {
                break;
            }
        }
        String::new()
    }

    fn name(&self, node: NodeId) -> String {
        self.with_machine(|machine| {
            let member = machine.membership().and_then(|membership| membership.view().member(node));
            member.map_or_else(|| machine.name(node), Member::describe)
        })
    }

    fn with_coherence<T>(&self, look: impl FnOnce(&Coherence) -> T) -> Option<T> {
        self.with_machine(|machine| machine.coherence().map(look))
    }

    /// The way to what another node knows; `None` for this node.
    fn client_of(&self, node: NodeId, deadline: Span) -> Option<NodeClient> {
        let peer = self.with_machine(|machine| {
            let other = machine.membership()?.me() != Some(node);
            machine.peer(node).filter(|_| other)
        })?;
        Some(NodeClient::new(Channel::to(&self.calls.endpoint, peer).with_deadline(deadline)))
    }
}

/// What this node knows of locks and barriers, for the nodes that wait.
impl Runtime {
    /// As [`Coherence::lock_queue`].
    pub(super) fn lock_queue(&self, lock: PageId) -> Vec<NodeId> {
        self.with_coherence(|core| core.lock_queue(LockId(lock))).unwrap_or_default()
    }

    /// How long a thread of this node has had a lock.
    pub(super) fn lock_held_for(&self, lock: PageId) -> Option<Span> {
        let since = self.with_locked(|locked| locked.words.held_since(lock))?;
        Some(self.now().since(since))
    }

    /// The barriers and collective operations that this rank's threads wait in, in words.
    pub(super) fn waits_in(&self) -> Vec<String> {
        let barriers = self.with_coherence(Coherence::barriers_waited_at).unwrap_or_default();
        let barriers = barriers.into_iter().map(|barrier| self.barrier_name(barrier));
        barriers.chain(self.calls.mailbox.present()).collect()
    }

    /// As [`Coherence::barrier_missing`].
    pub(super) fn barrier_missing(&self, barrier: BarrierId) -> NodeSet {
        self.with_coherence(|core| core.barrier_missing(barrier)).unwrap_or(NodeSet::EMPTY)
    }
}

/// An error if the node cannot begin anything.
fn check(locked: &RuntimeState) -> Result<()> {
    match locked.machine.lifecycle().why() {
        Some(fatal) => Err(to_error(fatal)),
        None if locked.machine.lifecycle().is_closed() => Err(Error::Left),
        None => Ok(()),
    }
}
