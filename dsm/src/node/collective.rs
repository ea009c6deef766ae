//! Collective operations: each rank brings a value, rank 0 gathers all and sends every rank the result.
//!
//! Values travel as calls between ranks, 2(n-1) of them in two hops, and wait here until the rank takes
//! them; no region is made. An operation is named by its number, which each rank counts for itself, and
//! carries a description of what the rank called, so that ranks that call different operations are told so.
//! No rank starts an operation before its last one has ended everywhere but for the result's delivery: so
//! what waits here is at most one value a rank, and one result.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::control_stubs::{RankCalls, RankClient};
use super::leaving::current_thread;
use super::{Node, Runtime, exit, to_error};
use crate::coherence::{Failure, NodeSet};
use crate::config::node::{LONG_WAIT, QUESTION_MAX};
use crate::config::rpc::COLLECTIVE_VALUE_MAX;
use crate::error::{Error, Result};
use crate::fork;
use crate::membership::Kind;
use crate::rpc::{self, Channel, PeerId};

/// The rank that gathers.
const HUB: u32 = 0;

/// What has come for collective operations and was not taken yet.
#[derive(Default)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    /// Operations that have begun here; the number of the present one, if there is one.
    number: u64,
    /// The present operation as this rank called it.
    present: Option<String>,
    /// By operation and rank.
    letters: BTreeMap<(u64, u32), Letter>,
    /// How many members have died or left.
    departures: u64,
    /// Ranks that leave and bring nothing any more. They stay members until all ranks leave.
    leaving: BTreeSet<u32>,
    /// This node goes on no longer: nothing new comes.
    ended: bool,
}

/// What a rank brings, or what rank 0 sends back.
struct Letter {
    /// The operation as the sender called it.
    what: String,
    value: std::result::Result<Vec<u8>, Refusal>,
}

/// Why an operation has failed, for every rank.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// In words.
    Failed(String),
    /// This rank has left and brings nothing.
    Lacks(u32),
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal::Failed(why)
    }
}

/// A rank, and its process: its node's id may be another program's by now.
type Of = (u32, PeerId);

/// Where a wait for letters stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Progress {
    Complete,
    Late,
    /// This rank's process is no more, or has left, and nothing has come of it.
    Gone(PeerId),
    /// A member has died or left since.
    Departed,
    Ended,
}

impl Mailbox {
    /// Takes in what a rank sends. An error if it is not for the present operation or the next one.
    pub(super) fn put(
        &self,
        number: u64,
        rank: u32,
        what: &str,
        value: std::result::Result<&[u8], Refusal>,
    ) -> std::result::Result<(), String> {
        let mut state = self.state.lock();
        if !(state.number..=state.number + 1).contains(&number) {
            return Err(format!("rank {rank} is at operation {number}, this rank at {}", state.number));
        }
        let value = value.map(<[u8]>::to_vec);
        state.letters.insert((number, rank), Letter { what: what.to_owned(), value });
        self.arrived.notify_all();
        Ok(())
    }

    /// This node goes on no longer.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.arrived.notify_all();
    }

    /// A member has died or left: the core knows it no more.
    pub(super) fn note_departure(&self) {
        self.state.lock().departures += 1;
        self.arrived.notify_all();
    }

    /// A rank leaves, as a member that others need no more than its memory.
    fn note_leaving(&self, rank: u32) {
        let mut state = self.state.lock();
        state.leaving.insert(rank);
        state.departures += 1;
        self.arrived.notify_all();
    }

    fn is_leaving(&self, rank: u32) -> bool {
        self.state.lock().leaving.contains(&rank)
    }

    fn departures(&self) -> u64 {
        self.state.lock().departures
    }

    /// The operation that this rank is in, as it called it.
    pub(super) fn present(&self) -> Option<String> {
        self.state.lock().present.clone()
    }

    fn begin(&self, what: &str) -> Option<u64> {
        let mut state = self.state.lock();
        if state.present.is_some() {
            return None;
        }
        (state.present, state.number) = (Some(what.to_owned()), state.number + 1);
        Some(state.number)
    }

    fn finish(&self, number: u64) {
        let mut state = self.state.lock();
        state.present = None;
        state.letters.retain(|&(of, _), _| of > number);
    }

    /// Those of `ranks` that have sent nothing for an operation.
    fn missing(&self, number: u64, ranks: Range<u32>) -> Vec<u32> {
        let state = self.state.lock();
        ranks.filter(|&rank| !state.letters.contains_key(&(number, rank))).collect()
    }

    fn has_begun(&self, number: u64) -> bool {
        self.state.lock().number >= number
    }

    /// Waits until all of these have sent something for an operation, or until `until` if that is given. Ends
    /// early if one of the missing is in `gone`, as the members were when there had been `departures`.
    fn wait(
        &self,
        number: u64,
        all: &[Of],
        (gone, departures): (&[PeerId], u64),
        until: Option<Instant>,
    ) -> Progress {
        let mut state = self.state.lock();
        loop {
            let missing = |&&(rank, _): &&Of| !state.letters.contains_key(&(number, rank));
            if all.iter().find(missing).is_none() {
                return Progress::Complete;
            }
            if state.ended {
                return Progress::Ended;
            }
            if let Some(&(_, peer)) = all.iter().filter(missing).find(|(_, peer)| gone.contains(peer)) {
                return Progress::Gone(peer);
            }
            if state.departures != departures {
                return Progress::Departed;
            }
            match until {
                None => self.arrived.wait(&mut state),
                Some(until) if self.arrived.wait_until(&mut state, until).timed_out() => {
                    return Progress::Late;
                }
                Some(_) => {}
            }
        }
    }

    fn take(&self, number: u64, rank: u32) -> Option<Letter> {
        self.state.lock().letters.remove(&(number, rank))
    }
}

/// The end of an operation, however it ends.
struct Operation<'a> {
    mailbox: &'a Mailbox,
    number: u64,
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.mailbox.finish(self.number);
    }
}

impl Node {
    /// Brings `value` to rank 0, which makes the result of all values, by rank, and sends it to every rank.
    /// `what` describes the operation; all ranks must call the same. No rank returns before all have called.
    pub fn gather(
        &self,
        what: &str,
        value: Vec<u8>,
        combine: impl FnOnce(Vec<Vec<u8>>) -> std::result::Result<Vec<u8>, String>,
    ) -> Result<Vec<u8>> {
        fork::check()?;
        let result = self.runtime.gather(what, value, combine);
        if result.is_err() {
            // It may have failed because other ranks end too.
            self.runtime.sleep_if_ending(current_thread);
        }
        result
    }
}

impl Runtime {
    fn gather(
        &self,
        what: &str,
        value: Vec<u8>,
        combine: impl FnOnce(Vec<Vec<u8>>) -> std::result::Result<Vec<u8>, String>,
    ) -> Result<Vec<u8>> {
        let Kind::Rank { rank, ranks, .. } = self.kind else {
            return Err(Error::Invalid("a daemon takes part in no collective operation".into()));
        };
        if value.len() > COLLECTIVE_VALUE_MAX {
            return Err(Error::Invalid(format!(
                "{what}: {} bytes, more than the {COLLECTIVE_VALUE_MAX} that a value may have; larger data belong in a region",
                value.len()
            )));
        }
        let mailbox = &self.calls.mailbox;
        let number = mailbox.begin(what).ok_or_else(|| {
            Error::Invalid(format!(
                "rank {rank}: {what}: another thread of this rank is in a collective operation"
            ))
        })?;
        let operation = Operation { mailbox, number };
        let all = self
            .with_machine(|machine| (0..).zip(machine.ranks_in_order().iter().copied()).collect::<Vec<Of>>());
        if rank != HUB {
            self.bring(&operation, what, &value)?;
            self.wait_for_letters(&operation, what, &all[..1])?;
            let letter = mailbox.take(number, HUB).ok_or(Error::Left)?;
            return letter.value.map_err(|refusal| self.refused(refusal));
        }
        if let Err(error) = self.wait_for_letters(&operation, what, &all[1..]) {
            // The others wait for this rank alone, and would be told that this rank has left.
            if let Error::NodeLeft { node, .. } = error
                && let Some(&(rank, _)) = all.iter().find(|(_, peer)| peer.node == node)
            {
                self.send_results(&operation, what, &Err(Refusal::Lacks(rank)), ranks)?;
            }
            return Err(error);
        }
        let gathered = self.open_letters(&operation, what, value, ranks);
        // Whatever the closure has changed is the caller's, which gets the panic.
        let combined = catch_unwind(AssertUnwindSafe(|| {
            gathered.and_then(|values| combine(values).map_err(Refusal::Failed))
        }));
        match combined {
            Ok(result) => {
                self.send_results(&operation, what, &result, ranks)?;
                result.map_err(|refusal| self.refused(refusal))
            }
            Err(panic) => {
                let why = format!("{what}: the closure panicked on rank {HUB}, so no rank gets a result");
                // The panic is the cause, whatever becomes of the word to the others.
                let _ = self.send_results(&operation, what, &Err(Refusal::Failed(why)), ranks);
                resume_unwind(panic)
            }
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        match refusal {
            Refusal::Failed(why) => Error::Invalid(why),
            Refusal::Lacks(rank) => {
                let node =
                    self.with_machine(|machine| Some(machine.ranks_in_order().get(rank as usize)?.node));
                node.map_or(Error::Left, |node| self.failure(Failure::NodeDied(node)))
            }
        }
    }

    fn bring(&self, operation: &Operation<'_>, what: &str, value: &[u8]) -> Result<()> {
        // One that has left, or died, sends no result; the wait for that hears so.
        let Ok(hub) = self.rank_peer(HUB) else { return Ok(()) };
        let client = RankClient::new(Channel::to(&self.calls.endpoint, hub));
        self.unless_gone(client.bring(operation.number, what, value))
    }

    /// The values by rank. An error names two ranks that called different operations.
    fn open_letters(
        &self,
        operation: &Operation<'_>,
        what: &str,
        own: Vec<u8>,
        ranks: u32,
    ) -> std::result::Result<Vec<Vec<u8>>, Refusal> {
        let mut values = vec![own];
        for rank in 1..ranks {
            let letter =
                operation.mailbox.take(operation.number, rank).ok_or("the node has left".to_owned())?;
            if letter.what != what {
                return Err(format!("rank {rank} calls {}, and rank {HUB} calls {what}", letter.what).into());
            }
            values.push(letter.value?);
        }
        Ok(values)
    }

    fn send_results(
        &self,
        operation: &Operation<'_>,
        what: &str,
        result: &std::result::Result<Vec<u8>, Refusal>,
        ranks: u32,
    ) -> Result<()> {
        let mut calls = Vec::new();
        for rank in 1..ranks {
            // One that leaves, has left, or died, waits for nothing any more.
            if self.calls.mailbox.is_leaving(rank) {
                continue;
            }
            let Ok(peer) = self.rank_peer(rank) else { continue };
            let to = RankCalls::new(Channel::to(&self.calls.endpoint, peer));
            calls.push(match result {
                Ok(value) => to.bring(operation.number, what, value),
                Err(Refusal::Failed(why)) => to.refuse(operation.number, why),
                Err(Refusal::Lacks(rank)) => to.lacks(operation.number, *rank),
            });
        }
        // Wait for all: a call that is dropped is cancelled.
        let ends: Vec<_> = calls.into_iter().map(|call| call.wait()).collect();
        ends.into_iter().try_for_each(|end| self.unless_gone(end))
    }

    /// A rank may leave, or die, once it has what it waits for; so its end is no failure of a call to it. If
    /// this rank waits for something of it, that wait hears of its end.
    fn unless_gone(&self, end: rpc::Result<()>) -> Result<()> {
        match end {
            Ok(()) => Ok(()),
            Err(error) => {
                match (self.with_machine(|machine| machine.lifecycle().why().cloned()), &error.kind) {
                    (Some(fatal), _) => Err(to_error(&fatal)),
                    (None, rpc::ErrorKind::ServerDied { .. } | rpc::ErrorKind::Unreachable { .. }) => Ok(()),
                    (None, _) => Err(error.into()),
                }
            }
        }
    }

    /// Waits until these ranks have sent what they must. After a long wait one line says which have not.
    fn wait_for_letters(&self, operation: &Operation<'_>, what: &str, all: &[Of]) -> Result<()> {
        let (mailbox, number) = (operation.mailbox, operation.number);
        let mut until = Some(Instant::now() + LONG_WAIT.to_std());
        loop {
            // Counted before the members are looked at: a later departure is not missed.
            let departures = mailbox.departures();
            let gone = self.gone_of(all);
            match mailbox.wait(number, all, (&gone, departures), until) {
                Progress::Complete => return Ok(()),
                Progress::Departed => {}
                Progress::Late => {
                    let who = self.with_machine(|machine| machine.intro_name());
                    let seconds = LONG_WAIT.0 / 1_000_000_000;
                    let missing = self.missing_letters(number, all);
                    let whom = self.describe_ranks(missing, self.now() + QUESTION_MAX);
                    exit::tell(format_args!("{who} has waited for {seconds} s for {what}, {whom}"));
                    until = None;
                }
                Progress::Gone(peer) => {
                    return match self.with_machine(|machine| machine.lifecycle().why().cloned()) {
                        Some(fatal) => Err(to_error(&fatal)),
                        None => Err(self.failure(Failure::NodeDied(peer.node))),
                    };
                }
                Progress::Ended => return Err(self.end_of_node()),
            }
        }
    }

    /// Those of these ranks that leave, or whose processes are members no more.
    fn gone_of(&self, all: &[Of]) -> Vec<PeerId> {
        let mailbox = &self.calls.mailbox;
        let is_member = |peer: PeerId| self.with_machine(|machine| machine.peer(peer.node) == Some(peer));
        let is_gone = |&&(rank, peer): &&Of| mailbox.is_leaving(rank) || !is_member(peer);
        all.iter().filter(is_gone).map(|&(_, peer)| peer).collect()
    }

    /// This rank takes part in no collective operation any more. The calls tell the other ranks so, as long as
    /// they are kept.
    pub(super) fn tell_that_it_leaves(&self) -> Vec<rpc::Call<()>> {
        self.calls.mailbox.end();
        let Kind::Rank { rank: own, ranks, .. } = self.kind else { return Vec::new() };
        let others = (0..ranks).filter(|rank| *rank != own).filter_map(|rank| self.rank_peer(rank).ok());
        others.map(|peer| RankCalls::new(Channel::to(&self.calls.endpoint, peer)).leaves()).collect()
    }

    /// Takes in that a rank of this program leaves.
    pub(super) fn take_leave_of(&self, from: PeerId) -> std::result::Result<(), rpc::Error> {
        let rank = self.rank_at(from).ok_or_else(|| rpc::Error::remote("only a rank of the program may"))?;
        self.calls.mailbox.note_leaving(rank);
        Ok(())
    }

    /// The nodes that an operation waits for, as far as rank 0 says.
    fn missing_letters(&self, number: u64, all: &[Of]) -> NodeSet {
        let Kind::Rank { rank, ranks, .. } = self.kind else { return NodeSet::EMPTY };
        let missing = if rank == HUB {
            self.calls.mailbox.missing(number, 1..ranks)
        } else {
            let asked = self.rank_peer(HUB).map(|hub| {
                let channel = Channel::to(&self.calls.endpoint, hub).with_deadline(QUESTION_MAX);
                RankClient::new(channel).missing(number)
            });
            asked
                .ok()
                .and_then(std::result::Result::ok)
                .unwrap_or_else(|| all.iter().map(|of| of.0).collect())
        };
        let peers = self.with_machine(|machine| machine.ranks_in_order().to_vec());
        missing.into_iter().filter_map(|rank| peers.get(rank as usize)).map(|peer| peer.node).collect()
    }

    /// At rank 0: the ranks that an operation waits for, itself included if it has not begun.
    pub(super) fn missing_ranks(&self, number: u64) -> Vec<u32> {
        let Kind::Rank { ranks, .. } = self.kind else { return Vec::new() };
        let own = (!self.calls.mailbox.has_begun(number)).then_some(HUB);
        own.into_iter().chain(self.calls.mailbox.missing(number, 1..ranks)).collect()
    }

    /// A rank's process, while it is a member.
    fn rank_peer(&self, rank: u32) -> Result<PeerId> {
        self.with_machine(|machine| {
            let peer = *machine.ranks_in_order().get(rank as usize)?;
            machine.peer(peer.node).filter(|member| *member == peer)
        })
        .ok_or_else(|| self.end_of_node())
    }

    /// Takes in what a rank of this program sends for a collective operation.
    pub(super) fn take_letter(
        &self,
        from: PeerId,
        number: u64,
        what: &str,
        value: std::result::Result<&[u8], Refusal>,
    ) -> std::result::Result<(), rpc::Error> {
        let rank = self.rank_at(from).ok_or_else(|| rpc::Error::remote("only a rank of the program may"))?;
        self.calls.mailbox.put(number, rank, what, value).map_err(rpc::Error::remote)
    }

    fn rank_at(&self, peer: PeerId) -> Option<u32> {
        let rank =
            self.with_machine(|machine| machine.ranks_in_order().iter().position(|rank| *rank == peer));
        rank.map(|rank| rank as u32)
    }

    fn end_of_node(&self) -> Error {
        self.with_machine(|machine| machine.lifecycle().why().cloned())
            .map_or(Error::Left, |fatal| to_error(&fatal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Incarnation, NodeId};

    #[test]
    fn what_a_rank_brings_early_waits_and_what_it_brings_late_is_refused() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.put(1, 3, "sum", Ok(&[7])), Ok(()), "rank 3 is ahead");
        assert!(mailbox.put(2, 3, "sum", Ok(&[7])).is_err(), "but nobody is two ahead");
        assert_eq!(mailbox.begin("sum"), Some(1));
        assert_eq!(mailbox.present().as_deref(), Some("sum"));
        assert_eq!(mailbox.begin("sum"), None, "one operation at a time");
        assert_eq!(mailbox.missing(1, 1..4), [1, 2]);
        let peer = |node| PeerId { node: NodeId(node), incarnation: Incarnation(1) };
        let all = [1, 2, 3].map(|rank| (rank, peer(rank as u16)));
        assert_eq!(mailbox.wait(1, &all[2..], (&[], 0), None), Progress::Complete);
        assert_eq!(mailbox.take(1, 3).and_then(|letter| letter.value.ok()), Some(vec![7]));
        mailbox.finish(1);
        assert_eq!(mailbox.present(), None);
        assert_eq!(mailbox.begin("sum"), Some(2));
        assert!(mailbox.put(1, 2, "sum", Ok(&[7])).is_err(), "that one has ended");
        mailbox.note_departure();
        assert_eq!(mailbox.wait(2, &all, (&[], 0), None), Progress::Departed, "who it was must be found out");
        assert_eq!(mailbox.wait(2, &all, (&[peer(2)], 1), None), Progress::Gone(peer(2)));
        let successor = PeerId { incarnation: Incarnation(2), ..peer(2) };
        let late = Some(Instant::now());
        assert_eq!(mailbox.wait(2, &all, (&[successor], 1), late), Progress::Late, "its id is another's now");
        mailbox.end();
        assert_eq!(mailbox.wait(2, &all, (&[], 1), None), Progress::Ended);
    }
}
